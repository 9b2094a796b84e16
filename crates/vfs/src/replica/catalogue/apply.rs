//! What the system has made or changed in its copy, done on the machine.

use std::io::{self, Read};

use super::super::item::{Entry, Item, ItemId, Kind, SideName, Token};
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

/// What is to be made.
#[derive(Clone, Copy)]
struct Making<'a> {
    /// Of an item that is gone, under which it is there again.
    id: Option<ItemId>,
    new: &'a New<'a>,
    naming: Naming,
}

impl Catalogue {
    /// Makes what is new. `content` is read for files and links.
    pub fn create(
        &mut self,
        machine: &mut impl Machine,
        new: &New<'_>,
        content: Content<'_>,
    ) -> Result<Answer<Applied>> {
        self.make(machine, Making { id: None, new, naming: Naming::Own }, content)
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
            answered!(self.refresh(machine, &directories)?);
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
                let making = Making { id: Some(id), new: &change.new, naming: Naming::Own };
                self.make(machine, making, content)
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
        if change.is_moved && change.base.is_same_place(&now) {
            answered!(self.relocate(machine, item, &change.new)?);
        }
        if change.is_mode && change.base.is_same_mode(&now) {
            answered!(self.set_mode(machine, item.id, change.new.mode)?);
        }
        let Some(item) = self.item(item.id)? else { return Ok(Err(Refusal::Changed)) };
        match &mut change.content {
            Some(content) if item.kind != Kind::Directory => {
                self.write(machine, &item, &change.base, &change.new, *content)
            }
            _ => Ok(Ok(done(item))),
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
        // Under the same name here, which may be another than on the machine, it keeps that if it can.
        let is_same_name = *here.name == *new.name;
        let name = if is_same_name && !self.is_taken(item.id, new.parent, new.name, &there.name)? {
            there.name.clone()
        } else {
            answered!(self.free_name_there(item.id, new)?)
        };
        if there.is_at(new.parent, &name) {
            // Only here it was called otherwise, and need not be any more.
            self.replica.database.write(|rows| rows.give_name(item.id))?;
            return Ok(Ok(()));
        }
        let Some(at) = self.at(machine, item)? else { return Ok(Err(Refusal::Changed)) };
        let entry = answered!(machine.rename(&at, &directory, &name));
        Ok(self.adopt(Some(item.id), item.kind, new.parent, entry)?.map(drop))
    }

    /// What an item is called on the machine in its new place: as it is here, or by a conflict name.
    fn free_name_there(&mut self, item: ItemId, new: &New<'_>) -> Result<Answer<Box<[u8]>>> {
        let mut tried = Vec::new();
        loop {
            let name = answered!(self.next_name(new, Naming::Own, &tried)?);
            let there = answered!(self.name_there(&name)?);
            if !self.is_taken(item, new.parent, &name, &there)? {
                return Ok(Ok(there));
            }
            tried.push(name);
        }
    }

    /// Whether another item has a name here, or one that this computer cannot tell from it, or has a name on the machine. These
    /// may be two: what has an alias here has its own name on the machine all the same.
    fn is_taken(&mut self, item: ItemId, parent: ItemId, here: &[u8], there: &[u8]) -> Result<bool> {
        self.replica.database.write(|rows| {
            let sides = [(SideName::Here, here), (SideName::There, there)];
            for (side, name) in sides {
                if rows.named(side, parent, name)?.is_some_and(|holder| holder.id != item) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Gives an item permissions, unless it has them.
    fn set_mode(&mut self, machine: &mut impl Machine, id: ItemId, mode: u16) -> Result<Answer<()>> {
        let Some(item) = self.item(id)? else { return Ok(Err(Refusal::Changed)) };
        let (Some(at), Some(there)) = (self.at(machine, &item)?, &item.there) else {
            return Ok(Err(Refusal::Changed));
        };
        if there.mode == mode {
            return Ok(Ok(()));
        }
        let entry = answered!(machine.set_mode(&at, mode));
        Ok(self.adopt(Some(id), item.kind, there.parent, entry)?.map(drop))
    }

    fn write(
        &mut self,
        machine: &mut impl Machine,
        item: &Item,
        base: &Base,
        new: &New<'_>,
        content: Content<'_>,
    ) -> Result<Answer<Applied>> {
        let (Some(at), Some(there)) = (self.at(machine, item)?, &item.there) else {
            return Ok(Err(Refusal::Changed));
        };
        let mut reader = answered!(open(content));
        if base.content == there.content {
            let facts = Facts { mode: there.mode, ..facts_of(new) };
            let entry = answered!(machine.replace(&at, &there.content, &facts, &mut *reader));
            return Ok(self.adopt(Some(item.id), item.kind, there.parent, entry)?.map(done));
        }
        if answered!(machine.is_same(&at, &there.content, &mut *reader)) {
            return Ok(Ok(done(item.clone())));
        }
        let name = item.here.as_ref().map(|here| here.name.clone()).unwrap_or_default();
        let beside = New { parent: there.parent, name: &name, ..*new };
        let making = Making { id: None, new: &beside, naming: Naming::Conflict };
        Ok(match answered!(self.make(machine, making, content)?) {
            Applied::Done(copy) => match self.item(item.id)? {
                Some(item) => Ok(Applied::Conflict { item: Box::new(item), copy }),
                None => Err(Refusal::Changed),
            },
            other => Ok(other),
        })
    }

    /// Makes something under its name or a conflict name, unless the machine has the very same under one of them already.
    fn make(
        &mut self,
        machine: &mut impl Machine,
        making: Making<'_>,
        content: Content<'_>,
    ) -> Result<Answer<Applied>> {
        for _ in 0..ATTEMPTS_MAX {
            match self.try_make(machine, making, content)? {
                Err(Refusal::Changed) => {}
                answer => return Ok(answer),
            }
            answered!(self.refresh(machine, &[making.new.parent])?);
        }
        Ok(Err(Refusal::Changed))
    }

    fn try_make(
        &mut self,
        machine: &mut impl Machine,
        Making { id, new, naming }: Making<'_>,
        content: Content<'_>,
    ) -> Result<Answer<Applied>> {
        let mut tried = Vec::new();
        let name = loop {
            let name = answered!(self.next_name(new, naming, &tried)?);
            let Some(holder) = self.holder(new.parent, &name)? else { break name };
            if !answered!(self.is_one(machine, &holder, new, content)?) {
                tried.push(name);
                continue;
            }
            if let Some(id) = id {
                // What is handed over for an item that is gone, and is there as another one, is not lost.
                return Ok(Ok(Applied::Gone(id)));
            }
            if holder.kind == Kind::Directory {
                // The system knows nothing of what is in it, and does not mean that when it removes it.
                answered!(self.refresh(machine, &[holder.id])?);
            }
            return Ok(Ok(done(holder)));
        };
        let Some(directory) = self.locate(machine, new.parent)? else {
            return Ok(Ok(Applied::Gone(new.parent)));
        };
        let name = answered!(self.name_there(&name)?);
        let facts = facts_of(new);
        let made = match new.kind {
            Kind::Directory => machine.make_directory(&directory, &name, new.mode),
            Kind::File | Kind::Symlink => open(content)
                .and_then(|mut reader| machine.make_file(&directory, &name, &facts, &mut *reader)),
        };
        let entry = answered!(made);
        let item = self.replica.database.write(|rows| {
            let item = rows.adopt(id, new.kind, new.parent, entry)?;
            if let Some(item) = item.as_ref().filter(|_| new.kind == Kind::Directory) {
                rows.set_listed(item.id)?;
            }
            Ok(item)
        })?;
        Ok(item.map(done).ok_or(Refusal::Changed))
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
        Ok(open(content).and_then(|mut reader| machine.is_same(&at, &there.content, &mut *reader)))
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
        entry: Entry,
    ) -> Result<Answer<Item>> {
        let item = self.replica.database.write(|rows| rows.adopt(id, kind, parent, entry))?;
        Ok(item.ok_or(Refusal::Changed))
    }
}

fn open(content: Content<'_>) -> Answer<Box<dyn Read>> {
    content().map_err(|error| Refusal::Refused(format!("could not read what is to be sent: {error}")))
}

fn done(item: Item) -> Applied {
    Applied::Done(Box::new(item))
}

fn facts_of(new: &New<'_>) -> Facts {
    Facts { is_symlink: new.kind == Kind::Symlink, mode: new.mode, size: new.size, content: Token::default() }
}
