//! Serving a mount: requests of the kernel become operations of a [`Vfs`], and their outcomes replies.
//!
//! Each thread reads from a descriptor of its own. It starts the operation as a future and polls it once: what is known
//! is answered there and then, without a change of thread. What has to wait goes on as a task of the runtime, and the
//! thread reads the next request.
//!
//! **Answers and notices.** A notice that takes an answer back may be written before the answer is. So whoever sends an
//! answer that the kernel may keep looks afterwards whether anything was told meanwhile, and if so takes the answer
//! back himself.
//!
//! **Answers and the record.** What a successor must know is written before the kernel is told. A request that changes
//! something has a [`Slot`](vfs::request::Slot) until the kernel has its answer, so that it is carried out once although
//! the kernel asks for it again.
//!
//! **Taking over.** The kernel is asked first to queue again what the predecessor had taken. One thread takes all of that,
//! and what of the record did not come is settled; only then do the others begin. Then the kernel is made to doubt what it
//! believes: carrying a notice out may have to wait for a request that was taken before.
//!
//! **Panics** end the process, and [`current()`] says in which request: the successor is told to refuse it.
//!
//! **Interrupts.** Operations that change nothing end with `EINTR` when their caller is interrupted; others are carried
//! out, unless the machine is away: then whether they are is not known. An interrupt may overtake the registration of its
//! request: it is remembered.

mod answer;
mod closing;
mod current;
mod fault;
mod incoming;
mod interrupts;
mod kernel;
mod operations;
mod parked;
mod tally;
mod translate;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use vfs::Vfs;
use vfs::errno::Result;
use vfs::request::{RequestId, answering};
use vfs::source::Source;

use super::abi::{Flavour, InitFlags};
use super::buffer::BufferPool;
use super::device::{Device, DeviceError, Incoming};
use super::negotiation::{Negotiated, UnsupportedVersion, Wanted, negotiate_with};
use super::notify::{self, Notice};
use super::reply::{self, Responder};
use super::request::{Dialect, Operation, ParseError, Request};
use crate::Progress;
use crate::machine::Owners;
use answer::Answer;
use current::PartOf;
use interrupts::Interrupts;
use parked::Parked;

pub(crate) use current::Busy;
pub use current::current;
pub(crate) use fault::strike;
pub(crate) use incoming::{Read, parse, receive, take_again};
pub use kernel::FuseKernel;
pub use tally::Tally;
#[cfg(target_os = "linux")]
pub(crate) use translate::{narrow_device, permissions, wide_device};

/// Threads that read requests. More than the cores there usually are to spare gain nothing: none of them waits for
/// the machine.
const THREADS_MAX: usize = 4;

/// Bytes that are copied out of a request's buffer rather than kept in it: a small write that waits for the machine
/// should not hold a buffer for the largest.
const COPY_BYTES_MAX: usize = 64 << 10;

/// What the names of threads that read requests begin with; a number follows.
pub const THREAD_PREFIX: &str = "fuse-";

/// What it takes to serve a mount.
pub struct Start<'a, S: Source> {
    /// Its [`descriptors`], on which INIT has been answered.
    pub devices: &'a [Arc<Device>],
    /// What was agreed.
    pub negotiated: Negotiated,
    /// What is served.
    pub vfs: Arc<Vfs<S>>,
    /// The kernel that `vfs` was given.
    pub kernel: Arc<FuseKernel>,
    /// Whether anybody has served it before.
    pub begin: Begin,
    /// Told of the first request that was answered.
    pub progress: Progress,
    /// Requests that are answered with `EIO` when they come again: they have ended a predecessor.
    pub refused: HashSet<u64>,
}

/// Whether anybody has served the mount before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nobody: INIT has just been answered.
    Fresh,
    /// A process that is dead, or will not answer any more. The file system goes on from its record.
    Takeover,
}

/// Why a mount cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptor does not work.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The kernel's first message is not INIT.
    #[error("the kernel began with {0} instead of INIT")]
    NotInit(String),
    /// The kernel's first message cannot be read.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The kernel is too old.
    #[error(transparent)]
    Version(#[from] UnsupportedVersion),
    /// The reply to INIT was not taken.
    #[error(transparent)]
    Reply(#[from] reply::ReplyError),
    /// The kernel does not queue again what a dead server had taken.
    #[error("requests that were under way cannot be had again")]
    Resend(#[source] rustix::io::Errno),
    /// A thread could not be started.
    #[error("could not start a thread")]
    Thread(#[source] io::Error),
    /// What a successor has to know cannot be written down, or read.
    #[error("the record of open files cannot be used")]
    Record(#[source] io::Error),
    /// A thread's names cannot be read or written.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Store(store::Error),
    /// No memory for a request.
    #[error("no memory for requests")]
    Memory(#[source] rustix::io::Errno),
    /// The mount went away before it was served.
    #[error("the mount went away before it was served")]
    Unmounted,
}

/// The flags that this server's answers rely on. `ATOMIC_O_TRUNC` is not among them: with it the kernel has the file cut
/// before it finds that the file is being executed and refuses the open.
pub fn wanted(owners: Owners) -> Wanted {
    let mut flags = Wanted::TRANSPORT
        | InitFlags::POSIX_LOCKS
        | InitFlags::FLOCK_LOCKS
        | InitFlags::DO_READDIRPLUS
        | InitFlags::DONT_MASK
        | InitFlags::CACHE_SYMLINKS
        | InitFlags::EXPLICIT_INVAL_DATA
        | InitFlags::DIRECT_IO_ALLOW_MMAP
        | InitFlags::HANDLE_KILLPRIV_V2;
    // Access control lists name the machine's users: they mean something here only where its owners are shown.
    if owners == Owners::Machine {
        flags |= InitFlags::POSIX_ACL;
    }
    Wanted { flags, ..Wanted::default() }
}

/// Answers INIT, the first request on `device`, and says what was agreed.
pub fn handshake(device: &Arc<Device>, wanted: &Wanted) -> std::result::Result<Negotiated, ServeError> {
    let pool = BufferPool::for_max_write(wanted.max_write);
    let mut buffer = pool.take().map_err(ServeError::Memory)?;
    loop {
        match device.read(&mut buffer)? {
            Incoming::Message => break,
            Incoming::Retry | Incoming::Empty => continue,
            Incoming::Unmounted | Incoming::Aborted => return Err(ServeError::Unmounted),
        }
    }
    let dialect = Dialect { flavour: device.flavour(), ..Dialect::CURRENT };
    let request = Request::parse_as(buffer.message(), dialect)?;
    let Operation::Init(offer) = request.operation else {
        return Err(ServeError::NotInit(request.header.operation_name().to_string()));
    };
    let Some(responder) = Responder::for_request(&request.header, device) else {
        return Err(ServeError::NotInit("an INIT without an answer".to_owned()));
    };
    let page_bytes = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
    match negotiate_with(device.flavour(), &offer, wanted, page_bytes) {
        Ok((negotiated, layout)) => {
            responder.init(&layout)?;
            Ok(negotiated)
        }
        Err(unsupported) => {
            responder.errno(rustix::io::Errno::PROTO)?;
            Err(unsupported.into())
        }
    }
}

/// What serving threads share.
pub(super) struct Serving<S: Source> {
    vfs: Arc<Vfs<S>>,
    kernel: Arc<FuseKernel>,
    negotiated: Negotiated,
    flavour: &'static Flavour,
    root_device: u64,
    runtime: Handle,
    interrupts: Arc<Interrupts>,
    tally: Arc<Tally>,
    progress: Progress,
    pool: Arc<BufferPool>,
    refused: HashSet<u64>,
    /// Requests whose changes a predecessor had sent, and which have not come again.
    inherited: Mutex<HashSet<RequestId>>,
}

/// How many threads read requests where none of them waits.
pub fn readers() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, THREADS_MAX))
}

/// The descriptors through which a mount is served: this one, and one for each other of `count` threads. Whoever may not open the
/// device has the one alone. All of them must stay open in some process for as long as the mount is to live.
pub fn descriptors(device: &Arc<Device>, count: usize) -> Vec<Arc<Device>> {
    let clones = (1..count).map_while(|_| device.clone_for_thread().ok().map(Arc::new));
    std::iter::once(device.clone()).chain(clones).collect()
}

/// The threads of a mount.
pub struct Server {
    threads: Mutex<Vec<JoinHandle<()>>>,
    tally: Arc<Tally>,
    /// What tells the kernel, where anything is told.
    kernel: Option<Arc<FuseKernel>>,
}

impl Server {
    /// Threads that serve a mount already, and end with it.
    #[cfg(target_os = "linux")]
    pub(crate) fn of(threads: Vec<JoinHandle<()>>, tally: Arc<Tally>) -> Server {
        Server { threads: Mutex::new(threads), tally, kernel: None }
    }

    /// Starts to serve a mount. Within a tokio runtime.
    pub fn start<S: Source>(start: Start<'_, S>) -> std::result::Result<Server, ServeError> {
        let Start { devices, begin, .. } = start;
        let [device, ..] = devices else { return Err(ServeError::Unmounted) };
        start.kernel.start(device, &start.negotiated).map_err(ServeError::Thread)?;
        let kernel = start.kernel.clone();
        if begin == Begin::Takeover {
            notify::write(device, &Notice::Resend).map_err(ServeError::Resend)?;
        }
        let serving = Arc::new(Serving::new(start, device.flavour()));
        if begin == Begin::Takeover {
            let (serving, device) = (serving.clone(), device.clone());
            // By its name a successor sees that it has to be waited for.
            let taking = std::thread::Builder::new()
                .name(format!("{THREAD_PREFIX}0"))
                .spawn(move || serving.take_resent(&device))
                .map_err(ServeError::Thread)?;
            taking.join().map_err(|_panic| ServeError::Thread(io::Error::other("it has panicked")))??;
        }
        let mut threads = Vec::new();
        // Without a descriptor of its own, a thread shares the first.
        for number in 0..devices.len().max(2) {
            let (serving, device) = (serving.clone(), devices.get(number).unwrap_or(device).clone());
            let thread = std::thread::Builder::new()
                .name(format!("{THREAD_PREFIX}{number}"))
                .spawn(move || serve(&serving, &device))
                .map_err(ServeError::Thread)?;
            threads.push(thread);
        }
        if begin == Begin::Takeover {
            serving.doubt_all();
        }
        Ok(Server { threads: Mutex::new(threads), tally: serving.tally.clone(), kernel: Some(kernel) })
    }

    /// What the kernel did so far.
    pub fn counts(&self) -> &Tally {
        &self.tally
    }

    /// Waits until the mount is gone. Returns at once to all but the first who wait.
    pub fn wait(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a serving thread panicked");
            }
        }
        if let Some(kernel) = &self.kernel {
            kernel.close();
        }
    }
}

fn serve<S: Source>(serving: &Arc<Serving<S>>, device: &Arc<Device>) {
    let _in_runtime = serving.runtime.enter();
    while read_one(serving, device) != Read::End {}
}

/// Reads one message, if there is one, and begins to carry it out.
fn read_one<S: Source>(serving: &Arc<Serving<S>>, device: &Arc<Device>) -> Read {
    let mut buffer = match serving.pool.take() {
        Ok(buffer) => buffer,
        Err(errno) => {
            tracing::error!(%errno, "no memory for a request; the thread ends");
            return Read::End;
        }
    };
    match receive(device, &mut buffer) {
        Ok(()) => take(serving, device, &buffer.freeze()),
        Err(read) => read,
    }
}

fn take<S: Source>(serving: &Arc<Serving<S>>, device: &Arc<Device>, message: &Bytes) -> Read {
    let dialect = serving.negotiated.dialect(serving.flavour);
    let Some(request) = parse(device, message, dialect, &serving.tally) else { return Read::Early };
    let header = &request.header;
    let _busy = Busy::with(header.identity());
    tracing::trace!(unique = header.unique, node = header.node, operation = %header.operation_name(), "request");
    match request.operation {
        Operation::Forget { lookups } => serving.vfs.forget(translate::ino(request.header.node), lookups),
        Operation::BatchForget(forgets) => {
            serving.vfs.forget_all(forgets.map(|forget| (translate::ino(forget.node), forget.lookups)));
        }
        Operation::Interrupt { target } => serving.interrupts.interrupt(super::abi::identity(target)),
        _ => {
            let read = if header.resent { Read::Early } else { Read::Usual };
            let Some(responder) = Responder::for_request(header, device) else { return read };
            if serving.refused.contains(&header.identity()) {
                tracing::error!(operation = %header.operation_name(), "a request that has ended a process is refused");
                answer::report(responder.error(libc::EIO).map(|_| ()));
                return read;
            }
            strike(header.operation_name());
            operations::start(serving, request, message, responder);
            return read;
        }
    }
    Read::Early
}

/// How an operation is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It changes nothing: it ends when its caller is interrupted.
    Question,
    /// To its end; twice is as good as once.
    Errand,
    /// To its end, and once.
    Change,
}

impl<S: Source> Serving<S> {
    fn new(start: Start<'_, S>, flavour: &'static Flavour) -> Serving<S> {
        let Start { negotiated, vfs, kernel, progress, refused, .. } = start;
        let runtime = Handle::current();
        let root_device = vfs.root().map_or(0, |root| root.device);
        let pool = BufferPool::for_max_write(negotiated.max_write);
        let inherited = Mutex::new(vfs.unsettled().into_iter().collect());
        let (interrupts, tally) = (Interrupts::new(flavour.numbers_return), Arc::default());
        Serving {
            vfs,
            kernel,
            negotiated,
            flavour,
            root_device,
            runtime,
            interrupts,
            tally,
            progress,
            refused,
            pool,
            inherited,
        }
    }

    /// Takes again what the predecessor had taken: the kernel has queued it ahead of everything else. Then lets go of the
    /// changes of requests that did not come: the kernel has their answers.
    ///
    /// By one thread, so that when it has read another request, or there is none, each that was to come has been found
    /// in the record. Forgets and interrupts may come in between.
    fn take_resent(self: &Arc<Self>, device: &Arc<Device>) -> std::result::Result<(), DeviceError> {
        let _in_runtime = self.runtime.enter();
        take_again(device, || read_one(self, device))?;
        let gone = std::mem::take(&mut *self.inherited.lock());
        gone.into_iter().for_each(|request| self.vfs.settle(request));
        self.vfs.all_came_again();
        Ok(())
    }

    /// Makes the kernel doubt all that the predecessor told it.
    fn doubt_all(self: &Arc<Self>) {
        let serving = self.clone();
        self.runtime.spawn_blocking(move || {
            serving.kernel.doubt(serving.vfs.known_names(), serving.vfs.known_nodes());
        });
    }

    /// Polls `operation` once, and answers or leaves the rest to the runtime.
    fn run<F>(self: &Arc<Self>, responder: Responder, manner: Manner, operation: F)
    where
        F: Future<Output = Result<Answer>> + Send + 'static,
    {
        let told = self.vfs.changes_told();
        let request = RequestId(responder.identity());
        if manner == Manner::Change {
            self.inherited.lock().remove(&request);
        }
        let vfs = self.vfs.clone();
        let numbered = async move {
            let slot = match manner {
                Manner::Change => vfs.choose(request).await,
                Manner::Question | Manner::Errand => None,
            };
            answering(request, slot, operation).await
        };
        let mut operation = Box::pin(PartOf::new(request.0, numbered));
        let parked = Parked::new(self.runtime.clone());
        if let Poll::Ready(outcome) = parked.first_poll(operation.as_mut()) {
            tracing::trace!(unique = responder.unique(), "answered at once");
            self.tally.answered_at_once();
            self.deliver(responder, outcome, told, manner);
            return;
        }
        let serving = self.clone();
        let number = super::abi::identity(responder.unique());
        let interrupted = self.interrupts.register(number, Waker::from(parked.clone()));
        parked.park(Box::pin(async move {
            let unwanted = async {
                interrupted.wait().await;
                if manner != Manner::Question {
                    serving.vfs.source().away().await;
                }
            };
            let outcome = tokio::select! {
                biased;
                outcome = operation => outcome,
                () = unwanted => Err(vfs::errno::Errno::EINTR),
            };
            serving.deliver(responder, outcome, told, manner);
        }));
    }
}
