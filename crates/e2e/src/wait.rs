//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Between two looks at a condition: short enough not to be felt, long enough to leave the processor to the program.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(4);

/// Looks at `condition` until it holds. Panics with `what` when it does not hold within `deadline`.
#[track_caller]
pub fn eventually(deadline: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(deadline, condition), "not within {deadline:?}: {what}");
}

/// Whether `condition` came to hold within `deadline`.
pub fn holds_within(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        pause(LOOK_AGAIN_AFTER);
    }
}

/// The one place where this crate lets time pass.
#[expect(
    clippy::disallowed_methods,
    reason = "every wait of the tests is a loop around this with a deadline"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
