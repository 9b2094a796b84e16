//! The program of the extension and of the application around it.
//!
//! | started as | part |
//! |---|---|
//! | `…/stead-file-provider` in the extension's bundle, by the system | the extension |
//! | `Stead domains add ID NAME SOURCE`, `… remove ID`, `… list`, by the daemon | domains, see `apple::domains` |

use std::process::ExitCode;

#[cfg(target_os = "macos")]
fn main() -> ExitCode {
    provider::apple::main()
}

#[cfg(not(target_os = "macos"))]
fn main() -> ExitCode {
    eprintln!("error: this is a part of the File Provider of macOS, and there is none here");
    // That of `usage`.
    ExitCode::from(2)
}
