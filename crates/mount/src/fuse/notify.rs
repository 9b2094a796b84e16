//! What the kernel is told unasked: that something it remembers no longer holds.
//!
//! The kernel takes the inode's lock to carry a notice out, and a request on that inode may hold the lock
//! until it is answered. So a thread that answers requests must never write a notice, nor wait for one to be
//! written. A [`Notifier`] has a thread of its own for it and a queue of [`NOTICES_QUEUED_MAX`], besides [`NAMES_QUEUED_MAX`] names:
//!
//! - A notice that is already waiting is not queued again, and a range is not queued behind its whole inode.
//! - When the queue is full, [`Notice::Store`] is dropped: it only saves a later READ.
//! - Any other notice must not be lost: [`Notifier::send`] waits for room and [`Notifier::try_send`] gives the notice back.
//!   Only a thread that answers no requests may call `send`.
//! - The expiry of a name is written a second time, [`REPEATED_AFTER`] later; see below. When so many wait for that, nothing else
//!   is written before.
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
use std::{io, mem, thread};
use thiserror::Error;
use zerocopy::IntoBytes;

/// Notices that wait, without names.
pub const NOTICES_QUEUED_MAX: usize = 8192;

/// Names that wait, and those that wait to be written again: the names of a large tree can change at once, as a checkout or the
/// removal of it does it, without anyone waiting. That is about 16 MiB with names of the usual length, and 40 MiB with the longest.
pub const NAMES_QUEUED_MAX: usize = 128 << 10;

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
    /// A poller with this handle should ask again.
    PollWakeup {
        /// From the POLL request.
        kernel_handle: u64,
    },
    /// Requests that another process took through any descriptor of the connection and did not answer are to
    /// be queued again, with the resend bit. EINVAL before Linux 6.9.
    Resend,
}

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
            // Where the notice itself takes the lock, and no listing is cached, it is enough.
            if !device.flavour().notices_wait {
                expire(device, *node, NO_NAME, Forgetting::Expire)?;
            }
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
        Notice::PollWakeup { kernel_handle } => {
            post(device, code::POLL, &[abi::NotifyPollWakeupOut { kh: *kernel_handle }.as_bytes()])
        }
        Notice::Resend => post(device, code::RESEND, &[]),
    }
}

fn invalidate(device: &Device, ino: u64, off: i64, len: i64) -> Result<Effect, Errno> {
    post(device, code::INVAL_INODE, &[abi::NotifyInvalInodeOut { ino, off, len }.as_bytes()])
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
        Notice::PollWakeup { kernel_handle } => Key::PollWakeup(*kernel_handle),
        Notice::Store { .. } | Notice::Resend => return None,
    })
}

struct Queued {
    sequence: u64,
    notice: Notice,
}

/// The queue without its thread: no I/O, no waiting.
struct Queue {
    notices: VecDeque<Queued>,
    /// Of the notices that another one need not repeat. An invalidation is not among them once bytes of its
    /// node are queued behind it: they are to be invalidated too.
    waiting: HashSet<Key>,
    store_bytes: usize,
    /// How many notices about each node wait or are being written.
    pending: HashMap<u64, usize>,
    /// How many of them are names.
    names: usize,
    /// To be written a second time, and when: the earliest first, [`NAMES_QUEUED_MAX`] of them at the most.
    repeats: VecDeque<(Instant, Notice)>,
    sequence: u64,
    writing: Option<u64>,
    is_closed: bool,
    counts: Counts,
}

enum Taken {
    Yes,
    Full(Notice),
}

impl Queue {
    fn new() -> Self {
        Self {
            notices: VecDeque::new(),
            waiting: HashSet::new(),
            store_bytes: 0,
            pending: HashMap::new(),
            repeats: VecDeque::new(),
            sequence: 0,
            names: 0,
            writing: None,
            is_closed: false,
            counts: Counts::default(),
        }
    }

    fn push(&mut self, notice: Notice) -> Taken {
        if self.covers(&notice) {
            self.counts.merged += 1;
            return Taken::Yes;
        }
        let is_full = match is_name(&notice) {
            true => self.names >= NAMES_QUEUED_MAX,
            false => self.notices.len() - self.names >= NOTICES_QUEUED_MAX,
        };
        if let Notice::Store { node, bytes, .. } = &notice {
            if is_full || self.store_bytes + bytes.len() > STORE_BYTES_QUEUED_MAX {
                self.counts.dropped += 1;
                return Taken::Yes;
            }
            self.store_bytes += bytes.len();
            let node = *node;
            self.waiting.retain(|key| !concerns(key, node));
        }
        if is_full {
            return Taken::Full(notice);
        }
        self.waiting.extend(key(&notice));
        if let Some(node) = taken_back(&notice) {
            *self.pending.entry(node).or_default() += 1;
        }
        self.names += usize::from(is_name(&notice));
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

    /// The next notice to write. Its key is given up before the write: a change that comes during the write
    /// is queued again, since the kernel may have acted before it. None while there is no room for its being repeated.
    fn pop(&mut self) -> Option<Notice> {
        if self.repeats.len() >= NAMES_QUEUED_MAX {
            return None;
        }
        let Queued { sequence, notice } = self.notices.pop_front()?;
        self.names -= usize::from(is_name(&notice));
        if let Notice::Store { bytes, .. } = &notice {
            self.store_bytes -= bytes.len();
        }
        if let Some(key) = key(&notice) {
            self.waiting.remove(&key);
        }
        self.writing = Some(sequence);
        Some(notice)
    }

    /// Has the expiry of a name written again later.
    fn repeat_later(&mut self, notice: Notice, now: Instant) {
        if matches!(notice, Notice::Entry { how: Forgetting::Expire, .. }) {
            self.repeats.push_back((now + REPEATED_AFTER, notice));
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

fn is_name(notice: &Notice) -> bool {
    matches!(notice, Notice::Entry { .. } | Notice::Delete { .. })
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
    /// Starts the thread.
    pub fn start(device: Arc<Device>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::new()),
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
        queue.names = 0;
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

    fn filled(number: usize, notice: fn(usize) -> Notice) -> Queue {
        let mut queue = Queue::new();
        for number in 0..number {
            assert!(matches!(queue.push(notice(number)), Taken::Yes));
        }
        assert_eq!(queue.notices.len(), number);
        queue
    }

    #[test]
    fn a_notice_that_waits_already_is_not_queued_twice() {
        let mut queue = Queue::new();
        let range = Notice::Range { node: 1, offset: 0, length: 10 };
        for notice in [inode(1), inode(1), range, Notice::Attributes { node: 1 }, entry(1), entry(1)] {
            assert!(matches!(queue.push(notice), Taken::Yes));
        }
        assert_eq!(queue.notices.len(), 2);
        assert_eq!(queue.counts.merged, 4);
    }

    #[test]
    fn a_change_during_the_write_of_its_notice_is_queued_again() {
        let mut queue = Queue::new();
        let _ = queue.push(inode(1));
        assert_eq!(queue.pop(), Some(inode(1)));
        let _ = queue.push(inode(1));
        assert_eq!(queue.notices.len(), 1);
    }

    #[test]
    fn a_node_is_behind_until_all_notices_about_it_are_written() {
        let mut queue = Queue::new();
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
        let mut queue = Queue::new();
        let _ = queue.push(inode(1));
        let _ = queue.push(Notice::Store { node: 1, offset: 0, bytes: Bytes::from_static(b"x") });
        let _ = queue.push(inode(1));
        assert_eq!(queue.notices.len(), 3);
    }

    #[test]
    fn the_expiry_of_a_name_is_written_once_more_and_no_third_time() {
        let mut queue = Queue::new();
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
    fn while_too_many_wait_to_be_repeated_nothing_else_is_written() {
        let mut queue = Queue::new();
        let now = Instant::now();
        (0..NAMES_QUEUED_MAX).for_each(|number| queue.repeat_later(entry(number), now));
        let _ = queue.push(inode(1));
        assert_eq!(queue.pop(), None);
        assert_eq!(queue.pop_repeat(now + REPEATED_AFTER), Some(entry(0)));
        assert_eq!(queue.pop(), Some(inode(1)));
    }

    #[test]
    fn a_full_queue_gives_the_notice_back() {
        for (most, notice) in [(NAMES_QUEUED_MAX, entry as fn(usize) -> Notice), (NOTICES_QUEUED_MAX, inode)]
        {
            let mut queue = filled(most, notice);
            let extra = notice(most);
            assert!(matches!(queue.push(extra.clone()), Taken::Full(back) if back == extra));
            assert_eq!(queue.pop(), Some(notice(0)));
            assert!(matches!(queue.push(extra), Taken::Yes));
        }
    }

    #[test]
    fn names_leave_room_for_all_else() {
        let mut queue = filled(NAMES_QUEUED_MAX, entry);
        for node in 0..NOTICES_QUEUED_MAX {
            assert!(matches!(queue.push(inode(node)), Taken::Yes));
        }
        assert!(matches!(queue.push(inode(NOTICES_QUEUED_MAX)), Taken::Full(_)));
    }

    #[test]
    fn a_full_queue_drops_bytes_to_store() {
        let mut queue = filled(NOTICES_QUEUED_MAX, inode);
        let store = |length| Notice::Store { node: 1, offset: 0, bytes: vec![0; length].into() };
        assert!(matches!(queue.push(store(1)), Taken::Yes));
        let mut empty = Queue::new();
        assert!(matches!(empty.push(store(STORE_BYTES_QUEUED_MAX)), Taken::Yes));
        assert!(matches!(empty.push(store(1)), Taken::Yes));
        assert_eq!((queue.counts.dropped, empty.counts.dropped, empty.notices.len()), (1, 1, 1));
    }

    #[test]
    fn names_that_the_kernel_would_misread_are_not_written() {
        assert_eq!(name_length(b""), Err(Errno::INVAL));
        assert_eq!(name_length(b"a\0b"), Err(Errno::INVAL));
        assert_eq!(name_length(&[b'x'; abi::NAME_BYTES_MAX + 1]), Err(Errno::NAMETOOLONG));
        assert_eq!(name_length(b"ok"), Ok(2));
    }
}
