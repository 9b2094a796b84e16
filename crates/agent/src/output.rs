//! Frames to a stream.
//!
//! A thread that has a frame to send writes it itself when nothing else is being written, which saves a change of
//! threads per reply. Otherwise it leaves the frame to the writer thread, which sends small frames before large ones.
//! Frames of the same size class leave in the order in which they were sent.
//!
//! What a client asks for is what it has room for, so what is queued here and in the system is bounded by the client. Where
//! it has said how fast its link is, payloads that are on the link for longer than it takes to pack them are packed.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use serde::Serialize;
use wire::agent::{AgentFrame, Failure};
use wire::frame::{Payload, amend, encode_head};
use wire::packing::Packer;

use crate::ends::Ends;
use crate::failure::failure;
use crate::log::log;
use crate::payloads::Payloads;
use crate::sync::{lock, wait, wait_timeout};

/// What waits to be written; senders wait when it is more. Some pages of a few listings and reads.
const QUEUED_BYTES_MAX: usize = 8 << 20;

/// How many changes may wait to be told. More than that and the client starts over, see [`Output::try_event`].
const EVENTS_QUEUED_MAX: usize = 8192;

/// A frame up to this length goes before longer ones: a page of a file with its head is one.
const SMALL_BYTES: usize = 8 << 10;

/// After so many small frames in a row a large one is sent, so that none waits for ever.
const SMALL_IN_A_ROW_MAX: usize = 64;

/// How many frames are written with one call.
const FRAMES_PER_WRITE: usize = 64;

/// An encoded frame.
struct Frame {
    head: Vec<u8>,
    payload: Vec<u8>,
    event: bool,
    /// Follows every frame that was ordered before it, however small it is.
    ordered: bool,
}

impl Frame {
    fn bytes(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

/// The writing end of a stream.
pub(crate) struct Output {
    stream: Arc<Ends>,
    queue: Mutex<Queue>,
    /// The writer thread waits here for work.
    work: Condvar,
    /// Senders wait here for room, and [`Output::flush`] for the end.
    room: Condvar,
    packer: Packer,
    /// What the link carries, as the client says; 0: nothing is packed.
    link_bytes_per_second: AtomicU64,
    payloads: Arc<Payloads>,
}

#[derive(Default)]
struct Queue {
    small: VecDeque<Frame>,
    large: VecDeque<Frame>,
    bytes: usize,
    events: usize,
    small_in_a_row: usize,
    /// Somebody writes to the stream right now, not holding the lock.
    writing: bool,
    /// Nothing is written any more.
    closed: bool,
    /// How many wait at [`Output::room`]; waking nobody is a system call too.
    waiters: usize,
}

impl Output {
    /// Payloads that have been sent go to `payloads`.
    pub fn new(stream: Arc<Ends>, payloads: Arc<Payloads>) -> Output {
        Output {
            stream,
            queue: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            packer: Packer::default(),
            link_bytes_per_second: AtomicU64::new(0),
            payloads,
        }
    }

    /// The client says what its link carries, so that payloads are packed where that makes them faster.
    pub fn pack_for(&self, link_bytes_per_second: u64) {
        self.link_bytes_per_second.store(link_bytes_per_second, Ordering::Relaxed);
    }

    /// Sends a frame; waits while the queue is full. What is sent after the stream has broken goes nowhere: the stream's
    /// end is found by the reader.
    pub fn send(&self, head: &AgentFrame, payload: Vec<u8>) {
        self.send_frame(self.packed(encode(head, payload, false)));
    }

    /// Sends a frame that nothing which is sent in this way later overtakes. Says what it takes of a client's credit: as
    /// much as before it is packed.
    pub fn send_ordered(&self, head: &AgentFrame, payload: Vec<u8>) -> usize {
        let frame = Frame { ordered: true, ..encode(head, payload, false) };
        let bytes = frame.bytes() - wire::frame::PREFIX_BYTES;
        self.send_frame(self.packed(frame));
        bytes
    }

    /// The frame with its payload packed, where that makes it faster.
    fn packed(&self, mut frame: Frame) -> Frame {
        let link = self.link_bytes_per_second.load(Ordering::Relaxed);
        if let Some(packed) = self.packer.pack(&frame.payload, link)
            && let Ok(bytes) = u32::try_from(packed.len())
        {
            amend(&mut frame.head, Payload::Packed(bytes));
            self.payloads.give_back(std::mem::replace(&mut frame.payload, packed));
        }
        frame
    }

    fn send_frame(&self, frame: Frame) {
        let mut queue = lock(&self.queue);
        while queue.bytes >= QUEUED_BYTES_MAX && !queue.closed {
            queue.waiters += 1;
            queue = wait(&self.room, queue);
            queue.waiters -= 1;
        }
        if queue.closed {
            return;
        }
        if queue.writing || queue.bytes > 0 {
            self.enqueue(queue, frame);
            return;
        }
        queue.writing = true;
        drop(queue);
        let result = self.write(&mut [frame]);
        self.written(result);
    }

    /// Queues a change to be told, and never waits. `false` when too many are queued: it was not.
    pub fn try_event(&self, head: &AgentFrame) -> bool {
        let queue = lock(&self.queue);
        if queue.events >= EVENTS_QUEUED_MAX {
            return false;
        }
        self.enqueue(queue, encode(head, Vec::new(), true));
        true
    }

    /// Queues a frame that must not be lost and that few are sent of, and never waits.
    pub fn send_later(&self, head: &AgentFrame) {
        self.enqueue(lock(&self.queue), encode(head, Vec::new(), false));
    }

    /// Sends bytes that are no frame, before anything else.
    pub fn send_raw(&self, bytes: &[u8]) -> Result<(), Errno> {
        self.write(&mut [Frame { head: bytes.to_vec(), payload: Vec::new(), event: false, ordered: false }])
    }

    /// Sends any frame, before anything else.
    pub fn send_first<T: Serialize>(&self, head: &T) -> Result<(), Errno> {
        let head = encode_head(head, 0).map_err(|_| Errno::MSGSIZE)?;
        self.send_raw(&head)
    }

    /// Writes what is queued until the stream is closed. The writer thread's work.
    pub fn write_queued(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return;
            }
            if queue.writing || queue.bytes == 0 {
                queue = wait(&self.work, queue);
                continue;
            }
            let mut frames = queue.next_frames();
            queue.writing = true;
            drop(queue);
            let result = self.write(&mut frames);
            self.written(result);
            queue = lock(&self.queue);
        }
    }

    /// Waits until everything has been written, but no longer than `timeout`.
    pub fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut queue = lock(&self.queue);
        while !queue.closed && (queue.writing || queue.bytes > 0) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue.waiters += 1;
            (queue, _) = wait_timeout(&self.room, queue, left);
            queue.waiters -= 1;
        }
    }

    /// Ends the writing; who waits to send is let go.
    pub fn close(&self) {
        let mut queue = lock(&self.queue);
        let (writing, waiters) = (queue.writing, queue.waiters);
        *queue = Queue { closed: true, writing, waiters, ..Queue::default() };
        self.work.notify_all();
        self.room.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        lock(&self.queue).closed
    }

    fn enqueue(&self, mut queue: MutexGuard<'_, Queue>, frame: Frame) {
        if queue.closed {
            return;
        }
        queue.bytes += frame.bytes();
        queue.events += usize::from(frame.event);
        let class =
            if frame.bytes() <= SMALL_BYTES && !frame.ordered { &mut queue.small } else { &mut queue.large };
        class.push_back(frame);
        // Who writes now wakes the writer thread when it is done.
        if !queue.writing {
            self.work.notify_one();
        }
    }

    /// What follows a write that was made without the lock.
    fn written(&self, result: Result<(), Errno>) {
        let mut queue = lock(&self.queue);
        queue.writing = false;
        if let Err(errno) = result {
            if !queue.closed {
                log(format_args!("could not write to the stream: {errno}"));
            }
            drop(queue);
            self.close();
            return;
        }
        if queue.bytes > 0 {
            self.work.notify_one();
        }
        if queue.waiters > 0 {
            self.room.notify_all();
        }
    }

    fn write(&self, frames: &mut [Frame]) -> Result<(), Errno> {
        let parts = frames.iter().flat_map(|frame| [&frame.head, &frame.payload]);
        let mut slices: Vec<IoSlice<'_>> =
            parts.filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            match rustix::io::writev(&self.stream.output, slices) {
                Ok(0) => return Err(Errno::PIPE),
                Ok(bytes) => IoSlice::advance_slices(&mut slices, bytes),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.stream.wait_for(self.stream.output.as_fd(), PollFlags::OUT)?,
                Err(errno) => return Err(errno),
            }
        }
        for frame in frames {
            self.payloads.give_back(std::mem::take(&mut frame.payload));
        }
        Ok(())
    }
}

impl Queue {
    /// Takes out what goes next: a batch of small frames, or one large one.
    fn next_frames(&mut self) -> Vec<Frame> {
        let large_is_due = self.small_in_a_row >= SMALL_IN_A_ROW_MAX && !self.large.is_empty();
        let frames: Vec<Frame> = if self.small.is_empty() || large_is_due {
            self.small_in_a_row = 0;
            self.large.pop_front().into_iter().collect()
        } else {
            let count = self.small.len().min(FRAMES_PER_WRITE);
            self.small_in_a_row += count;
            self.small.drain(..count).collect()
        };
        self.bytes -= frames.iter().map(Frame::bytes).sum::<usize>();
        self.events -= frames.iter().filter(|frame| frame.event).count();
        frames
    }
}

/// A reply that cannot be encoded becomes the failure to do so: its request must be answered.
fn encode(head: &AgentFrame, payload: Vec<u8>, event: bool) -> Frame {
    let error = match encode_head(head, payload.len()) {
        Ok(head) => return Frame { head, payload, event, ordered: false },
        Err(error) => error,
    };
    log(format_args!("could not encode a frame: {error}"));
    let instead = match head {
        AgentFrame::Reply { id, last, .. } => {
            let failure = Failure { detail: error.to_string(), ..failure(Errno::MSGSIZE) };
            AgentFrame::Reply { id: *id, last: *last, body: Err(failure) }
        }
        _ => AgentFrame::Closing { reason: error.to_string() },
    };
    let head = encode_head(&instead, 0).unwrap_or_default();
    Frame { head, payload: Vec::new(), event, ordered: false }
}

#[cfg(test)]
mod tests;
