//! A handle to a process that is watched.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::Signal;
use tokio::io::unix::AsyncFd;

use crate::descriptor::readable;
use crate::identity::{Identity, IdentityError, has_ended};
use crate::system::{self, raw_pid};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was somebody else's child, which is all that is known.
    Unknown,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "status {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::Unknown => f.write_str("unknown status"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kinship {
    /// Ours to reap, and the leader of its own process group.
    Child,
    /// Somebody else's.
    Adopted,
}

/// A child, or another process that was adopted by its [`Identity`].
///
/// Dropping a handle neither kills nor forgets: a child is still reaped when it ends, by the runtime the handle is
/// dropped in.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    kinship: Kinship,
    /// Taken only by `drop`.
    pidfd: Option<AsyncFd<OwnedFd>>,
    exit: Option<Exit>,
}

impl Process {
    /// Takes over the process of this identity, if it is still there. It is watched and signalled, not reaped.
    pub fn adopt(identity: Identity) -> Result<Process, AdoptError> {
        let watch = |source: io::Error| AdoptError::Watch { pid: identity.pid, source };
        let process =
            Process::open(identity, Kinship::Adopted).map_err(|error| match error.raw_os_error() {
                Some(libc::ESRCH | libc::EINVAL) => AdoptError::Gone { pid: identity.pid },
                _ => watch(error),
            })?;
        // Only now: from here on the descriptor keeps meaning the process that was checked.
        match identity.exists()? {
            true => Ok(process),
            false => Err(AdoptError::Gone { pid: identity.pid }),
        }
    }

    /// Takes over the process that this descriptor means, as another process has [shown](show_child) it, if it is still there.
    /// It is watched and signalled, not reaped.
    pub fn inherit(pidfd: OwnedFd) -> Result<Process, AdoptError> {
        let pid = system::shown(pidfd.as_fd()).map_err(|source| AdoptError::Watch { pid: 0, source })?;
        let pid = pid.ok_or(AdoptError::Gone { pid: 0 })?;
        let identity = match Identity::of(pid) {
            Err(IdentityError::Gone { pid }) => return Err(AdoptError::Gone { pid }),
            identity => identity?,
        };
        let watch = |source| AdoptError::Watch { pid, source };
        // Only now: the number meant the same process while it was identified if that is there still.
        if system::shown(pidfd.as_fd()).map_err(watch)? != Some(pid) || has_ended(pid) {
            return Err(AdoptError::Gone { pid });
        }
        Process::watching(identity, Kinship::Adopted, pidfd).map_err(watch)
    }

    pub(crate) fn child(identity: Identity) -> Result<Process, AdoptError> {
        Process::open(identity, Kinship::Child)
            .map_err(|source| AdoptError::Watch { pid: identity.pid, source })
    }

    fn open(identity: Identity, kinship: Kinship) -> io::Result<Process> {
        let pidfd = system::watch(identity.pid)?;
        Process::watching(identity, kinship, pidfd)
    }

    fn watching(identity: Identity, kinship: Kinship, pidfd: OwnedFd) -> io::Result<Process> {
        let pidfd = readable(pidfd)?;
        Ok(Process { identity, kinship, pidfd: Some(pidfd), exit: None })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// What to write down so that it can be adopted later.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Waits until it has ended, and reaps it. May be called again, and may be dropped half way.
    pub async fn exited(&mut self) -> io::Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let exit = wait(self.watched(), self.pid(), self.kinship).await?;
        self.exit = Some(exit);
        Ok(exit)
    }

    /// Sends a signal to the process alone. One that has ended is not an error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.exit.is_some() {
            return Ok(());
        }
        ignore_gone(system::signal(self.watched().get_ref().as_fd(), self.pid(), signal))
    }

    /// Sends a signal to the process and all it started in its group. Only a child has a group of its own; for an
    /// adopted process this is [`signal`](Self::signal).
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        if self.exit.is_some() {
            return Ok(());
        }
        match self.kinship {
            // The number is the leader's until it is reaped, which only this handle does.
            Kinship::Child => ignore_gone(rustix::process::kill_process_group(raw_pid(self.pid())?, signal)),
            Kinship::Adopted => self.signal(signal),
        }
    }

    fn watched(&self) -> &AsyncFd<OwnedFd> {
        self.pidfd.as_ref().expect("only `drop` takes the descriptor")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(pidfd) = self.pidfd.take() else {
            return;
        };
        if self.kinship == Kinship::Adopted || self.exit.is_some() {
            return;
        }
        // Without a runtime this process is about to end, and whoever inherits its children reaps them.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let pid = self.pid();
        runtime.spawn(async move {
            if let Err(error) = wait(&pidfd, pid, Kinship::Child).await {
                tracing::warn!(pid, %error, "could not reap a child");
            }
        });
    }
}

async fn wait(watched: &AsyncFd<OwnedFd>, pid: u32, kinship: Kinship) -> io::Result<Exit> {
    if kinship == Kinship::Adopted {
        watched.readable().await?.retain_ready();
        return Ok(Exit::Unknown);
    }
    let status = system::reap(watched, pid).await?;
    let code = status.exit_status().map(Exit::Code);
    let signal = status.terminating_signal().map(Exit::Signal);
    Ok(code.or(signal).unwrap_or(Exit::Unknown))
}

/// A descriptor of a child of this process that has not been reaped, for another process to [inherit](Process::inherit).
/// Fails when there is no such child, and with [`io::ErrorKind::Unsupported`] where processes have no descriptors.
pub fn show_child(pid: u32) -> io::Result<OwnedFd> {
    system::show_child(pid)
}

fn ignore_gone(outcome: rustix::io::Result<()>) -> io::Result<()> {
    match outcome {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Ends the process that a descriptor of [`show_child`] means. One that has ended is not an error.
pub fn kill_shown(shown: &OwnedFd) -> io::Result<()> {
    ignore_gone(system::signal_shown(shown.as_fd(), Signal::KILL))
}

/// A process cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It has ended. Its number may be somebody else's by now.
    #[error("process {pid} has ended")]
    Gone {
        /// Its number.
        pid: u32,
    },
    /// The kernel refused.
    #[error("could not watch process {pid}")]
    Watch {
        /// Its number.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be told from others.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

#[cfg(test)]
mod tests;
