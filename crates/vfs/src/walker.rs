//! Walking ahead: which directories are about to come of themselves, and how far a walk may be ahead of its reader.
//!
//! A [`Walker`] is pure: it is told what readers list and what walks bring, and says who waits for what.
//!
//! ```text
//!            the reader goes into a directory that it found in one it has listed
//!  (nothing) ───────────────────────────────────────────────────────────────────► a walk below that one, from there on
//!
//!  expected ──its parts come──► brought ──the reader goes into it──► used: the walk may be twice as far ahead
//!      └──────left out by the source, or the walk ends──────────► asked for by whoever wants it
//! ```
//!
//! A walk brings a directory and then what is below it, in the source's order. So what it expects is a stack, and what lies
//! above a directory that comes was left out.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::table::Ino;

/// Entries that a walk may bring before its reader has gone into any directory of it: what an agent finds in some 7 ms.
const UNPROVEN_ENTRIES: u64 = 1024;

/// How many entries a reader waits for, that are not of the directory it wants, before it asks for that itself: what comes
/// in the time of a round trip of 20 ms.
const WAITED_ENTRIES_MAX: u64 = 4096;

/// Walks at once: readers that go through different trees. With one more, the one goes that was of use least lately.
const WALKS_MAX: usize = 4;

/// Directories of which it is remembered that a reader has listed them lately: as deep as trees are, for each walk.
const LISTED_MAX: usize = 64;

/// Directories that one walk is about to bring. One with more ends: it is of use to nobody soon.
const EXPECTED_MAX: usize = 256 << 10;

/// Directories of which it is remembered that a walk has left them out.
const LEFT_OUT_MAX: usize = 1024;

/// Directories of which it is remembered that a walk has brought them and nobody has listed them yet.
const UNLISTED_MAX: usize = 16 << 10;

/// Names one walk among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalkId(u64);

/// Whether a walk takes what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Take,
    /// It is far enough ahead.
    Wait,
    /// Nobody wants it any more.
    End,
}

/// A part of a directory that a walk has brought.
pub(crate) struct Brought {
    pub(crate) directory: Ino,
    pub(crate) entries: usize,
    /// Directories in this part, in its order.
    pub(crate) found: Vec<Ino>,
    /// It is the last.
    pub(crate) end: bool,
}

#[derive(Debug)]
struct Walk {
    id: WalkId,
    /// What is to come, the next one last, and the same as a set.
    expected: Vec<Ino>,
    is_expected: HashSet<Ino>,
    /// Directories in the one that is coming.
    found: Vec<Ino>,
    entries_of_current: u64,
    brought: u64,
    used: u64,
    /// Until so many have been brought, somebody waits. Whoever still does says so again after each part.
    wanted: u64,
    /// Brought, and not yet gone into: how many entries each had.
    unused: HashMap<Ino, u64>,
    /// Before any is used.
    unproven: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Walker {
    /// That of use last is the last.
    walks: Vec<Walk>,
    listed: VecDeque<Ino>,
    /// Brought, and not listed by anybody since.
    unlisted: HashSet<Ino>,
    left_out: HashSet<Ino>,
    ids: u64,
    /// The furthest that a walk is ahead of its reader.
    ahead_max: u64,
    /// With what the next walk begins.
    unproven: u64,
}

impl Walker {
    /// At most `ahead_max` entries ahead of a reader; 0 walks nowhere.
    pub(crate) fn new(ahead_max: u64) -> Walker {
        Walker {
            walks: Vec::new(),
            listed: VecDeque::new(),
            unlisted: HashSet::new(),
            left_out: HashSet::new(),
            ids: 0,
            ahead_max,
            unproven: UNPROVEN_ENTRIES,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.walks.is_empty()
    }

    /// A reader lists the directory.
    pub(crate) fn listed(&mut self, directory: Ino) {
        self.entered(directory);
        self.unlisted.remove(&directory);
        if self.listed.contains(&directory) {
            return;
        }
        if self.listed.len() == LISTED_MAX {
            self.listed.pop_front();
        }
        self.listed.push_back(directory);
    }

    /// Whether a walk has brought the directory since it was last listed. Says so once.
    pub(crate) fn take_unlisted(&mut self, directory: Ino) -> bool {
        self.unlisted.remove(&directory)
    }

    /// A reader looks for something in the directory.
    pub(crate) fn entered(&mut self, directory: Ino) {
        let Some(at) = self.walks.iter().position(|walk| walk.unused.contains_key(&directory)) else {
            return;
        };
        let mut walk = self.walks.remove(at);
        walk.used += walk.unused.remove(&directory).unwrap_or(0);
        self.walks.push(walk);
    }

    /// Whether a walk is worth to begin below `parent` where a reader wants `directory`, of which not all is known.
    pub(crate) fn is_worth_walking(&self, parent: Ino, directory: Ino) -> bool {
        self.ahead_max > 0
            && self.listed.contains(&parent)
            && !self.left_out.contains(&directory)
            && !self.expects(directory)
    }

    /// Whether a walk is about to bring the directory.
    pub(crate) fn expects(&self, directory: Ino) -> bool {
        self.walks.iter().any(|walk| walk.is_expected.contains(&directory))
    }

    /// Whether a reader is to wait for a directory. `since` is that reader's, and at first nothing.
    pub(crate) fn is_worth_waiting(&mut self, directory: Ino, since: &mut Option<(WalkId, u64)>) -> bool {
        let Some(walk) = self.walks.iter_mut().find(|walk| walk.is_expected.contains(&directory)) else {
            return false;
        };
        let (id, from) = *since.get_or_insert((walk.id, walk.brought));
        let is_coming = walk.expected.last() == Some(&directory);
        let of_it = if is_coming { walk.entries_of_current } else { 0 };
        if id != walk.id || walk.brought.saturating_sub(from + of_it) > WAITED_ENTRIES_MAX {
            return false;
        }
        walk.wanted = walk.brought + WAITED_ENTRIES_MAX;
        true
    }

    /// A walk begins that is about to bring these, in this order. `None` if one is about to bring the first already.
    pub(crate) fn begin(&mut self, mut directories: Vec<Ino>) -> Option<WalkId> {
        if directories.first().is_none_or(|first| self.expects(*first)) || directories.len() > EXPECTED_MAX {
            return None;
        }
        if self.walks.len() == WALKS_MAX {
            self.walks.remove(0);
        }
        self.ids += 1;
        directories.reverse();
        let id = WalkId(self.ids);
        self.walks.push(Walk {
            id,
            is_expected: directories.iter().copied().collect(),
            expected: directories,
            found: Vec::new(),
            entries_of_current: 0,
            brought: 0,
            used: 0,
            wanted: 0,
            unused: HashMap::new(),
            unproven: self.unproven.min(self.ahead_max),
        });
        Some(id)
    }

    pub(crate) fn next(&self, id: WalkId) -> Next {
        let Some(walk) = self.walks.iter().find(|walk| walk.id == id) else { return Next::End };
        let may_be_ahead = (walk.unproven + walk.used).min(self.ahead_max);
        if walk.brought < walk.wanted || walk.brought < walk.used + may_be_ahead {
            Next::Take
        } else {
            Next::Wait
        }
    }

    /// A part of a directory has come. `false` when it was not expected.
    pub(crate) fn brought(&mut self, id: WalkId, part: Brought) -> bool {
        let Some(walk) = self.walks.iter_mut().find(|walk| walk.id == id) else { return false };
        if !walk.is_expected.contains(&part.directory) {
            return false;
        }
        while let Some(next) = walk.expected.pop_if(|next| *next != part.directory) {
            walk.is_expected.remove(&next);
            if self.left_out.len() >= LEFT_OUT_MAX {
                self.left_out.clear();
            }
            self.left_out.insert(next);
        }
        let entries = part.entries as u64;
        walk.brought += entries;
        walk.entries_of_current += entries;
        walk.wanted = 0;
        walk.found.extend(part.found);
        if part.end {
            // One for the directory itself: those with nothing in them are brought too.
            walk.brought += 1;
            walk.unused.insert(part.directory, std::mem::take(&mut walk.entries_of_current) + 1);
            if self.unlisted.len() >= UNLISTED_MAX {
                self.unlisted.clear();
            }
            self.unlisted.insert(part.directory);
            walk.expected.pop();
            walk.is_expected.remove(&part.directory);
            walk.is_expected.extend(walk.found.iter().copied());
            walk.expected.extend(walk.found.drain(..).rev());
        }
        if walk.expected.len() > EXPECTED_MAX {
            self.end(id, false);
        }
        true
    }

    /// No more comes of a walk. The next one is trusted as far as this one was of use. Those that it did not bring to its
    /// `end` were left out.
    pub(crate) fn end(&mut self, id: WalkId, is_end: bool) {
        let Some(at) = self.walks.iter().position(|walk| walk.id == id) else { return };
        let walk = self.walks.remove(at);
        self.unproven = walk.used.clamp(UNPROVEN_ENTRIES, self.ahead_max.max(UNPROVEN_ENTRIES));
        if is_end {
            self.left_out
                .extend(walk.expected.into_iter().take(LEFT_OUT_MAX.saturating_sub(self.left_out.len())));
        }
    }
}

#[cfg(test)]
mod tests;
