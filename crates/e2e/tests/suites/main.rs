//! Suites that no one here wrote, and the programs that people run, on the local disk, on a mount of this host and on a
//! mount over SSH. What fails on the disk is not asked of a mount.

#![allow(clippy::unwrap_used, reason = "in a test every unexpected error is a failure")]

mod appenders;
mod cargo;
mod fsx;
mod git;
mod large;
mod pjdfstest;
mod rsync;
mod sqlite;
mod tar;

use std::path::PathBuf;

/// A suite that `cargo xtask setup` has installed.
fn tool(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().find(|dir| dir.join("tools/bin").is_dir()).map(|dir| dir.join("tools"));
    let tools = std::env::var_os("STEAD_TOOLS").map(PathBuf::from).or(target);
    let path = tools.unwrap_or_default().join("bin").join(name);
    assert!(path.is_file(), "{name} is missing: cargo xtask setup");
    path
}
