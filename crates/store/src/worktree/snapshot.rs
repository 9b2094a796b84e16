//! What is in a thread that is mounted, as git's objects.
//!
//! ```text
//!  the worktree's own index, copied ──► each path that is changed, or that is staged and not the base's:
//!                                         there, and not ignored ──► as it is in the worktree
//!                                         not there ───────────────► out of the index
//!                                    ──► a tree
//! ```
//!
//! git does all of it, so that filters, modes and what is ignored are what they are in `git add`; it looks at no other path. The user's
//! own index is not touched. Objects that nothing refers to in the end are git's to remove.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{CAPTURES, INDEX, POINTER, reference};
use crate::error::fails;
use crate::objects::{Objects, Revision, git_command, output_from};
use crate::thread::Changed;
use crate::{Oid, Result};

/// A worktree that is mounted.
#[derive(Clone, Copy, Debug)]
pub struct Mounted<'a> {
    /// The repository.
    pub objects: &'a Objects,
    /// `REPOSITORY/worktrees/ID`.
    pub registration: &'a Path,
    /// Where it is.
    pub dir: &'a Path,
    /// A directory for what is needed meanwhile, which nobody else uses.
    pub scratch: &'a Path,
}

/// What a capture says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What was done.
    pub text: String,
    /// Lines `KEY: VALUE` behind it.
    pub trailers: Vec<(String, String)>,
}

/// A capture that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Its commit.
    pub commit: Oid,
    /// The one before: a capture, or else what was the worktree's `HEAD`.
    pub parent: Oid,
}

impl Mounted<'_> {
    /// The tree of what is in the worktree now, but for what is ignored. `changed` is all that may differ from the base.
    pub fn snapshot(&self, base: &Revision, changed: &[Changed]) -> Result<Oid> {
        let index = self.scratch.join("snapshot");
        let own = self.registration.join(INDEX);
        std::fs::copy(&own, &index).map_err(fails("copy", &own))?;
        let made = self.tree_of(base, changed, &index);
        drop(std::fs::remove_file(&index));
        made
    }

    fn tree_of(&self, base: &Revision, changed: &[Changed], index: &Path) -> Result<Oid> {
        let tree = base.tree.to_string();
        let staged = self.git("look for what is staged", Some(index), Vec::new(), |git| {
            git.args(["diff-index", "--cached", "--name-only", "--no-renames", "-z", &tree])
        })?;
        let staged = staged.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        let mut paths: Vec<&[u8]> = changed.iter().map(|changed| &changed.path[..]).chain(staged).collect();
        paths.sort_unstable();
        paths.dedup();
        paths.retain(|path| *path != POINTER);
        let is_there = |path: &&[u8]| self.dir.join(OsStr::from_bytes(path)).symlink_metadata().is_ok();
        let (there, gone): (Vec<&[u8]>, Vec<&[u8]>) = paths.into_iter().partition(is_there);
        let ignored = self.ignored(&there)?;
        let there: Vec<&[u8]> =
            there.into_iter().filter(|path| ignored.binary_search(&path.to_vec()).is_err()).collect();
        // What is gone first: a directory may be where a file was.
        self.update(&gone, index, &["rm", "-r", "--cached", "--quiet", "--ignore-unmatch", "--force"])?;
        self.update(&there, index, &["add", "--all"])?;
        let tree = self.git("make a tree", Some(index), Vec::new(), |git| git.arg("write-tree"))?;
        self.oid("make a tree", &tree)
    }

    /// Those of the paths that are ignored, in order. What is in the worktree's own index is not.
    fn ignored(&self, paths: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |why: String| self.objects.git_failed("look for what is ignored", why);
        let mut command = self.command(None);
        command.args(["check-ignore", "-z", "--stdin", "--verbose", "--non-matching"]);
        command.stdin(self.input(zeroed(paths))?).stderr(Stdio::null());
        let output = command.output().map_err(|error| failed(error.to_string()))?;
        // It ends with 1 when none is.
        if !matches!(output.status.code(), Some(0 | 1)) {
            return Err(failed(output.status.to_string()));
        }
        // Source, line and pattern, which are empty if none matches; then the path.
        let fields: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
        let is_ignored = |four: &&[&[u8]]| !four[2].is_empty() && !four[2].starts_with(b"!");
        let mut found: Vec<Vec<u8>> =
            fields.chunks_exact(4).filter(is_ignored).map(|four| four[3].to_vec()).collect();
        found.sort_unstable();
        Ok(found)
    }

    fn update(&self, paths: &[&[u8]], index: &Path, words: &[&str]) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        self.git("look at what is changed", Some(index), zeroed(paths), |git| {
            git.env("GIT_LITERAL_PATHSPECS", "1")
                .args(words)
                .args(["--pathspec-from-file=-", "--pathspec-file-nul"])
        })?;
        Ok(())
    }

    /// Makes a commit of a tree, and has the thread's captures end with it. `None` if the last one has that tree already.
    pub fn capture(&self, name: &str, tree: &Oid, message: &Message) -> Result<Option<Captured>> {
        let captures = format!("{CAPTURES}{name}");
        let last = reference(self.objects, &captures)?;
        let parent = match last {
            Some(last) => last,
            None => {
                let head = self.git("find what is committed", None, Vec::new(), |git| {
                    git.args(["rev-parse", "--verify", "HEAD^{commit}"])
                })?;
                self.oid("find what is committed", &head)?
            }
        };
        if self.objects.revision(parent)?.tree == *tree {
            return Ok(None);
        }
        let said = self.git("word a message", None, message.text.clone().into_bytes(), |git| {
            git.args(["-c", "trailer.ifexists=addIfDifferent", "interpret-trailers"]);
            for (key, value) in &message.trailers {
                git.arg("--trailer").arg(format!("{key}: {value}"));
            }
            git
        })?;
        let (tree, above) = (tree.to_string(), parent.to_string());
        let commit = self.git("make a commit", None, said, |git| {
            git.args(["commit-tree", &tree, "-p", &above, "-F", "-"])
        })?;
        let commit = self.oid("make a commit", &commit)?;
        let before = last.unwrap_or_else(|| Oid::null(self.objects.hash()));
        let (new, old) = (commit.to_string(), before.to_string());
        self.git("keep a capture", None, Vec::new(), |git| {
            git.args(["update-ref", "-m", "captured", &captures, &new, &old])
        })?;
        Ok(Some(Captured { commit, parent }))
    }

    /// What git says in this worktree, with that index if not its own, and this to read.
    fn git(
        &self,
        what: &'static str,
        index: Option<&Path>,
        input: Vec<u8>,
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Vec<u8>> {
        let mut command = self.command(index);
        with(&mut command);
        output_from(command, self.input(input)?, self.dir, what)
    }

    fn command(&self, index: Option<&Path>) -> Command {
        let mut command = git_command();
        command.current_dir(self.dir).arg("--no-replace-objects");
        command.env("GIT_DIR", self.registration).env("GIT_WORK_TREE", self.dir);
        command.env("GIT_OPTIONAL_LOCKS", "0");
        command.args(["-c", "core.fsmonitor=false", "-c", "core.safecrlf=false"]);
        if let Some(index) = index {
            command.env("GIT_INDEX_FILE", index);
        }
        command
    }

    /// A file to read from, so that nobody waits for who writes and reads at once.
    fn input(&self, bytes: Vec<u8>) -> Result<Stdio> {
        if bytes.is_empty() {
            return Ok(Stdio::null());
        }
        let path = self.scratch.join("input");
        let opened = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let mut file = opened.map_err(fails("make", &path))?;
        drop(std::fs::remove_file(&path));
        file.write_all(&bytes).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(fails("write", &path))?;
        Ok(file.into())
    }

    fn oid(&self, what: &'static str, hex: &[u8]) -> Result<Oid> {
        Oid::from_hex(hex.trim_ascii()).map_err(|error| self.objects.git_failed(what, error.to_string()))
    }
}

fn zeroed(paths: &[&[u8]]) -> Vec<u8> {
    paths.iter().flat_map(|path| [path, &b"\0"[..]]).flatten().copied().collect()
}

#[cfg(test)]
mod tests;
