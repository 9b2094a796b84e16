//! The owner of state: mounts, connections, and who asks for them.
//!
//! On Unix that is all of `unix.rs`. On Windows, `windows.rs` has what the one backend there needs, and says the same things to
//! clients.
//!
//! What this crate must not know: how a kernel is served and what a file system request is. It is never in the data
//! path of a mount.
//!
//! Invariants:
//!
//! - There is one daemon for each state directory: it holds the lock as long as it lives.
//! - Nobody but this user (and root) is served.
//! - The owner's task never waits for anything but its next event.
//! - A mount that did not come to serve leaves no process, mount, directory, row or descriptor behind.
//! - No secret reaches a log, a row or an error.

#[cfg(unix)]
#[path = "unix.rs"]
mod parts;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use parts::*;
#[cfg(windows)]
pub use windows::*;
