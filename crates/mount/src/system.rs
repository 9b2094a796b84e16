//! What each system has a way of its own for. The module of the system that this is compiled for stands for all of it; nothing else here
//! but FUSE knows which one that is.
//!
//! | is | Linux | macOS | FreeBSD |
//! |---|---|---|---|
//! | what is mounted | `/proc/self/mountinfo` | `getfsstat` | the same |
//! | a mount of ours | the type `fuse.stead` | NFS of 127.0.0.1's export, or macFUSE with a mark in its source | NFS of 127.0.0.1's export |
//! | mounting NFS | `mount` | `mount_nfs`, for who owns the directory | `nmount`, for root or where `vfs.usermount` is set |
//! | taking a mount away by force | detached, its requests ended | `unmount` with `MNT_FORCE` | the same |
//! | who connects from this computer | `/proc/net/tcp` | not told | not told |
//! | which boot it is | the kernel's random id | the id of the boot session | the kernel's random id |
//! | no memory on a disk after a crash | not dumpable | a limit of 0 bytes | the same |
//! | a file that may be written at any time | inotify | not watched: no stream can be kept in reserve | the same |

#[cfg(any(target_os = "freebsd", target_os = "macos"))]
mod bsd;
#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(any(target_os = "freebsd", target_os = "macos"))]
pub use bsd::*;
#[cfg(target_os = "freebsd")]
pub(crate) use freebsd::*;
#[cfg(target_os = "linux")]
pub use linux::*;
#[cfg(target_os = "macos")]
pub(crate) use macos::*;

use thiserror::Error;

/// Why the kernel cannot mount what is served over NFS. The mount is served none the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoKernelMount {
    /// Only root may mount.
    #[error("only root may mount through the kernel's NFS client")]
    NotRoot,
    /// The kernel has no client.
    #[error("this kernel has no NFS client")]
    NoClient,
}

/// A server of NFS, as a kernel is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// Its port, of both protocols.
    pub port: u16,
    /// The handle of the root.
    pub root: &'a [u8],
    /// Whether anything may be changed.
    pub access: crate::nfs::Access,
}
