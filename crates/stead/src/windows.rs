//! Windows: the command line and the daemon.

use std::process::ExitCode;

/// Picks the part.
pub fn main() -> ExitCode {
    let paths = match cli::main() {
        cli::Next::Exit(code) => return ExitCode::from(code),
        cli::Next::Daemon(paths) => paths,
    };
    crate::ended(daemon::run(paths))
}
