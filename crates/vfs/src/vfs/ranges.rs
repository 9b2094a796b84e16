//! What acts on ranges of open files: allocation, holes, copying, locks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Vfs;
use super::files::OpenFile;
use crate::errno::{Errno, Result};
use crate::file::{Allocation, Lock, LockFamily, LockKind, SeekFor};
use crate::source::{HandleId, Source};
use crate::table::{HeldLock, Ino, Write};

/// What attributes count as a block.
const BLOCK_BYTES: u64 = 512;

impl<S: Source> Vfs<S> {
    /// The handle, opened, with everything written to its file until now at the source.
    async fn settled(self: &Arc<Self>, handle: HandleId) -> Result<Arc<OpenFile>> {
        let open = self.open_file(handle)?;
        self.opened(&open).await?;
        open.file.behind.caught_up().await;
        Ok(open)
    }

    /// `fallocate(2)`.
    pub async fn allocate(
        self: &Arc<Self>,
        handle: HandleId,
        what: Allocation,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        let open = self.settled(handle).await?;
        self.record_done();
        let writing = self.begin_write(open.ino(), Write::Content);
        let entry = self.source.allocate(handle, what, offset, length).await?;
        writing.end(Some(entry.attributes));
        open.file.content_changed();
        Ok(())
    }

    /// `lseek(2)` for data or a hole.
    pub async fn seek(self: &Arc<Self>, handle: HandleId, offset: u64, what: SeekFor) -> Result<u64> {
        if let Some(size) = self.size_without_holes(handle)? {
            return match what {
                _ if offset >= size => Err(Errno::ENXIO),
                SeekFor::Data => Ok(offset),
                SeekFor::Hole => Ok(size),
            };
        }
        self.settled(handle).await?;
        self.source.seek(handle, offset, what).await
    }

    /// The size of a file whose content is here, if it has as many blocks as that takes.
    fn size_without_holes(&self, handle: HandleId) -> Result<Option<u64>> {
        let open = self.open_file(handle)?;
        let Some(content) = open.content_here() else { return Ok(None) };
        let size = content.len() as u64;
        let blocks = self.table.lock().last_attributes(open.ino())?.blocks;
        Ok((blocks.saturating_mul(BLOCK_BYTES) >= size).then_some(size))
    }

    /// `copy_file_range(2)`. Gives how much was copied.
    pub async fn copy_range(
        self: &Arc<Self>,
        from: (HandleId, u64),
        to: (HandleId, u64),
        length: u64,
    ) -> Result<u64> {
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
    pub async fn lock(self: &Arc<Self>, handle: HandleId, owner: u64, lock: Lock, wait: bool) -> Result<()> {
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
    pub async fn test_lock(
        self: &Arc<Self>,
        handle: HandleId,
        owner: u64,
        lock: Lock,
    ) -> Result<Option<(Lock, u32)>> {
        self.settled(handle).await?;
        self.source.test_lock(handle, owner, lock).await
    }
}
