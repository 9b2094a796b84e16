//! The copy of one large file, from, to or between machines.
//!
//! The daemon has the content carried from one opened file to the other; here is only decided which part of it. The file
//! beside the final name gets its full length first, as one hole. Then each piece of it goes through the same steps, some
//! pieces at once, of which few are carried and the others compared:
//!
//! ```text
//!   nothing there ──────────────────────► copied ─┐
//!   begun before, or the original has holes ──────┴─► compared ──equal──► done
//!   an older version is there ──► what is equal        │   ▲
//!      copied from it on its machine, the rest over    └───┘ what differs is copied, TRIES_MAX times
//! ```
//!
//! So whatever a copy that was cut short has left, however it was cut short, is used as far as it is right and no further;
//! holes stay holes; and no copy is called one whose digests are not those of the original.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use wire::api::ErrorKind;
use wire::api::file::{
    BlockDigest, Close, CopyRange, Creation, Digest, Entry, FileKind, Links, Open, Purpose, SetAttributes,
};
use wire::api::id::HandleId;
use wire::api::machine::{Machine, Source};

use super::files::{UNFINISHED_FILE, WINDOW_BYTES};
use super::work::{Pair, Work, lock};
use crate::client::Client;
use crate::error::{Error, Result};

/// What is copied and compared at once.
const PIECE_BYTES: u32 = 4 << 20;

/// What is copied again when it differs.
const BLOCK_BYTES: u32 = 128 << 10;

/// How many pieces of a file are under way at once: while one is compared, others are on the way.
const PIECES_MAX: usize = 3;

/// How many when much of the file may be there. Comparing takes some round trips and next to nothing of the link: this many pieces
/// keep both machines reading.
const COMPARED_PIECES_MAX: usize = 12;

/// How often a piece is copied before its original counts as one that changes all the time.
const TRIES_MAX: usize = 3;

/// Whether a file is copied so.
pub fn is_large(pair: &Pair) -> bool {
    let is_far = |source: &Source| !matches!(source, Source::Files { machine: Machine::Host, .. });
    pair.entry.kind == FileKind::File
        && pair.entry.size > WINDOW_BYTES
        && (is_far(&pair.from) || is_far(&pair.to))
}

/// Copies the content into the file beside the final name. `old` is what has that name, if it is a file.
pub fn copy(work: &Work<'_>, pair: &Pair, beside: &Source, old: Option<&Entry>) -> Result<()> {
    let client = work.files().client()?;
    let from = Opened::new(work, client, &pair.from, Purpose::Read)?;
    let both = Purpose::Both { create: Creation::Keep, mode: UNFINISHED_FILE };
    let to = Opened::new(work, client, beside, both)?;
    let begun_before = to.entry.size > 0;
    if to.entry.size != from.entry.size {
        client.call(SetAttributes {
            source: beside.clone(),
            links: Links::Keep,
            mode: None,
            size: Some(from.entry.size),
            modified: None,
            accessed: None,
            caller: work.files().caller().clone(),
        })?;
    }
    let old = match old.filter(|old| !begun_before && old.size >= u64::from(BLOCK_BYTES)) {
        Some(_) => Some(Opened::new(work, client, &pair.to, Purpose::Read)?),
        None => None,
    };
    let has_holes = from.entry.blocks.saturating_mul(512) < from.entry.size;
    let first = match (begun_before || has_holes, old) {
        (true, _) => First::Compare,
        (false, Some(old)) => First::Older(old),
        (false, None) => First::Copy,
    };
    let was_there = begun_before || matches!(first, First::Older(_));
    let (next, failure) = (AtomicU64::new(0), Mutex::default());
    let carried = Turns::new(PIECES_MAX);
    let pieces_max = if was_there || has_holes { COMPARED_PIECES_MAX } else { PIECES_MAX };
    let copy = Copy { work, client, pair, from, to, first, was_there, carried, next, failure };
    std::thread::scope(|scope| {
        for _ in 1..pieces_max {
            scope.spawn(|| copy.run());
        }
        copy.run();
    });
    let Copy { from, to, first, failure, .. } = copy;
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    if let First::Older(old) = first {
        old.close()?;
    }
    from.close()?;
    to.close()
}

/// A file that is open at the daemon; closed when it is dropped.
struct Opened<'a> {
    client: &'a Client,
    handle: HandleId,
    entry: Entry,
    is_closed: bool,
}

impl<'a> Opened<'a> {
    fn new(work: &Work<'_>, client: &'a Client, source: &Source, purpose: Purpose) -> Result<Opened<'a>> {
        let caller = work.files().caller().clone();
        let opened = client.call(Open { source: source.clone(), purpose, caller })?;
        Ok(Opened { client, handle: opened.handle, entry: opened.entry, is_closed: false })
    }

    fn close(mut self) -> Result<()> {
        self.is_closed = true;
        self.client.call(Close { handle: self.handle }).map(drop)
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if !self.is_closed {
            // What went wrong has been told before.
            let _told = self.client.call(Close { handle: self.handle });
        }
    }
}

/// What is done with a piece before it is compared.
enum First<'a> {
    /// It is compared at once: much of it may be there.
    Compare,
    /// All of it is copied.
    Copy,
    /// What is equal in this older version is taken from there.
    Older(Opened<'a>),
}

struct Copy<'a, 'w> {
    work: &'a Work<'w>,
    client: &'a Client,
    pair: &'a Pair,
    from: Opened<'a>,
    to: Opened<'a>,
    first: First<'a>,
    /// Some of the content was there before.
    was_there: bool,
    /// Whose turn it is to use the link: what is carried takes memory of the daemon's.
    carried: Turns,
    /// Where the next piece begins.
    next: AtomicU64,
    failure: Mutex<Option<Error>>,
}

impl Copy<'_, '_> {
    /// Copies pieces until none is left or something has failed.
    fn run(&self) {
        while !self.has_failed() {
            let offset = self.next.fetch_add(PIECE_BYTES.into(), Ordering::Relaxed);
            if offset >= self.from.entry.size {
                return;
            }
            let left = self.from.entry.size - offset;
            let length = u32::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let outcome = self.work.go_on().and_then(|()| self.piece(offset, length));
            if let Err(error) = outcome {
                *lock(&self.failure) = Some(error);
            }
        }
    }

    fn has_failed(&self) -> bool {
        lock(&self.failure).is_some()
    }

    fn piece(&self, offset: u64, length: u32) -> Result<()> {
        let progress = self.work.progress();
        let mut moved = match &self.first {
            First::Compare => 0,
            First::Copy => self.carry(offset, length)?,
            First::Older(old) => self.copy_with(old, offset, length)?,
        };
        for tries in 0..=TRIES_MAX {
            let (wanted, there) = self.digests(&self.from, &self.to, offset, length)?;
            let whole: u64 = wanted.iter().map(|block| u64::from(block.bytes)).sum();
            if whole == u64::from(length) && wanted == there {
                // Holes of the original were not there before.
                let kept = if self.was_there { u64::from(length).saturating_sub(moved) } else { 0 };
                progress.bytes_kept(kept);
                progress.bytes_copied(u64::from(length) - kept);
                return Ok(());
            }
            if whole < u64::from(length) || tries == TRIES_MAX {
                break;
            }
            for run in runs(&wanted, |at| there.get(at) != wanted.get(at)) {
                moved += self.carry(offset + run.start, run.length)?;
            }
        }
        let message = format!("`{}` changes while it is copied", self.pair.from);
        Err(Error::new(ErrorKind::Conflict, message))
    }

    /// Copies what is equal in an older version from there, and the rest from the original. Says how much came from it.
    fn copy_with(&self, old: &Opened<'_>, offset: u64, length: u32) -> Result<u64> {
        let (wanted, there) = self.digests(&self.from, old, offset, length)?;
        let is_old = |at: usize| !wanted[at].zeros && there.get(at) == wanted.get(at);
        for run in runs(&wanted, is_old) {
            self.copy(old, offset + run.start, run.length)?;
        }
        let mut moved = 0;
        for run in runs(&wanted, |at| !wanted[at].zeros && !is_old(at)) {
            moved += self.carry(offset + run.start, run.length)?;
        }
        Ok(moved)
    }

    /// Copies from the original.
    fn carry(&self, offset: u64, bytes: u32) -> Result<u64> {
        let _turn = self.carried.take();
        self.copy(&self.from, offset, bytes)
    }

    fn copy(&self, from: &Opened<'_>, offset: u64, bytes: u32) -> Result<u64> {
        let (from, to) = (from.handle, self.to.handle);
        let range = CopyRange { from, from_offset: offset, to, to_offset: offset, bytes };
        Ok(self.client.call(range)?.bytes)
    }

    /// Digests of the same piece of two files, made at the same time.
    fn digests(
        &self,
        one: &Opened<'_>,
        other: &Opened<'_>,
        offset: u64,
        bytes: u32,
    ) -> Result<(Vec<BlockDigest>, Vec<BlockDigest>)> {
        let digest = |handle| Digest { handle, offset, bytes, block_bytes: BLOCK_BYTES };
        let one = self.client.send(digest(one.handle))?;
        let other = self.client.send(digest(other.handle))?;
        let (one, other) = (self.client.wait(one), self.client.wait(other));
        Ok((one?.blocks, other?.blocks))
    }
}

/// Lets some at a time do what the others wait for.
struct Turns {
    free: Mutex<usize>,
    given_back: Condvar,
}

impl Turns {
    fn new(free: usize) -> Turns {
        Turns { free: Mutex::new(free), given_back: Condvar::new() }
    }

    /// Waits until one is free. It is given back when it is dropped.
    fn take(&self) -> Turn<'_> {
        let free = self.given_back.wait_while(lock(&self.free), |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }
}

struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.given_back.notify_one();
    }
}

/// Consecutive blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: u64,
    length: u32,
}

/// The blocks that are wanted, as runs of those that follow each other.
fn runs(blocks: &[BlockDigest], is_wanted: impl Fn(usize) -> bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    for (index, block) in blocks.iter().enumerate() {
        if is_wanted(index) {
            match runs.last_mut() {
                Some(last) if last.start + u64::from(last.length) == at => last.length += block.bytes,
                _ => runs.push(Run { start: at, length: block.bytes }),
            }
        }
        at += u64::from(block.bytes);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_blocks_that_follow_each_other_are_one_run() {
        let block = |bytes| BlockDigest { digest: String::new(), bytes, zeros: false };
        let blocks = [block(10), block(10), block(10), block(10), block(3)];
        let of = |wanted: &[usize]| runs(&blocks, |at| wanted.contains(&at));
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[0, 1, 3, 4]), [Run { start: 0, length: 20 }, Run { start: 30, length: 13 }]);
        assert_eq!(of(&[0, 1, 2, 3, 4]), [Run { start: 0, length: 43 }]);
    }
}
