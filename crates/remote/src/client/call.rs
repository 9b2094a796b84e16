//! Requests as the caller sees them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use wire::agent::{Reply, RequestId};

use super::error::{CallError, LinkLost};
use super::pending::{Answer, Page};
use super::request::reply_name;
use super::session::Session;

type Admission<T> = Pin<Box<dyn Future<Output = Result<T, CallError>> + Send>>;

/// A request with one reply. It is on its way as soon as it exists, unless the link is full; then it is sent when it is
/// polled and there is room. While the machine is away it waits. Dropped before the reply has come, it is cancelled: the
/// machine may or may not have carried it out.
///
/// Two requests leave in the order in which they were made only if the first was [`queued`](Call::queued) before the
/// second was made.
#[must_use = "a call that is dropped is cancelled"]
pub struct Call {
    pub(super) state: CallState,
}

pub(super) enum CallState {
    /// The link is full.
    Waiting(Admission<Asked>),
    Asked(Asked),
    Refused(CallError),
    Finished,
}

/// A request that is with the link.
pub(super) struct Asked {
    pub(super) cancel: CancelOnDrop,
    pub(super) answer: oneshot::Receiver<Answer>,
}

/// Tells the agent that nobody waits for `id` any more, unless it has answered.
pub(super) struct CancelOnDrop {
    pub(super) session: Arc<Session>,
    pub(super) id: RequestId,
    pub(super) armed: bool,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if self.armed {
            self.session.cancel(self.id);
        }
    }
}

impl Call {
    /// Waits until the request has its place in the stream, behind every request that was queued before.
    pub async fn queued(&mut self) {
        std::future::poll_fn(|context| self.poll_queued(context)).await;
    }

    /// Blocks the thread until the answer is there. Not to be called on a runtime's own threads.
    pub fn wait(self) -> Result<(Reply, Bytes), CallError> {
        block_on(self)
    }

    fn poll_queued(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let CallState::Waiting(admission) = &mut self.state else { return Poll::Ready(()) };
        match admission.as_mut().poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(asked)) => self.state = CallState::Asked(asked),
            Poll::Ready(Err(error)) => self.state = CallState::Refused(error),
        }
        Poll::Ready(())
    }
}

impl Future for Call {
    type Output = Result<(Reply, Bytes), CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.poll_queued(context).is_pending() {
            return Poll::Pending;
        }
        if let CallState::Asked(asked) = &mut self.state {
            let Poll::Ready(answer) = Pin::new(&mut asked.answer).poll(context) else { return Poll::Pending };
            asked.cancel.armed = false;
            self.state = CallState::Finished;
            return Poll::Ready(answer.unwrap_or(Err(CallError::Lost(LinkLost::Closed))));
        }
        match std::mem::replace(&mut self.state, CallState::Finished) {
            CallState::Refused(error) => Poll::Ready(Err(error)),
            _ => panic!("a call was polled after it had answered"),
        }
    }
}

/// A [`Call`] whose reply is read as a `T`. A reply that is none costs the link: the peer does not keep the protocol.
#[must_use = "a call that is dropped is cancelled"]
pub struct TypedCall<T> {
    pub(super) call: Call,
    pub(super) session: Arc<Session>,
    pub(super) read: fn(Reply, Bytes) -> Option<T>,
}

impl<T> TypedCall<T> {
    /// As [`Call::queued`].
    pub async fn queued(&mut self) {
        self.call.queued().await;
    }

    /// As [`Call::wait`].
    pub fn wait(self) -> Result<T, CallError> {
        block_on(self)
    }
}

impl<T> Future for TypedCall<T> {
    type Output = Result<T, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(answer) = Pin::new(&mut self.call).poll(context) else { return Poll::Pending };
        let (reply, payload) = match answer {
            Ok(answer) => answer,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let name = reply_name(&reply);
        match (self.read)(reply, payload) {
            Some(value) => Poll::Ready(Ok(value)),
            None => Poll::Ready(Err(CallError::Lost(self.session.misanswered(name)))),
        }
    }
}

/// The replies of a streamed request, in order. Credit is given as they are taken, so the agent is never more than a
/// window ahead of the reader. Dropped before its end, the request is cancelled.
#[must_use = "a stream that is dropped is cancelled"]
pub struct ReplyStream {
    pub(super) state: StreamState,
    pub(super) window: usize,
    /// Taken, and not yet allowed again.
    pub(super) owed: usize,
}

pub(super) enum StreamState {
    /// The link is full.
    Waiting(Admission<AskedStream>),
    Asked(AskedStream),
    Refused(CallError),
    Finished,
}

pub(super) struct AskedStream {
    pub(super) cancel: CancelOnDrop,
    pub(super) pages: mpsc::UnboundedReceiver<Page>,
    pub(super) held: Arc<AtomicUsize>,
}

impl ReplyStream {
    /// The next reply, or `None` behind the last. An error is the last.
    pub async fn next(&mut self) -> Option<Result<(Reply, Bytes), CallError>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`ReplyStream::next`], polled.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<(Reply, Bytes), CallError>>> {
        if let StreamState::Waiting(admission) = &mut self.state {
            match admission.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(asked)) => self.state = StreamState::Asked(asked),
                Poll::Ready(Err(error)) => self.state = StreamState::Refused(error),
            }
        }
        let StreamState::Asked(asked) = &mut self.state else {
            return match std::mem::replace(&mut self.state, StreamState::Finished) {
                StreamState::Refused(error) => Poll::Ready(Some(Err(error))),
                _ => Poll::Ready(None),
            };
        };
        let Poll::Ready(page) = asked.pages.poll_recv(context) else { return Poll::Pending };
        let Some(Page { answer, bytes }) = page else {
            asked.cancel.armed = false;
            self.state = StreamState::Finished;
            return Poll::Ready(None);
        };
        self.owed += bytes;
        // Behind the last reply the agent has no use for credit.
        if self.owed > 0 && self.owed >= self.window / 2 && !asked.pages.is_closed() {
            asked.cancel.session.allow(asked.cancel.id, self.owed, &asked.held);
            self.owed = 0;
        }
        Poll::Ready(Some(answer))
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end on a thread that no runtime owns.
fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match Pin::new(&mut future).poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
