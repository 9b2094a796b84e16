//! The daemon's API over its socket, for one thread at a time.
//!
//! Several requests may be sent before the first answer is waited for. A connection on which anything went wrong is not used again:
//! the next call opens another one, and what had been opened on the old one is closed with it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use wire::api::daemon::Hello;
use wire::api::{
    Call, ErrorKind, ErrorObject, LineDecoder, Method, Request, RequestId, Response, ServerMessage,
};

/// How long an answer may take. The daemon has deadlines of its own for a machine that does not answer, and says so; this is for a
/// daemon that does not.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

/// How much is read from the socket at once.
const READ_BYTES: usize = 64 << 10;

/// The most answers that are kept because another one was waited for: as many as requests may be under way.
const ANSWERS_MAX: usize = 64;

/// Speaks with the daemon.
pub struct Client {
    socket: PathBuf,
    deadline: Option<Duration>,
    connection: Option<Connection>,
    last_id: u64,
    /// How many connections there were: a handle of an earlier one is of no use.
    generation: u64,
}

struct Connection {
    stream: UnixStream,
    decoder: LineDecoder,
    answers: HashMap<u64, Result<Value, ErrorObject>>,
}

/// A request under way.
#[must_use = "an answer that nobody takes is kept"]
pub struct Ticket<M> {
    id: u64,
    generation: u64,
    method: std::marker::PhantomData<M>,
}

impl Client {
    /// Of the daemon with this socket. Nothing is opened yet.
    pub fn new(socket: &Path) -> Client {
        Client {
            socket: socket.to_owned(),
            deadline: Some(ANSWER_DEADLINE),
            connection: None,
            last_id: 0,
            generation: 0,
        }
    }

    /// One that waits as long as it takes, as for a change to happen.
    pub fn patient(socket: &Path) -> Client {
        Client { deadline: None, ..Client::new(socket) }
    }

    /// Something with which another thread ends all waiting, if there is a connection.
    pub fn hangup(&self) -> Option<UnixStream> {
        self.connection.as_ref().and_then(|connection| connection.stream.try_clone().ok())
    }

    /// Asks and waits.
    pub fn call<M: Method + Into<Call>>(&mut self, params: M) -> Result<M::Reply, ErrorObject> {
        let ticket = self.send(params)?;
        self.wait(ticket)
    }

    /// Asks.
    pub fn send<M: Method + Into<Call>>(&mut self, params: M) -> Result<Ticket<M>, ErrorObject> {
        self.connect()?;
        let id = self.post(params.into())?;
        Ok(Ticket { id, generation: self.generation, method: std::marker::PhantomData })
    }

    /// Waits.
    pub fn wait<M: Method>(&mut self, ticket: Ticket<M>) -> Result<M::Reply, ErrorObject> {
        if ticket.generation != self.generation || self.connection.is_none() {
            return Err(gone("the connection to the daemon was lost"));
        }
        let value = self.answer(ticket.id)?;
        serde_json::from_value(value).map_err(|error| {
            ErrorObject::new(ErrorKind::Failure, format!("no answer to {}: {error}", M::NAME))
        })
    }

    fn connect(&mut self) -> Result<(), ErrorObject> {
        if self.connection.is_some() {
            return Ok(());
        }
        let cannot =
            |error: std::io::Error| gone(&format!("no daemon at `{}`: {error}", self.socket.display()));
        let stream = UnixStream::connect(&self.socket).map_err(cannot)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).map_err(cannot)?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE)).map_err(cannot)?;
        self.connection = Some(Connection { stream, decoder: LineDecoder::new(), answers: HashMap::new() });
        self.generation += 1;
        let id = self.post(Hello::ours().into())?;
        let welcome = self.answer(id)?;
        let welcome: wire::api::daemon::Welcome =
            serde_json::from_value(welcome).map_err(|error| gone(&format!("no daemon answers: {error}")))?;
        welcome.check()?;
        if let Some(connection) = &self.connection {
            connection.stream.set_read_timeout(self.deadline).map_err(|error| gone(&error.to_string()))?;
        }
        Ok(())
    }

    fn post(&mut self, call: Call) -> Result<u64, ErrorObject> {
        self.last_id += 1;
        let line = Request { id: RequestId::Number(self.last_id), call }
            .to_line()
            .map_err(|error| ErrorObject::new(ErrorKind::Failure, error.to_string()))?;
        let Some(connection) = &mut self.connection else { return Err(gone("no connection")) };
        if let Err(error) = connection.stream.write_all(&line) {
            self.connection = None;
            return Err(gone(&error.to_string()));
        }
        Ok(self.last_id)
    }

    /// The answer to a request. After an error of the connection there is none.
    fn answer(&mut self, id: u64) -> Result<Value, ErrorObject> {
        let Some(connection) = &mut self.connection else { return Err(gone("no connection")) };
        loop {
            if let Some(answer) = connection.answers.remove(&id) {
                return answer;
            }
            if let Err(error) = connection.receive() {
                self.connection = None;
                return Err(error);
            }
        }
    }
}

impl Connection {
    /// Takes in one message.
    fn receive(&mut self) -> Result<(), ErrorObject> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let line = self.decoder.next_line().map_err(|error| gone(&error.to_string()))?;
            if let Some(line) = line {
                let message = ServerMessage::decode(line).map_err(|error| gone(&error.to_string()))?;
                return self.take(message);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(gone("the daemon has closed the connection")),
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(gone(&error.to_string())),
            }
        }
    }

    fn take(&mut self, message: ServerMessage) -> Result<(), ErrorObject> {
        match message {
            ServerMessage::Response(Response { id: Some(RequestId::Number(id)), outcome }) => {
                if self.answers.len() >= ANSWERS_MAX {
                    return Err(gone("the daemon says more than it was asked"));
                }
                self.answers.insert(id, outcome);
                Ok(())
            }
            ServerMessage::Response(Response { outcome: Err(error), .. }) => Err(error),
            // Nothing that comes unasked was asked for.
            _ => Ok(()),
        }
    }
}

fn gone(why: &str) -> ErrorObject {
    ErrorObject::new(ErrorKind::Unreachable, format!("the daemon cannot be reached: {why}"))
        .with_hint("stead daemon start")
}
