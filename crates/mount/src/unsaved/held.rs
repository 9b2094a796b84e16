//! Files that a replay is still to write to: nobody uses them through the mount before.
//!
//! ```text
//!  add ─► held ─► done ─► lifted: what was known of it is doubted, then whoever waits goes on
//! ```
//!
//! Once the mount serves no file is held any more that was not before: somebody may have it open.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use vfs::Vfs;
use vfs::file::FileId;

use crate::machine::Machine;

/// How long a file that is done with waits for others, so that what is known is doubted once for all of them.
const LIFT_INTERVAL: Duration = Duration::from_millis(200);

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Held {
    state: Mutex<State>,
    lifted: Notify,
    /// What shows them.
    vfs: OnceLock<Weak<Vfs<Machine>>>,
}

#[derive(Default)]
struct State {
    /// How many replays each of them waits for.
    files: HashMap<FileId, usize>,
    /// Which of them were at a path below the root.
    paths: HashMap<Box<[u8]>, Vec<FileId>>,
    done: Vec<FileId>,
    is_serving: bool,
}

impl Held {
    /// Holds files that are at these paths, unless the mount serves already.
    pub(super) fn add(&self, files: &[(FileId, Box<[u8]>)]) -> bool {
        let state = &mut *self.state.lock();
        if state.is_serving {
            return false;
        }
        for (id, path) in files {
            *state.files.entry(*id).or_default() += 1;
            state.paths.entry(path.clone()).or_default().push(*id);
        }
        true
    }

    /// From now on the mount serves, and this is what shows the files.
    pub(crate) fn serve(&self, vfs: &Arc<Vfs<Machine>>) {
        // There is one file system for a mount; the first stays.
        let _first = self.vfs.set(Arc::downgrade(vfs));
        self.close();
    }

    /// No file is held from now on that is not.
    pub(super) fn close(&self) {
        self.state.lock().is_serving = true;
    }

    /// One replay does nothing more about the file.
    pub(super) fn done(&self, id: FileId) {
        self.state.lock().done.push(id);
    }

    /// Lifts what is done.
    fn lift(&self) {
        let done = std::mem::take(&mut self.state.lock().done);
        if done.is_empty() {
            return;
        }
        // Whoever goes on sees what the files are now.
        if let Some(vfs) = self.vfs.get().and_then(Weak::upgrade) {
            vfs.leases_lost();
        }
        let files = &mut self.state.lock().files;
        for id in done {
            if let Some(waits_for) = files.get_mut(&id) {
                *waits_for -= 1;
                if *waits_for == 0 {
                    files.remove(&id);
                }
            }
        }
        self.lifted.notify_waiters();
    }

    /// Lifts what is done, again and again.
    pub(super) async fn keep_lifting(&self) {
        loop {
            tokio::time::sleep(LIFT_INTERVAL).await;
            self.lift();
        }
    }

    /// Lifts all.
    pub(super) fn lift_all(&self) {
        {
            let state = &mut *self.state.lock();
            let all = state.files.iter().flat_map(|(id, count)| std::iter::repeat_n(*id, *count));
            state.done = all.collect();
        }
        self.lift();
    }

    /// Whether any file is held.
    pub(crate) fn holds(&self) -> bool {
        !self.state.lock().files.is_empty()
    }

    /// Waits until the file is not held.
    pub(crate) async fn passed(&self, id: FileId) {
        self.wait(|state| !state.files.contains_key(&id)).await;
    }

    /// Waits until no file that was at this path is held.
    pub(crate) async fn passed_at(&self, directory: &[u8], name: &[u8]) {
        let path: Box<[u8]> = match directory {
            b"" => name.into(),
            _ => [directory, b"/", name].concat().into(),
        };
        let is_held =
            |state: &State| state.paths.get(&path)?.iter().find_map(|id| state.files.get(id)).copied();
        self.wait(|state| is_held(state).is_none()).await;
    }

    async fn wait(&self, has_passed: impl Fn(&State) -> bool) {
        loop {
            let mut lifted = std::pin::pin!(self.lifted.notified());
            lifted.as_mut().enable();
            if has_passed(&self.state.lock()) {
                return;
            }
            lifted.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(inode: u64) -> FileId {
        FileId { device: 1, inode, birth: 1 }
    }

    fn is_over(waiting: impl Future<Output = ()>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(waiting).poll(&mut context).is_ready()
    }

    #[test]
    fn a_file_is_held_until_all_replays_are_done_with_it() {
        let held = Held::default();
        let file = (id(1), Box::from(&b"d/f"[..]));
        assert!(held.add(&[file.clone(), (id(2), b"g"[..].into())]) && held.add(&[file]));
        assert!(is_over(held.passed(id(3))) && is_over(held.passed_at(b"d", b"g")));
        assert!(!is_over(held.passed(id(1))) && !is_over(held.passed_at(b"d", b"f")));
        held.done(id(1));
        held.lift();
        assert!(!is_over(held.passed(id(1))));
        held.done(id(1));
        assert!(!is_over(held.passed(id(1))), "it is lifted with others");
        held.lift();
        assert!(is_over(held.passed(id(1))) && !is_over(held.passed(id(2))));
        held.lift_all();
        assert!(is_over(held.passed(id(2))) && is_over(held.passed_at(b"", b"g")));
    }

    #[test]
    fn nothing_is_held_any_more_once_the_mount_serves() {
        let held = Held::default();
        held.close();
        assert!(!held.add(&[(id(1), b"f"[..].into())]));
        assert!(is_over(held.passed(id(1))));
    }
}
