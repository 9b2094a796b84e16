//! A repository: what has changed in it, and a new one.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Contender, Manifest, ROW_DEADLINE, Size, fresh, source, trees};
use crate::Program;

fn git(dir: &Path) -> Program {
    let program = Program::new("git").arg("-C").arg(dir).args([
        "-c",
        "user.name=bench",
        "-c",
        "user.email=bench@localhost",
    ]);
    program.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").deadline(ROW_DEADLINE)
}

fn commit_all(dir: &Path) {
    git(dir).args(["init", "-q", "."]).ok();
    git(dir).args(["add", "-A"]).ok();
    git(dir).args(["commit", "-qm", "all"]).ok();
}

pub fn prepare_repository(contender: &mut Contender, size: &Size) {
    let far = contender.far.join("repository");
    if far.exists() {
        return;
    }
    trees::write_tree(&far, size.files);
    commit_all(&far);
    // git notes inode numbers and times as this mount shows them; from here on nothing has changed for it.
    contender.make_cold();
    git(&contender.dir.join("repository")).args(["status", "--porcelain"]).ok();
}

pub fn status(contender: &Contender, _: &Size) -> f64 {
    let done = git(&contender.dir.join("repository")).args(["status", "--porcelain"]).ok();
    assert!(done.stdout.is_empty(), "nothing has changed: {done}");
    done.took.as_secs_f64()
}

fn origin(contender: &Contender) -> PathBuf {
    contender.local().join("origin")
}

fn clone_into(origin: &Path, dir: &Path, name: &str) {
    git(dir).args(["clone", "-q", "--no-hardlinks"]).arg(origin).arg(name).ok();
}

/// A repository on this computer's disk, and a clone of it to know what a clone has.
pub fn prepare_origin(contender: &mut Contender, size: &Size) {
    let origin = origin(contender);
    if origin.exists() {
        return;
    }
    source::write_source(&origin, size.source_files);
    commit_all(&origin);
    git(&origin).args(["gc", "-q"]).ok();
    clone_into(&origin, &contender.local(), "clone");
}

/// What git says of times and places is as long as it happens to be.
fn is_told_differently(path: &Path) -> bool {
    path.starts_with(".git") && !path.starts_with(".git/objects")
}

pub fn clone(contender: &Contender, _: &Size) -> f64 {
    let manifest = Manifest::of(&contender.local().join("clone")).without(is_told_differently);
    let name = fresh(contender, "clone");
    let start = Instant::now();
    clone_into(&origin(contender), &contender.dir, &name);
    manifest.arrives(&contender.far.join(name));
    start.elapsed().as_secs_f64()
}
