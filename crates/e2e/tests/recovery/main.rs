//! Nothing dies with it: a worker, a keeper, a daemon, an agent, a login, a server or a line may go at any moment, and
//! whoever uses the mount does not notice.

#![allow(clippy::unwrap_used, reason = "in a test every unexpected error is a failure")]

mod agent;
mod daemon;
mod events;
mod keeper;
mod link;
mod replay;
mod reserve;
mod soak;
mod worker;
