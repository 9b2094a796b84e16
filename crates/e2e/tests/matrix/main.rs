//! What holds for any machine, on each of them.
//!
//! | what | on this host | over SSH | in a container | in a vm |
//! |---|---|---|---|---|
//! | browsing, reading, subdirectories | ✓ | ✓ | ✓ | ✓ |
//! | creating, deleting | ✓ | ✓ | ✓ | ✓ |
//! | renaming, modifying | ✓ | ✓ | ✓ | ✓ |
//! | operations on directories | ✓ | ✓ | ✓ | ✓ |
//! | read-only mounts | ✓ | ✓ | ✓ | ✓ |
//! | the machine's own root | refused: it contains the mount | ✓ | ✓ | ✓ |
//! | many mounts, their status, their end | ✓ | ✓ | ✓ | ✓ |
//! | names of all sorts, rapid cycles, stale mounts | ✓ | ✓ | ✓ | ✓ |
//! | commands: input, output, status, directory, variables, terminal | ✓ | ✓ | ✓ | ✓ |
//! | detached commands | ✓ | ✓ | ✓ | ✓ |
//!
//! What is in a vm is seen from outside only by commands that run in it. All checks of a file run one after the other in one guest.

#![allow(clippy::unwrap_used, reason = "in a test every unexpected error is a failure")]

mod commands;
mod field;
mod mounts;

use std::time::Duration;

/// For what the other side has to do, an engine among them.
const DEADLINE: Duration = Duration::from_secs(60);
