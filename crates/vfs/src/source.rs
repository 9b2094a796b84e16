//! Where files come from.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::cache::DataCache;
use crate::errno::Result;
use crate::file::{
    Allocation, AttributeChanges, Attributes, Caller, Entry, FileId, Kind, Lock, Name, OpenFlags, RenameMode,
    SeekFor, Space, Time, WriteAt, XattrMode,
};
use crate::request::Sequence;

/// The most that one read or write of a [`Source`] carries.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;

/// A file by identity and by one of its paths below the root: names joined by slashes, empty for the root.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Place {
    pub id: FileId,
    pub path: Box<[u8]>,
}

/// Identifies an open file at the source. Chosen by the caller, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// What an operation acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Target {
    Place(Place),
    Handle(HandleId),
}

/// The source's promise to tell of changes in a directory.
///
/// Each change there raises the directory's epoch. `epoch` is from before the reply was read: who has heard of a later
/// one uses the reply once and keeps nothing of it. With `valid_ms` set, nothing is told, and the reply may be kept
/// for that long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Lease {
    pub epoch: u64,
    pub valid_ms: u32,
}

/// How far ahead of a reader a source is well asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// How many bytes more may be asked for now, so that the way there is busy and others do not wait long behind them.
    pub room_bytes: u64,
    /// How many at once.
    pub part_bytes: u64,
}

impl Reach {
    /// Of a source that is as near as memory.
    pub const NEAR: Reach = Reach { room_bytes: u64::MAX, part_bytes: TRANSFER_BYTES_MAX as u64 };
}

/// What the source tells of a directory under lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which directory.
    pub directory: FileId,
    /// Its epoch from now on.
    pub epoch: u64,
    /// What changed in it.
    pub what: Change,
    /// Its own attributes now, where they may have changed.
    pub attributes: Option<Attributes>,
}

/// What changed in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Change {
    /// Its own attributes only.
    Itself,
    /// This is what the name is now.
    Present { name: Name, entry: Entry },
    /// The name is gone.
    Absent { name: Name },
    /// The lease has ended.
    LeaseLost,
}

/// What an open file is at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The file now.
    pub entry: Entry,
    /// The first bytes, if they were asked for.
    pub content: Bytes,
    /// Whether they are all there is.
    pub whole: bool,
    /// The directory as it is after a creation, where the source says so for free.
    pub directory: Option<Attributes>,
    /// Whether the source is sure to let the file's mode and times be set: it acts as the file's owner, or may do everything.
    pub is_own: bool,
    /// Whether the request has made the file.
    pub is_new: bool,
}

/// What a removal left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The file, if it has other names or is open.
    pub entry: Option<Entry>,
    /// The directory now.
    pub directory: Attributes,
}

/// What a rename left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The directory now in which the name was.
    pub from: Attributes,
    /// And that in which it is.
    pub to: Attributes,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// This many bytes.
    pub bytes: u64,
    /// The file now.
    pub attributes: Attributes,
}

/// What a new node is. Neither a directory nor a symlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct NewNode {
    pub kind: Kind,
    pub mode: u16,
    pub device: u64,
}

/// One name of a listing. `entry` is absent if the file went away between the listing and the look. `cookie` names the
/// position behind this name and stays right while names come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Listed {
    pub name: Name,
    pub entry: Option<Entry>,
    pub cookie: u64,
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the source's order.
    pub entries: Vec<Listed>,
    /// The end of the directory has been reached.
    pub end: bool,
    /// On the directory.
    pub lease: Option<Lease>,
    /// The directory, with the last page.
    pub directory: Option<Attributes>,
}

/// A listing under way. Dropping it ends it.
pub trait Listing: Send + 'static {
    /// The next page; `None` after the last.
    fn next(&mut self) -> impl Future<Output = Result<Option<Page>>> + Send;
}

/// Where a [`Source::walk`] begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalkFrom {
    /// With the directory itself.
    Itself,
    /// With the subtree of this name in it, then those of the directories behind it in the source's order, then those
    /// before it. The directory itself is not told.
    Below(Name),
}

/// Bounds on a [`Source::walk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkBudget {
    /// At most this many entries in all.
    pub entries: u32,
    /// At most this many levels below the start; 0 is the start alone.
    pub depth: u16,
    /// Files up to this size come with their content, while `content_bytes` lasts.
    pub file_bytes: u32,
    /// At most this much content in all.
    pub content_bytes: u64,
}

/// A whole directory of a walk, or a part of one: its parts follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkPage {
    /// Which directory.
    pub directory: Place,
    /// Its names, as a listing from the start tells them.
    pub page: Page,
    /// Whole contents of files, by index into the page's entries: each as it was when its entry was read.
    pub contents: Vec<(usize, Bytes)>,
}

/// A walk under way. Dropping it ends it.
pub trait Walking: Send + 'static {
    /// The next page; `None` after the last.
    fn next(&mut self) -> impl Future<Output = Result<Option<WalkPage>>> + Send;
}

/// Files, somewhere.
///
/// Operations may be called at once and are carried out in no particular order; who needs one waits for the first
/// before calling the second. A dropped future cancels what it can of its operation: the outcome is then unknown.
///
/// Every operation that names a [`Place`] acts on the file with that identity or refuses with `ESTALE`.
#[allow(missing_docs, reason = "each is the system call of its name")]
pub trait Source: Send + Sync + 'static {
    /// What [`Source::list`] gives.
    type Listing: Listing;
    /// What [`Source::walk`] gives.
    type Walk: Walking;

    /// `None` is "no such name".
    fn lookup(
        &self,
        directory: Place,
        name: Name,
    ) -> impl Future<Output = Result<(Option<Entry>, Option<Lease>)>> + Send;
    fn stat(&self, target: Target) -> impl Future<Output = Result<Entry>> + Send;
    fn set_attributes(
        &self,
        target: Target,
        changes: AttributeChanges,
    ) -> impl Future<Output = Result<Entry>> + Send;
    fn read_link(&self, place: Place) -> impl Future<Output = Result<Bytes>> + Send;
    fn symlink(
        &self,
        directory: Place,
        name: Name,
        contents: Bytes,
        caller: Caller,
    ) -> impl Future<Output = Result<Entry>> + Send;
    fn make_node(
        &self,
        directory: Place,
        name: Name,
        node: NewNode,
        caller: Caller,
    ) -> impl Future<Output = Result<Entry>> + Send;
    fn make_directory(
        &self,
        directory: Place,
        name: Name,
        mode: u16,
        caller: Caller,
    ) -> impl Future<Output = Result<Entry>> + Send;
    fn unlink(&self, directory: Place, name: Name) -> impl Future<Output = Result<Removed>> + Send;
    fn remove_directory(&self, directory: Place, name: Name) -> impl Future<Output = Result<Removed>> + Send;
    /// What the names are afterwards is told of, under lease, as if others had changed them: also where nothing was
    /// renamed, because both were names of one file. The caller may have taken the old name for another file's.
    fn rename(
        &self,
        from: (Place, Name),
        to: (Place, Name),
        mode: RenameMode,
    ) -> impl Future<Output = Result<Renamed>> + Send;
    fn link(
        &self,
        target: Target,
        directory: Place,
        name: Name,
    ) -> impl Future<Output = Result<Entry>> + Send;
    /// With `inline_bytes`, the first bytes come with the reply.
    fn open(
        &self,
        place: Place,
        flags: OpenFlags,
        handle: HandleId,
        inline_bytes: u32,
    ) -> impl Future<Output = Result<Opened>> + Send;
    fn create(
        &self,
        directory: Place,
        name: Name,
        mode: u16,
        flags: OpenFlags,
        handle: HandleId,
        caller: Caller,
    ) -> impl Future<Output = Result<Opened>> + Send;
    fn create_unnamed(
        &self,
        directory: Place,
        mode: u16,
        flags: OpenFlags,
        handle: HandleId,
        caller: Caller,
    ) -> impl Future<Output = Result<Opened>> + Send;
    /// Shorter than `length`, which is at most [`TRANSFER_BYTES_MAX`], only at the end of the file.
    fn read(&self, handle: HandleId, offset: u64, length: u32) -> impl Future<Output = Result<Bytes>> + Send;
    /// How far ahead of a reader it is well asked now.
    fn reach(&self) -> Reach {
        Reach::NEAR
    }
    /// At most [`TRANSFER_BYTES_MAX`] at once.
    fn write(
        &self,
        handle: HandleId,
        at: WriteAt,
        bytes: Bytes,
        clear_set_id: bool,
    ) -> impl Future<Output = Result<Written>> + Send;
    fn sync(&self, target: Target, data_only: bool) -> impl Future<Output = Result<()>> + Send;
    fn close(&self, handle: HandleId) -> impl Future<Output = Result<()>> + Send;
    fn allocate(
        &self,
        handle: HandleId,
        what: Allocation,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = Result<Entry>> + Send;
    fn seek(&self, handle: HandleId, offset: u64, what: SeekFor) -> impl Future<Output = Result<u64>> + Send;
    fn copy_range(
        &self,
        from: (HandleId, u64),
        to: (HandleId, u64),
        length: u64,
    ) -> impl Future<Output = Result<Written>> + Send;
    fn space(&self, place: Place) -> impl Future<Output = Result<Space>> + Send;
    fn get_xattr(&self, target: Target, name: Bytes) -> impl Future<Output = Result<Bytes>> + Send;
    fn set_xattr(
        &self,
        target: Target,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
    ) -> impl Future<Output = Result<Entry>> + Send;
    /// The names, each ended by a NUL.
    fn list_xattrs(&self, target: Target) -> impl Future<Output = Result<Bytes>> + Send;
    fn remove_xattr(&self, target: Target, name: Bytes) -> impl Future<Output = Result<Entry>> + Send;
    /// Cancelled by dropping the future.
    fn lock(
        &self,
        handle: HandleId,
        owner: u64,
        lock: Lock,
        wait: bool,
    ) -> impl Future<Output = Result<()>> + Send;
    /// The lock in the way, and its process where known.
    fn test_lock(
        &self,
        handle: HandleId,
        owner: u64,
        lock: Lock,
    ) -> impl Future<Output = Result<Option<(Lock, u32)>>> + Send;
    fn release_locks(&self, handle: HandleId, owner: u64) -> impl Future<Output = Result<()>> + Send;
    /// Sets a number aside under which one change can be sent later, by a future that finds it with
    /// [`request::take_sequence`](crate::request::take_sequence). What is sent under it more than once, also after the
    /// source's client has died and another has taken its place, is carried out once and always answered the same, until it
    /// is [`settled`](Source::settled). `None` if that cannot be had.
    fn next_sequence(&self) -> Option<Sequence> {
        None
    }

    /// Whether the source is sure to make these changes of a file of which it has said [`Opened::is_own`], so that a caller
    /// need not wait to hear it. Only a source that carries out what is asked of one handle in the order in which it was
    /// [queued](crate::request::queued) may say so.
    fn is_sure(&self, _changes: &AttributeChanges) -> bool {
        false
    }

    /// Whose a file will be that is made for this user, so that it can be said to be made before it is. `None` where that is
    /// not known. Only a source that keeps the order of [`Source::is_sure`] may say so, creations included.
    fn owner_of_new(&self, _caller: Caller) -> Option<(u32, u32)> {
        None
    }

    /// Nothing will be sent under this number any more, if ever something was.
    fn settled(&self, _sequence: Sequence) {}

    /// Waits until nothing gets through to the source. What has been asked of it may then wait for long.
    fn away(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Where contents are kept near, if they are. It is asked each time: there may be none for a while.
    fn cache(&self) -> Option<Arc<dyn DataCache>> {
        None
    }

    /// A time that the clock has reached which dates changes of its files; `None` where that is not known.
    fn clock(&self) -> Option<Time> {
        None
    }

    fn list(&self, directory: Place, from: u64) -> Self::Listing;

    /// Lists a subtree, to a budget: a directory whole, then the subtree of each directory in it, in the order of its
    /// names. Directories that cannot be read, do not fit or are on another file system are left out. Each has a lease of
    /// its own, from before it was read. What is told of a directory may arrive before the page it is told in.
    fn walk(&self, directory: Place, from: WalkFrom, budget: WalkBudget) -> Self::Walk;
}
