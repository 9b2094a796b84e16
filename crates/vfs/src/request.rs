//! What a request is known by when it comes a second time.
//!
//! A kernel asks again what a server took and did not answer. A request that changes something is therefore sent to the
//! source under a [`Sequence`] that was chosen and recorded before: the source carries out what comes under one number
//! once, and answers it each time the same, until it is told that the number is [settled](crate::source::Source::settled).

use std::cell::Cell;
use std::future::Future;

use crate::source::HandleId;

/// The kernel's number of a request: the same when it asks again, and never that of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// The number under which the source carries out a change once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sequence(pub u64);

impl HandleId {
    /// The handle that a request opens, should it open one: the same when the kernel asks again, so that what a predecessor
    /// has opened for it is found.
    pub(crate) fn of_request(request: RequestId) -> HandleId {
        HandleId(request.0 << 1)
    }

    /// The handle with this number, of those that no request opens.
    pub(crate) fn of_number(number: u64) -> HandleId {
        HandleId(number << 1 | 1)
    }

    /// Its number, if no request opens it.
    pub(crate) fn number(self) -> Option<u64> {
        (self.0 & 1 == 1).then_some(self.0 >> 1)
    }
}

/// What was chosen for a request before it was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its change at the source.
    pub sequence: Sequence,
    /// A predecessor may have sent it: then what the source answers is what it answered then, and nothing to believe.
    pub is_repeat: bool,
}

/// What is done when a change has its place at the source.
pub(crate) type OnQueued = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Chosen {
    request: Option<RequestId>,
    sequence: Cell<Option<Sequence>>,
    is_repeat: bool,
    is_promised: bool,
    on_queued: Cell<Option<OnQueued>>,
}

tokio::task_local! {
    static CHOSEN: Chosen;
}

/// Carries `operation` out as the answer to `request`, with what was chosen for it. What it spawns is not part of it.
pub async fn answering<F: Future>(request: RequestId, slot: Option<Slot>, operation: F) -> F::Output {
    let chosen = Chosen {
        request: Some(request),
        sequence: Cell::new(slot.map(|slot| slot.sequence)),
        is_repeat: slot.is_some_and(|slot| slot.is_repeat),
        ..Chosen::default()
    };
    CHOSEN.scope(chosen, operation).await
}

/// Carries out, under a number of its own, a change of which it was said that it has been made.
pub(crate) async fn promised<F: Future>(
    sequence: Option<Sequence>,
    on_queued: Option<OnQueued>,
    change: F,
) -> F::Output {
    let (sequence, on_queued) = (Cell::new(sequence), Cell::new(on_queued));
    CHOSEN.scope(Chosen { sequence, on_queued, is_promised: true, ..Chosen::default() }, change).await
}

/// For a [`Source`](crate::source::Source): the change that is being sent has its place, and what is asked of the same open
/// file from now on is carried out after it, whatever becomes of the way to it. A source that cannot say so says nothing.
pub fn queued() {
    if let Some(on_queued) = CHOSEN.try_with(|chosen| chosen.on_queued.take()).ok().flatten() {
        on_queued();
    }
}

/// For a [`Source`](crate::source::Source): whoever asked for the change has been told that it is made. It is to be kept for
/// as long as the source may come back.
pub fn is_promised() -> bool {
    CHOSEN.try_with(|chosen| chosen.is_promised).unwrap_or(false)
}

/// For a [`Source`](crate::source::Source): the number under which the change that is about to be sent is to be sent. Gives
/// it once: the first change of a request takes it, and any other has one of the source's own.
pub fn take_sequence() -> Option<Sequence> {
    CHOSEN.try_with(|chosen| chosen.sequence.take()).ok().flatten()
}

/// Whether what is being answered may have been carried out before.
pub(crate) fn is_repeat() -> bool {
    CHOSEN.try_with(|chosen| chosen.is_repeat).unwrap_or(false)
}

/// The request that is being answered.
pub(crate) fn current() -> Option<RequestId> {
    CHOSEN.try_with(|chosen| chosen.request).ok().flatten()
}
