//! The channel to the machine that is dialled ahead, for this worker's successor.
//!
//! ```text
//!              ┌───────── a pause ◄── it ended, or could not be dialled ◄────────┐
//!              ▼                                                                 │
//!  none ──there is a link, and room──► dialled: the keeper has it ───────────────┤
//!    ▲                                    │      │ this worker died              │
//!    └── sessions are scarce, a while ────┘      └──► the successor's link, or of no use: it dials
//! ```
//!
//! There is one at most, and only for a mount that has a successor. It is handed over as soon as it is begun: what is left
//! of the dialling goes on whoever dies. The keeper gives it to the next worker and forgets it, so that none is used twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use remote::WorkerDialer;
use remote::client::AgentClient;
use remote::spare::{Room, SpareCarrier};
use supervisor::keeper::Tether;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::in_full;
use super::succession::SPARE;
use crate::machine::LinkStanding;
use crate::system::Watched;

/// One that lived for less was refused, or was of no use. A session that is stopped does not take one, and its relay gives up
/// after ten seconds: that is such a one, too.
const SHORT_LIFE: Duration = Duration::from_secs(15);

/// The pause after the end of one that has lived: it ended with its login, or with its keeper.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause after one that has not, twice as long each time, and the one while sessions are scarce: what is in the way
/// is not gone in a moment.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long the end of a mount may wait for the channel's.
const END_MAX: Duration = Duration::from_secs(1);

/// When the first one is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// Now: the last one has just been used up.
    AtOnce,
    /// When there is a link.
    WithLink,
}

/// Keeps a channel in reserve, as long as this lives.
pub(super) struct Reserve {
    /// Dropped to say that none is needed any more.
    wanted: oneshot::Sender<std::convert::Infallible>,
    task: JoinHandle<()>,
}

impl Reserve {
    /// Begins to keep one. `None` for a machine to which a stream is got as fast without, and for a mount that has no
    /// successor.
    pub(super) fn keep(
        dialer: WorkerDialer,
        client: AgentClient,
        standing: watch::Receiver<LinkStanding>,
        tether: Arc<Tether>,
        first: First,
    ) -> Option<Reserve> {
        let room = dialer.room().filter(|_| tether.has_handed_over())?;
        let watched = Watched::new(room.mark());
        let watched =
            watched.inspect_err(|error| tracing::warn!(%error, "no channel is held in reserve")).ok()?;
        let (wanted, unwanted) = oneshot::channel();
        let keeping = Keeping { dialer, client, standing, tether, room, watched };
        Some(Reserve { wanted, task: tokio::spawn(keeping.run(first, unwanted)) })
    }

    /// Gives it back, and waits until it has ended.
    pub(super) async fn end(self) {
        drop(self.wanted);
        if tokio::time::timeout(END_MAX, self.task).await.is_err() {
            tracing::warn!("the channel in reserve does not end");
        }
    }
}

struct Keeping {
    dialer: WorkerDialer,
    client: AgentClient,
    standing: watch::Receiver<LinkStanding>,
    tether: Arc<Tether>,
    room: Room,
    watched: Watched,
}

/// Why there is none any more.
enum Over {
    Ended,
    Scarce,
    Unwanted,
}

impl Keeping {
    async fn run(mut self, first: First, mut unwanted: oneshot::Receiver<std::convert::Infallible>) {
        let mut is_due = first == First::AtOnce;
        let mut pause_next = PAUSE;
        loop {
            if !is_due {
                tokio::select! {
                    is_linked = self.linked() => if !is_linked { return },
                    _ = &mut unwanted => return,
                }
            }
            is_due = false;
            let began = Instant::now();
            let over = match self.begin() {
                Some(carrier) => self.hold(carrier, &mut unwanted).await,
                None if self.room.is_scarce() => Over::Scarce,
                None => Over::Ended,
            };
            let pause = match over {
                Over::Unwanted => return,
                Over::Scarce => PAUSE_MAX,
                Over::Ended if began.elapsed() >= SHORT_LIFE => PAUSE,
                Over::Ended => pause_next,
            };
            pause_next = (2 * pause).min(PAUSE_MAX);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = &mut unwanted => return,
            }
        }
    }

    /// Waits until there is a link. False when there will be none any more.
    async fn linked(&mut self) -> bool {
        loop {
            self.standing.borrow_and_update();
            if self.client.is_lost() {
                return false;
            }
            if self.client.away().is_none() {
                return true;
            }
            if self.standing.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Dials one and gives it to the keeper, unless there is no room for it.
    fn begin(&self) -> Option<SpareCarrier> {
        self.watched.forget();
        if self.room.is_scarce() {
            return None;
        }
        let (spare, carrier) = match self.dialer.dial_ahead(self.client.peer().session)? {
            Ok(dialled) => dialled,
            Err(error) => {
                tracing::warn!(error = in_full(&error), "no channel could be dialled ahead");
                return None;
            }
        };
        match self.tether.put_aside(SPARE, &spare.descriptors()) {
            Ok(()) => Some(carrier),
            Err(error) => {
                tracing::warn!(%error, "the keeper has not got the channel in reserve");
                None
            }
        }
    }

    async fn hold(
        &self,
        carrier: SpareCarrier,
        unwanted: &mut oneshot::Receiver<std::convert::Infallible>,
    ) -> Over {
        let over = tokio::select! {
            exit = carrier.ended() => {
                tracing::debug!(%exit, "the channel in reserve has ended");
                Over::Ended
            }
            () = self.watched.written() => Over::Scarce,
            // Nothing is ever sent: this is the end of whoever wants it.
            _ = unwanted => Over::Unwanted,
        };
        if let Err(error) = self.tether.put_aside(SPARE, &[]) {
            tracing::warn!(%error, "the keeper holds a channel in reserve that is not to be used");
        }
        carrier.end().await;
        over
    }
}
