//! `operation.*`: what takes longer than a second, and goes on without whoever asked for it.
//!
//! ```text
//!                 ┌─ it came to its end ────────────► succeeded
//!  begun ► running┼─ a part of it could not be done ► failed     nothing of it is left
//!                 └─ it was told to end ────────────► cancelled  nothing of it is left
//! ```
//!
//! Any client may look at one, wait for it or cancel it. Its parts are told as events of the topic `operation`. One that has
//! ended is known until [`ENDED_MAX`] others have ended after it, or the daemon has. The next daemon removes what was half
//! made; the same can be asked for again.

use serde::{Deserialize, Serialize};

use super::id::OperationId;
use super::status;

/// The operations that have ended and are still known.
pub const ENDED_MAX: usize = 64;

/// Asks for all operations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// All operations, in the order in which they were begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    /// Each of them.
    pub operations: Vec<status::Operation>,
}

/// Asks for one operation as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Show {
    /// Which.
    pub operation: OperationId,
}

/// Asks for one operation. Answered once it does not go on, at once if it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// Which.
    pub operation: OperationId,
}

/// Has an operation end. Answered once nothing of it is left. One that has come to its end is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// Which.
    pub operation: OperationId,
}
