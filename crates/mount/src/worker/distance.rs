//! How far the machine is.

use std::sync::Arc;
use std::time::Duration;

use remote::client::AgentClient;
use vfs::Vfs;

use crate::machine::Machine;

/// How often the way to the machine is measured: a laptop may have moved to another network.
const INTERVAL: Duration = Duration::from_secs(10);

/// Measures the round trip now, and lets `vfs` know.
pub(super) async fn measure(client: &AgentClient, vfs: &Vfs<Machine>) {
    if let Ok(round_trip) = client.ping().await {
        vfs.set_round_trip(round_trip);
    }
}

/// Goes on measuring until the link or the file system is gone.
pub(super) fn watch(client: AgentClient, vfs: &Arc<Vfs<Machine>>) {
    let vfs = Arc::downgrade(vfs);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let Some(vfs) = vfs.upgrade().filter(|_| !client.is_lost()) else { return };
            measure(&client, &vfs).await;
        }
    });
}
