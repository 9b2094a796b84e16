//! Windows: the command line and the daemon.

use std::process::ExitCode;

/// Picks the part.
pub fn main() -> ExitCode {
    let paths = match cli::main() {
        cli::Next::Exit(code) => return ExitCode::from(code),
        cli::Next::Daemon(paths) => paths,
    };
    match daemon::run(paths) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.kind().exit_code())
        }
    }
}
