//! Files here and on machines, through the same few calls.

use std::collections::VecDeque;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wire::api::ErrorKind;
use wire::api::file::{self, CHUNK_BYTES_MAX, Content, Creation, Entry, FileKind, FileTime, Links, Purpose};
use wire::api::id::HandleId;
use wire::api::machine::{Caller, Machine, Source};
use wire::bytestring::ByteString;

use super::work::Target;
use crate::client::{Client, Ticket};
use crate::cmd::cat;
use crate::cmd::ls::read_directory;
use crate::error::{Error, Result};

/// How many writes are under way at once, as many as reads.
const WRITES_IN_FLIGHT: usize = 8;

/// The content that may be on its way to a file: what is below the end of a file by more than this is complete.
pub const WINDOW_BYTES: u64 = (WRITES_IN_FLIGHT * CHUNK_BYTES_MAX) as u64;

/// The mode of a file or directory that is not complete: nobody else's business.
pub const UNFINISHED_FILE: u32 = 0o600;
const UNFINISHED_DIRECTORY: u32 = 0o700;

/// Files of this computer, and those of machines.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    caller: &'a Caller,
    /// None where no file is anywhere else.
    client: Option<&'a Client>,
}

/// What a copy keeps of its original.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Last change of content.
    pub modified: FileTime,
}

impl Attributes {
    /// Permissions and time of change. Bits that lend an owner's rights stay behind: the copy has another owner.
    pub fn of(entry: &Entry) -> Attributes {
        Attributes { mode: entry.mode & 0o777, modified: entry.modified }
    }
}

/// Whether a file can be had by [`Files::get`].
pub fn is_small(entry: &Entry) -> bool {
    entry.kind == FileKind::File && entry.size <= CHUNK_BYTES_MAX as u64
}

impl<'a> Files<'a> {
    /// Without a client, all files have to be of this computer.
    pub fn new(caller: &'a Caller, client: Option<&'a Client>) -> Files<'a> {
        Files { caller, client }
    }

    /// Whether all of them are of this computer.
    pub fn are_local(&self) -> bool {
        self.client.is_none()
    }

    /// Whether it is of this computer.
    pub fn is_here(&self, at: &Source) -> bool {
        matches!(at, Source::Files { machine: Machine::Host, .. })
    }

    /// Who asks.
    pub fn caller(&self) -> &'a Caller {
        self.caller
    }

    /// The daemon.
    pub fn client(&self) -> Result<&'a Client> {
        self.client.ok_or_else(|| Error::new(ErrorKind::Failure, "there is no connection to the daemon"))
    }

    /// What is there; none when there is nothing.
    pub fn stat(&self, at: &Source, links: Links) -> Result<Option<Entry>> {
        let found = match self.local(at)? {
            Some(path) => local_entry(&path, links),
            None => {
                let request = file::Stat { source: at.clone(), links, caller: self.caller.clone() };
                self.client()?.call(request)
            }
        };
        match found {
            Ok(entry) => Ok(Some(entry)),
            Err(Error::Failed(failure)) if failure.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is in a directory.
    pub fn list(&self, at: &Source) -> Result<Vec<Entry>> {
        let Some(path) = self.local(at)? else {
            let request = file::OpenDirectory { source: at.clone(), caller: self.caller.clone() };
            return read_directory(self.client()?, request);
        };
        let could_not = |error| local_error("read the directory", &path, &error);
        let names =
            fs::read_dir(&path).map_err(could_not)?.collect::<io::Result<Vec<_>>>().map_err(could_not)?;
        names.iter().map(|name| local_entry(&name.path(), Links::Keep)).collect()
    }

    /// Makes a directory that only its owner may use yet.
    pub fn make_directory(&self, at: &Source) -> Result<()> {
        if let Some(path) = self.local(at)? {
            let made = fs::DirBuilder::new().mode(UNFINISHED_DIRECTORY).create(&path);
            return made.map_err(|error| local_error("make the directory", &path, &error));
        }
        let request = file::MakeDirectory {
            source: at.clone(),
            mode: UNFINISHED_DIRECTORY,
            caller: self.caller.clone(),
        };
        self.client()?.call(request).map(drop)
    }

    /// Makes a symbolic link; one that is there is replaced.
    pub fn make_link(&self, at: &Source, points_to: &ByteString, target: Target) -> Result<()> {
        let is_link = |there: Entry| there.kind == FileKind::Link;
        if target == Target::Unknown && self.stat(at, Links::Keep)?.is_some_and(is_link) {
            self.remove(at)?;
        }
        if let Some(path) = self.local(at)? {
            let made = std::os::unix::fs::symlink(points_to.as_path(), &path);
            return made.map_err(|error| local_error("make the link", &path, &error));
        }
        let (source, target, caller) = (at.clone(), points_to.clone(), self.caller.clone());
        self.client()?.call(file::MakeLink { source, target, caller }).map(drop)
    }

    /// Removes a file or a link.
    pub fn remove(&self, at: &Source) -> Result<()> {
        if let Some(path) = self.local(at)? {
            return fs::remove_file(&path).map_err(|error| local_error("remove", &path, &error));
        }
        let request = file::Remove { source: at.clone(), caller: self.caller.clone() };
        self.client()?.call(request).map(drop)
    }

    /// Gives a file its final name.
    pub fn rename(&self, from: &Source, to: &Source) -> Result<()> {
        if let (Some(from), Some(path)) = (self.local(from)?, self.local(to)?) {
            return fs::rename(from, &path).map_err(|error| local_error("name", &path, &error));
        }
        let (source, to, caller) = (from.clone(), to.clone(), self.caller.clone());
        let request = file::Rename { source, to, taken: file::Taken::Replaced, caller };
        self.client()?.call(request).map(drop)
    }

    /// Sets what a copy keeps.
    pub fn set_attributes(&self, at: &Source, attributes: Attributes) -> Result<()> {
        if let Some(path) = self.local(at)? {
            let set = File::open(&path).and_then(|file| set_local_attributes(&file, attributes));
            return set.map_err(|error| local_error("set the attributes of", &path, &error));
        }
        let request = file::SetAttributes {
            source: at.clone(),
            links: Links::Follow,
            mode: Some(attributes.mode),
            size: None,
            modified: Some(attributes.modified),
            accessed: None,
            caller: self.caller.clone(),
        };
        self.client()?.call(request).map(drop)
    }

    /// A small file's content; none when it turns out not to be one.
    pub fn get(&self, at: &Source) -> Result<Option<Vec<u8>>> {
        if let Some(path) = self.local(at)? {
            let opened = File::open(&path).map_err(|error| local_error("open", &path, &error))?;
            // So that it is read at once, and its end is found.
            let length = opened.metadata().map_or(0, |metadata| metadata.len());
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(CHUNK_BYTES_MAX);
            let mut content = Vec::with_capacity(length + 1);
            let read = opened.take(CHUNK_BYTES_MAX as u64 + 1).read_to_end(&mut content);
            read.map_err(|error| local_error("read", &path, &error))?;
            return Ok((content.len() <= CHUNK_BYTES_MAX).then_some(content));
        }
        let request = file::Get { source: at.clone(), caller: self.caller.clone() };
        match self.client()?.call(request) {
            Ok(got) => Ok(Some(got.content.0)),
            Err(Error::Failed(failure)) if failure.kind == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a small file, or gives the one that is there this content.
    pub fn put(&self, at: &Source, content: Vec<u8>, attributes: Attributes) -> Result<()> {
        if let Some(path) = self.local(at)? {
            let mut options = File::options();
            options.write(true).create(true).truncate(true).mode(UNFINISHED_FILE);
            let put = options
                .open(&path)
                .and_then(|mut file| io::Write::write_all(&mut file, &content).map(|()| file))
                .and_then(|file| set_local_attributes(&file, attributes));
            return put.map_err(|error| local_error("write", &path, &error));
        }
        let request = file::Put {
            source: at.clone(),
            mode: attributes.mode,
            modified: Some(attributes.modified),
            content: Content(content),
            caller: self.caller.clone(),
        };
        self.client()?.call(request).map(drop)
    }

    /// Opens a file for reading from `offset`.
    pub fn read(&self, at: &Source, offset: u64) -> Result<Incoming> {
        if let Some(path) = self.local(at)? {
            let opened = File::open(&path).and_then(|mut file| {
                if offset > 0 {
                    io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
                }
                Ok(file)
            });
            let file = opened.map_err(|error| local_error("open", &path, &error))?;
            return Ok(Incoming::Here { file, path });
        }
        let request = file::Open { source: at.clone(), purpose: Purpose::Read, caller: self.caller.clone() };
        let opened = self.client()?.call(request)?;
        let reader = cat::Reader::new(opened.handle, offset, opened.entry.size);
        Ok(Incoming::There { handle: opened.handle, reader })
    }

    /// The next chunk; none at the end.
    pub fn next_chunk(&self, content: &mut Incoming) -> Result<Option<Vec<u8>>> {
        match content {
            Incoming::Here { file, path } => {
                let mut chunk = Vec::with_capacity(CHUNK_BYTES_MAX);
                let read = file.take(CHUNK_BYTES_MAX as u64).read_to_end(&mut chunk);
                read.map_err(|error| local_error("read", path, &error))?;
                Ok((!chunk.is_empty()).then_some(chunk))
            }
            Incoming::There { reader, .. } => reader.next(self.client()?),
        }
    }

    /// Closes a file that was read, to its end or not.
    pub fn close(&self, content: Incoming) -> Result<()> {
        match content {
            Incoming::Here { .. } => Ok(()),
            Incoming::There { handle, reader } => {
                let client = self.client()?;
                reader.finish(client);
                client.call(file::Close { handle }).map(drop)
            }
        }
    }

    /// Opens a file for writing.
    pub fn write(&self, at: &Source, creation: Creation) -> Result<Sink> {
        if let Some(path) = self.local(at)? {
            let mut options = File::options();
            options.write(true).mode(UNFINISHED_FILE);
            match creation {
                Creation::Existing => &mut options,
                Creation::Keep => options.create(true),
                Creation::Truncate => options.create(true).truncate(true),
                Creation::New => options.create_new(true),
            };
            let file = options.open(&path).map_err(|error| local_error("open", &path, &error))?;
            return Ok(Sink::Here { file, path });
        }
        let purpose = Purpose::Write { create: creation, mode: UNFINISHED_FILE };
        let request = file::Open { source: at.clone(), purpose, caller: self.caller.clone() };
        let handle = self.client()?.call(request)?.handle;
        Ok(Sink::There { source: at.clone(), handle, under_way: VecDeque::new() })
    }

    /// Writes a chunk of at most [`CHUNK_BYTES_MAX`]. It may still be under way when this returns, and its failure be
    /// that of a later call.
    pub fn write_chunk(&self, sink: &mut Sink, offset: u64, chunk: Vec<u8>) -> Result<()> {
        match sink {
            Sink::Here { file, path } => match file.write_all_at(&chunk, offset) {
                // A pipe or a terminal has no offsets.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SPIPE.raw_os_error()) => {
                    io::Write::write_all(file, &chunk)
                }
                outcome => outcome,
            }
            .map_err(|error| local_error("write", path, &error)),
            Sink::There { handle, under_way, .. } => {
                let client = self.client()?;
                while under_way.len() >= WRITES_IN_FLIGHT {
                    wait_for_oldest(client, under_way)?;
                }
                let request = file::Write { handle: *handle, offset, content: Content(chunk) };
                under_way.push_back(client.send(request)?);
                Ok(())
            }
        }
    }

    /// Waits for all that is under way, gives the file its length, and closes it.
    pub fn finish(&self, mut sink: Sink, length: Option<u64>) -> Result<()> {
        if let Err(error) = self.settle(&mut sink) {
            self.abandon(sink);
            return Err(error);
        }
        match sink {
            Sink::Here { file, path } => match length {
                Some(length) => file.set_len(length).map_err(|error| local_error("write", &path, &error)),
                None => Ok(()),
            },
            Sink::There { source, handle, .. } => {
                let caller = self.caller.clone();
                let client = self.client()?;
                client.call(file::Close { handle })?;
                if length.is_none() {
                    return Ok(());
                }
                let request = file::SetAttributes {
                    source,
                    links: Links::Follow,
                    mode: None,
                    size: length,
                    modified: None,
                    accessed: None,
                    caller,
                };
                client.call(request).map(drop)
            }
        }
    }

    /// Waits for all that is under way to a file.
    fn settle(&self, sink: &mut Sink) -> Result<()> {
        let Sink::There { under_way, .. } = sink else {
            return Ok(());
        };
        let client = self.client()?;
        while !under_way.is_empty() {
            wait_for_oldest(client, under_way)?;
        }
        Ok(())
    }

    /// Closes a file whose content could not be written. What is there stays.
    pub fn abandon(&self, sink: Sink) {
        let Sink::There { handle, under_way, .. } = sink else {
            return;
        };
        // What went wrong has been told before.
        let _told = self.client().and_then(|client| {
            under_way.into_iter().for_each(|ticket| drop(client.wait(ticket)));
            client.call(file::Close { handle })
        });
    }

    /// The path of a file of this computer; none for one elsewhere.
    fn local(&self, at: &Source) -> Result<Option<PathBuf>> {
        let Source::Files { machine: Machine::Host, path } = at else {
            return Ok(None);
        };
        if path.as_bytes().starts_with(b"/") {
            return Ok(Some(path.clone().into()));
        }
        match self.caller.environment.get("HOME") {
            Some(home) => Ok(Some(home.as_path().join(path.as_path()))),
            None => Err(Error::usage(format_args!("`{at}` is in the home directory, and HOME is not set"))),
        }
    }
}

/// A file that is read.
pub enum Incoming {
    /// Of this computer.
    Here {
        /// Opened.
        file: File,
        /// Its name, for errors.
        path: PathBuf,
    },
    /// Of a machine.
    There {
        /// The daemon's.
        handle: HandleId,
        /// What is under way.
        reader: cat::Reader,
    },
}

/// A file that is written.
pub enum Sink {
    /// Of this computer.
    Here {
        /// Opened.
        file: File,
        /// Its name, for errors.
        path: PathBuf,
    },
    /// Of a machine.
    There {
        /// Its name.
        source: Source,
        /// The daemon's.
        handle: HandleId,
        /// What is under way.
        under_way: VecDeque<Ticket<file::Write>>,
    },
}

fn wait_for_oldest(client: &Client, under_way: &mut VecDeque<Ticket<file::Write>>) -> Result<()> {
    match under_way.pop_front() {
        Some(ticket) => client.wait(ticket).map(drop),
        None => Ok(()),
    }
}

fn local_error(verb: &str, path: &Path, error: &io::Error) -> Error {
    Error::io(format_args!("could not {verb} `{}`", ByteString::from(path)), error)
}

fn local_entry(path: &Path, links: Links) -> Result<Entry> {
    let metadata = match links {
        Links::Follow => fs::metadata(path),
        Links::Keep => fs::symlink_metadata(path),
    };
    let metadata = metadata.map_err(|error| local_error("look at", path, &error))?;
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Link,
        kind if kind.is_fifo() => FileKind::Fifo,
        kind if kind.is_socket() => FileKind::Socket,
        kind if kind.is_char_device() => FileKind::CharacterDevice,
        kind if kind.is_block_device() => FileKind::BlockDevice,
        _ => FileKind::File,
    };
    let target = match kind {
        FileKind::Link => {
            let target = fs::read_link(path).map_err(|error| local_error("read the link", path, &error))?;
            Some(ByteString::from(target))
        }
        _ => None,
    };
    let time = |seconds: i64, nanoseconds: i64| FileTime {
        seconds,
        nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
    };
    Ok(Entry {
        name: path.file_name().map(|name| ByteString::from(name.to_owned())).unwrap_or_default(),
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: metadata.size(),
        blocks: metadata.blocks(),
        links: metadata.nlink(),
        inode: metadata.ino(),
        device: metadata.dev(),
        birth: 0,
        modified: time(metadata.mtime(), metadata.mtime_nsec()),
        changed: time(metadata.ctime(), metadata.ctime_nsec()),
        accessed: time(metadata.atime(), metadata.atime_nsec()),
        target,
    })
}

fn set_local_attributes(file: &File, attributes: Attributes) -> io::Result<()> {
    let FileTime { seconds, nanoseconds } = attributes.modified;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let modified = match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(whole),
        false => UNIX_EPOCH.checked_add(whole),
    };
    let modified: SystemTime = modified
        .and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into())))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its time cannot be kept here"))?;
    file.set_times(FileTimes::new().set_modified(modified))?;
    file.set_permissions(Permissions::from_mode(attributes.mode))
}
