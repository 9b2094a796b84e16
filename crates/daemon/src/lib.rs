//! The owner of state: mounts, connections, and who asks for them.
//!
//! - [`owner`]: the one task that owns the state, and the one enum of what can wake it.
//! - [`mount`]: the task of a mount: its worker, from `start` to the last cleaning up.
//! - [`thread`]: what is done to threads.
//! - [`connection`]: the task of a connection, and the traits by which machines are reached.
//! - [`bus`], [`world`]: what is told to whoever wants to know, and what happens to this computer.
//! - [`session`], [`rpc`]: clients and what they ask for, a file for each noun.
//! - [`endpoint`]: where clients come in.
//! - [`domains`]: mounts that the system serves itself.
//! - [`database`], [`log`]: what is kept on disk.
//! - `system`: what each system has a way of its own for.
//!
//! All that is of Unix. On Windows, `windows.rs` has what the one backend there needs, and says the same things to clients.
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
pub mod bus;
#[cfg(unix)]
pub mod connection;
#[cfg(unix)]
pub mod database;
#[cfg(unix)]
pub mod domains;
#[cfg(unix)]
pub mod endpoint;
#[cfg(unix)]
pub mod failure;
#[cfg(unix)]
pub mod images;
#[cfg(unix)]
pub mod log;
#[cfg(unix)]
pub mod mount;
#[cfg(unix)]
pub mod order;
#[cfg(unix)]
pub mod owner;
#[cfg(unix)]
pub mod process;
#[cfg(unix)]
pub mod prompt;
#[cfg(unix)]
pub mod rpc;
#[cfg(unix)]
pub mod session;
#[cfg(unix)]
pub mod shutdown;
#[cfg(unix)]
pub(crate) mod system;
#[cfg(unix)]
pub mod thread;
#[cfg(unix)]
pub mod tunnel;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub mod vm;
#[cfg(windows)]
mod windows;
#[cfg(unix)]
pub mod workspace;
#[cfg(unix)]
pub mod world;

#[cfg(unix)]
pub use unix::*;
#[cfg(windows)]
pub use windows::*;
