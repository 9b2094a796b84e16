//! A channel to a machine that is dialled ahead, for another process to go on with.
//!
//! ```text
//!  worker ── dials ahead ──► channel: the agent's session has the stream, and nobody has said anything on it
//!    │                          ▲
//!    └─ its two descriptors ─► keeper ──► successor: says hello on it, at once
//! ```
//!
//! To dial takes far longer than to say hello: ssh starts here, a shell and an agent there. All of that has been done for a
//! channel in reserve. It belongs to nobody in particular: it ends when the last descriptor of this end is closed, or when
//! its ssh ends, and it outlives whoever has dialled it.
//!
//! It takes one of the sessions that the server allows, and gives it back when somebody needs that: see
//! [`scarcity`](crate::transport::ssh::scarcity).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use supervisor::Process;
use supervisor::process::{AdoptError, show_child};
use tokio::net::UnixStream;
use wire::hello::SessionId;
use wire::worker::SshDial;

use crate::client::relink::Dialed;
use crate::client::{ByteStream, ConnectError, ConnectOptions, Introduced};
use crate::connect::{OpenError, agent_command};
use crate::transport::ssh::{self, scarcity};
use crate::transport::{Dismissal, Exit, Program, ProgramError};

/// How long the agent may take to answer on such a channel before one is dialled after all: many round trips to a far
/// machine, and still what a user takes for a moment. One whose ssh has ended is not waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the ssh of a channel that nobody needs any more may take to end by itself.
const END_GRACE: Duration = Duration::from_millis(300);

/// What makes a channel usable by another process.
#[derive(Debug)]
pub struct Spare {
    stream: OwnedFd,
    process: OwnedFd,
}

/// Why a spare was of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpareError {
    #[error(transparent)]
    Process(#[from] AdoptError),
    #[error("could not use its stream")]
    Stream(#[from] io::Error),
    #[error(transparent)]
    Agent(#[from] ConnectError),
}

impl Spare {
    /// From the [descriptors](Spare::descriptors) that another process has handed over; `None` if they are none of a spare.
    pub fn from_descriptors(descriptors: Vec<OwnedFd>) -> Option<Spare> {
        let [stream, process] = descriptors.try_into().ok()?;
        Some(Spare { stream, process })
    }

    /// What has to be handed over, in this order.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.stream.as_fd(), self.process.as_fd()]
    }

    /// Says hello on it.
    pub(crate) async fn introduce(self, options: ConnectOptions) -> Result<Dialed, SpareError> {
        let program = Program::adopt(Process::inherit(self.process)?, Dismissal::ByStream);
        let stream = std::os::unix::net::UnixStream::from(self.stream);
        stream.set_nonblocking(true)?;
        let stream = ByteStream::try_from(UnixStream::from_std(stream)?)?;
        let options = ConnectOptions { timeout: ANSWER_TIMEOUT, ..options };
        Ok(Dialed { stream: Introduced::over(stream, options).await?, carrier: Some(program) })
    }
}

/// The ssh of a spare, in the process that has started it. It ends with the spare; one that is dropped is ended with it.
pub struct SpareCarrier {
    program: Program,
    process: OwnedFd,
}

impl std::fmt::Debug for SpareCarrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpareCarrier").field("pid", &self.program.pid()).finish_non_exhaustive()
    }
}

impl SpareCarrier {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Waits until it has ended, and says how.
    pub async fn ended(&self) -> Exit {
        self.program.ended().await
    }

    /// Ends it, when nobody has the spare any more.
    pub async fn end(self) {
        if tokio::time::timeout(END_GRACE, self.program.ended()).await.is_ok() {
            return;
        }
        // It waits for its machine, or for its master.
        match supervisor::process::kill_shown(&self.process) {
            Ok(()) => {}
            Err(error) => tracing::warn!(%error, "the ssh of a channel in reserve could not be ended"),
        }
        if tokio::time::timeout(END_GRACE, self.program.ended()).await.is_err() {
            tracing::warn!(pid = self.program.pid(), "the ssh of a channel in reserve does not end");
        }
    }
}

/// Dials a channel of this session, and waits for nothing: it is usable from now on, and answers when it is there.
pub(crate) fn dial(dial: &SshDial, session: SessionId) -> Result<(Spare, SpareCarrier), OpenError> {
    let command = agent_command(dial, session)?;
    // Through the first master, or not at all: further ones are there because sessions are scarce.
    let (program, stream) = ssh::channel(dial, &command)?;
    let failed = |source| ProgramError { program: dial.program.as_path().as_os_str().to_owned(), source };
    let process = show_child(program.pid()).map_err(failed)?;
    let stream = stream.into_std().map_err(failed)?.into();
    let own = process.try_clone().map_err(failed)?;
    Ok((Spare { stream, process }, SpareCarrier { program, process: own }))
}

/// Whether the machine has a session to spare, as far as is known.
#[derive(Clone, Debug)]
pub struct Room {
    mark: PathBuf,
}

impl Room {
    pub(crate) fn of(dial: &SshDial) -> Room {
        Room { mark: scarcity::mark_of(dial.control_path.as_path()) }
    }

    /// The file that is written when there is no room any more.
    pub fn mark(&self) -> &Path {
        &self.mark
    }

    /// Whether there was none a while ago.
    pub fn is_scarce(&self) -> bool {
        scarcity::is_marked(&self.mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program in the place of ssh, and this end of the stream in the place of the machine's.
    fn silent() -> (Spare, std::os::unix::net::UnixStream, Program) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut command = tokio::process::Command::new("sleep");
        command.arg("600");
        let program = Program::attend_to(command, "sleep", Dismissal::BySignal).unwrap();
        let spare = Spare { stream: ours.into(), process: show_child(program.pid()).unwrap() };
        (spare, theirs, program)
    }

    #[tokio::test(start_paused = true)]
    async fn one_on_which_nobody_answers_is_given_up() {
        let (spare, _theirs, _program) = silent();
        let began = tokio::time::Instant::now();
        let error = spare.introduce(ConnectOptions::default()).await.unwrap_err();
        assert!(matches!(error, SpareError::Agent(ConnectError::TimedOut { .. })), "{error}");
        assert!(began.elapsed() < 2 * ANSWER_TIMEOUT);
    }

    #[tokio::test]
    async fn one_that_has_ended_is_not_waited_for() {
        let (spare, theirs, _program) = silent();
        drop(theirs);
        let error = spare.introduce(ConnectOptions::default()).await.unwrap_err();
        let is_late = matches!(error, SpareError::Agent(ConnectError::TimedOut { .. }));
        assert!(matches!(error, SpareError::Agent(_)) && !is_late, "{error}");
        let (spare, _theirs, program) = silent();
        let end = program.end();
        drop(program);
        end.await;
        let error = spare.introduce(ConnectOptions::default()).await.unwrap_err();
        assert!(matches!(error, SpareError::Process(_)), "{error}");
    }

    #[test]
    fn what_is_not_a_stream_and_a_process_is_no_spare() {
        let (one, two) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Spare::from_descriptors(Vec::new()).is_none());
        assert!(Spare::from_descriptors(vec![one.into()]).is_none());
        let again = || two.try_clone().unwrap().into();
        assert!(Spare::from_descriptors(vec![again(), again(), again()]).is_none());
        assert!(Spare::from_descriptors(vec![again(), again()]).is_some());
    }
}
