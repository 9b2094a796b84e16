use proptest::prelude::*;

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
    let outputs = [Output::Stdout, Output::Stderr].into_iter().cycle();
    pieces.iter().zip(outputs).for_each(|(piece, output)| tail.push(output, piece));
    tail
}

fn begins(tail: &mut Tail, from: u64) -> bool {
    tail.begin_from(from, false).is_some()
}

#[test]
fn what_was_not_taken_is_sent_again() {
    let mut tail = tail(&[b"one", b"two", b"three"]);
    tail.note_other(4);
    assert_eq!(sent(&mut tail), b"onetwothree");
    // The other frame, the first piece, and not quite the second.
    tail.forget_taken(4 + 13 + 12, 0);
    assert!(!begins(&mut tail, 2));
    assert!(begins(&mut tail, 3));
    assert_eq!(sent(&mut tail), b"twothree");
    tail.forget_taken(13, 0);
    assert!(!begins(&mut tail, 5) && begins(&mut tail, 6));
    assert_eq!(sent(&mut tail), b"three");
}

#[test]
fn a_client_that_has_all_or_half_a_piece_gets_the_rest() {
    let mut tail = tail(&[b"one", b"two"]);
    sent(&mut tail);
    assert!(begins(&mut tail, 4));
    assert_eq!(sent(&mut tail), b"wo");
    assert!(begins(&mut tail, 6));
    assert_eq!(sent(&mut tail), b"");
    assert!(!begins(&mut tail, 7));
}

#[test]
fn what_need_not_be_kept_is_given_away() {
    let mut tail = tail(&[b"one", b"two"]);
    for expected in [b"one", b"two"] {
        assert_eq!(tail.unsent(false).unwrap().1, expected);
        tail.note_sent(13);
    }
    assert!(tail.unsent(false).is_none() && tail.is_sent() && tail.bytes() == 0);
}

#[test]
fn what_was_taken_can_be_kept_to_be_read_again() {
    let mut tail = tail(&[b"one", b"two", b"three"]);
    sent(&mut tail);
    tail.forget_taken(u64::MAX, 8);
    assert_eq!(tail.begin_from(0, true), Some(Missing { bytes: 3, unread: 0 }));
    assert_eq!(sent(&mut tail), b"twothree");
    // From the midst of a piece, and nothing is forgotten by that.
    assert_eq!(tail.begin_from(7, true), Some(Missing::default()));
    assert_eq!(sent(&mut tail), b"hree");
    assert_eq!(tail.begin_from(3, true), Some(Missing::default()));
    assert_eq!(sent(&mut tail), b"twothree");
}

#[test]
fn what_is_dropped_unread_is_told_once() {
    let mut tail = tail(&[b"one", b"two"]);
    sent(&mut tail);
    tail.forget_taken(13, 100);
    [(Output::Stdout, &b"three"[..]), (Output::Stderr, b"four")]
        .iter()
        .for_each(|(output, piece)| tail.push(*output, piece));
    tail.trim(9);
    assert_eq!((tail.bytes(), tail.begin_from(5, false)), (9, None));
    assert_eq!(tail.begin_from(0, true), Some(Missing { bytes: 6, unread: 3 }));
    assert_eq!(tail.begin_from(0, true), Some(Missing { bytes: 6, unread: 0 }));
    assert_eq!(sent(&mut tail), b"threefour");
}

#[test]
fn what_is_kept_takes_little_more_memory_than_its_bytes() {
    let mut tail = Tail::default();
    let most_pieces = |bytes: usize| bytes.div_ceil(PIECE_BYTES_MAX) + 1;
    // Nobody follows.
    (0..100_000).for_each(|_| tail.push(Output::Stdout, b"k\n"));
    assert!(tail.pieces.len() <= most_pieces(200_000), "{} pieces", tail.pieces.len());
    // Somebody does, and takes each by itself.
    sent(&mut tail);
    let mut taken: u64 = tail.pieces.iter().map(|piece| piece.cost).sum();
    for _ in 0..100_000 {
        tail.push(Output::Stdout, b"k\n");
        sent(&mut tail);
        taken += 12;
        tail.forget_taken(taken, 300_000);
    }
    assert!(tail.bytes() <= 300_000 && tail.bytes() > 300_000 - PIECE_BYTES_MAX);
    assert!(tail.pieces.len() <= most_pieces(300_000), "{} pieces", tail.pieces.len());
    let from = tail.start();
    assert!(begins(&mut tail, from));
    assert_eq!(sent(&mut tail), b"k\n".repeat((400_000 - from as usize) / 2));
}

/// What can happen to a process and whoever follows it.
#[derive(Clone, Debug)]
enum Step {
    /// It writes so many bytes.
    Write(usize),
    /// So many pieces are sent.
    Send(usize),
    /// The client takes so many of those that arrived.
    Take(usize),
    /// The stream is cut, with so many pieces on their way; then the client comes again.
    Cut(usize),
    /// It is cut, the process writes without a reader and with a bound, and then the client comes again.
    Away { pieces: usize, most_bytes: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..50usize).prop_map(Step::Write),
        3 => (0..6usize).prop_map(Step::Send),
        2 => (0..6usize).prop_map(Step::Take),
        1 => (0..4usize).prop_map(Step::Cut),
        1 => (0..8usize, 0..200usize)
            .prop_map(|(pieces, most_bytes)| Step::Away { pieces, most_bytes }),
    ];
    proptest::collection::vec(step, 0..60)
}

/// A client, the stream to it, and what the process wrote.
#[derive(Default)]
struct Model {
    tail: Tail,
    written: Vec<u8>,
    /// Sent, and neither lost nor taken: with the cost of each.
    arriving: VecDeque<(Vec<u8>, usize)>,
    /// What the client has taken of this stream, with what it was paid.
    taken: u64,
    /// How many bytes the client has.
    has: u64,
    kept_bytes: usize,
}

impl Model {
    fn write(&mut self, bytes: usize) {
        let next = self.written.len();
        let piece: Vec<u8> = (next..next + bytes).map(|at| (at % 251) as u8).collect();
        self.written.extend(&piece);
        let output = if bytes.is_multiple_of(7) { Output::Stderr } else { Output::Stdout };
        self.tail.push(output, &piece);
    }

    fn send(&mut self, pieces: usize) {
        for _ in 0..pieces {
            let Some((_, bytes)) = self.tail.unsent(true) else { return };
            let cost = bytes.len() + 7;
            self.tail.note_sent(cost);
            self.arriving.push_back((bytes, cost));
        }
    }

    fn take(&mut self, pieces: usize) {
        for _ in 0..pieces {
            let Some((bytes, cost)) = self.arriving.pop_front() else { break };
            let at = self.has as usize;
            assert_eq!(bytes, self.written[at..at + bytes.len()], "the next bytes, once and in order");
            self.has += bytes.len() as u64;
            self.taken += cost as u64;
        }
        self.tail.forget_taken(self.taken, self.kept_bytes);
    }

    fn come_again(&mut self, lost: usize, may_miss: bool) -> Option<Missing> {
        let arrived = self.arriving.len().saturating_sub(lost);
        for (bytes, _) in std::mem::take(&mut self.arriving).into_iter().take(arrived) {
            self.has += bytes.len() as u64;
        }
        self.taken = 0;
        let missing = self.tail.begin_from(self.has, may_miss)?;
        self.has += missing.bytes;
        Some(missing)
    }
}

proptest! {
    #[test]
    fn every_byte_comes_once_and_in_order_through_any_cuts(steps in steps(), kept_bytes in 0..300usize) {
        let mut model = Model { kept_bytes, ..Model::default() };
        for step in steps {
            match step {
                Step::Write(bytes) => model.write(bytes),
                Step::Send(pieces) => model.send(pieces),
                Step::Take(pieces) => model.take(pieces),
                Step::Cut(lost) => {
                    prop_assert_eq!(model.come_again(lost, false), Some(Missing::default()));
                }
                Step::Away { pieces, most_bytes } => {
                    (0..pieces).for_each(|piece| model.write(piece * 10 + 1));
                    model.tail.trim(most_bytes);
                    prop_assert!(model.tail.bytes() <= most_bytes);
                    let missing = model.come_again(0, true).expect("it may miss output");
                    let here = model.tail.start();
                    prop_assert_eq!(missing.bytes, here.saturating_sub(model.has - missing.bytes));
                    prop_assert!(missing.unread <= missing.bytes);
                }
            }
            let counted: usize = model.tail.pieces.iter().map(|piece| piece.bytes.len()).sum();
            let unsent = model.tail.pieces.range(model.tail.sent..).map(|piece| piece.bytes.len()).sum::<usize>();
            prop_assert_eq!((model.tail.bytes(), model.tail.unsent_bytes()), (counted, unsent));
        }
        model.send(usize::MAX);
        model.take(usize::MAX);
        prop_assert_eq!(model.has, model.written.len() as u64, "nothing is left out at the end");
    }
}
