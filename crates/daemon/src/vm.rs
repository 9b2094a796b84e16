//! The task of a microVM: it alone starts, ends and removes it, one thing after the other.
//!
//! ```text
//!                 start                    its ports are served
//!   stopped ─────────────► starting ───────────────────────────► running
//!    ▲   ▲                  │    │ VMM ends: once more, then failed  │
//!    │   │   kill, or late  │    └──────────────► failed             │ stop: the guest is asked;
//!    │   └──────────────────┘                      ▲                 │ kill: its VMM is ended
//!    │        VMM ends                             │ VMM is killed   ▼
//!    └──────────────────────────────────── stopping ◄────────────────┘
//! ```
//!
//! What the VMM does is seen through its pidfd. The record on disk says which process it is before anybody is told that it
//! runs, so that the next daemon finds it. A daemon that was killed before it could write that down has left the directory of
//! the sockets: the next one looks for the process that has them.
//!
//! A guest that was taken over is `starting` until it answers, and may have been running for long: it is stopped as one that
//! runs, and nothing but a kill or the end of a grace ends it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use machine::capability::{Base, Capabilities, Directory, Disk, Written};
use machine::course::Course;
use machine::engine::Engine;
use machine::network::Network;
use machine::snapshot::removal::Stays;
use machine::vm::{Places, Record};
use rustix::process::Signal;
use supervisor::Process;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use wire::api::event::VmState;
use wire::api::id::OperationId;
use wire::api::{ErrorKind, ErrorObject, status};
use wire::bytestring::ByteString;
use wire::paths::Paths;
use wire::worker::VmDial;

use crate::failure::failure;
use crate::owner::{Answer, Event, OwnerHandle};

mod adoption;
mod boot;
mod life;
mod requirements;
mod snapshots;

/// How long a guest has to power itself off if nobody says otherwise.
pub const STOP_GRACE: Duration = Duration::from_secs(60);

/// The longest that somebody may say.
pub const STOP_GRACE_MAX: Duration = Duration::from_secs(3600);

/// Orders that may wait for a microVM's task.
pub const COMMANDS_MAX: usize = 32;

/// What is said of one that runs and whose network has ended.
const NETWORK_LOST: &str = "its network has ended, and is there again when it is restarted";

/// What a microVM is told.
#[derive(Debug)]
pub enum Command {
    /// To run. Answered when it can be reached.
    Start(Answer<()>),
    /// To power itself off in that time. Answered when it does not run.
    Stop(Duration, Answer<()>),
    /// To end at once.
    Kill(Answer<()>),
    /// To be something else from the next start on.
    Set(Box<Change>, Answer<()>),
    /// To stay stopped until the lease is dropped. Refused if it runs.
    Lend(Answer<Lease>),
    /// To keep what is on its disk. Refused if it runs.
    Snapshot(Option<String>, Answer<status::Snapshot>),
    /// To have others made of this snapshot, or of one that is taken for that. That is refused if it runs.
    Fork(Option<String>, Answer<(String, Base)>),
    /// To let a snapshot go. Answered with those whose disks it is there for yet.
    DeleteSnapshot(String, Answer<Vec<String>>),
    /// To let go what snapshots can: others have ended that were, or should be, made of them.
    ClearSnapshots,
    /// To be no more.
    Delete {
        /// Also if it runs.
        force: bool,
        /// Answered when nothing of it is left.
        answer: Answer<()>,
    },
}

/// As long as this is there, a microVM does nothing.
#[derive(Debug)]
pub struct Lease {
    _end: oneshot::Sender<std::convert::Infallible>,
}

impl Command {
    /// Whether it needs the disks for itself.
    fn has_disks(&self) -> bool {
        match self {
            Command::Start(_)
            | Command::Set(..)
            | Command::Lend(_)
            | Command::Snapshot(..)
            | Command::Fork(..)
            | Command::Delete { .. } => true,
            Command::Stop(..) | Command::Kill(_) | Command::DeleteSnapshot(..) | Command::ClearSnapshots => {
                false
            }
        }
    }

    /// Answers it with an error.
    fn refuse(self, error: ErrorObject) {
        // Whoever asked may have gone.
        match self {
            Command::Start(answer)
            | Command::Stop(_, answer)
            | Command::Kill(answer)
            | Command::Set(_, answer)
            | Command::Delete { answer, .. } => drop(answer.send(Err(error))),
            Command::Lend(answer) => drop(answer.send(Err(error))),
            Command::Snapshot(_, answer) => drop(answer.send(Err(error))),
            Command::Fork(_, answer) => drop(answer.send(Err(error))),
            Command::DeleteSnapshot(_, answer) => drop(answer.send(Err(error))),
            Command::ClearSnapshots => {}
        }
    }
}

/// What a microVM's task tells.
#[derive(Debug)]
pub enum VmEvent {
    /// It is something else now.
    State {
        /// What.
        state: VmState,
        /// Why, if it failed.
        reason: Option<String>,
        /// The VMM.
        pid: Option<u32>,
    },
    /// It has been changed while it did not run.
    Changed(Box<Record>),
    /// These are its snapshots now.
    Snapshots(Vec<status::Snapshot>),
    /// Nothing of it is left.
    Gone,
}

/// What a microVM is to be that is to be made.
#[derive(Debug)]
pub struct Wanted {
    /// As it will be written down.
    pub record: Record,
    /// What its disk is over.
    pub base: Base,
    /// How large that is to be, if not as large as what it is over.
    pub disk_mib: Option<u32>,
}

/// What is done to make a microVM, in that order.
pub fn capabilities(wanted: &Wanted) -> Capabilities {
    let disk = Disk { base: wanted.base.clone(), disk_mib: wanted.disk_mib };
    vec![Box::new(Directory), Box::new(disk), Box::new(Written(wanted.record.clone()))]
}

/// How a microVM is made.
pub struct Making {
    /// The operation that it is.
    pub id: OperationId,
    /// What is done.
    pub parts: Capabilities,
    /// How that is followed, and called off.
    pub course: Course,
}

/// What becomes different of a microVM.
#[derive(Debug)]
pub struct Change {
    /// Processors.
    pub cpus: Option<u32>,
    /// Memory, in MiB.
    pub memory_mib: Option<u32>,
    /// The size of its disk, in MiB.
    pub disk_mib: Option<u32>,
    /// Its network, or that it has none.
    pub network: Option<Option<Network>>,
}

/// What every task needs.
#[derive(Clone)]
pub struct VmContext {
    /// Where the daemon's files are.
    pub paths: Paths,
    /// What runs guests.
    pub engine: Arc<dyn Engine>,
    /// What is done to make one.
    pub capabilities: Arc<dyn Fn(&Wanted) -> Capabilities + Send + Sync>,
    /// This very program.
    pub own_program: PathBuf,
    /// The agent for guests, in place of the one beside the program.
    pub agent: Option<PathBuf>,
}

impl VmContext {
    fn places(&self, name: &str) -> Places {
        places(&self.paths, name)
    }
}

/// Where the files of a microVM are.
pub fn places(paths: &Paths, name: &str) -> Places {
    Places { directory: paths.vms_dir().join(name), runtime: paths.vm_runtime_dir(name) }
}

/// How the agent of a microVM is reached, whether it runs or not.
pub(crate) fn dial(paths: &Paths, name: &str) -> machine::Result<VmDial> {
    let places = places(paths, name);
    machine::image::check_name(name, "vm")?;
    let record = places.read()?.ok_or_else(|| unknown(name))?;
    Ok(VmDial {
        name: name.to_owned(),
        id: record.id,
        ports: ByteString::from(places.runtime.clone()),
        record: ByteString::from(places.record()),
    })
}

fn unknown(name: &str) -> machine::Error {
    machine::Error::new(ErrorKind::NotFound, format!("there is no vm `{name}`")).hint("stead vm list")
}

/// The error that a client sees.
pub(crate) fn from_machine(error: &machine::Error) -> ErrorObject {
    let object = ErrorObject::new(error.kind, error.message.clone());
    match &error.hint {
        Some(hint) => object.with_hint(hint.clone()),
        None => object,
    }
}

/// Does something that takes its time on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> machine::Result<T> + Send + 'static,
) -> Result<T, ErrorObject> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| failure(&error))?;
    done.map_err(|error| from_machine(&error))
}

/// Where a microVM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Stopped,
    Starting(Attempt),
    Running,
    Stopping,
    /// The grace of its guest is over, and its VMM has been told to end.
    Ending,
}

/// What a guest that does not serve its ports yet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Second,
    /// From a daemon before this one. It may have run for long.
    TakenOver,
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// A microVM.
pub struct Vm {
    name: String,
    context: VmContext,
    owner: OwnerHandle,
    record: Record,
    phase: Phase,
    process: Option<Process>,
    /// What its frames go through, if it has a network. It ends by itself when the VMM has.
    gate: Option<Process>,
    /// Whether its network has ended before it.
    is_cut_off: bool,
    /// Whether `process` is all that there can be: nothing is done to a microVM whose VMM may run unseen.
    is_known: bool,
    /// In `Starting`, for the ports to be served; in `Stopping`, for the guest to have begun.
    waiting: Option<Waiting>,
    /// When its VMM is ended, or whoever waits for a guest that was taken over is told that it does not answer.
    deadline: Option<Instant>,
    /// Why it is ended, if nobody asked for that.
    reason: Option<String>,
    starts: Vec<Answer<()>>,
    stops: Vec<Answer<()>>,
    /// The snapshots of which others are being made, for as long as they are.
    held: Vec<(String, Weak<()>)>,
    /// Why snapshots that are to go are still there.
    stay: BTreeMap<String, Stays>,
    /// Whether somebody has to look at them again once there is nothing else to do.
    is_uncleared: bool,
    commands: mpsc::Receiver<Command>,
    /// Those that came while it did something: [`COMMANDS_MAX`] at most.
    pending: VecDeque<Command>,
}

impl Vm {
    /// One of which this is written down, and where what it is told arrives.
    pub fn new(
        name: String,
        record: Record,
        context: VmContext,
        owner: OwnerHandle,
        commands: mpsc::Receiver<Command>,
    ) -> Vm {
        Vm {
            name,
            context,
            owner,
            record,
            phase: Phase::Stopped,
            process: None,
            gate: None,
            is_cut_off: false,
            is_known: true,
            waiting: None,
            deadline: None,
            reason: None,
            starts: Vec::new(),
            stops: Vec::new(),
            held: Vec::new(),
            stay: BTreeMap::new(),
            is_uncleared: false,
            commands,
            pending: VecDeque::new(),
        }
    }

    fn busy(&self, what: &str) -> ErrorObject {
        self.error(ErrorKind::Conflict, what)
    }

    fn error(&self, kind: ErrorKind, what: &str) -> ErrorObject {
        ErrorObject::new(kind, format!("the vm `{}` {what}", self.name))
    }

    async fn write(&self) -> Result<(), ErrorObject> {
        let (places, record) = (self.context.places(&self.name), self.record.clone());
        blocking(move || places.write(&record)).await
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process
            && let Err(error) = process.signal(signal)
        {
            tracing::warn!(vm = self.name, %error, "a VMM cannot be ended");
        }
    }

    async fn tell(&self, state: VmState, reason: Option<String>) {
        let pid = self.process.as_ref().map(Process::pid);
        let is_amiss = self.is_cut_off && state == VmState::Running;
        let reason = reason.or_else(|| is_amiss.then(|| NETWORK_LOST.to_owned()));
        self.owner.send(Event::Vm(self.name.clone(), VmEvent::State { state, reason, pid })).await;
    }
}

fn answer_all(answers: &mut Vec<Answer<()>>, outcome: &Result<(), ErrorObject>) {
    for answer in answers.drain(..) {
        // Whoever asked may have gone.
        drop(answer.send(outcome.clone()));
    }
}
