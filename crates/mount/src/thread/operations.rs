//! Each operation of the kernel as one of a thread.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use store::node::{Attributes, Ino, Kind, NAME_BYTES_MAX};
use store::thread::{AttributeChanges, Hand, New, Remains, Removed, Thread};

use super::files::{Failed, For};
use super::translate::{attr, entry, file_type, ino, now, rename_mode, set_time, special, xattr_mode};
use super::{LIFETIME, LIFETIME_IN_PLACE, SET_ID, Serving};
use crate::fuse::abi::{self, InitFlags, fopen};
use crate::fuse::reply::{
    Delivery, Entry, Listing, ListingPlus, Name, Opened, Placed, ReplyError, Responder,
};
use crate::fuse::request::{self, CopyFileRange, CopyWidth, Header, Operation, Request, Setattr, Write};
use crate::fuse::serve::{permissions, wide_device};

const SET_GID: u16 = 0o2000;
const GROUP_EXECUTES: u16 = 0o010;

/// Bytes that one COPY_FILE_RANGE copies: the narrow reply has 32 bits for them, and other requests wait for this thread.
const COPY_BYTES_MAX: u64 = 1 << 28;

/// Cookies of `.` and `..`; those of names follow.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// What the shortest name takes of a listing.
const LISTED_BYTES_MIN: u32 = 24;
const LISTED_PLUS_BYTES_MIN: u32 = 152;

/// Extended attributes that mean something to the kernel, and nothing here: access control lists.
const SYSTEM: &[u8] = b"system.";

/// What an operation comes to.
enum Answer {
    Done,
    /// For so long.
    Absent(Duration),
    Entry(Attributes),
    Attributes(Attributes),
    Opened(Opened),
    Created(Attributes, Opened),
    /// So many bytes are in the reader's buffer.
    Read(usize),
    Bytes(Vec<u8>),
    Size(usize),
    Listing(Listing),
    ListingPlus(ListingPlus),
    Written(u32),
    Copied(u64, CopyWidth),
    Position(u64),
    Space(abi::Kstatfs),
}

/// A reply that the kernel refused is a bug; its caller got `EIO`.
pub(super) fn report(sent: Result<Delivery, ReplyError>) {
    if let Err(error) = sent {
        tracing::error!(%error, source = %error.source, "a reply was refused");
    }
}

impl Serving {
    /// Carries a request out, and answers it.
    pub(super) fn answer(
        &self,
        hand: &mut Hand,
        outgoing: &mut Vec<u8>,
        request: Request<'_>,
        responder: Responder,
    ) {
        let answer = match self.carry_out(hand, outgoing, request) {
            Ok(answer) => answer,
            Err(errno) => return report(responder.errno(errno)),
        };
        let handle = match &answer {
            Answer::Opened(opened) | Answer::Created(_, opened) => Some(opened.handle),
            _ => None,
        };
        let sent = self.send(responder, answer, outgoing);
        if let Some(handle) = handle
            && !matches!(sent, Ok(Delivery::Delivered))
        {
            self.files.release(handle);
        }
        report(sent);
    }

    fn carry_out(
        &self,
        hand: &mut Hand,
        outgoing: &mut Vec<u8>,
        request: Request<'_>,
    ) -> Result<Answer, Errno> {
        let header = request.header;
        let at = ino(header.node);
        match request.operation {
            Operation::Lookup { name } => self.lookup(at, name),
            Operation::Getattr { .. } => self.told(self.thread.attributes(at)).map(Answer::Attributes),
            Operation::Setattr(set) => self.set_attributes(at, &set).map(Answer::Attributes),
            Operation::Readlink => self.told(self.thread.read_link(at)).map(Answer::Bytes),
            Operation::Symlink { name, target } => {
                let new = self.new_file(&header, at, 0o777, Kind::Symlink)?;
                self.make(hand, &header, |thread| thread.symlink(at, name, target, new, now()))
            }
            Operation::Mknod { name, mode, rdev, .. } => {
                let kind = special(mode)?;
                let new = self.new_file(&header, at, mode, kind.unwrap_or(Kind::File))?;
                self.make(hand, &header, |thread| match kind {
                    Some(kind) => thread.make_node(at, name, (kind, wide_device(rdev)), new, now()),
                    None => thread.create(at, name, new, now()).map(|(attributes, _)| attributes),
                })
            }
            Operation::Mkdir { name, mode, .. } => {
                let new = self.new_file(&header, at, mode, Kind::Directory)?;
                self.make(hand, &header, |thread| thread.make_directory(at, name, new, now()))
            }
            Operation::Unlink { name } => self
                .lose(hand, &header, |thread| thread.unlink(at, name, Remains::WhileOpen, now()).map(Some)),
            Operation::Rmdir { name } => self.lose(hand, &header, |thread| {
                thread.remove_directory(at, name, Remains::WhileOpen, now()).map(Some)
            }),
            Operation::Rename { name, new_parent, new_name, flags } => {
                let (mode, to) = (rename_mode(flags)?, ino(new_parent));
                self.lose(hand, &header, |thread| {
                    thread.rename((at, name), (to, new_name), mode, Remains::WhileOpen, now())
                })
            }
            Operation::Link { node, new_name } => {
                let made = self.make(hand, &header, |thread| thread.link(ino(node), at, new_name, now()))?;
                self.departed.gone(&[ino(node)]);
                Ok(made)
            }
            Operation::Open { flags, .. } => self.open(&header, at, flags),
            Operation::Create(create) => {
                let make = |thread: &Thread, new| thread.create(at, create.name, new, now());
                let (attributes, opened) = self.create(hand, &header, (at, create.mode), make)?;
                Ok(Answer::Created(attributes, opened))
            }
            Operation::Tmpfile(create) => {
                let make = |thread: &Thread, new| thread.create_unnamed(new, now());
                let (attributes, opened) = self.create(hand, &header, (at, create.mode), make)?;
                Ok(Answer::Created(attributes, opened))
            }
            Operation::Read(read) => self.read(outgoing, at, &read),
            Operation::Write(write) => self.write(at, &write),
            Operation::Release(release) => {
                self.files.release(release.handle);
                Ok(Answer::Done)
            }
            Operation::Fsync { .. } => self.told(self.thread.sync(at)).map(|()| Answer::Done),
            Operation::Fsyncdir { .. } => self.told(self.thread.sync_names()).map(|()| Answer::Done),
            Operation::Syncfs => {
                let directory = File::open(self.thread.directory()).map_err(|error| errno(&error))?;
                rustix::fs::syncfs(directory)?;
                self.told(self.thread.sync_names()).map(|()| Answer::Done)
            }
            // The kernel does without from now on, and takes what it is told for as true as what it is told of a file.
            Operation::Opendir { .. }
                if self.negotiated.has(InitFlags::NO_OPENDIR_SUPPORT) && !self.thread.sees_in_place() =>
            {
                Err(Errno::NOSYS)
            }
            Operation::Opendir { .. } => {
                let keeps = !self.thread.is_directory_in_place(at);
                let flags = if keeps { fopen::CACHE_DIR | fopen::KEEP_CACHE } else { 0 };
                Ok(Answer::Opened(Opened { handle: 0, flags, backing: None }))
            }
            Operation::Releasedir(_) | Operation::Destroy => Ok(Answer::Done),
            Operation::Readdir(read) => self.list(at, &read),
            Operation::Readdirplus(read) => self.list_plus(at, &read),
            Operation::Statfs => space(self.thread.directory()).map(Answer::Space),
            Operation::Getxattr { name, .. }
            | Operation::Setxattr { name, .. }
            | Operation::Removexattr { name }
                if name.starts_with(SYSTEM) =>
            {
                Err(Errno::OPNOTSUPP)
            }
            Operation::Getxattr { name, size, .. } => sized(self.told(self.thread.xattr(at, name))?, size),
            Operation::Listxattr { size } => {
                let names = self.told(self.thread.xattrs(at))?;
                sized(names.into_iter().flat_map(|name| [name, vec![0]].concat()).collect(), size)
            }
            Operation::Setxattr { name, value, flags, .. } => {
                let mode = xattr_mode(flags)?;
                let set = |thread: &Thread| thread.set_xattr(at, name, value, mode, now());
                self.once(hand, &header, set, |_| Ok(())).map(|()| Answer::Done)
            }
            Operation::Removexattr { name } => {
                let remove = |thread: &Thread| thread.remove_xattr(at, name, now());
                self.once(hand, &header, remove, |_| Ok(())).map(|()| Answer::Done)
            }
            Operation::Fallocate { offset, length, mode, .. } => {
                let file = self.told(self.files.written(at))?;
                self.dirty();
                let how = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
                rustix::fs::fallocate(&*file, how, offset, length)?;
                self.drop_set_id(&header, at)?;
                Ok(Answer::Done)
            }
            Operation::Lseek { offset, whence, .. } => {
                let file = self.told(self.files.readable(at))?;
                let to = match whence.cast_signed() {
                    libc::SEEK_DATA => rustix::fs::SeekFrom::Data(offset),
                    libc::SEEK_HOLE => rustix::fs::SeekFrom::Hole(offset),
                    _ => return Err(Errno::INVAL),
                };
                // Nobody reads or writes where this file stands.
                Ok(Answer::Position(rustix::fs::seek(&*file, to)?))
            }
            Operation::CopyFileRange(copy) => self.copy_range(&header, at, &copy),
            // Where nothing is passed through, an open has nothing to say: the kernel reads and writes without.
            // It checks permissions by the attributes, has the locks, and knows what to do without the others.
            Operation::Flush { .. }
            | Operation::Access { .. }
            | Operation::Bmap { .. }
            | Operation::Ioctl(_)
            | Operation::Poll { .. }
            | Operation::Statx { .. }
            | Operation::Init(_)
            | Operation::NotifyReply { .. }
            | Operation::Getlk(_)
            | Operation::Setlk(_)
            | Operation::Setlkw(_)
            | Operation::Forget { .. }
            | Operation::BatchForget(_)
            | Operation::Interrupt { .. }
            | Operation::Unknown(_) => Err(Errno::NOSYS),
        }
    }

    fn send(&self, responder: Responder, answer: Answer, outgoing: &[u8]) -> Result<Delivery, ReplyError> {
        match answer {
            Answer::Done => responder.done(),
            Answer::Absent(lifetime) => responder.entry(&Entry::negative(lifetime)),
            Answer::Entry(attributes) => responder.entry(&self.entry(&attributes)),
            Answer::Attributes(attributes) => {
                let (attributes, lifetime) = self.believed(attributes);
                responder.attr(&attr(&attributes), lifetime)
            }
            Answer::Opened(opened) => responder.opened(&opened),
            Answer::Created(attributes, opened) => responder.created(&self.entry(&attributes), &opened),
            Answer::Read(bytes) => responder.data(&outgoing[..bytes]),
            Answer::Bytes(bytes) => responder.data(&bytes),
            Answer::Size(bytes) => match u32::try_from(bytes) {
                Ok(bytes) => responder.xattr_size(bytes),
                Err(_) => responder.errno(Errno::OVERFLOW),
            },
            Answer::Listing(listing) => responder.listing(&listing),
            Answer::ListingPlus(listing) => responder.listing_plus(&listing),
            Answer::Written(bytes) => responder.written(bytes),
            Answer::Copied(bytes, width) => responder.copied(bytes, width),
            Answer::Position(offset) => responder.position(offset),
            Answer::Space(space) => responder.statfs(&space),
        }
    }

    fn entry(&self, attributes: &Attributes) -> Entry {
        let (attributes, lifetime) = self.believed(*attributes);
        entry(&attributes, lifetime)
    }

    /// How long the kernel may believe attributes, and these: those of a file that is found to be [settled](super::files) are looked at
    /// anew, since they may be from before.
    fn believed(&self, found: Attributes) -> (Attributes, Duration) {
        if found.is_in_place {
            return (found, LIFETIME_IN_PLACE);
        }
        if !self.passes() || !found.is_written {
            return (found, LIFETIME);
        }
        match self.files.is_settled(found.ino).then(|| self.thread.attributes(found.ino)) {
            Some(Ok(settled)) => (settled, LIFETIME),
            // What went wrong is told to who asks next.
            Some(Err(_)) | None => (found, Duration::ZERO),
        }
    }

    /// What the kernel is told of an error: what is not its asker's affair is noted.
    fn told<T>(&self, outcome: store::Result<T>) -> Result<T, Errno> {
        outcome.map_err(|error| {
            let errno = error.errno();
            let is_usual = matches!(error, store::Error::Refused(_))
                || matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::FBIG);
            if !is_usual {
                self.troubles.note(&error);
            }
            errno
        })
    }

    /// Carries out what may be done once only. When it is asked again and was done, `again` says what has come of it.
    fn once<T>(
        &self,
        hand: &mut Hand,
        header: &Header,
        operation: impl FnOnce(&Thread) -> store::Result<T>,
        again: impl FnOnce(Ino) -> store::Result<T>,
    ) -> Result<T, Errno> {
        self.dirty();
        let number = header.identity();
        let before = if header.resent { self.thread.carried_out(number) } else { None };
        self.told(match before {
            Some(ino) => again(ino),
            None => self.thread.carry_out(hand, number, operation),
        })
    }

    fn make(
        &self,
        hand: &mut Hand,
        header: &Header,
        operation: impl FnOnce(&Thread) -> store::Result<Attributes>,
    ) -> Result<Answer, Errno> {
        self.once(hand, header, operation, |ino| self.thread.attributes(ino)).map(Answer::Entry)
    }

    fn lose(
        &self,
        hand: &mut Hand,
        header: &Header,
        operation: impl FnOnce(&Thread) -> store::Result<Option<Removed>>,
    ) -> Result<Answer, Errno> {
        // Of what was done before, it is known who has no name.
        let removed = self.once(hand, header, operation, |_| Ok(None))?;
        if let Some(Removed { ino, links: 0 }) = removed {
            self.departed.unnamed(ino);
        }
        Ok(Answer::Done)
    }

    fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Answer, Errno> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let found = self.told(self.thread.lookup(directory, name))?;
        let lifetime = match found {
            None if self.thread.may_appear(directory, name) => LIFETIME_IN_PLACE,
            _ => LIFETIME,
        };
        Ok(found.map_or(Answer::Absent(lifetime), Answer::Entry))
    }

    /// A file that a caller makes: its group is the directory's where that hands it on.
    fn new_file(&self, header: &Header, directory: Ino, mode: u32, kind: Kind) -> Result<New, Errno> {
        let above = self.told(self.thread.attributes(directory))?;
        let hands_on = above.mode & SET_GID != 0;
        let inherited = if hands_on && kind == Kind::Directory { SET_GID } else { 0 };
        Ok(New {
            mode: permissions(mode) | inherited,
            uid: header.uid,
            gid: if hands_on { above.gid } else { header.gid },
        })
    }

    fn set_attributes(&self, at: Ino, set: &Setattr) -> Result<Attributes, Errno> {
        self.dirty();
        let now = now();
        let mut changes = AttributeChanges {
            mode: set.mode.map(permissions),
            uid: set.uid,
            gid: set.gid,
            size: set.size,
            accessed: set.atime.map(|to| set_time(to, now)),
            modified: set.mtime.map(|to| set_time(to, now)),
        };
        let gives_away = set.uid.is_some() || set.gid.is_some();
        if changes.mode.is_none() && (set.kill_suid_sgid || gives_away) {
            let before = self.told(self.thread.attributes(at))?;
            changes.mode = (before.kind == Kind::File).then(|| without_set_id(before.mode));
            changes.mode = changes.mode.filter(|mode| *mode != before.mode);
        }
        let is_set = self.thread.set_attributes(at, &changes, now);
        if set.size.is_some() {
            self.files.copied_up(at);
        }
        self.told(is_set)
    }

    /// A file was written by somebody whose writes take set-id bits away.
    fn drop_set_id(&self, header: &Header, at: Ino) -> Result<(), Errno> {
        if header.uid == 0 {
            return Ok(());
        }
        self.clear_set_id(at)
    }

    fn clear_set_id(&self, at: Ino) -> Result<(), Errno> {
        let before = self.told(self.thread.mode(at))?;
        let mode = without_set_id(before);
        if mode == before {
            return Ok(());
        }
        let changes = AttributeChanges { mode: Some(mode), ..AttributeChanges::default() };
        self.dirty();
        self.told(self.thread.set_attributes(at, &changes, now())).map(drop)
    }

    fn open(&self, header: &Header, at: Ino, flags: u32) -> Result<Answer, Errno> {
        // The kernel does without from now on: each file is read and written through its pages, and nothing depends on an open.
        let is_asked = self.passes() || self.thread.sees_in_place();
        if !is_asked && self.negotiated.has(InitFlags::NO_OPEN_SUPPORT) {
            return Err(Errno::NOSYS);
        }
        let purpose = match flags.cast_signed() & libc::O_ACCMODE {
            libc::O_RDONLY => For::Reading,
            _ => For::Writing,
        };
        if purpose == For::Writing {
            self.dirty();
        }
        self.failed(self.files.open(header.identity(), at, purpose)).map(Answer::Opened)
    }

    /// Makes a file as `make` does, and opens it.
    fn create(
        &self,
        hand: &mut Hand,
        header: &Header,
        (at, mode): (Ino, u32),
        make: impl FnOnce(&Thread, New) -> store::Result<(Attributes, File)>,
    ) -> Result<(Attributes, Opened), Errno> {
        let new = self.new_file(header, at, mode, Kind::File)?;
        let make = |thread: &Thread| make(thread, new).map(|(attributes, file)| (attributes, Some(file)));
        let again = |ino| Ok((self.thread.attributes(ino)?, None));
        let (attributes, file) = self.once(hand, header, make, again)?;
        if attributes.links == 0 {
            self.departed.unnamed(attributes.ino);
        }
        let number = header.identity();
        let opened = match file {
            Some(file) => self.files.made(number, attributes.ino, file),
            None => self.files.open(number, attributes.ino, For::Writing),
        };
        Ok((attributes, self.failed(opened)?))
    }

    fn failed<T>(&self, outcome: Result<T, Failed>) -> Result<T, Errno> {
        outcome.or_else(|failed| match failed {
            Failed::Thread(error) => self.told(Err(error)),
            Failed::Errno(errno) => Err(errno),
        })
    }

    fn read(&self, outgoing: &mut Vec<u8>, at: Ino, read: &request::Read) -> Result<Answer, Errno> {
        let size = (read.size as usize).min(self.negotiated.max_write as usize);
        if outgoing.len() < size {
            outgoing.resize(size, 0);
        }
        if let Some(filled) = self.told(self.files.read_small(at, read.offset, &mut outgoing[..size]))? {
            return Ok(Answer::Read(filled));
        }
        let file = self.told(self.files.readable(at))?;
        let mut filled = 0;
        while filled < size {
            let found = file.read_at(&mut outgoing[filled..size], read.offset + filled as u64);
            match found {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(&error)),
            }
        }
        Ok(Answer::Read(filled))
    }

    fn write(&self, at: Ino, write: &Write<'_>) -> Result<Answer, Errno> {
        let file = self.told(self.files.written(at))?;
        if write.kill_suid_sgid {
            self.clear_set_id(at)?;
        }
        let mut written = 0;
        while written < write.data.len() {
            match file.write_at(&write.data[written..], write.offset + written as u64) {
                Ok(bytes) if bytes > 0 => written += bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // What is written counts; the next write says why there is no more.
                _ if written > 0 => break,
                Ok(_) => return Err(Errno::NOSPC),
                Err(error) => return Err(errno(&error)),
            }
        }
        Ok(Answer::Written(u32::try_from(written).unwrap_or(u32::MAX)))
    }

    fn copy_range(&self, header: &Header, at: Ino, copy: &CopyFileRange) -> Result<Answer, Errno> {
        let to_ino = ino(copy.target_node);
        let to = self.told(self.files.written(to_ino))?;
        let from = self.told(self.files.readable(at))?;
        self.dirty();
        let (mut start, mut target) = (copy.offset, copy.target_offset);
        let length = usize::try_from(copy.length.min(COPY_BYTES_MAX)).unwrap_or(usize::MAX);
        let copied = rustix::fs::copy_file_range(&*from, Some(&mut start), &*to, Some(&mut target), length);
        // The kernel copies by itself what the file system below does not.
        let copied = copied.map_err(|errno| match errno {
            Errno::NOSYS | Errno::XDEV => Errno::OPNOTSUPP,
            errno => errno,
        })?;
        self.drop_set_id(header, to_ino)?;
        Ok(Answer::Copied(copied as u64, copy.width))
    }

    fn list(&self, at: Ino, read: &request::Read) -> Result<Answer, Errno> {
        let mut listing = Listing::new(read.size);
        let most = (read.size / LISTED_BYTES_MIN).max(1);
        self.each_name(at, read.offset, most, |name, _| listing.push(name) != Placed::Full)?;
        Ok(Answer::Listing(listing))
    }

    fn list_plus(&self, at: Ino, read: &request::Read) -> Result<Answer, Errno> {
        let mut listing = ListingPlus::new(read.size);
        let most = (read.size / LISTED_PLUS_BYTES_MIN).max(1);
        self.each_name(at, read.offset, most, |name, attributes| {
            let entry = attributes
                .map_or_else(|| Entry::negative(Duration::ZERO), |attributes| self.entry(attributes));
            listing.push(name, &entry) != Placed::Full
        })?;
        Ok(Answer::ListingPlus(listing))
    }

    /// Gives names behind an offset to `take`, until it refuses one or there are enough.
    fn each_name(
        &self,
        at: Ino,
        offset: u64,
        most: u32,
        mut take: impl FnMut(&Name<'_>, Option<&Attributes>) -> bool,
    ) -> Result<(), Errno> {
        let directory = libc::S_IFDIR;
        if offset < DOT && !take(&Name { ino: at.0, cookie: DOT, file_type: directory, name: b"." }, None) {
            return Ok(());
        }
        if offset < DOT_DOT {
            let above = self.told(self.thread.parent(at))?;
            let name = Name { ino: above.0, cookie: DOT_DOT, file_type: directory, name: b".." };
            if !take(&name, None) {
                return Ok(());
            }
        }
        let from = offset.saturating_sub(DOT_DOT);
        for listed in self.told(self.thread.list(at, from, most as usize))? {
            let name = Name {
                ino: listed.attributes.ino.0,
                cookie: listed.cookie + DOT_DOT,
                file_type: file_type(listed.attributes.kind),
                name: &listed.name,
            };
            if !take(&name, Some(&listed.attributes)) {
                break;
            }
        }
        Ok(())
    }
}

/// The answer to a question for bytes of which the kernel first asks the size.
fn sized(bytes: Vec<u8>, size: u32) -> Result<Answer, Errno> {
    match size {
        0 => Ok(Answer::Size(bytes.len())),
        size if bytes.len() > size as usize => Err(Errno::RANGE),
        _ => Ok(Answer::Bytes(bytes)),
    }
}

/// What a write leaves of a file's mode.
fn without_set_id(mode: u16) -> u16 {
    // Without execution by the group, the bit is for mandatory locks.
    let group = if mode & GROUP_EXECUTES != 0 { SET_GID } else { 0 };
    mode & !(SET_ID & !SET_GID | group)
}

fn space(directory: &std::path::Path) -> Result<abi::Kstatfs, Errno> {
    let found = rustix::fs::statvfs(directory)?;
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(abi::Kstatfs {
        blocks: found.f_blocks,
        bfree: found.f_bfree,
        bavail: found.f_bavail,
        files: found.f_files,
        ffree: found.f_ffree,
        bsize: narrow(found.f_bsize),
        namelen: NAME_BYTES_MAX as u32,
        frsize: narrow(found.f_frsize),
        ..abi::Kstatfs::default()
    })
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
