//! One instance only.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Held as long as it lives. The kernel releases it when its process ends, however that happens. The file stays: a lock
/// on a file that somebody removed would exclude nobody.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("`{}` is locked{}", path.display(), pid.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Held {
        /// The file.
        path: PathBuf,
        /// Who, as that process wrote it down.
        pid: Option<u32>,
    },
    /// The file could not be opened or written.
    #[error("could not lock `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock without waiting, and writes this process's number into the file.
    pub fn acquire(path: &Path) -> Result<Lock, LockError> {
        let failed = |source: io::Error| LockError::File { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = holder(&mut file);
                return Err(LockError::Held { path: path.to_owned(), pid });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Lock { _file: file })
    }
}

fn holder(file: &mut File) -> Option<u32> {
    /// A number of 32 bits and its newline.
    const LINE_BYTES_MAX: u64 = 11;
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(LINE_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_the_next_and_says_who_holds_it() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("lock");
        let held = Lock::acquire(&path).unwrap();
        let error = Lock::acquire(&path).unwrap_err();
        assert!(
            matches!(error, LockError::Held { pid: Some(pid), .. } if pid == std::process::id()),
            "{error}"
        );
        drop(held);
        Lock::acquire(&path).unwrap();
    }

    #[test]
    fn a_link_in_its_place_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("lock");
        std::os::unix::fs::symlink(scratch.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(Lock::acquire(&path), Err(LockError::File { .. })));
        assert!(!scratch.path().join("elsewhere").exists());
    }
}
