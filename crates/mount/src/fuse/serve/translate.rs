//! Words of the kernel and of `vfs`.

use std::time::Duration;

use vfs::file::{
    Allocation, AttributeChanges, Attributes, FileId, Kind, Lock, LockFamily, LockKind, OpenFlags, SetTime,
    Time,
};
use vfs::table::{Believe, Ino};
use vfs::vfs::View;

use crate::fuse::abi;
use crate::fuse::reply::Entry;
use crate::fuse::request;
use crate::identity::inode_number;

/// How long the kernel may believe what it will be told about. Not for ever: a notice that was lost to a bug should
/// not outlive a working session.
const LEASED: Duration = Duration::from_secs(3600);

/// Units of `st_blocks`.
const END_OF_FILE: u64 = i64::MAX as u64;

pub(super) fn ino(node: u64) -> Ino {
    Ino(node)
}

pub(super) fn lifetime(believe: Believe) -> Duration {
    match believe {
        Believe::Once => Duration::ZERO,
        Believe::For(milliseconds) => Duration::from_millis(u64::from(milliseconds)),
        Believe::Leased => LEASED,
    }
}

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

/// The kind in the type bits of a mode; MKNOD may leave them out for a regular file.
pub(super) fn kind(mode: u32) -> Option<Kind> {
    Some(match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Kind::File,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::CharDevice,
        libc::S_IFBLK => Kind::BlockDevice,
        _ => return None,
    })
}

pub(crate) fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

pub(super) fn attr(root_device: u64, id: FileId, attributes: &Attributes) -> abi::Attr {
    abi::Attr {
        ino: inode_number(root_device, id),
        size: attributes.size,
        blocks: attributes.blocks,
        atime: attributes.accessed.seconds.cast_unsigned(),
        mtime: attributes.modified.seconds.cast_unsigned(),
        ctime: attributes.changed.seconds.cast_unsigned(),
        atimensec: attributes.accessed.nanoseconds,
        mtimensec: attributes.modified.nanoseconds,
        ctimensec: attributes.changed.nanoseconds,
        mode: file_type(attributes.kind) | u32::from(attributes.mode),
        nlink: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: narrow_device(attributes.device),
        blksize: attributes.block_size,
        ..abi::Attr::default()
    }
}

pub(super) fn entry(root_device: u64, view: &View) -> Entry {
    Entry {
        node: view.ino.0,
        generation: 0,
        entry_lifetime: lifetime(view.name_for),
        attr_lifetime: lifetime(view.attributes_for),
        attr: attr(root_device, view.id, &view.attributes),
    }
}

/// A device number in the kernel's 32 bits: 12 of major, 20 of minor (`new_encode_dev`).
pub(crate) fn narrow_device(device: u64) -> u32 {
    let (major, minor) = (libc::major(device), libc::minor(device));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// The same number in the C library's 64 bits.
pub(crate) fn wide_device(device: u32) -> u64 {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    libc::makedev(major, minor)
}

pub(super) fn open_flags(flags: u32) -> OpenFlags {
    let flags = flags.cast_signed();
    let access = flags & libc::O_ACCMODE;
    OpenFlags {
        read: access == libc::O_RDONLY || access == libc::O_RDWR,
        write: access == libc::O_WRONLY || access == libc::O_RDWR,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        sync: flags & (libc::O_SYNC | libc::O_DSYNC) != 0,
        direct: flags & libc::O_DIRECT != 0,
        exclusive: flags & libc::O_EXCL != 0,
    }
}

fn time(time: request::Timestamp) -> Time {
    Time { seconds: time.seconds, nanoseconds: time.nanoseconds }
}

fn set_time(to: Option<request::SetTime>) -> SetTime {
    match to {
        None => SetTime::Keep,
        Some(request::SetTime::Now) => SetTime::Now,
        Some(request::SetTime::At(at)) => SetTime::To(time(at)),
    }
}

pub(super) fn changes(set: &request::Setattr) -> AttributeChanges {
    AttributeChanges {
        size: set.size,
        uid: set.uid,
        gid: set.gid,
        mode: set.mode.map(permissions),
        accessed: set_time(set.atime),
        modified: set_time(set.mtime),
        clear_set_id: set.kill_suid_sgid,
    }
}

pub(super) fn lock(asked: &request::Lock) -> Lock {
    Lock {
        family: if asked.flock { LockFamily::Flock } else { LockFamily::Posix },
        kind: match asked.kind {
            request::LockKind::Shared => LockKind::Shared,
            request::LockKind::Exclusive => LockKind::Exclusive,
            request::LockKind::Unlock => LockKind::Unlocked,
        },
        start: asked.start,
        end: if asked.end >= END_OF_FILE { u64::MAX } else { asked.end },
    }
}

/// The answer to GETLK: the lock in the way, or the question with "unlocked".
pub(super) fn found_lock(asked: request::Lock, found: Option<(Lock, u32)>) -> request::Lock {
    let Some((lock, pid)) = found else { return request::Lock { kind: request::LockKind::Unlock, ..asked } };
    let kind = match lock.kind {
        LockKind::Shared => request::LockKind::Shared,
        LockKind::Exclusive => request::LockKind::Exclusive,
        LockKind::Unlocked => request::LockKind::Unlock,
    };
    request::Lock { kind, start: lock.start, end: lock.end.min(END_OF_FILE), pid, ..asked }
}

pub(super) fn allocation(mode: u32) -> Option<Allocation> {
    let mode = mode.cast_signed();
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Some(Allocation::Reserve { keep_size }),
        libc::FALLOC_FL_PUNCH_HOLE if keep_size => Some(Allocation::Punch),
        libc::FALLOC_FL_ZERO_RANGE => Some(Allocation::Zero { keep_size }),
        libc::FALLOC_FL_COLLAPSE_RANGE if !keep_size => Some(Allocation::Collapse),
        libc::FALLOC_FL_INSERT_RANGE if !keep_size => Some(Allocation::Insert),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_both_ways() {
        for (major, minor) in [(0, 0), (8, 1), (259, 7), (4095, 0xf_ffff), (1, 3)] {
            let wide = libc::makedev(major, minor);
            assert_eq!(wide_device(narrow_device(wide)), wide, "{major}:{minor}");
        }
    }

    #[test]
    fn only_what_fallocate_knows_is_passed_on() {
        let bits = |mode: i32| allocation(mode.cast_unsigned());
        assert_eq!(bits(0), Some(Allocation::Reserve { keep_size: false }));
        assert_eq!(bits(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE), Some(Allocation::Punch));
        assert_eq!(bits(libc::FALLOC_FL_PUNCH_HOLE), None);
        assert_eq!(bits(1 << 20), None);
    }
}
