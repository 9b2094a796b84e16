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
//! **Interrupts.** Operations that change nothing end with `EINTR` when their caller is interrupted; others are carried
//! out. An interrupt may overtake the registration of its request: it is remembered.

mod answer;
mod interrupts;
mod kernel;
mod operations;
mod parked;
mod translate;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use vfs::Vfs;
use vfs::errno::Result;
use vfs::source::Source;

use super::abi::InitFlags;
use super::buffer::BufferPool;
use super::device::{Device, DeviceError, Incoming};
use super::negotiation::{Negotiated, UnsupportedVersion, Wanted, negotiate};
use super::reply::{self, Responder};
use super::request::{Operation, ParseError, Request};
use crate::machine::Owners;
use answer::Answer;
use interrupts::Interrupts;
use parked::Parked;

pub use kernel::FuseKernel;

/// Threads that read requests. More than the cores there usually are to spare gain nothing: none of them waits for
/// the machine.
const THREADS_MAX: usize = 4;

/// Bytes that are copied out of a request's buffer rather than kept in it: a small write that waits for the machine
/// should not hold a buffer for the largest.
const COPY_BYTES_MAX: usize = 64 << 10;

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
    /// A thread could not be started.
    #[error("could not start a thread")]
    Thread(#[source] io::Error),
    /// No memory for a request.
    #[error("no memory for requests")]
    Memory(#[source] rustix::io::Errno),
    /// The mount went away before it was served.
    #[error("the mount went away before it was served")]
    Unmounted,
}

/// What the kernel did so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests read.
    pub requests: AtomicU64,
    /// Requests answered without waiting for anything.
    pub hits: AtomicU64,
}

/// The flags that this server's answers rely on. `ATOMIC_O_TRUNC` is not among them: with it the kernel has the file cut
/// before it finds that the file is being executed and refuses the open.
fn wanted(owners: Owners) -> Wanted {
    let mut flags = Wanted::TRANSPORT
        | InitFlags::POSIX_LOCKS
        | InitFlags::FLOCK_LOCKS
        | InitFlags::DO_READDIRPLUS
        | InitFlags::DONT_MASK
        | InitFlags::CACHE_SYMLINKS
        | InitFlags::EXPLICIT_INVAL_DATA
        | InitFlags::HANDLE_KILLPRIV_V2;
    // Access control lists name the machine's users: they mean something here only where its owners are shown.
    if owners == Owners::Machine {
        flags |= InitFlags::POSIX_ACL;
    }
    Wanted { flags, ..Wanted::default() }
}

/// Answers INIT, the first request on `device`, and says what was agreed.
pub fn handshake(device: &Arc<Device>, owners: Owners) -> std::result::Result<Negotiated, ServeError> {
    let wanted = wanted(owners);
    let pool = BufferPool::for_max_write(wanted.max_write);
    let mut buffer = pool.take().map_err(ServeError::Memory)?;
    loop {
        match device.read(&mut buffer)? {
            Incoming::Message => break,
            Incoming::Retry | Incoming::Empty => continue,
            Incoming::Unmounted | Incoming::Aborted => return Err(ServeError::Unmounted),
        }
    }
    let request = Request::parse(buffer.message())?;
    let Operation::Init(offer) = request.operation else {
        return Err(ServeError::NotInit(request.header.operation_name().to_string()));
    };
    let Some(responder) = Responder::for_request(&request.header, device) else {
        return Err(ServeError::NotInit("an INIT without an answer".to_owned()));
    };
    let page_bytes = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
    match negotiate(&offer, &wanted, page_bytes) {
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
    root_device: u64,
    runtime: Handle,
    interrupts: Arc<Interrupts>,
    counts: Arc<Counts>,
    pool: Arc<BufferPool>,
}

/// The threads of a mount.
pub struct Server {
    threads: Mutex<Vec<JoinHandle<()>>>,
    counts: Arc<Counts>,
    kernel: Arc<FuseKernel>,
}

impl Server {
    /// Starts to serve `device`, on which INIT has been answered. `kernel` is the one that `vfs` was given.
    pub fn start<S: Source>(
        device: &Arc<Device>,
        negotiated: Negotiated,
        vfs: Arc<Vfs<S>>,
        kernel: Arc<FuseKernel>,
        runtime: Handle,
    ) -> std::result::Result<Server, ServeError> {
        kernel.start(device, &negotiated).map_err(ServeError::Thread)?;
        let root_device = vfs.root().map_or(0, |root| root.device);
        let counts = Arc::new(Counts::default());
        let pool = BufferPool::for_max_write(negotiated.max_write);
        let serving = Arc::new(Serving {
            vfs,
            kernel: kernel.clone(),
            negotiated,
            root_device,
            runtime,
            interrupts: Arc::default(),
            counts: counts.clone(),
            pool,
        });
        let count = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, THREADS_MAX));
        let mut threads = Vec::new();
        for number in 0..count {
            // Whoever may not open the device shares the one descriptor among the threads.
            let device = match number {
                0 => device.clone(),
                _ => device.clone_for_thread().map_or_else(|_| device.clone(), Arc::new),
            };
            let serving = serving.clone();
            let thread = std::thread::Builder::new()
                .name(format!("fuse-{number}"))
                .spawn(move || serve(&serving, &device))
                .map_err(ServeError::Thread)?;
            threads.push(thread);
        }
        Ok(Server { threads: Mutex::new(threads), counts, kernel })
    }

    /// What the kernel did so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Waits until the mount is gone. Returns at once to all but the first who wait.
    pub fn wait(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a serving thread panicked");
            }
        }
        self.kernel.close();
    }
}

fn serve<S: Source>(serving: &Arc<Serving<S>>, device: &Arc<Device>) {
    let _in_runtime = serving.runtime.enter();
    loop {
        let mut buffer = match serving.pool.take() {
            Ok(buffer) => buffer,
            Err(errno) => {
                tracing::error!(%errno, "no memory for a request; the thread ends");
                return;
            }
        };
        match device.read(&mut buffer) {
            Ok(Incoming::Message) => {}
            Ok(Incoming::Retry | Incoming::Empty) => continue,
            Ok(Incoming::Unmounted | Incoming::Aborted) => return,
            Err(error) => {
                tracing::error!(%error, "the device cannot be read; the thread ends");
                return;
            }
        }
        serving.counts.requests.fetch_add(1, Ordering::Relaxed);
        take(serving, device, &buffer.freeze());
    }
}

fn take<S: Source>(serving: &Arc<Serving<S>>, device: &Arc<Device>, message: &Bytes) {
    let request = match Request::parse_as(message, serving.negotiated.dialect()) {
        Ok(request) => request,
        Err(error) => {
            tracing::error!(%error, "a request cannot be read");
            if let Some(header) = error.header
                && let Err(error) = reply::refuse_malformed(device, &header)
            {
                tracing::error!(%error, "and cannot be refused");
            }
            return;
        }
    };
    let header = &request.header;
    tracing::trace!(unique = header.unique, node = header.node, operation = %header.operation_name(), "request");
    match request.operation {
        Operation::Forget { lookups } => serving.vfs.forget(translate::ino(request.header.node), lookups),
        Operation::BatchForget(forgets) => {
            serving.vfs.forget_all(forgets.map(|forget| (translate::ino(forget.node), forget.lookups)));
        }
        Operation::Interrupt { target } => serving.interrupts.interrupt(super::abi::identity(target)),
        _ => {
            let Some(responder) = Responder::for_request(&request.header, device) else { return };
            operations::start(serving, request, message, responder);
        }
    }
}

/// What an operation may be interrupted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interruptible {
    Yes,
    /// It changes something: it is carried out.
    No,
}

impl<S: Source> Serving<S> {
    /// Polls `operation` once, and answers or leaves the rest to the runtime.
    fn run<F>(self: &Arc<Self>, responder: Responder, interruptible: Interruptible, operation: F)
    where
        F: Future<Output = Result<Answer>> + Send + 'static,
    {
        let told = self.vfs.changes_told();
        let mut operation: Pin<Box<F>> = Box::pin(operation);
        let parked = Parked::new(self.runtime.clone());
        if let Poll::Ready(outcome) = parked.first_poll(operation.as_mut()) {
            tracing::trace!(unique = responder.unique(), "answered at once");
            self.counts.hits.fetch_add(1, Ordering::Relaxed);
            self.deliver(responder, outcome, told);
            return;
        }
        let serving = self.clone();
        let interrupted = match interruptible {
            Interruptible::Yes => {
                let request = super::abi::identity(responder.unique());
                Some(self.interrupts.register(request, Waker::from(parked.clone())))
            }
            Interruptible::No => None,
        };
        parked.park(Box::pin(async move {
            let outcome = match interrupted {
                None => operation.await,
                Some(interrupted) => tokio::select! {
                    biased;
                    outcome = operation => outcome,
                    () = interrupted.wait() => Err(vfs::errno::Errno::EINTR),
                },
            };
            serving.deliver(responder, outcome, told);
        }));
    }
}
