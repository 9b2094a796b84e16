//! `process.*`: a command on a machine with its input and output on this connection.
//!
//! ```text
//!   client                                daemon
//!     │ process.run ─────────────────────► │
//!     │ ◄──────────────── reply: Started   │      an error: it could not be run
//!     │ process.stdin{bytes} ────────────► │      at most STDIN_BYTES_IN_FLIGHT_MAX ahead of stdin_taken
//!     │ ◄──────── process.stdin_taken      │
//!     │ ◄──────── process.stdout, stderr   │      in order within each stream
//!     │ ◄──────── process.exited           │      always the last word about a process
//! ```
//!
//! A command that was not detached is ended when the connection ends before it. A detached one goes on without any
//! connection, also of the daemon to its machine; `process.attach` has its output and input again, from what is kept of
//! the output on. `process.detach` leaves a command that way.

use serde::{Deserialize, Serialize};

use super::file::Content;
use super::id::ProcessId;
use super::machine::{Caller, Machine};
use crate::bytestring::ByteString;

/// How much input a client may send that the daemon has not reported as taken. The daemon ends a connection that
/// sends more: it would have to buffer it, or to stop reading signals and prompt answers.
pub const STDIN_BYTES_IN_FLIGHT_MAX: u64 = 256 << 10;

/// The most input or output in one notification; the line limit with base64's third and the envelope taken off.
pub const STREAM_CHUNK_BYTES_MAX: usize = 64 << 10;

/// The most arguments, and the most variables, of one command.
pub const ARGUMENTS_MAX: usize = 16 << 10;

/// Starts a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Where.
    pub machine: Machine,
    /// The program, looked up in the machine's `PATH`, and its arguments. Not passed through a shell.
    pub command: Vec<ByteString>,
    /// The directory to start in; the home directory without one.
    #[serde(default)]
    pub cwd: Option<ByteString>,
    /// Variables set on top of the login's.
    #[serde(default)]
    pub environment: Vec<(ByteString, ByteString)>,
    /// A pseudo-terminal, if the command is to have one. Its error output then comes as output.
    #[serde(default)]
    pub terminal: Option<Terminal>,
    /// It is detached from the beginning: nothing of it comes over this connection.
    #[serde(default)]
    pub detached: bool,
    /// Who asks.
    pub caller: Caller,
}

/// Has the output of a detached process come over this connection, and takes input for it. Whoever had that before is
/// told that it is lost to him.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Which process.
    pub process: ProcessId,
    /// The size of the terminal that its own is to have.
    #[serde(default)]
    pub size: Option<Size>,
    /// Who asks.
    pub caller: Caller,
}

/// Its output follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// How it ended, if it has and nothing of its output is kept: then nothing follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Outcome>,
    /// So many bytes of what follows were written before, those included that are [dropped](Dropped). What a terminal is
    /// asked in them must not be answered: whoever asked does not wait for it any more.
    #[serde(default)]
    pub replayed: u64,
}

/// Sends a signal to a process, wherever it was started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// Which process: it and all it started in its group.
    pub process: ProcessId,
    /// The signal's number on Linux.
    pub signal: u8,
    /// Who asks.
    pub caller: Caller,
}

/// The signal was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {}

/// Leaves a process to itself. Answered by [`Exited`] with [`Outcome::Detached`], or by [`Stays`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Which process.
    pub process: ProcessId,
}

/// A pseudo-terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// The value of `TERM`.
    pub name: String,
    /// Its size.
    pub size: Size,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// The command runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// What the notifications call it.
    pub process: ProcessId,
    /// What a person should know: changes of a mount that the command may not see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stdin {
    /// Which process.
    pub process: ProcessId,
    /// At most [`STREAM_CHUNK_BYTES_MAX`] bytes. Empty for the end of the input.
    pub bytes: Content,
}

/// Input arrived at the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdinTaken {
    /// Which process.
    pub process: ProcessId,
    /// How many bytes, since the last such notification.
    pub bytes: u64,
}

/// Another size of terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Which process.
    pub process: ProcessId,
    /// The size from now on.
    pub size: Size,
}

/// A signal for the process and all it started in its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// Which process.
    pub process: ProcessId,
    /// Its number on Linux.
    pub signal: i32,
}

/// Output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdout {
    /// Which process.
    pub process: ProcessId,
    /// Never empty.
    pub bytes: Content,
}

/// Error output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stderr {
    /// Which process.
    pub process: ProcessId,
    /// Never empty.
    pub bytes: Content,
}

/// Output is gone that would have come here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Which process.
    pub process: ProcessId,
    /// How many bytes.
    pub bytes: u64,
    /// How many of them nobody has read.
    pub unread: u64,
}

/// A process could not be left to itself: it still belongs to this connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stays {
    /// Which process.
    pub process: ProcessId,
    /// Why.
    pub reason: String,
}

/// The end, as far as this connection is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Which process.
    pub process: ProcessId,
    /// How.
    pub outcome: Outcome,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Outcome {
    /// By itself.
    Exited {
        /// Its status.
        code: u8,
    },
    /// By a signal.
    Signalled {
        /// Its number on Linux.
        signal: i32,
    },
    /// Nobody knows: the link was lost.
    Lost {
        /// Why.
        reason: String,
    },
    /// It has not: it goes on by itself.
    Detached,
}

impl Outcome {
    /// What a shell would make of it: the status, or 128 and the signal's number; 255 when it is not known, 0 when it
    /// goes on.
    pub fn exit_code(&self) -> u8 {
        match self {
            Outcome::Exited { code } => *code,
            Outcome::Signalled { signal } => u8::try_from(128 + signal).unwrap_or(255),
            Outcome::Lost { .. } => 255,
            Outcome::Detached => 0,
        }
    }
}
