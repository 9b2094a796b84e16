//! Containers, through the API of their engine.
//!
//! ```text
//!  daemon ─┐ the agent's stream                   PUT /containers/ID/archive   the agent, if it is not there
//!          ├─► stead container ── the engine ───► POST /exec/ID/start          the agent runs, its streams in frames
//!  worker ─┘   (an errand)                        GET /events                  the container stops, or is removed
//! ```
//!
//! Nobody but an errand, a process of its own, speaks with an engine. It stands where ssh stands for other machines: its
//! standard input and output are the agent's stream, it ends when that ends or the container does, and says why. What an
//! engine answers without end ends the errand at its limit of memory, and nothing else. The engine closes the agent's standard
//! input when the errand is gone, however that ended, and the agent ends with its stream.
//!
//! The agent is run by the user that the container runs as. Its program lies in `/.stead/RELEASE-HASH/stead-agent`, and
//! belongs to root, with all directories above it: what somebody else could have changed there is not run. Where the root is
//! read-only it is put into a tmpfs from which programs may run.

mod api;
mod engine;
mod errand;
mod lock;
mod place;
mod tar;

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use wire::api::error::ErrorKind;
use wire::bytestring::ByteString;
use wire::hello::SessionId;
use wire::worker::{AgentFile, DockerDial};

use super::errand::CarrierError;
use super::program::{Exit, Program, ProgramError};
use crate::place::Agents;

pub use engine::{Engine, resolve};
pub use errand::main;

/// What makes this program an errand.
pub const PART: &str = "container";

/// How long a question to an engine may take: it looks into its own memory.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an agent may take to travel, with all the questions around it.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(120);

/// What an errand that is no stream prints at most.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// What an errand is told, as its one argument. No secret is in it: an engine that asks for one is refused before.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Errand {
    /// To look at an engine and a container, and print [`Examined`].
    Examine { engine: String, container: String },
    /// To put the agent in its place, and print [`Prepared`].
    Prepare { engine: String, container: String, agents: Vec<Offered> },
    /// To be the stream to an agent.
    Stream { dial: Box<DockerDial>, session: String },
}

/// An agent that could be placed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Offered {
    /// As Rust names it.
    architecture: String,
    file: AgentFile,
}

/// A container in which the agent is in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// How the agent is reached.
    pub dial: DockerDial,
}

/// What was found at an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examined {
    /// Its name and version.
    pub engine: String,
    /// The container, in one line.
    pub container: Result<String, CarrierError>,
}

/// Why an errand failed that is no stream.
#[derive(Debug, thiserror::Error)]
pub enum ErrandError {
    /// It could not be started.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// It said why.
    #[error(transparent)]
    Container(#[from] CarrierError),
    /// It ended without a word that could be read.
    #[error("the process that asks the container's engine {exit}")]
    Died {
        /// How.
        exit: Exit,
    },
    /// It took too long.
    #[error("the container's engine did not answer within {} s", waited.as_secs())]
    TimedOut {
        /// So long.
        waited: Duration,
    },
}

impl ErrandError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ErrandError::Container(error) => error.kind,
            ErrandError::TimedOut { .. } => ErrorKind::TimedOut,
            ErrandError::Program(_) | ErrandError::Died { .. } => ErrorKind::Failure,
        }
    }

    /// What mends it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ErrandError::Container(error) => error.hint.clone(),
            _ => None,
        }
    }
}

/// Looks at an engine and a container.
pub async fn examine(engine: &Engine, container: &str) -> Result<Examined, ErrandError> {
    let errand = Errand::Examine { engine: engine.to_string(), container: container.to_owned() };
    run(&errand, QUESTION_TIMEOUT).await
}

/// Puts the agent into a running container, if it is not there.
pub async fn prepare(engine: &Engine, container: &str, agents: &Agents) -> Result<Prepared, ErrandError> {
    let offered = |architecture: &'static str| {
        let program = agents.get(architecture)?;
        let (path, hash, bytes) = (ByteString::from(program.path.clone()), program.hash, program.bytes);
        let file = AgentFile { path, hash, bytes };
        Some(Offered { architecture: architecture.to_owned(), file })
    };
    let agents = agents.architectures().filter_map(offered).collect();
    let errand = Errand::Prepare { engine: engine.to_string(), container: container.to_owned(), agents };
    run(&errand, PREPARE_TIMEOUT).await
}

/// Runs the agent, for this session, with a socket as its standard input and output. It waits for nothing.
pub(crate) fn channel(dial: &DockerDial, session: SessionId) -> Result<(Program, UnixStream), ProgramError> {
    let session = match session == SessionId::default() {
        true => String::new(),
        false => session.to_string(),
    };
    start(&Errand::Stream { dial: Box::new(dial.clone()), session })
}

/// What is asked of the engine is in the errand, and not in its environment.
fn start(errand: &Errand) -> Result<(Program, UnixStream), ProgramError> {
    super::errand::start(PART, errand, wire::api::machine::ENGINE_VARIABLES)
}

async fn run<T: for<'a> Deserialize<'a>>(errand: &Errand, patience: Duration) -> Result<T, ErrandError> {
    let (program, stream) = start(errand)?;
    let mut output = Vec::new();
    let ending = async {
        // What it prints is read again below: an error of the socket is an end of it.
        drop(stream.take(OUTPUT_BYTES_MAX).read_to_end(&mut output).await);
        program.ended().await
    };
    let exit = tokio::time::timeout(patience, ending).await;
    let exit = exit.map_err(|_| ErrandError::TimedOut { waited: patience })?;
    if let Some(error) = CarrierError::of(&exit) {
        return Err(error.into());
    }
    serde_json::from_slice(&output).map_err(|_| ErrandError::Died { exit })
}

/// The directory of an agent's program: as on other machines.
fn directory_name(file: &AgentFile) -> String {
    name_of(file.hash)
}

fn name_of(hash: NonZeroU64) -> String {
    format!("{}-{hash:016x}", wire::RELEASE)
}

/// The program itself, if it is what it was when its hash was taken.
fn content_of(file: &AgentFile) -> Result<Vec<u8>, CarrierError> {
    let path: &Path = file.path.as_path();
    let content = crate::place::read(path)
        .map_err(|error| CarrierError::new(ErrorKind::Failure, in_one_line(&error)))?;
    match crate::place::hash(&content) == file.hash {
        true => Ok(content),
        false => {
            let message = format!("the agent `{}` has changed since it was read", path.display());
            Err(CarrierError::new(ErrorKind::Failure, message).with_hint("stead daemon restart"))
        }
    }
}

/// An error with its causes.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text.replace(char::is_control, " ")
}
