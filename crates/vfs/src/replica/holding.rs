//! Which bytes of a file are here, and how more of them come.
//!
//! ```text
//!               fetched            all are
//!  placeholder ─────────► partial ─────────► whole ◄── written to
//!       ▲                    │                 │
//!       └────────────────────┴── freed, or the machine has another version
//! ```
//!
//! Bytes count for the version that they are of, until there is another: those of a version that comes back are to be fetched
//! again. What is pinned, or was written to and not sent, is not freed.

use std::collections::VecDeque;
use std::ops::Range;

use rusqlite::{OptionalExtension, params};

use super::database::Rows;
use super::item::{Item, ItemId, Kind, SideName, Token};
use super::side::{Answer, At, There};
use super::{Ranges, Replica, Result};

/// What is fetched begins and ends at multiples of this, but for the end of a file: Cloud Files takes nothing else.
pub const FETCH_ALIGN_BYTES: u64 = 4096;

/// One request of a fetch, which is how much is asked for again after a cut, and how soon a fetch can end when nobody wants it.
pub const FETCH_BYTES_MAX: u32 = 1 << 20;

/// How much of a file is here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Hydration {
    Placeholder,
    Partial { bytes: u64 },
    Whole,
}

/// How far a fetch is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

/// Bytes on their way. Dropping it ends it: what was [taken down](Replica::fetched) is here.
#[derive(Debug)]
pub struct Fetch {
    item: ItemId,
    at: At,
    content: Token,
    missing: VecDeque<Range<u64>>,
    progress: Progress,
}

impl Fetch {
    /// The next piece, with where it begins; `None` when all that was missing has come. A file that has another version by now
    /// is refused with [`Changed`](super::side::Refusal::Changed). After a cut the same piece is asked for again.
    pub fn next(&mut self, there: &mut impl There) -> Answer<Option<(u64, Vec<u8>)>> {
        let Some(range) = self.missing.front().cloned() else { return Ok(None) };
        let length = (range.end - range.start).min(u64::from(FETCH_BYTES_MAX)) as u32;
        let bytes = there.read(&self.at, &self.content, range.start, length)?;
        if bytes.len() != length as usize {
            return Err(super::side::Refusal::Changed);
        }
        self.missing.pop_front();
        let next = range.start + u64::from(length);
        if next < range.end {
            self.missing.push_front(next..range.end);
        }
        self.progress.done += u64::from(length);
        Ok(Some((range.start, bytes)))
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }
}

struct Holding {
    ranges: Ranges,
    is_pinned: bool,
}

impl Replica {
    /// How much of a file is here. `None` of what is not here, or is a directory.
    pub fn hydration(&mut self, id: ItemId) -> Result<Option<Hydration>> {
        self.database.write(|rows| {
            let Some(item) = rows.get(id)?.filter(|item| item.kind != Kind::Directory) else {
                return Ok(None);
            };
            let Some(here) = &item.here else { return Ok(None) };
            let held = rows.holding(&item)?.ranges.bytes();
            Ok(Some(match held {
                _ if here.edit.is_some() || held >= here.size => Hydration::Whole,
                0 => Hydration::Placeholder,
                bytes => Hydration::Partial { bytes },
            }))
        })
    }

    /// Has a file stay here, or not.
    pub fn pin(&mut self, id: ItemId, is_pinned: bool) -> Result<()> {
        self.database.write(|rows| {
            let item = rows.known(id)?;
            let holding = rows.holding(&item)?;
            rows.hold(&item, &Holding { is_pinned, ..holding })
        })
    }

    /// Whether a file is to stay here.
    pub fn is_pinned(&mut self, id: ItemId) -> Result<bool> {
        self.database.write(|rows| Ok(rows.holding(&rows.known(id)?)?.is_pinned))
    }

    /// Whether the bytes of a file may go. If so they count as gone.
    pub fn free(&mut self, id: ItemId) -> Result<bool> {
        self.database.write(|rows| {
            let item = rows.known(id)?;
            let is_clean =
                item.here.as_ref().is_some_and(|here| here.edit.is_none() && !here.content.is_empty());
            if !is_clean || item.kind == Kind::Directory || rows.holding(&item)?.is_pinned {
                return Ok(false);
            }
            rows.hold(&item, &Holding { ranges: Ranges::default(), is_pinned: false })?;
            Ok(true)
        })
    }

    /// Begins to bring bytes of a file here. Nothing is missing of a file that was written to. `None` if the machine does not have it
    /// as it is here: both sides are to be looked at.
    pub fn fetch(&mut self, id: ItemId, range: Range<u64>) -> Result<Option<Fetch>> {
        self.database.write(|rows| {
            let item = rows.known(id)?;
            let (Some(here), Some(there)) = (&item.here, &item.there) else { return Ok(None) };
            let missing = match &here.edit {
                Some(_) => Vec::new(),
                None => rows.holding(&item)?.ranges.missing(aligned(range, here.size)),
            };
            if !missing.is_empty() && here.content != there.content {
                return Ok(None);
            }
            let total = missing.iter().map(|range| range.end - range.start).sum();
            let parent = rows.known(there.parent)?;
            let Some(parent) = parent.on(SideName::There) else { return Ok(None) };
            let parent = parent.identity.clone();
            let at = At { identity: there.identity.clone(), parent, name: there.name.clone() };
            let content = here.content.clone();
            Ok(Some(Fetch {
                item: id,
                at,
                content,
                missing: missing.into(),
                progress: Progress { done: 0, total },
            }))
        })
    }

    /// Takes down that a piece is here, once the system has it. Whether it still counts: not if the file has another version now.
    pub fn fetched(&mut self, fetch: &Fetch, piece: Range<u64>) -> Result<bool> {
        self.database.write(|rows| {
            let Some(item) = rows.get(fetch.item)? else { return Ok(false) };
            if item.here.as_ref().is_none_or(|here| here.content != fetch.content || here.edit.is_some()) {
                return Ok(false);
            }
            let mut holding = rows.holding(&item)?;
            holding.ranges.insert(piece);
            rows.hold(&item, &holding)?;
            Ok(true)
        })
    }

    /// Takes down that all bytes of a file are here, as of a file that was sent.
    pub fn is_whole(&mut self, id: ItemId) -> Result<()> {
        self.database.write(|rows| {
            let item = rows.known(id)?;
            let Some(here) = &item.here else { return Ok(()) };
            let (ranges, is_pinned) = (Ranges::whole(here.size), rows.holding(&item)?.is_pinned);
            rows.hold(&item, &Holding { ranges, is_pinned })
        })
    }
}

impl Rows<'_> {
    fn holding(&self, item: &Item) -> Result<Holding> {
        let mut statement = self
            .transaction
            .prepare_cached("SELECT content, ranges, is_pinned FROM holding WHERE id = ?1")?;
        let row = statement.query_row([item.id.0], |row| {
            Ok((row.get::<_, Token>(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?))
        });
        let Some((content, ranges, is_pinned)) = row.optional()? else {
            return Ok(Holding { ranges: Ranges::default(), is_pinned: false });
        };
        let is_of_it = item.here.as_ref().is_some_and(|here| here.content == content);
        Ok(Holding { ranges: if is_of_it { Ranges::decode(&ranges) } else { Ranges::default() }, is_pinned })
    }

    /// Takes down that no bytes of a file are here any more. Whether it is to stay here stands.
    pub(super) fn drop_ranges(&self, id: ItemId) -> Result<()> {
        self.transaction.prepare_cached("UPDATE holding SET ranges = x'' WHERE id = ?1")?.execute([id.0])?;
        Ok(())
    }

    fn hold(&self, item: &Item, holding: &Holding) -> Result<()> {
        let content = item.here.as_ref().map(|here| here.content.clone()).unwrap_or_default();
        self.transaction
            .prepare_cached("INSERT OR REPLACE INTO holding VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![item.id.0, content, holding.ranges.encode(), holding.is_pinned])?;
        Ok(())
    }
}

fn aligned(range: Range<u64>, size: u64) -> Range<u64> {
    let start = range.start / FETCH_ALIGN_BYTES * FETCH_ALIGN_BYTES;
    let end = range.end.min(size).checked_next_multiple_of(FETCH_ALIGN_BYTES).unwrap_or(size);
    start.min(size)..end.min(size)
}
