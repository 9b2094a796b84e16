//! Which request a thread is busy with: for the report of a panic, so that a successor does not carry out again what ended
//! its predecessor.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

thread_local! {
    static CURRENT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The request, by its number without what tells that it came again.
pub fn current() -> Option<u64> {
    CURRENT.get()
}

/// While this is there, the thread is busy with a request.
pub(crate) struct Busy {
    before: Option<u64>,
}

impl Busy {
    pub(crate) fn with(request: u64) -> Busy {
        Busy { before: CURRENT.replace(Some(request)) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // Kept while a panic unwinds: its report may come later.
        if !std::thread::panicking() {
            CURRENT.set(self.before);
        }
    }
}

/// A future whose polls are part of a request.
pub(super) struct PartOf<F> {
    request: u64,
    future: Pin<Box<F>>,
}

impl<F> PartOf<F> {
    pub(super) fn new(request: u64, future: F) -> PartOf<F> {
        PartOf { request, future: Box::pin(future) }
    }
}

impl<F: Future> Future for PartOf<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _busy = Busy::with(self.request);
        self.future.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_is_busy_while_it_polls_and_not_in_between() {
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let request = tokio::spawn(PartOf::new(7, async move {
            assert_eq!(current(), Some(7));
            gone.await.unwrap();
            current()
        }));
        tokio::task::yield_now().await;
        assert_eq!(current(), None);
        go.send(()).unwrap();
        assert_eq!(request.await.unwrap(), Some(7));
    }
}
