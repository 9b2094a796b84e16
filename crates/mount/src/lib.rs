//! Kernels: the fuse and nfs backends, the worker's main, the data cache, and the probe that asks whether a mount answers.

pub mod cache;
mod counts;
pub mod fuse;
pub mod identity;
pub mod keeper;
pub mod machine;
pub mod nfs;
pub mod probe;
mod progress;
pub mod thread;
pub mod unsaved;
pub mod worker;

pub use counts::Counts;
pub use progress::Progress;
