//! Files and directories kept open between calls, since the protocol has no open.
//!
//! ```text
//!            hold                     last user gone
//!   absent ───────► opening ─► open ◄───────────────► in use
//!                                │  idle too long, or the longest idle of too many
//!                                ▼
//!                             synced, then closed      a lost write is kept for the next COMMIT
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::OnceCell;
use vfs::Vfs;
use vfs::errno::{Errno, Result};
use vfs::file::{FileId, OpenFlags};
use vfs::source::{HandleId, Source};
use vfs::table::Ino;

use super::limits::{IDLE_MAX, IDLE_PINNED_MAX, LOST_WRITES_MAX, OPEN_DIRECTORIES_MAX, OPEN_FILES_MAX};

/// What a file is open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum For {
    /// Reading.
    Reading,
    /// Writing.
    Writing,
}

type Key = (Ino, For);

/// One open file. Closed when the last reference goes.
pub struct OpenFile<S: Source> {
    vfs: Arc<Vfs<S>>,
    handle: OnceCell<HandleId>,
    used: Mutex<Instant>,
    /// Written to since the last sync.
    unsynced: AtomicBool,
    /// It could not be opened again.
    pinned: AtomicBool,
}

impl<S: Source> OpenFile<S> {
    fn new(vfs: &Arc<Vfs<S>>, handle: OnceCell<HandleId>) -> Arc<OpenFile<S>> {
        let (unsynced, pinned) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(OpenFile { vfs: vfs.clone(), handle, used: Mutex::new(Instant::now()), unsynced, pinned })
    }

    /// The handle in `vfs`. The file must have been given out by [`OpenFiles`].
    pub fn handle(&self) -> HandleId {
        *self.handle.get().expect("given out only once it is open")
    }

    /// Bytes have been given to `vfs` that are not synced.
    pub fn written(&self) {
        self.unsynced.store(true, Ordering::Release);
    }

    /// Syncs what was written.
    pub async fn sync(&self, data_only: bool) -> Result<()> {
        // Before, not after: a write that comes meanwhile must not be forgotten.
        self.unsynced.store(false, Ordering::Release);
        let synced = self.vfs.sync(self.handle(), data_only).await;
        if synced.is_err() {
            self.written();
        }
        synced
    }

    fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.used.lock())
    }

    fn is_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::Acquire)
    }

    fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Acquire)
    }
}

impl<S: Source> Drop for OpenFile<S> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.get() {
            self.vfs.release(*handle);
        }
    }
}

/// The files kept open.
pub struct OpenFiles<S: Source> {
    vfs: Arc<Vfs<S>>,
    files: Mutex<HashMap<Key, Arc<OpenFile<S>>>>,
    /// Errors of writes whose file is closed, not yet told to anybody.
    lost: Mutex<HashMap<FileId, Errno>>,
}

impl<S: Source> OpenFiles<S> {
    /// None.
    pub fn new(vfs: Arc<Vfs<S>>) -> OpenFiles<S> {
        OpenFiles { vfs, files: Mutex::default(), lost: Mutex::default() }
    }

    /// The file, opened if it is not.
    pub async fn hold(&self, ino: Ino, purpose: For) -> Result<Arc<OpenFile<S>>> {
        let key = (ino, purpose);
        let file = {
            let mut files = self.files.lock();
            files.entry(key).or_insert_with(|| OpenFile::new(&self.vfs, OnceCell::new())).clone()
        };
        let flags = match purpose {
            For::Reading => OpenFlags { read: true, ..OpenFlags::default() },
            For::Writing => OpenFlags { write: true, ..OpenFlags::default() },
        };
        let open = async || self.vfs.open(ino, flags).await.map(|opened| opened.handle);
        if let Err(errno) = file.handle.get_or_try_init(open).await {
            let mut files = self.files.lock();
            if files.get(&key).is_some_and(|known| Arc::ptr_eq(known, &file) && !known.handle.initialized()) {
                files.remove(&key);
            }
            return Err(errno);
        }
        *file.used.lock() = Instant::now();
        self.make_room().await;
        Ok(file)
    }

    /// The file, if it is open.
    pub fn open(&self, ino: Ino, purpose: For) -> Option<Arc<OpenFile<S>>> {
        let file = self.files.lock().get(&(ino, purpose)).cloned()?;
        file.handle.initialized().then_some(file)
    }

    /// Keeps a file that was just made, open for writing.
    pub async fn keep(&self, ino: Ino, handle: HandleId) {
        let file = OpenFile::new(&self.vfs, OnceCell::new_with(Some(handle)));
        let replaced = self.files.lock().insert((ino, For::Writing), file);
        drop(replaced);
        self.make_room().await;
    }

    /// The file's owner can no longer open it: what is open stays so for longer.
    pub fn pin(&self, ino: Ino) {
        for purpose in [For::Reading, For::Writing] {
            if let Some(file) = self.open(ino, purpose) {
                file.pinned.store(true, Ordering::Release);
            }
        }
    }

    /// The file has no name any more: it need not be kept for clients, whose kernels rename what they have open.
    pub fn let_go(&self, ino: Ino) {
        let mut files = self.files.lock();
        let gone = [files.remove(&(ino, For::Reading)), files.remove(&(ino, For::Writing))];
        drop(files);
        drop(gone);
    }

    /// The error of a write to a file that has been closed since. Told once.
    pub fn lost(&self, file: FileId) -> Option<Errno> {
        self.lost.lock().remove(&file)
    }

    async fn make_room(&self) {
        while let Some((key, file)) = self.longest_idle() {
            self.settle(key, file).await;
        }
    }

    /// The file to close when there are too many.
    fn longest_idle(&self) -> Option<(Key, Arc<OpenFile<S>>)> {
        let files = self.files.lock();
        if files.len() <= OPEN_FILES_MAX {
            return None;
        }
        let now = Instant::now();
        let unused = files.iter().filter(|(_, file)| Arc::strong_count(file) == 1);
        let longest = unused.max_by_key(|(_, file)| (!file.is_pinned(), file.idle(now)));
        longest.map(|(key, file)| (*key, file.clone()))
    }

    /// Closes what nobody has used for a while.
    pub async fn sweep(&self, now: Instant) {
        let expired: Vec<_> = {
            let files = self.files.lock();
            let limit = |file: &OpenFile<S>| if file.is_pinned() { IDLE_PINNED_MAX } else { IDLE_MAX };
            let expired = files.iter().filter(|(_, file)| file.idle(now) >= limit(file));
            expired.map(|(key, file)| (*key, file.clone())).collect()
        };
        for (key, file) in expired {
            self.settle(key, file).await;
        }
    }

    /// Syncs the file, then closes it if nobody came for it meanwhile.
    async fn settle(&self, key: Key, file: Arc<OpenFile<S>>) {
        if file.is_unsynced()
            && let Err(errno) = file.sync(true).await
        {
            tracing::warn!(ino = key.0.0, %errno, "a write was lost; the next COMMIT says so");
            let mut lost = self.lost.lock();
            if let Ok(id) = self.vfs.id(key.0)
                && lost.len() < LOST_WRITES_MAX
            {
                lost.insert(id, errno);
            }
        }
        let mut files = self.files.lock();
        // The table's reference and ours.
        if Arc::strong_count(&file) <= 2 && files.get(&key).is_some_and(|known| Arc::ptr_eq(known, &file)) {
            files.remove(&key);
        }
    }

    /// Syncs and closes everything.
    pub async fn close_all(&self) {
        let all: Vec<_> = self.files.lock().iter().map(|(key, file)| (*key, file.clone())).collect();
        for (key, file) in all {
            self.settle(key, file).await;
        }
    }
}

struct IdleDirectory {
    /// Where the next READDIR of this stream goes on.
    position: (Ino, u64),
    handle: HandleId,
    since: Instant,
}

/// Directory streams between the calls that read them.
pub struct OpenDirectories<S: Source> {
    vfs: Arc<Vfs<S>>,
    idle: Mutex<Vec<IdleDirectory>>,
}

/// A directory stream, closed unless it is given to [`OpenDirectories::keep`].
pub struct OpenDirectory<S: Source> {
    vfs: Arc<Vfs<S>>,
    ino: Ino,
    handle: HandleId,
    kept: bool,
}

impl<S: Source> OpenDirectory<S> {
    /// The handle in `vfs`.
    pub fn handle(&self) -> HandleId {
        self.handle
    }
}

impl<S: Source> Drop for OpenDirectory<S> {
    fn drop(&mut self) {
        if !self.kept {
            self.vfs.release_directory(self.handle);
        }
    }
}

impl<S: Source> OpenDirectories<S> {
    /// None.
    pub fn new(vfs: Arc<Vfs<S>>) -> OpenDirectories<S> {
        OpenDirectories { vfs, idle: Mutex::default() }
    }

    /// A stream that can go on behind `cookie`: one that stopped there, or a new one.
    pub async fn at(&self, ino: Ino, cookie: u64) -> Result<OpenDirectory<S>> {
        let found = {
            let mut idle = self.idle.lock();
            let at = idle.iter().position(|directory| cookie != 0 && directory.position == (ino, cookie));
            at.map(|at| idle.swap_remove(at).handle)
        };
        let handle = match found {
            Some(handle) => handle,
            None => self.vfs.open_directory(ino).await?.handle,
        };
        Ok(OpenDirectory { vfs: self.vfs.clone(), ino, handle, kept: false })
    }

    /// Keeps a stream that has stopped behind `cookie`.
    pub fn keep(&self, mut directory: OpenDirectory<S>, cookie: u64) {
        directory.kept = true;
        let position = (directory.ino, cookie);
        let mut idle = self.idle.lock();
        idle.push(IdleDirectory { position, handle: directory.handle, since: Instant::now() });
        let surplus = (idle.len() > OPEN_DIRECTORIES_MAX).then(|| oldest(&idle));
        let surplus = surplus.flatten().map(|at| idle.swap_remove(at));
        drop(idle);
        if let Some(surplus) = surplus {
            self.vfs.release_directory(surplus.handle);
        }
    }

    /// Closes what nobody has gone on with for a while.
    pub fn sweep(&self, now: Instant) {
        let mut expired = Vec::new();
        self.idle.lock().retain(|directory| {
            let keep = now.saturating_duration_since(directory.since) < IDLE_MAX;
            if !keep {
                expired.push(directory.handle);
            }
            keep
        });
        expired.into_iter().for_each(|handle| self.vfs.release_directory(handle));
    }

    /// Closes everything.
    pub fn close_all(&self) {
        let all = std::mem::take(&mut *self.idle.lock());
        all.into_iter().for_each(|directory| self.vfs.release_directory(directory.handle));
    }
}

fn oldest(idle: &[IdleDirectory]) -> Option<usize> {
    (0..idle.len()).min_by_key(|at| idle[*at].since)
}
