//! `vm.*`: microVMs of this daemon.
//!
//! ```text
//!              create                 start              the guest serves its ports
//!   (nothing) ───────► creating ► stopped ───► starting ───────────► running
//!                                   ▲  ▲           │ failed            │ stop, or it powers itself off
//!                                   │  └───────────┤                   ▼
//!                                   │              ▼                stopping
//!                                   │           failed ──start──►      │
//!                                   └──────────────────────────────────┘
//! ```
//!
//! One that failed says why; it can be started again. A VMM goes on when the daemon ends, and the next daemon takes it over.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::machine::Caller;
use super::status::Vm;

/// The processors that a microVM can have.
pub const CPUS_MAX: u32 = 64;

/// The least memory a guest boots with, in MiB.
pub const MEMORY_MIB_MIN: u32 = 128;

/// The most memory a microVM can have, in MiB.
pub const MEMORY_MIB_MAX: u32 = 1 << 20;

/// The most microVMs of one daemon.
pub const VMS_MAX: usize = 256;

/// The most ports that are forwarded to one microVM.
pub const FORWARDS_MAX: usize = 64;

/// A port of this computer's loopback that leads to a port of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Here.
    pub host: u16,
    /// There.
    pub guest: u16,
}

/// The most snapshots of one microVM, without those that are being deleted: each makes the next read of what was not written since a little longer.
pub const SNAPSHOTS_MAX: usize = 32;

/// The largest disk of a microVM, in MiB.
pub const DISK_MIB_MAX: u32 = 16 << 20;

/// Makes a microVM, which does not run. Answered at once with the operation that does it; of one that fails or is cancelled
/// nothing is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// What it is to be called: also its host name.
    pub name: String,
    /// What it boots from.
    pub image: String,
    /// Processors, up to [`CPUS_MAX`]; 1 without it.
    #[serde(default)]
    pub cpus: Option<u32>,
    /// Memory in MiB, [`MEMORY_MIB_MIN`] to [`MEMORY_MIB_MAX`]; 512 without it.
    #[serde(default)]
    pub memory_mib: Option<u32>,
    /// Whether it has a network, on which it reaches what this computer does, but neither this computer's loopback nor any other
    /// microVM.
    #[serde(default)]
    pub nat: bool,
    /// Ports that lead to it, up to [`FORWARDS_MAX`]. It has a network then.
    #[serde(default)]
    pub ports: Vec<Forward>,
    /// How large its disk is to be, in MiB, up to [`DISK_MIB_MAX`]; as large as the image's without it, and no smaller.
    #[serde(default)]
    pub disk_mib: Option<u32>,
}

/// Changes a microVM that does not run. What is not said stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// Which.
    pub name: String,
    /// Processors, up to [`CPUS_MAX`].
    #[serde(default)]
    pub cpus: Option<u32>,
    /// Memory in MiB, [`MEMORY_MIB_MIN`] to [`MEMORY_MIB_MAX`].
    #[serde(default)]
    pub memory_mib: Option<u32>,
    /// How large its disk is to be, in MiB: no smaller than it is.
    #[serde(default)]
    pub disk_mib: Option<u32>,
    /// Whether it has a network. One without has no forwarded ports.
    #[serde(default)]
    pub nat: Option<bool>,
    /// All ports that lead to it from now on. It has a network then, unless there are none.
    #[serde(default)]
    pub ports: Option<Vec<Forward>>,
}

/// Starts a microVM. Answered once its agent can be reached; at once if it runs already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Which.
    pub name: String,
}

/// Has a microVM power itself off. Answered once its VMM has ended; at once if it does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Which.
    pub name: String,
    /// For how long the guest may take, in milliseconds, before its VMM is ended; 60 seconds without it.
    #[serde(default)]
    pub grace_ms: Option<u64>,
}

/// Ends a VMM as a power cut would. Answered once it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// Which.
    pub name: String,
}

/// Removes a microVM with its disk. Answered when nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// Which.
    pub name: String,
    /// Also one that runs, which is ended as by a power cut.
    #[serde(default)]
    pub force: bool,
}

/// It is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Which.
    pub name: String,
}

/// Keeps what is on the disk of a microVM that does not run. Nothing is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Which microVM's.
    pub name: String,
    /// What to call it; without it `snap-` and the first number that is free.
    #[serde(default)]
    pub snapshot: Option<String>,
}

/// Removes a snapshot. It is marked at once: no microVM is made of it any more. Its disk goes when none is over it but its own
/// microVM's, which does not run then: what that has written since is written into it, and takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteSnapshot {
    /// Of which microVM.
    pub name: String,
    /// Which.
    pub snapshot: String,
}

/// It is gone, or will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDeleted {
    /// Of which microVM.
    pub name: String,
    /// Which.
    pub snapshot: String,
    /// The microVMs with disks over it, for which it is there yet; none if it is gone.
    pub users: Vec<String>,
}

/// Makes a microVM of a snapshot of another one, with what that has, but for its forwarded ports. Answered at once with the
/// operation that does it, as [`Create`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// Of which.
    pub name: String,
    /// What it is to be called: also its host name.
    pub new: String,
    /// Of which snapshot; without it one is taken, which goes by itself when no microVM is made of it any more.
    #[serde(default)]
    pub snapshot: Option<String>,
}

/// Asks for one microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Show {
    /// Which.
    pub name: String,
}

/// Asks for all microVMs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// All microVMs, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vms {
    /// Each of them.
    pub vms: Vec<Vm>,
}

/// Asks what a guest has said on its console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    /// Which microVM's.
    pub name: String,
}

/// The end of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// Printable: what is no text is replaced.
    pub text: String,
}

/// Asks the agent of a microVM for nothing. It has to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// Which.
    pub name: String,
    /// Who asks.
    pub caller: Caller,
}

/// It has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// Which.
    pub name: String,
    /// After how long, in microseconds.
    pub round_trip_us: u64,
}

/// Asks what a microVM takes. It has to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Which.
    pub name: String,
    /// Who asks.
    pub caller: Caller,
}

/// What a microVM takes of this computer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Which.
    pub name: String,
    /// The processors' time since it was started, in milliseconds.
    pub cpu_ms: u64,
    /// Memory of this computer that its VMM has now.
    pub memory_bytes: u64,
    /// What its own disk takes, without the image.
    pub disk_bytes: u64,
    /// What its guest says of itself, if it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestUsage>,
}

/// What a guest says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestUsage {
    /// Memory that it has.
    pub memory_bytes: u64,
    /// Memory that a program could still have.
    pub available_bytes: u64,
    /// How many programs wanted a processor in the last minute, on average, times a hundred.
    pub load_hundredths: u32,
    /// What has come through its network since it booted.
    pub received_bytes: u64,
    /// What has left through its network since it booted.
    pub sent_bytes: u64,
}

/// Asks on which ports of a microVM something listens. It has to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// Which.
    pub name: String,
    /// Who asks.
    pub caller: Caller,
}

/// Where TCP connections are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// In which.
    pub name: String,
    /// By port.
    pub ports: Vec<Listener>,
}

/// A port that accepts connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// Its number.
    pub port: u16,
    /// To which of the guest's addresses they have to be.
    pub address: IpAddr,
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}
