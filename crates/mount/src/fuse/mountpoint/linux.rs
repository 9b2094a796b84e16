//! Linux: the system call for root, and `fusermount3` for anybody else.

mod fusermount;
mod table;

pub use table::{AbortError, Connection, MountEntry, Mounts, TableError};

use super::helper::HelperError;
use super::{Access, MountError, MountOptions};
use crate::fuse::abi;
use crate::fuse::device::Device;
use crate::mountpoint::{MountPoint, Unmount};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use thiserror::Error;

pub(super) use fusermount::{DENIED, PROGRAM};

/// Where the helper comes from.
pub(super) const PACKAGE: &str = "package fuse3";

/// The file system type that our mounts have in the mount table.
pub const FS_TYPE: &str = "fuse.stead";
const SUBTYPE: &str = "stead";

/// The mode of the root directory as far as the mount itself says it: a directory.
const ROOT_MODE: u32 = abi::mode::DIRECTORY;

/// What is left to be done of a mount once it is served: nothing.
#[derive(Debug)]
pub struct Mounting(());

impl Mounting {
    /// The kernel has sent INIT already.
    pub fn begun(&mut self, _device: &Device) -> Result<(), HelperError> {
        Ok(())
    }

    /// It is mounted already.
    pub fn finish(self) -> Result<(), HelperError> {
        Ok(())
    }
}

/// As [`mount`].
pub fn begin(point: &MountPoint, options: &MountOptions) -> Result<(Device, Mounting), MountError> {
    mount(point, options).map(|device| (device, Mounting(())))
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
}
