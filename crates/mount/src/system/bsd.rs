//! What macOS and FreeBSD have in common: `getfsstat`, `unmount`, limits of a process.
//!
//! A mount of ours is one of NFS, of the export that only our servers have, or on macOS one of macFUSE that says so.

use std::ffi::{CStr, CString, OsStr, c_char};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use thiserror::Error;

use crate::mountpoint::Unmount;
use crate::nfs::mountpoint::SOURCE;
use crate::nfs::peer::{Peer, Stranger};

/// How one finds out what uses a mount.
pub(crate) const WHO_USES: &str = "fuser -c";

/// What the kernel says of a mount whose server has no record of it any more. One that waits for a server says nothing.
pub(crate) const GONE: &[Errno] = &[Errno::STALE, Errno::NOTCONN, Errno::CONNABORTED];

/// The most mounts that are looked at. No computer has as many.
const MOUNTS_MAX: usize = 16 << 10;

/// How often the table is read again that has grown meanwhile.
const TABLE_TRIES: usize = 8;

/// Mounts that there is room for besides those that were just counted.
const MOUNTS_SPARE: usize = 16;

/// What is mounted cannot be told.
#[derive(Debug, Error)]
pub enum TableError {
    /// The kernel did not say.
    #[error("could not read what is mounted")]
    Read(#[source] io::Error),
    /// There is more than is looked at.
    #[error("more than {MOUNTS_MAX} file systems are mounted")]
    TooMany,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Where: absolute, without symbolic links.
    pub path: PathBuf,
    /// For example `nfs`.
    pub fs_type: Vec<u8>,
    /// What, in the words of whoever mounted it.
    pub source: Vec<u8>,
}

impl MountEntry {
    /// Whether it is a mount of Stead's.
    pub fn is_ours(&self) -> bool {
        let is_nfs = self.fs_type == b"nfs" && self.source == SOURCE.as_bytes();
        is_nfs || super::is_own_fuse(&self.fs_type, &self.source)
    }

    /// Nothing is to be done before it is unmounted: that ends whatever waits for its server.
    pub fn end_requests(&self, _mounts: &Mounts) -> Result<(), AbortError> {
        Ok(())
    }

    fn of(found: &libc::statfs) -> MountEntry {
        MountEntry {
            path: OsStr::from_bytes(&bytes(&found.f_mntonname)).into(),
            fs_type: bytes(&found.f_fstypename),
            source: bytes(&found.f_mntfromname),
        }
    }
}

/// What waits for a mount cannot be ended before it is unmounted; nothing is like that here.
#[derive(Debug, Error)]
pub enum AbortError {}

/// What is before the NUL.
fn bytes(text: &[c_char]) -> Vec<u8> {
    text.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0).collect()
}

/// All mounts that this process sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    entries: Vec<MountEntry>,
}

impl Mounts {
    /// The table as it is now. No server is asked anything.
    pub fn read() -> Result<Mounts, TableError> {
        let mut room = count()? + MOUNTS_SPARE;
        for _ in 0..TABLE_TRIES {
            if room > MOUNTS_MAX {
                break;
            }
            // SAFETY: all zeros is a `statfs`: numbers, and arrays of them.
            let mut table: Vec<libc::statfs> = vec![unsafe { std::mem::zeroed() }; room];
            let size = size_of_val(table.as_slice());
            // SAFETY: the kernel writes at most `size` bytes, which the table has.
            let found = unsafe { libc::getfsstat(table.as_mut_ptr(), size as _, libc::MNT_NOWAIT) };
            let found = usize::try_from(found).map_err(|_| TableError::Read(io::Error::last_os_error()))?;
            // A table that is full may have lost its end.
            if found < room {
                let entries = table[..found].iter().map(MountEntry::of).collect();
                return Ok(Mounts { entries });
            }
            room *= 2;
        }
        Err(TableError::TooMany)
    }

    /// In the order in which they lie on each other.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &MountEntry> {
        self.entries.iter()
    }

    /// The uppermost mount on exactly this path.
    pub fn at(&self, path: &Path) -> Option<&MountEntry> {
        self.iter().rev().find(|mount| mount.path == path)
    }

    /// Stead's.
    pub fn ours(&self) -> impl DoubleEndedIterator<Item = &MountEntry> {
        self.iter().filter(|mount| mount.is_ours())
    }
}

/// How many there are.
fn count() -> Result<usize, TableError> {
    // SAFETY: without a table the kernel only counts.
    let count = unsafe { libc::getfsstat(std::ptr::null_mut(), 0, libc::MNT_NOWAIT) };
    usize::try_from(count).map_err(|_| TableError::Read(io::Error::last_os_error()))
}

/// Asks the server of a mount for its root.
pub(crate) fn ask_for_root(path: &Path) -> Result<(), Errno> {
    rustix::fs::lstat(path).map(drop)
}

/// The mount of ours that a file belongs to: told by where the file system is mounted that it is on.
pub(crate) fn ours_around(mounts: &Mounts, path: &Path) -> io::Result<Option<MountEntry>> {
    let found = MountEntry::of(&rustix::fs::statfs(path)?);
    Ok(mounts.at(&found.path).filter(|mount| mount.is_ours()).cloned())
}

/// Why a mount is still there.
#[derive(Debug, Error)]
pub enum UnmountError {
    /// In use.
    #[error("`{}` is in use", .0.display())]
    Busy(PathBuf),
    /// Nothing to unmount.
    #[error("`{}` is not a mount point", .0.display())]
    NotMounted(PathBuf),
    /// The kernel refused.
    #[error("could not unmount `{}`", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// Unmounts what is at `path`, which is as the mount table has it: absolute, without symbolic links. Nothing can be taken out of the
/// tree while it is in use, so what is detached elsewhere is ended here: whoever uses it sees errors.
pub fn unmount(path: &Path, how: Unmount) -> Result<(), UnmountError> {
    unmount_nfs(path, how != Unmount::IfIdle).map_err(|source| match source {
        Errno::BUSY => UnmountError::Busy(path.to_path_buf()),
        Errno::INVAL | Errno::NOENT => UnmountError::NotMounted(path.to_path_buf()),
        source => UnmountError::Refused { path: path.to_path_buf(), source },
    })
}

/// Unmounts what was mounted through NFS at `path`. With `force`, also what is in use: processes in it see errors.
pub(crate) fn unmount_nfs(path: &Path, force: bool) -> Result<(), Errno> {
    let path = c_string(path.as_os_str().as_bytes())?;
    let flags = if force { libc::MNT_FORCE } else { 0 };
    // SAFETY: the path is a string that ends with a NUL and lives through the call.
    match unsafe { libc::unmount(path.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// The user at the other end of a connection is not told.
pub(crate) async fn socket_user(_theirs: (Ipv4Addr, u16), _ours: (Ipv4Addr, u16)) -> Result<Peer, Stranger> {
    Ok(Peer::Unknown)
}

/// Lets no memory be written to a disk when this process crashes.
pub(crate) fn leave_no_core() -> Result<(), Errno> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
}

/// A file that may be written at any time is not watched: what that is for, a stream whose process is handed on, there is not either.
pub(crate) enum Watched {}

impl Watched {
    /// Says so.
    pub(crate) fn new(_path: &Path) -> io::Result<Watched> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system cannot hand a process on"))
    }

    /// There is none.
    pub(crate) async fn written(&self) {
        match *self {}
    }

    /// There is none.
    pub(crate) fn forget(&self) {
        match *self {}
    }
}

/// A string for the kernel.
pub(super) fn c_string(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::INVAL)
}

/// Why the last call of this thread failed.
pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A value of the kernel's, of at most `N` bytes; as many as it has.
pub(super) fn value<const N: usize>(name: &CStr) -> io::Result<Vec<u8>> {
    let mut value = vec![0_u8; N];
    let mut length = value.len();
    // SAFETY: the kernel writes at most `length` bytes, and then says how many.
    let code = unsafe {
        libc::sysctlbyname(name.as_ptr(), value.as_mut_ptr().cast(), &mut length, std::ptr::null_mut(), 0)
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    value.truncate(length);
    Ok(value)
}
