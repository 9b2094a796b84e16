//! `stead exec`

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::event::{PollFd, PollFlags, poll};
use wire::api::event::Topic;
use wire::api::file::Content;
use wire::api::id::ProcessId;
use wire::api::process::{
    Outcome, Resize, Run, STDIN_BYTES_IN_FLIGHT_MAX, STREAM_CHUNK_BYTES_MAX, Stdin, Terminal,
};
use wire::api::{ErrorKind, ServerNotification};
use wire::bytestring::ByteString;

use crate::client::Client;
use crate::client::news::News;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::terminal::{RawTerminal, size_of};

/// The status when the command could not be run or its own is not known.
const NOT_RUN: u8 = 255;

/// Run a command on a machine.
///
/// Its input, output and error output are those of this command, and so is its exit status; 255 when it could not be
/// run. It is not passed through a shell: for a pipe or a wildcard, run `sh -c '...'`. When this command ends first,
/// so does the one on the machine.
///
/// With -t the command has a terminal of the size of this one, and gets every key as it is, interrupts too. Its error
/// output is then part of its output.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead exec ssh://box -- uname -a
  stead exec box --cwd src -- git status
  stead exec -t box -- vi notes
  tar c . | stead exec box -- tar x -C /srv")]
pub struct Args {
    /// Where
    machine: OsString,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The directory to start in [default: the home directory]
    #[arg(long, value_name = "DIR")]
    cwd: Option<OsString>,
    /// Set a variable; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<OsString>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Carries it out, and returns the command's own status.
pub fn run(args: Args, context: &mut Context) -> Result<u8> {
    let request = Run {
        machine: context.machine(&args.machine)?,
        command: args.command.into_iter().map(ByteString::from).collect(),
        cwd: args.cwd.map(ByteString::from),
        environment: args.env.iter().map(|text| variable(text)).collect::<Result<_>>()?,
        terminal: args.tty.then(|| terminal(context)),
        caller: context.caller(),
    };
    let machines = vec![request.machine.clone()];
    let outcome = context.daemon().and_then(|client| {
        let process = client.call(request)?.process;
        // What fills the screen is not to be written over for what is about something else.
        let topics = if args.tty { &[Topic::Connection][..] } else { &[Topic::Connection, Topic::Mount] };
        let news = News::follow(context, machines, topics);
        // Until here the terminal was the user's own: there may have been questions to answer.
        let ends = Ends::of_process(args.tty)?;
        converse(&client, process, ends, news, &mut context.output)
    });
    match outcome {
        Ok(Outcome::Lost { reason }) => {
            Ok(not_run(Error::new(ErrorKind::Failure, format!("the command was lost: {reason}")), context))
        }
        Ok(ended) => Ok(ended.exit_code()),
        Err(error @ Error::OutputClosed) => Err(error),
        Err(error) => Ok(not_run(error, context)),
    }
}

/// Says why, and returns the status that says so too.
fn not_run(error: Error, context: &mut Context) -> u8 {
    if let Error::Failed(failure) = &error {
        context.output.failure(failure);
    }
    NOT_RUN
}

fn variable(text: &OsStr) -> Result<(ByteString, ByteString)> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) if at > 0 => Ok((bytes[..at].into(), bytes[at + 1..].into())),
        _ => Err(Error::usage(format_args!("`{}` is not KEY=VALUE", ByteString::from(bytes)))),
    }
}

fn terminal(context: &Context) -> Terminal {
    let name = context.variable("TERM").and_then(|name| name.into_string().ok());
    Terminal { name: name.unwrap_or_else(|| "dumb".to_owned()), size: size_of(io::stdin()) }
}

/// What is on this side of the command.
struct Ends {
    /// Unbuffered: what a poll says of it holds.
    input: File,
    raw: Option<Raw>,
}

/// A terminal whose keys all go to the command, so that only a signal ends this one.
struct Raw {
    terminal: RawTerminal,
    interrupt: Interrupt,
}

impl Ends {
    fn of_process(tty: bool) -> Result<Ends> {
        let could_not = |error: io::Error| Error::io("could not use the terminal", &error);
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(could_not)?;
        let terminal = if tty { RawTerminal::of_input().map_err(could_not)? } else { None };
        let raw = match terminal {
            Some(terminal) => Some(Raw { terminal, interrupt: Interrupt::watch()? }),
            None => None,
        };
        Ok(Ends { input: File::from(input), raw })
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
    let mut chunk = vec![0; STREAM_CHUNK_BYTES_MAX];
    loop {
        for line in news.iter_mut().flat_map(News::take) {
            // In a raw terminal a new line only moves down.
            let end = if ends.raw.is_some() { "\r" } else { "" };
            output.note(format_args!("{line}{end}"));
        }
        while let Some(notification) = client.take_notification()? {
            match notification {
                ServerNotification::ProcessStdout(out) if out.process == process => {
                    output.raw(&out.bytes.0)?
                }
                ServerNotification::ProcessStderr(err) if err.process == process => {
                    output.flush()?;
                    output.raw_error(&err.bytes.0)?;
                }
                ServerNotification::ProcessStdinTaken(taken) if taken.process == process => {
                    room = (room + taken.bytes).min(STDIN_BYTES_IN_FLIGHT_MAX);
                }
                ServerNotification::ProcessExited(exited) if exited.process == process => {
                    return Ok(exited.outcome);
                }
                _ => {}
            }
        }
        output.flush()?;
        let wants_input = open && room > 0;
        let ready = wait(client, &ends, news.as_ref(), wants_input)?;
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
            let most = chunk.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let count = read(&mut ends.input, &mut chunk[..most])?;
            open = count > 0;
            room -= count as u64;
            client.notify(Stdin { process, bytes: Content(chunk[..count].to_vec()) })?;
        }
    }
}

struct Ready {
    daemon: bool,
    input: bool,
    resized: bool,
    interrupt: bool,
}

fn wait(client: &Client, ends: &Ends, news: Option<&News>, wants_input: bool) -> Result<Ready> {
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
        match poll(&mut watched, None) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name_and_may_be_empty() {
        assert_eq!(variable(OsStr::new("A=b=c")).unwrap(), ("A".into(), "b=c".into()));
        assert_eq!(variable(OsStr::new("A=")).unwrap(), ("A".into(), "".into()));
        assert!(variable(OsStr::new("A")).is_err());
        assert!(variable(OsStr::new("=b")).is_err());
    }
}
