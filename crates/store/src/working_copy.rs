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
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, openat, statat};

use crate::Hash;
use crate::node::{Kind, Time};
use crate::objects::git;
use index::GitIndex;

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
    pub(crate) size: u64,
    pub(crate) modified: Time,
}

impl WorkingCopy {
    /// The one that a directory is within; `None` if it is within none. Asks git.
    pub fn discover(within: &Path) -> Option<WorkingCopy> {
        let words = ["rev-parse", "--path-format=absolute", "--show-toplevel", "--git-path", "index"];
        // A repository without one is an error to git.
        let said = git(within, "find a working copy", |git| git.arg("-C").arg(within).args(words)).ok()?;
        let lines: Vec<&[u8]> = said.strip_suffix(b"\n")?.split(|byte| *byte == b'\n').collect();
        // Of a path with an end of line in it, nobody knows which it is.
        let [root, index] = lines[..] else { return None };
        let path = |line: &[u8]| PathBuf::from(OsStr::from_bytes(line));
        Some(WorkingCopy { root: path(root), index: Some(path(index)) })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What git knows of its files: `None` if that cannot be told.
    pub(crate) fn git_index(&self, hash: Hash) -> Option<GitIndex> {
        GitIndex::read(self.index.as_ref()?, hash)
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
}

/// What there is of a name in a directory. What is mounted over it is what is told of.
pub(crate) fn look_in(directory: &OwnedFd, name: &[u8]) -> io::Result<Seen> {
    let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Seen { kind: kind_of(&found), size: found.st_size.cast_unsigned(), modified: modified(&found) })
}

fn kind_of(found: &Stat) -> Kind {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => Kind::File,
    }
}

fn modified(found: &Stat) -> Time {
    Time { seconds: found.st_mtime, nanoseconds: u32::try_from(found.st_mtime_nsec).unwrap_or(0) }
}
