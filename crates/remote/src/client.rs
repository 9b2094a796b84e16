//! The client's side of the agent protocol, over any byte stream.
//!
//! ```text
//! callers ──push──► outbox ──► stream ──► agent        a caller writes its own frame when nobody else is writing
//! callers ◄─answer─ pending ◄─ reader task ◄─ stream   the reader task completes the callers itself
//! sink    ◄─changed/leases_lost─┘                      inline, in the order of the stream
//! ```
//!
//! **Order.** The reader task takes one frame after the other. It calls the [`EventSink`] for a change before it looks
//! at the next frame, so whoever gets a reply knows that every change which the agent told before it has been seen by
//! the sink.
//!
//! **Limits.** The number of unanswered requests, the bytes that wait to be written, the mutations whose replies the
//! agent has to keep, the bytes of a stream that nobody has taken and the pings are all bounded; a request beyond a
//! bound waits for room.
//!
//! **The end.** A link is lost once, for one [`LinkLost`] reason. Every request on it ends with that reason, and so
//! does every later one. Nothing is retried here.

mod acknowledge;
mod call;
mod counters;
mod error;
mod file;
mod input;
mod link;
mod outbox;
mod pending;
mod process;
mod request;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use wire::agent::file::Changed;
use wire::agent::process::ProcessId;
use wire::agent::{Description, HandleId, Reply, Request};
use wire::frame::{PREFACE, decode_head, encode_head};
use wire::hello::{Hello, SessionId};

pub use call::{Call, ReplyStream, TypedCall};
pub use counters::Counters;
pub use error::{CallError, ConnectError, LinkLost, Noise};
pub use file::{
    Attached, DirectoryPage, FileOutcome, Located, Looked, Opened, PageStream, Removed, WalkPage, WatchPage,
    Written,
};
pub use process::{ProcessEvent, ProcessStream};

use call::{CallState, StreamState};
use input::{Input, NoPreface};
use link::Link;
use outbox::Outbox;

/// How long an agent may take to say hello. A far login may ask a directory service and run a profile first.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// A connected byte stream in both directions, as [`crate::transport`] makes them.
pub struct ByteStream {
    /// What the agent sends.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What the agent gets.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

impl ByteStream {
    /// Both directions of one object. Reading and writing wait for each other: for a socket, use its own halves.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> ByteStream {
        let (reader, writer) = tokio::io::split(stream);
        ByteStream { reader: Box::new(reader), writer: Box::new(writer) }
    }
}

impl From<tokio::net::UnixStream> for ByteStream {
    fn from(stream: tokio::net::UnixStream) -> ByteStream {
        let (reader, writer) = stream.into_split();
        ByteStream { reader: Box::new(reader), writer: Box::new(writer) }
    }
}

/// Gets what the agent tells without being asked, on the reader task, in the order of the stream.
///
/// While a method runs, the link reads nothing: it must be short and must never wait, least of all for a reply. It may
/// send requests.
pub trait EventSink: Send + Sync {
    /// Something that a lease covers has changed.
    fn changed(&self, changed: Changed);
    /// Every lease has ended: changes may have been missed.
    fn leases_lost(&self);
    /// The link is gone; called once, on any thread, after every request has been told.
    fn link_lost(&self, lost: &LinkLost);
}

/// Takes no notice of anything: for clients that hold no leases.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEvents;

impl EventSink for NoEvents {
    fn changed(&self, _: Changed) {}
    fn leases_lost(&self) {}
    fn link_lost(&self, _: &LinkLost) {}
}

/// How to start a link.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions {
    /// The session to resume; the default asks for a new one.
    pub session: SessionId,
    /// What this client can do: bits of [`wire::hello::capability`].
    pub capabilities: u64,
    /// How long the agent may take to say hello.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        use wire::hello::capability::{LEASES, LOCKS, PROCESSES};
        let capabilities = LEASES | LOCKS | PROCESSES;
        ConnectOptions { session: SessionId::default(), capabilities, timeout: HELLO_TIMEOUT }
    }
}

/// When an agent that does not answer is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// How often it is asked, and how long it has to answer.
    pub interval: Duration,
    /// How many unanswered pings in a row end the link; 0 asks without consequence.
    pub failures_max: u32,
}

/// A link to an agent. Clones are handles to the same link, which closes with the last of them.
#[derive(Clone)]
pub struct AgentClient {
    link: Arc<Link>,
    peer: Arc<Hello>,
    _close: Arc<CloseOnDrop>,
}

impl std::fmt::Debug for AgentClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentClient")
            .field("peer", &self.peer)
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

struct CloseOnDrop(Arc<Link>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.lose(LinkLost::Closed);
    }
}

impl AgentClient {
    /// Says hello to the agent at the other end of `stream` and starts the link. Must be called within a tokio runtime,
    /// whose tasks then serve the link.
    ///
    /// Whatever comes before the agent's preface, such as a login's banner, is skipped, up to
    /// [`wire::frame::NOISE_BYTES_MAX`]. `sink` may be called before this returns.
    pub async fn connect(
        stream: ByteStream,
        options: ConnectOptions,
        sink: Arc<dyn EventSink>,
    ) -> Result<AgentClient, ConnectError> {
        let ours = Hello::new(options.capabilities, options.session);
        let ByteStream { reader, mut writer } = stream;
        let mut input = Input::new(reader);
        let hello = tokio::time::timeout(options.timeout, introduce(&ours, &mut input, &mut writer)).await;
        let Ok(theirs) = hello else {
            return Err(ConnectError::TimedOut { allowed: options.timeout, noise: input.noise() });
        };
        let theirs = theirs?;
        ours.agree(&theirs)?;
        let link = Arc::new(Link::new(Outbox::new(writer), sink));
        link.start(input);
        let close = Arc::new(CloseOnDrop(link.clone()));
        Ok(AgentClient { link, peer: Arc::new(theirs), _close: close })
    }

    /// What the agent said of itself.
    pub fn peer(&self) -> &Hello {
        &self.peer
    }

    /// Sends a request that has one reply. For one that is streamed use [`AgentClient::stream`].
    ///
    /// Requests that change something get their sequence number here, in the order in which they are queued.
    pub fn call(&self, request: Request, payload: Bytes) -> Call {
        let state = match self.link.try_admit(&request, &payload) {
            true => match self.link.send_call(request, payload) {
                Ok(asked) => CallState::Asked(asked),
                Err(error) => CallState::Refused(error),
            },
            false => CallState::Waiting(Box::pin(self.link.clone().call(request, payload))),
        };
        Call { state }
    }

    /// Sends a request that is answered by a stream of replies. Its `window` must not be 0: nothing would ever come.
    pub fn stream(&self, request: Request, payload: Bytes) -> ReplyStream {
        let window = request::window(&request).unwrap_or_default() as usize;
        let state = match self.link.try_admit(&request, &payload) {
            true => match self.link.send_stream(request, payload, window) {
                Ok(asked) => StreamState::Asked(asked),
                Err(error) => StreamState::Refused(error),
            },
            false => StreamState::Waiting(Box::pin(self.link.clone().stream(request, payload, window))),
        };
        ReplyStream { state, window, owed: 0 }
    }

    fn typed<T>(
        &self,
        request: Request,
        payload: Bytes,
        read: fn(Reply, Bytes) -> Option<T>,
    ) -> TypedCall<T> {
        TypedCall { call: self.call(request, payload), link: self.link.clone(), read }
    }

    /// Asks what machine this is.
    pub fn describe(&self) -> TypedCall<Description> {
        self.typed(Request::Describe, Bytes::new(), |reply, _| match reply {
            Reply::Description(description) => Some(description),
            Reply::File(_) | Reply::Process(_) => None,
        })
    }

    /// Measures a round trip to the agent and back, with whatever is queued before it.
    pub async fn ping(&self) -> Result<Duration, LinkLost> {
        let start = Instant::now();
        let answer = self.link.ping().await?;
        match answer.await {
            Ok(answered) => Ok(answered.saturating_duration_since(start)),
            Err(_) => Err(self.link.lost_reason()),
        }
    }

    /// Pings the agent for as long as the link lasts, and ends the link with [`LinkLost::Silent`] when too many pings in
    /// a row have not been answered in time. Each outcome is handed to `observe`: the round trip, or how many pings in a
    /// row have failed.
    pub async fn keep_alive(
        &self,
        heartbeat: Heartbeat,
        mut observe: impl FnMut(Result<Duration, u32>),
    ) -> LinkLost {
        let mut missed = 0;
        let mut ticks = tokio::time::interval(heartbeat.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match tokio::time::timeout(heartbeat.interval, self.ping()).await {
                Ok(Err(lost)) => return lost,
                Ok(Ok(round_trip)) => {
                    missed = 0;
                    observe(Ok(round_trip));
                }
                Err(_) => {
                    missed += 1;
                    observe(Err(missed));
                }
            }
            if heartbeat.failures_max > 0 && missed >= heartbeat.failures_max {
                self.link.lose(LinkLost::Silent { missed });
                return self.link.lost_reason();
            }
        }
    }

    /// Waits for the end of the link.
    pub async fn lost(&self) -> LinkLost {
        self.link.until_lost().await
    }

    /// Whether the link is gone.
    pub fn is_lost(&self) -> bool {
        self.link.is_lost()
    }

    /// Ends the link at once, for every clone. What is queued is not sent.
    pub fn close_link(&self) {
        self.link.lose(LinkLost::Closed);
    }

    /// What the link has done so far.
    pub fn counters(&self) -> Counters {
        self.link.tally.read()
    }

    /// How many requests wait for their last reply.
    pub fn in_flight(&self) -> usize {
        self.link.in_flight()
    }

    /// A handle's name that this client has not used before.
    pub fn new_handle(&self) -> HandleId {
        HandleId(self.link.handles.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A process's name that this client has not used before.
    pub fn new_process(&self) -> ProcessId {
        ProcessId(self.link.processes.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Sends this side's hello and reads the other's.
async fn introduce(
    ours: &Hello,
    input: &mut Input,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<Hello, ConnectError> {
    let mut greeting = PREFACE.to_vec();
    greeting.extend(encode_head(ours, 0).map_err(LinkLost::from)?);
    // A peer that has gone away has usually said why: that is read before the failure to write is believed.
    let sent = async {
        writer.write_all(&greeting).await?;
        writer.flush().await
    }
    .await;
    match input.skip_to_preface().await {
        Ok(()) => {}
        Err(NoPreface::Ended) => return Err(ConnectError::NotAnAgent { noise: input.noise(), ended: true }),
        Err(NoPreface::Flood) => return Err(ConnectError::NotAnAgent { noise: input.noise(), ended: false }),
        Err(NoPreface::Lost(lost)) => return Err(ConnectError::Lost(lost)),
    }
    sent.map_err(LinkLost::from)?;
    let frame = input.next().await?;
    Ok(decode_head::<Hello>(frame.head).map_err(LinkLost::from)?)
}
