//! What each system has a way of its own for: who is at the other end of a socket, the end of a process, a file that grows.

#[cfg(any(target_os = "freebsd", target_os = "macos"))]
mod kqueue;
#[cfg(target_os = "linux")]
mod linux;

use std::os::fd::OwnedFd;

use rustix::process::Pid;

#[cfg(any(target_os = "freebsd", target_os = "macos"))]
pub use kqueue::*;
#[cfg(target_os = "linux")]
pub use linux::*;

/// Who is at the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The process, where the system tells.
    pub pid: Option<Pid>,
}

/// The end of a process: a descriptor that becomes readable with it.
pub type End = OwnedFd;
