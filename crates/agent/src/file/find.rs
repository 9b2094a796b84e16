//! Looking for names in a subtree.
//!
//! Directories are gone through by descriptor, each opened in the one it was found in and never through a symlink, the one
//! that was found last first. What waits to be gone through holds its parent's descriptor, so as many are open as the tree
//! is deep.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use wire::agent::file::{FileReply, Kind, Place};
use wire::agent::find::{FindQuery, Found, PATTERN_BYTES_MAX, PATTERNS_MAX};
use wire::agent::name::{Name, PATH_BYTES_MAX, RelativePath};
use wire::agent::{Failure, Reply};

use crate::failure::{failure, nonsense, number};
use crate::file::listing::{Names, PAGE_BYTES};
use crate::session::{Outcome, Session};
use crate::stat;
use crate::streamed::{Page, Task};

/// How long a page may be gathered: what was found is told soon, and a cancel is noticed.
pub(crate) const PAGE_TIME: Duration = Duration::from_millis(50);

/// How many names are looked at between two looks at the clock.
const NAMES_BETWEEN_LOOKS: usize = 256;

/// The most directories that wait to be gone through, each with its path. Those beyond are told as left out.
const PENDING_MAX: usize = 1 << 20;

/// What a name takes in a page besides its path, in estimate from above; with its attributes, and without.
const ENTRY_BYTES: usize = 110;
const NAME_BYTES: usize = 32;

struct Find {
    wanted: Wanted,
    pending: Vec<Waiting>,
    current: Option<Directory>,
}

/// The conditions, ready for use.
struct Wanted {
    names: Option<GlobSet>,
    query: FindQuery,
}

/// A directory that was found.
struct Waiting {
    parent: Arc<OwnedFd>,
    name: Name,
    path: RelativePath,
    depth: u32,
}

/// The directory that is gone through, and those that were found in it: their paths can be told, and there is room for them.
struct Directory {
    names: Names,
    path: RelativePath,
    depth: u32,
    found: Vec<Name>,
}

/// What has been gathered for a page.
#[derive(Default)]
struct Gathered {
    found: Vec<Found>,
    unread: Vec<(RelativePath, wire::agent::Errno)>,
    bytes: usize,
}

impl Session {
    pub(crate) fn find_names(&self, place: &Place, query: &FindQuery) -> Outcome {
        let begin = || -> Result<Find, Failure> {
            let wanted = Wanted::new(query)?;
            let path = self.export().and_then(|export| export.directory(place)).map_err(failure)?;
            // That the start can be read is worth an error; what is below it is left out when it cannot.
            let names = Names::open(&path, 0).map_err(failure)?;
            let start = Directory { names, path: RelativePath::default(), depth: 0, found: Vec::new() };
            Ok(Find { wanted, pending: Vec::new(), current: Some(start) })
        };
        Outcome::streamed(begin())
    }
}

impl Wanted {
    fn new(query: &FindQuery) -> Result<Wanted, Failure> {
        let names = match &query.names[..] {
            [] => None,
            patterns => Some(patterns_of(patterns, query.ignore_case)?),
        };
        Ok(Wanted { names, query: query.clone() })
    }

    fn fits(&self, name: &Name, kind: Kind) -> bool {
        let name = OsStr::from_bytes(name.as_bytes());
        let named = self.names.as_ref().is_none_or(|names| names.is_match(name));
        named && (self.query.kinds.is_empty() || self.query.kinds.contains(&kind))
    }
}

fn patterns_of(patterns: &[String], ignore_case: bool) -> Result<GlobSet, Failure> {
    if patterns.len() > PATTERNS_MAX {
        return Err(nonsense(format_args!("more than {PATTERNS_MAX} patterns")));
    }
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(nonsense(format_args!("a pattern of more than {PATTERN_BYTES_MAX} bytes")));
        }
        set.add(GlobBuilder::new(pattern).case_insensitive(ignore_case).build().map_err(nonsense)?);
    }
    set.build().map_err(nonsense)
}

/// The path of an entry, unless it is longer than any that can be told.
pub(crate) fn path_below(directory: &RelativePath, name: &Name) -> Option<RelativePath> {
    let length = directory.as_bytes().len() + 1 + name.as_bytes().len();
    (length <= PATH_BYTES_MAX).then(|| directory.join(name))
}

/// Opens a directory of a directory, which is not reached through a symlink.
pub(crate) fn open_directory_at(parent: &OwnedFd, name: &Name) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name.as_bytes(), flags, Mode::empty())
}

impl Task for Find {
    fn next(&mut self, _: &Session) -> Result<Page, Errno> {
        let deadline = Instant::now() + PAGE_TIME;
        let mut page = Gathered::default();
        let mut last = false;
        while page.bytes < PAGE_BYTES && Instant::now() < deadline {
            let Some(directory) = &mut self.current else {
                match self.pending.pop() {
                    Some(next) => self.current = page.open(next),
                    None => {
                        last = true;
                        break;
                    }
                }
                continue;
            };
            let room = PENDING_MAX.saturating_sub(self.pending.len());
            match directory.look_at_some(&self.wanted, room, &mut page) {
                Ok(Progress::More) => continue,
                Ok(Progress::End) => {}
                Err(errno) => page.unread(directory.path.clone(), errno),
            }
            self.finish_directory();
        }
        let reply = FileReply::Found { found: page.found, unread: page.unread };
        Ok(Page { reply: Reply::File(reply), payload: Vec::new(), last })
    }
}

enum Progress {
    More,
    End,
}

impl Find {
    /// What was found in it is to be gone through next.
    fn finish_directory(&mut self) {
        let Some(Directory { names, path, depth, found }) = self.current.take() else {
            return;
        };
        let parent = Arc::new(names.into_directory());
        let waiting = |name: Name| {
            let path = path.join(&name);
            Waiting { parent: parent.clone(), name, path, depth: depth + 1 }
        };
        self.pending.extend(found.into_iter().rev().map(waiting));
    }
}

impl Directory {
    /// `room` is for so many directories.
    fn look_at_some(&mut self, wanted: &Wanted, room: usize, page: &mut Gathered) -> Result<Progress, Errno> {
        for _ in 0..NAMES_BETWEEN_LOOKS {
            let Some((name, told)) = self.names.next_with_type()? else {
                return Ok(Progress::End);
            };
            self.look_at((name, told), wanted, room, page);
            if page.bytes >= PAGE_BYTES {
                break;
            }
        }
        Ok(Progress::More)
    }

    fn look_at(&mut self, (name, told): (Name, FileType), wanted: &Wanted, room: usize, page: &mut Gathered) {
        let directory = self.names.directory();
        let kind = match stat::kind_of(told) {
            Some(kind) => Ok(kind),
            None => stat::kind_at(directory, name.as_bytes()).map(|(kind, _)| kind),
        };
        // One that has gone meanwhile is not found.
        let Ok(kind) = kind else { return };
        if wanted.fits(&name, kind) {
            self.tell(&name, kind, wanted, page);
        }
        let is_deep_enough = wanted.query.depth_max.is_some_and(|max| self.depth + 1 >= max);
        if kind != Kind::Directory || is_deep_enough {
            return;
        }
        match path_below(&self.path, &name) {
            Some(_) if self.found.len() < room => self.found.push(name),
            Some(path) => page.unread(path, Errno::NOBUFS),
            None => page.unread(self.path.clone(), Errno::NAMETOOLONG),
        }
    }

    fn tell(&self, name: &Name, kind: Kind, wanted: &Wanted, page: &mut Gathered) {
        let Some(path) = path_below(&self.path, name) else {
            return page.unread(self.path.clone(), Errno::NAMETOOLONG);
        };
        let query = &wanted.query;
        if !query.attributes && query.changed_since.is_none() {
            return page.found(Found { path, kind, entry: None });
        }
        let Ok(entry) = stat::entry_at(self.names.directory(), name.as_bytes()) else {
            return;
        };
        if query.changed_since.is_none_or(|since| entry.attributes.modified >= since) {
            let entry = query.attributes.then_some(entry);
            page.found(Found { path, kind, entry });
        }
    }
}

impl Gathered {
    fn found(&mut self, found: Found) {
        let rest = if found.entry.is_some() { ENTRY_BYTES } else { NAME_BYTES };
        self.bytes += found.path.as_bytes().len() + rest;
        self.found.push(found);
    }

    fn unread(&mut self, path: RelativePath, errno: Errno) {
        self.bytes += path.as_bytes().len() + NAME_BYTES;
        self.unread.push((path, number(errno)));
    }

    fn open(&mut self, waiting: Waiting) -> Option<Directory> {
        let Waiting { parent, name, path, depth } = waiting;
        match open_directory_at(&parent, &name) {
            Ok(opened) => Some(Directory { names: Names::of(opened), path, depth, found: Vec::new() }),
            // It has gone, or become something else, meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            Err(errno) => {
                self.unread(path, errno);
                None
            }
        }
    }
}
