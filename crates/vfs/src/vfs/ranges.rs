//! What acts on ranges of open files: allocation, holes, copying, locks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Vfs;
use super::files::OpenFile;
use crate::errno::{Errno, Result};
use crate::file::{Allocation, Lock, LockFamily, LockKind, SeekFor};
use crate::source::{HandleId, Source};
use crate::table::{HeldLock, Ino, Write};

impl<S: Source> Vfs<S> {
    /// The handle, opened, with everything written to its file until now at the source.
    async fn settled(&self, handle: HandleId) -> Result<Arc<OpenFile>> {
        let open = self.open_file(handle)?;
        open.opening.get().await?;
        open.file.behind.caught_up().await;
        Ok(open)
    }

    /// `fallocate(2)`.
    pub async fn allocate(&self, handle: HandleId, what: Allocation, offset: u64, length: u64) -> Result<()> {
        let open = self.settled(handle).await?;
        self.record_done();
        let writing = self.begin_write(open.ino(), Write::Content);
        let entry = self.source.allocate(handle, what, offset, length).await?;
        writing.end(Some(entry.attributes));
        open.file.content_changed();
        Ok(())
    }

    /// `lseek(2)` for data or a hole.
    pub async fn seek(&self, handle: HandleId, offset: u64, what: SeekFor) -> Result<u64> {
        self.settled(handle).await?;
        self.source.seek(handle, offset, what).await
    }

    /// `copy_file_range(2)`. Gives how much was copied.
    pub async fn copy_range(&self, from: (HandleId, u64), to: (HandleId, u64), length: u64) -> Result<u64> {
        self.settled(from.0).await?;
        let open = self.settled(to.0).await?;
        self.record_done();
        let writing = self.begin_write(open.ino(), Write::Content);
        let written = self.source.copy_range(from, to, length).await?;
        writing.end(Some(written.attributes));
        open.file.content_changed();
        if written.bytes > length {
            return Err(Errno::EIO);
        }
        Ok(written.bytes)
    }

    /// `flock(2)` or `fcntl(2)` with `F_SETLK` or, with `wait`, `F_SETLKW`. Dropping the future ends the wait.
    pub async fn lock(&self, handle: HandleId, owner: u64, lock: Lock, wait: bool) -> Result<()> {
        let open = self.settled(handle).await?;
        if lock.family == LockFamily::Posix && lock.kind != LockKind::Unlocked {
            open.file.locked.store(true, Ordering::Release);
        }
        if lock.family == LockFamily::Flock {
            open.flocked.store(true, Ordering::Release);
        }
        self.source.lock(handle, owner, lock, wait).await?;
        self.lock_changed(open.ino(), HeldLock { handle, owner, lock });
        Ok(())
    }

    /// Records what locks are held.
    pub(super) fn lock_changed(&self, ino: Ino, change: HeldLock) {
        if let Some(ledger) = self.table.lock().ledger_mut() {
            ledger.lock_changed(ino, change);
        }
    }

    /// `fcntl(2)` with `F_GETLK`: the lock in the way, and its process where known.
    pub async fn test_lock(&self, handle: HandleId, owner: u64, lock: Lock) -> Result<Option<(Lock, u32)>> {
        self.settled(handle).await?;
        self.source.test_lock(handle, owner, lock).await
    }
}
