//! Windows: the backend and the protocol compile, and no part of the program is put together from them yet.

use std::process::ExitCode;

/// Says that there is no part.
pub fn main() -> ExitCode {
    eprintln!("error: this program has no parts on Windows yet: neither a command line nor a daemon");
    eprintln!("hint: run Stead in WSL");
    ExitCode::FAILURE
}
