//! Threads: their making, what is changed in them, their end.
//!
//! ```text
//!  asked for ─► planned ─► claimed, row: making ─► directory, branch, worktree, tree, index ─► mounted ─► row: open
//!                  └───────────────┴──────────────────────────┴───────────────────────┴─► undone: nothing is left
//!  open ─► unmounted ─► row: dropping ─► worktree, branch, files gone ─► row gone
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

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use store::blobs::BlobCache;
use store::names::Origin;
use store::node::{Ino, Kind, Time};
use store::objects::{Objects, Revision};
use store::thread::{Access, Changed, DATED_BEFORE_SECONDS, New, Thread};
use store::worktree::snapshot::{Captured, Message, Mounted};
use store::worktree::{self, LogEntry, Registration};
use store::{Hash, Oid};
use tokio::sync::oneshot;
use wire::api::machine::{Source, absolute};
use wire::api::mount::{Create, Force};
use wire::api::time::Timestamp;
use wire::api::{ErrorKind, ErrorObject, status, thread};
use wire::bytestring::ByteString;
use wire::paths::Paths;
use wire::worker::ThreadPlace;

use crate::database::{Database, ThreadPhase, ThreadRow};
use crate::failure::{chain, failure, from_io};
use crate::mount::MountHandle;
use crate::mount::plan::{self, Plan};
use crate::owner::{Answer, Event, FoundThread, OwnerHandle, ThreadEvent, Turn};

/// What contents of revisions may take on the disk: as much as the cache of other machines' files.
const BLOBS_BYTES_MAX: u64 = 4 << 30;

/// How long a mount may take to say what is changed: a thread of a million changes takes seconds.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);

/// What a list of changes may take in memory.
const LISTING_BYTES_MAX: u64 = 256 << 20;

/// How long a git whose daemon has died may take to end before what it makes is removed.
const ABANDONED_GIT_MAX: Duration = Duration::from_secs(8);

/// How often it is looked whether it has.
const ABANDONED_GIT_INTERVAL: Duration = Duration::from_millis(20);

/// How long whoever wants to do something to a thread waits for who does something to it now.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long git may take to look for changes in a worktree: as long as it takes to look at each of its files.
const STATUS_TIMEOUT: Duration = Duration::from_secs(120);

/// Tells lists of changes apart that are asked for at once.
static LISTINGS: AtomicU64 = AtomicU64::new(0);

const TREE: &str = "tree";
const ASIDE: &str = "git";
const SCRATCH: &str = "scratch";
const MAKING: &str = "making";
const CHANGED: &str = "changed";

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

/// A thread that can be made.
struct Planned {
    row: ThreadRow,
    objects: Arc<Objects>,
    revision: Revision,
    /// How it is to be mounted; `mount` once its directory is there.
    create: Create,
    mount: Option<Plan>,
}

/// What a worker needs to open a thread.
pub fn place(row: &ThreadRow, paths: &Paths) -> ThreadPlace {
    ThreadPlace {
        directory: ByteString::from(paths.thread_dir(&row.name).join(TREE).as_path()),
        repository: row.repository.clone(),
        hash: row.hash.clone(),
        blobs: ByteString::from(paths.blobs_dir()),
        blobs_bytes_max: BLOBS_BYTES_MAX,
    }
}

/// Makes a thread. Answers once it is mounted, or when nothing of it is left; goes on also if nobody waits any more, and then
/// leaves none.
pub async fn make(context: ThreadContext, new: thread::New, answer: Answer<status::Thread>) {
    let (name, made) = (new.name.clone(), Box::pin(context.make(new)).await);
    let Err(Ok(_)) = answer.send(made) else { return };
    tracing::info!(thread = name, "whoever wanted the thread has gone, and it goes too");
    let drop = thread::Drop { name, force: Force::Always };
    if let Err(error) = context.drop(drop).await {
        tracing::warn!(%error, "a thread that nobody waited for stays");
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

    async fn make(&self, new: thread::New) -> Result<status::Thread, ErrorObject> {
        if !thread::is_name(&new.name) {
            let message = format!("`{}` cannot be the name of a thread", new.name.escape_debug());
            return Err(ErrorObject::new(ErrorKind::Usage, message)
                .with_hint("a thread's name has letters, digits, and . - _ in between"));
        }
        let name = new.name.clone();
        if self.find(&name).await.is_ok() {
            let message = format!("there is a thread `{name}` already");
            return Err(ErrorObject::new(ErrorKind::Conflict, message)
                .with_hint(format!("stead thread status {name}")));
        }
        let from = match new.from.as_deref().and_then(|from| from.strip_prefix("thread:")) {
            Some(other) => Some(self.find(other).await?.row),
            None => None,
        };
        let mut planned = blocking(move || plan_new(new, from.as_ref())).await??;
        let row = Box::new(planned.row.clone());
        let turn = self.owner.ask(|answer| Event::Thread(ThreadEvent::Claim { row, answer })).await?;
        let made = match self.database.put_thread(planned.row.clone()).await {
            Ok(()) => {
                let paths = self.paths.clone();
                let making = move || {
                    let made = planned.begin(&paths);
                    (planned, made)
                };
                let (begun, made) = blocking(making).await?;
                planned = begun;
                made
            }
            Err(error) => Err(failure(&error)),
        };
        let Planned { row, mount, .. } = planned;
        let opened = match (made, mount) {
            (Ok(()), Some(mount)) => self.open(&row, mount).await,
            (Ok(()), None) => Err(ErrorObject::internal("a thread without a directory")),
            (Err(error), _) => Err(error),
        };
        match opened {
            Ok(()) => {
                drop(turn);
                tracing::info!(thread = name, repo = %row.repo, dir = %row.dir, "a thread is there");
                Ok(self.find(&name).await?.shown)
            }
            Err(error) => {
                tracing::warn!(thread = name, %error, "a thread could not be made");
                self.unmake(row, turn).await;
                Err(error)
            }
        }
    }

    /// Mounts what was begun, and writes down that it is there.
    async fn open(&self, row: &ThreadRow, plan: Plan) -> Result<(), ErrorObject> {
        let plan = Box::new(plan);
        let mounting = |answer| Event::CreateMount { plan, prompter: None, answer };
        self.owner.ask(mounting).await?;
        self.put(ThreadRow { phase: ThreadPhase::Open, ..row.clone() }).await
    }

    /// Undoes a thread that was not made to its end, with its mount if it has one.
    async fn unmake(&self, row: ThreadRow, turn: Turn) {
        let name = row.name.clone();
        let mount = self.find(&name).await.ok().and_then(|found| found.mount);
        if let Some(mount) = mount
            && let Err(error) = mount.stop(Force::Always).await
        {
            tracing::error!(thread = name, %error, "the mount of a thread that is undone stays");
        }
        self.remove(row, turn).await;
    }

    /// Removes all that is left of a thread that is not mounted. What cannot be removed is tried again by the next daemon.
    async fn remove(&self, row: ThreadRow, turn: Turn) {
        let (name, paths) = (row.name.clone(), self.paths.clone());
        let removed = blocking(move || remove(&row, &paths)).await.flatten();
        let forgotten = match removed {
            Ok(()) => self.database.remove_thread(name.clone()).await.map_err(|error| failure(&error)),
            Err(error) => Err(error),
        };
        match forgotten {
            Ok(()) => self.tell(ThreadEvent::Gone(name)).await,
            Err(error) => tracing::error!(thread = name, %error, "something of a thread stays"),
        }
        drop(turn);
    }

    /// Brings to its end what a daemon before this one has begun to do to a thread.
    pub async fn recover(self, row: ThreadRow) {
        let Ok((FoundThread { mount, .. }, turn)) = self.take(&row.name).await else { return };
        tracing::warn!(thread = row.name, phase = ?row.phase, "a thread was left half way");
        self.abandoned(&row.name).await;
        if mount.is_some() {
            return self.unmake(row, turn).await;
        }
        self.remove(row, turn).await;
    }

    /// Waits until no git makes something of a thread any more.
    async fn abandoned(&self, name: &str) {
        let path = self.paths.thread_dir(name).join(MAKING);
        let ended = async {
            while let Ok(file) = File::open(&path)
                && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
            {
                tokio::time::sleep(ABANDONED_GIT_INTERVAL).await;
            }
        };
        if tokio::time::timeout(ABANDONED_GIT_MAX, ended).await.is_err() {
            tracing::error!(thread = name, "a git that was left by its daemon does not end");
        }
    }

    /// What is changed in a thread, in the order of paths.
    pub async fn changed(&self, name: &str) -> Result<(FoundThread, Vec<Changed>), ErrorObject> {
        let found = self.find(name).await?;
        let (found, changed) = match &found.mount {
            Some(mount) => {
                let changed = self.listed(&found.row, mount).await?;
                (found, changed)
            }
            None => {
                let (found, turn) = self.take(name).await?;
                let (row, paths) = (found.row.clone(), self.paths.clone());
                let changed = blocking(move || changed_of(&row, &paths)).await??;
                drop(turn);
                (found, changed)
            }
        };
        self.tell(ThreadEvent::Counted(name.to_owned(), changed.len() as u64)).await;
        Ok((found, changed))
    }

    /// As the worker of its mount says.
    async fn listed(&self, row: &ThreadRow, mount: &MountHandle) -> Result<Vec<Changed>, ErrorObject> {
        let directory = self.paths.thread_dir(&row.name);
        let to = blocking(move || {
            let made = supervisor::socket::private_directory(&directory.join(CHANGED));
            made.map_err(|error| failure(&error))?;
            // Another daemon may have left some.
            let since =
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
            let number = LISTINGS.fetch_add(1, Ordering::Relaxed);
            Ok::<_, ErrorObject>(directory.join(CHANGED).join(format!("{since}-{number}")))
        })
        .await??;
        let listing = mount.list_changed(ByteString::from(to.as_path()));
        let listed = tokio::time::timeout(LISTING_TIMEOUT, listing).await.unwrap_or_else(|_| {
            let message = format!("the mount of `{}` does not say what is changed", row.name);
            Err(ErrorObject::new(ErrorKind::TimedOut, message))
        });
        blocking(move || {
            let read = listed.and_then(|()| read_listing(&to));
            if let Err(error) = std::fs::remove_file(&to)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %to.display(), %error, "a list of changes stays");
            }
            read
        })
        .await?
    }

    /// Unmounts a thread and removes it.
    pub async fn drop(&self, asked: thread::Drop) -> Result<thread::Dropped, ErrorObject> {
        let thread::Drop { name, force } = asked;
        let (found, turn) = self.take(&name).await?;
        let FoundThread { row, mount, .. } = found;
        if force == Force::Never {
            self.check_unchanged(&row, mount.as_ref()).await?;
        }
        let opening = row.clone();
        blocking(move || if is_gone(&opening) { Ok(()) } else { repository_of(&opening).map(drop) })
            .await??;
        if let Some(mount) = mount {
            mount.stop(force).await?;
        }
        let deciding = row.clone();
        let (branch_at, kept_branch) = blocking(move || branch_of(&deciding)).await??;
        let deciding = row.clone();
        let captures = blocking(move || captures_of(&deciding)).await??;
        let (captures_at, kept_captures) = match (captures, force) {
            (Some(at), Force::Always) => (Some(at.to_string()), None),
            (Some(_), Force::Never) => (None, Some(captures_name(&name))),
            (None, _) => (None, None),
        };
        let row = ThreadRow { phase: ThreadPhase::Dropping { branch_at, captures_at }, ..row };
        self.put(row.clone()).await?;
        self.remove(row, turn).await;
        match self.find(&name).await {
            Ok(_) => {
                let message = format!("something of the thread `{name}` could not be removed");
                Err(ErrorObject::new(ErrorKind::Failure, message).with_hint("stead daemon logs"))
            }
            Err(_) => Ok(thread::Dropped { name, kept_branch, kept_captures }),
        }
    }

    /// Refuses a thread with something in it that nothing else has.
    async fn check_unchanged(&self, row: &ThreadRow, mount: Option<&MountHandle>) -> Result<(), ErrorObject> {
        let name = &row.name;
        let by_force = format!("stead thread drop {name} --force");
        let looking = row.clone();
        match blocking(move || only_in_registration(&looking)).await?? {
            None => {}
            Some(OnlyThere::Submodules) => {
                let message =
                    format!("the thread `{name}` has repositories of submodules, which would go with it");
                return Err(conflict(message, by_force));
            }
            Some(OnlyThere::Commits) => {
                let message =
                    format!("the thread `{name}` has commits that are on no branch, which would go with it");
                return Err(conflict(message, format!("git branch NAME in the thread, or {by_force}")));
            }
        }
        let Some(mount) = mount else {
            let (looking, paths) = (row.clone(), self.paths.clone());
            return match blocking(move || is_untouched(&looking, &paths)).await?? {
                true => Ok(()),
                false => Err(conflict(
                    format!(
                        "the thread `{name}` has changes, and is not mounted, so that git cannot tell whether they are committed"
                    ),
                    format!("stead mount thread:{name}, or {by_force}"),
                )),
            };
        };
        let looking = self.in_worktree(row, mount, |mounted, _, changed| {
            if !mounted.is_known_there()? {
                return Ok(Some(OnlyInMount::Elsewhere));
            }
            match mounted.repositories(changed)?.into_iter().next() {
                Some(path) => Ok(Some(OnlyInMount::Repository(path))),
                None => Ok(mounted.is_changed()?.then_some(OnlyInMount::Changes)),
            }
        });
        let looked = tokio::time::timeout(STATUS_TIMEOUT, looking).await;
        let looked = looked.map_err(|_| {
            let message = format!("git did not say in time whether the thread `{name}` has changes");
            ErrorObject::new(ErrorKind::TimedOut, message)
        })?;
        match looked? {
            None => Ok(()),
            Some(OnlyInMount::Elsewhere) => Err(conflict(
                format!(
                    "`.git` in the thread `{name}` is not what was put there, so that git cannot tell whether there are changes"
                ),
                by_force,
            )),
            Some(OnlyInMount::Repository(path)) => Err(conflict(
                format!(
                    "the thread `{name}` has a repository of its own in `{}`, which would go with it",
                    path.escape_ascii()
                ),
                by_force,
            )),
            Some(OnlyInMount::Changes) if self.is_captured(row, mount).await? => Ok(()),
            Some(OnlyInMount::Changes) => Err(conflict(
                format!("the thread `{name}` has changes that are neither committed nor captured"),
                format!("stead thread capture {name} -m MESSAGE, or {by_force}"),
            )),
        }
    }

    /// Whether the last capture has all that is in a thread.
    async fn is_captured(&self, row: &ThreadRow, mount: &MountHandle) -> Result<bool, ErrorObject> {
        let looking = row.clone();
        let Some(last) = blocking(move || captures_of(&looking)).await?? else { return Ok(false) };
        self.in_worktree(row, mount, move |mounted, base, changed| {
            Ok(mounted.snapshot(base, changed)? == mounted.objects.revision(last)?.tree)
        })
        .await
    }

    /// Does something with what is in a thread that is mounted. Whoever has it do that has the thread's turn.
    async fn in_worktree<T: Send + 'static>(
        &self,
        row: &ThreadRow,
        mount: &MountHandle,
        work: impl FnOnce(&Mounted<'_>, &Revision, &[Changed]) -> store::Result<T> + Send + 'static,
    ) -> Result<T, ErrorObject> {
        let changed = self.listed(row, mount).await?;
        let (row, dir) = (row.clone(), mount.dir.as_path().to_owned());
        let scratch = self.paths.thread_dir(&row.name).join(SCRATCH);
        blocking(move || {
            supervisor::socket::private_directory(&scratch).map_err(|error| failure(&error))?;
            let objects = repository_of(&row)?;
            let base = base_of(&row, &objects)?;
            let Some(registration) = &row.registration else {
                return Err(ErrorObject::internal("a thread that git does not know"));
            };
            let registration = registration.as_path();
            let mounted = Mounted { objects: &objects, registration, dir: &dir, scratch: &scratch };
            work(&mounted, &base, &changed).map_err(|error| from_store(&error))
        })
        .await?
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

    /// Makes a commit of what is in a thread.
    pub async fn capture(&self, asked: thread::Capture) -> Result<thread::Captured, ErrorObject> {
        let thread::Capture { name, message: text, agent, tool } = asked;
        let message = message(text, agent, tool)?;
        let (row, mount, turn) = self.take_mounted(&name).await?;
        let captures = name.clone();
        let captured = self
            .in_worktree(&row, &mount, move |mounted, base, changed| {
                let tree = mounted.snapshot(base, changed)?;
                mounted.capture(&captures, &tree, &message)
            })
            .await?;
        drop(turn);
        match captured {
            Some(Captured { commit, parent }) => {
                Ok(thread::Captured { name, commit: commit.to_string(), parent: parent.to_string() })
            }
            None => Err(conflict(
                format!(
                    "nothing has changed in the thread `{name}` since what was captured or committed last"
                ),
                format!("stead thread log {name}"),
            )),
        }
    }

    /// Has what is in a thread made a tree.
    pub async fn compare(&self, name: &str) -> Result<thread::Compared, ErrorObject> {
        let (row, mount, turn) = self.take_mounted(name).await?;
        let (from, to) = self
            .in_worktree(&row, &mount, |mounted, base, changed| {
                Ok((base.tree, mounted.snapshot(base, changed)?))
            })
            .await?;
        drop(turn);
        Ok(thread::Compared { repository: row.repository, from: from.to_string(), to: to.to_string() })
    }

    /// The captures of a thread, the last one first.
    pub async fn log(&self, name: &str) -> Result<thread::Captures, ErrorObject> {
        let row = self.find(name).await?.row;
        blocking(move || {
            let Some(last) = captures_of(&row)? else { return Ok(thread::Captures::default()) };
            let objects = repository_of(&row)?;
            let base = base_of(&row, &objects)?.commit;
            let log = worktree::log(&objects, &last, &base, thread::CAPTURES_MAX);
            let captures = log.map_err(|error| from_store(&error))?.into_iter().map(|entry| {
                let LogEntry { commit, at, author, subject } = entry;
                thread::CaptureEntry { commit, at: Timestamp::from_unix(at), author, subject }
            });
            Ok(thread::Captures { captures: captures.collect() })
        })
        .await?
    }

    /// Has the owner know how many paths are changed in each thread, as far as that is found out in time.
    pub async fn count(&self) {
        let (answer, answered) = oneshot::channel();
        self.tell(ThreadEvent::FindAll { answer }).await;
        let all = answered.await.unwrap_or_default();
        let wanted = all.into_iter().filter(|found| {
            found.row.phase == ThreadPhase::Open && (found.mount.is_some() || found.changed.is_none())
        });
        // Each goes on to its end when nobody waits any more, so that it leaves no list of changes behind.
        let counting: Vec<_> = wanted
            .map(|found| {
                let context = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = context.changed(&found.row.name).await {
                        tracing::debug!(thread = found.row.name, %error, "what is changed is not known");
                    }
                })
            })
            .collect();
        for counted in counting {
            if let Err(error) = counted.await {
                tracing::error!(%error, "counting what is changed did not end");
            }
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
        store::Error::Git { what: "find a repository", .. } => ErrorKind::NotFound,
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

/// What goes with a thread's registration, since it is nowhere else.
#[derive(Debug, PartialEq, Eq)]
enum OnlyThere {
    /// Repositories of submodules.
    Submodules,
    /// Commits of a `HEAD` that is on no branch.
    Commits,
}

/// What goes with a thread that is mounted, since it is nowhere else.
enum OnlyInMount {
    /// Whatever git says there, it is not said of the thread.
    Elsewhere,
    /// Another repository, in this directory.
    Repository(Vec<u8>),
    /// Changes that are not committed.
    Changes,
}

/// The message of a capture, if it can be one.
fn message(text: String, agent: Option<String>, tool: Option<String>) -> Result<Message, ErrorObject> {
    let usage = |message: String| Err(ErrorObject::new(ErrorKind::Usage, message));
    if text.trim().is_empty() || text.len() > thread::MESSAGE_BYTES_MAX || text.contains('\0') {
        return usage(format!("a message has 1 to {} bytes, and no NUL", thread::MESSAGE_BYTES_MAX));
    }
    let given = [("Agent", agent), ("Tool", tool)].into_iter();
    let trailers: Vec<(String, String)> =
        given.filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    let is_wrong = |value: &str| {
        value.trim().is_empty() || value.len() > thread::TRAILER_BYTES_MAX || value.contains(char::is_control)
    };
    match trailers.iter().find(|(_, value)| is_wrong(value)) {
        Some((key, _)) => usage(format!("`{key}` has one line of 1 to {} bytes", thread::TRAILER_BYTES_MAX)),
        None => Ok(Message { text, trailers }),
    }
}

/// Finds out what a thread is to be. Makes nothing. Blocks.
fn plan_new(new: thread::New, from: Option<&ThreadRow>) -> Result<Planned, ErrorObject> {
    let thread::New { name, repo, from: revision, at, caller } = new;
    if !caller.cwd.as_bytes().starts_with(b"/") {
        return Err(ErrorObject::new(ErrorKind::Usage, "the caller's directory is not an absolute path"));
    }
    let revision = revision.unwrap_or_else(|| "HEAD".to_owned());
    if revision.len() > thread::REVISION_BYTES_MAX {
        return Err(ErrorObject::new(ErrorKind::Usage, "the revision is too long"));
    }
    let of_caller =
        |dir: &ByteString| PathBuf::from(OsStr::from_bytes(&absolute(dir.as_bytes(), caller.cwd.as_bytes())));
    let within = match (&repo, from) {
        (Some(repo), _) => of_caller(repo),
        (None, Some(from)) => from.repository.as_path().to_owned(),
        (None, None) => caller.cwd.as_path().to_owned(),
    };
    let found = |error: store::Error| from_store(&error);
    let objects = Objects::discover(&within).map_err(found)?;
    let revision = match from {
        None => worktree::resolve(&objects, &within, &revision).map_err(|error| match error {
            store::Error::Git { .. } => {
                let message = format!(
                    "there is no commit `{}` in `{}`",
                    revision.escape_debug(),
                    objects.repository().display()
                );
                ErrorObject::new(ErrorKind::NotFound, message)
            }
            error => from_store(&error),
        })?,
        Some(from) => {
            if from.repository.as_path() != objects.repository() {
                let message = format!("the thread `{}` is of `{}`, another repository", from.name, from.repo);
                return Err(ErrorObject::new(ErrorKind::Usage, message));
            }
            last_of(&objects, from)?
        }
    };
    let is_taken = |reference: &str| worktree::reference(&objects, reference).map_err(found);
    let copy = worktree::working_copy(&objects, &within);
    if is_taken(&format!("refs/heads/{name}"))?.is_some() {
        let message = format!("`{}` has a branch `{name}` already", copy.display());
        return Err(conflict(message, "choose another name".to_owned()));
    }
    let captures = captures_name(&name);
    if is_taken(&captures)?.is_some() {
        let message = format!("`{}` has captures of a thread `{name}` that was dropped", copy.display());
        let hint = format!("choose another name, or git -C {} update-ref -d {captures}", copy.display());
        return Err(conflict(message, hint));
    }
    let dir = match &at {
        Some(at) if !at.is_empty() => of_caller(at),
        Some(_) => return Err(ErrorObject::new(ErrorKind::Usage, "the directory's name is empty")),
        None => beside(&copy, &name),
    };
    let dir = really(dir);
    let owner = objects.repository().metadata();
    let owner = owner.map_err(|error| from_io("could not look at the repository", &error))?.uid();
    let row = ThreadRow {
        name: name.clone(),
        phase: ThreadPhase::Making,
        repo: ByteString::from(copy.as_path()),
        repository: ByteString::from(objects.repository()),
        owner: Some(owner),
        hash: objects.hash().to_string(),
        commit: revision.commit.to_string(),
        branch: name.clone(),
        dir: ByteString::from(dir.as_path()),
        makes_dir: dir.symlink_metadata().is_err(),
        registration: None,
    };
    let create = Create {
        source: Source::Thread { name },
        dir: Some(row.dir.clone()),
        backend: Default::default(),
        access: Default::default(),
        sync: Default::default(),
        reconnect: Default::default(),
        heartbeat_interval_ms: None,
        max_heartbeat_failures: None,
        options: Default::default(),
        caller,
    };
    Ok(Planned { row, objects: Arc::new(objects), revision, create, mount: None })
}

/// A path without links above its last name, as far as they can be followed.
fn really(path: PathBuf) -> PathBuf {
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(above)), Some(name)) => above.join(name),
        _ => path,
    }
}

/// Beside a working copy, named after it.
fn beside(copy: &Path, name: &str) -> PathBuf {
    let base = copy.file_name().unwrap_or_default().as_bytes();
    let base = base.strip_suffix(b".git").unwrap_or(base);
    let named = [base, b"-", name.as_bytes()].concat();
    copy.parent().unwrap_or(copy).join(OsStr::from_bytes(&named))
}

/// What another thread has captured last, or else committed.
fn last_of(objects: &Objects, from: &ThreadRow) -> Result<Revision, ErrorObject> {
    let name = &from.name;
    for reference in [captures_name(name), format!("refs/heads/{}", from.branch)] {
        if let Some(commit) = worktree::reference(objects, &reference).map_err(|error| from_store(&error))? {
            return objects.revision(commit).map_err(|error| from_store(&error));
        }
    }
    let message = format!("the thread `{name}` has neither captures nor a branch any more");
    Err(ErrorObject::new(ErrorKind::NotFound, message))
}

impl Planned {
    /// Makes the directory, the branch, the worktree, the tree and its index. What is left after an error is [removed](remove). Blocks.
    fn begin(&mut self, paths: &Paths) -> Result<(), ErrorObject> {
        let mount = plan::prepare(self.create.clone(), paths.mounts_dir(), Some(place(&self.row, paths)))?;
        self.row.dir = ByteString::from(mount.place.dir.as_path());
        self.mount = Some(mount);
        let directory = paths.thread_dir(&self.row.name);
        for dir in [paths.threads_dir(), directory.clone(), directory.join(ASIDE)] {
            supervisor::socket::private_directory(&dir).map_err(|error| failure(&error))?;
        }
        let aside = directory.join(ASIDE).join(&self.row.name);
        let held = hold(&directory).map_err(|error| from_io("could not begin a thread", &error))?;
        let registered =
            worktree::register(&self.objects, &aside, &self.row.branch, &self.revision.commit, held);
        let registration = registered.map_err(|error| {
            if worktree::is_taken(&error) {
                // Somebody else has made the branch meanwhile: it is not undone.
                self.row.phase = ThreadPhase::Dropping { branch_at: None, captures_at: None };
                self.mount.iter().for_each(Plan::undo);
            }
            from_store(&error)
        })?;
        self.row.registration = Some(ByteString::from(registration.directory.as_path()));
        self.fill(&directory.join(TREE), &registration, paths).map_err(|error| from_store(&error))?;
        let gone = std::fs::remove_dir_all(directory.join(ASIDE));
        gone.and_then(|()| std::fs::remove_file(directory.join(MAKING)))
            .map_err(|error| from_io("could not remove what is not needed any more", &error))
    }

    fn fill(&self, tree: &Path, registration: &Registration, paths: &Paths) -> store::Result<()> {
        let blobs = Arc::new(BlobCache::open(paths.blobs_dir(), BLOBS_BYTES_MAX)?);
        let (uid, gid) = (self.create.caller.uid, self.create.caller.gid);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let made = Time { seconds: now.saturating_sub(DATED_BEFORE_SECONDS), nanoseconds: 0 };
        let origin = Origin { revision: self.revision, uid, gid, made };
        let thread = Thread::begin(tree, self.objects.clone(), blobs, origin)?;
        let new = New { mode: 0o644, uid, gid };
        let (pointer, mut file) = thread.create(Ino::ROOT, worktree::POINTER, new, made)?;
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| store::Error::Access { what, path, source }
        };
        file.write_all(&registration.pointer).map_err(failed("write", tree))?;
        thread.sync(pointer.ino)?;
        let index = registration.index();
        let mut file = File::create(&index).map_err(failed("make", &index))?;
        thread.write_git_index(&mut file, &index)?;
        worktree::place(&registration.directory, self.row.dir.as_path())
    }
}

/// Locks the file that says that a thread is being made.
fn hold(directory: &Path) -> io::Result<File> {
    let held = File::create(directory.join(MAKING))?;
    rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    Ok(held)
}

/// Removes what there is of a thread that is not mounted: its worktree, its branch if that is to go, its files. Blocks.
fn remove(row: &ThreadRow, paths: &Paths) -> Result<(), ErrorObject> {
    let directory = paths.thread_dir(&row.name);
    // A repository that is gone has taken its part with it.
    if !is_gone(row) {
        let objects = repository_of(row)?;
        let places = [directory.as_path(), row.dir.as_path()];
        let known = row.registration.as_ref().map(|registration| registration.as_path().to_owned());
        let registration = match known {
            Some(known) => Some(known),
            None => worktree::leftover(&objects, &places).map_err(|error| from_store(&error))?,
        };
        if let Some(registration) = registration {
            worktree::unregister(&registration, &places).map_err(|error| from_store(&error))?;
        }
        let (branch_at, captures_at) = match &row.phase {
            // Only its maker could have made it: it was not there before.
            ThreadPhase::Making => (Some(row.commit.clone()), None),
            ThreadPhase::Open => (None, None),
            ThreadPhase::Dropping { branch_at, captures_at } => (branch_at.clone(), captures_at.clone()),
        };
        let is_at = |name: &str, at: &Oid| worktree::reference(&objects, name).map(|is| is == Some(*at));
        let delete = || -> store::Result<()> {
            if let Some(Ok(at)) = branch_at.map(|at| Oid::from_hex(at.as_bytes()))
                && is_at(&format!("refs/heads/{}", row.branch), &at)?
            {
                worktree::delete_branch(&objects, &row.branch, &at)?;
            }
            let captures = captures_name(&row.name);
            if let Some(Ok(at)) = captures_at.map(|at| Oid::from_hex(at.as_bytes()))
                && is_at(&captures, &at)?
            {
                worktree::delete_reference(&objects, &captures, &at)?;
            }
            Ok(())
        };
        delete().map_err(|error| from_store(&error))?;
    }
    if row.phase == ThreadPhase::Making && row.makes_dir {
        plan::remove_made(&[row.dir.as_path().to_owned()]);
    }
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(from_io(&format!("could not remove `{}`", directory.display()), &error))
        }
        _ => Ok(()),
    }
}

/// Whether a thread's repository is not there any more, as far as that can be known. Blocks.
fn is_gone(row: &ThreadRow) -> bool {
    matches!(row.repository.as_path().try_exists(), Ok(false))
}

/// What git has of a thread in its registration alone. Blocks.
fn only_in_registration(row: &ThreadRow) -> Result<Option<OnlyThere>, ErrorObject> {
    let Some(registration) = &row.registration else { return Ok(None) };
    let (objects, registration) = (repository_of(row)?, registration.as_path());
    let look = || -> store::Result<Option<OnlyThere>> {
        if worktree::has_submodules(registration)? {
            return Ok(Some(OnlyThere::Submodules));
        }
        Ok(worktree::has_loose_commits(&objects, registration)?.then_some(OnlyThere::Commits))
    };
    look().map_err(|error| from_store(&error))
}

/// The commit at which a thread's branch can go with it, or else its name if it has to stay. Blocks.
fn branch_of(row: &ThreadRow) -> Result<(Option<String>, Option<String>), ErrorObject> {
    if is_gone(row) {
        return Ok((None, None));
    }
    let objects = repository_of(row)?;
    let name = format!("refs/heads/{}", row.branch);
    let Some(at) = worktree::reference(&objects, &name).map_err(|error| from_store(&error))? else {
        return Ok((None, None));
    };
    let elsewhere = worktree::checked_out(&objects, &row.branch).map_err(|error| from_store(&error))?;
    if elsewhere.is_some_and(|dir| dir != row.dir.as_path()) {
        return Ok((None, Some(row.branch.clone())));
    }
    let base = Oid::from_hex(row.commit.as_bytes())
        .map_err(|error| ErrorObject::internal(format!("a thread began from no commit: {error}")))?;
    match worktree::has_own_commits(&objects, &row.branch, &at, &base).map_err(|error| from_store(&error))? {
        true => Ok((None, Some(row.branch.clone()))),
        false => Ok((Some(at.to_string()), None)),
    }
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

/// What is changed in a thread that is not mounted. Blocks.
fn changed_of(row: &ThreadRow, paths: &Paths) -> Result<Vec<Changed>, ErrorObject> {
    unmounted(row, paths)?.changed().map_err(|error| from_store(&error))
}

/// Whether a thread that is not mounted is as it was made, with the file that leads git to its registration. Blocks.
fn is_untouched(row: &ThreadRow, paths: &Paths) -> Result<bool, ErrorObject> {
    let thread = unmounted(row, paths)?;
    let Some(registration) = &row.registration else { return Ok(false) };
    let is_known_there = || -> store::Result<bool> {
        let Some(pointer) = thread.lookup(Ino::ROOT, worktree::POINTER)? else { return Ok(false) };
        if pointer.kind != Kind::File {
            return Ok(false);
        }
        let path = row.dir.as_path().join(OsStr::from_bytes(worktree::POINTER));
        let file = thread.open_content(pointer.ino, Access::Read)?;
        let mut content = Vec::new();
        let read = file.take(worktree::POINTER_BYTES_MAX).read_to_end(&mut content);
        read.map_err(|source| store::Error::Access { what: "read", path, source })?;
        Ok(worktree::leads_to(&content, row.dir.as_path(), registration.as_path()))
    };
    Ok(is_known_there().map_err(|error| from_store(&error))?
        && thread.changed().map_err(|error| from_store(&error))?.is_empty())
}

fn unmounted(row: &ThreadRow, paths: &Paths) -> Result<Thread, ErrorObject> {
    let objects = Arc::new(repository_of(row)?);
    let open = || -> store::Result<Thread> {
        let blobs = Arc::new(BlobCache::open(paths.blobs_dir(), BLOBS_BYTES_MAX)?);
        Thread::open(&paths.thread_dir(&row.name).join(TREE), objects, blobs)
    };
    open().map_err(|error| from_store(&error))
}

/// What a worker has written down, see [`ToWorker::ListChanged`](wire::worker::ToWorker::ListChanged). Blocks.
fn read_listing(from: &Path) -> Result<Vec<Changed>, ErrorObject> {
    let mut bytes = Vec::new();
    let read = File::open(from).and_then(|file| file.take(LISTING_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| from_io("could not read what is changed", &error))?;
    if bytes.len() as u64 > LISTING_BYTES_MAX {
        return Err(ErrorObject::new(ErrorKind::Failure, "more is changed than can be told"));
    }
    parse_listing(&bytes).ok_or_else(|| ErrorObject::internal("a list of changes is not one"))
}

fn parse_listing(bytes: &[u8]) -> Option<Vec<Changed>> {
    let Some(bytes) = bytes.strip_suffix(b"\0") else {
        return bytes.is_empty().then(Vec::new);
    };
    let parse = |entry: &[u8]| match entry.split_first() {
        Some((sign @ (b'+' | b'-'), path @ [_, ..])) => {
            Some(Changed { path: path.to_vec(), is_there: *sign == b'+' })
        }
        _ => None,
    };
    bytes.split(|byte| *byte == 0).map(parse).collect()
}

#[cfg(test)]
mod tests;
