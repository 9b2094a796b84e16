//! Who is at the other end of a connection.
//!
//! NFS believes what a call says of its user. That is all right for a kernel, which says it of the process that asked;
//! it is not for a program, which can say anything. So each connection is traced to the user of the socket at its other
//! end, in `/proc/net/tcp`: the kernel's own client has root's sockets and may speak for others, any other process only
//! for its own user.
//!
//! What this does not protect: against root; against a process that was handed a connected socket by the user; on
//! systems other than Linux, against anyone on this computer, for there the user of a loopback connection is not told.
//! What travels is not encrypted, but does not leave the computer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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
    socket_user((their_ip, theirs.port()), (our_ip, ours.port())).await
}

#[cfg(target_os = "linux")]
async fn socket_user(theirs: (Ipv4Addr, u16), ours: (Ipv4Addr, u16)) -> Result<Peer, Stranger> {
    let table = tokio::task::spawn_blocking(|| std::fs::read_to_string("/proc/net/tcp")).await;
    match table {
        Ok(Ok(table)) => user_in(&table, theirs, ours).map(Peer::User).ok_or(Stranger::Gone),
        Ok(Err(error)) => {
            tracing::warn!(%error, "could not read /proc/net/tcp; the connection is refused");
            Err(Stranger::Gone)
        }
        Err(_ended) => Err(Stranger::Gone),
    }
}

#[cfg(not(target_os = "linux"))]
async fn socket_user(_theirs: (Ipv4Addr, u16), _ours: (Ipv4Addr, u16)) -> Result<Peer, Stranger> {
    Ok(Peer::Unknown)
}

/// The user of the established socket `local` that is connected to `remote`.
fn user_in(table: &str, local: (Ipv4Addr, u16), remote: (Ipv4Addr, u16)) -> Option<u32> {
    /// Sockets that are being closed have no user any more, and show root's.
    const ESTABLISHED: &str = "01";
    let (local, remote) = (in_table(local), in_table(remote));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let matches = fields.next()? == local && fields.next()? == remote && fields.next()? == ESTABLISHED;
        // Behind the state: both queues, the timer, and how often it has sent again.
        if matches { fields.nth(3)?.parse().ok() } else { None }
    })
}

/// An address as the table writes it: the number in memory, in hexadecimal, then the port.
fn in_table((ip, port): (Ipv4Addr, u16)) -> String {
    format!("{:08X}:{port:04X}", u32::from_ne_bytes(ip.octets()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0801 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 0100007F:C350 0100007F:0801 06 00000000:00000000 03:000001 00000000     0        0 0 3 0
   2: 0100007F:C351 0100007F:0801 01 00000000:00000000 00:00000000 00000000  1001        0 2 1 0 20 4 30 10 -1
   3: 0100007F:0801 0100007F:C351 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1
";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_other_ends_user_is_found_and_closing_sockets_have_none() {
        let localhost = Ipv4Addr::LOCALHOST;
        let user = |port| user_in(TABLE, (localhost, port), (localhost, 0x0801));
        assert_eq!(user(0xC351), Some(1001));
        assert_eq!(user(0xC350), None, "in TIME_WAIT");
        assert_eq!(user(0xC352), None);
    }

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
