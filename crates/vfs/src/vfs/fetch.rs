//! Fetching ahead of a reader: walks of the source that bring contents of small files.
//!
//! [`Readers`](crate::prefetch::Readers) decides. A page is asked for only when it is wanted, so that a walk is never
//! further ahead than it may be, and of the bytes on the link few stand before what somebody waits for.

use std::sync::Arc;
use std::time::Duration;

use super::Vfs;
use super::here::ReadingContents;
use super::walks::Learning;
use crate::contents::FILE_BYTES_MAX;
use crate::errno::Result;
use crate::prefetch::{Begin, IDLE_MS, Next, Opening, Start};
use crate::source::{Place, Source, WalkBudget, WalkFrom, WalkPage, Walking};
use crate::table::{Believe, Ino};

/// How far up it is looked who goes through what.
const ABOVE_MAX: usize = 64;

/// How far down a walk goes: deeper than source trees are.
const DEPTH_MAX: u16 = 64;

/// Entries of one walk. With more in a directory it is no tree of small files.
const ENTRIES_MAX: u32 = 64 << 10;

/// What an entry costs on the way, in estimate.
const ENTRY_BYTES: u64 = 110;

/// Contents of one walk. A reader who wants more begins another.
const CONTENT_BYTES_MAX: u64 = 1 << 30;

impl<S: Source> Vfs<S> {
    /// A file is opened to be read; its content was kept, or is asked for now.
    pub(super) fn read_along(self: &Arc<Self>, ino: Ino, was_kept: bool) {
        if !self.options.fetch_ahead || (was_kept && !self.readers.lock().is_fetching()) {
            return;
        }
        let now = self.now();
        let (above, bytes) = {
            let table = self.table.lock();
            // Of what is not believed a content would be of no use.
            let Ok(Some((attributes, Believe::Leased))) = table.attributes(ino, now) else { return };
            (table.directories_above(ino, ABOVE_MAX), attributes.size)
        };
        if bytes == 0 || bytes > u64::from(FILE_BYTES_MAX) {
            return;
        }
        let begin = self.readers.lock().opened(Opening { above: &above, bytes, was_kept }, now);
        self.read_on.notify_waiters();
        if let Some(begin) = begin {
            let vfs = self.clone();
            tokio::spawn(async move {
                vfs.fetch_ahead(begin).await;
                vfs.readers.lock().ended(begin.number);
            });
        }
    }

    async fn fetch_ahead(self: &Arc<Self>, Begin { number, start }: Begin) {
        let Ok((place, from)) = self.start_of(start) else { return };
        let budget = WalkBudget {
            entries: ENTRIES_MAX,
            depth: DEPTH_MAX,
            file_bytes: FILE_BYTES_MAX,
            content_bytes: CONTENT_BYTES_MAX,
        };
        let (reading, mut learning) = (self.begin_reading(), Learning::begin(self));
        let mut walk = self.source.walk(place, from, budget);
        loop {
            let read_on = self.read_on.notified();
            let next = self.readers.lock().next(number, self.now());
            match next {
                Next::End => return,
                Next::Wait => {
                    // Whether the reader has gone on or not, it is looked again.
                    drop(tokio::time::timeout(Duration::from_millis(IDLE_MS), read_on).await);
                }
                Next::Page => {
                    let Ok(Some(page)) = walk.next().await else { return };
                    // Names too: of a file that is not known a content is of no use.
                    learning.take_in(&page);
                    let bytes = keep_contents(&reading, &page);
                    self.readers.lock().fetched(number, bytes);
                }
            }
        }
    }

    fn start_of(&self, start: Start) -> Result<(Place, WalkFrom)> {
        let table = self.table.lock();
        match start {
            Start::Directory(ino) => Ok((table.place(ino)?, WalkFrom::Itself)),
            Start::Below { parent, first } => {
                let name = table.name_of(first).filter(|(above, _)| *above == parent);
                let from = name.map_or(WalkFrom::Itself, |(_, name)| WalkFrom::Below(name));
                Ok((table.place(parent)?, from))
            }
        }
    }
}

/// Keeps the contents that came with a page. Gives how many bytes all that were.
fn keep_contents(reading: &ReadingContents, WalkPage { page, contents, .. }: &WalkPage) -> u64 {
    let mut bytes = ENTRY_BYTES * (1 + page.entries.len() as u64);
    for (index, content) in contents {
        let Some(entry) = page.entries.get(*index).and_then(|listed| listed.entry) else { continue };
        // What is not the whole of the file is no content.
        if entry.attributes.size == content.len() as u64 {
            bytes += content.len() as u64;
            reading.keep(&entry, content);
        }
    }
    bytes
}
