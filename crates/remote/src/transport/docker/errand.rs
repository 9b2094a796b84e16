//! The process that speaks with an engine: `stead container ERRAND`.
//!
//! ```text
//!  stream ─► looked at ─┬─ as it was left ────────────┬─► the agent runs ─► its stream ends ───┬─► why ─► status
//!                       └─ started since ─► prepared ─┘                  └─ the container ends ─┘
//! ```
//!
//! It has one thread, and keeps nothing. Its exit status is 0 when the agent has ended as it should, or its client has closed
//! the stream; 1 when the agent failed; and otherwise one of its own, with the reason on standard error.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use bollard::container::LogOutput;
use futures_util::{Stream, StreamExt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use wire::api::error::ErrorKind;
use wire::worker::DockerDial;

use super::api::{Api, Container, Program, Streams, removed};
use super::place::place;
use super::{CarrierError, Engine, Errand, Examined, Offered, PREPARE_TIMEOUT, Prepared};
use crate::transport::errand::ERROR;

/// What all that an engine has answered may take, with an agent's program and its archive.
const MEMORY_BYTES_MAX: u64 = 1 << 30;

/// What is read from a client at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How long the last words of an agent may take to arrive when its container has ended.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);

/// How long after the events of an engine have ended they are asked for again. The container is looked at each time.
const EVENTS_PAUSE: Duration = Duration::from_secs(1);

/// How often a container is looked at, whatever the engine tells of it: it may have ended while nobody listened.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// What an engine may print instead of an agent's output.
const NOISE_BYTES_MAX: usize = 4 << 10;

/// The statuses with which an engine says that a program cannot be run, and that there is none.
const NOT_RUN: [i64; 2] = [126, 127];

/// Carries out the errand that the one argument is.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let told = arguments.next().and_then(|told| serde_json::from_str(told.to_str()?).ok());
    let Some(errand) = told else {
        eprintln!("{ERROR}a container's errand is started by stead itself");
        return ExitCode::from(ErrorKind::Usage.exit_code());
    };
    limit_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(carry_out(errand));
            // A name that is still being looked up is nobody's any more.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(CarrierError::new(ErrorKind::Failure, format!("could not start: {error}"))),
    };
    outcome.unwrap_or_else(|error| {
        error.say();
        ExitCode::from(error.status())
    })
}

/// An engine that answers without end ends this process.
fn limit_memory() {
    let limit = getrlimit(Resource::Data);
    let most = limit.maximum.unwrap_or(MEMORY_BYTES_MAX).min(MEMORY_BYTES_MAX);
    if let Err(error) = setrlimit(Resource::Data, Rlimit { current: Some(most), maximum: Some(most) }) {
        eprintln!("the memory is not limited: {error}");
    }
}

async fn carry_out(errand: Errand) -> Result<ExitCode, CarrierError> {
    match errand {
        Errand::Examine { engine, container } => print(&in_time(examine(&engine, &container)).await?),
        Errand::Prepare { engine, container, agents } => {
            print(&in_time(prepare(&engine, &container, &agents)).await?)
        }
        Errand::Stream { dial, session } => stream(*dial, session).await,
    }
}

fn print<T: serde::Serialize>(found: &T) -> Result<ExitCode, CarrierError> {
    let failed = |why: String| CarrierError::new(ErrorKind::Failure, why);
    let text = serde_json::to_vec(found).map_err(|error| failed(error.to_string()))?;
    std::io::stdout().write_all(&text).map_err(|error| failed(error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}

/// An engine may begin an answer and never end it, and whoever waited for this errand may have been killed.
async fn in_time<T>(asking: impl Future<Output = Result<T, CarrierError>>) -> Result<T, CarrierError> {
    tokio::time::timeout(PREPARE_TIMEOUT, asking).await.unwrap_or_else(|_| {
        let message = format!("the container's engine did not answer within {} s", PREPARE_TIMEOUT.as_secs());
        Err(CarrierError::new(ErrorKind::TimedOut, message))
    })
}

fn open(engine: &str) -> Result<Api, CarrierError> {
    Api::new(Engine::parse(engine, "the engine")?)
}

async fn find(api: &Api, engine: &str, name: &str) -> Result<Container, CarrierError> {
    api.find(name, name).await?.ok_or_else(|| {
        let message = format!("there is no container `{name}` at {engine}");
        CarrierError::new(ErrorKind::NotFound, message).with_hint("docker ps --all")
    })
}

async fn examine(engine: &str, name: &str) -> Result<Examined, CarrierError> {
    let api = open(engine)?;
    let (version, _) = api.version().await?;
    let looked = async {
        let container = find(&api, engine, name).await?;
        container.check()?;
        let architecture = api.architecture(&container).await?;
        let root = if container.is_read_only { ", its root read-only" } else { "" };
        Ok(format!("{}, {architecture}{root}, id {:.12}", container.state(), container.id))
    };
    Ok(Examined { engine: format!("{version} at {engine}"), container: looked.await })
}

async fn prepare(engine: &str, name: &str, agents: &[Offered]) -> Result<Prepared, CarrierError> {
    let api = open(engine)?;
    let container = find(&api, engine, name).await?;
    container.check()?;
    let architecture = api.architecture(&container).await?;
    let offered = agents.iter().find(|offered| offered.architecture == architecture);
    let offered = offered.ok_or_else(|| {
        let have: Vec<&str> = agents.iter().map(|offered| offered.architecture.as_str()).collect();
        let message = format!(
            "there is no agent for the container `{name}`, which is made for {architecture}; there are agents for Linux on {}",
            have.join(", ")
        );
        CarrierError::new(ErrorKind::Refused, message)
    })?;
    let agent = place(&api, &container, &offered.file).await?;
    let dial = DockerDial {
        engine: engine.to_owned(),
        name: name.to_owned(),
        container: container.id,
        started: container.started,
        agent,
        program: offered.file.clone(),
    };
    Ok(Prepared { dial })
}

/// How a stream ended.
enum Ended {
    /// The client has closed it, and the agent has ended then.
    ByClient,
    /// The agent's output has ended by itself; what came that was none.
    ByAgent { noise: Vec<u8> },
    /// The container has ended.
    WithContainer,
}

async fn stream(dial: DockerDial, session: String) -> Result<ExitCode, CarrierError> {
    let api = open(&dial.engine)?;
    let (container, streams) = in_time(start(&api, dial, session)).await?;
    let exec = streams.exec.clone();
    let (from, to) = own_stream()?.into_split();
    let ended = tokio::select! {
        ended = pump(from, to, streams) => ended,
        () = ended(&api, &container) => Ended::WithContainer,
    };
    let noise = match ended {
        Ended::ByClient => return Ok(ExitCode::SUCCESS),
        Ended::ByAgent { noise } => noise,
        Ended::WithContainer => Vec::new(),
    };
    in_time(why(&api, &container, &exec, &noise)).await
}

/// Starts the agent, after it was looked at if that is needed.
async fn start(api: &Api, dial: DockerDial, session: String) -> Result<(Container, Streams), CarrierError> {
    let found = api.find(&dial.container, &dial.name).await?;
    let container = found.ok_or_else(|| removed(&dial.name))?;
    container.check()?;
    let agent = match container.started == dial.started {
        true => dial.agent,
        // What lay in its memory is gone, and whoever ran in it meanwhile may have put something else there.
        false => place(api, &container, &dial.program).await?,
    };
    let mut command = vec![agent];
    if !session.is_empty() {
        command.extend(["--resume".to_owned(), session]);
    }
    let streams = api.start(&container, Program { command, user: None }).await?;
    Ok((container, streams))
}

/// Why an agent's stream has ended that its client had not closed.
async fn why(api: &Api, was: &Container, exec: &str, noise: &[u8]) -> Result<ExitCode, CarrierError> {
    let is = api.find(&was.id, &was.name).await?.ok_or_else(|| was.removed())?;
    if is.started != was.started {
        let message = format!("the container `{}` was started again", was.name);
        return Err(CarrierError::new(ErrorKind::Unreachable, message));
    }
    is.check()?;
    match api.status(exec).await {
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(status) if NOT_RUN.contains(&status) => Err(was.does_not_run(&String::from_utf8_lossy(noise))),
        _ => Ok(ExitCode::FAILURE),
    }
}

/// The socket that is standard input and output.
fn own_stream() -> Result<UnixStream, CarrierError> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(std::os::unix::net::UnixStream::from);
    let stream = socket.and_then(|socket| {
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket)
    });
    stream.map_err(|error| {
        CarrierError::new(ErrorKind::Failure, format!("standard input is no socket: {error}"))
    })
}

/// Carries bytes until the agent's output ends. The end of the client's direction is handed on.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, streams: Streams) -> Ended {
    let Streams { mut input, mut output, .. } = streams;
    let mut is_closed = false;
    let sending = async {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match from.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    if input.write_all(&chunk[..read]).await.is_err() {
                        // The other direction ends too, and is told why.
                        return std::future::pending().await;
                    }
                }
            }
        }
        is_closed = true;
        drop(input.shutdown().await);
        // The agent ends then, and its output with it.
        std::future::pending::<()>().await;
    };
    let mut noise = Vec::new();
    let receiving = receive(&mut output, &mut to, &mut noise);
    tokio::select! {
        () = sending => {}
        () = receiving => {}
    }
    match is_closed {
        true => Ended::ByClient,
        false => Ended::ByAgent { noise },
    }
}

/// Hands the agent's output on, until it ends or nobody reads it. What is said before the first of it is kept too.
async fn receive(
    output: &mut (impl Stream<Item = Result<LogOutput, bollard::errors::Error>> + Unpin),
    to: &mut OwnedWriteHalf,
    noise: &mut Vec<u8>,
) {
    let mut keep = |message: &[u8]| {
        let room = NOISE_BYTES_MAX.saturating_sub(noise.len());
        noise.extend_from_slice(&message[..message.len().min(room)]);
    };
    while let Some(Ok(output)) = output.next().await {
        match output {
            LogOutput::StdOut { message } => {
                keep(&message);
                if to.write_all(&message).await.is_err() {
                    return;
                }
            }
            LogOutput::StdErr { message } => {
                let _nobody_reads_it = std::io::stderr().write_all(&message);
            }
            LogOutput::Console { message } => keep(&message),
            LogOutput::StdIn { .. } => {}
        }
    }
}

/// Waits until a container has ended, or was started again.
async fn ended(api: &Api, container: &Container) {
    loop {
        let mut events = api.events(&container.id);
        let mut looking = tokio::time::interval(LOOK_INTERVAL);
        loop {
            let is_over = tokio::select! {
                event = events.next() => match event {
                    Some(event) => matches!(event.as_str(), "die" | "kill" | "stop" | "destroy" | "died" | "remove" | "start"),
                    None => break,
                },
                _ = looking.tick() => true,
            };
            if is_over && has_ended(api, container).await {
                return tokio::time::sleep(LAST_WORDS_TIMEOUT).await;
            }
        }
        tokio::time::sleep(EVENTS_PAUSE).await;
    }
}

/// Whether it is known that a container does not run any more as it did.
async fn has_ended(api: &Api, was: &Container) -> bool {
    match api.find(&was.id, &was.name).await {
        Ok(Some(is)) => is.started != was.started || is.has_stopped(),
        Ok(None) => true,
        // An engine that is away says nothing of its containers.
        Err(_) => false,
    }
}
