//! Which locks of files are held, for a source that has to be asked for them again.

use std::collections::HashMap;

use crate::file::{Lock, LockFamily, LockKind};
use crate::source::HandleId;

use super::Ino;

/// A lock that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// The handle through which it was asked for. Those of `flock(2)` belong to it.
    pub handle: HandleId,
    /// Whose it is, of those of `fcntl(2)`.
    pub owner: u64,
    /// Never [`LockKind::Unlocked`].
    pub lock: Lock,
}

impl HeldLock {
    fn has_holder_of(&self, other: &HeldLock) -> bool {
        self.lock.family == other.lock.family
            && match self.lock.family {
                LockFamily::Flock => self.handle == other.handle,
                LockFamily::Posix => self.owner == other.owner,
            }
    }

    /// What of it is left when its holder has been given `other`.
    fn without(self, other: &HeldLock) -> impl Iterator<Item = HeldLock> {
        let (start, end) = (other.lock.start, other.lock.end);
        let is_hit = self.has_holder_of(other) && self.lock.start <= end && start <= self.lock.end;
        let part = move |start, end| HeldLock { lock: Lock { start, end, ..self.lock }, ..self };
        let before =
            (is_hit && self.lock.start < start).then(|| part(self.lock.start, start.saturating_sub(1)));
        let behind = (is_hit && self.lock.end > end).then(|| part(end.saturating_add(1), self.lock.end));
        let whole = (!is_hit).then_some(self);
        whole.into_iter().chain(before).chain(behind)
    }
}

/// The locks of all files.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    files: HashMap<Ino, Vec<HeldLock>>,
}

impl Locks {
    /// A lock was given, or given back.
    pub(crate) fn changed(&mut self, ino: Ino, change: HeldLock) {
        let held = self.files.entry(ino).or_default();
        let mut left: Vec<_> = held.drain(..).flat_map(|old| old.without(&change)).collect();
        if change.lock.kind != LockKind::Unlocked {
            left.push(change);
        }
        self.put(ino, left);
    }

    /// The kernel has given up the handle, and the file if `is_last`.
    pub(crate) fn closed(&mut self, ino: Ino, handle: HandleId, is_last: bool) {
        let Some(mut held) = self.files.remove(&ino) else { return };
        let ends =
            |held: &HeldLock| is_last || (held.handle == handle && held.lock.family == LockFamily::Flock);
        held.retain(|held| !ends(held));
        self.put(ino, held);
    }

    fn put(&mut self, ino: Ino, held: Vec<HeldLock>) {
        if held.is_empty() {
            self.files.remove(&ino);
        } else {
            self.files.insert(ino, held);
        }
    }

    pub(crate) fn has(&self, ino: Ino) -> bool {
        self.files.contains_key(&ino)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Ino, HeldLock)> {
        self.files.iter().flat_map(|(ino, held)| held.iter().map(|held| (*ino, *held)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: Ino = Ino(9);

    fn lock(family: LockFamily, kind: LockKind, owner: u64, start: u64, end: u64) -> HeldLock {
        HeldLock { handle: HandleId(owner), owner, lock: Lock { family, kind, start, end } }
    }

    fn held(locks: &Locks) -> Vec<(u64, u64, u64)> {
        let mut held: Vec<_> =
            locks.all().map(|(_, held)| (held.owner, held.lock.start, held.lock.end)).collect();
        held.sort_unstable();
        held
    }

    #[test]
    fn a_range_that_is_given_back_leaves_what_lies_around_it() {
        use LockFamily::Posix;
        let mut locks = Locks::default();
        locks.changed(INO, lock(Posix, LockKind::Shared, 1, 0, u64::MAX));
        locks.changed(INO, lock(Posix, LockKind::Shared, 2, 0, 9));
        locks.changed(INO, lock(Posix, LockKind::Unlocked, 1, 10, 19));
        assert_eq!(held(&locks), [(1, 0, 9), (1, 20, u64::MAX), (2, 0, 9)]);
        locks.changed(INO, lock(Posix, LockKind::Exclusive, 1, 5, 29));
        assert_eq!(held(&locks), [(1, 0, 4), (1, 5, 29), (1, 30, u64::MAX), (2, 0, 9)]);
        locks.changed(INO, lock(Posix, LockKind::Unlocked, 1, 0, u64::MAX));
        locks.changed(INO, lock(Posix, LockKind::Unlocked, 2, 0, u64::MAX));
        assert!(!locks.has(INO));
    }

    #[test]
    fn a_lock_of_an_open_file_ends_with_it() {
        let mut locks = Locks::default();
        locks.changed(INO, lock(LockFamily::Flock, LockKind::Exclusive, 1, 0, u64::MAX));
        locks.changed(INO, lock(LockFamily::Posix, LockKind::Shared, 1, 0, 5));
        locks.closed(INO, HandleId(1), false);
        assert_eq!(held(&locks), [(1, 0, 5)]);
        locks.closed(INO, HandleId(2), true);
        assert!(!locks.has(INO));
    }
}
