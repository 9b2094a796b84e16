//! Mounts as things with a life: made, seen, refused, taken away; and the commands around them.

#![allow(clippy::unwrap_used, reason = "in a test every unexpected error is a failure")]

mod bad_input;
mod cache;
mod commands;
mod completions;
mod config;
mod distance;
mod files;
mod lifecycle;
mod machines;
mod options;
mod service;
mod sessions;
mod state;
mod users;
