//! Looking for names.

use serde::{Deserialize, Serialize};

use super::file::{Entry, Kind, Time};
use super::name::RelativePath;

/// The most patterns of one query.
pub const PATTERNS_MAX: usize = 64;

/// The longest pattern: longer than any name it could be of, with room for alternatives.
pub const PATTERN_BYTES_MAX: usize = 4096;

/// What is looked for: a name that fits every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindQuery {
    /// Shell patterns (`*`, `?`, `[a-z]`, `{a,b}`), of which the last name of the path is to match one; without any, every
    /// name does. At most [`PATTERNS_MAX`], each of at most [`PATTERN_BYTES_MAX`].
    pub names: Vec<String>,
    /// Whether letters of either case are the same in them.
    pub ignore_case: bool,
    /// What it is to be; without any, anything.
    pub kinds: Vec<Kind>,
    /// Levels below the start; 1 is what is in the directory itself.
    pub depth_max: Option<u32>,
    /// Content changed at this time or later.
    pub changed_since: Option<Time>,
    /// Whether attributes are told. They take a look at every file that is found.
    pub attributes: bool,
}

/// A name that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// From the directory that was searched.
    pub path: RelativePath,
    /// What it is.
    pub kind: Kind,
    /// The file, if attributes were asked for.
    pub entry: Option<Entry>,
}
