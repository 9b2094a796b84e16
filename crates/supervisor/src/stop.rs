//! The ladder from a polite request to SIGKILL.
//!
//! ```text
//!   begin ──► Asked ──grace.ask──► Terminated ──grace.terminate──► Killed ──grace.kill──► Stuck
//!               │ the request cannot be sent ──►┘                     │
//!               └──────────────────── exited ────────────────────────┴──► Ended
//! ```

use std::io;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::process::{Exit, Process};

/// How long each step may take before the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grace {
    /// After the request in the process's own protocol.
    pub ask: Duration,
    /// After SIGTERM.
    pub terminate: Duration,
    /// After SIGKILL. A process that has not ended by then is stuck in the kernel.
    pub kill: Duration,
}

/// What has to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send the request in the process's own protocol.
    Ask,
    /// Send SIGTERM to the process.
    Terminate,
    /// Send SIGKILL to its group.
    Kill,
    /// Nothing more can be done.
    GiveUp,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Time went by.
    Tick,
    /// The request could not be sent: there is no use in waiting for its effect.
    AskFailed,
    /// The process has ended.
    Exited,
}

/// Where on the ladder a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ladder {
    /// Asked, until then.
    Asked {
        /// When SIGTERM is due.
        until: Instant,
    },
    /// SIGTERM was sent.
    Terminated {
        /// When SIGKILL is due.
        until: Instant,
    },
    /// SIGKILL was sent.
    Killed {
        /// When it counts as stuck.
        until: Instant,
    },
    /// It did not end.
    Stuck,
    /// It has ended.
    Ended,
}

impl Ladder {
    /// The first step.
    pub fn begin(now: Instant, grace: &Grace) -> (Ladder, Action) {
        (Ladder::Asked { until: now + grace.ask }, Action::Ask)
    }

    /// When to send the next [`Event::Tick`].
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Ladder::Asked { until } | Ladder::Terminated { until } | Ladder::Killed { until } => Some(*until),
            Ladder::Stuck | Ladder::Ended => None,
        }
    }

    /// Advances. Performs no I/O: the caller carries out the action.
    #[must_use]
    pub fn on(self, event: Event, now: Instant, grace: &Grace) -> (Ladder, Option<Action>) {
        let terminate = (Ladder::Terminated { until: now + grace.terminate }, Some(Action::Terminate));
        match (self, event) {
            (Ladder::Ended, _) | (_, Event::Exited) => (Ladder::Ended, None),
            (Ladder::Asked { .. }, Event::AskFailed) => terminate,
            (Ladder::Asked { until }, Event::Tick) if now >= until => terminate,
            (Ladder::Terminated { until }, Event::Tick) if now >= until => {
                (Ladder::Killed { until: now + grace.kill }, Some(Action::Kill))
            }
            (Ladder::Killed { until }, Event::Tick) if now >= until => (Ladder::Stuck, Some(Action::GiveUp)),
            (state, Event::Tick | Event::AskFailed) => (state, None),
        }
    }
}

/// A process did not end.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Not even after SIGKILL: it is stuck in the kernel.
    #[error("process {pid} does not end, not even by SIGKILL")]
    Stuck {
        /// Its number.
        pid: u32,
    },
    /// It could not be signalled or waited for.
    #[error("could not stop process {pid}")]
    Process {
        /// Its number.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Stops a process and reaps it. `ask` sends the request of its own protocol; its failure leads to SIGTERM at once.
pub async fn stop<E>(
    process: &mut Process,
    grace: &Grace,
    ask: impl Future<Output = Result<(), E>>,
) -> Result<Exit, StopError> {
    let pid = process.pid();
    let failed = |source: io::Error| StopError::Process { pid, source };
    let (mut ladder, action) = Ladder::begin(Instant::now(), grace);
    debug_assert_eq!(action, Action::Ask);
    let mut ask = std::pin::pin!(ask);
    let mut asking = true;
    loop {
        let deadline = ladder.deadline().unwrap_or_else(Instant::now);
        let event = tokio::select! {
            biased;
            exit = process.exited() => return exit.map_err(failed),
            asked = &mut ask, if asking => {
                asking = false;
                match asked {
                    Ok(()) => continue,
                    Err(_) => Event::AskFailed,
                }
            }
            () = tokio::time::sleep_until(deadline) => Event::Tick,
        };
        let (next, action) = ladder.on(event, Instant::now(), grace);
        ladder = next;
        match action {
            Some(Action::Terminate) => process.signal(Signal::TERM).map_err(failed)?,
            Some(Action::Kill) => process.signal_group(Signal::KILL).map_err(failed)?,
            Some(Action::GiveUp) => return Err(StopError::Stuck { pid }),
            Some(Action::Ask) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Grace = Grace {
        ask: Duration::from_secs(10),
        terminate: Duration::from_secs(5),
        kill: Duration::from_secs(2),
    };

    #[test]
    fn each_step_comes_when_the_grace_of_the_last_is_over() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut ladder, first) = Ladder::begin(start, &GRACE);
        assert_eq!(first, Action::Ask);
        let steps = [
            (at(9), None),
            (at(10), Some(Action::Terminate)),
            (at(14), None),
            (at(15), Some(Action::Kill)),
            (at(16), None),
            (at(17), Some(Action::GiveUp)),
            (at(100), None),
        ];
        for (now, expected) in steps {
            let (next, action) = ladder.on(Event::Tick, now, &GRACE);
            assert_eq!(action, expected, "after {:?}", now - start);
            ladder = next;
        }
        assert_eq!(ladder, Ladder::Stuck);
    }

    #[test]
    fn a_request_that_cannot_be_sent_is_not_waited_for() {
        let start = Instant::now();
        let (ladder, _) = Ladder::begin(start, &GRACE);
        let (ladder, action) = ladder.on(Event::AskFailed, start, &GRACE);
        assert_eq!(action, Some(Action::Terminate));
        assert_eq!(ladder.deadline(), Some(start + GRACE.terminate));
        assert_eq!(ladder.on(Event::AskFailed, start, &GRACE), (ladder, None));
    }

    #[test]
    fn an_exit_ends_the_ladder_on_every_step() {
        let now = Instant::now();
        for ladder in [
            Ladder::Asked { until: now },
            Ladder::Terminated { until: now },
            Ladder::Killed { until: now },
            Ladder::Stuck,
            Ladder::Ended,
        ] {
            assert_eq!(ladder.on(Event::Exited, now, &GRACE), (Ladder::Ended, None));
        }
        assert_eq!(Ladder::Ended.on(Event::Tick, now + GRACE.ask, &GRACE), (Ladder::Ended, None));
        assert_eq!(Ladder::Ended.deadline(), None);
    }

    #[test]
    fn time_that_runs_backwards_takes_no_step() {
        let start = Instant::now() + Duration::from_secs(60);
        let (ladder, _) = Ladder::begin(start, &GRACE);
        assert_eq!(ladder.on(Event::Tick, start - Duration::from_secs(30), &GRACE), (ladder, None));
    }
}
