//! Who is alive in a directory: a process that works there holds a shared lock on it, and whoever gets it alone knows for
//! certain that there is none.
//!
//! The kernel gives a lock back when the last thread of its process has ended, however that happens: `/proc` need not be
//! read, and no time be waited. A process that was killed and has a thread which waits in the kernel is still there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::time::Instant;

/// How long somebody who only looks whether anybody is there may hold a directory alone.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// How often it is tried again meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// That this process is there. Ends with it.
#[derive(Debug)]
pub struct Presence {
    _directory: File,
    was_alone: bool,
}

/// That nobody else is there, and nobody comes as long as this lives.
#[derive(Debug)]
pub struct Alone {
    _directory: File,
}

/// The lock cannot be used: it is not known who is there.
#[derive(Debug, thiserror::Error)]
#[error("could not lock `{}`", path.display())]
pub struct PresenceError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl PresenceError {
    /// Whether there is no such directory.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

impl Presence {
    /// Says that this process is there. An error when somebody else wants to be alone there, and not only for a moment.
    pub async fn claim(directory: &Path) -> Result<Presence, PresenceError> {
        let failed = |source| PresenceError { path: directory.to_owned(), source };
        let file = File::open(directory).map_err(failed)?;
        let was_alone = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        let until = Instant::now() + LOOK_WAIT;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Ok(Presence { _directory: file, was_alone }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }

    /// Whether it is certain that nobody else was there when this process came.
    pub fn was_alone(&self) -> bool {
        self.was_alone
    }
}

/// Takes the directory for this process alone; `None` while anybody else is there.
pub fn alone(directory: &Path) -> Result<Option<Alone>, PresenceError> {
    let failed = |source| PresenceError { path: directory.to_owned(), source };
    let file = File::open(directory).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Alone { _directory: file })),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(failed(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_alone_where_anybody_is() {
        let scratch = tempfile::tempdir().unwrap();
        let first = Presence::claim(scratch.path()).await.unwrap();
        let second = Presence::claim(scratch.path()).await.unwrap();
        assert_eq!((first.was_alone(), second.was_alone()), (true, false));
        assert!(alone(scratch.path()).unwrap().is_none());
        drop(first);
        assert!(alone(scratch.path()).unwrap().is_none());
        drop(second);
        let alone_there = alone(scratch.path()).unwrap().unwrap();
        assert!(Presence::claim(scratch.path()).await.is_err());
        assert!(alone(scratch.path()).unwrap().is_none());
        drop(alone_there);
        assert!(Presence::claim(scratch.path()).await.is_ok());
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_is_told_apart() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("gone");
        assert!(alone(&path).unwrap_err().is_missing());
        assert!(Presence::claim(&path).await.unwrap_err().is_missing());
    }
}
