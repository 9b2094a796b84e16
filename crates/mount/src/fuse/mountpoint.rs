//! Mounting and unmounting.
//!
//! On Linux the mount is a system call for root. Anybody else goes through the setuid helper `fusermount3`, which
//! checks that the directory is the user's and hands the device's descriptor over. Either way the kernel
//! queues INIT at once, and whoever holds the returned [`Device`](super::device::Device) answers it; nothing here waits for that.
//!
//! On macOS everybody goes through macFUSE's helper, which hands the descriptor over before it mounts, and mounts for as long as it
//! takes the server to answer what the kernel asks meanwhile. So a mount is begun, served, and then finished: [`Mounting`].
//!
//! Mounts are always `nosuid,nodev`: the files are another machine's, and its root is not ours.

mod helper;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "macos", test))]
#[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "the tests of this system are tests of it"))]
mod macos;

pub use helper::HelperError;
#[cfg(target_os = "linux")]
pub use linux::*;
#[cfg(target_os = "macos")]
pub use macos::*;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;

use super::device::DeviceError;
use rustix::io::Errno;
use std::path::PathBuf;
use thiserror::Error;

/// Who may use the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The owner alone; not even root.
    Owner,
    /// Everybody (`allow_other`). Unless the mounting user is root, `/etc/fuse.conf` has to permit it; on macOS he has to be an
    /// administrator.
    Everyone,
}

/// Who checks permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionChecks {
    /// The kernel, by the attributes that the server tells (`default_permissions`).
    Kernel,
    /// The server, in each request.
    Server,
}

/// Whether the mount can change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It can.
    ReadWrite,
    /// The kernel refuses changes with EROFS.
    ReadOnly,
}

/// What a mount is like.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What is mounted, as the mount table shows it.
    pub source: Vec<u8>,
    /// Who may use it.
    pub audience: Audience,
    /// Who checks permissions.
    pub permissions: PermissionChecks,
    /// Whether it can be written.
    pub access: Access,
    /// The most bytes of a READ that is not readahead; the kernel's own limit if `None`.
    pub max_read: Option<u32>,
    /// The owner's user. Only root may choose: `fusermount3` takes the caller's.
    pub uid: u32,
    /// The owner's group, with the same restriction.
    pub gid: u32,
}

impl MountOptions {
    /// A writable mount of `source` for the calling user alone, checked by the kernel.
    pub fn private(source: &[u8]) -> Self {
        Self {
            source: source.to_vec(),
            audience: Audience::Owner,
            permissions: PermissionChecks::Kernel,
            access: Access::ReadWrite,
            max_read: None,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// Options that the file system itself takes, in the spelling that the kernel and the helper share.
    fn common(&self) -> Vec<String> {
        let mut options = Vec::new();
        if self.permissions == PermissionChecks::Kernel {
            options.push("default_permissions".to_owned());
        }
        if self.audience == Audience::Everyone {
            options.push("allow_other".to_owned());
        }
        if let Some(bytes) = self.max_read {
            options.push(format!("max_read={bytes}"));
        }
        options
    }
}

/// Why a mount did not come to be.
#[derive(Debug, Error)]
pub enum MountError {
    /// No device to serve it with.
    #[error("could not mount `{}`", path.display())]
    Device {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: DeviceError,
    },
    /// The kernel refused. ENODEV: it has no FUSE. EPERM: not root enough, as in a container.
    #[error("could not mount `{}`", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The source's name cannot be told to the kernel.
    #[error("a source with a NUL in its name cannot be mounted on `{}`", .0.display())]
    SourceName(PathBuf),
    /// Only root mounts for others.
    #[error("only root can mount `{}` for user {uid}", path.display())]
    ForAnother {
        /// Where.
        path: PathBuf,
        /// Whom it was for.
        uid: u32,
    },
    /// The helper could not do it.
    #[error("could not mount `{}`", path.display())]
    Helper {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: HelperError,
    },
}

impl MountError {
    /// Whether the user has no right to mount there, or to mount so.
    pub fn is_denied(&self) -> bool {
        match self {
            MountError::Refused { source, .. } => matches!(*source, Errno::ACCESS | Errno::PERM),
            MountError::Helper { source: HelperError::Refused(words), .. } => {
                system::DENIED.iter().any(|denied| words.contains(denied))
            }
            MountError::ForAnother { .. } => true,
            MountError::Helper { .. } | MountError::Device { .. } | MountError::SourceName(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_helper_denies_is_told_from_what_it_cannot_do() {
        let helper = |words: &str| MountError::Helper {
            path: "/m".into(),
            source: HelperError::Refused(words.to_owned()),
        };
        let cases = [
            ("fusermount3: user has no write access to mountpoint /m", true),
            ("fusermount3: mountpoint /m not owned by user", true),
            ("fusermount3: failed to access mountpoint /m: Permission denied", true),
            ("fusermount3: mount failed: Operation not permitted", true),
            ("fusermount3: fuse device not found, try 'modprobe fuse' first", false),
        ];
        for (words, denied) in cases {
            assert_eq!(helper(words).is_denied(), denied, "{words}");
        }
    }

    #[test]
    fn the_options_are_spelt_as_the_kernel_reads_them() {
        let mut options = MountOptions::private(b"ssh://far/x");
        assert_eq!(options.common(), ["default_permissions"]);
        options.audience = Audience::Everyone;
        options.permissions = PermissionChecks::Server;
        options.max_read = Some(4096);
        assert_eq!(options.common(), ["allow_other", "max_read=4096"]);
    }
}
