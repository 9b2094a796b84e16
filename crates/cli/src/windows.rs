//! The command line of Windows: the commands that the daemon there answers, with the words, the output and the exit codes that they
//! have elsewhere. It is checked, and has never been run on a real Windows.
//!
//! It starts no daemon: `stead daemon run` does, in a window or a task of its own.

mod client;

use std::ffi::OsString;
use std::path::Path;
use std::time::SystemTime;

use clap::Parser;
use clap::error::ErrorKind as ClapErrorKind;
use serde::Serialize;
use wire::api::daemon::{self, Stopped};
use wire::api::machine::{Caller, Source};
use wire::api::mount::{Backend, Create, Force, Remove, Removed, Target};
use wire::api::time::Timestamp;
use wire::api::{ErrorKind, status};
use wire::bytestring::ByteString;
use wire::paths::Paths;

use crate::error::{Error, Result};
use crate::output::{Format, Output, Sink};
use client::Client;

/// What the program is to do when the command line is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// End with this code.
    Exit(u8),
    /// Become the daemon: this crate only knows how it is asked for.
    Daemon(Paths),
}

/// Far machines' directories as directories of Windows, whose files are fetched when they are read.
#[derive(Debug, Parser)]
#[command(name = "stead", version)]
struct Arguments {
    /// Print one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show a machine's files as a directory here
    Mount {
        /// What to show: ssh://MACHINE/PATH or USER@HOST:PATH
        source: String,
        /// Where, on NTFS: an empty directory, or a new name in a directory that exists
        dir: OsString,
        /// How to serve it
        #[arg(long, value_name = "BACKEND", default_value = "auto")]
        backend: Backend,
    },
    /// Take a mount away, once all that was changed here is on the machine: what was fetched of its files stays
    Unmount {
        /// Which one: its id (`m1`) or its directory
        #[arg(value_name = "ID|DIR", required_unless_present = "all", conflicts_with = "all")]
        target: Option<OsString>,
        /// All of them
        #[arg(long)]
        all: bool,
        /// Also if what was changed here is not on the machine: it stays here, and is listed
        #[arg(long)]
        force: bool,
    },
    /// Show the mounts
    Status,
    /// Run and stop the daemon
    Daemon {
        #[command(subcommand)]
        command: DaemonCommand,
    },
}

#[derive(Debug, clap::Subcommand)]
enum DaemonCommand {
    /// Run the daemon in the foreground, until interrupted
    Run,
    /// Show its process and its files
    Status,
    /// Take all mounts away, and end it
    Stop {
        /// Leave the mounts to the next daemon
        #[arg(long)]
        keep_mounts: bool,
        /// Also if what was changed here is not on the machines: it stays here, and is listed
        #[arg(long, conflicts_with = "keep_mounts")]
        force: bool,
    },
}

/// Carries out the command line of this process, all but what [`Next`] says.
pub fn main() -> Next {
    let mut output = Output::new(
        (Box::new(std::io::stdout()), Sink::Stream),
        (Box::new(std::io::stderr()), Sink::Stream),
        || Timestamp::from(SystemTime::now()),
    );
    // Where the arguments cannot be read, the wish for JSON can still be seen.
    let wants_json =
        std::env::args_os().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    set_format(wants_json, &mut output);
    let outcome = carry_out(&mut output).and_then(|next| output.flush().map(|()| next));
    outcome.unwrap_or_else(|error| {
        if let Error::Failed(failure) = &error {
            output.failure(failure);
        }
        Next::Exit(error.exit_code())
    })
}

fn set_format(wants_json: bool, output: &mut Output) {
    output.set_format(if wants_json { Format::Json } else { Format::Text });
}

fn carry_out(output: &mut Output) -> Result<Next> {
    let Arguments { command, json } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) if !told.use_stderr() => {
            output.raw(told.to_string().as_bytes())?;
            return Ok(Next::Exit(0));
        }
        Err(told) if told.kind() == ClapErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output.aside(told.to_string().as_bytes());
            return Ok(Next::Exit(ErrorKind::Usage.exit_code()));
        }
        Err(error) => return Err(Error::usage(said(&error)).hint("stead --help")),
    };
    set_format(json, output);
    let paths = Paths::new(|name| std::env::var_os(name)).map_err(Error::usage)?;
    let connect = || Client::connect(&paths.pipe());
    match command {
        Command::Mount { source, dir, backend } => {
            let source = Source::parse_absolute(source.as_bytes()).map_err(Error::usage)?;
            let create = Create { backend, ..Create::new(source, Some(absolute(&dir)?), Caller::default()) };
            let mount = connect()?.call(create)?;
            print(output, &mount, |mount| format!("{}  {}\n", mount.id, mount.dir))?;
        }
        Command::Unmount { target, all: _, force } => {
            let target = match target {
                None => Target::All,
                Some(text) => match text.to_str().and_then(|text| text.parse().ok()) {
                    Some(id) => Target::Id(id),
                    None => Target::Dir(absolute(&text)?),
                },
            };
            let removed = connect()?.call(Remove { target, force: forced(force) })?;
            print(output, &removed, |Removed { mounts }| {
                mounts
                    .iter()
                    .map(|mount| format!("{}  {}\n{}", mount.id, mount.dir, unsent(&mount.kept_aside)))
                    .collect()
            })?;
        }
        Command::Status => {
            let document = connect()?.call(status::Get {})?;
            print(output, &document, |document| document.mounts.iter().map(line).collect())?;
        }
        Command::Daemon { command: DaemonCommand::Run } => return Ok(Next::Daemon(paths)),
        Command::Daemon { command: DaemonCommand::Status } => {
            let about = connect()?.call(daemon::Status {})?;
            print(output, &about, |about| {
                format!("pid     {}\nversion {}\nstate   {}\n", about.pid, about.version, about.state_dir)
            })?;
        }
        Command::Daemon { command: DaemonCommand::Stop { keep_mounts, force } } => {
            let mounts = if keep_mounts { daemon::Fate::Left } else { daemon::Fate::Unmounted };
            let stopped = connect()?.call(daemon::Stop { force: forced(force), mounts })?;
            print(output, &stopped, |Stopped { pid, kept_aside }| {
                format!("{}the daemon has ended (pid {pid})\n", unsent(kept_aside))
            })?;
        }
    }
    Ok(Next::Exit(0))
}

fn forced(force: bool) -> Force {
    if force { Force::Always } else { Force::Never }
}

fn unsent(paths: &[ByteString]) -> String {
    paths.iter().map(|path| format!("not on the machine: {path}\n")).collect()
}

fn line(mount: &status::Mount) -> String {
    let state = match &mount.status {
        status::MountStatus::Active => "active".to_owned(),
        status::MountStatus::Reconnecting => "reconnecting".to_owned(),
        status::MountStatus::Disconnected => {
            format!("disconnected: {}", mount.reason.as_deref().unwrap_or("the machine is not reached"))
        }
        status::MountStatus::Failed { reason } => format!("failed: {reason}"),
    };
    // What machines and their programs say moves nobody's cursor.
    let state = ByteString::from(state.as_str());
    format!("{}  {}  {}  {}  {state}\n", mount.id, mount.source, mount.dir, mount.backend)
}

fn print<T: Serialize>(output: &mut Output, value: &T, text: impl Fn(&T) -> String) -> Result<()> {
    match output.is_json() {
        true => output.document(value),
        false => output.raw(text(value).as_bytes()),
    }
}

/// What is wrong with the arguments, as one line, without how they should be.
fn said(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.split("\n\n").next().unwrap_or_default();
    said.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The daemon has another directory.
fn absolute(dir: &OsString) -> Result<ByteString> {
    let shown = Path::new(dir).display();
    let path = std::path::absolute(dir).map_err(|error| Error::usage(format!("`{shown}`: {error}")))?;
    let path = path.into_os_string().into_string();
    path.map(ByteString::from)
        .map_err(|_| Error::usage(format!("`{shown}` is not text, and cannot be mounted")))
}
