//! Frames into a byte stream, by whoever has one.
//!
//! A sender writes its frame itself, on its own thread, when nobody else is writing. When somebody is, it leaves the
//! frame in the queue, and the one who writes takes all that has gathered in one system call. When the stream takes no
//! more, a task writes on as soon as it does. So a lone request costs one system call and no change of threads, and
//! many share.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::sync::Notify;

/// How many pieces go to the system at once.
const SLICES_MAX: usize = 64;

/// A frame on its way.
pub(super) struct Outgoing {
    /// Prefix and head, encoded.
    pub(super) head: Vec<u8>,
    pub(super) payload: Bytes,
}

impl Outgoing {
    fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

/// What has gone out in one go.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) frames: usize,
    pub(super) bytes: usize,
    /// Payload bytes of the frames that are now written as a whole.
    pub(super) payload_bytes: usize,
}

/// The writing side of a stream.
pub(super) struct Outbox {
    state: Mutex<State>,
    waker: Waker,
    writable: Arc<Writable>,
}

struct State {
    queue: VecDeque<Outgoing>,
    /// Absent while somebody writes, and for ever once the stream is closed.
    writer: Option<Box<Writer>>,
    /// The stream takes nothing; the task has been promised a wake-up.
    blocked: bool,
    /// The wake-up came while somebody held the writer.
    woken: bool,
    closed: bool,
    /// The session's last mutation.
    sequence: u64,
}

struct Writer {
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    batch: VecDeque<Outgoing>,
    /// How much of the batch's first frame has been written.
    written: usize,
    /// The stream may hold back some of what it took.
    unflushed: bool,
}

/// Told when the stream takes bytes again.
struct Writable(Notify);

impl Wake for Writable {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

impl Outbox {
    pub(super) fn new(stream: Box<dyn AsyncWrite + Send + Unpin>) -> Outbox {
        let writable = Arc::new(Writable(Notify::new()));
        let writer = Writer { stream, batch: VecDeque::new(), written: 0, unflushed: false };
        let state = State {
            queue: VecDeque::new(),
            writer: Some(Box::new(writer)),
            blocked: false,
            woken: false,
            closed: false,
            sequence: 0,
        };
        Outbox { state: Mutex::new(state), waker: Waker::from(writable.clone()), writable }
    }

    /// Puts the frame that `make` returns behind the others. `make` is given the session's last sequence number and may
    /// take the next: numbers are in the order of the frames. Call [`Outbox::flush`] afterwards. A closed outbox takes
    /// the frame and drops it.
    pub(super) fn push<E>(&self, make: impl FnOnce(&mut u64) -> Result<Outgoing, E>) -> Result<(), E> {
        let mut state = self.state.lock();
        let frame = make(&mut state.sequence)?;
        if !state.closed {
            state.queue.push_back(frame);
        }
        Ok(())
    }

    /// Writes what the stream takes now, unless somebody is at it. Never blocks.
    pub(super) fn flush(&self) -> io::Result<Written> {
        let mut state = self.state.lock();
        if state.blocked {
            return Ok(Written::default());
        }
        let Some(writer) = state.writer.take() else { return Ok(Written::default()) };
        drop(state);
        self.write_with(writer)
    }

    /// Waits until a blocked stream takes bytes again, then writes. For one task, in a loop.
    pub(super) async fn flush_when_writable(&self) -> io::Result<Written> {
        self.writable.0.notified().await;
        let mut state = self.state.lock();
        state.blocked = false;
        let Some(writer) = state.writer.take() else {
            state.woken = true;
            return Ok(Written::default());
        };
        drop(state);
        self.write_with(writer)
    }

    /// Closes the stream. What is queued is dropped. A writer at work closes it when it is done.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let dropped = (std::mem::take(&mut state.queue), state.writer.take());
        drop(state);
        drop(dropped);
    }

    fn write_with(&self, mut writer: Box<Writer>) -> io::Result<Written> {
        let mut context = Context::from_waker(&self.waker);
        let mut written = Written::default();
        loop {
            let mut state = self.state.lock();
            if state.closed {
                return Ok(written);
            }
            writer.batch.append(&mut state.queue);
            if writer.batch.is_empty() && !writer.unflushed {
                state.writer = Some(writer);
                return Ok(written);
            }
            drop(state);
            if writer.write_batch(&mut context, &mut written)?.is_ready() {
                continue;
            }
            let mut state = self.state.lock();
            if std::mem::take(&mut state.woken) {
                continue;
            }
            if !state.closed {
                state.blocked = true;
                state.writer = Some(writer);
            }
            return Ok(written);
        }
    }
}

impl Writer {
    /// Writes the batch to its end, or as far as the stream takes it.
    fn write_batch(&mut self, context: &mut Context<'_>, written: &mut Written) -> io::Result<Poll<()>> {
        while !self.batch.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = fill_slices(&self.batch, self.written, &mut slices);
            let stream = Pin::new(&mut self.stream);
            match stream.poll_write_vectored(context, &slices[..used]) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => self.advance(bytes, written),
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(flushed) => {
                self.unflushed = false;
                flushed.map(Poll::Ready)
            }
        }
    }

    fn advance(&mut self, bytes: usize, written: &mut Written) {
        self.unflushed = true;
        written.bytes += bytes;
        self.written += bytes;
        while let Some(first) = self.batch.front()
            && self.written >= first.len()
        {
            self.written -= first.len();
            written.frames += 1;
            written.payload_bytes += first.payload.len();
            self.batch.pop_front();
        }
    }
}

/// Points `slices` at what is left of the batch, of whose first frame `written` bytes are done. Says how many it used.
fn fill_slices<'a>(batch: &'a VecDeque<Outgoing>, written: usize, slices: &mut [IoSlice<'a>]) -> usize {
    let mut used = 0;
    let mut skip = written;
    for piece in batch.iter().flat_map(|frame| [frame.head.as_slice(), &frame.payload]) {
        if used == slices.len() {
            break;
        }
        let start = skip.min(piece.len());
        skip -= start;
        if start < piece.len() {
            slices[used] = IoSlice::new(&piece[start..]);
            used += 1;
        }
    }
    used
}
