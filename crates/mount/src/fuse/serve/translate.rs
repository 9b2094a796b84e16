//! Words of the kernel and of `vfs`.

use std::time::Duration;

use bytes::Bytes;
use vfs::errno::{Errno, Result};
use vfs::file::{
    Allocation, AttributeChanges, Attributes, FileId, Kind, Lock, LockFamily, LockKind, OpenFlags,
    RenameMode, SetTime, Time, XattrMode,
};
use vfs::table::{Believe, Ino};
use vfs::vfs::View;

use crate::fuse::abi::{self, Flavour};
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
        Kind::File => abi::mode::FILE,
        Kind::Directory => abi::mode::DIRECTORY,
        Kind::Symlink => abi::mode::SYMLINK,
        Kind::Fifo => abi::mode::FIFO,
        Kind::Socket => abi::mode::SOCKET,
        Kind::CharDevice => abi::mode::CHAR_DEVICE,
        Kind::BlockDevice => abi::mode::BLOCK_DEVICE,
    }
}

/// The kind in the type bits of a mode; MKNOD may leave them out for a regular file.
pub(super) fn kind(mode: u32) -> Option<Kind> {
    Some(match mode & abi::mode::FORMAT {
        0 | abi::mode::FILE => Kind::File,
        abi::mode::FIFO => Kind::Fifo,
        abi::mode::SOCKET => Kind::Socket,
        abi::mode::CHAR_DEVICE => Kind::CharDevice,
        abi::mode::BLOCK_DEVICE => Kind::BlockDevice,
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
    let major = ((device >> 8) & 0xfff) as u32;
    let minor = ((device & 0xff) | ((device >> 12) & 0xffff_ff00)) as u32;
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}

/// The same number in the 64 bits of Linux's C library, which are the machine's.
pub(crate) fn wide_device(device: u32) -> u64 {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    u64::from(minor & 0xff) | u64::from(major) << 8 | u64::from(minor & !0xff) << 12
}

/// What the bits of access are in `open(2)`, on every system.
const ACCESS_MODE: u32 = 3;
const WRITE_ONLY: u32 = 1;
const READ_WRITE: u32 = 2;

pub(super) fn open_flags(flavour: &Flavour, flags: u32) -> OpenFlags {
    let (bits, access) = (&flavour.open, flags & ACCESS_MODE);
    OpenFlags {
        read: access == 0 || access == READ_WRITE,
        write: access == WRITE_ONLY || access == READ_WRITE,
        append: flags & bits.append != 0,
        truncate: flags & bits.truncate != 0,
        sync: flags & bits.sync != 0,
        direct: flags & bits.direct != 0,
        exclusive: flags & bits.exclusive != 0,
    }
}

pub(super) fn rename_mode(flags: u32) -> Result<RenameMode> {
    match flags {
        0 => Ok(RenameMode::Replace),
        abi::rename::NOREPLACE => Ok(RenameMode::NoReplace),
        abi::rename::EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn xattr_mode(flavour: &Flavour, flags: u32) -> Result<XattrMode> {
    let bits = flavour.xattr;
    match flags & !bits.ignored {
        0 => Ok(XattrMode::Set),
        flag if flag == bits.create => Ok(XattrMode::Create),
        flag if flag == bits.replace => Ok(XattrMode::Replace),
        _ => Err(Errno::EINVAL),
    }
}

/// What the machine calls an extended attribute.
pub(super) fn attribute_there(flavour: &Flavour, name: &[u8]) -> Bytes {
    Bytes::from([flavour.xattr_namespace, name].concat())
}

/// Of the names of extended attributes that the machine has, each ended by a NUL, those that this system can ask for, as it calls
/// them.
pub(super) fn attributes_here(flavour: &Flavour, names: Bytes) -> Bytes {
    let namespace = flavour.xattr_namespace;
    if namespace.is_empty() {
        return names;
    }
    let here = names.split_inclusive(|byte| *byte == 0).filter_map(|name| name.strip_prefix(namespace));
    Bytes::from(here.collect::<Vec<_>>().concat())
}

/// What of an attribute is from `position` on.
pub(super) fn from_position(value: &Bytes, position: u32) -> Bytes {
    value.slice((position as usize).min(value.len())..)
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
    let keep_size = mode & abi::falloc::KEEP_SIZE != 0;
    match mode & !abi::falloc::KEEP_SIZE {
        0 => Some(Allocation::Reserve { keep_size }),
        abi::falloc::PUNCH_HOLE if keep_size => Some(Allocation::Punch),
        abi::falloc::ZERO_RANGE => Some(Allocation::Zero { keep_size }),
        abi::falloc::COLLAPSE_RANGE if !keep_size => Some(Allocation::Collapse),
        abi::falloc::INSERT_RANGE if !keep_size => Some(Allocation::Insert),
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
    fn opening_is_read_with_each_kernels_own_bits() {
        let (linux, darwin) = (&abi::linux::FLAVOUR, &abi::darwin::FLAVOUR);
        let bits = (libc::O_RDWR | libc::O_APPEND | libc::O_EXCL | libc::O_DSYNC).cast_unsigned();
        let here = open_flags(linux, bits);
        assert!(here.read && here.write && here.append && here.exclusive && here.sync);
        assert!(!here.truncate && !here.direct);
        assert_eq!(open_flags(darwin, 2 | 0x8 | 0x800 | 0x0040_0000), here);
        let cut = open_flags(darwin, 1 | 0x400);
        assert!(!cut.read && cut.write && cut.truncate && !cut.append);
        assert_eq!(xattr_mode(linux, 2), Ok(XattrMode::Replace));
        assert_eq!(xattr_mode(darwin, 2 | 1), Ok(XattrMode::Create));
        assert_eq!(xattr_mode(darwin, 2 | 4), Err(Errno::EINVAL));
    }

    #[test]
    fn attributes_of_macos_are_those_that_programs_of_the_machine_may_have() {
        let (linux, darwin) = (&abi::linux::FLAVOUR, &abi::darwin::FLAVOUR);
        let there = Bytes::from_static(b"user.a\0security.selinux\0user.com.apple.b\0");
        assert_eq!(attributes_here(linux, there.clone()), there);
        assert_eq!(attributes_here(darwin, there), b"a\0com.apple.b\0"[..]);
        assert_eq!(attribute_there(linux, b"user.a"), b"user.a"[..]);
        assert_eq!(attribute_there(darwin, b"a"), b"user.a"[..]);
        let value = Bytes::from_static(b"value");
        assert_eq!(from_position(&value, 3), b"ue"[..]);
        assert_eq!(from_position(&value, 9), b""[..]);
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
