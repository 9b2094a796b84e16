//! `keeper.sock`: how a keeper is watched and told.
//!
//! Lines of JSON. The keeper sends a [`Status`] at once and whenever it changes; a client may send [`Command`]s, which
//! are answered by what they change.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{KEEPER_SOCKET, Token};
use crate::identity::Identity;
use crate::socket::{connect_in, is_own, peer};

/// The longest line either way. A reason is cut well below it.
pub(super) const LINE_BYTES_MAX: usize = 8 << 10;

/// How a keeper does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Itself.
    pub keeper: Identity,
    /// Whose.
    pub token: Token,
    /// The worker that is there now.
    pub worker: Option<Identity>,
    /// How many came before it.
    pub restarts: u32,
    /// Where it is going.
    pub state: State,
}

/// Where a keeper is going.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum State {
    /// There is a worker.
    Running,
    /// There will be one in a moment.
    Pausing,
    /// It has been told to end.
    Ending,
    /// The worker has left, and so does the keeper.
    Ended,
    /// It has given up.
    Failed {
        /// Why, in one line.
        reason: String,
    },
}

/// What a keeper can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// Kill the worker and start its successor: it hangs.
    TakeOver,
    /// End the worker, by force if it takes long, and then yourself.
    End,
}

/// A connection to a keeper.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
}

impl Client {
    /// Connects to the keeper of the mount with this directory. Whoever listens must be of this user. Needs a tokio
    /// runtime with I/O.
    pub fn connect(directory: &Path) -> io::Result<Client> {
        let stream = connect_in(directory, KEEPER_SOCKET)?;
        if !is_own(&peer(&stream)?) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        stream.set_nonblocking(true)?;
        Ok(Client { stream: BufReader::new(UnixStream::from_std(stream)?), line: Vec::new() })
    }

    /// The next thing it says; none when it has gone. May be dropped half way without loss.
    pub async fn next(&mut self) -> io::Result<Option<Status>> {
        let room = (LINE_BYTES_MAX - self.line.len()) as u64;
        (&mut self.stream).take(room).read_until(b'\n', &mut self.line).await.or_else(gone)?;
        if self.line.last() != Some(&b'\n') {
            return match self.line.len() {
                LINE_BYTES_MAX => Err(io::ErrorKind::InvalidData.into()),
                _ => Ok(None),
            };
        }
        let status = serde_json::from_slice(&self.line);
        self.line.clear();
        Ok(Some(status?))
    }

    /// Tells it something. One that has gone is noticed by [`next`](Self::next).
    pub async fn tell(&mut self, command: Command) -> io::Result<()> {
        let mut line = serde_json::to_vec(&command)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).await.or_else(|error| gone(error).map(drop))
    }
}

fn gone(error: io::Error) -> io::Result<usize> {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(0),
        _ => Err(error),
    }
}
