//! The kernel's FUSE format: numbers, flags and fixed layouts, in the byte order of this machine.
//!
//! The source is the kernel's `include/uapi/linux/fuse.h`, protocol 7.31 to 7.45. Names follow the header
//! with the `FUSE_` prefix and the `fuse_` prefix left out, so that a reader can look each of them up there.
//! Other kernels have most of it alike: what one has in a way of its own is in its [`Flavour`], and where it lays
//! a message out in another way, that layout is in the module of its name.
//!
//! Every message from the kernel starts with an [`InHeader`] of 40 bytes and every message to it with an
//! [`OutHeader`] of 16 bytes; `len` counts the header. What follows is one fixed layout, then names (each
//! ended by a NUL, not padded) or data, and in a request `total_extlen` words of 8 bytes of extensions at the
//! very end.
#![allow(
    missing_docs,
    reason = "fields and constants carry the kernel header's names and are documented there"
)]

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use flavour::{Flavour, Layout, OWN, OpenBits, XattrBits};

/// The only major version there has ever been in this layout.
pub const VERSION_MAJOR: u32 = 7;
/// The newest minor version whose messages this module knows.
pub const VERSION_MINOR: u32 = 45;
/// The oldest kernel served: Linux 5.4. Older ones differ in the size of several messages.
pub const VERSION_MINOR_MIN: u32 = 31;

/// The node number of the root directory.
pub const ROOT_ID: u64 = 1;

/// Set in `unique` of a request that the kernel queued again after [`notify::RESEND`].
pub const UNIQUE_RESEND: u64 = 1 << 63;
/// Set in `unique` of an INTERRUPT request; the rest is the interrupted request's `unique`.
pub const UNIQUE_INTERRUPT: u64 = 1;

/// The user or group of a request through an id-mapped mount that does not create anything.
pub const INVALID_ID: u32 = u32::MAX;

/// The kernel refuses reads into less than this, whatever `max_write` is.
pub const READ_BUFFER_BYTES_MIN: usize = 8192;

/// A directory entry with a longer name makes the kernel fail the whole listing with EIO.
pub const NAME_BYTES_MAX: usize = 1024;

/// Errors at and above this are the kernel's own (`ERESTARTSYS`): a reply that carries one is refused and the
/// request stays unanswered.
pub const ERRNO_LIMIT: i32 = 512;

macro_rules! opcodes {
    ($($name:ident = $number:literal,)*) => {
        /// What a request asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Opcode { $($name = $number,)* }

        impl Opcode {
            /// `None` for a number this module does not know.
            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name, for logs and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

opcodes! {
    Lookup = 1,
    Forget = 2,
    Getattr = 3,
    Setattr = 4,
    Readlink = 5,
    Symlink = 6,
    Mknod = 8,
    Mkdir = 9,
    Unlink = 10,
    Rmdir = 11,
    Rename = 12,
    Link = 13,
    Open = 14,
    Read = 15,
    Write = 16,
    Statfs = 17,
    Release = 18,
    Fsync = 20,
    Setxattr = 21,
    Getxattr = 22,
    Listxattr = 23,
    Removexattr = 24,
    Flush = 25,
    Init = 26,
    Opendir = 27,
    Readdir = 28,
    Releasedir = 29,
    Fsyncdir = 30,
    Getlk = 31,
    Setlk = 32,
    Setlkw = 33,
    Access = 34,
    Create = 35,
    Interrupt = 36,
    Bmap = 37,
    Destroy = 38,
    Ioctl = 39,
    Poll = 40,
    NotifyReply = 41,
    BatchForget = 42,
    Fallocate = 43,
    Readdirplus = 44,
    Rename2 = 45,
    Lseek = 46,
    CopyFileRange = 47,
    Syncfs = 50,
    Tmpfile = 51,
    Statx = 52,
    CopyFileRange64 = 53,
}

/// What INIT offers and grants: `flags` in the low word, `flags2` in the high one.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InitFlags(pub u64);

macro_rules! init_flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal,)*) => {
        impl InitFlags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
            const NAMES: &'static [(&'static str, Self)] = &[$((stringify!($name), Self::$name),)*];
        }
    };
}

init_flags! {
    ASYNC_READ = 0,
    POSIX_LOCKS = 1,
    FILE_OPS = 2,
    /// OPEN carries `O_TRUNC` instead of a SETATTR before it.
    ATOMIC_O_TRUNC = 3,
    /// LOOKUP of `.` and `..` is answered, so that a node can be found again by number.
    EXPORT_SUPPORT = 4,
    BIG_WRITES = 5,
    /// The server applies the umask that creating requests carry.
    DONT_MASK = 6,
    SPLICE_WRITE = 7,
    SPLICE_MOVE = 8,
    SPLICE_READ = 9,
    FLOCK_LOCKS = 10,
    HAS_IOCTL_DIR = 11,
    /// The kernel drops cached pages when it sees another mtime or size.
    AUTO_INVAL_DATA = 12,
    DO_READDIRPLUS = 13,
    READDIRPLUS_AUTO = 14,
    ASYNC_DIO = 15,
    /// The kernel collects writes, and owns size and mtime of files that are being written. Excludes
    /// `PASSTHROUGH`.
    WRITEBACK_CACHE = 16,
    /// ENOSYS to OPEN means success now and no more OPEN, RELEASE or FLUSH.
    NO_OPEN_SUPPORT = 17,
    PARALLEL_DIROPS = 18,
    HANDLE_KILLPRIV = 19,
    POSIX_ACL = 20,
    /// Reading after an abort gives ECONNABORTED instead of ENODEV.
    ABORT_ERROR = 21,
    MAX_PAGES = 22,
    CACHE_SYMLINKS = 23,
    /// ENOSYS to OPENDIR means success now and no more OPENDIR or RELEASEDIR.
    NO_OPENDIR_SUPPORT = 24,
    EXPLICIT_INVAL_DATA = 25,
    MAP_ALIGNMENT = 26,
    SUBMOUNTS = 27,
    /// The server removes setuid and setgid when a request says so, and on chown always.
    HANDLE_KILLPRIV_V2 = 28,
    /// SETXATTR has 16 bytes before the name instead of 8.
    SETXATTR_EXT = 29,
    /// The high word counts.
    INIT_EXT = 30,
    SECURITY_CTX = 32,
    HAS_INODE_DAX = 33,
    /// Creating requests name the caller's group that matters for a setgid directory.
    CREATE_SUPP_GROUP = 34,
    HAS_EXPIRE_ONLY = 35,
    /// A file that was opened with `DIRECT_IO` can be mapped to be shared, as any other. Since Linux 6.6.
    DIRECT_IO_ALLOW_MMAP = 36,
    /// A file opened with a backing id is read and written by the kernel alone.
    PASSTHROUGH = 37,
    NO_EXPORT_SUPPORT = 38,
    HAS_RESEND = 39,
    /// INIT fails when this is granted to a mount without `default_permissions`.
    ALLOW_IDMAP = 40,
    OVER_IO_URING = 41,
    REQUEST_TIMEOUT = 42,
}

impl InitFlags {
    pub const NONE: Self = Self(0);

    /// Of the two words of an INIT message.
    pub fn from_words(low: u32, high: u32) -> Self {
        Self(u64::from(low) | u64::from(high) << 32)
    }

    /// The two words of an INIT message, low first.
    pub fn words(self) -> (u32, u32) {
        (self.0 as u32, (self.0 >> 32) as u32)
    }

    /// Whether every flag of `other` is set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for InitFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for InitFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for InitFlags {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The flags of the left side that the right side does not have.
impl Sub for InitFlags {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Names joined by `|`; bits without a name as one hexadecimal number at the end.
impl fmt::Debug for InitFlags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = *self;
        let mut separator = "";
        for (name, flag) in Self::NAMES {
            if rest.contains(*flag) {
                write!(formatter, "{separator}{name}")?;
                separator = "|";
                rest = rest - *flag;
            }
        }
        if rest != Self::NONE || separator.is_empty() {
            write!(formatter, "{separator}{:#x}", rest.0)?;
        }
        Ok(())
    }
}

/// `open_flags` of a reply to OPEN, OPENDIR, CREATE and TMPFILE.
pub mod fopen {
    pub const DIRECT_IO: u32 = 1 << 0;
    pub const KEEP_CACHE: u32 = 1 << 1;
    pub const NONSEEKABLE: u32 = 1 << 2;
    pub const CACHE_DIR: u32 = 1 << 3;
    pub const STREAM: u32 = 1 << 4;
    pub const NOFLUSH: u32 = 1 << 5;
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
    pub const PASSTHROUGH: u32 = 1 << 7;

    /// What may be set together with [`PASSTHROUGH`]; anything else makes the kernel fail the open with EIO.
    pub const WITH_PASSTHROUGH: u32 = PASSTHROUGH | DIRECT_IO | PARALLEL_DIRECT_WRITES | NOFLUSH;
}

/// `valid` of SETATTR.
pub mod fattr {
    pub const MODE: u32 = 1 << 0;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
    pub const LOCKOWNER: u32 = 1 << 9;
    pub const CTIME: u32 = 1 << 10;
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// The type of a file in its mode, which all systems write alike.
pub mod mode {
    pub const FORMAT: u32 = 0o170_000;
    pub const FIFO: u32 = 0o010_000;
    pub const CHAR_DEVICE: u32 = 0o020_000;
    pub const DIRECTORY: u32 = 0o040_000;
    pub const BLOCK_DEVICE: u32 = 0o060_000;
    pub const FILE: u32 = 0o100_000;
    pub const SYMLINK: u32 = 0o120_000;
    pub const SOCKET: u32 = 0o140_000;
}

/// `mode` of FALLOCATE, which is Linux's own.
pub mod falloc {
    pub const KEEP_SIZE: u32 = 1 << 0;
    pub const PUNCH_HOLE: u32 = 1 << 1;
    pub const COLLAPSE_RANGE: u32 = 1 << 3;
    pub const ZERO_RANGE: u32 = 1 << 4;
    pub const INSERT_RANGE: u32 = 1 << 5;
}

/// `flags` of RENAME2, which is Linux's own.
pub mod rename {
    pub const NOREPLACE: u32 = 1 << 0;
    pub const EXCHANGE: u32 = 1 << 1;
}

/// Flags of single messages.
pub mod flag {
    /// `getattr_flags`: `fh` counts.
    pub const GETATTR_FH: u32 = 1 << 0;
    /// `write_flags`: written back from the page cache; the handle is one that some writer has, not the
    /// writer's.
    pub const WRITE_CACHE: u32 = 1 << 0;
    /// `write_flags`: `lock_owner` counts.
    pub const WRITE_LOCKOWNER: u32 = 1 << 1;
    /// `write_flags`: remove setuid and setgid.
    pub const WRITE_KILL_SUIDGID: u32 = 1 << 2;
    /// `read_flags`: `lock_owner` counts.
    pub const READ_LOCKOWNER: u32 = 1 << 1;
    /// `open_flags` of OPEN and CREATE requests: remove setuid and setgid (with `O_TRUNC`).
    pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;
    /// `release_flags`: flush as FLUSH does.
    pub const RELEASE_FLUSH: u32 = 1 << 0;
    /// `release_flags`: release the BSD locks of the handle.
    pub const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
    /// `lk_flags`: a BSD lock, not a POSIX one.
    pub const LK_FLOCK: u32 = 1 << 0;
    /// `fsync_flags`: data only.
    pub const FSYNC_FDATASYNC: u32 = 1 << 0;
    /// `setxattr_flags`: clear setgid when the access list is set.
    pub const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
    /// `flags` of POLL: wake the poller by a notification.
    pub const POLL_SCHEDULE_NOTIFY: u32 = 1 << 0;
    pub const IOCTL_COMPAT: u32 = 1 << 0;
    pub const IOCTL_UNRESTRICTED: u32 = 1 << 1;
    pub const IOCTL_RETRY: u32 = 1 << 2;
    pub const IOCTL_32BIT: u32 = 1 << 3;
    pub const IOCTL_DIR: u32 = 1 << 4;
    pub const IOCTL_COMPAT_X32: u32 = 1 << 5;
    /// `flags` of [`super::Attr`]: the root of a submount.
    pub const ATTR_SUBMOUNT: u32 = 1 << 0;
    pub const ATTR_DAX: u32 = 1 << 1;
    /// `flags` of the INVAL_ENTRY notification: the name's lifetime ends, nothing is unhashed.
    pub const EXPIRE_ONLY: u32 = 1 << 0;
}

/// Types of request extensions above those that count security contexts.
pub mod extension {
    /// Up to this, the number of security contexts that follow.
    pub const SECURITY_CONTEXTS_MAX: u32 = 31;
    /// Supplementary groups.
    pub const GROUPS: u32 = 32;
}

/// `error` of a message with `unique` 0 that the server sends unasked.
pub mod notify {
    pub const POLL: i32 = 1;
    pub const INVAL_INODE: i32 = 2;
    pub const INVAL_ENTRY: i32 = 3;
    pub const STORE: i32 = 4;
    pub const RETRIEVE: i32 = 5;
    pub const DELETE: i32 = 6;
    pub const RESEND: i32 = 7;
    pub const INC_EPOCH: i32 = 8;
    pub const PRUNE: i32 = 9;
}

/// Requests of `ioctl(2)` on the device.
pub mod ioctl {
    use super::BackingMap;
    use rustix::ioctl::{Opcode, opcode};

    const MAGIC: u8 = 229;
    /// On a newly opened device: make it another queue of the connection whose descriptor the argument holds.
    pub const CLONE: Opcode = opcode::read::<u32>(MAGIC, 0);
    /// Registers a file for passthrough; returns its id, which is greater than 0.
    pub const BACKING_OPEN: Opcode = opcode::write::<BackingMap>(MAGIC, 1);
    /// Forgets an id of [`BACKING_OPEN`].
    pub const BACKING_CLOSE: Opcode = opcode::write::<u32>(MAGIC, 2);
}

macro_rules! layouts {
    ($($(#[$doc:meta])* $name:ident, $bytes:literal { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
            #[repr(C)]
            pub struct $name { $(pub $field: $type,)* }
            const _: () = assert!(size_of::<$name>() == $bytes);
        )*
    };
}

layouts! {
    InHeader, 40 {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32, total_extlen: u16,
        padding: u16,
    }
    OutHeader, 16 { len: u32, error: i32, unique: u64, }

    /// Attributes of a node. Times are seconds since the epoch as two's complement, so they may be negative.
    Attr, 88 {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32,
        ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    }
    SxTime, 16 { tv_sec: i64, tv_nsec: u32, reserved: i32, }
    Statx, 256 {
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, spare0: u16, ino: u64,
        size: u64, blocks: u64, attributes_mask: u64, atime: SxTime, btime: SxTime, ctime: SxTime, mtime: SxTime,
        rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, spare2: [u64; 14],
    }
    Kstatfs, 80 {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32,
        padding: u32, spare: [u32; 6],
    }
    FileLock, 24 { start: u64, end: u64, kind: u32, pid: u32, }

    EntryOut, 128 {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32,
        attr_valid_nsec: u32, attr: Attr,
    }
    ForgetIn, 8 { nlookup: u64, }
    ForgetOne, 16 { nodeid: u64, nlookup: u64, }
    BatchForgetIn, 8 { count: u32, dummy: u32, }
    GetattrIn, 16 { getattr_flags: u32, dummy: u32, fh: u64, }
    AttrOut, 104 { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr, }
    StatxIn, 24 { getattr_flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32, }
    StatxOut, 288 { attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: [u64; 2], stat: Statx, }
    MknodIn, 16 { mode: u32, rdev: u32, umask: u32, padding: u32, }
    MkdirIn, 8 { mode: u32, umask: u32, }
    RenameIn, 8 { newdir: u64, }
    Rename2In, 16 { newdir: u64, flags: u32, padding: u32, }
    LinkIn, 8 { oldnodeid: u64, }
    SetattrIn, 88 {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    OpenIn, 8 { flags: u32, open_flags: u32, }
    CreateIn, 16 { flags: u32, mode: u32, umask: u32, open_flags: u32, }
    OpenOut, 16 { fh: u64, open_flags: u32, backing_id: i32, }
    /// The reply to CREATE and TMPFILE.
    CreateOut, 144 { entry: EntryOut, open: OpenOut, }
    ReleaseIn, 24 { fh: u64, flags: u32, release_flags: u32, lock_owner: u64, }
    FlushIn, 24 { fh: u64, unused: u32, padding: u32, lock_owner: u64, }
    ReadIn, 40 {
        fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    WriteIn, 40 {
        fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    WriteOut, 8 { size: u32, padding: u32, }
    FsyncIn, 16 { fh: u64, fsync_flags: u32, padding: u32, }
    /// Without [`InitFlags::SETXATTR_EXT`].
    SetxattrCompatIn, 8 { size: u32, flags: u32, }
    SetxattrIn, 16 { size: u32, flags: u32, setxattr_flags: u32, padding: u32, }
    GetxattrIn, 8 { size: u32, padding: u32, }
    GetxattrOut, 8 { size: u32, padding: u32, }
    LkIn, 48 { fh: u64, owner: u64, lk: FileLock, lk_flags: u32, padding: u32, }
    AccessIn, 8 { mask: u32, padding: u32, }
    /// Before 7.36 only the first 16 bytes are sent.
    InitIn, 64 { major: u32, minor: u32, max_readahead: u32, flags: u32, flags2: u32, unused: [u32; 11], }
    InitOut, 64 {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16,
        max_write: u32, time_gran: u32, max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32,
        request_timeout: u16, unused: [u16; 11],
    }
    InterruptIn, 8 { unique: u64, }
    BmapIn, 16 { block: u64, blocksize: u32, padding: u32, }
    BmapOut, 8 { block: u64, }
    IoctlIn, 32 { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32, }
    IoctlOut, 16 { result: i32, flags: u32, in_iovs: u32, out_iovs: u32, }
    PollIn, 24 { fh: u64, kh: u64, flags: u32, events: u32, }
    PollOut, 8 { revents: u32, padding: u32, }
    FallocateIn, 32 { fh: u64, offset: u64, length: u64, mode: u32, padding: u32, }
    LseekIn, 24 { fh: u64, offset: u64, whence: u32, padding: u32, }
    LseekOut, 8 { offset: u64, }
    CopyFileRangeIn, 56 {
        fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64,
    }
    CopyFileRangeOut, 8 { bytes_copied: u64, }
    /// The name follows, padded with NULs to a multiple of 8 bytes.
    Dirent, 24 { ino: u64, off: u64, namelen: u32, kind: u32, }
    /// The name follows, padded with NULs to a multiple of 8 bytes.
    Direntplus, 152 { entry: EntryOut, dirent: Dirent, }
    ExtHeader, 8 { size: u32, kind: u32, }

    NotifyPollWakeupOut, 8 { kh: u64, }
    NotifyInvalInodeOut, 24 { ino: u64, off: i64, len: i64, }
    NotifyInvalEntryOut, 16 { parent: u64, namelen: u32, flags: u32, }
    NotifyDeleteOut, 24 { parent: u64, child: u64, namelen: u32, padding: u32, }
    NotifyStoreOut, 24 { nodeid: u64, offset: u64, size: u32, padding: u32, }
    NotifyRetrieveIn, 40 { dummy1: u64, offset: u64, size: u32, dummy2: u32, dummy3: u64, dummy4: u64, }

    BackingMap, 16 { fd: i32, flags: u32, padding: u64, }
}

pub mod darwin;
mod flavour;
#[cfg(target_os = "linux")]
pub mod linux;

/// The number of a request under which its outcome is recorded: the same before and after a resend.
pub fn identity(unique: u64) -> u64 {
    unique & !UNIQUE_RESEND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_a_number_is_the_c_librarys() {
        let modes = [
            (mode::FORMAT, libc::S_IFMT),
            (mode::FIFO, libc::S_IFIFO),
            (mode::CHAR_DEVICE, libc::S_IFCHR),
            (mode::DIRECTORY, libc::S_IFDIR),
            (mode::BLOCK_DEVICE, libc::S_IFBLK),
            (mode::FILE, libc::S_IFREG),
            (mode::SYMLINK, libc::S_IFLNK),
            (mode::SOCKET, libc::S_IFSOCK),
            (rename::NOREPLACE, libc::RENAME_NOREPLACE),
            (rename::EXCHANGE, libc::RENAME_EXCHANGE),
            (falloc::KEEP_SIZE, libc::FALLOC_FL_KEEP_SIZE.cast_unsigned()),
            (falloc::PUNCH_HOLE, libc::FALLOC_FL_PUNCH_HOLE.cast_unsigned()),
            (falloc::COLLAPSE_RANGE, libc::FALLOC_FL_COLLAPSE_RANGE.cast_unsigned()),
            (falloc::ZERO_RANGE, libc::FALLOC_FL_ZERO_RANGE.cast_unsigned()),
            (falloc::INSERT_RANGE, libc::FALLOC_FL_INSERT_RANGE.cast_unsigned()),
        ];
        for (ours, theirs) in modes {
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn ioctl_numbers_are_the_headers() {
        assert_eq!(ioctl::CLONE, 0x8004_e500);
        assert_eq!(ioctl::BACKING_OPEN, 0x4010_e501);
        assert_eq!(ioctl::BACKING_CLOSE, 0x4004_e502);
    }

    #[test]
    fn init_flags_split_into_words_and_print_their_names() {
        let flags = InitFlags::ASYNC_READ | InitFlags::HAS_RESEND | InitFlags(1 << 60);
        assert_eq!(flags.words(), (1, 1 << 7 | 1 << 28));
        assert_eq!(InitFlags::from_words(1, 1 << 7 | 1 << 28), flags);
        assert_eq!(format!("{flags:?}"), "ASYNC_READ|HAS_RESEND|0x1000000000000000");
        assert_eq!(format!("{:?}", InitFlags::NONE), "0x0");
    }

    #[test]
    fn every_opcode_is_found_by_its_number() {
        for number in 0..100 {
            if let Some(opcode) = Opcode::from_number(number) {
                assert_eq!(opcode as u32, number, "{}", opcode.name());
            }
        }
        assert_eq!(Opcode::from_number(48), None);
    }
}
