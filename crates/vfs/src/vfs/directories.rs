//! Open directories.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Vfs;
use crate::errno::{Errno, Result};
use crate::file::{FileId, Kind};
use crate::source::{HandleId, Listed, Listing, Page, Place, Source, Target};
use crate::table::ledger::{Held, Opens, Stage};
use crate::table::{Believe, Ino, Known, Notice, Ticket};

use super::names::{View, checked_name};

/// Behind `.`: where the kernel goes on when it has read that. The machine's own cookies are positions in hash order or
/// counters, and end well below.
const COOKIE_DOT: u64 = 0x7fff_ffff_ffff_ff01;
/// Behind `..`.
const COOKIE_DOT_DOT: u64 = 0x7fff_ffff_ffff_ff02;

/// Pages of a directory that are listed ahead: about as many names as idle nodes are kept for.
const PAGES_AHEAD_MAX: usize = 64;

/// What the kernel needs to know of a directory it opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenedDirectory {
    /// To be named in what follows, and given back by [`Vfs::release_directory`].
    pub handle: HandleId,
    /// The kernel may keep what it lists, and what it has kept is true.
    pub keep_listing: bool,
}

/// One entry of a listing on its way to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryItem<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// What it is, where that is known.
    pub kind: Option<Kind>,
    /// Its identity, where that is known.
    pub id: Option<FileId>,
    /// Where to go on behind it.
    pub cookie: u64,
    /// The node, where nodes were asked for. It counts as a lookup if the item is taken.
    pub view: Option<View>,
}

struct Stream<S: Source> {
    listing: Option<S::Listing>,
    /// Not yet given to the kernel, with the directory's state when they were asked for.
    entries: VecDeque<Listed>,
    ticket: Option<Ticket>,
    /// The cookie behind which `entries` begin.
    position: u64,
    /// No more comes behind `entries`.
    end: bool,
    /// Listed from the start, nothing left out.
    whole: bool,
}

/// An open directory.
pub(super) struct OpenDirectory<S: Source> {
    ino: Ino,
    stream: tokio::sync::Mutex<Stream<S>>,
}

impl<S: Source> Vfs<S> {
    /// `opendir(3)`.
    pub async fn open_directory(&self, ino: Ino) -> Result<OpenedDirectory> {
        let keep_listing = {
            let table = self.table.lock();
            if table.kind(ino)? != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            table.is_listed(ino)
        };
        let handle = self.new_handle();
        // A predecessor has opened it, and the kernel has not heard of it.
        self.release_directory(handle);
        self.restore_directory(handle, ino);
        let held = Held { ino, opens: Opens::Directory, stage: Stage::Open };
        self.table.lock().handle_opened(handle, held);
        Ok(OpenedDirectory { handle, keep_listing })
    }

    /// The handle has the directory open, and begins to list it where the next reader wants.
    pub(super) fn restore_directory(&self, handle: HandleId, ino: Ino) {
        let stream = Stream {
            listing: None,
            entries: VecDeque::new(),
            ticket: None,
            position: 0,
            end: false,
            whole: false,
        };
        let open = Arc::new(OpenDirectory { ino, stream: tokio::sync::Mutex::new(stream) });
        self.directories.lock().insert(handle, open);
    }

    /// Nobody knows the directory's handle any more.
    pub(super) fn directory_is_closed(&self, handle: HandleId, ino: Ino) {
        let mut table = self.table.lock();
        table.handle_closed(handle);
        table.closed(ino);
    }

    fn directory(&self, handle: HandleId) -> Result<Arc<OpenDirectory<S>>> {
        self.directories.lock().get(&handle).cloned().ok_or(Errno::EBADF)
    }

    /// `readdir(3)` from behind `cookie`, 0 being the start. Gives items to `take` until it refuses one, or the end, or
    /// what has arrived is used up; at least one item unless at the end.
    pub async fn read_directory(
        &self,
        handle: HandleId,
        mut cookie: u64,
        with_nodes: bool,
        mut take: impl FnMut(DirectoryItem<'_>) -> bool + Send,
    ) -> Result<()> {
        let open = self.directory(handle)?;
        let mut stream = open.stream.lock().await;
        let rewound = cookie == 0;
        for (at, name, behind) in [(0, b".".as_slice(), COOKIE_DOT), (COOKIE_DOT, b"..", COOKIE_DOT_DOT)] {
            if cookie != at {
                continue;
            }
            let ino = if name == b"." { open.ino } else { self.parent(open.ino)? };
            let id = Some(self.table.lock().id(ino)?);
            if !take(DirectoryItem { name, kind: Some(Kind::Directory), id, cookie: behind, view: None }) {
                return Ok(());
            }
            cookie = behind;
        }
        let from = if cookie == COOKIE_DOT_DOT { 0 } else { cookie };
        let fresh = stream.listing.is_none() && !stream.end;
        if rewound || fresh || stream.position != from {
            self.restart(&open, &mut stream, from)?;
        }
        if stream.entries.is_empty() {
            self.next_page(&open, &mut stream).await?;
        }
        let mut notices = Vec::new();
        while let Some(listed) = stream.entries.front() {
            let accepted = self.give(&open, &stream, listed, with_nodes, &mut take, &mut notices);
            if !accepted {
                break;
            }
            if let Some(listed) = stream.entries.pop_front() {
                stream.position = listed.cookie;
            }
        }
        self.notify(notices);
        Ok(())
    }

    fn restart(&self, open: &OpenDirectory<S>, stream: &mut Stream<S>, from: u64) -> Result<()> {
        let (place, ticket) = self.place_and_ticket(open.ino)?;
        stream.listing = Some(self.source.list(place, from));
        stream.entries.clear();
        stream.ticket = Some(ticket);
        stream.position = from;
        stream.end = false;
        stream.whole = from == 0;
        Ok(())
    }

    /// Fetches pages until there is an entry or the end. Dropped while a page is on its way, or failing, it leaves the
    /// stream without a listing: the next call starts one behind what was given.
    async fn next_page(&self, open: &OpenDirectory<S>, stream: &mut Stream<S>) -> Result<()> {
        while stream.entries.is_empty() && !stream.end {
            let (Some(mut listing), Some(ticket)) = (stream.listing.take(), stream.ticket) else {
                return Ok(());
            };
            let outcome = listing.next().await;
            let Some(page) = self.checked(open.ino, outcome)? else {
                stream.end = true;
                return Ok(());
            };
            checked_page(&page)?;
            self.learn_page(open.ino, &mut stream.whole, ticket, &page);
            stream.entries.extend(page.entries);
            stream.end = page.end;
            stream.listing = (!page.end).then_some(listing);
        }
        Ok(())
    }

    /// Lists a directory of which one name after the other is being asked for. Returns when the first page has been
    /// taken in; the others follow by themselves.
    pub(super) async fn list_ahead(self: &Arc<Self>, ino: Ino) {
        let Ok((place, ticket)) = self.place_and_ticket(ino) else { return };
        let mut listing = self.source.list(place, 0);
        let mut whole = true;
        let more = self.next_ahead(ino, &mut listing, ticket, &mut whole).await;
        if !more {
            return;
        }
        let vfs = self.clone();
        tokio::spawn(async move {
            let mut pages = 1;
            while pages < PAGES_AHEAD_MAX && vfs.next_ahead(ino, &mut listing, ticket, &mut whole).await {
                pages += 1;
            }
        });
    }

    fn place_and_ticket(&self, ino: Ino) -> Result<(Place, Ticket)> {
        let table = self.table.lock();
        Ok((table.place(ino)?, table.ticket(ino)?))
    }

    /// Takes in the next page. Whether it is worth to go on.
    async fn next_ahead(&self, ino: Ino, listing: &mut S::Listing, ticket: Ticket, whole: &mut bool) -> bool {
        let Ok(Some(page)) = listing.next().await else { return false };
        if checked_page(&page).is_err() {
            return false;
        }
        self.learn_page(ino, whole, ticket, &page);
        *whole && !page.end
    }

    fn learn_page(&self, ino: Ino, whole: &mut bool, ticket: Ticket, page: &Page) {
        let mut notices = Vec::new();
        {
            let (mut table, now) = (self.table.lock(), self.now());
            for listed in &page.entries {
                let learnt = (ticket, page.lease);
                *whole &= listed.entry.is_some_and(|entry| {
                    table.learn_listed(ino, &listed.name, entry, learnt, now, &mut notices)
                });
            }
            tracing::trace!(whole = *whole, end = page.end, lease = ?page.lease, entries = page.entries.len(), "listed");
            if page.end && *whole {
                table.listed(ino, (ticket, page.lease), page.directory, now, &mut notices);
            }
        }
        self.notify(notices);
    }

    /// Offers one entry. What is believed of its name now counts, not what the page said: it may be older.
    fn give(
        &self,
        open: &OpenDirectory<S>,
        stream: &Stream<S>,
        listed: &Listed,
        with_nodes: bool,
        take: &mut (impl FnMut(DirectoryItem<'_>) -> bool + Send),
        notices: &mut Vec<Notice>,
    ) -> bool {
        let item = DirectoryItem {
            name: &listed.name,
            kind: listed.entry.map(|entry| entry.attributes.kind),
            id: listed.entry.map(|entry| entry.id),
            cookie: listed.cookie,
            view: None,
        };
        let view = if with_nodes { self.view_listed(open.ino, stream, listed, notices) } else { None };
        let accepted = take(DirectoryItem { view, ..item });
        if let (false, Some(view)) = (accepted, view) {
            self.forget(view.ino, 1);
        }
        accepted
    }

    fn view_listed(
        &self,
        parent: Ino,
        stream: &Stream<S>,
        listed: &Listed,
        notices: &mut Vec<Notice>,
    ) -> Option<View> {
        let entry = listed.entry?;
        let now = self.now();
        let mut table = self.table.lock();
        let known = match table.lookup(parent, &listed.name, now).ok()? {
            Some(known) => known,
            None => table.use_once(parent, &listed.name, Some(entry), stream.ticket?, now, notices).ok()?,
        };
        let Known::Present(ino, name_for) = known else { return None };
        let id = table.id(ino).ok()?;
        if id != entry.id || table.is_being_written(ino) {
            return None;
        }
        let (attributes, attributes_for) =
            table.attributes(ino, now).ok()?.unwrap_or((entry.attributes, Believe::Once));
        table.add_lookup(ino);
        Some(View { ino, id, attributes, attributes_for, name_for })
    }

    /// The kernel has closed the directory.
    pub fn release_directory(&self, handle: HandleId) {
        let removed = self.directories.lock().remove(&handle);
        if let Some(open) = removed {
            self.directory_is_closed(handle, open.ino);
        }
    }

    /// `fsync(2)` of a directory.
    pub async fn sync_directory(&self, ino: Ino, data_only: bool) -> Result<()> {
        let place = self.place(ino)?;
        self.source.sync(Target::Place(place), data_only).await
    }
}

/// A page must have names that can be names, and cookies that are not ours.
fn checked_page(page: &Page) -> Result<()> {
    for listed in &page.entries {
        checked_name(&listed.name).map_err(|_| Errno::EIO)?;
        if matches!(listed.cookie, 0 | COOKIE_DOT | COOKIE_DOT_DOT) {
            return Err(Errno::EIO);
        }
    }
    Ok(())
}
