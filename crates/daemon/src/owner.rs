//! The task that owns the daemon's state.
//!
//! Everything that can change the state or needs to see it is one [`Event`]. The task never waits for anything but the
//! next event: work that takes time is done by tasks of its own (one for each mount, one for each connection, one for
//! each client), which tell what came of it by an event.
//!
//! ```text
//!   sessions ─┐                        ┌─► mount tasks      (commands)
//!   mounts ───┼─► events ─► owner ─────┼─► connection tasks (close)
//!   timers ───┘                        └─► answers          (oneshot)
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use remote::client::Heartbeat;
use tokio::sync::{mpsc, oneshot};
use wire::api::id::{ConnectionId, MountId};
use wire::api::machine::{Caller, Machine, Source};
use wire::api::mount::{Removed, RemovedMount, Target};
use wire::api::prompt::Secret;
use wire::api::status::{self, ConnectionState, MountStatus};
use wire::api::time::Timestamp;
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;
use wire::worker::{Ready, WorkerStatus};

use crate::connection::{
    self, ConnectRequest, ConnectionEvent, Connector, HEARTBEAT, IDLE_GRACE, Lease, Link,
};
use crate::mount::plan::{Place, Plan};
use crate::mount::{Command, MountContext, MountHandle};
use crate::prompt::{Prompter, Ticket};

mod connections;
mod mounts;

#[cfg(test)]
mod tests;

/// Events that may wait. Whoever sends beyond it waits too; the owner itself sends none.
const EVENTS_MAX: usize = 1024;

/// The most mounts of one daemon. Each is a process.
pub const MOUNTS_MAX: usize = 4096;

/// Where an answer goes. That nobody waits for it any more is no failure.
pub type Answer<T> = oneshot::Sender<Result<T, ErrorObject>>;

/// Everything that can wake the owner.
#[derive(Debug)]
pub enum Event {
    /// A client wants a mount that has been prepared.
    CreateMount {
        /// What and where.
        plan: Box<Plan>,
        /// Who can be asked for a password.
        prompter: Option<Prompter>,
        /// Answered once it serves.
        answer: Answer<status::Mount>,
    },
    /// A client wants to speak with some mounts' tasks.
    SelectMounts {
        /// Which.
        target: Target,
        /// The inner ones first.
        answer: Answer<Vec<MountHandle>>,
    },
    /// What happened to a mount.
    Mount(MountId, MountEvent),
    /// Somebody needs a connection.
    Acquire {
        /// Where to, for whom.
        wanted: Box<Wanted>,
        /// Answered once it is open.
        answer: Answer<Lease>,
    },
    /// A lease has ended.
    Release(ConnectionId),
    /// A client wants a connection to be kept although nobody uses it.
    Pin {
        /// Which machine's.
        machine: Machine,
        /// How it is.
        answer: Answer<status::Connection>,
    },
    /// A client wants a connection closed.
    Disconnect {
        /// Which machine's.
        machine: Machine,
        /// What it was before.
        answer: Answer<ConnectionState>,
    },
    /// What happened to a connection.
    Connection(ConnectionId, ConnectionEvent),
    /// A connection has been without users for a while, if none came since.
    Idle {
        /// Which.
        id: ConnectionId,
        /// How many leases it had given out when the time began.
        leases: u64,
    },
    /// An askpass program shows a ticket.
    FindTicket {
        /// What it shows.
        secret: Secret,
        /// Who gave it.
        answer: oneshot::Sender<Option<Prompter>>,
    },
    /// A login is over.
    ForgetTicket(Secret),
    /// A client wants to see everything.
    Document {
        /// All of it.
        answer: oneshot::Sender<status::Document>,
    },
    /// The daemon is to end: no more mounts and connections are made.
    BeginStop {
        /// All mounts, the inner ones first.
        answer: oneshot::Sender<Vec<MountHandle>>,
    },
    /// The daemon goes on after all.
    AbandonStop,
    /// There are no mounts any more: close the connections and end.
    Quit {
        /// Answered when they are closed.
        answer: oneshot::Sender<()>,
    },
}

/// What a mount's task tells.
#[derive(Debug)]
pub enum MountEvent {
    /// It serves.
    Serving {
        /// The worker's process.
        pid: u32,
        /// What it said.
        ready: Box<Ready>,
    },
    /// How it does.
    Status(Box<WorkerStatus>),
    /// Its worker is gone, its directory is a directory again.
    Failed {
        /// Why.
        reason: String,
    },
    /// It is gone.
    Ended,
}

/// A connection that somebody needs.
#[derive(Debug)]
pub struct Wanted {
    /// Where to.
    pub machine: Machine,
    /// For whom.
    pub caller: Caller,
    /// Who can be asked for a password.
    pub prompter: Option<Prompter>,
    /// How its liveness is watched if it has to be opened.
    pub heartbeat: Heartbeat,
}

impl Wanted {
    /// A connection with the usual heartbeats.
    pub fn new(machine: Machine, caller: Caller, prompter: Option<Prompter>) -> Wanted {
        Wanted { machine, caller, prompter, heartbeat: HEARTBEAT }
    }
}

/// Sends events to the owner.
#[derive(Debug, Clone)]
pub struct OwnerHandle {
    events: mpsc::Sender<Event>,
}

impl OwnerHandle {
    /// A handle, and where its events arrive.
    pub fn new() -> (OwnerHandle, mpsc::Receiver<Event>) {
        let (events, arriving) = mpsc::channel(EVENTS_MAX);
        (OwnerHandle { events }, arriving)
    }

    /// Sends an event. Once the owner has ended there is nobody to tell, and nothing left to tell about.
    pub async fn send(&self, event: Event) {
        drop(self.events.send(event).await);
    }

    /// Sends an event from where nothing can be awaited: at once if there is room, otherwise from a task.
    pub fn send_later(&self, event: Event) {
        let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) else {
            return;
        };
        let owner = self.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { owner.send(event).await });
        }
    }

    /// Asks the owner something.
    pub async fn ask<T>(&self, event: impl FnOnce(Answer<T>) -> Event) -> Result<T, ErrorObject> {
        let (answer, answered) = oneshot::channel();
        self.send(event(answer)).await;
        answered.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Opens a connection, or joins one that is open.
    pub async fn acquire(&self, wanted: Wanted) -> Result<Lease, ErrorObject> {
        self.ask(|answer| Event::Acquire { wanted: Box::new(wanted), answer }).await
    }
}

/// What is said when the daemon takes no more orders.
pub fn ending() -> ErrorObject {
    ErrorObject::new(ErrorKind::Conflict, "the daemon is ending").with_hint("try again in a moment")
}

/// What the owner needs to start tasks.
pub struct Surroundings {
    /// How machines are reached.
    pub connectors: Connectors,
    /// What every mount's task needs.
    pub mounts: MountContext,
}

/// One connector for each sort of machine.
pub struct Connectors {
    /// This computer.
    pub host: Arc<dyn Connector>,
    /// Over ssh.
    pub ssh: Arc<dyn Connector>,
}

impl Connectors {
    fn of(&self, machine: &Machine) -> Option<Arc<dyn Connector>> {
        match machine {
            Machine::Host => Some(Arc::clone(&self.host)),
            Machine::Ssh(_) => Some(Arc::clone(&self.ssh)),
            Machine::Docker { .. } | Machine::Vm { .. } => None,
        }
    }
}

/// The state.
pub struct Owner {
    handle: OwnerHandle,
    surroundings: Surroundings,
    mounts: BTreeMap<MountId, MountRecord>,
    last_mount: u64,
    connections: BTreeMap<Machine, ConnectionRecord>,
    last_connection: u64,
    tickets: Vec<(Secret, Prompter)>,
    course: Course,
}

/// Where the daemon is going.
#[derive(Debug)]
enum Course {
    Serving,
    Stopping,
    /// Ends with the last connection.
    Quitting(oneshot::Sender<()>),
}

struct MountRecord {
    source: Source,
    place: Place,
    shown: status::Mount,
    phase: MountPhase,
    commands: mpsc::Sender<Command>,
}

#[derive(Debug, PartialEq, Eq)]
enum MountPhase {
    /// Not shown to anybody yet.
    Starting,
    Serving,
    Failed,
}

struct ConnectionRecord {
    id: ConnectionId,
    state: ConnectionState,
    since: Timestamp,
    /// Given out and not returned.
    users: u64,
    /// Given out ever.
    leases: u64,
    pinned: bool,
    waiting: Vec<Answer<Lease>>,
    link: Option<Arc<dyn Link>>,
    /// Dropped or used to close it.
    close: Option<oneshot::Sender<()>>,
    /// Answered when it is closed.
    disconnecting: Vec<Answer<ConnectionState>>,
}

impl Owner {
    /// The state of a daemon without mounts, whose last mount had the number `last_mount`.
    pub fn new(handle: OwnerHandle, surroundings: Surroundings, last_mount: u64) -> Owner {
        Owner {
            handle,
            surroundings,
            mounts: BTreeMap::new(),
            last_mount,
            connections: BTreeMap::new(),
            last_connection: 0,
            tickets: Vec::new(),
            course: Course::Serving,
        }
    }

    /// Runs until it is told to quit and all connections are closed.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.recv().await {
            self.on(event);
            if matches!(self.course, Course::Quitting(_)) && self.connections.is_empty() {
                break;
            }
        }
        if let Course::Quitting(answer) = self.course {
            // Whoever asked may have given up waiting.
            let _ = answer.send(());
        }
    }

    /// Takes one event. Never waits.
    fn on(&mut self, event: Event) {
        match event {
            Event::CreateMount { plan, prompter, answer } => self.create_mount(*plan, prompter, answer),
            Event::SelectMounts { target, answer } => drop(answer.send(self.select_mounts(&target))),
            Event::Mount(id, event) => self.on_mount(id, event),
            Event::Acquire { wanted, answer } => self.acquire(*wanted, answer),
            Event::Release(id) => self.release(id),
            Event::Pin { machine, answer } => drop(answer.send(self.pin(&machine))),
            Event::Disconnect { machine, answer } => self.disconnect(&machine, answer),
            Event::Connection(id, event) => self.on_connection(id, event),
            Event::Idle { id, leases } => self.on_idle(id, leases),
            Event::FindTicket { secret, answer } => drop(answer.send(self.find_ticket(&secret))),
            Event::ForgetTicket(secret) => self.tickets.retain(|(known, _)| *known != secret),
            Event::Document { answer } => drop(answer.send(self.document())),
            Event::BeginStop { answer } => {
                self.course = Course::Stopping;
                drop(answer.send(self.handles(|_| true)));
            }
            Event::AbandonStop => self.course = Course::Serving,
            Event::Quit { answer } => {
                self.course = Course::Quitting(answer);
                self.close_all();
            }
        }
    }

    fn find_ticket(&self, shown: &Secret) -> Option<Prompter> {
        self.tickets.iter().find(|(known, _)| known == shown).map(|(_, prompter)| prompter.clone())
    }

    fn document(&self) -> status::Document {
        let connected = |machine: &Machine| self.connections.get(machine);
        let mut machines: Vec<&Machine> = self.connections.keys().collect();
        for record in self.mounts.values().filter(|record| record.is_shown()) {
            if let Source::Files { machine, .. } = &record.source
                && !machines.contains(&machine)
            {
                machines.push(machine);
            }
        }
        machines.sort_unstable();
        let machine_status = |machine: &Machine| status::MachineStatus {
            machine: machine.clone(),
            state: connected(machine).map_or(ConnectionState::Disconnected, |record| record.state),
            agent: connected(machine)
                .and_then(|record| record.link.as_ref()?.agent_version())
                .map(|version| status::Agent { version }),
        };
        status::Document {
            daemon: status::Daemon { pid: std::process::id(), version: wire::RELEASE.to_owned() },
            machines: machines.into_iter().map(machine_status).collect(),
            connections: self.connections.iter().map(|(machine, record)| record.status(machine)).collect(),
            mounts: self
                .mounts
                .values()
                .filter(|record| record.is_shown())
                .map(|record| record.shown.clone())
                .collect(),
            threads: Vec::new(),
            vms: Vec::new(),
            tunnels: Vec::new(),
            processes: Vec::new(),
            operations: Vec::new(),
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// Joins what single removals came to.
pub fn removed(mounts: Vec<RemovedMount>) -> Removed {
    Removed { mounts }
}
