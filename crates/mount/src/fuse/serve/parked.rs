//! An operation that waits, outside of the runtime until it is woken.
//!
//! Most operations that wait do so once, for one reply. Handing each to the runtime at once would wake a thread of it
//! for nothing: to poll what is not ready. So the operation is parked with a waker of its own; when that is woken, by the
//! task that reads replies, the operation becomes a task of the runtime, beside the one that woke it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::runtime::Handle;

/// The rest of an operation, with its answer.
pub(super) type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

enum State {
    /// Being polled for the first time.
    Starting,
    /// Woken before it was parked.
    Woken,
    Parked(Rest),
    /// With the runtime, or done.
    Gone,
}

/// See the module's documentation.
pub(super) struct Parked {
    state: Mutex<State>,
    runtime: Handle,
}

impl Parked {
    /// For an operation that is about to be polled for the first time.
    pub(super) fn new(runtime: Handle) -> Arc<Parked> {
        Arc::new(Parked { state: Mutex::new(State::Starting), runtime })
    }

    /// Polls an operation for the first time.
    pub(super) fn first_poll<T>(self: &Arc<Self>, operation: Pin<&mut dyn Future<Output = T>>) -> Poll<T> {
        let waker = Waker::from(self.clone());
        operation.poll(&mut Context::from_waker(&waker))
    }

    /// Keeps what is left of the operation until it is woken.
    pub(super) fn park(&self, rest: Rest) {
        let mut state = self.state.lock();
        match *state {
            State::Starting => *state = State::Parked(rest),
            State::Woken | State::Parked(_) | State::Gone => {
                *state = State::Gone;
                drop(state);
                self.runtime.spawn(rest);
            }
        }
    }
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Gone) {
            State::Starting | State::Woken => *state = State::Woken,
            State::Parked(rest) => {
                drop(state);
                self.runtime.spawn(rest);
            }
            State::Gone => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn counting(count: &Arc<AtomicU32>) -> Rest {
        let count = count.clone();
        Box::pin(async move {
            count.fetch_add(1, Ordering::SeqCst);
        })
    }

    #[tokio::test]
    async fn what_is_parked_runs_once_however_often_it_is_woken() {
        let (parked, count) = (Parked::new(Handle::current()), Arc::new(AtomicU32::new(0)));
        parked.park(counting(&count));
        tokio::task::yield_now().await;
        assert_eq!(count.load(Ordering::SeqCst), 0);
        for _ in 0..3 {
            Waker::from(parked.clone()).wake();
        }
        tokio::task::yield_now().await;
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_was_woken_before_it_was_parked_runs_at_once() {
        let (parked, count) = (Parked::new(Handle::current()), Arc::new(AtomicU32::new(0)));
        Waker::from(parked.clone()).wake();
        parked.park(counting(&count));
        tokio::task::yield_now().await;
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}
