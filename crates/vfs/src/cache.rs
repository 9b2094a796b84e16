//! Contents that outlive a mount: what a [`Source`](crate::source::Source) may keep near, and is asked for first.
//!
//! A content is kept in blocks of [`BLOCK_BYTES`], each by the identity of its file and the version that the file had. Who
//! looks for one says which version it wants, and has that from the source: nothing that is kept says what a file is now.
//!
//! **What may be kept.** Two contents may have one version where the source's clock is coarser than its writers, and a kept
//! block lives for longer than anybody is told of changes. So a block is kept only of a file that had not been changed for
//! [`SETTLED_SECONDS`] when it was asked for, by the source's own clock: whatever changes it from then on gives it another
//! version. It has to be asked for after the version was seen, and the version has to be believed still when it has come.

use bytes::Bytes;

use crate::file::{FileId, Time, Version};

/// What a block has, but for the last one of a file: a small file is one block, and a part that is read ahead a few.
pub const BLOCK_BYTES: u32 = 128 << 10;

/// For how long a file must not have been changed: longer than a tick of the coarsest clock of a file system, FAT's of two.
const SETTLED_SECONDS: i64 = 3;

/// Blocks that are looked for at once: a disk has no use for more, and each has a thread.
pub(crate) const LOOKUPS_MAX: usize = 8;

/// One block of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Whose content.
    pub file: FileId,
    /// Which content.
    pub version: Version,
    /// Where in it, in blocks.
    pub number: u64,
}

impl Block {
    /// What it has: [`BLOCK_BYTES`], or what is left to the end of the file; 0 behind that.
    pub fn length(&self) -> u32 {
        let start = self.number.saturating_mul(u64::from(BLOCK_BYTES));
        let left = self.version.size.saturating_sub(start);
        u32::try_from(left).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES)
    }
}

/// Where blocks are kept. Nothing of it is relied on: whatever goes wrong there, a block is not found.
pub trait DataCache: Send + Sync + 'static {
    /// The block, if it is kept, with [`Block::length`] bytes. Blocks for as long as a local disk takes.
    fn find(&self, block: &Block) -> Option<Bytes>;

    /// Keeps the block, soon, if there is room and time. Does not block. `bytes` are as many as [`Block::length`] says.
    fn keep(&self, block: Block, bytes: Bytes);
}

/// Whether a content of this version that was asked for when the source's clock had reached `clock` is the only one with this
/// version.
pub(crate) fn is_settled(version: &Version, clock: Option<Time>) -> bool {
    let changed = version.changed;
    let settled = Time { seconds: changed.seconds.saturating_add(SETTLED_SECONDS), ..changed };
    changed != Time::default() && clock.is_some_and(|clock| settled <= clock)
}

/// The numbers of the blocks that have something of a range.
pub(crate) fn blocks_with(offset: u64, end: u64) -> impl Iterator<Item = u64> {
    let block = u64::from(BLOCK_BYTES);
    offset / block..end.div_ceil(block).max(offset / block)
}

/// The blocks of `version` that lie whole in what was read at `offset`.
pub(crate) fn blocks_in(file: FileId, version: Version, offset: u64, bytes: &Bytes) -> Vec<(Block, Bytes)> {
    let end = offset.saturating_add(bytes.len() as u64);
    let whole = |number: u64| {
        let block = Block { file, version, number };
        let start = number.checked_mul(u64::from(BLOCK_BYTES))?.checked_sub(offset)?;
        let start = usize::try_from(start).ok()?;
        let length = block.length() as usize;
        let to = start.checked_add(length).filter(|to| length > 0 && *to <= bytes.len())?;
        Some((block, bytes.slice(start..to)))
    };
    blocks_with(offset, end).filter_map(whole).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = BLOCK_BYTES as u64;

    fn version(size: u64) -> Version {
        Version { size, modified: Time::default(), changed: Time { seconds: 100, nanoseconds: 5 } }
    }

    #[test]
    fn only_what_had_not_been_changed_for_a_while_by_a_known_clock_is_settled() {
        let clock = |seconds| Some(Time { seconds, nanoseconds: 0 });
        let cases = [
            (None, false),
            (clock(100), false),
            (clock(102), false),
            (clock(103), false),
            (clock(104), true),
            (clock(1 << 40), true),
        ];
        for (clock, expected) in cases {
            assert_eq!(is_settled(&version(1), clock), expected, "{clock:?}");
        }
        let unknown = Version { changed: Time::default(), ..version(1) };
        assert!(!is_settled(&unknown, clock(1 << 40)));
        let far = Version { changed: Time { seconds: i64::MAX, nanoseconds: 0 }, ..version(1) };
        assert!(!is_settled(&far, clock(1 << 40)));
    }

    #[test]
    fn the_last_block_ends_with_the_file() {
        let length =
            |size, number| Block { file: FileId::default(), version: version(size), number }.length();
        assert_eq!([length(0, 0), length(5, 0), length(5, 1)], [0, 5, 0]);
        assert_eq!([length(BLOCK, 0), length(BLOCK, 1), length(BLOCK + 1, 1)], [BLOCK_BYTES, 0, 1]);
        assert_eq!([length(u64::MAX, 3), length(u64::MAX, u64::MAX)], [BLOCK_BYTES, 0]);
    }

    proptest! {
        #[test]
        fn blocks_are_cut_out_of_what_was_read_where_they_lie_whole(
            size in 0..6 * BLOCK,
            offset in prop_oneof![0..6 * BLOCK, (0..6u64).prop_map(|n| n * BLOCK)],
            length in 0..6 * BLOCK,
        ) {
            let content: Vec<u8> = (0..size).map(|at| (at / 7 + at / BLOCK) as u8).collect();
            let (from, to) = (offset.min(size), offset.saturating_add(length).min(size));
            let read = Bytes::copy_from_slice(&content[from as usize..to as usize]);
            let found = blocks_in(FileId::default(), version(size), offset, &read);
            for (block, bytes) in &found {
                let start = (block.number * BLOCK) as usize;
                prop_assert_eq!(&content[start..start + block.length() as usize], &bytes[..]);
            }
            let expected = (0..size.div_ceil(BLOCK)).filter(|n| n * BLOCK >= offset && ((n + 1) * BLOCK).min(size) <= to);
            prop_assert_eq!(found.iter().map(|(block, _)| block.number).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        }
    }
}
