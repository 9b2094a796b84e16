//! The processes of a mount without a daemon, for the tests of this crate: keeper, worker and agent, by the first argument.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let part = arguments.next().unwrap_or_default();
    match part.to_str() {
        Some("keeper") => mount::keeper::main(arguments),
        Some("worker") => mount::worker::main(arguments),
        Some("agent") => agent::main(arguments),
        _ => {
            eprintln!("`{}` is no part of a mount", part.display());
            ExitCode::FAILURE
        }
    }
}
