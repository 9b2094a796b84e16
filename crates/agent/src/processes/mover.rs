//! The thread of a process, which moves bytes between its pipes or terminal and whoever follows it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;
use wire::agent::process::{ExitStatus, Output, ProcessId, ProcessReply, SCROLLBACK_BYTES_MAX};

use super::tail::{Missing, Tail};
use super::{DETACHED_END_KEPT, Ended, Follower, HANG_UP_GRACE, Running, Waiter, done, ended, reply, spawn};
use crate::failure::failure;
use crate::log::log;
use crate::session::Session;
use crate::stream::Stream;
use crate::sync::lock;

/// How much output is read, and sent, at once: what a pipe holds.
const OUTPUT_BYTES: usize = 64 << 10;

/// How often an exit is looked for where the kernel cannot tell of it.
const EXIT_LOOK: Duration = Duration::from_millis(50);

/// What ends the input of a terminal: the end-of-file character.
const END_OF_INPUT: u8 = 4;

/// What a process's thread works with.
pub(super) struct Mover {
    pub running: Arc<Running>,
    /// Absent while the session is detached.
    pub follower: Option<Follower>,
    pub tail: Tail,
    pub streams: spawn::Streams,
    /// Readable when the process has exited; absent on kernels without.
    pub exit: Option<OwnedFd>,
    pub status: Option<ExitStatus>,
    /// It has ended, and all that was left in its pipes or its terminal has been read.
    pub drained: bool,
    /// When the process was told to end.
    pub hung_up: Option<Instant>,
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
    pub fn run(mut self, session: &Session, process: ProcessId, mut child: Child) {
        let mut buffer = vec![0; OUTPUT_BYTES];
        loop {
            self.wait();
            self.change_follower();
            self.end_if_unwanted();
            self.write_input(session);
            self.send_tail();
            let idle = self.drained || self.read_outputs(&mut buffer);
            if self.status.is_none() {
                self.look_for_exit(&mut child, session);
            } else if idle {
                self.drain(session);
                if self.is_over() {
                    break;
                }
            }
        }
        self.refuse_input(session);
        let status = self.status.unwrap_or(ExitStatus::Signalled(0));
        let is_kept = self.follower.as_ref().is_none_or(|follower| follower.stream.is_kept());
        let detached = self.running.ended_at().filter(|_| self.running.is_detached());
        let is_forgotten = self.follower.is_none() && (detached.is_some() || self.is_unwanted());
        if !is_kept || is_forgotten {
            session.processes.remove(process);
        } else {
            let (pid, started_on) = (self.running.pid, self.running.started_on);
            let tail = std::mem::take(&mut self.tail);
            let is_told = self.follower.as_ref().is_some_and(|follower| !follower.stream.is_over());
            let ended = Ended { process, pid, started_on, tail, status, is_told, detached };
            session.processes.keep_ended(ended);
            if detached.is_some() {
                session.processes.forget_detached();
            }
        }
        // One that came just now is answered from what is kept.
        let late = lock(&self.running.state).next_follower.take();
        if let Some(follower) = self.follower {
            follower.finish(ended(status));
        }
        if let Some(follower) = late {
            session.tell_ended(lock(&session.processes.table), process, follower);
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) {
        let wanted = !self.drained && self.takes_output();
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
        let nothing_to_read = outputs.iter().all(|output| output.is_none()) && !self.drained;
        let timeout = match (self.status, &self.exit, self.hung_up) {
            (Some(_), _, _) if wanted || nothing_to_read => Some(Duration::ZERO),
            (None, _, Some(_)) | (None, None, None) => Some(EXIT_LOOK),
            (Some(_), _, _) => self.kept_for(),
            (None, Some(_), None) => None,
        };
        let timeout =
            timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: t.subsec_nanos().into() });
        // An interrupted wait is a short one.
        let _ = poll(&mut polled, timeout.as_ref());
        let mut counter = [0; 8];
        // Takes a wake-up back; mostly there is none.
        let _ = rustix::io::read(&self.running.wake, &mut counter);
    }

    /// Whether output is to be read: for a follower who has allowed some, to be kept, or to be thrown away.
    fn takes_output(&self) -> bool {
        if self.is_unwanted() {
            return true;
        }
        match &self.follower {
            Some(follower) if follower.has_credit() => true,
            // The stream may be dead, and nobody knows it yet.
            Some(follower) => follower.stream.is_kept() && self.tail.unsent_bytes() < SCROLLBACK_BYTES_MAX,
            None => self.running.may_drop() || self.tail.bytes() < SCROLLBACK_BYTES_MAX,
        }
    }

    /// Takes note that there is nothing more to read.
    fn drain(&mut self, session: &Session) {
        if !std::mem::replace(&mut self.drained, true) {
            (self.streams.output, self.streams.errors) = (None, None);
            self.refuse_input(session);
            if self.running.is_detached() {
                session.processes.forget_detached();
            }
        }
    }

    /// Whether a process that has ended has nothing more to tell to anybody.
    fn is_over(&self) -> bool {
        if self.is_unwanted() {
            return true;
        }
        match &self.follower {
            Some(_) => self.tail.is_sent(),
            None => self.kept_for().is_some_and(|left| left.is_zero()),
        }
    }

    /// For how much longer the end of a detached process is kept; for any time, while somebody follows it.
    fn kept_for(&self) -> Option<Duration> {
        let ended = self.running.ended_at();
        let left = || ended.map_or(DETACHED_END_KEPT, |at| DETACHED_END_KEPT.saturating_sub(at.elapsed()));
        (self.running.is_detached() && self.follower.is_none()).then(left)
    }

    fn is_unwanted(&self) -> bool {
        lock(&self.running.state).unwanted
    }

    /// Lets go of a follower whose stream is over, and takes a new one in.
    fn change_follower(&mut self) {
        let mut state = lock(&self.running.state);
        let is_detached = self.running.is_detached();
        state.unwanted |=
            self.follower.as_ref().is_some_and(|follower| follower.ticket.is_cancelled()) && !is_detached;
        let leaves = |follower: &mut Follower| is_detached && follower.ticket.is_cancelled();
        if let Some(follower) = self.follower.take_if(leaves) {
            state.followed = false;
            follower.finish(Err(failure(Errno::INTR)));
        }
        // In a session that ends with its stream, there is no other follower.
        let is_lost = |follower: &mut Follower| follower.stream.is_over() && follower.stream.is_kept();
        if let Some(follower) = self.follower.take_if(is_lost) {
            state.followed = false;
            follower.stream.close_ticket(follower.ticket.id);
        }
        let Some(next) = state.next_follower.take() else { return };
        state.followed = true;
        drop(state);
        let Some(missing) = self.tail.begin_from(next.from, self.running.may_drop()) else {
            lock(&self.running.state).followed = self.follower.is_some();
            return next.finish(Err(failure(Errno::NODATA)));
        };
        self.tail.note_other(next.owed);
        if let Some(before) = self.follower.replace(next) {
            before.finish(Err(failure(Errno::INTR)));
        }
        self.say_started(missing);
    }

    pub fn say_started(&mut self, missing: Missing) {
        let Some(follower) = &self.follower else { return };
        let input = lock(&self.running.state).input_end;
        let sent = follower.say_started(self.running.pid, input, (self.tail.end(), missing));
        self.tail.note_other(sent);
    }

    /// Tells a process that the client does not want any more to end, and kills it if it does not.
    fn end_if_unwanted(&mut self) {
        if !self.is_unwanted() || self.status.is_some() {
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

    /// Sends what has been read, while there is credit, and forgets what has been taken.
    fn send_tail(&mut self) {
        let Some(follower) = &self.follower else {
            if self.running.may_drop() {
                self.tail.trim(SCROLLBACK_BYTES_MAX);
            }
            return;
        };
        let kept_bytes = if self.running.is_detached() { SCROLLBACK_BYTES_MAX } else { 0 };
        self.tail.forget_taken(follower.ticket.allowed(), kept_bytes);
        while follower.has_credit()
            && let Some((which, bytes)) = self.tail.unsent(follower.stream.is_kept())
        {
            let sent = follower.stream.send(follower.ticket.id, reply(ProcessReply::Output(which)), bytes);
            follower.ticket.spend(sent);
            self.tail.note_sent(sent);
        }
    }

    /// Reads each output once. `true` when there was nothing more to read.
    fn read_outputs(&mut self, buffer: &mut [u8]) -> bool {
        let mut idle = true;
        for which in [Output::Stdout, Output::Stderr] {
            let end = match which {
                Output::Stdout => &self.streams.output,
                Output::Stderr => &self.streams.errors,
            };
            let Some(file) = end else {
                continue;
            };
            if !self.takes_output() {
                idle = false;
                continue;
            }
            let (moved, bytes) = read_once(file, buffer);
            if moved == Moved::Ended {
                match which {
                    Output::Stdout => self.streams.output = None,
                    Output::Stderr => self.streams.errors = None,
                }
            }
            idle &= moved != Moved::Some;
            if bytes > 0 && !self.is_unwanted() {
                self.tail.push(which, &buffer[..bytes]);
                self.send_tail();
            }
        }
        idle
    }

    fn write_input(&mut self, session: &Session) {
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
            if result.is_err() {
                lock(&self.running.state).input_broke = self.streams.input.is_none();
            }
            let answer = result.map_err(failure).and_then(|_| done());
            taken.finish(session, answer);
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

    fn look_for_exit(&mut self, child: &mut Child, session: &Session) {
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
        let Some(status) = self.status else { return };
        state.status = Some((status, Instant::now()));
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        for Waiter { stream, id, sequence } in waiters {
            if let Some(stream) = stream.upgrade() {
                Stream::finish(&stream, id, sequence, ended(status));
            }
        }
        session.processes.fewer.notify_all();
    }

    fn refuse_input(&self, session: &Session) {
        let mut state = lock(&self.running.state);
        state.deaf = true;
        let refused = std::mem::take(&mut state.input);
        drop(state);
        for input in refused {
            input.finish(session, Err(failure(Errno::PIPE)));
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
