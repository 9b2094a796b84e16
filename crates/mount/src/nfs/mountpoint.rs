//! Mounting what is served with this computer's own NFS client, where it has one.
//!
//! Only root may, and only a kernel with the client can: Linux, where `nfs` is a file system type, or becomes one by
//! loading a module. Elsewhere a mount is served all the same, for clients that need no kernel; the person is told how
//! to reach it.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use thiserror::Error;

use super::EXPORT;
use super::limits::TRANSFER_BYTES_MAX;

/// How long the client believes attributes, in seconds: it is not told of changes, and this is how late it sees them.
const ATTRIBUTES_BELIEVED_S: u32 = 1;

/// How long the client waits before it sends a call again, in tenths of a second. Over TCP only a lost connection loses
/// calls, so this is long.
const RESEND_DS: u32 = 600;

/// Why the kernel cannot mount. The mount is served none the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoKernelMount {
    /// Only root may mount.
    #[error("only root may mount through the kernel's NFS client")]
    NotRoot,
    /// The kernel has no client.
    #[error("this kernel has no NFS client")]
    NoClient,
}

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
}

/// Whether this computer's kernel can mount what is served. Asks for the module to be loaded if it has to be, which may
/// take a moment.
pub fn kernel_can_mount() -> Result<(), NoKernelMount> {
    if !rustix::process::geteuid().is_root() {
        return Err(NoKernelMount::NotRoot);
    }
    if has_client() {
        return Ok(());
    }
    let loaded = Command::new("modprobe")
        .args(["-q", "nfsv3"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match loaded {
        Ok(status) if status.success() && has_client() => Ok(()),
        Ok(_) => Err(NoKernelMount::NoClient),
        Err(error) => {
            tracing::debug!(%error, "modprobe could not be run");
            Err(NoKernelMount::NoClient)
        }
    }
}

fn has_client() -> bool {
    let read: io::Result<String> = fs::read_to_string("/proc/filesystems");
    read.is_ok_and(|types| types.lines().any(|line| line.split_whitespace().last() == Some("nfs")))
}

/// Mounts what is served on `port` at `path`, an existing directory. The server must run in another thread: the kernel
/// asks it before this returns.
pub fn mount(path: &Path, port: u16, access: super::Access) -> Result<(), MountError> {
    kernel_can_mount()?;
    let options = CString::new(mount_options(port)).expect("numbers and words without a NUL");
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if access == super::Access::ReadOnly {
        flags |= MountFlags::RDONLY;
    }
    let source = format!("127.0.0.1:{EXPORT}");
    rustix::mount::mount(source.as_str(), path, "nfs", flags, options.as_c_str()).map_err(|source| {
        match source {
            Errno::NODEV => NoKernelMount::NoClient.into(),
            source => MountError::Refused { path: path.to_path_buf(), source },
        }
    })
}

/// What `mount.nfs` would tell the kernel.
///
/// `nolock`: locks are kept by the client, for there is no lock server. `noacl`: there is no ACL server either.
/// `noresvport`: nothing is gained by low ports, of which there are few. `hard`: a worker that restarts is waited for.
fn mount_options(port: u16) -> String {
    let (size, believed, resend) = (TRANSFER_BYTES_MAX, ATTRIBUTES_BELIEVED_S, RESEND_DS);
    format!(
        "vers=3,proto=tcp,mountproto=tcp,addr=127.0.0.1,mountaddr=127.0.0.1,port={port},mountport={port},mountvers=3,\
         rsize={size},wsize={size},nolock,noacl,noresvport,hard,timeo={resend},sec=sys,nosharecache,actimeo={believed}"
    )
}

/// Unmounts what is at `path`. With `force`, also what is in use: processes in it see errors.
pub fn unmount(path: &Path, force: bool) -> Result<(), Errno> {
    let mut flags = UnmountFlags::NOFOLLOW;
    if force {
        flags |= UnmountFlags::FORCE | UnmountFlags::DETACH;
    }
    rustix::mount::unmount(path, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_client_in_the_kernel_that_is_said_and_nothing_is_mounted() {
        let possible = kernel_can_mount();
        let Err(reason) = possible else { return };
        let place = tempfile::tempdir().unwrap();
        let mounted = mount(place.path(), 1, super::super::Access::ReadWrite);
        assert!(matches!(mounted, Err(MountError::NotPossible(said)) if said == reason), "{mounted:?}");
    }
}
