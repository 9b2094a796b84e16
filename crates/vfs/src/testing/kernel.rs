//! A kernel that caches names, attributes, pages and listings exactly as it is told.
//!
//! It does what Linux's FUSE client does: one change of a directory at a time, an answer about attributes that overlaps
//! a change of them is not kept, what it changes itself it knows to have changed, a renamed name takes its belief along.
//! Only what is believed until taken back ([`Believe::Leased`]) is kept: that is what can be wrong for ever.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Memory, Random};
use crate::errno::{Errno, Result};
use crate::file::{
    AttributeChanges, Attributes, Caller, FileId, Kind, Name, OpenFlags, RenameMode, ThreadId, Time,
};
use crate::source::HandleId;
use crate::table::{Believe, Ino, Notice};
use crate::vfs::{Looked, Removal, View, WriteFrom};
use crate::{Kernel, Options, Vfs};

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

#[derive(Debug, Default)]
struct Believed {
    names: HashMap<(Ino, Name), Option<Ino>>,
    attributes: HashMap<Ino, Attributes>,
    /// Content as read whole.
    pages: HashMap<Ino, Vec<u8>>,
    listings: HashMap<Ino, BTreeSet<Name>>,
    /// Raised with each change of a node's attributes that the kernel knows of.
    versions: HashMap<Ino, u64>,
    lookups: HashMap<Ino, u64>,
    ids: HashMap<Ino, FileId>,
    kinds: HashMap<Ino, Kind>,
    /// Directories that a rename holds: notices about their names wait for it.
    renaming: Vec<Ino>,
    waiting: Vec<Notice>,
    taken_back: usize,
}

impl Believed {
    fn take_back(&mut self, notice: Notice) {
        self.taken_back += 1;
        match notice {
            Notice::Name { parent, .. } | Notice::Replaced { parent, .. }
                if self.renaming.contains(&parent) =>
            {
                self.waiting.push(notice);
            }
            Notice::Name { parent, name } | Notice::Replaced { parent, name } => {
                self.names.remove(&(parent, name));
            }
            Notice::Attributes(ino) => self.attributes_changed(ino),
            Notice::Content(ino) | Notice::Listing(ino) => {
                self.attributes_changed(ino);
                self.pages.remove(&ino);
                self.listings.remove(&ino);
            }
        }
    }

    fn attributes_changed(&mut self, ino: Ino) {
        self.attributes.remove(&ino);
        *self.versions.entry(ino).or_default() += 1;
    }

    fn directory_changed(&mut self, ino: Ino) {
        self.attributes_changed(ino);
        self.listings.remove(&ino);
    }

    fn version(&self, ino: Ino) -> u64 {
        self.versions.get(&ino).copied().unwrap_or_default()
    }
}

struct Told(Arc<Mutex<Believed>>);

impl Kernel for Told {
    fn notify(&self, notices: Vec<Notice>) {
        let mut believed = self.0.lock();
        notices.into_iter().for_each(|notice| believed.take_back(notice));
    }
}

/// See the module's documentation.
pub struct BelievingKernel {
    pub vfs: Arc<Vfs<Memory>>,
    believed: Arc<Mutex<Believed>>,
    /// One change of a directory at a time.
    directories: Mutex<HashMap<Ino, Arc<tokio::sync::Mutex<()>>>>,
    /// Turns between an answer and its arrival, and the seed.
    random: Mutex<Random>,
}

impl BelievingKernel {
    pub fn new(memory: &Arc<Memory>, options: Options, seed: u64) -> Arc<BelievingKernel> {
        let believed = Arc::new(Mutex::new(Believed::default()));
        let vfs = Vfs::new(memory.clone(), memory.root(), options, Arc::new(Told(believed.clone())));
        let root = memory.root();
        believed.lock().ids.insert(Ino::ROOT, root.id);
        believed.lock().kinds.insert(Ino::ROOT, Kind::Directory);
        let (directories, random) = (Mutex::default(), Mutex::new(Random(seed)));
        Arc::new(BelievingKernel { vfs, believed, directories, random })
    }

    fn directory_lock(&self, ino: Ino) -> Arc<tokio::sync::Mutex<()>> {
        self.directories.lock().entry(ino).or_default().clone()
    }

    async fn arrival(&self) {
        let turns = self.random.lock().below(3);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    fn given(&self, view: View) {
        let mut believed = self.believed.lock();
        *believed.lookups.entry(view.ino).or_default() += 1;
        believed.ids.insert(view.ino, view.id);
        believed.kinds.insert(view.ino, view.attributes.kind);
    }

    /// Takes an answer in as it arrives, unless it may have overtaken what takes it back.
    fn arrived(&self, parent: Ino, name: &[u8], looked: Looked, told: u64, versions: &HashMap<Ino, u64>) {
        let fresh = self.vfs.changes_told() == told;
        let mut believed = self.believed.lock();
        let key = (parent, Name::from(name));
        let (ino, name_for) = match looked {
            Looked::Absent(name_for) => (None, name_for),
            Looked::Present(view) => {
                let asked = versions.get(&view.ino).copied().unwrap_or_default();
                let is_current = fresh && asked == believed.version(view.ino);
                match view.attributes_for {
                    Believe::Leased if is_current => believed.attributes.insert(view.ino, view.attributes),
                    _ => believed.attributes.remove(&view.ino),
                };
                (Some(view.ino), view.name_for)
            }
        };
        match name_for {
            Believe::Leased if fresh => believed.names.insert(key, ino),
            _ => believed.names.remove(&key),
        };
    }

    fn versions(&self) -> HashMap<Ino, u64> {
        self.believed.lock().versions.clone()
    }

    /// Looks a name up, in the cache first.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Ino>> {
        let lock = self.directory_lock(parent);
        let _guard = lock.lock().await;
        self.lookup_locked(parent, name).await
    }

    async fn lookup_locked(&self, parent: Ino, name: &[u8]) -> Result<Option<Ino>> {
        let key = (parent, Name::from(name));
        if let Some(known) = self.believed.lock().names.get(&key) {
            return Ok(*known);
        }
        let (told, versions) = (self.vfs.changes_told(), self.versions());
        let looked = self.vfs.lookup(parent, name).await?;
        if let Looked::Present(view) = looked {
            self.given(view);
        }
        self.arrival().await;
        self.arrived(parent, name, looked, told, &versions);
        Ok(if let Looked::Present(view) = looked { Some(view.ino) } else { None })
    }

    /// Walks a path.
    pub async fn walk(&self, path: &[&[u8]]) -> Result<Ino> {
        let mut at = Ino::ROOT;
        for name in path {
            at = self.lookup(at, name).await?.ok_or(Errno::ENOENT)?;
        }
        Ok(at)
    }

    pub fn kind(&self, ino: Ino) -> Kind {
        self.believed.lock().kinds[&ino]
    }

    pub async fn attributes(&self, ino: Ino) -> Result<Attributes> {
        if let Some(known) = self.believed.lock().attributes.get(&ino) {
            return Ok(*known);
        }
        let (told, version) = (self.vfs.changes_told(), self.believed.lock().version(ino));
        let (attributes, believe) = self.vfs.attributes(ino.into()).await?;
        self.arrival().await;
        let fresh = self.vfs.changes_told() == told;
        let mut believed = self.believed.lock();
        if believe == Believe::Leased && fresh && believed.version(ino) == version {
            believed.attributes.insert(ino, attributes);
        }
        Ok(attributes)
    }

    /// A change of one name. Afterwards nothing is believed of the directory's own attributes and listing.
    async fn change<T>(&self, parent: Ino, change: impl Future<Output = Result<T>>) -> Result<T> {
        let outcome = change.await;
        self.believed.lock().directory_changed(parent);
        outcome
    }

    async fn make(&self, parent: Ino, name: &[u8], make: impl Future<Output = Result<View>>) -> Result<Ino> {
        let lock = self.directory_lock(parent);
        let _guard = lock.lock().await;
        if self.lookup_locked(parent, name).await?.is_some() {
            return Err(Errno::EEXIST);
        }
        let (told, versions) = (self.vfs.changes_told(), self.versions());
        let made = self.change(parent, make).await;
        let view = made.inspect_err(|_| self.refused(parent, name))?;
        self.given(view);
        self.arrival().await;
        self.arrived(parent, name, Looked::Present(view), told, &versions);
        Ok(view.ino)
    }

    fn refused(&self, parent: Ino, name: &[u8]) {
        self.believed.lock().names.remove(&(parent, name.into()));
    }

    pub async fn make_directory(&self, parent: Ino, name: &[u8]) -> Result<Ino> {
        self.make(parent, name, self.vfs.make_directory(parent, name, 0o755, CALLER)).await
    }

    pub async fn create(&self, parent: Ino, name: &[u8], flags: OpenFlags) -> Result<(Ino, HandleId)> {
        let handle = Mutex::new(None);
        let create = async {
            let (view, opened) = self.vfs.create(parent, name, 0o644, flags, CALLER).await?;
            *handle.lock() = Some(opened.handle);
            Ok(view)
        };
        let ino = self.make(parent, name, create).await?;
        self.believed.lock().pages.remove(&ino);
        let handle = handle.lock().take().ok_or(Errno::EIO)?;
        Ok((ino, handle))
    }

    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<()> {
        let made = self.make(parent, name, self.vfs.link(ino, parent, name)).await;
        self.believed.lock().attributes_changed(ino);
        made.map(|_| ())
    }

    pub async fn remove(&self, parent: Ino, name: &[u8], kind: Removal) -> Result<()> {
        let lock = self.directory_lock(parent);
        let _guard = lock.lock().await;
        let ino = self.lookup_locked(parent, name).await?.ok_or(Errno::ENOENT)?;
        match (kind, self.kind(ino)) {
            (Removal::Directory, Kind::Directory) => {}
            (Removal::Directory, _) => return Err(Errno::ENOTDIR),
            (Removal::Other, Kind::Directory) => return Err(Errno::EISDIR),
            (Removal::Other, _) => {}
        }
        let outcome = self.change(parent, self.vfs.remove(parent, name, kind)).await;
        self.believed.lock().attributes_changed(ino);
        self.refused(parent, name);
        outcome
    }

    pub async fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Result<()> {
        let locks = [from.0.min(to.0), from.0.max(to.0)].map(|ino| self.directory_lock(ino));
        let _first = locks[0].lock().await;
        let _second = if from.0 == to.0 { None } else { Some(locks[1].lock().await) };
        let moved = self.lookup_locked(from.0, from.1).await?.ok_or(Errno::ENOENT)?;
        let replaced = self.lookup_locked(to.0, to.1).await?;
        let (old, new) = ((from.0, Name::from(from.1)), (to.0, Name::from(to.1)));
        self.believed.lock().renaming.extend([from.0, to.0]);
        let outcome = self.vfs.rename(from, to, mode).await;
        let mut believed = self.believed.lock();
        believed.directory_changed(from.0);
        believed.directory_changed(to.0);
        believed.attributes_changed(moved);
        replaced.into_iter().for_each(|ino| believed.attributes_changed(ino));
        let (moving, left) = (believed.names.remove(&old), believed.names.remove(&new));
        if outcome.is_ok() && Some(moved) != replaced {
            believed.names.extend(moving.map(|ino| (new, ino)));
            let left = left.filter(|_| mode == RenameMode::Exchange);
            believed.names.extend(left.map(|ino| (old, ino)));
        }
        believed.renaming.retain(|at| *at != from.0 && *at != to.0);
        for notice in std::mem::take(&mut believed.waiting) {
            believed.take_back(notice);
        }
        outcome
    }

    /// Opens, reads or writes whole, closes. Gives what was read.
    pub async fn read(&self, ino: Ino) -> Result<Bytes> {
        let flags = OpenFlags { read: true, ..OpenFlags::default() };
        let opened = self.vfs.open(ino, flags).await?;
        if !opened.keep_pages {
            self.believed.lock().pages.remove(&ino);
        }
        if opened.attributes_changed {
            self.believed.lock().attributes_changed(ino);
        }
        let outcome = self.read_open(ino, opened.handle).await;
        self.vfs.flush(opened.handle, 0, None).await?;
        self.vfs.release(opened.handle);
        outcome
    }

    async fn read_open(&self, ino: Ino, handle: HandleId) -> Result<Bytes> {
        if let Some(pages) = self.believed.lock().pages.get(&ino) {
            return Ok(Bytes::copy_from_slice(pages));
        }
        let (told, version) = (self.vfs.changes_told(), self.believed.lock().version(ino));
        let bytes = self.vfs.read(handle, 0, 1 << 16).await?;
        self.arrival().await;
        let fresh = self.vfs.changes_told() == told;
        let mut believed = self.believed.lock();
        if fresh && believed.version(ino) == version {
            believed.pages.insert(ino, bytes.to_vec());
        }
        Ok(bytes)
    }

    pub async fn write(&self, ino: Ino, offset: u64, bytes: &[u8], flags: OpenFlags) -> Result<()> {
        let opened = self.vfs.open(ino, flags).await?;
        if !opened.keep_pages || flags.truncate {
            self.believed.lock().pages.remove(&ino);
        }
        if opened.attributes_changed || flags.truncate {
            self.believed.lock().attributes_changed(ino);
        }
        let outcome = self.write_open(ino, opened.handle, offset, bytes).await;
        let flushed = self.vfs.flush(opened.handle, 0, None).await;
        self.vfs.release(opened.handle);
        outcome.and(flushed)
    }

    pub async fn write_open(&self, ino: Ino, handle: HandleId, offset: u64, bytes: &[u8]) -> Result<()> {
        let lock = self.directory_lock(ino);
        let _guard = lock.lock().await;
        self.believed.lock().pages.remove(&ino);
        let outcome = self
            .vfs
            .write(handle, offset, Bytes::copy_from_slice(bytes), WriteFrom::Caller(ThreadId::UNKNOWN), false)
            .await;
        let mut believed = self.believed.lock();
        believed.pages.remove(&ino);
        believed.attributes_changed(ino);
        outcome.map(|_| ())
    }

    pub async fn set_attributes(&self, ino: Ino, changes: AttributeChanges) -> Result<()> {
        let lock = self.directory_lock(ino);
        let _guard = lock.lock().await;
        let outcome = self.vfs.set_attributes(ino.into(), changes).await;
        let mut believed = self.believed.lock();
        if changes.size.is_some() {
            believed.pages.remove(&ino);
        }
        believed.attributes_changed(ino);
        outcome.map(|_| ())
    }

    /// Lists a directory, with nodes or without.
    pub async fn list(&self, ino: Ino, with_nodes: bool) -> Result<BTreeSet<Name>> {
        let lock = self.directory_lock(ino);
        let _guard = lock.lock().await;
        let opened = self.vfs.open_directory(ino).await?;
        if opened.keep_listing
            && let Some(known) = self.believed.lock().listings.get(&ino).cloned()
        {
            self.vfs.release_directory(opened.handle);
            return Ok(known);
        }
        let outcome = self.list_open(ino, opened.handle, with_nodes, opened.keep_listing).await;
        self.vfs.release_directory(opened.handle);
        outcome
    }

    async fn list_open(
        &self,
        ino: Ino,
        handle: HandleId,
        with_nodes: bool,
        keep: bool,
    ) -> Result<BTreeSet<Name>> {
        let (told, version) = (self.vfs.changes_told(), self.believed.lock().version(ino));
        let (mut cookie, mut names) = (0, BTreeSet::new());
        loop {
            let (page_told, versions) = (self.vfs.changes_told(), self.versions());
            let room = 1 + self.random.lock().below(4);
            let mut items: Vec<(Name, Option<View>, u64)> = Vec::new();
            let take = |item: crate::vfs::DirectoryItem<'_>| {
                let has_room = (items.len() as u64) < room;
                if has_room {
                    items.push((item.name.into(), item.view, item.cookie));
                }
                has_room
            };
            self.vfs.read_directory(handle, cookie, with_nodes, take).await?;
            let Some((_, _, last)) = items.last() else { break };
            cookie = *last;
            items.iter().filter_map(|(_, view, _)| *view).for_each(|view| self.given(view));
            self.arrival().await;
            for (name, view, _) in items {
                if let Some(view) = view {
                    self.arrived(ino, &name, Looked::Present(view), page_told, &versions);
                }
                if &*name != b"." && &*name != b".." {
                    names.insert(name);
                }
            }
        }
        let fresh = self.vfs.changes_told() == told;
        let mut believed = self.believed.lock();
        if keep && fresh && believed.version(ino) == version {
            believed.listings.insert(ino, names.clone());
        }
        Ok(names)
    }

    /// Forgets a node that no belief and no operation refers to, as under memory pressure. `false` if it is not known.
    pub fn forget(&self, ino: Ino) -> bool {
        let mut believed = self.believed.lock();
        let Some(count) = believed.lookups.remove(&ino) else { return false };
        believed.names.retain(|(parent, _), child| *parent != ino && *child != Some(ino));
        believed.attributes.remove(&ino);
        believed.pages.remove(&ino);
        believed.listings.remove(&ino);
        believed.versions.remove(&ino);
        drop(believed);
        self.vfs.forget(ino, count);
        true
    }

    /// Forgets everything.
    pub fn forget_all(&self) {
        let inos: Vec<_> = self.believed.lock().lookups.keys().copied().collect();
        inos.into_iter().for_each(|ino| assert!(self.forget(ino)));
    }

    /// The nodes and how often each was given.
    pub fn lookups(&self) -> HashMap<Ino, u64> {
        self.believed.lock().lookups.clone()
    }

    pub fn taken_back(&self) -> usize {
        self.believed.lock().taken_back
    }

    /// What is believed and is not so at the source, when nothing is under way and everything has been told.
    pub fn errors(&self) -> Vec<String> {
        let believed = self.believed.lock();
        self.vfs.source().look(|tree| {
            let mut errors = Vec::new();
            for ((parent, name), ino) in &believed.names {
                let now = tree.lookup(believed.ids[parent], name).unwrap_or_default();
                let then = ino.map(|ino| believed.ids[&ino]);
                if now != then {
                    let name = String::from_utf8_lossy(name);
                    errors.push(format!("name {name} in {parent:?}: believed {then:?}, is {now:?}"));
                }
            }
            for (ino, attributes) in &believed.attributes {
                let now = tree.get(believed.ids[ino]).ok().map(|file| file.attributes);
                let same =
                    now.is_some_and(|now| Attributes { accessed: Time::default(), ..now } == *attributes);
                if !same {
                    errors.push(format!("attributes of {ino:?}: believed {attributes:?}, are {now:?}"));
                    continue;
                }
                let content =
                    tree.get(believed.ids[ino]).map(|file| file.content.clone()).unwrap_or_default();
                if believed.pages.get(ino).is_some_and(|pages| *pages != content) {
                    errors.push(format!("pages of {ino:?}: {:?}, content {content:?}", believed.pages[ino]));
                }
            }
            for (ino, names) in &believed.listings {
                let now = tree
                    .get(believed.ids[ino])
                    .map(|file| file.listing(0).map(|(_, n, _)| n.clone()).collect());
                if now.as_ref() != Ok(names) {
                    errors.push(format!("listing of {ino:?}: believed {names:?}, is {now:?}"));
                }
            }
            errors
        })
    }

    /// How much is believed: names, attributes, pages, listings.
    pub fn beliefs(&self) -> [usize; 4] {
        let believed = self.believed.lock();
        let Believed { names, attributes, pages, listings, .. } = &*believed;
        [names.len(), attributes.len(), pages.len(), listings.len()]
    }
}
