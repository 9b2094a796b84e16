//! Connections to machines.
//!
//! ```text
//!   connecting ──up──► connected ──lost──► disconnected ──asked for again──► reconnecting ──up──► connected
//!       │ failed: forgotten     │ idle for IDLE_GRACE, or told to: closed
//! ```
//!
//! How a machine is reached is a [`Connector`]'s business. This module runs one task for each connection, which carries
//! out what the [owner](crate::owner) decides and tells it what happens.

mod host;
mod ssh;

pub use host::HostConnector;
pub use ssh::{SshConnector, SshSettings, end_masters};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use remote::Connection;
use remote::client::Heartbeat;
use tokio::sync::oneshot;
use wire::api::id::ConnectionId;
use wire::api::machine::{Caller, Machine};
use wire::api::prompt::Secret;
use wire::api::{ErrorKind, ErrorObject};
use wire::worker::Dial;

use crate::owner::{Event, OwnerHandle};
use crate::prompt::{Prompter, Ticket};

/// How long a connection without users is kept, so that a series of commands opens it once.
pub const IDLE_GRACE: Duration = Duration::from_secs(10);

/// How long opening a connection may take, with the typing of a passphrase.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(180);

/// How long a connection may take to close before it is left to itself.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A boxed future, for traits that are used as objects.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The heartbeats of a connection that nothing else was said about: a dead link is found in three quarters of a minute.
pub const HEARTBEAT: Heartbeat = Heartbeat { interval: Duration::from_secs(15), failures_max: 3 };

/// What is known when a connection is opened.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// Names the connection's files.
    pub id: ConnectionId,
    /// Where to.
    pub machine: Machine,
    /// For whom: the environment in which its ssh runs.
    pub caller: Caller,
    /// How its liveness is watched.
    pub heartbeat: Heartbeat,
    /// What an askpass program has to show to reach the caller; none when nobody can be asked.
    pub ticket: Option<Secret>,
}

/// How a sort of machine is reached.
pub trait Connector: Send + Sync + 'static {
    /// Opens a link. A future that is dropped leaves nothing behind.
    fn connect(&self, request: ConnectRequest) -> Later<'static, Result<Arc<dyn Link>, ErrorObject>>;
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

    /// A session for what needs none of its own: processes, questions about the machine.
    fn shared(&self) -> Later<'_, Result<Connection, ErrorObject>>;

    /// The version of the agent there, if it is known.
    fn agent_version(&self) -> Option<String>;

    /// Its local processes.
    fn pids(&self) -> Vec<u32>;

    /// Waits until it is lost; why, in one line.
    fn lost(&self) -> Later<'_, String>;

    /// Closes it in an orderly way.
    fn close(&self) -> Later<'_, ()>;
}

/// What a connection's task tells the owner.
pub enum ConnectionEvent {
    /// The link is open.
    Up(Arc<dyn Link>),
    /// It could not be opened.
    Failed(ErrorObject),
    /// It was open and is gone.
    Lost(String),
    /// It was closed on request.
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

/// Runs one connection until it is lost, cannot be opened, or `close` is sent or dropped. The ticket ends with the
/// login.
pub async fn run(
    connector: Arc<dyn Connector>,
    request: ConnectRequest,
    ticket: Option<Ticket>,
    close: oneshot::Receiver<()>,
    owner: OwnerHandle,
) {
    let id = request.id;
    let tell = async |event| owner.send(Event::Connection(id, event)).await;
    let mut close = close;
    let machine = request.machine.clone();
    let opened = tokio::select! {
        opened = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(request)) => opened,
        _ = &mut close => return tell(ConnectionEvent::Closed).await,
    };
    drop(ticket);
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
    tokio::select! {
        reason = link.lost() => tell(ConnectionEvent::Lost(reason)).await,
        _ = &mut close => {
            if tokio::time::timeout(CLOSE_TIMEOUT, link.close()).await.is_err() {
                tracing::warn!(connection = %id, %machine, "a connection did not close in time");
            }
            tell(ConnectionEvent::Closed).await;
        }
    }
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
