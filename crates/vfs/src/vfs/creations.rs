//! Files that are said to be made before they are.
//!
//! ```text
//!              ┌─ not certain ─► made ─► the kernel is told
//!  asked for ──┤
//!              └─ kept in the journal ─► node, name and handle recorded ─► sent ─► the kernel is told ─┐
//!                                                                                                      │
//!    ┌────────────────────────────────────────── expected ◄────────────────────────────────────────────┘
//!    │ made: the identity is recorded, the handle is open, the journal has that it is over
//!    │ refused: nothing has the name, whatever is asked of the handle fails, `fsync` and `close` tell why; over
//!    ▼
//! ```
//!
//! **Certain** is: the source is far, so that it is worth anything; the directory is under lease and the name is not there;
//! this user has made something there under this lease, or the directory itself, and nobody has changed who may since;
//! nothing is being renamed or removed that the directory may be below. Where it is asked for exclusively, the directory is
//! our own: who makes a lock where others know of it must know that he has it.
//!
//! **Our own** is a directory that was made from here, until somebody else is known to have changed a name in it, or nobody
//! would tell. What is not known in it is not there. Where somebody has made the name all the same, what was written goes to
//! a new file beside it, and `EEXIST` is told.
//!
//! **While it is expected** only writes and attributes through its own handle are sent, behind the creation. Whoever asks
//! for anything else of the file, for its name, or for the directory's listing or attributes, waits; but not the thread that
//! makes it, for which its kernel asks only to let it in. For the directory it is a change under way: what is asked about
//! other names there meanwhile is answered, and not kept. It is sent as an exclusive creation, so that what is written behind
//! it never falls on a file of somebody else: where one has come meanwhile, it is opened when all that was sent behind has
//! been refused for want of a handle, and that is sent again in its order.
//!
//! **A successor** sends the creation again under its number, and what was sent behind it afterwards. One that the journal has
//! and the record does not was never sent, and nobody was told; nor was anybody told of one that only the record has.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::sync::OwnedRwLockWriteGuard;

use super::files::{AroundPages, HandleOf, OpenFile, OpenedFile};
use super::names::{View, checked_name, is_definite};
use super::writes::{Keeping, KeptIn, poll_once};
use super::{AttributeTarget, SyncMode, Vfs};
use crate::awaited::{Awaited, Promise};
use crate::behind::{Change, Extent, Taken};
use crate::errno::{Errno, Result};
use crate::file::{Attributes, Caller, Kind, Name, OpenFlags, ThreadId};
use crate::journal::{Creation, Journal, What};
use crate::replay::{ASIDE_NAMES_MAX, name_aside};
use crate::request::{OnQueued, Sequence, current, is_repeat, promised};
use crate::source::{HandleId, Opened, Place, Source};
use crate::table::ledger::Stage;
use crate::table::{Believe, Ino, Notice, Ticket};

/// How many files are expected at once. Each is open at the source until it is known to be made; at 200 ms these are 2,500
/// files a second. Who would make more waits for the source.
pub(crate) const EXPECTED_FILES_MAX: usize = 512;

/// Of how many threads it is remembered that they make files in a directory.
const MAKERS_MAX: usize = 64;

/// A file that is expected.
#[derive(Debug)]
struct Expected {
    directory: Ino,
    made: Arc<Awaited<Result<()>>>,
    /// Who is to be let in: until its kernel has asked whether it may.
    opener: Option<ThreadId>,
}

/// A directory in which something has been made from here, and whose attributes since are not known.
#[derive(Debug, Default)]
struct Nursery {
    /// Files that are expected in it, and questions for its attributes.
    awaited: usize,
    /// Who makes what is made in it.
    makers: Vec<ThreadId>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<Ino, Expected>,
    /// Those directories that some of them are in.
    nurseries: HashMap<Ino, Nursery>,
    /// Changes that may move directories, or take them away.
    moves: u32,
}

impl State {
    fn add(&mut self, ino: Ino, expected: Expected) {
        self.enter(expected.directory, expected.opener);
        self.files.insert(ino, expected);
    }

    fn enter(&mut self, directory: Ino, maker: Option<ThreadId>) {
        let nursery = self.nurseries.entry(directory).or_default();
        nursery.awaited += 1;
        if let Some(maker) = maker
            && !nursery.makers.contains(&maker)
            && nursery.makers.len() < MAKERS_MAX
        {
            nursery.makers.push(maker);
        }
    }

    fn leave(&mut self, directory: Ino) {
        let Some(nursery) = self.nurseries.get_mut(&directory) else { return };
        nursery.awaited -= 1;
        if nursery.awaited == 0 {
            self.nurseries.remove(&directory);
        }
    }

    fn remove(&mut self, ino: Ino) {
        if let Some(Expected { directory, .. }) = self.files.remove(&ino) {
            self.leave(directory);
        }
    }
}

impl Expectations {
    pub(super) fn has(&self, ino: Ino) -> bool {
        self.state.lock().files.contains_key(&ino)
    }

    /// Whether the kernel asks only in order to let this thread into the file that it has made, or make another beside
    /// those that it has.
    fn lets_in(&self, ino: Ino, by: ThreadId) -> bool {
        let mut state = self.state.lock();
        let file = state.files.get_mut(&ino);
        let is_opener = file.is_some_and(|file| file.opener.take_if(|opener| *opener == by).is_some());
        is_opener || state.nurseries.get(&ino).is_some_and(|nursery| nursery.makers.contains(&by))
    }
}

/// While it is there no file is said to be made: where it would be made is about to be elsewhere.
pub(super) struct Moving<'a>(&'a Expectations);

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.state.lock().moves -= 1;
    }
}

impl<S: Source> Vfs<S> {
    /// `open(2)` with `O_CREAT`, answered before the file is made. What is told of it is good for this answer only. `None`
    /// where the caller has to wait: [`Vfs::create`] then makes the file.
    pub async fn create_ahead(
        self: &Arc<Self>,
        parent: Ino,
        name: &[u8],
        (mode, flags): (u16, OpenFlags),
        caller: Caller,
        by: ThreadId,
    ) -> Result<Option<(View, OpenedFile)>> {
        if let Some(made) = self.was_created().await {
            return made.map(Some);
        }
        let is_plain = flags.write && !flags.append && !flags.sync && !flags.direct;
        if !is_plain || !self.may_promise() {
            return Ok(None);
        }
        let Some(owner) = self.source.owner_of_new(caller) else { return Ok(None) };
        let creation = Creation { parent, name: checked_name(name)?, mode, flags, caller };
        let Some(open) = self.expect(&creation, owner) else { return Ok(None) };
        let making = self.begin_making(&open, creation.clone(), by, Moves::Hinder);
        let Some(mut making) = making else {
            self.never_made(&open, parent, &creation.name);
            return Ok(None);
        };
        let kept = Keeping { what: What::Creation, offset: 0, bytes: creation.bytes(), clear_set_id: false };
        let sequence = match self.keep_work(&open, &kept).await {
            KeptIn::Nowhere => {
                making.withdraw();
                return Ok(None);
            }
            KeptIn::Journal(sequence) => Some(sequence),
            KeptIn::Memory => None,
        };
        making.journalled = sequence;
        // A successor must know the node of what has been sent.
        self.commit();
        let view = self.expected_view(open.ino())?;
        let opened = new_file(open.handle);
        let on_queued = making.on_queued();
        let mut task = Box::pin(promised(sequence, Some(on_queued), making.carry_out()));
        if poll_once(task.as_mut()).await.is_none() {
            tokio::spawn(task);
        }
        Ok(Some((view, opened)))
    }

    /// Whether anything may be said to be made before it is: the source is far, so that it is worth anything, nobody asked
    /// to wait, and nothing of it has been sent before.
    fn may_promise(&self) -> bool {
        !self.near.load(Ordering::Relaxed) && self.options.sync != SyncMode::Strict && !is_repeat()
    }

    /// The directory has just been made for this user: it is our own, and nobody else's changes in it are told of until it
    /// is watched.
    pub(super) fn own(self: &Arc<Self>, ino: Ino, caller: Caller) {
        if !self.may_promise() {
            return;
        }
        self.table.lock().own(ino, caller);
        let vfs = self.clone();
        tokio::spawn(async move {
            vfs.list_ahead(ino).await;
            vfs.table.lock().disown_unwatched(ino);
        });
    }

    /// This thread has made something in the directory, and was told so when the source had: it is let in again without
    /// having to wait for the directory's attributes, which are asked for meanwhile.
    pub fn goes_on(self: &Arc<Self>, directory: Ino, caller: Caller, by: ThreadId) {
        if !self.may_promise() {
            return;
        }
        self.table.lock().made_for(directory, caller);
        self.expected.state.lock().enter(directory, known(by));
        let vfs = self.clone();
        tokio::spawn(async move {
            if let Err(errno) = vfs.attributes(directory.into()).await {
                tracing::debug!(ino = directory.0, %errno, "a directory's attributes are asked for again");
            }
            vfs.expected.state.lock().leave(directory);
        });
    }

    /// The node, the name and the handle of a file that is about to be made.
    fn expect(self: &Arc<Self>, creation: &Creation, (uid, gid): (u32, u32)) -> Option<Arc<OpenFile>> {
        let Creation { parent, name, mode, flags, caller } = creation;
        let handle = self.new_handle();
        if self.open_file(handle).is_ok() {
            return None;
        }
        let ino = self.learn(|table, notices| {
            if !table.is_sure_to_make(*parent, name, flags.exclusive, *caller, self.now()) {
                return None;
            }
            let attributes =
                Attributes { mode: mode & !caller.umask, uid, gid, ..Attributes::new(Kind::File) };
            table.expect(*parent, name, attributes, notices).ok()
        })?;
        let of = HandleOf { ino, handle, flags: OpenFlags { truncate: false, exclusive: false, ..*flags } };
        let open = self.register(of, Awaited::new(), Some(Stage::Assumed));
        open.file.is_own(true);
        open.is_made_ahead.store(true, Ordering::Release);
        Some(open)
    }

    /// `None`: it is hindered.
    fn begin_making(
        self: &Arc<Self>,
        open: &Arc<OpenFile>,
        creation: Creation,
        by: ThreadId,
        moves: Moves,
    ) -> Option<Making<S>> {
        {
            let mut state = self.expected.state.lock();
            let is_full = state.files.len() >= EXPECTED_FILES_MAX;
            if moves == Moves::Hinder && (state.moves > 0 || is_full) {
                return None;
            }
            let (directory, made) = (creation.parent, open.opening.clone());
            state.add(open.ino(), Expected { directory, made, opener: known(by) });
        }
        let change = Change { extent: Extent::Creation, handle: open.handle, writer: by };
        let taken = open.file.behind.inherit(change);
        let promise = Some(open.opening.promise(Err(Errno::EIO)));
        let (vfs, open) = (self.clone(), open.clone());
        let making = Making {
            vfs,
            open,
            creation,
            taken,
            promise,
            fence: None,
            journalled: None,
            conflict: None,
            is_repeat: false,
        };
        Some(making)
    }

    /// Nobody has been told of the file, and nothing was sent.
    fn never_made(self: &Arc<Self>, open: &OpenFile, parent: Ino, name: &Name) {
        let ((), notices) =
            self.learn_untold(|table, notices| table.unexpect(open.ino(), parent, name, notices));
        self.disown(open.handle);
        self.table.lock().handle_closed(open.handle);
        self.forget(open.ino(), 1);
        self.notify(notices);
    }

    /// Makes a file that a predecessor has said to be made.
    pub(super) fn make_again(self: &Arc<Self>, open: &Arc<OpenFile>, creation: Creation, sequence: Sequence) {
        let making = self.begin_making(open, creation, ThreadId::UNKNOWN, Moves::Allow);
        let Some(mut making) = making else { return };
        (making.journalled, making.is_repeat) = (Some(sequence), true);
        let ino = open.ino();
        tokio::spawn(promised(Some(sequence), None, async move {
            if let Err(errno) = making.carry_out().await {
                tracing::warn!(ino = ino.0, %errno, "a predecessor's file was not made; `fsync` and `close` tell");
            }
        }));
    }

    fn expected_view(&self, ino: Ino) -> Result<View> {
        let table = self.table.lock();
        let (id, attributes) = (table.id(ino)?, table.last_attributes(ino)?);
        // The name is there until a notice takes it back.
        Ok(View { ino, id, attributes, attributes_for: Believe::Once, name_for: Believe::Leased })
    }

    /// What a predecessor has answered, or was about to, to the request that is being answered.
    async fn was_created(self: &Arc<Self>) -> Option<Result<(View, OpenedFile)>> {
        let (request, journalling) = (current()?, self.journalling.as_ref()?);
        let ino = journalling.created.lock().remove(&request)?;
        let handle = HandleId::of_request(request);
        let open = self.open_file(handle).ok().filter(|open| open.ino() == ino)?;
        Some(self.created_before(&open).await)
    }

    async fn created_before(self: &Arc<Self>, open: &Arc<OpenFile>) -> Result<(View, OpenedFile)> {
        let ino = open.ino();
        let seen = match open.opening.get().await {
            Ok(()) => self.attributes(ino.into()).await,
            Err(errno) => Err(errno),
        };
        let (attributes, attributes_for) = seen.inspect_err(|_| {
            // Nobody has been told of it.
            self.release(open.handle);
            self.forget(ino, 1);
        })?;
        let view = View { ino, id: self.id(ino)?, attributes, attributes_for, name_for: Believe::Once };
        Ok((view, new_file(open.handle)))
    }

    /// As [`Vfs::attributes`], for a kernel that asks on behalf of this thread. Before it lets a thread into a file that was
    /// just made, or make another in the same directory, a kernel that was told attributes for one answer only asks for
    /// them: what decides that is known, and answered at once. The file's maker alone gets such an answer, once; and who
    /// makes files, of their directory, while they are expected: its times and size are those of before.
    pub async fn attributes_for(
        self: &Arc<Self>,
        of: AttributeTarget,
        by: ThreadId,
    ) -> Result<(Attributes, Believe)> {
        if of.handle.is_none() && self.expected.lets_in(of.ino, by) {
            let table = self.table.lock();
            if table.kind(of.ino)? != Kind::Directory || table.has_makers(of.ino) {
                return Ok((table.last_attributes(of.ino)?, Believe::Once));
            }
        }
        self.attributes(of).await
    }

    /// Waits until the file, if it is expected, is made or not.
    pub(super) async fn node_is_made(&self, ino: Ino) {
        let expected = self.expected.state.lock().files.get(&ino).map(|file| file.made.clone());
        if let Some(made) = expected {
            let _outcome = made.get().await.is_ok();
        }
    }

    /// As [`Vfs::node_is_made`], of what has this name. Gives whether there was something to wait for.
    pub(super) async fn name_is_made(&self, parent: Ino, name: &[u8]) -> bool {
        if self.expected.state.lock().files.is_empty() {
            return false;
        }
        let ino = self.table.lock().lookup_any(parent, name);
        let Some(ino) = ino.filter(|ino| self.expected.has(*ino)) else { return false };
        self.node_is_made(ino).await;
        true
    }

    /// Something is about to be renamed or removed that may be above files that are expected: waits until these are made or
    /// not. No other is expected while what this gives is there.
    pub(super) async fn about_to_move(&self) -> Moving<'_> {
        self.expected.state.lock().moves += 1;
        let moving = Moving(&self.expected);
        self.all_are_made(None).await;
        moving
    }

    /// Waits until all files that are expected in the directory by now, or with `None` anywhere, are made or not.
    pub(super) async fn all_are_made(&self, directory: Option<Ino>) {
        let expected: Vec<_> = {
            let state = self.expected.state.lock();
            if directory.is_some_and(|directory| !state.nurseries.contains_key(&directory)) {
                return;
            }
            let there = |parent: Ino| directory.is_none_or(|directory| directory == parent);
            state.files.values().filter(|file| there(file.directory)).map(|file| file.made.clone()).collect()
        };
        for made in expected {
            let _outcome = made.get().await.is_ok();
        }
    }
}

/// The thread, where it is known which it is.
fn known(by: ThreadId) -> Option<ThreadId> {
    (by != ThreadId::UNKNOWN).then_some(by)
}

/// A file of which the kernel has nothing yet.
fn new_file(handle: HandleId) -> OpenedFile {
    OpenedFile { handle, keep_pages: false, attributes_changed: false, around_pages: AroundPages::No }
}

/// What changes under way that may move directories do to a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moves {
    Hinder,
    /// It has been said to be made.
    Allow,
}

/// A file that is being made. Dropped before its end, it is not known whether it has been.
struct Making<S: Source> {
    vfs: Arc<Vfs<S>>,
    open: Arc<OpenFile>,
    creation: Creation,
    taken: Taken,
    /// Nothing when it is over.
    promise: Option<Promise<Result<()>>>,
    /// Nothing is sent behind it any more.
    fence: Option<OwnedRwLockWriteGuard<()>>,
    journalled: Option<Sequence>,
    /// Why it was made under another name: to be told.
    conflict: Option<Errno>,
    /// It may have been made before: what the source says of the directory is from then.
    is_repeat: bool,
}

/// The file that was to be made is there already: waits until nothing is on its way behind the making. What is sent once the
/// file is open must not come before what was sent earlier, and found no handle.
async fn end_line(open: &OpenFile) -> OwnedRwLockWriteGuard<()> {
    open.was_there.store(true, Ordering::Release);
    open.in_line.clone().write_owned().await
}

/// What the source is asked for a creation.
struct Asking<'a, S> {
    source: &'a S,
    creation: &'a Creation,
    handle: HandleId,
    is_repeat: bool,
}

impl<S: Source> Asking<'_, S> {
    /// Where a predecessor has asked, its handle may be open already, on the file that it found or made then: it is opened
    /// anew.
    async fn create(&self, place: Place, name: Name, flags: OpenFlags) -> Result<Opened> {
        let Creation { mode, caller, .. } = self.creation;
        let create = || self.source.create(place.clone(), name.clone(), *mode, flags, self.handle, *caller);
        let outcome = create().await;
        if self.is_repeat
            && matches!(outcome, Err(Errno::EINVAL))
            && self.source.close(self.handle).await.is_ok()
        {
            return create().await;
        }
        outcome
    }
}

impl<S: Source> Making<S> {
    fn on_queued(&self) -> OnQueued {
        let (file, taken) = (self.open.file.clone(), self.taken);
        Box::new(move || file.behind.queued(taken))
    }

    async fn carry_out(mut self) -> Result<()> {
        let outcome = self.make().await;
        let made = outcome.as_ref().map(|_| ()).map_err(|errno| *errno);
        match outcome {
            Ok((opened, ticket)) => self.is_made(&opened, ticket),
            Err(errno) => self.is_refused(errno),
        }
        made
    }

    async fn make(&mut self) -> Result<(Opened, Ticket)> {
        let (vfs, handle) = (&self.vfs, self.open.handle);
        let Creation { parent, name, flags, .. } = &self.creation;
        let (place, mut changing) = vfs.change(*parent, name)?;
        if self.is_repeat {
            changing.is_repeated()?;
        }
        let (source, creation) = (&*vfs.source, &self.creation);
        let asking = Asking { source, creation, handle, is_repeat: self.is_repeat };
        let create = |flags| asking.create(place.clone(), name.clone(), flags);
        let mut outcome = create(OpenFlags { exclusive: true, truncate: false, ..*flags }).await;
        if matches!(outcome, Err(Errno::EEXIST)) && flags.exclusive && self.open.file.behind.has_content() {
            changing.answered = true;
            drop(changing);
            return self.make_aside().await;
        }
        if matches!(outcome, Err(Errno::EEXIST)) && !flags.exclusive {
            self.fence = Some(end_line(&self.open).await);
            // What has been written through the handle was written to a file that was made for it.
            let truncate = flags.truncate && !self.open.has_written.load(Ordering::Acquire);
            outcome = create(OpenFlags { truncate, ..*flags }).await;
        }
        changing.answered = is_definite(&outcome);
        let opened = vfs.checked(*parent, outcome)?;
        Ok((opened, changing.end()))
    }

    /// Somebody else has made a file under this name, and this was to be ours alone: what has been written to it goes to a
    /// new file beside.
    async fn make_aside(&mut self) -> Result<(Opened, Ticket)> {
        let (vfs, ino) = (self.vfs.clone(), self.open.ino());
        let creation = self.creation.clone();
        let Creation { parent, name, flags, .. } = creation.clone();
        let (handle, is_repeat) = (self.open.handle, self.is_repeat);
        let asking = Asking { source: &*vfs.source, creation: &creation, handle, is_repeat };
        self.fence = Some(end_line(&self.open).await);
        for number in 1..=ASIDE_NAMES_MAX {
            let aside = name_aside(&name, &ino.0.to_string(), number);
            let (place, mut changing) = vfs.change(parent, &aside)?;
            let outcome = asking.create(place, aside.clone(), flags).await;
            changing.answered = is_definite(&outcome);
            match outcome {
                Err(Errno::EEXIST) => {}
                outcome => {
                    let opened = vfs.checked(parent, outcome)?;
                    let ticket = changing.end();
                    let [of, to] = [&name, &aside].map(|name| String::from_utf8_lossy(name));
                    tracing::warn!(ino = ino.0, %of, %to, "somebody else has made a file; what was written is put aside");
                    vfs.learn(|table, notices| table.doubt_expected(ino, parent, &name, notices));
                    self.creation.name = aside;
                    self.conflict = Some(Errno::EEXIST);
                    return Ok((opened, ticket));
                }
            }
        }
        Err(Errno::EEXIST)
    }

    fn is_made(&mut self, opened: &Opened, ticket: Ticket) {
        let (vfs, ino) = (self.vfs.clone(), self.open.ino());
        let Creation { parent, name, caller, .. } = &self.creation;
        let ((), notices) = vfs.learn_untold(|table, notices| {
            let outcome = (opened.entry, opened.directory);
            if let Err(errno) = table.made(ino, (*parent, name), outcome, ticket, vfs.now(), notices) {
                tracing::debug!(ino = ino.0, %errno, "the name of a new file is asked for again");
            }
            // The kernel may have asked since for what the directory was before.
            notices.push(Notice::Attributes(*parent));
            match opened.is_new {
                true => table.made_for(*parent, *caller),
                false => table.disown(*parent),
            }
            table.handle_confirmed(self.open.handle);
        });
        self.open.file.is_own(opened.is_own);
        self.open.file.identify(opened.entry.id);
        if let Some(errno) = self.conflict {
            vfs.keep_failure(&self.open.file, errno);
        }
        // Which file it is must be known to whoever hears that its making is over.
        vfs.commit();
        self.over(Ok(()));
        vfs.notify(notices);
    }

    fn is_refused(&mut self, errno: Errno) {
        let vfs = self.vfs.clone();
        let Creation { parent, name, .. } = &self.creation;
        let (ino, parent) = (self.open.ino(), *parent);
        let ((), notices) = vfs.learn_untold(|table, notices| table.unexpect(ino, parent, name, notices));
        tracing::warn!(ino = self.open.ino().0, %errno, "a file was not made; `fsync` and `close` tell");
        vfs.keep_failure(&self.open.file, errno);
        self.over(Err(errno));
        vfs.notify(notices);
    }

    fn over(&mut self, outcome: Result<()>) {
        let has_given_up = self.vfs.journal().is_some_and(Journal::has_given_up);
        if let Some(sequence) = self.journalled
            && !(outcome.is_err() && has_given_up)
        {
            self.vfs.is_done(sequence, None);
        }
        self.end(outcome);
    }

    fn end(&mut self, outcome: Result<()>) {
        let Some(promise) = self.promise.take() else { return };
        self.vfs.expected.state.lock().remove(self.open.ino());
        promise.keep(outcome);
        self.open.file.behind.end(self.taken, outcome.and(self.conflict.map_or(Ok(()), Err)));
    }

    /// Nobody has been told of it, and nothing was sent.
    fn withdraw(mut self) {
        self.end(Err(Errno::EIO));
        self.vfs.never_made(&self.open, self.creation.parent, &self.creation.name);
    }
}

impl<S: Source> Drop for Making<S> {
    fn drop(&mut self) {
        self.end(Err(Errno::EIO));
    }
}
