//! `file.*`: what a client does with files goes through sessions with the machine's agent that are attached to the
//! directories the files are in. A client keeps a few of them for a moment ([`Directories`]), so that many files of one
//! directory cost one session.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::remote::Connection;
use ::remote::client::{Attached, CallError, DirectoryPage, PageStream};
use bytes::Bytes;
use wire::agent::HandleId as FarHandle;
use wire::agent::file::{
    AttributeChanges, Caller as FarCaller, Entry as FarEntry, Kind, Listed as FarListed, OpenFlags, Place,
    RenameMode, SetTime, Target, Time, WriteAt,
};
use wire::agent::name::{Name, RelativePath};
use wire::api::file::{
    CHUNK_BYTES_MAX, Chunk, Close, Content, Creation, Done as Nothing, ENTRIES_MAX, Entry, FileKind,
    FileTime, Links, List, Listed, MakeDirectory, MakeLink, Open, OpenDirectory, Opened, Progress, Purpose,
    Read, Remove, Rename, SetAttributes, Stat, Sync, Write, Written,
};
use wire::api::id::HandleId;
use wire::api::machine::{Caller, Machine, Source, absolute};
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;

use super::Daemon;
use crate::connection::Lease;
use crate::failure::{chain, from_io};
use crate::owner::Wanted;
use crate::session::{ClientContext, Done, Effect, done_with, failed};

/// Credit for a listing: a page and the next.
const LIST_WINDOW_BYTES: u32 = 256 << 10;

/// The directories that are kept for one client. Each is a session of the machine's connection, of which an ssh server
/// allows ten unless it says otherwise; mounts, and files that are open, need some too.
const DIRECTORIES_MAX: usize = 2;

/// How long a directory is kept: its path may soon mean another one.
const DIRECTORY_AGE_MAX: Duration = Duration::from_secs(2);

/// The links that are followed, as by Linux.
const LINKS_MAX: usize = 40;

/// The permission bits of a mode, with set-id and sticky.
const MODE_BITS: u32 = 0o7777;

/// The umask under which files are made: the mode is the client's to choose.
const NO_UMASK: u16 = 0;

/// What a handle stands for.
pub enum OpenNode {
    /// A file, which several requests may use at once.
    File(Arc<OpenFile>),
    /// A directory that is being listed.
    Directory(Box<Listing>),
}

/// An open file.
pub struct OpenFile {
    far: FarHandle,
    shown: String,
    attachment: Arc<Attachment>,
}

/// A directory that is being listed.
pub struct Listing {
    pages: PageStream<DirectoryPage>,
    left: VecDeque<FarListed>,
    end: bool,
    shown: String,
    attachment: Arc<Attachment>,
}

/// A session that is attached to a directory.
struct Attachment {
    root: Attached,
    connection: Connection,
    _lease: Lease,
}

/// The directories of one client's last requests.
#[derive(Default)]
pub struct Directories {
    kept: Mutex<VecDeque<KeptDirectory>>,
}

struct KeptDirectory {
    machine: Machine,
    path: Vec<u8>,
    since: Instant,
    attachment: Arc<Attachment>,
}

impl Directories {
    fn get(&self, machine: &Machine, path: &[u8]) -> Option<Arc<Attachment>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|directory| {
            directory.since.elapsed() < DIRECTORY_AGE_MAX && !directory.attachment.connection.client.is_lost()
        });
        let found = kept.iter().find(|directory| directory.machine == *machine && directory.path == path);
        found.map(|directory| Arc::clone(&directory.attachment))
    }

    fn keep(&self, machine: &Machine, path: &[u8], attachment: Arc<Attachment>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= DIRECTORIES_MAX {
            kept.pop_front();
        }
        let (machine, path) = (machine.clone(), path.to_vec());
        kept.push_back(KeptDirectory { machine, path, since: Instant::now(), attachment });
    }
}

impl std::fmt::Debug for Directories {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Directories")
    }
}

impl Attachment {
    fn place(&self) -> Place {
        Place { id: self.root.root.id, path: RelativePath::default() }
    }
}

/// A file that was found, and the session it was found by.
struct Found {
    attachment: Arc<Attachment>,
    /// None for the directory that the session is attached to.
    name: Option<Name>,
    entry: FarEntry,
}

impl Found {
    fn place(&self) -> Place {
        match &self.name {
            None => self.attachment.place(),
            Some(name) => child(&self.entry, name),
        }
    }
}

/// What a request is about, for the errors it comes to.
#[derive(Clone, Copy)]
struct Subject<'a> {
    daemon: &'a Daemon,
    context: &'a ClientContext,
    what: &'a str,
    source: &'a Source,
    machine: &'a Machine,
    path: &'a [u8],
    caller: &'a Caller,
}

impl<'a> Subject<'a> {
    fn new(
        daemon: &'a Daemon,
        context: &'a ClientContext,
        what: &'a str,
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

    fn failed(&self, errno: rustix::io::Errno) -> ErrorObject {
        from_io(&format!("could not {} `{}`", self.what, self.source), &errno.into())
    }

    /// A session that is attached to the directory at `path`, following links on the way.
    async fn directory(&self, path: &[u8]) -> Result<Arc<Attachment>, ErrorObject> {
        if let Some(kept) = self.context.directories.get(self.machine, path) {
            return Ok(kept);
        }
        let prompter = self.context.prompter(self.caller);
        let wanted = Wanted::new(self.machine.clone(), self.caller.clone(), prompter);
        let lease = self.daemon.owner.acquire(wanted).await?;
        let connection = lease.link().open().await?;
        let root =
            connection.client.attach(path.to_vec(), false).await.map_err(|error| self.refused(&error))?;
        let attachment = Arc::new(Attachment { root, connection, _lease: lease });
        self.context.directories.keep(self.machine, path, Arc::clone(&attachment));
        Ok(attachment)
    }

    /// The directory a path is in, and its name there.
    async fn parent(&self) -> Result<(Arc<Attachment>, Name), ErrorObject> {
        let Some((parent, name)) = split(self.path) else {
            return Err(usage(format!("could not {} `{}`: it has no name", self.what, self.source)));
        };
        let name = self.name(name)?;
        Ok((self.directory(parent).await?, name))
    }

    fn name(&self, name: &[u8]) -> Result<Name, ErrorObject> {
        Name::new(name).map_err(|error| usage(format!("could not {} `{}`: {error}", self.what, self.source)))
    }

    async fn lookup(&self, attachment: &Attachment, name: &Name) -> Result<Option<FarEntry>, ErrorObject> {
        let looked = attachment.connection.client.lookup(attachment.place(), name.clone()).await;
        Ok(looked.map_err(|error| self.refused(&error))?.entry)
    }

    /// The file at the path, or with [`Links::Follow`] what it points to.
    async fn find(&self, links: Links) -> Result<Found, ErrorObject> {
        let mut path = self.path.to_vec();
        for _ in 0..LINKS_MAX {
            let Some((parent, name)) = split(&path) else {
                let attachment = self.directory(&path).await?;
                let entry = attachment.root.root;
                return Ok(Found { attachment, name: None, entry });
            };
            let name = self.name(name)?;
            let attachment = self.directory(parent).await?;
            let entry = self.lookup(&attachment, &name).await?;
            let entry = entry.ok_or_else(|| self.failed(rustix::io::Errno::NOENT))?;
            if links == Links::Keep || entry.attributes.kind != Kind::Symlink {
                return Ok(Found { attachment, name: Some(name), entry });
            }
            let target = attachment.connection.client.read_link(child(&entry, &name)).await;
            let target = target.map_err(|error| self.refused(&error))?;
            path = absolute(&target, &attachment.root.path);
        }
        Err(self.failed(rustix::io::Errno::LOOP))
    }
}

fn refused(what: &str, shown: &str, error: &CallError) -> ErrorObject {
    let what = format!("could not {what} `{shown}`");
    match error {
        CallError::Failed(failure) => {
            from_io(&what, &io::Error::from_raw_os_error(i32::from(failure.errno.0)))
        }
        CallError::Lost(_) => ErrorObject::new(ErrorKind::Unreachable, format!("{what}: {}", chain(error))),
        CallError::Unsendable(_) => ErrorObject::new(ErrorKind::Usage, format!("{what}: {}", chain(error))),
    }
}

fn usage(message: impl Into<String>) -> ErrorObject {
    ErrorObject::new(ErrorKind::Usage, message)
}

fn files(source: &Source) -> Result<(&Machine, &[u8]), ErrorObject> {
    match source {
        Source::Files { machine, path } => Ok((machine, path.as_bytes())),
        Source::Thread { name } => Err(usage(format!("`thread:{name}`: this daemon serves no threads"))),
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

fn child(entry: &FarEntry, name: &Name) -> Place {
    Place { id: entry.id, path: RelativePath::default().join(name) }
}

fn time(time: Time) -> FileTime {
    FileTime { seconds: time.seconds, nanoseconds: time.nanoseconds }
}

fn entry(name: impl Into<ByteString>, entry: &FarEntry, target: Option<ByteString>) -> Entry {
    let attributes = &entry.attributes;
    Entry {
        name: name.into(),
        kind: match attributes.kind {
            Kind::File => FileKind::File,
            Kind::Directory => FileKind::Directory,
            Kind::Symlink => FileKind::Link,
            Kind::Fifo => FileKind::Fifo,
            Kind::Socket => FileKind::Socket,
            Kind::CharDevice => FileKind::CharacterDevice,
            Kind::BlockDevice => FileKind::BlockDevice,
        },
        mode: attributes.mode.into(),
        uid: attributes.uid,
        gid: attributes.gid,
        size: attributes.size,
        blocks: attributes.blocks,
        links: attributes.links.into(),
        inode: entry.id.inode,
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
    let found = subject.find(stat.links).await?;
    let target = match found.entry.attributes.kind {
        Kind::Symlink => {
            let target = found.attachment.connection.client.read_link(found.place()).await;
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
    let attachment = subject.directory(subject.path).await?;
    let pages = attachment.connection.client.list(attachment.place(), 0, LIST_WINDOW_BYTES);
    let shown = entry(open.source.base_name(), &attachment.root.root, None);
    let listing = Listing { pages, left: VecDeque::new(), end: false, shown: subject.shown(), attachment };
    Ok((Opened { handle: context.new_handle(), entry: shown }, listing))
}

/// `file.list`
pub async fn list(list: List, node: Option<OpenNode>) -> Done {
    match node {
        Some(OpenNode::Directory(mut listing)) => {
            let listed = next_entries(&mut listing).await;
            done_with::<List>(listed, Effect::Opened(list.handle, OpenNode::Directory(listing)))
        }
        Some(OpenNode::File(_)) => failed(usage(format!("{} is not a directory", list.handle))),
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
    for listed in listing.left.drain(..count) {
        let found = match listed.entry {
            Some(found) => Some(found),
            None => {
                let attachment = &listing.attachment;
                let looked =
                    attachment.connection.client.lookup(attachment.place(), listed.name.clone()).await;
                looked.map_err(|error| refused("list", &listing.shown, &error))?.entry
            }
        };
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
        Purpose::Write { create, mode } => open_to_write(daemon, context, &open, create, mode).await,
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
    let found = subject.find(Links::Follow).await?;
    open_found(subject, found, OpenFlags { read: true, ..OpenFlags::default() }).await
}

async fn open_to_write(
    daemon: &Daemon,
    context: &ClientContext,
    open: &Open,
    create: Creation,
    mode: u32,
) -> Result<(Opened, OpenFile), ErrorObject> {
    let flags = OpenFlags {
        write: true,
        truncate: create == Creation::Truncate,
        exclusive: create == Creation::New,
        ..OpenFlags::default()
    };
    let subject = Subject::new(daemon, context, "write", &open.source, &open.caller)?;
    if create == Creation::Existing {
        let found = subject.find(Links::Follow).await?;
        return open_found(subject, found, flags).await;
    }
    let (attachment, name) = subject.parent().await?;
    let there = subject.lookup(&attachment, &name).await?;
    let is_link = there.is_some_and(|there| there.attributes.kind == Kind::Symlink);
    if is_link && create != Creation::New {
        // What the link points to is written, as by any program.
        let found = subject.find(Links::Follow).await?;
        return open_found(subject, found, flags).await;
    }
    let client = &attachment.connection.client;
    let far = client.new_handle();
    let (place, caller) = (attachment.place(), far_caller(&open.caller));
    let opened = client.create(place, name.clone(), mode_bits(mode), flags, far, caller).await;
    let opened = opened.map_err(|error| subject.refused(&error))?;
    let shown = entry(name.as_bytes(), &opened.entry, None);
    let file = OpenFile { far, shown: subject.shown(), attachment };
    Ok((Opened { handle: context.new_handle(), entry: shown }, file))
}

async fn open_found(
    subject: Subject<'_>,
    found: Found,
    flags: OpenFlags,
) -> Result<(Opened, OpenFile), ErrorObject> {
    if found.entry.attributes.kind == Kind::Directory {
        return Err(subject.failed(rustix::io::Errno::ISDIR));
    }
    let place = found.place();
    let client = &found.attachment.connection.client;
    let far = client.new_handle();
    let opened = client.open(place, flags, far, 0).await.map_err(|error| subject.refused(&error))?;
    let shown = entry(subject.source.base_name(), &opened.entry, None);
    let file = OpenFile { far, shown: subject.shown(), attachment: found.attachment };
    Ok((Opened { handle: subject.context.new_handle(), entry: shown }, file))
}

fn no_handle(handle: HandleId) -> ErrorObject {
    let message = format!("there is no handle {handle}, or another request is using it");
    ErrorObject::new(ErrorKind::NotFound, message)
}

fn file(handle: HandleId, node: Option<OpenNode>) -> Result<Arc<OpenFile>, ErrorObject> {
    match node {
        Some(OpenNode::File(file)) => Ok(file),
        Some(OpenNode::Directory(_)) => Err(usage(format!("{handle} is a directory"))),
        None => Err(no_handle(handle)),
    }
}

/// `file.read`
pub async fn read(read: Read, node: Option<OpenNode>) -> Result<Chunk, ErrorObject> {
    let file = file(read.handle, node)?;
    let length = read.bytes.min(CHUNK_BYTES_MAX as u32);
    let content = file.attachment.connection.client.read(file.far, read.offset, length).await;
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
    let written = file
        .attachment
        .connection
        .client
        .write(file.far, WriteAt::Offset(write.offset), false, content)
        .await;
    let written = written.map_err(|error| refused("write", &file.shown, &error))?;
    if written.bytes != wanted as u64 {
        let message = format!("could not write `{}`: only {} of {wanted} bytes", file.shown, written.bytes);
        return Err(ErrorObject::new(ErrorKind::Failure, message));
    }
    Ok(Written { bytes: wanted as u32 })
}

/// `file.sync`
pub async fn sync(sync: Sync, node: Option<OpenNode>) -> Result<Nothing, ErrorObject> {
    let file = file(sync.handle, node)?;
    let synced = file.attachment.connection.client.sync(Target::Handle(file.far), false).await;
    synced.map(|()| Nothing {}).map_err(|error| refused("sync", &file.shown, &error))
}

/// `file.close`
pub async fn close(close: Close, node: Option<OpenNode>) -> Result<Nothing, ErrorObject> {
    match node {
        None => Err(no_handle(close.handle)),
        Some(OpenNode::Directory(_)) => Ok(Nothing {}),
        Some(OpenNode::File(file)) => {
            let closed = file.attachment.connection.client.close(file.far).await;
            closed.map(|()| Nothing {}).map_err(|error| refused("close", &file.shown, &error))
        }
    }
}

/// `file.set_attributes`
pub async fn set_attributes(
    daemon: &Daemon,
    context: &ClientContext,
    set: SetAttributes,
) -> Result<Entry, ErrorObject> {
    let set_time = |time: Option<FileTime>| match time {
        None => SetTime::Keep,
        Some(time) => SetTime::To(Time { seconds: time.seconds, nanoseconds: time.nanoseconds }),
    };
    if [set.modified, set.accessed].iter().flatten().any(|time| time.nanoseconds > 999_999_999) {
        return Err(usage("a second has 1,000,000,000 nanoseconds"));
    }
    let changes = AttributeChanges {
        size: set.size,
        mode: set.mode.map(mode_bits),
        modified: set_time(set.modified),
        accessed: set_time(set.accessed),
        ..AttributeChanges::default()
    };
    let subject = Subject::new(daemon, context, "change", &set.source, &set.caller)?;
    let found = subject.find(set.links).await?;
    let changed =
        found.attachment.connection.client.set_attributes(Target::Place(found.place()), changes).await;
    let changed = changed.map_err(|error| subject.refused(&error))?;
    Ok(entry(set.source.base_name(), &changed, None))
}

/// `file.make_directory`
pub async fn make_directory(
    daemon: &Daemon,
    context: &ClientContext,
    make: MakeDirectory,
) -> Result<Entry, ErrorObject> {
    let subject = Subject::new(daemon, context, "make the directory", &make.source, &make.caller)?;
    let (attachment, name) = subject.parent().await?;
    let (mode, caller) = (mode_bits(make.mode), far_caller(&make.caller));
    let made =
        attachment.connection.client.make_directory(attachment.place(), name.clone(), mode, caller).await;
    let made = made.map_err(|error| subject.refused(&error))?;
    Ok(entry(name.as_bytes(), &made, None))
}

/// `file.make_link`
pub async fn make_link(
    daemon: &Daemon,
    context: &ClientContext,
    make: MakeLink,
) -> Result<Entry, ErrorObject> {
    let subject = Subject::new(daemon, context, "make the link", &make.source, &make.caller)?;
    let (attachment, name) = subject.parent().await?;
    let (target, caller) = (Bytes::copy_from_slice(make.target.as_bytes()), far_caller(&make.caller));
    let made = attachment.connection.client.symlink(attachment.place(), name.clone(), target, caller).await;
    let made = made.map_err(|error| subject.refused(&error))?;
    Ok(entry(name.as_bytes(), &made, Some(make.target)))
}

/// `file.remove`
pub async fn remove(
    daemon: &Daemon,
    context: &ClientContext,
    remove: Remove,
) -> Result<Nothing, ErrorObject> {
    let subject = Subject::new(daemon, context, "remove", &remove.source, &remove.caller)?;
    let (attachment, name) = subject.parent().await?;
    let found = subject.lookup(&attachment, &name).await?;
    let found = found.ok_or_else(|| subject.failed(rustix::io::Errno::NOENT))?;
    let client = &attachment.connection.client;
    let removed = match found.attributes.kind {
        Kind::Directory => client.remove_directory(attachment.place(), name).await,
        _ => client.unlink(attachment.place(), name).await,
    };
    removed.map(|_| Nothing {}).map_err(|error| subject.refused(&error))
}

/// `file.rename`
pub async fn rename(
    daemon: &Daemon,
    context: &ClientContext,
    rename: Rename,
) -> Result<Nothing, ErrorObject> {
    let from = Subject::new(daemon, context, "rename", &rename.source, &rename.caller)?;
    let to = Subject::new(daemon, context, "rename to", &rename.to, &rename.caller)?;
    let same_directory = match (split(from.path), split(to.path)) {
        (Some((from_parent, _)), Some((to_parent, _))) => from_parent == to_parent,
        _ => false,
    };
    if from.machine != to.machine || !same_directory {
        return Err(usage("a file can be renamed within its directory only"));
    }
    let (attachment, from_name) = from.parent().await?;
    let (_, to_name) = to.parent().await?;
    let place = attachment.place();
    let client = &attachment.connection.client;
    let renamed = client.rename(place.clone(), from_name, place, to_name, RenameMode::Replace).await;
    renamed.map_err(|error| from.refused(&error))?;
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
