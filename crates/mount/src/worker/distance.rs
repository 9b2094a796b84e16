//! How far the machine is.
//!
//! A round trip takes as long as the way, and as long as the processors on it are busy. The way is the shortest of many, and
//! stays as it is while the link does. So one that met a busy computer does not make a near machine a far one, of which
//! less is asked; and one that has become far is taken for near for a minute, which costs time and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use remote::client::AgentClient;
use tokio::sync::watch;
use vfs::Vfs;

use crate::machine::{LinkStanding, Machine};

/// How often the way to the machine is measured: a laptop may have moved to another network.
const INTERVAL: Duration = Duration::from_secs(10);

/// How often, until there are as many measurements as count.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest of so many round trips counts: the others met a busy processor.
const PINGS: usize = 3;

/// And the shortest of so many measurements, a minute's.
const MEASUREMENTS: usize = 6;

/// The last measurements on one link.
#[derive(Debug, Default)]
struct Way(VecDeque<Duration>);

impl Way {
    /// Takes one more in. Gives how long the way is.
    fn measured(&mut self, round_trip: Duration) -> Duration {
        if self.0.len() == MEASUREMENTS {
            self.0.pop_front();
        }
        self.0.push_back(round_trip);
        self.0.iter().copied().min().unwrap_or(round_trip)
    }

    /// When to measure again.
    fn again_after(&self) -> Duration {
        if self.0.len() < MEASUREMENTS { FIRST_INTERVAL } else { INTERVAL }
    }
}

/// The round trip now; `None` where there is no link.
async fn measure(client: &AgentClient) -> Option<Duration> {
    let mut shortest = None;
    for _ in 0..PINGS {
        let round_trip = client.ping().await.ok()?;
        shortest = Some(shortest.map_or(round_trip, |so_far: Duration| so_far.min(round_trip)));
    }
    // One that was under way when the link was lost says nothing.
    shortest.filter(|_| client.away().is_none())
}

/// Measures now and again, and lets `vfs` know, until the session or the file system is gone. While there is no link, the
/// machine is as far as can be, and each link is a way of its own.
pub(super) fn watch(
    client: AgentClient,
    vfs: &Arc<Vfs<Machine>>,
    mut standing: watch::Receiver<LinkStanding>,
) {
    let vfs = Arc::downgrade(vfs);
    tokio::spawn(async move {
        let mut way = Way::default();
        loop {
            standing.borrow_and_update();
            let Some(vfs) = vfs.upgrade().filter(|_| !client.is_lost()) else { return };
            if let Some(round_trip) = measure(&client).await {
                vfs.set_round_trip(way.measured(round_trip));
            }
            drop(vfs);
            // The end of who tells is the end of the session, which is looked for above.
            if tokio::time::timeout(way.again_after(), standing.changed()).await.is_ok() {
                way = Way::default();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_computer_does_not_make_a_way_long_and_a_long_way_is_found_out() {
        let mut way = Way::default();
        let [near, far] = [1, 20].map(Duration::from_millis);
        assert_eq!(way.measured(far), far);
        assert_eq!(way.measured(near), near);
        for _ in 1..MEASUREMENTS {
            assert_eq!(way.again_after(), if way.0.len() < MEASUREMENTS { FIRST_INTERVAL } else { INTERVAL });
            assert_eq!(way.measured(far), near);
        }
        assert_eq!(way.measured(far), far);
        assert_eq!(way.0.len(), MEASUREMENTS);
    }
}
