//! Files that have lost their last name, and what is done besides answering.
//!
//! ```text
//!  unlinked ──► unnamed ──FORGET──► departed ──the kernel does not know it──► gone
//!                  ▲                    │
//!                  └──it still does─────┘
//! ```
//!
//! A file without a name stays as long as the kernel has it: somebody has it open, or works in it. FORGET says that the kernel has
//! let go of it, but may be late, and of a time before; and one that a dead process had taken comes never. So the kernel is asked
//! whether it still has the file, by telling it that the attributes are old: an answer of no is final, since nothing leads to
//! the file any more. A successor asks for all there are.
//!
//! That is a thread's own work, which answers no requests: the kernel may wait for one while it lets go of a file.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use store::node::Ino;

use super::Serving;
use crate::fuse::device::Device;
use crate::fuse::notify::{self, Effect, Notice};

/// How often names are synced: what a power cut takes of them.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Departed files are let go at once when there are so many: they take room on the disk.
const DEPARTED_MANY: usize = 1024;

/// When nothing was asked for so many intervals, there is time to look for contents that nobody names.
const IDLE_INTERVALS: u32 = 5;

/// See the module's documentation. There are as many as the kernel has files without a name.
#[derive(Debug)]
pub(super) struct Departed {
    device: Arc<Device>,
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Debug, Default)]
struct State {
    unnamed: HashSet<Ino>,
    departed: HashSet<Ino>,
    is_over: bool,
}

impl Departed {
    /// These have no name already.
    pub(super) fn new(device: Arc<Device>, unnamed: &[Ino]) -> Departed {
        let state = State { unnamed: unnamed.iter().copied().collect(), ..State::default() };
        Departed { device, state: Mutex::new(state), woken: Condvar::new() }
    }

    /// A file has lost its last name, or has none yet.
    pub(super) fn unnamed(&self, ino: Ino) {
        self.state.lock().unnamed.insert(ino);
    }

    /// A file has a name, or is not there.
    pub(super) fn gone(&self, files: &[Ino]) {
        let mut state = self.state.lock();
        for ino in files {
            state.unnamed.remove(ino);
            state.departed.remove(ino);
        }
    }

    /// The kernel has let go of these, at some time.
    pub(super) fn forgotten(&self, files: impl Iterator<Item = Ino>) {
        let mut state = self.state.lock();
        if state.unnamed.is_empty() {
            return;
        }
        let unnamed = std::mem::take(&mut state.unnamed);
        state.departed.extend(files.filter(|ino| unnamed.contains(ino)));
        state.unnamed = unnamed;
        if state.departed.len() >= DEPARTED_MANY {
            self.woken.notify_one();
        }
    }

    /// It may have let go of any of these.
    pub(super) fn all(&self, files: &[Ino]) {
        self.forgotten(files.iter().copied());
    }

    /// Nobody serves any more.
    pub(super) fn end(&self) {
        self.state.lock().is_over = true;
        self.woken.notify_one();
    }

    /// Those that have departed by the end of an interval, or when there are many; `None` at the end.
    fn next(&self) -> Option<Vec<Ino>> {
        let mut state = self.state.lock();
        if !state.is_over && state.departed.len() < DEPARTED_MANY {
            self.woken.wait_for(&mut state, SYNC_INTERVAL);
        }
        (!state.is_over).then(|| state.departed.drain().collect())
    }

    /// Whether the kernel has the file. Not for a thread that answers requests.
    fn is_known(&self, ino: Ino) -> bool {
        // Where that cannot be found out, the file stays.
        !matches!(notify::write(&self.device, &Notice::Attributes { node: ino.0 }), Ok(Effect::Absent))
    }
}

/// Lets go of files that have departed, and syncs names, until nobody serves any more.
pub(super) fn tend(serving: &Serving) {
    let (mut asked, mut idle) = (0, Some(0));
    while let Some(departed) = serving.departed.next() {
        let gone: Vec<Ino> = departed.into_iter().filter(|ino| !serving.departed.is_known(*ino)).collect();
        if !gone.is_empty() {
            let_go(serving, &gone);
        }
        if serving.is_dirty.swap(false, Ordering::AcqRel)
            && let Err(error) = serving.thread.sync_names()
        {
            serving.dirty();
            serving.troubles.note(&error);
        }
        let asked_before = std::mem::replace(&mut asked, serving.tally.all().requests());
        idle = idle.map(|intervals| if asked == asked_before { intervals + 1 } else { 0 });
        if idle == Some(IDLE_INTERVALS) {
            idle = None;
            match serving.thread.sweep() {
                Ok(removed) => tracing::debug!(removed, "contents that nobody names"),
                Err(error) => serving.troubles.note(&error),
            }
        }
    }
    // The mount is gone, and with it whatever was open.
    let_go(serving, &serving.thread.unnamed());
    if let Err(error) = serving.thread.sync_names() {
        serving.troubles.note(&error);
    }
}

fn let_go(serving: &Serving, gone: &[Ino]) {
    gone.iter().for_each(|ino| serving.files.gone(*ino));
    match serving.thread.forget(gone) {
        Ok(()) => serving.departed.gone(gone),
        // They are without a name also for the next who opens the thread.
        Err(error) => return serving.troubles.note(&error),
    }
    serving.dirty();
}
