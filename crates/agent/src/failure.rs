//! From the machine's error numbers to the protocol's.

use rustix::io::Errno;
use wire::agent::Failure;

/// The failure with the machine's number and no further detail.
pub(crate) fn failure(errno: Errno) -> Failure {
    let number = u16::try_from(errno.raw_os_error()).unwrap_or(Errno::IO.raw_os_error() as u16);
    Failure { errno: wire::agent::Errno(number), detail: String::new() }
}

/// The failure of a request that says nothing sensible, with the reason.
pub(crate) fn nonsense(reason: impl std::fmt::Display) -> Failure {
    Failure { detail: reason.to_string(), ..failure(Errno::INVAL) }
}

/// The machine's number as the protocol has it.
pub(crate) fn number(errno: Errno) -> wire::agent::Errno {
    failure(errno).errno
}
