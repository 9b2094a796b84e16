//! Machines over ssh, against a real sshd.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod logins;
mod machine;
mod placing;
mod sessions;
mod spare;
