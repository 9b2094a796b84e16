//! `file.watch`: what changes below a directory, as it changes.
//!
//! A watch is opened as a handle, whose changes are asked for again and again; the answer comes when there are some. Closing
//! the handle, or the connection, ends it.

use serde::{Deserialize, Serialize};

use super::file::Progress;
use super::id::HandleId;
use super::machine::{Caller, Source};
use crate::bytestring::ByteString;

/// Begins to watch a directory. Nothing is missed from the first answer to [`NextChanges`] on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// This directory.
    pub source: Source,
    /// And everything below it.
    pub recursive: bool,
    /// Who asks.
    pub caller: Caller,
}

/// The next changes; answered when there are some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextChanges {
    /// From [`Watch`]. Only one such request at a time.
    pub handle: HandleId,
}

/// What has changed. The first answer has no changes: it says that the watch has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Several changes of one path that were not asked for in time are one, the last.
    pub changes: Vec<Change>,
    /// Some changes were missed: everything may be otherwise now, and is to be looked at again.
    pub rescan: bool,
    /// Whether there will be more.
    pub progress: Progress,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// From the directory that is watched.
    pub path: ByteString,
    /// What happened to it.
    pub event: ChangeEvent,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeEvent {
    /// It is there since.
    Created,
    /// Its content or its attributes are others.
    Modified,
    /// It is not there any more.
    Removed,
}
