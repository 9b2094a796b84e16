//! Whether a file that is not as it was known is what the writes were for all the same, with some of them in it.
//!
//! A lost link may have brought the first of the writes and not their answers, and a full disk takes a part of one. What
//! the file held before is not known here, so it is told by what can be seen:
//!
//! - the first of the writes is in it, whole or up to where it was cut: they arrive in their order;
//! - it is as long as it was, or ends where one of them does, or where one was cut;
//! - behind its old end there is nothing but what was to be written there, and zeros.

use super::extents::{Piece, index};

/// Where a write is cut that does not make the file longer.
const BLOCK_BYTES: u64 = 4096;

/// `writes` are in their order; `found` is what the file holds where they are, in the order of the file, each shorter only
/// at its end; `before` is how long it was, and `size` how long it is.
pub(super) fn holds_only_ours(writes: &[Piece], found: &[Piece], before: u64, size: u64) -> bool {
    let Some(first) = writes.first() else { return false };
    if size < before {
        return false;
    }
    let ours = Ours::of(writes, found);
    let first_end = first.offset + ours.run(first);
    let is_cut = |end: u64| end == size && size > before || end.is_multiple_of(BLOCK_BYTES);
    if first_end != first.end() && (first_end == first.offset || !is_cut(first_end)) {
        return false;
    }
    let ends_there = |write: &Piece| {
        let run = ours.run(write);
        run > 0 && write.offset + run == size
    };
    (size == before || writes.iter().any(ends_there)) && ours.is_all_behind(before)
}

/// Which bytes of the file are what one of the writes was to make them.
struct Ours<'a> {
    found: &'a [Piece],
    are: Vec<Vec<bool>>,
}

impl Ours<'_> {
    fn of<'a>(writes: &[Piece], found: &'a [Piece]) -> Ours<'a> {
        let mut are: Vec<Vec<bool>> = found.iter().map(|piece| vec![false; piece.bytes.len()]).collect();
        for write in writes {
            for (number, from, to) in parts(found, write) {
                let piece = &found[number];
                let written = &write.bytes[index(from - write.offset)..index(to - write.offset)];
                let range = index(from - piece.offset)..index(to - piece.offset);
                let bytes = piece.bytes[range.clone()].iter().zip(written);
                are[number][range]
                    .iter_mut()
                    .zip(bytes)
                    .for_each(|(is, (found, written))| *is |= found == written);
            }
        }
        Ours { found, are }
    }

    /// How many bytes from the beginning of the write are.
    fn run(&self, write: &Piece) -> u64 {
        let mut end = write.offset;
        for (number, from, to) in parts(self.found, write) {
            if from != end {
                break;
            }
            let begin = self.found[number].offset;
            let part = &self.are[number][index(from - begin)..index(to - begin)];
            end += part.iter().take_while(|is| **is).count() as u64;
            if end != to {
                break;
            }
        }
        end - write.offset
    }

    /// Whether all are behind this offset, but for zeros.
    fn is_all_behind(&self, offset: u64) -> bool {
        self.found.iter().zip(&self.are).all(|(piece, are)| {
            let skipped = index(offset.saturating_sub(piece.offset)).min(are.len());
            piece.bytes.iter().zip(are).skip(skipped).all(|(byte, is)| *byte == 0 || *is)
        })
    }
}

/// Where the write is in what was found: in which piece, from where to where in the file.
fn parts(found: &[Piece], write: &Piece) -> impl Iterator<Item = (usize, u64, u64)> {
    let (begin, end) = (write.offset, write.end());
    let first = found.partition_point(|piece| piece.end() <= begin);
    let rest = found.iter().enumerate().skip(first).take_while(move |(_, piece)| piece.offset < end);
    let within = rest.map(move |(number, piece)| (number, piece.offset.max(begin), piece.end().min(end)));
    within.filter(|(_, from, to)| from < to)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::extents::Extents;
    use super::*;

    fn pieces(writes: &[(u64, &[u8])]) -> Vec<Piece> {
        let piece =
            |(offset, bytes): &(u64, &[u8])| Piece { offset: *offset, bytes: Bytes::copy_from_slice(bytes) };
        writes.iter().map(piece).collect()
    }

    /// What `content` holds where the writes are, in pieces of a few bytes.
    fn found(writes: &[Piece], content: &[u8]) -> Vec<Piece> {
        const PIECE_BYTES: usize = 3;
        let mut extents = Extents::default();
        writes.iter().for_each(|write| assert!(extents.put(write.offset, write.bytes.clone()).is_some()));
        let cut = |piece: Piece| {
            let within = |at: u64| index(at).min(content.len());
            let bytes = &content[within(piece.offset)..within(piece.end())];
            Piece { offset: piece.offset, bytes: Bytes::copy_from_slice(bytes) }
        };
        extents.pieces(PIECE_BYTES).into_iter().map(cut).collect()
    }

    fn judge(writes: &[(u64, &[u8])], before: u64, content: &[u8]) -> bool {
        let writes = pieces(writes);
        holds_only_ours(&writes, &found(&writes, content), before, content.len() as u64)
    }

    #[test]
    fn only_a_file_with_the_first_of_the_writes_and_nothing_else_is_theirs() {
        const WRITES: &[(u64, &[u8])] = &[(4, b"five"), (8, b"seven"), (20, b"far")];
        let cases: &[(&str, &[u8], bool)] = &[
            ("the first", b"befofive", true),
            ("the first two", b"befofiveseven", true),
            ("the first and the last", b"befofive\0\0\0\0\0\0\0\0\0\0\0\0far", true),
            ("the first, and a part of the second", b"befofivesev", true),
            ("a part of the first", b"befofiv", true),
            ("all", b"befofiveseven\0\0\0\0\0\0\0far", true),
            ("none", b"before", false),
            ("another's of the same size", b"others", false),
            ("another's that is longer", b"others wrote this", false),
            ("not the first", b"before\0\0seven", false),
            ("it was cut", b"befo", false),
            ("it has an end that none of them has", b"befofiveseven\0\0", false),
            ("another wrote behind the old end", b"befofive ANDX\0\0\0\0\0\0\0far", false),
        ];
        for (what, content, expected) in cases {
            assert_eq!(judge(WRITES, 6, content), *expected, "{what}");
        }
    }

    #[test]
    fn a_write_over_another_one_is_either() {
        const WRITES: &[(u64, &[u8])] = &[(0, b"first"), (0, b"second")];
        assert!(judge(WRITES, 9, b"first\0\0\0\0"));
        assert!(judge(WRITES, 9, b"second\0\0\0"));
        assert!(!judge(WRITES, 9, b"others\0\0\0"));
    }

    #[test]
    fn a_write_within_the_file_is_cut_between_blocks_only() {
        let write = vec![7; 3 * BLOCK_BYTES as usize];
        for (ours, expected) in
            [(0, false), (1, false), (4096, true), (5000, false), (8192, true), (12_288, true)]
        {
            let mut content = vec![1; write.len()];
            content[..ours].fill(7);
            assert_eq!(judge(&[(0, &write)], write.len() as u64, &content), expected, "{ours}");
        }
    }

    proptest! {
        #[test]
        fn whichever_of_the_first_writes_arrived_the_file_is_theirs(
            before in prop::collection::vec(any::<u8>(), 0..40),
            writes in prop::collection::vec((0..60u64, prop::collection::vec(any::<u8>(), 1..20)), 1..8),
            arrived in 1..8usize,
        ) {
            let mut content = before.clone();
            for (offset, bytes) in writes.iter().take(arrived) {
                let at = index(*offset);
                content.resize(content.len().max(at + bytes.len()), 0);
                content[at..at + bytes.len()].copy_from_slice(bytes);
            }
            let writes: Vec<_> = writes.iter().map(|(offset, bytes)| (*offset, &bytes[..])).collect();
            prop_assert!(judge(&writes, before.len() as u64, &content));
        }
    }
}
