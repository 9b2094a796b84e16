//! The data cache on this computer's disk: contents of far files that outlive their mount.
//!
//! One directory of a user holds blocks of all machines, shared by all mounts. Its format is in `docs/formats.md`:
//! [`entry`] is one block, [`place`] the directory. [`DiskCache`] is what one mount has of it.
//!
//! ```text
//!  found ◄─ checked ◄─ read ◄─ [file of the block] ◄─ renamed ◄─ written beside, under the lock ◄─ queue ◄─ kept
//! ```
//!
//! Invariants:
//!
//! - **Readers take no lock.** A block is put in place whole, by a rename, and never changed. What does not match its
//!   checksum, as after a crash of the computer, is a miss and is removed. Nothing is synced: what a crash loses is read
//!   again.
//! - **One writer at a time**, over all processes: whoever adds or evicts has the lock. Where it is not had, the lock having
//!   been removed with all else for example, two write into one file, which then does not match.
//! - **It is bounded.** What is to be added is counted first, so that a writer that dies has counted too much; what was
//!   counted is only made smaller by looking at every file. Those not used for longest go first.
//! - **Nothing of it fails a reader.** What cannot be read is not there, and what cannot be written is not kept: after a
//!   failure, such as a full disk, nothing is tried for [`PAUSE`].

mod entry;
mod place;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use vfs::cache::{Block, DataCache};

use entry::MachineKey;
pub use place::{Cleared, Contents, MachineContents, Place};

/// Blocks that wait to be written. What comes faster than the disk takes it for longer is not kept.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// And how many: as many as fit of 2 KiB.
const QUEUE_BLOCKS_MAX: usize = 32 << 10;

/// Blocks that are written under the lock at once, before another process has a turn: some milliseconds.
const BATCH_BLOCKS_MAX: usize = 64;

/// How long nothing is written after a failure: a full disk stays full for a while, and each try costs a reader's disk
/// time.
const PAUSE: Duration = Duration::from_secs(30);

/// How much of the cache there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheSize {
    /// What was chosen last, or else [`place::DEFAULT_BYTES_MAX`] or a tenth of what the disk has room for, whichever is less.
    #[default]
    Kept,
    /// So many bytes, from now on and for all mounts.
    Bytes(u64),
}

/// What one mount has of the cache: blocks of one machine.
pub struct DiskCache {
    shared: Arc<Shared>,
}

struct Shared {
    place: Place,
    key: MachineKey,
    queue: Mutex<Queue>,
    /// Told when there is something to write, or everything is written.
    moved: Condvar,
    found_bytes: AtomicU64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Block, Bytes)>,
    bytes: usize,
    is_writing: bool,
    is_over: bool,
    paused_until: Option<Instant>,
}

impl DiskCache {
    /// The cache in `directory`, which is made if it is not there, for blocks of `machine`. Blocks for as long as the disk
    /// takes. After an error there is none: a directory that others can enter is refused.
    pub fn open(directory: &Path, machine: &str, size: CacheSize) -> io::Result<DiskCache> {
        let place = Place::new(directory);
        place.prepare(machine)?;
        let shared = Arc::new(Shared {
            place,
            key: MachineKey::of(machine),
            queue: Mutex::default(),
            moved: Condvar::new(),
            found_bytes: AtomicU64::new(0),
        });
        let writer = shared.clone();
        std::thread::Builder::new().name("cache".to_owned()).spawn(move || writer.write_all(size))?;
        Ok(DiskCache { shared })
    }

    /// Waits until everything that was to be kept is on disk, `patience` at most. Whether it is.
    pub fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut queue = self.shared.queue.lock();
        while queue.is_writing || !queue.waiting.is_empty() {
            if self.shared.moved.wait_until(&mut queue, until).timed_out() {
                return false;
            }
        }
        true
    }

    /// Bytes that were found since it was opened.
    pub fn found_bytes(&self) -> u64 {
        self.shared.found_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        self.shared.queue.lock().is_over = true;
        self.shared.moved.notify_all();
    }
}

impl DataCache for DiskCache {
    fn find(&self, block: &Block) -> Option<Bytes> {
        let found = self.shared.place.find(&self.shared.key, block, SystemTime::now())?;
        self.shared.found_bytes.fetch_add(found.len() as u64, Ordering::Relaxed);
        Some(found)
    }

    fn keep(&self, block: Block, bytes: Bytes) {
        if bytes.is_empty() || bytes.len() != block.length() as usize {
            return;
        }
        let mut queue = self.shared.queue.lock();
        let is_paused = queue.paused_until.is_some_and(|until| Instant::now() < until);
        let is_full = queue.bytes + bytes.len() > QUEUE_BYTES_MAX || queue.waiting.len() >= QUEUE_BLOCKS_MAX;
        if is_paused || is_full {
            return;
        }
        queue.bytes += bytes.len();
        queue.waiting.push_back((block, bytes));
        drop(queue);
        self.shared.moved.notify_all();
    }
}

impl Shared {
    /// Writes what is in the queue until nobody is there any more who would put something into it.
    fn write_all(&self, size: CacheSize) {
        let begun = self.place.lock().and_then(|mut locked| locked.begin(size));
        self.judge(begun);
        while let Some(batch) = self.next_batch() {
            let written = self.place.lock().and_then(|mut locked| {
                batch
                    .iter()
                    .try_for_each(|(block, bytes)| locked.add(&self.key, block, bytes, SystemTime::now()))
            });
            self.judge(written);
        }
    }

    fn next_batch(&self) -> Option<Vec<(Block, Bytes)>> {
        let mut queue = self.queue.lock();
        queue.is_writing = false;
        if queue.waiting.is_empty() {
            self.moved.notify_all();
        }
        while queue.waiting.is_empty() {
            if queue.is_over {
                return None;
            }
            self.moved.wait(&mut queue);
        }
        let count = queue.waiting.len().min(BATCH_BLOCKS_MAX);
        let batch: Vec<_> = queue.waiting.drain(..count).collect();
        queue.bytes -= batch.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        queue.is_writing = true;
        Some(batch)
    }

    /// After a failure nothing more is written for a while.
    fn judge(&self, outcome: io::Result<()>) {
        let Err(error) = outcome else { return };
        tracing::info!(%error, "nothing is added to the data cache for a while");
        let mut queue = self.queue.lock();
        queue.paused_until = Some(Instant::now() + PAUSE);
        queue.waiting.clear();
        queue.bytes = 0;
    }
}

#[cfg(test)]
mod tests;
