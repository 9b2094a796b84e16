//! An agent made of nothing but the protocol: the test says what it answers, and when.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use remote::client::{AgentClient, ByteStream, ConnectError, ConnectOptions, EventSink, LinkLost};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use wire::agent::file::{Changed, FileReply, FileRequest, Time};
use wire::agent::{AgentFrame, ClientFrame, Errno, Failure, Reply, Request, RequestId, Sequence};
use wire::frame::{PREFACE, PREFIX_BYTES, Prefix, decode_head, encode_head};
use wire::hello::{Hello, SessionId};

/// No test takes this long.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The far end of a link.
pub struct Peer {
    pub stream: DuplexStream,
    /// Of a payload whose frame has not come yet.
    pieces: Vec<u8>,
}

impl Peer {
    pub fn over(stream: DuplexStream) -> Peer {
        Peer { stream, pieces: Vec::new() }
    }
}

/// A request as the agent sees it.
#[derive(Debug)]
pub struct Asked {
    pub id: RequestId,
    pub sequence: Sequence,
    pub body: Request,
    pub payload: Vec<u8>,
}

/// Keeps what it is told.
#[derive(Default)]
pub struct Log {
    pub changes: Mutex<Vec<Changed>>,
    pub leases_lost: Mutex<usize>,
    pub lost: Mutex<Vec<LinkLost>>,
}

impl EventSink for Log {
    fn changed(&self, changed: Changed) {
        self.changes.lock().push(changed);
    }

    fn leases_lost(&self) {
        *self.leases_lost.lock() += 1;
    }

    fn link_lost(&self, lost: &LinkLost) {
        self.lost.lock().push(lost.clone());
    }
}

pub fn encoded<T: serde::Serialize>(head: &T, payload: &[u8]) -> Vec<u8> {
    let mut frame = encode_head(head, payload.len()).unwrap();
    frame.extend_from_slice(payload);
    frame
}

pub fn greeting() -> Vec<u8> {
    greeting_of(0)
}

/// The greeting of an agent that can do these.
fn greeting_of(capabilities: u64) -> Vec<u8> {
    let mut greeting = PREFACE.to_vec();
    greeting.extend(encoded(&Hello::new(capabilities, SessionId([7; 16])), b""));
    greeting
}

pub fn reply(id: RequestId, last: bool, body: Reply, payload: &[u8]) -> Vec<u8> {
    encoded(&AgentFrame::Reply { id, last, body: Ok(body) }, payload)
}

pub fn data(id: RequestId, payload: &[u8]) -> Vec<u8> {
    reply(id, true, Reply::File(FileReply::Data), payload)
}

pub fn done(id: RequestId) -> Vec<u8> {
    reply(id, true, Reply::File(FileReply::Done), b"")
}

pub fn failure(id: RequestId, errno: u16, detail: &str) -> Vec<u8> {
    let body = Err(Failure { errno: Errno(errno), detail: detail.to_owned() });
    encoded(&AgentFrame::Reply { id, last: true, body }, b"")
}

/// A link whose far end the test plays, past the greetings.
pub async fn link() -> (AgentClient, Peer, Arc<Log>) {
    let log = Arc::new(Log::default());
    let (client, peer) = link_with(log.clone(), 1 << 20).await;
    (client, peer, log)
}

pub async fn link_with(sink: Arc<dyn EventSink>, buffer: usize) -> (AgentClient, Peer) {
    link_of(ConnectOptions::default(), 0, sink, buffer).await
}

/// A link with these options to an agent that can do `theirs`.
pub async fn link_of(
    options: ConnectOptions,
    theirs: u64,
    sink: Arc<dyn EventSink>,
    buffer: usize,
) -> (AgentClient, Peer) {
    let (near, stream) = tokio::io::duplex(buffer);
    let mut peer = Peer::over(stream);
    let connecting = AgentClient::connect(ByteStream::new(near), options, sink);
    let (client, ()) = tokio::join!(connecting, async {
        peer.send(&greeting_of(theirs)).await;
        peer.greeted().await;
    });
    (client.unwrap(), peer)
}

/// What becomes of a link whose far end says `bytes` and then, if `end`, nothing more.
pub async fn connect_to(bytes: &[u8], end: bool) -> Result<AgentClient, ConnectError> {
    let (near, mut stream) = tokio::io::duplex(1 << 20);
    stream.write_all(bytes).await.unwrap();
    let options = ConnectOptions { timeout: Duration::from_millis(200), ..ConnectOptions::default() };
    if end {
        stream.shutdown().await.unwrap();
    }
    AgentClient::connect(ByteStream::new(near), options, Arc::new(Log::default())).await
}

impl Peer {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads the client's greeting.
    pub async fn greeted(&mut self) -> Hello {
        let mut preface = [0; PREFACE.len()];
        self.stream.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, PREFACE);
        let (head, _) = self.frame().await.unwrap();
        decode_head(&head).unwrap()
    }

    async fn frame(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        loop {
            let mut prefix = [0; PREFIX_BYTES];
            self.stream.read_exact(&mut prefix).await.ok()?;
            let prefix = Prefix::parse_any(prefix).unwrap();
            let mut head = vec![0; prefix.head as usize];
            let mut payload = if prefix.continues { std::mem::take(&mut self.pieces) } else { Vec::new() };
            let mut rest = vec![0; prefix.payload as usize];
            self.stream.read_exact(&mut head).await.ok()?;
            self.stream.read_exact(&mut rest).await.ok()?;
            if prefix.is_piece() {
                self.pieces.extend(rest);
                continue;
            }
            payload.extend(rest);
            return Some((head, payload));
        }
    }

    /// The client's next frame, but for pings by which it learns what has arrived, which are answered; `None` when the
    /// stream has ended.
    pub async fn next(&mut self) -> Option<(ClientFrame, Vec<u8>)> {
        loop {
            let (head, payload) = tokio::time::timeout(DEADLINE, self.frame()).await.unwrap()?;
            match decode_head(&head).unwrap() {
                ClientFrame::Ping { nonce } if nonce >> 63 == 1 => {
                    // A client that has closed the stream is found at the next frame.
                    let pong = encoded(&AgentFrame::Pong { nonce, clock: Time::default() }, b"");
                    drop(self.stream.write_all(&pong).await);
                }
                frame => return Some((frame, payload)),
            }
        }
    }

    /// The client's next frame, which must be a request.
    pub async fn asked(&mut self) -> Asked {
        match self.next().await {
            Some((ClientFrame::Request { id, sequence, body }, payload)) => {
                Asked { id, sequence, body, payload }
            }
            other => panic!("no request: {other:?}"),
        }
    }
}

pub fn read_request(offset: u64) -> Request {
    Request::File(FileRequest::Read { handle: wire::agent::HandleId(1), offset, length: 1 << 20 })
}

pub fn list_request(window: u32) -> Request {
    Request::File(FileRequest::List { directory: wire::agent::file::Place::default(), from: 0, window })
}

pub fn nothing() -> Bytes {
    Bytes::new()
}

/// The answer, within the deadline.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("the deadline has passed")
}
