//! Writing: what is taken from writers, how it gets to the source, and what becomes of it when this process dies. Changes of
//! attributes of open files go the same way, where it is certain that they will be made.
//!
//! ```text
//!             ┌─ append, O_SYNC, strict, or nowhere to keep it ─► sent ─► answered by the source ─► the writer is told
//!  room, range┤
//!             └─ kept in the journal ─► sent ─► the writer is told ─► answered by the source ─► over, recorded, settled
//! ```
//!
//! What the journal has is sent by a successor again, under the same number, unless it is recorded to be over. So a number is
//! settled only when that is recorded, and it is recorded before a change is sent that is not in the journal.
//!
//! A change of attributes is answered early if the source is far, the file is open for writing through a handle of which the
//! source has said that it is its own, nothing of it changes the size, the attributes are known, and the source is sure to make
//! it. It is sent
//! through that handle, and told by the file's next `fsync` or `close` if it fails after all. Its answer is what the file is
//! expected to be, and good for that answer alone: whoever asks again waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::OwnedRwLockReadGuard;

use super::files::OpenFile;
use super::{AttributeTarget, SyncMode, Vfs};
use crate::behind::{Change, Extent, Taken, UNWRITTEN_BYTES_MAX};
use crate::errno::{Errno, Result};
use crate::file::{AttributeChanges, Attributes, Content, OFFSET_MAX, SetTime, ThreadId, WriteAt};
use crate::journal::{Creation, Describe, Done, Header, Journal, Pending, What, attributes_of, bytes_of};
use crate::request::{OnQueued, RequestId, Sequence, current, is_repeat, promised};
use crate::source::{HandleId, Place, Source, TRANSFER_BYTES_MAX, Target};
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
pub(super) enum KeptIn {
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
        let extent = Extent::Content(start, end);
        let change = Change { extent, handle: open.handle, writer: from.writer() };
        let taken = open.file.behind.begin(change).await;
        let mut under_way = UnderWay::new(self, &open, taken, Write::Content);
        let work = Work::Write { offset, bytes, append, clear_set_id };
        let kept = match waits {
            true => KeptIn::Nowhere,
            false => self.keep_work(&open, &work.keeping()).await,
        };
        if let KeptIn::Journal(sequence) = kept {
            under_way.journalled = Some(sequence);
        }
        let on_queued = under_way.on_queued();
        let task = async move {
            let _room = room;
            under_way.carry_out(work).await
        };
        let sequence = match kept {
            KeptIn::Nowhere => {
                self.record_done();
                return self.told_now(&open, task.await).map(|()| length);
            }
            KeptIn::Journal(sequence) => Some(sequence),
            KeptIn::Memory => None,
        };
        let mut task = Box::pin(promised(sequence, Some(on_queued), task));
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

    /// `fchmod(2)`, `fchown(2)` and `futimens(2)`, answered before they are made, with what the file is expected to be: good
    /// for this answer only. `None` where the caller has to wait: [`Vfs::set_attributes`] then makes the change.
    pub async fn set_attributes_ahead(
        self: &Arc<Self>,
        of: AttributeTarget,
        changes: AttributeChanges,
        by: ThreadId,
    ) -> Result<Option<Attributes>> {
        if self.was_taken(0) {
            self.caught_up(of.ino).await;
            return self.attributes(of).await.map(|(attributes, _)| Some(attributes));
        }
        let Some(open) = self.sure_handle(of, &changes) else { return Ok(None) };
        let change = Change { extent: Extent::Attributes, handle: open.handle, writer: by };
        let taken = open.file.behind.begin(change).await;
        let is_of_content = changes.modified != SetTime::Keep;
        let what = if is_of_content { Write::Content } else { Write::Attributes };
        // Whoever counts on the size must not be told one from before writes that are under way.
        let expected = open.file.behind.reaches().and_then(|end| {
            let before = self.last_attributes(open.ino()).ok();
            let before = before.filter(|before| before.content().is_some() || open.is_expected())?;
            Some(changes.predict(Attributes { size: before.size.max(end), ..before }))
        });
        let mut under_way = UnderWay::new(self, &open, taken, what);
        let Some(expected) = expected else { return Ok(None) };
        let work = Work::Attributes(changes);
        let sequence = match self.keep_work(&open, &work.keeping()).await {
            KeptIn::Nowhere => return Ok(None),
            KeptIn::Journal(sequence) => Some(sequence),
            KeptIn::Memory => None,
        };
        under_way.journalled = sequence;
        let on_queued = under_way.on_queued();
        let mut task = Box::pin(promised(sequence, Some(on_queued), under_way.carry_out(work)));
        // As for a write: it is sent from here.
        match poll_once(task.as_mut()).await {
            Some(outcome) => self.told_now(&open, outcome)?,
            None => drop(tokio::spawn(task)),
        }
        Ok(Some(expected))
    }

    fn expected_handle(&self, ino: Ino) -> Option<HandleId> {
        self.files.lock().get(&ino).and_then(|file| file.expected_handle())
    }

    /// A handle through which these changes are sure to be made.
    fn sure_handle(&self, of: AttributeTarget, changes: &AttributeChanges) -> Option<Arc<OpenFile>> {
        let is_near = self.near.load(Ordering::Relaxed);
        let waits = self.options.sync == SyncMode::Strict || changes.size.is_some() || is_repeat();
        if is_near || waits || !self.source.is_sure(changes) {
            return None;
        }
        let handle =
            of.handle.or_else(|| self.any_handle(of.ino)).or_else(|| self.expected_handle(of.ino))?;
        let open = self.open_file(handle).ok()?;
        let is_sure = open.ino() == of.ino && open.flags.write && open.file.may_be_set();
        let is_open = match open.opening.now() {
            Some(opened) => opened.is_ok(),
            None => open.is_expected(),
        };
        (is_sure && is_open).then_some(open)
    }

    /// Keeps what is about to be answered in the journal.
    pub(super) async fn keep_work(&self, open: &OpenFile, keeping: &Keeping) -> KeptIn {
        let Some(journalling) = &self.journalling else { return KeptIn::Memory };
        let Some(journal) = &journalling.journal else { return KeptIn::Nowhere };
        let Keeping { what, offset, bytes, clear_set_id } = keeping;
        // Without a record nobody takes over, and who waits for the source hears of a loss.
        if bytes.len() > TRANSFER_BYTES_MAX as usize || self.is_record_failing() {
            return KeptIn::Nowhere;
        }
        let Some(number) = SetAside::new(self) else { return KeptIn::Nowhere };
        let header = Header {
            what: *what,
            sequence: number.sequence,
            request: current().unwrap_or(RequestId(0)),
            handle: open.handle,
            ino: open.ino(),
            offset: *offset,
            clear_set_id: *clear_set_id,
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
    pub(super) fn is_done(self: &Arc<Self>, sequence: Sequence, content: Option<Content>) {
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
            let (extent, what, work) = match header.what {
                What::Creation => {
                    match Creation::read(&bytes) {
                        Some(creation) => self.make_again(&open, creation, header.sequence),
                        None => self.is_done(header.sequence, None),
                    }
                    continue;
                }
                What::Content => {
                    let (offset, clear_set_id) = (header.offset, header.clear_set_id);
                    let end = offset.saturating_add(bytes.len() as u64);
                    let work = Work::Write { offset, bytes: bytes.clone(), append: false, clear_set_id };
                    (Extent::Content(offset, end), Write::Content, work)
                }
                What::Attributes => {
                    let changes = attributes_of(&header, &bytes);
                    (Extent::Attributes, Write::Content, Work::Attributes(changes))
                }
            };
            let change = Change { extent, handle: header.handle, writer: ThreadId::UNKNOWN };
            let taken = open.file.behind.inherit(change);
            let mut under_way = UnderWay::new(self, &open, taken, what);
            (under_way.journalled, under_way.is_repeat) = (Some(header.sequence), true);
            let permits = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            // More may be pending than there is room for: what was over and not recorded counts too.
            let room = self.unwritten.clone().try_acquire_many_owned(permits).ok();
            tokio::spawn(promised(Some(header.sequence), None, async move {
                let _room = room;
                under_way.turn().await;
                if let Err(errno) = under_way.carry_out(work).await {
                    tracing::warn!(ino = header.ino.0, %errno, "a predecessor's write failed; `fsync` and `close` tell");
                }
            }));
        }
    }
}

/// What is carried out behind its caller's back.
enum Work {
    Write { offset: u64, bytes: Bytes, append: bool, clear_set_id: bool },
    Attributes(AttributeChanges),
}

/// What the journal keeps of something.
pub(super) struct Keeping {
    pub(super) what: What,
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
    pub(super) clear_set_id: bool,
}

impl Work {
    fn keeping(&self) -> Keeping {
        match self {
            Work::Write { offset, bytes, clear_set_id, .. } => {
                let (offset, bytes, clear_set_id) = (*offset, bytes.clone(), *clear_set_id);
                Keeping { what: What::Content, offset, bytes, clear_set_id }
            }
            Work::Attributes(changes) => {
                let (bytes, clear_set_id) = (bytes_of(changes), changes.clear_set_id);
                Keeping { what: What::Attributes, offset: 0, bytes, clear_set_id }
            }
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

/// A write or a change of attributes that has its place among those of the file, and in the table's count. Dropped after it
/// was sent and before its end, its outcome is unknown and the file's writers are told `EIO`; what the journal has of it stays
/// there for a successor.
struct UnderWay<S: Source> {
    vfs: Arc<Vfs<S>>,
    open: Arc<OpenFile>,
    what: Write,
    taken: Taken,
    begun: Stamp,
    journalled: Option<Sequence>,
    /// It may have been carried out before: what the source says of the file is from then.
    is_repeat: bool,
    progress: Progress,
}

impl<S: Source> UnderWay<S> {
    fn new(vfs: &Arc<Vfs<S>>, open: &Arc<OpenFile>, taken: Taken, what: Write) -> UnderWay<S> {
        if what == Write::Content {
            open.file.content_changed();
        }
        let begun = vfs.table.lock().begin_write(open.ino());
        let (vfs, open) = (vfs.clone(), open.clone());
        UnderWay {
            vfs,
            open,
            what,
            taken,
            begun,
            journalled: None,
            is_repeat: is_repeat(),
            progress: Progress::Taken,
        }
    }

    /// To be done when the source has it in line.
    fn on_queued(&self) -> OnQueued {
        let (file, taken) = (self.open.file.clone(), self.taken);
        Box::new(move || file.behind.queued(taken))
    }

    /// Waits for what was taken before and may not come after this.
    async fn turn(&self) {
        self.open.file.behind.turn(self.taken).await;
    }

    async fn carry_out(mut self, work: Work) -> Result<()> {
        self.progress = Progress::Sent;
        let outcome = match work {
            Work::Write { offset, bytes, append, clear_set_id } => {
                self.write_all(offset, bytes, append, clear_set_id).await
            }
            Work::Attributes(changes) => self.set_attributes(changes).await,
        };
        // What it was sent behind ends before: else a successor might repeat that over this.
        self.turn().await;
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

    async fn set_attributes(&self, changes: AttributeChanges) -> Result<Attributes> {
        let request = || self.vfs.source.set_attributes(Target::Handle(self.open.handle), changes);
        let in_line = self.may_be_sent().await?;
        Ok(self.send(in_line, request).await?.attributes)
    }

    /// Waits until the handle is open, or what opens it is in line before: then it stays so while what this gives is there.
    async fn may_be_sent(&self) -> Result<Option<OwnedRwLockReadGuard<()>>> {
        if self.open.is_expected()
            && !self.is_repeat
            && let Ok(in_line) = self.open.in_line.clone().try_read_owned()
        {
            return Ok(Some(in_line));
        }
        self.open.opening.get().await?;
        if self.open.was_there.load(Ordering::Acquire) {
            self.turn().await;
        }
        Ok(None)
    }

    /// Sends it, and once more if it has found no handle because it came behind the making of its file.
    async fn send<T, F>(
        &self,
        in_line: Option<OwnedRwLockReadGuard<()>>,
        request: impl Fn() -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
        T: Send,
    {
        let outcome = request().await;
        drop(in_line);
        match outcome {
            Err(errno) => {
                self.is_worth_another(errno).await?;
                request().await
            }
            done => done,
        }
    }

    /// What was sent behind the making of its file may have found no handle, because the file is one that was there already,
    /// and has been opened since. Gives the error for which it is not to be sent again.
    async fn is_worth_another(&self, errno: Errno) -> Result<()> {
        // A predecessor's write may have been sent behind a creation that has ended since.
        let may_be_behind = self.is_repeat || self.open.is_made_ahead.load(Ordering::Acquire);
        if errno != Errno::EBADF || !may_be_behind {
            return Err(errno);
        }
        self.open.opening.get().await?;
        self.turn().await;
        Ok(())
    }

    /// Gives the attributes after it.
    async fn write_all(
        &self,
        mut offset: u64,
        mut bytes: Bytes,
        append: bool,
        clear_set_id: bool,
    ) -> Result<Attributes> {
        let source = &self.vfs.source;
        let mut in_line = self.may_be_sent().await?;
        loop {
            let part = bytes.slice(..bytes.len().min(TRANSFER_BYTES_MAX as usize));
            let at = if append { WriteAt::End } else { WriteAt::Offset(offset) };
            let request = || source.write(self.open.handle, at, part.clone(), clear_set_id);
            // Where one part was written, there is a handle for the others.
            let written = self.send(in_line.take(), request).await?;
            self.open.has_written.store(true, Ordering::Release);
            match usize::try_from(written.bytes) {
                Ok(taken) if taken <= part.len() && (taken > 0 || part.is_empty()) => bytes.advance(taken),
                _ => return Err(Errno::EIO),
            }
            offset = offset.saturating_add(written.bytes);
            if bytes.is_empty() {
                if append && written.attributes.size != offset {
                    // Somebody else appended meanwhile: the kernel thinks that these bytes are elsewhere.
                    self.vfs.learn(|_, notices| notices.push(Notice::Content(self.open.ino())));
                }
                return Ok(written.attributes);
            }
        }
    }

    /// The write is over, or, where it is not `settled`, nobody waits for it any more. A later one that overlaps goes on only
    /// when the journal has this one's end: else a replay could put the older bytes over the newer ones.
    fn finish(&mut self, outcome: Result<Attributes>, settled: bool) {
        self.progress = Progress::Over;
        let (vfs, file, ino) = (&self.vfs, &self.open.file, self.open.ino());
        let (content, notices) = vfs.learn_untold(|table, notices| {
            let attributes = outcome.ok().filter(|_| !self.is_repeat);
            table.end_write(ino, (self.begun, self.what), attributes, vfs.now(), notices);
            if outcome.is_err() {
                table.doubt_content(ino, notices);
            }
            table.last_attributes(ino).ok().and_then(|attributes| attributes.content())
        });
        if self.what == Write::Content {
            file.content_changed();
        }
        if settled {
            self.settle(outcome.map(|_| ()), content);
        }
        file.behind.end(self.taken, outcome.map(|_| ()));
        vfs.notify(notices);
    }

    /// Nothing was sent, and nothing will be.
    fn withdraw(&mut self) {
        self.progress = Progress::Over;
        let (ino, begun, now) = (self.open.ino(), (self.begun, self.what), self.vfs.now());
        let ((), notices) =
            self.vfs.learn_untold(|table, notices| table.end_write(ino, begun, None, now, notices));
        self.open.file.behind.end(self.taken, Ok(()));
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
pub(super) async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        let pinned = std::pin::Pin::new(&mut future);
        std::task::Poll::Ready(match pinned.poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
