//! What the kernel asks: bytes read from the device become a [`Request`] that borrows them.
//!
//! Nothing is copied but fixed-size fields; names and payloads are slices of the buffer. The bytes are
//! treated as hostile: every length is checked, no input panics, and what cannot be parsed still says which
//! request it was, so that it can be answered with an error instead of leaving a process waiting.

mod parse;

#[cfg(doc)]
use super::abi::flag;
use super::abi::{self, Flavour, InitFlags, Opcode};
use std::fmt;
use thiserror::Error;
use zerocopy::FromBytes;

/// Who asks, for what, about which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// As the kernel sent it, with the resend bit: the reply must carry exactly this.
    pub unique: u64,
    /// A server before this one had taken the request, and may have carried it out. See [`Header::identity`].
    pub resent: bool,
    /// The kernel's number for the operation.
    pub opcode: u32,
    /// The node the operation is about; the parent directory for operations on a name. 0 where there is none.
    pub node: u64,
    /// The caller's file system user; [`abi::INVALID_ID`] on an id-mapped mount when nothing is created.
    pub uid: u32,
    /// The caller's file system group, with the same exception.
    pub gid: u32,
    /// The caller's thread in the mount's pid namespace; 0 for the kernel itself and for other namespaces. On macOS the caller's
    /// process.
    pub pid: u32,
    /// What this process calls the request, where the kernel's [numbers return](Flavour::numbers_return).
    pub(super) own: Option<u64>,
}

impl Header {
    fn read(raw: &abi::InHeader) -> Self {
        Self {
            unique: raw.unique,
            resent: raw.unique & abi::UNIQUE_RESEND != 0,
            opcode: raw.opcode,
            node: raw.nodeid,
            uid: raw.uid,
            gid: raw.gid,
            pid: raw.pid,
            own: None,
        }
    }

    /// The number under which the outcome is recorded: the same in the first request and in a resent one, and never that of
    /// another request.
    pub fn identity(&self) -> u64 {
        self.own.unwrap_or(abi::identity(self.unique))
    }

    /// Whether the kernel waits for an answer. It does not for FORGET, BATCH_FORGET, INTERRUPT and
    /// NOTIFY_REPLY.
    pub fn expects_reply(&self) -> bool {
        !matches!(
            Opcode::from_number(self.opcode),
            Some(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt | Opcode::NotifyReply)
        )
    }

    /// The operation's name, or its number.
    pub fn operation_name(&self) -> OperationName {
        OperationName(self.opcode)
    }
}

/// Prints an opcode's name, or the number of an unknown one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationName(u32);

impl OperationName {
    pub(super) fn of(opcode: u32) -> Self {
        Self(opcode)
    }
}

impl fmt::Display for OperationName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Opcode::from_number(self.0) {
            Some(opcode) => formatter.write_str(opcode.name()),
            None => write!(formatter, "operation {}", self.0),
        }
    }
}

/// Why a request could not be parsed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than the fixed part that the operation has.
    #[error("{available} bytes are too few for {layout}, which has {needed}")]
    Short {
        /// The layout that did not fit.
        layout: &'static str,
        /// Its size.
        needed: usize,
        /// What was there.
        available: usize,
    },
    /// The header's length is not the length of the message.
    #[error("the header says {declared} bytes, the message has {received}")]
    Length {
        /// By the header.
        declared: u32,
        /// By the read.
        received: usize,
    },
    /// The payload is not as long as its size field says.
    #[error("{declared} bytes of payload are declared, {available} are there")]
    Payload {
        /// By the size field.
        declared: u64,
        /// What was there.
        available: usize,
    },
    /// No NUL ends the string.
    #[error("the {0} is not ended by a NUL")]
    Unterminated(&'static str),
    /// Nothing before the NUL.
    #[error("the {0} is empty")]
    Empty(&'static str),
    /// A name with a slash, or `.` or `..` where a name is created, removed or moved.
    #[error("the {0} is not the name of a directory entry")]
    NotAName(&'static str),
    /// Bytes are left after everything the operation has.
    #[error("{0} bytes are left over")]
    Trailing(usize),
    /// A field has a value that means nothing.
    #[error("the {field} {value} is out of range")]
    Range {
        /// Which field.
        field: &'static str,
        /// What it held.
        value: u64,
    },
}

/// A message from the kernel that is not a request as documented.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{} is malformed", Subject(.header))]
pub struct ParseError {
    /// What can be said about the request; `None` when not even the header was there. Answer it with EIO if
    /// [`Header::expects_reply`].
    pub header: Option<Header>,
    /// What is wrong.
    #[source]
    pub cause: Malformed,
}

struct Subject<'a>(&'a Option<Header>);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(header) => write!(formatter, "request {:#x} ({})", header.unique, header.operation_name()),
            None => formatter.write_str("a message from the kernel"),
        }
    }
}

/// What changes how requests are laid out: the kernel, and what was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Whose requests they are.
    pub flavour: &'static Flavour,
    /// [`InitFlags::SETXATTR_EXT`] was granted.
    pub setxattr_ext: bool,
}

impl Dialect {
    /// What every kernel since 5.12 (7.33) speaks with [`super::negotiation::Wanted::default`].
    pub const CURRENT: Self = Self { flavour: abi::OWN, setxattr_ext: true };

    /// The dialect of this kernel after INIT granted `flags`.
    pub fn of(flavour: &'static Flavour, flags: InitFlags) -> Self {
        Self { flavour, setxattr_ext: flags.contains(InitFlags::SETXATTR_EXT) }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Who asks.
    pub header: Header,
    /// For what.
    pub operation: Operation<'a>,
    /// What creating operations carry besides.
    pub extensions: Extensions<'a>,
}

/// Seconds and nanoseconds since the epoch. `nanoseconds` is below one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Negative before 1970.
    pub seconds: i64,
    /// Counted forwards, also before 1970.
    pub nanoseconds: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The server's present.
    Now,
    /// This one.
    At(Timestamp),
}

/// What SETATTR changes; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setattr {
    /// The open file through which the change is made (`ftruncate`).
    pub handle: Option<u64>,
    /// The POSIX lock owner of a truncation.
    pub lock_owner: Option<u64>,
    /// Permission bits, with or without the type.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Change time; only with the kernel's writeback cache.
    pub ctime: Option<Timestamp>,
    /// Remove setuid and setgid.
    pub kill_suid_sgid: bool,
    /// Flags of `chflags(2)`, which Linux has none of.
    pub file_flags: Option<u32>,
}

/// A POSIX or BSD lock request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The open file.
    pub handle: u64,
    /// Who locks; opaque.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte, included; `i64::MAX` for the end of the file.
    pub end: u64,
    /// What to do.
    pub kind: LockKind,
    /// The locking process.
    pub pid: u32,
    /// A BSD lock: the whole file, by open file.
    pub flock: bool,
}

/// The kinds of lock, with the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LockKind {
    /// `F_RDLCK`.
    Shared = 0,
    /// `F_WRLCK`.
    Exclusive = 1,
    /// `F_UNLCK`.
    Unlock = 2,
}

/// The fields of READ, READDIR and READDIRPLUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The open file or directory.
    pub handle: u64,
    /// First byte, or the cookie after which a listing goes on (0: from the start).
    pub offset: u64,
    /// The most bytes the reply may have.
    pub size: u32,
    /// The POSIX lock owner, for mandatory locks.
    pub lock_owner: Option<u64>,
    /// `open(2)` flags of the file as they are now.
    pub flags: u32,
}

/// The fields of WRITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// The open file.
    pub handle: u64,
    /// First byte.
    pub offset: u64,
    /// A slice of the buffer that was parsed.
    pub data: &'a [u8],
    /// The POSIX lock owner, for mandatory locks.
    pub lock_owner: Option<u64>,
    /// `open(2)` flags of the file as they are now.
    pub flags: u32,
    /// Written back from the page cache, perhaps long after the caller's `write` and through another handle:
    /// the header's ids are then not the writer's.
    pub from_cache: bool,
    /// Remove setuid and setgid.
    pub kill_suid_sgid: bool,
}

/// The fields of RELEASE and RELEASEDIR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Ends with this request.
    pub handle: u64,
    /// `open(2)` flags.
    pub flags: u32,
    /// Whose locks end.
    pub lock_owner: u64,
    /// Flush as FLUSH does.
    pub flush: bool,
    /// Release the BSD locks of the handle.
    pub flock_unlock: bool,
}

/// The fields of COPY_FILE_RANGE; the header's node is the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFileRange {
    /// Source file.
    pub handle: u64,
    /// First byte of the source.
    pub offset: u64,
    /// Target node.
    pub target_node: u64,
    /// Target file.
    pub target_handle: u64,
    /// First byte of the target.
    pub target_offset: u64,
    /// Bytes to copy.
    pub length: u64,
    /// `copy_file_range(2)` flags.
    pub flags: u64,
    /// Which reply the kernel expects.
    pub width: CopyWidth,
}

/// How the number of copied bytes is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyWidth {
    /// COPY_FILE_RANGE: 32 bits.
    Narrow,
    /// COPY_FILE_RANGE_64: 64 bits. ENOSYS makes the kernel use the other.
    Wide,
}

/// The fields of CREATE and of TMPFILE, which has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Create<'a> {
    /// The new entry; empty for TMPFILE.
    pub name: &'a [u8],
    /// `open(2)` flags.
    pub flags: u32,
    /// Type and permissions, the umask applied unless [`InitFlags::DONT_MASK`].
    pub mode: u32,
    /// The caller's.
    pub umask: u32,
    /// Remove setuid and setgid of an existing file that is truncated.
    pub kill_suid_sgid: bool,
}

/// The fields of IOCTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioctl<'a> {
    /// The open file or directory.
    pub handle: u64,
    /// [`flag`]`::IOCTL_*`.
    pub flags: u32,
    /// The request number.
    pub command: u32,
    /// The third argument as a number; a pointer means nothing here.
    pub argument: u64,
    /// What the caller passed.
    pub input: &'a [u8],
    /// The most bytes the reply may have.
    pub output_size: u32,
}

/// What is asked. Names are without slash, NUL-free and not empty; `.` and `..` occur in `Lookup` only.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "variants and fields are the operations of fuse.h by name")]
pub enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Forget {
        lookups: u64,
    },
    BatchForget(Forgets<'a>),
    Getattr {
        handle: Option<u64>,
    },
    Setattr(Setattr),
    Readlink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    Mknod {
        name: &'a [u8],
        mode: u32,
        rdev: u32,
        umask: u32,
    },
    Mkdir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    Rmdir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    Link {
        node: u64,
        new_name: &'a [u8],
    },
    Open {
        flags: u32,
        kill_suid_sgid: bool,
    },
    Read(Read),
    Write(Write<'a>),
    Statfs,
    Release(Release),
    Fsync {
        handle: u64,
        data_only: bool,
    },
    /// `position` is where the value begins in the attribute; 0 on Linux.
    Setxattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
        acl_kill_sgid: bool,
        position: u32,
    },
    /// `position` is from where on the value is wanted; 0 on Linux.
    Getxattr {
        name: &'a [u8],
        size: u32,
        position: u32,
    },
    Listxattr {
        size: u32,
    },
    Removexattr {
        name: &'a [u8],
    },
    Flush {
        handle: u64,
        lock_owner: u64,
    },
    Init(abi::InitIn),
    Opendir {
        flags: u32,
    },
    Readdir(Read),
    Readdirplus(Read),
    Releasedir(Release),
    Fsyncdir {
        handle: u64,
        data_only: bool,
    },
    Getlk(Lock),
    Setlk(Lock),
    Setlkw(Lock),
    Access {
        mask: u32,
    },
    Create(Create<'a>),
    /// `target` is the interrupted request's `unique`, resend bit included: compare by [`abi::identity`].
    /// With cloned descriptors the interrupt may be read through another one, and before the thread that took
    /// the request has recorded it.
    Interrupt {
        target: u64,
    },
    Bmap {
        block: u64,
        block_size: u32,
    },
    Destroy,
    Ioctl(Ioctl<'a>),
    Poll {
        handle: u64,
        kernel_handle: u64,
        events: u32,
        schedule_notify: bool,
    },
    NotifyReply {
        offset: u64,
        data: &'a [u8],
    },
    Fallocate {
        handle: u64,
        offset: u64,
        length: u64,
        mode: u32,
    },
    Lseek {
        handle: u64,
        offset: u64,
        whence: u32,
    },
    CopyFileRange(CopyFileRange),
    Syncfs,
    Tmpfile(Create<'a>),
    Statx {
        handle: Option<u64>,
        flags: u32,
        mask: u32,
    },
    /// Answer ENOSYS.
    Unknown(u32),
}

/// The nodes of a BATCH_FORGET.
#[derive(Clone, Debug)]
pub struct Forgets<'a> {
    rest: &'a [u8],
}

/// A node, and the number of lookups that are taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forget {
    /// Which.
    pub node: u64,
    /// How often.
    pub lookups: u64,
}

impl Iterator for Forgets<'_> {
    type Item = Forget;

    fn next(&mut self) -> Option<Forget> {
        let (one, rest) = abi::ForgetOne::read_from_prefix(self.rest).ok()?;
        self.rest = rest;
        Some(Forget { node: one.nodeid, lookups: one.nlookup })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.rest.len() / size_of::<abi::ForgetOne>();
        (count, Some(count))
    }
}

impl ExactSizeIterator for Forgets<'_> {}

/// What follows a creating operation: supplementary groups and security contexts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extensions<'a> {
    groups: &'a [u8],
}

impl<'a> Extensions<'a> {
    /// The caller's groups beyond the header's that matter to what is created: with
    /// [`InitFlags::CREATE_SUPP_GROUP`] the directory's, if the caller is a member.
    pub fn groups(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.groups.chunks_exact(size_of::<u32>()).filter_map(|bytes| u32::read_from_bytes(bytes).ok())
    }
}

impl<'a> Request<'a> {
    /// Parses one message in [`Dialect::CURRENT`]. A server that has negotiated uses [`Request::parse_as`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        Self::parse_as(bytes, Dialect::CURRENT)
    }

    /// Parses one message, exactly as one `read` of the device returned it.
    pub fn parse_as(bytes: &'a [u8], dialect: Dialect) -> Result<Self, ParseError> {
        let raw: abi::InHeader =
            parse::peek(bytes, "fuse_in_header").map_err(|cause| ParseError { header: None, cause })?;
        let header = Header::read(&raw);
        let (operation, extensions) =
            parse::body(&raw, bytes, dialect).map_err(|cause| ParseError { header: Some(header), cause })?;
        Ok(Self { header, operation, extensions })
    }
}

#[cfg(test)]
mod tests;
