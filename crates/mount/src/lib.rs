//! Kernels: the fuse and nfs backends, and the worker's main.

pub mod fuse;
pub mod identity;
pub mod machine;
pub mod nfs;
pub mod worker;
