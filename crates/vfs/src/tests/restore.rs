//! A file system dies, and another goes on from what it left: the kernel notices nothing but time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::*;
use crate::errno::Errno;
use crate::file::{FileId, Kind, RenameMode, ThreadId};
use crate::request::{RequestId, answering};
use crate::table::Believe;
use crate::testing::Random;
use crate::vfs::{DirectoryItem, Recording, Removal, Restored};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn restored(directory: &Path) -> Recording {
    Recording::Restored(Box::new(Restored::read(directory).expect("readable").expect("recorded")))
}

fn recorded(memory: &Arc<Memory>, recording: Recording) -> Arc<Vfs<Memory>> {
    let options = Options { limits: crate::table::Limits { idle_nodes: 3 }, ..Options::default() };
    Vfs::recorded(memory.clone(), memory.root(), options, Arc::new(Notices::default()), recording)
}

#[derive(Debug)]
struct OpenDirectory {
    handle: HandleId,
    id: FileId,
    cookie: u64,
    listed: Vec<String>,
    /// What has been there from the start on.
    steady: Vec<String>,
}

/// A kernel: what it was given, and the names that it knows. It is never told that one of them is another now.
struct Kernel {
    memory: Arc<Memory>,
    vfs: Arc<Vfs<Memory>>,
    random: Random,
    nodes: HashMap<Ino, (FileId, Kind, u64)>,
    files: Vec<(HandleId, Ino)>,
    directories: Vec<OpenDirectory>,
    /// Files of which others have taken a name: for a moment they are believed to be what they were.
    touched: HashSet<FileId>,
    /// What each name leads to; nothing, if it is not there.
    names: HashMap<(Ino, Name), Option<Ino>>,
    requests: u64,
}

impl Kernel {
    fn new(directory: &Path, seed: u64) -> Kernel {
        let memory = Memory::new();
        memory.list_by(1 + seed % 5);
        let vfs = recorded(&memory, Recording::Fresh(directory.to_owned()));
        let nodes = HashMap::from([(Ino::ROOT, (memory.root().id, Kind::Directory, 0))]);
        let (files, directories, names) = (Vec::new(), Vec::new(), HashMap::new());
        let touched = HashSet::new();
        Kernel { memory, vfs, random: Random(seed), nodes, files, directories, touched, names, requests: 0 }
    }

    fn given(&mut self, view: View) {
        let node = self.nodes.entry(view.ino).or_insert((view.id, view.attributes.kind, 0));
        assert_eq!(node.0, view.id, "{:?} was another file", view.ino);
        node.2 += 1;
    }

    fn some(&mut self, kind: Kind) -> Option<Ino> {
        let mut inos: Vec<_> =
            self.nodes.iter().filter(|(_, node)| node.1 == kind).map(|(ino, _)| *ino).collect();
        inos.sort_unstable();
        self.random.pick(&inos).copied()
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.random.below(NAMES.len() as u64) as usize]
    }

    /// One operation, answered: what was recorded is written first.
    async fn act(&mut self) {
        self.requests += 1;
        let request = RequestId(self.requests * 2);
        let slot = self.vfs.choose(request).await;
        let (parent, name) = (self.some(Kind::Directory).expect("the root"), self.name().as_bytes());
        let vfs = self.vfs.clone();
        match self.random.below(15) {
            0 | 1 => self.look_up(parent, name).await,
            2 => {
                let create = vfs.create(parent, name, 0o644, OpenFlags { exclusive: true, ..BOTH }, CALLER);
                if let Ok((view, opened)) = answering(request, slot, create).await {
                    self.given(view);
                    self.knows(parent, name, Some(view.ino));
                    self.files.push((opened.handle, view.ino));
                }
            }
            3 => {
                let make = vfs.make_directory(parent, name, 0o755, CALLER);
                if let Ok(view) = answering(request, slot, make).await {
                    self.given(view);
                    self.knows(parent, name, Some(view.ino));
                }
            }
            4 => {
                let kind = if self.random.below(2) == 0 { Removal::Other } else { Removal::Directory };
                self.look_up(parent, name).await;
                if answering(request, slot, vfs.remove(parent, name, kind)).await.is_ok() {
                    self.knows_nothing(parent, name);
                }
            }
            5 | 6 => {
                let (to, to_name) = (self.some(Kind::Directory).expect("the root"), self.name().as_bytes());
                let mode = match self.random.below(3) {
                    0 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                };
                self.look_up(parent, name).await;
                self.look_up(to, to_name).await;
                let rename = vfs.rename((parent, name), (to, to_name), mode);
                if answering(request, slot, rename).await.is_ok() {
                    self.knows_nothing(parent, name);
                    self.knows_nothing(to, to_name);
                }
            }
            7 => {
                if let Some(ino) = self.some(Kind::File)
                    && let Ok(view) = answering(request, slot, vfs.link(ino, parent, name)).await
                {
                    self.given(view);
                    self.knows(parent, name, Some(view.ino));
                }
            }
            8 => {
                if let Some(ino) = self.some(Kind::File)
                    && let Ok(opened) = vfs.open(ino, BOTH).await
                {
                    self.files.push((opened.handle, ino));
                }
            }
            9 => {
                if let Some((handle, _)) = self.some_file() {
                    let byte = self.random.below(256) as u8;
                    let offset = self.random.below(30);
                    let bytes = bytes::Bytes::from(vec![byte; 7]);
                    vfs.write(handle, offset, bytes, WriteFrom::Caller(ThreadId::UNKNOWN), false)
                        .await
                        .expect("written");
                    vfs.flush(handle, 0, None).await.expect("flushed");
                }
            }
            10 => {
                if let Some(file) = self.some_file() {
                    self.files.retain(|other| *other != file);
                    vfs.release(file.0);
                }
            }
            11 => self.open_directory(parent).await,
            12 => self.list_some().await,
            13 => self.removed_elsewhere(parent, name),
            _ => self.forget_some(),
        }
        vfs.commit();
        vfs.settle(request);
    }

    /// As a kernel does before it asks for a change of a name.
    async fn look_up(&mut self, parent: Ino, name: &[u8]) {
        match self.vfs.lookup(parent, name).await {
            Ok(Looked::Present(view)) => {
                self.given(view);
                self.knows(parent, name, Some(view.ino));
            }
            Ok(Looked::Absent(Believe::Leased)) => self.knows(parent, name, None),
            Ok(Looked::Absent(_)) | Err(_) => {}
        }
    }

    fn knows(&mut self, parent: Ino, name: &[u8], what: Option<Ino>) {
        self.names.insert((parent, name.into()), what);
    }

    fn knows_nothing(&mut self, parent: Ino, name: &[u8]) {
        self.names.remove(&(parent, name.into()));
    }

    /// Somebody else removes a file, and the file system is told.
    fn removed_elsewhere(&mut self, parent: Ino, name: &[u8]) {
        let directory = self.nodes[&parent].0;
        // There may be none of the name, or a directory.
        let removed = self.memory.edit(|tree| tree.unlink(directory, &name.into()).ok());
        self.touched.extend(removed);
        self.memory.tell_all().into_iter().for_each(|changed| self.vfs.changed(changed));
    }

    fn some_file(&mut self) -> Option<(HandleId, Ino)> {
        let files = self.files.clone();
        self.random.pick(&files).copied()
    }

    fn names_in(&self, id: FileId) -> Vec<String> {
        let name = |name: &Name| String::from_utf8_lossy(name).into_owned();
        self.memory
            .look(|tree| tree.get(id).map_or(Vec::new(), |d| d.listing(0).map(|(_, n, _)| name(n)).collect()))
    }

    async fn open_directory(&mut self, ino: Ino) {
        let Ok(opened) = self.vfs.open_directory(ino).await else { return };
        let id = self.nodes[&ino].0;
        let steady = self.names_in(id);
        let directory = OpenDirectory { handle: opened.handle, id, cookie: 0, listed: Vec::new(), steady };
        self.directories.push(directory);
    }

    async fn list_some(&mut self) {
        let number = self.random.below(self.directories.len().max(1) as u64) as usize;
        if number < self.directories.len() {
            let room = 1 + self.random.below(3) as usize;
            self.list(number, room).await;
        }
    }

    /// Lists on; `false` at the end.
    async fn list(&mut self, number: usize, room: usize) -> bool {
        let OpenDirectory { handle, cookie, .. } = self.directories[number];
        let (mut views, mut names, mut next) = (Vec::new(), Vec::new(), cookie);
        let take = |item: DirectoryItem<'_>| {
            let has_room = names.len() < room;
            if has_room {
                names.push(String::from_utf8_lossy(item.name).into_owned());
                next = item.cookie;
                views.extend(item.view);
            }
            has_room
        };
        let listed = self.vfs.read_directory(handle, cookie, true, take).await;
        views.into_iter().for_each(|view| self.given(view));
        let is_gone = self.memory.look(|tree| tree.get(self.directories[number].id).is_err());
        assert!(is_gone || listed.is_ok(), "{listed:?}");
        let directory = &mut self.directories[number];
        directory.cookie = next;
        let more = !names.is_empty();
        directory.listed.extend(names);
        more
    }

    fn forget_some(&mut self) {
        let mut inos: Vec<_> = self.nodes.keys().copied().filter(|ino| *ino != Ino::ROOT).collect();
        inos.sort_unstable();
        let Some(ino) = self.random.pick(&inos).copied() else { return };
        // A kernel keeps what is open, and directories of what it knows.
        let is_open = self.files.iter().any(|(_, of)| *of == ino)
            || self.directories.iter().any(|open| open.id == self.nodes[&ino].0);
        if is_open || self.nodes[&ino].1 == Kind::Directory {
            return;
        }
        if let Some((_, _, count)) = self.nodes.remove(&ino) {
            self.vfs.forget(ino, count);
            self.names.retain(|_, what| *what != Some(ino));
        }
    }

    /// The process dies and another takes over. Whatever was not answered by then the kernel does not know.
    async fn take_over(&mut self, directory: &Path) {
        self.check().await;
        let fresh = recorded(&self.memory, restored(directory));
        self.vfs = fresh;
        let doubted: HashSet<_> = self.vfs.known_names().into_iter().collect();
        let missed: Vec<_> = self.names.iter().filter(|(name, _)| !doubted.contains(name)).collect();
        assert!(missed.is_empty(), "the kernel believes these for ever: {missed:?}");
        self.names.clear();
        self.check().await;
    }

    /// Whatever the kernel has means what it meant.
    async fn check(&mut self) {
        let vfs = self.vfs.clone();
        for (ino, (id, kind, lookups)) in &self.nodes {
            assert_eq!(vfs.id(*ino), Ok(*id), "{ino:?}");
            assert_eq!(vfs.table.lock().kind(*ino), Ok(*kind));
            let counted = vfs.table.lock().lookups(*ino);
            assert!(
                *ino == Ino::ROOT || counted >= *lookups,
                "{ino:?}: {counted} lookups, was given {lookups}"
            );
            let now = self.memory.look(|tree| tree.get(*id).ok().map(|file| file.attributes));
            let has_name = now.is_some_and(|now| now.links > 0);
            let found = vfs.attributes((*ino).into()).await.map(|(found, _)| found);
            match (has_name, found) {
                _ if self.touched.contains(id) => {}
                (true, found) => assert_eq!(found, Ok(now.expect("it is there")), "{ino:?}"),
                (false, Ok(found)) => assert!(found.links == 0 || Some(found) == now, "{ino:?}: {found:?}"),
                (false, Err(errno)) => {
                    assert!(matches!(errno, Errno::ESTALE | Errno::ENOENT), "{ino:?}: {errno}")
                }
            }
        }
        for (handle, ino) in &self.files {
            let id = self.nodes[ino].0;
            let content = self.memory.look(|tree| tree.get(id).expect("open").content.clone());
            assert_eq!(vfs.read(*handle, 0, 100).await.expect("open"), content, "{handle:?}");
        }
    }

    /// Everything is given back, and nothing stays.
    async fn end(mut self) {
        for number in 0..self.directories.len() {
            let steady_until_now = self.names_in(self.directories[number].id);
            while self.list(number, 2).await {}
            let directory = &self.directories[number];
            let mut seen = BTreeMap::new();
            directory.listed.iter().for_each(|name| *seen.entry(name.as_str()).or_insert(0) += 1);
            for name in directory.steady.iter().filter(|name| steady_until_now.contains(name)) {
                // One that was replaced meanwhile may have moved behind the reader.
                assert!(seen.get(name.as_str()).is_some_and(|times| *times >= 1), "{name} in {directory:?}");
            }
            self.vfs.release_directory(directory.handle);
        }
        self.files.drain(..).for_each(|(handle, _)| self.vfs.release(handle));
        self.nodes.iter().for_each(|(ino, (_, _, count))| self.vfs.forget(*ino, *count));
        self.vfs.forget_all(std::iter::empty());
        settle().await;
        assert_eq!(self.vfs.open_files(), 0);
        assert_eq!(self.memory.open_handles(), 0);
    }
}

#[test]
fn a_successor_means_what_its_predecessor_meant() {
    for seed in 0..300 {
        block_on(async {
            let scratch = tempfile::tempdir().expect("a directory");
            let mut kernel = Kernel::new(scratch.path(), seed);
            for _ in 0..6 {
                for _ in 0..kernel.random.below(30) {
                    kernel.act().await;
                }
                settle().await;
                kernel.vfs.commit();
                kernel.take_over(scratch.path()).await;
                let counts: Vec<_> = kernel.nodes.iter().map(|(ino, node)| (*ino, node.2)).collect();
                for (ino, lookups) in counts.into_iter().filter(|(ino, _)| *ino != Ino::ROOT) {
                    assert_eq!(kernel.vfs.table.lock().lookups(ino), lookups, "{ino:?}, seed {seed}");
                }
            }
            kernel.end().await;
        });
    }
}

#[test]
fn locks_are_known_to_a_successor_for_as_long_as_they_are_held() {
    use crate::file::{Lock, LockFamily, LockKind};
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let lock = |family, kind, start, end| Lock { family, kind, start, end };
    let held = || {
        let restored = Restored::read(scratch.path()).expect("readable").expect("recorded");
        let mut held: Vec<_> =
            restored.locks().iter().map(|held| (held.handle, held.owner, held.lock)).collect();
        held.sort_unstable_by_key(|(handle, owner, lock)| (*handle, *owner, lock.start));
        held
    };
    let shared = lock(LockFamily::Posix, LockKind::Shared, 0, 99);
    let flock = lock(LockFamily::Flock, LockKind::Exclusive, 0, u64::MAX);
    block_on(async {
        let vfs = recorded(&memory, Recording::Fresh(scratch.path().to_owned()));
        let (view, first) = vfs.create(Ino::ROOT, b"f", 0o644, BOTH, CALLER).await.expect("created");
        let second = vfs.open(view.ino, BOTH).await.expect("opened");
        vfs.lock(first.handle, 7, shared, true).await.expect("locked");
        vfs.lock(first.handle, 7, lock(LockFamily::Posix, LockKind::Unlocked, 10, 99), false)
            .await
            .expect("given back");
        vfs.lock(second.handle, 8, flock, false).await.expect("locked");
        vfs.commit();
        assert_eq!(held(), [(first.handle, 7, Lock { end: 9, ..shared }), (second.handle, 8, flock)]);
        let vfs = recorded(&memory, restored(scratch.path()));
        assert_eq!(held().len(), 2);
        vfs.flush(first.handle, 7, None).await.expect("closed");
        vfs.commit();
        assert_eq!(held(), [(second.handle, 8, flock)]);
        vfs.release(second.handle);
        vfs.commit();
        assert_eq!(held(), []);
    });
}

async fn file(vfs: &Arc<Vfs<Memory>>, name: &str) -> Ino {
    let exclusive = OpenFlags { exclusive: true, ..BOTH };
    let made = vfs.create(Ino::ROOT, name.as_bytes(), 0o644, exclusive, CALLER).await;
    made.expect("created").0.ino
}

#[test]
fn a_rename_that_was_recorded_and_not_answered_moves_nothing_when_it_is_repeated() {
    for mode in [RenameMode::Replace, RenameMode::Exchange] {
        let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
        let request = RequestId(84);
        let nodes = block_on(async {
            let vfs = recorded(&memory, Recording::Fresh(scratch.path().to_owned()));
            let nodes = [file(&vfs, "a").await, file(&vfs, "b").await];
            let slot = vfs.choose(request).await;
            let rename = vfs.rename((Ino::ROOT, b"a"), (Ino::ROOT, b"b"), mode);
            answering(request, slot, rename).await.expect("renamed");
            vfs.commit();
            nodes
        });
        block_on(async {
            let vfs = recorded(&memory, restored(scratch.path()));
            let slot = vfs.choose(request).await;
            assert!(slot.is_some_and(|slot| slot.is_repeat));
            let rename = vfs.rename((Ino::ROOT, b"a"), (Ino::ROOT, b"b"), mode);
            answering(request, slot, rename).await.expect("renamed");
            assert_eq!(vfs.name_of(nodes[0]), Some((Ino::ROOT, bytes("b"))), "{mode:?}");
            if mode == RenameMode::Exchange {
                assert_eq!(vfs.name_of(nodes[1]), Some((Ino::ROOT, bytes("a"))));
            }
            assert_eq!(
                vfs.lookup(Ino::ROOT, b"b").await.map(|looked| match looked {
                    Looked::Present(view) => Some(view.ino),
                    Looked::Absent(_) => None,
                }),
                Ok(Some(nodes[0]))
            );
        });
    }
}

#[test]
fn a_change_waits_for_a_number_and_is_not_carried_out_without_one() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    block_on(async {
        let vfs = recorded(&memory, Recording::Fresh(scratch.path().to_owned()));
        memory.keep_numbers(2);
        let (first, second, third) = (RequestId(2), RequestId(4), RequestId(6));
        assert!(vfs.choose(first).await.is_some() && vfs.choose(second).await.is_some());
        let waiting = {
            let vfs = vfs.clone();
            tokio::spawn(async move { vfs.choose(third).await })
        };
        settle().await;
        assert!(!waiting.is_finished());
        // What has one has it still.
        assert!(vfs.choose(second).await.is_some_and(|slot| slot.is_repeat));
        vfs.settle(first);
        assert!(waiting.await.expect("no panic").is_some());
        assert_eq!(vfs.unsettled().len(), 2);
    });
}

#[test]
fn what_is_about_to_be_closed_is_closed_by_a_successor_that_does_not_know_its_file() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    memory.edit(|tree| {
        let root = tree.root;
        tree.make(root, &bytes("f"), Kind::File, 0o644).expect("a new name")
    });
    block_on(async {
        let vfs = recorded(&memory, Recording::Fresh(scratch.path().to_owned()));
        let Ok(Looked::Present(view)) = vfs.lookup(Ino::ROOT, b"f").await else { panic!("not there") };
        let opened = vfs.open(view.ino, READ).await.expect("opened");
        vfs.release(opened.handle);
        vfs.forget(view.ino, 1);
        // All that is to be known is written, and nothing is said of what is over.
        vfs.commit();
    });
    assert_eq!(memory.open_handles(), 1);
    block_on(async {
        let vfs = recorded(&memory, restored(scratch.path()));
        settle().await;
        assert_eq!(memory.open_handles(), 0);
        assert!(vfs.table.lock().ledger().is_some_and(|ledger| ledger.handles().is_empty()));
    });
}
