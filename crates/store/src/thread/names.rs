//! What is done to names. Each is one record.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use super::{Locked, Thread};
use crate::error::fails;
use crate::names::change::Change;
use crate::node::{Attributes, Content, Ino, Kind, LINK_BYTES_MAX, LINKS_MAX, Name, Node, Time, check_name};
use crate::{Refusal, Result};

/// Files that one record says are gone: far below the longest record.
const FORGOTTEN_AT_ONCE: usize = 4096;

/// What a new file is to be. The mode has the user's mask taken from it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct New {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
}

/// What becomes of a file that has lost its last name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// It is open: it stays, until [`Thread::forget`].
    WhileOpen,
    /// Nobody has it.
    Nothing,
}

/// A file that has lost a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Which.
    pub ino: Ino,
    /// How many it has left.
    pub links: u32,
}

/// What a rename does with a file that has the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// It loses it.
    Replace,
    /// It keeps it: the rename is refused.
    NoReplace,
    /// It gets the old name.
    Exchange,
}

impl Thread {
    /// A new, empty regular file, open to be read and written.
    pub fn create(&self, directory: Ino, name: &[u8], new: New, now: Time) -> Result<(Attributes, File)> {
        let (ino, node, file) = {
            let mut locked = self.locked();
            locked.check_new(directory, name)?;
            locked.create(Some((directory, name)), new, now)?
        };
        Ok((self.attributes_of(ino, &node)?, file))
    }

    /// The same without a name, until it is [linked](Thread::link).
    pub fn create_unnamed(&self, new: New, now: Time) -> Result<(Attributes, File)> {
        let (ino, node, file) = self.locked().create(None, new, now)?;
        Ok((self.attributes_of(ino, &node)?, file))
    }

    /// A new, empty directory.
    pub fn make_directory(&self, directory: Ino, name: &[u8], new: New, now: Time) -> Result<Attributes> {
        let mut locked = self.locked();
        locked.check_new(directory, name)?;
        let ino = Ino(locked.state.names.next());
        let more = Change::Directory { ino, parent: directory, tree: None, first: 0, count: 0 };
        locked.make(directory, name, node_of(Content::Directory, 0, new, now), vec![more], now)
    }

    /// A new symlink.
    pub fn symlink(
        &self,
        directory: Ino,
        name: &[u8],
        target: &[u8],
        new: New,
        now: Time,
    ) -> Result<Attributes> {
        if target.is_empty() || target.contains(&0) {
            return Err(Refusal::Invalid.into());
        }
        if target.len() > LINK_BYTES_MAX {
            return Err(Refusal::NameTooLong.into());
        }
        let mut locked = self.locked();
        locked.check_new(directory, name)?;
        let node = node_of(Content::Symlink(target.into()), 0, New { mode: 0o777, ..new }, now);
        locked.make(directory, name, node, Vec::new(), now)
    }

    /// A new fifo, socket or device.
    pub fn make_node(
        &self,
        directory: Ino,
        name: &[u8],
        (kind, device): (Kind, u64),
        new: New,
        now: Time,
    ) -> Result<Attributes> {
        let device = match kind {
            Kind::Fifo | Kind::Socket => 0,
            Kind::CharDevice | Kind::BlockDevice => device,
            Kind::File | Kind::Directory | Kind::Symlink => return Err(Refusal::Invalid.into()),
        };
        let mut locked = self.locked();
        locked.check_new(directory, name)?;
        let node = node_of(Content::Special(kind), device, new, now);
        locked.make(directory, name, node, Vec::new(), now)
    }

    /// Another name for a file that is no directory.
    pub fn link(&self, ino: Ino, directory: Ino, name: &[u8], now: Time) -> Result<Attributes> {
        self.take_over(ino)?;
        let mut locked = self.locked();
        let node = locked.node(ino)?;
        if node.is_directory() {
            return Err(Refusal::NotPermitted.into());
        }
        locked.check_new(directory, name)?;
        if node.links >= LINKS_MAX {
            return Err(Refusal::TooManyLinks.into());
        }
        let node = Node { links: node.links + 1, changed: now, ..node };
        let named = locked.with_name(directory, name, ino)?;
        let mut changes = vec![Change::Node { ino, node: node.clone() }, named];
        locked.touch(directory, now, &mut changes)?;
        locked.conclude(changes, ino)?;
        drop(locked);
        self.attributes_of(ino, &node)
    }

    /// Takes a name from a file that is no directory.
    pub fn unlink(&self, directory: Ino, name: &[u8], remains: Remains, now: Time) -> Result<Removed> {
        let mut locked = self.locked();
        let ino = locked.existing(directory, name)?;
        if locked.node(ino)?.is_directory() {
            return Err(Refusal::IsDirectory.into());
        }
        locked.remove(directory, name, ino, remains, now)
    }

    /// Removes an empty directory.
    pub fn remove_directory(
        &self,
        directory: Ino,
        name: &[u8],
        remains: Remains,
        now: Time,
    ) -> Result<Removed> {
        let mut locked = self.locked();
        let ino = locked.existing(directory, name)?;
        locked.look_into(ino)?;
        if !locked.is_empty(ino)? {
            return Err(Refusal::NotEmpty.into());
        }
        locked.remove(directory, name, ino, remains, now)
    }

    /// Gives a file another name. A directory of the base is not copied. `remains` is of the file that loses its name to it.
    pub fn rename(
        &self,
        (from, old): (Ino, &[u8]),
        (to, new): (Ino, &[u8]),
        mode: RenameMode,
        remains: Remains,
        now: Time,
    ) -> Result<Option<Removed>> {
        self.take_over_named(from, old)?;
        if mode == RenameMode::Exchange {
            self.take_over_named(to, new)?;
        }
        let mut locked = self.locked();
        check_name(new)?;
        let source = locked.existing(from, old)?;
        locked.look_into(to)?;
        locked.check_alive(to)?;
        let target = locked.child(to, new)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Refusal::Taken.into()),
            (RenameMode::Exchange, None) => return Err(Refusal::NoSuchName.into()),
            _ => {}
        }
        locked.check_moved(source, to)?;
        match target {
            Some(target) if target == source => Ok(None),
            Some(target) if mode == RenameMode::Exchange => {
                locked.check_moved(target, from)?;
                locked.exchange((from, old, source), (to, new, target), now)?;
                Ok(None)
            }
            target => {
                if let Some(target) = target {
                    locked.check_replaced(source, target)?;
                }
                locked.replace((from, old, source), (to, new, target), remains, now)
            }
        }
    }

    /// Files without a name are open no more: what there is of them goes, at once of all. Nothing is done with one that has a name.
    pub fn forget(&self, files: &[Ino]) -> Result<()> {
        for files in files.chunks(FORGOTTEN_AT_ONCE) {
            let mut locked = self.locked();
            let node = |ino: &Ino| locked.state.names.node(*ino).filter(|node| node.links == 0);
            let gone: Vec<Ino> = files.iter().copied().filter(|ino| node(ino).is_some()).collect();
            let is_written = |ino: &Ino| node(ino).is_some_and(|node| node.content == Content::Written);
            let written: Vec<Ino> = gone.iter().copied().filter(is_written).collect();
            if gone.is_empty() {
                continue;
            }
            locked.commit(gone.into_iter().map(|ino| Change::Gone { ino }).collect())?;
            written.into_iter().for_each(|ino| locked.condemn(ino));
        }
        Ok(())
    }
}

impl Locked<'_> {
    fn create(&mut self, place: Option<(Ino, &[u8])>, new: New, now: Time) -> Result<(Ino, Node, File)> {
        let ino = Ino(self.state.names.next());
        let node = Node { links: place.is_some().into(), ..node_of(Content::Written, 0, new, now) };
        let mut changes = vec![Change::Node { ino, node: node.clone() }];
        if let Some((directory, name)) = place {
            changes.push(self.with_name(directory, name, ino)?);
            self.touch(directory, now, &mut changes)?;
        }
        let path = self.thread.plain(ino);
        // There may be what a process has left that died before it said so.
        let made =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = made.map_err(fails("make", &path))?;
        self.state.made += 1;
        let committed = self.conclude(changes, ino);
        if committed.is_err() {
            self.thread.remove_plain(ino);
        }
        committed.map(|()| (ino, node, file))
    }

    fn make(
        &mut self,
        directory: Ino,
        name: &[u8],
        node: Node,
        more: Vec<Change>,
        now: Time,
    ) -> Result<Attributes> {
        let ino = Ino(self.state.names.next());
        let attributes = node.attributes(ino);
        let mut changes = vec![Change::Node { ino, node }];
        changes.extend(more);
        changes.push(self.with_name(directory, name, ino)?);
        self.touch(directory, now, &mut changes)?;
        self.conclude(changes, ino)?;
        Ok(attributes)
    }

    fn remove(
        &mut self,
        directory: Ino,
        name: &[u8],
        ino: Ino,
        remains: Remains,
        now: Time,
    ) -> Result<Removed> {
        let mut changes = vec![self.without_name(directory, name)?];
        self.touch(directory, now, &mut changes)?;
        let (removed, plain) = self.lose_name(ino, remains, now, &mut changes)?;
        self.conclude(changes, ino)?;
        plain.into_iter().for_each(|ino| self.condemn(ino));
        Ok(removed)
    }

    fn replace(
        &mut self,
        (from, old, source): (Ino, &[u8], Ino),
        (to, new, target): (Ino, &[u8], Option<Ino>),
        remains: Remains,
        now: Time,
    ) -> Result<Option<Removed>> {
        let mut changes = vec![self.without_name(from, old)?];
        let (mut removed, mut plain) = (None, None);
        if let Some(target) = target {
            let (lost, of) = self.lose_name(target, remains, now, &mut changes)?;
            (removed, plain) = (Some(lost), of);
        }
        changes.extend(self.moved((source, to), now)?);
        changes.push(self.with_name(to, new, source)?);
        self.touch(from, now, &mut changes)?;
        if from != to {
            self.touch(to, now, &mut changes)?;
        }
        self.conclude(changes, source)?;
        plain.into_iter().for_each(|ino| self.condemn(ino));
        Ok(removed)
    }

    fn exchange(
        &mut self,
        (from, old, source): (Ino, &[u8], Ino),
        (to, new, target): (Ino, &[u8], Ino),
        now: Time,
    ) -> Result<()> {
        let mut changes = self.moved((source, to), now)?;
        changes.extend(self.moved((target, from), now)?);
        changes.push(self.with_name(to, new, source)?);
        changes.push(self.with_name(from, old, target)?);
        self.touch(from, now, &mut changes)?;
        if from != to {
            self.touch(to, now, &mut changes)?;
        }
        self.conclude(changes, source)
    }

    /// What moving a file into this directory changes of the file.
    fn moved(&mut self, (ino, to): (Ino, Ino), now: Time) -> Result<Vec<Change>> {
        let node = self.node(ino)?;
        if node.in_place().is_some() {
            // It was the thread's own a moment ago, and another has taken its place.
            return Err(Refusal::Changing.into());
        }
        let mut changes = Vec::new();
        if node.is_directory() && self.directory(ino)?.parent != to {
            changes.push(Change::Parent { ino, parent: to });
        }
        changes.push(Change::Node { ino, node: Node { changed: now, ..node } });
        Ok(changes)
    }

    /// What losing a name changes of a file; and whose plain file goes with it.
    fn lose_name(
        &self,
        ino: Ino,
        remains: Remains,
        now: Time,
        changes: &mut Vec<Change>,
    ) -> Result<(Removed, Option<Ino>)> {
        let node = self.node(ino)?;
        let links = node.links.saturating_sub(1);
        if links > 0 || remains == Remains::WhileOpen {
            changes.push(Change::Node { ino, node: Node { links, changed: now, ..node } });
            return Ok((Removed { ino, links }, None));
        }
        if self.state.names.node(ino).is_some() || self.state.names.directory(ino).is_some() {
            changes.push(Change::Gone { ino });
        }
        let plain = (node.content == Content::Written).then_some(ino);
        Ok((Removed { ino, links }, plain))
    }

    fn with_name(&self, directory: Ino, name: &[u8], ino: Ino) -> Result<Change> {
        let in_it = self.directory(directory)?;
        let cookie = match (self.number_in_base(directory, name)?, in_it.named(name)) {
            (Some(number), _) => u64::from(number) + 1,
            (None, Some(named)) if named.ino.is_some() => named.cookie,
            (None, _) => in_it.next_cookie(),
        };
        Ok(Change::Name { directory, name: name.into(), ino, cookie })
    }

    fn without_name(&self, directory: Ino, name: &[u8]) -> Result<Change> {
        let number = self.number_in_base(directory, name)?;
        let returns = number.is_some() || self.would_return(directory, name)?;
        let name: Name = name.into();
        Ok(match returns {
            true => Change::Whiteout { directory, name },
            false => Change::Unnamed { directory, name },
        })
    }

    /// A directory whose names have changed.
    fn touch(&self, directory: Ino, now: Time, changes: &mut Vec<Change>) -> Result<()> {
        self.pin(directory, changes);
        // Of one that was seen in place, and has gone there, what was known of it.
        let known = || self.state.names.node(directory).cloned();
        let node = self.node(directory).or_else(|error| known().ok_or(error))?;
        let content = Content::Directory;
        changes.push(Change::Node {
            ino: directory,
            node: Node { content, modified: now, changed: now, ..node },
        });
        Ok(())
    }

    fn existing(&mut self, directory: Ino, name: &[u8]) -> Result<Ino> {
        check_name(name)?;
        self.look_into(directory)?;
        Ok(self.child(directory, name)?.ok_or(Refusal::NoSuchName)?)
    }

    fn check_new(&mut self, directory: Ino, name: &[u8]) -> Result<()> {
        check_name(name)?;
        self.look_into(directory)?;
        self.check_alive(directory)?;
        match self.child(directory, name)? {
            Some(_) => Err(Refusal::Taken.into()),
            None => Ok(()),
        }
    }

    /// Nothing is put into a directory that was removed.
    fn check_alive(&self, directory: Ino) -> Result<()> {
        if self.node(directory)?.links == 0 { Err(Refusal::NoSuchName.into()) } else { Ok(()) }
    }

    /// Whether a file can be in this directory: a directory cannot be within itself.
    fn check_moved(&mut self, ino: Ino, to: Ino) -> Result<()> {
        if !self.node(ino)?.is_directory() {
            return Ok(());
        }
        self.look_into(ino)?;
        let mut at = to;
        while at != Ino::ROOT {
            if at == ino {
                return Err(Refusal::Invalid.into());
            }
            at = self.directory(at)?.parent;
        }
        Ok(())
    }

    fn check_replaced(&mut self, source: Ino, target: Ino) -> Result<()> {
        match (self.node(source)?.is_directory(), self.node(target)?.is_directory()) {
            (false, true) => return Err(Refusal::IsDirectory.into()),
            (true, false) => return Err(Refusal::NotDirectory.into()),
            (false, false) => return Ok(()),
            (true, true) => self.look_into(target)?,
        }
        if self.is_empty(target)? { Ok(()) } else { Err(Refusal::NotEmpty.into()) }
    }

    fn is_empty(&mut self, directory: Ino) -> Result<bool> {
        self.meet_all(directory)?;
        let in_it = self.directory(directory)?;
        if in_it.names().any(|(_, named)| named.ino.is_some()) {
            return Ok(false);
        }
        // The rest are whiteouts, and as many of them of the tree as it has names.
        let index = self.index(directory)?.unwrap_or_default();
        let gone = in_it.names().filter(|(name, _)| index.find(name).is_some());
        Ok(gone.count() == in_it.count as usize)
    }
}

fn node_of(content: Content, device: u64, New { mode, uid, gid }: New, now: Time) -> Node {
    Node {
        content,
        mode: mode & 0o7777,
        uid,
        gid,
        links: 1,
        device,
        accessed: now,
        modified: now,
        changed: now,
    }
}
