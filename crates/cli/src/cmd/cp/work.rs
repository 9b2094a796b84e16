//! A copy under way: who does what, and when it ends.
//!
//! ```text
//!   waiting ──► a worker takes one entry ──► file, link: copied ─────────────► ended
//!      ▲     │                          └──► directory: made, listed ─┐          │ the last one in a directory
//!      │     └► or small files of one directory: copied together      │          ▼
//!      └────────────────── what is in it, to be taken next ───────────┘  the directory gets its attributes,
//!                                                                        and has ended itself
//! ```
//!
//! What was found last is taken first, so what waits is little more than the rest of the directories on the way down.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use wire::api::ErrorKind;
use wire::api::file::{CHUNK_BYTES_MAX, Entry, FileKind, HANDLES_MAX, Links};
use wire::api::machine::Source;
use wire::bytestring::ByteString;

use super::files::{Attributes, Files, is_small};
use super::progress::Progress;
use super::{one, together};
use crate::cmd::place::Place;
use crate::error::{Error, Failure, Result};

/// How many files and directories are copied at once. Each takes a few round trips, however small it is, so that only
/// many together fill a long link. Each needs two handles at most, a large file three, and the daemon gives a client so
/// many.
const WORKERS: usize = (HANDLES_MAX - LARGE_FILES_MAX) / 2;

/// The same where all is of this computer: more would wait for the same disk.
const LOCAL_WORKERS: usize = 4;

/// How many files of more than one chunk are copied at once. Each has [`WINDOW_BYTES`](super::files::WINDOW_BYTES) under
/// way, which is in memory here and in the daemon; and a few of them fill any link.
const LARGE_FILES_MAX: usize = 4;

/// After so many files that could not be copied the rest is not tried: it is not about the files any more.
const FAILURES_MAX: usize = 100;

/// What is said of pipes and devices that were found.
const READ_WHEN_NAMED: &str = "what comes out of a pipe or a device is copied when it is named itself";

/// What is to be copied, and the name it gets.
pub struct Pair {
    /// The original.
    pub from: Source,
    /// What it is.
    pub entry: Entry,
    /// The copy's name.
    pub to: Source,
}

/// Whether something can have the copy's name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nothing has, or a file that the copy replaces.
    New,
    /// It has to be looked at.
    Unknown,
}

/// Something to copy.
pub struct Item {
    /// What and where to.
    pub pair: Pair,
    /// What may be there.
    pub target: Target,
    outer: Option<Arc<Directory>>,
}

impl Item {
    /// One that the user has named.
    pub fn named(pair: Pair, target: Target) -> Item {
        Item { pair, target, outer: None }
    }

    /// Whether both were found in the same directory.
    fn is_beside(&self, other: &Item) -> bool {
        match (&self.outer, &other.outer) {
            (Some(own), Some(others)) => Arc::ptr_eq(own, others),
            _ => false,
        }
    }
}

/// A directory that was made and has not been finished.
pub struct Directory {
    /// The original.
    pub from: Source,
    /// The copy.
    pub to: Source,
    /// Held by who makes files in it, where it is of this computer.
    pub turn: Mutex<()>,
    attributes: Attributes,
    /// What in it has not ended, and one more until all in it is known.
    left: AtomicUsize,
    outer: Option<Arc<Directory>>,
}

/// A copy under way, as all its threads see it.
pub struct Work<'a> {
    files: Files<'a>,
    progress: Progress,
    failures: Mutex<Vec<Failure>>,
    interrupted: AtomicBool,
    queue: Mutex<Queue>,
    changed: Condvar,
    large: Mutex<usize>,
    less: Condvar,
}

struct Queue {
    waiting: Vec<Item>,
    under_way: usize,
}

impl Queue {
    /// What waits and can be copied together with this.
    fn take_with(&mut self, first: &Item) -> Vec<Item> {
        let mut room = together::Room::default();
        let mut with = Vec::new();
        if room.takes(first) {
            let mut is_with = |next: &mut Item| next.is_beside(first) && room.takes(next);
            while let Some(next) = self.waiting.pop_if(&mut is_with) {
                with.push(next);
            }
        }
        with
    }
}

/// Something that was taken, until it is dropped.
struct UnderWay<'a>(&'a Work<'a>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        queue.under_way -= 1;
        if queue.under_way == 0 {
            self.0.changed.notify_all();
        }
    }
}

/// The right to copy a large file, until it is dropped.
pub struct Large<'a>(&'a Work<'a>);

impl Drop for Large<'_> {
    fn drop(&mut self) {
        *lock(&self.0.large) -= 1;
        self.0.less.notify_one();
    }
}

impl<'a> Work<'a> {
    /// What is to be done.
    pub fn new(files: Files<'a>, items: Vec<Item>) -> Work<'a> {
        let work = Work {
            files,
            progress: Progress::default(),
            failures: Mutex::default(),
            interrupted: AtomicBool::new(false),
            queue: Mutex::new(Queue { waiting: Vec::new(), under_way: 0 }),
            changed: Condvar::new(),
            large: Mutex::default(),
            less: Condvar::new(),
        };
        work.put(items);
        work
    }

    /// How many threads it is for.
    pub fn workers(&self) -> usize {
        match &lock(&self.queue).waiting[..] {
            [one] if one.pair.entry.kind != FileKind::Directory => 1,
            _ if self.files.are_local() => LOCAL_WORKERS,
            _ => WORKERS,
        }
    }

    /// Where files are.
    pub fn files(&self) -> Files<'a> {
        self.files
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// What could not be copied.
    pub fn into_failures(self) -> Vec<Failure> {
        self.failures.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has everything end as soon as it can.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
        // Whoever sleeps has looked before, or looks again.
        drop(lock(&self.queue));
        self.changed.notify_all();
    }

    /// Whether it was interrupted.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Fails once it was interrupted.
    pub fn go_on(&self) -> Result<()> {
        match self.is_interrupted() {
            true => Err(Error::new(ErrorKind::Interrupted, "interrupted")
                .hint("the same command goes on where this one ended")),
            false => Ok(()),
        }
    }

    /// Waits until a file of this size may be copied.
    pub fn wait_for_room(&self, size: u64) -> Option<Large<'_>> {
        if size <= CHUNK_BYTES_MAX as u64 {
            return None;
        }
        let large = lock(&self.large);
        let full = |large: &mut usize| *large >= LARGE_FILES_MAX;
        *self.less.wait_while(large, full).unwrap_or_else(PoisonError::into_inner) += 1;
        Some(Large(self))
    }

    /// Takes part until nothing is left to do.
    pub fn run(&self) {
        while let Some((item, with, _under_way)) = self.take() {
            match item.outer.clone() {
                Some(directory) if !with.is_empty() => {
                    let items = std::iter::once(item).chain(with).collect();
                    self.carry_out_together(&directory, items);
                }
                _ => self.carry_out(item),
            }
        }
    }

    fn put(&self, items: Vec<Item>) {
        let files = items.iter().filter(|item| item.pair.entry.kind != FileKind::Directory);
        files.for_each(|item| self.progress.file_found(item.pair.entry.size));
        lock(&self.queue).waiting.extend(items.into_iter().rev());
        self.changed.notify_all();
    }

    /// The next thing to do, and what is done together with it; none when there is nothing any more.
    fn take(&self) -> Option<(Item, Vec<Item>, UnderWay<'_>)> {
        let mut queue = lock(&self.queue);
        loop {
            if self.is_interrupted() {
                return None;
            }
            if let Some(item) = queue.waiting.pop() {
                queue.under_way += 1;
                let with = if self.files.are_local() { Vec::new() } else { queue.take_with(&item) };
                return Some((item, with, UnderWay(self)));
            }
            if queue.under_way == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn carry_out(&self, item: Item) {
        let Item { pair, target, outer } = item;
        if self.gives_up() {
            return self.ended(outer);
        }
        let outcome = match pair.entry.kind {
            FileKind::Directory => match self.directory(pair, target, outer.clone()) {
                Ok(directory) => return self.ended(Some(directory)),
                Err(error) => Err(error),
            },
            FileKind::Link => self.link(&pair, target),
            FileKind::File => one::copy(self, &pair, target),
            FileKind::Socket => Err(left_out(&pair, "a socket")),
            // A pipe or a device that was named is read; one that was found is not: it may never end.
            _ if outer.is_none() => one::copy(self, &pair, target),
            FileKind::Fifo => Err(left_out(&pair, "a pipe").hint(READ_WHEN_NAMED)),
            FileKind::CharacterDevice | FileKind::BlockDevice => {
                Err(left_out(&pair, "a device").hint(READ_WHEN_NAMED))
            }
        };
        if let Err(error) = outcome {
            self.failed(error);
        }
        self.ended(outer);
    }

    fn carry_out_together(&self, directory: &Directory, items: Vec<Item>) {
        let alone = if self.gives_up() { items } else { together::copy(self, directory, items) };
        alone.into_iter().for_each(|item| self.carry_out(item));
    }

    /// A file has been copied together with others.
    pub fn together_done(&self, item: Item, bytes: u64) {
        self.progress.bytes_copied(bytes);
        self.progress.file_done();
        self.ended(item.outer);
    }

    fn link(&self, pair: &Pair, target: Target) -> Result<()> {
        // A listing need not say where its links point.
        let points_to = match &pair.entry.target {
            Some(points_to) => Some(points_to.clone()),
            None => self.files.stat(&pair.from, Links::Keep)?.and_then(|entry| entry.target),
        };
        let Some(points_to) = points_to else {
            let message = format!("it is not known where the link `{}` points", pair.from);
            return Err(Error::new(ErrorKind::Failure, message));
        };
        self.files.make_link(&pair.to, &points_to, target)?;
        self.progress.link_done();
        Ok(())
    }

    /// Makes a directory and puts what is in it to what waits.
    fn directory(&self, pair: Pair, target: Target, outer: Option<Arc<Directory>>) -> Result<Arc<Directory>> {
        let Pair { from, entry, to } = pair;
        let there = match target {
            Target::New => None,
            Target::Unknown => self.files.stat(&to, Links::Follow)?,
        };
        let taken = match there {
            None => {
                self.files.make_directory(&to)?;
                Some(HashMap::new())
            }
            Some(there) if there.kind == FileKind::Directory => {
                // One that may be entered and not be read is made use of all the same.
                let there = self.files.list(&to).ok();
                there.map(|there| there.into_iter().map(|entry| (entry.name, entry.kind)).collect())
            }
            Some(_) => {
                let message = format!("`{to}` is not a directory, and `{from}` is one");
                return Err(Error::new(ErrorKind::Conflict, message));
            }
        };
        self.progress.directory_done();
        let (attributes, left, turn) = (Attributes::of(&entry), AtomicUsize::new(1), Mutex::default());
        let directory = Arc::new(Directory { from, to, turn, attributes, left, outer });
        match self.inside(&directory, taken.as_ref()) {
            Ok(items) => {
                directory.left.fetch_add(items.len(), Ordering::Relaxed);
                self.put(items);
            }
            Err(error) => self.failed(error),
        }
        Ok(directory)
    }

    /// What is to be copied of what is in a directory. `taken` are the names that the copy has already, if that is known.
    fn inside(
        &self,
        directory: &Arc<Directory>,
        taken: Option<&HashMap<ByteString, FileKind>>,
    ) -> Result<Vec<Item>> {
        let below =
            |source: &Source, entry: &Entry| Place::of(source).and_then(|place| place.source_of(&entry.name));
        let item = |entry: Entry| {
            let (from, to) = (below(&directory.from, &entry)?, below(&directory.to, &entry)?);
            let target = match taken.map(|taken| taken.get(&entry.name)) {
                Some(None) => Target::New,
                Some(Some(FileKind::File)) if is_small(&entry) => Target::New,
                _ => Target::Unknown,
            };
            Ok(Item { pair: Pair { from, entry, to }, target, outer: Some(Arc::clone(directory)) })
        };
        self.files.list(&directory.from)?.into_iter().map(item).collect()
    }

    /// Something in this directory has ended. With the last, the directory gets its attributes: a time would not stay while
    /// there are changes in it, and a mode may close it.
    fn ended(&self, directory: Option<Arc<Directory>>) {
        let mut innermost = directory;
        while let Some(directory) = innermost {
            let was_last = directory.left.fetch_sub(1, Ordering::AcqRel) == 1;
            if !was_last || self.is_interrupted() {
                return;
            }
            if let Err(error) = self.files.set_attributes(&directory.to, directory.attributes) {
                self.failed(error);
            }
            innermost = directory.outer.clone();
        }
    }

    fn failed(&self, error: Error) {
        if let Error::Failed(failure) = error {
            lock(&self.failures).push(failure);
        }
    }

    /// Whether the rest is not tried any more: there are too many failures, or a machine is gone.
    fn gives_up(&self) -> bool {
        let failures = lock(&self.failures);
        failures.len() >= FAILURES_MAX
            || failures.iter().any(|failure| failure.kind == ErrorKind::Unreachable)
    }
}

fn left_out(pair: &Pair, what: &str) -> Error {
    Error::new(ErrorKind::Failure, format!("`{}` is {what} and was left out", pair.from))
}

/// A panic of another thread has left nothing half done: what is guarded is changed in single steps.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
