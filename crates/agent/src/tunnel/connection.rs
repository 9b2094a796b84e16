//! One connection of a tunnel, at its far end.
//!
//! ```text
//!  looked up ──► connecting ◄──► tried again ──► open ──both have ended──► closed
//!      └─────────────┴── nobody is there ─────────┴── broke ──► reset
//! ```
//!
//! What comes before the connection is open waits, within its credit.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_keepalive, set_socket_linger, set_tcp_nodelay, socket_error};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use wire::agent::Failure;
use wire::agent::tunnel::{CREDIT_FIRST_BYTES, ConnectionId, Credit, DATA_BYTES_MAX, Overdrawn, TunnelFrame};

use super::place::Address;
use super::{Addresses, Output};
use crate::failure::failure;

/// How often a unix socket is tried where too many wait: for ten seconds.
const RETRIES_MAX: u32 = 500;

/// What has become of a connection.
pub(super) enum Progress {
    /// It waits for something.
    GoesOn,
    /// It is to be tried again.
    Retry,
    /// Both ends have done with it.
    Closed,
    /// It could not be made, or is broken.
    Broke(Option<Failure>),
    /// The near end does not keep to what it was allowed.
    Overdrawn(Overdrawn),
}

impl From<Overdrawn> for Progress {
    fn from(overdrawn: Overdrawn) -> Progress {
        Progress::Overdrawn(overdrawn)
    }
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Stage {
    /// There is no address yet, or it is to be tried again.
    Waits,
    Connecting,
    Open,
}

pub(super) struct Connection {
    stage: Stage,
    socket: Option<OwnedFd>,
    is_tcp: bool,
    /// What can be tried if this does not work.
    addresses: VecDeque<Address>,
    tries: u32,
    /// What may be sent to the near end.
    send: Credit,
    /// What it may send.
    receive: Credit,
    window: u32,
    /// What the socket has taken and the near end has not been told of.
    untold: u32,
    /// What the socket has not taken.
    pending: VecDeque<u8>,
    /// Nothing more comes from the socket, and the near end knows.
    has_ended: bool,
    /// Nothing more comes from the near end.
    is_ended: bool,
    is_shut: bool,
    waits_for: EventFlags,
}

impl Connection {
    pub fn new(window: u32) -> Connection {
        Connection {
            stage: Stage::Waits,
            socket: None,
            is_tcp: false,
            addresses: VecDeque::new(),
            tries: 0,
            send: Credit::default(),
            receive: Credit::default(),
            window,
            untold: 0,
            pending: VecDeque::new(),
            has_ended: false,
            is_ended: false,
            is_shut: false,
            waits_for: EventFlags::empty(),
        }
    }

    /// Begins to connect to the first of these that is there.
    pub fn connect(
        &mut self,
        id: u64,
        addresses: Addresses,
        sockets: &OwnedFd,
        output: &mut Output,
    ) -> Progress {
        self.addresses = addresses.into();
        self.connect_next(id, Errno::ADDRNOTAVAIL, sockets, output)
    }

    /// Tries a unix socket again where too many waited.
    pub fn try_again(&mut self, id: u64, sockets: &OwnedFd, output: &mut Output) -> Progress {
        match self.stage {
            Stage::Waits => self.connect_next(id, Errno::AGAIN, sockets, output),
            Stage::Connecting | Stage::Open => Progress::GoesOn,
        }
    }

    /// `why` the last one did not work.
    fn connect_next(&mut self, id: u64, mut why: Errno, sockets: &OwnedFd, output: &mut Output) -> Progress {
        self.let_go(sockets);
        while let Some(address) = self.addresses.pop_front() {
            match address.connect() {
                Ok((socket, is_done)) => {
                    self.is_tcp = address.is_tcp();
                    self.socket = Some(socket);
                    self.stage = Stage::Connecting;
                    return if is_done { self.opened(id, output) } else { Progress::GoesOn };
                }
                Err(Errno::AGAIN) if self.tries < RETRIES_MAX => {
                    self.tries += 1;
                    self.stage = Stage::Waits;
                    self.addresses.push_front(address);
                    return Progress::Retry;
                }
                Err(errno) => why = errno,
            }
        }
        Progress::Broke(Some(failure(why)))
    }

    /// It came in through the listener.
    pub fn accepted(&mut self, id: u64, socket: OwnedFd, is_tcp: bool, output: &mut Output) -> Progress {
        (self.socket, self.is_tcp) = (Some(socket), is_tcp);
        self.opened(id, output)
    }

    fn opened(&mut self, id: u64, output: &mut Output) -> Progress {
        self.stage = Stage::Open;
        if let Some(socket) = self.socket.as_ref().filter(|_| self.is_tcp) {
            // Without them it works too.
            let _ = (set_tcp_nodelay(socket, true), set_socket_keepalive(socket, true));
        }
        self.untold += self.window - CREDIT_FIRST_BYTES;
        self.tell(id, output);
        self.write(id, output)
    }

    /// The near end may be told of what it may send.
    fn tell(&mut self, id: u64, output: &mut Output) {
        let bytes = self.untold;
        // All that may be under way is less than the most that is allowed.
        if bytes > 0 && !self.is_ended && self.receive.allow(bytes).is_ok() {
            output.say(&TunnelFrame::Credit { connection: ConnectionId(id), bytes }, &[]);
            self.untold = 0;
        }
    }

    pub fn allow(&mut self, bytes: u32) -> Progress {
        self.send.allow(bytes).map_or_else(Progress::from, |()| Progress::GoesOn)
    }

    pub fn take_data(&mut self, id: u64, data: &[u8], output: &mut Output) -> Progress {
        let taken = if self.is_ended { Err(Overdrawn) } else { self.receive.spend(data.len()) };
        match taken {
            Ok(()) => {
                self.pending.extend(data);
                self.write(id, output)
            }
            Err(overdrawn) => overdrawn.into(),
        }
    }

    pub fn take_end(&mut self, id: u64, output: &mut Output) -> Progress {
        self.is_ended = true;
        self.write(id, output)
    }

    /// Writes what waits, and ends the writing behind it.
    fn write(&mut self, id: u64, output: &mut Output) -> Progress {
        let Some(socket) = self.socket.as_ref().filter(|_| self.stage == Stage::Open) else {
            return Progress::GoesOn;
        };
        while !self.pending.is_empty() {
            match rustix::net::send(socket, self.pending.as_slices().0, SendFlags::NOSIGNAL) {
                Ok(bytes) => {
                    drop(self.pending.drain(..bytes));
                    self.untold += bytes as u32;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return Progress::Broke(None),
            }
        }
        if self.pending.is_empty() {
            // What a burst took is not kept.
            self.pending.shrink_to(CREDIT_FIRST_BYTES as usize);
            if self.is_ended && !self.is_shut {
                self.is_shut = true;
                if rustix::net::shutdown(socket, Shutdown::Write).is_err() && !self.has_ended {
                    return Progress::Broke(None);
                }
            }
        }
        if self.untold >= self.window / 4 {
            self.tell(id, output);
        }
        if self.is_shut && self.has_ended { Progress::Closed } else { Progress::GoesOn }
    }

    /// Reads once, as much as may be sent.
    fn read(&mut self, id: u64, buffer: &mut [u8], output: &mut Output) -> Progress {
        let Some(socket) = self.socket.as_ref().filter(|_| self.reads()) else { return Progress::GoesOn };
        let most = self.send.bytes().min(DATA_BYTES_MAX).min(buffer.len());
        let connection = ConnectionId(id);
        match rustix::net::recv(socket, &mut buffer[..most], RecvFlags::empty()) {
            Ok((0, _)) => {
                self.has_ended = true;
                output.say(&TunnelFrame::End { connection }, &[]);
                if self.is_shut { Progress::Closed } else { Progress::GoesOn }
            }
            Ok((bytes, _)) => {
                output.say(&TunnelFrame::Data { connection }, &buffer[..bytes]);
                self.send.spend(bytes).map_or_else(Progress::from, |()| Progress::GoesOn)
            }
            Err(Errno::AGAIN | Errno::INTR) => Progress::GoesOn,
            Err(_) => Progress::Broke(None),
        }
    }

    fn reads(&self) -> bool {
        self.stage == Stage::Open && !self.has_ended && self.send.bytes() > 0
    }

    /// Does what its socket is ready for.
    pub fn serve(
        &mut self,
        id: u64,
        flags: EventFlags,
        buffer: &mut [u8],
        sockets: &OwnedFd,
        output: &mut Output,
    ) -> Progress {
        if self.stage == Stage::Connecting {
            let Some(socket) = &self.socket else { return Progress::GoesOn };
            return match socket_error(socket) {
                Ok(Ok(())) => self.opened(id, output),
                Ok(Err(errno)) | Err(errno) => self.connect_next(id, errno, sockets, output),
            };
        }
        let broken = EventFlags::ERR | EventFlags::HUP;
        if flags.intersects(EventFlags::OUT | broken) && !self.pending.is_empty() {
            match self.write(id, output) {
                Progress::GoesOn => {}
                other => return other,
            }
        }
        match flags.intersects(EventFlags::IN | broken) {
            true => self.read(id, buffer, output),
            false => Progress::GoesOn,
        }
    }

    /// Waits for what it needs now. One that needs nothing is not even looked at: its end would be told again and again.
    pub fn wait(&mut self, number: u64, sockets: &OwnedFd) -> Result<(), Errno> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, self.reads());
        wanted.set(EventFlags::OUT, self.stage == Stage::Connecting || !self.pending.is_empty());
        if wanted == self.waits_for {
            return Ok(());
        }
        let data = EventData::new_u64(number);
        match (self.waits_for.is_empty(), wanted.is_empty()) {
            (true, _) => epoll::add(sockets, socket, data, wanted)?,
            (false, true) => epoll::delete(sockets, socket)?,
            (false, false) => epoll::modify(sockets, socket, data, wanted)?,
        }
        self.waits_for = wanted;
        Ok(())
    }

    /// Closes the socket, if there is one.
    fn let_go(&mut self, sockets: &OwnedFd) {
        if let Some(socket) = self.socket.take()
            && !self.waits_for.is_empty()
        {
            // Closing it does as much: nobody else has it.
            let _ = epoll::delete(sockets, &socket);
        }
        self.waits_for = EventFlags::empty();
    }

    /// Ends it at once. Who is connected by TCP sees a reset, and does not take what came for all there is.
    pub fn abort(mut self, sockets: &OwnedFd) {
        if let Some(socket) = self.socket.as_ref().filter(|_| self.is_tcp) {
            // Otherwise it is closed as if it were complete, unless something waits to be read.
            let _ = set_socket_linger(socket, Some(std::time::Duration::ZERO));
        }
        self.let_go(sockets);
    }
}
