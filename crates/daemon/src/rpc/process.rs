//! `process.*`

mod inbox;
mod pump;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::remote::client::{CallError, ProcessEvent, ProcessStream};
use serde_bytes::ByteBuf;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use wire::agent::Errno;
use wire::agent::process::{DETACHED_MAX, ProcessId as FarId, ProcessRequest, TerminalSize};
use wire::api::id::ProcessId;
use wire::api::machine::{Caller, Machine, Prompts};
use wire::api::process::{ARGUMENTS_MAX, Attach, Attached, Kill, Killed, Outcome, Run, Size, Started};
use wire::api::time::Timestamp;
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;

use super::Daemon;
use crate::connection::{CommandSession, Lease};
use crate::database::{Database, ProcessRow};
use crate::failure::{failure, from_call};
use crate::owner::{Event, Known, ProcessRecord, Reader, Wanted};
use crate::process::{ESRCH, unknown_there};
use crate::session::{ClientContext, Done, Effect, done_with, failed};
use pump::{Followed, Listed, Own};

pub use inbox::{Flood, Inbox};
pub use pump::{RunningProcess, Way};

/// Output that an agent may send ahead of the client's reading.
const WINDOW_BYTES: u32 = 256 << 10;

/// How long who attaches to a process waits for who did before. He need not even be told: his stream is replaced.
const READER_END_TIMEOUT: Duration = Duration::from_secs(2);

/// How long who attaches to a process that its machine has forgotten waits for what its watch has heard.
const END_HEARD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a command waits until what was written through mounts is on its machine.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// So many directories are named whose changes are not: the note is one line.
const UNSAVED_NAMED_MAX: usize = 4;

/// What it says when there are too many.
const EAGAIN: Errno = Errno(11);

/// Starts a command.
pub async fn run(daemon: &Daemon, context: &ClientContext, run: Run) -> Done {
    let begun = match begin(daemon, context, &run).await {
        Ok(begun) => begun,
        Err(error) => return failed(error),
    };
    let (id, note) = (begun.row.id, begun.note.clone());
    let effect = match run.detached {
        true => detached(daemon, run, begun).await.map(|()| Effect::None),
        false => start(daemon, run, begun).await.map(|process| Effect::Started(Box::new(process))),
    };
    match effect {
        Ok(effect) => done_with::<Run>(Ok(Started { process: id, note }), effect),
        Err(error) => failed(error),
    }
}

/// All that is needed to start a command.
struct Begun {
    what: String,
    lease: Lease,
    commands: Arc<CommandSession>,
    row: ProcessRow,
    note: Option<String>,
}

async fn begin(daemon: &Daemon, context: &ClientContext, run: &Run) -> Result<Begun, ErrorObject> {
    if run.command.len() + run.environment.len() > ARGUMENTS_MAX {
        return Err(ErrorObject::new(
            ErrorKind::Usage,
            format!("more than {ARGUMENTS_MAX} arguments and variables"),
        ));
    }
    let name = run.command.first().map_or_else(|| "the login shell".to_owned(), |name| format!("`{name}`"));
    let what = format!("could not run {name} on `{}`", run.machine);
    let (lease, commands) = reach(daemon, context, &run.machine, &run.caller).await?;
    let note = flush(daemon, &run.machine).await;
    let row = ProcessRow {
        id: context.new_process(),
        machine: run.machine.clone(),
        command: run.command.clone(),
        // Whoever goes on with it has nobody to ask.
        caller: Caller { prompts: Prompts::Refused, ..run.caller.known_to(&run.machine) },
        far: commands.new_process().0,
        pid: None,
        terminal: run.terminal.is_some(),
        since: Timestamp::from(SystemTime::now()),
        outcome: None,
    };
    Ok(Begun { what, lease, commands, row, note })
}

/// Has what was written through the machine's mounts put there, so that the command sees it. Says what it may not see.
pub(super) async fn flush(daemon: &Daemon, machine: &Machine) -> Option<String> {
    let (answer, selected) = oneshot::channel();
    daemon.owner.send(Event::SelectMountsOf { machine: machine.clone(), answer }).await;
    // Without an owner there are no mounts.
    let mut flushing: JoinSet<_> = selected
        .await
        .unwrap_or_default()
        .into_iter()
        .map(|mount| async move {
            let flushed = tokio::time::timeout(FLUSH_TIMEOUT, mount.flush()).await;
            (flushed != Ok(true)).then_some(mount.dir)
        })
        .collect();
    let mut unsaved = Vec::new();
    while let Some(flushed) = flushing.join_next().await {
        unsaved.extend(flushed.ok().flatten());
    }
    unsaved.sort_unstable();
    let named: Vec<String> = unsaved.iter().take(UNSAVED_NAMED_MAX).map(|dir| format!("`{dir}`")).collect();
    let more = match unsaved.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let what = format!("what was written through {}{more} is not all on `{machine}` yet", named.join(", "));
    (!named.is_empty()).then_some(what)
}

/// The connection to a machine, and the session of its commands.
pub(super) async fn reach(
    daemon: &Daemon,
    context: &ClientContext,
    machine: &Machine,
    caller: &Caller,
) -> Result<(Lease, Arc<CommandSession>), ErrorObject> {
    context.check(caller)?;
    let wanted = Wanted::new(machine.clone(), caller.clone(), context.prompter(caller));
    let lease = daemon.owner.acquire(wanted).await?;
    let commands = lease.link().commands().await?;
    Ok((lease, commands))
}

/// Why a process does not run, or is not known to.
struct NotStarted {
    error: ErrorObject,
    /// The machine has said so.
    is_certain: bool,
}

/// Waits until a process runs, and returns the machine's number for it and how much input it has had.
async fn started(stream: &mut ProcessStream, what: &str) -> Result<(u32, u64), NotStarted> {
    let could_not = |why: &str| ErrorObject::new(ErrorKind::Failure, format!("{what}: {why}"));
    let event = stream.next().await;
    let is_certain = matches!(event, Some(Err(CallError::Failed(_) | CallError::Unsendable(_))));
    let not = |error| NotStarted { error, is_certain };
    match event {
        Some(Ok(ProcessEvent::Started { pid, input, .. })) => Ok((pid, input)),
        Some(Ok(_)) => Err(not(could_not("the agent broke the protocol"))),
        Some(Err(CallError::Failed(failure))) if failure.errno == EAGAIN => Err(not(could_not(&format!(
            "too many processes run there, or more than {DETACHED_MAX} detached ones"
        )))),
        Some(Err(error)) => Err(not(from_call(what, &error))),
        None => Err(not(could_not("the agent said nothing"))),
    }
}

/// Starts a command whose output goes to the client.
async fn start(daemon: &Daemon, run: Run, begun: Begun) -> Result<RunningProcess, ErrorObject> {
    let Begun { what, lease, commands, mut row, .. } = begun;
    let far = FarId(row.far);
    let mut stream = commands.client.spawn(spawn_request(run, far));
    let way = Way::new(lease, commands);
    let (pid, input_from) = match started(&mut stream, &what).await {
        Ok(started) => started,
        Err(not_started) => {
            way.leave();
            return Err(not_started.error);
        }
    };
    row.pid = Some(pid);
    let id = row.id;
    let (record, ended) = ProcessRecord::attached(&row);
    daemon.owner.send(Event::ProcessStarted(Box::new(record))).await;
    let listed = Listed { id, code: None, owner: daemon.owner.clone() };
    let own = Some(Own { ended, listed, row, database: daemon.database.clone() });
    let followed = Followed { stream, replaced: None, _over: None };
    Ok(RunningProcess { id, inbox: Arc::default(), far, followed, input_from, own, way })
}

/// Starts a command that belongs to nobody, also if the client that asks for it goes away meanwhile.
async fn detached(daemon: &Daemon, run: Run, begun: Begun) -> Result<(), ErrorObject> {
    let daemon = daemon.clone();
    let starting = tokio::spawn(async move { start_detached(&daemon, run, begun).await });
    starting.await.map_err(|error| ErrorObject::internal(format!("a command was not started: {error}")))?
}

async fn start_detached(daemon: &Daemon, run: Run, begun: Begun) -> Result<(), ErrorObject> {
    let Begun { what, commands, mut row, lease, .. } = begun;
    // Written first: a process that runs and is not known could not be ended.
    put(&daemon.database, &commands, row.clone()).await?;
    let mut stream = commands.client.spawn(spawn_request(run, FarId(row.far)));
    let not_started = match started(&mut stream, &what).await {
        Ok((pid, _)) => {
            row.pid = Some(pid);
            put(&daemon.database, &commands, row.clone()).await.err()
        }
        Err(NotStarted { error, is_certain: false }) => Some(error.with_hint("stead ps")),
        Err(NotStarted { error, is_certain: true }) => {
            if let Err(error) = daemon.database.remove_process(row.id).await {
                tracing::error!(process = %row.id, %error, "a process that was not started is not forgotten");
            }
            return Err(error);
        }
    };
    // Who watches it finds out what became of it.
    daemon.owner.send(Event::ProcessDetached(Box::new(row))).await;
    drop((stream, lease));
    not_started.map_or(Ok(()), Err)
}

async fn put(database: &Database, commands: &CommandSession, row: ProcessRow) -> Result<(), ErrorObject> {
    commands.note().await?;
    database.put_process(row).await.map_err(|error| failure(&error))
}

/// Has the output of a detached process come to the client.
pub async fn attach(daemon: &Daemon, context: &ClientContext, attach: Attach) -> Done {
    match begin_attach(daemon, context, attach).await {
        Ok(Ok((process, replayed))) => {
            done_with::<Attach>(Ok(Attached { ended: None, replayed }), Effect::Started(Box::new(process)))
        }
        Ok(Err(ended)) => done_with::<Attach>(Ok(Attached { ended: Some(ended), replayed: 0 }), Effect::None),
        Err(error) => failed(error),
    }
}

/// The process, and how much output it has written by now; or how it ended, if nothing of it is left.
async fn begin_attach(
    daemon: &Daemon,
    context: &ClientContext,
    attach: Attach,
) -> Result<Result<(RunningProcess, u64), Outcome>, ErrorObject> {
    let Attach { process: id, size, caller } = attach;
    let known = find(daemon, id).await?;
    let what = format!("could not attach to {id}");
    if !known.is_detached {
        let message = format!("{what}: it belongs to the command that started it");
        return Err(ErrorObject::new(ErrorKind::Conflict, message));
    }
    let (lease, commands) =
        match (reach(daemon, context, &known.machine, &caller).await, known.outcome.clone()) {
            (Ok(reached), _) => reached,
            (Err(_), Some(ended)) => return Ok(Err(ended)),
            (Err(error), None) => return Err(error),
        };
    let far = FarId(known.far);
    let (replaced, over) = take_over(daemon, id).await;
    let mut stream = commands.client.process_follow(far, WINDOW_BYTES);
    let (input_from, replayed) = match (stream.next().await, known.outcome) {
        (Some(Ok(ProcessEvent::Started { input, output, .. })), _) => (input, output),
        (Some(Err(CallError::Failed(failure))), ended) if failure.errno == ESRCH => {
            return Ok(Err(match ended {
                Some(ended) => ended,
                None => ended_there(daemon, id).await,
            }));
        }
        (Some(Err(error)), _) => return Err(from_call(&what, &error)),
        (Some(Ok(_)) | None, _) => {
            let message = format!("{what}: the agent broke the protocol");
            return Err(ErrorObject::new(ErrorKind::Failure, message));
        }
    };
    let inbox = Arc::new(Inbox::default());
    size.into_iter().for_each(|size| inbox.resize(size));
    let followed = Followed { stream, replaced: Some(replaced), _over: Some(over) };
    let way = Way::new(lease, commands);
    let process = RunningProcess { id, inbox, far, followed, input_from, own: None, way };
    Ok(Ok((process, replayed)))
}

/// How a process ended that its machine does not have any more: who watches it has heard of that, or finds out.
async fn ended_there(daemon: &Daemon, id: ProcessId) -> Outcome {
    let (answer, heard) = oneshot::channel();
    daemon.owner.send(Event::AwaitProcess { id, answer }).await;
    match tokio::time::timeout(END_HEARD_TIMEOUT, heard).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) | Err(_) => unknown_there(),
    }
}

/// Ends whoever has attached to the process before, so that his input is behind nobody else's. Gives what ends this one.
async fn take_over(daemon: &Daemon, id: ProcessId) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
    let ((end, replaced), (over, ended)) = (oneshot::channel(), oneshot::channel());
    let (answer, before) = oneshot::channel();
    let reader = Reader { end, ended };
    daemon.owner.send(Event::ReadProcess { id, reader, answer }).await;
    if let Ok(Some(Reader { end, ended })) = before.await {
        // One that has ended by itself hears nothing.
        let _ = end.send(());
        if tokio::time::timeout(READER_END_TIMEOUT, ended).await.is_err() {
            tracing::warn!(process = %id, "who was attached to a process did not let go in time");
        }
    }
    (replaced, over)
}

/// Sends a signal to a process.
pub async fn kill(daemon: &Daemon, context: &ClientContext, kill: Kill) -> Result<Killed, ErrorObject> {
    let Kill { process: id, signal, caller } = kill;
    let known = find(daemon, id).await?;
    let what = format!("could not signal {id}");
    let over = || ErrorObject::new(ErrorKind::NotFound, format!("{what}: it has ended"));
    if known.outcome.is_some() {
        return Err(over());
    }
    let (_lease, commands) = reach(daemon, context, &known.machine, &caller).await?;
    match commands.client.process_signal(FarId(known.far), signal).await {
        Ok(()) => Ok(Killed {}),
        Err(CallError::Failed(failure)) if failure.errno == ESRCH => Err(over()),
        Err(error) => Err(from_call(&what, &error)),
    }
}

async fn find(daemon: &Daemon, id: ProcessId) -> Result<Known, ErrorObject> {
    daemon.owner.ask(|answer| Event::FindProcess { id, answer }).await
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
        detached: run.detached,
        window: WINDOW_BYTES,
    }
}

fn far_size(size: Size) -> TerminalSize {
    TerminalSize { rows: size.rows, columns: size.columns }
}
