//! `daemon.*`

use tokio::sync::oneshot;
use wire::api::daemon::{DaemonStatus, Fate, Stop, Stopped};
use wire::api::time::Timestamp;
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;

use super::Daemon;
use crate::Farewell;
use crate::failure::failure;
use crate::owner::{Event, ending};
use crate::session::{Done, Effect, done_with, failed};
use crate::shutdown;
use crate::system;

/// About this process.
pub async fn status(daemon: &Daemon) -> Result<DaemonStatus, ErrorObject> {
    let (answer, answered) = oneshot::channel();
    daemon.owner.send(Event::Document { answer }).await;
    let document = answered.await.map_err(|_| ending())?;
    Ok(DaemonStatus {
        pid: std::process::id(),
        version: wire::RELEASE.to_owned(),
        since: Timestamp::from(daemon.since),
        state_dir: ByteString::from(daemon.paths.state_dir()),
        runtime_dir: ByteString::from(daemon.paths.runtime_dir()),
        log: ByteString::from(daemon.paths.log()),
        mounts: document.mounts.len() as u64,
        resident_bytes: system::resident_bytes().map_err(|error| failure(&error))?,
    })
}

/// Takes all mounts away, or leaves them to the next daemon; the process ends once this has been answered. What has begun
/// is brought to its end also when the client does not wait for it.
pub async fn stop(daemon: &Daemon, stop: Stop) -> Done {
    let (told, outcome) = oneshot::channel();
    let (answered, after) = oneshot::channel();
    let (owner, end) = (daemon.owner.clone(), daemon.end.clone());
    tokio::spawn(async move {
        let (stopped, farewell) = match stop.mounts {
            Fate::Unmounted => (shutdown::stop_mounts(&owner, stop.force).await, Farewell::Orderly),
            Fate::Left => {
                shutdown::leave_mounts(&owner).await;
                (Ok(Vec::new()), Farewell::Left)
            }
        };
        let ends = stopped.is_ok();
        if ends && farewell == Farewell::Orderly {
            shutdown::close_connections(&owner).await;
        }
        // A client that has gone is neither told nor waited for.
        let _ = told.send(stopped);
        if ends {
            let _ = after.await;
            let _ = end.send(farewell).await;
        }
    });
    match outcome.await {
        Ok(Ok(kept_aside)) => {
            let stopped = Stopped { pid: std::process::id(), kept_aside };
            done_with::<Stop>(Ok(stopped), Effect::End(answered))
        }
        Ok(Err(errors)) => failed(one_of(errors)),
        Err(_) => failed(ending()),
    }
}

/// The first error stands for all.
fn one_of(errors: Vec<ErrorObject>) -> ErrorObject {
    let others = errors.len().saturating_sub(1);
    let Some(first) = errors.into_iter().next() else {
        return ErrorObject::new(ErrorKind::Failure, "the daemon could not stop");
    };
    let mut error = ErrorObject::new(
        first.kind(),
        match others {
            0 => format!("the daemon goes on: {}", first.message),
            more => format!("the daemon goes on: {} (and {more} more)", first.message),
        },
    );
    if let Some(hint) = first.hint() {
        error = error.with_hint(hint);
    }
    error
}
