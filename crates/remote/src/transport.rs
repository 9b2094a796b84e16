//! How a byte stream to an agent is got.

pub mod docker;
pub mod errand;
pub mod host;
mod program;
pub mod ssh;
pub mod vm;

pub use program::{Dismissal, Exit, Program, ProgramError};
