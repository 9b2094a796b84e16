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

use remote::transport::docker::{self, Engine, ErrandError};
use wire::api::machine::{Caller, Machine};
use wire::api::{ErrorKind, ErrorObject};
use wire::worker::Dial;

use super::carried::{CarriedLink, from_carrier, with_hint};
use super::{CommandSessions, ConnectRequest, Connector, Later, Link, control};
use crate::failure::{chain, failure};

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
        Ok(Ok(found)) => found.map_err(|error| from_carrier(&error)),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) => {
            let seconds = RESOLVE_TIMEOUT.as_secs();
            let message = format!("docker's configuration could not be read within {seconds} s");
            Err(ErrorObject::new(ErrorKind::TimedOut, message))
        }
    }
}

/// The error that a client sees for an errand that failed.
pub(crate) fn from_errand(error: &ErrandError) -> ErrorObject {
    with_hint(ErrorObject::new(error.kind(), chain(error)), error.hint())
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
    let kept = Machine::Docker { container: dial.container.clone() };
    Ok(Arc::new(CarriedLink::open(name, Dial::Docker(dial), &connector.commands, &kept).await?))
}
