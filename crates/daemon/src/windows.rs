//! The daemon of Windows: what `cloud-files` needs, said to clients in the words of every daemon. It is checked, and has never been run
//! on a real Windows.
//!
//! | part | is |
//! |---|---|
//! | `endpoint` | the named pipe where clients come in, which is its user's alone |
//! | `session` | one client and what it asks for |
//! | `system` | what is asked of Windows about this process |
//! | `mounts` | the mounts: a thread of this process each, and a directory of the state that outlives it |
//!
//! Mounts are served by the daemon's own process: Windows keeps a tree's files itself, and whoever wants bytes while nobody serves is
//! told so. Machines are reached by [`mount::far::ssh`].

mod endpoint;
mod mounts;
mod session;
mod system;

use std::fs::{File, TryLockError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use wire::api::time::Timestamp;
use wire::api::{ErrorKind, ErrorObject};
use wire::paths::Paths;

use endpoint::Endpoint;
use mounts::Mounts;

/// Clients served at once. The next one is sent away.
pub const CLIENTS_MAX: usize = 64;

/// What is logged unless the environment says otherwise.
const LOG_DEFAULT: &str = "info";

/// What the sessions share.
struct Daemon {
    paths: Paths,
    since: Timestamp,
    mounts: Mounts,
    clients: AtomicUsize,
}

/// Serves until a client stops it, with the lock of its state. An interrupt ends the process: what was not sent then is sent by the next one.
pub fn run(paths: Paths) -> Result<(), ErrorObject> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("STEAD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG_DEFAULT));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let failed = |what: &str, error: std::io::Error| {
        ErrorObject::new(ErrorKind::Failure, format!("could not {what}: {error}"))
    };
    std::fs::create_dir_all(paths.mount_states_dir()).map_err(|error| failed("make the state", error))?;
    let other = || {
        let message = format!("another daemon serves `{}`", paths.state_dir().display());
        ErrorObject::new(ErrorKind::Conflict, message)
    };
    let lock = File::create(paths.lock()).map_err(|error| failed("make the lock", error))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => other(),
        TryLockError::Error(error) => failed("lock the state", error),
    })?;
    let mut endpoint = Endpoint::bind(&paths.pipe()).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => other(),
        _ => failed("make the pipe", error),
    })?;
    let mounts = Mounts::open(&paths).map_err(|error| failed("read the state", error))?;
    let since = Timestamp::from(SystemTime::now());
    let daemon = Arc::new(Daemon { paths, since, mounts, clients: AtomicUsize::new(0) });
    tracing::info!(pipe = daemon.paths.pipe(), "serving");
    loop {
        let stream = endpoint.accept().map_err(|error| failed("accept a client", error))?;
        if daemon.clients.fetch_add(1, Ordering::SeqCst) >= CLIENTS_MAX {
            daemon.clients.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let served = Arc::clone(&daemon);
        let serving = std::thread::Builder::new().name("stead-client".to_owned()).spawn(move || {
            if let Err(error) = session::run(&served, stream) {
                tracing::debug!(%error, "a client's session ends");
            }
            served.clients.fetch_sub(1, Ordering::SeqCst);
        });
        if let Err(error) = serving {
            tracing::warn!(%error, "a client is sent away: no thread");
            daemon.clients.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
