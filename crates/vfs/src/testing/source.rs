//! What a [`Memory`] answers, request by request.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Inner, Memory, MemoryWalk, State};
use crate::cache::DataCache;
use crate::errno::{Errno, Result};
use crate::file::{
    Allocation, AttributeChanges, Caller, Entry, FileId, Kind, Lock, Name, OpenFlags, RenameMode, SeekFor,
    Space, Time, WriteAt, XattrMode,
};
use crate::request::Sequence;
use crate::source::{
    HandleId, Lease, Listed, Listing, NewNode, Opened, Page, Place, Removed, Renamed, Source, Target,
    WalkBudget, WalkFrom, Written,
};

/// A listing of a [`Memory`].
#[derive(Debug)]
pub struct MemoryListing {
    inner: Arc<Inner>,
    directory: Place,
    from: u64,
    lease: Option<Lease>,
    end: bool,
}

impl Listing for MemoryListing {
    async fn next(&mut self) -> Result<Option<Page>> {
        if self.end {
            return Ok(None);
        }
        let (unwatched_ms, entries) =
            (self.inner.unwatched_ms(), self.inner.page_entries.load(Ordering::Relaxed));
        let (place, from, known) = (self.directory.clone(), self.from, self.lease);
        let request = |state: &mut State| {
            let id = state.tree.resolve(&place)?;
            let lease = known.unwrap_or_else(|| state.lease(id, unwatched_ms));
            let directory = state.tree.get(id)?;
            if directory.attributes.kind != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            let listed = |(cookie, name, id): (u64, &Name, FileId)| Listed {
                name: name.clone(),
                entry: state.tree.entry(id).ok(),
                cookie,
            };
            let entries: Vec<_> = directory.listing(from).map(listed).take(entries as usize + 1).collect();
            Ok((lease, entries, directory.attributes))
        };
        let (lease, mut listed, attributes) = self.inner.carry_out("list", false, request).await?;
        let end = listed.len() as u64 <= entries;
        listed.truncate(entries as usize);
        self.from = listed.last().map_or(self.from, |listed| listed.cookie);
        (self.lease, self.end) = (Some(lease), end);
        Ok(Some(Page { entries: listed, end, lease: Some(lease), directory: end.then_some(attributes) }))
    }
}

impl Source for Memory {
    type Listing = MemoryListing;
    type Walk = MemoryWalk;

    async fn lookup(&self, directory: Place, name: Name) -> Result<(Option<Entry>, Option<Lease>)> {
        let unwatched_ms = self.unwatched_ms();
        let request = |state: &mut State| {
            let id = state.tree.resolve(&directory)?;
            let found = state.tree.lookup(id, &name)?;
            let lease = state.lease(id, unwatched_ms);
            Ok((found.and_then(|id| state.tree.entry(id).ok()), Some(lease)))
        };
        self.carry_out("lookup", false, request).await
    }

    async fn stat(&self, target: Target) -> Result<Entry> {
        let request = |state: &mut State| {
            let id = state.find(&target)?;
            state.tree.entry(id)
        };
        self.carry_out("stat", false, request).await
    }

    async fn set_attributes(&self, target: Target, changes: AttributeChanges) -> Result<Entry> {
        let request = |state: &mut State| {
            let id = state.find(&target)?;
            state.tree.set_attributes(id, changes)?;
            state.tree.entry(id)
        };
        let handle = if let Target::Handle(handle) = target { Some(handle) } else { None };
        self.carry_out_in_line("set_attributes", true, handle, request).await
    }

    async fn read_link(&self, place: Place) -> Result<Bytes> {
        let request = |state: &mut State| {
            let id = state.tree.resolve(&place)?;
            state.tree.read(id, 0, u32::MAX)
        };
        self.carry_out("read_link", false, request).await
    }

    async fn symlink(&self, directory: Place, name: Name, contents: Bytes, _caller: Caller) -> Result<Entry> {
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let id = state.tree.make(directory, &name, Kind::Symlink, 0o777)?;
            state.tree.write(id, Some(0), &contents)?;
            state.tree.entry(id)
        };
        self.carry_out("symlink", true, request).await
    }

    async fn make_node(&self, directory: Place, name: Name, node: NewNode, caller: Caller) -> Result<Entry> {
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let id = state.tree.make(directory, &name, node.kind, node.mode & !caller.umask)?;
            state.tree.entry(id)
        };
        self.carry_out("make_node", true, request).await
    }

    async fn make_directory(&self, directory: Place, name: Name, mode: u16, caller: Caller) -> Result<Entry> {
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let id = state.tree.make(directory, &name, Kind::Directory, mode & !caller.umask)?;
            state.tree.entry(id)
        };
        self.carry_out("make_directory", true, request).await
    }

    async fn unlink(&self, directory: Place, name: Name) -> Result<Removed> {
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let id = state.tree.unlink(directory, &name)?;
            state.removed(directory, id)
        };
        self.carry_out("unlink", true, request).await
    }

    async fn remove_directory(&self, directory: Place, name: Name) -> Result<Removed> {
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let id = state.tree.remove_directory(directory, &name)?;
            state.removed(directory, id)
        };
        self.carry_out("remove_directory", true, request).await
    }

    async fn rename(&self, from: (Place, Name), to: (Place, Name), mode: RenameMode) -> Result<Renamed> {
        let request = |state: &mut State| {
            let (old, new) = (state.tree.resolve(&from.0)?, state.tree.resolve(&to.0)?);
            state.renaming = true;
            state.tree.rename((old, &from.1), (new, &to.1), mode)?;
            let directory = |id| state.tree.entry(id).map(|entry| entry.attributes);
            Ok(Renamed { from: directory(old)?, to: directory(new)? })
        };
        self.carry_out("rename", true, request).await
    }

    async fn link(&self, target: Target, directory: Place, name: Name) -> Result<Entry> {
        let request = |state: &mut State| {
            let (id, directory) = (state.find(&target)?, state.tree.resolve(&directory)?);
            state.tree.link(id, directory, &name)?;
            state.tree.entry(id)
        };
        self.carry_out("link", true, request).await
    }

    async fn open(
        &self,
        place: Place,
        flags: OpenFlags,
        handle: HandleId,
        inline_bytes: u32,
    ) -> Result<Opened> {
        let request = |state: &mut State| {
            let id = state.tree.resolve(&place)?;
            state.open(id, flags, handle, inline_bytes)
        };
        self.carry_out("open", true, request).await
    }

    async fn create(
        &self,
        directory: Place,
        name: Name,
        mode: u16,
        flags: OpenFlags,
        handle: HandleId,
        caller: Caller,
    ) -> Result<Opened> {
        let request = |state: &mut State| {
            let directory = state.tree.resolve(&directory)?;
            let found = state.tree.lookup(directory, &name)?;
            let id = match found {
                Some(_) if flags.exclusive => return Err(Errno::EEXIST),
                Some(id) => id,
                None => state.tree.make(directory, &name, Kind::File, mode & !caller.umask)?,
            };
            let opened = state.open(id, flags, handle, 0)?;
            let directory = Some(state.tree.entry(directory)?.attributes);
            Ok(Opened { directory, is_new: found.is_none(), ..opened })
        };
        self.carry_out_in_line("create", true, Some(handle), request).await
    }

    async fn create_unnamed(
        &self,
        directory: Place,
        mode: u16,
        flags: OpenFlags,
        handle: HandleId,
        caller: Caller,
    ) -> Result<Opened> {
        let request = |state: &mut State| {
            state.tree.resolve(&directory)?;
            let id = state.tree.make_unnamed(Kind::File, mode & !caller.umask);
            state.open(id, flags, handle, 0)
        };
        self.carry_out("create_unnamed", true, request).await
    }

    async fn read(&self, handle: HandleId, offset: u64, length: u32) -> Result<Bytes> {
        let request = |state: &mut State| state.tree.read(state.handle(handle)?, offset, length);
        self.carry_out("read", false, request).await
    }

    async fn write(
        &self,
        handle: HandleId,
        at: WriteAt,
        bytes: Bytes,
        _clear_set_id: bool,
    ) -> Result<Written> {
        let request = |state: &mut State| {
            let id = state.handle(handle)?;
            let taken = bytes.len().min(state.write_bytes_max.unwrap_or(usize::MAX));
            let offset = if let WriteAt::Offset(offset) = at { Some(offset) } else { None };
            let bytes = state.tree.write(id, offset, &bytes[..taken])?;
            Ok(Written { bytes, attributes: state.tree.entry(id)?.attributes })
        };
        self.carry_out_in_line("write", true, Some(handle), request).await
    }

    async fn sync(&self, _target: Target, _data_only: bool) -> Result<()> {
        self.carry_out("sync", false, |_| Ok(())).await
    }

    async fn close(&self, handle: HandleId) -> Result<()> {
        let request = |state: &mut State| {
            let id = state.handles.remove(&handle).ok_or(Errno::EBADF)?;
            state.tree.get_mut(id)?.opens -= 1;
            state.tree.reap(id);
            Ok(())
        };
        self.carry_out("close", false, request).await
    }

    async fn allocate(&self, handle: HandleId, what: Allocation, offset: u64, length: u64) -> Result<Entry> {
        let request = |state: &mut State| {
            let id = state.handle(handle)?;
            let size = state.tree.get(id)?.attributes.size.max(offset + length);
            if what == (Allocation::Reserve { keep_size: false }) {
                state.tree.set_attributes(id, AttributeChanges { size: Some(size), ..Default::default() })?;
            }
            state.tree.entry(id)
        };
        self.carry_out("allocate", true, request).await
    }

    async fn seek(&self, handle: HandleId, offset: u64, what: SeekFor) -> Result<u64> {
        let request = |state: &mut State| {
            let size = state.tree.get(state.handle(handle)?)?.attributes.size;
            match what {
                _ if offset >= size => Err(Errno::ENXIO),
                SeekFor::Data => Ok(offset),
                SeekFor::Hole => Ok(size),
            }
        };
        self.carry_out("seek", false, request).await
    }

    async fn copy_range(&self, from: (HandleId, u64), to: (HandleId, u64), length: u64) -> Result<Written> {
        let request = |state: &mut State| {
            let (source, target) = (state.handle(from.0)?, state.handle(to.0)?);
            let bytes = state.tree.read(source, from.1, length.min(u64::from(u32::MAX)) as u32)?;
            let bytes = state.tree.write(target, Some(to.1), &bytes)?;
            Ok(Written { bytes, attributes: state.tree.entry(target)?.attributes })
        };
        self.carry_out("copy_range", true, request).await
    }

    async fn space(&self, _place: Place) -> Result<Space> {
        let space = Space {
            block_size: 4096,
            blocks: 1000,
            blocks_free: 500,
            blocks_available: 400,
            files: 1000,
            files_free: 900,
            name_bytes: 255,
        };
        self.carry_out("space", false, |_| Ok(space)).await
    }

    async fn get_xattr(&self, target: Target, name: Bytes) -> Result<Bytes> {
        self.carry_out("get_xattr", false, |state| state.tree.get_xattr(state.find(&target)?, &name)).await
    }

    async fn set_xattr(&self, target: Target, name: Bytes, value: Bytes, mode: XattrMode) -> Result<Entry> {
        let request = |state: &mut State| {
            let id = state.find(&target)?;
            state.tree.set_xattr(id, name, value, mode)?;
            state.tree.entry(id)
        };
        self.carry_out("set_xattr", true, request).await
    }

    async fn list_xattrs(&self, target: Target) -> Result<Bytes> {
        self.carry_out("list_xattrs", false, |state| state.tree.xattr_names(state.find(&target)?)).await
    }

    async fn remove_xattr(&self, target: Target, name: Bytes) -> Result<Entry> {
        let request = |state: &mut State| {
            let id = state.find(&target)?;
            state.tree.remove_xattr(id, &name)?;
            state.tree.entry(id)
        };
        self.carry_out("remove_xattr", true, request).await
    }

    async fn lock(&self, _handle: HandleId, _owner: u64, _lock: Lock, _wait: bool) -> Result<()> {
        self.carry_out("lock", false, |_| Ok(())).await
    }

    async fn test_lock(&self, _handle: HandleId, _owner: u64, _lock: Lock) -> Result<Option<(Lock, u32)>> {
        self.carry_out("test_lock", false, |_| Ok(None)).await
    }

    async fn release_locks(&self, _handle: HandleId, _owner: u64) -> Result<()> {
        self.carry_out("release_locks", false, |_| Ok(())).await
    }

    fn next_sequence(&self) -> Option<Sequence> {
        let mut state = self.state.lock();
        let outstanding = state.sequence - state.settled.len() as u64;
        if state.numbers_max.is_some_and(|numbers_max| outstanding >= numbers_max) {
            return None;
        }
        state.sequence += 1;
        Some(Sequence(state.sequence))
    }

    fn owner_of_new(&self, _caller: Caller) -> Option<(u32, u32)> {
        (!self.state.lock().is_unsure).then_some((0, 0))
    }

    fn is_sure(&self, _changes: &AttributeChanges) -> bool {
        !self.state.lock().is_unsure
    }

    fn settled(&self, sequence: Sequence) {
        let mut state = self.state.lock();
        state.replies.remove(&sequence);
        state.settled.insert(sequence);
    }

    fn cache(&self) -> Option<Arc<dyn DataCache>> {
        self.cache.lock().clone().map(|cache| cache as Arc<dyn DataCache>)
    }

    fn clock(&self) -> Option<Time> {
        *self.clock.lock()
    }

    fn list(&self, directory: Place, from: u64) -> MemoryListing {
        MemoryListing { inner: self.inner.clone(), directory, from, lease: None, end: false }
    }

    fn walk(&self, directory: Place, from: WalkFrom, budget: WalkBudget) -> MemoryWalk {
        MemoryWalk::new(self.inner.clone(), directory, from, budget)
    }
}
