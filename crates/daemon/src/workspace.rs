//! Workspaces: git working copies that are placed in microVMs, and brought back.
//!
//! ```text
//!  prepare:  copy ──► guest ──► record            export:  guest ──► check ──► branch | patch ──► record
//!            a pack    made of   it is             what is   whole?   put in     what it
//!            is made   it there  there             packed             place      came to
//! ```
//!
//! Each is an [operation](crate::owner::OperationEvent) of [parts](machine::capability), all of which are done or none. Everything in
//! the guest is done by its own `git`, told by scripts ([`guest`]) through its agent: it takes neither a network nor a mount, and
//! nothing in the guest but `sh`, `git` and what every system has. Everything here is [`store::workspace`]'s.
//!
//! Invariants:
//!
//! - Preparing changes nothing of the user's: neither files nor index nor repository.
//! - Exporting changes no working copy, and no branch but from where it was looked at; what a guest sends is looked at aside.
//! - A daemon that is killed leaves: a directory of [its own](wire::paths::Paths::workspaces_dir), which the next one removes; a
//!   [row](crate::database::workspaces::WorkspaceRow) that says what may be in the guest, which the next to prepare has removed
//!   there; objects in the repository to which nothing refers. A branch that was put in place by then is where the next export would put
//!   it.
//!
//! A microVM's workspace is one's alone who does something to it, for as long as that takes: see [`Workspaces`]. That is no turn with the
//! microVM, which can be stopped meanwhile; whoever has it waits for no microVM, see [`crate::order`].

pub mod export;
pub mod guest;
pub mod prepare;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machine::capability::{Capabilities, carry_out};
use machine::course::{Course, Said};
use machine::vm::Places;
use store::workspace::Error;
use wire::api::id::OperationId;
use wire::api::{ErrorKind, ErrorObject, status};
use wire::paths::Paths;

use crate::database::Database;
use crate::database::workspaces::{WorkspacePhase, WorkspaceRow};
use crate::failure::{chain, failure};
use crate::order::{Held, Rank};
use crate::owner::{Begun, Event, OperationEvent, OwnerHandle};
use crate::thread::from_store;
use crate::vm::{blocking, from_machine};

pub use export::{Exporting, Target};
pub use prepare::Preparing;

/// Workspaces to which something is done at once: each has a thread, and a pack on the disk.
const AT_ONCE_MAX: usize = 4;

/// Whose workspaces somebody does something to, by the numbers of their microVMs. Nobody waits: whoever comes meanwhile is refused.
#[derive(Debug, Clone, Default)]
pub struct Workspaces(Arc<Mutex<BTreeSet<String>>>);

/// The right to do something to a workspace, which ends when this is dropped.
#[derive(Debug)]
pub struct Turn {
    workspaces: Workspaces,
    vm_id: String,
}

impl Workspaces {
    /// The workspace of a microVM. Refused while somebody has it, or too many have one.
    pub fn take(&self, vm: &status::Vm) -> Result<Turn, ErrorObject> {
        let mut taken = self.taken();
        let busy = |message: String| {
            Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint("stead operation list"))
        };
        if taken.contains(&vm.id) {
            return busy(format!("something is being done to the workspace of the vm `{}`", vm.name));
        }
        if taken.len() >= AT_ONCE_MAX {
            return busy(format!("something is being done to {AT_ONCE_MAX} workspaces already"));
        }
        taken.insert(vm.id.clone());
        Ok(Turn { workspaces: self.clone(), vm_id: vm.id.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // It is changed in single steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.workspaces.taken().remove(&self.vm_id);
    }
}

/// What it takes to do something to a workspace.
#[derive(Clone)]
pub struct WorkspaceContext {
    /// Who knows operations.
    pub owner: OwnerHandle,
    /// Where workspaces are written.
    pub database: Database,
    /// Where their files are.
    pub paths: Paths,
}

/// Something that is to be done to a workspace.
pub struct Work {
    /// What is done.
    pub kind: &'static str,
    /// To whose workspace.
    pub vm: status::Vm,
    /// Its parts.
    pub parts: Capabilities,
    /// Nobody else does something to it.
    pub turn: Turn,
}

impl WorkspaceContext {
    /// Where files of a workspace are while something is done to it, and are removed at its end: by the microVM's number, since its name may be
    /// another one's before that has come to its end.
    pub fn scratch(&self, vm_id: &str) -> PathBuf {
        self.paths.workspaces_dir().join(vm_id)
    }

    /// What is written of a microVM's workspace.
    pub async fn find(&self, vm_id: &str) -> Result<Option<WorkspaceRow>, ErrorObject> {
        let rows = self.database.workspaces().await.map_err(|error| failure(&error))?;
        Ok(rows.into_iter().find(|row| row.vm_id == vm_id))
    }

    /// The same, if it is there.
    pub async fn ready(&self, vm: &status::Vm) -> Result<WorkspaceRow, ErrorObject> {
        let found = self.find(&vm.id).await?.filter(|row| row.phase == WorkspacePhase::Ready);
        found.ok_or_else(|| {
            let message = format!("there is no workspace in the vm `{}`", vm.name);
            ErrorObject::new(ErrorKind::NotFound, message)
                .with_hint(format!("stead workspace prepare {} DIR", vm.name))
        })
    }

    /// Begins to do it: an operation, which goes on without whoever has asked for it.
    pub async fn begin(&self, work: Work) -> Result<status::Operation, ErrorObject> {
        let id = self.database.new_operation().await.map_err(|error| failure(&error))?;
        let owner = self.owner.clone();
        let told = move |said: Said<'_>| {
            owner.send_blocking(Event::Operation(id, OperationEvent::Stage(said.text().to_owned())));
        };
        let (course, wanted) = Course::new(told).map_err(|error| from_machine(&error))?;
        let stages = work.parts.iter().map(|part| part.name().to_owned()).collect();
        let begun = Begun { id, kind: work.kind, name: work.vm.name.clone(), stages, wanted };
        let operation =
            self.owner.ask(|answer| Event::BeginOperation { begun: Box::new(begun), answer }).await?;
        tokio::spawn(carry(self.clone(), id, work, course));
        Ok(operation)
    }
}

async fn carry(context: WorkspaceContext, id: OperationId, work: Work, course: Course) {
    let held = Held::enter(Rank::Workspace);
    let Work { vm, parts, turn, .. } = work;
    let (places, scratch) = (crate::vm::places(&context.paths, &vm.name), context.scratch(&vm.id));
    let done = blocking(move || {
        let done = carried_out(&parts, &places, &scratch, &course);
        drop(parts);
        done
    });
    let done = done.await;
    // Whoever hears of the end may begin something else.
    drop((turn, held));
    context.owner.send(Event::Operation(id, OperationEvent::Ended(done))).await;
}

fn carried_out(
    parts: &[Box<dyn machine::capability::Capability>],
    places: &Places,
    scratch: &Path,
    course: &Course,
) -> machine::Result<()> {
    clear(scratch)?;
    let parent = scratch.parent().unwrap_or(scratch);
    let failed = |error: &dyn std::fmt::Display| machine::Error::new(ErrorKind::Failure, error.to_string());
    supervisor::socket::private_directory(parent).map_err(|error| failed(&error))?;
    fs::create_dir(scratch)
        .map_err(|error| failed(&format_args!("could not make `{}`: {error}", scratch.display())))?;
    let done = carry_out(parts, places, course);
    if let Err(error) = clear(scratch) {
        tracing::warn!(%error, "what a workspace had on its way stays until the next daemon");
    }
    done
}

/// Removes what is left of workspaces that were on their way when a daemon ended. Blocks.
pub fn clear(directory: &Path) -> machine::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let message = format!("could not remove `{}`: {error}", directory.display());
            Err(machine::Error::new(ErrorKind::Failure, message))
        }
        _ => Ok(()),
    }
}

/// Where what came back of a workspace is kept.
fn kept(row: &WorkspaceRow) -> String {
    format!("{}{}/{}", store::workspace::back::KEPT, row.shown.vm, row.shown.id)
}

/// The error that a client sees, in the words of the parts of an operation.
fn from_object(object: &ErrorObject) -> machine::Error {
    let error = machine::Error::new(object.kind(), object.message.clone());
    match object.hint() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn from_workspace(error: &Error) -> machine::Error {
    let (kind, hint) = match error {
        Error::NoWorkingCopy { .. } => (ErrorKind::NotFound, None),
        Error::NoCommit { .. } => (ErrorKind::Refused, Some("git commit")),
        Error::Unmerged { .. } => (ErrorKind::Conflict, Some("git status")),
        Error::Secrets { .. } => (ErrorKind::Refused, None),
        Error::TooMuch { .. } => {
            (ErrorKind::Refused, Some("have it ignored: .gitignore, or .git/info/exclude"))
        }
        Error::Stranger { .. } => (ErrorKind::NotFound, None),
        Error::Refused { .. } => (ErrorKind::Refused, None),
        Error::BadBranch { .. } => (ErrorKind::Usage, None),
        Error::Taken { .. } => (
            ErrorKind::Conflict,
            Some("another branch: --branch NAME; or have another one checked out there"),
        ),
        Error::Exists { .. } => (ErrorKind::Conflict, None),
        Error::CalledOff => (ErrorKind::Interrupted, None),
        Error::Store(error) => return from_object(&from_store(error)),
    };
    let error = machine::Error::new(kind, chain(error));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// What was not what it should be.
fn lost(what: impl Into<String>) -> machine::Error {
    machine::Error::new(ErrorKind::Failure, what)
}

#[cfg(test)]
mod tests {
    use wire::api::event::VmState;
    use wire::api::time::Timestamp;

    use super::*;

    fn vm(number: usize) -> status::Vm {
        status::Vm {
            name: format!("vm-{number}"),
            id: format!("{number:016x}"),
            state: VmState::Running,
            image: "tiny".to_owned(),
            engine: "qemu".to_owned(),
            pid: Some(1),
            cpus: 1,
            memory_mib: 256,
            nat: false,
            ports: Vec::new(),
            snapshots: Vec::new(),
            from: None,
            reason: None,
            since: Timestamp::from_unix(0),
        }
    }

    #[test]
    fn a_workspace_is_one_s_at_a_time_and_few_are_at_once() {
        let workspaces = Workspaces::default();
        let mut turns: Vec<Turn> =
            (0..AT_ONCE_MAX).map(|number| workspaces.take(&vm(number)).unwrap()).collect();
        let refused = |number: usize| workspaces.take(&vm(number)).unwrap_err();
        assert!(refused(0).message.contains("the workspace of the vm `vm-0`"));
        assert_eq!(refused(AT_ONCE_MAX).kind(), ErrorKind::Conflict);
        drop(turns.pop());
        turns.push(workspaces.take(&vm(AT_ONCE_MAX)).unwrap());
        assert_eq!(refused(0).kind(), ErrorKind::Conflict);
    }

    #[test]
    fn what_is_left_on_its_way_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let left = scratch.path().join("workspaces");
        fs::create_dir_all(left.join("dev/aside")).unwrap();
        for _ in 0..2 {
            clear(&left).unwrap();
            assert!(!left.exists());
        }
    }
}
