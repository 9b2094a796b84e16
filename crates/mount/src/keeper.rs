//! The keeper's main: what is to be done with a mount that has no worker any more, and never will have.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use supervisor::keeper::Inheritance;
use wire::worker::{CONFIG, MountConfig};

use crate::mountpoint::{Mounts, Unmount, UnmountError, unmount};
use crate::worker::log;

/// Runs the keeper of one mount. `arguments` are those after the one that names this part.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    // SAFETY: this process has opened nothing yet, so the descriptors are those that it was started with.
    let inheritance = match unsafe { Inheritance::take(arguments) } {
        Ok(inheritance) => inheritance,
        Err(error) => {
            eprintln!("stead keeper: {error}");
            return ExitCode::FAILURE;
        }
    };
    log::start();
    let directory = inheritance.directory.clone();
    match supervisor::keeper::run(inheritance, |_| give_up(&directory)) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(_)) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!(%error, "the keeper failed");
            ExitCode::FAILURE
        }
    }
}

/// Ends whatever waits for the mount, and makes its directory a directory again.
fn give_up(directory: &Path) {
    match File::open(directory.join(CONFIG)).and_then(MountConfig::read) {
        Ok(config) => abort(config.dir.as_path()),
        Err(error) => tracing::error!(%error, "it is not known where the mount is"),
    }
}

/// Ends every request that waits for the mount of ours at `dir`, if there is one, and takes it out of the tree. A
/// worker that was killed and has a thread in the kernel holds the connection open until its requests are ended so.
pub fn abort(dir: &Path) {
    let mounts = match Mounts::read() {
        Ok(mounts) => mounts,
        Err(error) => return tracing::error!(%error, "could not see what is mounted"),
    };
    let Some(entry) = mounts.at(dir).filter(|entry| entry.is_ours()) else { return };
    if let Err(error) = entry.end_requests(&mounts) {
        tracing::error!(%error, "what waits for the mount was not ended");
    }
    match unmount(dir, Unmount::Abort) {
        Ok(()) | Err(UnmountError::NotMounted(_)) => {}
        Err(error) => tracing::error!(%error, "the mount was not detached"),
    }
}
