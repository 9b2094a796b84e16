//! Files: one method for each request, with the reply it has.
//!
//! Every method sends at once if the link has room; see [`Call`](super::Call) for the order.

use bytes::Bytes;
use wire::agent::file::{
    Allocation, AttributeChanges, Attributes, BlockDigest, Caller, Entry, FileReply, FileRequest, Kind,
    LastLink, Lease, Listed, Lock, NewFile, OpenFlags, Place, RenameMode, SeekFor, Space, Target, WalkBudget,
    WalkFrom, WatchEvent, WriteAt, XattrMode,
};
use wire::agent::find::{FindQuery, Found};
use wire::agent::name::{Name, RelativePath};
use wire::agent::search::{Hit, SearchQuery, Searched};
use wire::agent::{Errno, HandleId, Reply, Request, StreamWindow};

use super::call::{ReplyStream, TypedCall};
use super::request::reply_name;
use super::{AgentClient, CallError};

/// The root of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The root.
    pub root: Entry,
    /// The user the agent acts as.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// Whether it may act for others.
    pub privileged: bool,
    /// The root's path with symlinks resolved, absolute.
    pub path: Vec<u8>,
}

/// A file that was found by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where it is beneath the root.
    pub place: Place,
    /// The file.
    pub entry: Entry,
}

/// A name, found or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The file, if there is one of that name.
    pub entry: Option<Entry>,
    /// On the directory.
    pub lease: Option<Lease>,
}

/// A name that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The file as it is now, if it has other names or is open.
    pub entry: Option<Entry>,
    /// The directory's attributes now.
    pub directory: Attributes,
}

/// A name that was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The attributes now of the directory that it was in.
    pub from: Attributes,
    /// And of the one that it is in.
    pub to: Attributes,
}

/// An open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// As it is now.
    pub entry: Entry,
    /// Whether this request made the file.
    pub created: bool,
    /// The first bytes, as many as were asked for or there are.
    pub content: Bytes,
    /// Whether `content` is the whole file.
    pub whole: bool,
    /// The directory as it is after the creation.
    pub directory: Option<Attributes>,
}

/// A write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How many bytes.
    pub bytes: u64,
    /// The file as it is now.
    pub attributes: Attributes,
}

/// What became of several files that were to be made, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeMany {
    /// The reasons for those that were not.
    pub failures: Vec<Option<Errno>>,
}

/// Several files, in the order in which they were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GotMany {
    /// What is in each, or why it was not read.
    pub files: Vec<Result<Bytes, Errno>>,
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPage {
    /// In the machine's order.
    pub entries: Vec<Listed>,
    /// The directory's end has been reached.
    pub end: bool,
    /// On the directory, from before the first page was read.
    pub lease: Option<Lease>,
    /// The directory as it is now, with the last page.
    pub directory: Option<Attributes>,
}

/// A whole directory of a walk, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkPage {
    /// Which directory.
    pub directory: Place,
    /// Its names.
    pub entries: Vec<Listed>,
    /// It has no more names.
    pub end: bool,
    /// On the directory.
    pub lease: Option<Lease>,
    /// The directory as it is now, with its last part.
    pub attributes: Option<Attributes>,
    /// Contents of files, by index into `entries`.
    pub contents: Vec<(usize, Bytes)>,
}

/// Changes below a watched directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchPage {
    /// Paths from the watched directory, with what happened.
    pub changes: Vec<(RelativePath, WatchEvent)>,
    /// Some changes were missed: look again at everything.
    pub rescan: bool,
}

/// Names that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundPage {
    /// May be none.
    pub found: Vec<Found>,
    /// Directories that were left out, and why.
    pub unread: Vec<(RelativePath, Errno)>,
}

/// Content that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchPage {
    /// May be none.
    pub hits: Vec<Hit>,
    /// Files and directories that were left out, and why.
    pub unread: Vec<(RelativePath, Errno)>,
    /// What it has gone through, with the last page.
    pub searched: Option<Searched>,
}

/// What has been removed since the last page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovalPage {
    /// How many names.
    pub removed: u64,
    /// What stays, and why.
    pub kept: Vec<(RelativePath, Errno)>,
}

/// A value that is read out of a file reply.
pub trait FileOutcome: Sized {
    /// `None` if the reply is another one, or is not well-formed.
    fn read(reply: FileReply, payload: Bytes) -> Option<Self>;
}

macro_rules! outcome {
    ($type:ty, $payload:pat => $($pattern:pat => $value:expr),+ $(,)?) => {
        impl FileOutcome for $type {
            fn read(reply: FileReply, $payload: Bytes) -> Option<$type> {
                match reply {
                    $($pattern => Some($value),)+
                    _ => None,
                }
            }
        }
    };
}

outcome!((), _ => FileReply::Done => ());
outcome!(Entry, _ => FileReply::Entry(entry) => entry);
outcome!(Bytes, payload => FileReply::Data => payload);
outcome!(u64, _ => FileReply::Position(offset) => offset);
outcome!(Space, _ => FileReply::Space(space) => space);
outcome!(Option<(Lock, u32)>, _ => FileReply::Lock(lock) => lock);
outcome!(Located, _ => FileReply::Located { path, entry } => {
    Located { place: Place { id: entry.id, path }, entry }
});
outcome!(Looked, _ => FileReply::Looked { entry, lease } => Looked { entry, lease });
outcome!(Removed, _ => FileReply::Removed { entry, directory } => Removed { entry, directory });
outcome!(Renamed, _ => FileReply::Renamed { from, to } => Renamed { from, to });
outcome!(Written, _ => FileReply::Written { bytes, attributes } => Written { bytes, attributes });
outcome!(Attached, _ => FileReply::Attached { root, uid, gid, privileged, path } => {
    Attached { root, uid, gid, privileged, path }
});
outcome!(Opened, content => FileReply::Opened { entry, whole, created, directory } => {
    Opened { entry, created, content, whole, directory }
});
outcome!(DirectoryPage, _ => FileReply::Listing { entries, end, lease, directory } => {
    DirectoryPage { entries, end, lease, directory }
});
outcome!(FoundPage, _ => FileReply::Found { found, unread } => FoundPage { found, unread });
outcome!(SearchPage, _ => FileReply::Searched { hits, unread, searched } => {
    SearchPage { hits, unread, searched }
});
outcome!(MadeMany, _ => FileReply::MadeMany { failures } => MadeMany { failures });
outcome!(Vec<BlockDigest>, _ => FileReply::Digested { blocks } => blocks);
outcome!(RemovalPage, _ => FileReply::TreeRemoved { removed, kept } => RemovalPage { removed, kept });
outcome!(WatchPage, _ => FileReply::Watched { changes, rescan } => WatchPage { changes, rescan });

impl FileOutcome for WalkPage {
    fn read(reply: FileReply, payload: Bytes) -> Option<WalkPage> {
        let FileReply::Walked { directory, entries, end, lease, attributes, contents } = reply else {
            return None;
        };
        let contents = cut(payload, contents, entries.len())?;
        Some(WalkPage { directory, entries, end, lease, attributes, contents })
    }
}

impl FileOutcome for GotMany {
    fn read(reply: FileReply, mut payload: Bytes) -> Option<GotMany> {
        let FileReply::GotMany { files } = reply else {
            return None;
        };
        let mut contents = Vec::with_capacity(files.len());
        for length in files {
            contents.push(match length {
                Ok(length) if length as usize > payload.len() => return None,
                Ok(length) => Ok(payload.split_to(length as usize)),
                Err(errno) => Err(errno),
            });
        }
        payload.is_empty().then_some(GotMany { files: contents })
    }
}

/// Cuts a payload into the contents of files. `None` if the lengths do not cover it exactly, or an index is beyond
/// `entries`.
fn cut(mut payload: Bytes, lengths: Vec<(u32, u32)>, entries: usize) -> Option<Vec<(usize, Bytes)>> {
    let mut contents = Vec::with_capacity(lengths.len());
    for (index, length) in lengths {
        let (index, length) = (index as usize, length as usize);
        if index >= entries || length > payload.len() {
            return None;
        }
        contents.push((index, payload.split_to(length)));
    }
    payload.is_empty().then_some(contents)
}

fn read_reply<T: FileOutcome>(reply: Reply, payload: Bytes) -> Option<T> {
    match reply {
        Reply::File(reply) => T::read(reply, payload),
        Reply::Process(_) | Reply::Description(_) => None,
    }
}

/// The typed pages of a streamed request.
#[must_use = "a stream that is dropped is cancelled"]
pub struct PageStream<T> {
    replies: ReplyStream,
    client: AgentClient,
    page: std::marker::PhantomData<fn() -> T>,
}

impl<T: FileOutcome> PageStream<T> {
    /// The next page, or `None` behind the last. An error is the last.
    pub async fn next(&mut self) -> Option<Result<T, CallError>> {
        loop {
            let (reply, payload) = match self.replies.next().await? {
                Ok(page) => page,
                Err(error) => return Some(Err(error)),
            };
            // What only says that there is no more.
            if reply == Reply::File(FileReply::Done) {
                continue;
            }
            let name = reply_name(&reply);
            let page = read_reply(reply, payload);
            return Some(page.ok_or_else(|| CallError::Lost(self.client.misanswered(name))));
        }
    }
}

impl AgentClient {
    /// Sends a file request whose one reply is read as a `T`.
    pub fn file<T: FileOutcome>(&self, request: FileRequest, payload: Bytes) -> TypedCall<T> {
        self.typed(Request::File(request), payload, read_reply::<T>)
    }

    /// Sends a file request whose stream of replies is read as `T`s.
    pub fn file_stream<T: FileOutcome>(&self, request: FileRequest) -> PageStream<T> {
        let replies = self.stream(Request::File(request), Bytes::new());
        PageStream { replies, client: self.clone(), page: std::marker::PhantomData }
    }

    /// Exports the directory at `path`, absolute or from the agent user's home. Once per session, before any other file
    /// request.
    pub fn attach(&self, path: Vec<u8>, read_only: bool) -> TypedCall<Attached> {
        self.file(FileRequest::Attach { path, read_only }, Bytes::new())
    }

    /// Finds what is at a path of the machine, absolute or from the agent user's home, if it is beneath the root.
    pub fn locate(&self, path: Vec<u8>, last: LastLink) -> TypedCall<Located> {
        self.file(FileRequest::Locate { path, last }, Bytes::new())
    }

    /// Looks a name up.
    pub fn lookup(&self, directory: Place, name: Name) -> TypedCall<Looked> {
        self.file(FileRequest::Lookup { directory, name }, Bytes::new())
    }

    /// A file as it is now.
    pub fn stat(&self, target: Target) -> TypedCall<Entry> {
        self.file(FileRequest::Stat { target }, Bytes::new())
    }

    /// Changes attributes.
    pub fn set_attributes(&self, target: Target, changes: AttributeChanges) -> TypedCall<Entry> {
        self.file(FileRequest::SetAttributes { target, changes }, Bytes::new())
    }

    /// The target of a symlink.
    pub fn read_link(&self, place: Place) -> TypedCall<Bytes> {
        self.file(FileRequest::ReadLink { place }, Bytes::new())
    }

    /// Makes a symlink to `to`.
    pub fn symlink(&self, directory: Place, name: Name, to: Bytes, caller: Caller) -> TypedCall<Entry> {
        self.file(FileRequest::Symlink { directory, name, caller }, to)
    }

    /// Makes a file, fifo, socket or device.
    pub fn make_node(
        &self,
        directory: Place,
        name: Name,
        kind: Kind,
        mode: u16,
        device: u64,
        caller: Caller,
    ) -> TypedCall<Entry> {
        self.file(FileRequest::MakeNode { directory, name, kind, mode, device, caller }, Bytes::new())
    }

    /// Makes a directory.
    pub fn make_directory(
        &self,
        directory: Place,
        name: Name,
        mode: u16,
        caller: Caller,
    ) -> TypedCall<Entry> {
        self.file(FileRequest::MakeDirectory { directory, name, mode, caller }, Bytes::new())
    }

    /// Removes a name that is not a directory's.
    pub fn unlink(&self, directory: Place, name: Name) -> TypedCall<Removed> {
        self.file(FileRequest::Unlink { directory, name }, Bytes::new())
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, directory: Place, name: Name) -> TypedCall<Removed> {
        self.file(FileRequest::RemoveDirectory { directory, name }, Bytes::new())
    }

    /// Moves a name.
    pub fn rename(
        &self,
        from: Place,
        from_name: Name,
        to: Place,
        to_name: Name,
        mode: RenameMode,
    ) -> TypedCall<Renamed> {
        self.file(FileRequest::Rename { from, from_name, to, to_name, mode }, Bytes::new())
    }

    /// Gives a file one more name.
    pub fn link(&self, target: Target, directory: Place, name: Name) -> TypedCall<Entry> {
        self.file(FileRequest::Link { target, directory, name }, Bytes::new())
    }

    /// Opens a file as `handle`, with its first `inline_bytes`. Dropped before the reply has come, it may have
    /// succeeded all the same: then `handle` is to be closed.
    pub fn open(
        &self,
        place: Place,
        flags: OpenFlags,
        handle: HandleId,
        inline_bytes: u32,
    ) -> TypedCall<Opened> {
        self.file(FileRequest::Open { place, flags, handle, inline_bytes }, Bytes::new())
    }

    /// Creates and opens, or, when `flags.exclusive` is not set, opens what is there. Dropped, it is as
    /// [`AgentClient::open`].
    pub fn create(
        &self,
        directory: Place,
        name: Name,
        mode: u16,
        flags: OpenFlags,
        handle: HandleId,
        caller: Caller,
    ) -> TypedCall<Opened> {
        self.file(FileRequest::Create { directory, name, mode, flags, handle, caller }, Bytes::new())
    }

    /// Creates a file that has no name, and opens it.
    pub fn create_unnamed(
        &self,
        directory: Place,
        mode: u16,
        flags: OpenFlags,
        handle: HandleId,
        caller: Caller,
    ) -> TypedCall<Opened> {
        self.file(FileRequest::CreateUnnamed { directory, mode, flags, handle, caller }, Bytes::new())
    }

    /// At most `length` bytes from `offset`; fewer at the end of the file only.
    pub fn read(&self, handle: HandleId, offset: u64, length: u32) -> TypedCall<Bytes> {
        self.file(FileRequest::Read { handle, offset, length }, Bytes::new())
    }

    /// Writes `content`.
    pub fn write(
        &self,
        handle: HandleId,
        at: WriteAt,
        clear_set_id: bool,
        content: Bytes,
    ) -> TypedCall<Written> {
        self.file(FileRequest::Write { handle, at, clear_set_id }, content)
    }

    /// Puts a file or directory on the machine's disk.
    pub fn sync(&self, target: Target, data_only: bool) -> TypedCall<()> {
        self.file(FileRequest::Sync { target, data_only }, Bytes::new())
    }

    /// Closes a file. The handle is gone whatever the answer.
    pub fn close(&self, handle: HandleId) -> TypedCall<()> {
        self.file(FileRequest::Close { handle }, Bytes::new())
    }

    /// Reserves, punches, zeroes, takes out or puts in a range.
    pub fn allocate(&self, handle: HandleId, what: Allocation, offset: u64, length: u64) -> TypedCall<Entry> {
        self.file(FileRequest::Allocate { handle, what, offset, length }, Bytes::new())
    }

    /// The next data or hole.
    pub fn seek(&self, handle: HandleId, offset: u64, what: SeekFor) -> TypedCall<u64> {
        self.file(FileRequest::Seek { handle, offset, what }, Bytes::new())
    }

    /// Copies on the machine, from one handle and offset to another.
    pub fn copy_range(&self, from: (HandleId, u64), to: (HandleId, u64), length: u64) -> TypedCall<Written> {
        let ((from, from_offset), (to, to_offset)) = (from, to);
        self.file(FileRequest::CopyRange { from, from_offset, to, to_offset, length }, Bytes::new())
    }

    /// Space and limits of the file system of `place`.
    pub fn space(&self, place: Place) -> TypedCall<Space> {
        self.file(FileRequest::Space { place }, Bytes::new())
    }

    /// An extended attribute's value.
    pub fn get_xattr(&self, target: Target, name: Vec<u8>) -> TypedCall<Bytes> {
        self.file(FileRequest::GetXattr { target, name }, Bytes::new())
    }

    /// Sets an extended attribute.
    pub fn set_xattr(
        &self,
        target: Target,
        name: Vec<u8>,
        mode: XattrMode,
        value: Bytes,
    ) -> TypedCall<Entry> {
        self.file(FileRequest::SetXattr { target, name, mode }, value)
    }

    /// The names of extended attributes, each ended by a NUL.
    pub fn list_xattrs(&self, target: Target) -> TypedCall<Bytes> {
        self.file(FileRequest::ListXattrs { target }, Bytes::new())
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, target: Target, name: Vec<u8>) -> TypedCall<Entry> {
        self.file(FileRequest::RemoveXattr { target, name }, Bytes::new())
    }

    /// Takes, changes or gives back a lock. Dropped while it waits, it is taken back unless it has just been had.
    pub fn lock(&self, handle: HandleId, owner: u64, lock: Lock, wait: bool) -> TypedCall<()> {
        self.file(FileRequest::Lock { handle, owner, lock, wait }, Bytes::new())
    }

    /// The lock that is in the way of a POSIX lock, if any, and the process that holds it where that is known.
    pub fn test_lock(&self, handle: HandleId, owner: u64, lock: Lock) -> TypedCall<Option<(Lock, u32)>> {
        self.file(FileRequest::TestLock { handle, owner, lock }, Bytes::new())
    }

    /// Gives back every POSIX lock that the owner has on the file.
    pub fn release_locks(&self, handle: HandleId, owner: u64) -> TypedCall<()> {
        self.file(FileRequest::ReleaseLocks { handle, owner }, Bytes::new())
    }

    /// Creates a file with `content`, sets attributes and closes it, in one.
    #[allow(clippy::too_many_arguments, reason = "the fields of one request, in its order")]
    pub fn put(
        &self,
        directory: Place,
        name: Name,
        mode: u16,
        changes: AttributeChanges,
        exclusive: bool,
        sync: bool,
        caller: Caller,
        content: Bytes,
    ) -> TypedCall<Entry> {
        self.file(FileRequest::Put { directory, name, mode, changes, exclusive, sync, caller }, content)
    }

    /// Makes files in one directory, each beside its name until it is complete. `content` is theirs, one after the other.
    pub fn put_many(
        &self,
        directory: Place,
        files: Vec<NewFile>,
        caller: Caller,
        content: Bytes,
    ) -> TypedCall<MadeMany> {
        self.file(FileRequest::PutMany { directory, files, caller }, content)
    }

    /// Reads regular files of one directory whole, of which there may be `bytes_max` in all.
    pub fn get_many(&self, directory: Place, names: Vec<Name>, bytes_max: u32) -> TypedCall<GotMany> {
        self.file(FileRequest::GetMany { directory, names, bytes_max }, Bytes::new())
    }

    /// Lists a directory with attributes, from a cookie.
    pub fn list(&self, directory: Place, from: u64, window: StreamWindow) -> PageStream<DirectoryPage> {
        self.file_stream(FileRequest::List { directory, from, window })
    }

    /// Lists a subtree, to a budget, in the order in which programs go through trees.
    pub fn walk(
        &self,
        directory: Place,
        from: WalkFrom,
        budget: WalkBudget,
        window: StreamWindow,
    ) -> PageStream<WalkPage> {
        self.file_stream(FileRequest::Walk { directory, from, budget, window })
    }

    /// Looks for names below a directory.
    pub fn find(&self, directory: Place, query: FindQuery, window: StreamWindow) -> PageStream<FoundPage> {
        self.file_stream(FileRequest::Find { directory, query, window })
    }

    /// Looks for content in a file, or in all files below a directory.
    pub fn search(&self, place: Place, query: SearchQuery, window: StreamWindow) -> PageStream<SearchPage> {
        self.file_stream(FileRequest::Search { place, query, window })
    }

    /// BLAKE3 digests of consecutive blocks; fewer at the end of the file.
    pub fn digest(
        &self,
        handle: HandleId,
        offset: u64,
        length: u32,
        block: u32,
    ) -> TypedCall<Vec<BlockDigest>> {
        self.file(FileRequest::Digest { handle, offset, length, block }, Bytes::new())
    }

    /// Removes a file, or a directory with everything in it. Dropped before its end, some of it is gone.
    pub fn remove_tree(&self, directory: Place, name: Name, window: StreamWindow) -> PageStream<RemovalPage> {
        self.file_stream(FileRequest::RemoveTree { directory, name, window })
    }

    /// Tells of changes below a directory until it is dropped.
    pub fn watch(&self, directory: Place, recursive: bool, window: StreamWindow) -> PageStream<WatchPage> {
        self.file_stream(FileRequest::Watch { directory, recursive, window })
    }
}
