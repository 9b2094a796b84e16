//! Requests that wait for their answers.
//!
//! In a session that outlives its streams each request is kept with what it takes to send it again. It keeps its id: ids
//! are not used twice in a session, so not in a stream either.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use wire::agent::file::{FileReply, FileRequest};
use wire::agent::process::{ProcessReply, ProcessRequest};
use wire::agent::{ClientFrame, Failure, Reply, Request, RequestId, Sequence};
use wire::frame::encode_head;

use super::error::{CallError, LinkLost};
use super::flight::Departure;
use super::lanes::Outgoing;
use super::outbox::{Generation, Lane};
use super::repeat::{Rule, rule};

/// How far beyond its credit an agent may go on a stream before that is taken for an attack: one page of the largest
/// size, and the difference of two estimates.
const STREAM_OVERDRAFT_BYTES: usize = 4 << 20;

/// How often a request may be under way when a side says that the other breaks the protocol. It may be the cause: two
/// streams that break by chance are rare, three are not.
const BREACHES_MAX: u8 = 3;

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
    /// Bytes delivered for which no credit has been given yet. Less of them are only with the outbox locked, so that what is
    /// asked for again on another stream and what credit is given for on it agree.
    pub(super) held: Arc<AtomicUsize>,
    pub(super) window: usize,
}

/// How long a request waits for a machine that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// The session's offline timeout.
    Some,
    /// For as long as anybody tries to reach the machine.
    Endless,
}

/// What it takes to send a request again.
#[derive(Clone, Debug)]
pub(super) struct Again {
    pub(super) request: Request,
    pub(super) payload: Bytes,
}

/// A reply as it came off the stream.
pub(super) struct Arrived {
    pub(super) id: RequestId,
    pub(super) body: Result<Reply, Failure>,
    pub(super) payload: Bytes,
    /// What the frame counts against a stream's credit.
    pub(super) bytes: usize,
}

/// When a request that tells of its stream was sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sent {
    /// Its answer is short and comes at once: it shows how long the way is.
    Prompt(Instant),
    /// It asks for bytes, which are on their way from then on.
    Read(Departure),
    /// It tells nothing.
    Unseen,
}

/// An unanswered request.
pub(super) struct Entry {
    pub(super) waiter: Waiter,
    pub(super) sequence: Sequence,
    /// None in a session that ends with its stream.
    pub(super) again: Option<Again>,
    /// The stream that it was last sent on; none if it has not been sent.
    pub(super) generation: Generation,
    pub(super) sent: Sent,
    pub(super) lane: Lane,
    pub(super) patience: Patience,
    /// What it holds of the limit on bytes that wait.
    pub(super) share: usize,
    /// Whether its number was set aside: then somebody else says when it has been answered for good.
    pub(super) set_aside: bool,
    /// It may have been carried out in a session of the agent that is gone.
    pub(super) doubtful: bool,
    pub(super) progress: Progress,
    pub(super) breaches: u8,
}

/// How far a streamed request has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Whether a page has been delivered.
    touched: bool,
    /// Bytes of a process's output that have been delivered.
    output_bytes: u64,
    /// The next page of a watch says that changes were missed.
    rescan: bool,
}

/// What became of a request whose caller is gone.
pub(super) enum Abandoned {
    /// It has been answered.
    Answered,
    /// The agent has it, and is to be told.
    Asked,
    /// It is not going to be sent.
    Withdrawn(Box<Entry>),
}

/// A mutation of which it is not known whether it was carried out.
pub(super) struct Doubt {
    pub(super) id: RequestId,
    pub(super) sequence: Sequence,
    pub(super) again: Again,
}

/// The table of unanswered requests.
pub(super) struct Pending {
    table: Mutex<Table>,
}

struct Table {
    entries: HashMap<RequestId, Entry>,
    next: u64,
    lost: Option<LinkLost>,
    offline: Option<Offline>,
}

/// Who is not to wait for the machine any more.
#[derive(Clone, Debug)]
struct Offline {
    lost: LinkLost,
    everybody: bool,
}

impl Table {
    fn refusal(&self, patience: Patience, lane: Lane) -> Option<LinkLost> {
        let offline = self.offline.as_ref();
        let offline = offline.filter(|offline| lane == Lane::Ordinary && offline.concerns(patience));
        self.lost.as_ref().or(offline.map(|offline| &offline.lost)).cloned()
    }

    fn remove_if(&mut self, unwanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        self.entries.extract_if(|_, entry| unwanted(entry)).map(|(_, entry)| entry).collect()
    }
}

impl Offline {
    fn concerns(&self, patience: Patience) -> bool {
        self.everybody || patience == Patience::Some
    }
}

impl Pending {
    pub(super) fn new() -> Pending {
        let table = Table { entries: HashMap::new(), next: 0, lost: None, offline: None };
        Pending { table: Mutex::new(table) }
    }

    /// The next unused id.
    pub(super) fn next_id(&self) -> RequestId {
        let mut table = self.table.lock();
        table.next += 1;
        RequestId(table.next)
    }

    /// The last id that was used.
    pub(super) fn last_id(&self) -> RequestId {
        RequestId(self.table.lock().next)
    }

    /// Waits for answers to `id`. Gives it back with the reason if nothing will ever come.
    pub(super) fn insert(&self, id: RequestId, entry: Entry) -> Option<(Box<Entry>, LinkLost)> {
        let mut table = self.table.lock();
        match table.refusal(entry.patience, entry.lane) {
            None => {
                table.entries.insert(id, entry);
                None
            }
            Some(lost) => Some((Box::new(entry), lost)),
        }
    }

    /// Why a request of such patience is refused now.
    pub(super) fn refusal(&self, patience: Patience, lane: Lane) -> Option<LinkLost> {
        self.table.lock().refusal(patience, lane)
    }

    /// Nobody waits for `id` any more. `current` is the stream that there is, if any.
    pub(super) fn abandon(&self, id: RequestId, current: Option<Generation>) -> Abandoned {
        let mut table = self.table.lock();
        let Some(entry) = table.entries.get_mut(&id) else { return Abandoned::Answered };
        if current != Some(entry.generation) {
            return match table.entries.remove(&id) {
                Some(entry) => Abandoned::Withdrawn(Box::new(entry)),
                None => Abandoned::Answered,
            };
        }
        let waiter = std::mem::replace(&mut entry.waiter, Waiter::Nobody);
        drop(table);
        drop(waiter);
        Abandoned::Asked
    }

    /// Takes out a request whose last reply has come.
    pub(super) fn take(&self, id: RequestId) -> Option<Entry> {
        self.table.lock().entries.remove(&id)
    }

    /// Hands a reply that is not the last to whoever waits for it. An error is a breach of the protocol.
    pub(super) fn deliver(&self, reply: Arrived) -> Result<(), LinkLost> {
        let Arrived { id, body, payload, bytes } = reply;
        let mut table = self.table.lock();
        let Some(entry) = table.entries.get_mut(&id) else { return Err(unasked(id)) };
        let stream = match &entry.waiter {
            Waiter::Stream(stream) => stream,
            Waiter::Nobody => return Ok(()),
            Waiter::Call(_) => {
                let breach = format!("request {} has one reply, and the agent announced more", id.0);
                return Err(LinkLost::Protocol(breach));
            }
        };
        let mut answer = body.map(|reply| (reply, payload)).map_err(CallError::Failed);
        if let (Some(again), Ok((reply, payload))) = (&mut entry.again, &mut answer)
            && entry.progress.note(&mut again.request, reply, payload.len()) == Repeated::Known
        {
            return Ok(());
        }
        stream.page(answer, bytes)
    }

    /// Ends every request, now and from now on. `None` if that had been done.
    pub(super) fn close(&self, lost: &LinkLost) -> Option<Vec<Entry>> {
        let mut table = self.table.lock();
        if table.lost.is_some() {
            return None;
        }
        table.lost = Some(lost.clone());
        Some(std::mem::take(&mut table.entries).into_values().collect())
    }

    /// The stream is gone. Takes out what cannot go on with another: what nobody waits for, what belongs to the
    /// recovery, streams that cannot be resumed where they stopped, and what may be the cause.
    pub(super) fn detach(&self, lost: &LinkLost) -> Vec<Entry> {
        let mut table = self.table.lock();
        if matches!(lost, LinkLost::Protocol(_) | LinkLost::Closing(_)) {
            for entry in table.entries.values_mut().filter(|entry| entry.generation != Generation::default())
            {
                entry.breaches += 1;
            }
        }
        table.remove_if(|entry| {
            let is_unwanted = matches!(entry.waiter, Waiter::Nobody) || entry.lane == Lane::Recovery;
            is_unwanted || entry.breaches >= BREACHES_MAX || !entry.can_go_on()
        })
    }

    /// Takes out who is not to wait any more, and refuses the like of them until [`Pending::go_online`].
    pub(super) fn go_offline(&self, lost: &LinkLost, everybody: bool) -> Vec<Entry> {
        let mut table = self.table.lock();
        let offline = Offline { lost: lost.clone(), everybody };
        table.offline = Some(offline.clone());
        table.remove_if(|entry| entry.lane == Lane::Ordinary && offline.concerns(entry.patience))
    }

    pub(super) fn go_online(&self) {
        self.table.lock().offline = None;
    }

    /// What has to be sent on the new stream, in the order in which it was asked, and how much of it was sent before.
    pub(super) fn send_again(&self, current: Generation) -> (Vec<Outgoing>, usize) {
        let mut table = self.table.lock();
        let waiting =
            |entry: &Entry| entry.lane == Lane::Ordinary && entry.generation != current && !entry.doubtful;
        let mut entries: Vec<_> = table.entries.iter_mut().filter(|(_, entry)| waiting(entry)).collect();
        entries.sort_unstable_by_key(|(id, _)| **id);
        let retries = entries.iter().filter(|(_, entry)| entry.generation != Generation::default()).count();
        (entries.into_iter().filter_map(|(id, entry)| entry.send_again(*id, current)).collect(), retries)
    }

    /// The agent's session is another: what was sent to the last one may or may not have been carried out. Under numbers
    /// up to `inherited` a predecessor has sent what has been set aside.
    pub(super) fn doubt_all(&self, inherited: Sequence) {
        let mut table = self.table.lock();
        for entry in table.entries.values_mut() {
            let is_predecessors = entry.set_aside && entry.sequence <= inherited;
            let was_sent = entry.generation != Generation::default() || is_predecessors;
            entry.doubtful |= was_sent && entry.lane == Lane::Ordinary && entry.is_risky();
        }
    }

    /// The mutations in doubt, in their order.
    pub(super) fn doubts(&self) -> Vec<Doubt> {
        let table = self.table.lock();
        let doubtful = table.entries.iter().filter(|(_, entry)| entry.doubtful);
        let mut doubts: Vec<_> = doubtful
            .filter_map(|(id, entry)| {
                Some(Doubt { id: *id, sequence: entry.sequence, again: entry.again.clone()? })
            })
            .collect();
        doubts.sort_unstable_by_key(|doubt| doubt.id);
        doubts
    }

    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.table.lock().entries.len()
    }
}

pub(super) fn unasked(id: RequestId) -> LinkLost {
    LinkLost::Protocol(format!("a reply to request {}, which is not waiting for one", id.0))
}

impl Entry {
    /// Whether doing it twice may do harm.
    pub(super) fn is_risky(&self) -> bool {
        let Some(Again { request: Request::File(request), .. }) = &self.again else { return false };
        self.sequence != Sequence(0) && rule(request) != Rule::Repeat
    }

    /// Whether another stream can go on where the last one stopped.
    fn can_go_on(&self) -> bool {
        let Some(again) = &self.again else { return false };
        let only_from_the_start = matches!(
            again.request,
            Request::File(
                FileRequest::Walk { .. }
                    | FileRequest::Find { .. }
                    | FileRequest::RemoveTree { .. }
                    | FileRequest::Search { .. }
            )
        );
        !self.progress.touched || !only_from_the_start
    }

    /// The frame that asks for what is still missing.
    fn send_again(&mut self, id: RequestId, current: Generation) -> Option<Outgoing> {
        let Again { request, payload } = self.again.clone()?;
        let body = self.rest_of(request);
        let what = super::request::what(id, &body);
        let frame = ClientFrame::Request { id, sequence: self.sequence, body };
        // It has been encoded before, and is no longer than it was.
        let head = encode_head(&frame, payload.len()).ok()?;
        self.generation = current;
        self.sent = Sent::Unseen;
        Some(Outgoing { head, payload, share: std::mem::take(&mut self.share), what })
    }

    fn rest_of(&mut self, mut request: Request) -> Request {
        let mut owed = 0;
        if let Waiter::Stream(stream) = &self.waiter
            && let Some(window) = super::request::window_mut(&mut request)
        {
            // What has been delivered is paid for when it has been taken.
            owed = u32::try_from(stream.held.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
            *window = window.saturating_sub(owed).max(1);
        }
        let Progress { touched, output_bytes, .. } = self.progress;
        match request {
            Request::Process(ProcessRequest::Spawn { process, window, .. }) if touched => {
                Request::Process(ProcessRequest::Follow { process, from: output_bytes, window, owed })
            }
            Request::Process(ProcessRequest::Follow { process, from, window, .. }) => {
                let from = from + output_bytes;
                Request::Process(ProcessRequest::Follow { process, from, window, owed })
            }
            Request::File(FileRequest::Watch { .. }) => {
                self.progress.rescan = touched;
                request
            }
            other => other,
        }
    }
}

/// Whether a page was delivered on an earlier stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeated {
    New,
    Known,
}

impl Progress {
    /// Takes note of a page, so that the request can go on behind it.
    fn note(&mut self, request: &mut Request, reply: &mut Reply, payload_bytes: usize) -> Repeated {
        let first = !std::mem::replace(&mut self.touched, true);
        match (request, reply) {
            (
                Request::File(FileRequest::List { from, .. }),
                Reply::File(FileReply::Listing { entries, .. }),
            ) => {
                if let Some(last) = entries.last() {
                    *from = last.cookie;
                }
            }
            (_, Reply::File(FileReply::Watched { rescan, .. })) => {
                *rescan |= std::mem::take(&mut self.rescan)
            }
            (_, Reply::Process(ProcessReply::Output(_))) => self.output_bytes += payload_bytes as u64,
            // It is as good as here: what comes next is behind it.
            (_, Reply::Process(ProcessReply::Dropped { bytes, .. })) => self.output_bytes += *bytes,
            (_, Reply::Process(ProcessReply::Started { .. })) if !first => return Repeated::Known,
            _ => {}
        }
        Repeated::New
    }
}

impl Waiter {
    pub(super) fn finish(self, answer: Answer, bytes: usize) -> Result<(), LinkLost> {
        match self {
            // Whoever waited may have gone away at this very moment: then nobody wants it.
            Waiter::Call(sender) => drop(sender.send(answer)),
            Waiter::Stream(stream) => stream.page(answer, bytes)?,
            Waiter::Nobody => {}
        }
        Ok(())
    }

    pub(super) fn lose(self, lost: LinkLost) {
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
