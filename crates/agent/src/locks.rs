//! Advisory locks.
//!
//! `flock` locks are taken on the handle's own open file description. POSIX locks belong to an owner and a file: each
//! pair has a description of its own, and its locks are the kernel's locks of open file descriptions. So the locks of
//! two sessions, and those of programs on this machine, see each other.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use wire::agent::file::{FileId, FileReply, Lock, LockFamily, LockKind};
use wire::agent::{HandleId, Reply};

use crate::failure::failure;
use crate::handles::Handle;
use crate::session::{Asked, Outcome, Replied, Session, plain, reopen};
use crate::stream::Stream;
use crate::sync::{lock as locked, wait_timeout};

/// The most requests that wait for a lock at once. Each has a thread, for the kernel wakes nothing else.
const WAITS_MAX: usize = 256;

/// A waiting thread does nothing but wait.
const WAIT_STACK_BYTES: usize = 128 << 10;

/// A signal that comes just before the wait begins is lost: it is sent again until the wait has ended.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(1);

/// Interrupts a waiting thread. Ignored by default, so that a stray one does nothing.
const INTERRUPT: i32 = libc::SIGURG;

type Owner = (FileId, u64);

pub(crate) struct Locks {
    /// The description that holds an owner's POSIX locks on a file.
    owners: Mutex<HashMap<Owner, Arc<OwnedFd>>>,
    owners_max: usize,
    waits: Arc<AtomicUsize>,
}

impl Locks {
    pub fn new(owners_max: usize) -> Locks {
        Locks { owners: Mutex::default(), owners_max, waits: Arc::default() }
    }

    /// A handle has been closed. With a file's last handle go all its locks, as on a local disk with a process's last
    /// descriptor.
    pub fn closed(&self, handle: &Handle, last: bool) {
        if last {
            locked(&self.owners).retain(|(file, _), _| *file != handle.id);
        }
    }

    fn of(&self, handle: &Handle, owner: u64) -> Option<Arc<OwnedFd>> {
        locked(&self.owners).get(&(handle.id, owner)).cloned()
    }

    fn of_or_new(&self, handle: &Handle, owner: u64) -> Result<Arc<OwnedFd>, Errno> {
        let mut owners = locked(&self.owners);
        if let Some(description) = owners.get(&(handle.id, owner)) {
            return Ok(description.clone());
        }
        if owners.len() >= self.owners_max {
            return Err(Errno::NOLCK);
        }
        // An owner may come back for an exclusive lock through another handle; so it is opened for everything if
        // that is permitted.
        let modes: &[OFlags] =
            if handle.write { &[OFlags::RDWR, OFlags::WRONLY] } else { &[OFlags::RDWR, OFlags::RDONLY] };
        let opened = reopen(&handle.file, modes[0]).or_else(|_| reopen(&handle.file, modes[1]))?;
        let description = Arc::new(opened);
        owners.insert((handle.id, owner), description.clone());
        Ok(description)
    }

    /// Closes an owner's description, when no wait of the owner is going on: after a release that covered everything.
    fn drop_if_unused(&self, handle: &Handle, owner: u64) {
        let mut owners = locked(&self.owners);
        if owners.get(&(handle.id, owner)).is_some_and(|description| Arc::strong_count(description) == 1) {
            owners.remove(&(handle.id, owner));
        }
    }
}

/// A lock that can be tried and waited for.
#[derive(Clone)]
enum Attempt {
    Flock(Arc<Handle>, LockKind),
    Posix(Arc<OwnedFd>, Lock),
}

impl Attempt {
    /// Takes the lock. With `wait`, a signal ends the call with `EINTR`.
    fn take(&self, wait: bool) -> Result<(), Errno> {
        match self {
            Attempt::Flock(handle, kind) => rustix::fs::flock(&handle.file, flock_operation(*kind, wait)),
            Attempt::Posix(description, lock) => {
                let command = if wait { libc::F_OFD_SETLKW } else { libc::F_OFD_SETLK };
                fcntl(description, command, &mut to_kernel(lock)?)
            }
        }
    }
}

impl Session {
    pub(crate) fn lock(
        &self,
        asked: &Asked<'_>,
        handle: HandleId,
        owner: u64,
        lock: Lock,
        wait: bool,
    ) -> Outcome {
        let attempt = match self.attempt(handle, owner, &lock) {
            Ok(Some(attempt)) => attempt,
            Ok(None) => return plain(FileReply::Done).into(),
            Err(errno) => return errno.into(),
        };
        match attempt.take(false) {
            Err(Errno::AGAIN | Errno::ACCESS) if wait => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Errno::AGAIN.into(),
            Err(errno) => return errno.into(),
            Ok(()) => return plain(FileReply::Done).into(),
        }
        match self.wait_for(asked, attempt) {
            Ok(()) => Outcome::Later,
            Err(errno) => errno.into(),
        }
    }

    /// What is to be done for a lock; nothing for giving back what the owner does not have.
    fn attempt(&self, handle: HandleId, owner: u64, lock: &Lock) -> Result<Option<Attempt>, Errno> {
        let handle = self.handles.get(handle)?;
        if lock.family == LockFamily::Flock {
            return Ok(Some(Attempt::Flock(handle, lock.kind)));
        }
        to_kernel(lock)?;
        let description = match lock.kind {
            LockKind::Unlocked => match self.locks.of(&handle, owner) {
                Some(description) => description,
                None => return Ok(None),
            },
            LockKind::Exclusive if !handle.write => return Err(Errno::BADF),
            LockKind::Exclusive | LockKind::Shared => self.locks.of_or_new(&handle, owner)?,
        };
        Ok(Some(Attempt::Posix(description, *lock)))
    }

    /// Starts a thread that waits for the lock and answers the request.
    fn wait_for(&self, asked: &Asked<'_>, attempt: Attempt) -> Result<(), Errno> {
        let Some(ticket) = asked.ticket.cloned() else {
            return Err(Errno::AGAIN);
        };
        let counted = Counted::one_more(&self.locks.waits, WAITS_MAX).ok_or(Errno::NOLCK)?;
        install_handler();
        let wait = Arc::new(Wait::default());
        let (stream, id, sequence) = (asked.stream.clone(), asked.id, asked.sequence);
        let interrupts = wait.clone();
        let weak = Arc::downgrade(asked.stream);
        ticket.wake_with(Arc::new(move || {
            if let Some(stream) = weak.upgrade() {
                stream.interrupt(interrupts.clone());
            }
        }));
        let thread = std::thread::Builder::new().name("lock".to_owned()).stack_size(WAIT_STACK_BYTES);
        let started = thread.spawn(move || {
            let _counted = counted;
            wait.begin();
            let result = loop {
                // One that was cancelled before its thread was there may have nobody to interrupt it.
                if ticket.is_cancelled() {
                    break Err(Errno::INTR);
                }
                match attempt.take(true) {
                    Err(Errno::INTR) => {}
                    result => break result,
                }
            };
            wait.end();
            drop(attempt);
            let answer = result.map(|()| (Reply::File(FileReply::Done), Vec::new())).map_err(failure);
            Stream::finish(&stream, id, sequence, answer);
        });
        started.map(drop).map_err(|_| Errno::NOLCK)
    }

    pub(crate) fn test_lock(&self, handle: HandleId, owner: u64, lock: Lock) -> Replied {
        if lock.family != LockFamily::Posix || lock.kind == LockKind::Unlocked {
            return Err(Errno::INVAL);
        }
        let handle = self.handles.get(handle)?;
        let mut request = to_kernel(&lock)?;
        match self.locks.of(&handle, owner) {
            Some(description) => fcntl(&description, libc::F_OFD_GETLK, &mut request)?,
            // The handle's own description has no such locks.
            None => fcntl(&handle.file, libc::F_OFD_GETLK, &mut request)?,
        }
        plain(FileReply::Lock(from_kernel(&request)))
    }

    pub(crate) fn release_locks(&self, handle: HandleId, owner: u64) -> Replied {
        let handle = self.handles.get(handle)?;
        if let Some(description) = self.locks.of(&handle, owner) {
            let all = Lock { family: LockFamily::Posix, kind: LockKind::Unlocked, start: 0, end: u64::MAX };
            fcntl(&description, libc::F_OFD_SETLK, &mut to_kernel(&all)?)?;
            drop(description);
            self.locks.drop_if_unused(&handle, owner);
        }
        plain(FileReply::Done)
    }
}

/// A thread that waits for a lock, as seen by who wants to end that.
#[derive(Default)]
pub(crate) struct Wait {
    thread: AtomicI32,
    ended: AtomicBool,
    end: (Mutex<()>, Condvar),
}

impl Wait {
    fn begin(&self) {
        self.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
    }

    fn end(&self) {
        let _end = locked(&self.end.0);
        self.ended.store(true, Ordering::Release);
        self.end.1.notify_all();
    }

    /// Signals the thread once. To be called while the thread is known to live, or when a signal to a stranger thread of
    /// this process does no harm: the signal does nothing but end a system call, which is made again.
    pub fn signal(&self) {
        let thread = self.thread.load(Ordering::Acquire);
        if thread != 0 && !self.ended.load(Ordering::Acquire) {
            // SAFETY: the call touches no memory of this process.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, INTERRUPT) };
        }
    }

    /// Signals the thread until its wait has ended. Its wait has to have been cancelled before.
    pub fn interrupt(&self) {
        let mut end = locked(&self.end.0);
        while !self.ended.load(Ordering::Acquire) {
            self.signal();
            (end, _) = wait_timeout(&self.end.1, end, INTERRUPT_AGAIN);
        }
    }
}

/// One of a limited number; counted down when dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one_more(count: &Arc<AtomicUsize>, max: usize) -> Option<Counted> {
        if count.fetch_add(1, Ordering::AcqRel) >= max {
            count.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Counted(count.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Makes the signal end a system call, once for the process.
fn install_handler() {
    extern "C" fn nothing(_signal: libc::c_int) {}
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: all zeros is a valid `sigaction`: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler does nothing, which is safe at any point of any thread.
        unsafe { libc::sigaction(INTERRUPT, &action, std::ptr::null_mut()) };
    });
}

fn flock_operation(kind: LockKind, wait: bool) -> FlockOperation {
    match (kind, wait) {
        (LockKind::Shared, true) => FlockOperation::LockShared,
        (LockKind::Shared, false) => FlockOperation::NonBlockingLockShared,
        (LockKind::Exclusive, true) => FlockOperation::LockExclusive,
        (LockKind::Exclusive, false) => FlockOperation::NonBlockingLockExclusive,
        (LockKind::Unlocked, _) => FlockOperation::Unlock,
    }
}

fn to_kernel(lock: &Lock) -> Result<libc::flock, Errno> {
    let last = lock.end.min(i64::MAX as u64);
    let start = i64::try_from(lock.start).map_err(|_| Errno::INVAL)?;
    if lock.start > last {
        return Err(Errno::INVAL);
    }
    // A length of 0 reaches to the end of the file however it grows.
    let length = if last == i64::MAX as u64 { 0 } else { (last - lock.start + 1) as i64 };
    let kind = match lock.kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
        LockKind::Unlocked => libc::F_UNLCK,
    };
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    })
}

/// The lock that was found, and its process where the kernel knows one: a lock of a description has none.
fn from_kernel(found: &libc::flock) -> Option<(Lock, u32)> {
    let kind = match i32::from(found.l_type) {
        libc::F_RDLCK => LockKind::Shared,
        libc::F_WRLCK => LockKind::Exclusive,
        _ => return None,
    };
    let start = found.l_start.cast_unsigned();
    let end = match found.l_len {
        0 => u64::MAX,
        length => start.saturating_add(length.cast_unsigned()).saturating_sub(1),
    };
    let process = u32::try_from(found.l_pid).unwrap_or(0);
    Some((Lock { family: LockFamily::Posix, kind, start, end }, process))
}

fn fcntl(file: &OwnedFd, command: libc::c_int, lock: &mut libc::flock) -> Result<(), Errno> {
    // SAFETY: the commands used here read and write one `flock`, which lives through the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) } {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
        _ => Ok(()),
    }
}
