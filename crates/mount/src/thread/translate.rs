//! Words of the kernel and of threads.

use std::time::Duration;

use store::node::{Attributes, Ino, Kind, Time};
use store::thread::{RenameMode, XattrMode};

use super::{LIFETIME, LIFETIME_IN_PLACE};
use crate::fuse::abi;
use crate::fuse::reply::Entry;
use crate::fuse::request::{SetTime, Timestamp};
use crate::fuse::serve::narrow_device;
use rustix::io::Errno;

/// What programs are told to read and write at once.
const BLOCK_BYTES: u32 = 4096;

pub(super) fn file_type(kind: Kind) -> u32 {
    match kind {
        Kind::File => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::CharDevice => libc::S_IFCHR,
        Kind::BlockDevice => libc::S_IFBLK,
    }
}

/// What MKNOD makes that is no regular file; `None` for one, whose type it may leave out.
pub(super) fn special(mode: u32) -> Result<Option<Kind>, Errno> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(None),
        libc::S_IFIFO => Ok(Some(Kind::Fifo)),
        libc::S_IFSOCK => Ok(Some(Kind::Socket)),
        libc::S_IFCHR => Ok(Some(Kind::CharDevice)),
        libc::S_IFBLK => Ok(Some(Kind::BlockDevice)),
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn attr(of: &Attributes) -> abi::Attr {
    abi::Attr {
        ino: of.ino.0,
        size: of.size,
        blocks: of.blocks,
        atime: of.accessed.seconds.cast_unsigned(),
        mtime: of.modified.seconds.cast_unsigned(),
        ctime: of.changed.seconds.cast_unsigned(),
        atimensec: of.accessed.nanoseconds,
        mtimensec: of.modified.nanoseconds,
        ctimensec: of.changed.nanoseconds,
        mode: file_type(of.kind) | u32::from(of.mode),
        nlink: of.links,
        uid: of.uid,
        gid: of.gid,
        rdev: narrow_device(of.device),
        blksize: BLOCK_BYTES,
        ..abi::Attr::default()
    }
}

/// `lifetime` is that of the attributes.
pub(super) fn entry(of: &Attributes, lifetime: Duration) -> Entry {
    Entry {
        node: of.ino.0,
        // A number is never of two files.
        generation: 0,
        entry_lifetime: if of.is_in_place { LIFETIME_IN_PLACE } else { LIFETIME },
        attr_lifetime: lifetime,
        attr: attr(of),
    }
}

pub(super) fn ino(node: u64) -> Ino {
    Ino(node)
}

/// By the clock that the file system below dates contents with.
pub(super) fn now() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Time { seconds: now.tv_sec, nanoseconds: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

pub(super) fn set_time(to: SetTime, now: Time) -> Time {
    match to {
        SetTime::Now => now,
        SetTime::At(Timestamp { seconds, nanoseconds }) => Time { seconds, nanoseconds },
    }
}

pub(super) fn rename_mode(flags: u32) -> Result<RenameMode, Errno> {
    match flags {
        0 => Ok(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn xattr_mode(flags: u32) -> Result<XattrMode, Errno> {
    match flags.cast_signed() {
        0 => Ok(XattrMode::CreateOrReplace),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Errno::INVAL),
    }
}
