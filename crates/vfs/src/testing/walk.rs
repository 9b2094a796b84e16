//! Walks of a [`Memory`](super::Memory).
//!
//! Counted as one request of the name `walk`; each page stops under the name `walked`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Inner, State, Stop};
use crate::errno::{Errno, Result};
use crate::file::Kind;
use crate::source::{Lease, Listed, Page, Place, WalkBudget, WalkFrom, WalkPage, Walking};

/// See the module's documentation.
#[derive(Debug)]
pub struct MemoryWalk {
    inner: Arc<Inner>,
    start: Place,
    /// Absent when it has begun.
    from: Option<WalkFrom>,
    budget: WalkBudget,
    /// With their depth, the next one last.
    pending: Vec<(Place, u16)>,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    place: Place,
    depth: u16,
    lease: Lease,
    names: VecDeque<Listed>,
    found: Vec<(Place, u16)>,
}

impl MemoryWalk {
    pub(super) fn new(inner: Arc<Inner>, start: Place, from: WalkFrom, budget: WalkBudget) -> MemoryWalk {
        MemoryWalk { inner, start, from: Some(from), budget, pending: Vec::new(), current: None }
    }

    fn begin(&mut self, state: &State, from: WalkFrom) -> Result<()> {
        let id = state.tree.resolve(&self.start)?;
        let WalkFrom::Below(first) = from else {
            self.pending.push((self.start.clone(), 0));
            return Ok(());
        };
        let mut names: Vec<_> = state.tree.get(id)?.listing(0).collect();
        if let Some(at) = names.iter().position(|(_, name, _)| **name == first) {
            names.rotate_left(at);
        }
        let places =
            names.into_iter().rev().filter_map(|(_, name, id)| self.below(state, &self.start, name, id));
        let places: Vec<_> = places.map(|place| (place, 1)).collect();
        self.pending = places;
        Ok(())
    }

    fn below(&self, state: &State, above: &Place, name: &[u8], id: crate::file::FileId) -> Option<Place> {
        let is_directory = state.tree.get(id).ok()?.attributes.kind == Kind::Directory;
        let path = [&above.path, name].into_iter().filter(|part| !part.is_empty());
        is_directory.then(|| Place { id, path: path.collect::<Vec<_>>().join(&b'/').into() })
    }

    /// Takes up the next directory that is still there and within the budget.
    fn take_up(&mut self, state: &mut State, unwatched_ms: u32) {
        while self.current.is_none()
            && let Some((place, depth)) = self.pending.pop()
        {
            let Ok(id) = state.tree.resolve(&place) else { continue };
            let lease = state.lease(id, unwatched_ms);
            let Ok(directory) = state.tree.get(id) else { continue };
            let listed = directory.listing(0).map(|(cookie, name, id)| (cookie, name.clone(), id));
            let names: VecDeque<_> = listed
                .map(|(cookie, name, id)| Listed { name, entry: state.tree.entry(id).ok(), cookie })
                .collect();
            if names.len() > self.budget.entries as usize {
                continue;
            }
            self.budget.entries -= names.len() as u32;
            self.current = Some(Current { place, depth, lease, names, found: Vec::new() });
        }
    }

    /// The next part: names as they were when the directory was taken up, what they are as it is now.
    fn part(&mut self, state: &mut State, entries_max: usize) -> Option<WalkPage> {
        let mut current = self.current.take()?;
        let mut page = Page { entries: Vec::new(), end: false, lease: Some(current.lease), directory: None };
        let mut contents = Vec::new();
        while page.entries.len() < entries_max
            && let Some(mut listed) = current.names.pop_front()
        {
            let id = state.tree.resolve(&current.place).ok();
            let id = id.and_then(|id| state.tree.lookup(id, &listed.name).ok().flatten());
            listed.entry = id.and_then(|id| state.tree.entry(id).ok());
            if let Some(id) = id {
                let found = self.below(state, &current.place, &listed.name, id);
                let found = found.filter(|_| current.depth < self.budget.depth);
                current.found.extend(found.map(|place| (place, current.depth + 1)));
                contents.extend(self.content(state, &listed).map(|bytes| (page.entries.len(), bytes)));
            }
            page.entries.push(listed);
        }
        let directory = current.place.clone();
        page.end = current.names.is_empty();
        if page.end {
            page.directory = state.tree.get(directory.id).ok().map(|file| file.attributes);
            self.pending.extend(current.found.into_iter().rev());
        } else {
            self.current = Some(current);
        }
        Some(WalkPage { directory, page, contents })
    }

    fn content(&mut self, state: &mut State, listed: &Listed) -> Option<Bytes> {
        let entry = listed.entry?;
        let size = entry.attributes.size;
        let is_wanted = entry.attributes.kind == Kind::File
            && (1..=u64::from(self.budget.file_bytes)).contains(&size)
            && size <= self.budget.content_bytes;
        let content = is_wanted.then(|| state.tree.read(entry.id, 0, u32::MAX).ok())??;
        self.budget.content_bytes -= size;
        Some(content)
    }
}

impl Walking for MemoryWalk {
    async fn next(&mut self) -> Result<Option<WalkPage>> {
        let inner = self.inner.clone();
        if let Some(from) = self.from.take() {
            inner.ask("walk").await?;
            let begun = self.begin(&inner.state.lock(), from);
            begun.map_err(|errno| if errno == Errno::ENOENT { Errno::ESTALE } else { errno })?;
        }
        inner.wait(Stop::Asking("walked")).await;
        let (unwatched_ms, entries_max) = (inner.unwatched_ms(), inner.page_entries.load(Ordering::Relaxed));
        let page = {
            let state = &mut *inner.state.lock();
            self.take_up(state, unwatched_ms);
            self.part(state, entries_max as usize)
        };
        inner.wait(Stop::Replying("walked")).await;
        Ok(page)
    }
}
