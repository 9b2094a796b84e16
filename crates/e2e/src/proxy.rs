//! Distance: a TCP proxy that holds every byte for half a round trip in each direction, and can stall and cut.
//!
//! The window is unlimited: as much as is sent is in flight, so the proxy adds latency and nothing else. With a rate, all
//! connections together get that many bytes through in each direction, one behind the other, and what does not fit into a
//! router's buffer is left with whoever sends it.
//!
//! ```text
//! client ──► read ──► queue (due times) ──► write ──► server       one such line per direction and connection
//! ```

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::wait::pause;

/// One read from a socket.
const READ_BYTES: usize = 256 << 10;

/// What one line may hold before it stops reading: a gigabit at ten seconds, so never reached unless stalled.
const QUEUED_BYTES_MAX: usize = 1 << 30;

/// One read where there is a rate: a millisecond of a hundred megabits, so that others get in between.
const RATED_READ_BYTES: usize = 12 << 10;

/// How much time's worth of bytes waits before a link with a rate: what routers for homes have.
const RATED_BUFFER: Duration = Duration::from_millis(50);

/// What the system may take from a sender ahead of a link with a rate: it would be a second buffer.
const RATED_SOCKET_BYTES: usize = 64 << 10;

/// A proxy on a loopback port. Dropping it cuts every connection.
pub struct DelayProxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    target: u16,
}

struct State {
    mode: Mode,
    one_way: Duration,
    /// In each direction; without a limit if there is none.
    bytes_per_second: Option<u64>,
    /// Until when each direction is busy with what it has been given.
    busy_until: [Instant; 2],
    connections: Vec<TcpStream>,
    carried_bytes: u64,
    /// Bytes that may still pass before everything is cut.
    until_cut: Option<usize>,
    /// What is cut then: only the connections that there are, or those that come too.
    cut_to: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Bytes arrive after the delay.
    Open,
    /// Bytes are taken and do not arrive; nobody is told. A blackhole.
    Stalled,
    /// Connections are gone and new ones end at once.
    Cut,
    /// The proxy is going away.
    Closed,
}

/// The directions of a connection, as indices.
#[derive(Clone, Copy)]
enum Way {
    There = 0,
    Back = 1,
}

/// Bytes on their way in one direction, each piece with the moment it arrives.
#[derive(Default)]
struct Line {
    state: Mutex<LineState>,
    changed: Condvar,
}

#[derive(Default)]
struct LineState {
    pieces: VecDeque<(Instant, Vec<u8>)>,
    queued_bytes: usize,
    reader_ended: bool,
    writer_ended: bool,
}

impl DelayProxy {
    /// Forwards to `target` on 127.0.0.1 with `rtt` added.
    pub fn start(target: u16, rtt: Duration) -> DelayProxy {
        DelayProxy::start_rated(target, rtt, None)
    }

    /// As [`DelayProxy::start`], over a link that lets so many bytes a second pass in each direction.
    pub fn start_rated(target: u16, rtt: Duration, bytes_per_second: Option<u64>) -> DelayProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binding a loopback port");
        if bytes_per_second.is_some() {
            // Connections inherit it from the socket that they came in by.
            set_socket_recv_buffer_size(&listener, RATED_SOCKET_BYTES).expect("setting a buffer's size");
        }
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let state = State {
            mode: Mode::Open,
            one_way: rtt / 2,
            bytes_per_second,
            busy_until: [Instant::now(); 2],
            connections: Vec::new(),
            carried_bytes: 0,
            until_cut: None,
            cut_to: Mode::Cut,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), target });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept_all(&listener, &accepting));
        DelayProxy { port, shared }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the round trip for bytes sent from now on.
    pub fn set_rtt(&self, rtt: Duration) {
        lock(&self.shared.state).one_way = rtt / 2;
    }

    /// Holds all bytes back without closing anything.
    pub fn stall(&self) {
        self.set_mode(Mode::Stalled);
    }

    /// Ends all connections and refuses new ones.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Lets `bytes` more pass, both directions together, and cuts in the middle of whatever comes then.
    pub fn cut_after(&self, bytes: usize) {
        let mut state = lock(&self.shared.state);
        (state.until_cut, state.cut_to) = (Some(bytes), Mode::Cut);
    }

    /// The same for those connections that there are then: new ones pass at once.
    pub fn interrupt_after(&self, bytes: usize) {
        let mut state = lock(&self.shared.state);
        (state.until_cut, state.cut_to) = (Some(bytes), Mode::Open);
    }

    /// Whether connections are cut now.
    pub fn is_cut(&self) -> bool {
        lock(&self.shared.state).mode == Mode::Cut
    }

    /// Lets bytes and connections pass again.
    pub fn mend(&self) {
        lock(&self.shared.state).until_cut = None;
        self.set_mode(Mode::Open);
    }

    /// Bytes that have passed, both directions together.
    pub fn carried_bytes(&self) -> u64 {
        lock(&self.shared.state).carried_bytes
    }

    fn set_mode(&self, mode: Mode) {
        self.shared.set_mode(mode);
    }
}

impl Shared {
    fn set_mode(&self, mode: Mode) {
        lock(&self.state).mode = mode;
        self.changed.notify_all();
    }

    fn cut(&self) {
        self.set_mode(Mode::Cut);
        self.end_all();
    }

    /// All that were to pass have.
    fn cut_as_told(&self) {
        let mode = {
            let mut state = lock(&self.state);
            if state.cut_to == Mode::Open {
                state.until_cut = None;
            }
            state.cut_to
        };
        self.set_mode(mode);
        self.end_all();
    }

    fn end_all(&self) {
        for connection in lock(&self.state).connections.drain(..) {
            // Already closed by its other end is as good.
            let _closed = connection.shutdown(Shutdown::Both);
        }
    }

    /// How much is read at once.
    fn read_bytes(&self) -> usize {
        if lock(&self.state).bytes_per_second.is_some() { RATED_READ_BYTES } else { READ_BYTES }
    }

    /// Waits until the link's buffer has room.
    fn wait_for_room(&self, way: Way) {
        loop {
            let busy_until = lock(&self.state).busy_until[way as usize];
            let ahead = busy_until.saturating_duration_since(Instant::now());
            if ahead <= RATED_BUFFER {
                return;
            }
            pause(ahead - RATED_BUFFER);
        }
    }

    /// When the last of `len` bytes arrives that are put on the link now.
    fn arrival(&self, way: Way, len: usize) -> Instant {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let Some(rate) = state.bytes_per_second else { return now + state.one_way };
        let busy = &mut state.busy_until[way as usize];
        *busy = now.max(*busy) + Duration::from_secs_f64(len as f64 / rate as f64);
        let leaves = *busy;
        leaves + state.one_way
    }

    /// Takes `len` bytes off what may still pass, and says how many of them may.
    fn allowance(&self, len: usize) -> usize {
        let mut state = lock(&self.state);
        let allowed = state.until_cut.map_or(len, |left| left.min(len));
        state.until_cut = state.until_cut.map(|left| left - allowed);
        // Counted before the other end can see it, so that whoever got a byte finds it counted.
        state.carried_bytes += allowed as u64;
        allowed
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.cut();
        self.set_mode(Mode::Closed);
        // Wakes the accepting thread, which then sees the mode.
        let _woken = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().flatten() {
        match lock(&shared.state).mode {
            Mode::Closed => return,
            Mode::Cut => continue,
            Mode::Open | Mode::Stalled => {}
        }
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.target)) else {
            continue;
        };
        if lock(&shared.state).bytes_per_second.is_some() {
            set_socket_recv_buffer_size(&server, RATED_SOCKET_BYTES).expect("setting a buffer's size");
        }
        carry(&client, &server, Way::There, shared);
        carry(&server, &client, Way::Back, shared);
        lock(&shared.state).connections.extend([client, server]);
    }
}

/// Starts the two threads of one direction.
fn carry(from: &TcpStream, to: &TcpStream, way: Way, shared: &Arc<Shared>) {
    for end in [from, to] {
        end.set_nodelay(true).expect("TCP_NODELAY on a TCP socket");
    }
    let line = Arc::new(Line::default());
    let (mut from, mut to) = (duplicate(from), duplicate(to));
    let (filling, filled_with) = (Arc::clone(&line), Arc::clone(shared));
    std::thread::spawn(move || fill(&mut from, &filling, way, &filled_with));
    let shared = Arc::clone(shared);
    std::thread::spawn(move || empty(&mut to, &line, &shared));
}

fn fill(from: &mut TcpStream, line: &Line, way: Way, shared: &Shared) {
    let mut buffer = vec![0; shared.read_bytes()];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let due = shared.arrival(way, count);
        shared.wait_for_room(way);
        let mut state = lock(&line.state);
        while state.queued_bytes >= QUEUED_BYTES_MAX && !state.writer_ended {
            state = line.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.writer_ended {
            break;
        }
        state.queued_bytes += count;
        state.pieces.push_back((due, buffer[..count].to_vec()));
        line.changed.notify_all();
    }
    lock(&line.state).reader_ended = true;
    line.changed.notify_all();
}

fn empty(to: &mut TcpStream, line: &Line, shared: &Shared) {
    while let Some(piece) = next_due(line) {
        if !passable(shared) {
            break;
        }
        let allowed = shared.allowance(piece.len());
        if to.write_all(&piece[..allowed]).is_err() {
            break;
        }
        if allowed < piece.len() {
            shared.cut_as_told();
            break;
        }
    }
    lock(&line.state).writer_ended = true;
    line.changed.notify_all();
    // The other end may have closed it first.
    let _closed = to.shutdown(Shutdown::Write);
}

/// The next piece, at the moment it is due; `None` when no more will come.
fn next_due(line: &Line) -> Option<Vec<u8>> {
    let mut state = lock(&line.state);
    loop {
        let now = Instant::now();
        match state.pieces.front() {
            Some((due, _)) if *due <= now => break,
            Some((due, _)) => {
                let left = *due - now;
                state = line.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            None if state.reader_ended => return None,
            None => state = line.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }
    let (_, piece) = state.pieces.pop_front()?;
    state.queued_bytes -= piece.len();
    line.changed.notify_all();
    Some(piece)
}

/// Waits out a stall. `false` when the connection is to end.
fn passable(shared: &Shared) -> bool {
    let mut state = lock(&shared.state);
    while state.mode == Mode::Stalled {
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    state.mode == Mode::Open
}

fn duplicate(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("duplicating a socket")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
