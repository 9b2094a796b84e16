//! The agent, as a program that this crate's tests can place and start.

fn main() -> std::process::ExitCode {
    agent::main(std::env::args_os().skip(1))
}
