//! What lies between this computer and the machine.

use std::fmt;
use std::time::Duration;

/// A distance, and a width if it is not that of the loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub rtt: Duration,
    pub megabits: Option<u64>,
}

/// From which round trip on everybody who walks takes so long that there is less to be walked, and still less.
const FAR: Duration = Duration::from_millis(2);
const VERY_FAR: Duration = Duration::from_millis(50);

/// How much work makes sense over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Near,
    Far,
    VeryFar,
}

/// What is measured when nothing else is asked for, in milliseconds and megabits a second.
const USUAL: [(u64, Option<u64>); 4] = [(0, None), (20, None), (100, None), (20, Some(100))];

/// The distance of a link of which only the width is said.
const RTT_OF_RATE: Duration = Duration::from_millis(20);

/// Each distance at each width; what is not said is not limited.
pub fn choose(rtts: Option<Vec<Duration>>, megabits: Option<Vec<u64>>) -> Vec<Link> {
    if rtts.is_none() && megabits.is_none() {
        return USUAL.map(|(rtt, megabits)| Link { rtt: Duration::from_millis(rtt), megabits }).to_vec();
    }
    let rtts = rtts.unwrap_or_else(|| vec![RTT_OF_RATE]);
    let widths = megabits.map_or_else(|| vec![None], |rates| rates.into_iter().map(Some).collect());
    rtts.iter()
        .flat_map(|rtt| widths.iter().map(|megabits| Link { rtt: *rtt, megabits: *megabits }))
        .collect()
}

impl Link {
    pub fn reach(self) -> Reach {
        match self.rtt {
            rtt if rtt >= VERY_FAR => Reach::VeryFar,
            rtt if rtt >= FAR || self.megabits.is_some() => Reach::Far,
            _ => Reach::Near,
        }
    }

    /// Whether it takes something between here and the machine.
    pub fn is_distant(self) -> bool {
        !self.rtt.is_zero() || self.megabits.is_some()
    }

    pub fn bytes_per_second(self) -> Option<u64> {
        self.megabits.map(|megabits| megabits * 1_000_000 / 8)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.rtt.as_millis())?;
        self.megabits.map_or(Ok(()), |megabits| write!(f, " and {megabits} Mbit/s"))
    }
}
