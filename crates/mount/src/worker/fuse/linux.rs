//! Linux: what mounts, and how far the kernel reads ahead.

use std::path::{Path, PathBuf};

use super::in_full;
use crate::fuse::device::Device;
use crate::fuse::mountpoint::{HelperError, MountError};
use crate::mountpoint::Mounts;

/// A kernel that does not queue a dead server's requests again leaves whoever waits for them waiting.
pub(super) const NO_RESEND: &str =
    "this kernel is older than Linux 6.9: if the mount's process dies, so does the mount";

/// What the kernel reads ahead by itself, in KiB: the largest request it sends. Its default is an eighth of that, and
/// each request costs the same.
const READ_AHEAD_KIB: u32 = 1024;

/// The helper through which a plain user mounts.
const HELPER: &str = "fusermount3";

/// Whether this user can mount through FUSE here, as far as can be seen without doing it.
pub(in super::super) fn is_usable() -> bool {
    if rustix::process::geteuid().is_root() {
        return Device::open().is_ok();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Path::new("/dev/fuse").exists() && std::env::split_paths(&path).any(|dir| dir.join(HELPER).is_file())
}

/// What is to be done about it.
pub(super) fn hint(error: &MountError) -> Option<&'static str> {
    match error {
        MountError::Device { .. } => Some("load the fuse module: modprobe fuse"),
        MountError::Helper { source: HelperError::NotInstalled, .. } => {
            Some("install it: apt-get install fuse3")
        }
        _ => None,
    }
}

/// Finds the number of the connection, and lets the kernel read ahead as far as one request goes where this process
/// may say so. Asks the mount itself nothing.
pub(super) async fn connection(path: PathBuf) -> Option<u64> {
    let found = tokio::task::spawn_blocking(move || {
        let mounts = Mounts::read()
            .inspect_err(|error| tracing::warn!(error = in_full(error), "the mount was not looked up"))
            .ok()?;
        let mount = mounts.at(&path)?;
        let setting = format!("/sys/class/bdi/{}:{}/read_ahead_kb", mount.major, mount.minor);
        if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB.to_string()) {
            tracing::debug!(%setting, %error, "the kernel's own read-ahead stays as it is");
        }
        mount.connection().map(|connection| u64::from(connection.0))
    });
    found.await.unwrap_or_else(|error| {
        tracing::error!(%error, "looking the mount up did not end");
        None
    })
}
