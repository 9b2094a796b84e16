//! What a client and an agent say to each other.
//!
//! The client sends [`ClientFrame`]s, the agent [`AgentFrame`]s, each as the head of a [frame](crate::frame). Requests
//! are pipelined: the client does not wait for one before it sends the next, and the agent answers in any order,
//! except that requests which name the same handle are carried out in the order in which they arrived unless all of
//! them only read.
//!
//! **Streams.** A request is answered by one or more replies with its id; [`AgentFrame::Reply::last`] ends it. What may
//! be long (listings, walks, output of processes) is sent against credit: the client allows a number of bytes with the
//! request ([`StreamWindow`]) and more with [`ClientFrame::Credit`]; the agent sends while the credit is positive, a
//! page at a time, so it may go below zero by one page. A page takes as much credit as its head and its payload,
//! unpacked, have bytes. The replies of one request leave in order, whatever overtakes them. Credit and cancels for a request whose
//! last reply is on its way are nothing.
//!
//! **Payloads.** A client may send them in pieces, and both sides packed: see [`frame`](crate::frame). What a client sends
//! between the pieces of a request is carried out as if it had been sent before that request.
//!
//! **Sequence numbers.** A request that changes something carries a number that grows by one with each of the session.
//! The agent applies each number once and keeps its reply until [`ClientFrame::Acknowledge`] covers it. Requests that
//! change nothing carry 0.
//!
//! **Sessions and streams.** A session is what a client has on the machine: its export, open files, locks, processes,
//! and the replies to its mutations. It is served on one stream at a time, and may outlive that stream
//! ([`Hello::keep_seconds`](crate::hello::Hello::keep_seconds)): a stream that ends without [`ClientFrame::Goodbye`]
//! leaves the session detached, and another stream that names it goes on with it. The newest stream wins: one that is
//! still attached is cut. What belongs to a stream and ends with it:
//!
//! - request ids, credit, leases and watches. A new stream starts without any lease;
//! - every request that was not begun: it is as if it had not been sent;
//! - every request that was begun and changes nothing, and every wait without a sequence number. Whatever was begun and
//!   has a sequence number is carried out to its end.
//!
//! No reply to a request of one stream is sent on another. So on the new stream the client sends again, in their order,
//! all requests that were not answered: those with a sequence number with the same one, the others as new requests. An
//! [`Attach`](file::FileRequest::Attach), [`Open`](file::FileRequest::Open) or
//! [`Spawn`](process::ProcessRequest::Spawn) that comes again on a later stream, with the same id, is answered with what
//! it had made; an `Open`, for the same file, on the same stream too: a client that had to open its files again may still
//! be asked for one of them. Requests that would do harm when done twice are to be given a sequence number, whatever they are.
//!
//! **Leases.** See [`Lease`](file::Lease).

pub mod file;
pub mod find;
pub mod name;
pub mod process;
pub mod search;
pub mod tunnel;

use serde::{Deserialize, Serialize};

use file::{Changed, FileReply, FileRequest, Time};
use process::{ProcessReply, ProcessRequest};

/// Identifies a request in its stream until its last reply. Chosen by the client, not reused while in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// Identifies an open file or directory of a session. Chosen by the client, so that it may use one before it has heard
/// that the open succeeded; never used twice in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HandleId(pub u64);

/// Position of a mutation in its session; 0 is "changes nothing".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sequence(pub u64);

/// Bytes that the agent may send for a streamed request before it hears more.
pub type StreamWindow = u32;

/// How many requests a client may have unanswered. The agent closes a stream that has more: its queue is bounded.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 4096;

/// How many replies to mutations the agent keeps for a session. A client acknowledges long before.
pub const REPLIES_KEPT_MAX: usize = 8192;

/// An error number of the machine in Linux's numbering, whatever the machine's own is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Errno(pub u16);

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For the program that asked.
    pub errno: Errno,
    /// For a person, where the number alone does not tell; often empty.
    pub detail: String,
}

/// From the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientFrame {
    /// Asks for something. The payload, if any, is the request's data.
    Request {
        /// Names the request.
        id: RequestId,
        /// Its place among the session's mutations.
        sequence: Sequence,
        /// What is asked.
        body: Request,
    },
    /// Allows `bytes` more for a streamed request.
    Credit {
        /// The streamed request.
        id: RequestId,
        /// How many bytes more.
        bytes: u32,
    },
    /// The reply is no longer wanted: a blocking wait ends with `EINTR`, a stream ends. The request is answered all the
    /// same, with what came of it.
    Cancel {
        /// The request to end.
        id: RequestId,
    },
    /// Every reply to a mutation up to and including `sequence` has arrived.
    Acknowledge {
        /// The last of them.
        sequence: Sequence,
    },
    /// Asks for a [`AgentFrame::Pong`].
    Ping {
        /// Comes back as it is.
        nonce: u64,
    },
    /// How fast replies arrive, where the client would have their payloads packed if that makes them faster. Holds for the
    /// stream until it is said again; before it is said, nothing is packed.
    Rate {
        /// What the link carries.
        bytes_per_second: u64,
    },
    /// The session is to end now, with all it has, however long it was to be kept. The agent closes the stream.
    Goodbye,
}

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentFrame {
    /// Answers a request. The payload, if any, is the reply's data.
    Reply {
        /// The request.
        id: RequestId,
        /// No more replies come for it.
        last: bool,
        /// What came of it.
        body: Result<Reply, Failure>,
    },
    /// Something that a lease covers has changed.
    Changed(Changed),
    /// Every lease of the stream has ended: changes may have been missed.
    LeasesLost,
    /// Answers a [`ClientFrame::Ping`].
    Pong {
        /// As it came.
        nonce: u64,
        /// The machine's clock when it was answered, by which a client tells an old change from a fresh one.
        clock: Time,
    },
    /// The agent is about to close the stream.
    Closing {
        /// Why, for a person.
        reason: String,
    },
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Of files.
    File(FileRequest),
    /// Of processes.
    Process(ProcessRequest),
    /// What machine this is.
    Describe,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Of files.
    File(FileReply),
    /// Of processes.
    Process(ProcessReply),
    /// Answers [`Request::Describe`].
    Description(Description),
}

/// What an agent says of its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Operating system and its release, as `uname -sr` prints them.
    pub system: String,
    /// Architecture as in Rust's target triples, such as `x86_64`.
    pub architecture: String,
    /// The machine's own name for itself.
    pub hostname: String,
    /// The user the agent runs as.
    pub uid: u32,
    /// That user's group.
    pub gid: u32,
    /// That user's home directory.
    pub home: Vec<u8>,
    /// Where the agent's program is.
    pub program: Vec<u8>,
    /// The agent's release.
    pub release: String,
}

#[cfg(test)]
mod tests;
