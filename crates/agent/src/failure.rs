//! From the machine's error numbers to the protocol's.

use rustix::io::Errno;
use wire::agent::Failure;

/// The failure with the machine's number and no further detail.
pub(crate) fn failure(errno: Errno) -> Failure {
    let number = u16::try_from(errno.raw_os_error()).unwrap_or(Errno::IO.raw_os_error() as u16);
    Failure { errno: wire::agent::Errno(number), detail: String::new() }
}
