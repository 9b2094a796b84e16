use std::time::Duration;

use wire::frame::{PREFIX_BYTES, Prefix};

use super::super::flight::{ROOM_BYTES_MAX, ROOM_BYTES_MIN};
use super::*;

const KIB: usize = 1 << 10;

/// The lanes of a link whose rate is not known yet, and what has come out of them.
struct Link {
    lanes: Lanes,
    pace: Pace,
    now: Instant,
    next: u64,
}

/// What came out, as the other side sees it.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Frame(u64),
    Piece(usize),
    /// The frame that pieces came before, and what came with it.
    End(u64, usize),
    Mark(u64),
}

impl Link {
    fn new() -> Link {
        let now = Instant::now();
        Link { lanes: Lanes::default(), pace: Pace::new(now), now, next: 0 }
    }

    /// Queues a frame, whose head is its number.
    fn push(&mut self, bytes: usize, what: impl FnOnce(RequestId) -> What) -> u64 {
        self.next += 1;
        let head = encode_head(&ClientFrame::Cancel { id: RequestId(self.next) }, bytes).unwrap();
        let what = what(RequestId(self.next));
        self.lanes.push(Outgoing { head, payload: Bytes::from(vec![0; bytes]), share: bytes, what });
        self.next
    }

    fn write(&mut self, handle: u64, bytes: usize) -> u64 {
        self.push(bytes, |id| What::Write { id, handle: HandleId(handle) })
    }

    fn ask(&mut self, handle: Option<u64>) -> u64 {
        self.push(0, |id| What::Request { id, handles: [handle.map(HandleId), None] })
    }

    /// What goes to the stream in one turn.
    fn turn(&mut self) -> Vec<Seen> {
        let mut parts = VecDeque::new();
        self.lanes.take_urgent(&mut parts);
        self.lanes.take_bulk(&mut parts, &mut self.pace, self.now);
        parts.iter().map(see).collect()
    }

    fn arrived(&mut self, mark: u64) -> Option<bool> {
        self.lanes.arrived(MARK | mark, &mut self.pace, self.now)
    }
}

fn see(part: &Part) -> Seen {
    let prefix = Prefix::parse_any(part.head[..PREFIX_BYTES].try_into().unwrap()).unwrap();
    assert_eq!(prefix.payload as usize, part.payload.len());
    if prefix.is_piece() {
        return Seen::Piece(part.payload.len());
    }
    match wire::frame::decode_head::<ClientFrame>(&part.head[PREFIX_BYTES..]).unwrap() {
        ClientFrame::Cancel { id } if prefix.continues => Seen::End(id.0, part.payload.len()),
        ClientFrame::Cancel { id } => Seen::Frame(id.0),
        ClientFrame::Ping { nonce } => Seen::Mark(nonce & !MARK),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_urgent_goes_between_the_pieces_of_a_write() {
    let mut link = Link::new();
    let write = link.write(1, 1 << 20);
    assert_eq!(link.turn(), [Seen::Piece(256 * KIB), Seen::Mark(1)]);
    let asked = [link.ask(None), link.ask(Some(2))];
    assert_eq!(link.turn()[..2], [Seen::Frame(asked[0]), Seen::Frame(asked[1])]);
    assert_eq!(link.turn(), [Seen::Piece(256 * KIB), Seen::Mark(3)]);
    assert_eq!(link.turn(), [Seen::End(write, 256 * KIB), Seen::Mark(4)]);
    assert!(link.turn().is_empty() && link.lanes.is_empty());
}

#[test]
fn a_request_of_a_file_that_is_being_written_stays_behind_its_writes() {
    let mut link = Link::new();
    let before = link.ask(Some(1));
    let write = link.write(1, 100);
    let after = [link.ask(Some(1)), link.ask(Some(1))];
    let other = link.ask(Some(2));
    let frames = |frames: &[u64]| frames.iter().map(|number| Seen::Frame(*number)).collect::<Vec<_>>();
    assert_eq!(link.turn(), frames(&[before, other, write, after[0], after[1]]));
    let urgent = link.ask(Some(1));
    assert_eq!(link.turn(), frames(&[urgent]), "nothing of the file waits any more");
}

#[test]
fn what_is_sent_again_keeps_its_order() {
    let mut link = Link::new();
    let frame = |id: u64, bytes: usize, what: What| {
        let head = encode_head(&ClientFrame::Cancel { id: RequestId(id) }, bytes).unwrap();
        Outgoing { head, payload: Bytes::from(vec![0; bytes]), share: 0, what }
    };
    let asks = |id: u64| What::Request { id: RequestId(id), handles: [None, None] };
    let writes = What::Write { id: RequestId(2), handle: HandleId(1) };
    link.lanes.push_again(vec![frame(1, 0, asks(1)), frame(2, 9, writes), frame(3, 0, asks(3))]);
    assert_eq!(link.turn(), [1, 2, 3].map(Seen::Frame));
}

#[test]
fn what_concerns_a_request_does_not_overtake_it() {
    let mut link = Link::new();
    let write = link.write(1, 100);
    let lock = link.ask(Some(1));
    let cancel = link.push(0, |_| What::Concerning(RequestId(lock)));
    let credit = link.push(0, |_| What::Concerning(RequestId(1000)));
    let last = link.push(0, |_| What::Last);
    let numbers: Vec<_> = link.turn();
    assert_eq!(numbers, [credit, write, lock, cancel, last].map(Seen::Frame));
}

#[test]
fn writes_go_on_when_earlier_ones_have_arrived_and_no_more_is_on_the_way_than_there_is_room_for() {
    let mut link = Link::new();
    let room = link.pace.up.room(&link.pace.trip);
    for _ in 0..100 {
        link.write(1, 256 * KIB);
    }
    let (mut sent, mut marks) = (0, 0);
    loop {
        let seen = link.turn();
        if seen.is_empty() {
            break;
        }
        sent += 256 * KIB;
        marks += 1;
        assert_eq!(seen.last(), Some(&Seen::Mark(marks)));
    }
    assert!(sent >= room && sent <= room + 512 * KIB, "{sent} of {room}");
    let urgent = link.ask(None);
    assert_eq!(link.turn(), [Seen::Frame(urgent)], "what is urgent waits for nothing");
    link.now += Duration::from_millis(20);
    assert_eq!(link.arrived(marks), Some(true));
    assert!(!link.turn().is_empty());
    assert_eq!(link.arrived(1_000_000), Some(false));
    assert_eq!(link.lanes.arrived(7, &mut link.pace, link.now), None);
}

#[test]
fn small_writes_share_a_piece_and_a_mark() {
    let mut link = Link::new();
    for _ in 0..64 {
        link.write(1, 4 * KIB);
    }
    let seen = link.turn();
    let frames = seen.iter().filter(|seen| matches!(seen, Seen::Frame(_))).count();
    assert!(frames > 60 && seen.last() == Some(&Seen::Mark(1)), "{seen:?}");
    link.write(1, 100);
    let lone = link.turn();
    assert!(lone.iter().all(|seen| matches!(seen, Seen::Frame(_))), "{lone:?}");
}

#[test]
fn what_is_dropped_gives_back_what_it_had_of_the_limit() {
    let mut link = Link::new();
    link.write(1, 1 << 20);
    link.ask(Some(1));
    link.turn();
    assert_eq!(link.lanes.clear(), 1 << 20);
    assert!(link.lanes.is_empty() && link.turn().is_empty());
    assert_eq!(link.arrived(1), Some(true), "an answer that comes late is none to nothing");
    let write = link.write(2, 10);
    assert_eq!(link.turn(), [Seen::Frame(write)]);
}

#[test]
fn the_room_has_limits() {
    const { assert!(ROOM_BYTES_MIN < ROOM_BYTES_MAX) };
    let mut link = Link::new();
    for _ in 0..1000 {
        link.write(1, 1 << 20);
        while !link.turn().is_empty() {}
        link.now += Duration::from_micros(600);
        let mark = link.lanes.last_mark;
        link.arrived(mark);
        let room = link.pace.up.room(&link.pace.trip);
        assert!((ROOM_BYTES_MIN..=ROOM_BYTES_MAX).contains(&room), "{room}");
    }
}
