//! `workspace.*`: a git working copy placed in a microVM, and brought back.
//!
//! ```text
//!              prepare                        export, any number of times
//!   (nothing) ─────────► a copy in the guest ────────────────────────────► a branch or a patch here
//!                              │ forget: the copy stays in the guest
//!                              ▼
//!                          (nothing)
//! ```
//!
//! A microVM has one at most. Both are operations; one that fails or is cancelled leaves nothing, here and in the guest.

use serde::{Deserialize, Serialize};

use super::machine::Caller;
use super::time::Timestamp;
use crate::bytestring::ByteString;

/// What is prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The working copy that an absolute path is in.
    Directory(ByteString),
    /// A thread that is mounted, by its name.
    Thread(String),
}

/// Has a working copy copied to a microVM that runs. Answered at once with the operation that does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    /// The microVM, by the whole of its name or its id.
    pub vm: String,
    /// What.
    pub origin: Origin,
    /// Where it is to be in the guest: an absolute path at which nothing is, or an empty directory. Without it, a directory in the home of
    /// the guest's user that is called as the working copy is.
    #[serde(default)]
    pub place: Option<ByteString>,
    /// Also if files that are committed or staged are called as secrets are: otherwise it is refused then.
    #[serde(default)]
    pub with_secrets: bool,
    /// Who asks.
    pub caller: Caller,
}

/// Has what was done in a microVM's workspace brought back. Answered at once with the operation that does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The microVM, by the whole of its name or its id.
    pub vm: String,
    /// A working copy, by an absolute path, of the repository that it is brought to; without it, of the one it was prepared from.
    #[serde(default)]
    pub dir: Option<ByteString>,
    /// What it becomes.
    #[serde(default)]
    pub form: Form,
    /// Who asks.
    pub caller: Caller,
}

/// What comes of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The branch `stead/` and the microVM's name.
    #[default]
    Own,
    /// This branch.
    Branch(String),
    /// A file for `git apply`, by an absolute path at which nothing is: what was done since the workspace was prepared.
    Patch(ByteString),
}

/// Asks for all workspaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// All workspaces, in the order of their microVMs' names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspaces {
    /// Each of them.
    pub workspaces: Vec<Workspace>,
}

/// Asks for a microVM's workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Show {
    /// The microVM.
    pub vm: String,
}

/// Has a workspace forgotten, so that another one can be prepared. The copy in the guest stays, and so does what was brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forget {
    /// The microVM.
    pub vm: String,
}

/// A workspace that is prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// The microVM's name.
    pub vm: String,
    /// Its own number: no other workspace has had it.
    pub id: String,
    /// The top of the working copy that it was prepared from.
    pub dir: ByteString,
    /// The thread that this is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Where it is in the guest.
    pub place: ByteString,
    /// The branch that was checked out, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit that was.
    pub head: String,
    /// When it was prepared.
    pub since: Timestamp,
    /// What went along that was not committed, and what stayed.
    pub went: Went,
    /// What was brought back last, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported: Option<Exported>,
}

/// What went to a guest beside what was committed, and what did not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Went {
    /// How many paths were staged.
    pub staged: u64,
    /// How many files were otherwise than staged.
    pub unstaged: u64,
    /// How many files git did not know.
    pub untracked: u64,
    /// How many bytes all of it took on the way.
    pub bytes: u64,
    /// Files and repositories that git did not know and that stayed: they are called as secrets are, or are repositories. The first ones.
    pub left_out: Vec<ByteString>,
    /// Committed or staged files that are called as secrets are, and that somebody wanted to go along. The first ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<ByteString>,
    /// Submodules, which are empty there. The first ones.
    pub submodules: Vec<ByteString>,
    /// How many files are kept by LFS, and are pointers there.
    pub large: u64,
}

/// What was brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// When.
    pub at: Timestamp,
    /// A working copy of the repository to which.
    pub dir: ByteString,
    /// The commit that has all of it, what was not committed there too.
    pub commit: String,
    /// How many commits there are since the workspace was prepared, with that one. 0 if nothing was done there: then there is neither a
    /// branch nor a patch.
    pub commits: u64,
    /// The branch that is at the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<ByteString>,
    /// The branch that was prepared, where it is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onto: Option<String>,
    /// The paths that would have to be resolved to merge it into that. The first ones. Absent if that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflicts: Option<Vec<ByteString>>,
}

/// A workspace was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// The microVM.
    pub vm: String,
    /// Where it stays in the guest.
    pub place: ByteString,
}
