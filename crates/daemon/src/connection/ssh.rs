//! Machines behind the user's OpenSSH.
//!
//! A connection is a control master that has logged in, and one channel of it to the machine's agent, whose heartbeats
//! tell whether the machine is there. Workers open channels of their own.

use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use remote::client::{ConnectOptions, Heartbeat, NoEvents};
use remote::place::Agents;
use remote::transport::host::HostOptions;
use remote::transport::ssh::{
    LoginOptions, Master, Prompts, SshOptions, UserConfig, control_path, write_config,
};
use remote::{Connection, OpenError, askpass, connect, connect_placing};
use wire::api::machine::{CALLER_VARIABLES, Machine, SshTarget};
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;
use wire::worker::{Dial, SshDial};

use super::{ConnectRequest, Connector, Later, Link};
use crate::failure::{chain, failure};

/// Who answers prompts gets this long; beyond it ssh itself gives up.
const ATTENDED_LOGIN: Duration = super::CONNECT_TIMEOUT;

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
}

impl SshConnector {
    /// With these settings.
    pub fn new(settings: SshSettings) -> SshConnector {
        SshConnector { settings: Arc::new(settings) }
    }
}

impl Connector for SshConnector {
    fn connect(&self, request: ConnectRequest) -> Later<'static, Result<Arc<dyn Link>, ErrorObject>> {
        let settings = Arc::clone(&self.settings);
        Box::pin(async move { open(&settings, request).await })
    }
}

async fn open(settings: &SshSettings, request: ConnectRequest) -> Result<Arc<dyn Link>, ErrorObject> {
    let Machine::Ssh(target) = &request.machine else {
        return Err(ErrorObject::internal(format!("`{}` is not reached through ssh", request.machine)));
    };
    let name = request.machine.to_string();
    let options = ssh_options(settings, target, &request)?;
    let login = login(settings, &request)?;
    let preparing = settings.clone();
    let agents =
        tokio::task::spawn_blocking(move || Agents::find(&preparing.own_program, preparing.agent.as_deref()))
            .await
            .map_err(|error| failure(&error))?
            .map_err(|error| from_open(&name, &OpenError::from(error)))?;
    let master = Master::start(options.clone(), &login)
        .await
        .map_err(|error| from_open(&name, &OpenError::from(error)))?;
    let control = connect_placing(&options, &agents, ConnectOptions::default(), Arc::new(NoEvents))
        .await
        .map_err(|error| from_open(&name, &error))?;
    let description = control.client.describe().await.map_err(|error| {
        ErrorObject::new(ErrorKind::Unreachable, format!("lost `{name}`: {}", chain(&error)))
    })?;
    let dial = options.dial(ByteString::from(description.program));
    let open = Mutex::new(Some(Open { master, control }));
    let (agent_version, heartbeat) = (description.release, request.heartbeat);
    Ok(Arc::new(SshLink { machine: name, dial, agent_version, heartbeat, open }))
}

fn ssh_options(
    settings: &SshSettings,
    target: &SshTarget,
    request: &ConnectRequest,
) -> Result<SshOptions, ErrorObject> {
    let config = settings.runtime_dir.join("ssh_config");
    write_config(&config, &settings.config).map_err(|error| failure(&error))?;
    let known = |name: &str| CALLER_VARIABLES.contains(&name);
    let environment = request.caller.environment.iter().filter(|(name, _)| known(name));
    Ok(SshOptions {
        program: settings.program.clone(),
        target: target.clone(),
        config,
        control: control_path(&settings.runtime_dir, target),
        environment: environment.map(|(name, value)| (OsString::from(name), value.clone().into())).collect(),
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
pub(super) fn from_open(machine: &str, error: &OpenError) -> ErrorObject {
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
    machine: String,
    dial: SshDial,
    agent_version: String,
    heartbeat: Heartbeat,
    /// Taken by `close`.
    open: Mutex<Option<Open>>,
}

#[derive(Clone)]
struct Open {
    master: Master,
    control: Connection,
}

impl SshLink {
    fn get(&self) -> Option<Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn closed(&self) -> ErrorObject {
        ErrorObject::new(ErrorKind::Unreachable, format!("the connection to `{}` is closed", self.machine))
    }
}

impl Link for SshLink {
    fn dial(&self) -> Dial {
        Dial::Ssh(self.dial.clone())
    }

    fn open(&self) -> Later<'_, Result<Connection, ErrorObject>> {
        Box::pin(async {
            let connected =
                connect(&self.dial(), &HostOptions::default(), ConnectOptions::default(), Arc::new(NoEvents))
                    .await;
            connected.map_err(|error| from_open(&self.machine, &error))
        })
    }

    fn shared(&self) -> Later<'_, Result<Connection, ErrorObject>> {
        Box::pin(async { self.get().map(|open| open.control).ok_or_else(|| self.closed()) })
    }

    fn agent_version(&self) -> Option<String> {
        Some(self.agent_version.clone())
    }

    fn pids(&self) -> Vec<u32> {
        self.get().map(|open| vec![open.master.pid(), open.control.program.pid()]).unwrap_or_default()
    }

    fn lost(&self) -> Later<'_, String> {
        Box::pin(async {
            let Some(open) = self.get() else {
                return "it is closed".to_owned();
            };
            tokio::select! {
                error = open.master.ended() => chain(&error),
                lost = open.control.client.keep_alive(self.heartbeat, |_| ()) => chain(&lost),
            }
        })
    }

    fn close(&self) -> Later<'_, ()> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        Box::pin(async move {
            let Some(Open { master, control }) = open else {
                return;
            };
            control.client.close_link();
            let channel = control.program.clone();
            drop(control);
            channel.ended().await;
            drop(master);
        })
    }
}

/// Ends the masters that a previous life of the daemon left behind. Their sockets are in a directory that only this
/// user can write to, so whoever listens there is ours.
pub fn end_masters(runtime_dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(runtime_dir)? {
        let entry = entry?;
        let is_master = entry.file_name().to_str().is_some_and(|name| {
            name.strip_prefix('s')
                .is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
        });
        if !is_master || !entry.file_type()?.is_socket() {
            continue;
        }
        end_master(&entry.path());
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::debug!(path = %entry.path().display(), %error, "an old control socket was not removed");
        }
    }
    Ok(())
}

fn end_master(socket: &Path) {
    // Nobody listens any more: nothing to end.
    let Ok(stream) = std::os::unix::net::UnixStream::connect(socket) else {
        return;
    };
    let pid = supervisor::socket::peer(&stream)
        .ok()
        .and_then(|peer| rustix::process::Pid::from_raw(i32::try_from(peer.pid).ok()?));
    let Some(pid) = pid else {
        return;
    };
    tracing::info!(pid = pid.as_raw_nonzero().get(), "ending an ssh of a previous life");
    // It holds the other end of our socket, so the number is still its own.
    if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM) {
        tracing::warn!(%error, "could not end an ssh of a previous life");
    }
}
