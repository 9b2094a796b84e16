//! What stands for the system in tests: a copy of the tree on a disk in memory, what each file of it was last known to be, and the
//! order in which changes are handed over. Users work on that disk, and nobody waits for anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use super::super::fake::{Disk, ROOT};
use super::super::item::{Identity, Item, ItemId, Kind};
use super::super::side::{Answer, Refusal};
use super::super::{Anchor, Result};
use super::{Applied, Base, Catalogue, Machine, Modification, New, Removal, Removed};

impl Machine for Disk {
    fn place(&mut self, _: &Identity, _: &[Box<[u8]>]) {}
}

/// What the system knows of a file that it has.
#[derive(Clone, Debug)]
struct Known {
    id: ItemId,
    base: Base,
    parent: u64,
    name: Vec<u8>,
    mode: u16,
}

pub(super) struct System {
    pub(super) disk: Disk,
    known: BTreeMap<u64, Known>,
    /// Kept with each number of an item.
    epoch: i64,
    anchor: Option<Anchor>,
}

impl System {
    pub(super) fn new(disk: Disk) -> System {
        System { disk, known: BTreeMap::new(), epoch: 0, anchor: None }
    }

    fn node(&self, id: ItemId) -> Option<u64> {
        if id == ItemId::ROOT {
            return Some(ROOT);
        }
        self.known.iter().find(|(_, known)| known.id == id).map(|(node, _)| *node)
    }

    fn id(&self, node: u64) -> Option<ItemId> {
        if node == ROOT { Some(ItemId::ROOT) } else { self.known.get(&node).map(|known| known.id) }
    }

    /// Which item each file is, of those that are the same as was last known.
    pub(super) fn settled(&self) -> BTreeMap<ItemId, u64> {
        let is_same = |(node, known): &(&u64, &Known)| {
            self.disk.nodes.get(node).is_some_and(|now| {
                (now.parent, &now.name, now.mode, now.edit) == (known.parent, &known.name, known.mode, None)
            })
        };
        self.known.iter().filter(is_same).map(|(node, known)| (known.id, *node)).collect()
    }

    /// Asks for changes, or for everything. Whether there were any.
    pub(super) fn pull(&mut self, catalogue: &mut Catalogue, machine: &mut Disk) -> Result<Answer<bool>> {
        let mut is_any = false;
        loop {
            if catalogue.epoch()? != self.epoch {
                // Another database's numbers mean nothing: all that is here is new to it.
                self.epoch = catalogue.epoch()?;
                self.known.clear();
            }
            let Some(anchor) = self.anchor else { return self.list_all(catalogue, machine) };
            let anchor = Anchor::from_bytes(&anchor.to_bytes());
            let Ok(changes) = catalogue.changes(anchor)? else {
                self.anchor = None;
                continue;
            };
            assert!(changes.changed.len() + changes.gone.len() <= super::super::changes::CHANGES_MAX);
            is_any |= !changes.changed.is_empty() || !changes.gone.is_empty();
            let mut waiting = changes.changed;
            // Those in directories that are told of later.
            for _ in 0..=waiting.len() {
                waiting.retain(|item| !self.show(item));
            }
            self.lose(&changes.gone);
            self.anchor = Some(changes.anchor).filter(|_| waiting.is_empty() && self.anchor.is_some());
            if !changes.is_more {
                return self.open_all(catalogue, machine).map(|answer| answer.map(|opened| opened || is_any));
            }
        }
    }

    fn list_all(&mut self, catalogue: &mut Catalogue, machine: &mut Disk) -> Result<Answer<bool>> {
        let anchor = catalogue.anchor()?;
        if let Err(refusal) = catalogue.refresh(machine, &[ItemId::ROOT])? {
            return Ok(Err(refusal));
        }
        self.anchor = Some(anchor);
        let (mut waiting, mut seen) = (Vec::new(), BTreeSet::new());
        let mut after = Some(ItemId(0));
        while let Some(from) = after {
            let page = catalogue.working_set(from)?;
            seen.extend(page.items.iter().map(|item| item.id));
            waiting.extend(page.items);
            after = page.next;
        }
        for _ in 0..=waiting.len() {
            waiting.retain(|item| !self.show(item));
        }
        let gone: Vec<ItemId> =
            self.known.values().map(|known| known.id).filter(|id| !seen.contains(id)).collect();
        self.lose(&gone);
        // What is in a directory that is about to be made again is looked at after that, as is what a user was at.
        self.anchor = self.anchor.filter(|_| waiting.is_empty());
        self.open_all(catalogue, machine).map(|answer| answer.map(|_| true))
    }

    /// Somebody opens every directory.
    fn open_all(&mut self, catalogue: &mut Catalogue, machine: &mut Disk) -> Result<Answer<bool>> {
        let mut is_any = false;
        let directories: Vec<(u64, ItemId)> = self
            .known
            .iter()
            .filter(|(node, _)| self.disk.nodes.get(node).is_some_and(|node| node.kind == Kind::Directory))
            .map(|(node, known)| (*node, known.id))
            .collect();
        for (node, id) in directories {
            if !catalogue.is_listed(id)? && catalogue.item(id)?.is_some() {
                is_any = true;
                if let Err(refusal) = catalogue.refresh(machine, &[id])? {
                    return Ok(Err(refusal));
                }
            }
            if catalogue.is_listed(id)? {
                self.disk.unopened.remove(&node);
            }
        }
        Ok(Ok(is_any))
    }

    /// Has the copy be as the machine is, but for what a user has changed in it. Whether it could.
    fn show(&mut self, item: &Item) -> bool {
        let Some(here) = &item.here else { return true };
        if item.id == ItemId::ROOT {
            return true;
        }
        let Some(parent) = self.node(here.parent) else { return false };
        let is_removed = self.node(item.id).is_some_and(|node| {
            !self.disk.nodes.contains_key(&node) && self.known[&node].base == Base::of(item)
        });
        if is_removed {
            // A user has removed it as it is told of: nothing in that keeps its directory.
            return true;
        }
        if !self.disk.nodes.contains_key(&parent) {
            // A user has removed the directory, and did not mean what comes only now: it is not removed.
            self.known.remove(&parent);
            self.anchor = None;
            return true;
        }
        let version = here.content.as_ref().try_into().map_or(0, u64::from_le_bytes);
        let Some(node) = self.node(item.id) else {
            self.make_way(parent, &here.name, None);
            let node = self.disk.placeholder(parent, &here.name, item.kind, here.mode, version);
            self.know(node, item);
            return true;
        };
        let Some(now) = self.disk.nodes.get(&node).cloned() else { return true };
        let known = self.known[&node].clone();
        if now.edit.is_some() || now.mode != known.mode {
            // What was made from another version is handed over as that, and looked at again after.
            self.anchor = None;
            return true;
        }
        if (now.parent, &now.name) == (known.parent, &known.name) {
            self.put(node, item);
        } else {
            self.anchor = None;
            let kept = self.known.get_mut(&node);
            if let Some(kept) = kept {
                kept.base.content = Base::of(item).content;
            }
            let node = self.disk.nodes.get_mut(&node);
            if let Some(node) = node {
                node.version = version;
            }
        }
        true
    }

    /// Has a file be this item, wherever that is.
    fn put(&mut self, node: u64, item: &Item) {
        let Some(here) = &item.here else { return };
        let Some(parent) = self.node(here.parent) else { return };
        if !self.disk.nodes.contains_key(&parent) || self.disk.is_within(parent, node) {
            // A user has put the directory into this one. Once that was answered, all is looked at again.
            self.anchor = None;
            return;
        }
        self.make_way(parent, &here.name, Some(node));
        let name = self.disk.stored_name(&here.name);
        let version = here.content.as_ref().try_into().map_or(0, u64::from_le_bytes);
        if let Some(file) = self.disk.nodes.get_mut(&node) {
            (file.parent, file.name, file.mode, file.version, file.edit) =
                (parent, name, here.mode, version, None);
        }
        self.know(node, item);
    }

    fn know(&mut self, node: u64, item: &Item) {
        let now = &self.disk.nodes[&node];
        let known = Known {
            id: item.id,
            base: Base::of(item),
            parent: now.parent,
            name: now.name.clone(),
            mode: now.mode,
        };
        self.known.insert(node, known);
    }

    /// What has a name that another file is to have gets another one.
    fn make_way(&mut self, parent: u64, name: &[u8], node: Option<u64>) {
        let Some(holder) = self.disk.named(parent, name).filter(|holder| Some(*holder) != node) else {
            return;
        };
        for number in 2.. {
            let other = [name, format!(" bounced {number}").as_bytes()].concat();
            if self.disk.named(parent, &other).is_none() {
                let holder = self.disk.nodes.get_mut(&holder);
                holder.into_iter().for_each(|holder| holder.name.clone_from(&other));
                return;
            }
        }
    }

    /// Whether there is something in it that was not handed over: written to, moved there or renamed by a user.
    fn is_edited_below(&self, node: u64) -> bool {
        let now = &self.disk.nodes[&node];
        let is_moved =
            self.known.get(&node).is_some_and(|known| (known.parent, &known.name) != (now.parent, &now.name));
        now.edit.is_some()
            || is_moved
            || self.disk.children(node).into_iter().any(|child| self.is_edited_below(child))
    }

    fn lose(&mut self, gone: &[ItemId]) {
        let nodes: Vec<u64> = gone.iter().filter_map(|id| self.node(*id)).collect();
        nodes.iter().for_each(|node| drop(self.known.remove(node)));
        for node in nodes {
            if self.disk.nodes.contains_key(&node) && !self.is_edited_below(node) {
                self.drop_all(node);
            }
        }
    }

    /// Removes what is gone, which is no user's removal of what was in it and the machine has elsewhere: that is looked for again.
    fn drop_all(&mut self, node: u64) {
        for child in self.disk.children(node) {
            self.drop_all(child);
        }
        self.disk.drop_all(node);
        if self.known.remove(&node).is_some() {
            self.anchor = None;
        }
    }

    /// Hands over what users have done. Whether there was anything.
    pub(super) fn push(&mut self, catalogue: &mut Catalogue, machine: &mut Disk) -> Result<Answer<bool>> {
        let mut is_any = false;
        for node in self.known.keys().copied().collect::<Vec<_>>() {
            if self.disk.nodes.contains_key(&node) || !self.known.contains_key(&node) {
                continue;
            }
            is_any = true;
            if let Err(refusal) = self.push_removal(catalogue, machine, node)? {
                return Ok(Err(refusal));
            }
        }
        let mut waiting = self.disk.children(ROOT);
        while let Some(node) = waiting.pop() {
            let Some(now) = self.disk.nodes.get(&node).cloned() else { continue };
            let answer = match self.known.get(&node).cloned() {
                None => self.push_new(catalogue, machine, node)?,
                Some(known)
                    if (now.parent, &now.name, now.mode, now.edit)
                        == (known.parent, &known.name, known.mode, None) =>
                {
                    waiting.extend(self.disk.children(node));
                    continue;
                }
                Some(known) => self.push_change(catalogue, machine, node, &known)?,
            };
            is_any = true;
            match answer {
                Ok(()) => waiting.extend(self.disk.children(node)),
                // The system comes back to it.
                Err(Refusal::Changed) => {}
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        Ok(Ok(is_any))
    }

    fn push_removal(
        &mut self,
        catalogue: &mut Catalogue,
        machine: &mut Disk,
        node: u64,
    ) -> Result<Answer<()>> {
        let known = self.known[&node].clone();
        let is_directory = catalogue.item(known.id)?.is_some_and(|item| item.kind == Kind::Directory);
        let removal = if is_directory { Removal::Tree } else { Removal::Single };
        if is_directory && self.is_move_out_pending(node) {
            return Ok(Ok(()));
        }
        match catalogue.remove(machine, known.id, &known.base, removal)? {
            Ok(Removed::Done) => {
                self.known.remove(&node);
            }
            Ok(Removed::Kept(_) | Removed::NotEmpty) => {
                self.known.remove(&node);
                self.anchor = None;
            }
            Err(Refusal::Changed) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
        Ok(Ok(()))
    }

    /// Whether a user has moved something out of a directory, or of one that was in it, that was not handed over yet. The
    /// removal is handed over after that.
    fn is_move_out_pending(&self, directory: u64) -> bool {
        let was_in_it = |(node, known): (&u64, &Known)| {
            known.parent == directory
                && (self.disk.nodes.contains_key(node) || self.is_move_out_pending(*node))
        };
        self.known.iter().any(was_in_it)
    }

    fn push_new(&mut self, catalogue: &mut Catalogue, machine: &mut Disk, node: u64) -> Result<Answer<()>> {
        let now = self.disk.nodes[&node].clone();
        let Some(parent) = self.id(now.parent) else { return Ok(Err(Refusal::Changed)) };
        let bytes = self.disk.world.borrow().contents.get(&now.content()).cloned().unwrap_or_default();
        let new = New { parent, name: &now.name, kind: now.kind, mode: now.mode, size: bytes.len() as u64 };
        let answer = catalogue.create(machine, &new, &mut || Ok(Box::new(Cursor::new(bytes.clone()))))?;
        Ok(answer.map(|applied| self.take(node, applied)))
    }

    fn push_change(
        &mut self,
        catalogue: &mut Catalogue,
        machine: &mut Disk,
        node: u64,
        known: &Known,
    ) -> Result<Answer<()>> {
        let now = self.disk.nodes[&node].clone();
        let Some(parent) = self.id(now.parent) else { return Ok(Err(Refusal::Changed)) };
        let bytes = self.disk.world.borrow().contents.get(&now.content()).cloned().unwrap_or_default();
        let mut open = || Ok::<Box<dyn std::io::Read>, _>(Box::new(Cursor::new(bytes.clone())));
        let change = Modification {
            base: known.base.clone(),
            new: New { parent, name: &now.name, kind: now.kind, mode: now.mode, size: bytes.len() as u64 },
            is_moved: (now.parent, &now.name) != (known.parent, &known.name),
            is_mode: now.mode != known.mode,
            content: now.edit.map(|_| &mut open as super::Content<'_>),
        };
        Ok(catalogue.modify(machine, known.id, change)?.map(|applied| self.take(node, applied)))
    }

    fn take(&mut self, node: u64, applied: Applied) {
        match applied {
            Applied::Done(item) | Applied::Conflict { item, .. } => {
                let twin = self.node(item.id).filter(|twin| *twin != node);
                if let Some(twin) = twin {
                    self.merge(twin, node);
                }
                self.put(node, &item);
            }
            Applied::Gone(id) if self.id(node) == Some(id) => {
                self.known.remove(&node);
                if !self.is_edited_below(node) {
                    self.drop_all(node);
                }
            }
            Applied::Gone(id) => {
                let parent = self.node(id);
                parent.into_iter().for_each(|parent| drop(self.known.remove(&parent)));
            }
        }
    }

    /// Two files of the copy are one item.
    fn merge(&mut self, twin: u64, node: u64) {
        self.known.remove(&twin);
        if !self.disk.nodes.contains_key(&twin) {
            return;
        }
        for child in self.disk.children(twin) {
            let name = self.disk.nodes[&child].name.clone();
            self.make_way(node, &name, None);
            self.disk.nodes.get_mut(&child).into_iter().for_each(|child| child.parent = node);
        }
        if self.disk.nodes[&twin].edit.is_none() {
            self.disk.nodes.remove(&twin);
        }
    }
}
