//! What kinds of file systems can promise.

use std::cell::Cell;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::StatFs;
use rustix::io::Errno;

use crate::sync::lock;

/// How well changes on a file system can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watching {
    /// Every change is told, and any two changes of a file have different change times.
    Precise,
    /// Every change is told.
    Coarse,
    /// Changes may be made by others that this machine hears nothing of.
    Never,
}

/// Numbers of file systems whose content is kept elsewhere and shared, or made up on reading.
const ELSEWHERE: &[u32] = &[
    0x6969,      // nfs
    0xff53_4d42, // cifs
    0xfe53_4d42, // smb2
    0x517b,      // smb
    0x6573_5546, // fuse
    0x0102_1997, // 9p
    0x00c3_6400, // ceph
    0x0bd0_0bd0, // lustre
    0x5346_414f, // afs
    0x6b41_4653, // kafs
    0x7461_636f, // ocfs2
    0x0116_1970, // gfs2
    0x7375_7245, // coda
    0x2003_0528, // orangefs
    0xaad7_aaea, // panfs
    0x4750_4653, // gpfs
    0x786f_4256, // vboxsf
    0xbacb_acbc, // vmhgfs
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
];

/// Numbers of file systems that stamp each change anew once the last stamp has been seen, from Linux 6.13 on.
const FINE_STAMPS: &[u32] = &[
    0x0000_ef53, // ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
];

pub(crate) fn watching(directory: impl AsFd) -> Watching {
    let Ok(stat) = rustix::fs::fstatfs(directory) else {
        return Watching::Never;
    };
    let number = stat.f_type as u32;
    match () {
        () if ELSEWHERE.contains(&number) => Watching::Never,
        () if FINE_STAMPS.contains(&number) && kernel_is_at_least(6, 13) => Watching::Precise,
        () => Watching::Coarse,
    }
}

/// How many mounts are known to keep births or not. Beyond, they are looked at again.
const MOUNTS_MAX: usize = 64;

/// How long that is known of a mount whose number another may get.
const MOUNT_KNOWN_FOR: Duration = Duration::from_secs(10);

const OVERLAYFS: u32 = 0x794c_7630;

/// Where a file is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub device: (u32, u32),
    /// The mount's number, where the kernel tells it.
    pub mount: Option<u64>,
    /// No other mount ever has that number.
    pub is_unique: bool,
}

/// What is known of a mount, and since when.
#[derive(Clone, Copy)]
struct KnownMount {
    of: Mounted,
    keeps: bool,
    since: Instant,
}

impl KnownMount {
    fn says(&self, of: Mounted) -> Option<bool> {
        let holds = self.of == of && (of.is_unique || self.since.elapsed() < MOUNT_KNOWN_FOR);
        holds.then_some(self.keeps)
    }
}

/// Whether a file has its time of birth for as long as it exists. overlayfs tells that of the file in one of its layers: a
/// file or directory of a lower one gets another when it is first changed, and no other number. A file system that `look` cannot
/// tell of is none.
pub(crate) fn keeps_births(of: Mounted, look: impl FnOnce() -> Result<StatFs, Errno>) -> bool {
    thread_local! {
        static LAST: Cell<Option<KnownMount>> = const { Cell::new(None) };
    }
    static KNOWN: Mutex<Vec<KnownMount>> = Mutex::new(Vec::new());
    // What is on a disk, or another device, is no overlay.
    if of.device.0 != 0 {
        return true;
    }
    if let Some(keeps) = LAST.get().and_then(|last| last.says(of)) {
        return keeps;
    }
    let found = lock(&KNOWN).iter().find(|known| known.says(of).is_some()).copied();
    let known = match found {
        Some(known) => known,
        None => {
            let Ok(stat) = look() else { return true };
            let known = KnownMount { of, keeps: stat.f_type as u32 != OVERLAYFS, since: Instant::now() };
            let mut all = lock(&KNOWN);
            all.retain(|other| other.of != of);
            if all.len() == MOUNTS_MAX {
                all.clear();
            }
            all.push(known);
            known
        }
    };
    LAST.set(Some(known));
    known.keeps
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}
