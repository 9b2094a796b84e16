//! `stead exec`

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::event::{PollFd, PollFlags, poll};
use wire::api::ServerNotification;
use wire::api::file::Content;
use wire::api::id::ProcessId;
use wire::api::process::{Outcome, Run, STDIN_BYTES_IN_FLIGHT_MAX, STREAM_CHUNK_BYTES_MAX, Stdin};
use wire::bytestring::ByteString;

use crate::client::Client;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::Output;

/// The status when the command could not be run or its own is not known.
const NOT_RUN: u8 = 255;

/// Run a command on a machine.
///
/// Its input, output and error output are those of this command, and so is its exit status; 255 when it could not be
/// run. It is not passed through a shell: for a pipe or a wildcard, run `sh -c '...'`. When this command ends first,
/// so does the one on the machine.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead exec ssh://box -- uname -a
  stead exec box --cwd src -- git status
  tar c . | stead exec box -- tar x -C /srv")]
pub struct Args {
    /// Where
    machine: OsString,
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
        terminal: None,
        caller: context.caller(),
    };
    let outcome = context.daemon().and_then(|mut client| {
        let process = client.call(request)?.process;
        converse(&mut client, process, io::stdin(), &mut context.output)
    });
    match outcome {
        Ok(Outcome::Lost { reason }) => Ok(not_run(
            Error::new(wire::api::ErrorKind::Failure, format!("the command was lost: {reason}")),
            context,
        )),
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

/// Where this command's own input comes from.
trait Input: Read + AsFd {}
impl<T: Read + AsFd> Input for T {}

/// Carries input there and output back, until the command ends.
///
/// One thread does both: input is read only while the daemon has room for it, and the daemon never stops reading
/// because of it, so neither side waits for the other.
fn converse(
    client: &mut Client,
    process: ProcessId,
    mut input: impl Input,
    output: &mut Output,
) -> Result<Outcome> {
    let mut room = STDIN_BYTES_IN_FLIGHT_MAX;
    let mut open = true;
    let mut chunk = vec![0; STREAM_CHUNK_BYTES_MAX];
    loop {
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
        let ready = wait(client, wants_input.then_some(&input))?;
        if ready.daemon {
            client.read_ready()?;
        }
        if ready.input {
            let most = chunk.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let count = read(&mut input, &mut chunk[..most])?;
            open = count > 0;
            room -= count as u64;
            client.notify(Stdin { process, bytes: Content(chunk[..count].to_vec()) })?;
        }
    }
}

struct Ready {
    daemon: bool,
    input: bool,
}

fn wait(client: &Client, input: Option<&impl Input>) -> Result<Ready> {
    let mut watched = vec![PollFd::new(client, PollFlags::IN)];
    watched.extend(input.map(|input| PollFd::new(input, PollFlags::IN)));
    loop {
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("could not wait for the command", &errno.into())),
            Ok(_) => break,
        }
    }
    let is_ready = |index: usize| watched.get(index).is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty());
    Ok(Ready { daemon: is_ready(0), input: is_ready(1) })
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
