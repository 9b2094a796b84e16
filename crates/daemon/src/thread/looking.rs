//! What is changed in a thread.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use store::thread::Changed;
use tokio::sync::oneshot;
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;
use wire::paths::Paths;

use super::{ThreadContext, blocking, from_store, unmounted};
use crate::database::{ThreadPhase, ThreadRow};
use crate::failure::{failure, from_io};
use crate::mount::MountHandle;
use crate::owner::{FoundThread, ThreadEvent};

/// How long a mount may take to say what is changed: a thread of a million changes takes seconds.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);

/// What a list of changes may take in memory.
const LISTING_BYTES_MAX: u64 = 256 << 20;

/// Tells lists of changes apart that are asked for at once.
static LISTINGS: AtomicU64 = AtomicU64::new(0);

const CHANGED: &str = "changed";

impl ThreadContext {
    /// What is changed in a thread, in the order of paths.
    pub async fn changed(&self, name: &str) -> Result<(FoundThread, Vec<Changed>), ErrorObject> {
        let found = self.find(name).await?;
        let (found, changed) = match &found.mount {
            Some(mount) => {
                let changed = self.listed(&found.row, mount).await?;
                (found, changed)
            }
            None => {
                let (found, turn) = self.take(name).await?;
                let (row, paths) = (found.row.clone(), self.paths.clone());
                let changed = blocking(move || changed_of(&row, &paths)).await??;
                drop(turn);
                (found, changed)
            }
        };
        self.tell(ThreadEvent::Counted(name.to_owned(), changed.len() as u64)).await;
        Ok((found, changed))
    }

    /// As the worker of its mount says.
    pub(super) async fn listed(
        &self,
        row: &ThreadRow,
        mount: &MountHandle,
    ) -> Result<Vec<Changed>, ErrorObject> {
        let directory = self.paths.thread_dir(&row.name);
        let to = blocking(move || {
            let made = supervisor::socket::private_directory(&directory.join(CHANGED));
            made.map_err(|error| failure(&error))?;
            // Another daemon may have left some.
            let since =
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
            let number = LISTINGS.fetch_add(1, Ordering::Relaxed);
            Ok::<_, ErrorObject>(directory.join(CHANGED).join(format!("{since}-{number}")))
        })
        .await??;
        let listing = mount.list_changed(ByteString::from(to.as_path()));
        let listed = tokio::time::timeout(LISTING_TIMEOUT, listing).await.unwrap_or_else(|_| {
            let message = format!("the mount of `{}` does not say what is changed", row.name);
            Err(ErrorObject::new(ErrorKind::TimedOut, message))
        });
        blocking(move || {
            let read = listed.and_then(|()| read_listing(&to));
            if let Err(error) = std::fs::remove_file(&to)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %to.display(), %error, "a list of changes stays");
            }
            read
        })
        .await?
    }

    /// Has the owner know how many paths are changed in each thread, as far as that is found out in time.
    pub async fn count(&self) {
        let (answer, answered) = oneshot::channel();
        self.tell(ThreadEvent::FindAll { answer }).await;
        let all = answered.await.unwrap_or_default();
        let wanted = all.into_iter().filter(|found| {
            found.row.phase == ThreadPhase::Open && (found.mount.is_some() || found.changed.is_none())
        });
        // Each goes on to its end when nobody waits any more, so that it leaves no list of changes behind.
        let counting: Vec<_> = wanted
            .map(|found| {
                let context = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = context.changed(&found.row.name).await {
                        tracing::debug!(thread = found.row.name, %error, "what is changed is not known");
                    }
                })
            })
            .collect();
        for counted in counting {
            if let Err(error) = counted.await {
                tracing::error!(%error, "counting what is changed did not end");
            }
        }
    }
}

/// What is changed in a thread that is not mounted. Blocks.
pub(super) fn changed_of(row: &ThreadRow, paths: &Paths) -> Result<Vec<Changed>, ErrorObject> {
    unmounted(row, paths)?.changed().map_err(|error| from_store(&error))
}

/// What a worker has written down, see [`ToWorker::ListChanged`](wire::worker::ToWorker::ListChanged). Blocks.
fn read_listing(from: &Path) -> Result<Vec<Changed>, ErrorObject> {
    let mut bytes = Vec::new();
    let read = File::open(from).and_then(|file| file.take(LISTING_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| from_io("could not read what is changed", &error))?;
    if bytes.len() as u64 > LISTING_BYTES_MAX {
        return Err(ErrorObject::new(ErrorKind::Failure, "more is changed than can be told"));
    }
    parse_listing(&bytes).ok_or_else(|| ErrorObject::internal("a list of changes is not one"))
}

pub(super) fn parse_listing(bytes: &[u8]) -> Option<Vec<Changed>> {
    let Some(bytes) = bytes.strip_suffix(b"\0") else {
        return bytes.is_empty().then(Vec::new);
    };
    let parse = |entry: &[u8]| match entry.split_first() {
        Some((sign @ (b'+' | b'-'), path @ [_, ..])) => {
            Some(Changed { path: path.to_vec(), is_there: *sign == b'+' })
        }
        _ => None,
    };
    bytes.split(|byte| *byte == 0).map(parse).collect()
}
