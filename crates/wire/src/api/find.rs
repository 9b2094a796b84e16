//! `file.find`: looking for names on the machine itself.
//!
//! A search is opened as a handle, whose pages are asked for one after the other. Closing the handle ends it on the machine.

use serde::{Deserialize, Serialize};

use super::file::{Entry, FileKind, FileTime, Progress};
use super::id::HandleId;
use super::machine::{Caller, Source};
use crate::bytestring::ByteString;

/// Begins to look for names below a directory. Links are not followed. A name that fits every condition is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Find {
    /// Below this directory.
    pub source: Source,
    /// Shell patterns, of which the name is to match one; none are all names.
    #[serde(default)]
    pub names: Vec<String>,
    /// Whether letters of either case are the same in them.
    #[serde(default)]
    pub ignore_case: bool,
    /// What it is to be; none is anything.
    #[serde(default)]
    pub kinds: Vec<FileKind>,
    /// Levels below the directory; 1 is what is in it.
    #[serde(default)]
    pub depth_max: Option<u32>,
    /// Content changed at this time or later.
    #[serde(default)]
    pub changed_since: Option<FileTime>,
    /// Whether attributes are told too.
    #[serde(default)]
    pub attributes: bool,
    /// Who asks.
    pub caller: Caller,
}

/// The next names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Next {
    /// From [`Find`]. Only one such request at a time.
    pub handle: HandleId,
}

/// Names that were found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// May be none before the end.
    pub found: Vec<FoundFile>,
    /// Directories that were left out.
    pub left_out: Vec<LeftOut>,
    /// Whether there is more.
    pub progress: Progress,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundFile {
    /// From the directory that was searched.
    pub path: ByteString,
    /// What it is.
    pub kind: FileKind,
    /// Its attributes, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Entry>,
}

/// Something that a request about a whole tree has left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// From the directory that the request named.
    pub path: ByteString,
    /// Why, for a person.
    pub reason: String,
}
