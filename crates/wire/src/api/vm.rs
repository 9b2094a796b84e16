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

use serde::{Deserialize, Serialize};

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

/// Makes a microVM, which does not run. Answered once its disk is there.
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
