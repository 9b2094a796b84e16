//! The numbers of mutations: given, chosen, answered, and what of that the agent should be told.
//!
//! A number is *outstanding* from the moment it is given until nobody will ask for its answer again. The agent may forget
//! replies below the first outstanding one.

use std::collections::BTreeSet;

use wire::agent::Sequence;

/// How many answered mutations are told at once: rare enough to cost nothing, often enough that the agent keeps few
/// replies.
const ACKNOWLEDGE_EVERY: u64 = 64;

/// How many numbers are reserved at once. Whoever keeps the reservation writes to a disk once for so many mutations, and
/// so many numbers at most are skipped by a successor.
pub const RESERVE_EVERY: u64 = 1 << 16;

/// The numbers of one session.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    /// The last that was given.
    last: u64,
    /// Numbers up to here have been reserved.
    reserved: u64,
    /// Numbers up to here were given by a predecessor.
    inherited: u64,
    /// Numbers up to here may have been used in a session of the agent that is gone.
    in_doubt: u64,
    outstanding: BTreeSet<u64>,
    /// What the agent knows of the floor.
    told: u64,
}

/// The agent may forget replies.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forget {
    /// Up to and including this one.
    pub(super) through: u64,
    /// How many of them this client has given.
    pub(super) count: usize,
}

/// A number that was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) sequence: Sequence,
    /// Numbers up to here are reserved from now on: to be kept before this one is used.
    pub(super) reserve: Option<u64>,
}

impl Sequences {
    /// Goes on behind a predecessor that has reserved up to `watermark`, and whose `unanswered` may be asked for again;
    /// those up to `in_doubt` were used before the agent lost a session.
    pub(super) fn resume(watermark: u64, in_doubt: u64, unanswered: &[Sequence]) -> Sequences {
        let outstanding: BTreeSet<u64> = unanswered
            .iter()
            .map(|sequence| sequence.0)
            .filter(|number| (1..=watermark).contains(number))
            .collect();
        Sequences {
            last: watermark,
            reserved: watermark,
            inherited: watermark,
            in_doubt,
            outstanding,
            ..Sequences::default()
        }
    }

    /// The next number.
    pub(super) fn give(&mut self) -> Given {
        self.last += 1;
        self.outstanding.insert(self.last);
        let reserve = (self.last > self.reserved).then(|| {
            self.reserved = self.last + RESERVE_EVERY - 1;
            self.reserved
        });
        Given { sequence: Sequence(self.last), reserve }
    }

    /// The number given last was not used.
    pub(super) fn withdraw(&mut self, Sequence(number): Sequence) {
        self.outstanding.remove(&number);
        if number == self.last {
            self.last -= 1;
        }
    }

    /// Whether it is a predecessor's.
    pub(super) fn is_inherited(&self, Sequence(number): Sequence) -> bool {
        number <= self.inherited
    }

    /// The last number of a predecessor's.
    pub(super) fn inherited(&self) -> Sequence {
        Sequence(self.inherited)
    }

    /// The agent has lost its session: whether what was sent so far was carried out is not known.
    pub(super) fn doubt(&mut self) {
        self.in_doubt = self.last;
    }

    /// Numbers up to here may have been used in a session that is gone.
    pub(super) fn in_doubt(&self) -> u64 {
        self.in_doubt
    }

    /// Whether a predecessor may have used it in a session that is gone.
    pub(super) fn is_inherited_doubt(&self, Sequence(number): Sequence) -> bool {
        number <= self.inherited.min(self.in_doubt)
    }

    /// Nobody will ask for this answer again. Says what to tell the agent, if it is time.
    pub(super) fn settle(&mut self, Sequence(number): Sequence) -> Option<Forget> {
        self.outstanding.remove(&number);
        let floor = self.floor();
        if floor.saturating_sub(self.told) < ACKNOWLEDGE_EVERY {
            return None;
        }
        let count = floor.max(self.inherited) - self.told.max(self.inherited);
        self.told = floor;
        Some(Forget { through: floor, count: count as usize })
    }

    /// What a new stream's agent is to be told at first: every number up to here has been answered.
    pub(super) fn floor(&self) -> u64 {
        self.outstanding.first().map_or(self.last, |first| first - 1)
    }

    /// Numbers up to here may have been used.
    pub(super) fn watermark(&self) -> u64 {
        self.reserved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(sequences: &mut Sequences, count: u64) {
        for _ in 0..count {
            sequences.give();
        }
    }

    fn settle(sequences: &mut Sequences, number: u64) -> Option<Forget> {
        sequences.settle(Sequence(number))
    }

    #[test]
    fn the_floor_waits_for_the_slowest_answer() {
        let mut sequences = Sequences::default();
        given(&mut sequences, 200);
        for number in 2..=200 {
            assert_eq!(settle(&mut sequences, number), None);
        }
        assert_eq!(settle(&mut sequences, 1), Some(Forget { through: 200, count: 200 }));
    }

    #[test]
    fn answers_in_order_are_told_in_batches() {
        let mut sequences = Sequences::default();
        given(&mut sequences, 130);
        let told: Vec<_> = (1..=130).filter_map(|number| settle(&mut sequences, number)).collect();
        assert_eq!(told[..2], [Forget { through: 64, count: 64 }, Forget { through: 128, count: 64 }]);
        assert_eq!(sequences.floor(), 130);
    }

    #[test]
    fn numbers_are_reserved_in_blocks_and_a_number_that_was_not_used_is_used_next() {
        let mut sequences = Sequences::default();
        let first = sequences.give();
        assert_eq!(first, Given { sequence: Sequence(1), reserve: Some(RESERVE_EVERY) });
        sequences.withdraw(Sequence(1));
        assert_eq!(sequences.give(), Given { sequence: Sequence(1), reserve: None });
        given(&mut sequences, RESERVE_EVERY - 1);
        assert_eq!(sequences.give().reserve, Some(2 * RESERVE_EVERY));
    }

    #[test]
    fn a_successor_starts_above_the_watermark_and_keeps_what_may_be_asked_for_again() {
        let mut sequences = Sequences::resume(1000, 0, &[Sequence(7), Sequence(300)]);
        assert_eq!(sequences.floor(), 6);
        assert_eq!(sequences.give().sequence, Sequence(1001));
        assert_eq!(settle(&mut sequences, 1001), None);
        assert_eq!(settle(&mut sequences, 7), Some(Forget { through: 299, count: 0 }));
        assert_eq!(settle(&mut sequences, 300), Some(Forget { through: 1001, count: 1 }));
    }

    #[test]
    fn a_predecessors_numbers_are_in_doubt_up_to_where_the_agent_lost_its_session() {
        let mut sequences = Sequences::resume(1000, 300, &[]);
        let doubted = |sequences: &Sequences, number| sequences.is_inherited_doubt(Sequence(number));
        assert!(doubted(&sequences, 300) && !doubted(&sequences, 301));
        given(&mut sequences, 5);
        sequences.doubt();
        assert!(
            doubted(&sequences, 1000) && !doubted(&sequences, 1001),
            "its own are known to be sent or not"
        );
        assert_eq!(sequences.in_doubt(), 1005);
    }
}
