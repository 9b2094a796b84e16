//! `stead cp`

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use wire::api::ErrorKind;
use wire::api::file::{Entry, FileKind, Links};
use wire::api::machine::{Machine, Source};
use wire::bytestring::ByteString;

use crate::context::Context;
use crate::error::{Error, Failure, Result};
use crate::output::text::{bytes, counted, one_line};

mod files;
mod one;
mod progress;

use files::{Attributes, Files};
use progress::Progress;

/// How many files are copied at once. Each takes a few round trips, however small it is; and each may be in a directory
/// of its own, for which the daemon needs a session of the machine's connection: an ssh server allows ten.
const WORKERS: usize = 3;

/// How many files the walk may be ahead of the copies: it bounds memory, and the walk is always faster.
const QUEUE_MAX: usize = 1024;

/// After so many files that could not be copied the rest is not tried: it is not about the files any more.
const FAILURES_MAX: usize = 100;

/// Copy files between machines.
///
/// Directories are copied with everything in them; permissions and times of change are kept, symbolic links stay
/// links. A file appears under its name when it is complete. A copy that was cut short is taken up where it ended when
/// the same command runs again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead cp notes.txt ssh://box/srv/notes.txt
  stead cp box:src/app ./app
  stead cp a.log b.log box:logs/")]
pub struct Args {
    /// What to copy: MACHINE/PATH, USER@HOST:PATH or a local path
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<OsString>,
    /// Where to: a directory that exists, or the name for the copy
    destination: OsString,
    /// Accepted for the sake of habit: directories are always copied
    #[arg(short, long)]
    recursive: bool,
}

/// What was copied, in JSON.
#[derive(Debug, Default, Serialize)]
struct Copied {
    files: u64,
    directories: u64,
    links: u64,
    bytes: u64,
    /// How much of it was there already, from a copy that was cut short.
    resumed_bytes: u64,
}

/// One file to copy.
struct Job {
    from: Source,
    entry: Entry,
    to: Source,
    /// Whether something can have the name already.
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// It is in a directory that this copy has made.
    New,
    /// It has to be looked at.
    Unknown,
}

/// What all threads share.
#[derive(Default)]
struct Shared {
    progress: Progress,
    failures: Mutex<Vec<Failure>>,
}

impl Shared {
    fn failed(&self, error: Error) {
        if let Error::Failed(failure) = error {
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
        }
    }

    fn gives_up(&self) -> bool {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).len() >= FAILURES_MAX
    }
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let sources = args.sources.iter().map(|text| context.source(text)).collect::<Result<Vec<_>>>()?;
    let destination = context.source(&args.destination)?;
    let is_elsewhere = |source: &Source| !matches!(source, Source::Files { machine: Machine::Host, .. });
    let needs_daemon = sources.iter().chain([&destination]).any(is_elsewhere);
    let client = needs_daemon.then(|| context.daemon()).transpose()?;
    let caller = context.caller();
    let files = Files::new(&caller, client.as_ref());
    let pairs = pairs(files, sources, destination, &args.destination)?;
    let shared = Shared::default();
    let (copied, outcome) = copy(files, pairs, &shared, context.output.shows_progress());
    let failures = shared.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome?;
    match &failures[..] {
        [] => print(&copied, context),
        [one] => Err(Error::Failed(one.clone())),
        [first, ..] => {
            for failure in &failures {
                context.output.note(format_args!("error: {}", one_line(&failure.message)));
            }
            let message = format!("{} could not be copied", counted(failures.len() as u64, "file"));
            Err(Error::Failed(Failure { kind: first.kind, message, hint: first.hint.clone() }))
        }
    }
}

fn print(copied: &Copied, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(copied);
    }
    let mut parts = vec![counted(copied.files, "file")];
    if copied.directories > 0 {
        parts.push(counted(copied.directories, "directory"));
    }
    if copied.links > 0 {
        parts.push(counted(copied.links, "link"));
    }
    let resumed = match copied.resumed_bytes {
        0 => String::new(),
        resumed => format!(", {} of it from before", bytes(resumed)),
    };
    // The result is the copy itself; what was done is for people.
    context.output.note(format_args!("copied {} ({}{resumed})", parts.join(", "), bytes(copied.bytes)));
    Ok(())
}

/// What is to be copied, and the name it gets.
struct Pair {
    from: Source,
    entry: Entry,
    to: Source,
}

/// Finds out what is there and what each copy will be called.
fn pairs(files: Files<'_>, sources: Vec<Source>, destination: Source, written: &OsStr) -> Result<Vec<Pair>> {
    let (machine, path) = parts(&destination)?;
    let there = files.stat(&destination, Links::Follow)?;
    let is_directory = there.as_ref().is_some_and(|entry| entry.kind == FileKind::Directory);
    let must_be_directory = sources.len() > 1 || written.as_bytes().ends_with(b"/");
    if must_be_directory && !is_directory {
        let (kind, why) = match there {
            Some(_) => (ErrorKind::Conflict, "is not a directory"),
            None => (ErrorKind::NotFound, "does not exist"),
        };
        return Err(Error::new(kind, format!("`{destination}` {why}, and a directory is wanted")));
    }
    let mut pairs = Vec::new();
    for from in sources {
        parts(&from)?;
        let Some(entry) = files.stat(&from, Links::Follow)? else {
            return Err(Error::new(ErrorKind::NotFound, format!("`{from}` does not exist")));
        };
        let to = match is_directory {
            true => child(machine, path, &from.base_name())?,
            false => destination.clone(),
        };
        let is_itself = from == to;
        if is_itself || (entry.kind == FileKind::Directory && is_below(&to, &from)) {
            let message = if is_itself { "onto itself" } else { "into itself" };
            return Err(Error::new(ErrorKind::Conflict, format!("`{from}` cannot be copied {message}")));
        }
        pairs.push(Pair { from, entry, to });
    }
    Ok(pairs)
}

fn parts(source: &Source) -> Result<(&Machine, &ByteString)> {
    match source {
        Source::Files { machine, path } => Ok((machine, path)),
        Source::Thread { .. } => {
            Err(Error::usage(format_args!("`{source}` is a thread; its files are where it is mounted")))
        }
    }
}

fn child(machine: &Machine, directory: &ByteString, name: &ByteString) -> Result<Source> {
    let path = match directory.is_empty() {
        true => name.as_bytes().to_vec(),
        false => [directory.as_bytes(), b"/", name.as_bytes()].concat(),
    };
    Source::files(machine.clone(), path).map_err(Error::usage)
}

fn is_below(inner: &Source, outer: &Source) -> bool {
    let (Source::Files { machine: a, path: inner }, Source::Files { machine: b, path: outer }) =
        (inner, outer)
    else {
        return false;
    };
    let below = inner.as_bytes().strip_prefix(outer.as_bytes());
    a == b && below.is_some_and(|rest| rest.starts_with(b"/") || outer.as_bytes() == b"/")
}

/// Walks all sources here, and copies files in other threads meanwhile.
fn copy(files: Files<'_>, pairs: Vec<Pair>, shared: &Shared, shows: bool) -> (Copied, Result<()>) {
    let (jobs, queue) = sync_channel::<Job>(QUEUE_MAX);
    let queue = Mutex::new(queue);
    let mut walk = Walk { files, shared, jobs, directories: Vec::new(), copied: Copied::default() };
    std::thread::scope(|scope| {
        let drawing = shows.then(|| progress::draw_in(scope, &shared.progress));
        for _ in 0..WORKERS {
            scope.spawn(|| work(files, &queue, shared));
        }
        let outcome = walk.all(pairs);
        let Walk { jobs, directories, mut copied, .. } = walk;
        // The workers end when nobody can send any more, and the scope waits for them.
        drop(jobs);
        shared.progress.wait_for_copies();
        drop(drawing);
        finish_directories(files, directories, shared);
        copied.files = shared.progress.files_done();
        copied.bytes = shared.progress.bytes_done();
        copied.resumed_bytes = shared.progress.bytes_resumed();
        (copied, outcome)
    })
}

fn work(files: Files<'_>, queue: &Mutex<Receiver<Job>>, shared: &Shared) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else {
            return;
        };
        if !shared.gives_up()
            && let Err(error) = one::copy(files, &job, &shared.progress)
        {
            shared.failed(error);
        }
        shared.progress.file_ended();
    }
}

/// What a copied directory gets once it is full.
struct Finish {
    to: Source,
    attributes: Attributes,
}

struct Walk<'a> {
    files: Files<'a>,
    shared: &'a Shared,
    jobs: SyncSender<Job>,
    directories: Vec<Finish>,
    copied: Copied,
}

impl Walk<'_> {
    fn all(&mut self, pairs: Vec<Pair>) -> Result<()> {
        let mut waiting: VecDeque<(Pair, Target)> =
            pairs.into_iter().map(|pair| (pair, Target::Unknown)).collect();
        while let Some((pair, target)) = waiting.pop_front() {
            if self.shared.gives_up() {
                break;
            }
            match self.one(pair, target) {
                Ok(inside) => inside.into_iter().rev().for_each(|pair| waiting.push_front(pair)),
                Err(Error::OutputClosed) => return Err(Error::OutputClosed),
                Err(error) => self.shared.failed(error),
            }
        }
        Ok(())
    }

    /// Deals with one entry, and returns what is inside of it.
    fn one(&mut self, pair: Pair, target: Target) -> Result<Vec<(Pair, Target)>> {
        let Pair { from, entry, to } = pair;
        match entry.kind {
            FileKind::Directory => return self.directory(from, &entry, to, target),
            FileKind::Link => {
                // A listing need not say where its links point.
                let entry = match entry.target {
                    Some(_) => Some(entry),
                    None => self.files.stat(&from, Links::Keep)?,
                };
                let Some(target) = entry.and_then(|entry| entry.target) else {
                    let message = format!("it is not known where the link `{from}` points");
                    return Err(Error::new(ErrorKind::Failure, message));
                };
                self.files.make_link(&to, &target)?;
                self.copied.links += 1;
            }
            FileKind::File => self.send(Job { from, entry, to, target }),
            // A pipe or a device that was named is read; one that was found is not: it may never end.
            _ if target == Target::Unknown => self.send(Job { from, entry, to, target }),
            _ => {
                let message = format!("`{from}` is neither a file, a directory nor a link and was left out");
                return Err(Error::new(ErrorKind::Failure, message));
            }
        }
        Ok(Vec::new())
    }

    fn directory(
        &mut self,
        from: Source,
        entry: &Entry,
        to: Source,
        target: Target,
    ) -> Result<Vec<(Pair, Target)>> {
        let there = match target {
            Target::New => None,
            Target::Unknown => self.files.stat(&to, Links::Follow)?,
        };
        let inside = match there {
            None => {
                self.files.make_directory(&to)?;
                Target::New
            }
            Some(there) if there.kind == FileKind::Directory => Target::Unknown,
            Some(_) => {
                let message = format!("`{to}` is not a directory, and `{from}` is one");
                return Err(Error::new(ErrorKind::Conflict, message));
            }
        };
        self.copied.directories += 1;
        self.directories.push(Finish { to: to.clone(), attributes: Attributes::of(entry) });
        let mut pairs = Vec::new();
        for entry in self.files.list(&from)? {
            let below =
                |source: &Source| parts(source).and_then(|(machine, path)| child(machine, path, &entry.name));
            pairs.push((Pair { from: below(&from)?, to: below(&to)?, entry }, inside));
        }
        Ok(pairs)
    }

    fn send(&self, job: Job) {
        self.shared.progress.file_found(job.entry.size);
        if self.jobs.send(job).is_err() {
            // All workers have ended, which they do only after this sender.
            self.shared.progress.file_ended();
        }
    }
}

/// Deepest first: setting an inner one's times changes nothing of an outer one, but a mode may close it.
fn finish_directories(files: Files<'_>, directories: Vec<Finish>, shared: &Shared) {
    for Finish { to, attributes } in directories.into_iter().rev() {
        if let Err(error) = files.set_attributes(&to, attributes) {
            shared.failed(error);
        }
    }
}

#[cfg(test)]
mod tests;
