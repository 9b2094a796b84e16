//! Leases on directories: what is watched, and what the client is told of it.
//!
//! One inotify instance and one thread per session; leases end with the stream that they were given on. The thread reads
//! events in batches, looks at each name once per batch, and tells what is there now; so what it tells is never older
//! than the events, and a flood of events about one file becomes a few tellings.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use wire::agent::AgentFrame;
use wire::agent::file::{Attributes, Change, Changed, FileId, Lease, Place, UNWATCHED_LEASE_MS};
use wire::agent::name::{Name, RelativePath};

use crate::clock::Clock;
use crate::export::Export;
use crate::file_system::{self, Watching};
use crate::kept::timespec;
use crate::log::log;
use crate::output::Output;
use crate::stat;
use crate::sync::lock;
use crate::told::{Event, Settled, Told};

/// The most directories under lease at once. Each costs the kernel about a kilobyte.
const LEASES_MAX: usize = 64 << 10;

/// What part of the leases that a session may have a walk goes up to; beyond that, those go that were of use least lately.
/// A walk of a huge tree leaves the user's other programs, and what the client looks at itself, their watches.
const WALKED_SHARE: usize = 2;

/// Used when the kernel does not say how many watches a user may have; its own default of old.
const USER_WATCHES_DEFAULT: usize = 8192;

/// How long the thread rests after a batch, so that repeated changes of one file are told once.
const BATCH_PAUSE: Duration = Duration::from_millis(5);

/// How many batches a change waits for that the client's own mutation is making, before it is told all the same.
const LATER_MAX: u32 = 20;

/// How long a directory's descriptor is kept that nothing uses: this, up to twice.
const DESCRIPTOR_AGE: Duration = Duration::from_secs(60);

/// How long one of a file is kept that nothing uses: this, up to twice, once an event has come; a change of the names in a
/// watched directory is one. It is more than a round trip on a line that is still of use, and the space of a removed file
/// is free soon after.
const FILE_AGE: Duration = Duration::from_secs(1);

/// How much is read from inotify at once.
const EVENT_BYTES: usize = 64 << 10;

/// Events that are about a name, not only about the file behind it.
const RENAMING: ReadFlags =
    ReadFlags::CREATE.union(ReadFlags::DELETE).union(ReadFlags::MOVED_FROM).union(ReadFlags::MOVED_TO);

/// Events after which a directory is not where or what it was.
const ENDING: ReadFlags =
    ReadFlags::DELETE_SELF.union(ReadFlags::MOVE_SELF).union(ReadFlags::UNMOUNT).union(ReadFlags::IGNORED);

/// For whom a directory is leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Client,
    Walk,
}

pub(crate) struct Leases {
    /// Absent where the machine gives none: no directory is watched then.
    inotify: Option<OwnedFd>,
    wake: OwnedFd,
    closing: AtomicBool,
    table: Mutex<Table>,
}

struct Table {
    held: Clock<FileId, Held>,
    by_watch: HashMap<i32, FileId>,
    /// The last epoch that any directory was given. One counter for all, so that a lease that is taken anew continues
    /// above its old epochs.
    epoch: u64,
    devices: HashMap<u64, Watching>,
    /// Where changes are told; absent while the session is detached.
    output: Option<Arc<Output>>,
}

struct Held {
    watch: i32,
    epoch: u64,
    path: RelativePath,
}

/// What one batch of events says of one directory.
#[derive(Default)]
struct Batch {
    /// Per name: whether an event was about the name itself, and how often it was put off.
    names: HashMap<Name, Seen>,
    itself: bool,
    itself_put_off: u32,
    ended: bool,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    /// Its place among the names of the batch, in the order of their first events.
    order: usize,
    renamed: bool,
    put_off: u32,
}

type Batches = HashMap<i32, Batch>;

impl Leases {
    pub fn new() -> Result<Leases, Errno> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .inspect_err(|errno| log(format_args!("no directory can be watched: {errno}")))
            .ok();
        let table = Table {
            held: Clock::new(user_watches_max().div_euclid(2).clamp(1, LEASES_MAX)),
            by_watch: HashMap::new(),
            epoch: 1,
            devices: HashMap::new(),
            output: None,
        };
        Ok(Leases {
            inotify,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            closing: AtomicBool::new(false),
            table: Mutex::new(table),
        })
    }

    /// From now on changes are told on a new stream. It starts without any lease; what is given on an earlier one while
    /// this runs is covered all the same.
    pub fn attach(&self, output: &Arc<Output>, is_over: &AtomicBool) {
        let table = &mut *lock(&self.table);
        if is_over.load(Ordering::Acquire) {
            return;
        }
        self.end_all(table);
        table.output = Some(output.clone());
    }

    /// Ends every lease of a stream that has ended; changes are told there no more.
    pub fn detach(&self, output: &Arc<Output>) {
        let table = &mut *lock(&self.table);
        if !table.output.as_ref().is_some_and(|current| Arc::ptr_eq(current, output)) {
            return;
        }
        self.end_all(table);
        table.output = None;
    }

    /// A lease on a directory, given before it is read. A watch that cannot be had is a lease for a time.
    pub fn lease(&self, place: &Place, directory: &OwnedFd, told: &Told) -> Lease {
        self.lease_for(place, directory, told, Asker::Client)
    }

    /// The same for a directory that is told unasked.
    pub fn lease_ahead(&self, place: &Place, directory: &OwnedFd, told: &Told) -> Lease {
        self.lease_for(place, directory, told, Asker::Walk)
    }

    fn lease_for(&self, place: &Place, directory: &OwnedFd, told: &Told, asker: Asker) -> Lease {
        let watching = self.watching(place.id.device, directory, told);
        let table = &mut *lock(&self.table);
        if let Some(held) = table.held.get(&place.id) {
            return Lease { epoch: held.epoch, valid_ms: 0 };
        }
        let epoch = table.epoch;
        let unwatched = Lease { epoch, valid_ms: UNWATCHED_LEASE_MS };
        let Some(inotify) = &self.inotify else {
            return unwatched;
        };
        if watching == Watching::Never {
            return unwatched;
        }
        let Ok(watch) = inotify::add_watch(inotify, stat::proc_path(directory), watch_flags()) else {
            return unwatched;
        };
        table.by_watch.insert(watch, place.id);
        let held = Held { watch, epoch, path: place.path.clone() };
        let held_max = match asker {
            Asker::Client => table.held.entries_max(),
            Asker::Walk => table.held.entries_max() / WALKED_SHARE,
        };
        if let Some((gone, old)) = table.held.insert_within(place.id, held, held_max) {
            // The watch may be gone already, with its directory.
            let _ = inotify::remove_watch(inotify, old.watch);
            table.by_watch.remove(&old.watch);
            self.tell_lost(table, gone);
        }
        Lease { epoch, valid_ms: 0 }
    }

    /// How well the directory's file system can be watched. To find that out may take a server that does not answer:
    /// nothing is locked meanwhile.
    fn watching(&self, device: u64, directory: &OwnedFd, told: &Told) -> Watching {
        let known = lock(&self.table).devices.get(&device).copied();
        known.unwrap_or_else(|| {
            let watching = file_system::watching(directory);
            told.device_is_precise(device, watching == Watching::Precise);
            lock(&self.table).devices.insert(device, watching);
            watching
        })
    }

    /// Reads events and tells of them until [`Leases::close`].
    pub fn run(&self, export: impl Fn() -> Option<Arc<Export>>, told: &Told) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        let mut put_off = Batches::new();
        let mut buffer = vec![MaybeUninit::uninit(); EVENT_BYTES];
        let (mut aged, mut files_aged) = (Instant::now(), Instant::now());
        while !self.closing.load(Ordering::Acquire) {
            let timeout = match put_off.is_empty() {
                false => BATCH_PAUSE,
                true if export().is_some_and(|export| export.has_files()) => FILE_AGE,
                true => DESCRIPTOR_AGE,
            };
            self.wait(Some(inotify), timeout);
            if files_aged.elapsed() >= FILE_AGE {
                files_aged = Instant::now();
                export().inspect(|export| export.age_files());
            }
            if aged.elapsed() >= DESCRIPTOR_AGE {
                aged = Instant::now();
                export().inspect(|export| export.age());
            }
            let mut batches = std::mem::take(&mut put_off);
            if !self.read_events(inotify, &mut buffer, &mut batches) {
                self.lose_all(&mut lock(&self.table));
                continue;
            }
            let Some(export) = export() else {
                continue;
            };
            for (watch, batch) in batches {
                if let Some(rest) = self.tell(watch, batch, &export, told) {
                    put_off.insert(watch, rest);
                }
            }
            self.wait(None, BATCH_PAUSE);
        }
    }

    /// Ends [`Leases::run`].
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        // The counter is far from its limit: the write cannot fail.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn wait(&self, inotify: Option<&OwnedFd>, timeout: Duration) {
        let wake = PollFd::new(&self.wake, PollFlags::IN);
        let events = PollFd::from_borrowed_fd(inotify.unwrap_or(&self.wake).as_fd(), PollFlags::IN);
        // An interrupted wait is a short one: the caller looks and waits again.
        let _ = poll(&mut [wake, events], Some(&timespec(timeout)));
    }

    /// Sorts what inotify has by directory. `false` when it says that it has dropped events.
    fn read_events(&self, inotify: &OwnedFd, buffer: &mut [MaybeUninit<u8>], batches: &mut Batches) -> bool {
        let mut reader = inotify::Reader::new(inotify, buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => continue,
                Err(errno) => {
                    log(format_args!("could not read changes: {errno}"));
                    return false;
                }
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                return false;
            }
            let batch = batches.entry(event.wd()).or_default();
            batch.ended |= event.events().intersects(ENDING);
            match event.file_name().map(|name| Name::new(name.to_bytes())) {
                Some(Ok(name)) => {
                    let order = batch.names.len();
                    let seen = batch.names.entry(name).or_insert(Seen { order, ..Seen::default() });
                    seen.renamed |= event.events().intersects(RENAMING);
                }
                // The kernel gives no such names.
                Some(Err(_)) => {}
                None => batch.itself = true,
            }
            // One read is one batch, or a steady flood would never be told.
            if reader.is_buffer_empty() {
                return true;
            }
        }
    }

    /// Looks at what the events are about and tells what the client does not know. Returns what is to be looked at
    /// again.
    fn tell(&self, watch: i32, batch: Batch, export: &Export, told: &Told) -> Option<Batch> {
        let place = {
            let table = &mut *lock(&self.table);
            let id = *table.by_watch.get(&watch)?;
            Place { id, path: table.held.get(&id)?.path.clone() }
        };
        if batch.ended {
            self.lose(watch, place.id);
            return None;
        }
        let Ok(directory) = export.directory(&place) else {
            self.lose(watch, place.id);
            return None;
        };
        let mut rest = Batch::default();
        let mut names: Vec<_> = batch.names.into_iter().collect();
        names.sort_unstable_by_key(|(_, seen)| seen.order);
        let look_around = || stat::entry_of_path(&directory).ok();
        let mut around_told = None;
        let mut look_at_itself = batch.itself;
        for (name, seen) in names {
            let event = Event {
                directory: place.id,
                name: &name,
                renamed: seen.renamed,
                at_once: seen.put_off >= LATER_MAX,
            };
            let look = || match stat::entry_at(&directory, name.as_bytes()) {
                Err(Errno::NOENT) => Ok(None),
                entry => entry.map(Some),
            };
            let settled = told.settle(&event, look, look_around, |now, around| {
                let what = match now {
                    Some(entry) => Change::Present { name: name.clone(), entry },
                    None => Change::Absent { name: name.clone() },
                };
                self.push(watch, place.id, what, around.map(|around| around.attributes));
                around_told = around.or(around_told);
            });
            match settled {
                Ok(Settled::Done) => look_at_itself |= seen.renamed,
                Ok(Settled::Later) => {
                    rest.names.insert(name, Seen { put_off: seen.put_off + 1, ..seen });
                }
                // It can be looked into no more.
                Err(_) => {
                    self.lose(watch, place.id);
                    return None;
                }
            }
        }
        let at_once = batch.itself_put_off >= LATER_MAX;
        if look_at_itself
            && told.settle_directory(place.id, at_once, look_around, |now| {
                if around_told != Some(now) {
                    self.push(watch, place.id, Change::Itself, Some(now.attributes));
                }
            }) == Settled::Later
        {
            rest.itself = true;
            rest.itself_put_off = batch.itself_put_off + 1;
        }
        (rest.itself || !rest.names.is_empty()).then_some(rest)
    }

    /// Raises the epoch and queues the change, in one step, so that a reply with the new epoch leaves behind it. Nothing
    /// when the directory is under lease no more.
    fn push(&self, watch: i32, directory: FileId, what: Change, attributes: Option<Attributes>) {
        let table = &mut *lock(&self.table);
        let Some(held) = table.held.get(&directory).filter(|held| held.watch == watch) else {
            return;
        };
        table.epoch += 1;
        held.epoch = table.epoch;
        let epoch = table.epoch;
        if !table.try_event(&AgentFrame::Changed(Changed { directory, epoch, what, attributes })) {
            self.lose_all(table);
        }
    }

    fn lose(&self, watch: i32, id: FileId) {
        let table = &mut *lock(&self.table);
        table.by_watch.remove(&watch);
        if table.held.get(&id).is_none_or(|held| held.watch != watch) {
            return;
        }
        table.held.remove(&id);
        if let Some(inotify) = &self.inotify {
            // The kernel has removed it itself if the directory is gone.
            let _ = inotify::remove_watch(inotify, watch);
        }
        self.tell_lost(table, id);
    }

    fn tell_lost(&self, table: &mut Table, directory: FileId) {
        table.epoch += 1;
        let changed = Changed { directory, epoch: table.epoch, what: Change::LeaseLost, attributes: None };
        if !table.try_event(&AgentFrame::Changed(changed)) {
            self.lose_all(table);
        }
    }

    /// Gives every lease up: changes were missed, or cannot be told as fast as they come.
    fn lose_all(&self, table: &mut Table) {
        self.end_all(table);
        if let Some(output) = &table.output {
            output.send_later(&AgentFrame::LeasesLost);
        }
    }

    fn end_all(&self, table: &mut Table) {
        if let Some(inotify) = &self.inotify {
            for watch in table.by_watch.keys() {
                // The kernel has removed it itself if the directory is gone.
                let _ = inotify::remove_watch(inotify, *watch);
            }
        }
        table.by_watch.clear();
        table.held.retain(|_, _| false);
        table.epoch += 1;
    }
}

impl Table {
    /// `false` when the change cannot be told.
    fn try_event(&self, change: &AgentFrame) -> bool {
        self.output.as_ref().is_some_and(|output| output.try_event(change))
    }
}

/// Everything that changes names, attributes or contents. Files that have lost their name are not of interest.
fn watch_flags() -> WatchFlags {
    WatchFlags::ATTRIB
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MODIFY
        | WatchFlags::MOVE
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
        | WatchFlags::EXCL_UNLINK
}

fn user_watches_max() -> usize {
    std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(USER_WATCHES_DEFAULT)
}
