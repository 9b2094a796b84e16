//! What macOS and FreeBSD have in common: addresses of interfaces, the clock that goes on while the computer sleeps, NFS.

use std::ffi::CStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mount::nfs::mountpoint::kernel_can_mount;
use rustix::time::{ClockId, clock_gettime};
use wire::api::machine::{Check, Verdict};

use crate::rpc::machine::{found, works};

/// For how long the computer was asleep since this was called first. The monotonic clock of macOS counts that, and deadlines do
/// not; where both do, as on FreeBSD, it is nothing.
pub(crate) fn asleep() -> Duration {
    static BEGAN: OnceLock<(Duration, Instant)> = OnceLock::new();
    let monotonic = || {
        let time = clock_gettime(ClockId::Monotonic);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
    };
    let (clock, instant) = BEGAN.get_or_init(|| (monotonic(), Instant::now()));
    monotonic().saturating_sub(*clock).saturating_sub(instant.elapsed())
}

/// The names of all interfaces that are up, with their addresses, of both versions of the protocol. What has a new way to other networks has
/// a new address, nearly always.
pub(crate) fn network() -> Vec<u8> {
    /// Of a computer with more addresses the first ones stand for all.
    const BYTES_MAX: usize = 64 << 10;
    let mut seen = Vec::new();
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the call makes a list, and says where it begins.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        tracing::trace!(error = %std::io::Error::last_os_error(), "addresses could not be read");
        return seen;
    }
    let mut next = first;
    // SAFETY: the list is valid until it is freed, and ends with a null pointer.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        if seen.len() < BYTES_MAX && entry.ifa_flags & libc::IFF_UP as libc::c_uint != 0 {
            // SAFETY: the entry is of a list that has not been freed.
            unsafe { tell(entry, &mut seen) };
        }
    }
    // SAFETY: the list is freed once, and not used any more.
    unsafe { libc::freeifaddrs(first) };
    seen
}

/// Adds an address of the internet, with the interface it is of.
///
/// # Safety
///
/// The entry must be of a list that [`libc::getifaddrs`] has made.
unsafe fn tell(entry: &libc::ifaddrs, seen: &mut Vec<u8>) {
    // SAFETY: an address is null, or begins with its length and family.
    let Some(address) = (unsafe { entry.ifa_addr.as_ref() }) else { return };
    let bytes: &[u8] = match libc::c_int::from(address.sa_family) {
        // SAFETY: an address of that family is of that type.
        libc::AF_INET => unsafe {
            let address = entry.ifa_addr.cast::<libc::sockaddr_in>();
            std::slice::from_raw_parts((&raw const (*address).sin_addr).cast(), 4)
        },
        // SAFETY: the same.
        libc::AF_INET6 => unsafe {
            let address = entry.ifa_addr.cast::<libc::sockaddr_in6>();
            std::slice::from_raw_parts((&raw const (*address).sin6_addr).cast(), 16)
        },
        // Numbers of the hardware say nothing of the network.
        _ => return,
    };
    // SAFETY: the name is a string that ends with a NUL.
    let name = unsafe { CStr::from_ptr(entry.ifa_name) };
    seen.extend(name.to_bytes());
    seen.push(b' ');
    seen.extend(bytes);
}

/// Whether mounts can be made here.
pub(crate) fn mounting() -> Check {
    match kernel_can_mount() {
        Ok(()) => works("nfs", "through the kernel's client".to_owned()),
        Err(error) => Check {
            hint: Some("serve without mounting, for other NFS clients: -o no-kernel-mount".to_owned()),
            ..found("nfs", Verdict::Limited, error.to_string())
        },
    }
}
