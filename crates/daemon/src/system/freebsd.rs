//! FreeBSD: what the kernel tells of a process.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// What is said to whoever wants the backend `file-provider`.
pub(crate) const NO_FILE_PROVIDER: &str = "file-provider is for macOS: here nfs";

/// The program that adds and removes domains of File Provider: none.
pub(crate) const DOMAINS: Option<&str> = None;

/// What takes a mount away that nobody serves.
pub(crate) const UNMOUNT: &str = "umount -f";

/// Whether a socket listens.
pub(crate) fn listens(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket) == Ok(true)
}

/// How much memory this process has.
pub(crate) fn resident_bytes() -> io::Result<u64> {
    // SAFETY: the call takes nothing and cannot fail.
    let own = unsafe { libc::getpid() };
    let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, own];
    let mut told = MaybeUninit::<libc::kinfo_proc>::zeroed();
    let mut bytes = size_of::<libc::kinfo_proc>();
    // SAFETY: the kernel writes at most `bytes` bytes, and then says how many.
    let code = unsafe {
        libc::sysctl(
            name.as_ptr(),
            name.len() as libc::c_uint,
            told.as_mut_ptr().cast(),
            &mut bytes,
            std::ptr::null(),
            0,
        )
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    if bytes != size_of::<libc::kinfo_proc>() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: it is all there, and any bytes are a `kinfo_proc`.
    let pages = u64::try_from(unsafe { told.assume_init() }.ki_rssize).unwrap_or_default();
    Ok(pages * rustix::param::page_size() as u64)
}
