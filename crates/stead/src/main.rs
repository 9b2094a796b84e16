//! The stead program: picks its part by the name it was called by and its first argument.
//!
//! | called as | part |
//! |---|---|
//! | `stead-askpass QUESTION` | what ssh runs to ask somebody |
//! | `stead agent [--resume SESSION]` | the agent of this computer, on its standard input and output |
//! | `stead keeper DIR ..` | what keeps the descriptors of one mount and restarts its worker |
//! | `stead worker DIR ..` | the process that serves one mount, started by its keeper |
//! | `stead container ERRAND` | what speaks with the engine of a container, for the daemon and for workers |
//! | `stead guest ERRAND` | what carries a stream to a microVM, for the daemon and for workers |
//! | `stead console LOG` | what writes down what a microVM says, within a limit |
//! | `stead network SOCKETS` | what all frames of a microVM go through |
//! | `stead probe DIR` | one request to a mount, for the daemon's monitor |
//! | `stead daemon run` | the daemon |
//! | anything else | the command line |
//!
//! Not every system has every part: which there are is said by the module of that system, and one that is missing is an error that
//! says so, never a silence.

#[cfg(unix)]
#[path = "unix.rs"]
mod parts;
#[cfg(windows)]
#[path = "windows.rs"]
mod parts;

use std::io::Write;
use std::panic::PanicHookInfo;
use std::process::ExitCode;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    parts::main()
}

/// Says how the daemon ended.
fn ended(outcome: Result<(), wire::api::ErrorObject>) -> ExitCode {
    match outcome {
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

/// One line: what happened and where. The part that panicked says the rest by how it ends.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("of an unknown sort");
    let place =
        panic.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let mut text = format!("stead: thread `{name}` panicked{place}: {}\n", message.escape_debug());
    if std::env::var_os("RUST_BACKTRACE").is_some() {
        text += &format!("{}\n", std::backtrace::Backtrace::force_capture());
    }
    // On a full disk a log cannot be written to, and a panic here would end the process.
    let _untold = std::io::stderr().write_all(text.as_bytes());
}
