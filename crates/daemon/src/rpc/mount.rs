//! `mount.*`

use std::time::Duration;

use wire::api::file::{FileKind, Links, Stat};
use wire::api::mount::{Backend, Create, Mounts, Remove, Removed, RemovedMount, Target};
use wire::api::{ErrorKind, ErrorObject, status};

use super::Daemon;
use crate::domains::{self, Domains};
use crate::failure::failure;
use crate::mount::plan;
use crate::owner::{Event, removed};
use crate::session::ClientContext;
use crate::shutdown;

/// How long the file systems of this computer may take to be looked at. A dead network mount on the way would take for
/// ever.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(15);

/// Shows a tree as a directory.
pub async fn create(
    daemon: &Daemon,
    context: &ClientContext,
    mut create: Create,
) -> Result<status::Mount, ErrorObject> {
    context.check(&create.caller)?;
    if let (Backend::FileProvider, Some(domains)) = (create.backend, &daemon.domains) {
        return create_domain(daemon, domains, context, create).await;
    }
    let prompter = context.prompter(&create.caller);
    let thread = super::thread::for_mount(daemon, &mut create).await?;
    let place = thread.as_ref().map(|(_, place, _)| place.clone());
    let (source, mounts_dir) = (create.source.clone(), daemon.paths.mounts_dir().to_owned());
    let preparing = tokio::task::spawn_blocking(move || plan::prepare(create, &mounts_dir, place));
    let prepared = tokio::time::timeout(PREPARE_TIMEOUT, preparing).await.map_err(|_| {
        let message = format!("could not mount `{source}`: this computer's file systems do not answer");
        ErrorObject::new(ErrorKind::TimedOut, message)
    })?;
    let plan = Box::new(prepared.map_err(|error| failure(&error))??);
    let mount = daemon.owner.ask(|answer| Event::CreateMount { plan, prompter, answer }).await?;
    if let Some((row, _, turn)) = thread {
        if row.dir != mount.dir {
            super::thread::moved(daemon, row, mount.dir.clone()).await?;
        }
        drop(turn);
    }
    Ok(mount)
}

/// Has the system show a tree. A machine that is not reached, or has no such directory, is told before anything is added.
async fn create_domain(
    daemon: &Daemon,
    domains: &Domains,
    context: &ClientContext,
    create: Create,
) -> Result<status::Mount, ErrorObject> {
    domains::check(&create)?;
    let Create { source, caller, .. } = create;
    let stat = Stat { source: source.clone(), links: Links::Follow, caller };
    if super::file::stat(daemon, context, stat).await?.kind != FileKind::Directory {
        return Err(ErrorObject::new(ErrorKind::Usage, format!("`{source}` is not a directory")));
    }
    let id = daemon.owner.ask(|answer| Event::NumberMount { answer }).await?;
    domains.add(id, &source).await
}

/// Takes mounts away. When some cannot go, the others are gone all the same, and the first error is told.
pub async fn remove(daemon: &Daemon, remove: Remove) -> Result<Removed, ErrorObject> {
    let target = remove.target;
    let domains = match &daemon.domains {
        Some(domains) => remove_domains(domains, &target).await?,
        None => Vec::new(),
    };
    if !domains.is_empty() && target != Target::All {
        return Ok(removed(domains));
    }
    let mounts = daemon.owner.ask(|answer| Event::SelectMounts { target, answer }).await?;
    let outcomes = shutdown::stop_all(mounts, remove.force).await;
    let gone = shutdown::all_gone(outcomes)?;
    Ok(removed(domains.into_iter().chain(gone).collect()))
}

async fn remove_domains(domains: &Domains, target: &Target) -> Result<Vec<RemovedMount>, ErrorObject> {
    let mut gone = Vec::new();
    for mount in domains.select(target).await? {
        gone.push(domains.remove(&mount).await?);
    }
    Ok(gone)
}

/// All mounts.
pub async fn list(daemon: &Daemon) -> Result<Mounts, ErrorObject> {
    Ok(Mounts { mounts: super::status::get(daemon).await?.mounts })
}
