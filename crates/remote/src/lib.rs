//! Byte streams to the agents of machines, and the client that speaks over them.
//!
//! - [`transport`]: how a byte stream to an agent is got: a child process on this host, the user's own `ssh`, or
//!   the engine of a container.
//! - [`place`]: the agent's program on a machine that has none yet.
//! - [`client`]: the agent protocol over any byte stream: many requests at once, streams, changes, heartbeats.
//! - [`client::relink`]: a client that goes on with another stream when one is lost.
//! - [`connect()`], [`connect_host`], [`connect_placing`], [`WorkerDialer`]: all of these together.
//! - [`spare`]: a channel that is dialled ahead, for another process to go on with.
//! - [`askpass`]: how what ssh asks reaches a person.
//! - [`doctor`]: what is at the other end.
//! - [`errno`]: numbers of errors, the machine's and this system's.
//! - [`link`]: when a lost connection is opened again, as a pure function.
//!
//! What this crate must not know: what a mount is, what a request means to a file system, who keeps a connection and
//! for how long.
//!
//! Invariants:
//!
//! - What a machine sends is hostile: every length is bounded before memory is taken, every reply is held against the
//!   request it answers, and a peer that breaks the protocol loses the link, nothing else.
//! - Whatever the machine pushes reaches the [`client::EventSink`] before any reply that followed it on the stream.
//! - Every request is answered exactly once: by the machine, or by the loss of the link. One that is sent again is
//!   carried out once.
//! - No secret is logged, stored or put into an error.

#![cfg(unix)]

pub mod askpass;
pub mod client;
mod connect;
pub mod doctor;
pub mod errno;
pub mod link;
pub mod place;
pub mod spare;
pub mod transport;

pub use connect::{
    Connection, OpenError, WorkerDialer, connect, connect_host, connect_placed, connect_placing,
    end_host_session, end_session,
};
