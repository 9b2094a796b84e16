//! The part of the owner's state that is microVMs. Each is served by a task of its own, see [`crate::vm`].

use machine::course::{self, Said};
use machine::vm::Record;
use wire::api::event::VmState;
use wire::api::vm::VMS_MAX;

use super::*;
use crate::vm::{COMMANDS_MAX, Command as VmCommand, Making, Vm, VmEvent, Wanted, from_machine};

/// A microVM, as the owner knows it.
#[derive(Debug)]
pub(super) struct VmRecord {
    shown: status::Vm,
    commands: mpsc::Sender<VmCommand>,
    /// Whether it is known which snapshots it has.
    is_looked_at: bool,
    /// How many want it removed.
    dooms: u32,
}

impl Owner {
    pub(super) fn create_vm(
        &mut self,
        name: String,
        wanted: Wanted,
        id: OperationId,
    ) -> Result<status::Operation, ErrorObject> {
        match self.vms.len() {
            _ if !matches!(self.course, Course::Serving) => return Err(ending()),
            _ if self.vms.contains_key(&name) => {
                let message = format!("there is a vm `{name}` already");
                let error = ErrorObject::new(ErrorKind::Conflict, message);
                return Err(error.with_hint(format!("stead vm show {name}")));
            }
            VMS_MAX.. => {
                let message = format!("there are {VMS_MAX} vms already");
                return Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint("stead vm list"));
            }
            _ => {}
        }
        if let Some(from) = &wanted.record.from {
            self.check_origin(from)?;
        }
        let context = self.surroundings.vms.clone();
        let parts = (context.capabilities)(&wanted);
        let owner = self.handle.clone();
        let told = move |said: Said<'_>| {
            owner.send_blocking(Event::Operation(id, OperationEvent::Stage(said.text().to_owned())));
        };
        let (course, client) = course::Course::new(told).map_err(|error| from_machine(&error))?;
        let stages = parts.iter().map(|part| part.name().to_owned()).collect();
        let commands = self.insert_vm(&name, &wanted.record, VmState::Creating);
        let begun = Begun {
            id,
            kind: if wanted.record.from.is_some() { "vm fork" } else { "vm create" },
            name: name.clone(),
            stages,
            wanted: client,
        };
        let operation = self.begin_operation(begun);
        let vm = Vm::new(name, wanted.record, context, self.handle.clone(), commands);
        tokio::spawn(vm.create(Making { id, parts, course }));
        Ok(operation)
    }

    /// Whether one may be made of another one's snapshot: that has to be there, and to stay.
    fn check_origin(&self, from: &status::Origin) -> Result<(), ErrorObject> {
        match self.vms.get(&from.vm).filter(|vm| vm.shown.id == from.id) {
            Some(vm) if vm.dooms > 0 => {
                let message = format!("the vm `{}` is being deleted", from.vm);
                Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint("stead vm list"))
            }
            Some(_) => Ok(()),
            None => {
                let message = format!("the vm `{}` was deleted", from.vm);
                Err(ErrorObject::new(ErrorKind::NotFound, message).with_hint("stead vm list"))
            }
        }
    }

    /// Has none made of one from here on, and gives where that is told to be no more. One of which others were made stays, and so
    /// does one of which others may have been made.
    pub(super) fn doom_vm(&mut self, name: &str, id: &str) -> Result<mpsc::Sender<VmCommand>, ErrorObject> {
        let Some(vm) = self.vms.get(name).filter(|vm| vm.shown.id == id) else { return Err(unknown(name)) };
        let has_snapshots = !vm.is_looked_at || !vm.shown.snapshots.is_empty();
        if let Some(first) = self.unread_vms.first().filter(|_| has_snapshots) {
            let message =
                format!("a snapshot of the vm `{name}` may be used by `{first}`, which could not be read");
            let hint = "stead daemon logs says why; once that is mended: stead daemon restart";
            return Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint(hint));
        }
        let is_over =
            |other: &&VmRecord| other.shown.from.as_ref().is_some_and(|from| from.id == vm.shown.id);
        let users: Vec<&str> = self.vms.values().filter(is_over).map(|user| &user.shown.name[..]).collect();
        if let Some(first) = users.first() {
            let message = format!("a snapshot of the vm `{name}` is used by {}", users.join(", "));
            let hint = format!("stead vm delete {first}");
            return Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint(hint));
        }
        let commands = vm.commands.clone();
        if let Some(vm) = self.vms.get_mut(name) {
            vm.dooms += 1;
        }
        Ok(commands)
    }

    pub(super) fn spare_vm(&mut self, name: &str, id: &str) {
        if let Some(vm) = self.vms.get_mut(name).filter(|vm| vm.shown.id == id) {
            vm.dooms = vm.dooms.saturating_sub(1);
        }
    }

    pub(super) fn adopt_vm(&mut self, name: String, record: Record) {
        // One that was left running is not said to be stopped before that has been found out.
        let state = if record.process.is_some() { VmState::Starting } else { VmState::Stopped };
        let commands = self.insert_vm(&name, &record, state);
        let vm = Vm::new(name, record, self.surroundings.vms.clone(), self.handle.clone(), commands);
        tokio::spawn(vm.adopt());
    }

    fn insert_vm(&mut self, name: &str, record: &Record, state: VmState) -> mpsc::Receiver<VmCommand> {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let shown = shown(name, record, state);
        // One that is made now has none yet.
        let is_looked_at = state == VmState::Creating;
        self.vms.insert(name.to_owned(), VmRecord { shown, commands: sender, is_looked_at, dooms: 0 });
        self.tell_vm(name, state, None);
        commands
    }

    pub(super) fn select_vm(&self, name: &str) -> Result<mpsc::Sender<VmCommand>, ErrorObject> {
        let found = self.vms.get(name).map(|vm| vm.commands.clone());
        found.ok_or_else(|| unknown(name))
    }

    pub(super) fn on_vm(&mut self, name: &str, event: VmEvent) {
        let Some(vm) = self.vms.get_mut(name) else { return };
        let (state, reason, pid) = match event {
            VmEvent::State { state, reason, pid } => (state, reason, pid),
            VmEvent::Changed(record) => {
                let status::Vm { pid, reason, since, state, snapshots, .. } = &vm.shown;
                vm.shown = status::Vm {
                    pid: *pid,
                    reason: reason.clone(),
                    since: *since,
                    snapshots: snapshots.clone(),
                    ..shown(name, &record, *state)
                };
                return;
            }
            VmEvent::Snapshots(found) => {
                (vm.shown.snapshots, vm.is_looked_at) = (found, true);
                return;
            }
            VmEvent::Gone => {
                self.vms.remove(name);
                self.tell_vm(name, VmState::Deleted, None);
                return;
            }
        };
        let was = std::mem::replace(&mut vm.shown.state, state);
        (vm.shown.pid, vm.shown.reason) = (pid, reason.clone());
        if was != state {
            vm.shown.since = now();
            self.tell_vm(name, state, reason);
        }
    }

    fn tell_vm(&mut self, name: &str, state: VmState, reason: Option<String>) {
        self.bus.publish(Happened::Vm { id: name.to_owned(), state, reason }, now());
    }

    pub(super) fn shown_vms(&self) -> Vec<status::Vm> {
        self.vms.values().map(|vm| vm.shown.clone()).collect()
    }
}

fn unknown(name: &str) -> ErrorObject {
    let message = format!("there is no vm `{}`", name.escape_debug());
    ErrorObject::new(ErrorKind::NotFound, message).with_hint("stead vm list")
}

fn shown(name: &str, record: &Record, state: VmState) -> status::Vm {
    status::Vm {
        name: name.to_owned(),
        id: record.id.clone(),
        state,
        image: record.image.clone(),
        engine: record.engine.clone(),
        pid: None,
        cpus: record.cpus,
        memory_mib: record.memory_mib,
        nat: record.network.is_some(),
        ports: record.network.clone().map(|network| network.ports).unwrap_or_default(),
        snapshots: Vec::new(),
        from: record.from.clone(),
        reason: None,
        since: now(),
    }
}
