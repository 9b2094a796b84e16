//! What is in a thread that is mounted, as git's objects.
//!
//! ```text
//!  the worktree's own index, copied ──► each path that is changed, or that is staged and not the base's:
//!                                         there, and not ignored ──► as it is in the worktree
//!                                         not there ───────────────► out of the index
//!                                    ──► a tree
//! ```
//!
//! What is below a directory that is a repository of its own is that repository's: git is told of the directory alone, and takes it as
//! `git add` does.
//!
//! git does all of it, so that filters, modes and what is ignored are what they are in `git add`; it looks at no other path. The user's
//! own index is not touched. Objects that nothing refers to in the end are git's to remove. What is plain from the index, the base and the
//! references git is not asked for.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{CAPTURES, INDEX, POINTER, POINTER_BYTES_MAX, head_in_files, is_ancestor, leads_to, reference};
use crate::error::fails;
use crate::git::{self, GIT_CONTENT_TIMEOUT, GIT_STATUS_TIMEOUT, GIT_TIMEOUT, Wanted};
use crate::node::Kind;
use crate::objects::{Objects, Revision, git_command, not_ended, output_from};
use crate::thread::Changed;
use crate::working_copy::index::GitIndex;
use crate::{Error, Oid, Result};

/// How often a snapshot is begun again when a path has gone while git looked at it.
const ATTEMPTS_MAX: usize = 3;

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
    /// The one before: a capture, or what was the worktree's `HEAD`.
    pub parent: Oid,
    /// The capture before it, if there was one.
    pub last: Option<Oid>,
}

impl Mounted<'_> {
    /// Whether git finds the registration from the worktree. It is shown as whoever works there has left it.
    pub fn is_known_there(&self) -> Result<bool> {
        let path = self.dir.join(OsStr::from_bytes(POINTER));
        match path.symlink_metadata() {
            Ok(found) if found.is_file() => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fails("look at", &path)(error));
            }
            _ => return Ok(false),
        }
        let mut pointer = Vec::new();
        let opened = File::open(&path).map_err(fails("open", &path))?;
        opened.take(POINTER_BYTES_MAX).read_to_end(&mut pointer).map_err(fails("read", &path))?;
        Ok(leads_to(&pointer, self.dir, self.registration))
    }

    /// Directories that are repositories of their own, but for those that are ignored and those within others. `changed` is all that
    /// may differ from the base, which has none.
    pub fn repositories(&self, changed: &[Changed]) -> Result<Vec<Vec<u8>>> {
        let all = outermost(changed);
        let paths: Vec<&[u8]> = all.iter().copied().collect();
        let ignored = self.ignored(&paths)?;
        let mut found: Vec<Vec<u8>> = paths.into_iter().map(<[u8]>::to_vec).collect();
        found.retain(|path| ignored.binary_search(path).is_err());
        found.sort_unstable();
        Ok(found)
    }

    /// Whether there is something in the worktree that its `HEAD` has not, and that is not ignored: what `git worktree remove` asks,
    /// too. Writes nothing.
    pub fn is_changed(&self) -> Result<bool> {
        let failed = |why: String| self.objects.git_failed("look for changes", why);
        let mut command = self.command(None);
        command.args(["status", "--porcelain", "-z", "--untracked-files=normal", "--ignore-submodules=none"]);
        let said = git::run(command, Stdio::null(), Wanted::Any, GIT_STATUS_TIMEOUT);
        let said = said.map_err(|error| not_ended(&error, self.dir, "look for changes"))?;
        match (said.output.is_empty(), said.status.success()) {
            (false, _) => Ok(true),
            (true, true) => Ok(false),
            (true, false) => Err(failed(said.why())),
        }
    }

    /// Whether all is as it was begun, in the worktree, in its index and in what is committed: `changed` is all that may differ from the
    /// base. What is so by another way is left to git to say.
    pub fn is_as_begun(&self, base: &Revision, changed: &[Changed]) -> bool {
        let committed = || self.objects.revision(head_in_files(self.objects, self.registration)?).ok();
        changed.is_empty()
            && self.staged(&self.registration.join(INDEX)) == Some(base.tree)
            && committed().is_some_and(|committed| committed.tree == base.tree)
    }

    /// The tree that an index is, if git has noted it there.
    fn staged(&self, index: &Path) -> Option<Oid> {
        GitIndex::read(index, self.objects.hash())?.tree()
    }

    /// A path that git neither tracks nor ignores in the worktree and that is not among what is changed: so that no snapshot has it.
    pub fn unknown(&self, changed: &[Changed]) -> Result<Option<Vec<u8>>> {
        let known: HashSet<&[u8]> = changed.iter().map(|changed| &changed.path[..]).collect();
        let with_something: HashSet<&[u8]> = known.iter().flat_map(|path| above(path)).collect();
        let mut command = self.command(None);
        command.args(["ls-files", "--others", "--exclude-standard", "-z"]);
        let said = output_from(command, Stdio::null(), self.dir, "look for what is new", GIT_STATUS_TIMEOUT)?;
        let mut paths = said.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        // What is a repository of its own ends with a slash, and is known by what is in it.
        let is_known = |path: &[u8]| match path.strip_suffix(b"/") {
            Some(repository) => with_something.contains(repository),
            None => known.contains(path),
        };
        Ok(paths.find(|path| !is_known(path)).map(<[u8]>::to_vec))
    }

    /// The tree of what is in the worktree now, but for what is ignored. `changed` is all that may differ from the base.
    pub fn snapshot(&self, base: &Revision, changed: &[Changed]) -> Result<Oid> {
        let index = self.scratch.join("snapshot");
        let own = self.registration.join(INDEX);
        let mut attempts = 0;
        loop {
            attempts += 1;
            std::fs::copy(&own, &index).map_err(fails("copy", &own))?;
            let made = self.tree_of(base, changed, &index);
            drop(std::fs::remove_file(&index));
            match made {
                // Who works there may have removed what git was told of.
                Err(error @ Error::Git { .. }) if attempts < ATTEMPTS_MAX => {
                    tracing::debug!(%error, attempts, "a snapshot is begun again");
                }
                made => return made,
            }
        }
    }

    fn tree_of(&self, base: &Revision, changed: &[Changed], index: &Path) -> Result<Oid> {
        let tree = base.tree.to_string();
        let is_as_base = self.staged(index) == Some(base.tree);
        let staged = match is_as_base {
            true => Vec::new(),
            false => self.git("look for what is staged", Some(index), Vec::new(), |git| {
                git.args(["diff-index", "--cached", "--name-only", "--no-renames", "-z", &tree])
            })?,
        };
        let staged = staged.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        let mut paths: Vec<&[u8]> = changed.iter().map(|changed| &changed.path[..]).chain(staged).collect();
        paths.sort_unstable();
        paths.dedup();
        let repositories = outermost(changed);
        let is_of_another = |path: &[u8]| above(path).any(|above| repositories.contains(above));
        let is_gits = |path: &[u8]| path == POINTER || path.starts_with(b".git/");
        paths.retain(|path| !is_gits(path) && !is_of_another(path));
        let is_there = |path: &&[u8]| self.is_there(path);
        let (there, gone): (Vec<&[u8]>, Vec<&[u8]>) = paths.into_iter().partition(is_there);
        // What is in the index is not ignored.
        let is_known = |path: &[u8]| is_as_base && self.is_file_of(base, path);
        let unknown: Vec<&[u8]> = there.iter().copied().filter(|path| !is_known(path)).collect();
        let ignored = self.ignored(&unknown)?;
        let there: Vec<&[u8]> =
            there.into_iter().filter(|path| ignored.binary_search(&path.to_vec()).is_err()).collect();
        // What is gone first: a directory may be where a file was.
        self.update(&gone, index, &["rm", "-r", "--cached", "--quiet", "--ignore-unmatch", "--force"])?;
        self.update(&there, index, &["add", "--all"])?;
        let tree = self.git("make a tree", Some(index), Vec::new(), |git| git.arg("write-tree"))?;
        self.oid("make a tree", &tree)
    }

    fn is_file_of(&self, base: &Revision, path: &[u8]) -> bool {
        let found = self.objects.at_path(&base.tree, path);
        found.is_ok_and(|found| found.is_some_and(|entry| entry.kind != Kind::Directory))
    }

    /// Whether there is something at a path. What a symlink on the way leads to is elsewhere.
    fn is_there(&self, path: &[u8]) -> bool {
        let look = |path: &[u8]| self.dir.join(OsStr::from_bytes(path)).symlink_metadata();
        above(path).all(|above| look(above).is_ok_and(|found| found.is_dir())) && look(path).is_ok()
    }

    /// Those of the paths that are ignored, in order. What is in the worktree's own index is not.
    fn ignored(&self, paths: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |why: String| self.objects.git_failed("look for what is ignored", why);
        let mut command = self.command(None);
        command.args(["check-ignore", "-z", "--stdin", "--verbose", "--non-matching"]);
        let said = git::run(command, self.input(zeroed(paths))?, Wanted::All, GIT_CONTENT_TIMEOUT);
        let said = said.map_err(|error| not_ended(&error, self.dir, "look for what is ignored"))?;
        // It ends with 1 when none is.
        if !matches!(said.status.code(), Some(0 | 1)) {
            return Err(failed(said.why()));
        }
        // Source, line and pattern, which are empty if none matches; then the path.
        let fields: Vec<&[u8]> = said.output.split(|byte| *byte == 0).collect();
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
        let parents = self.parents(last)?;
        let parent = parents[0];
        if parents.len() == 1 && self.objects.revision(parent)?.tree == *tree {
            return Ok(None);
        }
        let mut text = message.text.clone().into_bytes();
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        let said = match &message.trailers[..] {
            [] => text,
            trailers => self.git("word a message", None, text, |git| {
                git.args(["-c", "trailer.ifexists=addIfDifferent", "interpret-trailers"]);
                for (key, value) in trailers {
                    git.arg("--trailer").arg(format!("{key}: {value}"));
                }
                git
            })?,
        };
        let tree = tree.to_string();
        let commit = self.git("make a commit", None, said, |git| {
            let parents = parents.iter().flat_map(|parent| ["-p".to_owned(), parent.to_string()]);
            git.args(["commit-tree", &tree]).args(parents).args(["-F", "-"])
        })?;
        let commit = self.oid("make a commit", &commit)?;
        let before = last.unwrap_or_else(|| Oid::null(self.objects.hash()));
        let (new, old) = (commit.to_string(), before.to_string());
        self.git("keep a capture", None, Vec::new(), |git| {
            git.args(["update-ref", "-m", "captured", &captures, &new, &old])
        })?;
        Ok(Some(Captured { commit, parent, last }))
    }

    /// Behind what a capture is: behind the last one, and behind what was committed since.
    fn parents(&self, last: Option<Oid>) -> Result<Vec<Oid>> {
        let head = self.head()?;
        let Some(last) = last else { return Ok(vec![head]) };
        if is_ancestor(self.objects, &head, &last)? {
            return Ok(vec![last]);
        }
        match is_ancestor(self.objects, &last, &head)? {
            true => Ok(vec![head]),
            false => Ok(vec![last, head]),
        }
    }

    /// What is committed in the worktree.
    pub fn head(&self) -> Result<Oid> {
        if let Some(commit) = head_in_files(self.objects, self.registration) {
            return Ok(commit);
        }
        let head = self.git("find what is committed", None, Vec::new(), |git| {
            git.args(["rev-parse", "--verify", "HEAD^{commit}"])
        })?;
        self.oid("find what is committed", &head)
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
        let within = if index.is_some() { GIT_CONTENT_TIMEOUT } else { GIT_TIMEOUT };
        output_from(command, self.input(input)?, self.dir, what, within)
    }

    pub(super) fn command(&self, index: Option<&Path>) -> Command {
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

/// Directories that are repositories of their own and not within another one. The worktree itself is none.
fn outermost(changed: &[Changed]) -> HashSet<&[u8]> {
    let there = changed.iter().filter(|changed| changed.is_there);
    let all: HashSet<&[u8]> = there.filter_map(|changed| changed.path.strip_suffix(b"/.git")).collect();
    all.iter().copied().filter(|path| !above(path).any(|above| all.contains(above))).collect()
}

/// The directories that a path is within, but for the worktree's own.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    ends.map(|(end, _)| &path[..end])
}

fn zeroed(paths: &[&[u8]]) -> Vec<u8> {
    paths.iter().flat_map(|path| [path, &b"\0"[..]]).flatten().copied().collect()
}

#[cfg(test)]
mod tests;
