//! Containers of an engine.
//!
//! A connection is one stream to the container's agent, carried by a process that watches the container as well: when it
//! stops, is started again or is removed, that process ends and says so. Workers have streams of their own.
//!
//! A name means a container only together with an engine, and two callers may have two. The first one's holds as long as the
//! connection does; who means another one by the same name is refused. A container is another machine than one of the same
//! name before it: commands go on in the one in which they were begun, or not at all.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use remote::client::{ConnectOptions, Heartbeat, NoEvents};
use remote::link::Policy;
use remote::transport::docker::{self, ContainerError, Engine, ErrandError};
use remote::transport::host::HostOptions;
use remote::{Connection, OpenError, connect, end_docker_session};
use wire::api::machine::{Caller, Machine};
use wire::api::{ErrorKind, ErrorObject};
use wire::hello::SessionId;
use wire::worker::{Dial, DockerDial};

use super::commands::LinkCommands;
use super::control::{self, Control};
use super::ssh::from_open;
use super::{CommandSession, CommandSessions, ConnectRequest, Connector, Later, Link};
use crate::failure::{chain, failure};

/// How long a command runs on at a container that is away: one that is started again has lost it.
pub(super) const COMMANDS_KEPT: Duration = Duration::from_secs(10 * 60);

/// How long looking for a user's engine may take: his home directory may be on a network.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Finds the engine that a caller means.
pub(crate) async fn engine_of(caller: &Caller) -> Result<Engine, ErrorObject> {
    let caller = caller.clone();
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| PathBuf::from(format!("/run/user/{}", caller.uid)));
    let finding = tokio::task::spawn_blocking(move || {
        let variable = |name: &str| Some(caller.environment.get(name)?.as_path().to_owned());
        docker::resolve(variable, Some(&runtime_dir))
    });
    match tokio::time::timeout(RESOLVE_TIMEOUT, finding).await {
        Ok(Ok(found)) => found.map_err(|error| from_container(&error)),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) => {
            let seconds = RESOLVE_TIMEOUT.as_secs();
            let message = format!("docker's configuration could not be read within {seconds} s");
            Err(ErrorObject::new(ErrorKind::TimedOut, message))
        }
    }
}

pub(crate) fn from_container(error: &ContainerError) -> ErrorObject {
    with_hint(ErrorObject::new(error.kind, error.message.clone()), error.hint.clone())
}

/// The error that a client sees for an errand that failed.
pub(crate) fn from_errand(error: &ErrandError) -> ErrorObject {
    with_hint(ErrorObject::new(error.kind(), chain(error)), error.hint())
}

fn with_hint(object: ErrorObject, hint: Option<String>) -> ErrorObject {
    match hint {
        Some(hint) => object.with_hint(hint),
        None => object,
    }
}

/// Reaches containers.
#[derive(Debug, Clone)]
pub struct DockerConnector {
    own_program: PathBuf,
    agent: Option<PathBuf>,
    commands: CommandSessions,
}

impl DockerConnector {
    /// With the agents beside `own_program`, and `agent` before them.
    pub fn new(own_program: PathBuf, agent: Option<PathBuf>, commands: CommandSessions) -> DockerConnector {
        DockerConnector { own_program, agent, commands }
    }
}

impl Connector for DockerConnector {
    fn connect(&self, request: ConnectRequest) -> Later<'static, Result<Arc<dyn Link>, ErrorObject>> {
        let connector = self.clone();
        Box::pin(async move { open(&connector, request).await })
    }
}

async fn open(connector: &DockerConnector, request: ConnectRequest) -> Result<Arc<dyn Link>, ErrorObject> {
    let (Machine::Docker { container }, Some(engine)) = (&request.machine, &request.engine) else {
        return Err(ErrorObject::internal(format!("`{}` is no container of an engine", request.machine)));
    };
    let name = request.machine.to_string();
    let agents = control::agents(&name, &connector.own_program, connector.agent.as_deref()).await?;
    let prepared = docker::prepare(engine, container, &agents).await.map_err(|error| from_errand(&error))?;
    let dial = prepared.dial;
    let channel = reach(&name, &dial).await?;
    let (control, _) = Control::new(name, channel).await?;
    // The name may be another container's tomorrow, and at another engine's today.
    let commands = connector.commands.of_link(&Machine::Docker { container: dial.container.clone() });
    Ok(Arc::new(DockerLink { dial, control, commands }))
}

async fn reach(name: &str, dial: &DockerDial) -> Result<Connection, ErrorObject> {
    let dial = Dial::Docker(dial.clone());
    let reached =
        connect(&dial, &HostOptions::default(), ConnectOptions::default(), Arc::new(NoEvents)).await;
    reached.map_err(|error| match &error {
        OpenError::Container(error) => from_container(error),
        error => from_open(name, error),
    })
}

struct DockerLink {
    dial: DockerDial,
    control: Control,
    commands: LinkCommands,
}

impl Link for DockerLink {
    fn dial(&self) -> Dial {
        Dial::Docker(self.dial.clone())
    }

    fn open(&self) -> Later<'_, Result<Connection, ErrorObject>> {
        Box::pin(reach(self.control.machine(), &self.dial))
    }

    fn shared(&self) -> Later<'_, Result<Connection, ErrorObject>> {
        Box::pin(std::future::ready(self.control.shared()))
    }

    fn commands(&self) -> Later<'_, Result<Arc<CommandSession>, ErrorObject>> {
        Box::pin(async {
            let way = (self.dial(), HostOptions::default());
            let session = self.commands.session(way, Policy::DOCKER, COMMANDS_KEPT).await;
            session.map_err(|error| from_open(self.control.machine(), &error))
        })
    }

    fn end_session(&self, session: SessionId, _: &Caller) -> Later<'_, Result<(), ErrorObject>> {
        Box::pin(async move {
            let ended = end_docker_session(&self.dial, session).await;
            ended.map_err(|error| from_open(self.control.machine(), &error))
        })
    }

    fn be_last(&self) {
        self.commands.be_last();
    }

    fn agent_version(&self) -> Option<String> {
        Some(self.control.agent_version())
    }

    fn pids(&self) -> Vec<u32> {
        self.control.pid().into_iter().collect()
    }

    fn lost(&self, heartbeat: Heartbeat) -> Later<'_, String> {
        Box::pin(async move {
            let Some(channel) = self.control.get() else {
                return "it is closed".to_owned();
            };
            let reason = tokio::select! {
                // It watches the container, and ends with it: no sign of life need be missed.
                exit = channel.program.ended() => match ContainerError::of(&exit) {
                    Some(error) => error.message,
                    None => format!("the process that carries it {exit}"),
                },
                lost = channel.client.keep_alive(heartbeat, |_| ()) => chain(&lost),
            };
            drop((channel, self.control.take()));
            reason
        })
    }

    fn is_alive(&self) -> Later<'_, bool> {
        Box::pin(self.control.is_alive())
    }

    fn close(&self) -> Later<'_, ()> {
        let channel = self.control.take();
        Box::pin(async move {
            self.commands.close().await;
            control::end(channel).await;
        })
    }
}
