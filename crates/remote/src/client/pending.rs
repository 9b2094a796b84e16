//! Requests that wait for their answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use wire::agent::{Failure, Reply, RequestId, Sequence};

use super::error::{CallError, LinkLost};

/// How far beyond its credit an agent may go on a stream before that is taken for an attack: one page of the largest
/// size, and the difference of two estimates.
const STREAM_OVERDRAFT_BYTES: usize = 4 << 20;

pub(super) type Answer = Result<(Reply, Bytes), CallError>;

/// One of the replies of a streamed request.
pub(super) struct Page {
    pub(super) answer: Answer,
    /// What it counts against the stream's credit.
    pub(super) bytes: usize,
}

/// Who gets the answer.
pub(super) enum Waiter {
    Call(oneshot::Sender<Answer>),
    Stream(StreamWaiter),
    /// Nobody any more; the agent answers all the same.
    Nobody,
}

pub(super) struct StreamWaiter {
    pub(super) pages: mpsc::UnboundedSender<Page>,
    /// Bytes delivered and not yet taken.
    pub(super) held: Arc<AtomicUsize>,
    pub(super) window: usize,
}

/// A reply as it came off the stream.
pub(super) struct Arrived {
    pub(super) id: RequestId,
    pub(super) last: bool,
    pub(super) body: Result<Reply, Failure>,
    pub(super) payload: Bytes,
    /// What the frame counts against a stream's credit.
    pub(super) bytes: usize,
}

/// What a reply ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// Nothing: more replies come.
    More,
    /// The request, which was the session's mutation of this number, 0 if it was none.
    Last(Sequence),
}

struct Entry {
    waiter: Waiter,
    sequence: Sequence,
}

/// The table of unanswered requests.
pub(super) struct Pending {
    table: Mutex<Table>,
}

struct Table {
    entries: HashMap<RequestId, Entry>,
    next: u64,
    lost: Option<LinkLost>,
}

impl Pending {
    pub(super) fn new() -> Pending {
        Pending { table: Mutex::new(Table { entries: HashMap::new(), next: 0, lost: None }) }
    }

    /// The next unused id.
    pub(super) fn next_id(&self) -> RequestId {
        let mut table = self.table.lock();
        table.next += 1;
        RequestId(table.next)
    }

    /// Waits for answers to `id`. A table that has been closed answers at once.
    pub(super) fn insert(&self, id: RequestId, sequence: Sequence, waiter: Waiter) {
        let mut table = self.table.lock();
        match table.lost.clone() {
            None => {
                table.entries.insert(id, Entry { waiter, sequence });
            }
            Some(lost) => {
                drop(table);
                waiter.lose(lost);
            }
        }
    }

    /// Nobody waits for `id` any more. False if it has been answered.
    pub(super) fn abandon(&self, id: RequestId) -> bool {
        let mut table = self.table.lock();
        let Some(entry) = table.entries.get_mut(&id) else { return false };
        let waiter = std::mem::replace(&mut entry.waiter, Waiter::Nobody);
        drop(table);
        drop(waiter);
        true
    }

    /// Hands a reply to whoever waits for it. An error is a breach of the protocol.
    pub(super) fn deliver(&self, reply: Arrived) -> Result<Delivered, LinkLost> {
        let Arrived { id, last, body, payload, bytes } = reply;
        let answer = body.map(|reply| (reply, payload)).map_err(CallError::Failed);
        let mut table = self.table.lock();
        if last {
            let Some(entry) = table.entries.remove(&id) else { return Err(unasked(id)) };
            drop(table);
            entry.waiter.finish(answer, bytes)?;
            return Ok(Delivered::Last(entry.sequence));
        }
        match table.entries.get(&id).map(|entry| &entry.waiter) {
            None => Err(unasked(id)),
            Some(Waiter::Call(_)) => Err(LinkLost::Protocol(format!(
                "request {} has one reply, and the agent announced more",
                id.0
            ))),
            Some(Waiter::Stream(stream)) => stream.page(answer, bytes).map(|()| Delivered::More),
            Some(Waiter::Nobody) => Ok(Delivered::More),
        }
    }

    /// Ends every request, now and from now on. Returns false if that had been done.
    pub(super) fn close(&self, lost: &LinkLost) -> bool {
        let mut table = self.table.lock();
        if table.lost.is_some() {
            return false;
        }
        table.lost = Some(lost.clone());
        let entries = std::mem::take(&mut table.entries);
        drop(table);
        for entry in entries.into_values() {
            entry.waiter.lose(lost.clone());
        }
        true
    }

    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.table.lock().entries.len()
    }
}

fn unasked(id: RequestId) -> LinkLost {
    LinkLost::Protocol(format!("a reply to request {}, which is not waiting for one", id.0))
}

impl Waiter {
    fn finish(self, answer: Answer, bytes: usize) -> Result<(), LinkLost> {
        match self {
            // Whoever waited may have gone away at this very moment: then nobody wants it.
            Waiter::Call(sender) => drop(sender.send(answer)),
            Waiter::Stream(stream) => stream.page(answer, bytes)?,
            Waiter::Nobody => {}
        }
        Ok(())
    }

    fn lose(self, lost: LinkLost) {
        let answer = Err(CallError::Lost(lost));
        match self {
            Waiter::Call(sender) => drop(sender.send(answer)),
            Waiter::Stream(stream) => drop(stream.pages.send(Page { answer, bytes: 0 })),
            Waiter::Nobody => {}
        }
    }
}

impl StreamWaiter {
    fn page(&self, answer: Answer, bytes: usize) -> Result<(), LinkLost> {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > self.window + STREAM_OVERDRAFT_BYTES {
            return Err(LinkLost::Protocol(format!(
                "a stream of {held} bytes against a credit of {}",
                self.window
            )));
        }
        // The receiver may have gone away at this very moment: then nobody wants it.
        drop(self.pages.send(Page { answer, bytes }));
        Ok(())
    }
}
