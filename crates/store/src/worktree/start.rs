//! What a thread is to begin from, as git says it of a directory and a revision, all at once: each git costs more than what it is asked.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::git;
use crate::objects::{Objects, Revision};
use crate::working_copy::WorkingCopy;
use crate::{Hash, Oid};

/// What git says.
#[derive(Debug)]
pub struct Start {
    /// The objects of the repository.
    pub objects: Objects,
    /// What the revision is.
    pub revision: Revision,
    /// The branch that is checked out in the directory, if one is.
    pub branch: Option<String>,
    /// The working copy that the directory is within.
    pub copy: WorkingCopy,
}

/// Asks git once. `None` if something of it is not so, or cannot be told: then each is to be asked for by itself, which says what is wrong.
pub fn look(within: &Path, revision: &str) -> Option<Start> {
    // What would be taken for an option, and not for a revision.
    if revision.starts_with('-') {
        return None;
    }
    let wanted = format!("{revision}^{{commit}}");
    let said = git(within, "look at a repository", |git| {
        git.arg("-C")
            .arg(within)
            .args(["--no-replace-objects", "rev-parse", "--show-object-format", "--path-format=absolute"])
            .args(["--git-common-dir", "--git-path", "index", "--is-inside-work-tree", &wanted])
            .args(["--symbolic-full-name", "HEAD", "--show-toplevel"])
    });
    let said = said.ok()?;
    // A path with an end of line in it makes more of them.
    let lines: Vec<&[u8]> = said.strip_suffix(b"\n")?.split(|byte| *byte == b'\n').collect();
    let [format, common, index, b"true", commit, head, root] = lines[..] else { return None };
    let hash = match format {
        b"sha1" => Hash::Sha1,
        b"sha256" => Hash::Sha256,
        _ => return None,
    };
    let path = |line| Path::new(OsStr::from_bytes(line));
    let objects = Objects::open(path(common), hash).ok()?;
    let revision = objects.revision(Oid::from_hex(commit).ok()?).ok()?;
    let branch = std::str::from_utf8(head).ok()?.strip_prefix("refs/heads/").map(str::to_owned);
    let copy = WorkingCopy::with_index(path(root), path(index));
    Some(Start { objects, revision, branch, copy })
}

#[cfg(test)]
mod tests;
