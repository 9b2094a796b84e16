//! A mount whose worker is killed, for real: `examples/test-mount` plays its keeper, its workers and the agent.
//!
//! Needs root and `/dev/fuse`. What is missing is said on standard error and skips the test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure is the test's")]

mod field;
mod fuse;
mod nfs;
mod storm;
mod thread;
mod thread_storm;

use ::mount::nfs::EXPORT;
use field::{DEADLINE, Field, kill};
