//! The File Provider extension of macOS: the system keeps a copy of a machine's tree, and asks this for what it does not have.
//!
//! ```text
//!  Finder, programs ──► fileproviderd ──► the extension (sandboxed, started and ended by the system)
//!                                            apple/: Objective-C objects, translation and nothing else
//!                                            Service: one thread, one Catalogue of vfs, one connection
//!                                              └─ socket in the app group's container ──► stead daemon ──► machine
//! ```
//!
//! It knows `wire` and `vfs`, and must not know how a machine is reached, nor any other backend: an extension is small, may open
//! nothing but its container, and is ended at any time. What it has to keep is the [catalogue](vfs::replica::catalogue); what was
//! changed here and is not on the machine yet is kept by the system, which hands it over again until it is answered.
//!
//! Invariants:
//!
//! - Whoever asks is answered once, whatever becomes of the request: [`Once`](once::Once).
//! - What waits is bounded: [`REQUESTS_MAX`](service::REQUESTS_MAX) requests of a domain; who asks beyond that is told to come back.
//! - Nothing panics into Objective-C: requests are carried out on a thread of this crate, and one that panics is answered as failed.

#![cfg(unix)]

pub mod client;
pub mod identifier;
pub mod machine;
pub mod once;
pub mod service;
mod watch;

#[cfg(target_os = "macos")]
pub mod apple;
