//! The part of the owner's state that is threads.
//!
//! Whoever does something to a thread has its *turn*: nobody else does anything to it meanwhile. What is done is in
//! [`crate::thread`].
//!
//! ```text
//!  making ──► open ──► dropping ──► forgotten
//!    └──────────────────────────────────┘ it could not be made
//! ```

use wire::api::event::ThreadState;
use wire::api::thread::THREADS_MAX;

use super::*;
use crate::database::{ThreadPhase, ThreadRow};

/// A thread, as the owner knows it.
#[derive(Debug)]
pub(super) struct ThreadRecord {
    row: ThreadRow,
    /// How many paths are not as the base has them, once that is known.
    changed: Option<u64>,
    has_turn: bool,
}

/// The right to do something to a thread, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    name: String,
    owner: OwnerHandle,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.owner.send_later(Event::Thread(ThreadEvent::Free(std::mem::take(&mut self.name))));
    }
}

/// A thread that somebody asked for.
#[derive(Debug)]
pub struct FoundThread {
    /// What it is.
    pub row: ThreadRow,
    /// Its mount, if it is mounted.
    pub mount: Option<MountHandle>,
    /// How many paths are not as the base has them, if that is known.
    pub changed: Option<u64>,
    /// What is shown of it.
    pub shown: status::Thread,
}

/// What can happen to threads.
#[derive(Debug)]
pub enum ThreadEvent {
    /// A daemon before this one has made a thread.
    Known(Box<ThreadRow>),
    /// Somebody wants to make one.
    Claim {
        /// What it is to be.
        row: Box<ThreadRow>,
        /// The right to make it, if its name is free.
        answer: Answer<Turn>,
    },
    /// Somebody wants to do something to one.
    Take {
        /// Which.
        name: String,
        /// It, and the right to it.
        answer: Answer<(FoundThread, Turn)>,
    },
    /// Somebody wants to know of one.
    Find {
        /// Which.
        name: String,
        /// What it is.
        answer: Answer<FoundThread>,
    },
    /// Somebody wants to know of all.
    FindAll {
        /// In the order of their names.
        answer: oneshot::Sender<Vec<FoundThread>>,
    },
    /// It has become another.
    Became(Box<ThreadRow>),
    /// So many paths of it are not as the base has them.
    Counted(String, u64),
    /// It is gone, or was never made.
    Gone(String),
    /// A turn is over.
    Free(String),
}

impl Owner {
    pub(super) fn on_thread(&mut self, event: ThreadEvent) {
        match event {
            ThreadEvent::Known(row) => self.know_thread(*row),
            ThreadEvent::Claim { row, answer } => drop(answer.send(self.claim_thread(*row))),
            ThreadEvent::Take { name, answer } => drop(answer.send(self.take_thread(&name))),
            ThreadEvent::Find { name, answer } => drop(answer.send(self.find_thread(&name))),
            ThreadEvent::FindAll { answer } => {
                let all = self.threads.values().map(|record| self.found(record)).collect();
                // Whoever asked may have gone.
                let _ = answer.send(all);
            }
            ThreadEvent::Became(row) => {
                if let Some(record) = self.threads.get_mut(&row.name) {
                    let is_new = record.row.phase != row.phase;
                    let (id, state) = (row.name.clone(), state(&row.phase));
                    record.row = *row;
                    if is_new {
                        self.bus.publish(Happened::Thread { id, state }, now());
                    }
                }
            }
            ThreadEvent::Counted(name, count) => {
                if let Some(record) = self.threads.get_mut(&name) {
                    record.changed = Some(count);
                }
            }
            ThreadEvent::Gone(name) => {
                let record = self.threads.remove(&name);
                // One that was never there is its maker's business alone.
                if record.is_some_and(|record| record.row.phase != ThreadPhase::Making) {
                    self.bus.publish(Happened::Thread { id: name, state: ThreadState::Dropped }, now());
                }
            }
            ThreadEvent::Free(name) => {
                if let Some(record) = self.threads.get_mut(&name) {
                    record.has_turn = false;
                }
            }
        }
    }

    fn know_thread(&mut self, row: ThreadRow) {
        let record = ThreadRecord { row, changed: None, has_turn: false };
        self.threads.insert(record.row.name.clone(), record);
    }

    fn claim_thread(&mut self, row: ThreadRow) -> Result<Turn, ErrorObject> {
        if !matches!(self.course, Course::Serving) {
            return Err(ending());
        }
        let name = row.name.clone();
        if self.threads.contains_key(&name) {
            return Err(exists(&name));
        }
        if self.threads.len() >= THREADS_MAX {
            let message = format!("there are {THREADS_MAX} threads already");
            return Err(ErrorObject::new(ErrorKind::Failure, message).with_hint("stead thread list"));
        }
        self.know_thread(row);
        self.turn(&name)
    }

    fn turn(&mut self, name: &str) -> Result<Turn, ErrorObject> {
        let record = self.threads.get_mut(name).ok_or_else(|| unknown(name))?;
        if std::mem::replace(&mut record.has_turn, true) {
            let message = format!("something else is being done to the thread `{name}`");
            return Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint("try again in a moment"));
        }
        Ok(Turn { name: name.to_owned(), owner: self.handle.clone() })
    }

    fn take_thread(&mut self, name: &str) -> Result<(FoundThread, Turn), ErrorObject> {
        let turn = self.turn(name)?;
        Ok((self.find_thread(name)?, turn))
    }

    fn find_thread(&self, name: &str) -> Result<FoundThread, ErrorObject> {
        self.threads.get(name).map(|record| self.found(record)).ok_or_else(|| unknown(name))
    }

    fn found(&self, record: &ThreadRecord) -> FoundThread {
        let mount = self.mount_of(&record.row.name);
        let (row, shown) = (record.row.clone(), self.shown_thread(record));
        let mount = mount.and_then(|mount| self.handles(|id| id == mount).into_iter().next());
        FoundThread { row, mount, changed: record.changed, shown }
    }

    /// The mount of a thread, also one that does not serve yet.
    pub(super) fn mount_of(&self, thread: &str) -> Option<MountId> {
        let is_its =
            |record: &MountRecord| matches!(&record.source, Source::Thread { name } if name == thread);
        self.mounts.iter().find(|(_, record)| is_its(record)).map(|(id, _)| *id)
    }

    /// What is changed in a thread is not known any more.
    pub(super) fn doubt_thread(&mut self, source: &Source) {
        if let Source::Thread { name } = source
            && let Some(record) = self.threads.get_mut(name)
        {
            record.changed = None;
        }
    }

    fn shown_thread(&self, record: &ThreadRecord) -> status::Thread {
        let ThreadRow { name, repo, commit, branch, dir, phase, .. } = record.row.clone();
        let mount = self.mount_of(&name).filter(|mount| self.mounts[mount].is_shown());
        let (base, changed) = (commit, record.changed.unwrap_or(0));
        status::Thread { name, repo, base, branch, dir, state: state(&phase), changed, mount }
    }

    /// Those that are there.
    pub(super) fn shown_threads(&self) -> Vec<status::Thread> {
        let there = self.threads.values().filter(|record| record.row.phase != ThreadPhase::Making);
        there.map(|record| self.shown_thread(record)).collect()
    }
}

fn state(phase: &ThreadPhase) -> ThreadState {
    match phase {
        ThreadPhase::Making => ThreadState::Making,
        ThreadPhase::Open => ThreadState::Open,
        ThreadPhase::Dropping { .. } => ThreadState::Dropping,
    }
}

fn unknown(name: &str) -> ErrorObject {
    let error =
        ErrorObject::new(ErrorKind::NotFound, format!("there is no thread `{}`", name.escape_debug()));
    error.with_hint("stead thread list")
}

fn exists(name: &str) -> ErrorObject {
    let error = ErrorObject::new(ErrorKind::Conflict, format!("there is a thread `{name}` already"));
    error.with_hint(format!("stead thread status {name}"))
}
