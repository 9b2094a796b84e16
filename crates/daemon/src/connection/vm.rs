//! MicroVMs.
//!
//! A connection is one stream to the guest's agent, carried by a process that ends with the VMM. Workers have streams of their
//! own. A microVM that is started again is the same machine, whose processes have ended; one that is made anew under the name
//! of another is not.

use std::sync::Arc;

use remote::client::{ConnectOptions, Heartbeat, NoEvents};
use remote::link::Policy;
use remote::transport::host::HostOptions;
use remote::transport::vm::VmError;
use remote::{Connection, OpenError, connect, end_vm_session};
use wire::api::ErrorObject;
use wire::api::machine::{Caller, Machine};
use wire::hello::SessionId;
use wire::paths::Paths;
use wire::worker::{Dial, VmDial};

use super::commands::LinkCommands;
use super::control::{self, Control};
use super::docker::COMMANDS_KEPT;
use super::ssh::from_open;
use super::{CommandSession, CommandSessions, ConnectRequest, Connector, Later, Link};
use crate::failure::chain;
use crate::vm::{dial, from_machine};

/// Reaches microVMs.
#[derive(Debug, Clone)]
pub struct VmConnector {
    paths: Paths,
    commands: CommandSessions,
}

impl VmConnector {
    /// To those that have their places there.
    pub fn new(paths: Paths, commands: CommandSessions) -> VmConnector {
        VmConnector { paths, commands }
    }
}

impl Connector for VmConnector {
    fn connect(&self, request: ConnectRequest) -> Later<'static, Result<Arc<dyn Link>, ErrorObject>> {
        let connector = self.clone();
        Box::pin(async move { open(&connector, request).await })
    }
}

async fn open(connector: &VmConnector, request: ConnectRequest) -> Result<Arc<dyn Link>, ErrorObject> {
    let Machine::Vm { name } = &request.machine else {
        return Err(ErrorObject::internal(format!("`{}` is no vm", request.machine)));
    };
    let dial = dial(&connector.paths, name).map_err(|error| from_machine(&error))?;
    let name = request.machine.to_string();
    let channel = reach(&name, &dial).await?;
    let (control, _) = Control::new(name, channel).await?;
    // The name may be another one's tomorrow.
    let commands = connector.commands.of_link(&Machine::Vm { name: dial.id.clone() });
    Ok(Arc::new(VmLink { dial, control, commands }))
}

async fn reach(name: &str, dial: &VmDial) -> Result<Connection, ErrorObject> {
    let dial = Dial::Vm(dial.clone());
    let reached =
        connect(&dial, &HostOptions::default(), ConnectOptions::default(), Arc::new(NoEvents)).await;
    reached.map_err(|error| match &error {
        OpenError::Vm(VmError { kind, message, hint }) => {
            let object = ErrorObject::new(*kind, message.clone());
            match hint {
                Some(hint) => object.with_hint(hint.clone()),
                None => object,
            }
        }
        error => from_open(name, error),
    })
}

struct VmLink {
    dial: VmDial,
    control: Control,
    commands: LinkCommands,
}

impl Link for VmLink {
    fn dial(&self) -> Dial {
        Dial::Vm(self.dial.clone())
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
            let ended = end_vm_session(&self.dial, session).await;
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
                // It ends with the VMM: no sign of life need be missed.
                exit = channel.program.ended() => match VmError::of(&exit) {
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
