//! What two of Stead's processes say to each other: types, frames, versions.
//!
//! - [`frame`], [`packing`], [`hello`], [`agent`]: a client and the agent of a machine, over any byte stream.
//! - `api`: a client and the daemon, JSON-RPC 2.0 over a unix socket.
//! - `worker`: the daemon and a mount's worker, over an inherited socket.
//! - [`guest`]: how streams to a microVM's agent share its ports.
//!
//! This crate performs no I/O, knows no runtime and holds no policy. Everything it decodes is taken for hostile: lengths
//! are bounded before anything is allocated, and an error says what was expected and shows at most 64 bytes of what came.

pub mod agent;
pub mod api;
pub mod bytestring;
pub mod decode;
pub mod endpoint;
pub mod frame;
pub mod guest;
pub mod hello;
pub mod packing;
#[cfg(unix)]
pub mod paths;
#[cfg(windows)]
#[path = "paths/windows.rs"]
pub mod paths;
pub mod worker;

/// The release of this build.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// FNV-1a with 64 bits: tells definitions and paths apart. It does not withstand somebody who looks for a collision.
pub(crate) const fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_more(0xcbf2_9ce4_8422_2325, bytes)
}

/// The same, continued from `hash`.
pub(crate) const fn fnv1a_more(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}
