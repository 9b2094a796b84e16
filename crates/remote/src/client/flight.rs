//! How much may be on its way, so that a link is busy and nothing waits long in it.
//!
//! What has been given to the system stands in front of all that comes later: in the socket, in ssh's window, in the
//! buffers of TCP, in those of routers. None of them can be looked into, but what has arrived is known, and when. Per
//! direction a [`Flight`] counts what was sent and has not arrived, and says how much that should be:
//!
//! ```text
//!            a round in which nothing came as fast as it should
//!  rising ───────────────────────────────────────────────────────► steady
//!
//!  rising: room = RISE × rate × (least + wait), and at least ROOM_BYTES_START
//!  steady: room = rate × (least + wait)
//!
//!  rate:  what arrived per second in a round, the best of the last ROUNDS
//!  least: the shortest time for something small to go there and back, or what it takes whatever is sent
//!  wait:  what may stand in front of whoever comes next, see WAIT_MIN
//! ```
//!
//! With more on its way than the link holds, the rate says what the link carries; with less, each round brings more than
//! the last, so the room grows by the wait's part, or more while it rises, until the link is full. The model is that of BBR;
//! but there is no clock that sends, only arrivals, because TCP beneath spaces what goes out.
//!
//! What holds:
//!
//! - A round is as long as a trip, and at least [`ROUND_MIN`]. What arrives in less time has no rate: ssh and the threads
//!   at both ends take turns, and hand out at once what they were held up with.
//! - A round counts only if the link had enough to do in all of it. So nothing that is little changes what is known.
//! - One round that was held up changes nothing, since the best counts; a link that has become slower is known for it after
//!   [`ROUNDS`].
//! - The room shrinks while everything is late. Where it has shrunk by a quarter and nothing is quicker for it, what takes so
//!   long is not what was sent: the machines are busy otherwise. That is then part of the least time, for a while
//!   ([`HELD_UP_KEPT`]). Below [`ROOM_BYTES_MIN`] nothing shrinks, and this is not found out.
//!
//! Everything here is pure: moments come in as arguments.

use std::time::{Duration, Instant};

use wire::frame::PAYLOAD_BYTES_MAX;

/// The room before anything has been measured: what ssh itself lets into a channel at once.
const ROOM_BYTES_START: usize = 2 << 20;

/// The least room: two parts of a file that is being read.
pub(super) const ROOM_BYTES_MIN: usize = 256 << 10;

/// The largest room: a gigabit at a quarter of a second.
pub(super) const ROOM_BYTES_MAX: usize = 32 << 20;

/// How long what comes next may stand behind what is on its way, at least: the threads at both ends take turns with
/// others on their processors, and a link must not fall idle meanwhile.
const WAIT_MIN: Duration = Duration::from_millis(5);

/// Of a long trip, so much may be waited on top: the room of a link whose rate has grown grows by this with each.
const WAIT_OF_TRIP: u32 = 8;

/// The shortest round: several turns of the threads that a byte passes.
const ROUND_MIN: Duration = Duration::from_millis(25);

/// How many rounds are remembered.
const ROUNDS: usize = 3;

/// For how long it is believed that everything takes longer than a trip, whatever is sent.
const HELD_UP_KEPT: Duration = Duration::from_secs(2);

/// How much more than it seems to carry a link is given while it rises.
const RISE: usize = 3;

/// For how long it is believed how fast the link brings a long frame. Two halves, so between once and twice as long.
const RATE_KEPT: Duration = Duration::from_secs(1);

/// How often the shortest trip must be seen again. When it was not, less is sent for a moment, to see whether the way has
/// become longer or only the queue on it.
const TRIP_KEPT: Duration = Duration::from_secs(30);

/// How long one piece of a payload keeps others from the stream.
const PIECE_TIME: Duration = Duration::from_millis(2);

/// The size of pieces before anything has been measured, and the least: two of ssh's packets.
const PIECE_BYTES_START: usize = 256 << 10;
const PIECE_BYTES_MIN: usize = 64 << 10;

/// How long one part of a file that is read ahead keeps others from the stream.
const PART_TIME: Duration = Duration::from_millis(4);

/// The size of parts before anything has been measured, and the least: smaller ones cost more requests than they save
/// waiting.
const PART_BYTES_START: usize = 256 << 10;
const PART_BYTES_MIN: usize = 128 << 10;

/// The shortest time to the peer and back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trip {
    least: Option<Duration>,
    /// When it was last seen.
    seen: Option<Instant>,
    look: Option<Look>,
}

/// A look whether the shortest trip still is what it was.
#[derive(Clone, Copy, Debug)]
struct Look {
    until: Instant,
    least: Option<Duration>,
}

impl Trip {
    /// Something small has gone there and back.
    pub(super) fn took(&mut self, time: Duration, now: Instant) {
        let (Some(least), Some(seen)) = (self.least, self.seen) else {
            (self.least, self.seen) = (Some(time), Some(now));
            return;
        };
        if time <= least + wait(least) / 4 {
            *self = Trip { least: Some(least.min(time)), seen: Some(now), look: None };
            return;
        }
        match &mut self.look {
            Some(look) => {
                let shortest = look.least.map_or(time, |least| least.min(time));
                look.least = Some(shortest);
                if now >= look.until {
                    *self = Trip { least: Some(shortest), seen: Some(now), look: None };
                }
            }
            None if now.saturating_duration_since(seen) >= TRIP_KEPT => {
                // What was sent before stands in the way of the first that are seen.
                self.look = Some(Look { until: now + time * 3, least: None });
            }
            None => {}
        }
    }
}

/// What may stand in front of the next, in time.
fn wait(trip: Duration) -> Duration {
    WAIT_MIN.max(trip / WAIT_OF_TRIP)
}

/// What is on its way in one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    under_way: usize,
    /// All that has arrived.
    arrived: u64,
    rate: Rate,
    round: Option<Round>,
    /// Whether it has been seen what the link holds.
    is_steady: bool,
    /// The largest of the late ones since the room began to shrink.
    late: Option<Quickest>,
    /// How long everything takes, whatever stands in the way, and until when that is believed.
    held_up: Option<(Duration, Instant)>,
    /// Counts how often the flight was begun anew, so that what was sent before is not taken for arriving now.
    begun: u64,
}

/// What was known when something was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Departure {
    bytes: usize,
    at: Instant,
    /// What was on its way with it.
    stood: usize,
    /// Whether the link had enough to do.
    was_busy: bool,
    begun: u64,
}

/// A time in which the link has enough to do.
#[derive(Clone, Copy, Debug)]
struct Round {
    since: Instant,
    /// What had arrived before.
    arrived: u64,
    quickest: Option<Quickest>,
}

/// What was under way for the shortest time of all that arrived in a round, and how much with it.
#[derive(Clone, Copy, Debug)]
struct Quickest {
    took: Duration,
    stood: usize,
}

/// What each of the last rounds brought, in bytes per second, the latest first.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    rounds: [u64; ROUNDS],
}

impl Rate {
    fn get(&self) -> u64 {
        self.rounds.into_iter().max().unwrap_or_default()
    }

    fn take(&mut self, rate: u64) {
        self.rounds.rotate_right(1);
        self.rounds[0] = rate;
    }
}

impl Departure {
    /// How long it has been under way.
    pub(super) fn time(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}

/// The largest of the rates of late, in bytes per second.
#[derive(Clone, Copy, Debug)]
struct Peak {
    now: u64,
    before: u64,
    since: Instant,
}

impl Peak {
    fn new(since: Instant) -> Peak {
        Peak { now: 0, before: 0, since }
    }

    fn get(&self) -> u64 {
        self.now.max(self.before)
    }

    fn take(&mut self, rate: u64, at: Instant) {
        if at.saturating_duration_since(self.since) >= RATE_KEPT {
            *self = Peak { now: rate, before: self.now, since: at };
        }
        self.now = self.now.max(rate);
    }
}

impl Flight {
    pub(super) fn new() -> Flight {
        let rate = Rate::default();
        Flight {
            under_way: 0,
            arrived: 0,
            rate,
            round: None,
            is_steady: false,
            late: None,
            held_up: None,
            begun: 0,
        }
    }

    /// Another stream: what was under way is not any more.
    pub(super) fn begin_anew(&mut self) {
        *self = Flight { begun: self.begun + 1, ..Flight::new() };
    }

    /// So much has been sent, or asked for.
    pub(super) fn departs(&mut self, bytes: usize, trip: &Trip, now: Instant) -> Departure {
        if self.under_way == 0 {
            self.round = None;
        }
        self.under_way += bytes;
        let enough = if self.is_steady { self.room(trip) / 2 } else { ROOM_BYTES_MIN };
        // While it is looked at the trip, less is sent than the link carries.
        let was_busy = trip.look.is_none() && self.under_way >= enough;
        Departure { bytes, at: now, stood: self.under_way, was_busy, begun: self.begun }
    }

    /// It has arrived.
    pub(super) fn arrives(&mut self, departure: &Departure, trip: &Trip, now: Instant) {
        if departure.begun != self.begun {
            return;
        }
        self.under_way = self.under_way.saturating_sub(departure.bytes);
        self.arrived += departure.bytes as u64;
        let next = Round { since: now, arrived: self.arrived, quickest: None };
        let Some(round) = self.round.as_mut().filter(|_| departure.was_busy) else {
            self.round = Some(next);
            return;
        };
        let this = Quickest { took: departure.time(now), stood: departure.stood };
        let quickest = round.quickest.filter(|quickest| quickest.took <= this.took).unwrap_or(this);
        round.quickest = Some(quickest);
        let lasted = now.saturating_duration_since(round.since);
        let (Some(least), true) = (trip.least, lasted >= ROUND_MIN.max(trip.least.unwrap_or_default()))
        else {
            return;
        };
        let rate = per_second(self.arrived - round.arrived, lasted);
        self.round = Some(next);
        self.held_up = self.held_up.filter(|(_, until)| now < *until);
        let expected = self.least(least) + wait(least);
        self.rate.take(rate);
        let is_late = quickest.took > expected;
        self.is_steady |= is_late;
        self.late = if is_late { self.blame(quickest, now) } else { None };
    }

    /// Something was late throughout a round. What stood in its way is gone when the room has shrunk; where that has not
    /// made it quicker, it is not what stands there.
    fn blame(&mut self, now_late: Quickest, now: Instant) -> Option<Quickest> {
        match self.late {
            Some(late) if now_late.stood <= late.stood / 4 * 3 => {
                if now_late.took < late.took * 7 / 8 {
                    return Some(now_late);
                }
                self.held_up = Some((now_late.took, now + HELD_UP_KEPT));
                None
            }
            // The link may have become slower since: then this is what has stood there before.
            Some(late) if now_late.stood <= late.stood => {
                Some(Quickest { took: late.took.max(now_late.took), ..late })
            }
            _ => Some(now_late),
        }
    }

    /// How long something takes in whose way nothing stands.
    fn least(&self, trip: Duration) -> Duration {
        self.held_up.map_or(trip, |(took, _)| took.max(trip))
    }

    /// How much should be on its way.
    pub(super) fn room(&self, trip: &Trip) -> usize {
        let Some(least) = trip.least else { return ROOM_BYTES_START };
        // For a look at the trip, a little less than the link holds: the queue, if it is ours, goes away.
        let time = if trip.look.is_some() { least * 3 / 4 } else { self.least(least) + wait(least) };
        let held = bytes_in(self.rate.get(), time);
        match self.is_steady {
            true => held.clamp(ROOM_BYTES_MIN, ROOM_BYTES_MAX),
            false => held.saturating_mul(RISE).clamp(ROOM_BYTES_START, ROOM_BYTES_MAX),
        }
    }

    /// How much more should be on its way.
    pub(super) fn room_left(&self, trip: &Trip) -> usize {
        self.room(trip).saturating_sub(self.under_way)
    }

    /// What arrives in this time; `None` where no rate is known.
    pub(super) fn bytes_in(&self, time: Duration) -> Option<usize> {
        Some(self.rate.get()).filter(|rate| *rate > 0).map(|rate| bytes_in(rate, time))
    }

    /// What the link carries per second; 0 where it never had enough to do to show it.
    pub(super) fn carries_per_second(&self) -> u64 {
        if self.is_steady { self.rate.get() } else { 0 }
    }
}

/// What of one stream is on its way, there and back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) trip: Trip,
    /// What writers have given, in bytes of the stream.
    pub(super) up: Flight,
    /// What readers have asked for, in bytes of files.
    pub(super) down: Flight,
    /// What the link brings while a long frame arrives, in bytes of the stream.
    brings: Peak,
    /// What the agent has been told of it.
    told: u64,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        let (up, down) = (Flight::new(), Flight::new());
        Pace { trip: Trip::default(), up, down, brings: Peak::new(now), told: 0 }
    }

    /// Another stream: it may go another way.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.up.begin_anew();
        self.down.begin_anew();
        (self.trip, self.brings, self.told) = (Trip::default(), Peak::new(now), 0);
    }

    /// How much is given to the stream in one piece, so that nothing waits long behind it.
    pub(super) fn piece_bytes(&self) -> usize {
        let bytes = self.up.bytes_in(PIECE_TIME);
        bytes.map_or(PIECE_BYTES_START, |bytes| bytes.clamp(PIECE_BYTES_MIN, PAYLOAD_BYTES_MAX as usize))
    }

    /// How much is best asked for in one request by who reads ahead.
    pub(super) fn part_bytes(&self) -> usize {
        let bytes = self.down.bytes_in(PART_TIME);
        bytes.map_or(PART_BYTES_START, |bytes| bytes.clamp(PART_BYTES_MIN, PAYLOAD_BYTES_MAX as usize))
    }

    /// The rest of a long frame has taken so long to arrive.
    pub(super) fn brought(&mut self, bytes: usize, took: Duration, now: Instant) {
        self.brings.take(per_second(bytes as u64, took), now);
    }

    /// What the agent is to be told of how fast replies arrive, where that is another thing than it has been told.
    pub(super) fn news(&mut self) -> Option<u64> {
        let brings = self.brings.get();
        if brings == 0 || brings.abs_diff(self.told) <= self.told / 4 {
            return None;
        }
        self.told = brings;
        Some(brings)
    }
}

/// The rate at which so much arrives in this time.
fn per_second(bytes: u64, time: Duration) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn bytes_in(rate: u64, time: Duration) -> usize {
    let bytes = u128::from(rate) * time.as_nanos() / 1_000_000_000;
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
