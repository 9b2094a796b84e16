//! The daemon of Unix, from its start to its end.

use std::ffi::OsString;
use std::io::Write;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use remote::transport::host::HostOptions;
use remote::transport::ssh::UserConfig;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use supervisor::lock::{Lock, LockError};
use supervisor::socket::{is_own, peer, private_directory};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use wire::api::daemon::Announcement;
use wire::api::mount::Force;
use wire::api::{ErrorKind, ErrorObject};
use wire::paths::Paths;

use crate::connection::{
    CommandSessions, DockerConnector, HostConnector, SshConnector, SshSettings, VmConnector,
};
use crate::database::{Database, ThreadPhase};
use crate::domains::Domains;
use crate::endpoint::Endpoint;
use crate::failure::failure;
use crate::log::Echo;
use crate::mount::MountContext;
use crate::mount::adoption::{self, Adopted, Login, Outcome};
use crate::mount::goodbye::Goodbye;
use crate::mount::worker::{Launch, Programs};
use crate::owner::{Connectors, Event, Monitoring, Owner, OwnerHandle, Surroundings, ThreadEvent};
use crate::rpc::Daemon;
use crate::thread::ThreadContext;
use crate::{connection, endpoint, images, log, mount, session, shutdown, thread, vm, workspace, world};

/// Clients served at once. The next one waits until one goes.
pub const CLIENTS_MAX: usize = 256;

/// More open files than that a daemon with all its mounts, clients and connections does not have.
const DESCRIPTORS_MAX: u64 = 64 << 10;

/// How long the accepting of clients pauses when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long clients wait for threads to be cleared that a daemon before this one has left half way. With the search for mounts this is
/// below the half minute that a daemon has to start.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(10);

/// How long mounts may flush after a signal. What the system gives a service to end is a minute and a half.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(60);

/// The environment variable that names another ssh configuration than the user's.
pub const SSH_CONFIG_VARIABLE: &str = "STEAD_SSH_CONFIG";

/// The environment variable that names the agent to be placed on machines.
pub const AGENT_VARIABLE: &str = "STEAD_AGENT";

/// How a daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Where it was started: it logs to standard error too, and an interrupt ends it.
    Foreground,
    /// By itself: in a session of its own, with one [`Announcement`] on standard output. After that it holds none
    /// of its starter's streams, but for a standard error that is a file.
    Background,
}

/// What a daemon needs to know to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its state and its sockets are.
    pub paths: Paths,
    /// How it runs.
    pub mode: Mode,
    /// Which programs a mount's processes are.
    pub programs: Programs,
    /// Which program this computer's agent is.
    pub agent: HostOptions,
    /// How mounts are watched.
    pub monitoring: Monitoring,
}

impl Options {
    /// The daemon that this program and its environment say.
    pub fn from_environment(mode: Mode) -> Result<Options, wire::paths::PathsError> {
        let uid = rustix::process::geteuid().as_raw();
        let paths = Paths::new(uid, |name| std::env::var_os(name))?;
        let monitoring = Monitoring { interval: probe_interval(), probe: Launch::own("probe") };
        Ok(Options { paths, mode, programs: Programs::default(), agent: HostOptions::default(), monitoring })
    }
}

/// The environment variable with the time between two probes of a mount, in milliseconds.
pub const PROBE_INTERVAL_VARIABLE: &str = "STEAD_PROBE_INTERVAL";

/// Probes more often than that would be load, more seldom they would find nothing.
const PROBE_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// What the environment says, as far as that is possible; a daemon does not fail to start for it.
fn probe_interval() -> Duration {
    let wanted = std::env::var(PROBE_INTERVAL_VARIABLE).ok();
    let milliseconds = wanted.and_then(|text| text.parse().ok()).map(Duration::from_millis);
    milliseconds.map_or(mount::monitor::INTERVAL, |interval| {
        interval.clamp(*PROBE_INTERVALS.start(), *PROBE_INTERVALS.end())
    })
}

/// Runs a daemon until it is told to stop. Returns why it could not run; in the background that has been announced
/// too. To be called before this process has opened anything or started a thread.
pub fn run(options: Options) -> Result<(), ErrorObject> {
    let background = options.mode == Mode::Background;
    if background {
        // SAFETY: the caller promises that this process has not opened anything yet.
        if let Err(error) = unsafe { supervisor::spawn::close_inherited() } {
            eprintln!("inherited descriptors stay open: {error}");
        }
        // Fails when it is a session's leader already, which is as good.
        let _ = rustix::process::setsid();
    }
    let inherited = endpoint::inherited().map_err(|error| failure(&error));
    raise_descriptors();
    let outcome = inherited.and_then(|inherited| Life::begin(options, inherited)).and_then(Life::live);
    if let (true, Err(error)) = (background, &outcome) {
        announce(&Announcement::Failed(error.clone()));
    }
    outcome
}

/// Looks whether a daemon could read what the environment tells it. What is amiss is announced, too.
pub fn check() -> Result<(), ErrorObject> {
    let outcome = log::filter().map(drop);
    if let Err(error) = &outcome {
        announce(&Announcement::Failed(error.clone()));
    }
    outcome
}

/// Raises the soft limit of open files to the hard one: each mount has up to three, and one that is there from before
/// could not be reached without them.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) =
            setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
    {
        eprintln!("the limit of open files stays as it is: {error}");
    }
}

/// Says the one line; whoever started the daemon may have gone meanwhile.
fn announce(announcement: &Announcement) {
    match announcement.to_line() {
        Ok(line) => drop(std::io::stdout().write_all(&line)),
        Err(error) => tracing::error!(%error, "the announcement could not be written"),
    }
}

/// Points the standard streams to `/dev/null`: nothing of the starter's is held any longer. A standard error that is a
/// file stays, since a panic is told there.
fn leave_starter() -> std::io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let stderr = rustix::fs::fstat(rustix::stdio::stderr())?;
    if rustix::fs::FileType::from_raw_mode(stderr.st_mode) != rustix::fs::FileType::RegularFile {
        rustix::stdio::dup2_stderr(&null)?;
    }
    std::env::set_current_dir("/")
}

/// A daemon that has the lock.
struct Life {
    options: Options,
    inherited: Option<OwnedFd>,
    _lock: Lock,
}

impl Life {
    fn begin(options: Options, inherited: Option<OwnedFd>) -> Result<Life, ErrorObject> {
        let paths = &options.paths;
        let filter = log::filter()?;
        for dir in [paths.state_dir(), paths.runtime_dir()] {
            private_directory(dir).map_err(|error| failure(&error))?;
        }
        let lock = Lock::acquire(&paths.lock()).map_err(|error| match &error {
            LockError::Held { pid, .. } => {
                let pid = pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
                ErrorObject::new(ErrorKind::Conflict, format!("a daemon runs already{pid}"))
                    .with_hint("stead daemon status")
            }
            LockError::File { .. } => failure(&error),
        })?;
        let echo = if options.mode == Mode::Foreground { Echo::Stderr } else { Echo::None };
        log::start(&paths.log(), echo, filter).map_err(|error| failure(&error))?;
        Ok(Life { options, inherited, _lock: lock })
    }

    fn live(self) -> Result<(), ErrorObject> {
        // Hardly anything is computed here: one thread serves all clients, and blocking work has threads of its own,
        // which end when they are idle.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(16)
            .thread_keep_alive(Duration::from_secs(2))
            .build()
            .map_err(|error| failure(&error))?;
        let outcome = runtime.block_on(self.serve());
        // What still blocks (a dead file system, say) must not keep the process.
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    }

    async fn serve(mut self) -> Result<(), ErrorObject> {
        let paths = self.options.paths.clone();
        tracing::info!(
            pid = std::process::id(),
            version = wire::RELEASE,
            state = %paths.state_dir().display(),
            "the daemon starts"
        );
        let database = Database::open(&paths.database()).map_err(|error| failure(&error))?;
        let (adopted, goodbyes) = adopt_mounts(&paths, &database).await?;
        let last_mount = database.last_mount().await.map_err(|error| failure(&error))?;
        let last_mount = last_mount.max(mount::unsaved::last_number(&paths.mount_states_dir()));
        let domains = Domains::of_system();
        let last_mount = last_mount.max(last_domain(domains.as_ref()).await);

        let (owner, events) = OwnerHandle::new();
        let last_process = database.last_process().await.map_err(|error| failure(&error))?;
        let processes = database.processes().await.map_err(|error| failure(&error))?;
        let commands = CommandSessions::new(database.clone());
        let mounts = MountContext {
            database: database.clone(),
            programs: self.options.programs.clone(),
            paths: paths.clone(),
        };
        let monitoring = self.options.monitoring.clone();
        let engine: Arc<dyn machine::engine::Engine> = Arc::new(machine::engine::qemu::Qemu);
        let vms = vm::VmContext {
            paths: paths.clone(),
            engine: Arc::clone(&engine),
            capabilities: Arc::new(vm::capabilities),
            own_program: own_program(),
            agent: preferred_agent(),
        };
        let known_vms = adopt_vms(&paths).await?;
        let on_their_way = paths.workspaces_dir();
        vm::blocking(move || workspace::clear(&on_their_way)).await?;
        let surroundings = Surroundings { connectors: self.connectors(&commands), mounts, vms, monitoring };
        let owning = tokio::spawn(Owner::new(owner.clone(), surroundings, last_mount).run(events));
        // Before there is a client that could ask for them.
        for mount in adopted {
            owner.send(Event::AdoptMount(Box::new(mount))).await;
        }
        for process in processes {
            owner.send(Event::ProcessDetached(Box::new(process))).await;
        }
        owner.send(Event::UnreadVms(known_vms.unread)).await;
        for (name, record) in known_vms.vms {
            owner.send(Event::AdoptVm(name, Box::new(record))).await;
        }
        for goodbye in goodbyes {
            owner.send(Event::SayGoodbye(Box::new(goodbye))).await;
        }

        let threads =
            ThreadContext { owner: owner.clone(), database: database.clone(), paths: paths.clone() };
        recover_threads(threads.clone()).await?;

        let world = tokio::spawn(world::watch(owner.clone()));
        let sweeping = tokio::spawn(thread::sweep(threads));
        let endpoint =
            Endpoint::open(paths.socket(), self.inherited.take()).map_err(|error| failure(&error))?;
        let listener = endpoint.listener().and_then(UnixListener::from_std);
        let listener = listener.map_err(|error| failure(&error))?;
        let (end, mut ended) = mpsc::channel(1);
        let daemon = Daemon {
            owner: owner.clone(),
            paths: paths.clone(),
            since: SystemTime::now(),
            database,
            processes: Arc::new(AtomicU64::new(last_process)),
            tunnels: Arc::default(),
            images: images::Images::default(),
            workspaces: workspace::Workspaces::default(),
            engine,
            domains,
            end,
        };
        let mut signals = Signals::new().map_err(|error| failure(&error))?;
        if self.options.mode == Mode::Background {
            announce(&Announcement::Ready { pid: std::process::id() });
            leave_starter().map_err(|error| failure(&error))?;
        }
        endpoint::notify_ready();
        let images = paths.images_dir();
        // It may take minutes, and ends with the daemon: what is left then is the next one's.
        std::thread::spawn(move || machine::image::clear_aside(&images));
        let accepting = accept(listener, daemon);
        tokio::select! {
            () = accepting => {}
            farewell = ended.recv() => {
                if farewell == Some(Farewell::Left) {
                    leave(&endpoint);
                }
            }
            name = signals.next(self.options.mode) => {
                tracing::info!(signal = name, "the daemon is told to end");
                endpoint::notify_stopping();
                end_by_signal(&owner).await;
            }
        }
        // The next daemon starts once this one has released the lock.
        endpoint.close();
        world.abort();
        sweeping.abort();
        if let Err(error) = owning.await {
            tracing::error!(%error, "the owner did not end");
        }
        // A login that was given up half way may be there yet.
        end_masters(&paths, Vec::new()).await;
        tracing::info!("the daemon ends");
        Ok(())
    }

    fn connectors(&self, commands: &CommandSessions) -> Connectors {
        let paths = &self.options.paths;
        let own_program = own_program();
        let config = match std::env::var_os(SSH_CONFIG_VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => UserConfig::File(path.into()),
            None => UserConfig::Standard,
        };
        let agent = preferred_agent();
        let docker = DockerConnector::new(own_program.clone(), agent.clone(), commands.clone());
        let ssh = SshSettings {
            program: "ssh".into(),
            config,
            runtime_dir: paths.runtime_dir().to_owned(),
            socket: paths.socket(),
            own_program,
            agent,
        };
        Connectors {
            host: Arc::new(HostConnector::new(self.options.agent.clone(), commands.clone())),
            ssh: Arc::new(SshConnector::new(ssh, commands.clone())),
            docker: Arc::new(docker),
            vm: Arc::new(VmConnector::new(paths.clone(), commands.clone())),
        }
    }
}

/// Where this program is.
fn own_program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| supervisor::spawn::own_program())
}

/// The agent that somebody wants in place of those beside this program.
fn preferred_agent() -> Option<PathBuf> {
    std::env::var_os(AGENT_VARIABLE).filter(|path: &OsString| !path.is_empty()).map(PathBuf::from)
}

/// Finds the microVMs that a daemon before this one has made, and puts aside what it has left of images half way.
async fn adopt_vms(paths: &Paths) -> Result<machine::vm::Found, ErrorObject> {
    let paths = paths.clone();
    let finding = tokio::task::spawn_blocking(move || {
        machine::image::put_aside(&paths.images_dir());
        machine::vm::list(&paths.vms_dir(), |name| vm::places(&paths, name))
    });
    finding.await.map_err(|error| failure(&error))
}

/// First as asked, then by force: a process that got a signal has to end.
async fn end_by_signal(owner: &OwnerHandle) {
    match tokio::time::timeout(SIGNAL_PATIENCE, shutdown::stop_mounts(owner, Force::Never)).await {
        Ok(Ok(_)) => return shutdown::close_connections(owner).await,
        Ok(Err(errors)) => log_all(&errors),
        Err(_) => tracing::warn!("some mounts still flush"),
    }
    match shutdown::stop_mounts(owner, Force::Always).await {
        Ok(kept_aside) => {
            for path in kept_aside {
                tracing::warn!(%path, "unsaved changes were kept");
            }
        }
        Err(errors) => log_all(&errors),
    }
    shutdown::close_connections(owner).await;
}

/// No mount gets the number of a domain. Where they cannot be listed, no domain is shown either.
async fn last_domain(domains: Option<&Domains>) -> u64 {
    let Some(domains) = domains else { return 0 };
    match domains.last().await {
        Ok(last) => last,
        Err(error) => {
            // They are asked for again before a mount gets a number.
            tracing::warn!(%error, "the domains of File Provider are not known");
            0
        }
    }
}

fn log_all(errors: &[ErrorObject]) {
    for error in errors {
        tracing::warn!(%error, "a mount could not be taken away");
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal that ends the daemon. One in the background outlives its terminal.
    async fn next(&mut self, mode: Mode) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hang_up.recv() => match mode {
                    Mode::Foreground => return "SIGHUP",
                    Mode::Background => {}
                },
            }
        }
    }
}

async fn accept(listener: UnixListener, daemon: Daemon) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a client could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let daemon = daemon.clone();
        tokio::spawn(async move {
            serve_client(daemon, stream).await;
            drop(place);
        });
    }
}

async fn serve_client(daemon: Daemon, stream: UnixStream) {
    match peer(&stream) {
        Ok(peer) if is_own(&peer) => session::run(daemon, stream, peer).await,
        Ok(peer) => tracing::warn!(uid = peer.uid, pid = peer.pid, "another user's client was turned away"),
        Err(error) => tracing::warn!(%error, "a client that does not say who it is was turned away"),
    }
}

/// How a daemon that was told to end ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// There is nothing left of its mounts and connections.
    Orderly,
    /// They go on, and the next daemon takes them over.
    Left,
}

/// Ends the process as it is: whatever was put away in an orderly way would be missing then. What the next daemon needs to
/// know is written.
fn leave(endpoint: &Endpoint) -> ! {
    endpoint.close();
    tracing::info!("the daemon ends, and its mounts go on");
    std::process::exit(0);
}

/// Finds the mounts that a daemon before this one has left, and takes away what nobody serves any more: processes,
/// mounts, directories, rows. What is owed to the agents of those is said later.
async fn adopt_mounts(
    paths: &Paths,
    database: &Database,
) -> Result<(Vec<Adopted>, Vec<Goodbye>), ErrorObject> {
    let rows = database.mounts().await.map_err(|error| failure(&error))?;
    let adopting: Vec<_> = rows
        .into_iter()
        .map(|row| (row.id, tokio::spawn(adoption::adopt(row.clone(), paths.mount_state_dir(row.id)))))
        .collect();
    let (mut adopted, mut goodbyes) = (Vec::new(), Vec::new());
    for (id, adopting) in adopting {
        match adopting.await.map_err(|error| failure(&error))? {
            Outcome::Adopted(mount) => adopted.push(*mount),
            Outcome::Gone { goodbye } => {
                goodbyes.extend(goodbye);
                database.remove_mount(id).await.map_err(|error| failure(&error))?;
            }
        }
    }
    let mounts_dir = paths.mounts_dir().to_owned();
    let detaching = tokio::task::spawn_blocking(move || mount::remains::detach_stale(&mounts_dir));
    detaching.await.map_err(|error| failure(&error))?;
    let mut needed = Vec::new();
    for mount in &adopted {
        match &mount.login {
            Login::None => {}
            Login::Through(control_path) => needed.push(control_path.clone()),
            // Any of them may be its.
            Login::Unknown => return Ok((adopted, goodbyes)),
        }
    }
    end_masters(paths, needed).await;
    Ok((adopted, goodbyes))
}

/// Brings to its end what a daemon before this one has begun to do to threads.
async fn recover_threads(threads: ThreadContext) -> Result<(), ErrorObject> {
    let rows = threads.database.threads().await.map_err(|error| failure(&error))?;
    let mut recovering = JoinSet::new();
    for row in rows {
        let known = Box::new(row.clone());
        threads.owner.send(Event::Thread(ThreadEvent::Known(known))).await;
        if row.phase != ThreadPhase::Open {
            recovering.spawn(threads.clone().recover(row));
        }
    }
    let all = async { while recovering.join_next().await.is_some() {} };
    if tokio::time::timeout(RECOVERY_PATIENCE, all).await.is_err() {
        // They have the turn of their threads, so nobody else does anything to these.
        tracing::warn!("threads that were left half way are still being cleared");
        recovering.detach_all();
    }
    Ok(())
}

/// Ends the logins that are there, but for those that are needed.
async fn end_masters(paths: &Paths, needed: Vec<PathBuf>) {
    let runtime_dir = paths.runtime_dir().to_owned();
    let ending = tokio::task::spawn_blocking(move || connection::end_masters(&runtime_dir, &needed));
    if let Ok(Err(error)) = ending.await {
        tracing::warn!(%error, "could not look for ssh processes that were left");
    }
}
