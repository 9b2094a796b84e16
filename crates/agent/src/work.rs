//! Carrying requests out: what the session's threads do, on whichever stream it was asked for.
//!
//! What a stream has brought and nobody has begun when that stream ends is dropped: the client sends it again. What has
//! been begun goes on, and its result is kept for the repeat.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use rustix::io::Errno;
use wire::agent::{Request, RequestId, Sequence};

use crate::credentials::enter_thread;
use crate::failure::failure;
use crate::gates::Pass;
use crate::locks::Wait;
use crate::log::log;
use crate::pool::Pushed;
use crate::replies::Answer;
use crate::session::{Asked, Outcome, Session, broken};
use crate::stream::Stream;
use crate::streamed::Task;
use crate::ticket::Ticket;

/// A request that is to be carried out.
pub(crate) struct Job {
    pub stream: Arc<Stream>,
    pub id: RequestId,
    pub sequence: Sequence,
    pub request: Request,
    pub payload: Vec<u8>,
    pub pass: Pass,
    pub ticket: Option<Arc<Ticket>>,
}

/// A request that waits for what another with the same sequence number comes to.
pub(crate) struct Waiter {
    /// What it waits for may take longer than it lives.
    pub stream: Weak<Stream>,
    pub id: RequestId,
}

/// What the pool's threads do.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
pub(crate) enum Work {
    Request(Job),
    Page(Arc<Stream>, Arc<Ticket>, Box<dyn Task>),
    Interrupt(Arc<Wait>),
}

impl Work {
    fn is_of(&self, stream: &Arc<Stream>) -> bool {
        match self {
            Work::Request(job) => Arc::ptr_eq(&job.stream, stream),
            Work::Page(of, ..) => Arc::ptr_eq(of, stream),
            Work::Interrupt(_) => false,
        }
    }
}

impl Session {
    /// Has one of the threads do something.
    pub fn push(self: &Arc<Session>, work: Work) {
        if self.pool.push(work) == Pushed::Taken {
            return;
        }
        let session = self.clone();
        let started = std::thread::Builder::new().name("worker".to_owned()).spawn(move || {
            enter_thread();
            session.work();
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

    /// The life of one of the threads, which has [entered](enter_thread) and is counted already.
    pub fn work(self: &Arc<Session>) {
        while let Some(work) = self.pool.next() {
            self.perform(work);
        }
        self.pool.leave();
    }

    fn perform(self: &Arc<Session>, work: Work) {
        match work {
            Work::Request(job) => self.run(job),
            Work::Page(stream, ticket, task) => self.send_pages(&stream, &ticket, task),
            Work::Interrupt(wait) => wait.interrupt(),
        }
    }

    /// Drops what a stream that is over has brought and nobody has begun, with the memory it takes.
    pub fn withdraw(self: &Arc<Session>, stream: &Arc<Stream>) {
        let (waiting, ready) = self.gates.withdraw(|job| Arc::ptr_eq(&job.stream, stream));
        waiting.into_iter().for_each(|job| self.drop_job(job));
        ready.into_iter().for_each(|job| self.push(Work::Request(job)));
        // Each finds its stream over.
        self.pool.withdraw(|work| !work.is_of(stream)).into_iter().for_each(|work| self.perform(work));
    }

    /// Forgets a job that no gate has let in.
    fn drop_job(&self, job: Job) {
        let begun = self.replies.begin(job.sequence, job.stream.number(), true);
        debug_assert!(!begun, "a job of a stream that is over");
        job.stream.not_begun(&job);
    }

    /// Carries a request out and answers it.
    pub fn run(self: &Arc<Session>, job: Job) {
        if !self.replies.begin(job.sequence, job.stream.number(), job.stream.is_over()) {
            self.leave_gates(&job.pass);
            job.stream.not_begun(&job);
            return;
        }
        let Job { stream, id, sequence, request, mut payload, pass, ticket } = job;
        let asked = Asked {
            stream: &stream,
            id,
            sequence,
            ticket: ticket.as_ref(),
            changing: RefCell::default(),
            part: Cell::default(),
        };
        let payload_bytes = payload.len();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.answer(&asked, request, &mut payload)));
        stream.payload_is_used(payload_bytes, payload);
        self.leave_gates(&pass);
        match outcome {
            Ok(Outcome::Answered(answer)) => {
                let (changing, part) = (asked.changing.into_inner(), asked.part.into_inner());
                Stream::finish(&stream, id, sequence, answer);
                if stream.is_over() {
                    changing.iter().for_each(|changing| changing.unheard());
                }
                drop(changing);
                if let Some(part) = part {
                    part.begin();
                }
            }
            Ok(Outcome::Later) => {}
            Ok(Outcome::Streamed(task)) => match ticket {
                Some(ticket) => self.start_pages(&stream, &ticket, task),
                None => Stream::finish(&stream, id, sequence, Err(failure(Errno::INVAL))),
            },
            // The panic's message has gone to the log.
            Err(_) => Stream::finish(&stream, id, sequence, Err(broken())),
        }
    }

    /// Keeps what a mutation has come to, and answers every repeat of it.
    pub fn keep(&self, sequence: Sequence, answer: &Answer) {
        for repeat in self.replies.keep(sequence, answer) {
            if let Some(stream) = repeat.stream.upgrade() {
                stream.reply(repeat.id, answer.clone(), false);
            }
        }
    }

    fn leave_gates(self: &Arc<Session>, pass: &Pass) {
        for ready in self.gates.leave(pass) {
            self.push(Work::Request(ready));
        }
    }

    fn start_pages(self: &Arc<Session>, stream: &Arc<Stream>, ticket: &Arc<Ticket>, task: Box<dyn Task>) {
        if let Some(task) = ticket.spend_or_park(0, task) {
            self.send_pages(stream, ticket, task);
        }
    }

    /// Sends pages while the client has allowed them.
    fn send_pages(&self, stream: &Arc<Stream>, ticket: &Arc<Ticket>, mut task: Box<dyn Task>) {
        let (id, sequence) = (ticket.id, ticket.sequence);
        loop {
            if ticket.is_cancelled() || stream.is_deaf() {
                return Stream::finish(stream, id, sequence, Err(failure(Errno::INTR)));
            }
            let page = match catch_unwind(AssertUnwindSafe(|| task.next(self))) {
                Ok(Ok(page)) => page,
                Ok(Err(errno)) => return Stream::finish(stream, id, sequence, Err(failure(errno))),
                Err(_) => return Stream::finish(stream, id, sequence, Err(broken())),
            };
            if page.last {
                return Stream::finish(stream, id, sequence, Ok((page.reply, page.payload)));
            }
            let sent = stream.send(id, page.reply, page.payload);
            match ticket.spend_or_park(sent, task) {
                Some(again) => task = again,
                None => return,
            }
        }
    }
}
