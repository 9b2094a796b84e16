//! Mount points: which directories can be one, what of ours is mounted, taking it away, and finding what dead servers have left behind.
//!
//! What is mounted, and how it is taken away, each system says in a way of its own: `system`.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, io, thread};

use rustix::io::Errno;
use thiserror::Error;

use crate::system;
pub use crate::system::{AbortError, MountEntry, Mounts, TableError, UnmountError, unmount};

/// What a mount point may contain. What is in it is hidden while the mount lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing.
    Empty,
    /// Anything.
    Any,
}

/// Why a directory cannot be a mount point.
#[derive(Debug, Error)]
pub enum MountPointError {
    /// There is nothing of that name.
    #[error("mount point `{}` does not exist", .0.display())]
    Missing(PathBuf),
    /// It is a file.
    #[error("mount point `{}` is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Its contents would be hidden.
    #[error("mount point `{}` is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// One of ours is there.
    #[error("`{}` is already a mount of {}", path.display(), String::from_utf8_lossy(source_name))]
    AlreadyMounted {
        /// Where.
        path: PathBuf,
        /// What the mount table says is mounted.
        source_name: Vec<u8>,
    },
    /// A mount of some kind whose server is dead.
    #[error("`{}` is a mount whose server is gone; unmount it first", .0.display())]
    Stale(PathBuf),
    /// Looking failed.
    #[error("could not examine mount point `{}`", path.display())]
    Examine {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is mounted is not known.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A directory that can be mounted on, by its absolute path without symbolic links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    path: PathBuf,
}

impl MountPoint {
    /// Checks that `path` is a directory, is no mount of ours, and contains at most what `contents` allows.
    /// Asks no server of a mount that is at `path`, so that a dead one cannot block it.
    pub fn check(path: &Path, contents: Contents) -> Result<Self, MountPointError> {
        Self::check_against(path, contents, &Mounts::read()?)
    }

    fn check_against(path: &Path, contents: Contents, mounts: &Mounts) -> Result<Self, MountPointError> {
        let path = fs::canonicalize(path).map_err(|source| unexaminable(path, source))?;
        if let Some(mount) = mounts.at(&path).filter(|mount| mount.is_ours()) {
            if mount.liveness() == Liveness::Stale {
                return Err(MountPointError::Stale(path));
            }
            return Err(MountPointError::AlreadyMounted { path, source_name: mount.source.clone() });
        }
        let metadata = fs::metadata(&path).map_err(|source| unexaminable(&path, source))?;
        if !metadata.is_dir() {
            return Err(MountPointError::NotADirectory(path));
        }
        if contents == Contents::Empty {
            let mut entries = fs::read_dir(&path).map_err(|source| unexaminable(&path, source))?;
            if entries.next().is_some() {
                return Err(MountPointError::NotEmpty(path));
            }
        }
        Ok(Self { path })
    }

    /// Absolute, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn unexaminable(path: &Path, source: io::Error) -> MountPointError {
    let path = path.to_path_buf();
    match source.raw_os_error() {
        Some(libc::ENOENT) => MountPointError::Missing(path),
        Some(libc::ENOTDIR) => MountPointError::NotADirectory(path),
        Some(libc::ENOTCONN) => MountPointError::Stale(path),
        _ => MountPointError::Examine { path, source },
    }
}

/// What can be said of a mount's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It answered.
    Alive,
    /// There is none any more, and the kernel says so at every access.
    Stale,
    /// It has not answered within [`PROBE_WAIT_MAX`].
    Silent,
    /// Looking failed with this: EACCES is a mount that is private to another user.
    Unknown(Errno),
}

/// A server that is alive answers for its root at once, or within a round trip if it has to ask.
pub const PROBE_WAIT_MAX: Duration = Duration::from_secs(2);

impl MountEntry {
    /// Asks the server for its root. Waits at most [`PROBE_WAIT_MAX`]; with a server that is silent for longer, a thread is left
    /// behind until it answers or the mount ends.
    pub fn liveness(&self) -> Liveness {
        let (answer, answered) = mpsc::channel();
        let path = self.path.clone();
        let probe = move || {
            // Nobody listens any more if this took too long.
            let _ = answer.send(system::ask_for_root(&path));
        };
        if let Err(error) = thread::Builder::new().name("mount-probe".into()).spawn(probe) {
            return Liveness::Unknown(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN));
        }
        match answered.recv_timeout(PROBE_WAIT_MAX) {
            Ok(Ok(())) => Liveness::Alive,
            Ok(Err(errno)) if system::GONE.contains(&errno) => Liveness::Stale,
            Ok(Err(errno)) => Liveness::Unknown(errno),
            Err(_) => Liveness::Silent,
        }
    }
}

/// How a mount ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Fails with [`UnmountError::Busy`] while a process has a file or its working directory in it. Writes
    /// what is left in the page cache first, so the server has to be alive.
    IfIdle,
    /// Takes the mount out of the tree at once; it ends when the last process lets go. Asks the server
    /// nothing.
    Detach,
    /// The same, and ends every request that waits for the server where the system lets this user; elsewhere that takes
    /// [`MountEntry::end_requests`].
    Abort,
}

/// A mount of ours whose server was dead.
#[derive(Debug)]
pub struct StaleMount {
    /// What it was.
    pub mount: MountEntry,
    /// Whether it is gone now.
    pub detached: Result<(), UnmountError>,
}

/// Detaches those of our mounts that are `wanted` and whose servers are dead. A mount that a process still
/// holds open, as a keeper does, is not dead. Takes at most [`PROBE_WAIT_MAX`] for each wanted mount.
pub fn detach_stale(wanted: impl Fn(&MountEntry) -> bool) -> Result<Vec<StaleMount>, TableError> {
    let mounts = Mounts::read()?;
    let mine = mounts.ours().filter(|mount| wanted(mount));
    let stale = mine.filter(|mount| mount.liveness() == Liveness::Stale);
    let detach = |mount: &MountEntry| StaleMount {
        mount: mount.clone(),
        detached: unmount(&mount.path, Unmount::Detach),
    };
    Ok(stale.map(detach).collect())
}

/// The mount of ours that the file at `path` belongs to. Told by the file system that it is on, so that binding a part of
/// the mount to another place hides nothing.
pub fn ours_around(path: &Path) -> Result<Option<MountEntry>, AroundError> {
    system::ours_around(&Mounts::read()?, path).map_err(AroundError::Examine)
}

/// It is not known what a file belongs to.
#[derive(Debug, Error)]
pub enum AroundError {
    /// What is mounted is not known.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The file cannot be looked at.
    #[error("could not look at it")]
    Examine(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_an_existing_empty_directory() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let file = root.join("file");
        fs::write(&file, b"").unwrap();
        let check = |path: &Path, contents| MountPoint::check(path, contents);
        assert!(matches!(
            check(&root.join("none"), Contents::Empty),
            Err(MountPointError::Missing(path)) if path == root.join("none")
        ));
        assert!(matches!(check(&file, Contents::Empty), Err(MountPointError::NotADirectory(_))));
        assert!(matches!(check(&file.join("x"), Contents::Empty), Err(MountPointError::NotADirectory(_))));
        assert!(matches!(check(&root, Contents::Empty), Err(MountPointError::NotEmpty(_))));
        assert_eq!(check(&root, Contents::Any).unwrap().path(), root);
        let link = root.join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        assert_eq!(check(&link, Contents::Any).unwrap().path(), root);
    }

    #[test]
    fn a_mount_of_ours_is_not_mounted_on_again() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let line = format!("40 1 0:50 / {} rw - fuse.stead ssh://far/x rw\n", root.display());
        let mounts = Mounts::parse(line.as_bytes()).unwrap();
        let refused = MountPoint::check_against(&root, Contents::Empty, &mounts).unwrap_err();
        assert_eq!(refused.to_string(), format!("`{}` is already a mount of ssh://far/x", root.display()));
    }
}
