//! What happens to this computer: it sleeps and wakes, and its network changes.
//!
//! After either, links that seem open may be dead, and machines that could not be reached may be there again.

use std::time::Duration;

use crate::owner::{Event, OwnerHandle};
use crate::system;

/// How often it is looked at. A wake-up is noticed after that long, which is less than a person takes to type.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a sleep has to be before links are doubted: connections outlive shorter ones.
const SLEEP_MIN: Duration = Duration::from_secs(5);

/// Tells the owner of changes, for ever.
pub async fn watch(owner: OwnerHandle) {
    let mut seen = World::look();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = World::look();
        if let Some(change) = now.differs(&seen) {
            tracing::info!(change, "links are doubted");
            owner.send(Event::WorldChanged).await;
        }
        seen = now;
    }
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct World {
    /// How long the computer has slept since some time that does not change.
    asleep: Duration,
    /// What tells one network from another.
    network: Vec<u8>,
}

impl World {
    fn look() -> World {
        World { asleep: system::asleep(), network: system::network() }
    }

    /// What has changed since `before`, if that matters to links.
    fn differs(&self, before: &World) -> Option<&'static str> {
        if self.asleep.saturating_sub(before.asleep) >= SLEEP_MIN {
            return Some("the computer slept");
        }
        (self.network != before.network).then_some("the network changed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(asleep: u64, network: &[u8]) -> World {
        World { asleep: Duration::from_secs(asleep), network: network.to_vec() }
    }

    #[test]
    fn a_sleep_and_other_routes_are_changes_and_a_moment_is_none() {
        let before = world(100, b"eth0");
        assert_eq!(world(104, b"eth0").differs(&before), None);
        assert_eq!(world(160, b"eth0").differs(&before), Some("the computer slept"));
        assert_eq!(world(100, b"wlan0").differs(&before), Some("the network changed"));
    }

    #[test]
    fn a_world_that_does_not_change_is_the_same() {
        let before = World::look();
        assert_eq!(World::look().differs(&before), None);
    }
}
