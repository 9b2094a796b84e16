//! From handles to nodes of `vfs`, and back.

use std::sync::Arc;

use nfs3_types::nfs3::{Nfs3Option, nfs_fh3, post_op_attr, post_op_fh3, wcc_data};
use vfs::Vfs;
use vfs::errno::Errno;
use vfs::file::{Attributes, FileId, Kind};
use vfs::source::Source;
use vfs::table::Ino;
use vfs::vfs::{Looked, View};

use super::Server;
use super::handle::{self, Handle};
use super::places::Whereabouts;
use super::status::Outcome;

/// How far a file may be from the nearest directory that is known: the depth of the deepest path there is.
const DEPTH_MAX: usize = 16 << 10;

/// A node that stays in the table for as long as a call uses it.
pub struct Held<S: Source> {
    vfs: Arc<Vfs<S>>,
    /// The node.
    pub ino: Ino,
    /// The file.
    pub id: FileId,
}

impl<S: Source> Drop for Held<S> {
    fn drop(&mut self) {
        self.vfs.forget(self.ino, 1);
    }
}

impl<S: Source> Server<S> {
    /// Takes over the lookup that a view counts as.
    pub fn hold(&self, view: &View) -> Held<S> {
        Held { vfs: self.vfs.clone(), ino: view.ino, id: view.id }
    }

    /// The root of the mount.
    pub fn root(&self) -> Outcome<Held<S>> {
        Ok(self.known(self.vfs.root()?).ok_or(Errno::ESTALE)?)
    }

    /// The node that a client's handle names: from the table or, when that has forgotten it, from where it was last
    /// seen. `NFS3ERR_STALE` when it is there no more.
    pub async fn node(&self, handle: &Handle) -> Outcome<Held<S>> {
        let id = handle.file(self.key)?;
        if let Some(held) = self.known(id) {
            if self.has_name(held.ino) {
                return Ok(held);
            }
            return Ok(self.find(id).await.unwrap_or(held));
        }
        Ok(self.find(id).await?)
    }

    /// The node, if the table has it.
    pub fn known(&self, id: FileId) -> Option<Held<S>> {
        let ino = self.vfs.revisit(id)?;
        Some(Held { vfs: self.vfs.clone(), ino, id })
    }

    fn has_name(&self, ino: Ino) -> bool {
        ino == Ino::ROOT || self.vfs.name_of(ino).is_some()
    }

    /// Goes to where the file was last seen, from the nearest directory that is known.
    async fn find(&self, id: FileId) -> Result<Held<S>, Errno> {
        let mut way: Vec<(FileId, Whereabouts)> = Vec::new();
        let mut at = id;
        let mut held = loop {
            let whereabouts = self.whereabouts(at).ok_or(Errno::ESTALE)?;
            let directory = whereabouts.directory;
            way.push((at, whereabouts));
            if let Some(held) = self.known(directory)
                && self.has_name(held.ino)
            {
                break held;
            }
            if way.len() >= DEPTH_MAX {
                return Err(Errno::ESTALE);
            }
            at = directory;
        };
        while let Some((wanted, whereabouts)) = way.pop() {
            let looked = self.vfs.lookup(held.ino, &whereabouts.name).await;
            let view = match looked {
                Ok(Looked::Present(view)) => view,
                Ok(Looked::Absent(_)) | Err(Errno::ENOENT | Errno::ENOTDIR) => return Err(Errno::ESTALE),
                Err(errno) => return Err(errno),
            };
            let next = self.hold(&view);
            if next.id != wanted {
                return Err(Errno::ESTALE);
            }
            held = next;
        }
        Ok(held)
    }

    fn whereabouts(&self, id: FileId) -> Option<Whereabouts> {
        match self.places.lock().find(id) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the table of file handles could not be read");
                None
            }
        }
    }

    /// Keeps where a file is, so that its handle can be given out.
    pub fn remember(&self, view: &View, directory: FileId, name: &[u8]) {
        self.remember_file(view.id, view.attributes.kind, directory, name);
    }

    /// [`Server::remember`] of what is not seen through a view.
    pub fn remember_file(&self, file: FileId, kind: Kind, directory: FileId, name: &[u8]) {
        let mut places = self.places.lock();
        places.remember(file, kind == Kind::Directory, directory, name);
        if let Err(error) = places.write() {
            tracing::error!(%error, "handles given out now may be stale after a restart");
        }
    }

    /// Keeps that a file has lost a name.
    pub fn name_lost(&self, file: &Held<S>, directory: FileId, name: &[u8]) {
        let mut places = self.places.lock();
        if !places.forget(file.id, directory, name) {
            return;
        }
        let other = self
            .vfs
            .name_of(file.ino)
            .filter(|other| *other.1 != *name || self.vfs.id(other.0) != Ok(directory));
        if let Some((directory, name)) = other
            && let Ok(directory) = self.vfs.id(directory)
        {
            places.remember(file.id, false, directory, &name);
        }
        if let Err(error) = places.write() {
            tracing::warn!(%error, "a removed file is not forgotten");
        }
    }

    /// The handle of a file whose place is kept.
    pub fn handle(&self, id: FileId) -> nfs_fh3 {
        handle::handle(self.key, id)
    }

    /// [`Server::handle`] where the protocol has it optional.
    pub fn some_handle(&self, id: FileId) -> post_op_fh3 {
        Nfs3Option::Some(self.handle(id))
    }

    /// A node's attributes.
    pub async fn attributes(&self, of: &Held<S>) -> Outcome<Attributes> {
        Ok(self.vfs.attributes(of.ino.into()).await?.0)
    }

    /// Attributes that go along with an answer.
    pub fn some_attributes(&self, id: FileId, attributes: &Attributes) -> post_op_attr {
        Nfs3Option::Some(self.file_system.attributes(id, attributes))
    }

    /// A node's attributes, if they are at hand.
    pub fn attributes_at_hand(&self, of: &Held<S>) -> post_op_attr {
        match self.vfs.attributes_at_hand(of.ino) {
            Some(attributes) => self.some_attributes(of.id, &attributes),
            None => Nfs3Option::None,
        }
    }

    /// What became of a node by a change. Those from before it are left out: the protocol wants both only if nothing
    /// can have come in between, and that only the machine could say.
    pub fn after(&self, of: &Held<S>) -> wcc_data {
        wcc_data { before: Nfs3Option::None, after: self.attributes_at_hand(of) }
    }
}
