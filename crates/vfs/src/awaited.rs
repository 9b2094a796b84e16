//! A value that comes once and that any number of tasks may wait for.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Awaited<T> {
    value: Mutex<Option<T>>,
    came: Notify,
}

/// Who will bring the value. Dropped before, it brings `otherwise`: nobody waits for ever.
#[derive(Debug)]
pub(crate) struct Promise<T: Clone> {
    awaited: Arc<Awaited<T>>,
    otherwise: Option<T>,
}

impl<T: Clone> Awaited<T> {
    pub(crate) fn new() -> Awaited<T> {
        Awaited { value: Mutex::new(None), came: Notify::new() }
    }

    pub(crate) fn ready(value: T) -> Awaited<T> {
        Awaited { value: Mutex::new(Some(value)), came: Notify::new() }
    }

    pub(crate) fn promise(self: &Arc<Self>, otherwise: T) -> Promise<T> {
        Promise { awaited: self.clone(), otherwise: Some(otherwise) }
    }

    pub(crate) fn now(&self) -> Option<T> {
        self.value.lock().clone()
    }

    pub(crate) async fn get(&self) -> T {
        loop {
            let came = self.came.notified();
            if let Some(value) = self.now() {
                return value;
            }
            came.await;
        }
    }

    /// The first value stays.
    fn set(&self, value: T) {
        self.value.lock().get_or_insert(value);
        self.came.notify_waiters();
    }
}

impl<T: Clone> Promise<T> {
    pub(crate) fn keep(mut self, value: T) {
        self.otherwise = Some(value);
    }
}

impl<T: Clone> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some(value) = self.otherwise.take() {
            self.awaited.set(value);
        }
    }
}
