//! Files that were said to be made before they are.
//!
//! Such a node has an identity of its own that no file has, until the source has made the file and says which it is. What
//! was seen of it is nothing: its attributes and its name are asked for, by whoever has waited until it is made.

use crate::errno::Result;
use crate::file::{Attributes, Caller, Entry, FileId, Name};

use super::node::{Meaning, Seen};
use super::{Believe, Cause, Ino, Known, Moment, Notice, Table, Ticket, UNLEASED_MS};

/// No file system has this number.
const NO_DEVICE: u64 = u64::MAX;

/// The birth of what stands for a file that could not be made. One that is not made yet has a later one.
const NEVER_MADE: u64 = u64::MAX - 1;

/// What the owner of a directory needs to make files in it.
const MAKE: u16 = 0o300;

/// Whether it stands for a file that is not made yet.
pub(crate) fn is_expected(id: FileId) -> bool {
    id.device == NO_DEVICE && id.birth == u64::MAX
}

impl Table {
    /// A file was made in the directory for this user.
    pub fn made_for(&mut self, directory: Ino, caller: Caller) {
        if let Ok(directory) = self.directory_mut(directory) {
            let is_certain = directory.lease != 0 || directory.own.is_some();
            directory.makes_for = is_certain.then_some((caller.uid, caller.gid));
        }
    }

    /// Whether it is known who may make files in the directory: its mode and its owner are as they were last.
    pub fn has_makers(&self, directory: Ino) -> bool {
        self.directory(directory).is_ok_and(|directory| directory.makes_for.is_some())
    }

    /// Another may be allowed to make files in the directory from now on, and who was is not any more.
    pub fn doubt_makers(&mut self, directory: Ino) {
        if let Ok(directory) = self.directory_mut(directory) {
            directory.makes_for = None;
        }
    }

    /// The directory has just been made from here, for this user.
    pub fn own(&mut self, ino: Ino, caller: Caller) {
        let Ok(node) = self.known_mut(ino) else { return };
        let lets_in = node.attributes.mode & MAKE == MAKE;
        if let Some(directory) = node.directory.as_deref_mut()
            && lets_in
            && directory.names.is_empty()
        {
            directory.own = Some(directory.let_go);
            directory.makes_for = Some((caller.uid, caller.gid));
        }
    }

    /// A directory of which nobody will tell is not known to be ours.
    pub fn disown_unwatched(&mut self, ino: Ino) {
        if let Ok(directory) = self.directory_mut(ino)
            && directory.lease == 0
        {
            directory.let_others_in();
        }
    }

    /// A listing that is used for nothing else has this name: unless it is, or was, one of ours, somebody was here before
    /// anybody could have told of it.
    pub(super) fn disown_for(&mut self, ino: Ino, name: &Name) {
        if self.directory(ino).is_ok_and(|directory| !directory.names.contains_key(name)) {
            self.disown(ino);
        }
    }

    /// Somebody else makes files in the directory, or may have.
    pub fn disown(&mut self, ino: Ino) {
        if let Ok(directory) = self.directory_mut(ino) {
            directory.own = None;
        }
    }

    /// Whether a file that is made under this name is sure to be made: nothing has the name and nobody else has changed the
    /// directory, as far as has been told, and this user has made one there before, or the directory itself. Where it is to
    /// be made `exclusively`, the directory has to be our own.
    pub fn is_sure_to_make(
        &mut self,
        parent: Ino,
        name: &Name,
        exclusively: bool,
        caller: Caller,
        now: Moment,
    ) -> bool {
        let Ok(directory) = self.directory(parent) else { return false };
        if directory.makes_for != Some((caller.uid, caller.gid)) {
            return false;
        }
        let is_own = directory.is_own();
        match self.lookup(parent, name, now) {
            Ok(Some(Known::Absent(believe))) => is_own || !exclusively && believe == Believe::Leased,
            _ => false,
        }
    }

    /// Gives `name` to a file that is about to be made, and counts a lookup of it.
    pub fn expect(
        &mut self,
        parent: Ino,
        name: &Name,
        attributes: Attributes,
        notices: &mut Vec<Notice>,
    ) -> Result<Ino> {
        let id = FileId { device: NO_DEVICE, inode: self.next, birth: u64::MAX };
        let ino = self.insert(Entry { id, attributes }, Seen::default());
        self.set_slot(parent, name, Meaning::Present(ino), Seen::default(), Cause::Here, notices)?;
        self.add_lookup(ino);
        self.doubt_attributes(parent);
        Ok(ino)
    }

    /// The file has been made; the directory's attributes then, where they were told. The ticket is that of
    /// [`Table::end_change`].
    pub fn made(
        &mut self,
        ino: Ino,
        (parent, name): (Ino, &Name),
        (entry, directory): (Entry, Option<Attributes>),
        ticket: Ticket,
        now: Moment,
        notices: &mut Vec<Notice>,
    ) -> Result<()> {
        self.identify(ino, entry, notices);
        // Changes of other names that were made from here meanwhile say nothing of this one, and of this one there were none.
        let is_undisturbed = self.lookup_any(parent, name) == Some(ino)
            && self.directory(parent).is_ok_and(|d| d.epoch == ticket.epoch && d.lease == ticket.lease);
        if !is_undisturbed || self.holds(parent, ticket) {
            self.changed_here(parent, name, (Some(entry), directory), ticket, now, notices)?;
            return Ok(());
        }
        self.doubt_attributes(parent);
        let seen = Seen { at: now, lease: ticket.lease, valid_ms: UNLEASED_MS };
        if let Some(slot) = self.directory_mut(parent)?.names.get_mut(name) {
            slot.seen = seen;
        }
        let node = self.known_mut(ino)?;
        if node.writing == 0 && node.attributes.links <= 1 {
            node.seen = seen;
        }
        Ok(())
    }

    /// The node is this file from now on. Gives the one that was it before.
    pub(super) fn set_identity(&mut self, ino: Ino, id: FileId) -> Option<Ino> {
        let node = self.known_mut(ino).ok()?;
        let before = std::mem::replace(&mut node.id, id);
        if self.by_id.get(&before) == Some(&ino) {
            self.by_id.remove(&before);
        }
        self.by_id.insert(id, ino).filter(|other| *other != ino)
    }

    /// This is the file that has been made.
    fn identify(&mut self, ino: Ino, entry: Entry, notices: &mut Vec<Notice>) {
        let other = self.set_identity(ino, entry.id);
        self.record_identity(ino, entry.id);
        let Ok(node) = self.known_mut(ino) else { return };
        // Nothing that was written to it has been answered before.
        node.attributes = entry.attributes;
        // Somebody has seen it meanwhile. One file is one node: the other is looked for no more.
        let Some(other) = other else { return };
        let names = self.node(other).map_or(Vec::new(), |node| node.names.clone());
        for (parent, name) in names {
            if self.lookup_any(parent, &name) == Some(other) {
                self.mark(parent, &name, Meaning::Unknown, Seen::default(), Cause::Here, notices);
            }
            if let Ok(node) = self.known_mut(other) {
                node.names.retain(|(at, of)| !(*at == parent && *of == name));
            }
            notices.push(Notice::Name { parent, name });
        }
        notices.push(Notice::Content(other));
        self.consider_idle(other);
    }

    /// What was to be this file has another name, and what has this one is not known.
    pub fn doubt_expected(&mut self, ino: Ino, parent: Ino, name: &Name, notices: &mut Vec<Notice>) {
        if self.lookup_any(parent, name) == Some(ino) {
            self.mark(parent, name, Meaning::Unknown, Seen::default(), Cause::Here, notices);
        }
        self.disown(parent);
        notices.push(Notice::Name { parent, name: name.clone() });
        notices.push(Notice::Listing(parent));
    }

    /// The file has not been made. Whoever has it open is told so, by a successor too: that has nothing to wait for.
    pub fn unexpect(&mut self, ino: Ino, parent: Ino, name: &Name, notices: &mut Vec<Notice>) {
        if self.lookup_any(parent, name) == Some(ino) {
            self.mark(parent, name, Meaning::Unknown, Seen::default(), Cause::Here, notices);
        }
        if let Some(id) = self.id(ino).ok().filter(|id| is_expected(*id)) {
            let never_made = FileId { birth: NEVER_MADE, ..id };
            self.set_identity(ino, never_made);
            self.record_identity(ino, never_made);
        }
        if let Ok(directory) = self.directory_mut(parent) {
            directory.let_others_in();
        }
        self.doubt_attributes(parent);
        notices.push(Notice::Name { parent, name: name.clone() });
        notices.push(Notice::Attributes(ino));
        notices.push(Notice::Listing(parent));
    }
}
