//! One mount, from its configuration to its end.
//!
//! ```text
//!              ┌───────────── it is in use ────────────┐
//!              ▼                                       │
//!  begin ─► serving ──stop, or unmounted by others─► leaving ──────────────────┬─► gone
//!              │                                       │ stop by force         │
//!              └─────────── stop by force ─────────────┴─► leaving by force ───┘
//! ```
//!
//! While it leaves it serves on, for what is unwritten comes through it, and answers the daemon.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use remote::Connection;
use remote::client::{Attached, CallError, ConnectOptions, LinkLost};
use remote::transport::host::HostOptions;
use tokio::signal::unix::{Signal, SignalKind, signal};
use vfs::{Kernel, Vfs};
use wire::agent::file as far;
use wire::api::ErrorKind;
use wire::api::machine::Source;
use wire::api::mount::{Access, Force, SyncMode};
use wire::api::status::{Counters, Journal, MountStatus};
use wire::worker::{FromWorker, MountConfig, Ready, Stopping, ToWorker, WorkerError, WorkerStatus};

use super::backend::{Backend, How, Kind, Leaving};
use super::control::Control;
use super::distance;
use super::fuse::FuseMount;
use super::nfs::NfsMount;
use super::options::MountChoices;
use super::{failure, in_full};
use crate::fuse::serve::FuseKernel;
use crate::machine::{Events, Machine};
use crate::nfs::NoNotices;

/// After so many names of one directory, asked for one by one, a reader is taken for one that goes through it: two
/// happen to everybody.
const LIST_AFTER: u32 = 3;

/// How long unsaved writes are waited for when the mount is to go by force.
const FORCED_DRAIN: Duration = Duration::from_secs(2);

/// How long the kernel may take to unmount by force before all it waits for is made to fail. With the drain, and what a
/// backend may add, well below the daemon's patience.
const FORCED_UNMOUNT: Duration = Duration::from_secs(2);

/// A mount that serves.
pub(super) struct Mounted {
    connection: Connection,
    vfs: Arc<Vfs<Machine>>,
    events: Arc<Events>,
    backend: Backend,
    lost: Option<LinkLost>,
    /// How it leaves, if it does.
    leaving: Option<(Force, Leaving)>,
}

/// Whatever can wake a mount.
enum Event {
    Told(ToWorker),
    DaemonGone,
    LinkLost(LinkLost),
    Unmounted,
    Terminated,
    Left(Result<(), WorkerError>),
}

impl Mounted {
    /// Brings a mount to serve; after an error nothing of it is left.
    pub(super) async fn begin(config: MountConfig) -> Result<(Mounted, Ready), WorkerError> {
        let choices = MountChoices::parse(&config.options)?;
        let wanted = config.backend;
        let choosing = tokio::task::spawn_blocking(move || Kind::choose(wanted, &choices)).await;
        let kind = choosing.map_err(|error| failure(ErrorKind::Failure, error.to_string()))??;
        let Source::Files { path, .. } = &config.source else {
            let message = format!("could not mount `{}`: not a path on a machine", config.source);
            return Err(failure(ErrorKind::Usage, message));
        };
        let events = Events::new();
        let options = ConnectOptions::default();
        let connection =
            remote::connect(&config.dial, &HostOptions::default(), options, events.clone()).await;
        let connection = connection.map_err(|error| WorkerError {
            kind: error.kind(),
            message: format!("could not reach the machine of `{}`: {}", config.source, in_full(&error)),
            hint: error.hint(),
        })?;
        let read_only = config.access == Access::ReadOnly;
        let attached = connection.client.attach(path.as_bytes().to_vec(), read_only).await;
        let attached = attached.map_err(|error| refused(&config.source, &error))?;
        if attached.root.attributes.kind != far::Kind::Directory {
            return Err(no_directory(&config.source));
        }
        Mounted::over(config, choices, kind, connection, attached, events).await
    }

    async fn over(
        config: MountConfig,
        choices: MountChoices,
        kind: Kind,
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
        let options = vfs::Options { sync, list_after: Some(LIST_AFTER), ..vfs::Options::default() };
        let fuse_kernel = FuseKernel::new();
        let kernel: Arc<dyn Kernel> = match kind {
            Kind::Fuse => fuse_kernel.clone(),
            Kind::Nfs => Arc::new(NoNotices),
        };
        let vfs = Vfs::new(Arc::new(machine), root, options, kernel);
        events.tell(&vfs);
        distance::watch(connection.client.clone(), &vfs);
        let backend = match kind {
            Kind::Fuse => {
                Backend::Fuse(FuseMount::begin(&config, &choices, vfs.clone(), fuse_kernel, owners).await?)
            }
            Kind::Nfs => Backend::Nfs(NfsMount::begin(&config, &choices, vfs.clone(), owners).await?),
        };
        let ready = backend.ready(connection.client.peer().release.clone());
        Ok((Mounted { connection, vfs, events, backend, lost: None, leaving: None }, ready))
    }

    /// Serves until it is gone.
    pub(super) async fn serve(mut self, control: &mut Control) -> io::Result<()> {
        let mut terminated = signal(SignalKind::terminate())?;
        loop {
            match self.next(control, &mut terminated).await {
                Event::Told(ToWorker::Status) => control.send(&self.status()).await,
                Event::Told(ToWorker::Stop { force }) => self.leave(force),
                Event::Told(ToWorker::Start { .. }) => tracing::error!("a second `start` is ignored"),
                Event::DaemonGone => tracing::warn!("the mount goes on without a daemon"),
                Event::LinkLost(reason) => {
                    tracing::error!(%reason, "the link to the machine is lost");
                    self.lost = Some(reason);
                    control.send(&self.status()).await;
                }
                Event::Unmounted => {
                    tracing::info!("unmounted");
                    self.leave(Force::Never);
                }
                Event::Terminated => self.leave(Force::Always),
                Event::Left(Ok(())) => break,
                Event::Left(Err(error)) => {
                    tracing::warn!(%error, "the mount stays");
                    control.send(&FromWorker::Error(error)).await;
                }
            }
        }
        control.send(&FromWorker::Stopping(Stopping::default())).await;
        self.backend.finish().await;
        Ok(())
    }

    async fn next(&mut self, control: &mut Control, terminated: &mut Signal) -> Event {
        let (is_linked, is_staying) = (self.lost.is_none(), self.leaving.is_none());
        let left = async {
            match &mut self.leaving {
                Some((_, leaving)) => leaving.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = control.receive() => message.map_or(Event::DaemonGone, Event::Told),
            reason = self.events.lost(), if is_linked => Event::LinkLost(reason),
            () = self.backend.unmounted(), if is_staying => Event::Unmounted,
            Some(()) = terminated.recv() => Event::Terminated,
            outcome = left => {
                self.leaving = None;
                Event::Left(outcome)
            }
        }
    }

    /// Begins to leave, unless that is under way with as much force.
    fn leave(&mut self, force: Force) {
        let under_way = self.leaving.as_ref().map(|(force, _)| *force);
        if !supersedes(force, under_way) {
            return;
        }
        let leaving = match force {
            Force::Never => self.leave_when_idle(),
            Force::Always => self.leave_now(),
        };
        self.leaving = Some((force, leaving));
    }

    /// Unmounts, with everything written on the machine. After an error the mount serves on.
    fn leave_when_idle(&self) -> Leaving {
        let (vfs, unmount) = (self.vfs.clone(), self.backend.unmount(How::IfIdle));
        Box::pin(async move {
            vfs.drain().await;
            unmount.await?;
            // What the kernel had kept back comes with the unmounting.
            vfs.drain().await;
            Ok(())
        })
    }

    /// Unmounts within a few seconds. What could not be written by then is lost, and its writers are told.
    fn leave_now(&self) -> Leaving {
        let (vfs, client, mut unmount) =
            (self.vfs.clone(), self.connection.client.clone(), self.backend.unmount(How::Now));
        Box::pin(async move {
            if tokio::time::timeout(FORCED_DRAIN, vfs.drain()).await.is_err() {
                tracing::error!(bytes = vfs.unwritten_bytes(), "writes are given up");
                client.close_link();
            }
            let unmounted = match tokio::time::timeout(FORCED_UNMOUNT, &mut unmount).await {
                Ok(unmounted) => unmounted,
                Err(_) => {
                    // The kernel, or a client, waits for the machine.
                    client.close_link();
                    unmount.await
                }
            };
            unmounted?;
            if tokio::time::timeout(FORCED_DRAIN, vfs.drain()).await.is_err() {
                tracing::error!(bytes = vfs.unwritten_bytes(), "writes are given up");
            }
            Ok(())
        })
    }

    fn status(&self) -> FromWorker {
        let link = self.connection.client.counters();
        let counters = Counters {
            round_trips: link.round_trips,
            bytes_read: link.bytes_received,
            bytes_written: link.bytes_sent,
            ..self.backend.counters()
        };
        let unwritten = self.vfs.unwritten_bytes() as u64;
        let status = match self.lost {
            None => MountStatus::Active,
            Some(_) => MountStatus::Disconnected,
        };
        let journal = Journal { operations: u64::from(unwritten > 0), bytes: unwritten };
        FromWorker::Status(Box::new(WorkerStatus {
            status,
            journal,
            counters,
            degraded: None,
            kept_aside: Vec::new(),
        }))
    }
}

/// Whether a wish to leave takes the place of the one that is being carried out.
fn supersedes(wish: Force, under_way: Option<Force>) -> bool {
    match under_way {
        None => true,
        Some(Force::Never) => wish == Force::Always,
        Some(Force::Always) => false,
    }
}

/// Why the machine does not export the tree.
fn refused(source: &Source, error: &CallError) -> WorkerError {
    const EPERM: u16 = 1;
    const ENOENT: u16 = 2;
    const EACCES: u16 = 13;
    const ENOTDIR: u16 = 20;
    let kind = match error.errno().map(|errno| errno.0) {
        Some(ENOENT) => ErrorKind::NotFound,
        Some(ENOTDIR) => return no_directory(source),
        Some(EPERM | EACCES) => ErrorKind::Refused,
        Some(_) => ErrorKind::Failure,
        None => ErrorKind::Unreachable,
    };
    failure(kind, format!("could not mount `{source}`: {}", in_full(error)))
}

fn no_directory(source: &Source) -> WorkerError {
    failure(ErrorKind::Usage, format!("could not mount `{source}`: it is not a directory"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::agent::{Errno, Failure};

    #[test]
    fn only_force_takes_the_place_of_patience() {
        use Force::{Always, Never};
        let cases = [
            (Never, None, true),
            (Always, None, true),
            (Never, Some(Never), false),
            (Always, Some(Never), true),
            (Never, Some(Always), false),
            (Always, Some(Always), false),
        ];
        for (wish, under_way, expected) in cases {
            assert_eq!(supersedes(wish, under_way), expected, "{wish:?} during {under_way:?}");
        }
    }

    #[test]
    fn why_a_tree_is_not_exported_has_its_kind_and_one_line() {
        let source = Source::parse(b"ssh://box/src", b"/").unwrap();
        let failed = |errno| CallError::Failed(Failure { errno: Errno(errno), detail: String::new() });
        let cases = [
            (failed(2), ErrorKind::NotFound, "No such file or directory"),
            (failed(20), ErrorKind::Usage, "it is not a directory"),
            (failed(1), ErrorKind::Refused, "Operation not permitted"),
            (failed(13), ErrorKind::Refused, "Permission denied"),
            (failed(40), ErrorKind::Failure, "Too many levels of symbolic links"),
            (LinkLost::Ended.into(), ErrorKind::Unreachable, "the agent's stream ended"),
        ];
        for (error, kind, why) in cases {
            let told = refused(&source, &error);
            let expected = format!("could not mount `ssh://box/src`: {why}");
            assert_eq!((told.kind, told.message), (kind, expected));
        }
    }
}
