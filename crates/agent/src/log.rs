//! What is said to the person who runs the agent. Standard output is the protocol's; standard error may be closed.

use std::fmt::Arguments;
use std::io::Write;

/// Writes a line to standard error. When that cannot be written to, there is nobody to tell, and the agent goes on.
pub(crate) fn log(message: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "stead-agent: {message}");
}
