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
//! not touched at all. git is told which worktree that is, so that it finds no other one around it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::snapshot::{Captured, Message, Mounted};
use super::{CAPTURES, GITDIR, checked_out, is_ancestor, reference, working_copy};
use crate::error::fails;
use crate::git::{self, GIT_CONTENT_TIMEOUT, GIT_STATUS_TIMEOUT, GIT_TIMEOUT, Wanted};
use crate::objects::{Objects, Revision, git_command, not_ended, output_from};
use crate::thread::Changed;
use crate::{Error, Oid, Result};

/// What git leaves in a worktree's directory while something is not concluded there.
const UNFINISHED: [&str; 6] =
    ["MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply", "BISECT_START"];

/// Where it says there which branch it goes back to in the end, or moves then, while `HEAD` is on none.
const LEFT_BRANCHES: [&str; 4] =
    ["rebase-merge/head-name", "rebase-merge/update-refs", "rebase-apply/head-name", "BISECT_START"];

/// The mode of a submodule in a tree.
const SUBMODULE_MODE: &str = "160000";

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

/// What became of a merge in a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Somebody has to resolve something.
    Conflicts,
    /// There was nothing to resolve: it is done.
    Merged,
    /// Nothing was done: something is staged that is neither committed nor in the files, and would be lost.
    Staged,
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
    pub fn begin_merge(&self, tip: &Oid, branch: &str) -> Result<Begun> {
        const WHAT: &str = "begin a merge";
        if self.has_staged_alone()? {
            return Ok(Begun::Staged);
        }
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
            (true, _) => Ok(Begun::Merged),
            (false, true) => Ok(Begun::Conflicts),
            (false, false) => Err(self.objects.git_failed(WHAT, said.why())),
        }
    }

    /// Whether the index has something that neither `HEAD` nor the file has.
    fn has_staged_alone(&self) -> Result<bool> {
        const WHAT: &str = "look for what is staged";
        let mut command = self.command(None);
        command.args(["status", "--porcelain", "-z", "--untracked-files=no", "--no-renames"]);
        command.arg("--ignore-submodules=dirty");
        let said = output_from(command, Stdio::null(), self.dir, WHAT, GIT_STATUS_TIMEOUT)?;
        // How the index differs from `HEAD`, and the file from the index.
        let mut states = said.split(|byte| *byte == 0).filter_map(|state| state.first_chunk::<2>());
        Ok(states.any(|state| !state.contains(&b' ')))
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
    let Some(dir) = checked_out(objects, branch)? else {
        return Ok(left(objects, branch).map_or(Checkout::None, Checkout::Unfinished));
    };
    let Some(registration) = registration_at(objects, &dir) else { return Ok(Checkout::Away(dir)) };
    if is_unfinished(&registration) {
        return Ok(Checkout::Unfinished(dir));
    }
    if head_of(&registration, &dir)?.0 != format!("refs/heads/{branch}") {
        return Ok(Checkout::Away(dir));
    }
    let mut command = within(&registration, &dir);
    command.args(["status", "--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=none"]);
    let said = git::run(command, Stdio::null(), Wanted::Any, GIT_STATUS_TIMEOUT);
    let said = said.map_err(|error| not_ended(&error, &dir, "look for changes"))?;
    match (said.output.is_empty(), said.status.success()) {
        (false, _) => Ok(Checkout::Dirty(dir)),
        (true, true) => Ok(left(objects, branch).map_or(Checkout::Clean(dir), Checkout::Unfinished)),
        (true, false) => Err(objects.git_failed("look for changes", said.why())),
    }
}

/// What git has for a worktree at a directory of this repository. What is there may be anything by now: also nothing, within another
/// worktree.
fn registration_at(objects: &Objects, dir: &Path) -> Option<PathBuf> {
    let mut command = git_command();
    command.current_dir(dir).args(["rev-parse", "--path-format=absolute"]);
    command.args(["--git-common-dir", "--git-dir", "--show-toplevel"]);
    let said = output_from(command, Stdio::null(), dir, "look at a worktree", GIT_TIMEOUT).ok()?;
    let paths = said.strip_suffix(b"\n")?.split(|byte| *byte == b'\n');
    let paths: Vec<&Path> = paths.map(|line| Path::new(OsStr::from_bytes(line))).collect();
    let [common, registration, top] = paths[..] else { return None };
    let is_same = |one: &Path, other: &Path| Some(one.canonicalize().ok()? == other.canonicalize().ok()?);
    let is_its = is_same(common, objects.repository())? && is_same(top, dir)?;
    is_its.then(|| registration.to_owned())
}

/// The full name of the branch that a worktree has, or `HEAD` if it has none, and the commit it is at.
fn head_of(registration: &Path, dir: &Path) -> Result<(String, Oid)> {
    const WHAT: &str = "look for a branch";
    let mut command = within(registration, dir);
    command.args(["rev-parse", "HEAD", "--symbolic-full-name", "HEAD"]);
    let said = output_from(command, Stdio::null(), dir, WHAT, GIT_TIMEOUT)?;
    let failed = |why: String| Error::Git { what: WHAT, repository: dir.to_owned(), why };
    let said = String::from_utf8_lossy(&said);
    let (commit, name) = said.trim_end().split_once('\n').ok_or_else(|| failed("it has none".to_owned()))?;
    let commit = Oid::from_hex(commit.as_bytes()).map_err(|error| failed(error.to_string()))?;
    Ok((name.to_owned(), commit))
}

/// The worktree that has left a branch while something is not concluded, and goes back to it then.
fn left(objects: &Objects, branch: &str) -> Option<PathBuf> {
    let repository = objects.repository();
    let name = format!("refs/heads/{branch}");
    let has_left = |registration: &Path| {
        let said = LEFT_BRANCHES.iter().filter_map(|path| std::fs::read(registration.join(path)).ok());
        let said: Vec<u8> = said.flat_map(|said| [said, b"\n".to_vec()].concat()).collect();
        said.split(|byte| *byte == b'\n').any(|line| line == name.as_bytes() || line == branch.as_bytes())
    };
    if has_left(repository) {
        return Some(working_copy(objects, repository));
    }
    let entries = std::fs::read_dir(repository.join("worktrees")).ok()?;
    let found = entries.flatten().map(|entry| entry.path()).find(|registration| has_left(registration))?;
    let pointer = std::fs::read(found.join(GITDIR)).unwrap_or_default();
    let dir = Path::new(OsStr::from_bytes(pointer.trim_ascii_end())).parent();
    Some(dir.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(&found).to_owned())
}

/// A branch that goes elsewhere, with the worktree that has it.
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    /// The repository.
    pub objects: &'a Objects,
    /// The branch, by its full name.
    pub reference: &'a str,
    /// Where it is.
    pub from: Option<Oid>,
    /// Where it is to be.
    pub to: Oid,
}

impl Move<'_> {
    /// Has a worktree go on from the commit it is at to one that contains it. What is not committed there is not overwritten: then nothing
    /// is done.
    pub fn advance(&self, dir: &Path) -> Result<()> {
        let registration = self.registration(dir)?;
        let mut command = within(&registration, dir);
        command.args(["merge", "--quiet", "--ff-only", "--no-autostash", "--no-overwrite-ignore"]);
        command.arg(self.to.to_string());
        self.check(dir, &registration)?;
        output_from(command, Stdio::null(), dir, "bring a worktree along", GIT_CONTENT_TIMEOUT)?;
        self.check_moved(dir)
    }

    /// Has a worktree go to a commit. Only files that differ between the two are touched, and what is not committed stays, be it
    /// ignored: where something is of such a file, nothing is done.
    pub fn go_to(&self, dir: &Path) -> Result<()> {
        let registration = self.registration(dir)?;
        self.check(dir, &registration)?;
        if let Some(path) = self.in_the_way(dir, &registration)? {
            let path = path.escape_ascii();
            return Err(self.refused(dir, format!("`{path}` is not tracked, and would be overwritten")));
        }
        let mut command = within(&registration, dir);
        command.args(["reset", "--quiet", "--keep", &self.to.to_string()]);
        self.check(dir, &registration)?;
        output_from(command, Stdio::null(), dir, "move a worktree", GIT_CONTENT_TIMEOUT)?;
        self.check_moved(dir)
    }

    fn refused(&self, dir: &Path, why: String) -> Error {
        Error::Git { what: "move a worktree", repository: dir.to_owned(), why }
    }

    fn registration(&self, dir: &Path) -> Result<PathBuf> {
        let found = registration_at(self.objects, dir);
        found.ok_or_else(|| self.refused(dir, "it is no worktree of the repository now".to_owned()))
    }

    /// Refuses a worktree that is elsewhere by now.
    fn check(&self, dir: &Path, registration: &Path) -> Result<()> {
        let (name, at) = head_of(registration, dir)?;
        match name == self.reference && Some(at) == self.from {
            true => Ok(()),
            false => Err(self.refused(dir, format!("`{name}` is checked out there now, at {at}"))),
        }
    }

    /// Whoever works there may have had another branch there a moment ago.
    fn check_moved(&self, dir: &Path) -> Result<()> {
        let is = reference(self.objects, self.reference)?;
        // Somebody may have gone on from there already.
        let has_moved = match is {
            Some(is) if Some(is) == self.from => is == self.to,
            Some(is) => is_ancestor(self.objects, &self.to, &is)?,
            None => false,
        };
        if has_moved {
            return Ok(());
        }
        let at = is.map_or("gone".to_owned(), |is| format!("at {is}"));
        let why = format!("`{}` was to be at {}, and is {at}: look at git reflog", self.reference, self.to);
        Err(self.refused(dir, why))
    }

    /// Something that is not tracked, at or above a path that there is only then: git would overwrite it if it is ignored.
    fn in_the_way(&self, dir: &Path, registration: &Path) -> Result<Option<Vec<u8>>> {
        const WHAT: &str = "look for files in the way";
        let Some(from) = self.from else { return Ok(None) };
        let (from, to) = (from.to_string(), self.to.to_string());
        let asked = |words: &[&str]| {
            let mut command = within(registration, dir);
            command.args(words);
            output_from(command, Stdio::null(), dir, WHAT, GIT_CONTENT_TIMEOUT)
        };
        let words = ["diff-tree", "-r", "--raw", "-z", "--no-renames", "--diff-filter=A", &from, &to];
        let added = asked(&words)?;
        let fields: Vec<&[u8]> = added.split(|byte| *byte == 0).collect();
        let mut there = Vec::new();
        for field in fields.chunks_exact(2) {
            let is_submodule = field[0].split(|byte| *byte == b' ').nth(1) == Some(SUBMODULE_MODE.as_bytes());
            files_at(dir, field[1], is_submodule, &mut there)?;
        }
        if there.is_empty() {
            return Ok(None);
        }
        let tracked = asked(&["ls-files", "-z", "--full-name"])?;
        let tracked: HashSet<&[u8]> = tracked.split(|byte| *byte == 0).collect();
        Ok(there.into_iter().find(|path| !tracked.contains(&path[..])))
    }
}

/// What is there of a path that a file is to have: a file in the place of a directory above it, itself, or all that is below it. A
/// directory is as good as a submodule's.
fn files_at(dir: &Path, path: &[u8], is_submodule: bool, to: &mut Vec<Vec<u8>>) -> Result<()> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    for end in ends.chain([path.len()]) {
        let at = dir.join(OsStr::from_bytes(&path[..end]));
        match at.symlink_metadata() {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                to.push(path[..end].to_vec());
                return Ok(());
            }
            Err(error) => return Err(fails("look at", &at)(error)),
        }
    }
    if is_submodule {
        return Ok(());
    }
    let at = dir.join(OsStr::from_bytes(path));
    for entry in std::fs::read_dir(&at).map_err(fails("list", &at))? {
        let name = entry.map_err(fails("list", &at))?.file_name();
        files_at(dir, &[path, b"/", name.as_bytes()].concat(), false, to)?;
    }
    Ok(())
}

fn within(registration: &Path, dir: &Path) -> Command {
    let mut command = git_command();
    command.current_dir(dir).arg("--no-replace-objects").env("GIT_OPTIONAL_LOCKS", "0");
    command.env("GIT_DIR", registration).env("GIT_WORK_TREE", dir);
    command
}

#[cfg(test)]
mod tests;
