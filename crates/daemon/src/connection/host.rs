//! This computer: nothing to open, an agent is a child process away.

use std::sync::Arc;
use std::time::Duration;

use remote::client::{ConnectOptions, Heartbeat, NoEvents};
use remote::link::Policy;
use remote::transport::host::HostOptions;
use remote::{Connection, connect_host, end_host_session};
use wire::api::ErrorObject;
use wire::api::machine::{Caller, Machine};
use wire::hello::SessionId;
use wire::worker::Dial;

use super::commands::LinkCommands;
use super::ssh::from_open;
use super::{CommandSession, CommandSessions, ConnectRequest, Connector, Later, Link, variables_of};

/// How long commands run on when this daemon was killed: only another one could come back for them, and not for those.
const COMMANDS_KEPT: Duration = Duration::from_secs(5);

/// Reaches this computer.
#[derive(Debug, Clone)]
pub struct HostConnector {
    agent: HostOptions,
    commands: CommandSessions,
}

impl HostConnector {
    /// With this agent.
    pub fn new(agent: HostOptions, commands: CommandSessions) -> HostConnector {
        HostConnector { agent, commands }
    }
}

impl Connector for HostConnector {
    fn connect(&self, _: ConnectRequest) -> Later<'static, Result<Arc<dyn Link>, ErrorObject>> {
        let link: Arc<dyn Link> =
            Arc::new(HostLink { agent: self.agent.clone(), commands: self.commands.of_link(&Machine::Host) });
        Box::pin(std::future::ready(Ok(link)))
    }
}

struct HostLink {
    agent: HostOptions,
    commands: LinkCommands,
}

impl Link for HostLink {
    fn dial(&self) -> Dial {
        Dial::Host
    }

    fn open(&self) -> Later<'_, Result<Connection, ErrorObject>> {
        Box::pin(async {
            let connected = connect_host(&self.agent, ConnectOptions::default(), Arc::new(NoEvents)).await;
            connected.map_err(|error| from_open("host", &error))
        })
    }

    fn shared(&self) -> Later<'_, Result<Connection, ErrorObject>> {
        self.open()
    }

    fn commands(&self) -> Later<'_, Result<Arc<CommandSession>, ErrorObject>> {
        Box::pin(async {
            let way = (self.dial(), self.agent.clone());
            let session = self.commands.session(way, Policy::HOST, COMMANDS_KEPT).await;
            session.map_err(|error| from_open("host", &error))
        })
    }

    fn be_last(&self) {
        self.commands.be_last();
    }

    fn end_session(&self, session: SessionId, client: &Caller) -> Later<'_, Result<(), ErrorObject>> {
        let variables = variables_of(client);
        Box::pin(async move {
            let ended = end_host_session(&self.agent, &variables, session).await;
            ended.map_err(|error| from_open("host", &error))
        })
    }

    fn agent_version(&self) -> Option<String> {
        Some(wire::RELEASE.to_owned())
    }

    fn pids(&self) -> Vec<u32> {
        Vec::new()
    }

    fn lost(&self, _: Heartbeat) -> Later<'_, String> {
        Box::pin(std::future::pending())
    }

    fn is_alive(&self) -> Later<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn close(&self) -> Later<'_, ()> {
        Box::pin(self.commands.close())
    }
}
