//! The process of one mount.
//!
//! ```text
//!  start{config} ─► dial the machine ─► attach the tree ─► mount ─► ready ─► serve ─┬─► stop ─► flush ─► unmount ─► end
//!         └───────────────┴──────────────────┴──────────────┴─► error ─► end        └─► unmounted by others ─► end
//! ```
//!
//! A worker that fails before `ready` undoes what it did and ends. One whose daemon goes away goes on serving: people
//! use its mount.

mod control;
mod fuse;
mod options;

use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use remote::Connection;
use remote::client::Attached;
use remote::client::{CallError, ConnectOptions, LinkLost};
use remote::transport::host::HostOptions;
use vfs::Vfs;
use wire::api::ErrorKind;
use wire::api::machine::Source;
use wire::api::mount::{Access, Backend, Force, SyncMode};
use wire::api::status::{Counters, Journal, MountStatus};
use wire::worker::{CONTROL_DESCRIPTOR, FromWorker, MountConfig, Ready, Stopping, ToWorker, WorkerError, WorkerStatus};

use crate::machine::{Events, Machine};
use control::Control;
use fuse::FuseMount;
use options::MountChoices;

/// Threads of the runtime: what waits for the machine is driven here, and little else.
const RUNTIME_THREADS: usize = 2;

/// How long unsaved writes are waited for when the mount is to go by force.
const FORCED_DRAIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs the worker on the control socket it was started with.
pub fn main() -> ExitCode {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("STEAD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logging = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr);
    logging.init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("worker")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    // SAFETY: whoever starts a worker leaves it this descriptor, and nothing else in this process has taken it over.
    let socket = unsafe { OwnedFd::from_raw_fd(CONTROL_DESCRIPTOR) };
    match runtime.block_on(run(socket)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the worker failed");
            ExitCode::FAILURE
        }
    }
}

async fn run(socket: OwnedFd) -> std::io::Result<()> {
    let mut control = Control::new(socket)?;
    let Some(ToWorker::Start { config }) = control.receive().await? else {
        return Err(std::io::Error::other("the first message is not `start`"));
    };
    let (mount, ready) = match Mounted::begin(*config).await {
        Ok(begun) => begun,
        Err(error) => {
            tracing::error!(%error, "could not mount");
            return control.send(&FromWorker::Error(error)).await;
        }
    };
    control.send(&FromWorker::Ready(ready)).await?;
    mount.serve(&mut control).await
}

/// A mount that serves.
struct Mounted {
    connection: Connection,
    vfs: Arc<Vfs<Machine>>,
    events: Arc<Events>,
    backend: FuseMount,
    lost: Option<LinkLost>,
}

fn failure(kind: ErrorKind, message: impl Into<String>) -> WorkerError {
    WorkerError { kind, message: message.into(), hint: None }
}

/// An error and all its causes in one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

impl Mounted {
    async fn begin(config: MountConfig) -> Result<(Mounted, Ready), WorkerError> {
        let choices = MountChoices::parse(&config.options)?;
        let backend = choose(config.backend)?;
        let Source::Files { path, .. } = &config.source else {
            return Err(failure(ErrorKind::Usage, format!("could not mount {}: not a path on a machine", config.source)));
        };
        let events = Events::new();
        let connection =
            remote::connect(&config.dial, &HostOptions::default(), ConnectOptions::default(), events.clone())
                .await
                .map_err(|error| WorkerError {
                    kind: error.kind(),
                    message: format!("could not reach the machine of {}: {}", config.source, in_full(&error)),
                    hint: error.hint(),
                })?;
        let read_only = config.access == Access::ReadOnly;
        let attached = connection.client.attach(path.as_bytes().to_vec(), read_only).await;
        let attached = attached.map_err(|error| refused(&config.source, &error))?;
        Mounted::over(config, choices, backend, connection, attached, events).await
    }

    async fn over(
        config: MountConfig,
        choices: MountChoices,
        backend: Backend,
        connection: Connection,
        attached: Attached,
        events: Arc<Events>,
    ) -> Result<(Mounted, Ready), WorkerError> {
        let owner = (config.owner.uid, config.owner.gid);
        let (machine, root) = Machine::new(connection.client.clone(), &attached, owner);
        let owners = machine.owners();
        let sync = match config.sync {
            SyncMode::Close => vfs::SyncMode::Close,
            SyncMode::Async => vfs::SyncMode::Async,
            SyncMode::Strict => vfs::SyncMode::Strict,
        };
        let options = vfs::Options { sync, ..vfs::Options::default() };
        debug_assert_eq!(backend, Backend::Fuse, "other backends have been refused");
        let kernel = crate::fuse::serve::FuseKernel::new();
        let vfs = Vfs::new(Arc::new(machine), root, options, kernel.clone());
        events.tell(vfs.clone());
        let (backend, connection_number) = FuseMount::begin(&config, &choices, vfs.clone(), kernel, owners).await?;
        let ready = Ready {
            backend: wire::api::mount::BackendName::Fuse,
            connection: connection_number,
            port: None,
            degraded: None,
            agent_version: Some(connection.client.peer().release.clone()),
        };
        Ok((Mounted { connection, vfs, events, backend, lost: None }, ready))
    }

    async fn serve(mut self, control: &mut Control) -> std::io::Result<()> {
        let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut lost = Box::pin(self.events.lost());
        let mut daemon_is_there = true;
        loop {
            let force = tokio::select! {
                message = control.receive(), if daemon_is_there => match message? {
                    None => {
                        tracing::warn!("the daemon is gone; the mount goes on");
                        daemon_is_there = false;
                        continue;
                    }
                    Some(ToWorker::Stop { force }) => force,
                    Some(ToWorker::Status) => {
                        control.send(&FromWorker::Status(Box::new(self.status()))).await?;
                        continue;
                    }
                    Some(ToWorker::Start { .. }) => {
                        tracing::error!("a second `start` is ignored");
                        continue;
                    }
                },
                reason = &mut lost, if self.lost.is_none() => {
                    tracing::error!(%reason, "the link to the machine is lost");
                    self.lost = Some(reason);
                    if daemon_is_there {
                        control.send(&FromWorker::Status(Box::new(self.status()))).await?;
                    }
                    continue;
                }
                () = self.backend.ended() => {
                    tracing::info!("unmounted");
                    break;
                }
                _ = terminated.recv() => Force::Always,
            };
            match self.stop(force).await {
                Ok(()) => break,
                Err(error) if daemon_is_there => control.send(&FromWorker::Error(error)).await?,
                Err(error) => tracing::error!(%error, "could not unmount"),
            }
        }
        self.vfs.drain().await;
        if daemon_is_there {
            control.send(&FromWorker::Stopping(Stopping::default())).await?;
        }
        self.backend.finish().await;
        Ok(())
    }

    /// Unmounts, with everything written on the machine. After an error the mount serves on.
    async fn stop(&mut self, force: Force) -> Result<(), WorkerError> {
        match force {
            Force::Never => {
                self.vfs.drain().await;
                self.backend.unmount(fuse::How::IfIdle).await
            }
            Force::Always => {
                if tokio::time::timeout(FORCED_DRAIN, self.vfs.drain()).await.is_err() {
                    tracing::error!(bytes = self.vfs.unwritten_bytes(), "writes are given up");
                }
                self.backend.unmount(fuse::How::Now).await
            }
        }
    }

    fn status(&self) -> WorkerStatus {
        let counts = self.backend.counts();
        let link = self.connection.client.counters();
        let counters = Counters {
            requests: counts.requests.load(Ordering::Relaxed),
            hits: counts.hits.load(Ordering::Relaxed),
            round_trips: link.round_trips,
            bytes_read: link.bytes_received,
            bytes_written: link.bytes_sent,
        };
        let unwritten = self.vfs.unwritten_bytes() as u64;
        let status = match self.lost {
            None => MountStatus::Active,
            Some(_) => MountStatus::Disconnected,
        };
        let journal = Journal { operations: u64::from(unwritten > 0), bytes: unwritten };
        WorkerStatus { status, journal, counters, degraded: None, kept_aside: Vec::new() }
    }
}

/// What `auto` is here, and whether what was asked for is possible.
fn choose(backend: Backend) -> Result<Backend, WorkerError> {
    match backend {
        Backend::Auto | Backend::Fuse => Ok(Backend::Fuse),
        Backend::Nfs => Err(failure(ErrorKind::Failure, "backend nfs is not available")),
        Backend::CloudFiles => Err(failure(ErrorKind::Usage, "backend cloud-files exists on Windows only")),
        Backend::FileProvider => Err(failure(ErrorKind::Usage, "backend file-provider exists on macOS only")),
    }
}

/// Why the machine does not export the tree.
fn refused(source: &Source, error: &CallError) -> WorkerError {
    const ENOENT: u16 = 2;
    const ENOTDIR: u16 = 20;
    const REFUSALS: [u16; 2] = [1, 13];
    let kind = match error.errno().map(|errno| errno.0) {
        Some(ENOENT | ENOTDIR) => ErrorKind::NotFound,
        Some(errno) if REFUSALS.contains(&errno) => ErrorKind::Refused,
        Some(_) => ErrorKind::Failure,
        None => ErrorKind::Unreachable,
    };
    failure(kind, format!("could not mount {source}: {}", in_full(error)))
}
