//! What the upper layer says: files, directories and names, in memory, and as changes.
//!
//! ```text
//!  operation ──► Change, Change, … ──► one record of the log ──► applied to Names
//!                                            │
//!                        open: all records ──┘        compaction: Names ──► changes ──► a new log
//! ```
//!
//! A directory is a tree of the base, or none, and the names that are otherwise in it: another file's, or nobody's (a whiteout).
//! When it is first looked into, each name of its tree is given a number, in the order of the names, out of a block of its own; so
//! a file of the base has a number before anything is said of it, and one record is written for a directory, not for each file.
//!
//! ```text
//!  lookup(directory, name):  named otherwise? ──yes──► that file, or nobody
//!                                  └──no──► the tree's entry n ──► the file numbered first + n
//!  what a number is:         a node? ──yes──► what the log says of it
//!                                  └──no──► in whose block? ──► the tree's entry, unless its name is otherwise
//! ```
//!
//! Invariants:
//!
//! - A name of the tree that is named otherwise is never without that again.
//! - A file that the log says something of is a node, for as long as it has a name or is open. A directory of the base that was
//!   moved or removed was looked into before.
//! - Cookies: the entry n of a tree is at n + 1, whoever has its name now; all other names are behind [`OWN_COOKIES`], in the order in
//!   which they came.
//! - A name under which something of the working copy was removed by the thread is a whiteout, too, and stays one until it is another file's.
//! - Changes of whole records apply to what the records before have made, or the log is damaged; nothing is guessed.

pub mod change;

use std::collections::{BTreeMap, HashMap};

use crate::node::{Ino, LINKS_MAX, Name, Node, XATTR_BYTES_MAX};
use crate::objects::Revision;
use crate::{Oid, log};
use change::Change;

/// Cookies of names that are no tree's: behind all of a tree.
pub(crate) const OWN_COOKIES: u64 = 1 << 32;

/// Requests that are carried out and not known to be answered. Whoever serves a thread has some in hand at once, as many as it has
/// threads, and those of a predecessor's.
const UNANSWERED_MAX: usize = 1024;

/// A record of a compacted log ends when it has so many bytes.
const SNAPSHOT_RECORD_BYTES: usize = 16 << 10;

/// What a thread began from, and whose its files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Origin {
    pub revision: Revision,
    pub uid: u32,
    pub gid: u32,
    /// When: what its files are dated until they are changed.
    pub made: crate::node::Time,
}

/// A directory that was looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) parent: Ino,
    /// What it has of the base. Without, it is opaque.
    pub(crate) tree: Option<Oid>,
    /// The numbers of the tree's entries.
    pub(crate) first: u64,
    pub(crate) count: u32,
    names: BTreeMap<Name, Named>,
    /// Names that are no tree's, by cookie.
    order: BTreeMap<u64, Name>,
    /// A directory of the working copy: its names are here, too.
    in_place: Option<Box<[u8]>>,
    /// Names under which something of the working copy is here, each with where that is.
    grafts: BTreeMap<Name, Box<[u8]>>,
}

/// What a name is otherwise than in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// `None`: a whiteout.
    pub(crate) ino: Option<Ino>,
    pub(crate) cookie: u64,
}

impl Directory {
    fn of(parent: Ino, tree: Option<Oid>, first: u64, count: u32) -> Directory {
        let (names, order, grafts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Directory { parent, tree, first, count, names, order, in_place: None, grafts }
    }

    /// The directory of the working copy whose names are here, too.
    pub(crate) fn in_place(&self) -> Option<&[u8]> {
        self.in_place.as_deref()
    }

    pub(crate) fn grafts(&self) -> &BTreeMap<Name, Box<[u8]>> {
        &self.grafts
    }

    /// Where in the working copy the file of this name is or would be, if it is to be seen here.
    pub(crate) fn path_in_place(&self, name: &[u8]) -> Option<Box<[u8]>> {
        match (self.grafts.get(name), self.in_place()) {
            (Some(path), _) => Some(path.clone()),
            (None, Some(above)) => Some([above, b"/", name].concat().into()),
            (None, None) => None,
        }
    }

    pub(crate) fn named(&self, name: &[u8]) -> Option<Named> {
        self.names.get(name).copied()
    }

    /// Names that are otherwise than in the tree, in their order.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&Name, Named)> {
        self.names.iter().map(|(name, named)| (name, *named))
    }

    /// Names that are no tree's, from this cookie on.
    pub(crate) fn own_from(&self, cookie: u64) -> impl Iterator<Item = (&Name, Named)> {
        let behind = self.order.range(cookie.max(OWN_COOKIES)..);
        behind.filter_map(|(_, name)| Some((name, self.named(name)?)))
    }

    /// The cookie of the next name that is no tree's.
    pub(crate) fn next_cookie(&self) -> u64 {
        self.order.last_key_value().map_or(OWN_COOKIES, |(last, _)| last + 1)
    }
}

/// Extended attributes of a file.
pub(crate) type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// All that the log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    origin: Option<Origin>,
    /// Numbers from here on are nobody's.
    next: u64,
    nodes: HashMap<Ino, Node>,
    /// How many of them are of files that are seen in place.
    in_place: usize,
    directories: HashMap<Ino, Directory>,
    xattrs: HashMap<Ino, Xattrs>,
    /// Whose the numbers of a block are, by its first.
    blocks: BTreeMap<u64, Ino>,
    /// Requests that were carried out and may not be answered, with the file that each made or was about.
    unanswered: BTreeMap<u64, Ino>,
    /// The root of the working copy of which something is seen.
    working_copy: Option<Box<[u8]>>,
}

/// A record that cannot be true, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untrue(pub &'static str);

impl Names {
    /// What the whole records of a log's bytes say, and how many bytes these have. `None` if it is no log.
    pub fn replay(bytes: &[u8]) -> Option<Result<(Names, usize), Untrue>> {
        let (records, whole) = log::parse(bytes)?;
        let mut names = Names::default();
        let read = records.into_iter().try_for_each(|record| names.apply_record(record));
        Some(read.map(|()| (names, whole)))
    }

    /// Takes in a record of the log. After an error some of it may have been taken in.
    pub fn apply_record(&mut self, record: &[u8]) -> Result<(), Untrue> {
        change::decode(record)?.into_iter().try_for_each(|change| self.apply(change))
    }

    /// All of it, as a log that says nothing else.
    pub fn snapshot(&self) -> log::Records {
        let mut records = log::Records::default();
        let mut record = Vec::new();
        self.each_change(&mut |change| {
            change.encode(&mut record);
            if record.len() >= SNAPSHOT_RECORD_BYTES {
                records.push(|to| to.append(&mut record));
            }
        });
        if !record.is_empty() {
            records.push(|to| to.append(&mut record));
        }
        records
    }

    fn each_change(&self, each: &mut dyn FnMut(Change)) {
        if let Some(origin) = self.origin {
            each(Change::Origin(origin));
        }
        if let Some(path) = &self.working_copy {
            each(Change::WorkingCopy { path: path.clone() });
        }
        for (ino, node) in &self.nodes {
            each(Change::Node { ino: *ino, node: node.clone() });
        }
        for (ino, Directory { parent, tree, first, count, names, in_place, grafts, .. }) in &self.directories
        {
            each(Change::Directory { ino: *ino, parent: *parent, tree: *tree, first: *first, count: *count });
            if let Some(path) = in_place {
                each(Change::InPlace { directory: *ino, path: path.clone() });
            }
            for (name, path) in grafts {
                each(Change::Graft { directory: *ino, name: name.clone(), path: path.clone() });
            }
            for (name, named) in names {
                each(match named.ino {
                    Some(to) => {
                        Change::Name { directory: *ino, name: name.clone(), ino: to, cookie: named.cookie }
                    }
                    None => Change::Whiteout { directory: *ino, name: name.clone() },
                });
            }
        }
        for (ino, xattrs) in &self.xattrs {
            for (name, value) in xattrs {
                each(Change::Xattr { ino: *ino, name: name.clone(), value: value.clone() });
            }
        }
        for (request, ino) in &self.unanswered {
            each(Change::CarriedOut { request: *request, ino: *ino, answered: 0 });
        }
        each(Change::Next(self.next));
    }

    pub(crate) fn apply(&mut self, change: Change) -> Result<(), Untrue> {
        match change {
            Change::Origin(origin) => self.origin = Some(origin),
            Change::Next(next) => self.next = self.next.max(next),
            Change::Node { ino, node } => {
                self.use_numbers(ino.0, 1)?;
                if node.links > LINKS_MAX {
                    return Err(Untrue("a file has more names than it can"));
                }
                self.in_place += usize::from(node.in_place().is_some());
                let before = self.nodes.insert(ino, node);
                self.in_place -= usize::from(before.is_some_and(|before| before.in_place().is_some()));
            }
            Change::Gone { ino } => self.remove(ino)?,
            Change::Directory { ino, parent, tree, first, count } => {
                self.add_directory(ino, Directory::of(parent, tree, first, count))?;
            }
            Change::WorkingCopy { path } => self.working_copy = Some(path),
            Change::InPlace { directory, path } => self.directory_mut(directory)?.in_place = Some(path),
            Change::Graft { directory, name, path } => {
                self.directory_mut(directory)?.grafts.insert(name, path);
            }
            Change::Parent { ino, parent } => self.directory_mut(ino)?.parent = parent,
            Change::Name { directory, name, ino, cookie } => {
                self.name(directory, name, Named { ino: Some(ino), cookie })?;
            }
            Change::Whiteout { directory, name } => {
                self.name(directory, name, Named { ino: None, cookie: 0 })?;
            }
            Change::Unnamed { directory, name } => {
                let directory = self.directory_mut(directory)?;
                let named = directory.names.remove(&name).ok_or(Untrue("no such name is to go"))?;
                directory.order.remove(&named.cookie);
            }
            Change::Xattr { ino, name, value } => {
                if !self.nodes.contains_key(&ino) {
                    return Err(Untrue("an attribute of no file"));
                }
                let xattrs = self.xattrs.entry(ino).or_default();
                xattrs.insert(name, value);
                if bytes_of(xattrs) > XATTR_BYTES_MAX {
                    return Err(Untrue("a file's attributes are larger than they can be"));
                }
            }
            Change::NoXattr { ino, name } => {
                let xattrs = self.xattrs.get_mut(&ino).ok_or(Untrue("no such attribute is to go"))?;
                xattrs.remove(&name).ok_or(Untrue("no such attribute is to go"))?;
                if xattrs.is_empty() {
                    self.xattrs.remove(&ino);
                }
            }
            Change::CarriedOut { request, ino, answered } => {
                self.unanswered.remove(&answered);
                self.unanswered.insert(request, ino);
                if self.unanswered.len() > UNANSWERED_MAX {
                    return Err(Untrue("more requests are unanswered than there can be"));
                }
            }
            Change::AllAnswered => self.unanswered.clear(),
        }
        Ok(())
    }

    fn use_numbers(&mut self, first: u64, count: u32) -> Result<(), Untrue> {
        let next = first.checked_add(count.into()).filter(|_| first != 0);
        self.next = self.next.max(next.ok_or(Untrue("a number that no file can have"))?);
        Ok(())
    }

    fn add_directory(&mut self, ino: Ino, directory: Directory) -> Result<(), Untrue> {
        self.use_numbers(ino.0, 1)?;
        if directory.count > 0 {
            self.use_numbers(directory.first, directory.count)?;
            let last = directory.first + u64::from(directory.count) - 1;
            let before = self.blocks.range(..=last).next_back();
            let is_taken =
                before.and_then(|(first, of)| Some(first + u64::from(self.directories.get(of)?.count)));
            if is_taken.is_some_and(|end| end > directory.first) {
                return Err(Untrue("a number is given twice"));
            }
            self.blocks.insert(directory.first, ino);
        }
        match self.directories.insert(ino, directory) {
            None => Ok(()),
            Some(_) => Err(Untrue("a directory is there twice")),
        }
    }

    fn remove(&mut self, ino: Ino) -> Result<(), Untrue> {
        let node = self.nodes.remove(&ino);
        self.in_place -= usize::from(node.as_ref().is_some_and(|node| node.in_place().is_some()));
        let directory = self.directories.remove(&ino);
        self.xattrs.remove(&ino);
        if let Some(Directory { first, count: 1.., .. }) = directory {
            self.blocks.remove(&first);
        }
        if node.is_none() && directory.is_none() { Err(Untrue("no such file is to go")) } else { Ok(()) }
    }

    fn name(&mut self, directory: Ino, name: Name, named: Named) -> Result<(), Untrue> {
        let directory = self.directory_mut(directory)?;
        if named.cookie >= OWN_COOKIES {
            let before = directory.order.insert(named.cookie, name.clone());
            if before.is_some_and(|before| before != name) {
                return Err(Untrue("two names have one place"));
            }
        }
        let before = directory.names.insert(name, named);
        if let Some(before) = before
            && before.cookie != named.cookie
        {
            directory.order.remove(&before.cookie);
        }
        Ok(())
    }

    fn directory_mut(&mut self, ino: Ino) -> Result<&mut Directory, Untrue> {
        self.directories.get_mut(&ino).ok_or(Untrue("it is of no directory that was looked into"))
    }

    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    pub(crate) fn working_copy(&self) -> Option<&[u8]> {
        self.working_copy.as_deref()
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn node(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    /// How many files are numbered that are seen in place.
    pub(crate) fn in_place(&self) -> usize {
        self.in_place
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (Ino, &Node)> {
        self.nodes.iter().map(|(ino, node)| (*ino, node))
    }

    pub(crate) fn directory(&self, ino: Ino) -> Option<&Directory> {
        self.directories.get(&ino)
    }

    pub(crate) fn directories(&self) -> impl Iterator<Item = (Ino, &Directory)> {
        self.directories.iter().map(|(ino, directory)| (*ino, directory))
    }

    pub(crate) fn xattrs(&self, ino: Ino) -> Option<&Xattrs> {
        self.xattrs.get(&ino)
    }

    pub(crate) fn unanswered(&self) -> &BTreeMap<u64, Ino> {
        &self.unanswered
    }

    /// In whose block a number is, and which entry of its tree.
    pub(crate) fn block_of(&self, ino: Ino) -> Option<(Ino, u32)> {
        let (first, owner) = self.blocks.range(..=ino.0).next_back()?;
        let number = u32::try_from(ino.0 - first).ok()?;
        (number < self.directories.get(owner)?.count).then_some((*owner, number))
    }
}

/// What a file's attributes take, as [`XATTR_BYTES_MAX`] counts.
pub(crate) fn bytes_of(xattrs: &Xattrs) -> usize {
    xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
}

#[cfg(test)]
mod tests;
