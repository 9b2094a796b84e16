//! What `close(2)` and `fsync(2)` wait for.
//!
//! Those who ask for one file to be synced at one time share a request: the first is sent at once; who comes while it is
//! under way may have written after it was carried out, and waits for the next, together with all who come meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::files::OpenFile;
use super::{SyncMode, Vfs};
use crate::awaited::Awaited;
use crate::errno::{Errno, Result};
use crate::file::{Lock, LockFamily, LockKind, ThreadId};
use crate::source::{HandleId, Source, Target};
use crate::table::HeldLock;

/// A request for which several wait.
#[derive(Debug)]
struct Shared {
    handle: HandleId,
    data_only: bool,
    outcome: Arc<Awaited<Result<()>>>,
}

#[derive(Debug, Default)]
struct State {
    is_under_way: bool,
    next: Option<Shared>,
}

/// The syncs of one file.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    state: Mutex<State>,
}

impl Syncs {
    /// Joins those who wait for the next request. The second is whether the caller has to see to it that requests are
    /// sent.
    fn join(&self, handle: HandleId, data_only: bool) -> (Arc<Awaited<Result<()>>>, bool) {
        let mut state = self.state.lock();
        let next =
            state.next.get_or_insert_with(|| Shared { handle, data_only, outcome: Arc::new(Awaited::new()) });
        next.data_only &= data_only;
        // The last to come is the last to close.
        next.handle = handle;
        let outcome = next.outcome.clone();
        (outcome, !std::mem::replace(&mut state.is_under_way, true))
    }

    fn next(&self) -> Option<Shared> {
        let mut state = self.state.lock();
        let next = state.next.take();
        state.is_under_way = next.is_some();
        next
    }
}

impl<S: Source> Vfs<S> {
    /// The threads whose writes to the file are not at the source yet. Empty where a `close(2)` would not wait.
    pub fn writers(&self, handle: HandleId) -> Vec<ThreadId> {
        self.open_file(handle).map(|open| open.file.behind.writers()).unwrap_or_default()
    }

    /// What `close(2)` waits for, and no longer than `patience` when there is one; also gives back the POSIX locks of
    /// `lock_owner`.
    pub async fn flush(
        self: &Arc<Self>,
        handle: HandleId,
        lock_owner: u64,
        patience: Option<Duration>,
    ) -> Result<()> {
        let open = self.open_file(handle)?;
        if open.file.locked.load(Ordering::Acquire) {
            self.opened(&open).await?;
            self.source.release_locks(handle, lock_owner).await?;
            let lock = Lock { family: LockFamily::Posix, kind: LockKind::Unlocked, start: 0, end: u64::MAX };
            self.lock_changed(open.ino(), HeldLock { handle, owner: lock_owner, lock });
        }
        if self.options.sync == SyncMode::Async {
            return Ok(());
        }
        let caught_up = open.file.behind.caught_up();
        match patience {
            None => caught_up.await,
            Some(patience) if tokio::time::timeout(patience, caught_up).await.is_err() => return Ok(()),
            Some(_) => {}
        }
        self.behind_failure(&open)
    }

    /// `fsync(2)` or, with `data_only`, `fdatasync(2)`: everything written to the file until now is at the source, and on
    /// what it has for stable storage.
    pub async fn sync(self: &Arc<Self>, handle: HandleId, data_only: bool) -> Result<()> {
        let open = self.open_file(handle)?;
        self.opened(&open).await?;
        open.file.behind.caught_up().await;
        let (outcome, is_first) = open.file.syncs.join(handle, data_only);
        if is_first {
            self.sync_all(&open);
        }
        let synced = match outcome.get().await {
            // The handle that was used has been closed by who waited no longer.
            Err(Errno::EBADF) => self.source.sync(Target::Handle(handle), data_only).await,
            synced => synced,
        };
        self.behind_failure(&open)?;
        synced
    }

    /// Sends what is asked for, one request after the other, until nobody asks. On a task of its own: a caller may give up
    /// while others wait.
    fn sync_all(self: &Arc<Self>, open: &Arc<OpenFile>) {
        let (vfs, file) = (self.clone(), open.file.clone());
        tokio::spawn(async move {
            while let Some(Shared { handle, data_only, outcome }) = file.syncs.next() {
                let promise = outcome.promise(Err(Errno::EIO));
                promise.keep(vfs.source.sync(Target::Handle(handle), data_only).await);
            }
        });
    }
}
