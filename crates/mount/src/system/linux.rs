//! Linux: the mount table, `mount`, inotify, `/proc`.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, StatxFlags, inotify};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use supervisor::descriptor::readable;
use tokio::io::unix::AsyncFd;

use super::{NoKernelMount, Served};
use crate::nfs;
use crate::nfs::limits::TRANSFER_BYTES_MAX;
use crate::nfs::mountpoint::{ATTRIBUTES_BELIEVED_S, MountError, RESEND_DS, SOURCE};
use crate::nfs::peer::{Peer, Stranger};

pub use crate::fuse::mountpoint::{AbortError, MountEntry, Mounts, TableError, UnmountError, unmount};

/// How one finds out what uses a mount.
pub(crate) const WHO_USES: &str = "fuser -vm";

/// What the kernel says of a mount without a server: no process holds the device any more, or the connection was aborted.
pub(crate) const GONE: &[Errno] = &[Errno::NOTCONN, Errno::CONNABORTED];

/// Asks the server of a mount for its root, past the kernel's cache.
pub(crate) fn ask_for_root(path: &Path) -> Result<(), Errno> {
    let how = AtFlags::STATX_FORCE_SYNC | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(CWD, path, how, StatxFlags::BASIC_STATS).map(drop)
}

/// Puts a request to a mount that its server answers by itself.
pub(crate) fn put_request(path: &Path) -> Result<(), Errno> {
    rustix::fs::lgetxattr(path, crate::probe::ATTRIBUTE, &mut [0; 1]).map(drop)
}

/// The mount of ours that a file belongs to: told by the device.
pub(crate) fn ours_around(mounts: &Mounts, path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts.ours_of(std::fs::metadata(path)?.dev()).cloned())
}

/// Whether the kernel can mount through NFS. Asks for the module to be loaded if it has to be, which may take a moment.
pub(crate) fn kernel_can_mount() -> Result<(), NoKernelMount> {
    if !rustix::process::geteuid().is_root() {
        return Err(NoKernelMount::NotRoot);
    }
    if has_client() {
        return Ok(());
    }
    let loaded = Command::new("modprobe")
        .args(["-q", "nfsv3"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match loaded {
        Ok(status) if status.success() && has_client() => Ok(()),
        Ok(_) => Err(NoKernelMount::NoClient),
        Err(error) => {
            tracing::debug!(%error, "modprobe could not be run");
            Err(NoKernelMount::NoClient)
        }
    }
}

/// `nfs` is a file system type there, or becomes one by loading a module.
fn has_client() -> bool {
    let read: io::Result<String> = std::fs::read_to_string("/proc/filesystems");
    read.is_ok_and(|types| types.lines().any(|line| line.split_whitespace().last() == Some("nfs")))
}

/// Mounts what is served at `path`.
pub(crate) fn mount_nfs(path: &Path, served: Served<'_>) -> Result<(), MountError> {
    let options = CString::new(mount_options(served.port)).expect("numbers and words without a NUL");
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if served.access == nfs::Access::ReadOnly {
        flags |= MountFlags::RDONLY;
    }
    rustix::mount::mount(SOURCE, path, "nfs", flags, options.as_c_str()).map_err(|source| match source {
        Errno::NODEV => NoKernelMount::NoClient.into(),
        source => MountError::Refused { path: path.to_path_buf(), source },
    })
}

/// What `mount.nfs` would tell the kernel.
///
/// `nolock`: locks are kept by the client, for there is no lock server. `noacl`: there is no ACL server either.
/// `noresvport`: nothing is gained by low ports, of which there are few. `hard`: a worker that restarts is waited for.
fn mount_options(port: u16) -> String {
    let (size, believed, resend) = (TRANSFER_BYTES_MAX, ATTRIBUTES_BELIEVED_S, RESEND_DS);
    format!(
        "vers=3,proto=tcp,mountproto=tcp,addr=127.0.0.1,mountaddr=127.0.0.1,port={port},mountport={port},mountvers=3,\
         rsize={size},wsize={size},nolock,noacl,noresvport,hard,timeo={resend},sec=sys,nosharecache,actimeo={believed}"
    )
}

/// Unmounts what was mounted through NFS at `path`. With `force`, also what is in use: processes in it see errors.
pub(crate) fn unmount_nfs(path: &Path, force: bool) -> Result<(), Errno> {
    let mut flags = UnmountFlags::NOFOLLOW;
    if force {
        flags |= UnmountFlags::FORCE | UnmountFlags::DETACH;
    }
    rustix::mount::unmount(path, flags)
}

/// The user at the other end of a connection of this computer's.
pub(crate) async fn socket_user(theirs: (Ipv4Addr, u16), ours: (Ipv4Addr, u16)) -> Result<Peer, Stranger> {
    let table = tokio::task::spawn_blocking(|| std::fs::read_to_string("/proc/net/tcp")).await;
    match table {
        Ok(Ok(table)) => user_in(&table, theirs, ours).map(Peer::User).ok_or(Stranger::Gone),
        Ok(Err(error)) => {
            tracing::warn!(%error, "could not read /proc/net/tcp; the connection is refused");
            Err(Stranger::Gone)
        }
        Err(_ended) => Err(Stranger::Gone),
    }
}

/// The user of the established socket `local` that is connected to `remote`.
fn user_in(table: &str, local: (Ipv4Addr, u16), remote: (Ipv4Addr, u16)) -> Option<u32> {
    /// Sockets that are being closed have no user any more, and show root's.
    const ESTABLISHED: &str = "01";
    let (local, remote) = (in_table(local), in_table(remote));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let matches = fields.next()? == local && fields.next()? == remote && fields.next()? == ESTABLISHED;
        // Behind the state: both queues, the timer, and how often it has sent again.
        if matches { fields.nth(3)?.parse().ok() } else { None }
    })
}

/// An address as the table writes it: the number in memory, in hexadecimal, then the port.
fn in_table((ip, port): (Ipv4Addr, u16)) -> String {
    format!("{:08X}:{port:04X}", u32::from_ne_bytes(ip.octets()))
}

/// What the kernel took at its start.
pub(crate) fn boot_id() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Lets no memory be written to a disk when this process crashes.
pub(crate) fn leave_no_core() -> Result<(), Errno> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// A file that may be written at any time, whether it is there or not.
pub(crate) struct Watched {
    notices: AsyncFd<OwnedFd>,
    name: Vec<u8>,
}

impl Watched {
    /// Watches it from now on.
    pub(crate) fn new(path: &Path) -> io::Result<Watched> {
        use inotify::{CreateFlags, WatchFlags};
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let notices = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&notices, directory, WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR)?;
        Ok(Watched { notices: readable(notices)?, name: name.as_bytes().to_vec() })
    }

    /// Waits until it has been written. May be dropped half way.
    pub(crate) async fn written(&self) {
        loop {
            // Without the runtime's events nothing here goes on at all.
            let Ok(mut ready) = self.notices.readable().await else { return std::future::pending().await };
            if self.take() {
                return;
            }
            ready.clear_ready();
        }
    }

    /// What has been written so far does not count.
    pub(crate) fn forget(&self) {
        while self.take() {}
    }

    /// Whether one of the notices that wait says that it was written. Takes those before that one, too.
    fn take(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); NOTICES_BYTES];
        let mut notices = inotify::Reader::new(self.notices.as_fd(), &mut buffer);
        // An error is that none waits any more.
        while let Ok(notice) = notices.next() {
            // After an overflow it is not known.
            let is_lost = notice.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
            if is_lost || notice.file_name().is_some_and(|name| name.to_bytes() == self.name) {
                return true;
            }
        }
        false
    }
}

/// Room for some notices of names of any length.
const NOTICES_BYTES: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0801 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 0100007F:C350 0100007F:0801 06 00000000:00000000 03:000001 00000000     0        0 0 3 0
   2: 0100007F:C351 0100007F:0801 01 00000000:00000000 00:00000000 00000000  1001        0 2 1 0 20 4 30 10 -1
   3: 0100007F:0801 0100007F:C351 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1
";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_other_ends_user_is_found_and_closing_sockets_have_none() {
        let localhost = Ipv4Addr::LOCALHOST;
        let user = |port| user_in(TABLE, (localhost, port), (localhost, 0x0801));
        assert_eq!(user(0xC351), Some(1001));
        assert_eq!(user(0xC350), None, "in TIME_WAIT");
        assert_eq!(user(0xC352), None);
    }

    #[tokio::test]
    async fn a_file_is_seen_to_be_written_each_time_and_no_other_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s0.full");
        let watched = Watched::new(&path).unwrap();
        std::fs::write(directory.path().join("s0.1"), "x").unwrap();
        assert!(!watched.take());
        for _ in 0..2 {
            std::fs::write(&path, "x").unwrap();
            tokio::time::timeout(DEADLINE, watched.written()).await.unwrap();
        }
        std::fs::write(&path, "x").unwrap();
        watched.forget();
        assert!(!watched.take());
    }
}
