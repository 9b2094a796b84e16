//! Removing a directory with everything in it.
//!
//! Everything is removed by its name in a directory that is open, and a directory is gone into only if it is one and on the
//! file system of the first: a symlink is removed, not followed, and what is mounted below stays.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use wire::agent::Reply;
use wire::agent::file::{FileReply, Kind, Place};
use wire::agent::name::{Name, RelativePath};

use crate::failure::{failure, number};
use crate::file::find::{PAGE_TIME, open_directory_at, path_below};
use crate::file::listing::{Names, PAGE_BYTES};
use crate::session::{Outcome, Session};
use crate::stat;
use crate::streamed::{Page, Task};

/// The most directories inside each other; each is open while there is something in it.
const DEPTH_MAX: usize = 1024;

/// How often a directory is read again in which there are still names: others may put some there meanwhile, and some file
/// systems leave names out while others are removed.
const READINGS_MAX: u32 = 4;

/// What a path takes in a page besides itself, in estimate.
const KEPT_BYTES: usize = 8;

struct Removal {
    directory: OwnedFd,
    device: u64,
    /// What is to be removed first, until it has been begun with.
    first: Option<Name>,
    /// The directories on the way down, the innermost last.
    open: Vec<Opened>,
}

struct Opened {
    names: Names,
    /// In the directory above.
    name: Name,
    path: RelativePath,
    readings: u32,
    /// Something in it could not be removed, so neither can it.
    keeps: bool,
}

#[derive(Default)]
struct Told {
    removed: u64,
    kept: Vec<(RelativePath, wire::agent::Errno)>,
    bytes: usize,
}

impl Told {
    fn kept(&mut self, path: RelativePath, errno: Errno) {
        self.bytes += path.as_bytes().len() + KEPT_BYTES;
        self.kept.push((path, number(errno)));
    }
}

impl Session {
    pub(crate) fn remove_tree(&self, place: &Place, name: Name) -> Outcome {
        let begin = || -> Result<Removal, Errno> {
            let path = self.export_to_change()?.directory(place)?;
            let (_, device) = stat::kind_at(&path, name.as_bytes())?;
            let directory = rustix::io::fcntl_dupfd_cloexec(&*path, 0)?;
            Ok(Removal { directory, device, first: Some(name), open: Vec::new() })
        };
        Outcome::streamed(begin().map_err(failure))
    }
}

impl Task for Removal {
    fn next(&mut self, _: &Session) -> Result<Page, Errno> {
        let deadline = Instant::now() + PAGE_TIME;
        let mut told = Told::default();
        if let Some(first) = self.first.take() {
            self.remove(first, &mut told);
        }
        while !self.open.is_empty() && told.bytes < PAGE_BYTES && Instant::now() < deadline {
            self.go_on(&mut told);
        }
        let last = self.open.is_empty();
        let reply = FileReply::TreeRemoved { removed: told.removed, kept: told.kept };
        Ok(Page { reply: Reply::File(reply), payload: Vec::new(), last })
    }
}

impl Removal {
    /// Removes the next name of the innermost directory, or that directory itself.
    fn go_on(&mut self, told: &mut Told) {
        let Some(innermost) = self.open.last_mut() else { return };
        match innermost.names.next() {
            Ok(Some((name, _))) => self.remove(name, told),
            Ok(None) => self.leave(told),
            Err(errno) => {
                told.kept(innermost.path.clone(), errno);
                innermost.keeps = true;
                self.leave(told);
            }
        }
    }

    /// The directory that names are removed from.
    fn innermost(&self) -> &OwnedFd {
        self.open.last().map_or(&self.directory, |opened| opened.names.directory())
    }

    /// Removes a name of the innermost directory, or goes into it.
    fn remove(&mut self, name: Name, told: &mut Told) {
        let within = self.open.last().map(|opened| opened.path.clone()).unwrap_or_default();
        let Some(path) = path_below(&within, &name) else {
            return self.keep(within, Errno::NAMETOOLONG, told);
        };
        match unlinkat(self.innermost(), name.as_bytes(), AtFlags::empty()) {
            Ok(()) => told.removed += 1,
            // Somebody else was quicker.
            Err(Errno::NOENT) => {}
            // What Linux and POSIX say of a directory.
            Err(refused @ (Errno::ISDIR | Errno::PERM)) => match self.enter(&name, &path) {
                Ok(opened) => self.open.push(opened),
                Err(Errno::NOTDIR | Errno::LOOP) => self.keep(path, refused, told),
                Err(errno) => self.keep(path, errno, told),
            },
            Err(errno) => self.keep(path, errno, told),
        }
    }

    fn enter(&self, name: &Name, path: &RelativePath) -> Result<Opened, Errno> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Errno::MFILE);
        }
        let opened = open_directory_at(self.innermost(), name)?;
        let (id, kind) = stat::id_of(&opened)?;
        if kind != Kind::Directory || id.device != self.device {
            return Err(Errno::XDEV);
        }
        Ok(Opened {
            names: Names::of(opened),
            name: name.clone(),
            path: path.clone(),
            readings: 1,
            keeps: false,
        })
    }

    /// Removes the innermost directory, in which nothing is left.
    fn leave(&mut self, told: &mut Told) {
        let Some(Opened { names, name, path, readings, keeps }) = self.open.pop() else { return };
        if keeps {
            return self.keep_above();
        }
        match unlinkat(self.innermost(), name.as_bytes(), AtFlags::REMOVEDIR) {
            Ok(()) => told.removed += 1,
            Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if readings < READINGS_MAX => {
                match names.again() {
                    Ok(names) => self.open.push(Opened { names, name, path, readings: readings + 1, keeps }),
                    Err(errno) => self.keep(path, errno, told),
                };
            }
            Err(errno) => self.keep(path, errno, told),
        }
    }

    fn keep(&mut self, path: RelativePath, errno: Errno, told: &mut Told) {
        told.kept(path, errno);
        self.keep_above();
    }

    fn keep_above(&mut self) {
        if let Some(above) = self.open.last_mut() {
            above.keeps = true;
        }
    }
}
