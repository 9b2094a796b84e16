//! Mounting and unmounting.
//!
//! As root the mount is a system call. Anybody else goes through the setuid helper `fusermount3`, which
//! checks that the directory is the user's and hands the device's descriptor over. Either way the kernel
//! queues INIT at once, and whoever holds the returned [`Device`] answers it; nothing here waits for that.
//!
//! Mounts are always `nosuid,nodev`: the files are another machine's, and its root is not ours.

mod fusermount;
mod table;

pub use table::{AbortError, Connection, MountEntry, Mounts, TableError};

use super::device::{Device, DeviceError};
use crate::mountpoint::{MountPoint, Unmount};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// The file system type that our mounts have in the mount table.
pub const FS_TYPE: &str = "fuse.stead";
const SUBTYPE: &str = "stead";

/// The mode of the root directory as far as the mount itself says it: a directory.
const ROOT_MODE: u32 = libc::S_IFDIR;

/// Who may use the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The owner alone; not even root.
    Owner,
    /// Everybody (`allow_other`). Unless the mounting user is root, `/etc/fuse.conf` has to permit it.
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
                fusermount::DENIED.iter().any(|denied| words.contains(denied))
            }
            MountError::ForAnother { .. } => true,
            MountError::Helper { .. } | MountError::Device { .. } | MountError::SourceName(_) => false,
        }
    }
}

/// What went wrong with `fusermount3`.
#[derive(Debug, Error)]
pub enum HelperError {
    /// It is not there.
    #[error("`{}` is not installed (package fuse3)", fusermount::PROGRAM)]
    NotInstalled,
    /// It could not be run.
    #[error("could not run `{}`", fusermount::PROGRAM)]
    Run(#[source] io::Error),
    /// It said no, in its own words.
    #[error("{0}")]
    Refused(String),
    /// It did not come back.
    #[error("`{}` did not finish within {waited:?}", fusermount::PROGRAM)]
    Late {
        /// How long.
        waited: Duration,
    },
    /// It succeeded and did not pass what it should.
    #[error("`{}` passed no descriptor", fusermount::PROGRAM)]
    NoDescriptor,
}

/// Mounts, by system call as root and through `fusermount3` otherwise. The returned device has INIT queued.
pub fn mount(point: &MountPoint, options: &MountOptions) -> Result<Device, MountError> {
    if rustix::process::geteuid().is_root() {
        return mount_by_syscall(point, options);
    }
    mount_by_helper(point, options)
}

fn mount_by_syscall(point: &MountPoint, options: &MountOptions) -> Result<Device, MountError> {
    let path = point.path();
    let source =
        CString::new(options.source.as_slice()).map_err(|_| MountError::SourceName(path.to_path_buf()))?;
    let device = Device::open().map_err(|source| MountError::Device { path: path.to_path_buf(), source })?;
    let mut words = vec![
        format!("fd={}", device.as_fd().as_raw_fd()),
        format!("rootmode={ROOT_MODE:o}"),
        format!("user_id={}", options.uid),
        format!("group_id={}", options.gid),
    ];
    words.extend(options.common());
    let data = CString::new(words.join(",")).expect("words of digits and letters have no NUL");
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if options.access == Access::ReadOnly {
        flags |= MountFlags::RDONLY;
    }
    match rustix::mount::mount(source.as_c_str(), path, FS_TYPE, flags, data.as_c_str()) {
        Ok(()) => Ok(device),
        Err(source) => Err(MountError::Refused { path: path.to_path_buf(), source }),
    }
}

fn mount_by_helper(point: &MountPoint, options: &MountOptions) -> Result<Device, MountError> {
    let path = point.path();
    if options.uid != rustix::process::getuid().as_raw() {
        return Err(MountError::ForAnother { path: path.to_path_buf(), uid: options.uid });
    }
    if options.source.contains(&0) {
        return Err(MountError::SourceName(path.to_path_buf()));
    }
    let mut words: Vec<Vec<u8>> = ["nosuid", "nodev"].map(|word| word.as_bytes().to_vec()).into();
    words.push(match options.access {
        Access::ReadWrite => b"rw".to_vec(),
        Access::ReadOnly => b"ro".to_vec(),
    });
    words.push(format!("subtype={SUBTYPE}").into_bytes());
    words.push([b"fsname=".as_slice(), &fusermount::escape(&options.source)].concat());
    words.extend(options.common().into_iter().map(String::into_bytes));
    match fusermount::mount(path, &words.join(&b',')) {
        Ok(descriptor) => Ok(Device::from_fd(descriptor)),
        Err(source) => Err(MountError::Helper { path: path.to_path_buf(), source }),
    }
}

/// Why a mount is still there.
#[derive(Debug, Error)]
pub enum UnmountError {
    /// In use.
    #[error("`{}` is in use", .0.display())]
    Busy(PathBuf),
    /// Nothing to unmount.
    #[error("`{}` is not a mount point", .0.display())]
    NotMounted(PathBuf),
    /// The kernel refused.
    #[error("could not unmount `{}`", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The helper could not do it.
    #[error("could not unmount `{}`", path.display())]
    Helper {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: HelperError,
    },
}

/// Unmounts what is at `path`, which is as the mount table has it: absolute, without symbolic links.
pub fn unmount(path: &Path, how: Unmount) -> Result<(), UnmountError> {
    if !rustix::process::geteuid().is_root() {
        return fusermount::unmount(path, how).map_err(|source| match source {
            HelperError::Refused(words) if words.contains(fusermount::BUSY) => {
                UnmountError::Busy(path.to_path_buf())
            }
            source => UnmountError::Helper { path: path.to_path_buf(), source },
        });
    }
    let mut flags = UnmountFlags::NOFOLLOW;
    match how {
        Unmount::IfIdle => {}
        Unmount::Detach => flags |= UnmountFlags::DETACH,
        // With FORCE, FUSE aborts the connection before the mount is looked at, also where no fusectl is mounted.
        Unmount::Abort => flags |= UnmountFlags::FORCE | UnmountFlags::DETACH,
    }
    rustix::mount::unmount(path, flags).map_err(|source| match source {
        Errno::BUSY => UnmountError::Busy(path.to_path_buf()),
        Errno::INVAL | Errno::NOENT => UnmountError::NotMounted(path.to_path_buf()),
        source => UnmountError::Refused { path: path.to_path_buf(), source },
    })
}

/// The path's bytes, as the helper takes them.
fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmounting_what_is_no_mount_says_so() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: not root");
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let refused = unmount(scratch.path(), Unmount::IfIdle);
        assert!(matches!(refused, Err(UnmountError::NotMounted(_))), "{refused:?}");
    }

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
