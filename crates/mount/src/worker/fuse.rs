//! The worker's FUSE mount: made, watched, taken away.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;

use std::collections::HashSet;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use vfs::table::Kept;
use vfs::vfs::Restored;
use wire::api::ErrorKind;
use wire::api::mount::Access;
use wire::bytestring::ByteString;
use wire::worker::WorkerError;

use super::backend::How;
use super::home::Home;
use super::options::MountChoices;
pub(super) use super::predecessor::note_panic;
use super::predecessor::{Server as Serving, note_panics, note_panics_afresh};
use super::shown::{Shown, mount_point};
use super::succession::{FUSE, SuccessionError, read_part, write_part};
use super::{failure, in_full};
use crate::Progress;
use crate::fuse::device::Device;
use crate::fuse::mountpoint::{
    self, Audience, HelperError, MountError, MountOptions, Mounting, PermissionChecks,
};
use crate::fuse::negotiation::{Negotiated, Wanted};
pub(super) use crate::fuse::serve::FuseKernel;
use crate::fuse::serve::{self, Begin, ServeError, Server, Start, Tally, descriptors, handshake};
use crate::mountpoint::{MountEntry, Mounts, Unmount, UnmountError, unmount};
use crate::system::WHO_USES;

pub(super) use system::is_usable;

/// See the module's documentation.
pub(super) struct FuseMount {
    path: PathBuf,
    connection: Option<u64>,
    /// What it cannot do here, in one line.
    degraded: Option<String>,
    server: Arc<Server>,
    ended: watch::Receiver<bool>,
    joiner: Option<std::thread::JoinHandle<()>>,
}

fn mount_error(error: &MountError) -> WorkerError {
    let kind = if error.is_denied() { ErrorKind::Refused } else { ErrorKind::Failure };
    let mut failed = failure(kind, in_full(error));
    failed.hint = system::hint(error).map(str::to_owned);
    failed
}

/// How the kernel mounted it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KernelPart {
    /// What was agreed.
    pub(super) negotiated: Negotiated,
    /// Who serves it.
    pub(super) server: Serving,
    /// Where it is: a path without links, which is not looked at again.
    pub(super) path: ByteString,
}

/// How the predecessor had mounted it.
pub(super) fn part(restored: &Restored) -> Result<KernelPart, SuccessionError> {
    read_part(restored, vfs::table::Kept::Kernel)
}

/// A kernel that has been told nothing yet.
pub(super) fn kernel() -> Arc<FuseKernel> {
    FuseKernel::new()
}

/// What a mount shows.
pub(super) trait Show: Send {
    /// What is to be agreed with the kernel.
    fn wanted(&self) -> Wanted;

    /// How many threads read its requests.
    fn readers(&self) -> usize;

    /// Writes down for a successor how it is mounted.
    fn keep(&self, part: &KernelPart) -> Result<(), WorkerError>;

    /// Begins to answer.
    fn serve(self, serve: Serve<'_>) -> Result<Server, ServeError>;
}

/// A mount that is to be served.
pub(super) struct Serve<'a> {
    /// Its descriptors, on which INIT has been answered.
    pub(super) devices: &'a [Arc<Device>],
    pub(super) negotiated: Negotiated,
    pub(super) begin: Begin,
    pub(super) progress: Progress,
    /// Requests that have ended a predecessor.
    pub(super) refused: HashSet<u64>,
}

impl Show for Shown {
    fn wanted(&self) -> Wanted {
        serve::wanted(self.owners)
    }

    fn readers(&self) -> usize {
        serve::readers()
    }

    fn keep(&self, part: &KernelPart) -> Result<(), WorkerError> {
        self.vfs.keep(Kept::Kernel, write_part(part));
        Ok(())
    }

    fn serve(self, serve: Serve<'_>) -> Result<Server, ServeError> {
        let Serve { devices, negotiated, begin, progress, refused } = serve;
        let (vfs, kernel) = (self.vfs, self.kernel);
        Server::start(Start { devices, negotiated, vfs, kernel, begin, progress, refused })
    }
}

impl FuseMount {
    /// Mounts and serves. From here on the keeper has what the kernel knows the mount by.
    pub(super) async fn begin(
        home: &Home,
        choices: &MountChoices,
        shown: impl Show,
    ) -> Result<FuseMount, WorkerError> {
        let config = &home.config;
        let point = mount_point(config, choices)?;
        let mut options = MountOptions::private(&config.source.to_bytes());
        (options.uid, options.gid) = (config.owner.uid, config.owner.gid);
        if choices.allow_other {
            options.audience = Audience::Everyone;
        }
        if config.access == Access::ReadOnly {
            options.access = mountpoint::Access::ReadOnly;
        }
        options.permissions = PermissionChecks::Kernel;
        let (device, mounting) = mountpoint::begin(&point, &options).map_err(|error| mount_error(&error))?;
        let path = point.path().to_path_buf();
        let served = FuseMount::serve_first(home, (Arc::new(device), mounting), path.clone(), shown).await;
        if served.is_err() {
            take_back(&path);
        }
        served
    }

    async fn serve_first(
        home: &Home,
        (device, mut mounting): (Arc<Device>, Mounting),
        path: PathBuf,
        shown: impl Show,
    ) -> Result<FuseMount, WorkerError> {
        mounting.begun(&device).map_err(|error| not_mounted(&path, error))?;
        let negotiated = handshake(&device, &shown.wanted()).map_err(|error| not_served(&path, &error))?;
        tracing::info!(?negotiated, "the kernel agreed");
        let devices = descriptors(&device, shown.readers());
        let degraded = match negotiated.can_resend() {
            true => {
                let at = ByteString::from(path.as_path());
                let part = KernelPart { negotiated: negotiated.clone(), server: Serving::own(), path: at };
                shown.keep(&part)?;
                let kept: Vec<_> = devices.iter().map(|device| device.as_fd()).collect();
                home.tether.hand_over(FUSE, &kept).map_err(|error| {
                    let message = format!("could not give `{}` to its keeper: {error}", path.display());
                    failure(ErrorKind::Failure, message)
                })?;
                None
            }
            false => Some(system::NO_RESEND.to_owned()),
        };
        note_panics_afresh(&home.directory);
        let (begin, progress, refused) = (Begin::Fresh, home.progress(), HashSet::new());
        let serve = Serve { devices: &devices, negotiated, begin, progress, refused };
        let mut mount = FuseMount::serve(shown, serve, path.clone(), degraded)?;
        let finished = tokio::task::spawn_blocking(move || mounting.finish()).await;
        let finished =
            finished.map_err(|error| failure(ErrorKind::Failure, format!("could not mount: {error}")));
        finished?.map_err(|error| not_mounted(&path, error))?;
        mount.connection = system::connection(path).await;
        Ok(mount)
    }

    /// Goes on serving what a predecessor had mounted, through the descriptors that it had: the first is the device.
    /// Requests that have ended a predecessor are refused.
    pub(super) async fn take_over(
        part: KernelPart,
        kept: Vec<OwnedFd>,
        shown: impl Show,
        home: &Home,
    ) -> Result<FuseMount, WorkerError> {
        let refused = note_panics(&home.directory);
        let devices: Vec<_> = kept.into_iter().map(|kept| Arc::new(Device::from_fd(kept))).collect();
        part.server.gone(home.presence.as_ref()).await;
        let part = KernelPart { server: Serving::own(), ..part };
        shown.keep(&part)?;
        let (negotiated, path) = (part.negotiated, part.path.as_path().to_path_buf());
        let (begin, progress) = (Begin::Takeover, home.progress());
        let serve = Serve { devices: &devices, negotiated, begin, progress, refused };
        let mut mount = FuseMount::serve(shown, serve, path.clone(), None)?;
        mount.connection = system::connection(path).await;
        Ok(mount)
    }

    /// Within a runtime of many threads.
    fn serve(
        shown: impl Show,
        serve: Serve<'_>,
        path: PathBuf,
        degraded: Option<String>,
    ) -> Result<FuseMount, WorkerError> {
        // Whatever a predecessor had taken is answered first, and may wait for the disk.
        let served = tokio::task::block_in_place(|| shown.serve(serve));
        let server = Arc::new(served.map_err(|error| not_served(&path, &error))?);
        let (ended, watched) = watch::channel(false);
        let joined = server.clone();
        let joiner = std::thread::Builder::new()
            .name("fuse-end".to_owned())
            .spawn(move || {
                joined.wait();
                ended.send_replace(true);
            })
            .map_err(|error| failure(ErrorKind::Failure, format!("could not start a thread: {error}")))?;
        Ok(FuseMount { path, connection: None, degraded, server, ended: watched, joiner: Some(joiner) })
    }

    /// What it cannot do here, in one line.
    pub(super) fn degraded(&self) -> Option<&str> {
        self.degraded.as_deref()
    }

    /// The number of the kernel's connection, if it could be found.
    pub(super) fn connection(&self) -> Option<u64> {
        self.connection
    }

    pub(super) fn counts(&self) -> &Tally {
        self.server.counts()
    }

    /// Waits until the mount is gone.
    pub(super) async fn ended(&mut self) {
        // The sender goes only after it has sent.
        let _gone = self.ended.wait_for(|ended| *ended).await.is_ok();
    }

    /// Takes the mount away. Without force it stays when it is in use.
    pub(super) fn unmount(&self, how: How) -> impl Future<Output = Result<(), WorkerError>> + Send + use<> {
        let (path, ended) = (self.path.clone(), self.ended.clone());
        async move {
            // What is at the path now is somebody else's.
            if *ended.borrow() {
                return Ok(());
            }
            let unmounted = tokio::task::spawn_blocking(move || take_away(&path, how)).await;
            match unmounted {
                Ok(Ok(()) | Err(UnmountError::NotMounted(_))) => Ok(()),
                Ok(Err(UnmountError::Busy(path))) => {
                    let mut busy = failure(ErrorKind::Conflict, format!("`{}` is in use", path.display()));
                    busy.hint =
                        Some(format!("find out by what: {WHO_USES} '{}', or use --force", path.display()));
                    Err(busy)
                }
                Ok(Err(error)) => Err(failure(ErrorKind::Failure, in_full(&error))),
                Err(error) => Err(failure(ErrorKind::Failure, format!("could not unmount: {error}"))),
            }
        }
    }

    /// Waits for the serving threads, if the mount is really gone; a detached one that is still in use ends with this
    /// process.
    pub(super) async fn finish(mut self) {
        let gone = *self.ended.borrow();
        let Some(joiner) = self.joiner.take().filter(|_| gone) else { return };
        if tokio::task::spawn_blocking(move || joiner.join()).await.is_err() {
            tracing::error!("a serving thread panicked");
        }
    }
}

fn take_away(path: &Path, how: How) -> Result<(), UnmountError> {
    let idle = unmount(path, Unmount::IfIdle);
    match (how, idle) {
        (How::Now, Err(UnmountError::Busy(_))) => unmount(path, Unmount::Detach),
        (_, outcome) => outcome,
    }
}

fn not_mounted(path: &Path, source: HelperError) -> WorkerError {
    mount_error(&MountError::Helper { path: path.to_path_buf(), source })
}

/// Takes away what is mounted and not served. What is at the path may be somebody else's as long as ours is not there.
fn take_back(path: &Path) {
    let is_there = Mounts::read().map(|mounts| mounts.at(path).is_some_and(MountEntry::is_ours));
    let error = match is_there.map(|there| there.then(|| unmount(path, Unmount::Detach))) {
        Ok(None | Some(Ok(()))) => return,
        Ok(Some(Err(error))) => in_full(&error),
        Err(error) => in_full(&error),
    };
    tracing::error!(%error, "a mount that is not served stays behind");
}

fn not_served(path: &Path, error: &ServeError) -> WorkerError {
    failure(ErrorKind::Failure, format!("could not serve `{}`: {}", path.display(), in_full(error)))
}
