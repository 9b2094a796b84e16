//! How a mount is, as a pure function of what is known of it: what its worker says, what the probe finds, how the
//! connection is.
//!
//! ```text
//!                 link lost             nobody tries
//!      active ◄────────────► reconnecting ◄────────► disconnected
//!        │ ▲                      │                        │
//!        │ └── a worker takes over while the state stays ──┘
//!        └──────────────► failed{reason}: no worker takes over
//! ```

use wire::api::event::MountWord;
use wire::api::status::{ConnectionState, Health, MountStatus};

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What the worker says of its own link.
    said: MountStatus,
    /// Why, as the worker says it.
    said_why: Option<String>,
    connection: ConnectionState,
    connection_why: Option<String>,
    worker: Worker,
    health: Health,
    failed: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Worker {
    Serving,
    /// Another one is to take its place.
    Lost {
        why: String,
    },
}

/// What happened to a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its worker said how its link is.
    Said {
        /// The state.
        status: MountStatus,
        /// Why.
        why: Option<String>,
    },
    /// The connection of its machine entered a state.
    Connection {
        /// Which.
        state: ConnectionState,
        /// Why.
        why: Option<String>,
    },
    /// Its worker died, or is being replaced.
    WorkerLost {
        /// Why.
        why: String,
    },
    /// A worker serves.
    WorkerServes,
    /// It was probed.
    Probed(Health),
    /// It is over.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Standing {
    /// A mount that has just come to serve.
    pub fn serving() -> Standing {
        Standing {
            said: MountStatus::Active,
            said_why: None,
            connection: ConnectionState::Connected,
            connection_why: None,
            worker: Worker::Serving,
            health: Health::Healthy,
            failed: None,
        }
    }

    /// Takes one change. Nothing brings a failed mount back.
    #[must_use]
    pub fn on(self, change: Change) -> Standing {
        if self.failed.is_some() {
            return self;
        }
        match change {
            Change::Said { status, why } => Standing { said: status, said_why: why, ..self },
            Change::Connection { state, why } => Standing { connection: state, connection_why: why, ..self },
            Change::WorkerLost { why } => Standing { worker: Worker::Lost { why }, ..self },
            // What was found of the one before says nothing of this one.
            Change::WorkerServes => Standing { worker: Worker::Serving, health: Health::Healthy, ..self },
            Change::Probed(health) => Standing { health, ..self },
            Change::Failed { reason } => Standing { failed: Some(reason), ..self },
        }
    }

    /// What the last probe found.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The state of the mount. Whether the machine is there, its own worker knows best; whether anybody tries to get
    /// there again, the connection does.
    pub fn status(&self) -> MountStatus {
        match (&self.failed, &self.said, self.connection) {
            (Some(reason), _, _) => MountStatus::Failed { reason: reason.clone() },
            (None, MountStatus::Reconnecting, ConnectionState::Disconnected) => MountStatus::Disconnected,
            (None, said, _) => said.clone(),
        }
    }

    /// Why it is not active.
    pub fn reason(&self) -> Option<&str> {
        match self.status() {
            MountStatus::Active | MountStatus::Failed { .. } => None,
            // What stands in the way of the connection says more than that the stream ended.
            MountStatus::Reconnecting | MountStatus::Disconnected => {
                let connection = match self.connection {
                    ConnectionState::Connected => None,
                    _ => self.connection_why.as_deref(),
                };
                connection.or(self.said_why.as_deref())
            }
        }
    }

    /// What an event says of it: the word, and why.
    pub fn news(&self) -> (MountWord, Option<String>) {
        let status = self.status();
        let why = self.reason().map(str::to_owned);
        match (&status, &self.worker, &self.health) {
            (MountStatus::Failed { reason }, _, _) => (MountWord::Failed, Some(reason.clone())),
            (_, Worker::Lost { why }, _) | (_, Worker::Serving, Health::Failed { why }) => {
                (MountWord::Recovering, Some(why.clone()))
            }
            (MountStatus::Disconnected, ..) => (MountWord::Disconnected, why),
            (MountStatus::Reconnecting, ..) => (MountWord::Reconnecting, why),
            (MountStatus::Active, _, Health::Degraded { why }) => (MountWord::Degraded, Some(why.clone())),
            (MountStatus::Active, _, Health::Healthy) => (MountWord::Active, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: MountStatus) -> Change {
        Change::Said { status, why: Some("the stream ended".to_owned()) }
    }

    fn connection(state: ConnectionState) -> Change {
        Change::Connection { state, why: Some("no route".to_owned()) }
    }

    fn lost() -> Change {
        Change::WorkerLost { why: "signal 9".to_owned() }
    }

    fn probed(why: Option<&str>) -> Change {
        Change::Probed(why.map_or(Health::Healthy, |why| Health::Failed { why: why.to_owned() }))
    }

    fn after(changes: &[Change]) -> Standing {
        changes.iter().cloned().fold(Standing::serving(), Standing::on)
    }

    #[test]
    fn the_words_follow_the_worker_the_connection_and_the_probe() {
        use ConnectionState as C;
        use MountStatus::{Active, Disconnected, Reconnecting};
        use MountWord as W;
        let degraded = || Change::Probed(Health::Degraded { why: "slow".to_owned() });
        let failed = || Change::Failed { reason: "five deaths".to_owned() };
        let cases: &[(&[Change], W, &str)] = &[
            (&[], W::Active, ""),
            (&[said(Reconnecting)], W::Reconnecting, "the stream ended"),
            (&[said(Reconnecting), connection(C::Reconnecting)], W::Reconnecting, "no route"),
            (&[said(Reconnecting), connection(C::Connected)], W::Reconnecting, "the stream ended"),
            // Nobody tries any more.
            (&[said(Reconnecting), connection(C::Disconnected)], W::Disconnected, "no route"),
            (&[said(Disconnected)], W::Disconnected, "the stream ended"),
            // The worker's own link is what its mount hangs on.
            (&[connection(C::Reconnecting)], W::Active, ""),
            (&[connection(C::Disconnected)], W::Active, ""),
            (&[said(Reconnecting), said(Active)], W::Active, ""),
            (&[lost()], W::Recovering, "signal 9"),
            (&[said(Reconnecting), lost()], W::Recovering, "signal 9"),
            (&[lost(), Change::WorkerServes], W::Active, ""),
            (&[said(Reconnecting), lost(), Change::WorkerServes], W::Reconnecting, "the stream ended"),
            (&[probed(Some("it hangs"))], W::Recovering, "it hangs"),
            (&[probed(Some("it hangs")), Change::WorkerServes], W::Active, ""),
            (&[probed(Some("it hangs")), probed(None)], W::Active, ""),
            (&[degraded()], W::Degraded, "slow"),
            (&[degraded(), said(Disconnected)], W::Disconnected, "the stream ended"),
            (&[lost(), failed()], W::Failed, "five deaths"),
            // For good.
            (&[failed(), Change::WorkerServes, said(Active), probed(None)], W::Failed, "five deaths"),
        ];
        for (changes, word, why) in cases {
            let (told, reason) = after(changes).news();
            assert_eq!((told, reason.as_deref().unwrap_or_default()), (*word, *why), "{changes:?}");
        }
    }

    #[test]
    fn a_worker_that_is_replaced_leaves_the_state_as_it_is() {
        let standing = after(&[said(MountStatus::Reconnecting), lost()]);
        assert_eq!(standing.status(), MountStatus::Reconnecting);
        assert_eq!(after(&[lost()]).status(), MountStatus::Active);
    }
}
