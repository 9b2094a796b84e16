//! What a file is and what it looks like, from `statx`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatFs, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use rustix::path::Arg;
use wire::agent::file::{Attributes, Entry, FileId, Kind, Time};

use crate::file_system::{Mounted, keeps_births};

/// What says which file it is. A kernel that does not know the mount's unique number, older than 6.8, tells the other one.
const IDENTITY: StatxFlags =
    StatxFlags::INO.union(StatxFlags::BTIME).union(StatxFlags::MNT_ID).union(MNT_ID_UNIQUE);

/// `STATX_MNT_ID_UNIQUE` of `statx(2)`, which `rustix` does not have.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(IDENTITY);

/// The file `name` of a directory, whatever it is; a symlink is not followed.
pub(crate) fn entry_at(directory: impl AsFd, name: &[u8]) -> Result<Entry, Errno> {
    let directory = directory.as_fd();
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(directory, name, flags, WANTED)?;
    let id = file_id(&stat, || {
        let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::fstatfs(rustix::fs::openat(directory, name, path, Mode::empty())?)
    });
    Ok(entry(id, &stat, may_have_xattrs(list_xattrs_at(directory, name))))
}

/// What kind of file the name `name` of a directory is, and on which device; a symlink is not followed.
pub(crate) fn kind_at(directory: impl AsFd, name: &[u8]) -> Result<(Kind, u64), Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(directory, name, flags, StatxFlags::TYPE)?;
    Ok((kind(stat.stx_mode), device(&stat)))
}

/// How long the list of a name's extended attributes is. From Linux 6.13 on there is a call for it; before, the way there
/// leads through `/proc`, which takes longer than all the rest of an entry.
fn list_xattrs_at(directory: BorrowedFd<'_>, name: &[u8]) -> Result<usize, Errno> {
    /// The call is not there, or not allowed.
    static IS_MISSING: AtomicBool = AtomicBool::new(false);
    if !IS_MISSING.load(Ordering::Relaxed) {
        match listxattrat(directory, name) {
            Err(Errno::NOSYS | Errno::PERM) => IS_MISSING.store(true, Ordering::Relaxed),
            listed => return listed,
        }
    }
    let mut path = proc_path(directory).into_bytes();
    path.push(b'/');
    path.extend_from_slice(name);
    rustix::fs::llistxattr_query(path.as_slice())
}

fn listxattrat(directory: BorrowedFd<'_>, name: &[u8]) -> Result<usize, Errno> {
    /// The same on every architecture.
    const SYS_LISTXATTRAT: libc::c_long = 465;
    name.into_with_c_str(|name| {
        // SAFETY: the name is a string that ends with a NUL and lives through the call; no list is asked for, only its
        // length, so nothing is written. `rustix` does not have the call.
        let length = unsafe {
            libc::syscall(
                SYS_LISTXATTRAT,
                directory.as_raw_fd(),
                name.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                std::ptr::null_mut::<u8>(),
                0usize,
            )
        };
        let failed = || Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO);
        usize::try_from(length).map_err(|_| failed())
    })
}

/// The machine's clock.
pub(crate) fn now() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Time { seconds: now.tv_sec, nanoseconds: u32::try_from(now.tv_nsec).unwrap_or_default() }
}

/// The file of a descriptor that was opened with `O_PATH`.
pub(crate) fn entry_of_path(file: impl AsFd) -> Result<Entry, Errno> {
    let stat = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, WANTED)?;
    let id = file_id(&stat, || rustix::fs::fstatfs(&file));
    Ok(entry(id, &stat, may_have_xattrs(rustix::fs::listxattr_query(proc_path(&file)))))
}

/// The file of a descriptor that was opened for use.
pub(crate) fn entry_of_open(file: impl AsFd) -> Result<Entry, Errno> {
    let stat = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, WANTED)?;
    let id = file_id(&stat, || rustix::fs::fstatfs(&file));
    Ok(entry(id, &stat, may_have_xattrs(rustix::fs::flistxattr_query(&file))))
}

/// Which file a descriptor of any kind refers to.
pub(crate) fn id_of(file: impl AsFd) -> Result<(FileId, Kind), Errno> {
    let stat = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE | IDENTITY)?;
    Ok((file_id(&stat, || rustix::fs::fstatfs(&file)), kind(stat.stx_mode)))
}

/// A path that leads to the very file of a descriptor, for calls that take no `O_PATH` descriptor.
pub(crate) fn proc_path(file: impl AsFd) -> String {
    let file: BorrowedFd<'_> = file.as_fd();
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn entry(id: FileId, stat: &Statx, xattrs: bool) -> Entry {
    let attributes = Attributes {
        kind: kind(stat.stx_mode),
        mode: stat.stx_mode & 0o7777,
        links: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        device: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        block_size: stat.stx_blksize,
        accessed: time(&stat.stx_atime),
        modified: time(&stat.stx_mtime),
        changed: time(&stat.stx_ctime),
        xattrs,
    };
    Entry { id, attributes }
}

/// `file_system` tells of what the file is on, should that not be known.
fn file_id(stat: &Statx, file_system: impl FnOnce() -> Result<StatFs, Errno>) -> FileId {
    let told = StatxFlags::from_bits_retain(stat.stx_mask);
    let mounted = Mounted {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        mount: told.intersects(StatxFlags::MNT_ID | MNT_ID_UNIQUE).then_some(stat.stx_mnt_id),
        is_unique: told.contains(MNT_ID_UNIQUE),
    };
    let known = told.contains(StatxFlags::BTIME) && keeps_births(mounted, file_system);
    let birth = if known { nanoseconds(&stat.stx_btime) } else { 0 };
    FileId { device: device(stat), inode: stat.stx_ino, birth }
}

fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// Identities are compared, not computed with: a time before 1970 wraps.
fn nanoseconds(time: &StatxTimestamp) -> u64 {
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(u64::from(time.tv_nsec))
}

fn time(time: &StatxTimestamp) -> Time {
    Time { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}

fn kind(mode: u16) -> Kind {
    kind_of(FileType::from_raw_mode(u32::from(mode))).unwrap_or(Kind::File)
}

/// What a directory says a name is of; `None` where it does not say.
pub(crate) fn kind_of(told: FileType) -> Option<Kind> {
    match told {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Directory),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket => Some(Kind::Socket),
        FileType::CharacterDevice => Some(Kind::CharDevice),
        FileType::BlockDevice => Some(Kind::BlockDevice),
        FileType::Unknown => None,
    }
}

fn may_have_xattrs(list_bytes: Result<usize, Errno>) -> bool {
    !matches!(list_bytes, Ok(0) | Err(Errno::OPNOTSUPP))
}
