//! The layer against the kernel: a file system of one file, mounted for real.
//!
//! Needs `/dev/fuse`, and root for all but the helper's test, which root runs as another user. What is
//! missing is said on standard error and skips the test.

mod darwin;

use super::abi::{self, InitFlags, ROOT_ID, fopen};
use super::buffer::{Buffer, BufferPool};
use super::device::{BackingId, Device, Incoming};
use super::mountpoint::{MountOptions, mount};
use super::negotiation::{Negotiated, Wanted, negotiate};
use super::notify::{self, Effect, Forgetting, Notice, Notifier, REPEATED_AFTER};
use super::reply::{
    Delivery, Entry, Listing, ListingPlus, Name, Opened, Placed, Responder, refuse_malformed,
};
use super::request::{Operation, Request};
use crate::mountpoint::{
    AbortError, Contents, Liveness, MountEntry, MountPoint, MountPointError, Mounts, Unmount, detach_stale,
    unmount,
};
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A mount on an idle machine takes a millisecond.
const DEADLINE: Duration = Duration::from_secs(20);
/// Long enough that nothing expires during a test: what changes, changes by a notice.
const LIFETIME: Duration = Duration::from_secs(3600);
const FILE: u64 = 2;
const NAME: &[u8] = b"hello";

/// What the file system does with a READ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Answered,
    /// The responder is dropped.
    Dropped,
    /// With more bytes than were asked for.
    TooLong,
    /// The responder is kept until an INTERRUPT comes.
    Kept,
}

/// Which request is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Lookup,
    Listing,
    Read,
}

struct State {
    content: Vec<u8>,
    backing: Option<BackingId>,
    /// Of every OPEN's answer.
    opens: u32,
    reads: Reads,
    kept: Vec<Responder>,
    /// Requests of this kind are kept too, once: what they are answered with is older than what is told meanwhile.
    holds: Option<Holds>,
    held: Option<Responder>,
    lookups: usize,
    listings: usize,
    negotiated: Option<Negotiated>,
    has_ended: bool,
}

/// One read-only file in the root directory.
struct Tiny {
    state: Mutex<State>,
    changed: Condvar,
    wanted: Wanted,
}

impl Tiny {
    fn with(content: &[u8], flags: InitFlags) -> Arc<Self> {
        let state = State {
            content: content.to_vec(),
            backing: None,
            opens: fopen::KEEP_CACHE,
            reads: Reads::Answered,
            kept: Vec::new(),
            holds: None,
            held: None,
            lookups: 0,
            listings: 0,
            negotiated: None,
            has_ended: false,
        };
        let wanted = Wanted { flags: Wanted::TRANSPORT | flags, ..Wanted::default() };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new(), wanted })
    }

    fn new(content: &[u8]) -> Arc<Self> {
        Self::with(content, InitFlags::DO_READDIRPLUS)
    }

    fn wait_until(&self, what: &str, mut holds: impl FnMut(&mut State) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.state.lock();
        while !holds(&mut state) {
            let is_late = self.changed.wait_until(&mut state, deadline).timed_out();
            assert!(!is_late || holds(&mut state), "never: {what}");
        }
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    fn attr(&self, node: u64) -> abi::Attr {
        let size = self.state.lock().content.len() as u64;
        let (mode, size) = match node {
            ROOT_ID => (libc::S_IFDIR | 0o555, 0),
            _ => (libc::S_IFREG | 0o444, size),
        };
        abi::Attr { ino: node, size, mode, nlink: 1, blksize: 4096, ..Default::default() }
    }

    fn entry(&self, node: u64) -> Entry {
        Entry {
            node,
            generation: 0,
            entry_lifetime: LIFETIME,
            attr_lifetime: LIFETIME,
            attr: self.attr(node),
        }
    }

    fn answer(&self, request: &Request<'_>, responder: Responder) {
        let node = request.header.node;
        let Some(responder) = self.hold(&request.operation, responder) else { return };
        let answered = match &request.operation {
            Operation::Init(offer) => {
                let (negotiated, init) = negotiate(offer, &self.wanted, 4096).unwrap();
                let answered = responder.init(&init);
                self.update(|state| state.negotiated = Some(negotiated));
                answered
            }
            Operation::Lookup { name } if node == ROOT_ID && *name == NAME => {
                responder.entry(&self.entry(FILE))
            }
            Operation::Lookup { .. } => responder.entry(&Entry::negative(LIFETIME)),
            Operation::Getattr { .. } => responder.attr(&self.attr(node), LIFETIME),
            Operation::Open { .. } => {
                let State { backing, opens: flags, .. } = *self.state.lock();
                responder.opened(&Opened { handle: 1, flags, backing })
            }
            Operation::Opendir { .. } => {
                let flags = fopen::CACHE_DIR | fopen::KEEP_CACHE;
                responder.opened(&Opened { flags, ..Opened::default() })
            }
            Operation::Read(read) => {
                let state = self.state.lock();
                let start = (read.offset as usize).min(state.content.len());
                let end = (start + read.size as usize).min(state.content.len());
                let middle = start.midpoint(end);
                match state.reads {
                    Reads::Answered => {
                        responder.data_slices(&[&state.content[start..middle], &state.content[middle..end]])
                    }
                    Reads::Dropped => return,
                    Reads::TooLong => {
                        let refused = responder.data(&vec![0; read.size as usize + 1]).unwrap_err();
                        assert_eq!(refused.source, Errno::INVAL);
                        return;
                    }
                    Reads::Kept => {
                        drop(state);
                        self.update(|state| state.kept.push(responder));
                        return;
                    }
                }
            }
            Operation::Readdir(read) => {
                let mut listing = Listing::new(read.size);
                for name in names_after(read.offset) {
                    assert_eq!(listing.push(&name), Placed::Yes);
                }
                responder.listing(&listing)
            }
            Operation::Readdirplus(read) => {
                let mut listing = ListingPlus::new(read.size);
                for name in names_after(read.offset) {
                    let entry = match name.ino {
                        FILE => self.entry(FILE),
                        _ => Entry::negative(Duration::ZERO),
                    };
                    assert_eq!(listing.push(&name, &entry), Placed::Yes);
                }
                responder.listing_plus(&listing)
            }
            Operation::Statfs => responder.statfs(&abi::Kstatfs { namelen: 255, ..Default::default() }),
            Operation::Flush { .. }
            | Operation::Release(_)
            | Operation::Releasedir(_)
            | Operation::Destroy => responder.done(),
            _ => responder.errno(Errno::NOSYS),
        };
        answered.unwrap();
    }

    /// Counts the request, and keeps it if one of its kind is to be kept.
    fn hold(&self, operation: &Operation<'_>, responder: Responder) -> Option<Responder> {
        let kind = match operation {
            Operation::Lookup { .. } => Holds::Lookup,
            Operation::Readdir(read) if read.offset == 0 => Holds::Listing,
            Operation::Read(_) => Holds::Read,
            _ => return Some(responder),
        };
        let mut state = self.state.lock();
        match kind {
            Holds::Lookup => state.lookups += 1,
            Holds::Listing => state.listings += 1,
            Holds::Read => {}
        }
        if state.holds != Some(kind) {
            return Some(responder);
        }
        state.holds = None;
        state.held = Some(responder);
        self.changed.notify_all();
        None
    }

    /// The request that is held.
    fn held(&self, what: &str) -> Responder {
        self.wait_until(what, |state| state.held.is_some());
        self.state.lock().held.take().unwrap()
    }

    /// Ends the oldest READ that was kept.
    fn interrupt(&self, target: u64) {
        let mut state = self.state.lock();
        let position =
            state.kept.iter().position(|kept| abi::identity(kept.unique()) == abi::identity(target));
        if let Some(position) = position {
            let delivery = state.kept.remove(position).errno(Errno::INTR).unwrap();
            assert_eq!(delivery, Delivery::Delivered);
        }
    }
}

fn names_after(cookie: u64) -> impl Iterator<Item = Name<'static>> {
    let name = |ino, cookie, file_type, name| Name { ino, cookie, file_type, name };
    let names = [
        name(ROOT_ID, 1, libc::S_IFDIR, b".".as_slice()),
        name(ROOT_ID, 2, libc::S_IFDIR, b"..".as_slice()),
        name(FILE, 3, libc::S_IFREG, NAME),
    ];
    names.into_iter().filter(move |name| name.cookie > cookie)
}

/// Answers until the mount ends; returns how it ended.
fn serve(device: Arc<Device>, tiny: Arc<Tiny>) -> JoinHandle<Incoming> {
    thread::spawn(move || {
        let pool = BufferPool::for_max_write(tiny.wanted.max_write);
        loop {
            let mut buffer = pool.take().unwrap();
            match device.read(&mut buffer).unwrap() {
                Incoming::Message => {}
                Incoming::Retry => continue,
                ended => {
                    tiny.update(|state| state.has_ended = true);
                    return ended;
                }
            }
            let message = buffer.freeze();
            let request = match Request::parse(&message) {
                Ok(request) => request,
                Err(error) => panic!("{error}: {} ({:?})", error.cause, refuse(&device, &error)),
            };
            if let Operation::Interrupt { target } = request.operation {
                tiny.interrupt(target);
            }
            if let Some(responder) = Responder::for_request(&request.header, &device) {
                tiny.answer(&request, responder);
            }
        }
    })
}

fn refuse(device: &Arc<Device>, error: &super::request::ParseError) -> Option<Delivery> {
    error.header.as_ref().and_then(|header| refuse_malformed(device, header).ok())
}

/// A mounted [`Tiny`], unmounted when dropped.
struct Mounted {
    tiny: Arc<Tiny>,
    device: Arc<Device>,
    server: Option<JoinHandle<Incoming>>,
    path: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Mounted {
    fn new(tiny: &Arc<Tiny>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let point = MountPoint::check(scratch.path(), Contents::Empty).unwrap();
        let device = mount(&point, &MountOptions::private(b"test:a b,c")).unwrap();
        let device = Arc::new(device);
        let server = Some(serve(Arc::clone(&device), Arc::clone(tiny)));
        let path = point.path().to_path_buf();
        Self { tiny: Arc::clone(tiny), device, server, path, _scratch: scratch }
    }

    fn file(&self) -> PathBuf {
        self.path.join("hello")
    }

    fn read(&self) -> Vec<u8> {
        fs::read(self.file()).unwrap()
    }

    fn table_entry(&self) -> MountEntry {
        Mounts::read().unwrap().at(&self.path).unwrap().clone()
    }

    fn unmount(mut self) -> Incoming {
        unmount(&self.path, Unmount::IfIdle).unwrap();
        self.server.take().unwrap().join().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.server.is_some() {
            let _ = unmount(&self.path, Unmount::Detach);
        }
    }
}

/// Whether the machine can run a test that mounts; says so if not.
fn can_mount() -> bool {
    if !Path::new(super::device::PATH).exists() {
        eprintln!("SKIPPED: there is no {}", super::device::PATH);
        return false;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: not root");
        return false;
    }
    true
}

#[test]
fn a_file_is_listed_read_and_unmounted() {
    if !can_mount() {
        return;
    }
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
    for flags in [InitFlags::NONE, InitFlags::DO_READDIRPLUS] {
        let mounted = Mounted::new(&Tiny::with(&content, flags));
        let names: Vec<_> =
            fs::read_dir(&mounted.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["hello"]);
        assert_eq!(mounted.read(), content);
        assert_eq!(fs::metadata(mounted.file()).unwrap().ino(), FILE);
        let missing = fs::metadata(mounted.path.join("other")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let entry = mounted.table_entry();
        assert_eq!((entry.source.as_slice(), entry.is_ours()), (&b"test:a b,c"[..], true));
        assert_eq!(entry.liveness(), Liveness::Alive);
        let again = MountPoint::check(&mounted.path, Contents::Empty);
        assert!(matches!(again, Err(MountPointError::AlreadyMounted { .. })), "{again:?}");
        assert_eq!(mounted.unmount(), Incoming::Unmounted);
    }
}

#[test]
fn this_kernel_offers_what_takeover_needs() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(&Tiny::new(b"x"));
    mounted.tiny.wait_until("INIT was answered", |state| state.negotiated.is_some());
    let negotiated = mounted.tiny.state.lock().negotiated.clone().unwrap();
    assert_eq!((negotiated.max_write, negotiated.max_pages), (1 << 20, 256), "{negotiated:?}");
    if !negotiated.can_resend() {
        eprintln!("NOTE: the kernel (FUSE 7.{}) has no resend", negotiated.minor);
    }
}

#[test]
fn what_the_kernel_remembers_changes_by_a_notice() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(&Tiny::new(b"one"));
    let notifier = Notifier::start(Arc::clone(&mounted.device)).unwrap();
    assert_eq!(mounted.read(), b"one");
    // Of the same length: another size alone makes the kernel drop what it has.
    mounted.tiny.update(|state| state.content = b"two".to_vec());
    assert_eq!(mounted.read(), b"one");
    notifier.send(Notice::Inode { node: FILE }).unwrap();
    notifier.flush(DEADLINE).unwrap();
    assert_eq!(mounted.read(), b"two");
    notifier.send(Notice::Store { node: FILE, offset: 0, bytes: b"TW".as_slice().into() }).unwrap();
    notifier.flush(DEADLINE).unwrap();
    assert_eq!(mounted.read(), b"TWo");
    for how in [Forgetting::Expire, Forgetting::Drop] {
        notifier.send(Notice::Entry { parent: ROOT_ID, name: NAME.to_vec(), how }).unwrap();
    }
    notifier
        .send(Notice::Entry { parent: ROOT_ID, name: b"unknown".to_vec(), how: Forgetting::Drop })
        .unwrap();
    notifier.send(Notice::Delete { parent: ROOT_ID, child: 99, name: b"unknown".to_vec() }).unwrap();
    notifier.flush(DEADLINE).unwrap();
    let counts = notifier.counts();
    assert_eq!((counts.failed, counts.absent), (0, 2), "{counts:?}");
    notifier.close();
    assert_eq!(mounted.unmount(), Incoming::Unmounted);
}

/// A cached name that has expired is asked for without the directory's lock: a notice overtakes its answer.
fn believes_a_name_that_was_told_meanwhile(how: Forgetting) -> bool {
    let mounted = Mounted::new(&Tiny::new(b"one"));
    let notifier = Notifier::start(Arc::clone(&mounted.device)).unwrap();
    let tell = |how| {
        notifier.send(Notice::Entry { parent: ROOT_ID, name: NAME.to_vec(), how }).unwrap();
        notifier.flush(DEADLINE).unwrap();
    };
    fs::metadata(mounted.file()).unwrap();
    tell(Forgetting::Expire);
    mounted.tiny.update(|state| state.holds = Some(Holds::Lookup));
    let file = mounted.file();
    let looking = thread::spawn(move || fs::metadata(file).unwrap());
    let held = mounted.tiny.held("the name was asked for");
    tell(how);
    held.entry(&mounted.tiny.entry(FILE)).unwrap();
    looking.join().unwrap();
    let before = mounted.tiny.state.lock().lookups;
    let deadline = Instant::now() + REPEATED_AFTER * 10;
    let mut believes = true;
    while believes && Instant::now() < deadline {
        fs::metadata(mounted.file()).unwrap();
        believes = mounted.tiny.state.lock().lookups == before;
        if how == Forgetting::Drop {
            break;
        }
        thread::yield_now();
    }
    notifier.close();
    assert_eq!(mounted.unmount(), Incoming::Unmounted);
    believes
}

#[test]
fn an_answer_about_a_name_is_not_believed_when_the_name_was_dropped_meanwhile() {
    if can_mount() {
        assert!(!believes_a_name_that_was_told_meanwhile(Forgetting::Drop));
    }
}

#[test]
fn an_answer_about_a_name_is_not_believed_for_long_when_the_name_expired_meanwhile() {
    if can_mount() {
        assert!(!believes_a_name_that_was_told_meanwhile(Forgetting::Expire));
    }
}

#[test]
fn a_listing_that_was_answered_before_a_notice_is_not_kept_after_it() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(&Tiny::with(b"one", InitFlags::NONE));
    let notifier = Notifier::start(Arc::clone(&mounted.device)).unwrap();
    let list = |path: PathBuf| fs::read_dir(path).unwrap().count();
    mounted.tiny.update(|state| state.holds = Some(Holds::Listing));
    let path = mounted.path.clone();
    let listing = thread::spawn(move || list(path));
    let held = mounted.tiny.held("the directory was listed");
    notifier.send(Notice::Listing { node: ROOT_ID }).unwrap();
    // Carried out before the answer, it would have to be over by now.
    assert!(notifier.flush(REPEATED_AFTER).is_err(), "the notice waits for the listing");
    let mut old = Listing::new(4096);
    names_after(0).for_each(|name| assert_eq!(old.push(&name), Placed::Yes));
    held.listing(&old).unwrap();
    assert_eq!(listing.join().unwrap(), 1);
    notifier.flush(DEADLINE).unwrap();
    for listings in [2, 2] {
        assert_eq!(list(mounted.path.clone()), 1);
        assert_eq!(mounted.tiny.state.lock().listings, listings, "listed anew once, then kept");
    }
    notifier.close();
    assert_eq!(mounted.unmount(), Incoming::Unmounted);
}

/// The kernel has been told of a file by the time an answer shows that it was cut. Then it does not believe the answer, and
/// fills its pages with zeros up to where it thought the end was.
#[test]
fn a_file_that_was_cut_ends_there_for_who_reads_around_the_pages() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(&Tiny::with(&[b'x'; 12_000], InitFlags::DIRECT_IO_ALLOW_MMAP));
    let tiny = &mounted.tiny;
    tiny.update(|state| (state.opens, state.holds) = (fopen::DIRECT_IO, Some(Holds::Read)));
    let file = fs::File::open(mounted.file()).unwrap();
    tiny.update(|state| state.content.truncate(5_000));
    let reading = thread::spawn(move || {
        let mut bytes = vec![0; 12_000];
        let count = file.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(count);
        bytes
    });
    let asked = tiny.held("the file is read");
    notify::write(&mounted.device, &Notice::Attributes { node: FILE }).unwrap();
    asked.data(&[b'x'; 5_000]).unwrap();
    assert_eq!(reading.join().unwrap(), [b'x'; 5_000]);
    assert_eq!(mounted.unmount(), Incoming::Unmounted);
}

#[test]
fn a_file_that_is_read_around_the_pages_is_mapped_where_the_kernel_says_so() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(&Tiny::with(b"content", InitFlags::DIRECT_IO_ALLOW_MMAP));
    mounted.tiny.wait_until("INIT was answered", |state| state.negotiated.is_some());
    let is_said = mounted.tiny.state.lock().negotiated.as_ref().unwrap().has(InitFlags::DIRECT_IO_ALLOW_MMAP);
    mounted.tiny.update(|state| state.opens = fopen::DIRECT_IO);
    let file = fs::File::open(mounted.file()).unwrap();
    for how in [MapFlags::SHARED, MapFlags::PRIVATE] {
        // SAFETY: a new mapping at an address that the kernel chooses, which nothing else refers to.
        let mapped = unsafe { mmap(std::ptr::null_mut(), 7, ProtFlags::READ, how, &file, 0) };
        assert_eq!(mapped.is_ok(), is_said || how == MapFlags::PRIVATE, "{how:?}: {mapped:?}");
        let Ok(at) = mapped else { continue };
        // SAFETY: the seven bytes were mapped to be read, nobody writes them, and the slice is gone before they are unmapped.
        assert_eq!(unsafe { std::slice::from_raw_parts(at.cast::<u8>(), 7) }, b"content");
        // SAFETY: it was mapped above, and nothing refers to it any more.
        unsafe { munmap(at, 7) }.unwrap();
    }
    drop(file);
    assert_eq!(mounted.unmount(), Incoming::Unmounted);
}

#[test]
fn a_dropped_or_impossible_answer_is_an_error_for_the_caller() {
    if !can_mount() {
        return;
    }
    for reads in [Reads::Dropped, Reads::TooLong] {
        let mounted = Mounted::new(&Tiny::new(b"one"));
        mounted.tiny.update(|state| state.reads = reads);
        let error = fs::read(mounted.file()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(mounted.unmount(), Incoming::Unmounted);
    }
}

#[test]
fn a_killed_reader_interrupts_its_request() {
    if !can_mount() {
        return;
    }
    let mut tiny = Tiny::new(b"one");
    // Nobody waits for an asynchronous read itself, so it is not interrupted: its readers wait for the page.
    let wanted = &mut Arc::get_mut(&mut tiny).unwrap().wanted;
    wanted.flags = wanted.flags - InitFlags::ASYNC_READ;
    let mounted = Mounted::new(&tiny);
    mounted.tiny.update(|state| state.reads = Reads::Kept);
    let mut reader =
        Command::new("cat").arg(mounted.file()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    mounted.tiny.wait_until("the READ was taken", |state| !state.kept.is_empty());
    reader.kill().unwrap();
    reader.wait().unwrap();
    assert!(mounted.tiny.state.lock().kept.is_empty());
}

#[test]
fn a_request_that_a_dead_server_took_comes_again() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(&Tiny::new(b"one"));
    mounted.tiny.wait_until("INIT was answered", |state| state.negotiated.is_some());
    if !mounted.tiny.state.lock().negotiated.as_ref().unwrap().can_resend() {
        eprintln!("SKIPPED: the kernel has no resend");
        return;
    }
    mounted.tiny.update(|state| state.reads = Reads::Kept);
    let file = mounted.file();
    let reader = thread::spawn(move || fs::read(file));
    mounted.tiny.wait_until("the READ was taken", |state| !state.kept.is_empty());
    let taken = mounted.tiny.state.lock().kept[0].unique();
    assert_eq!(notify::write(&mounted.device, &Notice::Resend), Ok(Effect::Applied));
    mounted.tiny.wait_until("the READ came again", |state| state.kept.len() == 2);
    let kept = std::mem::take(&mut mounted.tiny.state.lock().kept);
    assert_eq!(kept[1].unique(), taken | abi::UNIQUE_RESEND);
    let deliveries: Vec<_> = kept.into_iter().map(|kept| kept.data(b"one").unwrap()).collect();
    assert_eq!(deliveries, [Delivery::Gone, Delivery::Delivered]);
    assert_eq!(reader.join().unwrap().unwrap(), b"one");
}

#[test]
fn a_successor_serves_a_descriptor_that_was_negotiated_before() {
    if !can_mount() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let point = MountPoint::check(scratch.path(), Contents::Empty).unwrap();
    let device = Arc::new(mount(&point, &MountOptions::private(b"test")).unwrap());
    let held: OwnedFd = device.as_fd().try_clone_to_owned().unwrap();
    let tiny = Tiny::new(b"one");
    let mut buffer = Buffer::for_max_write(1 << 20).unwrap();
    assert_eq!(device.read(&mut buffer).unwrap(), Incoming::Message);
    let request = Request::parse(buffer.message()).unwrap();
    assert!(matches!(request.operation, Operation::Init(_)));
    tiny.answer(&request, Responder::for_request(&request.header, &device).unwrap());
    drop(device);
    let successor = Mounted {
        server: Some(serve(Arc::new(Device::from_fd(held.try_clone().unwrap())), Arc::clone(&tiny))),
        device: Arc::new(Device::from_fd(held)),
        tiny,
        path: point.path().to_path_buf(),
        _scratch: scratch,
    };
    assert_eq!(successor.read(), b"one");
    assert_eq!(successor.unmount(), Incoming::Unmounted);
}

#[test]
fn every_clone_takes_requests_and_answers_them_itself() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(&Tiny::new(b"one"));
    mounted.tiny.wait_until("INIT was answered", |state| state.negotiated.is_some());
    let clone = Arc::new(mounted.device.clone_for_thread().unwrap());
    let second = serve(clone, Arc::clone(&mounted.tiny));
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let path = mounted.path.clone();
            thread::spawn(move || {
                for number in 0..50 {
                    assert!(
                        fs::metadata(path.join(format!("{:?}{number}", thread::current().id()))).is_err()
                    );
                    assert_eq!(fs::read(path.join("hello")).unwrap(), b"one");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(mounted.unmount(), Incoming::Unmounted);
    assert_eq!(second.join().unwrap(), Incoming::Unmounted);
}

#[test]
fn a_passed_through_file_is_read_without_the_server() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(&Tiny::with(b"1234", InitFlags::PASSTHROUGH));
    mounted.tiny.wait_until("INIT was answered", |state| state.negotiated.is_some());
    if !mounted.tiny.state.lock().negotiated.as_ref().unwrap().has(InitFlags::PASSTHROUGH) {
        eprintln!("SKIPPED: the kernel has no passthrough");
        return;
    }
    let backing = tempfile::NamedTempFile::new().unwrap();
    fs::write(backing.path(), b"real").unwrap();
    let id = mounted.device.backing_open(backing.as_file().as_fd()).unwrap();
    mounted.tiny.update(|state| {
        state.backing = Some(id);
        state.reads = Reads::Dropped;
    });
    let mut content = Vec::new();
    let mut file = fs::File::open(mounted.file()).unwrap();
    mounted.device.backing_close(id).unwrap();
    file.read_to_end(&mut content).unwrap();
    assert_eq!(content, b"real");
    assert!(mounted.device.backing_close(id).is_err());
}

#[test]
fn a_mount_whose_server_is_gone_is_found_and_detached() {
    if !can_mount() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let point = MountPoint::check(scratch.path(), Contents::Empty).unwrap();
    drop(mount(&point, &MountOptions::private(b"test:stale")).unwrap());
    let refused = MountPoint::check(scratch.path(), Contents::Empty);
    assert!(matches!(refused, Err(MountPointError::Stale(_))), "{refused:?}");
    // Other mounts on this machine are other people's.
    let detached = detach_stale(|mount| mount.path == point.path()).unwrap();
    assert!(matches!(detached.as_slice(), [one] if one.detached.is_ok()), "{detached:?}");
    assert_eq!(Mounts::read().unwrap().at(point.path()), None);
    MountPoint::check(scratch.path(), Contents::Empty).unwrap();
}

#[test]
fn an_aborted_connection_ends_the_server_and_leaves_a_stale_mount() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new(&Tiny::new(b"one"));
    assert_eq!(mounted.read(), b"one");
    let connection = mounted.table_entry().connection().unwrap();
    let none = connection.abort(&Mounts::default());
    assert!(matches!(none, Err(AbortError::Unsupported)), "{none:?}");
    let control = tempfile::tempdir().unwrap();
    let flags = rustix::mount::MountFlags::empty();
    if let Err(errno) = rustix::mount::mount(c"none", control.path(), c"fusectl", flags, None) {
        eprintln!("SKIPPED: no fusectl: {errno}");
        return;
    }
    let aborted = Mounts::read().map(|mounts| connection.abort(&mounts));
    rustix::mount::unmount(control.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    aborted.unwrap().unwrap();
    mounted.tiny.wait_until("the server ended", |state| state.has_ended);
    assert_eq!(mounted.table_entry().liveness(), Liveness::Stale);
}

/// Set for the test binary when it is run again as an unprivileged user: the directory to mount on.
const HELPER_DIRECTORY: &str = "STEAD_TEST_FUSERMOUNT_DIRECTORY";
const HELPER_TEST: &str = "parts::fuse::tests::a_plain_user_mounts_through_the_helper";

/// `nobody` everywhere, and member of no group.
const PLAIN_ID: u32 = 65534;

/// Runs its arguments as a plain user who may open `/dev/fuse`, as udev permits everywhere. Where there is no
/// udev, a device of that mode is put in its place in the script's own mount namespace, which nobody else
/// sees and which takes the mounts in it along when it ends.
const AS_PLAIN_USER: &str = r#"
    if [ "$(stat -c %a /dev/fuse)" != 666 ]; then
        mknod -m 666 "$STEAD_TEST_NODE" c 10 229
        mount --bind "$STEAD_TEST_NODE" /dev/fuse
    fi
    exec setpriv --reuid "$STEAD_TEST_ID" --regid "$STEAD_TEST_ID" --clear-groups -- "$@"
"#;

#[test]
fn a_plain_user_mounts_through_the_helper() {
    if let Some(directory) = std::env::var_os(HELPER_DIRECTORY) {
        mount_through_the_helper(Path::new(&directory));
        return;
    }
    if !can_mount() {
        return;
    }
    for program in ["fusermount3", "setpriv", "unshare"] {
        let version =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if version.is_err() {
            eprintln!("SKIPPED: no {program}");
            return;
        }
    }
    let scratch = tempfile::tempdir().unwrap();
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(scratch.path(), open_to_all).unwrap();
    let directory = scratch.path().join("a mount, of nobody's");
    fs::create_dir(&directory).unwrap();
    std::os::unix::fs::chown(&directory, Some(PLAIN_ID), Some(PLAIN_ID)).unwrap();
    // The target directory may be closed to others.
    let program = scratch.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--", "sh", "-euc", AS_PLAIN_USER, "sh"])
        .arg(&program)
        .args(["--exact", HELPER_TEST, "--nocapture"])
        .env(HELPER_DIRECTORY, &directory)
        .env("STEAD_TEST_ID", PLAIN_ID.to_string())
        .env("STEAD_TEST_NODE", scratch.path().join("fuse"))
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn mount_through_the_helper(directory: &Path) {
    assert!(!rustix::process::geteuid().is_root());
    let refused = MountPoint::check(Path::new("/usr"), Contents::Any)
        .map(|point| mount(&point, &MountOptions::private(b"test")));
    let refused = refused.unwrap().unwrap_err();
    let cause = std::error::Error::source(&refused).unwrap().to_string();
    assert!(cause.contains("fusermount3") && cause.contains("/usr"), "{cause}");

    let point = MountPoint::check(directory, Contents::Empty).unwrap();
    let device = Arc::new(mount(&point, &MountOptions::private(b"test:a b,c\\d")).unwrap());
    let tiny = Tiny::new(b"as nobody");
    let server = serve(Arc::clone(&device), tiny);
    let path = point.path();
    assert_eq!(fs::read(path.join("hello")).unwrap(), b"as nobody");
    let entry = Mounts::read().unwrap().at(path).unwrap().clone();
    assert!(entry.is_ours(), "{entry:?}");
    assert_eq!(entry.source, b"test:a b,c\\d");
    assert_eq!(entry.liveness(), Liveness::Alive);
    unmount(path, Unmount::IfIdle).unwrap();
    assert_eq!(server.join().unwrap(), Incoming::Unmounted);
    let nothing = unmount(path, Unmount::Detach).unwrap_err();
    assert!(std::error::Error::source(&nothing).unwrap().to_string().contains("fusermount3"), "{nothing:?}");
}
