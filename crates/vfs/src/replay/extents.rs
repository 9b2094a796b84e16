//! What counts in the end of many writes to one file.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::file::OFFSET_MAX;

/// Ranges that do not overlap, by their offsets.
#[derive(Clone, Debug, Default)]
pub(super) struct Extents(BTreeMap<u64, Bytes>);

/// A range that is written at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

impl Piece {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl Extents {
    /// Puts a write over those before it. `None` if no file has this range.
    pub(super) fn put(&mut self, offset: u64, bytes: Bytes) -> Option<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= OFFSET_MAX)?;
        if bytes.is_empty() {
            return Some(());
        }
        // What begins before it may reach into it, and beyond it.
        if let Some((at, under)) = self.0.range(..offset).next_back().map(|(at, bytes)| (*at, bytes.clone()))
        {
            let under_end = at + under.len() as u64;
            if under_end > offset {
                self.0.insert(at, under.slice(..index(offset - at)));
            }
            if under_end > end {
                self.0.insert(end, under.slice(index(end - at)..));
            }
        }
        while let Some((at, under)) = self.0.range(offset..end).next().map(|(at, bytes)| (*at, bytes.clone()))
        {
            self.0.remove(&at);
            if at + under.len() as u64 > end {
                self.0.insert(end, under.slice(index(end - at)..));
            }
        }
        self.0.insert(offset, bytes);
        Some(())
    }

    /// How much it is.
    pub(super) fn bytes(&self) -> u64 {
        self.0.values().map(|bytes| bytes.len() as u64).sum()
    }

    /// All of it, in pieces of at most `bytes_max` where neighbours are one.
    pub(super) fn pieces(&self, bytes_max: usize) -> Vec<Piece> {
        let (mut pieces, mut offset, mut gathered) = (Vec::new(), 0, BytesMut::new());
        for (at, bytes) in &self.0 {
            let mut rest = bytes.clone();
            let mut rest_at = *at;
            while !rest.is_empty() {
                let is_next = rest_at == offset + gathered.len() as u64;
                if !gathered.is_empty() && (!is_next || gathered.len() == bytes_max) {
                    pieces.push(Piece { offset, bytes: gathered.split().freeze() });
                }
                if gathered.is_empty() {
                    offset = rest_at;
                }
                let taken = rest.split_to(rest.len().min(bytes_max - gathered.len()));
                gathered.extend_from_slice(&taken);
                rest_at += taken.len() as u64;
            }
        }
        if !gathered.is_empty() {
            pieces.push(Piece { offset, bytes: gathered.freeze() });
        }
        pieces
    }
}

/// An index into bytes that are in memory.
pub(super) fn index(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_what_counts_in_the_end(
            writes in prop::collection::vec((0..200u64, prop::collection::vec(any::<u8>(), 0..60)), 0..30),
            bytes_max in 1..50usize,
        ) {
            let (mut extents, mut expected) = (Extents::default(), vec![None; 300]);
            for (offset, bytes) in &writes {
                extents.put(*offset, Bytes::copy_from_slice(bytes)).expect("within a file");
                let at = *offset as usize;
                expected[at..at + bytes.len()].iter_mut().zip(bytes).for_each(|(to, from)| *to = Some(*from));
            }
            let (mut found, mut last_end) = (vec![None; 300], 0);
            for piece in extents.pieces(bytes_max) {
                prop_assert!(piece.offset >= last_end && !piece.bytes.is_empty() && piece.bytes.len() <= bytes_max);
                last_end = piece.end();
                let at = piece.offset as usize;
                found[at..at + piece.bytes.len()].iter_mut().zip(&piece.bytes).for_each(|(to, from)| *to = Some(*from));
            }
            prop_assert_eq!(expected.iter().flatten().count() as u64, extents.bytes());
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_range_that_no_file_has_is_refused() {
        let mut extents = Extents::default();
        assert_eq!(extents.put(OFFSET_MAX, Bytes::from_static(b"x")), None);
        assert_eq!(extents.put(u64::MAX, Bytes::from_static(b"x")), None);
        assert_eq!(extents.put(OFFSET_MAX - 1, Bytes::from_static(b"x")), Some(()));
    }
}
