//! What is done for a microVM that is made or started: parts in an order, of which all are done or none.
//!
//! ```text
//!  prepare 1 ─► prepare 2 ─► … ─► apply 1 ─► verify 1 ─► apply 2 ─► verify 2 ─► … ─► done
//!      │ refused                      │ failed, or called off
//!      ▼                              ▼
//!  nothing was done                undo 2 ─► undo 1: nothing is left
//! ```
//!
//! Invariants:
//!
//! - Nothing is done before every part has said that it can be.
//! - A part whose `apply` was begun is undone, also if it failed before it had done anything.
//! - Parts are undone in the opposite order. One that cannot be undone keeps none from being undone.
//!
//! A daemon that is killed undoes nothing: what it leaves has no record, and the next one removes it, see [`crate::vm::list`].

mod create;

pub use create::{Base, Directory, Disk, Written};

use crate::course::Course;
use crate::error::Result;
use crate::vm::Places;

/// A part of what is done for a microVM. All of it blocks.
pub trait Capability: Send + Sync {
    /// What is shown of it: a noun.
    fn name(&self) -> &'static str;

    /// Refuses what cannot be done. Changes nothing. What takes long looks whether it has been called off.
    fn prepare(&self, places: &Places, course: &Course) -> Result<()>;

    /// Does it. After an error some of it may be done. What takes long looks whether it has been called off.
    fn apply(&self, places: &Places, course: &Course) -> Result<()>;

    /// Looks whether it is done, by what is there and not by what `apply` believes. What takes long looks whether it has been called off.
    fn verify(&self, places: &Places, course: &Course) -> Result<()>;

    /// Leaves nothing of it, however little of it was done. Succeeds again if there is nothing.
    fn undo(&self, places: &Places) -> Result<()>;
}

/// Parts, in their order.
pub type Capabilities = Vec<Box<dyn Capability>>;

/// Does all of it. After an error nothing is left, but for what could not be undone, which is logged. Blocks.
pub fn carry_out(capabilities: &[Box<dyn Capability>], places: &Places, course: &Course) -> Result<()> {
    for capability in capabilities {
        course.check()?;
        capability.prepare(places, course)?;
    }
    for (at, capability) in capabilities.iter().enumerate() {
        if let Err(error) = course.begin(capability.name()) {
            undo(&capabilities[..at], places, course);
            return Err(error);
        }
        let applied = capability.apply(places, course).and_then(|()| capability.verify(places, course));
        if let Err(error) = applied {
            undo(&capabilities[..=at], places, course);
            return Err(error);
        }
    }
    // Whoever called it off before it was told to be done gets nothing.
    course.check().inspect_err(|_| undo(capabilities, places, course))
}

/// Undoes what was begun, the last first. Blocks.
pub fn undo(capabilities: &[Box<dyn Capability>], places: &Places, course: &Course) {
    for capability in capabilities.iter().rev() {
        let name = capability.name();
        course.tell(&format!("undoing {name}"));
        if let Err(error) = capability.undo(places) {
            tracing::warn!(%error, part = name, "a part of a vm stays");
        }
    }
}

#[cfg(test)]
mod tests;
