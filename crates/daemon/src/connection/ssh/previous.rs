//! What a previous life of the daemon has left behind.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use remote::transport::ssh::ControlSocket;
use rustix::process::{Pid, Signal};

/// How long masters may take to end, all of them together. One that is told to does not wait for its machine.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Ends the masters that a previous life of the daemon left behind, but for those of the machines whose first master's
/// socket is among `needed`, waits until they have ended, and removes their sockets and those for questions and
/// requests. They are in a directory that only this user can write to, so whoever listens there is ours. Must run before
/// anything listens there for this life.
pub fn end_masters(runtime_dir: &Path, needed: &[PathBuf]) -> io::Result<()> {
    let mut sockets = Vec::new();
    let mut ending = Vec::new();
    for entry in std::fs::read_dir(runtime_dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_socket() {
            continue;
        }
        match ControlSocket::of(&entry.file_name()) {
            Some(ControlSocket::Master) if is_of(&entry.path(), needed) => continue,
            Some(ControlSocket::Master) => ending.extend(Ending::begin(entry.path())),
            Some(ControlSocket::Requests) => {}
            None if is_for_questions(&entry.file_name()) => {}
            None => continue,
        }
        sockets.push(entry.path());
    }
    let deadline = Instant::now() + END_TIMEOUT;
    for master in ending {
        master.wait(deadline);
    }
    for path in sockets {
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "an old socket was not removed"),
        }
    }
    Ok(())
}

/// Whether a master's socket is that of a first one, or is beside it.
fn is_of(path: &Path, firsts: &[PathBuf]) -> bool {
    // The number of a further master follows a dot.
    firsts.iter().any(|first| path == first || path.with_extension("") == *first)
}

/// Whether a login had its questions put there.
fn is_for_questions(name: &OsStr) -> bool {
    let hash = name.to_str().and_then(|name| name.strip_prefix('a'));
    hash.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A master that has been told to end.
struct Ending {
    path: PathBuf,
    pid: Pid,
    /// The other end is the master's: it holds it until it has ended, and takes its socket away before.
    stream: UnixStream,
}

impl Ending {
    /// Tells it; none if nobody listens any more.
    fn begin(path: PathBuf) -> Option<Ending> {
        let stream = UnixStream::connect(&path).ok()?;
        let peer = supervisor::socket::peer(&stream).ok()?;
        let ending = Ending { path, pid: Pid::from_raw(i32::try_from(peer.pid).ok()?)?, stream };
        tracing::info!(pid = ending.pid.as_raw_nonzero().get(), "ending an ssh of a previous life");
        ending.signal(Signal::TERM);
        Some(ending)
    }

    /// Waits until it has ended, and kills it at the deadline.
    fn wait(mut self, deadline: Instant) {
        if self.ends_by(deadline) {
            return;
        }
        tracing::warn!(path = %self.path.display(), "an ssh of a previous life does not end: killing it");
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // It holds the other end of our socket, so the number is still its own.
        if let Err(error) = rustix::process::kill_process(self.pid, signal) {
            tracing::debug!(%error, "an ssh of a previous life has ended");
        }
    }

    /// Whether the stream comes to its end by then. What the master says before is of no interest.
    fn ends_by(&mut self, deadline: Instant) -> bool {
        let mut said = [0; 256];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return false;
            }
            match self.stream.read(&mut said) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn sockets_of_the_dead_are_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let hash = "0123456789abcdef";
        let dead = [format!("s{hash}"), format!("s{hash}.1"), format!("s{hash}.31"), format!("s{hash}.more")];
        for name in ["s00000000000000ff", "s00000000000000ff.2", "s00000000000000ff.more"] {
            drop(UnixListener::bind(path(name)).unwrap());
        }
        for name in dead.iter().map(String::as_str).chain(["a0123456789abcdef", "daemon.sock", "s", "sab.1"])
        {
            drop(UnixListener::bind(path(name)).unwrap());
        }
        for name in ["s0123456789abcde0", "ssh_config"] {
            std::fs::write(path(name), "").unwrap();
        }
        end_masters(directory.path(), &[path("s00000000000000ff")]).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let kept = ["s00000000000000ff", "s00000000000000ff.2"];
        assert_eq!(left[2..4], kept, "what is needed stays");
        left.retain(|name| kept.iter().all(|kept| name != kept));
        assert_eq!(left, ["daemon.sock", "s", "s0123456789abcde0", "sab.1", "ssh_config"]);
    }
}
