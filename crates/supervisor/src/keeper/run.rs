//! The keeper itself.
//!
//! One thread and one loop over `poll`: nothing here waits for anything else, reads a request or grows. It is the parent
//! of whatever its workers leave behind, and reaps it.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, WaitOptions, getppid, wait};
use rustix::time::Timespec;

use super::arguments::{CHANNEL, CONTROL, Inheritance, KEEPER, KEPT_MAX, Kept, LIFE, SPARES_MAX};
use super::channel::{self, Heard, Word};
use super::client::{Command, LINE_BYTES_MAX, State, Status};
use super::crash::{Report, open_log, own_part};
use super::policy::{Death, Losses, Verdict};
use super::{FAILED, KeeperError, PLAN, Plan, in_full, system};
use crate::identity::Identity;
use crate::process::Exit;
use crate::socket::{is_own, peer};
use crate::spawn::{Spawn, Stdio};
use crate::system;

/// Clients at once: a daemon, the next daemon, somebody who looks.
const CLIENTS_MAX: usize = 8;

/// How long a worker that was told to end may take before it is killed.
const END_GRACE: Duration = Duration::from_secs(5);

/// How long a dead worker's status is waited for once its successor runs. One with a thread that waits in the kernel
/// has none until then.
const STATUS_WAIT: Duration = Duration::from_secs(5);

/// How often it is looked whether there is a status by now.
const STATUS_INTERVAL: Duration = Duration::from_millis(20);

/// How long the last worker's status is waited for: it tells why there is none any more.
const LAST_STATUS_WAIT: Duration = Duration::from_millis(200);

/// Keeps until the worker has left, somebody ends it, or it gives up; then `on_failure` is called before the descriptors
/// are closed. What it was started with is `inheritance`. Returns why it gave up, if it did.
pub fn run(inheritance: Inheritance, on_failure: impl FnOnce(&str)) -> Result<Option<String>, KeeperError> {
    let mut keeper = Keeper::new(inheritance)?;
    let outcome = keeper.keep();
    if let Ok(Some(reason)) = &outcome {
        keeper.note_failure(reason);
        on_failure(reason);
    }
    keeper.kept.clear();
    keeper.spares.clear();
    let state = match &outcome {
        Ok(Some(reason)) => State::Failed { reason: reason.clone() },
        Ok(None) | Err(_) => State::Ended,
    };
    keeper.enter(state);
    outcome
}

/// A worker that is there.
struct Worker {
    identity: Identity,
    /// Readable once its main thread has ended, and on newer kernels all others too; none when it had ended before it
    /// could be watched.
    ended: Option<OwnedFd>,
    /// Readable once a thread has ended that never waits for a lock, as soon as the worker has said which.
    life: Option<OwnedFd>,
    /// How it ended, once it was reaped.
    exit: Option<Exit>,
    channel: Option<OwnedFd>,
    since: Instant,
    had_progress: bool,
    is_leaving: bool,
    /// Where its part of the log begins.
    log_begins: u64,
}

impl Worker {
    fn has_ended(&self) -> bool {
        self.ended.as_ref().is_none_or(|ended| is_readable(ended.as_fd()))
            || self.life.as_ref().is_some_and(|life| is_readable(life.as_fd()))
    }
}

/// A worker whose death has not been reported yet.
struct Dead {
    report: Report,
    status_until: Instant,
}

struct Client {
    stream: UnixStream,
    heard: Vec<u8>,
}

struct Keeper {
    identity: Identity,
    directory: PathBuf,
    plan: Plan,
    listener: UnixListener,
    control: OwnedFd,
    children: OwnedFd,
    kept: Vec<Kept>,
    /// For the next worker, and for nobody after it.
    spares: Vec<Kept>,
    worker: Option<Worker>,
    dead: Option<Dead>,
    restarts: u32,
    losses: Losses,
    state: State,
    /// When the next worker is due, while there is none.
    due: Option<Instant>,
    /// When a worker that is to end is killed.
    kill_at: Option<Instant>,
    clients: Vec<Client>,
}

impl Keeper {
    fn new(mut inheritance: Inheritance) -> Result<Keeper, KeeperError> {
        let missing = |what| system(what)(io::ErrorKind::InvalidInput.into());
        let plan = Plan::read(&inheritance.directory)?;
        let listener = inheritance
            .remove(KEEPER)
            .ok_or_else(|| missing("find the keeper's socket among the arguments"))?;
        let control = inheritance
            .remove(CONTROL)
            .ok_or_else(|| missing("find the worker's socket among the arguments"))?;
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true).map_err(system("use the keeper's socket"))?;
        // What a worker leaves behind is reaped here, not by whoever happens to be above.
        if let Err(error) = system::adopt_orphans() {
            tracing::warn!(%error, "what a worker leaves behind is left to the system");
        }
        let mut keeper = Keeper {
            identity: Identity::own().map_err(io::Error::other).map_err(system("identify this process"))?,
            directory: inheritance.directory.clone(),
            plan,
            listener,
            control,
            children: system::child_signals().map_err(system("watch children"))?,
            kept: Vec::new(),
            spares: Vec::new(),
            worker: None,
            dead: None,
            restarts: inheritance.restarts,
            losses: Losses::default(),
            state: State::Running,
            due: None,
            kill_at: None,
            clients: Vec::new(),
        };
        match (inheritance.worker, inheritance.remove(CHANNEL)) {
            (Some((pid, started)), Some(channel)) => {
                let life = inheritance.remove(LIFE);
                keeper.kept = std::mem::take(&mut inheritance.descriptors);
                keeper.adopt(pid, started, channel, life)?;
            }
            _ => keeper.start_worker(Instant::now()),
        }
        Ok(keeper)
    }

    /// Takes over a worker that another keeper had started. It may have ended since.
    fn adopt(
        &mut self,
        pid: u32,
        started: u64,
        channel: OwnedFd,
        life: Option<OwnedFd>,
    ) -> Result<(), KeeperError> {
        let watched = match system::watch_main_thread(pid) {
            Ok(watched) => Some(watched),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => None,
            Err(error) => return Err(system("watch the worker")(error)),
        };
        // Only now: from here on the descriptor keeps meaning the process that is checked. It is known by its thread, or by
        // having started this keeper: `/proc` may hide it, which is not its end.
        let is_it = match &life {
            Some(life) => !is_readable(life.as_fd()),
            None => getppid().is_some_and(|parent| parent.as_raw_nonzero().get().unsigned_abs() == pid),
        };
        self.worker = Some(Worker {
            identity: Identity { pid, started, boot: self.identity.boot },
            ended: watched.filter(|_| is_it),
            life,
            exit: None,
            channel: Some(channel),
            since: Instant::now(),
            had_progress: true,
            is_leaving: false,
            log_begins: std::fs::metadata(self.directory.join(super::LOG)).map_or(0, |log| log.len()),
        });
        Ok(())
    }

    /// The loop. Returns why it gave up, or nothing after an orderly end.
    fn keep(&mut self) -> Result<Option<String>, KeeperError> {
        loop {
            if let State::Failed { reason } = &self.state {
                return Ok(Some(reason.clone()));
            }
            if self.state == State::Ended {
                return Ok(None);
            }
            self.wait().map_err(system("wait for anything to happen"))?;
            let now = Instant::now();
            self.hear_worker();
            self.reap();
            if self.worker.as_ref().is_some_and(Worker::has_ended) {
                self.on_death(now);
            }
            if self.due.is_some_and(|due| due <= now) {
                self.due = None;
                self.start_worker(now);
            }
            if self.kill_at.is_some_and(|at| at <= now) {
                self.kill_at = None;
                self.signal(Signal::KILL);
            }
            self.report_dead(now);
            self.accept();
            self.hear_clients();
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut watched =
            vec![PollFd::new(&self.children, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        if let Some(worker) = &self.worker {
            watched.extend(worker.ended.as_ref().map(|ended| PollFd::new(ended, PollFlags::IN)));
            watched.extend(worker.life.as_ref().map(|life| PollFd::new(life, PollFlags::IN)));
            watched.extend(worker.channel.as_ref().map(|channel| PollFd::new(channel, PollFlags::IN)));
        }
        watched.extend(self.clients.iter().map(|client| PollFd::new(&client.stream, PollFlags::IN)));
        let is_gone = self.worker.as_ref().is_some_and(|worker| worker.ended.is_none());
        let at_once = is_gone.then(Instant::now);
        let mut deadline = [self.due, self.kill_at, at_once].into_iter().flatten().min();
        if let Some(dead) = &self.dead {
            let look = dead.status_until.min(Instant::now() + STATUS_INTERVAL);
            deadline = Some(deadline.map_or(look, |deadline| deadline.min(look)));
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts the next worker. That it cannot be started is the death of one that never lived.
    fn start_worker(&mut self, now: Instant) {
        match self.try_start(now) {
            Ok(worker) => {
                tracing::info!(pid = worker.identity.pid, restarts = self.restarts, "a worker runs");
                self.worker = Some(worker);
                self.enter(State::Running);
            }
            Err(error) => {
                let reason = format!("a worker could not be started: {}", in_full(&error));
                tracing::error!(reason, "no worker");
                self.on_loss(now, false, Duration::ZERO, |_| reason);
            }
        }
    }

    fn try_start(&mut self, now: Instant) -> Result<Worker, KeeperError> {
        let (ours, theirs) = channel::pair().map_err(system("make a channel"))?;
        let (log, log_begins) = open_log(&self.directory).map_err(system("open the worker's log"))?;
        let duplicate = |descriptor: BorrowedFd<'_>| {
            descriptor.try_clone_to_owned().map_err(system("duplicate a descriptor"))
        };
        let mut inheritance = Inheritance::new(&self.directory);
        inheritance.restarts = self.restarts;
        inheritance.add(CHANNEL, theirs);
        inheritance.add(CONTROL, duplicate(self.control.as_fd())?);
        for kept in &self.kept {
            inheritance.add(&kept.name, duplicate(kept.descriptor.as_fd())?);
        }
        inheritance.spares = std::mem::take(&mut self.spares);
        let launch = &self.plan.worker;
        let arguments: &[OsString] = &launch.arguments;
        let spawn = Spawn::new(&launch.program)
            .arguments(arguments)
            .inherit_all_variables()
            .stderr(Stdio::Descriptor(log.into()));
        let identity = inheritance.bequeath(spawn).start()?;
        let ended = system::watch_main_thread(identity.pid).map_err(system("watch the worker"))?;
        Ok(Worker {
            identity,
            ended: Some(ended),
            life: None,
            exit: None,
            channel: Some(ours),
            since: now,
            had_progress: false,
            is_leaving: false,
            log_begins,
        })
    }

    /// Reads all that the worker has said so far, or had said before it died.
    fn hear_worker(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        while let Some(channel) = &worker.channel {
            match channel::hear(channel.as_fd()) {
                Ok(Heard::Nothing) => return,
                Ok(Heard::Word(Word::Progress)) => {
                    worker.had_progress = true;
                    self.losses = Losses::default();
                }
                Ok(Heard::Word(Word::Leaving)) => worker.is_leaving = true,
                Ok(Heard::Life(life)) => worker.life = Some(life),
                Ok(Heard::Keep(kept)) if self.kept.len() + kept.len() <= KEPT_MAX => self.kept.extend(kept),
                Ok(Heard::Keep(_)) => tracing::error!("the worker hands over more than is kept"),
                Ok(Heard::Spare(name, descriptors)) => {
                    self.spares.retain(|spare| spare.name != name);
                    match self.spares.len() + descriptors.len() <= SPARES_MAX {
                        true => self.spares.extend(descriptors),
                        false => tracing::error!("the worker puts more aside than is held for its successor"),
                    }
                }
                Ok(Heard::Nonsense) => tracing::error!("the worker does not keep to the protocol"),
                Ok(Heard::End) => worker.channel = None,
                // That message is lost. The channel stays: its end would tell the worker that it has no keeper.
                Err(error) => return tracing::error!(%error, "the worker cannot be heard"),
            }
        }
    }

    /// The worker is gone. It may have said something between being heard and that.
    fn on_death(&mut self, now: Instant) {
        self.hear_worker();
        let Some(worker) = self.worker.take() else { return };
        self.kill_at = None;
        // A plan that cannot be looked for was not withdrawn.
        let is_withdrawn = matches!(self.directory.join(PLAN).try_exists(), Ok(false));
        if worker.is_leaving || self.state == State::Ending || is_withdrawn {
            self.await_status(worker.identity.pid, LAST_STATUS_WAIT);
            self.enter(State::Ended);
            return;
        }
        // One that was not reported yet has been dead for long enough.
        self.report_dead(now + STATUS_WAIT);
        let lived = now.saturating_duration_since(worker.since);
        let report = Report {
            number: self.restarts + 1,
            pid: worker.identity.pid,
            exit: worker.exit.unwrap_or(Exit::Unknown),
            lived,
            log: own_part(&self.directory, worker.log_begins),
        };
        self.dead = Some(Dead { report, status_until: now + STATUS_WAIT });
        self.on_loss(now, worker.had_progress, lived, |keeper| {
            keeper.await_status(worker.identity.pid, LAST_STATUS_WAIT);
            let reason = keeper.dead.as_ref().map(|dead| dead.report.reason());
            keeper.report_dead(now + STATUS_WAIT);
            reason.unwrap_or_else(|| "its worker ended".to_owned())
        });
    }

    /// There is no worker: is there to be another?
    fn on_loss(
        &mut self,
        now: Instant,
        had_progress: bool,
        lived: Duration,
        reason: impl FnOnce(&mut Keeper) -> String,
    ) {
        let death = Death { had_progress, lived, leaves_descriptors: !self.kept.is_empty() };
        let (losses, verdict) = self.losses.on(death);
        self.losses = losses;
        match verdict {
            Verdict::Restart(pause) => {
                self.restarts = self.restarts.saturating_add(1);
                if pause.is_zero() {
                    return self.start_worker(now);
                }
                self.due = Some(now + pause);
                self.enter(State::Pausing);
            }
            Verdict::GiveUp => {
                let reason = reason(self);
                tracing::error!(reason, "giving up");
                self.state = State::Failed { reason };
            }
        }
    }

    /// Reaps every child that has ended, and notes how the dead worker did.
    fn reap(&mut self) {
        system::drain(self.children.as_fd());
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let code = status.exit_status().map(Exit::Code);
            let exit = code.or(status.terminating_signal().map(Exit::Signal)).unwrap_or(Exit::Unknown);
            let number = pid.as_raw_nonzero().get().unsigned_abs();
            if let Some(worker) = self.worker.as_mut().filter(|worker| worker.identity.pid == number) {
                worker.exit = Some(exit);
            }
            if let Some(dead) = self.dead.as_mut().filter(|dead| dead.report.pid == number) {
                dead.report.exit = exit;
            }
        }
    }

    /// Waits a little for a child's status, for its own sake or for a last report.
    fn await_status(&mut self, pid: u32, wait: Duration) {
        let until = Instant::now() + wait;
        let is_there = |keeper: &Keeper| {
            let unknown = keeper.dead.as_ref().is_none_or(|dead| dead.report.exit == Exit::Unknown);
            unknown && Identity::of(pid).is_ok()
        };
        while is_there(self) && Instant::now() < until {
            let interval = Timespec::try_from(STATUS_INTERVAL).unwrap_or_default();
            // An error is as good as nothing: the time is bounded.
            let _ = poll(&mut [PollFd::new(&self.children, PollFlags::IN)], Some(&interval));
            self.reap();
        }
    }

    /// Writes the report of a death once its status is known, or will not be.
    fn report_dead(&mut self, now: Instant) {
        let is_due = |dead: &mut Dead| dead.report.exit != Exit::Unknown || dead.status_until <= now;
        let Some(dead) = self.dead.take_if(is_due) else { return };
        let reason = dead.report.reason();
        tracing::warn!(pid = dead.report.pid, reason, "a worker died");
        if let Err(error) = dead.report.write(&self.directory) {
            tracing::error!(%error, "a crash report could not be written");
        }
    }

    fn note_failure(&self, reason: &str) {
        let mut options = OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(true).mode(0o600).open(self.directory.join(FAILED));
        if let Err(error) = file.and_then(|mut file| file.write_all(reason.as_bytes())) {
            tracing::error!(%error, "that the mount has failed could not be noted");
        }
    }

    fn signal(&self, signal: Signal) {
        let Some(worker) = &self.worker else { return };
        // One that has just ended needs no signal.
        let Some(ended) = &worker.ended else { return };
        match system::signal(ended.as_fd(), worker.identity.pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => tracing::error!(%error, "the worker could not be signalled"),
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        let mut clients = std::mem::take(&mut self.clients);
        clients.retain_mut(|client| self.tell(client));
        self.clients = clients;
    }

    /// Sends the status. A client that does not take it is given up: it connects again.
    fn tell(&self, client: &mut Client) -> bool {
        let status = Status {
            keeper: self.identity,
            token: self.plan.token,
            worker: self.worker.as_ref().map(|worker| worker.identity),
            restarts: self.restarts,
            state: self.state.clone(),
        };
        let Ok(mut line) = serde_json::to_vec(&status) else { return false };
        line.push(b'\n');
        match client.stream.write(&line) {
            Ok(written) => written == line.len(),
            // What it said before it went away is still to be heard; then it is found to be gone.
            Err(error) => matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset),
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let is_ours = peer(&stream).is_ok_and(|peer| is_own(&peer));
            if !is_ours || stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.clients.len() == CLIENTS_MAX {
                self.clients.remove(0);
            }
            let mut client = Client { stream, heard: Vec::new() };
            if self.tell(&mut client) {
                self.clients.push(client);
            }
        }
    }

    fn hear_clients(&mut self) {
        let mut commands = Vec::new();
        self.clients.retain_mut(|client| client.hear(&mut commands));
        for command in commands {
            tracing::info!(?command, "told");
            match command {
                Command::TakeOver => self.signal(Signal::KILL),
                Command::End => self.end(),
            }
        }
    }

    fn end(&mut self) {
        self.due = None;
        match self.worker.is_some() {
            true => {
                self.signal(Signal::TERM);
                self.kill_at = Some(Instant::now() + END_GRACE);
                self.enter(State::Ending);
            }
            false => self.enter(State::Ended),
        }
    }
}

impl Client {
    /// Reads what there is. False when it is gone or makes no sense.
    fn hear(&mut self, commands: &mut Vec<Command>) -> bool {
        loop {
            let mut bytes = [0; 256];
            match self.stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(read) => self.heard.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            while let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(command) => commands.push(command),
                    Err(_) => return false,
                }
            }
            if self.heard.len() > LINE_BYTES_MAX {
                return false;
            }
        }
    }
}

fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
    let now = Timespec::default();
    poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}
