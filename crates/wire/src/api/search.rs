//! `file.search`: looking for content on the machine itself.
//!
//! A search is opened as a handle, whose pages are asked for one after the other. Closing the handle ends it on the machine.

use serde::{Deserialize, Serialize};

use super::file::Progress;
use super::find::LeftOut;
use super::id::HandleId;
use super::machine::{Caller, Source};
use crate::bytestring::ByteString;

/// Begins to look for content in a file, or in all files below a directory. Links are not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// In this file, or below this directory.
    pub source: Source,
    /// A regular expression in Rust's syntax; without one, every file is a hit.
    #[serde(default)]
    pub pattern: Option<String>,
    /// The pattern is text, not an expression.
    #[serde(default)]
    pub fixed: bool,
    /// Which letters are the same.
    #[serde(default)]
    pub case: Case,
    /// A match begins and ends where words do.
    #[serde(default)]
    pub words: bool,
    /// Which files: `*.rs` takes those, `!*.rs` leaves them out.
    #[serde(default)]
    pub globs: Vec<String>,
    /// Whether files are searched that ignore files leave out.
    #[serde(default)]
    pub ignored: bool,
    /// Whether names that begin with a dot are searched.
    #[serde(default)]
    pub hidden: bool,
    /// What is told of a file with matches.
    #[serde(default)]
    pub tell: Tell,
    /// Levels below the start; 1 is what is in the directory itself.
    #[serde(default)]
    pub depth_max: Option<u32>,
    /// After so many hits the search ends.
    #[serde(default)]
    pub hits_max: Option<u64>,
    /// Who asks.
    pub caller: Caller,
}

/// Which letters are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// None are.
    #[default]
    Sensitive,
    /// Small and capital ones.
    Insensitive,
    /// Small and capital ones, unless the pattern has a capital one.
    Smart,
}

/// What is told of a file with matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tell {
    /// Every line with a match.
    #[default]
    Lines,
    /// The file, once.
    Files,
}

/// The next hits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextHits {
    /// From [`Search`]. Only one such request at a time.
    pub handle: HandleId,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hits {
    /// In any order of files, and in the order of lines of each. May be none before the end.
    pub hits: Vec<Hit>,
    /// Files and directories that were left out.
    pub left_out: Vec<LeftOut>,
    /// What was gone through, at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searched: Option<Searched>,
    /// Whether there is more.
    pub progress: Progress,
}

/// A match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// From the directory that is searched; empty if a file is.
    pub path: ByteString,
    /// The line, if lines are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<Line>,
}

/// A line with a match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Counted from 1.
    pub number: u64,
    /// Without its end.
    pub text: ByteString,
    /// Whether it is longer than what is told of it.
    pub cut: bool,
    /// Where in its bytes the matches are: from and to.
    pub spans: Vec<(u32, u32)>,
}

/// What a search has gone through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Searched {
    /// Files.
    pub files: u64,
    /// Bytes of them that were read.
    pub bytes: u64,
    /// Whether it ended because there were as many hits as were wanted.
    pub limited: bool,
}
