//! Turns that are waited for, and held while something takes its time, in an order: nobody waits for one while holding one that comes
//! later.
//!
//! ```text
//!  a place among those who make images ──► a microVM ──► its workspace ──► locks that are held across no `await`
//! ```
//!
//! A microVM's task is the lock of that microVM: whoever gives it an order waits for its turn, and whoever has it lent holds it. The
//! name of an image is not here: whoever wants one that is taken is refused, see [`crate::images`]. So is whoever wants a workspace that
//! somebody has, see [`crate::workspace`]; but whoever has one waits for no microVM, which may be waiting for a guest.
//!
//! In builds with `debug_assertions`, which tests are, waiting out of order is a panic, whether it would have come to a deadlock or
//! not. A turn belongs to the task that took it, also when it is given to another one.

/// What is waited for, the first to be taken first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A place among those who make images, each for as long as that takes: minutes. It comes first, so that a microVM of which an
    /// image is to be made can be used until there is one.
    Place,
    /// One microVM. Nobody has two of them.
    Vm,
    /// The workspace of one, for as long as a copy takes: minutes. It comes last, so that a microVM can be stopped meanwhile.
    Workspace,
}

/// That the calling task has a turn of this rank, or waits for it.
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

    /// When it was free, and is not waited for: that may be out of order.
    pub fn note(_: Rank) -> Held {
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

        /// When it was free, and is not waited for: that may be out of order.
        pub fn note(rank: Rank) -> Held {
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

    /// Whether a task that waits for these, in this order, is stopped.
    async fn is_refused(ranks: &'static [Rank]) -> bool {
        let taking = tokio::spawn(async move {
            let mut held = Vec::new();
            for rank in ranks {
                held.push(Held::enter(*rank));
            }
        });
        taking.await.is_err_and(|error| error.is_panic())
    }

    #[tokio::test]
    async fn a_turn_out_of_order_is_a_panic() {
        use Rank::{Place, Vm, Workspace};
        assert!(!is_refused(&[Place, Vm, Workspace]).await);
        for wrong in [
            &[Vm, Place][..],
            &[Vm, Vm],
            &[Place, Place],
            &[Place, Vm, Place],
            &[Workspace, Vm],
            &[Workspace, Workspace],
        ] {
            assert!(is_refused(wrong).await, "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn what_is_given_back_is_not_held_any_more_wherever_that_happens() {
        let taking = tokio::spawn(async {
            drop(Held::enter(Rank::Vm));
            let place = Held::enter(Rank::Place);
            let given = tokio::spawn(async move { drop(place) });
            given.await.expect("it is dropped there");
            drop(Held::enter(Rank::Place));
            let later = Held::enter(Rank::Vm);
            (later, Held::note(Rank::Place))
        });
        taking.await.expect("it is in order");
    }
}
