//! Kernels: the fuse and nfs backends, the worker's main, the data cache, and the probe that asks whether a mount answers.
//!
//! What serves mounts is of Unix. `cloud_files` is of Windows. How the machine is the other side of a replica is
//! the same on every system.

pub mod cloud_files;
pub mod far;
#[cfg(unix)]
#[path = "unix.rs"]
mod parts;

#[cfg(unix)]
pub use parts::*;
