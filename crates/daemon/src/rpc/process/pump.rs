//! What goes on between a client and a process.
//!
//! ```text
//!            the client's words ─► inbox ─► requests ─┐
//!   client                                            ├─► agent
//!            notifications ◄─── events of a stream ◄──┘
//! ```
//!
//! A process is left to itself in this order: it is written down, so that no daemon forgets it; its machine is told, and may
//! refuse; the client is told; and what was typed before goes to the machine. While the machine is away it cannot be asked:
//! it is told when it is back, by whoever [watches](crate::process) the process if this daemon is gone by then.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::remote::client::{AgentClient, CallError, ProcessEvent, ProcessStream, TypedCall};
use tokio::sync::oneshot;
use wire::agent::Errno;
use wire::agent::process::{DETACHED_MAX, Output, ProcessId as FarId};
use wire::api::file::Content;
use wire::api::id::ProcessId;
use wire::api::process::{
    Dropped, Exited, Outcome, STREAM_CHUNK_BYTES_MAX, Stays, Stderr, StdinTaken, Stdout,
};

use super::inbox::{Inbox, Input, Order};
use super::{EAGAIN, far_size, put};
use crate::connection::{CommandSession, Lease};
use crate::database::{Database, ProcessRow};
use crate::failure::chain;
use crate::owner::{Event, OwnerHandle};
use crate::process::{ESRCH, outcome, state};
use crate::session::{ClientGone, ClientHandle};

/// How long a client that leaves a process waits for the machine. One that is known to be away is not waited for.
const DETACH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a machine is waited for that is to be told that nobody wants a process any more: beyond it, the process has been
/// hung up there.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// What the agent says when somebody else follows the process.
const EINTR: Errno = Errno(4);

/// What it says when too much input waits for it: then it has taken none of it.
const ENOBUFS: Errno = Errno(105);

/// What who was attached to a process is told.
const REPLACED: &str = "somebody else has attached to it";

/// A process whose output goes to a client. Dropped, it is no longer wanted, and the agent ends it, if it is not detached.
pub struct RunningProcess {
    /// What the client calls it.
    pub id: ProcessId,
    /// What the client says to it.
    pub inbox: Arc<Inbox>,
    pub(super) far: FarId,
    pub(super) followed: Followed,
    /// How much input it had before this client's.
    pub(super) input_from: u64,
    /// What only the client that has started it has; none of one that is detached already.
    pub(super) own: Option<Own>,
    pub(super) way: Way,
}

/// The way to a process. When its client goes before it has ended, the way is kept until the machine knows that: otherwise
/// nobody would reach one that is away just then.
pub struct Way {
    commands: Arc<CommandSession>,
    lease: Option<Lease>,
}

impl Way {
    /// Through this connection, in this session.
    pub fn new(lease: Lease, commands: Arc<CommandSession>) -> Way {
        Way { commands, lease: Some(lease) }
    }

    /// There is nothing that the machine would have to be told. What is given back keeps it within reach.
    pub fn leave(mut self) -> Option<Lease> {
        self.lease.take()
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        // A daemon that ends has told the machine.
        let (Some(lease), Ok(runtime)) = (self.lease.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let commands = Arc::clone(&self.commands);
        runtime.spawn(async move {
            // It comes behind the cancelling.
            let told = commands.client.patient().describe();
            if !matches!(tokio::time::timeout(RELEASE_TIMEOUT, told).await, Ok(Ok(_))) {
                tracing::warn!("a process that nobody wants any more is hung up by its machine, later");
            }
            drop(lease);
        });
    }
}

/// The output of a process, and of one that is detached, who else may want it.
pub(super) struct Followed {
    pub stream: ProcessStream,
    /// Told when somebody else does.
    pub replaced: Option<oneshot::Receiver<()>>,
    /// Dropped behind the stream: whoever comes next waits for that, so that what this one has sent counts as sent.
    pub _over: Option<oneshot::Sender<()>>,
}

/// What the client that has started a process has of it.
pub(super) struct Own {
    /// Told why when the connection is to end.
    pub ended: oneshot::Receiver<String>,
    pub listed: Listed,
    /// What is written when it is detached.
    pub row: ProcessRow,
    pub database: Database,
}

/// The owner's knowledge of a process, which ends with this.
pub(super) struct Listed {
    pub id: ProcessId,
    pub code: Option<u8>,
    pub owner: OwnerHandle,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.owner.send_later(Event::ProcessEnded(self.id, self.code));
    }
}

/// Why nothing more goes on between a client and a process.
enum Parting {
    /// It has ended, or is lost.
    Ended(Outcome),
    /// Nobody is there to be told.
    ClientGone,
    /// The client leaves it to itself. The machine may still have to be told.
    Left(Option<TypedCall<()>>),
}

impl RunningProcess {
    /// Carries input and output until the process has ended, the client has gone, or it leaves the process to itself.
    pub async fn pump(self, client: ClientHandle, owner: OwnerHandle) {
        let RunningProcess { id, inbox, far, mut followed, input_from, mut own, way } = self;
        let commands = Arc::clone(&way.commands);
        let agent = &commands.client;
        let mut inputs = Inputs { id, far, from: input_from, agent: agent.clone(), asked: None };
        let parting = {
            let Followed { stream, replaced, .. } = &mut followed;
            let outputs = outputs(id, stream, &client);
            let inputs = inputs.carry(&inbox, &client);
            let orders = orders((id, far), &inbox, agent);
            tokio::pin!(outputs, inputs, orders);
            loop {
                tokio::select! {
                    ended = &mut outputs => break match ended {
                        Ok(outcome) => Parting::Ended(outcome),
                        Err(ClientGone) => Parting::ClientGone,
                    },
                    reason = told_to_end(&mut own, replaced) => break Parting::Ended(Outcome::Lost { reason }),
                    () = inbox.leaving() => match leave(own.as_ref(), far, &commands).await {
                        Ok(under_way) => break Parting::Left(under_way),
                        Err(Refusal::HasEnded) => {}
                        Err(Refusal::Because(reason)) => {
                            // If it has gone, that is seen by who carries the output.
                            let _ = client.notify(Stays { process: id, reason }).await;
                        }
                    },
                    never = &mut inputs => match never {},
                    never = &mut orders => match never {},
                }
            }
        };
        match (parting, own) {
            (Parting::ClientGone, _) => tracing::debug!(process = %id, "the client of a process has gone"),
            (Parting::Ended(outcome), Some(mut own)) => {
                let _lease = way.leave();
                (_, own.listed.code) = state(&outcome);
                exited(id, outcome, &client).await;
            }
            (Parting::Ended(outcome), None) => {
                let lease = way.leave();
                let is_seen = state(&outcome).1.is_some();
                if is_seen {
                    owner.send(Event::ProcessSeen(id, outcome.clone())).await;
                }
                exited(id, outcome, &client).await;
                if is_seen {
                    forget((id, far), commands, lease);
                }
            }
            (Parting::Left(under_way), own) => {
                let lease = way.leave();
                let rest = inputs.send_rest(&inbox);
                let listed = own.map(|Own { listed, row, .. }| (listed, row));
                if let Some((listed, row)) = &listed {
                    listed.owner.send(Event::ProcessDetached(Box::new(row.clone()))).await;
                }
                exited(id, Outcome::Detached, &client).await;
                tokio::spawn(async move {
                    // Until the agent knows, it is the stream's end that would end the process.
                    if let Some(detaching) = under_way
                        && let Err(error) = detaching.await
                    {
                        tracing::warn!(process = %id, error = chain(&error), "a process was not left to itself");
                    }
                    drop(followed);
                    for input in rest {
                        if let Err(error) = input.await {
                            tracing::debug!(process = %id, error = chain(&error), "input was not taken");
                        }
                    }
                    drop((listed, lease));
                });
            }
        }
    }
}

/// Waits until the process is not this client's any more, and says why.
async fn told_to_end(own: &mut Option<Own>, replaced: &mut Option<oneshot::Receiver<()>>) -> String {
    if let Some(own) = own {
        return (&mut own.ended).await.unwrap_or_else(|_| "the daemon ends".to_owned());
    }
    if let Some(somebody) = replaced
        && somebody.await.is_ok()
    {
        return REPLACED.to_owned();
    }
    // Nobody knows the process any more; its stream tells how it ended.
    *replaced = None;
    std::future::pending().await
}

/// Why a process is not left to itself.
enum Refusal {
    /// Its stream tells how.
    HasEnded,
    /// This is for a person.
    Because(String),
}

/// Has the machine leave a process to itself. Gives back what it has not answered yet.
async fn leave(
    own: Option<&Own>,
    far: FarId,
    commands: &CommandSession,
) -> Result<Option<TypedCall<()>>, Refusal> {
    let Some(Own { row, database, .. }) = own else { return Ok(None) };
    put(database, commands, row.clone()).await.map_err(|error| Refusal::Because(error.message))?;
    let mut detaching = commands.client.patient().process_detach(far);
    let patience = if commands.client.away().is_some() { Duration::ZERO } else { DETACH_TIMEOUT };
    let refusal = match tokio::time::timeout(patience, &mut detaching).await {
        Err(_) => return Ok(Some(detaching)),
        Ok(Ok(())) => return Ok(None),
        // It may have heard of it: who watches the process finds out.
        Ok(Err(CallError::Lost(_))) => return Ok(None),
        Ok(Err(CallError::Failed(failure))) if failure.errno == ESRCH => Refusal::HasEnded,
        Ok(Err(CallError::Failed(failure))) if failure.errno == EAGAIN => {
            Refusal::Because(format!("{DETACHED_MAX} detached processes run there already"))
        }
        Ok(Err(error)) => Refusal::Because(chain(&error)),
    };
    if let Err(error) = database.remove_process(row.id).await {
        tracing::error!(process = %row.id, %error, "a process that is not detached is not forgotten");
    }
    Err(refusal)
}

/// Tells the machine that the end of a process has been seen.
fn forget((id, far): (ProcessId, FarId), commands: Arc<CommandSession>, lease: Option<Lease>) {
    tokio::spawn(async move {
        if let Err(error) = commands.client.process_forget(far).await {
            tracing::debug!(process = %id, error = chain(&error), "the end of a process is kept there for a while");
        }
        drop(lease);
    });
}

/// The last word about a process.
async fn exited(id: ProcessId, outcome: Outcome, client: &ClientHandle) {
    if client.notify(Exited { process: id, outcome }).await.is_err() {
        tracing::debug!(process = %id, "the client of a process has gone");
    }
}

/// Carries what a process says, until it ends.
async fn outputs(
    id: ProcessId,
    stream: &mut ProcessStream,
    client: &ClientHandle,
) -> Result<Outcome, ClientGone> {
    let ended = loop {
        match stream.next().await {
            Some(Ok(ProcessEvent::Output(output, bytes))) => {
                for piece in bytes.chunks(STREAM_CHUNK_BYTES_MAX) {
                    let bytes = Content(piece.to_vec());
                    match output {
                        Output::Stdout => client.notify(Stdout { process: id, bytes }).await?,
                        Output::Stderr => client.notify(Stderr { process: id, bytes }).await?,
                    }
                }
            }
            Some(Ok(ProcessEvent::Dropped { bytes, unread })) => {
                client.notify(Dropped { process: id, bytes, unread }).await?;
            }
            Some(Ok(ProcessEvent::Ended(status))) => break outcome(status),
            Some(Ok(ProcessEvent::Started { .. })) | None => {
                break Outcome::Lost { reason: "the agent broke the protocol".to_owned() };
            }
            Some(Err(CallError::Failed(failure))) if failure.errno == EINTR => {
                break Outcome::Lost { reason: REPLACED.to_owned() };
            }
            Some(Err(error)) => break Outcome::Lost { reason: chain(&error) },
        }
    };
    Ok(ended)
}

/// A client's input on its way to a process: one request after the other.
struct Inputs {
    id: ProcessId,
    far: FarId,
    /// How many bytes came before.
    from: u64,
    agent: AgentClient,
    /// The request under way, and how many bytes it has.
    asked: Option<(TypedCall<()>, u64)>,
}

impl Inputs {
    fn ask(&mut self, Input { bytes, end }: Input) -> (TypedCall<()>, u64) {
        let count = bytes.len() as u64;
        let call = self.agent.process_input(self.far, self.from, bytes.into(), end);
        self.from += count;
        (call, count)
    }

    /// Carries input to the process. Dropped, it can be gone on with.
    async fn carry(&mut self, inbox: &Inbox, client: &ClientHandle) -> Infallible {
        loop {
            if self.asked.is_none() {
                let input = inbox.next_input().await;
                self.asked = Some(self.ask(input));
            }
            let Some((call, count)) = &mut self.asked else { continue };
            let (answer, count) = (call.await, *count);
            self.asked = None;
            if let Err(error) = answer {
                // It may have closed its input or ended; the stream of its output tells.
                tracing::debug!(process = %self.id, error = chain(&error), "input was not taken");
                if error.errno() == Some(ENOBUFS) {
                    self.from -= count;
                }
            }
            inbox.input_taken(count);
            if count > 0 && client.notify(StdinTaken { process: self.id, bytes: count }).await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Has all that is left sent. Gives back what is not answered.
    fn send_rest(mut self, inbox: &Inbox) -> Vec<TypedCall<()>> {
        let mut asked: Vec<_> = self.asked.take().map(|(call, _)| call).into_iter().collect();
        while let Some(input) = inbox.take_input() {
            asked.push(self.ask(input).0);
        }
        asked
    }
}

/// Carries signals and sizes to a process.
async fn orders((id, far): (ProcessId, FarId), inbox: &Inbox, agent: &AgentClient) -> Infallible {
    loop {
        let sent = match inbox.next_order().await {
            Order::Resize(size) => agent.process_resize(far, far_size(size)).await,
            Order::Signal(signal) => agent.process_signal(far, signal).await,
        };
        if let Err(error) = sent {
            tracing::debug!(process = %id, error = chain(&error), "an order for a process was not taken");
        }
    }
}
