//! `thread.*`

use store::objects::Objects;
use store::thread::Changed;
use tokio::sync::oneshot;
use wire::api::machine::Source;
use wire::api::mount::{Create, Force};
use wire::api::thread::{
    CHANGES_BYTES_MAX, Capture, Captured, Captures, Change, ChangeKind, Changes, Collect, Collected,
    Compared, Diff, Drop, Dropped, Land, Landed, List, Log, New, Status, Switch, Switched, Threads, Undo,
    Undone,
};
use wire::api::{ErrorKind, ErrorObject, status};
use wire::bytestring::ByteString;
use wire::worker::ThreadPlace;

use super::Daemon;
use crate::database::ThreadRow;
use crate::owner::{FoundThread, Turn, ending};
use crate::session::ClientContext;
use crate::thread::{self, ThreadContext};

impl Daemon {
    /// What it takes to do something to threads.
    pub fn threads(&self) -> ThreadContext {
        let (owner, database, paths) = (self.owner.clone(), self.database.clone(), self.paths.clone());
        ThreadContext { owner, database, paths }
    }
}

/// Makes a thread and mounts it. It goes again if the client has gone meanwhile.
pub async fn new(daemon: &Daemon, context: &ClientContext, new: New) -> Result<status::Thread, ErrorObject> {
    context.check(&new.caller)?;
    super::mount::know_numbers(&daemon.owner, daemon.domains.as_ref()).await?;
    let (answer, made) = oneshot::channel();
    tokio::spawn(thread::make(daemon.threads(), new, answer));
    made.await.unwrap_or_else(|_| Err(ending()))
}

/// All threads.
pub async fn list(daemon: &Daemon, _: List) -> Result<Threads, ErrorObject> {
    Ok(Threads { threads: super::status::get(daemon).await?.threads })
}

/// What is changed in one.
pub async fn status(daemon: &Daemon, asked: Status) -> Result<Changes, ErrorObject> {
    let Status { name, after } = asked;
    let (FoundThread { row, mut shown, .. }, changed) =
        to_its_end(daemon, |context| async move { context.changed(&name).await }).await?;
    shown.changed = changed.len() as u64;
    let telling = tokio::task::spawn_blocking(move || tell(&row, changed, after.as_ref()));
    let told = telling.await.map_err(|error| ErrorObject::internal(error.to_string()))?;
    let (changed, more) = told?;
    let disk_bytes = daemon.threads().disk_bytes(&shown.name).await?;
    Ok(Changes { thread: shown, changed, more, disk_bytes })
}

/// As many as are told at once, and whether there are more. Blocks.
fn tell(
    row: &ThreadRow,
    changed: Vec<Changed>,
    after: Option<&ByteString>,
) -> Result<(Vec<Change>, bool), ErrorObject> {
    let objects = thread::repository_of(row)?;
    let tree = thread::base_of(row, &objects)?.tree;
    let (mut told, mut bytes) = (Vec::new(), 0);
    for changed in changed {
        if after.is_some_and(|after| changed.path.as_slice() <= after.as_bytes()) {
            continue;
        }
        bytes += changed.path.len();
        if bytes > CHANGES_BYTES_MAX && !told.is_empty() {
            return Ok((told, true));
        }
        let kind = kind(&objects, &tree, &changed)?;
        told.push(Change { path: ByteString::from(changed.path), kind });
    }
    Ok((told, false))
}

fn kind(objects: &Objects, tree: &store::Oid, changed: &Changed) -> Result<ChangeKind, ErrorObject> {
    if !changed.is_there {
        return Ok(ChangeKind::Deleted);
    }
    let found = objects.at_path(tree, &changed.path).map_err(|error| thread::from_store(&error))?;
    Ok(if found.is_some() { ChangeKind::Modified } else { ChangeKind::Added })
}

/// Makes a commit of what is in one.
pub async fn capture(daemon: &Daemon, asked: Capture) -> Result<Captured, ErrorObject> {
    to_its_end(daemon, |context| async move { context.capture(asked).await }).await
}

/// Brings what is in one onto a branch.
pub async fn land(daemon: &Daemon, asked: Land) -> Result<Landed, ErrorObject> {
    to_its_end(daemon, |context| async move { context.land(asked).await }).await
}

/// Has one show another revision.
pub async fn switch(daemon: &Daemon, asked: Switch) -> Result<Switched, ErrorObject> {
    to_its_end(daemon, |context| async move { context.switch(asked).await }).await
}

/// Undoes what was done to one last.
pub async fn undo(daemon: &Daemon, asked: Undo) -> Result<Undone, ErrorObject> {
    to_its_end(daemon, |context| async move { context.undo(asked).await }).await
}

/// Removes for good what is left of those that were dropped.
pub async fn collect(daemon: &Daemon, asked: Collect) -> Result<Collected, ErrorObject> {
    to_its_end(daemon, |context| async move { context.collect(asked).await }).await
}

/// Has what is in one compared with what it began from.
pub async fn diff(daemon: &Daemon, asked: Diff) -> Result<Compared, ErrorObject> {
    to_its_end(daemon, |context| async move { context.compare(&asked.name).await }).await
}

/// The captures of one.
pub async fn log(daemon: &Daemon, asked: Log) -> Result<Captures, ErrorObject> {
    daemon.threads().log(&asked.name).await
}

/// Whatever becomes of the client.
async fn to_its_end<T: Send + 'static, F: Future<Output = Result<T, ErrorObject>> + Send + 'static>(
    daemon: &Daemon,
    work: impl FnOnce(ThreadContext) -> F,
) -> Result<T, ErrorObject> {
    let working = tokio::spawn(work(daemon.threads()));
    working.await.unwrap_or_else(|error| Err(ErrorObject::internal(error.to_string())))
}

/// Removes one.
pub async fn drop(daemon: &Daemon, asked: Drop) -> Result<Dropped, ErrorObject> {
    to_its_end(daemon, |context| async move { context.drop(asked).await }).await
}

/// What a mount of a thread is made with, and the right to the thread; `None` for other mounts. The request is given the thread's
/// directory if it says none.
pub async fn for_mount(
    daemon: &Daemon,
    create: &mut Create,
) -> Result<Option<(ThreadRow, ThreadPlace, Turn)>, ErrorObject> {
    let Source::Thread { name } = &create.source else { return Ok(None) };
    let (FoundThread { row, mount, .. }, turn) = daemon.threads().take(name).await?;
    thread::check_open(&row)?;
    if let Some(mount) = mount {
        let message = format!("the thread `{name}` is already mounted at `{}`", mount.dir);
        return Err(
            ErrorObject::new(ErrorKind::Conflict, message).with_hint(format!("stead unmount {}", mount.id))
        );
    }
    create.dir.get_or_insert_with(|| row.dir.clone());
    let place = thread::place(&row, &daemon.paths);
    Ok(Some((row, place, turn)))
}

/// Has git, and whoever mounts it next, know where a thread is. It is unmounted again if that fails.
pub async fn moved(daemon: &Daemon, row: ThreadRow, dir: ByteString) -> Result<(), ErrorObject> {
    let name = row.name.clone();
    let placed = place(daemon, row, dir).await;
    if placed.is_err()
        && let Some(mount) = daemon.threads().find(&name).await.ok().and_then(|found| found.mount)
        && let Err(error) = mount.stop(Force::Always).await
    {
        tracing::error!(thread = name, %error, "the mount of a thread that git does not find there stays");
    }
    placed
}

async fn place(daemon: &Daemon, row: ThreadRow, dir: ByteString) -> Result<(), ErrorObject> {
    let registration = row.registration.clone();
    let placing = dir.clone();
    let placed = tokio::task::spawn_blocking(move || match registration {
        Some(registration) => store::worktree::place(registration.as_path(), placing.as_path()),
        None => Ok(()),
    });
    let placed = placed.await.map_err(|error| ErrorObject::internal(error.to_string()))?;
    placed.map_err(|error| thread::from_store(&error))?;
    daemon.threads().put(ThreadRow { dir, ..row }).await
}
