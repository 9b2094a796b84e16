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

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use machine::engine::{Engine, Spec};
use machine::image::Image;
use machine::vm::{Places, Record};
use machine::{console, disk, initramfs};
use remote::OpenError;
use remote::place::Agents;
use remote::transport::vm::{power_off, serving};
use rustix::process::Signal;
use supervisor::process::AdoptError;
use supervisor::{Exit, Process};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use wire::api::event::VmState;
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;
use wire::paths::Paths;
use wire::worker::VmDial;

use crate::connection::from_open;
use crate::failure::failure;
use crate::owner::{Answer, Event, OwnerHandle};

/// How long a guest may take from its start until its ports are served. Emulated, on a busy computer, it takes a minute.
const BOOT_TIMEOUT: Duration = Duration::from_secs(300);

/// How often it is tried to reach a VMM that has not made its sockets yet.
const SOCKET_INTERVAL: Duration = Duration::from_millis(20);

/// How long a guest has to power itself off if nobody says otherwise.
pub const STOP_GRACE: Duration = Duration::from_secs(60);

/// The longest that somebody may say.
pub const STOP_GRACE_MAX: Duration = Duration::from_secs(3600);

/// How long after a guest has not been reached it is asked again to power itself off.
const POWER_OFF_PAUSE: Duration = Duration::from_secs(1);

/// What is shown of a console in an error.
const CONSOLE_BYTES: u64 = 2048;

/// Orders that may wait for a microVM's task.
pub const COMMANDS_MAX: usize = 32;

/// What a microVM is told.
#[derive(Debug)]
pub enum Command {
    /// To run. Answered when it can be reached.
    Start(Answer<()>),
    /// To power itself off in that time. Answered when it does not run.
    Stop(Duration, Answer<()>),
    /// To end at once.
    Kill(Answer<()>),
    /// To stay stopped until the lease is dropped. Refused if it runs.
    Lend(Answer<Lease>),
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
    /// Answers it with an error.
    fn refuse(self, error: ErrorObject) {
        // Whoever asked may have gone.
        match self {
            Command::Start(answer)
            | Command::Stop(_, answer)
            | Command::Kill(answer)
            | Command::Delete { answer, .. } => drop(answer.send(Err(error))),
            Command::Lend(answer) => drop(answer.send(Err(error))),
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
    /// Nothing of it is left.
    Gone,
}

/// What every task needs.
#[derive(Clone)]
pub struct VmContext {
    /// Where the daemon's files are.
    pub paths: Paths,
    /// What runs guests.
    pub engine: Arc<dyn Engine>,
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
}

enum Wake {
    Ended(Exit),
    Waited(io::Result<()>),
    Late,
    Command(Command),
}

impl Vm {
    /// One of which this is written down.
    pub fn new(name: String, record: Record, context: VmContext, owner: OwnerHandle) -> Vm {
        Vm {
            name,
            context,
            owner,
            record,
            phase: Phase::Stopped,
            process: None,
            is_known: true,
            waiting: None,
            deadline: None,
            reason: None,
            starts: Vec::new(),
            stops: Vec::new(),
        }
    }

    /// Makes it first, over this image. Nothing is left of one that cannot be made.
    pub async fn create(self, image: Image, answer: Answer<()>, commands: mpsc::Receiver<Command>) {
        let (places, record) = (self.context.places(&self.name), self.record.clone());
        let made = blocking(move || places.create(&image, &record)).await;
        match &made {
            Ok(()) => self.tell(VmState::Stopped, None).await,
            Err(_) => self.owner.send(Event::Vm(self.name.clone(), VmEvent::Gone)).await,
        }
        let is_made = made.is_ok();
        // Whoever asked may have gone.
        drop(answer.send(made));
        if is_made {
            self.run(commands).await;
        }
    }

    /// Takes over the process that a daemon before this one has left, if there is one.
    pub async fn adopt(mut self, commands: mpsc::Receiver<Command>) {
        if let Err(error) = self.take_over().await {
            // Each order tries it again first.
            self.fail(error).await;
        }
        self.run(commands).await;
    }

    /// Finds out what has become of the VMM that a daemon before this one may have left. After an error it may still run.
    async fn take_over(&mut self) -> Result<(), ErrorObject> {
        self.is_known = false;
        if let Some(process) = self.left_process().await? {
            tracing::info!(vm = self.name, pid = process.pid(), "a vm is taken over");
            let is_written = self.record.process == Some(process.identity());
            self.record.process = Some(process.identity());
            self.process = Some(process);
            if !is_written && let Err(error) = self.write().await {
                tracing::warn!(vm = self.name, %error, "a VMM is not written down");
            }
            self.await_ports(Attempt::TakenOver).await;
        } else if self.record.process.is_some() {
            tracing::info!(vm = self.name, "a vm has ended while there was no daemon");
            self.forget_process().await;
            self.tell(VmState::Stopped, None).await;
        }
        self.is_known = true;
        Ok(())
    }

    async fn left_process(&self) -> Result<Option<Process>, ErrorObject> {
        let adopt = |identity| match Process::adopt(identity) {
            Ok(process) => Ok(Some(process)),
            Err(AdoptError::Gone { .. }) => Ok(None),
            Err(error) => Err(failure(&error)),
        };
        if let Some(identity) = self.record.process
            && let Some(process) = adopt(identity)?
        {
            return Ok(Some(process));
        }
        let (engine, runtime) = (Arc::clone(&self.context.engine), self.context.places(&self.name).runtime);
        let found = blocking(move || match runtime.try_exists() {
            // It is made before a VMM is started, and removed when that has ended.
            Ok(false) => Ok(None),
            _ => engine.find(&runtime),
        });
        found.await?.map_or(Ok(None), adopt)
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let wake = tokio::select! {
                biased;
                exit = ended(self.process.as_mut()) => Wake::Ended(exit),
                waited = waited(self.waiting.as_mut()) => Wake::Waited(waited),
                () = until(self.deadline) => Wake::Late,
                command = commands.recv() => match command {
                    Some(command) => Wake::Command(command),
                    None => return,
                },
            };
            let next = match wake {
                Wake::Ended(exit) => self.on_ended(exit).await,
                Wake::Waited(outcome) => self.on_waited(outcome).await,
                Wake::Late => self.on_late(),
                Wake::Command(command) => self.on_command(command).await,
            };
            if next.is_break() {
                return;
            }
        }
    }

    async fn on_command(&mut self, command: Command) -> ControlFlow<()> {
        if !self.is_known
            && let Err(error) = self.take_over().await
        {
            command.refuse(error);
            return ControlFlow::Continue(());
        }
        match command {
            Command::Start(answer) => match self.phase {
                Phase::Running => drop(answer.send(Ok(()))),
                Phase::Starting(_) => {
                    self.starts.push(answer);
                    self.deadline.get_or_insert_with(|| Instant::now() + BOOT_TIMEOUT);
                }
                Phase::Stopping => drop(answer.send(Err(self.busy("is stopping")))),
                Phase::Stopped => {
                    self.starts.push(answer);
                    self.start(Attempt::First).await;
                }
            },
            Command::Stop(grace, answer) => self.stop(Some(grace), answer).await,
            Command::Kill(answer) => self.stop(None, answer).await,
            Command::Lend(answer) => self.lend(answer).await,
            Command::Delete { force, answer } => return self.delete(force, answer).await,
        }
        ControlFlow::Continue(())
    }

    /// Does nothing until what it has is given back.
    async fn lend(&self, answer: Answer<Lease>) {
        if self.process.is_some() {
            let error = self.busy("is running").with_hint(format!("stead vm stop {}", self.name));
            drop(answer.send(Err(error)));
            return;
        }
        let (end, back) = oneshot::channel();
        drop(answer.send(Ok(Lease { _end: end })));
        // Nothing is ever sent: it is dropped.
        drop(back.await);
    }

    fn busy(&self, what: &str) -> ErrorObject {
        self.error(ErrorKind::Conflict, what)
    }

    fn error(&self, kind: ErrorKind, what: &str) -> ErrorObject {
        ErrorObject::new(kind, format!("the vm `{}` {what}", self.name))
    }

    async fn start(&mut self, attempt: Attempt) {
        self.phase = Phase::Starting(attempt);
        self.tell(VmState::Starting, None).await;
        if let Err(error) = self.begin().await {
            self.fail(error).await;
            return;
        }
        self.await_ports(attempt).await;
    }

    /// Starts the VMM, and writes down which process it is.
    async fn begin(&mut self) -> Result<(), ErrorObject> {
        let (context, name, record) = (self.context.clone(), self.name.clone(), self.record.clone());
        let agents = {
            let context = context.clone();
            let finding = tokio::task::spawn_blocking(move || {
                Agents::find(&context.own_program, context.agent.as_deref())
            });
            let found = finding.await.map_err(|error| failure(&error))?;
            found.map_err(|error| from_open(&format!("vm://{name}"), &OpenError::from(error)))?
        };
        let name = self.name.clone();
        let spec = blocking(move || prepare(&context, &name, &record, &agents)).await?;
        let process = self.context.engine.start(&spec).map_err(|error| from_machine(&error))?;
        self.record.process = Some(process.identity());
        // From here on it is ended if anything fails.
        self.process = Some(process);
        let written = self.write().await;
        if written.is_err() {
            self.signal(Signal::KILL);
        }
        written
    }

    async fn write(&self) -> Result<(), ErrorObject> {
        let (places, record) = (self.context.places(&self.name), self.record.clone());
        blocking(move || places.write(&record)).await
    }

    async fn await_ports(&mut self, attempt: Attempt) {
        let ports = self.context.places(&self.name).runtime;
        self.phase = Phase::Starting(attempt);
        self.deadline = Some(Instant::now() + BOOT_TIMEOUT);
        self.waiting = Some(Box::pin(async move {
            // Its sockets are not there at first. It is tried for as long as the VMM runs.
            while serving(&ports).await.is_err() {
                tokio::time::sleep(SOCKET_INTERVAL).await;
            }
            Ok(())
        }));
        self.tell(VmState::Starting, None).await;
    }

    async fn on_waited(&mut self, outcome: io::Result<()>) -> ControlFlow<()> {
        self.waiting = None;
        match self.phase {
            Phase::Starting(_) => {
                self.phase = Phase::Running;
                self.deadline = None;
                self.tell(VmState::Running, None).await;
                answer_all(&mut self.starts, &Ok(()));
            }
            Phase::Stopping => {
                if let Err(error) = outcome {
                    tracing::info!(vm = self.name, %error, "the guest is not told to power itself off, and is told again");
                    self.power_off(POWER_OFF_PAUSE);
                }
            }
            Phase::Stopped | Phase::Running => {}
        }
        ControlFlow::Continue(())
    }

    fn on_late(&mut self) -> ControlFlow<()> {
        self.deadline = None;
        if let Phase::Starting(attempt) = self.phase {
            let why = format!("its guest did not serve its ports within {} s", BOOT_TIMEOUT.as_secs());
            if attempt == Attempt::TakenOver {
                // What it has in memory is somebody's work: whoever waits is told, and it is left alone.
                let error = self.error(ErrorKind::TimedOut, &format!("does not answer: {why}"));
                tracing::warn!(vm = self.name, %error, "a vm that was taken over does not answer");
                answer_all(&mut self.starts, &Err(error));
                return ControlFlow::Continue(());
            }
            self.reason = Some(why);
        }
        self.signal(Signal::KILL);
        ControlFlow::Continue(())
    }

    async fn on_ended(&mut self, exit: Exit) -> ControlFlow<()> {
        self.forget_process().await;
        (self.waiting, self.deadline) = (None, None);
        let late = self.reason.take();
        match self.phase {
            Phase::Starting(Attempt::First) if late.is_none() => {
                // Emulated guests now and then reset while their kernel begins.
                tracing::warn!(vm = self.name, %exit, "the VMM ended before its guest was there, and is started again");
                self.start(Attempt::Second).await;
            }
            Phase::Starting(Attempt::First | Attempt::Second) => {
                let why = late.unwrap_or_else(|| format!("its VMM ended with {exit}"));
                let error = self.boot_failure(&why).await;
                self.fail(error).await;
            }
            Phase::Starting(Attempt::TakenOver) | Phase::Running | Phase::Stopped => match exit {
                // So it ends when its guest has powered itself off.
                Exit::Code(0) | Exit::Unknown => self.rest().await,
                Exit::Signal(_) | Exit::Code(_) => {
                    let reason = format!("its VMM ended with {exit}");
                    self.fail(ErrorObject::new(ErrorKind::Failure, reason)).await;
                }
            },
            Phase::Stopping => self.rest().await,
        }
        ControlFlow::Continue(())
    }

    /// It does not run, and nothing is amiss.
    async fn rest(&mut self) {
        self.phase = Phase::Stopped;
        self.tell(VmState::Stopped, None).await;
        let error = ErrorObject::new(ErrorKind::Interrupted, format!("the vm `{}` was stopped", self.name));
        answer_all(&mut self.starts, &Err(error));
        answer_all(&mut self.stops, &Ok(()));
    }

    async fn fail(&mut self, error: ErrorObject) {
        tracing::warn!(vm = self.name, %error, "a vm has failed");
        self.phase = Phase::Stopped;
        self.tell(VmState::Failed, Some(error.message.clone())).await;
        answer_all(&mut self.starts, &Err(error));
        answer_all(&mut self.stops, &Ok(()));
    }

    /// What a guest that did not come to serve has said last.
    async fn boot_failure(&self, why: &str) -> ErrorObject {
        let path = self.context.places(&self.name).console();
        let said = tokio::task::spawn_blocking(move || console::tail(&path, CONSOLE_BYTES)).await;
        let said = said.ok().and_then(Result::ok).unwrap_or_default();
        let text = String::from_utf8_lossy(&said);
        let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let last = last.replace(char::is_control, " ");
        let message = match last.as_str() {
            "" => format!("the vm `{}` did not boot: {why}", self.name),
            last => format!("the vm `{}` did not boot: {why}; its console says last: {last}", self.name),
        };
        ErrorObject::new(ErrorKind::Failure, message).with_hint(format!("stead vm logs {}", self.name))
    }

    async fn stop(&mut self, grace: Option<Duration>, answer: Answer<()>) {
        if self.process.is_none() {
            drop(answer.send(Ok(())));
            return;
        }
        self.stops.push(answer);
        let was = std::mem::replace(&mut self.phase, Phase::Stopping);
        self.tell(VmState::Stopping, None).await;
        match (grace, was) {
            (None, _) => {
                (self.waiting, self.deadline) = (None, None);
                self.signal(Signal::KILL);
            }
            // Somebody has asked it already; the sooner end holds.
            (Some(grace), Phase::Stopping) => {
                let end = Instant::now() + grace;
                self.deadline = Some(self.deadline.map_or(end, |deadline| deadline.min(end)));
            }
            (Some(grace), Phase::Running | Phase::Starting(Attempt::TakenOver)) => {
                self.deadline = Some(Instant::now() + grace);
                self.power_off(Duration::ZERO);
            }
            // A guest that is not there yet has nothing to lose.
            (Some(grace), Phase::Starting(Attempt::First | Attempt::Second) | Phase::Stopped) => {
                (self.waiting, self.deadline) = (None, Some(Instant::now() + grace));
                self.signal(Signal::TERM);
            }
        }
    }

    /// Asks the guest to power itself off, after a pause.
    fn power_off(&mut self, pause: Duration) {
        let ports = self.context.places(&self.name).runtime;
        self.waiting = Some(Box::pin(async move {
            tokio::time::sleep(pause).await;
            power_off(ports).await
        }));
    }

    async fn delete(&mut self, force: bool, answer: Answer<()>) -> ControlFlow<()> {
        if self.process.is_some() && !force {
            let error = self.busy("is running").with_hint(format!("stead vm stop {}", self.name));
            drop(answer.send(Err(error)));
            return ControlFlow::Continue(());
        }
        if self.process.is_some() {
            self.signal(Signal::KILL);
            ended(self.process.as_mut()).await;
            self.forget_process().await;
        }
        (self.phase, self.waiting, self.deadline) = (Phase::Stopped, None, None);
        let places = self.context.places(&self.name);
        let removed = blocking(move || places.remove()).await;
        if removed.is_ok() {
            self.owner.send(Event::Vm(self.name.clone(), VmEvent::Gone)).await;
        } else {
            self.tell(VmState::Stopped, None).await;
        }
        let gone = ErrorObject::new(ErrorKind::NotFound, format!("the vm `{}` was deleted", self.name));
        answer_all(&mut self.starts, &Err(gone));
        answer_all(&mut self.stops, &Ok(()));
        let next = if removed.is_ok() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        drop(answer.send(removed));
        next
    }

    /// The VMM has ended: nothing on disk says otherwise, and its sockets are nobody's.
    async fn forget_process(&mut self) {
        (self.process, self.record.process, self.is_known) = (None, None, true);
        let (places, record) = (self.context.places(&self.name), self.record.clone());
        let written = blocking(move || {
            match std::fs::remove_dir_all(&places.runtime) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, "the sockets of a vm stay");
                }
                _ => {}
            }
            places.write(&record)
        });
        if let Err(error) = written.await {
            tracing::warn!(vm = self.name, %error, "the end of a vm is not written down");
        }
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
        self.owner.send(Event::Vm(self.name.clone(), VmEvent::State { state, reason, pid })).await;
    }
}

fn answer_all(answers: &mut Vec<Answer<()>>, outcome: &Result<(), ErrorObject>) {
    for answer in answers.drain(..) {
        // Whoever asked may have gone.
        drop(answer.send(outcome.clone()));
    }
}

async fn ended(process: Option<&mut Process>) -> Exit {
    match process {
        Some(process) => process.exited().await.unwrap_or(Exit::Unknown),
        None => std::future::pending().await,
    }
}

async fn waited(waiting: Option<&mut Waiting>) -> io::Result<()> {
    match waiting {
        Some(waiting) => waiting.await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What the VMM needs: what its kernel begins with, and an empty place for its sockets. Blocks.
fn prepare(context: &VmContext, name: &str, record: &Record, agents: &Agents) -> machine::Result<Spec> {
    let places = context.places(name);
    let image = Image::open(&context.paths.images_dir(), &record.image)?;
    let failed = |message: String| machine::Error::new(ErrorKind::Failure, message);
    let (disk, format) =
        disk::find(&places.directory).ok_or_else(|| failed(format!("the vm `{name}` has lost its disk")))?;
    let architecture = std::env::consts::ARCH;
    let agent =
        agents.get(architecture).ok_or_else(|| failed(format!("there is no agent for {architecture}")))?;
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| failed(format!("could not read `{}`: {error}", path.display())))
    };
    let initrd =
        initramfs::write(&read(&init(&context.own_program)?)?, &read(&agent.path)?, &image.modules()?);
    let written = write_private(&places.initrd(), &initrd);
    written.map_err(|error| failed(format!("could not write `{}`: {error}", places.initrd().display())))?;
    if places.runtime.exists() {
        std::fs::remove_dir_all(&places.runtime)
            .map_err(|error| failed(format!("could not empty `{}`: {error}", places.runtime.display())))?;
    }
    supervisor::socket::private_directory(&places.runtime).map_err(|error| failed(error.to_string()))?;
    Ok(Spec {
        name: name.to_owned(),
        cpus: record.cpus,
        memory_mib: record.memory_mib,
        kernel: image.kernel(),
        initrd: places.initrd(),
        disk,
        format,
        ports: places.runtime.clone(),
        console: places.console(),
        own_program: supervisor::spawn::OWN_PROGRAM.into(),
    })
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(content)
}

/// The first process of guests, which lies beside this program.
fn init(own_program: &Path) -> machine::Result<PathBuf> {
    let directory = own_program.parent().unwrap_or(Path::new("/"));
    let names = [format!("stead-guest-{}-linux", std::env::consts::ARCH), "stead-guest".to_owned()];
    names.iter().map(|name| directory.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let message = format!("there is no `{}` in `{}`", names[0], directory.display());
        machine::Error::new(ErrorKind::NotFound, message)
            .hint("install it with stead, or build it: cargo xtask build")
    })
}
