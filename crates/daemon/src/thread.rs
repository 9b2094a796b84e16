//! Threads: their making, what is changed in them, their end.
//!
//! ```text
//!  asked for ─► planned ─► claimed, row: making ─► branch, worktree, tree, index ─► mounted ─► row: open
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
//!                   /changed while somebody asks for it: what is changed, as the worker writes it down
//! ```

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use store::blobs::BlobCache;
use store::names::Origin;
use store::node::{Ino, Time};
use store::objects::{Objects, Revision};
use store::thread::{Changed, DATED_BEFORE_SECONDS, New, Thread};
use store::worktree::{self, Registration};
use store::{Hash, Oid};
use tokio::sync::oneshot;
use wire::api::machine::{Caller, Source, absolute};
use wire::api::mount::{Create, Force};
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

/// How long git may take to look for changes in a worktree: as long as it takes to look at each of its files.
const STATUS_TIMEOUT: Duration = Duration::from_secs(120);

const TREE: &str = "tree";
const ASIDE: &str = "git";
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
    mount: Plan,
    caller: Caller,
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

    /// The same, with the right to do something to it.
    pub async fn take(&self, name: &str) -> Result<(FoundThread, Turn), ErrorObject> {
        let name = name.to_owned();
        self.owner.ask(|answer| Event::Thread(ThreadEvent::Take { name, answer })).await
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
        let paths = self.paths.clone();
        let mut planned = blocking(move || plan_new(new, from.as_ref(), &paths)).await??;
        let row = Box::new(planned.row.clone());
        let claimed = self.owner.ask(|answer| Event::Thread(ThreadEvent::Claim { row, answer })).await;
        let turn = match claimed {
            Ok(turn) => turn,
            Err(error) => {
                planned.mount.undo_in_background();
                return Err(error);
            }
        };
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
        let opened = match made {
            Ok(()) => self.open(&row, mount).await,
            Err(error) => {
                mount.undo_in_background();
                Err(error)
            }
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
        if mount.is_some() {
            return self.unmake(row, turn).await;
        }
        self.remove(row, turn).await;
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
            let number = std::time::SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let number = number.unwrap_or_default().as_nanos();
            Ok::<_, ErrorObject>(directory.join(CHANGED).join(number.to_string()))
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
        if let Some(mount) = mount {
            mount.stop(force).await?;
        }
        let deciding = row.clone();
        let (branch_at, kept_branch) = blocking(move || branch_of(&deciding)).await??;
        let row = ThreadRow { phase: ThreadPhase::Dropping { branch_at }, ..row };
        self.put(row.clone()).await?;
        self.remove(row, turn).await;
        match self.find(&name).await {
            Ok(_) => {
                let message = format!("something of the thread `{name}` could not be removed");
                Err(ErrorObject::new(ErrorKind::Failure, message).with_hint("stead daemon logs"))
            }
            Err(_) => Ok(thread::Dropped { name, kept_branch }),
        }
    }

    /// Refuses a thread with something in it that nothing else has.
    async fn check_unchanged(&self, row: &ThreadRow, mount: Option<&MountHandle>) -> Result<(), ErrorObject> {
        let name = row.name.clone();
        let refused = |message: String, hint: String| {
            Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint(hint))
        };
        let Some(mount) = mount else {
            let (row, paths) = (row.clone(), self.paths.clone());
            return match blocking(move || changed_of(&row, &paths)).await??.is_empty() {
                true => Ok(()),
                false => refused(
                    format!(
                        "the thread `{name}` has changes, and is not mounted, so that git cannot tell whether they are committed"
                    ),
                    format!("stead mount thread:{name}, or stead thread drop {name} --force"),
                ),
            };
        };
        let dir = mount.dir.as_path().to_owned();
        let looking = blocking(move || worktree::is_changed(&dir));
        let looked = tokio::time::timeout(STATUS_TIMEOUT, looking).await;
        let looked = looked.map_err(|_| {
            let message = format!("git did not say in time whether the thread `{name}` has changes");
            ErrorObject::new(ErrorKind::TimedOut, message)
        })?;
        match looked?.map_err(|error| from_store(&error))? {
            false => Ok(()),
            true => refused(
                format!("the thread `{name}` has changes that are not committed"),
                format!("commit them, or stead thread drop {name} --force"),
            ),
        }
    }

    /// Has the owner know how many paths are changed in each thread, as far as that is found out in time.
    pub async fn count(&self) {
        let (answer, answered) = oneshot::channel();
        self.tell(ThreadEvent::FindAll { answer }).await;
        let all = answered.await.unwrap_or_default();
        let wanted = all.into_iter().filter(|found| {
            found.row.phase == ThreadPhase::Open && (found.mount.is_some() || found.changed.is_none())
        });
        let counting: tokio::task::JoinSet<()> = wanted
            .map(|found| {
                let context = self.clone();
                async move {
                    if let Err(error) = context.changed(&found.row.name).await {
                        tracing::debug!(thread = found.row.name, %error, "what is changed is not known");
                    }
                }
            })
            .collect();
        counting.join_all().await;
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
        store::Error::Git { what: "find a repository" | "resolve a revision", .. } => ErrorKind::NotFound,
        store::Error::Access { source, .. } => crate::failure::kind_of(source),
        _ => ErrorKind::Failure,
    };
    ErrorObject::new(kind, chain(error))
}

fn conflict(message: String, hint: String) -> ErrorObject {
    ErrorObject::new(ErrorKind::Conflict, message).with_hint(hint)
}

/// Finds out what a thread is to be, and makes its directory. Blocks.
fn plan_new(new: thread::New, from: Option<&ThreadRow>, paths: &Paths) -> Result<Planned, ErrorObject> {
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
        None => worktree::resolve(&objects, &within, &revision).map_err(found)?,
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
    let dir = match &at {
        Some(at) => at.clone(),
        None => ByteString::from(beside(&copy, &name).as_path()),
    };
    let mut row = ThreadRow {
        name: name.clone(),
        phase: ThreadPhase::Making,
        repo: ByteString::from(copy.as_path()),
        repository: ByteString::from(objects.repository()),
        hash: objects.hash().to_string(),
        commit: revision.commit.to_string(),
        branch: name.clone(),
        dir,
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
        caller: caller.clone(),
    };
    let mount = plan::prepare(create, paths.mounts_dir(), Some(place(&row, paths)))?;
    row.dir = ByteString::from(mount.place.dir.as_path());
    Ok(Planned { row, objects: Arc::new(objects), revision, mount, caller })
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
    for reference in [format!("{}{name}", worktree::CAPTURES), format!("refs/heads/{}", from.branch)] {
        if let Some(commit) = worktree::reference(objects, &reference).map_err(|error| from_store(&error))? {
            return objects.revision(commit).map_err(|error| from_store(&error));
        }
    }
    let message = format!("the thread `{name}` has neither captures nor a branch any more");
    Err(ErrorObject::new(ErrorKind::NotFound, message))
}

impl Planned {
    /// Makes the branch, the worktree, the tree and its index. What is left after an error is [removed](remove). Blocks.
    fn begin(&mut self, paths: &Paths) -> Result<(), ErrorObject> {
        let directory = paths.thread_dir(&self.row.name);
        for dir in [paths.threads_dir(), directory.clone(), directory.join(ASIDE)] {
            supervisor::socket::private_directory(&dir).map_err(|error| failure(&error))?;
        }
        let aside = directory.join(ASIDE).join(&self.row.name);
        let registered = worktree::register(&self.objects, &aside, &self.row.branch, &self.revision.commit);
        let registration = registered.map_err(|error| {
            if error.to_string().contains("already exists") {
                // Somebody else has made the branch meanwhile: it is not undone.
                self.row.phase = ThreadPhase::Dropping { branch_at: None };
            }
            from_store(&error)
        })?;
        self.row.registration = Some(ByteString::from(registration.directory.as_path()));
        self.fill(&directory.join(TREE), &registration, paths).map_err(|error| from_store(&error))?;
        let gone = std::fs::remove_dir_all(directory.join(ASIDE));
        gone.map_err(|error| from_io("could not remove a directory that git does not need", &error))
    }

    fn fill(&self, tree: &Path, registration: &Registration, paths: &Paths) -> store::Result<()> {
        let blobs = Arc::new(BlobCache::open(paths.blobs_dir(), BLOBS_BYTES_MAX)?);
        let (uid, gid) = (self.caller.uid, self.caller.gid);
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
        let mut file = std::fs::File::create(&index).map_err(failed("make", &index))?;
        thread.write_git_index(&mut file, &index)?;
        worktree::place(&registration.directory, self.row.dir.as_path())
    }
}

/// Removes what there is of a thread that is not mounted: its worktree, its branch if that is to go, its files. Blocks.
fn remove(row: &ThreadRow, paths: &Paths) -> Result<(), ErrorObject> {
    let directory = paths.thread_dir(&row.name);
    // A repository that is gone has taken its part with it.
    if let (true, Ok(objects)) = (row.repository.as_path().exists(), repository_of(row)) {
        let places = [directory.as_path(), row.dir.as_path()];
        let known = row.registration.as_ref().map(|registration| registration.as_path().to_owned());
        let registration = match known {
            Some(known) => Some(known),
            None => worktree::leftover(&objects, &places).map_err(|error| from_store(&error))?,
        };
        if let Some(registration) = registration {
            worktree::unregister(&registration, &places).map_err(|error| from_store(&error))?;
        }
        let branch_at = match &row.phase {
            // Only its maker could have made it: it was not there before.
            ThreadPhase::Making => Some(row.commit.clone()),
            ThreadPhase::Open => None,
            ThreadPhase::Dropping { branch_at } => branch_at.clone(),
        };
        if let Some(Ok(at)) = branch_at.map(|at| Oid::from_hex(at.as_bytes())) {
            let name = format!("refs/heads/{}", row.branch);
            if worktree::reference(&objects, &name).map_err(|error| from_store(&error))? == Some(at) {
                worktree::delete_branch(&objects, &row.branch, &at).map_err(|error| from_store(&error))?;
            }
        }
    }
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(from_io(&format!("could not remove `{}`", directory.display()), &error))
        }
        _ => Ok(()),
    }
}

/// The commit at which a thread's branch can go with it, or else its name if it has to stay. Blocks.
fn branch_of(row: &ThreadRow) -> Result<(Option<String>, Option<String>), ErrorObject> {
    if !row.repository.as_path().exists() {
        return Ok((None, None));
    }
    let objects = repository_of(row)?;
    let name = format!("refs/heads/{}", row.branch);
    let Some(at) = worktree::reference(&objects, &name).map_err(|error| from_store(&error))? else {
        return Ok((None, None));
    };
    let base = Oid::from_hex(row.commit.as_bytes())
        .map_err(|error| ErrorObject::internal(format!("a thread began from no commit: {error}")))?;
    match worktree::has_own_commits(&objects, &row.branch, &at, &base).map_err(|error| from_store(&error))? {
        true => Ok((None, Some(row.branch.clone()))),
        false => Ok((Some(at.to_string()), None)),
    }
}

/// The objects of a thread's repository. Blocks.
pub fn repository_of(row: &ThreadRow) -> Result<Objects, ErrorObject> {
    let hash = match row.hash.as_str() {
        "sha256" => Hash::Sha256,
        _ => Hash::Sha1,
    };
    Objects::open(row.repository.as_path(), hash).map_err(|error| from_store(&error))
}

/// What is changed in a thread that is not mounted. Blocks.
fn changed_of(row: &ThreadRow, paths: &Paths) -> Result<Vec<Changed>, ErrorObject> {
    let objects = Arc::new(repository_of(row)?);
    let read = || -> store::Result<Vec<Changed>> {
        let blobs = Arc::new(BlobCache::open(paths.blobs_dir(), BLOBS_BYTES_MAX)?);
        Thread::open(&paths.thread_dir(&row.name).join(TREE), objects, blobs)?.changed()
    };
    read().map_err(|error| from_store(&error))
}

/// What a worker has written down, see [`ToWorker::ListChanged`](wire::worker::ToWorker::ListChanged). Blocks.
fn read_listing(from: &Path) -> Result<Vec<Changed>, ErrorObject> {
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(from).and_then(|file| file.take(LISTING_BYTES_MAX + 1).read_to_end(&mut bytes));
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
    let entries = bytes.split(|byte| *byte == 0).map(parse);
    let is_users = |changed: &Changed| changed.path != worktree::POINTER;
    entries.filter(|entry| entry.as_ref().is_none_or(is_users)).collect()
}

#[cfg(test)]
mod tests;
