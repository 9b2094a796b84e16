//! `vm.*`

use std::time::Duration;

use machine::capability::Base;
use machine::console;
use machine::image::{Image, check_name};
use machine::network::Network;
use machine::vm::Record;
use tokio::sync::{mpsc, oneshot};
use wire::api::status::{self, Operation, Origin, Vm};
use wire::api::vm::{
    CPUS_MAX, Console, Create, DISK_MIB_MAX, Delete, DeleteSnapshot, Deleted, Fork, Forward, Kill, Logs,
    MEMORY_MIB_MAX, MEMORY_MIB_MIN, Set, Show, Snapshot, SnapshotDeleted, Start, Stop, VMS_MAX, Vms,
};
use wire::api::{ErrorKind, ErrorObject};

use super::Daemon;
use crate::failure::failure;
use crate::order::{Held, Rank};
use crate::owner::{Answer, Event, ending};
use crate::vm::{Change, Command, Lease, STOP_GRACE, STOP_GRACE_MAX, Wanted, blocking, from_machine, places};

pub mod guest;

/// Memory of a microVM for which none is asked, in MiB.
const MEMORY_MIB: u32 = 512;

/// What is shown of a console at most: with every byte escaped, it fits into a line.
const CONSOLE_BYTES: u64 = 128 << 10;

/// Begins to make a microVM. Its image stays until the owner knows who uses it.
pub async fn create(daemon: &Daemon, create: Create) -> Result<Operation, ErrorObject> {
    check_name(&create.name, "vm").map_err(|error| from_machine(&error))?;
    let (cpus, memory) = (create.cpus.unwrap_or(1), create.memory_mib.unwrap_or(MEMORY_MIB));
    check(Some(cpus), Some(memory), create.disk_mib)?;
    let network = network(create.nat, create.ports)?;
    let (name, disk_mib) = (create.name, create.disk_mib);
    let _stays = daemon.images.to_use(&create.image)?;
    let (images, image) = (daemon.paths.images_dir(), create.image);
    let image = blocking(move || Image::open(&images, &image)).await?;
    let record = Record { network, ..Record::new(&image.name, daemon.engine.name(), cpus, memory) };
    let id = daemon.database.new_operation().await.map_err(|error| failure(&error))?;
    let wanted = Box::new(Wanted { record, base: Base::image(&image), disk_mib });
    daemon.owner.ask(|answer| Event::CreateVm { name, wanted, id, answer }).await
}

/// Keeps what is on the disk of one that does not run.
pub async fn snapshot(daemon: &Daemon, taken: Snapshot) -> Result<status::Snapshot, ErrorObject> {
    let name = named(daemon, &taken.name).await?.name;
    tell(daemon, &name, |answer| Command::Snapshot(taken.snapshot, answer)).await
}

/// Lets a snapshot go.
pub async fn delete_snapshot(daemon: &Daemon, gone: DeleteSnapshot) -> Result<SnapshotDeleted, ErrorObject> {
    let DeleteSnapshot { name, snapshot } = gone;
    let name = named(daemon, &name).await?.name;
    let doomed = snapshot.clone();
    let users = tell(daemon, &name, |answer| Command::DeleteSnapshot(doomed, answer)).await;
    let users = users.map_err(|error| looked_up(error, &name))?;
    Ok(SnapshotDeleted { name, snapshot, users })
}

/// What is not there is looked up with this microVM.
fn looked_up(error: ErrorObject, vm: &str) -> ErrorObject {
    match error.kind() {
        ErrorKind::NotFound => error.with_hint(format!("stead vm show {vm}")),
        _ => error,
    }
}

/// Begins to make a microVM of a snapshot of another one, which is taken first if none is named. From here on that is used.
pub async fn fork(daemon: &Daemon, fork: Fork) -> Result<Operation, ErrorObject> {
    check_name(&fork.new, "vm").map_err(|error| from_machine(&error))?;
    let parent = named(daemon, &fork.name).await?;
    let list = list(daemon).await?.vms;
    // What can be refused is, before a snapshot is taken.
    if list.len() >= VMS_MAX {
        let message = format!("there are {VMS_MAX} vms already");
        return Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint("stead vm list"));
    }
    if list.iter().any(|vm| vm.name == fork.new) {
        let message = format!("there is a vm `{}` already", fork.new);
        let error = ErrorObject::new(ErrorKind::Conflict, message);
        return Err(error.with_hint(format!("stead vm show {}", fork.new)));
    }
    // It is followed to its end also when the client has gone: what was taken for it may be nobody's then.
    let daemon = daemon.clone();
    let forking = tokio::spawn(async move {
        let begun = begin_fork(&daemon, &parent, fork).await;
        let (id, parent) = (begun.as_ref().ok().map(|operation| operation.id), parent.id);
        tokio::spawn(async move {
            if let Some(id) = id {
                // Whatever comes of it.
                let _ended = daemon.owner.ask(|answer| Event::AwaitOperation { id, answer }).await;
            }
            clear_snapshots(&daemon, &parent).await;
        });
        begun
    });
    forking.await.map_err(|error| failure(&error))?
}

async fn begin_fork(daemon: &Daemon, parent: &Vm, fork: Fork) -> Result<Operation, ErrorObject> {
    let base = tell(daemon, &parent.name, |answer| Command::Fork(fork.snapshot, answer)).await;
    let (snapshot, base) = base.map_err(|error| looked_up(error, &parent.name))?;
    let from = Origin { vm: parent.name.clone(), id: parent.id.clone(), snapshot };
    // Two cannot have the same port of this computer.
    let network = parent.nat.then(Network::default);
    let record = Record {
        network,
        from: Some(from),
        ..Record::new(&parent.image, daemon.engine.name(), parent.cpus, parent.memory_mib)
    };
    let id = daemon.database.new_operation().await.map_err(|error| failure(&error))?;
    let wanted = Box::new(Wanted { record, base, disk_mib: None });
    daemon.owner.ask(|answer| Event::CreateVm { name: fork.new, wanted, id, answer }).await
}

/// Has a microVM let go what nobody needs any more of its snapshots, if it is there.
async fn clear_snapshots(daemon: &Daemon, id: &str) {
    let Ok(vm) = named(daemon, id).await else { return };
    let Ok(task) = daemon.owner.ask(|answer| Event::SelectVm { name: vm.name, answer }).await else { return };
    // One that has ended has none.
    drop(task.send(Command::ClearSnapshots).await);
}

/// Refuses what no microVM can have.
fn check(cpus: Option<u32>, memory_mib: Option<u32>, disk_mib: Option<u32>) -> Result<(), ErrorObject> {
    let refused = |message: String| Err(ErrorObject::new(ErrorKind::Usage, message));
    if cpus.is_some_and(|cpus| !(1..=CPUS_MAX).contains(&cpus)) {
        return refused(format!("a vm has 1 to {CPUS_MAX} processors"));
    }
    if memory_mib.is_some_and(|memory| !(MEMORY_MIB_MIN..=MEMORY_MIB_MAX).contains(&memory)) {
        return refused(format!("a vm has {MEMORY_MIB_MIN} MiB to {} GiB of memory", MEMORY_MIB_MAX >> 10));
    }
    if disk_mib.is_some_and(|disk| disk > DISK_MIB_MAX) {
        return refused(format!("a vm's disk has at most {} TiB", DISK_MIB_MAX >> 20));
    }
    Ok(())
}

/// Changes one that does not run.
pub async fn set(daemon: &Daemon, set: Set) -> Result<Vm, ErrorObject> {
    let Set { name, cpus, memory_mib, disk_mib, nat, ports } = set;
    check(cpus, memory_mib, disk_mib)?;
    let vm = named(daemon, &name).await?;
    let network = match (nat, ports) {
        (None, None) => None,
        (Some(false), Some(ports)) if !ports.is_empty() => {
            let message = "a vm without a network has no forwarded ports";
            return Err(ErrorObject::new(ErrorKind::Usage, message));
        }
        (Some(false), _) => Some(None),
        (Some(true), ports) => Some(network(true, ports.unwrap_or(vm.ports))?),
        (None, Some(ports)) => Some(network(vm.nat, ports)?),
    };
    let change = Box::new(Change { cpus, memory_mib, disk_mib, network });
    tell(daemon, &vm.name, |answer| Command::Set(change, answer)).await?;
    named(daemon, &vm.name).await
}

/// The network that is wanted.
fn network(nat: bool, ports: Vec<Forward>) -> Result<Option<Network>, ErrorObject> {
    if !nat && ports.is_empty() {
        return Ok(None);
    }
    let network = Network { ports };
    network.check().map_err(|error| from_machine(&error))?;
    Ok(Some(network))
}

/// Starts one, and waits until it can be reached.
pub async fn start(daemon: &Daemon, start: Start) -> Result<Vm, ErrorObject> {
    let name = named(daemon, &start.name).await?.name;
    tell(daemon, &name, Command::Start).await?;
    named(daemon, &name).await
}

/// Stops one, and waits until it has.
pub async fn stop(daemon: &Daemon, stop: Stop) -> Result<Vm, ErrorObject> {
    let grace = stop.grace_ms.map_or(STOP_GRACE, Duration::from_millis).min(STOP_GRACE_MAX);
    let name = named(daemon, &stop.name).await?.name;
    tell(daemon, &name, |answer| Command::Stop(grace, answer)).await?;
    named(daemon, &name).await
}

/// Ends one.
pub async fn kill(daemon: &Daemon, kill: Kill) -> Result<Vm, ErrorObject> {
    let name = named(daemon, &kill.name).await?.name;
    tell(daemon, &name, Command::Kill).await?;
    named(daemon, &name).await
}

/// Removes one.
pub async fn delete(daemon: &Daemon, delete: Delete) -> Result<Deleted, ErrorObject> {
    let force = delete.force;
    let Vm { name, id, from, .. } = named(daemon, &delete.name).await?;
    // It comes to its end also when the client has gone.
    let (daemon, told) = (daemon.clone(), name.clone());
    let deleting = tokio::spawn(async move {
        let (name, doomed) = (told.clone(), id.clone());
        // It is told by what the owner gives: another one may have its name soon.
        let task = daemon.owner.ask(|answer| Event::DoomVm { name, id: doomed, answer }).await?;
        let deleted = order(&task, &told, |answer| Command::Delete { force, answer }).await;
        match (&deleted, from) {
            (Err(_), _) => daemon.owner.send(Event::SpareVm { name: told, id }).await,
            (Ok(()), Some(from)) => clear_snapshots(&daemon, &from.id).await,
            (Ok(()), None) => {}
        }
        deleted
    });
    deleting.await.map_err(|error| failure(&error))??;
    Ok(Deleted { name })
}

/// A microVM that does nothing for as long as this is there.
#[derive(Debug)]
pub(super) struct Lent {
    _lease: Lease,
    _held: Held,
}

/// Has a microVM that does not run stay so.
pub(super) async fn lend(daemon: &Daemon, name: &str) -> Result<Lent, ErrorObject> {
    let lease = tell(daemon, name, Command::Lend).await?;
    Ok(Lent { _lease: lease, _held: Held::enter(Rank::Vm) })
}

/// Has the task of a microVM do something, and waits for what comes of it.
pub(super) async fn tell<T>(
    daemon: &Daemon,
    name: &str,
    command: impl FnOnce(Answer<T>) -> Command,
) -> Result<T, ErrorObject> {
    let asked = name.to_owned();
    let task = daemon.owner.ask(|answer| Event::SelectVm { name: asked, answer }).await?;
    order(&task, name, command).await
}

async fn order<T>(
    task: &mpsc::Sender<Command>,
    name: &str,
    command: impl FnOnce(Answer<T>) -> Command,
) -> Result<T, ErrorObject> {
    let _waiting = Held::enter(Rank::Vm);
    let gone = ErrorObject::new(ErrorKind::NotFound, format!("the vm `{name}` was deleted"));
    let (answer, answered) = oneshot::channel();
    if task.send(command(answer)).await.is_err() {
        return Err(gone);
    }
    answered.await.unwrap_or(Err(gone))
}

/// One of them.
pub async fn show(daemon: &Daemon, show: Show) -> Result<Vm, ErrorObject> {
    seen(daemon, &show.name).await
}

/// The one that has this name, or this id: what is to change is meant by the whole of either.
pub(super) async fn named(daemon: &Daemon, given: &str) -> Result<Vm, ErrorObject> {
    let mut vms = list(daemon).await?.vms;
    let at = find(&vms, given)?;
    Ok(vms.swap_remove(at))
}

/// The same, or the only one of which either begins so: enough for what is only looked at.
pub(super) async fn seen(daemon: &Daemon, given: &str) -> Result<Vm, ErrorObject> {
    let mut vms = list(daemon).await?.vms;
    let at = find_beginning(&vms, given)?;
    Ok(vms.swap_remove(at))
}

fn find(vms: &[Vm], given: &str) -> Result<usize, ErrorObject> {
    let place = |is: &dyn Fn(&Vm) -> bool| vms.iter().position(is);
    place(&|vm| vm.name == given).or_else(|| place(&|vm| vm.id == given)).ok_or_else(|| {
        let names: Vec<&str> = beginning(vms, given).map(|at| vms[at].name.as_str()).collect();
        let hint = match names.is_empty() {
            true => "stead vm list".to_owned(),
            false => format!("the whole name is needed for this: {}", names.join(" or ")),
        };
        let message = format!("there is no vm `{}`", given.escape_debug());
        ErrorObject::new(ErrorKind::NotFound, message).with_hint(hint)
    })
}

fn find_beginning(vms: &[Vm], given: &str) -> Result<usize, ErrorObject> {
    find(vms, given).or_else(|unknown| {
        let found: Vec<usize> = beginning(vms, given).collect();
        match found[..] {
            [] => Err(unknown),
            [at] => Ok(at),
            _ => {
                let names: Vec<&str> = found.iter().map(|&at| vms[at].name.as_str()).collect();
                let message = format!("`{given}` may be {}", names.join(" or "));
                Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint("stead vm list"))
            }
        }
    })
}

/// Those of which the name or the id begins so.
fn beginning(vms: &[Vm], given: &str) -> impl Iterator<Item = usize> {
    let begins = move |vm: &Vm| !given.is_empty() && (vm.name.starts_with(given) || vm.id.starts_with(given));
    (0..vms.len()).filter(move |&at| begins(&vms[at]))
}

/// All of them.
pub async fn list(daemon: &Daemon) -> Result<Vms, ErrorObject> {
    let (answer, answered) = oneshot::channel();
    daemon.owner.send(Event::Document { answer }).await;
    answered.await.map(|document| Vms { vms: document.vms }).map_err(|_| ending())
}

/// What a guest has said. A microVM that has not run yet has said nothing.
pub async fn logs(daemon: &Daemon, logs: Logs) -> Result<Console, ErrorObject> {
    let name = seen(daemon, &logs.name).await?.name;
    let path = places(&daemon.paths, &name).console();
    let said = blocking(move || match console::tail(&path, CONSOLE_BYTES) {
        Ok(said) => Ok(said),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => {
            let message = format!("could not read `{}`: {error}", path.display());
            Err(machine::Error::new(ErrorKind::Failure, message))
        }
    });
    // A console moves the cursor, and its lines end as a typewriter's do.
    let is_shown = |shown: &char| !shown.is_control() || matches!(shown, '\n' | '\t');
    Ok(Console { text: String::from_utf8_lossy(&said.await?).chars().filter(is_shown).collect() })
}

#[cfg(test)]
mod tests;
