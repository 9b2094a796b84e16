//! The far end of a tunnel: a process of a session, which carries many connections over its standard input and output.
//!
//! ```text
//!   programs here ◄─► daemon ◄── frames, through the agent ──► far end ◄─► programs there
//! ```
//!
//! A far end is started by a [`Spawn`](super::process::ProcessRequest::Spawn) of the agent's own program with
//! [`ARGUMENT`], and is what any process of a session is: its input and output are streams with credit, go on where they
//! were when the line was cut and the agent has kept the session, and end with the session. It ends when its input does.
//!
//! Both ways go [frames](crate::frame) without a preface, each with a [`TunnelFrame`] as its head. The near end speaks
//! first, by [`TunnelFrame::Connect`] or [`TunnelFrame::Listen`], and waits for [`TunnelFrame::Ready`] or
//! [`TunnelFrame::Failed`]. From then on the two ends are equal, but that the one who accepts connections opens them.
//!
//! **A connection.** Its directions are independent:
//!
//! ```text
//!  each direction    open ──End──► half-closed, when both are: closed
//!  both               └────────── Reset, from either end ───────► reset
//! ```
//!
//! | said | means for the other end |
//! |---|---|
//! | `Open` | connect to what the tunnel leads to; data may follow at once |
//! | `Data` | write it, behind all that came before |
//! | `Credit` | so many bytes more may be sent |
//! | `End` | nothing more comes: shut the socket's writing side down when all is written |
//! | `Reset` | it is over both ways: what is not written is dropped; a TCP connection is reset |
//!
//! Frames about a connection that is not known, because it has been reset or closed meanwhile, are nothing. Its number is
//! not used again.
//!
//! **Back-pressure.** Each direction of a connection begins with [`CREDIT_FIRST_BYTES`]. Who gets data holds what its
//! socket does not take, and says `Credit` as it is taken; [`window`] says how much it lets be under way. More data than
//! that breaks the protocol, as does anything that does not decode, and ends the far end. Nobody waits to be read from
//! before it reads, so one connection that does not move holds nothing up but itself.

use serde::{Deserialize, Serialize};

use super::Failure;
use crate::endpoint::Endpoint;

/// What makes the agent's program the far end of a tunnel.
pub const ARGUMENT: &str = "--tunnel";

/// The most connections of one tunnel. Those beyond wait in the listening socket's queue.
pub const CONNECTIONS_MAX: usize = 2048;

/// How many connections wait that have not been accepted, if the system allows as many: a burst of a browser or a load test.
pub const BACKLOG: i32 = 1024;

/// What may be sent in each direction of a connection before anything is said of it.
pub const CREDIT_FIRST_BYTES: u32 = 32 << 10;

/// The most that may be under way in each direction of a connection: what a line of 100 ms carries at 80 megabits.
pub const WINDOW_BYTES_MAX: u32 = 1 << 20;

/// What the windows of a tunnel's connections share in each direction; no window is less than [`CREDIT_FIRST_BYTES`].
pub const WINDOWS_BYTES: u32 = 16 << 20;

/// The most data in one frame: what is read from a socket at once.
pub const DATA_BYTES_MAX: usize = 64 << 10;

/// How much may be under way in each direction of a connection that is opened when `others` are open: all together hold
/// no more than some 120 MiB.
pub fn window(others: usize) -> u32 {
    let share = WINDOWS_BYTES / u32::try_from(others + 1).unwrap_or(u32::MAX);
    share.clamp(CREDIT_FIRST_BYTES, WINDOW_BYTES_MAX)
}

/// Identifies a connection of a tunnel. Counted from 0 by the end that accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// What the two ends of a tunnel say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelFrame {
    /// From the near end, first: connections that it opens lead there.
    Connect(Endpoint),
    /// From the near end, first: accept connections there.
    Listen(Endpoint),
    /// From the far end: it serves. Where, if it listens, with the port that the system has chosen.
    Ready(Endpoint),
    /// From the far end, in place of `Ready`: it cannot serve, and ends.
    Failed(Failure),
    /// There is a connection.
    Open {
        /// Its number.
        connection: ConnectionId,
    },
    /// The payload came in, of at most [`DATA_BYTES_MAX`].
    Data {
        /// On which connection.
        connection: ConnectionId,
    },
    /// So much of what came has been taken, or may come beyond the first.
    Credit {
        /// On which connection.
        connection: ConnectionId,
        /// How many bytes.
        bytes: u32,
    },
    /// Nothing more comes.
    End {
        /// On which connection.
        connection: ConnectionId,
    },
    /// It is over.
    Reset {
        /// Which connection.
        connection: ConnectionId,
        /// Why, where it could not be made; otherwise it was reset.
        failure: Option<Failure>,
    },
}

/// The credit of one direction of a connection, as its sender counts it or as its receiver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit(u32);

/// A peer sent more than it was allowed, or allowed more than anybody may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other end of the tunnel does not keep to its credit")]
pub struct Overdrawn;

impl Default for Credit {
    fn default() -> Credit {
        Credit(CREDIT_FIRST_BYTES)
    }
}

impl Credit {
    /// What is left of it.
    pub fn bytes(self) -> usize {
        self.0 as usize
    }

    /// Takes `bytes` off.
    pub fn spend(&mut self, bytes: usize) -> Result<(), Overdrawn> {
        let left = u32::try_from(bytes).ok().and_then(|bytes| self.0.checked_sub(bytes));
        self.0 = left.ok_or(Overdrawn)?;
        Ok(())
    }

    /// Adds `bytes`.
    pub fn allow(&mut self, bytes: u32) -> Result<(), Overdrawn> {
        let more = self.0.checked_add(bytes).filter(|all| *all <= WINDOW_BYTES_MAX);
        self.0 = more.ok_or(Overdrawn)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_wide_for_few_and_bounded_for_many() {
        assert_eq!((window(0), window(15)), (WINDOW_BYTES_MAX, WINDOW_BYTES_MAX));
        assert_eq!(window(CONNECTIONS_MAX), CREDIT_FIRST_BYTES);
        let all: u64 = (0..CONNECTIONS_MAX).map(|others| u64::from(window(others))).sum();
        assert!(all <= 128 << 20, "{all}");
    }

    #[test]
    fn credit_is_neither_overdrawn_nor_piled_up() {
        let mut credit = Credit::default();
        assert_eq!(credit.spend(CREDIT_FIRST_BYTES as usize + 1), Err(Overdrawn));
        assert_eq!((credit.spend(CREDIT_FIRST_BYTES as usize), credit.bytes()), (Ok(()), 0));
        assert_eq!((credit.allow(WINDOW_BYTES_MAX), credit.allow(1)), (Ok(()), Err(Overdrawn)));
        assert_eq!(credit.spend(usize::MAX), Err(Overdrawn));
    }
}
