//! Waiting for the end of a detached process, over connections and lives of the daemon.
//!
//! ```text
//!            ┌───── the machine can be reached ──────┐
//!            ▼                                       │
//!  asking ─► waiting ──the link is given up──► not asked
//!    │          └──► ended{how}   │
//!    └── could not be reached ────┘
//! ```
//!
//! As long as it waits, it has the machine's connection open.

use remote::client::CallError;
use tokio::sync::watch;
use wire::agent::Errno;
use wire::agent::process::{ExitStatus, ProcessId as FarId};
use wire::api::event::ProcessState;
use wire::api::process::Outcome;
use wire::api::time::Timestamp;

use crate::database::{Database, ProcessRow};
use crate::failure::chain;
use crate::owner::{Event, OwnerHandle, Wanted};

/// What the agent says of a process that its session does not have.
pub const ESRCH: Errno = Errno(3);

/// What is needed to watch a process.
pub struct Watched {
    /// What it is.
    pub row: ProcessRow,
    /// Who is told.
    pub owner: OwnerHandle,
    /// Where its end is written.
    pub database: Database,
    /// Whether its machine can be asked about it.
    pub is_reachable: watch::Receiver<bool>,
}

/// How a process ended, as the API says it.
pub fn outcome(status: ExitStatus) -> Outcome {
    match status {
        ExitStatus::Exited(code) => Outcome::Exited { code },
        ExitStatus::Signalled(signal) => Outcome::Signalled { signal: signal.into() },
    }
}

/// How a process ended that its session does not have, if nobody has heard of its end.
pub fn unknown_there() -> Outcome {
    Outcome::Lost { reason: "its machine does not have it any more".to_owned() }
}

/// What is told of a process that has ended: with what it exited, unless it was lost.
pub fn state(outcome: &Outcome) -> (ProcessState, Option<u8>) {
    match outcome {
        Outcome::Exited { .. } | Outcome::Signalled { .. } => {
            (ProcessState::Exited, Some(outcome.exit_code()))
        }
        Outcome::Lost { .. } | Outcome::Detached => (ProcessState::Lost, None),
    }
}

/// Watches a process until it has ended, or the owner knows it no more.
pub async fn watch(watched: Watched) {
    let Watched { mut row, owner, database, mut is_reachable } = watched;
    loop {
        if *is_reachable.borrow_and_update() {
            let mut told = is_reachable.clone();
            let asked = tokio::select! {
                asked = ask(&row, &owner) => asked,
                gone = told.wait_for(|is_reachable| !is_reachable) => match gone {
                    Ok(_) => continue,
                    Err(_) => return,
                },
            };
            match asked {
                Ok(ended) => {
                    row.outcome = Some(ended.clone());
                    row.since = Timestamp::from(std::time::SystemTime::now());
                    let id = row.id;
                    if let Err(error) = database.put_process(row).await {
                        tracing::error!(process = %id, %error, "the end of a process was not written");
                    }
                    return owner.send(Event::ProcessWatched(id, Ok(ended))).await;
                }
                Err(why) => owner.send(Event::ProcessWatched(row.id, Err(Some(why)))).await,
            }
        }
        if is_reachable.changed().await.is_err() {
            return;
        }
    }
}

/// Waits for the end. `Err` if the machine cannot be asked.
async fn ask(row: &ProcessRow, owner: &OwnerHandle) -> Result<Outcome, String> {
    // Nobody is there to answer questions.
    let wanted = Wanted::new(row.machine.clone(), row.caller.clone(), None);
    let lease = owner.acquire(wanted).await.map_err(|error| error.message)?;
    let commands = lease.link().commands().await.map_err(|error| error.message)?;
    owner.send(Event::ProcessWatched(row.id, Err(None))).await;
    // Whoever let it go may have died before the machine heard of it.
    match commands.client.patient().process_detach(FarId(row.far)).await {
        Ok(()) => {}
        Err(error @ CallError::Lost(_)) => return Err(chain(&error)),
        Err(CallError::Failed(failure)) if failure.errno == ESRCH => {}
        Err(error) => tracing::warn!(process = %row.id, error = chain(&error), "it is not left to itself"),
    }
    match commands.client.patient().process_wait(FarId(row.far)).await {
        Ok(status) => Ok(outcome(status)),
        Err(CallError::Failed(failure)) if failure.errno == ESRCH => Ok(unknown_there()),
        Err(error) => Err(chain(&error)),
    }
}
