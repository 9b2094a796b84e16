//! What the source tells unasked.
//!
//! It is taken as a reason to doubt, never as knowledge: between the moment when the source looked and the one when it
//! told, a change from here may have been carried out and answered. So what is told of a name and equals what is known
//! changes nothing, and anything else makes the next question go to the source.
//!
//! Of a content, what is told and equals what is known is no news if it was made from here. Otherwise it says that the
//! change is over that made it, and what was read before may have been read in the midst of it.

use crate::file::{Attributes, Entry, FileId, Kind, Name};
use crate::source::{Change, Changed};

use super::expected::is_expected;
use super::node::{Meaning, Node, Pages, Seen};
use super::{Cause, Ino, Notice, Table};

/// Whether what a directory is now may let others make files in it than what it was before: its mode or its owner is
/// another, or something has changed of it that is neither its names nor shown.
fn may_let_others_in(now: &Attributes, before: &Attributes) -> bool {
    let rights = |of: &Attributes| (of.mode, of.uid, of.gid);
    let names_are_the_same = now.modified == before.modified && now.changed != before.changed;
    rights(now) != rights(before) || names_are_the_same
}

impl Table {
    /// Takes in what the source tells of a directory.
    pub fn apply(&mut self, changed: Changed, notices: &mut Vec<Notice>) {
        self.apply_to(changed, notices);
        self.let_go();
    }

    fn apply_to(&mut self, changed: Changed, notices: &mut Vec<Notice>) {
        self.clock += 1;
        let clock = self.clock;
        let Some(at) = self.find(changed.directory) else {
            return self.walks.stray(changed.directory, clock);
        };
        let Ok(directory) = self.directory_mut(at) else { return };
        directory.epoch = directory.epoch.max(changed.epoch);
        directory.changed_at = clock;
        let is_itself = matches!(changed.what, Change::Itself);
        let is_awaited = match &changed.what {
            // Whose it is will be known when ours is made, or is not.
            Change::Present { name, .. } => self.is_awaited(at, name),
            _ => false,
        };
        let names_changed = match changed.what {
            Change::LeaseLost => {
                self.open_files_left_unseen(at, notices);
                return self.lose_lease(at, notices);
            }
            Change::Itself => false,
            Change::Absent { name } => self.name_told(at, &name, None, notices),
            Change::Present { name, entry } => self.name_told(at, &name, Some(entry), notices),
        };
        let attributes = changed.attributes.filter(|attributes| attributes.kind == Kind::Directory);
        let known = self.node_mut(at).attributes;
        let is_opened = is_itself && attributes.is_none_or(|told| may_let_others_in(&told, &known));
        if let Ok(directory) = self.directory_mut(at) {
            directory.own = directory.own.filter(|_| !names_changed || is_awaited);
            directory.makes_for = directory.makes_for.filter(|_| !is_opened);
        }
        let differs = attributes.is_some_and(|told| told.differ(&self.node_mut(at).attributes));
        if differs || is_itself || names_changed {
            self.doubt_attributes(at);
            notices.push(if names_changed { Notice::Listing(at) } else { Notice::Attributes(at) });
        }
    }

    /// Whether the name is that of a file that is said to be made.
    fn is_awaited(&self, parent: Ino, name: &Name) -> bool {
        let ino = self.lookup_any(parent, name);
        ino.and_then(|ino| self.id(ino).ok()).is_some_and(is_expected)
    }

    /// Gives whether the set of names changed.
    fn name_told(
        &mut self,
        parent: Ino,
        name: &Name,
        entry: Option<Entry>,
        notices: &mut Vec<Notice>,
    ) -> bool {
        let Ok(directory) = self.directory(parent) else { return false };
        let known = directory.names.get(name).map(|slot| slot.what);
        let same = match (known, entry) {
            (Some(Meaning::Present(ino)), Some(entry)) => self.by_id.get(&entry.id) == Some(&ino),
            (Some(Meaning::Absent), None) => true,
            _ => false,
        };
        if !same {
            notices.push(self.name_notice(parent, name, known));
        }
        let is_kept = known.is_some() || directory.complete != 0;
        if let Some(entry) = entry {
            self.file_told(entry.id, entry.attributes, notices);
        }
        if same {
            return false;
        }
        // One that is said to be made has no name there to lose.
        if let Some(Meaning::Present(ino)) = known
            && !self.id(ino).is_ok_and(is_expected)
        {
            self.left_unseen(ino, notices);
        }
        if is_kept {
            self.mark(parent, name, Meaning::Unknown, Seen::default(), Cause::Here, notices);
        }
        true
    }

    /// The source tells how a file is. Something older than what is known is no news.
    fn file_told(&mut self, id: FileId, told: Attributes, notices: &mut Vec<Notice>) {
        let Some(ino) = self.find(id) else { return };
        let node = self.node_mut(ino);
        let known = node.attributes;
        if told.changed < known.changed || node.directory.is_some() {
            return;
        }
        let is_known = !told.differ(&known);
        let was_heard_of = node.is_heard_of();
        if node.writing == 0 {
            node.told = Some(Pages::of(&told));
            if node.told == Some(Pages::of(&known)) {
                node.found = None;
            }
        }
        if is_known && (node.own || node.writing > 0) {
            return;
        }
        let may_be_half = node.writing == 0 && (is_known || !was_heard_of);
        self.content_or_rights_differ(ino, may_be_half || told.content_differs(&known), notices);
    }

    /// An answer crossed something that happened to the node. If it is not older than what is known, nobody knows which is
    /// the younger, and the source is asked again.
    pub(super) fn crossed(&mut self, ino: Ino, said: Attributes, notices: &mut Vec<Notice>) {
        let Ok(node) = self.node(ino) else { return };
        let known = node.attributes;
        let is_news = said.kind == known.kind && said.differ(&known) && said.changed >= known.changed;
        // What is being changed from here is asked for again when that is over.
        if is_news && node.writing == 0 && node.directory.is_none() {
            self.content_or_rights_differ(ino, said.content_differs(&known), notices);
        }
    }

    /// The node is not where its changes are told of any more: what happened to it just before, nobody has looked at. Who
    /// has it open reads on.
    pub(super) fn left_unseen(&mut self, ino: Ino, notices: &mut Vec<Notice>) {
        self.content_or_rights_differ(ino, true, notices);
    }

    fn open_files_left_unseen(&mut self, at: Ino, notices: &mut Vec<Notice>) {
        let Ok(directory) = self.directory(at) else { return };
        let files = directory.names.values().filter_map(|slot| match slot.what {
            Meaning::Present(ino) => Some(ino).filter(|ino| self.node(*ino).is_ok_and(|node| node.opens > 0)),
            Meaning::Absent | Meaning::Unknown => None,
        });
        let files: Vec<_> = files.collect();
        files.into_iter().for_each(|ino| self.left_unseen(ino, notices));
    }

    /// A file is not as it is known to be: `content`, or anything else.
    fn content_or_rights_differ(&mut self, ino: Ino, content: bool, notices: &mut Vec<Notice>) {
        let Ok(node) = self.known_mut(ino) else { return };
        let content = content && node.attributes.kind == Kind::File;
        if node.writing > 0 {
            node.suspect |= content;
        } else if content {
            node.pages = None;
        }
        notices.push(if content { Notice::Content(ino) } else { Notice::Attributes(ino) });
        self.doubt_attributes(ino);
    }

    pub(super) fn lose_lease(&mut self, at: Ino, notices: &mut Vec<Notice>) {
        let clock = self.clock;
        let Ok(directory) = self.directory_mut(at) else { return };
        directory.changed_at = clock;
        directory.let_others_in();
        if directory.lease == 0 {
            return;
        }
        directory.lease = 0;
        directory.complete = 0;
        directory.changes += 1;
        // The next lease counts from where the source says; replies to what was asked until now no longer hold.
        directory.epoch = 0;
        let names: Vec<_> = directory.names.iter().map(|(name, slot)| (name.clone(), slot.what)).collect();
        for (name, what) in names {
            notices.push(Notice::Name { parent: at, name });
            if let Meaning::Present(ino) = what
                && self.node(ino).is_ok_and(|n| n.lookups > 0 && n.directory.is_none())
            {
                notices.push(Notice::Attributes(ino));
            }
        }
        notices.push(Notice::Listing(at));
    }

    /// Every lease has ended.
    pub fn lose_leases(&mut self, notices: &mut Vec<Notice>) {
        self.clock += 1;
        self.leases_lost_at = self.clock;
        let counted_on = |node: &Node| {
            node.directory.as_ref().is_some_and(|directory| directory.lease != 0 || directory.own.is_some())
        };
        let counted_on = self.nodes.iter().filter(|(_, node)| counted_on(node));
        let inos: Vec<_> = counted_on.map(|(ino, _)| *ino).collect();
        for ino in inos {
            self.lose_lease(ino, notices);
        }
    }
}
