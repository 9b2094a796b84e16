//! What each system has a way of its own for.
//!
//! | is | Linux | macOS | FreeBSD |
//! |---|---|---|---|
//! | this process's memory | `/proc/self/statm` | `PROC_PIDTASKINFO` | `kern.proc.pid` |
//! | the sleep of this computer | `CLOCK_BOOTTIME` | `CLOCK_MONOTONIC` against the clock of deadlines | not seen |
//! | its network | routes, of `/proc/net` | the addresses of its interfaces | the same |
//! | what mounts | FUSE, or NFS | NFS | NFS |

#[cfg(any(target_os = "freebsd", target_os = "macos"))]
mod bsd;
#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(any(target_os = "freebsd", target_os = "macos"))]
pub(crate) use bsd::*;
#[cfg(target_os = "freebsd")]
pub(crate) use freebsd::*;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(target_os = "macos")]
pub(crate) use macos::*;
