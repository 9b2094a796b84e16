//! What each system has a way of its own for. MicroVMs run on Linux alone: elsewhere images can be made and looked at, and whoever
//! starts a microVM is told so.
//!
//! | is | Linux | macOS | FreeBSD |
//! |---|---|---|---|
//! | microVMs | of QEMU | none | none |
//! | the end of a child | a pidfd | a kqueue | the same |
//! | a child that ends with its parent | `setpriv --pdeathsig` | it goes on to its end | `PROC_PDEATHSIG_CTL` |
//! | a file that shares another one's blocks | `FICLONE` | none: copied | none: copied |

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
