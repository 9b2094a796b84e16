//! From one order, or one event, to the next.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use machine::vm::Record;
use machine::{capability, disk};
use remote::transport::vm::power_off;
use rustix::process::Signal;
use supervisor::{Exit, Process};
use tokio::sync::oneshot;
use tokio::time::Instant;
use wire::api::event::VmState;
use wire::api::{ErrorKind, ErrorObject};

use super::boot::BOOT_TIMEOUT;
use super::{Attempt, Change, Command, Lease, Making, Phase, Vm, VmEvent, Waiting, answer_all, blocking};
use crate::owner::{Answer, Event, OperationEvent};

/// How long after a guest has not been reached it is asked again to power itself off.
const POWER_OFF_PAUSE: Duration = Duration::from_secs(1);

/// How long a VMM has to end by itself at the end of its guest's grace, before it is killed.
const VMM_GRACE: Duration = Duration::from_secs(5);

enum Wake {
    Ended(Exit),
    GateEnded(Exit),
    Waited(io::Result<()>),
    Late,
    Command(Command),
}

impl Vm {
    /// Makes it first. Nothing is left of one that cannot be made, or that nobody wants any more; what was there before stays.
    pub async fn create(self, making: Making) {
        let Making { id, parts, course } = making;
        let places = self.context.places(&self.name);
        let made = blocking(move || capability::carry_out(&parts, &places, &course)).await;
        let is_made = made.is_ok();
        if is_made {
            self.tell(VmState::Stopped, None).await;
        } else {
            // It has undone what it had begun: what it found there may be somebody's.
            self.owner.send(Event::Vm(self.name.clone(), VmEvent::Gone)).await;
        }
        self.owner.send(Event::Operation(id, OperationEvent::Ended(made))).await;
        if is_made {
            self.run().await;
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            if let Some(command) = self.pending.pop_front() {
                if self.on_command(command).await.is_break() {
                    return;
                }
                continue;
            }
            if self.is_uncleared && self.is_known && self.process.is_none() {
                self.clear_snapshots().await;
                continue;
            }
            let wake = tokio::select! {
                biased;
                exit = ended(self.process.as_mut()) => Wake::Ended(exit),
                exit = ended(self.gate.as_mut()) => Wake::GateEnded(exit),
                waited = waited(self.waiting.as_mut()) => Wake::Waited(waited),
                () = until(self.deadline) => Wake::Late,
                command = self.commands.recv() => match command {
                    Some(command) => Wake::Command(command),
                    None => return,
                },
            };
            let next = match wake {
                Wake::Ended(exit) => self.on_ended(exit).await,
                Wake::GateEnded(exit) => self.on_gate_ended(exit).await,
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
                Phase::Stopping | Phase::Ending => drop(answer.send(Err(self.busy("is stopping")))),
                Phase::Stopped => {
                    self.starts.push(answer);
                    self.start(Attempt::First).await;
                }
            },
            Command::Stop(grace, answer) => self.stop(Some(grace), answer).await,
            Command::Kill(answer) => self.stop(None, answer).await,
            Command::Set(change, answer) => {
                let outcome = self.change(*change).await;
                // Whoever asked may have gone.
                drop(answer.send(outcome));
            }
            Command::Lend(answer) => self.lend(answer).await,
            Command::Snapshot(name, answer) => {
                let taken = self.snapshot(name).await;
                // Whoever asked may have gone.
                drop(answer.send(taken));
            }
            Command::Fork(name, answer) => {
                let base = self.base(name).await;
                // Whoever asked may have gone, and what was taken for him goes too.
                if answer.send(base).is_err() {
                    self.clear_snapshots().await;
                }
            }
            Command::DeleteSnapshot(name, answer) => self.delete_snapshot(name, answer).await,
            Command::ClearSnapshots => self.clear_snapshots().await,
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
            Phase::Stopped | Phase::Running | Phase::Ending => {}
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
        if self.phase == Phase::Stopping {
            // What it holds of what the guest has written, it writes before it ends.
            self.phase = Phase::Ending;
            (self.waiting, self.deadline) = (None, Some(Instant::now() + VMM_GRACE));
            self.signal(Signal::TERM);
            return ControlFlow::Continue(());
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
            Phase::Stopping | Phase::Ending => self.rest().await,
        }
        ControlFlow::Continue(())
    }

    /// The VMM lets nobody take the place of its gate: what the guest sends goes nowhere from now on.
    async fn on_gate_ended(&mut self, exit: Exit) -> ControlFlow<()> {
        (self.gate, self.is_cut_off) = (None, true);
        // That is so too when the VMM has ended, which is seen next.
        tracing::info!(vm = self.name, %exit, "a vm has no network any more");
        if self.phase == Phase::Running {
            self.tell(VmState::Running, None).await;
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
        self.clear_snapshots().await;
    }

    pub(super) async fn fail(&mut self, error: ErrorObject) {
        tracing::warn!(vm = self.name, %error, "a vm has failed");
        self.phase = Phase::Stopped;
        self.tell(VmState::Failed, Some(error.message.clone())).await;
        answer_all(&mut self.starts, &Err(error));
        answer_all(&mut self.stops, &Ok(()));
        // Of one of which nothing is known, something may run.
        if self.is_known && self.process.is_none() {
            self.clear_snapshots().await;
        }
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
            // It ends within seconds.
            (Some(_), Phase::Ending) => self.phase = Phase::Ending,
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

    /// Makes something else of one that does not run: all of what is wanted, or nothing but a larger disk, which does not shrink
    /// again when the rest cannot be written.
    async fn change(&mut self, change: Change) -> Result<(), ErrorObject> {
        if self.process.is_some() {
            return Err(self.busy("is running").with_hint(format!("stead vm stop {}", self.name)));
        }
        let Change { cpus, memory_mib, disk_mib, network } = change;
        let was = self.record.clone();
        let record = Record {
            cpus: cpus.unwrap_or(was.cpus),
            memory_mib: memory_mib.unwrap_or(was.memory_mib),
            network: network.unwrap_or(was.network),
            ..was
        };
        let (places, new) = (self.context.places(&self.name), record.clone());
        let changed = blocking(move || {
            if let Some(disk_mib) = disk_mib {
                disk::grow(&places.directory, u64::from(disk_mib) << 20)?;
            }
            places.write(&new)
        });
        changed.await?;
        self.record = record.clone();
        self.owner.send(Event::Vm(self.name.clone(), VmEvent::Changed(Box::new(record)))).await;
        Ok(())
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

    /// The VMM has ended: nothing on disk says otherwise, its network is gone, and its sockets are nobody's.
    pub(super) async fn forget_process(&mut self) {
        if let Some(mut gate) = self.gate.take() {
            // It holds nothing, and may not have seen it yet.
            let ended = match gate.signal(Signal::KILL) {
                Ok(()) => gate.exited().await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::warn!(vm = self.name, %error, "the network of a vm cannot be ended");
            }
        }
        (self.process, self.record.process, self.record.gate) = (None, None, None);
        (self.is_known, self.is_cut_off) = (true, false);
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
