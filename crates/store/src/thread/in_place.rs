//! What is ignored in the working copy that a thread was made from, seen in place: `.env`, `node_modules`, `target`.
//!
//! ```text
//!  graft(directory, name) = path        said once, when the thread is made: what git calls ignored there, topmost names only
//!  in place(directory)    = path        a directory that was looked into: its names are those there, too
//!
//!  a name:   nobody's ──there is something──► numbered, in place ──changed here──► the thread's own ──removed──► whiteout
//!               ▲                                  │    │                              ▲
//!               └──────────gone there──────────────┘    └────────removed here──────────┼──────────────────────► whiteout
//!                                                                       made here ─────┘
//! ```
//!
//! Rules:
//!
//! - **Nothing is written there**, whatever is done here. A file is copied up before anything of it is changed, its name, mode and
//!   attributes too; of a directory only what is said of it, not what is in it; so a directory is renamed without copying.
//! - **Nothing is looked at before somebody asks.** Making a thread costs one git, and a record for each topmost name. A file has a number
//!   when its name was looked up or listed.
//! - **What is in place is as it is there at the moment.** Who asks is told what `stat` says there. What goes there goes here; a file
//!   that takes another's place there is another file here. A directory is the same as long as there is one.
//! - **What was changed here stays**, whatever becomes of it there. All directories above it are the thread's own with it, so none of them
//!   goes. A name that was removed here is a whiteout, if there was something.
//! - **No copy is torn.** What was changed while it was copied is copied again; what never stands still is refused. That is seen by its
//!   times and size: of what somebody writes through a mapping they say nothing for a moment.
//! - **git never hears of it.** No name at or below a graft is told of as changed, whoever's it is now. A directory that was moved out of
//!   one is told of, without what is in it.
//! - A name of the base is never a graft. A directory is seen only if the one that it is in is of the base, or is seen.
//! - Not seen: repositories and worktrees within the working copy, what is mounted in it, fifos, sockets, devices; extended attributes;
//!   that two names are of one file. See [`WorkingCopy`].
//!
//! Of a node that is in place the log says how it was when it was numbered; only its kind and its number there are relied on.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::content::{ALL, copy_whole};
use super::{Locked, Thread};
use crate::error::fails;
use crate::git::pause;
use crate::names::change::Change;
use crate::names::{Directory, Named};
use crate::node::{Content, InPlace, Ino, Kind, LINK_BYTES_MAX, Name, Node, check_name};
use crate::working_copy::{Seen, WorkingCopy, look_at};
use crate::worktree::POINTER;
use crate::{Refusal, Result};

/// Topmost names that are ignored: more than objects of any build beside their sources.
const GRAFTS_MAX: usize = 1 << 19;

/// Changes of one record: with the longest names and paths, below the longest record.
const CHANGES_AT_ONCE: usize = 96;

/// Files that may be numbered at once, since each takes some 500 bytes of memory as long as it is there: more than any tool makes. Who
/// looks up more is refused.
pub(super) const IN_PLACE_MAX: usize = 1 << 20;

/// Directories that may lie in each other there: a change in the last one makes all of them the thread's own, in one record.
const DEPTH_MAX: usize = 128;

/// How often a file is copied that is changed meanwhile.
const COPIES_MAX: usize = 8;

/// What was changed so shortly ago may be changed again and have the same times: longer than the tick of any clock that files are dated
/// by.
const TICK: Duration = Duration::from_millis(12);

impl Thread {
    /// Has what is ignored in a working copy be seen in place, from now on for good. Asks git; looks at none of it.
    pub fn see_ignored(&self, copy: &WorkingCopy) -> Result<()> {
        let ignored = copy.ignored()?;
        if ignored.len() > GRAFTS_MAX {
            return Err(self.objects.git_failed("look for what is ignored", "it is too much".to_owned()));
        }
        let root = copy.root().as_os_str().as_bytes();
        if root.len() > LINK_BYTES_MAX {
            return Err(Refusal::NameTooLong.into());
        }
        let mut changes = vec![Change::WorkingCopy { path: root.into() }];
        {
            let mut locked = self.locked();
            for path in ignored {
                changes.extend(locked.graft(&path)?);
            }
            for changes in changes.chunks(CHANGES_AT_ONCE) {
                locked.commit(changes.to_vec())?;
            }
        }
        if self.copy.set(WorkingCopy::at(copy.root())).is_err() {
            tracing::warn!(path = %self.directory.display(), "a thread has its working copy twice");
        }
        Ok(())
    }

    /// Whether anything of a working copy may be seen in the thread.
    pub fn sees_in_place(&self) -> bool {
        self.copy.get().is_some()
    }

    /// Whether names may come and go in a directory that nobody changes here.
    pub fn is_directory_in_place(&self, directory: Ino) -> bool {
        self.may_be(directory, |in_it| in_it.in_place().is_some() || !in_it.grafts().is_empty())
    }

    /// Whether a file of the name may be seen in a directory later, although nobody makes one here.
    pub fn may_appear(&self, directory: Ino, name: &[u8]) -> bool {
        self.may_be(directory, |in_it| in_it.path_in_place(name).is_some() && in_it.named(name).is_none())
    }

    /// Whether something is so of a directory in which something of a working copy may be seen. Of one that is not known it may be.
    fn may_be(&self, directory: Ino, is_so: impl FnOnce(&Directory) -> bool) -> bool {
        self.sees_in_place() && self.locked().state.names.directory(directory).is_none_or(is_so)
    }

    /// Makes a file that is seen in place the thread's own.
    pub(super) fn take_over(&self, ino: Ino) -> Result<()> {
        let Some(copy) = self.copy.get() else { return Ok(()) };
        let node = self.locked().node(ino)?;
        let Some(below) = node.in_place() else { return Ok(()) };
        match below.kind {
            Kind::Directory => {
                let mut locked = self.locked();
                let mut changes = Vec::new();
                locked.pin(ino, &mut changes);
                // Somebody may have been faster.
                if changes.is_empty() { Ok(()) } else { locked.commit(changes) }
            }
            Kind::Symlink => {
                let target = copy.read_link(&below.path)?.ok_or(Refusal::Stale)?;
                let mut locked = self.locked();
                let node = Node { content: Content::Symlink(target.into()), ..locked.node(ino)? };
                let mut changes = vec![Change::Node { ino, node }];
                locked.pin(below.directory, &mut changes);
                locked.commit(changes)
            }
            _ => self.copy_up(ino, ALL),
        }
    }

    /// The same for the file of a name, if there is one: before the name is changed.
    pub(super) fn take_over_named(&self, directory: Ino, name: &[u8]) -> Result<()> {
        if !self.sees_in_place() {
            return Ok(());
        }
        let found = {
            let mut locked = self.locked();
            locked.look_into(directory)?;
            locked.child(directory, name)?
        };
        found.map_or(Ok(()), |ino| self.take_over(ino))
    }

    /// What is in a file that is seen in place.
    pub(super) fn open_in_place(&self, below: &InPlace) -> Result<(File, Seen)> {
        let opened = self.copy.get().ok_or(Refusal::Stale)?.open(&below.path)?;
        Ok(opened.filter(|(_, seen)| is_it(below, seen)).ok_or(Refusal::Stale)?)
    }

    /// Copies as much of it as is to be kept, whole. Says what was copied.
    pub(super) fn copy_in_place(
        &self,
        below: &InPlace,
        kept: u64,
        to: &mut File,
        path: &Path,
    ) -> Result<Seen> {
        let look = |file: &File| look_at(file).map_err(fails("look at", path));
        for _ in 0..COPIES_MAX {
            let (mut file, before) = self.open_in_place(below)?;
            if is_recent(&before) {
                pause(TICK);
            }
            // Whoever changes it from here on is seen.
            let before = if is_recent(&before) { look(&file)? } else { before };
            if is_recent(&before) {
                continue;
            }
            copy_whole(&mut file, (kept, before.size), to, path)?;
            let after = look(&file)?;
            if (after.size, after.modified, after.changed) == (before.size, before.modified, before.changed) {
                return Ok(before);
            }
        }
        Err(Refusal::Changing.into())
    }

    fn look(&self, path: &[u8]) -> Result<Option<Seen>> {
        self.copy.get().map_or(Ok(None), |copy| copy.look(path))
    }
}

/// Whether what has this name there may have it here. Some file systems have longer ones than a thread's log takes, and a repository's
/// own directory is not seen.
fn can_be_shown(name: &[u8]) -> bool {
    name != POINTER && check_name(name).is_ok()
}

impl Locked<'_> {
    /// Where an ignored path is seen; `None` if it is not.
    fn graft(&mut self, path: &[u8]) -> Result<Option<Change>> {
        if !is_shown(path) {
            return Ok(None);
        }
        let mut names = path.split(|byte| *byte == b'/');
        let (mut directory, Some(mut name)) = (Ino::ROOT, names.next()) else { return Ok(None) };
        for next in names {
            self.look_into(directory)?;
            let Some(below) = self.child(directory, name)? else { return Ok(None) };
            if !self.node(below)?.is_directory() {
                return Ok(None);
            }
            (directory, name) = (below, next);
        }
        self.look_into(directory)?;
        let is_free = check_name(name).is_ok() && self.child(directory, name)?.is_none();
        Ok(is_free.then(|| Change::Graft { directory, name: name.into(), path: path.into() }))
    }

    /// A node as it is at the moment.
    pub(super) fn seen(&self, node: Node) -> Result<Node> {
        let Some(below) = node.in_place() else { return Ok(node) };
        let seen = self.thread.look(&below.path)?.filter(|seen| is_it(below, seen)).ok_or(Refusal::Stale)?;
        let links = node.links;
        Ok(Node { links, ..node_of(below.clone(), &seen) })
    }

    /// Has a name stand for what is there at the moment, where it is not the thread's own.
    pub(super) fn meet(&mut self, directory: Ino, name: &[u8]) -> Result<()> {
        if !self.thread.sees_in_place() {
            return Ok(());
        }
        let Some(path) = self.directory(directory)?.path_in_place(name) else { return Ok(()) };
        if self.is_removed(directory) {
            return Ok(());
        }
        if !can_be_shown(name) || !is_shown(&path) || self.is_own(directory, name)? {
            return Ok(());
        }
        let seen = self.thread.look(&path)?;
        self.meet_with(directory, name, seen)?;
        match seen {
            Some(seen) if self.directory(directory)?.named(name).is_none() => {
                self.number(directory, vec![(name.into(), path, seen)])
            }
            _ => Ok(()),
        }
    }

    /// The same of all names of a directory.
    pub(super) fn meet_all(&mut self, directory: Ino) -> Result<()> {
        let Some(copy) = self.thread.copy.get() else { return Ok(()) };
        let in_it = self.directory(directory)?;
        let above = in_it.in_place().map(Box::<[u8]>::from);
        let grafts: Vec<Name> = in_it.grafts().keys().cloned().collect();
        for name in grafts {
            self.meet(directory, &name)?;
        }
        let Some(above) = above.filter(|_| !self.is_removed(directory)) else { return Ok(()) };
        let mut there = copy.list(&above)?;
        there.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let find = |name: &Name| there.binary_search_by(|(other, _)| other.cmp(name)).ok();
        let known: Vec<Name> = self.directory(directory)?.names().map(|(name, _)| name.clone()).collect();
        for name in known {
            if !self.is_own(directory, &name)? {
                self.meet_with(directory, &name, find(&name).map(|place| there[place].1))?;
            }
        }
        let in_it = self.directory(directory)?;
        there.retain(|(name, _)| in_it.named(name).is_none());
        let fresh = there.into_iter().map(|(name, seen)| {
            let path: Box<[u8]> = [&above, &b"/"[..], &name].concat().into();
            (name, path, seen)
        });
        let fresh = fresh.filter(|(name, path, _)| can_be_shown(name) && is_shown(path)).collect();
        self.number(directory, fresh)
    }

    /// Whether a directory has no name any more, so that nothing comes into it.
    fn is_removed(&self, directory: Ino) -> bool {
        self.state.names.node(directory).is_some_and(|node| node.links == 0)
    }

    /// Whether a name is the thread's: a file of its own, or a whiteout.
    fn is_own(&self, directory: Ino, name: &[u8]) -> Result<bool> {
        Ok(match self.directory(directory)?.named(name) {
            Some(Named { ino: Some(ino), .. }) => {
                self.state.names.node(ino).is_none_or(|node| node.in_place().is_none())
            }
            Some(Named { ino: None, .. }) => true,
            None => false,
        })
    }

    /// Lets go of what a name stood for, if that is not what is there.
    fn meet_with(&mut self, directory: Ino, name: &[u8], seen: Option<Seen>) -> Result<()> {
        let Some(ino) = self.directory(directory)?.named(name).and_then(|named| named.ino) else {
            return Ok(());
        };
        let below = self.state.names.node(ino).and_then(Node::in_place);
        if below.is_none_or(|below| seen.is_some_and(|seen| is_it(below, &seen))) {
            return Ok(());
        }
        let mut changes = Vec::new();
        self.gone_below(directory, name, ino, &mut changes);
        changes.chunks(CHANGES_AT_ONCE).try_for_each(|changes| self.commit(changes.to_vec()))
    }

    /// What lets go of a file and all below it, that first. None of it is the thread's own: else the directory above would be.
    fn gone_below(&self, directory: Ino, name: &[u8], ino: Ino, changes: &mut Vec<Change>) {
        if let Some(in_it) = self.state.names.directory(ino) {
            for (name, named) in in_it.names() {
                if let Some(below) = named.ino {
                    self.gone_below(ino, name, below, changes);
                }
            }
        }
        changes.push(Change::Unnamed { directory, name: name.into() });
        changes.push(Change::Gone { ino });
    }

    /// Gives numbers to files that were found in a directory.
    fn number(&mut self, directory: Ino, found: Vec<(Name, Box<[u8]>, Seen)>) -> Result<()> {
        if self.state.names.in_place() + found.len() > self.thread.in_place_max {
            return Err(Refusal::TooManySeen.into());
        }
        for found in found.chunks(CHANGES_AT_ONCE / 2) {
            let mut cookie = self.directory(directory)?.next_cookie();
            let mut next = self.state.names.next();
            let mut changes = Vec::with_capacity(found.len() * 2);
            for (name, path, seen) in found {
                let (kind, number, ino) = (seen.kind, seen.number, Ino(next));
                let below = InPlace { kind, directory, number, path: path.clone() };
                changes.push(Change::Node { ino, node: node_of(Arc::new(below), seen) });
                changes.push(Change::Name { directory, name: name.clone(), ino, cookie });
                (cookie, next) = (cookie + 1, next + 1);
            }
            self.commit(changes)?;
        }
        Ok(())
    }

    /// Has a directory that is seen in place, and all above it, be the thread's own.
    pub(super) fn pin(&self, directory: Ino, changes: &mut Vec<Change>) {
        let mut at = directory;
        while let Some(node) = self.state.names.node(at)
            && let Some(below) = node.in_place()
        {
            let above = below.directory;
            // What has gone there stays as it was.
            let now = self.seen(node.clone()).unwrap_or_else(|_| node.clone());
            changes.push(Change::Node { ino: at, node: Node { content: Content::Directory, ..now } });
            if self.state.names.directory(at).is_none() {
                changes.push(Change::Directory { ino: at, parent: above, tree: None, first: 0, count: 0 });
                changes.push(Change::InPlace { directory: at, path: below.path.clone() });
            }
            at = above;
        }
    }

    /// Whether a name was removed that something is seen by, and would be again.
    pub(super) fn would_return(&self, directory: Ino, name: &[u8]) -> Result<bool> {
        match self.directory(directory)?.path_in_place(name) {
            Some(_) if !self.is_own(directory, name)? => Ok(true),
            Some(path) => {
                Ok(self.directory(directory)?.grafts().contains_key(name)
                    || self.thread.look(&path)?.is_some())
            }
            None => Ok(false),
        }
    }

    /// Whether git is not to hear of what is in a directory.
    pub(super) fn is_hidden(&self, directory: Ino) -> bool {
        let mut at = directory;
        while at != Ino::ROOT {
            let Some(in_it) = self.state.names.directory(at) else { return false };
            if in_it.in_place().is_some() {
                return true;
            }
            let Some(above) = self.state.names.directory(in_it.parent) else { return false };
            let is_it = |name: &Name| above.named(name).is_some_and(|named| named.ino == Some(at));
            if above.grafts().keys().any(is_it) {
                return true;
            }
            at = in_it.parent;
        }
        false
    }
}

/// Whether a path can be said in a record, with those of all directories above it in the same.
fn is_shown(path: &[u8]) -> bool {
    path.len() <= LINK_BYTES_MAX && path.iter().filter(|byte| **byte == b'/').count() < DEPTH_MAX
}

/// Whether what is there is what was numbered.
fn is_it(below: &InPlace, seen: &Seen) -> bool {
    below.kind == seen.kind && (below.kind == Kind::Directory || below.number == seen.number)
}

fn node_of(below: Arc<InPlace>, seen: &Seen) -> Node {
    let Seen { mode, uid, gid, size, accessed, modified, changed, .. } = *seen;
    let content = Content::InPlace { below, size };
    Node { content, mode, uid, gid, links: 1, device: 0, accessed, modified, changed }
}

fn is_recent(seen: &Seen) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::new(u64::try_from(seen.changed.seconds).unwrap_or(0), seen.changed.nanoseconds);
    // A clock that was put back says nothing.
    changed <= now && now < changed.saturating_add(TICK)
}

#[cfg(test)]
mod tests;
