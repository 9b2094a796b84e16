//! Directories and sockets for one user only.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::{SocketAddrUnix, connect};

use crate::system::{self, through};

/// The longest path of a unix socket, without its NUL.
pub const SOCKET_PATH_BYTES_MAX: usize = system::SOCKET_PATH_BYTES_MAX;

/// A private place could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A directory could not be made or looked at.
    #[error("could not make the directory `{}`", path.display())]
    Directory {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is there, and somebody else's, or no directory.
    #[error("`{}` is not a directory of this user", path.display())]
    Foreign {
        /// Its path.
        path: PathBuf,
    },
    /// The socket could not be bound.
    #[error("could not listen on `{}`", path.display())]
    Listen {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes `path` a directory that only this user can look into, with its missing parents, which are as private. One that
/// is there must be this user's and no link; its permissions are narrowed.
pub fn private_directory(path: &Path) -> Result<(), SocketError> {
    let failed = |source: io::Error| SocketError::Directory { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(SocketError::Foreign { path: path.to_owned() });
    }
    if metadata.mode() & 0o7777 != 0o700 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// Listens on a socket that only this user can connect to. A socket left over there is replaced, so the caller must
/// hold the lock that says nobody listens on it. The directory must be private: until its mode is set, the socket's is
/// the umask's.
pub fn listen(path: &Path) -> Result<std::os::unix::net::UnixListener, SocketError> {
    let failed = |source: io::Error| SocketError::Listen { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Listens on a socket called `name` in a private directory, whose path may on Linux be longer than a socket's. One that is
/// there is replaced in one step: whoever connects finds the old or the new one, never none. Blocks when it accepts.
pub fn listen_in(directory: &Path, name: &str) -> Result<std::os::unix::net::UnixListener, SocketError> {
    let failed = |source: io::Error| SocketError::Listen { path: directory.join(name), source };
    let handle = std::fs::File::open(directory).map_err(failed)?;
    let new = format!("{name}.{}", std::process::id());
    match std::fs::remove_file(directory.join(&new)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener =
        std::os::unix::net::UnixListener::bind(through(&handle, directory, &new)).map_err(failed)?;
    std::fs::set_permissions(directory.join(&new), Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(directory.join(&new), directory.join(name)).map_err(failed)?;
    Ok(listener)
}

/// Connects to the socket called `name` in `directory`, whose path may on Linux be longer than a socket's. Does not wait for
/// anybody: whoever listens accepts it when he comes to it, and one who has let too many wait already is not reached, with
/// [`io::ErrorKind::WouldBlock`]. The stream blocks.
pub fn connect_in(directory: &Path, name: &str) -> io::Result<std::os::unix::net::UnixStream> {
    let handle = std::fs::File::open(directory)?;
    let address = SocketAddrUnix::new(through(&handle, directory, name))?;
    let socket = system::stream_socket()?;
    connect(&socket, &address)?;
    let stream = std::os::unix::net::UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Who is on the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The process that connected, or that called `listen`.
    pub pid: u32,
}

/// A unix stream socket that is neither bound nor connected, does not block, and that no child inherits.
pub fn unbound() -> io::Result<OwnedFd> {
    system::stream_socket()
}

/// Asks the kernel who is on the other end.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    system::peer(socket.as_fd())
}

/// Whether `peer` may speak for this process's user: it is that user, or root, who could anyway.
pub fn is_own(peer: &Peer) -> bool {
    peer.uid == rustix::process::geteuid().as_raw() || peer.uid == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_private_directory_is_made_and_narrowed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b");
        private_directory(&path).unwrap();
        assert_eq!((mode(&path), mode(&scratch.path().join("a"))), (0o700, 0o700));
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        private_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_link_or_a_file_in_its_place_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let (link, file) = (scratch.path().join("link"), scratch.path().join("file"));
        std::os::unix::fs::symlink(scratch.path(), &link).unwrap();
        std::fs::write(&file, "").unwrap();
        for path in [link, file] {
            assert!(
                matches!(private_directory(&path), Err(SocketError::Foreign { .. })),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn a_socket_is_private_and_knows_its_peer() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("s");
        let listener = listen(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        for socket in [client, server] {
            let peer = peer(&socket).unwrap();
            assert_eq!(peer.pid, std::process::id());
            assert!(is_own(&peer));
        }
    }

    #[test]
    fn a_socket_in_a_deep_directory_is_reached_and_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = scratch.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        assert!(connect_in(&deep, "s").is_err());
        let first = listen_in(&deep, "s").unwrap();
        assert_eq!(mode(&deep.join("s")), 0o600);
        let second = listen_in(&deep, "s").unwrap();
        drop(first);
        let client = connect_in(&deep, "s").unwrap();
        let (served, _) = second.accept().unwrap();
        assert_eq!(peer(&client).unwrap().pid, peer(&served).unwrap().pid);
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 1);
    }

    #[test]
    fn whoever_accepts_nobody_is_not_waited_for() {
        let scratch = tempfile::tempdir().unwrap();
        let listener = listen_in(scratch.path(), "s").unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            match connect_in(scratch.path(), "s") {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 10, "there is no end of them");
        };
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_socket_left_over_is_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("s");
        drop(listen(&path).unwrap());
        assert!(std::os::unix::net::UnixStream::connect(&path).is_err());
        let _listener = listen(&path).unwrap();
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    }
}
