//! Files that are open, and who reads and writes them: this process, or the kernel alone.
//!
//! ```text
//!           ┌────────────────────────────── the last is closed ──────────────────────────────┐
//!           ▼                                                                                │
//!  nobody has it open ──opened, and it is the base's, or cannot be passed through──► through the kernel's pages
//!           ▲     └──opened, and it was written or is to be──► passed through ──┐
//!           └───────────────────── the last is closed ──────────────────────────┘
//! ```
//!
//! The kernel refuses (`EIO`) an open that is not as the others of the file are: of a file that is passed through every handle has
//! the same backing id, and of one that is read through the kernel's pages none has any. So who comes first decides, until nobody
//! has the file open any more:
//!
//! - **The base is never passed through.** A reader would have the base's content for its backing file, and whoever comes to write
//!   could be given neither that nor another one. It costs a READ for what is not in the kernel's pages yet, and nothing
//!   afterwards: what the base has is kept there from one open to the next.
//! - **What is opened to be written is copied up first.** If nobody else has it open it is passed through; if a reader has, both go on
//!   through the kernel's pages, which the kernel keeps right.
//! - **What was written is passed through**, but for files with set-id bits: of a write that it is not asked for this process cannot
//!   take them away. Neither is the bit's being set later seen by who has the file open.
//! - **Pages are kept for the base alone.** What was passed through has left older ones behind.
//! - **Pages of what is seen in place are kept** from one open to the next if the file has the times and size that it had. Where that may
//!   be, pages of what was written are not: they may be from before it was copied up.
//! - **Attributes of what may be written are believed for no time** where files are passed through: of what is written through a mapping
//!   neither the kernel's inode nor this process learns, also after the last handle was closed. When nobody has the file open or mapped to
//!   write they are [believed](Files::is_settled) as those of the base are. What the kernel believes it is told to doubt when an open begins
//!   to pass the file through. That is said by the [`Notifier`]'s thread, and not
//!   waited for: who asks for all attributes has the new ones also before, since mapping a file makes the kernel doubt when it was read.
//!
//! Invariants:
//!
//! - A handle is the number of the request that opened it, and is in the [record](super::handles) before the kernel has it. An open or a
//!   release that is asked for again changes nothing.
//! - What is noted here is at least what the kernel has open. An id is given back when nobody has the file open.
//! - Requests name the file, so that contents are opened again where they are needed, also by a successor.
//! - A content of the base is not used once the file was written: who opens one looks again when it is noted.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;
use store::Result;
use store::node::{Ino, Time};
use store::thread::{Access, Thread};

use super::SET_ID;
use super::handles::{Handle, Handles, Slot};
use super::lease;
use super::translate::now;
use crate::fuse::abi::{InitFlags, fopen};
use crate::fuse::device::{BackingId, Device, DeviceError};
use crate::fuse::negotiation::Negotiated;
use crate::fuse::notify::{Notice, Notifier};
use crate::fuse::reply::Opened;

/// Contents that are kept open, of files that are not passed through. With one more all are closed, and opened again as they are
/// needed: a system call for each.
const CONTENTS_MAX: usize = 1024;

/// Files that are seen in place and were opened, of which it is known what they were. With one more all are forgotten, and their pages are
/// read again.
const STAMPS_MAX: usize = 64 << 10;

/// Longer than the tick of any clock that files are dated by.
const TICK_SECONDS: i64 = 2;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    Reading,
    Writing,
}

/// See the module's documentation.
pub(super) struct Files {
    thread: Arc<Thread>,
    device: Arc<Device>,
    /// Where the kernel reads and writes files by itself: tells it that attributes are old.
    notifier: Option<Notifier>,
    /// And it takes the files of this file system for it.
    takes: AtomicBool,
    state: Mutex<State>,
    /// What files that are seen in place were when they were opened last.
    stamps: Mutex<HashMap<Ino, Stamp>>,
}

/// Size and times of the last changes.
type Stamp = (u64, Time, Time);

#[derive(Debug)]
struct State {
    handles: HashMap<u64, (Ino, Slot)>,
    open: HashMap<Ino, Open>,
    record: Handles,
    contents: usize,
}

/// A file that is open, or has a content that is.
#[derive(Debug, Default)]
struct Open {
    handles: usize,
    backing: Option<BackingId>,
    content: Option<Content>,
}

#[derive(Clone, Debug)]
enum Content {
    Base(Arc<File>),
    Written(Arc<File>),
}

impl Files {
    /// Of a mount that begins.
    pub(super) fn begin(
        thread: Arc<Thread>,
        device: Arc<Device>,
        negotiated: &Negotiated,
        record: &Path,
    ) -> io::Result<Files> {
        Files::of(thread, device, negotiated, Handles::begin(record)?)
    }

    /// Of a mount that a predecessor has served, with what is open in it.
    pub(super) fn resume(
        thread: Arc<Thread>,
        device: Arc<Device>,
        negotiated: &Negotiated,
        record: &Path,
    ) -> io::Result<Files> {
        let (record, found) = Handles::resume(record)?;
        let files = Files::of(thread, device, negotiated, record)?;
        let mut state = files.state.lock();
        for (slot, Handle { number, ino, backing }) in found {
            state.handles.insert(number, (ino, slot));
            let open = state.open.entry(ino).or_default();
            open.handles += 1;
            open.backing = backing.or(open.backing);
        }
        drop(state);
        Ok(files)
    }

    fn of(
        thread: Arc<Thread>,
        device: Arc<Device>,
        negotiated: &Negotiated,
        record: Handles,
    ) -> io::Result<Files> {
        let (handles, open) = (HashMap::new(), HashMap::new());
        let state = Mutex::new(State { handles, open, record, contents: 0 });
        let notifier = match negotiated.has(InitFlags::PASSTHROUGH) {
            true => Some(Notifier::start(device.clone())?),
            false => None,
        };
        let stamps = Mutex::default();
        Ok(Files { thread, device, notifier, takes: AtomicBool::new(true), state, stamps })
    }

    /// Tells the kernel what a predecessor may have died before telling it. Not for a thread that answers requests.
    pub(super) fn doubt_what_is_passed(&self) {
        let Some(notifier) = &self.notifier else { return };
        let state = self.state.lock();
        let passed = state.open.iter().filter(|(_, open)| open.backing.is_some());
        let passed: Vec<Ino> = passed.map(|(ino, _)| *ino).collect();
        drop(state);
        for ino in passed {
            // It is closed when nothing is served any more.
            let _closed = notifier.send(Notice::Attributes { node: ino.0 });
        }
    }

    /// Opens a file as the request of this number.
    pub(super) fn open(&self, number: u64, ino: Ino, purpose: For) -> Result<Opened, Failed> {
        let known = {
            let state = self.state.lock();
            if let Some(opened) = self.opened_before(&state, number, ino)? {
                return Ok(opened);
            }
            state.open.get(&ino).filter(|open| open.handles > 0).map(|open| open.backing)
        };
        let fresh = match known {
            // Whoever passes a file through has written it.
            Some(Some(_)) => None,
            Some(None) if purpose == For::Reading => None,
            Some(None) => {
                self.written(ino)?;
                None
            }
            None if purpose == For::Writing || self.thread.is_written(ino)? => {
                let file = self.thread.open_content(ino, Access::Write)?;
                if self.doubt(ino) { self.register(ino, &file)? } else { None }
            }
            None => None,
        };
        self.note(number, ino, fresh, None)
    }

    /// Notes a file that was made by the request of this number, and is open.
    pub(super) fn made(&self, number: u64, ino: Ino, file: File) -> Result<Opened, Failed> {
        let backing = self.register(ino, &file)?;
        let content = backing.is_none().then(|| Content::Written(Arc::new(file)));
        self.note(number, ino, backing, content)
    }

    /// The kernel has let go of a handle, or never got it.
    pub(super) fn release(&self, number: u64) {
        let unused = {
            let mut state = self.state.lock();
            let Some((ino, slot)) = state.handles.remove(&number) else { return };
            if let Err(errno) = state.record.clear(slot) {
                tracing::error!(%errno, "a successor takes a file for open that is not");
            }
            let Some(open) = state.open.get_mut(&ino) else { return };
            open.handles -= 1;
            if open.handles > 0 {
                return;
            }
            let backing = open.backing;
            state.close(ino);
            backing
        };
        self.give_back(unused);
    }

    /// Reads of a file that is the base's and small, without opening anything. `None` for any other.
    pub(super) fn read_small(&self, ino: Ino, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>> {
        let read = self.thread.read_small(ino, offset, buffer)?;
        // It may have been written meanwhile.
        Ok(read.filter(|_| !self.thread.is_written(ino).unwrap_or(true)))
    }

    /// What is in a file, to be read.
    pub(super) fn readable(&self, ino: Ino) -> Result<Arc<File>> {
        let known = self.state.lock().open.get(&ino).and_then(|open| open.content.clone());
        match known {
            Some(Content::Written(file)) => return Ok(file),
            // Names of a file that is seen in place are changed elsewhere, and it is copied up for that.
            Some(Content::Base(file)) if !self.thread.sees_in_place() || !self.thread.is_written(ino)? => {
                return Ok(file);
            }
            _ => {}
        }
        if self.thread.is_written(ino)? {
            return self.written(ino);
        }
        let file = Arc::new(self.thread.open_content(ino, Access::Read)?);
        {
            let mut state = self.state.lock();
            match state.open.get(&ino).and_then(|open| open.content.clone()) {
                Some(Content::Written(written)) => return Ok(written),
                _ => state.keep(ino, Content::Base(file.clone())),
            }
        }
        // It may have been written meanwhile: then whoever did it looks for what is noted before this, or has done so.
        if self.thread.is_written(ino)? { self.written(ino) } else { Ok(file) }
    }

    /// What is in a file, to be read and written. One of the base is copied up.
    pub(super) fn written(&self, ino: Ino) -> Result<Arc<File>> {
        let known = self.state.lock().open.get(&ino).and_then(|open| open.content.clone());
        if let Some(Content::Written(file)) = known {
            return Ok(file);
        }
        let file = Arc::new(self.thread.open_content(ino, Access::Write)?);
        self.state.lock().keep(ino, Content::Written(file.clone()));
        Ok(file)
    }

    /// Whether a file that was written is written by nobody now, and by nobody later without an open. To be asked before its attributes are
    /// looked at.
    pub(super) fn is_settled(&self, ino: Ino) -> bool {
        {
            let mut state = self.state.lock();
            match state.open.get(&ino) {
                Some(open) if open.handles > 0 => return false,
                // As long as it is open here, it may be written.
                Some(_) => state.close_content(ino),
                None => {}
            }
        }
        let opened = self.thread.open_content(ino, Access::Read);
        opened.is_ok_and(|file| lease::nobody_writes(&file))
    }

    /// A file was copied up by others: what is open of the base is not it any more.
    pub(super) fn copied_up(&self, ino: Ino) {
        let mut state = self.state.lock();
        if let Some(Open { content: Some(Content::Base(_)), .. }) = state.open.get(&ino) {
            state.close_content(ino);
        }
    }

    /// A file is gone.
    pub(super) fn gone(&self, ino: Ino) {
        self.state.lock().close_content(ino);
    }

    fn opened_before(&self, state: &State, number: u64, ino: Ino) -> Result<Option<Opened>, Failed> {
        match state.handles.get(&number) {
            Some((of, _)) if *of == ino => {
                let backing = state.open.get(&ino).and_then(|open| open.backing);
                Ok(Some(self.opened(number, ino, backing)?))
            }
            Some(_) => Err(Failed::Errno(Errno::IO)),
            None => Ok(None),
        }
    }

    fn note(
        &self,
        number: u64,
        ino: Ino,
        fresh: Option<BackingId>,
        content: Option<Content>,
    ) -> Result<Opened, Failed> {
        let noted = {
            let mut state = self.state.lock();
            let open = state.open.get(&ino).filter(|open| open.handles > 0);
            let backing = open.map_or(fresh, |open| open.backing);
            let put = state.record.put(&Handle { number, ino, backing });
            put.map(|slot| {
                state.handles.insert(number, (ino, slot));
                let open = state.open.entry(ino).or_default();
                open.handles += 1;
                open.backing = backing;
                if let Some(content) = content {
                    state.keep(ino, content);
                }
                // Under the lock, so that nobody writes it and closes it in between.
                (backing, self.opened(number, ino, backing))
            })
        };
        let (backing, opened) = match noted {
            Ok(noted) => noted,
            Err(errno) => {
                self.give_back(fresh);
                return Err(Failed::Errno(errno));
            }
        };
        self.give_back(fresh.filter(|fresh| backing != Some(*fresh)));
        Ok(opened.inspect_err(|_| self.release(number))?)
    }

    fn opened(&self, number: u64, ino: Ino, backing: Option<BackingId>) -> Result<Opened> {
        let keeps = match self.thread.sees_in_place() {
            true => backing.is_none() && !self.thread.is_written(ino)? && self.is_as_it_was(ino)?,
            false => self.notifier.is_none() || (backing.is_none() && !self.thread.is_written(ino)?),
        };
        let keep = if keeps { fopen::KEEP_CACHE } else { 0 };
        Ok(Opened { handle: number, flags: fopen::NOFLUSH | keep, backing })
    }

    /// Whether a file that is not written is what it was when it was opened last.
    fn is_as_it_was(&self, ino: Ino) -> Result<bool> {
        let found = self.thread.attributes(ino)?;
        if !found.is_in_place {
            return Ok(true);
        }
        let stamp = (found.size, found.modified, found.changed);
        let mut stamps = self.stamps.lock();
        if is_recent(found.changed) {
            // It may be changed again, and be dated the same.
            stamps.remove(&ino);
            return Ok(false);
        }
        if stamps.len() >= STAMPS_MAX {
            stamps.clear();
        }
        Ok(stamps.insert(ino, stamp) == Some(stamp))
    }

    /// Has the kernel doubt what it was told when the file was the base's. Where that cannot be said nothing is passed through: of what
    /// goes through its pages it knows itself.
    fn doubt(&self, ino: Ino) -> bool {
        let notice = Notice::Attributes { node: ino.0 };
        self.notifier.as_ref().is_some_and(|notifier| notifier.try_send(notice).is_ok())
    }

    /// Lets the kernel read and write a file that was written, if it can be.
    fn register(&self, ino: Ino, file: &File) -> Result<Option<BackingId>> {
        let passes = self.notifier.is_some() && self.takes.load(Ordering::Relaxed);
        if !passes || self.thread.mode(ino)? & SET_ID != 0 {
            return Ok(None);
        }
        match self.device.backing_open(file.as_fd()) {
            Ok(id) => Ok(Some(id)),
            Err(error) => {
                let is_for_all = matches!(
                    error,
                    DeviceError::BackingOpen(Errno::PERM | Errno::LOOP | Errno::OPNOTSUPP | Errno::INVAL)
                );
                if is_for_all {
                    self.takes.store(false, Ordering::Relaxed);
                }
                tracing::warn!(error = crate::worker::in_full(&error), "a file is not passed through");
                Ok(None)
            }
        }
    }

    fn give_back(&self, backing: Option<BackingId>) {
        if let Some(id) = backing
            && let Err(error) = self.device.backing_close(id)
        {
            tracing::warn!(error = crate::worker::in_full(&error), "the kernel keeps a file open");
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.notifier.iter().for_each(Notifier::close);
    }
}

impl State {
    fn keep(&mut self, ino: Ino, content: Content) {
        if self.contents >= CONTENTS_MAX {
            self.open.retain(|_, open| {
                open.content = None;
                open.handles > 0
            });
            self.contents = 0;
        }
        let open = self.open.entry(ino).or_default();
        self.contents += usize::from(open.content.is_none());
        open.content = Some(content);
    }

    /// Nobody has the file open any more.
    fn close(&mut self, ino: Ino) {
        self.close_content(ino);
        self.open.remove(&ino);
    }

    fn close_content(&mut self, ino: Ino) {
        let Some(open) = self.open.get_mut(&ino) else { return };
        self.contents -= usize::from(open.content.take().is_some());
        if open.handles == 0 {
            self.open.remove(&ino);
        }
    }
}

fn is_recent(changed: Time) -> bool {
    let now = now();
    changed <= now && now.seconds - changed.seconds < TICK_SECONDS
}

/// A file is not opened.
#[derive(Debug)]
pub(super) enum Failed {
    Thread(store::Error),
    Errno(Errno),
}

impl From<store::Error> for Failed {
    fn from(error: store::Error) -> Failed {
        Failed::Thread(error)
    }
}
