//! `tunnel.*`: a port or a unix socket of a machine, here; or one of this computer, there.
//!
//! A tunnel belongs to the daemon and ends with the connection to its machine, or when it is told to.

use serde::{Deserialize, Serialize};

use super::id::TunnelId;
use super::machine::{Caller, Machine};
use super::status::Tunnel;
use crate::endpoint::Endpoint;

/// The most tunnels of one machine: each has a process there.
pub const TUNNELS_MAX: usize = 64;

/// Opens a tunnel. Answered once connections are accepted, with the ports that were chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Which machine's end is the other one.
    pub machine: Machine,
    /// The end here: `PORT`, `HOST:PORT` or an absolute path.
    pub local: Endpoint,
    /// The end there.
    pub remote: Endpoint,
    /// Connections are accepted there and lead here.
    #[serde(default)]
    pub reverse: bool,
    /// Who asks.
    pub caller: Caller,
}

/// Asks for all tunnels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// All tunnels, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnels {
    /// Each of them.
    pub tunnels: Vec<Tunnel>,
}

/// Closes a tunnel. Answered when nothing of it is left; connections that go through it are reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// Which.
    pub tunnel: TunnelId,
}

/// It is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Which.
    pub tunnel: TunnelId,
}
