//! Threads that were dropped: what is left of each, for a while.
//!
//! ```text
//!  open ──drop──► aside ──undo──► open, not mounted
//!                   └── a week, or collected ──► gone
//! ```
//!
//! ```text
//! STATE/dropped/NUMBER/tree           the thread, as it was
//!                     /registration   what git knew of its worktree
//! refs/stead/dropped/NAME/AT/branch   where its branch was, if that went with it
//!                           /captures its captures, if they went with it
//!                           /head     its `HEAD`, if that was elsewhere
//!                           /kept/N   what was kept for what was done to it
//! ```
//!
//! The row of a dropped thread is written before anything of it is moved, and goes when nothing is left, or when the thread is whole again.
//! One without a directory is of a drop that did not begin, or of a return that came to its end. A thread that is half on its way, in either
//! direction, has the phase *dropping*, and goes aside to its end in the next daemon. A directory that is to be removed has another name before,
//! `NUMBER.gone`: so nobody has half of one back.

use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use store::Oid;
use store::objects::Objects;
use store::refs::{self, Change};
use store::worktree::{self, aside, move_reference};
use tokio::sync::Mutex;
use wire::api::thread::{DROPPED_KEPT_SECONDS, OperationKind};
use wire::api::time::Timestamp;
use wire::api::{ErrorObject, thread};
use wire::paths::Paths;

use super::dropping::Ending;
use super::operations::{kept_aside, parse};
use super::{ThreadContext, blocking, captures_name, conflict, from_store, is_gone, repository_of};
use crate::database::threads::{Aside, DroppedRow};
use crate::database::{ThreadPhase, ThreadRow};
use crate::failure::{failure, from_io};
use crate::owner::{Event, ThreadEvent};

/// How often it is looked for threads that were dropped long enough ago.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// How long a drop that has begun may take until its thread is aside.
const BEGUN_SECONDS: u64 = 600;

/// Where commits of dropped threads are kept: by name and time.
const DROPPED: &str = "refs/stead/dropped/";

/// What is kept of one.
const KEPT: [&str; 3] = ["branch", "captures", "head"];

const REGISTRATION: &str = "registration";

/// What the name of a directory ends with that is being removed.
const GONE: &str = ".gone";

/// Whoever has one back or removes one for good: none is half of both.
static MOVING: Mutex<()> = Mutex::const_new(());

/// Removes what is left of threads that were dropped long enough ago, for ever.
pub async fn sweep(context: ThreadContext) {
    let dir = context.paths.dropped_dir();
    if let Err(error) = blocking(move || remove_gone(&dir)).await.flatten() {
        tracing::warn!(%error, "dropped threads that are half removed stay");
    }
    loop {
        match context.collect(thread::Collect::default()).await {
            Ok(collected) if collected.threads.is_empty() => {}
            Ok(collected) => tracing::info!(count = collected.threads.len(), "dropped threads are collected"),
            Err(error) => tracing::warn!(%error, "dropped threads stay"),
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

impl ThreadContext {
    /// Writes down that a thread is to be put aside. One whose repository is gone cannot be had back.
    pub(super) async fn plan_aside(
        &self,
        row: &ThreadRow,
        branch_at: Option<String>,
        captures_at: Option<String>,
        ending: Ending,
    ) -> Result<Option<Aside>, ErrorObject> {
        let (of, dir) = (row.clone(), self.paths.dropped_dir());
        let can_be = blocking(move || {
            let made = supervisor::socket::private_directory(&dir).map_err(|error| failure(&error));
            made.map(|_| !is_gone(&of))
        });
        if !can_be.await?? {
            return Ok(None);
        }
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let kept = format!("{DROPPED}{}/{since}", row.name);
        let (at, operations) = (Timestamp::from(now), self.operations(&row.name).await?);
        let is_undone = ending == Ending::MakingUndone;
        let (row, to) = (row.clone(), kept.clone());
        let dropped = DroppedRow { row, at, branch_at, captures_at, kept: to, is_undone, operations };
        let number = self.database.add_dropped(dropped).await.map_err(|error| failure(&error))?;
        Ok(Some(Aside { number, kept }))
    }

    async fn dropped(&self) -> Result<Vec<(i64, DroppedRow)>, ErrorObject> {
        self.database.dropped().await.map_err(|error| failure(&error))
    }

    /// Has the thread of this name back that was dropped last, if there is one; or, to do its making again, the one of which that was
    /// undone, if none was dropped since.
    pub(super) async fn have_back(
        &self,
        name: &str,
        redo: bool,
    ) -> Result<Option<thread::Undone>, ErrorObject> {
        let moving = MOVING.lock().await;
        let dir = self.paths.dropped_dir();
        let is_there = |number: i64| dir.join(number.to_string()).exists();
        let dropped = self.dropped().await?.into_iter().rev();
        let mut dropped =
            dropped.filter(|(number, dropped)| dropped.row.name == name && is_there(*number)).peekable();
        let found = match redo {
            true => dropped.next().filter(|(_, last)| last.is_undone),
            false => {
                let is_undone = dropped.peek().is_some_and(|(_, last)| last.is_undone);
                let found = dropped.find(|(_, dropped)| !dropped.is_undone);
                if found.is_none() && is_undone {
                    let message = format!("the making of the thread `{name}` is undone already");
                    return Err(conflict(message, format!("stead thread undo {name} --redo")));
                }
                found
            }
        };
        let Some((number, dropped)) = found else { return Ok(None) };
        let (of, from, at) = (dropped.clone(), dir.join(number.to_string()), self.paths.thread_dir(name));
        blocking(move || check_back(&of, &from, &at).map(drop)).await??;
        let DroppedRow { row, branch_at, captures_at, kept, .. } = dropped.clone();
        let aside = Some(Aside { number, kept: kept.clone() });
        let row = ThreadRow { phase: ThreadPhase::Dropping { branch_at, captures_at, aside }, ..row };
        let claimed = Box::new(row.clone());
        let turn =
            self.owner.ask(|answer| Event::Thread(ThreadEvent::Claim { row: claimed, answer })).await?;
        let back = match self.database.put_thread(row.clone()).await {
            Ok(()) => {
                let (of, paths) = (dropped.clone(), self.paths.clone());
                match blocking(move || bring_back(&of, number, &paths)).await.flatten() {
                    Ok(()) => self.have_operations_back(&dropped).await,
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(failure(&error)),
        };
        if let Err(error) = back {
            self.remove(row, turn).await;
            return Err(error);
        }
        self.put(ThreadRow { phase: ThreadPhase::Open, ..row.clone() }).await?;
        drop(turn);
        self.forget(number, &dropped).await?;
        drop(moving);
        Ok(Some(thread::Undone {
            name: name.to_owned(),
            operation: if redo { OperationKind::New } else { OperationKind::Drop },
            reference: format!("refs/heads/{}", row.branch),
            was: None,
            now: dropped.branch_at,
            dir: None,
        }))
    }

    /// Lets go of a thread that was dropped and is not there any more: of what is kept for it, and of its row.
    async fn forget(&self, number: i64, dropped: &DroppedRow) -> Result<(), ErrorObject> {
        let (of, paths) = (dropped.clone(), self.paths.clone());
        blocking(move || {
            remove_all(&gone_of(&paths.dropped_dir().join(number.to_string())))?;
            if is_gone(&of.row) {
                return Ok(());
            }
            let objects = repository_of(&of.row)?;
            let kept = worktree::references(&objects, &format!("{}/", of.kept));
            let kept = kept.map_err(|error| from_store(&error))?;
            let gone: Vec<Change> = kept.into_iter().map(|(name, at)| Change::Delete { name, at }).collect();
            refs::change(&objects, &gone, "stead: let go").map_err(|error| from_store(&error))
        })
        .await??;
        self.database.remove_dropped(number).await.map_err(|error| failure(&error))
    }

    /// Removes for good what is left of threads that were dropped.
    pub async fn collect(&self, asked: thread::Collect) -> Result<thread::Collected, ErrorObject> {
        let grace = asked.grace_seconds.unwrap_or(DROPPED_KEPT_SECONDS);
        let now = Timestamp::from(SystemTime::now()).unix();
        let mut collected = thread::Collected::default();
        for (number, dropped) in self.dropped().await? {
            let directory = self.paths.dropped_dir().join(number.to_string());
            let looking = directory.clone();
            let is_there = blocking(move || looking.exists()).await?;
            let moving = MOVING.lock().await;
            let is_on_its_way = self.find(&dropped.row.name).await.is_ok_and(|found| {
                matches!(&found.row.phase, ThreadPhase::Dropping { aside: Some(aside), .. } if aside.number == number)
            });
            let patience = if is_there { grace } else { BEGUN_SECONDS };
            if is_on_its_way || dropped.at.unix().saturating_add(patience) > now {
                collected.kept += u64::from(is_there);
                continue;
            }
            let (measured, taken) = match asked.dry_run {
                true => (directory, Ok(())),
                false => {
                    let gone = gone_of(&directory);
                    (gone, blocking(move || take_away(&directory, is_there)).await.flatten())
                }
            };
            drop(moving);
            // Only of those that go: a tree takes as long as it has files.
            let disk_bytes = blocking(move || disk_bytes_below(&measured)).await?;
            let forgotten = match taken {
                Ok(()) if !asked.dry_run => self.forget(number, &dropped).await,
                taken => taken,
            };
            if let Err(error) = forgotten {
                // Its repository may be another user's now, say. The others go.
                tracing::warn!(thread = dropped.row.name, %error, "a dropped thread stays");
                collected.kept += u64::from(is_there);
                continue;
            }
            if is_there {
                let DroppedRow { row: ThreadRow { name, repo, .. }, at, .. } = dropped;
                collected.threads.push(thread::CollectedThread { name, repo, at, disk_bytes });
            }
        }
        Ok(collected)
    }

    /// What a thread takes on the disk.
    pub async fn disk_bytes(&self, name: &str) -> Result<u64, ErrorObject> {
        let directory = self.paths.thread_dir(name);
        blocking(move || disk_bytes_below(&directory)).await
    }
}

/// What is to be kept of a thread that goes aside: what its references are at, and what is kept for what was done to it. Blocks.
pub(super) fn keeping(
    objects: &Objects,
    row: &ThreadRow,
    to: &Aside,
    registration: Option<&Path>,
) -> store::Result<Vec<Change>> {
    let ThreadPhase::Dropping { branch_at, captures_at, .. } = &row.phase else { return Ok(Vec::new()) };
    let oid = |hex: &Option<String>| hex.as_ref().and_then(|hex| Oid::from_hex(hex.as_bytes()).ok());
    let head = registration.and_then(|registration| aside::head(objects, registration));
    let all = [oid(branch_at), oid(captures_at), head];
    let mut keeping = kept_aside(objects, &row.name, &to.kept)?;
    for (number, (what, commit)) in KEPT.iter().zip(all).enumerate() {
        // One that another reference keeps needs no more.
        if let Some(commit) = commit.filter(|commit| !all[..number].contains(&Some(*commit))) {
            keeping.push(Change::Keep { name: format!("{}/{what}", to.kept), commit });
        }
    }
    Ok(keeping)
}

/// Puts the registration of a thread aside, if it still is of one of these places: whatever has the first has that with it. Blocks.
pub(super) fn put_aside(registration: &Path, places: &[&Path]) -> store::Result<()> {
    let Some(directory) = places.first() else { return Ok(()) };
    aside::put_aside(registration, places, &directory.join(REGISTRATION))
}

/// The references that a thread which comes back has to have again. Refuses one with something in its way. Blocks.
pub(super) fn check_back(
    dropped: &DroppedRow,
    from: &Path,
    directory: &Path,
) -> Result<Vec<(String, Oid)>, ErrorObject> {
    let row = &dropped.row;
    let objects = repository_of(row)?;
    let found = |error: store::Error| from_store(&error);
    let references = [
        (format!("refs/heads/{}", row.branch), &dropped.branch_at),
        (captures_name(&row.name), &dropped.captures_at),
    ];
    let mut missing = Vec::new();
    for (name, at) in references {
        let Some(at) = at.as_deref().map(parse).transpose()? else { continue };
        match worktree::reference(&objects, &name).map_err(found)? {
            None => missing.push((name, at)),
            Some(is) if is == at => {}
            Some(_) => {
                let message = format!("`{}` has another `{name}` by now", row.repo);
                return Err(conflict(message, format!("git -C {} branch -m {} OTHER", row.repo, row.branch)));
            }
        }
    }
    let registration = row.registration.as_ref().map(|registration| registration.as_path());
    // It has stayed where the repository was not there when the thread went aside.
    let registration = registration.filter(|registration| {
        from.join(REGISTRATION).exists() || !aside::is_of(registration, &[row.dir.as_path()])
    });
    if let Some(taken) = registration.into_iter().chain([directory]).find(|path| path.exists()) {
        let message = format!("`{}` is another one's by now", taken.display());
        return Err(conflict(message, format!("git -C {} worktree list", row.repo)));
    }
    Ok(missing)
}

/// Has all of a thread where it was. After an error some of it may be. Blocks.
pub(super) fn bring_back(dropped: &DroppedRow, number: i64, paths: &Paths) -> Result<(), ErrorObject> {
    let row = &dropped.row;
    let directory = paths.thread_dir(&row.name);
    let from = paths.dropped_dir().join(number.to_string());
    let missing = check_back(dropped, &from, &directory)?;
    let objects = repository_of(row)?;
    let found = |error: store::Error| from_store(&error);
    let failed = |error| from_io(&format!("could not move `{}`", from.display()), &error);
    std::fs::rename(&from, &directory).map_err(failed)?;
    let put_aside = directory.join(REGISTRATION);
    if let Some(registration) = row.registration.as_ref().filter(|_| put_aside.exists()) {
        aside::bring_back(&put_aside, registration.as_path()).map_err(found)?;
    }
    let put = |(name, at): &(String, Oid)| move_reference(&objects, name, None, Some(at), "stead: had back");
    missing.iter().try_for_each(put).map_err(found)
}

fn gone_of(directory: &Path) -> PathBuf {
    let mut gone = directory.as_os_str().to_owned();
    gone.push(GONE);
    PathBuf::from(gone)
}

/// Has a dropped thread be none that can be had back: from here on it is being removed. Blocks.
pub(super) fn take_away(directory: &Path, is_there: bool) -> Result<(), ErrorObject> {
    match std::fs::rename(directory, gone_of(directory)) {
        Err(error) if is_there || error.kind() != io::ErrorKind::NotFound => {
            Err(from_io(&format!("could not remove `{}`", directory.display()), &error))
        }
        _ => Ok(()),
    }
}

/// Removes what daemons before this one were removing when they died. Blocks.
pub(super) fn remove_gone(dropped: &Path) -> Result<(), ErrorObject> {
    for entry in std::fs::read_dir(dropped).into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().ends_with(GONE.as_bytes()) {
            remove_all(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_all(directory: &Path) -> Result<(), ErrorObject> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(from_io(&format!("could not remove `{}`", directory.display()), &error))
        }
        _ => Ok(()),
    }
}

/// What all below a directory takes on the disk, as far as that can be seen. Blocks.
fn disk_bytes_below(directory: &Path) -> u64 {
    /// What a block of `stat` is.
    const BLOCK_BYTES: u64 = 512;
    let taken = |found: Metadata| found.blocks() * BLOCK_BYTES;
    let mut bytes = directory.symlink_metadata().map_or(0, taken);
    let mut look_at: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = look_at.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.path().symlink_metadata() else { continue };
            if found.is_dir() {
                look_at.push(entry.path());
            }
            bytes += taken(found);
        }
    }
    bytes
}
