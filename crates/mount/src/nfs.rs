//! The NFS backend: NFS version 3 and its MOUNT protocol (RFC 1813) on one port of the loopback address, for hosts
//! without FUSE, and for any NFS client.
//!
//! It is thin: what files are, what is cached and what is written when is the business of [`vfs`]. Here is what the
//! protocol needs and a file system with opens does not have:
//!
//! - **Handles** that outlive a worker ([`handle`], [`places`]): the file's identity, and a table on disk that says where
//!   it was last seen.
//! - **Open files** without an open ([`open_files`]): kept for as long as they are used.
//! - **Permissions**, which no kernel has checked before ([`permission`]), of users whom no kernel vouches for ([`peer`]).
//! - **Replies kept** for calls that are sent again ([`replays`]).
//!
//! **Writes.** An unstable WRITE is answered as soon as `vfs` has taken it; COMMIT, and a WRITE that asks for stable
//! storage, return after the machine has synced. The write verifier is random for each server: a client that sees it
//! change has unstable writes which the dead worker may have taken with it, and sends them again. A write that fails
//! after it was answered is reported by the next WRITE or COMMIT of its file, even if the file was closed here in
//! between.
//!
//! **Exclusive create.** The verifier is stored in the new file's access and modification times, as other servers do, so
//! that a CREATE which is sent again finds its own file, also after a restart; the client sets the times next.
//!
//! **Listings.** Cookies are the machine's and stay right while names change, so the cookie verifier is always zero.
//!
//! NFS has no notifications: clients poll, so [`NoNotices`] drops what `vfs` takes back.
//!
//! It has no locks of its own (NLM): mount with `nolock`. It has no extended attributes, no `O_APPEND`, no holes: the
//! protocol has none.
//!
//! No bytes from a client make it panic, hang, or hold more than [`limits`] says.

mod connection;
mod convert;
mod directories;
mod dispatch;
mod exports;
mod handle;
pub mod limits;
pub mod mountpoint;
mod nodes;
mod open_files;
pub(crate) mod peer;
mod permission;
mod places;
mod procedures;
mod replays;
#[doc(hidden)]
pub mod rpc;
mod status;
mod xdr;

#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use vfs::source::Source;
use vfs::table::Notice;
use vfs::{Kernel, Vfs};

pub use permission::Permissions;
pub use places::PlacesError;

use crate::{Counts, Progress};
use convert::FileSystem;
use limits::{IDLE_MAX, PREDECESSOR_INTERVAL, PREDECESSOR_WAIT};
use open_files::{OpenDirectories, OpenFiles};
use places::Places;
use replays::Replays;

/// The path of the one export: what a client mounts. Not `/`: libnfs takes an export of that name for one that is
/// mounted below every path.
pub const EXPORT: &str = "/stead";

/// The kernel of a mount that is served by NFS only: it cannot be told of changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNotices;

impl Kernel for NoNotices {
    fn notify(&self, _notices: Vec<Notice>) {}
}

/// Whom a server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The owner of the mount, and root.
    Owner,
    /// Every user of this computer.
    Everybody,
}

/// Whether files can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They can.
    ReadWrite,
    /// Every change is refused with `EROFS`.
    ReadOnly,
}

/// How to serve a mount.
#[derive(Debug)]
pub struct NfsOptions {
    /// Where to listen: a socket of the loopback address, from [`listen`] or inherited from the worker before.
    pub listener: TcpListener,
    /// The mount's own directory, which outlives the worker.
    pub state: PathBuf,
    /// The user and group of the mount's owner.
    pub owner: (u32, u32),
    /// Whom to serve.
    pub audience: Audience,
    /// Who decides what they may do. For [`Audience::Everybody`] it is always the mode bits.
    pub permissions: Permissions,
    /// Whether they may change anything.
    pub access: Access,
    /// Told of the first call that was answered.
    pub progress: Progress,
}

/// Why a mount cannot be served.
#[derive(Debug, Error)]
pub enum NfsError {
    /// No socket.
    #[error("could not listen on port {port} of the loopback address")]
    Listen {
        /// The wanted port, 0 for any.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket given is not one of the loopback address.
    #[error("`{0}` is not a loopback address: NFS is not served to other computers")]
    NotLoopback(SocketAddr),
    /// The socket given is of no use.
    #[error("could not use the listening socket")]
    Listener(#[source] io::Error),
    /// The table of file handles is of no use.
    #[error(transparent)]
    Places(#[from] PlacesError),
    /// No random numbers.
    #[error("could not read random numbers")]
    Random(#[source] io::Error),
    /// The mount has no root.
    #[error("the root of the mount is gone")]
    Root(#[source] vfs::errno::Errno),
}

/// Listens on `port` of the loopback address, or on any if it is 0.
pub fn listen(port: u16) -> Result<TcpListener, NfsError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|source| NfsError::Listen { port, source })
}

/// Whom is served what: the part of [`NfsOptions`] that lasts.
#[derive(Clone, Copy, Debug)]
struct Served {
    owner: (u32, u32),
    audience: Audience,
    permissions: Permissions,
    access: Access,
}

/// What all connections share.
struct Server<S: Source> {
    vfs: Arc<Vfs<S>>,
    served: Served,
    file_system: FileSystem,
    /// The key in all handles.
    key: u64,
    write_verifier: [u8; 8],
    places: Mutex<Places>,
    files: OpenFiles<S>,
    directories: OpenDirectories<S>,
    replays: Replays,
    progress: Progress,
    counts: Arc<Counts>,
}

impl<S: Source> Server<S> {
    fn new(
        vfs: Arc<Vfs<S>>,
        places: Places,
        served: Served,
        progress: Progress,
    ) -> Result<Server<S>, NfsError> {
        // To the machine everybody is the agent's user, so it cannot tell the owner of the mount from others.
        let permissions = match served.audience {
            Audience::Owner => served.permissions,
            Audience::Everybody => Permissions::Modes,
        };
        let served = Served { permissions, ..served };
        let mut write_verifier = [0; 8];
        places::random(&mut write_verifier).map_err(NfsError::Random)?;
        let key = places.key();
        let root = vfs.root().map_err(NfsError::Root)?;
        Ok(Server {
            served,
            file_system: FileSystem { fsid: key, root_device: root.device },
            key,
            write_verifier,
            places: Mutex::new(places),
            files: OpenFiles::new(vfs.clone()),
            directories: OpenDirectories::new(vfs.clone()),
            replays: Replays::default(),
            progress,
            counts: Arc::default(),
            vfs,
        })
    }
}

/// A server that runs. [`NfsServer::stop`] ends it; dropped, it goes on until the runtime ends.
#[derive(Debug)]
pub struct NfsServer {
    port: u16,
    root: Vec<u8>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    counts: Arc<Counts>,
}

/// Serves `vfs`. Returns once connections are accepted.
pub async fn serve<S: Source>(vfs: Arc<Vfs<S>>, options: NfsOptions) -> Result<NfsServer, NfsError> {
    let address = options.listener.local_addr().map_err(NfsError::Listener)?;
    if !address.ip().is_loopback() {
        return Err(NfsError::NotLoopback(address));
    }
    options.listener.set_nonblocking(true).map_err(NfsError::Listener)?;
    let listener = tokio::net::TcpListener::from_std(options.listener).map_err(NfsError::Listener)?;
    let served = Served {
        owner: options.owner,
        audience: options.audience,
        permissions: options.permissions,
        access: options.access,
    };
    let places = open_places(&options.state).await?;
    let server = Arc::new(Server::new(vfs, places, served, options.progress)?);
    tracing::debug!(%address, files = server.places.lock().count(), "serving NFS");
    let (stop, stopping) = watch::channel(false);
    let counts = Arc::clone(&server.counts);
    let root = handle::encode(server.key, server.vfs.root().map_err(NfsError::Root)?);
    let task = tokio::spawn(run(server, listener, stopping));
    Ok(NfsServer { port: address.port(), root, stop, task, counts })
}

/// Opens the table of file handles when nobody has it any more: a predecessor has it until its last thread has ended.
async fn open_places(state: &Path) -> Result<Places, PlacesError> {
    let until = Instant::now() + PREDECESSOR_WAIT;
    loop {
        match Places::open(state) {
            Err(PlacesError::InUse(_)) if Instant::now() < until => {
                tokio::time::sleep(PREDECESSOR_INTERVAL).await
            }
            opened => return opened,
        }
    }
}

async fn run<S: Source>(
    server: Arc<Server<S>>,
    listener: tokio::net::TcpListener,
    mut stopping: watch::Receiver<bool>,
) {
    let sweeping = tokio::spawn(sweep(server.clone()));
    connection::accept_all(&server, listener, &mut stopping).await;
    sweeping.abort();
    server.directories.close_all();
    server.files.close_all().await;
}

/// Closes, again and again, what has not been used for a while.
async fn sweep<S: Source>(server: Arc<Server<S>>) {
    let mut interval = tokio::time::interval(IDLE_MAX / 2);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let now = Instant::now();
        server.directories.sweep(now);
        server.files.sweep(now).await;
    }
}

impl NfsServer {
    /// The port of both programs, NFS and MOUNT.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The handle of the root, as the MOUNT protocol gives it.
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// Calls so far, but for those that do nothing.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// The path a client mounts.
    pub fn export(&self) -> &'static str {
        EXPORT
    }

    /// Where libnfs and its programs find the mount.
    pub fn url(&self) -> String {
        let port = self.port;
        format!("nfs://127.0.0.1{EXPORT}?version=3&nfsport={port}&mountport={port}")
    }

    /// Accepts nothing more, finishes what is under way within [`limits::STOP_WAIT_MAX`], closes the connections, syncs and
    /// closes all files. What writers were told is taken is at the machine after this, or was reported.
    pub async fn stop(self) {
        // An error says that the server has ended already.
        let _ended = self.stop.send(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the NFS server ended by itself");
        }
    }
}
