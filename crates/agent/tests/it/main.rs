//! An agent at the end of a socket pair, and a client that speaks the protocol by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attributes;
mod client;
mod content;
mod escapes;
mod leases;
mod listing;
mod locks;
mod names;
mod nonsense;
mod payloads;
mod processes;
mod protocol;
mod sessions;
mod trees;
mod users;
mod watch;
