//! Which death is answered with a successor, and when.

use std::time::Duration;

/// So many deaths in a row without progress, and it is not tried again: something kills each of them.
pub const DEATHS_MAX: u32 = 5;

/// A worker that has lived so long has made progress, also when nobody asked it for anything.
pub const STEADY: Duration = Duration::from_secs(60);

/// What is waited for before the next try, by how many were in vain. Together well below a second: until there is a
/// worker, whoever uses the mount waits.
const PAUSES: [Duration; DEATHS_MAX as usize - 1] = [
    Duration::from_millis(5),
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(400),
];

/// What a death means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start a successor, after this pause.
    Restart(Duration),
    /// There is no use in it.
    GiveUp,
}

/// A worker that has died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// Whether it said so.
    pub had_progress: bool,
    /// How long it lived.
    pub lived: Duration,
    /// Whether anything is kept for a successor.
    pub leaves_descriptors: bool,
}

/// Deaths so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    in_vain: u32,
}

impl Losses {
    /// Counts a death. Performs no I/O: the caller carries out the verdict.
    #[must_use]
    pub fn on(self, death: Death) -> (Losses, Verdict) {
        if !death.leaves_descriptors {
            return (self, Verdict::GiveUp);
        }
        if death.had_progress || death.lived >= STEADY {
            return (Losses::default(), Verdict::Restart(Duration::ZERO));
        }
        let next = Losses { in_vain: self.in_vain + 1 };
        match PAUSES.get(self.in_vain as usize) {
            Some(pause) => (next, Verdict::Restart(*pause)),
            None => (next, Verdict::GiveUp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_VAIN: Death = Death { had_progress: false, lived: Duration::ZERO, leaves_descriptors: true };

    #[test]
    fn deaths_without_progress_are_answered_later_and_later_and_then_not() {
        let mut losses = Losses::default();
        for pause in PAUSES {
            let (next, verdict) = losses.on(IN_VAIN);
            assert_eq!(verdict, Verdict::Restart(pause));
            losses = next;
        }
        assert_eq!(losses.on(IN_VAIN).1, Verdict::GiveUp);
        assert!(PAUSES.is_sorted() && PAUSES.iter().sum::<Duration>() < Duration::from_secs(1));
    }

    #[test]
    fn progress_makes_all_deaths_before_it_forgotten() {
        let mut losses = Losses::default();
        for _ in 1..DEATHS_MAX {
            losses = losses.on(IN_VAIN).0;
        }
        for survivor in [Death { had_progress: true, ..IN_VAIN }, Death { lived: STEADY, ..IN_VAIN }] {
            let (next, verdict) = losses.on(survivor);
            assert_eq!((next, verdict), (Losses::default(), Verdict::Restart(Duration::ZERO)));
        }
    }

    #[test]
    fn one_that_leaves_nothing_has_no_successor() {
        let death = Death { had_progress: true, leaves_descriptors: false, ..IN_VAIN };
        assert_eq!(Losses::default().on(death).1, Verdict::GiveUp);
    }
}
