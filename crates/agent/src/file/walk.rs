//! Listing a subtree, in the order in which programs go through trees: a directory whole, then the subtree of each
//! directory in it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use wire::agent::Reply;
use wire::agent::file::{FileReply, Kind, Lease, Listed, Place, WalkBudget, WalkFrom};
use wire::agent::name::Name;

use crate::failure::failure;
use crate::file::content::read_whole;
use crate::file::listing::{Names, PAGE_BYTES, listed, listed_bytes};
use crate::session::{Outcome, Session};
use crate::stat;
use crate::streamed::{Page, Task};

/// The most names of one directory that a walk gathers before it sends any, whatever the budget says: a directory is
/// listed whole or not at all, so they are in memory at once.
const DIRECTORY_ENTRIES_MAX: usize = 64 << 10;

/// The most directories that wait to be walked. Those beyond are left out.
const PENDING_MAX: usize = 64 << 10;

/// Contents sent with one page: small enough that a page does not hold up other replies for long.
const PAGE_CONTENT_BYTES: usize = 256 << 10;

struct Walk {
    budget: WalkBudget,
    device: u64,
    /// What has been found, the next one last.
    pending: Vec<(Place, u16)>,
    /// Begun with when nothing is pending.
    siblings: Option<Siblings>,
    current: Option<Directory>,
}

/// Names of the directory that the walk begins below, in the order in which they are to be walked. They are looked at one
/// by one: there may be many, and the client waits for the first.
struct Siblings {
    place: Place,
    file: OwnedFd,
    names: VecDeque<Name>,
}

/// A directory whose names have been read and whose files are being looked at.
struct Directory {
    place: Place,
    depth: u16,
    file: OwnedFd,
    lease: Lease,
    names: VecDeque<(Name, u64)>,
    /// Directories in it, in its order.
    found: Vec<(Place, u16)>,
}

impl Session {
    pub(crate) fn walk(&self, place: Place, from: WalkFrom, budget: WalkBudget) -> Outcome {
        let device = place.id.device;
        let begin = || -> Result<Walk, Errno> {
            // That the start can be read is worth an error; what is below it is left out when it cannot.
            let path = self.export()?.directory(&place)?;
            let walk = Walk { budget, device, pending: Vec::new(), siblings: None, current: None };
            Ok(match from {
                WalkFrom::Itself => Walk { pending: vec![(place, 0)], ..walk },
                WalkFrom::Below(first) => {
                    Walk { siblings: Some(Siblings::read(place, &path, &first)?), ..walk }
                }
            })
        };
        Outcome::streamed(begin().map_err(failure))
    }
}

impl Siblings {
    fn read(place: Place, path: &OwnedFd, first: &Name) -> Result<Siblings, Errno> {
        let mut read = Names::open(path, 0)?;
        let mut names = VecDeque::new();
        while names.len() < PENDING_MAX
            && let Some(name) = read.next_maybe_directory()?
        {
            names.push_back(name);
        }
        if let Some(at) = names.iter().position(|name| name == first) {
            names.rotate_left(at);
        }
        Ok(Siblings { place, file: read.into_directory(), names })
    }

    fn next(&mut self) -> Option<Listed> {
        self.names.pop_front().map(|name| listed(&self.file, name, 0))
    }
}

impl Task for Walk {
    fn next(&mut self, session: &Session) -> Result<Page, Errno> {
        while self.current.is_none() {
            let Some((place, depth)) = self.next_directory() else {
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
            let room = PENDING_MAX.saturating_sub(self.pending.len() + directory.found.len());
            if room > 0 && directory.depth < self.budget.depth {
                directory.found.extend(below(&directory.place, &listed, self.device, directory.depth));
            }
            entries.push(listed);
        }
        let end = directory.names.is_empty();
        let place = directory.place.clone();
        let lease = Some(directory.lease);
        let mut attributes = None;
        if end {
            attributes = stat::entry_of_open(&directory.file).ok().map(|entry| entry.attributes);
            self.pending.extend(directory.found.drain(..).rev());
            self.current = None;
        }
        let contents = page.lengths;
        let reply = FileReply::Walked { directory: place, entries, end, lease, attributes, contents };
        Ok(Page { reply: Reply::File(reply), payload: page.payload, last: false })
    }
}

impl Walk {
    fn next_directory(&mut self) -> Option<(Place, u16)> {
        if let Some(next) = self.pending.pop() {
            return Some(next);
        }
        if self.budget.depth == 0 {
            return None;
        }
        let siblings = self.siblings.as_mut()?;
        loop {
            let listed = siblings.next()?;
            let found = below(&siblings.place, &listed, self.device, 0);
            if found.is_some() {
                return found;
            }
        }
    }

    /// Reads a directory's names, if all of them are within the budget.
    fn read(&mut self, session: &Session, place: Place, depth: u16) -> Option<Directory> {
        let path = session.export().and_then(|export| export.directory(&place)).ok()?;
        let lease = session.leases.lease_ahead(&place, &path, &session.told);
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
        Some(Directory { place, depth, file: read.into_directory(), lease, names, found: Vec::new() })
    }
}

/// The directory of this name, and its depth, if it is one to be walked. A walk stays on its file system, as `find -xdev`
/// does.
fn below(above: &Place, listed: &Listed, device: u64, depth: u16) -> Option<(Place, u16)> {
    let entry = listed.entry.as_ref()?;
    let wanted = entry.attributes.kind == Kind::Directory && entry.id.device == device;
    let place = || Place { id: entry.id, path: above.path.join(&listed.name) };
    wanted.then(|| (place(), depth + 1))
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
        let Ok(content) = read_whole(directory, &listed.name, entry) else {
            return;
        };
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
