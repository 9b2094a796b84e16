//! What the kernel is told unasked: that something it remembers no longer holds.
//!
//! The kernel takes the inode's lock to carry a notice out, and a request on that inode may hold the lock
//! until it is answered. So a thread that answers requests must never write a notice, nor wait for one to be
//! written. A [`Notifier`] has a thread of its own for it and a queue of [`NOTICES_QUEUED_MAX`]:
//!
//! - A notice that is already waiting is not queued again, and a range is not queued behind its whole inode.
//! - When the queue is full, [`Notice::Store`] is dropped: it only saves a later READ.
//! - Any other notice must not be lost. Where the server can list every name that the kernel may know, all queued names
//!   are replaced by one [`Notice::AllNames`].
//! - The expiry of a name is written a second time, [`REPEATED_AFTER`] later; see below.
//! - If that makes no room either, [`Notifier::send`] waits for room and [`Notifier::try_send`] gives the
//!   notice back. Only a thread that answers no requests may call `send`.
//!
//! An answer that was given before a change may reach the kernel's caches after the notice of that change. Where the one
//! who asked holds the directory's lock, as whoever looks up a name that is not cached and whoever lists, a notice that
//! takes the lock is carried out behind the answer. That holds for [`Notice::Entry`], and for [`Notice::Listing`], which takes
//! the lock before it drops what is cached; [`Notice::Inode`] takes no lock. A cached name that has expired is asked for
//! without the lock (`d_revalidate`), and its answer makes it good again, for as long as it says, also after the notice:
//!
//! - A name that is dropped ([`Forgetting::Drop`]) stays dropped. So what a name of a file led to is dropped when it is known
//!   to lead elsewhere.
//! - The name of a directory must not be: who works in it, and what is mounted below it, would lose it, also where the name
//!   was good. Its expiry is repeated, when whoever has the answer has come to run. That is the one race that time closes.
//!
//! For the same reason the kernel is never told to begin a new epoch (INC_EPOCH, 7.44): a name of an older one is dropped where
//! it is used next, and who works in the directory has no working directory until whoever used it has an answer.
//!
//! A thread that waits for the kernel's lock cannot be killed. A process that gets SIGKILL meanwhile ends
//! only when the request that holds the lock has been answered, by a successor after [`Notice::Resend`] or by
//! an abort; until then it cannot be reaped (measured on Linux 6.18, with a name that is being looked up and
//! with bytes that are being read). So whoever restarts servers must not wait for the exit.

use super::abi::{self, flag, notify as code};
use super::device::Device;
use super::reply::{Delivery, write_message};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::io::Errno;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, mem, thread};
use thiserror::Error;
use zerocopy::IntoBytes;

/// Notices that wait: the names of a source tree can change at once, as a checkout does it, without anyone
/// waiting. That is about 2 MiB with names of the usual length, and 20 MiB with the longest.
pub const NOTICES_QUEUED_MAX: usize = 8192;

/// Payload bytes of [`Notice::Store`] that wait; what is above is dropped.
pub const STORE_BYTES_QUEUED_MAX: usize = 8 << 20;

/// When the expiry of a name is written again: a process that has its answer has come to run by then, also on a computer
/// that is busy, and what was told is still younger than what is believed without being told of.
pub const REPEATED_AFTER: Duration = Duration::from_millis(300);

/// A name that no directory has in the kernel's cache of names.
const NO_NAME: &[u8] = b".";

/// Something the kernel should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The attributes of a node, and none of its bytes, are no longer what they were.
    Attributes {
        /// Which.
        node: u64,
    },
    /// The attributes and all bytes of a node that is no directory.
    Inode {
        /// Which.
        node: u64,
    },
    /// The attributes of a directory and its cached listing, with what those who are listing it have been answered.
    Listing {
        /// Which.
        node: u64,
    },
    /// The attributes and a range of bytes.
    Range {
        /// Which.
        node: u64,
        /// First byte.
        offset: u64,
        /// Number of bytes; 0 is up to the end.
        length: u64,
    },
    /// A name does not lead where it led, or leads somewhere now.
    Entry {
        /// The directory.
        parent: u64,
        /// Empty, with a NUL or a slash: refused by the kernel.
        name: Vec<u8>,
        /// How.
        how: Forgetting,
    },
    /// A name was removed, and with it this node. Watchers of the directory see the removal.
    Delete {
        /// The directory.
        parent: u64,
        /// What the name led to. If it leads elsewhere by now, nothing happens.
        child: u64,
        /// Which.
        name: Vec<u8>,
    },
    /// Bytes of a file, for the kernel's page cache.
    Store {
        /// Which.
        node: u64,
        /// First byte.
        offset: u64,
        /// What is there.
        bytes: Bytes,
    },
    /// Every name that the kernel may know is to be looked up again.
    AllNames(AllNames),
    /// A poller with this handle should ask again.
    PollWakeup {
        /// From the POLL request.
        kernel_handle: u64,
    },
    /// Requests that another process took through any descriptor of the connection and did not answer are to
    /// be queued again, with the resend bit. EINVAL before Linux 6.9.
    Resend,
}

/// Lists every name that the kernel may know, when that is written: each with its directory.
#[derive(Clone)]
pub struct AllNames {
    list: Arc<dyn Fn() -> Vec<(u64, Vec<u8>)> + Send + Sync>,
    how: Forgetting,
}

impl AllNames {
    /// `list` is called by the notifier's thread. A name too many does no harm.
    pub fn new(how: Forgetting, list: impl Fn() -> Vec<(u64, Vec<u8>)> + Send + Sync + 'static) -> Self {
        Self { list: Arc::new(list), how }
    }
}

impl fmt::Debug for AllNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AllNames").field("how", &self.how).finish_non_exhaustive()
    }
}

impl PartialEq for AllNames {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.list, &other.list) && self.how == other.how
    }
}

impl Eq for AllNames {}

/// How a name is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forgetting {
    /// Now, with what is below it. Fails while something is mounted below it.
    Drop,
    /// When it is used next. Needs [`abi::InitFlags::HAS_EXPIRE_ONLY`]; without it the same as `Drop`.
    Expire,
}

/// What became of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The kernel dropped what it had.
    Applied,
    /// The kernel had nothing, or there is no kernel any more.
    Absent,
}

/// Writes a notice and returns when the kernel has carried it out. Not for a thread that answers requests,
/// except for [`Notice::Resend`], which takes no locks.
pub fn write(device: &Device, notice: &Notice) -> Result<Effect, Errno> {
    let nul: &[u8] = b"\0";
    match notice {
        Notice::Attributes { node } => invalidate(device, *node, -1, 0),
        Notice::Inode { node } => invalidate(device, *node, 0, 0),
        Notice::Listing { node } => {
            expire(device, *node, NO_NAME, Forgetting::Expire)?;
            invalidate(device, *node, 0, 0)
        }
        Notice::Range { node, offset, length } => match (i64::try_from(*offset), i64::try_from(*length)) {
            (Ok(offset), Ok(length)) => invalidate(device, *node, offset, length),
            _ => Err(Errno::INVAL),
        },
        Notice::Entry { parent, name, how } => expire(device, *parent, name, *how),
        Notice::Delete { parent, child, name } => {
            let namelen = name_length(name)?;
            let fixed = abi::NotifyDeleteOut { parent: *parent, child: *child, namelen, padding: 0 };
            post(device, code::DELETE, &[fixed.as_bytes(), name, nul])
        }
        Notice::Store { node, offset, bytes } => {
            let size = u32::try_from(bytes.len()).map_err(|_| Errno::MSGSIZE)?;
            let fixed = abi::NotifyStoreOut { nodeid: *node, offset: *offset, size, padding: 0 };
            post(device, code::STORE, &[fixed.as_bytes(), bytes])
        }
        Notice::AllNames(all) => expire_all(device, all),
        Notice::PollWakeup { kernel_handle } => {
            post(device, code::POLL, &[abi::NotifyPollWakeupOut { kh: *kernel_handle }.as_bytes()])
        }
        Notice::Resend => post(device, code::RESEND, &[]),
    }
}

fn invalidate(device: &Device, ino: u64, off: i64, len: i64) -> Result<Effect, Errno> {
    post(device, code::INVAL_INODE, &[abi::NotifyInvalInodeOut { ino, off, len }.as_bytes()])
}

/// Tells of every name, whatever becomes of one; the first that was refused says why.
fn expire_all(device: &Device, all: &AllNames) -> Result<Effect, Errno> {
    let mut outcome = Ok(Effect::Absent);
    for (parent, name) in (all.list)() {
        match expire(device, parent, &name, all.how) {
            Ok(Effect::Absent) => {}
            effect => outcome = outcome.and(effect),
        }
    }
    outcome
}

fn expire(device: &Device, parent: u64, name: &[u8], how: Forgetting) -> Result<Effect, Errno> {
    let flags = match how {
        Forgetting::Expire => flag::EXPIRE_ONLY,
        Forgetting::Drop => 0,
    };
    let fixed = abi::NotifyInvalEntryOut { parent, namelen: name_length(name)?, flags };
    post(device, code::INVAL_ENTRY, &[fixed.as_bytes(), name, b"\0"])
}

fn name_length(name: &[u8]) -> Result<u32, Errno> {
    match name.len() {
        1..=abi::NAME_BYTES_MAX if !name.contains(&0) => Ok(name.len() as u32),
        0..=abi::NAME_BYTES_MAX => Err(Errno::INVAL),
        _ => Err(Errno::NAMETOOLONG),
    }
}

fn post(device: &Device, code: i32, pieces: &[&[u8]]) -> Result<Effect, Errno> {
    match write_message(device, code, 0, pieces) {
        Ok(Delivery::Delivered) => Ok(Effect::Applied),
        Ok(Delivery::Gone) | Err(Errno::NOTCONN) => Ok(Effect::Absent),
        Err(errno) => Err(errno),
    }
}

/// What a notifier has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Notices that changed something in the kernel.
    pub applied: u64,
    /// Notices about what the kernel did not have.
    pub absent: u64,
    /// Notices that the kernel refused; each is in the log.
    pub failed: u64,
    /// Notices that were covered by another one in the queue.
    pub merged: u64,
    /// [`Notice::Store`]s for which there was no room.
    pub dropped: u64,
}

/// A notice was not taken.
#[derive(Debug, Error)]
pub enum Rejected {
    /// The queue is full, and the thread may not wait.
    #[error("{NOTICES_QUEUED_MAX} notices to the kernel are waiting already")]
    Full(Notice),
    /// The notifier was closed.
    #[error("the notifier is closed")]
    Closed,
}

/// What did not happen in time.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{waiting} notices were still waiting for the kernel after {waited:?}")]
pub struct NotFlushed {
    /// How many.
    pub waiting: usize,
    /// How long.
    pub waited: Duration,
}

/// What makes a second notice superfluous while the first one waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Attributes(u64),
    Inode(u64),
    Listing(u64),
    Range(u64, u64, u64),
    Entry(u64, Vec<u8>, Forgetting),
    Delete(u64, u64, Vec<u8>),
    AllNames,
    PollWakeup(u64),
}

fn key(notice: &Notice) -> Option<Key> {
    Some(match notice {
        Notice::Attributes { node } => Key::Attributes(*node),
        Notice::Inode { node } => Key::Inode(*node),
        Notice::Listing { node } => Key::Listing(*node),
        Notice::Range { node, offset, length } => Key::Range(*node, *offset, *length),
        Notice::Entry { parent, name, how } => Key::Entry(*parent, name.clone(), *how),
        Notice::Delete { parent, child, name } => Key::Delete(*parent, *child, name.clone()),
        Notice::AllNames(_) => Key::AllNames,
        Notice::PollWakeup { kernel_handle } => Key::PollWakeup(*kernel_handle),
        Notice::Store { .. } | Notice::Resend => return None,
    })
}

struct Queued {
    sequence: u64,
    notice: Notice,
}

/// Before everything that was queued at the time: the place of what stands for queued names.
const SEQUENCE_FIRST: u64 = 0;

/// The queue without its thread: no I/O, no waiting.
struct Queue {
    notices: VecDeque<Queued>,
    /// Of the notices that another one need not repeat. An invalidation is not among them once bytes of its
    /// node are queued behind it: they are to be invalidated too.
    waiting: HashSet<Key>,
    store_bytes: usize,
    /// How many notices about each node wait or are being written.
    pending: HashMap<u64, usize>,
    /// To be written a second time, and when: the earliest first, [`NOTICES_QUEUED_MAX`] of them at the most.
    repeats: VecDeque<(Instant, Notice)>,
    sequence: u64,
    writing: Option<u64>,
    /// What stands for all names, if there is such.
    all_names: Option<AllNames>,
    is_closed: bool,
    counts: Counts,
}

enum Taken {
    Yes,
    Full(Notice),
}

impl Queue {
    fn new(all_names: Option<AllNames>) -> Self {
        Self {
            notices: VecDeque::new(),
            waiting: HashSet::new(),
            store_bytes: 0,
            pending: HashMap::new(),
            repeats: VecDeque::new(),
            sequence: SEQUENCE_FIRST,
            writing: None,
            all_names,
            is_closed: false,
            counts: Counts::default(),
        }
    }

    fn push(&mut self, notice: Notice) -> Taken {
        if self.covers(&notice) {
            self.counts.merged += 1;
            return Taken::Yes;
        }
        if let Notice::Store { node, bytes, .. } = &notice {
            if self.notices.len() >= NOTICES_QUEUED_MAX
                || self.store_bytes + bytes.len() > STORE_BYTES_QUEUED_MAX
            {
                self.counts.dropped += 1;
                return Taken::Yes;
            }
            self.store_bytes += bytes.len();
            let node = *node;
            self.waiting.retain(|key| !concerns(key, node));
        }
        if self.notices.len() >= NOTICES_QUEUED_MAX && !self.replace_names() {
            return Taken::Full(notice);
        }
        if self.covers(&notice) {
            self.counts.merged += 1;
            return Taken::Yes;
        }
        self.waiting.extend(key(&notice));
        if let Some(node) = taken_back(&notice) {
            *self.pending.entry(node).or_default() += 1;
        }
        self.sequence += 1;
        self.notices.push_back(Queued { sequence: self.sequence, notice });
        Taken::Yes
    }

    fn covers(&self, notice: &Notice) -> bool {
        let whole = |node: &u64| self.waiting.contains(&Key::Inode(*node));
        let by_wider = match notice {
            Notice::Attributes { node } => whole(node) || self.waiting.contains(&Key::Listing(*node)),
            Notice::Range { node, .. } => whole(node),
            _ => false,
        };
        by_wider || key(notice).is_some_and(|key| self.waiting.contains(&key))
    }

    /// Makes room if there are names in the queue and something that stands for all. That goes to the front, so that it is
    /// never later than a name that it stands for.
    fn replace_names(&mut self) -> bool {
        let Some(all) = self.all_names.clone() else { return false };
        let before = self.notices.len();
        self.notices.retain(|queued| !matches!(queued.notice, Notice::Entry { .. } | Notice::AllNames(_)));
        let removed = before - self.notices.len();
        if removed == 0 {
            return false;
        }
        self.waiting.retain(|key| !matches!(key, Key::Entry(..)));
        self.waiting.insert(Key::AllNames);
        self.notices.push_front(Queued { sequence: SEQUENCE_FIRST, notice: Notice::AllNames(all) });
        self.counts.merged += removed as u64;
        removed > 1
    }

    /// The next notice to write. Its key is given up before the write: a change that comes during the write
    /// is queued again, since the kernel may have acted before it.
    fn pop(&mut self) -> Option<Notice> {
        let Queued { sequence, notice } = self.notices.pop_front()?;
        if let Notice::Store { bytes, .. } = &notice {
            self.store_bytes -= bytes.len();
        }
        if let Some(key) = key(&notice) {
            self.waiting.remove(&key);
        }
        self.writing = Some(sequence);
        Some(notice)
    }

    /// Has the expiry of a name written again later. Where there is no room, that of all names.
    fn repeat_later(&mut self, notice: Notice, now: Instant) {
        let due = now + REPEATED_AFTER;
        match &notice {
            Notice::Entry { how: Forgetting::Expire, .. } if self.repeats.len() < NOTICES_QUEUED_MAX => {
                self.repeats.push_back((due, notice));
            }
            Notice::Entry { how: Forgetting::Expire, .. } => {
                if let Some(all) = self.all_names.clone() {
                    self.repeats.clear();
                    self.repeats.push_back((due, Notice::AllNames(all)));
                }
            }
            Notice::AllNames(_) => {
                self.repeats.clear();
                self.repeats.push_back((due, notice));
            }
            _ => {}
        }
    }

    /// The next notice that is to be written a second time, if it is time.
    fn pop_repeat(&mut self, now: Instant) -> Option<Notice> {
        self.repeats.pop_front_if(|(due, _)| *due <= now).map(|(_, notice)| notice)
    }

    fn finished(&mut self, notice: &Notice, outcome: Result<Effect, Errno>) {
        self.writing = None;
        if let Some(node) = taken_back(notice)
            && let Entry::Occupied(mut pending) = self.pending.entry(node)
        {
            *pending.get_mut() -= 1;
            if *pending.get() == 0 {
                pending.remove();
            }
        }
        match outcome {
            Ok(Effect::Applied) => self.counts.applied += 1,
            Ok(Effect::Absent) => self.counts.absent += 1,
            Err(_) => self.counts.failed += 1,
        }
    }

    /// Whether everything queued up to `sequence` has been written.
    fn is_past(&self, sequence: u64) -> bool {
        let is_later = |waiting: u64| waiting > sequence;
        self.writing.is_none_or(is_later)
            && self.notices.front().is_none_or(|queued| is_later(queued.sequence))
    }
}

/// The node of which the notice takes something back that the kernel believes.
fn taken_back(notice: &Notice) -> Option<u64> {
    match notice {
        Notice::Attributes { node }
        | Notice::Inode { node }
        | Notice::Listing { node }
        | Notice::Range { node, .. } => Some(*node),
        _ => None,
    }
}

fn concerns(key: &Key, node: u64) -> bool {
    matches!(key, Key::Attributes(of) | Key::Inode(of) | Key::Range(of, ..) if *of == node)
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something was queued, or the notifier was closed.
    work: Condvar,
    /// Something was written: there is room, and a flush may be over.
    progress: Condvar,
    /// The same, for tasks.
    written: tokio::sync::Notify,
}

/// A handle of the thread that writes notices. Clones share it; the thread ends, without writing what still
/// waits, when it is closed. Dropping handles closes nothing.
#[derive(Clone)]
pub struct Notifier {
    shared: Arc<Shared>,
}

impl Notifier {
    /// Starts the thread. `all_names` stands for names for which there is no room; without it whoever sends them waits.
    pub fn start(device: Arc<Device>, all_names: Option<AllNames>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::new(all_names)),
            work: Condvar::new(),
            progress: Condvar::new(),
            written: tokio::sync::Notify::new(),
        });
        let notifier = Self { shared: Arc::clone(&shared) };
        thread::Builder::new().name("fuse-notify".into()).spawn(move || write_all(&shared, &device))?;
        Ok(notifier)
    }

    /// Queues a notice, and waits for room if there is none. Not for a thread that answers requests: the
    /// kernel may be unable to take a notice until that thread has answered one.
    pub fn send(&self, mut notice: Notice) -> Result<(), Rejected> {
        let mut queue = self.shared.queue.lock();
        loop {
            match self.push(&mut queue, notice)? {
                Taken::Yes => return Ok(()),
                Taken::Full(back) => notice = back,
            }
            self.shared.progress.wait(&mut queue);
        }
    }

    /// Queues a notice, or gives it back. Never waits.
    pub fn try_send(&self, notice: Notice) -> Result<(), Rejected> {
        match self.push(&mut self.shared.queue.lock(), notice)? {
            Taken::Yes => Ok(()),
            Taken::Full(back) => Err(Rejected::Full(back)),
        }
    }

    fn push(&self, queue: &mut MutexGuard<'_, Queue>, notice: Notice) -> Result<Taken, Rejected> {
        if queue.is_closed {
            return Err(Rejected::Closed);
        }
        let taken = queue.push(notice);
        self.shared.work.notify_one();
        Ok(taken)
    }

    /// Whether notices about this node wait or are being written.
    pub fn is_behind(&self, node: u64) -> bool {
        self.shared.queue.lock().pending.contains_key(&node)
    }

    /// Returns when no notice about this node waits or is being written. It may be a request of the node that it waits for.
    pub async fn caught_up(&self, node: u64) {
        loop {
            let written = self.shared.written.notified();
            if !self.is_behind(node) {
                return;
            }
            written.await;
        }
    }

    /// Waits until everything queued before has been carried out, at most for `wait`. Not for a thread that
    /// answers requests.
    pub fn flush(&self, wait: Duration) -> Result<(), NotFlushed> {
        let deadline = Instant::now() + wait;
        let mut queue = self.shared.queue.lock();
        let sequence = queue.sequence;
        while !queue.is_past(sequence) {
            let is_late = self.shared.progress.wait_until(&mut queue, deadline).timed_out();
            if is_late && !queue.is_past(sequence) {
                return Err(NotFlushed { waiting: queue.notices.len(), waited: wait });
            }
        }
        Ok(())
    }

    /// What has been done so far.
    pub fn counts(&self) -> Counts {
        self.shared.queue.lock().counts
    }

    /// Ends the thread, at once or, if the kernel is holding it, when the kernel lets go. What waits is
    /// discarded.
    pub fn close(&self) {
        let mut queue = self.shared.queue.lock();
        queue.is_closed = true;
        drop(mem::take(&mut queue.notices));
        queue.waiting.clear();
        queue.pending.clear();
        queue.repeats.clear();
        queue.store_bytes = 0;
        self.shared.work.notify_all();
        self.shared.progress.notify_all();
        self.shared.written.notify_waiters();
    }
}

fn write_all(shared: &Shared, device: &Device) {
    let mut queue = shared.queue.lock();
    loop {
        if queue.is_closed {
            return;
        }
        let first = queue.pop();
        let is_first = first.is_some();
        let Some(notice) = first.or_else(|| queue.pop_repeat(Instant::now())) else {
            match queue.repeats.front().map(|(due, _)| *due) {
                Some(due) => drop(shared.work.wait_until(&mut queue, due)),
                None => shared.work.wait(&mut queue),
            }
            continue;
        };
        let outcome = MutexGuard::unlocked(&mut queue, || write(device, &notice));
        if let Err(errno) = outcome {
            tracing::warn!(%errno, notice = %describe(&notice), "the kernel refused a notice");
        }
        queue.finished(&notice, outcome);
        if is_first {
            queue.repeat_later(notice, Instant::now());
        }
        shared.progress.notify_all();
        shared.written.notify_waiters();
    }
}

/// Without names and payloads: they are the user's, and may be long.
fn describe(notice: &Notice) -> String {
    match notice {
        Notice::Entry { parent, name, how } => {
            format!("Entry {{ parent: {parent}, name: {} bytes, how: {how:?} }}", name.len())
        }
        Notice::Delete { parent, child, name } => {
            format!("Delete {{ parent: {parent}, child: {child}, name: {} bytes }}", name.len())
        }
        Notice::Store { node, offset, bytes } => {
            format!("Store {{ node: {node}, offset: {offset}, {} bytes }}", bytes.len())
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize) -> Notice {
        Notice::Entry { parent: 1, name: number.to_string().into_bytes(), how: Forgetting::Expire }
    }

    fn inode(node: usize) -> Notice {
        Notice::Inode { node: node as u64 }
    }

    fn all() -> AllNames {
        AllNames::new(Forgetting::Expire, Vec::new)
    }

    fn filled(all_names: Option<AllNames>, notice: fn(usize) -> Notice) -> Queue {
        let mut queue = Queue::new(all_names);
        for number in 0..NOTICES_QUEUED_MAX {
            assert!(matches!(queue.push(notice(number)), Taken::Yes));
        }
        assert_eq!(queue.notices.len(), NOTICES_QUEUED_MAX);
        queue
    }

    #[test]
    fn a_notice_that_waits_already_is_not_queued_twice() {
        let mut queue = Queue::new(None);
        let range = Notice::Range { node: 1, offset: 0, length: 10 };
        for notice in [inode(1), inode(1), range, Notice::Attributes { node: 1 }, entry(1), entry(1)] {
            assert!(matches!(queue.push(notice), Taken::Yes));
        }
        assert_eq!(queue.notices.len(), 2);
        assert_eq!(queue.counts.merged, 4);
    }

    #[test]
    fn a_change_during_the_write_of_its_notice_is_queued_again() {
        let mut queue = Queue::new(None);
        let _ = queue.push(inode(1));
        assert_eq!(queue.pop(), Some(inode(1)));
        let _ = queue.push(inode(1));
        assert_eq!(queue.notices.len(), 1);
    }

    #[test]
    fn a_node_is_behind_until_all_notices_about_it_are_written() {
        let mut queue = Queue::new(None);
        let is_behind = |queue: &Queue| [1, 2].map(|node| queue.pending.contains_key(&node));
        let _ = (queue.push(inode(1)), queue.push(inode(1)), queue.push(entry(2)));
        assert_eq!(is_behind(&queue), [true, false]);
        let first = queue.pop().expect("it waits");
        // The kernel may have acted before what is told now.
        let _ = queue.push(inode(1));
        queue.finished(&first, Ok(Effect::Applied));
        assert_eq!(is_behind(&queue), [true, false]);
        while let Some(notice) = queue.pop() {
            queue.finished(&notice, Ok(Effect::Absent));
        }
        assert_eq!(is_behind(&queue), [false, false]);
    }

    #[test]
    fn bytes_stored_in_between_are_invalidated_too() {
        let mut queue = Queue::new(None);
        let _ = queue.push(inode(1));
        let _ = queue.push(Notice::Store { node: 1, offset: 0, bytes: Bytes::from_static(b"x") });
        let _ = queue.push(inode(1));
        assert_eq!(queue.notices.len(), 3);
    }

    #[test]
    fn the_expiry_of_a_name_is_written_once_more_and_no_third_time() {
        let mut queue = Queue::new(Some(all()));
        let now = Instant::now();
        let dropped = Notice::Entry { parent: 1, name: b"dropped".to_vec(), how: Forgetting::Drop };
        for notice in [inode(1), dropped, entry(1)] {
            queue.repeat_later(notice, now);
        }
        assert_eq!(queue.pop_repeat(now), None);
        assert_eq!(queue.pop_repeat(now + REPEATED_AFTER), Some(entry(1)));
        assert_eq!(queue.pop_repeat(now + REPEATED_AFTER), None);
    }

    #[test]
    fn too_many_expiries_to_be_repeated_become_one_of_all() {
        let all = all();
        let mut queue = Queue::new(Some(all.clone()));
        let now = Instant::now();
        (0..=NOTICES_QUEUED_MAX).for_each(|number| queue.repeat_later(entry(number), now));
        assert_eq!(queue.pop_repeat(now + REPEATED_AFTER), Some(Notice::AllNames(all)));
        assert_eq!(queue.pop_repeat(now + REPEATED_AFTER), None);
    }

    #[test]
    fn a_full_queue_of_names_becomes_one_notice() {
        let all = all();
        let mut queue = filled(Some(all.clone()), entry);
        assert!(matches!(queue.push(inode(1)), Taken::Yes));
        assert_eq!(queue.pop(), Some(Notice::AllNames(all)));
        assert_eq!(queue.pop(), Some(inode(1)));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_full_queue_gives_the_notice_back_when_nothing_can_be_merged() {
        for mut queue in [filled(Some(all()), inode), filled(None, entry)] {
            let extra = Notice::Inode { node: u64::MAX };
            assert!(matches!(queue.push(extra.clone()), Taken::Full(back) if back == extra));
        }
    }

    #[test]
    fn a_full_queue_drops_bytes_to_store() {
        let mut queue = filled(None, inode);
        let store = |length| Notice::Store { node: 1, offset: 0, bytes: vec![0; length].into() };
        assert!(matches!(queue.push(store(1)), Taken::Yes));
        let mut empty = Queue::new(None);
        assert!(matches!(empty.push(store(STORE_BYTES_QUEUED_MAX)), Taken::Yes));
        assert!(matches!(empty.push(store(1)), Taken::Yes));
        assert_eq!((queue.counts.dropped, empty.counts.dropped, empty.notices.len()), (1, 1, 1));
    }

    #[test]
    fn a_flush_waits_for_what_stands_for_the_names_before_it() {
        let all = Notice::AllNames(all());
        let Notice::AllNames(names) = &all else { unreachable!("it is") };
        let mut queue = filled(Some(names.clone()), entry);
        let before = queue.sequence;
        let _ = queue.push(inode(1));
        assert!(!queue.is_past(before));
        assert_eq!(queue.pop().as_ref(), Some(&all));
        assert!(!queue.is_past(before));
        queue.finished(&all, Ok(Effect::Applied));
        assert!(queue.is_past(before));
    }

    #[test]
    fn names_that_the_kernel_would_misread_are_not_written() {
        assert_eq!(name_length(b""), Err(Errno::INVAL));
        assert_eq!(name_length(b"a\0b"), Err(Errno::INVAL));
        assert_eq!(name_length(&[b'x'; abi::NAME_BYTES_MAX + 1]), Err(Errno::NAMETOOLONG));
        assert_eq!(name_length(b"ok"), Ok(2));
    }
}
