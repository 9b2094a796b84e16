//! One errand of this computer at a time puts an agent into a container.

#[cfg(not(target_os = "linux"))]
mod file;
#[cfg(target_os = "linux")]
mod name;

use std::time::Duration;

#[cfg(not(target_os = "linux"))]
use file::{Lock, take};
#[cfg(target_os = "linux")]
use name::{Lock, take};

/// How often it is tried again meanwhile.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// How long another errand of this computer may take to put an agent into the same container.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until no other errand of this computer puts an agent into a container. Gives up after a while: then the engine
/// decides who is the last.
pub(super) async fn lock(container: &str) -> Option<Lock> {
    let name = format!("stead-place-{container}");
    let trying = async {
        loop {
            match take(&name) {
                Some(lock) => return lock,
                None => tokio::time::sleep(LOCK_INTERVAL).await,
            }
        }
    };
    tokio::time::timeout(LOCK_TIMEOUT, trying).await.ok()
}
