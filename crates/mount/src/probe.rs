//! `stead probe DIR`: puts one request to a mount, the way of every user's request, and ends.
//!
//! It asks for an extended attribute of the root that no file has. The kernel hands such a request to whoever serves
//! the mount, and the FUSE server answers it by itself: neither a cache of the kernel nor the machine has a part in it,
//! so no answer means that the mount hangs, and not that the machine is away. Of a mount through NFS it asks on macOS and FreeBSD for the
//! root's attributes, which a client asks its server for anew after a second.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::system;

/// The name of the attribute. Reading in this namespace needs no right to the file.
pub const ATTRIBUTE: &str = "security.stead.probe";

/// The exit code when the kernel says that nobody serves the mount.
pub const NOT_SERVED: u8 = 2;

/// Carries it out. Any answer is one: that there is no such attribute is the usual one.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(dir) = arguments.next() else {
        eprintln!("usage: stead probe DIR");
        return ExitCode::FAILURE;
    };
    match system::put_request(dir.as_ref()) {
        Err(errno) if system::GONE.contains(&errno) => ExitCode::from(NOT_SERVED),
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}
