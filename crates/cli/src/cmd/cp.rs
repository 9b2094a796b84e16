//! `stead cp`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use clap_complete::engine::ArgValueCompleter;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use serde::Serialize;
use signal_hook::consts::SIGINT;
use wire::api::ErrorKind;
use wire::api::event::Topic;
use wire::api::file::{FileKind, Links};
use wire::api::machine::{Machine, Source};

use super::place::Place;
use crate::client::Client;
use crate::client::news::News;
use crate::completion;
use crate::context::Context;
use crate::error::{Error, Failure, Result};
use crate::interrupt::Interrupt;
use crate::output::text::{bytes, counted, one_line};

mod files;
mod large;
mod one;
mod progress;
mod together;
mod work;

use files::Files;
pub(super) use one::is_unfinished;
use work::{Item, Pair, Target, Work};

/// How long the copies that are under way may take after an interrupt to end by themselves, and to take away what is
/// half done. A machine that does not answer would take for ever. After it no machine is waited for, and after as much again
/// nothing is, such as a pipe that nobody writes to.
const INTERRUPT_PATIENCE: Duration = Duration::from_secs(3);

/// Copy files between machines.
///
/// Directories are copied with everything in them; permissions and times of change are kept, symbolic links stay
/// links. A file appears under its name when it is complete; until then it is beside it, as `.stead-ID.part`. A copy
/// that was cut short is taken up when the same command runs again, and a file of more than 2 MiB where it ended. Of such
/// a file from, to or between machines, only what differs from the one that has its name is carried; holes stay holes;
/// and digests of the copy are compared with those of the original before it gets its name. What is written through a
/// link, into a pipe or to a device is there as it comes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead cp notes.txt ssh://box/srv/notes.txt
  stead cp box:src/app ./app
  stead cp a.log b.log box:logs/")]
pub struct Args {
    /// What to copy: MACHINE/PATH, USER@HOST:PATH or a local path
    #[arg(required = true, value_name = "SOURCE", add = ArgValueCompleter::new(completion::sources))]
    sources: Vec<OsString>,
    /// Where to: a directory that exists, or the name for the copy
    #[arg(add = ArgValueCompleter::new(completion::sources))]
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

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let sources = args.sources.iter().map(|text| context.source(text)).collect::<Result<Vec<_>>>()?;
    let destination = context.source(&args.destination)?;
    let mut machines: Vec<Machine> = sources.iter().chain([&destination]).filter_map(machine).collect();
    machines.sort_unstable();
    machines.dedup();
    let needs_daemon = machines.iter().any(|machine| *machine != Machine::Host);
    let client = needs_daemon.then(|| context.daemon()).transpose()?;
    let caller = context.caller();
    let files = Files::new(&caller, client.as_ref());
    let items = items(files, sources, destination, &args.destination)?;
    note_pipes(&items, context);
    let work = Work::new(files, items);
    let news = News::follow(context, machines, &[Topic::Connection, Topic::Mount]);
    let outcome = copy(&work, client.as_ref(), news, context.output.shows_progress());
    let progress = work.progress();
    let copied = Copied {
        files: progress.files_done(),
        directories: progress.directories_done(),
        links: progress.links_done(),
        bytes: progress.bytes_done(),
        resumed_bytes: progress.bytes_resumed(),
    };
    outcome?;
    work.go_on()?;
    match &work.into_failures()[..] {
        [] => print(&copied, context),
        [one] => Err(Error::Failed(one.clone())),
        [first, rest @ ..] => {
            for failure in [first].into_iter().chain(rest) {
                context.output.note(format_args!("error: {}", one_line(&failure.message)));
            }
            let message = format!("{} could not be copied", counted(rest.len() as u64 + 1, "file"));
            Err(Error::Failed(Failure { kind: first.kind, message, hint: first.hint.clone() }))
        }
    }
}

/// Says to a person why nothing may happen for a while.
fn note_pipes(items: &[Item], context: &mut Context) {
    if !context.output.shows_progress() {
        return;
    }
    for Item { pair, .. } in items.iter().filter(|item| item.pair.entry.kind == FileKind::Fifo) {
        context
            .output
            .note(format_args!("note: `{}` is a pipe, and is copied until its writer closes it", pair.from));
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

/// Finds out what is there and what each copy will be called.
fn items(files: Files<'_>, sources: Vec<Source>, destination: Source, written: &OsStr) -> Result<Vec<Item>> {
    let into = Place::of(&destination)?;
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
    let mut items = Vec::new();
    for from in sources {
        Place::of(&from)?;
        let Some(entry) = files.stat(&from, Links::Follow)? else {
            return Err(Error::new(ErrorKind::NotFound, format!("`{from}` does not exist")));
        };
        let to = match is_directory {
            true => into.source_of(&from.base_name())?,
            false => destination.clone(),
        };
        let is_itself = from == to;
        if is_itself || (entry.kind == FileKind::Directory && is_below(&to, &from)) {
            let message = if is_itself { "onto itself" } else { "into itself" };
            return Err(Error::new(ErrorKind::Conflict, format!("`{from}` cannot be copied {message}")));
        }
        // A link that leads nowhere may have the name: a directory cannot be made there, and a file goes through it.
        let target = match there.is_none() && entry.kind == FileKind::Directory {
            true => Target::New,
            false => Target::Unknown,
        };
        items.push(Item::named(Pair { from, entry, to }, target));
    }
    Ok(items)
}

fn machine(source: &Source) -> Option<Machine> {
    match source {
        Source::Files { machine, .. } => Some(machine.clone()),
        Source::Thread { .. } => None,
    }
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

/// Copies everything, and returns when nothing is under way any more. What fails is kept with the work.
fn copy(work: &Work<'_>, client: Option<&Client>, news: Option<News>, shows: bool) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let could_not = |error: std::io::Error| Error::io("could not watch for interrupts", &error);
    let (ended, end) = UnixStream::pair().map_err(could_not)?;
    std::thread::scope(|scope| {
        // The other threads end with the workers, whatever becomes of these.
        let _helpers = Helpers { client, _end: end };
        if let Some(client) = client {
            let reader = client.reader();
            scope.spawn(|| reader.run());
        }
        scope.spawn(|| end_early(work, client, &interrupt, &ended));
        let _drawing = shows.then(|| progress::draw_in(scope, work.progress(), news));
        std::thread::scope(|scope| {
            for _ in 0..work.workers() {
                scope.spawn(|| work.run());
            }
        });
    });
    Ok(())
}

/// What the threads beside the workers live on. Dropped, they end.
struct Helpers<'a> {
    client: Option<&'a Client>,
    _end: UnixStream,
}

impl Drop for Helpers<'_> {
    fn drop(&mut self) {
        self.client.inspect(|client| client.hang_up());
    }
}

/// Has everything end after an interrupt, first with patience. A second one, or the end of patience, ends the process as if
/// nobody had watched.
fn end_early(work: &Work<'_>, client: Option<&Client>, interrupt: &Interrupt, ended: &UnixStream) {
    let mut patience = None;
    let mut has_hung_up = false;
    loop {
        match next_interrupt(interrupt, ended, patience) {
            Next::Ended => return,
            Next::Interrupt if work.is_interrupted() => return end_now(),
            Next::Interrupt => {
                work.interrupt();
                patience = Some(INTERRUPT_PATIENCE);
            }
            Next::NoPatience if has_hung_up => return end_now(),
            Next::NoPatience => {
                client.inspect(|client| client.hang_up());
                has_hung_up = true;
            }
        }
    }
}

/// Ends the process as an interrupt would.
fn end_now() {
    // It cannot fail for this signal; if it did, the copy would go on to its end.
    let _goes_on = signal_hook::low_level::emulate_default_handler(SIGINT);
}

enum Next {
    Interrupt,
    NoPatience,
    Ended,
}

fn next_interrupt(interrupt: &Interrupt, ended: &UnixStream, patience: Option<Duration>) -> Next {
    let timeout = patience.map(|patience| Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    });
    loop {
        let mut watched = [PollFd::new(interrupt, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        match poll(&mut watched, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => return Next::NoPatience,
            Ok(_) if watched[1].revents().is_empty() && interrupt.clear().is_ok() => return Next::Interrupt,
            // Without a watch there is nothing to do here.
            Ok(_) | Err(_) => return Next::Ended,
        }
    }
}

#[cfg(test)]
mod tests;
