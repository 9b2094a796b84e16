//! A git that this crate has started, to its end.
//!
//! What git runs can wait for ever: a hook, a filter, a disk that does not answer. So each has a deadline. A git that is past it is told to
//! end, with all that it has started, so that it removes its locks; what does not heed that is killed.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

/// How long git may take to look something up or to change a reference: it waits for nothing but what the user has it run then.
pub const GIT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it may take to look for changes in a worktree: as long as it takes to look at each of its files.
pub const GIT_STATUS_TIMEOUT: Duration = Duration::from_secs(120);

/// How long it may take where it reads contents: all files of a worktree, if it comes to that.
pub const GIT_CONTENT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// How long a git that was told to end may take to put its things away.
const GRACE: Duration = Duration::from_secs(2);

/// How often it is looked whether it has ended while something that it has started has its output.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What git may say: the names of all paths of a large repository.
const SAID_BYTES_MAX: usize = 256 << 20;

/// What of its complaints is kept.
const COMPLAINT_BYTES_MAX: usize = 400;

/// A piece of what is read.
const PIECE_BYTES: usize = 64 << 10;

/// What a git that has ended has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub status: ExitStatus,
    pub output: Vec<u8>,
    pub complaint: String,
}

impl Said {
    /// Why it failed.
    pub fn why(&self) -> String {
        match self.complaint.as_str() {
            "" => self.status.to_string(),
            complaint => complaint.to_owned(),
        }
    }
}

/// How much of its output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All.
    All,
    /// Whether there is any: git is ended as soon as it has said something.
    Any,
}

/// Runs a git to its end; `TimedOut` if it has to be ended. Blocks, as long as the deadline and [a moment](GRACE) at most.
pub(crate) fn run(command: Command, input: Stdio, wanted: Wanted, within: Duration) -> io::Result<Said> {
    run_while(command, input, wanted, within, &|| true)
}

/// The same, for as long as somebody wants it; `Interrupted` if nobody does any more, which is looked for [now and then](LOOK_INTERVAL).
pub(crate) fn run_while(
    mut command: Command,
    input: Stdio,
    wanted: Wanted,
    within: Duration,
    is_wanted: &dyn Fn() -> bool,
) -> io::Result<Said> {
    let deadline = Instant::now() + within;
    // What it starts is of the group, too.
    command.process_group(0).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (child, output, complaint) = (command.spawn()?, Vec::new(), Vec::new());
    let mut running = Running { child, output, complaint };
    let followed = running.follow(wanted, deadline, is_wanted);
    let status = match &followed {
        Ok(Outcome::Ended) => running.child.wait()?,
        Ok(Outcome::Enough | Outcome::Late | Outcome::Unwanted) | Err(_) => running.end()?,
    };
    let Running { output, complaint, .. } = running;
    match followed? {
        Outcome::Late => Err(io::ErrorKind::TimedOut.into()),
        Outcome::Unwanted => Err(io::ErrorKind::Interrupted.into()),
        Outcome::Ended | Outcome::Enough => {
            let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
            Ok(Said { status, output, complaint })
        }
    }
}

struct Running {
    child: Child,
    output: Vec<u8>,
    complaint: Vec<u8>,
}

enum Outcome {
    Ended,
    Enough,
    Late,
    Unwanted,
}

impl Running {
    /// Reads what it says until it has ended. What it has left running may go on, and is not listened to.
    fn follow(
        &mut self,
        wanted: Wanted,
        deadline: Instant,
        is_wanted: &dyn Fn() -> bool,
    ) -> io::Result<Outcome> {
        let (mut output, mut complaints) = (self.child.stdout.take(), self.child.stderr.take());
        while output.is_some() || complaints.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Outcome::Late);
            }
            if !is_wanted() {
                return Ok(Outcome::Unwanted);
            }
            // What it has left running may have the other end.
            let has_ended = self.child.try_wait()?.is_some();
            let patience = if has_ended { Duration::ZERO } else { left.min(LOOK_INTERVAL) };
            let [has_output, has_complaints] =
                readable([output.as_ref().map(AsFd::as_fd), complaints.as_ref().map(AsFd::as_fd)], patience)?;
            if has_ended && !has_output && !has_complaints {
                break;
            }
            if has_output && read_piece(&mut output, &mut self.output)? > 0 && wanted == Wanted::Any {
                return Ok(Outcome::Enough);
            }
            if self.output.len() > SAID_BYTES_MAX {
                return Err(io::Error::other("it says more than anybody can read"));
            }
            if has_complaints {
                read_piece(&mut complaints, &mut self.complaint)?;
                self.complaint.truncate(COMPLAINT_BYTES_MAX);
            }
        }
        match self.ends_by(deadline)? {
            true => Ok(Outcome::Ended),
            false => Ok(Outcome::Late),
        }
    }

    /// Whether it ends until then.
    fn ends_by(&mut self, deadline: Instant) -> io::Result<bool> {
        let mut interval = Duration::from_micros(100);
        while self.child.try_wait()?.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            pause(interval.min(left));
            interval = (interval * 2).min(LOOK_INTERVAL);
        }
        Ok(true)
    }

    /// Ends it, and what it has started.
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM);
        if !self.ends_by(Instant::now() + GRACE)? {
            self.signal(Signal::KILL);
        }
        self.child.wait()
    }

    fn signal(&self, signal: Signal) {
        // It leads the group, which has its number as long as anybody of it is there. All may have ended.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }
}

/// Waits, if nobody interrupts it.
pub(crate) fn pause(time: Duration) {
    // Whether it is cut short does not matter: it is looked again.
    if let Ok(time) = Timespec::try_from(time) {
        let _ = rustix::thread::nanosleep(&time);
    }
}

/// Which of these can be read, once one can or the time is over.
fn readable<const N: usize>(fds: [Option<BorrowedFd<'_>>; N], within: Duration) -> io::Result<[bool; N]> {
    let polled = fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN));
    let mut polled: Vec<PollFd<'_>> = polled.collect();
    let within = Timespec::try_from(within).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&within)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut is_ready = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && is_ready.next().unwrap_or(false)))
}

/// Reads once. At its end there is nothing to read from any more.
fn read_piece(from: &mut Option<impl Read>, to: &mut Vec<u8>) -> io::Result<usize> {
    let Some(reader) = from else { return Ok(0) };
    let mut piece = [0; PIECE_BYTES];
    match reader.read(&mut piece) {
        Ok(0) => {
            *from = None;
            Ok(0)
        }
        Ok(read) => {
            to.extend_from_slice(&piece[..read]);
            Ok(read)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn all_is_heard_of_one_that_ends() {
        let script = "head -c 1000000 /dev/zero; echo wrong >&2; exit 3";
        let said = run(shell(script), Stdio::null(), Wanted::All, LONG).expect("it ends");
        assert_eq!((said.output.len(), said.status.code()), (1_000_000, Some(3)));
        assert_eq!(said.why(), "wrong");
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let begun = Instant::now();
        let said = run(shell("sleep 30 & echo $!"), Stdio::null(), Wanted::All, LONG).expect("it ends");
        assert!(begun.elapsed() < Duration::from_secs(20));
        let left = String::from_utf8(said.output).expect("a number");
        drop(Command::new("kill").arg(left.trim()).status());
    }

    #[test]
    fn one_that_does_not_end_is_ended_with_what_it_has_started() {
        let scratch = tempfile::tempdir().expect("a directory");
        let lock = scratch.path().join("lock");
        let script = format!("trap 'rm {0}; exit 1' TERM; touch {0}; sleep 300 & wait", lock.display());
        let late = run(shell(&script), Stdio::null(), Wanted::All, Duration::from_millis(300));
        let error = late.expect_err("it does not end");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(!lock.exists(), "it has put its things away");
    }

    #[test]
    fn one_that_nobody_wants_any_more_is_ended() {
        let begun = Instant::now();
        let is_wanted = || begun.elapsed() < Duration::from_millis(200);
        let ended = run_while(shell("sleep 300"), Stdio::null(), Wanted::All, LONG, &is_wanted);
        assert_eq!(ended.expect_err("it is ended").kind(), io::ErrorKind::Interrupted);
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn one_that_is_heard_enough_of_is_ended() {
        let begun = Instant::now();
        let said = run(shell("echo yes; sleep 300"), Stdio::null(), Wanted::Any, LONG).expect("it is ended");
        assert_eq!(said.output, b"yes\n");
        assert!(begun.elapsed() < Duration::from_secs(20));
        let said = run(shell("true"), Stdio::null(), Wanted::Any, LONG).expect("it ends");
        assert!(said.output.is_empty() && said.status.success());
    }
}
