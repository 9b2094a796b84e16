//! What a side shows, beside what was known of it.

use std::collections::{HashSet, VecDeque};

use super::database::{Rows, check};
use super::item::{Entry, Identity, Item, ItemId, Kind, Seen, SideName};
use super::plan::parked_item;
use super::side::{Answer, Refusal, Side};
use super::{Replica, ReplicaError, Result};

/// All that a directory has on a side.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Listing {
    pub directory: Identity,
    pub entries: Vec<Entry>,
}

/// The most files of a tree. Beyond it a tree is refused rather than known in part.
const ITEMS_MAX: usize = 10_000_000;

impl Replica {
    /// Looks at everything on a side. Nothing is taken down if that fails, as it does when files are moved meanwhile so that it is not
    /// sure what is gone.
    pub fn look(&mut self, side: SideName, tree: &mut impl Side) -> Result<Answer<()>> {
        let root = self.database.write(|rows| rows.known(ItemId::ROOT))?;
        let Some(root) = root.on(side) else {
            return Err(ReplicaError::Lost { item: ItemId::ROOT });
        };
        let mut listings = Vec::new();
        let mut items = 0;
        let mut waiting = VecDeque::from([root.identity.clone()]);
        let mut listed = HashSet::new();
        while let Some(directory) = waiting.pop_front() {
            if !listed.insert(directory.clone()) {
                // It was moved meanwhile; or the side says that it is in itself.
                return Ok(Err(Refusal::Changed));
            }
            let entries = answered!(tree.list(&directory));
            items += entries.len();
            if items > ITEMS_MAX {
                return Ok(Err(Refusal::Refused(format!("the tree has more than {ITEMS_MAX} files"))));
            }
            let below = entries.iter().filter(|entry| entry.kind == Kind::Directory);
            waiting.extend(below.map(|entry| entry.identity.clone()));
            listings.push(Listing { directory, entries });
        }
        let present: HashSet<_> =
            listings.iter().flat_map(|listing| &listing.entries).map(|entry| &entry.identity).collect();
        for identity in self.database.write(|rows| rows.identities(side))? {
            if present.contains(&identity) {
                continue;
            }
            if !answered!(tree.is_gone(&identity)) {
                return Ok(Err(Refusal::Changed));
            }
        }
        self.observe(side, listings)?;
        Ok(Ok(()))
    }

    /// Takes down what some directories have. A file that was in one of them, and is in none now, is gone with all that is in it.
    /// A directory that is not known, and in no listing before its own, is left out.
    pub fn observe(&mut self, side: SideName, listings: Vec<Listing>) -> Result<()> {
        for entry in listings.iter().flat_map(|listing| &listing.entries) {
            check(entry)?;
        }
        self.database.write(|rows| Observation::new(rows, side, &listings).take_down(listings))
    }
}

struct Observation<'a> {
    rows: &'a Rows<'a>,
    side: SideName,
    present: HashSet<Identity>,
}

impl<'a> Observation<'a> {
    fn new(rows: &'a Rows<'a>, side: SideName, listings: &[Listing]) -> Observation<'a> {
        let present = listings.iter().flat_map(|listing| &listing.entries);
        let present = present.map(|entry| entry.identity.clone()).collect();
        Observation { rows, side, present }
    }

    fn take_down(self, listings: Vec<Listing>) -> Result<()> {
        let (mut was, mut shown) = (Vec::new(), HashSet::new());
        for listing in listings {
            let Some(directory) = self.rows.by_identity(self.side, &listing.directory)? else { continue };
            was.extend(self.rows.children(self.side, directory.id)?.into_iter().map(|item| item.id));
            for entry in listing.entries {
                shown.insert(self.show(directory.id, entry)?);
            }
        }
        for id in was {
            if !shown.contains(&id) {
                lose(self.rows, self.side, id, &self.present)?;
            }
        }
        Ok(())
    }

    fn show(&self, directory: ItemId, entry: Entry) -> Result<ItemId> {
        let kind = entry.kind;
        let seen = Seen::new(directory, entry);
        let Some(mut item) = self.known_as(kind, &seen)? else {
            return Ok(self.rows.add(kind, self.side, seen)?.id);
        };
        self.check_place(item.id, directory)?;
        self.change(&mut item, seen)?;
        Ok(item.id)
    }

    /// Which item it is, if it is not a new one.
    fn known_as(&self, kind: Kind, seen: &Seen) -> Result<Option<Item>> {
        if let Some(item) = self.rows.by_identity(self.side, &seen.identity)? {
            if item.kind == kind {
                return Ok(Some(item));
            }
            // The number of a file that is gone was given to another.
            lose(self.rows, self.side, item.id, &self.present)?;
        }
        // A file that took the place of another is that one, with other content: so most programs save. The place may be one that
        // was given for a moment, and not yet taken down.
        let holder = self.rows.named(self.side, seen.parent, &seen.name)?;
        let holder = holder.filter(|holder| holder.on(self.side).is_some_and(|was| was.name == seen.name));
        let before = match (holder, parked_item(&seen.name)) {
            (None, Some(parked)) => self.rows.get(parked)?,
            (holder, _) => holder,
        };
        let is_gone = |was: &Seen| !self.present.contains(&was.identity);
        Ok(before.filter(|item| item.kind == kind && item.on(self.side).is_some_and(is_gone)))
    }

    /// A side may say anything, but not that a directory is in itself: nobody would find a way out.
    fn check_place(&self, item: ItemId, directory: ItemId) -> Result<()> {
        let mut at = directory;
        while at != item {
            if at == ItemId::ROOT {
                return Ok(());
            }
            at = match self.rows.known(at)?.on(self.side) {
                Some(seen) => seen.parent,
                None => return Ok(()),
            };
        }
        Err(ReplicaError::Tangled { item })
    }

    fn change(&self, item: &mut Item, seen: Seen) -> Result<()> {
        if item.on(self.side) == Some(&seen) {
            return Ok(());
        }
        if self.side == SideName::Here
            && item.aside.as_ref().is_some_and(|name| {
                seen.is_at(item.here.as_ref().map_or(seen.parent, |was| was.parent), name)
            })
        {
            return set_aside(self.rows, item, seen);
        }
        // The name of a moment was given by us, and is not what anybody has renamed it to.
        if parked_item(&seen.name) == Some(item.id) {
            if let Some(was) = item.on(self.side).filter(|was| was.name != seen.name) {
                self.rows.set_parked(item.id, self.side, &was.name)?;
            }
            if let Some(agreed) = &mut item.agreed {
                agreed.park(self.side, &seen);
            }
        }
        *item.on_mut(self.side) = Some(seen);
        item.refused = None;
        self.rows.save(item)
    }
}

/// Takes down that the file here, which both sides had written to, has its conflict name: it is a file of its own now, and what
/// the machine has comes under the old name.
pub(crate) fn set_aside(rows: &Rows<'_>, item: &mut Item, seen: Seen) -> Result<()> {
    item.here = None;
    item.agreed = None;
    item.aside = None;
    item.refused = None;
    rows.save(item)?;
    rows.add(item.kind, SideName::Here, Seen { content: Box::default(), ..seen })?;
    Ok(())
}

/// Takes down that an item is not on the side any more, nor what was in it, but for what was seen elsewhere.
pub(crate) fn lose(rows: &Rows<'_>, side: SideName, id: ItemId, present: &HashSet<Identity>) -> Result<()> {
    let mut waiting = vec![id];
    while let Some(id) = waiting.pop() {
        let Some(mut item) = rows.get(id)? else { continue };
        let below = rows.children(side, id)?.into_iter();
        waiting.extend(
            below
                .filter(|child| child.on(side).is_none_or(|seen| !present.contains(&seen.identity)))
                .map(|child| child.id),
        );
        *item.on_mut(side) = None;
        item.refused = None;
        rows.save(&item)?;
    }
    Ok(())
}
