//! What is read from the [data cache](crate::cache) in place of the source, and what is given to it.
//!
//! ```text
//!  open of a small file that is not kept ──► brought from the cache under the version last seen ──► as any that is kept
//!
//!  read of an open file ─┬─ its version is believed ─┬─ all its blocks are there ─► answered
//!                        │                           └─ else ─► the source ─► believed still, and settled ─► kept
//!                        └─ it is not, or is being changed from here, or the open has told another ─► the source
//! ```
//!
//! What is brought for an open is found only under the version that the file has, as all that is kept: see
//! [`here`](super::here). What is read through an open file is that of the version under lease, or of one seen a moment ago
//! where there is none: the same that the attributes of an open file are answered with.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::Vfs;
use super::files::{OpenFile, cut, slice};
use crate::cache::{BLOCK_BYTES, Block, DataCache, blocks_in, blocks_with, is_settled};
use crate::contents::FILE_BYTES_MAX;
use crate::errno::Result;
use crate::file::{FileId, Kind, Version};
use crate::source::Source;
use crate::table::Ino;

/// After so many misses in a row an open file of a near source is read from there.
const NEAR_MISSES_MAX: u32 = 4;

/// How long a look into the cache may take. A local disk takes a hundredth of it.
const LOOKUP_WITHIN: Duration = Duration::from_secs(1);

/// Which content a read is of, and where it may be kept.
struct Cached {
    cache: Arc<dyn DataCache>,
    file: FileId,
    version: Version,
}

impl<S: Source> Vfs<S> {
    /// Brings the content of a small file to those that are kept in memory, if it is in the cache under the version that was
    /// seen last.
    pub(super) async fn bring_cached(&self, ino: Ino) {
        let Some(cache) = self.source.cache() else { return };
        let (file, attributes) = {
            let table = self.table.lock();
            let (Ok(file), Ok(attributes)) = (table.id(ino), table.last_attributes(ino)) else { return };
            (file, attributes)
        };
        let is_small = attributes.size > 0 && attributes.size <= u64::from(FILE_BYTES_MAX);
        if attributes.kind != Kind::File || !is_small {
            return;
        }
        let reading = self.begin_reading();
        let version = attributes.version();
        let cached = Cached { cache, file, version };
        if let Some(bytes) = self.find_cached(&cached, 0, version.size).await {
            reading.keep_cached(file, version, &bytes);
        }
    }

    /// Reads from the cache, or else from the source. Shorter than `length` only at the end of the file.
    pub(super) async fn read_cached(&self, open: &OpenFile, offset: u64, length: u32) -> Result<Bytes> {
        let cached = self.cached(open);
        if let Some(cached) = cached.as_ref().filter(|_| self.is_worth_looking(open)) {
            let end = offset.saturating_add(u64::from(length)).min(cached.version.size);
            if offset < end {
                if let Some(bytes) = self.find_cached(cached, offset, end).await {
                    open.cache_misses.store(0, Ordering::Relaxed);
                    return Ok(bytes);
                }
                open.cache_misses.fetch_add(1, Ordering::Relaxed);
            }
        }
        let clock = self.source.clock();
        let bytes = cut(self.source.read(open.handle, offset, length).await?, length);
        if let Some(Cached { cache, file, version }) = cached
            && is_settled(&version, clock)
            && self.cached(open).is_some_and(|now| now.version == version)
        {
            for (block, bytes) in blocks_in(file, version, offset, &bytes) {
                cache.keep(block, bytes);
            }
        }
        Ok(bytes)
    }

    /// A near source answers as fast as it is found out that nothing is kept, which is not looked for again and again.
    fn is_worth_looking(&self, open: &OpenFile) -> bool {
        open.cache_misses.load(Ordering::Relaxed) < NEAR_MISSES_MAX || !self.near.load(Ordering::Relaxed)
    }

    /// Which content the file has, if that is believed.
    fn cached(&self, open: &OpenFile) -> Option<Cached> {
        if open.flags.direct || open.is_ahead.load(Ordering::Acquire) {
            return None;
        }
        let cache = self.source.cache()?;
        let table = self.table.lock();
        let attributes = table.settled_attributes(open.ino(), self.now(), false)?;
        let is_file = attributes.kind == Kind::File;
        is_file.then_some(Cached { cache, file: table.id(open.ino()).ok()?, version: attributes.version() })
    }

    /// The range of the content, if all of its blocks are there. It is not empty and lies in the file.
    async fn find_cached(&self, cached: &Cached, offset: u64, end: u64) -> Option<Bytes> {
        let Cached { cache, file, version } = cached;
        let (cache, file, version) = (cache.clone(), *file, *version);
        // A disk that hangs keeps the turns, and nobody waits for it for long.
        let turn =
            tokio::time::timeout(LOOKUP_WITHIN, self.lookups.clone().acquire_owned()).await.ok()?.ok()?;
        let looked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let find = |number| {
                let block = Block { file, version, number };
                let bytes = cache.find(&block)?;
                (bytes.len() == block.length() as usize).then_some(bytes)
            };
            blocks_with(offset, end).map(find).collect::<Option<Vec<Bytes>>>()
        });
        let blocks = tokio::time::timeout(LOOKUP_WITHIN, looked).await.ok()?.ok()??;
        let start = offset - offset % u64::from(BLOCK_BYTES);
        let all = match blocks.as_slice() {
            [one] => one.clone(),
            many => {
                let mut all = BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
                many.iter().for_each(|bytes| all.extend_from_slice(bytes));
                all.freeze()
            }
        };
        Some(slice(&all, offset - start, end - offset))
    }
}
