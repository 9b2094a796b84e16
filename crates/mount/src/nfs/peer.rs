//! Who is at the other end of a connection.
//!
//! NFS believes what a call says of its user. That is all right for a kernel, which says it of the process that asked;
//! it is not for a program, which can say anything. So each connection is traced to the user of the socket at its other
//! end, where the system tells it: the kernel's own client has root's sockets and may speak for others, any other process only
//! for its own user.
//!
//! What this does not protect: against root; against a process that was handed a connected socket by the user; on
//! systems other than Linux, against anyone on this computer, for there the user of a loopback connection is not told.
//! What travels is not encrypted, but does not leave the computer.

use std::net::{IpAddr, SocketAddr};

use crate::system;

/// The user at the other end, as far as the system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This user's process, or, for root, perhaps the kernel.
    User(u32),
    /// A process of this computer.
    #[cfg_attr(target_os = "linux", allow(dead_code, reason = "Linux tells"))]
    Unknown,
}

/// Why a connection is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// Not from this computer.
    #[error("it does not come from the loopback address")]
    Remote,
    /// Its socket is not in the system's table, or no longer open.
    #[error("the system does not know its other end")]
    Gone,
    /// The mount is not for this user.
    #[error("it belongs to user {0}")]
    Other(u32),
}

/// Finds out who connected from `theirs` to `ours`.
pub async fn identify(theirs: SocketAddr, ours: SocketAddr) -> Result<Peer, Stranger> {
    let (IpAddr::V4(their_ip), IpAddr::V4(our_ip)) = (theirs.ip(), ours.ip()) else {
        return Err(Stranger::Remote);
    };
    if !their_ip.is_loopback() {
        return Err(Stranger::Remote);
    }
    system::socket_user((their_ip, theirs.port()), (our_ip, ours.port())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_of_this_process_is_this_users() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, theirs) = listener.accept().await.unwrap();
        let peer = identify(theirs, accepted.local_addr().unwrap()).await;
        assert_eq!(peer, Ok(Peer::User(rustix::process::geteuid().as_raw())));
        drop(client);
    }
}
