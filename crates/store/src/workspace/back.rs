//! What comes back from another computer.
//!
//! ```text
//!  a pack ──► a bare repository aside, which has the user's objects to refer to: every object parsed, every reference followed
//!               │ something wrong ─► nothing of it is anywhere else
//!               ▼
//!  its packs are put beside the user's ──► one transaction: the branch, and refs/stead/workspaces/…
//! ```
//!
//! Nothing of what comes is trusted. It is looked at in a repository aside, by a git that knows neither the user's configuration nor the
//! system's, in an address space that is bounded, where names that lead out of a tree or into `.git` are errors, as are objects that are
//! not whole. No file of it is ever checked out, no attribute of it is read, and no filter, driver or hook is run for it.
//!
//! A pack that is in place stays there, whatever becomes of the branch: any git may have used something of it by then. What nothing refers
//! to in the end is `git gc`'s to remove.
//!
//! A branch is changed from what was looked at, or not at all, and not when somebody has it checked out, which is looked for once more
//! right before. What may be changed: a branch
//! that is not there, one of which the new tip has all commits, and one that is still where this workspace has put it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Error, IsWanted, PACK_BYTES_MAX, PATHS_TOLD_MAX, Result, ended, run, write_alternate};
use crate::error::fails;
use crate::git::Said;
use crate::objects::Objects;
use crate::worktree::{checked_out, reference};
use crate::{Hash, Oid};

/// Below this is what came back, for each workspace.
pub const KEPT: &str = "refs/stead/workspaces/";

/// What a git may have in memory that looks at what came: a small pack can unfold to anything.
const ADDRESS_BYTES_MAX: u64 = 4 << 30;

/// What it may write to one file: a patch of a small pack can be of any size.
const FILE_BYTES_MAX: u64 = PACK_BYTES_MAX;

/// What a merge that is only tried may write: files of somebody's source that both have changed.
const MERGED_BYTES_MAX: u64 = 1 << 30;

/// How often it is looked how much that is.
const MERGED_INTERVAL: Duration = Duration::from_millis(500);

/// What the paths that are told have together: as many of the longest that a system has as there are in a screen.
const TOLD_BYTES_MAX: usize = 64 << 10;

/// What git is told of a repository aside: how much of a pack of the user's it may have mapped at once, and from which size on an object is
/// not taken into memory.
const LIMITS: [&str; 4] = [
    "core.packedGitWindowSize=32m",
    "core.packedGitLimit=512m",
    "core.bigFileThreshold=64m",
    "pack.threads=1",
];

/// What somebody says has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What the work began from, which was here before.
    pub base: Oid,
    /// What was in the files then.
    pub worked: Oid,
    /// A commit that has all of it now.
    pub tip: Oid,
}

/// What came, and is whole.
#[derive(Debug)]
pub struct Arrived {
    aside: PathBuf,
    repository: PathBuf,
    hash: Hash,
    claim: Claim,
}

/// Where a reference was, and where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its whole name.
    pub name: String,
    /// Where it was, if it was there.
    pub was: Option<Oid>,
    /// Where it is.
    pub now: Oid,
}

/// Looks at a pack that came for a repository, in an empty directory. Changes nothing else. Blocks.
pub fn receive(
    (repository, hash): (&Path, Hash),
    pack: &Path,
    claim: Claim,
    scratch: &Path,
    is_wanted: IsWanted<'_>,
) -> Result<Arrived> {
    let bytes = pack.metadata().map_err(fails("look at", pack))?.len();
    if bytes > PACK_BYTES_MAX {
        return Err(Error::TooMuch { what: "the pack", bytes, most: PACK_BYTES_MAX });
    }
    let aside = scratch.join("aside");
    let arrived = Arrived { aside, repository: repository.to_owned(), hash, claim };
    let format = format!("--object-format={hash}");
    let mut making = strict_git(scratch);
    making.args(["init", "--quiet", "--bare", "--template=", &format]).arg(&arrived.aside);
    ended(
        run(making, Stdio::null(), scratch, "make a repository", is_wanted)?,
        scratch,
        "make a repository",
    )?;
    let info = arrived.aside.join("objects/info");
    fs::create_dir_all(&info).map_err(fails("make", &info))?;
    write_alternate(&info, &repository.join("objects"))?;
    // What is not there of the user's history is not missed.
    let shallow = repository.join("shallow");
    match fs::copy(&shallow, arrived.aside.join("shallow")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(fails("copy", &shallow)(error).into());
        }
        _ => {}
    }
    let Claim { base, worked, tip } = claim;
    let has_base =
        arrived.git(&["cat-file", "-e", &format!("{base}^{{commit}}")], Stdio::null(), is_wanted)?;
    if !has_base.status.success() {
        return Err(Error::Stranger { commit: base, repository: repository.to_owned() });
    }
    let opened = File::open(pack).map_err(fails("open", pack))?;
    let words = ["index-pack", "--stdin", "--fix-thin", "--strict", "--threads=1"];
    let most = format!("--max-input-size={PACK_BYTES_MAX}");
    let said = arrived.git(&[&words[..], &[&most]].concat(), opened.into(), is_wanted)?;
    refused(&said)?;
    // All that they refer to is there.
    let (tip, worked, base) = (tip.to_string(), worked.to_string(), base.to_string());
    for commit in [&tip, &worked] {
        refused(&arrived.git(
            &["rev-parse", "--verify", "--quiet", &format!("{commit}^{{commit}}")],
            Stdio::null(),
            is_wanted,
        )?)?;
    }
    let words = ["rev-list", "--objects", "--quiet", &tip, &worked, "--not", &base];
    refused(&arrived.git(&words, Stdio::null(), is_wanted)?)?;
    Ok(arrived)
}

/// Whether more is written to a directory of objects than may be, as of when it was looked last.
fn is_full(objects: &Path, most: u64, looked: &Mutex<Instant>, now: Instant) -> bool {
    // It is changed in single steps.
    let mut looked = looked.lock().unwrap_or_else(PoisonError::into_inner);
    if now.saturating_duration_since(*looked) < MERGED_INTERVAL {
        return false;
    }
    let list = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let written = list(objects).flat_map(|entry| list(&entry.path()));
    let bytes =
        written.filter_map(|entry| entry.metadata().ok()).map(|found| found.blocks() * 512).sum::<u64>();
    *looked = now;
    bytes > most
}

/// An error if git has found something wrong.
fn refused(said: &Said) -> Result<()> {
    match said.status.success() {
        true => Ok(()),
        false => Err(Error::Refused { why: super::shown(said.why().replace('\n', "; ").as_bytes()) }),
    }
}

impl Arrived {
    fn git(&self, words: &[&str], input: Stdio, is_wanted: IsWanted<'_>) -> Result<Said> {
        let mut command = strict_git(&self.aside);
        command.arg("--git-dir").arg(&self.aside).args(words);
        run(command, input, &self.aside, "look at what came", is_wanted)
    }

    fn text(&self, words: &[&str], is_wanted: IsWanted<'_>) -> Result<String> {
        let said = self.git(words, Stdio::null(), is_wanted)?;
        refused(&said)?;
        Ok(String::from_utf8_lossy(&said.output).trim().to_owned())
    }

    /// Whether there is nothing in what came that did not go there.
    pub fn is_nothing(&self, is_wanted: IsWanted<'_>) -> Result<bool> {
        let Claim { base, worked, tip } = self.claim;
        let tree =
            |commit: Oid| self.text(&["rev-parse", "--verify", &format!("{commit}^{{tree}}")], is_wanted);
        let commits = self.commits(is_wanted)?;
        // What was not committed then may be in one commit that only says so.
        let is_as_it_went = tree(tip)? == tree(worked)?;
        Ok(is_as_it_went && (tip == base || (commits == 1 && self.is_of_base(is_wanted)?)))
    }

    fn is_of_base(&self, is_wanted: IsWanted<'_>) -> Result<bool> {
        let parents =
            self.text(&["rev-list", "--parents", "--max-count=1", &self.claim.tip.to_string()], is_wanted)?;
        Ok(parents.split(' ').nth(1) == Some(&self.claim.base.to_string()))
    }

    /// How many commits came.
    pub fn commits(&self, is_wanted: IsWanted<'_>) -> Result<u64> {
        let (tip, base) = (self.claim.tip.to_string(), self.claim.base.to_string());
        let count = self.text(&["rev-list", "--count", &tip, "--not", &base], is_wanted)?;
        count.parse().map_err(|_| Error::Refused { why: "its commits cannot be counted".to_owned() })
    }

    /// Which paths would have to be resolved to merge it with a commit that is here: the first of them. `None` if it cannot be told:
    /// nothing is common to both, git is older than 2.38, or the merge is larger or takes longer than anybody waits for.
    pub fn conflicts(
        &self,
        with: &Oid,
        scratch: &Path,
        is_wanted: IsWanted<'_>,
    ) -> Result<Option<Vec<Vec<u8>>>> {
        // What is merged is written there, so that it is seen how much it is, and goes.
        let merged = scratch.join("merged");
        let info = merged.join("info");
        fs::create_dir_all(&info).map_err(fails("make", &info))?;
        write_alternate(&info, &self.aside.join("objects"))?;
        let told = self.merge(with, &merged, is_wanted);
        fs::remove_dir_all(&merged).map_err(fails("remove", &merged))?;
        match told {
            Err(Error::CalledOff) if !is_wanted() => Err(Error::CalledOff),
            Err(error) => {
                tracing::info!(%error, "what would have to be resolved is not told");
                Ok(None)
            }
            told => told,
        }
    }

    fn merge(&self, with: &Oid, merged: &Path, is_wanted: IsWanted<'_>) -> Result<Option<Vec<Vec<u8>>>> {
        let (with, tip) = (with.to_string(), self.claim.tip.to_string());
        let mut command = strict_git(&self.aside);
        command.env("GIT_OBJECT_DIRECTORY", merged).arg("--git-dir").arg(&self.aside);
        command.args(["merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", &with, &tip]);
        let looked = Mutex::new(Instant::now());
        let is_wanted = || is_wanted() && !is_full(merged, MERGED_BYTES_MAX, &looked, Instant::now());
        let said = run(command, Stdio::null(), &self.aside, "merge what came", &is_wanted)?;
        let mut fields = said.output.split(|byte| *byte == 0).filter(|field| !field.is_empty());
        let tree = fields.next();
        match (said.status.code(), tree) {
            (Some(0), _) => Ok(Some(Vec::new())),
            (Some(1), Some(_)) => {
                let mut room = TOLD_BYTES_MAX;
                let paths = fields.take(PATHS_TOLD_MAX).take_while(|path| {
                    let is_in = path.len() <= room;
                    room = room.saturating_sub(path.len());
                    is_in
                });
                let paths: Vec<_> = paths.map(<[u8]>::to_vec).collect();
                // A conflict of which not even the first path can be told is none that can be told.
                Ok(Some(paths).filter(|paths| !paths.is_empty()))
            }
            _ => Ok(None),
        }
    }

    /// Writes what was changed since the work began to a file that is not there yet, for `git apply`.
    pub fn write_patch(&self, to: &Path, is_wanted: IsWanted<'_>) -> Result<()> {
        let (worked, tip) = (self.claim.worked.to_string(), self.claim.tip.to_string());
        let mut part = to.as_os_str().to_owned();
        part.push(format!(".{}.part", &tip[..12]));
        let part = PathBuf::from(part);
        // It may be left by somebody who was killed.
        drop(fs::remove_file(&part));
        let mut output = std::ffi::OsString::from("--output=");
        output.push(&part);
        let mut command = strict_git(&self.aside);
        command.arg("--git-dir").arg(&self.aside);
        command.args(["diff", "--binary", "--full-index", "--no-renames", "--no-color", "--no-ext-diff"]);
        command.args(["--no-textconv"]).arg(output).args([worked, tip]);
        let made = run(command, Stdio::null(), &self.aside, "compare what came", is_wanted)
            .and_then(|said| refused(&said))
            .and_then(|()| match fs::hard_link(&part, to) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    Err(Error::Exists { path: to.to_owned() })
                }
                made => made.map_err(|error| fails("make", to)(error).into()),
            });
        drop(fs::remove_file(&part));
        made
    }

    /// Has the user's repository have what came, and the branch be at it: both that and the workspace's own reference, or neither. The
    /// objects stay in any case. Nothing is moved if all is as it should be already.
    pub fn publish(
        &self,
        branch: &str,
        kept: &str,
        scratch: &Path,
        is_wanted: IsWanted<'_>,
    ) -> Result<Vec<Moved>> {
        let objects = Objects::open(&self.repository, self.hash)?;
        check_branch(&objects, branch)?;
        let name = format!("refs/heads/{branch}");
        let now = self.claim.tip;
        let (was, last) = (reference(&objects, &name)?, reference(&objects, kept)?);
        let moves = was != Some(now);
        if moves {
            check_free(&objects, branch)?;
        }
        if let Some(was) = was.filter(|was| moves && last != Some(*was))
            && !self.contains(&was, is_wanted)?
        {
            return Err(taken(branch, "has commits of somebody else".to_owned()));
        }
        let moved = [(name, was), (kept.to_owned(), last)].into_iter();
        let moved = moved.filter(|(_, was)| *was != Some(now)).map(|(name, was)| Moved { name, was, now });
        let moved: Vec<Moved> = moved.collect();
        self.put_packs(kept)?;
        // Somebody may have checked it out meanwhile.
        if moves {
            check_free(&objects, branch)?;
        }
        change(&objects, &moved, scratch).map_err(|why| match why {
            crate::Error::Git { why, .. } => taken(branch, format!("could not be changed ({why})")),
            other => other.into(),
        })?;
        Ok(moved)
    }

    /// Whether a commit of the user's is contained in what came.
    fn contains(&self, commit: &Oid, is_wanted: IsWanted<'_>) -> Result<bool> {
        let (commit, tip) = (commit.to_string(), self.claim.tip.to_string());
        let words = ["rev-list", "--max-count=1", &commit, "--not", &tip];
        Ok(self.text(&words, is_wanted)?.is_empty())
    }

    /// Copies the packs that came to the user's, the index of each last: before that git does not see it. After an error those without an
    /// index are gone.
    fn put_packs(&self, kept: &str) -> Result<()> {
        let mut put = Vec::new();
        self.put_each_pack(kept, &mut put).inspect_err(|_| {
            // Nobody can have seen that they are there.
            put.retain(|path| !path.with_extension("idx").exists());
            remove(&put);
        })
    }

    fn put_each_pack(&self, kept: &str, put: &mut Vec<PathBuf>) -> Result<()> {
        let (from, to) = (self.aside.join("objects/pack"), self.repository.join("objects/pack"));
        fs::create_dir_all(&to).map_err(fails("make", &to))?;
        // git removes what has such a name and was left, in time; what this workspace has left goes now.
        let mark = format!("tmp_stead_{}_", kept.rsplit('/').next().unwrap_or_default());
        remove_marked(&to, &mark)?;
        let mut names = listed(&from)?;
        names.sort_by_key(|path| path.extension() == Some(OsStr::new("idx")));
        for path in names.iter().filter(|path| !is_empty_pack(path)) {
            let Some(name) = path.file_name().filter(|_| path.extension() != Some(OsStr::new("keep"))) else {
                continue;
            };
            let place = to.join(name);
            if place.exists() {
                continue;
            }
            let part = to.join(format!("{mark}{}", name.to_string_lossy()));
            let copied = fs::copy(path, &part).and_then(|_| File::open(&part)?.sync_all());
            let renamed = copied.and_then(|()| fs::rename(&part, &place));
            renamed.map_err(fails("make", &place)).inspect_err(|_| remove(std::slice::from_ref(&part)))?;
            put.push(place);
        }
        Ok(())
    }
}

/// Removes files, the last first. What stays is logged.
fn remove(files: &[PathBuf]) {
    for path in files.iter().rev() {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "what came back stays");
            }
            _ => {}
        }
    }
}

/// Removes what has a name that begins so.
fn remove_marked(directory: &Path, mark: &str) -> Result<()> {
    let mut marked = listed(directory)?;
    marked.retain(|path| path.file_name().is_some_and(|name| name.as_bytes().starts_with(mark.as_bytes())));
    remove(&marked);
    Ok(())
}

/// The paths in a directory.
fn listed(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(fails("list", directory))?;
    let paths: std::io::Result<Vec<_>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    paths.map_err(|error| fails("list", directory)(error).into())
}

/// Whether nothing is in a pack, or in the pack of this index: its name is a hash of nothing then, and its head says so.
fn is_empty_pack(path: &Path) -> bool {
    let head = fs::File::open(path.with_extension("pack")).and_then(|mut pack| {
        let mut head = [0; 12];
        std::io::Read::read_exact(&mut pack, &mut head).map(|()| head)
    });
    head.is_ok_and(|head| head[8..] == [0; 4])
}

fn check_branch(objects: &Objects, branch: &str) -> Result<()> {
    let checked =
        objects.git("check a name", |git| git.args(["check-ref-format", &format!("refs/heads/{branch}")]));
    let is_fine =
        checked.is_ok() && !branch.starts_with('-') && branch != "HEAD" && branch.len() <= BRANCH_BYTES_MAX;
    match is_fine {
        true => Ok(()),
        false => Err(Error::BadBranch { name: super::shown(branch.as_bytes()) }),
    }
}

fn taken(branch: &str, why: String) -> Error {
    Error::Taken { branch: branch.to_owned(), why }
}

/// Refuses a branch that somebody has checked out, also one on which nothing is committed yet.
fn check_free(objects: &Objects, branch: &str) -> Result<()> {
    let holder = match checked_out(objects, branch)? {
        Some(dir) => Some(dir),
        None => unborn_in(objects, branch)?,
    };
    holder.map_or(Ok(()), |dir| Err(taken(branch, format!("is checked out in `{}`", dir.display()))))
}

/// Where a branch is to be that is not there yet, if anywhere: a worktree that git knows.
fn unborn_in(objects: &Objects, branch: &str) -> Result<Option<PathBuf>> {
    let said =
        objects.git("look for who has a branch", |git| git.args(["worktree", "list", "--porcelain"]))?;
    let name = format!("branch refs/heads/{branch}");
    let mut dir = None;
    for line in said.split(|byte| *byte == b'\n') {
        if let Some(path) = line.strip_prefix(b"worktree ") {
            dir = Some(Path::new(OsStr::from_bytes(path)).to_owned());
        } else if line == name.as_bytes() {
            return Ok(dir);
        }
    }
    Ok(None)
}

/// The longest name of a branch: with what git adds to it, it is the name of a file.
const BRANCH_BYTES_MAX: usize = 200;

/// Changes all of these references from where they were, or none.
fn change(objects: &Objects, moved: &[Moved], scratch: &Path) -> std::result::Result<(), crate::Error> {
    if moved.is_empty() {
        return Ok(());
    }
    let none = Oid::null(objects.hash());
    let line = |moved: &Moved| format!("update {} {} {}\n", moved.name, moved.now, moved.was.unwrap_or(none));
    let lines: String = moved.iter().map(line).collect();
    let path = scratch.join("references");
    fs::write(&path, format!("start\n{lines}prepare\ncommit\n")).map_err(fails("write", &path))?;
    let file = File::open(&path).map_err(fails("open", &path))?;
    objects.git_holding(file, "change references", |git| {
        git.args(["update-ref", "--create-reflog", "-m", "stead workspace export", "--stdin"])
    })?;
    Ok(())
}

/// Takes back what [`Arrived::publish`] has moved, unless somebody has moved it or checked it out since. If it cannot be told of a branch
/// whether somebody has it, that one stays, the others go, and it is an error.
pub fn take_back(repository: &Path, hash: Hash, moved: &[Moved]) -> Result<()> {
    let objects = Objects::open(repository, hash)?;
    let mut failed = Ok(());
    for Moved { name, was, now } in moved {
        let now = now.to_string();
        if let Some(branch) = name.strip_prefix("refs/heads/")
            && let Err(error) = check_free(&objects, branch)
        {
            tracing::warn!(%error, "what an export has put stays");
            if !matches!(error, Error::Taken { .. }) {
                failed = failed.and(Err(error));
            }
            continue;
        }
        let taken = match was {
            Some(was) => objects
                .git("change a reference", |git| git.args(["update-ref", name, &was.to_string(), &now])),
            None => objects.git("delete a reference", |git| git.args(["update-ref", "-d", name, &now])),
        };
        if let Err(error) = taken {
            tracing::warn!(%error, name, "a reference stays where it was put");
        }
    }
    failed
}

/// Refuses a branch that what comes cannot be put on, whatever it is. One that is still where it was put before, which is what the
/// workspace's own reference says, may stay there, whoever has it.
pub fn check_target(repository: &Path, hash: Hash, branch: &str, kept: &str) -> Result<()> {
    let objects = Objects::open(repository, hash)?;
    check_branch(&objects, branch)?;
    let last = reference(&objects, kept)?;
    match reference(&objects, &format!("refs/heads/{branch}"))? {
        Some(at) if Some(at) == last => Ok(()),
        _ => check_free(&objects, branch),
    }
}

/// Where a branch of a repository is now.
pub fn branch_tip(repository: &Path, hash: Hash, branch: &str) -> Result<Option<Oid>> {
    Ok(reference(&Objects::open(repository, hash)?, &format!("refs/heads/{branch}"))?)
}

/// Has the rest of its words run within limits, or not at all. A shell sets them: every system has one. A limit of which less is left
/// already stays as it is.
const WITHIN_LIMITS: &str = r#"
within() {
    ulimit "$1" "$2" 2>/dev/null || [ "$(ulimit "$1")" -le "$2" ] 2>/dev/null || {
        echo "no limit can be set: ulimit $1 $2" >&2
        exit 126
    }
}
within -v "$1"
within -f "$2"
within -c 0
shift 2
exec "$@"
"#;

/// A git that knows nothing of anybody, within limits.
fn strict_git(dir: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    // In units of 1 KiB and of 512 bytes, as POSIX has it.
    let (address, file) = ((ADDRESS_BYTES_MAX >> 10).to_string(), (FILE_BYTES_MAX >> 9).to_string());
    command.args(["-c", WITHIN_LIMITS, "sh", &address, &file, "git"]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", dir).current_dir(dir);
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_ATTR_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_NO_REPLACE_OBJECTS", "1"),
        ("GIT_NO_LAZY_FETCH", "1"),
        // No way leads anywhere.
        ("GIT_ALLOW_PROTOCOL", ""),
        ("LC_ALL", "C"),
    ] {
        command.env(name, value);
    }
    for limit in LIMITS {
        command.args(["-c", limit]);
    }
    command
}

#[cfg(test)]
mod tests;
