//! `cache.*`: contents of far files that are kept on this computer's disk.

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use crate::bytestring::ByteString;

/// Asks what is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Show {}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// The directory, whether it is there or not.
    pub dir: ByteString,
    /// How many bytes there may be, of all machines together.
    pub limit: u64,
    /// How many there are, as they take room on the disk.
    pub bytes: u64,
    /// Of each machine of which something is kept, in the order of their names.
    pub machines: Vec<MachineCache>,
}

/// What is kept of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineCache {
    /// Which.
    pub machine: Machine,
    /// What it takes on the disk.
    pub bytes: u64,
    /// Of how many files there is something.
    pub files: u64,
}

/// Removes what is kept. What mounts use comes again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clear {
    /// Of which machine; of all without one.
    #[serde(default)]
    pub machine: Option<Machine>,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// What it took on the disk.
    pub bytes: u64,
    /// Of how many files there was something.
    pub files: u64,
}
