//! What the system has removed from its copy, removed on the machine.

use std::collections::{HashMap, HashSet};

use super::super::Result;
use super::super::item::{Item, ItemId, Kind, SideName, Token};
use super::super::look::lose;
use super::super::side::{Answer, Refusal};
use super::{ATTEMPTS_MAX, Base, Catalogue, Machine};

/// What of a directory is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// An item; a directory only if it is empty.
    Single,
    /// A directory with all that the system knows to be in it.
    Tree,
}

/// What came of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is not on the machine.
    Done,
    /// It has something that the system did not want to remove: so it is now.
    Kept(Box<Item>),
    /// It is a directory, and not empty.
    NotEmpty,
}

impl Catalogue {
    /// Removes an item of which the system had this version. Of a tree all goes that is as the system knows it; what it
    /// may not have been told of stays, with the directories above it.
    pub fn remove(
        &mut self,
        machine: &mut impl Machine,
        id: ItemId,
        base: &Base,
        removal: Removal,
    ) -> Result<Answer<Removed>> {
        let Some(item) = self.replica.item(id)?.filter(|item| item.there.is_some()) else {
            return Ok(Ok(Removed::Done));
        };
        match (item.kind, removal) {
            (Kind::Directory, Removal::Tree) => self.remove_tree(machine, id),
            (Kind::Directory, Removal::Single) => self.remove_directory(machine, id),
            (Kind::File | Kind::Symlink, _) => self.remove_file(machine, id, &base.content),
        }
    }

    fn remove_file(
        &mut self,
        machine: &mut impl Machine,
        id: ItemId,
        wanted: &Token,
    ) -> Result<Answer<Removed>> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(item) = self.replica.item(id)? else { return Ok(Ok(Removed::Done)) };
            let Some(there) = item.there.clone() else { return Ok(Ok(Removed::Done)) };
            if there.content != *wanted {
                return Ok(Ok(Removed::Kept(Box::new(item))));
            }
            match self.remove_one(machine, &item)? {
                Ok(()) => return Ok(Ok(Removed::Done)),
                Err(Refusal::Changed) => {}
                Err(refusal) => return Ok(Err(refusal)),
            }
            answered!(self.refresh(machine, &[there.parent])?);
        }
        Ok(Err(Refusal::Changed))
    }

    fn remove_directory(&mut self, machine: &mut impl Machine, id: ItemId) -> Result<Answer<Removed>> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(item) = self.replica.item(id)? else { return Ok(Ok(Removed::Done)) };
            let Some(there) = item.there.clone() else { return Ok(Ok(Removed::Done)) };
            match self.remove_one(machine, &item)? {
                Ok(()) => return Ok(Ok(Removed::Done)),
                Err(Refusal::Changed) => {}
                Err(refusal) => return Ok(Err(refusal)),
            }
            // It is elsewhere, or it is not empty.
            answered!(self.refresh(machine, &[there.parent, id])?);
            let is_empty = self.replica.database.write(|rows| rows.children(SideName::There, id))?.is_empty();
            if !is_empty {
                return Ok(Ok(Removed::NotEmpty));
            }
        }
        Ok(Err(Refusal::Changed))
    }

    fn remove_tree(&mut self, machine: &mut impl Machine, id: ItemId) -> Result<Answer<Removed>> {
        let mut is_kept = false;
        let mut waiting = vec![(id, false)];
        while let Some((at, is_done_below)) = waiting.pop() {
            if is_done_below {
                is_kept |= answered!(self.remove_directory(machine, at)?) != Removed::Done;
                continue;
            }
            let told = self.told(at)?;
            let answer = self.refresh(machine, &[at])?;
            if told.is_none() {
                // The system was told of nothing in it by this, and means whatever is in it if it has to ask again.
                self.replica.database.write(|rows| rows.set_unlisted(at))?;
            }
            answered!(answer);
            waiting.push((at, true));
            for child in self.replica.database.write(|rows| rows.children(SideName::There, at))? {
                let is_wanted = match &told {
                    None => child.there.as_ref().map(|there| there.content.clone()),
                    Some(told) => told.get(&child.id).cloned(),
                };
                match is_wanted {
                    None => is_kept = true,
                    Some(_) if child.kind == Kind::Directory => waiting.push((child.id, false)),
                    Some(content) => {
                        let removed = answered!(self.remove_file(machine, child.id, &content)?);
                        is_kept |= removed != Removed::Done;
                    }
                }
            }
        }
        Ok(Ok(match self.item(id)? {
            Some(item) if is_kept => Removed::Kept(Box::new(item)),
            _ => Removed::Done,
        }))
    }

    /// What the system knows of a directory, by content: what has not changed since it asked for changes last. None of one that was
    /// never looked at: whoever removes it means whatever is in it.
    fn told(&mut self, directory: ItemId) -> Result<Option<HashMap<ItemId, Token>>> {
        self.replica.database.write(|rows| {
            if !rows.is_listed(directory)? {
                return Ok(None);
            }
            let children = rows.unchanged_children(directory)?.into_iter();
            Ok(Some(children.filter_map(|item| Some((item.id, item.there?.content))).collect()))
        })
    }

    fn remove_one(&mut self, machine: &mut impl Machine, item: &Item) -> Result<Answer<()>> {
        let (Some(at), Some(there)) = (self.at(machine, item)?, &item.there) else {
            return Ok(Err(Refusal::Changed));
        };
        answered!(machine.remove(&at, &there.content, None));
        self.replica.database.write(|rows| {
            lose(rows, SideName::There, item.id, &HashSet::new())?;
            rows.show_all()
        })?;
        Ok(Ok(()))
    }
}
