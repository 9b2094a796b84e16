//! What has changed here since somebody asked last.

use super::database::Rows;
use super::item::{Item, ItemId};
use super::{Replica, Result};

/// A moment in the life of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    epoch: i64,
    pub(super) change: i64,
}

/// How many bytes an [`Anchor`] has.
pub const ANCHOR_BYTES: usize = 16;

/// The most changes in one answer.
pub const CHANGES_MAX: usize = 1000;

impl Anchor {
    /// To be kept by the system: two numbers, little endian.
    pub fn to_bytes(self) -> [u8; ANCHOR_BYTES] {
        (self.epoch as u128 & u128::from(u64::MAX) | (self.change as u128) << 64).to_le_bytes()
    }

    /// What [`to_bytes`](Anchor::to_bytes) made. Anything else is an anchor that has expired.
    pub fn from_bytes(bytes: &[u8]) -> Anchor {
        let Ok(bytes) = <[u8; ANCHOR_BYTES]>::try_from(bytes) else {
            return Anchor { epoch: -1, change: 0 };
        };
        let both = u128::from_le_bytes(bytes);
        Anchor { epoch: both as i64, change: (both >> 64) as i64 }
    }
}

/// A part of what has changed, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// These are here, as they are now.
    pub changed: Vec<Item>,
    /// These are not here, and need not have been.
    pub gone: Vec<ItemId>,
    /// From where to ask next.
    pub anchor: Anchor,
    /// Whether there is more.
    pub is_more: bool,
}

/// An anchor is too old, or another database's. Everything is to be listed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not known any more what has changed since then")]
pub struct Expired;

impl Replica {
    /// Now. Whoever asks for this before listing everything misses nothing.
    pub fn anchor(&mut self) -> Result<Anchor> {
        self.database.write(anchor)
    }

    /// What has changed here since a moment, at most [`CHANGES_MAX`].
    pub fn changes(&mut self, since: Anchor) -> Result<std::result::Result<Changes, Expired>> {
        self.database.write(|rows| {
            let now = anchor(rows)?;
            let is_known =
                since.epoch == now.epoch && (rows.counter("forgotten")?..=now.change).contains(&since.change);
            if !is_known {
                return Ok(Err(Expired));
            }
            let found = rows.changed_after(since.change, CHANGES_MAX)?;
            let is_more = found.len() == CHANGES_MAX;
            let last =
                if is_more { found.last().map_or(now.change, |(change, _)| *change) } else { now.change };
            let (mut changed, mut gone) = (Vec::new(), Vec::new());
            for (_, id) in found {
                match rows.get(id)?.filter(|item| item.here.is_some()) {
                    Some(item) => changed.push(item),
                    None => gone.push(id),
                }
            }
            Ok(Ok(Changes { changed, gone, anchor: Anchor { change: last, ..now }, is_more }))
        })
    }
}

fn anchor(rows: &Rows<'_>) -> Result<Anchor> {
    Ok(Anchor { epoch: rows.counter("epoch")?, change: rows.counter("change")? })
}

impl Rows<'_> {
    fn changed_after(&self, change: i64, most: usize) -> Result<Vec<(i64, ItemId)>> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT changed, id FROM item WHERE changed > ?1 UNION ALL SELECT change, id FROM gone WHERE change > ?1
             ORDER BY 1 LIMIT ?2",
        )?;
        let rows =
            statement.query_map([change, most as i64], |row| Ok((row.get(0)?, ItemId(row.get(1)?))))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}
