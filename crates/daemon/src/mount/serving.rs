//! A mount that serves, until it is gone or has failed.

use std::pin::Pin;
use std::time::Duration;

use supervisor::keeper;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use wire::api::id::MountId;
use wire::api::mount::Force;
use wire::api::status::{Crash, Journal};
use wire::api::time::Timestamp;
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;
use wire::worker::{FromWorker, Ready, Stopping, ToWorker, WorkerError, WorkerStatus};

use super::remains::{Leftover, detach};
use super::worker::{self, Greeted, Heard, Over, Worker, WorkerFailure};
use super::{Command, Task, done};
use crate::connection::Lease;
use crate::failure::{chain, from_worker};
use crate::owner::{Answer, Event, MountEvent, OwnerHandle, Wanted, ending};

/// How long a worker that is to stop without force may be silent. It is asked how it does every [`ASK_INTERVAL`], so one
/// that flushes for an hour is not taken for dead.
const STOP_SILENCE: Duration = Duration::from_secs(30);

/// How long a worker may take to stop with force.
const FORCED_STOP: Duration = Duration::from_secs(10);

/// How often a worker that stops is asked how it does.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// How long it is waited before a connection that an adopted mount needs is tried again. It is doubled with each try up
/// to [`LEASE_PAUSE_MAX`].
const LEASE_PAUSE: Duration = Duration::from_secs(2);

/// See [`LEASE_PAUSE`].
const LEASE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How long the report of a worker's death may take to be written: the keeper waits up to five seconds for its status.
const REPORT_WAIT: Duration = Duration::from_secs(8);

/// How often it is looked for.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// How much of a report is read for its message: all of it.
const REPORT_BYTES_MAX: u64 = 128 << 10;

/// The longest message of a report, in characters.
const MESSAGE_LENGTH_MAX: usize = 512;

/// What the daemon has of a mount that serves.
pub(super) struct Serving {
    worker: Worker,
    /// Keeps the connection open. An adopted mount has none until its machine is reached.
    lease: Option<Lease>,
    leasing: Leasing,
    /// The last report.
    journal: Journal,
    /// Who waits for the next one.
    polls: Vec<oneshot::Sender<()>>,
    /// Who waits until all is on the machine.
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    /// How many have.
    flushes_asked: u64,
    /// Who waits for what is changed in a thread.
    listings: Vec<(u64, Answer<()>)>,
    /// How many have.
    listings_asked: u64,
}

/// Why a mount serves no more.
enum End {
    /// It was taken away, by a command or by somebody's `umount`.
    Stopped(Stopping),
    /// The same, and what it had to say was not heard.
    Left,
    /// There is no worker any more.
    Died(String),
    /// The next daemon goes on with it.
    Handed(oneshot::Sender<()>),
}

/// Tries to get a lease until there is one.
pub(super) struct Leasing {
    getting: Pin<Box<dyn Future<Output = Lease> + Send>>,
    now: std::sync::Arc<Notify>,
}

impl Leasing {
    /// For a mount that has its lease.
    pub(super) fn none() -> Leasing {
        Leasing { getting: Box::pin(std::future::pending()), now: Default::default() }
    }

    /// Tries at once, and again and again after that. What only a person can help with is tried when somebody asks for
    /// it.
    pub(super) fn begin(owner: &OwnerHandle, wanted: Wanted, id: MountId) -> Leasing {
        let now = std::sync::Arc::new(Notify::new());
        let (owner, told) = (owner.clone(), std::sync::Arc::clone(&now));
        let getting = Box::pin(async move {
            let mut pause = LEASE_PAUSE;
            loop {
                let wanted = Wanted {
                    keep: wanted.keep,
                    ..Wanted::new(wanted.machine.clone(), wanted.caller.clone(), None)
                };
                let error = match owner.acquire(wanted).await {
                    Ok(lease) => return lease,
                    Err(error) => error,
                };
                tracing::warn!(mount = %id, %error, "the machine of a mount that was there before was not reached");
                let needs_person =
                    matches!(error.kind(), ErrorKind::Refused | ErrorKind::Usage | ErrorKind::NotFound);
                tokio::select! {
                    () = told.notified() => {}
                    () = tokio::time::sleep(pause), if !needs_person => {}
                }
                pause = (pause * 2).min(LEASE_PAUSE_MAX);
            }
        });
        Leasing { getting, now }
    }
}

impl Serving {
    pub(super) fn new(worker: Worker, lease: Option<Lease>, leasing: Leasing) -> Serving {
        Serving {
            worker,
            lease,
            leasing,
            journal: Journal::default(),
            polls: Vec::new(),
            flushes: Vec::new(),
            flushes_asked: 0,
            listings: Vec::new(),
            listings_asked: 0,
        }
    }
}

/// The process that serves, and how many came before it.
pub(super) fn greeted(worker: &Worker) -> (u32, u32) {
    let Greeted { pid, restarts } = worker.greeted().unwrap_or(Greeted { pid: None, restarts: 0 });
    (pid.unwrap_or(0), restarts)
}

impl Task {
    /// Takes away a mount that nobody waits for any more.
    pub(super) async fn withdraw(mut self, mut serving: Serving) {
        let end = match self.stop_worker(&mut serving, Force::Always).await {
            Ok(end) => end,
            Err(error) => End::Died(error.message),
        };
        self.finish(serving, end).await;
    }

    pub(super) async fn serve(mut self, mut serving: Serving) {
        loop {
            let end = tokio::select! {
                heard = serving.worker.hear() => self.on_heard(&mut serving, heard).await,
                lease = &mut serving.leasing.getting, if serving.lease.is_none() => {
                    serving.leasing = Leasing::none();
                    serving.lease = Some(lease);
                    None
                }
                command = self.commands.recv() => match command {
                    Some(Command::Poll(answer)) => self.poll(&mut serving, answer).await,
                    Some(Command::Reconnect) => self.reconnect(&mut serving).await,
                    Some(Command::Flush(answer)) => self.flush(&mut serving, answer).await,
                    Some(Command::ListChanged { to, answer }) => {
                        self.list_changed(&mut serving, to, answer).await
                    }
                    Some(Command::Leave(answer)) => Some(End::Handed(answer)),
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
                    // The owner is gone: the next daemon goes on with the mount.
                    None => return,
                },
            };
            match end {
                None => {}
                Some(End::Died(reason)) => return self.fail(serving, reason).await,
                Some(End::Handed(answer)) => return self.hand_over(Some(serving), answer).await,
                Some(end @ (End::Stopped(_) | End::Left)) => {
                    tracing::info!(mount = %self.id, "unmounted from outside");
                    return self.finish(serving, end).await;
                }
            }
        }
    }

    async fn on_heard(&mut self, serving: &mut Serving, heard: Result<Heard, WorkerFailure>) -> Option<End> {
        match heard {
            Ok(Heard::Said(FromWorker::Status(report))) => {
                self.report(serving, *report).await;
                None
            }
            Ok(Heard::Said(FromWorker::Flushed { through })) => {
                let flushed = serving.flushes.extract_if(.., |(number, _)| *number <= through);
                flushed.for_each(|(_, answer)| done(answer));
                None
            }
            Ok(Heard::Said(FromWorker::ListedChanged { number, failed })) => {
                let outcome = match failed {
                    None => Ok(()),
                    Some(why) => {
                        let why = why.replace(char::is_control, " ");
                        Err(ErrorObject::new(
                            ErrorKind::Failure,
                            format!("what is changed cannot be told: {why}"),
                        ))
                    }
                };
                for (_, answer) in serving.listings.extract_if(.., |(other, _)| *other == number) {
                    drop(answer.send(outcome.clone()));
                }
                None
            }
            Ok(Heard::Said(FromWorker::Error(error))) => {
                tracing::warn!(mount = %self.id, %error, "the worker reports an error");
                None
            }
            Ok(Heard::Said(FromWorker::Ready(ready))) => {
                self.on_ready(serving, ready).await;
                None
            }
            Ok(Heard::Said(FromWorker::Stopping(stopping))) => {
                if let Err(error) = serving.worker.end(true).await {
                    tracing::warn!(mount = %self.id, error = chain(&error), "the worker does not end");
                }
                Some(End::Stopped(stopping))
            }
            Ok(Heard::Lost) => {
                tracing::warn!(mount = %self.id, "the worker died");
                // Whoever waits for its word is told nothing newer; its successor is asked by the next.
                serving.polls.clear();
                serving.flushes.clear();
                serving.listings.clear();
                self.tell(MountEvent::WorkerLost { why: "its worker died".to_owned() }).await;
                None
            }
            Ok(Heard::Over(over)) => {
                if let Err(error) = serving.worker.end(true).await {
                    tracing::warn!(mount = %self.id, error = chain(&error), "the worker does not end");
                }
                Some(match over {
                    Over::Left => End::Left,
                    Over::Failed { reason } => End::Died(reason),
                })
            }
            Err(error) => Some(self.give_up(serving, chain(&error)).await),
        }
    }

    /// A worker serves that did not before: a successor, or one that this daemon had not heard of.
    async fn on_ready(&mut self, serving: &mut Serving, ready: Ready) {
        let (pid, restarts) = greeted(&serving.worker);
        tracing::info!(mount = %self.id, pid, restarts, "a worker serves");
        self.tell(MountEvent::WorkerServes { pid, restarts }).await;
        if restarts > 0 {
            tokio::spawn(tell_crash(self.owner.clone(), self.id, self.state_dir.clone(), restarts));
        }
        if let Some(replayed) = ready.replayed.clone() {
            self.tell(MountEvent::Replayed(Box::new(replayed))).await;
        }
        (self.row.keeper, self.row.worker) = serving.worker.identities();
        if let Some(terms) = &mut self.row.terms {
            terms.ready = ready;
        }
        if let Err(error) = self.context.database.put_mount(self.row.clone()).await {
            tracing::error!(mount = %self.id, error = chain(&error), "could not note who serves the mount");
        }
        // How it does is not known of this one.
        if let Err(error) = serving.worker.send(&ToWorker::Status).await {
            tracing::debug!(mount = %self.id, error = chain(&error), "the worker could not be asked");
        }
    }

    async fn give_up(&self, serving: &mut Serving, reason: String) -> End {
        if let Err(error) = serving.worker.end(false).await {
            tracing::error!(mount = %self.id, error = chain(&error), "the worker does not end");
        }
        End::Died(reason)
    }

    async fn report(&self, serving: &mut Serving, report: WorkerStatus) {
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
            // Its end, if that is the reason, is noticed by itself.
            Err(error) => {
                tracing::warn!(mount = %self.id, error = chain(&error), "the worker could not be asked");
                serving.polls.clear();
                None
            }
        }
    }

    /// Has the worker say when all is on the machine. One that is being replaced is not asked, and nobody waits for it.
    async fn flush(&self, serving: &mut Serving, answer: oneshot::Sender<()>) -> Option<End> {
        serving.flushes.retain(|(_, flush)| !flush.is_closed());
        serving.flushes_asked += 1;
        let number = serving.flushes_asked;
        serving.flushes.push((number, answer));
        if let Err(error) = serving.worker.send(&ToWorker::Flush { number }).await {
            tracing::warn!(mount = %self.id, error = chain(&error), "the worker could not be told to flush");
            serving.flushes.clear();
        }
        None
    }

    /// Has the worker write down what is changed. One that is being replaced is not asked, and nobody waits for it.
    async fn list_changed(&self, serving: &mut Serving, to: ByteString, answer: Answer<()>) -> Option<End> {
        serving.listings.retain(|(_, listing)| !listing.is_closed());
        serving.listings_asked += 1;
        let number = serving.listings_asked;
        serving.listings.push((number, answer));
        if let Err(error) = serving.worker.send(&ToWorker::ListChanged { number, to }).await {
            tracing::warn!(mount = %self.id, error = chain(&error), "the worker could not be asked for changes");
            serving.listings.clear();
        }
        None
    }

    async fn reconnect(&self, serving: &mut Serving) -> Option<End> {
        serving.leasing.now.notify_one();
        if let Err(error) = serving.worker.send(&ToWorker::Reconnect).await {
            tracing::warn!(mount = %self.id, error = chain(&error), "the worker could not be told to reconnect");
        }
        None
    }

    /// Asks the worker to stop. One that is being replaced is asked when its successor serves.
    async fn ask_to_stop(&self, serving: &mut Serving, force: Force) -> Option<End> {
        if force == Force::Always {
            serving.worker.withdraw();
        }
        match serving.worker.ask_to_stop(force).await {
            Ok(()) | Err(WorkerFailure::Away) => None,
            Err(error) => Some(self.give_up(serving, chain(&error)).await),
        }
    }

    /// Asks the worker to stop and sees to it that it does. An error means that the mount goes on. Whoever wants it to
    /// stop meanwhile is answered with the rest ([`Task::stopping`]), and may bring force into it.
    async fn stop_worker(&mut self, serving: &mut Serving, mut force: Force) -> Result<End, ErrorObject> {
        let mut deadline = Instant::now() + patience(force);
        if let Some(end) = self.ask_to_stop(serving, force).await {
            return Ok(end);
        }
        let mut ask = tokio::time::interval(ASK_INTERVAL);
        ask.reset();
        loop {
            let end = tokio::select! {
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
                            let is_new = matches!(heard, Ok(Heard::Said(FromWorker::Ready(_))));
                            match self.on_heard(serving, heard).await {
                                None if is_new => self.ask_to_stop(serving, force).await,
                                end => end,
                            }
                        }
                    }
                }
                Some(command) = self.commands.recv() => match command {
                    Command::Poll(answer) => self.poll(serving, answer).await,
                    Command::Reconnect => self.reconnect(serving).await,
                    Command::Flush(answer) => self.flush(serving, answer).await,
                    Command::ListChanged { to, answer } => self.list_changed(serving, to, answer).await,
                    Command::Leave(answer) => Some(End::Handed(answer)),
                    Command::Stop { force: wanted, answer } => {
                        self.stopping.push(answer);
                        match wanted == Force::Always && force == Force::Never {
                            true => {
                                force = wanted;
                                deadline = Instant::now() + patience(force);
                                self.ask_to_stop(serving, force).await
                            }
                            false => None,
                        }
                    }
                },
                _ = ask.tick() => {
                    if let Err(error) = serving.worker.send(&ToWorker::Status).await {
                        tracing::debug!(mount = %self.id, error = chain(&error), "the worker could not be asked");
                    }
                    None
                }
                () = tokio::time::sleep_until(deadline) => {
                    Some(self.give_up(serving, "its worker did not stop in time".to_owned()).await)
                }
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Leaves the mount to the next daemon, and says so to whoever wants it to stop until this one has ended. What the
    /// mount has of this daemon is kept as long.
    pub(super) async fn hand_over(mut self, _serving: Option<Serving>, answer: oneshot::Sender<()>) {
        self.answer_stops(&Err(ending()));
        done(answer);
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Stop { answer, .. } => drop(answer.send(Err(ending()))),
                Command::Leave(answer) | Command::Poll(answer) => done(answer),
                Command::Reconnect | Command::Flush(_) | Command::ListChanged { .. } => {}
            }
        }
    }

    /// Answers all who wait for the mount to stop.
    fn answer_stops(&mut self, outcome: &Result<wire::api::mount::RemovedMount, ErrorObject>) {
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
    async fn finish(mut self, serving: Serving, end: End) {
        let unsaved = serving.journal.operations > 0;
        let told = match end {
            End::Handed(answer) => return self.hand_over(Some(serving), answer).await,
            End::Stopped(stopping) => Some(stopping.kept_aside),
            End::Left => None,
            End::Died(reason) => {
                tracing::warn!(mount = %self.id, reason, "the worker did not end by itself");
                None
            }
        };
        drop(serving);
        self.say_goodbye().await;
        let kept_aside = match told {
            Some(told) if told.is_empty() && !unsaved => {
                self.clean_up(Leftover::Remove).await;
                told
            }
            // A worker that had changes to write when it was last asked says nothing of them if it is an old one.
            None | Some(_) => {
                let left = self.keep_unknown().await;
                told.filter(|told| !told.is_empty()).unwrap_or(left)
            }
        };
        self.forget().await;
        tracing::info!(mount = %self.id, dir = %self.plan.place.dir.display(), "unmounted");
        let removed = self.removed(kept_aside);
        self.answer_stops(&Ok(removed));
    }

    /// Stays as a failed mount, also for the next daemon, until it is told to go.
    async fn fail(self, serving: Serving, reason: String) {
        tracing::error!(mount = %self.id, reason, "the mount has failed");
        drop(serving);
        if worker::noted_failure(&self.state_dir).is_none()
            && let Err(error) = worker::note_failure(&self.state_dir, &reason)
        {
            tracing::error!(mount = %self.id, %error, "that the mount has failed could not be noted");
        }
        let dir = self.plan.place.dir.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || detach(&dir)).await {
            tracing::error!(mount = %self.id, %error, "detaching did not end");
        }
        self.tell(MountEvent::Failed { reason }).await;
        if let Some(crash) = last_crash(&self.state_dir) {
            self.tell(MountEvent::Crashed(crash)).await;
        }
        self.say_goodbye().await;
        self.stay_failed().await;
    }
}

fn patience(force: Force) -> Duration {
    match force {
        Force::Never => STOP_SILENCE,
        Force::Always => FORCED_STOP,
    }
}

/// Tells how the worker died that was followed by number `restarts`, once its keeper has written that down.
async fn tell_crash(owner: OwnerHandle, id: MountId, state_dir: std::path::PathBuf, restarts: u32) {
    let path = state_dir.join(format!("{}{restarts}.txt", super::remains::REPORT_PREFIX));
    let until = Instant::now() + REPORT_WAIT;
    loop {
        if let Some(crash) = crash(&path) {
            return owner.send(Event::Mount(id, MountEvent::Crashed(crash))).await;
        }
        if Instant::now() >= until {
            return tracing::debug!(mount = %id, restarts, "there is no report of a worker's death");
        }
        tokio::time::sleep(REPORT_INTERVAL).await;
    }
}

/// The youngest report that is there.
pub(crate) fn last_crash(state_dir: &std::path::Path) -> Option<Crash> {
    let number = |name: &str| -> Option<u32> {
        name.strip_prefix(super::remains::REPORT_PREFIX)?.strip_suffix(".txt")?.parse().ok()
    };
    let names =
        std::fs::read_dir(state_dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let last = names.filter_map(|name| number(&name).map(|number| (number, name))).max()?;
    crash(&state_dir.join(last.1))
}

/// What a report says: the last complaint of the worker, else how it ended.
fn crash(path: &std::path::Path) -> Option<Crash> {
    use std::io::Read;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    let at = file.metadata().ok()?.modified().ok().map(Timestamp::from);
    file.take(REPORT_BYTES_MAX).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (heading, log) = text.split_once("\n\n")?;
    // How long it lived, and when, is in the report.
    let ended = heading.split_once(" after ").map_or(heading, |(ended, _)| ended);
    let message: String =
        keeper::last_complaint(log).unwrap_or(ended).chars().take(MESSAGE_LENGTH_MAX).collect();
    Some(Crash { message: message.replace(char::is_control, " "), report: ByteString::from(path), at })
}
