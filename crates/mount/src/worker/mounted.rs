//! One mount, from its configuration to its end.
//!
//! ```text
//!              ┌───────────── it is in use ────────────┐
//!              ▼                                       │
//!  begin, or take over
//!        └──► serving ──stop, or unmounted by others─► leaving ──────────────────┬─► gone
//!              │                                       │ stop by force         │
//!              └─────────── stop by force ─────────────┴─► leaving by force ───┘
//! ```
//!
//! While it leaves it serves on, for what is unwritten comes through it, and answers the daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use remote::WorkerDialer;
use remote::client::relink::{RelinkOptions, Resumption};
use remote::client::{AgentClient, CallError, Heartbeat};
use remote::link::Policy;
use remote::spare::Spare;
use remote::transport::host::HostOptions;
use supervisor::keeper::Kept;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use vfs::vfs::{Recording, Restored};
use vfs::{Kernel, Vfs};
use wire::agent::Sequence;
use wire::agent::file as far;
use wire::api::ErrorKind;
use wire::api::machine::{Reconnect, Source};
use wire::api::mount::{Access, Force, SyncMode};
use wire::api::status::{Counters, Journal, MountStatus, Replayed};
use wire::bytestring::ByteString;
use wire::hello::SessionId;
use wire::worker::{Dial, FromWorker, MountConfig, Ready, Stopping, ToWorker, WorkerError, WorkerStatus};

use super::backend::{Backend, How, Kind, Leaving};
use super::control::{Control, Heard};
use super::distance;
use super::fuse::{self, FuseMount};
use super::home::Home;
use super::nfs::NfsMount;
use super::options::MountChoices;
use super::session::SessionNote;
use super::shown::Shown;
use super::spare::{First, Reserve};
use super::succession::{FUSE, NFS, SourcePart, read_part};
use super::{failure, in_full};
use crate::cache::{CacheSize, DiskCache};
use crate::machine::{Events, LinkStanding, Machine, held_file};
use crate::nfs::NoNotices;
use crate::unsaved::{Held, Replaying, interrupted};

/// After so many names of one directory, asked for one by one, a reader is taken for one that goes through it: two
/// happen to everybody.
const LIST_AFTER: u32 = 3;

/// Entries that a walk is ahead of its reader: 100 ms of what one thread of an agent finds, and 6 MB here.
const WALK_AHEAD_ENTRIES: usize = 16 << 10;

/// How long the agent keeps the session when there is no link, in seconds: open files and locks survive a computer that
/// is closed for an hour, and one that is lost keeps locks from others for no longer.
const KEEP_SECONDS: u32 = 60 * 60;

/// How long unsaved writes are waited for when the mount is to go by force.
const FORCED_DRAIN: Duration = Duration::from_secs(2);

/// How long the kernel may take to unmount by force before all it waits for is made to fail. With the drain, and what a
/// backend may add, well below the daemon's patience.
const FORCED_UNMOUNT: Duration = Duration::from_secs(2);

/// How long a mount that goes waits for what it has read to be on disk: the queue is written in less, where the disk is
/// not busy with something else.
const CACHE_FLUSH: Duration = Duration::from_secs(2);

/// A mount that serves.
pub(super) struct Mounted {
    home: Home,
    ready: Ready,
    client: AgentClient,
    vfs: Arc<Vfs<Machine>>,
    cache: Option<Arc<DiskCache>>,
    standing: watch::Receiver<LinkStanding>,
    backend: Backend,
    /// For the next worker.
    reserve: Option<Reserve>,
    /// What earlier mounts have left unsaved is being saved.
    replaying: Option<Replaying>,
    /// Until all is on the machine that had been taken from writers when so many had asked for that.
    flushing: Option<(u64, Flushing)>,
    /// The last that asked for it meanwhile.
    flush_next: Option<u64>,
    /// How it leaves, if it does.
    leaving: Option<(Force, Leaving)>,
    /// It was to leave by force, last.
    is_forced: bool,
}

/// A wait until all is on the machine that was taken from writers.
type Flushing = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whatever can wake a mount.
enum Event {
    Heard(Heard),
    LinkChanged,
    Replayed(Option<Replayed>),
    Flushed(u64),
    Unmounted,
    Terminated,
    Left(Result<(), WorkerError>),
}

impl Mounted {
    /// Brings a mount to serve; after an error nothing of it is left.
    pub(super) async fn begin(home: Home, dial: &Dial) -> Result<Mounted, WorkerError> {
        let config = &home.config;
        let choices = MountChoices::parse(&config.options)?;
        let wanted = config.backend;
        let choosing = tokio::task::spawn_blocking(move || Kind::choose(wanted, &choices)).await;
        let kind = choosing.map_err(|error| failure(ErrorKind::Failure, error.to_string()))??;
        let link = Link::first(config, dial, &choices).await?;
        let replaying = link.replay(config).await;
        let replayed = replaying.as_ref().map(Replaying::so_far);
        let replaying = replaying.filter(|replaying| !replaying.is_over());
        let held = replaying.as_ref().map(Replaying::held);
        let (shown, parts) =
            parts(&home, &choices, kind, link, Recording::Fresh(home.directory.clone()), held);
        let backend = match kind {
            Kind::Fuse => Backend::Fuse(FuseMount::begin(&home, &choices, shown).await?),
            Kind::Nfs => Backend::Nfs(NfsMount::begin(&home, &choices, shown, None).await?),
        };
        let mut mounted = Mounted::of(home, backend, parts);
        (mounted.ready.replayed, mounted.replaying) = (replayed, replaying);
        Ok(mounted)
    }

    /// Goes on with a mount that a predecessor has served, with what was kept of it, and on the channel that it has dialled
    /// ahead, if it has.
    pub(super) async fn take_over(
        home: Home,
        dial: &Dial,
        kept: Vec<Kept>,
        spare: Option<Spare>,
    ) -> Result<Mounted, WorkerError> {
        let choices = MountChoices::parse(&home.config.options)?;
        let (name, descriptors) = of_one_name(kept)?;
        // Files that were held may be open now: what is not saved by now is for the next mount.
        let replayed = interrupted(&home.config);
        let mut mounted = match name.as_str() {
            FUSE => Mounted::take_over_fuse(home, (dial, &choices), descriptors, spare).await?,
            NFS => Mounted::take_over_nfs(home, (dial, &choices), descriptors, spare).await?,
            _ => {
                let message = format!("nothing is served through descriptors named `{name}`");
                return Err(failure(ErrorKind::Failure, message));
            }
        };
        mounted.ready.replayed = replayed;
        Ok(mounted)
    }

    async fn take_over_fuse(
        home: Home,
        way: (&Dial, &MountChoices),
        descriptors: Vec<OwnedFd>,
        spare: Option<Spare>,
    ) -> Result<Mounted, WorkerError> {
        let restored = restore(&home)?;
        let part = fuse::part(&restored).map_err(|error| no_record(&error))?;
        let (shown, parts) = parts_again(&home, way, Kind::Fuse, restored, spare)?;
        let mount = FuseMount::take_over(part, descriptors, shown, &home).await;
        // The next one that takes over needs the session.
        let mount = mount.inspect_err(|_| parts.client.leave())?;
        Ok(Mounted::of(home, Backend::Fuse(mount), parts))
    }

    async fn take_over_nfs(
        home: Home,
        way: (&Dial, &MountChoices),
        descriptors: Vec<OwnedFd>,
        spare: Option<Spare>,
    ) -> Result<Mounted, WorkerError> {
        let (shown, parts) = parts_again(&home, way, Kind::Nfs, restore(&home)?, spare)?;
        // Clients of NFS open nothing, and know files by what outlives the table.
        parts.vfs.let_go_of_all();
        let listener = descriptors.into_iter().next();
        let mount = NfsMount::begin(&home, way.1, shown, listener).await;
        let mount = mount.inspect_err(|_| parts.client.leave())?;
        Ok(Mounted::of(home, Backend::Nfs(mount), parts))
    }

    fn of(home: Home, backend: Backend, parts: Parts) -> Mounted {
        let Parts { client, vfs, cache, standing, release, dialer, reserve } = parts;
        let ready = backend.ready(release, home.tether.restarts());
        // A first worker's successor has something to take over only now.
        let reserve = reserve.or_else(|| {
            let tether = home.tether.clone();
            Reserve::keep(dialer, client.clone(), standing.clone(), tether, First::WithLink)
        });
        Mounted {
            home,
            ready,
            client,
            vfs,
            cache,
            standing,
            backend,
            reserve,
            replaying: None,
            flushing: None,
            flush_next: None,
            leaving: None,
            is_forced: false,
        }
    }

    /// Serves until it is gone.
    pub(super) async fn serve(mut self, mut control: Control) -> io::Result<()> {
        let mut terminated = signal(SignalKind::terminate())?;
        loop {
            match self.next(&mut control, &mut terminated).await {
                Event::Heard(Heard::Connected) => control.send(&FromWorker::Ready(self.ready.clone())).await,
                Event::Heard(Heard::Said(ToWorker::Reconnect)) => self.client.reconnect(),
                Event::Heard(Heard::Said(ToWorker::Status)) => control.send(&self.status()).await,
                Event::Heard(Heard::Said(ToWorker::Flush { number })) => self.flush(number),
                Event::Heard(Heard::Said(ToWorker::ListChanged { number, .. })) => {
                    let failed = Some("it is not of a thread".to_owned());
                    control.send(&FromWorker::ListedChanged { number, failed }).await;
                }
                Event::Heard(Heard::Said(ToWorker::Stop { force })) => self.leave(force),
                Event::Heard(Heard::Gone) => tracing::info!("the mount goes on without a daemon"),
                Event::LinkChanged => control.send(&self.status()).await,
                Event::Replayed(Some(replayed)) => {
                    self.ready.replayed = Some(replayed);
                    control.send(&self.status()).await;
                }
                Event::Replayed(None) => self.replaying = None,
                Event::Flushed(through) => {
                    control.send(&FromWorker::Flushed { through }).await;
                    if let Some(number) = self.flush_next.take() {
                        self.flush(number);
                    }
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
        // What it has not come to is kept for the next mount.
        self.replaying = None;
        // Whoever dies from here on needs no successor.
        self.home.tether.leaving();
        if let Some(reserve) = self.reserve.take() {
            reserve.end().await;
        }
        if let Some(cache) = self.cache.clone().filter(|_| !self.is_forced) {
            let flushed = tokio::task::spawn_blocking(move || cache.flush(CACHE_FLUSH)).await;
            tracing::debug!(?flushed, "what was read is on disk");
        }
        control.send(&FromWorker::Stopping(Stopping { kept_aside: self.keep_aside() })).await;
        if self.client.goodbye().await {
            SessionNote::of(&self.home.directory).remove();
        }
        self.backend.finish().await;
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
        tokio::select! {
            heard = control.next() => Event::Heard(heard),
            Ok(()) = self.standing.changed() => Event::LinkChanged,
            replayed = next_replayed(&mut self.replaying) => Event::Replayed(replayed),
            through = next_flushed(&mut self.flushing) => {
                self.flushing = None;
                Event::Flushed(through)
            }
            () = self.backend.unmounted(), if is_staying => Event::Unmounted,
            Some(()) = terminated.recv() => Event::Terminated,
            outcome = left => {
                self.leaving = None;
                Event::Left(outcome)
            }
        }
    }

    /// Begins to wait until all is on the machine that has been taken from writers by now; when that is waited for already,
    /// behind that.
    fn flush(&mut self, number: u64) {
        if self.flushing.is_some() {
            self.flush_next = Some(number);
            return;
        }
        let vfs = self.vfs.clone();
        self.flushing = Some((number, Box::pin(async move { vfs.all_caught_up().await })));
    }

    /// Begins to leave, unless that is under way with as much force.
    fn leave(&mut self, force: Force) {
        let under_way = self.leaving.as_ref().map(|(force, _)| *force);
        if !supersedes(force, under_way) {
            return;
        }
        self.is_forced = force == Force::Always;
        let leaving = match force {
            Force::Never => self.leave_when_idle(),
            Force::Always => self.leave_now(),
        };
        self.leaving = Some((force, leaving));
    }

    /// Unmounts, with everything written on the machine. After an error the mount serves on.
    fn leave_when_idle(&self) -> Leaving {
        let (vfs, unmount) = (self.vfs.clone(), self.backend.unmount(How::IfIdle));
        Box::pin(async move {
            vfs.drain().await;
            unmount.await?;
            // What the kernel had kept back comes with the unmounting.
            vfs.drain().await;
            Ok(())
        })
    }

    /// Unmounts within a few seconds. What could not be written by then stays in the journal, and its writers are told.
    fn leave_now(&self) -> Leaving {
        let (vfs, client, mut unmount) =
            (self.vfs.clone(), self.client.clone(), self.backend.unmount(How::Now));
        Box::pin(async move {
            // Nothing gets through to a machine that is away.
            let patience = if client.away().is_some() { Duration::ZERO } else { FORCED_DRAIN };
            if tokio::time::timeout(patience, vfs.drain()).await.is_err() {
                give_up(&vfs, &client);
            }
            let unmounted = match tokio::time::timeout(FORCED_UNMOUNT, &mut unmount).await {
                Ok(unmounted) => unmounted,
                Err(_) => {
                    // The kernel, or a client, waits for the machine.
                    give_up(&vfs, &client);
                    unmount.await
                }
            };
            unmounted?;
            if tokio::time::timeout(FORCED_DRAIN, vfs.drain()).await.is_err() {
                vfs.give_up();
            }
            Ok(())
        })
    }

    /// Removes the journal of a mount that is gone, or says where it stays: in it is what was taken from writers and is
    /// not on the machine. The next mount of the same source replays it.
    fn keep_aside(&self) -> Vec<ByteString> {
        if self.vfs.kept_writes() > 0 {
            self.vfs.give_up();
            return vec![ByteString::from(self.home.directory.as_path())];
        }
        if let Err(error) = vfs::journal::remove(&self.home.directory) {
            tracing::warn!(%error, "a journal with nothing unwritten stays");
        }
        Vec::new()
    }

    /// What it cannot do here, in one line.
    fn degraded(&self) -> Option<String> {
        let unrecorded = self.vfs.record_failure();
        let unrecorded =
            unrecorded.map(|why| format!("if the mount's process dies, so does the mount: {why}"));
        let unwatched = "the machine cannot watch some of its directories, or no more of them: what others change there is \
                         seen after a second";
        let unwatched = self.vfs.has_unwatched().then(|| unwatched.to_owned());
        unrecorded.or_else(|| self.ready.degraded.clone()).or(unwatched)
    }

    fn status(&self) -> FromWorker {
        let link = self.client.counters();
        let counters = Counters {
            round_trips: link.round_trips,
            bytes_read: link.bytes_received,
            bytes_cached: self.cache.as_ref().map_or(0, |cache| cache.found_bytes()),
            bytes_written: link.bytes_sent,
            retries: link.retries,
            reconnects: link.streams.saturating_sub(1),
            ..self.backend.counters()
        };
        let unwritten = self.vfs.unwritten_bytes() as u64;
        let (status, reason) = match self.standing.borrow().clone() {
            LinkStanding::Linked => (MountStatus::Active, None),
            LinkStanding::Reconnecting { why } => (MountStatus::Reconnecting, Some(why)),
            LinkStanding::Disconnected { why } => (MountStatus::Disconnected, Some(why)),
        };
        let journal = Journal { operations: self.vfs.unwritten_writes() as u64, bytes: unwritten };
        FromWorker::Status(Box::new(WorkerStatus {
            status,
            reason,
            journal,
            counters,
            operations: self.backend.operations(),
            degraded: self.degraded(),
            kept_aside: Vec::new(),
            replayed: self.ready.replayed.clone(),
        }))
    }
}

/// Ends the link, with what is not on the machine in the journal.
fn give_up(vfs: &Vfs<Machine>, client: &AgentClient) {
    tracing::error!(bytes = vfs.unwritten_bytes(), "writes are given up");
    vfs.give_up();
    client.close_link();
}

/// A session with the machine, and what it exports.
struct Link {
    client: AgentClient,
    events: Arc<Events>,
    part: SourcePart,
    dialer: WorkerDialer,
    /// When a channel for a successor is dialled.
    spare: First,
}

impl Link {
    /// Reaches the machine, and attaches the tree.
    async fn first(config: &MountConfig, dial: &Dial, choices: &MountChoices) -> Result<Link, WorkerError> {
        let Source::Files { path, .. } = &config.source else {
            let message = format!("could not mount `{}`: not a path on a machine", config.source);
            return Err(failure(ErrorKind::Usage, message));
        };
        let events = Events::new();
        events.note_at(SessionNote::of(config.state_dir.as_path()));
        let dialer = dialer(dial);
        let first = dialer.reach(SessionId::default()).await.map_err(|error| WorkerError {
            kind: error.kind(),
            message: format!("could not reach the machine of `{}`: {}", config.source, in_full(&error)),
            hint: error.hint(),
        })?;
        let options = relink_options(config, dial, choices);
        let again = Arc::new(dialer.clone());
        let client = AgentClient::lasting(Some(first), again, options, None, events.clone());
        let read_only = config.access == Access::ReadOnly;
        let attached = client.attach(path.as_bytes().to_vec(), read_only).await;
        let attached = attached.map_err(|error| refused(&config.source, &error))?;
        if attached.root.attributes.kind != far::Kind::Directory {
            return Err(no_directory(&config.source));
        }
        let part = client
            .resumption()
            .and_then(|resumption| SourcePart::new(resumption, &attached, client.peer().release.clone()))
            .ok_or_else(|| failure(ErrorKind::Failure, "the session cannot be gone on with"))?;
        events.keep(part.clone());
        Ok(Link { client, events, part, dialer, spare: First::WithLink })
    }

    /// Brings to the machine what earlier mounts of the tree have left unsaved, before this one shows it as far as that
    /// does not take long.
    async fn replay(&self, config: &MountConfig) -> Option<Replaying> {
        let owner = (config.owner.uid, config.owner.gid);
        let (machine, root) = Machine::new(self.client.clone(), &self.part.attached(), owner);
        let mut replaying = Replaying::begin(config, machine, root.id).await?;
        replaying.hold().await;
        Some(replaying)
    }

    /// Goes on with the session of a predecessor, whether the machine can be reached now or not.
    fn again(
        config: &MountConfig,
        (dial, choices): (&Dial, &MountChoices),
        part: SourcePart,
        restored: &Restored,
        spare: Option<Spare>,
    ) -> Link {
        let events = Events::new();
        events.note_at(SessionNote::of(config.state_dir.as_path()));
        let locks = restored.locks();
        let files = restored.open_files().into_iter();
        let resumption = Resumption {
            files: files.filter_map(|file| held_file(file, &locks)).collect(),
            ..part.resumption(restored.unsettled().into_iter().map(|number| Sequence(number.0)).collect())
        };
        events.keep(part.clone());
        let options = relink_options(config, dial, choices);
        let next = if spare.is_some() { First::AtOnce } else { First::WithLink };
        let dialer = dialer(dial).with_spare(spare);
        let again = Arc::new(dialer.clone());
        let client = AgentClient::lasting(None, again, options, Some(resumption), events.clone());
        Link { client, events, part, dialer, spare: next }
    }
}

fn dialer(dial: &Dial) -> WorkerDialer {
    WorkerDialer::new(dial.clone(), HostOptions::default(), KEEP_SECONDS)
}

/// What of a mount is the same for each backend.
struct Parts {
    client: AgentClient,
    vfs: Arc<Vfs<Machine>>,
    cache: Option<Arc<DiskCache>>,
    standing: watch::Receiver<LinkStanding>,
    /// The agent's.
    release: String,
    dialer: WorkerDialer,
    /// A successor's, for its own.
    reserve: Option<Reserve>,
}

fn parts(
    home: &Home,
    choices: &MountChoices,
    kind: Kind,
    link: Link,
    recording: Recording,
    held: Option<Arc<Held>>,
) -> (Shown, Parts) {
    let Link { client, events, part, dialer, spare } = link;
    let (standing, tether) = (events.standing(), home.tether.clone());
    let reserve = Reserve::keep(dialer.clone(), client.clone(), standing.clone(), tether, spare);
    let config = &home.config;
    let (machine, root) =
        Machine::new(client.clone(), &part.attached(), (config.owner.uid, config.owner.gid));
    let cache = open_cache(config, dialer.dial(), choices);
    let machine = machine.holding(held.clone()).caching(cache.clone());
    let owners = machine.owners();
    let sync = match config.sync {
        SyncMode::Close => vfs::SyncMode::Close,
        SyncMode::Async => vfs::SyncMode::Async,
        SyncMode::Strict => vfs::SyncMode::Strict,
    };
    let options = vfs::Options {
        sync,
        list_after: Some(LIST_AFTER),
        walk_ahead_entries: WALK_AHEAD_ENTRIES,
        fetch_ahead: true,
        ..vfs::Options::default()
    };
    let kernel = fuse::kernel();
    let told: Arc<dyn Kernel> = match kind {
        Kind::Fuse => kernel.clone(),
        Kind::Nfs => Arc::new(NoNotices),
    };
    let release = part.release.clone();
    let vfs = Vfs::recorded(Arc::new(machine), root, options, told, recording);
    events.tell(&vfs);
    if let Some(held) = held {
        held.serve(&vfs);
    }
    distance::watch(client.clone(), &vfs, standing.clone());
    let parts = Parts { client, vfs: vfs.clone(), cache, standing, release, dialer, reserve };
    (Shown { vfs, kernel, owners }, parts)
}

/// Where contents are kept on disk, if they are: of this computer's own files that gains nothing.
fn open_cache(config: &MountConfig, dial: &Dial, choices: &MountChoices) -> Option<Arc<DiskCache>> {
    let Source::Files { machine, .. } = &config.source else { return None };
    let size = match choices.cache_bytes {
        Some(0) => return None,
        None if *dial == Dial::Host => return None,
        Some(bytes) => CacheSize::Bytes(bytes),
        None => CacheSize::Kept,
    };
    let machine = match dial {
        // Another container may have its name tomorrow, and files that look alike.
        Dial::Docker(dial) => format!("docker://{}", dial.container),
        Dial::Vm(dial) => format!("vm://{}", dial.id),
        Dial::Host | Dial::Ssh(_) => machine.to_string(),
    };
    let opened = DiskCache::open(config.cache_dir.as_ref()?.as_path(), &machine, size);
    let failed = |error: &io::Error| tracing::warn!(%error, "the mount goes without the data cache");
    opened.inspect_err(failed).ok().map(Arc::new)
}

/// The same for a successor.
fn parts_again(
    home: &Home,
    way: (&Dial, &MountChoices),
    kind: Kind,
    restored: Restored,
    spare: Option<Spare>,
) -> Result<(Shown, Parts), WorkerError> {
    let source: SourcePart =
        read_part(&restored, vfs::table::Kept::Source).map_err(|error| no_record(&error))?;
    let link = Link::again(&home.config, way, source, &restored, spare);
    Ok(parts(home, way.1, kind, link, Recording::Restored(Box::new(restored)), None))
}

/// Who is to be told that all is on the machine; never, if nobody asked.
async fn next_flushed(flushing: &mut Option<(u64, Flushing)>) -> u64 {
    match flushing {
        Some((number, flushing)) => {
            flushing.await;
            *number
        }
        None => std::future::pending().await,
    }
}

/// What has come of a replay; `None` once it is over; never, if there is none.
async fn next_replayed(replaying: &mut Option<Replaying>) -> Option<Replayed> {
    match replaying {
        Some(replaying) => replaying.next().await,
        None => std::future::pending().await,
    }
}

fn restore(home: &Home) -> Result<Restored, WorkerError> {
    let restored = Restored::read(&home.directory).map_err(|error| no_record(&error))?;
    restored.ok_or_else(|| failure(ErrorKind::Failure, "there is no record of it"))
}

fn no_record(error: &dyn std::error::Error) -> WorkerError {
    failure(ErrorKind::Failure, in_full(error))
}

/// What was kept, which is all of one sort.
pub(super) fn of_one_name(kept: Vec<Kept>) -> Result<(String, Vec<OwnedFd>), WorkerError> {
    let name = kept.first().map(|kept| kept.name.clone()).unwrap_or_default();
    if kept.iter().any(|kept| kept.name != name) {
        return Err(failure(ErrorKind::Failure, "descriptors of two backends were kept"));
    }
    Ok((name, kept.into_iter().map(|kept| kept.descriptor).collect()))
}

/// How the mount goes on when its link is lost.
fn relink_options(config: &MountConfig, dial: &Dial, choices: &MountChoices) -> RelinkOptions {
    let policy = match dial {
        Dial::Host => Policy::HOST,
        Dial::Ssh(_) => Policy::SSH,
        Dial::Docker(_) | Dial::Vm(_) => Policy::DOCKER,
    };
    let heartbeat = Heartbeat {
        interval: Duration::from_millis(config.heartbeat.interval_ms),
        failures_max: config.heartbeat.failures_max,
    };
    RelinkOptions {
        policy: Policy { reconnect: config.reconnect == Reconnect::Automatic, ..policy },
        offline_timeout: choices.offline_timeout,
        heartbeat,
    }
}

/// Whether a wish to leave takes the place of the one that is being carried out.
pub(super) fn supersedes(wish: Force, under_way: Option<Force>) -> bool {
    match under_way {
        None => true,
        Some(Force::Never) => wish == Force::Always,
        Some(Force::Always) => false,
    }
}

/// Why the machine does not export the tree.
fn refused(source: &Source, error: &CallError) -> WorkerError {
    const EPERM: u16 = 1;
    const ENOENT: u16 = 2;
    const EACCES: u16 = 13;
    const ENOTDIR: u16 = 20;
    let kind = match error.errno().map(|errno| errno.0) {
        Some(ENOENT) => ErrorKind::NotFound,
        Some(ENOTDIR) => return no_directory(source),
        Some(EPERM | EACCES) => ErrorKind::Refused,
        Some(_) => ErrorKind::Failure,
        None => ErrorKind::Unreachable,
    };
    failure(kind, format!("could not mount `{source}`: {}", in_full(error)))
}

fn no_directory(source: &Source) -> WorkerError {
    let mut error = failure(ErrorKind::Usage, format!("could not mount `{source}`: it is not a directory"));
    error.hint = Some("mount the directory that it is in".to_owned());
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::agent::{Errno, Failure};

    #[test]
    fn only_force_takes_the_place_of_patience() {
        use Force::{Always, Never};
        let cases = [
            (Never, None, true),
            (Always, None, true),
            (Never, Some(Never), false),
            (Always, Some(Never), true),
            (Never, Some(Always), false),
            (Always, Some(Always), false),
        ];
        for (wish, under_way, expected) in cases {
            assert_eq!(supersedes(wish, under_way), expected, "{wish:?} during {under_way:?}");
        }
    }

    #[test]
    fn why_a_tree_is_not_exported_has_its_kind_and_one_line() {
        let source = Source::parse(b"ssh://box/src", b"/").unwrap();
        let failed = |errno| CallError::Failed(Failure { errno: Errno(errno), detail: String::new() });
        let cases = [
            (failed(2), ErrorKind::NotFound, "No such file or directory"),
            (failed(20), ErrorKind::Usage, "it is not a directory"),
            (failed(1), ErrorKind::Refused, "Operation not permitted"),
            (failed(13), ErrorKind::Refused, "Permission denied"),
            (failed(40), ErrorKind::Failure, "Too many levels of symbolic links"),
            (remote::client::LinkLost::Ended.into(), ErrorKind::Unreachable, "the agent's stream ended"),
        ];
        for (error, kind, why) in cases {
            let told = refused(&source, &error);
            let expected = format!("could not mount `ssh://box/src`: {why}");
            assert_eq!((told.kind, told.message), (kind, expected));
        }
    }
}
