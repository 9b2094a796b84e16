//! A stream of requests: who reads them, hands them to the session, and answers.
//!
//! ```text
//!            ┌───────────── leader ──────────────┐
//!  input ──► │ read → gates → run it, if cheap   │ ──► output
//!            └──────────────┬─────────────▲──────┘
//!                           ▼             │ takes over when an operation holds the leader up
//!                         pool ──────► workers
//! ```
//!
//! One thread at a time leads: it reads a request and, if that is cheap, carries it out before it reads the next, which
//! saves two changes of threads. Cheap requests may still block, on a slow disk or a dead server. So a watchdog looks
//! at the leader: when one operation has held it up too long, another thread leads from then on, and the first becomes
//! a worker.
//!
//! A stream is one of several that its session may have, one after the other. Whatever ends with it is kept here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use wire::agent::file::{FileRequest, LockKind};
use wire::agent::process::ProcessRequest;
use wire::agent::{AgentFrame, ClientFrame, REQUESTS_IN_FLIGHT_MAX, Reply, Request, RequestId, Sequence};
use wire::hello::capability;

use crate::credentials::enter_thread;
use crate::ends::Ends;
use crate::gates::pass_of;
use crate::greeting::Greeted;
use crate::input::{Input, InputError};
use crate::locks::Wait;
use crate::output::Output;
use crate::payloads::Payloads;
use crate::replies::{Admission, Answer, StreamNumber};
use crate::session::{END_TIMEOUT, Session};
use crate::stat;
use crate::sync::{lock, wait, wait_timeout};
use crate::ticket::{Ticket, ticket_for};
use crate::work::{Job, Waiter, Work};

/// Payloads of requests that have been read and not been carried out. The leader reads no more until there are fewer:
/// room for many of the largest writes.
const PAYLOADS_QUEUED_BYTES_MAX: usize = 64 << 20;

/// How long an operation may hold the leader up before another thread leads.
const TAKE_OVER_AFTER: Duration = Duration::from_millis(5);

/// An operation that took this long went to a disk. Others that wait behind it are better run side by side.
const SLOW: Duration = Duration::from_micros(300);

/// How many requests are given to workers after a slow one, while more of them wait in the input.
const GIVEN_AWAY_AFTER_SLOW: u32 = 32;

/// A read or write up to this length takes about as long as a change of threads.
const CHEAP_BYTES: usize = 64 << 10;

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parting {
    /// The client closed it.
    Closed,
    /// The client has no more use for the session.
    Goodbye,
    /// A newer stream serves the session.
    Replaced,
    /// It broke, or the client broke the protocol.
    Failed(String),
}

pub(crate) struct Stream {
    session: Arc<Session>,
    number: StreamNumber,
    is_kept: bool,
    /// Whether the client can unpack what is packed.
    unpacks: bool,
    ends: Arc<Ends>,
    output: Arc<Output>,
    input: Mutex<Input>,
    payloads: Arc<Payloads>,
    tickets: Tickets,
    load: Load,
    lead: Lead,
    end: (Mutex<Option<Parting>>, Condvar),
    /// Nothing is begun for it any more.
    over: AtomicBool,
    began: Instant,
    /// When a frame has come last, in milliseconds since it began.
    heard: AtomicU64,
}

/// The requests that may take long.
#[derive(Default)]
struct Tickets {
    open: Mutex<HashMap<RequestId, Arc<Ticket>>>,
    fewer: Condvar,
}

/// What a thread besides the pool's does.
type Duty = fn(&Arc<Stream>);

/// Who leads, and whether an operation holds the leader up.
#[derive(Default)]
struct Lead {
    /// Odd while the leader carries out a request. Grows with each, and when another thread takes over.
    turn: AtomicU64,
    watchdog_sleeps: AtomicBool,
    watchdog: (Mutex<()>, Condvar),
}

fn start(stream: &Arc<Stream>, name: &str, run: Duty) -> std::io::Result<()> {
    let stream = stream.clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&stream)).map(drop)
}

impl Stream {
    /// A stream on which both sides have said hello, the first of its session or a later one.
    pub fn new(session: &Arc<Session>, number: StreamNumber, is_kept: bool, greeted: Greeted) -> Arc<Stream> {
        Arc::new(Stream {
            session: session.clone(),
            number,
            is_kept,
            unpacks: greeted.theirs.capabilities & capability::PACKING != 0,
            ends: greeted.ends,
            output: greeted.output,
            payloads: greeted.payloads,
            input: Mutex::new(greeted.input),
            tickets: Tickets::default(),
            load: Load::default(),
            lead: Lead::default(),
            end: Default::default(),
            over: AtomicBool::new(false),
            began: Instant::now(),
            heard: AtomicU64::new(0),
        })
    }

    /// Serves the session on this stream until it ends, by itself or by [`Stream::end_with`]. When this returns, no
    /// request of the stream waits for anything, and none is begun any more.
    pub fn serve(self: &Arc<Stream>) -> Parting {
        // One that was replaced before it came to this must not take the leases of its successor.
        self.session.leases.attach(&self.output, &self.over);
        let threads: [(&str, Duty); 2] =
            [("writer", |s| s.output.write_queued()), ("watchdog", Stream::watch_leader)];
        for (name, run) in threads {
            if let Err(error) = start(self, name, run) {
                self.end_with(Parting::Failed(format!("could not start a thread: {error}")));
            }
        }
        self.start_leader();
        let parting = self.wait_for_end();
        self.part(&parting);
        parting
    }

    /// Which of its session's streams it is.
    pub fn number(&self) -> StreamNumber {
        self.number
    }

    /// Whether the session goes on when this stream breaks.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// For how long nothing has come on it.
    pub fn silent_for(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }

    /// Whether it has ended. Nothing that is sent to it arrives.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Whether replies to it go nowhere.
    pub fn is_deaf(&self) -> bool {
        self.is_over() || self.output.is_closed()
    }

    /// Leads until another thread has taken over or the stream has ended.
    fn lead(self: &Arc<Stream>) {
        let mut given_away = 0u32;
        while !self.is_over() {
            let mut input = lock(&self.input);
            let frame = input.frame::<ClientFrame>();
            let more_waits = input.has_more();
            drop(input);
            self.heard.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
            let (frame, payload) = match frame {
                Ok(Some(frame)) => frame,
                Ok(None) => return self.end_with(Parting::Closed),
                Err(error) => return self.broken_input(&error),
            };
            let Some(job) = self.accept(frame, payload) else {
                continue;
            };
            match cost(&job) {
                Cost::Nothing => {
                    self.session.run(job);
                    continue;
                }
                Cost::Little if (given_away == 0 || !more_waits) && !self.session.pool.is_full() => {}
                Cost::Little | Cost::Much => {
                    given_away = given_away.saturating_sub(1);
                    self.session.push(Work::Request(job));
                    continue;
                }
            }
            let turn = self.lead.begin();
            let started = Instant::now();
            self.session.run(job);
            if started.elapsed() > SLOW {
                given_away = GIVEN_AWAY_AFTER_SLOW;
            }
            if !self.lead.finish(turn) {
                return;
            }
        }
    }

    fn broken_input(&self, error: &InputError) {
        self.end_with(Parting::Failed(error.to_string()));
    }

    /// Does what a frame says. Gives a request back that may be carried out now.
    fn accept(self: &Arc<Stream>, frame: ClientFrame, payload: Vec<u8>) -> Option<Job> {
        match frame {
            ClientFrame::Request { id, sequence, body } => self.admit(id, sequence, body, payload),
            ClientFrame::Credit { id, bytes } => {
                let ticket = self.ticket(id)?;
                let task = ticket.allow(bytes)?;
                self.session.push(Work::Page(self.clone(), ticket, task));
                None
            }
            ClientFrame::Cancel { id } => {
                let ticket = self.ticket(id)?;
                let task = ticket.cancel()?;
                self.session.push(Work::Page(self.clone(), ticket, task));
                None
            }
            ClientFrame::Acknowledge { sequence } => {
                self.session.replies.acknowledge(sequence);
                None
            }
            ClientFrame::Rate { bytes_per_second } => {
                if self.unpacks {
                    self.output.pack_for(bytes_per_second);
                }
                None
            }
            ClientFrame::Goodbye => {
                self.end_with(Parting::Goodbye);
                None
            }
            ClientFrame::Ping { nonce } => {
                self.payloads.age();
                self.output.send(&AgentFrame::Pong { nonce, clock: stat::now() }, Vec::new());
                None
            }
        }
    }

    fn admit(
        self: &Arc<Stream>,
        id: RequestId,
        sequence: Sequence,
        request: Request,
        payload: Vec<u8>,
    ) -> Option<Job> {
        if !self.load.add(payload.len(), &self.over) {
            self.end_with(Parting::Failed("the client has too many requests in flight".to_owned()));
            return None;
        }
        let payload_bytes = payload.len();
        let waiter = Waiter { stream: Arc::downgrade(self), id };
        match self.session.replies.admit(sequence, self.number, waiter) {
            Admission::Fresh => {}
            Admission::Joined => {
                self.load.remove_payload(payload_bytes);
                return None;
            }
            Admission::Answered(answer) => {
                self.load.remove_payload(payload_bytes);
                self.reply(id, answer, false);
                return None;
            }
            Admission::Refused(why) => {
                self.end_with(Parting::Failed(why.to_owned()));
                return None;
            }
        }
        let ticket = ticket_for(id, sequence, &request, self.is_kept);
        if let Some(ticket) = &ticket
            && lock(&self.tickets.open).insert(id, ticket.clone()).is_some()
        {
            self.end_with(Parting::Failed(format!("the client has used {id:?} twice")));
            return None;
        }
        let pass = match &request {
            Request::File(request) => pass_of(request),
            Request::Process(_) | Request::Describe => [None, None],
        };
        let job = Job { stream: self.clone(), id, sequence, request, payload, pass, ticket };
        self.session.gates.enter(&pass, job)
    }

    /// A request is dropped because the stream is over.
    pub fn not_begun(&self, job: &Job) {
        self.load.remove_payload(job.payload.len());
        self.close_ticket(job.id);
    }

    /// Memory for the payload of a reply, of which so much is asked for.
    pub fn memory(&self, bytes: usize) -> Vec<u8> {
        self.payloads.take(bytes)
    }

    /// Nobody uses memory any more that was had for a reply.
    pub fn memory_is_free(&self, memory: Vec<u8>) {
        self.payloads.give_back(memory);
    }

    /// A payload that had so many bytes has been used; what is left of it is of no use.
    pub fn payload_is_used(&self, bytes: usize, rest: Vec<u8>) {
        self.load.remove_payload(bytes);
        self.payloads.give_back(rest);
    }

    /// Sends a request's last reply, and that of every repeat of it.
    pub fn finish(self: &Arc<Stream>, id: RequestId, sequence: Sequence, answer: Answer) {
        // The last of several replies must not overtake the others.
        let ordered = self.close_ticket(id);
        self.session.keep(sequence, &answer);
        self.reply(id, answer, ordered);
    }

    /// Says no more of a request that may have taken long. Says whether it was one.
    pub fn close_ticket(&self, id: RequestId) -> bool {
        let closed = lock(&self.tickets.open).remove(&id);
        if let Some(ticket) = &closed {
            ticket.close();
            self.tickets.fewer.notify_all();
        }
        closed.is_some()
    }

    /// Sends a reply that is not the last. Says what it takes of the client's credit.
    pub fn send(&self, id: RequestId, reply: Reply, payload: Vec<u8>) -> usize {
        self.output.send_ordered(&AgentFrame::Reply { id, last: false, body: Ok(reply) }, payload)
    }

    /// Ends a wait that has been cancelled. Does not block.
    pub fn interrupt(self: &Arc<Stream>, wait: Arc<Wait>) {
        wait.signal();
        self.session.push(Work::Interrupt(wait));
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Sends a request's last reply: behind its others, if it is `ordered`.
    pub fn reply(&self, id: RequestId, answer: Answer, ordered: bool) {
        self.load.remove_request();
        let (body, payload) = match answer {
            Ok((reply, payload)) => (Ok(reply), payload),
            Err(failure) => (Err(failure), Vec::new()),
        };
        let frame = AgentFrame::Reply { id, last: true, body };
        if ordered {
            self.output.send_ordered(&frame, payload);
        } else {
            self.output.send(&frame, payload);
        }
    }

    fn ticket(&self, id: RequestId) -> Option<Arc<Ticket>> {
        lock(&self.tickets.open).get(&id).cloned()
    }

    /// Starts a thread that leads, whatever the others do, and is a worker when another has taken over.
    fn start_leader(self: &Arc<Stream>) {
        self.session.pool.join();
        let stream = self.clone();
        let started = std::thread::Builder::new().name("leader".to_owned()).spawn(move || {
            enter_thread();
            stream.lead();
            let session = stream.session.clone();
            drop(stream);
            session.work();
        });
        if let Err(error) = started {
            self.session.pool.leave();
            self.end_with(Parting::Failed(format!("could not start a thread: {error}")));
        }
    }

    /// The watchdog's work, see the module's documentation.
    fn watch_leader(self: &Arc<Stream>) {
        let mut last_seen = 0;
        while !self.is_over() {
            let turn = self.lead.turn.load(Ordering::Acquire);
            if turn == last_seen && turn % 2 == 1 && self.lead.take_over(turn) {
                self.start_leader();
            }
            if turn == last_seen {
                self.lead.sleep(turn, &self.over);
            } else {
                self.lead.doze();
            }
            last_seen = turn;
        }
    }

    /// Ends the stream. The first reason stays.
    pub fn end_with(&self, parting: Parting) {
        let mut end = lock(&self.end.0);
        end.get_or_insert(parting);
        self.over.store(true, Ordering::Release);
        self.end.1.notify_all();
    }

    fn wait_for_end(&self) -> Parting {
        let mut end = lock(&self.end.0);
        loop {
            if let Some(parting) = &*end {
                return parting.clone();
            }
            end = wait(&self.end.1, end);
        }
    }

    /// Tells the client why, ends what does not outlive the stream and waits for that, within limits.
    fn part(self: &Arc<Stream>, parting: &Parting) {
        let session_ends = !self.is_kept || *parting == Parting::Goodbye;
        let is_listening = session_ends || matches!(parting, Parting::Failed(_));
        if let Parting::Failed(reason) = parting {
            self.output.send_later(&AgentFrame::Closing { reason: reason.clone() });
        }
        self.cancel_tickets(|ticket| session_ends || !ticket.outlives_stream);
        self.session.leases.detach(&self.output);
        self.load.let_go();
        self.lead.wake();
        if is_listening {
            self.output.flush(END_TIMEOUT);
        }
        self.output.close();
        self.ends.cut();
        self.session.withdraw(self);
        self.session.processes.stream_has_ended();
        self.wait_for_tickets(|ticket| ticket.is_cancelled());
    }

    fn cancel_tickets(&self, which: impl Fn(&Ticket) -> bool) {
        let tickets: Vec<_> = lock(&self.tickets.open).values().filter(|t| which(t)).cloned().collect();
        for ticket in tickets {
            if ticket.cancel().is_some() {
                // Nobody was at work on it.
                self.close_ticket(ticket.id);
            }
        }
    }

    fn wait_for_tickets(&self, which: impl Fn(&Ticket) -> bool) {
        let deadline = Instant::now() + END_TIMEOUT;
        let mut open = lock(&self.tickets.open);
        while open.values().any(|ticket| which(ticket)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (open, _) = wait_timeout(&self.tickets.fewer, open, left);
        }
    }
}

impl Lead {
    /// The leader is about to carry out a request.
    fn begin(&self) -> u64 {
        let turn = self.turn.fetch_add(1, Ordering::SeqCst) + 1;
        if self.watchdog_sleeps.load(Ordering::SeqCst) {
            self.wake();
        }
        turn
    }

    /// The leader has carried it out. `false` when another thread leads now.
    fn finish(&self, turn: u64) -> bool {
        self.turn.compare_exchange(turn, turn + 1, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes the lead from a thread that still is where it was.
    fn take_over(&self, turn: u64) -> bool {
        self.turn.compare_exchange(turn, turn + 1, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn wake(&self) {
        let _watchdog = lock(&self.watchdog.0);
        self.watchdog_sleeps.store(false, Ordering::Release);
        self.watchdog.1.notify_all();
    }

    fn doze(&self) {
        drop(wait_timeout(&self.watchdog.1, lock(&self.watchdog.0), TAKE_OVER_AFTER));
    }

    /// Sleeps until the leader carries out a request again.
    fn sleep(&self, seen: u64, over: &AtomicBool) {
        let mut watchdog = lock(&self.watchdog.0);
        self.watchdog_sleeps.store(true, Ordering::SeqCst);
        while self.watchdog_sleeps.load(Ordering::SeqCst) && !over.load(Ordering::Acquire) {
            // What began before the flag was seen is seen here.
            if self.turn.load(Ordering::SeqCst) != seen {
                self.watchdog_sleeps.store(false, Ordering::SeqCst);
                return;
            }
            watchdog = wait(&self.watchdog.1, watchdog);
        }
    }
}

/// What the client has asked for and has not been answered.
#[derive(Default)]
struct Load {
    state: Mutex<LoadState>,
    less: Condvar,
}

#[derive(Default)]
struct LoadState {
    requests: usize,
    payload_bytes: usize,
    let_go: bool,
}

impl Load {
    /// Counts a request in; waits while there are too many payloads. `false` when there are too many requests.
    fn add(&self, payload_bytes: usize, over: &AtomicBool) -> bool {
        let mut state = lock(&self.state);
        if state.requests >= REQUESTS_IN_FLIGHT_MAX {
            return false;
        }
        while state.payload_bytes > PAYLOADS_QUEUED_BYTES_MAX
            && !state.let_go
            && !over.load(Ordering::Acquire)
        {
            state = wait(&self.less, state);
        }
        state.requests += 1;
        state.payload_bytes += payload_bytes;
        true
    }

    fn remove_payload(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut state = lock(&self.state);
        let was_full = state.payload_bytes > PAYLOADS_QUEUED_BYTES_MAX;
        state.payload_bytes -= bytes;
        if was_full && state.payload_bytes <= PAYLOADS_QUEUED_BYTES_MAX {
            self.less.notify_all();
        }
    }

    fn remove_request(&self) {
        lock(&self.state).requests -= 1;
    }

    fn let_go(&self) {
        lock(&self.state).let_go = true;
        self.less.notify_all();
    }
}

/// What a request costs the thread that carries it out.
enum Cost {
    /// It is handed to somebody, and must be so in the order of its arrival.
    Nothing,
    /// Usually less than giving it to another thread.
    Little,
    /// It may wait for somebody, or is long by nature.
    Much,
}

fn cost(job: &Job) -> Cost {
    use FileRequest as F;
    use ProcessRequest as P;
    let cheap = match &job.request {
        Request::Process(P::Spawn { .. }) => false,
        Request::Process(
            P::Follow { .. }
            | P::Detach { .. }
            | P::Release { .. }
            | P::Forget { .. }
            | P::Wait { .. }
            | P::Input { .. }
            | P::Signal { .. }
            | P::Resize { .. },
        )
        | Request::Describe => return Cost::Nothing,
        Request::File(request) => match request {
            F::Sync { .. }
            | F::Allocate { .. }
            | F::CopyRange { .. }
            | F::List { .. }
            | F::Walk { .. }
            | F::Digest { .. }
            | F::PutMany { .. }
            | F::GetMany { .. }
            | F::Search { .. }
            | F::RemoveTree { .. }
            | F::Find { .. }
            | F::Watch { .. } => false,
            F::Put { sync, .. } => !sync && job.payload.len() <= CHEAP_BYTES,
            F::Read { length, .. } => *length as usize <= CHEAP_BYTES,
            F::Write { .. } => job.payload.len() <= CHEAP_BYTES,
            F::Lock { lock, wait, .. } => !wait || lock.kind == LockKind::Unlocked,
            _ => true,
        },
    };
    if cheap { Cost::Little } else { Cost::Much }
}
