//! Serving a thread: requests of the kernel become operations of a [`Thread`], on the threads of this process that read them.
//!
//! ```text
//!  /dev/fuse ──read──► operations ──► Thread        names, attributes
//!      ▲                   └────────► Files         who has what open, contents
//!      └──────answer───────┘
//!                          └────────► Departed ──► its own thread: asks the kernel, lets go, syncs each second
//! ```
//!
//! All that is asked is on this computer, so nothing waits but for the disk, and each request is answered before the next is read.
//!
//! **What the kernel believes.** Nobody changes a thread but through its mount. So the kernel keeps names, names that are not there,
//! attributes, listings, symlinks and the base's contents for [`LIFETIME`], and is told of nothing: what it changes itself it knows.
//! But where it [passes files through](files), whoever has mapped one writes it without either's knowing: attributes of a file that was
//! written are then asked for whenever somebody wants them, until nobody [can write](lease) it any more.
//!
//! Of what is seen in place in a working copy ([`Thread::sees_in_place`]) anything may change without the kernel's knowing. It believes names
//! and attributes of that for [`LIFETIME_IN_PLACE`], keeps no listing and no symlink, and asks at every open whether its pages are still
//! true.
//!
//! **Numbers.** A node's number is the file's number, which stays over remounts. So no table leads from one to the other, and lookups
//! are not counted: whether the kernel still has a file that has lost its last name, it is [asked](unnamed).
//!
//! **Handles** are numbers of requests; a request names its file, and [`files`] has it open or opens it. Directories are not opened.
//! Where the kernel does not pass files through, no file is opened either: it reads and writes without.
//!
//! **Taking over.** What was answered is in the thread's log, or in the record of handles. The kernel is asked first to queue again
//! what the predecessor had taken, and one thread takes all of that before the others begin. A request that is asked again and
//! that a record says was carried out ([`Thread::carried_out`]) is answered by what it has made. The others are as good twice: the kernel has
//! the lock of whatever they change until they are answered, so nothing came in between. What the kernel
//! believes is true, and stays.
//!
//! **Locks of files** are the kernel's own: it is not told that anybody else has them, and so they outlive this process.
//!
//! **Panics** end the process, and the request is refused when it comes again.

mod files;
mod handles;
mod lease;
mod operations;
mod translate;
mod unnamed;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use store::node::Ino;
use store::thread::{Hand, Thread};

use crate::Progress;
use crate::fuse::abi::InitFlags;
use crate::fuse::buffer::Buffer;
use crate::fuse::device::Device;
use crate::fuse::negotiation::{Negotiated, Wanted};
use crate::fuse::notify::{self, Notice};
use crate::fuse::reply::Responder;
use crate::fuse::request::Operation;
use crate::fuse::serve::{
    Begin, Busy, Read, ServeError, Server, THREAD_PREFIX, Tally, parse, receive, strike, take_again,
};
use files::Files;
use unnamed::Departed;

/// How long the kernel may believe what it is told: longer than any session, and an end for what a bug has made it believe.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// And what is seen in a working copy: soon enough for who looks there, and long enough for a program that looks twice.
const LIFETIME_IN_PLACE: Duration = Duration::from_secs(1);

/// Threads that read requests: some may wait for the disk, to sync a file or to copy one, and others go on.
pub const READERS: usize = 6;

/// Set-user-id and set-group-id.
const SET_ID: u16 = 0o6000;

/// Where the [handles] are written down, in the mount's own directory.
const HANDLES: &str = "handles";

/// What it takes to serve a thread.
pub struct Start<'a> {
    /// The mount's descriptors, on which INIT has been answered.
    pub devices: &'a [Arc<Device>],
    /// What was agreed.
    pub negotiated: Negotiated,
    /// What is served.
    pub thread: Arc<Thread>,
    /// The mount's own directory, where is noted what a successor has to know.
    pub directory: &'a Path,
    /// Whether anybody has served the mount before.
    pub begin: Begin,
    /// Told of the first request that was answered.
    pub progress: Progress,
    /// Requests that are answered with `EIO` when they come again: they have ended a predecessor.
    pub refused: HashSet<u64>,
    /// What goes wrong and concerns whoever uses the mount.
    pub troubles: Arc<Troubles>,
}

/// The last that went wrong and is not its asker's affair: an object that is missing, a disk that fails.
#[derive(Debug, Default)]
pub struct Troubles {
    last: Mutex<Option<String>>,
}

impl Troubles {
    /// In one line.
    pub fn last(&self) -> Option<String> {
        self.last.lock().clone()
    }

    fn note(&self, error: &store::Error) {
        let line = crate::worker::in_full(error);
        tracing::error!(error = line, "the thread");
        *self.last.lock() = Some(line);
    }
}

/// Who reads and writes what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// The kernel by itself, where it lets this process say so.
    PassedThrough,
    /// This process, whatever the kernel asks for.
    Served,
}

/// The flags that the answers for a thread rely on.
pub fn wanted(contents: Contents, thread: &Thread) -> Wanted {
    let mut flags = Wanted::TRANSPORT
        | InitFlags::DO_READDIRPLUS
        | InitFlags::EXPLICIT_INVAL_DATA
        | InitFlags::HANDLE_KILLPRIV_V2;
    // What is seen in place is asked about when it is opened.
    if !thread.sees_in_place() {
        flags |= InitFlags::CACHE_SYMLINKS | InitFlags::NO_OPENDIR_SUPPORT | InitFlags::NO_OPEN_SUPPORT;
    }
    if contents == Contents::PassedThrough && may_pass() {
        flags |= InitFlags::PASSTHROUGH;
    }
    Wanted { flags, ..Wanted::default() }
}

/// Whether the kernel lets this process hand it files.
fn may_pass() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// What serving threads share.
struct Serving {
    thread: Arc<Thread>,
    files: Files,
    negotiated: Negotiated,
    departed: Arc<Departed>,
    /// Something was done to names since they were synced.
    is_dirty: AtomicBool,
    tally: Arc<Tally>,
    progress: Progress,
    refused: HashSet<u64>,
    troubles: Arc<Troubles>,
}

/// What a serving thread has for itself.
struct Reader {
    device: Arc<Device>,
    incoming: Buffer,
    /// What is read of files, and goes to the kernel.
    outgoing: Vec<u8>,
    hand: Hand,
}

/// Starts to serve.
pub fn start(start: Start<'_>) -> Result<Server, ServeError> {
    let Start { devices, negotiated, thread, directory, begin, progress, refused, troubles } = start;
    let [device, ..] = devices else { return Err(ServeError::Unmounted) };
    let record = directory.join(HANDLES);
    let opened = match begin {
        Begin::Fresh => Files::begin(thread.clone(), device.clone(), &negotiated, &record),
        Begin::Takeover => Files::resume(thread.clone(), device.clone(), &negotiated, &record),
    };
    let files = opened.map_err(ServeError::Record)?;
    // Before anything is asked again: what is made without a name from here on is asked about only when the kernel has let it go.
    let unnamed = thread.unnamed();
    let departed = Arc::new(Departed::new(device.clone(), &unnamed));
    let tally = Arc::<Tally>::default();
    let is_dirty = AtomicBool::new(true);
    let serving = Arc::new(Serving {
        thread,
        files,
        negotiated,
        departed,
        is_dirty,
        tally: tally.clone(),
        progress,
        refused,
        troubles,
    });
    match begin {
        Begin::Fresh => serving.begin_fresh(&unnamed)?,
        Begin::Takeover => {
            notify::write(device, &Notice::Resend).map_err(ServeError::Resend)?;
            let (taking, device) = (serving.clone(), device.clone());
            // By its name a successor sees that it has to be waited for.
            let taken = spawn(format!("{THREAD_PREFIX}0"), move || taking.take_resent(device))?;
            taken.join().map_err(|_panic| ServeError::Thread(io::Error::other("it has panicked")))??;
            serving.departed.all(&unnamed);
        }
    }
    let mut threads = Vec::new();
    // Without a descriptor of its own, a thread shares the first.
    for number in 0..devices.len().max(2) {
        let device = devices.get(number).unwrap_or(device).clone();
        let (mut reader, serving) = (Reader::new(device, &serving.negotiated)?, serving.clone());
        let serve = move || while serving.read_one(&mut reader) != Read::End {};
        threads.push(spawn(format!("{THREAD_PREFIX}{number}"), serve)?);
    }
    if begin == Begin::Takeover {
        serving.files.doubt_what_is_passed();
    }
    let tending = serving.clone();
    let tender = spawn("thread-tender".to_owned(), move || unnamed::tend(&tending))?;
    // The tender ends when nobody serves any more.
    let ending = spawn("thread-end".to_owned(), move || {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a serving thread panicked");
            }
        }
        serving.departed.end();
        if tender.join().is_err() {
            tracing::error!("the thread that lets go of files panicked");
        }
    })?;
    Ok(Server::of(vec![ending], tally))
}

fn spawn<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ServeError> {
    std::thread::Builder::new().name(name).spawn(work).map_err(ServeError::Thread)
}

impl Reader {
    fn new(device: Arc<Device>, negotiated: &Negotiated) -> Result<Reader, ServeError> {
        let incoming = Buffer::for_max_write(negotiated.max_write).map_err(ServeError::Memory)?;
        Ok(Reader { device, incoming, outgoing: Vec::new(), hand: Hand::default() })
    }
}

impl Serving {
    /// Nobody has anything open, and nobody asks again what an earlier mount was asked.
    fn begin_fresh(&self, unnamed: &[Ino]) -> Result<(), ServeError> {
        let cleared = self.thread.all_answered().and_then(|()| self.thread.forget(unnamed));
        cleared.map_err(ServeError::Store)?;
        self.departed.gone(unnamed);
        Ok(())
    }

    /// Takes again what the predecessor had taken: the kernel has queued it ahead of everything else. Then all of it is answered.
    fn take_resent(&self, device: Arc<Device>) -> Result<(), ServeError> {
        let mut reader = Reader::new(device.clone(), &self.negotiated)?;
        take_again(&device, || self.read_one(&mut reader))?;
        self.thread.all_answered().map_err(ServeError::Store)
    }

    /// Reads one message, if there is one, and answers it.
    fn read_one(&self, reader: &mut Reader) -> Read {
        if let Err(read) = receive(&reader.device, &mut reader.incoming) {
            return read;
        }
        let Reader { device, incoming, outgoing, hand } = reader;
        let dialect = self.negotiated.dialect(device.flavour());
        let Some(request) = parse(device, incoming.message(), dialect, &self.tally) else {
            return Read::Early;
        };
        let header = request.header;
        let _busy = Busy::with(header.identity());
        match request.operation {
            Operation::Forget { .. } => self.departed.forgotten(std::iter::once(Ino(header.node))),
            Operation::BatchForget(forgets) => {
                self.departed.forgotten(forgets.map(|forget| Ino(forget.node)));
            }
            // Nothing here waits long enough.
            Operation::Interrupt { .. } => {}
            _ => {
                let Some(responder) = Responder::for_request(&header, device) else { return Read::Early };
                if self.refused.contains(&header.identity()) {
                    tracing::error!(operation = %header.operation_name(), "a request that has ended a process is refused");
                    operations::report(responder.error(libc::EIO));
                } else {
                    strike(header.operation_name());
                    self.answer(hand, outgoing, request, responder);
                }
                self.tally.answered_at_once();
                self.progress.made();
                return if header.resent { Read::Early } else { Read::Usual };
            }
        }
        Read::Early
    }

    /// Whether the kernel reads and writes files by itself.
    fn passes(&self) -> bool {
        self.negotiated.has(InitFlags::PASSTHROUGH)
    }

    fn dirty(&self) {
        // Nearly always it is: a read is cheaper than a write.
        if !self.is_dirty.load(Ordering::Relaxed) {
            self.is_dirty.store(true, Ordering::Release);
        }
    }
}
