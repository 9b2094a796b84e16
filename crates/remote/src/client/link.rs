//! What all users of one link share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::AbortHandle;
use wire::agent::{
    AgentFrame, ClientFrame, REPLIES_KEPT_MAX, REQUESTS_IN_FLIGHT_MAX, Request, RequestId, Sequence,
};
use wire::frame::{decode_head, encode_head};

use super::EventSink;
use super::acknowledge::Answered;
use super::call::{Asked, AskedStream, CancelOnDrop};
use super::counters::{Tally, add};
use super::error::{CallError, LinkLost};
use super::input::Input;
use super::outbox::{Outbox, Outgoing, Written};
use super::pending::{Arrived, Delivered, Pending, StreamWaiter, Waiter};
use super::request::is_mutation;

/// Requests of this side in flight: a little below what makes the agent close the stream.
const IN_FLIGHT_MAX: usize = REQUESTS_IN_FLIGHT_MAX - 64;

/// Mutations whose replies the agent may still have to keep: as many as it keeps, less what is told in one go and what
/// it has not heard yet.
const UNACKNOWLEDGED_MAX: usize = REPLIES_KEPT_MAX - 1024;

/// Payload bytes that wait to be written: what keeps any link busy between two turns of the writer. A small request
/// waits behind all of them, so it is no more than that.
const OUTBOX_BYTES_MAX: usize = 4 << 20;

/// Pings without an answer. More tell nothing that one does not.
const PINGS_MAX: usize = 8;

/// The state of one link.
pub(super) struct Link {
    outbox: Outbox,
    pending: Pending,
    answered: Mutex<Answered>,
    pings: Mutex<Pings>,
    sink: Arc<dyn EventSink>,
    lost: watch::Sender<Option<LinkLost>>,
    pub(super) tally: Tally,
    pub(super) handles: AtomicU64,
    pub(super) processes: AtomicU64,
    in_flight: Semaphore,
    unacknowledged: Semaphore,
    outbox_bytes: Semaphore,
    ping_slots: Semaphore,
    tasks: Mutex<Vec<AbortHandle>>,
}

#[derive(Default)]
struct Pings {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Instant>>,
}

impl Link {
    pub(super) fn new(outbox: Outbox, sink: Arc<dyn EventSink>) -> Link {
        Link {
            outbox,
            pending: Pending::new(),
            answered: Mutex::default(),
            pings: Mutex::default(),
            sink,
            lost: watch::Sender::new(None),
            tally: Tally::default(),
            handles: AtomicU64::new(0),
            processes: AtomicU64::new(0),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            unacknowledged: Semaphore::new(UNACKNOWLEDGED_MAX),
            outbox_bytes: Semaphore::new(OUTBOX_BYTES_MAX),
            ping_slots: Semaphore::new(PINGS_MAX),
            tasks: Mutex::default(),
        }
    }

    /// Starts the two tasks of the link, which end with it.
    pub(super) fn start(self: &Arc<Self>, input: Input) {
        let reading = tokio::spawn(self.clone().read_on(input)).abort_handle();
        let writing = tokio::spawn(self.clone().write_on()).abort_handle();
        self.tasks.lock().extend([reading, writing]);
        if self.is_lost() {
            self.end_tasks();
        }
    }

    fn end_tasks(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }

    /// Sends the request as soon as there is room.
    pub(super) async fn call(self: Arc<Self>, request: Request, payload: Bytes) -> Result<Asked, CallError> {
        self.admit(&request, &payload).await?;
        self.send_call(request, payload)
    }

    /// As [`Link::call`], for a streamed request.
    pub(super) async fn stream(
        self: Arc<Self>,
        request: Request,
        payload: Bytes,
        window: usize,
    ) -> Result<AskedStream, CallError> {
        self.admit(&request, &payload).await?;
        self.send_stream(request, payload, window)
    }

    /// Sends a request that has been admitted.
    pub(super) fn send_call(self: &Arc<Self>, request: Request, payload: Bytes) -> Result<Asked, CallError> {
        let (sender, answer) = oneshot::channel();
        let id = self.send(request, payload, Waiter::Call(sender))?;
        Ok(Asked { cancel: CancelOnDrop { link: self.clone(), id, armed: true }, answer })
    }

    /// As [`Link::send_call`], for a streamed request.
    pub(super) fn send_stream(
        self: &Arc<Self>,
        request: Request,
        payload: Bytes,
        window: usize,
    ) -> Result<AskedStream, CallError> {
        let (pages, receiver) = tokio::sync::mpsc::unbounded_channel();
        let held = Arc::default();
        let waiter = StreamWaiter { pages, held: Arc::clone(&held), window };
        let id = self.send(request, payload, Waiter::Stream(waiter))?;
        let cancel = CancelOnDrop { link: self.clone(), id, armed: true };
        Ok(AskedStream { cancel, pages: receiver, held })
    }

    /// Takes the request's share of every limit, which it must then be sent with. False if there is no room now.
    pub(super) fn try_admit(&self, request: &Request, payload: &Bytes) -> bool {
        let Ok(in_flight) = self.in_flight.try_acquire() else { return false };
        let Ok(queued) = self.outbox_bytes.try_acquire_many(outbox_share(payload)) else { return false };
        let mutations = u32::from(is_mutation(request));
        let Ok(kept) = self.unacknowledged.try_acquire_many(mutations) else { return false };
        in_flight.forget();
        queued.forget();
        kept.forget();
        true
    }

    /// As [`Link::try_admit`], when there is room.
    async fn admit(&self, request: &Request, payload: &Bytes) -> Result<(), CallError> {
        // The semaphores are closed when, and only when, the link is lost.
        let closed = |_| CallError::Lost(self.lost_reason());
        let mutations = u32::from(is_mutation(request));
        let kept = self.unacknowledged.acquire_many(mutations).await.map_err(closed)?;
        let in_flight = self.in_flight.acquire().await.map_err(closed)?;
        let queued = self.outbox_bytes.acquire_many(outbox_share(payload)).await.map_err(closed)?;
        kept.forget();
        in_flight.forget();
        queued.forget();
        Ok(())
    }

    /// Gives the frame its number and its place in the stream, and writes what the stream takes.
    fn send(&self, request: Request, payload: Bytes, waiter: Waiter) -> Result<RequestId, CallError> {
        let id = self.pending.next_id();
        let mutation = is_mutation(&request);
        let payload_bytes = payload.len();
        let queued = self.outbox.push(|last| {
            let sequence = Sequence(if mutation { *last + 1 } else { 0 });
            let frame = ClientFrame::Request { id, sequence, body: request };
            let head = encode_head(&frame, payload.len())?;
            if mutation {
                *last += 1;
            }
            self.pending.insert(id, sequence, waiter);
            Ok(Outgoing { head, payload })
        });
        if let Err(error) = queued {
            self.in_flight.add_permits(1);
            self.unacknowledged.add_permits(usize::from(mutation));
            self.outbox_bytes.add_permits(payload_bytes.min(OUTBOX_BYTES_MAX));
            return Err(CallError::Unsendable(error));
        }
        add(&self.tally.requests, 1);
        self.flush();
        Ok(id)
    }

    /// The caller of `id` is gone.
    pub(super) fn cancel(&self, id: RequestId) {
        if self.pending.abandon(id) {
            self.post(&ClientFrame::Cancel { id });
        }
    }

    /// Allows `bytes` more for the stream `id`.
    pub(super) fn allow(&self, id: RequestId, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.post(&ClientFrame::Credit { id, bytes });
    }

    /// The agent's reply was not one to the request that was made: the link ends.
    pub(super) fn misanswered(&self, reply: &'static str) -> LinkLost {
        let lost = LinkLost::Protocol(format!("the reply {reply} does not fit its request"));
        self.lose(lost.clone());
        lost
    }

    /// Sends a ping; the receiver gets the moment of the answer.
    pub(super) async fn ping(&self) -> Result<oneshot::Receiver<Instant>, LinkLost> {
        let slot = self.ping_slots.acquire().await.map_err(|_| self.lost_reason())?;
        slot.forget();
        let (sender, receiver) = oneshot::channel();
        let nonce = {
            let mut pings = self.pings.lock();
            pings.next += 1;
            let nonce = pings.next;
            pings.waiting.insert(nonce, sender);
            nonce
        };
        self.post(&ClientFrame::Ping { nonce });
        Ok(receiver)
    }

    /// Sends a frame that belongs to no limit because it is small and bound to a request that does.
    fn post(&self, frame: &ClientFrame) {
        let queued =
            self.outbox.push(|_| encode_head(frame, 0).map(|head| Outgoing { head, payload: Bytes::new() }));
        match queued {
            Ok(()) => self.flush(),
            Err(error) => self.lose(LinkLost::from(error)),
        }
    }

    fn flush(&self) {
        match self.outbox.flush() {
            Ok(written) => self.count_written(written),
            Err(error) => self.lose(LinkLost::from(error)),
        }
    }

    fn count_written(&self, written: Written) {
        add(&self.tally.frames_sent, written.frames);
        add(&self.tally.bytes_sent, written.bytes);
        self.outbox_bytes.add_permits(written.payload_bytes);
    }

    /// Ends the link. The first reason stays.
    pub(super) fn lose(&self, lost: LinkLost) {
        if !self.pending.close(&lost) {
            return;
        }
        self.lost.send_replace(Some(lost.clone()));
        for limit in [&self.in_flight, &self.unacknowledged, &self.outbox_bytes, &self.ping_slots] {
            limit.close();
        }
        self.outbox.close();
        self.pings.lock().waiting.clear();
        self.end_tasks();
        self.sink.link_lost(&lost);
    }

    /// Why the link was lost; [`LinkLost::Closed`] while it is not.
    pub(super) fn lost_reason(&self) -> LinkLost {
        self.lost.borrow().clone().unwrap_or(LinkLost::Closed)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    /// Waits for the end of the link.
    pub(super) async fn until_lost(&self) -> LinkLost {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(LinkLost::Closed),
            Err(_) => LinkLost::Closed,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Writes on whenever a full stream takes bytes again, until the link is lost.
    async fn write_on(self: Arc<Self>) {
        while !self.is_lost() {
            match self.outbox.flush_when_writable().await {
                Ok(written) => self.count_written(written),
                Err(error) => self.lose(LinkLost::from(error)),
            }
        }
    }

    /// Reads and hands out what the agent sends, until the link is lost.
    async fn read_on(self: Arc<Self>, mut input: Input) {
        let lost = loop {
            let frame = match input.next().await {
                Ok(frame) => frame,
                Err(lost) => break lost,
            };
            add(&self.tally.frames_received, 1);
            let bytes = frame.body_bytes();
            add(&self.tally.bytes_received, bytes + wire::frame::PREFIX_BYTES);
            let taken = decode_head::<AgentFrame>(frame.head)
                .map_err(LinkLost::from)
                .and_then(|head| self.take(head, frame.payload, bytes));
            if let Err(lost) = taken {
                break lost;
            }
        };
        self.lose(lost);
    }

    fn take(&self, frame: AgentFrame, payload: Bytes, bytes: usize) -> Result<(), LinkLost> {
        match frame {
            AgentFrame::Reply { id, last, body } => self.reply(Arrived { id, last, body, payload, bytes }),
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
            AgentFrame::Pong { nonce } => {
                let waiting = self.pings.lock().waiting.remove(&nonce);
                let Some(sender) = waiting else {
                    return Err(LinkLost::Protocol(format!("a pong to no ping, {nonce}")));
                };
                self.ping_slots.add_permits(1);
                if sender.send(Instant::now()).is_err() {
                    tracing::trace!(nonce, "a pong came when nobody waited for it any more");
                }
                Ok(())
            }
            AgentFrame::Closing { reason } => Err(LinkLost::Closing(reason)),
        }
    }

    fn reply(&self, reply: Arrived) -> Result<(), LinkLost> {
        let failed = reply.body.is_err();
        let Delivered::Last(sequence) = self.pending.deliver(reply)? else { return Ok(()) };
        add(&self.tally.round_trips, 1);
        add(&self.tally.failures, usize::from(failed));
        self.in_flight.add_permits(1);
        if sequence == Sequence(0) {
            return Ok(());
        }
        let forget = self.answered.lock().note(sequence.0);
        if let Some(forget) = forget {
            self.post(&ClientFrame::Acknowledge { sequence: Sequence(forget.through) });
            self.unacknowledged.add_permits(forget.count);
        }
        Ok(())
    }
}

/// What a payload takes of the outbox. One that is too large for a frame is refused later, and must not wait for room
/// that there never is.
fn outbox_share(payload: &Bytes) -> u32 {
    u32::try_from(payload.len().min(OUTBOX_BYTES_MAX)).unwrap_or(u32::MAX)
}
