//! What serves a mount: one of the backends, which are alike from here on.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use wire::api::ErrorKind;
use wire::api::mount::{self, BackendName};
use wire::api::status::{Counters, NfsExport};
use wire::worker::{Ready, WorkerError};

use super::failure;
use super::fuse::{self, FuseMount};
use super::nfs::{self, NfsMount};
use super::options::MountChoices;

/// The end of a mount, under way. May be dropped half way: what has begun in the kernel goes on.
pub(super) type Leaving = Pin<Box<dyn Future<Output = Result<(), WorkerError>> + Send>>;

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Unless somebody uses it.
    IfIdle,
    /// Whoever uses it.
    Now,
}

/// The backends there are on this system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fuse,
    Nfs,
}

impl Kind {
    pub(super) fn name(self) -> BackendName {
        match self {
            Kind::Fuse => BackendName::Fuse,
            Kind::Nfs => BackendName::Nfs,
        }
    }

    /// What `auto` is here, and whether what was asked for is possible. Blocks: a module of the kernel may be loaded.
    pub(super) fn choose(wanted: mount::Backend, choices: &MountChoices) -> Result<Kind, WorkerError> {
        let kind = match wanted {
            mount::Backend::Fuse => Kind::Fuse,
            mount::Backend::Nfs => Kind::Nfs,
            mount::Backend::Auto if fuse::is_usable() => Kind::Fuse,
            mount::Backend::Auto => Kind::Nfs,
            mount::Backend::CloudFiles => {
                return Err(failure(ErrorKind::Usage, "cloud-files is for Windows: here fuse or nfs"));
            }
            mount::Backend::FileProvider => {
                return Err(failure(ErrorKind::Usage, "backend file-provider exists on macOS only"));
            }
        };
        choices.check_for(kind)?;
        match kind {
            Kind::Fuse => Ok(kind),
            Kind::Nfs => nfs::check(choices).map(|()| kind),
        }
    }
}

/// A backend that serves.
pub(super) enum Backend {
    Fuse(FuseMount),
    Nfs(NfsMount),
}

impl Backend {
    /// What is told of it once it serves. `restarts` is how many workers came before this one.
    pub(super) fn ready(&self, agent_version: String, restarts: u32) -> Ready {
        let ready = Ready {
            backend: BackendName::Fuse,
            connection: None,
            port: None,
            nfs: None,
            degraded: None,
            agent_version: Some(agent_version),
            pid: Some(std::process::id()),
            restarts: Some(restarts),
            replayed: None,
        };
        match self {
            Backend::Fuse(mount) => Ready {
                connection: mount.connection(),
                degraded: mount.degraded().map(str::to_owned),
                ..ready
            },
            Backend::Nfs(mount) => {
                let NfsExport { port, .. } = *mount.export();
                Ready {
                    backend: BackendName::Nfs,
                    port: Some(port),
                    nfs: Some(mount.export().clone()),
                    ..ready
                }
            }
        }
    }

    /// What was asked of it, and how much of that was known here; the rest is not its business.
    pub(super) fn counters(&self) -> Counters {
        let counts = match self {
            Backend::Fuse(mount) => mount.counts().all(),
            Backend::Nfs(mount) => mount.counts(),
        };
        Counters { requests: counts.requests(), hits: counts.hits(), ..Counters::default() }
    }

    /// The kernel's requests by what they ask for, of a backend that a kernel asks.
    pub(super) fn operations(&self) -> BTreeMap<String, u64> {
        match self {
            Backend::Fuse(mount) => mount.counts().operations(),
            Backend::Nfs(_) => BTreeMap::new(),
        }
    }

    /// Waits until somebody has unmounted it. May be dropped half way.
    pub(super) async fn unmounted(&mut self) {
        match self {
            Backend::Fuse(mount) => mount.ended().await,
            Backend::Nfs(mount) => mount.unmounted().await,
        }
    }

    /// Takes it away, or what others have left of it. Without force it stays when it is in use.
    pub(super) fn unmount(&self, how: How) -> Leaving {
        match self {
            Backend::Fuse(mount) => Box::pin(mount.unmount(how)),
            Backend::Nfs(mount) => Box::pin(mount.unmount(how)),
        }
    }

    /// Waits for its threads after it has gone.
    pub(super) async fn finish(self) {
        match self {
            Backend::Fuse(mount) => mount.finish().await,
            Backend::Nfs(_) => {}
        }
    }
}
