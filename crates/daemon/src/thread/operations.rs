//! What was done to a thread, and its undoing.
//!
//! ```text
//!  done ──undo──► undone ──redo──► done
//!                   └── something else is done ──► forgotten
//! ```
//!
//! Each operation has moved one reference, from where it was to where it was put. Undoing one moves it back, if it is where it was put: so
//! nothing is undone over what somebody else has done since. A worktree that has the reference goes along. The commit that a reference leaves
//! is kept on `refs/stead/kept/THREAD/NUMBER` as long as the operation is known.
//!
//! An operation is written down when it has come to its end: a daemon that dies in between leaves one that is done and cannot be undone. A
//! switch is written down before, and so is what an undoing undoes: a reference that is already where it is to go has come there by one whose
//! daemon died.
//!
//! The first is the making. It is undone by dropping the thread as it was made, without force, and done again by having it back.
//!
//! What was done to a thread that is dropped goes aside with it, and what is kept for it too.

use std::time::SystemTime;

use store::Oid;
use store::objects::Objects;
use store::refs::{self, Change};
use store::worktree::land;
use store::worktree::snapshot::Captured;
use store::worktree::{self, move_reference};
use wire::api::mount::Force;
use wire::api::thread::OperationKind;
use wire::api::time::Timestamp;
use wire::api::{ErrorKind, ErrorObject, thread};
use wire::bytestring::ByteString;

use super::dropping::Ending;
use super::landing::{Uncommitted, checkout_of};
use super::making::last_of;
use super::{ThreadContext, blocking, captures_name, check_open, conflict, from_store, repository_of};
use crate::database::ThreadRow;
use crate::database::threads::{DroppedRow, OperationRow};
use crate::failure::failure;
use crate::owner::{FoundThread, Turn};

/// How many operations of a thread can be undone: more than anybody remembers. Each may keep a commit.
const OPERATIONS_MAX: usize = 100;

/// Where commits are kept that a reference has left: by thread and operation.
const KEPT: &str = "refs/stead/kept/";

/// Where they are with a thread that was dropped, below its reference.
const ASIDE: &str = "kept";

/// A reference that was moved.
pub(super) struct Moved {
    pub(super) reference: String,
    pub(super) was: Option<Oid>,
    pub(super) now: Oid,
}

impl Moved {
    pub(super) fn into_operation(self, kind: OperationKind) -> OperationRow {
        let Moved { reference, was, now } = self;
        let (was, now) = (was.map(|was| was.to_string()), now.to_string());
        OperationRow { kind, at: Timestamp::from(SystemTime::now()), reference, was, now, undone: false }
    }
}

/// What the making of a thread has moved.
pub(super) fn made_operation(row: &ThreadRow) -> Result<OperationRow, ErrorObject> {
    let moved =
        Moved { reference: format!("refs/heads/{}", row.branch), was: None, now: parse(&row.commit)? };
    Ok(moved.into_operation(OperationKind::New))
}

/// What a capture has moved.
pub(super) fn captured_operation(name: &str, captured: &Captured) -> OperationRow {
    let moved = Moved { reference: captures_name(name), was: captured.last, now: captured.commit };
    moved.into_operation(OperationKind::Capture)
}

fn kept_name(thread: &str, number: i64) -> String {
    format!("{KEPT}{thread}/{number}")
}

impl ThreadContext {
    /// Writes down what was done to a thread, and forgets what cannot be undone or done again any more. What was done is done, whether it
    /// can be written down or not.
    pub(super) async fn record(&self, row: &ThreadRow, operation: OperationRow) -> Option<i64> {
        match self.add_operation(row, operation).await {
            Ok(number) => {
                self.forget_before(row, number).await;
                Some(number)
            }
            Err(error) => {
                tracing::error!(thread = row.name, %error, "what was done to a thread cannot be undone");
                None
            }
        }
    }

    pub(super) async fn add_operation(
        &self,
        row: &ThreadRow,
        operation: OperationRow,
    ) -> Result<i64, ErrorObject> {
        let added = self.database.add_operation(row.name.clone(), operation).await;
        added.map_err(|error| failure(&error))
    }

    /// Forgets what cannot be undone or done again any more since this operation is done. What cannot be forgotten is tried again behind
    /// the next one.
    async fn forget_before(&self, row: &ThreadRow, number: i64) {
        let forgotten = match self.operations(&row.name).await {
            Ok(known) => self.forget_operations(row, forgotten_by(&known, number)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            tracing::warn!(thread = row.name, %error, "what cannot be done again stays known");
        }
    }

    pub(super) async fn operations(&self, name: &str) -> Result<Vec<(i64, OperationRow)>, ErrorObject> {
        self.database.operations(name.to_owned()).await.map_err(|error| failure(&error))
    }

    /// Forgets operations, and what is kept for them.
    async fn forget_operations(&self, row: &ThreadRow, numbers: Vec<i64>) -> Result<(), ErrorObject> {
        if numbers.is_empty() {
            return Ok(());
        }
        let (of, letting_go) = (row.clone(), numbers.clone());
        blocking(move || {
            // A repository that is gone has taken its part with it.
            if super::is_gone(&of) {
                return Ok(());
            }
            let objects = repository_of(&of)?;
            let kept = worktree::references(&objects, &format!("{KEPT}{}/", of.name));
            let kept = kept.map_err(|error| from_store(&error))?;
            let letting_go: Vec<String> =
                letting_go.iter().map(|number| kept_name(&of.name, *number)).collect();
            let gone = kept.into_iter().filter(|(name, _)| letting_go.contains(name));
            let gone: Vec<Change> = gone.map(|(name, at)| Change::Delete { name, at }).collect();
            refs::change(&objects, &gone, "stead: forgotten").map_err(|error| from_store(&error))
        })
        .await??;
        for number in numbers {
            self.database.remove_operation(number).await.map_err(|error| failure(&error))?;
        }
        Ok(())
    }

    /// Forgets all that was done to a thread that is gone.
    pub(super) async fn forget_all_operations(&self, row: &ThreadRow) -> Result<(), ErrorObject> {
        let numbers = self.operations(&row.name).await?.into_iter().map(|(number, _)| number).collect();
        self.forget_operations(row, numbers).await
    }

    /// Has a thread which comes back know again what was done to it.
    pub(super) async fn have_operations_back(&self, dropped: &DroppedRow) -> Result<(), ErrorObject> {
        for (was, operation) in &dropped.operations {
            let number = self.add_operation(&dropped.row, operation.clone()).await?;
            let (of, was) = (dropped.clone(), *was);
            blocking(move || {
                let objects = repository_of(&of.row)?;
                have_kept_back(&objects, &of.row.name, &of.kept, (was, number))
                    .map_err(|error| from_store(&error))
            })
            .await??;
        }
        Ok(())
    }

    /// Undoes what was done to a thread last, or does it again.
    pub async fn undo(&self, asked: thread::Undo) -> Result<thread::Undone, ErrorObject> {
        let thread::Undo { name, redo } = asked;
        let (found, turn) = match self.take(&name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return self.have_back(&name, redo).await?.ok_or(error);
            }
            taken => taken?,
        };
        let row = found.row.clone();
        check_open(&row)?;
        let operations = self.operations(&name).await?;
        let Some((number, operation)) = next_of(operations, redo) else {
            let what = if redo { "was undone" } else { "can be undone" };
            let message = format!("nothing that was done to the thread `{name}` {what}");
            return Err(conflict(message, format!("stead thread log {name}")));
        };
        if operation.kind == OperationKind::New {
            return self.undo_making(found, turn, operation).await;
        }
        let (moving, of) = (operation.clone(), row.clone());
        let dir = blocking(move || move_back(&of, number, &moving, redo)).await??;
        let undone = OperationRow { undone: !redo, ..operation.clone() };
        self.database.put_operation(number, undone).await.map_err(|error| failure(&error))?;
        drop(turn);
        let OperationRow { kind, reference, was, now, .. } = operation;
        let (was, now) = if redo { (was, Some(now)) } else { (Some(now), was) };
        Ok(thread::Undone { name, operation: kind, reference, was, now, dir })
    }

    /// Has a thread go that is as it was made.
    async fn undo_making(
        &self,
        found: FoundThread,
        turn: Turn,
        making: OperationRow,
    ) -> Result<thread::Undone, ErrorObject> {
        let OperationRow { reference, now, .. } = making;
        let (of, name, looking) = (found.row.clone(), found.row.name.clone(), reference.clone());
        let is = blocking(move || {
            worktree::reference(&repository_of(&of)?, &looking).map_err(|error| from_store(&error))
        });
        let is = is.await??.map(|is| is.to_string());
        if is.as_ref() != Some(&now) {
            return Err(moved_since(&found.row, &reference, is));
        }
        let thread::Dropped { kept_branch, .. } =
            self.drop_taken(found, turn, Force::Never, Ending::MakingUndone).await?;
        let left = kept_branch.map(|_| now.clone());
        Ok(thread::Undone {
            name,
            operation: OperationKind::New,
            reference,
            was: Some(now),
            now: left,
            dir: None,
        })
    }

    /// Has a thread show another revision.
    pub async fn switch(&self, asked: thread::Switch) -> Result<thread::Switched, ErrorObject> {
        let thread::Switch { name, revision } = asked;
        if revision.is_empty() || revision.len() > thread::REVISION_BYTES_MAX {
            return Err(ErrorObject::new(ErrorKind::Usage, "that is not a revision"));
        }
        let (row, mount, turn) = self.take_mounted(&name).await?;
        let from = match revision.strip_prefix("thread:") {
            Some(other) => Some(self.find(other).await?.row),
            None => None,
        };
        let (of, dir) = (row.clone(), mount.dir.clone());
        let (was, now) = blocking(move || plan_switch(&of, &dir, &revision, from.as_ref())).await??;
        let moved = Moved { reference: format!("refs/heads/{}", row.branch), was: Some(was), now };
        let operation = moved.into_operation(OperationKind::Switch);
        // What the branch leaves is kept before it goes.
        let number = self.add_operation(&row, operation.clone()).await?;
        let (of, moving) = (row.clone(), operation);
        if let Err(refused) = blocking(move || move_back(&of, number, &moving, true)).await? {
            if let Err(error) = self.forget_operations(&row, vec![number]).await {
                tracing::warn!(thread = name, %error, "a switch that was refused stays known");
            }
            return Err(refused);
        }
        self.forget_before(&row, number).await;
        drop(turn);
        Ok(thread::Switched { name, was: was.to_string(), commit: now.to_string() })
    }
}

/// The operations that are forgotten once the one of this number is done: what was undone, and what is too long ago.
pub(super) fn forgotten_by(known: &[(i64, OperationRow)], number: i64) -> Vec<i64> {
    let done = known.iter().filter(|(_, operation)| !operation.undone).count();
    let mut surplus = done.saturating_sub(OPERATIONS_MAX);
    let mut forgotten = Vec::new();
    for (before, operation) in known.iter().filter(|(before, _)| *before < number) {
        let is_surplus = !operation.undone && surplus > 0;
        surplus -= usize::from(is_surplus);
        if operation.undone || is_surplus {
            forgotten.push(*before);
        }
    }
    forgotten
}

/// The operation that is undone next, or done again: what was undone last is the first behind all that is done.
pub(super) fn next_of(mut known: Vec<(i64, OperationRow)>, redo: bool) -> Option<(i64, OperationRow)> {
    let last = known.iter().rposition(|(_, operation)| !operation.undone);
    let next = if redo { last.map_or(0, |last| last + 1) } else { last? };
    (next < known.len()).then(|| known.swap_remove(next))
}

/// Where a thread's branch is and where it is to be. Blocks.
fn plan_switch(
    row: &ThreadRow,
    dir: &ByteString,
    revision: &str,
    from: Option<&ThreadRow>,
) -> Result<(Oid, Oid), ErrorObject> {
    let (objects, name) = (repository_of(row)?, &row.name);
    let found = |error: store::Error| from_store(&error);
    let to = match from {
        Some(from) if from.repository != row.repository => {
            let message = format!("the thread `{}` is of `{}`, another repository", from.name, from.repo);
            return Err(ErrorObject::new(ErrorKind::Usage, message));
        }
        Some(from) => last_of(&objects, from)?.commit,
        None => {
            worktree::resolve(&objects, dir.as_path(), revision)
                .map_err(|error| match error {
                    store::Error::Git { .. } => {
                        let message =
                            format!("there is no commit `{}` in `{}`", revision.escape_debug(), row.repo);
                        ErrorObject::new(ErrorKind::NotFound, message)
                    }
                    error => from_store(&error),
                })?
                .commit
        }
    };
    let branch = worktree::current_branch(dir.as_path()).map_err(found)?;
    let is = worktree::reference(&objects, &format!("refs/heads/{}", row.branch)).map_err(found)?;
    match is.filter(|_| branch.as_ref() == Some(&row.branch)) {
        None => Err(conflict(
            format!("the thread `{name}` is not on its branch `{}`", row.branch),
            format!("git -C {dir} checkout {}", row.branch),
        )),
        Some(is) if is == to => Err(conflict(
            format!("the thread `{name}` is at {to} already"),
            format!("stead thread status {name}"),
        )),
        Some(is) => Ok((is, to)),
    }
}

/// Moves the reference of an operation back, or again to where it was put. Says which worktree went along. Blocks.
pub(super) fn move_back(
    row: &ThreadRow,
    number: i64,
    operation: &OperationRow,
    again: bool,
) -> Result<Option<ByteString>, ErrorObject> {
    let objects = repository_of(row)?;
    let found = |error: store::Error| from_store(&error);
    let reference = operation.reference.as_str();
    let (was, now) = (operation.was.as_deref().map(parse).transpose()?, Some(parse(&operation.now)?));
    let (from, to) = if again { (was, now) } else { (now, was) };
    let is = worktree::reference(&objects, reference).map_err(found)?;
    if is == to {
        // What it has left is kept already, unless somebody else has moved it: then it may be gone.
        if let Some(left) = from
            && let Err(error) = worktree::keep(&objects, &kept_name(&row.name, number), &left)
        {
            tracing::warn!(thread = row.name, %error, "a commit that a reference has left is not kept");
        }
        return Ok(None);
    }
    if is != from {
        return Err(moved_since(row, reference, is.map(|is| is.to_string())));
    }
    if let Some(left) = from {
        worktree::keep(&objects, &kept_name(&row.name, number), &left).map_err(found)?;
    }
    let changes = match operation.kind {
        OperationKind::Switch => Uncommitted::Stays,
        OperationKind::New | OperationKind::Capture | OperationKind::Land | OperationKind::Drop => {
            Uncommitted::IsRefused
        }
    };
    let dir = match reference.strip_prefix("refs/heads/") {
        Some(branch) => checkout_of(&objects, branch, changes)?,
        None => None,
    };
    let moved = match (&dir, to) {
        (Some(dir), Some(to)) => land::Move { objects: &objects, reference, from, to }.go_to(dir.as_path()),
        (_, to) => move_reference(&objects, reference, from.as_ref(), to.as_ref(), "stead: undone"),
    };
    match moved {
        Ok(()) => Ok(dir),
        // What git says of files that would be overwritten.
        Err(error @ store::Error::Git { .. }) => {
            Err(ErrorObject::new(ErrorKind::Conflict, from_store(&error).message))
        }
        Err(error) => Err(from_store(&error)),
    }
}

fn moved_since(row: &ThreadRow, reference: &str, is: Option<String>) -> ErrorObject {
    let at = is.map_or("gone".to_owned(), |is| format!("at {is}"));
    let message = format!("`{reference}` was moved since, and is {at} now");
    conflict(message, format!("git -C {} log {reference}", row.repo))
}

pub(super) fn parse(hex: &str) -> Result<Oid, ErrorObject> {
    Oid::from_hex(hex.as_bytes())
        .map_err(|error| ErrorObject::internal(format!("an operation names no commit: {error}")))
}

/// What is kept for the operations of a thread, to be kept below a reference when that goes aside. Blocks.
pub(super) fn kept_aside(objects: &Objects, thread: &str, to: &str) -> store::Result<Vec<Change>> {
    let below = format!("{KEPT}{thread}/");
    let kept = worktree::references(objects, &below)?.into_iter().map(|(name, commit)| {
        let number = name.strip_prefix(&below).unwrap_or(&name);
        Change::Keep { name: format!("{to}/{ASIDE}/{number}"), commit }
    });
    Ok(kept.collect())
}

/// Has what is kept for an operation of a dropped thread on the reference of its new number. Blocks.
fn have_kept_back(
    objects: &Objects,
    thread: &str,
    from: &str,
    (was, number): (i64, i64),
) -> store::Result<()> {
    // A repository that was not there when the thread went aside has it where it was.
    for name in [format!("{from}/{ASIDE}/{was}"), kept_name(thread, was)] {
        if let Some(commit) = worktree::reference(objects, &name)? {
            return worktree::keep(objects, &kept_name(thread, number), &commit);
        }
    }
    Ok(())
}
