//! One mount of a thread, from its configuration to its end.
//!
//! ```text
//!  begin: open the thread ─► mount ─► hand over ──────────────────┐
//!  take over: wait for the predecessor ─► open ─► ask for a resend ┴─► serving ─stop, or unmounted by others─► leaving ─► gone
//!                                                                       ▲                                        │
//!                                                                       └──────────────── it is in use ──────────┘
//! ```
//!
//! The mount's own directory has, besides what every mount has there:
//!
//! - `kernel`: how it was mounted (`KernelPart`, JSON), written whole before the keeper has the descriptors;
//! - `handles`: which files the kernel has open (`mount::thread::handles`).
//!
//! All of it is of this boot alone.

use std::collections::VecDeque;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use store::blobs::BlobCache;
use store::objects::Objects;
use store::thread::Thread;
use supervisor::keeper::Kept;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wire::api::ErrorKind;
use wire::api::mount::{self, BackendName, Force};
use wire::api::status::{Counters, Journal, MountStatus};
use wire::bytestring::ByteString;
use wire::worker::{FromWorker, Ready, Stopping, ThreadPlace, ToWorker, WorkerError, WorkerStatus};

use super::backend::{How, Kind, Leaving};
use super::control::{Control, Heard};
use super::fuse::{FuseMount, KernelPart, Serve, Show};
use super::home::Home;
use super::mounted::{of_one_name, supersedes};
use super::options::MountChoices;
use super::succession::{FUSE, write_part};
use super::{failure, in_full};
use crate::fuse::negotiation::Wanted;
use crate::fuse::serve::{ServeError, Server};
use crate::thread::{self, Contents, READERS, Start, Troubles};

/// How the mount was made, for a successor.
const KERNEL: &str = "kernel";

/// How long a predecessor that is dead may keep the thread: until the last of its threads has ended.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// How long anybody else may: a daemon that has just looked at it, or a process that one has forked.
const USUAL_WAIT: Duration = Duration::from_millis(500);

/// How long a mount that is taken away is waited for to end: longer than syncing names takes, and shorter than who uses it on wants
/// to be waited for.
const END_WAIT: Duration = Duration::from_secs(3);

/// Lists of what is changed that wait to be written.
const LISTS_MAX: usize = 64;

/// A mount of a thread that serves.
pub(super) struct MountedThread {
    home: Home,
    ready: Ready,
    thread: Arc<Thread>,
    fuse: FuseMount,
    troubles: Arc<Troubles>,
    /// What is changed is being written down.
    listing: Option<Listing>,
    /// It is asked for by others.
    lists: VecDeque<(u64, ByteString)>,
    /// How it leaves, if it does.
    leaving: Option<(Force, Leaving)>,
}

/// A list on its way to its file: its number, and why it is not there.
type Listing = tokio::task::JoinHandle<(u64, Option<String>)>;

/// Whatever can wake a mount.
enum Event {
    Heard(Heard),
    Listed(u64, Option<String>),
    Unmounted,
    Terminated,
    Left(Result<(), WorkerError>),
}

/// A thread, as a mount shows it.
struct ShownThread {
    thread: Arc<Thread>,
    directory: PathBuf,
    contents: Contents,
    troubles: Arc<Troubles>,
}

impl Show for ShownThread {
    fn wanted(&self) -> Wanted {
        thread::wanted(self.contents, &self.thread)
    }

    fn readers(&self) -> usize {
        READERS
    }

    fn keep(&self, part: &KernelPart) -> Result<(), WorkerError> {
        let path = self.directory.join(KERNEL);
        write_whole(&path, &write_part(part)).map_err(|error| {
            failure(ErrorKind::Failure, format!("could not write `{}`: {}", path.display(), in_full(&error)))
        })
    }

    fn serve(self, serve: Serve<'_>) -> Result<Server, ServeError> {
        let Serve { devices, negotiated, begin, progress, refused } = serve;
        let ShownThread { thread, directory, troubles, .. } = self;
        let directory = directory.as_path();
        thread::start(Start { devices, negotiated, thread, directory, begin, progress, refused, troubles })
    }
}

impl MountedThread {
    /// Brings a mount to serve; after an error nothing of it is left.
    pub(super) async fn begin(home: Home, place: &ThreadPlace) -> Result<MountedThread, WorkerError> {
        let choices = MountChoices::parse(&home.config.options)?;
        check_backend(home.config.backend, &choices)?;
        let thread = open(&home, place, USUAL_WAIT).await?;
        let (shown, troubles) = shown(&home, &choices, &thread);
        let fuse = FuseMount::begin(&home, &choices, shown).await?;
        Ok(MountedThread::of(home, thread, fuse, troubles))
    }

    /// Goes on with a mount that a predecessor has served, with what was kept of it.
    pub(super) async fn take_over(
        home: Home,
        place: &ThreadPlace,
        kept: Vec<Kept>,
    ) -> Result<MountedThread, WorkerError> {
        let (name, descriptors) = of_one_name(kept)?;
        if name != FUSE {
            let message = format!("no thread is served through descriptors named `{name}`");
            return Err(failure(ErrorKind::Failure, message));
        }
        let choices = MountChoices::parse(&home.config.options)?;
        let part = read_part(&home.directory.join(KERNEL))?;
        let thread = open(&home, place, BUSY_WAIT).await?;
        let (shown, troubles) = shown(&home, &choices, &thread);
        let fuse = FuseMount::take_over(part, descriptors, shown, &home).await?;
        Ok(MountedThread::of(home, thread, fuse, troubles))
    }

    fn of(home: Home, thread: Arc<Thread>, fuse: FuseMount, troubles: Arc<Troubles>) -> MountedThread {
        let ready = Ready {
            backend: BackendName::Fuse,
            connection: fuse.connection(),
            port: None,
            nfs: None,
            degraded: fuse.degraded().map(str::to_owned),
            agent_version: None,
            pid: Some(std::process::id()),
            restarts: Some(home.tether.restarts()),
            replayed: None,
        };
        let (listing, lists, leaving) = (None, VecDeque::new(), None);
        MountedThread { home, ready, thread, fuse, troubles, listing, lists, leaving }
    }

    /// Serves until it is gone.
    pub(super) async fn serve(mut self, mut control: Control) -> io::Result<()> {
        let mut terminated = signal(SignalKind::terminate())?;
        loop {
            match self.next(&mut control, &mut terminated).await {
                Event::Heard(Heard::Connected) => control.send(&FromWorker::Ready(self.ready.clone())).await,
                // There is no link.
                Event::Heard(Heard::Said(ToWorker::Reconnect)) => {}
                Event::Heard(Heard::Said(ToWorker::Status)) => control.send(&self.status()).await,
                // What was taken from a writer is in the thread.
                Event::Heard(Heard::Said(ToWorker::Flush { number: through })) => {
                    control.send(&FromWorker::Flushed { through }).await;
                }
                Event::Heard(Heard::Said(ToWorker::ListChanged { number, to })) => {
                    if self.lists.len() == LISTS_MAX {
                        let failed = Some("too many lists are asked for at once".to_owned());
                        control.send(&FromWorker::ListedChanged { number, failed }).await;
                        continue;
                    }
                    self.lists.push_back((number, to));
                    self.list_next();
                }
                Event::Heard(Heard::Said(ToWorker::Stop { force })) => self.leave(force),
                Event::Heard(Heard::Gone) => tracing::info!("the mount goes on without a daemon"),
                Event::Listed(number, failed) => {
                    control.send(&FromWorker::ListedChanged { number, failed }).await;
                    self.list_next();
                }
                Event::Unmounted => {
                    tracing::info!("unmounted");
                    self.leave(Force::Never);
                }
                Event::Terminated => self.leave(Force::Always),
                Event::Left(Ok(())) => break,
                Event::Left(Err(error)) => {
                    tracing::warn!(%error, "the mount stays");
                    control.send(&FromWorker::Error(error)).await;
                }
            }
        }
        // Whoever dies from here on needs no successor.
        self.home.tether.leaving();
        // Before the daemon is told, who may open the thread then: what nobody has open any more goes, and names are synced.
        if tokio::time::timeout(END_WAIT, self.fuse.ended()).await.is_err() {
            tracing::info!("somebody still uses what is mounted nowhere");
            let thread = self.thread.clone();
            let synced = tokio::task::spawn_blocking(move || thread.sync_names()).await;
            if let Ok(Err(error)) = synced {
                tracing::error!(error = in_full(&error), "what was done to names may not outlive the power");
            }
        }
        self.fuse.finish().await;
        drop(self.thread);
        control.send(&FromWorker::Stopping(Stopping::default())).await;
        Ok(())
    }

    async fn next(&mut self, control: &mut Control, terminated: &mut Signal) -> Event {
        let is_staying = self.leaving.is_none();
        let left = async {
            match &mut self.leaving {
                Some((_, leaving)) => leaving.await,
                None => std::future::pending().await,
            }
        };
        let listed = async {
            match &mut self.listing {
                Some(listing) => listing.await.unwrap_or_else(|error| (0, Some(error.to_string()))),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = control.next() => Event::Heard(heard),
            (number, failed) = listed => {
                self.listing = None;
                Event::Listed(number, failed)
            }
            () = self.fuse.ended(), if is_staying => Event::Unmounted,
            Some(()) = terminated.recv() => Event::Terminated,
            outcome = left => {
                self.leaving = None;
                Event::Left(outcome)
            }
        }
    }

    /// Begins the next list, unless one is being written.
    fn list_next(&mut self) {
        if self.listing.is_some() {
            return;
        }
        let Some((number, to)) = self.lists.pop_front() else { return };
        let thread = self.thread.clone();
        self.listing =
            Some(tokio::task::spawn_blocking(move || (number, list_changed(&thread, to.as_path()).err())));
    }

    /// Begins to leave, unless that is under way with as much force. A thread has all that was taken from writers: there is nothing
    /// to wait for but the kernel.
    fn leave(&mut self, force: Force) {
        if !supersedes(force, self.leaving.as_ref().map(|(force, _)| *force)) {
            return;
        }
        let how = match force {
            Force::Never => How::IfIdle,
            Force::Always => How::Now,
        };
        self.leaving = Some((force, Box::pin(self.fuse.unmount(how))));
    }

    fn status(&self) -> FromWorker {
        let counts = self.fuse.counts();
        let (requests, hits) = (counts.all().requests(), counts.all().hits());
        FromWorker::Status(Box::new(WorkerStatus {
            status: MountStatus::Active,
            reason: None,
            journal: Journal::default(),
            counters: Counters { requests, hits, ..Counters::default() },
            operations: counts.operations(),
            degraded: self.ready.degraded.clone().or_else(|| self.troubles.last()),
            kept_aside: Vec::new(),
            replayed: None,
        }))
    }
}

fn shown(home: &Home, choices: &MountChoices, thread: &Arc<Thread>) -> (ShownThread, Arc<Troubles>) {
    let troubles = Arc::<Troubles>::default();
    let contents = if choices.passthrough { Contents::PassedThrough } else { Contents::Served };
    let (thread, directory) = (thread.clone(), home.directory.clone());
    (ShownThread { thread, directory, contents, troubles: troubles.clone() }, troubles)
}

fn check_backend(wanted: mount::Backend, choices: &MountChoices) -> Result<(), WorkerError> {
    match wanted {
        mount::Backend::Auto | mount::Backend::Fuse => choices.check_for(Kind::Fuse),
        mount::Backend::Nfs | mount::Backend::CloudFiles | mount::Backend::FileProvider => {
            Err(failure(ErrorKind::Usage, "a thread is mounted through fuse only"))
        }
    }
}

fn hash(place: &ThreadPlace) -> Result<store::Hash, WorkerError> {
    let unknown = || failure(ErrorKind::Usage, format!("no repository names objects by `{}`", place.hash));
    place.hash.parse().map_err(|_| unknown())
}

/// Opens the thread, which somebody else may have for so long.
async fn open(home: &Home, place: &ThreadPlace, patience: Duration) -> Result<Arc<Thread>, WorkerError> {
    let (hash, place) = (hash(place)?, place.clone());
    let opening = tokio::task::spawn_blocking(move || open_now(&place, hash, patience));
    match opening.await {
        Ok(opened) => opened.map(Arc::new).map_err(|error| not_opened(home, &error)),
        Err(error) => Err(failure(ErrorKind::Failure, format!("opening a thread has failed: {error}"))),
    }
}

fn open_now(place: &ThreadPlace, hash: store::Hash, patience: Duration) -> store::Result<Thread> {
    let objects = Arc::new(Objects::open(place.repository.as_path(), hash)?);
    let blobs = place.blobs.as_path();
    // The cache is made where there is a directory for it.
    if let Some(above) = blobs.parent() {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(above);
        if let Err(error) = made {
            tracing::warn!(path = %above.display(), %error, "no directory for contents of revisions");
        }
    }
    let blobs = Arc::new(BlobCache::open(blobs, place.blobs_bytes_max)?);
    Thread::open_within(patience, place.directory.as_path(), objects, blobs)
}

fn not_opened(home: &Home, error: &store::Error) -> WorkerError {
    let kind = match error {
        store::Error::Busy { .. } => ErrorKind::Conflict,
        store::Error::Access { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            ErrorKind::NotFound
        }
        _ => ErrorKind::Failure,
    };
    failure(kind, format!("could not mount `{}`: {}", home.config.source, in_full(error)))
}

/// Writes down what is changed, or says in one line why not.
fn list_changed(thread: &Thread, to: &Path) -> Result<(), String> {
    let changed = thread.changed().map_err(|error| in_full(&error))?;
    let mut list = Vec::new();
    for changed in changed {
        list.push(if changed.is_there { b'+' } else { b'-' });
        list.extend_from_slice(&changed.path);
        list.push(0);
    }
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        file.write_all(&list)
    };
    write().map_err(|error| format!("could not write `{}`: {}", to.display(), in_full(&error)))
}

/// Writes a file so that whoever reads it finds what was there or all of this, also when this process dies meanwhile.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    std::fs::rename(&fresh, path)
}

fn read_part(path: &Path) -> Result<KernelPart, WorkerError> {
    let unreadable = |error: &dyn std::error::Error| {
        failure(ErrorKind::Failure, format!("could not read `{}`: {}", path.display(), in_full(error)))
    };
    let bytes = std::fs::read(path).map_err(|error| unreadable(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))
}
