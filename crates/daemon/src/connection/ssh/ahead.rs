//! A second channel to a machine's agent, opened together with the link's own for whoever waits for one: each of the two takes
//! several round trips, and neither needs the other.
//!
//! ```text
//!  both begun ──┬─ one is there ────► it is the link's own ; the other is ahead ──► taken, or dropped with the link
//!               └─ neither is there ► the link's own is opened as if nobody waited
//! ```
//!
//! Whichever is there first is the link's own: a server that gives out one session only has given that one.

use std::sync::Arc;

use remote::client::{ConnectOptions, NoEvents};
use remote::place::Agents;
use remote::transport::ssh::SshOptions;
use remote::{Connection, OpenError, connect_placed, connect_placing};
use tokio::task::JoinHandle;

/// A channel that is being opened, or is open. Dropped, it is closed.
pub(super) struct Ahead(JoinHandle<Result<Connection, OpenError>>);

impl Ahead {
    fn begin(options: &SshOptions, agents: &Agents) -> Ahead {
        let (options, agents) = (options.clone(), agents.clone());
        Ahead(tokio::spawn(async move {
            connect_placed(&options, &agents, ConnectOptions::default(), Arc::new(NoEvents)).await
        }))
    }

    /// The channel, once it is open. None when it cannot be opened this way, or is lost.
    pub(super) async fn connection(mut self) -> Option<Connection> {
        self.opened().await
    }

    /// The same, once only.
    async fn opened(&mut self) -> Option<Connection> {
        match (&mut self.0).await {
            Ok(Ok(connection)) => (!connection.client.is_lost()).then_some(connection),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a channel could not be opened ahead");
                None
            }
            Err(error) => {
                tracing::error!(%error, "a channel that was being opened ahead");
                None
            }
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Opens the channel of a link, and one more if somebody waits for it.
pub(super) async fn connect(
    options: &SshOptions,
    agents: &Agents,
    opens: bool,
) -> Result<(Connection, Option<Ahead>), OpenError> {
    if opens && let Some(reached) = first_of_two(options, agents).await {
        return Ok(reached);
    }
    let channel = connect_placing(options, agents, ConnectOptions::default(), Arc::new(NoEvents)).await?;
    Ok((channel, None))
}

/// The first of two channels that is there, and the other if that one may still come.
async fn first_of_two(options: &SshOptions, agents: &Agents) -> Option<(Connection, Option<Ahead>)> {
    let (mut one, mut other) = (Ahead::begin(options, agents), Ahead::begin(options, agents));
    let (first, second) = tokio::select! {
        first = one.opened() => (first, other),
        first = other.opened() => (first, one),
    };
    match first {
        Some(channel) => Some((channel, Some(second))),
        None => second.connection().await.map(|channel| (channel, None)),
    }
}
