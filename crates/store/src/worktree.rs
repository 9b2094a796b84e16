//! What git knows of a thread: a worktree of its repository, with a branch of its own.
//!
//! ```text
//! REPOSITORY/worktrees/ID/HEAD       the branch
//!                        gitdir      where the worktree's pointer is: DIR/.git
//!                        commondir   the way to REPOSITORY
//!                        index       prepared, see Thread::git_index
//!                        locked      why git must not prune it: DIR is not there while the thread is not mounted
//! DIR/.git                           the pointer: "gitdir: " and the path of REPOSITORY/worktrees/ID
//! ```
//!
//! git itself lays it out, so that it is what this git and this repository want, whatever references are kept in. It does that for a
//! directory aside, in which it checks nothing out; the pointer that it leaves there is put into the thread, and `gitdir` is set to
//! where the thread is to be shown.
//!
//! git reads the registrations of all worktrees where it makes one or says who has a branch, and fails if one is half there. So whoever
//! makes or removes one has a lock on the repository's directory meanwhile, and who asks shares it.
//!
//! A registration is removed only if its `gitdir` is of the thread: whatever else has its name by then stays.

pub mod aside;
pub mod land;
pub mod snapshot;
pub mod start;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::fails;
use crate::git::pause;
use crate::objects::{Objects, Revision, git};
use crate::refs::{self, Change, Head, References};
use crate::{Error, Oid, Result};

/// The name of the file that leads git from a worktree to its directory.
pub const POINTER: &[u8] = b".git";

/// Where captures of threads are, each by its thread's name.
pub const CAPTURES: &str = "refs/stead/threads/";

/// What git says of why it does not prune the worktree.
const LOCK_REASON: &str = "a thread of stead: it is there while it is mounted";

/// The longest pointer: a path.
pub const POINTER_BYTES_MAX: u64 = 8 << 10;

/// How long registrations of a repository are waited for: as long as hundreds take to be made.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// How often it is tried meanwhile.
const LOCK_INTERVAL: Duration = Duration::from_millis(2);

const BRANCHES: &str = "refs/heads/";
const GITDIR: &str = "gitdir";
const INDEX: &str = "index";

/// A worktree that git knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// `REPOSITORY/worktrees/ID`.
    pub directory: PathBuf,
    /// What is in the worktree's [`POINTER`].
    pub pointer: Vec<u8>,
}

/// Has git make a branch at a commit, and a worktree of it. `aside` is a directory that is not there, of which the last name becomes
/// the worktree's if that is free. After an error nothing is left but what [`leftover`] finds, and perhaps the branch. git has `held`
/// open as long as it runs: a lock on it tells whether it still does when this process has died.
pub fn register(
    objects: &Objects,
    aside: &Path,
    branch: &str,
    commit: &Oid,
    held: File,
) -> Result<Registration> {
    let commit = commit.to_string();
    let _others = lock(objects.repository(), FlockOperation::NonBlockingLockExclusive)?;
    objects.git_holding(held, "make a worktree", |git| {
        // What it says is looked at: see [`is_taken`].
        git.env("LC_ALL", "C")
            .args(["-c", "worktree.useRelativePaths=false", "worktree", "add", "--quiet", "--no-checkout"])
            .args(["--lock", "--reason", LOCK_REASON, "--no-track", "-b", branch])
            .arg(aside)
            .arg(commit)
    })?;
    let path = aside.join(OsStr::from_bytes(POINTER));
    let mut pointer = Vec::new();
    let opened = File::open(&path).map_err(fails("open", &path))?;
    opened.take(POINTER_BYTES_MAX).read_to_end(&mut pointer).map_err(fails("read", &path))?;
    let directory = pointer.strip_prefix(b"gitdir: ").and_then(|line| line.strip_suffix(b"\n"));
    let directory = directory.map(|path| Path::new(OsStr::from_bytes(path)).to_owned());
    match directory.filter(|directory| directory.is_absolute() && directory.join("HEAD").exists()) {
        Some(directory) => {
            show_all(objects, &directory)?;
            Ok(Registration { directory, pointer })
        }
        None => Err(objects.git_failed("make a worktree", "it leads nowhere".to_owned())),
    }
}

/// Whether a worktree could not be made since there is something of its name, or of its branch's.
pub fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Git { what: "make a worktree", why, .. } if why.contains("already exists"))
}

/// Takes back that a worktree shows a part only, which git copies from the one in which it is asked to make another.
fn show_all(objects: &Objects, registration: &Path) -> Result<()> {
    let patterns = registration.join("info/sparse-checkout");
    match std::fs::remove_file(&patterns) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(fails("remove", &patterns)(error));
        }
        _ => {}
    }
    let own = registration.join("config.worktree");
    if own.exists() {
        objects.git("show all of a worktree", |git| {
            git.args(["config", "--file"]).arg(&own).args(["core.sparseCheckout", "false"])
        })?;
    }
    Ok(())
}

impl Registration {
    /// Where its index is to be.
    pub fn index(&self) -> PathBuf {
        self.directory.join(INDEX)
    }

    /// The files without which it is none, and its index.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        ["HEAD", "commondir", "gitdir", "locked", INDEX].into_iter().map(|name| self.directory.join(name))
    }
}

/// Says to git that the worktree of this registration is at `dir`.
pub fn place(registration: &Path, dir: &Path) -> Result<()> {
    let (path, fresh) = (registration.join(GITDIR), registration.join("gitdir.new"));
    std::fs::write(&fresh, gitdir_of(dir)).map_err(fails("write", &fresh))?;
    std::fs::rename(&fresh, &path).map_err(fails("put in place", &path))
}

fn gitdir_of(dir: &Path) -> Vec<u8> {
    [dir.join(OsStr::from_bytes(POINTER)).into_os_string().into_vec(), b"\n".to_vec()].concat()
}

/// Removes a registration, if it still is of a worktree at one of these places.
pub fn unregister(registration: &Path, places: &[&Path]) -> Result<()> {
    if !is_registration_of(registration, places)? {
        return Ok(());
    }
    let _others = lock_all_of(registration)?;
    std::fs::remove_dir_all(registration).map_err(fails("remove", registration))?;
    remove_last(registration);
    Ok(())
}

/// Waits until nobody of Stead makes or removes registrations of a repository, and keeps others from it until it is dropped.
fn lock(repository: &Path, operation: FlockOperation) -> Result<File> {
    let directory = File::open(repository).map_err(fails("open", repository))?;
    let begun = Instant::now();
    loop {
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&directory, operation)) {
            Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => pause(LOCK_INTERVAL),
            Err(Errno::WOULDBLOCK) => return Err(Error::Busy { path: repository.to_owned() }),
            // Where a directory cannot be locked, it was never different.
            Err(error) => {
                tracing::debug!(path = %repository.display(), %error, "a repository cannot be locked");
                return Ok(directory);
            }
            Ok(()) => return Ok(directory),
        }
    }
}

/// The same for a registration of the repository.
fn lock_all_of(registration: &Path) -> Result<Option<File>> {
    let repository = registration.parent().and_then(Path::parent);
    repository.map(|repository| lock(repository, FlockOperation::NonBlockingLockExclusive)).transpose()
}

/// Whether a registration is there, and still is of a worktree at one of these places.
fn is_registration_of(registration: &Path, places: &[&Path]) -> Result<bool> {
    let said = match std::fs::read(registration.join(GITDIR)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        said => said.map_err(fails("read", registration))?,
    };
    let said = Path::new(OsStr::from_bytes(said.trim_ascii_end()));
    let is_its = places.iter().any(|place| said.starts_with(place));
    if !is_its {
        tracing::warn!(path = %registration.display(), "a worktree of git is not the thread's any more, and stays");
    }
    Ok(is_its)
}

/// As git does with the directory of all registrations, when the last one has gone.
fn remove_last(registration: &Path) {
    if let Some(all) = registration.parent() {
        drop(std::fs::remove_dir(all));
    }
}

/// Whether what is in the [`POINTER`] of a worktree at `dir` leads to this registration.
pub fn leads_to(pointer: &[u8], dir: &Path, registration: &Path) -> bool {
    let path = pointer.strip_prefix(b"gitdir: ").and_then(|line| line.strip_suffix(b"\n"));
    let Some(path) = path.map(|path| dir.join(OsStr::from_bytes(path))) else { return false };
    let is_same = || Some(path.canonicalize().ok()? == registration.canonicalize().ok()?);
    path == registration || is_same().unwrap_or(false)
}

/// Whether repositories of submodules are in a registration: git keeps them there, for this worktree alone.
pub fn has_submodules(registration: &Path) -> Result<bool> {
    let all = registration.join("modules");
    match std::fs::read_dir(&all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        entries => Ok(entries.map_err(fails("list", &all))?.next().is_some()),
    }
}

/// Whether the `HEAD` of a registration has commits that no branch, tag or capture has. It is the only one that knows them.
pub fn has_loose_commits(objects: &Objects, registration: &Path) -> Result<bool> {
    if !registration.exists() {
        return Ok(false);
    }
    let head = References::of(objects).and_then(|references| references.head(registration));
    if matches!(head, Some(Head::On(name)) if name.starts_with(BRANCHES)) {
        return Ok(false);
    }
    let said = git(objects.repository(), "look for commits", |git| {
        // A branch that has no commit yet is no error. `--all` would have `HEAD` itself among what is kept.
        git.env("GIT_DIR", registration)
            .args(["--no-replace-objects", "rev-list", "--ignore-missing", "--max-count=1", "HEAD", "--not"])
            .args(["--branches", "--tags", "--remotes"])
            .arg(format!("--glob={CAPTURES}*"))
    })?;
    Ok(!said.trim_ascii().is_empty())
}

/// The commit of the `HEAD` of a registration, if that can be told without git: there is one, and it is a commit.
fn head_in_files(objects: &Objects, registration: &Path) -> Option<Oid> {
    let references = References::of(objects)?;
    let commit = match references.head(registration)? {
        Head::On(name) => references.find(&name)??,
        Head::At(commit) => commit,
    };
    objects.revision(commit).ok().map(|revision| revision.commit)
}

/// The registration of a worktree in this directory, if git knows one: somebody died who was making it.
pub fn leftover(objects: &Objects, directory: &Path) -> Result<Option<PathBuf>> {
    let all = objects.repository().join("worktrees");
    let entries = match std::fs::read_dir(&all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(fails("list", &all))?,
    };
    for entry in entries {
        let registration = entry.map_err(fails("list", &all))?.path();
        let said = std::fs::read(registration.join(GITDIR)).unwrap_or_default();
        let said = Path::new(OsStr::from_bytes(said.trim_ascii_end()));
        if said.starts_with(directory) {
            return Ok(Some(registration));
        }
    }
    Ok(None)
}

/// What git takes these words for in a directory: `HEAD` is that of the worktree which it is in.
pub fn resolve(objects: &Objects, within: &Path, revision: &str) -> Result<Revision> {
    let wanted = format!("{revision}^{{commit}}");
    let words = ["--no-replace-objects", "rev-parse", "--verify", "--end-of-options", &wanted];
    let said = git(within, "resolve a revision", |git| git.arg("-C").arg(within).args(words))?;
    let commit = Oid::from_hex(said.trim_ascii())
        .map_err(|error| objects.git_failed("resolve a revision", error.to_string()))?;
    objects.revision(commit)
}

/// The commit of a reference by its full name, if there is one.
pub fn reference(objects: &Objects, name: &str) -> Result<Option<Oid>> {
    if let Some(found) = References::of(objects).and_then(|references| references.find(name)) {
        return Ok(found);
    }
    let found = first_reference(objects, name)?.filter(|(found, _)| found == name.as_bytes());
    Ok(found.map(|(_, commit)| commit))
}

/// What of references there is by these full names, or below one of them and so in its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    names: Vec<String>,
}

impl Taken {
    /// Asks git once, if at all.
    pub fn of(objects: &Objects, names: &[&str]) -> Result<Taken> {
        if let Some(names) = References::of(objects).and_then(|references| taken(&references, names)) {
            return Ok(Taken { names });
        }
        let said = objects.git("look for references", |git| {
            git.args(["for-each-ref", "--format=%(refname)"]).args(names)
        })?;
        Ok(Taken { names: String::from_utf8_lossy(&said).lines().map(str::to_owned).collect() })
    }

    /// Whether there is one of this name, which was asked for.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|taken| taken == name)
    }

    /// Whether there is, or one that lies below it.
    pub fn is_in_the_way_of(&self, name: &str) -> bool {
        let is_below = |taken: &String| taken.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        self.has(name) || self.names.iter().any(is_below)
    }
}

fn taken(references: &References<'_>, names: &[&str]) -> Option<Vec<String>> {
    let mut taken = Vec::new();
    for name in names {
        taken.extend(references.find(name)?.map(|_| (*name).to_owned()));
        taken.extend(references.below(&format!("{name}/"))?.into_iter().map(|(name, _)| name));
    }
    Some(taken)
}

/// The first reference that git takes these words for: one of this name if there is one, or else one that lies below it, or that matches
/// it.
fn first_reference(objects: &Objects, name: &str) -> Result<Option<(Vec<u8>, Oid)>> {
    const WHAT: &str = "look for a reference";
    let said = objects.git(WHAT, |git| {
        git.args(["for-each-ref", "--count=1", "--format=%(objectname) %(refname)", name])
    })?;
    let Some(end) = said.iter().position(|byte| *byte == b' ') else { return Ok(None) };
    let commit = Oid::from_hex(&said[..end]).map_err(|error| objects.git_failed(WHAT, error.to_string()))?;
    Ok(Some((said[end..].trim_ascii().to_vec(), commit)))
}

/// Puts a reference, by its full name, where it is to be, if it is where it was: `None` is not there. The reason is for its log.
pub fn move_reference(
    objects: &Objects,
    name: &str,
    was: Option<&Oid>,
    to: Option<&Oid>,
    reason: &str,
) -> Result<()> {
    let null = Oid::null(objects.hash());
    let [was, to] = [was, to].map(|oid| oid.unwrap_or(&null).to_string());
    objects.git("move a reference", |git| git.args(["update-ref", "-m", reason, name, &to, &was]))?;
    Ok(())
}

/// Keeps a commit on a reference, by its full name, whatever that had kept.
pub fn keep(objects: &Objects, name: &str, commit: &Oid) -> Result<()> {
    objects.git("keep a commit", |git| {
        git.args(["update-ref", "-m", "stead: kept", name, &commit.to_string()])
    })?;
    Ok(())
}

/// The references below one, by their full names. It ends with a slash.
pub fn references(objects: &Objects, below: &str) -> Result<Vec<(String, Oid)>> {
    if let Some(found) = References::of(objects).and_then(|references| references.below(below)) {
        return Ok(found);
    }
    let said = objects.git("look for references", |git| {
        git.args(["for-each-ref", "--format=%(objectname) %(refname)", below])
    })?;
    let said = String::from_utf8_lossy(&said);
    let entries = said.lines().filter_map(|line| line.split_once(' '));
    let parsed = entries.map(|(hex, name)| {
        Oid::from_hex(hex.as_bytes())
            .map(|oid| (name.to_owned(), oid))
            .map_err(|error| objects.git_failed("look for references", error.to_string()))
    });
    parsed.collect()
}

/// Whether a commit is another one, or is contained in it.
pub fn is_ancestor(objects: &Objects, of: &Oid, commit: &Oid) -> Result<bool> {
    if objects.is_near_ancestor(of, commit) {
        return Ok(true);
    }
    let said = objects.git("look for commits", |git| {
        git.args(["rev-list", "--max-count=1", &of.to_string(), "--not", &commit.to_string()])
    })?;
    Ok(said.trim_ascii().is_empty())
}

/// The branch that is checked out in a directory, if one is.
pub fn current_branch(within: &Path) -> Result<Option<String>> {
    let said = git(within, "look for a branch", |git| {
        git.arg("-C").arg(within).args(["for-each-ref", "--format=%(HEAD)%(refname)", "refs/heads/"])
    })?;
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().find_map(|line| line.strip_prefix("*refs/heads/")).map(str::to_owned))
}

/// A commit, as a log tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Which.
    pub commit: String,
    /// When it was made, in seconds since 1970.
    pub at: u64,
    /// The author's name.
    pub author: String,
    /// The first line of its message.
    pub subject: String,
}

/// Commits from one back to another, which is not among them: the last one first, at most so many.
pub fn log(objects: &Objects, from: &Oid, to: &Oid, most: usize) -> Result<Vec<LogEntry>> {
    let (count, range) = (format!("--max-count={most}"), format!("{to}..{from}"));
    let said = objects.git("look for commits", |git| {
        git.args(["log", "-z", "--first-parent", "--format=%H%n%ct%n%an%n%s", &count, &range])
    })?;
    let said = String::from_utf8_lossy(&said);
    let entries = said.split('\0').filter_map(|entry| {
        let mut lines = entry.splitn(4, '\n').map(str::to_owned);
        let (commit, at) = (lines.next().filter(|commit| !commit.is_empty())?, lines.next()?);
        let (author, subject) = (lines.next()?, lines.next()?);
        Some(LogEntry { commit, at: at.parse().ok()?, author, subject })
    });
    Ok(entries.collect())
}

/// Where a branch is checked out, if it is: a worktree that git knows.
pub fn checked_out(objects: &Objects, branch: &str) -> Result<Option<PathBuf>> {
    let name = format!("refs/heads/{branch}");
    let _others = lock(objects.repository(), FlockOperation::NonBlockingLockShared)?;
    if let Some(known) = checked_out_in_files(objects, branch) {
        return Ok(known);
    }
    let said = objects.git("look for who has a branch", |git| {
        git.args(["for-each-ref", "--count=1", "--format=%(refname) %(worktreepath)", &name])
    })?;
    // It may be of one that lies below the name, or matches it.
    let path = said.strip_prefix(name.as_bytes()).and_then(|said| said.strip_prefix(b" "));
    let path = path.and_then(|path| path.strip_suffix(b"\n")).filter(|path| !path.is_empty());
    Ok(path.map(|path| Path::new(OsStr::from_bytes(path)).to_owned()))
}

/// The same, if that can be told without git. Where more than one worktree has it, or the repository's own, git says which.
fn checked_out_in_files(objects: &Objects, branch: &str) -> Option<Option<PathBuf>> {
    let name = format!("{BRANCHES}{branch}");
    match (&holders(objects, branch)?[..], References::of(objects)?.find(&name)?) {
        ([], _) | (_, None) => Some(None),
        ([one], Some(_)) => refs::worktree_of(one).map(Some),
        _ => None,
    }
}

/// The registrations of all worktrees that have a branch, and the repository itself if its own has it. `None` if only git can tell. One that
/// git would not tell of, since the branch is not there, is among them.
pub fn holders(objects: &Objects, branch: &str) -> Option<Vec<PathBuf>> {
    let name = format!("{BRANCHES}{branch}");
    let heads = References::of(objects)?.heads()?;
    let holders = heads.into_iter().filter(|(_, head)| matches!(head, Head::On(on) if *on == name));
    Some(holders.map(|(directory, _)| directory).collect())
}

/// Deletes a branch that is at this commit. One that is elsewhere by now is an error; one that is checked out stays.
pub fn delete_branch(objects: &Objects, branch: &str, at: &Oid) -> Result<()> {
    if let Some(dir) = checked_out(objects, branch)? {
        tracing::warn!(branch, dir = %dir.display(), "a branch is checked out, and stays");
        return Ok(());
    }
    let name = format!("{BRANCHES}{branch}");
    refs::change(objects, &[Change::Delete { name, at: *at }], "stead: deleted")?;
    forget_branch(objects, branch);
    Ok(())
}

/// Removes what is configured for a branch that is gone. Most have nothing.
pub fn forget_branch(objects: &Objects, branch: &str) {
    if refs::may_be_configured(objects, branch) {
        let section = format!("branch.{branch}");
        drop(objects.git("forget a branch", |git| git.args(["config", "--remove-section", &section])));
    }
}

/// Whether a branch at this commit has commits that no other branch or tag has, and that are not the base's.
pub fn has_own_commits(objects: &Objects, branch: &str, at: &Oid, base: &Oid) -> Result<bool> {
    if at == base {
        return Ok(false);
    }
    let (own, at, base) = (format!("--exclude=refs/heads/{branch}"), at.to_string(), base.to_string());
    let said = objects.git("look for commits", |git| {
        git.args(["rev-list", "--max-count=1", &at, "--not", &base, &own, "--glob=refs/heads"])
            .args(["--glob=refs/remotes", "--glob=refs/tags"])
    })?;
    Ok(!said.trim_ascii().is_empty())
}

/// The working copy that people know a repository by, or its own directory if it has none. `within` is a directory of it.
pub fn working_copy(objects: &Objects, within: &Path) -> PathBuf {
    let repository = objects.repository();
    if let (Some(above), true) =
        (repository.parent(), repository.file_name() == Some(OsStr::from_bytes(POINTER)))
    {
        return above.to_owned();
    }
    let words = ["rev-parse", "--show-toplevel"];
    let said = git(within, "find a working copy", |git| git.arg("-C").arg(within).args(words));
    match said.as_deref().map(|said| said.strip_suffix(b"\n").unwrap_or(said)) {
        Ok(path) if !path.is_empty() => Path::new(OsStr::from_bytes(path)).to_owned(),
        _ => repository.to_owned(),
    }
}

#[cfg(test)]
mod tests;
