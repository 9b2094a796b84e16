//! Which bytes of a file are here.

use std::ops::Range;

/// The most pieces that are remembered of a file. Beyond it the shortest is forgotten: it is fetched again.
pub const PIECES_MAX: usize = 1024;

/// Ranges of bytes: in order, not empty, and not touching each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// All of a file of this size.
    pub fn whole(size: u64) -> Ranges {
        let mut ranges = Ranges::default();
        ranges.insert(0..size);
        ranges
    }

    /// Adds a range.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|piece| piece.end < range.start);
        let last = self.0.partition_point(|piece| piece.start <= range.end);
        let mut piece = range;
        for touched in self.0.drain(first..last) {
            piece = piece.start.min(touched.start)..piece.end.max(touched.end);
        }
        self.0.insert(first, piece);
        if self.0.len() > PIECES_MAX {
            let shortest = self.0.iter().enumerate().min_by_key(|(_, piece)| piece.end - piece.start);
            let shortest = shortest.map_or(0, |(index, _)| index);
            self.0.remove(shortest);
        }
    }

    /// What of the range is missing, in order.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut at = range.start;
        for piece in self.0.iter().filter(|piece| piece.end > range.start) {
            if piece.start >= range.end {
                break;
            }
            if piece.start > at {
                missing.push(at..piece.start);
            }
            at = at.max(piece.end);
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|piece| piece.end - piece.start).sum()
    }

    /// As it is kept: start and end of each, 8 bytes each, little endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|piece| [piece.start.to_le_bytes(), piece.end.to_le_bytes()])
            .flatten()
            .collect()
    }

    /// What [`encode`](Ranges::encode) made. What does not make sense is not there: it is fetched again.
    pub(crate) fn decode(bytes: &[u8]) -> Ranges {
        let mut ranges = Ranges::default();
        for pair in bytes.as_chunks::<16>().0.iter().take(PIECES_MAX) {
            let (start, end) = pair.split_at(8);
            let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            ranges.insert(number(start)..number(end));
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_what_a_set_of_bytes_is(pieces in proptest::collection::vec((0_u64..64, 0_u64..16), 0..12), asked in (0_u64..64, 0_u64..32)) {
            let mut ranges = Ranges::default();
            let mut bytes = std::collections::BTreeSet::new();
            for (start, length) in pieces {
                ranges.insert(start..start + length);
                bytes.extend(start..start + length);
            }
            prop_assert_eq!(ranges.bytes(), bytes.len() as u64);
            prop_assert!(ranges.0.windows(2).all(|pair| pair[0].end < pair[1].start));
            let asked = asked.0..asked.0 + asked.1;
            let missing: Vec<u64> = ranges.missing(asked.clone()).into_iter().flatten().collect();
            let expected: Vec<u64> = asked.filter(|byte| !bytes.contains(byte)).collect();
            prop_assert_eq!(missing, expected);
            prop_assert_eq!(Ranges::decode(&ranges.encode()), ranges);
        }
    }

    #[test]
    fn no_more_pieces_are_remembered_than_may_be() {
        let mut ranges = Ranges::default();
        for piece in 0..2 * PIECES_MAX as u64 {
            ranges.insert(piece * 10..piece * 10 + 5);
        }
        assert_eq!(ranges.0.len(), PIECES_MAX);
        assert_eq!(
            Ranges::decode(b"nonsense that is not ranges at all"),
            Ranges::decode(b"nonsense that is not ranges at all")
        );
    }
}
