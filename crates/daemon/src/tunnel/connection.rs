//! One connection of a tunnel, at this end: a task, and what the far end says of it in a mailbox.
//!
//! ```text
//!  far end ──► mailbox ──► task ◄──► socket
//!                           └──► frames for the far end
//! ```
//!
//! The mailbox takes what comes at once, so that no connection holds another one up. It has no more than the far end was
//! allowed to send.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{Notify, mpsc};
use wire::agent::Failure;
use wire::agent::tunnel::{CREDIT_FIRST_BYTES, ConnectionId, Credit, DATA_BYTES_MAX, Overdrawn, TunnelFrame};
use wire::endpoint::Endpoint;

use super::place::Socket;
use super::{OVERDRAWN, Said};

/// What is said where there are too many.
const EAGAIN: wire::agent::Errno = wire::agent::Errno(11);

/// What the far end has said of a connection, and its task has not seen.
#[derive(Default)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    told: Notify,
}

#[derive(Default)]
struct State {
    /// What the far end may send.
    allowed: Credit,
    arrived: Arrived,
}

/// What has come, all together.
#[derive(Default)]
struct Arrived {
    data: BytesMut,
    credit: u32,
    end: bool,
    reset: bool,
}

impl Mailbox {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something in. Fails when the far end breaks the protocol.
    fn put(&self, put: impl FnOnce(&mut State) -> Result<(), Overdrawn>) -> Result<(), Overdrawn> {
        let done = put(&mut self.locked());
        self.told.notify_one();
        done
    }

    fn data(&self, bytes: &[u8]) -> Result<(), Overdrawn> {
        self.put(|state| {
            if state.arrived.end {
                return Err(Overdrawn);
            }
            state.allowed.spend(bytes.len())?;
            state.arrived.data.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn credit(&self, bytes: u32) -> Result<(), Overdrawn> {
        self.put(|state| {
            state.arrived.credit = state.arrived.credit.checked_add(bytes).ok_or(Overdrawn)?;
            Ok(())
        })
    }

    fn end(&self) -> Result<(), Overdrawn> {
        self.put(|state| {
            state.arrived.end = true;
            Ok(())
        })
    }

    fn reset(&self) -> Result<(), Overdrawn> {
        self.put(|state| {
            state.arrived.reset = true;
            Ok(())
        })
    }

    /// The far end may send so much more.
    fn allow(&self, bytes: u32) -> Result<(), Overdrawn> {
        self.locked().allowed.allow(bytes)
    }

    fn take(&self) -> Arrived {
        let arrived = &mut self.locked().arrived;
        let end = arrived.end;
        let taken = std::mem::take(arrived);
        // Nothing may come behind it.
        arrived.end = end;
        taken
    }
}

/// The connections of a tunnel.
pub(super) struct Carried {
    mailboxes: HashMap<u64, Arc<Mailbox>>,
    /// How many there are, for whoever asks.
    count: Arc<AtomicU64>,
}

impl Carried {
    pub fn new(count: Arc<AtomicU64>) -> Carried {
        Carried { mailboxes: HashMap::new(), count }
    }

    pub fn len(&self) -> usize {
        self.mailboxes.len()
    }

    /// Takes a connection in. `None` when the number is taken, or there are too many.
    pub fn open(&mut self, ConnectionId(id): ConnectionId) -> Option<Arc<Mailbox>> {
        // The far end knows of those here that have ended there.
        let is_refused = self.mailboxes.contains_key(&id) || self.len() >= 2 * super::CONNECTIONS_MAX;
        if is_refused {
            return None;
        }
        let mailbox = Arc::new(Mailbox::default());
        self.mailboxes.insert(id, Arc::clone(&mailbox));
        self.count.store(self.len() as u64, Ordering::Relaxed);
        Some(mailbox)
    }

    pub fn close(&mut self, ConnectionId(id): ConnectionId) {
        self.mailboxes.remove(&id);
        self.count.store(self.len() as u64, Ordering::Relaxed);
    }

    /// Puts what the far end says where it belongs. Says how the far end breaks the protocol, if it does.
    pub fn hear(&self, frame: TunnelFrame, data: &[u8]) -> Result<(), String> {
        let find = |ConnectionId(id): ConnectionId| self.mailboxes.get(&id);
        let heard = match frame {
            TunnelFrame::Data { connection } => find(connection).map(|mailbox| mailbox.data(data)),
            TunnelFrame::Credit { connection, bytes } => {
                find(connection).map(|mailbox| mailbox.credit(bytes))
            }
            TunnelFrame::End { connection } => find(connection).map(|mailbox| mailbox.end()),
            TunnelFrame::Reset { connection, failure } => {
                if let Some(Failure { errno, detail }) = failure {
                    let why = ::remote::errno::here(errno);
                    tracing::debug!(%why, %detail, "a connection was not made at the far end of a tunnel");
                }
                find(connection).map(|mailbox| mailbox.reset())
            }
            TunnelFrame::Open { .. }
            | TunnelFrame::Connect(_)
            | TunnelFrame::Listen(_)
            | TunnelFrame::Ready(_)
            | TunnelFrame::Failed(_) => return Err(OVERDRAWN.to_owned()),
        };
        // One that is not known has been closed or reset meanwhile.
        heard.unwrap_or(Ok(())).map_err(|overdrawn| overdrawn.to_string())
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.count.store(0, Ordering::Relaxed);
    }
}

/// Connects to this end of a tunnel for a connection that was accepted at the far end, and carries it.
pub(super) async fn join(
    to: Endpoint,
    id: ConnectionId,
    window: u32,
    mailbox: Arc<Mailbox>,
    say: mpsc::Sender<Said>,
) -> ConnectionId {
    match Socket::connect(&to).await {
        Ok(socket) => carry(socket, id, window, mailbox, say).await,
        Err(error) => {
            tracing::debug!(%to, %error, "a connection was not made at this end of a tunnel");
            let errno = rustix::io::Errno::from_io_error(&error).map(::remote::errno::there);
            let failure = Failure { errno: errno.unwrap_or(wire::agent::Errno(0)), detail: String::new() };
            reset(id, Some(failure), &say).await;
            id
        }
    }
}

/// Tells the far end that there are too many here.
pub(super) async fn refuse(id: ConnectionId, say: mpsc::Sender<Said>) -> ConnectionId {
    let failure = Failure { errno: EAGAIN, detail: String::new() };
    reset(id, Some(failure), &say).await;
    id
}

async fn reset(connection: ConnectionId, failure: Option<Failure>, say: &mpsc::Sender<Said>) {
    // If nobody takes it, the tunnel ends.
    let _ = say.send((TunnelFrame::Reset { connection, failure }, Bytes::new())).await;
}

/// Carries a connection until both directions have ended, or it breaks.
pub(super) async fn carry(
    socket: Socket,
    id: ConnectionId,
    window: u32,
    mailbox: Arc<Mailbox>,
    say: mpsc::Sender<Said>,
) -> ConnectionId {
    let mut connection = Connection {
        socket,
        id,
        mailbox,
        say,
        window,
        untold: window - CREDIT_FIRST_BYTES,
        send: Credit::default(),
        pending: BytesMut::new(),
        has_ended: false,
        is_ended: false,
        is_shut: false,
    };
    match connection.run().await {
        Ok(()) => connection.socket.complete(),
        Err(Broken::There) => {}
        Err(Broken::Here) => reset(id, None, &connection.say).await,
    }
    id
}

/// Where a connection broke.
enum Broken {
    /// The far end is to be told.
    Here,
    /// It knows, or is gone.
    There,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Broken {
        Broken::Here
    }
}

impl From<Overdrawn> for Broken {
    fn from(_: Overdrawn) -> Broken {
        Broken::Here
    }
}

struct Connection {
    socket: Socket,
    id: ConnectionId,
    mailbox: Arc<Mailbox>,
    say: mpsc::Sender<Said>,
    window: u32,
    /// What the socket has taken and the far end has not been told of.
    untold: u32,
    /// What may be sent to the far end.
    send: Credit,
    /// What the socket has not taken.
    pending: BytesMut,
    /// Nothing more comes from the socket.
    has_ended: bool,
    /// Nothing more comes from the far end.
    is_ended: bool,
    is_shut: bool,
}

impl Connection {
    async fn run(&mut self) -> Result<(), Broken> {
        self.tell().await?;
        loop {
            self.take()?;
            self.write()?;
            if self.untold >= self.window / 4 {
                self.tell().await?;
            }
            if self.is_shut && self.has_ended {
                return Ok(());
            }
            let reads = !self.has_ended && self.send.bytes() > 0;
            tokio::select! {
                () = self.mailbox.told.notified() => {}
                ready = self.socket.writable(), if !self.pending.is_empty() => ready?,
                ready = self.socket.readable(), if reads => {
                    ready?;
                    self.read().await?;
                }
            }
        }
    }

    fn take(&mut self) -> Result<(), Broken> {
        let arrived = self.mailbox.take();
        if arrived.reset {
            return Err(Broken::There);
        }
        self.send.allow(arrived.credit)?;
        match self.pending.is_empty() {
            true => self.pending = arrived.data,
            false => self.pending.extend_from_slice(&arrived.data),
        }
        self.is_ended |= arrived.end;
        Ok(())
    }

    fn write(&mut self) -> Result<(), Broken> {
        while !self.pending.is_empty() {
            match self.socket.try_write(&self.pending) {
                Ok(bytes) => {
                    self.pending.advance(bytes);
                    self.untold += bytes as u32;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        // What a burst took is not kept.
        self.pending = BytesMut::new();
        if self.is_ended && !self.is_shut {
            self.is_shut = true;
            if let Err(error) = self.socket.shut()
                && !self.has_ended
            {
                return Err(error.into());
            }
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), Broken> {
        let most = self.send.bytes().min(DATA_BYTES_MAX);
        let bytes = match self.socket.try_read(most) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if bytes.is_empty() {
            self.has_ended = true;
            return self.tell_of(TunnelFrame::End { connection: self.id }, Bytes::new()).await;
        }
        self.send.spend(bytes.len())?;
        self.tell_of(TunnelFrame::Data { connection: self.id }, bytes.into()).await
    }

    /// Tells the far end what has been taken.
    async fn tell(&mut self) -> Result<(), Broken> {
        let bytes = std::mem::take(&mut self.untold);
        if bytes == 0 || self.is_ended {
            return Ok(());
        }
        self.mailbox.allow(bytes)?;
        self.tell_of(TunnelFrame::Credit { connection: self.id, bytes }, Bytes::new()).await
    }

    async fn tell_of(&self, frame: TunnelFrame, data: Bytes) -> Result<(), Broken> {
        self.say.send((frame, data)).await.map_err(|_| Broken::There)
    }
}

#[cfg(test)]
mod tests;
