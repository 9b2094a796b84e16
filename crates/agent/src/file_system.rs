//! What kinds of file systems can promise.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd;
use std::sync::Mutex;

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

/// How much of the list of mounts is read.
const MOUNTS_BYTES_MAX: u64 = 4 << 20;

/// A mount's number, where the kernel tells it, and the device of a file in it.
type MountedDevice = (Option<u64>, (u32, u32));

/// Whether a file has its time of birth for as long as it exists. overlayfs tells that of the file in one of its layers: a
/// file or directory of a lower one gets another when it is first changed, and no other number.
pub(crate) fn keeps_births(device: (u32, u32), mount: Option<u64>) -> bool {
    thread_local! {
        static LAST: Cell<Option<(MountedDevice, bool)>> = const { Cell::new(None) };
    }
    static KNOWN: Mutex<Vec<(MountedDevice, bool)>> = Mutex::new(Vec::new());
    // What is on a disk, or another device, is no overlay.
    if device.0 != 0 {
        return true;
    }
    let of = (mount, device);
    if let Some((last, keeps)) = LAST.get()
        && last == of
    {
        return keeps;
    }
    let mut known = lock(&KNOWN);
    let keeps = match known.iter().find(|(known, _)| *known == of) {
        Some((_, keeps)) => *keeps,
        None => {
            let keeps = !is_overlay(of);
            if known.len() == MOUNTS_MAX {
                known.clear();
            }
            known.push((of, keeps));
            keeps
        }
    };
    LAST.set(Some((of, keeps)));
    keeps
}

/// A file of a layer may be of a device of its own, which is in no list: the mount's number says more, from Linux 5.8 on.
fn is_overlay((mount, (major, minor)): MountedDevice) -> bool {
    let Ok(mounts) = std::fs::File::open("/proc/self/mountinfo") else { return false };
    let (mount, device) = (mount.map(|mount| mount.to_string()), format!("{major}:{minor}"));
    BufReader::new(mounts.take(MOUNTS_BYTES_MAX)).split(b'\n').map_while(Result::ok).any(|line| {
        let line = String::from_utf8_lossy(&line);
        let Some((place, what)) = line.split_once(" - ") else { return false };
        let mut place = place.split(' ');
        let is_it = match (&mount, place.next(), place.nth(1)) {
            (Some(mount), Some(number), _) => mount == number,
            (None, _, Some(listed)) => device == listed,
            _ => false,
        };
        is_it && what.split(' ').next() == Some("overlay")
    })
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}
