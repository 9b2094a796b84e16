//! Writing behind: what has been taken from writers and is not yet at the source.
//!
//! One [`Behind`] per open file, shared by its handles. Writes to different ranges go to the source side by side; one that
//! overlaps another waits for it, so that the later wins. An error is kept until every handle that was open has been
//! told, once.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::errno::Errno;
use crate::file::ThreadId;

/// Writes of one file under way at once. Enough to fill a link with 4 KiB writes; a bound on tasks.
const WRITES_MAX: usize = 1024;

/// Bytes taken and not yet written, over all files of a mount. 90 MB/s at 200 ms are 18 MB.
pub(crate) const UNWRITTEN_BYTES_MAX: usize = 32 << 20;

#[derive(Clone, Copy, Debug)]
struct Range {
    number: u64,
    start: u64,
    end: u64,
    writer: ThreadId,
}

impl Range {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start < end && start < self.end
    }
}

#[derive(Debug, Default)]
struct State {
    /// Under way, unordered.
    ranges: Vec<Range>,
    /// Number of the last range taken.
    begun: u64,
    /// Number of the last error and the error.
    failed: Option<(u64, Errno)>,
    failures: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    state: Mutex<State>,
    written: Notify,
}

/// A range that was taken, to be given back by [`Behind::end`].
#[derive(Debug)]
pub(crate) struct Taken(u64);

/// Number of the last error that a handle has been told; handles start at the file's present number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told(u64);

impl Behind {
    /// For a new handle: what failed before it is not its business.
    pub(crate) fn told(&self) -> Told {
        Told(self.state.lock().failures)
    }

    /// The error the handle has not been told yet, if there is one.
    pub(crate) fn failure(&self, told: &mut Told) -> Result<(), Errno> {
        match self.state.lock().failed {
            Some((number, errno)) if number > told.0 => {
                told.0 = number;
                Err(errno)
            }
            _ => Ok(()),
        }
    }

    /// Waits until the range is free and there is room, then takes it.
    pub(crate) async fn begin(&self, start: u64, end: u64, writer: ThreadId) -> Taken {
        loop {
            let written = self.written.notified();
            {
                let mut state = self.state.lock();
                let overlaps = state.ranges.iter().any(|range| range.overlaps(start, end));
                if !overlaps && state.ranges.len() < WRITES_MAX {
                    state.begun += 1;
                    let number = state.begun;
                    state.ranges.push(Range { number, start, end, writer });
                    return Taken(number);
                }
            }
            written.await;
        }
    }

    /// Takes a range behind others that overlap it, whatever there is room for: of a write that was taken before.
    /// [`Behind::turn`] waits for it.
    pub(crate) fn inherit(&self, start: u64, end: u64) -> Taken {
        let mut state = self.state.lock();
        state.begun += 1;
        let number = state.begun;
        state.ranges.push(Range { number, start, end, writer: ThreadId::UNKNOWN });
        Taken(number)
    }

    /// Waits until no range that was taken before this one overlaps it.
    pub(crate) async fn turn(&self, taken: &Taken) {
        loop {
            let written = self.written.notified();
            {
                let state = self.state.lock();
                let Some(own) = state.ranges.iter().find(|range| range.number == taken.0) else { return };
                let is_before =
                    |range: &Range| range.number < own.number && range.overlaps(own.start, own.end);
                if !state.ranges.iter().any(is_before) {
                    return;
                }
            }
            written.await;
        }
    }

    /// Writes under way.
    pub(crate) fn under_way(&self) -> usize {
        self.state.lock().ranges.len()
    }

    /// Gives a range back.
    pub(crate) fn end(&self, taken: &Taken, outcome: Result<(), Errno>) {
        let mut state = self.state.lock();
        state.ranges.retain(|range| range.number != taken.0);
        if let Err(errno) = outcome {
            state.failures += 1;
            state.failed = Some((state.failures, errno));
        }
        drop(state);
        self.written.notify_waiters();
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.state.lock().ranges.is_empty()
    }

    /// Whose writes are under way, each as often as it comes.
    pub(crate) fn writers(&self) -> Vec<ThreadId> {
        self.state.lock().ranges.iter().map(|range| range.writer).collect()
    }

    /// Waits until every write that has been taken by now is over.
    pub(crate) async fn caught_up(&self) {
        self.caught_up_in(0, u64::MAX).await;
    }

    /// Waits until every write to the range that has been taken by now is over. Later ones are not waited for: a steady
    /// writer would hold a reader up for ever.
    pub(crate) async fn caught_up_in(&self, start: u64, end: u64) {
        let taken = self.state.lock().begun;
        loop {
            let written = self.written.notified();
            let is_before = |range: &Range| range.number <= taken && range.overlaps(start, end);
            if !self.state.lock().ranges.iter().any(is_before) {
                return;
            }
            written.await;
        }
    }
}
