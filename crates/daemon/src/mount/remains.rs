//! What is left of a mount: in the tree, and in its own directory.

use std::io;
use std::path::{Path, PathBuf};

use ::mount::mountpoint::{self, Mounts, Unmount, UnmountError, unmount};
use supervisor::keeper::{CONTROL_SOCKET, FAILED, KEEPER_LOG, KEEPER_SOCKET, LOG, PLAN};
use wire::worker::{CONFIG, SESSION};

use super::plan::remove_made;
use crate::failure::chain;

/// Files that are of no value once there is no process any more, as are those that are empty. What a worker writes
/// besides them may be the only copy of something.
const WORTHLESS: &[&str] = &[
    CONFIG,
    PLAN,
    FAILED,
    KEEPER_SOCKET,
    CONTROL_SOCKET,
    SESSION,
    "session.new",
    "state",
    "nfs-places",
    "panics",
];

/// What it takes to replay what is unsaved: of which source it is, and where its files are.
const FOR_REPLAY: &[&str] = &[CONFIG, "state"];

/// Logs, which may have been put aside.
const LOGS: &[&str] = &[LOG, KEEPER_LOG];

/// How the reports of dead workers begin.
pub(super) const REPORT_PREFIX: &str = "crash-";

/// What to do with the files of a mount that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// Nothing in them is of value.
    Remove,
    /// The worker may have left something of value: only its log is removed, and the directory if that was all.
    KeepUnknown,
    /// Somebody may still be at them.
    KeepAll,
}

/// Whether files of a mount that is gone are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleaned {
    /// None.
    Removed,
    /// Some.
    Kept,
}

/// Removes what is left of a mount whose worker has ended. Blocks.
pub fn clean_up(dir: &Path, made: &[PathBuf], state_dir: &Path, leftover: Leftover) -> Cleaned {
    detach(dir);
    remove_made(made);
    let removed = match leftover {
        Leftover::Remove => std::fs::remove_dir_all(state_dir),
        Leftover::KeepAll => return Cleaned::Kept,
        Leftover::KeepUnknown => remove_worthless(state_dir).and_then(|()| std::fs::remove_dir(state_dir)),
    };
    match removed {
        Ok(()) => Cleaned::Removed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Cleaned::Removed,
        Err(error) => {
            tracing::warn!(dir = %state_dir.display(), %error, "files of a mount stay");
            Cleaned::Kept
        }
    }
}

fn remove_worthless(state_dir: &Path) -> io::Result<()> {
    for log in LOGS {
        supervisor::log::remove(&state_dir.join(log))?;
    }
    let is_unsaved = ::mount::unsaved::is_any(state_dir);
    if !is_unsaved {
        ::mount::unsaved::remove(state_dir)?;
    }
    for entry in std::fs::read_dir(state_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_worthless = WORTHLESS.iter().any(|known| name == *known)
            || name.as_encoded_bytes().starts_with(REPORT_PREFIX.as_bytes())
            || (entry.file_type()?.is_file() && entry.metadata()?.len() == 0);
        let is_needed = is_unsaved && FOR_REPLAY.iter().any(|needed| name == *needed);
        if is_worthless && !is_needed {
            std::fs::remove_file(state_dir.join(name))?;
        }
    }
    Ok(())
}

/// Ends whatever waits for a mount of ours, and takes it out of the tree, if there still is one. Blocks.
pub fn detach(dir: &Path) {
    /// Mounts that lie one on the other at one place: never more than one of ours.
    const LAYERS_MAX: usize = 4;
    for _ in 0..LAYERS_MAX {
        let mounts = match Mounts::read() {
            Ok(mounts) => mounts,
            Err(error) => return tracing::error!(error = chain(&error), "could not see what is mounted"),
        };
        let Some(entry) = mounts.at(dir).filter(|entry| entry.is_ours()) else { return };
        tracing::info!(dir = %dir.display(), "detaching what is left of a mount");
        if let Err(error) = entry.end_requests(&mounts) {
            tracing::warn!(error = chain(&error), "what waits for a mount was not ended");
        }
        match unmount(dir, Unmount::Abort) {
            Ok(()) | Err(UnmountError::NotMounted(_)) => {}
            Err(error) => return tracing::error!(error = chain(&error), "could not detach a mount"),
        }
    }
}

/// Detaches mounts of ours in `mounts_dir` whose servers are dead and of which no row tells: the database may be gone.
/// Mounts elsewhere may be those of another daemon. Blocks.
pub fn detach_stale(mounts_dir: &Path) {
    let stale = match mountpoint::detach_stale(|entry| entry.path.starts_with(mounts_dir)) {
        Ok(stale) => stale,
        Err(error) => return tracing::error!(error = chain(&error), "could not see what is mounted"),
    };
    for found in stale {
        let dir = found.mount.path.display();
        match found.detached {
            Ok(()) => tracing::warn!(%dir, "a dead mount was detached"),
            Err(error) => tracing::error!(%dir, error = chain(&error), "could not detach a dead mount"),
        }
    }
}
