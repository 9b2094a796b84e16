//! What the system may be told, after what the machine has.

use std::collections::HashSet;

use rusqlite::OptionalExtension;

use super::super::database::{Rows, check, number_of};
use super::super::item::{Agreed, Entry, Item, ItemId, Kind, Seen, SideName};
use super::super::look::lose;
use super::super::plan::parked_name;
use super::super::{ReplicaError, Result};
use super::{DEPTH_MAX, PAGE_ITEMS_MAX, Page};

impl Rows<'_> {
    /// Has what is here follow what is there, wherever they differ.
    pub(super) fn show_all(&self) -> Result<()> {
        let mut moved = Vec::new();
        let mut after = 0;
        while let Some((pending, item)) = self.pending_after(after)? {
            after = pending;
            match (&item.here, &item.there) {
                (_, None) => {
                    // What was listed in a directory that is gone by another listing of the same moment is where nobody looks.
                    for child in self.children(SideName::There, item.id)? {
                        lose(self, SideName::There, child.id, &HashSet::new())?;
                    }
                    self.save(&Item { here: None, agreed: None, ..item })?;
                }
                (Some(_), Some(_)) if item.is_moved(SideName::There) => {
                    self.vacate(item.clone())?;
                    moved.push(item.id);
                }
                (None, Some(_)) => moved.push(item.id),
                (Some(here), Some(there)) => {
                    let here =
                        Seen { parent: there.parent, name: here.name.clone(), ..shown(item.id, there) };
                    self.agree(item, here)?;
                }
            }
        }
        for id in moved {
            self.give_name(id)?;
        }
        Ok(())
    }

    /// Has an item give up its name before anybody is looked for who wants it.
    fn vacate(&self, mut item: Item) -> Result<()> {
        if let Some(here) = &mut item.here {
            here.name = parked_name(item.id);
        }
        self.save(&item)
    }

    /// Has an item be called here as it is on the machine, or by an alias.
    pub(super) fn give_name(&self, id: ItemId) -> Result<()> {
        // It may have gone meanwhile with the directory that it was in.
        let Some(item) = self.get(id)? else { return Ok(()) };
        let Some(there) = item.there.clone() else { return Ok(()) };
        let name = match self.rules.to_here(&there.name) {
            Ok(name) => name,
            Err(refusal) => return self.hide(item, refusal.to_string()),
        };
        let is_taken = |name: &[u8]| -> Result<bool> {
            let holder = self.named(SideName::Here, there.parent, name)?;
            Ok(holder.is_some_and(|holder| holder.id != id))
        };
        let name = if is_taken(&name)? { self.rules.alias(&name, is_taken)? } else { Some(name) };
        match name {
            Some(name) => self.agree(item, Seen { name, ..shown(id, &there) }),
            None => self.hide(item, "all names that it could have on this computer are taken".to_owned()),
        }
    }

    fn agree(&self, item: Item, here: Seen) -> Result<()> {
        let Some(there) = &item.there else { return Ok(()) };
        let agreed = Agreed {
            parent: there.parent,
            here: here.name.clone(),
            there: there.name.clone(),
            mode: there.mode,
            content: there.content.clone(),
        };
        self.save(&Item { here: Some(here), agreed: Some(agreed), refused: None, ..item })
    }

    fn hide(&self, item: Item, why: String) -> Result<()> {
        tracing::warn!(item = item.id.0, why, "a file of the machine is not shown");
        self.save(&Item { here: None, agreed: None, refused: Some(why), ..item })
    }

    /// Takes down what the machine has answered to a change: the item is this, and whoever was under its name or its identity by what
    /// was known is not there any more. An item that was gone is there again, under its number. None if the directory was
    /// one of those.
    pub(super) fn adopt(
        &self,
        id: Option<ItemId>,
        kind: Kind,
        parent: ItemId,
        entry: Entry,
    ) -> Result<Option<Item>> {
        check(&entry)?;
        let holders = [
            self.by_identity(SideName::There, &entry.identity)?,
            self.named(SideName::There, parent, &entry.name)?,
        ];
        for holder in holders.into_iter().flatten().filter(|holder| Some(holder.id) != id) {
            lose(self, SideName::There, holder.id, &HashSet::new())?;
        }
        let seen = Seen::new(parent, entry);
        let id = match id {
            None => self.add(kind, SideName::There, seen)?.id,
            Some(id) => {
                let known = match self.get(id)? {
                    Some(item) => item,
                    None => self.revive(id, kind)?,
                };
                self.save(&Item { there: Some(seen), refused: None, ..known })?;
                id
            }
        };
        self.show_all()?;
        self.get(id)
    }

    fn revive(&self, id: ItemId, kind: Kind) -> Result<Item> {
        self.transaction.execute(
            "INSERT INTO item (id, kind, version_content, version_metadata, changed) VALUES (?1, ?2, 1, 1, 0)",
            [id.0, number_of(kind)],
        )?;
        self.known(id)
    }

    /// Items by their numbers, of a directory or of all.
    pub(super) fn page(&self, directory: Option<ItemId>, after: ItemId) -> Result<Page> {
        let mut items = match directory {
            Some(directory) => self.all(
                "here_parent = ?1 AND id > ?2 AND id != 1 ORDER BY id LIMIT ?3",
                [directory.0, after.0, PAGE_ITEMS_MAX as i64 + 1],
            )?,
            None => self.all(
                "here_identity IS NOT NULL AND id > ?1 AND id != 1 ORDER BY id LIMIT ?2",
                [after.0, PAGE_ITEMS_MAX as i64 + 1],
            )?,
        };
        let is_more = items.len() > PAGE_ITEMS_MAX;
        items.truncate(PAGE_ITEMS_MAX);
        let next = items.last().filter(|_| is_more).map(|item| item.id);
        Ok(Page { items, next })
    }

    pub(super) fn is_listed(&self, directory: ItemId) -> Result<bool> {
        let mut statement = self.transaction.prepare_cached("SELECT 1 FROM listed WHERE id = ?1")?;
        Ok(statement.query_row([directory.0], |_| Ok(())).optional()?.is_some())
    }

    pub(super) fn set_listed(&self, directory: ItemId) -> Result<()> {
        let mut statement = self.transaction.prepare_cached("INSERT OR IGNORE INTO listed VALUES (?1)")?;
        statement.execute([directory.0])?;
        Ok(())
    }

    pub(super) fn set_unlisted(&self, directory: ItemId) -> Result<()> {
        self.transaction.execute("DELETE FROM listed WHERE id = ?1", [directory.0])?;
        Ok(())
    }

    /// Takes down that the system has all that had changed until then.
    pub(super) fn set_told(&self, change: i64) -> Result<()> {
        self.transaction.execute(
            "INSERT INTO counter VALUES ('told', ?1) ON CONFLICT (name) DO UPDATE SET value = max(value, ?1)",
            [change],
        )?;
        Ok(())
    }

    /// What is in a directory and has not changed since the system was told last.
    pub(super) fn unchanged_children(&self, directory: ItemId) -> Result<Vec<Item>> {
        let told = "(SELECT value FROM counter WHERE name = 'told')";
        self.all(&format!("there_parent = ?1 AND id != 1 AND changed <= {told} ORDER BY id"), [directory.0])
    }

    /// Also forgets that those were listed that are gone.
    pub(super) fn listed(&self) -> Result<Vec<ItemId>> {
        self.transaction.execute("DELETE FROM listed WHERE id NOT IN (SELECT id FROM item)", [])?;
        let mut statement = self.transaction.prepare_cached(
            "WITH RECURSIVE below (id, depth) AS (SELECT 1, 0 UNION ALL SELECT item.id, depth + 1 FROM item
               JOIN below ON item.there_parent = below.id JOIN listed ON listed.id = item.id WHERE item.id != 1)
             SELECT below.id FROM below JOIN listed ON listed.id = below.id ORDER BY depth, below.id",
        )?;
        let ids = statement.query_map([], |row| row.get(0).map(ItemId))?;
        Ok(ids.collect::<rusqlite::Result<_>>()?)
    }

    /// Whether a directory is an item, or in it.
    pub(super) fn is_within(&self, directory: ItemId, item: ItemId) -> Result<bool> {
        let mut at = directory;
        for _ in 0..DEPTH_MAX {
            if at == item {
                return Ok(true);
            }
            match self.get(at)?.and_then(|item| item.there) {
                Some(there) if at != ItemId::ROOT => at = there.parent,
                _ => return Ok(false),
            }
        }
        Err(ReplicaError::Tangled { item })
    }
}

/// An item as the system may be told of it, but for its name: under its own number.
fn shown(id: ItemId, there: &Seen) -> Seen {
    Seen { identity: id.0.to_le_bytes().into(), edit: None, ..there.clone() }
}
