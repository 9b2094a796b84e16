//! Names that the kernel may know and that are no node's.
//!
//! A successor makes the kernel doubt every name that it may know. Those of files follow from the nodes that it was given; these
//! follow from nothing:
//!
//! - Names of which it was told that they are not there. They are recorded as they are told, unless the kernel forgets them by
//!   itself before it matters, and are remembered until the kernel is told otherwise.
//! - Names that a node has lost, and those of the above that were taken back. The kernel has been told to forget them, but a notice
//!   waits for other requests, and may be lost with its writer. The latest are remembered: those before have been carried out.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::file::Name;

use super::{Believe, Ino, Table, UNLEASED_MS};

/// How many are remembered: some 16 MiB. Those above are believed for [`UNLEASED_MS`].
const REMEMBERED_MAX: usize = 128 << 10;

/// How many of those that a node has lost: more than can wait to be told.
const LOST_MAX: usize = 128 << 10;

/// See the module's documentation. It may have more than the kernel still knows.
#[derive(Debug, Default)]
pub(super) struct AbsentNames {
    lost: VecDeque<(Ino, Name)>,
    directories: HashMap<Ino, HashSet<Name>>,
    count: usize,
}

/// What remembering a name has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remembered {
    /// It was not among them.
    New,
    /// It was.
    Already,
    /// There are [`REMEMBERED_MAX`] others.
    No,
}

impl AbsentNames {
    pub(super) fn remember(&mut self, directory: Ino, name: &[u8]) -> Remembered {
        if self.has(directory, name) {
            return Remembered::Already;
        }
        if self.count >= REMEMBERED_MAX {
            return Remembered::No;
        }
        self.directories.entry(directory).or_default().insert(name.into());
        self.count += 1;
        Remembered::New
    }

    pub(super) fn has(&self, directory: Ino, name: &[u8]) -> bool {
        self.directories.get(&directory).is_some_and(|names| names.contains(name))
    }

    /// The kernel was told that the name is there.
    pub(super) fn appeared(&mut self, directory: Ino, name: &[u8]) {
        let Some(names) = self.directories.get_mut(&directory) else { return };
        self.count -= usize::from(names.remove(name));
        if names.is_empty() {
            self.directories.remove(&directory);
        }
    }

    /// The kernel is being told not to believe what it was told of the name.
    pub(super) fn taken_back(&mut self, directory: Ino, name: &Name) {
        if self.has(directory, name) {
            self.appeared(directory, name);
            self.lost(directory, name.clone());
        }
    }

    /// The kernel has forgotten the directory, and every name in it before.
    pub(super) fn forget(&mut self, directory: Ino) {
        self.count -= self.directories.remove(&directory).map_or(0, |names| names.len());
    }

    /// A node that the kernel has, or had, is not at this name any more.
    pub(super) fn lost(&mut self, directory: Ino, name: Name) {
        if self.lost.len() >= LOST_MAX {
            self.lost.pop_front();
        }
        self.lost.push_back((directory, name));
    }

    /// Those that nodes have lost, the latest last.
    pub(super) fn lost_lately(&self) -> impl Iterator<Item = &(Ino, Name)> {
        self.lost.iter()
    }

    /// Those of which the kernel was told that they are not there.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Ino, &Name)> {
        self.directories.iter().flat_map(|(directory, names)| names.iter().map(|name| (*directory, name)))
    }
}

impl Table {
    /// The kernel is about to be told that a name is not there. For how long it may believe that: a name that a successor would
    /// not know of has to end by itself.
    pub(crate) fn tell_absent(&mut self, directory: Ino, name: &[u8], believe: Believe) -> Believe {
        let ends_by_itself = match believe {
            Believe::Once => true,
            Believe::For(milliseconds) => milliseconds <= UNLEASED_MS,
            Believe::Leased => false,
        };
        match !ends_by_itself && !self.record_absent(directory, name) {
            true => Believe::For(UNLEASED_MS),
            false => believe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_given_back() {
        let mut names = AbsentNames::default();
        let (one, other) = (Ino(1), Ino(2));
        assert_eq!(names.remember(one, b"a"), Remembered::New);
        assert_eq!(names.remember(one, b"a"), Remembered::Already);
        assert_eq!(names.remember(one, b"b"), Remembered::New);
        assert_eq!(names.remember(other, b"a"), Remembered::New);
        names.appeared(one, b"a");
        names.appeared(one, b"a");
        names.appeared(other, b"unknown");
        assert_eq!((names.count, names.iter().count()), (2, 2));
        names.forget(one);
        names.forget(one);
        names.appeared(other, b"a");
        assert_eq!((names.count, names.directories.len()), (0, 0));
    }

    #[test]
    fn what_is_taken_back_makes_room_and_is_known_for_a_while() {
        let mut names = AbsentNames::default();
        names.remember(Ino(1), b"a");
        names.taken_back(Ino(1), &b"a".as_slice().into());
        names.taken_back(Ino(1), &b"other".as_slice().into());
        assert_eq!((names.count, names.has(Ino(1), b"a")), (0, false));
        assert_eq!(names.lost_lately().count(), 1);
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let mut names = AbsentNames { count: REMEMBERED_MAX - 1, ..AbsentNames::default() };
        assert_eq!(names.remember(Ino(1), b"last"), Remembered::New);
        assert_eq!(names.remember(Ino(1), b"one more"), Remembered::No);
        assert_eq!(names.remember(Ino(1), b"last"), Remembered::Already);
    }
}
