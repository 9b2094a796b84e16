//! Processes of a session.
//!
//! ```text
//!  Spawn ─► started ─► running ─┬─► exited ─► its output sent ─► Ended
//!                               └─ cancel or end of the session: hang up, and after a grace kill ─► exited
//! ```
//!
//! Each process has a thread, which moves bytes between its pipes or terminal and the stream: output only while the
//! client has allowed some, so that a process which writes more than its reader takes is stopped by its full pipe.

mod spawn;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::termios::Winsize;
use rustix::time::Timespec;
use wire::agent::process::{ExitStatus, Output, ProcessId, ProcessReply, ProcessRequest, TerminalSize};
use wire::agent::{Reply, RequestId, Sequence};

use crate::failure::failure;
use crate::log::log;
use crate::replies::Answer;
use crate::session::{Asked, Outcome, Session};
use crate::stream::Stream;
use crate::sync::{lock, wait_timeout};
use crate::ticket::Ticket;

/// The most processes at once; each has a thread and up to five descriptors.
const PROCESSES_MAX: usize = 256;

/// How much input may wait for one process. More is refused: the client is to wait for the answers.
const INPUT_QUEUED_BYTES_MAX: usize = 4 << 20;

/// How much output is read, and sent, at once: what a pipe holds.
const OUTPUT_BYTES: usize = 64 << 10;

/// How long a process that is to end has between the hang-up and the kill.
const HANG_UP_GRACE: Duration = Duration::from_millis(500);

/// How long killed processes have to be gone.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// How often an exit is looked for where the kernel cannot tell of it.
const EXIT_LOOK: Duration = Duration::from_millis(50);

/// What ends the input of a terminal: the end-of-file character.
const END_OF_INPUT: u8 = 4;

#[derive(Default)]
pub(crate) struct Processes {
    table: Mutex<Table>,
    fewer: Condvar,
}

#[derive(Default)]
struct Table {
    running: HashMap<ProcessId, Arc<Running>>,
    /// The session ends: nothing is started any more.
    closed: bool,
}

/// A process as requests see it.
struct Running {
    pid: u32,
    terminal: Option<OwnedFd>,
    wake: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    input: VecDeque<Input>,
    input_bytes: usize,
    /// The process has been waited for: its number may be another's by now.
    reaped: bool,
    /// Nobody takes input any more.
    deaf: bool,
}

/// Bytes for a process, and the request that brought them.
struct Input {
    id: RequestId,
    sequence: Sequence,
    bytes: Vec<u8>,
    written: usize,
    end: bool,
}

impl Processes {
    fn get(&self, process: ProcessId) -> Result<Arc<Running>, Errno> {
        lock(&self.table).running.get(&process).cloned().ok_or(Errno::SRCH)
    }

    fn check(&self, process: ProcessId) -> Result<(), Errno> {
        let table = lock(&self.table);
        match () {
            () if table.closed => Err(Errno::CANCELED),
            () if table.running.contains_key(&process) => Err(Errno::INVAL),
            () if table.running.len() >= PROCESSES_MAX => Err(Errno::AGAIN),
            () => Ok(()),
        }
    }

    fn remove(&self, process: ProcessId) {
        lock(&self.table).running.remove(&process);
        self.fewer.notify_all();
    }

    /// Ends every process, and waits for that within limits.
    pub fn end_all(&self) {
        lock(&self.table).closed = true;
        for (signal, grace) in [(libc::SIGHUP, HANG_UP_GRACE), (libc::SIGKILL, KILL_GRACE)] {
            let running: Vec<_> = lock(&self.table).running.values().cloned().collect();
            // One that has just ended needs no signal.
            running.iter().for_each(|process| {
                let _ = process.signal(signal);
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

fn done() -> Answer {
    Ok((reply(ProcessReply::Done), Vec::new()))
}

impl Session {
    pub(crate) fn process(&self, asked: &Asked<'_>, request: ProcessRequest, payload: Vec<u8>) -> Outcome {
        let result = match request {
            ProcessRequest::Spawn { process, words, environment, directory, terminal, window: _ } => {
                let words: Vec<_> = words.into_iter().map(|word| word.into_vec()).collect();
                let environment: Vec<_> =
                    environment.into_iter().map(|(k, v)| (k.into_vec(), v.into_vec())).collect();
                let directory = directory.map(|directory| directory.into_vec());
                let command = spawn::Command { words, environment, directory, terminal };
                return self.spawn(asked, process, command);
            }
            ProcessRequest::Input { process, end } => return self.input(asked, process, payload, end),
            ProcessRequest::Signal { process, signal } => {
                self.processes.get(process).and_then(|running| running.signal(signal.into()))
            }
            ProcessRequest::Resize { process, size } => self.resize(process, size),
        };
        Outcome::Answered(result.map_err(failure).and_then(|()| done()))
    }

    fn spawn(&self, asked: &Asked<'_>, process: ProcessId, command: spawn::Command) -> Outcome {
        let Some(ticket) = asked.ticket.cloned() else {
            return Errno::INVAL.into();
        };
        if let Err(errno) = self.processes.check(process) {
            return errno.into();
        }
        let (mut child, streams) = match spawn::start(command, &self.options, self.umask) {
            Ok(started) => started,
            Err(failure) => return Outcome::Answered(Err(failure)),
        };
        match self.adopt(asked, process, ticket, &child, streams) {
            Ok(mover) => {
                let (stream, id) = (asked.stream.clone(), asked.id);
                let thread = std::thread::Builder::new().name("process".to_owned());
                let running = mover.running.clone();
                match thread.spawn(move || mover.run(&stream, id, process, child)) {
                    Ok(_) => Outcome::Later,
                    Err(error) => {
                        log(format_args!("no thread for process {}: {error}", running.pid));
                        running.kill_and_reap();
                        self.processes.remove(process);
                        Errno::AGAIN.into()
                    }
                }
            }
            Err(errno) => {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                errno.into()
            }
        }
    }

    /// Enters a started process into the session.
    fn adopt(
        &self,
        asked: &Asked<'_>,
        process: ProcessId,
        ticket: Arc<Ticket>,
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
        let running = Arc::new(Running { pid, terminal, wake, state: Mutex::default() });
        let exit = rustix::process::Pid::from_raw(pid.cast_signed())
            .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
        let mut table = lock(&self.processes.table);
        if table.closed || table.running.contains_key(&process) {
            return Err(Errno::CANCELED);
        }
        table.running.insert(process, running.clone());
        drop(table);
        asked.stream.send(asked.id, reply(ProcessReply::Started { pid }), Vec::new());
        let waking = running.clone();
        ticket.wake_with(Arc::new(move || waking.wake()));
        Ok(Mover { running, ticket, streams, exit, status: None, hung_up: None })
    }

    fn input(&self, asked: &Asked<'_>, process: ProcessId, bytes: Vec<u8>, end: bool) -> Outcome {
        let running = match self.processes.get(process) {
            Ok(running) => running,
            Err(errno) => return errno.into(),
        };
        let mut state = lock(&running.state);
        if state.deaf {
            return Errno::PIPE.into();
        }
        if state.input_bytes + bytes.len() > INPUT_QUEUED_BYTES_MAX {
            return Errno::NOBUFS.into();
        }
        state.input_bytes += bytes.len();
        state.input.push_back(Input { id: asked.id, sequence: asked.sequence, bytes, written: 0, end });
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

/// What a process's thread works with.
struct Mover {
    running: Arc<Running>,
    ticket: Arc<Ticket>,
    streams: spawn::Streams,
    /// Readable when the process has exited; absent on kernels without.
    exit: Option<OwnedFd>,
    status: Option<ExitStatus>,
    /// When the process was told to end.
    hung_up: Option<Instant>,
}

/// What became of reading once.
#[derive(PartialEq, Eq)]
enum Moved {
    Some,
    /// Nothing there right now.
    Nothing,
    /// Nothing comes any more.
    Ended,
}

impl Mover {
    fn run(mut self, stream: &Arc<Stream>, id: RequestId, process: ProcessId, mut child: Child) {
        let mut buffer = vec![0; OUTPUT_BYTES];
        loop {
            self.wait();
            self.end_if_unwanted();
            self.write_input(stream);
            let idle = self.read_outputs(stream, id, &mut buffer);
            if self.status.is_none() {
                self.look_for_exit(&mut child);
            } else if idle {
                break;
            }
        }
        self.refuse_input(stream);
        stream.session().processes.remove(process);
        let status = self.status.unwrap_or(ExitStatus::Signalled(0));
        Stream::finish(
            stream,
            id,
            self.ticket.sequence,
            Ok((reply(ProcessReply::Ended(status)), Vec::new())),
        );
    }

    /// Waits until there is something to do.
    fn wait(&self) {
        let wanted = self.ticket.is_cancelled() || self.ticket.has_credit();
        let outputs = [&self.streams.output, &self.streams.errors];
        let mut polled = vec![PollFd::new(&self.running.wake, PollFlags::IN)];
        // Without credit an output is not even looked at: its end would be seen again and again.
        polled
            .extend(outputs.into_iter().flatten().filter(|_| wanted).map(|o| PollFd::new(o, PollFlags::IN)));
        if let (Some(exit), None) = (&self.exit, self.status) {
            polled.push(PollFd::new(exit, PollFlags::IN));
        }
        if let Some(input) = &self.streams.input
            && !lock(&self.running.state).input.is_empty()
        {
            polled.push(PollFd::new(input, PollFlags::OUT));
        }
        // After the exit, what is left in the pipes is read without waiting, but for credit.
        let nothing_to_read = outputs.iter().all(|output| output.is_none());
        let timeout = match (self.status, &self.exit, self.hung_up) {
            (Some(_), _, _) if wanted || nothing_to_read => Some(Duration::ZERO),
            (Some(_), _, _) => None,
            (None, _, Some(_)) | (None, None, None) => Some(EXIT_LOOK),
            (None, Some(_), None) => None,
        };
        let timeout = timeout.map(|t| Timespec { tv_sec: 0, tv_nsec: t.subsec_nanos().into() });
        // An interrupted wait is a short one.
        let _ = poll(&mut polled, timeout.as_ref());
        let mut counter = [0; 8];
        // Takes a wake-up back; mostly there is none.
        let _ = rustix::io::read(&self.running.wake, &mut counter);
    }

    /// Tells a process that the client does not want any more to end, and kills it if it does not.
    fn end_if_unwanted(&mut self) {
        if !self.ticket.is_cancelled() || self.status.is_some() {
            return;
        }
        let signal = match self.hung_up {
            None => libc::SIGHUP,
            Some(since) if since.elapsed() >= HANG_UP_GRACE => libc::SIGKILL,
            Some(_) => return,
        };
        self.hung_up.get_or_insert_with(Instant::now);
        // It may have ended just now.
        let _ = self.running.signal(signal);
    }

    /// Reads each output once. `true` when there was nothing more to read.
    fn read_outputs(&mut self, stream: &Stream, id: RequestId, buffer: &mut [u8]) -> bool {
        let mut idle = true;
        for which in [Output::Stdout, Output::Stderr] {
            let end = match which {
                Output::Stdout => &mut self.streams.output,
                Output::Stderr => &mut self.streams.errors,
            };
            let Some(file) = end else {
                continue;
            };
            let cancelled = self.ticket.is_cancelled();
            if !cancelled && !self.ticket.has_credit() {
                idle = false;
                continue;
            }
            let (moved, bytes) = read_once(file, buffer);
            if moved == Moved::Ended {
                *end = None;
            }
            idle &= moved != Moved::Some;
            if bytes > 0 && !cancelled {
                let sent = stream.send(id, reply(ProcessReply::Output(which)), buffer[..bytes].to_vec());
                self.ticket.spend(sent);
            }
        }
        idle
    }

    fn write_input(&mut self, stream: &Arc<Stream>) {
        loop {
            let mut state = lock(&self.running.state);
            let Some(next) = state.input.front_mut() else {
                return;
            };
            let result = match &self.streams.input {
                None => Err(Errno::PIPE),
                Some(input) if next.written < next.bytes.len() => {
                    rustix::io::write(input, &next.bytes[next.written..])
                }
                Some(_) => Ok(0),
            };
            match result {
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => continue,
                Ok(bytes) => next.written += bytes,
                Err(_) => {}
            }
            if result.is_ok() && next.written < next.bytes.len() {
                continue;
            }
            let Some(taken) = state.input.pop_front() else {
                return;
            };
            state.input_bytes -= taken.bytes.len();
            drop(state);
            if taken.end || result.is_err() {
                self.end_input();
            }
            let answer = result.map_err(failure).and_then(|_| done());
            Stream::finish(stream, taken.id, taken.sequence, answer);
        }
    }

    fn end_input(&mut self) {
        let Some(input) = self.streams.input.take() else {
            return;
        };
        if self.streams.terminal.is_some() {
            // A full terminal takes no more characters; its process is not reading them either.
            let _ = rustix::io::write(&input, &[END_OF_INPUT]);
            self.streams.input = Some(input);
        }
    }

    fn look_for_exit(&mut self, child: &mut Child) {
        let mut state = lock(&self.running.state);
        self.status = match child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => Some(match (status.code(), status.signal()) {
                (Some(code), _) => ExitStatus::Exited(code as u8),
                (None, signal) => ExitStatus::Signalled(signal.unwrap_or_default() as u8),
            }),
            Err(error) => {
                log(format_args!("could not wait for process {}: {error}", self.running.pid));
                Some(ExitStatus::Signalled(0))
            }
        };
        state.reaped = true;
    }

    fn refuse_input(&self, stream: &Arc<Stream>) {
        let mut state = lock(&self.running.state);
        state.deaf = true;
        let refused = std::mem::take(&mut state.input);
        drop(state);
        for input in refused {
            Stream::finish(stream, input.id, input.sequence, Err(failure(Errno::PIPE)));
        }
    }
}

fn read_once(file: &OwnedFd, buffer: &mut [u8]) -> (Moved, usize) {
    match rustix::io::read(file.as_fd(), &mut *buffer) {
        Ok(0) => (Moved::Ended, 0),
        Ok(bytes) => (Moved::Some, bytes),
        Err(Errno::INTR) => (Moved::Some, 0),
        Err(Errno::AGAIN) => (Moved::Nothing, 0),
        // EIO is a terminal's way to say that nobody has it open any more.
        Err(_) => (Moved::Ended, 0),
    }
}
