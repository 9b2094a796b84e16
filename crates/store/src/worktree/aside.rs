//! A registration, put aside with what is in its thread, and had back.
//!
//! It has what git knows of the worktree alone: the index, where `HEAD` was, what is not concluded, repositories of submodules. git does not
//! look for objects there: what is staged and nowhere else may go when git collects its garbage.

use std::io;
use std::path::Path;
use std::process::Command;

use super::{is_registration_of, lock_all_of, remove_last};
use crate::error::fails;
use crate::objects::{Objects, git};
use crate::{Error, Oid, Result};

/// Puts a registration aside, in a place that is not there, if it still is of a worktree at one of these places. What was put there by who
/// died before its end is as good.
pub fn put_aside(registration: &Path, places: &[&Path], to: &Path) -> Result<()> {
    if !is_registration_of(registration, places)? {
        return Ok(());
    }
    let _others = lock_all_of(registration)?;
    carry(registration, to)?;
    remove_last(registration);
    Ok(())
}

/// Has a registration back where it was.
pub fn bring_back(from: &Path, registration: &Path) -> Result<()> {
    if registration.exists() {
        let source = io::Error::new(io::ErrorKind::AlreadyExists, "git has another worktree of that name");
        return Err(fails("bring back", registration)(source));
    }
    if let Some(all) = registration.parent() {
        std::fs::create_dir_all(all).map_err(fails("make", all))?;
    }
    let _others = lock_all_of(registration)?;
    carry(from, registration)
}

/// The commit of the `HEAD` of a registration, if it has one.
pub fn head(objects: &Objects, registration: &Path) -> Option<Oid> {
    let words = ["--no-replace-objects", "rev-parse", "--quiet", "--verify", "HEAD^{commit}"];
    let said =
        git(objects.repository(), "look for a commit", |git| git.env("GIT_DIR", registration).args(words));
    Oid::from_hex(said.ok()?.trim_ascii()).ok()
}

/// Moves a directory, also to another file system. There is one of the two at any moment, and both only for a moment.
fn carry(from: &Path, to: &Path) -> Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
        moved => return moved.map_err(fails("move", from)),
    }
    let half = to.with_extension("half");
    remove_all(&half)?;
    let mut copy = Command::new("cp");
    let copied = copy.args(["-a", "--"]).arg(from).arg(&half).output().map_err(fails("copy", from))?;
    if !copied.status.success() {
        let why = String::from_utf8_lossy(&copied.stderr).trim().to_owned();
        return Err(fails("copy", from)(io::Error::other(why)));
    }
    std::fs::rename(&half, to).map_err(fails("put in place", to))?;
    remove_all(from)
}

fn remove_all(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fails("remove", path)(error)),
        _ => Ok(()),
    }
}
