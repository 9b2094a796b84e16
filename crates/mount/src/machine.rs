//! A machine's files as a [`Source`]: the agent's client in the words of `vfs`.
//!
//! Whose the files are is decided here. An agent with the privilege shows and sets the machine's own owners. Any other
//! can only act as its own user; then everything belongs to the user of the mount, and a change of owner to anybody
//! else is refused as a local disk refuses it to an unprivileged user.

mod convert;

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use remote::client::relink::{Event, SessionMark};
use remote::client::{AgentClient, CallError, EventSink, HeldFile, HeldLock, LinkLost};
use remote::client::{Attached, DirectoryPage, PageStream, WalkPage as FarPage};
use vfs::cache::DataCache;
use vfs::errno::{Errno, Result};
use vfs::file::{
    Allocation, AttributeChanges, Attributes, Caller, Entry, FileId, Lock, Name, OpenFlags, RenameMode,
    SeekFor, Space, Time, WriteAt, XattrMode,
};
use vfs::request::Sequence;
use vfs::source::{
    Changed, HandleId, Lease, Listed, Listing, NewNode, Opened, Page, Place, Reach, Removed, Renamed, Source,
    Target, WalkBudget, WalkFrom, WalkPage, Walking, Written,
};
use vfs::table::Kept;
use wire::agent::file as far;

use crate::cache::DiskCache;
use crate::unsaved::Held;
use crate::worker::session::SessionNote;
use crate::worker::succession::{SourcePart, write_part};
use convert::{Far, Near, near};

/// Credit for one listing: two pages under way keep a link busy.
const LISTING_WINDOW_BYTES: u32 = 1 << 20;

/// Credit for one walk: how far the machine is ahead of who takes its pages, some 2,000 entries. It fills 20 ms of half of
/// what one thread of an agent finds, and is little when nobody goes on reading.
const WALK_WINDOW_BYTES: u32 = 256 << 10;

/// Credit for one walk that brings contents: it fills 20 ms of 25 MB/s, and holds up what somebody waits for by 40 ms on a
/// link of half of that.
const CONTENT_WINDOW_BYTES: u32 = 512 << 10;

/// How owners are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// As the machine has them.
    Machine,
    /// Everything belongs to this user and group.
    One {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

/// The files of one machine below one root.
pub struct Machine {
    client: AgentClient,
    owners: Owners,
    /// Files that are not to be used yet.
    held: Option<Arc<Held>>,
    /// Where contents are kept.
    cache: Option<Arc<DiskCache>>,
    /// The user the agent acts as; `None` if it may act for all.
    acts_as: Option<u32>,
}

impl Machine {
    /// The files that `client` has attached, shown to the user of the mount.
    pub fn new(client: AgentClient, attached: &Attached, mount_owner: (u32, u32)) -> (Machine, Entry) {
        let (uid, gid) = mount_owner;
        let owners = if attached.privileged && uid == 0 { Owners::Machine } else { Owners::One { uid, gid } };
        let acts_as = (!attached.privileged).then_some(attached.uid);
        let machine = Machine { client, owners, held: None, cache: None, acts_as };
        let root = machine.entry(attached.root);
        (machine, root)
    }

    /// Makes whoever wants to use a file that is held wait for it, if any can be.
    pub(crate) fn holding(mut self, held: Option<Arc<Held>>) -> Machine {
        self.held = held;
        self
    }

    /// Keeps contents there.
    pub(crate) fn caching(mut self, cache: Option<Arc<DiskCache>>) -> Machine {
        self.cache = cache;
        self
    }

    async fn passed(&self, id: FileId) {
        if let Some(held) = &self.held {
            held.passed(id).await;
        }
    }

    async fn passed_at(&self, directory: &Place, name: &Name) {
        if let Some(held) = &self.held {
            held.passed_at(&directory.path, name).await;
        }
    }

    /// The link to the machine.
    pub fn client(&self) -> &AgentClient {
        &self.client
    }

    /// How owners are shown.
    pub fn owners(&self) -> Owners {
        self.owners
    }

    /// Takes in what the agent tells of a directory.
    pub fn changed(&self, changed: far::Changed) -> Changed {
        let far::Changed { directory, epoch, what, attributes } = changed;
        let what = match what {
            far::Change::Itself => vfs::source::Change::Itself,
            far::Change::Absent { name } => vfs::source::Change::Absent { name: name.as_bytes().into() },
            far::Change::Present { name, entry } => {
                vfs::source::Change::Present { name: name.as_bytes().into(), entry: self.entry(entry) }
            }
            far::Change::LeaseLost => vfs::source::Change::LeaseLost,
        };
        let attributes = attributes.map(|attributes| self.attributes(attributes));
        Changed { directory: directory.near(), epoch, what, attributes }
    }

    fn attributes(&self, attributes: far::Attributes) -> Attributes {
        show(attributes.near(), self.owners)
    }

    fn entry(&self, entry: far::Entry) -> Entry {
        Entry { id: entry.id.near(), attributes: self.attributes(entry.attributes) }
    }

    fn opened(&self, opened: remote::client::Opened) -> Opened {
        let directory = opened.directory.map(|attributes| self.attributes(attributes));
        let is_own = self.acts_as.is_none_or(|uid| opened.entry.attributes.uid == uid);
        let (entry, whole, is_new) = (self.entry(opened.entry), opened.whole, opened.created);
        Opened { entry, content: opened.content, whole, directory, is_own, is_new }
    }

    fn removed(&self, removed: remote::client::Removed) -> Removed {
        let entry = removed.entry.map(|entry| self.entry(entry));
        Removed { entry, directory: self.attributes(removed.directory) }
    }

    fn written(&self, written: remote::client::Written) -> Written {
        Written { bytes: written.bytes, attributes: self.attributes(written.attributes) }
    }

    /// The client for a change: it goes under the number that was chosen for it, if one was.
    fn changing(&self) -> AgentClient {
        match vfs::request::take_sequence() {
            Some(number) => self.client.with_sequence(wire::agent::Sequence(number.0)),
            None => self.client.clone(),
        }
    }

    /// What of a change of owners is to be asked of the machine.
    fn owner_changes(&self, changes: AttributeChanges) -> Result<AttributeChanges> {
        let Owners::One { uid, gid } = self.owners else { return Ok(changes) };
        let keeps =
            changes.uid.is_none_or(|wanted| wanted == uid) && changes.gid.is_none_or(|wanted| wanted == gid);
        if keeps { Ok(AttributeChanges { uid: None, gid: None, ..changes }) } else { Err(Errno::EPERM) }
    }
}

/// What a call came to, in the words of `vfs`. The one place where errors of the link become error numbers.
fn outcome<T, E: Into<CallError>>(outcome: std::result::Result<T, E>) -> Result<T> {
    match outcome.map_err(Into::into) {
        Ok(value) => Ok(value),
        Err(CallError::Failed(failure)) => Err(Errno(failure.errno.0)),
        Err(CallError::Lost(lost)) => {
            tracing::debug!(%lost, "answered EIO: the link is gone");
            Err(Errno::EIO)
        }
        Err(CallError::Unsendable(error)) => {
            tracing::warn!(%error, "answered ENAMETOOLONG");
            Err(Errno::ENAMETOOLONG)
        }
    }
}

/// A listing under way.
pub struct MachineListing {
    pages: Result<PageStream<DirectoryPage>>,
    owners: Owners,
}

impl Listing for MachineListing {
    async fn next(&mut self) -> Result<Option<Page>> {
        let pages = self.pages.as_mut().map_err(|errno| *errno)?;
        let Some(page) = pages.next().await else { return Ok(None) };
        Ok(Some(near_page(outcome(page)?, self.owners)))
    }
}

/// A walk under way.
pub struct MachineWalk {
    pages: Result<PageStream<FarPage>>,
    owners: Owners,
}

impl Walking for MachineWalk {
    async fn next(&mut self) -> Result<Option<WalkPage>> {
        let pages = self.pages.as_mut().map_err(|errno| *errno)?;
        let Some(page) = pages.next().await else { return Ok(None) };
        let FarPage { directory, entries, end, lease, attributes, contents } = outcome(page)?;
        let page = DirectoryPage { entries, end, lease, directory: attributes };
        let directory = Place { id: directory.id.near(), path: directory.path.as_bytes().into() };
        Ok(Some(WalkPage { directory, page: near_page(page, self.owners), contents }))
    }
}

fn near_page(page: DirectoryPage, owners: Owners) -> Page {
    let DirectoryPage { entries, end, lease, directory } = page;
    let attributes = |attributes: far::Attributes| show(attributes.near(), owners);
    let entries = entries.into_iter().map(|listed| Listed {
        name: listed.name.as_bytes().into(),
        entry: listed.entry.map(|e| Entry { id: e.id.near(), attributes: attributes(e.attributes) }),
        cookie: listed.cookie,
    });
    let entries = entries.collect();
    Page { entries, end, lease: lease.map(Near::near), directory: directory.map(attributes) }
}

fn show(attributes: Attributes, owners: Owners) -> Attributes {
    match owners {
        Owners::Machine => attributes,
        Owners::One { uid, gid } => Attributes { uid, gid, ..attributes },
    }
}

impl Source for Machine {
    type Listing = MachineListing;
    type Walk = MachineWalk;

    async fn lookup(&self, directory: Place, name: Name) -> Result<(Option<Entry>, Option<Lease>)> {
        let looked = outcome(self.client.lookup(directory.far()?, near::name(&name)?).await)?;
        Ok((looked.entry.map(|entry| self.entry(entry)), looked.lease.map(Near::near)))
    }

    async fn stat(&self, target: Target) -> Result<Entry> {
        Ok(self.entry(outcome(self.client.stat(target.far()?).await)?))
    }

    async fn set_attributes(&self, target: Target, changes: AttributeChanges) -> Result<Entry> {
        let changes = self.owner_changes(changes)?;
        if let Target::Place(place) = &target {
            self.passed(place.id).await;
        }
        let client = match vfs::request::is_promised() {
            true => self.changing().patient(),
            false => self.changing(),
        };
        let mut call = client.set_attributes(target.far()?, changes.far()?);
        call.queued().await;
        vfs::request::queued();
        Ok(self.entry(outcome(call.await)?))
    }

    async fn read_link(&self, place: Place) -> Result<Bytes> {
        outcome(self.client.read_link(place.far()?).await)
    }

    async fn symlink(&self, directory: Place, name: Name, contents: Bytes, caller: Caller) -> Result<Entry> {
        let (place, name) = (directory.far()?, near::name(&name)?);
        Ok(self.entry(outcome(self.changing().symlink(place, name, contents, caller.far()?).await)?))
    }

    async fn make_node(&self, directory: Place, name: Name, node: NewNode, caller: Caller) -> Result<Entry> {
        let (place, name, kind) = (directory.far()?, near::name(&name)?, node.kind.far()?);
        let made = self.changing().make_node(place, name, kind, node.mode, node.device, caller.far()?).await;
        Ok(self.entry(outcome(made)?))
    }

    async fn make_directory(&self, directory: Place, name: Name, mode: u16, caller: Caller) -> Result<Entry> {
        let (place, name) = (directory.far()?, near::name(&name)?);
        Ok(self.entry(outcome(self.changing().make_directory(place, name, mode, caller.far()?).await)?))
    }

    async fn unlink(&self, directory: Place, name: Name) -> Result<Removed> {
        self.passed_at(&directory, &name).await;
        let removed = self.changing().unlink(directory.far()?, near::name(&name)?).await;
        Ok(self.removed(outcome(removed)?))
    }

    async fn remove_directory(&self, directory: Place, name: Name) -> Result<Removed> {
        let removed = self.changing().remove_directory(directory.far()?, near::name(&name)?).await;
        Ok(self.removed(outcome(removed)?))
    }

    async fn rename(&self, from: (Place, Name), to: (Place, Name), mode: RenameMode) -> Result<Renamed> {
        self.passed_at(&from.0, &from.1).await;
        self.passed_at(&to.0, &to.1).await;
        let (from, from_name) = (from.0.far()?, near::name(&from.1)?);
        let (to, to_name) = (to.0.far()?, near::name(&to.1)?);
        let renamed = outcome(self.changing().rename(from, from_name, to, to_name, mode.far()?).await)?;
        Ok(Renamed { from: self.attributes(renamed.from), to: self.attributes(renamed.to) })
    }

    async fn link(&self, target: Target, directory: Place, name: Name) -> Result<Entry> {
        let linked = self.changing().link(target.far()?, directory.far()?, near::name(&name)?).await;
        Ok(self.entry(outcome(linked)?))
    }

    async fn open(
        &self,
        place: Place,
        flags: OpenFlags,
        handle: HandleId,
        inline_bytes: u32,
    ) -> Result<Opened> {
        self.passed(place.id).await;
        let client = if flags.truncate { self.changing() } else { self.client.clone() };
        let opened = client.open(place.far()?, flags.far()?, handle.far()?, inline_bytes).await;
        Ok(self.opened(outcome(opened)?))
    }

    async fn create(
        &self,
        directory: Place,
        name: Name,
        mode: u16,
        flags: OpenFlags,
        handle: HandleId,
        caller: Caller,
    ) -> Result<Opened> {
        self.passed_at(&directory, &name).await;
        let (place, name, caller) = (directory.far()?, near::name(&name)?, caller.far()?);
        let client = match vfs::request::is_promised() {
            true => self.changing().patient(),
            false => self.changing(),
        };
        let mut call = client.create(place, name, mode, flags.far()?, handle.far()?, caller);
        call.queued().await;
        vfs::request::queued();
        Ok(self.opened(outcome(call.await)?))
    }

    async fn create_unnamed(
        &self,
        directory: Place,
        mode: u16,
        flags: OpenFlags,
        handle: HandleId,
        caller: Caller,
    ) -> Result<Opened> {
        let (place, caller) = (directory.far()?, caller.far()?);
        let created = self.changing().create_unnamed(place, mode, flags.far()?, handle.far()?, caller).await;
        Ok(self.opened(outcome(created)?))
    }

    async fn read(&self, handle: HandleId, offset: u64, length: u32) -> Result<Bytes> {
        outcome(self.client.read(handle.far()?, offset, length).await)
    }

    fn reach(&self) -> Reach {
        let (room_bytes, part_bytes) = self.client.reach();
        Reach { room_bytes: room_bytes as u64, part_bytes: part_bytes as u64 }
    }

    async fn write(
        &self,
        handle: HandleId,
        at: WriteAt,
        bytes: Bytes,
        clear_set_id: bool,
    ) -> Result<Written> {
        // What a program was told is written is kept for as long as the machine may come back.
        let mut call = self.changing().patient().write(handle.far()?, at.far()?, clear_set_id, bytes);
        call.queued().await;
        vfs::request::queued();
        Ok(self.written(outcome(call.await)?))
    }

    async fn sync(&self, target: Target, data_only: bool) -> Result<()> {
        outcome(self.client.sync(target.far()?, data_only).await)
    }

    async fn close(&self, handle: HandleId) -> Result<()> {
        outcome(self.client.close(handle.far()?).await)
    }

    async fn allocate(&self, handle: HandleId, what: Allocation, offset: u64, length: u64) -> Result<Entry> {
        Ok(self.entry(outcome(self.changing().allocate(handle.far()?, what.far()?, offset, length).await)?))
    }

    async fn seek(&self, handle: HandleId, offset: u64, what: SeekFor) -> Result<u64> {
        outcome(self.client.seek(handle.far()?, offset, what.far()?).await)
    }

    async fn copy_range(&self, from: (HandleId, u64), to: (HandleId, u64), length: u64) -> Result<Written> {
        let (from, to) = ((from.0.far()?, from.1), (to.0.far()?, to.1));
        Ok(self.written(outcome(self.changing().copy_range(from, to, length).await)?))
    }

    async fn space(&self, place: Place) -> Result<Space> {
        Ok(outcome(self.client.space(place.far()?).await)?.near())
    }

    async fn get_xattr(&self, target: Target, name: Bytes) -> Result<Bytes> {
        outcome(self.client.get_xattr(target.far()?, name.to_vec()).await)
    }

    async fn set_xattr(&self, target: Target, name: Bytes, value: Bytes, mode: XattrMode) -> Result<Entry> {
        let set = self.changing().set_xattr(target.far()?, name.to_vec(), mode.far()?, value).await;
        Ok(self.entry(outcome(set)?))
    }

    async fn list_xattrs(&self, target: Target) -> Result<Bytes> {
        outcome(self.client.list_xattrs(target.far()?).await)
    }

    async fn remove_xattr(&self, target: Target, name: Bytes) -> Result<Entry> {
        Ok(self.entry(outcome(self.changing().remove_xattr(target.far()?, name.to_vec()).await)?))
    }

    async fn lock(&self, handle: HandleId, owner: u64, lock: Lock, wait: bool) -> Result<()> {
        outcome(self.client.lock(handle.far()?, owner, lock.far()?, wait).await)
    }

    async fn test_lock(&self, handle: HandleId, owner: u64, lock: Lock) -> Result<Option<(Lock, u32)>> {
        let found = outcome(self.client.test_lock(handle.far()?, owner, lock.far()?).await)?;
        Ok(found.map(|(lock, pid)| (lock.near(), pid)))
    }

    async fn release_locks(&self, handle: HandleId, owner: u64) -> Result<()> {
        outcome(self.client.release_locks(handle.far()?, owner).await)
    }

    fn next_sequence(&self) -> Option<Sequence> {
        self.client.next_sequence().map(|number| Sequence(number.0))
    }

    fn owner_of_new(&self, caller: Caller) -> Option<(u32, u32)> {
        Some(match self.owners {
            Owners::Machine => (caller.uid, caller.gid),
            Owners::One { uid, gid } => (uid, gid),
        })
    }

    fn is_sure(&self, changes: &AttributeChanges) -> bool {
        self.owner_changes(*changes).is_ok()
    }

    fn settled(&self, sequence: Sequence) {
        self.client.settled(wire::agent::Sequence(sequence.0));
    }

    async fn away(&self) {
        self.client.until_away().await;
    }

    fn cache(&self) -> Option<Arc<dyn DataCache>> {
        // What is kept of a file that is held is what it was before it is saved: it is to be asked for, and waited for.
        let holds = self.held.as_ref().is_some_and(|held| held.holds());
        self.cache.clone().filter(|_| !holds).map(|cache| cache as Arc<dyn DataCache>)
    }

    fn clock(&self) -> Option<Time> {
        self.client.clock().map(Near::near)
    }

    fn list(&self, directory: Place, from: u64) -> MachineListing {
        let pages = directory.far().map(|place| self.client.list(place, from, LISTING_WINDOW_BYTES));
        MachineListing { pages, owners: self.owners }
    }

    fn walk(&self, directory: Place, from: WalkFrom, budget: WalkBudget) -> MachineWalk {
        let window = if budget.content_bytes > 0 { CONTENT_WINDOW_BYTES } else { WALK_WINDOW_BYTES };
        let asked = || Ok((directory.far()?, from.far()?, budget.far()?));
        let pages =
            asked().map(|(directory, from, budget)| self.client.walk(directory, from, budget, window));
        MachineWalk { pages, owners: self.owners }
    }
}

/// An open file as the session knows it, with those of the locks that were asked for through it; `None` for one whose place
/// has no words in the protocol.
pub(crate) fn held_file(
    (handle, place, flags): (HandleId, Place, OpenFlags),
    locks: &[vfs::table::HeldLock],
) -> Option<HeldFile> {
    let locks = locks.iter().filter(|held| held.handle == handle);
    let locks =
        locks.filter_map(|held| Some(HeldLock { owner: held.owner, lock: held.lock.far().ok()? })).collect();
    let (handle, place, flags) = (handle.far().ok()?, place.far().ok()?, flags.far().ok()?);
    // What opening does to the content has been done.
    let flags = far::OpenFlags { truncate: false, exclusive: false, ..flags };
    Some(HeldFile { handle, place, flags, locks })
}

/// Hands what the agent tells to a file system, once there is one.
///
/// The link exists before the file system over it does. What is told in between concerns leases that nobody has asked
/// for yet.
///
/// It does not keep the file system, which keeps the link, which keeps this.
pub struct Events {
    vfs: OnceLock<Weak<vfs::Vfs<Machine>>>,
    /// What a successor needs of the link.
    part: Mutex<Option<SourcePart>>,
    /// Where the session is noted, once that is known.
    note: OnceLock<SessionNote>,
    standing: tokio::sync::watch::Sender<LinkStanding>,
}

/// How the link to the machine stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LinkStanding {
    /// There is one.
    #[default]
    Linked,
    /// There is none, another is being opened, and what needs it waits.
    Reconnecting {
        /// Why there is none, in one line.
        why: String,
    },
    /// There is none, and what needs it fails.
    Disconnected {
        /// Why there is none, in one line.
        why: String,
    },
}

impl Events {
    /// A sink for a link that is about to be opened.
    pub fn new() -> Arc<Events> {
        Arc::new(Events {
            vfs: OnceLock::new(),
            part: Mutex::default(),
            note: OnceLock::new(),
            standing: tokio::sync::watch::Sender::default(),
        })
    }

    /// From now on `vfs` is told, as long as there is somebody who keeps it, and its record says how the machine is reached.
    pub fn tell(&self, vfs: &Arc<vfs::Vfs<Machine>>) {
        // A second file system over one link would be a bug of the worker; the first stays.
        let first = self.vfs.set(Arc::downgrade(vfs)).is_ok();
        debug_assert!(first, "one file system over a link");
        if let Some(part) = &*self.part.lock() {
            self.record(part);
        }
    }

    /// From now on each session is noted here, before anything is asked of it.
    pub(crate) fn note_at(&self, note: SessionNote) {
        // A second place for one link would be a bug of the worker; the first stays.
        let first = self.note.set(note).is_ok();
        debug_assert!(first, "one note of a link");
    }

    /// This is how the machine is reached. To be said before the link changes any of it.
    pub(crate) fn keep(&self, part: SourcePart) {
        let mut kept = self.part.lock();
        self.record(kept.insert(part));
    }

    fn update(&self, change: impl FnOnce(&mut SourcePart)) {
        if let Some(part) = &mut *self.part.lock() {
            change(part);
            self.record(part);
        }
    }

    fn record(&self, part: &SourcePart) {
        if let Some(vfs) = self.vfs.get().and_then(Weak::upgrade) {
            vfs.keep(Kept::Source, write_part(part));
        }
    }

    /// How the link stands, now and from now on.
    pub fn standing(&self) -> tokio::sync::watch::Receiver<LinkStanding> {
        self.standing.subscribe()
    }
}

impl EventSink for Events {
    fn changed(&self, changed: far::Changed) {
        let Some(vfs) = self.vfs.get().and_then(Weak::upgrade) else { return };
        vfs.changed(vfs.source().changed(changed));
    }

    fn leases_lost(&self) {
        if let Some(vfs) = self.vfs.get().and_then(Weak::upgrade) {
            vfs.leases_lost();
        }
    }

    fn link_lost(&self, lost: &LinkLost) {
        self.standing.send_replace(LinkStanding::Disconnected { why: lost.to_string() });
        self.leases_lost();
    }

    fn reserved(&self, through: wire::agent::Sequence) {
        self.update(|part| part.watermark = part.watermark.max(through));
    }

    fn session_marked(&self, mark: &SessionMark) {
        if let Some(note) = self.note.get() {
            note.write(mark.session);
        }
        self.update(|part| part.mark = *mark);
    }

    fn link_changed(&self, event: &Event) {
        let standing = match event {
            Event::Connected | Event::Resumed | Event::Replaced(_) => LinkStanding::Linked,
            Event::Lost { why } => LinkStanding::Reconnecting { why: why.to_string() },
            Event::Reconnecting { why, .. } => match &*self.standing.borrow() {
                // Requests fail, and go on failing until there is a link.
                LinkStanding::Disconnected { .. } => LinkStanding::Disconnected { why: why.to_string() },
                LinkStanding::Linked | LinkStanding::Reconnecting { .. } => {
                    LinkStanding::Reconnecting { why: why.to_string() }
                }
            },
            Event::Offline { why } => LinkStanding::Disconnected { why: why.to_string() },
            Event::GaveUp { why } => LinkStanding::Disconnected { why: why.clone() },
        };
        if standing != LinkStanding::Linked
            && let Some(vfs) = self.vfs.get().and_then(Weak::upgrade)
        {
            // What is cached is opened without asking a machine that does not answer.
            vfs.set_round_trip(Duration::MAX);
        }
        self.standing.send_replace(standing);
    }
}

#[cfg(test)]
mod tests;
