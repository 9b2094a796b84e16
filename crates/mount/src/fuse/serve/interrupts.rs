//! Which requests wait, and which of them are no longer wanted.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Interrupts remembered for requests that are not registered: most of them have been answered already, and a few are
/// on their way.
const EARLY_MAX: usize = 256;

#[derive(Debug, Default)]
struct State {
    /// With what wakes the request should it be parked.
    waiting: HashMap<u64, (Arc<Notify>, Waker)>,
    early: VecDeque<u64>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Interrupts {
    state: Mutex<State>,
}

/// The right of one request to be interrupted. Dropped when it has been answered.
#[derive(Debug)]
pub(super) struct Registration {
    interrupts: Arc<Interrupts>,
    request: u64,
    notify: Arc<Notify>,
}

impl Interrupts {
    /// The request waits from now on, and is woken by `waker`.
    pub(super) fn register(self: &Arc<Self>, request: u64, waker: Waker) -> Registration {
        let notify = Arc::new(Notify::new());
        let mut state = self.state.lock();
        if let Some(at) = state.early.iter().position(|early| *early == request) {
            state.early.remove(at);
            drop(state);
            notify.notify_one();
            waker.wake();
        } else {
            state.waiting.insert(request, (notify.clone(), waker));
        }
        Registration { interrupts: self.clone(), request, notify }
    }

    /// The kernel says that the request's caller was interrupted.
    pub(super) fn interrupt(&self, request: u64) {
        let mut state = self.state.lock();
        if let Some((notify, waker)) = state.waiting.get(&request).cloned() {
            drop(state);
            notify.notify_one();
            waker.wake();
            return;
        }
        if state.early.len() == EARLY_MAX {
            state.early.pop_front();
        }
        state.early.push_back(request);
    }
}

impl Registration {
    /// Waits for the interrupt.
    pub(super) async fn wait(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.interrupts.state.lock().waiting.remove(&self.request);
    }
}
