//! In which order frames leave.
//!
//! ```text
//!  requests, credit, cancels ──► urgent ──────────────────────────────► stream
//!  writes ─────────────────────► bulk ──► piece by piece, while there is room on the way ──┘
//! ```
//!
//! What is urgent overtakes writes, however many wait, also between two pieces of one. It does not overtake those of an
//! open file that it names: the agent carries out requests of one handle in the order in which they arrive, and so these
//! follow in the bulk lane. Within a lane nothing overtakes anything.
//!
//! Behind some of the pieces goes a ping, whose answer says that everything before has arrived. Nothing of this waits or
//! looks at a clock.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use wire::agent::{ClientFrame, HandleId, RequestId};
use wire::frame::{Payload, amend, encode_head, piece_prefix};

use super::flight::{Departure, Pace};

/// The nonces of pings behind pieces have this bit; those of pings that somebody waits for do not.
const MARK: u64 = 1 << 63;

/// A ping goes behind this much, so that small writes do not have one each.
const MARKED_BYTES_MIN: usize = 64 << 10;

/// A frame that is to be sent.
pub(super) struct Outgoing {
    /// Prefix and head, encoded.
    pub(super) head: Vec<u8>,
    pub(super) payload: Bytes,
    /// What it holds of the limit on bytes that wait, and gives back when it is written or dropped.
    pub(super) share: usize,
    pub(super) what: What,
}

/// What a frame is, as far as its place among others depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A request, and the open files that it names.
    Request { id: RequestId, handles: [Option<HandleId>; 2] },
    /// The payload of a write of this open file.
    Write { id: RequestId, handle: HandleId },
    /// Says something of a request that has been made.
    Concerning(RequestId),
    /// Nothing may come after it.
    Last,
    /// It stands for itself.
    Other,
}

impl What {
    fn handles(self) -> [Option<HandleId>; 2] {
        match self {
            What::Request { handles, .. } => handles,
            What::Write { handle, .. } => [Some(handle), None],
            What::Concerning(_) | What::Last | What::Other => [None, None],
        }
    }

    fn id(self) -> Option<RequestId> {
        match self {
            What::Request { id, .. } | What::Write { id, .. } => Some(id),
            What::Concerning(_) | What::Last | What::Other => None,
        }
    }
}

/// What goes to the stream in one piece.
pub(super) struct Part {
    pub(super) head: Vec<u8>,
    pub(super) payload: Bytes,
    pub(super) share: usize,
    /// Whether a frame that was sent ends with it.
    pub(super) ends_frame: bool,
}

impl Part {
    pub(super) fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

impl From<Outgoing> for Part {
    fn from(frame: Outgoing) -> Part {
        Part { head: frame.head, payload: frame.payload, share: frame.share, ends_frame: true }
    }
}

/// What waits to be sent on one stream.
#[derive(Default)]
pub(super) struct Lanes {
    urgent: VecDeque<Outgoing>,
    bulk: VecDeque<Outgoing>,
    /// Whether the first of the bulk has lost pieces.
    is_cut: bool,
    /// How many frames in the bulk lane name each open file.
    handles: HashMap<HandleId, usize>,
    /// Given to the stream and not followed by a ping yet.
    unmarked: usize,
    /// Pings that are not answered, in order.
    marks: VecDeque<(u64, Departure)>,
    last_mark: u64,
}

impl Lanes {
    pub(super) fn push(&mut self, frame: Outgoing) {
        match self.is_bulk(frame.what) {
            true => self.push_bulk(frame),
            false => self.urgent.push_back(frame),
        }
    }

    /// Puts frames that were sent on another stream behind all that waits, in their order: none overtakes another again.
    pub(super) fn push_again(&mut self, frames: Vec<Outgoing>) {
        for frame in frames {
            match self.bulk.is_empty() {
                true => self.push(frame),
                false => self.push_bulk(frame),
            }
        }
    }

    fn push_bulk(&mut self, frame: Outgoing) {
        for handle in frame.what.handles().into_iter().flatten() {
            *self.handles.entry(handle).or_default() += 1;
        }
        self.bulk.push_back(frame);
    }

    fn is_bulk(&self, what: What) -> bool {
        match what {
            What::Write { .. } | What::Last => true,
            What::Request { handles, .. } => {
                handles.into_iter().flatten().any(|handle| self.handles.contains_key(&handle))
            }
            What::Concerning(id) => self.bulk.iter().any(|frame| frame.what.id() == Some(id)),
            What::Other => false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.bulk.is_empty()
    }

    /// Whether something waits that goes piece by piece.
    pub(super) fn has_bulk(&self) -> bool {
        !self.bulk.is_empty()
    }

    /// All that waits for no room.
    pub(super) fn take_urgent(&mut self, parts: &mut VecDeque<Part>) {
        parts.extend(self.urgent.drain(..).map(Part::from));
    }

    /// The next piece of the bulk, which may be several frames; nothing if there is no room on the way.
    pub(super) fn take_bulk(&mut self, parts: &mut VecDeque<Part>, pace: &mut Pace, now: Instant) {
        if pace.up.room_left(&pace.trip) == 0 {
            return;
        }
        let mut budget = pace.piece_bytes();
        while budget > 0
            && let Some(part) = self.next_part(budget)
        {
            budget = budget.saturating_sub(part.len());
            self.unmarked += part.len();
            parts.push_back(part);
        }
        if self.unmarked >= MARKED_BYTES_MIN {
            self.mark(parts, pace, now);
        }
    }

    /// The first frame of the bulk, or as much of it as the budget allows.
    fn next_part(&mut self, budget: usize) -> Option<Part> {
        let first = self.bulk.front_mut()?;
        // What is left over is not to be a sliver.
        if let Ok(bytes) = u32::try_from(budget)
            && first.payload.len() > budget + budget / 4
        {
            self.is_cut = true;
            let (head, payload) = (piece_prefix(bytes).to_vec(), first.payload.split_to(budget));
            return Some(Part { head, payload, share: 0, ends_frame: false });
        }
        let mut frame = self.bulk.pop_front()?;
        if std::mem::take(&mut self.is_cut)
            && let Ok(rest) = u32::try_from(frame.payload.len())
        {
            amend(&mut frame.head, Payload::Rest(rest));
        }
        for handle in frame.what.handles().into_iter().flatten() {
            if let Some(count) = self.handles.get_mut(&handle) {
                *count -= 1;
                if *count == 0 {
                    self.handles.remove(&handle);
                }
            }
        }
        Some(frame.into())
    }

    fn mark(&mut self, parts: &mut VecDeque<Part>, pace: &mut Pace, now: Instant) {
        self.last_mark += 1;
        let nonce = MARK | self.last_mark;
        // A ping is a few bytes, far from any limit.
        let Ok(head) = encode_head(&ClientFrame::Ping { nonce }, 0) else { return };
        let bytes = std::mem::take(&mut self.unmarked);
        self.marks.push_back((self.last_mark, pace.up.departs(bytes, &pace.trip, now)));
        parts.push_back(Part { head, payload: Bytes::new(), share: 0, ends_frame: false });
    }

    /// A ping has been answered: what was sent before it has arrived. `None` if it is not one of these, `Some(false)` if
    /// it was never sent.
    pub(super) fn arrived(&mut self, nonce: u64, pace: &mut Pace, now: Instant) -> Option<bool> {
        if nonce & MARK == 0 {
            return None;
        }
        let mark = nonce & !MARK;
        while let Some((_, departure)) = self.marks.pop_front_if(|(number, _)| *number <= mark) {
            pace.up.arrives(&departure, &pace.trip, now);
            pace.trip.took(departure.time(now), now);
        }
        Some(mark <= self.last_mark)
    }

    /// Drops everything, and gives what it had of the limit.
    pub(super) fn clear(&mut self) -> usize {
        let share = self.urgent.iter().chain(&self.bulk).map(|frame| frame.share).sum();
        *self = Lanes { last_mark: self.last_mark, ..Lanes::default() };
        share
    }
}

#[cfg(test)]
mod tests;
