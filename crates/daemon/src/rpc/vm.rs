//! `vm.*`

use std::time::Duration;

use machine::console;
use machine::image::{Image, check_name};
use machine::network::Network;
use machine::vm::Record;
use tokio::sync::oneshot;
use wire::api::status::Vm;
use wire::api::vm::{
    CPUS_MAX, Console, Create, Delete, Deleted, Forward, Kill, Logs, MEMORY_MIB_MAX, MEMORY_MIB_MIN, Show,
    Start, Stop, Vms,
};
use wire::api::{ErrorKind, ErrorObject};

use super::Daemon;
use crate::owner::{Answer, Event, ending};
use crate::vm::{Command, STOP_GRACE, STOP_GRACE_MAX, blocking, from_machine, places};

/// Memory of a microVM for which none is asked, in MiB.
const MEMORY_MIB: u32 = 512;

/// What is shown of a console at most: with every byte escaped, it fits into a line.
const CONSOLE_BYTES: u64 = 128 << 10;

/// Makes a microVM. Images do not change meanwhile.
pub async fn create(daemon: &Daemon, create: Create) -> Result<Vm, ErrorObject> {
    check_name(&create.name, "vm").map_err(|error| from_machine(&error))?;
    let (cpus, memory) = (create.cpus.unwrap_or(1), create.memory_mib.unwrap_or(MEMORY_MIB));
    if !(1..=CPUS_MAX).contains(&cpus) {
        return Err(ErrorObject::new(ErrorKind::Usage, format!("a vm has 1 to {CPUS_MAX} processors")));
    }
    if !(MEMORY_MIB_MIN..=MEMORY_MIB_MAX).contains(&memory) {
        let message = format!("a vm has {MEMORY_MIB_MIN} MiB to {} GiB of memory", MEMORY_MIB_MAX >> 10);
        return Err(ErrorObject::new(ErrorKind::Usage, message));
    }
    let network = network(create.nat, create.ports)?;
    let _unchanged = daemon.images.lock().await;
    let (images, image) = (daemon.paths.images_dir(), create.image.clone());
    let image = blocking(move || Image::open(&images, &image)).await?;
    let record = Record { network, ..Record::new(&image.name, daemon.engine.name(), cpus, memory) };
    let name = create.name.clone();
    daemon.owner.ask(|answer| Event::CreateVm { name, record: Box::new((record, image)), answer }).await?;
    show(daemon, Show { name: create.name }).await
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
    tell(daemon, &start.name, Command::Start).await?;
    show(daemon, Show { name: start.name }).await
}

/// Stops one, and waits until it has.
pub async fn stop(daemon: &Daemon, stop: Stop) -> Result<Vm, ErrorObject> {
    let grace = stop.grace_ms.map_or(STOP_GRACE, Duration::from_millis).min(STOP_GRACE_MAX);
    tell(daemon, &stop.name, |answer| Command::Stop(grace, answer)).await?;
    show(daemon, Show { name: stop.name }).await
}

/// Ends one.
pub async fn kill(daemon: &Daemon, kill: Kill) -> Result<Vm, ErrorObject> {
    tell(daemon, &kill.name, Command::Kill).await?;
    show(daemon, Show { name: kill.name }).await
}

/// Removes one.
pub async fn delete(daemon: &Daemon, delete: Delete) -> Result<Deleted, ErrorObject> {
    let force = delete.force;
    tell(daemon, &delete.name, |answer| Command::Delete { force, answer }).await?;
    Ok(Deleted { name: delete.name })
}

/// Has the task of a microVM do something, and waits for what comes of it.
async fn tell(
    daemon: &Daemon,
    name: &str,
    command: impl FnOnce(Answer<()>) -> Command,
) -> Result<(), ErrorObject> {
    let name = name.to_owned();
    let gone = ErrorObject::new(ErrorKind::NotFound, format!("the vm `{name}` was deleted"));
    let task = daemon.owner.ask(|answer| Event::SelectVm { name, answer }).await?;
    let (answer, answered) = oneshot::channel();
    if task.send(command(answer)).await.is_err() {
        return Err(gone);
    }
    answered.await.unwrap_or(Err(gone))
}

/// One of them.
pub async fn show(daemon: &Daemon, show: Show) -> Result<Vm, ErrorObject> {
    let vms = list(daemon).await?.vms;
    vms.into_iter().find(|vm| vm.name == show.name).ok_or_else(|| {
        let message = format!("there is no vm `{}`", show.name.escape_debug());
        ErrorObject::new(ErrorKind::NotFound, message).with_hint("stead vm list")
    })
}

/// All of them.
pub async fn list(daemon: &Daemon) -> Result<Vms, ErrorObject> {
    let (answer, answered) = oneshot::channel();
    daemon.owner.send(Event::Document { answer }).await;
    answered.await.map(|document| Vms { vms: document.vms }).map_err(|_| ending())
}

/// What a guest has said. A microVM that has not run yet has said nothing.
pub async fn logs(daemon: &Daemon, logs: Logs) -> Result<Console, ErrorObject> {
    let name = show(daemon, Show { name: logs.name }).await?.name;
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
