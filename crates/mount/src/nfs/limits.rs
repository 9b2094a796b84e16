//! Bounds on what clients can make the server hold.

use std::time::Duration;

/// The most that one READ or WRITE carries: what the largest clients ask for.
pub const TRANSFER_BYTES_MAX: u32 = vfs::source::TRANSFER_BYTES_MAX;

/// Connections at once. A kernel has one to sixteen, a program of libnfs's two.
pub const CONNECTIONS_MAX: usize = 64;

/// Calls of one connection under way. Linux sends 65,536 at most, but waits for replies; with 1 MiB reads, 64 fill any
/// link.
pub const CALLS_MAX: usize = 64;

/// Bytes of calls, and of the replies they may get, that one connection has under way.
pub const CALL_BYTES_MAX: usize = 16 << 20;

/// How long a client may take for the rest of a record it began, or to take a reply.
pub const WAIT_FOR_PEER_MAX: Duration = Duration::from_secs(60);

/// How long calls under way are waited for when the server stops.
pub const STOP_WAIT_MAX: Duration = Duration::from_secs(5);

/// Files kept open between calls.
pub const OPEN_FILES_MAX: usize = 512;

/// Directories kept open between calls.
pub const OPEN_DIRECTORIES_MAX: usize = 64;

/// How long a file or directory is kept open that nobody uses. Long enough for a program that computes between two
/// reads; short enough that a removed file's space is not held for ever.
pub const IDLE_MAX: Duration = Duration::from_secs(10);

/// The same for a file that could not be opened again, because its owner has no right to: a file made read-only and
/// then written.
pub const IDLE_PINNED_MAX: Duration = Duration::from_secs(3600);

/// Replies kept to answer a call that is sent again. A client has up to [`CALLS_MAX`] without answer on each connection,
/// and few of them change names.
pub const REPLIES_KEPT_MAX: usize = 1024;

/// Failed writes remembered for the next COMMIT after their file was closed here.
pub const LOST_WRITES_MAX: usize = 1024;

/// How long a predecessor's threads are waited for. One that waits for a disk may take seconds to end.
pub const PREDECESSOR_WAIT: Duration = Duration::from_secs(5);

/// How often it is looked whether they are gone.
pub const PREDECESSOR_INTERVAL: Duration = Duration::from_millis(5);
