//! Looking for content.

use serde::{Deserialize, Serialize};

use super::name::RelativePath;

/// The longest pattern.
pub const PATTERN_BYTES_MAX: usize = 64 << 10;

/// The most globs of one query.
pub const GLOBS_MAX: usize = 64;

/// The longest glob.
pub const GLOB_BYTES_MAX: usize = 4096;

/// How much of a line is told at the most.
pub const LINE_BYTES_MAX: usize = 4096;

/// The most places of one line that are told.
pub const SPANS_MAX: usize = 64;

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchQuery {
    /// A regular expression in Rust's syntax, of at most [`PATTERN_BYTES_MAX`]; without one, every file is a hit.
    pub pattern: Option<String>,
    /// The pattern is text, not an expression.
    pub fixed: bool,
    /// Which letters are the same.
    pub case: Case,
    /// A match begins and ends where words do.
    pub words: bool,
    /// Which files, as in an ignore file but the other way round: `*.rs` takes those, `!*.rs` leaves them out. At most
    /// [`GLOBS_MAX`], each of at most [`GLOB_BYTES_MAX`].
    pub globs: Vec<String>,
    /// Whether files are searched that ignore files (`.gitignore`, `.ignore`, `.rgignore`) leave out.
    pub ignored: bool,
    /// Whether names that begin with a dot are searched.
    pub hidden: bool,
    /// What is told of a file with matches.
    pub tell: Tell,
    /// Levels below the start; 1 is what is in the directory itself.
    pub depth_max: Option<u32>,
    /// After so many hits the search ends.
    pub hits_max: u64,
}

/// Which letters are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Case {
    /// None are.
    Sensitive,
    /// Small and capital ones.
    Insensitive,
    /// Small and capital ones, unless the pattern has a capital one.
    Smart,
}

/// What is told of a file with matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tell {
    /// Every line with a match.
    Lines,
    /// The file, once.
    Files,
}

/// A match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// From the directory that is searched; empty if a file is.
    pub path: RelativePath,
    /// The line, if lines are told.
    pub line: Option<Line>,
}

/// A line with a match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Counted from 1.
    pub number: u64,
    /// Without its end, and at most [`LINE_BYTES_MAX`] of it.
    #[serde(with = "serde_bytes")]
    pub text: Vec<u8>,
    /// Whether there is more of it.
    pub cut: bool,
    /// Where in `text` the matches are, from and to; at most [`SPANS_MAX`].
    pub spans: Vec<(u32, u32)>,
}

/// What a search has gone through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Searched {
    /// Files.
    pub files: u64,
    /// Bytes of them that were read.
    pub bytes: u64,
    /// Whether it ended because there were as many hits as were wanted.
    pub limited: bool,
}
