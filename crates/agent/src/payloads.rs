//! Memory for payloads, which is used again.
//!
//! What is given back to the system is had again page by page, and to have the pages of a long write costs more than all else
//! that is done with it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use wire::frame::PAYLOAD_BYTES_MAX;

use crate::sync::lock;

/// Shorter payloads are had without asking the system.
const KEPT_BYTES_MIN: usize = 64 << 10;

/// How many are kept: one that is being read, one that is being carried out, and two that wait.
const KEPT_MAX: usize = 4;

/// How long memory is kept that nobody uses, when it is [looked at](Payloads::age).
const KEPT_FOR: Duration = Duration::from_secs(10);

/// The memory that nobody uses now.
#[derive(Default)]
pub(crate) struct Payloads {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    memory: Vec<Vec<u8>>,
    used: Option<Instant>,
}

impl Payloads {
    /// Empty memory for a payload of which so much is known to come. It may have to grow.
    pub fn take(&self, bytes: usize) -> Vec<u8> {
        if bytes < KEPT_BYTES_MIN {
            return Vec::new();
        }
        lock(&self.kept).memory.pop().unwrap_or_default()
    }

    /// Nobody uses this payload any more.
    pub fn give_back(&self, mut payload: Vec<u8>) {
        if !(KEPT_BYTES_MIN..=PAYLOAD_BYTES_MAX as usize).contains(&payload.capacity()) {
            return;
        }
        payload.clear();
        let kept = &mut *lock(&self.kept);
        kept.used = Some(Instant::now());
        if kept.memory.len() < KEPT_MAX {
            kept.memory.push(payload);
        }
    }

    /// Gives to the system what has not been used for a while.
    pub fn age(&self) {
        self.age_at(Instant::now());
    }

    fn age_at(&self, now: Instant) {
        let kept = &mut *lock(&self.kept);
        if kept.used.is_some_and(|used| now.saturating_duration_since(used) >= KEPT_FOR) {
            *kept = Kept::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory of a payload, which tells one from another.
    fn place(payload: &[u8]) -> *const u8 {
        payload.as_ptr()
    }

    #[test]
    fn the_memory_of_a_long_payload_is_used_for_the_next() {
        let payloads = Payloads::default();
        let first = vec![7; KEPT_BYTES_MIN];
        let there = place(&first);
        payloads.give_back(first);
        assert_eq!(payloads.take(KEPT_BYTES_MIN - 1).capacity(), 0, "a short one needs none");
        let second = payloads.take(PAYLOAD_BYTES_MAX as usize);
        assert_eq!((place(&second), second.len()), (there, 0));
        assert_eq!(payloads.take(KEPT_BYTES_MIN).capacity(), 0, "it is in use");
    }

    #[test]
    fn little_and_too_much_is_not_kept_nor_more_than_a_few() {
        let payloads = Payloads::default();
        payloads.give_back(vec![0; KEPT_BYTES_MIN - 1]);
        payloads.give_back(vec![0; PAYLOAD_BYTES_MAX as usize + 1]);
        assert_eq!(payloads.take(KEPT_BYTES_MIN).capacity(), 0);
        (0..2 * KEPT_MAX).for_each(|_| payloads.give_back(vec![0; KEPT_BYTES_MIN]));
        let kept = (0..2 * KEPT_MAX).filter(|_| payloads.take(KEPT_BYTES_MIN).capacity() > 0);
        assert_eq!(kept.count(), KEPT_MAX);
    }

    #[test]
    fn what_nobody_has_used_for_a_while_is_kept_no_longer() {
        let payloads = Payloads::default();
        payloads.give_back(vec![0; KEPT_BYTES_MIN]);
        payloads.age();
        let kept = payloads.take(KEPT_BYTES_MIN);
        assert!(kept.capacity() > 0);
        payloads.give_back(kept);
        payloads.age_at(Instant::now() + KEPT_FOR);
        assert_eq!(payloads.take(KEPT_BYTES_MIN).capacity(), 0);
    }
}
