//! What subtrees that are being walked need of the table, and what a directory that is wholly known tells by itself.
//!
//! A walk tells of directories that nobody has asked for, and that the table may not know when something is told of them:
//! what is told overtakes pages. So while there are walks, it is remembered of which unknown directories something was
//! told, and when ([`Walks::stray`]); and when something has happened to a directory that goes ([`Walks::gone`]). A
//! directory of a walk is kept only if nothing has happened in it since the walk was asked for.

use std::collections::HashMap;

use crate::file::FileId;
use crate::source::Listed;

use super::node::Meaning;
use super::{Entry, Ino, Table, Ticket};

/// Of how many directories that are not in the table it is remembered that something was told. With more, what walks tell
/// is used once and not kept.
const STRAYS_MAX: usize = 4096;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Walks {
    /// The clock when each was asked for.
    begun: Vec<u64>,
    /// The clock when something last happened to directories that are not in the table.
    strays: HashMap<FileId, u64>,
    /// The clock when there were too many.
    overflowed_at: u64,
}

impl Walks {
    /// Something was told of a directory that the table does not know.
    pub(super) fn stray(&mut self, directory: FileId, clock: u64) {
        if self.begun.is_empty() {
            return;
        }
        if self.strays.len() >= STRAYS_MAX && !self.strays.contains_key(&directory) {
            self.overflowed_at = clock;
            return;
        }
        self.strays.insert(directory, clock);
    }

    /// A directory leaves the table; something last happened in it at `changed_at`.
    pub(super) fn gone(&mut self, directory: FileId, changed_at: u64) {
        if self.begun.iter().min().is_some_and(|first| changed_at > *first) {
            self.stray(directory, changed_at);
        }
    }

    /// When something last happened to a directory that comes into the table.
    pub(super) fn told_of(&self, directory: FileId) -> u64 {
        self.strays.get(&directory).copied().unwrap_or(0)
    }
}

impl Table {
    /// A walk is about to be asked for. Give what this gives to [`Table::walk_ticket`], and in the end to
    /// [`Table::end_walk`].
    pub fn begin_walk(&mut self) -> u64 {
        self.walks.begun.push(self.clock);
        self.clock
    }

    /// No more comes of a walk.
    pub fn end_walk(&mut self, since: u64) {
        if let Some(at) = self.walks.begun.iter().position(|begun| *begun == since) {
            self.walks.begun.swap_remove(at);
        }
        if self.walks.begun.is_empty() {
            self.walks.strays.clear();
        }
    }

    /// The ticket of a directory that a walk tells of, if nothing has happened in it since the walk was asked for.
    pub fn walk_ticket(&self, directory: Ino, since: u64) -> Option<Ticket> {
        let is_kept = self.directory(directory).is_ok_and(|d| d.changed_at <= since)
            && self.walks.overflowed_at <= since
            && self.leases_lost_at <= since;
        let ticket = self.ticket(directory).ok().filter(|_| is_kept)?;
        // It says nothing of the lease under which the walk was asked for.
        Some(Ticket { clock: since, lease: 0, ..ticket })
    }

    /// The directories in `parent` in the source's order, from `first` on and then those before it. `None` when that order
    /// is not known.
    pub fn subtrees_from(&self, parent: Ino, first: Ino) -> Option<Vec<Ino>> {
        let mut found = Vec::new();
        for slot in self.directory(parent).ok()?.names.values() {
            if let Meaning::Present(ino) = slot.what
                && self.node(ino).is_ok_and(|node| node.directory.is_some())
            {
                found.push((slot.cookie, ino));
            }
        }
        found.sort_unstable();
        if found.first().is_none_or(|(cookie, _)| *cookie == 0) {
            return None;
        }
        let at = found.iter().position(|(_, ino)| *ino == first)?;
        found.rotate_left(at);
        Some(found.into_iter().map(|(_, ino)| ino).collect())
    }

    /// Whether all of the directory was known once.
    pub fn was_listed(&self, directory: Ino) -> bool {
        self.directory(directory).is_ok_and(|directory| directory.was_listed)
    }

    /// Names of a directory of which all is known, behind `cookie`, at most so many, and whether they are the last. `None`
    /// when the source has to be asked.
    pub fn known_listing(
        &self,
        directory: Ino,
        cookie: u64,
        names_max: usize,
    ) -> Option<(Vec<Listed>, bool)> {
        if !self.is_listed(directory) {
            return None;
        }
        let state = self.directory(directory).ok()?;
        let mut names = Vec::new();
        for (name, slot) in &state.names {
            match slot.what {
                Meaning::Absent => {}
                Meaning::Present(ino) if slot.cookie != 0 && slot.seen.lease == state.lease => {
                    names.push((slot.cookie, name, ino));
                }
                Meaning::Present(_) | Meaning::Unknown => return None,
            }
        }
        names.retain(|(behind, ..)| *behind > cookie);
        let is_end = names.len() <= names_max;
        if !is_end {
            names.select_nth_unstable(names_max);
            names.truncate(names_max);
        }
        names.sort_unstable();
        let listed = names.into_iter().map(|(cookie, name, ino)| {
            let entry = self.node(ino).ok().map(|node| Entry { id: node.id, attributes: node.attributes });
            Listed { name: name.clone(), entry, cookie }
        });
        Some((listed.collect(), is_end))
    }
}
