//! The control protocol between the daemon and the worker of one mount.
//!
//! The worker listens on a unix stream socket that all workers of the mount share, one after the other, and serves whom
//! it accepted last. What it is to serve is in [`CONFIG`] in the mount's directory. A message is a frame:
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 4 | length of the body, little endian, 1 to [`FRAME_BYTES_MAX`] |
//! | 4 | length | JSON in UTF-8 |
//!
//! ```text
//!   daemon                          worker
//!     │ (connects) ───────────────────► │
//!     │ ◄──────── ready  or  error      │      as soon as it serves; after this `error` the worker ends
//!     │ status ───────────────────────► │
//!     │ ◄─────────────── status{..}     │      an answer, or unasked when the state word changes
//!     │ reconnect ────────────────────► │
//!     │ flush ────────────────────────► │
//!     │ ◄────────────────── flushed     │      when all that was taken from writers is on the machine
//!     │ list_changed ─────────────────► │      of a thread
//!     │ ◄─────────── listed_changed     │
//!     │ stop{force} ──────────────────► │
//!     │ ◄───────── stopping, then EOF   │      or error{conflict}: it goes on serving
//! ```
//!
//! An end without `stopping` says that the worker has died; whoever connects again reaches its successor, whose first
//! word is `ready` again. A worker whose daemon goes away goes on serving: it owns a mount that people use.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::num::NonZeroU64;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::ErrorKind;
use crate::api::id::MountId;
use crate::api::machine::{Reconnect, Source};
use crate::api::mount::{Access, Backend, BackendName, Force, SyncMode};
use crate::api::status::{Counters, Journal, MountStatus, NfsExport, Replayed};
use crate::bytestring::ByteString;
use crate::decode::DecodeError;

/// The file in the mount's directory that holds its [`MountConfig`], as JSON. `0600`.
pub const CONFIG: &str = "config.json";

/// The longest such file: a configuration with every path and option at its limit fits.
pub const CONFIG_BYTES_MAX: u64 = 256 << 10;

/// The file in a mount's directory that names the session which the machine's agent keeps for the mount's worker, as
/// [`SessionId`](crate::hello::SessionId) is written. It is there before anything is asked of the session, and until the
/// agent has been told that the session is over.
pub const SESSION: &str = "session";

/// The longest body. A status with many files kept aside fits.
pub const FRAME_BYTES_MAX: u32 = 64 << 10;

/// The length of the prefix.
pub const PREFIX_BYTES: usize = 4;

/// From the daemon to the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// Say how it goes.
    Status,
    /// If the link to the machine is lost, open it again now: the way there is open again. Not answered.
    Reconnect,
    /// Say when all that was taken from writers until now is on the machine, which may be never.
    Flush {
        /// What is told back. Each is greater than the last.
        number: u64,
    },
    /// Of a thread: write down what is changed in it.
    ListChanged {
        /// What is told back. Each is greater than the last.
        number: u64,
        /// The file to write to: an absolute path where nothing is yet, in a directory that is the user's alone. For each name
        /// that is not what the base has there, in order, a byte, `+` if something is there now and `-` if nothing is, the path
        /// from the root of the thread, and a byte of zero. Whoever asks removes it.
        to: ByteString,
    },
    /// Flush, unmount and end.
    Stop {
        /// Without force, a mount in use is refused with `error{conflict}` and goes on.
        force: Force,
    },
}

/// From the worker to the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    /// The directory serves. The first word to whoever connects.
    Ready(Ready),
    /// What was asked last could not be done. Before `ready` the worker ends after it, having undone what it did.
    Error(WorkerError),
    /// How it goes.
    Status(Box<WorkerStatus>),
    /// All is on the machine that was taken from writers before this [`ToWorker::Flush`].
    Flushed {
        /// Its number.
        through: u64,
    },
    /// All is in the file that was changed before this [`ToWorker::ListChanged`].
    ListedChanged {
        /// Its number.
        number: u64,
        /// Why it could not be written, if it could not, in one line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed: Option<String>,
    },
    /// The mount is gone; the worker ends now.
    Stopping(Stopping),
}

/// What a mount is. Everything the worker needs to know: it reads no configuration of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountConfig {
    /// Its id, for names of files and for log lines.
    pub id: MountId,
    /// What to show. It is at `place`.
    pub source: Source,
    /// Where: an absolute path of an existing directory.
    pub dir: ByteString,
    /// How to serve it. The worker decides about `auto` and says in `ready` what it took.
    pub backend: Backend,
    /// Whether it may be written to.
    pub access: Access,
    /// What `close` waits for.
    pub sync: SyncMode,
    /// Whether a lost link is opened again.
    pub reconnect: Reconnect,
    /// How the liveness of the machine is watched.
    #[serde(default)]
    pub heartbeat: Heartbeat,
    /// Options of the backend. Unknown ones are refused with `error{usage}`.
    pub options: BTreeMap<String, String>,
    /// A directory for this mount's own files, `0700`. It exists, and outlives the worker.
    pub state_dir: ByteString,
    /// The directory of the data cache that all mounts of the user share, whether it is there or not; none, if nothing is to
    /// be kept there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<ByteString>,
    /// Where what is shown is: in the file one of `dial` and `thread`.
    #[serde(flatten)]
    pub place: Place,
    /// Whom the mount is for.
    pub owner: Owner,
    /// Directories of mounts of the same source that are gone, and in which they have left what was not saved: the oldest
    /// first. It is replayed before the mount serves, as far as that does not take long.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsaved: Vec<ByteString>,
}

impl MountConfig {
    /// Reads what is in a mount's [`CONFIG`], [`CONFIG_BYTES_MAX`] of it at most. Blocks.
    pub fn read(file: impl Read) -> io::Result<MountConfig> {
        let mut text = Vec::new();
        file.take(CONFIG_BYTES_MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// Signs of life that are asked of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Time between two of them, and how long one has to be answered, in milliseconds.
    pub interval_ms: u64,
    /// How many unanswered ones in a row mean that the link is lost; 0 for any number.
    pub failures_max: u32,
}

impl Default for Heartbeat {
    /// A dead link is found in a quarter of a minute.
    fn default() -> Heartbeat {
        Heartbeat { interval_ms: 5000, failures_max: 3 }
    }
}

/// A user of this computer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// Where what a mount shows is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// On a machine, whose agent is reached so.
    #[serde(rename = "dial")]
    Machine(Dial),
    /// In a thread, which the worker itself has open.
    #[serde(rename = "thread")]
    Thread(ThreadPlace),
}

/// How to get a byte stream to an agent. The worker opens it by itself, as often as it needs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Dial {
    /// Start this program's own agent as a child.
    Host,
    /// Through the control master that the daemon holds open.
    Ssh(SshDial),
    /// Through the engine of a container.
    Docker(DockerDial),
    /// Through a port of a microVM.
    Vm(VmDial),
}

/// A far agent behind a control master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshDial {
    /// The ssh program.
    pub program: ByteString,
    /// The control master's socket.
    pub control_path: ByteString,
    /// The user to log in as, if not the configuration's.
    pub user: Option<String>,
    /// The host as ssh is to be given it.
    pub host: String,
    /// The port, if not the configuration's.
    pub port: Option<u16>,
    /// A configuration file in place of the user's.
    pub config: Option<ByteString>,
    /// The agent's path on the machine, where it has been placed.
    pub agent: ByteString,
}

/// The agent of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerDial {
    /// The engine: `unix:///PATH` or `tcp://HOST:PORT`.
    pub engine: String,
    /// The container as the user calls it, for messages.
    pub name: String,
    /// Its id. Another container that is given the same name is another machine.
    pub container: String,
    /// When the engine had started it, in the engine's words, when the agent in it was last looked at. After another start it
    /// is looked at again.
    pub started: String,
    /// The agent's path in the container.
    pub agent: String,
    /// The same program on this computer.
    pub program: AgentFile,
}

/// The agent of a microVM of this computer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDial {
    /// Its name, for messages.
    pub name: String,
    /// What no other microVM has: one that is given the same name later is another machine.
    pub id: String,
    /// The directory of the sockets of its ports, which is there while it runs.
    pub ports: ByteString,
    /// A file that is there as long as the microVM is.
    pub record: ByteString,
}

/// A thread, which is on this computer. Nobody else has it open while it is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadPlace {
    /// The thread's own directory, in which it was begun.
    pub directory: ByteString,
    /// The directory of the repository that it is of, the one with `objects`.
    pub repository: ByteString,
    /// By which hash the repository names objects: `sha1` or `sha256`.
    pub hash: String,
    /// The directory of the contents of revisions that all threads of the user share, whether it is there or not.
    pub blobs: ByteString,
    /// What these contents may take, in bytes.
    pub blobs_bytes_max: u64,
    /// The root of the working copy that is seen in it in place, if one is. It is never to be mounted where it would see itself.
    #[serde(default)]
    pub sees: Option<ByteString>,
}

/// An agent's program on this computer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFile {
    /// Where it is.
    pub path: ByteString,
    /// What it contains, as the names of its directories on machines say it.
    pub hash: NonZeroU64,
    /// Its length.
    pub bytes: u64,
}

/// The directory serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// What serves it.
    pub backend: BackendName,
    /// FUSE: the connection's number, its directory under `/sys/fs/fuse/connections`.
    #[serde(default)]
    pub connection: Option<u64>,
    /// NFS: the port on 127.0.0.1.
    #[serde(default)]
    pub port: Option<u16>,
    /// NFS: what a client is to mount.
    #[serde(default)]
    pub nfs: Option<NfsExport>,
    /// What this mount cannot do here, in one line.
    #[serde(default)]
    pub degraded: Option<String>,
    /// The version of the agent on the other end.
    #[serde(default)]
    pub agent_version: Option<String>,
    /// The worker that says so.
    #[serde(default)]
    pub pid: Option<u32>,
    /// How many workers of this mount came before it: of two, the one with more is the later.
    #[serde(default)]
    pub restarts: Option<u32>,
    /// What had become of [`MountConfig::unsaved`] by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed: Option<Replayed>,
}

/// Something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct WorkerError {
    /// The sort of failure.
    pub kind: ErrorKind,
    /// One line: what, to what, and why.
    pub message: String,
    /// What mends it.
    #[serde(default)]
    pub hint: Option<String>,
}

/// How a mount does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The state word.
    pub status: MountStatus,
    /// Why the link is lost, while it is, in one line.
    #[serde(default)]
    pub reason: Option<String>,
    /// What is not on the machine yet.
    pub journal: Journal,
    /// What was done so far.
    pub counters: Counters,
    /// Requests from the kernel, by what they ask for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub operations: BTreeMap<String, u64>,
    /// What this mount cannot do here, in one line.
    #[serde(default)]
    pub degraded: Option<String>,
    /// Local paths of what could not be applied on the machine and was kept.
    #[serde(default)]
    pub kept_aside: Vec<ByteString>,
    /// What has become of [`MountConfig::unsaved`] so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed: Option<Replayed>,
}

/// The last word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// Local paths of what could not be applied on the machine and was kept.
    #[serde(default)]
    pub kept_aside: Vec<ByteString>,
}

/// A message could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A value has no JSON form.
    #[error("could not write {type_name} as JSON")]
    Json {
        /// The message's type.
        type_name: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The body would be longer than the other side accepts.
    #[error("{type_name} takes {bytes} bytes, more than the {FRAME_BYTES_MAX} of a frame")]
    TooLong {
        /// The message's type.
        type_name: &'static str,
        /// Its length.
        bytes: usize,
    },
}

/// One frame, prefix included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, EncodeError> {
    let type_name = std::any::type_name::<T>();
    let mut frame = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(|source| EncodeError::Json { type_name, source })?;
    let bytes = frame.len() - PREFIX_BYTES;
    let length = u32::try_from(bytes)
        .ok()
        .filter(|length| *length <= FRAME_BYTES_MAX)
        .ok_or(EncodeError::TooLong { type_name, bytes })?;
    frame[..PREFIX_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Cuts a byte stream into frames. Pure: the caller reads the socket.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// An empty decoder.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Adds what was read. Call [`next_frame`](Self::next_frame) until it has none before adding more, so that the buffer stays
    /// within one frame and one read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame as a `T`; none when more bytes are needed. After an error the stream cannot be followed
    /// any further.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<T>, DecodeError> {
        let pending = &self.buffer[self.start..];
        let Some((prefix, rest)) = pending.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix);
        if length == 0 || length > FRAME_BYTES_MAX {
            let reason = format_args!("a frame of {length} bytes is not within 1 to {FRAME_BYTES_MAX}");
            return Err(DecodeError::new::<T>(pending, reason));
        }
        let Some(body) = rest.get(..length as usize) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body).map_err(|reason| DecodeError::new::<T>(body, reason))?;
        self.start += PREFIX_BYTES + length as usize;
        Ok(Some(message))
    }

    /// True when the stream may end here: no frame has been begun.
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }
}

#[cfg(test)]
mod tests;
