//! A stream of requests: who reads them, who carries them out, who answers.
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

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use wire::agent::file::{FileRequest, LockKind};
use wire::agent::process::ProcessRequest;
use wire::agent::{AgentFrame, ClientFrame, REQUESTS_IN_FLIGHT_MAX, Reply, Request, RequestId, Sequence};
use wire::hello::{Hello, SessionId, capability};

use crate::credentials::enter_thread;
use crate::failure::failure;
use crate::gates::{Gates, Pass, pass_of};
use crate::input::{Input, InputError};
use crate::locks::Wait;
use crate::log::log;
use crate::output::Output;
use crate::pool::{Pool, Pushed};
use crate::replies::{Admission, Answer};
use crate::session::{Asked, Outcome, Session, broken};
use crate::streamed::Task;
use crate::sync::{lock, wait, wait_timeout};
use crate::ticket::{Ticket, ticket_for};
use crate::{Ended, Options};

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

/// How long the end of a stream waits for what is being written or carried out.
const END_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct Stream {
    session: Session,
    output: Arc<Output>,
    input: Mutex<Input>,
    gates: Gates<Job>,
    pool: Pool<Work>,
    tickets: Mutex<HashMap<RequestId, Arc<Ticket>>>,
    load: Load,
    lead: Lead,
    end: (Mutex<Option<Ended>>, Condvar),
    ending: AtomicBool,
}

/// A request that is to be carried out.
struct Job {
    id: RequestId,
    sequence: Sequence,
    request: Request,
    payload: Vec<u8>,
    pass: Pass,
    ticket: Option<Arc<Ticket>>,
}

/// What a thread besides the pool's does.
type Helper = fn(&Arc<Stream>);

/// What the pool's threads do.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
enum Work {
    Request(Job),
    Page(Arc<Ticket>, Box<dyn Task>),
    Interrupt(Arc<Wait>),
}

/// Who leads, and whether an operation holds the leader up.
#[derive(Default)]
struct Lead {
    /// Odd while the leader carries out a request. Grows with each, and when another thread takes over.
    turn: AtomicU64,
    watchdog_sleeps: AtomicBool,
    watchdog: (Mutex<()>, Condvar),
}

/// Serves one stream, from its preface to its end.
pub(crate) fn serve(input: OwnedFd, output: OwnedFd, options: Options) -> Ended {
    let output = Arc::new(Output::new(output));
    let mut input = Input::new(input);
    if let Err(ended) = greet(&mut input, &output) {
        return ended;
    }
    let session = match Session::new(options, output.clone()) {
        Ok(session) => session,
        Err(errno) => return close_with(&output, format!("could not make a session: {errno}")),
    };
    let stream = Arc::new(Stream {
        session,
        output,
        input: Mutex::new(input),
        gates: Gates::new(),
        pool: Pool::new(),
        tickets: Mutex::default(),
        load: Load::default(),
        lead: Lead::default(),
        end: Default::default(),
        ending: AtomicBool::new(false),
    });
    let helpers: [(&str, Helper); 3] = [
        ("writer", |s| s.output.write_queued()),
        ("watchdog", Stream::watch_leader),
        ("leases", |s| s.session.leases.run(|| s.session.attached(), &s.session.told)),
    ];
    for (name, run) in helpers {
        if let Err(error) = start(&stream, name, run) {
            stream.end_with(Ended::Failed(format!("could not start a thread: {error}")));
        }
    }
    stream.start_leader();
    let ended = stream.wait_for_end();
    stream.wind_up();
    ended
}

/// Exchanges prefaces and hellos.
fn greet(input: &mut Input, output: &Output) -> Result<(), Ended> {
    let hello = Hello::new(capability::LEASES | capability::PROCESSES | capability::LOCKS, new_session_id());
    let sent = output.send_raw(wire::frame::PREFACE).and_then(|()| output.send_first(&hello));
    sent.map_err(|errno| Ended::Failed(format!("could not write to the stream: {errno}")))?;
    let theirs = input.preface().and_then(|()| input.frame::<Hello>());
    let reason = match theirs {
        Ok(Some((theirs, _))) => match hello.agree(&theirs) {
            Ok(_) => return Ok(()),
            Err(mismatch) => mismatch.to_string(),
        },
        Ok(None) => "the stream ended before the client said hello".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(close_with(output, reason))
}

fn close_with(output: &Output, reason: String) -> Ended {
    // The client may be gone; then there is nobody to tell.
    let _ = output.send_first(&AgentFrame::Closing { reason: reason.clone() });
    Ended::Failed(reason)
}

fn new_session_id() -> SessionId {
    use std::hash::{BuildHasher, RandomState};
    // Each state is keyed at random by the standard library, from the system's generator.
    let [a, b] = [RandomState::new().hash_one(0), RandomState::new().hash_one(1)];
    let mut id = [0; 16];
    id[..8].copy_from_slice(&a.to_le_bytes());
    id[8..].copy_from_slice(&b.to_le_bytes());
    SessionId(id)
}

fn start(stream: &Arc<Stream>, name: &str, run: Helper) -> std::io::Result<()> {
    let stream = stream.clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&stream)).map(drop)
}

impl Stream {
    /// Leads until another thread has taken over or the stream has ended.
    fn lead(self: &Arc<Stream>) {
        let mut given_away = 0u32;
        while !self.ending.load(Ordering::Acquire) {
            let mut input = lock(&self.input);
            let frame = input.frame::<ClientFrame>();
            let more_waits = input.has_more();
            drop(input);
            let (frame, payload) = match frame {
                Ok(Some(frame)) => frame,
                Ok(None) => return self.end_with(Ended::ByClient),
                Err(error) => return self.broken_input(&error),
            };
            let Some(job) = self.accept(frame, payload) else {
                continue;
            };
            match cost(&job) {
                Cost::Nothing => {
                    self.run(job);
                    continue;
                }
                Cost::Little if (given_away == 0 || !more_waits) && !self.pool.is_full() => {}
                Cost::Little | Cost::Much => {
                    given_away = given_away.saturating_sub(1);
                    self.push(Work::Request(job));
                    continue;
                }
            }
            let turn = self.lead.begin();
            let started = Instant::now();
            self.run(job);
            if started.elapsed() > SLOW {
                given_away = GIVEN_AWAY_AFTER_SLOW;
            }
            if !self.lead.finish(turn) {
                return;
            }
        }
    }

    fn broken_input(&self, error: &InputError) {
        self.end_with(Ended::Failed(error.to_string()));
    }

    /// Does what a frame says. Gives a request back that may be carried out now.
    fn accept(self: &Arc<Stream>, frame: ClientFrame, payload: Vec<u8>) -> Option<Job> {
        match frame {
            ClientFrame::Request { id, sequence, body } => self.admit(id, sequence, body, payload),
            ClientFrame::Credit { id, bytes } => {
                let ticket = self.ticket(id)?;
                let task = ticket.allow(bytes)?;
                self.push(Work::Page(ticket, task));
                None
            }
            ClientFrame::Cancel { id } => {
                let ticket = self.ticket(id)?;
                let task = ticket.cancel()?;
                self.push(Work::Page(ticket, task));
                None
            }
            ClientFrame::Acknowledge { sequence } => {
                self.session.replies.acknowledge(sequence);
                None
            }
            ClientFrame::Ping { nonce } => {
                self.output.send(&AgentFrame::Pong { nonce }, Vec::new());
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
        if !self.load.add(payload.len(), &self.ending) {
            self.end_with(Ended::Failed("the client has too many requests in flight".to_owned()));
            return None;
        }
        let payload_bytes = payload.len();
        match self.session.replies.admit(sequence, id) {
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
                self.end_with(Ended::Failed(why.to_owned()));
                return None;
            }
        }
        let ticket = ticket_for(id, sequence, &request);
        if let Some(ticket) = &ticket
            && lock(&self.tickets).insert(id, ticket.clone()).is_some()
        {
            self.end_with(Ended::Failed(format!("the client has used {id:?} twice")));
            return None;
        }
        let pass = match &request {
            Request::File(request) => pass_of(request),
            Request::Process(_) | Request::Describe => [None, None],
        };
        self.gates.enter(&pass.clone(), Job { id, sequence, request, payload, pass, ticket })
    }

    /// Carries a request out and answers it.
    fn run(self: &Arc<Stream>, job: Job) {
        let Job { id, sequence, request, payload, pass, ticket } = job;
        let asked =
            Asked { stream: self, id, sequence, ticket: ticket.as_ref(), changing: RefCell::default() };
        let payload_bytes = payload.len();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.session.answer(&asked, request, payload)));
        self.load.remove_payload(payload_bytes);
        for ready in self.gates.leave(&pass) {
            self.push(Work::Request(ready));
        }
        match outcome {
            Ok(Outcome::Answered(answer)) => {
                let changing = asked.changing.into_inner();
                Stream::finish(self, id, sequence, answer);
                drop(changing);
            }
            Ok(Outcome::Later) => {}
            Ok(Outcome::Streamed(task)) => match ticket {
                Some(ticket) => self.start_pages(ticket, task),
                None => Stream::finish(self, id, sequence, Err(failure(Errno::INVAL))),
            },
            // The panic's message has gone to the log.
            Err(_) => Stream::finish(self, id, sequence, Err(broken())),
        }
    }

    fn start_pages(self: &Arc<Stream>, ticket: Arc<Ticket>, task: Box<dyn Task>) {
        if let Some(task) = ticket.spend_or_park(0, task) {
            self.send_pages(ticket, task);
        }
    }

    /// Sends pages while the client has allowed them.
    fn send_pages(self: &Arc<Stream>, ticket: Arc<Ticket>, mut task: Box<dyn Task>) {
        let (id, sequence) = (ticket.id, ticket.sequence);
        loop {
            if ticket.is_cancelled() || self.output.is_closed() {
                return Stream::finish(self, id, sequence, Err(failure(Errno::INTR)));
            }
            let page = match catch_unwind(AssertUnwindSafe(|| task.next(&self.session))) {
                Ok(Ok(page)) => page,
                Ok(Err(errno)) => return Stream::finish(self, id, sequence, Err(failure(errno))),
                Err(_) => return Stream::finish(self, id, sequence, Err(broken())),
            };
            if page.last {
                return Stream::finish(self, id, sequence, Ok((page.reply, page.payload)));
            }
            let sent = self.send(id, page.reply, page.payload);
            match ticket.spend_or_park(sent, task) {
                Some(again) => task = again,
                None => return,
            }
        }
    }

    /// Sends a request's last reply, and that of every repeat of it.
    pub fn finish(self: &Arc<Stream>, id: RequestId, sequence: Sequence, answer: Answer) {
        let closed = lock(&self.tickets).remove(&id);
        // The last of several replies must not overtake the others.
        let ordered = closed.is_some();
        if let Some(ticket) = closed {
            ticket.close();
        }
        for repeat in self.session.replies.keep(sequence, &answer) {
            self.reply(repeat, answer.clone(), false);
        }
        self.reply(id, answer, ordered);
    }

    /// Sends a reply that is not the last. Says what it takes of the client's credit.
    pub fn send(&self, id: RequestId, reply: Reply, payload: Vec<u8>) -> usize {
        self.output.send_ordered(&AgentFrame::Reply { id, last: false, body: Ok(reply) }, payload)
    }

    /// Ends a wait that has been cancelled. Does not block.
    pub fn interrupt(self: &Arc<Stream>, wait: Arc<Wait>) {
        wait.signal();
        self.push(Work::Interrupt(wait));
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    fn reply(&self, id: RequestId, answer: Answer, ordered: bool) {
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
        lock(&self.tickets).get(&id).cloned()
    }

    fn push(self: &Arc<Stream>, work: Work) {
        if self.pool.push(work) == Pushed::Taken {
            return;
        }
        let stream = self.clone();
        let started = std::thread::Builder::new().name("worker".to_owned()).spawn(move || {
            enter_thread();
            stream.work();
        });
        if let Err(error) = started {
            log(format_args!("could not start a worker: {error}"));
            self.pool.leave();
            // Others will come to it; when there are none, this thread must.
            if let Some(work) = self.pool.take() {
                self.perform(work);
            }
        }
    }

    /// Starts a thread that leads, whatever the others do, and is a worker when another has taken over.
    fn start_leader(self: &Arc<Stream>) {
        self.pool.join();
        let stream = self.clone();
        let started = std::thread::Builder::new().name("leader".to_owned()).spawn(move || {
            enter_thread();
            stream.lead();
            stream.work();
        });
        if let Err(error) = started {
            self.pool.leave();
            self.end_with(Ended::Failed(format!("could not start a thread: {error}")));
        }
    }

    fn work(self: &Arc<Stream>) {
        while let Some(work) = self.pool.next() {
            self.perform(work);
        }
        self.pool.leave();
    }

    fn perform(self: &Arc<Stream>, work: Work) {
        match work {
            Work::Request(job) => self.run(job),
            Work::Page(ticket, task) => self.send_pages(ticket, task),
            Work::Interrupt(wait) => wait.interrupt(),
        }
    }

    /// The watchdog's work, see the module's documentation.
    fn watch_leader(self: &Arc<Stream>) {
        let mut last_seen = 0;
        while !self.ending.load(Ordering::Acquire) {
            let turn = self.lead.turn.load(Ordering::Acquire);
            if turn == last_seen && turn % 2 == 1 && self.lead.take_over(turn) {
                self.start_leader();
            }
            if turn == last_seen {
                self.lead.sleep(turn, &self.ending);
            } else {
                self.lead.doze();
            }
            last_seen = turn;
        }
    }

    fn end_with(&self, ended: Ended) {
        let mut end = lock(&self.end.0);
        end.get_or_insert(ended);
        self.ending.store(true, Ordering::Release);
        self.end.1.notify_all();
    }

    fn wait_for_end(&self) -> Ended {
        let mut end = lock(&self.end.0);
        loop {
            if let Some(ended) = &*end {
                return ended.clone();
            }
            end = wait(&self.end.1, end);
        }
    }

    /// Tells the client why, ends what runs for it and waits for that, within limits.
    fn wind_up(self: &Arc<Stream>) {
        if let Some(Ended::Failed(reason)) = &*lock(&self.end.0) {
            self.output.send_later(&AgentFrame::Closing { reason: reason.clone() });
        }
        let tickets: Vec<_> = lock(&self.tickets).values().cloned().collect();
        for ticket in tickets {
            drop(ticket.cancel());
        }
        self.session.processes.end_all();
        self.session.leases.close();
        self.load.let_go();
        self.lead.wake();
        self.output.flush(END_TIMEOUT);
        self.output.close();
        for work in self.pool.close() {
            // A wait that nobody ends would take its lock in the name of a session that is gone.
            if let Work::Interrupt(wait) = work {
                wait.interrupt();
            }
        }
        self.pool.wait_until_gone(END_TIMEOUT);
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
    fn sleep(&self, seen: u64, ending: &AtomicBool) {
        let mut watchdog = lock(&self.watchdog.0);
        self.watchdog_sleeps.store(true, Ordering::SeqCst);
        while self.watchdog_sleeps.load(Ordering::SeqCst) && !ending.load(Ordering::Acquire) {
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
    fn add(&self, payload_bytes: usize, ending: &AtomicBool) -> bool {
        let mut state = lock(&self.state);
        if state.requests >= REQUESTS_IN_FLIGHT_MAX {
            return false;
        }
        while state.payload_bytes > PAYLOADS_QUEUED_BYTES_MAX
            && !state.let_go
            && !ending.load(Ordering::Acquire)
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
        state.payload_bytes -= bytes;
        if state.payload_bytes <= PAYLOADS_QUEUED_BYTES_MAX {
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
        Request::Process(P::Input { .. } | P::Signal { .. } | P::Resize { .. }) | Request::Describe => {
            return Cost::Nothing;
        }
        Request::File(request) => match request {
            F::Sync { .. }
            | F::Allocate { .. }
            | F::CopyRange { .. }
            | F::List { .. }
            | F::Walk { .. }
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
