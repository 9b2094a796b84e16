//! Subtrees that come ahead of who goes through them.
//!
//! A [`Walker`](crate::walker::Walker) decides; here is what it takes to carry that out. What a walk brings is taken in as
//! listings are, under a lease of its own for each directory, and goes as other idle nodes do.

use std::sync::Arc;
use std::time::Duration;

use super::Vfs;
use super::directories::{Taken, checked_page};
use crate::file::{FileId, Kind};
use crate::source::{Source, WalkBudget, WalkFrom, WalkPage, Walking};
use crate::table::{Ino, Ticket};
use crate::walker::{Brought, Next, WalkId};

/// Everything below, without contents: how far it goes is decided while it goes.
const BUDGET: WalkBudget = WalkBudget { entries: u32::MAX, depth: u16::MAX, file_bytes: 0, content_bytes: 0 };

/// How long a walk stays where it is when its reader does not go on. A program that looks at what it has found may take a
/// moment; what the source has found meanwhile is held there and on the way.
const UNUSED_MAX: Duration = Duration::from_secs(5);

/// What the table learns from a walk, to be begun before it is asked for. Dropped, no more of it comes.
pub(super) struct Learning<S: Source> {
    vfs: Arc<Vfs<S>>,
    /// The table's clock when it was asked for.
    since: u64,
    /// The directory whose parts are coming, and how they are kept, if none was left out so far.
    current: Option<(FileId, Option<Keeping>)>,
}

/// Parts of a directory, being kept.
struct Keeping {
    ino: Ino,
    ticket: Ticket,
    taken: Taken,
}

impl<S: Source> Learning<S> {
    pub(super) fn begin(vfs: &Arc<Vfs<S>>) -> Learning<S> {
        let since = vfs.table.lock().begin_walk();
        Learning::since(vfs, since)
    }

    fn since(vfs: &Arc<Vfs<S>>, since: u64) -> Learning<S> {
        Learning { vfs: vfs.clone(), since, current: None }
    }

    /// Takes in a part of a directory, unless something has happened in it meanwhile. Gives the directory, if it is known.
    pub(super) fn take_in(&mut self, WalkPage { directory, page, .. }: &WalkPage) -> Option<Ino> {
        let is_sound = checked_page(page).is_ok();
        let (known, mut keeping, is_listed) = {
            let table = self.vfs.table.lock();
            let known = table.find(directory.id);
            let begin = |ino| {
                let ticket = table.walk_ticket(ino, self.since)?;
                Some(Keeping { ino, ticket, taken: Taken::from(0) })
            };
            let keeping = match self.current.take() {
                Some((current, keeping)) if current == directory.id => keeping,
                _ => known.and_then(begin),
            };
            let keeping = keeping.filter(|keeping| is_sound && known == Some(keeping.ino));
            (known, keeping, known.is_some_and(|ino| table.is_listed(ino)))
        };
        if let Some(Keeping { ino, ticket, taken }) = keeping.as_mut().filter(|_| !is_listed) {
            self.vfs.learn_page(*ino, taken, *ticket, page);
        }
        if !page.end {
            self.current = Some((directory.id, keeping));
        }
        known.filter(|_| is_sound)
    }
}

impl<S: Source> Drop for Learning<S> {
    fn drop(&mut self) {
        self.vfs.table.lock().end_walk(self.since);
    }
}

/// A walk under way. Dropped, it is over.
struct Bringing<S: Source> {
    vfs: Arc<Vfs<S>>,
    id: WalkId,
    learning: Learning<S>,
    is_end: bool,
}

impl<S: Source> Drop for Bringing<S> {
    fn drop(&mut self) {
        self.vfs.walker.lock().end(self.id, self.is_end);
        self.vfs.walked.notify_waiters();
    }
}

impl<S: Source> Vfs<S> {
    /// A reader is about to ask for all of a directory of which not all is known. Waits for the walk that is about to
    /// bring it; begins one if that is worth it. Whether there was any.
    pub(super) async fn walk_to(self: &Arc<Self>, ino: Ino) -> bool {
        self.begin_walk(ino);
        self.wait_for_walk(ino).await
    }

    /// Waits while a walk is about to bring the directory. Whether there was any.
    pub(super) async fn wait_for_walk(&self, ino: Ino) -> bool {
        let mut since = None;
        loop {
            let walked = self.walked.notified();
            if !self.walker.lock().is_worth_waiting(ino, &mut since) {
                return since.is_some();
            }
            self.wanted.notify_waiters();
            walked.await;
        }
    }

    /// A reader lists the directory, from the table or from the source.
    pub(super) fn is_listed_by_a_reader(&self, ino: Ino) {
        self.walker.lock().listed(ino);
        self.wanted.notify_waiters();
    }

    /// A reader has found a name in the directory.
    pub(super) fn went_into(&self, ino: Ino) {
        let mut walker = self.walker.lock();
        if walker.is_idle() {
            return;
        }
        walker.entered(ino);
        drop(walker);
        self.wanted.notify_waiters();
    }

    /// Begins a walk at the directory, in the one above, if a reader has listed that and there is more to be known below it
    /// than this directory alone.
    fn begin_walk(self: &Arc<Self>, ino: Ino) {
        let Some((parent, name)) = self.table.lock().name_of(ino) else { return };
        if !self.walker.lock().is_worth_walking(parent, ino) {
            return;
        }
        let (place, from, directories, since) = {
            let mut table = self.table.lock();
            let in_order = table.subtrees_from(parent, ino);
            let siblings = in_order.iter().flatten().filter(|sibling| **sibling != ino);
            let is_alone = siblings.clone().all(|sibling| table.is_listed(*sibling));
            if is_alone && table.was_listed(ino) {
                return;
            }
            // Where the order is not known, or nothing else is to be had, from the directory itself.
            let (at, from, directories) = match in_order {
                Some(directories) if !is_alone => (parent, WalkFrom::Below(name), directories),
                _ => (ino, WalkFrom::Itself, vec![ino]),
            };
            let Ok(place) = table.place(at) else { return };
            (place, from, directories, table.begin_walk())
        };
        let learning = Learning::since(self, since);
        let begun = self.walker.lock().begin(directories);
        let Some(id) = begun else { return };
        // One that had to go for it ends now, and nobody waits for it any more.
        self.wanted.notify_waiters();
        self.walked.notify_waiters();
        let bringing = Bringing { vfs: self.clone(), id, learning, is_end: false };
        let walk = self.source.walk(place, from, BUDGET);
        tokio::spawn(bringing.run(walk));
    }
}

impl<S: Source> Bringing<S> {
    async fn run(mut self, mut walk: S::Walk) {
        while self.may_go_on().await {
            match walk.next().await {
                Ok(Some(page)) => self.take_in(&page),
                Ok(None) => {
                    self.is_end = true;
                    return;
                }
                Err(errno) => {
                    tracing::debug!(%errno, "a walk has failed");
                    return;
                }
            }
        }
    }

    /// Waits until the reader is near enough. `false` when nobody goes on.
    async fn may_go_on(&self) -> bool {
        tokio::time::timeout(UNUSED_MAX, self.until_wanted()).await.unwrap_or(false)
    }

    async fn until_wanted(&self) -> bool {
        loop {
            let wanted = self.vfs.wanted.notified();
            match self.vfs.walker.lock().next(self.id) {
                Next::Take => return true,
                Next::End => return false,
                Next::Wait => {}
            }
            wanted.await;
        }
    }

    /// Takes in a part of a directory. One that something has happened in meanwhile counts as brought all the same:
    /// whoever wants it asks.
    fn take_in(&mut self, part: &WalkPage) {
        let Some(ino) = self.learning.take_in(part) else { return };
        let found = self.directories_in(ino, part);
        let part = Brought { directory: ino, entries: part.page.entries.len(), found, end: part.page.end };
        self.vfs.walker.lock().brought(self.id, part);
        self.vfs.walked.notify_waiters();
    }

    fn directories_in(&self, parent: Ino, part: &WalkPage) -> Vec<Ino> {
        let table = self.vfs.table.lock();
        let directories = part
            .page
            .entries
            .iter()
            .filter(|listed| listed.entry.is_some_and(|entry| entry.attributes.kind == Kind::Directory));
        directories.filter_map(|listed| table.lookup_any(parent, &listed.name)).collect()
    }
}
