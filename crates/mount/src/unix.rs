//! What serves mounts on Unix. FUSE is of Linux and macOS, threads, which are served through Linux's alone, are of Linux; NFS is of all.
//! What else a system has a way of its own for is in `system`.

pub mod cache;
mod counts;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub mod fuse;
pub mod identity;
pub mod keeper;
pub mod machine;
pub mod mountpoint;
pub mod nfs;
pub mod probe;
mod progress;
pub(crate) mod system;
#[cfg(target_os = "linux")]
pub mod thread;
pub mod unsaved;
pub mod worker;

pub use counts::Counts;
pub use progress::Progress;
