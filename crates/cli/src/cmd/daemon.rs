//! `stead daemon`

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process;
use std::time::Duration;

use clap::Subcommand;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use wire::api::daemon::{DaemonStatus, Fate, Status, Stop, Stopped};
use wire::api::id::MountId;
use wire::api::mount::Force;
use wire::api::status::{Mount, Tunnel};
use wire::api::{ErrorKind, tunnel};
use wire::bytestring::ByteString;

use crate::client::{Client, start};
use crate::config::DAEMON_VARIABLES;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::Output;
use crate::output::text::{age, bytes};
use crate::{Daemon, Next, system};

/// How long a daemon that has said it stops may take to end. All that is left for it is to close files.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// The log in a mount's directory.
const WORKER_LOG: &str = "worker.log";

/// How much of the log is looked at for the last lines.
const TAIL_BYTES_MAX: u64 = 4 << 20;

/// Run, start and stop the daemon.
///
/// Commands start it by themselves. Its state and its log are under ~/.local/state/stead (root: /var/lib/stead), or
/// under STEAD_HOME.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground, until interrupted
    Run {
        /// In a session of its own, saying on the standard output when it is ready
        #[arg(long, hide = true)]
        background: bool,
        /// Only say whether it could read what it is told
        #[arg(long, hide = true, conflicts_with = "background")]
        check: bool,
    },
    /// Start it unless it runs
    Start,
    /// Save what is unsaved, unmount everything, and end it
    Stop {
        /// Unmount even what is in use, give up on what cannot be saved at once, and say what was kept aside
        #[arg(long, short)]
        force: bool,
    },
    /// End it and start it again, as after an upgrade
    ///
    /// Mounts, vms and detached processes go on meanwhile, and after it. Tunnels are closed, and it is said how to open them again.
    Restart,
    /// Show its process, its files and its memory; exits with 3 when it does not run
    Status,
    /// Print the end of its log, or of that of a mount
    Logs {
        /// That of the process that serves this mount (`m1`)
        #[arg(long, value_name = "ID")]
        mount: Option<MountId>,
        /// How many lines
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
        lines: usize,
        /// Go on as the log grows, until interrupted
        #[arg(short, long)]
        follow: bool,
    },
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<Next> {
    let done = |()| Next::Exit(0);
    match args.command {
        Command::Run { background, check } => {
            let how = match (background, check) {
                (true, _) => Daemon::Background,
                (_, true) => Daemon::Check,
                _ => Daemon::Foreground,
            };
            be_configured(how, context)?;
            Ok(Next::Daemon(how))
        }
        Command::Start => start(context).map(done),
        Command::Stop { force } => stop(context, forced(force)).map(done),
        Command::Restart => restart(context).map(done),
        Command::Status => status(context).map(Next::Exit),
        Command::Logs { mount, lines, follow } => logs(context, mount, lines, follow).map(done),
    }
}

fn forced(force: bool) -> Force {
    if force { Force::Always } else { Force::Never }
}

/// Has what the configuration says in the environment, where a daemon looks for it: this process starts over with it,
/// unless there is nothing to add.
fn be_configured(how: Daemon, context: &Context) -> Result<()> {
    let config = context.config()?;
    let unset = DAEMON_VARIABLES.iter().filter(|name| context.variable(name).is_none());
    let added: Vec<_> = unset.filter_map(|name| Some((name, config.variable(name)?))).collect();
    if added.is_empty() {
        return Ok(());
    }
    let mut again = process::Command::new(&context.program);
    let how = match how {
        Daemon::Foreground => None,
        Daemon::Background => Some("--background"),
        Daemon::Check => Some("--check"),
    };
    again.args(["daemon", "run"]).args(how).envs(added);
    let error = again.exec();
    Err(Error::io(format_args!("could not start `{}` again", context.program.display()), &error))
}

fn start(context: &mut Context) -> Result<()> {
    let started = start::start(context, &context.paths()?)?;
    let status = context.daemon()?.call(Status {})?;
    if context.output.is_json() {
        return context.output.document(&status);
    }
    let word = if started { "started" } else { "runs already" };
    context.output.line(format_args!("the daemon {word}: process {}", status.pid))
}

/// What became of a daemon, in JSON.
#[derive(Debug, Serialize)]
struct Ended {
    pid: Option<u32>,
    kept_aside: Vec<ByteString>,
}

fn stop(context: &mut Context, force: Force) -> Result<()> {
    let stopped = end(context, force, Fate::Unmounted)?;
    if context.output.is_json() {
        let ended = match stopped {
            Some(stopped) => Ended { pid: Some(stopped.pid), kept_aside: stopped.kept_aside },
            None => Ended { pid: None, kept_aside: Vec::new() },
        };
        return context.output.document(&ended);
    }
    let Some(stopped) = stopped else {
        return context.output.line("the daemon does not run");
    };
    context.output.line(format_args!("the daemon stopped: process {}", stopped.pid))?;
    let kept_aside = &stopped.kept_aside;
    kept_aside
        .iter()
        .try_for_each(|path| context.output.line(format_args!("not saved on the machine, kept in {path}")))
}

fn restart(context: &mut Context) -> Result<()> {
    // The one that runs stays, if the next could not begin.
    start::check(context)?;
    let tunnels = tunnels(context);
    if let Some(stopped) = end(context, Force::Never, Fate::Left)? {
        for path in &stopped.kept_aside {
            context.output.note(format_args!("not saved on the machine, kept in {path}"));
        }
        for tunnel in &tunnels {
            let (id, again) = (tunnel.id, super::tunnel::command(tunnel));
            context.output.note(format_args!("note: tunnel {id} is closed; to open it again: {again}"));
        }
    }
    start(context)
}

/// The tunnels of the daemon that runs, which end with it. A daemon of another version may not tell.
fn tunnels(context: &Context) -> Vec<Tunnel> {
    let client = context.running_daemon().ok().flatten();
    let listed = client.and_then(|client| client.call(tunnel::List {}).ok());
    listed.map(|listed| listed.tunnels).unwrap_or_default()
}

/// Ends the daemon and waits until it is gone. None when there was none.
///
/// No version is agreed on: a daemon of another version is the one most in need of an end.
fn end(context: &mut Context, force: Force, mounts: Fate) -> Result<Option<Stopped>> {
    let Some(client) = Client::connect(&context.paths()?, context.prompter)? else {
        return Ok(None);
    };
    let Some(pid) = client.peer() else {
        return Err(Error::new(ErrorKind::Failure, "could not tell which process the daemon is"));
    };
    // Taken before the request: afterwards the number could be another process's.
    let its_end = system::end_of(pid)
        .map_err(|error| Error::io(format_args!("could not watch the daemon (process {pid})"), &error))?;
    // Mounts that are left to the next daemon are waited for by nobody.
    let goes = |_: &Mount| mounts == Fate::Unmounted;
    let stopped = match super::saving::call(&client, Stop { force, mounts }, goes, &mut context.output) {
        Ok(stopped) => stopped,
        Err(Error::Failed(failure)) if failure.kind == ErrorKind::Usage => {
            // It does not know this request. Every daemon knows the signal.
            terminate(pid)?;
            Stopped { pid: pid.as_raw_nonzero().get().unsigned_abs(), kept_aside: Vec::new() }
        }
        Err(error) => return Err(error),
    };
    let timeout =
        rustix::time::Timespec { tv_sec: END_DEADLINE.as_secs().try_into().unwrap_or(10), tv_nsec: 0 };
    match poll(&mut [PollFd::new(&its_end, PollFlags::IN)], Some(&timeout)) {
        Ok(1) => Ok(Some(stopped)),
        Ok(_) => {
            let message = format!("the daemon said that it stops, and process {pid} still runs");
            Err(Error::new(ErrorKind::TimedOut, message).hint(format!("kill {pid}")))
        }
        Err(errno) => Err(Error::io("could not wait for the daemon's end", &errno.into())),
    }
}

fn terminate(pid: Pid) -> Result<()> {
    kill_process(pid, Signal::TERM)
        .map_err(|errno| Error::io(format_args!("could not end the daemon (process {pid})"), &errno.into()))
}

/// The answer of `daemon status`, in JSON.
#[derive(Debug, Serialize)]
struct Running {
    running: bool,
    #[serde(flatten)]
    status: Option<DaemonStatus>,
}

/// Shows it, and returns the exit code: that of something not found when there is none.
fn status(context: &mut Context) -> Result<u8> {
    let status = context.running_daemon()?.map(|client| client.call(Status {})).transpose()?;
    let code = if status.is_some() { 0 } else { ErrorKind::NotFound.exit_code() };
    if context.output.is_json() {
        context.output.document(&Running { running: status.is_some(), status })?;
        return Ok(code);
    }
    let Some(status) = status else {
        context.output.line("the daemon does not run; it starts when a command needs it")?;
        return Ok(code);
    };
    let rows = [
        ("process", status.pid.to_string()),
        ("version", crate::output::text::one_line(&status.version)),
        ("started", age(context.output.now(), status.since)),
        ("mounts", status.mounts.to_string()),
        ("memory", bytes(status.resident_bytes)),
        ("state", status.state_dir.to_string()),
        ("sockets", status.runtime_dir.to_string()),
        ("log", status.log.to_string()),
    ];
    for (name, value) in rows {
        context.output.line(format_args!("{name:<8} {value}"))?;
    }
    Ok(code)
}

fn logs(context: &mut Context, mount: Option<MountId>, lines: usize, follow: bool) -> Result<()> {
    let paths = context.paths()?;
    let path = match mount {
        Some(id) => paths.mount_state_dir(id).join(WORKER_LOG),
        None => paths.log(),
    };
    let could_not =
        |error: std::io::Error| Error::io(format_args!("could not read `{}`", path.display()), &error);
    let mut file = match (File::open(&path), mount) {
        (Err(error), Some(id)) if error.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("there is no log of a mount {id}");
            return Err(Error::new(ErrorKind::NotFound, message).hint("stead status --show mounts"));
        }
        (opened, _) => opened.map_err(could_not)?,
    };
    // Watched before it is read: what is written in between is not missed.
    let watched = || {
        let could_not = |error| Error::io(format_args!("could not watch `{}`", path.display()), &error);
        system::Growth::of(&path).map_err(could_not)
    };
    let mut watch = follow.then(watched).transpose()?;
    let tail = tail(&mut file, lines).map_err(could_not)?;
    context.output.raw(&tail)?;
    while let Some(growth) = &watch {
        context.output.flush()?;
        growth.wait().map_err(|error| Error::io("could not wait for the log to grow", &error))?;
        copy_rest(&mut file, &mut context.output).map_err(could_not)??;
        // A log that is full is put aside under another name, and a new one begun, an instant later.
        let next = match File::open(&path) {
            Ok(next) => next,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(could_not(error)),
        };
        if identity(&file).map_err(could_not)? != identity(&next).map_err(could_not)? {
            watch = Some(watched()?);
            file = next;
            copy_rest(&mut file, &mut context.output).map_err(could_not)??;
        }
    }
    Ok(())
}

fn copy_rest(file: &mut File, output: &mut Output) -> std::io::Result<Result<()>> {
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    Ok(output.raw(&rest))
}

fn identity(file: &File) -> std::io::Result<(u64, u64)> {
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The last `count` lines of what is at most [`TAIL_BYTES_MAX`] from the end.
fn tail(file: &mut File, count: usize) -> std::io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES_MAX)))?;
    let mut text = Vec::new();
    BufReader::new(&mut *file).take(TAIL_BYTES_MAX).read_to_end(&mut text)?;
    // The reader may have read past what it gave out.
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES_MAX) + text.len() as u64))?;
    let ends = text.iter().enumerate().filter(|(at, byte)| **byte == b'\n' && at + 1 < text.len());
    let starts: Vec<usize> = ends.map(|(at, _)| at + 1).collect();
    let from = match count {
        0 => text.len(),
        _ if count > starts.len() => 0,
        _ => starts[starts.len() - count],
    };
    text.drain(..from);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_printed_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let last = |count| String::from_utf8(tail(&mut File::open(&path).unwrap(), count).unwrap()).unwrap();
        assert_eq!(last(0), "");
        assert_eq!(last(1), "three\n");
        assert_eq!(last(2), "two\nthree\n");
        assert_eq!(last(3), "one\ntwo\nthree\n");
        assert_eq!(last(4), "one\ntwo\nthree\n");
        std::fs::write(&path, "one\ntwo").unwrap();
        assert_eq!(last(1), "two");
    }
}
