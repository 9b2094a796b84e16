//! The part of the owner's state that is processes on machines.

use wire::api::event::ProcessState;

use super::*;

/// A process that a client has started on a machine.
#[derive(Debug)]
pub struct ProcessRecord {
    /// Its id.
    pub id: ProcessId,
    /// Where it runs.
    pub machine: Machine,
    /// What was started.
    pub command: Vec<ByteString>,
    /// Takes why it is to end.
    pub end: oneshot::Sender<String>,
}

impl ProcessRecord {
    pub(super) fn status(&self) -> status::Process {
        status::Process {
            id: self.id,
            machine: self.machine.clone(),
            command: self.command.clone(),
            state: ProcessState::Running.name().to_owned(),
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

    /// `code` is what it exited with, if that is known.
    pub(super) fn on_process_ended(&mut self, id: ProcessId, code: Option<u8>) {
        if let Some(process) = self.processes.remove(&id) {
            let state = if code.is_some() { ProcessState::Exited } else { ProcessState::Lost };
            self.tell_of_process(id, process.machine, state, code);
        }
    }

    /// Ends all processes of a machine, as their connection ends; `why` is said of one that was lost.
    pub(super) fn end_processes(&mut self, machine: &Machine, why: Option<&str>) {
        let reason = match why {
            Some(why) => format!("its connection was lost: {why}"),
            None => "its connection was closed".to_owned(),
        };
        let of_machine = self.processes.extract_if(.., |_, process| process.machine == *machine);
        for (id, process) in of_machine.collect::<Vec<_>>() {
            // One that has just ended by itself is not told.
            let _ = process.end.send(reason.clone());
            self.tell_of_process(id, process.machine, ProcessState::Lost, None);
        }
    }

    fn tell_of_process(&mut self, id: ProcessId, machine: Machine, state: ProcessState, code: Option<u8>) {
        self.bus.publish(Happened::Process { id, machine, state, code }, now());
    }
}
