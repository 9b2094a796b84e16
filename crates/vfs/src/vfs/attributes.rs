//! Attributes, extended attributes, space.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Vfs;
use crate::errno::{Errno, Result};
use crate::file::{AttributeChanges, Attributes, Entry, SetTime, Space, XattrMode};
use crate::source::{HandleId, Source, Target};
use crate::table::{Believe, Ino, Moment, Write};

/// For how long what a far source said of its space is given again: others fill the disk too, but few look twice in so
/// short a time.
const SPACE_MS: u64 = 5_000;

/// Of how many file systems of one mount the space is known.
const FILE_SYSTEMS_MAX: usize = 64;

/// What the kernel has to take from a file before it changes the content.
const CAPABILITIES: &[u8] = b"security.capability";

/// What a file system said of its space.
#[derive(Debug)]
pub(super) struct KnownSpace {
    space: Space,
    at: Moment,
    /// The table's clock before it was asked.
    clock: u64,
}

/// What attributes are asked of or set on: a node, through an open handle where the caller has one.
#[derive(Clone, Copy, Debug)]
pub struct AttributeTarget {
    /// The node.
    pub ino: Ino,
    /// A handle that has it open, whose rights then count.
    pub handle: Option<HandleId>,
}

impl From<Ino> for AttributeTarget {
    fn from(ino: Ino) -> AttributeTarget {
        AttributeTarget { ino, handle: None }
    }
}

impl<S: Source> Vfs<S> {
    /// `stat(2)`. While writes of the node are under way it waits for them: sizes and times are the source's.
    pub async fn attributes(self: &Arc<Self>, of: AttributeTarget) -> Result<(Attributes, Believe)> {
        let ino = of.ino;
        self.caught_up(ino).await;
        self.all_are_made(Some(ino)).await;
        let stamp = {
            let table = self.table.lock();
            if let Some(believed) = table.attributes(ino, self.now())? {
                return Ok(believed);
            }
            table.stamp(ino)?
        };
        let is_looked_into = of.handle.is_none() && self.is_worth_looking_into(ino);
        let entry = match is_looked_into {
            true => tokio::join!(self.stat(of), self.look_into(ino)).0?,
            false => self.stat(of).await?,
        };
        self.is_of(ino, &entry)?;
        self.learn(|table, notices| {
            if is_looked_into && let Some(believed) = table.attributes(ino, self.now())? {
                return Ok(believed);
            }
            let believe = table.learn_attributes(ino, entry.attributes, stamp, self.now(), notices)?;
            Ok((entry.attributes, believe))
        })
    }

    /// Who asks for the attributes of a far directory in which nothing was asked for is about to ask for a name in it.
    fn is_worth_looking_into(&self, ino: Ino) -> bool {
        let is_far = !self.near.load(Ordering::Relaxed);
        is_far && self.options.list_after.is_some() && self.table.lock().is_new_ground(ino)
    }

    /// The attributes, if they are believed and nothing is under way: for what goes along with an answer for free.
    pub fn attributes_at_hand(&self, ino: Ino) -> Option<Attributes> {
        let believed = self.table.lock().attributes(ino, self.now()).ok()?;
        believed.map(|(attributes, _)| attributes)
    }

    /// The attributes as they were last seen, believed or not: for what does not change, or to look at while writes are
    /// under way.
    pub fn last_attributes(&self, ino: Ino) -> Result<Attributes> {
        self.table.lock().last_attributes(ino)
    }

    async fn stat(self: &Arc<Self>, of: AttributeTarget) -> Result<Entry> {
        let of = self.without_opening(of)?;
        let target = self.attribute_target(of).await;
        let tried = if let Ok(Target::Place(place)) = &target { Some(place.clone()) } else { None };
        let outcome = match target {
            Ok(target) => self.source.stat(target).await,
            Err(errno) => Err(errno),
        };
        let at = |place| self.source.stat(Target::Place(place));
        let outcome = match of.handle {
            None => self.or_elsewhere(of.ino, tried.as_ref(), outcome, at).await,
            Some(_) => outcome,
        };
        if let (Err(Errno::ESTALE | Errno::ENOENT), Some(gone)) = (&outcome, self.gone_but_here(of.ino)) {
            return Ok(gone);
        }
        let is_elsewhere = match outcome {
            Err(Errno::ESTALE | Errno::ENOENT) => true,
            Err(Errno::EBADF) => of.handle.is_none(),
            _ => false,
        };
        if !is_elsewhere {
            return self.checked(of.ino, outcome);
        }
        // The name leads elsewhere by now, but the file may be open. Its handle is somebody else's, who may be closing it
        // at this moment: then there may be another.
        let mut tried = None;
        while let Some(handle) = self.any_handle(of.ino).filter(|handle| tried != Some(*handle)) {
            tried = Some(handle);
            match self.source.stat(Target::Handle(handle)).await {
                Err(Errno::EBADF) => {}
                outcome => return self.checked(of.ino, outcome),
            }
        }
        self.checked(of.ino, Err(Errno::ESTALE))
    }

    /// What a file is that is open here alone, its place tells too.
    fn without_opening(&self, of: AttributeTarget) -> Result<AttributeTarget> {
        match of.handle {
            Some(handle) if self.open_file(handle)?.is_here_alone() => Ok(of.ino.into()),
            _ => Ok(of),
        }
    }

    /// A file that is not where it was, if it is open here and no handle of it is open at the source: as it was last, but
    /// that no name leads to it, and as long as what is shown of it.
    fn gone_but_here(&self, ino: Ino) -> Option<Entry> {
        if self.any_handle(ino).is_some() || self.handles_here(ino).is_empty() {
            return None;
        }
        let size = self.size_kept(ino)?;
        let table = self.table.lock();
        let attributes = Attributes { links: 0, size, ..table.last_attributes(ino).ok()? };
        Some(Entry { id: table.id(ino).ok()?, attributes })
    }

    async fn attribute_target(self: &Arc<Self>, of: AttributeTarget) -> Result<Target> {
        match of.handle {
            Some(handle) => {
                let open = self.open_file(handle)?;
                self.opened(&open).await?;
                Ok(Target::Handle(handle))
            }
            None => self.target(of.ino),
        }
    }

    /// `chmod(2)`, `chown(2)`, `truncate(2)`, `utimensat(2)`, in one.
    pub async fn set_attributes(
        self: &Arc<Self>,
        of: AttributeTarget,
        changes: AttributeChanges,
    ) -> Result<Attributes> {
        let ino = of.ino;
        self.caught_up(ino).await;
        self.record_done();
        // Behind what is in a directory come its own times, and who may come in.
        self.all_are_made(Some(ino)).await;
        if changes.mode.is_some() || changes.uid.is_some() || changes.gid.is_some() {
            self.table.lock().doubt_makers(ino);
            self.opened_all(ino).await;
        }
        let target = self.attribute_target(of).await?;
        let is_of_content = changes.size.is_some() || changes.modified != SetTime::Keep;
        let what = if is_of_content { Write::Content } else { Write::Attributes };
        let writing = self.begin_write(ino, what);
        let outcome = self.source.set_attributes(target, changes).await;
        let entry = self.checked(ino, outcome)?;
        self.is_of(ino, &entry)?;
        writing.end(Some(entry.attributes));
        if changes.size.is_some() {
            self.content_changed(ino);
        }
        Ok(entry.attributes)
    }

    /// Waits until everything written to the node until now is at the source.
    pub(super) async fn caught_up(&self, ino: Ino) {
        let file = self.files.lock().get(&ino).cloned();
        if let Some(file) = file {
            file.behind.caught_up().await;
        }
    }

    /// A reply must be about the node that was asked for.
    fn is_of(&self, ino: Ino, entry: &Entry) -> Result<()> {
        let table = self.table.lock();
        let is_same = table.id(ino)? == entry.id && table.kind(ino)? == entry.attributes.kind;
        drop(table);
        self.checked(ino, if is_same { Ok(()) } else { Err(Errno::ESTALE) })
    }

    /// `statfs(2)`. Of a far source, what it said up to five seconds ago unless something has changed since, as far as is
    /// known here: programs that walk a tree ask for the type of its file system again and again.
    pub async fn space(&self, ino: Ino) -> Result<Space> {
        let (device, clock, place) = {
            let table = self.table.lock();
            // A node without a name is on some file system of the mount: the root's is the best guess.
            let ino = if table.place(ino).is_ok() { ino } else { Ino::ROOT };
            (table.id(ino)?.device, table.clock(), table.place(ino)?)
        };
        let is_far = !self.near.load(Ordering::Relaxed);
        let at = self.now();
        if is_far
            && let Some(known) = self.spaces.lock().get(&device)
            && known.clock == clock
            && at.0.saturating_sub(known.at.0) < SPACE_MS
        {
            return Ok(known.space);
        }
        let space = self.source.space(place).await?;
        let mut spaces = self.spaces.lock();
        if spaces.len() >= FILE_SYSTEMS_MAX {
            spaces.clear();
        }
        spaces.insert(device, KnownSpace { space, at, clock });
        Ok(space)
    }

    /// `lgetxattr(2)`.
    pub async fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        if self.expected.has(ino) && name == CAPABILITIES {
            // The kernel asks before each first write, and no new file has any.
            return Err(Errno::ENODATA);
        }
        self.node_is_made(ino).await;
        if self.has_no_xattrs(ino)? {
            return Err(Errno::ENODATA);
        }
        let target = self.target(ino)?;
        self.source.get_xattr(target, Bytes::copy_from_slice(name)).await
    }

    /// `llistxattr(2)`: the names, each ended by a NUL.
    pub async fn list_xattrs(&self, ino: Ino) -> Result<Bytes> {
        self.node_is_made(ino).await;
        if self.has_no_xattrs(ino)? {
            return Ok(Bytes::new());
        }
        let target = self.target(ino)?;
        self.source.list_xattrs(target).await
    }

    fn has_no_xattrs(&self, ino: Ino) -> Result<bool> {
        let believed = self.table.lock().attributes(ino, self.now())?;
        Ok(believed.is_some_and(|(attributes, _)| !attributes.xattrs))
    }

    /// `lsetxattr(2)`.
    pub async fn set_xattr(
        self: &Arc<Self>,
        ino: Ino,
        name: &[u8],
        value: Bytes,
        mode: XattrMode,
    ) -> Result<()> {
        self.may_let_others_in(ino).await;
        let target = self.target(ino)?;
        let writing = self.begin_write(ino, Write::Attributes);
        let outcome = self.source.set_xattr(target, Bytes::copy_from_slice(name), value, mode).await;
        writing.end(Some(self.checked(ino, outcome)?.attributes));
        Ok(())
    }

    /// An access list may be about to change, and with it who may open the file, or make files in the directory.
    async fn may_let_others_in(self: &Arc<Self>, ino: Ino) {
        self.node_is_made(ino).await;
        self.all_are_made(Some(ino)).await;
        self.table.lock().doubt_makers(ino);
        self.opened_all(ino).await;
    }

    /// `lremovexattr(2)`.
    pub async fn remove_xattr(self: &Arc<Self>, ino: Ino, name: &[u8]) -> Result<()> {
        self.may_let_others_in(ino).await;
        let target = self.target(ino)?;
        let writing = self.begin_write(ino, Write::Attributes);
        let outcome = self.source.remove_xattr(target, Bytes::copy_from_slice(name)).await;
        writing.end(Some(self.checked(ino, outcome)?.attributes));
        Ok(())
    }
}
