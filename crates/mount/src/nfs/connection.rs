//! Connections: accepting them, reading calls, writing replies.
//!
//! ```text
//!   reader ──one task per call──► dispatch ──queue──► writer
//!     │                                                 │
//!     └────── waits while too much is under way ◄───────┘ a reply gives its room back once written
//! ```

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use nfs3_types::rpc::accept_stat_data;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use vfs::source::Source;

use super::Server;
use super::limits::{CALL_BYTES_MAX, CALLS_MAX, CONNECTIONS_MAX, STOP_WAIT_MAX};
use super::peer::{self, Peer, Stranger};
use super::rpc::{Call, NotACall, RecordError, Reply, read_record};
use super::{Audience, dispatch};

/// The procedure that does nothing, of both programs.
const NULL: u32 = 0;

/// Small replies are written together; large ones go past this.
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// How long accepting rests after the system has refused it: mostly for want of descriptors, which come back.
const ACCEPT_REST: std::time::Duration = std::time::Duration::from_millis(100);

/// Accepts connections until told to stop, then ends them.
pub async fn accept_all<S: Source>(
    server: &Arc<Server<S>>,
    listener: TcpListener,
    stopping: &mut watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
            _told = stopping.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((_, theirs)) if connections.len() >= CONNECTIONS_MAX => {
                tracing::warn!(%theirs, "connection refused: {CONNECTIONS_MAX} are open");
            }
            Ok((stream, theirs)) => {
                connections.spawn(serve(server.clone(), stream, theirs, stopping.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(STOP_WAIT_MAX, ended).await.is_err() {
        tracing::warn!("calls under way were left without a reply");
    }
}

/// What the calls of one connection share.
pub struct Connection {
    /// The other end's address.
    pub client: SocketAddr,
    /// Its user.
    pub peer: Peer,
}

async fn serve<S: Source>(
    server: Arc<Server<S>>,
    stream: TcpStream,
    client: SocketAddr,
    mut stopping: watch::Receiver<bool>,
) {
    let peer = match admitted(&server, &stream, client).await {
        Ok(peer) => peer,
        Err(stranger) => {
            tracing::warn!(%client, %stranger, "connection refused");
            return;
        }
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%client, %error, "replies may be delayed");
    }
    let (reading, writing) = stream.into_split();
    let (replies, queue) = mpsc::channel(CALLS_MAX);
    let mut writer = tokio::spawn(write_replies(writing, queue));
    let connection = Arc::new(Connection { client, peer });
    let written = tokio::select! {
        ended = read_calls(&server, &connection, reading, replies) => {
            if let Err(error) = ended {
                tracing::info!(%client, ?error, "connection closed");
            }
            None
        }
        written = &mut writer => Some(written),
        _told = stopping.wait_for(|stop| *stop) => None,
    };
    let written = match written {
        Some(written) => written,
        // Ends when the last call under way has given up its end of the queue.
        None => writer.await,
    };
    if let Ok(Err(error)) = written {
        tracing::info!(%client, %error, "connection closed with replies not taken");
    }
}

async fn admitted<S: Source>(
    server: &Server<S>,
    stream: &TcpStream,
    client: SocketAddr,
) -> Result<Peer, Stranger> {
    let ours = stream.local_addr().map_err(|_closed| Stranger::Gone)?;
    let peer = peer::identify(client, ours).await?;
    match peer {
        Peer::User(uid)
            if uid != 0 && uid != server.served.owner.0 && server.served.audience == Audience::Owner =>
        {
            Err(Stranger::Other(uid))
        }
        peer => Ok(peer),
    }
}

/// A reply on its way, with the room it takes.
struct Outgoing {
    reply: Reply,
    _room: Room,
}

/// Room for one call and its reply.
struct Room {
    _call: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// Answers a call for certain: also when its task panics.
struct Answer {
    xid: u32,
    /// Taken by the answer.
    room: Option<Room>,
    replies: mpsc::Sender<Outgoing>,
}

impl Answer {
    fn give(mut self, reply: Reply) {
        self.send(reply);
    }

    fn send(&mut self, reply: Reply) {
        let Some(room) = self.room.take() else { return };
        // The queue has a place for every call that can be under way, so only a closed connection refuses.
        let _closed = self.replies.try_send(Outgoing { reply, _room: room });
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.send(Reply::refused(self.xid, accept_stat_data::SYSTEM_ERR));
    }
}

async fn read_calls<S: Source>(
    server: &Arc<Server<S>>,
    connection: &Arc<Connection>,
    stream: OwnedReadHalf,
    replies: mpsc::Sender<Outgoing>,
) -> Result<(), RecordError> {
    let mut stream = BufReader::with_capacity(WRITE_BUFFER_BYTES, stream);
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    let bytes = Arc::new(Semaphore::new(CALL_BYTES_MAX));
    loop {
        let Ok(call_room) = calls.clone().acquire_owned().await else { return Ok(()) };
        let Some(record) = read_record(&mut stream).await? else { return Ok(()) };
        let (xid, work) = match Call::parse(record.clone()) {
            Ok(call) => (call.xid, Ok(call)),
            Err(NotACall::Refused(reply)) => (0, Err(reply)),
            Err(NotACall::Unanswerable) => return Ok(()),
        };
        let size = work.as_ref().map_or(0, dispatch::reply_bytes_max) + record.len();
        let size = u32::try_from(size.min(CALL_BYTES_MAX)).unwrap_or(u32::MAX);
        let Ok(bytes_room) = bytes.clone().acquire_many_owned(size).await else { return Ok(()) };
        let room = Some(Room { _call: call_room, _bytes: bytes_room });
        let answer = Answer { xid, room, replies: replies.clone() };
        match work {
            Err(reply) => answer.give(reply),
            Ok(call) => carry_out(server.clone(), connection.clone(), call, answer),
        }
    }
}

fn carry_out<S: Source>(server: Arc<Server<S>>, connection: Arc<Connection>, call: Call, answer: Answer) {
    // Not ended with its connection: what was begun is finished, so that its outcome is known.
    tokio::spawn(async move {
        let counted = (call.procedure != NULL).then_some(&server.counts);
        counted.inspect(|counts| counts.request());
        let mut work = std::pin::pin!(dispatch::dispatch(&server, &connection, call));
        let reply = match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            Poll::Ready(reply) => {
                counted.inspect(|counts| counts.hit());
                reply
            }
            Poll::Pending => work.await,
        };
        // What the reply counts for must be known to a successor before the client knows it.
        server.vfs.commit();
        answer.give(reply);
    });
}

async fn write_replies(stream: OwnedWriteHalf, mut queue: mpsc::Receiver<Outgoing>) -> std::io::Result<()> {
    let mut stream = BufWriter::with_capacity(WRITE_BUFFER_BYTES, stream);
    while let Some(Outgoing { reply, _room }) = queue.recv().await {
        reply.write(&mut stream).await?;
        if queue.is_empty() {
            stream.flush().await?;
        }
    }
    stream.shutdown().await
}
