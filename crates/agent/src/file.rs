//! Requests about files.

mod attributes;
mod content;
mod digest;
mod find;
pub(crate) mod listing;
mod many;
mod names;
mod remove_tree;
mod search;
mod walk;
pub(crate) mod writeback;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use wire::agent::file::{Caller, Entry, FileReply, FileRequest, Kind, Target};

use crate::handles::Handle;
use crate::session::{Asked, Outcome, Session, plain};
use crate::stat;

/// How a new file is made: its permission bits before the umask, and for whom.
#[derive(Clone, Copy)]
pub(crate) struct Making {
    pub mode: u16,
    pub caller: Caller,
}

/// A target, found.
pub(crate) enum Found {
    /// By name: an `O_PATH` descriptor.
    Path(Arc<OwnedFd>, Kind),
    Open(Arc<Handle>),
}

impl Found {
    fn entry(&self) -> Result<Entry, Errno> {
        match self {
            Found::Path(file, _) => stat::entry_of_path(file),
            Found::Open(handle) => stat::entry_of_open(&handle.file),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Found::Path(_, kind) => *kind,
            Found::Open(handle) => handle.kind,
        }
    }

    /// A path to the file itself, which is not followed even if it is a symlink.
    fn proc_path(&self) -> String {
        match self {
            Found::Path(file, _) => stat::proc_path(file),
            Found::Open(handle) => stat::proc_path(handle.file.as_fd()),
        }
    }
}

impl Session {
    pub(crate) fn find(&self, target: &Target) -> Result<Found, Errno> {
        match target {
            Target::Place(place) => self.export()?.find(place).map(|(file, kind)| Found::Path(file, kind)),
            Target::Handle(handle) => self.handles.get(*handle).map(Found::Open),
        }
    }

    /// Answers with the attributes after a change, and remembers that the client knows them.
    pub(crate) fn changed(&self, entry: Entry) -> FileReply {
        self.told.file(&entry);
        FileReply::Entry(entry)
    }

    pub(crate) fn file(&self, asked: &Asked<'_>, request: FileRequest, payload: &[u8]) -> Outcome {
        use FileRequest as F;
        match request {
            F::Attach { path, read_only } => self.attach(asked, &path, read_only).into(),
            F::Locate { path, last } => self.locate(&path, last).into(),
            F::Lookup { directory, name } => self.lookup(&directory, &name).into(),
            F::Stat { target } => self
                .find(&target)
                .and_then(|found| found.entry())
                .map(FileReply::Entry)
                .and_then(plain)
                .into(),
            F::SetAttributes { target, changes } => self.set_attributes(asked, &target, &changes).into(),
            F::ReadLink { place } => self.read_link(&place).into(),
            F::Symlink { directory, name, caller } => {
                self.symlink(asked, &directory, &name, &caller, payload).into()
            }
            F::MakeNode { directory, name, kind, mode, device, caller } => {
                let making = Making { mode, caller };
                self.make_node(asked, &directory, &name, making, kind, device).into()
            }
            F::MakeDirectory { directory, name, mode, caller } => {
                self.make_directory(asked, &directory, &name, mode, &caller).into()
            }
            F::Unlink { directory, name } => self.remove(asked, &directory, &name, false).into(),
            F::RemoveDirectory { directory, name } => self.remove(asked, &directory, &name, true).into(),
            F::Rename { from, from_name, to, to_name, mode } => {
                self.rename(asked, &from, &from_name, &to, &to_name, mode).into()
            }
            F::Link { target, directory, name } => self.link(asked, &target, &directory, &name).into(),
            F::Open { place, flags, handle, inline_bytes } => {
                self.open(asked, &place, flags, handle, inline_bytes).into()
            }
            F::Create { directory, name, mode, flags, handle, caller } => {
                let making = Making { mode, caller };
                self.create(asked, &directory, &name, making, flags, handle).into()
            }
            F::CreateUnnamed { directory, mode, flags, handle, caller } => {
                self.create_unnamed(&directory, mode, flags, handle, &caller).into()
            }
            F::Put { directory, name, mode, changes, exclusive, sync, caller } => {
                let how = content::PutHow { making: Making { mode, caller }, exclusive, sync };
                self.put(asked, &directory, &name, how, &changes, payload).into()
            }
            F::PutMany { directory, files, caller } => {
                self.put_many(&directory, &files, &caller, payload).into()
            }
            F::GetMany { directory, names, bytes_max } => self.get_many(&directory, &names, bytes_max).into(),
            F::Read { handle, offset, length } => self.read(asked, handle, offset, length).into(),
            F::Write { handle, at, clear_set_id } => {
                self.write(asked, handle, at, clear_set_id, payload).into()
            }
            F::Sync { target, data_only } => self.sync(&target, data_only).into(),
            F::Close { handle } => self.close(handle).into(),
            F::Allocate { handle, what, offset, length } => {
                self.allocate(asked, handle, what, offset, length).into()
            }
            F::Seek { handle, offset, what } => self.seek(handle, offset, what).into(),
            F::CopyRange { from, from_offset, to, to_offset, length } => {
                self.copy_range(asked, (from, from_offset), (to, to_offset), length).into()
            }
            F::Space { place } => self.space(&place).into(),
            F::GetXattr { target, name } => self.get_xattr(&target, &name).into(),
            F::SetXattr { target, name, mode } => self.set_xattr(asked, &target, &name, mode, payload).into(),
            F::ListXattrs { target } => self.list_xattrs(&target).into(),
            F::RemoveXattr { target, name } => self.remove_xattr(asked, &target, &name).into(),
            F::Lock { handle, owner, lock, wait } => self.lock(asked, handle, owner, lock, wait),
            F::TestLock { handle, owner, lock } => self.test_lock(handle, owner, lock).into(),
            F::ReleaseLocks { handle, owner } => self.release_locks(handle, owner).into(),
            F::List { directory, from, window: _ } => self.list(directory, from),
            F::Walk { directory, from, budget, window: _ } => self.walk(directory, from, budget),
            F::Find { directory, query, window: _ } => self.find_names(&directory, &query),
            F::Search { place, query, window: _ } => self.search(asked, &place, query),
            F::Digest { handle, offset, length, block } => self.digest(handle, offset, length, block).into(),
            F::RemoveTree { directory, name, window: _ } => self.remove_tree(&directory, name),
            F::Watch { directory, recursive, window: _ } => self.watch(asked, &directory, recursive),
        }
    }
}
