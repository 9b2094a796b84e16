//! Locks that are held while something takes its time, in an order: nobody waits for one while holding one that comes later.
//!
//! ```text
//!  Images ──► Vm ──► Names ──► locks that are held across no `await`
//! ```
//!
//! A microVM's task is the lock of that microVM: whoever gives it an order waits for its turn, and whoever has it lent holds it.
//!
//! In builds with `debug_assertions`, which tests are, taking one out of order is a panic, whether it would have come to a
//! deadlock or not. A lock belongs to the task that took it, also when its guard is given to another one.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

/// The locks, the first to be taken first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The turn of those who make or remove an image, each for as long as that takes: minutes. It comes first, so that a microVM
    /// of which an image is to be made can be used until it is that image's turn.
    Images,
    /// One microVM. Nobody has two of them.
    Vm,
    /// Which microVMs use which images: held while an image is removed, or while a microVM that uses it becomes known.
    Names,
}

/// A lock with its place in the order.
#[derive(Debug, Clone)]
pub struct Ordered {
    rank: Rank,
    inner: Arc<Mutex<()>>,
}

/// A lock that is held.
#[derive(Debug)]
pub struct Guard {
    _inner: OwnedMutexGuard<()>,
    _held: Held,
}

impl Ordered {
    /// Held by nobody.
    pub fn new(rank: Rank) -> Ordered {
        Ordered { rank, inner: Arc::default() }
    }

    /// Waits for it.
    pub async fn lock(&self) -> Guard {
        let held = Held::enter(self.rank);
        Guard { _inner: Arc::clone(&self.inner).lock_owned().await, _held: held }
    }

    /// Takes it if nobody holds it. Does not wait, and so may be tried out of order.
    pub fn try_lock(&self) -> Option<Guard> {
        let inner = Arc::clone(&self.inner).try_lock_owned().ok()?;
        Some(Guard { _inner: inner, _held: Held::note(self.rank) })
    }
}

/// That the calling task holds a lock of this rank, or waits for it.
#[derive(Debug)]
pub struct Held {
    #[cfg(debug_assertions)]
    entry: Option<(tokio::task::Id, Rank)>,
}

#[cfg(not(debug_assertions))]
impl Held {
    /// Before it is waited for.
    pub fn enter(_: Rank) -> Held {
        Held {}
    }

    fn note(_: Rank) -> Held {
        Held {}
    }
}

#[cfg(debug_assertions)]
mod checked {
    use std::collections::HashMap;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use tokio::task::{Id, try_id};

    use super::{Held, Rank};

    /// What each task holds or waits for. A leaf.
    static HELD: Mutex<Option<HashMap<Id, Vec<Rank>>>> = Mutex::new(None);

    /// It is changed in single steps, so that a panic leaves nothing half done.
    fn all() -> MutexGuard<'static, Option<HashMap<Id, Vec<Rank>>>> {
        HELD.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Held {
        /// Before it is waited for.
        pub fn enter(rank: Rank) -> Held {
            if let Some(id) = try_id() {
                let held = all().as_ref().and_then(|tasks| tasks.get(&id).cloned()).unwrap_or_default();
                let later = held.iter().find(|held| **held >= rank);
                assert!(later.is_none(), "{rank:?} is waited for by somebody who holds {later:?}");
            }
            Held::note(rank)
        }

        pub(super) fn note(rank: Rank) -> Held {
            let entry = try_id().map(|id| (id, rank));
            if let Some((id, rank)) = entry {
                all().get_or_insert_default().entry(id).or_default().push(rank);
            }
            Held { entry }
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let Some((id, rank)) = self.entry else { return };
            let mut held = all();
            let Some(tasks) = held.as_mut() else { return };
            if let Some(of_task) = tasks.get_mut(&id) {
                if let Some(at) = of_task.iter().rposition(|held| *held == rank) {
                    of_task.remove(at);
                }
                if of_task.is_empty() {
                    tasks.remove(&id);
                }
            }
        }
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    /// Whether a task that takes these, in this order, is stopped.
    async fn is_refused(ranks: &'static [Rank]) -> bool {
        let taking = tokio::spawn(async move {
            let mut guards = Vec::new();
            for rank in ranks {
                guards.push(Ordered::new(*rank).lock().await);
            }
        });
        taking.await.is_err_and(|error| error.is_panic())
    }

    #[tokio::test]
    async fn a_lock_out_of_order_is_a_panic() {
        use Rank::{Images, Names, Vm};
        assert!(!is_refused(&[Images, Vm, Names]).await);
        assert!(!is_refused(&[Images, Names]).await);
        for wrong in [&[Vm, Images][..], &[Names, Vm], &[Vm, Vm], &[Images, Names, Vm]] {
            assert!(is_refused(wrong).await, "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn what_is_given_back_is_not_held_any_more_wherever_that_happens() {
        let (images, names) = (Ordered::new(Rank::Images), Ordered::new(Rank::Names));
        let taking = tokio::spawn(async move {
            drop(names.lock().await);
            let alone = images.lock().await;
            let given = tokio::spawn(async move { drop(alone) });
            given.await.expect("it is dropped there");
            drop(images.lock().await);
            let later = names.lock().await;
            let tried = images.try_lock();
            (later, tried.is_some())
        });
        assert!(taking.await.expect("it is in order").1);
    }
}
