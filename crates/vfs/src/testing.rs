//! A [`Source`] in memory, and a kernel that believes what it is told: for the tests of this crate and of its users.
//!
//! [`Memory`] keeps the whole contract of [`crate::source`]. Changes are told only when a test asks for it
//! ([`Memory::tell_one`]), as late and in whatever order; what is told is what is there then. Changes made through the
//! source are told only where the reply did not tell them. A request waits twice where a test says so: before it is
//! carried out and before its reply arrives ([`Memory::stop`]), or for a few turns of the executor, at random
//! ([`Memory::jitter`]). Of what comes through one handle, only writes overtake writes.

mod cache;
mod kernel;
mod source;
mod tree;
mod walk;

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

pub use cache::{CacheFault, MemoryCache};
pub use kernel::BelievingKernel;
pub use source::MemoryListing;
pub use tree::{Event, File, Tree};
pub use walk::MemoryWalk;

use crate::errno::{Errno, Result};
use crate::file::{AttributeChanges, Attributes, Entry, FileId, Kind, Name, OpenFlags, Time};
use crate::request::{Sequence, queued, take_sequence};
use crate::source::{Change, Changed, HandleId, Lease, Opened, Removed, Target};

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
                let is_new_name = self.renaming && told.is_some() && matches!(event, Event::Name { .. });
                let by_reply = by_client && !is_new_name;
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
