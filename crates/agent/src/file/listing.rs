//! Listing a directory with attributes.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use wire::agent::Reply;
use wire::agent::file::{Entry, FileReply, Lease, Listed, Place};
use wire::agent::name::Name;

use crate::session::{Outcome, Session, reopen};
use crate::stat;
use crate::streamed::{Page, Task};

/// A page of a listing. The first one is short, so that a reader has something to do soon.
pub(crate) const PAGE_BYTES: usize = 128 << 10;
const FIRST_PAGE_BYTES: usize = 16 << 10;

/// What an entry takes in a page besides its name, in estimate from above.
const ENTRY_BYTES: usize = 110;

/// How much of a directory is read from the kernel at once.
const NAMES_BYTES: usize = 32 << 10;

/// A directory being read: names in the kernel's order, from any cookie on.
pub(crate) struct Names {
    directory: OwnedFd,
    /// Names that were read and not yet taken, in reverse, with the cookie behind each, and what the directory says it is
    /// of.
    read: Vec<(Name, u64, FileType)>,
    ended: bool,
}

impl Names {
    pub fn open(directory: &OwnedFd, from: u64) -> Result<Names, Errno> {
        let directory = reopen(directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if from > 0 {
            // A cookie is whatever number the file system likes, and may use all 64 bits.
            rustix::fs::seek(&directory, SeekFrom::Start(from))?;
        }
        Ok(Names::of(directory))
    }

    /// The names of a directory that was opened for reading just now.
    pub fn of(directory: OwnedFd) -> Names {
        Names { directory, read: Vec::new(), ended: false }
    }

    /// All its names, from the first.
    pub fn again(self) -> Result<Names, Errno> {
        rustix::fs::seek(&self.directory, SeekFrom::Start(0))?;
        Ok(Names::of(self.directory))
    }

    pub fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    pub fn into_directory(self) -> OwnedFd {
        self.directory
    }

    /// The next name and the cookie behind it.
    pub fn next(&mut self) -> Result<Option<(Name, u64)>, Errno> {
        Ok(self.take()?.map(|(name, cookie, _)| (name, cookie)))
    }

    /// The next name that may be a directory's. Not every file system says what its names are of.
    pub fn next_maybe_directory(&mut self) -> Result<Option<Name>, Errno> {
        while let Some((name, _, kind)) = self.take()? {
            if matches!(kind, FileType::Directory | FileType::Unknown) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// The next name, and what the directory says it is of. Not every file system says so.
    pub fn next_with_type(&mut self) -> Result<Option<(Name, FileType)>, Errno> {
        Ok(self.take()?.map(|(name, _, kind)| (name, kind)))
    }

    /// Whether the last name has been taken.
    pub fn at_end(&mut self) -> Result<bool, Errno> {
        if self.read.is_empty() && !self.ended {
            self.read_more()?;
        }
        Ok(self.read.is_empty())
    }

    fn take(&mut self) -> Result<Option<(Name, u64, FileType)>, Errno> {
        match self.at_end()? {
            true => Ok(None),
            false => Ok(self.read.pop()),
        }
    }

    fn read_more(&mut self) -> Result<(), Errno> {
        let mut buffer = [MaybeUninit::uninit(); NAMES_BYTES];
        while self.read.is_empty() && !self.ended {
            let mut reader = RawDir::new(&self.directory, &mut buffer);
            loop {
                let Some(entry) = reader.next() else {
                    self.ended = true;
                    break;
                };
                let entry = match entry {
                    Err(Errno::INTR) => continue,
                    entry => entry?,
                };
                // `.` and `..` are no names here, and neither is what some broken file system may say.
                if let Ok(name) = Name::new(entry.file_name().to_bytes()) {
                    self.read.push((name, entry.next_entry_cookie(), entry.file_type()));
                }
                if reader.is_buffer_empty() {
                    break;
                }
            }
        }
        self.read.reverse();
        Ok(())
    }
}

/// The file behind a listed name. Told even if nothing is known of it.
pub(crate) fn listed(directory: &OwnedFd, name: Name, cookie: u64) -> Listed {
    let entry: Option<Entry> = stat::entry_at(directory, name.as_bytes()).ok();
    Listed { name, entry, cookie }
}

pub(crate) fn listed_bytes(name: &Name) -> usize {
    name.as_bytes().len() + ENTRY_BYTES
}

struct Listing {
    place: Place,
    names: Names,
    path: Arc<OwnedFd>,
    lease: Lease,
    page_bytes: usize,
}

impl Session {
    pub(crate) fn list(&self, place: Place, from: u64) -> Outcome {
        let start = || -> Result<_, Errno> {
            let path = self.export()?.directory(&place)?;
            let lease = self.leases.lease(&place, &path, &self.told);
            Ok((Names::open(&path, from)?, path, lease))
        };
        match start() {
            Ok((names, path, lease)) => Outcome::Streamed(Box::new(Listing {
                place,
                names,
                path,
                lease,
                page_bytes: FIRST_PAGE_BYTES,
            })),
            Err(errno) => errno.into(),
        }
    }
}

impl Task for Listing {
    fn next(&mut self, session: &Session) -> Result<Page, Errno> {
        let _reading = session.told.reading(self.place.id, None);
        let mut entries = Vec::new();
        let mut bytes = 0;
        while bytes < self.page_bytes {
            let Some((name, cookie)) = self.names.next()? else {
                break;
            };
            bytes += listed_bytes(&name);
            entries.push(listed(self.names.directory(), name, cookie));
        }
        self.page_bytes = PAGE_BYTES;
        let end = self.names.at_end()?;
        let directory = if end { Some(stat::entry_of_path(&self.path)?.attributes) } else { None };
        let reply = FileReply::Listing { entries, end, lease: Some(self.lease), directory };
        Ok(Page { reply: Reply::File(reply), payload: Vec::new(), last: end })
    }
}
