//! One program alone sees what it would see on the machine: same results, same errors, same tree.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::SyncMode;
use crate::errno::Errno;
use crate::file::{AttributeChanges, Attributes, FileId, Kind, RenameMode, ThreadId, XattrMode};
use crate::source::NewNode;
use crate::testing::Tree;
use crate::vfs::Removal;

/// Directories by their paths, and names in them.
type At = (usize, usize);

const DIRECTORIES: [&[&str]; 4] = [&[], &["a"], &["b"], &["a", "b"]];
const NAMES: [&str; 3] = ["a", "b", "f"];

#[derive(Clone, Debug)]
enum Act {
    MakeDirectory(At),
    Create(At, bool),
    Symlink(At),
    Link(At, At),
    Unlink(At),
    RemoveDirectory(At),
    Rename(At, At, usize),
    Write(At, u64, u8),
    Append(At, u8),
    Truncate(At, u64),
    Mode(At, u16),
    Read(At),
    Stat(At),
    List(usize),
    SetXattr(At, bool),
    Xattrs(At),
    Open(At),
    ReadOpen(usize),
    WriteOpen(usize, u8),
    ModeOpen(usize, u16),
    Close(usize),
}

fn at() -> impl Strategy<Value = At> {
    (0..DIRECTORIES.len(), 0..NAMES.len())
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => at().prop_map(Act::MakeDirectory),
        4 => (at(), any::<bool>()).prop_map(|(at, exclusive)| Act::Create(at, exclusive)),
        1 => at().prop_map(Act::Symlink),
        2 => (at(), at()).prop_map(|(from, to)| Act::Link(from, to)),
        2 => at().prop_map(Act::Unlink),
        1 => at().prop_map(Act::RemoveDirectory),
        4 => (at(), at(), 0..3usize).prop_map(|(from, to, mode)| Act::Rename(from, to, mode)),
        3 => (at(), 0..40u64, any::<u8>()).prop_map(|(at, offset, byte)| Act::Write(at, offset, byte)),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Act::Append(at, byte)),
        1 => (at(), 0..40u64).prop_map(|(at, size)| Act::Truncate(at, size)),
        1 => (at(), 0..0o777u16).prop_map(|(at, mode)| Act::Mode(at, mode)),
        3 => at().prop_map(Act::Read),
        4 => at().prop_map(Act::Stat),
        3 => (0..DIRECTORIES.len()).prop_map(Act::List),
        1 => (at(), any::<bool>()).prop_map(|(at, create)| Act::SetXattr(at, create)),
        1 => at().prop_map(Act::Xattrs),
        2 => at().prop_map(Act::Open),
        2 => (0..4usize).prop_map(Act::ReadOpen),
        2 => (0..4usize, any::<u8>()).prop_map(|(handle, byte)| Act::WriteOpen(handle, byte)),
        2 => (0..4usize, 0..0o777u16).prop_map(|(handle, mode)| Act::ModeOpen(handle, mode)),
        1 => (0..4usize).prop_map(Act::Close),
    ]
}

/// What an operation shows.
#[derive(Debug, PartialEq)]
enum Shown {
    Nothing,
    Attributes(Kind, u16, u32, u64),
    Bytes(Vec<u8>),
    Names(Vec<Vec<u8>>),
}

fn shown(attributes: &Attributes) -> Shown {
    let size = if attributes.kind == Kind::Directory { 0 } else { attributes.size };
    Shown::Attributes(attributes.kind, attributes.mode, attributes.links, size)
}

fn rename_mode(number: usize) -> RenameMode {
    [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][number]
}

/// The machine's own view.
#[derive(Default)]
struct Reference {
    tree: Tree,
    open: Vec<FileId>,
}

impl Reference {
    fn directory(&self, number: usize) -> Result<FileId> {
        DIRECTORIES[number].iter().try_fold(self.tree.root, |at, name| {
            let id = self.tree.lookup(at, name.as_bytes())?.ok_or(Errno::ENOENT)?;
            if self.tree.get(id)?.attributes.kind == Kind::Directory { Ok(id) } else { Err(Errno::ENOTDIR) }
        })
    }

    fn file(&self, at: At) -> Result<FileId> {
        self.tree.lookup(self.directory(at.0)?, NAMES[at.1].as_bytes())?.ok_or(Errno::ENOENT)
    }

    fn content(&self, at: At) -> Result<FileId> {
        let id = self.file(at)?;
        match self.tree.get(id)?.attributes.kind {
            Kind::Directory => Err(Errno::EISDIR),
            Kind::Symlink => Err(Errno::ELOOP),
            _ => Ok(id),
        }
    }

    fn act(&mut self, act: &Act) -> Result<Shown> {
        let name = |at: &At| bytes(NAMES[at.1]);
        match act {
            Act::MakeDirectory(at) => {
                let id = self.tree.make(self.directory(at.0)?, &name(at), Kind::Directory, 0o755)?;
                return Ok(shown(&self.tree.get(id)?.attributes));
            }
            Act::Create(at, exclusive) => {
                let directory = self.directory(at.0)?;
                match self.tree.lookup(directory, &name(at))? {
                    Some(_) if *exclusive => return Err(Errno::EEXIST),
                    Some(_) => drop(self.content(*at)?),
                    None => {
                        self.tree.make(directory, &name(at), Kind::File, 0o644)?;
                    }
                }
            }
            Act::Symlink(at) => {
                let id = self.tree.make(self.directory(at.0)?, &name(at), Kind::Symlink, 0o777)?;
                self.tree.write(id, Some(0), b"target")?;
            }
            Act::Link(from, to) => {
                let (id, directory) = (self.file(*from)?, self.directory(to.0)?);
                if self.tree.get(id)?.attributes.kind == Kind::Directory {
                    return Err(Errno::EPERM);
                }
                self.tree.link(id, directory, &name(to))?;
            }
            Act::Unlink(at) => {
                self.tree.unlink(self.directory(at.0)?, &name(at))?;
            }
            Act::RemoveDirectory(at) => {
                self.tree.remove_directory(self.directory(at.0)?, &name(at))?;
            }
            Act::Rename(from, to, mode) => {
                let (old, new) = (self.directory(from.0)?, self.directory(to.0)?);
                self.tree.rename((old, &name(from)), (new, &name(to)), rename_mode(*mode))?;
            }
            Act::Write(at, offset, byte) => {
                self.tree.write(self.content(*at)?, Some(*offset), &[*byte; 5])?;
            }
            Act::Append(at, byte) => {
                self.tree.write(self.content(*at)?, None, &[*byte; 3])?;
            }
            Act::Truncate(at, size) => {
                let changes = AttributeChanges { size: Some(*size), ..Default::default() };
                self.tree.set_attributes(self.content(*at)?, changes)?;
            }
            Act::Mode(at, mode) => {
                let changes = AttributeChanges { mode: Some(*mode), ..Default::default() };
                self.tree.set_attributes(self.file(*at)?, changes)?;
            }
            Act::Read(at) => return Ok(Shown::Bytes(self.tree.read(self.content(*at)?, 0, 100)?.to_vec())),
            Act::Stat(at) => return Ok(shown(&self.tree.get(self.file(*at)?)?.attributes)),
            Act::List(directory) => {
                let directory = self.tree.get(self.directory(*directory)?)?;
                let mut names: Vec<_> = directory.listing(0).map(|(_, name, _)| name.to_vec()).collect();
                names.sort();
                return Ok(Shown::Names(names));
            }
            Act::SetXattr(at, create) => {
                let mode = if *create { XattrMode::Create } else { XattrMode::Set };
                self.tree.set_xattr(self.file(*at)?, "user.x".into(), "v".into(), mode)?;
            }
            Act::Xattrs(at) => return Ok(Shown::Bytes(self.tree.xattr_names(self.file(*at)?)?.to_vec())),
            Act::Open(at) => {
                let id = self.content(*at)?;
                self.tree.get_mut(id)?.opens += 1;
                self.open.push(id);
            }
            Act::ReadOpen(number) => {
                let id = *self.open.get(*number).ok_or(Errno::EBADF)?;
                return Ok(Shown::Bytes(self.tree.read(id, 0, 100)?.to_vec()));
            }
            Act::WriteOpen(number, byte) => {
                let id = *self.open.get(*number).ok_or(Errno::EBADF)?;
                self.tree.write(id, Some(2), &[*byte; 4])?;
                return Ok(shown(&self.tree.get(id)?.attributes));
            }
            Act::ModeOpen(number, mode) => {
                let id = *self.open.get(*number).ok_or(Errno::EBADF)?;
                self.tree.write(id, Some(1), b"mode")?;
                let changes = AttributeChanges { mode: Some(*mode), ..Default::default() };
                self.tree.set_attributes(id, changes)?;
            }
            Act::Close(number) => {
                if *number < self.open.len() {
                    let id = self.open.remove(*number);
                    self.tree.get_mut(id)?.opens -= 1;
                    self.tree.reap(id);
                }
            }
        }
        Ok(Shown::Nothing)
    }
}

/// The same through the file system, as a kernel asks.
struct Program {
    mount: Mount,
    given: HashMap<Ino, u64>,
    open: Vec<(Ino, HandleId)>,
}

impl Program {
    fn given(&mut self, view: View) -> Ino {
        *self.given.entry(view.ino).or_default() += 1;
        view.ino
    }

    async fn lookup(&mut self, parent: Ino, name: &str) -> Result<Option<View>> {
        match self.mount.vfs.lookup(parent, name.as_bytes()).await? {
            Looked::Absent(_) => Ok(None),
            Looked::Present(view) => {
                self.given(view);
                Ok(Some(view))
            }
        }
    }

    async fn directory(&mut self, number: usize) -> Result<Ino> {
        let mut at = Ino::ROOT;
        for name in DIRECTORIES[number] {
            let view = self.lookup(at, name).await?.ok_or(Errno::ENOENT)?;
            if view.attributes.kind != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            at = view.ino;
        }
        Ok(at)
    }

    async fn file(&mut self, at: At) -> Result<Ino> {
        let directory = self.directory(at.0).await?;
        Ok(self.lookup(directory, NAMES[at.1]).await?.ok_or(Errno::ENOENT)?.ino)
    }

    async fn close(&mut self, handle: HandleId) -> Result<()> {
        let flushed = self.mount.vfs.flush(handle, 0, None).await;
        self.mount.vfs.release(handle);
        flushed
    }

    async fn write(&mut self, at: At, offset: u64, content: &[u8], flags: OpenFlags) -> Result<()> {
        let ino = self.file(at).await?;
        let handle = self.mount.vfs.open(ino, flags).await?.handle;
        let written = self.mount.write(handle, offset, content).await;
        written.and(self.close(handle).await)
    }

    async fn attributes(&self, ino: Ino) -> Result<Shown> {
        Ok(shown(&self.mount.vfs.attributes(ino.into()).await?.0))
    }

    async fn create(&mut self, at: At, exclusive: bool) -> Result<Shown> {
        let directory = self.directory(at.0).await?;
        match self.lookup(directory, NAMES[at.1]).await? {
            Some(_) if exclusive => return Err(Errno::EEXIST),
            Some(view) => {
                let handle = self.mount.vfs.open(view.ino, WRITE).await?.handle;
                self.close(handle).await?;
            }
            None => {
                let flags = OpenFlags { exclusive, ..WRITE };
                let name = NAMES[at.1].as_bytes();
                let vfs = &self.mount.vfs;
                let by = ThreadId::UNKNOWN;
                let (view, opened) =
                    match vfs.create_ahead(directory, name, (0o644, flags), CALLER, by).await? {
                        Some(made) => made,
                        None => vfs.create(directory, name, 0o644, flags, CALLER).await?,
                    };
                self.given(view);
                self.close(opened.handle).await?;
            }
        }
        Ok(Shown::Nothing)
    }

    async fn list(&mut self, number: usize) -> Result<Shown> {
        let ino = self.directory(number).await?;
        let handle = self.mount.vfs.open_directory(ino).await?.handle;
        let (mut names, mut cookie, mut views) = (Vec::new(), 0, Vec::new());
        loop {
            let before = cookie;
            let take = |item: crate::vfs::DirectoryItem<'_>| {
                names.push(item.name.to_vec());
                views.extend(item.view);
                cookie = item.cookie;
                true
            };
            self.mount.vfs.read_directory(handle, before, number.is_multiple_of(2), take).await?;
            if before == cookie {
                break;
            }
        }
        for view in views {
            self.given(view);
        }
        self.mount.vfs.release_directory(handle);
        names.retain(|name| name != b"." && name != b"..");
        names.sort();
        Ok(Shown::Names(names))
    }

    async fn act(&mut self, act: &Act) -> Result<Shown> {
        let vfs = self.mount.vfs.clone();
        let name = |at: &At| NAMES[at.1].as_bytes();
        match act {
            Act::MakeDirectory(at) => {
                let directory = self.directory(at.0).await?;
                let view = vfs.make_directory(directory, name(at), 0o755, CALLER).await?;
                self.given(view);
                return Ok(shown(&view.attributes));
            }
            Act::Create(at, exclusive) => return self.create(*at, *exclusive).await,
            Act::Symlink(at) => {
                let directory = self.directory(at.0).await?;
                let view = vfs.symlink(directory, name(at), "target".into(), CALLER).await?;
                self.given(view);
            }
            Act::Link(from, to) => {
                let (ino, directory) = (self.file(*from).await?, self.directory(to.0).await?);
                if vfs.attributes(ino.into()).await?.0.kind == Kind::Directory {
                    return Err(Errno::EPERM);
                }
                let view = vfs.link(ino, directory, name(to)).await?;
                assert_eq!(self.given(view), ino, "one file is one node");
            }
            Act::Unlink(at) => {
                let directory = self.directory(at.0).await?;
                vfs.remove(directory, name(at), Removal::Other).await?;
            }
            Act::RemoveDirectory(at) => {
                let directory = self.directory(at.0).await?;
                vfs.remove(directory, name(at), Removal::Directory).await?;
            }
            Act::Rename(from, to, mode) => {
                let (old, new) = (self.directory(from.0).await?, self.directory(to.0).await?);
                vfs.rename((old, name(from)), (new, name(to)), rename_mode(*mode)).await?;
            }
            Act::Write(at, offset, byte) => self.write(*at, *offset, &[*byte; 5], WRITE).await?,
            Act::Append(at, byte) => {
                self.write(*at, 0, &[*byte; 3], OpenFlags { append: true, ..WRITE }).await?;
            }
            Act::Truncate(at, size) => {
                let ino = self.file(*at).await?;
                let handle = vfs.open(ino, WRITE).await?.handle;
                let changes = AttributeChanges { size: Some(*size), ..Default::default() };
                let target = crate::vfs::AttributeTarget { ino, handle: Some(handle) };
                let outcome = vfs.set_attributes(target, changes).await;
                self.close(handle).await?;
                outcome?;
            }
            Act::Mode(at, mode) => {
                let ino = self.file(*at).await?;
                let changes = AttributeChanges { mode: Some(*mode), ..Default::default() };
                vfs.set_attributes(ino.into(), changes).await?;
            }
            Act::Read(at) => {
                let ino = self.file(*at).await?;
                let handle = vfs.open(ino, READ).await?.handle;
                let read = vfs.read(handle, 0, 100).await;
                self.close(handle).await?;
                return Ok(Shown::Bytes(read?.to_vec()));
            }
            Act::Stat(at) => {
                let ino = self.file(*at).await?;
                return self.attributes(ino).await;
            }
            Act::List(directory) => return self.list(*directory).await,
            Act::SetXattr(at, create) => {
                let ino = self.file(*at).await?;
                let mode = if *create { XattrMode::Create } else { XattrMode::Set };
                vfs.set_xattr(ino, b"user.x", "v".into(), mode).await?;
            }
            Act::Xattrs(at) => {
                let ino = self.file(*at).await?;
                return Ok(Shown::Bytes(vfs.list_xattrs(ino).await?.to_vec()));
            }
            Act::Open(at) => {
                let ino = self.file(*at).await?;
                let handle = vfs.open(ino, BOTH).await?.handle;
                self.open.push((ino, handle));
            }
            Act::ReadOpen(number) => {
                let (_, handle) = *self.open.get(*number).ok_or(Errno::EBADF)?;
                return Ok(Shown::Bytes(vfs.read(handle, 0, 100).await?.to_vec()));
            }
            Act::WriteOpen(number, byte) => {
                let (ino, handle) = *self.open.get(*number).ok_or(Errno::EBADF)?;
                self.mount.write(handle, 2, &[*byte; 4]).await?;
                return self.attributes(ino).await;
            }
            Act::ModeOpen(number, mode) => {
                let (ino, handle) = *self.open.get(*number).ok_or(Errno::EBADF)?;
                self.mount.write(handle, 1, b"mode").await?;
                let changes = AttributeChanges { mode: Some(*mode), ..Default::default() };
                if vfs.set_attributes_ahead(ino.into(), changes, ThreadId::UNKNOWN).await?.is_none() {
                    vfs.set_attributes(ino.into(), changes).await?;
                }
            }
            Act::Close(number) => {
                if *number < self.open.len() {
                    let (_, handle) = self.open.remove(*number);
                    self.close(handle).await?;
                }
            }
        }
        Ok(Shown::Nothing)
    }
}

async fn compare(acts: Vec<Act>, sync: SyncMode, idle_nodes: usize, unwatched: bool, cached: bool) {
    let limits = crate::table::Limits { idle_nodes };
    let mut program = Program {
        mount: Mount::new(Options {
            sync,
            limits,
            list_after: Some(2),
            fetch_ahead: true,
            walk_ahead_entries: 100,
        }),
        given: HashMap::new(),
        open: Vec::new(),
    };
    if unwatched {
        program.mount.memory.unwatched(1000);
    }
    if cached {
        // Each change has a time of its own: every content is the only one of its version.
        program.mount.memory.set_clock(Some(crate::file::Time { seconds: 1 << 40, nanoseconds: 0 }));
        program.mount.memory.cache_in(Some(Arc::default()));
    }
    let mut reference = Reference::default();
    for (step, act) in acts.iter().enumerate() {
        let (here, there) = (program.act(act).await, reference.act(act));
        assert_eq!(here, there, "step {step}: {act:?} of {acts:?}");
        if step % 7 == 0 {
            program.mount.tell_all();
        }
    }
    for (_, handle) in std::mem::take(&mut program.open) {
        program.close(handle).await.expect("closed");
    }
    program.mount.vfs.drain().await;
    settle().await;
    for id in std::mem::take(&mut reference.open) {
        reference.tree.get_mut(id).expect("open").opens -= 1;
        reference.tree.reap(id);
    }
    assert_eq!(program.mount.memory.look(Tree::snapshot), reference.tree.snapshot());
    assert_eq!((program.mount.memory.open_handles(), program.mount.vfs.open_files()), (0, 0));
    program.mount.vfs.forget_all(program.given.drain());
    let census = program.mount.vfs.census();
    assert!(census.idle <= idle_nodes && (idle_nodes > 0 || census.nodes == 1), "{census:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_program_sees_what_it_would_see_on_the_machine(
        acts in prop::collection::vec(act(), 1..80),
        sync in prop_oneof![Just(SyncMode::Close), Just(SyncMode::Strict), Just(SyncMode::Async)],
        idle_nodes in prop_oneof![Just(0usize), Just(3), Just(1000)],
        unwatched: bool,
        cached: bool,
    ) {
        block_on(compare(acts, sync, idle_nodes, unwatched, cached));
    }
}

#[test]
fn make_node_makes_what_it_is_asked_for() {
    block_on(async {
        let mount = Mount::new(Options::default());
        let node = NewNode { kind: Kind::Fifo, mode: 0o666, device: 0 };
        let view = mount.vfs.make_node(Ino::ROOT, b"pipe", node, CALLER).await.expect("made");
        assert_eq!((view.attributes.kind, view.attributes.mode), (Kind::Fifo, 0o644));
        assert_eq!(mount.vfs.open(view.ino, READ).await.err(), Some(Errno::ENXIO));
    });
}
