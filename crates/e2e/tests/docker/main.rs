//! Containers as machines: mounted, used, stopped, refused.

#![allow(clippy::unwrap_used, reason = "in a test every unexpected error is a failure")]

mod agent;
mod commands;

mod life;
mod refusals;
mod survival;

use std::time::Duration;

use e2e::stead::is_root;

/// For what the engine has to do.
const DEADLINE: Duration = Duration::from_secs(60);

/// Only root can start an engine.
fn is_possible() -> bool {
    if !is_root() {
        eprintln!("not tried: an engine needs root");
    }
    is_root()
}
