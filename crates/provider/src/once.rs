//! An answer that is given exactly once.

/// A completion handler. It is called once: by [`answer`](Once::answer), or, if nobody has, with what was said at the beginning when
/// it is dropped, as by a request that is thrown away or panics.
pub struct Once<T> {
    inner: Option<(Handler<T>, Otherwise<T>)>,
}

type Handler<T> = Box<dyn FnOnce(T) + Send>;
type Otherwise<T> = Box<dyn FnOnce() -> T + Send>;

impl<T> Once<T> {
    /// A handler, and what it is told if nobody answers.
    pub fn new(
        handler: impl FnOnce(T) + Send + 'static,
        otherwise: impl FnOnce() -> T + Send + 'static,
    ) -> Once<T> {
        Once { inner: Some((Box::new(handler), Box::new(otherwise))) }
    }

    /// Answers.
    pub fn answer(mut self, answer: T) {
        if let Some((handler, _)) = self.inner.take() {
            handler(answer);
        }
    }
}

impl<T> Drop for Once<T> {
    fn drop(&mut self) {
        if let Some((handler, otherwise)) = self.inner.take() {
            handler(otherwise());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What stands for a block: it counts.
    fn block() -> (Arc<Mutex<Vec<u32>>>, Once<u32>) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        (calls, Once::new(move |answer| seen.lock().unwrap().push(answer), || 0))
    }

    #[test]
    fn an_answer_is_given_once() {
        let (calls, once) = block();
        once.answer(7);
        assert_eq!(*calls.lock().unwrap(), [7]);
    }

    #[test]
    fn who_is_thrown_away_is_answered_all_the_same() {
        let (calls, once) = block();
        drop(once);
        assert_eq!(*calls.lock().unwrap(), [0]);
        let (calls, once) = block();
        let thread = std::thread::spawn(move || {
            let _once = once;
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(thread.join().is_err());
        assert_eq!(*calls.lock().unwrap(), [0]);
    }
}
