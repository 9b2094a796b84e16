//! Frames into a byte stream, by whoever has one.
//!
//! A sender writes its frame itself, on its own thread, when nobody else is writing. When somebody is, it leaves the
//! frame in its [lane](super::lanes), and the one who writes takes all that is urgent and has gathered, and one piece of
//! what is not, in one system call. When the stream takes no more, a task writes on as soon as it does. So a lone request
//! costs one system call and no change of threads, and many share. What is not urgent is also held back while enough is on
//! its way; then whoever learns that some of it has arrived writes on.
//!
//! Streams come and go beneath one outbox. Each has a [`Generation`], so that what the last one still had to say, an
//! error of a writer at work above all, is not taken for the next one's.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::sync::Notify;

use super::flight::Pace;
use super::lanes::{Lanes, Outgoing, Part};

/// How many pieces go to the system at once.
const SLICES_MAX: usize = 64;

/// Which of the streams that an outbox has had; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Generation(pub(super) u64);

/// Who may send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// There is no stream.
    Away,
    /// There is one, for what makes a new session of the agent's the old one's equal.
    Recovering,
    /// Everybody.
    Open,
    /// Nobody ever again.
    Closed,
}

/// Whose frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// A user's.
    Ordinary,
    /// Of what is done before users may send.
    Recovery,
    /// Nobody's yet: it is settled in another way.
    Held,
}

impl Gate {
    pub(super) fn lets(self, lane: Lane) -> bool {
        match self {
            Gate::Away | Gate::Closed => false,
            Gate::Recovering => lane == Lane::Recovery,
            Gate::Open => lane != Lane::Held,
        }
    }
}

/// The stream of this generation could not be written to.
#[derive(Debug)]
pub(super) struct WriteError {
    pub(super) generation: Generation,
    pub(super) source: io::Error,
    /// What has gone out before, and the shares of what is dropped.
    pub(super) written: Written,
}

/// What has gone out in one go.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) frames: usize,
    pub(super) bytes: usize,
    /// The shares of the frames that are now written as a whole, or will never be.
    pub(super) share: usize,
}

/// The writing side of a stream.
pub(super) struct Outbox {
    state: Mutex<State>,
    pace: Mutex<Pace>,
    waker: Waker,
    writable: Arc<Writable>,
    /// Told when somebody waits and everything was written, or the stream is gone.
    moved: Notify,
}

struct State {
    lanes: Lanes,
    /// Absent while somebody writes, and while there is no stream.
    writer: Option<Box<Writer>>,
    generation: Generation,
    gate: Gate,
    /// The stream takes nothing; the task has been promised a wake-up.
    blocked: bool,
    /// The wake-up came while somebody held the writer.
    woken: bool,
    /// Somebody waits until everything is written.
    is_awaited: bool,
}

struct Writer {
    generation: Generation,
    stream: Box<dyn AsyncWrite + Send + Unpin>,
    batch: VecDeque<Part>,
    /// How much of the batch's first part has been written.
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
    /// An outbox without a stream.
    pub(super) fn new() -> Outbox {
        let writable = Arc::new(Writable(Notify::new()));
        let state = State {
            lanes: Lanes::default(),
            writer: None,
            generation: Generation::default(),
            gate: Gate::Away,
            blocked: false,
            woken: false,
            is_awaited: false,
        };
        let pace = Mutex::new(Pace::new(Instant::now()));
        let (waker, moved) = (Waker::from(writable.clone()), Notify::new());
        Outbox { state: Mutex::new(state), pace, waker, writable, moved }
    }

    /// What is on its way on the present stream.
    pub(super) fn pace(&self) -> &Mutex<Pace> {
        &self.pace
    }

    /// A ping has been answered. `None` if it is none of this side's own, `Some(false)` if it was never sent. Call
    /// [`Outbox::flush`] afterwards.
    pub(super) fn arrived(&self, nonce: u64) -> Option<bool> {
        let mut state = self.state.lock();
        state.lanes.arrived(nonce, &mut self.pace.lock(), Instant::now())
    }

    /// Puts the frame that `make` returns behind those that it may not overtake. `make` is told the stream's generation if
    /// `lane` may use it now; if not, its frame is dropped. Call [`Outbox::flush`] afterwards.
    pub(super) fn push<E>(
        &self,
        lane: Lane,
        make: impl FnOnce(Option<Generation>) -> Result<Outgoing, E>,
    ) -> Result<(), E> {
        let mut state = self.state.lock();
        let open = state.gate.lets(lane).then_some(state.generation);
        let frame = make(open)?;
        if open.is_some() {
            state.lanes.push(frame);
        }
        Ok(())
    }

    /// Starts to write to `stream`. `first` is what goes before everything else.
    pub(super) fn attach(
        &self,
        stream: Box<dyn AsyncWrite + Send + Unpin>,
        first: Vec<Outgoing>,
    ) -> Option<Generation> {
        let mut state = self.state.lock();
        if state.gate != Gate::Away {
            return None;
        }
        state.generation.0 += 1;
        state.gate = Gate::Recovering;
        state.blocked = false;
        state.woken = false;
        self.pace.lock().begin_anew(Instant::now());
        let generation = state.generation;
        let batch = first.into_iter().map(Part::from).collect();
        let writer = Writer { generation, stream, batch, written: 0, unflushed: false };
        state.writer = Some(Box::new(writer));
        Some(generation)
    }

    /// Lets everybody send on the stream of this generation, behind the frames that `waiting` makes. False if it is gone.
    pub(super) fn open(&self, generation: Generation, waiting: impl FnOnce() -> Vec<Outgoing>) -> bool {
        let mut state = self.state.lock();
        if state.generation != generation || state.gate != Gate::Recovering {
            return false;
        }
        state.lanes.push_again(waiting());
        state.gate = Gate::Open;
        true
    }

    /// Lets go of the stream of this generation, or of whichever there is. Says what the frames that are dropped had of
    /// the limit; `None` if there is no such stream.
    pub(super) fn detach(&self, generation: Option<Generation>) -> Option<usize> {
        let mut state = self.state.lock();
        let is_there = matches!(state.gate, Gate::Recovering | Gate::Open);
        if !is_there || generation.is_some_and(|generation| generation != state.generation) {
            return None;
        }
        state.gate = Gate::Away;
        self.tell_moved(&mut state);
        Some(state.drop_stream())
    }

    /// Ends the outbox. What is queued is dropped. A writer at work notices when it is done.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.gate = Gate::Closed;
        self.tell_moved(&mut state);
        state.drop_stream();
    }

    /// Which stream is the present one, and who may use it.
    pub(super) fn standing(&self) -> (Generation, Gate) {
        let state = self.state.lock();
        (state.generation, state.gate)
    }

    /// Waits until everything has been given to the stream. False if there is none any more.
    pub(super) async fn drained(&self) -> bool {
        loop {
            let moved = self.moved.notified();
            {
                let mut state = self.state.lock();
                match state.gate {
                    Gate::Away | Gate::Closed => return false,
                    Gate::Open | Gate::Recovering if state.is_drained() => return true,
                    Gate::Open | Gate::Recovering => state.is_awaited = true,
                }
            }
            moved.await;
        }
    }

    /// Writes what the stream takes now, unless somebody is at it. Never blocks.
    pub(super) fn flush(&self) -> Result<Written, WriteError> {
        let mut state = self.state.lock();
        if state.blocked {
            return Ok(Written::default());
        }
        let Some(writer) = state.writer.take() else { return Ok(Written::default()) };
        drop(state);
        self.write_with(writer)
    }

    /// Waits until a blocked stream takes bytes again, then writes. For one task, in a loop.
    pub(super) async fn flush_when_writable(&self) -> Result<Written, WriteError> {
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

    /// Everything was written, or there is no stream any more.
    fn tell_moved(&self, state: &mut State) {
        if std::mem::take(&mut state.is_awaited) {
            self.moved.notify_waiters();
        }
    }

    fn write_with(&self, mut writer: Box<Writer>) -> Result<Written, WriteError> {
        let mut context = Context::from_waker(&self.waker);
        let mut written = Written::default();
        let generation = writer.generation;
        loop {
            let mut state = self.state.lock();
            if !state.is_current(generation) {
                written.share += writer.share();
                return Ok(written);
            }
            let has_piece = !writer.batch.is_empty();
            state.lanes.take_urgent(&mut writer.batch);
            // One piece at a time: what becomes urgent meanwhile goes before the next.
            if !has_piece && state.lanes.has_bulk() {
                state.lanes.take_bulk(&mut writer.batch, &mut self.pace.lock(), Instant::now());
            }
            if writer.is_idle() {
                state.writer = Some(writer);
                self.tell_moved(&mut state);
                return Ok(written);
            }
            drop(state);
            match writer.write_batch(&mut context, &mut written) {
                Ok(Poll::Ready(())) => continue,
                Ok(Poll::Pending) => {}
                Err(source) => {
                    written.share += writer.share();
                    return Err(WriteError { generation, source, written });
                }
            }
            let mut state = self.state.lock();
            if !state.is_current(generation) {
                written.share += writer.share();
                return Ok(written);
            }
            if std::mem::take(&mut state.woken) {
                continue;
            }
            state.blocked = true;
            state.writer = Some(writer);
            return Ok(written);
        }
    }
}

impl State {
    fn is_current(&self, generation: Generation) -> bool {
        self.generation == generation && matches!(self.gate, Gate::Recovering | Gate::Open)
    }

    /// Whether everything has been given to the stream.
    fn is_drained(&self) -> bool {
        self.lanes.is_empty() && self.writer.as_ref().is_some_and(|writer| writer.is_idle())
    }

    fn drop_stream(&mut self) -> usize {
        self.lanes.clear() + self.writer.take().map_or(0, |writer| writer.share())
    }
}

impl Writer {
    /// Whether the stream has all that it was given.
    fn is_idle(&self) -> bool {
        self.batch.is_empty() && !self.unflushed
    }

    /// What its parts have of the limit.
    fn share(&self) -> usize {
        self.batch.iter().map(|part| part.share).sum()
    }

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
            written.frames += usize::from(first.ends_frame);
            written.share += first.share;
            self.batch.pop_front();
        }
    }
}

/// Points `slices` at what is left of the batch, of whose first part `written` bytes are done. Says how many it used.
fn fill_slices<'a>(batch: &'a VecDeque<Part>, written: usize, slices: &mut [IoSlice<'a>]) -> usize {
    let mut used = 0;
    let mut skip = written;
    for piece in batch.iter().flat_map(|part| [part.head.as_slice(), &part.payload]) {
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
