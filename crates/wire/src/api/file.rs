//! `file.*`: the same tree without a mount, in chunks.
//!
//! Files and directories are opened, read or written in chunks of at most [`CHUNK_BYTES_MAX`], and closed. A handle
//! belongs to the connection that opened it. Requests on one connection may be pipelined and are answered in any order,
//! so a client keeps several reads or writes under way to fill a long link; writes at given offsets do not depend on
//! their order.
//!
//! Names are [`ByteString`]s; content is base64.

use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::ErrorObject;
use super::find::LeftOut;
use super::id::HandleId;
use super::machine::{Caller, Source};
use crate::bytestring::ByteString;

/// The most content in one message. In base64, with its envelope, it is well below a line's limit.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

/// The most entries in one reply to [`List`]. Names of 255 bytes in hexadecimal stay below a line's limit; the daemon
/// sends fewer when link targets are long.
pub const ENTRIES_MAX: usize = 1024;

/// The most handles one connection holds open.
pub const HANDLES_MAX: usize = 64;

/// Bytes of a file. Its `Debug` shows only how many.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content(pub Vec<u8>);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes)", self.0.len())
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Content).map_err(serde::de::Error::custom)
    }
}

/// What a name refers to when it is a symbolic link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Links {
    /// What the link points to.
    #[default]
    Follow,
    /// The link itself.
    Keep,
}

/// What sort of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The last component of its path.
    pub name: ByteString,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, set-id bits and the sticky bit.
    pub mode: u32,
    /// Owner on the machine.
    pub uid: u32,
    /// Group on the machine.
    pub gid: u32,
    /// In bytes.
    pub size: u64,
    /// Occupied space in units of 512 bytes.
    pub blocks: u64,
    /// How many names it has.
    pub links: u64,
    /// The machine's number for it, on its device.
    pub inode: u64,
    /// The machine's number for the file system it is in, which may be another when the machine has started again; 0 from a
    /// daemon that does not say it.
    #[serde(default)]
    pub device: u64,
    /// When it was made, in nanoseconds, which tells it from the next one that gets its inode; 0 where that is not known.
    #[serde(default)]
    pub birth: u64,
    /// Last change of content.
    pub modified: FileTime,
    /// Last change of anything.
    pub changed: FileTime,
    /// Last read, as far as the machine keeps it.
    pub accessed: FileTime,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ByteString>,
}

/// Since 1970, to the nanosecond; seconds are negative before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTime {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// Attributes of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stat {
    /// Which.
    pub source: Source,
    /// Of a link, or of what it points to.
    #[serde(default)]
    pub links: Links,
    /// Who asks.
    pub caller: Caller,
}

/// Opens a directory for listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenDirectory {
    /// Which.
    pub source: Source,
    /// Who asks.
    pub caller: Caller,
}

/// A handle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// For the requests that follow.
    pub handle: HandleId,
    /// What was opened.
    pub entry: Entry,
}

/// The next entries of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// From [`OpenDirectory`]. Only one such request at a time.
    pub handle: HandleId,
}

/// Entries, in the machine's order, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// At most [`ENTRIES_MAX`]; may be fewer, or none, before the end.
    pub entries: Vec<Entry>,
    /// Whether there is more.
    pub progress: Progress,
}

/// Whether there is more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Ask again.
    More,
    /// That was all.
    End,
}

/// Opens a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Which.
    pub source: Source,
    /// What for.
    pub purpose: Purpose,
    /// Who asks.
    pub caller: Caller,
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "for", deny_unknown_fields)]
pub enum Purpose {
    /// Reading.
    Read,
    /// Reading and writing a file that may be there, or is made.
    Both {
        /// When it does not exist, when it does.
        create: Creation,
        /// Permission bits of a new file, before the login's umask.
        mode: u32,
    },
    /// Writing.
    Write {
        /// When it does not exist, when it does.
        create: Creation,
        /// Permission bits of a new file, before the login's umask.
        mode: u32,
    },
}

/// What happens to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Creation {
    /// The file must exist; its content is kept.
    Existing,
    /// It is created when it is missing; its content is kept, so that a copy can be resumed.
    Keep,
    /// It is created when it is missing, and emptied.
    Truncate,
    /// It must not exist.
    New,
}

/// A chunk of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// From [`Open`].
    pub handle: HandleId,
    /// From where.
    pub offset: u64,
    /// At most how much; no more than [`CHUNK_BYTES_MAX`].
    pub bytes: u32,
}

/// Content of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// May be shorter than asked for; empty only at the end of the file.
    pub content: Content,
}

/// Puts a chunk into a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// From [`Open`].
    pub handle: HandleId,
    /// Where to.
    pub offset: u64,
    /// At most [`CHUNK_BYTES_MAX`].
    pub content: Content,
}

/// The chunk has been applied on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// All of it: a short write is an error.
    pub bytes: u32,
}

/// Reads a small file at once. One of more than [`CHUNK_BYTES_MAX`], one that changes meanwhile and one that is not a
/// regular file are a conflict: they have to be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// Which; a link is followed.
    pub source: Source,
    /// Who asks.
    pub caller: Caller,
}

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// The file.
    pub entry: Entry,
    /// All of it.
    pub content: Content,
}

/// Makes a small file at once, or gives the one that is there this content, in place. When it fails, a file that it made
/// is not left behind. A link is not followed, but refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Which.
    pub source: Source,
    /// Permission bits, whatever the login's umask.
    pub mode: u32,
    /// Last change of content; the present if it is absent.
    #[serde(default)]
    pub modified: Option<FileTime>,
    /// All of it: at most [`CHUNK_BYTES_MAX`].
    pub content: Content,
    /// Who asks.
    pub caller: Caller,
}

/// The most files in one [`GetMany`] or [`PutMany`]: as many as go into one request to a machine. Their names and what is said of
/// them stay far below a line's limit.
pub const FILES_MAX: usize = crate::agent::file::FILES_MAX;

/// What became of one of several files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Each<T> {
    /// It was done.
    Done(T),
    /// It was not, which has kept none of the others from being done.
    Failed(ErrorObject),
}

/// Reads small files of one directory at once. A conflict are a link, what is not a regular file, one that changes meanwhile,
/// and those with which all together would have more than [`CHUNK_BYTES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetMany {
    /// The directory.
    pub directory: Source,
    /// Their names in it, at most [`FILES_MAX`].
    pub names: Vec<ByteString>,
    /// Who asks.
    pub caller: Caller,
}

/// What several files hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GotMany {
    /// In the order in which they were asked for.
    pub files: Vec<Each<Content>>,
}

/// Makes small files in one directory at once. Each is made under a name beside its own, which it gets when it is complete, in
/// the place of what has it. One that fails is not left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutMany {
    /// The directory.
    pub directory: Source,
    /// At most [`FILES_MAX`], with at most [`CHUNK_BYTES_MAX`] in all of them together.
    pub files: Vec<NewFile>,
    /// Who asks.
    pub caller: Caller,
}

/// One of several files to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewFile {
    /// Its name in the directory.
    pub name: ByteString,
    /// What it is called until it is complete. A file that is there under this name is used; a link is refused.
    pub beside: ByteString,
    /// Permission bits, whatever the login's umask.
    pub mode: u32,
    /// Last change of content; the present if it is absent.
    #[serde(default)]
    pub modified: Option<FileTime>,
    /// All of it.
    pub content: Content,
}

/// What became of several files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeMany {
    /// In the order in which they were given.
    pub files: Vec<Each<Done>>,
}

/// The most that one [`CopyRange`] copies: a second on a slow link.
pub const COPY_BYTES_MAX: u32 = 16 << 20;

/// Copies from one opened file to another, on the machine itself or from machine to machine, without sending the content to
/// whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyRange {
    /// From [`Open`], for reading.
    pub from: HandleId,
    /// From where in it.
    pub from_offset: u64,
    /// From [`Open`], for writing.
    pub to: HandleId,
    /// Where to in it.
    pub to_offset: u64,
    /// How much; no more than [`COPY_BYTES_MAX`].
    pub bytes: u32,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedRange {
    /// Less than was asked for at the end of the file only.
    pub bytes: u64,
}

/// The most that one [`Digest`] is of.
pub const DIGEST_BYTES_MAX: u32 = 64 << 20;

/// The shortest block of a [`Digest`].
pub const DIGEST_BLOCK_BYTES_MIN: u32 = 16 << 10;

/// Asks what is in a file without having it sent: digests of consecutive blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    /// From [`Open`], for reading.
    pub handle: HandleId,
    /// From where.
    pub offset: u64,
    /// Of how much; no more than [`DIGEST_BYTES_MAX`].
    pub bytes: u32,
    /// In blocks of this length, at least [`DIGEST_BLOCK_BYTES_MIN`].
    pub block_bytes: u32,
}

/// Digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// In their order; fewer than were asked for at the end of the file.
    pub blocks: Vec<BlockDigest>,
}

/// What a block is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDigest {
    /// BLAKE3, in hexadecimal.
    pub digest: String,
    /// Its length.
    pub bytes: u32,
    /// Whether it is nothing but zeros.
    pub zeros: bool,
}

/// Waits until what was written is on stable storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sync {
    /// From [`Open`].
    pub handle: HandleId,
}

/// Gives a handle back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// From [`Open`] or [`OpenDirectory`].
    pub handle: HandleId,
}

/// It was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// Changes attributes; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAttributes {
    /// Which file.
    pub source: Source,
    /// Of a link, or of what it points to.
    #[serde(default)]
    pub links: Links,
    /// Permission bits.
    #[serde(default)]
    pub mode: Option<u32>,
    /// Size in bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// Last change of content.
    #[serde(default)]
    pub modified: Option<FileTime>,
    /// Last read.
    #[serde(default)]
    pub accessed: Option<FileTime>,
    /// Who asks.
    pub caller: Caller,
}

/// Makes a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeDirectory {
    /// Where.
    pub source: Source,
    /// Permission bits, before the login's umask.
    pub mode: u32,
    /// Who asks.
    pub caller: Caller,
}

/// Makes a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeLink {
    /// Where.
    pub source: Source,
    /// What it points to; not checked.
    pub target: ByteString,
    /// Who asks.
    pub caller: Caller,
}

/// Removes one file, link or empty directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Which.
    pub source: Source,
    /// Who asks.
    pub caller: Caller,
}

/// Begins to remove a file, or a directory with everything in it, on the machine itself. What is mounted below stays, and
/// links are removed, not followed. Closing the handle ends it; what has gone by then is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveTree {
    /// Which.
    pub source: Source,
    /// Who asks.
    pub caller: Caller,
}

/// A handle for what comes page by page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// For the requests that follow.
    pub handle: HandleId,
}

/// How far a removal is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextRemoved {
    /// From [`RemoveTree`]. Only one such request at a time.
    pub handle: HandleId,
}

/// What has been removed since the last answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedNames {
    /// How many names.
    pub removed: u64,
    /// What could not be removed, by its path from the directory the tree is in.
    pub kept: Vec<LeftOut>,
    /// Whether there is more.
    pub progress: Progress,
}

/// Gives a file another name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// Which.
    pub source: Source,
    /// Its new path, on the same machine.
    pub to: Source,
    /// What becomes of what has that path.
    #[serde(default)]
    pub taken: Taken,
    /// Who asks.
    pub caller: Caller,
}

/// What becomes of a file whose name another one is to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// It is removed.
    #[default]
    Replaced,
    /// It stays, and nothing is renamed: a conflict.
    Kept,
    /// It has the other's name then.
    Exchanged,
}
