//! The daemon's API over its socket: one thread, blocking.
//!
//! A [`Client`] is one connection. Requests may be under way together: [`Client::send`] gives a [`Ticket`], and
//! [`Client::wait`] takes it for the answer. Prompts are put to the terminal whenever something is waited for; other
//! notifications are kept in order for [`Client::next_notification`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;
use wire::api::daemon::Hello;
use wire::api::prompt;
use wire::api::{
    Call, ClientNotification, EncodeError, ErrorKind, ErrorObject, LineDecoder, Method, Request, RequestId,
    ServerMessage, ServerNotification,
};
use wire::paths::Paths;

use crate::error::{Error, Result, reason};
use crate::prompt::{Answer, Prompter};

pub mod start;

#[cfg(test)]
mod tests;

/// How long a daemon may take to say who it is. It answers that from memory: one that takes longer is stuck.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// How much is read from the socket at once: a line of the greatest length takes a few reads.
const READ_BYTES: usize = 256 << 10;

/// The most notifications that are kept while an answer is waited for. Only a daemon that breaks the protocol sends
/// more: it sends none unasked but the output of a process this client started.
const NOTIFICATIONS_MAX: usize = 4096;

/// One connection to the daemon.
pub struct Client {
    stream: UnixStream,
    decoder: LineDecoder,
    buffer: Vec<u8>,
    prompter: Prompter,
    peer: Option<rustix::process::Pid>,
    next_id: u64,
    waiting: HashSet<u64>,
    answers: HashMap<u64, std::result::Result<Value, ErrorObject>>,
    notifications: VecDeque<ServerNotification>,
}

/// A request under way, to be waited for.
#[derive(Debug)]
pub struct Ticket<M> {
    id: u64,
    method: PhantomData<M>,
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
        let peer = rustix::net::sockopt::socket_peercred(&stream)
            .map_err(|errno| Error::io("could not tell whose daemon this is", &errno.into()))?;
        if peer.uid != rustix::process::geteuid() {
            let message =
                format!("the daemon at `{}` belongs to user {}", socket.display(), peer.uid.as_raw());
            return Err(
                Error::new(ErrorKind::Refused, message).hint("set STEAD_HOME to a directory of your own")
            );
        }
        let mut client = Client::over(stream, prompter);
        client.peer = Some(peer.pid);
        Ok(Some(client))
    }

    /// A client over a connected stream.
    pub fn over(stream: UnixStream, prompter: Prompter) -> Client {
        Client {
            stream,
            decoder: LineDecoder::new(),
            buffer: vec![0; READ_BYTES],
            prompter,
            peer: None,
            next_id: 1,
            waiting: HashSet::new(),
            answers: HashMap::new(),
            notifications: VecDeque::new(),
        }
    }

    /// Agrees on a version. Without it the daemon may not understand what it is asked.
    pub fn agree(mut self) -> Result<Client> {
        self.limit_waits(Some(HELLO_DEADLINE))?;
        let welcome = self.call(Hello::ours())?;
        welcome.check()?;
        self.limit_waits(None)?;
        Ok(self)
    }

    /// The daemon's process.
    pub fn peer(&self) -> Option<rustix::process::Pid> {
        self.peer
    }

    /// Bounds how long one read from the daemon may take.
    pub fn limit_waits(&mut self, limit: Option<Duration>) -> Result<()> {
        self.stream
            .set_read_timeout(limit)
            .map_err(|error| Error::io("could not set a limit on the daemon's connection", &error))
    }

    /// Asks and waits.
    pub fn call<M: Method + Into<Call>>(&mut self, params: M) -> Result<M::Reply> {
        let ticket = self.send(params)?;
        self.wait(ticket)
    }

    /// Asks without waiting.
    pub fn send<M: Method + Into<Call>>(&mut self, params: M) -> Result<Ticket<M>> {
        let id = self.next_id;
        self.next_id += 1;
        let line =
            Request { id: RequestId::Number(id), call: params.into() }.to_line().map_err(not_encoded)?;
        self.write(&line)?;
        self.waiting.insert(id);
        Ok(Ticket { id, method: PhantomData })
    }

    /// Waits for the answer.
    pub fn wait<M: Method>(&mut self, ticket: Ticket<M>) -> Result<M::Reply> {
        loop {
            if let Some(outcome) = self.answers.remove(&ticket.id) {
                let value = outcome.map_err(Error::from)?;
                return serde_json::from_value(value).map_err(|error| {
                    let message = format!("the daemon's answer to {} is not one: {error}", M::NAME);
                    Error::new(ErrorKind::Failure, message).hint("stead daemon restart")
                });
            }
            self.receive()?;
        }
    }

    /// Says something that is not answered.
    pub fn notify(&mut self, notification: impl Into<ClientNotification>) -> Result<()> {
        let line = notification.into().to_line().map_err(not_encoded)?;
        self.write(&line)
    }

    /// The next notification, waited for.
    pub fn next_notification(&mut self) -> Result<ServerNotification> {
        loop {
            if let Some(notification) = self.take_notification()? {
                return Ok(notification);
            }
            self.receive()?;
        }
    }

    /// The next notification that has already arrived. Without one, a poll of the connection tells when to call
    /// [`read_ready`](Self::read_ready).
    pub fn take_notification(&mut self) -> Result<Option<ServerNotification>> {
        loop {
            if let Some(notification) = self.notifications.pop_front() {
                return Ok(Some(notification));
            }
            if !self.take_line()? {
                return Ok(None);
            }
        }
    }

    /// Reads once from the connection, which a poll has found readable.
    pub fn read_ready(&mut self) -> Result<()> {
        self.fill()
    }

    /// Takes in one message, read first if need be.
    fn receive(&mut self) -> Result<()> {
        while !self.take_line()? {
            self.fill()?;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        let count = loop {
            match self.stream.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        match count {
            Ok(0) => Err(gone("it closed the connection")),
            Ok(count) => {
                self.decoder.push(&self.buffer[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(Error::new(ErrorKind::TimedOut, "the daemon does not answer")
                    .hint("stead daemon restart"))
            }
            Err(error) => Err(gone(&reason(&error))),
        }
    }

    /// Takes in one message that has been read. False when there is none.
    fn take_line(&mut self) -> Result<bool> {
        let line = self.decoder.next_line().map_err(|error| not_understood(&error.to_string()))?;
        let Some(line) = line else {
            return Ok(false);
        };
        let message = ServerMessage::decode(line).map_err(|error| not_understood(&error.to_string()))?;
        match message {
            ServerMessage::Unknown { .. } => {}
            ServerMessage::Notification(ServerNotification::PromptAsk(question)) => self.ask(&question)?,
            ServerMessage::Notification(notification) => {
                if self.notifications.len() >= NOTIFICATIONS_MAX {
                    return Err(not_understood("it says more than anybody asked for"));
                }
                self.notifications.push_back(notification);
            }
            ServerMessage::Response(response) => match response.id {
                Some(RequestId::Number(id)) if self.waiting.remove(&id) => {
                    self.answers.insert(id, response.outcome);
                }
                // An answer to nothing: only an error says why the daemon could not even read the question.
                _ => {
                    if let Err(error) = response.outcome {
                        return Err(error.into());
                    }
                }
            },
        }
        Ok(true)
    }

    fn ask(&mut self, question: &prompt::Ask) -> Result<()> {
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

    fn write(&mut self, line: &[u8]) -> Result<()> {
        self.stream.write_all(line).map_err(|error| gone(&reason(&error)))
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn gone(why: &str) -> Error {
    Error::new(ErrorKind::Failure, format!("the daemon went away: {why}")).hint("stead daemon logs")
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
