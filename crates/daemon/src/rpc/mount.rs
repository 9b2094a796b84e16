//! `mount.*`

use std::time::Duration;

use wire::api::file::{FileKind, Links, Stat};
use wire::api::mount::{Backend, Create, Mounts, Remove, Removed, RemovedMount, Target};
use wire::api::{ErrorKind, ErrorObject, status};

use super::Daemon;
use crate::domains::{self, Domains};
use crate::failure::failure;
use crate::mount::plan;
use crate::owner::{Event, OwnerHandle, removed};
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
    know_numbers(&daemon.owner, daemon.domains.as_ref()).await?;
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
        return Err(ErrorObject::new(ErrorKind::Usage, format!("`{source}` is not a directory"))
            .with_hint("mount the directory that it is in"));
    }
    let id = daemon.owner.ask(|answer| Event::NumberMount { answer }).await?;
    domains.add(id, &source).await
}

/// Has the owner know which numbers domains have, before a mount gets one. Where that cannot be known, no mount is made.
pub(super) async fn know_numbers(owner: &OwnerHandle, domains: Option<&Domains>) -> Result<(), ErrorObject> {
    if let Some(domains) = domains {
        owner.send(Event::NumberTaken(domains.last().await?)).await;
    }
    Ok(())
}

/// Takes mounts away. When some cannot go, the others are gone all the same, and the first error is told.
pub async fn remove(daemon: &Daemon, remove: Remove) -> Result<Removed, ErrorObject> {
    remove_from(&daemon.owner, daemon.domains.as_ref(), remove).await
}

/// The application is asked only for what the owner does not know: it may not answer, and no other mount has to do with it.
async fn remove_from(
    owner: &OwnerHandle,
    domains: Option<&Domains>,
    Remove { target, force }: Remove,
) -> Result<Removed, ErrorObject> {
    let mounts = owner.ask(|answer| Event::SelectMounts { target: target.clone(), answer }).await;
    let outcomes = match (mounts, domains) {
        (Ok(mounts), Some(domains)) if target == Target::All => {
            let (mut outcomes, others) =
                tokio::join!(shutdown::stop_all(mounts, force), remove_domains(domains, &target));
            outcomes.extend(others);
            outcomes
        }
        (Ok(mounts), _) => shutdown::stop_all(mounts, force).await,
        (Err(unknown), Some(domains)) if unknown.kind() == ErrorKind::NotFound => {
            match remove_domains(domains, &target).await {
                none if none.is_empty() => return Err(unknown),
                outcomes => outcomes,
            }
        }
        (Err(error), _) => return Err(error),
    };
    shutdown::all_gone(outcomes).map(removed)
}

/// What came of each that is meant, or of asking which these are.
async fn remove_domains(domains: &Domains, target: &Target) -> Vec<Result<RemovedMount, ErrorObject>> {
    let meant = match domains.select(target).await {
        Ok(meant) => meant,
        Err(error) => return vec![Err(error)],
    };
    let mut outcomes = Vec::new();
    for mount in meant {
        outcomes.push(domains.remove(&mount).await);
    }
    outcomes
}

/// All mounts.
pub async fn list(daemon: &Daemon) -> Result<Mounts, ErrorObject> {
    Ok(Mounts { mounts: super::status::get(daemon).await?.mounts })
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use wire::api::id::MountId;
    use wire::api::mount::Force;
    use wire::bytestring::ByteString;

    use super::*;
    use crate::domains::tests::{domains, source};
    use crate::mount::MountHandle;

    /// Stands for an owner that knows one mount, whose task has ended: it counts as taken away.
    fn owner_of(known: MountId) -> OwnerHandle {
        let (owner, mut events) = OwnerHandle::new();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let Event::SelectMounts { target, answer } = event else {
                    panic!("it is asked for mounts alone")
                };
                let dir = ByteString::from("/m");
                let found = target == Target::All
                    || target == Target::Id(known)
                    || target == Target::Dir(dir.clone());
                let handle = MountHandle { id: known, dir, commands: mpsc::channel(1).0 };
                let unknown = ErrorObject::new(ErrorKind::NotFound, "the owner does not know it");
                drop(answer.send(if found { Ok(vec![handle]) } else { Err(unknown) }));
            }
        });
        owner
    }

    async fn gone(
        owner: &OwnerHandle,
        domains: Option<&Domains>,
        target: Target,
    ) -> Result<Vec<u64>, ErrorObject> {
        let removed = remove_from(owner, domains, Remove { target, force: Force::Never }).await?;
        Ok(removed.mounts.iter().map(|mount| mount.id.number()).collect())
    }

    #[tokio::test]
    async fn an_application_that_does_not_answer_keeps_no_other_mount() {
        let (scratch, domains) = domains();
        let owner = owner_of(MountId::new(1));
        std::fs::write(scratch.path().join("mute"), "").unwrap();
        let domains = Some(&domains);
        assert_eq!(gone(&owner, domains, Target::Id(MountId::new(1))).await.unwrap(), [1]);
        assert_eq!(gone(&owner, domains, Target::Dir("/m".into())).await.unwrap(), [1]);
        // Whether it is a domain is not known.
        let error = gone(&owner, domains, Target::Id(MountId::new(7))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failure);
        let error = know_numbers(&owner, domains).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failure);
    }

    #[tokio::test]
    async fn what_the_owner_does_not_know_may_be_a_domain() {
        let (_scratch, domains) = domains();
        let owner = owner_of(MountId::new(1));
        domains.add(MountId::new(7), &source("ssh://box/src")).await.unwrap();
        let target = Target::Dir("/Cloud/Stead-src".into());
        let error = gone(&owner, None, target.clone()).await.unwrap_err();
        assert_eq!(error.message, "the owner does not know it");
        assert_eq!(gone(&owner, Some(&domains), target.clone()).await.unwrap(), [7]);
        let error = gone(&owner, Some(&domains), target).await.unwrap_err();
        assert_eq!(error.message, "the owner does not know it");
    }

    #[tokio::test]
    async fn a_domain_that_stays_keeps_no_other_mount() {
        let (scratch, domains) = domains();
        let owner = owner_of(MountId::new(1));
        for number in [7, 8] {
            domains.add(MountId::new(number), &source("ssh://box/src")).await.unwrap();
        }
        std::fs::write(scratch.path().join("m7.stays"), "").unwrap();
        let error = gone(&owner, Some(&domains), Target::All).await.unwrap_err();
        assert!(error.message.ends_with("failed: m7 is in use"), "{error}");
        let left: Vec<u64> = domains.list().await.unwrap().iter().map(|mount| mount.id.number()).collect();
        assert_eq!(left, [7]);
        std::fs::remove_file(scratch.path().join("m7.stays")).unwrap();
        assert_eq!(gone(&owner, Some(&domains), Target::All).await.unwrap(), [1, 7]);
    }
}
