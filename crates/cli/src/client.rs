//! The daemon's API over its socket, blocking.
//!
//! A [`Client`] is one connection, which any number of threads may use. Requests may be under way together:
//! [`Client::send`] gives a [`Ticket`], and [`Client::wait`] takes it for the answer. Of the threads that wait, one
//! reads, for all of them, unless a thread does nothing else ([`Client::reader`]). It also puts prompts to the
//! terminal; other notifications are kept in order for [`Client::take_notification`].

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;
use wire::api::daemon::Hello;
use wire::api::file::{Close, Progress};
use wire::api::id::HandleId;
use wire::api::prompt;
use wire::api::{
    Call, ClientNotification, EncodeError, ErrorKind, ErrorObject, LineDecoder, Method, Request, RequestId,
    Response, ServerMessage, ServerNotification,
};
use wire::paths::Paths;

use crate::error::{Error, Result, reason};
use crate::prompt::{Answer, Prompter};

pub mod news;
pub mod start;

#[cfg(test)]
mod tests;

/// How long a daemon may take to say who it is. It answers that from memory: one that takes longer is stuck.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// How much is read from the socket at once: a line of the greatest length takes a few reads.
const READ_BYTES: usize = 256 << 10;

/// The most notifications that are kept while an answer is waited for. Only a daemon that breaks the protocol sends
/// more: it sends none unasked but the output of a process this client started and the events it subscribed to.
const NOTIFICATIONS_MAX: usize = 4096;

/// One connection to the daemon.
pub struct Client {
    stream: UnixStream,
    prompter: Prompter,
    peer: Option<rustix::process::Pid>,
    /// The daemon has closed its end.
    is_gone: AtomicBool,
    /// Held while one line is written.
    writing: Mutex<()>,
    /// Held while something is read; taken before `state`.
    input: Mutex<Input>,
    state: Mutex<State>,
}

struct Input {
    decoder: LineDecoder,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    /// Requests without an answer, and who sleeps until there is one.
    waiting: HashMap<u64, Option<Thread>>,
    answers: HashMap<u64, std::result::Result<Value, ErrorObject>>,
    notifications: VecDeque<ServerNotification>,
    is_read: bool,
    /// Why nothing more will arrive.
    ended: Option<Error>,
}

impl State {
    /// Nothing more will arrive: whoever waits is told.
    fn end(&mut self, error: Error) {
        self.ended = Some(error);
        self.waiting.drain().filter_map(|(_, sleeper)| sleeper).for_each(|sleeper| sleeper.unpark());
    }

    /// Wakes somebody who waits, to read for the others.
    fn wake_a_reader(&self) {
        if let Some(sleeper) = self.waiting.values().flatten().next() {
            sleeper.unpark();
        }
    }
}

/// A request under way, to be waited for.
#[derive(Debug)]
pub struct Ticket<M> {
    id: u64,
    method: PhantomData<M>,
}

/// The duty to read for all who wait.
#[must_use = "those who wait are answered by nobody else"]
pub struct Reader<'a> {
    client: &'a Client,
}

impl Reader<'_> {
    /// Reads until the connection has ended.
    pub fn run(self) {
        loop {
            if let Err(error) = self.client.receive() {
                let mut state = lock(&self.client.state);
                state.is_read = false;
                return state.end(error);
            }
        }
    }
}

impl Client {
    /// Connects, if anybody listens. The other side must be this user's: another one could read what is typed at a
    /// prompt.
    pub fn connect(paths: &Paths, prompter: Prompter) -> Result<Option<Client>> {
        let socket = paths.socket();
        let stream = match UnixStream::connect(&socket) {
            Ok(stream) => stream,
            Err(error) if is_nobody(&error) => return Ok(None),
            Err(error) => {
                return Err(Error::io(
                    format_args!("could not connect to the daemon at `{}`", socket.display()),
                    &error,
                ));
            }
        };
        let peer = crate::system::peer(&stream)
            .map_err(|error| Error::io("could not tell whose daemon this is", &error))?;
        if peer.uid != rustix::process::geteuid().as_raw() {
            let message = format!("the daemon at `{}` belongs to user {}", socket.display(), peer.uid);
            return Err(
                Error::new(ErrorKind::Refused, message).hint("set STEAD_HOME to a directory of your own")
            );
        }
        let mut client = Client::over(stream, prompter);
        client.peer = peer.pid;
        Ok(Some(client))
    }

    /// A client over a connected stream.
    pub fn over(stream: UnixStream, prompter: Prompter) -> Client {
        Client {
            stream,
            prompter,
            peer: None,
            is_gone: AtomicBool::new(false),
            writing: Mutex::new(()),
            input: Mutex::new(Input { decoder: LineDecoder::new(), buffer: vec![0; READ_BYTES] }),
            state: Mutex::default(),
        }
    }

    /// Agrees on a version. Without it the daemon may not understand what it is asked. None if it has ended without a
    /// word: it was about to when it was connected to, and has done nothing.
    pub fn agree(self) -> Result<Option<Client>> {
        self.limit_waits(Some(HELLO_DEADLINE))?;
        let welcome = match self.call(Hello::ours()) {
            Err(_) if self.is_gone.load(Ordering::Relaxed) => return Ok(None),
            welcome => welcome?,
        };
        welcome.check()?;
        self.limit_waits(None)?;
        Ok(Some(self))
    }

    /// The daemon's process.
    pub fn peer(&self) -> Option<rustix::process::Pid> {
        self.peer
    }

    fn limit_waits(&self, limit: Option<Duration>) -> Result<()> {
        self.stream
            .set_read_timeout(limit)
            .map_err(|error| Error::io("could not set a limit on the daemon's connection", &error))
    }

    /// Asks and waits.
    pub fn call<M: Method + Into<Call>>(&self, params: M) -> Result<M::Reply> {
        let ticket = self.send(params)?;
        self.wait(ticket)
    }

    /// Asks with `next` for page after page of what a handle stands for, as long as `take` says that there is more. Then
    /// gives the handle back.
    pub fn pages<M: Method + Into<Call>>(
        &self,
        handle: HandleId,
        next: impl Fn(HandleId) -> M,
        mut take: impl FnMut(M::Reply) -> Result<Progress>,
    ) -> Result<()> {
        while take(self.call(next(handle))?)? == Progress::More {}
        self.call(Close { handle }).map(drop)
    }

    /// Asks without waiting.
    pub fn send<M: Method + Into<Call>>(&self, params: M) -> Result<Ticket<M>> {
        let id = {
            let mut state = lock(&self.state);
            state.last_id += 1;
            let id = state.last_id;
            state.waiting.insert(id, None);
            id
        };
        let line = Request { id: RequestId::Number(id), call: params.into() }.to_line();
        let sent = line.map_err(not_encoded).and_then(|line| self.write(&line));
        if sent.is_err() {
            lock(&self.state).waiting.remove(&id);
        }
        sent.map(|()| Ticket { id, method: PhantomData })
    }

    /// Waits for the answer.
    pub fn wait<M: Method>(&self, ticket: Ticket<M>) -> Result<M::Reply> {
        let mut state = lock(&self.state);
        let outcome = loop {
            if let Some(outcome) = state.answers.remove(&ticket.id) {
                break outcome;
            }
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            if state.is_read {
                state.waiting.insert(ticket.id, Some(std::thread::current()));
                drop(state);
                // May end early; what it waits for is looked at again.
                std::thread::park();
                state = lock(&self.state);
                continue;
            }
            state.is_read = true;
            drop(state);
            let read = self.receive();
            state = lock(&self.state);
            state.is_read = false;
            if let Err(error) = read {
                state.end(error);
            }
        };
        if !state.is_read {
            state.wake_a_reader();
        }
        drop(state);
        let value = outcome.map_err(Error::from)?;
        serde_json::from_value(value).map_err(|error| {
            let message = format!("the daemon's answer to {} is not one: {error}", M::NAME);
            Error::new(ErrorKind::Failure, message).hint("stead daemon restart")
        })
    }

    /// Whether waiting for the answer would be over at once.
    pub fn has_answer<M>(&self, ticket: &Ticket<M>) -> bool {
        let state = lock(&self.state);
        state.answers.contains_key(&ticket.id) || state.ended.is_some()
    }

    /// Waits for the answer of the only request that is under way, and tells what is said unasked meanwhile.
    pub fn wait_noting<M: Method>(
        &self,
        ticket: Ticket<M>,
        mut note: impl FnMut(ServerNotification),
    ) -> Result<M::Reply> {
        loop {
            while let Some(notification) = self.take_notification()? {
                note(notification);
            }
            if self.has_answer(&ticket) {
                return self.wait(ticket);
            }
            self.receive()?;
        }
    }

    /// Waits for the answer, and does something whenever that takes another `interval`. No other thread may wait.
    pub fn wait_doing<M: Method>(
        &self,
        ticket: Ticket<M>,
        interval: Duration,
        mut each: impl FnMut(&Client),
    ) -> Result<M::Reply> {
        let timeout = rustix::time::Timespec {
            tv_sec: interval.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: interval.subsec_nanos().into(),
        };
        loop {
            // What was read is taken in with it, answers too.
            while self.take_notification()?.is_some() {}
            if self.has_answer(&ticket) {
                return self.wait(ticket);
            }
            match poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => each(self),
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) => self.read_ready()?,
                Err(errno) => return Err(Error::io("could not wait for the daemon", &errno.into())),
            }
        }
    }

    /// Takes the reading over from those who wait, for a thread that does nothing else. Nobody may be waiting yet.
    ///
    /// A thread that writes does not read; and the daemon takes no more requests from a client that does not read its
    /// answers. So where several threads write much, one has to read all the time.
    pub fn reader(&self) -> Reader<'_> {
        lock(&self.state).is_read = true;
        Reader { client: self }
    }

    /// Ends the connection, and with it all that waits for an answer.
    pub fn hang_up(&self) {
        // One that has ended already is as good.
        let _ended = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Says something that is not answered.
    pub fn notify(&self, notification: impl Into<ClientNotification>) -> Result<()> {
        let line = notification.into().to_line().map_err(not_encoded)?;
        self.write(&line)
    }

    /// The next notification that has already been read. Without one, a poll of the connection tells when to call
    /// [`read_ready`](Self::read_ready).
    pub fn take_notification(&self) -> Result<Option<ServerNotification>> {
        let mut input = lock(&self.input);
        loop {
            if let Some(notification) = lock(&self.state).notifications.pop_front() {
                return Ok(Some(notification));
            }
            if !self.take_line(&mut input)? {
                return Ok(None);
            }
        }
    }

    /// Reads once from the connection, which a poll has found readable.
    pub fn read_ready(&self) -> Result<()> {
        self.fill(&mut lock(&self.input))
    }

    /// Takes in one message, read first if need be.
    fn receive(&self) -> Result<()> {
        let mut input = lock(&self.input);
        while !self.take_line(&mut input)? {
            self.fill(&mut input)?;
        }
        Ok(())
    }

    fn fill(&self, input: &mut Input) -> Result<()> {
        let count = loop {
            match (&self.stream).read(&mut input.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        match count {
            Ok(0) => Err(self.gone("it closed the connection")),
            Ok(count) => {
                input.decoder.push(&input.buffer[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(Error::new(ErrorKind::TimedOut, "the daemon does not answer")
                    .hint("stead daemon restart"))
            }
            Err(error) => Err(self.gone(&reason(&error))),
        }
    }

    /// Takes in one message that has been read. False when there is none.
    fn take_line(&self, input: &mut Input) -> Result<bool> {
        let line = input.decoder.next_line().map_err(|error| not_understood(&error.to_string()))?;
        let Some(line) = line else {
            return Ok(false);
        };
        let message = ServerMessage::decode(line).map_err(|error| not_understood(&error.to_string()))?;
        match message {
            ServerMessage::Unknown { .. } => {}
            ServerMessage::Notification(ServerNotification::PromptAsk(question)) => self.ask(&question)?,
            ServerMessage::Notification(notification) => {
                let mut state = lock(&self.state);
                if state.notifications.len() >= NOTIFICATIONS_MAX {
                    return Err(not_understood("it says more than anybody asked for"));
                }
                state.notifications.push_back(notification);
            }
            ServerMessage::Response(Response { id, outcome }) => {
                let mut state = lock(&self.state);
                match id {
                    Some(RequestId::Number(id)) if state.waiting.contains_key(&id) => {
                        state.answers.insert(id, outcome);
                        if let Some(sleeper) = state.waiting.remove(&id).flatten() {
                            sleeper.unpark();
                        }
                    }
                    // An answer to nothing: only an error says why the daemon could not even read the question.
                    _ => drop(outcome.map_err(Error::from)?),
                }
            }
        }
        Ok(true)
    }

    fn ask(&self, question: &prompt::Ask) -> Result<()> {
        let answer = self.prompter.ask(question);
        let interrupted = matches!(answer, Answer::Interrupted);
        let answer = match answer {
            Answer::Given(secret) => Some(secret),
            Answer::Declined | Answer::Interrupted => None,
        };
        self.notify(prompt::Answer { prompt: question.prompt, answer })?;
        match interrupted {
            true => Err(Error::new(ErrorKind::Interrupted, "interrupted at a prompt")),
            false => Ok(()),
        }
    }

    fn write(&self, line: &[u8]) -> Result<()> {
        let _one_line = lock(&self.writing);
        (&self.stream).write_all(line).map_err(|error| self.gone(&reason(&error)))
    }

    fn gone(&self, why: &str) -> Error {
        self.is_gone.store(true, Ordering::Relaxed);
        Error::new(ErrorKind::Failure, format!("the daemon went away: {why}")).hint("stead daemon logs")
    }
}

/// A panic of another thread has left nothing half done: what is guarded is changed in single steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn not_understood(why: &str) -> Error {
    Error::new(ErrorKind::Failure, format!("the daemon cannot be understood: {why}"))
        .hint("stead daemon restart")
}

fn not_encoded(error: EncodeError) -> Error {
    match error {
        EncodeError::TooLong { .. } => Error::usage(error),
        EncodeError::Json { .. } => Error::new(ErrorKind::Failure, error.to_string()),
    }
}
