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
//! **The end.** A client of one stream ([`AgentClient::connect`]) ends with it, for one [`LinkLost`] reason: every request
//! ends with that reason, and so does every later one.
//!
//! **Going on.** A client with a way to get another stream ([`AgentClient::lasting`]) goes on when one is lost: the agent
//! keeps the session, and what has no answer is sent again. See [`relink`].

mod asleep;
mod call;
mod counters;
mod error;
mod file;
mod flight;
mod held;
mod input;
mod lanes;
mod outbox;
mod pending;
mod process;
mod recover;
pub mod relink;
mod repeat;
mod request;
mod sequence;
mod session;
mod socket;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use wire::agent::file::{Changed, Time};
use wire::agent::process::ProcessId;
use wire::agent::{ClientFrame, Description, HandleId, Reply, Request, Sequence};
use wire::frame::{PREFACE, decode_head, encode_head};
use wire::hello::capability::PACKING;
use wire::hello::{Hello, SessionId};

pub use call::{Call, ReplyStream, TypedCall};
pub use counters::Counters;
pub use error::{CallError, ConnectError, LinkLost, Noise};
pub use file::{
    Attached, DirectoryPage, FileOutcome, FoundPage, GotMany, Located, Looked, MadeMany, Opened, PageStream,
    RemovalPage, Removed, Renamed, SearchPage, WalkPage, WatchPage, Written,
};
pub use held::{Export, HeldFile, HeldLock};
pub use process::{ProcessEvent, ProcessStream};

use call::{CallState, StreamState};
use input::{Input, NoPreface};
use outbox::Lane;
use pending::Patience;
use relink::{Away, Event, SessionMark};
use sequence::Sequences;
use session::{Halves, Manner, Session};

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

impl TryFrom<tokio::net::UnixStream> for ByteStream {
    type Error = std::io::Error;

    /// Within a tokio runtime.
    fn try_from(stream: tokio::net::UnixStream) -> std::io::Result<ByteStream> {
        let (reader, writer) = socket::halves(stream)?;
        Ok(ByteStream { reader: Box::new(reader), writer: Box::new(writer) })
    }
}

/// Gets what the agent tells without being asked, on the reader task, in the order of the stream.
///
/// While a method runs, the link reads nothing: it must be short and must never wait, least of all for a reply. It may
/// send requests.
pub trait EventSink: Send + Sync {
    /// Something that a lease covers has changed.
    fn changed(&self, changed: Changed);
    /// Every lease has ended: changes may have been missed. Also called before anything of a new stream is told.
    fn leases_lost(&self);
    /// It is over: called once, on any thread, after every request has been told.
    fn link_lost(&self, lost: &LinkLost);
    /// What has become of the link of a client that goes on with others.
    fn link_changed(&self, event: &Event) {
        let _ = event;
    }
    /// Numbers of mutations up to this one may be used from now on. Called before they are, on the thread that needs one,
    /// while all others who need one wait: it must not ask anything of the client.
    fn reserved(&self, through: Sequence) {
        let _ = through;
    }
    /// The agent's session is another, or has become what the client had. Called before anything is asked of it, and
    /// before anybody may send.
    fn session_marked(&self, mark: &SessionMark) {
        let _ = mark;
    }
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
    /// How long the agent is to keep the session when its stream is gone, in seconds; 0 ends it with the stream.
    pub keep_seconds: u32,
    /// How long the agent may take to say hello.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        use wire::hello::capability::{LEASES, LOCKS, PROCESSES};
        let capabilities = LEASES | LOCKS | PROCESSES;
        ConnectOptions {
            session: SessionId::default(),
            capabilities,
            keep_seconds: 0,
            timeout: HELLO_TIMEOUT,
        }
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

/// A session with an agent. Clones are handles to the same session, which ends with the last of them, unless that is dropped
/// by a panic: then it is left to a successor, as by [`AgentClient::leave`].
#[derive(Clone)]
pub struct AgentClient {
    session: Arc<Session>,
    manner: Manner,
    /// Absent for those who serve the session itself.
    _close: Option<Arc<CloseOnDrop>>,
}

impl std::fmt::Debug for AgentClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentClient")
            .field("peer", &self.session.peer())
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

struct CloseOnDrop(Arc<Session>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        // What a bug has ended may be gone on with by another process.
        if !std::thread::panicking() {
            self.0.say_goodbye();
        }
        self.0.close(LinkLost::Closed);
    }
}

/// A stream on which both sides have said hello.
pub struct Introduced {
    halves: Halves,
}

impl std::fmt::Debug for Introduced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Introduced").field("peer", &self.halves.peer).finish_non_exhaustive()
    }
}

impl Introduced {
    /// Says hello to the agent at the other end of `stream`.
    ///
    /// Whatever comes before the agent's preface, such as a login's banner, is skipped, up to
    /// [`wire::frame::NOISE_BYTES_MAX`].
    pub async fn over(stream: ByteStream, options: ConnectOptions) -> Result<Introduced, ConnectError> {
        let ours =
            Hello { keep_seconds: options.keep_seconds, ..Hello::new(options.capabilities, options.session) };
        let ByteStream { reader, mut writer } = stream;
        let mut input = Input::new(reader);
        let hello = tokio::time::timeout(options.timeout, introduce(&ours, &mut input, &mut writer)).await;
        let Ok(theirs) = hello else {
            return Err(ConnectError::TimedOut { allowed: options.timeout, noise: input.noise() });
        };
        let peer = theirs?;
        ours.agree(&peer)?;
        let packs = ours.capabilities & peer.capabilities & PACKING != 0;
        Ok(Introduced { halves: Halves { input, writer, peer, packs } })
    }

    /// What the agent said of itself.
    pub fn peer(&self) -> &Hello {
        &self.halves.peer
    }

    /// Tells the agent that its session is over, and closes the stream.
    pub(crate) async fn goodbye(mut self) -> Result<(), LinkLost> {
        let frame = encode_head(&ClientFrame::Goodbye, 0)?;
        let writer = &mut self.halves.writer;
        let said = async {
            writer.write_all(&frame).await?;
            writer.flush().await
        };
        Ok(said.await?)
    }
}

impl AgentClient {
    /// Says hello to the agent at the other end of `stream` and starts a session that ends with it. Must be called within
    /// a tokio runtime, whose tasks then serve the link.
    ///
    /// `sink` may be called before this returns.
    pub async fn connect(
        stream: ByteStream,
        options: ConnectOptions,
        sink: Arc<dyn EventSink>,
    ) -> Result<AgentClient, ConnectError> {
        Ok(AgentClient::over(Introduced::over(stream, options).await?, sink))
    }

    /// As [`AgentClient::connect`], when both sides have said hello.
    pub(crate) fn over(stream: Introduced, sink: Arc<dyn EventSink>) -> AgentClient {
        let session = Session::new(stream.halves.peer.clone(), None, Sequences::default(), sink);
        session.start();
        if let Some(generation) = session.attach(stream.halves) {
            session.open(generation);
        }
        AgentClient::of(session)
    }

    fn of(session: Arc<Session>) -> AgentClient {
        let close = Some(Arc::new(CloseOnDrop(session.clone())));
        let manner = Manner { lane: Lane::Ordinary, patience: Patience::Some, sequence: None };
        AgentClient { session, manner, _close: close }
    }

    /// For what makes a new session of the agent's the old one's equal. Does not keep the session open.
    fn recovering(session: &Arc<Session>) -> AgentClient {
        let manner = Manner { lane: Lane::Recovery, patience: Patience::Endless, sequence: None };
        AgentClient { session: session.clone(), manner, _close: None }
    }

    /// The same session, with requests that wait for a machine that is away for as long as anybody tries to reach it: for
    /// what has been promised already.
    pub fn patient(&self) -> AgentClient {
        AgentClient { manner: Manner { patience: Patience::Endless, ..self.manner }, ..self.clone() }
    }

    /// What the agent said of itself, last.
    pub fn peer(&self) -> Arc<Hello> {
        self.session.peer()
    }

    /// Sets a number aside under which one mutation can be sent [later](AgentClient::with_sequence), also again by a
    /// successor of this process: the agent carries it out once, and answers it each time the same, until the number is
    /// [settled](AgentClient::settled). `None` if the agent has to keep too many replies already.
    pub fn next_sequence(&self) -> Option<Sequence> {
        self.session.set_aside()
    }

    /// The same session, whose next mutation, and no more than one, is sent under this number, set aside by this process
    /// or by its predecessor.
    pub fn with_sequence(&self, sequence: Sequence) -> AgentClient {
        AgentClient { manner: Manner { sequence: Some(sequence), ..self.manner }, ..self.clone() }
    }

    /// Nothing will be sent under this number any more, and nothing is under way.
    pub fn settled(&self, sequence: Sequence) {
        self.session.settle(sequence);
    }

    /// Sends a request that has one reply. For one that is streamed use [`AgentClient::stream`].
    ///
    /// Requests that change something get their sequence number here, in the order in which they are queued.
    pub fn call(&self, request: Request, payload: Bytes) -> Call {
        let (session, manner) = (&self.session, self.manner);
        let state = match session.try_admit(manner, &request, &payload) {
            true => match session.send_call(manner, request, payload) {
                Ok(asked) => CallState::Asked(asked),
                Err(error) => CallState::Refused(error),
            },
            false => CallState::Waiting(Box::pin(session.clone().call(manner, request, payload))),
        };
        Call { state }
    }

    /// Sends a request that is answered by a stream of replies. Its `window` must not be 0: nothing would ever come.
    pub fn stream(&self, request: Request, payload: Bytes) -> ReplyStream {
        let window = request::window(&request).unwrap_or_default() as usize;
        let (session, manner) = (&self.session, self.manner);
        let state = match session.try_admit(manner, &request, &payload) {
            true => match session.send_stream(manner, request, payload, window) {
                Ok(asked) => StreamState::Asked(asked),
                Err(error) => StreamState::Refused(error),
            },
            false => StreamState::Waiting(Box::pin(session.clone().stream(manner, request, payload, window))),
        };
        ReplyStream { state, window, owed: 0 }
    }

    fn typed<T>(
        &self,
        request: Request,
        payload: Bytes,
        read: fn(Reply, Bytes) -> Option<T>,
    ) -> TypedCall<T> {
        TypedCall { call: self.call(request, payload), session: self.session.clone(), read }
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
        let answer = self.session.ping().await?;
        match answer.await {
            Ok(answered) => Ok(answered.saturating_duration_since(start)),
            Err(_) => Err(self.session.lost_reason()),
        }
    }

    /// A time that the machine's clock has certainly reached, unless it was put back since it was last pinged; `None` before
    /// it has answered a ping.
    pub fn clock(&self) -> Option<Time> {
        self.session.clock()
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
                self.session.lose(None, LinkLost::Silent { missed });
                return self.session.lost_reason();
            }
        }
    }

    /// Waits for the end of the session.
    pub async fn lost(&self) -> LinkLost {
        self.session.until_over().await
    }

    /// Whether the session is over. One that waits for another stream is not.
    pub fn is_lost(&self) -> bool {
        self.session.is_over()
    }

    /// Whether there is no stream now, and for how long requests wait for one.
    pub fn away(&self) -> Option<Away> {
        relink::away(&self.session)
    }

    /// Ends the session at once, for every clone. What is queued is not sent.
    pub fn close_link(&self) {
        self.session.say_goodbye();
        self.session.close(LinkLost::Closed);
    }

    /// Ends this side of the session at once, for every clone, and leaves the agent's to a successor, which has what
    /// [`AgentClient::resumption`] says. The agent keeps it for as long as after the loss of a stream.
    pub fn leave(&self) {
        self.session.close(LinkLost::Closed);
    }

    /// Ends the session for every clone when what is queued has been sent, or after a second. Says whether the agent has
    /// been told; if not, it keeps the session for as long as after the loss of a stream.
    pub async fn goodbye(&self) -> bool {
        self.session.say_goodbye();
        let is_told = self.session.drained().await;
        self.session.close(LinkLost::Closed);
        is_told
    }

    pub(super) fn misanswered(&self, reply: &'static str) -> LinkLost {
        self.session.misanswered(reply)
    }

    /// How many bytes more are well asked for now by who reads ahead, and how many in one request: enough to keep the link
    /// busy, and not so much that others wait long behind it.
    pub fn reach(&self) -> (usize, usize) {
        self.session.reach()
    }

    /// What the link has done so far.
    pub fn counters(&self) -> Counters {
        self.session.tally.read()
    }

    /// How many requests wait for their last reply.
    pub fn in_flight(&self) -> usize {
        self.session.in_flight()
    }

    /// A handle's name that this client has not used before, and none of the files that it was told of has.
    pub fn new_handle(&self) -> HandleId {
        HandleId(self.session.handles.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A name for a file that is open for moments while the session is recovered; no caller's names are so high.
    fn recovery_handle(&self) -> HandleId {
        HandleId(u64::MAX - self.new_handle().0)
    }

    /// A process's name that this client has not used before.
    pub fn new_process(&self) -> ProcessId {
        ProcessId(self.session.processes.fetch_add(1, Ordering::Relaxed) + 1)
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
