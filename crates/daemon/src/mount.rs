//! The task of one mount, from its making to its end.
//!
//! ```text
//!   planned ──► connecting ──► starting ──ready──► serving ──stop──► gone
//!      │             │             │                  │ worker dies
//!      └─────────────┴─────────────┴──► undone        └──► failed ──stop──► gone
//! ```
//!
//! A mount that does not get as far as serving is undone: no process, mount point, directory, row or descriptor of it
//! is left. A failed mount's directory is a directory again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::mount::fuse::mountpoint::{self, Mounts, Unmount, UnmountError, unmount};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use wire::api::id::MountId;
use wire::api::mount::{Force, RemovedMount};
use wire::api::status::{self, Journal};
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;
use wire::paths::Paths;
use wire::worker::{Dial, FromWorker, MountConfig, Owner, Ready, Stopping, ToWorker, WorkerError};

use crate::connection::{Attendant, Lease};
use crate::database::{Database, MountRow};
use crate::failure::{chain, failure, from_worker};
use crate::owner::{Answer, Event, MountEvent, OwnerHandle, Wanted};
use crate::prompt::Prompter;

pub mod plan;
pub mod worker;

use plan::{Plan, remove_made};
use worker::{Heard, Launch, Worker};

/// Commands that may wait for one mount.
pub const COMMANDS_MAX: usize = 16;

/// How long a worker may take until it serves: it reaches the machine's agent, which may take its half minute to say
/// hello, and mounts.
pub const READY_TIMEOUT: Duration = Duration::from_secs(45);

/// How long a worker that is to stop without force may be silent. It is asked how it does every [`ASK_INTERVAL`], so one
/// that flushes for an hour is not taken for dead.
pub const STOP_SILENCE: Duration = Duration::from_secs(30);

/// How long a worker may take to stop with force.
pub const FORCED_STOP: Duration = Duration::from_secs(10);

/// How often a worker that stops is asked how it does.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// What a mount's task is told.
#[derive(Debug)]
pub enum Command {
    /// Ask the worker how it does; answered when the owner has been told, or when the worker has nothing to say.
    Poll(oneshot::Sender<()>),
    /// Take the mount away.
    Stop {
        /// How hard to try.
        force: Force,
        /// Answered when it is gone, or stays.
        answer: Answer<RemovedMount>,
    },
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
    /// Takes the mount away. One that has gone meanwhile counts as taken away.
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
}

/// What every mount's task needs.
#[derive(Debug, Clone)]
pub struct MountContext {
    /// Desired state.
    pub database: Database,
    /// Which program a worker is.
    pub launch: Launch,
    /// Where state is.
    pub paths: Paths,
}

struct Task {
    context: MountContext,
    owner: OwnerHandle,
    id: MountId,
    plan: Plan,
    state_dir: PathBuf,
    commands: mpsc::Receiver<Command>,
    /// Who waits for the mount to stop.
    stopping: Vec<Answer<RemovedMount>>,
}

/// A mount that serves.
struct Serving {
    worker: Worker,
    /// Keeps the connection open.
    _lease: Lease,
    /// The last report.
    journal: Journal,
    /// Who waits for the next one.
    polls: Vec<oneshot::Sender<()>>,
}

/// Why a mount serves no more.
enum End {
    /// It was taken away, by a command or by somebody's `umount`.
    Stopped(Stopping),
    /// Its worker is gone.
    Died(String),
}

/// Runs a mount. Answers once it serves or has been undone; goes on until it is gone.
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
    let task = Task { context, owner, id, plan, state_dir, commands, stopping: Vec::new() };
    task.run(prompter, answer).await;
}

impl Task {
    async fn run(mut self, prompter: Option<Prompter>, mut answer: Answer<status::Mount>) {
        let mut worker = None;
        let started = tokio::select! {
            started = start(&self.context, &self.owner, self.id, &self.plan, &self.state_dir, prompter, &mut worker) => {
                started
            }
            () = answer.closed() => Err(ErrorObject::new(ErrorKind::Interrupted, "the client has gone")),
            stopped = stop_command(&mut self.commands) => {
                let error = ErrorObject::new(ErrorKind::Interrupted, "the mount was taken away before it served");
                self.undo(worker).await;
                drop(stopped.send(Ok(self.removed(Vec::new()))));
                return drop(answer.send(Err(error)));
            }
        };
        let (lease, ready) = match started {
            Ok(started) => started,
            Err(error) => {
                tracing::warn!(mount = %self.id, source = %self.plan.source, %error, "could not mount");
                self.undo(worker).await;
                return drop(answer.send(Err(error)));
            }
        };
        let Some(worker) = worker else {
            return drop(answer.send(Err(ErrorObject::internal("a mount without a worker"))));
        };
        let pid = worker.process().pid();
        let mut shown = self.plan.status(self.id);
        shown.backend = ready.backend;
        shown.worker = Some(status::Worker { pid, restarts: 0 });
        shown.degraded = ready.degraded.clone();
        shown.port = ready.port;
        shown.nfs = ready.nfs.clone();
        tracing::info!(mount = %self.id, source = %self.plan.source, dir = %shown.dir, backend = %ready.backend, pid, "mounted");
        self.tell(MountEvent::Serving { pid, ready: Box::new(ready) }).await;
        let serving = Serving { worker, _lease: lease, journal: Journal::default(), polls: Vec::new() };
        if answer.send(Ok(shown)).is_err() {
            // Whoever wanted it has gone, and does not know that it is there.
            return self.withdraw(serving).await;
        }
        self.serve(serving).await;
    }

    async fn tell(&self, event: MountEvent) {
        self.owner.send(Event::Mount(self.id, event)).await;
    }

    fn removed(&self, kept_aside: Vec<ByteString>) -> RemovedMount {
        RemovedMount { id: self.id, dir: ByteString::from(self.plan.place.dir.as_path()), kept_aside }
    }

    /// Takes away a mount that nobody waits for any more.
    async fn withdraw(mut self, mut serving: Serving) {
        let end = match self.stop_worker(&mut serving, Force::Always).await {
            Ok(end) => end,
            Err(error) => End::Died(error.message),
        };
        self.finish(serving, end).await;
    }

    async fn serve(mut self, mut serving: Serving) {
        loop {
            let end = tokio::select! {
                heard = serving.worker.hear() => self.on_heard(&mut serving, heard).await,
                command = self.commands.recv() => match command {
                    Some(Command::Poll(answer)) => self.poll(&mut serving, answer).await,
                    Some(Command::Stop { force, answer }) => {
                        self.stopping.push(answer);
                        match self.stop_worker(&mut serving, force).await {
                            Ok(end) => return self.finish(serving, end).await,
                            Err(error) => {
                                tracing::info!(mount = %self.id, %error, "the mount stays");
                                self.answer_stops(&Err(error));
                                None
                            }
                        }
                    }
                    // The owner has forgotten this mount, which it does only when it ends.
                    None => return self.withdraw(serving).await,
                },
            };
            match end {
                None => {}
                Some(End::Stopped(stopping)) => {
                    tracing::info!(mount = %self.id, "unmounted from outside");
                    return self.finish(serving, End::Stopped(stopping)).await;
                }
                Some(End::Died(reason)) => return self.fail(serving, reason).await,
            }
        }
    }

    async fn on_heard(
        &self,
        serving: &mut Serving,
        heard: Result<Heard, worker::WorkerFailure>,
    ) -> Option<End> {
        match heard {
            Ok(Heard::Said(FromWorker::Status(report))) => {
                self.report(serving, *report).await;
                None
            }
            Ok(Heard::Said(FromWorker::Error(error))) => {
                tracing::warn!(mount = %self.id, %error, "the worker reports an error");
                None
            }
            Ok(Heard::Said(FromWorker::Stopping(stopping))) => {
                let ended = serving.worker.end(true).await;
                if let Err(error) = ended {
                    tracing::warn!(mount = %self.id, error = chain(&error), "the worker does not end");
                }
                Some(End::Stopped(stopping))
            }
            Ok(Heard::Said(FromWorker::Ready(_) | FromWorker::Descriptors { .. })) => {
                Some(self.give_up(serving, "the worker does not keep to the protocol".to_owned()).await)
            }
            // Usually it is just ending, and how is worth more than that it hung up.
            Ok(Heard::HungUp) => match serving.worker.end(true).await {
                Ok(exit) => Some(End::Died(died(&serving.worker, exit))),
                Err(error) => Some(End::Died(chain(&error))),
            },
            Ok(Heard::Exited(exit)) => Some(End::Died(died(&serving.worker, exit))),
            Err(error) => Some(self.give_up(serving, chain(&error)).await),
        }
    }

    async fn give_up(&self, serving: &mut Serving, reason: String) -> End {
        if let Err(error) = serving.worker.end(false).await {
            tracing::error!(mount = %self.id, error = chain(&error), "the worker does not end");
        }
        End::Died(reason)
    }

    async fn report(&self, serving: &mut Serving, report: wire::worker::WorkerStatus) {
        serving.journal = report.journal;
        self.tell(MountEvent::Status(Box::new(report))).await;
        for poll in serving.polls.drain(..) {
            // Whoever asked may have given up waiting.
            let _ = poll.send(());
        }
    }

    async fn poll(&self, serving: &mut Serving, answer: oneshot::Sender<()>) -> Option<End> {
        serving.polls.retain(|poll| !poll.is_closed());
        let asked_already = !serving.polls.is_empty();
        serving.polls.push(answer);
        if asked_already {
            return None;
        }
        match serving.worker.send(&ToWorker::Status).await {
            Ok(()) => None,
            // Its exit, if that is the reason, is noticed by itself.
            Err(error) => {
                tracing::warn!(mount = %self.id, error = chain(&error), "the worker could not be asked");
                serving.polls.clear();
                None
            }
        }
    }

    /// Asks the worker to stop and sees to it that it does. An error means that the mount goes on. Whoever wants it to
    /// stop meanwhile is answered with the rest ([`Task::stopping`]), and may bring force into it.
    async fn stop_worker(&mut self, serving: &mut Serving, mut force: Force) -> Result<End, ErrorObject> {
        let mut deadline = Instant::now() + patience(force);
        if let Err(error) = serving.worker.ask_to_stop(force).await {
            return Ok(self.give_up(serving, chain(&error)).await);
        }
        let mut ask = tokio::time::interval(ASK_INTERVAL);
        ask.reset();
        loop {
            tokio::select! {
                heard = serving.worker.hear() => {
                    if force == Force::Never {
                        deadline = Instant::now() + STOP_SILENCE;
                    }
                    match heard {
                        // What it refuses is what was asked for before force came into it.
                        Ok(Heard::Said(FromWorker::Error(error))) if force == Force::Never => {
                            return Err(self.refusal(error));
                        }
                        heard => {
                            if let Some(end) = self.on_heard(serving, heard).await {
                                return Ok(end);
                            }
                        }
                    }
                }
                Some(command) = self.commands.recv() => match command {
                    Command::Poll(answer) => drop(self.poll(serving, answer).await),
                    Command::Stop { force: wanted, answer } => {
                        self.stopping.push(answer);
                        if wanted == Force::Always && force == Force::Never {
                            force = wanted;
                            deadline = Instant::now() + patience(force);
                            if let Err(error) = serving.worker.ask_to_stop(force).await {
                                return Ok(self.give_up(serving, chain(&error)).await);
                            }
                        }
                    }
                },
                _ = ask.tick() => {
                    if let Err(error) = serving.worker.send(&ToWorker::Status).await {
                        tracing::debug!(mount = %self.id, error = chain(&error), "the worker could not be asked");
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    return Ok(self.give_up(serving, "its worker did not stop in time".to_owned()).await);
                }
            }
        }
    }

    /// Answers all who wait for the mount to stop.
    fn answer_stops(&mut self, outcome: &Result<RemovedMount, ErrorObject>) {
        for answer in self.stopping.drain(..) {
            // Whoever asked may have given up waiting.
            let _ = answer.send(outcome.clone());
        }
    }

    fn refusal(&self, error: WorkerError) -> ErrorObject {
        let told = from_worker(error);
        let dir = self.plan.place.dir.display();
        let object = ErrorObject::new(told.kind(), format!("could not unmount `{dir}`: {}", told.message));
        match told.hint() {
            Some(hint) => object.with_hint(hint),
            None => object,
        }
    }

    /// Cleans up after a worker that has ended, for good.
    async fn finish(&mut self, serving: Serving, end: End) {
        let unsaved = serving.journal.operations > 0;
        drop(serving);
        let kept_aside = match end {
            End::Stopped(stopping) => {
                let nothing_kept = stopping.kept_aside.is_empty();
                self.clean_up(if nothing_kept { Leftover::Remove } else { Leftover::KeepUnknown }).await;
                stopping.kept_aside
            }
            End::Died(reason) => {
                tracing::warn!(mount = %self.id, reason, "the worker did not end by itself");
                let kept = self.clean_up(Leftover::KeepUnknown).await == Cleaned::Kept;
                (kept && unsaved).then(|| ByteString::from(self.state_dir.as_path())).into_iter().collect()
            }
        };
        self.forget().await;
        tracing::info!(mount = %self.id, dir = %self.plan.place.dir.display(), "unmounted");
        let removed = self.removed(kept_aside);
        self.answer_stops(&Ok(removed));
    }

    /// Undoes a mount that never served.
    async fn undo(&mut self, worker: Option<Worker>) {
        if let Some(mut worker) = worker
            && let Err(error) = worker.end(false).await
        {
            tracing::error!(mount = %self.id, error = chain(&error), "the worker does not end");
        }
        self.clean_up(Leftover::Remove).await;
        self.forget().await;
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

    async fn forget(&mut self) {
        if let Err(error) = self.context.database.remove_mount(self.id).await {
            tracing::error!(mount = %self.id, error = chain(&error), "could not forget the mount");
        }
        self.tell(MountEvent::Ended).await;
    }

    /// Stays as a failed mount until it is told to go.
    async fn fail(mut self, serving: Serving, reason: String) {
        tracing::error!(mount = %self.id, reason, "the mount has failed");
        let unsaved = serving.journal.operations > 0;
        drop(serving);
        let dir = self.plan.place.dir.clone();
        let detaching = tokio::task::spawn_blocking(move || detach(&dir)).await;
        if let Err(error) = detaching {
            tracing::error!(mount = %self.id, %error, "detaching did not end");
        }
        self.tell(MountEvent::Failed { reason }).await;
        loop {
            match self.commands.recv().await {
                Some(Command::Poll(answer)) => drop(answer.send(())),
                Some(Command::Stop { answer, .. }) => {
                    let cleaned = self.clean_up(Leftover::KeepUnknown).await;
                    self.forget().await;
                    let kept = cleaned == Cleaned::Kept && unsaved;
                    let kept_aside = kept.then(|| ByteString::from(self.state_dir.as_path()));
                    return drop(answer.send(Ok(self.removed(kept_aside.into_iter().collect()))));
                }
                None => return,
            }
        }
    }
}

fn patience(force: Force) -> Duration {
    match force {
        Force::Never => STOP_SILENCE,
        Force::Always => FORCED_STOP,
    }
}

/// Takes commands until one is to stop; there is nothing to poll yet.
async fn stop_command(commands: &mut mpsc::Receiver<Command>) -> Answer<RemovedMount> {
    loop {
        match commands.recv().await {
            Some(Command::Stop { answer, .. }) => return answer,
            Some(Command::Poll(answer)) => drop(answer.send(())),
            None => std::future::pending().await,
        }
    }
}

fn died(worker: &Worker, exit: supervisor::Exit) -> String {
    match worker.last_words() {
        Some(words) => format!("its worker ended with {exit}: {words}"),
        None => format!("its worker ended with {exit}"),
    }
}

/// Brings a mount to serve. When it fails or is dropped half way, `worker` holds what has to be ended.
async fn start(
    context: &MountContext,
    owner: &OwnerHandle,
    id: MountId,
    plan: &Plan,
    state_dir: &Path,
    prompter: Option<Prompter>,
    worker: &mut Option<Worker>,
) -> Result<(Lease, Ready), ErrorObject> {
    let mut row = MountRow {
        id,
        source: plan.source.clone(),
        dir: ByteString::from(plan.place.dir.as_path()),
        made: plan.made.iter().map(|dir| ByteString::from(dir.as_path())).collect(),
        worker: None,
    };
    context.database.put_mount(row.clone()).await.map_err(|error| failure(&error))?;
    let (machine, caller) = (plan.place.machine.clone(), plan.caller.clone());
    let attendant = Attendant::new(&caller, prompter.clone());
    let lease = owner.acquire(Wanted::new(machine, caller, prompter)).await?;
    lease.link().attend(&attendant);
    supervisor::socket::private_directory(state_dir).map_err(|error| failure(&error))?;
    let environment = plan.caller.environment.clone().into_iter();
    let known = environment.filter(|(name, _)| wire::api::machine::CALLER_VARIABLES.contains(&name.as_str()));
    let worker =
        worker.insert(Worker::start(&context.launch, state_dir, known).map_err(|error| failure(&error))?);
    row.worker = Some(worker.process().identity());
    let config = config(id, plan, state_dir, lease.link().dial());
    worker.send(&ToWorker::Start { config: Box::new(config) }).await.map_err(|error| failure(&error))?;
    context.database.put_mount(row).await.map_err(|error| failure(&error))?;
    match tokio::time::timeout(READY_TIMEOUT, ready(worker, plan)).await {
        Ok(ready) => Ok((lease, ready?)),
        Err(_) => {
            let message = format!(
                "could not mount `{}`: its worker was not ready in {} s",
                plan.source,
                READY_TIMEOUT.as_secs()
            );
            Err(ErrorObject::new(ErrorKind::TimedOut, message))
        }
    }
}

async fn ready(worker: &mut Worker, plan: &Plan) -> Result<Ready, ErrorObject> {
    let could_not = |why: String| format!("could not mount `{}`: {why}", plan.source);
    loop {
        let heard = worker.hear().await.map_err(|error| ErrorObject::internal(could_not(chain(&error))))?;
        match heard {
            Heard::Said(FromWorker::Ready(ready)) => return Ok(ready),
            Heard::Said(FromWorker::Error(error)) => return Err(from_worker(error)),
            Heard::Said(FromWorker::Status(_)) => {}
            Heard::Said(FromWorker::Descriptors { .. } | FromWorker::Stopping(_)) => {
                let message = could_not("its worker does not keep to the protocol".to_owned());
                return Err(ErrorObject::internal(message));
            }
            Heard::HungUp => {
                let reason = match worker.end(true).await {
                    Ok(exit) => died(worker, exit),
                    Err(error) => chain(&error),
                };
                return Err(ErrorObject::new(ErrorKind::Failure, could_not(reason)));
            }
            Heard::Exited(exit) => {
                return Err(ErrorObject::new(ErrorKind::Failure, could_not(died(worker, exit))));
            }
        }
    }
}

fn config(id: MountId, plan: &Plan, state_dir: &Path, dial: Dial) -> MountConfig {
    MountConfig {
        id,
        source: plan.source.clone(),
        dir: ByteString::from(plan.place.dir.as_path()),
        backend: plan.backend,
        access: plan.access,
        sync: plan.sync,
        reconnect: plan.reconnect,
        options: plan.options.clone(),
        state_dir: ByteString::from(state_dir),
        dial,
        owner: Owner { uid: plan.caller.uid, gid: plan.caller.gid },
    }
}

/// What to do with the files of a mount that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// Nothing in them is of value.
    Remove,
    /// The worker may have left something of value: only its log is removed, and the directory if that was all.
    KeepUnknown,
}

/// Whether files of a mount that is gone are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleaned {
    /// None.
    Removed,
    /// Some.
    Kept,
}

/// Removes what is left of a mount whose worker has ended. Blocks.
pub fn clean_up(dir: &Path, made: &[PathBuf], state_dir: &Path, leftover: Leftover) -> Cleaned {
    detach(dir);
    remove_made(made);
    let removed = match leftover {
        Leftover::Remove => std::fs::remove_dir_all(state_dir),
        Leftover::KeepUnknown => supervisor::log::remove(&state_dir.join("worker.log"))
            .and_then(|()| std::fs::remove_dir(state_dir)),
    };
    match removed {
        Ok(()) => Cleaned::Removed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Cleaned::Removed,
        Err(error) => {
            tracing::warn!(dir = %state_dir.display(), %error, "files of a mount stay");
            Cleaned::Kept
        }
    }
}

/// Takes a mount of ours out of the tree, if there still is one. Blocks.
pub fn detach(dir: &Path) {
    /// Mounts that lie one on the other at one place: never more than one of ours.
    const LAYERS_MAX: usize = 4;
    for _ in 0..LAYERS_MAX {
        let mounts = match Mounts::read() {
            Ok(mounts) => mounts,
            Err(error) => return tracing::error!(error = chain(&error), "could not see what is mounted"),
        };
        if !mounts.at(dir).is_some_and(|entry| entry.is_ours()) {
            return;
        }
        tracing::info!(dir = %dir.display(), "detaching what is left of a mount");
        match unmount(dir, Unmount::Detach) {
            Ok(()) | Err(UnmountError::NotMounted(_)) => {}
            Err(error) => return tracing::error!(error = chain(&error), "could not detach a mount"),
        }
    }
}

/// Detaches mounts of ours in `mounts_dir` whose servers are dead and of which no row tells: the database may be gone.
/// Mounts elsewhere may be those of another daemon. Blocks.
pub fn detach_stale(mounts_dir: &Path) {
    let stale = match mountpoint::detach_stale(|entry| entry.path.starts_with(mounts_dir)) {
        Ok(stale) => stale,
        Err(error) => return tracing::error!(error = chain(&error), "could not see what is mounted"),
    };
    for found in stale {
        let dir = found.mount.path.display();
        match found.detached {
            Ok(()) => tracing::warn!(%dir, "a dead mount was detached"),
            Err(error) => tracing::error!(%dir, error = chain(&error), "could not detach a dead mount"),
        }
    }
}
