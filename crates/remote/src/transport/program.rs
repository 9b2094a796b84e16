//! A child process whose standard input and output are one socket, and whose last words are kept.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use supervisor::stop::{Grace, stop};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// How many of the last lines of standard error are kept for errors.
const LINES_KEPT_MAX: usize = 20;

/// The longest piece of standard error that is one line.
const LINE_BYTES_MAX: u64 = 1000;

/// What the system buffers in each direction: the largest payload fits twice, so that the other side can go on.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;

/// How long a child may take to end after its stream has been closed, before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// How long the last words of a child that has ended may take to arrive. A grandchild may hold the pipe open for ever.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(200);

/// A program could not be started.
#[derive(Debug, thiserror::Error)]
#[error("could not start `{}`", program.display())]
pub struct ProgramError {
    /// Which.
    pub program: OsString,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// How a program has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// What the system says; `None` if it could not be asked.
    pub status: Option<ExitStatus>,
    /// The last lines of its standard error.
    pub last_words: Vec<String>,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => write!(f, "exited with status {code}")?,
            Some((None, Some(signal))) => write!(f, "was ended by signal {signal}")?,
            Some((None, None)) | None => write!(f, "ended")?,
        }
        match self.last_words.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.last_words.join("; ")),
        }
    }
}

/// What a child that is no longer wanted is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dismissal {
    /// Nothing: it sees the end of its stream.
    ByStream,
    /// SIGTERM.
    BySignal,
}

/// A running child. It is a handle: clones are the same child. When the last one is dropped, the child is dismissed,
/// given some seconds to end by itself, and killed if it does not.
#[derive(Clone)]
pub struct Program {
    shared: Arc<Shared>,
}

struct Shared {
    pid: u32,
    lines: Arc<Mutex<VecDeque<String>>>,
    exit: watch::Receiver<Option<Exit>>,
    /// Dropped to say that nobody wants the child any more.
    _wanted: tokio::sync::oneshot::Sender<std::convert::Infallible>,
}

impl Program {
    /// Starts `command` with a socket as its standard input and output and returns the other end. `name` is what its
    /// standard error is logged under.
    pub fn start(mut command: Command, name: &'static str) -> Result<(Program, UnixStream), ProgramError> {
        let program = command.as_std().get_program().to_owned();
        let failed = |source| ProgramError { program: program.clone(), source };
        let (ours, theirs) = socket_pair().map_err(failed)?;
        let input = theirs.try_clone().map_err(failed)?;
        command.stdin(Stdio::from(input)).stdout(Stdio::from(theirs));
        let program = Program::attend_to(command, name, Dismissal::ByStream)?;
        Ok((program, ours))
    }

    /// Starts `command`, whose standard input and output have been arranged, with its standard error captured.
    pub fn attend_to(
        mut command: Command,
        name: &'static str,
        dismissal: Dismissal,
    ) -> Result<Program, ProgramError> {
        let program = command.as_std().get_program().to_owned();
        command.stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| ProgramError { program, source })?;
        // The command holds the child's end of the socket: as long as it is there, an end of the child is not seen.
        drop(command);
        let pid = child.id().unwrap_or_default();
        let lines = Arc::default();
        let reading =
            child.stderr.take().map(|stderr| tokio::spawn(keep_lines(stderr, Arc::clone(&lines), name, pid)));
        let (exit_sender, exit) = watch::channel(None);
        let (wanted, unwanted) = tokio::sync::oneshot::channel();
        tokio::spawn(attend(child, dismissal, reading, unwanted, Arc::clone(&lines), exit_sender));
        Ok(Program { shared: Arc::new(Shared { pid, lines, exit, _wanted: wanted }) })
    }

    /// Takes over a process that this one has not started. It is a handle as any other, but how the process ends and what
    /// it says is not known.
    pub fn adopt(process: supervisor::Process, dismissal: Dismissal) -> Program {
        let pid = process.pid();
        let (exit_sender, exit) = watch::channel(None);
        let (wanted, unwanted) = tokio::sync::oneshot::channel();
        tokio::spawn(attend_adopted(process, dismissal, unwanted, exit_sender));
        Program { shared: Arc::new(Shared { pid, lines: Arc::default(), exit, _wanted: wanted }) }
    }

    /// The child's process id. It may have ended, but not for so long that the id means another process, as long as
    /// [`Program::has_ended`] is false.
    pub fn pid(&self) -> u32 {
        self.shared.pid
    }

    /// Whether the child has ended.
    pub fn has_ended(&self) -> bool {
        self.shared.exit.borrow().is_some()
    }

    /// Waits for the child's end.
    pub async fn ended(&self) -> Exit {
        let mut exit = self.shared.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(Exit { status: None, last_words: self.last_words() }),
            Err(_) => Exit { status: None, last_words: self.last_words() },
        }
    }

    /// The child's end, for whoever waits for it without wanting the child any longer.
    pub fn end(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut exit = self.shared.exit.clone();
        // Without an attending task the child has been reaped with it.
        async move { drop(exit.wait_for(Option::is_some).await) }
    }

    /// The last lines of the child's standard error so far.
    pub fn last_words(&self) -> Vec<String> {
        self.shared.lines.lock().iter().cloned().collect()
    }
}

/// A connected pair: this side's end, and the end for a child.
fn socket_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    for socket in [&ours, &theirs] {
        // A smaller buffer costs speed only.
        if let Err(error) = rustix::net::sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER_BYTES) {
            tracing::debug!(%error, "socket buffers keep the system's size");
        }
    }
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, OwnedFd::from(theirs)))
}

async fn attend(
    mut child: Child,
    dismissal: Dismissal,
    reading: Option<tokio::task::JoinHandle<()>>,
    unwanted: tokio::sync::oneshot::Receiver<std::convert::Infallible>,
    lines: Arc<Mutex<VecDeque<String>>>,
    exit: watch::Sender<Option<Exit>>,
) {
    let early = tokio::select! {
        status = child.wait() => Some(status),
        // Nothing is ever sent: this is the end of the last handle.
        _ = unwanted => None,
    };
    let status = match early {
        Some(status) => status,
        None => dismiss(&mut child, dismissal).await,
    };
    if let Some(reading) = reading {
        let abort = reading.abort_handle();
        if tokio::time::timeout(LAST_WORDS_TIMEOUT, reading).await.is_err() {
            abort.abort();
        }
    }
    let status = status.inspect_err(|error| tracing::warn!(%error, "a child could not be waited for")).ok();
    let last_words = lines.lock().iter().cloned().collect();
    exit.send_replace(Some(Exit { status, last_words }));
}

async fn attend_adopted(
    mut process: supervisor::Process,
    dismissal: Dismissal,
    unwanted: tokio::sync::oneshot::Receiver<std::convert::Infallible>,
    exit: watch::Sender<Option<Exit>>,
) {
    tokio::select! {
        ended = process.exited() => {
            if let Err(error) = ended {
                tracing::warn!(pid = process.pid(), %error, "a process could not be waited for");
            }
        }
        // Nothing is ever sent: this is the end of the last handle.
        _ = unwanted => {
            let grace = Grace { ask: GRACE, terminate: GRACE, kill: GRACE };
            // The end of its stream is a request.
            let asked = match dismissal {
                Dismissal::ByStream => Ok::<(), ()>(()),
                Dismissal::BySignal => Err(()),
            };
            if let Err(error) = stop(&mut process, &grace, std::future::ready(asked)).await {
                tracing::warn!(%error, "a process that is not wanted any more does not end");
            }
        }
    }
    exit.send_replace(Some(Exit { status: None, last_words: Vec::new() }));
}

async fn dismiss(child: &mut Child, dismissal: Dismissal) -> io::Result<ExitStatus> {
    if dismissal == Dismissal::BySignal
        // The id is the child's as long as it has not been waited for, which only this task does.
        && let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()))
        && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
    {
        tracing::debug!(%error, "a child that was to be ended has ended");
    }
    match tokio::time::timeout(GRACE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.start_kill()?;
            child.wait().await
        }
    }
}

async fn keep_lines(
    stderr: impl AsyncRead + Unpin,
    lines: Arc<Mutex<VecDeque<String>>>,
    name: &'static str,
    pid: u32,
) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut stderr).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(program = name, pid, %error, "standard error could not be read");
                return;
            }
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let text = wire::bytestring::ByteString::from(text).to_string();
        tracing::debug!(program = name, pid, "{text}");
        let mut lines = lines.lock();
        if lines.len() == LINES_KEPT_MAX {
            lines.pop_front();
        }
        lines.push_back(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// A process that somebody else has started, as far as the handle knows.
    fn stranger() -> (std::process::Child, Program) {
        let child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let identity = supervisor::Identity::of(child.id()).unwrap();
        (child, Program::adopt(supervisor::Process::adopt(identity).unwrap(), Dismissal::BySignal))
    }

    #[tokio::test]
    async fn an_adopted_process_is_watched_and_ended_with_its_last_handle() {
        let (mut child, program) = stranger();
        assert!(program.pid() == child.id() && !program.has_ended());
        let end = program.clone().end();
        drop(program);
        tokio::time::timeout(DEADLINE, end).await.unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(15));
    }

    #[tokio::test]
    async fn the_end_of_an_adopted_process_is_seen() {
        let (mut child, program) = stranger();
        child.kill().unwrap();
        let exit = tokio::time::timeout(DEADLINE, program.ended()).await.unwrap();
        assert_eq!((exit.status, program.has_ended()), (None, true));
        child.wait().unwrap();
    }
}
