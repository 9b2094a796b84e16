//! A thread: a revision, and what was changed on top of it.
//!
//! ```text
//! THREAD/lock       locked (flock) by the process that has the thread, as long as it lives
//!        names      what is named and how: see [`log`](crate::log) and [`names::change`](crate::names::change)
//!        names.new  a compacted log that is being written
//!        files/INO  the content of a file that was written: a plain file, INO its number in 16 hexadecimal digits
//!        new/N      a content that is being copied up
//!        times      when files of the base were modified, if not when the thread was made: see `times`
//! ```
//!
//! Contents that are written live in plain files, which whoever serves the thread hands to the kernel: bytes go there without this
//! crate. So their size and times of access and change of the content are those of the plain file, and are in no record; all else
//! of a file is in the log. Modes, owners and attributes are never set on plain files, which are their user's alone.
//!
//! A file of the base is *copied up* when it is to be written: reflinked where the file system below can, copied otherwise,
//! synced, put in place by a rename, and only then said to be written. So a power cut takes neither what was in it nor half of it.
//!
//! A plain file whose file is gone is removed when the record that says so is durable, and not before: a power cut may take the record,
//! and the name is back then, with all that was synced of its content. That is what a program counts on that writes a new file, syncs
//! it, and renames it over the old one.
//!
//! What is durable:
//!
//! - [`Thread::sync`] of a file: its content, its name, and everything that was done to names before.
//! - [`Thread::sync_names`]: what was done to names. Whoever serves the thread calls it at least every second.
//! - Without either, what a power cut leaves is a prefix of what was done to names. A file of it that was made and never synced may be
//!   empty, as on any file system.
//! - The death of a process costs nothing.
//!
//! Files whose last name went while they were open are kept ([`Thread::unnamed`]) until whoever has them open says
//! [`forget`](Thread::forget); a successor that takes over asks the kernel which are still open.
//!
//! Whoever serves a thread may die between carrying a request out and answering it, and its successor is then asked again. So a
//! record says which [request](once) it carries out.
//!
//! The log is compacted when it has grown to twice what it has to say and [`GROWTH_BYTES_MIN`] more.
//!
//! Something of the working copy that it was made from may be seen in it: see `in_place`.
//!
//! Locks: the thread's state, then the leaves of [`Objects`]. Records are written, and trees read, under the first; contents are
//! decoded, copied and synced under none. What is seen in place is looked at under it. What was [read last](small) has a lock that is
//! held for no other.

mod content;
mod git_index;
mod in_place;
mod look;
mod names;
mod once;
mod small;
mod times;

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{FlockOperation, Timespec};

pub use content::{Access, AttributeChanges, XattrMode};
pub use git_index::DATED_BEFORE_SECONDS;
pub use look::{Changed, Listed};
pub use names::{New, Remains, Removed, RenameMode};
pub use once::Hand;
pub use small::SMALL_BYTES_MAX;

use crate::blobs::BlobCache;
use crate::error::fails;
use crate::log::{Log, Records, sync_directory};
use crate::names::change::Change;
use crate::names::{Names, Origin, Untrue};
use crate::node::{Content, Ino, Node};
use crate::objects::Objects;
use crate::working_copy::WorkingCopy;
use crate::{Error, Result};
use small::Recent;
use times::Times;

/// A log grows at least by so much before it is compacted: some 20,000 operations, which take a few milliseconds to write anew.
pub const GROWTH_BYTES_MIN: u64 = 4 << 20;

/// Plain files that wait to be removed: with more, an operation waits for the disk itself.
const CONDEMNED_MAX: usize = 64 << 10;

/// How long a thread is usually waited for: a process that was just forked by who had it holds its lock until it runs its program.
const BUSY_PATIENCE: Duration = Duration::from_millis(500);

/// How often it is tried meanwhile.
const BUSY_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

const LOCK: &str = "lock";
const NAMES: &str = "names";
const FILES: &str = "files";
const NEW: &str = "new";

/// A thread that is open. Any number of threads of the process may use it at once.
#[derive(Debug)]
pub struct Thread {
    directory: PathBuf,
    objects: Arc<Objects>,
    blobs: Arc<BlobCache>,
    origin: Origin,
    times: OnceLock<Times>,
    /// Of which something is seen in place.
    copy: OnceLock<WorkingCopy>,
    /// How many files may be numbered that are seen in it.
    in_place_max: usize,
    state: Mutex<State>,
    /// Tells files in `new` apart.
    copied: AtomicU64,
    recent: Mutex<Recent>,
    _lock: File,
}

/// A thread that was begun, and that a power cut may take yet. It may be used, and be opened by another process, as any other.
#[derive(Debug)]
#[must_use]
pub struct Unsettled {
    files: Vec<PathBuf>,
    /// Of which the names are to be durable, in this order.
    directories: Vec<PathBuf>,
}

impl Unsettled {
    /// Makes it durable, as it was then or later. Waits for the disk.
    pub fn settle(&self) -> Result<()> {
        for path in &self.files {
            match File::open(path) {
                // It has none, or it has gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => file.and_then(|file| file.sync_all()).map_err(fails("sync", path))?,
            }
        }
        for directory in &self.directories {
            sync_directory(directory).map_err(fails("sync", directory))?;
        }
        Ok(())
    }

    /// Has another file or directory be durable with it, under its name.
    pub fn add(&mut self, path: PathBuf) {
        let above = path.parent().unwrap_or(&path).to_owned();
        if !self.directories.contains(&above) {
            self.directories.push(above);
        }
        self.files.push(path);
    }
}

#[derive(Debug)]
struct State {
    names: Names,
    log: Log,
    compact_at: u64,
    /// Plain files that were made, and those of them whose names in `files` are durable.
    made: u64,
    made_durable: u64,
    /// Plain files of files that are gone, to be removed in this order as soon as the log is durable; and how many were before them.
    condemned: VecDeque<Ino>,
    buried: u64,
}

impl Thread {
    /// Begins a thread in a directory that is not there, or is empty. Not durable before all that was done since is [settled](Unsettled).
    pub fn begin(
        directory: &Path,
        objects: Arc<Objects>,
        blobs: Arc<BlobCache>,
        origin: Origin,
    ) -> Result<Thread> {
        make_directory(directory)?;
        let lock = lock(directory, BUSY_PATIENCE)?;
        let path = directory.join(NAMES);
        if path.exists() {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "there is a thread");
            return Err(fails("make a thread in", directory)(source));
        }
        make_directory(&directory.join(FILES))?;
        make_directory(&directory.join(NEW))?;
        let root = objects.index(&origin.revision.tree)?;
        let changes = [
            Change::Origin(origin),
            Change::Node { ino: Ino::ROOT, node: Node::of_base_directory(&origin) },
            Change::Directory {
                ino: Ino::ROOT,
                parent: Ino::ROOT,
                tree: Some(origin.revision.tree),
                first: Ino::ROOT.0 + 1,
                count: root.count(),
            },
        ];
        let mut names = Names::default();
        for change in changes {
            names.apply(change).map_err(|untrue| damaged(&path, untrue))?;
        }
        let log = Log::begin(&path, &names.snapshot())?;
        Ok(Thread::of(directory, objects, blobs, (names, origin), log, lock))
    }

    /// Opens a thread that was made before. [`Busy`](Error::Busy) if another process has it.
    pub fn open(directory: &Path, objects: Arc<Objects>, blobs: Arc<BlobCache>) -> Result<Thread> {
        Thread::open_within(BUSY_PATIENCE, directory, objects, blobs)
    }

    /// The same when whoever has it may keep it for so long. Waits in the calling thread.
    pub fn open_within(
        patience: Duration,
        directory: &Path,
        objects: Arc<Objects>,
        blobs: Arc<BlobCache>,
    ) -> Result<Thread> {
        let path = directory.join(NAMES);
        let lock = lock(directory, patience)?;
        let mut names = Names::default();
        let opened =
            Log::open(&path, |record| names.apply_record(record).map_err(|untrue| damaged(&path, untrue)))?;
        let missing = || fails("open", &path)(io::ErrorKind::NotFound.into());
        let log = opened.ok_or_else(missing)?;
        let origin = *names.origin().ok_or_else(|| damaged(&path, Untrue("it says of no revision")))?;
        clear(&directory.join(NEW))?;
        let thread = Thread::of(directory, objects, blobs, (names, origin), log, lock);
        let times = Times::open(directory)?;
        Ok(Thread { times: times.into(), ..thread })
    }

    fn of(
        directory: &Path,
        objects: Arc<Objects>,
        blobs: Arc<BlobCache>,
        (names, origin): (Names, Origin),
        log: Log,
        lock: File,
    ) -> Thread {
        let compact_at = grown(log.length());
        // What a predecessor has made may not be durable.
        let (made, made_durable) = (1, 0);
        let (condemned, buried) = (VecDeque::new(), 0);
        let root = names.working_copy().map(|root| Path::new(OsStr::from_bytes(root)));
        let copy = root.map(WorkingCopy::at).map(OnceLock::from).unwrap_or_default();
        let state = Mutex::new(State { names, log, compact_at, made, made_durable, condemned, buried });
        let directory = directory.to_owned();
        let (times, copied, recent) = (OnceLock::new(), AtomicU64::new(0), Mutex::default());
        let in_place_max = in_place::IN_PLACE_MAX;
        Thread {
            directory,
            objects,
            blobs,
            origin,
            times,
            copy,
            in_place_max,
            state,
            copied,
            recent,
            _lock: lock,
        }
    }

    /// What there is of it by now, to be made durable, by whoever has begun it.
    pub fn unsettled(&self) -> Result<Unsettled> {
        let path = self.directory.join(FILES);
        let listed = std::fs::read_dir(&path).map_err(fails("list", &path))?;
        let plain = listed.map(|entry| Ok(entry.map_err(fails("list", &path))?.path()));
        let mut files = plain.collect::<Result<Vec<PathBuf>>>()?;
        files.extend([times::TIMES, NAMES].map(|name| self.directory.join(name)));
        let above = self.directory.parent().unwrap_or(&self.directory);
        let directories = [&path, &self.directory, above].map(Path::to_owned).to_vec();
        Ok(Unsettled { files, directories })
    }

    /// Where it is kept.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it began from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Makes durable what is in a file, and everything that was done to names before.
    pub fn sync(&self, ino: Ino) -> Result<()> {
        if self.locked().node(ino)?.content == Content::Written {
            let path = self.plain(ino);
            match File::open(&path) {
                // Its last name has gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => file.and_then(|file| file.sync_all()).map_err(fails("sync", &path))?,
            }
        }
        self.sync_names()
    }

    /// Makes durable what was done to names. An error is told once: whoever comes next writes all of it anew.
    pub fn sync_names(&self) -> Result<()> {
        let (made, is_durable, log, condemned) = {
            let mut locked = self.locked();
            locked.mend()?;
            let state = &locked.state;
            let condemned = state.buried + state.condemned.len() as u64;
            (state.made, state.made == state.made_durable, state.log.sync(), condemned)
        };
        let synced = self.sync_files(made, is_durable).and_then(|()| Ok(log.wait()?));
        if synced.is_err() {
            // Nobody knows what of it the disk has.
            self.locked().state.log.break_off();
            return synced;
        }
        let gone = self.locked().state.take_condemned(condemned);
        gone.into_iter().for_each(|ino| self.remove_plain(ino));
        Ok(())
    }

    fn sync_files(&self, made: u64, is_durable: bool) -> Result<()> {
        if is_durable {
            return Ok(());
        }
        let files = self.directory.join(FILES);
        sync_directory(&files).map_err(fails("sync", &files))?;
        let mut locked = self.locked();
        locked.state.made_durable = locked.state.made_durable.max(made);
        Ok(())
    }

    /// Of a file that is gone for good. What stays is [swept](Thread::sweep).
    fn remove_plain(&self, ino: Ino) {
        let path = self.plain(ino);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "the content of a file that is gone stays");
        }
    }

    /// Removes plain files that nothing names: a process died between making one and saying so, or between saying that one is gone and
    /// removing it. Takes as long as listing all that was written; to be called when there is time.
    pub fn sweep(&self) -> Result<u64> {
        // A predecessor's records may not be durable.
        self.sync_names()?;
        let files = self.directory.join(FILES);
        let mut removed = 0;
        for entry in std::fs::read_dir(&files).map_err(fails("list", &files))? {
            let path = entry.map_err(fails("list", &files))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let ino = u64::from_str_radix(&name, 16).ok().map(Ino);
            // Under the lock, so that none is being made.
            let locked = self.locked();
            let node = ino.and_then(|ino| locked.state.names.node(ino));
            let is_condemned = ino.is_some_and(|ino| locked.state.condemned.contains(&ino));
            if !is_condemned && node.is_none_or(|node| node.content != Content::Written) {
                match std::fs::remove_file(&path) {
                    // Whoever made the log durable was faster.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    outcome => outcome.map_err(fails("remove", &path))?,
                }
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Writes the log anew, with what it has to say and nothing else.
    pub fn compact(&self) -> Result<()> {
        self.locked().compact()
    }

    fn plain(&self, ino: Ino) -> PathBuf {
        self.directory.join(FILES).join(format!("{:016x}", ino.0))
    }

    fn locked(&self) -> Locked<'_> {
        Locked { thread: self, state: self.state.lock() }
    }
}

/// A thread whose names stand still.
struct Locked<'a> {
    thread: &'a Thread,
    state: MutexGuard<'a, State>,
}

impl Locked<'_> {
    /// Makes what an operation changes true, all or none, and with it that the request is carried out that it is part of. `ino` is the
    /// file that it has made, or that it is about.
    fn conclude(&mut self, mut changes: Vec<Change>, ino: Ino) -> Result<()> {
        if let Some(once::Request { number, answered, .. }) = once::current() {
            changes.push(Change::CarriedOut { request: number, ino, answered });
        }
        self.commit(changes)?;
        once::recorded();
        Ok(())
    }

    /// Makes the changes true, all or none: of what prepares an operation, and is as good twice.
    fn commit(&mut self, changes: Vec<Change>) -> Result<()> {
        self.mend()?;
        let mut records = Records::default();
        records.push(|to| changes.iter().for_each(|change| change.encode(to)));
        self.state.log.append(&records)?;
        for change in changes {
            if let Err(untrue) = self.state.names.apply(change) {
                // The log says what memory does not. It has no operation of ours that could be so.
                self.state.log.break_off();
                return Err(damaged(self.state.log.path(), untrue));
            }
        }
        if self.state.log.length() >= self.state.compact_at
            && let Err(error) = self.compact()
        {
            tracing::warn!(%error, "the log grows on");
            self.state.compact_at = self.state.log.length() + GROWTH_BYTES_MIN;
        }
        Ok(())
    }

    /// Has the plain file of a file that is gone removed, when the log is durable.
    fn condemn(&mut self, ino: Ino) {
        self.state.condemned.push_back(ino);
        if self.state.condemned.len() < CONDEMNED_MAX {
            return;
        }
        match self.state.log.sync().wait() {
            Ok(()) => self.bury(),
            Err(error) => {
                tracing::warn!(%error, "contents of files that are gone stay");
                self.state.log.break_off();
            }
        }
    }

    /// The log is durable.
    fn bury(&mut self) {
        let gone = self.state.take_condemned(u64::MAX);
        gone.into_iter().for_each(|ino| self.thread.remove_plain(ino));
    }

    /// Replaces a log that has failed.
    fn mend(&mut self) -> Result<()> {
        if self.state.log.is_broken() { self.compact() } else { Ok(()) }
    }

    fn compact(&mut self) -> Result<()> {
        let path = self.state.log.path().to_owned();
        let log = Log::create(&path, &self.state.names.snapshot())?;
        self.state.compact_at = grown(log.length());
        self.state.log = log;
        if !self.state.log.is_broken() {
            self.bury();
        }
        Ok(())
    }
}

impl State {
    /// Those of the first so many of all that were ever condemned that are still there.
    fn take_condemned(&mut self, through: u64) -> Vec<Ino> {
        let count = through.saturating_sub(self.buried).min(self.condemned.len() as u64);
        self.buried += count;
        self.condemned.drain(..count as usize).collect()
    }
}

/// How long a log is when it is time to compact it again.
fn grown(length: u64) -> u64 {
    length.saturating_mul(2).saturating_add(GROWTH_BYTES_MIN)
}

fn damaged(path: &Path, Untrue(why): Untrue) -> Error {
    Error::Damaged { path: path.to_owned(), why }
}

fn lock(directory: &Path, patience: Duration) -> Result<File> {
    let path = directory.join(LOCK);
    let opened =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(fails("open", &path))?;
    let begun = Instant::now();
    loop {
        let locked =
            rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive));
        match locked {
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < patience => pause(BUSY_INTERVAL),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Busy { path: directory.to_owned() }),
            Err(error) => return Err(fails("lock", &path)(error.into())),
            Ok(()) => return Ok(file),
        }
    }
}

fn pause(time: Timespec) {
    // Whether it is cut short does not matter: it is looked again.
    let _ = rustix::thread::nanosleep(&time);
}

fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
    made.map_err(fails("make", path))
}

fn clear(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory).map_err(fails("list", directory))? {
        let path = entry.map_err(fails("list", directory))?.path();
        std::fs::remove_file(&path).map_err(fails("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
