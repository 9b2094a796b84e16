//! The agent by itself, as it is put on a far machine. Standard input and output are the stream.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.first() {
        Some(argument) if argument == "--version" => print_version(),
        _ => serve(arguments),
    }
}

#[cfg(target_os = "linux")]
use agent::main as serve;

/// The agent needs `/proc`, and descriptors that only name a file.
#[cfg(not(target_os = "linux"))]
fn serve(_arguments: Vec<std::ffi::OsString>) -> ExitCode {
    eprintln!("stead-agent: the agent runs on Linux only");
    ExitCode::FAILURE
}

/// What tells a client whether this is the agent it needs.
fn print_version() -> ExitCode {
    let (release, schema) = (wire::RELEASE, wire::hello::SCHEMA_HASH);
    match writeln!(std::io::stdout(), "stead-agent {release} {schema:016x}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
