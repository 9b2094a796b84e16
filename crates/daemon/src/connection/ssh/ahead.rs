//! A second channel to a machine's agent, opened together with the link's own for whoever waits for one: each of the two takes
//! several round trips, and neither needs the other.
//!
//! ```text
//!  both begun ──┬─ one is there ────► it is the link's own ; the other is ahead ──► taken, or dropped with the link
//!               ├─ neither is there ► the link's own is opened as if nobody waited
//!               └─ nor ever will be ► that is the outcome
//! ```
//!
//! Whichever is there first is the link's own: a server that gives out one session only has given that one. A machine whose
//! shell hangs, or whose agent speaks another version, is not asked again: that would only take as long once more.

use std::sync::Arc;

use remote::client::{ConnectError, ConnectOptions, NoEvents};
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
        self.opened().await.ok()
    }

    /// The same, once only, and why not, if that is known.
    async fn opened(&mut self) -> Result<Connection, Option<OpenError>> {
        match (&mut self.0).await {
            Ok(Ok(connection)) if connection.client.is_lost() => Err(None),
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a channel could not be opened ahead");
                Err(Some(error))
            }
            Err(error) => {
                tracing::error!(%error, "a channel that was being opened ahead");
                Err(None)
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
    if opens {
        let (one, other) = (Ahead::begin(options, agents), Ahead::begin(options, agents));
        if let Some(reached) = first_of_two(one, other).await? {
            return Ok(reached);
        }
    }
    let channel = connect_placing(options, agents, ConnectOptions::default(), Arc::new(NoEvents)).await?;
    Ok((channel, None))
}

/// The first of two channels that is there, and the other if that one may still come. None when neither is there, and another
/// attempt may come to more; else why none would.
async fn first_of_two(
    mut one: Ahead,
    mut other: Ahead,
) -> Result<Option<(Connection, Option<Ahead>)>, OpenError> {
    let (first, mut second) = tokio::select! {
        first = one.opened() => (first, other),
        first = other.opened() => (first, one),
    };
    let first = match first {
        Ok(channel) => return Ok(Some((channel, Some(second)))),
        Err(why) => why,
    };
    let second = match second.opened().await {
        Ok(channel) => return Ok(Some((channel, None))),
        Err(why) => why,
    };
    [first, second].into_iter().flatten().find(is_final).map_or(Ok(None), Err)
}

/// Whether another attempt comes to the same: neither a placed agent nor another master changes it.
fn is_final(error: &OpenError) -> bool {
    use ConnectError::{Mismatch, TimedOut};
    matches!(error, OpenError::Agent { source: TimedOut { .. } | Mismatch(_), .. })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use remote::client::Noise;
    use wire::bytestring::ByteString;

    use super::*;

    fn failing(error: OpenError) -> Ahead {
        Ahead(tokio::spawn(async { Err(error) }))
    }

    fn gone() -> OpenError {
        OpenError::Gone { path: ByteString::default() }
    }

    fn timed_out() -> OpenError {
        let source = ConnectError::TimedOut { allowed: Duration::from_secs(30), noise: Noise::default() };
        OpenError::Agent { source, exit: None }
    }

    #[tokio::test]
    async fn a_machine_that_does_not_answer_is_not_asked_again() {
        for (one, other) in [(timed_out(), timed_out()), (gone(), timed_out()), (timed_out(), gone())] {
            let error = first_of_two(failing(one), failing(other)).await.err();
            assert!(error.as_ref().is_some_and(is_final), "{error:?}");
        }
        let outcome = first_of_two(failing(gone()), failing(gone())).await;
        assert!(outcome.is_ok_and(|reached| reached.is_none()), "an agent may still be placed");
    }
}
