//! Reading ahead: which part of an open file to ask for before it is read.
//!
//! A [`Reader`] is pure: it is told what is read and says what to fetch. It takes a read for a sequential one when it
//! begins where the last ended, or within what has been fetched already (a kernel sends a sequential reader's requests
//! through several threads, so they arrive somewhat out of order). The window doubles with each step from
//! [`WINDOW_BYTES_MIN`] to [`WINDOW_BYTES_MAX`], which fills a link of 90 MB/s at 90 ms. Within it no more is asked for than
//! the source is [reached](Reach) with, but always the least window: a reader is not to starve beside others.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::awaited::Awaited;
use crate::errno::Result;
use crate::source::{Reach, TRANSFER_BYTES_MAX};

/// The first window: what a kernel reads ahead by itself, twice.
pub(crate) const WINDOW_BYTES_MIN: u64 = 256 << 10;

/// The largest window of one open file.
pub(crate) const WINDOW_BYTES_MAX: u64 = 8 << 20;

/// The smallest part that is fetched ahead, of which all are multiples: what a kernel asks for at once. Smaller ones cost
/// more requests than they save waiting.
const PART_BYTES_MIN: u64 = 128 << 10;

/// How far behind the furthest read a fetched part is kept, for requests that arrive late.
const BEHIND_BYTES_MAX: u64 = 512 << 10;

/// Bytes read ahead and kept with open files, over all files of a mount: a few dozen readers with whole windows; beyond
/// that, windows shrink to what is being read.
pub(crate) const AHEAD_BYTES_MAX: usize = 128 << 20;

/// A part of the file, there or on its way.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) bytes: Arc<Awaited<Result<Bytes>>>,
    /// Its share of [`AHEAD_BYTES_MAX`], where there was one.
    pub(crate) room: Arc<OnceLock<OwnedSemaphorePermit>>,
}

impl Part {
    fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// How one open file is being read.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Where a sequential reader goes on.
    next: u64,
    window: u64,
    /// Consecutive, in order.
    parts: VecDeque<Part>,
}

/// How much there is room for beyond a read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// In memory.
    pub(crate) bytes: u64,
    /// On the way.
    pub(crate) reach: Reach,
}

/// What to do for a read.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Ask for exactly this.
    Direct,
    /// Wait for these parts, after starting to fetch the others.
    Parts {
        /// Cover the read, in order.
        wanted: Vec<Part>,
        /// Not yet asked for, in order.
        fetch: Vec<Part>,
    },
}

impl Reader {
    /// What was fetched may no longer be what the file holds.
    pub(crate) fn forget(&mut self) {
        self.parts.clear();
        self.window = 0;
    }

    /// Plans a read of `length` bytes at `offset` in a file of `size` bytes, fetching beyond it what there is room for.
    pub(crate) fn plan(&mut self, offset: u64, length: u32, size: u64, room: Room) -> Plan {
        let end = offset.saturating_add(u64::from(length));
        let fetched_from = self.parts.front().map_or(self.next, |part| part.offset);
        let fetched_to = self.parts.back().map_or(self.next, Part::end);
        if offset < fetched_from || offset > fetched_to.max(self.next) {
            self.forget();
            self.next = end;
            return Plan::Direct;
        }
        let first = self.next == 0 && self.parts.is_empty();
        self.next = self.next.max(end);
        if first && end >= size {
            return Plan::Direct;
        }
        self.window = (self.window * 2).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        let fetch = self.extend(if self.parts.is_empty() { offset } else { fetched_to }, end, size, room);
        let wanted: Vec<_> =
            self.parts.iter().filter(|p| p.offset < end && p.end() > offset).cloned().collect();
        self.let_go(offset);
        if wanted.is_empty() {
            return Plan::Direct;
        }
        Plan::Parts { wanted, fetch }
    }

    /// Adds parts up to a window beyond `end`, and not beyond the end of the file unless the read itself goes there.
    fn extend(&mut self, mut at: u64, end: u64, size: u64, room: Room) -> Vec<Part> {
        let Room { bytes, reach } = room;
        let reached = at.saturating_add(reach.room_bytes).max(self.next.saturating_add(WINDOW_BYTES_MIN));
        let wished = self.next.saturating_add(self.window.min(bytes));
        let until = end.max(wished.min(reached).min(size));
        let part_bytes = (self.window / 4).min(reach.part_bytes) / PART_BYTES_MIN * PART_BYTES_MIN;
        let part_bytes = part_bytes.clamp(PART_BYTES_MIN, u64::from(TRANSFER_BYTES_MAX));
        let mut fetch = Vec::new();
        // Beyond what is read now, parts are whole: less than one is left for later.
        while at < until && (at < end || until >= size || until - at >= part_bytes) {
            let length = part_bytes.min(until - at);
            let length = u32::try_from(length).unwrap_or(TRANSFER_BYTES_MAX);
            let part = Part { offset: at, length, bytes: Arc::new(Awaited::new()), room: Arc::default() };
            at = part.end();
            self.parts.push_back(part.clone());
            fetch.push(part);
        }
        fetch
    }

    fn let_go(&mut self, offset: u64) {
        let keep_from = offset.saturating_sub(BEHIND_BYTES_MAX);
        while self.parts.front().is_some_and(|part| part.end() <= keep_from) {
            self.parts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const SIZE: u64 = 1 << 30;
    const ROOM: Room = Room { bytes: AHEAD_BYTES_MAX as u64, reach: Reach::NEAR };

    fn read(reader: &mut Reader, offset: u64) -> Plan {
        reader.plan(offset, 128 << 10, SIZE, ROOM)
    }

    #[test]
    fn random_reads_fetch_nothing_more() {
        let mut reader = Reader::default();
        for offset in [500_000_000, 4096, 900_000_000, 128 * KIB] {
            assert!(matches!(reader.plan(offset, 4096, SIZE, ROOM), Plan::Direct), "{offset}");
        }
    }

    #[test]
    fn a_sequential_reader_finds_every_byte_once_and_the_window_grows_to_its_limit() {
        let mut reader = Reader::default();
        let mut asked = 0;
        for step in 0..1000 {
            let offset = step * 128 * KIB;
            let Plan::Parts { wanted, fetch } = read(&mut reader, offset) else { panic!("{offset}") };
            assert!(wanted[0].offset <= offset);
            assert!(wanted.last().expect("one at least").end() >= offset + 128 * KIB);
            assert!(wanted.windows(2).all(|pair| pair[0].end() == pair[1].offset));
            for part in fetch {
                assert_eq!(part.offset, asked);
                asked = part.end();
            }
            assert!(asked <= offset + 128 * KIB + WINDOW_BYTES_MAX);
        }
        assert_eq!(reader.window, WINDOW_BYTES_MAX);
    }

    #[test]
    fn requests_of_one_reader_that_overtake_each_other_stay_sequential() {
        let mut reader = Reader::default();
        for offset in [0, 256 * KIB, 128 * KIB, 512 * KIB, 384 * KIB, 640 * KIB] {
            let plan = read(&mut reader, offset);
            assert!(matches!(plan, Plan::Parts { .. }), "{offset}: {plan:?}");
        }
    }

    #[test]
    fn no_more_is_on_the_way_than_the_source_is_reached_with_and_never_nothing() {
        let mut reader = Reader::default();
        let (mut asked, reach_bytes) = (0, 1 << 20);
        for step in 0..1000 {
            let offset = step * 128 * KIB;
            // What has been read has arrived, and nothing else.
            let on_the_way = asked - offset.min(asked);
            let reach =
                Reach { room_bytes: reach_bytes - on_the_way.min(reach_bytes), part_bytes: 300 * KIB };
            let plan = reader.plan(offset, 128 << 10, SIZE, Room { reach, ..ROOM });
            let Plan::Parts { fetch, .. } = plan else { panic!("{offset}") };
            for part in &fetch {
                assert_eq!(part.offset, asked);
                asked = part.end();
                assert_eq!(u64::from(part.length) % PART_BYTES_MIN, 0);
                assert!(u64::from(part.length) <= reach.part_bytes);
            }
            assert!(asked - offset <= reach_bytes, "{step}: {}", asked - offset);
            assert!(step < 8 || asked - offset >= reach_bytes - 256 * KIB, "{step}: {}", asked - offset);
        }
        let nothing = Reach { room_bytes: 0, part_bytes: 0 };
        let mut reader = Reader::default();
        for step in 0..100 {
            let offset = step * 128 * KIB;
            let plan = reader.plan(offset, 128 << 10, SIZE, Room { reach: nothing, ..ROOM });
            let Plan::Parts { .. } = plan else { panic!("{offset}") };
            assert!(reader.parts.back().unwrap().end() >= offset + WINDOW_BYTES_MIN);
        }
    }

    /// After how many round trips so many bytes are on their way to who reads a cold file. What has been asked for comes all
    /// at once, and a kernel asks for the next 128 KiB when it has the last.
    fn trips_until_on_the_way(bytes: u64, reach_bytes: u64) -> usize {
        let mut reader = Reader::default();
        let (mut offset, mut asked, mut arrived) = (0, 0, 0);
        for trip in 0..100 {
            loop {
                let room_bytes = reach_bytes.saturating_sub(asked - arrived);
                let reach = Reach { room_bytes, part_bytes: 256 * KIB };
                let plan = reader.plan(offset, 128 << 10, SIZE, Room { reach, ..ROOM });
                let Plan::Parts { wanted, fetch } = plan else { panic!("{offset}") };
                asked = fetch.last().map_or(asked, Part::end);
                offset += 128 * KIB;
                if wanted.iter().any(|part| part.end() > arrived) {
                    break;
                }
            }
            if asked - arrived >= bytes {
                return trip;
            }
            arrived = asked;
        }
        panic!("never");
    }

    #[test]
    fn a_link_is_full_two_round_trips_after_a_cold_file_begins_to_be_read() {
        // 90 MB/s at 20 ms, with what a source is taken to be reached with before it has been measured.
        assert!(trips_until_on_the_way(1_800_000, 2 << 20) <= 1);
        // The same at 80 ms, when it has been.
        assert!(trips_until_on_the_way(7_200_000, 8 << 20) <= 2);
    }

    #[test]
    fn nothing_is_fetched_beyond_the_end() {
        let mut reader = Reader::default();
        let size = 300 * KIB;
        let mut fetched = 0;
        for offset in [0, 128 * KIB, 256 * KIB] {
            if let Plan::Parts { fetch, .. } = reader.plan(offset, 128 << 10, size, ROOM) {
                fetched += fetch.iter().map(|part| u64::from(part.length)).sum::<u64>();
            }
        }
        assert!(fetched <= 384 * KIB, "{fetched}");
    }

    #[test]
    fn a_small_file_read_at_once_is_asked_for_as_it_is() {
        let mut reader = Reader::default();
        assert!(matches!(reader.plan(0, 128 << 10, 4096, ROOM), Plan::Direct));
    }
}
