//! The task of one mount, from its making, or from when it was found, to its end.
//!
//! ```text
//!   planned ──► connecting ──► starting ──ready──► serving ──stop──► gone
//!      │             │             │                │  ▲  │ the keeper gave up, or nobody is left
//!      └─────────────┴─────────────┴──► undone      ▼  │  └──► failed ──stop──► gone
//!                                                waiting          ▲
//!   found in the database ──► adopting ──ready──► (serving)       │
//!                                └── the keeper gave up ──────────┘
//! ```
//!
//! It waits while its worker or its keeper is gone and the other one puts a new one in its place.
//!
//! A mount that does not get as far as serving is undone: no process, mount point, directory, row or descriptor of it
//! is left. A failed mount's directory is a directory again.

use std::path::PathBuf;
use std::time::Duration;

use supervisor::keeper::Token;
use tokio::sync::{mpsc, oneshot};
use wire::api::id::MountId;
use wire::api::machine::{CALLER_VARIABLES, Caller, Machine, Prompts};
use wire::api::mount::{Access, Force, RemovedMount};
use wire::api::status;
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;
use wire::paths::Paths;
use wire::worker::{FromWorker, MountConfig, Owner, Place, Ready};

use crate::connection::{Attendant, Lease};
use crate::database::{Database, MountRow, Terms};
use crate::failure::{chain, failure, from_worker};
use crate::owner::{Answer, Event, Keep, MountEvent, OwnerHandle, Wanted};
use crate::prompt::Prompter;

pub mod adoption;
pub mod goodbye;
pub mod monitor;
pub mod plan;
pub mod probe;
pub mod remains;
mod serving;
pub mod standing;
pub mod unsaved;
pub mod worker;

use goodbye::Goodbye;
use plan::{Plan, Shows};
use remains::{Cleaned, Leftover, clean_up};
use serving::{Leasing, Serving};
use worker::{Heard, Over, Programs, Worker};

pub(crate) use remains::detach;
pub(crate) use serving::last_crash;

/// Commands that may wait for one mount.
pub const COMMANDS_MAX: usize = 16;

/// How long a worker may take until it serves: it reaches the machine's agent, which may take its half minute to say
/// hello, and mounts.
pub const READY_TIMEOUT: Duration = Duration::from_secs(45);

/// What a mount's task is told.
#[derive(Debug)]
pub enum Command {
    /// Ask the worker how it does; answered when the owner has been told, or when the worker has nothing to say.
    Poll(oneshot::Sender<()>),
    /// Have the worker open its link again, if it is lost: the machine can be reached.
    Reconnect,
    /// Have all that was written through the mount put on the machine; answered when it is there. Dropped if that cannot be
    /// known.
    Flush(oneshot::Sender<()>),
    /// Have the worker of a thread write down what is changed in it. Dropped if there is no answer.
    ListChanged {
        /// The file: see [`ToWorker::ListChanged`](wire::worker::ToWorker::ListChanged).
        to: ByteString,
        /// Answered when it is written.
        answer: Answer<()>,
    },
    /// Take the mount away.
    Stop {
        /// How hard to try.
        force: Force,
        /// Answered when it is gone, or stays.
        answer: Answer<RemovedMount>,
    },
    /// Leave the mount to the next daemon. Answered when this one has nothing more to do with it.
    Leave(oneshot::Sender<()>),
}

/// How a mount's task is reached.
#[derive(Debug, Clone)]
pub struct MountHandle {
    /// Which mount.
    pub id: MountId,
    /// Where it is.
    pub dir: ByteString,
    /// Takes commands.
    pub commands: mpsc::Sender<Command>,
}

impl MountHandle {
    /// Takes the mount away. One that has gone meanwhile counts as taken away; one that was left to the next daemon does
    /// not.
    pub async fn stop(&self, force: Force) -> Result<RemovedMount, ErrorObject> {
        let (answer, answered) = oneshot::channel();
        let gone = || RemovedMount { id: self.id, dir: self.dir.clone(), kept_aside: Vec::new() };
        if self.commands.send(Command::Stop { force, answer }).await.is_err() {
            return Ok(gone());
        }
        answered.await.unwrap_or_else(|_| Ok(gone()))
    }

    /// Has the owner told how the mount does, as far as the worker answers.
    pub async fn poll(&self) {
        let (answer, answered) = oneshot::channel();
        // A task that is busy or gone has nothing newer to tell.
        if self.commands.try_send(Command::Poll(answer)).is_ok() {
            drop(answered.await);
        }
    }

    /// Waits until all that was written through the mount is on the machine. `false` if that cannot be known.
    pub async fn flush(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Flush(answer)).await.is_ok() && answered.await.is_ok()
    }

    /// Has the worker of a thread write down, in a file that is not there yet, what is changed in it.
    pub async fn list_changed(&self, to: ByteString) -> Result<(), ErrorObject> {
        let (answer, answered) = oneshot::channel();
        let unknown = || ErrorObject::new(ErrorKind::Failure, "what is changed cannot be known now");
        self.commands.send(Command::ListChanged { to, answer }).await.map_err(|_| unknown())?;
        answered.await.unwrap_or_else(|_| Err(unknown()))
    }

    /// Has the task leave the mount to the next daemon.
    pub async fn leave(&self) {
        let (answer, answered) = oneshot::channel();
        // A task that has gone has nothing to leave.
        if self.commands.send(Command::Leave(answer)).await.is_ok() {
            drop(answered.await);
        }
    }
}

/// What every mount's task needs.
#[derive(Debug, Clone)]
pub struct MountContext {
    /// Desired state.
    pub database: Database,
    /// Which programs a mount's processes are.
    pub programs: Programs,
    /// Where state is.
    pub paths: Paths,
}

struct Task {
    context: MountContext,
    owner: OwnerHandle,
    id: MountId,
    plan: Plan,
    state_dir: PathBuf,
    /// What the database says of the mount.
    row: MountRow,
    commands: mpsc::Receiver<Command>,
    /// Who waits for the mount to stop.
    stopping: Vec<Answer<RemovedMount>>,
}

/// What becomes of a mount that has not come to serve.
enum Broken {
    /// It could not, or nobody wants it any more.
    Undone(ErrorObject),
    /// It is to be taken away.
    Stopped(Answer<RemovedMount>),
    /// The daemon ends, and cannot leave to the next one what does not serve.
    Left(oneshot::Sender<()>),
}

/// Runs a new mount. Answers once it serves or has been undone; goes on until it is gone.
pub async fn run(
    context: MountContext,
    owner: OwnerHandle,
    id: MountId,
    plan: Plan,
    prompter: Option<Prompter>,
    commands: mpsc::Receiver<Command>,
    answer: Answer<status::Mount>,
) {
    let state_dir = context.paths.mount_state_dir(id);
    let row = MountRow {
        id,
        source: plan.source.clone(),
        dir: ByteString::from(plan.place.dir.as_path()),
        made: plan.made.iter().map(|dir| ByteString::from(dir.as_path())).collect(),
        token: None,
        keeper: None,
        worker: None,
        terms: None,
    };
    let task = Task { context, owner, id, plan, state_dir, row, commands, stopping: Vec::new() };
    Box::pin(task.run(prompter, answer)).await;
}

/// Goes on with a mount that a daemon before this one has made, until it is gone.
pub async fn go_on(
    context: MountContext,
    owner: OwnerHandle,
    adopted: adoption::Adopted,
    commands: mpsc::Receiver<Command>,
) {
    let adoption::Adopted { row, plan, found, .. } = adopted;
    let state_dir = context.paths.mount_state_dir(row.id);
    let task = Task { context, owner, id: row.id, plan, state_dir, row, commands, stopping: Vec::new() };
    match found {
        adoption::Standing::Serving(worker) => {
            let leasing = match task.wanted(None) {
                Some(wanted) => Leasing::begin(&task.owner, wanted, task.id),
                None => Leasing::none(),
            };
            task.serve(Serving::new(*worker, None, leasing)).await;
        }
        adoption::Standing::Failed { .. } => {
            task.say_goodbye().await;
            task.stay_failed().await;
        }
    }
}

impl Task {
    async fn run(mut self, prompter: Option<Prompter>, mut answer: Answer<status::Mount>) {
        let mut worker = None;
        let (commands, row) = (&mut self.commands, &mut self.row);
        let starting = Starting { context: &self.context, owner: &self.owner, plan: &self.plan, row };
        let started = tokio::select! {
            started = starting.start(prompter, &mut worker) => started.map_err(Broken::Undone),
            () = answer.closed() => {
                Err(Broken::Undone(ErrorObject::new(ErrorKind::Interrupted, "the client has gone")))
            }
            broken = end_command(commands) => Err(broken),
        };
        let (lease, mut ready) = match started {
            Ok(started) => started,
            Err(broken) => return self.break_off(broken, worker, answer).await,
        };
        let Some(worker) = worker else {
            return drop(answer.send(Err(ErrorObject::internal("a mount without a worker"))));
        };
        let (pid, restarts) = serving::greeted(&worker);
        let mut shown = self.plan.status(self.id);
        shown.backend = ready.backend;
        shown.worker = Some(status::Worker { pid, restarts });
        shown.degraded = ready.degraded.clone();
        shown.port = ready.port;
        shown.nfs = ready.nfs.clone();
        tracing::info!(mount = %self.id, source = %self.plan.source, dir = %shown.dir, backend = %ready.backend, pid, "mounted");
        let replayed = ready.replayed.take();
        shown.replayed = replayed.clone();
        self.tell(MountEvent::Serving { pid, ready: Box::new(ready) }).await;
        if let Some(replayed) = replayed {
            self.tell(MountEvent::Replayed(Box::new(replayed))).await;
        }
        let leasing = Leasing::none();
        let serving = Serving::new(worker, lease, leasing);
        if answer.send(Ok(shown)).is_err() {
            // Whoever wanted it has gone, and does not know that it is there.
            return self.withdraw(serving).await;
        }
        self.serve(serving).await;
    }

    async fn break_off(&mut self, broken: Broken, worker: Option<Worker>, answer: Answer<status::Mount>) {
        self.undo(worker).await;
        let error = match broken {
            Broken::Undone(error) => {
                tracing::warn!(mount = %self.id, source = %self.plan.source, %error, "could not mount");
                error
            }
            Broken::Stopped(stopped) => {
                drop(stopped.send(Ok(self.removed(Vec::new()))));
                ErrorObject::new(ErrorKind::Interrupted, "the mount was taken away before it served")
            }
            Broken::Left(left) => {
                done(left);
                ErrorObject::new(ErrorKind::Interrupted, "the daemon ends")
            }
        };
        drop(answer.send(Err(error)));
    }

    /// What the mount needs of its machine, if it has one.
    fn wanted(&self, prompter: Option<Prompter>) -> Option<Wanted> {
        wanted(&self.plan, prompter)
    }

    async fn tell(&self, event: MountEvent) {
        self.owner.send(Event::Mount(self.id, event)).await;
    }

    fn removed(&self, kept_aside: Vec<ByteString>) -> RemovedMount {
        RemovedMount { id: self.id, dir: ByteString::from(self.plan.place.dir.as_path()), kept_aside }
    }

    /// Undoes a mount that never served.
    async fn undo(&mut self, worker: Option<Worker>) {
        if let Some(mut worker) = worker
            && let Err(error) = worker.end(false).await
        {
            tracing::error!(mount = %self.id, error = chain(&error), "the worker does not end");
        }
        self.say_goodbye().await;
        self.clean_up(Leftover::Remove).await;
        self.forget().await;
    }

    /// Has the machine's agent told that nobody comes back, unless the worker has told it. In the background: neither the
    /// mount's end nor whoever waits for that is held up by a machine that is away. To be called when the worker has ended
    /// and before its files are removed.
    async fn say_goodbye(&self) {
        let Some(machine) = self.plan.place.machine().cloned() else { return };
        let caller = self.plan.caller.clone();
        let state_dir = self.state_dir.clone();
        let reading = tokio::task::spawn_blocking(move || Goodbye::owed(machine, caller, &state_dir));
        match reading.await {
            Ok(Some(goodbye)) => self.owner.send(Event::SayGoodbye(Box::new(goodbye))).await,
            Ok(None) => {}
            Err(error) => tracing::error!(mount = %self.id, %error, "looking for its session did not end"),
        }
    }

    async fn clean_up(&self, leftover: Leftover) -> Cleaned {
        let (dir, made, state_dir) =
            (self.plan.place.dir.clone(), self.plan.made.clone(), self.state_dir.clone());
        let cleaning = tokio::task::spawn_blocking(move || clean_up(&dir, &made, &state_dir, leftover));
        cleaning.await.unwrap_or_else(|error| {
            tracing::error!(%error, "cleaning up did not end");
            Cleaned::Kept
        })
    }

    /// Cleans up, but for what may be the only copy of something. Returns where that is.
    async fn keep_unknown(&self) -> Vec<ByteString> {
        match self.clean_up(Leftover::KeepUnknown).await {
            Cleaned::Removed => Vec::new(),
            Cleaned::Kept => vec![ByteString::from(self.state_dir.as_path())],
        }
    }

    async fn forget(&mut self) {
        if let Err(error) = self.context.database.remove_mount(self.id).await {
            tracing::error!(mount = %self.id, error = chain(&error), "could not forget the mount");
        }
        self.tell(MountEvent::Ended).await;
    }

    /// Is a failed mount until it is told to go.
    async fn stay_failed(mut self) {
        loop {
            match self.commands.recv().await {
                Some(Command::Poll(answer)) => drop(answer.send(())),
                Some(Command::Reconnect | Command::Flush(_) | Command::ListChanged { .. }) => {}
                Some(Command::Stop { answer, .. }) => {
                    let kept_aside = self.keep_unknown().await;
                    self.forget().await;
                    return drop(answer.send(Ok(self.removed(kept_aside))));
                }
                Some(Command::Leave(answer)) => return self.hand_over(None, answer).await,
                None => return,
            }
        }
    }
}

/// Answers somebody, who may have given up waiting.
fn done(answer: oneshot::Sender<()>) {
    let _ = answer.send(());
}

fn wanted(plan: &Plan, prompter: Option<Prompter>) -> Option<Wanted> {
    let keep = Keep { reconnect: Some(plan.reconnect), heartbeat: Some(plan.heartbeat) };
    let machine = plan.place.machine()?.clone();
    Some(Wanted { keep, ..Wanted::new(machine, plan.caller.clone(), prompter) })
}

/// Takes commands until the mount is to go; there is nothing to poll yet.
async fn end_command(commands: &mut mpsc::Receiver<Command>) -> Broken {
    loop {
        match commands.recv().await {
            Some(Command::Stop { answer, .. }) => return Broken::Stopped(answer),
            Some(Command::Leave(answer)) => return Broken::Left(answer),
            Some(Command::Poll(answer)) => drop(answer.send(())),
            Some(Command::Reconnect | Command::Flush(_) | Command::ListChanged { .. }) => {}
            None => std::future::pending().await,
        }
    }
}

/// What it takes to bring a mount to serve.
struct Starting<'a> {
    context: &'a MountContext,
    owner: &'a OwnerHandle,
    plan: &'a Plan,
    row: &'a mut MountRow,
}

impl Starting<'_> {
    /// Brings a mount to serve. When it fails or is dropped half way, `worker` holds what has to be ended.
    async fn start(
        self,
        prompter: Option<Prompter>,
        worker: &mut Option<Worker>,
    ) -> Result<(Option<Lease>, Ready), ErrorObject> {
        let Starting { context, owner, plan, row } = self;
        context.database.put_mount(row.clone()).await.map_err(|error| failure(&error))?;
        let attendant = Attendant::new(&plan.caller, prompter.clone());
        let lease = match wanted(plan, prompter) {
            Some(wanted) => Some(owner.acquire(wanted).await?),
            None => None,
        };
        if let Some(lease) = &lease {
            lease.link().attend(&attendant);
        }
        let state_dir = context.paths.mount_state_dir(row.id);
        supervisor::socket::private_directory(&state_dir).map_err(|error| failure(&error))?;
        let token = Token::random().map_err(|error| failure(&error))?;
        row.token = Some(token);
        // Known before there is a process that has it.
        context.database.put_mount(row.clone()).await.map_err(|error| failure(&error))?;
        let place = match (&plan.place.shows, &lease) {
            (Shows::Thread(thread), _) => Place::Thread((**thread).clone()),
            (Shows::Files { .. }, Some(lease)) => Place::Machine(lease.link().dial()),
            (Shows::Files { .. }, None) => return Err(ErrorObject::internal("a mount without a machine")),
        };
        let mut config = config(row.id, plan, &state_dir, place);
        config.cache_dir = Some(ByteString::from(context.paths.cache_dir()));
        config.unsaved = find_unsaved(context, plan, &state_dir).await?;
        let environment = known_environment(&plan.caller).into_iter();
        let started = Worker::start(&context.programs, &config, token, environment);
        let worker = worker.insert(started.map_err(|error| failure(&error))?);
        (row.keeper, row.worker) = worker.identities();
        context.database.put_mount(row.clone()).await.map_err(|error| failure(&error))?;
        let patience = match config.unsaved.is_empty() {
            true => READY_TIMEOUT,
            false => READY_TIMEOUT + ::mount::unsaved::HOLD,
        };
        let ready = match tokio::time::timeout(patience, ready(worker, plan)).await {
            Ok(ready) => ready?,
            Err(_) => {
                let seconds = patience.as_secs();
                let message =
                    format!("could not mount `{}`: its worker was not ready in {seconds} s", plan.source);
                return Err(ErrorObject::new(ErrorKind::TimedOut, message));
            }
        };
        (row.keeper, row.worker) = worker.identities();
        let caller = Caller { prompts: Prompts::Refused, ..known(plan) };
        row.terms = Some(Terms { caller, ready: ready.clone() });
        context.database.put_mount(row.clone()).await.map_err(|error| failure(&error))?;
        Ok((lease, ready))
    }
}

/// What a later daemon needs to know of whom the mount is for.
fn known(plan: &Plan) -> Caller {
    plan.caller.known_to(plan.place.machine().unwrap_or(&Machine::Host))
}

/// What mounts of the same source have left that are gone. A mount that changes nothing does not replay it.
async fn find_unsaved(
    context: &MountContext,
    plan: &Plan,
    state_dir: &std::path::Path,
) -> Result<Vec<ByteString>, ErrorObject> {
    let Some(mounts) = state_dir.parent().filter(|_| plan.access == Access::ReadWrite) else {
        return Ok(Vec::new());
    };
    let known = context.database.mounts().await.map_err(|error| failure(&error))?;
    let known: Vec<MountId> = known.iter().map(|row| row.id).collect();
    let (mounts, source, uid) = (mounts.to_owned(), plan.source.clone(), plan.caller.uid);
    let finding = tokio::task::spawn_blocking(move || unsaved::of_source(&mounts, &source, uid, &known));
    finding
        .await
        .map_err(|error| ErrorObject::internal(format!("looking for what is unsaved did not end: {error}")))
}

/// What of a caller's environment reaches a mount's processes.
fn known_environment(caller: &Caller) -> std::collections::BTreeMap<String, ByteString> {
    let known = |name: &String| CALLER_VARIABLES.contains(&name.as_str());
    caller.environment.clone().into_iter().filter(|(name, _)| known(name)).collect()
}

/// Waits until it serves and it is known which process does.
async fn ready(worker: &mut Worker, plan: &Plan) -> Result<Ready, ErrorObject> {
    let could_not = |why: String| format!("could not mount `{}`: {why}", plan.source);
    loop {
        let heard = worker.hear().await.map_err(|error| ErrorObject::internal(could_not(chain(&error))))?;
        match heard {
            Heard::Said(FromWorker::Ready(ready)) => return Ok(ready),
            Heard::Said(FromWorker::Error(error)) => return Err(from_worker(error)),
            // A worker that has mounted has a successor already when it dies here.
            Heard::Said(
                FromWorker::Status(_) | FromWorker::Flushed { .. } | FromWorker::ListedChanged { .. },
            )
            | Heard::Lost => {}
            Heard::Said(FromWorker::Stopping(_)) => {
                let message = could_not("its worker does not keep to the protocol".to_owned());
                return Err(ErrorObject::internal(message));
            }
            Heard::Over(over) => {
                let reason = match over {
                    Over::Failed { reason } => reason,
                    Over::Left => "its worker left before it served".to_owned(),
                };
                return Err(ErrorObject::new(ErrorKind::Failure, could_not(reason)));
            }
        }
    }
}

fn config(id: MountId, plan: &Plan, state_dir: &std::path::Path, place: Place) -> MountConfig {
    MountConfig {
        id,
        source: plan.source.clone(),
        dir: ByteString::from(plan.place.dir.as_path()),
        backend: plan.backend,
        access: plan.access,
        sync: plan.sync,
        reconnect: plan.reconnect,
        heartbeat: plan.heartbeat,
        options: plan.options.clone(),
        state_dir: ByteString::from(state_dir),
        cache_dir: None,
        place,
        owner: Owner { uid: plan.caller.uid, gid: plan.caller.gid },
        unsaved: Vec::new(),
    }
}
