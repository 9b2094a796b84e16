//! Unix: every part there is, but for the agent, which is of Linux.

use std::ffi::OsStr;
use std::process::ExitCode;

use wire::api::{ErrorKind, ErrorObject};

#[cfg(target_os = "linux")]
use agent::main as agent;

/// Picks the part.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.next().is_some_and(|name| remote::askpass::is_askpass(&name)) {
        return remote::askpass::run(arguments, |name| std::env::var_os(name));
    }
    let first = arguments.next();
    match first.as_deref().and_then(OsStr::to_str) {
        Some("agent") => agent(arguments),
        Some("keeper") => mount::keeper::main(arguments),
        Some("worker") => mount::worker::main(arguments),
        Some(remote::transport::docker::PART) => remote::transport::docker::main(arguments),
        Some(remote::transport::vm::PART) => remote::transport::vm::main(arguments),
        Some(machine::console::PART) => machine::console::main(arguments),
        Some(machine::network::gate::PART) => machine::network::gate::main(arguments),
        Some("probe") => mount::probe::main(arguments),
        _ => match cli::main() {
            cli::Next::Exit(code) => ExitCode::from(code),
            cli::Next::Daemon(how) => run_daemon(how),
        },
    }
}

/// This computer is no machine of its own: its files are reached without one.
#[cfg(not(target_os = "linux"))]
fn agent(_arguments: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    eprintln!("error: `stead agent` exists on Linux only");
    eprintln!("hint: mount a Linux machine's files here: stead mount ssh://HOST/PATH DIR");
    ExitCode::FAILURE
}

fn run_daemon(how: cli::Daemon) -> ExitCode {
    let mode = match how {
        cli::Daemon::Foreground => daemon::Mode::Foreground,
        cli::Daemon::Background => daemon::Mode::Background,
        cli::Daemon::Check => return crate::ended(daemon::check()),
    };
    crate::ended(
        daemon::Options::from_environment(mode)
            .map_err(|error| ErrorObject::new(ErrorKind::Usage, error.to_string()))
            .and_then(daemon::run),
    )
}
