//! What a worker that died may still be doing, and what it died of.

use std::collections::HashSet;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use supervisor::Identity;
use supervisor::presence::Presence;

use crate::fuse::serve::{THREAD_PREFIX, current};

/// How long threads of the predecessor are waited for. One that copies a request takes a millisecond, and more where memory
/// comes from a disk or there is no processor for it; none waits for a successor.
const THREADS_WAIT: Duration = Duration::from_secs(5);

/// How often it is looked whether they are gone.
const THREADS_INTERVAL: Duration = Duration::from_millis(1);

/// Holds the numbers of requests that ended a worker, one a line.
const PANICS: &str = "panics";

/// As much of it is read: the last two hundred.
const PANICS_BYTES_MAX: usize = 4 << 10;

static PANICS_PATH: OnceLock<PathBuf> = OnceLock::new();

/// Which process serves.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Server(Option<Identity>);

impl Server {
    /// This process.
    pub(super) fn own() -> Server {
        Server(
            Identity::own().inspect_err(|error| tracing::warn!(%error, "this process has no identity")).ok(),
        )
    }

    /// Waits until none of the threads that read requests is there any more. A process counts as dead before its last
    /// thread has ended, and what such a thread is just taking would be asked for again too early, and never again. Where the
    /// lock on the mount's directory says that nobody else was there, that is so.
    pub(super) async fn gone(&self, presence: Option<&Presence>) {
        if presence.is_some_and(Presence::was_alone) {
            return;
        }
        let Server(Some(server)) = *self else { return };
        let until = Instant::now() + THREADS_WAIT;
        while server.exists().unwrap_or(true) && has_readers(server.pid) {
            if Instant::now() >= until {
                return tracing::warn!(pid = server.pid, "the predecessor's threads are still there");
            }
            tokio::time::sleep(THREADS_INTERVAL).await;
        }
    }
}

/// Whether a thread of the process may read requests: also where that cannot be seen.
fn has_readers(pid: u32) -> bool {
    let tasks = match std::fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(tasks) => tasks,
        Err(error) => return !is_gone(&error),
    };
    let mut names = tasks.map(|task| std::fs::read_to_string(task?.path().join("comm")));
    names.any(|name| match name {
        Ok(name) => {
            let rest = name.trim_end().strip_prefix(THREAD_PREFIX);
            rest.is_some_and(|number| number.parse::<u32>().is_ok())
        }
        Err(error) => !is_gone(&error),
    })
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH)
    )
}

/// Notes the request that this thread is busy with, which has ended in a panic.
pub(super) fn note_panic() {
    if let (Some(path), Some(request)) = (PANICS_PATH.get(), current()) {
        let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        // Without the note the successor meets the same request: it is no worse than that.
        let _noted = file.and_then(|mut file| file.write_all(format!("{request}\n").as_bytes()));
    }
}

/// Panics are noted in `directory`, where no note is of another mount.
pub(super) fn note_panics_afresh(directory: &Path) {
    let path = directory.join(PANICS);
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "old notes of panics stay");
    }
    PANICS_PATH.get_or_init(|| path);
}

/// Panics are noted in `directory`, where predecessors have noted theirs. These requests are not to be carried out again.
pub(super) fn note_panics(directory: &Path) -> HashSet<u64> {
    let path = PANICS_PATH.get_or_init(|| directory.join(PANICS));
    let text = std::fs::read(path).unwrap_or_default();
    let recent = &text[text.len().saturating_sub(PANICS_BYTES_MAX)..];
    let lines = recent.split(|byte| *byte == b'\n');
    lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect()
}
