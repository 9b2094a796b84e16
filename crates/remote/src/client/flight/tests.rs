use std::collections::VecDeque;

use super::*;

const MIB: usize = 1 << 20;

/// A line of which rate and length are known, and a sender that keeps to the room.
struct Line {
    rate: f64,
    trip: Duration,
    now: Instant,
    /// When the line has carried all that was given to it.
    free: Instant,
    flight: Flight,
    known: Trip,
    /// Arrivals to come.
    on_the_way: VecDeque<(Instant, Departure)>,
}

impl Line {
    fn new(rate: f64, trip: Duration) -> Line {
        let now = Instant::now();
        let known = Trip { least: Some(trip), seen: Some(now), look: None };
        Line { rate, trip, now, free: now, flight: Flight::new(now), known, on_the_way: VecDeque::new() }
    }

    /// How long something small that is sent now takes there and back.
    fn latency(&self) -> Duration {
        self.free.saturating_duration_since(self.now) + self.trip
    }

    /// Sends for so long, and says how much has arrived.
    fn copy_for(&mut self, time: Duration, piece: usize) -> u64 {
        let (end, before) = (self.now + time, self.flight.arrived);
        while self.now < end {
            while self.flight.room_left(&self.known) > 0 {
                let departure = self.flight.departs(piece, &self.known, self.now);
                let took = Duration::from_secs_f64(piece as f64 / self.rate);
                self.free = self.free.max(self.now) + took;
                self.on_the_way.push_back((self.free + self.trip, departure));
            }
            let Some((at, departure)) = self.on_the_way.pop_front() else { break };
            self.now = at;
            self.flight.arrives(&departure, at);
            let latency = self.latency();
            self.known.took(latency, at);
        }
        self.flight.arrived - before
    }

    /// Waits for all that is on its way.
    fn drain(&mut self) {
        while let Some((at, departure)) = self.on_the_way.pop_front() {
            self.now = at;
            self.flight.arrives(&departure, at);
        }
    }
}

/// Megabytes per second, milliseconds.
const LINES: [(f64, u64); 8] =
    [(12.5, 20), (12.5, 100), (12.5, 200), (100.0, 20), (20.0, 100), (10.0, 200), (1.0, 20), (400.0, 1)];

#[test]
fn a_copy_keeps_any_line_busy_and_whoever_comes_between_waits_for_less_than_another_trip() {
    for (megabytes, trip) in LINES {
        let (rate, trip) = (megabytes * 1e6, Duration::from_millis(trip));
        let mut line = Line::new(rate, trip);
        line.copy_for(trip * 8 + Duration::from_secs(4), 64 << 10);
        let time = Duration::from_secs(10);
        let arrived = line.copy_for(time, 64 << 10) as f64;
        assert!(arrived >= 0.95 * rate * time.as_secs_f64(), "{megabytes} MB/s, {trip:?}: {arrived}");
        // The least room of a slow line is more than it should be.
        let least = Duration::from_secs_f64((ROOM_BYTES_MIN + (64 << 10)) as f64 / rate);
        let allowed = trip + least.max(wait(trip) + Duration::from_millis(6));
        assert!(line.latency() <= allowed, "{megabytes} MB/s, {trip:?}: {:?}", line.latency());
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
    let mut line = Line::new(100e6, Duration::from_millis(20));
    line.copy_for(Duration::from_secs(5), 64 << 10);
    line.rate = 10e6;
    line.copy_for(RATE_KEPT * 5, 64 << 10);
    assert!(line.latency() <= Duration::from_millis(60), "{:?}", line.latency());
}

#[test]
fn what_is_little_says_nothing_about_the_line() {
    let mut line = Line::new(100e6, Duration::from_millis(20));
    line.copy_for(Duration::from_secs(2), 64 << 10);
    line.drain();
    let rates = |line: &Line| (line.flight.rate.get(), line.flight.carries_per_second());
    let before = rates(&line);
    for _ in 0..1000 {
        line.now += Duration::from_millis(25);
        let departure = line.flight.departs(1000, &line.known, line.now);
        line.now += Duration::from_millis(20);
        line.flight.arrives(&departure, line.now);
    }
    assert_eq!(rates(&line), before);
}

#[test]
fn what_a_link_carries_is_not_known_before_it_has_had_enough_to_do() {
    let mut line = Line::new(100e6, Duration::from_millis(20));
    for _ in 0..10 {
        let departure = line.flight.departs(64 << 10, &line.known, line.now);
        line.now += Duration::from_millis(20);
        line.flight.arrives(&departure, line.now);
    }
    assert!(line.flight.rate.get() > 0 && line.flight.carries_per_second() == 0);
    line.copy_for(Duration::from_secs(2), 64 << 10);
    let carries = line.flight.carries_per_second() as f64;
    assert!((carries / 100e6 - 1.0).abs() < 0.1, "{carries}");
}

#[test]
fn what_was_sent_on_another_stream_does_not_arrive_on_this_one() {
    let now = Instant::now();
    let mut flight = Flight::new(now);
    let lost = flight.departs(MIB, &Trip::default(), now);
    flight.begin_anew(now);
    let sent = flight.departs(10, &Trip::default(), now);
    flight.arrives(&lost, now);
    assert_eq!(flight.under_way, 10);
    flight.arrives(&sent, now);
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
        (100_000_000, 400_000, 800_000),
        (1_000_000_000, MIB, MIB),
    ] {
        let peak = Peak { now: rate, before: 0, since: now };
        (pace.up.rate, pace.down.rate) = (peak, peak);
        assert_eq!((pace.piece_bytes(), pace.part_bytes()), (piece, part), "{rate}");
    }
}
