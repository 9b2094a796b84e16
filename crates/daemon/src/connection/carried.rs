//! Links whose streams are carried by [errands](remote::transport::errand): to containers and microVMs. An errand ends with what it
//! leads into, and says so.

use std::sync::Arc;
use std::time::Duration;

use remote::client::{ConnectOptions, Heartbeat, NoEvents};
use remote::link::Policy;
use remote::transport::errand::CarrierError;
use remote::transport::host::HostOptions;
use remote::{Connection, OpenError, connect, end_session};
use wire::api::ErrorObject;
use wire::api::machine::{Caller, Machine};
use wire::hello::SessionId;
use wire::worker::Dial;

use super::commands::LinkCommands;
use super::control::{self, Control};
use super::ssh::from_open;
use super::{CommandSession, CommandSessions, Later, Link};
use crate::failure::chain;

/// How long a command runs on at a machine that is away: one that is started again has lost it.
const COMMANDS_KEPT: Duration = Duration::from_secs(10 * 60);

/// The error that a client sees for what an errand said.
pub(super) fn from_carrier(error: &CarrierError) -> ErrorObject {
    with_hint(ErrorObject::new(error.kind, error.message.clone()), error.hint.clone())
}

pub(super) fn with_hint(object: ErrorObject, hint: Option<String>) -> ErrorObject {
    match hint {
        Some(hint) => object.with_hint(hint),
        None => object,
    }
}

async fn reach(name: &str, dial: &Dial) -> Result<Connection, ErrorObject> {
    let reached = connect(dial, &HostOptions::default(), ConnectOptions::default(), Arc::new(NoEvents)).await;
    reached.map_err(|error| match &error {
        OpenError::Carrier(error) => from_carrier(error),
        error => from_open(name, error),
    })
}

/// See the module's documentation.
pub(super) struct CarriedLink {
    dial: Dial,
    control: Control,
    commands: LinkCommands,
}

impl CarriedLink {
    /// Reaches the agent of the machine that is called so. `kept` is the machine by what it is called as long as it exists: its
    /// name may be another one's tomorrow.
    pub async fn open(
        name: String,
        dial: Dial,
        commands: &CommandSessions,
        kept: &Machine,
    ) -> Result<CarriedLink, ErrorObject> {
        let channel = reach(&name, &dial).await?;
        let (control, _) = Control::new(name, channel).await?;
        let commands = commands.of_link(kept);
        Ok(CarriedLink { dial, control, commands })
    }
}

impl Link for CarriedLink {
    fn dial(&self) -> Dial {
        self.dial.clone()
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
            let ended = end_session(&self.dial, session).await;
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
                // It ends with the container or the VMM: no sign of life need be missed.
                exit = channel.program.ended() => match CarrierError::of(&exit) {
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
