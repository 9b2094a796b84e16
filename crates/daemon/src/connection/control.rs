//! The channel to its machine's agent that a link itself has: it tells whether the machine is there, and the daemon's own
//! requests go through it. Workers have channels of their own.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use remote::place::Agents;
use remote::{Connection, OpenError};
use wire::api::{ErrorKind, ErrorObject};

use super::ssh::from_open;
use crate::failure::{chain, failure};

/// How long a channel that is closed may take to end in an orderly way. Through a link that is dead it does not.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The agents that can be placed on a machine.
pub(super) async fn agents(
    machine: &str,
    own_program: &Path,
    preferred: Option<&Path>,
) -> Result<Agents, ErrorObject> {
    let (own_program, preferred) = (own_program.to_owned(), preferred.map(PathBuf::from));
    let finding = tokio::task::spawn_blocking(move || Agents::find(&own_program, preferred.as_deref()));
    let found = finding.await.map_err(|error| failure(&error))?;
    found.map_err(|error| from_open(machine, &OpenError::from(error)))
}

/// Such a channel, until the link is closed or lost.
pub(super) struct Control {
    machine: String,
    agent_version: String,
    channel: Mutex<Option<Connection>>,
}

impl Control {
    /// Asks the agent who it is. Gives back too where its program is.
    pub async fn new(machine: String, channel: Connection) -> Result<(Control, Vec<u8>), ErrorObject> {
        let description = channel.client.describe().await.map_err(|error| {
            ErrorObject::new(ErrorKind::Unreachable, format!("lost `{machine}`: {}", chain(&error)))
        })?;
        let control =
            Control { machine, agent_version: description.release, channel: Mutex::new(Some(channel)) };
        Ok((control, description.program))
    }

    /// What the machine is called.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// The release of the agent.
    pub fn agent_version(&self) -> String {
        self.agent_version.clone()
    }

    /// The channel, while it is there.
    pub fn get(&self) -> Option<Connection> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, or the error that a client sees.
    pub fn shared(&self) -> Result<Connection, ErrorObject> {
        self.get().ok_or_else(|| {
            let message = format!("the connection to `{}` is closed", self.machine);
            ErrorObject::new(ErrorKind::Unreachable, message)
        })
    }

    /// The process that carries it.
    pub fn pid(&self) -> Option<u32> {
        self.get().map(|channel| channel.program.pid())
    }

    /// Whether the agent answers.
    pub async fn is_alive(&self) -> bool {
        match self.get() {
            Some(channel) => channel.client.ping().await.is_ok(),
            None => false,
        }
    }

    /// Nobody uses it from now on.
    pub fn take(&self) -> Option<Connection> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Ends a channel that was taken.
pub(super) async fn end(channel: Option<Connection>) {
    let Some(Connection { client, program }) = channel else { return };
    client.close_link();
    drop(client);
    drop(tokio::time::timeout(END_TIMEOUT, program.ended()).await);
}
