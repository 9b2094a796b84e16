//! Threads: their making, what is changed in them, their end.
//!
//! ```text
//!  asked for ─► planned ─► claimed, row: making ─► directory, branch, worktree, tree, index ─► mounted ─► row: open
//!                  └───────────────┴──────────────────────────┴───────────────────────┴─► undone: nothing is left
//!  open ─► unmounted ─► row: dropping ─► worktree, branch, files put [aside] ─► row gone
//! ```
//!
//! A thread that a daemon finds *making* is undone, one that it finds *dropping* is removed to its end, before anybody can ask for
//! either. So whatever dies half way, there is a whole thread or none.
//!
//! ```text
//! STATE/threads/NAME/tree    the thread itself, see store::thread
//!                   /git     while it is made: where git believes the worktree to be
//!                   /making  while it is made: locked (flock) by whoever makes it, also by a git that its daemon has left
//!                   /scratch while it is captured or compared: a copy of git's index
//!                   /changed while somebody asks for it: what is changed, as the worker writes it down
//! ```

mod aside;
mod captures;
mod dropping;
mod landing;
mod looking;
mod making;
mod operations;

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use store::blobs::BlobCache;
use store::objects::{Objects, Revision};
use store::thread::Thread;
use store::worktree;
use store::{Hash, Oid};
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;
use wire::paths::Paths;
use wire::worker::ThreadPlace;

use crate::database::{Database, ThreadPhase, ThreadRow};
use crate::failure::{chain, failure, from_io};
use crate::mount::MountHandle;
use crate::owner::{Event, FoundThread, OwnerHandle, ThreadEvent, Turn};

pub use aside::sweep;
pub use making::make;

/// What contents of revisions may take on the disk: as much as the cache of other machines' files.
const BLOBS_BYTES_MAX: u64 = 4 << 30;

/// How long whoever wants to do something to a thread waits for who does something to it now.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

const TREE: &str = "tree";

/// What it takes to do something to threads.
#[derive(Debug, Clone)]
pub struct ThreadContext {
    /// Who knows them.
    pub owner: OwnerHandle,
    /// Where they are written.
    pub database: Database,
    /// Where their files are.
    pub paths: Paths,
}

/// What a worker needs to open a thread.
pub fn place(row: &ThreadRow, paths: &Paths) -> ThreadPlace {
    ThreadPlace {
        directory: ByteString::from(paths.thread_dir(&row.name).join(TREE).as_path()),
        repository: row.repository.clone(),
        hash: row.hash.clone(),
        blobs: ByteString::from(paths.blobs_dir()),
        blobs_bytes_max: BLOBS_BYTES_MAX,
        sees: row.sees.clone(),
    }
}

impl ThreadContext {
    async fn tell(&self, event: ThreadEvent) {
        self.owner.send(Event::Thread(event)).await;
    }

    /// What is known of a thread.
    pub async fn find(&self, name: &str) -> Result<FoundThread, ErrorObject> {
        let name = name.to_owned();
        self.owner.ask(|answer| Event::Thread(ThreadEvent::Find { name, answer })).await
    }

    /// The same, with the right to do something to it. Waits a moment for who has it.
    pub async fn take(&self, name: &str) -> Result<(FoundThread, Turn), ErrorObject> {
        let wanted = name.to_owned();
        let taking = self.owner.ask(|answer| Event::Thread(ThreadEvent::Take { name: wanted, answer }));
        tokio::time::timeout(TURN_TIMEOUT, taking).await.unwrap_or_else(|_| Err(in_use(name)))
    }

    /// Writes down what a thread has become, and tells the owner.
    pub async fn put(&self, row: ThreadRow) -> Result<(), ErrorObject> {
        self.database.put_thread(row.clone()).await.map_err(|error| failure(&error))?;
        self.tell(ThreadEvent::Became(Box::new(row))).await;
        Ok(())
    }

    /// A thread with its mount, and the right to it.
    async fn take_mounted(&self, name: &str) -> Result<(ThreadRow, MountHandle, Turn), ErrorObject> {
        let (FoundThread { row, mount, .. }, turn) = self.take(name).await?;
        check_open(&row)?;
        match mount {
            Some(mount) => Ok((row, mount, turn)),
            None => Err(conflict(
                format!("the thread `{name}` is not mounted"),
                format!("stead mount thread:{name}"),
            )),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ErrorObject> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ErrorObject::internal(format!("work on a thread did not end: {error}")))
}

/// What is said of an error of the store.
pub fn from_store(error: &store::Error) -> ErrorObject {
    let kind = match error {
        store::Error::Busy { .. } => ErrorKind::Conflict,
        store::Error::Late { .. } => ErrorKind::TimedOut,
        store::Error::Git { what: "find a repository", .. } => {
            return ErrorObject::new(ErrorKind::NotFound, chain(error))
                .with_hint("run it in a git repository, or name one, as with --repo DIR");
        }
        store::Error::Access { source, .. } => crate::failure::kind_of(source),
        _ => ErrorKind::Failure,
    };
    ErrorObject::new(kind, chain(error))
}

fn conflict(message: String, hint: String) -> ErrorObject {
    ErrorObject::new(ErrorKind::Conflict, message).with_hint(hint)
}

/// What is said to who has waited long enough for a thread.
pub fn in_use(name: &str) -> ErrorObject {
    conflict(
        format!("something else is being done to the thread `{name}`"),
        "try again in a moment".to_owned(),
    )
}

/// Refuses a thread of which something may be gone already.
pub fn check_open(row: &ThreadRow) -> Result<(), ErrorObject> {
    match row.phase {
        ThreadPhase::Open => Ok(()),
        ThreadPhase::Making | ThreadPhase::Dropping { .. } => {
            let name = &row.name;
            let message = format!("the thread `{name}` is half made or half dropped");
            Err(conflict(message, format!("stead thread drop {name} --force")))
        }
    }
}

/// Whether a thread's repository is not there any more, as far as that can be known. Blocks.
fn is_gone(row: &ThreadRow) -> bool {
    matches!(row.repository.as_path().try_exists(), Ok(false))
}

fn captures_name(thread: &str) -> String {
    format!("{}{thread}", worktree::CAPTURES)
}

/// The last capture of a thread. Blocks.
fn captures_of(row: &ThreadRow) -> Result<Option<Oid>, ErrorObject> {
    if is_gone(row) {
        return Ok(None);
    }
    worktree::reference(&repository_of(row)?, &captures_name(&row.name)).map_err(|error| from_store(&error))
}

/// What a thread began from. Blocks.
pub fn base_of(row: &ThreadRow, objects: &Objects) -> Result<Revision, ErrorObject> {
    let base = Oid::from_hex(row.commit.as_bytes())
        .map_err(|error| ErrorObject::internal(format!("a thread began from no commit: {error}")))?;
    objects.revision(base).map_err(|error| from_store(&error))
}

/// The objects of a thread's repository. git is told where that is and so does not ask whose it is, as it does of one that it finds:
/// whoever has taken its place since the thread was made is refused. Blocks.
pub fn repository_of(row: &ThreadRow) -> Result<Objects, ErrorObject> {
    let repository = row.repository.as_path();
    if let Some(owner) = row.owner {
        let found = repository.metadata();
        let failed = |error| from_io(&format!("could not look at `{}`", repository.display()), &error);
        if found.map_err(failed)?.uid() != owner {
            let message = format!("the repository `{}` is another user's now", repository.display());
            return Err(ErrorObject::new(ErrorKind::Refused, message));
        }
    }
    let hash = match row.hash.as_str() {
        "sha256" => Hash::Sha256,
        _ => Hash::Sha1,
    };
    Objects::open(repository, hash).map_err(|error| from_store(&error))
}

/// A thread that is not mounted. Blocks.
fn unmounted(row: &ThreadRow, paths: &Paths) -> Result<Thread, ErrorObject> {
    let objects = Arc::new(repository_of(row)?);
    let open = || -> store::Result<Thread> {
        let blobs = Arc::new(BlobCache::open(paths.blobs_dir(), BLOBS_BYTES_MAX)?);
        Thread::open(&paths.thread_dir(&row.name).join(TREE), objects, blobs)
    };
    open().map_err(|error| from_store(&error))
}

#[cfg(test)]
mod tests;
