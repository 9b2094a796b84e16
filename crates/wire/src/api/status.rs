//! The status document: everything the daemon owns, in one answer. Checks read it: fields are added, never renamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::ErrorObject;
use super::event::{OperationState, ThreadState, TunnelState, VmState};
use super::id::{ConnectionId, MountId, OperationId, ProcessId, TunnelId};
use super::machine::{Machine, Source};
use super::mount::{Access, BackendName, SyncMode};
use super::time::Timestamp;
use super::vm::Forward;
use crate::bytestring::ByteString;
use crate::endpoint::Endpoint;

/// Asks for the whole document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {}

/// The answer. Every array is there even when it is empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Who answers.
    pub daemon: Daemon,
    /// Machines that have a connection or a mount.
    pub machines: Vec<MachineStatus>,
    /// Live links.
    pub connections: Vec<Connection>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Threads.
    pub threads: Vec<Thread>,
    /// MicroVMs.
    pub vms: Vec<Vm>,
    /// Tunnels.
    pub tunnels: Vec<Tunnel>,
    /// Processes on machines.
    pub processes: Vec<Process>,
    /// Whatever takes longer than a second.
    pub operations: Vec<Operation>,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Its URL.
    pub machine: Machine,
    /// The state of the connection to it.
    pub state: ConnectionState,
    /// The agent there; none while it has not answered yet.
    pub agent: Option<Agent>,
}

/// The far side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its version.
    pub version: String,
}

/// `connecting → connected ⇄ reconnecting → disconnected`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// Being opened for the first time.
    Connecting,
    /// The agent answers.
    Connected,
    /// Lost, and being opened again.
    Reconnecting,
    /// Closed for good.
    Disconnected,
}

impl ConnectionState {
    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            ConnectionState::Connecting => "connecting",
            ConnectionState::Connected => "connected",
            ConnectionState::Reconnecting => "reconnecting",
            ConnectionState::Disconnected => "disconnected",
        }
    }
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// Where it leads.
    pub machine: Machine,
    /// How it is.
    pub state: ConnectionState,
    /// Since when it is so.
    pub since: Timestamp,
    /// Its local processes: ssh, or the child that is the agent.
    pub pids: Vec<u32>,
    /// While it is not connected: what stood in the way of the last try, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What mends that, where a person has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// Its id.
    pub id: MountId,
    /// What it shows.
    pub source: Source,
    /// Where it is, as an absolute path.
    pub dir: ByteString,
    /// What it is served through; `auto` has been decided by now.
    pub backend: BackendName,
    /// How it is.
    pub status: MountStatus,
    /// The process that serves it; none once it has failed.
    pub worker: Option<Worker>,
    /// What has not reached the machine yet.
    pub journal: Journal,
    /// What it has done so far.
    pub counters: Counters,
    /// The requests from the kernel that the worker which serves it now has taken, by what they ask for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub operations: BTreeMap<String, u64>,
    /// Whether it may be written to.
    pub access: Access,
    /// What `close` waits for.
    pub sync: SyncMode,
    /// What this mount cannot do here, in one line, such as taking over after its worker's death.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Why the link is lost, while it is, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the last probe found.
    #[serde(default)]
    pub health: Health,
    /// How the last worker that died left this mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<Crash>,
    /// The local port, of a backend that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What an NFS client of this computer is to mount, of the backend nfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<NfsExport>,
    /// What earlier mounts of the same source had not saved, if they had left anything, and what became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed: Option<Replayed>,
}

impl Mount {
    /// One that the system serves by itself: no worker tells what it does.
    pub fn of_system(
        id: MountId,
        source: Source,
        dir: ByteString,
        backend: BackendName,
        status: MountStatus,
    ) -> Mount {
        Mount {
            id,
            source,
            dir,
            backend,
            status,
            worker: None,
            journal: Journal::default(),
            counters: Counters::default(),
            operations: BTreeMap::new(),
            access: Access::ReadWrite,
            sync: SyncMode::Async,
            degraded: None,
            reason: None,
            health: Health::Healthy,
            crash: None,
            port: None,
            nfs: None,
            replayed: None,
        }
    }
}

/// How much of the paths in a [`Replayed`] is said, in bytes; the rest is counted, and is in the mount's log.
pub const REPLAYED_BYTES_MAX: usize = 8 << 10;

/// What became of what earlier mounts of a source had not saved, when the next one began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replayed {
    /// Writes that have been made to their files.
    pub writes: u64,
    /// How much content was saved, in their files or beside them.
    pub bytes: u64,
    /// Files that were not any more what the writes were for: what was to be written is in new ones beside them.
    pub aside: Vec<Aside>,
    /// What could not be saved this time either.
    pub left: Vec<Left>,
    /// Local directories that keep what is still being saved: it is not shown yet, and its files are not opened before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub saving: Vec<ByteString>,
    /// So many more of both.
    #[serde(skip_serializing_if = "is_none")]
    pub more: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_none(number: &u64) -> bool {
    *number == 0
}

/// What was put aside of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// Where the file is, or was, in the mount.
    pub of: ByteString,
    /// Where the new one is, in the mount.
    pub path: ByteString,
}

/// What could not be saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The local directory that keeps it.
    pub path: ByteString,
    /// Why, in one line.
    pub reason: String,
}

/// An export of NFS version 3 on 127.0.0.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NfsExport {
    /// The port of both programs, NFS and MOUNT.
    pub port: u16,
    /// The path to ask the MOUNT program for.
    pub export: String,
}

/// `active ⇄ reconnecting ⇄ disconnected`, `failed{reason}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MountStatus {
    /// It serves.
    Active,
    /// The link is lost and being opened again. What is cached is served.
    Reconnecting,
    /// The link is lost, and nobody is trying.
    Disconnected,
    /// Over: unmount, and mount again.
    Failed {
        /// Why, in one line.
        reason: String,
    },
}

/// What a probe of a mount found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Health {
    /// It answers.
    #[default]
    Healthy,
    /// It answers, and something is amiss.
    Degraded {
        /// What, in one line.
        why: String,
    },
    /// It does not answer.
    Failed {
        /// How that shows, in one line.
        why: String,
    },
}

/// The death of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// What it said last, in one line.
    pub message: String,
    /// The local file with the rest.
    pub report: ByteString,
    /// When that was written, right after the death.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// The process of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its process.
    pub pid: u32,
    /// How many came before it.
    pub restarts: u32,
}

/// Changes that were accepted here and have not been applied on the machine yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// How many.
    pub operations: u64,
    /// How much content they carry.
    pub bytes: u64,
}

/// Counts since the mount began, or since the daemon took it over. Of a worker that has died, what it did after it last
/// said how it does is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Requests from the kernel.
    pub requests: u64,
    /// Those answered from memory.
    pub hits: u64,
    /// Requests sent to the machine and waited for.
    pub round_trips: u64,
    /// Bytes that came from the machine, with what is around the content.
    pub bytes_read: u64,
    /// Bytes of contents that were read from the data cache on this computer's disk, in place of the machine.
    pub bytes_cached: u64,
    /// Bytes that went to the machine, with what is around the content.
    pub bytes_written: u64,
    /// Requests that were sent again after a link was lost.
    pub retries: u64,
    /// How often a lost link was opened again.
    pub reconnects: u64,
}

impl Counters {
    /// What both have counted.
    #[must_use]
    pub fn plus(self, other: Counters) -> Counters {
        Counters {
            requests: self.requests + other.requests,
            hits: self.hits + other.hits,
            round_trips: self.round_trips + other.round_trips,
            bytes_read: self.bytes_read + other.bytes_read,
            bytes_cached: self.bytes_cached + other.bytes_cached,
            bytes_written: self.bytes_written + other.bytes_written,
            retries: self.retries + other.retries,
            reconnects: self.reconnects + other.reconnects,
        }
    }
}

/// A copy-on-write line of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// The repository: its working copy, or its own directory if it has none.
    pub repo: ByteString,
    /// The commit it started from.
    pub base: String,
    /// The branch that is its `HEAD` at first.
    #[serde(default)]
    pub branch: String,
    /// Where it is mounted, or was last.
    pub dir: ByteString,
    /// What it is.
    pub state: ThreadState,
    /// How many paths differ from the base, as far as is known.
    pub changed: u64,
    /// Its mount, if it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<MountId>,
}

/// A microVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// What no other microVM has, whatever it is called.
    pub id: String,
    /// Where it is in its life.
    pub state: VmState,
    /// What it boots from.
    pub image: String,
    /// What runs it.
    pub engine: String,
    /// The VMM's process while there is one.
    pub pid: Option<u32>,
    /// Processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Whether it has a network.
    #[serde(default)]
    pub nat: bool,
    /// Ports of this computer's loopback that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Forward>,
    /// What is kept of its disk, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
    /// What it was made of, if not of its image alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// Why it failed, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is what `state` says.
    pub since: Timestamp,
}

/// A forwarded port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its id.
    pub id: TunnelId,
    /// Whose end is the other one.
    pub machine: Machine,
    /// The end here.
    pub local: Endpoint,
    /// The end there.
    pub remote: Endpoint,
    /// Whether connections are accepted there, and not here.
    #[serde(default)]
    pub reverse: bool,
    /// How it is.
    pub state: TunnelState,
    /// How many connections go through it.
    pub connections: u64,
    /// Since when it is there.
    pub since: Timestamp,
    /// What keeps its machine from being reached, in one line: connections wait meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A process on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub id: ProcessId,
    /// Where it runs.
    pub machine: Machine,
    /// What was started.
    pub command: Vec<ByteString>,
    /// `running`, `exited` or `lost`.
    pub state: String,
    /// What it exited with, as a shell would say it; none while it runs or if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// Why it is lost, or what keeps it from being asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The machine's number for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Whether it goes on without the command that started it.
    #[serde(default)]
    pub detached: bool,
    /// Whether it has a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Since when it is what `state` says.
    pub since: Timestamp,
}

/// What was on the disk of a microVM that did not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What it is called.
    pub name: String,
    /// When it was taken.
    pub created: Timestamp,
    /// It is being deleted: it goes once no disk is over it that has to stay as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
    /// It was taken for a fork, and goes with the last microVM that is made of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub for_fork: bool,
    /// What one that is to go waits for, or why it could not go when that was tried. Absent while it is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A snapshot of which a microVM was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Of which microVM.
    pub vm: String,
    /// The id of that.
    pub id: String,
    /// Which snapshot.
    pub snapshot: String,
}

/// Something that takes longer than a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What is done: `vm create`.
    pub kind: String,
    /// What it is done to.
    pub name: String,
    /// Where it is in its life.
    pub state: OperationState,
    /// Its parts, in their order.
    pub stages: Vec<String>,
    /// The one that was begun last; while one is undone, a few words that say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// When it was begun.
    pub since: Timestamp,
    /// When it came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorObject>,
}
