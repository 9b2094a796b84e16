//! Where connections of a tunnel come in on this computer, and where they lead. What the far end of a tunnel does by its
//! poll loop is done here within the runtime; the rules are the same.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{set_socket_keepalive, set_socket_linger};
use rustix::net::{SocketAddrUnix, bind, listen};
use supervisor::socket::unbound;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use wire::agent::tunnel::BACKLOG;
use wire::api::{ErrorKind, ErrorObject};
use wire::endpoint::Endpoint;

use crate::failure::from_io;

/// How long nobody is accepted after that has failed: it fails when there are too many descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a connection is tried again to a unix socket where too many wait, and how many times: for ten seconds.
const RETRIES: (Duration, u32) = (Duration::from_millis(20), 500);

/// A connection at this end. One that is dropped before it has come to its end is reset, where that can be.
pub(super) struct Socket {
    kind: Kind,
    is_complete: bool,
}

enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn tcp(stream: TcpStream) -> Socket {
        // Without them it works too.
        let _ = (stream.set_nodelay(true), set_socket_keepalive(&stream, true));
        Socket { kind: Kind::Tcp(stream), is_complete: false }
    }

    fn unix(stream: UnixStream) -> Socket {
        Socket { kind: Kind::Unix(stream), is_complete: false }
    }

    /// Connects to an end of a tunnel.
    pub async fn connect(to: &Endpoint) -> io::Result<Socket> {
        let path = match to {
            Endpoint::Tcp { host, port } if host == "localhost" => {
                return TcpStream::connect(&super::place::loopback(*port)[..]).await.map(Socket::tcp);
            }
            Endpoint::Tcp { host, port } => {
                return TcpStream::connect((host.as_str(), *port)).await.map(Socket::tcp);
            }
            Endpoint::Unix { path } => path.as_path(),
        };
        let mut tries = 0;
        loop {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < RETRIES.1 => {
                    tries += 1;
                    tokio::time::sleep(RETRIES.0).await;
                }
                connected => return connected.map(Socket::unix),
            }
        }
    }

    pub async fn readable(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(stream) => stream.readable().await,
            Kind::Unix(stream) => stream.readable().await,
        }
    }

    pub async fn writable(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(stream) => stream.writable().await,
            Kind::Unix(stream) => stream.writable().await,
        }
    }

    /// Reads once into room for `most` bytes.
    pub fn try_read(&self, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(most);
        let mut room = bytes::BufMut::limit(&mut bytes, most);
        match &self.kind {
            Kind::Tcp(stream) => stream.try_read_buf(&mut room)?,
            Kind::Unix(stream) => stream.try_read_buf(&mut room)?,
        };
        Ok(bytes)
    }

    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.kind {
            Kind::Tcp(stream) => stream.try_write(bytes),
            Kind::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Nothing more will be written.
    pub fn shut(&self) -> io::Result<()> {
        let socket = match &self.kind {
            Kind::Tcp(stream) => stream.as_fd(),
            Kind::Unix(stream) => stream.as_fd(),
        };
        Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Write)?)
    }

    /// Both ends have done with it.
    pub fn complete(mut self) {
        self.is_complete = true;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Kind::Tcp(stream) = &self.kind
            && !self.is_complete
        {
            // Otherwise it would be closed as if all had come that there is.
            let _ = set_socket_linger(stream, Some(Duration::ZERO));
        }
    }
}

/// The loopback, as both families have it.
fn loopback(port: u16) -> [SocketAddr; 2] {
    use std::net::{Ipv4Addr, Ipv6Addr};
    [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
}

/// Where connections come in. A unix socket goes with it.
pub(super) struct Listener {
    kind: ListenerKind,
    /// Where it listens.
    pub at: Endpoint,
    _made: Option<Made>,
}

enum ListenerKind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub fn open(at: &Endpoint) -> Result<Listener, ErrorObject> {
        let opened = match at {
            Endpoint::Tcp { host, port } => Listener::tcp(host, *port),
            Endpoint::Unix { path } => Listener::unix(path.as_path()),
        };
        opened.map_err(|error| {
            let error = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    let message = format!("could not listen on `{at}`: it is in use already");
                    ErrorObject::new(ErrorKind::Conflict, message)
                }
                _ => from_io(&format!("could not listen on `{at}`"), &error),
            };
            match at {
                Endpoint::Tcp { .. } if error.kind() == ErrorKind::Conflict => {
                    error.with_hint("choose another port, or 0 for any that is free")
                }
                _ => error,
            }
        })
    }

    /// `localhost` is its first address that can be had.
    fn tcp(host: &str, port: u16) -> io::Result<Listener> {
        let addresses = match host.parse() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => loopback(port).to_vec(),
        };
        let mut why = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match listen_at(address) {
                Ok(listener) => {
                    let bound = listener.local_addr()?;
                    let at = Endpoint::Tcp { host: bound.ip().to_string(), port: bound.port() };
                    return Ok(Listener { kind: ListenerKind::Tcp(listener), at, _made: None });
                }
                // The other family of the loopback is no answer to a port that is taken.
                Err(error) if error.kind() != io::ErrorKind::AddrNotAvailable => return Err(error),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Only this user can connect: the mode is set before anybody can. A socket that is there is replaced if it is this
    /// user's and nobody listens on it.
    fn unix(path: &Path) -> io::Result<Listener> {
        let address = SocketAddrUnix::new(path)?;
        let socket = unbound()?;
        match bind(&socket, &address) {
            Err(rustix::io::Errno::ADDRINUSE) if is_dead(path) => {
                std::fs::remove_file(path)?;
                bind(&socket, &address)?;
            }
            bound => bound?,
        }
        let found = std::fs::symlink_metadata(path)?;
        // From here on it is removed again whatever happens.
        let made = Made { path: path.to_owned(), file: (found.dev(), found.ino()) };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listen(&socket, BACKLOG)?;
        let listener = UnixListener::from_std(socket.into())?;
        let at = Endpoint::Unix { path: path.to_owned().into() };
        Ok(Listener { kind: ListenerKind::Unix(listener), at, _made: Some(made) })
    }

    /// The next connection. May be cancelled.
    pub async fn accept(&self) -> Socket {
        loop {
            let accepted = match &self.kind {
                ListenerKind::Tcp(listener) => listener.accept().await.map(|(stream, _)| Socket::tcp(stream)),
                ListenerKind::Unix(listener) => {
                    listener.accept().await.map(|(stream, _)| Socket::unix(stream))
                }
            };
            match accepted {
                Ok(socket) => return socket,
                Err(error) => {
                    tracing::warn!(at = %self.at, %error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// A unix socket that was made, and is removed with this if it is still that file.
struct Made {
    path: PathBuf,
    /// Its device and number.
    file: (u64, u64),
}

impl Drop for Made {
    fn drop(&mut self) {
        let Made { path, file } = self;
        let is_ours =
            std::fs::symlink_metadata(&*path).is_ok_and(|found| (found.dev(), found.ino()) == *file);
        if is_ours && let Err(error) = std::fs::remove_file(&*path) {
            tracing::warn!(path = %path.display(), %error, "a tunnel's socket was not removed");
        }
    }
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG.unsigned_abs())
}

/// Whether a path is a socket of this user's on which nobody listens.
fn is_dead(path: &Path) -> bool {
    let is_own = std::fs::symlink_metadata(path).is_ok_and(|found| {
        found.file_type().is_socket() && found.uid() == rustix::process::geteuid().as_raw()
    });
    let connected =
        unbound().and_then(|socket| Ok(rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?));
    is_own && connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> Endpoint {
        Endpoint::Unix { path: path.to_owned().into() }
    }

    #[tokio::test]
    async fn a_unix_socket_is_private_replaces_a_dead_one_and_goes_with_its_listener() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::open(&unix(&path)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let refused = Listener::open(&unix(&path)).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_not_our_dead_socket_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let (file, link) = (scratch.path().join("file"), scratch.path().join("link"));
        std::fs::write(&file, "mine").unwrap();
        std::os::unix::fs::symlink(scratch.path().join("nowhere"), &link).unwrap();
        for path in [&file, &link] {
            assert_eq!(Listener::open(&unix(path)).err().unwrap().kind(), ErrorKind::Conflict);
            assert!(path.symlink_metadata().is_ok());
        }
        // One that somebody else has put there meanwhile is not removed.
        let path = scratch.path().join("s");
        let listener = Listener::open(&unix(&path)).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another's").unwrap();
        drop(listener);
        assert_eq!(std::fs::read(&path).unwrap(), b"another's");
    }

    #[tokio::test]
    async fn a_port_is_the_loopbacks_and_one_that_is_taken_is_a_conflict() {
        let any = Endpoint::Tcp { host: "localhost".to_owned(), port: 0 };
        let listener = Listener::open(&any).unwrap();
        let Endpoint::Tcp { host, port } = &listener.at else { panic!("{}", listener.at) };
        assert!(host == "127.0.0.1" && *port != 0, "{host}");
        let refused = Listener::open(&listener.at).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
        assert!(refused.message.contains("in use"), "{refused}");
    }
}
