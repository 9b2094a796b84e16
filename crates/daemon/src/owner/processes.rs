//! The part of the owner's state that is processes on machines.
//!
//! ```text
//!  attached ──told to──► detached ──its end is known──► exited, lost ──seen, or after an hour──► forgotten
//!     └── it ends, or its client or connection does: forgotten
//! ```
//!
//! A detached process is [watched](crate::process) by a task of its own, which is told when its machine can be reached.

use wire::api::event::ProcessState;
use wire::api::process::Outcome;

use super::*;
use crate::database::ProcessRow;
use crate::process::{Watched, state, watch};

/// How long it is known how a detached process ended, as on its machine.
const ENDED_KEPT: Duration = Duration::from_secs(wire::agent::process::DETACHED_END_KEPT_SECONDS as u64);

/// How many detached processes that have ended are known: all that may run on one machine.
const ENDED_KEPT_MAX: usize = wire::agent::process::DETACHED_MAX;

/// A process that a client has started on a machine.
#[derive(Debug)]
pub struct ProcessRecord {
    /// Its id.
    pub id: ProcessId,
    /// Where it runs.
    pub machine: Machine,
    /// What was started.
    pub command: Vec<ByteString>,
    /// What its session on the machine calls it.
    pub far: u64,
    /// The machine's number for it.
    pub pid: Option<u32>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Since when it runs, or since when it has ended.
    pub since: Timestamp,
    /// Whose it is.
    pub hold: Hold,
}

/// Whose a process is.
#[derive(Debug)]
pub enum Hold {
    /// The client's that started it.
    Attached {
        /// Takes why it is to end.
        end: oneshot::Sender<String>,
    },
    /// Nobody's.
    Detached {
        /// Tells its watch whether the machine can be reached.
        reachable: watch::Sender<bool>,
        /// How it ended, if it has.
        outcome: Option<Outcome>,
        /// What keeps it from being asked.
        reason: Option<String>,
        /// Who has attached to it last.
        reader: Option<Reader>,
        /// Who is to hear how it ended.
        awaiting: Vec<oneshot::Sender<Outcome>>,
    },
}

/// Somebody who has attached to a detached process. He is told when somebody else does, and it is known when he has let go.
#[derive(Debug)]
pub struct Reader {
    /// Tells him.
    pub end: oneshot::Sender<()>,
    /// Ends when he has let go.
    pub ended: oneshot::Receiver<()>,
}

/// What a handler has to know of a process.
#[derive(Debug, Clone)]
pub struct Known {
    /// Where it runs.
    pub machine: Machine,
    /// What its session on the machine calls it.
    pub far: u64,
    /// Whether it goes on without its client.
    pub is_detached: bool,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
}

impl ProcessRecord {
    fn new(row: &ProcessRow, hold: Hold) -> ProcessRecord {
        ProcessRecord {
            id: row.id,
            machine: row.machine.clone(),
            command: row.command.clone(),
            far: row.far,
            pid: row.pid,
            terminal: row.terminal,
            since: row.since,
            hold,
        }
    }

    /// One that is its client's, and where that hears why it is to end.
    pub fn attached(row: &ProcessRow) -> (ProcessRecord, oneshot::Receiver<String>) {
        let (end, ended) = oneshot::channel();
        (ProcessRecord::new(row, Hold::Attached { end }), ended)
    }

    /// One that goes on without its client, and where its watch hears from the owner.
    pub fn detached(row: &ProcessRow) -> (ProcessRecord, watch::Receiver<bool>) {
        let (reachable, is_reachable) = watch::channel(true);
        let outcome = row.outcome.clone();
        let hold = Hold::Detached { reachable, outcome, reason: None, reader: None, awaiting: Vec::new() };
        (ProcessRecord::new(row, hold), is_reachable)
    }

    fn outcome(&self) -> Option<&Outcome> {
        match &self.hold {
            Hold::Detached { outcome, .. } => outcome.as_ref(),
            Hold::Attached { .. } => None,
        }
    }

    pub(super) fn status(&self) -> status::Process {
        let (state, code) = self.outcome().map_or((ProcessState::Running, None), state);
        let reason = match &self.hold {
            Hold::Detached { outcome: Some(Outcome::Lost { reason }), .. } => Some(reason.clone()),
            Hold::Detached { reason, .. } => reason.clone(),
            Hold::Attached { .. } => None,
        };
        status::Process {
            id: self.id,
            machine: self.machine.clone(),
            command: self.command.clone(),
            state: state.name().to_owned(),
            code,
            reason,
            pid: self.pid,
            detached: matches!(self.hold, Hold::Detached { .. }),
            terminal: self.terminal,
            since: self.since,
        }
    }
}

impl Owner {
    pub(super) fn on_process_started(&mut self, process: ProcessRecord) {
        self.tell_of_process(process.id, process.machine.clone(), ProcessState::Running, None);
        let state = self.connection_state(&process.machine).map(|(state, _)| state);
        let machine = process.machine.clone();
        self.processes.insert(process.id, process);
        // It was begun through a connection that has been closed since.
        if matches!(state, None | Some(ConnectionState::Disconnected)) {
            self.end_processes(&machine, None);
        }
    }

    /// Takes a detached process in, one that a client has let go or that a daemon before this one has left, and has it
    /// watched.
    pub(super) fn on_process_detached(&mut self, row: ProcessRow) {
        let (record, is_reachable) = ProcessRecord::detached(&row);
        let has_ended = record.outcome().is_some();
        let (id, machine, since) = (record.id, record.machine.clone(), record.since);
        self.processes.insert(id, record);
        if has_ended {
            let kept = now().unix().saturating_sub(since.unix());
            return self.forget_process_after(id, ENDED_KEPT.saturating_sub(Duration::from_secs(kept)));
        }
        self.tell_of_process(id, machine, ProcessState::Detached, None);
        let owner = self.handle.clone();
        let database = self.surroundings.mounts.database.clone();
        tokio::spawn(watch(Watched { row, owner, database, is_reachable }));
    }

    /// `code` is what it exited with, if that is known.
    pub(super) fn on_process_ended(&mut self, id: ProcessId, code: Option<u8>) {
        let is_attached =
            self.processes.get(&id).is_some_and(|process| matches!(process.hold, Hold::Attached { .. }));
        if is_attached && let Some(process) = self.processes.remove(&id) {
            let state = if code.is_some() { ProcessState::Exited } else { ProcessState::Lost };
            self.tell_of_process(id, process.machine, state, code);
        }
    }

    /// A detached process has ended, or what keeps it from being asked is another.
    pub(super) fn on_process_watched(&mut self, id: ProcessId, what: Result<Outcome, Option<String>>) {
        let Some(process) = self.processes.get_mut(&id) else {
            // It has been seen meanwhile, and its end was written after that.
            return if what.is_ok() {
                self.remove_row(id)
            };
        };
        let Hold::Detached { outcome, reason, awaiting, .. } = &mut process.hold else { return };
        let ended = match what {
            Ok(ended) => ended,
            Err(why) => return *reason = why,
        };
        for waiting in awaiting.drain(..) {
            // Who has given up waiting hears nothing.
            let _ = waiting.send(ended.clone());
        }
        let (state, code) = state(&ended);
        *outcome = Some(ended);
        process.since = now();
        let machine = process.machine.clone();
        self.tell_of_process(id, machine, state, code);
        self.forget_process_after(id, ENDED_KEPT);
        let mut ended: Vec<_> =
            self.processes.values().filter(|process| process.outcome().is_some()).collect();
        ended.sort_by_key(|process| process.since.unix());
        let too_many = ended.len().saturating_sub(ENDED_KEPT_MAX);
        let oldest: Vec<_> = ended.iter().take(too_many).map(|process| process.id).collect();
        oldest.into_iter().for_each(|id| self.forget_process(id));
    }

    /// A client has seen the end of a detached process: nobody has to be told of it any more.
    pub(super) fn on_process_seen(&mut self, id: ProcessId, ended: Outcome) {
        if self.processes.get(&id).is_some_and(|process| process.outcome().is_none()) {
            self.on_process_watched(id, Ok(ended));
        }
        self.forget_process(id);
    }

    fn forget_process_after(&self, id: ProcessId, pause: Duration) {
        let owner = self.handle.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            owner.send(Event::ForgetProcess(id)).await;
        });
    }

    /// Forgets a detached process that has ended.
    pub(super) fn forget_process(&mut self, id: ProcessId) {
        if self.processes.get(&id).is_none_or(|process| process.outcome().is_none()) {
            return;
        }
        self.processes.remove(&id);
        self.remove_row(id);
    }

    fn remove_row(&self, id: ProcessId) {
        let database = self.surroundings.mounts.database.clone();
        tokio::spawn(async move {
            if let Err(error) = database.remove_process(id).await {
                tracing::error!(process = %id, %error, "a process that has ended was not forgotten");
            }
        });
    }

    /// Takes note of who reads a process from now on, and gives back who did before. One who attaches to what is not
    /// detached any more, because it was forgotten, has nobody to care for.
    pub(super) fn read_process(&mut self, id: ProcessId, new: Reader) -> Option<Reader> {
        match &mut self.processes.get_mut(&id)?.hold {
            Hold::Detached { reader, .. } => reader.replace(new),
            Hold::Attached { .. } => None,
        }
    }

    /// Tells how a detached process ended, as soon as that is known. One that is forgotten drops the answer.
    pub(super) fn await_process(&mut self, id: ProcessId, answer: oneshot::Sender<Outcome>) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        match &mut process.hold {
            // Who has given up waiting hears nothing.
            Hold::Detached { outcome: Some(outcome), .. } => drop(answer.send(outcome.clone())),
            Hold::Detached { awaiting, .. } => {
                awaiting.retain(|waiting| !waiting.is_closed());
                awaiting.push(answer);
            }
            Hold::Attached { .. } => {}
        }
    }

    pub(super) fn find_process(&self, id: ProcessId) -> Result<Known, ErrorObject> {
        let Some(process) = self.processes.get(&id) else {
            let error = ErrorObject::new(ErrorKind::NotFound, format!("there is no process {id}"));
            return Err(error.with_hint("stead ps"));
        };
        Ok(Known {
            machine: process.machine.clone(),
            far: process.far,
            is_detached: matches!(process.hold, Hold::Detached { .. }),
            outcome: process.outcome().cloned(),
        })
    }

    /// A machine can be reached: whoever watches a process there may ask again.
    pub(super) fn processes_reachable(&self, machine: &Machine) {
        for process in self.processes.values().filter(|process| process.machine == *machine) {
            if let Hold::Detached { reachable, .. } = &process.hold {
                reachable.send_replace(true);
            }
        }
    }

    /// Ends all processes of a machine, as their connection ends; `why` is said of one that was lost. Those that are detached
    /// go on, and are not asked about any more.
    pub(super) fn end_processes(&mut self, machine: &Machine, why: Option<&str>) {
        let reason = match why {
            Some(why) => format!("its connection was lost: {why}"),
            None => "its connection was closed".to_owned(),
        };
        let ends = |process: &ProcessRecord| {
            process.machine == *machine && matches!(process.hold, Hold::Attached { .. })
        };
        let ending: Vec<_> = self.processes.extract_if(.., |_, process| ends(process)).collect();
        for (id, process) in ending {
            if let Hold::Attached { end } = process.hold {
                // One that has just ended by itself is not told.
                let _ = end.send(reason.clone());
            }
            self.tell_of_process(id, process.machine, ProcessState::Lost, None);
        }
        for process in self.processes.values_mut().filter(|process| process.machine == *machine) {
            if let Hold::Detached { reachable, reason: why, outcome: None, .. } = &mut process.hold {
                reachable.send_replace(false);
                *why = Some(reason.clone());
            }
        }
    }

    fn tell_of_process(&mut self, id: ProcessId, machine: Machine, state: ProcessState, code: Option<u8>) {
        self.bus.publish(Happened::Process { id, machine, state, code }, now());
    }
}
