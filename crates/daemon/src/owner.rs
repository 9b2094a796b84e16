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

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use remote::transport::docker::Engine;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use wire::api::event::{Happened, MountWord, Topic};
use wire::api::id::{ConnectionId, MountId, OperationId, ProcessId, TunnelId};
use wire::api::machine::{Caller, Machine, Reconnect, Source};
use wire::api::mount::{Removed, RemovedMount, Target};
use wire::api::process::Outcome;
use wire::api::prompt::Secret;
use wire::api::status::{self, ConnectionState, Health, MountStatus};
use wire::api::time::Timestamp;
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;
use wire::worker::{Heartbeat, Ready, WorkerStatus};

use crate::bus::{Bus, Subscription};
use crate::connection::{self, ConnectRequest, ConnectionEvent, Connector, IDLE_GRACE, Lease, Link};
use crate::database::ProcessRow;
use crate::mount::adoption::Adopted;
use crate::mount::goodbye::Goodbye;
use crate::mount::monitor::Monitor;
use crate::mount::plan::{Place, Plan};
use crate::mount::standing::{Change, Standing};
use crate::mount::worker::Launch;
use crate::mount::{Command, MountContext, MountHandle};
use crate::prompt::{Prompter, Ticket};
use crate::vm::{Command as VmCommand, VmContext, VmEvent};

mod connections;
mod goodbyes;
mod mounts;
mod operations;
mod processes;
mod threads;
mod tunnels;
mod vms;

#[cfg(test)]
mod tests;

use connections::ConnectionRecord;
use goodbyes::Goodbyes;
use operations::OperationRecord;
pub use operations::{Begun, OperationEvent, unknown as unknown_operation};
pub use processes::{Hold, Known, ProcessRecord, Reader};
use threads::ThreadRecord;
pub use threads::{FoundThread, ThreadEvent, Turn, exists as thread_exists};
pub use tunnels::TunnelRecord;
use vms::VmRecord;

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
    /// A number for a mount that somebody else serves.
    NumberMount {
        /// Answered at once.
        answer: Answer<MountId>,
    },
    /// A mount has this number that the owner does not know of. No new one gets it, nor a lower one.
    NumberTaken(u64),
    /// A daemon before this one has made a mount that is still there.
    AdoptMount(Box<Adopted>),
    /// A client wants to speak with some mounts' tasks.
    SelectMounts {
        /// Which.
        target: Target,
        /// The inner ones first.
        answer: Answer<Vec<MountHandle>>,
    },
    /// What happened to a mount.
    Mount(MountId, MountEvent),
    /// What has to do with threads.
    Thread(ThreadEvent),
    /// A client wants to speak with the tasks of all mounts of a machine.
    SelectMountsOf {
        /// Which machine's.
        machine: Machine,
        /// The inner ones first.
        answer: oneshot::Sender<Vec<MountHandle>>,
    },
    /// A process runs on a machine.
    ProcessStarted(Box<ProcessRecord>),
    /// A process has ended, or is no longer known.
    ProcessEnded(ProcessId, Option<u8>),
    /// A process goes on without its client, or a daemon before this one has left it.
    ProcessDetached(Box<ProcessRow>),
    /// How a detached process ended, or else what keeps it from being asked, if anything does.
    ProcessWatched(ProcessId, Result<Outcome, Option<String>>),
    /// A client has seen how a detached process ended, and all that was kept of it.
    ProcessSeen(ProcessId, Outcome),
    /// A detached process ended long ago.
    ForgetProcess(ProcessId),
    /// Somebody attaches to a detached process.
    ReadProcess {
        /// Which.
        id: ProcessId,
        /// What ends him.
        reader: Reader,
        /// Who did before.
        answer: oneshot::Sender<Option<Reader>>,
    },
    /// Somebody has to know how a detached process ended.
    AwaitProcess {
        /// Which.
        id: ProcessId,
        /// Answered once it is known, and dropped if nobody will.
        answer: oneshot::Sender<Outcome>,
    },
    /// A client names a process.
    FindProcess {
        /// Which.
        id: ProcessId,
        /// What is known of it.
        answer: Answer<Known>,
    },
    /// A tunnel serves.
    TunnelOpened {
        /// What it is.
        record: Box<TunnelRecord>,
        /// Whether it may.
        answer: Answer<()>,
    },
    /// What keeps the machine of a tunnel from being reached, if anything does.
    TunnelAway(TunnelId, Option<String>),
    /// Nothing of a tunnel is left; why, if nobody has asked for that.
    TunnelClosed(TunnelId, Option<String>),
    /// A client wants a tunnel closed.
    CloseTunnel {
        /// Which.
        id: TunnelId,
        /// Told when nothing of it is left.
        told: oneshot::Sender<()>,
        /// Whether it is known.
        answer: Answer<()>,
    },
    /// The tunnels of a machine are to be closed before its connection is.
    CloseTunnelsOf {
        /// Which machine's.
        machine: Machine,
        /// What tells that each is gone.
        answer: oneshot::Sender<Vec<oneshot::Receiver<()>>>,
    },
    /// A client wants a microVM.
    CreateVm {
        /// What it is to be called.
        name: String,
        /// What it is to be.
        wanted: Box<crate::vm::Wanted>,
        /// The number of the operation, which no other has had.
        id: OperationId,
        /// Answered with the operation once that has begun.
        answer: Answer<status::Operation>,
    },
    /// Something is to be done that is an operation.
    BeginOperation {
        /// What.
        begun: Box<Begun>,
        /// Answered with the operation once that has begun.
        answer: Answer<status::Operation>,
    },
    /// What happened to an operation.
    Operation(OperationId, OperationEvent),
    /// Somebody waits for the end of an operation.
    AwaitOperation {
        /// Which.
        id: OperationId,
        /// Answered when it has ended.
        answer: Answer<status::Operation>,
    },
    /// A client wants an operation to end.
    CancelOperation {
        /// Which.
        id: OperationId,
        /// Answered when nothing of it is left.
        answer: Answer<status::Operation>,
    },
    /// A daemon before this one has made a microVM.
    AdoptVm(String, Box<machine::vm::Record>),
    /// There are microVMs of which it could not be read what they are.
    UnreadVms(Vec<String>),
    /// A client wants to speak with the task of a microVM.
    SelectVm {
        /// Which.
        name: String,
        /// Where orders to it are sent.
        answer: Answer<mpsc::Sender<VmCommand>>,
    },
    /// A client wants a microVM removed: from here on none is made of it.
    DoomVm {
        /// Which.
        name: String,
        /// And no other one of that name.
        id: String,
        /// Where it is told to be no more, if nobody needs it.
        answer: Answer<mpsc::Sender<VmCommand>>,
    },
    /// It stays after all.
    SpareVm {
        /// Which.
        name: String,
        /// And no other one of that name.
        id: String,
    },
    /// What happened to a microVM.
    Vm(String, VmEvent),
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
        /// How it is to be kept.
        keep: Keep,
        /// How it is.
        answer: Answer<status::Connection>,
    },
    /// A client wants a link closed and opened again.
    Redial {
        /// Where to, for whom.
        wanted: Box<Wanted>,
        /// Answered once it is open.
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
    Connection {
        /// Which.
        id: ConnectionId,
        /// In which of its tries.
        number: u64,
        /// What.
        event: ConnectionEvent,
    },
    /// The agent of a mount that is over is to be told so.
    SayGoodbye(Box<Goodbye>),
    /// That was tried; if it failed, with what.
    GoodbyeTried {
        /// Where.
        machine: Machine,
        /// What was not said.
        failed: Option<Box<Goodbye>>,
    },
    /// The moment of a connection's next try has come.
    TryAgain(ConnectionId),
    /// The computer slept, or its network changed.
    WorldChanged,
    /// A client wants to know what happens.
    Subscribe {
        /// What about.
        topics: Vec<Topic>,
        /// Where events arrive.
        answer: oneshot::Sender<Subscription>,
    },
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
    /// Its worker died, and another one is to take its place.
    WorkerLost {
        /// How it died.
        why: String,
    },
    /// Another worker has taken its place.
    WorkerServes {
        /// The worker's process.
        pid: u32,
        /// How many came before it.
        restarts: u32,
    },
    /// A report of its worker's death is there.
    Crashed(status::Crash),
    /// What earlier mounts of its source had not saved was saved before it served, as far as that was possible.
    Replayed(Box<status::Replayed>),
    /// It was probed.
    Probed(Health),
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
    /// How it is to be kept.
    pub keep: Keep,
    /// The engine of a container, once it is known.
    pub engine: Option<Engine>,
    /// Whether a session of its own is [opened](Link::open) as soon as the link is there.
    pub opens: bool,
}

/// How a connection is to be kept. What is not said stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Whether a lost link is opened again.
    pub reconnect: Option<Reconnect>,
    /// How its liveness is watched.
    pub heartbeat: Option<Heartbeat>,
}

impl Wanted {
    /// A connection that is kept as it is, or as is usual.
    pub fn new(machine: Machine, caller: Caller, prompter: Option<Prompter>) -> Wanted {
        Wanted { machine, caller, prompter, keep: Keep::default(), engine: None, opens: false }
    }

    /// The same, with the engine that the caller means if the machine is a container. The owner is told of none without.
    pub async fn resolved(self) -> Result<Wanted, ErrorObject> {
        match self.machine {
            Machine::Docker { .. } => {
                Ok(Wanted { engine: Some(connection::engine_of(&self.caller).await?), ..self })
            }
            Machine::Host | Machine::Ssh(_) | Machine::Vm { .. } => Ok(self),
        }
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

    /// Sends an event from a thread that may block.
    pub fn send_blocking(&self, event: Event) {
        drop(self.events.blocking_send(event));
    }

    /// Asks the owner something.
    pub async fn ask<T>(&self, event: impl FnOnce(Answer<T>) -> Event) -> Result<T, ErrorObject> {
        let (answer, answered) = oneshot::channel();
        self.send(event(answer)).await;
        answered.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Opens a connection, or joins one that is open.
    pub async fn acquire(&self, wanted: Wanted) -> Result<Lease, ErrorObject> {
        let wanted = Box::new(wanted.resolved().await?);
        self.ask(|answer| Event::Acquire { wanted, answer }).await
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
    /// What every microVM's task needs.
    pub vms: VmContext,
    /// How mounts are watched.
    pub monitoring: Monitoring,
}

/// How mounts are watched.
#[derive(Debug, Clone)]
pub struct Monitoring {
    /// How often each is probed.
    pub interval: Duration,
    /// The program that asks the kernel, given a directory as its last argument.
    pub probe: Launch,
}

/// One connector for each sort of machine.
pub struct Connectors {
    /// This computer.
    pub host: Arc<dyn Connector>,
    /// Over ssh.
    pub ssh: Arc<dyn Connector>,
    /// Containers.
    pub docker: Arc<dyn Connector>,
    /// MicroVMs.
    pub vm: Arc<dyn Connector>,
}

impl Connectors {
    fn of(&self, machine: &Machine) -> Option<Arc<dyn Connector>> {
        match machine {
            Machine::Host => Some(Arc::clone(&self.host)),
            Machine::Ssh(_) => Some(Arc::clone(&self.ssh)),
            Machine::Docker { .. } => Some(Arc::clone(&self.docker)),
            Machine::Vm { .. } => Some(Arc::clone(&self.vm)),
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
    processes: BTreeMap<ProcessId, ProcessRecord>,
    tunnels: BTreeMap<TunnelId, TunnelRecord>,
    threads: BTreeMap<String, ThreadRecord>,
    vms: BTreeMap<String, VmRecord>,
    /// Those that are there, and of which it is not known of what they were made.
    unread_vms: Vec<String>,
    operations: BTreeMap<OperationId, OperationRecord>,
    /// Those of them that have ended, in that order.
    ended_operations: VecDeque<OperationId>,
    tickets: Vec<(Secret, Prompter)>,
    goodbyes: Goodbyes,
    bus: Bus,
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
    /// Whether its lost link is opened again by itself.
    reconnect: Reconnect,
    standing: Standing,
    /// The word that was told last.
    announced: Option<MountWord>,
    /// What was told to have been kept aside.
    kept_aside: Vec<ByteString>,
    /// What the workers before this one have counted, and how many they are.
    earlier: (status::Counters, u32),
    /// From when it serves.
    monitor: Option<Monitor>,
}

#[derive(Debug, PartialEq, Eq)]
enum MountPhase {
    /// Not shown to anybody yet.
    Starting,
    Serving,
    Failed,
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
            processes: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            threads: BTreeMap::new(),
            vms: BTreeMap::new(),
            unread_vms: Vec::new(),
            operations: BTreeMap::new(),
            ended_operations: VecDeque::new(),
            tickets: Vec::new(),
            goodbyes: Goodbyes::default(),
            bus: Bus::default(),
            course: Course::Serving,
        }
    }

    /// Runs until it is told to quit and all connections are closed.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.recv().await {
            self.on(event);
            let is_quitting = matches!(self.course, Course::Quitting(_));
            if is_quitting && self.connections.is_empty() && !self.goodbyes.are_being_said() {
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
            Event::NumberMount { answer } => drop(answer.send(Ok(self.new_mount_id()))),
            Event::NumberTaken(number) => self.last_mount = self.last_mount.max(number),
            Event::AdoptMount(adopted) => self.adopt_mount(*adopted),
            Event::SelectMounts { target, answer } => drop(answer.send(self.select_mounts(&target))),
            Event::SelectMountsOf { machine, answer } => {
                drop(answer.send(self.handles(|id| self.mounts[&id].place.machine() == Some(&machine))));
            }
            Event::Mount(id, event) => self.on_mount(id, event),
            Event::Thread(event) => self.on_thread(event),
            Event::ProcessStarted(process) => self.on_process_started(*process),
            Event::ProcessEnded(id, code) => self.on_process_ended(id, code),
            Event::ProcessDetached(row) => self.on_process_detached(*row),
            Event::ProcessWatched(id, what) => self.on_process_watched(id, what),
            Event::ProcessSeen(id, ended) => self.on_process_seen(id, ended),
            Event::ForgetProcess(id) => self.forget_process(id),
            Event::ReadProcess { id, reader, answer } => drop(answer.send(self.read_process(id, reader))),
            Event::AwaitProcess { id, answer } => self.await_process(id, answer),
            Event::FindProcess { id, answer } => drop(answer.send(self.find_process(id))),
            Event::TunnelOpened { record, answer } => drop(answer.send(self.on_tunnel_opened(*record))),
            Event::TunnelAway(id, reason) => self.on_tunnel_away(id, reason),
            Event::TunnelClosed(id, reason) => self.on_tunnel_closed(id, reason),
            Event::CloseTunnel { id, told, answer } => drop(answer.send(self.close_tunnel(id, told))),
            Event::CloseTunnelsOf { machine, answer } => drop(answer.send(self.close_tunnels_of(&machine))),
            Event::CreateVm { name, wanted, id, answer } => {
                drop(answer.send(self.create_vm(name, *wanted, id)));
            }
            Event::BeginOperation { begun, answer } => {
                let begun = match self.course {
                    Course::Serving => Ok(self.begin_operation(*begun)),
                    Course::Stopping | Course::Quitting(_) => Err(ending()),
                };
                drop(answer.send(begun));
            }
            Event::Operation(id, event) => self.on_operation(id, event),
            Event::AwaitOperation { id, answer } => self.await_operation(id, answer),
            Event::CancelOperation { id, answer } => self.cancel_operation(id, answer),
            Event::AdoptVm(name, record) => self.adopt_vm(name, *record),
            Event::SelectVm { name, answer } => drop(answer.send(self.select_vm(&name))),
            Event::UnreadVms(names) => self.unread_vms = names,
            Event::DoomVm { name, id, answer } => drop(answer.send(self.doom_vm(&name, &id))),
            Event::SpareVm { name, id } => self.spare_vm(&name, &id),
            Event::Vm(name, event) => self.on_vm(&name, event),
            Event::Acquire { wanted, answer } => self.acquire(*wanted, answer),
            Event::Release(id) => self.release(id),
            Event::Pin { machine, keep, answer } => drop(answer.send(self.pin(&machine, &keep))),
            Event::Redial { wanted, answer } => self.redial(*wanted, answer),
            Event::Disconnect { machine, answer } => self.disconnect(&machine, answer),
            Event::Connection { id, number, event } => self.on_connection(id, number, event),
            Event::SayGoodbye(goodbye) => self.say_goodbye(*goodbye),
            Event::GoodbyeTried { machine, failed } => {
                self.on_goodbye(&machine, failed.map(|goodbye| *goodbye));
            }
            Event::TryAgain(id) => self.try_again(id),
            Event::WorldChanged => self.world_changed(),
            Event::Subscribe { topics, answer } => drop(answer.send(self.bus.subscribe(topics))),
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
                if !self.goodbyes.are_being_said() {
                    self.close_all();
                }
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
            state: self.connection_state(machine).map_or(ConnectionState::Disconnected, |(state, _)| state),
            agent: connected(machine)
                .and_then(ConnectionRecord::agent_version)
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
            threads: self.shown_threads(),
            vms: self.shown_vms(),
            tunnels: self.shown_tunnels(),
            processes: self.processes.values().map(ProcessRecord::status).collect(),
            operations: self.shown_operations(),
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
