//! Carrying out what is planned, one thing at a time.

use super::database::Rows;
use super::item::{Agreed, Entry, Identity, Item, ItemId, Kind, Seen, SideName};
use super::look::set_aside;
use super::plan::{Action, Plan, Planner, Why, conflict_name};
use super::side::{Answer, At, Facts, Here, Refusal, Side, There};
use super::{Replica, ReplicaError, Result};

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Something was done. There may be more.
    Stepped,
    /// Nothing is left to do, but for what was refused.
    Settled,
    /// Something was not as it was known. Both sides are to be looked at.
    LookAgain,
    /// A side could not be reached, and may have done what it was asked. Later, both sides are to be looked at.
    Cut,
}

impl Replica {
    /// Does the next thing that brings the sides together.
    pub fn step(&mut self, here: &mut impl Here, there: &mut impl There) -> Result<Outcome> {
        let mut after = 0;
        loop {
            let Some((pending, plan)) = self.plan_after(after)? else { return Ok(Outcome::Settled) };
            match plan {
                Plan::Done => return Ok(Outcome::Stepped),
                Plan::Do(action) => return self.carry_out(&action, here, there),
                Plan::Settled | Plan::Blocked | Plan::Circle => after = pending,
            }
        }
    }

    fn plan_after(&mut self, after: i64) -> Result<Option<(i64, Plan)>> {
        let host = &self.host;
        self.database.write(|rows| {
            let Some((pending, item)) = rows.pending_after(after)? else { return Ok(None) };
            Ok(Some((pending, Planner::new(rows, host).plan(&item)?)))
        })
    }

    fn carry_out(
        &mut self,
        action: &Action,
        here: &mut impl Here,
        there: &mut impl There,
    ) -> Result<Outcome> {
        let answer = match action {
            Action::Make { on, item, parent, name } => self.make(*on, *item, *parent, name, here, there)?,
            Action::Move { on, item, parent, name, why } => {
                self.rename(*on, side_of(*on, here, there), *item, (*parent, name), *why)?
            }
            Action::Remove { on, item } => self.remove(*on, side_of(*on, here, there), *item)?,
            Action::SetMode { on, item, mode } => {
                self.set_mode(*on, side_of(*on, here, there), *item, *mode)?
            }
            Action::Send { item } => self.send(*item, here, there)?,
            Action::Refresh { item } => self.refresh(*item, here)?,
            Action::Compare { item } => self.compare(*item, here, there)?,
        };
        match answer {
            Ok(()) => Ok(Outcome::Stepped),
            Err(Refusal::Changed) => Ok(Outcome::LookAgain),
            Err(Refusal::Cut) => Ok(Outcome::Cut),
            Err(Refusal::Refused(why)) => {
                let id = action.item();
                tracing::warn!(item = id.0, why, "a change was refused");
                self.change(id, |item| item.refused = Some(why))?;
                Ok(Outcome::Stepped)
            }
        }
    }

    fn make(
        &mut self,
        on: SideName,
        id: ItemId,
        parent: ItemId,
        name: &[u8],
        here: &mut impl Here,
        there: &mut impl There,
    ) -> Result<Answer<()>> {
        let (item, directory) =
            self.database.write(|rows| Ok((rows.known(id)?, identity_of(&rows.known(parent)?, on)?)))?;
        let from = seen_on(&item, on.other())?.clone();
        let facts = facts_of(&item, &from);
        let answer = match (on, item.kind) {
            (SideName::Here, Kind::Directory) => here.make_directory(&directory, name, from.mode),
            (SideName::There, Kind::Directory) => there.make_directory(&directory, name, from.mode),
            (SideName::Here, _) => here.make_placeholder(&directory, name, &facts),
            (SideName::There, _) => {
                let at = self.at(SideName::Here, &item)?;
                send(here, &at, &from, |content| there.make_file(&directory, name, &facts, content))
            }
        };
        let entry = answered!(answer);
        let made = Seen::new(parent, entry);
        let content = if on == SideName::There { made.content.clone() } else { from.content.clone() };
        let item = self.change(id, |item| {
            item.agreed = Some(agreed_of(on, &made, &from, parent, content));
            *item.on_mut(on) = Some(made);
        })?;
        let was_sent = on == SideName::There && item.kind != Kind::Directory;
        if was_sent { self.settle(&item, here) } else { Ok(Ok(())) }
    }

    fn rename(
        &mut self,
        on: SideName,
        side: &mut dyn Side,
        id: ItemId,
        to: (ItemId, &[u8]),
        why: Why,
    ) -> Result<Answer<()>> {
        let (item, directory) =
            self.database.write(|rows| Ok((rows.known(id)?, identity_of(&rows.known(to.0)?, on)?)))?;
        let from = self.at(on, &item)?;
        let entry = answered!(side.rename(&from, &directory, to.1));
        self.change_rows(id, |rows, item| {
            let seen = Seen::new(to.0, entry);
            match (why, &mut item.agreed) {
                (Why::Follow, Some(agreed)) => {
                    agreed.parent = seen.parent;
                    let other = if on == SideName::Here { &item.there } else { &item.here };
                    let other = other.as_ref().map(|other| other.name.clone()).unwrap_or_default();
                    (agreed.here, agreed.there) = match on {
                        SideName::Here => (seen.name.clone(), other),
                        SideName::There => (other, seen.name.clone()),
                    };
                }
                (Why::Park, Some(agreed)) => agreed.park(on, &seen),
                (Why::Conflict | Why::Return, _) | (_, None) => {}
            }
            if why == Why::Park && from.name != seen.name {
                rows.set_parked(id, on, &from.name)?;
            }
            *item.on_mut(on) = Some(seen);
            Ok(())
        })?;
        Ok(Ok(()))
    }

    fn remove(&mut self, on: SideName, side: &mut dyn Side, id: ItemId) -> Result<Answer<()>> {
        let item = self.known(id)?;
        let seen = seen_on(&item, on)?;
        let answer = side.remove(&self.at(on, &item)?, &seen.content, seen.edit.as_ref());
        if answer.is_ok() {
            self.change(id, |item| *item.on_mut(on) = None)?;
        }
        Ok(answer)
    }

    fn set_mode(&mut self, on: SideName, side: &mut dyn Side, id: ItemId, mode: u16) -> Result<Answer<()>> {
        let item = self.known(id)?;
        let entry = answered!(side.set_mode(&self.at(on, &item)?, mode));
        if entry.mode != mode {
            return Ok(Err(Refusal::Refused(format!("its permissions cannot be {mode:o}"))));
        }
        self.change(id, |item| {
            if let Some(seen) = item.on_mut(on) {
                seen.mode = mode;
            }
            if let Some(agreed) = &mut item.agreed {
                agreed.mode = mode;
            }
        })?;
        Ok(Ok(()))
    }

    fn send(&mut self, id: ItemId, here: &mut impl Here, there: &mut impl There) -> Result<Answer<()>> {
        let item = self.known(id)?;
        let (from, to) = (seen_on(&item, SideName::Here)?, seen_on(&item, SideName::There)?);
        let (from_at, to_at) = (self.at(SideName::Here, &item)?, self.at(SideName::There, &item)?);
        let facts = Facts { mode: to.mode, ..facts_of(&item, from) };
        let sent = send(here, &from_at, from, |content| there.replace(&to_at, &to.content, &facts, content));
        let entry = answered!(sent);
        let item = self.change(id, |item| {
            let Some(parent) = item.there.as_ref().map(|there| there.parent) else { return };
            if let Some(agreed) = &mut item.agreed {
                agreed.content = entry.content.clone();
            }
            item.there = Some(Seen::new(parent, entry));
        })?;
        self.settle(&item, here)
    }

    /// What is here is what the machine has by now.
    fn settle(&mut self, item: &Item, here: &mut impl Here) -> Result<Answer<()>> {
        let at = self.at(SideName::Here, item)?;
        let (seen, content) = (seen_on(item, SideName::Here)?, &seen_on(item, SideName::There)?.content);
        let Some(edit) = &seen.edit else { return Ok(Ok(())) };
        let entry = answered!(here.settle(&at, edit, content));
        let (parent, content) = (seen.parent, content.clone());
        self.change(item.id, |item| {
            item.here = Some(Seen::new(parent, entry));
            if let Some(agreed) = &mut item.agreed {
                agreed.content = content;
            }
        })?;
        Ok(Ok(()))
    }

    fn refresh(&mut self, id: ItemId, here: &mut impl Here) -> Result<Answer<()>> {
        let item = self.known(id)?;
        let at = self.at(SideName::Here, &item)?;
        let (seen, there) = (seen_on(&item, SideName::Here)?, seen_on(&item, SideName::There)?);
        let facts = Facts { mode: seen.mode, ..facts_of(&item, there) };
        let entry = answered!(here.refresh(&at, &seen.content, &facts));
        let (parent, content) = (seen.parent, there.content.clone());
        self.change(id, |item| {
            item.here = Some(Seen::new(parent, entry));
            if let Some(agreed) = &mut item.agreed {
                agreed.content = content;
            }
        })?;
        Ok(Ok(()))
    }

    fn compare(&mut self, id: ItemId, here: &mut impl Here, there: &mut impl There) -> Result<Answer<()>> {
        let item = self.known(id)?;
        match self.is_same(&item, here, there)? {
            Err(refusal) => Ok(Err(refusal)),
            Ok(true) => self.settle(&item, here),
            Ok(false) => self.set_aside(&item, here),
        }
    }

    fn is_same(&mut self, item: &Item, here: &mut impl Here, there: &mut impl There) -> Result<Answer<bool>> {
        let (seen, against) = (seen_on(item, SideName::Here)?, seen_on(item, SideName::There)?);
        if seen.size != against.size {
            return Ok(Ok(false));
        }
        let (at, against_at) = (self.at(SideName::Here, item)?, self.at(SideName::There, item)?);
        let Some(edit) = &seen.edit else { return Ok(Ok(false)) };
        let mut content = answered!(here.open(&at, edit));
        Ok(there.is_same(&against_at, &against.content, &mut content))
    }

    /// The name is written down first: who dies after the renaming must not take it for the user's.
    fn set_aside(&mut self, item: &Item, here: &mut impl Here) -> Result<Answer<()>> {
        let seen = seen_on(item, SideName::Here)?;
        let host = &self.host;
        let Some(name) = self.database.write(|rows| conflict_name(rows, host, SideName::Here, item))? else {
            return Ok(Err(Refusal::Refused("every name for a conflicting copy is taken".to_owned())));
        };
        let item = self.change(item.id, |item| item.aside = Some(name.clone()))?;
        let from = self.at(SideName::Here, &item)?;
        let entry = answered!(here.rename(&from, &from.parent, &name));
        let parent = seen.parent;
        self.database.write(|rows| set_aside(rows, &mut rows.known(item.id)?, Seen::new(parent, entry)))?;
        Ok(Ok(()))
    }

    fn at(&mut self, side: SideName, item: &Item) -> Result<At> {
        let seen = seen_on(item, side)?;
        let parent = self.database.write(|rows| identity_of(&rows.known(seen.parent)?, side))?;
        Ok(At { identity: seen.identity.clone(), parent, name: seen.name.clone() })
    }

    fn known(&mut self, id: ItemId) -> Result<Item> {
        self.database.write(|rows| rows.known(id))
    }

    fn change(&mut self, id: ItemId, change: impl FnOnce(&mut Item)) -> Result<Item> {
        self.change_rows(id, |_, item| {
            change(item);
            Ok(())
        })
    }

    fn change_rows(
        &mut self,
        id: ItemId,
        change: impl FnOnce(&Rows<'_>, &mut Item) -> Result<()>,
    ) -> Result<Item> {
        self.database.write(|rows: &Rows<'_>| {
            let mut item = rows.known(id)?;
            change(rows, &mut item)?;
            rows.save(&item)?;
            Ok(item)
        })
    }
}

impl Agreed {
    /// Has a name of a moment, on one side, count for what was agreed on: the other side's place is still to be followed, so no
    /// name there is the one that was.
    pub(crate) fn park(&mut self, on: SideName, seen: &Seen) {
        self.parent = seen.parent;
        (self.here, self.there) = match on {
            SideName::Here => (seen.name.clone(), Box::default()),
            SideName::There => (Box::default(), seen.name.clone()),
        };
    }
}

/// One of the two, for what both can do.
fn side_of<'a>(on: SideName, here: &'a mut impl Here, there: &'a mut impl There) -> &'a mut dyn Side {
    match on {
        SideName::Here => here,
        SideName::There => there,
    }
}

fn agreed_of(on: SideName, made: &Seen, from: &Seen, parent: ItemId, content: Box<[u8]>) -> Agreed {
    let (here, there) = match on {
        SideName::Here => (made, from),
        SideName::There => (from, made),
    };
    // A side that has no such permissions is not taken to have set them.
    Agreed { parent, here: here.name.clone(), there: there.name.clone(), mode: from.mode, content }
}

fn send(
    here: &mut impl Here,
    at: &At,
    seen: &Seen,
    take: impl FnOnce(&mut dyn std::io::Read) -> Answer<Entry>,
) -> Answer<Entry> {
    // A file that was not written to is the machine's already, and is never sent.
    let Some(edit) = &seen.edit else { return Err(Refusal::Changed) };
    take(&mut here.open(at, edit)?)
}

fn facts_of(item: &Item, seen: &Seen) -> Facts {
    Facts {
        is_symlink: item.kind == Kind::Symlink,
        mode: seen.mode,
        size: seen.size,
        content: seen.content.clone(),
    }
}

fn seen_on(item: &Item, side: SideName) -> Result<&Seen> {
    item.on(side).ok_or(ReplicaError::Lost { item: item.id })
}

fn identity_of(item: &Item, side: SideName) -> Result<Identity> {
    Ok(seen_on(item, side)?.identity.clone())
}
