//! The command line: arguments, one call, and what is printed.
//!
//! It knows the daemon by its socket alone, or by its pipe. What it must not know: how anything is mounted, connected or kept; there
//! is no runtime and no state here, and what a command shows is what the daemon said. Three commands need no daemon:
//! `doctor` looks at this computer, `cp` reads and writes its files, and `demo` runs this program as its user would.
//!
//! On Unix it is all of `unix.rs`. On Windows, `windows.rs` has the commands that the daemon there answers.
//!
//! Invariants: with `--json`, standard output carries one document (or one a line) and nothing else; the exit code
//! alone tells how it went; names are bytes, and none of them moves a terminal's cursor.

#[cfg(unix)]
#[path = "unix.rs"]
mod parts;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use parts::*;
#[cfg(windows)]
pub use windows::*;
