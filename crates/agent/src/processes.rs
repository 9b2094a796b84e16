//! Processes of a session.
//!
//! ```text
//!  Spawn ─► started ─► running ─┬─► exited ─► its output sent ─► Ended
//!                               └─ cancel or end of the session: hang up, and after a grace kill ─► exited
//! ```
//!
//! Each process has a thread, which moves bytes between its pipes or terminal and the stream: output only while the
//! client has allowed some, so that a process which writes more than its reader takes is stopped by its full pipe.
//!
//! In a session that is kept, a process goes on when the stream breaks. What has been read from it and may not have arrived
//! is in its [`Tail`], and no more is read until a later stream follows it than is kept: then a process that writes to a pipe
//! waits. What is written to a terminal, or by a detached process, does not wait for a reader that is not there: the oldest
//! of it is dropped. An ended one is kept with its tail.
//!
//! A detached process is not its client's: who cancels a request only leaves it, and it outlasts a goodbye. When it has
//! ended, what is kept of its output is there, with its thread until somebody has followed it to the end, until a client says
//! that it has been seen, it has been there for long enough, or others have come behind it.
//!
//! A line that is cut in silence looks like a client that does not read. So a stream to which a process writes that need not
//! wait [ends](crate::kept) when nothing at all has come on it for a while.

mod mover;
mod spawn;
mod tail;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::termios::Winsize;
use wire::agent::process::{
    DETACHED_END_KEPT_SECONDS, DETACHED_MAX, ENDED_KEPT_MAX, ExitStatus, OUTPUT_KEPT_BYTES_MAX, ProcessId,
    ProcessReply, ProcessRequest, TerminalSize,
};
use wire::agent::{Failure, Reply, RequestId, Sequence};

use crate::failure::failure;
use crate::log::log;
use crate::replies::{Answer, StreamNumber};
use crate::session::{Asked, Outcome, Session};
use crate::stream::Stream;
use crate::sync::{lock, wait_timeout};
use crate::ticket::Ticket;
use mover::Mover;
use tail::{Missing, Tail};

/// The most processes at once; each has a thread and up to five descriptors.
const PROCESSES_MAX: usize = 256;

/// How much input may wait for one process. More is refused: the client is to wait for the answers.
const INPUT_QUEUED_BYTES_MAX: usize = 4 << 20;

/// How long a process that is to end has between the hang-up and the kill.
const HANG_UP_GRACE: Duration = Duration::from_millis(500);

/// How long killed processes have to be gone.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// How long the end of a detached process is kept.
const DETACHED_END_KEPT: Duration = Duration::from_secs(DETACHED_END_KEPT_SECONDS as u64);

/// The most requests that wait for the end of one process: a client has no use for more than one.
const WAITERS_MAX: usize = 8;

#[derive(Default)]
pub(crate) struct Processes {
    table: Mutex<Table>,
    fewer: Condvar,
}

#[derive(Default)]
struct Table {
    running: HashMap<ProcessId, Arc<Running>>,
    /// Those that are being started, or whose end is being told.
    busy: HashMap<ProcessId, Busy>,
    /// Those whose end may not have been heard of, the latest last.
    ended: VecDeque<Ended>,
    /// The session ends: nothing is started any more.
    closed: bool,
}

/// A process that nobody can follow just now.
struct Busy {
    started_on: StreamNumber,
    /// It is to end as soon as it runs.
    unwanted: bool,
    /// How it ended, if it has, and when, if it was detached.
    ended: Option<(ExitStatus, Option<Instant>)>,
    /// Who is to, as soon as that is possible.
    next_follower: Option<Follower>,
}

impl Busy {
    fn starting(started_on: StreamNumber) -> Busy {
        Busy { started_on, unwanted: false, ended: None, next_follower: None }
    }

    fn telling(ended: &Ended) -> Busy {
        Busy { ended: Some((ended.status, ended.detached)), ..Busy::starting(ended.started_on) }
    }
}

/// A process that is gone.
struct Ended {
    process: ProcessId,
    pid: u32,
    started_on: StreamNumber,
    tail: Tail,
    status: ExitStatus,
    /// Whether its last reply has been sent.
    is_told: bool,
    /// When it ended, if it was detached: then it is kept for [`DETACHED_END_KEPT`].
    detached: Option<Instant>,
}

/// Who starts a process.
enum Claim {
    /// The request that asks.
    Ours,
    /// One of an earlier stream did.
    Earlier,
}

impl Table {
    fn started_on(&self, process: ProcessId) -> Option<StreamNumber> {
        let running = self.running.get(&process).map(|running| running.started_on);
        let busy = || self.busy.get(&process).map(|busy| busy.started_on);
        let ended = || self.ended.iter().find(|ended| ended.process == process);
        running.or_else(busy).or_else(|| ended().map(|ended| ended.started_on))
    }

    /// How many detached ones run.
    fn detached(&self) -> usize {
        let runs = |running: &&Arc<Running>| running.is_detached() && running.ended_at().is_none();
        self.running.values().filter(runs).count()
    }

    /// The detached ones that have ended and that nobody follows, with when they did, the first to end first; but for those
    /// that are told to be forgotten already.
    fn detached_ended(&self) -> Vec<(Instant, DetachedEnd)> {
        let of_running = |(process, running): (&ProcessId, &Arc<Running>)| {
            let state = lock(&running.state);
            let (_, at) = state.status?;
            let is_left = running.is_detached() && !state.unwanted && !state.followed;
            is_left.then(|| (at, *process, Some(running.clone())))
        };
        let told = self.ended.iter().filter_map(|ended| Some((ended.detached?, ended.process, None)));
        let mut ended: Vec<_> = self.running.iter().filter_map(of_running).chain(told).collect();
        ended.sort_by_key(|(at, ..)| *at);
        let end = |(at, process, running)| match running {
            Some(running) => (at, DetachedEnd::Held(running)),
            None => (at, DetachedEnd::Told(process)),
        };
        ended.into_iter().map(end).collect()
    }

    /// How many there are that may not be forgotten.
    fn count(&self) -> usize {
        let kept = self.ended.iter().filter(|ended| !ended.may_be_forgotten()).count();
        self.running.len() + self.busy.len() + kept
    }

    /// Takes out the first whose end has been told, if there are too many.
    fn forget_told(&mut self) -> Option<Ended> {
        let told = self.ended.iter().filter(|ended| ended.may_be_forgotten()).count();
        let first = self.ended.iter().position(Ended::may_be_forgotten)?;
        if told > ENDED_KEPT_MAX { self.ended.remove(first) } else { None }
    }

    fn forget(&mut self, process: ProcessId) -> Option<Ended> {
        let at = self.ended.iter().position(|ended| ended.process == process)?;
        self.ended.remove(at)
    }
}

/// Where the end of a detached process is kept.
enum DetachedEnd {
    /// By its thread: nobody has heard of it.
    Held(Arc<Running>),
    /// Among those whose end has been told.
    Told(ProcessId),
}

impl Ended {
    fn may_be_forgotten(&self) -> bool {
        self.is_told && self.detached.is_none()
    }
}

/// Whoever gets a process's output.
struct Follower {
    stream: Arc<Stream>,
    ticket: Arc<Ticket>,
    /// How many bytes of output it has.
    from: u64,
    /// What its credit is for before it is for anything that it is sent.
    owed: usize,
}

impl Follower {
    fn has_credit(&self) -> bool {
        !self.stream.is_over() && self.ticket.has_credit()
    }

    fn say_started(&self, pid: u32, input: u64, (output, missing): (u64, Missing)) -> usize {
        let Missing { bytes, unread } = missing;
        let mut sent = self.say(ProcessReply::Started { pid, input, output });
        if bytes > 0 {
            sent += self.say(ProcessReply::Dropped { bytes, unread });
        }
        sent
    }

    fn say(&self, said: ProcessReply) -> usize {
        self.stream.send(self.ticket.id, reply(said), Vec::new())
    }

    fn finish(&self, answer: Answer) {
        Stream::finish(&self.stream, self.ticket.id, self.ticket.sequence, answer);
    }
}

/// A process as requests see it.
struct Running {
    pid: u32,
    started_on: StreamNumber,
    terminal: Option<OwnedFd>,
    detached: AtomicBool,
    wake: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How it ended, and when.
    status: Option<(ExitStatus, Instant)>,
    /// Who waits for that.
    waiters: Vec<Waiter>,
    input: VecDeque<Input>,
    input_bytes: usize,
    /// How many bytes of input have been accepted since the start.
    input_end: u64,
    /// Input failed, and none is taken any more.
    input_broke: bool,
    /// Behind how many bytes the input was last said to end. A terminal takes more behind that.
    input_over: Option<u64>,
    /// Somebody gets the output.
    followed: bool,
    /// Who is to get the output from now on.
    next_follower: Option<Follower>,
    /// Nobody wants it any more: it is to end.
    unwanted: bool,
    /// The process has been waited for: its number may be another's by now.
    reaped: bool,
    /// Nobody takes input any more.
    deaf: bool,
}

/// A request that is answered when a process has ended. Its stream may be gone by then.
struct Waiter {
    stream: Weak<Stream>,
    id: RequestId,
    sequence: Sequence,
}

/// Bytes for a process, and the request that brought them.
struct Input {
    /// They may wait for longer than it lives.
    stream: Weak<Stream>,
    id: RequestId,
    sequence: Sequence,
    bytes: Vec<u8>,
    written: usize,
    end: bool,
}

impl Input {
    fn finish(self, session: &Session, answer: Answer) {
        match self.stream.upgrade() {
            Some(stream) => Stream::finish(&stream, self.id, self.sequence, answer),
            None => session.keep(self.sequence, &answer),
        }
    }
}

impl Processes {
    fn get(&self, process: ProcessId) -> Result<Arc<Running>, Errno> {
        lock(&self.table).running.get(&process).cloned().ok_or(Errno::SRCH)
    }

    /// Whether there is none, nor one whose end may not have been heard of.
    pub fn are_none(&self) -> bool {
        let table = lock(&self.table);
        table.running.is_empty() && table.busy.is_empty() && table.ended.is_empty()
    }

    /// For how long the session is to be kept for detached processes: `None` if there are none, and otherwise until then;
    /// until one has ended, if there is no such moment.
    pub fn detached_until(&self) -> Option<Option<Instant>> {
        let table = lock(&self.table);
        // One whose end has been seen is only not gone yet.
        let ended_at = |running: &Arc<Running>| {
            let state = lock(&running.state);
            (running.is_detached() && !state.unwanted).then(|| state.status.map(|(_, at)| at))
        };
        let running = table.running.values().filter_map(ended_at);
        let told = table.busy.values().filter_map(|busy| busy.ended?.1);
        let ended = table.ended.iter().filter_map(|ended| ended.detached).chain(told).map(Some);
        let last = running.chain(ended).reduce(|one, other| Some(one?.max(other?)))?;
        Some(last.map(|at| at + DETACHED_END_KEPT))
    }

    /// Whether somebody follows a process that need not wait for a reader.
    pub fn need_no_reader(&self) -> bool {
        let table = lock(&self.table);
        table.running.values().any(|running| running.may_drop() && lock(&running.state).followed)
    }

    /// Ends every process that is not detached. Does not wait for it.
    pub fn end_attached(&self) {
        let mut table = lock(&self.table);
        table.running.values().filter(|running| !running.is_detached()).for_each(|running| running.release());
        let ended = std::mem::take(&mut table.ended);
        let (kept, forgotten) =
            ended.into_iter().partition::<VecDeque<_>, _>(|ended| ended.detached.is_some());
        table.ended = kept;
        drop(table);
        drop(forgotten);
    }

    /// Makes room for the end of one more detached process, and forgets what has been kept for long enough.
    fn forget_detached(&self) {
        let ended = lock(&self.table).detached_ended();
        let too_many = ended.len().saturating_sub(DETACHED_MAX);
        for (index, (at, end)) in ended.into_iter().enumerate() {
            let is_old = at.elapsed() >= DETACHED_END_KEPT;
            match end {
                _ if index >= too_many && !is_old => {}
                DetachedEnd::Held(running) => running.release(),
                DetachedEnd::Told(process) => drop(lock(&self.table).forget(process)),
            }
        }
    }

    /// Ends a process that is not wanted any more, unless it is detached.
    fn release(&self, process: ProcessId) -> Result<(), Errno> {
        let mut table = lock(&self.table);
        if let Some(busy) = table.busy.get_mut(&process) {
            // Its thread is not there yet; or there is none any more, and nothing to end.
            busy.unwanted = true;
            return Ok(());
        }
        if let Some(running) = table.running.get(&process) {
            if !running.is_detached() {
                running.release();
            }
            return Ok(());
        }
        match table.ended.iter().find(|ended| ended.process == process).map(|ended| ended.detached) {
            None => Err(Errno::SRCH),
            Some(None) => {
                table.forget(process);
                Ok(())
            }
            Some(Some(_)) => Ok(()),
        }
    }

    /// Forgets the end of a process, which has been seen.
    fn forget(&self, process: ProcessId) {
        let mut table = lock(&self.table);
        let ended = table.forget(process);
        let running = table.running.get(&process);
        if let Some(running) = running.filter(|running| running.ended_at().is_some()) {
            running.release();
        }
        drop(table);
        drop(ended);
    }

    /// Says who starts a process. One that the request is to start is [busy](Busy) from now on.
    fn claim(&self, process: ProcessId, stream: StreamNumber, detached: bool) -> Result<Claim, Errno> {
        let mut table = lock(&self.table);
        match table.started_on(process) {
            Some(earlier) if earlier < stream => return Ok(Claim::Earlier),
            _ if table.closed => return Err(Errno::CANCELED),
            Some(_) => return Err(Errno::INVAL),
            None if table.count() >= PROCESSES_MAX => return Err(Errno::AGAIN),
            None if detached && table.detached() >= DETACHED_MAX => return Err(Errno::AGAIN),
            None => {}
        }
        table.busy.insert(process, Busy::starting(stream));
        Ok(Claim::Ours)
    }

    /// Forgets a process that could not be started. Gives back who was to follow it.
    fn not_started(&self, process: ProcessId) -> Option<Follower> {
        let mut table = lock(&self.table);
        let busy = table.busy.remove(&process);
        let running = table.running.remove(&process);
        drop(table);
        self.fewer.notify_all();
        let of_running = || running.and_then(|running| lock(&running.state).next_follower.take());
        busy.and_then(|busy| busy.next_follower).or_else(of_running)
    }

    fn remove(&self, process: ProcessId) {
        lock(&self.table).running.remove(&process);
        self.fewer.notify_all();
    }

    /// Enters a process among those that ended, and keeps no more of these than there may be. Gives back who is to hear of
    /// its end next.
    fn keep_ended(&self, ended: Ended) -> Option<Follower> {
        let mut table = lock(&self.table);
        table.running.remove(&ended.process);
        let busy = table.busy.remove(&ended.process);
        table.ended.push_back(ended);
        let forgotten = table.forget_told();
        drop(table);
        drop(forgotten);
        self.fewer.notify_all();
        busy.and_then(|busy| busy.next_follower)
    }

    /// Has every process look again who follows it.
    pub fn stream_has_ended(&self) {
        let running: Vec<_> = lock(&self.table).running.values().cloned().collect();
        running.iter().for_each(|process| process.wake());
    }

    /// Ends every process, and waits for that within limits.
    pub fn end_all(&self) {
        lock(&self.table).closed = true;
        for (signal, grace) in [(libc::SIGHUP, HANG_UP_GRACE), (libc::SIGKILL, KILL_GRACE)] {
            let running: Vec<_> = lock(&self.table).running.values().cloned().collect();
            running.iter().for_each(|process| {
                lock(&process.state).unwanted = true;
                // One that has just ended needs no signal.
                let _ = process.signal(signal);
                process.wake();
            });
            let deadline = Instant::now() + grace;
            let mut table = lock(&self.table);
            while !table.running.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                (table, _) = wait_timeout(&self.fewer, table, left);
            }
        }
    }
}

impl Running {
    fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    /// When it ended, if it has.
    fn ended_at(&self) -> Option<Instant> {
        lock(&self.state).status.map(|(_, at)| at)
    }

    /// Nobody wants it, or its end, any more.
    fn release(&self) {
        lock(&self.state).unwanted = true;
        self.wake();
    }

    /// Whether output may be dropped when nobody reads it.
    fn may_drop(&self) -> bool {
        self.terminal.is_some() || self.is_detached()
    }

    /// Signals the process's group.
    fn signal(&self, signal: i32) -> Result<(), Errno> {
        let state = lock(&self.state);
        let group = i32::try_from(self.pid).map_err(|_| Errno::SRCH)?;
        if state.reaped {
            return Err(Errno::SRCH);
        }
        // SAFETY: the call touches no memory. The number is still the process's: it has not been waited for, which
        // needs the lock that is held here.
        match unsafe { libc::kill(-group, signal) } {
            0 => Ok(()),
            _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }

    /// Wakes the process's thread whenever the client says something of a request.
    fn wake_with(self: &Arc<Running>, ticket: &Ticket) {
        let waking = self.clone();
        ticket.wake_with(Arc::new(move || waking.wake()));
    }

    /// Ends a process whose child's handle is lost, so that no zombie stays.
    fn kill_and_reap(&self) {
        let mut state = lock(&self.state);
        let Some(pid) = Pid::from_raw(self.pid.cast_signed()) else { return };
        // Fails only when it has ended already, and then there is only the reaping left.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        if let Err(errno) = rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            log(format_args!("could not wait for process {}: {errno}", self.pid));
        }
        state.reaped = true;
    }

    fn wake(&self) {
        // The counter is far from its limit: the write cannot fail.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

fn reply(reply: ProcessReply) -> Reply {
    Reply::Process(reply)
}

/// The last reply about a process.
fn ended(status: ExitStatus) -> Answer {
    Ok((reply(ProcessReply::Ended(status)), Vec::new()))
}

fn done() -> Answer {
    Ok((reply(ProcessReply::Done), Vec::new()))
}

impl Session {
    pub(crate) fn process(&self, asked: &Asked<'_>, request: ProcessRequest, payload: Vec<u8>) -> Outcome {
        let result = match request {
            ProcessRequest::Spawn {
                process,
                words,
                environment,
                directory,
                terminal,
                detached,
                window: _,
            } => {
                let words: Vec<_> = words.into_iter().map(|word| word.into_vec()).collect();
                let environment: Vec<_> =
                    environment.into_iter().map(|(k, v)| (k.into_vec(), v.into_vec())).collect();
                let directory = directory.map(|directory| directory.into_vec());
                let command = spawn::Command { words, environment, directory, terminal, detached };
                return match self.processes.claim(process, asked.stream.number(), detached) {
                    Ok(Claim::Ours) => self.spawn(asked, process, command),
                    Ok(Claim::Earlier) => self.follow(asked, process, 0, 0),
                    Err(errno) => errno.into(),
                };
            }
            ProcessRequest::Follow { process, from, window: _, owed } => {
                return self.follow(asked, process, from, owed);
            }
            ProcessRequest::Wait { process } => return self.wait_for_end(asked, process),
            ProcessRequest::Detach { process } => self.detach(process),
            ProcessRequest::Release { process } => self.processes.release(process),
            ProcessRequest::Forget { process } => {
                self.processes.forget(process);
                Ok(())
            }
            ProcessRequest::Input { process, from, end } => {
                return self.input(asked, process, from, payload, end);
            }
            ProcessRequest::Signal { process, signal } => {
                self.processes.get(process).and_then(|running| running.signal(signal.into()))
            }
            ProcessRequest::Resize { process, size } => self.resize(process, size),
        };
        Outcome::Answered(result.map_err(failure).and_then(|()| done()))
    }

    /// Starts a process that the request has [claimed](Processes::claim).
    fn spawn(&self, asked: &Asked<'_>, process: ProcessId, command: spawn::Command) -> Outcome {
        let Err(failure) = self.launch(asked, process, command) else {
            return Outcome::Later;
        };
        if let Some(follower) = self.processes.not_started(process) {
            follower.finish(Err(failure.clone()));
        }
        Outcome::Answered(Err(failure))
    }

    fn launch(&self, asked: &Asked<'_>, process: ProcessId, command: spawn::Command) -> Result<(), Failure> {
        let ticket = asked.ticket.cloned().ok_or_else(|| failure(Errno::INVAL))?;
        let detached = command.detached;
        let (mut child, streams) = spawn::start(command, &self.options, self.umask)?;
        let mover = self.adopt(asked, process, (ticket, detached), &child, streams).map_err(|errno| {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
            failure(errno)
        })?;
        let thread = std::thread::Builder::new().name("process".to_owned());
        let running = mover.running.clone();
        let session = asked.stream.session().clone();
        thread.spawn(move || mover.run(&session, process, child)).map(drop).map_err(|error| {
            log(format_args!("no thread for process {}: {error}", running.pid));
            running.kill_and_reap();
            failure(Errno::AGAIN)
        })
    }

    /// Enters a started process into the session.
    fn adopt(
        &self,
        asked: &Asked<'_>,
        process: ProcessId,
        (ticket, detached): (Arc<Ticket>, bool),
        child: &Child,
        streams: spawn::Streams,
    ) -> Result<Mover, Errno> {
        let pid = child.id();
        let terminal = match &streams.terminal {
            Some(terminal) => Some(rustix::io::fcntl_dupfd_cloexec(terminal, 0)?),
            None => None,
        };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        for end in [&streams.input, &streams.output, &streams.errors].into_iter().flatten() {
            rustix::fs::fcntl_setfl(end, rustix::fs::fcntl_getfl(end)? | OFlags::NONBLOCK)?;
        }
        let started_on = asked.stream.number();
        let detached = AtomicBool::new(detached);
        let running = Running { pid, started_on, terminal, detached, wake, state: Mutex::default() };
        let running = Arc::new(running);
        let exit = rustix::process::Pid::from_raw(pid.cast_signed())
            .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
        let mut table = lock(&self.processes.table);
        if table.closed {
            return Err(Errno::CANCELED);
        }
        if let Some(Busy { unwanted, next_follower, .. }) = table.busy.remove(&process) {
            if let Some(next) = &next_follower {
                running.wake_with(&next.ticket);
            }
            let state = &mut *lock(&running.state);
            (state.next_follower, state.unwanted) = (next_follower, unwanted && !running.is_detached());
            running.wake();
        }
        lock(&running.state).followed = true;
        table.running.insert(process, running.clone());
        drop(table);
        running.wake_with(&ticket);
        let follower = Some(Follower { stream: asked.stream.clone(), ticket, from: 0, owed: 0 });
        let mut mover = Mover {
            running,
            follower,
            streams,
            exit,
            tail: Tail::default(),
            status: None,
            drained: false,
            hung_up: None,
        };
        mover.say_started(Missing::default());
        Ok(mover)
    }

    /// Sends the output of a process that an earlier stream has started.
    fn follow(&self, asked: &Asked<'_>, process: ProcessId, from: u64, owed: u32) -> Outcome {
        let Some(ticket) = asked.ticket.cloned() else {
            return Errno::INVAL.into();
        };
        let owed = owed.min(OUTPUT_KEPT_BYTES_MAX) as usize;
        let follower = Follower { stream: asked.stream.clone(), ticket, from, owed };
        let table = lock(&self.processes.table);
        let Some(running) = table.running.get(&process).cloned() else {
            self.tell_ended(table, process, follower);
            return Outcome::Later;
        };
        running.wake_with(&follower.ticket);
        // With the table locked: a process that has just ended looks for a follower after it has left the table.
        let before = lock(&running.state).next_follower.replace(follower);
        drop(table);
        running.wake();
        if let Some(before) = before {
            before.finish(Err(failure(Errno::INTR)));
        }
        Outcome::Later
    }

    /// Tells how a process ended, to whoever may not have heard of it.
    fn tell_ended(&self, mut table: MutexGuard<'_, Table>, process: ProcessId, follower: Follower) {
        if let Some(busy) = table.busy.get_mut(&process) {
            let before = busy.next_follower.replace(follower);
            drop(table);
            if let Some(before) = before {
                before.finish(Err(failure(Errno::INTR)));
            }
            return;
        }
        let at = table.ended.iter().position(|ended| ended.process == process);
        let Some(mut ended) = at.and_then(|at| table.ended.remove(at)) else {
            drop(table);
            return follower.finish(Err(failure(Errno::SRCH)));
        };
        // It is not in the way of others while it is told, which may have to wait for the stream.
        table.busy.insert(process, Busy::telling(&ended));
        drop(table);
        let answer = ended.tell(&follower);
        ended.is_told |= answer.is_ok() && !follower.stream.is_over();
        let next = self.processes.keep_ended(ended);
        follower.finish(answer);
        if let Some(next) = next {
            self.tell_ended(lock(&self.processes.table), process, next);
        }
    }

    /// Has a process go on without its client.
    fn detach(&self, process: ProcessId) -> Result<(), Errno> {
        let table = lock(&self.processes.table);
        let running = table.running.get(&process).ok_or(Errno::SRCH)?;
        if !running.is_detached() && table.detached() >= DETACHED_MAX {
            return Err(Errno::AGAIN);
        }
        running.detached.store(true, Ordering::Release);
        running.wake();
        Ok(())
    }

    /// Answers when a process has ended.
    fn wait_for_end(&self, asked: &Asked<'_>, process: ProcessId) -> Outcome {
        let table = lock(&self.processes.table);
        let known = table.ended.iter().find(|ended| ended.process == process).map(|ended| ended.status);
        let told = || table.busy.get(&process).and_then(|busy| busy.ended).map(|(status, _)| status);
        let Some(running) = table.running.get(&process) else {
            let status = known.or_else(told).ok_or_else(|| failure(Errno::SRCH));
            return Outcome::Answered(status.and_then(ended));
        };
        let mut state = lock(&running.state);
        if let Some((status, _)) = state.status {
            return Outcome::Answered(ended(status));
        }
        state.waiters.retain(|waiter| waiter.stream.upgrade().is_some_and(|stream| !stream.is_over()));
        if state.waiters.len() >= WAITERS_MAX {
            return Errno::AGAIN.into();
        }
        let (stream, id, sequence) = (Arc::downgrade(asked.stream), asked.id, asked.sequence);
        state.waiters.push(Waiter { stream, id, sequence });
        Outcome::Later
    }

    fn input(&self, asked: &Asked<'_>, process: ProcessId, from: u64, bytes: Vec<u8>, end: bool) -> Outcome {
        let running = match self.processes.get(process) {
            Ok(running) => running,
            Err(errno) => return errno.into(),
        };
        let mut state = lock(&running.state);
        if state.deaf || state.input_broke {
            return Errno::PIPE.into();
        }
        let Some(known) = state.input_end.checked_sub(from) else {
            return Errno::INVAL.into();
        };
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = if known == 0 { bytes } else { bytes[known..].to_vec() };
        if state.input_bytes + bytes.len() > INPUT_QUEUED_BYTES_MAX {
            return Errno::NOBUFS.into();
        }
        state.input_bytes += bytes.len();
        state.input_end += bytes.len() as u64;
        // A terminal would be told of the same end twice.
        let end = end && state.input_over != Some(state.input_end);
        if end {
            state.input_over = Some(state.input_end);
        }
        let (stream, id, sequence) = (Arc::downgrade(asked.stream), asked.id, asked.sequence);
        state.input.push_back(Input { stream, id, sequence, bytes, written: 0, end });
        drop(state);
        running.wake();
        Outcome::Later
    }

    fn resize(&self, process: ProcessId, size: TerminalSize) -> Result<(), Errno> {
        let running = self.processes.get(process)?;
        let terminal = running.terminal.as_ref().ok_or(Errno::NOTTY)?;
        rustix::termios::tcsetwinsize(terminal, winsize(size))
    }
}

fn winsize(size: TerminalSize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Ended {
    /// Sends what the follower does not have. All of it is less than a frame or two: credit is not waited for.
    fn tell(&mut self, follower: &Follower) -> Answer {
        let Some(missing) = self.tail.begin_from(follower.from, self.detached.is_some()) else {
            return Err(failure(Errno::NODATA));
        };
        // It takes no input any more.
        follower.say_started(self.pid, 0, (self.tail.end(), missing));
        while let Some((which, bytes)) = self.tail.unsent(true) {
            let sent = follower.stream.send(follower.ticket.id, reply(ProcessReply::Output(which)), bytes);
            self.tail.note_sent(sent);
        }
        ended(self.status)
    }
}

#[cfg(test)]
mod tests;
