//! Writing behind: what has been answered and is not yet at the source, writes and changes of attributes.
//!
//! One [`Behind`] per open file, shared by its handles. Writes to different ranges go to the source side by side; one that
//! overlaps another waits for it, so that the later wins. A change of attributes and whatever comes after it keep their
//! order: the later of the two is sent while the earlier is under way only if the source has [queued](Behind::queued) that
//! for the same handle, since what is asked of one handle is carried out in its order; else it waits. What was sent behind
//! another ends after it. An error is kept until every handle that was open has been told, once.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::errno::Errno;
use crate::file::ThreadId;
use crate::source::HandleId;

/// Changes of one file under way at once. Enough to fill a link with 4 KiB writes; a bound on tasks.
const CHANGES_MAX: usize = 1024;

/// Bytes taken and not yet written, over all files of a mount. 90 MB/s at 200 ms are 18 MB.
pub(crate) const UNWRITTEN_BYTES_MAX: usize = 32 << 20;

/// What is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The content from the first to before the second offset. An end of [`u64::MAX`] is not known.
    Content(u64, u64),
    Attributes,
    /// The making of the file, before anything else of it.
    Creation,
}

impl Extent {
    /// Whether the order of the two counts.
    fn conflicts(self, other: Extent) -> bool {
        match (self, other) {
            (Extent::Content(start, end), Extent::Content(from, to)) => start < to && from < end,
            _ => true,
        }
    }

    fn is_content(self) -> bool {
        matches!(self, Extent::Content(..))
    }

    /// Whether who reads or writes it has to wait for the other.
    fn shows(self, other: Extent) -> bool {
        self != Extent::Attributes && self.conflicts(other)
    }
}

/// A change, by whom and through what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) extent: Extent,
    pub(crate) handle: HandleId,
    pub(crate) writer: ThreadId,
}

#[derive(Clone, Copy, Debug)]
struct Begun {
    number: u64,
    change: Change,
    /// What is asked of its handle from now on is carried out after it.
    is_queued: bool,
}

impl Begun {
    /// Whether a later change has to wait before it is sent.
    fn holds_up(&self, later: &Change) -> bool {
        let Change { extent, handle, .. } = self.change;
        let are_contents = extent.is_content() && later.extent.is_content();
        let is_in_line = self.is_queued && handle == later.handle && !are_contents;
        extent.conflicts(later.extent) && !is_in_line
    }
}

#[derive(Debug, Default)]
struct State {
    /// Under way, unordered.
    changes: Vec<Begun>,
    /// Number of the last change taken.
    begun: u64,
    /// Number of the last error and the error.
    failed: Option<(u64, Errno)>,
    failures: u64,
}

impl State {
    fn take(&mut self, change: Change) -> Taken {
        self.begun += 1;
        self.changes.push(Begun { number: self.begun, change, is_queued: false });
        Taken(self.begun)
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    state: Mutex<State>,
    moved: Notify,
}

/// A change that was taken, to be given back by [`Behind::end`].
#[derive(Clone, Copy, Debug)]
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

    /// Waits until the change may be sent and there is room, then takes it.
    pub(crate) async fn begin(&self, change: Change) -> Taken {
        loop {
            let moved = self.moved.notified();
            {
                let mut state = self.state.lock();
                let waits = state.changes.iter().any(|begun| begun.holds_up(&change));
                if !waits && state.changes.len() < CHANGES_MAX {
                    return state.take(change);
                }
            }
            moved.await;
        }
    }

    /// Takes a change behind others that it may not overtake, whatever there is room for: one that was taken before.
    /// [`Behind::turn`] waits for it.
    pub(crate) fn inherit(&self, change: Change) -> Taken {
        self.state.lock().take(change)
    }

    /// The source carries out after this what is asked of its handle from now on.
    pub(crate) fn queued(&self, taken: Taken) {
        let mut state = self.state.lock();
        if let Some(begun) = state.changes.iter_mut().find(|begun| begun.number == taken.0) {
            begun.is_queued = true;
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// Waits until nothing is under way that was taken before this and may not come after it.
    pub(crate) async fn turn(&self, taken: Taken) {
        loop {
            let moved = self.moved.notified();
            {
                let state = self.state.lock();
                let Some(own) = state.changes.iter().find(|begun| begun.number == taken.0) else { return };
                let is_before = |begun: &Begun| {
                    begun.number < own.number && begun.change.extent.conflicts(own.change.extent)
                };
                if !state.changes.iter().any(is_before) {
                    return;
                }
            }
            moved.await;
        }
    }

    /// Changes under way.
    pub(crate) fn under_way(&self) -> usize {
        self.state.lock().changes.len()
    }

    /// Where the content ends at least when all that is under way is over; `None` where the source decides.
    pub(crate) fn reaches(&self) -> Option<u64> {
        let state = self.state.lock();
        let mut ends = state.changes.iter().map(|begun| match begun.change.extent {
            Extent::Content(_, u64::MAX) => None,
            Extent::Content(_, end) => Some(end),
            Extent::Attributes | Extent::Creation => Some(0),
        });
        ends.try_fold(0, |most: u64, end| Some(most.max(end?)))
    }

    /// Gives a change back.
    pub(crate) fn end(&self, taken: Taken, outcome: Result<(), Errno>) {
        let mut state = self.state.lock();
        state.changes.retain(|begun| begun.number != taken.0);
        if let Err(errno) = outcome {
            state.failures += 1;
            state.failed = Some((state.failures, errno));
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// Whether the file is not made yet, as far as is known.
    pub(crate) fn is_expected(&self) -> bool {
        let is_creation = |begun: &Begun| begun.change.extent == Extent::Creation;
        self.state.lock().changes.first().is_some_and(is_creation)
    }

    /// Whether content is under way.
    pub(crate) fn has_content(&self) -> bool {
        self.state.lock().changes.iter().any(|begun| begun.change.extent.is_content())
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.state.lock().changes.is_empty()
    }

    /// Whose changes are under way, each as often as it comes.
    pub(crate) fn writers(&self) -> Vec<ThreadId> {
        self.state.lock().changes.iter().map(|begun| begun.change.writer).collect()
    }

    /// Waits until every change that has been taken by now is over.
    pub(crate) async fn caught_up(&self) {
        self.until_over(self.taken(), |_| true).await;
    }

    /// How many changes have been taken.
    pub(crate) fn taken(&self) -> u64 {
        self.state.lock().begun
    }

    /// Waits until the first `taken` changes are over.
    pub(crate) async fn caught_up_to(&self, taken: u64) {
        self.until_over(taken, |_| true).await;
    }

    /// Waits until every write to the range that has been taken by now is over. Later ones are not waited for: a steady
    /// writer would hold a reader up for ever.
    pub(crate) async fn caught_up_in(&self, start: u64, end: u64) {
        let range = Extent::Content(start, end);
        self.until_over(self.taken(), |extent| extent.shows(range)).await;
    }

    async fn until_over(&self, taken: u64, is_waited_for: impl Fn(Extent) -> bool) {
        loop {
            let moved = self.moved.notified();
            let is_before = |begun: &Begun| begun.number <= taken && is_waited_for(begun.change.extent);
            if !self.state.lock().changes.iter().any(is_before) {
                return;
            }
            moved.await;
        }
    }
}
