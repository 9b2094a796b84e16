//! The setuid helper of libfuse, for mounting as an unprivileged user.

use super::super::helper::{self, HelperError, PASSED, WAIT_MAX};
use super::Unmount;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

pub(in super::super) const PROGRAM: &str = "fusermount3";

/// How the helper says that a mount is in use: the C library's words for `EBUSY`, which it prints untranslated.
pub(super) const BUSY: &str = "Device or resource busy";

/// How it says that the user may not mount there: its own words, and the C library's for `EACCES` and `EPERM`.
pub(in super::super) const DENIED: [&str; 4] =
    ["no write access to mountpoint", "not owned by user", "Permission denied", "Operation not permitted"];

/// Mounts, and receives the device.
pub(super) fn mount(path: &Path, options: &[u8]) -> Result<OwnedFd, HelperError> {
    let deadline = Instant::now() + WAIT_MAX;
    let (ours, theirs) = helper::socket_pair().map_err(HelperError::Run)?;
    let mut command = Command::new(PROGRAM);
    command.arg("-o").arg(OsStr::from_bytes(options)).arg("--").arg(path);
    command.env(PASSED.0, PASSED.1).stdin(theirs);
    let child = helper::spawn(&mut command)?;
    // The command holds their end until it is dropped, and so the end of the stream would not be seen.
    drop(command);
    let received = helper::receive(&ours);
    let finished = helper::finish(child, deadline);
    // What the helper says explains what it did not send.
    finished?;
    received.map_err(HelperError::Run)?.ok_or(HelperError::NoDescriptor)
}

/// Unmounts.
pub(super) fn unmount(path: &Path, how: Unmount) -> Result<(), HelperError> {
    let deadline = Instant::now() + WAIT_MAX;
    let mut command = Command::new(PROGRAM);
    command.arg("-u");
    if how != Unmount::IfIdle {
        command.arg("-z");
    }
    command.arg("--").arg(path).stdin(Stdio::null());
    helper::finish(helper::spawn(&mut command)?, deadline)
}

/// A value in the helper's option list: commas separate options there, and a backslash takes their meaning
/// away.
pub(super) fn escape(value: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(value.len());
    for &byte in value {
        if matches!(byte, b',' | b'\\') {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_name_cannot_add_options() {
        assert_eq!(escape(br"a,suid\x"), br"a\,suid\\x");
    }
}
