//! The setuid helper of libfuse, for mounting as an unprivileged user.
//!
//! It is run with one end of a socket pair, whose number is in `_FUSE_COMMFD`, and sends the descriptor of
//! the mounted device through it (`SCM_RIGHTS`). We give it the socket as standard input, which needs no
//! descriptor to be left open across the `exec` of whatever else this process starts meanwhile.

use super::{HelperError, Unmount, path_bytes};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};
use std::ffi::OsStr;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

pub(super) const PROGRAM: &str = "fusermount3";

/// The helper does a handful of system calls. It hangs only when the mount point is below another dead mount.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// What of its error output is kept; it prints a line.
const STDERR_BYTES_MAX: usize = 4096;

/// Which descriptor the socket is in the helper: standard input.
const SOCKET_IN_CHILD: &str = "0";

/// How the helper says that a mount is in use: the C library's words for `EBUSY`, which it prints untranslated.
pub(super) const BUSY: &str = "Device or resource busy";

/// How it says that the user may not mount there: its own words, and the C library's for `EACCES` and `EPERM`.
pub(super) const DENIED: [&str; 4] =
    ["no write access to mountpoint", "not owned by user", "Permission denied", "Operation not permitted"];

/// Mounts, and receives the device.
pub(super) fn mount(path: &Path, options: &[u8]) -> Result<OwnedFd, HelperError> {
    let deadline = Instant::now() + WAIT_MAX;
    let (ours, theirs) = socket_pair().map_err(|errno| HelperError::Run(errno.into()))?;
    let mut command = Command::new(PROGRAM);
    command.arg("-o").arg(OsStr::from_bytes(options)).arg("--").arg(OsStr::from_bytes(path_bytes(path)));
    command.env("_FUSE_COMMFD", SOCKET_IN_CHILD).stdin(theirs);
    let child = spawn(&mut command)?;
    // The command holds their end until it is dropped, and so the end of the stream would not be seen.
    drop(command);
    let received = receive(&ours);
    let finished = finish(child, deadline);
    // What the helper says explains what it did not send.
    finished?;
    received.map_err(|errno| HelperError::Run(errno.into()))?.ok_or(HelperError::NoDescriptor)
}

/// Unmounts.
pub(super) fn unmount(path: &Path, how: Unmount) -> Result<(), HelperError> {
    let deadline = Instant::now() + WAIT_MAX;
    let mut command = Command::new(PROGRAM);
    command.arg("-u");
    if how != Unmount::IfIdle {
        command.arg("-z");
    }
    command.arg("--").arg(OsStr::from_bytes(path_bytes(path))).stdin(Stdio::null());
    finish(spawn(&mut command)?, deadline)
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

fn socket_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&pair.0, Timeout::Recv, Some(WAIT_MAX))?;
    Ok(pair)
}

fn spawn(command: &mut Command) -> Result<Child, HelperError> {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => HelperError::NotInstalled,
        _ => HelperError::Run(source),
    })
}

/// The descriptor, or `None` if the helper closed its end without sending one.
fn receive(socket: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut payload = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut payload, &mut control, RecvFlags::CMSG_CLOEXEC))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}

/// Waits for the end of the helper, and ends it when it is late.
fn finish(mut child: Child, deadline: Instant) -> Result<(), HelperError> {
    let said = match child.stderr.take() {
        Some(stderr) => read_until(stderr, deadline),
        None => Ok(Vec::new()),
    };
    if said.is_err() {
        // It may be gone already, and then there is nothing to end.
        let _ = child.kill();
    }
    let status = child.wait().map_err(HelperError::Run)?;
    let said = said?;
    if status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&said);
    match text.trim() {
        "" => Err(HelperError::Refused(format!("{PROGRAM} failed: {status}"))),
        text => Err(HelperError::Refused(text.to_owned())),
    }
}

fn read_until(mut stderr: ChildStderr, deadline: Instant) -> Result<Vec<u8>, HelperError> {
    let mut said = Vec::new();
    let mut chunk = [0; 512];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = left.try_into().map_err(|_| HelperError::Late { waited: WAIT_MAX })?;
        let mut waited = [PollFd::new(&stderr, PollFlags::IN)];
        match poll(&mut waited, Some(&timeout)) {
            Ok(0) => return Err(HelperError::Late { waited: WAIT_MAX }),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(HelperError::Run(errno.into())),
        }
        match stderr.read(&mut chunk) {
            Ok(0) => return Ok(said),
            Ok(bytes) => {
                said.extend_from_slice(&chunk[..bytes]);
                said.truncate(STDERR_BYTES_MAX);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(HelperError::Run(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_name_cannot_add_options() {
        assert_eq!(escape(br"a,suid\x"), br"a\,suid\\x");
    }

    #[test]
    fn the_helpers_complaint_is_the_error() {
        let mut command = Command::new("sh");
        command.arg("-c").arg("echo 'fusermount3: not today' >&2; exit 1").stdin(Stdio::null());
        let refused = finish(spawn(&mut command).unwrap(), Instant::now() + WAIT_MAX).unwrap_err();
        assert_eq!(refused.to_string(), "fusermount3: not today");
    }

    #[test]
    fn a_helper_that_hangs_is_ended() {
        let mut command = Command::new("sh");
        command.arg("-c").arg("exec sleep 1000").stdin(Stdio::null());
        let late = finish(spawn(&mut command).unwrap(), Instant::now()).unwrap_err();
        assert!(matches!(late, HelperError::Late { .. }), "{late:?}");
    }
}
