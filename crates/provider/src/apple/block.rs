//! Completion handlers across threads.

use block2::{DynBlock, RcBlock};

/// A block of the system's, kept until it was called. Such blocks may be called on any thread, as those that take them do
/// with their own queues; nothing but calling and releasing is done with one.
pub(super) struct Handler<F: ?Sized>(RcBlock<F>);

// SAFETY: completion handlers of File Provider may be called and released on any thread, by their contract; a handler has one owner.
unsafe impl<F: ?Sized> Send for Handler<F> {}

impl<F: ?Sized + 'static> Handler<F> {
    pub(super) fn new(block: &DynBlock<F>) -> Handler<F> {
        Handler(block.copy())
    }

    pub(super) fn block(&self) -> &DynBlock<F> {
        &self.0
    }
}

/// An object that may be used on any thread by what its protocol says.
pub(super) struct Shared<T: ?Sized>(objc2::rc::Retained<T>);

// SAFETY: only observers, progresses, managers and finished items are put into it, whose contracts allow any thread.
unsafe impl<T: ?Sized> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized> Sync for Shared<T> {}

impl<T: objc2::Message> Shared<T> {
    pub(super) fn new(object: &T) -> Shared<T> {
        Shared(objc2::Message::retain(object))
    }

    pub(super) fn get(&self) -> &T {
        &self.0
    }
}
