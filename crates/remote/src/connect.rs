//! From a way to a machine to a link with its agent.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use wire::api::error::ErrorKind;
use wire::bytestring::ByteString;
use wire::hello::SessionId;
use wire::worker::{Dial, SshDial};

use crate::client::relink::{DialFailed, Dialed, Dialer, Later};
use crate::client::{AgentClient, ByteStream, ConnectError, ConnectOptions, EventSink, Introduced};
use crate::link::Hindrance;
use crate::place::{self, Absence, Agents, PlaceError};
use crate::spare::{self, Room, Spare, SpareCarrier};
use crate::transport::docker;
use crate::transport::errand::CarrierError;
use crate::transport::host::{self, HostOptions};
use crate::transport::ssh::{self, Route, SshError, SshOptions};
use crate::transport::vm;
use crate::transport::{Exit, Program, ProgramError};

/// How long the process behind a stream that has ended may take to end too, so that its reason can be told.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is looked whether the control socket of an ssh master is there again.
const SOCKET_CHECK: Duration = Duration::from_millis(200);

/// The status with which a shell says that it cannot run a program, and that there is none.
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

/// A link, and the process that carries it.
#[derive(Clone)]
pub struct Connection {
    /// Speaks with the agent.
    pub client: AgentClient,
    /// The agent itself on this host, the ssh of the channel or the errand to the engine otherwise. It is dismissed when the last handle to it is
    /// dropped.
    pub program: Program,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The program that would carry it could not be started.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// ssh does not get there.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// The container or microVM is not there for us, or does not run, or what runs it is not there.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// There is no agent there, and none can be put there.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The agent is not where it was placed.
    #[error("there is no agent at `{path}` any more")]
    Gone {
        /// Where it should be.
        path: ByteString,
    },
    /// The path of an agent that not every shell would take as it is.
    #[error("the agent's path `{path}` cannot be given to a shell")]
    AgentPath {
        /// The path.
        path: ByteString,
    },
    /// What answers is not an agent, or not one for us.
    #[error("{source}{}", after(exit))]
    Agent {
        /// What is wrong with it.
        source: ConnectError,
        /// How the process behind it ended, if it did.
        exit: Option<Exit>,
    },
}

fn after(exit: &Option<Exit>) -> String {
    exit.as_ref().map(|exit| format!(" (the process behind it {exit})")).unwrap_or_default()
}

impl OpenError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            OpenError::Ssh(error) => error.kind(),
            OpenError::Carrier(error) => error.kind,
            OpenError::Place(error) => match error {
                PlaceError::Ssh(error) => error.kind(),
                PlaceError::Foreign { .. } | PlaceError::NoShell { .. } | PlaceError::NoExec { .. } => {
                    ErrorKind::Refused
                }
                PlaceError::Broken(_) => ErrorKind::Unreachable,
                PlaceError::TimedOut => ErrorKind::TimedOut,
                PlaceError::NoAgents { .. } => ErrorKind::NotFound,
                PlaceError::Read { .. }
                | PlaceError::NotAProgram { .. }
                | PlaceError::Changed { .. }
                | PlaceError::NoSpace { .. }
                | PlaceError::Unplaced { .. }
                | PlaceError::Program(_) => ErrorKind::Failure,
            },
            OpenError::Agent { source: ConnectError::TimedOut { .. }, .. } => ErrorKind::TimedOut,
            OpenError::Agent { source: ConnectError::Lost(_), .. } | OpenError::Gone { .. } => {
                ErrorKind::Unreachable
            }
            OpenError::Agent { .. } | OpenError::Program(_) | OpenError::AgentPath { .. } => {
                ErrorKind::Failure
            }
        }
    }

    /// As far as it decides whether, and how soon, it is tried again.
    pub fn hindrance(&self) -> Hindrance {
        match self {
            OpenError::AgentPath { .. } | OpenError::Agent { source: ConnectError::Mismatch(_), .. } => {
                Hindrance::Lasting
            }
            // It was removed. One that is started again comes back; and while it stops, its engine refuses this and that.
            OpenError::Carrier(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Usage) => {
                Hindrance::Lasting
            }
            // A host key, a login: somebody has to answer for it.
            OpenError::Ssh(error) if error.kind() == ErrorKind::Refused => Hindrance::NeedsPerson,
            _ => Hindrance::Passing,
        }
    }

    /// What mends it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            OpenError::Ssh(error) => return error.hint(),
            OpenError::Carrier(error) => return error.hint.clone(),
            OpenError::Place(PlaceError::Ssh(error)) => return error.hint(),
            OpenError::Place(PlaceError::NoExec { .. }) => {
                "let XDG_CACHE_HOME on the machine name a directory from which programs may run"
            }
            OpenError::Place(PlaceError::NoAgents { .. }) => {
                "build it: cargo build --profile agent -p agent, or name one with STEAD_AGENT"
            }
            OpenError::Place(PlaceError::Changed { .. }) => "stead daemon restart",
            OpenError::Agent { source: ConnectError::Mismatch(_), .. } => {
                "the agent beside stead is of another build: build or install both together"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Starts the agent of this host.
pub async fn connect_host(
    host: &HostOptions,
    options: ConnectOptions,
    sink: Arc<dyn EventSink>,
) -> Result<Connection, OpenError> {
    let (stream, program) = reach_host(host, options).await?;
    Ok(Connection { client: AgentClient::over(stream, sink), program })
}

/// Reaches the agent that a worker was told of. For `ssh`, the master has to be there, and the agent in its place. When
/// it is full, further masters are tried, and one is asked for: see [`ssh::Masters`].
pub async fn connect(
    dial: &Dial,
    host: &HostOptions,
    options: ConnectOptions,
    sink: Arc<dyn EventSink>,
) -> Result<Connection, OpenError> {
    let (stream, program) = reach(dial, host, options).await?;
    Ok(Connection { client: AgentClient::over(stream, sink), program })
}

/// Ends a session that its client has left with the agent, as [`AgentClient::leave`] does or by its death: there must be
/// nobody any more who serves it. Returns when nothing of it is left there. One that is gone already has been ended.
pub async fn end_session(dial: &Dial, session: SessionId) -> Result<(), OpenError> {
    let options = ConnectOptions { session, ..ConnectOptions::default() };
    let (stream, program) = reach(dial, &HostOptions::default(), options).await?;
    part(stream, program, session).await
}

/// The same for a session with an agent of this host, whose client had these variables.
pub async fn end_host_session(
    host: &HostOptions,
    variables: &[(OsString, OsString)],
    session: SessionId,
) -> Result<(), OpenError> {
    let (program, stream) = host::open_with(host, session, variables)?;
    let options = ConnectOptions { session, ..ConnectOptions::default() };
    let (stream, program) =
        introduce(program, stream, options).await.map_err(|failed| failed.into_error())?;
    part(stream, program, session).await
}

/// Says goodbye if it is that session, and waits for its end. The process at the stream's other end outlasts it.
async fn part(stream: Introduced, program: Program, session: SessionId) -> Result<(), OpenError> {
    if stream.peer().session == session {
        let said = stream.goodbye().await;
        said.map_err(|lost| OpenError::Agent { source: ConnectError::Lost(lost), exit: None })?;
    } else {
        drop(stream);
    }
    drop(program.ended().await);
    Ok(())
}

type Reached = (Introduced, Program);

async fn reach_host(host: &HostOptions, options: ConnectOptions) -> Result<Reached, OpenError> {
    let (program, stream) = host::open(host, options.session)?;
    introduce(program, stream, options).await.map_err(|failed| failed.into_error())
}

async fn reach(dial: &Dial, host: &HostOptions, options: ConnectOptions) -> Result<Reached, OpenError> {
    match dial {
        Dial::Host => reach_host(host, options).await,
        Dial::Ssh(dial) => reach_ssh(dial, options).await,
        Dial::Docker(dial) => reach_carried(docker::channel(dial, options.session), options).await,
        Dial::Vm(dial) => reach_carried(vm::channel(dial, options.session), options).await,
    }
}

/// Through an errand that was started.
async fn reach_carried(
    started: Result<(Program, UnixStream), ProgramError>,
    options: ConnectOptions,
) -> Result<Reached, OpenError> {
    let (program, stream) = started?;
    introduce(program, stream, options).await.map_err(|failed| {
        match failed.exit.as_ref().and_then(CarrierError::of) {
            Some(error) => error.into(),
            None => failed.into_error(),
        }
    })
}

async fn reach_ssh(dial: &SshDial, options: ConnectOptions) -> Result<Reached, OpenError> {
    let command = agent_command(dial, options.session)?;
    let failed = match attempt(dial, &command, options).await? {
        Ok(reached) => return Ok(reached),
        Err(failed) => failed,
    };
    match failed.code() {
        Some(NOT_FOUND) => Err(OpenError::Gone { path: dial.agent.clone() }),
        _ => Err(failed.into_far_error(dial)),
    }
}

/// What starts the agent on the machine, for this session.
pub(crate) fn agent_command(dial: &SshDial, session: SessionId) -> Result<String, OpenError> {
    place::start_at(dial.agent.as_bytes(), session)
        .ok_or_else(|| OpenError::AgentPath { path: dial.agent.clone() })
}

/// Gets streams to the agent that a worker was told of, for a client that goes on when one is lost.
#[derive(Clone, Debug)]
pub struct WorkerDialer {
    dial: Dial,
    host: HostOptions,
    options: ConnectOptions,
    /// Used up by the first stream.
    spare: Arc<Mutex<Option<Spare>>>,
}

impl WorkerDialer {
    /// A dialer that asks for sessions which are kept for `keep_seconds` after their stream is lost.
    pub fn new(dial: Dial, host: HostOptions, keep_seconds: u32) -> WorkerDialer {
        let mut options = ConnectOptions { keep_seconds, ..ConnectOptions::default() };
        // No processor packs as fast as a pipe carries.
        if let Dial::Ssh(_) = dial {
            options.capabilities |= wire::hello::capability::PACKING;
        }
        WorkerDialer { dial, host, options, spare: Arc::default() }
    }

    /// How it reaches the agent.
    pub fn dial(&self) -> &Dial {
        &self.dial
    }

    /// The same, with a channel that a predecessor has dialled ahead: it is the first that is tried.
    pub fn with_spare(self, spare: Option<Spare>) -> WorkerDialer {
        WorkerDialer { spare: Arc::new(Mutex::new(spare)), ..self }
    }

    /// Dials a channel for a successor, which goes on with this session; to be handed over at once. `None` where one is
    /// dialled as fast as it is handed over.
    pub fn dial_ahead(&self, session: SessionId) -> Option<Result<(Spare, SpareCarrier), OpenError>> {
        match &self.dial {
            Dial::Host | Dial::Docker(_) | Dial::Vm(_) => None,
            Dial::Ssh(dial) => Some(spare::dial(dial, session)),
        }
    }

    /// What tells whether there is room for a channel that is dialled ahead. `None` where none is.
    pub fn room(&self) -> Option<Room> {
        match &self.dial {
            Dial::Host | Dial::Docker(_) | Dial::Vm(_) => None,
            Dial::Ssh(dial) => Some(Room::of(dial)),
        }
    }

    /// Tries once, and says in full why it failed.
    pub async fn reach(&self, session: SessionId) -> Result<Dialed, OpenError> {
        let options = ConnectOptions { session, ..self.options };
        let spare = self.spare.lock().take();
        if let Some(spare) = spare {
            match spare.introduce(options).await {
                Ok(dialed) if dialed.stream.peer().session == session => return Ok(dialed),
                // Dialled for a session that was gone by then: behind it is a fresh agent, and ours may live.
                Ok(_other) => tracing::info!("the channel in reserve leads to another session"),
                Err(why) => tracing::info!(%why, "the channel in reserve is of no use"),
            }
        }
        let (stream, program) = reach(&self.dial, &self.host, options).await?;
        Ok(Dialed { stream, carrier: Some(program) })
    }
}

impl Dialer for WorkerDialer {
    fn dial(&self, session: SessionId) -> Later<Result<Dialed, DialFailed>> {
        let dialer = self.clone();
        Box::pin(async move {
            let reached = dialer.reach(session).await;
            reached.map_err(|error| DialFailed { hindrance: error.hindrance(), why: error.to_string() })
        })
    }

    /// The control socket of an ssh master that was not there, or another one.
    fn sign(&self) -> Later<()> {
        let Dial::Ssh(dial) = &self.dial else { return Box::pin(std::future::pending()) };
        let path = dial.control_path.as_path().to_owned();
        Box::pin(async move {
            use std::os::unix::fs::MetadataExt;
            // The socket is in a directory of this computer's memory: looking does not wait.
            let look = || std::fs::metadata(&path).ok().map(|found| (found.dev(), found.ino()));
            let before = look();
            loop {
                tokio::time::sleep(SOCKET_CHECK).await;
                let now = look();
                if now.is_some() && now != before {
                    return;
                }
            }
        })
    }
}

/// Reaches the agent of a machine whose master is there. Puts the agent in its place first if it is not.
pub async fn connect_placing(
    ssh: &SshOptions,
    agents: &Agents,
    options: ConnectOptions,
    sink: Arc<dyn EventSink>,
) -> Result<Connection, OpenError> {
    let dial = ssh.dial(ByteString::default());
    let command = agents.start_command();
    let over = |(stream, program)| Connection { client: AgentClient::over(stream, sink.clone()), program };
    let failed = match attempt(&dial, &command, options).await? {
        Ok(reached) => return Ok(over(reached)),
        Err(failed) => failed,
    };
    let machine = match failed.absence() {
        Some(Absence::Missing(machine)) => machine,
        Some(Absence::Foreign(machine)) => return Err(agents.foreign(machine).into()),
        // A damaged file is as good as none. What it does is no telling: part of a program may do anything, and a shell
        // runs as a script what is no program.
        None if !failed.is_no_agent() => return Err(failed.into_far_error(&dial)),
        None => match damage(&dial, agents).await? {
            Some(machine) => machine,
            None => return Err(failed.into_far_error(&dial)),
        },
    };
    tracing::info!(machine = %ssh.target, system = machine, "placing the agent");
    let mut route = Route::of(&dial);
    while let Err(error) = agents.place(&route.dial(), &machine).await {
        match error {
            PlaceError::Ssh(error) => route.turn(*error).await?,
            error => return Err(error.into()),
        }
    }
    attempt(&dial, &command, options).await?.map(over).map_err(|failed| failed.into_far_error(&dial))
}

/// Reaches the agent of a machine where one has been placed, through the first master alone, which is there. Tries once,
/// neither places an agent nor asks for another master: for what is opened ahead of being asked for.
pub async fn connect_placed(
    ssh: &SshOptions,
    agents: &Agents,
    options: ConnectOptions,
    sink: Arc<dyn EventSink>,
) -> Result<Connection, OpenError> {
    let dial = ssh.dial(ByteString::default());
    let (program, stream) = ssh::channel(&dial, &agents.start_command())?;
    let (stream, program) =
        introduce(program, stream, options).await.map_err(|failed| failed.into_far_error(&dial))?;
    Ok(Connection { client: AgentClient::over(stream, sink), program })
}

/// A stream that is no link, with what is known of the reason.
struct Failed {
    source: ConnectError,
    exit: Option<Exit>,
}

async fn attempt(
    dial: &SshDial,
    command: &str,
    options: ConnectOptions,
) -> Result<Result<Reached, Failed>, OpenError> {
    let mut route = Route::of(dial);
    loop {
        let (program, stream) = ssh::channel(&route.dial(), command)?;
        let failed = match introduce(program, stream, options).await {
            Ok(reached) => return Ok(Ok(reached)),
            Err(failed) => failed,
        };
        match failed.exit.as_ref().and_then(|exit| route.refusal(exit)) {
            Some(error) => route.turn(error).await?,
            None => return Ok(Err(failed)),
        }
    }
}

async fn introduce(program: Program, stream: UnixStream, options: ConnectOptions) -> Result<Reached, Failed> {
    let introduced = match ByteStream::try_from(stream) {
        Ok(stream) => Introduced::over(stream, options).await,
        Err(error) => Err(ConnectError::Lost(error.into())),
    };
    let source = match introduced {
        Ok(stream) => return Ok((stream, program)),
        Err(source) => source,
    };
    let exit = match &source {
        ConnectError::NotAnAgent { ended: true, .. } | ConnectError::Lost(_) => {
            tokio::time::timeout(EXIT_TIMEOUT, program.ended()).await.ok()
        }
        _ => None,
    };
    Err(Failed { source, exit })
}

impl Failed {
    fn code(&self) -> Option<i32> {
        self.exit.as_ref()?.status?.code()
    }

    fn noise(&self) -> &[u8] {
        match &self.source {
            ConnectError::NotAnAgent { noise, .. } | ConnectError::TimedOut { noise, .. } => &noise.0,
            ConnectError::Mismatch(_) | ConnectError::Lost(_) => &[],
        }
    }

    fn absence(&self) -> Option<Absence> {
        place::absence(self.noise())
    }

    /// Whether something ran there that does not speak as an agent does.
    fn is_no_agent(&self) -> bool {
        matches!(self.source, ConnectError::NotAnAgent { .. })
    }

    fn into_error(self) -> OpenError {
        OpenError::Agent { source: self.source, exit: self.exit }
    }

    /// What the failure of a channel means.
    fn into_far_error(self, dial: &SshDial) -> OpenError {
        let Some(exit) = &self.exit else { return self.into_error() };
        if let Some(error) = ssh::explain_channel(&dial.host, exit) {
            return error.into();
        }
        let words = exit.last_words.join("; ");
        let refused = ["Permission denied", "Operation not permitted", "Exec format error", "cannot execute"];
        if self.code() == Some(CANNOT_RUN) || refused.iter().any(|reason| words.contains(reason)) {
            return PlaceError::NoExec { said_there: words }.into();
        }
        match &self.source {
            ConnectError::NotAnAgent { noise, ended: true } if self.code() != Some(0) => {
                let said = [noise.to_string(), words].into_iter().filter(|said| !said.is_empty());
                PlaceError::NoShell { said_there: said.collect::<Vec<_>>().join("; ") }.into()
            }
            _ => self.into_error(),
        }
    }
}

/// What `uname -sm` says on a machine where the file in the agent's place is not the agent, or is gone. `None` where it is,
/// and where the machine does not say: then the reason that there is no link is another.
async fn damage(dial: &SshDial, agents: &Agents) -> Result<Option<String>, OpenError> {
    let output = output_of(dial, &agents.sum_command()).await?;
    if let Some(Absence::Missing(machine)) = place::absence(&output) {
        return Ok(Some(machine));
    }
    let Some(placed) = place::placed_sum(&output) else { return Ok(None) };
    Ok((!agents.is_intact(&placed).await?).then_some(placed.machine))
}

/// What a short command prints there, up to where the connection breaks.
async fn output_of(dial: &SshDial, command: &str) -> Result<Vec<u8>, OpenError> {
    /// Far more than a command and a login's greeting print.
    const OUTPUT_BYTES_MAX: u64 = 64 << 10;
    let mut route = Route::of(dial);
    loop {
        let (program, stream) = ssh::channel(&route.dial(), command)?;
        let mut output = Vec::new();
        let reading = async { stream.take(OUTPUT_BYTES_MAX).read_to_end(&mut output).await };
        match tokio::time::timeout(ConnectOptions::default().timeout, reading).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the agent's place could not be looked at"),
            Err(_) => return Err(PlaceError::TimedOut.into()),
        }
        let exit = tokio::time::timeout(EXIT_TIMEOUT, program.ended()).await;
        match exit.ok().and_then(|exit| route.refusal(&exit)) {
            Some(error) => route.turn(error).await?,
            None => return Ok(output),
        }
    }
}
