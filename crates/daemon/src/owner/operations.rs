//! The part of the owner's state that is operations.
//!
//! ```text
//!  running ──its task tells the end──► succeeded | failed | cancelled ──64 others have ended──► forgotten
//! ```
//!
//! Each is done by a task of its own, which goes on until it has told how it ended: whoever cancels it calls it off, and waits
//! for that too. It was cancelled if it ended because it was called off; one that came to its end all the same has succeeded.

use machine::course::Client;
use wire::api::event::OperationState;
use wire::api::operation::ENDED_MAX;

use super::*;

/// An operation, as the owner knows it.
#[derive(Debug)]
pub(super) struct OperationRecord {
    shown: status::Operation,
    /// Calls it off when it is dropped.
    wanted: Option<Client>,
    /// Told how it ended.
    waiting: Vec<Answer<status::Operation>>,
}

/// What the task of an operation tells.
#[derive(Debug)]
pub enum OperationEvent {
    /// A part of it begins.
    Stage(String),
    /// It has ended. After an error nothing of it is left.
    Ended(Result<(), ErrorObject>),
}

/// An operation that is to be begun.
#[derive(Debug)]
pub struct Begun {
    /// A number that no other has had.
    pub id: OperationId,
    /// What is done.
    pub kind: &'static str,
    /// To what.
    pub name: String,
    /// Its parts, in their order.
    pub stages: Vec<String>,
    /// Calls it off when it is dropped.
    pub wanted: Client,
}

impl Owner {
    pub(super) fn begin_operation(&mut self, begun: Begun) -> status::Operation {
        let Begun { id, kind, name, stages, wanted } = begun;
        let shown = status::Operation {
            id,
            kind: kind.to_owned(),
            name,
            state: OperationState::Running,
            stages,
            stage: None,
            since: now(),
            ended: None,
            error: None,
        };
        let record = OperationRecord { shown: shown.clone(), wanted: Some(wanted), waiting: Vec::new() };
        self.operations.insert(id, record);
        self.tell_operation(&shown);
        shown
    }

    pub(super) fn on_operation(&mut self, id: OperationId, event: OperationEvent) {
        let Some(record) = self.operations.get_mut(&id) else { return };
        match event {
            OperationEvent::Stage(stage) => record.shown.stage = Some(stage),
            OperationEvent::Ended(outcome) => {
                let was_called_off = record.wanted.take().is_none();
                let (state, error) = match outcome {
                    Ok(()) => (OperationState::Succeeded, None),
                    Err(error) if was_called_off && error.kind() == ErrorKind::Interrupted => {
                        (OperationState::Cancelled, None)
                    }
                    Err(error) => (OperationState::Failed, Some(error)),
                };
                (record.shown.state, record.shown.error) = (state, error);
                record.shown.ended = Some(now());
                for answer in record.waiting.drain(..) {
                    // Whoever waited may have gone.
                    drop(answer.send(Ok(record.shown.clone())));
                }
            }
        }
        let shown = record.shown.clone();
        self.tell_operation(&shown);
        if shown.ended.is_some() {
            self.ended_operations.push_back(id);
            self.forget_operations();
        }
    }

    /// Forgets those that ended long ago, in the order in which they ended.
    fn forget_operations(&mut self) {
        while self.ended_operations.len() > ENDED_MAX {
            if let Some(id) = self.ended_operations.pop_front() {
                self.operations.remove(&id);
            }
        }
    }

    pub(super) fn await_operation(&mut self, id: OperationId, answer: Answer<status::Operation>) {
        match self.operations.get_mut(&id) {
            None => drop(answer.send(Err(unknown(id)))),
            Some(record) if record.shown.ended.is_some() => drop(answer.send(Ok(record.shown.clone()))),
            Some(record) => record.wait(answer),
        }
    }

    pub(super) fn cancel_operation(&mut self, id: OperationId, answer: Answer<status::Operation>) {
        match self.operations.get_mut(&id) {
            None => drop(answer.send(Err(unknown(id)))),
            Some(record) => match record.shown.state {
                OperationState::Running => {
                    record.wanted = None;
                    record.wait(answer);
                }
                OperationState::Cancelled => drop(answer.send(Ok(record.shown.clone()))),
                state @ (OperationState::Succeeded | OperationState::Failed) => {
                    let error = ErrorObject::new(ErrorKind::Conflict, format!("{id} has {state} already"));
                    drop(answer.send(Err(error.with_hint(format!("stead operation show {id}")))));
                }
            },
        }
    }

    fn tell_operation(&mut self, shown: &status::Operation) {
        let reason = shown.error.as_ref().map(|error| error.message.clone());
        let (id, state, stage) = (shown.id, shown.state, shown.stage.clone());
        self.bus.publish(Happened::Operation { id, state, stage, reason }, now());
    }

    pub(super) fn shown_operations(&self) -> Vec<status::Operation> {
        self.operations.values().map(|record| record.shown.clone()).collect()
    }
}

impl OperationRecord {
    /// Has somebody told how it ends. Those who have gone meanwhile are forgotten, so that nobody who asks again and again
    /// makes the list long.
    fn wait(&mut self, answer: Answer<status::Operation>) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        self.waiting.push(answer);
    }
}

/// What is said of one that is not known, or not any more.
pub fn unknown(id: OperationId) -> ErrorObject {
    ErrorObject::new(ErrorKind::NotFound, format!("there is no operation {id}"))
        .with_hint("stead operation list")
}
