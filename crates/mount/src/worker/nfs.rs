//! The worker's NFS mount: served, mounted by this computer's kernel if it is to, taken away.

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use wire::api::ErrorKind;
use wire::api::mount::Access;
use wire::api::status::NfsExport;
use wire::worker::WorkerError;

use super::backend::How;
use super::home::Home;
use super::options::{MountChoices, NO_KERNEL_MOUNT};
use super::shown::{Shown, mount_point};
use super::succession::NFS;
use super::{failure, in_full};
use crate::Counts;
use crate::machine::Owners;
use crate::nfs::mountpoint::{self, MountError, NoKernelMount, Served};
use crate::nfs::{self, Audience, NfsError, NfsOptions, NfsServer, Permissions};
use crate::system::WHO_USES;

/// How long a server is waited for when the mount is to go by force: for calls under way and for syncing.
const FORCED_STOP: Duration = Duration::from_secs(3);

/// See the module's documentation.
pub(super) struct NfsMount {
    export: NfsExport,
    /// Where the kernel has mounted it, if it has.
    path: Option<PathBuf>,
    /// None once it stops.
    server: Arc<Mutex<Option<NfsServer>>>,
    counts: Arc<Counts>,
}

/// Whether what is served can be mounted as `choices` say. Blocks: a module may be loaded.
pub(super) fn check(choices: &MountChoices) -> Result<(), WorkerError> {
    if !choices.kernel_mount {
        return Ok(());
    }
    mountpoint::kernel_can_mount().map_err(|reason| no_kernel_mount(&reason))
}

fn no_kernel_mount(reason: &NoKernelMount) -> WorkerError {
    let mut refused = failure(ErrorKind::Failure, format!("could not mount through nfs: {reason}"));
    refused.hint = Some(format!("serve without mounting, for other NFS clients: -o {NO_KERNEL_MOUNT}"));
    refused
}

fn serve_error(error: &NfsError) -> WorkerError {
    let kind = match error {
        NfsError::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            ErrorKind::Conflict
        }
        NfsError::Listen { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            ErrorKind::Refused
        }
        _ => ErrorKind::Failure,
    };
    failure(kind, format!("could not serve nfs: {}", in_full(error)))
}

fn mount_error(error: &MountError) -> WorkerError {
    match error {
        MountError::NotPossible(reason) => no_kernel_mount(reason),
        MountError::Refused { .. } | MountError::Command { .. } => {
            failure(ErrorKind::Failure, in_full(error))
        }
    }
}

impl NfsMount {
    /// Serves, and mounts unless it is told not to. With the socket of a predecessor, goes on where that was: its clients
    /// connect again, and nothing is mounted.
    pub(super) async fn begin(
        home: &Home,
        choices: &MountChoices,
        shown: Shown,
        kept: Option<OwnedFd>,
    ) -> Result<NfsMount, WorkerError> {
        // A client of NFS is told of nothing.
        let Shown { vfs, kernel: _untold, owners } = shown;
        let config = &home.config;
        let is_mounted = kept.is_some();
        let point = match choices.kernel_mount {
            // What is there now is the mount, which is not to be asked before it is served.
            true if is_mounted => Some(config.dir.as_path().to_path_buf()),
            true => Some(mount_point(config, choices)?.path().to_path_buf()),
            false => None,
        };
        let access = match config.access {
            Access::ReadOnly => nfs::Access::ReadOnly,
            Access::ReadWrite => nfs::Access::ReadWrite,
        };
        let listener = match kept {
            Some(socket) => std::net::TcpListener::from(socket),
            None => nfs::listen(choices.port).map_err(|error| serve_error(&error))?,
        };
        if !is_mounted {
            home.tether.hand_over(NFS, &[listener.as_fd()]).map_err(|error| {
                failure(ErrorKind::Failure, format!("could not give the socket to the keeper: {error}"))
            })?;
        }
        let options = NfsOptions {
            listener,
            state: config.state_dir.as_path().to_path_buf(),
            owner: (config.owner.uid, config.owner.gid),
            audience: if choices.allow_other { Audience::Everybody } else { Audience::Owner },
            permissions: match owners {
                Owners::Machine => Permissions::Modes,
                Owners::One { .. } => Permissions::Machine,
            },
            access,
            progress: home.progress(),
        };
        let server = nfs::serve(vfs, options).await.map_err(|error| serve_error(&error))?;
        tracing::info!(url = server.url(), "serving");
        if let Some(path) = point.as_ref().filter(|_| !is_mounted)
            && let Err(error) = kernel_mount(path.clone(), &server, access).await
        {
            server.stop().await;
            return Err(error);
        }
        let export = NfsExport { port: server.port(), export: server.export().to_owned() };
        let counts = server.counts();
        Ok(NfsMount { export, path: point, server: Arc::new(Mutex::new(Some(server))), counts })
    }

    /// What a client is to mount.
    pub(super) fn export(&self) -> &NfsExport {
        &self.export
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Waits until somebody has unmounted it: never, for a server cannot tell. `stead unmount` ends it all the same.
    pub(super) async fn unmounted(&self) {
        std::future::pending().await
    }

    /// Unmounts, if the kernel has mounted it, and ends the server. A mount in use stays without force, and is served
    /// on; clients that are no kernel of this computer's are not asked.
    pub(super) fn unmount(&self, how: How) -> impl Future<Output = Result<(), WorkerError>> + Send + use<> {
        let (path, server) = (self.path.clone(), self.server.clone());
        async move {
            if let Some(path) = path {
                kernel_unmount(path, how).await?;
            }
            let Some(server) = server.lock().take() else { return Ok(()) };
            match how {
                How::IfIdle => server.stop().await,
                How::Now => {
                    if tokio::time::timeout(FORCED_STOP, server.stop()).await.is_err() {
                        tracing::error!("calls of NFS clients are given up");
                    }
                }
            }
            Ok(())
        }
    }
}

async fn kernel_mount(path: PathBuf, server: &NfsServer, access: nfs::Access) -> Result<(), WorkerError> {
    let (port, root) = (server.port(), server.root().to_vec());
    let mount = move || mountpoint::mount(&path, Served { port, root: &root, access });
    let mounted = tokio::task::spawn_blocking(mount).await;
    match mounted {
        Ok(mounted) => mounted.map_err(|error| mount_error(&error)),
        Err(error) => Err(failure(ErrorKind::Failure, format!("could not mount: {error}"))),
    }
}

async fn kernel_unmount(path: PathBuf, how: How) -> Result<(), WorkerError> {
    let shown = path.display().to_string();
    let unmounted = tokio::task::spawn_blocking(move || take_away(&path, how)).await;
    match unmounted {
        // Not a mount point, or not there: somebody was faster.
        Ok(Ok(()) | Err(Errno::INVAL | Errno::NOENT)) => Ok(()),
        Ok(Err(Errno::BUSY)) => {
            let mut busy = failure(ErrorKind::Conflict, format!("`{shown}` is in use"));
            busy.hint = Some(format!("find out by what: {WHO_USES} '{shown}', or use --force"));
            Err(busy)
        }
        Ok(Err(errno)) => Err(failure(ErrorKind::Failure, format!("could not unmount `{shown}`: {errno}"))),
        Err(error) => Err(failure(ErrorKind::Failure, format!("could not unmount `{shown}`: {error}"))),
    }
}

fn take_away(path: &Path, how: How) -> Result<(), Errno> {
    let idle = mountpoint::unmount(path, false);
    match (how, idle) {
        (How::Now, Err(Errno::BUSY)) => mountpoint::unmount(path, true),
        (_, outcome) => outcome,
    }
}
