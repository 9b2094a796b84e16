//! Mounting what is served with this computer's own NFS client, where it has one.
//!
//! Who may, and how, is each system's: see `system`. Where it is not possible a mount is served all the same, for clients that need
//! no kernel; the person is told how to reach it.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use super::EXPORT;
use crate::system;
pub use crate::system::{NoKernelMount, Served};

/// What is mounted, as the mount table shows it.
pub const SOURCE: &str = "127.0.0.1:/stead";

/// How long the client believes attributes, in seconds: it is not told of changes, and this is how late it sees them.
pub(crate) const ATTRIBUTES_BELIEVED_S: u32 = 1;

/// How long the client waits before it sends a call again, in tenths of a second. Over TCP only a lost connection loses
/// calls, so this is long.
pub(crate) const RESEND_DS: u32 = 600;

/// Why a mount failed.
#[derive(Debug, Error)]
pub enum MountError {
    /// It is not possible here at all.
    #[error(transparent)]
    NotPossible(#[from] NoKernelMount),
    /// The kernel refused.
    #[error("could not mount 127.0.0.1:{EXPORT} at `{}`", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// What mounts could not do it.
    #[error("could not mount 127.0.0.1:{EXPORT} at `{}`: {why}", path.display())]
    Command {
        /// Where.
        path: PathBuf,
        /// Why, in its own words.
        why: String,
    },
}

/// Whether this computer's kernel can mount what is served. May take a moment.
pub fn kernel_can_mount() -> Result<(), NoKernelMount> {
    system::kernel_can_mount()
}

/// Mounts what is served at `path`, an existing directory. The server must run in another thread: the kernel asks it before this
/// returns.
pub fn mount(path: &Path, served: Served<'_>) -> Result<(), MountError> {
    kernel_can_mount()?;
    system::mount_nfs(path, served)
}

/// Unmounts what is at `path`. With `force`, also what is in use: processes in it see errors.
pub fn unmount(path: &Path, force: bool) -> Result<(), Errno> {
    system::unmount_nfs(path, force)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_the_export() {
        assert_eq!(SOURCE, format!("127.0.0.1:{EXPORT}"));
    }

    #[test]
    fn without_a_client_in_the_kernel_that_is_said_and_nothing_is_mounted() {
        let possible = kernel_can_mount();
        let Err(reason) = possible else { return };
        let place = tempfile::tempdir().unwrap();
        let served = Served { port: 1, root: &[], access: super::super::Access::ReadWrite };
        let mounted = mount(place.path(), served);
        assert!(matches!(mounted, Err(MountError::NotPossible(said)) if said == reason), "{mounted:?}");
    }
}
