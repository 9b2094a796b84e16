//! One errand of this computer at a time puts an agent into a container.

#[cfg(any(not(target_os = "linux"), test))]
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

/// Waits until no other errand of this computer puts an agent into a container. Gives up after a while, and at once where
/// no lock can be had: then the engine decides who is the last.
pub(super) async fn lock(container: &str) -> Option<Lock> {
    let name = format!("stead-place-{container}");
    let trying = async {
        loop {
            match take(&name) {
                Ok(Some(lock)) => return Some(lock),
                Err(error) => {
                    tracing::warn!(%error, "errands do not wait for each other");
                    return None;
                }
                Ok(None) => tokio::time::sleep(LOCK_INTERVAL).await,
            }
        }
    };
    tokio::time::timeout(LOCK_TIMEOUT, trying).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lock_that_another_one_has_is_waited_for() {
        let unique = format!("stead-place-test-{}", std::process::id());
        let by_name = name::take(&unique).unwrap();
        assert!(by_name.is_some() && name::take(&unique).unwrap().is_none());
        name::take(&"x".repeat(200)).unwrap_err();

        let by_file = file::take(&unique).unwrap();
        assert!(by_file.is_some() && file::take(&unique).unwrap().is_none());
        file::take("no such directory/lock").unwrap_err();
        let user = rustix::process::geteuid().as_raw();
        std::fs::remove_file(std::env::temp_dir().join(format!("{unique}-{user}"))).unwrap();
    }

    #[tokio::test]
    async fn where_no_lock_can_be_had_nobody_waits_for_one() {
        let container = "x".repeat(200);
        let waiting = tokio::time::timeout(LOCK_TIMEOUT / 2, lock(&container));
        assert!(waiting.await.is_ok_and(|lock| lock.is_none()));
    }
}
