//! macOS: what has to be there before anything can be mounted so.

use std::path::PathBuf;

use crate::fuse::mountpoint::{HelperError, MountError};

/// Who waits for an answer of a process that is dead waits until the kernel takes the mount for dead.
pub(super) const NO_RESEND: &str =
    "macFUSE does not send a request again: if the mount's process dies, so does the mount";

/// Whether `auto` is this backend: never, for NFS needs no kernel extension, and a mount through it outlives its process.
pub(in super::super) fn is_usable() -> bool {
    false
}

/// What is to be done about it.
pub(super) fn hint(error: &MountError) -> Option<&'static str> {
    match error {
        MountError::Helper { source: HelperError::NotInstalled, .. } => Some(
            "install macFUSE, of https://macfuse.io, and allow its kernel extension in System Settings; or leave out --backend fuse",
        ),
        MountError::Helper { .. } => Some(
            "see that macFUSE's kernel extension is allowed in System Settings, Privacy & Security; or leave out --backend fuse",
        ),
        _ => None,
    }
}

/// Connections have no numbers.
pub(super) async fn connection(_path: PathBuf) -> Option<u64> {
    None
}
