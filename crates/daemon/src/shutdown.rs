//! The end of the daemon: mounts first, the inner ones before the outer ones, then connections. Mounts may be left to the
//! next daemon.

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use wire::api::ErrorObject;
use wire::api::mount::{Force, RemovedMount};
use wire::bytestring::ByteString;

use crate::mount::MountHandle;
use crate::owner::{Event, OwnerHandle};

/// So many paths fit into the message of an error, which is one line.
const KEPT_NAMED_MAX: usize = 8;

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

/// What is told when all are gone, or else the first error, which says what was kept of those that are.
pub fn all_gone(outcomes: Vec<Result<RemovedMount, ErrorObject>>) -> Result<Vec<RemovedMount>, ErrorObject> {
    let (mut gone, mut errors) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(removed) => gone.push(removed),
            Err(error) => errors.push(error),
        }
    }
    gone.sort_by_key(|mount| mount.id);
    match errors.into_iter().next() {
        None => Ok(gone),
        Some(error) => {
            let kept_aside: Vec<_> = gone.into_iter().flat_map(|mount| mount.kept_aside).collect();
            Err(telling(error, &kept_aside))
        }
    }
}

/// An error that says what was kept, too: there is no other answer that could.
fn telling(mut error: ErrorObject, kept_aside: &[ByteString]) -> ErrorObject {
    let named: Vec<String> = kept_aside.iter().take(KEPT_NAMED_MAX).map(|path| format!("`{path}`")).collect();
    if named.is_empty() {
        return error;
    }
    let more = match kept_aside.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    error.message += &format!("; what others had not saved is kept in {}{more}", named.join(", "));
    error
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
    let first = telling(errors.remove(0), &kept_aside);
    errors.insert(0, first);
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

#[cfg(test)]
mod tests {
    use super::*;
    use wire::api::ErrorKind;
    use wire::api::id::MountId;

    fn gone(number: u64, kept_aside: &[&str]) -> RemovedMount {
        let kept_aside = kept_aside.iter().map(|path| ByteString::from(*path)).collect();
        RemovedMount { id: MountId::new(number), dir: ByteString::from("/m"), kept_aside }
    }

    #[test]
    fn what_was_kept_is_told_also_when_another_mount_stays() {
        let told = all_gone(vec![Ok(gone(2, &["/s/2"])), Ok(gone(1, &[]))]).unwrap();
        assert_eq!(told.iter().map(|mount| mount.id.number()).collect::<Vec<_>>(), [1, 2]);
        let busy = || Err(ErrorObject::new(ErrorKind::Conflict, "busy").with_hint("force it"));
        let error = all_gone(vec![Ok(gone(2, &["/s/2"])), busy(), Ok(gone(1, &[]))]).unwrap_err();
        assert_eq!((error.kind(), error.hint()), (ErrorKind::Conflict, Some("force it")));
        assert_eq!(error.message, "busy; what others had not saved is kept in `/s/2`");
        assert_eq!(all_gone(vec![busy()]).unwrap_err().message, "busy");
    }
}
