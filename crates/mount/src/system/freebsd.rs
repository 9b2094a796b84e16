//! FreeBSD: `nmount`, with the handle of the root. `mount_nfs` would ask a port mapper for the MOUNT protocol, and there is none.

use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use super::bsd::{c_string, last_errno, value};
use super::{NoKernelMount, Served};
use crate::nfs::Access;
use crate::nfs::limits::TRANSFER_BYTES_MAX;
use crate::nfs::mountpoint::{ATTRIBUTES_BELIEVED_S, MountError, RESEND_DS, SOURCE};

/// Whether this user may mount. The client is part of the usual kernel, or a module that mounting loads; the mount itself says so if there
/// is none.
pub(crate) fn kernel_can_mount() -> Result<(), NoKernelMount> {
    let may_users = || value::<4>(c"vfs.usermount").is_ok_and(|value| value.iter().any(|byte| *byte != 0));
    if rustix::process::geteuid().is_root() || may_users() { Ok(()) } else { Err(NoKernelMount::NotRoot) }
}

/// Mounts what is served at `path`.
pub(crate) fn mount_nfs(path: &Path, served: Served<'_>) -> Result<(), MountError> {
    nmount(path, served).map_err(|source| match source {
        Errno::NODEV | Errno::OPNOTSUPP => NoKernelMount::NoClient.into(),
        source => MountError::Refused { path: path.to_path_buf(), source },
    })
}

/// `nolockd`: locks are kept by the client, for there is no lock server. `hard`: a worker that restarts is waited for. Attributes are
/// believed for a second, for the client is not told of changes.
fn nmount(path: &Path, served: Served<'_>) -> Result<(), Errno> {
    let address = address(served.port);
    let numbers = [("timeout", RESEND_DS), ("actimeo", ATTRIBUTES_BELIEVED_S)];
    let numbers = numbers.into_iter().chain(["rsize", "wsize"].map(|name| (name, TRANSFER_BYTES_MAX)));
    let mut options = vec![
        ("fstype", text("nfs")?),
        ("fspath", text(path.as_os_str())?),
        ("hostname", text(SOURCE)?),
        ("addr", address.to_vec()),
        ("fh", served.root.to_vec()),
        ("sec", text("sys")?),
    ];
    for name in ["nfsv3", "tcp", "hard", "nolockd", "noresvport"] {
        options.push((name, Vec::new()));
    }
    for (name, number) in numbers {
        options.push((name, text(number.to_string())?));
    }
    let mut flags = libc::MNT_NOSUID;
    if served.access == Access::ReadOnly {
        flags |= libc::MNT_RDONLY;
    }
    let names = options.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>, Errno>>()?;
    let mut parts = Vec::with_capacity(2 * options.len());
    for (name, (_, value)) in names.iter().zip(&options) {
        parts.extend([part(name), part(value)]);
    }
    let flags = libc::c_int::try_from(flags).map_err(|_| Errno::INVAL)?;
    // SAFETY: each part is of bytes that live through the call; the kernel copies what it is told, and writes nothing, as no option is
    // for its answer.
    match unsafe { libc::nmount(parts.as_mut_ptr(), parts.len() as libc::c_uint, flags) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// A name or a text for the kernel, with its NUL.
fn text(text: impl AsRef<std::ffi::OsStr>) -> Result<Vec<u8>, Errno> {
    Ok(c_string(text.as_ref().as_bytes())?.into_bytes_with_nul())
}

/// A switch has no value at all.
fn part(bytes: &[u8]) -> libc::iovec {
    let base = if bytes.is_empty() { std::ptr::null_mut() } else { bytes.as_ptr().cast_mut().cast() };
    libc::iovec { iov_base: base, iov_len: bytes.len() }
}

/// The server's address, as the kernel has it in memory: length, family, port, and 127.0.0.1.
fn address(port: u16) -> [u8; 16] {
    let mut address = [0; 16];
    address[0] = 16;
    address[1] = libc::AF_INET as u8;
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&Ipv4Addr::LOCALHOST.octets());
    address
}

/// Nothing is mounted through FUSE.
pub(super) fn is_own_fuse(_fs_type: &[u8], _source: &[u8]) -> bool {
    false
}

/// Puts a request to a mount that its server answers by itself.
pub(crate) fn put_request(path: &Path) -> Result<(), Errno> {
    super::bsd::ask_for_root(path)
}

/// What the kernel took at its start.
pub(crate) fn boot_id() -> Vec<u8> {
    value::<16>(c"kern.boot_id").unwrap_or_default()
}
