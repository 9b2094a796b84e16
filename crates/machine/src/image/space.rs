//! Room for what is being written, promised to one at a time.
//!
//! ```text
//!  free for a new one  =  free on the file system  -  what others have been promised and have not written yet  -  what is kept
//! ```
//!
//! What somebody has written of his part is seen from what his file, or his directory of files, takes on the disk: so it does not
//! matter which program writes it. It is seen before what is free is, so that what is written meanwhile counts twice and not at all
//! for free. A promise ends when its [`Promise`] is dropped, whole or half used. There is one list for the process, as there is one
//! disk.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use wire::api::ErrorKind;

use crate::error::{Error, Result};

/// What the file system that images are in keeps for others.
const KEPT_FREE_BYTES: u64 = 256 << 20;

/// All that is promised: as many as are made at once have one or two.
static PROMISED: Mutex<Vec<Promised>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Promised {
    path: PathBuf,
    device: u64,
    bytes: u64,
}

/// Room for what is to be at a path, for as long as this is there.
#[derive(Debug)]
#[must_use]
pub(super) struct Promise {
    path: PathBuf,
}

impl Promised {
    /// What is not written of it yet.
    fn left(&self) -> u64 {
        self.bytes.saturating_sub(occupied(&self.path))
    }
}

/// Promises room for so many bytes below an open file or directory, which nobody else has a promise for. Refuses what would fill the
/// file system that it is in.
pub(super) fn promise(path: &Path, file: &File, bytes: u64) -> Result<Promise> {
    let failed = |error: std::io::Error| Error::file("look at", path, &error);
    let device = file.metadata().map_err(failed)?.dev();
    let mut promised = promised();
    let others = promised.iter().filter(|other| other.device == device);
    let others = others.fold(0_u64, |sum, other| sum.saturating_add(other.left()));
    let space = rustix::fs::fstatvfs(file).map_err(|errno| failed(errno.into()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize).saturating_sub(others);
    if bytes.saturating_add(KEPT_FREE_BYTES) <= free {
        promised.push(Promised { path: path.to_owned(), device, bytes });
        return Ok(Promise { path: path.to_owned() });
    }
    let message =
        format!("the image takes up to {} MiB, and {} MiB are free for it", bytes >> 20, free >> 20);
    let message = match others >> 20 {
        0 => message,
        others => format!("{message}, as other images that are being made take up to {others} MiB"),
    };
    Err(Error::new(ErrorKind::Failure, message)
        .hint("make room below STEAD_HOME, or delete images: stead image list"))
}

impl Drop for Promise {
    fn drop(&mut self) {
        promised().retain(|promised| promised.path != self.path);
    }
}

fn promised() -> MutexGuard<'static, Vec<Promised>> {
    // It is changed in single steps.
    PROMISED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a file, or the files in a directory, take on the disk.
fn occupied(path: &Path) -> u64 {
    let of = |found: fs::Metadata| found.blocks() * 512;
    let own = path.symlink_metadata().map_or(0, of);
    let within = fs::read_dir(path).into_iter().flatten().flatten();
    within.filter_map(|entry| entry.metadata().ok()).fold(own, |sum, found| sum.saturating_add(of(found)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn room_is_promised_once_and_what_is_written_of_it_is_not_counted_again() {
        let scratch = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = scratch.path().join(name);
            (File::create_new(&path).unwrap(), path)
        };
        let ((one, one_path), (two, two_path)) = (make("one"), make("two"));
        let space = rustix::fs::fstatvfs(&one).unwrap();
        let free = space.f_bavail * space.f_frsize;
        // Each would have room by itself, and both together have none.
        let bytes = (free / 8 * 5).saturating_sub(KEPT_FREE_BYTES);
        let first = promise(&one_path, &one, bytes).unwrap();
        let error = promise(&two_path, &two, bytes).unwrap_err();
        assert!(error.message.contains("are free for it, as other images"), "{error}");
        drop(first);
        drop(promise(&two_path, &two, bytes).unwrap());
        assert!(promised().iter().all(|promised| !promised.path.starts_with(scratch.path())));
    }

    #[test]
    fn what_is_written_is_no_part_of_what_is_left() {
        let scratch = tempfile::tempdir().unwrap();
        let left = || Promised { path: scratch.path().to_owned(), device: 0, bytes: 1 << 20 }.left();
        let before = left();
        let mut file = File::create_new(scratch.path().join("layer")).unwrap();
        file.write_all(&[1; 512 << 10]).unwrap();
        file.sync_all().unwrap();
        assert!(left() <= before - (512 << 10), "{before}");
        file.write_all(&[1; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        assert_eq!(left(), 0);
    }
}
