//! A registration, put aside with what is in its thread, and had back.
//!
//! It has what git knows of the worktree alone: the index, where `HEAD` was, what is not concluded, repositories of submodules. git does not
//! look for objects there: what is staged and nowhere else may go when git collects its garbage.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{is_registration_of, lock_all_of, remove_last};
use crate::error::fails;
use crate::objects::{Objects, git};
use crate::{Error, Oid, Result};

/// What the name of a directory ends with that is being copied.
const HALF: &str = ".half";

/// What the name of one ends with that is being removed.
const GONE: &str = ".gone";

/// Puts a registration aside, if it still is of a worktree at one of these places. What was put there by who died before its end is as
/// good.
pub fn put_aside(registration: &Path, places: &[&Path], to: &Path) -> Result<()> {
    let _others = lock_all_of(registration)?;
    clear(registration, to)?;
    if !is_registration_of(registration, places)? {
        return Ok(());
    }
    carry(registration, &beside(registration, GONE), to, &named(to, HALF))?;
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
    clear(registration, from)?;
    carry(from, &named(from, GONE), registration, &beside(registration, HALF))
}

/// Whether a registration is there, and of a worktree at one of these places.
pub fn is_of(registration: &Path, places: &[&Path]) -> bool {
    is_registration_of(registration, places).unwrap_or(false)
}

/// The commit of the `HEAD` of a registration, if it has one.
pub fn head(objects: &Objects, registration: &Path) -> Option<Oid> {
    if let Some(commit) = super::head_in_files(objects, registration) {
        return Some(commit);
    }
    let words = ["--no-replace-objects", "rev-parse", "--quiet", "--verify", "HEAD^{commit}"];
    let said =
        git(objects.repository(), "look for a commit", |git| git.env("GIT_DIR", registration).args(words));
    Oid::from_hex(said.ok()?.trim_ascii()).ok()
}

/// A path beside another one, named after it.
fn named(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Where a registration is while only half of it is there: not among those of all worktrees, where git reads each.
fn beside(registration: &Path, ending: &str) -> PathBuf {
    let repository = registration.parent().and_then(Path::parent).unwrap_or(registration);
    let mut name = OsString::from("stead-worktree-");
    name.push(registration.file_name().unwrap_or_default());
    name.push(ending);
    repository.join(name)
}

/// Removes what somebody who died has left of one on its way.
fn clear(registration: &Path, aside: &Path) -> Result<()> {
    for ending in [HALF, GONE] {
        remove_all(&beside(registration, ending))?;
        remove_all(&named(aside, ending))?;
    }
    Ok(())
}

/// Moves a directory, also to another file system. There is one of the two at any moment, and both only for a moment: each is whole as
/// long as it has its name. Who died then has left both, of which the one that it was moved to stays.
fn carry(from: &Path, gone: &Path, to: &Path, half: &Path) -> Result<()> {
    if !to.exists() {
        match std::fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
            moved => return moved.map_err(fails("move", from)),
        }
        let mut copy = Command::new("cp");
        let copied = copy.args(["-a", "--"]).arg(from).arg(half).output().map_err(fails("copy", from))?;
        if !copied.status.success() {
            let why = String::from_utf8_lossy(&copied.stderr).trim().to_owned();
            return Err(fails("copy", from)(io::Error::other(why)));
        }
        std::fs::rename(half, to).map_err(fails("put in place", to))?;
    }
    std::fs::rename(from, gone).map_err(fails("move", from))?;
    remove_all(gone)
}

fn remove_all(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fails("remove", path)(error)),
        _ => Ok(()),
    }
}
