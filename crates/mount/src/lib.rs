//! Kernels: the fuse and nfs backends, the worker's main, the data cache, and the probe that asks whether a mount answers.

#[cfg(target_os = "linux")]
pub mod cache;
pub mod cloud_files;
#[cfg(target_os = "linux")]
mod counts;
pub mod far;
#[cfg(target_os = "linux")]
pub mod fuse;
#[cfg(target_os = "linux")]
pub mod identity;
#[cfg(target_os = "linux")]
pub mod keeper;
#[cfg(target_os = "linux")]
pub mod machine;
#[cfg(target_os = "linux")]
pub mod nfs;
#[cfg(target_os = "linux")]
pub mod probe;
#[cfg(target_os = "linux")]
mod progress;
#[cfg(target_os = "linux")]
pub mod thread;
#[cfg(target_os = "linux")]
pub mod unsaved;
#[cfg(target_os = "linux")]
pub mod worker;

#[cfg(target_os = "linux")]
pub use counts::Counts;
#[cfg(target_os = "linux")]
pub use progress::Progress;
