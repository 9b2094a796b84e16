//! Operations on names: looking up, making, removing, renaming.

use std::sync::Arc;

use bytes::Bytes;

use super::Vfs;
use crate::errno::{Errno, Result};
use crate::file::{Attributes, Caller, Entry, FileId, Kind, NAME_BYTES_MAX, Name, RenameMode};
use crate::request::is_repeat;
use crate::source::{NewNode, Place, Source};
use crate::table::{Believe, Ino, Known, Ticket};

/// A node as an operation shows it to the kernel. Each one given counts as one lookup, to be given back by
/// [`Vfs::forget`].
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The node.
    pub ino: Ino,
    /// Its identity at the source.
    pub id: FileId,
    /// Its attributes.
    pub attributes: Attributes,
    /// For how long the attributes may be believed.
    pub attributes_for: Believe,
    /// For how long the name may be believed.
    pub name_for: Believe,
}

/// What a name is.
#[derive(Clone, Copy, Debug)]
pub enum Looked {
    /// Nothing, and for how long that may be believed.
    Absent(Believe),
    /// This.
    Present(View),
}

/// A change of a name under way. When it is dropped before its outcome is known, nothing is believed of the name, here or
/// by the kernel.
pub(super) struct Changing<'a, S: Source> {
    vfs: &'a Vfs<S>,
    parent: Ino,
    name: &'a Name,
    /// The other name of a rename within one directory.
    also: Option<&'a Name>,
    begun: Option<Ticket>,
    /// The source has answered: a refusal, if the change is dropped then, and the kernel knows of that.
    pub(super) answered: bool,
}

impl<S: Source> Changing<'_, S> {
    /// What the source will answer is perhaps from before: it is not younger than what others have changed since.
    pub(super) fn is_repeated(&mut self) -> Result<()> {
        self.begun = Some(self.vfs.table.lock().ticket(self.parent)?);
        Ok(())
    }

    pub(super) fn end(mut self) -> Ticket {
        let begun = self.begun.take().expect("a change ends once: `end` takes it");
        self.vfs.table.lock().end_change(self.parent, begun)
    }
}

impl<S: Source> Drop for Changing<'_, S> {
    fn drop(&mut self) {
        let Some(begun) = self.begun.take() else { return };
        self.vfs.learn(|table, notices| {
            table.end_change(self.parent, begun);
            for name in std::iter::once(self.name).chain(self.also) {
                match self.answered {
                    true => table.refused(self.parent, name, notices),
                    false => table.doubt(self.parent, name, notices),
                }
            }
        });
    }
}

/// A change that takes a name from the node. It is over when this is dropped.
struct Leaving<'a, S: Source> {
    vfs: &'a Vfs<S>,
    ino: Ino,
}

impl<S: Source> Drop for Leaving<'_, S> {
    fn drop(&mut self) {
        self.vfs.table.lock().end_leaving(self.ino);
    }
}

/// A lookup that was counted and has not reached the kernel. Dropped, it is taken back.
struct Given<'a, S: Source> {
    vfs: &'a Vfs<S>,
    ino: Ino,
}

impl<S: Source> Given<'_, S> {
    fn keep(self) {
        let _kept = std::mem::ManuallyDrop::new(self);
    }
}

impl<S: Source> Drop for Given<'_, S> {
    fn drop(&mut self) {
        self.vfs.forget(self.ino, 1);
    }
}

/// Whether the source has said what became of a change: done, or refused for a reason that a change half made cannot have.
pub(super) fn is_definite<T>(outcome: &Result<T>) -> bool {
    !matches!(outcome, Err(Errno::EINTR | Errno::EIO | Errno::ETIMEDOUT | Errno::EPROTO))
}

pub(crate) fn checked_name(name: &[u8]) -> Result<Name> {
    match name {
        b"" => Err(Errno::ENOENT),
        _ if name.len() > NAME_BYTES_MAX => Err(Errno::ENAMETOOLONG),
        b"." | b".." => Err(Errno::EINVAL),
        _ if name.iter().any(|b| matches!(b, 0 | b'/')) => Err(Errno::EINVAL),
        _ => Ok(name.into()),
    }
}

impl<S: Source> Vfs<S> {
    /// The root, without a lookup counted.
    pub fn root(&self) -> Result<FileId> {
        self.table.lock().id(Ino::ROOT)
    }

    /// The identity of a node.
    pub fn id(&self, ino: Ino) -> Result<FileId> {
        self.table.lock().id(ino)
    }

    /// What `name` is in `parent`.
    pub async fn lookup(self: &Arc<Self>, parent: Ino, name: &[u8]) -> Result<Looked> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if let Some(looked) = self.looked_up_here(parent, name)? {
            return Ok(looked);
        }
        if self.name_is_made(parent, name).await
            && let Some(looked) = self.looked_up_here(parent, name)?
        {
            return Ok(looked);
        }
        let name = checked_name(name)?;
        if self.get_ahead(parent).await
            && let Some(looked) = self.looked_up_here(parent, &name)?
        {
            return Ok(looked);
        }
        let (place, ticket) = {
            let table = self.table.lock();
            (table.place(parent)?, table.ticket(parent)?)
        };
        let outcome = self.source.lookup(place, name.clone()).await;
        let (entry, lease) = self.checked(parent, outcome)?;
        let looked = self.learn(|table, notices| {
            let known = table.learn(parent, &name, entry, (ticket, lease), self.now(), notices);
            known.and_then(|known| match known {
                Known::Absent(believe) => Ok(Looked::Absent(table.tell_absent(parent, &name, believe))),
                Known::Present(ino, name_for) => {
                    self.view_known(table, (ino, name_for), entry).map(Looked::Present)
                }
            })
        });
        match looked? {
            Looked::Present(view) if view.attributes_for == Believe::Once => self.caught_up_view(view).await,
            looked => Ok(looked),
        }
    }

    /// A view of a file that was being written when the source looked at it is of a size that its writers know to be
    /// wrong: they are waited for, and the source is asked again.
    async fn caught_up_view(self: &Arc<Self>, view: View) -> Result<Looked> {
        if !self.table.lock().is_being_written(view.ino) {
            return Ok(Looked::Present(view));
        }
        let given = Given { vfs: self, ino: view.ino };
        let (attributes, attributes_for) = self.attributes(view.ino.into()).await?;
        given.keep();
        Ok(Looked::Present(View { attributes, attributes_for, ..view }))
    }

    fn looked_up_here(&self, parent: Ino, name: &[u8]) -> Result<Option<Looked>> {
        let now = self.now();
        let mut table = self.table.lock();
        match table.lookup(parent, name, now)? {
            None => Ok(None),
            Some(Known::Absent(believe)) => {
                Ok(Some(Looked::Absent(table.tell_absent(parent, name, believe))))
            }
            Some(Known::Present(ino, name_for)) => {
                let Some((attributes, attributes_for)) = table.attributes(ino, now)? else { return Ok(None) };
                let id = table.id(ino)?;
                table.add_lookup(ino);
                drop(table);
                self.went_into(parent);
                Ok(Some(Looked::Present(View { ino, id, attributes, attributes_for, name_for })))
            }
        }
    }

    /// A name of the directory is about to be asked for: lists it, where one name after the other was, or waits for the
    /// walk that is about to bring it. Whether more may be known now.
    async fn get_ahead(self: &Arc<Self>, directory: Ino) -> bool {
        let after = self.options.list_after;
        let is_worth_listing =
            after.is_some_and(|after| self.table.lock().is_worth_listing(directory, after));
        let is_walked = match is_worth_listing {
            true => self.walk_to(directory).await,
            false => self.wait_for_walk(directory).await,
        };
        if is_worth_listing && !is_walked {
            self.list_ahead(directory).await;
        }
        is_worth_listing || is_walked
    }

    fn view_known(
        &self,
        table: &mut crate::table::Table,
        (ino, name_for): (Ino, Believe),
        entry: Option<Entry>,
    ) -> Result<View> {
        let (attributes, attributes_for) = match (table.attributes(ino, self.now())?, entry) {
            // What is believed is of before: the source has not told of it yet.
            (Some((believed, _)), Some(entry))
                if entry.attributes.changed > believed.changed && !table.is_being_written(ino) =>
            {
                table.doubt_attributes(ino);
                (entry.attributes, Believe::Once)
            }
            (Some(believed), _) => believed,
            (None, Some(entry)) => (entry.attributes, Believe::Once),
            (None, None) => (table.last_attributes(ino)?, Believe::Once),
        };
        let id = table.id(ino)?;
        table.add_lookup(ino);
        Ok(View { ino, id, attributes, attributes_for, name_for })
    }

    /// The kernel has forgotten `count` of the lookups it was given.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.table.lock().forget(ino, count);
        self.commit_much();
    }

    /// The kernel has forgotten these.
    pub fn forget_all(&self, forgotten: impl Iterator<Item = (Ino, u64)>) {
        {
            let mut table = self.table.lock();
            forgotten.for_each(|(ino, count)| table.forget(ino, count));
        }
        self.commit_much();
    }

    /// The node with this identity, if it is known.
    pub fn find(&self, id: FileId) -> Option<Ino> {
        self.table.lock().find(id)
    }

    /// The node with this identity, if it is known, counted as one lookup: for a kernel that comes back with an identity
    /// it was told long ago.
    pub fn revisit(&self, id: FileId) -> Option<Ino> {
        let mut table = self.table.lock();
        let ino = table.find(id)?;
        table.add_lookup(ino);
        Some(ino)
    }

    /// The parent of a directory, and the name that `ino` has there. `None` for the root and for what has no name.
    pub fn name_of(&self, ino: Ino) -> Option<(Ino, Name)> {
        self.table.lock().name_of(ino)
    }

    /// The parent of a directory; the root's is itself.
    pub fn parent(&self, ino: Ino) -> Result<Ino> {
        self.table.lock().parent(ino)
    }

    pub(super) fn change<'a>(&'a self, parent: Ino, name: &'a Name) -> Result<(Place, Changing<'a, S>)> {
        let (place, begun) = {
            let mut table = self.table.lock();
            (table.place(parent)?, table.begin_change(parent)?)
        };
        let mut changing =
            Changing { vfs: self, parent, name, also: None, begun: Some(begun), answered: false };
        if is_repeat() {
            changing.is_repeated()?;
        }
        Ok((place, changing))
    }

    /// Takes in what a change that made `name` came to.
    fn made(
        &self,
        parent: Ino,
        name: &Name,
        (entry, directory): (Entry, Option<Attributes>),
        ticket: Ticket,
    ) -> Result<View> {
        self.learn(|table, notices| {
            let outcome = (Some(entry), directory);
            match table.changed_here(parent, name, outcome, ticket, self.now(), notices)? {
                Known::Absent(_) => Err(Errno::EIO),
                Known::Present(ino, name_for) => self.view_known(table, (ino, name_for), Some(entry)),
            }
        })
    }

    /// Makes `name` by `request` and shows it.
    pub(super) async fn make<T, F>(
        &self,
        parent: Ino,
        name: &[u8],
        request: impl FnOnce(Place, Name) -> F + Send,
        outcome_of: impl FnOnce(&T) -> (Entry, Option<Attributes>) + Send,
    ) -> Result<(View, T)>
    where
        F: Future<Output = Result<T>> + Send,
        T: Send,
    {
        let name = checked_name(name)?;
        self.name_is_made(parent, &name).await;
        let (place, mut changing) = self.change(parent, &name)?;
        let outcome = request(place, name.clone()).await;
        changing.answered = is_definite(&outcome);
        let made = self.checked(parent, outcome)?;
        let ticket = changing.end();
        let view = self.made(parent, &name, outcome_of(&made), ticket)?;
        Ok((view, made))
    }

    /// `symlink(2)`.
    pub async fn symlink(&self, parent: Ino, name: &[u8], contents: Bytes, caller: Caller) -> Result<View> {
        let request = |place, name| self.source.symlink(place, name, contents, caller);
        Ok(self.make(parent, name, request, |entry| (*entry, None)).await?.0)
    }

    /// `mknod(2)`, and `creat(2)` without opening.
    pub async fn make_node(&self, parent: Ino, name: &[u8], node: NewNode, caller: Caller) -> Result<View> {
        let request = |place, name| self.source.make_node(place, name, node, caller);
        Ok(self.make(parent, name, request, |entry| (*entry, None)).await?.0)
    }

    /// `mkdir(2)`.
    pub async fn make_directory(
        self: &Arc<Self>,
        parent: Ino,
        name: &[u8],
        mode: u16,
        caller: Caller,
    ) -> Result<View> {
        let request = |place, name| self.source.make_directory(place, name, mode, caller);
        let (view, _) = self.make(parent, name, request, |entry| (*entry, None)).await?;
        self.own(view.ino, caller);
        Ok(view)
    }

    /// `link(2)`.
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<View> {
        self.node_is_made(ino).await;
        let target = self.target(ino)?;
        let request = |place, name| self.source.link(target, place, name);
        let (view, entry) = self.make(parent, name, request, |entry| (*entry, None)).await?;
        self.table.lock().links_changed(ino, Some(entry));
        Ok(View { attributes: entry.attributes, attributes_for: Believe::Once, ..view })
    }

    /// `readlink(2)`.
    pub async fn read_link(&self, ino: Ino) -> Result<Bytes> {
        let place = self.place(ino)?;
        let outcome = self.source.read_link(place).await;
        self.checked(ino, outcome)
    }

    /// `unlink(2)` or `rmdir(2)`.
    pub async fn remove(self: &Arc<Self>, parent: Ino, name: &[u8], kind: Removal) -> Result<()> {
        let name = checked_name(name)?;
        let _moving = match kind {
            Removal::Directory => Some(self.about_to_move().await),
            Removal::Other => None,
        };
        let _leaving = self.handles_are_open(parent, &name).await;
        // What is known to be made is not to be made again under this name.
        self.record_done();
        let (place, mut changing) = self.change(parent, &name)?;
        let outcome = match kind {
            Removal::Directory => self.source.remove_directory(place, name.clone()).await,
            Removal::Other => self.source.unlink(place, name.clone()).await,
        };
        changing.answered = is_definite(&outcome);
        let removed = self.checked(parent, outcome)?;
        let ticket = changing.end();
        let now = self.now();
        self.learn(|table, notices| {
            let gone = match table.lookup_any(parent, &name) {
                Some(ino) if removed.entry.is_none_or(|entry| table.id(ino) == Ok(entry.id)) => Some(ino),
                _ => None,
            };
            table.changed_here(parent, &name, (None, Some(removed.directory)), ticket, now, notices)?;
            if let Some(ino) = gone {
                table.links_changed(ino, removed.entry);
            }
            Ok(())
        })
    }

    /// `renameat2(2)`.
    pub async fn rename(
        self: &Arc<Self>,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        let (from_name, to_name) = (checked_name(from.1)?, checked_name(to.1)?);
        let _moving = self.about_to_move().await;
        let _leaving = self.handles_are_open(to.0, &to_name).await;
        self.record_done();
        let within = from.0 == to.0;
        let (from_place, mut from_changing) = self.change(from.0, &from_name)?;
        let (to_place, mut to_changing) = if within {
            from_changing.also = Some(&to_name);
            (from_place.clone(), None)
        } else {
            // Nothing has been sent: should the second fail, nothing is in doubt.
            from_changing.answered = true;
            let (place, changing) = self.change(to.0, &to_name)?;
            from_changing.answered = false;
            (place, Some(changing))
        };
        let outcome =
            self.source.rename((from_place, from_name.clone()), (to_place, to_name.clone()), mode).await;
        from_changing.answered = is_definite(&outcome);
        if let Some(changing) = &mut to_changing {
            changing.answered = from_changing.answered;
        }
        let outcome = self.checked(from.0, outcome);
        let renamed = self.checked(to.0, outcome)?;
        let from_ticket = from_changing.end();
        let to_ticket = to_changing.map_or(from_ticket, Changing::end);
        let (from, to) = ((from.0, &from_name, from_ticket), (to.0, &to_name, to_ticket));
        let (exchange, now) = (mode == RenameMode::Exchange, self.now());
        self.learn(|table, notices| match is_repeat() {
            true => table.renamed_again(from, to, exchange, now, notices),
            false => table.renamed_here(from, to, (exchange, Some(renamed)), now, notices),
        });
        Ok(())
    }

    /// Waits until every handle on what `name` is has really been opened, so that it outlives the name. Until what this gives
    /// is dropped, others are opened only when the source has opened them.
    async fn handles_are_open(self: &Arc<Self>, parent: Ino, name: &Name) -> Option<Leaving<'_, S>> {
        let ino = {
            let mut table = self.table.lock();
            let ino = table.lookup_any(parent, name)?;
            table.begin_leaving(ino);
            ino
        };
        let leaving = Leaving { vfs: self, ino };
        self.handles_here(ino).iter().for_each(|open| self.open_now(open));
        let file = self.files.lock().get(&ino).cloned();
        for (_, opening) in file.map(|file| file.openings()).unwrap_or_default() {
            // An open that failed has nothing to lose.
            let _opened = opening.get().await.is_ok();
        }
        Some(leaving)
    }
}

/// What is to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// An empty directory.
    Directory,
    /// Anything else.
    Other,
}

/// Whether a file of this kind has content that can be opened.
pub(super) fn has_content(kind: Kind) -> Result<()> {
    match kind {
        Kind::File => Ok(()),
        Kind::Directory => Err(Errno::EISDIR),
        Kind::Symlink => Err(Errno::ELOOP),
        _ => Err(Errno::ENXIO),
    }
}
