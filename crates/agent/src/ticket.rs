//! What the client says of a request while it runs: more credit, or that it is no longer wanted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use wire::agent::file::FileRequest;
use wire::agent::process::{OUTPUT_KEPT_BYTES_MAX, ProcessRequest};
use wire::agent::{Request, RequestId, Sequence};

use crate::streamed::Task;
use crate::sync::lock;

/// Wakes whoever serves a request when something has been said of it. Must not block.
pub(crate) type Waker = Arc<dyn Fn() + Send + Sync>;

pub(crate) struct Ticket {
    pub id: RequestId,
    pub sequence: Sequence,
    /// Whether it goes on when its stream breaks and the session is kept.
    pub outlives_stream: bool,
    cancelled: AtomicBool,
    state: Mutex<State>,
}

struct State {
    credit: i64,
    /// What the client has allowed since the request came.
    allowed: u64,
    /// A streamed answer that waits for credit.
    parked: Option<Box<dyn Task>>,
    waker: Option<Waker>,
}

impl Ticket {
    fn new(id: RequestId, sequence: Sequence, window: u32, outlives_stream: bool) -> Arc<Ticket> {
        let state = State { credit: window.into(), allowed: 0, parked: None, waker: None };
        let cancelled = AtomicBool::new(false);
        Arc::new(Ticket { id, sequence, outlives_stream, cancelled, state: Mutex::new(state) })
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Takes a page's bytes off the credit, and gives the answer back if it may go on; otherwise keeps it.
    pub fn spend_or_park(&self, bytes: usize, task: Box<dyn Task>) -> Option<Box<dyn Task>> {
        let mut state = lock(&self.state);
        state.credit = state.credit.saturating_sub_unsigned(bytes as u64);
        if state.credit > 0 || self.is_cancelled() {
            return Some(task);
        }
        state.parked = Some(task);
        None
    }

    pub fn spend(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.credit = state.credit.saturating_sub_unsigned(bytes as u64);
    }

    pub fn has_credit(&self) -> bool {
        lock(&self.state).credit > 0
    }

    /// What has been allowed beyond the window.
    pub fn allowed(&self) -> u64 {
        lock(&self.state).allowed
    }

    /// Adds credit. Gives back the answer that waited for it.
    pub fn allow(&self, bytes: u32) -> Option<Box<dyn Task>> {
        let mut state = lock(&self.state);
        state.credit = state.credit.saturating_add(bytes.into());
        state.allowed = state.allowed.saturating_add(bytes.into());
        if state.credit <= 0 {
            return None;
        }
        let parked = state.parked.take();
        let waker = state.waker.clone();
        drop(state);
        wake(waker);
        parked
    }

    /// Says that the answer is no longer wanted. Gives it back if it waited.
    pub fn cancel(&self) -> Option<Box<dyn Task>> {
        let mut state = lock(&self.state);
        self.cancelled.store(true, Ordering::Release);
        let parked = state.parked.take();
        let waker = state.waker.clone();
        drop(state);
        wake(waker);
        parked
    }

    /// From now on `waker` is called when the client says something. It is called at once if it has cancelled already.
    pub fn wake_with(&self, waker: Waker) {
        let mut state = lock(&self.state);
        state.waker = Some(waker.clone());
        drop(state);
        if self.is_cancelled() {
            waker();
        }
    }

    /// Forgets the waker, and with it what it holds.
    pub fn close(&self) {
        let state = &mut *lock(&self.state);
        state.waker = None;
        state.parked = None;
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker();
    }
}

/// The ticket of a request that may take long; `None` for any other. A process of a session that is kept is not allowed
/// more output than is kept.
pub(crate) fn ticket_for(
    id: RequestId,
    sequence: Sequence,
    request: &Request,
    is_kept: bool,
) -> Option<Arc<Ticket>> {
    let (window, outlives_stream) = match request {
        Request::File(
            FileRequest::List { window, .. }
            | FileRequest::Walk { window, .. }
            | FileRequest::Search { window, .. }
            | FileRequest::RemoveTree { window, .. }
            | FileRequest::Find { window, .. }
            | FileRequest::Watch { window, .. },
        ) => (*window, false),
        Request::Process(ProcessRequest::Spawn { window, .. } | ProcessRequest::Follow { window, .. }) => {
            (if is_kept { (*window).min(OUTPUT_KEPT_BYTES_MAX) } else { *window }, true)
        }
        Request::File(FileRequest::CopyRange { .. } | FileRequest::Lock { wait: true, .. }) => {
            (0, sequence != Sequence(0))
        }
        _ => return None,
    };
    Some(Ticket::new(id, sequence, window, outlives_stream))
}
