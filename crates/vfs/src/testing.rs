//! A [`Source`] in memory, and a kernel that believes what it is told: for the tests of this crate and of its users.
//!
//! [`Memory`] keeps the whole contract of [`crate::source`]. Changes are told only when a test asks for it
//! ([`Memory::tell_one`]), as late and in whatever order; what is told is what is there then. Changes made through the
//! source are told only where the reply did not tell them. A request waits twice where a test says so: before it is
//! carried out and before its reply arrives ([`Memory::stop`]), or for a few turns of the executor, at random
//! ([`Memory::jitter`]). Of what comes through one handle, only writes overtake writes.

mod cache;
mod kernel;
mod tree;
mod walk;

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

pub use cache::{CacheFault, MemoryCache};
pub use kernel::BelievingKernel;
pub use tree::{Event, File, Tree};
pub use walk::MemoryWalk;

use crate::cache::DataCache;
use crate::errno::{Errno, Result};
use crate::file::{
    Allocation, AttributeChanges, Attributes, Caller, Entry, FileId, Kind, Lock, Name, OpenFlags, RenameMode,
    SeekFor, Space, Time, WriteAt, XattrMode,
};
use crate::request::{Sequence, queued, take_sequence};
use crate::source::{
    Change, Changed, HandleId, Lease, Listed, Listing, NewNode, Opened, Page, Place, Removed, Source, Target,
    WalkBudget, WalkFrom, Written,
};

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len() as u64) as usize)
    }
}

/// Where a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Before it is carried out.
    Asking(&'static str),
    /// Carried out, before its reply arrives.
    Replying(&'static str),
}

/// A stop of one request.
#[derive(Debug)]
pub struct Gate {
    reached: Semaphore,
    open: Semaphore,
}

impl Gate {
    /// Waits until a request has stopped here.
    pub async fn reached(&self) {
        self.reached.acquire().await.expect("never closed").forget();
    }

    /// Lets it go on.
    pub fn release(&self) {
        self.open.add_permits(1);
    }
}

/// What the client was told of a name or a directory by a reply.
type Told = Option<Entry>;

#[derive(Debug)]
struct Pending {
    event: Event,
    /// For a change made by the client: what the reply told. If that is still so, it is not told again.
    told: Option<Told>,
    /// What was there when the source looked.
    seen: Option<Seen>,
}

/// What there was when the source looked: the change and the directory's attributes, or nothing worth telling.
type Seen = Option<(Change, Option<Attributes>)>;

/// An outcome, of whatever type.
type Reply = Box<dyn Any + Send>;

#[derive(Debug, Default)]
struct State {
    tree: Tree,
    leases: HashMap<FileId, u64>,
    epoch: u64,
    pending: Vec<Pending>,
    handles: HashMap<HandleId, FileId>,
    stops: Vec<(Stop, Arc<Gate>)>,
    faults: Vec<(&'static str, Errno)>,
    /// Numbers of the changes that wait for their turn, by the handles they go through.
    lines: HashMap<HandleId, Vec<(usize, &'static str)>>,
    changes: usize,
    calls: HashMap<&'static str, usize>,
    fails_after: Option<(usize, Errno)>,
    is_unsure: bool,
    write_bytes_max: Option<usize>,
    numbers_max: Option<u64>,
    /// The last number set aside, and what was answered under each that is not settled.
    sequence: u64,
    replies: HashMap<Sequence, Reply>,
    settled: HashSet<Sequence>,
    /// What is there under a name after a rename made by the client, the reply did not tell.
    renaming: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Memory {
    inner: Arc<Inner>,
}

impl std::ops::Deref for Memory {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

/// What a [`Memory`] and its listings share.
#[derive(Debug, Default)]
pub struct Inner {
    state: Mutex<State>,
    /// Turns that a request waits at most at each stop, and the seed.
    jitter: Mutex<Option<(u64, Random)>>,
    /// No directory can be watched: what leases hold for.
    unwatched_ms: AtomicU64,
    page_entries: AtomicU64,
    cache: Mutex<Option<Arc<MemoryCache>>>,
    clock: Mutex<Option<Time>>,
    /// A line has moved on.
    moved: Notify,
}

/// A place in the line of a handle. It is left when this is dropped.
struct InLine<'a> {
    inner: &'a Inner,
    handle: HandleId,
    number: usize,
    name: &'static str,
}

impl InLine<'_> {
    async fn turn(&self) {
        loop {
            let moved = self.inner.moved.notified();
            let holds_up = |(number, name): &(usize, &str)| {
                *number < self.number && (*name != "write" || self.name != "write")
            };
            if !self.inner.state.lock().lines[&self.handle].iter().any(holds_up) {
                return;
            }
            moved.await;
        }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        let line = state.lines.get_mut(&self.handle).expect("it is in it");
        line.retain(|(number, _)| *number != self.number);
        if line.is_empty() {
            state.lines.remove(&self.handle);
        }
        drop(state);
        self.inner.moved.notify_waiters();
    }
}

impl Memory {
    pub fn new() -> Arc<Memory> {
        let inner = Inner::default();
        inner.page_entries.store(3, Ordering::Relaxed);
        Arc::new(Memory { inner: Arc::new(inner) })
    }
}

impl Inner {
    /// Every request fails after so many.
    pub fn failing_after(&self, requests: usize, errno: Errno) {
        self.state.lock().fails_after = Some((requests, errno));
    }

    /// The next request of this name fails.
    pub fn fail_next(&self, name: &'static str, errno: Errno) {
        self.state.lock().faults.push((name, errno));
    }

    /// No more numbers than these are set aside at once.
    pub fn keep_numbers(&self, numbers_max: u64) {
        self.state.lock().numbers_max = Some(numbers_max);
    }

    /// Nothing is certain before it is done.
    pub fn be_unsure(&self) {
        self.state.lock().is_unsure = true;
    }

    /// Writes are cut short.
    pub fn write_at_most(&self, bytes: usize) {
        self.state.lock().write_bytes_max = Some(bytes);
    }

    pub fn unwatched(&self, valid_ms: u32) {
        self.unwatched_ms.store(valid_ms.into(), Ordering::Relaxed);
    }

    /// Contents are kept there.
    pub fn cache_in(&self, cache: Option<Arc<MemoryCache>>) {
        *self.cache.lock() = cache;
    }

    /// What its clock says.
    pub fn set_clock(&self, clock: Option<Time>) {
        *self.clock.lock() = clock;
    }

    pub fn list_by(&self, entries: u64) {
        self.page_entries.store(entries, Ordering::Relaxed);
    }

    /// Requests wait for up to so many turns, twice.
    pub fn jitter(&self, turns: u64, seed: u64) {
        *self.jitter.lock() = Some((turns, Random(seed)));
    }

    /// The next request of this name stops.
    pub fn stop(&self, stop: Stop) -> Arc<Gate> {
        let gate = Arc::new(Gate { reached: Semaphore::new(0), open: Semaphore::new(0) });
        self.state.lock().stops.push((stop, gate.clone()));
        gate
    }

    /// What comes from now on neither stops nor fails.
    pub fn mend(&self) {
        let mut state = self.state.lock();
        state.stops.clear();
        state.faults.clear();
        state.fails_after = None;
    }

    /// How many requests of this name were made.
    pub fn calls(&self, name: &str) -> usize {
        self.state.lock().calls.get(name).copied().unwrap_or(0)
    }

    pub fn all_calls(&self) -> usize {
        self.state.lock().calls.values().sum()
    }

    /// Numbers of changes that may come again.
    pub fn unsettled(&self) -> usize {
        self.state.lock().replies.len()
    }

    /// The source has been started anew: what was answered is not known any more.
    pub fn forget_replies(&self) {
        self.state.lock().replies.clear();
    }

    pub fn open_handles(&self) -> usize {
        self.state.lock().handles.len()
    }

    pub fn root(&self) -> Entry {
        let state = self.state.lock();
        state.tree.entry(state.tree.root).expect("a tree has a root")
    }

    /// Looks at the files.
    pub fn look<T>(&self, look: impl FnOnce(&Tree) -> T) -> T {
        look(&self.state.lock().tree)
    }

    /// Changes files as another program does.
    pub fn edit<T>(&self, edit: impl FnOnce(&mut Tree) -> T) -> T {
        let mut state = self.state.lock();
        let outcome = edit(&mut state.tree);
        state.record(false);
        outcome
    }

    pub fn pending(&self) -> usize {
        self.state.lock().pending.len()
    }

    pub fn is_leased(&self, id: FileId) -> bool {
        self.state.lock().leases.contains_key(&id)
    }

    /// The source looks at what has happened; it tells later what it saw.
    pub fn look_one(&self, number: usize) {
        let mut state = self.state.lock();
        let count = state.pending.len();
        if count > 0 {
            let number = number % count;
            let seen = state.look(&state.pending[number]);
            state.pending[number].seen.get_or_insert(seen);
        }
    }

    /// What the source tells next, if it has anything to tell, of the change with this number.
    pub fn tell_one(&self, number: usize) -> Option<Changed> {
        let mut state = self.state.lock();
        if state.pending.is_empty() {
            return None;
        }
        let number = number % state.pending.len();
        let pending = state.pending.remove(number);
        state.tell(pending)
    }

    /// Everything there is to tell.
    pub fn tell_all(&self) -> Vec<Changed> {
        let mut told = Vec::new();
        while self.pending() > 0 {
            told.extend(self.tell_one(0));
        }
        told
    }

    /// Gives a lease up.
    pub fn lose_lease(&self, directory: FileId) -> Option<Changed> {
        self.state.lock().lose(directory)
    }

    async fn ask(&self, name: &'static str) -> Result<()> {
        let refusal = {
            let mut state = self.state.lock();
            *state.calls.entry(name).or_default() += 1;
            let fault = state.faults.iter().position(|(of, _)| *of == name);
            let fault = fault.map(|at| state.faults.remove(at).1);
            let failing = state.fails_after.as_mut().and_then(|(left, errno)| {
                let fails = *left == 0;
                *left = left.saturating_sub(1);
                fails.then_some(*errno)
            });
            fault.or(failing)
        };
        self.wait(Stop::Asking(name)).await;
        refusal.map_or(Ok(()), Err)
    }

    async fn wait(&self, stop: Stop) {
        let gate = {
            let mut state = self.state.lock();
            let at = state.stops.iter().position(|(at, _)| *at == stop);
            at.map(|at| state.stops.remove(at).1)
        };
        if let Some(gate) = gate {
            gate.reached.add_permits(1);
            gate.open.acquire().await.expect("never closed").forget();
        }
        let turns = self.jitter.lock().as_mut().map_or(0, |(turns, random)| random.below(*turns + 1));
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    /// Carries a request out, or answers as before what comes under the same number.
    async fn carry_out<T: Clone + Send + 'static>(
        &self,
        name: &'static str,
        is_change: bool,
        request: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        self.carry_out_in_line(name, is_change, None, request).await
    }

    fn enter_line(&self, handle: HandleId, name: &'static str) -> InLine<'_> {
        let mut state = self.state.lock();
        state.changes += 1;
        let number = state.changes;
        state.lines.entry(handle).or_default().push((number, name));
        InLine { inner: self, handle, number, name }
    }

    async fn carry_out_in_line<T: Clone + Send + 'static>(
        &self,
        name: &'static str,
        is_change: bool,
        handle: Option<HandleId>,
        request: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let sequence = if is_change { take_sequence() } else { None };
        let in_line = handle.map(|handle| self.enter_line(handle, name));
        if in_line.is_some() {
            queued();
        }
        self.ask(name).await?;
        if let Some(in_line) = &in_line {
            in_line.turn().await;
        }
        let outcome = {
            let mut state = self.state.lock();
            match sequence.and_then(|sequence| state.answered(sequence)) {
                Some(outcome) => outcome,
                None => {
                    let outcome = request(&mut state);
                    state.record(is_change);
                    if let Some(sequence) = sequence {
                        state.replies.insert(sequence, Box::new(outcome.clone()));
                    }
                    outcome
                }
            }
        };
        drop(in_line);
        self.wait(Stop::Replying(name)).await;
        outcome
    }

    fn unwatched_ms(&self) -> u32 {
        self.unwatched_ms.load(Ordering::Relaxed) as u32
    }
}

impl State {
    fn answered<T: Clone + 'static>(&self, sequence: Sequence) -> Option<Result<T>> {
        assert!(!self.settled.contains(&sequence), "{sequence:?} came again after it was settled");
        let reply = self.replies.get(&sequence)?;
        Some(reply.downcast_ref::<Result<T>>().expect("one number is of one request").clone())
    }

    /// Queues what has happened where it is watched.
    fn record(&mut self, by_client: bool) {
        for event in std::mem::take(&mut self.tree.events) {
            let (directory, told) = match &event {
                Event::Name { directory, name } => (*directory, self.now(*directory, name)),
                Event::Itself { directory } | Event::Ended { directory } => {
                    (*directory, self.tree.entry(*directory).ok())
                }
            };
            if self.leases.contains_key(&directory) {
                let by_reply = by_client && !(self.renaming && told.is_some());
                self.pending.push(Pending { event, told: by_reply.then_some(told), seen: None });
            }
        }
        self.renaming = false;
    }

    fn now(&self, directory: FileId, name: &Name) -> Option<Entry> {
        let id = self.tree.lookup(directory, name).ok().flatten()?;
        self.tree.entry(id).ok()
    }

    fn look(&self, pending: &Pending) -> Seen {
        let (directory, what, now) = match &pending.event {
            Event::Ended { .. } => return None,
            Event::Itself { directory } => (directory, Change::Itself, self.tree.entry(*directory).ok()),
            Event::Name { directory, name } => match self.now(*directory, name) {
                Some(entry) => (directory, Change::Present { name: name.clone(), entry }, Some(entry)),
                None => (directory, Change::Absent { name: name.clone() }, None),
            },
        };
        if pending.told == Some(now) {
            return None;
        }
        let attributes = self.tree.get(*directory).map(|file| file.attributes).ok()?;
        let attributes = matches!(what, Change::Itself).then_some(attributes);
        Some((what, attributes))
    }

    fn tell(&mut self, pending: Pending) -> Option<Changed> {
        let directory = match pending.event {
            Event::Ended { directory } => return self.lose(directory),
            Event::Itself { directory } | Event::Name { directory, .. } => directory,
        };
        if !self.leases.contains_key(&directory) {
            return None;
        }
        if self.tree.get(directory).is_err() {
            return self.lose(directory);
        }
        let seen = self.look(&pending);
        let (what, attributes) = pending.seen.unwrap_or(seen)?;
        self.epoch += 1;
        self.leases.insert(directory, self.epoch);
        Some(Changed { directory, epoch: self.epoch, what, attributes })
    }

    fn lose(&mut self, directory: FileId) -> Option<Changed> {
        self.leases.remove(&directory)?;
        self.pending.retain(|pending| match &pending.event {
            Event::Name { directory: of, .. }
            | Event::Itself { directory: of }
            | Event::Ended { directory: of } => *of != directory,
        });
        self.epoch += 1;
        Some(Changed { directory, epoch: self.epoch, what: Change::LeaseLost, attributes: None })
    }

    fn lease(&mut self, directory: FileId, unwatched_ms: u32) -> Lease {
        if unwatched_ms != 0 {
            return Lease { epoch: self.epoch, valid_ms: unwatched_ms };
        }
        let epoch = *self.leases.entry(directory).or_insert(self.epoch);
        Lease { epoch, valid_ms: 0 }
    }

    fn find(&self, target: &Target) -> Result<FileId> {
        match target {
            Target::Place(place) => self.tree.resolve(place),
            Target::Handle(handle) => self.handle(*handle),
        }
    }

    fn handle(&self, handle: HandleId) -> Result<FileId> {
        self.handles.get(&handle).copied().ok_or(Errno::EBADF)
    }

    fn open(&mut self, id: FileId, flags: OpenFlags, handle: HandleId, inline: u32) -> Result<Opened> {
        if self.tree.get(id)?.attributes.kind == Kind::Directory {
            return Err(Errno::EISDIR);
        }
        if self.handles.contains_key(&handle) {
            return Err(Errno::EINVAL);
        }
        if flags.truncate {
            self.tree
                .set_attributes(id, AttributeChanges { size: Some(0), ..AttributeChanges::default() })?;
        }
        self.tree.get_mut(id)?.opens += 1;
        self.handles.insert(handle, id);
        let entry = self.tree.entry(id)?;
        let content = self.tree.read(id, 0, inline)?;
        let whole = inline > 0 && content.len() as u64 == entry.attributes.size;
        Ok(Opened { entry, content, whole, directory: None, is_own: true, is_new: false })
    }

    fn removed(&self, directory: FileId, id: FileId) -> Result<Removed> {
        let directory = self.tree.entry(directory)?.attributes;
        Ok(Removed { entry: self.tree.entry(id).ok(), directory })
    }
}

/// A listing of a [`Memory`].
#[derive(Debug)]
pub struct MemoryListing {
    inner: Arc<Inner>,
    directory: Place,
    from: u64,
    lease: Option<Lease>,
    end: bool,
}

impl Listing for MemoryListing {
    async fn next(&mut self) -> Result<Option<Page>> {
        if self.end {
            return Ok(None);
        }
        let (unwatched_ms, entries) =
            (self.inner.unwatched_ms(), self.inner.page_entries.load(Ordering::Relaxed));
        let (place, from, known) = (self.directory.clone(), self.from, self.lease);
        let request = |state: &mut State| {
            let id = state.tree.resolve(&place)?;
            let lease = known.unwrap_or_else(|| state.lease(id, unwatched_ms));
            let directory = state.tree.get(id)?;
            if directory.attributes.kind != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            let listed = |(cookie, name, id): (u64, &Name, FileId)| Listed {
                name: name.clone(),
                entry: state.tree.entry(id).ok(),
                cookie,
            };
            let entries: Vec<_> = directory.listing(from).map(listed).take(entries as usize + 1).collect();
            Ok((lease, entries, directory.attributes))
        };
        let (lease, mut listed, attributes) = self.inner.carry_out("list", false, request).await?;
        let end = listed.len() as u64 <= entries;
        listed.truncate(entries as usize);
        self.from = listed.last().map_or(self.from, |listed| listed.cookie);
        (self.lease, self.end) = (Some(lease), end);
        Ok(Some(Page { entries: listed, end, lease: Some(lease), directory: end.then_some(attributes) }))
    }
}

impl Source for Memory {
    type Listing = MemoryListing;
    type Walk = MemoryWalk;

    async fn lookup(&self, directory: Place, name: Name) -> Result<(Option<Entry>, Option<Lease>)> {
        let unwatched_ms = self.unwatched_ms();
        let request = |state: &mut State| {
            let id = state.tree.resolve(&directory)?;
            let found = state.tree.lookup(id, &name)?;
            let lease = state.lease(id, unwatched_ms);
            Ok((found.and_then(|id| state.tree.entry(id).ok()), Some(lease)))
        };
        self.carry_out("lookup", false, request).await
    }

    async fn stat(&self, target: Target) -> Result<Entry> {
        let request = |state: &mut State| {
            let id = state.find(&target)?;
            state.tree.entry(id)
        };
        self.carry_out("stat", false, request).await
    }

    async fn set_attributes(&self, target: Target, changes: AttributeChanges) -> Result<Entry> {
        let request = |state: &mut State| {
            let id = state.find(&target)?;
            state.tree.set_attributes(id, changes)?;
            state.tree.entry(id)
        };
        let handle = if let Target::Handle(handle) = target { Some(handle) } else { None };
        self.carry_out_in_line("set_attributes", true, handle, request).await
    }

    async fn read_link(&self, place: Place) -> Result<Bytes> {
        let request = |state: &mut State| {
            let id = state.tree.resolve(&place)?;
            state.tree.read(id, 0, u32::MAX)
        };
        self.carry_out("read_link", false, request).await
    }

    async fn symlink(&self, directory: Place, name: Name, contents: Bytes, _caller: Caller) -> Result<Entry> {
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let id = state.tree.make(directory, &name, Kind::Symlink, 0o777)?;
            state.tree.write(id, Some(0), &contents)?;
            state.tree.entry(id)
        };
        self.carry_out("symlink", true, request).await
    }

    async fn make_node(&self, directory: Place, name: Name, node: NewNode, caller: Caller) -> Result<Entry> {
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let id = state.tree.make(directory, &name, node.kind, node.mode & !caller.umask)?;
            state.tree.entry(id)
        };
        self.carry_out("make_node", true, request).await
    }

    async fn make_directory(&self, directory: Place, name: Name, mode: u16, caller: Caller) -> Result<Entry> {
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let id = state.tree.make(directory, &name, Kind::Directory, mode & !caller.umask)?;
            state.tree.entry(id)
        };
        self.carry_out("make_directory", true, request).await
    }

    async fn unlink(&self, directory: Place, name: Name) -> Result<Removed> {
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let id = state.tree.unlink(directory, &name)?;
            state.removed(directory, id)
        };
        self.carry_out("unlink", true, request).await
    }

    async fn remove_directory(&self, directory: Place, name: Name) -> Result<Removed> {
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let id = state.tree.remove_directory(directory, &name)?;
            state.removed(directory, id)
        };
        self.carry_out("remove_directory", true, request).await
    }

    async fn rename(&self, from: (Place, Name), to: (Place, Name), mode: RenameMode) -> Result<()> {
        let request = |state: &mut State| {
            let (old, new) = (state.tree.resolve(&from.0)?, state.tree.resolve(&to.0)?);
            state.renaming = true;
            state.tree.rename((old, &from.1), (new, &to.1), mode)
        };
        self.carry_out("rename", true, request).await
    }

    async fn link(&self, target: Target, directory: Place, name: Name) -> Result<Entry> {
        let request = |state: &mut State| {
            let (id, directory) = (state.find(&target)?, state.tree.resolve(&directory)?);
            state.tree.link(id, directory, &name)?;
            state.tree.entry(id)
        };
        self.carry_out("link", true, request).await
    }

    async fn open(
        &self,
        place: Place,
        flags: OpenFlags,
        handle: HandleId,
        inline_bytes: u32,
    ) -> Result<Opened> {
        let request = |state: &mut State| {
            let id = state.tree.resolve(&place)?;
            state.open(id, flags, handle, inline_bytes)
        };
        self.carry_out("open", true, request).await
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
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let found = state.tree.lookup(directory, &name)?;
            let id = match found {
                Some(_) if flags.exclusive => return Err(Errno::EEXIST),
                Some(id) => id,
                None => state.tree.make(directory, &name, Kind::File, mode & !caller.umask)?,
            };
            let opened = state.open(id, flags, handle, 0)?;
            let directory = Some(state.tree.entry(directory)?.attributes);
            Ok(Opened { directory, is_new: found.is_none(), ..opened })
        };
        self.carry_out_in_line("create", true, Some(handle), request).await
    }

    async fn create_unnamed(
        &self,
        directory: Place,
        mode: u16,
        flags: OpenFlags,
        handle: HandleId,
        caller: Caller,
    ) -> Result<Opened> {
        let request = |state: &mut State| {
            state.tree.resolve(&directory)?;
            let id = state.tree.make_unnamed(Kind::File, mode & !caller.umask);
            state.open(id, flags, handle, 0)
        };
        self.carry_out("create_unnamed", true, request).await
    }

    async fn read(&self, handle: HandleId, offset: u64, length: u32) -> Result<Bytes> {
        let request = |state: &mut State| state.tree.read(state.handle(handle)?, offset, length);
        self.carry_out("read", false, request).await
    }

    async fn write(
        &self,
        handle: HandleId,
        at: WriteAt,
        bytes: Bytes,
        _clear_set_id: bool,
    ) -> Result<Written> {
        let request = |state: &mut State| {
            let id = state.handle(handle)?;
            let taken = bytes.len().min(state.write_bytes_max.unwrap_or(usize::MAX));
            let offset = if let WriteAt::Offset(offset) = at { Some(offset) } else { None };
            let bytes = state.tree.write(id, offset, &bytes[..taken])?;
            Ok(Written { bytes, attributes: state.tree.entry(id)?.attributes })
        };
        self.carry_out_in_line("write", true, Some(handle), request).await
    }

    async fn sync(&self, _target: Target, _data_only: bool) -> Result<()> {
        self.carry_out("sync", false, |_| Ok(())).await
    }

    async fn close(&self, handle: HandleId) -> Result<()> {
        let request = |state: &mut State| {
            let id = state.handles.remove(&handle).ok_or(Errno::EBADF)?;
            state.tree.get_mut(id)?.opens -= 1;
            state.tree.reap(id);
            Ok(())
        };
        self.carry_out("close", false, request).await
    }

    async fn allocate(&self, handle: HandleId, what: Allocation, offset: u64, length: u64) -> Result<Entry> {
        let request = |state: &mut State| {
            let id = state.handle(handle)?;
            let size = state.tree.get(id)?.attributes.size.max(offset + length);
            if what == (Allocation::Reserve { keep_size: false }) {
                state.tree.set_attributes(id, AttributeChanges { size: Some(size), ..Default::default() })?;
            }
            state.tree.entry(id)
        };
        self.carry_out("allocate", true, request).await
    }

    async fn seek(&self, handle: HandleId, offset: u64, what: SeekFor) -> Result<u64> {
        let request = |state: &mut State| {
            let size = state.tree.get(state.handle(handle)?)?.attributes.size;
            match what {
                _ if offset >= size => Err(Errno::ENXIO),
                SeekFor::Data => Ok(offset),
                SeekFor::Hole => Ok(size),
            }
        };
        self.carry_out("seek", false, request).await
    }

    async fn copy_range(&self, from: (HandleId, u64), to: (HandleId, u64), length: u64) -> Result<Written> {
        let request = |state: &mut State| {
            let (source, target) = (state.handle(from.0)?, state.handle(to.0)?);
            let bytes = state.tree.read(source, from.1, length.min(u64::from(u32::MAX)) as u32)?;
            let bytes = state.tree.write(target, Some(to.1), &bytes)?;
            Ok(Written { bytes, attributes: state.tree.entry(target)?.attributes })
        };
        self.carry_out("copy_range", true, request).await
    }

    async fn space(&self, _place: Place) -> Result<Space> {
        let space = Space {
            block_size: 4096,
            blocks: 1000,
            blocks_free: 500,
            blocks_available: 400,
            files: 1000,
            files_free: 900,
            name_bytes: 255,
        };
        self.carry_out("space", false, |_| Ok(space)).await
    }

    async fn get_xattr(&self, target: Target, name: Bytes) -> Result<Bytes> {
        self.carry_out("get_xattr", false, |state| state.tree.get_xattr(state.find(&target)?, &name)).await
    }

    async fn set_xattr(&self, target: Target, name: Bytes, value: Bytes, mode: XattrMode) -> Result<Entry> {
        let request = |state: &mut State| {
            let id = state.find(&target)?;
            state.tree.set_xattr(id, name, value, mode)?;
            state.tree.entry(id)
        };
        self.carry_out("set_xattr", true, request).await
    }

    async fn list_xattrs(&self, target: Target) -> Result<Bytes> {
        self.carry_out("list_xattrs", false, |state| state.tree.xattr_names(state.find(&target)?)).await
    }

    async fn remove_xattr(&self, target: Target, name: Bytes) -> Result<Entry> {
        let request = |state: &mut State| {
            let id = state.find(&target)?;
            state.tree.remove_xattr(id, &name)?;
            state.tree.entry(id)
        };
        self.carry_out("remove_xattr", true, request).await
    }

    async fn lock(&self, _handle: HandleId, _owner: u64, _lock: Lock, _wait: bool) -> Result<()> {
        self.carry_out("lock", false, |_| Ok(())).await
    }

    async fn test_lock(&self, _handle: HandleId, _owner: u64, _lock: Lock) -> Result<Option<(Lock, u32)>> {
        self.carry_out("test_lock", false, |_| Ok(None)).await
    }

    async fn release_locks(&self, _handle: HandleId, _owner: u64) -> Result<()> {
        self.carry_out("release_locks", false, |_| Ok(())).await
    }

    fn next_sequence(&self) -> Option<Sequence> {
        let mut state = self.state.lock();
        let outstanding = state.sequence - state.settled.len() as u64;
        if state.numbers_max.is_some_and(|numbers_max| outstanding >= numbers_max) {
            return None;
        }
        state.sequence += 1;
        Some(Sequence(state.sequence))
    }

    fn owner_of_new(&self, _caller: Caller) -> Option<(u32, u32)> {
        (!self.state.lock().is_unsure).then_some((0, 0))
    }

    fn is_sure(&self, _changes: &AttributeChanges) -> bool {
        !self.state.lock().is_unsure
    }

    fn settled(&self, sequence: Sequence) {
        let mut state = self.state.lock();
        state.replies.remove(&sequence);
        state.settled.insert(sequence);
    }

    fn cache(&self) -> Option<Arc<dyn DataCache>> {
        self.cache.lock().clone().map(|cache| cache as Arc<dyn DataCache>)
    }

    fn clock(&self) -> Option<Time> {
        *self.clock.lock()
    }

    fn list(&self, directory: Place, from: u64) -> MemoryListing {
        MemoryListing { inner: self.inner.clone(), directory, from, lease: None, end: false }
    }

    fn walk(&self, directory: Place, from: WalkFrom, budget: WalkBudget) -> MemoryWalk {
        MemoryWalk::new(self.inner.clone(), directory, from, budget)
    }
}
