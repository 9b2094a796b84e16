//! Requests that are carried out once, although they are asked twice.
//!
//! Who serves a thread dies at any instruction, and its successor is asked again whatever was not answered. So the record that
//! changes something says also for which request, and they are true together or not at all:
//!
//! ```text
//!  carry out ──► one record: the changes, and "request N, of file F; request M before it is answered" ──► answer
//!                                   ▲
//!  a successor is asked N again ────┘ [`Thread::carried_out`] says F: answer, and change nothing
//! ```
//!
//! Invariants:
//!
//! - A request that changes nothing, or is as good twice, is in no record.
//! - Of each of whoever carries requests out one after the other, the last stays: the next says that it was answered.
//! - When whatever a predecessor had not answered has been answered, [`Thread::all_answered`] lets go of the rest.

use std::cell::Cell;

use super::Thread;
use crate::Result;
use crate::names::change::Change;
use crate::node::Ino;

/// Who carries requests out, one after the other, each answered before the next.
#[derive(Debug, Default)]
pub struct Hand {
    /// The last that is in a record, or 0.
    recorded: u64,
}

/// A request that is being carried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) number: u64,
    /// The last of the same hand.
    pub(super) answered: u64,
    is_recorded: bool,
}

thread_local! {
    static CURRENT: Cell<Option<Request>> = const { Cell::new(None) };
}

/// What this thread of the process carries out, unless a record says so already.
pub(super) fn current() -> Option<Request> {
    CURRENT.get().filter(|request| !request.is_recorded)
}

/// A record says so.
pub(super) fn recorded() {
    CURRENT.set(CURRENT.get().map(|request| Request { is_recorded: true, ..request }));
}

impl Thread {
    /// Carries an operation out as part of a request: when it changes something it says so in the same record. The request's number is
    /// its asker's, never 0, and never of two requests until all are answered.
    pub fn carry_out<T>(&self, hand: &mut Hand, number: u64, operation: impl FnOnce(&Thread) -> T) -> T {
        struct Ended;
        impl Drop for Ended {
            fn drop(&mut self) {
                CURRENT.set(None);
            }
        }
        CURRENT.set(Some(Request { number, answered: hand.recorded, is_recorded: false }));
        let _ended = Ended;
        let outcome = operation(self);
        if CURRENT.get().is_some_and(|request| request.is_recorded) {
            hand.recorded = number;
        }
        outcome
    }

    /// The file that a request has made, or was about, if it was carried out and may not have been answered.
    pub fn carried_out(&self, request: u64) -> Option<Ino> {
        self.locked().state.names.unanswered().get(&request).copied()
    }

    /// Nobody asks again for what was carried out before. Hands begin anew.
    pub fn all_answered(&self) -> Result<()> {
        let mut locked = self.locked();
        if locked.state.names.unanswered().is_empty() {
            return Ok(());
        }
        locked.commit(vec![Change::AllAnswered])
    }
}
