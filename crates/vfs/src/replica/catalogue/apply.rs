//! What the system has made or changed in its copy, done on the machine.

use std::io::{self, Read};

use super::super::item::{Item, ItemId, Kind, Seen, SideName, Token};
use super::super::side::{Answer, Facts, Refusal};
use super::super::{ReplicaError, Result};
use super::{ATTEMPTS_MAX, Catalogue, Machine};

/// Opens the bytes of a file that the system hands over, from their beginning: they may be needed more than once.
pub type Content<'a> = &'a mut dyn FnMut() -> io::Result<Box<dyn Read>>;

/// How many bytes say where an item is and what its permissions are, see [`Base::metadata`].
pub const METADATA_BYTES: usize = 16;

/// The version that a change was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// The machine's version of the content.
    pub content: Token,
    /// `METADATA_BYTES` bytes: the directory (8, little endian), the CRC-32 of the name here (4), its length (2), permissions (2).
    /// Two names of one length and one checksum count as one name, which decides only whose rename stands.
    pub metadata: Box<[u8]>,
}

impl Base {
    /// The version that an item has now, as it is kept by the system.
    pub fn of(item: &Item) -> Base {
        let Some(here) = &item.here else { return Base::default() };
        let mut metadata = Vec::with_capacity(METADATA_BYTES);
        metadata.extend(here.parent.0.to_le_bytes());
        metadata.extend(crc32fast::hash(&here.name).to_le_bytes());
        metadata.extend((here.name.len() as u16).to_le_bytes());
        metadata.extend(here.mode.to_le_bytes());
        Base { content: here.content.clone(), metadata: metadata.into() }
    }

    /// The permissions that the item had.
    pub fn mode(&self) -> Option<u16> {
        Some(u16::from_le_bytes(self.metadata.get(14..METADATA_BYTES)?.try_into().ok()?))
    }

    fn is_same_place(&self, other: &Base) -> bool {
        self.metadata.get(..14) == other.metadata.get(..14)
    }

    fn is_same_mode(&self, other: &Base) -> bool {
        self.metadata.get(14..) == other.metadata.get(14..)
    }
}

/// Something that the system has and the machine has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct New<'a> {
    /// In which directory.
    pub parent: ItemId,
    /// Its name here.
    pub name: &'a [u8],
    /// What it is.
    pub kind: Kind,
    /// Permissions.
    pub mode: u16,
    /// How many bytes there will be; 0 for a directory.
    pub size: u64,
}

/// What the system has changed of an item: what is absent is as it was. It may be that only some of it has come to be when this is cut
/// off; the same change can then be handed over again.
pub struct Modification<'a> {
    /// The version that the change was made from.
    pub base: Base,
    /// As it is to be: used where the item is gone, and what is changed of it is its content.
    pub new: New<'a>,
    /// Whether its directory or its name is another.
    pub is_moved: bool,
    /// Whether its permissions are others.
    pub is_mode: bool,
    /// Its content, if it is another.
    pub content: Option<Content<'a>>,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was done, or what was done there before stands: the item is so now. Whoever has other bytes than those of its version
    /// fetches them.
    Done(Box<Item>),
    /// The machine's bytes stand, and are to be fetched; the system's are in another item beside it.
    Conflict {
        /// As the machine has it.
        item: Box<Item>,
        /// With what the system had.
        copy: Box<Item>,
    },
    /// There is no such item any more: the item itself, or the directory that it was to be in.
    Gone(ItemId),
}

/// Which names a file may have on the machine: its own, or only that of a conflict.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    Own,
    Conflict,
}

impl Catalogue {
    /// Makes what is new. `content` is read for files and links.
    pub fn create(
        &mut self,
        machine: &mut impl Machine,
        new: &New<'_>,
        content: Content<'_>,
    ) -> Result<Answer<Applied>> {
        self.make(machine, None, new, Naming::Own, content)
    }

    /// Changes what is there.
    pub fn modify(
        &mut self,
        machine: &mut impl Machine,
        id: ItemId,
        mut change: Modification<'_>,
    ) -> Result<Answer<Applied>> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(item) = self.item(id)? else { return self.modify_gone(machine, id, change) };
            let answer = self.try_modify(machine, &item, &mut change)?;
            match answer {
                Err(Refusal::Changed) => {}
                answer => return Ok(answer),
            }
            let mut directories = vec![item.there.map_or(ItemId::ROOT, |there| there.parent)];
            if change.is_moved {
                directories.push(change.new.parent);
            }
            if let Err(refusal) = self.refresh(machine, &directories)? {
                return Ok(Err(refusal));
            }
        }
        Ok(Err(Refusal::Changed))
    }

    /// What was written stays, in its directory. All else of what is gone is gone.
    fn modify_gone(
        &mut self,
        machine: &mut impl Machine,
        id: ItemId,
        change: Modification<'_>,
    ) -> Result<Answer<Applied>> {
        match change.content {
            Some(content) if change.new.kind != Kind::Directory => {
                self.make(machine, Some(id), &change.new, Naming::Own, content)
            }
            _ => Ok(Ok(Applied::Gone(id))),
        }
    }

    fn try_modify(
        &mut self,
        machine: &mut impl Machine,
        item: &Item,
        change: &mut Modification<'_>,
    ) -> Result<Answer<Applied>> {
        let now = Base::of(item);
        if change.is_moved
            && change.base.is_same_place(&now)
            && let Err(refusal) = self.relocate(machine, item, &change.new)?
        {
            return Ok(Err(refusal));
        }
        let is_mode = change.is_mode && change.base.is_same_mode(&now);
        if let Some(here) = &item.here
            && is_mode
            && here.mode != change.new.mode
        {
            let Some(item) = self.item(item.id)? else { return Ok(Err(Refusal::Changed)) };
            let (Some(at), parent) = (self.at(machine, &item)?, parent_of(&item)) else {
                return Ok(Err(Refusal::Changed));
            };
            let set = match machine.set_mode(&at, change.new.mode) {
                Ok(entry) => self.adopt(Some(item.id), item.kind, parent, entry)?,
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = set {
                return Ok(Err(refusal));
            }
        }
        let Some(item) = self.item(item.id)? else { return Ok(Err(Refusal::Changed)) };
        match &mut change.content {
            Some(content) if item.kind != Kind::Directory => {
                self.write(machine, &item, &change.base, &change.new, *content)
            }
            _ => Ok(Ok(Applied::Done(Box::new(item)))),
        }
    }

    /// Gives an item its new place, or a conflict name there. Where that cannot be because of what the machine has, it stays.
    fn relocate(&mut self, machine: &mut impl Machine, item: &Item, new: &New<'_>) -> Result<Answer<()>> {
        let (Some(here), Some(there)) = (&item.here, &item.there) else { return Ok(Err(Refusal::Changed)) };
        let Some(directory) = self.locate(machine, new.parent)? else { return Ok(Ok(())) };
        if here.is_at(new.parent, new.name)
            || self.replica.database.write(|rows| rows.is_within(new.parent, item.id))?
        {
            return Ok(Ok(()));
        }
        let mut tried = Vec::new();
        loop {
            let name = match self.next_name(new, Naming::Own, &tried)? {
                Ok(name) => name,
                Err(refusal) => return Ok(Err(refusal)),
            };
            if self.holder(new.parent, &name)?.is_some_and(|holder| holder.id != item.id) {
                tried.push(name);
                continue;
            }
            // Under the same name here, which may be another than on the machine, it keeps that.
            let name = if *name == *here.name { Ok(there.name.clone()) } else { self.name_there(&name)? };
            let name = match name {
                Ok(name) => name,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let Some(at) = self.at(machine, item)? else { return Ok(Err(Refusal::Changed)) };
            return match machine.rename(&at, &directory, &name) {
                Ok(entry) => {
                    self.adopt(Some(item.id), item.kind, new.parent, entry).map(|answer| answer.map(drop))
                }
                Err(refusal) => Ok(Err(refusal)),
            };
        }
    }

    fn write(
        &mut self,
        machine: &mut impl Machine,
        item: &Item,
        base: &Base,
        new: &New<'_>,
        content: Content<'_>,
    ) -> Result<Answer<Applied>> {
        let (Some(at), Some(there)) = (self.at(machine, item)?, item.there.clone()) else {
            return Ok(Err(Refusal::Changed));
        };
        let mut reader = match open(content) {
            Ok(reader) => reader,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if base.content == there.content {
            let facts = Facts { mode: there.mode, ..facts_of(new) };
            return match machine.replace(&at, &there.content, &facts, &mut *reader) {
                Ok(entry) => self
                    .adopt(Some(item.id), item.kind, there.parent, entry)
                    .map(|answer| answer.map(|item| Applied::Done(Box::new(item)))),
                Err(refusal) => Ok(Err(refusal)),
            };
        }
        match machine.is_same(&at, &there.content, &mut *reader) {
            Ok(true) => return Ok(Ok(Applied::Done(Box::new(item.clone())))),
            Ok(false) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
        let name = item.here.as_ref().map(|here| here.name.clone()).unwrap_or_default();
        let beside = New { parent: there.parent, name: &name, ..*new };
        Ok(match self.make(machine, None, &beside, Naming::Conflict, content)? {
            Ok(Applied::Done(copy)) => match self.item(item.id)? {
                Some(item) => Ok(Applied::Conflict { item: Box::new(item), copy }),
                None => Err(Refusal::Changed),
            },
            other => other,
        })
    }

    /// Makes something under its name or a conflict name, unless the machine has the very same under one of them already.
    fn make(
        &mut self,
        machine: &mut impl Machine,
        id: Option<ItemId>,
        new: &New<'_>,
        naming: Naming,
        content: Content<'_>,
    ) -> Result<Answer<Applied>> {
        for _ in 0..ATTEMPTS_MAX {
            match self.try_make(machine, id, new, naming, content)? {
                Err(Refusal::Changed) => {}
                answer => return Ok(answer),
            }
            if let Err(refusal) = self.refresh(machine, &[new.parent])? {
                return Ok(Err(refusal));
            }
        }
        Ok(Err(Refusal::Changed))
    }

    fn try_make(
        &mut self,
        machine: &mut impl Machine,
        id: Option<ItemId>,
        new: &New<'_>,
        naming: Naming,
        content: Content<'_>,
    ) -> Result<Answer<Applied>> {
        let mut tried = Vec::new();
        let name = loop {
            let name = match self.next_name(new, naming, &tried)? {
                Ok(name) => name,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let Some(holder) = self.holder(new.parent, &name)? else { break name };
            match self.is_one(machine, &holder, new, content)? {
                // What is handed over for an item that is gone, and is there as another one, is not lost.
                Ok(true) if id.is_some() => return Ok(Ok(Applied::Gone(id.unwrap_or(holder.id)))),
                Ok(true) if holder.kind == Kind::Directory => {
                    // The system knows nothing of what is in it, and does not mean that when it removes it.
                    let answer = self.refresh(machine, &[holder.id])?;
                    return Ok(answer.map(|_| Applied::Done(Box::new(holder))));
                }
                Ok(true) => return Ok(Ok(Applied::Done(Box::new(holder)))),
                Ok(false) => tried.push(name),
                Err(refusal) => return Ok(Err(refusal)),
            }
        };
        let Some(directory) = self.locate(machine, new.parent)? else {
            return Ok(Ok(Applied::Gone(new.parent)));
        };
        let name = match self.name_there(&name)? {
            Ok(name) => name,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let made = match new.kind {
            Kind::Directory => machine.make_directory(&directory, &name, new.mode),
            Kind::File | Kind::Symlink => match open(content) {
                Ok(mut reader) => machine.make_file(&directory, &name, &facts_of(new), &mut *reader),
                Err(refusal) => Err(refusal),
            },
        };
        let entry = match made {
            Ok(entry) => entry,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let item = self.replica.database.write(|rows| {
            let item = rows.adopt(id, new.kind, new.parent, entry)?;
            if let Some(item) = item.as_ref().filter(|_| new.kind == Kind::Directory) {
                rows.set_listed(item.id)?;
            }
            Ok(item)
        })?;
        Ok(item.map(|item| Applied::Done(Box::new(item))).ok_or(Refusal::Changed))
    }

    /// Whether what is new is what the machine has under its name.
    fn is_one(
        &mut self,
        machine: &mut impl Machine,
        holder: &Item,
        new: &New<'_>,
        content: Content<'_>,
    ) -> Result<Answer<bool>> {
        if holder.kind != new.kind || holder.kind == Kind::Directory {
            return Ok(Ok(holder.kind == new.kind));
        }
        let (Some(at), Some(there)) = (self.at(machine, holder)?, &holder.there) else {
            return Ok(Err(Refusal::Changed));
        };
        Ok(match open(content) {
            Ok(mut reader) => machine.is_same(&at, &there.content, &mut *reader),
            Err(refusal) => Err(refusal),
        })
    }

    /// The first name, as it is here, that was not tried.
    fn next_name(&mut self, new: &New<'_>, naming: Naming, tried: &[Box<[u8]>]) -> Result<Answer<Box<[u8]>>> {
        if naming == Naming::Own && tried.is_empty() {
            return Ok(Ok(new.name.into()));
        }
        let host = &self.replica.host;
        self.replica.database.write(|rows| {
            let is_tried = |name: &[u8]| Ok::<_, ReplicaError>(tried.iter().any(|tried| **tried == *name));
            let name = rows.rules.conflict_name(new.name, host, is_tried)?;
            Ok(name.ok_or_else(|| Refusal::Refused("all conflict names of it are taken".to_owned())))
        })
    }

    /// Who has a name, or one that this computer cannot tell from it.
    pub(super) fn holder(&mut self, parent: ItemId, name: &[u8]) -> Result<Option<Item>> {
        self.replica.database.write(|rows| {
            if let Some(holder) = rows.named(SideName::Here, parent, name)? {
                return Ok(Some(holder));
            }
            match rows.rules.to_there(name) {
                Ok(there) => rows.named(SideName::There, parent, &there),
                Err(_) => Ok(None),
            }
        })
    }

    fn name_there(&mut self, name: &[u8]) -> Result<Answer<Box<[u8]>>> {
        self.replica.database.write(|rows| Ok(rows.rules.to_there(name)))
    }

    pub(super) fn adopt(
        &mut self,
        id: Option<ItemId>,
        kind: Kind,
        parent: ItemId,
        entry: super::super::item::Entry,
    ) -> Result<Answer<Item>> {
        let item = self.replica.database.write(|rows| rows.adopt(id, kind, parent, entry))?;
        Ok(item.ok_or(Refusal::Changed))
    }
}

fn open(content: Content<'_>) -> Answer<Box<dyn Read>> {
    content().map_err(|error| Refusal::Refused(format!("could not read what is to be sent: {error}")))
}

fn parent_of(item: &Item) -> ItemId {
    item.there.as_ref().map_or(ItemId::ROOT, |there: &Seen| there.parent)
}

fn facts_of(new: &New<'_>) -> Facts {
    Facts { is_symlink: new.kind == Kind::Symlink, mode: new.mode, size: new.size, content: Token::default() }
}
