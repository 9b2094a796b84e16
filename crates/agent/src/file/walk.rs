//! Listing a subtree, breadth first.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use wire::agent::Reply;
use wire::agent::file::{FileReply, Kind, Lease, Listed, Place, WalkBudget};
use wire::agent::name::Name;

use crate::file::content::read_at;
use crate::file::listing::{Names, PAGE_BYTES, listed, listed_bytes};
use crate::session::{Outcome, Session};
use crate::stat;
use crate::streamed::{Page, Task};

/// The most names of one directory that a walk gathers before it sends any, whatever the budget says: a directory is
/// listed whole or not at all, so they are in memory at once.
const DIRECTORY_ENTRIES_MAX: usize = 64 << 10;

/// The most directories that wait to be walked. Beyond that the walk goes no deeper.
const PENDING_MAX: usize = 64 << 10;

/// Contents sent with one page: small enough that a page does not hold up other replies for long.
const PAGE_CONTENT_BYTES: usize = 256 << 10;

struct Walk {
    budget: WalkBudget,
    device: u64,
    pending: VecDeque<(Place, u16)>,
    current: Option<Directory>,
}

/// A directory whose names have been read and whose files are being looked at.
struct Directory {
    place: Place,
    depth: u16,
    file: OwnedFd,
    lease: Lease,
    names: VecDeque<(Name, u64)>,
}

impl Session {
    pub(crate) fn walk(&self, place: Place, budget: WalkBudget) -> Outcome {
        // That the start can be read is worth an error; what is below it is left out when it cannot.
        if let Err(errno) = self.export().and_then(|export| export.directory(&place)) {
            return errno.into();
        }
        let device = place.id.device;
        Outcome::Streamed(Box::new(Walk {
            budget,
            device,
            pending: VecDeque::from([(place, 0)]),
            current: None,
        }))
    }
}

impl Task for Walk {
    fn next(&mut self, session: &Session) -> Result<Page, Errno> {
        while self.current.is_none() {
            let Some((place, depth)) = self.pending.pop_front() else {
                return Ok(last_page());
            };
            self.current = self.read(session, place, depth);
        }
        let Some(directory) = &mut self.current else {
            return Ok(last_page());
        };
        let _reading = session.told.reading(directory.place.id, None);
        let mut page = Contents::default();
        let mut entries: Vec<Listed> = Vec::new();
        let mut bytes = 0;
        while bytes < PAGE_BYTES && page.payload.len() < PAGE_CONTENT_BYTES {
            let Some((name, cookie)) = directory.names.pop_front() else {
                break;
            };
            bytes += listed_bytes(&name);
            let listed = listed(&directory.file, name, cookie);
            page.add(&directory.file, entries.len(), &listed, &mut self.budget);
            descend(directory, &listed, self.device, &self.budget, &mut self.pending);
            entries.push(listed);
        }
        let end = directory.names.is_empty();
        let place = directory.place.clone();
        let lease = Some(directory.lease);
        if end {
            self.current = None;
        }
        let reply = FileReply::Walked { directory: place, entries, end, lease, contents: page.lengths };
        Ok(Page { reply: Reply::File(reply), payload: page.payload, last: false })
    }
}

impl Walk {
    /// Reads a directory's names, if all of them are within the budget.
    fn read(&mut self, session: &Session, place: Place, depth: u16) -> Option<Directory> {
        let path = session.export().and_then(|export| export.directory(&place)).ok()?;
        let lease = session.leases.lease(&place, &path, &session.told);
        let mut read = Names::open(&path, 0).ok()?;
        let mut names = VecDeque::new();
        let entries_max =
            usize::try_from(self.budget.entries).unwrap_or(usize::MAX).min(DIRECTORY_ENTRIES_MAX);
        while let Some(name) = read.next().ok()? {
            if names.len() == entries_max {
                return None;
            }
            names.push_back(name);
        }
        self.budget.entries -= u32::try_from(names.len()).unwrap_or(self.budget.entries);
        Some(Directory { place, depth, file: read.into_directory(), lease, names })
    }
}

/// Notes a subdirectory to be walked. A walk stays on its file system, as `find -xdev` does.
fn descend(
    directory: &Directory,
    listed: &Listed,
    device: u64,
    budget: &WalkBudget,
    pending: &mut VecDeque<(Place, u16)>,
) {
    let Some(entry) = &listed.entry else {
        return;
    };
    let wanted = entry.attributes.kind == Kind::Directory
        && entry.id.device == device
        && directory.depth < budget.depth
        && pending.len() < PENDING_MAX;
    if wanted {
        let path = directory.place.path.join(&listed.name);
        pending.push_back((Place { id: entry.id, path }, directory.depth + 1));
    }
}

/// Contents of small files, one after the other.
#[derive(Default)]
struct Contents {
    payload: Vec<u8>,
    lengths: Vec<(u32, u32)>,
}

impl Contents {
    fn add(&mut self, directory: &OwnedFd, index: usize, listed: &Listed, budget: &mut WalkBudget) {
        let Some(entry) = &listed.entry else {
            return;
        };
        let size = entry.attributes.size;
        let small = size <= u64::from(budget.file_bytes) && size <= PAGE_CONTENT_BYTES as u64;
        let wanted = entry.attributes.kind == Kind::File && size > 0 && small && size <= budget.content_bytes;
        if !wanted {
            return;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(directory, listed.name.as_bytes(), flags, Mode::empty()) else {
            return;
        };
        // One byte more than there should be tells whether the file has grown.
        let Ok(content) = read_at(&file, 0, size as usize + 1) else {
            return;
        };
        let unchanged = stat::entry_of_open(&file).is_ok_and(|now| {
            now.id == entry.id
                && (now.attributes.modified, now.attributes.changed)
                    == (entry.attributes.modified, entry.attributes.changed)
        });
        if content.len() as u64 != size || !unchanged {
            return;
        }
        budget.content_bytes -= size;
        self.lengths.push((index as u32, size as u32));
        self.payload.extend_from_slice(&content);
    }
}

/// Ends a walk, whatever became of the last directories.
fn last_page() -> Page {
    let reply = FileReply::Done;
    Page { reply: Reply::File(reply), payload: Vec::new(), last: true }
}
