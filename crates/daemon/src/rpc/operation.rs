//! `operation.*`

use tokio::sync::oneshot;
use wire::api::ErrorObject;
use wire::api::operation::{Cancel, Operations, Show, Wait};
use wire::api::status::Operation;

use super::Daemon;
use crate::owner::{Event, ending, unknown_operation};

/// All of them.
pub async fn list(daemon: &Daemon) -> Result<Operations, ErrorObject> {
    let (answer, answered) = oneshot::channel();
    daemon.owner.send(Event::Document { answer }).await;
    answered.await.map(|document| Operations { operations: document.operations }).map_err(|_| ending())
}

/// One of them.
pub async fn show(daemon: &Daemon, show: Show) -> Result<Operation, ErrorObject> {
    let found = list(daemon).await?.operations.into_iter().find(|operation| operation.id == show.operation);
    found.ok_or_else(|| unknown_operation(show.operation))
}

/// How one ends.
pub async fn wait(daemon: &Daemon, wait: Wait) -> Result<Operation, ErrorObject> {
    daemon.owner.ask(|answer| Event::AwaitOperation { id: wait.operation, answer }).await
}

/// Has one end, and waits until nothing of it is left.
pub async fn cancel(daemon: &Daemon, cancel: Cancel) -> Result<Operation, ErrorObject> {
    daemon.owner.ask(|answer| Event::CancelOperation { id: cancel.operation, answer }).await
}
