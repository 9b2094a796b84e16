//! What one domain is asked for, carried out one after the other.
//!
//! ```text
//!  the system's threads ──► queue (REQUESTS_MAX) ──► one thread: catalogue, machine
//!  watch: one thread    ──►      "                        │ whereabouts of a file
//!                                                         ▼
//!                                  queue (FETCHES_MAX) ──► FETCHERS threads, each with a connection
//! ```
//!
//! A request that finds its queue full is answered with [`Failure::Later`]. One that is under way ends with its request; a fetch ends
//! within a piece when nobody wants it any more.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use vfs::replica::catalogue::{Applied, Base, Catalogue, Machine as _, Modification, New, Removal, Removed};
use vfs::replica::item::{Item, ItemId, Kind, Token};
use vfs::replica::names::NameRules;
use vfs::replica::side::{At, Refusal, There};
use vfs::replica::{Anchor, ReplicaError};
use wire::api::file::FileTime;
use wire::api::machine::{Caller, Source};

use crate::machine::{Machine, modified};
use crate::once::Once;
use crate::{identifier, watch};

/// The most requests that wait: more than the system has under way for one domain.
pub const REQUESTS_MAX: usize = 256;

/// The most fetches that wait.
pub const FETCHES_MAX: usize = 256;

/// Fetches that are under way at once: one long one does not hold up the others, and few share a link better than many.
pub const FETCHERS: usize = 4;

/// How much of a file is asked for at once.
const PIECE_BYTES: u32 = 1 << 20;

/// The longest target of a link that is read for an item.
const TARGET_BYTES_MAX: u32 = 4096;

/// Which item is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The directory that holds all others.
    Root,
    /// Another one, by its [identifier](crate::identifier).
    Item(String),
}

/// An item as the system is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Shown {
    pub subject: Subject,
    pub parent: Subject,
    pub name: String,
    pub kind: Kind,
    pub mode: u16,
    pub size: u64,
    pub content_version: Vec<u8>,
    pub metadata_version: Vec<u8>,
    pub modified: Option<FileTime>,
    pub target: Option<Vec<u8>>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no such item.
    NoItem(Subject),
    /// The machine, or the daemon, cannot be reached.
    Unreachable,
    /// An anchor is too old.
    Expired,
    /// It is not removed: so it is now.
    Kept(Box<Shown>),
    /// A directory is not empty.
    NotEmpty,
    /// The version that was asked for is not there any more.
    OtherVersion,
    /// Nobody wants it any more.
    Cancelled,
    /// It cannot be done now; the system comes back.
    Later,
    /// It cannot be done.
    Refused(String),
}

/// What the system is told without having asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// There are changes to ask for.
    Changes,
    /// The machine tells of its changes from now on: what failed because it was not reached, or because of what it had, may be tried
    /// again.
    Reached,
}

/// What is asked for comes, or does not.
pub type Reply<T> = Result<T, Failure>;

/// A page of items.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Items {
    pub items: Vec<Shown>,
    pub next: Option<Vec<u8>>,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ChangedItems {
    pub changed: Vec<Shown>,
    pub gone: Vec<String>,
    pub anchor: Vec<u8>,
    pub is_more: bool,
}

/// What the system hands over of an item: as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// In which directory.
    pub parent: Subject,
    /// Its name here.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Permissions.
    pub mode: u16,
    /// Where its bytes are; of a link, what it points to.
    pub content: Option<Bytes>,
}

/// Bytes that the system hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// In a file, which nobody writes to until the request is answered.
    File(PathBuf),
    /// These.
    Given(Vec<u8>),
}

/// What of an item is to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Change {
    pub subject: Subject,
    pub base_content: Vec<u8>,
    pub base_metadata: Vec<u8>,
    pub given: Given,
    pub is_moved: bool,
    pub is_mode: bool,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// As it is now.
    pub item: Shown,
    /// Whether its bytes are others than those that were handed over, or that the system had.
    pub is_other_content: bool,
}

/// Bytes that are wanted.
pub struct Wanted {
    /// Of which item.
    pub subject: Subject,
    /// Only of this version.
    pub version: Option<Vec<u8>>,
    /// Which; all of them without it. It is cut off at the end of the file.
    pub range: Option<Range<u64>>,
    /// Into this file, at the same offsets. It is not there after a failure.
    pub into: PathBuf,
    /// Told how many bytes have come of how many; says whether they are still wanted.
    pub progress: Box<dyn Fn(u64, u64) -> bool + Send>,
}

/// Bytes that have come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Came {
    pub item: Shown,
    pub range: Range<u64>,
}

/// Where a domain's tree is, and where its catalogue.
pub struct Domain {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The tree.
    pub source: Source,
    /// Who asks the daemon.
    pub caller: Caller,
    /// The catalogue's file.
    pub catalogue: PathBuf,
    /// The rules of this computer's names.
    pub rules: NameRules,
    /// This computer's name, for people.
    pub host: String,
}

type Job = Box<dyn FnOnce(&mut State) + Send>;

/// What is asked of a domain. Dropping it ends its threads; who waits is answered.
pub struct Service {
    jobs: SyncSender<Job>,
    fetches: SyncSender<FetchJob>,
    watch: watch::Watch,
}

pub(crate) struct State {
    catalogue: Catalogue,
    machine: Machine,
    is_root_known: bool,
    epoch: i64,
    signal: Box<dyn Fn(Signal) + Send>,
}

struct FetchJob {
    at: At,
    path: Vec<Box<[u8]>>,
    item: Shown,
    content: Token,
    range: Range<u64>,
    wanted: Wanted,
    once: Once<Reply<Came>>,
}

impl Service {
    /// Begins. `signal` must not wait.
    pub fn start(domain: Domain, signal: impl Fn(Signal) + Send + 'static) -> Result<Service, String> {
        let text = |error: ReplicaError| error.to_string();
        let mut catalogue = Catalogue::open(&domain.catalogue, domain.rules, &domain.host).map_err(text)?;
        let epoch = catalogue.epoch().map_err(text)?;
        let machine = || {
            Machine::new(&domain.socket, &domain.source, domain.caller.clone())
                .ok_or_else(|| format!("`{}` is no tree of a machine", domain.source))
        };
        let (jobs, waiting) = sync_channel::<Job>(REQUESTS_MAX);
        let (fetches, waiting_fetches) = sync_channel::<FetchJob>(FETCHES_MAX);
        let waiting_fetches = Arc::new(Mutex::new(waiting_fetches));
        for _ in 0..FETCHERS {
            let (waiting, machine, jobs) = (Arc::clone(&waiting_fetches), machine()?, jobs.clone());
            thread("fetch", move || run_fetches(&waiting, machine, &jobs))?;
        }
        let signal = Box::new(signal);
        let mut state = State { catalogue, machine: machine()?, is_root_known: false, epoch, signal };
        thread("requests", move || {
            while let Ok(job) = waiting.recv() {
                // Whoever waits for it is answered when the job is dropped.
                let _is_panicked = catch_unwind(AssertUnwindSafe(|| job(&mut state)));
            }
        })?;
        let watch = watch::Watch::start(&domain, jobs.clone())?;
        Ok(Service { jobs, fetches, watch })
    }

    fn ask<T: Send + 'static>(
        &self,
        once: Once<Reply<T>>,
        work: impl FnOnce(&mut State) -> Reply<T> + Send + 'static,
    ) {
        // Without a place in the queue the job is dropped, and whoever waits is told to come back.
        let _is_full = self.jobs.try_send(Box::new(move |state| once.answer(work(state))));
    }

    /// One item.
    pub fn item(&self, subject: Subject, once: Once<Reply<Shown>>) {
        self.ask(once, move |state| {
            let id = state.id(&subject)?;
            state.shown_or_gone(id)
        });
    }

    /// A page of what is in a directory. The first one is as the machine has it now; if that cannot be reached, as it was known.
    pub fn page(&self, directory: Subject, page: Vec<u8>, once: Once<Reply<Items>>) {
        self.ask(once, move |state| {
            let id = state.id(&directory)?;
            let after = identifier::page(&page);
            if after == ItemId(0) {
                state.open(id)?;
            }
            let page = state.catalogue.page(id, after).map_err(broken)?;
            state.items(page)
        });
    }

    /// A page of all that is known.
    pub fn working_set(&self, page: Vec<u8>, once: Once<Reply<Items>>) {
        self.ask(once, move |state| {
            let page = state.catalogue.working_set(identifier::page(&page)).map_err(broken)?;
            state.items(page)
        });
    }

    /// Now.
    pub fn anchor(&self, once: Once<Reply<Vec<u8>>>) {
        self.ask(once, |state| Ok(state.catalogue.anchor().map_err(broken)?.to_bytes().to_vec()));
    }

    /// What has changed since an anchor.
    pub fn changes(&self, since: Vec<u8>, once: Once<Reply<ChangedItems>>) {
        self.ask(once, move |state| {
            let changes = state.catalogue.changes(Anchor::from_bytes(&since)).map_err(broken)?;
            let Ok(changes) = changes else { return Err(Failure::Expired) };
            let epoch = state.epoch;
            let gone = changes.gone.iter().map(|id| identifier::of_item(epoch, *id)).collect();
            let changed = changes.changed.iter().filter(|item| item.id != ItemId::ROOT);
            let changed = changed.map(|item| state.shown(item)).collect::<Reply<_>>()?;
            Ok(ChangedItems {
                changed,
                gone,
                anchor: changes.anchor.to_bytes().to_vec(),
                is_more: changes.is_more,
            })
        });
    }

    /// Makes something. With `may_exist` the system has it from before, and asks which item it is: of what has no content with it there
    /// is nothing that could be made. None if the machine has no such thing.
    pub fn create(&self, given: Given, may_exist: bool, once: Once<Reply<Option<Made>>>) {
        self.ask(once, move |state| {
            let parent = state.id(&given.parent)?;
            if may_exist && given.content.is_none() && given.kind != Kind::Directory {
                return state.found(parent, &given);
            }
            let new = new_of(&given, parent)?;
            let mut content = || open(given.content.as_ref());
            let answer = state.catalogue.create(&mut state.machine, &new, &mut content).map_err(broken)?;
            state.applied(answer, None).map(Some)
        });
    }

    /// Changes something. There is always something that came of it.
    pub fn modify(&self, mut change: Change, once: Once<Reply<Option<Made>>>) {
        self.ask(once, move |state| {
            let id = state.id(&change.subject)?;
            // A directory that is not known any more matters only if the item is to be in it.
            let parent = match state.id(&change.given.parent) {
                Err(Failure::NoItem(_)) if !change.is_moved => ItemId::ROOT,
                parent => parent?,
            };
            let base = Base {
                content: identifier::content(&change.base_content).into(),
                metadata: change.base_metadata.clone().into(),
            };
            if let Some(before) = base.mode() {
                change.given.mode = mode_after(before, change.given.mode);
            }
            let new = new_of(&change.given, parent)?;
            let mut content = || open(change.given.content.as_ref());
            let is_content = change.given.content.is_some();
            let base_content = (!is_content).then(|| change.base_content.clone());
            let modification = Modification {
                base,
                new,
                is_moved: change.is_moved,
                is_mode: change.is_mode,
                content: is_content.then_some(&mut content as vfs::replica::catalogue::Content<'_>),
            };
            let answer = state.catalogue.modify(&mut state.machine, id, modification).map_err(broken)?;
            state.applied(answer, base_content.as_deref()).map(Some)
        });
    }

    /// Removes something.
    pub fn remove(&self, subject: Subject, base_content: Vec<u8>, removal: Removal, once: Once<Reply<()>>) {
        self.ask(once, move |state| {
            let id = match state.id(&subject) {
                // What is not there need not be removed.
                Err(Failure::NoItem(_)) => return Ok(()),
                id => id?,
            };
            let base = Base { content: identifier::content(&base_content).into(), ..Base::default() };
            let answer = state.catalogue.remove(&mut state.machine, id, &base, removal).map_err(broken)?;
            match answer.map_err(failure)? {
                Removed::Done => Ok(()),
                Removed::NotEmpty => Err(Failure::NotEmpty),
                Removed::Kept(item) => {
                    (state.signal)(Signal::Changes);
                    Err(Failure::Kept(Box::new(state.shown(&item)?)))
                }
            }
        });
    }

    /// Fetches bytes.
    pub fn fetch(&self, wanted: Wanted, once: Once<Reply<Came>>) {
        let fetches = self.fetches.clone();
        let job = move |state: &mut State| match state.find(&wanted) {
            Ok((item, at, path, content, range)) => {
                // Without a place in the queue, as above.
                let _is_full = fetches.try_send(FetchJob { at, path, item, content, range, wanted, once });
            }
            Err(failure) => {
                if failure == Failure::OtherVersion {
                    state.look_again(&wanted.subject);
                }
                once.answer(Err(failure));
            }
        };
        let _is_full = self.jobs.try_send(Box::new(job));
    }

    /// Ends it.
    pub fn stop(&self) {
        self.watch.stop();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.watch.stop();
    }
}

impl State {
    fn id(&mut self, subject: &Subject) -> Reply<ItemId> {
        let id = match subject {
            Subject::Root => Some(ItemId::ROOT),
            Subject::Item(text) => identifier::item(self.epoch, text),
        };
        self.know_root()?;
        id.ok_or_else(|| Failure::NoItem(subject.clone()))
    }

    /// Nothing is done in a tree that is another than before.
    fn know_root(&mut self) -> Reply<()> {
        if self.is_root_known {
            return Ok(());
        }
        let known = self.catalogue.item(ItemId::ROOT).map_err(broken)?;
        match (self.machine.root(), known) {
            (Ok(root), _) => {
                if self.catalogue.set_root(&root).map_err(broken)? {
                    return Err(Failure::Refused(
                        "another directory has the place of the one that was mounted: unmount it, and mount it again"
                            .to_owned(),
                    ));
                }
                self.is_root_known = true;
                Ok(())
            }
            (Err(Refusal::Cut), Some(_)) => Ok(()),
            (Err(refusal), _) => Err(failure(refusal)),
        }
    }

    fn subject(&self, id: ItemId) -> Subject {
        match id {
            ItemId::ROOT => Subject::Root,
            id => Subject::Item(identifier::of_item(self.epoch, id)),
        }
    }

    fn open(&mut self, directory: ItemId) -> Reply<()> {
        let answer = self.catalogue.refresh(&mut self.machine, &[directory]).map_err(broken)?;
        let is_listed = self.catalogue.is_listed(directory).map_err(broken)?;
        if self.catalogue.item(directory).map_err(broken)?.is_none() {
            return Err(Failure::NoItem(self.subject(directory)));
        }
        match answer {
            Ok(true) => (self.signal)(Signal::Changes),
            Ok(false) => {}
            Err(Refusal::Cut) if is_listed => {}
            Err(refusal) => return Err(failure(refusal)),
        }
        Ok(())
    }

    /// The machine has told that something is otherwise at these paths, or that anything may be.
    pub(crate) fn changed(&mut self, paths: &[Vec<u8>], is_anything: bool) -> Reply<()> {
        self.know_root()?;
        let directories = if is_anything {
            self.catalogue.listed().map_err(broken)?
        } else {
            let mut directories = Vec::new();
            for path in paths {
                let names: Vec<&[u8]> =
                    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
                let above = names.split_last().map_or(&names[..], |(_, above)| above);
                let found = self.catalogue.listed_at(above).map_err(broken)?;
                directories.extend(found.filter(|id| !directories.contains(id)));
            }
            directories
        };
        let answer = self.catalogue.refresh(&mut self.machine, &directories).map_err(broken)?;
        if answer.map_err(failure)? {
            (self.signal)(Signal::Changes);
        }
        Ok(())
    }

    /// The machine's changes are told of from now on.
    pub(crate) fn reached(&self) {
        (self.signal)(Signal::Reached);
    }

    /// Looks at the directory of an item that was not as it is known, and has the system ask what it is now.
    fn look_again(&mut self, subject: &Subject) {
        let looked = self.id(subject).and_then(|id| {
            let item = self.catalogue.item(id).map_err(broken)?;
            let parents: Vec<ItemId> =
                item.and_then(|item| item.there).map(|there| there.parent).into_iter().collect();
            self.catalogue.refresh(&mut self.machine, &parents).map_err(broken)?.map_err(failure)
        });
        if let Err(failure) = looked {
            tracing::info!(?failure, "what was another version was not looked at");
        }
        (self.signal)(Signal::Changes);
    }

    /// The machine's item that has the name of something that the system has from before, and is of its kind.
    fn found(&mut self, parent: ItemId, given: &Given) -> Reply<Option<Made>> {
        if self.catalogue.refresh(&mut self.machine, &[parent]).map_err(broken)?.map_err(failure)? {
            (self.signal)(Signal::Changes);
        }
        if self.catalogue.item(parent).map_err(broken)?.is_none() {
            return Err(Failure::NoItem(self.subject(parent)));
        }
        let holder = self.catalogue.named(parent, given.name.as_bytes()).map_err(broken)?;
        let holder = holder.filter(|holder| holder.kind == given.kind);
        // It has no bytes of any version.
        holder.map(|holder| Ok(Made { item: self.shown(&holder)?, is_other_content: false })).transpose()
    }

    fn shown_or_gone(&mut self, id: ItemId) -> Reply<Shown> {
        match self.catalogue.item(id).map_err(broken)? {
            Some(item) => self.shown(&item),
            None => Err(Failure::NoItem(self.subject(id))),
        }
    }

    fn shown(&mut self, item: &Item) -> Reply<Shown> {
        let Some(here) = &item.here else { return Err(Failure::NoItem(self.subject(item.id))) };
        let base = Base::of(item);
        let target = match item.kind {
            Kind::Symlink => {
                let read =
                    self.catalogue.read(&mut self.machine, item.id, &here.content, 0, TARGET_BYTES_MAX);
                Some(read.map_err(broken)?.map_err(failure)?)
            }
            Kind::Directory | Kind::File => None,
        };
        Ok(Shown {
            subject: self.subject(item.id),
            parent: self.subject(here.parent),
            name: String::from_utf8_lossy(&here.name).into_owned(),
            kind: item.kind,
            mode: here.mode,
            size: here.size,
            content_version: identifier::of_content(&base.content).to_vec(),
            metadata_version: base.metadata.to_vec(),
            modified: modified(&here.content),
            target,
        })
    }

    fn items(&mut self, page: vfs::replica::catalogue::Page) -> Reply<Items> {
        let items = page.items.iter().map(|item| self.shown(item)).collect::<Reply<_>>()?;
        Ok(Items { items, next: page.next.map(|id| identifier::of_page(id).to_vec()) })
    }

    /// What came of a change of something that the system has in this version, or has handed over the bytes of.
    fn applied(&mut self, answer: Result<Applied, Refusal>, has: Option<&[u8]>) -> Reply<Made> {
        match answer.map_err(failure)? {
            Applied::Done(item) => {
                let item = self.shown(&item)?;
                // With a new name goes what somebody has written meanwhile: the system has what was there before.
                let is_other =
                    item.kind == Kind::File && has.is_some_and(|version| *version != *item.content_version);
                Ok(Made { item, is_other_content: is_other })
            }
            Applied::Conflict { item, .. } => {
                (self.signal)(Signal::Changes);
                Ok(Made { item: self.shown(&item)?, is_other_content: true })
            }
            Applied::Gone(id) => Err(Failure::NoItem(self.subject(id))),
        }
    }

    #[allow(clippy::type_complexity, reason = "the parts of a FetchJob")]
    fn find(&mut self, wanted: &Wanted) -> Reply<(Shown, At, Vec<Box<[u8]>>, Token, Range<u64>)> {
        let id = self.id(&wanted.subject)?;
        let item = self.shown_or_gone(id)?;
        if wanted.version.as_ref().is_some_and(|version| *version != item.content_version) {
            return Err(Failure::OtherVersion);
        }
        let found = self.catalogue.whereabouts(id).map_err(broken)?;
        let (at, path) = found.ok_or_else(|| Failure::NoItem(wanted.subject.clone()))?;
        let content = identifier::content(&item.content_version).into();
        let range = wanted.range.clone().unwrap_or(0..item.size);
        let range = range.start.min(item.size)..range.end.min(item.size);
        Ok((item, at, path, content, range))
    }
}

fn run_fetches(waiting: &Mutex<Receiver<FetchJob>>, mut machine: Machine, jobs: &SyncSender<Job>) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Whoever waits for it is answered when the job is dropped.
        let _is_panicked = catch_unwind(AssertUnwindSafe(|| {
            let FetchJob { at, path, item, content, range, wanted, once } = job;
            machine.place(&at.parent, &path);
            let answer = fetch(&mut machine, &at, &content, range.clone(), &wanted);
            if answer == Err(Failure::OtherVersion) {
                // Who comes back after this answer finds what is there now.
                let look: Job = Box::new(move |state| {
                    state.look_again(&wanted.subject);
                    once.answer(Err(Failure::OtherVersion));
                });
                // Waits for a place in the queue, whose thread never waits for this one. Without that thread nobody asks again.
                let _is_over = jobs.send(look);
                return;
            }
            once.answer(answer.map(|()| Came { item, range }));
        }));
    }
}

/// A file that is removed unless it was fetched to its end.
struct Incomplete<'a>(Option<&'a Path>);

impl Drop for Incomplete<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // One that cannot be removed is in a directory that the system clears.
            let _stays = std::fs::remove_file(path);
        }
    }
}

fn fetch(machine: &mut Machine, at: &At, content: &Token, range: Range<u64>, wanted: &Wanted) -> Reply<()> {
    let local = |error: std::io::Error| {
        Failure::Refused(format!("could not keep `{}`: {error}", wanted.into.display()))
    };
    let file = File::create(&wanted.into).map_err(local)?;
    let mut incomplete = Incomplete(Some(&wanted.into));
    let total = range.end - range.start;
    let mut offset = range.start;
    while offset < range.end {
        if !(wanted.progress)(offset - range.start, total) {
            return Err(Failure::Cancelled);
        }
        let length = (range.end - offset).min(u64::from(PIECE_BYTES)) as u32;
        let bytes = machine.read(at, content, offset, length).map_err(|refusal| match refusal {
            Refusal::Changed => Failure::OtherVersion,
            refusal => failure(refusal),
        })?;
        if bytes.len() != length as usize {
            return Err(Failure::OtherVersion);
        }
        file.write_all_at(&bytes, offset).map_err(local)?;
        offset += u64::from(length);
    }
    (wanted.progress)(total, total);
    incomplete.0 = None;
    Ok(())
}

fn new_of(given: &Given, parent: ItemId) -> Reply<New<'_>> {
    let size = match &given.content {
        Some(Bytes::File(path)) => std::fs::metadata(path)
            .map_err(|error| Failure::Refused(format!("could not read `{}`: {error}", path.display())))?
            .len(),
        Some(Bytes::Given(bytes)) => bytes.len() as u64,
        None => 0,
    };
    Ok(New { parent, name: given.name.as_bytes(), kind: given.kind, mode: given.mode, size })
}

fn open(content: Option<&Bytes>) -> std::io::Result<Box<dyn std::io::Read>> {
    Ok(match content {
        Some(Bytes::File(path)) => Box::new(File::open(path)?),
        Some(Bytes::Given(bytes)) => Box::new(std::io::Cursor::new(bytes.clone())),
        None => Box::new(std::io::empty()),
    })
}

fn failure(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Changed => Failure::Later,
        Refusal::Cut => Failure::Unreachable,
        Refusal::Refused(why) => Failure::Refused(why),
    }
}

fn broken(error: ReplicaError) -> Failure {
    tracing::error!(%error, "the catalogue cannot go on");
    Failure::Refused(error.to_string())
}

pub(crate) fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let made = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    made.map(drop).map_err(|error| format!("could not start a thread: {error}"))
}

/// Where a domain's catalogue is kept.
pub fn catalogue_file(directory: &Path, domain: &str) -> PathBuf {
    directory.join(format!("{domain}.catalogue"))
}

/// A range that begins and ends at multiples, as the system asks for one: it holds what was asked for.
pub fn aligned(start: u64, length: u64, alignment: u64) -> Range<u64> {
    let alignment = alignment.max(1);
    let end = start.saturating_add(length);
    start / alignment * alignment..end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX)
}

/// Permissions from what the system says of a file: whether its user may run it (1), read it (2) and write it (4). Others may read and run
/// what the user may, as with the usual umask; without a word it is a plain file or directory.
pub fn mode_of(kind: Kind, flags: Option<u64>) -> u16 {
    let Some(flags) = flags else {
        return if kind == Kind::Directory { 0o755 } else { 0o644 };
    };
    let bits = |flag: u64, mode: u16| if flags & flag != 0 { mode } else { 0 };
    bits(2, 0o444) | bits(4, 0o200) | bits(1, 0o111)
}

/// Permissions that were changed here: the system tells what its user may do, and nothing of what others may.
pub fn mode_after(before: u16, told: u16) -> u16 {
    before & !0o700 | told & 0o700
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_widened_to_multiples() {
        assert_eq!(aligned(5000, 1, 4096), 4096..8192);
        assert_eq!(aligned(0, 4096, 4096), 0..4096);
        assert_eq!(aligned(7, 3, 0), 7..10);
        assert_eq!(aligned(u64::MAX, 9, 4096).end, u64::MAX);
    }

    #[test]
    fn permissions_follow_what_the_system_says_of_the_user() {
        assert_eq!(mode_of(Kind::File, Some(0b111)), 0o755);
        assert_eq!(mode_of(Kind::File, Some(0b110)), 0o644);
        assert_eq!(mode_of(Kind::File, Some(0b010)), 0o444);
        assert_eq!([mode_after(0o600, 0o755), mode_after(0o4755, 0o644)], [0o700, 0o4655]);
        assert_eq!((mode_of(Kind::Directory, None), mode_of(Kind::File, None)), (0o755, 0o644));
    }
}
