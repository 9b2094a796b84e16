//! `workspace.*`

use std::path::PathBuf;

use tokio::runtime::Handle;
use wire::api::event::VmState;
use wire::api::machine::{Caller, Machine};
use wire::api::status::{Operation, Vm};
use wire::api::workspace::{Export, Forget, Forgotten, Form, Origin, Prepare, Show, Workspace, Workspaces};
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;

use super::{Daemon, process, vm};
use crate::database::workspaces::WorkspacePhase;
use crate::failure::failure;
use crate::session::ClientContext;
use crate::workspace::guest::Guest;
use crate::workspace::{Exporting, Preparing, Target, Work, WorkspaceContext};

impl Daemon {
    fn workspace_context(&self) -> WorkspaceContext {
        let (owner, database, paths) = (self.owner.clone(), self.database.clone(), self.paths.clone());
        WorkspaceContext { owner, database, paths }
    }
}

/// Begins to copy a working copy to a microVM.
pub async fn prepare(
    daemon: &Daemon,
    context: &ClientContext,
    prepare: Prepare,
) -> Result<Operation, ErrorObject> {
    context.check(&prepare.caller)?;
    let vm = vm::named(daemon, &prepare.vm).await?;
    let place = prepare.place.map(|place| absolute(place, "place")).transpose()?;
    let (dir, thread) = match prepare.origin {
        Origin::Directory(dir) => (absolute(dir, "directory")?, None),
        Origin::Thread(name) => (thread_dir(daemon, &name).await?, Some(name)),
    };
    let (turn, workspaces) = (daemon.workspaces.take(&vm)?, daemon.workspace_context());
    let left = workspaces.find(&vm.id).await?;
    if let Some(row) = left.as_ref().filter(|row| row.phase == WorkspacePhase::Ready) {
        let message = format!("the vm `{}` has a workspace already, of `{}`", vm.name, row.shown.dir);
        let hint = format!("stead workspace export {0}; stead workspace forget {0}", vm.name);
        return Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint(hint));
    }
    let guest = guest(daemon, context, &vm, &prepare.caller).await?;
    let preparing = Preparing {
        context: workspaces.clone(),
        guest,
        vm: vm.clone(),
        id: machine::vm::new_id(),
        dir,
        thread,
        place: place.map(|place| ByteString::from(place.as_path())),
        with_secrets: prepare.with_secrets,
        left,
        runtime: Handle::current(),
        made: crate::workspace::prepare::Made::default(),
    };
    workspaces.begin(Work { kind: "workspace prepare", vm, parts: preparing.parts(), turn }).await
}

/// Begins to bring back what was done in one.
pub async fn export(
    daemon: &Daemon,
    context: &ClientContext,
    export: Export,
) -> Result<Operation, ErrorObject> {
    context.check(&export.caller)?;
    let vm = vm::named(daemon, &export.vm).await?;
    let (turn, workspaces) = (daemon.workspaces.take(&vm)?, daemon.workspace_context());
    let row = workspaces.ready(&vm).await?;
    let dir = match (export.dir, &row.shown.thread) {
        (Some(dir), _) => absolute(dir, "directory")?,
        (None, Some(thread)) => thread_dir(daemon, thread).await?,
        (None, None) => row.shown.dir.as_path().to_owned(),
    };
    let target = match export.form {
        Form::Own => Target::Branch(format!("stead/{}", vm.name)),
        Form::Branch(name) => Target::Branch(name),
        Form::Patch(path) => Target::Patch(absolute(path, "patch")?),
    };
    let guest = guest(daemon, context, &vm, &export.caller).await?;
    let exporting = Exporting {
        context: workspaces.clone(),
        guest,
        vm: vm.clone(),
        row,
        dir,
        target,
        runtime: Handle::current(),
        made: crate::workspace::export::Made::default(),
    };
    workspaces.begin(Work { kind: "workspace export", vm, parts: exporting.parts(), turn }).await
}

/// One of them.
pub async fn show(daemon: &Daemon, show: Show) -> Result<Workspace, ErrorObject> {
    let vm = vm::seen(daemon, &show.vm).await?;
    Ok(daemon.workspace_context().ready(&vm).await?.shown)
}

/// All of them. Those whose microVM is no more are forgotten.
pub async fn list(daemon: &Daemon) -> Result<Workspaces, ErrorObject> {
    let rows = daemon.database.workspaces().await.map_err(|error| failure(&error))?;
    // Whose vm was made after that is not among them.
    let vms = vm::list(daemon).await?.vms;
    let mut workspaces = Vec::new();
    for row in rows {
        match vms.iter().any(|vm| vm.id == row.vm_id) {
            true if row.phase == WorkspacePhase::Ready => workspaces.push(row.shown),
            true => {}
            false => daemon.database.remove_workspace(row.vm_id).await.map_err(|error| failure(&error))?,
        }
    }
    workspaces.sort_by(|one, other| one.vm.cmp(&other.vm));
    Ok(Workspaces { workspaces })
}

/// Has one forgotten.
pub async fn forget(daemon: &Daemon, forget: Forget) -> Result<Forgotten, ErrorObject> {
    let vm = vm::named(daemon, &forget.vm).await?;
    let (_turn, workspaces) = (daemon.workspaces.take(&vm)?, daemon.workspace_context());
    let row = workspaces.ready(&vm).await?;
    daemon.database.remove_workspace(vm.id).await.map_err(|error| failure(&error))?;
    Ok(Forgotten { vm: vm.name, place: row.shown.place })
}

/// A guest that runs. What was written through its mounts is there.
async fn guest(
    daemon: &Daemon,
    context: &ClientContext,
    vm: &Vm,
    caller: &Caller,
) -> Result<Guest, ErrorObject> {
    // One that a daemon before this one has left is reached as soon as it has been found.
    if !matches!(vm.state, VmState::Starting | VmState::Running) {
        let message = format!("the vm `{}` does not run", vm.name);
        let hint = format!("stead vm start {}", vm.name);
        return Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint(hint));
    }
    let machine = Machine::Vm { name: vm.name.clone() };
    let (lease, commands) = process::reach(daemon, context, &machine, caller).await?;
    if let Some(note) = process::flush(daemon, &machine).await {
        let hint = "stead status --show mounts";
        return Err(ErrorObject::new(ErrorKind::Unreachable, note).with_hint(hint));
    }
    Ok(Guest::new(vm.name.clone(), lease, commands))
}

/// Where a thread is mounted.
async fn thread_dir(daemon: &Daemon, name: &str) -> Result<PathBuf, ErrorObject> {
    let found = daemon.threads().find(name).await?;
    crate::thread::check_open(&found.row)?;
    match found.mount {
        Some(_) => Ok(found.row.dir.as_path().to_owned()),
        None => {
            let message = format!("the thread `{name}` is not mounted");
            let hint = format!("stead mount thread:{name}");
            Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint(hint))
        }
    }
}

fn absolute(path: ByteString, what: &str) -> Result<PathBuf, ErrorObject> {
    match path.as_path().is_absolute() {
        // Without a slash at its end.
        true => Ok(path.as_path().components().collect()),
        false => {
            Err(ErrorObject::new(ErrorKind::Usage, format!("the {what} `{path}` is not an absolute path")))
        }
    }
}
