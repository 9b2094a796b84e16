//! Where clients come in: the socket that this daemon makes, or the one that a service manager has made for it.
//!
//! ```text
//!                  LISTEN_FDS                          who makes it   who removes it
//!   begin ──no──► bind under the private directory     the daemon     the daemon, as it ends
//!     └────yes──► take descriptor 3, if it is ours     the manager    the manager: clients that come when no daemon
//!                                                                     runs wait in it, and are what starts the next
//! ```
//!
//! A manager's socket is served only if it is the one at which this daemon's clients look, listens, and lies where nobody
//! else gets: the check of each client's user is the same for both. See `sd_listen_fds(3)` and `sd_notify(3)`.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;
use sd_notify::NotifyState;
use supervisor::socket::{SocketError, listen};

use crate::system;

/// The socket that clients connect to.
#[derive(Debug)]
pub struct Endpoint {
    listener: UnixListener,
    path: PathBuf,
    maker: Maker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    Daemon,
    Manager,
}

/// There is no socket to serve.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// It could not be made.
    #[error(transparent)]
    Own(#[from] SocketError),
    /// A service manager says that it has made some, and they cannot be had.
    #[error("the service manager's sockets could not be taken")]
    Inherited(#[source] io::Error),
    /// A service manager has made more than the one there is use for.
    #[error("the service manager gave {0} sockets; there is use for one")]
    Count(usize),
    /// What a service manager has made is no listening unix socket, or clients look elsewhere.
    #[error("the service manager's socket is not one that listens on `{}`, where clients look", path.display())]
    Elsewhere {
        /// Where they look.
        path: PathBuf,
    },
}

/// Takes what a service manager has made for this process; `None` if there is nothing. To be called once, before this
/// process has opened anything.
pub fn inherited() -> Result<Option<OwnedFd>, EndpointError> {
    let mut numbers = sd_notify::listen_fds().map_err(EndpointError::Inherited)?;
    match (numbers.len(), numbers.next()) {
        // SAFETY: whoever started this process says that the number is a descriptor which it has made for it, and
        // nothing else has been opened that could have taken it.
        (1, Some(number)) => Ok(Some(unsafe { OwnedFd::from_raw_fd(number) })),
        (0, _) => Ok(None),
        (count, _) => Err(EndpointError::Count(count)),
    }
}

impl Endpoint {
    /// The socket at `path`, in a private directory: `inherited` or made here, where one that was left is replaced. The
    /// caller holds the lock that says nobody else listens there.
    pub fn open(path: PathBuf, inherited: Option<OwnedFd>) -> Result<Endpoint, EndpointError> {
        let Some(inherited) = inherited else {
            return Ok(Endpoint { listener: listen(&path)?, path, maker: Maker::Daemon });
        };
        if !is_listener(&inherited) {
            return Err(EndpointError::Elsewhere { path });
        }
        let listener = UnixListener::from(inherited);
        if !is_at(&listener, &path) {
            return Err(EndpointError::Elsewhere { path });
        }
        listener.set_nonblocking(true).map_err(EndpointError::Inherited)?;
        Ok(Endpoint { listener, path, maker: Maker::Manager })
    }

    /// What accepts clients, for the runtime.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Ends it. Whoever connects from now on finds nobody and starts the next daemon, or waits for the one that the
    /// manager starts.
    pub fn close(&self) {
        if self.maker == Maker::Daemon
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "the socket was not removed");
        }
    }
}

fn is_listener(socket: &OwnedFd) -> bool {
    socket_type(socket) == Ok(SocketType::STREAM) && system::listens(socket)
}

/// Whether it is bound there, whatever the directory is called. Fails for a socket of another family.
fn is_at(listener: &UnixListener, path: &Path) -> bool {
    let place = |path: &Path| Some((path.parent()?.canonicalize().ok()?, path.file_name()?.to_owned()));
    let bound = listener.local_addr().ok();
    let bound = bound.as_ref().and_then(|address| place(address.as_pathname()?));
    bound.is_some() && bound == place(path)
}

/// Tells a service manager, if one started this daemon, that clients are served.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells it that the daemon ends.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon.sock");
        (directory, path)
    }

    fn made_at(path: &Path) -> Option<OwnedFd> {
        Some(UnixListener::bind(path).unwrap().into())
    }

    #[test]
    fn a_socket_of_its_own_replaces_what_was_left_and_goes_with_it() {
        let (_directory, path) = place();
        drop(made_at(&path));
        let endpoint = Endpoint::open(path.clone(), None).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        drop(UnixStream::connect(&path).unwrap());
        endpoint.close();
        assert!(!path.exists());
    }

    #[test]
    fn a_managers_socket_is_taken_as_it_is_and_left_there() {
        let (_directory, path) = place();
        let inherited = made_at(&path);
        let before = path.metadata().unwrap().ino();
        let endpoint = Endpoint::open(path.clone(), inherited).unwrap();
        assert_eq!(path.metadata().unwrap().ino(), before);
        let client = UnixStream::connect(&path).unwrap();
        endpoint.listener().unwrap().accept().unwrap();
        drop(client);
        endpoint.close();
        assert!(path.exists());
    }

    #[test]
    fn a_managers_socket_is_known_by_its_directory_whatever_that_is_called() {
        let (directory, path) = place();
        let other = directory.path().parent().unwrap().join(format!("{}-link", directory.path().display()));
        std::os::unix::fs::symlink(directory.path(), &other).unwrap();
        let outcome = Endpoint::open(other.join("daemon.sock"), made_at(&path));
        std::fs::remove_file(&other).unwrap();
        outcome.unwrap();
    }

    #[test]
    fn what_is_no_listening_socket_where_clients_look_is_refused() {
        let (directory, path) = place();
        let refused = |inherited: Option<OwnedFd>| {
            let error = Endpoint::open(path.clone(), inherited).unwrap_err();
            assert!(matches!(error, EndpointError::Elsewhere { .. }), "{error}");
        };
        refused(made_at(&directory.path().join("other.sock")));
        refused(Some(std::fs::File::open("/dev/null").unwrap().into()));
        refused(Some(UnixStream::pair().unwrap().0.into()));
        refused(Some(UnixDatagram::unbound().unwrap().into()));
        refused(Some(std::net::TcpListener::bind("127.0.0.1:0").unwrap().into()));
        assert!(!path.exists());
    }
}
