//! The end of a thread, and what stands in its way.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use store::Oid;
use store::node::{Ino, Kind};
use store::objects::Objects;
use store::refs::{self, Change};
use store::thread::Access;
use store::worktree;
use wire::api::mount::Force;
use wire::api::{ErrorKind, ErrorObject, thread};
use wire::paths::Paths;

use super::aside::{keeping, put_aside};
use super::making::really;
use super::{ThreadContext, blocking, captures_name, captures_of, conflict, from_store, is_gone};
use super::{repository_of, unmounted};
use crate::database::threads::Aside;
use crate::database::{ThreadPhase, ThreadRow};
use crate::failure::{failure, from_io};
use crate::mount::{MountHandle, plan};
use crate::owner::{FoundThread, ThreadEvent, Turn};

/// What goes with a thread's registration, since it is nowhere else.
#[derive(Debug, PartialEq, Eq)]
enum OnlyThere {
    /// Repositories of submodules.
    Submodules,
    /// Commits of a `HEAD` that is on no branch.
    Commits,
}

/// What goes with a thread that is mounted, since it is nowhere else.
enum OnlyInMount {
    /// Whatever git says there, it is not said of the thread.
    Elsewhere,
    /// Another repository, in this directory.
    Repository(Vec<u8>),
    /// Changes that are not committed.
    Changes,
}

/// What no capture has of a thread with changes.
enum Uncaptured {
    /// Nothing.
    Nothing,
    /// Changes since the last one.
    Changes,
    /// What was ignored where the thread was made, and is not in the thread.
    Unknown(Vec<u8>),
}

/// Why a thread goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Somebody drops it.
    Dropped,
    /// Its making is undone.
    MakingUndone,
}

impl ThreadContext {
    /// Removes all that is left of a thread that is not mounted. What cannot be removed is tried again by the next daemon.
    pub(super) async fn remove(&self, row: ThreadRow, turn: Turn) {
        let (name, paths) = (row.name.clone(), self.paths.clone());
        let of = row.clone();
        let removed = blocking(move || remove(&row, &paths)).await.flatten();
        let forgotten = match removed {
            Ok(()) => self.forget_all_operations(&of).await,
            Err(error) => Err(error),
        };
        let forgotten = match forgotten {
            Ok(()) => self.database.remove_thread(name.clone()).await.map_err(|error| failure(&error)),
            Err(error) => Err(error),
        };
        match forgotten {
            Ok(()) => self.tell(ThreadEvent::Gone(name)).await,
            Err(error) => tracing::error!(thread = name, %error, "something of a thread stays"),
        }
        drop(turn);
    }

    /// Unmounts a thread and removes it. It can be had back until it is [collected](ThreadContext::collect).
    pub async fn drop(&self, asked: thread::Drop) -> Result<thread::Dropped, ErrorObject> {
        let thread::Drop { name, force } = asked;
        let (found, turn) = self.take(&name).await?;
        self.drop_taken(found, turn, force, Ending::Dropped).await
    }

    /// The same of a thread that nobody else does anything to.
    pub(super) async fn drop_taken(
        &self,
        found: FoundThread,
        turn: Turn,
        force: Force,
        ending: Ending,
    ) -> Result<thread::Dropped, ErrorObject> {
        let FoundThread { row, mount, .. } = found;
        let name = row.name.clone();
        if force == Force::Never {
            self.check_unchanged(&row, mount.as_ref()).await?;
        }
        let opening = row.clone();
        blocking(move || if is_gone(&opening) { Ok(()) } else { repository_of(&opening).map(drop) })
            .await??;
        if let Some(mount) = mount {
            mount.stop(force).await?;
        }
        let deciding = row.clone();
        let (branch_at, kept_branch) = blocking(move || branch_of(&deciding)).await??;
        let deciding = row.clone();
        let captures = blocking(move || captures_of(&deciding)).await??;
        let (captures_at, kept_captures) = match (captures, force) {
            (Some(at), Force::Always) => (Some(at.to_string()), None),
            (Some(_), Force::Never) => (None, Some(captures_name(&name))),
            (None, _) => (None, None),
        };
        let aside = self.plan_aside(&row, branch_at.clone(), captures_at.clone(), ending).await?;
        let row = ThreadRow { phase: ThreadPhase::Dropping { branch_at, captures_at, aside }, ..row };
        self.put(row.clone()).await?;
        self.remove(row, turn).await;
        match self.find(&name).await {
            Ok(_) => {
                let message = format!("something of the thread `{name}` could not be removed");
                Err(ErrorObject::new(ErrorKind::Failure, message).with_hint("stead daemon logs"))
            }
            Err(_) => Ok(thread::Dropped { name, kept_branch, kept_captures }),
        }
    }

    /// Refuses a thread with something in it that nothing else has.
    async fn check_unchanged(&self, row: &ThreadRow, mount: Option<&MountHandle>) -> Result<(), ErrorObject> {
        let name = &row.name;
        let by_force = format!("stead thread drop {name} --force");
        let looking = row.clone();
        match blocking(move || only_in_registration(&looking)).await?? {
            None => {}
            Some(OnlyThere::Submodules) => {
                let message =
                    format!("the thread `{name}` has repositories of submodules, which would go with it");
                return Err(conflict(message, by_force));
            }
            Some(OnlyThere::Commits) => {
                let message =
                    format!("the thread `{name}` has commits that are on no branch, which would go with it");
                return Err(conflict(message, format!("git branch NAME in the thread, or {by_force}")));
            }
        }
        let Some(mount) = mount else {
            let (looking, paths) = (row.clone(), self.paths.clone());
            return match blocking(move || is_untouched(&looking, &paths)).await?? {
                true => Ok(()),
                false => Err(conflict(
                    format!(
                        "the thread `{name}` has changes, and is not mounted, so that git cannot tell whether they are committed"
                    ),
                    format!("stead mount thread:{name}, or {by_force}"),
                )),
            };
        };
        // What is seen in place may be ignored there only.
        let sees_nothing = row.sees.is_none();
        let looking = self.in_worktree(row, mount, move |mounted, base, changed| {
            if !mounted.is_known_there()? {
                return Ok(Some(OnlyInMount::Elsewhere));
            }
            if sees_nothing && mounted.is_as_begun(base, changed) {
                return Ok(None);
            }
            match mounted.repositories(changed)?.into_iter().next() {
                Some(path) => Ok(Some(OnlyInMount::Repository(path))),
                None => Ok(mounted.is_changed()?.then_some(OnlyInMount::Changes)),
            }
        });
        match looking.await? {
            None => Ok(()),
            Some(OnlyInMount::Elsewhere) => Err(conflict(
                format!(
                    "`.git` in the thread `{name}` is not what was put there, so that git cannot tell whether there are changes"
                ),
                by_force,
            )),
            Some(OnlyInMount::Repository(path)) => Err(conflict(
                format!(
                    "the thread `{name}` has a repository of its own in `{}`, which would go with it",
                    path.escape_ascii()
                ),
                by_force,
            )),
            Some(OnlyInMount::Changes) => match self.uncaptured(row, mount).await? {
                Uncaptured::Nothing => Ok(()),
                Uncaptured::Changes => Err(conflict(
                    format!("the thread `{name}` has changes that are neither committed nor captured"),
                    format!("stead thread capture {name} -m MESSAGE, or {by_force}"),
                )),
                Uncaptured::Unknown(path) => Err(conflict(
                    format!(
                        "`{}` is not ignored in the thread `{name}`, but was where it was made, so that no capture has it",
                        path.escape_ascii()
                    ),
                    format!("git commit in the thread, or {by_force}"),
                )),
            },
        }
    }

    /// What the last capture has not of what is in a thread.
    async fn uncaptured(&self, row: &ThreadRow, mount: &MountHandle) -> Result<Uncaptured, ErrorObject> {
        let looking = row.clone();
        let Some(last) = blocking(move || captures_of(&looking)).await?? else {
            return Ok(Uncaptured::Changes);
        };
        self.in_worktree(row, mount, move |mounted, base, changed| {
            if mounted.snapshot(base, changed)? != mounted.objects.revision(last)?.tree {
                return Ok(Uncaptured::Changes);
            }
            Ok(mounted.unknown(changed)?.map_or(Uncaptured::Nothing, Uncaptured::Unknown))
        })
        .await
    }
}

/// Removes what there is of a thread that is not mounted: its worktree, its branch if that is to go, its files. Blocks.
pub(super) fn remove(row: &ThreadRow, paths: &Paths) -> Result<(), ErrorObject> {
    // As git says it, which follows links.
    let directory = really(paths.thread_dir(&row.name));
    // A repository that is gone has taken its part with it, or has it again when it is back.
    if !is_gone(row) {
        let objects = repository_of(row)?;
        let places = [directory.as_path(), row.dir.as_path()];
        let known = row.registration.as_ref().map(|registration| registration.as_path().to_owned());
        let registration = match known {
            Some(known) => Some(known),
            // Until it is known it is of a place of our own.
            None => worktree::leftover(&objects, &directory).map_err(|error| from_store(&error))?,
        };
        let found = |error: store::Error| from_store(&error);
        let going = going(row, &objects).map_err(found)?;
        let mut changes = match aside_of(row) {
            Some(aside) => keeping(&objects, row, aside, registration.as_deref()).map_err(found)?,
            None => Vec::new(),
        };
        // All at once, unless somebody else may have the branch, which is asked when the thread has it no more.
        let at_once = aside_of(row).is_some() && is_its_own(row, &objects, registration.as_deref(), &places);
        if at_once {
            changes.extend(going.iter().cloned());
        }
        refs::change(&objects, &changes, "stead: dropped").map_err(found)?;
        if let Some(registration) = registration {
            let gone = match aside_of(row) {
                Some(_) => put_aside(&registration, &places),
                None => worktree::unregister(&registration, &places),
            };
            gone.map_err(found)?;
        }
        let branch = branch_name(row);
        for change in going {
            match change {
                Change::Delete { name, .. } if at_once && name == branch => {
                    worktree::forget_branch(&objects, &row.branch);
                }
                Change::Delete { name, at } if !at_once && name == branch => {
                    worktree::delete_branch(&objects, &row.branch, &at).map_err(found)?;
                }
                change if !at_once => refs::change(&objects, &[change], "stead: dropped").map_err(found)?,
                _ => {}
            }
        }
    }
    if row.phase == ThreadPhase::Making && row.makes_dir {
        plan::remove_made(&[row.dir.as_path().to_owned()]);
    }
    let gone = match aside_of(row) {
        Some(aside) => std::fs::rename(&directory, paths.dropped_dir().join(aside.number.to_string())),
        None => std::fs::remove_dir_all(&directory),
    };
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(from_io(&format!("could not remove `{}`", directory.display()), &error))
        }
        _ => Ok(()),
    }
}

fn branch_name(row: &ThreadRow) -> String {
    format!("refs/heads/{}", row.branch)
}

/// The references that go with a thread: those that are where they are to be for that.
fn going(row: &ThreadRow, objects: &Objects) -> store::Result<Vec<Change>> {
    let (branch_at, captures_at) = match &row.phase {
        // Only its maker could have made it: it was not there before.
        ThreadPhase::Making => (Some(&row.commit), None),
        ThreadPhase::Open => (None, None),
        ThreadPhase::Dropping { branch_at, captures_at, .. } => (branch_at.as_ref(), captures_at.as_ref()),
    };
    let mut going = Vec::new();
    for (name, at) in [(branch_name(row), branch_at), (captures_name(&row.name), captures_at)] {
        if let Some(Ok(at)) = at.map(|at| Oid::from_hex(at.as_bytes()))
            && worktree::reference(objects, &name)? == Some(at)
        {
            going.push(Change::Delete { name, at });
        }
    }
    Ok(going)
}

/// Whether it is certain that no worktree has a thread's branch but the thread itself, which is at one of these places. Its
/// registration may be somebody else's by now.
fn is_its_own(row: &ThreadRow, objects: &Objects, registration: Option<&Path>, places: &[&Path]) -> bool {
    let own = registration.filter(|registration| worktree::aside::is_of(registration, places));
    let Some(registration) = own.and_then(|registration| registration.canonicalize().ok()) else {
        return false;
    };
    let is_it = |holder: &PathBuf| holder.canonicalize().is_ok_and(|holder| holder == registration);
    worktree::holders(objects, &row.branch).is_some_and(|holders| holders.iter().all(is_it))
}

fn aside_of(row: &ThreadRow) -> Option<&Aside> {
    match &row.phase {
        ThreadPhase::Dropping { aside, .. } => aside.as_ref(),
        ThreadPhase::Making | ThreadPhase::Open => None,
    }
}

/// What git has of a thread in its registration alone. Blocks.
fn only_in_registration(row: &ThreadRow) -> Result<Option<OnlyThere>, ErrorObject> {
    let Some(registration) = &row.registration else { return Ok(None) };
    let (objects, registration) = (repository_of(row)?, registration.as_path());
    let look = || -> store::Result<Option<OnlyThere>> {
        if worktree::has_submodules(registration)? {
            return Ok(Some(OnlyThere::Submodules));
        }
        Ok(worktree::has_loose_commits(&objects, registration)?.then_some(OnlyThere::Commits))
    };
    look().map_err(|error| from_store(&error))
}

/// The commit at which a thread's branch can go with it, or else its name if it has to stay. Blocks.
pub(super) fn branch_of(row: &ThreadRow) -> Result<(Option<String>, Option<String>), ErrorObject> {
    if is_gone(row) {
        return Ok((None, None));
    }
    let objects = repository_of(row)?;
    let name = format!("refs/heads/{}", row.branch);
    let Some(at) = worktree::reference(&objects, &name).map_err(|error| from_store(&error))? else {
        return Ok((None, None));
    };
    let elsewhere = worktree::checked_out(&objects, &row.branch).map_err(|error| from_store(&error))?;
    if elsewhere.is_some_and(|dir| dir != row.dir.as_path()) {
        return Ok((None, Some(row.branch.clone())));
    }
    let base = Oid::from_hex(row.commit.as_bytes())
        .map_err(|error| ErrorObject::internal(format!("a thread began from no commit: {error}")))?;
    match worktree::has_own_commits(&objects, &row.branch, &at, &base).map_err(|error| from_store(&error))? {
        true => Ok((None, Some(row.branch.clone()))),
        false => Ok((Some(at.to_string()), None)),
    }
}

/// Whether a thread that is not mounted is as it was made, with the file that leads git to its registration. Blocks.
pub(super) fn is_untouched(row: &ThreadRow, paths: &Paths) -> Result<bool, ErrorObject> {
    let thread = unmounted(row, paths)?;
    let Some(registration) = &row.registration else { return Ok(false) };
    let is_known_there = || -> store::Result<bool> {
        let Some(pointer) = thread.lookup(Ino::ROOT, worktree::POINTER)? else { return Ok(false) };
        if pointer.kind != Kind::File {
            return Ok(false);
        }
        let path = row.dir.as_path().join(OsStr::from_bytes(worktree::POINTER));
        let file = thread.open_content(pointer.ino, Access::Read)?;
        let mut content = Vec::new();
        let read = file.take(worktree::POINTER_BYTES_MAX).read_to_end(&mut content);
        read.map_err(|source| store::Error::Access { what: "read", path, source })?;
        Ok(worktree::leads_to(&content, row.dir.as_path(), registration.as_path()))
    };
    Ok(is_known_there().map_err(|error| from_store(&error))?
        && thread.changed().map_err(|error| from_store(&error))?.is_empty())
}
