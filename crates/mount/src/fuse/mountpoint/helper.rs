//! A program that mounts on behalf of a plain user: of libfuse on Linux, of macFUSE on macOS. Both are run alike.
//!
//! It is given one end of a socket pair, whose number is in an [environment variable](PASSED), and sends the descriptor of
//! the mounted device through it (`SCM_RIGHTS`). We give it the socket as standard input, which needs no
//! descriptor to be left open across the `exec` of whatever else this process starts meanwhile.

use super::system::{PACKAGE, PROGRAM};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};
use thiserror::Error;

/// The helper does a handful of system calls. It hangs only when the mount point is below another dead mount.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(20);

/// What of its error output is kept; it prints a line.
const STDERR_BYTES_MAX: usize = 4096;

/// The variable that tells the helper which descriptor the socket is, and that one: standard input.
pub(super) const PASSED: (&str, &str) = ("_FUSE_COMMFD", "0");

/// What went wrong with what mounts.
#[derive(Debug, Error)]
pub enum HelperError {
    /// It is not there.
    #[error("`{PROGRAM}` is not installed ({PACKAGE})")]
    NotInstalled,
    /// It could not be run.
    #[error("could not run `{PROGRAM}`")]
    Run(#[source] io::Error),
    /// It said no, in its own words.
    #[error("{0}")]
    Refused(String),
    /// It did not come back.
    #[error("`{PROGRAM}` did not finish within {waited:?}")]
    Late {
        /// How long.
        waited: Duration,
    },
    /// It succeeded and did not pass what it should.
    #[error("`{PROGRAM}` passed no descriptor")]
    NoDescriptor,
}

/// Our end, which waits no longer than [`WAIT_MAX`], and theirs.
pub(super) fn socket_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(WAIT_MAX))?;
    Ok((ours, theirs.into()))
}

pub(super) fn spawn(command: &mut Command) -> Result<Child, HelperError> {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => HelperError::NotInstalled,
        _ => HelperError::Run(source),
    })
}

/// The descriptor, or `None` if the helper closed its end without sending one.
pub(super) fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let (mut byte, mut descriptors) = ([0], VecDeque::new());
    loop {
        match supervisor::descriptor::receive(socket.as_fd(), &mut byte, &mut descriptors) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received.map(|_bytes| descriptors.pop_front()),
        }
    }
}

/// Waits for the end of the helper, and ends it when it is late.
pub(super) fn finish(mut child: Child, deadline: Instant) -> Result<(), HelperError> {
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
