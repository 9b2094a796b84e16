//! The part of the owner's state that is threads.
//!
//! Whoever does something to a thread has its *turn*: nobody else does anything to it meanwhile. What is done is in
//! [`crate::thread`]. Who comes meanwhile waits, in the order of coming, as long as its asker likes; at most so many do.
//!
//! ```text
//!  making ──► open ──► dropping ──► forgotten
//!    └──────────────────────────────────┘ it could not be made
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use wire::api::event::ThreadState;
use wire::api::thread::THREADS_MAX;

use super::*;
use crate::database::{ThreadPhase, ThreadRow};
use crate::thread::in_use;

/// How many wait for the turn of one thread.
pub(super) const WAITING_MAX: usize = 16;

/// Tells turns apart, so that one that ends late ends no other.
static TURNS: AtomicU64 = AtomicU64::new(0);

/// A thread, as the owner knows it.
#[derive(Debug)]
pub(super) struct ThreadRecord {
    row: ThreadRow,
    /// How many paths are not as the base has them, once that is known.
    changed: Option<u64>,
    /// The turn that somebody has.
    turn: Option<u64>,
    /// Who wants it next.
    waiting: VecDeque<Answer<(FoundThread, Turn)>>,
}

/// The right to do something to a thread, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    name: String,
    number: u64,
    owner: OwnerHandle,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let free = ThreadEvent::Free(std::mem::take(&mut self.name), self.number);
        self.owner.send_later(Event::Thread(free));
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
    /// The turn of this number is over.
    Free(String, u64),
}

impl Owner {
    pub(super) fn on_thread(&mut self, event: ThreadEvent) {
        match event {
            ThreadEvent::Known(row) => self.know_thread(*row),
            ThreadEvent::Claim { row, answer } => drop(answer.send(self.claim_thread(*row))),
            ThreadEvent::Take { name, answer } => self.take_thread(&name, answer),
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
                let mut record = self.threads.remove(&name);
                for answer in record.iter_mut().flat_map(|record| record.waiting.drain(..)) {
                    drop(answer.send(Err(unknown(&name))));
                }
                // One that was never there is its maker's business alone.
                if record.is_some_and(|record| record.row.phase != ThreadPhase::Making) {
                    self.bus.publish(Happened::Thread { id: name, state: ThreadState::Dropped }, now());
                }
            }
            ThreadEvent::Free(name, number) => {
                if let Some(record) = self.threads.get_mut(&name).filter(|record| record.turn == Some(number))
                {
                    record.turn = None;
                    self.give_turn(&name);
                }
            }
        }
    }

    fn know_thread(&mut self, row: ThreadRow) {
        let record = ThreadRecord { row, changed: None, turn: None, waiting: VecDeque::new() };
        self.threads.insert(record.row.name.clone(), record);
    }

    fn claim_thread(&mut self, row: ThreadRow) -> Result<Turn, ErrorObject> {
        if !matches!(self.course, Course::Serving) {
            return Err(ending());
        }
        let name = row.name.clone();
        if let Some(record) = self.threads.get(&name) {
            return Err(exists(&record.row));
        }
        if self.threads.len() >= THREADS_MAX {
            let message = format!("there are {THREADS_MAX} threads already");
            return Err(ErrorObject::new(ErrorKind::Failure, message).with_hint("stead thread list"));
        }
        self.know_thread(row);
        self.turn(&name).ok_or_else(|| in_use(&name))
    }

    /// The turn of a thread that nobody has.
    fn turn(&mut self, name: &str) -> Option<Turn> {
        let record = self.threads.get_mut(name).filter(|record| record.turn.is_none())?;
        let number = TURNS.fetch_add(1, Ordering::Relaxed);
        record.turn = Some(number);
        Some(Turn { name: name.to_owned(), number, owner: self.handle.clone() })
    }

    fn take_thread(&mut self, name: &str, answer: Answer<(FoundThread, Turn)>) {
        let refusal = match self.threads.get_mut(name) {
            None => unknown(name),
            Some(record) => {
                // Some may have waited long enough.
                record.waiting.retain(|waiting| !waiting.is_closed());
                if record.waiting.len() < WAITING_MAX {
                    record.waiting.push_back(answer);
                    return self.give_turn(name);
                }
                in_use(name)
            }
        };
        drop(answer.send(Err(refusal)));
    }

    /// Gives the turn of a thread to who waits for it first, if nobody has it.
    fn give_turn(&mut self, name: &str) {
        let Some(record) = self.threads.get_mut(name).filter(|record| record.turn.is_none()) else { return };
        record.waiting.retain(|waiting| !waiting.is_closed());
        let Some(answer) = record.waiting.pop_front() else { return };
        let Some(turn) = self.turn(name) else { return };
        // Who has just gone gives the turn back.
        drop(answer.send(self.find_thread(name).map(|found| (found, turn))));
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

/// What is said to who wants to make another one of this name, in whichever repository.
pub fn exists(row: &ThreadRow) -> ErrorObject {
    let ThreadRow { name, repo, .. } = row;
    let error =
        ErrorObject::new(ErrorKind::Conflict, format!("there is a thread `{name}` already, of `{repo}`"));
    error.with_hint(format!("choose another name, or stead thread status {name}"))
}
