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
/// of each other. Of detached ones, [`DETACHED_MAX`] are kept beside these.
pub const ENDED_KEPT_MAX: usize = 32;

/// The most output of a process that is kept while nobody reads it, and of a detached one to be read again: some thousand
/// lines. The oldest is dropped.
pub const SCROLLBACK_BYTES_MAX: usize = 1 << 20;

/// How long the end of a detached process is kept, with its output, in seconds.
pub const DETACHED_END_KEPT_SECONDS: u32 = 60 * 60;

/// The most detached processes of a session that run, and the most whose end is kept: all that run may end while nobody can
/// hear of it.
pub const DETACHED_MAX: usize = 64;

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
        /// It is detached from the beginning, as by [`ProcessRequest::Detach`].
        detached: bool,
        /// Credit for output.
        window: StreamWindow,
    },
    /// The process is no longer the client's. It goes on when this request's streams are cancelled, when the client says
    /// goodbye, and for as long as it runs when no client comes; so does the session. What nobody reads of its output goes
    /// into a scrollback of [`SCROLLBACK_BYTES_MAX`]. When it has ended, that is kept for [`DETACHED_END_KEPT_SECONDS`], of
    /// the last [`DETACHED_MAX`]. `EAGAIN` if as many run. → [`ProcessReply::Done`]
    Detach {
        /// Which.
        process: ProcessId,
    },
    /// Nobody wants the process any more who followed it: as if the request that followed it had been cancelled. It is ended,
    /// unless it is detached. → [`ProcessReply::Done`]; `ESRCH` if the session has no such process.
    Release {
        /// Which.
        process: ProcessId,
    },
    /// The end of a process has been seen, with its output: nothing of it need be kept. One that runs goes on.
    /// → [`ProcessReply::Done`]
    Forget {
        /// Which.
        process: ProcessId,
    },
    /// Waits for the end of a process, without its output. → [`ProcessReply::Ended`]; `ESRCH` if the session has no such
    /// process.
    Wait {
        /// Which.
        process: ProcessId,
    },
    /// Goes on, on a later stream of the session, with a process that was started on an earlier one. Streamed as
    /// [`ProcessRequest::Spawn`] is, or begins to read a detached one. Who followed it before gets `EINTR`. `ESRCH` if the
    /// session has no such process; `ENODATA` if output behind `from` is not there any more, but where it may be dropped:
    /// then [`ProcessReply::Dropped`] tells so.
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
        /// For so much that came on earlier streams credit has not been given and will be: by that nothing is taken of what
        /// comes now. At most [`OUTPUT_KEPT_BYTES_MAX`] are believed.
        owed: u32,
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
        /// How many bytes of input it has been sent.
        input: u64,
        /// How many bytes of output there have been, those included that are not there any more.
        output: u64,
    },
    /// So many bytes of output are not there any more, between what came before and what comes next.
    Dropped {
        /// How many.
        bytes: u64,
        /// How many of them nobody has read.
        unread: u64,
    },
    /// It wrote the payload.
    Output(Output),
    /// It has ended, and all its output has been sent.
    Ended(ExitStatus),
}
