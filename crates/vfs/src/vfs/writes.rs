//! Writing: what is taken from writers, how it gets to the source, and what becomes of it when this process dies.
//!
//! ```text
//!             ┌─ append, O_SYNC, strict, or nowhere to keep it ─► sent ─► answered by the source ─► the writer is told
//!  room, range┤
//!             └─ kept in the journal ─► sent ─► the writer is told ─► answered by the source ─► over, recorded, settled
//! ```
//!
//! A write that the journal has is sent by a successor again, under the same number, unless it is recorded to be over. So a
//! number is settled only when that is recorded, and it is recorded before a change is sent that is not in the journal.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};

use super::files::{OFFSET_MAX, OpenFile};
use super::{SyncMode, Vfs};
use crate::behind::{Taken, UNWRITTEN_BYTES_MAX};
use crate::errno::{Errno, Result};
use crate::file::{Content, ThreadId, WriteAt};
use crate::journal::{Describe, Done, Header, Journal, Pending};
use crate::request::{RequestId, Sequence, current, is_repeat, numbered};
use crate::source::{HandleId, Place, Source, TRANSFER_BYTES_MAX, Written};
use crate::table::{Ino, Notice, Stamp, Write};

/// How long a write that is over waits to be recorded together with others. Meanwhile the source keeps its answer.
const DONE_WITHIN: Duration = Duration::from_millis(50);

/// How soon after a failure it is tried again to record what is over.
const DONE_RETRY: Duration = Duration::from_secs(1);

/// Where the bytes of a write come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFrom {
    /// A `write(2)` of this thread through the handle, under its flags.
    Caller(ThreadId),
    /// The kernel's pages, changed through a mapping. They know their offset, whatever handle the kernel picks.
    Pages,
}

impl WriteFrom {
    fn writer(self) -> ThreadId {
        match self {
            WriteFrom::Caller(thread) => thread,
            WriteFrom::Pages => ThreadId::UNKNOWN,
        }
    }
}

/// Where a write is kept until it is at the source.
enum KeptIn {
    /// In memory: nobody will take over.
    Memory,
    /// In the journal, to be sent under this number.
    Journal(Sequence),
    /// Nowhere: its writer waits.
    Nowhere,
}

impl<S: Source> Vfs<S> {
    /// `pwrite(2)`. Gives how much was taken; an earlier write's error is reported here if it has not been yet.
    ///
    /// A write that is answered before the source has it is in the journal, where there is one. Asked again by the kernel
    /// of a successor, it is not written twice.
    pub async fn write(
        self: &Arc<Self>,
        handle: HandleId,
        offset: u64,
        bytes: Bytes,
        from: WriteFrom,
        clear_set_id: bool,
    ) -> Result<u32> {
        let open = self.open_file(handle)?;
        if !open.flags.write {
            return Err(Errno::EBADF);
        }
        self.behind_failure(&open)?;
        let Ok(length) = u32::try_from(bytes.len()) else { return Err(Errno::EINVAL) };
        let append = open.flags.append && from != WriteFrom::Pages;
        let end = offset.saturating_add(u64::from(length));
        if end > OFFSET_MAX && !append {
            return Err(Errno::EFBIG);
        }
        if self.was_taken(length) {
            return Ok(length);
        }
        let waits = append || open.flags.sync || self.options.sync == SyncMode::Strict;
        // An append goes where the source decides: it overlaps everything.
        let (start, end) = if append { (0, u64::MAX) } else { (offset, end) };
        let permits = length.min(u32::try_from(UNWRITTEN_BYTES_MAX).unwrap_or(u32::MAX));
        let room = self.unwritten.clone().acquire_many_owned(permits).await.map_err(|_closed| Errno::EIO)?;
        let taken = open.file.behind.begin(start, end, from.writer()).await;
        let mut under_way = UnderWay::new(self, &open, taken, append);
        let kept = match waits {
            true => KeptIn::Nowhere,
            false => self.keep_write(&open, offset, &bytes, clear_set_id).await,
        };
        if let KeptIn::Journal(sequence) = kept {
            under_way.journalled = Some(sequence);
        }
        let task = async move {
            let _room = room;
            under_way.carry_out(offset, bytes, clear_set_id).await
        };
        let sequence = match kept {
            KeptIn::Nowhere => {
                self.record_done();
                return self.told_now(&open, task.await).map(|()| length);
            }
            KeptIn::Journal(sequence) => Some(sequence),
            KeptIn::Memory => None,
        };
        let mut task = Box::pin(numbered(sequence, task));
        // The first poll sends the write from here: most often nothing is left to do but to wait for the reply.
        if let Some(outcome) = poll_once(task.as_mut()).await {
            return self.told_now(&open, outcome).map(|()| length);
        }
        tokio::spawn(task);
        Ok(length)
    }

    /// Whether a write through this handle, asked for twice, does harm: it is to be carried out under a
    /// [`Slot`](crate::request::Slot).
    pub fn write_happens_once(&self, handle: HandleId, from: WriteFrom) -> bool {
        from != WriteFrom::Pages && self.open_file(handle).is_ok_and(|open| open.flags.append)
    }

    /// Whether a predecessor has taken the write that is being answered, of `length` bytes, and had not told its writer.
    fn was_taken(&self, length: u32) -> bool {
        let Some(journalling) = &self.journalling else { return false };
        let mut taken = journalling.taken.lock();
        !taken.is_empty() && current().is_some_and(|request| taken.remove(&request) == Some(length))
    }

    async fn keep_write(&self, open: &OpenFile, offset: u64, bytes: &[u8], clear_set_id: bool) -> KeptIn {
        let Some(journalling) = &self.journalling else { return KeptIn::Memory };
        let Some(journal) = &journalling.journal else { return KeptIn::Nowhere };
        // Without a record nobody takes over, and who waits for the source hears of a loss.
        if bytes.len() > TRANSFER_BYTES_MAX as usize || self.is_record_failing() {
            return KeptIn::Nowhere;
        }
        let Some(number) = SetAside::new(self) else { return KeptIn::Nowhere };
        let header = Header {
            sequence: number.sequence,
            request: current().unwrap_or(RequestId(0)),
            handle: open.handle,
            ino: open.ino(),
            offset,
            clear_set_id,
        };
        match journal.append(&header, bytes, &FileOf { vfs: self, ino: open.ino() }).await {
            Ok(()) => KeptIn::Journal(number.use_it()),
            Err(error) => {
                tracing::warn!(%error, source = ?std::error::Error::source(&error), "a writer waits for the source");
                KeptIn::Nowhere
            }
        }
    }

    /// Nothing of what is kept in the journal will be brought to the source any more: the source is about to be closed. What
    /// fails from now on stays kept, for whoever replays it when the source is there again. Its writers are told all the same.
    pub fn give_up(&self) {
        let Some(journal) = self.journal() else { return };
        journal.give_up(|ino| FileOf { vfs: self, ino });
    }

    /// Writes that are kept in the journal, and of which it is not known that the source has them.
    pub fn kept_writes(&self) -> usize {
        self.record_done();
        self.journal().map_or(0, Journal::pending)
    }

    /// What the journal has is over, and has left the file with this content.
    fn is_done(self: &Arc<Self>, sequence: Sequence, content: Option<Content>) {
        let Some(journal) = self.journal() else { return };
        let Done { settled, is_first } = journal.done(sequence, content);
        settled.into_iter().for_each(|sequence| self.source.settled(sequence));
        if is_first {
            let vfs = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(DONE_WITHIN).await;
                vfs.record_done();
                while vfs.journal().is_some_and(Journal::is_behind) {
                    tokio::time::sleep(DONE_RETRY).await;
                    vfs.record_done();
                }
            });
        }
    }

    /// Sets a number aside at the source.
    pub(super) fn next_sequence(&self) -> Option<Sequence> {
        self.source.next_sequence().or_else(|| {
            // What is over and not recorded keeps numbers.
            self.record_done();
            self.source.next_sequence()
        })
    }

    /// Records which writes are over: a change that is about to be sent must not be undone by a successor that sends them
    /// again to a source that has forgotten them.
    pub(crate) fn record_done(&self) {
        if let Some(journal) = self.journal() {
            journal.record_done().into_iter().for_each(|sequence| self.source.settled(sequence));
        }
    }

    /// Carries out what a predecessor has taken from writers and may not have brought to the source. Its ranges are taken
    /// when this returns: who reads or writes them waits.
    pub(super) fn replay(self: &Arc<Self>, pending: Vec<Pending>) {
        if !pending.is_empty() {
            tracing::info!(writes = pending.len(), "a predecessor's writes are carried out");
        }
        for Pending { header, bytes } in pending {
            // A handle is closed only when its writes are over.
            let Ok(open) = self.open_file(header.handle) else {
                self.is_done(header.sequence, None);
                continue;
            };
            let end = header.offset.saturating_add(bytes.len() as u64);
            let taken = open.file.behind.inherit(header.offset, end);
            let mut under_way = UnderWay::new(self, &open, taken, false);
            (under_way.journalled, under_way.is_repeat) = (Some(header.sequence), true);
            let permits = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            // More may be pending than there is room for: what was over and not recorded counts too.
            let room = self.unwritten.clone().try_acquire_many_owned(permits).ok();
            tokio::spawn(numbered(Some(header.sequence), async move {
                let _room = room;
                under_way.turn().await;
                if let Err(errno) = under_way.carry_out(header.offset, bytes, header.clear_set_id).await {
                    tracing::warn!(ino = header.ino.0, %errno, "a predecessor's write failed; `fsync` and `close` tell");
                }
            }));
        }
    }
}

/// The file of a write, as the table has it.
struct FileOf<'a, S: Source> {
    vfs: &'a Vfs<S>,
    ino: Ino,
}

impl<S: Source> Describe for FileOf<'_, S> {
    fn content(&self) -> Option<Content> {
        self.vfs.last_attributes(self.ino).ok()?.content()
    }

    fn place(&self) -> Option<Place> {
        let table = self.vfs.table.lock();
        let nameless = || Some(Place { id: table.id(self.ino).ok()?, path: Box::default() });
        table.last_place(self.ino).ok().or_else(nameless)
    }
}

/// A number that was set aside for a write. Dropped unused, it is given back.
struct SetAside<'a, S: Source> {
    vfs: &'a Vfs<S>,
    sequence: Sequence,
}

impl<'a, S: Source> SetAside<'a, S> {
    fn new(vfs: &'a Vfs<S>) -> Option<SetAside<'a, S>> {
        Some(SetAside { vfs, sequence: vfs.next_sequence()? })
    }

    fn use_it(self) -> Sequence {
        std::mem::ManuallyDrop::new(self).sequence
    }
}

impl<S: Source> Drop for SetAside<'_, S> {
    fn drop(&mut self) {
        self.vfs.source.settled(self.sequence);
    }
}

/// How far a write has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Taken,
    Sent,
    Over,
}

/// A write that has its range and its place in the table's count. Dropped after it was sent and before its end, its outcome
/// is unknown and the file's writers are told `EIO`; what the journal has of it stays there for a successor.
struct UnderWay<S: Source> {
    vfs: Arc<Vfs<S>>,
    open: Arc<OpenFile>,
    append: bool,
    taken: Taken,
    begun: Stamp,
    journalled: Option<Sequence>,
    /// It may have been carried out before: what the source says of the file is from then.
    is_repeat: bool,
    progress: Progress,
}

impl<S: Source> UnderWay<S> {
    fn new(vfs: &Arc<Vfs<S>>, open: &Arc<OpenFile>, taken: Taken, append: bool) -> UnderWay<S> {
        open.file.content_changed();
        let begun = vfs.table.lock().begin_write(open.ino());
        let (vfs, open) = (vfs.clone(), open.clone());
        UnderWay {
            vfs,
            open,
            append,
            taken,
            begun,
            journalled: None,
            is_repeat: is_repeat(),
            progress: Progress::Taken,
        }
    }

    /// Waits for what was taken before and overlaps this.
    async fn turn(&self) {
        self.open.file.behind.turn(&self.taken).await;
    }

    async fn carry_out(mut self, offset: u64, bytes: Bytes, clear_set_id: bool) -> Result<()> {
        self.progress = Progress::Sent;
        let outcome = self.write_all(offset, bytes, clear_set_id).await;
        self.finish(outcome, true);
        outcome.map(|_| ())
    }

    /// Has the journal say that the write is over, and what the file holds then.
    fn settle(&self, outcome: Result<()>, content: Option<Content>) {
        let Some(sequence) = self.journalled else { return };
        if let Err(errno) = outcome {
            // The journal says that the write is over, and not what it came to.
            self.vfs.keep_failure(&self.open.file, errno);
            if self.vfs.journal().is_some_and(Journal::has_given_up) {
                return;
            }
        }
        self.vfs.is_done(sequence, content);
    }

    async fn write_all(&self, mut offset: u64, mut bytes: Bytes, clear_set_id: bool) -> Result<Written> {
        let source = &self.vfs.source;
        self.open.opening.get().await?;
        loop {
            let part = bytes.slice(..bytes.len().min(TRANSFER_BYTES_MAX as usize));
            let at = if self.append { WriteAt::End } else { WriteAt::Offset(offset) };
            let written = source.write(self.open.handle, at, part.clone(), clear_set_id).await?;
            match usize::try_from(written.bytes) {
                Ok(taken) if taken <= part.len() && (taken > 0 || part.is_empty()) => bytes.advance(taken),
                _ => return Err(Errno::EIO),
            }
            offset = offset.saturating_add(written.bytes);
            if bytes.is_empty() {
                if self.append && written.attributes.size != offset {
                    // Somebody else appended meanwhile: the kernel thinks that these bytes are elsewhere.
                    self.vfs.notify(vec![Notice::Content(self.open.ino())]);
                }
                return Ok(written);
            }
        }
    }

    /// The write is over, or, where it is not `settled`, nobody waits for it any more. A later one that overlaps goes on only
    /// when the journal has this one's end: else a replay could put the older bytes over the newer ones.
    fn finish(&mut self, outcome: Result<Written>, settled: bool) {
        self.progress = Progress::Over;
        let (vfs, file, ino) = (&self.vfs, &self.open.file, self.open.ino());
        let mut notices = Vec::new();
        let content = {
            let mut table = vfs.table.lock();
            let attributes = outcome.ok().filter(|_| !self.is_repeat).map(|written| written.attributes);
            table.end_write(ino, (self.begun, Write::Content), attributes, vfs.now(), &mut notices);
            if outcome.is_err() {
                table.doubt_content(ino, &mut notices);
            }
            table.last_attributes(ino).ok().and_then(|attributes| attributes.content())
        };
        file.content_changed();
        if settled {
            self.settle(outcome.map(|_| ()), content);
        }
        file.behind.end(&self.taken, outcome.map(|_| ()));
        vfs.notify(notices);
    }

    /// Nothing was sent, and nothing will be.
    fn withdraw(&mut self) {
        self.progress = Progress::Over;
        let mut notices = Vec::new();
        let (begun, now) = ((self.begun, Write::Content), self.vfs.now());
        self.vfs.table.lock().end_write(self.open.ino(), begun, None, now, &mut notices);
        self.open.file.behind.end(&self.taken, Ok(()));
        self.vfs.notify(notices);
    }
}

impl<S: Source> Drop for UnderWay<S> {
    fn drop(&mut self) {
        match self.progress {
            Progress::Taken if self.journalled.is_none() => self.withdraw(),
            Progress::Taken | Progress::Sent => self.finish(Err(Errno::EIO), false),
            Progress::Over => {}
        }
    }
}

/// Polls a future once. `None`: it is not ready.
async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        let pinned = std::pin::Pin::new(&mut future);
        std::task::Poll::Ready(match pinned.poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
