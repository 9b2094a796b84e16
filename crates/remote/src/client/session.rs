//! What all users of one session share, and the streams beneath it.
//!
//! ```text
//!           attach            open                 detach
//!  away ──────────► recovering ──────► open ────────────────► away      a session that outlives its streams
//!   └─────────────────┴────────────────┴──────── close ─────► closed    every session, in the end
//! ```
//!
//! While there is no stream, requests are taken and kept, with all that it takes to send them. When one is opened, those
//! that have no answer are sent in the order in which they were made: those with a sequence number with the same one,
//! so that the agent carries each out once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use wire::agent::file::{FileReply, FileRequest};
use wire::agent::{
    AgentFrame, ClientFrame, Errno, Failure, REPLIES_KEPT_MAX, REQUESTS_IN_FLIGHT_MAX, Reply, Request,
    RequestId, Sequence,
};
use wire::frame::{Payload, amend, decode_head, encode_head};
use wire::hello::{Hello, SessionId};
use wire::packing::Packer;

use super::EventSink;
use super::call::{Asked, AskedStream, CancelOnDrop};
use super::counters::{Tally, add};
use super::error::{CallError, LinkLost};
use super::held::{Corrections, Held, Moment};
use super::input::Input;
use super::lanes::{Outgoing, What};
use super::outbox::{Gate, Generation, Lane, Outbox, WriteError, Written};
use super::pending::{
    Abandoned, Again, Arrived, Entry, Patience, Pending, Sent, StreamWaiter, Waiter, unasked,
};
use super::relink::SessionMark;
use super::request::{is_mutation, what};
use super::sequence::Sequences;

mod end;
mod pings;
mod way;

use pings::{PINGS_MAX, Pings};

/// Requests of this side in flight: a little below what makes the agent close the stream.
const IN_FLIGHT_MAX: usize = REQUESTS_IN_FLIGHT_MAX - 64;

/// Mutations whose replies the agent may still have to keep: as many as it keeps, less what is told in one go and what
/// it has not heard yet.
const UNACKNOWLEDGED_MAX: usize = REPLIES_KEPT_MAX - 1024;

/// Payload bytes that wait to be written: what keeps any link busy between two turns of the writer. So much is also taken
/// in while there is no stream.
const OUTBOX_BYTES_MAX: usize = 4 << 20;

const EBADF: Errno = Errno(9);
const ESTALE: Errno = Errno(116);

/// Whose request it is, how long it waits, and under which number it is to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) lane: Lane,
    pub(super) patience: Patience,
    /// A number that was set aside for the mutation; one that was not is given the next.
    pub(super) sequence: Option<Sequence>,
}

impl Manner {
    /// Whether the request is to be given a number.
    fn wants_number(self, request: &Request) -> bool {
        self.sequence.is_none() && is_mutation(request)
    }
}

/// Whether there is a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Requests are sent.
    Linked,
    /// They wait for another stream.
    Away(LinkLost),
    /// It is over.
    Over(LinkLost),
}

/// The state of one session.
pub(super) struct Session {
    outbox: Outbox,
    pending: Pending,
    sequences: Mutex<Sequences>,
    pings: Mutex<Pings>,
    sink: Arc<dyn EventSink>,
    standing: watch::Sender<Standing>,
    peer: Mutex<Arc<Hello>>,
    /// What it has on the machine; `None` in a session that ends with its stream.
    held: Option<Mutex<Held>>,
    /// Whether the agent's present session is not yet equal to the one before.
    unrecovered: AtomicBool,
    /// Goodbye has been said: with the next stream there would be another session, which nobody would end.
    parting: AtomicBool,
    /// Replies and pongs that were received on the present stream.
    heard: AtomicU64,
    /// Whether both sides of the present stream unpack what is packed.
    packs: AtomicBool,
    packer: Packer,
    pub(super) tally: Tally,
    pub(super) handles: AtomicU64,
    pub(super) processes: AtomicU64,
    /// Told when requests that wait for room are to look whether they are still wanted.
    limits_moved: tokio::sync::Notify,
    /// Told when there is a mutation in doubt to be settled.
    pub(super) doubted: tokio::sync::Notify,
    /// Told when somebody wants a stream now.
    pub(super) wished: tokio::sync::Notify,
    /// Told when a sign of life is wanted now.
    pub(super) probed: tokio::sync::Notify,
    in_flight: Semaphore,
    unacknowledged: Semaphore,
    outbox_bytes: Semaphore,
    ping_slots: Semaphore,
    writing: Mutex<Option<AbortHandle>>,
    reading: Mutex<Option<JoinHandle<()>>>,
}

/// A stream past the hellos.
pub(super) struct Halves {
    pub(super) input: Input,
    pub(super) writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub(super) peer: Hello,
    /// Whether both sides have said that they unpack what is packed.
    pub(super) packs: bool,
}

impl Session {
    /// A session without a stream. With `held` it outlives its streams.
    pub(super) fn new(
        peer: Hello,
        held: Option<Held>,
        sequences: Sequences,
        sink: Arc<dyn EventSink>,
    ) -> Arc<Session> {
        let last_handle = held.as_ref().map_or(0, Held::last_handle);
        Arc::new(Session {
            outbox: Outbox::new(),
            pending: Pending::new(),
            sequences: Mutex::new(sequences),
            pings: Mutex::default(),
            sink,
            standing: watch::Sender::new(Standing::Away(LinkLost::Closed)),
            peer: Mutex::new(Arc::new(peer)),
            held: held.map(Mutex::new),
            unrecovered: AtomicBool::new(false),
            parting: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            packs: AtomicBool::new(false),
            packer: Packer::default(),
            tally: Tally::default(),
            handles: AtomicU64::new(last_handle),
            processes: AtomicU64::new(0),
            limits_moved: tokio::sync::Notify::new(),
            doubted: tokio::sync::Notify::new(),
            wished: tokio::sync::Notify::new(),
            probed: tokio::sync::Notify::new(),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            unacknowledged: Semaphore::new(UNACKNOWLEDGED_MAX),
            outbox_bytes: Semaphore::new(OUTBOX_BYTES_MAX),
            ping_slots: Semaphore::new(PINGS_MAX),
            writing: Mutex::default(),
            reading: Mutex::default(),
        })
    }

    /// Starts the task that writes on where a full stream has stopped a sender. It ends with the session.
    pub(super) fn start(self: &Arc<Self>) {
        let writing = tokio::spawn(self.clone().write_on()).abort_handle();
        *self.writing.lock() = Some(writing);
        if self.is_over() {
            self.end_tasks();
        }
    }

    fn end_tasks(&self) {
        if let Some(writing) = self.writing.lock().take() {
            writing.abort();
        }
        if let Some(reading) = &*self.reading.lock() {
            reading.abort();
        }
    }

    /// Goes on with `stream`, for the recovery lane at first. `None` if the session is over. The reader of the last
    /// stream must have [ended](Session::reader_ended).
    pub(super) fn attach(self: &Arc<Self>, stream: Halves) -> Option<Generation> {
        let Halves { input, writer, peer, packs } = stream;
        self.packs.store(packs, Ordering::Relaxed);
        *self.peer.lock() = Arc::new(peer);
        let mut first = Vec::new();
        let floor = self.sequences.lock().floor();
        if floor > 0
            && let Ok(head) = encode_head(&ClientFrame::Acknowledge { sequence: Sequence(floor) }, 0)
        {
            first.push(Outgoing { head, payload: Bytes::new(), share: 0, what: What::Other });
        }
        let generation = self.outbox.attach(writer, first)?;
        self.heard.store(0, Ordering::Relaxed);
        let reading = tokio::spawn(self.clone().read_on(input, generation));
        if self.is_over() {
            reading.abort();
        }
        *self.reading.lock() = Some(reading);
        self.flush();
        Some(generation)
    }

    /// Lets everybody send, and sends what has no answer. False if the stream is gone meanwhile.
    pub(super) fn open(&self, generation: Generation) -> bool {
        self.pending.go_online();
        let again = || {
            let (again, retries) = self.pending.send_again(generation);
            add(&self.tally.retries, retries);
            again
        };
        if !self.outbox.open(generation, again) {
            return false;
        }
        add(&self.tally.streams, 1);
        self.standing.send_if_modified(|standing| match standing {
            Standing::Over(_) => false,
            Standing::Linked | Standing::Away(_) => {
                *standing = Standing::Linked;
                true
            }
        });
        self.flush();
        self.correct();
        // A stream that was lost since has been told before it was linked.
        let (current, gate) = self.outbox.standing();
        if current == generation && gate == Gate::Away {
            self.tell_away(LinkLost::Ended);
        }
        true
    }

    /// Gives back what has become owed since the recovery has looked. Without room for it, it is owed still.
    fn correct(&self) {
        let Some(held) = &self.held else { return };
        let Corrections { count, requests } = held.lock().corrections();
        let room = u32::try_from(requests.len()).map(|many| self.in_flight.try_acquire_many(many));
        let Ok(Ok(permits)) = room else {
            tracing::warn!(count, "what nobody has any more is given back later");
            return;
        };
        permits.forget();
        held.lock().corrected(count);
        for correction in requests {
            let manner = Manner { lane: Lane::Ordinary, patience: Patience::Some, sequence: None };
            if let Err(error) = self.send(manner, correction, Bytes::new(), Waiter::Nobody) {
                tracing::error!(%error, "what nobody waits for any more was not given back");
            }
        }
    }

    /// Waits until the reader of the last stream hands out nothing more.
    pub(super) async fn reader_ended(&self) {
        let reading = self.reading.lock().take();
        if let Some(reading) = reading {
            reading.abort();
            // How it ended has been told.
            drop(reading.await);
        }
    }

    /// Sends the request as soon as there is room.
    pub(super) async fn call(
        self: Arc<Self>,
        manner: Manner,
        request: Request,
        payload: Bytes,
    ) -> Result<Asked, CallError> {
        self.admit(manner, &request, &payload).await?;
        self.send_call(manner, request, payload)
    }

    /// As [`Session::call`], for a streamed request.
    pub(super) async fn stream(
        self: Arc<Self>,
        manner: Manner,
        request: Request,
        payload: Bytes,
        window: usize,
    ) -> Result<AskedStream, CallError> {
        self.admit(manner, &request, &payload).await?;
        self.send_stream(manner, request, payload, window)
    }

    /// Sends a request that has been admitted.
    pub(super) fn send_call(
        self: &Arc<Self>,
        manner: Manner,
        request: Request,
        payload: Bytes,
    ) -> Result<Asked, CallError> {
        let (sender, answer) = oneshot::channel();
        let id = self.send(manner, request, payload, Waiter::Call(sender))?;
        Ok(Asked { cancel: CancelOnDrop { session: self.clone(), id, armed: true }, answer })
    }

    /// As [`Session::send_call`], for a streamed request.
    pub(super) fn send_stream(
        self: &Arc<Self>,
        manner: Manner,
        request: Request,
        payload: Bytes,
        window: usize,
    ) -> Result<AskedStream, CallError> {
        let (pages, receiver) = tokio::sync::mpsc::unbounded_channel();
        let held = Arc::default();
        let waiter = StreamWaiter { pages, held: Arc::clone(&held), window };
        let id = self.send(manner, request, payload, Waiter::Stream(waiter))?;
        let cancel = CancelOnDrop { session: self.clone(), id, armed: true };
        Ok(AskedStream { cancel, pages: receiver, held })
    }

    /// Takes the request's share of every limit, which it must then be sent with. False if there is no room now. The
    /// recovery keeps its own measure, and must not wait for requests that wait for it.
    pub(super) fn try_admit(&self, manner: Manner, request: &Request, payload: &Bytes) -> bool {
        if manner.lane == Lane::Recovery {
            return true;
        }
        let Ok(in_flight) = self.in_flight.try_acquire() else { return false };
        let Ok(queued) = self.outbox_bytes.try_acquire_many(outbox_share(payload)) else { return false };
        let mutations = u32::from(manner.wants_number(request));
        let Ok(kept) = self.unacknowledged.try_acquire_many(mutations) else { return false };
        in_flight.forget();
        queued.forget();
        kept.forget();
        true
    }

    /// As [`Session::try_admit`], when there is room.
    async fn admit(&self, manner: Manner, request: &Request, payload: &Bytes) -> Result<(), CallError> {
        let room = self.wait_for_room(manner, request, payload);
        tokio::pin!(room);
        loop {
            let moved = self.limits_moved.notified();
            if let Some(lost) = self.pending.refusal(manner.patience, manner.lane) {
                if let Some(held) = &self.held {
                    held.lock().request_lost(request, false);
                }
                return Err(CallError::Lost(lost));
            }
            tokio::select! {
                admitted = &mut room => return admitted,
                () = moved => {}
            }
        }
    }

    async fn wait_for_room(
        &self,
        manner: Manner,
        request: &Request,
        payload: &Bytes,
    ) -> Result<(), CallError> {
        // The semaphores are closed when, and only when, the session is over.
        let closed = |_| CallError::Lost(self.lost_reason());
        let mutations = u32::from(manner.wants_number(request));
        let kept = self.unacknowledged.acquire_many(mutations).await.map_err(closed)?;
        let in_flight = self.in_flight.acquire().await.map_err(closed)?;
        let queued = self.outbox_bytes.acquire_many(outbox_share(payload)).await.map_err(closed)?;
        kept.forget();
        in_flight.forget();
        queued.forget();
        Ok(())
    }

    /// Gives the request its number and its place in the stream, and writes what the stream takes.
    fn send(
        &self,
        manner: Manner,
        request: Request,
        payload: Bytes,
        waiter: Waiter,
    ) -> Result<RequestId, CallError> {
        let mut id = RequestId(0);
        let wants_number = manner.wants_number(&request);
        let chosen = manner.sequence.filter(|_| is_mutation(&request));
        let doubtful = chosen.is_some_and(|chosen| self.is_in_doubt(manner.lane, chosen, &request));
        let lane = if doubtful { Lane::Held } else { manner.lane };
        let share = if manner.lane == Lane::Recovery { 0 } else { outbox_share(&payload) as usize };
        let mut refused = None;
        let packed = self.pack(&request, &payload);
        let queued = self.outbox.push(lane, |stream| {
            // Ids are in the order in which requests are sent.
            id = self.pending.next_id();
            let sequence = match chosen {
                Some(chosen) => chosen,
                None if wants_number => self.give(),
                None => Sequence(0),
            };
            let frame = ClientFrame::Request { id, sequence, body: request };
            let mut head = encode_head(&frame, payload.len()).inspect_err(|_| {
                if wants_number {
                    self.sequences.lock().withdraw(sequence);
                }
            })?;
            let ClientFrame::Request { body: request, .. } = frame else { unreachable!("it was made above") };
            let what = what(id, &request);
            let sent = if stream.is_some() { self.departs(&request) } else { Sent::Unseen };
            let again = self.held.is_some().then(|| Again { request, payload: payload.clone() });
            let (waiting, queued) = if stream.is_some() { (0, share) } else { (share, 0) };
            let entry = Entry {
                waiter,
                sequence,
                again,
                generation: stream.unwrap_or_default(),
                sent,
                lane: manner.lane,
                patience: manner.patience,
                share: waiting,
                set_aside: chosen.is_some(),
                doubtful,
                progress: Default::default(),
                breaches: 0,
            };
            // Nothing sends a request of the recovery again.
            refused = match stream {
                None if manner.lane == Lane::Recovery => Some((Box::new(entry), LinkLost::Ended)),
                _ => self.pending.insert(id, entry),
            };
            let payload = match packed {
                Some((packed, bytes)) => {
                    amend(&mut head, Payload::Packed(bytes));
                    packed
                }
                None => payload,
            };
            Ok(Outgoing { head, payload, share: queued, what })
        });
        if let Err(error) = queued {
            if manner.lane == Lane::Ordinary {
                self.in_flight.add_permits(1);
                self.unacknowledged.add_permits(usize::from(wants_number));
                self.outbox_bytes.add_permits(share);
            }
            return Err(CallError::Unsendable(error));
        }
        if let Some((entry, lost)) = refused {
            self.lose_entry(*entry, &lost);
        }
        add(&self.tally.requests, 1);
        if doubtful {
            self.doubted.notify_one();
        }
        self.flush();
        Ok(id)
    }

    /// The next number of a mutation.
    fn give(&self) -> Sequence {
        let mut sequences = self.sequences.lock();
        let given = sequences.give();
        if let Some(through) = given.reserve {
            // Under the lock: nobody else is given a number before it is known that he may use it.
            self.sink.reserved(Sequence(through));
        }
        given.sequence
    }

    /// Sets a number aside; none if the agent has to keep too many replies already.
    pub(super) fn set_aside(&self) -> Option<Sequence> {
        let kept = self.unacknowledged.try_acquire().ok()?;
        kept.forget();
        Some(self.give())
    }

    /// Whether a request that a predecessor has sent may have been carried out in a session of the agent that is gone.
    fn is_in_doubt(&self, lane: Lane, chosen: Sequence, request: &Request) -> bool {
        let Request::File(request) = request else { return false };
        lane == Lane::Ordinary
            && super::repeat::rule(request) != super::repeat::Rule::Repeat
            && self.sequences.lock().is_inherited_doubt(chosen)
    }

    /// The caller of `id` is gone.
    pub(super) fn cancel(&self, id: RequestId) {
        match self.pending.abandon(id, self.generation()) {
            Abandoned::Answered => {}
            Abandoned::Asked => self.post(&ClientFrame::Cancel { id }, What::Concerning(id)),
            Abandoned::Withdrawn(entry) => {
                self.owe(&entry);
                self.release(&entry);
            }
        }
    }

    /// Allows `bytes` more for the stream `id`, which are not among those that are `held` any more.
    pub(super) fn allow(&self, id: RequestId, bytes: usize, held: &AtomicUsize) {
        let credit = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.post_and(&ClientFrame::Credit { id, bytes: credit }, What::Concerning(id), || {
            held.fetch_sub(bytes, Ordering::Relaxed);
        });
    }

    /// The agent's reply was not one to the request that was made: the link ends.
    pub(super) fn misanswered(&self, reply: &'static str) -> LinkLost {
        let lost = LinkLost::Protocol(format!("the reply {reply} does not fit its request"));
        self.lose(None, lost.clone());
        lost
    }

    /// Sends a frame that belongs to no limit because it is small and bound to a request that does. Without a stream it
    /// is dropped.
    fn post(&self, frame: &ClientFrame, what: What) {
        self.post_and(frame, what, || ());
    }

    /// Does something in the moment in which the frame is put to the others, or is dropped because there is no stream.
    fn post_and(&self, frame: &ClientFrame, what: What, at_once: impl FnOnce()) {
        let queued = self.outbox.push(Lane::Recovery, |_| {
            at_once();
            encode_head(frame, 0).map(|head| Outgoing { head, payload: Bytes::new(), share: 0, what })
        });
        match queued {
            Ok(()) => self.flush(),
            Err(error) => self.lose(None, LinkLost::from(error)),
        }
    }

    fn flush(&self) {
        match self.outbox.flush() {
            Ok(written) => self.count_written(written),
            Err(error) => self.write_failed(error),
        }
    }

    fn write_failed(&self, error: WriteError) {
        self.count_written(error.written);
        self.lose(Some(error.generation), LinkLost::from(error.source));
    }

    fn count_written(&self, written: Written) {
        add(&self.tally.frames_sent, written.frames);
        add(&self.tally.bytes_sent, written.bytes);
        self.outbox_bytes.add_permits(written.share);
    }

    /// Notes what a request that is not answered leaves to be given back. What the recovery asks for is held.
    fn owe(&self, entry: &Entry) {
        if let (Some(held), Some(again), Lane::Ordinary) = (&self.held, &entry.again, entry.lane) {
            let was_sent = entry.generation != Generation::default();
            held.lock().request_lost(&again.request, was_sent);
        }
    }

    /// Gives back what a request had of the limits.
    fn release(&self, entry: &Entry) {
        if entry.lane == Lane::Recovery {
            return;
        }
        self.in_flight.add_permits(1);
        self.outbox_bytes.add_permits(entry.share);
        if entry.sequence != Sequence(0) && !entry.set_aside {
            self.settle(entry.sequence);
        }
    }

    /// Nobody asks for the answer to this mutation again.
    pub(super) fn settle(&self, sequence: Sequence) {
        let forget = self.sequences.lock().settle(sequence);
        if let Some(forget) = forget {
            self.post(&ClientFrame::Acknowledge { sequence: Sequence(forget.through) }, What::Other);
            self.unacknowledged.add_permits(forget.count);
        }
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Whether anything has been answered on the present stream.
    pub(super) fn has_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed) > 0
    }

    pub(super) fn peer(&self) -> Arc<Hello> {
        self.peer.lock().clone()
    }

    pub(super) fn sink(&self) -> &Arc<dyn EventSink> {
        &self.sink
    }

    pub(super) fn pending(&self) -> &Pending {
        &self.pending
    }

    pub(super) fn held(&self) -> Option<&Mutex<Held>> {
        self.held.as_ref()
    }

    /// The agent's session is another than it was.
    pub(super) fn replace(&self) {
        let inherited = {
            let mut sequences = self.sequences.lock();
            sequences.doubt();
            sequences.inherited()
        };
        self.unrecover();
        self.pending.doubt_all(inherited);
    }

    /// What the session held is not yet held by the agent's.
    pub(super) fn unrecover(&self) {
        self.unrecovered.store(true, Ordering::Release);
    }

    /// Whether the number is one of a predecessor's.
    pub(super) fn is_inherited(&self, sequence: Sequence) -> bool {
        self.sequences.lock().is_inherited(sequence)
    }

    /// Where the session stands with this one of the agent's.
    pub(super) fn mark(&self, session: SessionId) -> SessionMark {
        let in_doubt = Sequence(self.sequences.lock().in_doubt());
        SessionMark { session, in_doubt, unrecovered: self.is_unrecovered() }
    }

    /// Whether what the session held has to be had again.
    pub(super) fn is_unrecovered(&self) -> bool {
        self.unrecovered.load(Ordering::Acquire)
    }

    /// What could be had again has been. Says whether that was so already.
    pub(super) fn recovered(&self) -> bool {
        !self.unrecovered.swap(false, Ordering::AcqRel)
    }

    /// The present stream.
    pub(super) fn generation(&self) -> Option<Generation> {
        let (generation, gate) = self.outbox.standing();
        matches!(gate, Gate::Open | Gate::Recovering).then_some(generation)
    }

    /// Whether requests of such patience are refused now.
    pub(super) fn refuses(&self, patience: Patience) -> bool {
        self.pending.refusal(patience, Lane::Ordinary).is_some()
    }

    pub(super) fn watermark(&self) -> Sequence {
        Sequence(self.sequences.lock().watermark())
    }

    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Writes on whenever a full stream takes bytes again, until the session is over.
    async fn write_on(self: Arc<Self>) {
        while !self.is_over() {
            match self.outbox.flush_when_writable().await {
                Ok(written) => self.count_written(written),
                Err(error) => self.write_failed(error),
            }
        }
    }

    /// Reads and hands out what the agent sends, until the stream is lost.
    async fn read_on(self: Arc<Self>, mut input: Input, generation: Generation) {
        let lost = loop {
            let frame = match input.next().await {
                Ok(frame) => frame,
                Err(lost) => break lost,
            };
            add(&self.tally.frames_received, 1);
            let bytes = frame.body_bytes();
            add(&self.tally.bytes_received, frame.carried_bytes);
            self.brought(frame.trickled);
            let taken = decode_head::<AgentFrame>(frame.head)
                .map_err(LinkLost::from)
                .and_then(|head| self.take(head, frame.payload, bytes));
            if let Err(lost) = taken {
                break lost;
            }
        };
        self.lose(Some(generation), lost);
    }

    fn take(&self, frame: AgentFrame, payload: Bytes, bytes: usize) -> Result<(), LinkLost> {
        match frame {
            AgentFrame::Reply { id, last, body } => {
                let reply = Arrived { id, body, payload, bytes };
                self.heard.fetch_add(1, Ordering::Relaxed);
                if last { self.reply(reply) } else { self.pending.deliver(reply) }
            }
            AgentFrame::Changed(changed) => {
                add(&self.tally.events, 1);
                self.sink.changed(changed);
                Ok(())
            }
            AgentFrame::LeasesLost => {
                add(&self.tally.events, 1);
                self.sink.leases_lost();
                Ok(())
            }
            AgentFrame::Pong { nonce, clock } => self.pong(nonce, clock),
            AgentFrame::Closing { reason } => Err(LinkLost::Closing(reason)),
        }
    }

    fn reply(&self, reply: Arrived) -> Result<(), LinkLost> {
        let Arrived { id, body, payload, bytes } = reply;
        let Some(entry) = self.pending.take(id) else { return Err(unasked(id)) };
        self.arrives(entry.sent);
        let answer = match body {
            Ok(reply) => Ok((reply, payload)),
            Err(failure) => self.excuse(&entry, failure).map(|reply| (reply, Bytes::new())),
        };
        self.answer(id, entry, answer.map_err(CallError::Failed), bytes)
    }

    /// Answers a request that has been taken out of the table.
    pub(super) fn answer(
        &self,
        id: RequestId,
        mut entry: Entry,
        answer: Result<(Reply, Bytes), CallError>,
        bytes: usize,
    ) -> Result<(), LinkLost> {
        // What the recovery learns is how things are now; what was known of them is what mutations in doubt are judged by.
        if let (Some(held), Some(again), Lane::Ordinary) = (&self.held, &entry.again, entry.lane) {
            match (&again.request, &answer) {
                (Request::File(FileRequest::Close { handle }), _) => held.lock().closed(*handle),
                (request, Ok((reply, _))) if is_worth_learning(request) => {
                    let moment = Moment { id, as_of: self.pending.last_id() };
                    held.lock().learn(request, reply, moment);
                }
                _ => {}
            }
        }
        let failed = answer.is_err();
        let waiter = std::mem::replace(&mut entry.waiter, Waiter::Nobody);
        let finished = waiter.finish(answer, bytes);
        self.release(&entry);
        finished?;
        add(&self.tally.round_trips, 1);
        add(&self.tally.failures, usize::from(failed));
        Ok(())
    }

    /// A failure that comes of asking twice, or of a file that could not be had again.
    fn excuse(&self, entry: &Entry, failure: Failure) -> Result<Reply, Failure> {
        let (Some(held), Some(Again { request: Request::File(request), .. })) = (&self.held, &entry.again)
        else {
            return Err(failure);
        };
        if failure.errno != EBADF || entry.lane == Lane::Recovery {
            return Err(failure);
        }
        // A handle is closed by whoever had it: that it is closed is what was asked for.
        if let FileRequest::Close { .. } = request {
            return Ok(Reply::File(FileReply::Done));
        }
        let is_stale =
            super::request::handles(request).into_iter().flatten().any(|handle| held.lock().is_stale(handle));
        if is_stale { Err(Failure { errno: ESTALE, ..failure }) } else { Err(failure) }
    }
}

/// Whether the answer changes what the session holds.
fn is_worth_learning(request: &Request) -> bool {
    use wire::agent::file::WriteAt;
    let Request::File(request) = request else { return false };
    matches!(
        request,
        FileRequest::Attach { .. }
            | FileRequest::Open { .. }
            | FileRequest::Create { .. }
            | FileRequest::CreateUnnamed { .. }
            | FileRequest::Write { at: WriteAt::End, .. }
            | FileRequest::SetAttributes { .. }
            | FileRequest::Rename { .. }
            | FileRequest::Link { .. }
            | FileRequest::Lock { .. }
            | FileRequest::ReleaseLocks { .. }
    )
}

/// What a payload takes of the outbox. One that is too large for a frame is refused later, and must not wait for room
/// that there never is.
fn outbox_share(payload: &Bytes) -> u32 {
    u32::try_from(payload.len().min(OUTBOX_BYTES_MAX)).unwrap_or(u32::MAX)
}
