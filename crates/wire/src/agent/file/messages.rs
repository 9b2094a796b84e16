//! What is asked of files, and what is answered.

use serde::{Deserialize, Serialize};

use super::{
    Allocation, AttributeChanges, Attributes, BlockDigest, Caller, Entry, Kind, LastLink, Lease, Listed,
    Lock, NewFile, OpenFlags, Place, RenameMode, SeekFor, Space, Target, WalkBudget, WalkFrom, WatchEvent,
    WriteAt, XattrMode,
};
use crate::agent::find::{FindQuery, Found};
use crate::agent::name::{Name, RelativePath};
use crate::agent::search::{Hit, SearchQuery, Searched};
use crate::agent::{Errno, HandleId, StreamWindow};

/// What can be asked of files. Before [`FileRequest::Attach`] only that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileRequest {
    /// Exports the directory at `path`, absolute or from the agent user's home. Everything later is beneath it. Once per
    /// stream. `ENOTDIR` for anything but a directory: a single file is reached beneath one. → [`FileReply::Attached`]
    Attach {
        /// Where; bytes as the machine takes them. Symlinks in it are followed.
        path: Vec<u8>,
        /// Refuse every change with `EROFS`.
        read_only: bool,
    },
    /// Finds the file at `path`, absolute or from the agent user's home, as any program of the machine would: symlinks on
    /// the way are followed. `EXDEV` if what is there is not beneath the exported root. Gives no lease.
    /// → [`FileReply::Located`]
    Locate {
        /// Where; bytes as the machine takes them.
        path: Vec<u8>,
        /// What a symlink at the end of the path stands for.
        last: LastLink,
    },
    /// Looks a name up. → [`FileReply::Looked`]
    Lookup {
        /// In this directory.
        directory: Place,
        /// The name.
        name: Name,
    },
    /// → [`FileReply::Entry`]
    Stat {
        /// Of this.
        target: Target,
    },
    /// → [`FileReply::Entry`]
    SetAttributes {
        /// Of this.
        target: Target,
        /// What to change.
        changes: AttributeChanges,
    },
    /// → [`FileReply::Data`]: the target's bytes are the payload.
    ReadLink {
        /// The symlink.
        place: Place,
    },
    /// → [`FileReply::Entry`]. The symlink's target is the payload.
    Symlink {
        /// In this directory.
        directory: Place,
        /// Under this name.
        name: Name,
        /// For this user.
        caller: Caller,
    },
    /// Makes a file, fifo, socket or device. → [`FileReply::Entry`]
    MakeNode {
        /// In this directory.
        directory: Place,
        /// Under this name.
        name: Name,
        /// What; neither a directory nor a symlink.
        kind: Kind,
        /// Permission bits.
        mode: u16,
        /// Which device.
        device: u64,
        /// For this user.
        caller: Caller,
    },
    /// → [`FileReply::Entry`]
    MakeDirectory {
        /// In this directory.
        directory: Place,
        /// Under this name.
        name: Name,
        /// Permission bits.
        mode: u16,
        /// For this user.
        caller: Caller,
    },
    /// Removes a name that is not a directory's. → [`FileReply::Removed`]
    Unlink {
        /// In this directory.
        directory: Place,
        /// The name.
        name: Name,
    },
    /// Removes an empty directory. → [`FileReply::Removed`]
    RemoveDirectory {
        /// In this directory.
        directory: Place,
        /// The name.
        name: Name,
    },
    /// → [`FileReply::Done`]
    Rename {
        /// From this directory.
        from: Place,
        /// This name.
        from_name: Name,
        /// To this directory.
        to: Place,
        /// Under this name.
        to_name: Name,
        /// If that exists.
        mode: RenameMode,
    },
    /// Gives a file one more name. → [`FileReply::Entry`]
    Link {
        /// The file.
        target: Target,
        /// In this directory.
        directory: Place,
        /// Under this name.
        name: Name,
    },
    /// → [`FileReply::Opened`]; with `inline_bytes` the first bytes are the payload.
    Open {
        /// Of this.
        place: Place,
        /// How.
        flags: OpenFlags,
        /// Under this id.
        handle: HandleId,
        /// Read up to this many bytes from the start at once, 0 for none; at most a frame's payload.
        inline_bytes: u32,
    },
    /// Creates and opens, or, when `flags.exclusive` is not set, opens what is there. → [`FileReply::Opened`]
    Create {
        /// In this directory.
        directory: Place,
        /// Under this name.
        name: Name,
        /// Permission bits.
        mode: u16,
        /// How.
        flags: OpenFlags,
        /// Under this id.
        handle: HandleId,
        /// For this user.
        caller: Caller,
    },
    /// Creates a file that has no name (`O_TMPFILE`). → [`FileReply::Opened`]
    CreateUnnamed {
        /// On this directory's file system.
        directory: Place,
        /// Permission bits.
        mode: u16,
        /// How.
        flags: OpenFlags,
        /// Under this id.
        handle: HandleId,
        /// For this user.
        caller: Caller,
    },
    /// Creates, writes the payload, sets attributes and closes, in one. → [`FileReply::Entry`]
    Put {
        /// In this directory.
        directory: Place,
        /// Under this name.
        name: Name,
        /// Permission bits.
        mode: u16,
        /// Applied after the content.
        changes: AttributeChanges,
        /// Fails if the name exists; otherwise its content is replaced.
        exclusive: bool,
        /// On the machine's disk before the answer.
        sync: bool,
        /// For this user.
        caller: Caller,
    },
    /// Makes files in one directory, each under a name beside its own, which it gets when it is complete, in the place of what
    /// has it. One that cannot be made is not left behind, and keeps none of the others from being made. Their contents are
    /// the payload, one after the other. What becomes of the names is told as if others had made the files. `EINVAL` for more than
    /// [`FILES_MAX`](super::FILES_MAX), and where the lengths are not those of the payload. → [`FileReply::MadeMany`]
    PutMany {
        /// In this directory.
        directory: Place,
        /// Which.
        files: Vec<NewFile>,
        /// For this user.
        caller: Caller,
    },
    /// Reads regular files of one directory whole. `EINVAL` for more than [`FILES_MAX`](super::FILES_MAX).
    /// → [`FileReply::GotMany`]
    GetMany {
        /// In this directory.
        directory: Place,
        /// Under these names. A symlink is not followed.
        names: Vec<Name>,
        /// At most so many bytes of all of them; at most a frame's payload.
        bytes_max: u32,
    },
    /// → [`FileReply::Data`], shorter than `length` at the end of the file only.
    Read {
        /// From this file.
        handle: HandleId,
        /// From here.
        offset: u64,
        /// At most this many bytes; at most a frame's payload.
        length: u32,
    },
    /// Writes the payload. → [`FileReply::Written`]
    Write {
        /// To this file.
        handle: HandleId,
        /// Where.
        at: WriteAt,
        /// Clear the set-id bits, as a write by an unprivileged user does.
        clear_set_id: bool,
    },
    /// To the machine's disk. → [`FileReply::Done`]
    Sync {
        /// This file or directory.
        target: Target,
        /// The content and what is needed to read it, but not the times.
        data_only: bool,
    },
    /// → [`FileReply::Done`], with the error of the machine's `close`, after which the handle is gone all the same.
    Close {
        /// This file.
        handle: HandleId,
    },
    /// → [`FileReply::Entry`]
    Allocate {
        /// In this file.
        handle: HandleId,
        /// What.
        what: Allocation,
        /// From here.
        offset: u64,
        /// This many bytes.
        length: u64,
    },
    /// → [`FileReply::Position`]; `ENXIO` when there is none.
    Seek {
        /// In this file.
        handle: HandleId,
        /// From here.
        offset: u64,
        /// What to look for.
        what: SeekFor,
    },
    /// Copies on the machine. → [`FileReply::Written`]
    CopyRange {
        /// From this file.
        from: HandleId,
        /// From here.
        from_offset: u64,
        /// To this file.
        to: HandleId,
        /// To here.
        to_offset: u64,
        /// At most this many bytes.
        length: u64,
    },
    /// → [`FileReply::Space`]
    Space {
        /// Of the file system of this file.
        place: Place,
    },
    /// → [`FileReply::Data`]
    GetXattr {
        /// Of this.
        target: Target,
        /// The attribute, with its namespace.
        name: Vec<u8>,
    },
    /// The value is the payload. → [`FileReply::Entry`]
    SetXattr {
        /// Of this.
        target: Target,
        /// The attribute, with its namespace.
        name: Vec<u8>,
        /// Whether it may exist.
        mode: XattrMode,
    },
    /// → [`FileReply::Data`]: the names, each ended by a NUL.
    ListXattrs {
        /// Of this.
        target: Target,
    },
    /// → [`FileReply::Entry`]
    RemoveXattr {
        /// Of this.
        target: Target,
        /// The attribute, with its namespace.
        name: Vec<u8>,
    },
    /// Takes, changes or gives back a lock. → [`FileReply::Done`]; `EAGAIN` when it is held and `wait` is not set;
    /// `EINTR` after a cancel.
    Lock {
        /// On this file.
        handle: HandleId,
        /// For whom; of the client's choosing.
        owner: u64,
        /// Which.
        lock: Lock,
        /// Until it is free.
        wait: bool,
    },
    /// BLAKE3 digests of consecutive blocks, the last of which may end with the file. At most
    /// [`DIGEST_BYTES_MAX`](super::DIGEST_BYTES_MAX) are read, in blocks of at least
    /// [`DIGEST_BLOCK_BYTES_MIN`](super::DIGEST_BLOCK_BYTES_MIN); `EINVAL` otherwise. → [`FileReply::Digested`]
    Digest {
        /// Of this file.
        handle: HandleId,
        /// From here.
        offset: u64,
        /// So many bytes.
        length: u32,
        /// In blocks of this length.
        block: u32,
    },
    /// → [`FileReply::Lock`]
    TestLock {
        /// On this file.
        handle: HandleId,
        /// For whom.
        owner: u64,
        /// Which; a POSIX lock.
        lock: Lock,
    },
    /// Gives back every POSIX lock that the owner has on the file of this handle. → [`FileReply::Done`]
    ReleaseLocks {
        /// On this file.
        handle: HandleId,
        /// Whose.
        owner: u64,
    },
    /// Lists a directory with attributes, without `.` and `..`. Streamed. → [`FileReply::Listing`] each
    List {
        /// This directory.
        directory: Place,
        /// From this cookie; 0 is the start.
        from: u64,
        /// At most this many bytes, in the machine's estimate, before credit comes.
        window: StreamWindow,
    },
    /// Lists a subtree, to a budget, in the order in which programs go through trees: a directory whole, then the
    /// subtree of each directory in it, in the order of its names. Directories that cannot be read or do not fit are left
    /// out. Streamed. → [`FileReply::Walked`] each, then [`FileReply::Done`]
    Walk {
        /// From this directory.
        directory: Place,
        /// What of it first.
        from: WalkFrom,
        /// How much.
        budget: WalkBudget,
        /// Credit to begin with.
        window: StreamWindow,
    },
    /// Looks for names below a directory. Symlinks are not followed, and directories that cannot be read are told and left
    /// out. A page may be empty: it is proof that the search goes on. Streamed. → [`FileReply::Found`] each. `EINVAL`, with
    /// the reason as its detail, for a query that says nothing sensible.
    Find {
        /// Below this directory, which is not told itself.
        directory: Place,
        /// What is looked for.
        query: FindQuery,
        /// Credit to begin with.
        window: StreamWindow,
    },
    /// Removes a file, or a directory with everything in it. What is on another file system than the directory itself stays.
    /// What cannot be removed is told and does not keep the rest from being removed. After a cancel, what has gone is gone.
    /// Streamed. → [`FileReply::TreeRemoved`] each.
    RemoveTree {
        /// In this directory.
        directory: Place,
        /// The name that is to be gone.
        name: Name,
        /// Credit to begin with.
        window: StreamWindow,
    },
    /// Looks for content in a file, or in all files below a directory. Symlinks are not followed, and nothing is told of
    /// files from the first zero byte on. The order of files is any; the lines of one file are in their order. Streamed.
    /// → [`FileReply::Searched`] each. `EINVAL`, with the reason as its detail, for a query that says nothing sensible;
    /// `EMFILE` when too many are under way.
    Search {
        /// In this file, or below this directory.
        place: Place,
        /// What is looked for.
        query: SearchQuery,
        /// Credit to begin with.
        window: StreamWindow,
    },
    /// Tells of changes below a directory until cancelled. Streamed. → [`FileReply::Watched`] each, a first one with no
    /// changes as soon as nothing is missed any more. `EOPNOTSUPP` where the machine cannot watch.
    Watch {
        /// This directory.
        directory: Place,
        /// And everything below.
        recursive: bool,
        /// Credit to begin with.
        window: StreamWindow,
    },
}

/// What is answered about files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileReply {
    /// Nothing to tell.
    Done,
    /// The root of the export.
    Attached {
        /// The root.
        root: Entry,
        /// The user the agent acts as.
        uid: u32,
        /// That user's group.
        gid: u32,
        /// Whether it may act for others: make files for any user, and change owners.
        privileged: bool,
        /// The root's path with symlinks resolved, absolute, as the machine takes it.
        path: Vec<u8>,
    },
    /// A file that was found by its path.
    Located {
        /// Its path beneath the root, with symlinks resolved.
        path: RelativePath,
        /// The file.
        entry: Entry,
    },
    /// A name, found or not.
    Looked {
        /// The file; `None` is "no such name", an answer like any other.
        entry: Option<Entry>,
        /// On the directory.
        lease: Option<Lease>,
    },
    /// A file as it is now.
    Entry(Entry),
    /// A removed name.
    Removed {
        /// The file as it is now, if it has other names or is open.
        entry: Option<Entry>,
        /// The directory's attributes now.
        directory: Attributes,
    },
    /// A moved name.
    Renamed {
        /// The attributes now of the directory that it was in.
        from: Attributes,
        /// And of the one that it is in.
        to: Attributes,
    },
    /// An open file.
    Opened {
        /// As it is now.
        entry: Entry,
        /// Whether the payload is the whole content.
        whole: bool,
        /// Whether this request made the file.
        created: bool,
        /// The directory as it is after a [`FileRequest::Create`].
        directory: Option<Attributes>,
    },
    /// What became of several files that were to be made, in their order: nothing of one that was, the reason for one that was
    /// not.
    MadeMany {
        /// As many as were asked for.
        failures: Vec<Option<Errno>>,
    },
    /// Several files, in the order in which they were asked for: the lengths of consecutive parts of the payload, and the reason
    /// for one that was not read. `EMEDIUMTYPE` is what is not a regular file, `EFBIG` one that does not fit with those before,
    /// and `EAGAIN` one that changes.
    GotMany {
        /// As many as were asked for.
        files: Vec<Result<u32, Errno>>,
    },
    /// Bytes: the payload.
    Data,
    /// A write.
    Written {
        /// How many bytes.
        bytes: u64,
        /// The file as it is now.
        attributes: Attributes,
    },
    /// An offset.
    Position(u64),
    /// A file system.
    Space(Space),
    /// The lock that is in the way, and the process that holds it where that is known; `None`: nothing is.
    Lock(Option<(Lock, u32)>),
    /// A page of a listing.
    Listing {
        /// In the machine's order.
        entries: Vec<Listed>,
        /// The directory's end has been reached.
        end: bool,
        /// On the directory, from before the first page was read.
        lease: Option<Lease>,
        /// The directory as it is now, with the last page.
        directory: Option<Attributes>,
    },
    /// A whole directory of a walk, or a part of one.
    Walked {
        /// Which directory.
        directory: Place,
        /// Its names.
        entries: Vec<Listed>,
        /// It has no more names.
        end: bool,
        /// On the directory.
        lease: Option<Lease>,
        /// The directory as it is now, with its last part.
        attributes: Option<Attributes>,
        /// Contents of files among `entries`, by index, as lengths of consecutive parts of the payload.
        contents: Vec<(u32, u32)>,
    },
    /// What a search for names has come to since the last page.
    Found {
        /// In the machine's order within each directory.
        found: Vec<Found>,
        /// Directories that were left out, and why.
        unread: Vec<(RelativePath, Errno)>,
    },
    /// What a search for content has come to since the last page.
    Searched {
        /// May be none.
        hits: Vec<Hit>,
        /// Files and directories that were left out, and why.
        unread: Vec<(RelativePath, Errno)>,
        /// What it has gone through, with the last page.
        searched: Option<Searched>,
    },
    /// Digests of blocks.
    Digested {
        /// In their order.
        blocks: Vec<BlockDigest>,
    },
    /// What has been removed since the last page.
    TreeRemoved {
        /// How many names.
        removed: u64,
        /// What stays, by its path from the directory that the tree was in, and why.
        kept: Vec<(RelativePath, Errno)>,
    },
    /// Changes below a watched directory.
    Watched {
        /// Paths from the watched directory, with what happened.
        changes: Vec<(RelativePath, WatchEvent)>,
        /// Some changes were missed: look again at everything.
        rescan: bool,
    },
}
