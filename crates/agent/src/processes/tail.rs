//! The output of a process that its client may not have: what has been read from the process and not been taken.

use std::collections::VecDeque;

use wire::agent::process::Output;

/// What the process wrote at once.
struct Piece {
    which: Output,
    bytes: Vec<u8>,
    /// What sending it took of the client's credit.
    cost: u64,
}

/// The end of a process's output.
#[derive(Default)]
pub(super) struct Tail {
    pieces: VecDeque<Piece>,
    /// How many of them, from the first on, have been sent to whoever follows the process now.
    sent: usize,
    /// How many bytes of output come before the first piece.
    start: u64,
    /// How many bytes of output there have been.
    end: u64,
    /// What of the follower's credit covers pieces that are not here any more.
    covered: u64,
}

impl Tail {
    pub fn push(&mut self, which: Output, bytes: Vec<u8>) {
        self.end += bytes.len() as u64;
        self.pieces.push_back(Piece { which, bytes, cost: 0 });
    }

    /// The next piece that is to be sent. Without `keep` it is given away, and cannot be sent again.
    pub fn unsent(&mut self, keep: bool) -> Option<(Output, Vec<u8>)> {
        if keep {
            return self.pieces.get(self.sent).map(|piece| (piece.which, piece.bytes.clone()));
        }
        while self.sent > 0 {
            self.forget_first();
        }
        self.pieces.front_mut().map(|piece| (piece.which, std::mem::take(&mut piece.bytes)))
    }

    /// Whether there is nothing to send.
    pub fn is_sent(&self) -> bool {
        self.sent == self.pieces.len()
    }

    /// It has been sent, at this cost.
    pub fn note_sent(&mut self, cost: usize) {
        if let Some(piece) = self.pieces.get_mut(self.sent) {
            piece.cost = cost as u64;
            self.sent += 1;
        }
    }

    /// Something that is no output has been sent before the next piece, at this cost.
    pub fn note_other(&mut self, cost: usize) {
        self.covered += cost as u64;
    }

    /// The client has taken `taken` of what was sent to it: forgets the pieces that this covers.
    pub fn forget_taken(&mut self, taken: u64) {
        while self.sent > 0
            && let Some(piece) = self.pieces.front()
            && taken >= self.covered + piece.cost
        {
            self.covered += piece.cost;
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(piece) = self.pieces.pop_front() {
            self.start += piece.bytes.len() as u64;
            self.sent -= 1;
        }
    }

    /// Begins again for a client that has `from` bytes of output. `false`: what comes next is not here any more, or
    /// never was.
    pub fn begin_from(&mut self, from: u64) -> bool {
        if from < self.start || from > self.end {
            return false;
        }
        (self.sent, self.covered) = (0, 0);
        while let Some(piece) = self.pieces.front_mut()
            && self.start < from
        {
            let known = from - self.start;
            if known < piece.bytes.len() as u64 {
                piece.bytes.drain(..known as usize);
                self.start = from;
                break;
            }
            self.start += piece.bytes.len() as u64;
            self.pieces.pop_front();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(tail: &mut Tail) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some((_, piece)) = tail.unsent(true) {
            bytes.extend(&piece);
            tail.note_sent(piece.len() + 10);
        }
        bytes
    }

    fn tail(pieces: &[&[u8]]) -> Tail {
        let mut tail = Tail::default();
        pieces.iter().for_each(|piece| tail.push(Output::Stdout, piece.to_vec()));
        tail
    }

    #[test]
    fn what_was_not_taken_is_sent_again() {
        let mut tail = tail(&[b"one", b"two", b"three"]);
        tail.note_other(4);
        assert_eq!(sent(&mut tail), b"onetwothree");
        // The other frame, the first piece, and not quite the second.
        tail.forget_taken(4 + 13 + 12);
        assert!(!tail.begin_from(2));
        assert!(tail.begin_from(3));
        assert_eq!(sent(&mut tail), b"twothree");
        tail.forget_taken(13);
        assert!(!tail.begin_from(5) && tail.begin_from(6));
        assert_eq!(sent(&mut tail), b"three");
    }

    #[test]
    fn a_client_that_has_all_or_half_a_piece_gets_the_rest() {
        let mut tail = tail(&[b"one", b"two"]);
        sent(&mut tail);
        assert!(tail.begin_from(4));
        assert_eq!(sent(&mut tail), b"wo");
        assert!(tail.begin_from(6));
        assert_eq!(sent(&mut tail), b"");
        assert!(!tail.begin_from(7));
    }

    #[test]
    fn what_need_not_be_kept_is_given_away() {
        let mut tail = tail(&[b"one", b"two"]);
        for expected in [b"one", b"two"] {
            assert_eq!(tail.unsent(false).unwrap().1, expected);
            tail.note_sent(13);
        }
        assert!(tail.unsent(false).is_none() && tail.is_sent() && tail.pieces.is_empty());
    }
}
