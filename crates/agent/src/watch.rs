//! Watches: a client is told what changes below a directory, by path.
//!
//! Unlike a [lease](crate::leases), a watch promises no attributes and no order, and covers a whole subtree. Each has an
//! inotify instance and a thread of its own. What the client does not read in time is merged by path, and when that
//! becomes too much, replaced by the request to look at everything again.

use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use wire::agent::Reply;
use wire::agent::file::{FileReply, Kind, Place, WatchEvent};
use wire::agent::name::{Name, RelativePath};

use crate::counted::{Counted, Limit};
use crate::export::Export;
use crate::failure::failure;
use crate::file::listing::Names;
use crate::file_system::{self, Watching};
use crate::kept::timespec;
use crate::session::{Asked, Outcome, Session};
use crate::stat;
use crate::stream::Stream;
use crate::ticket::Ticket;

/// The most watches at once; the kernel gives a user 128 inotify instances by default.
const WATCHES_MAX: usize = 64;

/// The most directories under one watch. Each costs the kernel about a kilobyte.
const DIRECTORIES_MAX: usize = 32 << 10;

/// The most changed paths kept for a client that does not read.
const PENDING_MAX: usize = 8192;

/// Paths told with one page, at the most: what is a fraction of a frame even if they are long.
const PAGE_BYTES: usize = 64 << 10;

/// What a change takes in a page besides its path, in estimate.
const CHANGE_BYTES: usize = 8;

/// How long the thread rests after a page, so that repeated changes are told once.
const PAGE_PAUSE: Duration = Duration::from_millis(10);

/// How often an idle watch looks whether its directory is still there. The kernel tells of the end of a directory only
/// when nobody has it open, and here it is open.
const ALIVE_LOOK: Duration = Duration::from_secs(1);

const EVENT_BYTES: usize = 64 << 10;

static WATCHES: Limit = Limit::new(WATCHES_MAX);

impl Session {
    pub(crate) fn watch(&self, asked: &Asked<'_>, place: &Place, recursive: bool) -> Outcome {
        let Some(ticket) = asked.ticket.cloned() else {
            return Errno::INVAL.into();
        };
        let start = || -> Result<Watch, Errno> {
            let export = self.export()?;
            Watch::start(export.clone(), export.directory(place)?, recursive, ticket.clone())
        };
        let watch = match start() {
            Ok(watch) => watch,
            Err(errno) => return errno.into(),
        };
        let wake = watch.wake.clone();
        ticket.wake_with(Arc::new(move || {
            // The counter is far from its limit: the write cannot fail.
            let _ = rustix::io::write(&*wake, &1u64.to_ne_bytes());
        }));
        let stream = asked.stream.clone();
        match std::thread::Builder::new().name("watch".to_owned()).spawn(move || watch.run(&stream)) {
            Ok(_) => Outcome::Later,
            Err(_) => Errno::AGAIN.into(),
        }
    }
}

struct Watch {
    export: Arc<Export>,
    root: Arc<OwnedFd>,
    recursive: bool,
    ticket: Arc<Ticket>,
    inotify: OwnedFd,
    wake: Arc<OwnedFd>,
    paths: HashMap<i32, RelativePath>,
    pending: Pending,
    _counted: Counted,
}

/// What is to be told.
#[derive(Default)]
struct Pending {
    changes: VecDeque<(RelativePath, WatchEvent)>,
    /// Where in `changes` a path is, counted from the first ever.
    index: HashMap<RelativePath, usize>,
    taken: usize,
    rescan: bool,
}

impl Watch {
    fn start(
        export: Arc<Export>,
        root: Arc<OwnedFd>,
        recursive: bool,
        ticket: Arc<Ticket>,
    ) -> Result<Watch, Errno> {
        if file_system::watching(&root) == Watching::Never {
            return Err(Errno::OPNOTSUPP);
        }
        let mut watch = Watch {
            export,
            root,
            recursive,
            ticket,
            _counted: WATCHES.one_more()?,
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            wake: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            paths: HashMap::new(),
            pending: Pending::default(),
        };
        watch.add(RelativePath::default(), false)?;
        Ok(watch)
    }

    fn run(mut self, stream: &Arc<Stream>) {
        let id = self.ticket.id;
        let sent = stream.send(id, page(Vec::new(), false), Vec::new());
        self.ticket.spend(sent);
        let result = loop {
            if self.ticket.is_cancelled() {
                break Errno::INTR;
            }
            self.wait_for_events();
            if stat::entry_of_path(&self.root).is_ok_and(|root| root.attributes.links == 0) {
                break Errno::NOENT;
            }
            if let Err(errno) = self.read_events() {
                break errno;
            }
            while self.ticket.has_credit()
                && let Some((changes, rescan)) = self.pending.take()
            {
                let sent = stream.send(id, page(changes, rescan), Vec::new());
                self.ticket.spend(sent);
            }
            self.rest();
        };
        Stream::finish(stream, id, self.ticket.sequence, Err(failure(result)));
    }

    fn wait_for_events(&self) {
        let events = PollFd::new(&self.inotify, PollFlags::IN);
        // An interrupted wait is a short one.
        let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN), events], Some(&timespec(ALIVE_LOOK)));
        let mut counter = [0; 8];
        // Takes a wake-up back; mostly there is none.
        let _ = rustix::io::read(&*self.wake, &mut counter);
    }

    /// Rests, unless the client says something, which is left for the next wait to see.
    fn rest(&self) {
        // An interrupted rest is a short one.
        let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], Some(&timespec(PAGE_PAUSE)));
    }

    /// Takes in what inotify has. An error ends the watch.
    fn read_events(&mut self) -> Result<(), Errno> {
        let mut events = Vec::new();
        let mut buffer = vec![MaybeUninit::uninit(); EVENT_BYTES];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().and_then(|name| Name::new(name.to_bytes()).ok());
                    events.push((event.wd(), event.events(), name));
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            }
            if reader.is_buffer_empty() {
                break;
            }
        }
        events.into_iter().try_for_each(|(watch, what, name)| self.take_in(watch, what, name))
    }

    fn take_in(&mut self, watch: i32, what: ReadFlags, name: Option<Name>) -> Result<(), Errno> {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.pending.everything();
            return Ok(());
        }
        let Some(directory) = self.paths.get(&watch).cloned() else {
            return Ok(());
        };
        if what.contains(ReadFlags::IGNORED) {
            self.paths.remove(&watch);
            return if directory.is_root() { Err(Errno::NOENT) } else { Ok(()) };
        }
        let Some(name) = name else {
            return Ok(());
        };
        let path = directory.join(&name);
        let is_directory = what.contains(ReadFlags::ISDIR) && self.recursive;
        let event = match () {
            () if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) => WatchEvent::Created,
            () if what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) => WatchEvent::Removed,
            () => WatchEvent::Modified,
        };
        if is_directory && event == WatchEvent::Removed {
            self.forget_below(&path);
        }
        self.pending.add(path.clone(), event);
        if is_directory && event == WatchEvent::Created && self.add(path, true).is_err() {
            // It is gone again, or there are too many: what is in it is told no more.
            self.pending.everything();
        }
        Ok(())
    }

    /// Watches a directory and, if wanted, what is below it. `tell` says that whatever is found there is new.
    fn add(&mut self, start: RelativePath, tell: bool) -> Result<(), Errno> {
        let mut directories = vec![start];
        while let Some(path) = directories.pop() {
            if self.paths.len() >= DIRECTORIES_MAX {
                return Err(Errno::NOSPC);
            }
            let opened;
            let directory = if path.is_root() {
                &*self.root
            } else {
                opened = match self.export.resolve(self.root.as_fd(), path.as_bytes()) {
                    // It is gone again, which will be told.
                    Err(Errno::NOENT | Errno::NOTDIR) => continue,
                    result => result?,
                };
                &opened
            };
            let watch = inotify::add_watch(&self.inotify, stat::proc_path(directory), watch_flags())?;
            self.paths.insert(watch, path.clone());
            if !self.recursive {
                continue;
            }
            let mut names = match Names::open(directory, 0) {
                // What may not be read is not looked into.
                Err(Errno::ACCESS) => continue,
                result => result?,
            };
            while let Some((name, _)) = names.next()? {
                let path = path.join(&name);
                let kind = stat::entry_at(directory, name.as_bytes()).map(|entry| entry.attributes.kind);
                if kind == Ok(Kind::Directory) {
                    directories.push(path.clone());
                }
                if tell {
                    self.pending.add(path, WatchEvent::Created);
                }
            }
        }
        Ok(())
    }

    /// Drops the watches of a subtree that has gone elsewhere.
    fn forget_below(&mut self, gone: &RelativePath) {
        let gone = gone.as_bytes();
        let inotify = &self.inotify;
        self.paths.retain(|watch, path| {
            let below =
                path.as_bytes().strip_prefix(gone).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
            if below {
                // The kernel has removed it itself if the directory is gone.
                let _ = inotify::remove_watch(inotify, *watch);
            }
            !below
        });
    }
}

impl Pending {
    /// Adds a change, merged with what is to be told of the same path already.
    fn add(&mut self, path: RelativePath, event: WatchEvent) {
        if let Some(at) = self.index.get(&path).and_then(|at| at.checked_sub(self.taken)) {
            let before = &mut self.changes[at].1;
            // What was made and written to is still new.
            if (*before, event) != (WatchEvent::Created, WatchEvent::Modified) {
                *before = event;
            }
            return;
        }
        if self.changes.len() >= PENDING_MAX {
            self.everything();
            return;
        }
        self.index.insert(path.clone(), self.taken + self.changes.len());
        self.changes.push_back((path, event));
    }

    /// Replaces all that is to be told by the request to look again at everything.
    fn everything(&mut self) {
        *self = Pending { rescan: true, ..Pending::default() };
    }

    /// The next page; `None` when there is nothing to tell.
    fn take(&mut self) -> Option<(Vec<(RelativePath, WatchEvent)>, bool)> {
        let rescan = std::mem::take(&mut self.rescan);
        let mut page = Vec::new();
        let mut bytes = 0;
        while bytes < PAGE_BYTES
            && let Some((path, event)) = self.changes.pop_front()
        {
            self.taken += 1;
            self.index.remove(&path);
            bytes += path.as_bytes().len() + CHANGE_BYTES;
            page.push((path, event));
        }
        (rescan || !page.is_empty()).then_some((page, rescan))
    }
}

fn page(changes: Vec<(RelativePath, WatchEvent)>, rescan: bool) -> Reply {
    Reply::File(FileReply::Watched { changes, rescan })
}

fn watch_flags() -> WatchFlags {
    WatchFlags::ATTRIB
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MODIFY
        | WatchFlags::MOVE
        | WatchFlags::ONLYDIR
        | WatchFlags::EXCL_UNLINK
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelativePath {
        RelativePath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn changes_of_one_path_become_one() {
        let mut pending = Pending::default();
        pending.add(path("a"), WatchEvent::Created);
        pending.add(path("b"), WatchEvent::Modified);
        pending.add(path("a"), WatchEvent::Modified);
        pending.add(path("b"), WatchEvent::Removed);
        let (changes, rescan) = pending.take().unwrap();
        assert_eq!(changes, [(path("a"), WatchEvent::Created), (path("b"), WatchEvent::Removed)]);
        assert!(!rescan);
        pending.add(path("a"), WatchEvent::Removed);
        assert_eq!(pending.take().unwrap().0, [(path("a"), WatchEvent::Removed)]);
        assert!(pending.take().is_none());
    }

    #[test]
    fn too_many_changes_become_a_rescan() {
        let mut pending = Pending::default();
        (0..=PENDING_MAX).for_each(|n| pending.add(path(&n.to_string()), WatchEvent::Created));
        let (changes, rescan) = pending.take().unwrap();
        assert!(changes.is_empty() && rescan);
    }
}
