//! What replies of the source teach.

use crate::errno::{Errno, Result};
use crate::file::{Attributes, Entry, Kind, Name};
use crate::source::Lease;

use super::node::{Meaning, Seen};
use super::{Believe, Cause, Ino, Known, Moment, Notice, Stamp, Table, Ticket, UNLEASED_MS, VALID_MS_MAX};

/// Seen, but not to be believed.
fn once(now: Moment) -> Seen {
    Seen { at: now, lease: 0, valid_ms: 0 }
}

impl Table {
    /// Takes the lease of a reply to a request made with `ticket`. Gives what names and attributes of that reply are to
    /// be marked with, or `None` when they are to be used once.
    fn take_lease(&mut self, at: Ino, ticket: Ticket, lease: Option<Lease>, now: Moment) -> Option<Seen> {
        if !self.holds(at, ticket) {
            self.take_lease_of_own(at, ticket, lease);
            return None;
        }
        let next_lease = self.leases_had + 1;
        self.has_unwatched |= lease.is_some_and(|lease| lease.valid_ms != 0);
        let directory = self.directory_mut(at).ok()?;
        let Some(lease) = lease else {
            let lease = if directory.lease == ticket.lease { ticket.lease } else { 0 };
            return Some(Seen { at: now, lease, valid_ms: UNLEASED_MS });
        };
        if lease.valid_ms != 0 {
            return Some(Seen { at: now, lease: 0, valid_ms: lease.valid_ms.min(VALID_MS_MAX) });
        }
        if lease.epoch < directory.epoch {
            return None;
        }
        if directory.lease == 0 {
            directory.lease = next_lease;
        }
        let lease = directory.lease;
        self.leases_had = self.leases_had.max(lease);
        Some(Seen { at: now, lease, valid_ms: 0 })
    }

    /// Takes the lease of a directory of our own, whatever names it came with: our changes cross every question there, of
    /// others' we would have heard since, and nothing was seen under a lease before.
    fn take_lease_of_own(&mut self, at: Ino, ticket: Ticket, lease: Option<Lease>) {
        let (next_lease, is_current) = (self.leases_had + 1, ticket.clock >= self.leases_lost_at);
        let Ok(directory) = self.directory_mut(at) else { return };
        let is_watched = lease.is_some_and(|lease| lease.valid_ms == 0 && lease.epoch >= directory.epoch);
        if is_watched && is_current && directory.is_own() && directory.lease == 0 {
            directory.lease = next_lease;
            self.leases_had = next_lease;
        }
    }

    /// Takes in what the source said of a name. Gives the node and for how long its name may be believed. Fails with
    /// `ELOOP` where the name is that of a directory above.
    pub fn learn(
        &mut self,
        parent: Ino,
        name: &Name,
        entry: Option<Entry>,
        (ticket, lease): (Ticket, Option<Lease>),
        now: Moment,
        notices: &mut Vec<Notice>,
    ) -> Result<Known> {
        self.directory(parent)?;
        let Some(seen) = self.take_lease(parent, ticket, lease, now) else {
            return self.use_once(parent, name, entry, ticket, now, notices);
        };
        self.learn_seen(parent, name, entry, (ticket, seen), Cause::Elsewhere, notices)
    }

    fn learn_seen(
        &mut self,
        parent: Ino,
        name: &Name,
        entry: Option<Entry>,
        (ticket, seen): (Ticket, Seen),
        cause: Cause,
        notices: &mut Vec<Notice>,
    ) -> Result<Known> {
        let believe = Table::believe(seen, self.directory(parent)?.lease, seen.at);
        let Some(entry) = entry else {
            self.set_slot(parent, name, Meaning::Absent, seen, cause, notices)?;
            return Ok(Known::Absent(believe));
        };
        let ino = self.adopt(entry, seen, ticket.clock, notices);
        self.refuse_loop(ino, parent)?;
        let followed = self.set_slot(parent, name, Meaning::Present(ino), seen, cause, notices)?;
        self.consider_idle(ino);
        Ok(Known::Present(ino, if followed { believe } else { Believe::Once }))
    }

    /// The outcome of a change made from here: the kernel knows that the name changed.
    pub(super) fn learn_here(
        &mut self,
        parent: Ino,
        name: &Name,
        entry: Option<Entry>,
        ticket: Ticket,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) -> Result<Known> {
        let Some(seen) = self.take_lease(parent, ticket, None, now) else {
            return self.use_once(parent, name, entry, ticket, now, notices);
        };
        self.learn_seen(parent, name, entry, (ticket, seen), Cause::Here, notices)
    }

    fn refuse_loop(&self, ino: Ino, parent: Ino) -> Result<()> {
        match self.node(ino)?.directory.is_some() && self.is_at_or_below(parent, ino) {
            true => Err(Errno::ELOOP),
            false => Ok(()),
        }
    }

    /// A reply that crossed a change: the node is needed to answer with, but nothing is believed of its name.
    pub fn use_once(
        &mut self,
        parent: Ino,
        name: &Name,
        entry: Option<Entry>,
        ticket: Ticket,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) -> Result<Known> {
        let Some(entry) = entry else { return Ok(Known::Absent(Believe::Once)) };
        let slot = self.directory(parent)?.names.get(name).map(|slot| slot.what);
        let ino = match self.by_id.get(&entry.id) {
            Some(ino) if self.node(*ino)?.attributes.kind == entry.attributes.kind => *ino,
            _ => self.adopt(entry, once(now), ticket.clock, notices),
        };
        self.refuse_loop(ino, parent)?;
        let node = self.node_mut(ino);
        if !node.names.is_empty() {
            // Which of its names holds is not known before the change is told.
            if node.directory.is_none() && !node.has_name(parent, name) {
                node.crossed = Some(Box::new((parent, name.clone())));
            }
            return Ok(Known::Present(ino, Believe::Once));
        }
        match slot {
            // What is known of the name is younger than the reply. The node is reached by the name all the same.
            Some(Meaning::Present(_)) => self.add_edge(ino, parent, name),
            _ => {
                self.set_slot(parent, name, Meaning::Present(ino), once(now), Cause::Elsewhere, notices)?;
            }
        }
        self.consider_idle(ino);
        Ok(Known::Present(ino, Believe::Once))
    }

    /// Finds or makes the node of `entry` and takes its attributes in, if nothing has happened to them since `clock`. The
    /// caller gives it a name, then calls [`Table::consider_idle`].
    pub(super) fn adopt(&mut self, entry: Entry, seen: Seen, clock: u64, notices: &mut Vec<Notice>) -> Ino {
        let is_directory = entry.attributes.kind == Kind::Directory;
        // A directory's attributes hang on its own lease, not on that of its parent; so do those of a file with
        // several names, on none.
        let unleased = if seen.lease == 0 { seen } else { Seen { lease: 0, valid_ms: UNLEASED_MS, ..seen } };
        let seen = if is_directory || entry.attributes.links > 1 { unleased } else { seen };
        if let Some(ino) = self.by_id.get(&entry.id).copied() {
            let node = self.node_mut(ino);
            if node.attributes.kind == entry.attributes.kind {
                let is_older = node.stamp > clock;
                let hangs_on_itself = is_directory && self.is_leased(ino);
                if is_older {
                    self.crossed(ino, entry.attributes, notices);
                } else if !hangs_on_itself {
                    self.set_attributes(ino, entry.attributes, seen, notices);
                }
                return ino;
            }
            // The identity has been given to another kind of file: the old node is gone.
            self.by_id.remove(&entry.id);
        }
        self.insert(entry, seen)
    }

    /// Whether the node's attributes are believed until told otherwise.
    fn is_leased(&self, ino: Ino) -> bool {
        self.node(ino).is_ok_and(|node| node.seen.lease != 0 && node.seen.lease == self.covering_lease(node))
    }

    pub(super) fn set_attributes(
        &mut self,
        ino: Ino,
        attributes: Attributes,
        seen: Seen,
        notices: &mut Vec<Notice>,
    ) {
        // A directory's own attributes come twice in one answer: with its name, and then with what is in it.
        let is_same =
            self.node_mut(ino).directory.is_some() && !attributes.differ(&self.node_mut(ino).attributes);
        if !is_same {
            self.touch(ino);
        }
        let node = self.node_mut(ino);
        let content = node.attributes.kind == Kind::File && attributes.content_differs(&node.attributes);
        // What the source tells later is no news then: what the kernel believes is taken back now.
        let is_news = node.lookups > 0 && attributes.differ(&node.attributes);
        node.attributes = attributes;
        if node.writing > 0 {
            node.suspect |= content;
            node.seen = Seen::default();
        } else {
            node.seen = seen;
        }
        if content && node.writing == 0 {
            node.pages = None;
            node.own = false;
            node.found = (!node.is_heard_of()).then_some(seen.at);
            notices.push(Notice::Content(ino));
        } else if is_news {
            notices.push(Notice::Attributes(ino));
        }
    }

    /// Whether nothing has happened to the node's attributes since the stamp was taken.
    pub fn is_current(&self, ino: Ino, stamp: Stamp) -> bool {
        self.node(ino).is_ok_and(|node| node.stamp <= stamp.clock && node.writing == 0)
    }

    /// Takes in a node's attributes as the source told them for a request made at `stamp`.
    pub fn learn_attributes(
        &mut self,
        ino: Ino,
        attributes: Attributes,
        stamp: Stamp,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) -> Result<Believe> {
        if !self.is_current(ino, stamp) {
            self.crossed(ino, attributes, notices);
            return Ok(Believe::Once);
        }
        let node = self.node(ino)?;
        if node.attributes.kind != attributes.kind {
            return Ok(Believe::Once);
        }
        let lease = self.covering_lease(node);
        let lease = if lease == stamp.lease { lease } else { 0 };
        let seen = Seen { at: now, lease, valid_ms: UNLEASED_MS };
        self.set_attributes(ino, attributes, seen, notices);
        // With another number of links another lease covers the node.
        let node = self.node(ino)?;
        Ok(Table::believe(node.seen, self.covering_lease(node), now))
    }

    /// Takes in one entry of a listing, with where it goes on behind the name; 0 where that is of no use. Gives whether
    /// the entry is now known until the source tells otherwise.
    pub fn learn_listed(
        &mut self,
        parent: Ino,
        (name, cookie): (&Name, u64),
        entry: Entry,
        (ticket, lease): (Ticket, Option<Lease>),
        now: Moment,
        notices: &mut Vec<Notice>,
    ) -> bool {
        let Some(seen) = self.take_lease(parent, ticket, lease, now) else {
            self.disown_for(parent, name);
            return false;
        };
        let learnt = self.learn_seen(parent, name, Some(entry), (ticket, seen), Cause::Elsewhere, notices);
        if let Some(slot) = self.directory_mut(parent).ok().and_then(|d| d.names.get_mut(name)) {
            slot.cookie = cookie;
        }
        self.let_go();
        matches!(learnt, Ok(Known::Present(_, Believe::Leased)))
    }

    /// A name of the directory is about to be asked for. Whether to list the directory instead: the first time after
    /// `after` names, and then, should it not have become complete, each time after four times as many.
    pub fn is_worth_listing(&mut self, directory: Ino, after: u32) -> bool {
        if self.is_listed(directory) {
            return false;
        }
        let Ok(directory) = self.directory_mut(directory) else { return false };
        directory.asked = directory.asked.saturating_add(1);
        if directory.asked < directory.list_at.max(after) {
            return false;
        }
        directory.list_at = directory.asked.saturating_mul(4);
        true
    }

    /// Whether nothing was ever asked for in the directory, whose changes the source therefore does not tell. Says so once.
    pub fn is_new_ground(&mut self, directory: Ino) -> bool {
        let Ok(directory) = self.directory_mut(directory) else { return false };
        let is_new = directory.asked == 0 && directory.lease == 0 && !directory.was_listed;
        directory.asked = directory.asked.max(1);
        is_new
    }

    /// A node for a file that has no name.
    pub fn insert_unnamed(&mut self, entry: Entry, now: Moment) -> Ino {
        let ino = self.insert(entry, once(now));
        self.add_lookup(ino);
        ino
    }

    /// The whole of a directory has been listed, from its start, under this lease, for requests made with `ticket`, and
    /// every entry of it was learnt.
    pub fn listed(
        &mut self,
        directory: Ino,
        (ticket, lease): (Ticket, Option<Lease>),
        attributes: Option<Attributes>,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) {
        let Some(seen) = self.take_lease(directory, ticket, lease, now) else { return };
        let Ok(state) = self.directory_mut(directory) else { return };
        if state.let_go == ticket.let_go {
            state.complete = seen.lease;
            state.was_listed |= seen.lease != 0;
        }
        if let Some(attributes) = attributes {
            let known = self.last_attributes(directory);
            self.set_directory_attributes(directory, attributes, ticket, seen);
            if known != self.last_attributes(directory) {
                notices.push(Notice::Attributes(directory));
            }
        }
    }

    /// Takes in a directory's own attributes from a reply to a request made with `ticket`.
    pub(super) fn directory_attributes(
        &mut self,
        at: Ino,
        attributes: Attributes,
        ticket: Ticket,
        now: Moment,
    ) {
        if let Some(seen) = self.take_lease(at, ticket, None, now) {
            self.set_directory_attributes(at, attributes, ticket, seen);
        }
    }

    fn set_directory_attributes(&mut self, at: Ino, attributes: Attributes, ticket: Ticket, seen: Seen) {
        let Ok(node) = self.node(at) else { return };
        let is_older = node.stamp > ticket.clock || node.writing > 0;
        if is_older || attributes.kind != Kind::Directory {
            return;
        }
        self.touch(at);
        let node = self.node_mut(at);
        node.seen = seen;
        node.attributes = attributes;
    }
}
