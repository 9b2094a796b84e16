//! The file system that a kernel backend asks.
//!
//! Every operation is one `async` method. It completes at its first poll when it can be answered from what is known, so a
//! backend polls once on the kernel's own thread and hands only what is left to the runtime.
//!
//! Locks: that of `files` is held while one file's list of handles is taken, those of the record's writer and of the journal
//! while the table's is; all others are leaves. None is held across an `await`, but that of an open directory's stream, which its readers
//! take turns with.

mod attributes;
mod cached;
mod creations;
mod directories;
mod fetch;
mod files;
mod here;
mod names;
mod ranges;
pub(crate) mod record;
mod sync;
mod walks;
mod writes;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

pub use attributes::AttributeTarget;
pub use directories::{DirectoryItem, OpenedDirectory};
pub use files::{AroundPages, OpenedFile};
pub(crate) use names::checked_name;
pub use names::{Looked, Removal, View};
pub use record::{Recording, RestoreError, Restored};
pub use writes::WriteFrom;

use crate::ahead::AHEAD_BYTES_MAX;
use crate::behind::UNWRITTEN_BYTES_MAX;
use crate::cache::LOOKUPS_MAX;
use crate::contents::Contents;
use crate::errno::{Errno, Result};
use crate::file::Entry;
use crate::prefetch::Readers;
use crate::source::{Change, Changed, HandleId, Place, Source, Target};
use crate::table::{Census, Ino, Limits, Moment, Notice, Table};
use crate::walker::Walker;
use attributes::KnownSpace;
use creations::Expectations;
use directories::OpenDirectory;
use files::{FileState, OpenFile};
use here::OpenedLately;
use record::{Begun, Journalling, Recorder};

/// A source that answers within this time is near: about what a person's or a script's next step takes.
const NEAR: Duration = Duration::from_millis(5);

/// What `close` waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// Everything written to the file is at the source.
    #[default]
    Close,
    /// Nothing: errors surface on `fsync`.
    Async,
    /// Nothing is left to wait for: every write already has.
    Strict,
}

/// How a file system behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What `close` waits for.
    pub sync: SyncMode,
    /// How much is remembered.
    pub limits: Limits,
    /// After how many names of one directory, asked for one by one, the whole directory is listed; `None` is never.
    pub list_after: Option<u32>,
    /// Whether contents of small files are fetched ahead of a reader who goes through directories.
    pub fetch_ahead: bool,
    /// How many entries a walk below a directory may be ahead of a reader that goes through it, of what the limits leave;
    /// 0 is no walk.
    pub walk_ahead_entries: usize,
}

/// A kernel that caches what it was told. Called from any thread, also from one that is answering that kernel: it must
/// not block, nor call back.
pub trait Kernel: Send + Sync + 'static {
    /// Takes back what the notices name.
    fn notify(&self, notices: Vec<Notice>);

    /// Whether notices about this node (not about names that it has) have not been carried out yet. Never, of a kernel that
    /// keeps nothing or carries out at once.
    fn is_behind(&self, _node: Ino) -> bool {
        false
    }

    /// Returns when notices about this node have been carried out, which may have to wait for another request.
    fn caught_up(&self, _node: Ino) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// A file system over `S`. See the module's documentation.
pub struct Vfs<S: Source> {
    source: Arc<S>,
    options: Options,
    started: Instant,
    pub(crate) table: Mutex<Table>,
    handles: Mutex<HashMap<HandleId, Arc<OpenFile>>>,
    directories: Mutex<HashMap<HandleId, Arc<OpenDirectory<S>>>>,
    /// What handles of one file share, while there is one.
    files: Mutex<HashMap<Ino, Arc<FileState>>>,
    /// Contents of small files. Not held while any other lock is taken.
    contents: Arc<Mutex<Contents>>,
    opened_lately: OpenedLately,
    /// Who goes through which directories, and what is fetched for them.
    readers: Mutex<Readers>,
    /// Tells what is fetched ahead that more has been opened.
    read_on: Notify,
    /// The space on each file system, by its device number.
    spaces: Mutex<HashMap<u64, KnownSpace>>,
    /// Files that were said to be made, and may not be.
    expected: Expectations,
    /// Handles that the kernel has given up and the source has not been told of.
    closing: Mutex<Vec<HandleId>>,
    next_handle: AtomicU64,
    /// Raised with every change that the source told, and every notice.
    told: AtomicU64,
    unwritten: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    /// Turns of those who look into the data cache.
    lookups: Arc<Semaphore>,
    /// The source is so near that asking it costs less than being wrong for a moment.
    near: AtomicBool,
    kernel: Arc<dyn Kernel>,
    recorder: Option<Recorder>,
    journalling: Option<Journalling>,
    /// Tells one who waits for a number that one has been given back.
    settled: Notify,
    walker: Mutex<Walker>,
    /// Tells readers that a walk has brought something, or has ended.
    walked: Notify,
    /// Tells walks that a reader has gone on, or waits.
    wanted: Notify,
}

impl<S: Source> Vfs<S> {
    /// A file system whose root is `root`.
    pub fn new(source: Arc<S>, root: Entry, options: Options, kernel: Arc<dyn Kernel>) -> Arc<Vfs<S>> {
        Vfs::over(source, options, kernel, Recording::None.begin(root, options.limits).0)
    }

    fn over(source: Arc<S>, options: Options, kernel: Arc<dyn Kernel>, begun: Begun) -> Arc<Vfs<S>> {
        let Begun { table, recorder, journalling, next_handle } = begun;
        // What is brought ahead must not push out what was brought before it.
        let walk_ahead_entries = options.walk_ahead_entries.min(options.limits.idle_nodes / 2);
        Arc::new(Vfs {
            source,
            options,
            started: Instant::now(),
            table: Mutex::new(table),
            handles: Mutex::default(),
            directories: Mutex::default(),
            files: Mutex::default(),
            next_handle: AtomicU64::new(next_handle),
            contents: Arc::default(),
            opened_lately: Mutex::default(),
            readers: Mutex::default(),
            read_on: Notify::new(),
            spaces: Mutex::default(),
            expected: Expectations::default(),
            closing: Mutex::default(),
            told: AtomicU64::new(0),
            unwritten: Arc::new(Semaphore::new(UNWRITTEN_BYTES_MAX)),
            near: AtomicBool::new(false),
            ahead: Arc::new(Semaphore::new(AHEAD_BYTES_MAX)),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            kernel,
            recorder,
            journalling,
            settled: Notify::new(),
            walker: Mutex::new(Walker::new(walk_ahead_entries as u64)),
            walked: Notify::new(),
            wanted: Notify::new(),
        })
    }

    /// Where the files come from.
    pub fn source(&self) -> &Arc<S> {
        &self.source
    }

    /// Counts of what is held.
    pub fn census(&self) -> Census {
        let census = self.table.lock().census();
        let contents = self.contents.lock();
        Census { contents: contents.count(), content_bytes: contents.bytes(), ..census }
    }

    /// Whether the source could not watch some directory: what others change there is seen late.
    pub fn has_unwatched(&self) -> bool {
        self.table.lock().has_unwatched()
    }

    /// Files that are open, or on their way to be closed.
    pub fn open_files(&self) -> usize {
        self.files.lock().len()
    }

    #[cfg(test)]
    pub(crate) fn open_handles(&self) -> Vec<HandleId> {
        self.files
            .lock()
            .values()
            .flat_map(|file| file.any_handle())
            .chain(self.handles.lock().keys().copied())
            .collect()
    }

    /// Bytes taken from writers and not yet at the source.
    pub fn unwritten_bytes(&self) -> usize {
        UNWRITTEN_BYTES_MAX - self.unwritten.available_permits()
    }

    /// Writes taken from writers and not yet at the source.
    pub fn unwritten_writes(&self) -> usize {
        self.files.lock().values().map(|file| file.behind.under_way()).sum()
    }

    /// Bytes that open files keep of what they read, or read ahead.
    pub fn ahead_bytes(&self) -> usize {
        AHEAD_BYTES_MAX - self.ahead.available_permits()
    }

    /// Says how long a question to the source takes. Up to [`NEAR`] every `open` asks whether the file has changed. Beyond
    /// it an `open` of a file under lease does not wait: the source tells of a change in half the time that a question
    /// takes, so that whoever has heard of the change another way has hardly been faster. And only beyond it are files and
    /// attributes said to be made and set before they are.
    pub fn set_round_trip(&self, round_trip: Duration) {
        let is_near = round_trip <= NEAR;
        if self.near.swap(is_near, Ordering::Relaxed) != is_near {
            tracing::info!(?round_trip, is_near, "how far the source is");
        }
    }

    /// A number that grows with every change that the source told, and with every notice. A backend reads it before it
    /// asks and again after it has given the answer to the kernel: if the two differ, the answer may have overtaken the
    /// notice that takes it back, and the backend takes it back itself.
    pub fn changes_told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// The source tells of a change.
    pub fn changed(&self, changed: Changed) {
        if let Change::Present { entry, .. } = &changed.what {
            // Also where nothing shows that it is another: clocks are coarse.
            self.contents.lock().doubt(entry.id);
        }
        self.learn(|table, notices| {
            table.apply(changed, notices);
            self.told.fetch_add(1, Ordering::Release);
        });
    }

    /// The source will tell of nothing more until asked again.
    pub fn leases_lost(&self) {
        self.learn(|table, notices| {
            table.lose_leases(notices);
            self.told.fetch_add(1, Ordering::Release);
        });
    }

    /// Takes something in, and tells the kernel what follows.
    fn learn<T>(&self, learn: impl FnOnce(&mut Table, &mut Vec<Notice>) -> T) -> T {
        let (learnt, notices) = self.learn_untold(learn);
        self.notify(notices);
        learnt
    }

    /// Takes something in. The kernel is still to be told, by [`Vfs::notify`]: until then who opens one of the files is told
    /// not to believe what the kernel has.
    fn learn_untold<T>(&self, learn: impl FnOnce(&mut Table, &mut Vec<Notice>) -> T) -> (T, Vec<Notice>) {
        let mut notices = Vec::new();
        let mut table = self.table.lock();
        let learnt = learn(&mut table, &mut notices);
        table.begin_telling(&notices, self.now());
        (learnt, notices)
    }

    fn notify(&self, notices: Vec<Notice>) {
        if notices.is_empty() {
            return;
        }
        for notice in &notices {
            if let Notice::Content(ino) = notice {
                self.content_changed(*ino);
            }
        }
        let nodes: Vec<_> = notices.iter().filter_map(Notice::node).collect();
        self.told.fetch_add(1, Ordering::Release);
        self.kernel.notify(notices);
        if !nodes.is_empty() {
            self.table.lock().end_telling(&nodes);
        }
    }

    /// What was read before of the node's content may no longer be what it holds.
    fn content_changed(&self, ino: Ino) {
        if let Some(file) = self.files.lock().get(&ino) {
            file.content_changed();
        }
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn place(&self, ino: Ino) -> Result<Place> {
        self.table.lock().place(ino)
    }

    /// The node by name, or, when it has none any more, by one of its handles, or else where it was last.
    fn target(&self, ino: Ino) -> Result<Target> {
        if let Ok(place) = self.place(ino) {
            return Ok(Target::Place(place));
        }
        match self.any_handle(ino) {
            Some(handle) => Ok(Target::Handle(handle)),
            None => self.table.lock().last_place(ino).map(Target::Place),
        }
    }

    /// The outcome of an operation at the place `tried`, or, if the node is not there, that of the same at its other places,
    /// one after the other: also at one that it has got meanwhile, by a rename that was on its way. A kernel tries a name
    /// again once only, and is given the same node for it as long as the source tells of nothing. What is answered then is
    /// used once: the lease that covers the node is that of where it is not.
    async fn or_elsewhere<T, F: Future<Output = Result<T>>>(
        &self,
        ino: Ino,
        tried: Option<&Place>,
        outcome: Result<T>,
        at: impl Fn(Place) -> F,
    ) -> Result<T> {
        if !matches!(outcome, Err(Errno::ESTALE | Errno::ENOENT | Errno::ENOTDIR)) {
            return outcome;
        }
        let places = self.table.lock().places(ino);
        for place in places.into_iter().filter(|place| tried != Some(place)) {
            let elsewhere = at(place).await;
            if elsewhere.is_ok() {
                self.table.lock().doubt_attributes(ino);
                return elsewhere;
            }
        }
        outcome
    }

    /// A handle that has the node open, for writing if there is one.
    fn any_handle(&self, ino: Ino) -> Option<HandleId> {
        self.files.lock().get(&ino).and_then(|file| file.any_handle())
    }

    /// Looks at what an operation on `ino` came to: if the source does not know the node where the table has it, the
    /// table is to blame, and asks again next time.
    fn checked<T>(&self, ino: Ino, outcome: Result<T>) -> Result<T> {
        if matches!(outcome, Err(Errno::ESTALE | Errno::ENOTDIR)) {
            self.table.lock().doubt_path(ino);
        }
        outcome
    }
}
