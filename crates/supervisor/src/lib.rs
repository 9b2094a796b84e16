//! Starts, watches, adopts and stops child processes, and passes descriptors between them.
//!
//! - [`spawn`]: a child with a chosen environment and chosen descriptors, in a session of its own.
//! - [`process`]: a handle to a child or to an adopted process: its exit, signals, reaping.
//! - [`identity`]: which process a number means, across restarts of whoever wrote it down.
//! - [`stop`]: the ladder from a polite request to SIGKILL.
//! - [`descriptor`]: descriptors over unix sockets.
//! - [`keeper`]: a process that holds what another one must not lose, and puts a successor in its place.
//! - [`socket`], [`lock`]: private directories and sockets, one instance only.
//! - [`presence`]: whether anybody is alive in a directory.
//! - `user`: on Windows, where nothing else of this is, who this process is.
//! - [`log`]: a log with a limit, and standard error with it.
//!
//! What this crate must not know: what the processes are for, and what they say to each other. It depends on none of
//! the other crates.
//!
//! `system` is what each system has a way of its own for; nothing else here knows which one it is compiled for.
//!
//! Invariants:
//!
//! - A process is signalled through a pidfd (where there are none: after a look whether it has ended), or as a group whose
//!   leader has not been reaped: never a stranger that got the number later.
//! - Every child is reaped, also one whose handle was dropped: there are no zombies.
//! - A child gets no descriptor and no variable that was not named. It outlives its parent.

#[cfg(unix)]
pub mod descriptor;
#[cfg(unix)]
pub mod identity;
#[cfg(unix)]
pub mod keeper;
#[cfg(unix)]
pub mod lock;
#[cfg(unix)]
pub mod log;
#[cfg(unix)]
pub mod presence;
#[cfg(unix)]
pub mod process;
#[cfg(unix)]
pub mod socket;
#[cfg(unix)]
pub mod spawn;
#[cfg(unix)]
pub mod stop;
#[cfg(unix)]
mod system;
#[cfg(windows)]
pub mod user;

#[cfg(unix)]
pub use identity::Identity;
#[cfg(unix)]
pub use process::{Exit, Process};
#[cfg(unix)]
pub use spawn::{Spawn, SpawnError, Stdio};
