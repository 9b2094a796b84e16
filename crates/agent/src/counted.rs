//! Limits on how many there are of something at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

/// How many there may be, and how many there are.
pub(crate) struct Limit {
    max: usize,
    count: AtomicUsize,
}

impl Limit {
    pub const fn new(max: usize) -> Limit {
        Limit { max, count: AtomicUsize::new(0) }
    }

    /// One more, until it is dropped. Fails with `EMFILE` when there are as many as there may be.
    pub fn one_more(&'static self) -> Result<Counted, Errno> {
        let before = self.count.fetch_add(1, Ordering::AcqRel);
        // Who is one too many is counted down again too.
        let counted = Counted(self);
        if before >= self.max { Err(Errno::MFILE) } else { Ok(counted) }
    }
}

/// One of a limited number.
pub(crate) struct Counted(&'static Limit);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_than_there_may_be() {
        static LIMIT: Limit = Limit::new(2);
        let two = [LIMIT.one_more().unwrap(), LIMIT.one_more().unwrap()];
        assert_eq!(LIMIT.one_more().err(), Some(Errno::MFILE));
        drop(two);
        assert!(LIMIT.one_more().is_ok());
    }
}
