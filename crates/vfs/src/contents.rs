//! Contents of small files, kept whole, for whoever opens them next.
//!
//! [`Contents`] is pure: no clock, no I/O. A content is kept by the identity of its file and the version that its attributes
//! had when it was read, so it may arrive before anything else is known of the file. It is found only by somebody who
//! knows that the file still has that version. Beyond [`CONTENTS_BYTES_MAX`] the one goes that was not used for longest.
//!
//! **Contents that cross changes.** Two contents may have one version, where the machine's clock is coarser than its
//! writers. So whoever reads a content takes a [`Reading`] first, and what is told of the file meanwhile, or done to it from
//! here, raises a doubt: a content that was being read then is not kept.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::file::{FileId, Version};

/// The largest file that is kept, or that comes with the reply that opens it: most of what a source tree has, and no more
/// than a kernel asks for in its first read.
pub(crate) const FILE_BYTES_MAX: u32 = 128 << 10;

/// All contents that are kept, with [`ENTRY_BYTES`] for each: the sources of a program and of what it is built on.
pub(crate) const CONTENTS_BYTES_MAX: usize = 64 << 20;

/// How many there are at most: as many as fit of 2 KiB. What it takes to keep track of them is 12 MB.
const CONTENTS_MAX: usize = 32 << 10;

/// What it takes to keep a content besides its bytes, in estimate from above.
const ENTRY_BYTES: usize = 400;

/// Files in doubt that are known one by one while contents are being read. Beyond that all of them are.
const DOUBTED_MAX: usize = 4096;

#[derive(Debug)]
struct Kept {
    version: Version,
    bytes: Bytes,
    /// When it was used last, in [`Contents::order`].
    used: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Contents {
    kept: HashMap<FileId, Kept>,
    order: BTreeMap<u64, FileId>,
    uses: u64,
    bytes: usize,
    bytes_max: usize,
    /// Readings under way.
    readings: usize,
    /// Raised with each doubt.
    doubts: u64,
    /// Number of the last doubt of each file that was doubted since contents are being read.
    doubted: HashMap<FileId, u64>,
    /// Number of the last doubt of any file that is not among `doubted`.
    all_doubted: u64,
}

/// Contents are being read. To be given back with [`Contents::end_reading`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Reading(u64);

impl Default for Contents {
    fn default() -> Contents {
        Contents::new(CONTENTS_BYTES_MAX)
    }
}

impl Contents {
    pub(crate) fn new(bytes_max: usize) -> Contents {
        Contents {
            kept: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            bytes_max,
            readings: 0,
            doubts: 0,
            doubted: HashMap::new(),
            all_doubted: 0,
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.kept.len()
    }

    /// What they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The source is about to be asked for contents.
    pub(crate) fn begin_reading(&mut self) -> Reading {
        self.readings += 1;
        Reading(self.doubts)
    }

    /// No content of this reading comes any more.
    pub(crate) fn end_reading(&mut self, _reading: Reading) {
        self.readings = self.readings.saturating_sub(1);
        if self.readings == 0 {
            self.doubted = HashMap::new();
        }
    }

    /// The file may have another content from now on, under whatever version.
    pub(crate) fn doubt(&mut self, id: FileId) {
        self.remove(id);
        self.doubts += 1;
        if self.readings == 0 {
            return;
        }
        if self.doubted.len() >= DOUBTED_MAX {
            self.doubted.clear();
            self.all_doubted = self.doubts;
        }
        self.doubted.insert(id, self.doubts);
    }

    /// Keeps a content that came with a reading, if nothing has put it in doubt since. Gives what is kept. The bytes are
    /// copied: what came may be a small part of something large.
    pub(crate) fn keep(
        &mut self,
        reading: &Reading,
        id: FileId,
        version: Version,
        bytes: &[u8],
    ) -> Option<Bytes> {
        let doubted = self.doubted.get(&id).copied().unwrap_or(0).max(self.all_doubted);
        let takes = bytes.len() + ENTRY_BYTES;
        if doubted > reading.0
            || bytes.is_empty()
            || bytes.len() > FILE_BYTES_MAX as usize
            || takes > self.bytes_max
        {
            return None;
        }
        self.remove(id);
        while self.bytes + takes > self.bytes_max || self.kept.len() >= CONTENTS_MAX {
            let (_, oldest) = self.order.pop_first()?;
            if let Some(gone) = self.kept.remove(&oldest) {
                self.bytes -= gone.bytes.len() + ENTRY_BYTES;
            }
        }
        self.uses += 1;
        let kept = Kept { version, bytes: Bytes::copy_from_slice(bytes), used: self.uses };
        let bytes = kept.bytes.clone();
        self.order.insert(self.uses, id);
        self.kept.insert(id, kept);
        self.bytes += takes;
        Some(bytes)
    }

    /// Whether a content of the file is kept, of whatever version.
    pub(crate) fn has(&self, id: FileId) -> bool {
        self.kept.contains_key(&id)
    }

    /// The content that the file had at this version. One of another version is of no use any more.
    pub(crate) fn find(&mut self, id: FileId, version: Version) -> Option<Bytes> {
        let kept = self.kept.get_mut(&id)?;
        if kept.version != version {
            self.remove(id);
            return None;
        }
        self.uses += 1;
        self.order.remove(&kept.used);
        kept.used = self.uses;
        self.order.insert(self.uses, id);
        Some(kept.bytes.clone())
    }

    fn remove(&mut self, id: FileId) {
        if let Some(gone) = self.kept.remove(&id) {
            self.order.remove(&gone.used);
            self.bytes -= gone.bytes.len() + ENTRY_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{Attributes, Kind, Time};

    fn id(inode: u64) -> FileId {
        FileId { device: 1, inode, birth: 0 }
    }

    fn version(seconds: i64) -> Version {
        Attributes { modified: Time { seconds, nanoseconds: 0 }, ..Attributes::new(Kind::File) }.version()
    }

    fn keep(contents: &mut Contents, inode: u64, bytes: &[u8]) -> bool {
        let reading = contents.begin_reading();
        let kept = contents.keep(&reading, id(inode), version(1), bytes).is_some();
        contents.end_reading(reading);
        kept
    }

    #[test]
    fn a_content_is_found_under_its_version_only() {
        let mut contents = Contents::default();
        assert!(keep(&mut contents, 7, b"content"));
        assert_eq!(contents.find(id(8), version(1)), None);
        assert_eq!(contents.find(id(7), version(1)).as_deref(), Some(b"content".as_slice()));
        assert_eq!(contents.find(id(7), version(2)), None);
        assert_eq!((contents.count(), contents.bytes()), (0, 0), "the file has another one by now");
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut contents = Contents::new(3 * (100 + ENTRY_BYTES));
        (1..=3).for_each(|inode| assert!(keep(&mut contents, inode, &[0; 100])));
        assert!(contents.find(id(1), version(1)).is_some());
        assert!(keep(&mut contents, 4, &[0; 100]));
        let there = [1, 2, 3, 4].map(|inode| contents.has(id(inode)));
        assert_eq!(there, [true, false, true, true]);
        assert_eq!(contents.bytes(), 3 * (100 + ENTRY_BYTES));
    }

    #[test]
    fn no_number_of_files_of_any_size_takes_more_than_the_limit() {
        let mut contents = Contents::new(64 << 10);
        let mut random = crate::testing::Random(5);
        for _ in 0..10_000 {
            let size = random.below(70 << 10) as usize;
            keep(&mut contents, random.below(500), &vec![0; size]);
            assert!(contents.bytes() <= 64 << 10);
            assert_eq!(contents.order.len(), contents.kept.len());
            let sum: usize = contents.kept.values().map(|kept| kept.bytes.len() + ENTRY_BYTES).sum();
            assert_eq!(sum, contents.bytes());
        }
    }

    #[test]
    fn no_number_of_tiny_files_takes_more_than_so_many_entries() {
        let mut contents = Contents::default();
        for inode in 0..CONTENTS_MAX as u64 + 100 {
            assert!(keep(&mut contents, inode, b"x"));
        }
        assert_eq!(
            (contents.count(), contents.has(id(99)), contents.has(id(100))),
            (CONTENTS_MAX, false, true)
        );
    }

    #[test]
    fn large_files_and_empty_ones_are_not_kept() {
        let mut contents = Contents::default();
        assert!(!keep(&mut contents, 1, b""));
        assert!(!keep(&mut contents, 1, &vec![0; FILE_BYTES_MAX as usize + 1]));
        assert!(keep(&mut contents, 1, &vec![0; FILE_BYTES_MAX as usize]));
    }

    #[test]
    fn a_content_that_was_being_read_when_it_was_put_in_doubt_is_not_kept() {
        let mut contents = Contents::default();
        let reading = contents.begin_reading();
        contents.doubt(id(1));
        let later = contents.begin_reading();
        assert!(contents.keep(&reading, id(1), version(1), b"old").is_none());
        assert!(contents.keep(&reading, id(2), version(1), b"other").is_some());
        assert!(contents.keep(&later, id(1), version(1), b"new").is_some());
        contents.end_reading(reading);
        assert_eq!(contents.doubted.len(), 1, "another is under way");
        contents.end_reading(later);
        assert!(contents.doubted.is_empty());
    }

    #[test]
    fn more_doubts_than_are_counted_are_doubts_of_everything() {
        let mut contents = Contents::default();
        let reading = contents.begin_reading();
        (0..=DOUBTED_MAX as u64).for_each(|inode| contents.doubt(id(inode)));
        assert!(contents.doubted.len() <= DOUBTED_MAX);
        assert!(contents.keep(&reading, id(1), version(1), b"old").is_none());
        assert!(contents.keep(&reading, id(1 << 40), version(1), b"unknown").is_none());
        let later = contents.begin_reading();
        assert!(contents.keep(&later, id(1), version(1), b"new").is_some());
        contents.end_reading(reading);
        contents.end_reading(later);
    }
}
