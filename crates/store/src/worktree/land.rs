//! What is in a thread, brought onto a branch.
//!
//! ```text
//!  tip of the thread ──► contained in the branch ───────────► nothing to do
//!                   ├──► contains the branch ───────────────► the branch becomes the tip
//!                   └──► neither ─► merged as trees ─► clean ─► a commit behind the branch (and the tip)
//!                                               └──► conflicts ─► begun in the thread's worktree, for somebody to resolve there
//! ```
//!
//! Commits are made of objects alone, and then the branch is changed from the commit that it was at, or not at all. A worktree which has
//! the branch is brought along by the git in it, which overwrites nothing that is not committed; one with changes in tracked files is
//! not touched at all.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::snapshot::{Captured, Message, Mounted};
use super::{CAPTURES, checked_out, is_ancestor, reference};
use crate::git::{self, GIT_CONTENT_TIMEOUT, GIT_STATUS_TIMEOUT, GIT_TIMEOUT, Wanted};
use crate::objects::{Objects, Revision, git_command, not_ended, output_from};
use crate::thread::Changed;
use crate::{Oid, Result};

/// What git leaves in a worktree's directory while something is not concluded there.
const UNFINISHED: [&str; 6] =
    ["MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply", "BISECT_START"];

/// What of a thread can be landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tip {
    /// This commit has all that is in it, but for what is ignored.
    Commit(Oid),
    /// This one does, and was made for it.
    Captured(Captured),
    /// There are changes that are neither committed nor captured.
    Uncaptured,
    /// A merge or the like is not concluded there.
    Unfinished,
}

/// What comes of two commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// This tree.
    Tree(Oid),
    /// These paths have to be resolved by somebody.
    Conflicts(Vec<Vec<u8>>),
}

/// Who has a branch checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checkout {
    /// Nobody.
    None,
    /// A worktree without changes in tracked files.
    Clean(PathBuf),
    /// One that has some.
    Dirty(PathBuf),
    /// One in which something is not concluded.
    Unfinished(PathBuf),
    /// One that is not there now.
    Away(PathBuf),
}

impl Mounted<'_> {
    /// The commit that has what is in the worktree: its `HEAD`, or else the last capture, or else one that is captured now if there is a
    /// message for it.
    pub fn tip(
        &self,
        name: &str,
        base: &Revision,
        changed: &[Changed],
        message: Option<&Message>,
    ) -> Result<Tip> {
        if is_unfinished(self.registration) {
            return Ok(Tip::Unfinished);
        }
        let (tree, head) = (self.snapshot(base, changed)?, self.head()?);
        if self.objects.revision(head)?.tree == tree {
            return Ok(Tip::Commit(head));
        }
        if let Some(last) = reference(self.objects, &format!("{CAPTURES}{name}"))?
            && self.objects.revision(last)?.tree == tree
            && is_ancestor(self.objects, &head, &last)?
        {
            return Ok(Tip::Commit(last));
        }
        match message {
            None => Ok(Tip::Uncaptured),
            Some(message) => Ok(self.capture(name, &tree, message)?.map_or(Tip::Commit(head), Tip::Captured)),
        }
    }

    /// Begins to merge a branch into the worktree, which has what `tip` has. What cannot be merged is left there as git leaves it.
    /// Whether there was anything.
    pub fn begin_merge(&self, tip: &Oid, branch: &str) -> Result<bool> {
        const WHAT: &str = "begin a merge";
        let tip = tip.to_string();
        // Files stay as they are: they are the tip's.
        let mut command = self.command(None);
        command.args(["reset", "--quiet", "--mixed", &tip]);
        output_from(command, Stdio::null(), self.dir, WHAT, GIT_CONTENT_TIMEOUT)?;
        let mut command = self.command(None);
        command.args(["merge", "--quiet", "--no-edit", "--no-ff", "--no-overwrite-ignore", "--no-autostash"]);
        command.arg(format!("refs/heads/{branch}"));
        let said = git::run(command, Stdio::null(), Wanted::All, GIT_CONTENT_TIMEOUT);
        let said = said.map_err(|error| not_ended(&error, self.dir, WHAT))?;
        match (said.status.success(), is_unfinished(self.registration)) {
            (true, _) => Ok(false),
            (false, true) => Ok(true),
            (false, false) => Err(self.objects.git_failed(WHAT, said.why())),
        }
    }
}

fn is_unfinished(registration: &Path) -> bool {
    UNFINISHED.iter().any(|name| registration.join(name).exists())
}

/// Merges two commits as trees. Touches nothing but objects.
pub fn merge(objects: &Objects, ours: &Oid, theirs: &Oid) -> Result<Merged> {
    const WHAT: &str = "merge";
    let mut command = objects.command();
    command.args(["merge-tree", "--write-tree", "-z", "--name-only", "--no-messages"]);
    command.args([ours.to_string(), theirs.to_string()]);
    let said = git::run(command, Stdio::null(), Wanted::All, GIT_CONTENT_TIMEOUT);
    let said = said.map_err(|error| not_ended(&error, objects.repository(), WHAT))?;
    let mut fields = said.output.split(|byte| *byte == 0).filter(|field| !field.is_empty());
    let tree = fields.next().unwrap_or_default();
    match said.status.code() {
        Some(0) => {
            Oid::from_hex(tree).map(Merged::Tree).map_err(|error| objects.git_failed(WHAT, error.to_string()))
        }
        Some(1) if !tree.is_empty() => Ok(Merged::Conflicts(fields.map(<[u8]>::to_vec).collect())),
        _ => Err(objects.git_failed(WHAT, said.why())),
    }
}

/// Makes a commit of a tree.
pub fn commit(objects: &Objects, tree: &Oid, parents: &[Oid], message: &str) -> Result<Oid> {
    let said = objects.git("make a commit", |git| {
        git.arg("commit-tree").arg(tree.to_string());
        for parent in parents {
            git.arg("-p").arg(parent.to_string());
        }
        git.arg("-m").arg(message)
    })?;
    Oid::from_hex(said.trim_ascii()).map_err(|error| objects.git_failed("make a commit", error.to_string()))
}

/// The messages of the commits that one has and another has not, the first one first: at most so many.
pub fn messages(objects: &Objects, of: &Oid, without: &Oid, most: usize) -> Result<Vec<String>> {
    let (count, range) = (format!("--max-count={most}"), format!("{without}..{of}"));
    let said = objects.git("look for commits", |git| {
        git.args(["log", "-z", "--no-merges", "--reverse", "--format=%B", &count, &range])
    })?;
    let said = String::from_utf8_lossy(&said);
    Ok(said.split('\0').map(|message| message.trim().to_owned()).filter(|one| !one.is_empty()).collect())
}

/// Who has a branch checked out, and whether it can be brought along.
pub fn checkout(objects: &Objects, branch: &str) -> Result<Checkout> {
    let Some(dir) = checked_out(objects, branch)? else { return Ok(Checkout::None) };
    let within = |words: &[&str]| {
        let mut command = within(&dir);
        command.args(words);
        command
    };
    let words = ["rev-parse", "--path-format=absolute", "--git-common-dir", "--git-dir"];
    let found = output_from(within(&words), Stdio::null(), &dir, "look at a worktree", GIT_TIMEOUT);
    // What is there may be anything by now.
    let found = found.unwrap_or_default();
    let mut found = found.split(|byte| *byte == b'\n').map(|line| Path::new(OsStr::from_bytes(line)));
    let is_its = found
        .next()
        .is_some_and(|common| common.canonicalize().ok() == objects.repository().canonicalize().ok());
    let Some(registration) = found.next().filter(|_| is_its) else { return Ok(Checkout::Away(dir)) };
    if is_unfinished(registration) {
        return Ok(Checkout::Unfinished(dir));
    }
    let words = ["status", "--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=none"];
    let said = git::run(within(&words), Stdio::null(), Wanted::Any, GIT_STATUS_TIMEOUT);
    let said = said.map_err(|error| not_ended(&error, &dir, "look for changes"))?;
    match (said.output.is_empty(), said.status.success()) {
        (false, _) => Ok(Checkout::Dirty(dir)),
        (true, true) => Ok(Checkout::Clean(dir)),
        (true, false) => Err(objects.git_failed("look for changes", said.why())),
    }
}

/// Has a worktree go on from the commit it is at to one that contains it. What is not committed there is not overwritten: then nothing
/// is done.
pub fn advance(dir: &Path, to: &Oid) -> Result<()> {
    let mut command = within(dir);
    command.args(["merge", "--quiet", "--ff-only", "--no-autostash", "--no-overwrite-ignore"]);
    command.arg(to.to_string());
    output_from(command, Stdio::null(), dir, "bring a worktree along", GIT_CONTENT_TIMEOUT).map(drop)
}

/// Has a worktree go to a commit, with its branch. Only files that differ between the two are touched, and changes that are not committed
/// stay: where one is of such a file, nothing is done.
pub fn go_to(dir: &Path, to: &Oid) -> Result<()> {
    let mut command = within(dir);
    command.args(["reset", "--quiet", "--keep", &to.to_string()]);
    output_from(command, Stdio::null(), dir, "move a worktree", GIT_CONTENT_TIMEOUT).map(drop)
}

fn within(dir: &Path) -> Command {
    let mut command = git_command();
    command.current_dir(dir).arg("--no-replace-objects").env("GIT_OPTIONAL_LOCKS", "0");
    command
}

#[cfg(test)]
mod tests;
