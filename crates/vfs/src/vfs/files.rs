//! Open files: opening, reading, closing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, RwLock};

use super::here::{Here, ReadingContents};
use super::names::has_content;
use super::sync::Syncs;
use super::{Vfs, View};
use crate::ahead::{Part, Plan, Reader, Room};
use crate::awaited::Awaited;
use crate::behind::{Behind, Told};
use crate::contents::{Contents, FILE_BYTES_MAX};
use crate::errno::{Errno, Result};
use crate::file::{Attributes, Caller, FileId, OFFSET_MAX, OpenFlags};
use crate::request::{current, is_repeat};
use crate::source::{HandleId, Opened, Place, Source, TRANSFER_BYTES_MAX};
use crate::table::ledger::{Held, Opens, Stage};
use crate::table::{Believe, Ino, Stamp, Write};

/// For how long the closing of a file that was only read waits for company: too short for anybody who looks at what is
/// open on the machine, and long enough for a dozen small files.
const CLOSE_TOGETHER: Duration = Duration::from_millis(2);

/// How long an `open` waits for the kernel to carry out what it was told of the file: far longer than it takes when no
/// other request is in the way.
const CAUGHT_UP_WITHIN: Duration = Duration::from_millis(50);

/// A handle, and what it has open how.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandleOf {
    pub(super) ino: Ino,
    pub(super) handle: HandleId,
    pub(super) flags: OpenFlags,
}

/// What all handles of one file share.
#[derive(Debug)]
pub(super) struct FileState {
    ino: Ino,
    /// Another until it is made: see [`super::creations`].
    id: Mutex<FileId>,
    pub(super) behind: Behind,
    /// The source has said so: see [`Opened::is_own`].
    is_own: AtomicBool,
    /// Raised when what was read before may no longer be what the file holds.
    content: AtomicU64,
    contents: Arc<Mutex<Contents>>,
    handles: Mutex<Vec<Holder>>,
    /// A POSIX lock was taken through one of them: closing any gives back those of its owner.
    pub(super) locked: AtomicBool,
    pub(super) syncs: Syncs,
}

/// A handle of a file, as the others see it.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) handle: HandleId,
    pub(super) writes: bool,
    pub(super) opening: Arc<Awaited<Result<()>>>,
}

impl FileState {
    pub(super) fn content_changed(&self) {
        self.content.fetch_add(1, Ordering::AcqRel);
        let id = *self.id.lock();
        self.contents.lock().doubt(id);
    }

    /// The file has been made, and is this one.
    pub(super) fn identify(&self, id: FileId) {
        *self.id.lock() = id;
        self.content_changed();
    }

    pub(super) fn may_be_set(&self) -> bool {
        self.is_own.load(Ordering::Acquire)
    }

    pub(super) fn is_own(&self, is_own: bool) {
        self.is_own.store(is_own, Ordering::Release);
    }

    pub(super) fn content(&self) -> u64 {
        self.content.load(Ordering::Acquire)
    }

    /// A handle that the source has opened, for writing if there is one.
    pub(super) fn any_handle(&self) -> Option<HandleId> {
        let handles = self.handles.lock();
        let open = handles.iter().filter(|holder| matches!(holder.opening.now(), Some(Ok(()))));
        open.max_by_key(|holder| holder.writes).map(|holder| holder.handle)
    }

    /// A handle of a file that is not made yet.
    pub(super) fn expected_handle(&self) -> Option<HandleId> {
        let handles = self.handles.lock();
        handles.first().map(|holder| holder.handle).filter(|_| self.behind.is_expected())
    }

    /// Every handle, with what is to be waited for until it is open.
    pub(super) fn openings(&self) -> Vec<(HandleId, Arc<Awaited<Result<()>>>)> {
        self.handles.lock().iter().map(|holder| (holder.handle, holder.opening.clone())).collect()
    }
}

#[derive(Debug, Default)]
struct Reading {
    reader: Reader,
    /// The content's number when `reader` and `inline` were filled.
    content: u64,
    /// The whole file, when it is small, and its share of [`crate::ahead::AHEAD_BYTES_MAX`].
    inline: Option<(Bytes, OwnedSemaphorePermit)>,
}

/// One open file of the kernel's.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) handle: HandleId,
    pub(super) file: Arc<FileState>,
    pub(super) flags: OpenFlags,
    /// Whether the source has opened it; what was assumed may turn out wrong.
    pub(super) opening: Arc<Awaited<Result<()>>>,
    /// What it was opened with, if the source was not asked.
    pub(super) here: Option<Here>,
    /// A `flock(2)` was taken through it, and ends with it.
    pub(super) flocked: AtomicBool,
    /// What the source said of the file when it opened it was not learnt: an older version may be believed.
    pub(super) is_ahead: AtomicBool,
    /// How often in a row the data cache had nothing of what was read.
    pub(super) cache_misses: AtomicU32,
    /// It was said to be open before the file was made.
    pub(super) is_made_ahead: AtomicBool,
    /// Something has been written through it.
    pub(super) has_written: AtomicBool,
    /// The file that was to be made was there already.
    pub(super) was_there: AtomicBool,
    /// Held by each request that is sent behind the making of the file, until it is answered.
    pub(super) in_line: Arc<RwLock<()>>,
    reading: Mutex<Reading>,
    told: Mutex<Failures>,
}

/// What a handle has been told of the writes of its file that failed.
#[derive(Debug)]
struct Failures {
    told: Told,
    /// What a predecessor had to tell.
    inherited: Option<Errno>,
    /// It has been told one, which a successor would tell again: its answer may not have come to the kernel.
    is_kept: bool,
}

/// Whether a handle is to be read and written around the pages that the kernel has of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AroundPages {
    /// Through them.
    No,
    /// The kernel may be wrong about where the file ends: it takes in no size that it has asked for before a notice about the
    /// file and is given after it, neither as an attribute nor by an answer to a read that comes short. What it believes to be in
    /// the file behind that answer it fills with zeros. Only where such a handle can be mapped all the same.
    IfMappable,
    /// What it writes goes where the source decides.
    Always,
}

/// What the kernel needs to know of a file it opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenedFile {
    /// To be named in what follows, and given back by [`Vfs::release`].
    pub handle: HandleId,
    /// The kernel's pages are still those of the content.
    pub keep_pages: bool,
    /// The attributes the kernel may have are not what they are now.
    pub attributes_changed: bool,
    /// Whether what is read and written goes around the kernel's pages.
    pub around_pages: AroundPages,
}

/// A change of a node's content under way. Dropped before its end, nothing is believed of the node.
pub(super) struct Writing<'a, S: Source> {
    vfs: &'a Vfs<S>,
    ino: Ino,
    begun: Stamp,
    what: Write,
    ended: bool,
}

impl<S: Source> Writing<'_, S> {
    /// The change is over, with the attributes after it.
    pub(super) fn end(mut self, attributes: Option<Attributes>) {
        self.ended = true;
        self.over(attributes.filter(|_| !is_repeat()));
    }

    fn over(&self, attributes: Option<Attributes>) {
        let begun = (self.begun, self.what);
        let ((), notices) = self.vfs.learn_untold(|table, notices| {
            table.end_write(self.ino, begun, attributes, self.vfs.now(), notices);
        });
        self.vfs.doubt_kept(self.ino);
        self.vfs.notify(notices);
    }
}

impl<S: Source> Drop for Writing<'_, S> {
    fn drop(&mut self) {
        if !self.ended {
            self.over(None);
        }
    }
}

/// Whether a kernel that has these attributes, or nobody knows which, has to ask again.
pub(super) fn is_news(kernel_has: Option<Attributes>, attributes: &Attributes) -> bool {
    kernel_has.is_none_or(|has| has.content_differs(attributes))
}

impl<S: Source> Vfs<S> {
    pub(super) fn begin_write(&self, ino: Ino, what: Write) -> Writing<'_, S> {
        let begun = self.table.lock().begin_write(ino);
        self.doubt_kept(ino);
        Writing { vfs: self, ino, begun, what, ended: false }
    }

    pub(super) fn open_file(&self, handle: HandleId) -> Result<Arc<OpenFile>> {
        self.handles.lock().get(&handle).cloned().ok_or(Errno::EBADF)
    }

    /// The file's state, with one more handle. In one step, so that the last handle's end does not come between.
    pub(super) fn hold(&self, ino: Ino, holder: Holder) -> Arc<FileState> {
        let id = Mutex::new(self.table.lock().id(ino).unwrap_or_default());
        let fresh = || {
            let (behind, content, handles) = (Behind::default(), AtomicU64::new(0), Mutex::default());
            let (is_own, locked, syncs) = (AtomicBool::new(false), AtomicBool::new(false), Syncs::default());
            let contents = self.contents.clone();
            Arc::new(FileState { ino, id, behind, is_own, content, contents, handles, locked, syncs })
        };
        let mut files = self.files.lock();
        let file = files.entry(ino).or_insert_with(fresh).clone();
        file.handles.lock().push(holder);
        file
    }

    /// `stage` is how far the handle has come, to be recorded; `None` if that is recorded.
    pub(super) fn register(
        &self,
        of: HandleOf,
        opening: Awaited<Result<()>>,
        stage: Option<Stage>,
    ) -> Arc<OpenFile> {
        let opening = Arc::new(opening);
        let holder = Holder { handle: of.handle, writes: of.flags.write, opening: opening.clone() };
        let file = self.hold(of.ino, holder);
        self.register_held(of, file, (opening, None), stage)
    }

    /// As [`Vfs::register`], of a file that is held already.
    pub(super) fn register_held(
        &self,
        HandleOf { ino, handle, flags }: HandleOf,
        file: Arc<FileState>,
        (opening, here): (Arc<Awaited<Result<()>>>, Option<Here>),
        stage: Option<Stage>,
    ) -> Arc<OpenFile> {
        match stage {
            Some(stage) => {
                self.table.lock().handle_opened(handle, Held { ino, opens: Opens::File(flags), stage })
            }
            None => self.table.lock().opened(ino),
        }
        let told = Mutex::new(Failures { told: file.behind.told(), inherited: None, is_kept: false });
        let (flocked, is_ahead, reading) = (AtomicBool::new(false), AtomicBool::new(false), Mutex::default());
        let (is_made_ahead, has_written) = (AtomicBool::new(false), AtomicBool::new(false));
        let open = OpenFile {
            handle,
            file,
            flags,
            opening,
            here,
            flocked,
            is_ahead,
            cache_misses: AtomicU32::new(0),
            is_made_ahead,
            has_written,
            was_there: AtomicBool::new(false),
            in_line: Arc::default(),
            reading,
            told,
        };
        let open = Arc::new(open);
        self.handles.lock().insert(handle, open.clone());
        open
    }

    /// `open(2)` of a node that is there.
    pub async fn open(self: &Arc<Self>, ino: Ino, flags: OpenFlags) -> Result<OpenedFile> {
        self.node_is_made(ino).await;
        let (place, stamp, before, kernel_has, pages, is_sure) = {
            let table = self.table.lock();
            has_content(table.kind(ino)?)?;
            let known = table.attributes(ino, self.now())?;
            // A change that takes its name away has waited for those that were opened before, and not for this one.
            let is_sure = matches!(known, Some((_, Believe::Leased))) && !table.is_leaving(ino);
            (
                table.last_place(ino),
                table.stamp(ino)?,
                table.last_attributes(ino)?,
                table.last_told(ino),
                table.has_pages(ino),
                is_sure,
            )
        };
        let is_far = !self.near.load(Ordering::Relaxed);
        let pages = pages && !self.is_kernel_behind(ino);
        let reads_only = flags.read && !flags.write && !flags.truncate && !flags.direct;
        let handle = self.new_handle();
        let is_repeated = self.open_file(handle).is_ok();
        if is_repeated {
            // A predecessor has opened it, and the kernel has not heard of it.
            self.disown(handle);
            self.close(handle).await;
        }
        if reads_only && !flags.append && !is_repeated {
            let opened = self.open_here(HandleOf { ino, handle, flags }, kernel_has).await;
            if is_far {
                self.read_along(ino, opened.is_some());
            }
            if let Some(opened) = opened {
                return Ok(opened);
            }
        }
        if reads_only && is_far && pages && is_sure {
            return self.open_at_once(ino, handle, flags);
        }
        let is_small = before.size > 0 && before.size <= u64::from(FILE_BYTES_MAX);
        let inline = if flags.read && !flags.truncate && !flags.direct && !pages && is_small {
            FILE_BYTES_MAX
        } else {
            0
        };
        if flags.truncate {
            self.caught_up(ino).await;
            self.record_done();
        }
        let writing = flags.truncate.then(|| self.begin_write(ino, Write::Content));
        let reading = self.begin_reading();
        let (place, at) = (place?, |place| self.open_at_source(place, flags, handle, inline));
        let outcome = at(place.clone()).await;
        let outcome = self.or_elsewhere(ino, Some(&place), outcome, at).await;
        let opened = self.checked(ino, outcome)?;
        let open = self.register(HandleOf { ino, handle, flags }, Awaited::ready(Ok(())), Some(Stage::Open));
        open.file.is_own(opened.is_own);
        let content = open.file.content();
        let attributes = opened.entry.attributes;
        if let Some(writing) = writing {
            writing.end(Some(attributes));
            open.file.content_changed();
        }
        let (is_current, is_ahead, keep_pages) = self.learn(|table, notices| {
            let is_current = table.is_current(ino, stamp) && !is_repeat();
            let is_learnt = !is_repeat()
                && table.learn_attributes(ino, attributes, stamp, self.now(), notices).is_ok()
                && is_current;
            let same_pages = table.keep_pages(ino, &attributes);
            let believed = table.last_attributes(ino).map(|believed| believed.version());
            let is_ahead = !is_learnt && believed != Ok(attributes.version());
            (is_learnt, is_ahead, same_pages && (is_current || flags.truncate) && !flags.append)
        });
        self.kernel_caught_up(ino).await;
        let keep_pages = keep_pages && !self.is_kernel_behind(ino);
        open.is_ahead.store(is_ahead, Ordering::Release);
        if is_current {
            self.keep_inline(&open, &opened, (content, reading));
        }
        let attributes_changed = is_news(kernel_has, &attributes) || self.kernel.is_behind(ino);
        let around_pages = match (flags.append, reads_only && self.may_kernel_err(ino)) {
            (true, _) => AroundPages::Always,
            (false, true) => AroundPages::IfMappable,
            (false, false) => AroundPages::No,
        };
        Ok(OpenedFile { handle, keep_pages, attributes_changed, around_pages })
    }

    /// Whether the kernel may be wrong about the end of a file of a near source: it has to be told of a change, or was of late and
    /// may be told again while it asks. Of a far one nobody expects to see a change before the word of it.
    pub(super) fn may_kernel_err(&self, ino: Ino) -> bool {
        let is_near = self.near.load(Ordering::Relaxed);
        is_near && (self.kernel.is_behind(ino) || self.table.lock().was_retold_lately(ino, self.now()))
    }

    /// Gives the kernel time to carry out what it was told of the node, before an answer to an `open` of it.
    /// See [`AroundPages::IfMappable`] for what follows otherwise.
    pub(super) async fn kernel_caught_up(&self, ino: Ino) {
        if self.kernel.is_behind(ino) {
            // A notice may wait for another request of the file: then it is as it would be without this.
            let _in_time = tokio::time::timeout(CAUGHT_UP_WITHIN, self.kernel.caught_up(ino)).await.is_ok();
        }
    }

    /// Whether the pages of the kernel may be of an older content than the one that is known: it has not dropped them yet, or
    /// they were read in the midst of the change. For the second a far source is believed, which will tell.
    pub(super) fn is_kernel_behind(&self, ino: Ino) -> bool {
        self.kernel.is_behind(ino) || self.may_be_half_written(ino)
    }

    /// Whether what was read of the content may be older than what a near source says of it.
    pub(super) fn may_be_half_written(&self, ino: Ino) -> bool {
        let is_near = self.near.load(Ordering::Relaxed);
        is_near && self.table.lock().may_be_half_written(ino, self.now())
    }

    async fn open_at_source(
        &self,
        place: Place,
        flags: OpenFlags,
        handle: HandleId,
        inline_bytes: u32,
    ) -> Result<Opened> {
        match current() {
            Some(_) => self.open_anew(place, flags, handle, inline_bytes).await,
            None => self.source.open(place, flags, handle, inline_bytes).await,
        }
    }

    /// Opens at the source what a predecessor may have opened and died before it could record that: then the source refuses
    /// to have one number mean two things, and the source's client does not know of the first.
    pub(super) async fn open_anew(
        &self,
        place: Place,
        flags: OpenFlags,
        handle: HandleId,
        inline_bytes: u32,
    ) -> Result<Opened> {
        let outcome = self.source.open(place.clone(), flags, handle, inline_bytes).await;
        if matches!(outcome, Err(Errno::EINVAL)) && self.source.close(handle).await.is_ok() {
            return self.source.open(place, flags, handle, inline_bytes).await;
        }
        outcome
    }

    /// Opens without waiting a file whose pages the kernel has, and of which we would be told if it had changed since.
    fn open_at_once(self: &Arc<Self>, ino: Ino, handle: HandleId, flags: OpenFlags) -> Result<OpenedFile> {
        let place = self.place(ino)?;
        let open = self.register(HandleOf { ino, handle, flags }, Awaited::new(), Some(Stage::Assumed));
        self.open_later(&open, Ok(place));
        Ok(OpenedFile { handle, keep_pages: true, attributes_changed: false, around_pages: AroundPages::No })
    }

    /// Keeps the content that came with the reply, as that with the number `content`, for this handle if there is room for
    /// it, and for others.
    fn keep_inline(&self, open: &OpenFile, opened: &Opened, (content, read): (u64, ReadingContents)) {
        let Ok(length) = u32::try_from(opened.content.len()) else { return };
        if !opened.whole || length > FILE_BYTES_MAX || u64::from(length) != opened.entry.attributes.size {
            return;
        }
        let kept = read.keep(&opened.entry, &opened.content);
        let Ok(room) = self.ahead.clone().try_acquire_many_owned(length) else { return };
        let mut reading = open.reading.lock();
        reading.content = content;
        reading.inline = Some((kept.unwrap_or_else(|| opened.content.clone()), room));
    }

    /// `open(2)` with `O_CREAT` of a name that is not there, or may be.
    pub async fn create(
        self: &Arc<Self>,
        parent: Ino,
        name: &[u8],
        mode: u16,
        flags: OpenFlags,
        caller: Caller,
    ) -> Result<(View, OpenedFile)> {
        let handle = self.new_handle();
        self.disown(handle);
        let request = |place, name| self.source.create(place, name, mode, flags, handle, caller);
        let (view, opened) =
            self.make(parent, name, request, |opened: &Opened| (opened.entry, opened.directory)).await?;
        if opened.is_new {
            self.table.lock().made_for(parent, caller);
        }
        let opened = self.created(view.ino, handle, flags, &opened);
        Ok((view, opened))
    }

    /// `open(2)` with `O_TMPFILE`.
    pub async fn create_unnamed(
        self: &Arc<Self>,
        parent: Ino,
        mode: u16,
        flags: OpenFlags,
        caller: Caller,
    ) -> Result<(View, OpenedFile)> {
        let handle = self.new_handle();
        self.disown(handle);
        let place = self.place(parent)?;
        let outcome = self.source.create_unnamed(place, mode, flags, handle, caller).await;
        let opened = self.checked(parent, outcome)?;
        let view = {
            let mut table = self.table.lock();
            let ino = table.insert_unnamed(opened.entry, self.now());
            let (id, attributes) = (opened.entry.id, opened.entry.attributes);
            View { ino, id, attributes, attributes_for: Believe::Once, name_for: Believe::Once }
        };
        let opened = self.created(view.ino, handle, flags, &opened);
        Ok((view, opened))
    }

    fn created(&self, ino: Ino, handle: HandleId, flags: OpenFlags, opened: &Opened) -> OpenedFile {
        let open = self.register(HandleOf { ino, handle, flags }, Awaited::ready(Ok(())), Some(Stage::Open));
        open.file.is_own(opened.is_own);
        self.doubt_kept(ino);
        let keep_pages = self.table.lock().keep_pages(ino, &opened.entry.attributes) && !flags.append;
        let around_pages = if flags.append { AroundPages::Always } else { AroundPages::No };
        OpenedFile { handle, keep_pages, attributes_changed: false, around_pages }
    }

    /// `pread(2)`. Shorter than asked only at the end of the file.
    pub async fn read(self: &Arc<Self>, handle: HandleId, offset: u64, length: u32) -> Result<Bytes> {
        let open = self.open_file(handle)?;
        if !open.flags.read {
            return Err(Errno::EBADF);
        }
        if offset > OFFSET_MAX {
            return Err(Errno::EINVAL);
        }
        if let Some(bytes) = open.content_here() {
            return Ok(slice(bytes, offset, u64::from(length)));
        }
        match self.opened(&open).await {
            Err(errno @ (Errno::ESTALE | Errno::ENOENT)) => {
                self.read_of_gone(&open, (offset, length), errno).await
            }
            opened => {
                opened?;
                self.read_there(&open, offset, length).await
            }
        }
    }

    /// Reads by a handle that the source has opened.
    pub(super) async fn read_there(
        self: &Arc<Self>,
        open: &Arc<OpenFile>,
        offset: u64,
        length: u32,
    ) -> Result<Bytes> {
        open.file.behind.caught_up_in(offset, offset.saturating_add(u64::from(length))).await;
        if open.flags.direct {
            return self.read_direct(open, offset, length).await;
        }
        match self.plan(open, offset, length) {
            Planned::Here(bytes) => Ok(bytes),
            Planned::Ask(Plan::Direct) => self.read_direct(open, offset, length).await,
            Planned::Ask(Plan::Parts { wanted, fetch }) => {
                for part in fetch {
                    self.fetch(open, part);
                }
                let gathered = gather(&wanted, offset, length).await;
                // What failed is asked for again, and so is the end of the file: it may move.
                if gathered.as_ref().map_or(true, |bytes| bytes.len() < length as usize) {
                    open.reading.lock().reader.forget();
                }
                gathered
            }
        }
    }

    fn plan(&self, open: &OpenFile, offset: u64, length: u32) -> Planned {
        let size = self.table.lock().last_attributes(open.file.ino).map_or(0, |attributes| attributes.size);
        let reach = self.source.reach();
        let mut reading = open.reading.lock();
        let content = open.file.content();
        if reading.content != content {
            reading.content = content;
            reading.inline = None;
            reading.reader.forget();
        }
        if let Some((bytes, _)) = &reading.inline {
            return Planned::Here(slice(bytes, offset, u64::from(length)));
        }
        let room = Room { bytes: self.ahead.available_permits() as u64, reach };
        Planned::Ask(reading.reader.plan(offset, length, size, room))
    }

    async fn read_direct(&self, open: &OpenFile, offset: u64, length: u32) -> Result<Bytes> {
        if length <= TRANSFER_BYTES_MAX {
            return self.read_cached(open, offset, length).await;
        }
        let mut bytes = BytesMut::new();
        while bytes.len() < length as usize {
            let left = length - u32::try_from(bytes.len()).unwrap_or(length);
            let part = left.min(TRANSFER_BYTES_MAX);
            let got = self.read_cached(open, offset + bytes.len() as u64, part).await?;
            bytes.extend_from_slice(&got);
            if got.len() < part as usize {
                break;
            }
        }
        Ok(bytes.freeze())
    }

    fn fetch(self: &Arc<Self>, open: &Arc<OpenFile>, part: Part) {
        if let Ok(room) = self.ahead.clone().try_acquire_many_owned(part.length) {
            let _first = part.room.set(room).is_ok();
        }
        let (vfs, open) = (self.clone(), open.clone());
        let promise = part.bytes.promise(Err(Errno::EIO));
        tokio::spawn(async move { promise.keep(vfs.read_cached(&open, part.offset, part.length).await) });
    }

    /// The kernel has closed the last descriptor of the handle.
    pub fn release(self: &Arc<Self>, handle: HandleId) {
        let Some(open) = self.handles.lock().remove(&handle) else { return };
        if open.ends_here() {
            self.table.lock().handle_closed(handle);
            self.unregister(&open);
            return;
        }
        self.table.lock().handle_released(handle);
        if open.was_only_read() {
            self.unregister(&open);
            self.close_soon(handle);
            return;
        }
        let vfs = self.clone();
        tokio::spawn(async move {
            let opened = open.opening.get().await.is_ok();
            open.file.behind.caught_up().await;
            vfs.unregister(&open);
            match opened {
                true => vfs.close(handle).await,
                false => vfs.table.lock().handle_closed(handle),
            }
        });
    }

    pub(super) async fn close(&self, handle: HandleId) {
        if let Err(errno) = self.source.close(handle).await {
            tracing::warn!(handle = handle.0, %errno, "close at the source failed after the kernel's");
        }
        self.table.lock().handle_closed(handle);
    }

    /// Closes the handle together with others that are given up meanwhile: nobody waits for it, and one by one these
    /// requests cost a reader of many files as much as the opening does.
    fn close_soon(self: &Arc<Self>, handle: HandleId) {
        let is_first = {
            let mut closing = self.closing.lock();
            closing.push(handle);
            closing.len() == 1
        };
        if !is_first {
            return;
        }
        let vfs = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(CLOSE_TOGETHER).await;
            vfs.close_now();
        });
    }

    fn close_now(self: &Arc<Self>) {
        for handle in std::mem::take(&mut *self.closing.lock()) {
            let vfs = self.clone();
            tokio::spawn(async move { vfs.close(handle).await });
        }
    }

    /// What a predecessor has opened as this, and the kernel has not heard of: it is about to be opened again.
    pub(super) fn disown(&self, handle: HandleId) {
        let removed = self.handles.lock().remove(&handle);
        if let Some(open) = removed {
            self.unregister(&open);
        }
    }

    fn unregister(&self, open: &OpenFile) {
        self.let_go(&open.file, open.handle);
        self.table.lock().closed(open.file.ino);
    }

    /// The handle does not hold its file any more.
    pub(super) fn let_go(&self, file: &Arc<FileState>, handle: HandleId) {
        let mut files = self.files.lock();
        let mut handles = file.handles.lock();
        handles.retain(|holder| holder.handle != handle);
        if handles.is_empty() && files.get(&file.ino).is_some_and(|known| Arc::ptr_eq(known, file)) {
            files.remove(&file.ino);
        }
    }

    /// Waits until everything that has been taken from writers by now is at the source. What they write meanwhile is not
    /// waited for: who writes without a pause would hold it up for ever.
    pub async fn all_caught_up(&self) {
        let of_file = |file: &Arc<FileState>| (Arc::clone(file), file.behind.taken());
        let busy = |file: &&Arc<FileState>| !file.behind.is_idle();
        let taken: Vec<_> = self.files.lock().values().filter(busy).map(of_file).collect();
        for (file, taken) in taken {
            file.behind.caught_up_to(taken).await;
        }
    }

    /// Waits until everything taken from writers is at the source. For an unmount.
    pub async fn drain(self: &Arc<Self>) {
        self.close_now();
        loop {
            let busy = self.files.lock().values().find(|file| !file.behind.is_idle()).cloned();
            match busy {
                Some(file) => file.behind.caught_up().await,
                None => return,
            }
        }
    }
}

impl OpenFile {
    pub(super) fn ino(&self) -> Ino {
        self.file.ino
    }

    /// Whether its file is said to be made, and it is not known yet whether it is.
    pub(super) fn is_expected(&self) -> bool {
        self.is_made_ahead.load(Ordering::Acquire) && self.opening.now().is_none()
    }

    /// Whether closing it changes nothing that anybody may wait for.
    fn was_only_read(&self) -> bool {
        let is_open = matches!(self.opening.now(), Some(Ok(())));
        let is_locked = self.file.locked.load(Ordering::Acquire) || self.flocked.load(Ordering::Acquire);
        is_open && !self.flags.write && !is_locked
    }

    /// A predecessor has not told the handle of this error of a write, as far as is known.
    pub(super) fn inherit_failure(&self, errno: Errno) {
        self.told.lock().inherited = Some(errno);
    }

    /// The error the handle has not been told yet, if there is one. The second is whether a record of one that it was told
    /// is of no use any more: the kernel has asked again.
    fn next_failure(&self) -> (Result<()>, bool) {
        let mut failures = self.told.lock();
        let inherited = failures.inherited.take().map_or(Ok(()), Err);
        let outcome = self.file.behind.failure(&mut failures.told).and(inherited);
        let was_kept = std::mem::replace(&mut failures.is_kept, outcome.is_err());
        (outcome, was_kept && outcome.is_ok())
    }
}

impl<S: Source> Vfs<S> {
    /// Tells the handle the error of a write that it has not been told yet, if there is one.
    pub(super) fn behind_failure(&self, open: &OpenFile) -> Result<()> {
        let (outcome, is_over) = open.next_failure();
        if is_over && let Some(ledger) = self.table.lock().ledger_mut() {
            ledger.write_failed(open.handle, None);
        }
        outcome
    }

    /// The handle is told the outcome of its write at once: an error is not told again.
    pub(super) fn told_now(&self, open: &OpenFile, outcome: Result<()>) -> Result<()> {
        outcome.inspect_err(|_| {
            let _told = self.behind_failure(open).is_err();
        })
    }

    /// A write that was taken has failed: a successor tells the handles that have not been told.
    pub(super) fn keep_failure(&self, file: &FileState, errno: Errno) {
        let handles: Vec<_> = file.handles.lock().iter().map(|holder| holder.handle).collect();
        if let Some(ledger) = self.table.lock().ledger_mut() {
            handles.into_iter().for_each(|handle| ledger.write_failed(handle, Some(errno)));
        }
        self.commit();
    }
}

enum Planned {
    Here(Bytes),
    Ask(Plan),
}

/// At most what was asked for, whatever came.
pub(super) fn cut(mut bytes: Bytes, length: u32) -> Bytes {
    bytes.truncate(length as usize);
    bytes
}

pub(super) fn slice(bytes: &Bytes, offset: u64, length: u64) -> Bytes {
    let size = bytes.len() as u64;
    let (start, end) = (offset.min(size), offset.saturating_add(length).min(size));
    bytes.slice(usize::try_from(start).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX))
}

/// Waits for consecutive parts and cuts the range out of them. A part that came short is the end of the file.
async fn gather(parts: &[Part], offset: u64, length: u32) -> Result<Bytes> {
    let end = offset + u64::from(length);
    let mut gathered = Vec::with_capacity(parts.len());
    for part in parts {
        let bytes = part.bytes.get().await?;
        let (from, to) = (offset.max(part.offset), end.min(part.offset + u64::from(part.length)));
        let piece = slice(&bytes, from - part.offset, to - from);
        gathered.push(piece);
        if bytes.len() < part.length as usize {
            break;
        }
    }
    match gathered.as_slice() {
        [one] => Ok(one.clone()),
        many => Ok(many.concat().into()),
    }
}
