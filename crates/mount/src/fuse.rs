//! The FUSE kernel interface: bytes of `/dev/fuse` to typed requests, typed replies to bytes, and the mount
//! itself.
//!
//! But for [`serve`], where the two meet, it knows nothing about what is mounted: no vfs, no machine, no cache. What it
//! promises:
//!
//! - No message from the kernel makes it panic, and every request it cannot read is answered.
//! - Every request that expects an answer gets exactly one, from whichever thread holds its
//!   [`reply::Responder`].
//! - Payloads are not copied between the kernel's buffer and the caller's.
//! - It keeps no state that a successor needs but [`negotiation::Negotiated`] and the descriptors: a process
//!   that has both goes on serving a mount that another one negotiated.
//!
//! ```text
//! mountpoint::mount ─► Device ──read──► Buffer ──Request::parse──► dispatcher ─► Responder ──writev──► Device
//!                        │                                            │
//!                        └─ clone_for_thread: one per thread          └─► Notifier ──its own thread──► Device
//! ```

pub mod abi;
pub mod buffer;
pub mod device;
pub mod mountpoint;
pub mod negotiation;
pub mod notify;
pub mod reply;
pub mod request;
pub mod serve;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
