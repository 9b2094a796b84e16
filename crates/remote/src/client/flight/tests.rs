use std::collections::VecDeque;

use super::*;

const MIB: usize = 1 << 20;

/// A line of which rate and length are known, and a sender that keeps to the room.
struct Line {
    rate: f64,
    trip: Duration,
    /// What is handed out only at the end of one of these: the threads at its ends take turns.
    turn: Duration,
    begun: Instant,
    now: Instant,
    /// When the line has carried all that was given to it.
    free: Instant,
    flight: Flight,
    known: Trip,
    /// Arrivals to come.
    on_the_way: VecDeque<(Instant, Departure)>,
    /// The longest that something small would have taken since this was set.
    longest: Duration,
}

impl Line {
    fn new(rate: f64, trip: Duration) -> Line {
        let now = Instant::now();
        let known = Trip { least: Some(trip), seen: Some(now), look: None };
        let (flight, turn, longest) = (Flight::new(), Duration::ZERO, Duration::ZERO);
        Line {
            rate,
            trip,
            turn,
            begun: now,
            now,
            free: now,
            flight,
            known,
            on_the_way: VecDeque::new(),
            longest,
        }
    }

    /// How long something small that is sent now takes there and back.
    fn latency(&self) -> Duration {
        self.free.saturating_duration_since(self.now) + self.trip
    }

    /// When something that has come is handed out.
    fn handed_out(&self, at: Instant) -> Instant {
        if self.turn.is_zero() {
            return at;
        }
        let turns = at.saturating_duration_since(self.begun).as_nanos().div_ceil(self.turn.as_nanos());
        self.begun + self.turn * u32::try_from(turns).unwrap()
    }

    /// Sends for so long, and says how much has arrived.
    fn copy_for(&mut self, time: Duration, piece: usize) -> u64 {
        let (end, before) = (self.now + time, self.flight.arrived);
        while self.now < end {
            while self.flight.room_left(&self.known) > 0 {
                let departure = self.flight.departs(piece, &self.known, self.now);
                let took = Duration::from_secs_f64(piece as f64 / self.rate);
                self.free = self.free.max(self.now) + took;
                self.on_the_way.push_back((self.handed_out(self.free + self.trip), departure));
            }
            let Some((at, departure)) = self.on_the_way.pop_front() else { break };
            self.now = at;
            self.longest = self.longest.max(self.latency());
            self.flight.arrives(&departure, &self.known, at);
            let latency = self.latency();
            self.known.took(latency, at);
        }
        self.flight.arrived - before
    }

    /// The longest that something small can take beside a copy: a piece goes out for as long as there is room.
    fn allowed(&self, piece: usize) -> Duration {
        // The least room of a slow line is more than it should be.
        let least = Duration::from_secs_f64((ROOM_BYTES_MIN + piece) as f64 / self.rate);
        let piece = Duration::from_secs_f64(piece as f64 / self.rate);
        self.trip + least.max(wait(self.trip) + piece + self.turn)
    }

    /// Waits for all that is on its way.
    fn drain(&mut self) {
        while let Some((at, departure)) = self.on_the_way.pop_front() {
            self.now = at;
            self.flight.arrives(&departure, &self.known, at);
        }
    }
}

/// Megabytes per second, milliseconds.
const LINES: [(f64, u64); 8] =
    [(12.5, 20), (12.5, 100), (12.5, 200), (100.0, 20), (20.0, 100), (10.0, 200), (1.0, 20), (400.0, 1)];

#[test]
fn a_copy_keeps_any_line_busy_and_nobody_waits_longer_than_is_meant() {
    const PIECE: usize = 64 << 10;
    for (megabytes, trip) in LINES {
        let (rate, trip) = (megabytes * 1e6, Duration::from_millis(trip));
        let mut line = Line::new(rate, trip);
        line.copy_for(trip * 8 + Duration::from_secs(4), PIECE);
        line.longest = Duration::ZERO;
        let time = Duration::from_secs(10);
        let arrived = line.copy_for(time, PIECE) as f64;
        assert!(arrived >= 0.95 * rate * time.as_secs_f64(), "{megabytes} MB/s, {trip:?}: {arrived}");
        assert!(line.longest <= line.allowed(PIECE), "{megabytes} MB/s, {trip:?}: {:?}", line.longest);
    }
}

#[test]
fn a_line_whose_ends_take_turns_is_kept_busy_and_not_overfilled_by_what_comes_at_once() {
    const PIECE: usize = 64 << 10;
    for (megabytes, trip) in LINES.into_iter().filter(|(megabytes, _)| *megabytes >= 10.0) {
        let (rate, trip) = (megabytes * 1e6, Duration::from_millis(trip));
        let mut line = Line::new(rate, trip);
        line.turn = Duration::from_millis(3);
        line.copy_for(trip * 8 + Duration::from_secs(4), PIECE);
        line.longest = Duration::ZERO;
        let time = Duration::from_secs(10);
        let arrived = line.copy_for(time, PIECE) as f64;
        assert!(arrived >= 0.95 * rate * time.as_secs_f64(), "{megabytes} MB/s, {trip:?}: {arrived}");
        assert!(line.longest <= line.allowed(PIECE), "{megabytes} MB/s, {trip:?}: {:?}", line.longest);
    }
}

#[test]
fn a_line_is_full_after_few_trips() {
    for (megabytes, trip, most) in [(90.0, 20, 1), (100.0, 100, 5), (90.0, 200, 5)] {
        let (rate, trip) = (megabytes * 1e6, Duration::from_millis(trip));
        let mut line = Line::new(rate, trip);
        let trips = (1..30).find(|_| {
            line.copy_for(trip, 64 << 10);
            line.flight.under_way as f64 >= 0.95 * rate * trip.as_secs_f64()
        });
        assert!(trips <= Some(most), "{megabytes} MB/s, {trip:?}: {trips:?}");
    }
}

#[test]
fn the_room_of_a_copy_that_goes_on_for_minutes_does_not_grow() {
    let mut line = Line::new(12.5e6, Duration::from_millis(20));
    line.copy_for(Duration::from_secs(5), 64 << 10);
    let room = line.flight.room(&line.known);
    line.copy_for(Duration::from_secs(300), 64 << 10);
    assert!(line.flight.room(&line.known) <= room * 5 / 4, "{} of {room}", line.flight.room(&line.known));
}

#[test]
fn a_way_that_becomes_longer_is_filled_again() {
    let mut line = Line::new(12.5e6, Duration::from_millis(20));
    line.copy_for(Duration::from_secs(5), 64 << 10);
    line.trip = Duration::from_millis(120);
    line.copy_for(TRIP_KEPT * 2, 64 << 10);
    let arrived = line.copy_for(Duration::from_secs(10), 64 << 10) as f64;
    assert!(arrived >= 0.9 * 125e6, "{arrived}");
}

#[test]
fn a_line_that_becomes_slower_is_not_overfilled_for_long() {
    const PIECE: usize = 64 << 10;
    for (megabytes, trip) in [(100.0, 20), (12.5, 100), (400.0, 1)] {
        let mut line = Line::new(megabytes * 1e6, Duration::from_millis(trip));
        line.copy_for(Duration::from_secs(5), PIECE);
        let filled = line.latency();
        line.rate /= 10.0;
        // What stands there has to get away first.
        line.copy_for(filled * 20 + ROUND_MIN * 4, PIECE);
        line.longest = Duration::ZERO;
        let time = Duration::from_secs(5);
        let arrived = line.copy_for(time, PIECE) as f64;
        assert!(line.longest <= line.allowed(PIECE), "{megabytes} MB/s, {trip} ms: {:?}", line.longest);
        assert!(arrived >= 0.95 * line.rate * time.as_secs_f64(), "{megabytes} MB/s, {trip} ms: {arrived}");
    }
}

#[test]
fn a_machine_that_is_busy_otherwise_is_not_taken_for_a_full_line() {
    const PIECE: usize = 64 << 10;
    for (megabytes, trip, busy) in [(400.0, 1, 10), (400.0, 1, 20), (90.0, 20, 15), (50.0, 20, 40)] {
        let mut line = Line::new(megabytes * 1e6, Duration::from_millis(trip));
        line.copy_for(Duration::from_secs(2), PIECE);
        // From now on, everything takes longer, and not because anything stands in the way.
        line.trip += Duration::from_millis(busy);
        line.copy_for(Duration::from_secs(2), PIECE);
        let time = Duration::from_secs(10);
        let arrived = line.copy_for(time, PIECE) as f64;
        let share = arrived / (line.rate * time.as_secs_f64());
        assert!(share >= 0.8, "{megabytes} MB/s, {trip} + {busy} ms: {share}");
        // And when it has time again, nobody waits for what it was busy with.
        line.trip = Duration::from_millis(trip);
        line.copy_for(HELD_UP_KEPT + Duration::from_secs(1), PIECE);
        line.longest = Duration::ZERO;
        line.copy_for(time, PIECE);
        assert!(line.longest <= line.allowed(PIECE), "{megabytes} MB/s, {trip} ms: {:?}", line.longest);
    }
}

#[test]
fn one_moment_in_which_nothing_comes_does_not_empty_the_line() {
    let mut line = Line::new(100e6, Duration::from_millis(20));
    line.copy_for(Duration::from_secs(5), 64 << 10);
    let room = line.flight.room(&line.known);
    line.free += Duration::from_millis(60);
    line.copy_for(Duration::from_millis(60), 64 << 10);
    assert!(line.flight.room(&line.known) >= room * 9 / 10, "{} of {room}", line.flight.room(&line.known));
}

/// Sends so many bytes at a time, so that something is always on its way and nothing is late.
fn trickle(line: &mut Line, bytes: usize, times: usize) {
    let mut last = line.flight.departs(bytes, &line.known, line.now);
    line.now += Duration::from_millis(5);
    for _ in 0..times {
        line.now += Duration::from_millis(10);
        let next = line.flight.departs(bytes, &line.known, line.now);
        line.now += Duration::from_millis(5);
        line.flight.arrives(&last, &line.known, line.now);
        last = next;
    }
    line.now += Duration::from_millis(15);
    line.flight.arrives(&last, &line.known, line.now);
}

#[test]
fn what_is_little_says_nothing_about_the_line() {
    let mut line = Line::new(100e6, Duration::from_millis(20));
    line.copy_for(Duration::from_secs(2), 64 << 10);
    line.drain();
    let before = (line.flight.carries_per_second(), line.flight.room(&line.known));
    trickle(&mut line, 1000, 1000);
    assert_eq!((line.flight.carries_per_second(), line.flight.room(&line.known)), before);
}

#[test]
fn what_a_link_carries_is_not_known_before_it_has_had_enough_to_do() {
    let mut line = Line::new(100e6, Duration::from_millis(20));
    for bytes in [64 << 10, ROOM_BYTES_MIN] {
        trickle(&mut line, bytes, 10);
        assert_eq!(line.flight.carries_per_second(), 0, "{bytes}");
        assert!(line.flight.room(&line.known) >= ROOM_BYTES_START, "{bytes}");
    }
    line.copy_for(Duration::from_secs(2), 64 << 10);
    let carries = line.flight.carries_per_second() as f64;
    assert!((carries / 100e6 - 1.0).abs() < 0.1, "{carries}");
}

#[test]
fn a_slow_line_is_known_by_a_little_that_came_late() {
    let mut line = Line::new(1e6, Duration::from_millis(20));
    let pieces = [ROOM_BYTES_MIN / 2; 4].map(|bytes| line.flight.departs(bytes, &line.known, line.now));
    for piece in &pieces {
        line.now += Duration::from_millis(131);
        line.flight.arrives(piece, &line.known, line.now);
    }
    assert_eq!(line.flight.room(&line.known), ROOM_BYTES_MIN);
}

#[test]
fn what_was_sent_on_another_stream_does_not_arrive_on_this_one() {
    let now = Instant::now();
    let mut flight = Flight::new();
    let lost = flight.departs(MIB, &Trip::default(), now);
    flight.begin_anew();
    let sent = flight.departs(10, &Trip::default(), now);
    flight.arrives(&lost, &Trip::default(), now);
    assert_eq!(flight.under_way, 10);
    flight.arrives(&sent, &Trip::default(), now);
    assert_eq!(flight.under_way, 0);
}

#[test]
fn the_agent_is_told_of_a_rate_that_has_changed_and_not_of_every_measurement() {
    let mut now = Instant::now();
    let mut pace = Pace::new(now);
    assert_eq!(pace.news(), None);
    for (milliseconds, news) in
        [(80, Some(13_107_200)), (79, None), (85, None), (8, Some(131_072_000)), (80, None)]
    {
        pace.brought(MIB, Duration::from_millis(milliseconds), now);
        assert_eq!(pace.news(), news, "{milliseconds}");
    }
    for _ in 0..2 {
        now += RATE_KEPT;
        pace.brought(MIB, Duration::from_millis(80), now);
    }
    assert_eq!(pace.news(), Some(13_107_200));
}

#[test]
fn pieces_and_parts_are_as_long_as_the_link_takes_few_milliseconds_for() {
    let now = Instant::now();
    let mut pace = Pace::new(now);
    assert_eq!((pace.piece_bytes(), pace.part_bytes()), (PIECE_BYTES_START, PART_BYTES_START));
    for (rate, piece, part) in [
        (1_000_000, PIECE_BYTES_MIN, PART_BYTES_MIN),
        (100_000_000, 200_000, 400_000),
        (1_000_000_000, MIB, MIB),
    ] {
        let rate_kept = Rate { rounds: [rate; ROUNDS] };
        (pace.up.rate, pace.down.rate) = (rate_kept, rate_kept);
        assert_eq!((pace.piece_bytes(), pace.part_bytes()), (piece, part), "{rate}");
    }
}
