//! Machines behind the user's OpenSSH.
//!
//! A connection is a control master that has logged in, and one channel of it to the machine's agent, whose heartbeats
//! tell whether the machine is there. Workers open channels of their own. When the machine gives out no more of them
//! through one master, more [masters](Masters) log in.
//!
//! Masters may outlive the channel to the agent: a connection whose agent has died is lost, and mounts go on through its
//! masters. The next connection to that machine takes them over. So it is with the masters of a daemon that is gone.
//!
//! Commands run in a session of their own, one for each machine, which begins with the first of them, and goes on through
//! the next connection's masters when this one is lost.

mod ahead;
mod logins;
mod previous;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use remote::client::{ConnectOptions, Heartbeat, LinkLost, NoEvents};
use remote::link::Policy;
use remote::transport::host::HostOptions;
use remote::transport::ssh::{
    LoginOptions, MastersEnd, Prompts, SshError, SshOptions, UserConfig, control_path, write_config,
};
use remote::{Connection, OpenError, askpass, connect, end_session};
use wire::api::ErrorObject;
use wire::api::machine::{Caller, Machine, SshTarget};
use wire::bytestring::ByteString;
use wire::hello::SessionId;
use wire::worker::{Dial, SshDial};

use super::commands::LinkCommands;
use super::control::{self, Control};
use super::{
    Attendant, CommandSession, CommandSessions, ConnectRequest, Connector, Later, Link, variables_of,
};
use crate::failure::{chain, failure};
use ahead::Ahead;
use logins::Logins;

pub use previous::end_masters;

/// Who answers prompts gets this long; beyond it ssh itself gives up.
const ATTENDED_LOGIN: Duration = super::CONNECT_TIMEOUT;

/// How long a command runs on at a machine that is away: a network that is changed, a train in a tunnel. Beyond it, it is
/// hung up there, as when nobody can come back for it because this daemon was killed.
const COMMANDS_KEPT: Duration = Duration::from_secs(10 * 60);

/// How ssh is run.
#[derive(Debug, Clone)]
pub struct SshSettings {
    /// The ssh program: a path, or a name in `PATH`.
    pub program: PathBuf,
    /// Whose configuration it reads.
    pub config: UserConfig,
    /// Where control sockets and the configuration file are put.
    pub runtime_dir: PathBuf,
    /// The daemon's socket, which the askpass program calls.
    pub socket: PathBuf,
    /// This program.
    pub own_program: PathBuf,
    /// An agent that is preferred to those beside this program.
    pub agent: Option<PathBuf>,
}

/// Reaches machines through ssh.
#[derive(Debug, Clone)]
pub struct SshConnector {
    settings: Arc<SshSettings>,
    /// The logins of each machine, until they have ended.
    known: Arc<Mutex<BTreeMap<SshTarget, Known>>>,
    commands: CommandSessions,
}

/// Logins that a link or a mount needs, or that are ending.
#[derive(Debug, Clone)]
struct Known {
    logins: Weak<Logins>,
    end: MastersEnd,
}

impl SshConnector {
    /// With these settings.
    pub fn new(settings: SshSettings, commands: CommandSessions) -> SshConnector {
        SshConnector { settings: Arc::new(settings), known: Arc::default(), commands }
    }

    /// The logins that the last connection to a machine has left behind and that are still good. Waits for the end of
    /// what is not, since no two masters can have one socket.
    async fn left_behind(&self, target: &SshTarget) -> Option<Arc<Logins>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(target).cloned()?;
        if let Some(logins) = known.logins.upgrade() {
            if logins.masters.is_open() {
                return Some(logins);
            }
            logins.masters.close().await;
        }
        known.end.wait().await;
        None
    }

    fn remember(&self, target: &SshTarget, logins: &Arc<Logins>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| !known.end.has_come());
        let end = logins.masters.end();
        known.insert(target.clone(), Known { logins: Arc::downgrade(logins), end });
    }
}

impl Connector for SshConnector {
    fn connect(&self, request: ConnectRequest) -> Later<'static, Result<Arc<dyn Link>, ErrorObject>> {
        let connector = self.clone();
        Box::pin(async move { open(&connector, request).await })
    }

    fn given_up(&self, machine: &Machine) -> Later<'static, ()> {
        let Machine::Ssh(target) = machine else { return Box::pin(std::future::ready(())) };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(target).cloned();
        // Those that somebody still has were there before.
        let ending = known.filter(|known| known.logins.strong_count() == 0).map(|known| known.end);
        Box::pin(async move {
            if let Some(end) = ending {
                end.wait().await;
            }
        })
    }
}

async fn open(connector: &SshConnector, request: ConnectRequest) -> Result<Arc<dyn Link>, ErrorObject> {
    let Machine::Ssh(target) = &request.machine else {
        return Err(ErrorObject::internal(format!("`{}` is not reached through ssh", request.machine)));
    };
    let settings = &connector.settings;
    let name = request.machine.to_string();
    let options = ssh_options(settings, target, &request)?;
    let login = login(settings, &request)?;
    let agents = control::agents(&name, &settings.own_program, settings.agent.as_deref()).await?;
    let logins = match connector.left_behind(target).await {
        Some(logins) => logins,
        None => {
            let logins = begin(settings, &options, &login).await;
            let logins = logins.map_err(|error| from_open(&name, &OpenError::from(error)))?;
            connector.remember(target, &logins);
            logins
        }
    };
    let reached = ahead::connect(&options, &agents, request.opens).await;
    let (channel, ahead) = reached.map_err(|error| from_open(&name, &error))?;
    let (control, program) = Control::new(name, channel).await?;
    let dial = options.dial(ByteString::from(program));
    let commands = connector.commands.of_link(&request.machine);
    Ok(Arc::new(SshLink { dial, logins, control, ahead: Mutex::new(ahead), commands }))
}

/// The logins of a daemon before this one, or a new one.
async fn begin(
    settings: &Arc<SshSettings>,
    options: &SshOptions,
    login: &LoginOptions,
) -> Result<Arc<Logins>, SshError> {
    match Logins::adopt(settings, options).await? {
        Some(logins) => Ok(logins),
        None => Logins::start(settings, options.clone(), login).await,
    }
}

fn ssh_options(
    settings: &SshSettings,
    target: &SshTarget,
    request: &ConnectRequest,
) -> Result<SshOptions, ErrorObject> {
    let config = settings.runtime_dir.join("ssh_config");
    write_config(&config, &settings.config).map_err(|error| failure(&error))?;
    Ok(SshOptions {
        program: settings.program.clone(),
        target: target.clone(),
        config,
        control: control_path(&settings.runtime_dir, target),
        environment: variables_of(&request.caller),
    })
}

fn login(settings: &SshSettings, request: &ConnectRequest) -> Result<LoginOptions, ErrorObject> {
    let Some(ticket) = &request.ticket else {
        return Ok(LoginOptions::unattended());
    };
    let program = askpass::link_program(&settings.runtime_dir, &settings.own_program)
        .map_err(|error| crate::failure::from_io("could not make the askpass program", &error))?;
    let environment = askpass::Environment::new(program, settings.socket.clone(), ticket.clone());
    Ok(LoginOptions { prompts: Prompts::Ask(environment), timeout: ATTENDED_LOGIN })
}

/// The error that a client sees for a machine that was not reached.
pub(crate) fn from_open(machine: &str, error: &OpenError) -> ErrorObject {
    let why = chain(error);
    // What ssh says names the machine already.
    let message = match why.contains(&format!("`{machine}`")) {
        true => why,
        false => format!("could not reach `{machine}`: {why}"),
    };
    let object = ErrorObject::new(error.kind(), message);
    match error.hint() {
        Some(hint) => object.with_hint(hint),
        None => object,
    }
}

struct SshLink {
    dial: SshDial,
    logins: Arc<Logins>,
    control: Control,
    /// Until somebody has it, or the link is closed or lost.
    ahead: Mutex<Option<Ahead>>,
    commands: LinkCommands,
}

impl SshLink {
    fn take_ahead(&self) -> Option<Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Link for SshLink {
    fn dial(&self) -> Dial {
        Dial::Ssh(self.dial.clone())
    }

    fn attend(&self, attendant: &Arc<Attendant>) {
        self.logins.attendants.add(attendant);
    }

    fn open(&self) -> Later<'_, Result<Connection, ErrorObject>> {
        Box::pin(async {
            if let Some(ahead) = self.take_ahead()
                && let Some(connection) = ahead.connection().await
            {
                return Ok(connection);
            }
            let connected =
                connect(&self.dial(), &HostOptions::default(), ConnectOptions::default(), Arc::new(NoEvents))
                    .await;
            connected.map_err(|error| from_open(self.control.machine(), &error))
        })
    }

    fn shared(&self) -> Later<'_, Result<Connection, ErrorObject>> {
        Box::pin(std::future::ready(self.control.shared()))
    }

    fn commands(&self) -> Later<'_, Result<Arc<CommandSession>, ErrorObject>> {
        Box::pin(async {
            let way = (self.dial(), HostOptions::default());
            // When the machine is given up is decided by the owner, which ends the commands then.
            let session = self.commands.session(way, Policy::SSH, COMMANDS_KEPT).await;
            session.map_err(|error| from_open(self.control.machine(), &error))
        })
    }

    fn end_session(&self, session: SessionId, _: &Caller) -> Later<'_, Result<(), ErrorObject>> {
        Box::pin(async move {
            let ended = end_session(&self.dial(), session).await;
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
        self.logins.masters.pids().into_iter().chain(self.control.pid()).collect()
    }

    fn lost(&self, heartbeat: Heartbeat) -> Later<'_, String> {
        Box::pin(async move {
            let Some(channel) = self.control.get() else {
                return "it is closed".to_owned();
            };
            let (reason, is_unreachable) = tokio::select! {
                error = self.logins.masters.ended() => (chain(&error), true),
                lost = channel.client.keep_alive(heartbeat, |_| ()) => {
                    (chain(&lost), matches!(lost, LinkLost::Silent { .. }))
                }
            };
            drop((channel, self.control.take(), self.take_ahead()));
            // Otherwise only the agent of this channel is gone: mounts have agents of their own.
            if is_unreachable {
                self.logins.masters.close().await;
            }
            reason
        })
    }

    fn is_alive(&self) -> Later<'_, bool> {
        Box::pin(self.control.is_alive())
    }

    fn close(&self) -> Later<'_, ()> {
        let (channel, ahead) = (self.control.take(), self.take_ahead());
        Box::pin(async move {
            drop(ahead);
            self.commands.close().await;
            control::end(channel).await;
            self.logins.masters.close().await;
        })
    }
}
