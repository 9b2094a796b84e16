//! The output of a process that its client may not have: what has been read from the process and not been taken; and of a
//! detached process, what is kept to be read again.
//!
//! ```text
//!   dropped │ taken: kept to be read again │ sent: may not have arrived │ not sent
//!         start                                                               end
//! ```
//!
//! Offsets count both outputs together, from the start of the process on. Who follows it names one, and gets every byte
//! behind it once and in order, but for those that were dropped, of which it is told how many.

use std::collections::VecDeque;

use wire::agent::process::Output;

/// What a piece grows to: much more than what it takes to keep one.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// What the process wrote to one output, without anything to the other in between.
struct Piece {
    which: Output,
    /// How many bytes of output came before it.
    from: u64,
    bytes: Vec<u8>,
    /// What sending it took of the client's credit.
    cost: u64,
}

/// The end of a process's output.
#[derive(Default)]
pub(super) struct Tail {
    pieces: VecDeque<Piece>,
    /// How many of them, from the first on, have been sent to whoever follows the process now, or need not be.
    sent: usize,
    /// How many of those, from the first on, it has taken.
    taken: usize,
    /// How many bytes are in all pieces.
    bytes: usize,
    /// How many bytes are in those that are not sent.
    unsent_bytes: usize,
    /// How many bytes of output there have been.
    end: u64,
    /// Up to where output has been taken by somebody.
    read: u64,
    /// How many bytes have been dropped that nobody had taken, since that was last told.
    lost: u64,
    /// What of the follower's credit covers pieces that it has taken.
    covered: u64,
}

/// What is missing for a client that goes on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing {
    /// How many bytes.
    pub bytes: u64,
    /// How many of them nobody has read.
    pub unread: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.from + self.bytes.len() as u64
    }

    /// Takes bytes in that come next, if there is room for them.
    fn join(&mut self, which: Output, bytes: &[u8]) -> bool {
        let has_room = self.which == which && self.bytes.len() + bytes.len() <= PIECE_BYTES_MAX;
        if has_room {
            self.bytes.extend_from_slice(bytes);
        }
        has_room
    }
}

impl Tail {
    pub fn push(&mut self, which: Output, bytes: &[u8]) {
        let from = self.end;
        self.end += bytes.len() as u64;
        self.bytes += bytes.len();
        self.unsent_bytes += bytes.len();
        let last = if self.is_sent() { None } else { self.pieces.back_mut() };
        if last.is_none_or(|last| !last.join(which, bytes)) {
            self.pieces.push_back(Piece { which, from, bytes: bytes.to_vec(), cost: 0 });
        }
    }

    /// How many bytes of output there have been.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes are here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many bytes are here that have not been sent.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    /// The next piece that is to be sent. Without `keep` it is given away, and cannot be sent again.
    pub fn unsent(&mut self, keep: bool) -> Option<(Output, Vec<u8>)> {
        if keep {
            return self.pieces.get(self.sent).map(|piece| (piece.which, piece.bytes.clone()));
        }
        while self.sent > 0 {
            self.forget_first();
        }
        let piece = self.pieces.front_mut()?;
        let bytes = std::mem::take(&mut piece.bytes);
        self.bytes -= bytes.len();
        self.unsent_bytes -= bytes.len();
        piece.from += bytes.len() as u64;
        Some((piece.which, bytes))
    }

    /// Whether there is nothing to send.
    pub fn is_sent(&self) -> bool {
        self.sent == self.pieces.len()
    }

    /// It has been sent, at this cost.
    pub fn note_sent(&mut self, cost: usize) {
        if let Some(piece) = self.pieces.get_mut(self.sent) {
            piece.cost = cost as u64;
            self.unsent_bytes -= piece.bytes.len();
            self.sent += 1;
        }
    }

    /// Something that is no output has been sent before the next piece, at this cost.
    pub fn note_other(&mut self, cost: usize) {
        self.covered += cost as u64;
    }

    /// The client has taken `taken` of what was sent to it: forgets the pieces that this covers, as long as more than
    /// `kept_bytes` are here.
    pub fn forget_taken(&mut self, taken: u64, kept_bytes: usize) {
        while self.taken < self.sent
            && let Some(piece) = self.pieces.get(self.taken)
            && taken >= self.covered + piece.cost
        {
            self.covered += piece.cost;
            self.taken += 1;
            self.read = self.read.max(piece.end());
            if kept_bytes > 0 {
                self.join_taken();
            }
        }
        while self.taken > 0 && self.bytes > kept_bytes {
            self.forget_first();
        }
    }

    /// Puts the last piece that was taken to the one before: a key's echo is two bytes.
    fn join_taken(&mut self) {
        let Some(before) = self.taken.checked_sub(2) else { return };
        let Some(last) = self.pieces.remove(before + 1) else { return };
        match self.pieces.get_mut(before).is_some_and(|piece| piece.join(last.which, &last.bytes)) {
            true => (self.taken, self.sent) = (self.taken - 1, self.sent - 1),
            false => self.pieces.insert(before + 1, last),
        }
    }

    fn forget_first(&mut self) {
        let Some(piece) = self.pieces.pop_front() else { return };
        self.bytes -= piece.bytes.len();
        if self.sent == 0 {
            self.unsent_bytes -= piece.bytes.len();
        }
        self.lost += piece.end().saturating_sub(piece.from.max(self.read));
        (self.sent, self.taken) = (self.sent.saturating_sub(1), self.taken.saturating_sub(1));
    }

    /// Drops the oldest output, so that no more than `most_bytes` are here. For a time in which nobody follows.
    pub fn trim(&mut self, most_bytes: usize) {
        while self.bytes > most_bytes {
            self.forget_first();
        }
    }

    /// How many bytes of output come before what is here.
    fn start(&self) -> u64 {
        self.pieces.front().map_or(self.end, |piece| piece.from)
    }

    /// Begins again for a client that has `from` bytes of output, and says what of it is not here any more. `None` if that
    /// may not be, as `may_miss` says, or such output never was.
    pub fn begin_from(&mut self, from: u64, may_miss: bool) -> Option<Missing> {
        let start = self.start();
        if from > self.end || (from < start && !may_miss) {
            return None;
        }
        let bytes = start.saturating_sub(from);
        // What the client has was not lost to it, although it has not said so.
        let missing = Missing { bytes, unread: std::mem::take(&mut self.lost).min(bytes) };
        let known = self.pieces.partition_point(|piece| piece.end() <= from);
        if let Some(piece) = self.pieces.get_mut(known)
            && piece.from < from
        {
            let rest = piece.bytes.split_off((from - piece.from) as usize);
            let rest = Piece { which: piece.which, from, bytes: rest, cost: 0 };
            self.pieces.insert(known + 1, rest);
        }
        // What ends there has arrived, and is taken.
        let known = self.pieces.partition_point(|piece| piece.end() <= from);
        self.read = self.read.max(from);
        (self.sent, self.taken, self.covered) = (known, known, 0);
        self.unsent_bytes = self.pieces.range(known..).map(|piece| piece.bytes.len()).sum();
        Some(missing)
    }
}

#[cfg(test)]
mod tests;
