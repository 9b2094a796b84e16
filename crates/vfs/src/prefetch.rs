//! Fetching ahead: who goes through which directories, and how much of their files' contents to ask for.
//!
//! [`Readers`] is pure: it is told which small files are opened and what has been fetched, and says what to fetch. What is
//! fetched is a walk of the source: a directory's files, then what is below it, as `grep -r`, `tar c` and `cp -r` go.
//!
//! ```text
//!  a file is opened that is not kept ─┬─ the second in its directory ────────────► walk from this directory
//!                                     ├─ the first, below what is being walked ──► walk from this directory
//!                                     └─ the first, beside one that was walked ──► walk from its parent, beginning here, unless one is under way
//!
//!  walking ─► next page ─┬─ more than ALLOWED_TIMES what has been read, or much that nobody has used ─► wait for the reader
//!                        ├─ nobody has read on for IDLE_MS, others took its place, or nothing of it is used ─► end
//!                        └─ else ─► next page
//! ```

use std::collections::VecDeque;

use crate::contents::CONTENTS_BYTES_MAX;
use crate::table::{Ino, Moment};

/// Files of one directory that are opened before its reader is taken for one who goes through it: one happens to everybody.
const OPENED_MIN: u32 = 2;

/// What is fetched for a reader at once: a page or two of a walk, and half a second of a slow link.
const ALLOWED_BYTES_MIN: u64 = 512 << 10;

/// And then for each byte that the reader has opened. A reader in another order than the source's finds most files only
/// when most have been fetched: so much, that this takes dozens of opens and not thousands.
const ALLOWED_TIMES: u64 = 64;

/// Bytes fetched for one reader and not opened: what is fetched must not push itself out.
const UNUSED_BYTES_MAX: u64 = CONTENTS_BYTES_MAX as u64 / 2;

/// Walks under way at once. Beyond that the one goes whose reader has been quiet for longest.
const FETCHES_MAX: usize = 4;

/// Directories that are remembered because files in them were opened.
const DIRECTORIES_MAX: usize = 32;

/// For how long they are, when nothing more is opened there.
const RECENT_MS: u64 = 10_000;

/// How long a reader may be quiet: longer than a program works on one small file.
pub(crate) const IDLE_MS: u64 = 2_000;

/// After so many opens of which none was of a file that had been fetched, the reader goes another way.
const MISSED_MAX: u32 = 64;

/// A small file is opened to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    /// The directories above it, the nearest first.
    pub(crate) above: &'a [Ino],
    /// Its size.
    pub(crate) bytes: u64,
    /// Its content was there.
    pub(crate) was_kept: bool,
}

/// Where a walk is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With this directory's files.
    Directory(Ino),
    /// With this directory, and on behind it in the one above.
    Below {
        /// The one above.
        parent: Ino,
        /// The first.
        first: Ino,
    },
}

/// A walk to be begun, under a number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) number: u64,
    pub(crate) start: Start,
}

/// What a walk does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Page,
    /// Look again when more has been opened, or [`IDLE_MS`] are over.
    Wait,
    End,
}

#[derive(Debug)]
struct Directory {
    ino: Ino,
    parent: Option<Ino>,
    /// Files of it that were opened and not kept.
    missed: u32,
    at: Moment,
    is_walked: bool,
}

#[derive(Debug)]
struct Fetch {
    number: u64,
    root: Ino,
    /// Where it began, to be begun again when its reader comes back.
    first: Ino,
    fetched: u64,
    /// Bytes that its reader has opened, and how much of them was there.
    read: u64,
    used: u64,
    opened: u32,
    at: Moment,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    directories: VecDeque<Directory>,
    fetches: Vec<Fetch>,
    begun: u64,
}

impl Readers {
    /// Whether anything is being fetched: then openings of what is kept are of interest too.
    pub(crate) fn is_fetching(&self) -> bool {
        !self.fetches.is_empty()
    }

    /// Takes note of an opening. Gives the walk that is to be begun, if one is.
    pub(crate) fn opened(&mut self, opening: Opening<'_>, now: Moment) -> Option<Begin> {
        let Opening { above, bytes, was_kept } = opening;
        let mut read = 0;
        for fetch in self.fetches.iter_mut().filter(|fetch| above.contains(&fetch.root)) {
            fetch.at = now;
            fetch.opened = fetch.opened.saturating_add(1);
            fetch.read = fetch.read.saturating_add(bytes);
            if was_kept {
                fetch.used = fetch.used.saturating_add(bytes);
            }
            read = read.max(fetch.read);
        }
        let is_followed = read > 0;
        if was_kept {
            return None;
        }
        let (directory, parent) = (*above.first()?, above.get(1).copied());
        let is_beside = |other: &Directory| {
            other.is_walked && other.ino != directory && other.parent.is_some() && other.parent == parent
        };
        self.directories.retain(|known| now.0.saturating_sub(known.at.0) < RECENT_MS);
        let beside = self.directories.iter().any(is_beside);
        let known = self.remember(directory, parent, now);
        known.missed = known.missed.saturating_add(1);
        let is_due = known.missed >= OPENED_MIN || beside || is_followed;
        if known.is_walked || !is_due {
            return None;
        }
        known.is_walked = true;
        let start = match parent {
            Some(parent) if beside && !self.fetches.iter().any(|fetch| fetch.root == parent) => {
                Start::Below { parent, first: directory }
            }
            _ => Start::Directory(directory),
        };
        Some(self.begin(start, directory, read.max(bytes), now))
    }

    /// The directory, as the one that was last.
    fn remember(&mut self, ino: Ino, parent: Option<Ino>, at: Moment) -> &mut Directory {
        let known = self.directories.iter().position(|known| known.ino == ino);
        let known = known.and_then(|known| self.directories.remove(known));
        if self.directories.len() >= DIRECTORIES_MAX {
            self.directories.pop_front();
        }
        let known = known.unwrap_or(Directory { ino, parent, missed: 0, at, is_walked: false });
        self.directories.push_back(Directory { parent, at, ..known });
        self.directories.back_mut().expect("it was pushed in the line above")
    }

    fn begin(&mut self, start: Start, first: Ino, read: u64, at: Moment) -> Begin {
        if self.fetches.len() >= FETCHES_MAX
            && let Some(quiet) =
                self.fetches.iter().enumerate().min_by_key(|(_, fetch)| (fetch.at, fetch.number))
        {
            self.fetches.remove(quiet.0);
        }
        self.begun += 1;
        let root = if let Start::Below { parent, .. } = start { parent } else { first };
        let number = self.begun;
        self.fetches.push(Fetch { number, root, first, fetched: 0, read, used: 0, opened: 0, at });
        Begin { number, start }
    }

    /// So much has come.
    pub(crate) fn fetched(&mut self, number: u64, bytes: u64) {
        if let Some(fetch) = self.fetches.iter_mut().find(|fetch| fetch.number == number) {
            fetch.fetched = fetch.fetched.saturating_add(bytes);
        }
    }

    /// What the walk does next. One that ends is forgotten.
    pub(crate) fn next(&mut self, number: u64, now: Moment) -> Next {
        let Some(at) = self.fetches.iter().position(|fetch| fetch.number == number) else { return Next::End };
        let Fetch { first, fetched, read, used, opened, at: last, .. } = self.fetches[at];
        let is_idle = now.0.saturating_sub(last.0) >= IDLE_MS;
        if is_idle || (opened >= MISSED_MAX && used == 0) {
            self.fetches.remove(at);
            if is_idle && let Some(known) = self.directories.iter_mut().find(|known| known.ino == first) {
                // Its reader may come back.
                (known.is_walked, known.missed) = (false, 0);
            }
            return Next::End;
        }
        let allowed = ALLOWED_BYTES_MIN.saturating_add(read.saturating_mul(ALLOWED_TIMES));
        match fetched >= allowed || fetched.saturating_sub(used) >= UNUSED_BYTES_MAX {
            true => Next::Wait,
            false => Next::Page,
        }
    }

    /// The walk has come to its end, or cannot go on.
    pub(crate) fn ended(&mut self, number: u64) {
        self.fetches.retain(|fetch| fetch.number != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const ROOT: Ino = Ino::ROOT;
    const NOW: Moment = Moment(1_000_000);

    fn open(readers: &mut Readers, above: &[u64], was_kept: bool, now: Moment) -> Option<Begin> {
        let above: Vec<_> = above.iter().copied().map(Ino).collect();
        readers.opened(Opening { above: &above, bytes: 4 * KIB, was_kept }, now)
    }

    fn missed(readers: &mut Readers, above: &[u64]) -> Option<Start> {
        open(readers, above, false, NOW).map(|begin| begin.start)
    }

    #[test]
    fn two_files_of_one_directory_begin_a_walk_and_two_of_different_ones_do_not() {
        let mut readers = Readers::default();
        assert_eq!(missed(&mut readers, &[10, 1]), None);
        assert_eq!(missed(&mut readers, &[20, 5, 1]), None);
        assert_eq!(missed(&mut readers, &[30, 6, 1]), None);
        assert_eq!(missed(&mut readers, &[20, 5, 1]), Some(Start::Directory(Ino(20))));
        assert_eq!(missed(&mut readers, &[20, 5, 1]), None, "it is under way");
        assert_eq!(missed(&mut readers, &[1]), None, "the root has no directory above it");
        assert_eq!(missed(&mut readers, &[1]), Some(Start::Directory(ROOT)));
    }

    #[test]
    fn files_that_are_kept_begin_nothing() {
        let mut readers = Readers::default();
        for _ in 0..10 {
            assert_eq!(open(&mut readers, &[10, 1], true, NOW), None);
        }
        assert!(!readers.is_fetching());
    }

    #[test]
    fn files_opened_long_after_each_other_begin_nothing() {
        let mut readers = Readers::default();
        for step in 0..10 {
            let now = Moment(NOW.0 + step * RECENT_MS);
            assert_eq!(open(&mut readers, &[10, 1], false, now), None);
        }
    }

    #[test]
    fn a_reader_who_goes_on_beside_or_below_is_followed_at_once() {
        let mut readers = Readers::default();
        missed(&mut readers, &[10, 1]);
        missed(&mut readers, &[10, 1]);
        assert_eq!(
            missed(&mut readers, &[11, 10, 1]),
            Some(Start::Directory(Ino(11))),
            "below what is walked"
        );
        let behind = Start::Below { parent: ROOT, first: Ino(12) };
        assert_eq!(missed(&mut readers, &[12, 1]), Some(behind), "beside what was walked");
        assert_eq!(missed(&mut readers, &[13, 1]), Some(Start::Directory(Ino(13))), "the walk there goes on");
    }

    /// Pages until the walk waits or ends.
    fn pages(readers: &mut Readers, number: u64, page_bytes: u64) -> (u64, Next) {
        let mut fetched = 0;
        loop {
            match readers.next(number, NOW) {
                Next::Page => {
                    readers.fetched(number, page_bytes);
                    fetched += page_bytes;
                }
                other => return (fetched, other),
            }
        }
    }

    #[test]
    fn what_is_fetched_grows_with_what_is_read_and_not_beyond_what_is_unused() {
        let mut readers = Readers::default();
        open(&mut readers, &[10, 1], false, NOW);
        let begin = open(&mut readers, &[10, 1], false, NOW).expect("the second");
        let (first, next) = pages(&mut readers, begin.number, 256 * KIB);
        assert_eq!(next, Next::Wait);
        assert!((ALLOWED_BYTES_MIN..=1024 * KIB).contains(&first), "{first}");
        open(&mut readers, &[10, 1], true, NOW);
        let (second, next) = pages(&mut readers, begin.number, 256 * KIB);
        assert_eq!((second, next), (256 * KIB, Next::Wait), "64 times 4 KiB");
        for _ in 0..1000 {
            open(&mut readers, &[10, 1], false, NOW);
        }
        let (third, next) = pages(&mut readers, begin.number, 256 * KIB);
        assert_eq!(next, Next::Wait);
        assert!(first + second + third <= UNUSED_BYTES_MAX + 256 * KIB);
        open(&mut readers, &[10, 1], true, NOW);
        assert_eq!(readers.next(begin.number, NOW), Next::Wait, "one used file is room for less than a page");
    }

    #[test]
    fn a_walk_whose_reader_is_quiet_ends_and_begins_anew_when_he_comes_back() {
        let mut readers = Readers::default();
        open(&mut readers, &[10, 1], false, NOW);
        let begin = open(&mut readers, &[10, 1], false, NOW).expect("the second");
        let later = Moment(NOW.0 + IDLE_MS);
        assert_eq!(readers.next(begin.number, Moment(later.0 - 1)), Next::Page);
        assert_eq!(readers.next(begin.number, later), Next::End);
        assert!(!readers.is_fetching());
        assert_eq!(open(&mut readers, &[10, 1], false, later), None);
        let again = open(&mut readers, &[10, 1], false, later).expect("the second again");
        assert_ne!(again.number, begin.number);
    }

    #[test]
    fn a_walk_of_which_nothing_is_used_ends_and_one_of_which_something_is_goes_on() {
        for (used, next) in [(0, Next::End), (1, Next::Page)] {
            let mut readers = Readers::default();
            open(&mut readers, &[10, 1], false, NOW);
            let begin = open(&mut readers, &[10, 1], false, NOW).expect("the second");
            for number in 0..MISSED_MAX + used {
                assert_eq!(open(&mut readers, &[10, 1], number < used, NOW), None, "it is under way");
            }
            assert_eq!(readers.next(begin.number, NOW), next);
        }
    }

    #[test]
    fn any_number_of_readers_takes_bounded_memory_and_the_quietest_gives_way() {
        let mut readers = Readers::default();
        let mut numbers = Vec::new();
        for directory in 0..1000 {
            let above = [100 + directory, 10_000 + directory, 1];
            let now = Moment(NOW.0 + directory);
            open(&mut readers, &above, false, now);
            numbers.extend(open(&mut readers, &above, false, now).map(|begin| begin.number));
        }
        assert_eq!(numbers.len(), 1000);
        assert!(readers.directories.len() <= DIRECTORIES_MAX && readers.fetches.len() <= FETCHES_MAX);
        let now = Moment(NOW.0 + 1000);
        assert_eq!(readers.next(numbers[0], now), Next::End);
        assert_eq!(readers.next(numbers[999], now), Next::Page);
    }
}
