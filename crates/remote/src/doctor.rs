//! What is at the other end of a link, and how far away it is.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use wire::agent::Description;

use crate::client::{AgentClient, CallError};

/// How many round trips are measured.
const PINGS: usize = 9;

/// What a machine is found to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// What the agent says of itself and its machine.
    pub description: Description,
    /// What it can do: bits of [`wire::hello::capability`].
    pub capabilities: u64,
    /// The median of some round trips, on a link that was otherwise idle or not.
    pub round_trip: Duration,
}

/// Asks the agent, and measures.
pub async fn examine(client: &AgentClient) -> Result<Findings, CallError> {
    let description = client.describe().await?;
    let mut round_trips = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        round_trips.push(client.ping().await?);
    }
    round_trips.sort_unstable();
    let capabilities = client.peer().capabilities;
    Ok(Findings { description, capabilities, round_trip: round_trips[PINGS / 2] })
}

/// What `ssh -V` says, such as `OpenSSH_9.2p1`; `None` if there is no such program or it says nothing.
pub async fn ssh_version(program: &Path) -> Option<String> {
    let mut ssh = tokio::process::Command::new(program);
    ssh.arg("-V").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(5), ssh.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let version = text.split([',', ' ']).next()?.trim();
    (!version.is_empty()).then(|| version.to_owned())
}
