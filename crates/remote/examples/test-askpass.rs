//! The askpass program, as one that this crate's tests can start.

fn main() -> std::process::ExitCode {
    remote::askpass::run(std::env::args_os().skip(1), |name| std::env::var_os(name))
}
