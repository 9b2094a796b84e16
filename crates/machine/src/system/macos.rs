//! macOS: there is nothing that ends a program with whoever has it run.

use std::path::Path;
use std::process::Command;

use crate::error::Result;
use crate::program::End;

/// Runs a program, which goes on to its end by itself when its parent has ended. What it writes to is made anew by whoever comes next,
/// and put in its place when it is whole.
pub(crate) fn tied(program: &Path, _end: End) -> Result<Command> {
    Ok(Command::new(program))
}
