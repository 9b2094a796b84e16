//! Linux: a socket's name in a space of names of its own, which is free again with the end of whoever had it.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

pub(super) type Lock = UnixListener;

/// Takes it; `None` while another one has it.
pub(super) fn take(name: &str) -> Option<Lock> {
    let address = SocketAddr::from_abstract_name(name).ok()?;
    UnixListener::bind_addr(&address).ok()
}
