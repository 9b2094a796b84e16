//! What happens to this computer: it sleeps and wakes, and its network changes.
//!
//! After either, links that seem open may be dead, and machines that could not be reached may be there again.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::owner::{Event, OwnerHandle};

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
    /// How long the computer has slept since it was started: what the one clock counts and the other does not.
    asleep: Duration,
    /// The routes, of both versions of the protocol, as the kernel prints them.
    routes: Vec<u8>,
}

impl World {
    fn look() -> World {
        let clock = |id| {
            let time = clock_gettime(id);
            let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
            Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
        };
        // In this order the difference can come out too small by the time in between, never too large.
        let (boot, awake) = (clock(ClockId::Boottime), clock(ClockId::Monotonic));
        World { asleep: boot.saturating_sub(awake), routes: routes() }
    }

    /// What has changed since `before`, if that matters to links.
    fn differs(&self, before: &World) -> Option<&'static str> {
        if self.asleep.saturating_sub(before.asleep) >= SLEEP_MIN {
            return Some("the computer slept");
        }
        (self.routes != before.routes).then_some("the network changed")
    }
}

/// The destinations, gateways and interfaces of all routes. Counters, which change with every packet, are left out.
fn routes() -> Vec<u8> {
    /// A computer with more routes than fit has a network of its own sort; its first ones stand for all.
    const BYTES_MAX: u64 = 64 << 10;
    let mut seen = Vec::new();
    for (path, columns) in
        [("/proc/net/route", &[0, 1, 2, 7][..]), ("/proc/net/ipv6_route", &[0, 1, 4, 9][..])]
    {
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|file| {
            std::io::Read::read_to_string(&mut std::io::Read::take(file, BYTES_MAX), &mut text)
        });
        if let Err(error) = read {
            // There may be no network at all, or not this version.
            tracing::trace!(path, %error, "routes could not be read");
            continue;
        }
        for line in text.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            for word in columns.iter().filter_map(|column| words.get(*column)) {
                seen.extend(word.as_bytes());
                seen.push(b' ');
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(asleep: u64, routes: &[u8]) -> World {
        World { asleep: Duration::from_secs(asleep), routes: routes.to_vec() }
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
