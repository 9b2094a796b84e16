//! macOS and FreeBSD: the command line, and what ssh and containers need. What serves mounts is not there yet.

use std::ffi::OsStr;
use std::process::ExitCode;

/// What Linux has and this system does not.
const MISSING: &[&str] = &["agent", "keeper", "worker", "console", "network", "probe"];

/// Picks the part.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|name| remote::askpass::is_askpass(&name)) {
        return remote::askpass::run(arguments, |name| std::env::var_os(name));
    }
    let first = std::env::args_os().nth(1);
    match first.as_deref().and_then(OsStr::to_str) {
        Some(remote::transport::docker::PART) => remote::transport::docker::main(arguments.skip(1)),
        Some(part) if MISSING.contains(&part) => missing(part),
        _ => match cli::main() {
            cli::Next::Exit(code) => ExitCode::from(code),
            cli::Next::Daemon(_) => missing("daemon"),
        },
    }
}

fn missing(part: &str) -> ExitCode {
    eprintln!("error: `stead {part}` exists on Linux only");
    eprintln!("hint: `stead doctor` says what this computer has");
    ExitCode::FAILURE
}
