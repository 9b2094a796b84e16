//! One client.
//!
//! ```text
//!             ┌──────────── session task ────────────┐
//!   socket ──►│ lines ─► requests ─► handler tasks   │
//!             │ what the client opened: handles,     │──► lines ──► writer task ──► socket
//!             │ processes, subscriptions, prompts    │
//!             └──────────────────────────────────────┘
//! ```
//!
//! Requests run side by side, and are answered in any order. What they open is put into the session's tables by the
//! session task itself, before the answer leaves; it ends with the session.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use wire::api::event::SUBSCRIPTIONS_MAX;
use wire::api::file::HANDLES_MAX;
use wire::api::id::{HandleId, ProcessId, PromptId, SubscriptionId};
use wire::api::line::LineDecoder;
use wire::api::machine::{Caller, Prompts};
use wire::api::prompt::{Ask, Secret};
use wire::api::{
    ClientMessage, ClientNotification, EncodeError, ErrorKind, ErrorObject, Method, Request, RequestId,
    Response, ServerNotification,
};

use supervisor::socket::Peer;

use crate::bus::Subscription;
use crate::prompt::{PROMPTS_MAX, Prompter, Question};
use crate::rpc::file::OpenNode;
use crate::rpc::file::sessions::Sessions;
use crate::rpc::process::{Flood, Inbox, RunningProcess};
use crate::rpc::{self, Daemon};

/// Requests of one client that run side by side. Its next line is not read before one of them is answered.
pub const REQUESTS_MAX: usize = 64;

/// Lines that wait for one client to read them. Whoever has more to say waits.
const LINES_MAX: usize = 16;

/// How long a client whose session has ended may take to read what was said to it.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(5);

/// How much is read from a client at once.
const READ_BYTES: usize = 64 << 10;

/// Says things to one client.
#[derive(Debug, Clone)]
pub struct ClientHandle {
    lines: mpsc::Sender<Vec<u8>>,
}

/// The client has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has gone")]
pub struct ClientGone;

impl ClientHandle {
    /// Says something, when there is room.
    pub async fn notify(&self, notification: impl Into<ServerNotification>) -> Result<(), ClientGone> {
        let notification = notification.into();
        match notification.to_line() {
            Ok(line) => self.lines.send(line).await.map_err(|_| ClientGone),
            Err(error) => {
                tracing::error!(%error, "a notification could not be written");
                Ok(())
            }
        }
    }

    async fn respond(&self, response: Response) -> Result<(), ClientGone> {
        let id = response.id.clone();
        let line = response.to_line().or_else(|error| {
            tracing::error!(%error, "a response could not be written");
            Response::failure(id, ErrorObject::internal(format!("the answer could not be written: {error}")))
                .to_line()
        });
        match line {
            Ok(line) => self.lines.send(line).await.map_err(|_| ClientGone),
            Err(error) => {
                tracing::error!(%error, "a failure could not be written");
                Err(ClientGone)
            }
        }
    }
}

/// What a handler needs to know of its client.
#[derive(Debug, Clone)]
pub struct ClientContext {
    /// Who it is.
    pub peer: Peer,
    /// Says things to it.
    pub client: ClientHandle,
    prompter: Prompter,
    /// Its sessions with machines, for files.
    pub sessions: Arc<Sessions>,
    handles: Arc<AtomicU64>,
    processes: Arc<AtomicU64>,
    subscriptions: Arc<AtomicU64>,
}

impl ClientContext {
    /// Checks that a caller is who it says it is.
    pub fn check(&self, caller: &Caller) -> Result<(), ErrorObject> {
        match self.peer.uid == caller.uid || self.peer.uid == 0 {
            true => Ok(()),
            false => {
                let message = format!("user {} cannot ask on behalf of user {}", self.peer.uid, caller.uid);
                Err(ErrorObject::new(ErrorKind::Refused, message))
            }
        }
    }

    /// Who can be asked, if the caller can be.
    pub fn prompter(&self, caller: &Caller) -> Option<Prompter> {
        (caller.prompts == Prompts::Answered).then(|| self.prompter.clone())
    }

    /// A handle's id that this session has not used yet.
    pub fn new_handle(&self) -> HandleId {
        HandleId::new(self.handles.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A subscription's id that this session has not used yet.
    pub fn new_subscription(&self) -> SubscriptionId {
        SubscriptionId::new(self.subscriptions.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// A process's id that this daemon has not used yet.
    pub fn new_process(&self) -> ProcessId {
        ProcessId::new(self.processes.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// What a handler came to.
pub struct Done {
    outcome: Result<serde_json::Value, ErrorObject>,
    effect: Effect,
}

/// What a handler changes in its session.
pub enum Effect {
    /// Nothing.
    None,
    /// Something was opened, or is given back after use.
    Opened(HandleId, OpenNode),
    /// A process runs.
    Started(Box<RunningProcess>),
    /// Events follow.
    Subscribed(SubscriptionId, Subscription),
    /// No events follow.
    Unsubscribed(SubscriptionId),
    /// The daemon ends once this has been answered.
    End(oneshot::Sender<()>),
}

/// Makes the outcome of the method `M`.
pub fn done<M: Method>(outcome: Result<M::Reply, ErrorObject>) -> Done {
    done_with::<M>(outcome, Effect::None)
}

/// The same with an effect on the session.
pub fn done_with<M: Method>(outcome: Result<M::Reply, ErrorObject>, effect: Effect) -> Done {
    let outcome = outcome.and_then(|reply| {
        let encoded =
            serde_json::to_value(reply).map_err(|source| EncodeError::Json { what: M::NAME, source });
        encoded.map_err(|error| ErrorObject::internal(error.to_string()))
    });
    Done { outcome, effect }
}

/// A failure.
pub fn failed(error: ErrorObject) -> Done {
    Done { outcome: Err(error), effect: Effect::None }
}

struct Session {
    daemon: Daemon,
    context: ClientContext,
    handlers: JoinSet<(RequestId, Done)>,
    pumps: JoinSet<ProcessId>,
    /// Tasks that carry events; aborted with the session.
    events: JoinSet<()>,
    subscriptions: HashMap<SubscriptionId, AbortHandle>,
    nodes: HashMap<HandleId, OpenNode>,
    /// Where what the client says to each goes.
    processes: HashMap<ProcessId, Arc<Inbox>>,
    prompts: BTreeMap<PromptId, oneshot::Sender<Option<Secret>>>,
    last_prompt: u64,
}

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("it has gone")]
    Gone,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Line(#[from] wire::api::line::LineTooLong),
    #[error("it sends more input to a process than was agreed on")]
    Flood,
}

/// Serves a client until it goes.
pub async fn run(daemon: Daemon, stream: UnixStream, peer: Peer) {
    let (reader, writer) = stream.into_split();
    let (lines, waiting) = mpsc::channel(LINES_MAX);
    let writing = tokio::spawn(write(writer, waiting));
    let (prompter, questions) = Prompter::new();
    let context = ClientContext {
        peer,
        client: ClientHandle { lines },
        prompter,
        sessions: Arc::default(),
        handles: Arc::default(),
        processes: Arc::clone(&daemon.processes),
        subscriptions: Arc::default(),
    };
    let session = Session {
        daemon,
        context,
        handlers: JoinSet::new(),
        pumps: JoinSet::new(),
        events: JoinSet::new(),
        subscriptions: HashMap::new(),
        nodes: HashMap::new(),
        processes: HashMap::new(),
        prompts: BTreeMap::new(),
        last_prompt: 0,
    };
    let reason = session.serve(reader, questions).await;
    tracing::debug!(pid = peer.pid, %reason, "a client's session ends");
    // What has been said is still written, unless the client does not read it.
    let abort = writing.abort_handle();
    match tokio::time::timeout(LAST_WORDS_TIMEOUT, writing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "writing to a client did not end"),
        Err(_) => abort.abort(),
    }
}

async fn write(mut writer: OwnedWriteHalf, mut lines: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = lines.recv().await {
        // The reading side sees the end too.
        if writer.write_all(&line).await.is_err() {
            return;
        }
    }
}

impl Session {
    async fn serve(mut self, mut reader: OwnedReadHalf, mut questions: mpsc::Receiver<Question>) -> Reason {
        let mut decoder = LineDecoder::new();
        let mut bytes = vec![0; READ_BYTES];
        loop {
            while self.handlers.len() < REQUESTS_MAX {
                let message = match decoder.next_line() {
                    Ok(Some(line)) => ClientMessage::decode(line),
                    Ok(None) => break,
                    Err(error) => return error.into(),
                };
                if let Err(reason) = self.on_message(message).await {
                    return reason;
                }
            }
            let has_room = self.handlers.len() < REQUESTS_MAX;
            let outcome = tokio::select! {
                read = reader.read(&mut bytes), if has_room => match read {
                    Ok(0) => return Reason::Gone,
                    Ok(count) => {
                        decoder.push(&bytes[..count]);
                        Ok(())
                    }
                    Err(error) => return error.into(),
                },
                Some(handled) = self.handlers.join_next() => match handled {
                    Ok((id, done)) => self.on_done(id, done).await,
                    Err(error) => {
                        tracing::error!(%error, "a request's handler did not end");
                        Ok(())
                    }
                },
                Some(ended) = self.pumps.join_next() => {
                    if let Ok(process) = ended {
                        self.processes.remove(&process);
                    }
                    Ok(())
                }
                // One that was aborted, or whose daemon ends.
                Some(_) = self.events.join_next() => Ok(()),
                Some(question) = questions.recv() => self.on_question(question).await,
            };
            if outcome.is_err() {
                return Reason::Gone;
            }
        }
    }

    async fn on_message(&mut self, message: Result<ClientMessage, Response>) -> Result<(), Reason> {
        match message {
            Ok(ClientMessage::Request(request)) => {
                self.on_request(*request);
                Ok(())
            }
            Ok(ClientMessage::Notification(notification)) => self.on_notification(notification),
            Err(response) => self.context.client.respond(response).await.map_err(|_| Reason::Gone),
        }
    }

    fn on_request(&mut self, request: Request) {
        let Request { id, call } = request;
        let lent = rpc::needs(&call).map(|need| self.lend(need)).unwrap_or_default();
        let (daemon, context) = (self.daemon.clone(), self.context.clone());
        self.handlers.spawn(async move { (id, rpc::handle(daemon, context, call, lent).await) });
    }

    /// What an opened handle stands for. What only one request at a time can use is taken out of the table until that
    /// request is done.
    fn lend(&mut self, need: rpc::Need) -> rpc::Lent {
        match need {
            rpc::Need::Use(handle) => {
                let node = self.lend_file(handle).or_else(|| self.nodes.remove(&handle));
                rpc::Lent { node, other: None }
            }
            rpc::Need::Take(handle) => rpc::Lent { node: self.nodes.remove(&handle), other: None },
            rpc::Need::Files(one, other) => {
                rpc::Lent { node: self.lend_file(one), other: self.lend_file(other) }
            }
        }
    }

    /// A file, which any number of requests may use.
    fn lend_file(&self, handle: HandleId) -> Option<OpenNode> {
        match self.nodes.get(&handle)? {
            OpenNode::File(file) => Some(OpenNode::File(Arc::clone(file))),
            OpenNode::Directory(_) | OpenNode::Tree(_) => None,
        }
    }

    async fn on_done(&mut self, id: RequestId, done: Done) -> Result<(), ClientGone> {
        let response = Response { id: Some(id), outcome: done.outcome };
        match done.effect {
            Effect::None => self.context.client.respond(response).await,
            Effect::Opened(..) if self.nodes.len() >= HANDLES_MAX => {
                let message = format!("more than {HANDLES_MAX} files are open");
                let error = ErrorObject::new(ErrorKind::Conflict, message);
                self.context.client.respond(Response::failure(response.id, error)).await
            }
            Effect::Opened(handle, node) => {
                self.nodes.insert(handle, node);
                self.context.client.respond(response).await
            }
            Effect::Started(process) => {
                let id = process.id;
                self.processes.insert(id, Arc::clone(&process.inbox));
                self.context.client.respond(response).await?;
                let (client, owner) = (self.context.client.clone(), self.daemon.owner.clone());
                self.pumps.spawn(async move {
                    process.pump(client, owner).await;
                    id
                });
                Ok(())
            }
            Effect::Subscribed(..) if self.subscriptions.len() >= SUBSCRIPTIONS_MAX => {
                let message = format!("there are {SUBSCRIPTIONS_MAX} subscriptions already");
                let error = ErrorObject::new(ErrorKind::Conflict, message);
                self.context.client.respond(Response::failure(response.id, error)).await
            }
            Effect::Subscribed(id, events) => {
                self.context.client.respond(response).await?;
                let client = self.context.client.clone();
                let pump = self.events.spawn(rpc::event::pump(id, events, client));
                self.subscriptions.insert(id, pump);
                Ok(())
            }
            Effect::Unsubscribed(id) => match self.subscriptions.remove(&id) {
                Some(pump) => {
                    pump.abort();
                    self.context.client.respond(response).await
                }
                None => {
                    let error =
                        ErrorObject::new(ErrorKind::NotFound, format!("there is no subscription {id}"));
                    self.context.client.respond(Response::failure(response.id, error)).await
                }
            },
            Effect::End(end) => {
                self.context.client.respond(response).await?;
                // The daemon may be ending already.
                let _ = end.send(());
                Ok(())
            }
        }
    }

    fn on_notification(&mut self, notification: ClientNotification) -> Result<(), Reason> {
        // What is for a process that has ended meanwhile is dropped, as by a pipe.
        let inbox = |process| self.processes.get(&process);
        match notification {
            ClientNotification::ProcessStdin(stdin) => {
                if let Some(inbox) = inbox(stdin.process) {
                    return inbox.push_input(&stdin.bytes.0).map_err(|Flood| Reason::Flood);
                }
            }
            ClientNotification::ProcessResize(resize) => {
                if let Some(inbox) = inbox(resize.process) {
                    inbox.resize(resize.size);
                }
            }
            ClientNotification::ProcessSignal(signal) => {
                if let Some(inbox) = inbox(signal.process) {
                    inbox.push_signal(signal.signal);
                }
            }
            ClientNotification::ProcessDetach(detach) => {
                if let Some(inbox) = inbox(detach.process) {
                    inbox.leave();
                }
            }
            ClientNotification::PromptAnswer(answer) => {
                if let Some(waiting) = self.prompts.remove(&answer.prompt) {
                    // The login may be over by now.
                    let _ = waiting.send(answer.answer);
                }
            }
        }
        Ok(())
    }

    async fn on_question(&mut self, question: Question) -> Result<(), ClientGone> {
        self.prompts.retain(|_, waiting| !waiting.is_closed());
        if self.prompts.len() >= PROMPTS_MAX {
            // Dropping the question declines it.
            return Ok(());
        }
        self.last_prompt += 1;
        let prompt = PromptId::new(self.last_prompt);
        self.prompts.insert(prompt, question.answer);
        self.context.client.notify(Ask { prompt, kind: question.kind, text: question.text }).await
    }
}
