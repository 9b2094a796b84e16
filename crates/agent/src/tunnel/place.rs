//! Where connections of a tunnel lead on this machine, and where they come in.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{CWD, FileType, Mode, chmodat, lstat, unlink};
use rustix::io::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use wire::agent::Failure;
use wire::agent::tunnel::BACKLOG;
use wire::endpoint::Endpoint;

use super::{Addresses, loopback};
use crate::failure::failure;
use crate::log::log;
use crate::sync::lock;

/// How long what a name means is believed: a load test is not a test of a name server.
const NAME_KEPT: Duration = Duration::from_secs(10);

/// The most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What a connection can be made to.
#[derive(Clone, Debug)]
pub(super) enum Address {
    Ip(SocketAddr),
    Unix(SocketAddrUnix),
}

impl Address {
    pub fn is_tcp(&self) -> bool {
        matches!(self, Address::Ip(_))
    }

    /// Begins to connect, and says whether that is done. `EAGAIN` of a unix socket where too many wait.
    pub fn connect(&self) -> Result<(OwnedFd, bool), Errno> {
        let socket = new_socket(match self {
            Address::Ip(SocketAddr::V4(_)) => AddressFamily::INET,
            Address::Ip(SocketAddr::V6(_)) => AddressFamily::INET6,
            Address::Unix(_) => AddressFamily::UNIX,
        })?;
        let begun = match self {
            Address::Ip(address) => connect(&socket, address),
            Address::Unix(address) => connect(&socket, address),
        };
        match begun {
            Ok(()) => Ok((socket, true)),
            Err(Errno::INPROGRESS | Errno::INTR) => Ok((socket, false)),
            Err(errno) => Err(errno),
        }
    }
}

fn new_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// What has come of looking a name up.
type Found = Result<Addresses, Failure>;

/// Finds out what the end of a tunnel means. A name is looked up by a thread of its own, one at a time, when somebody wants
/// it and what was found last is old.
pub(super) struct Names {
    end: Endpoint,
    known: Option<(Found, Instant)>,
    /// The connections that wait for an answer; there is a thread if there are some.
    waiting: Vec<u64>,
    answer: Arc<Mutex<Option<Found>>>,
    told: Arc<OwnedFd>,
}

impl Names {
    pub fn new(end: Endpoint) -> Result<Names, Errno> {
        let told = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Names { end, known: None, waiting: Vec::new(), answer: Arc::default(), told: Arc::new(told) })
    }

    /// Readable when there is something to [take](Names::take).
    pub fn told(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }

    /// The addresses for a connection; `None` when it has to wait for them.
    pub fn addresses(&mut self, id: u64) -> Option<Found> {
        let (host, port) = match &self.end {
            Endpoint::Unix { path } => {
                let address = SocketAddrUnix::new(path.as_bytes()).map_err(failure);
                return Some(address.map(|address| vec![Address::Unix(address)]));
            }
            Endpoint::Tcp { host, port } => (host, *port),
        };
        if host == "localhost" {
            return Some(Ok(loopback(port).into_iter().map(Address::Ip).collect()));
        }
        if let Ok(address) = host.parse() {
            return Some(Ok(vec![Address::Ip(SocketAddr::new(address, port))]));
        }
        if let Some((found, _)) = self.known.as_ref().filter(|(_, at)| at.elapsed() < NAME_KEPT) {
            return Some(found.clone());
        }
        if self.waiting.is_empty()
            && let Err(failure) = self.ask(host.clone(), port)
        {
            return Some(Err(failure));
        }
        self.waiting.push(id);
        None
    }

    fn ask(&self, host: String, port: u16) -> Result<(), Failure> {
        let (answer, told) = (self.answer.clone(), self.told.clone());
        let wait = move || {
            let found = look_up(&host).map(|found| {
                found.into_iter().map(|address| Address::Ip(SocketAddr::new(address, port))).collect()
            });
            *lock(&answer) = Some(found);
            // The counter is far from its limit: the write cannot fail.
            let _ = rustix::io::write(&*told, &1u64.to_ne_bytes());
        };
        let thread = std::thread::Builder::new().name("names".to_owned()).spawn(wait);
        thread.map(drop).map_err(|_| failure(Errno::AGAIN))
    }

    /// Takes what was found, and who waited for it.
    pub fn take(&mut self) -> Option<(Vec<u64>, Found)> {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&*self.told, &mut counter);
        let found = lock(&self.answer).take()?;
        // What was not found may be there the next time.
        self.known = found.is_ok().then(|| (found.clone(), Instant::now()));
        Some((std::mem::take(&mut self.waiting), found))
    }
}

/// Asks the machine's own `getent`: a static program cannot ask name services that are shared libraries there. It says the
/// address first in each line. Blocks, as long as name servers may take.
fn look_up(host: &str) -> Result<Vec<IpAddr>, Failure> {
    let cannot = |why: &dyn std::fmt::Display| {
        let detail = format!("could not find the host `{host}`: {why}");
        Failure { detail, ..failure(Errno::HOSTUNREACH) }
    };
    let mut getent = Command::new("getent");
    getent.args(["ahosts", host]).stdin(Stdio::null()).stderr(Stdio::null());
    let said = getent.output().map_err(|error| cannot(&format_args!("getent: {error}; give its address")))?;
    let mut found: Vec<IpAddr> = Vec::new();
    for line in String::from_utf8_lossy(&said.stdout).lines() {
        let address = line.split_whitespace().next().and_then(|first| first.parse().ok());
        if let Some(address) =
            address.filter(|address| found.len() < ADDRESSES_MAX && !found.contains(address))
        {
            found.push(address);
        }
    }
    if found.is_empty() { Err(cannot(&"its machine does not know it")) } else { Ok(found) }
}

/// Where connections come in. A unix socket goes with it.
pub(super) struct Listener {
    pub socket: OwnedFd,
    /// Where it listens.
    pub at: Endpoint,
    /// The unix socket that it has made, and which file that is.
    made: Option<(PathBuf, (u64, u64))>,
}

impl Listener {
    pub fn open(at: &Endpoint) -> Result<Listener, Failure> {
        match at {
            Endpoint::Tcp { host, port } => Listener::tcp(host, *port).map_err(failure),
            Endpoint::Unix { path } => Listener::unix(path.as_path()),
        }
    }

    pub fn is_tcp(&self) -> bool {
        matches!(self.at, Endpoint::Tcp { .. })
    }

    /// `localhost` is its first address that can be had.
    fn tcp(host: &str, port: u16) -> Result<Listener, Errno> {
        let addresses = match host {
            "localhost" => loopback(port).to_vec(),
            address => vec![SocketAddr::new(address.parse().map_err(|_| Errno::ADDRNOTAVAIL)?, port)],
        };
        let mut why = Errno::ADDRNOTAVAIL;
        for address in addresses {
            match listen_at(address) {
                Ok((socket, port)) => {
                    let at = Endpoint::Tcp { host: address.ip().to_string(), port };
                    return Ok(Listener { socket, at, made: None });
                }
                // The other family of the loopback is no answer to a port that is taken.
                Err(errno @ (Errno::ADDRINUSE | Errno::ACCESS)) => return Err(errno),
                Err(errno) => why = errno,
            }
        }
        Err(why)
    }

    /// Only this user can connect: the mode is set before anybody can. A socket that is there is replaced if it is this
    /// user's and nobody listens on it.
    fn unix(path: &Path) -> Result<Listener, Failure> {
        let about = |errno: Errno| Failure { detail: format!("`{}`", path.display()), ..failure(errno) };
        let address = SocketAddrUnix::new(path).map_err(about)?;
        let socket = new_socket(AddressFamily::UNIX).map_err(about)?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) if is_dead(path, &address) => {
                unlink(path).and_then(|()| bind(&socket, &address)).map_err(about)?;
            }
            bound => bound.map_err(about)?,
        }
        let made = lstat(path).map_err(about)?;
        let at = Endpoint::Unix { path: path.as_os_str().as_bytes().into() };
        let listener = Listener { socket, at, made: Some((path.to_owned(), (made.st_dev, made.st_ino))) };
        chmodat(CWD, path, Mode::RUSR | Mode::WUSR, rustix::fs::AtFlags::empty()).map_err(about)?;
        listen(&listener.socket, BACKLOG).map_err(about)?;
        Ok(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some((path, made)) = &self.made else { return };
        let is_ours = lstat(path).is_ok_and(|found| (found.st_dev, found.st_ino) == *made);
        if is_ours && let Err(errno) = unlink(path) {
            log(format_args!("the socket `{}` was not removed: {errno}", path.display()));
        }
    }
}

fn listen_at(address: SocketAddr) -> Result<(OwnedFd, u16), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = new_socket(family)?;
    set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    let bound: SocketAddr = rustix::net::getsockname(&socket)?.try_into().map_err(|_| Errno::AFNOSUPPORT)?;
    Ok((socket, bound.port()))
}

/// Whether a path is a socket of this user's on which nobody listens.
fn is_dead(path: &Path, address: &SocketAddrUnix) -> bool {
    let is_own = lstat(path).is_ok_and(|found| {
        FileType::from_raw_mode(found.st_mode) == FileType::Socket
            && found.st_uid == rustix::process::geteuid().as_raw()
    });
    let refuses = || new_socket(AddressFamily::UNIX).and_then(|socket| connect(&socket, address));
    is_own && refuses() == Err(Errno::CONNREFUSED)
}
