//! A guest's network, for which this computer needs neither root nor a rule, an interface or a route of its own.
//!
//! ```text
//!  guest ══ virtio ══ VMM ══ its own network ──► sockets of this computer
//!                      ║                                   ▲
//!                 out ▼ ▲ back                             └── 127.0.0.1:HOST, for each forwarded port
//!                     gate     (`stead network`)
//! ```
//!
//! The VMM makes sockets of this computer of a guest's connections, as any program of its user would open them, and passes on
//! what connects to a forwarded port. Its idea of a network is a generous one: whoever connects to the gateway is connected to
//! this computer's loopback. So everything that the guest sends goes through the [`gate`] first, and there is none without.
//!
//! A guest is the only one on its network, so every guest has the same addresses, which are none of any network outside: they
//! are of a block that is kept for the near end of a tunnel.
//!
//! | address | |
//! |---|---|
//! | [`GUEST`] | the guest |
//! | [`GATEWAY`] | the way out; also who connects to a forwarded port |
//! | [`RESOLVER`] | whoever this computer asks for names |
//!
//! Invariants:
//!
//! - Nothing that a guest sends gets to this computer's loopback, and so to what another guest's ports are forwarded from.
//! - What a guest sends goes nowhere while there is no gate.
//! - The VMM has the network, and a gate ends with it: nothing is left of either, whoever was killed.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use serde::{Deserialize, Serialize};
use supervisor::{Process, Spawn};
use wire::api::ErrorKind;
use wire::api::vm::{FORWARDS_MAX, Forward};

use crate::error::{Error, Result};

pub mod frames;
pub mod gate;

/// The socket on which the VMM shows what its guest sends.
pub const OUT: &str = "frames-out";

/// The socket on which it is told what of that may go on.
pub const BACK: &str = "frames-back";

/// The guest's own address.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);

/// The way out.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);

/// Whom a guest asks for names.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 3);

/// How many bits of these addresses are those of the network.
pub const PREFIX: u8 = 29;

/// What a microVM has of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Ports of this computer's loopback that lead to ports of the guest.
    #[serde(default)]
    pub ports: Vec<Forward>,
}

impl Network {
    /// What the guest's kernel is told of it.
    pub fn settings(&self) -> String {
        format!("stead.ip={GUEST}/{PREFIX} stead.gw={GATEWAY} stead.dns={RESOLVER}")
    }

    /// Refuses what can never be.
    pub fn check(&self) -> Result<()> {
        if self.ports.len() > FORWARDS_MAX {
            let message = format!("a vm has at most {FORWARDS_MAX} forwarded ports");
            return Err(Error::new(ErrorKind::Usage, message));
        }
        for (at, forward) in self.ports.iter().enumerate() {
            if forward.host == 0 || forward.guest == 0 {
                return Err(Error::new(ErrorKind::Usage, "a port that is forwarded is 1 to 65535"));
            }
            if self.ports[..at].iter().any(|earlier| earlier.host == forward.host) {
                let message = format!("port {} of this computer is forwarded twice", forward.host);
                return Err(Error::new(ErrorKind::Usage, message));
            }
        }
        Ok(())
    }

    /// Whether its ports can be forwarded now. Somebody may take one in the next moment: then the VMM does not start.
    pub fn preflight(&self) -> Result<()> {
        for forward in &self.ports {
            let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, forward.host));
            listening.map_err(|error| {
                let kind = match error.kind() {
                    std::io::ErrorKind::AddrInUse => ErrorKind::Conflict,
                    std::io::ErrorKind::PermissionDenied => ErrorKind::Refused,
                    _ => ErrorKind::Failure,
                };
                let message = format!("port {} of this computer cannot be forwarded: {error}", forward.host);
                Error::new(kind, message)
            })?;
        }
        Ok(())
    }
}

/// Starts a gate for the VMM that has its sockets there, or will in a moment. Needs a tokio runtime.
pub fn open_gate(sockets: &Path) -> Result<Process> {
    let gate = Spawn::new(supervisor::spawn::own_program()).argument(gate::PART).argument(sockets).spawn();
    gate.map_err(|error| Error::new(ErrorKind::Failure, format!("could not start a network: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(ports: &[(u16, u16)]) -> Network {
        Network { ports: ports.iter().map(|&(host, guest)| Forward { host, guest }).collect() }
    }

    #[test]
    fn what_can_never_be_forwarded_is_refused() {
        network(&[(8080, 80), (8081, 80)]).check().unwrap();
        for wrong in [&[(0, 80)][..], &[(80, 0)], &[(80, 1), (81, 2), (80, 3)]] {
            assert_eq!(network(wrong).check().unwrap_err().kind, ErrorKind::Usage, "{wrong:?}");
        }
        let many: Vec<_> = (1..=FORWARDS_MAX as u16 + 1).map(|port| (port, 80)).collect();
        assert!(network(&many).check().is_err());
    }

    #[test]
    fn a_port_that_is_taken_is_named_before_anything_is_started() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = network(&[(port, 80)]).preflight().unwrap_err();
        assert!(error.kind == ErrorKind::Conflict && error.message.contains(&port.to_string()), "{error}");
        drop(taken);
        network(&[(port, 80)]).preflight().unwrap();
    }

    #[test]
    fn the_addresses_are_of_one_network() {
        let prefix = |address: Ipv4Addr| u32::from(address) >> (32 - PREFIX);
        assert!(prefix(GUEST) == prefix(GATEWAY) && prefix(GUEST) == prefix(RESOLVER));
        let settings = "stead.ip=192.0.0.2/29 stead.gw=192.0.0.1 stead.dns=192.0.0.3";
        assert_eq!(Network::default().settings(), settings);
    }
}
