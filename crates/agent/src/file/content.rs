//! Open files: opening, creating, reading, writing.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, FallocateFlags, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use wire::agent::HandleId;
use wire::agent::file::{
    Allocation, AttributeChanges, Caller, Entry, FileReply, Kind, OpenFlags, Place, SeekFor, Target, WriteAt,
};
use wire::agent::name::Name;
use wire::frame::PAYLOAD_BYTES_MAX;

use crate::file::names::has_default_acl;
use crate::file::{Found, Making};
use crate::handles::Handle;
use crate::log::log;
use crate::session::{Asked, Replied, Session, plain, reopen};
use crate::stat;
use crate::sync::lock;

/// How often a creation is tried again when others make and remove the name meanwhile.
const CREATE_TRIES: usize = 16;

/// How much is copied on the machine between two looks whether the client still wants it.
const COPY_PIECE_BYTES: usize = 8 << 20;

/// The buffer for a copy that the kernel cannot make by itself.
const COPY_BUFFER_BYTES: usize = 1 << 20;

/// How a file is put.
#[derive(Clone, Copy)]
pub(crate) struct PutHow {
    pub making: Making,
    pub exclusive: bool,
    pub sync: bool,
}

impl Session {
    pub(crate) fn open(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        flags: OpenFlags,
        handle: HandleId,
        inline_bytes: u32,
    ) -> Replied {
        let changes = flags.write || flags.truncate || flags.append;
        let export = if changes { self.export_to_change()? } else { self.export()? };
        if let Ok(open) = self.handles.get(handle) {
            return opened_again(&open, place, flags, inline_bytes);
        }
        self.handles.check(handle)?;
        let (file, kind) = export.find(place)?;
        if flags.truncate {
            asked.hold(self.told.changing(&[], &[place.id]));
        }
        self.privilege.clear_set_id(true)?;
        let file = open_found(&file, kind, flags)?;
        let (entry, inline, whole) = first_look(&file, kind, flags, inline_bytes)?;
        export.opened(place.id);
        if flags.truncate {
            self.told.file(&entry);
        }
        self.handles.insert(handle, handle_of(file, &entry, flags));
        Ok((FileReply::Opened { entry, whole, created: false, directory: None }, inline))
    }

    pub(crate) fn create(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        name: &Name,
        making: Making,
        flags: OpenFlags,
        handle: HandleId,
    ) -> Replied {
        let directory = self.export_to_change()?.directory(place)?;
        self.handles.check(handle)?;
        asked.hold(self.told.changing(&[(place.id, name)], &[]));
        let (file, created) = self.create_or_open(&directory, name, making, flags)?;
        let entry = stat::entry_of_open(&file)?;
        self.told.name(place.id, name, Some(entry.id));
        self.told.file(&entry);
        self.handles.insert(handle, handle_of(file, &entry, flags));
        let whole = entry.attributes.size == 0;
        let directory = stat::entry_of_path(&directory)?;
        self.told.file(&directory);
        plain(FileReply::Opened { entry, whole, created, directory: Some(directory.attributes) })
    }

    pub(crate) fn create_unnamed(
        &self,
        place: &Place,
        mode: u16,
        flags: OpenFlags,
        handle: HandleId,
        caller: &Caller,
    ) -> Replied {
        let directory = self.export_to_change()?.directory(place)?;
        self.handles.check(handle)?;
        let mut how = open_flags(flags) | OFlags::TMPFILE;
        how.set(OFlags::EXCL, flags.exclusive);
        let file = self.privilege.acting_for(
            caller,
            mode,
            || has_default_acl(&directory),
            |mode| rustix::fs::openat(&directory, c".", how, mode),
        )?;
        let entry = stat::entry_of_open(&file)?;
        self.handles.insert(handle, handle_of(file, &entry, flags));
        plain(FileReply::Opened { entry, whole: true, created: true, directory: None })
    }

    pub(crate) fn put(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        name: &Name,
        how: PutHow,
        changes: &AttributeChanges,
        content: &[u8],
    ) -> Replied {
        let directory = self.export_to_change()?.directory(place)?;
        asked.hold(self.told.changing(&[(place.id, name)], &[]));
        let flags =
            OpenFlags { write: true, truncate: true, exclusive: how.exclusive, ..OpenFlags::default() };
        let (file, created) = self.create_or_open(&directory, name, how.making, flags)?;
        let entry = stat::entry_of_open(&file)?;
        let handle = Arc::new(handle_of(file, &entry, flags));
        let filled = self.fill(&handle, how, changes, content);
        match filled {
            Ok(entry) => {
                self.told.name(place.id, name, Some(entry.id));
                plain(self.changed(entry))
            }
            Err(errno) => {
                if created {
                    remove_if_still(&directory, name, &handle);
                }
                Err(errno)
            }
        }
    }

    /// Gives a new or emptied file its content and attributes.
    pub(crate) fn fill(
        &self,
        handle: &Arc<Handle>,
        how: PutHow,
        changes: &AttributeChanges,
        content: &[u8],
    ) -> Result<Entry, Errno> {
        self.privilege.clear_set_id(changes.clear_set_id)?;
        let (written, result) = write_all(&handle.file, WriteAt::Offset(0), content);
        if written < content.len() {
            return Err(result.err().unwrap_or(Errno::IO));
        }
        self.apply(&Found::Open(handle.clone()), changes)?;
        if how.sync {
            rustix::fs::fsync(&handle.file)?;
        }
        stat::entry_of_open(&handle.file)
    }

    /// Creates a file, or opens the one that is there. Says whether it was created.
    pub(crate) fn create_or_open(
        &self,
        directory: &OwnedFd,
        name: &Name,
        making: Making,
        flags: OpenFlags,
    ) -> Result<(OwnedFd, bool), Errno> {
        let how = open_flags(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        for _ in 0..CREATE_TRIES {
            let created = self.privilege.acting_for(
                &making.caller,
                making.mode,
                || has_default_acl(directory),
                |mode| rustix::fs::openat(directory, name.as_bytes(), how, mode),
            );
            match created {
                Err(Errno::EXIST) if !flags.exclusive => {}
                result => return result.map(|file| (file, true)),
            }
            let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match rustix::fs::openat(directory, name.as_bytes(), path, rustix::fs::Mode::empty()) {
                Err(Errno::NOENT) => continue,
                result => result?,
            };
            let (_, kind) = stat::id_of(&file)?;
            if kind == Kind::Directory {
                return Err(Errno::ISDIR);
            }
            return open_found(&file, kind, flags).map(|file| (file, false));
        }
        Err(Errno::STALE)
    }

    pub(crate) fn read(&self, asked: &Asked<'_>, handle: HandleId, offset: u64, length: u32) -> Replied {
        let handle = self.handles.get(handle)?;
        let length = length.min(PAYLOAD_BYTES_MAX) as usize;
        let bytes = read_to(asked.stream.memory(length), &handle.file, offset, length)?;
        // What waits to be sent is counted by its length: at the end of a file it must not hold more.
        if bytes.len() < length / 2 {
            let short = bytes.as_slice().to_vec();
            asked.stream.memory_is_free(bytes);
            return Ok((FileReply::Data, short));
        }
        Ok((FileReply::Data, bytes))
    }

    pub(crate) fn write(
        &self,
        asked: &Asked<'_>,
        handle: HandleId,
        at: WriteAt,
        clear_set_id: bool,
        bytes: &[u8],
    ) -> Replied {
        let handle = self.handles.get(handle)?;
        if handle.only_appends && matches!(at, WriteAt::Offset(_)) {
            return Err(Errno::PERM);
        }
        asked.hold(self.told.changing(&[], &[handle.id]));
        self.privilege.clear_set_id(clear_set_id)?;
        let (written, result) = write_all(&handle.file, at, bytes);
        if written == 0 {
            result?;
        }
        if let WriteAt::Offset(offset) = at {
            asked.part.set(lock(&handle.run).wrote(&handle.file, offset, written as u64));
        }
        self.written(&handle, written as u64)
    }

    fn written(&self, handle: &Handle, bytes: u64) -> Replied {
        let entry = stat::entry_of_open(&handle.file)?;
        self.told.file(&entry);
        plain(FileReply::Written { bytes, attributes: entry.attributes })
    }

    pub(crate) fn sync(&self, target: &Target, data_only: bool) -> Replied {
        let reopened;
        let handle;
        let file = match target {
            Target::Handle(id) => {
                handle = self.handles.get(*id)?;
                &handle.file
            }
            Target::Place(place) => {
                let (file, kind) = self.export()?.find(place)?;
                if !matches!(kind, Kind::File | Kind::Directory) {
                    return Err(Errno::INVAL);
                }
                reopened = match reopen(&file, OFlags::RDONLY) {
                    // What may be written and not read can be synced all the same.
                    Err(Errno::ACCESS) if kind == Kind::File => reopen(&file, OFlags::WRONLY)?,
                    result => result?,
                };
                &reopened
            }
        };
        if data_only {
            rustix::fs::fdatasync(file)?
        } else {
            rustix::fs::fsync(file)?
        }
        plain(FileReply::Done)
    }

    pub(crate) fn close(&self, handle: HandleId) -> Replied {
        let (handle, last) = self.handles.remove(handle)?;
        self.locks.closed(&handle, last);
        // With another request still using it, the file is closed when that ends; its error has nobody to go to.
        if let Some(handle) = Arc::into_inner(handle) {
            close_file(handle.file)?;
        }
        plain(FileReply::Done)
    }

    pub(crate) fn allocate(
        &self,
        asked: &Asked<'_>,
        handle: HandleId,
        what: Allocation,
        offset: u64,
        length: u64,
    ) -> Replied {
        let handle = self.handles.get(handle)?;
        asked.hold(self.told.changing(&[], &[handle.id]));
        let keep = |keep_size| if keep_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
        let flags = match what {
            Allocation::Reserve { keep_size } => keep(keep_size),
            Allocation::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Allocation::Zero { keep_size } => FallocateFlags::ZERO_RANGE | keep(keep_size),
            Allocation::Collapse => FallocateFlags::COLLAPSE_RANGE,
            Allocation::Insert => FallocateFlags::INSERT_RANGE,
        };
        self.privilege.clear_set_id(true)?;
        rustix::fs::fallocate(&handle.file, flags, offset, length)?;
        plain(self.changed(stat::entry_of_open(&handle.file)?))
    }

    pub(crate) fn seek(&self, handle: HandleId, offset: u64, what: SeekFor) -> Replied {
        let handle = self.handles.get(handle)?;
        if i64::try_from(offset).is_err() {
            return Err(Errno::NXIO);
        }
        // The offset that this moves belongs to a description that nobody else reads or writes by offset.
        let position = rustix::fs::seek(
            &handle.file,
            match what {
                SeekFor::Data => SeekFrom::Data(offset),
                SeekFor::Hole => SeekFrom::Hole(offset),
            },
        )?;
        plain(FileReply::Position(position))
    }

    pub(crate) fn copy_range(
        &self,
        asked: &Asked<'_>,
        from: (HandleId, u64),
        to: (HandleId, u64),
        length: u64,
    ) -> Replied {
        let (source, target) = (self.handles.get(from.0)?, self.handles.get(to.0)?);
        asked.hold(self.told.changing(&[], &[target.id]));
        self.privilege.clear_set_id(true)?;
        let mut copy = Copy { source: &source, target: &target, from: from.1, to: to.1, by_hand: None };
        let mut copied: u64 = 0;
        while copied < length {
            if asked.is_cancelled() {
                break;
            }
            let piece = usize::try_from(length - copied).unwrap_or(usize::MAX).min(COPY_PIECE_BYTES);
            match copy.piece(piece, length - copied) {
                Ok(0) => break,
                Ok(bytes) => copied += bytes as u64,
                Err(errno) if copied == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        if copied == 0 && length > 0 && asked.is_cancelled() {
            return Err(Errno::INTR);
        }
        self.written(&target, copied)
    }
}

/// A copy on the machine.
struct Copy<'a> {
    source: &'a Handle,
    target: &'a Handle,
    from: u64,
    to: u64,
    /// The buffer, once the kernel has said that it cannot copy between these two.
    by_hand: Option<Vec<u8>>,
}

impl Copy<'_> {
    /// Copies up to `bytes`, of `left` in all, and moves on. 0 is the source's end.
    fn piece(&mut self, bytes: usize, left: u64) -> Result<usize, Errno> {
        if self.by_hand.is_none() {
            let copied = rustix::fs::copy_file_range(
                &self.source.file,
                Some(&mut self.from),
                &self.target.file,
                Some(&mut self.to),
                bytes,
            );
            match copied {
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS) => {}
                result => return result,
            }
            let overlap = self.source.id == self.target.id && self.from.abs_diff(self.to) < left;
            if overlap {
                return Err(Errno::INVAL);
            }
            self.by_hand = Some(Vec::with_capacity(COPY_BUFFER_BYTES));
        }
        let buffer = self.by_hand.get_or_insert_default();
        *buffer = read_at(&self.source.file, self.from, bytes.min(COPY_BUFFER_BYTES))?;
        let (written, result) = write_all(&self.target.file, WriteAt::Offset(self.to), buffer);
        self.from += written as u64;
        self.to += written as u64;
        if written == 0 { result.map(|()| 0) } else { Ok(written) }
    }
}

pub(crate) fn handle_of(file: OwnedFd, entry: &Entry, flags: OpenFlags) -> Handle {
    let (kind, write, run) = (entry.attributes.kind, writes(flags), Mutex::default());
    let is_asked = flags.append && flags.read;
    let only_appends =
        is_asked && rustix::fs::fcntl_getfl(&file).is_ok_and(|how| how.contains(OFlags::APPEND));
    Handle { file, id: entry.id, kind, write, only_appends, run }
}

fn writes(flags: OpenFlags) -> bool {
    flags.write || flags.append
}

/// Answers a request to open that has been carried out before: for a stream that broke, or for a client that had to open
/// its files again.
fn opened_again(open: &Handle, place: &Place, flags: OpenFlags, inline_bytes: u32) -> Replied {
    if open.id != place.id || open.write != writes(flags) {
        return Err(Errno::INVAL);
    }
    let (entry, inline, whole) = first_look(&open.file, open.kind, flags, inline_bytes)?;
    Ok((FileReply::Opened { entry, whole, created: false, directory: None }, inline))
}

/// An open file and its first bytes, if they are wanted, and whether these are the whole of what the entry describes: also of
/// a file that was being written meanwhile, and kept its size.
fn first_look(
    file: &OwnedFd,
    kind: Kind,
    flags: OpenFlags,
    bytes: u32,
) -> Result<(Entry, Vec<u8>, bool), Errno> {
    let before = stat::entry_of_open(file)?;
    if kind != Kind::File || !flags.read || bytes == 0 {
        return Ok((before, Vec::new(), kind == Kind::File && before.attributes.size == 0));
    }
    // One byte more than there should be tells whether the file has grown.
    let bytes = u64::from(bytes.min(PAYLOAD_BYTES_MAX)).min(before.attributes.size.saturating_add(1));
    let inline = read_at(file, 0, bytes as usize)?;
    let entry = stat::entry_of_open(file)?;
    let times = |entry: &Entry| (entry.attributes.modified, entry.attributes.changed);
    let whole = inline.len() as u64 == entry.attributes.size && times(&before) == times(&entry);
    Ok((entry, inline, whole))
}

/// Opens a file that was found by name. Only what has content can be opened: a fifo or a device is the client's
/// kernel's to open.
fn open_found(file: &OwnedFd, kind: Kind, flags: OpenFlags) -> Result<OwnedFd, Errno> {
    match kind {
        Kind::File => {}
        Kind::Directory if !flags.write && !flags.truncate => return reopen(file, OFlags::DIRECTORY),
        Kind::Directory => return Err(Errno::ISDIR),
        Kind::Symlink => return Err(Errno::LOOP),
        Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => return Err(Errno::NXIO),
    }
    let mut how = open_flags(flags);
    how.set(OFlags::TRUNC, flags.truncate);
    match reopen(file, how) {
        // What may only be appended to.
        Err(Errno::PERM) if flags.append => reopen(file, how | OFlags::APPEND),
        opened => opened,
    }
}

/// The page cache is used even for `direct`: it is the machine's own, and always agrees with its disk.
///
/// What a client's mapping writes goes to its place, and through a descriptor that appends it would be appended. So one that can
/// be mapped there to be written, for which it has to be read, too, does not append here: an append says itself that it is one
/// ([`WriteAt::End`]).
fn open_flags(flags: OpenFlags) -> OFlags {
    let mut how = match (flags.read, flags.write || flags.append) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    how.set(OFlags::APPEND, flags.append && !flags.read);
    how.set(OFlags::SYNC, flags.sync);
    how | OFlags::CLOEXEC | OFlags::NOCTTY
}

/// Reads until `length` bytes are there or the file ends, into a buffer of its own.
pub(crate) fn read_at(file: &OwnedFd, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
    read_to(Vec::new(), file, offset, length)
}

/// The same, to memory that is there and may have to grow.
fn read_to(mut bytes: Vec<u8>, file: &OwnedFd, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
    bytes.reserve_exact(length);
    bytes.resize(length, 0);
    let mut filled = 0;
    while filled < length {
        let at = offset.checked_add(filled as u64).ok_or(Errno::INVAL)?;
        match rustix::io::pread(file, &mut bytes[filled..], at) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(_) if filled > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// All that is in a small file of a directory. `EAGAIN` if it is not, or does not stay, what the entry says.
pub(crate) fn read_whole(directory: &OwnedFd, name: &Name, entry: &Entry) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name.as_bytes(), flags, rustix::fs::Mode::empty())?;
    // One byte more than there should be tells whether the file has grown.
    let content = read_at(&file, 0, entry.attributes.size as usize + 1)?;
    let now = stat::entry_of_open(&file)?;
    let times = |entry: &Entry| (entry.attributes.modified, entry.attributes.changed);
    let unchanged = now.id == entry.id && times(&now) == times(entry);
    match unchanged && content.len() as u64 == entry.attributes.size {
        true => Ok(content),
        false => Err(Errno::AGAIN),
    }
}

/// Writes all it can, and says how much that was and what stopped it.
fn write_all(file: &OwnedFd, at: WriteAt, bytes: &[u8]) -> (usize, Result<(), Errno>) {
    let mut written = 0;
    while written < bytes.len() {
        let rest = &bytes[written..];
        let result = match at {
            WriteAt::Offset(offset) => match offset.checked_add(written as u64) {
                Some(offset) => rustix::io::pwrite(file, rest, offset),
                None => Err(Errno::FBIG),
            },
            WriteAt::End => rustix::io::pwritev2(file, &[IoSlice::new(rest)], 0, ReadWriteFlags::APPEND),
        };
        match result {
            Ok(0) => return (written, Err(Errno::IO)),
            Ok(bytes) => written += bytes,
            Err(Errno::INTR) => {}
            Err(errno) => return (written, Err(errno)),
        }
    }
    (written, Ok(()))
}

/// Takes a half-made file away, unless its name is another's by now.
pub(crate) fn remove_if_still(directory: &OwnedFd, name: &Name, handle: &Handle) {
    let still = stat::entry_at(directory, name.as_bytes()).is_ok_and(|entry| entry.id == handle.id);
    if still && let Err(errno) = rustix::fs::unlinkat(directory, name.as_bytes(), AtFlags::empty()) {
        log(format_args!("could not remove the half-made file `{name}`: {errno}"));
    }
}

/// Closes and says what the file system says to it, which dropping does not.
fn close_file(file: OwnedFd) -> Result<(), Errno> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor was owned by `file`, which has let it go, and is used by nobody else.
    if unsafe { libc::close(file.into_raw_fd()) } == 0 {
        return Ok(());
    }
    match Errno::from_io_error(&std::io::Error::last_os_error()) {
        // On Linux the descriptor is closed all the same.
        Some(Errno::INTR) => Ok(()),
        Some(errno) => Err(errno),
        None => Err(Errno::IO),
    }
}
