//! Threads that carry requests out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::sync::{lock, wait_timeout};

/// The most threads. Requests block in the file system, so there are far more than processors.
pub(crate) const WORKERS_MAX: usize = 64;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(30);

pub(crate) struct Pool<J> {
    state: Mutex<State<J>>,
    work: Condvar,
    gone: Condvar,
    full: AtomicBool,
}

struct State<J> {
    queue: VecDeque<J>,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// What the caller of [`Pool::push`] has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Taken,
    /// Start a thread that runs [`Pool::next`]; it is counted already.
    StartThread,
}

impl<J> Pool<J> {
    pub fn new() -> Pool<J> {
        let state = State { queue: VecDeque::new(), threads: 0, idle: 0, closed: false };
        Pool {
            state: Mutex::new(state),
            work: Condvar::new(),
            gone: Condvar::new(),
            full: AtomicBool::new(false),
        }
    }

    /// Queues a job. The queue is bounded by who pushes: no more than the client's requests in flight.
    #[must_use]
    pub fn push(&self, job: J) -> Pushed {
        let mut state = lock(&self.state);
        if state.closed {
            return Pushed::Taken;
        }
        state.queue.push_back(job);
        if state.idle >= state.queue.len() {
            self.work.notify_one();
            return Pushed::Taken;
        }
        if state.threads >= WORKERS_MAX {
            return Pushed::Taken;
        }
        self.count(&mut state, 1);
        Pushed::StartThread
    }

    /// Counts a thread that was not started by [`Pool::push`] but will come to [`Pool::next`].
    pub fn join(&self) {
        self.count(&mut lock(&self.state), 1);
    }

    /// Whether there are as many threads as there may be.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// A thread is gone, or could not be started.
    pub fn leave(&self) {
        self.count(&mut lock(&self.state), -1);
        self.gone.notify_all();
    }

    /// The next job, for one of the pool's threads; `None` tells it to go, after [`Pool::leave`].
    pub fn next(&self) -> Option<J> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            if state.threads > WORKERS_MAX {
                return None;
            }
            state.idle += 1;
            let timed_out;
            (state, timed_out) = wait_timeout(&self.work, state, IDLE);
            state.idle -= 1;
            if timed_out && state.queue.is_empty() {
                return None;
            }
        }
    }

    /// A job that no thread has taken yet, for a caller that cannot start one.
    pub fn take(&self) -> Option<J> {
        lock(&self.state).queue.pop_front()
    }

    /// Takes out the queued jobs that `wanted` does not name.
    pub fn withdraw(&self, wanted: impl Fn(&J) -> bool) -> Vec<J> {
        let mut state = lock(&self.state);
        let (keep, withdrawn) = std::mem::take(&mut state.queue).into_iter().partition(wanted);
        state.queue = keep;
        withdrawn.into()
    }

    fn count(&self, state: &mut State<J>, change: isize) {
        state.threads = state.threads.saturating_add_signed(change);
        self.full.store(state.threads >= WORKERS_MAX, Ordering::Relaxed);
    }

    /// Sends the threads away. Gives what was queued, which they will not do.
    #[must_use]
    pub fn close(&self) -> VecDeque<J> {
        let mut state = lock(&self.state);
        state.closed = true;
        self.work.notify_all();
        std::mem::take(&mut state.queue)
    }

    /// Waits until the threads are gone, but no longer than `timeout`.
    pub fn wait_until_gone(&self, timeout: Duration) {
        let deadline = std::time::Instant::now() + timeout;
        let mut state = lock(&self.state);
        while state.threads > 0 {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return;
            }
            (state, _) = wait_timeout(&self.gone, state, left);
        }
    }
}
