//! Changes made from here.

use crate::errno::Result;
use crate::file::{Attributes, Entry, Kind, Name};
use crate::source::Renamed;

use super::node::{Meaning, Pages, Seen};
use super::{Cause, Ino, Known, Moment, Notice, Stamp, Table, Ticket, UNLEASED_MS};

/// What a change of a node from here is meant to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Content, and with it size and modification time.
    Content,
    /// Anything else: a content that is another afterwards was changed by others.
    Attributes,
}

impl Table {
    /// A change of `directory` made from here is about to be sent. Give the ticket to [`Table::end_change`].
    pub fn begin_change(&mut self, directory: Ino) -> Result<Ticket> {
        self.clock += 1;
        let clock = self.clock;
        let state = self.directory_mut(directory)?;
        state.changes += 1;
        state.changing += 1;
        state.changed_at = clock;
        Ok(self.ticket_of_change(self.directory(directory)?))
    }

    /// The change is over. Gives the ticket with which its outcome may be taken in: one that does not hold if anything
    /// else happened in the directory meanwhile.
    pub fn end_change(&mut self, directory: Ino, begun: Ticket) -> Ticket {
        let holds = self.holds(directory, begun);
        self.clock += 1;
        let clock = self.clock;
        let Ok(directory) = self.directory_mut(directory) else { return begun };
        directory.changes += 1;
        directory.changing = directory.changing.saturating_sub(1);
        directory.changed_at = clock;
        if holds { Ticket { changes: directory.changes, ..begun } } else { begun }
    }

    /// Takes in the outcome of a change made from here: what `name` is now, and the directory's own attributes where they
    /// were told.
    pub fn changed_here(
        &mut self,
        parent: Ino,
        name: &Name,
        (entry, directory): (Option<Entry>, Option<Attributes>),
        ticket: Ticket,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) -> Result<Known> {
        match directory {
            Some(attributes) => self.changed_directory(parent, attributes, ticket, now),
            None => self.doubt_attributes(parent),
        }
        if !self.holds(parent, ticket) {
            self.doubt_or_forget_name(parent, name, notices);
            return self.use_once(parent, name, entry, ticket, now, notices);
        }
        self.learn_here(parent, name, entry, ticket, now, notices)
    }

    fn changed_directory(&mut self, at: Ino, attributes: Attributes, ticket: Ticket, now: Moment) {
        let before = self.node(at).map_or(0, |node| node.stamp);
        self.directory_attributes(at, attributes, ticket, now);
        if self.node(at).is_ok_and(|node| node.stamp == before) {
            self.doubt_attributes(at);
        }
    }

    fn doubt_or_forget_name(&mut self, parent: Ino, name: &Name, notices: &mut Vec<Notice>) {
        let Ok(directory) = self.directory_mut(parent) else { return };
        if directory.names.contains_key(name) || directory.complete != 0 || directory.own.is_some() {
            self.mark(parent, name, Meaning::Unknown, Seen::default(), Cause::Here, notices);
        }
    }

    /// [`Table::set_slot`] in a directory that has just been found, and so is in the table.
    pub(super) fn mark(
        &mut self,
        parent: Ino,
        name: &Name,
        what: Meaning,
        seen: Seen,
        cause: Cause,
        notices: &mut Vec<Notice>,
    ) {
        let set = self.set_slot(parent, name, what, seen, cause, notices);
        debug_assert!(set.is_ok(), "{parent:?} was a directory a moment ago");
        if let Meaning::Present(ino) = what {
            self.consider_idle(ino);
        }
    }

    /// A change of the name was refused: what was known of it may be why. What has the name is still reached by it.
    pub fn refused(&mut self, parent: Ino, name: &Name, notices: &mut Vec<Notice>) {
        match self.directory_mut(parent).ok().and_then(|directory| directory.names.get_mut(name)) {
            Some(slot) => slot.seen = Seen::default(),
            None => self.doubt_or_forget_name(parent, name, notices),
        }
    }

    /// The outcome of a change of the name is not known: nothing is believed of it, neither here nor by the kernel.
    pub fn doubt(&mut self, parent: Ino, name: &Name, notices: &mut Vec<Notice>) {
        self.doubt_attributes(parent);
        self.doubt_or_forget_name(parent, name, notices);
        notices.push(Notice::Name { parent, name: name.clone() });
        notices.push(Notice::Listing(parent));
    }

    /// A rename made from here succeeded. The tickets are those of [`Table::end_change`] for each directory.
    ///
    /// The kernel moves what it believes of the old name to the new one; where that is more than the new directory's lease
    /// allows, it is taken back.
    pub fn renamed_here(
        &mut self,
        from: (Ino, &Name, Ticket),
        to: (Ino, &Name, Ticket),
        (exchange, renamed): (bool, Option<Renamed>),
        now: Moment,
        notices: &mut Vec<Notice>,
    ) {
        let (moved, replaced) = (self.meaning(from.0, from.1), self.meaning(to.0, to.1));
        match renamed {
            Some(Renamed { from: left, to: entered }) => {
                if from.0 != to.0 {
                    self.changed_directory(from.0, left, from.2, now);
                }
                self.changed_directory(to.0, entered, to.2, now);
            }
            None => {
                self.doubt_attributes(from.0);
                self.doubt_attributes(to.0);
            }
        }
        let both =
            [moved, replaced].map(|what| if let Meaning::Present(ino) = what { Some(ino) } else { None });
        for ino in both.into_iter().flatten() {
            self.doubt_attributes(ino);
        }
        let is_same = from.0 == to.0 && from.1 == to.1;
        if is_same || (both[0].is_some() && both[0] == both[1]) {
            // Two names of one file: nothing was renamed.
            return;
        }
        // A node must not go between its old name and its new one.
        both.into_iter().flatten().for_each(|ino| self.opened(ino));
        let left = if exchange { replaced } else { self.left_by(moved, replaced) };
        for (at, what) in [(from, left), (to, moved)] {
            self.rename_slot(at, what, now, notices);
        }
        for ino in both.into_iter().flatten() {
            self.released(ino);
            notices.push(Notice::Attributes(ino));
        }
    }

    /// A rename made from here succeeded, and a predecessor may have taken its outcome in.
    ///
    /// What the table says then is right already, and a second time would give the new name to nothing. It has not been
    /// taken in while the old name is still of something; an exchange does not show.
    pub fn renamed_again(
        &mut self,
        from: (Ino, &Name, Ticket),
        to: (Ino, &Name, Ticket),
        exchange: bool,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) {
        if !exchange && matches!(self.meaning(from.0, from.1), Meaning::Present(_)) {
            return self.renamed_here(from, to, (exchange, None), now, notices);
        }
        for (parent, name, _) in [from, to] {
            self.doubt_attributes(parent);
            self.refused(parent, name, notices);
            notices.push(Notice::Name { parent, name: name.clone() });
        }
    }

    fn meaning(&self, directory: Ino, name: &Name) -> Meaning {
        let slot = self.directory(directory).ok().and_then(|d| d.names.get(name));
        slot.map_or(Meaning::Unknown, |slot| slot.what)
    }

    /// What a replacing rename leaves under the old name: nothing, unless both names were of one file.
    fn left_by(&self, moved: Meaning, replaced: Meaning) -> Meaning {
        let has_other_names = match moved {
            Meaning::Present(ino) => {
                self.node(ino).is_ok_and(|node| node.directory.is_none() && node.attributes.links > 1)
            }
            _ => true,
        };
        if has_other_names && replaced == Meaning::Unknown { Meaning::Unknown } else { Meaning::Absent }
    }

    fn rename_slot(
        &mut self,
        (at, name, ticket): (Ino, &Name, Ticket),
        what: Meaning,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) {
        let holds = self.holds(at, ticket);
        let Ok(directory) = self.directory(at) else { return };
        let lease = if directory.lease == ticket.lease { directory.lease } else { 0 };
        let present = matches!(what, Meaning::Present(_));
        let what = if holds || present { what } else { Meaning::Unknown };
        let seen = if holds { Seen { at: now, lease, valid_ms: UNLEASED_MS } } else { Seen::default() };
        self.mark(at, name, what, seen, Cause::Here, notices);
        if present && (lease == 0 || !holds) {
            notices.push(Notice::Name { parent: at, name: name.clone() });
        }
    }

    /// A node got a name, or lost one, by a change made from here.
    pub fn links_changed(&mut self, ino: Ino, entry: Option<Entry>) {
        self.doubt_attributes(ino);
        let Ok(node) = self.known_mut(ino) else { return };
        match entry {
            Some(entry) if entry.id == node.id && entry.attributes.kind == node.attributes.kind => {
                node.attributes.links = entry.attributes.links;
            }
            _ => node.attributes.links = node.attributes.links.saturating_sub(1),
        }
    }

    /// A change of the node made from here is about to be sent. Give the stamp to [`Table::end_write`].
    pub fn begin_write(&mut self, ino: Ino) -> Stamp {
        self.doubt_attributes(ino);
        if let Ok(node) = self.known_mut(ino) {
            node.writing += 1;
        }
        self.stamp(ino).unwrap_or(Stamp { clock: 0, lease: 0 })
    }

    /// The change is over; `attributes` as the source told them after it. They are believed if nothing else happened to
    /// the node since it was begun: of two replies that overtook each other nobody knows which is the younger.
    pub fn end_write(
        &mut self,
        ino: Ino,
        (begun, what): (Stamp, Write),
        attributes: Option<Attributes>,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) {
        let Ok(node) = self.known_mut(ino) else { return };
        node.writing = node.writing.saturating_sub(1);
        let alone = node.stamp <= begun.clock && node.writing == 0 && !node.suspect;
        node.seen = Seen::default();
        let known = node.attributes;
        let attributes = attributes.filter(|attributes| attributes.kind == known.kind);
        if let Some(attributes) = attributes
            && (alone
                || (attributes.changed, attributes.size) >= (node.attributes.changed, node.attributes.size))
        {
            node.attributes = attributes;
            if attributes.content_differs(&known) {
                // The word of another's change may still be to come, which then is no news of ours.
                node.own = !node.suspect && node.found.is_none();
            }
        }
        let rights = |of: &Attributes| (of.mode, of.uid, of.gid, of.links);
        match what {
            Write::Content if rights(&known) != rights(&node.attributes) => {
                notices.push(Notice::Attributes(ino))
            }
            Write::Attributes
                if known.kind == Kind::File && (node.suspect || node.attributes.content_differs(&known)) =>
            {
                // Somebody else has changed the content.
                node.pages = None;
                node.suspect = node.writing > 0;
                notices.push(Notice::Content(ino));
            }
            _ => {}
        }
        if what == Write::Content && node.pages.is_some() {
            node.pages = Some(Pages::of(&node.attributes));
        }
        self.touch(ino);
        if alone && attributes.is_some() {
            let lease = self.node(ino).map_or(0, |node| self.covering_lease(node));
            let lease = if lease == begun.lease { lease } else { 0 };
            self.node_mut(ino).seen = Seen { at: now, lease, valid_ms: UNLEASED_MS };
        }
        self.consider_idle(ino);
    }

    /// What the kernel has of the content is not what the source has: a write was lost.
    pub fn doubt_content(&mut self, ino: Ino, notices: &mut Vec<Notice>) {
        self.doubt_attributes(ino);
        if let Ok(node) = self.known_mut(ino) {
            node.suspect = true;
            node.pages = None;
            notices.push(Notice::Content(ino));
        }
    }

    /// Whether the pages the kernel has of the node are those of the content that `attributes` describe. From now on they
    /// are.
    pub fn keep_pages(&mut self, ino: Ino, attributes: &Attributes) -> bool {
        let Ok(node) = self.known_mut(ino) else { return false };
        let keep = node.has_pages_of(attributes);
        node.pages = Some(Pages::of(attributes));
        node.suspect = node.suspect && node.writing > 0;
        keep
    }

    /// Whether the content is another's and new, and the word of it has not come: what was read of it may have been read
    /// while it was being written. After [`UNLEASED_MS`] no word is expected.
    pub fn may_be_half_written(&self, ino: Ino, now: Moment) -> bool {
        let found = self.node(ino).ok().and_then(|node| node.found);
        found.is_some_and(|at| now.0.saturating_sub(at.0) < u64::from(UNLEASED_MS))
    }

    /// Whether the kernel may have pages of the node's content as last seen.
    pub fn has_pages(&self, ino: Ino) -> bool {
        self.node(ino).is_ok_and(|node| node.has_pages_of(&node.attributes))
    }
}
