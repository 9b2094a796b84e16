//! The record for a successor: written before the kernel is answered, read by who takes the mount over.
//!
//! What a backend does, for each request that changes something:
//!
//! ```text
//!  choose ─► carry out, under `request::answering` ─► commit ─► answer the kernel ─► settle
//!    │                                                  │
//!    └─ the record names the sequence number            └─ and what the kernel is about to know
//! ```
//!
//! For any other request `choose` and `settle` fall away, and for writes they do unless [`Vfs::write_happens_once`]. Wherever
//! the process dies, the kernel asks again for what was not answered, and a successor goes on:
//!
//! ```text
//!  Restored::read ─► open_files, locks, unsettled, kept: for the source ─► Vfs::recorded ─► ask the kernel for a resend,
//!    serve, make it doubt known_nodes and known_names ─► settle what is unsettled and was not asked for again
//! ```
//!
//! Locks: the writer's is held while the table's is taken, and while the file is written: who comes meanwhile finds his
//! records written with the next.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Vfs;
use super::files::HandleOf;
use crate::awaited::Awaited;
use crate::errno::Errno;
use crate::file::{Entry, OpenFlags};
use crate::journal::{Journal, JournalError, Left, Pending, SEGMENT_BYTES_MAX, What};
use crate::log::{Log, LogError, Records, Torn};
use crate::request::{RequestId, Sequence, Slot, current};
use crate::source::{HandleId, Place, Source};
use crate::table::ledger::{Ledger, Opens, Replay, Stage};
use crate::table::{BadRecord, HeldLock, Ino, Kept, Limits, Moment, Table};
use crate::{Kernel, Options};

/// The log's name in the directory of the mount's state.
pub(crate) const FILE: &str = "state";

/// A log is written anew when it is twice as long as what it has to say, and by this much longer: small ones are not
/// worth it, and no log of n nodes is written anew before n more have been recorded.
const COMPACT_BYTES_MIN: u64 = 4 << 20;

/// Records that wait without anybody having to answer are written when there are so many: forgets come in thousands.
const UNANSWERED_RECORDS_MAX: u64 = 1024;

/// How many handles are set aside at once, so that a successor uses none that its predecessor may have used.
const HANDLES_RESERVED: u64 = 4096;

/// How long a log that could not be written is left alone the first time; each time after that, twice as long.
const RETRY_MS: u64 = 1000;

/// And at most: a large one that does not fit is some work each time.
const RETRY_MS_MAX: u64 = 30_000;

/// How often it is looked whether the source has a number again, if nothing is heard before.
const NUMBER_INTERVAL: Duration = Duration::from_millis(20);

/// Why a mount cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Its log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its log has something that no log has.
    #[error("the log `{}` cannot be understood", path.display())]
    Record {
        /// Which.
        path: PathBuf,
        /// What.
        #[source]
        source: BadRecord,
    },
    /// Its journal cannot be read: what was taken from writers would be lost.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// What a predecessor left.
#[derive(Debug)]
pub struct Restored {
    directory: PathBuf,
    table: Table,
    ledger: Ledger,
    log: Log,
    torn: Torn,
    journal: Journal,
    left: Left,
}

impl Restored {
    /// Reads what was recorded in the directory of a mount's state. `None` if nothing was.
    pub fn read(directory: &Path) -> Result<Option<Restored>, RestoreError> {
        let path = directory.join(FILE);
        let mut replay = Replay::new();
        let Some((log, torn)) = Log::open(&path, |kind, content| replay.record(kind, content))? else {
            return Ok(None);
        };
        let Replay { table, ledger, bad } = replay;
        if let Some(source) = bad {
            return Err(RestoreError::Record { path, source });
        }
        let (journal, left) = Journal::open(directory, false, SEGMENT_BYTES_MAX)?;
        Ok(Some(Restored { directory: directory.to_owned(), table, ledger, log, torn, journal, left }))
    }

    /// What was kept with [`Vfs::keep`].
    pub fn kept(&self, what: Kept) -> Option<&[u8]> {
        self.ledger.kept(what)
    }

    /// Changes that may have been sent and whose requests may not have been answered: the source must still know, or find
    /// out, what became of them. All others are settled.
    pub fn unsettled(&self) -> Vec<Sequence> {
        let slots = self.ledger.slots().values().map(|slot| slot.sequence);
        let writes = self.left.pending.iter().map(|write| write.header.sequence);
        let mut unsettled: Vec<_> = slots.chain(writes).collect();
        unsettled.sort_unstable();
        unsettled
    }

    /// The files that the source may have open, each with where it was last.
    pub fn open_files(&self) -> Vec<(HandleId, Place, OpenFlags)> {
        let open = self.ledger.handles().iter().filter_map(|(handle, held)| match (held.opens, held.stage) {
            (Opens::File(flags), Stage::Open | Stage::Released) => {
                let place = self.table.last_place(held.ino).ok()?;
                Some((*handle, place, flags))
            }
            _ => None,
        });
        open.collect()
    }

    /// Bytes behind the last whole record: what the predecessor was about to say when it died.
    pub fn torn(&self) -> Torn {
        self.torn
    }

    /// The locks that the kernel believes to be held. Each handle is one of [`Restored::open_files`].
    pub fn locks(&self) -> Vec<HeldLock> {
        let held = self.ledger.locks().all().map(|(_, held)| held);
        held.filter(|held| self.ledger.handles().contains_key(&held.handle)).collect()
    }

    /// Writes that were taken and may not be at the source.
    pub fn pending_writes(&self) -> usize {
        self.left.pending.len()
    }
}

/// What a file system tells a successor.
#[derive(Debug)]
pub enum Recording {
    /// Nothing: there will be none.
    None,
    /// All, in this directory; it has just been mounted.
    Fresh(PathBuf),
    /// All, as its predecessor did.
    Restored(Box<Restored>),
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    log: Option<Log>,
    spare: Records,
    compact_at: u64,
    failure: Option<String>,
    retry_at: Moment,
    retry_ms: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Recorder {
    recorded: Arc<AtomicU64>,
    written: AtomicU64,
    writer: Mutex<Writer>,
    handles_reserved: AtomicU64,
    /// The log could not be written.
    is_failing: AtomicBool,
}

/// What is taken from writers is kept for a successor.
#[derive(Debug)]
pub(super) struct Journalling {
    /// `None`: it could not be opened.
    pub(super) journal: Option<Journal>,
    failure: Option<String>,
    /// What a predecessor had taken, by requests that may come again.
    pub(super) taken: Mutex<HashMap<RequestId, u32>>,
    /// What it had said to be made, likewise.
    pub(super) created: Mutex<HashMap<RequestId, Ino>>,
}

impl Journalling {
    fn fresh(directory: &Path) -> Journalling {
        let (journal, failure) = match Journal::open(directory, true, SEGMENT_BYTES_MAX) {
            Ok((journal, _)) => (Some(journal), None),
            Err(error) => {
                tracing::error!(%error, source = ?std::error::Error::source(&error), "writers wait for the source");
                (None, Some(error.to_string()))
            }
        };
        Journalling { journal, failure, taken: Mutex::default(), created: Mutex::default() }
    }
}

impl Recorder {
    fn new(ledger: &Ledger, path: PathBuf, log: Option<Log>) -> Recorder {
        let compact_at = log.as_ref().map_or(0, |log| log.length() * 2 + COMPACT_BYTES_MIN);
        let (failure, retry_at) = (None, Moment(0));
        let (spare, retry_ms) = (Records::default(), RETRY_MS);
        let writer = Writer { path, log, spare, compact_at, failure, retry_at, retry_ms };
        Recorder {
            recorded: ledger.recorded(),
            written: AtomicU64::new(0),
            writer: Mutex::new(writer),
            handles_reserved: AtomicU64::new(ledger.next_handle()),
            is_failing: AtomicBool::new(false),
        }
    }

    fn behind(&self) -> u64 {
        self.recorded.load(Ordering::Acquire).saturating_sub(self.written.load(Ordering::Acquire))
    }
}

/// What opens a handle that a predecessor has said to be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpensBy {
    /// Another opening of its file, where it is not open.
    Place,
    /// The creation of its file, which is sent again.
    Creation,
}

/// What the parts of a file system over a recording are.
pub(super) struct Begun {
    pub(super) table: Table,
    pub(super) recorder: Option<Recorder>,
    pub(super) journalling: Option<Journalling>,
    pub(super) next_handle: u64,
}

impl Recording {
    /// The parts, and what a predecessor has taken from writers.
    pub(super) fn begin(self, root: Entry, limits: Limits) -> (Begun, Vec<Pending>) {
        match self {
            Recording::None => {
                let table = Table::new(root, limits, Moment(0));
                (Begun { table, recorder: None, journalling: None, next_handle: 1 }, Vec::new())
            }
            Recording::Fresh(directory) => {
                let mut table = Table::new(root, limits, Moment(0));
                let mut ledger = Ledger::default();
                ledger.reserve_handles(table.next_ino(), HANDLES_RESERVED);
                let recorder = Some(Recorder::new(&ledger, directory.join(FILE), None));
                table.keep_ledger(ledger);
                let journalling = Some(Journalling::fresh(&directory));
                (Begun { table, recorder, journalling, next_handle: 1 }, Vec::new())
            }
            Recording::Restored(restored) => {
                let Restored { directory, mut table, ledger, log, torn, journal, left } = *restored;
                if torn.bytes > 0 {
                    tracing::info!(bytes = torn.bytes, "the last record was not finished");
                }
                table.settle_replay(root, limits);
                let recorder = Some(Recorder::new(&ledger, directory.join(FILE), Some(log)));
                let next_handle = ledger.next_handle().max(1);
                table.keep_ledger(ledger);
                let Left { pending, taken, created, .. } = left;
                let (taken, created) = (Mutex::new(taken), Mutex::new(created));
                let journalling = Journalling { journal: Some(journal), failure: None, taken, created };
                let is_kept = |ino: Ino| {
                    let is_it = |kept: &Pending| kept.header.what == What::Creation && kept.header.ino == ino;
                    pending.iter().any(is_it)
                };
                table.forget_expected(is_kept);
                (Begun { table, recorder, journalling: Some(journalling), next_handle }, pending)
            }
        }
    }
}

impl<S: Source> Vfs<S> {
    /// A file system whose root is `root`, and which leaves a record for a successor, or goes on from one. Within a tokio
    /// runtime.
    ///
    /// From a record, nodes have their numbers, lookups and names, and handles what they have open; nothing of it is
    /// believed. The caller then makes the kernel doubt too: [`Vfs::doubts`].
    pub fn recorded(
        source: Arc<S>,
        root: Entry,
        options: Options,
        kernel: Arc<dyn Kernel>,
        recording: Recording,
    ) -> Arc<Vfs<S>> {
        let (begun, pending) = recording.begin(root, options.limits);
        let vfs = Vfs::over(source, options, kernel, begun);
        vfs.restore_handles(pending);
        vfs.commit();
        vfs
    }

    fn restore_handles(self: &Arc<Self>, pending: Vec<Pending>) {
        let is_creation = |kept: &&Pending| kept.header.what == What::Creation;
        let made: HashSet<_> = pending.iter().filter(is_creation).map(|kept| kept.header.handle).collect();
        let held: Vec<_> = {
            let table = self.table.lock();
            let Some(ledger) = table.ledger() else { return };
            ledger.handles().iter().map(|(handle, held)| (*handle, *held)).collect()
        };
        for (handle, held) in &held {
            let (handle, held) = (*handle, *held);
            let known = self.table.lock().kind(held.ino);
            match (held.opens, known) {
                // It was on its way to be closed when the node went from the record.
                (Opens::File(_), Err(_)) => {
                    let vfs = self.clone();
                    tokio::spawn(async move { vfs.close(handle).await });
                }
                (Opens::Directory, Err(_)) => self.table.lock().handle_closed(handle),
                (Opens::Directory, Ok(_)) => {
                    self.table.lock().opened(held.ino);
                    match held.stage {
                        Stage::Released => self.directory_is_closed(handle, held.ino),
                        _ => self.restore_directory(handle, held.ino),
                    }
                }
                (Opens::File(flags), Ok(_)) => {
                    let opens = if made.contains(&handle) { OpensBy::Creation } else { OpensBy::Place };
                    self.restore_file(HandleOf { ino: held.ino, handle, flags }, held.stage, opens);
                }
            }
        }
        self.replay(pending);
        // What the kernel has given up is closed when what was written through it is at the source.
        let released = held.iter().filter(|(_, held)| held.stage == Stage::Released);
        released.for_each(|(handle, _)| self.release(*handle));
        self.table.lock().sweep_replay();
    }

    fn restore_file(self: &Arc<Self>, of: HandleOf, stage: Stage, opens: OpensBy) {
        let HandleOf { ino, handle, flags } = of;
        // What opening does to the content has been done.
        let flags = OpenFlags { truncate: false, exclusive: false, ..flags };
        let opening = if stage == Stage::Assumed { Awaited::new() } else { Awaited::ready(Ok(())) };
        let open = self.register(HandleOf { ino, handle, flags }, opening, None);
        // Whoever took a lock is not known: whoever closes gives back what he has.
        open.file.locked.store(true, Ordering::Release);
        let failure = self.table.lock().ledger().and_then(|ledger| ledger.failure(handle));
        if let Some(errno) = failure {
            open.inherit_failure(errno);
        }
        if opens == OpensBy::Creation {
            open.is_made_ahead.store(true, Ordering::Release);
        } else if stage == Stage::Assumed {
            let place = self.table.lock().last_place(ino);
            self.open_later(&open, place);
        }
    }

    /// Gives back all that a predecessor had been asked for, and is of no use to a kernel that asks anew: open files, once
    /// what was written through them is at the source, and lookups.
    pub fn let_go_of_all(self: &Arc<Self>) {
        let files: Vec<_> = self.handles.lock().keys().copied().collect();
        files.into_iter().for_each(|handle| self.release(handle));
        let directories: Vec<_> = self.directories.lock().keys().copied().collect();
        directories.into_iter().for_each(|handle| self.release_directory(handle));
        {
            let mut table = self.table.lock();
            for ino in table.known_nodes() {
                let lookups = table.lookups(ino);
                table.forget(ino, lookups);
            }
        }
        self.commit();
    }

    /// Writes what has been recorded until now. To be called before the kernel is told anything that was recorded, and
    /// before a change is sent for which a [`Slot`] was chosen. Costs nothing when nothing was recorded.
    ///
    /// What cannot be written is reported by [`Vfs::record_failure`]; the mount goes on.
    pub fn commit(&self) {
        let Some(recorder) = &self.recorder else { return };
        if recorder.behind() == 0 {
            return;
        }
        let mut writer = recorder.writer.lock();
        if recorder.behind() == 0 {
            return;
        }
        let writer = &mut *writer;
        let is_due = writer.log.as_ref().is_none_or(|log| log.length() >= writer.compact_at);
        let mut records = std::mem::take(&mut writer.spare);
        let upto = if is_due {
            self.write_anew(writer, &mut records)
        } else {
            let upto = self.table.lock().ledger_mut().map_or(0, |ledger| ledger.take_pending(&mut records));
            match writer.log.as_mut().map_or(Ok(()), |log| log.append(&records)) {
                Ok(()) => upto,
                // All that is to be known may be shorter than all that was said.
                Err(error) => {
                    writer.log = None;
                    tracing::warn!(error = %error, source = ?std::error::Error::source(&error), "the record is begun anew");
                    self.write_anew(writer, &mut records)
                }
            }
        };
        recorder.written.store(upto, Ordering::Release);
        writer.spare = records;
    }

    fn write_anew(&self, writer: &mut Writer, records: &mut Records) -> u64 {
        let now = self.now();
        if writer.failure.is_some() && now < writer.retry_at {
            return self.table.lock().ledger_mut().map_or(0, |ledger| ledger.take_pending(records));
        }
        let upto = self.table.lock().write_ledger(records);
        match Log::create(&writer.path, records) {
            Ok(log) => {
                writer.compact_at = log.length() * 2 + COMPACT_BYTES_MIN;
                (writer.log, writer.failure, writer.retry_ms) = (Some(log), None, RETRY_MS);
                self.set_record_failing(false);
            }
            Err(error) => {
                tracing::error!(error = %error, source = ?std::error::Error::source(&error), "no record for a successor");
                writer.failure = Some(error.to_string());
                writer.log = None;
                self.set_record_failing(true);
                writer.retry_at = Moment(now.0 + writer.retry_ms);
                writer.retry_ms = (writer.retry_ms * 2).min(RETRY_MS_MAX);
                // An old one would mislead.
                if let Err(error) = Log::remove(&writer.path) {
                    tracing::error!(path = %writer.path.display(), %error, "an old record stays");
                }
            }
        }
        upto
    }

    /// As [`Vfs::commit`], if much waits: for what the kernel is not answered.
    pub(super) fn commit_much(&self) {
        if self.recorder.as_ref().is_some_and(|recorder| recorder.behind() >= UNANSWERED_RECORDS_MAX) {
            self.commit();
        }
    }

    fn set_record_failing(&self, is_failing: bool) {
        if let Some(recorder) = &self.recorder {
            recorder.is_failing.store(is_failing, Ordering::Release);
        }
    }

    /// Whether the log could not be written: nobody could take over, and nothing is kept for a successor alone.
    pub(super) fn is_record_failing(&self) -> bool {
        self.recorder.as_ref().is_some_and(|recorder| recorder.is_failing.load(Ordering::Acquire))
    }

    pub(super) fn journal(&self) -> Option<&Journal> {
        self.journalling.as_ref()?.journal.as_ref()
    }

    /// Why nobody could take this mount over, or why writers wait for the source, if one of these is so. The mount goes on;
    /// either may end, when there is room on the disk again.
    pub fn record_failure(&self) -> Option<String> {
        let unrecorded = self.recorder.as_ref()?.writer.lock().failure.clone();
        let journalling = self.journalling.as_ref()?;
        let unjournalled = || journalling.failure.clone().or_else(|| journalling.journal.as_ref()?.failure());
        unrecorded.or_else(unjournalled)
    }

    /// Keeps `bytes`, of at most a few KiB, for a successor.
    pub fn keep(&self, what: Kept, bytes: Vec<u8>) {
        if let Some(ledger) = self.table.lock().ledger_mut() {
            ledger.keep(what, bytes);
        }
        self.commit();
    }

    /// Chooses under what the change of a request is sent; the same as before when the kernel asks again. `None` where
    /// nothing is recorded. Waits while the source has no number: without one a successor would carry the change out again.
    /// To be given back with [`Vfs::settle`] when the kernel has the answer.
    pub async fn choose(&self, request: RequestId) -> Option<Slot> {
        self.recorder.as_ref()?;
        let known = self.table.lock().ledger().and_then(|ledger| ledger.slots().get(&request).copied());
        if let Some(slot) = known {
            return Some(Slot { is_repeat: true, ..slot });
        }
        let sequence = loop {
            let settled = self.settled.notified();
            if let Some(sequence) = self.next_sequence() {
                break sequence;
            }
            // Numbers that the source gave to others come back unheard.
            let _heard = tokio::time::timeout(NUMBER_INTERVAL, settled).await.is_ok();
        };
        let slot = Slot { sequence, is_repeat: false };
        self.table.lock().ledger_mut()?.choose(request, slot);
        self.commit();
        Some(slot)
    }

    /// The kernel has the answer to the request, or nobody waits for it.
    pub fn settle(&self, request: RequestId) {
        let settled = self.table.lock().ledger_mut().and_then(|ledger| ledger.settle(request));
        if let Some(slot) = settled {
            self.source.settled(slot.sequence);
            self.settled.notify_one();
        }
    }

    /// What a predecessor had taken has come again, or will not.
    pub fn all_came_again(&self) {
        if let Some(journalling) = &self.journalling {
            *journalling.taken.lock() = HashMap::new();
            *journalling.created.lock() = HashMap::new();
        }
    }

    /// Requests whose changes are not settled.
    pub fn unsettled(&self) -> Vec<RequestId> {
        let table = self.table.lock();
        table.ledger().map_or(Vec::new(), |ledger| ledger.slots().keys().copied().collect())
    }

    /// A handle that no predecessor has used for something else and no successor will.
    pub(super) fn new_handle(&self) -> HandleId {
        if let Some(request) = current() {
            return HandleId::of_request(request);
        }
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        if let Some(recorder) = &self.recorder
            && handle + HANDLES_RESERVED / 2 >= recorder.handles_reserved.load(Ordering::Relaxed)
        {
            // Half a block before it is needed: the record is written with the next answer.
            let mut table = self.table.lock();
            let (next_ino, next) = (table.next_ino(), handle + HANDLES_RESERVED);
            if let Some(ledger) = table.ledger_mut() {
                ledger.reserve_handles(next_ino, next);
            }
            recorder.handles_reserved.store(next, Ordering::Relaxed);
        }
        HandleId::of_number(handle)
    }

    /// Every node that the kernel may believe something of, without the root, in no order: after a takeover each is to be
    /// doubted.
    pub fn known_nodes(&self) -> Vec<Ino> {
        self.table.lock().known_nodes()
    }

    /// Every name that the kernel may believe to be there.
    pub fn known_names(&self) -> Vec<(Ino, crate::file::Name)> {
        self.table.lock().known_names()
    }

    /// Opens at the source what the kernel has been told is open.
    pub(super) fn open_later(
        self: &Arc<Self>,
        open: &Arc<super::files::OpenFile>,
        place: crate::errno::Result<crate::source::Place>,
    ) {
        let (vfs, open, promise) = (self.clone(), open.clone(), open.opening.promise(Err(Errno::EIO)));
        tokio::spawn(async move {
            let outcome = match place {
                Ok(place) => {
                    let outcome = vfs.open_anew(place, open.flags, open.handle, 0).await;
                    vfs.checked(open.ino(), outcome).map(|_| ())
                }
                Err(errno) => Err(errno),
            };
            if outcome.is_ok() {
                vfs.table.lock().handle_confirmed(open.handle);
            }
            promise.keep(outcome);
        });
    }
}
