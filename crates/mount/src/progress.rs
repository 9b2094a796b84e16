//! That a mount is of use: said once, when a request has been completed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// See the module's documentation. Clones are the same.
#[derive(Clone)]
pub struct Progress {
    inner: Arc<Inner>,
}

struct Inner {
    is_said: AtomicBool,
    say: Box<dyn Fn() + Send + Sync>,
}

impl Progress {
    /// `say` is called at most once, on a thread that serves: it must not wait.
    pub fn new(say: impl Fn() + Send + Sync + 'static) -> Progress {
        Progress { inner: Arc::new(Inner { is_said: AtomicBool::new(false), say: Box::new(say) }) }
    }

    /// Nobody wants to know.
    pub fn untold() -> Progress {
        Progress::new(|| {})
    }

    /// A request has been completed.
    pub(crate) fn made(&self) {
        let Inner { is_said, say } = &*self.inner;
        // Nearly always it has been: a read is cheaper than a swap.
        if !is_said.load(Ordering::Relaxed) && !is_said.swap(true, Ordering::Relaxed) {
            say();
        }
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("is_said", &self.inner.is_said).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn it_is_said_once() {
        let said = Arc::new(AtomicU32::new(0));
        let told = said.clone();
        let progress = Progress::new(move || {
            told.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(said.load(Ordering::SeqCst), 0);
        for _ in 0..3 {
            progress.made();
        }
        assert_eq!(said.load(Ordering::SeqCst), 1);
    }
}
