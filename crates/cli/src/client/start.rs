//! Starts the daemon when a command needs it.
//!
//! ```text
//!   connect ─ok─► agree
//!      │nobody listens, or it ended just then
//!      ▼
//!   start.lock ─► connect again ─ok─► agree       two commands at once start one daemon
//!      │still nobody
//!      ▼
//!   stead daemon run --background ──one line on its stdout──► connect ─► agree
//! ```

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use wire::api::daemon::Announcement;
use wire::api::{ErrorKind, LINE_BYTES_MAX};
use wire::paths::Paths;

use super::Client;
use crate::context::Context;
use crate::error::{Error, Result, reason};

/// How long a daemon may take until it listens. It opens a database and looks at what a previous life left behind; on
/// a busy machine that takes a second.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How often it is tried while another daemon has the state and does not serve: each try takes some twenty
/// milliseconds, and a daemon that was killed is gone after the first.
const TRIES_MAX: u32 = 5;

/// A connection to the daemon, started if need be, with a version agreed on.
pub fn connect_or_start(context: &Context) -> Result<Client> {
    let paths = context.paths()?;
    if let Some(client) = context.running_daemon()? {
        return Ok(client);
    }
    start(context, &paths)?;
    context.running_daemon()?.ok_or_else(|| {
        let message = format!("the daemon ended right after it started; see `{}`", paths.log().display());
        Error::new(ErrorKind::Failure, message).hint("stead daemon logs")
    })
}

/// Starts the daemon unless it runs by now, and waits until it listens. False when it ran already.
pub fn start(context: &Context, paths: &Paths) -> Result<bool> {
    // What is wrong with it is better told here than in the log of a daemon that does not start.
    context.config()?;
    make_private_dir(paths.state_dir())?;
    make_private_dir(paths.runtime_dir())?;
    let _lock = lock(&paths.start_lock())?;
    let mut tries = TRIES_MAX;
    loop {
        tries -= 1;
        match start_locked(context, paths) {
            // One that is ending has closed its socket and not yet let go of the rest.
            Err(Error::Failed(failure)) if failure.kind == ErrorKind::Conflict && tries > 0 => {}
            outcome => return outcome,
        }
    }
}

fn start_locked(context: &Context, paths: &Paths) -> Result<bool> {
    if is_there(context, paths)? {
        return Ok(false);
    }
    let mut child = spawn(&context.program, paths)?;
    let announcement = read_announcement(&mut child).inspect_err(|_| {
        // It has not served anybody, and must not turn up later. When it cannot be killed it has ended.
        let _ended = child.kill().and_then(|()| child.wait());
    })?;
    match announcement {
        Some(Announcement::Ready { .. }) => Ok(true),
        // Somebody started one by hand in this instant.
        Some(Announcement::Failed(error)) if error.kind() == ErrorKind::Conflict => {
            match is_there(context, paths)? {
                true => Ok(false),
                false => Err(error.into()),
            }
        }
        Some(Announcement::Failed(error)) => Err(error.into()),
        None => {
            let message = format!("the daemon could not start; see `{}`", paths.log().display());
            Err(Error::new(ErrorKind::Failure, message).hint("stead daemon logs"))
        }
    }
}

/// Looks whether a daemon that is started now could read what the environment and the configuration tell it.
pub fn check(context: &Context) -> Result<()> {
    let mut command = Command::new(&context.program);
    command
        .args(["daemon", "run", "--check"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| not_started(&context.program, &error))?;
    let announcement = read_announcement(&mut child);
    // It ends by itself when it has said that; when it cannot be killed it has.
    let _ended = child.kill().and_then(|()| child.wait());
    match announcement? {
        Some(Announcement::Failed(error)) => Err(error.into()),
        Some(Announcement::Ready { .. }) | None => Ok(()),
    }
}

/// Whether a daemon answers, of whichever version.
fn is_there(context: &Context, paths: &Paths) -> Result<bool> {
    match Client::connect(paths, context.prompter)? {
        Some(client) => Ok(!matches!(client.agree(), Ok(None))),
        None => Ok(false),
    }
}

/// Makes a directory for this user alone, or finds that there is one.
fn make_private_dir(dir: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Error::io(format_args!("could not create `{}`", dir.display()), &error))?;
    let metadata = std::fs::symlink_metadata(dir)
        .map_err(|error| Error::io(format_args!("could not look at `{}`", dir.display()), &error))?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        let message = format!("`{}` is not a directory of this user", dir.display());
        return Err(Error::new(ErrorKind::Refused, message).hint("set STEAD_HOME to a directory of your own"));
    }
    Ok(())
}

/// Waits for the lock. Whoever holds it starts a daemon, which has a deadline.
fn lock(path: &Path) -> Result<File> {
    let could_not = |error: io::Error| Error::io(format_args!("could not lock `{}`", path.display()), &error);
    let file =
        File::options().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(could_not)?;
    file.lock().map_err(could_not)?;
    Ok(file)
}

fn spawn(program: &Path, paths: &Paths) -> Result<Child> {
    let log = paths.log();
    let stderr = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log)
        .map_err(|error| Error::io(format_args!("could not open `{}`", log.display()), &error))?;
    Command::new(program)
        .args(["daemon", "run", "--background"])
        // A daemon that stood in the caller's directory would keep it from being unmounted.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .map_err(|error| not_started(program, &error))
}

fn not_started(program: &Path, error: &io::Error) -> Error {
    let message = format!("could not start `{} daemon run`: {}", program.display(), reason(error));
    Error::new(ErrorKind::Failure, message)
}

/// Reads the one line the daemon says. None when it ended without a word.
fn read_announcement(child: &mut Child) -> Result<Option<Announcement>> {
    let Some(mut stdout) = child.stdout.take() else {
        return Ok(None);
    };
    let deadline = Instant::now() + START_DEADLINE;
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    while !line.contains(&b'\n') && line.len() < LINE_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::time::Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(Error::io("could not wait for the daemon", &errno.into())),
            Ok(0) => {
                let message = format!("the daemon was not ready within {} s", START_DEADLINE.as_secs());
                return Err(Error::new(ErrorKind::TimedOut, message).hint("stead daemon logs"));
            }
            Ok(_) => {}
        }
        let count = stdout
            .read(&mut chunk)
            .map_err(|error| Error::io("could not read what the daemon says", &error))?;
        if count == 0 {
            break;
        }
        line.extend_from_slice(&chunk[..count]);
    }
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(|error| {
        let message = format!("what the daemon said at its start is not understood: {error}");
        Error::new(ErrorKind::Failure, message).hint("stead daemon logs")
    })
}
