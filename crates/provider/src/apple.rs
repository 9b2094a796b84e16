//! The extension as Objective-C objects: each method makes what it is given into this crate's own types, hands it to the
//! [`Service`](crate::service::Service) with a completion handler that is called once, and makes the answer into the system's types.
//!
//! Checked by the compiler, never run: see docs/platforms.md.

mod block;
pub mod domains;
mod enumerator;
mod error;
mod extension;
mod item;

use std::ffi::{c_char, c_int};
use std::process::ExitCode;

use objc2::ClassType;

/// The identifier of the app group: what the daemon and the extension share. With a team's prefix, as the entitlements have it.
pub const GROUP_VARIABLE: &str = "SteadAppGroup";

// Without it the linker leaves the framework out, and with it the classes that are looked up by name.
#[link(name = "FileProvider", kind = "framework")]
unsafe extern "C" {}

#[link(name = "Foundation", kind = "framework")]
unsafe extern "C" {
    /// What an extension's program consists of: it waits for the system, and does not come back.
    fn NSExtensionMain(argc: c_int, argv: *const *const c_char) -> c_int;
}

/// Whichever part the arguments name.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let is_application = arguments.next().is_some_and(|program| program.ends_with("/Stead"));
    if is_application {
        // Who opens the application has its extension registered by that, and nothing else.
        return match arguments.next().as_deref() {
            Some("domains") => domains::main(arguments),
            _ => ExitCode::SUCCESS,
        };
    }
    // The class has to be registered before the system looks for it by the name in Info.plist.
    let _class = extension::Extension::class();
    // SAFETY: no arguments are given, as a null vector with a count of zero says; it is called once, on the main thread.
    let code = unsafe { NSExtensionMain(0, std::ptr::null()) };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
