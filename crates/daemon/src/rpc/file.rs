//! `file.*`: what a client does with files goes through one session with the agent of each machine, see [`sessions`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ::remote::client::{CallError, DirectoryPage, Located, PageStream, TypedCall};
use bytes::Bytes;
use rustix::io::Errno;
use wire::agent::HandleId as FarHandle;
use wire::agent::file::{
    AttributeChanges, Caller as FarCaller, Entry as FarEntry, Kind, LastLink, Listed as FarListed, OpenFlags,
    Place, RenameMode, SetTime, Target, Time, WriteAt,
};
use wire::agent::name::Name;
use wire::api::file::{
    CHUNK_BYTES_MAX, Chunk, Close, Content, Creation, Done as Nothing, ENTRIES_MAX, Entry, FileKind,
    FileTime, Get, Got, Links, List, Listed, MakeDirectory, MakeLink, Open, OpenDirectory, Opened, Progress,
    Purpose, Put, Read, Remove, Rename, SetAttributes, Stat, Sync, Taken, Write, Written,
};
use wire::api::id::HandleId;
use wire::api::machine::{Caller, Machine, Source};
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;

use super::Daemon;
use crate::failure::{from_call, from_io};
use crate::owner::Wanted;
use crate::session::{ClientContext, Done, Effect, done_with, failed};

pub mod content;
pub mod many;
pub mod sessions;
pub mod trees;

use sessions::{Directory, FarSession};

/// Credit for a listing: a page and the next.
const LIST_WINDOW_BYTES: u32 = 256 << 10;

/// The permission bits of a mode, with set-id and sticky.
const MODE_BITS: u32 = 0o7777;

/// The umask under which files are made: the mode is the client's to choose.
const NO_UMASK: u16 = 0;

/// The permission bits of a file that is not complete: nobody else's business.
const UNFINISHED: u16 = 0o600;

/// What a handle stands for.
pub enum OpenNode {
    /// A file, which several requests may use at once.
    File(Arc<OpenFile>),
    /// A directory that is being listed.
    Directory(Box<Listing>),
    /// Something that is done with a whole tree.
    Tree(Box<trees::Tree>),
}

/// An open file. Dropped, it is closed.
pub struct OpenFile {
    far: FarHandle,
    shown: String,
    purpose: Purpose,
    is_closed: AtomicBool,
    session: Arc<FarSession>,
}

impl OpenFile {
    fn new(subject: &Subject<'_>, session: Arc<FarSession>, far: FarHandle, purpose: Purpose) -> OpenFile {
        OpenFile { far, shown: subject.shown(), purpose, is_closed: AtomicBool::new(false), session }
    }

    /// Asks the machine to close it, unless it has been asked already.
    fn close(&self) -> Option<TypedCall<()>> {
        let was_closed = self.is_closed.swap(true, Ordering::Relaxed);
        (!was_closed).then(|| self.session.client().close(self.far))
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(closing) = self.close() {
            finish_later(closing);
        }
    }
}

/// Sees a request through of which nobody wants to know what comes of it.
fn finish_later(call: TypedCall<()>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move { drop(call.await) });
    }
}

/// A directory that is being listed.
pub struct Listing {
    pages: PageStream<DirectoryPage>,
    left: VecDeque<FarListed>,
    end: bool,
    shown: String,
    path: Vec<u8>,
    directory: Directory,
    /// That of what the session knows, from before anything was asked for.
    generation: u64,
    session: Arc<FarSession>,
}

impl Listing {
    /// Has a directory in this one found without asking for it, as long as that is believed.
    fn keep(&self, name: &Name, found: &FarEntry) {
        if found.attributes.kind == Kind::Directory {
            let Directory { place, since } = &self.directory;
            let place = Place { id: found.id, path: place.path.join(name) };
            let (path, found) = (joined(&self.path, name.as_bytes()), Directory { place, since: *since });
            self.session.keep_listed(&path, found, self.generation);
        }
    }
}

/// The directory that a path is in, and the path's name there.
struct Parent {
    session: Arc<FarSession>,
    directory: Directory,
    name: Name,
    /// Whether it is known from an earlier request: the path may lead elsewhere by now.
    is_kept: bool,
}

impl Parent {
    fn place(&self) -> Place {
        self.directory.place.clone()
    }
}

/// What a request is about, for the errors it comes to.
#[derive(Clone, Copy)]
struct Subject<'a> {
    daemon: &'a Daemon,
    context: &'a ClientContext,
    what: &'static str,
    source: &'a Source,
    machine: &'a Machine,
    path: &'a [u8],
    caller: &'a Caller,
}

impl<'a> Subject<'a> {
    fn new(
        daemon: &'a Daemon,
        context: &'a ClientContext,
        what: &'static str,
        source: &'a Source,
        caller: &'a Caller,
    ) -> Result<Subject<'a>, ErrorObject> {
        context.check(caller)?;
        let (machine, path) = files(source)?;
        Ok(Subject { daemon, context, what, source, machine, path, caller })
    }

    fn shown(&self) -> String {
        self.source.to_string()
    }

    fn refused(&self, error: &CallError) -> ErrorObject {
        refused(self.what, &self.shown(), error)
    }

    fn failed(&self, errno: Errno) -> ErrorObject {
        from_io(&format!("could not {} `{}`", self.what, self.source), &errno.into())
    }

    /// The session with the machine.
    async fn session(&self) -> Result<Arc<FarSession>, ErrorObject> {
        let prompter = self.context.prompter(self.caller);
        let wanted = Wanted::new(self.machine.clone(), self.caller.clone(), prompter);
        let wanted = Wanted { opens: true, ..wanted };
        self.context.sessions.get(&self.daemon.owner, wanted).await
    }

    /// The file at the path, or with [`Links::Follow`] what it points to.
    async fn find(&self, links: Links) -> Result<(Arc<FarSession>, Located), ErrorObject> {
        let session = self.session().await?;
        self.find_in(session, links).await
    }

    async fn find_in(
        &self,
        session: Arc<FarSession>,
        links: Links,
    ) -> Result<(Arc<FarSession>, Located), ErrorObject> {
        let last = match links {
            Links::Follow => LastLink::Followed,
            Links::Keep => LastLink::Kept,
        };
        let located = session.locate(self.path, last).await?;
        let located = located.map_err(|error| self.refused(&error))?;
        Ok((session, located))
    }

    /// The directory the path is in, and its name there.
    async fn parent(&self) -> Result<Parent, ErrorObject> {
        let Some((parent, name)) = split(self.path) else {
            return Err(usage(format!("could not {} `{}`: it has no name", self.what, self.source)));
        };
        let name = Name::new(name)
            .map_err(|error| usage(format!("could not {} `{}`: {error}", self.what, self.source)))?;
        let session = self.session().await?;
        let (directory, is_kept) = self.directory(&session, parent).await?;
        Ok(Parent { session, directory, name, is_kept })
    }

    /// The directory that a path leads to, and whether that is known from an earlier request.
    async fn directory(&self, session: &FarSession, path: &[u8]) -> Result<(Directory, bool), ErrorObject> {
        if let Some(directory) = session.known(path) {
            return Ok((directory, true));
        }
        let since = Instant::now();
        let located = session.locate(path, LastLink::Followed).await?;
        let located = located.map_err(|error| self.refused(&error))?;
        if located.entry.attributes.kind != Kind::Directory {
            return Err(self.failed(Errno::NOTDIR));
        }
        let directory = Directory { place: located.place, since };
        session.keep(path, directory.clone());
        Ok((directory, false))
    }

    /// After a failure: the directory the path is in now, if it may be another one than was thought.
    async fn parent_again(&self, parent: Parent, error: &CallError) -> Result<Parent, ErrorObject> {
        if !parent.is_kept || !is_gone(error) {
            return Err(self.refused(error));
        }
        if let Some((directory, _)) = split(self.path) {
            parent.session.forget(directory);
        }
        self.parent().await
    }
}

/// Whether a path may lead elsewhere than was thought.
fn is_gone(error: &CallError) -> bool {
    [Errno::STALE, Errno::NOENT, Errno::NOTDIR].iter().any(|&gone| is(error, gone))
}

/// Whether the machine has refused with this error number.
fn is(error: &CallError, errno: Errno) -> bool {
    error.errno() == Some(::remote::errno::there(errno))
}

fn refused(what: &str, shown: &str, error: &CallError) -> ErrorObject {
    from_call(&format!("could not {what} `{shown}`"), error)
}

fn usage(message: impl Into<String>) -> ErrorObject {
    ErrorObject::new(ErrorKind::Usage, message)
}

fn files(source: &Source) -> Result<(&Machine, &[u8]), ErrorObject> {
    match source {
        Source::Files { machine, path } => Ok((machine, path.as_bytes())),
        Source::Thread { name } => {
            let message = format!("`thread:{name}` is a thread: its files are where it is mounted");
            Err(usage(message).with_hint("stead thread list"))
        }
    }
}

/// A path as the directory it is in and its name there; none for `/`, the home directory, and what ends in `..`, which
/// are directories without a name.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(0) => (&path[..1], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    (!name.is_empty() && name != b"..").then_some((parent, name))
}

/// The path of a name in the directory at a path.
fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    let is_whole = path.is_empty() || path.ends_with(b"/");
    [path, if is_whole { b"" } else { b"/" }, name].concat()
}

fn time(time: Time) -> FileTime {
    FileTime { seconds: time.seconds, nanoseconds: time.nanoseconds }
}

/// What sort of file, in the API's words.
fn kind_of(kind: Kind) -> FileKind {
    match kind {
        Kind::File => FileKind::File,
        Kind::Directory => FileKind::Directory,
        Kind::Symlink => FileKind::Link,
        Kind::Fifo => FileKind::Fifo,
        Kind::Socket => FileKind::Socket,
        Kind::CharDevice => FileKind::CharacterDevice,
        Kind::BlockDevice => FileKind::BlockDevice,
    }
}

fn far_kind(kind: FileKind) -> Kind {
    match kind {
        FileKind::File => Kind::File,
        FileKind::Directory => Kind::Directory,
        FileKind::Link => Kind::Symlink,
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::CharacterDevice => Kind::CharDevice,
        FileKind::BlockDevice => Kind::BlockDevice,
    }
}

fn entry(name: impl Into<ByteString>, entry: &FarEntry, target: Option<ByteString>) -> Entry {
    let attributes = &entry.attributes;
    Entry {
        name: name.into(),
        kind: kind_of(attributes.kind),
        mode: attributes.mode.into(),
        uid: attributes.uid,
        gid: attributes.gid,
        size: attributes.size,
        blocks: attributes.blocks,
        links: attributes.links.into(),
        inode: entry.id.inode,
        device: entry.id.device,
        birth: entry.id.birth,
        modified: time(attributes.modified),
        changed: time(attributes.changed),
        accessed: time(attributes.accessed),
        target,
    }
}

fn mode_bits(mode: u32) -> u16 {
    (mode & MODE_BITS) as u16
}

fn far_caller(caller: &Caller) -> FarCaller {
    FarCaller { uid: caller.uid, gid: caller.gid, umask: NO_UMASK }
}

/// `file.stat`
pub async fn stat(daemon: &Daemon, context: &ClientContext, stat: Stat) -> Result<Entry, ErrorObject> {
    let subject = Subject::new(daemon, context, "look at", &stat.source, &stat.caller)?;
    let (session, found) = subject.find(stat.links).await?;
    let target = match found.entry.attributes.kind {
        Kind::Symlink => {
            let target = session.client().read_link(found.place).await;
            Some(ByteString::from(&target.map_err(|error| subject.refused(&error))?[..]))
        }
        _ => None,
    };
    Ok(entry(stat.source.base_name(), &found.entry, target))
}

/// `file.open_directory`
pub async fn open_directory(daemon: &Daemon, context: &ClientContext, open: OpenDirectory) -> Done {
    match start_listing(daemon, context, &open).await {
        Ok((opened, listing)) => {
            let effect = Effect::Opened(opened.handle, OpenNode::Directory(Box::new(listing)));
            done_with::<OpenDirectory>(Ok(opened), effect)
        }
        Err(error) => failed(error),
    }
}

async fn start_listing(
    daemon: &Daemon,
    context: &ClientContext,
    open: &OpenDirectory,
) -> Result<(Opened, Listing), ErrorObject> {
    let subject = Subject::new(daemon, context, "list", &open.source, &open.caller)?;
    let since = Instant::now();
    let session = subject.session().await?;
    let generation = session.generation();
    // Where it was a moment ago it is likely to be still: then its names are on their way with the answer.
    let list = |place: &Place| session.client().list(place.clone(), 0, LIST_WINDOW_BYTES);
    let early = session.known(subject.path).map(|known| (list(&known.place), known.place));
    let (session, found) = subject.find_in(Arc::clone(&session), Links::Follow).await?;
    if found.entry.attributes.kind != Kind::Directory {
        return Err(subject.failed(Errno::NOTDIR));
    }
    let place = found.place;
    let directory = Directory { place, since };
    session.keep(subject.path, directory.clone());
    let pages = match early {
        Some((pages, place)) if place == directory.place => pages,
        Some(_) | None => session.client().list(directory.place.clone(), 0, LIST_WINDOW_BYTES),
    };
    let (left, shown, path) = (VecDeque::new(), subject.shown(), subject.path.to_vec());
    let listing = Listing { pages, left, end: false, shown, path, directory, generation, session };
    let directory = entry(open.source.base_name(), &found.entry, None);
    Ok((Opened { handle: context.new_handle(), entry: directory }, listing))
}

/// `file.list`
pub async fn list(list: List, node: Option<OpenNode>) -> Done {
    match node {
        Some(OpenNode::Directory(mut listing)) => {
            let listed = next_entries(&mut listing).await;
            done_with::<List>(listed, Effect::Opened(list.handle, OpenNode::Directory(listing)))
        }
        Some(OpenNode::File(_) | OpenNode::Tree(_)) => {
            failed(usage(format!("{} is not a directory", list.handle)))
        }
        None => failed(no_handle(list.handle)),
    }
}

async fn next_entries(listing: &mut Listing) -> Result<Listed, ErrorObject> {
    while listing.left.is_empty() && !listing.end {
        match listing.pages.next().await {
            Some(Ok(page)) => {
                listing.end = page.end;
                listing.left.extend(page.entries);
            }
            Some(Err(error)) => return Err(refused("list", &listing.shown, &error)),
            None => listing.end = true,
        }
    }
    let count = listing.left.len().min(ENTRIES_MAX);
    let mut entries = Vec::with_capacity(count);
    for listed in listing.left.drain(..count).collect::<Vec<_>>() {
        let found = match listed.entry {
            Some(found) => Some(found),
            None => {
                let client = listing.session.client();
                let place = listing.directory.place.clone();
                let looked = client.lookup(place, listed.name.clone()).await;
                looked.map_err(|error| refused("list", &listing.shown, &error))?.entry
            }
        };
        found.iter().for_each(|found| listing.keep(&listed.name, found));
        // One that is gone by now is not listed.
        entries.extend(found.map(|found| entry(listed.name.as_bytes(), &found, None)));
    }
    let progress = if listing.end && listing.left.is_empty() { Progress::End } else { Progress::More };
    Ok(Listed { entries, progress })
}

/// `file.open`
pub async fn open(daemon: &Daemon, context: &ClientContext, open: Open) -> Done {
    let opened = match open.purpose {
        Purpose::Read => open_to_read(daemon, context, &open).await,
        Purpose::Write { create, mode } | Purpose::Both { create, mode } => {
            open_to_write(daemon, context, &open, create, mode).await
        }
    };
    match opened {
        Ok((opened, file)) => {
            let effect = Effect::Opened(opened.handle, OpenNode::File(Arc::new(file)));
            done_with::<Open>(Ok(opened), effect)
        }
        Err(error) => failed(error),
    }
}

async fn open_to_read(
    daemon: &Daemon,
    context: &ClientContext,
    open: &Open,
) -> Result<(Opened, OpenFile), ErrorObject> {
    let subject = Subject::new(daemon, context, "read", &open.source, &open.caller)?;
    open_existing(subject, open.purpose, OpenFlags { read: true, ..OpenFlags::default() }).await
}

async fn open_to_write(
    daemon: &Daemon,
    context: &ClientContext,
    open: &Open,
    create: Creation,
    mode: u32,
) -> Result<(Opened, OpenFile), ErrorObject> {
    let flags = OpenFlags {
        read: matches!(open.purpose, Purpose::Both { .. }),
        write: true,
        truncate: create == Creation::Truncate,
        exclusive: create == Creation::New,
        ..OpenFlags::default()
    };
    let subject = Subject::new(daemon, context, "write", &open.source, &open.caller)?;
    if create == Creation::Existing {
        return open_existing(subject, open.purpose, flags).await;
    }
    let (mode, caller) = (mode_bits(mode), far_caller(&open.caller));
    let mut parent = subject.parent().await?;
    let (far, opened) = loop {
        let client = parent.session.client();
        let far = client.new_handle();
        match client.create(parent.place(), parent.name.clone(), mode, flags, far, caller).await {
            Ok(opened) => break (far, opened),
            // It is a link: what it points to is written, as by any program.
            Err(error) if is(&error, Errno::LOOP) => {
                return open_existing(subject, open.purpose, flags).await;
            }
            Err(error) => parent = subject.parent_again(parent, &error).await?,
        }
    };
    let shown = entry(parent.name.as_bytes(), &opened.entry, None);
    let file = OpenFile::new(&subject, parent.session, far, open.purpose);
    Ok((Opened { handle: context.new_handle(), entry: shown }, file))
}

async fn open_existing(
    subject: Subject<'_>,
    purpose: Purpose,
    flags: OpenFlags,
) -> Result<(Opened, OpenFile), ErrorObject> {
    let (session, found) = subject.find(Links::Follow).await?;
    if found.entry.attributes.kind == Kind::Directory {
        return Err(subject.failed(Errno::ISDIR));
    }
    let far = session.client().new_handle();
    let opened = session.client().open(found.place, flags, far, 0).await;
    let opened = opened.map_err(|error| subject.refused(&error))?;
    let shown = entry(subject.source.base_name(), &opened.entry, None);
    let file = OpenFile::new(&subject, session, far, purpose);
    Ok((Opened { handle: subject.context.new_handle(), entry: shown }, file))
}

fn no_handle(handle: HandleId) -> ErrorObject {
    let message = format!("there is no handle {handle}, or another request is using it");
    ErrorObject::new(ErrorKind::NotFound, message)
}

fn file(handle: HandleId, node: Option<OpenNode>) -> Result<Arc<OpenFile>, ErrorObject> {
    match node {
        Some(OpenNode::File(file)) => Ok(file),
        Some(OpenNode::Directory(_) | OpenNode::Tree(_)) => Err(usage(format!("{handle} is not a file"))),
        None => Err(no_handle(handle)),
    }
}

/// `file.read`
pub async fn read(read: Read, node: Option<OpenNode>) -> Result<Chunk, ErrorObject> {
    let file = file(read.handle, node)?;
    let length = read.bytes.min(CHUNK_BYTES_MAX as u32);
    let content = file.session.client().read(file.far, read.offset, length).await;
    let content = content.map_err(|error| refused("read", &file.shown, &error))?;
    Ok(Chunk { content: Content(content.into()) })
}

/// `file.write`
pub async fn write(write: Write, node: Option<OpenNode>) -> Result<Written, ErrorObject> {
    let file = file(write.handle, node)?;
    let wanted = write.content.0.len();
    if wanted > CHUNK_BYTES_MAX {
        return Err(usage(format!("a chunk has at most {CHUNK_BYTES_MAX} bytes")));
    }
    let content = Bytes::from(write.content.0);
    let written = file.session.client().write(file.far, WriteAt::Offset(write.offset), false, content).await;
    let written = written.map_err(|error| refused("write", &file.shown, &error))?;
    if written.bytes != wanted as u64 {
        let message = format!("could not write `{}`: only {} of {wanted} bytes", file.shown, written.bytes);
        return Err(ErrorObject::new(ErrorKind::Failure, message));
    }
    Ok(Written { bytes: wanted as u32 })
}

/// `file.get`
pub async fn get(daemon: &Daemon, context: &ClientContext, get: Get) -> Result<Got, ErrorObject> {
    let subject = Subject::new(daemon, context, "read", &get.source, &get.caller)?;
    let conflict = |why: &str| {
        ErrorObject::new(ErrorKind::Conflict, format!("could not read `{}` at once: {why}", get.source))
    };
    let (session, found) = subject.find(Links::Follow).await?;
    let attributes = &found.entry.attributes;
    if attributes.kind != Kind::File {
        return Err(conflict("it is not a regular file"));
    }
    if attributes.size > CHUNK_BYTES_MAX as u64 {
        return Err(conflict(&format!("it has more than {CHUNK_BYTES_MAX} bytes")));
    }
    let flags = OpenFlags { read: true, ..OpenFlags::default() };
    let far = session.client().new_handle();
    let opened = session.client().open(found.place, flags, far, CHUNK_BYTES_MAX as u32).await;
    let opened = opened.map_err(|error| subject.refused(&error))?;
    drop(OpenFile::new(&subject, session, far, Purpose::Read));
    if !opened.whole {
        return Err(conflict("it changes"));
    }
    let shown = entry(get.source.base_name(), &opened.entry, None);
    Ok(Got { entry: shown, content: Content(opened.content.into()) })
}

/// `file.put`
pub async fn put(daemon: &Daemon, context: &ClientContext, put: Put) -> Result<Entry, ErrorObject> {
    if put.content.0.len() > CHUNK_BYTES_MAX {
        return Err(usage(format!("a chunk has at most {CHUNK_BYTES_MAX} bytes")));
    }
    let modified = set_time(put.modified)?;
    let changes =
        AttributeChanges { mode: Some(mode_bits(put.mode)), modified, ..AttributeChanges::default() };
    let subject = Subject::new(daemon, context, "write", &put.source, &put.caller)?;
    let (content, caller) = (Bytes::from(put.content.0), far_caller(&put.caller));
    let mut parent = subject.parent().await?;
    let made = loop {
        let (client, name) = (parent.session.client(), parent.name.clone());
        let putting =
            client.put(parent.place(), name, UNFINISHED, changes, false, false, caller, content.clone());
        match putting.await {
            Ok(made) => break made,
            Err(error) => parent = subject.parent_again(parent, &error).await?,
        }
    };
    Ok(entry(parent.name.as_bytes(), &made, None))
}

/// `file.sync`
pub async fn sync(sync: Sync, node: Option<OpenNode>) -> Result<Nothing, ErrorObject> {
    let file = file(sync.handle, node)?;
    let synced = file.session.client().sync(Target::Handle(file.far), false).await;
    synced.map(|()| Nothing {}).map_err(|error| refused("sync", &file.shown, &error))
}

/// `file.close`
pub async fn close(close: Close, node: Option<OpenNode>) -> Result<Nothing, ErrorObject> {
    match node {
        None => Err(no_handle(close.handle)),
        Some(OpenNode::Directory(_) | OpenNode::Tree(_)) => Ok(Nothing {}),
        Some(OpenNode::File(file)) => close_file(&file).await,
    }
}

async fn close_file(file: &OpenFile) -> Result<Nothing, ErrorObject> {
    let Some(closing) = file.close() else {
        return Ok(Nothing {});
    };
    if file.purpose == Purpose::Read {
        // No content depends on it.
        finish_later(closing);
        return Ok(Nothing {});
    }
    closing.await.map(|()| Nothing {}).map_err(|error| refused("close", &file.shown, &error))
}

fn set_time(time: Option<FileTime>) -> Result<SetTime, ErrorObject> {
    match time {
        None => Ok(SetTime::Keep),
        Some(FileTime { nanoseconds: 1_000_000_000.., .. }) => {
            Err(usage("a second has 1,000,000,000 nanoseconds"))
        }
        Some(FileTime { seconds, nanoseconds }) => Ok(SetTime::To(Time { seconds, nanoseconds })),
    }
}

/// `file.set_attributes`
pub async fn set_attributes(
    daemon: &Daemon,
    context: &ClientContext,
    set: SetAttributes,
) -> Result<Entry, ErrorObject> {
    let changes = AttributeChanges {
        size: set.size,
        mode: set.mode.map(mode_bits),
        modified: set_time(set.modified)?,
        accessed: set_time(set.accessed)?,
        ..AttributeChanges::default()
    };
    let subject = Subject::new(daemon, context, "change", &set.source, &set.caller)?;
    let session = subject.session().await?;
    let kept = session.known(subject.path).filter(|_| set.links == Links::Follow);
    let changed = match kept {
        Some(kept) => session.client().set_attributes(Target::Place(kept.place), changes).await.ok(),
        None => None,
    };
    let changed = match changed {
        Some(changed) => changed,
        // The path may lead elsewhere by now.
        None => {
            let (session, found) = subject.find(set.links).await?;
            let changed = session.client().set_attributes(Target::Place(found.place), changes).await;
            changed.map_err(|error| subject.refused(&error))?
        }
    };
    Ok(entry(set.source.base_name(), &changed, None))
}

/// `file.make_directory`
pub async fn make_directory(
    daemon: &Daemon,
    context: &ClientContext,
    make: MakeDirectory,
) -> Result<Entry, ErrorObject> {
    let subject = Subject::new(daemon, context, "make the directory", &make.source, &make.caller)?;
    let (mode, caller) = (mode_bits(make.mode), far_caller(&make.caller));
    let mut parent = subject.parent().await?;
    let made = loop {
        let client = parent.session.client();
        match client.make_directory(parent.place(), parent.name.clone(), mode, caller).await {
            Ok(made) => break made,
            Err(error) => parent = subject.parent_again(parent, &error).await?,
        }
    };
    let path = parent.directory.place.path.join(&parent.name);
    let place = Place { id: made.id, path };
    parent.session.keep(subject.path, Directory { place, since: parent.directory.since });
    Ok(entry(parent.name.as_bytes(), &made, None))
}

/// `file.make_link`
pub async fn make_link(
    daemon: &Daemon,
    context: &ClientContext,
    make: MakeLink,
) -> Result<Entry, ErrorObject> {
    let subject = Subject::new(daemon, context, "make the link", &make.source, &make.caller)?;
    let (target, caller) = (Bytes::copy_from_slice(make.target.as_bytes()), far_caller(&make.caller));
    let mut parent = subject.parent().await?;
    let made = loop {
        let client = parent.session.client();
        match client.symlink(parent.place(), parent.name.clone(), target.clone(), caller).await {
            Ok(made) => break made,
            Err(error) => parent = subject.parent_again(parent, &error).await?,
        }
    };
    Ok(entry(parent.name.as_bytes(), &made, Some(make.target)))
}

/// `file.remove`
pub async fn remove(
    daemon: &Daemon,
    context: &ClientContext,
    remove: Remove,
) -> Result<Nothing, ErrorObject> {
    let subject = Subject::new(daemon, context, "remove", &remove.source, &remove.caller)?;
    let mut parent = subject.parent().await?;
    loop {
        let (client, name) = (parent.session.client(), &parent.name);
        let removed = match client.unlink(parent.place(), name.clone()).await {
            Err(error) if is(&error, Errno::ISDIR) => {
                client.remove_directory(parent.place(), name.clone()).await
            }
            removed => removed,
        };
        match removed {
            Ok(_) => break,
            Err(error) => parent = subject.parent_again(parent, &error).await?,
        }
    }
    parent.session.forget(subject.path);
    Ok(Nothing {})
}

/// `file.rename`
pub async fn rename(
    daemon: &Daemon,
    context: &ClientContext,
    rename: Rename,
) -> Result<Nothing, ErrorObject> {
    let from = Subject::new(daemon, context, "rename", &rename.source, &rename.caller)?;
    let to = Subject::new(daemon, context, "rename to", &rename.to, &rename.caller)?;
    if from.machine != to.machine {
        return Err(usage("a file can be renamed within its machine only"));
    }
    let mode = match rename.taken {
        Taken::Replaced => RenameMode::Replace,
        Taken::Kept => RenameMode::NoReplace,
        Taken::Exchanged => RenameMode::Exchange,
    };
    let (mut old, mut new) = (from.parent().await?, to.parent().await?);
    loop {
        let (old_name, new_name) = (old.name.clone(), new.name.clone());
        let client = old.session.client();
        match client.rename(old.place(), old_name, new.place(), new_name, mode).await {
            Ok(_) => break,
            Err(error) if old.is_kept => {
                old = from.parent_again(old, &error).await?;
                new = to.parent().await?;
            }
            Err(error) if new.is_kept => new = to.parent_again(new, &error).await?,
            Err(error) => return Err(from.refused(&error)),
        }
    }
    old.session.forget(from.path);
    old.session.forget(to.path);
    Ok(Nothing {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_into_its_directory_and_its_name() {
        let cases: &[(&str, Option<(&str, &str)>)] = &[
            ("/a/b", Some(("/a", "b"))),
            ("/a", Some(("/", "a"))),
            ("a/b", Some(("a", "b"))),
            ("a", Some(("", "a"))),
            ("/", None),
            ("", None),
            ("..", None),
            ("/a/..", None),
        ];
        for (path, expected) in cases {
            let expected = expected.map(|(parent, name)| (parent.as_bytes(), name.as_bytes()));
            assert_eq!(split(path.as_bytes()), expected, "{path}");
        }
    }
}
