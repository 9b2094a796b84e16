//! Open directories.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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

/// Names that are taken out of the table at once for a reader of a directory of which all is known. Each time all are
/// looked at; these take about 2 MB.
const KNOWN_NAMES_AT_ONCE: usize = 8192;

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
    taken: Taken,
}

/// What has been taken in of a directory, page by page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// From the start, nothing left out.
    pub(super) whole: bool,
    /// The source's order is that of its cookies so far, and this was the last.
    last: Option<u64>,
}

impl Taken {
    pub(super) fn from(cookie: u64) -> Taken {
        Taken { whole: cookie == 0, last: Some(cookie) }
    }

    /// The cookie, if names can be put in the source's order by it; else 0.
    fn in_order(&mut self, cookie: u64) -> u64 {
        self.last = self.last.filter(|last| *last < cookie).map(|_| cookie);
        self.last.unwrap_or(0)
    }
}

impl<S: Source> Stream<S> {
    /// Goes on behind a cookie. What it has is not of use there.
    fn rewind(&mut self, cookie: u64) {
        self.listing = None;
        self.entries.clear();
        self.ticket = None;
        self.position = cookie;
        self.end = false;
    }
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
        // What the kernel has kept it may not have dropped yet.
        let keep_listing = keep_listing && !self.kernel.is_behind(ino);
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
            taken: Taken::from(0),
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
        self: &Arc<Self>,
        handle: HandleId,
        mut cookie: u64,
        with_nodes: bool,
        mut take: impl FnMut(DirectoryItem<'_>) -> bool + Send,
    ) -> Result<()> {
        let open = self.directory(handle)?;
        self.all_are_made(Some(open.ino)).await;
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
        if rewound || stream.position != from {
            stream.rewind(from);
        }
        let was_asked_before = !stream.entries.is_empty();
        if !was_asked_before {
            self.next_page(&open, &mut stream).await?;
        }
        if was_asked_before && let Some(ticket) = stream.ticket {
            self.learn(|table, notices| {
                if !table.holds(open.ino, ticket) {
                    // The kernel may keep this behind what it has listed since.
                    notices.push(Notice::Listing(open.ino));
                }
            });
        }
        while let Some(listed) = stream.entries.front() {
            let accepted = self.give(&open, &stream, listed, with_nodes, &mut take);
            if !accepted {
                break;
            }
            if let Some(listed) = stream.entries.pop_front() {
                stream.position = listed.cookie;
            }
        }
        Ok(())
    }

    /// Takes names out of the table, where all of them are known, or fetches pages, until there is an entry or the end.
    /// Dropped while a page is on its way, or failing, it leaves the stream without a listing: the next call goes on behind
    /// what was given.
    async fn next_page(self: &Arc<Self>, open: &OpenDirectory<S>, stream: &mut Stream<S>) -> Result<()> {
        if stream.listing.is_none() && !stream.end && self.is_worth_showing(open.ino, stream.position) {
            self.next_known(open.ino, stream)?;
        }
        if stream.listing.is_none() && !stream.end && stream.entries.is_empty() {
            if stream.position == 0 && self.walk_to(open.ino).await {
                self.next_known(open.ino, stream)?;
            }
            self.is_listed_by_a_reader(open.ino);
        }
        while stream.entries.is_empty() && !stream.end {
            let (mut listing, ticket) = match (stream.listing.take(), stream.ticket) {
                (Some(listing), Some(ticket)) => (listing, ticket),
                _ => {
                    let (place, ticket) = self.place_and_ticket(open.ino)?;
                    stream.taken = Taken::from(stream.position);
                    (self.source.list(place, stream.position), *stream.ticket.insert(ticket))
                }
            };
            let outcome = listing.next().await;
            let Some(page) = self.checked(open.ino, outcome)? else {
                stream.end = true;
                return Ok(());
            };
            checked_page(&page)?;
            self.learn_page(open.ino, &mut stream.taken, ticket, &page);
            stream.entries.extend(page.entries);
            stream.end = page.end;
            stream.listing = (!page.end).then_some(listing);
        }
        Ok(())
    }

    /// Whether what is known of the directory is good enough for one who begins to list it. A near source is asked again:
    /// it may tell of a change a moment later than another program does. What a walk has just brought counts as asked for.
    fn is_worth_showing(&self, ino: Ino, position: u64) -> bool {
        position != 0 || !self.near.load(Ordering::Relaxed) || self.walker.lock().take_unlisted(ino)
    }

    /// Takes the next names out of the table, if all of the directory's are known there.
    fn next_known(&self, ino: Ino, stream: &mut Stream<S>) -> Result<()> {
        let (known, ticket) = {
            let table = self.table.lock();
            (table.known_listing(ino, stream.position, KNOWN_NAMES_AT_ONCE), table.ticket(ino)?)
        };
        if let Some((entries, end)) = known {
            stream.entries = entries.into();
            stream.end = end;
            stream.ticket = Some(ticket);
            self.is_listed_by_a_reader(ino);
        }
        Ok(())
    }

    /// Lists a directory of which one name after the other is being asked for. Returns when the first page has been
    /// taken in; the others follow by themselves.
    pub(super) async fn list_ahead(self: &Arc<Self>, ino: Ino) {
        let Ok((place, ticket)) = self.place_and_ticket(ino) else { return };
        self.is_listed_by_a_reader(ino);
        let mut listing = self.source.list(place, 0);
        let mut taken = Taken::from(0);
        let more = self.next_ahead(ino, &mut listing, ticket, &mut taken).await;
        if !more {
            return;
        }
        let vfs = self.clone();
        tokio::spawn(async move {
            let mut pages = 1;
            while pages < PAGES_AHEAD_MAX && vfs.next_ahead(ino, &mut listing, ticket, &mut taken).await {
                pages += 1;
            }
        });
    }

    /// Takes in the first page of a directory. From then on the source tells of its changes.
    pub(super) async fn look_into(&self, ino: Ino) {
        let Ok((place, ticket)) = self.place_and_ticket(ino) else { return };
        let mut listing = self.source.list(place, 0);
        let _more = self.next_ahead(ino, &mut listing, ticket, &mut Taken::from(0)).await;
    }

    fn place_and_ticket(&self, ino: Ino) -> Result<(Place, Ticket)> {
        let table = self.table.lock();
        Ok((table.place(ino)?, table.ticket(ino)?))
    }

    /// Takes in the next page. Whether it is worth to go on.
    async fn next_ahead(
        &self,
        ino: Ino,
        listing: &mut S::Listing,
        ticket: Ticket,
        taken: &mut Taken,
    ) -> bool {
        let Ok(Some(page)) = listing.next().await else { return false };
        if checked_page(&page).is_err() {
            return false;
        }
        self.learn_page(ino, taken, ticket, &page);
        taken.whole && !page.end
    }

    pub(super) fn learn_page(&self, ino: Ino, taken: &mut Taken, ticket: Ticket, page: &Page) {
        self.learn(|table, notices| {
            let now = self.now();
            for listed in &page.entries {
                let (learnt, cookie) = ((ticket, page.lease), taken.in_order(listed.cookie));
                taken.whole &= listed.entry.is_some_and(|entry| {
                    table.learn_listed(ino, (&listed.name, cookie), entry, learnt, now, notices)
                });
            }
            tracing::trace!(whole = taken.whole, end = page.end, lease = ?page.lease, entries = page.entries.len(), "listed");
            if !page.end {
                // So much is not ours alone, and the rest may not be looked at.
                table.disown(ino);
            }
            if page.end && taken.whole {
                table.listed(ino, (ticket, page.lease), page.directory, now, notices);
            }
        });
    }

    /// Offers one entry. What is believed of its name now counts, not what the page said: it may be older.
    fn give(
        &self,
        open: &OpenDirectory<S>,
        stream: &Stream<S>,
        listed: &Listed,
        with_nodes: bool,
        take: &mut (impl FnMut(DirectoryItem<'_>) -> bool + Send),
    ) -> bool {
        let item = DirectoryItem {
            name: &listed.name,
            kind: listed.entry.map(|entry| entry.attributes.kind),
            id: listed.entry.map(|entry| entry.id),
            cookie: listed.cookie,
            view: None,
        };
        let view = if with_nodes { self.view_listed(open.ino, stream, listed) } else { None };
        let accepted = take(DirectoryItem { view, ..item });
        if let (false, Some(view)) = (accepted, view) {
            self.forget(view.ino, 1);
        }
        accepted
    }

    fn view_listed(&self, parent: Ino, stream: &Stream<S>, listed: &Listed) -> Option<View> {
        let entry = listed.entry?;
        let now = self.now();
        self.learn(|table, notices| {
            let known = match table.lookup(parent, &listed.name, now).ok()? {
                Some(known) => known,
                None => {
                    table.use_once(parent, &listed.name, Some(entry), stream.ticket?, now, notices).ok()?
                }
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
        })
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
        self.all_are_made(Some(ino)).await;
        let place = self.place(ino)?;
        self.source.sync(Target::Place(place), data_only).await
    }
}

/// A page must have names that can be names, and cookies that are not ours.
pub(super) fn checked_page(page: &Page) -> Result<()> {
    for listed in &page.entries {
        checked_name(&listed.name).map_err(|_| Errno::EIO)?;
        if matches!(listed.cookie, 0 | COOKIE_DOT | COOKIE_DOT_DOT) {
            return Err(Errno::EIO);
        }
    }
    Ok(())
}
