//! The command line of Unix.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::time::SystemTime;

use wire::api::ErrorKind;
use wire::api::time::Timestamp;

use crate::cmd;
use crate::completion;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::{Format, Output, Sink};
use crate::prompt::Prompter;

/// What the program is to do when the command line is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// End with this code.
    Exit(u8),
    /// Become the daemon: this crate only knows how it is asked for.
    Daemon(Daemon),
}

/// How a daemon is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// Here, until it is interrupted.
    Foreground,
    /// On its own: in a session of its own, with one [announcement](wire::api::daemon::Announcement) on its standard
    /// output.
    Background,
    /// Not at all: only announce what would keep it from running, if that is known before.
    Check,
}

/// Carries out the command line of this process, all but what [`Next`] says.
pub fn main() -> Next {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    run(arguments, &mut Context::of_process(process_output(), Prompter::of_process()))
}

/// Carries out a command line. The first argument is the program's name.
pub fn run(arguments: Vec<OsString>, context: &mut Context) -> Next {
    let outcome = carry_out(arguments, context);
    let outcome = outcome.and_then(|next| context.output.flush().map(|()| next));
    match outcome {
        Ok(next) => next,
        Err(error) => {
            if let Error::Failed(failure) = &error {
                context.output.failure(failure);
            }
            Next::Exit(error.exit_code())
        }
    }
}

fn carry_out(arguments: Vec<OsString>, context: &mut Context) -> Result<Next> {
    if let Some(shell) = context.variable(completion::VARIABLE) {
        let answer = completion::complete(&shell, arguments, context)?;
        return context.output.raw(&answer).map(|()| Next::Exit(0));
    }
    // Where the arguments cannot be read, the wish for JSON can still be seen.
    let wants_json =
        arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    let set_format = |wants_json: bool, context: &mut Context| {
        context.output.set_format(if wants_json { Format::Json } else { Format::Text });
    };
    set_format(wants_json, context);
    match cmd::parse(arguments)? {
        cmd::Parsed::Command { command, json } => {
            set_format(json, context);
            command.run(context)
        }
        cmd::Parsed::Help(text) => {
            context.output.raw(text.as_bytes())?;
            Ok(Next::Exit(0))
        }
        cmd::Parsed::HelpWanted(text) => {
            context.output.aside(text.as_bytes());
            Ok(Next::Exit(ErrorKind::Usage.exit_code()))
        }
    }
}

fn process_output() -> Output {
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    let sink = |is_terminal: bool| match (is_terminal, colours) {
        (true, true) => Sink::Colours,
        (true, false) => Sink::Terminal,
        (false, _) => Sink::Stream,
    };
    let out_sink = sink(std::io::stdout().is_terminal());
    let err_sink = sink(std::io::stderr().is_terminal());
    Output::new(
        (Box::new(std::io::BufWriter::new(std::io::stdout())), out_sink),
        (Box::new(std::io::stderr()), err_sink),
        || Timestamp::from(SystemTime::now()),
    )
}
