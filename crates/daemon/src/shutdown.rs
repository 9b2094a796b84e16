//! The end of the daemon: mounts first, the inner ones before the outer ones, then connections. Mounts may be left to the
//! next daemon.

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use wire::api::ErrorObject;
use wire::api::mount::{Force, RemovedMount};
use wire::bytestring::ByteString;

use crate::mount::MountHandle;
use crate::owner::{Event, OwnerHandle};

/// Takes away mounts, side by side as far as none lies in another. `mounts` has the inner ones first.
pub async fn stop_all(mounts: Vec<MountHandle>, force: Force) -> Vec<Result<RemovedMount, ErrorObject>> {
    let mut outcomes = Vec::new();
    let mut left = mounts;
    while !left.is_empty() {
        let (free, outer): (Vec<_>, Vec<_>) =
            left.iter().cloned().partition(|mount| !left.iter().any(|other| lies_in(other, mount)));
        let mut stopping: JoinSet<_> =
            free.into_iter().map(|mount| async move { mount.stop(force).await }).collect();
        while let Some(stopped) = stopping.join_next().await {
            outcomes.push(stopped.unwrap_or_else(|error| Err(ErrorObject::internal(error.to_string()))));
        }
        left = outer;
    }
    outcomes
}

fn lies_in(inner: &MountHandle, outer: &MountHandle) -> bool {
    inner.id != outer.id
        && inner.dir.as_path() != outer.dir.as_path()
        && inner.dir.as_path().starts_with(outer.dir.as_path())
}

/// Takes all mounts away and has no new ones made; on failure the daemon goes on. What was kept aside is returned.
pub async fn stop_mounts(owner: &OwnerHandle, force: Force) -> Result<Vec<ByteString>, Vec<ErrorObject>> {
    let (answer, answered) = oneshot::channel();
    owner.send(Event::BeginStop { answer }).await;
    // Without an owner there are no mounts.
    let mounts = answered.await.unwrap_or_default();
    let outcomes = stop_all(mounts, force).await;
    let (mut kept_aside, mut errors) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(removed) => kept_aside.extend(removed.kept_aside),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        return Ok(kept_aside);
    }
    owner.send(Event::AbandonStop).await;
    Err(errors)
}

/// Leaves all mounts to the next daemon and has no new ones made. Those that do not serve yet are undone.
pub async fn leave_mounts(owner: &OwnerHandle) {
    let (answer, answered) = oneshot::channel();
    owner.send(Event::BeginStop { answer }).await;
    // Without an owner there are no mounts.
    let mounts = answered.await.unwrap_or_default();
    let leaving: JoinSet<()> = mounts.into_iter().map(|mount| async move { mount.leave().await }).collect();
    leaving.join_all().await;
}

/// Closes all connections and ends the owner.
pub async fn close_connections(owner: &OwnerHandle) {
    let (answer, answered) = oneshot::channel();
    owner.send(Event::Quit { answer }).await;
    // The owner may have ended before.
    drop(answered.await);
}
