//! Linux: a socket's name in a space of names of its own, which is free again with the end of whoever had it.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

pub(super) type Lock = UnixListener;

/// Takes it; `None` while another one has it. Fails when there can be no such name.
pub(super) fn take(name: &str) -> io::Result<Option<Lock>> {
    let address = SocketAddr::from_abstract_name(name)?;
    match UnixListener::bind_addr(&address) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}
