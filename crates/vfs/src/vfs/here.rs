//! Opening without the source: small files whose content is kept.
//!
//! ```text
//!                  ┌─ it is kept, of the file as it is ─► here ──close(2)──► gone: the source has heard of nothing
//!  open to read ───┤                                       │
//!                  │                       something needs the source's handle, or OPEN_WITHIN is over
//!                  │                                       ▼
//!                  └─ it is not ─► asked ─────────► being opened ─► open ──close(2)──► closed at the source
//!                                                          │ refused
//!                                                          ▼
//!                                               here for ever, if the file is gone there
//! ```
//!
//! **Whether it may be opened.** A content was read by the user for whom the source acts, and is found only under the
//! version that the attributes say now. A change of owner, mode or access list is a change of version; so the source would
//! open it again. Who of the kernel's users may open it, the kernel decides by the attributes, as for any other file.
//!
//! **Whether it is current.** Beyond [`NEAR`](super::NEAR), a file under lease is: the source would tell. Of a near source
//! the attributes are asked for with each open, which is one request where opening and closing are two.
//!
//! **Where it comes from.** From the memory of this mount, or from the [data cache](super::cached), which is looked into first.
//!
//! **What stays readable.** A handle keeps the content that it was opened with, until the content is told to be another, or
//! is changed from here. Then, and for everything but reading, the source has to open the file. When it says that the
//! file is not there any more, the file is what it is for who has it open. So it is read by another handle, if the source has opened
//! one. If there is none, what was kept last of it stays what it holds: all handles show that, since the kernel has the same pages
//! for all of them. A name is not taken away from
//! here, nor are its rights changed, before the source has opened what is open here. While the source is away, nothing is
//! opened there for being open for long.
//!
//! **What a successor knows.** The handle is recorded as one that is assumed: the successor has no content, and opens the file
//! at the source before anything else. For a file that has been removed on the machine meanwhile that is too late. So no
//! handle stays here for long: after [`OPEN_WITHIN`] it is opened at the source, whoever wants it. What is left is that a
//! worker dies within that time of an open, and the file is removed within the same time, on the machine.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::Vfs;
use super::files::{AroundPages, HandleOf, Holder, OpenFile, OpenedFile, is_news, slice};
use super::writes::poll_once;
use crate::awaited::Awaited;
use crate::cache::{DataCache, blocks_in, is_settled};
use crate::contents::{Contents, Reading};
use crate::errno::{Errno, Result};
use crate::file::{Attributes, Entry, FileId, Time, Version};
use crate::source::{HandleId, Source, Target};
use crate::table::ledger::Stage;
use crate::table::{Believe, Ino, Moment};

/// How long a file may be open here alone: longer than it takes to read a small file, and short for whoever removes one on
/// the machine.
const OPEN_WITHIN: Duration = Duration::from_millis(100);

/// Files that were opened within that time. More are opened at the source at once.
const OPENED_LATELY_MAX: usize = 32 << 10;

/// What a handle was opened with.
#[derive(Debug)]
pub(super) struct Here {
    bytes: Bytes,
    /// Its share of [`crate::ahead::AHEAD_BYTES_MAX`].
    _room: OwnedSemaphorePermit,
    /// The content's number when it was what the file holds.
    content: u64,
    /// The source is asked to open it, or will never be.
    is_decided: AtomicBool,
}

/// Files that were opened here, in the order in which they were.
pub(super) type OpenedLately = Mutex<VecDeque<(Moment, HandleId)>>;

/// Contents that are being read. See [`Contents`].
pub(super) struct ReadingContents {
    contents: Arc<Mutex<Contents>>,
    reading: Option<Reading>,
    cache: Option<Arc<dyn DataCache>>,
    /// The source's clock when it began.
    clock: Option<Time>,
}

impl ReadingContents {
    /// Keeps what came with the reading: the content of `entry`, as it was then.
    pub(super) fn keep(&self, entry: &Entry, bytes: &[u8]) -> Option<Bytes> {
        let (file, version) = (entry.id, entry.attributes.version());
        let kept = self.keep_cached(file, version, bytes)?;
        if let Some(cache) = self.cache.as_ref().filter(|_| is_settled(&version, self.clock)) {
            blocks_in(file, version, 0, &kept)
                .into_iter()
                .for_each(|(block, bytes)| cache.keep(block, bytes));
        }
        Some(kept)
    }

    /// Keeps in memory what the cache has of this version.
    pub(super) fn keep_cached(&self, file: FileId, version: Version, bytes: &[u8]) -> Option<Bytes> {
        self.contents.lock().keep(self.reading.as_ref()?, file, version, bytes)
    }
}

impl Drop for ReadingContents {
    fn drop(&mut self) {
        if let Some(reading) = self.reading.take() {
            self.contents.lock().end_reading(reading);
        }
    }
}

impl<S: Source> Vfs<S> {
    pub(super) fn begin_reading(&self) -> ReadingContents {
        let reading = Some(self.contents.lock().begin_reading());
        let (cache, clock) = (self.source.cache(), self.source.clock());
        ReadingContents { contents: self.contents.clone(), reading, cache, clock }
    }

    /// The node's content is changed from here, or was.
    pub(super) fn doubt_kept(&self, ino: Ino) {
        let id = self.table.lock().id(ino);
        if let Ok(id) = id {
            self.contents.lock().doubt(id);
        }
    }

    /// Opens a file without the source if its content is kept, and is what the file holds. `kernel_has` are the attributes that
    /// the kernel may have, if that is known.
    pub(super) async fn open_here(
        self: &Arc<Self>,
        of: HandleOf,
        kernel_has: Option<Attributes>,
    ) -> Option<OpenedFile> {
        let id = self.table.lock().id(of.ino).ok()?;
        let has = || self.contents.lock().has(id);
        if !has() {
            self.bring_cached(of.ino).await;
        }
        if !has() {
            return None;
        }
        if self.near.load(Ordering::Relaxed) {
            self.look_again(of.ino).await?;
            self.kernel_caught_up(of.ino).await;
        }
        let HandleOf { ino, handle, .. } = of;
        let opening = Arc::new(Awaited::new());
        let file = self.hold(ino, Holder { handle, writes: false, opening: opening.clone() });
        // From here on a change raises the number.
        let content = file.content();
        let found = self.find_kept(ino);
        let Some((attributes, here)) = found.and_then(|(attributes, bytes)| {
            let length = u32::try_from(bytes.len()).ok()?;
            let _room = self.ahead.clone().try_acquire_many_owned(length).ok()?;
            Some((attributes, Here { bytes, _room, content, is_decided: AtomicBool::new(false) }))
        }) else {
            self.let_go(&file, handle);
            drop(opening.promise(Err(Errno::EBADF)));
            return None;
        };
        let open = self.register_held(of, file, (opening, Some(here)), Some(Stage::Assumed));
        let same_pages = self.table.lock().keep_pages(ino, &attributes);
        let is_behind = self.kernel.is_behind(ino);
        let keep_pages = same_pages && !is_behind;
        self.open_soon(&open);
        let attributes_changed = is_news(kernel_has, &attributes) || is_behind;
        let around_pages = if self.may_kernel_err(ino) { AroundPages::IfMappable } else { AroundPages::No };
        Some(OpenedFile { handle, keep_pages, attributes_changed, around_pages })
    }

    /// Asks the source for the node's attributes. `None` if it does not tell, or if something else was learnt of the node
    /// meanwhile: what the table has then may be older than the question.
    async fn look_again(&self, ino: Ino) -> Option<()> {
        let (place, stamp) = {
            let table = self.table.lock();
            (table.place(ino).ok()?, table.stamp(ino).ok()?)
        };
        let entry = self.source.stat(Target::Place(place)).await.ok()?;
        let learnt = self.learn(|table, notices| {
            let is_same = table.id(ino) == Ok(entry.id);
            is_same.then(|| table.learn_attributes(ino, entry.attributes, stamp, self.now(), notices))
        });
        matches!(learnt, Some(Ok(Believe::For(_) | Believe::Leased))).then_some(())
    }

    fn find_kept(&self, ino: Ino) -> Option<(Attributes, Bytes)> {
        let is_near = self.near.load(Ordering::Relaxed);
        let (id, attributes) = {
            let table = self.table.lock();
            (table.id(ino).ok()?, table.settled_attributes(ino, self.now(), !is_near)?)
        };
        if self.may_be_half_written(ino) {
            return None;
        }
        let bytes = self.contents.lock().find(id, attributes.version())?;
        (bytes.len() as u64 == attributes.size).then_some((attributes, bytes))
    }

    /// Has the file opened at the source within a while, if it stays open for so long.
    fn open_soon(self: &Arc<Self>, open: &Arc<OpenFile>) {
        let is_first = {
            let mut lately = self.opened_lately.lock();
            if lately.len() >= OPENED_LATELY_MAX {
                drop(lately);
                return self.open_now(open);
            }
            lately.push_back((self.now(), open.handle));
            lately.len() == 1
        };
        if !is_first {
            return;
        }
        let vfs = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(OPEN_WITHIN).await;
                if poll_once(std::pin::pin!(vfs.source.away())).await.is_some() {
                    continue;
                }
                let (due, is_last) = vfs.opened_before(OPEN_WITHIN);
                due.into_iter()
                    .filter_map(|handle| vfs.open_file(handle).ok())
                    .for_each(|open| vfs.open_now(&open));
                if is_last {
                    return;
                }
            }
        });
    }

    /// Takes the handles that were opened so long ago. The second is whether there are no others.
    fn opened_before(&self, ago: Duration) -> (Vec<HandleId>, bool) {
        let until = self.now().0.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
        let mut lately = self.opened_lately.lock();
        let due = lately.partition_point(|(at, _)| at.0 <= until);
        let due = lately.drain(..due).map(|(_, handle)| handle).collect();
        (due, lately.is_empty())
    }

    /// Has a file that is open here alone opened at the source.
    pub(super) fn open_now(self: &Arc<Self>, open: &Arc<OpenFile>) {
        let Some(here) = &open.here else { return };
        if !here.is_decided.swap(true, Ordering::AcqRel) {
            let place = self.table.lock().last_place(open.ino());
            self.open_later(open, place);
        }
    }

    /// The handles of the node that were opened here.
    pub(super) fn handles_here(&self, ino: Ino) -> Vec<Arc<OpenFile>> {
        let file = self.files.lock().get(&ino).cloned();
        let handles = file.map(|file| file.openings()).unwrap_or_default().into_iter();
        let open = handles.filter_map(|(handle, _)| self.open_file(handle).ok());
        open.filter(|open| open.here.is_some()).collect()
    }

    /// Waits until the source has opened all that is open here of the node, before it may refuse to.
    pub(super) async fn opened_all(self: &Arc<Self>, ino: Ino) {
        let handles = self.handles_here(ino);
        handles.iter().for_each(|open| self.open_now(open));
        for open in handles {
            // One that it refuses now it would not open later either.
            let _opened = open.opening.get().await.is_ok();
        }
    }

    /// Waits until the source has opened the file.
    pub(super) async fn opened(self: &Arc<Self>, open: &Arc<OpenFile>) -> Result<()> {
        self.open_now(open);
        open.opening.get().await
    }

    /// Reads of a file that is gone where this handle was to be opened, or says why it was not.
    pub(super) async fn read_of_gone(
        self: &Arc<Self>,
        open: &Arc<OpenFile>,
        (offset, length): (u64, u32),
        why: Errno,
    ) -> Result<Bytes> {
        let handles = self.handles_of(open);
        for other in handles.iter().filter(|other| other.flags.read) {
            if self.opened(other).await.is_err() {
                continue;
            }
            match self.read_there(other, offset, length).await {
                // It is being closed at this moment: there may be another.
                Err(Errno::EBADF) => {}
                outcome => return outcome,
            }
        }
        last_kept(&handles).map(|bytes| slice(&bytes, offset, u64::from(length))).ok_or(why)
    }

    /// All handles of the file that this one is of.
    fn handles_of(&self, open: &OpenFile) -> Vec<Arc<OpenFile>> {
        let handles = open.file.openings().into_iter();
        handles.filter_map(|(handle, _)| self.open_file(handle).ok()).collect()
    }

    /// How long a file is of which nothing is left but what was kept of it.
    pub(super) fn size_kept(&self, ino: Ino) -> Option<u64> {
        last_kept(&self.handles_here(ino)).map(|bytes| bytes.len() as u64)
    }
}

/// The latest of the contents that handles of one file were opened with.
fn last_kept(handles: &[Arc<OpenFile>]) -> Option<Bytes> {
    let kept = handles.iter().filter_map(|open| open.here.as_ref());
    kept.max_by_key(|here| here.content).map(|here| here.bytes.clone())
}

impl OpenFile {
    /// Whether the source has not been asked to open the file.
    pub(super) fn is_here_alone(&self) -> bool {
        self.here.as_ref().is_some_and(|here| !here.is_decided.load(Ordering::Acquire))
    }

    /// Whether the handle was closed before the source was asked to open it. Then it never is.
    pub(super) fn ends_here(&self) -> bool {
        let ends = self.here.as_ref().is_some_and(|here| !here.is_decided.swap(true, Ordering::AcqRel));
        if ends {
            // Whoever waits for it, by what the file's other handles know of it, goes on.
            drop(self.opening.promise(Err(Errno::EBADF)));
        }
        ends
    }

    /// What the file holds, if that is what the handle was opened with.
    pub(super) fn content_here(&self) -> Option<&Bytes> {
        self.here.as_ref().filter(|here| here.content == self.file.content()).map(|here| &here.bytes)
    }
}
