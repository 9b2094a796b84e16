//! What the source tells unasked.
//!
//! It is taken as a reason to doubt, never as knowledge: between the moment when the source looked and the one when it
//! told, a change from here may have been carried out and answered. So what is told and equals what is known changes
//! nothing, and anything else makes the next question go to the source.

use crate::file::{Entry, Kind, Name};
use crate::source::{Change, Changed};

use super::node::{Meaning, Seen};
use super::{Cause, Ino, Notice, Table};

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
        let names_changed = match changed.what {
            Change::LeaseLost => return self.lose_lease(at, notices),
            Change::Itself => false,
            Change::Absent { name } => self.name_told(at, &name, None, notices),
            Change::Present { name, entry } => self.name_told(at, &name, Some(entry), notices),
        };
        let attributes = changed.attributes.filter(|attributes| attributes.kind == Kind::Directory);
        let differs = attributes.is_some_and(|told| told.differ(&self.node_mut(at).attributes));
        if differs || is_itself || names_changed {
            self.doubt_attributes(at);
            notices.push(if names_changed { Notice::Listing(at) } else { Notice::Attributes(at) });
        }
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
            self.file_told(entry, notices);
        }
        if same {
            return false;
        }
        if let Some(Meaning::Present(ino)) = known {
            self.doubt_attributes(ino);
            notices.push(Notice::Attributes(ino));
        }
        if is_kept {
            self.mark(parent, name, Meaning::Unknown, Seen::default(), Cause::Here, notices);
        }
        true
    }

    /// The source says how a file is. Something older than what is known is no news.
    fn file_told(&mut self, told: Entry, notices: &mut Vec<Notice>) {
        let Some(ino) = self.find(told.id) else { return };
        let node = self.node_mut(ino);
        let (known, told) = (node.attributes, told.attributes);
        if !told.differ(&known) || told.changed < known.changed || node.directory.is_some() {
            return;
        }
        let content = node.attributes.kind == Kind::File && told.content_differs(&known);
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
        let leased =
            self.nodes.iter().filter(|(_, node)| node.directory.as_ref().is_some_and(|d| d.lease != 0));
        let inos: Vec<_> = leased.map(|(ino, _)| *ino).collect();
        for ino in inos {
            self.lose_lease(ino, notices);
        }
    }
}
