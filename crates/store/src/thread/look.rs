//! Looking: names, attributes, listings, what was changed.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::{Locked, Thread};
use crate::error::fails;
use crate::names::change::Change;
use crate::names::{Directory, Origin};
use crate::node::{Attributes, Content, Ino, Kind, Name, Node, Time};
use crate::objects::{Index, IndexEntry};
use crate::{Error, Refusal, Result};

/// One name of a directory. `cookie` is behind this name, and stays so while names come and go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Listed {
    pub name: Name,
    pub attributes: Attributes,
    pub cookie: u64,
}

/// A name that is not what the base has there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Changed {
    /// Names joined by slashes, from the root.
    pub path: Vec<u8>,
    /// Whether there is something now. What is in a directory that is new at this path is not told of one by one.
    pub is_there: bool,
}

impl Thread {
    /// The file of this name, if there is one.
    pub fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Attributes>> {
        let found = {
            let mut locked = self.locked();
            locked.look_into(directory)?;
            match locked.child(directory, name)? {
                Some(ino) => Some((ino, locked.node(ino)?)),
                None => None,
            }
        };
        found.map(|(ino, node)| self.attributes_of(ino, &node)).transpose()
    }

    /// What the file is now.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes> {
        let node = self.locked().node(ino)?;
        self.attributes_of(ino, &node)
    }

    /// Those of a node; without the lock.
    pub(super) fn attributes_of(&self, ino: Ino, node: &Node) -> Result<Attributes> {
        let mut attributes = node.attributes(ino);
        if node.content != Content::Written {
            return Ok(attributes);
        }
        let path = self.plain(ino);
        let found = match std::fs::metadata(&path) {
            // It was made and never synced, and the power went; or it goes just now.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(attributes),
            found => found.map_err(fails("look at", &path))?,
        };
        attributes.size = found.size();
        attributes.blocks = found.blocks();
        attributes.accessed = time(found.atime(), found.atime_nsec());
        attributes.modified = time(found.mtime(), found.mtime_nsec());
        attributes.changed = attributes.changed.max(time(found.ctime(), found.ctime_nsec()));
        Ok(attributes)
    }

    /// The directory above; the root is above itself.
    pub fn parent(&self, directory: Ino) -> Result<Ino> {
        let mut locked = self.locked();
        locked.look_into(directory)?;
        Ok(locked.directory(directory)?.parent)
    }

    /// Names behind this cookie, 0 at first: at most so many, and less only at the end. What is there all the time is told once.
    pub fn list(&self, directory: Ino, from: u64, most: usize) -> Result<Vec<Listed>> {
        let found = {
            let mut locked = self.locked();
            locked.look_into(directory)?;
            locked.list(directory, from, most)?
        };
        let listed = found.into_iter().map(|(name, ino, node, cookie)| {
            Ok(Listed { name, attributes: self.attributes_of(ino, &node)?, cookie })
        });
        listed.collect()
    }

    /// What a symlink holds.
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        match self.locked().node(ino)?.content {
            Content::Symlink(target) => Ok(target.into()),
            Content::Base { is_link: true, oid, size } => self.objects.link(&oid, size),
            Content::InPlace { below, .. } if below.kind == Kind::Symlink => {
                let read = self.copy.get().map_or(Ok(None), |copy| copy.read_link(&below.path));
                Ok(read?.ok_or(Refusal::Stale)?)
            }
            _ => Err(Refusal::Invalid.into()),
        }
    }

    /// An extended attribute.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let locked = self.locked();
        locked.node(ino)?;
        let xattrs = locked.state.names.xattrs(ino);
        let value = xattrs.and_then(|xattrs| xattrs.get(name)).ok_or(Refusal::NoAttribute)?;
        Ok(value.to_vec())
    }

    /// The names of a file's extended attributes, in order.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let locked = self.locked();
        locked.node(ino)?;
        let xattrs = locked.state.names.xattrs(ino);
        Ok(xattrs.into_iter().flatten().map(|(name, _)| name.to_vec()).collect())
    }

    /// Files without a name: they are open, or were when a predecessor died. See [`Thread::forget`].
    pub fn unnamed(&self) -> Vec<Ino> {
        let locked = self.locked();
        locked.state.names.nodes().filter(|(_, node)| node.links == 0).map(|(ino, _)| ino).collect()
    }

    /// The paths that are not what the base has there, in order: as many as there are changes, whatever the size of the base. A
    /// file that was written as it was is told of, too. What is ignored where the thread was made is not, whatever became of it; the [pointer](crate::worktree::POINTER) at git's directory is not, as long as it is
    /// a file.
    pub fn changed(&self) -> Result<Vec<Changed>> {
        let locked = self.locked();
        let mut changed = Vec::new();
        for (ino, directory) in locked.state.names.directories() {
            if locked.is_hidden(ino) {
                continue;
            }
            let Some(above) = locked.path_of(ino)? else { continue };
            for (name, named) in directory.names() {
                if directory.grafts().contains_key(name) {
                    continue;
                }
                if ino == Ino::ROOT && **name == *crate::worktree::POINTER && locked.is_written(named.ino) {
                    continue;
                }
                changed.push(Changed { path: joined(&above, name), is_there: named.ino.is_some() });
            }
        }
        for (ino, node) in locked.state.names.nodes() {
            let Some((owner, number)) = locked.state.names.block_of(ino) else { continue };
            let entry = locked.entry(owner, number)?;
            let is_named = locked.directory(owner)?.named(&entry.name).is_some();
            let base = Node::of_base(&entry, &self.origin);
            let is_same = node.content == base.content && (node.mode ^ base.mode) & 0o100 == 0;
            if is_named || is_same || locked.is_hidden(owner) {
                continue;
            }
            if let Some(above) = locked.path_of(owner)? {
                changed.push(Changed { path: joined(&above, &entry.name), is_there: true });
            }
        }
        changed.sort();
        Ok(changed)
    }
}

impl Locked<'_> {
    /// What is said of a file, or what the base has of it.
    pub(super) fn node(&self, ino: Ino) -> Result<Node> {
        if let Some(node) = self.state.names.node(ino) {
            return self.seen(node.clone());
        }
        let (owner, number) = self.state.names.block_of(ino).ok_or(Refusal::Stale)?;
        let entry = self.entry(owner, number)?;
        if self.directory(owner)?.named(&entry.name).is_some() {
            return Err(Refusal::Stale.into());
        }
        let node = Node::of_base(&entry, &self.thread.origin);
        let modified = self.thread.times.get().and_then(|times| times.of(ino)).unwrap_or(node.modified);
        Ok(Node { modified, ..node })
    }

    fn is_written(&self, ino: Option<Ino>) -> bool {
        let node = ino.and_then(|ino| self.state.names.node(ino));
        node.is_some_and(|node| node.content == Content::Written)
    }

    /// A directory that was looked into.
    pub(super) fn directory(&self, ino: Ino) -> Result<&Directory> {
        Ok(self.state.names.directory(ino).ok_or(Refusal::NotDirectory)?)
    }

    /// Gives numbers to what the base has in a directory, if it has none yet. Refuses what is no directory.
    pub(super) fn look_into(&mut self, ino: Ino) -> Result<()> {
        if self.state.names.directory(ino).is_some() {
            return Ok(());
        }
        if !self.node(ino)?.is_directory() {
            return Err(Refusal::NotDirectory.into());
        }
        if let Some(below) = self.state.names.node(ino).and_then(Node::in_place).cloned() {
            return self.commit(vec![
                Change::Directory { ino, parent: below.directory, tree: None, first: 0, count: 0 },
                Change::InPlace { directory: ino, path: below.path.clone() },
            ]);
        }
        // Nobody has moved it: whoever moves one looks into it first.
        let (parent, number) = self.state.names.block_of(ino).ok_or(Refusal::Stale)?;
        let tree = self.entry(parent, number)?.oid;
        let count = match tree {
            Some(tree) => self.thread.objects.index(&tree)?.count(),
            None => 0,
        };
        let first = self.state.names.next();
        self.commit(vec![Change::Directory { ino, parent, tree, first, count }])
    }

    /// What the base has in a directory that was looked into.
    pub(super) fn index(&self, directory: Ino) -> Result<Option<Arc<Index>>> {
        match self.directory(directory)?.tree {
            Some(tree) => Ok(Some(self.thread.objects.index(&tree)?)),
            None => Ok(None),
        }
    }

    fn entry(&self, directory: Ino, number: u32) -> Result<IndexEntry> {
        let index = self.index(directory)?;
        Ok(index.and_then(|index| index.get(number).cloned()).ok_or(Refusal::Stale)?)
    }

    /// The number of an entry of the base, whoever has its name now.
    pub(super) fn number_in_base(&self, directory: Ino, name: &[u8]) -> Result<Option<u32>> {
        Ok(self.index(directory)?.and_then(|index| index.find(name)))
    }

    /// The file of a name in a directory that was looked into.
    pub(super) fn child(&mut self, directory: Ino, name: &[u8]) -> Result<Option<Ino>> {
        self.meet(directory, name)?;
        let in_it = self.directory(directory)?;
        if let Some(named) = in_it.named(name) {
            return Ok(named.ino);
        }
        let number = self.number_in_base(directory, name)?;
        Ok(number.map(|number| Ino(in_it.first + u64::from(number))))
    }

    fn list(&mut self, directory: Ino, from: u64, most: usize) -> Result<Vec<(Name, Ino, Node, u64)>> {
        if from == 0 {
            self.meet_all(directory)?;
        }
        let in_it = self.directory(directory)?;
        let index = self.index(directory)?.unwrap_or_default();
        let mut found = Vec::new();
        let first = u32::try_from(from).unwrap_or(u32::MAX).min(in_it.count);
        for number in first..in_it.count {
            if found.len() == most {
                return Ok(found);
            }
            let entry = index.get(number).ok_or(Refusal::Stale)?;
            let ino = match in_it.named(&entry.name) {
                Some(named) => named.ino,
                None => Some(Ino(in_it.first + u64::from(number))),
            };
            if let Some(ino) = ino {
                found.push((entry.name.clone(), ino, self.node(ino)?, u64::from(number) + 1));
            }
        }
        for (name, named) in in_it.own_from(from.saturating_add(1)) {
            let Some(ino) = named.ino else { continue };
            if found.len() == most {
                break;
            }
            match self.node(ino) {
                // It went where it is seen, just now.
                Err(Error::Refused(Refusal::Stale)) if self.thread.sees_in_place() => {}
                node => found.push((name.clone(), ino, node?, named.cookie)),
            }
        }
        Ok(found)
    }

    /// From the root. `None` if the directory has no name.
    fn path_of(&self, directory: Ino) -> Result<Option<Vec<u8>>> {
        let (mut names, mut at) = (Vec::new(), directory);
        while at != Ino::ROOT {
            let above = self.directory(at)?.parent;
            let Some(name) = self.name_in(above, at)? else { return Ok(None) };
            names.push(name);
            at = above;
        }
        let path = names.iter().rev().fold(Vec::new(), |path, name| joined(&path, name));
        Ok(Some(path))
    }

    /// The name of a directory in the one above.
    fn name_in(&self, above: Ino, directory: Ino) -> Result<Option<Name>> {
        let in_it = self.directory(above)?;
        if let Some((owner, number)) = self.state.names.block_of(directory)
            && owner == above
        {
            let entry = self.entry(above, number)?;
            if in_it.named(&entry.name).is_none_or(|named| named.ino == Some(directory)) {
                return Ok(Some(entry.name));
            }
        }
        Ok(in_it.names().find(|(_, named)| named.ino == Some(directory)).map(|(name, _)| name.clone()))
    }
}

impl Node {
    /// What nobody has changed.
    pub(super) fn of_base(entry: &IndexEntry, origin: &Origin) -> Node {
        let (content, mode) = match (entry.kind, entry.oid) {
            (Kind::Symlink, Some(oid)) => (Content::Base { is_link: true, oid, size: entry.size }, 0o777),
            (Kind::File, Some(oid)) => {
                let mode = if entry.is_executable { 0o755 } else { 0o644 };
                (Content::Base { is_link: false, oid, size: entry.size }, mode)
            }
            _ => return Node::of_base_directory(origin),
        };
        Node { content, mode, ..Node::of_base_directory(origin) }
    }

    pub(super) fn of_base_directory(origin: &Origin) -> Node {
        let Origin { uid, gid, made, .. } = *origin;
        Node {
            content: Content::Directory,
            mode: 0o755,
            uid,
            gid,
            links: 1,
            device: 0,
            accessed: made,
            modified: made,
            changed: made,
        }
    }
}

fn joined(above: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = above.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn time(seconds: i64, nanoseconds: i64) -> Time {
    Time { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) }
}
