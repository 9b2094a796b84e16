//! macOS: what the kernel tells of a process.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// What is said to whoever wants the backend `file-provider`.
pub(crate) const NO_FILE_PROVIDER: &str =
    "file-provider needs `/Applications/Stead.app`, which is not there: here nfs";

/// The program that adds and removes domains of File Provider: that of the application around the extension.
pub(crate) const DOMAINS: Option<&str> = Some("/Applications/Stead.app/Contents/MacOS/Stead");

/// What takes a mount away that nobody serves.
pub(crate) const UNMOUNT: &str = "umount -f";

/// How many clients wait to be accepted by a socket that somebody else has made.
const BACKLOG: i32 = 128;

/// Whether a socket listens. The system does not say so, and it does no harm to one that listens to be told again; one that cannot
/// is refused.
pub(crate) fn listens(socket: &OwnedFd) -> bool {
    rustix::net::listen(socket, BACKLOG).is_ok()
}

/// How much memory this process has.
pub(crate) fn resident_bytes() -> io::Result<u64> {
    let mut told = MaybeUninit::<libc::proc_taskinfo>::zeroed();
    let bytes = size_of::<libc::proc_taskinfo>() as libc::c_int;
    // SAFETY: the kernel writes at most as many bytes as the object has.
    let written = unsafe {
        libc::proc_pidinfo(libc::getpid(), libc::PROC_PIDTASKINFO, 0, told.as_mut_ptr().cast(), bytes)
    };
    if written != bytes {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is all there, and any bytes are numbers.
    Ok(unsafe { told.assume_init() }.pti_resident_size)
}
