//! Connections to machines.
//!
//! ```text
//!   connecting ──up──► connected ──lost──► reconnecting ──up──► connected
//!       │ failed            │ idle for IDLE_GRACE,    │ failed: again, after longer and longer pauses
//!       ▼                   ▼ or told to              ▼ --no-reconnect, out of tries, or nobody needs it
//!  forgotten             closed                  disconnected ──asked for──► connecting
//! ```
//!
//! When what is tried again is decided by [`remote::link`], a pure function; the [owner](crate::owner) holds its state.
//! How a machine is reached is a [`Connector`]'s business. This module runs one task for each try, which opens the link,
//! watches it as long as it lasts, and closes it.

mod carried;
mod commands;
mod control;
mod docker;
mod host;
mod ssh;
mod vm;

pub use commands::{CommandSession, CommandSessions};
pub use docker::DockerConnector;
pub(crate) use docker::{engine_of, from_errand};
pub use host::HostConnector;
pub(crate) use ssh::from_open;
pub use ssh::{SshConnector, SshSettings, end_masters};
pub use vm::VmConnector;

use std::ffi::OsString;
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use remote::Connection;
use remote::client::Heartbeat;
use remote::transport::docker::Engine;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use wire::api::id::ConnectionId;
use wire::api::machine::{CALLER_VARIABLES, Caller, Machine};
use wire::api::prompt::Secret;
use wire::api::{ErrorKind, ErrorObject};
use wire::hello::SessionId;
use wire::worker::Dial;

use crate::owner::{Event, OwnerHandle};
use crate::prompt::{Prompter, Ticket};

/// How long a connection without users is kept, so that a series of commands opens it once.
pub const IDLE_GRACE: Duration = Duration::from_secs(10);

/// How long opening a connection may take, with the typing of a passphrase.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(180);

/// How long a connection may take to close before it is left to itself: a process that does not end is killed after
/// three seconds.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A boxed future, for traits that are used as objects.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How long a link that is in doubt, because the computer slept or changed its network, may take to answer once.
const ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Heartbeats more often than that would be traffic, more seldom they would find nothing.
const HEARTBEAT_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// The heartbeat with these parts; what is not given is that of `usual`.
pub fn heartbeat(
    interval_ms: Option<u64>,
    failures_max: Option<u32>,
    usual: wire::worker::Heartbeat,
) -> Result<wire::worker::Heartbeat, ErrorObject> {
    let interval_ms = interval_ms.unwrap_or(usual.interval_ms);
    if !HEARTBEAT_INTERVALS.contains(&Duration::from_millis(interval_ms)) {
        let (least, most) = (HEARTBEAT_INTERVALS.start().as_millis(), HEARTBEAT_INTERVALS.end().as_millis());
        let message = format!("a heartbeat interval is {least} to {most} ms");
        return Err(ErrorObject::new(ErrorKind::Usage, message));
    }
    let failures_max = failures_max.unwrap_or(usual.failures_max);
    Ok(wire::worker::Heartbeat { interval_ms, failures_max })
}

/// The same for a link's client.
fn beats(heartbeat: wire::worker::Heartbeat) -> Heartbeat {
    Heartbeat { interval: Duration::from_millis(heartbeat.interval_ms), failures_max: heartbeat.failures_max }
}

/// What is known when a connection is opened.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// Names the connection's files.
    pub id: ConnectionId,
    /// Where to.
    pub machine: Machine,
    /// For whom: the environment in which its ssh runs.
    pub caller: Caller,
    /// The engine of a container.
    pub engine: Option<Engine>,
    /// What an askpass program has to show to reach the caller; none when nobody can be asked.
    pub ticket: Option<Secret>,
    /// Whether somebody waits to [open](Link::open) a session, which may be begun ahead.
    pub opens: bool,
}

/// How a sort of machine is reached.
pub trait Connector: Send + Sync + 'static {
    /// Opens a link. What a future that is dropped had begun comes to an end by itself.
    fn connect(&self, request: ConnectRequest) -> Later<'static, Result<Arc<dyn Link>, ErrorObject>>;

    /// Waits until nothing is left of a try that was given up.
    fn given_up(&self, _machine: &Machine) -> Later<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What of a caller's environment reaches the processes that are started for him.
fn variables_of(caller: &Caller) -> Vec<(OsString, OsString)> {
    let known = |name: &str| CALLER_VARIABLES.contains(&name);
    let environment = caller.environment.iter().filter(|(name, _)| known(name));
    environment.map(|(name, value)| (OsString::from(name), value.clone().into())).collect()
}

/// A command that waits for something of a machine.
#[derive(Debug)]
pub struct Attendant {
    /// In whose environment a login for it runs.
    pub caller: Caller,
    /// Who can be asked for a password; none when nobody can.
    pub prompter: Option<Prompter>,
}

impl Attendant {
    /// A command of `caller`'s. It waits as long as this is kept.
    pub fn new(caller: &Caller, prompter: Option<Prompter>) -> Arc<Attendant> {
        Arc::new(Attendant { caller: caller.clone(), prompter })
    }
}

/// An open link. The last handle to go closes it.
pub trait Link: Send + Sync + 'static {
    /// How a worker gets a stream to the machine's agent through this link.
    fn dial(&self) -> Dial;

    /// Makes known who waits for what is opened through this link. As long as `attendant` is there, a login that becomes
    /// necessary for it may ask that client; when nobody is, it asks nobody. A link without logins has no use for it.
    fn attend(&self, _attendant: &Arc<Attendant>) {}

    /// Opens a session of its own with the machine's agent.
    fn open(&self) -> Later<'_, Result<Connection, ErrorObject>>;

    /// A session for what needs none of its own: questions about the machine.
    fn shared(&self) -> Later<'_, Result<Connection, ErrorObject>>;

    /// The session that commands run in. It outlives the link, and goes on with the next one.
    fn commands(&self) -> Later<'_, Result<Arc<CommandSession>, ErrorObject>>;

    /// Ends a session that a client which is gone has left with the machine's agent, and waits for its end. On this computer
    /// it is looked for where the client's environment says. One that is gone already has been ended.
    fn end_session(&self, session: SessionId, client: &Caller) -> Later<'_, Result<(), ErrorObject>>;

    /// There will be no other link to go on with: what outlives this one is to end with it.
    fn be_last(&self) {}

    /// The version of the agent there, if it is known.
    fn agent_version(&self) -> Option<String>;

    /// Its local processes.
    fn pids(&self) -> Vec<u32>;

    /// Waits until it is lost; why, in one line. Asks for signs of life meanwhile.
    fn lost(&self, heartbeat: Heartbeat) -> Later<'_, String>;

    /// Whether the machine answers. Waits as long as it does not.
    fn is_alive(&self) -> Later<'_, bool>;

    /// Closes it in an orderly way.
    fn close(&self) -> Later<'_, ()>;
}

/// What a connection's task tells the owner.
pub enum ConnectionEvent {
    /// The link is open.
    Up(Arc<dyn Link>),
    /// It could not be opened.
    Failed(ErrorObject),
    /// It was open and is not any more. [`ConnectionEvent::Closed`] follows.
    Lost(String),
    /// Nothing of it is left.
    Closed,
}

impl std::fmt::Debug for ConnectionEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ConnectionEvent::Up(_) => f.write_str("Up"),
            ConnectionEvent::Failed(error) => write!(f, "Failed({error})"),
            ConnectionEvent::Lost(reason) => write!(f, "Lost({reason})"),
            ConnectionEvent::Closed => f.write_str("Closed"),
        }
    }
}

/// What a try at a connection needs besides its [`ConnectRequest`].
pub struct Try {
    /// Which one it is, counted from 1: what it tells is told with this number.
    pub number: u64,
    /// What can be shown by the askpass program; it is good for this login.
    pub ticket: Option<Ticket>,
    /// The end of the link before, which may still hold the files of the connection.
    pub after: Option<JoinHandle<()>>,
    /// Sent or dropped to close it.
    pub close: oneshot::Receiver<()>,
    /// Told when the link is in doubt.
    pub doubt: Arc<Notify>,
    /// How its liveness is watched, from now on.
    pub heartbeat: watch::Receiver<wire::worker::Heartbeat>,
}

/// Runs one try at a connection until it is lost, cannot be opened, or is closed. Returns when nothing of it is left.
pub async fn run(connector: Arc<dyn Connector>, request: ConnectRequest, attempt: Try, owner: OwnerHandle) {
    let Try { number, ticket, after, mut close, doubt, mut heartbeat } = attempt;
    let id = request.id;
    let tell = async |event| owner.send(Event::Connection { id, number, event }).await;
    let machine = request.machine.clone();
    let opening = async {
        if let Some(after) = after
            && let Err(error) = after.await
        {
            tracing::error!(connection = %id, %error, "the link before did not end");
        }
        tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(request)).await
    };
    let opened = tokio::select! {
        opened = opening => Some(opened),
        _ = &mut close => None,
    };
    drop(ticket);
    let Some(opened) = opened else {
        if tokio::time::timeout(CLOSE_TIMEOUT, connector.given_up(&machine)).await.is_err() {
            tracing::warn!(connection = %id, %machine, "what a given up try had begun did not end in time");
        }
        return tell(ConnectionEvent::Closed).await;
    };
    let link = match opened {
        Ok(Ok(link)) => link,
        Ok(Err(error)) => return tell(ConnectionEvent::Failed(error)).await,
        Err(_) => {
            let seconds = CONNECT_TIMEOUT.as_secs();
            let message = format!("could not connect to `{machine}`: nothing came of it within {seconds} s");
            return tell(ConnectionEvent::Failed(ErrorObject::new(ErrorKind::TimedOut, message))).await;
        }
    };
    tell(ConnectionEvent::Up(Arc::clone(&link))).await;
    let lost = loop {
        let beats = beats(*heartbeat.borrow_and_update());
        tokio::select! {
            reason = link.lost(beats) => break Some(reason),
            Ok(()) = heartbeat.changed() => {}
            () = doubt.notified() => {
                let alive = tokio::time::timeout(ALIVE_TIMEOUT, link.is_alive()).await;
                if alive != Ok(true) {
                    break Some("it does not answer any more".to_owned());
                }
            }
            _ = &mut close => break None,
        }
    };
    // A lost link is told at once: how long its remains take to go is nobody's concern but the next try's.
    if let Some(reason) = lost {
        tell(ConnectionEvent::Lost(reason)).await;
    }
    if tokio::time::timeout(CLOSE_TIMEOUT, link.close()).await.is_err() {
        tracing::warn!(connection = %id, %machine, "a connection did not close in time");
    }
    tell(ConnectionEvent::Closed).await;
}

/// The right to use a connection. It stays open at least as long as somebody has one.
pub struct Lease {
    id: ConnectionId,
    link: Arc<dyn Link>,
    owner: OwnerHandle,
}

impl Lease {
    pub(crate) fn new(id: ConnectionId, link: Arc<dyn Link>, owner: OwnerHandle) -> Lease {
        Lease { id, link, owner }
    }

    /// The link.
    pub fn link(&self) -> &dyn Link {
        &*self.link
    }

    /// The link, for a task. It is open at least as long as the lease is there.
    pub(crate) fn shared_link(&self) -> Arc<dyn Link> {
        Arc::clone(&self.link)
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({})", self.id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.owner.send_later(Event::Release(self.id));
    }
}
