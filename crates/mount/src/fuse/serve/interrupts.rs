//! Which requests wait, and which of them are no longer wanted.
//!
//! Requests are known here by the numbers that the kernel has given them.

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
#[derive(Debug)]
pub(super) struct Interrupts {
    state: Mutex<State>,
    /// How many may be remembered.
    early_max: usize,
}

/// The right of one request to be interrupted. Dropped when it has been answered.
#[derive(Debug)]
pub(super) struct Registration {
    interrupts: Arc<Interrupts>,
    request: u64,
    notify: Arc<Notify>,
}

impl Interrupts {
    /// Where numbers return, an interrupt is remembered for none: it would hit a later request of the same number. One that
    /// overtakes its request's registration is lost, then, and the request goes on to its end.
    pub(super) fn new(numbers_return: bool) -> Arc<Interrupts> {
        let early_max = if numbers_return { 0 } else { EARLY_MAX };
        Arc::new(Interrupts { state: Mutex::default(), early_max })
    }

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
        state.early.push_back(request);
        if state.early.len() > self.early_max {
            state.early.pop_front();
        }
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
        let waiting = &mut self.interrupts.state.lock().waiting;
        // By now the number may be another request's.
        if waiting.get(&self.request).is_some_and(|(notify, _)| Arc::ptr_eq(notify, &self.notify)) {
            waiting.remove(&self.request);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[tokio::test]
    async fn an_interrupt_that_comes_early_is_remembered_where_numbers_do_not_return() {
        for numbers_return in [false, true] {
            let interrupts = Interrupts::new(numbers_return);
            interrupts.interrupt(7);
            let registration = interrupts.register(7, Waker::noop().clone());
            let is_interrupted = tokio::select! {
                biased;
                () = registration.wait() => true,
                () = std::future::ready(()) => false,
            };
            assert_eq!(is_interrupted, !numbers_return);
        }
    }

    #[tokio::test]
    async fn a_request_that_was_answered_takes_nothing_from_the_next_of_its_number() {
        let interrupts = Interrupts::new(true);
        let answered = interrupts.register(7, Waker::noop().clone());
        let next = interrupts.register(7, Waker::noop().clone());
        drop(answered);
        interrupts.interrupt(7);
        next.wait().await;
    }
}
