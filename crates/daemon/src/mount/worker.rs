//! The processes of one mount, and what is said to them: a keeper, and one worker after the other, which the keeper
//! starts.
//!
//! ```text
//!  connected ──end of the stream──► lost ──connected again, `ready`──► connected
//!      │                             │ nobody listens any more
//!      │ `stopping`                  ▼
//!      └───────────────────────────► over: they have left, or the keeper gave up
//! ```
//!
//! Both outlive the daemon. They are found again by what is in the mount's directory, and known by a token.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use supervisor::identity::{Identity, has_ended};
use supervisor::keeper::{self, CONTROL_SOCKET, Client, FAILED, KeeperError, State, Status, Token};
use supervisor::presence::alone;
use supervisor::process::AdoptError;
use supervisor::socket::{connect_in, is_own, peer};
use supervisor::stop::{Grace, StopError, stop};
use supervisor::{Process, SpawnError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::api::mount::Force;
use wire::bytestring::ByteString;
use wire::decode::DecodeError;
use wire::paths::HOME_VARIABLE;
use wire::worker::{CONFIG, Decoder, EncodeError, FromWorker, MountConfig, Ready, ToWorker, encode};

pub use supervisor::keeper::Launch;

use super::detach;
use crate::failure::chain;

/// How long a message may take to be taken by a worker. It reads at once if it is alive: a message is shorter than the
/// socket's buffer.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How much is read at once: a usual frame, which is a status.
const READ_BYTES: usize = 2 << 10;

/// The longest reason that is read from where the keeper noted it.
const REASON_BYTES_MAX: u64 = 4 << 10;

/// How long it is waited before a socket that nobody listens at, or a keeper that is being replaced, is tried again. It
/// is doubled with each try up to [`LOOK_PAUSE_MAX`].
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// See [`LOOK_PAUSE`].
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a keeper may be gone before it is looked whether there still is a worker to start another one, which it does
/// within milliseconds.
const KEEPER_PATIENCE: Duration = Duration::from_secs(2);

/// Why a mount has failed that nobody was left to restart.
const BOTH_KILLED: &str = "its worker and its keeper were killed";

/// How long what the last worker had said may take to be read once the keeper has said that there is none any more. It
/// is in the socket.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(200);

/// How long processes that say that they leave may take.
const LEAVE_GRACE: Duration = Duration::from_secs(5);

/// How long a keeper may take to end its worker and itself: it kills a worker after five seconds.
const END_GRACE: Duration = Duration::from_secs(7);

/// What is left is given no time to end by itself.
const REMAINS: Grace =
    Grace { ask: Duration::ZERO, terminate: Duration::from_secs(2), kill: Duration::from_secs(5) };

/// The same for what may have something to write.
const WRITING: Grace =
    Grace { ask: Duration::ZERO, terminate: Duration::from_secs(10), kill: Duration::from_secs(5) };

/// How long a keeper may take to be found by a daemon that looks for it: one that was killed has a successor by then.
const ADOPT_PATIENCE: Duration = Duration::from_secs(5);

/// The variables of the daemon that a worker gets besides those of the caller. Where an agent of this computer keeps the
/// worker's session depends on `HOME` and the last two: the daemon has to find it there.
const VARIABLES: &[&str] = &[
    "HOME",
    "LANG",
    "LOGNAME",
    "PATH",
    "RUST_BACKTRACE",
    "STEAD_LOG",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    HOME_VARIABLE,
];

/// Which programs the processes of a mount are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// What a keeper is.
    pub keeper: Launch,
    /// What a worker is.
    pub worker: Launch,
}

impl Default for Programs {
    /// The running program itself, as `stead keeper` and `stead worker`.
    fn default() -> Programs {
        Programs { keeper: Launch::own("keeper"), worker: Launch::own("worker") }
    }
}

/// The processes of a mount could not be started or spoken with.
#[derive(Debug, thiserror::Error)]
pub enum WorkerFailure {
    /// There is no keeper.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// The keeper could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A message could not be made.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// What it said is no message.
    #[error("the worker does not keep to the protocol")]
    Decode(#[from] DecodeError),
    /// A socket or a file of the mount.
    #[error("could not {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It takes no messages.
    #[error("the worker does not listen")]
    Deaf,
    /// It has died, and its successor is not there yet.
    #[error("the worker is being replaced")]
    Away,
}

/// The processes of one mount.
#[derive(Debug)]
pub struct Worker {
    dir: PathBuf,
    state_dir: PathBuf,
    token: Token,
    control: Option<UnixStream>,
    decoder: Decoder,
    /// The worker that has said `ready`, once it has.
    greeted: Option<Greeted>,
    /// Whether that one has said itself how many came before it.
    says_place: bool,
    keeper: Option<Client>,
    /// Since when it is gone, after it was there.
    lacks_keeper: Option<Instant>,
    /// What the keeper said last.
    status: Option<Status>,
    /// A keeper that is this process's child.
    child: Option<Process>,
    /// Why there is no worker any more, once that is so.
    over: Option<Over>,
    look_at: Instant,
    look_pause: Duration,
}

/// A worker that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeted {
    /// The process, as far as it or the keeper has said which one it is.
    pub pid: Option<u32>,
    /// How many came before it.
    pub restarts: u32,
}

/// Why a mount has no processes any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// The worker left in an orderly way.
    Left,
    /// Something killed them.
    Failed {
        /// In one line.
        reason: String,
    },
}

/// What a worker did.
#[derive(Debug)]
pub enum Heard {
    /// It said something.
    Said(FromWorker),
    /// It is gone. Its successor's first word is `ready`.
    Lost,
    /// It is gone, and there is no other. What the last one said has been told.
    Over(Over),
}

/// What a daemon that looks for a mount's processes finds.
#[derive(Debug)]
pub enum Found {
    /// They are there.
    Serving(Box<Worker>),
    /// The keeper gave up.
    Failed {
        /// Why, in one line.
        reason: String,
    },
    /// Nobody, or somebody else.
    Nobody,
}

/// What can wake whoever waits for a worker.
enum Wake {
    Keeper(io::Result<Option<Status>>),
    Control(io::Result<usize>),
    Look,
}

impl Worker {
    /// Starts the processes of a mount with a directory of its own.
    pub fn start(
        programs: &Programs,
        config: &MountConfig,
        token: Token,
        environment: impl Iterator<Item = (String, ByteString)>,
    ) -> Result<Worker, WorkerFailure> {
        let state_dir = config.state_dir.as_path();
        write_config(state_dir, config)?;
        let (keeper, worker) = (programs.keeper.clone(), programs.worker.clone());
        keeper::Plan { token, keeper, worker }.write(state_dir)?;
        let mut spawn = keeper::begin(state_dir, None)?.inherit_variables(VARIABLES);
        for (name, value) in environment {
            spawn = spawn.variable(name, value.as_os_str());
        }
        let process = spawn.spawn()?;
        let mut worker = Worker::new(config.dir.as_path(), state_dir, token);
        worker.child = Some(process);
        Ok(worker)
    }

    /// Finds the processes of a mount that a daemon before this one had started.
    /// `known` are those that were noted, as far as they were: one that is alive and silent is stopped or very busy, and
    /// what it serves is not taken from it.
    pub async fn adopt(dir: &Path, state_dir: &Path, token: Token, known: &[Identity]) -> Found {
        if let Some(reason) = noted_failure(state_dir) {
            return Found::Failed { reason };
        }
        let mut worker = Worker::new(dir, state_dir, token);
        let found = tokio::time::timeout(ADOPT_PATIENCE, worker.find_keeper()).await;
        match (found, worker.over.take()) {
            (Ok(()), None) => Found::Serving(Box::new(worker)),
            (Err(_), None)
                if worker.keeper.is_some() || !(is_nobody_there(state_dir) || known.iter().all(has_gone)) =>
            {
                tracing::warn!(state_dir = %state_dir.display(), "a mount's processes are silent");
                Found::Serving(Box::new(worker))
            }
            (Err(_), None) | (_, Some(Over::Left)) => Found::Nobody,
            (_, Some(Over::Failed { reason })) => match noted_failure(state_dir) {
                Some(reason) => Found::Failed { reason },
                None => {
                    tracing::warn!(state_dir = %state_dir.display(), reason, "a mount's processes were not found");
                    Found::Nobody
                }
            },
        }
    }

    fn new(dir: &Path, state_dir: &Path, token: Token) -> Worker {
        Worker {
            dir: dir.to_owned(),
            state_dir: state_dir.to_owned(),
            token,
            control: None,
            decoder: Decoder::new(),
            greeted: None,
            says_place: false,
            keeper: None,
            lacks_keeper: None,
            status: None,
            child: None,
            over: None,
            look_at: Instant::now(),
            look_pause: LOOK_PAUSE,
        }
    }

    /// Waits until the keeper has said who it is, or it is known that there is none.
    async fn find_keeper(&mut self) {
        while self.status.is_none() && self.over.is_none() {
            if self.control.is_some() && self.keeper.is_some() {
                let told = next_status(&mut self.keeper).await;
                self.on_keeper(told);
            } else {
                tokio::time::sleep_until(self.look_at).await;
                self.look();
            }
        }
    }

    /// The worker that serves; none while it is replaced.
    pub fn greeted(&self) -> Option<Greeted> {
        self.greeted
    }

    /// The keeper's process and the worker's, as far as they are known.
    pub fn identities(&self) -> (Option<Identity>, Option<Identity>) {
        let keeper = self.status.as_ref().map(|status| status.keeper);
        let keeper = keeper.or_else(|| self.child.as_ref().map(Process::identity));
        (keeper, self.status.as_ref().and_then(|status| status.worker))
    }

    /// The worker's process and how many came before it, as far as the keeper has said.
    pub fn serving(&self) -> Option<(u32, u32)> {
        let status = self.status.as_ref()?;
        Some((status.worker?.pid, status.restarts))
    }

    /// Says something.
    pub async fn send(&mut self, message: &ToWorker) -> Result<(), WorkerFailure> {
        let frame = encode(message)?;
        let control = self.control.as_mut().filter(|_| self.greeted.is_some()).ok_or(WorkerFailure::Away)?;
        match tokio::time::timeout(SEND_TIMEOUT, control.write_all(&frame)).await {
            Ok(Ok(())) => Ok(()),
            // That it has gone is heard.
            Ok(Err(error)) if is_gone(&error) => Err(WorkerFailure::Away),
            Ok(Err(source)) => Err(WorkerFailure::Io { what: "speak with the worker", source }),
            Err(_) => Err(WorkerFailure::Deaf),
        }
    }

    /// Waits for the next thing that happens. May be dropped half way without loss.
    pub async fn hear(&mut self) -> Result<Heard, WorkerFailure> {
        loop {
            if let Some(message) = self.decoder.next_frame::<FromWorker>()? {
                if let FromWorker::Ready(ready) = &message {
                    self.greet(ready);
                }
                return Ok(Heard::Said(message));
            }
            let mut bytes = [0; READ_BYTES];
            let is_looking = self.control.is_none() || self.keeper.is_none() || self.over.is_some();
            let look_at = self.look_at;
            // Who the worker is has to be known before it is heard, unless nobody will say so.
            let hears = self.status.is_some() || self.keeper.is_none();
            let wake = tokio::select! {
                biased;
                told = next_status(&mut self.keeper) => Wake::Keeper(told),
                read = read(&mut self.control, &mut bytes), if hears => Wake::Control(read),
                () = tokio::time::sleep_until(look_at), if is_looking => Wake::Look,
            };
            match wake {
                Wake::Keeper(told) => self.on_keeper(told),
                Wake::Control(Ok(count)) if count > 0 => self.decoder.push(&bytes[..count]),
                Wake::Control(Err(source)) if !is_gone(&source) => {
                    return Err(WorkerFailure::Io { what: "hear the worker", source });
                }
                Wake::Control(_) => {
                    if let Some(heard) = self.on_end_of_stream() {
                        return Ok(heard);
                    }
                }
                Wake::Look => match self.over.take() {
                    Some(over) => return Ok(Heard::Over(over)),
                    None => self.look(),
                },
            }
        }
    }

    /// Notes who said `ready`. The keeper may not have said yet that there is this one: what the worker says of itself
    /// counts more.
    fn greet(&mut self, ready: &Ready) {
        let status = self.status.as_ref();
        let worker = status.and_then(|status| status.worker);
        self.greeted = Some(Greeted {
            pid: ready.pid.or(worker.map(|worker| worker.pid)),
            restarts: ready.restarts.or(status.map(|status| status.restarts)).unwrap_or(0),
        });
        self.says_place = ready.restarts.is_some();
    }

    fn on_keeper(&mut self, told: io::Result<Option<Status>>) {
        match told {
            Ok(Some(status)) => return self.note(status),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(state_dir = %self.state_dir.display(), %error, "the keeper cannot be heard");
            }
        }
        self.keeper = None;
        self.lacks_keeper.get_or_insert_with(Instant::now);
    }

    fn note(&mut self, status: Status) {
        self.look_pause = LOOK_PAUSE;
        self.lacks_keeper = None;
        if status.token != self.token {
            let reason = "another mount's keeper is in the place of its own".to_owned();
            return self.set_over(Over::Failed { reason });
        }
        // Dropped, it is reaped all the same.
        self.child.take_if(|child| child.identity() != status.keeper);
        match &status.state {
            State::Running | State::Pausing | State::Ending => {}
            State::Ended => self.set_over(Over::Left),
            State::Failed { reason } => self.set_over(Over::Failed { reason: reason.clone() }),
        }
        if let (Some(greeted), Some(worker)) = (&mut self.greeted, status.worker) {
            let has_successor = match self.says_place {
                true => status.restarts > greeted.restarts,
                // It does not say how many came before it: whoever has another number is taken for its successor.
                false => greeted.pid.is_some_and(|pid| pid != worker.pid),
            };
            // One with a thread that waits in the kernel holds its end of the stream until its successor serves.
            match has_successor {
                true => self.forget_stream(),
                false => _ = greeted.pid.get_or_insert(worker.pid),
            }
        }
        self.status = Some(status);
    }

    fn set_over(&mut self, over: Over) {
        self.over = Some(over);
        self.look_at = Instant::now() + LAST_WORDS_WAIT;
    }

    /// The stream is given up: whoever is connected to next is the successor.
    fn forget_stream(&mut self) {
        // What is read of a connection that is closed here is its end.
        if let Some(control) = &self.control
            && let Err(error) = rustix::net::shutdown(control, rustix::net::Shutdown::Both)
        {
            tracing::debug!(%error, "a worker's stream had ended");
        }
    }

    fn on_end_of_stream(&mut self) -> Option<Heard> {
        self.control = None;
        self.decoder = Decoder::new();
        self.look_at = Instant::now();
        let had_greeted = self.greeted.take().is_some();
        match self.over.take() {
            Some(over) => Some(Heard::Over(over)),
            None => had_greeted.then_some(Heard::Lost),
        }
    }

    /// Looks for what is missing.
    fn look(&mut self) {
        if self.keeper.is_none() {
            self.connect_keeper();
        }
        if self.control.is_none() {
            match connect(&self.state_dir) {
                Ok(control) => self.control = Some(control),
                Err(error) if is_nobody(&error) => self.on_nobody(),
                Err(error) => {
                    tracing::warn!(state_dir = %self.state_dir.display(), %error, "the worker cannot be reached");
                }
            }
        }
        if self.over.is_none() && self.is_abandoned() {
            return self.set_over(Over::Failed { reason: BOTH_KILLED.to_owned() });
        }
        if self.over.is_none() {
            self.look_at = Instant::now() + self.look_pause;
            self.look_pause = (self.look_pause * 2).min(LOOK_PAUSE_MAX);
        }
    }

    fn connect_keeper(&mut self) {
        match Client::connect(&self.state_dir) {
            Ok(keeper) => self.keeper = Some(keeper),
            Err(error) if is_nobody(&error) => {}
            Err(error) => {
                tracing::warn!(state_dir = %self.state_dir.display(), %error, "the keeper cannot be reached");
            }
        }
    }

    /// Whether there is no keeper, and nobody to start another one. A dead worker with a thread that waits in the kernel
    /// holds all that it held.
    fn is_abandoned(&self) -> bool {
        let is_alone = self.lacks_keeper.is_some_and(|since| since.elapsed() > KEEPER_PATIENCE);
        let worker = self.status.as_ref().and_then(|status| status.worker);
        self.keeper.is_none() && is_alone && worker.is_none_or(|worker| has_ended(worker.pid))
    }

    /// As long as there is a keeper or a worker, it holds the socket that workers listen at.
    fn on_nobody(&mut self) {
        if self.over.is_some() {
            return;
        }
        let left = self.status.as_ref().is_some_and(|status| status.state == State::Ended);
        self.over = Some(match noted_failure(&self.state_dir) {
            Some(reason) => Over::Failed { reason },
            None if left => Over::Left,
            None => Over::Failed { reason: BOTH_KILLED.to_owned() },
        });
        self.look_at = Instant::now();
    }

    /// Asks it to stop.
    pub async fn ask_to_stop(&mut self, force: Force) -> Result<(), WorkerFailure> {
        self.send(&ToWorker::Stop { force }).await
    }

    /// Takes the plan back: nobody who dies from now on has a successor.
    pub fn withdraw(&self) {
        if let Err(error) = keeper::Plan::withdraw(&self.state_dir) {
            tracing::error!(error = chain(&error), "a mount could not be withdrawn");
        }
    }

    /// Ends the processes and waits until they have ended: they are given a little time if they are `leaving` by
    /// themselves, then the keeper is told, then they are signalled.
    pub async fn end(&mut self, is_leaving: bool) -> Result<(), StopError> {
        if is_leaving && tokio::time::timeout(LEAVE_GRACE, self.gone()).await.is_ok() {
            return Ok(());
        }
        self.withdraw();
        if self.keeper.is_none() {
            self.connect_keeper();
        }
        let told = match &mut self.keeper {
            Some(keeper) => keeper.tell(keeper::Command::End).await.is_ok(),
            None => false,
        };
        if told && tokio::time::timeout(END_GRACE, self.gone()).await.is_ok() {
            return Ok(());
        }
        // One that was killed may have a thread that waits for the mount.
        let dir = self.dir.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || detach(&dir)).await {
            tracing::error!(%error, "detaching did not end");
        }
        // One that does not end is no reason to let the other one live.
        let mut outcome = Ok(());
        for mut process in self.processes() {
            let ended = stop(&mut process, &REMAINS, std::future::ready(Err::<(), ()>(()))).await;
            outcome = outcome.and(ended.map(drop));
        }
        outcome
    }

    /// Handles to the keeper and the worker, as far as they are there. They are watched only when they are to end: a
    /// descriptor for each mount and process is much.
    fn processes(&mut self) -> Vec<Process> {
        let (keeper, worker) = self.identities();
        let child = self.child.take();
        let keeper = keeper.filter(|_| child.is_none());
        child.into_iter().chain([keeper, worker].into_iter().flatten().filter_map(watch)).collect()
    }

    /// Waits until the keeper has nothing to say any more, and both processes have ended.
    async fn gone(&mut self) {
        while self.keeper.is_some() {
            let told = next_status(&mut self.keeper).await;
            self.on_keeper(told);
        }
        for mut process in self.processes() {
            if let Err(error) = process.exited().await {
                tracing::error!(pid = process.pid(), %error, "a process cannot be watched");
            }
        }
    }
}

/// Ends processes of a mount that cannot be spoken with, if they are still those that were noted. Nothing may wait for
/// the mount any more.
pub async fn end_remains(state_dir: &Path, identities: impl IntoIterator<Item = Identity>) {
    if let Err(error) = keeper::Plan::withdraw(state_dir) {
        tracing::error!(error = chain(&error), "a mount could not be withdrawn");
    }
    let ending: JoinSet<()> = identities.into_iter().filter_map(watch).map(end_process).collect();
    ending.join_all().await;
}

async fn end_process(mut process: Process) {
    tracing::warn!(pid = process.pid(), "ending a process of a mount");
    if let Err(error) = stop(&mut process, &WRITING, std::future::ready(Err::<(), ()>(()))).await {
        tracing::error!(error = chain(&error), "a process of a mount does not end");
    }
}

/// Whether a process that was noted does nothing any more. One that cannot be looked at is believed to be there.
fn has_gone(identity: &Identity) -> bool {
    match identity.exists() {
        Ok(exists) => !exists || has_ended(identity.pid),
        Err(_) => false,
    }
}

/// Whether it is certain that no worker is alive. Where no lock is to be had, it is not.
fn is_nobody_there(state_dir: &Path) -> bool {
    matches!(alone(state_dir), Ok(Some(_)))
}

/// Why the keeper gave up, if it did.
pub fn noted_failure(state_dir: &Path) -> Option<String> {
    use std::io::Read;
    let mut reason = Vec::new();
    let file = std::fs::File::open(state_dir.join(FAILED)).ok()?;
    file.take(REASON_BYTES_MAX).read_to_end(&mut reason).ok()?;
    Some(String::from_utf8_lossy(&reason).replace(char::is_control, " "))
}

/// Notes, as a keeper does, why a mount has failed.
pub fn note_failure(state_dir: &Path, reason: &str) -> io::Result<()> {
    private_file(&state_dir.join(FAILED))?.write_all(reason.as_bytes())
}

fn write_config(state_dir: &Path, config: &MountConfig) -> Result<(), WorkerFailure> {
    let failed = |source| WorkerFailure::Io { what: "write down what the mount is", source };
    let text = serde_json::to_vec(config).map_err(|error| failed(error.into()))?;
    private_file(&state_dir.join(CONFIG)).and_then(|mut file| file.write_all(&text)).map_err(failed)
}

fn private_file(path: &Path) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn connect(state_dir: &Path) -> io::Result<UnixStream> {
    let stream = connect_in(state_dir, CONTROL_SOCKET)?;
    if !is_own(&peer(&stream)?) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// A handle to a process, if it is still there.
fn watch(identity: Identity) -> Option<Process> {
    match Process::adopt(identity) {
        Ok(process) => Some(process),
        Err(AdoptError::Gone { .. }) => None,
        Err(error) => {
            tracing::error!(pid = identity.pid, error = chain(&error), "a process cannot be watched");
            None
        }
    }
}

async fn next_status(keeper: &mut Option<Client>) -> io::Result<Option<Status>> {
    match keeper {
        Some(keeper) => keeper.next().await,
        None => std::future::pending().await,
    }
}

async fn read(control: &mut Option<UnixStream>, bytes: &mut [u8]) -> io::Result<usize> {
    match control {
        Some(control) => control.read(bytes).await,
        None => std::future::pending().await,
    }
}
