//! The making of a thread, and the undoing of one that was not made to its end.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use store::blobs::BlobCache;
use store::names::Origin;
use store::node::{Ino, Time};
use store::objects::{Objects, Revision};
use store::thread::{DATED_BEFORE_SECONDS, New, Thread, Unsettled};
use store::working_copy::WorkingCopy;
use store::worktree::start::{self, Start};
use store::worktree::{self, Registration, Taken};
use wire::api::machine::{Source, absolute};
use wire::api::mount::{Create, Force};
use wire::api::thread::Ignored;
use wire::api::{ErrorKind, ErrorObject, status, thread};
use wire::bytestring::ByteString;
use wire::paths::Paths;

use super::operations::made_operation;
use super::{BLOBS_BYTES_MAX, TREE, ThreadContext, blocking, captures_name, conflict, from_store, place};
use crate::database::{ThreadPhase, ThreadRow};
use crate::failure::{failure, from_io};
use crate::mount::plan::{self, Plan};
use crate::owner::{Answer, Event, FoundThread, ThreadEvent, Turn, thread_exists};

const MAKING: &str = "making";

/// How long a git whose daemon has died may take to end before what it makes is removed.
const ABANDONED_GIT_MAX: Duration = Duration::from_secs(8);

/// How often it is looked whether it has.
const ABANDONED_GIT_INTERVAL: Duration = Duration::from_millis(20);

pub(super) const ASIDE: &str = "git";

/// Of a thread with whose name and directory nothing was begun.
const NOTHING_MADE: ThreadPhase = ThreadPhase::Dropping { branch_at: None, captures_at: None, aside: None };

/// A thread that can be made.
pub(super) struct Planned {
    pub(super) row: ThreadRow,
    pub(super) objects: Arc<Objects>,
    pub(super) revision: Revision,
    /// What it is made from, if that is there.
    pub(super) copy: Option<WorkingCopy>,
    /// How it is to be mounted; `mount` once its directory is there.
    create: Create,
    pub(super) mount: Option<Plan>,
    /// What is to be durable before the thread is said to be there.
    unsettled: Option<Unsettled>,
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
    async fn make(&self, new: thread::New) -> Result<status::Thread, ErrorObject> {
        if !thread::is_name(&new.name) {
            let message = format!("`{}` cannot be the name of a thread", new.name.escape_debug());
            return Err(ErrorObject::new(ErrorKind::Usage, message)
                .with_hint("a thread's name has letters, digits, and . - _ in between"));
        }
        let name = new.name.clone();
        if let Ok(there) = self.find(&name).await {
            return Err(thread_exists(&there.row));
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
        let Planned { row, mount, unsettled, .. } = planned;
        let made = match made {
            Ok(()) => self.place(&row).await,
            failed => failed,
        };
        let opened = match (made, mount) {
            (Ok(()), Some(mount)) => self.open(&row, mount, unsettled).await,
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

    /// Tells git where the thread is to be shown. Whoever has to undo this thread looks for its registration by what is written down
    /// first, and never by that place: another worktree may be there.
    async fn place(&self, row: &ThreadRow) -> Result<(), ErrorObject> {
        self.put(row.clone()).await?;
        let row = row.clone();
        blocking(move || place_registration(&row)).await?.map_err(|error| from_store(&error))
    }

    /// Mounts what was begun, and writes down that it was made and is there, once it is durable.
    async fn open(
        &self,
        row: &ThreadRow,
        plan: Plan,
        unsettled: Option<Unsettled>,
    ) -> Result<(), ErrorObject> {
        let plan = Box::new(plan);
        let mounting = |answer| Event::CreateMount { plan, prompter: None, answer };
        let settling = blocking(move || unsettled.iter().try_for_each(Unsettled::settle));
        let (mounted, settled) = tokio::join!(self.owner.ask(mounting), settling);
        mounted?;
        settled?.map_err(|error| from_store(&error))?;
        self.add_operation(row, made_operation(row)?).await?;
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
}

/// Finds out what a thread is to be. Makes nothing. Blocks.
pub(super) fn plan_new(new: thread::New, from: Option<&ThreadRow>) -> Result<Planned, ErrorObject> {
    let thread::New { name, repo, from: revision, at, with_ignored, caller } = new;
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
    let Begins { objects, revision: begun, branch, copy: seen_from } = begins(&within, &revision, from)?;
    let (own, captures) = (format!("refs/heads/{name}"), captures_name(&name));
    // What git would take for a pattern is the name of none.
    let named = format!("refs/heads/{revision}");
    let named = Some(named.as_str()).filter(|_| from.is_none() && !revision.contains(['*', '?', '[']));
    let references: Vec<&str> = [own.as_str(), captures.as_str()].into_iter().chain(named).collect();
    let taken = Taken::of(&objects, &references).map_err(|error| from_store(&error))?;
    let onto = match (from, named) {
        (Some(from), _) => from.onto.clone(),
        (None, _) if revision == "HEAD" => branch,
        (None, named) => named.filter(|named| taken.has(named)).map(|_| revision.clone()),
    };
    let copy = worktree::working_copy(&objects, &within);
    if taken.is_in_the_way_of(&own) {
        let message = format!("`{}` has a branch `{name}` already", copy.display());
        return Err(conflict(message, "choose another name".to_owned()));
    }
    if taken.is_in_the_way_of(&captures) {
        let message = format!("`{}` has captures of a thread `{name}` that was dropped", copy.display());
        let hint = format!(
            "stead thread undo {name}, or choose another name, or git -C {} update-ref -d {captures}",
            copy.display()
        );
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
    let repo = ByteString::from(copy.as_path());
    let seen = (with_ignored == Ignored::Seen).then_some(seen_from.as_ref());
    if seen == Some(None) {
        let message = match from {
            Some(from) => {
                format!("the thread `{}` is not mounted, so that nothing ignored is there", from.name)
            }
            None => format!("`{}` is in no working copy, so that nothing ignored is there", within.display()),
        };
        return Err(ErrorObject::new(ErrorKind::Conflict, message));
    }
    let sees = seen.flatten().map(|copy| ByteString::from(copy.root()));
    let row = ThreadRow {
        name: name.clone(),
        phase: ThreadPhase::Making,
        repo,
        repository: ByteString::from(objects.repository()),
        owner: Some(owner),
        hash: objects.hash().to_string(),
        commit: begun.commit.to_string(),
        branch: name.clone(),
        onto,
        dir: ByteString::from(dir.as_path()),
        makes_dir: dir.symlink_metadata().is_err(),
        sees,
        registration: None,
    };
    let create = Create::new(Source::Thread { name }, Some(row.dir.clone()), caller);
    Ok(Planned {
        row,
        objects: Arc::new(objects),
        revision: begun,
        copy: seen_from,
        create,
        mount: None,
        unsettled: None,
    })
}

/// What a thread is to begin from.
struct Begins {
    objects: Objects,
    revision: Revision,
    /// The branch that is checked out there, if one is. Where something else than `HEAD` is asked for it may be missing.
    branch: Option<String>,
    copy: Option<WorkingCopy>,
}

/// Finds it out, with one git if all is as usual.
fn begins(within: &Path, revision: &str, from: Option<&ThreadRow>) -> Result<Begins, ErrorObject> {
    let found = |error: store::Error| from_store(&error);
    if let (None, Some(start)) = (from, start::look(within, revision)) {
        let Start { objects, revision, branch, copy } = start;
        return Ok(Begins { objects, revision, branch, copy: Some(copy) });
    }
    let objects = Objects::discover(within).map_err(found)?;
    if let Some(from) = from {
        if from.repository.as_path() != objects.repository() {
            let message = format!("the thread `{}` is of `{}`, another repository", from.name, from.repo);
            return Err(ErrorObject::new(ErrorKind::Usage, message));
        }
        let revision = last_of(&objects, from)?;
        // Where it is not mounted, something else may be.
        let copy = WorkingCopy::discover(from.dir.as_path());
        let copy = copy.filter(|copy| copy.root() == from.dir.as_path());
        return Ok(Begins { objects, revision, branch: None, copy });
    }
    let branch = match revision {
        "HEAD" => worktree::current_branch(within).map_err(found)?,
        _ => None,
    };
    let resolved = worktree::resolve(&objects, within, revision).map_err(|error| match error {
        store::Error::Git { .. } => {
            let repository = objects.repository().display();
            let message = format!("there is no commit `{}` in `{repository}`", revision.escape_debug());
            ErrorObject::new(ErrorKind::NotFound, message)
        }
        error => from_store(&error),
    })?;
    Ok(Begins { objects, revision: resolved, branch, copy: WorkingCopy::discover(within) })
}

/// A path without links above its last name, as far as they can be followed.
pub(super) fn really(path: PathBuf) -> PathBuf {
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(above)), Some(name)) => above.join(name),
        _ => path,
    }
}

/// Beside a working copy, named after it.
pub(super) fn beside(copy: &Path, name: &str) -> PathBuf {
    let base = copy.file_name().unwrap_or_default().as_bytes();
    let base = base.strip_suffix(b".git").unwrap_or(base);
    let named = [base, b"-", name.as_bytes()].concat();
    copy.parent().unwrap_or(copy).join(OsStr::from_bytes(&named))
}

/// What another thread has captured last, or else committed.
pub(super) fn last_of(objects: &Objects, from: &ThreadRow) -> Result<Revision, ErrorObject> {
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
    /// Makes the directory, the branch, the worktree, the tree and its index. What is left after an error is
    /// [removed](super::dropping::remove). Blocks.
    pub(super) fn begin(&mut self, paths: &Paths) -> Result<(), ErrorObject> {
        let mount = plan::prepare(self.create.clone(), paths.mounts_dir(), Some(place(&self.row, paths)));
        // Nothing was made yet: what has its names by now is somebody else's.
        let mount = mount.inspect_err(|_| self.row.phase = NOTHING_MADE)?;
        self.row.dir = ByteString::from(mount.place.dir.as_path());
        self.mount = Some(mount);
        let directory = paths.thread_dir(&self.row.name);
        for dir in [paths.threads_dir(), directory.clone(), directory.join(ASIDE)] {
            supervisor::socket::private_directory(&dir).map_err(|error| failure(&error))?;
        }
        let aside = directory.join(ASIDE).join(&self.row.name);
        let held = hold(&directory).map_err(|error| from_io("could not begin a thread", &error))?;
        let Planned { objects, row, revision, .. } = &*self;
        let register = || worktree::register(objects, &aside, &row.branch, &revision.commit, held);
        let (registered, begun) = std::thread::scope(|scope| {
            let registering = scope.spawn(register);
            let begun = self.begin_tree(&directory.join(TREE), paths);
            (registering.join().unwrap_or_else(|panic| resume_unwind(panic)), begun)
        });
        let registration = registered.map_err(|error| {
            if worktree::is_taken(&error) {
                // Somebody else has made the branch meanwhile: it is not undone.
                self.row.phase = NOTHING_MADE;
                self.mount.iter().for_each(Plan::undo);
            }
            from_store(&error)
        })?;
        self.row.registration = Some(ByteString::from(registration.directory.as_path()));
        let filled = begun.and_then(|begun| begun.fill(&registration));
        self.unsettled = Some(filled.map_err(|error| from_store(&error))?);
        let gone = std::fs::remove_dir_all(directory.join(ASIDE));
        gone.and_then(|()| std::fs::remove_file(directory.join(MAKING)))
            .map_err(|error| from_io("could not remove what is not needed any more", &error))
    }

    /// Begins the tree, with all but what leads git to its registration.
    fn begin_tree(&self, tree: &Path, paths: &Paths) -> store::Result<Begun> {
        let blobs = Arc::new(BlobCache::open(paths.blobs_dir(), BLOBS_BYTES_MAX)?);
        let (uid, gid) = (self.create.caller.uid, self.create.caller.gid);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let begun = Time { seconds, nanoseconds: now.subsec_nanos() };
        let made = Time { seconds: seconds.saturating_sub(DATED_BEFORE_SECONDS), nanoseconds: 0 };
        let origin = Origin { revision: self.revision, uid, gid, made };
        let thread = Thread::begin(tree, self.objects.clone(), blobs, origin)?;
        if let Some(copy) = &self.copy {
            let sees_ignored = self.row.sees.is_some();
            if sees_ignored {
                thread.see_ignored(copy)?;
            }
            // What was built of something else than the revision must be older than that.
            thread.date_from(copy, sees_ignored.then_some(begun))?;
        }
        let index = thread.git_index()?;
        Ok(Begun { thread, index })
    }
}

/// The tree of a thread that git does not know yet, and what git is to know of it.
struct Begun {
    thread: Thread,
    index: Vec<u8>,
}

impl Begun {
    /// Has git find the registration from the tree, and the tree's files in the registration.
    fn fill(self, registration: &Registration) -> store::Result<Unsettled> {
        let Begun { thread, index } = self;
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| store::Error::Access { what, path, source }
        };
        let Origin { uid, gid, made, .. } = *thread.origin();
        let new = New { mode: 0o644, uid, gid };
        let (_, mut file) = thread.create(Ino::ROOT, worktree::POINTER, new, made)?;
        file.write_all(&registration.pointer).map_err(failed("write", thread.directory()))?;
        let path = registration.index();
        std::fs::write(&path, &index).map_err(failed("write", &path))?;
        let mut unsettled = thread.unsettled()?;
        // git leaves what it has written of a worktree to the system.
        registration.files().for_each(|path| unsettled.add(path));
        if let Some(state) = thread.directory().parent() {
            unsettled.add(state.to_owned());
        }
        Ok(unsettled)
    }
}

/// Tells git where a thread is shown that it knows already. Blocks.
pub(super) fn place_registration(row: &ThreadRow) -> store::Result<()> {
    match &row.registration {
        Some(registration) => worktree::place(registration.as_path(), row.dir.as_path()),
        None => Ok(()),
    }
}

/// Locks the file that says that a thread is being made.
fn hold(directory: &Path) -> io::Result<File> {
    let held = File::create(directory.join(MAKING))?;
    rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    Ok(held)
}
