//! The command line: arguments, one call, and what is printed.
//!
//! It knows the daemon by its socket alone, or by its pipe. What it must not know: how anything is mounted, connected or kept; there
//! is no runtime and no state here, and what a command shows is what the daemon said. Three commands need no daemon:
//! `doctor` looks at this computer, `cp` reads and writes its files, and `demo` runs this program as its user would.
//!
//! - `cmd/` has a file for each subcommand: its arguments and their help, the call, the rendering.
//! - [`config`] is what holds where neither an argument nor the environment says anything.
//! - [`client`] is the daemon's API, blocking; it starts the daemon when none runs, and puts prompts to the terminal.
//! - [`completion`] is what a shell is answered while a command line is typed.
//! - [`output`] is everything that is printed.
//!
//! All that is of Unix, but for what is printed. On Windows, `windows.rs` has the commands that the daemon there answers.
//!
//! Invariants: with `--json`, standard output carries one document (or one a line) and nothing else; the exit code
//! alone tells how it went; names are bytes, and none of them moves a terminal's cursor.

#[cfg(unix)]
pub mod client;
#[cfg(unix)]
pub mod cmd;
#[cfg(unix)]
pub mod completion;
#[cfg(unix)]
pub mod config;
#[cfg(unix)]
pub mod context;
#[cfg(unix)]
pub mod conversation;
#[cfg(unix)]
pub mod docs;
pub mod error;
#[cfg(unix)]
#[cfg(test)]
pub(crate) mod fake;
#[cfg(unix)]
pub mod interrupt;
pub mod output;
#[cfg(unix)]
pub mod prompt;
#[cfg(unix)]
pub mod system;
#[cfg(unix)]
pub mod terminal;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use unix::*;
#[cfg(windows)]
pub use windows::*;
