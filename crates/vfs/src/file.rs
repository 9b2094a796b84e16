//! What files are: identity, kind, attributes.

use std::sync::Arc;

/// The name of one directory entry: bytes.
pub type Name = Arc<[u8]>;

/// The longest name, as on every local file system.
pub const NAME_BYTES_MAX: usize = 255;

/// Where files end at the latest: the kernel's `loff_t` is signed.
pub(crate) const OFFSET_MAX: u64 = i64::MAX as u64;

/// What a file is at its source for as long as it exists, under every name. `birth` tells a file from the next one
/// that gets its inode number; 0 where that is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "said above")]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
    pub birth: u64,
}

/// What kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "POSIX's own words")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// A point in time since 1970, in nanoseconds below the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "said above")]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// What `stat` tells, but for the identity. `mode` has the 12 permission bits; `blocks` counts 512 bytes; `device` is
/// a device file's number as Linux packs it in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Attributes {
    pub kind: Kind,
    pub mode: u16,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub device: u64,
    pub size: u64,
    pub blocks: u64,
    pub block_size: u32,
    pub accessed: Time,
    pub modified: Time,
    pub changed: Time,
    /// Whether there may be extended attributes; `false` is certain when it was said.
    pub xattrs: bool,
}

/// What tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "stat(2)'s own words")]
pub struct Version {
    pub size: u64,
    pub modified: Time,
    pub changed: Time,
}

/// What tells one content of a file from another across processes. Unlike a [`Version`] it says nothing of names and rights:
/// a change that keeps size and time of modification is not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "stat(2)'s own words")]
pub struct Content {
    pub size: u64,
    pub modified: Time,
}

impl Attributes {
    /// The content these attributes describe; `None` where they are of a file of which only the kind is known.
    pub fn content(&self) -> Option<Content> {
        let is_known = self.changed != Time::default() || self.modified != Time::default();
        is_known.then_some(Content { size: self.size, modified: self.modified })
    }

    /// Of an empty file of root's that nobody may use, with one name: to be filled in.
    pub fn new(kind: Kind) -> Attributes {
        Attributes {
            kind,
            mode: 0,
            links: 1,
            uid: 0,
            gid: 0,
            device: 0,
            size: 0,
            blocks: 0,
            block_size: 4096,
            accessed: Time::default(),
            modified: Time::default(),
            changed: Time::default(),
            xattrs: false,
        }
    }

    /// The version of the content these attributes describe.
    pub fn version(&self) -> Version {
        Version { size: self.size, modified: self.modified, changed: self.changed }
    }

    /// Whether these are other attributes than `other`, but for what reads change and what settles by itself later.
    pub fn differ(&self, other: &Attributes) -> bool {
        Attributes { accessed: other.accessed, blocks: other.blocks, ..*self } != *other
    }

    /// Whether the content may differ from that of `other`: size or modification time do.
    pub fn content_differs(&self, other: &Attributes) -> bool {
        self.size != other.size || self.modified != other.modified
    }
}

/// A file as a directory shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Entry {
    pub id: FileId,
    pub attributes: Attributes,
}

/// The user for whom a file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub umask: u16,
}

/// A thread of a program that uses the mount, as this system numbers its threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadId(pub u32);

impl ThreadId {
    /// One that cannot be told: of another system, of a namespace that is not seen from here, or of the kernel itself.
    pub const UNKNOWN: ThreadId = ThreadId(0);
}

/// What to do with one time of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum SetTime {
    #[default]
    Keep,
    Now,
    To(Time),
}

/// Changes of attributes, applied in the order size, owner, mode, times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct AttributeChanges {
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u16>,
    pub accessed: SetTime,
    pub modified: SetTime,
    /// A change of size or owner also clears the set-id bits.
    pub clear_set_id: bool,
}

impl AttributeChanges {
    /// What a file is expected to be after these. Times that are the source's present stay as they were.
    pub(crate) fn predict(&self, before: Attributes) -> Attributes {
        let time = |set, before| if let SetTime::To(time) = set { time } else { before };
        Attributes {
            size: self.size.unwrap_or(before.size),
            uid: self.uid.unwrap_or(before.uid),
            gid: self.gid.unwrap_or(before.gid),
            mode: self.mode.unwrap_or(before.mode),
            accessed: time(self.accessed, before.accessed),
            modified: time(self.modified, before.modified),
            ..before
        }
    }

    /// These and then `later`, at once.
    pub(crate) fn then(self, later: AttributeChanges) -> AttributeChanges {
        let time = |set, before| if set == SetTime::Keep { before } else { set };
        AttributeChanges {
            size: later.size.or(self.size),
            uid: later.uid.or(self.uid),
            gid: later.gid.or(self.gid),
            mode: later.mode.or(self.mode),
            accessed: time(later.accessed, self.accessed),
            modified: time(later.modified, self.modified),
            clear_set_id: self.clear_set_id || later.clear_set_id,
        }
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "open(2)'s own words")]
pub struct OpenFlags {
    pub read: bool,
    pub write: bool,
    pub append: bool,
    pub truncate: bool,
    pub sync: bool,
    pub direct: bool,
    pub exclusive: bool,
}

/// What `rename` does when the new name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "renameat2(2)'s own words")]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// Whether an extended attribute may, must not or must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "setxattr(2)'s own words")]
pub enum XattrMode {
    Set,
    Create,
    Replace,
}

/// Where a write goes; the end is found and written in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum WriteAt {
    Offset(u64),
    End,
}

/// What `fallocate` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fallocate(2)'s own words")]
pub enum Allocation {
    Reserve { keep_size: bool },
    Punch,
    Zero { keep_size: bool },
    Collapse,
    Insert,
}

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "lseek(2)'s own words")]
pub enum SeekFor {
    Data,
    Hole,
}

/// Which family of locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the system calls' own words")]
pub enum LockFamily {
    Flock,
    Posix,
}

/// What kind of lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "POSIX's own words")]
pub enum LockKind {
    Shared,
    Exclusive,
    Unlocked,
}

/// A lock, wanted or found. `end` is the last byte, [`u64::MAX`] for however far the file grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Lock {
    pub family: LockFamily,
    pub kind: LockKind,
    pub start: u64,
    pub end: u64,
}

/// Space and limits of a file system, as `statvfs` tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Space {
    pub block_size: u32,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_bytes: u32,
}
