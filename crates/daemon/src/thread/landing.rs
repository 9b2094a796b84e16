//! What is in a thread, brought onto a branch.

use std::path::Path;

use store::Oid;
use store::objects::Objects;
use store::worktree::land::{self, Begun, Checkout, Merged, Move, Tip};
use store::worktree::{self, is_ancestor, move_reference};
use wire::api::thread::{LandMode, LandedHow, OperationKind};
use wire::api::{ErrorKind, ErrorObject, thread};
use wire::bytestring::ByteString;

use super::captures::message;
use super::operations::{Moved, captured_operation};
use super::{ThreadContext, blocking, conflict, from_store, repository_of};
use crate::database::ThreadRow;

/// How often it is begun again when somebody has moved the branch meanwhile.
const ATTEMPTS_MAX: usize = 3;

/// How many messages the default message of a squashed commit has.
const MESSAGES_MAX: usize = 100;

/// How many paths that have to be resolved are named.
const CONFLICTS_SHOWN_MAX: usize = 3;

/// What came of one attempt.
enum Attempt {
    /// The branch is at this commit now.
    Landed { was: Oid, commit: Oid, how: LandedHow, dir: Option<ByteString> },
    /// Somebody has to resolve these paths.
    Conflicts(Vec<Vec<u8>>),
    /// The branch is elsewhere than when it was looked at.
    Moved,
}

/// What is to be landed, and where.
#[derive(Clone)]
struct Landing {
    row: ThreadRow,
    branch: String,
    tip: Oid,
    mode: LandMode,
    message: Option<String>,
}

impl ThreadContext {
    /// Brings what is in a thread onto a branch.
    pub async fn land(&self, asked: thread::Land) -> Result<thread::Landed, ErrorObject> {
        let thread::Land { name, onto, mode, message: text } = asked;
        let capturing = text.clone().map(|text| message(text, None, None)).transpose()?;
        let (row, mount, turn) = self.take_mounted(&name).await?;
        let branch = branch_for(&row, onto)?;
        let captures = name.clone();
        let tip = self
            .in_worktree(&row, &mount, move |mounted, base, changed| {
                mounted.tip(&captures, base, changed, capturing.as_ref())
            })
            .await?;
        let (tip, captured) = match tip {
            Tip::Commit(commit) => (commit, None),
            Tip::Captured(captured) => {
                self.record(&row, captured_operation(&name, &captured)).await;
                (captured.commit, Some(captured.commit.to_string()))
            }
            Tip::Uncaptured => {
                return Err(conflict(
                    format!("the thread `{name}` has changes that are neither committed nor captured"),
                    format!("stead thread land {name} -m MESSAGE, which captures them"),
                ));
            }
            Tip::Unfinished => {
                return Err(conflict(
                    format!("a merge or the like is not concluded in the thread `{name}`"),
                    format!("git status in {}, conclude it, and land again", mount.dir),
                ));
            }
        };
        let landing = Landing { row: row.clone(), branch: branch.clone(), tip, mode, message: text };
        let (was, commit, how, dir) = match self.attempt(landing).await? {
            Attempt::Landed { was, commit, how, dir } => (was, commit, how, dir),
            Attempt::Moved => {
                let message = format!("somebody else moves the branch `{branch}` all the time");
                return Err(conflict(message, "try again in a moment".to_owned()));
            }
            Attempt::Conflicts(paths) => {
                let (merging, into) = (branch.clone(), mount.dir.clone());
                let begun =
                    self.in_worktree(&row, &mount, move |mounted, _, _| mounted.begin_merge(&tip, &merging));
                return Err(match begun.await? {
                    Begun::Conflicts => to_be_resolved(&name, &branch, &paths, &into),
                    Begun::Merged => conflict(
                        format!("the branch `{branch}` has moved, and was merged into the thread `{name}`"),
                        format!("stead thread land {name}"),
                    ),
                    Begun::Staged => conflict(
                        format!(
                            "the thread `{name}` and the branch `{branch}` do not merge, and what is staged in the thread differs from \
                             its files"
                        ),
                        format!("git commit in {into}, or git add the files, and land again"),
                    ),
                });
            }
        };
        let moved = Moved { reference: format!("refs/heads/{branch}"), was: Some(was), now: commit };
        self.record(&row, moved.into_operation(OperationKind::Land)).await;
        drop(turn);
        Ok(thread::Landed { name, branch, commit: commit.to_string(), how, captured, dir })
    }

    async fn attempt(&self, landing: Landing) -> Result<Attempt, ErrorObject> {
        blocking(move || {
            for _ in 0..ATTEMPTS_MAX {
                match landing.attempt()? {
                    Attempt::Moved => {}
                    come_to => return Ok(come_to),
                }
            }
            Ok(Attempt::Moved)
        })
        .await?
    }
}

/// The branch that was asked for, or else the one that the thread was made from.
fn branch_for(row: &ThreadRow, onto: Option<String>) -> Result<String, ErrorObject> {
    let name = &row.name;
    let Some(branch) = onto.or_else(|| row.onto.clone()) else {
        let message = format!("the thread `{name}` was not made from a branch, so one has to be named");
        return Err(ErrorObject::new(ErrorKind::Usage, message)
            .with_hint(format!("stead thread land {name} --onto BRANCH")));
    };
    if branch.is_empty() || branch.len() > thread::REVISION_BYTES_MAX {
        return Err(ErrorObject::new(ErrorKind::Usage, "that is not the name of a branch"));
    }
    if branch == row.branch {
        let message = format!("`{branch}` is the branch of the thread `{name}` itself");
        return Err(ErrorObject::new(ErrorKind::Usage, message));
    }
    Ok(branch)
}

fn to_be_resolved(name: &str, branch: &str, paths: &[Vec<u8>], dir: &ByteString) -> ErrorObject {
    let mut shown: Vec<String> =
        paths.iter().take(CONFLICTS_SHOWN_MAX).map(|path| format!("`{}`", path.escape_ascii())).collect();
    if paths.len() > CONFLICTS_SHOWN_MAX {
        shown.push(format!("{} more", paths.len() - CONFLICTS_SHOWN_MAX));
    }
    conflict(
        format!(
            "the thread `{name}` and the branch `{branch}` do not merge in {}; the merge was begun in the thread",
            shown.join(", ")
        ),
        format!("resolve it in {dir}, git commit there, then stead thread land {name}"),
    )
}

impl Landing {
    /// Blocks.
    fn attempt(&self) -> Result<Attempt, ErrorObject> {
        let objects = repository_of(&self.row)?;
        let reference = format!("refs/heads/{}", self.branch);
        let now =
            |objects: &Objects| worktree::reference(objects, &reference).map_err(|error| from_store(&error));
        let Some(was) = now(&objects)? else {
            let message = format!("`{}` has no branch `{}`", self.row.repo, self.branch.escape_debug());
            return Err(ErrorObject::new(ErrorKind::NotFound, message));
        };
        if is_ancestor(&objects, &self.tip, &was).map_err(|error| from_store(&error))? {
            return Err(self.nothing());
        }
        let dir = checkout_of(&objects, &self.branch, Uncommitted::IsRefused)?;
        let (commit, how) = match self.make(&objects, &was)? {
            Made::Commit(commit, how) => (commit, how),
            Made::Conflicts(paths) => return Ok(Attempt::Conflicts(paths)),
        };
        let reason = format!("stead: landed {}", self.row.name);
        let moved = match &dir {
            Some(dir) => {
                let moving = Move { objects: &objects, reference: &reference, from: Some(was), to: commit };
                moving.advance(dir.as_path())
            }
            None => move_reference(&objects, &reference, Some(&was), Some(&commit), &reason),
        };
        match moved {
            Ok(()) => Ok(Attempt::Landed { was, commit, how, dir }),
            Err(_) if now(&objects)? != Some(was) => Ok(Attempt::Moved),
            Err(error @ store::Error::Git { .. }) if dir.is_some() => {
                Err(ErrorObject::new(ErrorKind::Conflict, from_store(&error).message))
            }
            Err(error) => Err(from_store(&error)),
        }
    }

    /// The commit at which the branch is to be.
    fn make(&self, objects: &Objects, was: &Oid) -> Result<Made, ErrorObject> {
        let make = || -> store::Result<Option<Made>> {
            if self.mode == LandMode::Auto && is_ancestor(objects, was, &self.tip)? {
                return Ok(Some(Made::Commit(self.tip, LandedHow::FastForward)));
            }
            let tree = match land::merge(objects, was, &self.tip)? {
                Merged::Tree(tree) => tree,
                Merged::Conflicts(paths) => return Ok(Some(Made::Conflicts(paths))),
            };
            let (parents, how) = match self.mode {
                LandMode::Squash => (vec![*was], LandedHow::Squash),
                LandMode::Auto | LandMode::Merge => (vec![*was, self.tip], LandedHow::Merge),
            };
            if how == LandedHow::Squash && objects.revision(*was)?.tree == tree {
                return Ok(None);
            }
            let message = match &self.message {
                Some(message) => message.clone(),
                None => self.default_message(objects, was, how)?,
            };
            Ok(Some(Made::Commit(land::commit(objects, &tree, &parents, &message)?, how)))
        };
        make().map_err(|error| from_store(&error))?.ok_or_else(|| self.nothing())
    }

    fn default_message(&self, objects: &Objects, was: &Oid, how: LandedHow) -> store::Result<String> {
        let name = &self.row.name;
        if how == LandedHow::Merge {
            return Ok(format!("Merge thread '{name}' into {}", self.branch));
        }
        let mut messages = land::messages(objects, &self.tip, was, MESSAGES_MAX)?;
        if messages.len() == 1
            && let Some(message) = messages.pop()
        {
            return Ok(message);
        }
        let subjects = messages.iter().filter_map(|message| message.lines().next());
        let subjects: String = subjects.map(|subject| format!("* {subject}\n")).collect();
        Ok(format!("Land thread '{name}'\n\n{subjects}"))
    }

    fn nothing(&self) -> ErrorObject {
        let Landing { row, branch, .. } = self;
        conflict(
            format!("the branch `{branch}` has all that is in the thread `{}`", row.name),
            format!("stead thread status {}", row.name),
        )
    }
}

/// What was made of a thread and a branch.
enum Made {
    Commit(Oid, LandedHow),
    Conflicts(Vec<Vec<u8>>),
}

/// What becomes of changes that are not committed where a branch is checked out that moves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Uncommitted {
    /// Where there are any, it does not move.
    IsRefused,
    /// They stay, if no file that differs has one.
    Stays,
}

/// The worktree that has a branch, if one has it. One that cannot be brought along is refused. Blocks.
pub(super) fn checkout_of(
    objects: &Objects,
    branch: &str,
    changes: Uncommitted,
) -> Result<Option<ByteString>, ErrorObject> {
    let is_in = |dir: &Path| format!("the branch `{branch}` is checked out in `{}`", dir.display());
    match land::checkout(objects, branch).map_err(|error| from_store(&error))? {
        Checkout::None => Ok(None),
        Checkout::Clean(dir) => Ok(Some(ByteString::from(dir.as_path()))),
        Checkout::Dirty(dir) if changes == Uncommitted::Stays => Ok(Some(ByteString::from(dir.as_path()))),
        Checkout::Dirty(dir) => Err(conflict(
            format!("{}, with changes that are not committed", is_in(&dir)),
            format!("git -C {} stash, or commit them", dir.display()),
        )),
        Checkout::Unfinished(dir) => Err(conflict(
            format!("{}, where a merge or the like is not concluded", is_in(&dir)),
            format!("git -C {} status", dir.display()),
        )),
        Checkout::Away(dir) => {
            Err(conflict(format!("{}, which is not there now", is_in(&dir)), "git worktree list".to_owned()))
        }
    }
}
