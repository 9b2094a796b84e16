//! `thread.*`: copy-on-write lines of work on git repositories.
//!
//! A thread is a worktree of its repository and a branch of the same name. It belongs to the daemon and outlives its mount, the
//! daemon, and a restart of the computer, until it is dropped.

use serde::{Deserialize, Serialize};

use super::machine::{Caller, Source};
use super::mount::Force;
use super::status::Thread;
use super::time::Timestamp;
use crate::bytestring::ByteString;

/// The most threads of one daemon. Each may have a mount.
pub const THREADS_MAX: usize = 4096;

/// How much of the names of what is changed is told at once.
pub const CHANGES_BYTES_MAX: usize = 256 << 10;

/// The longest message of a capture.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// The longest value of a trailer.
pub const TRAILER_BYTES_MAX: usize = 256;

/// How many captures are told of.
pub const CAPTURES_MAX: usize = 1000;

/// How long a thread that was dropped can be had back: a week.
pub const DROPPED_KEPT_SECONDS: u64 = 7 * 86_400;

/// The longest revision that somebody names.
pub const REVISION_BYTES_MAX: usize = 1024;

/// Whether a thread can have this name: also a branch and a directory have it.
pub fn is_name(name: &str) -> bool {
    let is_source = Source::parse(format!("thread:{name}").as_bytes(), b"/").is_ok();
    is_source && name != "HEAD" && !name.ends_with(".lock")
}

/// Makes a thread and mounts it. Answered once its directory serves. On failure nothing is left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct New {
    /// Its name: see [`is_name`]. Neither a thread nor a branch of the repository may have it.
    pub name: String,
    /// A directory of the repository, relative to the caller's, which it is without one.
    #[serde(default)]
    pub repo: Option<ByteString>,
    /// What it begins from: what git takes for a commit, or `thread:NAME` for what another thread has captured or committed last.
    /// `HEAD` without one.
    #[serde(default)]
    pub from: Option<String>,
    /// Where it is mounted, relative to the caller's directory. Without it, beside the repository's working copy, named after both.
    #[serde(default)]
    pub at: Option<ByteString>,
    /// Whether what is ignored in the working copy that it is made from is seen in it.
    #[serde(default)]
    pub with_ignored: Ignored,
    /// Who asks.
    pub caller: Caller,
}

/// What becomes of files that are ignored in the working copy from which a thread is made: in which the caller is, or the thread that it
/// begins from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ignored {
    /// They are not in the thread.
    #[default]
    Absent,
    /// They are seen in place, and copied when they are changed in the thread.
    Seen,
}

/// Asks for all threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// All threads, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threads {
    /// Each of them.
    pub threads: Vec<Thread>,
}

/// Asks what is changed in a thread, whether it is mounted or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Which.
    pub name: String,
    /// Only paths behind this one: the last one that was told before.
    #[serde(default)]
    pub after: Option<ByteString>,
}

/// What is changed in a thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The thread.
    pub thread: Thread,
    /// What is not as the base has it, in the order of paths: at most [`CHANGES_BYTES_MAX`] bytes of them.
    pub changed: Vec<Change>,
    /// There is more behind the last one.
    pub more: bool,
    /// What the thread takes on the disk, in bytes: of contents, what was written.
    #[serde(default)]
    pub disk_bytes: u64,
}

/// A path that is not what the base has there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// From the root of the thread.
    pub path: ByteString,
    /// What has become of it.
    pub kind: ChangeKind,
}

/// What has become of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The base has nothing there. Of a directory, what is in it is not told of one by one.
    Added,
    /// It is not what the base has there.
    Modified,
    /// Nothing is there any more.
    Deleted,
}

impl ChangeKind {
    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            ChangeKind::Added => "added",
            ChangeKind::Modified => "modified",
            ChangeKind::Deleted => "deleted",
        }
    }
}

/// Makes a commit of what is in a thread that is mounted, but for what is ignored, behind the captures of it that there are. Neither its
/// branch nor its index change. Refused if nothing has changed since the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// Which.
    pub name: String,
    /// What was done, at most [`MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
    /// Who did it for the author: the trailer `Agent`, of one line.
    #[serde(default)]
    pub agent: Option<String>,
    /// With what: the trailer `Tool`, of one line.
    #[serde(default)]
    pub tool: Option<String>,
    /// Nothing to capture is no error: then the commit is its own parent.
    #[serde(default)]
    pub if_changed: bool,
}

/// It is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// Of which thread.
    pub name: String,
    /// The commit.
    pub commit: String,
    /// The one before it.
    pub parent: String,
}

/// Has what is in a thread that is mounted made a tree of git, to be compared with what it began from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diff {
    /// Which.
    pub name: String,
}

/// What git is to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// The repository's directory.
    pub repository: ByteString,
    /// The tree that the thread began from.
    pub from: String,
    /// The tree of what is in it now, but for what is ignored.
    pub to: String,
}

/// Asks for the captures of a thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Which.
    pub name: String,
}

/// The captures of a thread, the last one first: at most [`CAPTURES_MAX`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captures {
    /// Each of them.
    pub captures: Vec<CaptureEntry>,
}

/// A capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureEntry {
    /// The commit.
    pub commit: String,
    /// When it was made.
    pub at: Timestamp,
    /// Its author's name.
    pub author: String,
    /// The first line of its message.
    pub subject: String,
}

/// Brings what is in a thread that is mounted onto a branch of its repository: what is committed on its branch if that is all, or else what
/// was captured last. The branch is changed from the commit that it is at, or not at all. A worktree that has it goes along, unless it
/// has changes in tracked files: then it is refused. What cannot be merged is begun in the thread, for somebody to resolve there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Land {
    /// Which.
    pub name: String,
    /// The branch. Without one, that from which the thread was made.
    #[serde(default)]
    pub onto: Option<String>,
    /// How.
    #[serde(default)]
    pub mode: LandMode,
    /// The message of commits that are made for it. With one, changes that are neither committed nor captured are captured; without one
    /// they are refused.
    #[serde(default)]
    pub message: Option<String>,
}

/// How a thread is to be landed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LandMode {
    /// The branch becomes what the thread is, or else they are merged.
    #[default]
    Auto,
    /// A merge, also where none is needed.
    Merge,
    /// One commit behind the branch.
    Squash,
}

/// It is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landed {
    /// Which thread.
    pub name: String,
    /// The branch.
    pub branch: String,
    /// At which commit it is now.
    pub commit: String,
    /// What that commit is.
    pub how: LandedHow,
    /// The capture that was made for it, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured: Option<String>,
    /// The worktree that has the branch and went along, if one has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<ByteString>,
}

/// How a thread was landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LandedHow {
    /// The branch had nothing of its own.
    FastForward,
    /// A merge of both.
    Merge,
    /// One commit with all of it.
    Squash,
}

/// Has a thread that is mounted show another revision, and its branch be at it. Only files that differ between the two are touched. Changes
/// that are not committed stay; where one is of such a file, nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Which.
    pub name: String,
    /// What git takes for a commit in the thread, or `thread:NAME` for what another thread has captured or committed last.
    pub revision: String,
}

/// It does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// Which thread.
    pub name: String,
    /// The commit that its branch was at.
    pub was: String,
    /// The commit that it is at.
    pub commit: String,
}

/// Undoes what was done to a thread last and is not undone: a capture, a landing, a switch, and before all of them its making. Or does
/// again what was undone last. Only if the reference is where it was left, and the worktree that has it has no changes which would be lost.
/// A thread whose making is undone goes as one that is [dropped](Drop) without force. Of a name that no thread has, the one that was
/// dropped last is had back, as it was, unless it was [collected](Collect), or the one whose making was undone last, to do it again; it is
/// not mounted then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// Which.
    pub name: String,
    /// Do again what was undone last, in place of undoing more.
    #[serde(default)]
    pub redo: bool,
}

/// It is undone, or done again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// Which thread.
    pub name: String,
    /// What was undone.
    pub operation: OperationKind,
    /// The reference that it had moved.
    pub reference: String,
    /// Where that was, if it was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Where it is now, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// The worktree that went along, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<ByteString>,
}

/// Something that was done to a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// It was made.
    New,
    /// What was in it became a commit.
    Capture,
    /// It was brought onto a branch.
    Land,
    /// It went to another revision.
    Switch,
    /// It was dropped.
    Drop,
}

impl OperationKind {
    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            OperationKind::New => "new",
            OperationKind::Capture => "capture",
            OperationKind::Land => "land",
            OperationKind::Switch => "switch",
            OperationKind::Drop => "drop",
        }
    }
}

/// Unmounts a thread and removes it: its directory, its worktree, and its branch if that has no commits of its own. Captures stay,
/// unless it is forced. It can be had back by [`Undo`] until it is [collected](Collect).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drop {
    /// Which.
    pub name: String,
    /// Without force, a thread that is in use or has changes that are neither committed nor captured stays.
    #[serde(default)]
    pub force: Force,
}

/// Removes for good what is left of threads that were dropped. The daemon does so by itself with those that were dropped
/// [a week](DROPPED_KEPT_SECONDS) ago.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// Only those that were dropped so many seconds ago or more; [`DROPPED_KEPT_SECONDS`] if it is not said.
    #[serde(default)]
    pub grace_seconds: Option<u64>,
    /// Say what would be removed, and remove nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// They are removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Each of them, the first that was dropped first.
    pub threads: Vec<CollectedThread>,
    /// How many that were dropped can be had back still.
    pub kept: u64,
}

/// A thread that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectedThread {
    /// Its name.
    pub name: String,
    /// The repository, as people know it.
    pub repo: ByteString,
    /// When it was dropped.
    pub at: Timestamp,
    /// What it takes on the disk, in bytes.
    pub disk_bytes: u64,
}

/// It is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Which.
    pub name: String,
    /// Its branch, if that has commits of its own and stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_branch: Option<String>,
    /// The reference of its captures, if there are some and they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_captures: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_a_branch_and_of_a_directory() {
        for name in ["fix", "fix-1", "a.b_c", "7"] {
            assert!(is_name(name), "{name}");
        }
        let long = "n".repeat(200);
        for name in ["", "a/b", "-x", ".x", "x.", "a..b", "x.lock", "HEAD", "a b", "ä", &long] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_kind_is_one_word() {
        for kind in [ChangeKind::Added, ChangeKind::Modified, ChangeKind::Deleted] {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
        }
    }
}
