//! A process that keeps another one's descriptors, and puts a successor in its place when it dies.
//!
//! ```text
//!  daemon ──keeper.sock──► keeper ──channel──► worker ◄──control.sock── daemon
//!                            │  ▲                │
//!                            │  └── descriptors ─┘
//!                            └── the same descriptors ──► successor
//! ```
//!
//! | part | is |
//! |---|---|
//! | [`Plan`] | the file that says which programs they are; without it nobody is started any more |
//! | [`begin`] | starts a keeper, or another one for a worker that has lost its own |
//! | [`run()`] | the keeper itself: one thread, one loop |
//! | [`Inheritance`] | what either of them was started with |
//! | [`Tether`] | the worker's side: what it hands over and says, and what it does when its keeper is gone |
//! | [`Channel`] | the worker's end of what connects it to its keeper |
//! | [`Client`], [`Status`], [`Command`] | how a keeper is watched and told, over `keeper.sock` |
//! | [`Losses`] | which death is answered with a successor, and when. Pure |
//!
//! Both sockets are made by whoever starts the keeper, so that they can be connected to at once, and `control.sock` is
//! the same socket for all workers: a connection that none has accepted yet is the successor's.
//!
//! The channel keeps messages apart (`SOCK_SEQPACKET`, where there is that). Descriptors that a worker has sent are safe from that moment,
//! whether the keeper has read them or not: the kernel holds them until the keeper's end is closed.

mod arguments;
mod channel;
mod client;
mod crash;
mod policy;
mod run;
mod tether;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::socket::SocketError;
use crate::spawn::{Spawn, SpawnError, Stdio, own_program};

pub use arguments::{ArgumentError, Inheritance, Kept};
pub use channel::{Channel, Word};
pub use client::{Client, Command, State, Status};
pub use crash::last_complaint;
pub use policy::{DEATHS_MAX, Losses, STEADY, Verdict};
pub use run::run;
pub use tether::Tether;

/// The file in the mount's directory that holds a [`Plan`].
pub const PLAN: &str = "keeper.json";

/// The keeper's own socket.
pub const KEEPER_SOCKET: &str = "keeper.sock";

/// The socket that workers listen on, one after the other.
pub const CONTROL_SOCKET: &str = "control.sock";

/// What the workers say on their standard error.
pub const LOG: &str = "worker.log";

/// What the keeper says on its standard error.
pub const KEEPER_LOG: &str = "keeper.log";

/// Holds the reason, in one line, once the keeper has given up.
pub const FAILED: &str = "failed";

/// A plan is two short command lines.
const PLAN_BYTES_MAX: u64 = 64 << 10;

/// A program and what makes it the part that is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Its path.
    pub program: PathBuf,
    /// Its arguments; more are added.
    pub arguments: Vec<OsString>,
}

impl Launch {
    /// The program that is running now, as `part`.
    pub fn own(part: impl AsRef<OsStr>) -> Launch {
        Launch { program: own_program(), arguments: vec![part.as_ref().to_owned()] }
    }
}

/// A random number that tells one mount's processes from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(u64);

impl Token {
    /// One that nobody has.
    pub fn random() -> io::Result<Token> {
        let mut bytes = [0; 8];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        // 53 bits are all that every reader of JSON keeps.
        Ok(Token(u64::from_le_bytes(bytes) >> 11))
    }
}

/// What a keeper, and whoever starts one, has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whose processes they are.
    pub token: Token,
    /// What a keeper is.
    pub keeper: Launch,
    /// What a worker is.
    pub worker: Launch,
}

impl Plan {
    /// Writes it to `directory`.
    pub fn write(&self, directory: &Path) -> Result<(), KeeperError> {
        let path = directory.join(PLAN);
        let failed = |source: io::Error| KeeperError::Plan { path: path.clone(), source };
        let text = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        let new = directory.join(format!("{PLAN}.new"));
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
        file.and_then(|mut file| file.write_all(&text)).map_err(failed)?;
        std::fs::rename(&new, &path).map_err(failed)
    }

    /// Reads it from `directory`.
    pub fn read(directory: &Path) -> Result<Plan, KeeperError> {
        let path = directory.join(PLAN);
        let failed = |source: io::Error| KeeperError::Plan { path: path.clone(), source };
        let mut text = Vec::new();
        let file = std::fs::File::open(&path).map_err(failed)?;
        file.take(PLAN_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))
    }

    /// Takes it back: whoever dies now has no successor.
    pub fn withdraw(directory: &Path) -> Result<(), KeeperError> {
        let path = directory.join(PLAN);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(KeeperError::Plan { path, source }),
        }
    }
}

/// A keeper cannot be started, or cannot work.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The plan cannot be read, written or removed.
    #[error("could not use the plan `{}`", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket could not be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There is no process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The system refused.
    #[error("could not {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> KeeperError {
    move |source| KeeperError::System { what, source }
}

/// An error and its causes in one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// What a new keeper takes over, from a worker whose keeper has died.
#[derive(Debug)]
pub struct Orphan {
    /// The worker.
    pub worker: Identity,
    /// How many workers came before it.
    pub restarts: u32,
    /// The keeper's end of a new channel.
    pub channel: OwnedFd,
    /// The socket that it listens on.
    pub control: OwnedFd,
    /// What is to be kept.
    pub descriptors: Vec<Kept>,
}

/// Prepares a keeper by the plan in `directory`, to be started by [`Spawn::spawn`]. Its sockets can be connected to from
/// now on. Without an orphan it starts a first worker.
pub fn begin(directory: &Path, orphan: Option<Orphan>) -> Result<Spawn, KeeperError> {
    let plan = Plan::read(directory)?;
    let socket = crate::socket::listen_in(directory, KEEPER_SOCKET)?;
    let mut inheritance = Inheritance::new(directory);
    inheritance.add(arguments::KEEPER, socket.into());
    match orphan {
        None => {
            let control = crate::socket::listen_in(directory, CONTROL_SOCKET)?;
            inheritance.add(arguments::CONTROL, control.into());
        }
        Some(orphan) => {
            inheritance.worker = Some((orphan.worker.pid, orphan.worker.started));
            inheritance.restarts = orphan.restarts;
            inheritance.add(arguments::CONTROL, orphan.control);
            inheritance.add(arguments::CHANNEL, orphan.channel);
            inheritance.descriptors.extend(orphan.descriptors);
        }
    }
    let mut options = std::fs::OpenOptions::new();
    let log = options.append(true).create(true).mode(0o600).open(directory.join(KEEPER_LOG));
    let log = log.map_err(system("open the keeper's log"))?;
    let spawn = Spawn::new(&plan.keeper.program)
        .arguments(&plan.keeper.arguments)
        .stderr(Stdio::Descriptor(log.into()));
    Ok(inheritance.bequeath(spawn))
}

#[cfg(test)]
mod tests;
