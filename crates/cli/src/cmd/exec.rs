//! `stead exec`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap_complete::engine::ArgValueCompleter;
use wire::api::ErrorKind;
use wire::api::process::{Run, Started};
use wire::bytestring::ByteString;

use crate::completion;
use crate::context::Context;
use crate::conversation::{AtEnd, Conversation, said, terminal};
use crate::error::{Error, Result};

/// Run a command on a machine.
///
/// Its input, output and error output are those of this command, and so is its exit status; 255 when it could not be
/// run. It is not passed through a shell: for a pipe or a wildcard, run `sh -c '...'`. When this command ends first,
/// so does the one on the machine.
///
/// With -t the command has a terminal of the size of this one, and gets every key as it is, interrupts too. Its error
/// output is then part of its output. `~.` at the start of a line detaches, `~?` says so.
///
/// With --detach it is left to itself from the beginning: it goes on without this command, without the connection and
/// without the daemon, and its id is printed. `stead attach` has its output, which is kept up to a megabyte, and its
/// input; `stead ps` says how it goes, and `stead kill` ends it.
///
/// What was written through mounts of that machine is saved before the command starts.
///
/// With --json what the command prints is passed on all the same. Only that it could not be run is JSON, on the standard output,
/// and so is the id with --detach.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead exec ssh://box -- uname -a
  stead exec box --cwd src -- git status
  stead exec -t box -- vi notes
  stead exec box --detach -- make -j8
  tar c . | stead exec box -- tar x -C /srv")]
pub struct Args {
    /// Where
    #[arg(add = ArgValueCompleter::new(completion::machines))]
    machine: OsString,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Leave the command to itself, and print its id
    #[arg(long, short)]
    detach: bool,
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
    let hint = for_a_shell(&args.machine, &args.command);
    let request = Run {
        machine: context.machine(&args.machine)?,
        command: args.command.into_iter().map(ByteString::from).collect(),
        cwd: args.cwd.map(ByteString::from),
        environment: args.env.iter().map(|text| variable(text)).collect::<Result<_>>()?,
        terminal: args.tty.then(|| terminal(context)),
        detached: args.detach,
        caller: context.caller(),
    };
    start(request, hint, context)
}

/// What was meant where a whole command line is the name of a program.
fn for_a_shell(machine: &OsStr, command: &[OsString]) -> Option<String> {
    match command {
        [line] if line.as_bytes().contains(&b' ') => {
            let machine = machine.display();
            Some(format!(
                "give each word by itself, or a line to a shell: stead exec {machine} -- sh -c '...'"
            ))
        }
        _ => None,
    }
}

/// Starts a command and, unless it is detached, stays with it. Returns its status. `hint` is given if there is no such
/// program.
pub fn start(request: Run, hint: Option<String>, context: &mut Context) -> Result<u8> {
    let (machines, tty) = (vec![request.machine.clone()], request.terminal.is_some());
    let is_detached = request.detached;
    let begun = context.daemon().and_then(|client| {
        let started = client.call(request)?;
        Ok((client, started))
    });
    let (client, started) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let error = match hint {
                Some(hint) => error.hint_if(ErrorKind::NotFound, || hint),
                None => error,
            };
            return said(Err(error), context);
        }
    };
    if let Some(note) = &started.note {
        context.output.note(format_args!("note: {note}"));
    }
    if is_detached {
        return print(&started, context).map(|()| 0);
    }
    let process = started.process;
    Conversation { process, machines, tty, at_end: AtEnd::EndInput, replayed: 0 }.hold(&client, context)
}

fn print(started: &Started, context: &mut Context) -> Result<()> {
    match context.output.is_json() {
        true => context.output.document(started),
        false => context.output.line(started.process),
    }
}

fn variable(text: &OsStr) -> Result<(ByteString, ByteString)> {
    let bytes = text.as_bytes();
    match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) if at > 0 => Ok((bytes[..at].into(), bytes[at + 1..].into())),
        _ => Err(Error::usage(format_args!("`{}` is not KEY=VALUE", ByteString::from(bytes)))),
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
