//! Choices that a seed decides, so that the same seed makes the same choices.

use std::time::Duration;

/// A stream of choices (SplitMix64: any seed will do, 0 too).
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice { state: seed }
    }

    /// A stream of its own for `name`, whatever was drawn from this one before.
    pub fn named(seed: u64, name: &str) -> Dice {
        /// FNV-1a: enough to tell names apart.
        const PRIME: u64 = 0x100_0000_01b3;
        let hash = name
            .bytes()
            .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        Dice { state: hash }
    }

    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number less than `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit
    }

    /// As [`Dice::below`], for what is in memory.
    pub fn index(&mut self, len: usize) -> usize {
        // Less than a usize by construction.
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least).as_micros().try_into().unwrap_or(u64::MAX);
        least + Duration::from_micros(self.below(span.saturating_add(1).max(1)))
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }

    /// Bytes that neither compress nor repeat.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.draw().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_choices_again() {
        let draw = |seed| {
            let mut dice = Dice::new(seed);
            (dice.below(1000), dice.between(Duration::ZERO, Duration::from_secs(9)), dice.bytes(33))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_eq!(draw(7).2.len(), 33);
    }

    #[test]
    fn streams_of_different_names_differ() {
        assert_ne!(Dice::named(1, "git").draw(), Dice::named(1, "map").draw());
        assert_eq!(Dice::named(1, "git").draw(), Dice::named(1, "git").draw());
    }

    #[test]
    fn a_time_lies_between_its_bounds() {
        let (least, most) = (Duration::from_millis(3), Duration::from_millis(9));
        let mut dice = Dice::new(5);
        assert!((0..1000).map(|_| dice.between(least, most)).all(|time| least <= time && time <= most));
        assert_eq!(dice.between(most, most), most);
    }
}
