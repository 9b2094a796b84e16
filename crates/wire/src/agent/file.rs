//! Files.
//!
//! **Where an operation acts.** A [`Place`] names a file by identity and by path. The agent keeps directory descriptors
//! by identity; when it has one, it acts there, wherever the directory has been moved meanwhile. Otherwise it resolves
//! the path beneath the exported root, without following a symlink and without leaving the root, and refuses with
//! `ESTALE` if what is there is another file. So an operation acts on the file the client meant, or on none.
//!
//! **Who does it.** A request that makes a file says for whom ([`Caller`]). An agent with the privilege makes it with that
//! user's file system ids; any other makes it as itself.
//!
//! **What comes back.** A request that changes a file is answered with the attributes after the change.

use serde::{Deserialize, Serialize};

use super::HandleId;
use super::name::{Name, RelativePath};

mod messages;

pub use messages::{FileReply, FileRequest};

/// What a file is as long as it exists, under every name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    /// The machine's device number.
    pub device: u64,
    /// The inode number on that device.
    pub inode: u64,
    /// Time of birth in nanoseconds, which tells a file from the next one that gets its inode number; 0 where the
    /// machine's file system does not record it, or gives a file another when it is changed.
    pub birth: u64,
}

/// A file by identity and by one of its paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Which file.
    pub id: FileId,
    /// Where it was last seen.
    pub path: RelativePath,
}

/// What an operation acts on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// A file by name.
    Place(Place),
    /// An open file, which may have no name any more.
    Handle(HandleId),
}

/// What kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// Seconds and nanoseconds since 1970; nanoseconds are below 1,000,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// The rest.
    pub nanoseconds: u32,
}

/// What `stat` tells, but for the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with set-id and sticky: 12 bits.
    pub mode: u16,
    /// Number of names.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// For a device, which: as `makedev` packs it in 64 bits on Linux.
    pub device: u64,
    /// Length in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Preferred size of a read or write.
    pub block_size: u32,
    /// Last read.
    pub accessed: Time,
    /// Last change of the content.
    pub modified: Time,
    /// Last change of content or attributes.
    pub changed: Time,
    /// Whether the file may have extended attributes. `false` is certain when it was said.
    pub xattrs: bool,
}

impl Attributes {
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
}

/// A file as a directory shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which file.
    pub id: FileId,
    /// Its attributes.
    pub attributes: Attributes,
}

/// The promise to tell of changes of a directory: of its own attributes, of its names, and of the attributes and
/// contents of the files in it that are not directories and have one name. (A directory's own change times, and files
/// with several names, are covered by the lease on the directory itself, or by none.)
///
/// Each change raises the directory's epoch and is told by [`Changed`]. The agent starts to watch before it reads what
/// it answers with, and says the epoch from before the reading. So a client that has heard of a later epoch than a
/// reply's uses that reply once, and keeps nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The epoch before the reply was read.
    pub epoch: u64,
    /// How long the promise holds, in milliseconds; 0 is until told otherwise. Anything else means that the directory
    /// cannot be watched, and that nothing will be told.
    pub valid_ms: u32,
}

/// How long a lease holds where the machine cannot watch.
pub const UNWATCHED_LEASE_MS: u32 = 1000;

/// Tells of a change in a directory under lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The directory.
    pub directory: FileId,
    /// Its epoch from now on.
    pub epoch: u64,
    /// What changed.
    pub what: Change,
    /// The directory's own attributes now, where they may have changed.
    pub attributes: Option<Attributes>,
}

/// What changed in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The directory's own attributes, nothing in it.
    Itself,
    /// The name is now this file, or its attributes or content changed.
    Present {
        /// The name in the directory.
        name: Name,
        /// What it is now.
        entry: Entry,
    },
    /// The name is gone.
    Absent {
        /// The name in the directory.
        name: Name,
    },
    /// The lease has ended: anything may have changed, and nothing more will be told.
    LeaseLost,
}

/// The user on whose behalf a file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Applied to the mode where the directory has no default access control list.
    pub umask: u16,
}

/// What to do with one time of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// Leave it.
    #[default]
    Keep,
    /// The machine's present.
    Now,
    /// This.
    To(Time),
}

/// Changes of attributes, applied in the order of the fields: size, owner, mode, times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeChanges {
    /// Cut or grow.
    pub size: Option<u64>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New permission bits: 12 bits.
    pub mode: Option<u16>,
    /// Last read.
    pub accessed: SetTime,
    /// Last change of the content.
    pub modified: SetTime,
    /// Whether a change of size or owner also clears the set-id bits, as it does for an unprivileged user.
    pub clear_set_id: bool,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OpenFlags {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Every write goes to the end, decided by the machine. What is read, too, can be mapped to be written: there only a write
    /// that says so does ([`WriteAt::End`]), and one at an offset is refused where the machine permits nothing but appending.
    pub append: bool,
    /// Cut to nothing.
    pub truncate: bool,
    /// Every write is on the machine's disk before it is answered.
    pub sync: bool,
    /// Around the machine's page cache. A machine that cannot opens without.
    pub direct: bool,
    /// Fails if the file exists; with creation only.
    pub exclusive: bool,
}

/// What a symlink at the end of a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastLink {
    /// What it points to.
    Followed,
    /// Itself.
    Kept,
}

/// What `rename` does when the new name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Fails with `EEXIST`.
    NoReplace,
    /// The two change places.
    Exchange,
}

/// Whether an extended attribute may exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Either.
    Set,
    /// It must not.
    Create,
    /// It must.
    Replace,
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteAt {
    /// At this offset.
    Offset(u64),
    /// At the end, found and written in one step.
    End,
}

/// What `fallocate` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allocation {
    /// Reserve; grow the file when `keep_size` is not set.
    Reserve {
        /// The length stays.
        keep_size: bool,
    },
    /// Make a hole; the length stays.
    Punch,
    /// Make zeros.
    Zero {
        /// The length stays.
        keep_size: bool,
    },
    /// Take a range out; what follows moves down.
    Collapse,
    /// Put a hole in; what follows moves up.
    Insert,
}

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeekFor {
    /// Bytes that are there.
    Data,
    /// A hole, or the end.
    Hole,
}

/// Which family of locks. The two do not see each other, as on a local disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LockFamily {
    /// `flock`: of the open file.
    Flock,
    /// `fcntl`: of a range, held by an owner.
    Posix,
}

/// What kind of lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "POSIX's own words")]
pub enum LockKind {
    Shared,
    Exclusive,
    Unlocked,
}

/// A lock, wanted or found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lock {
    /// Which family.
    pub family: LockFamily,
    /// Shared, exclusive, or the wish to give it back.
    pub kind: LockKind,
    /// First byte; 0 for `flock`.
    pub start: u64,
    /// Last byte, [`u64::MAX`] for the end of the file however it grows.
    pub end: u64,
}

/// Space and limits of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks not in use.
    pub blocks_free: u64,
    /// Blocks that an unprivileged user may still use.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes not in use.
    pub files_free: u64,
    /// Longest name.
    pub name_bytes: u32,
}

/// One name of a directory's listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The name.
    pub name: Name,
    /// The file. Absent if it went away between the listing and the look, or cannot be looked at; the name is told all
    /// the same.
    pub entry: Option<Entry>,
    /// The machine's cookie for the position behind this name. It stays right while names come and go.
    pub cookie: u64,
}

/// The most that one [`FileRequest::Digest`] reads: a fraction of a second.
pub const DIGEST_BYTES_MAX: u32 = 64 << 20;

/// The shortest block of a [`FileRequest::Digest`]: a reply is far shorter than what it is of.
pub const DIGEST_BLOCK_BYTES_MIN: u32 = 16 << 10;

/// What a block of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDigest {
    /// Its BLAKE3 digest.
    pub digest: [u8; 32],
    /// Its length, less than was asked for at the end of the file.
    pub bytes: u32,
    /// Whether it is nothing but zeros, stored or not.
    pub zeros: bool,
}

/// The most files in one [`FileRequest::PutMany`] or [`FileRequest::GetMany`]: their names stay far below what a frame's head may
/// have, and none of them holds up others for long.
pub const FILES_MAX: usize = 64;

/// One of several files that are made at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewFile {
    /// Its name.
    pub name: Name,
    /// What it is called until it is complete. A file that is there under this name is used.
    pub beside: Name,
    /// Permission bits while it is not complete.
    pub mode: u16,
    /// Applied after the content.
    pub changes: AttributeChanges,
    /// The length of its content.
    pub bytes: u32,
}

/// Where a [`FileRequest::Walk`] begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WalkFrom {
    /// With the directory itself.
    Itself,
    /// With the subtree of this name in it, then those of the directories behind it in the machine's order, then those
    /// before it. The directory itself is not told. Without the name, as from the first.
    Below(Name),
}

/// Bounds on a [`FileRequest::Walk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalkBudget {
    /// At most this many entries in all. A directory is told whole or not at all.
    pub entries: u32,
    /// At most this many levels below the start; 0 is the start alone.
    pub depth: u16,
    /// Files up to this size come with their content, while `content_bytes` lasts.
    pub file_bytes: u32,
    /// At most this much content in all.
    pub content_bytes: u64,
}

/// What a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum WatchEvent {
    Created,
    Modified,
    Removed,
}
