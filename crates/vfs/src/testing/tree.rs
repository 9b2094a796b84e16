//! A tree of files in memory: what the tests hold to be true.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::errno::{Errno, Result};
use crate::file::{
    AttributeChanges, Attributes, Entry, FileId, Kind, Name, RenameMode, SetTime, Time, XattrMode,
};
use crate::source::Place;

/// What happened, in terms of the directories that may be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Name {
        directory: FileId,
        name: Name,
    },
    Itself {
        directory: FileId,
    },
    /// The directory is not where or what it was.
    Ended {
        directory: FileId,
    },
}

#[derive(Clone, Debug)]
pub struct File {
    pub attributes: Attributes,
    pub content: Vec<u8>,
    pub names: Vec<(FileId, Name)>,
    xattrs: BTreeMap<Bytes, Bytes>,
    entries: BTreeMap<u64, (Name, FileId)>,
    by_name: HashMap<Name, u64>,
    next_cookie: u64,
    pub opens: u32,
}

#[derive(Clone, Debug)]
pub struct Tree {
    files: HashMap<FileId, File>,
    pub root: FileId,
    next: u64,
    ticks: u64,
    /// Changes that share one change time: the granularity of the file system's clock.
    pub ticks_per_time: u64,
    /// Since they were last taken.
    pub events: Vec<Event>,
}

fn zero(kind: Kind, mode: u16) -> Attributes {
    let links = if kind == Kind::Directory { 2 } else { 0 };
    Attributes { mode, links, ..Attributes::new(kind) }
}

impl Default for Tree {
    fn default() -> Tree {
        let root = FileId { device: 1, inode: 1, birth: 0 };
        let mut tree =
            Tree { files: HashMap::new(), root, next: 2, ticks: 0, ticks_per_time: 1, events: Vec::new() };
        tree.files.insert(root, File::new(zero(Kind::Directory, 0o755)));
        tree
    }
}

impl File {
    fn new(attributes: Attributes) -> File {
        File {
            attributes,
            content: Vec::new(),
            names: Vec::new(),
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
            by_name: HashMap::new(),
            next_cookie: 1,
            opens: 0,
        }
    }

    pub fn listing(&self, from: u64) -> impl Iterator<Item = (u64, &Name, FileId)> {
        self.entries.range(from + 1..).map(|(cookie, (name, id))| (*cookie, name, *id))
    }
}

impl Tree {
    pub fn get(&self, id: FileId) -> Result<&File> {
        self.files.get(&id).ok_or(Errno::ESTALE)
    }

    pub fn get_mut(&mut self, id: FileId) -> Result<&mut File> {
        self.files.get_mut(&id).ok_or(Errno::ESTALE)
    }

    pub fn entry(&self, id: FileId) -> Result<Entry> {
        Ok(Entry { id, attributes: self.get(id)?.attributes })
    }

    fn directory(&self, id: FileId) -> Result<&File> {
        let file = self.get(id)?;
        if file.attributes.kind == Kind::Directory { Ok(file) } else { Err(Errno::ENOTDIR) }
    }

    pub fn lookup(&self, directory: FileId, name: &[u8]) -> Result<Option<FileId>> {
        let directory = self.directory(directory)?;
        Ok(directory.by_name.get(name).map(|cookie| directory.entries[cookie].1))
    }

    /// The file with this path from the root.
    pub fn at(&self, path: &str) -> Option<FileId> {
        let mut names = path.split('/').filter(|name| !name.is_empty());
        names.try_fold(self.root, |at, name| self.lookup(at, name.as_bytes()).ok().flatten())
    }

    pub fn resolve(&self, place: &Place) -> Result<FileId> {
        let mut at = self.root;
        for name in place.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at = self.lookup(at, name)?.ok_or(Errno::ESTALE)?;
        }
        if at == place.id { Ok(at) } else { Err(Errno::ESTALE) }
    }

    fn now(&mut self) -> Time {
        self.ticks += 1;
        Time { seconds: (self.ticks / self.ticks_per_time) as i64, nanoseconds: 0 }
    }

    fn touched(&mut self, id: FileId, content: bool) {
        let now = self.now();
        let Some(file) = self.files.get_mut(&id) else { return };
        file.attributes.changed = now;
        if content {
            file.attributes.modified = now;
        }
        if file.attributes.kind == Kind::Directory {
            self.events.push(Event::Itself { directory: id });
        }
        for (directory, name) in file.names.clone() {
            self.events.push(Event::Name { directory, name });
        }
    }

    fn insert(&mut self, directory: FileId, name: &Name, id: FileId) {
        let is_directory = self.files[&id].attributes.kind == Kind::Directory;
        let Some(parent) = self.files.get_mut(&directory) else { return };
        let cookie = parent.next_cookie;
        parent.next_cookie += 1;
        parent.entries.insert(cookie, (name.clone(), id));
        parent.by_name.insert(name.clone(), cookie);
        if is_directory {
            parent.attributes.links += 1;
        }
        parent.attributes.size += 1;
        let Some(file) = self.files.get_mut(&id) else { return };
        file.names.push((directory, name.clone()));
        if !is_directory {
            file.attributes.links += 1;
        }
        self.touched(directory, true);
        self.touched(id, false);
    }

    fn take(&mut self, directory: FileId, name: &Name) {
        let Some(parent) = self.files.get_mut(&directory) else { return };
        let Some(cookie) = parent.by_name.remove(name) else { return };
        let Some((_, id)) = parent.entries.remove(&cookie) else { return };
        parent.attributes.size -= 1;
        let Some(file) = self.files.get_mut(&id) else { return };
        file.names.retain(|(parent, of)| !(*parent == directory && of == name));
        let is_directory = file.attributes.kind == Kind::Directory;
        if !is_directory {
            file.attributes.links -= 1;
        } else if let Some(parent) = self.files.get_mut(&directory) {
            parent.attributes.links -= 1;
        }
        self.events.push(Event::Name { directory, name: name.clone() });
        self.touched(directory, true);
        self.touched(id, false);
    }

    /// Lets a file go that has no name and is not open.
    pub fn reap(&mut self, id: FileId) {
        if self.files.get(&id).is_some_and(|file| file.names.is_empty() && file.opens == 0 && id != self.root)
        {
            self.files.remove(&id);
        }
    }

    pub fn make(&mut self, directory: FileId, name: &Name, kind: Kind, mode: u16) -> Result<FileId> {
        if self.lookup(directory, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        if directory != self.root && self.get(directory)?.names.is_empty() {
            return Err(Errno::ENOENT);
        }
        let id = self.make_unnamed(kind, mode);
        self.insert(directory, name, id);
        Ok(id)
    }

    pub fn make_unnamed(&mut self, kind: Kind, mode: u16) -> FileId {
        let id = FileId { device: 1, inode: self.next, birth: self.next };
        self.next += 1;
        self.files.insert(id, File::new(zero(kind, mode)));
        self.touched(id, true);
        id
    }

    pub fn link(&mut self, id: FileId, directory: FileId, name: &Name) -> Result<()> {
        if self.get(id)?.attributes.kind == Kind::Directory {
            return Err(Errno::EPERM);
        }
        if self.lookup(directory, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        self.insert(directory, name, id);
        Ok(())
    }

    pub fn unlink(&mut self, directory: FileId, name: &Name) -> Result<FileId> {
        let id = self.lookup(directory, name)?.ok_or(Errno::ENOENT)?;
        if self.get(id)?.attributes.kind == Kind::Directory {
            return Err(Errno::EISDIR);
        }
        self.take(directory, name);
        self.reap(id);
        Ok(id)
    }

    pub fn remove_directory(&mut self, directory: FileId, name: &Name) -> Result<FileId> {
        let id = self.lookup(directory, name)?.ok_or(Errno::ENOENT)?;
        if !self.directory(id)?.entries.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.take(directory, name);
        self.events.push(Event::Ended { directory: id });
        self.reap(id);
        Ok(id)
    }

    fn is_at_or_below(&self, mut at: FileId, top: FileId) -> bool {
        while at != top {
            match self.files.get(&at).and_then(|file| file.names.first()) {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
        true
    }

    pub fn rename(&mut self, from: (FileId, &Name), to: (FileId, &Name), mode: RenameMode) -> Result<()> {
        let moved = self.lookup(from.0, from.1)?.ok_or(Errno::ENOENT)?;
        let replaced = self.lookup(to.0, to.1)?;
        if self.is_at_or_below(to.0, moved) || replaced.is_some_and(|r| self.is_at_or_below(from.0, r)) {
            return Err(if mode == RenameMode::Exchange || self.is_at_or_below(to.0, moved) {
                Errno::EINVAL
            } else {
                Errno::ENOTEMPTY
            });
        }
        match (mode, replaced) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT),
            (_, Some(replaced)) if replaced == moved => {
                let names = [from, to].map(|(directory, name)| Event::Name { directory, name: name.clone() });
                self.events.extend(names);
            }
            (RenameMode::Exchange, Some(replaced)) => {
                self.take(from.0, from.1);
                self.take(to.0, to.1);
                self.insert(from.0, from.1, replaced);
                self.insert(to.0, to.1, moved);
                self.ended(moved);
                self.ended(replaced);
            }
            (_, Some(replaced)) => {
                let is_directory =
                    |id| self.get(id).is_ok_and(|file| file.attributes.kind == Kind::Directory);
                match (is_directory(moved), is_directory(replaced)) {
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    (true, true) => self.remove_directory(to.0, to.1)?,
                    (false, false) => self.unlink(to.0, to.1)?,
                };
                self.take(from.0, from.1);
                self.insert(to.0, to.1, moved);
                self.ended(moved);
            }
            (_, None) => {
                self.take(from.0, from.1);
                self.insert(to.0, to.1, moved);
                self.ended(moved);
            }
        }
        Ok(())
    }

    /// A directory that was moved is watched no more; what is below it is, but cannot be found by its path.
    fn ended(&mut self, id: FileId) {
        let mut below: Vec<_> =
            self.files.keys().copied().filter(|at| self.is_at_or_below(*at, id)).collect();
        below.sort_by_key(|id| id.inode);
        let directories = below.into_iter().filter(|at| self.files[at].attributes.kind == Kind::Directory);
        self.events.extend(directories.map(|directory| Event::Ended { directory }));
    }

    pub fn set_attributes(&mut self, id: FileId, changes: AttributeChanges) -> Result<()> {
        let file = self.get_mut(id)?;
        if let Some(size) = changes.size {
            if file.attributes.kind != Kind::File {
                return Err(Errno::EINVAL);
            }
            file.content.resize(size as usize, 0);
            file.attributes.size = size;
        }
        file.attributes.mode = changes.mode.unwrap_or(file.attributes.mode);
        file.attributes.uid = changes.uid.unwrap_or(file.attributes.uid);
        file.attributes.gid = changes.gid.unwrap_or(file.attributes.gid);
        self.touched(id, changes.size.is_some());
        if let SetTime::To(time) = changes.modified {
            self.get_mut(id)?.attributes.modified = time;
        }
        Ok(())
    }

    pub fn write(&mut self, id: FileId, offset: Option<u64>, bytes: &[u8]) -> Result<u64> {
        let file = self.get_mut(id)?;
        let offset = offset.map_or(file.content.len(), |offset| offset as usize);
        let end = offset + bytes.len();
        if file.content.len() < end {
            file.content.resize(end, 0);
        }
        file.content[offset..end].copy_from_slice(bytes);
        file.attributes.size = file.content.len() as u64;
        self.touched(id, true);
        Ok(bytes.len() as u64)
    }

    pub fn read(&self, id: FileId, offset: u64, length: u32) -> Result<Bytes> {
        let content = &self.get(id)?.content;
        let start = (offset as usize).min(content.len());
        let end = (start + length as usize).min(content.len());
        Ok(Bytes::copy_from_slice(&content[start..end]))
    }

    pub fn get_xattr(&self, id: FileId, name: &Bytes) -> Result<Bytes> {
        self.get(id)?.xattrs.get(name).cloned().ok_or(Errno::ENODATA)
    }

    pub fn xattr_names(&self, id: FileId) -> Result<Bytes> {
        let names = self.get(id)?.xattrs.keys().flat_map(|name| name.iter().copied().chain([0]));
        Ok(names.collect::<Vec<u8>>().into())
    }

    pub fn set_xattr(&mut self, id: FileId, name: Bytes, value: Bytes, mode: XattrMode) -> Result<()> {
        let file = self.get_mut(id)?;
        match (mode, file.xattrs.contains_key(&name)) {
            (XattrMode::Create, true) => return Err(Errno::EEXIST),
            (XattrMode::Replace, false) => return Err(Errno::ENODATA),
            _ => file.xattrs.insert(name, value),
        };
        file.attributes.xattrs = true;
        self.touched(id, false);
        Ok(())
    }

    pub fn remove_xattr(&mut self, id: FileId, name: &Bytes) -> Result<()> {
        let file = self.get_mut(id)?;
        file.xattrs.remove(name).ok_or(Errno::ENODATA)?;
        file.attributes.xattrs = !file.xattrs.is_empty();
        self.touched(id, false);
        Ok(())
    }

    /// Every path with the file's kind, mode, links and content.
    pub fn snapshot(&self) -> BTreeMap<Vec<u8>, (Kind, u16, u32, Vec<u8>)> {
        let mut snapshot = BTreeMap::new();
        let mut left = vec![(Vec::new(), self.root)];
        while let Some((path, id)) = left.pop() {
            let file = &self.files[&id];
            for (name, id) in file.entries.values() {
                left.push(([path.as_slice(), b"/", name].concat(), *id));
            }
            let Attributes { kind, mode, links, .. } = file.attributes;
            snapshot.insert(path, (kind, mode, links, file.content.clone()));
        }
        snapshot
    }
}
