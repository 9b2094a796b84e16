//! How far the machine is.

use std::sync::Arc;
use std::time::Duration;

use remote::client::AgentClient;
use vfs::Vfs;

use crate::machine::Machine;

/// How often the way to the machine is measured: a laptop may have moved to another network.
const INTERVAL: Duration = Duration::from_secs(10);

/// The shortest of so many round trips counts: the others met a busy processor.
const PINGS: usize = 3;

/// Measures the round trip now, and lets `vfs` know.
async fn measure(client: &AgentClient, vfs: &Vfs<Machine>) {
    let mut shortest = None;
    let pings = (0..PINGS).map(|_| client.ping());
    for ping in pings {
        match ping.await {
            Ok(round_trip) => {
                shortest = Some(shortest.map_or(round_trip, |so_far: Duration| so_far.min(round_trip)))
            }
            Err(_) => return,
        }
    }
    if let Some(round_trip) = shortest {
        vfs.set_round_trip(round_trip);
    }
}

/// Measures now and again until the link or the file system is gone.
pub(super) fn watch(client: AgentClient, vfs: &Arc<Vfs<Machine>>) {
    let vfs = Arc::downgrade(vfs);
    tokio::spawn(async move {
        loop {
            let Some(vfs) = vfs.upgrade().filter(|_| !client.is_lost()) else { return };
            measure(&client, &vfs).await;
            drop(vfs);
            tokio::time::sleep(INTERVAL).await;
        }
    });
}
