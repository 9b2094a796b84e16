//! When to try again.

use std::time::Duration;

/// The first wait after a cut: long enough for a link to come back that was lost for a moment.
const FIRST: Duration = Duration::from_millis(500);

/// The longest wait: whoever is back at a network does not want to wait for more.
const LONGEST: Duration = Duration::from_secs(60);

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    cuts: u32,
}

impl Retry {
    /// How long to wait after a side could not be reached: twice as long each time, and between half and all of that by `random`,
    /// so that not all come back at once.
    pub fn cut(&mut self, random: u32) -> Duration {
        let whole = FIRST.saturating_mul(1_u32.checked_shl(self.cuts).unwrap_or(u32::MAX)).min(LONGEST);
        self.cuts = self.cuts.saturating_add(1);
        whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Something got through.
    pub fn reached(&mut self) {
        self.cuts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_begin_anew() {
        let mut retry = Retry::default();
        assert_eq!(retry.cut(u32::MAX), FIRST);
        assert_eq!(retry.cut(0), FIRST);
        for _ in 0..100 {
            assert!(retry.cut(u32::MAX) <= LONGEST);
        }
        assert_eq!(retry.cut(0), LONGEST / 2);
        retry.reached();
        assert_eq!(retry.cut(0), FIRST / 2);
    }
}
