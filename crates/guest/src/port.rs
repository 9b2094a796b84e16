//! One port, and the agent behind its stream.
//!
//! ```text
//!  away ──the host connects──► here ──open──► streaming ──exited──► here
//!    ▲                          │                 │  └──open: another stream──► streaming
//!    └──────────────────────────┴─────────────────┘ the host goes
//! ```
//!
//! Nothing here waits: what can be moved is moved, and the rest when the system says that more can.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use wire::guest::{Mark, Piece, Reader};
use wire::hello::SessionId;

use crate::{AGENT, log};

/// What is read at once, from either side.
const CHUNK_BYTES: usize = 32 << 10;

/// A port of this guest.
pub struct Port {
    file: File,
    reader: Reader,
    to_host: Waiting,
    to_agent: Waiting,
    agent: Option<Agent>,
}

/// The agent of a stream.
struct Agent {
    socket: UnixStream,
    child: Child,
    has_said_all: bool,
    /// The host says no more: when the agent has all, it is told so.
    is_told_all: bool,
}

/// Bytes that could not be moved yet: a chunk at most.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    moved: usize,
}

/// What a port wants of whoever waits for it.
#[derive(Default)]
pub struct Wishes {
    /// An agent was started: it and its end are to be watched.
    pub started: bool,
    /// An agent nobody listens to any more: it is to be reaped.
    pub left: Vec<Child>,
    /// The machine is to be powered off.
    pub power_off: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.moved == self.bytes.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.moved = 0;
    }

    /// Moves what can be moved; whether that was something.
    fn write_to(&mut self, mut to: impl Write) -> io::Result<bool> {
        let before = self.moved;
        while !self.is_empty() {
            match to.write(&self.bytes[self.moved..]) {
                Ok(0) => break,
                Ok(written) => self.moved += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let has_moved = self.moved > before;
        if self.is_empty() {
            self.clear();
        }
        Ok(has_moved)
    }
}

impl Port {
    /// Of a device that is open and does not wait.
    pub fn new(device: OwnedFd) -> Port {
        let file = File::from(device);
        Port {
            file,
            reader: Reader::default(),
            to_host: Waiting::default(),
            to_agent: Waiting::default(),
            agent: None,
        }
    }

    /// What is to be watched: the device, and the agent's socket and number.
    pub fn watched(&self) -> (&File, Option<(&UnixStream, u32)>) {
        (&self.file, self.agent.as_ref().map(|agent| (&agent.socket, agent.child.id())))
    }

    /// Moves what can be moved.
    pub fn pump(&mut self) -> Wishes {
        let mut wishes = Wishes::default();
        loop {
            let taken = self.take(&mut wishes);
            let given = self.give();
            let said = self.end_stream(&mut wishes);
            if !(taken | given | said) {
                return wishes;
            }
        }
    }

    /// From the host to the agent.
    fn take(&mut self, wishes: &mut Wishes) -> bool {
        let mut has_moved = self.feed();
        if !self.to_agent.is_empty() {
            return has_moved;
        }
        let mut chunk = [0; CHUNK_BYTES];
        match (&self.file).read(&mut chunk) {
            // The host is not there.
            Ok(0) => self.leave(wishes),
            Ok(read) => {
                self.sort(&chunk[..read], wishes);
                has_moved = true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => log(format_args!("a port: {error}")),
        }
        has_moved
    }

    fn feed(&mut self) -> bool {
        let Some(agent) = &self.agent else {
            self.to_agent.clear();
            return false;
        };
        let has_moved = self.to_agent.write_to(&agent.socket).unwrap_or_else(|_gone| {
            // It has ended, and its end is told when all it said is.
            self.to_agent.clear();
            false
        });
        if agent.is_told_all && self.to_agent.is_empty() {
            // One that has ended has no input.
            let _ = agent.socket.shutdown(std::net::Shutdown::Write);
        }
        has_moved
    }

    fn sort(&mut self, mut input: &[u8], wishes: &mut Wishes) {
        while let Some(piece) = self.reader.next(&mut input) {
            match piece {
                Piece::Data(data) if self.is_listening() => self.to_agent.bytes.extend(data),
                // Of a stream that is over.
                Piece::Data(_) => {}
                Piece::Mark(Mark::Open { nonce, session }) => {
                    self.leave(wishes);
                    Mark::Accepted { nonce }.write(&mut self.to_host.bytes);
                    match Agent::start(session) {
                        Ok(agent) => {
                            self.agent = Some(agent);
                            wishes.started = true;
                        }
                        Err(error) => {
                            log(format_args!("{AGENT}: {error}"));
                            Mark::Exited { status: u8::MAX }.write(&mut self.to_host.bytes);
                        }
                    }
                }
                Piece::Mark(Mark::End) => {
                    if let Some(agent) = &mut self.agent {
                        agent.is_told_all = true;
                    }
                }
                Piece::Mark(Mark::PowerOff) => {
                    wishes.power_off = true;
                    Mark::PowerOff.write(&mut self.to_host.bytes);
                }
                Piece::Mark(Mark::Accepted { .. } | Mark::Exited { .. }) => {}
            }
        }
        self.feed();
    }

    fn is_listening(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| !agent.is_told_all)
    }

    /// From the agent to the host.
    fn give(&mut self) -> bool {
        let mut has_moved = self.to_host.write_to(&self.file).unwrap_or_else(|error| {
            log(format_args!("a port: {error}"));
            self.to_host.clear();
            false
        });
        let Some(agent) = self.agent.as_mut().filter(|agent| !agent.has_said_all) else {
            return has_moved;
        };
        if !self.to_host.is_empty() {
            return has_moved;
        }
        let mut chunk = [0; CHUNK_BYTES];
        match (&agent.socket).read(&mut chunk) {
            Ok(0) => {
                agent.has_said_all = true;
                has_moved = true;
            }
            Ok(read) => {
                wire::guest::write_data(&chunk[..read], &mut self.to_host.bytes);
                has_moved = true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_reset) => {
                agent.has_said_all = true;
                has_moved = true;
            }
        }
        has_moved
    }

    /// Tells the host how the agent ended, once it has and all it said is told.
    fn end_stream(&mut self, wishes: &mut Wishes) -> bool {
        let Some(agent) = self.agent.as_mut().filter(|agent| agent.has_said_all) else { return false };
        let status = match agent.child.try_wait() {
            Ok(None) => return false,
            Ok(Some(status)) => status.code().and_then(|code| u8::try_from(code).ok()),
            Err(_) => None,
        };
        self.leave(wishes);
        Mark::Exited { status: status.unwrap_or(u8::MAX) }.write(&mut self.to_host.bytes);
        true
    }

    /// The stream is over: what it was about to move is nobody's.
    fn leave(&mut self, wishes: &mut Wishes) {
        self.to_agent.clear();
        if let Some(agent) = self.agent.take() {
            self.to_host.clear();
            wishes.left.push(agent.child);
        }
    }
}

impl Agent {
    fn start(session: SessionId) -> io::Result<Agent> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(AGENT);
        if session != SessionId::default() {
            command.args(["--resume", &session.to_string()]);
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)));
        command.stdout(Stdio::from(OwnedFd::from(theirs)));
        Ok(Agent { socket: ours, child: command.spawn()?, has_said_all: false, is_told_all: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_the_end_of_a_stream_reaches_an_agent_that_is_slow() {
        let (mut host, device) = UnixStream::pair().unwrap();
        let (socket, mut agent) = UnixStream::pair().unwrap();
        for end in [&device, &socket] {
            end.set_nonblocking(true).unwrap();
        }
        // The agent does not read: what comes now finds no room.
        let mut filled = 0;
        while let Ok(written) = (&socket).write(&[0; 4096]) {
            filled += written;
        }
        let mut port = Port::new(OwnedFd::from(device));
        let child = Command::new("/bin/true").spawn().unwrap();
        port.agent = Some(Agent { socket, child, has_said_all: false, is_told_all: false });
        let mut told = b"the last".to_vec();
        Mark::End.write(&mut told);
        host.write_all(&told).unwrap();
        port.pump();

        agent.read_exact(&mut vec![0; filled]).unwrap();
        port.pump();
        let mut last = String::new();
        agent.read_to_string(&mut last).unwrap();
        assert_eq!(last, "the last");
        port.agent.unwrap().child.wait().unwrap();
    }
}
