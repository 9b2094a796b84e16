//! A process on a machine, with its input and output here.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use wire::api::event::Topic;
use wire::api::file::Content;
use wire::api::id::ProcessId;
use wire::api::machine::Machine;
use wire::api::process::{
    Detach, Outcome, Resize, STDIN_BYTES_IN_FLIGHT_MAX, STREAM_CHUNK_BYTES_MAX, Size, Stdin, Terminal,
};
use wire::api::{ErrorKind, ServerNotification};

use crate::client::Client;
use crate::client::news::News;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::terminal::escape::{EscapeKeys, Wish};
use crate::terminal::replay::Replay;
use crate::terminal::{RawTerminal, size_of};

/// The status when the command could not be run or its own is not known.
pub const NOT_RUN: u8 = 255;

/// What the keys for this program are, in a raw terminal.
const HELP: &str = "\r\n\
Keys at the start of a line:\r\n  \
~.  detach: the command goes on, and `stead attach` goes back to it\r\n  \
~?  this\r\n  \
~~  a tilde\r\n";

/// The terminal that a command is to have, as this one is.
pub fn terminal(context: &Context) -> Terminal {
    let name = context.variable("TERM").and_then(|name| name.into_string().ok());
    Terminal { name: name.unwrap_or_else(|| "dumb".to_owned()), size: size_of(io::stdin()) }
}

/// The size of this terminal; none if the standard input is none.
pub fn own_size() -> Option<Size> {
    rustix::termios::isatty(io::stdin()).then(|| size_of(io::stdin()))
}

/// What becomes of a process when the input here ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// Its own ends too.
    EndInput,
    /// It may get more from somebody else.
    KeepInput,
}

/// A process that runs.
pub struct Conversation {
    /// Which.
    pub process: ProcessId,
    /// Where it runs, if that is known.
    pub machines: Vec<Machine>,
    /// Whether it has a terminal, which this one is to be.
    pub tty: bool,
    /// What the end of the input means.
    pub at_end: AtEnd,
    /// So many bytes of output were written before.
    pub replayed: u64,
}

impl Conversation {
    /// Carries input there and output back until the process has ended or is left to itself, and returns this command's
    /// status.
    pub fn hold(self, client: &Client, context: &mut Context) -> Result<u8> {
        let process = self.process;
        match self.talk(client, context) {
            Ok(Outcome::Detached) => {
                context
                    .output
                    .note(format_args!("note: {process} goes on; `stead attach {process}` has it again"));
                Ok(0)
            }
            ended => said(ended, context),
        }
    }

    fn talk(self, client: &Client, context: &mut Context) -> Result<Outcome> {
        // What fills the screen is not to be written over for what is about something else.
        let topics = if self.tty { &[Topic::Connection][..] } else { &[Topic::Connection, Topic::Mount] };
        let news = News::follow(context, self.machines, topics);
        // Until here the terminal was the user's own: there may have been questions to answer.
        let ends = Ends::of_process(self.tty, self.at_end, self.replayed)?;
        converse(client, self.process, ends, news, &mut context.output)
    }
}

/// The status of a command that ended so, or could not be run.
pub fn said(ended: Result<Outcome>, context: &mut Context) -> Result<u8> {
    match ended {
        Ok(Outcome::Lost { reason }) => {
            Ok(not_run(Error::new(ErrorKind::Failure, format!("the command was lost: {reason}")), context))
        }
        Ok(ended) => Ok(ended.exit_code()),
        Err(error @ Error::OutputClosed) => Err(error),
        Err(error) => Ok(not_run(error, context)),
    }
}

/// Says why, and returns the status that says so too.
pub fn not_run(error: Error, context: &mut Context) -> u8 {
    if let Error::Failed(failure) = &error {
        context.output.failure(failure);
    }
    NOT_RUN
}

/// What is on this side of the command.
struct Ends {
    /// Unbuffered: what a poll says of it holds.
    input: File,
    at_end: AtEnd,
    raw: Option<Raw>,
}

/// A terminal whose keys all go to the command, so that only a signal ends this one.
struct Raw {
    terminal: RawTerminal,
    interrupt: Interrupt,
    keys: EscapeKeys,
    replay: Replay,
}

impl Ends {
    fn of_process(tty: bool, at_end: AtEnd, replayed: u64) -> Result<Ends> {
        let could_not = |error: io::Error| Error::io("could not use the terminal", &error);
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(could_not)?;
        // Where no terminal is to be put back, a signal ends this program as any other.
        let is_raw = tty && rustix::termios::isatty(io::stdin());
        let interrupt = if is_raw { Some(Interrupt::watch()?) } else { None };
        let terminal = if is_raw { RawTerminal::of_input().map_err(could_not)? } else { None };
        let raw = terminal.zip(interrupt).map(|(terminal, interrupt)| Raw {
            terminal,
            interrupt,
            keys: EscapeKeys::default(),
            replay: Replay::of(replayed),
        });
        Ok(Ends { input: File::from(input), at_end, raw })
    }

    /// Prints what the command has written.
    fn print(&mut self, written: &[u8], output: &mut Output) -> Result<()> {
        let Some(raw) = &mut self.raw else { return output.raw(written) };
        let printed = raw.replay.filter(written);
        raw.terminal.screen.note(&printed);
        output.raw(&printed)
    }

    /// What the command has written does not come.
    fn skip(&mut self, bytes: u64) {
        if let Some(raw) = &mut self.raw {
            raw.replay.skip(bytes);
        }
    }

    /// A line for a person, where it does not disturb what fills the screen.
    fn tell(&self, line: &str, output: &mut Output) {
        match &self.raw {
            None => output.note(line),
            // In a raw terminal a new line only moves down.
            Some(raw) if !raw.terminal.screen.is_alternate() => output.note(format_args!("{line}\r")),
            // On the last line, with the cursor and its looks as they were, and cut off: a longer one would scroll.
            Some(_) => {
                let room = usize::from(size_of(io::stdin()).columns).saturating_sub(1);
                let line: String = line.chars().take(room).collect();
                output.aside(format!("\x1b7\x1b[999;1H\x1b[0;7m\x1b[2K{line}\x1b[0m\x1b8").as_bytes());
            }
        }
    }
}

/// Carries input there and output back, until the command ends.
///
/// One thread does both: input is read only while the daemon has room for it, and the daemon never stops reading
/// because of it, so neither side waits for the other.
fn converse(
    client: &Client,
    process: ProcessId,
    mut ends: Ends,
    mut news: Option<News>,
    output: &mut Output,
) -> Result<Outcome> {
    let mut room = STDIN_BYTES_IN_FLIGHT_MAX;
    let mut open = true;
    let mut chunk = vec![0; STREAM_CHUNK_BYTES_MAX / 2];
    let mut redraw = Redraw::default();
    if ends.at_end == AtEnd::KeepInput {
        redraw.begin(client, process, &ends)?;
    }
    loop {
        let told = news.as_mut().map(News::take).unwrap_or_default();
        told.iter().for_each(|line| ends.tell(line, output));
        // While something is wrong, nothing would be drawn.
        let is_well = news.as_ref().is_some_and(|news| !news.is_troubled());
        let is_filled = ends.raw.as_ref().is_some_and(|raw| raw.terminal.screen.is_alternate());
        if is_filled && is_well && !told.is_empty() {
            redraw.begin(client, process, &ends)?;
        }
        redraw.go_on(client, process, &ends)?;
        while let Some(notification) = client.take_notification()? {
            match notification {
                ServerNotification::ProcessStdout(out) if out.process == process => {
                    ends.print(&out.bytes.0, output)?;
                }
                ServerNotification::ProcessStderr(err) if err.process == process => {
                    output.flush()?;
                    output.raw_error(&err.bytes.0)?;
                }
                ServerNotification::ProcessDropped(dropped) if dropped.process == process => {
                    output.flush()?;
                    ends.skip(dropped.bytes);
                    if dropped.unread > 0 {
                        ends.tell(&format!("… {} bytes dropped: nobody read them", dropped.unread), output);
                    }
                }
                ServerNotification::ProcessStays(stays) if stays.process == process => {
                    output.flush()?;
                    ends.tell(&format!("note: {process} cannot be left to itself: {}", stays.reason), output);
                }
                ServerNotification::ProcessStdinTaken(taken) if taken.process == process => {
                    room = (room + taken.bytes).min(STDIN_BYTES_IN_FLIGHT_MAX);
                }
                ServerNotification::ProcessExited(exited) if exited.process == process => {
                    // Before the terminal is made as it was.
                    output.flush()?;
                    return Ok(exited.outcome);
                }
                _ => {}
            }
        }
        output.flush()?;
        // What is typed may grow by a tilde that was held back.
        let wants_input = open && room > 1;
        let ready = wait(client, &ends, news.as_ref(), (wants_input, redraw.left()))?;
        if ready.interrupt {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
        }
        if ready.daemon {
            client.read_ready()?;
        }
        if let Some(raw) = ends.raw.as_ref().filter(|_| ready.resized) {
            client.notify(Resize { process, size: raw.terminal.size() })?;
        }
        if ready.input {
            let most = chunk.len().min(usize::try_from(room - 1).unwrap_or(usize::MAX));
            let count = read(&mut ends.input, &mut chunk[..most])?;
            open = count > 0;
            room -= pass(client, process, &mut ends, &chunk[..count], output)?;
        }
    }
}

/// Passes on what was read; nothing for the end of the input. Returns how much of it was for the command.
fn pass(
    client: &Client,
    process: ProcessId,
    ends: &mut Ends,
    read: &[u8],
    output: &mut Output,
) -> Result<u64> {
    let (passed, wish) = match &mut ends.raw {
        Some(raw) if !read.is_empty() => {
            let mut passed = Vec::with_capacity(read.len() + 1);
            let wish = raw.keys.read(read, &mut passed);
            (passed, wish)
        }
        _ => (read.to_vec(), None),
    };
    let count = passed.len() as u64;
    if count > 0 || (read.is_empty() && ends.at_end == AtEnd::EndInput) {
        client.notify(Stdin { process, bytes: Content(passed) })?;
    }
    match wish {
        Some(Wish::Leave) => client.notify(Detach { process })?,
        Some(Wish::Help) => output.aside(HELP.as_bytes()),
        None => {}
    }
    Ok(count)
}

/// How long a program has to see that the size is another, before it is what it was.
const REDRAW_PAUSE: Duration = Duration::from_millis(150);

/// Has what fills the screen drawn again: a program does that when the size changes, and only when it sees that.
#[derive(Default)]
struct Redraw(Option<Instant>);

impl Redraw {
    fn begin(&mut self, client: &Client, process: ProcessId, ends: &Ends) -> Result<()> {
        let Some(raw) = &ends.raw else { return Ok(()) };
        let size = raw.terminal.size();
        let size = Size { rows: size.rows.saturating_sub(1).max(1), ..size };
        self.0 = Some(Instant::now() + REDRAW_PAUSE);
        client.notify(Resize { process, size })
    }

    fn go_on(&mut self, client: &Client, process: ProcessId, ends: &Ends) -> Result<()> {
        match (&ends.raw, self.left()) {
            (Some(raw), Some(Duration::ZERO)) => {
                self.0 = None;
                client.notify(Resize { process, size: raw.terminal.size() })
            }
            _ => Ok(()),
        }
    }

    /// How long it is until then.
    fn left(&self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

struct Ready {
    daemon: bool,
    input: bool,
    resized: bool,
    interrupt: bool,
}

fn wait(
    client: &Client,
    ends: &Ends,
    news: Option<&News>,
    (wants_input, timeout): (bool, Option<Duration>),
) -> Result<Ready> {
    let mut watched = vec![PollFd::new(client, PollFlags::IN)];
    watched.extend(ends.raw.iter().flat_map(|raw| {
        [
            PollFd::from_borrowed_fd(raw.terminal.resized(), PollFlags::IN),
            PollFd::new(&raw.interrupt, PollFlags::IN),
        ]
    }));
    watched.extend(wants_input.then(|| PollFd::new(&ends.input, PollFlags::IN)));
    // Looked at on the way to the next wait, whatever ended this one.
    watched.extend(news.and_then(News::source).map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN)));
    loop {
        let timeout = timeout.map(|left| Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() });
        match poll(&mut watched, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("could not wait for the command", &errno.into())),
            Ok(_) => break,
        }
    }
    let is_ready = |index: usize| watched.get(index).is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty());
    let terminal = if ends.raw.is_some() { 2 } else { 0 };
    Ok(Ready {
        daemon: is_ready(0),
        resized: terminal > 0 && is_ready(1),
        interrupt: terminal > 0 && is_ready(2),
        input: wants_input && is_ready(terminal + 1),
    })
}

/// A closed standard input is one without content.
fn read(input: &mut impl Read, chunk: &mut [u8]) -> Result<usize> {
    loop {
        match input.read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BADF.raw_os_error()) => {
                return Ok(0);
            }
            Err(error) => return Err(Error::io("could not read the standard input", &error)),
            Ok(count) => return Ok(count),
        }
    }
}
