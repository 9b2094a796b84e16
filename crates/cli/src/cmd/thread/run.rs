//! `stead thread run`

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use wire::api::ErrorKind;
use wire::api::mount::Force;
use wire::api::thread::{Capture, Drop, MESSAGE_BYTES_MAX};
use wire::bytestring::ByteString;

use super::NewArgs;
use crate::context::Context;
use crate::conversation::not_run;
use crate::error::{Error, Result};

/// Make a thread, run a command in it, and keep what it did if that went well.
///
/// The command runs in the thread's directory, with the input, output and error output of this one. If it exits with 0, what it has
/// changed is captured, and the thread stays; else the thread is dropped with all that is in it. This command exits as that one does;
/// 255 when it could not be run, or what it did could not be captured, and then the thread stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead thread run try -- make test
  stead thread run bump --from main -m 'Bump all' -- cargo update")]
pub struct RunArgs {
    #[command(flatten)]
    new: NewArgs,
    /// The message of the capture [default: the command]
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Carries it out, and returns the command's own status.
pub fn run(args: RunArgs, context: &mut Context) -> Result<u8> {
    match run_in_thread(args, context) {
        Ok(code) => Ok(code),
        Err(error @ Error::OutputClosed) => Err(error),
        Err(Error::Failed(failure)) if failure.kind == ErrorKind::Interrupted => Err(Error::Failed(failure)),
        Err(error) => Ok(not_run(error, context)),
    }
}

fn run_in_thread(args: RunArgs, context: &mut Context) -> Result<u8> {
    let RunArgs { new, message, command } = args;
    let message = message.unwrap_or_else(|| message_of(&command));
    // From here on an interrupt is the command's.
    let could_not = |error: std::io::Error| Error::io("could not watch for signals", &error);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD]).map_err(could_not)?;
    let name = new.name.clone();
    let thread = context.daemon()?.call(new.request(context))?;
    // Each asks the daemon that there is by then.
    let drop = Drop { name: name.clone(), force: Force::Always };
    // Who did not want it any more while there was no command yet.
    if signals.pending().any(|signal| signal != SIGCHLD) {
        context.daemon()?.call(drop)?;
        return Err(Error::new(ErrorKind::Interrupted, "interrupted before the command began"));
    }
    let mut program = std::process::Command::new(&command[0]);
    program.args(&command[1..]).current_dir(thread.dir.as_path());
    let ended = match program.spawn() {
        Ok(child) => wait(child, signals),
        Err(error) => {
            context.daemon()?.call(drop)?;
            let program = ByteString::from(command[0].clone());
            return Err(Error::io(format_args!("could not run `{program}`"), &error));
        }
    };
    let ended = ended.map_err(|error| Error::io("could not wait for the command", &error))?;
    if !ended.success() {
        context.daemon()?.call(drop)?;
        context.output.note(format_args!("note: {}, and the thread `{name}` was dropped", said(ended)));
        return Ok(code(ended));
    }
    let capture = Capture { name: name.clone(), message, agent: None, tool: None, if_changed: true };
    let captured = context.daemon()?.call(capture)?;
    match captured.commit == captured.parent {
        true => context.output.note(format_args!("note: nothing was changed in the thread `{name}`")),
        false => {
            context.output.note(format_args!("note: captured in the thread `{name}`: {}", captured.commit));
        }
    }
    Ok(0)
}

/// Waits until the command has ended. Who wants this command to end wants that one to; the keyboard tells both.
fn wait(mut child: Child, mut signals: Signals) -> std::io::Result<ExitStatus> {
    let pid = Pid::from_child(&child);
    // It may have ended before anybody listened.
    if let Some(ended) = child.try_wait()? {
        return Ok(ended);
    }
    for signal in signals.forever() {
        let passed_on = match signal {
            SIGTERM => Some(Signal::TERM),
            SIGHUP => Some(Signal::HUP),
            _ => None,
        };
        if let Some(ended) = child.try_wait()? {
            return Ok(ended);
        }
        if let Some(signal) = passed_on {
            // It is not waited for yet, so nobody else has its number.
            kill_process(pid, signal)?;
        }
    }
    child.wait()
}

/// As a shell has it.
fn code(ended: ExitStatus) -> u8 {
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

fn said(ended: ExitStatus) -> String {
    match ended.code() {
        Some(code) => format!("the command exited with {code}"),
        None => "the command was killed".to_owned(),
    }
}

/// What it was, on one line.
fn message_of(command: &[OsString]) -> String {
    let words: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut message = words.join(" ").replace(|c: char| c.is_control(), " ");
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    if message.trim().is_empty() { "a command".to_owned() } else { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_its_message_on_one_line() {
        let words = |words: &[&str]| message_of(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(words(&["sh", "-c", "a\nb"]), "sh -c a b");
        assert_eq!(words(&[""]), "a command");
        assert!(words(&[&"ä".repeat(MESSAGE_BYTES_MAX)]).len() <= MESSAGE_BYTES_MAX);
    }

    #[test]
    fn a_command_that_was_killed_has_the_code_of_its_signal() {
        assert_eq!(code(ExitStatus::from_raw(15)), 143);
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
    }
}
