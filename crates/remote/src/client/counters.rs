//! What a link has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts that only grow, for `stead status` and for tests that count round trips.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: AtomicU64,
    pub(super) round_trips: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) frames_sent: AtomicU64,
    pub(super) frames_received: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    pub(super) bytes_received: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) streams: AtomicU64,
    pub(super) retries: AtomicU64,
}

/// The state of a link's counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests handed to the link.
    pub requests: u64,
    /// Requests whose last reply has arrived.
    pub round_trips: u64,
    /// Those of them that the machine refused.
    pub failures: u64,
    /// Frames written, of any kind.
    pub frames_sent: u64,
    /// Frames read, of any kind.
    pub frames_received: u64,
    /// Bytes written, with all that is around the payloads.
    pub bytes_sent: u64,
    /// Bytes read, with all that is around the payloads.
    pub bytes_received: u64,
    /// Changes and lost leases that the agent told.
    pub events: u64,
    /// How often there was a stream: once, and once more for each that was lost and replaced.
    pub streams: u64,
    /// Requests that were sent again on another stream.
    pub retries: u64,
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

impl Tally {
    pub(super) fn read(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            requests: read(&self.requests),
            round_trips: read(&self.round_trips),
            failures: read(&self.failures),
            frames_sent: read(&self.frames_sent),
            frames_received: read(&self.frames_received),
            bytes_sent: read(&self.bytes_sent),
            bytes_received: read(&self.bytes_received),
            events: read(&self.events),
            streams: read(&self.streams),
            retries: read(&self.retries),
        }
    }
}
