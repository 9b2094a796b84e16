//! The far end of a tunnel: a process that joins connections of its machine to a stream of frames. See
//! [`wire::agent::tunnel`] for what is said and when.
//!
//! ```text
//!  standard input ──► frames ──► connections ──► sockets
//!  standard output ◄── frames ◄── connections ◄── sockets, their listener
//! ```
//!
//! One thread does all of it, and waits in one place: for input, for room in the output, for sockets. It is stopped by
//! nobody: input is read as it comes, since what it brings is bounded by the credit that was given for it, and sockets are
//! read only while there is room for what they have. While names are looked up, which may block, another thread waits.
//!
//! It ends with its input, or when it is told to by a signal; a socket that it has made in a directory goes with it.

mod connection;
mod place;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use wire::agent::Failure;
use wire::agent::tunnel::{CONNECTIONS_MAX, ConnectionId, DATA_BYTES_MAX, TunnelFrame, window};
use wire::endpoint::Endpoint;
use wire::frame::{PREFIX_BYTES, Prefix, decode_head, encode_head};

use crate::failure::failure;
use crate::kept::timespec;
use crate::log::log;
use connection::{Connection, Progress};
use place::{Address, Listener, Names};

/// How much is read of the input at once: what a pipe holds.
const INPUT_BYTES: usize = 64 << 10;

/// How much may wait for the output before sockets are left alone.
const OUTPUT_BYTES: usize = 256 << 10;

/// How much may wait for the output at all. Beyond it the near end makes connections faster than it hears of them.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// The most connections here: those that the near end has, and as many that it has done with and that have not taken all.
const CONNECTIONS_HERE_MAX: usize = 2 * CONNECTIONS_MAX;

/// How many sockets are looked at before input and output are again.
const SOCKETS_AT_ONCE: usize = 64;

/// How long nobody is accepted after that has failed: it fails when there are too many descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a connection is tried again to a unix socket where too many wait.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// What an event of the system is about.
mod about {
    pub const INPUT: u64 = 0;
    pub const OUTPUT: u64 = 1;
    pub const SIGNALS: u64 = 2;
    pub const NAMES: u64 = 3;
    pub const SOCKETS: u64 = 4;
    /// Among the sockets: the one that listens. Others have the numbers of their connections behind it.
    pub const LISTENER: u64 = 0;
}

/// Serves standard input and output until the input ends. The agent that has started it has raised the limit of descriptors.
pub(crate) fn main() -> ExitCode {
    let served = signals().and_then(|signals| {
        let duplicate = |stream: &dyn AsFd| stream.as_fd().try_clone_to_owned();
        let (input, output) = (duplicate(&std::io::stdin()), duplicate(&std::io::stdout()));
        let from_io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Ok((input.map_err(from_io)?, output.map_err(from_io)?, signals))
    });
    match served.map_err(|errno| errno.to_string()).and_then(|(i, o, s)| serve(i, o, s)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            log(format_args!("{reason}"));
            ExitCode::FAILURE
        }
    }
}

/// What is readable when a signal has come that ends this process.
fn signals() -> Result<OwnedFd, Errno> {
    // SAFETY: the set is made by `sigemptyset` before it is used, and lives to the end of the block; the descriptor is new
    // and nobody else's.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

/// Serves a tunnel until `input` ends or `signals` can be read.
fn serve(input: OwnedFd, output: OwnedFd, signals: OwnedFd) -> Result<(), String> {
    for stream in [&input, &output] {
        rustix::io::ioctl_fionbio(stream, true).map_err(|errno| errno.to_string())?;
    }
    let mut end = FarEnd::new(input, output, signals).map_err(|errno| format!("could not wait: {errno}"))?;
    let served = end.run();
    // What was said last may tell why.
    let _ = end.output.write();
    end.abort_all();
    served
}

/// What waits to be written to the output.
struct Output {
    stream: OwnedFd,
    bytes: Vec<u8>,
    /// How many of them have been written.
    written: usize,
}

impl Output {
    fn say(&mut self, frame: &TunnelFrame, data: &[u8]) {
        // No frame is near the limits.
        if let Ok(head) = encode_head(frame, data.len()) {
            self.bytes.extend_from_slice(&head);
            self.bytes.extend_from_slice(data);
        }
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.written
    }

    fn write(&mut self) -> Result<(), Errno> {
        while self.waiting() > 0 {
            match rustix::io::write(&self.stream, &self.bytes[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        if self.written >= OUTPUT_BYTES || self.waiting() == 0 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }
}

/// What the tunnel does here.
enum Role {
    /// Nothing has been said.
    None,
    /// Connections that the near end opens lead to this.
    Connect(Names),
    /// Connections are accepted.
    Listen(Listener),
}

/// Why a tunnel ends.
enum Over {
    /// Its near end is done with it.
    Done,
    /// The near end broke the protocol, or the system fails.
    Failed(String),
}

impl From<Errno> for Over {
    fn from(errno: Errno) -> Over {
        Over::Failed(errno.to_string())
    }
}

fn broken(what: impl std::fmt::Display) -> Over {
    Over::Failed(format!("the near end broke the protocol: {what}"))
}

struct FarEnd {
    /// Input, output, signals, names and the sockets as a whole.
    all: OwnedFd,
    /// The sockets.
    sockets: OwnedFd,
    input: OwnedFd,
    _signals: OwnedFd,
    incoming: Vec<u8>,
    output: Output,
    /// Whether room in the output is waited for, and whether sockets are.
    waits_for: (bool, bool),
    role: Role,
    connections: HashMap<u64, Connection>,
    /// The number of the next connection; those before it have been given.
    next: u64,
    /// When somebody is accepted again.
    pause: Option<Instant>,
    /// Whether the listener is among the sockets.
    accepts: bool,
    /// Connections that are tried again soon.
    retrying: Vec<u64>,
    buffer: Vec<u8>,
}

impl FarEnd {
    fn new(input: OwnedFd, output: OwnedFd, signals: OwnedFd) -> Result<FarEnd, Errno> {
        let (all, sockets) = (epoll::create(CreateFlags::CLOEXEC)?, epoll::create(CreateFlags::CLOEXEC)?);
        epoll::add(&all, &input, EventData::new_u64(about::INPUT), EventFlags::IN)?;
        // Its end is told without being asked for.
        epoll::add(&all, &output, EventData::new_u64(about::OUTPUT), EventFlags::empty())?;
        epoll::add(&all, &signals, EventData::new_u64(about::SIGNALS), EventFlags::IN)?;
        epoll::add(&all, &sockets, EventData::new_u64(about::SOCKETS), EventFlags::IN)?;
        Ok(FarEnd {
            all,
            sockets,
            input,
            _signals: signals,
            incoming: Vec::new(),
            output: Output { stream: output, bytes: Vec::new(), written: 0 },
            waits_for: (false, true),
            role: Role::None,
            connections: HashMap::new(),
            next: 0,
            pause: None,
            accepts: false,
            retrying: Vec::new(),
            buffer: vec![0; INPUT_BYTES.max(DATA_BYTES_MAX)],
        })
    }

    fn run(&mut self) -> Result<(), String> {
        let mut events = Vec::with_capacity(8);
        loop {
            let timeout = self.timeout().map(timespec);
            match epoll::wait(&self.all, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(format!("could not wait: {errno}")),
            }
            let came: Vec<(u64, EventFlags)> =
                events.drain(..).map(|event| (event.data.u64(), event.flags)).collect();
            match self.turn(&came) {
                Ok(()) => {}
                Err(Over::Done) => return Ok(()),
                Err(Over::Failed(reason)) => return Err(reason),
            }
        }
    }

    /// For how long nothing need be done.
    fn timeout(&self) -> Option<Duration> {
        let retry = (!self.retrying.is_empty()).then_some(RETRY_EVERY);
        let pause = self.pause.map(|until| until.saturating_duration_since(Instant::now()));
        [retry, pause].into_iter().flatten().min()
    }

    fn turn(&mut self, came: &[(u64, EventFlags)]) -> Result<(), Over> {
        for (what, flags) in came {
            match *what {
                about::SIGNALS => return Err(Over::Done),
                about::INPUT => self.read_input()?,
                // Nobody reads any more.
                about::OUTPUT if flags.contains(EventFlags::ERR) => return Err(Over::Done),
                about::NAMES => self.take_names(),
                about::SOCKETS => self.serve_sockets()?,
                _ => {}
            }
        }
        if self.pause.is_some_and(|until| until <= Instant::now()) {
            self.pause = None;
        }
        self.try_again();
        self.output.write()?;
        if self.output.waiting() > OUTPUT_BYTES_MAX {
            return Err(broken("it does not read"));
        }
        self.choose_waits()
    }

    /// Waits for what can be used: for room in the output if something waits for that, for sockets if there is room.
    fn choose_waits(&mut self) -> Result<(), Over> {
        let wanted = (self.output.waiting() > 0, self.output.waiting() < OUTPUT_BYTES);
        let flags = |wanted, flags| if wanted { flags } else { EventFlags::empty() };
        if wanted.0 != self.waits_for.0 {
            let data = EventData::new_u64(about::OUTPUT);
            epoll::modify(&self.all, &self.output.stream, data, flags(wanted.0, EventFlags::OUT))?;
        }
        if wanted.1 != self.waits_for.1 {
            let data = EventData::new_u64(about::SOCKETS);
            epoll::modify(&self.all, &self.sockets, data, flags(wanted.1, EventFlags::IN))?;
        }
        self.waits_for = wanted;
        let accepts = self.pause.is_none() && self.connections.len() < CONNECTIONS_MAX;
        if let Role::Listen(listener) = &self.role
            && accepts != self.accepts
        {
            let data = EventData::new_u64(about::LISTENER);
            match accepts {
                true => epoll::add(&self.sockets, &listener.socket, data, EventFlags::IN)?,
                false => epoll::delete(&self.sockets, &listener.socket)?,
            }
            self.accepts = accepts;
        }
        Ok(())
    }

    fn read_input(&mut self) -> Result<(), Over> {
        match rustix::io::read(&self.input, &mut self.buffer[..INPUT_BYTES]) {
            Ok(0) => return Err(Over::Done),
            Ok(bytes) => self.incoming.extend_from_slice(&self.buffer[..bytes]),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = incoming.as_slice();
        while let Some(prefix) = Prefix::of_whole(rest).map_err(broken)? {
            let (frame, behind) = rest.split_at(PREFIX_BYTES + prefix.body_bytes());
            let (head, data) = frame[PREFIX_BYTES..].split_at(prefix.head as usize);
            self.hear(decode_head(head).map_err(broken)?, data)?;
            rest = behind;
        }
        self.incoming = rest.to_vec();
        Ok(())
    }

    fn hear(&mut self, frame: TunnelFrame, data: &[u8]) -> Result<(), Over> {
        match (frame, &self.role) {
            (TunnelFrame::Connect(to), Role::None) => self.begin_connecting(to),
            (TunnelFrame::Listen(at), Role::None) => self.begin_listening(&at),
            (TunnelFrame::Open { connection }, Role::Connect(_)) => self.open(connection),
            (TunnelFrame::Data { connection }, _) => {
                self.with(connection, |known, id, output| known.take_data(id, data, output))
            }
            (TunnelFrame::Credit { connection, bytes }, _) => {
                self.with(connection, |known, _, _| known.allow(bytes))
            }
            (TunnelFrame::End { connection }, _) => {
                self.with(connection, |known, id, output| known.take_end(id, output))
            }
            (TunnelFrame::Reset { connection, .. }, _) => {
                if let Some(known) = self.connections.remove(&connection.0) {
                    known.abort(&self.sockets);
                }
                Ok(())
            }
            (frame, _) => Err(broken(format_args!("{frame:?} out of place"))),
        }
    }

    fn begin_connecting(&mut self, to: Endpoint) -> Result<(), Over> {
        let names = Names::new(to.clone())?;
        epoll::add(&self.all, names.told(), EventData::new_u64(about::NAMES), EventFlags::IN)?;
        self.role = Role::Connect(names);
        self.output.say(&TunnelFrame::Ready(to), &[]);
        Ok(())
    }

    fn begin_listening(&mut self, at: &Endpoint) -> Result<(), Over> {
        match Listener::open(at) {
            Ok(listener) => {
                self.output.say(&TunnelFrame::Ready(listener.at.clone()), &[]);
                self.role = Role::Listen(listener);
                Ok(())
            }
            Err(failure) => {
                self.output.say(&TunnelFrame::Failed(failure), &[]);
                Err(Over::Done)
            }
        }
    }

    /// Does something with a connection, if it is known, and what follows from that.
    fn with(
        &mut self,
        ConnectionId(id): ConnectionId,
        act: impl FnOnce(&mut Connection, u64, &mut Output) -> Progress,
    ) -> Result<(), Over> {
        let Some(known) = self.connections.get_mut(&id) else { return Ok(()) };
        let progress = act(known, id, &mut self.output);
        self.settle(id, progress)
    }

    /// Waits for what a connection needs now, or lets go of it.
    fn settle(&mut self, id: u64, progress: Progress) -> Result<(), Over> {
        match progress {
            Progress::GoesOn => {
                if let Some(known) = self.connections.get_mut(&id) {
                    known.wait(id + 1, &self.sockets)?;
                }
            }
            Progress::Retry => self.retrying.push(id),
            Progress::Closed => drop(self.connections.remove(&id)),
            Progress::Broke(why) => self.reset(id, why),
            Progress::Overdrawn(overdrawn) => return Err(broken(overdrawn)),
        }
        Ok(())
    }

    /// The same where one connection must not end the others.
    fn settle_alone(&mut self, id: u64, progress: Progress) {
        if let Err(Over::Failed(reason)) = self.settle(id, progress) {
            log(format_args!("{reason}"));
            self.reset(id, None);
        }
    }

    fn reset(&mut self, id: u64, failure: Option<Failure>) {
        if let Some(known) = self.connections.remove(&id) {
            known.abort(&self.sockets);
        }
        self.output.say(&TunnelFrame::Reset { connection: ConnectionId(id), failure }, &[]);
    }

    fn open(&mut self, ConnectionId(id): ConnectionId) -> Result<(), Over> {
        if id < self.next || id > u64::MAX / 2 {
            return Err(broken("a connection's number is used again"));
        }
        self.next = id + 1;
        if self.connections.len() >= CONNECTIONS_HERE_MAX {
            self.reset(id, Some(failure(Errno::AGAIN)));
            return Ok(());
        }
        let window = window(self.connections.len());
        let Role::Connect(names) = &mut self.role else { return Ok(()) };
        let addresses = names.addresses(id);
        let mut opened = Connection::new(window);
        let progress = match addresses {
            Some(Ok(addresses)) => opened.connect(id, addresses, &self.sockets, &mut self.output),
            Some(Err(failure)) => Progress::Broke(Some(failure)),
            None => Progress::GoesOn,
        };
        self.connections.insert(id, opened);
        self.settle(id, progress)
    }

    /// Goes on with the connections that waited for a name to be looked up.
    fn take_names(&mut self) {
        let Role::Connect(names) = &mut self.role else { return };
        let Some((waiting, found)) = names.take() else { return };
        for id in waiting {
            let Some(known) = self.connections.get_mut(&id) else { continue };
            let progress = match &found {
                Ok(addresses) => known.connect(id, addresses.clone(), &self.sockets, &mut self.output),
                Err(failure) => Progress::Broke(Some(failure.clone())),
            };
            self.settle_alone(id, progress);
        }
    }

    fn try_again(&mut self) {
        for id in std::mem::take(&mut self.retrying) {
            let Some(known) = self.connections.get_mut(&id) else { continue };
            let progress = known.try_again(id, &self.sockets, &mut self.output);
            self.settle_alone(id, progress);
        }
    }

    /// Ends what is not complete so that nobody takes it for complete.
    fn abort_all(&mut self) {
        for (_, connection) in self.connections.drain() {
            connection.abort(&self.sockets);
        }
    }

    fn serve_sockets(&mut self) -> Result<(), Over> {
        let mut events = Vec::with_capacity(SOCKETS_AT_ONCE);
        let at_once = timespec(Duration::ZERO);
        match epoll::wait(&self.sockets, spare_capacity(&mut events), Some(&at_once)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in events {
            let (what, flags) = (event.data.u64(), event.flags);
            if what == about::LISTENER {
                self.accept();
                continue;
            }
            let id = what - 1;
            let (buffer, sockets) = (&mut self.buffer, &self.sockets);
            let Some(known) = self.connections.get_mut(&id) else { continue };
            let progress = known.serve(id, flags, buffer, sockets, &mut self.output);
            self.settle(id, progress)?;
            if self.output.waiting() >= OUTPUT_BYTES {
                break;
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        for _ in 0..SOCKETS_AT_ONCE {
            let Role::Listen(listener) = &self.role else { return };
            if self.connections.len() >= CONNECTIONS_MAX {
                return;
            }
            let socket = match accept_with(&listener.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => socket,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::AGAIN) => return,
                Err(errno) => {
                    log(format_args!("could not accept a connection: {errno}"));
                    self.pause = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            };
            let id = self.next;
            self.next += 1;
            let mut accepted = Connection::new(window(self.connections.len()));
            self.output.say(&TunnelFrame::Open { connection: ConnectionId(id) }, &[]);
            let progress = accepted.accepted(id, socket, listener.is_tcp(), &mut self.output);
            self.connections.insert(id, accepted);
            self.settle_alone(id, progress);
        }
    }
}

/// Where a connection may lead, one to be tried after the other.
type Addresses = Vec<Address>;

/// The loopback, as both families have it.
fn loopback(port: u16) -> [SocketAddr; 2] {
    use std::net::{Ipv4Addr, Ipv6Addr};
    [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
}

#[cfg(test)]
mod tests;
