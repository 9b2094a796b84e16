//! How far the machine is.

use std::sync::Arc;
use std::time::Duration;

use remote::client::AgentClient;
use tokio::sync::watch;
use vfs::Vfs;

use crate::machine::{LinkStanding, Machine};

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
    // One that was under way when the link was lost says nothing.
    if let Some(round_trip) = shortest.filter(|_| client.away().is_none()) {
        vfs.set_round_trip(round_trip);
    }
}

/// Measures now and again, and whenever there is a new link, until the session or the file system is gone. While there is
/// no link, the machine is as far as can be.
pub(super) fn watch(
    client: AgentClient,
    vfs: &Arc<Vfs<Machine>>,
    mut standing: watch::Receiver<LinkStanding>,
) {
    let vfs = Arc::downgrade(vfs);
    tokio::spawn(async move {
        loop {
            standing.borrow_and_update();
            let Some(vfs) = vfs.upgrade().filter(|_| !client.is_lost()) else { return };
            measure(&client, &vfs).await;
            drop(vfs);
            // The end of who tells is the end of the session, which is looked for above.
            drop(tokio::time::timeout(INTERVAL, standing.changed()).await);
        }
    });
}
