//! What to do next about an item. Nothing here touches a side.
//!
//! An item may have to wait for another: for its directory, or for a name that is to be given up. That one is planned in its
//! stead. Where this comes back to an item on the way, whoever has the name gets the [name of a moment](parked_name).

use super::Result;
use super::database::Rows;
use super::item::{Agreed, Item, ItemId, Kind, Seen, SideName};
use super::names::NameRules;
use super::side::Refusal;

/// What a side is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Make {
        on: SideName,
        item: ItemId,
        parent: ItemId,
        name: Box<[u8]>,
    },
    Move {
        on: SideName,
        item: ItemId,
        parent: ItemId,
        name: Box<[u8]>,
        why: Why,
    },
    Remove {
        on: SideName,
        item: ItemId,
    },
    SetMode {
        on: SideName,
        item: ItemId,
        mode: u16,
    },
    /// Content from here to there.
    Send {
        item: ItemId,
    },
    /// Content from there to here.
    Refresh {
        item: ItemId,
    },
    /// Both were written to.
    Compare {
        item: ItemId,
    },
}

impl Action {
    /// What it is about.
    pub(crate) fn item(&self) -> ItemId {
        match self {
            Action::Make { item, .. }
            | Action::Move { item, .. }
            | Action::Remove { item, .. }
            | Action::SetMode { item, .. }
            | Action::Send { item }
            | Action::Refresh { item }
            | Action::Compare { item } => *item,
        }
    }
}

/// What a renaming means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was renamed on the other side, and both agree then.
    Follow,
    /// Its name is another's.
    Conflict,
    /// Its name has to be free for a moment.
    Park,
    /// It has the name of a moment, and nothing on the other side that it could follow to another.
    Return,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Do(Action),
    /// Something was written down, so that the next plan is another one.
    Done,
    /// Nothing is to be done.
    Settled,
    /// Waits for what a side refused.
    Blocked,
    /// Waits for itself.
    Circle,
}

/// Whether there is a name, and what has to be done first if not.
enum Slot {
    Free(Box<[u8]>),
    Not(Plan),
}

const PARKED: &[u8] = b".stead-moving-";

/// The name of a moment.
pub(crate) fn parked_name(item: ItemId) -> Box<[u8]> {
    [PARKED, item.0.to_string().as_bytes()].concat().into()
}

/// Whose name of a moment this is.
pub(crate) fn parked_item(name: &[u8]) -> Option<ItemId> {
    let number = std::str::from_utf8(name.strip_prefix(PARKED)?).ok()?;
    number.parse().ok().map(ItemId)
}

pub(crate) struct Planner<'a> {
    rows: &'a Rows<'a>,
    host: &'a str,
    visiting: Vec<ItemId>,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(rows: &'a Rows<'a>, host: &'a str) -> Planner<'a> {
        Planner { rows, host, visiting: Vec::new() }
    }

    pub(crate) fn plan(&mut self, item: &Item) -> Result<Plan> {
        if self.visiting.contains(&item.id) {
            return Ok(Plan::Circle);
        }
        if item.refused.is_some() {
            return Ok(Plan::Blocked);
        }
        self.visiting.push(item.id);
        let plan = match (&item.here, &item.there, &item.agreed) {
            // Made here for a file of the machine, and not taken down before that one went elsewhere. It has no bytes of its own.
            (Some(_), None, None) if item.kind != Kind::Directory && !item.is_edited(SideName::Here) => {
                Ok(Plan::Do(Action::Remove { on: SideName::Here, item: item.id }))
            }
            (Some(_), None, None) => self.make(SideName::There, item),
            (None, Some(_), None) => self.make(SideName::Here, item),
            (Some(_), None, Some(_)) => self.removed(SideName::There, item),
            (None, Some(_), Some(_)) => self.removed(SideName::Here, item),
            (Some(here), Some(there), None) => self.agree(item, here, there),
            (Some(here), Some(there), Some(agreed)) => self.both(item, here, there, agreed),
            (None, None, _) => Ok(Plan::Settled),
        };
        self.visiting.pop();
        plan
    }

    fn make(&mut self, on: SideName, item: &Item) -> Result<Plan> {
        let Some(seen) = item.on(on.other()) else { return Ok(Plan::Settled) };
        if let Some(plan) = self.give_back(on.other(), item, seen)? {
            return Ok(plan);
        }
        let name = match self.translated(on, &seen.name) {
            Ok(name) => name,
            Err(refusal) => return self.refuse(item, &refusal),
        };
        let parent = self.rows.known(seen.parent)?;
        if parent.on(on).is_none() {
            return self.make_directory_again(on, parent);
        }
        Ok(match self.slot(on, item, seen.parent, name)? {
            Slot::Free(name) => Plan::Do(Action::Make { on, item: item.id, parent: seen.parent, name }),
            Slot::Not(plan) => plan,
        })
    }

    /// What has the name of a moment, and is on no other side any more, has its own back, or a conflict name where another file
    /// has that by now.
    fn give_back(&mut self, on: SideName, item: &Item, seen: &Seen) -> Result<Option<Plan>> {
        if parked_item(&seen.name) != Some(item.id) {
            return Ok(None);
        }
        let Some(was) = self.rows.parked_from(item.id, on)? else { return Ok(None) };
        let is_free = self.rows.named(on, seen.parent, &was)?.is_none();
        let name = if is_free { Some(was) } else { conflict_name(self.rows, self.host, on, item)? };
        Ok(Some(match name {
            Some(name) => {
                Plan::Do(Action::Move { on, item: item.id, parent: seen.parent, name, why: Why::Return })
            }
            None => self.refuse(item, &no_name())?,
        }))
    }

    /// A directory is needed on a side that has removed it, or does not have it yet.
    fn make_directory_again(&mut self, on: SideName, mut directory: Item) -> Result<Plan> {
        if directory.refused.is_some() {
            return Ok(Plan::Blocked);
        }
        if directory.agreed.is_some() {
            directory.agreed = None;
            self.rows.save(&directory)?;
        }
        self.make(on, &directory)
    }

    fn removed(&mut self, gone: SideName, item: &Item) -> Result<Plan> {
        let on = gone.other();
        if item.kind != Kind::Directory && item.is_edited(on) {
            return self.make_again(item);
        }
        let mut waits = None;
        for child in self.rows.children(on, item.id)? {
            match self.plan(&child)? {
                Plan::Settled => return self.make_again(item),
                wait @ (Plan::Blocked | Plan::Circle) => waits = Some(wait),
                plan => return Ok(plan),
            }
        }
        Ok(waits.unwrap_or(Plan::Do(Action::Remove { on, item: item.id })))
    }

    fn make_again(&mut self, item: &Item) -> Result<Plan> {
        self.write(item, |item| item.agreed = None)
    }

    fn agree(&mut self, item: &Item, here: &Seen, there: &Seen) -> Result<Plan> {
        let agreed = Agreed {
            parent: there.parent,
            here: here.name.clone(),
            there: there.name.clone(),
            mode: there.mode,
            content: here.content.clone(),
        };
        self.write(item, |item| item.agreed = Some(agreed))
    }

    fn both(&mut self, item: &Item, here: &Seen, there: &Seen, agreed: &Agreed) -> Result<Plan> {
        let is_file = item.kind != Kind::Directory;
        let is_new_there = there.content != here.content && there.content != agreed.content;
        if is_file && here.edit.is_some() && is_new_there {
            return Ok(Plan::Do(Action::Compare { item: item.id }));
        }
        let plan = self.place(item, here, there, agreed)?;
        if plan != Plan::Settled {
            return Ok(plan);
        }
        if here.mode != there.mode {
            let (on, mode) = if there.mode == agreed.mode {
                (SideName::There, here.mode)
            } else {
                (SideName::Here, there.mode)
            };
            return Ok(Plan::Do(Action::SetMode { on, item: item.id, mode }));
        }
        if here.mode != agreed.mode {
            return self.write(item, |item| item.agreed = Some(Agreed { mode: here.mode, ..agreed.clone() }));
        }
        if is_file && here.edit.is_some() {
            return Ok(Plan::Do(Action::Send { item: item.id }));
        }
        if is_file && here.content != there.content {
            return Ok(Plan::Do(Action::Refresh { item: item.id }));
        }
        if agreed.content != there.content {
            let content = there.content.clone();
            return self.write(item, |item| item.agreed = Some(Agreed { content, ..agreed.clone() }));
        }
        Ok(Plan::Settled)
    }

    fn place(&mut self, item: &Item, here: &Seen, there: &Seen, agreed: &Agreed) -> Result<Plan> {
        let (is_moved_here, is_moved_there) = (item.is_moved(SideName::Here), item.is_moved(SideName::There));
        if !is_moved_here && !is_moved_there {
            return Ok(Plan::Settled);
        }
        let rules = self.rows.rules;
        let is_one_name = here.name == agreed.here && there.name == agreed.there
            || rules.to_here(&there.name).is_ok_and(|name| name == here.name)
            || rules.to_there(&here.name).is_ok_and(|name| name == there.name);
        if here.parent == there.parent && is_one_name {
            return self.agree_on_place(item, here.parent, here.name.clone(), there.name.clone());
        }
        let (on, target, was, known) = if is_moved_there {
            (SideName::Here, there, &agreed.there, &agreed.here)
        } else {
            (SideName::There, here, &agreed.here, &agreed.there)
        };
        // A name that has not changed stays what it is on the other side, which need not be what it would be anew.
        let name = if target.name == *was { Ok(known.clone()) } else { self.translated(on, &target.name) };
        match name {
            Ok(name) => self.relocate(on, item, target.parent, name),
            Err(refusal) => self.refuse(item, &refusal),
        }
    }

    fn agree_on_place(
        &mut self,
        item: &Item,
        parent: ItemId,
        here: Box<[u8]>,
        there: Box<[u8]>,
    ) -> Result<Plan> {
        self.write(item, |item| {
            if let Some(agreed) = &mut item.agreed {
                (agreed.parent, agreed.here, agreed.there) = (parent, here, there);
            }
        })
    }

    fn relocate(&mut self, on: SideName, item: &Item, parent: ItemId, name: Box<[u8]>) -> Result<Plan> {
        let directory = self.rows.known(parent)?;
        if directory.on(on).is_none() {
            return self.make_directory_again(on, directory);
        }
        if let Some(chain) = self.chain_to(on, item.id, parent)? {
            return self.untangle(on, item, chain);
        }
        let name = match self.slot(on, item, parent, name)? {
            Slot::Free(name) => name,
            Slot::Not(plan) => return Ok(plan),
        };
        let is_there_already =
            |here: &Seen| here.parent == parent && self.rows.rules.is_one_name(&here.name, &name);
        match (on, &item.here, &item.there) {
            (SideName::Here, Some(here), Some(there)) if is_there_already(here) => {
                self.agree_on_place(item, parent, here.name.clone(), there.name.clone())
            }
            _ => Ok(Plan::Do(Action::Move { on, item: item.id, parent, name, why: Why::Follow })),
        }
    }

    /// From a directory up to, and without, an item that it is in on a side; `None` if it is not.
    fn chain_to(&self, on: SideName, item: ItemId, directory: ItemId) -> Result<Option<Vec<Item>>> {
        let mut chain = Vec::new();
        let mut at = directory;
        while at != ItemId::ROOT {
            if at == item {
                return Ok(Some(chain));
            }
            let directory = self.rows.known(at)?;
            let Some(seen) = directory.on(on) else { return Ok(None) };
            at = seen.parent;
            chain.push(directory);
        }
        Ok(None)
    }

    /// An item would come to be in itself. Others on the way may be about to leave; else the machine's places stand.
    fn untangle(&mut self, on: SideName, item: &Item, chain: Vec<Item>) -> Result<Plan> {
        for directory in &chain {
            let leaves = match on {
                SideName::Here => directory.is_moved(SideName::There),
                SideName::There => directory.is_moved(SideName::Here) && !directory.is_moved(SideName::There),
            };
            if leaves {
                match self.plan(directory)? {
                    Plan::Circle | Plan::Settled => {}
                    plan => return Ok(plan),
                }
            }
        }
        if on == SideName::There {
            return self.back(item);
        }
        let parent_of = |seen: &Option<Seen>| seen.as_ref().map(|seen| seen.parent);
        let stray = chain.iter().find(|directory| {
            directory.there.is_some() && parent_of(&directory.here) != parent_of(&directory.there)
        });
        match stray {
            Some(stray) => self.back(stray),
            None => Ok(Plan::Blocked),
        }
    }

    /// Moves an item here to where the machine has it, or out of the way if it is in the way itself.
    fn back(&mut self, item: &Item) -> Result<Plan> {
        let Some(there) = &item.there else { return Ok(Plan::Blocked) };
        let is_entangled = self.chain_to(SideName::Here, item.id, there.parent)?.is_some();
        if is_entangled {
            return Ok(park(SideName::Here, item.id, ItemId::ROOT));
        }
        match self.translated(SideName::Here, &there.name) {
            Ok(name) => self.relocate(SideName::Here, item, there.parent, name),
            Err(refusal) => self.refuse(item, &refusal),
        }
    }

    fn slot(&mut self, on: SideName, item: &Item, parent: ItemId, name: Box<[u8]>) -> Result<Slot> {
        let mut holder = self.rows.named(on, parent, &name)?;
        if holder.is_none()
            && on == SideName::There
            && let Some(here) = &item.here
        {
            holder = self.rows.new_there(parent, &here.name)?;
        }
        let Some(holder) = holder.filter(|holder| holder.id != item.id) else { return Ok(Slot::Free(name)) };
        let is_new = |item: &Item| item.agreed.is_none() && (item.here.is_none() || item.there.is_none());
        if is_new(item) && is_new(&holder) && item.here.is_some() != holder.here.is_some() {
            let (here, there) = if item.here.is_some() { (item, &holder) } else { (&holder, item) };
            return Ok(Slot::Not(self.twins(here, there)?));
        }
        if self.is_leaving(&holder, on, parent, &name)? {
            return Ok(Slot::Not(match self.plan(&holder)? {
                Plan::Circle => {
                    let parent = holder.on(on).map_or(parent, |seen| seen.parent);
                    park(on, holder.id, parent)
                }
                Plan::Settled => Plan::Blocked,
                plan => plan,
            }));
        }
        match (on, &holder.there) {
            (SideName::There, _) => Ok(Slot::Not(self.rename_for_conflict(item)?)),
            (SideName::Here, None) => Ok(Slot::Not(self.rename_for_conflict(&holder)?)),
            // It was given the name on this computer alone, where the machine's has it.
            (SideName::Here, Some(_))
                if holder.is_moved(SideName::Here) && !holder.is_moved(SideName::There) =>
            {
                Ok(Slot::Not(self.rename_for_conflict(&holder)?))
            }
            (SideName::Here, Some(_)) => {
                let is_taken = |name: &[u8]| {
                    let holder = self.rows.named(SideName::Here, parent, name)?;
                    Ok::<_, super::ReplicaError>(holder.is_some_and(|holder| holder.id != item.id))
                };
                match self.rows.rules.alias(&name, is_taken)? {
                    Some(alias) => Ok(Slot::Free(alias)),
                    None => Ok(Slot::Not(self.refuse(item, &no_name())?)),
                }
            }
        }
    }

    /// Whether an item is to give up this name on this side.
    fn is_leaving(&self, item: &Item, on: SideName, parent: ItemId, name: &[u8]) -> Result<bool> {
        let Some(target) = item.on(on.other()) else {
            return Ok(item.agreed.is_some() && !item.is_edited(on));
        };
        let follows = match on {
            SideName::Here => item.is_moved(SideName::There),
            SideName::There => item.is_moved(SideName::Here) && !item.is_moved(SideName::There),
        };
        let key = |name: &[u8]| match on {
            SideName::Here => self.rows.rules.key(name),
            SideName::There => name.into(),
        };
        let is_same = target.parent == parent
            && self.translated(on, &target.name).is_ok_and(|target| key(&target) == key(name));
        Ok(follows && !is_same)
    }

    /// Two new files with one name, each on its side, are one; if their contents differ that is a conflict as any other.
    fn twins(&mut self, here: &Item, there: &Item) -> Result<Plan> {
        if here.kind != there.kind {
            return self.rename_for_conflict(here);
        }
        join(self.rows, here, there)?;
        Ok(Plan::Done)
    }

    fn rename_for_conflict(&mut self, item: &Item) -> Result<Plan> {
        let Some(here) = &item.here else { return Ok(Plan::Blocked) };
        match conflict_name(self.rows, self.host, SideName::Here, item)? {
            Some(name) => {
                let (on, parent) = (SideName::Here, here.parent);
                Ok(Plan::Do(Action::Move { on, item: item.id, parent, name, why: Why::Conflict }))
            }
            None => self.refuse(item, &no_name()),
        }
    }

    fn translated(&self, on: SideName, name: &[u8]) -> std::result::Result<Box<[u8]>, Refusal> {
        translated(self.rows.rules, on, name)
    }

    fn refuse(&mut self, item: &Item, refusal: &Refusal) -> Result<Plan> {
        self.write(item, |item| item.refused = Some(refusal.to_string()))
    }

    fn write(&mut self, item: &Item, change: impl FnOnce(&mut Item)) -> Result<Plan> {
        let mut item = item.clone();
        change(&mut item);
        self.rows.save(&item)?;
        Ok(Plan::Done)
    }
}

fn park(on: SideName, item: ItemId, parent: ItemId) -> Plan {
    Plan::Do(Action::Move { on, item, parent, name: parked_name(item), why: Why::Park })
}

fn no_name() -> Refusal {
    Refusal::Refused("every other name for it is taken".to_owned())
}

/// A name for what is on a side and must make way, that is free on both.
pub(crate) fn conflict_name(
    rows: &Rows<'_>,
    host: &str,
    on: SideName,
    item: &Item,
) -> Result<Option<Box<[u8]>>> {
    let (Some(seen), rules) = (item.on(on), rows.rules) else { return Ok(None) };
    let parked = parked_item(&seen.name).filter(|parked| *parked == item.id);
    let was = parked.map(|id| rows.parked_from(id, on)).transpose()?.flatten();
    rules.conflict_name(was.as_deref().unwrap_or(&seen.name), host, |name| {
        if rows.named(on, seen.parent, name)?.is_some() {
            return Ok(true);
        }
        // A name that cannot be on the other side would only be refused later.
        let Ok(other) = translated(rules, on.other(), name) else { return Ok(true) };
        Ok(rows.named(on.other(), seen.parent, &other)?.is_some())
    })
}

fn translated(rules: NameRules, on: SideName, name: &[u8]) -> std::result::Result<Box<[u8]>, Refusal> {
    match on {
        SideName::Here => rules.to_here(name),
        SideName::There => rules.to_there(name),
    }
}

/// Two items are found to be one. What is here has what the machine had as its version, so far as is known.
fn join(rows: &Rows<'_>, here: &Item, there: &Item) -> Result<()> {
    rows.take_over(there.id, here.id)?;
    let (Some(at), Some(other)) = (rows.known(here.id)?.here, rows.known(there.id)?.there) else {
        return Ok(());
    };
    rows.remove(there.id)?;
    let agreed = Agreed {
        parent: other.parent,
        here: at.name.clone(),
        there: other.name.clone(),
        mode: other.mode,
        content: at.content.clone(),
    };
    let item = Item { here: Some(at), there: Some(other), agreed: Some(agreed), ..here.clone() };
    rows.save(&item)
}
