//! `cache.*`

use std::io;

use mount::cache::Place;
use wire::api::ErrorObject;
use wire::api::cache::{Cache, Clear, Cleared, MachineCache, Show};
use wire::api::machine::Machine;
use wire::bytestring::ByteString;

use super::Daemon;

/// What is kept. It is looked at every file.
pub async fn show(daemon: &Daemon, Show {}: Show) -> Result<Cache, ErrorObject> {
    let found = with_place(daemon, "read", |place| place.contents()).await?;
    let machine = |of: mount::cache::MachineContents| {
        // A directory that is not of ours names no machine.
        let machine = Machine::parse(of.machine.as_bytes()).ok()?;
        Some(MachineCache { machine, bytes: of.bytes, files: of.files })
    };
    let machines: Vec<_> = found.machines.into_iter().filter_map(machine).collect();
    Ok(Cache {
        dir: ByteString::from(daemon.paths.cache_dir()),
        limit: found.limit_bytes,
        bytes: machines.iter().map(|of| of.bytes).sum(),
        machines,
    })
}

/// Removes what is kept of a machine, or of all.
pub async fn clear(daemon: &Daemon, clear: Clear) -> Result<Cleared, ErrorObject> {
    let machine = clear.machine.map(|machine| machine.to_string());
    let cleared = with_place(daemon, "clear", move |place| place.clear(machine.as_deref())).await?;
    Ok(Cleared { bytes: cleared.bytes, files: cleared.files })
}

/// Does something with the cache on a thread that may block.
async fn with_place<T: Send + 'static>(
    daemon: &Daemon,
    what: &'static str,
    act: impl FnOnce(&Place) -> io::Result<T> + Send + 'static,
) -> Result<T, ErrorObject> {
    let directory = daemon.paths.cache_dir().to_owned();
    let shown = directory.display().to_string();
    let outcome = tokio::task::spawn_blocking(move || act(&Place::new(&directory))).await;
    let failed =
        |why: String| ErrorObject::internal(format!("could not {what} the cache in `{shown}`: {why}"));
    outcome.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}
