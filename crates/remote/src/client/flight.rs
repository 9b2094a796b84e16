//! How much may be on its way, so that a link is busy and nothing waits long in it.
//!
//! What has been given to the system stands in front of all that comes later: in the socket, in ssh's window, in the
//! buffers of TCP, in those of routers. None of them can be looked into, but what has arrived is known, and when. Per
//! direction a [`Flight`] counts what was sent and has not arrived, and says how much that should be:
//!
//! ```text
//! room = rate × (trip + wait)        rate: the most that has arrived per second, of late
//!                                    trip: the shortest time for something small to go there and back
//!                                    wait: what may stand in front of whoever comes next, see WAIT_MIN
//! ```
//!
//! With more on its way than the link holds, the rate says what the link carries; with less, each round trip brings more
//! than the last, so the room grows by the wait's part until the link is full. The model is that of BBR; but there is no
//! clock that sends, only arrivals, because TCP beneath spaces what goes out.
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
const WAIT_MIN: Duration = Duration::from_millis(10);

/// For how long a rate is believed. Two halves, so between once and twice as long as this.
const RATE_KEPT: Duration = Duration::from_secs(1);

/// How often the shortest trip must be seen again. When it was not, less is sent for a moment, to see whether the way has
/// become longer or only the queue on it.
const TRIP_KEPT: Duration = Duration::from_secs(30);

/// The shortest time over which a rate is taken: what arrives in one reading of a socket has no rate.
const RATE_OVER_MIN: Duration = Duration::from_micros(500);

/// How long one piece of a payload keeps others from the stream.
const PIECE_TIME: Duration = Duration::from_millis(4);

/// The size of pieces before anything has been measured, and the least: two of ssh's packets.
const PIECE_BYTES_START: usize = 256 << 10;
const PIECE_BYTES_MIN: usize = 64 << 10;

/// How long one part of a file that is read ahead keeps others from the stream.
const PART_TIME: Duration = Duration::from_millis(8);

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
    WAIT_MIN.max(trip / 2)
}

/// What is on its way in one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    under_way: usize,
    /// All that has arrived.
    arrived: u64,
    arrived_at: Instant,
    /// When the last to arrive had been sent.
    sent_at: Instant,
    rate: Peak,
    /// The same, of what arrived while the link had enough to do: what it carries, and not what there was to carry.
    busy: Peak,
    /// Counts how often the flight was begun anew, so that what was sent before is not taken for arriving now.
    begun: u64,
}

/// What was known when something was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Departure {
    bytes: usize,
    at: Instant,
    arrived: u64,
    arrived_at: Instant,
    sent_at: Instant,
    /// Whether the link had enough to do.
    was_busy: bool,
    begun: u64,
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
    pub(super) fn new(now: Instant) -> Flight {
        let rate = Peak::new(now);
        Flight { under_way: 0, arrived: 0, arrived_at: now, sent_at: now, rate, busy: rate, begun: 0 }
    }

    /// Another stream: what was under way is not any more.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        *self = Flight { begun: self.begun + 1, ..Flight::new(now) };
    }

    /// So much has been sent, or asked for.
    pub(super) fn departs(&mut self, bytes: usize, trip: &Trip, now: Instant) -> Departure {
        if self.under_way == 0 {
            (self.arrived_at, self.sent_at) = (now, now);
        }
        self.under_way += bytes;
        let was_busy = self.under_way * 2 >= self.room(trip);
        let Flight { arrived, arrived_at, sent_at, begun, .. } = *self;
        Departure { bytes, at: now, arrived, arrived_at, sent_at, was_busy, begun }
    }

    /// It has arrived.
    pub(super) fn arrives(&mut self, departure: &Departure, now: Instant) {
        if departure.begun != self.begun {
            return;
        }
        self.under_way = self.under_way.saturating_sub(departure.bytes);
        self.arrived += departure.bytes as u64;
        self.arrived_at = now;
        self.sent_at = self.sent_at.max(departure.at);
        // The slower of sending and arriving: a peer that was held up hands out much at once afterwards.
        let arriving = now.saturating_duration_since(departure.arrived_at);
        let sending = departure.at.saturating_duration_since(departure.sent_at);
        let time = arriving.max(sending);
        if time < RATE_OVER_MIN {
            return;
        }
        let rate = per_second(self.arrived - departure.arrived, time);
        if departure.was_busy || rate > self.rate.get() {
            self.rate.take(rate, now);
        }
        if departure.was_busy {
            self.busy.take(rate, now);
        }
    }

    /// How much should be on its way.
    pub(super) fn room(&self, trip: &Trip) -> usize {
        let (Some(least), rate @ 1..) = (trip.least, self.rate.get()) else { return ROOM_BYTES_START };
        // For a look at the trip, a little less than the link holds: the queue, if it is ours, goes away.
        let time = if trip.look.is_some() { least * 3 / 4 } else { least + wait(least) };
        bytes_in(rate, time).clamp(ROOM_BYTES_MIN, ROOM_BYTES_MAX)
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
        self.busy.get()
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
        let (up, down) = (Flight::new(now), Flight::new(now));
        Pace { trip: Trip::default(), up, down, brings: Peak::new(now), told: 0 }
    }

    /// Another stream: it may go another way.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.up.begin_anew(now);
        self.down.begin_anew(now);
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
