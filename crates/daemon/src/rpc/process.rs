//! `process.*`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::remote::client::{AgentClient, ProcessEvent, ProcessStream};
use serde_bytes::ByteBuf;
use tokio::sync::{mpsc, oneshot};
use wire::agent::process::{ExitStatus, Output, ProcessId as FarId, ProcessRequest, TerminalSize};
use wire::api::file::Content;
use wire::api::id::ProcessId;
use wire::api::process::{
    ARGUMENTS_MAX, Exited, Outcome, Run, STREAM_CHUNK_BYTES_MAX, Size, Started, Stderr, StdinTaken, Stdout,
};
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;

use super::Daemon;
use crate::connection::{Commands, Lease};
use crate::failure::{chain, from_call};
use crate::owner::{Event, OwnerHandle, ProcessRecord, Wanted};
use crate::session::{ClientContext, ClientGone, ClientHandle, Done, Effect, done_with, failed};

/// Pieces of input that may wait for a process. The bytes are bounded by the API; this bounds the pieces.
const INPUTS_MAX: usize = 1024;

/// Output that an agent may send ahead of the client's reading.
const WINDOW_BYTES: u32 = 256 << 10;

/// Signals and sizes that may wait for a process.
const ORDERS_MAX: usize = 64;

/// What a client does to a process besides its input. A process that takes no input still gets these.
#[derive(Debug)]
pub enum Order {
    /// A signal.
    Signal(i32),
    /// Its terminal's new size.
    Resize(Size),
}

/// A process that has been started for a client. Dropped, it is no longer wanted, and the agent ends it.
pub struct RunningProcess {
    /// What the client calls it.
    pub id: ProcessId,
    /// Where the client's input goes; an empty piece is its end.
    pub input: mpsc::Sender<Vec<u8>>,
    /// Where the client's orders go.
    pub orders: mpsc::Sender<Order>,
    /// Input bytes that were accepted and not given to the process.
    pub in_flight: Arc<AtomicU64>,
    waiting_inputs: mpsc::Receiver<Vec<u8>>,
    waiting_orders: mpsc::Receiver<Order>,
    far: FarId,
    stream: ProcessStream,
    commands: Commands,
    /// Told why when the connection is to end.
    ended: oneshot::Receiver<String>,
    listed: Listed,
    _lease: Lease,
}

/// The owner's knowledge of a process, which ends with this.
struct Listed {
    id: ProcessId,
    code: Option<u8>,
    owner: OwnerHandle,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.owner.send_later(Event::ProcessEnded(self.id, self.code));
    }
}

/// Starts a command.
pub async fn run(daemon: &Daemon, context: &ClientContext, run: Run) -> Done {
    match start(daemon, context, run).await {
        Ok(process) => {
            let started = Started { process: process.id };
            done_with::<Run>(Ok(started), Effect::Started(Box::new(process)))
        }
        Err(error) => failed(error),
    }
}

async fn start(daemon: &Daemon, context: &ClientContext, run: Run) -> Result<RunningProcess, ErrorObject> {
    context.check(&run.caller)?;
    if run.command.len() + run.environment.len() > ARGUMENTS_MAX {
        return Err(ErrorObject::new(
            ErrorKind::Usage,
            format!("more than {ARGUMENTS_MAX} arguments and variables"),
        ));
    }
    let name = run.command.first().map_or_else(|| "the login shell".to_owned(), |name| format!("`{name}`"));
    let what = format!("could not run {name} on `{}`", run.machine);
    let could_not = |why: &str| ErrorObject::new(ErrorKind::Failure, format!("{what}: {why}"));
    let prompter = context.prompter(&run.caller);
    let wanted = Wanted::new(run.machine.clone(), run.caller.clone(), prompter);
    let lease = daemon.owner.acquire(wanted).await?;
    let commands = lease.link().commands().await?;
    let far = commands.client.new_process();
    let (machine, command) = (run.machine.clone(), run.command.clone());
    let mut stream = commands.client.spawn(spawn_request(run, far));
    match stream.next().await {
        Some(Ok(ProcessEvent::Started(_))) => {}
        Some(Ok(_)) => return Err(could_not("the agent broke the protocol")),
        Some(Err(error)) => return Err(from_call(&what, &error)),
        None => return Err(could_not("the agent said nothing")),
    }
    let (input, waiting_inputs) = mpsc::channel(INPUTS_MAX);
    let (orders, waiting_orders) = mpsc::channel(ORDERS_MAX);
    let (end, ended) = oneshot::channel();
    let id = context.new_process();
    let record = ProcessRecord { id, machine, command, end };
    daemon.owner.send(Event::ProcessStarted(Box::new(record))).await;
    Ok(RunningProcess {
        id,
        input,
        orders,
        in_flight: Arc::default(),
        waiting_inputs,
        waiting_orders,
        far,
        stream,
        commands,
        ended,
        listed: Listed { id, code: None, owner: daemon.owner.clone() },
        _lease: lease,
    })
}

fn spawn_request(run: Run, process: FarId) -> ProcessRequest {
    let bytes = |text: ByteString| ByteBuf::from(text.into_bytes());
    let mut environment: Vec<_> =
        run.environment.into_iter().map(|(name, value)| (bytes(name), bytes(value))).collect();
    if let Some(terminal) = &run.terminal {
        environment
            .push((ByteBuf::from(b"TERM".to_vec()), ByteBuf::from(terminal.name.clone().into_bytes())));
    }
    ProcessRequest::Spawn {
        process,
        words: run.command.into_iter().map(bytes).collect(),
        environment,
        directory: run.cwd.map(bytes),
        terminal: run.terminal.map(|terminal| far_size(terminal.size)),
        window: WINDOW_BYTES,
    }
}

fn far_size(size: Size) -> TerminalSize {
    TerminalSize { rows: size.rows, columns: size.columns }
}

impl RunningProcess {
    /// Carries input and output until the process has ended or the client has gone.
    pub async fn pump(self, client: ClientHandle) {
        let RunningProcess {
            id,
            in_flight,
            waiting_inputs,
            waiting_orders,
            far,
            mut stream,
            commands,
            ended,
            mut listed,
            ..
        } = self;
        let inputs = async {
            take_inputs(id, far, waiting_inputs, &in_flight, &commands.client, &client).await;
            // The process goes on without input.
            std::future::pending::<()>().await;
        };
        let orders = async {
            take_orders(id, far, waiting_orders, &commands.client).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            outcome = outputs(id, &mut stream, &client) => match outcome {
                Ok(outcome) => {
                    listed.code = known_code(&outcome);
                    exited(id, outcome, &client).await;
                }
                Err(ClientGone) => tracing::debug!(process = %id, "the client of a process has gone"),
            },
            reason = ended => {
                let reason = reason.unwrap_or_else(|_| "the daemon ends".to_owned());
                exited(id, Outcome::Lost { reason }, &client).await;
            }
            () = inputs => {}
            () = orders => {}
        }
    }
}

/// What is told of a process's end in an event; nothing when it is not known.
fn known_code(outcome: &Outcome) -> Option<u8> {
    match outcome {
        Outcome::Exited { .. } | Outcome::Signalled { .. } => Some(outcome.exit_code()),
        Outcome::Lost { .. } => None,
    }
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
    let outcome = loop {
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
            Some(Ok(ProcessEvent::Ended(ExitStatus::Exited(code)))) => break Outcome::Exited { code },
            Some(Ok(ProcessEvent::Ended(ExitStatus::Signalled(signal)))) => {
                break Outcome::Signalled { signal: signal.into() };
            }
            Some(Ok(ProcessEvent::Started(_))) | None => {
                break Outcome::Lost { reason: "the agent broke the protocol".to_owned() };
            }
            Some(Err(error)) => break Outcome::Lost { reason: chain(&error) },
        }
    };
    Ok(outcome)
}

async fn take_inputs(
    id: ProcessId,
    far: FarId,
    mut inputs: mpsc::Receiver<Vec<u8>>,
    in_flight: &AtomicU64,
    agent: &AgentClient,
    client: &ClientHandle,
) {
    let mut from = 0;
    while let Some(bytes) = inputs.recv().await {
        let (count, end) = (bytes.len() as u64, bytes.is_empty());
        if let Err(error) = agent.process_input(far, from, bytes.into(), end).await {
            // It may have closed its input or ended; the stream of its output tells.
            tracing::debug!(process = %id, error = chain(&error), "input for a process was not taken");
        }
        from += count;
        in_flight.fetch_sub(count, Ordering::Relaxed);
        if count > 0 && client.notify(StdinTaken { process: id, bytes: count }).await.is_err() {
            return;
        }
    }
}

async fn take_orders(id: ProcessId, far: FarId, mut orders: mpsc::Receiver<Order>, agent: &AgentClient) {
    while let Some(order) = orders.recv().await {
        let sent = match order {
            Order::Resize(size) => agent.process_resize(far, far_size(size)).await,
            Order::Signal(signal) => match u8::try_from(signal) {
                Ok(signal) => agent.process_signal(far, signal).await,
                // There is no such signal anywhere.
                Err(_) => continue,
            },
        };
        if let Err(error) = sent {
            tracing::debug!(process = %id, error = chain(&error), "an order for a process was not taken");
        }
    }
}
