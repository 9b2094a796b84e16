//! Processes.

use serde::{Deserialize, Serialize};

use super::StreamWindow;

/// Identifies a process of a session. Chosen by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId(pub u64);

/// How many arguments and environment variables a process may be given.
pub const WORDS_MAX: usize = 32 << 10;

/// The most output of a process that is kept because it may not have arrived: what a fast line holds.
pub const OUTPUT_KEPT_BYTES_MAX: u32 = 1 << 20;

/// How many ended processes are kept because their end may not have been heard of: more do not end within a round trip
/// of each other.
pub const ENDED_KEPT_MAX: usize = 32;

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By itself, with this status.
    Exited(u8),
    /// By this signal, in Linux's numbering.
    Signalled(u8),
}

/// Which of a process's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Output {
    Stdout,
    Stderr,
}

/// What can be asked of processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessRequest {
    /// Starts a program. Streamed: [`ProcessReply::Started`], then [`ProcessReply::Output`] with the bytes as payload,
    /// then, last, [`ProcessReply::Ended`].
    Spawn {
        /// Under this id.
        process: ProcessId,
        /// The program, looked up in the machine's `PATH`, and its arguments; empty is the user's login shell.
        words: Vec<serde_bytes::ByteBuf>,
        /// Added to the agent user's environment.
        environment: Vec<(serde_bytes::ByteBuf, serde_bytes::ByteBuf)>,
        /// Absolute, or from the user's home; the home when absent.
        directory: Option<serde_bytes::ByteBuf>,
        /// Runs it in a terminal of this size.
        terminal: Option<TerminalSize>,
        /// Credit for output.
        window: StreamWindow,
    },
    /// Goes on, on a later stream of the session, with a process that was started on an earlier one. Streamed as
    /// [`ProcessRequest::Spawn`] is. `ESRCH` if the session has no such process; `ENODATA` if output behind `from` is not
    /// there any more.
    ///
    /// In a session that is kept, [`ClientFrame::Credit`](super::ClientFrame::Credit) for a process says that as many
    /// bytes have been taken: what has not been is kept for this, and the window is at most [`OUTPUT_KEPT_BYTES_MAX`]. Of
    /// processes whose last reply has been sent, the last [`ENDED_KEPT_MAX`] are kept.
    Follow {
        /// Which.
        process: ProcessId,
        /// How many bytes of output, of both outputs together, have arrived.
        from: u64,
        /// Credit for output.
        window: StreamWindow,
    },
    /// Sends the payload to the process's standard input. → [`ProcessReply::Done`] when it has been taken.
    Input {
        /// To this process.
        process: ProcessId,
        /// How many bytes were sent before these. What the process has been given already, by the same request on an
        /// earlier stream, it is not given again; `EINVAL` when bytes are missing in between.
        from: u64,
        /// Nothing more comes.
        end: bool,
    },
    /// → [`ProcessReply::Done`]
    Signal {
        /// To this process's group.
        process: ProcessId,
        /// In Linux's numbering.
        signal: u8,
    },
    /// → [`ProcessReply::Done`]
    Resize {
        /// Of this process's terminal.
        process: ProcessId,
        /// New size.
        size: TerminalSize,
    },
}

/// What is answered about processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessReply {
    /// Nothing to tell.
    Done,
    /// It runs.
    Started {
        /// The machine's number for it.
        pid: u32,
    },
    /// It wrote the payload.
    Output(Output),
    /// It has ended, and all its output has been sent.
    Ended(ExitStatus),
}
