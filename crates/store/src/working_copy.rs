//! The working copy that a thread was made from: what is in it, as it is at the moment. Nothing is ever written there.
//!
//! All paths are names joined by slashes, from its root. The root is opened anew for each question, so that a thread keeps nobody from
//! unmounting or removing it; what is gone is not there, and no error. From the root on (`openat2`, on Linux) no symlink is followed, no
//! other file system is entered and nothing above is reached, whatever is put where a directory was. So what is mounted in it, the
//! directory of a thread too, is not seen; on other systems nothing is.
//!
//! [`index`] is what git knows of its files.

pub(crate) mod index;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::error::fails;
use crate::git::GIT_STATUS_TIMEOUT;
use crate::node::{Kind, Name, Time};
use crate::objects::{git, git_command, output_from};
use crate::{Error, Hash, Refusal, Result};
use index::GitIndex;

/// What makes a directory the root of a repository, or of a worktree of one.
const POINTER: &[u8] = crate::worktree::POINTER;

/// Names of one directory that are looked at: more than any tool makes.
const NAMES_MAX: usize = 1 << 20;

/// A working copy of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkingCopy {
    root: PathBuf,
    index: Option<PathBuf>,
}

/// A file in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    /// The file system's, of the file.
    pub(crate) number: u64,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) accessed: Time,
    pub(crate) modified: Time,
    pub(crate) changed: Time,
}

impl WorkingCopy {
    /// The one whose root this is. git is not asked.
    pub(crate) fn at(root: &Path) -> WorkingCopy {
        WorkingCopy { root: root.to_owned(), index: None }
    }

    /// One that git has told of, and what git knows of its files.
    pub(crate) fn with_index(root: &Path, index: &Path) -> WorkingCopy {
        WorkingCopy { root: root.to_owned(), index: Some(index.to_owned()) }
    }

    /// The one that a directory is within; `None` if it is within none: a repository may say that its working copy is elsewhere. Asks git.
    pub fn discover(within: &Path) -> Option<WorkingCopy> {
        const PATHS: [&str; 4] = ["--path-format=absolute", "--show-toplevel", "--git-path", "index"];
        let words = ["rev-parse", "--is-inside-work-tree"].into_iter().chain(PATHS);
        // A repository without one is an error to git.
        let said = git(within, "find a working copy", |git| git.arg("-C").arg(within).args(words)).ok()?;
        let lines: Vec<&[u8]> = said.strip_suffix(b"\n")?.split(|byte| *byte == b'\n').collect();
        // Of a path with an end of line in it, nobody knows which it is.
        let [b"true", root, index] = lines[..] else { return None };
        let path = |line| Path::new(OsStr::from_bytes(line));
        Some(WorkingCopy::with_index(path(root), path(index)))
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What git knows of its files: `None` if that cannot be told.
    pub(crate) fn git_index(&self, hash: Hash) -> Option<GitIndex> {
        GitIndex::read(self.index.as_ref()?, hash)
    }

    /// What is ignored in it, by git's own rules: files, symlinks, and directories in which nothing is that is not. What is neither tracked
    /// nor ignored is not among it. Looks into no directory that is ignored.
    pub(crate) fn ignored(&self) -> Result<Vec<Vec<u8>>> {
        const WHAT: &str = "look for what is ignored";
        let mut command = git_command();
        command.current_dir(&self.root).env("GIT_OPTIONAL_LOCKS", "0").args(["-c", "core.fsmonitor=false"]);
        // A repository may be elsewhere than in its working copy, and is not found from there.
        if let Some(repository) = self.index.as_deref().and_then(Path::parent) {
            command.env("GIT_DIR", repository).env("GIT_WORK_TREE", &self.root);
        }
        command.args(["ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z"]);
        let said = output_from(command, Stdio::null(), &self.root, WHAT, GIT_STATUS_TIMEOUT)?;
        let paths = said.split(|byte| *byte == 0).filter(|path| !path.is_empty());
        Ok(paths.map(|path| path.strip_suffix(b"/").unwrap_or(path).to_vec()).collect())
    }

    /// A directory, to look at what is in it.
    pub(crate) fn open_directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &self.root, flags, Mode::empty())?;
        match path {
            b"" => Ok(root),
            path => crate::system::open_beneath(root.as_fd(), path, flags),
        }
    }

    /// What there is at a path, if it is a file, a directory or a symlink. A directory that is a repository of its own, or a worktree, is
    /// not seen.
    pub(crate) fn look(&self, path: &[u8]) -> Result<Option<Seen>> {
        let found = self.open_directory(b"").and_then(|root| look_beneath(&root, path));
        self.there(path, found).map(Option::flatten)
    }

    /// What is in a directory, in no order; nothing if it is not there.
    pub(crate) fn list(&self, path: &[u8]) -> Result<Vec<(Name, Seen)>> {
        let found = self.open_directory(path).and_then(|directory| {
            let mut found = Vec::new();
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b".." | POINTER) {
                    continue;
                }
                match look_beneath(&directory, name) {
                    Ok(Some(seen)) => found.push((name.into(), seen)),
                    Ok(None) => {}
                    // It has gone since.
                    Err(error) if is_absence(&error) => {}
                    Err(error) => return Err(error),
                }
                if found.len() > NAMES_MAX {
                    return Err(Errno::FBIG.into());
                }
            }
            Ok(found)
        });
        self.there(path, found).map(Option::unwrap_or_default)
    }

    /// A regular file, to be read.
    pub(crate) fn open(&self, path: &[u8]) -> Result<Option<(File, Seen)>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = self.open_directory(b"").and_then(|root| {
            let file = File::from(crate::system::open_beneath(root.as_fd(), path, flags)?);
            let seen = seen_of(&fstat(&file)?);
            Ok((file, seen))
        });
        self.there(path, opened)
    }

    /// What a symlink holds.
    pub(crate) fn read_link(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let read = self.open_directory(b"").and_then(|root| {
            let link = crate::system::open_beneath(root.as_fd(), path, crate::system::TO_LOOK)?;
            Ok(readlinkat(&link, "", Vec::new())?.into_bytes())
        });
        self.there(path, read)
    }

    fn there<T>(&self, path: &[u8], outcome: io::Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Refusal::Denied.into()),
            Err(error) => Err(self.failed(path)(error)),
        }
    }

    fn failed(&self, path: &[u8]) -> impl FnOnce(io::Error) -> Error {
        let path = self.root.join(OsStr::from_bytes(path));
        move |error| fails("look at", &path)(error)
    }
}

/// Whether it says that a path does not lead to anything here.
fn is_absence(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NXIO))
        || error.kind() == io::ErrorKind::Unsupported
}

fn look_beneath(directory: &OwnedFd, path: &[u8]) -> io::Result<Option<Seen>> {
    let found = crate::system::open_beneath(directory.as_fd(), path, crate::system::TO_LOOK)?;
    let seen = seen_of(&fstat(&found)?);
    let is_shown = match seen.kind {
        Kind::File | Kind::Symlink => true,
        // Whoever may not look has it for one that is not.
        Kind::Directory => {
            crate::system::open_beneath(found.as_fd(), POINTER, crate::system::TO_LOOK).is_err()
        }
        Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => false,
    };
    Ok(is_shown.then_some(seen))
}

/// What there is of a name in a directory. What is mounted over it is what is told of.
pub(crate) fn look_in(directory: &OwnedFd, name: &[u8]) -> io::Result<Seen> {
    Ok(seen_of(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?))
}

/// What an open file is.
pub(crate) fn look_at(file: &File) -> io::Result<Seen> {
    Ok(seen_of(&fstat(file)?))
}

// The types of these differ from system to system.
#[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions, reason = "see above")]
fn seen_of(found: &Stat) -> Seen {
    let time = |seconds, nanoseconds| Time { seconds, nanoseconds };
    let nanoseconds = |number| u32::try_from(number).unwrap_or(0);
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => Kind::File,
    };
    Seen {
        kind,
        number: found.st_ino,
        mode: u16::try_from(found.st_mode & 0o7777).unwrap_or(0),
        uid: found.st_uid,
        gid: found.st_gid,
        size: u64::try_from(found.st_size).unwrap_or(0),
        accessed: time(found.st_atime, nanoseconds(found.st_atime_nsec)),
        modified: time(found.st_mtime, nanoseconds(found.st_mtime_nsec)),
        changed: time(found.st_ctime, nanoseconds(found.st_ctime_nsec)),
    }
}
