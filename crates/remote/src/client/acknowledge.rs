//! Which mutations have been answered, and what of that the agent should be told.

use std::collections::BTreeSet;

/// How many answered mutations are told at once: rare enough to cost nothing, often enough that the agent keeps few
/// replies.
const ACKNOWLEDGE_EVERY: u64 = 64;

/// Follows the answers of one session, which arrive in any order.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Every mutation up to here has been answered.
    floor: u64,
    /// Answered ones above the floor.
    above: BTreeSet<u64>,
    /// What the agent knows of the floor.
    told: u64,
}

/// The agent may forget replies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forget {
    /// Up to and including this one.
    pub(super) through: u64,
    /// How many that is.
    pub(super) count: usize,
}

impl Answered {
    /// Notes that the mutation `sequence` has been answered. Says what to tell the agent, if it is time.
    pub(super) fn note(&mut self, sequence: u64) -> Option<Forget> {
        self.above.insert(sequence);
        while self.above.remove(&(self.floor + 1)) {
            self.floor += 1;
        }
        let count = self.floor - self.told;
        if count < ACKNOWLEDGE_EVERY {
            return None;
        }
        self.told = self.floor;
        Some(Forget { through: self.floor, count: count as usize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_waits_for_the_slowest_answer() {
        let mut answered = Answered::default();
        for sequence in 2..=200 {
            assert_eq!(answered.note(sequence), None);
        }
        assert_eq!(answered.note(1), Some(Forget { through: 200, count: 200 }));
    }

    #[test]
    fn answers_in_order_are_told_in_batches() {
        let mut answered = Answered::default();
        let told: Vec<_> = (1..=130).filter_map(|sequence| answered.note(sequence)).collect();
        assert_eq!(told, [Forget { through: 64, count: 64 }, Forget { through: 128, count: 64 }]);
    }
}
