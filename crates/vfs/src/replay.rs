//! What a mount that is gone has left unsaved, brought to the source, or put aside there.
//!
//! ```text
//!              ┌─ the same file, with the content that the writes were for ─► written, synced ─┐
//!  of one file ┼─ the same file, and all of it is there already ────────────► synced ──────────┼─► over
//!              └─ another file, none, or another content ───────────────────► in a new file ───┘
//!                                                                             beside it, synced
//! ```
//!
//! Nothing is written over a content that the writes were not for. How far it has come is recorded before and after each
//! step in a [`Log`](crate::log) of its own, so that a replay that is cut anywhere is gone on with by the next one, and
//! comes to the same. Its records, in numbers of 8 bytes:
//!
//! | kind | | numbers | then |
//! |---|---|---|---|
//! | 1 | written | node, how many pieces, size and last change of the content after that: seconds, nanoseconds | |
//! | 2 | put aside | node | the name of the new file |
//! | 3 | over | node | |
//!
//! A piece is what is written at once: of all writes of a file, what counts in the end, in the order of the file.

mod extents;
mod progress;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::errno::{Errno, Result};
use crate::file::{Caller, Content, Entry, FileId, Kind, NAME_BYTES_MAX, Name, OpenFlags, WriteAt};
use crate::journal::{JournalError, files_by_age, read_left};
use crate::log::{Log, LogError};
use crate::source::{HandleId, Place, Source, TRANSFER_BYTES_MAX, Target};
use crate::table::Ino;
use crate::table::ledger::Replay as Ledger;
use crate::vfs::record::FILE as STATE;
use extents::{Extents, Piece};
use progress::{Progress, Written};

/// Files that are replayed at once: enough that a far machine is not waited for one round trip after the other.
const FILES_AT_ONCE: usize = 16;

/// Names that are tried for a new file beside the one that the writes were for.
const ASIDE_NAMES_MAX: u32 = 100;

/// What the name of a new file has between the file's own name and the label.
const ASIDE: &str = ".stead-conflict-";

/// The name of a file of which no name is known.
const NO_NAME: &[u8] = b"unnamed";

/// The first of the handles that are used here. A file system's own count from 1, and the kernel's are even.
const HANDLES_FROM: u64 = 1 << 62;

/// A journal has no more files than this many bits count: each has a record of 64 bytes.
const HANDLES_SHIFT: u32 = 28;

const READ_WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
    sync: false,
    direct: false,
    exclusive: false,
};

/// Why nothing of it was replayed, or nothing more.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// What was taken from writers cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It is in no place that a file has.
    #[error("the journal in `{}` has a write at offset {offset}", directory.display())]
    Offset {
        /// Whose.
        directory: PathBuf,
        /// Which.
        offset: u64,
    },
    /// How far it has come cannot be recorded.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What is unsaved of one file.
#[derive(Debug)]
struct UnsavedFile {
    ino: Ino,
    /// Which, and where it was last; `None` if that is not known.
    place: Option<(FileId, Box<[u8]>)>,
    /// The content that the first of the writes was for.
    content: Option<Content>,
    extents: Extents,
    clear_set_id: bool,
    writes: u64,
}

/// What a mount has left unsaved in its directory.
#[derive(Debug)]
pub struct Unsaved {
    directory: PathBuf,
    files: Vec<UnsavedFile>,
}

/// How it is replayed.
#[derive(Clone, Debug)]
pub struct Manner {
    /// The root at the source.
    pub root: FileId,
    /// How many replays this process has made from the same source: their handles are others.
    pub round: u32,
    /// What tells a new file from others of the same file: at most 64 bytes of letters, digits and hyphens.
    pub label: String,
    /// For whom new files are made.
    pub caller: Caller,
}

/// A file that was not what the writes were for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Where that file was, below the root.
    pub of: Box<[u8]>,
    /// Where what was to be written to it is now.
    pub to: Box<[u8]>,
}

/// What it came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Writes that are in their files now, and on the source's stable storage.
    pub writes: u64,
    /// What they and those put aside have changed, in bytes.
    pub bytes: u64,
    /// What was put aside.
    pub aside: Vec<Aside>,
    /// Files that stay unsaved, with what stood in the way. They can be replayed again.
    pub left: Vec<(Box<[u8]>, Errno)>,
}

impl Unsaved {
    /// Reads what is in the directory of a mount that is gone. Nobody else may be at it.
    pub fn read(directory: &Path) -> std::result::Result<Unsaved, ReplayError> {
        let mut left = read_left(directory)?;
        let mut at = HashMap::new();
        let mut files: Vec<UnsavedFile> = Vec::new();
        for write in left.pending {
            let (ino, offset) = (write.header.ino, write.header.offset);
            let number = *at.entry(ino).or_insert(files.len());
            if number == files.len() {
                let described = left.files.remove(&ino).unwrap_or_default();
                files.push(UnsavedFile {
                    ino,
                    place: described.place,
                    content: described.content,
                    extents: Extents::default(),
                    clear_set_id: false,
                    writes: 0,
                });
            }
            let file = &mut files[number];
            file.extents
                .put(offset, write.bytes)
                .ok_or_else(|| ReplayError::Offset { directory: directory.to_owned(), offset })?;
            file.clear_set_id |= write.header.clear_set_id;
            file.writes += 1;
        }
        let mut unsaved = Unsaved { directory: directory.to_owned(), files };
        if !unsaved.files.is_empty() {
            unsaved.learn_places();
        }
        Ok(unsaved)
    }

    /// Takes the places from the mount's own record: it knows of what was renamed after it was written to.
    fn learn_places(&mut self) {
        let mut ledger = Ledger::new();
        match Log::open(&self.directory.join(STATE), |kind, content| ledger.record(kind, content)) {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "files are looked for where they were written to"),
        }
        if let Some(error) = ledger.bad {
            return tracing::warn!(%error, "files are looked for where they were written to");
        }
        for file in &mut self.files {
            if let Ok(Place { id, path }) = ledger.table.last_place(file.ino) {
                file.place = Some((id, path));
            }
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Writes that are unsaved.
    pub fn writes(&self) -> u64 {
        self.files.iter().map(|file| file.writes).sum()
    }
}

/// Removes what a mount has left in its directory besides its configuration, when nothing of it is unsaved. May be cut
/// anywhere.
pub fn remove(directory: &Path) -> io::Result<()> {
    // While the journal is there, it is known what of it is over.
    let names = files_by_age(directory).into_iter().chain([STATE, "state.new", progress::FILE, "replay.new"]);
    for name in names {
        match std::fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Brings what is unsaved to the source. After an error of the source the others go on, and what is left can be replayed
/// again; so it can when this is dropped half way. Within a tokio runtime.
pub async fn replay<S: Source>(
    unsaved: Unsaved,
    source: Arc<S>,
    manner: Manner,
) -> std::result::Result<Replayed, ReplayError> {
    let progress = Mutex::new(Progress::open(&unsaved.directory)?);
    let first_handle = HANDLES_FROM + (u64::from(manner.round) << HANDLES_SHIFT);
    let replay = Arc::new(Replay { source, manner, progress });
    let mut waiting = (first_handle..).zip(unsaved.files);
    let (mut under_way, mut replayed) = (JoinSet::new(), Replayed::default());
    loop {
        while under_way.len() < FILES_AT_ONCE
            && let Some((number, file)) = waiting.next()
        {
            let replay = replay.clone();
            under_way.spawn(async move {
                let fate = replay.save(&file, HandleId::of_number(number)).await;
                (file, fate)
            });
        }
        let Some(joined) = under_way.join_next().await else { break };
        let Ok((file, fate)) = joined else {
            // Only a panic ends such a task by itself.
            replayed.left.push((NO_NAME.into(), Errno::EIO));
            continue;
        };
        let path = file.place.map_or_else(|| NO_NAME.into(), |(_, path)| path);
        match fate {
            Ok(Fate::Saved) => {
                replayed.writes += file.writes;
                replayed.bytes += file.extents.bytes();
            }
            Ok(Fate::Aside(to)) => {
                replayed.bytes += file.extents.bytes();
                replayed.aside.push(Aside { of: path, to });
            }
            Ok(Fate::Nameless) => {
                tracing::info!(node = file.ino.0, "what had no name is gone with its mount")
            }
            Err(Stuck::Source(errno)) => replayed.left.push((path, errno)),
            Err(Stuck::Log(error)) => return Err(error.into()),
        }
    }
    replayed.aside.sort_by(|one, other| one.to.cmp(&other.to));
    Ok(replayed)
}

/// What becomes of what was to be written to one file.
enum Fate {
    Saved,
    Aside(Box<[u8]>),
    /// The file never had a name, and went with its last handle.
    Nameless,
}

/// Why it has not come to that.
enum Stuck {
    Source(Errno),
    Log(LogError),
}

impl From<Errno> for Stuck {
    fn from(errno: Errno) -> Stuck {
        Stuck::Source(errno)
    }
}

impl From<LogError> for Stuck {
    fn from(error: LogError) -> Stuck {
        Stuck::Log(error)
    }
}

/// What was found where a file was.
struct Found {
    /// The directory, or the nearest above it that is there.
    directory: Place,
    /// What has the name there.
    entry: Option<Entry>,
}

struct Replay<S> {
    source: Arc<S>,
    manner: Manner,
    progress: Mutex<Progress>,
}

impl<S: Source> Replay<S> {
    async fn save(&self, file: &UnsavedFile, handle: HandleId) -> std::result::Result<Fate, Stuck> {
        if file.place.as_ref().is_some_and(|(_, path)| path.is_empty()) {
            return Ok(Fate::Nameless);
        }
        let pieces = file.extents.pieces(TRANSFER_BYTES_MAX as usize);
        let (id, path) = match &file.place {
            Some((id, path)) => (Some(*id), path.as_ref()),
            None => (None, NO_NAME),
        };
        let (is_over, aside) = {
            let progress = self.progress.lock();
            (progress.is_over(file.ino), progress.aside(file.ino))
        };
        if is_over && aside.is_none() {
            return Ok(Fate::Saved);
        }
        let found = self.find(path).await?;
        if let (true, Some(name)) = (is_over, &aside) {
            return Ok(Fate::Aside(join(&found.directory.path, name)));
        }
        let is_same =
            |entry: &Entry| Some(entry.id) == id && entry.attributes.kind == Kind::File && aside.is_none();
        if let Some(entry) = found.entry.filter(is_same) {
            let place = Place { id: entry.id, path: path.into() };
            if self.write_to(file, place, &pieces, handle).await? {
                self.progress.lock().over(file.ino)?;
                return Ok(Fate::Saved);
            }
        }
        let to = self.put_aside(file, (path, found), &pieces, handle, aside).await?;
        self.progress.lock().over(file.ino)?;
        Ok(Fate::Aside(to))
    }

    /// Descends to the file at `path`, through directories only.
    async fn find(&self, path: &[u8]) -> Result<Found> {
        let mut directory = Place { id: self.manner.root, path: Box::default() };
        let mut names = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = names.next() {
            let entry = match is_name(name) {
                true => self.look(directory.clone(), name).await?,
                false => None,
            };
            match entry {
                Some(entry) if names.peek().is_none() => {
                    return Ok(Found { directory, entry: Some(entry) });
                }
                Some(entry) if entry.attributes.kind == Kind::Directory => {
                    directory = Place { id: entry.id, path: join(&directory.path, name) };
                }
                _ => break,
            }
        }
        Ok(Found { directory, entry: None })
    }

    async fn look(&self, directory: Place, name: &[u8]) -> Result<Option<Entry>> {
        match self.source.lookup(directory, name.into()).await {
            Ok((entry, _)) => Ok(entry),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ENAMETOOLONG) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Writes to the file that the writes were for. `false` if it has another content now, or cannot be written to.
    async fn write_to(
        &self,
        file: &UnsavedFile,
        place: Place,
        pieces: &[Piece],
        handle: HandleId,
    ) -> std::result::Result<bool, Stuck> {
        let opened = match self.source.open(place.clone(), READ_WRITE, handle, 0).await {
            Ok(opened) => opened,
            Err(errno) if is_of_file(errno) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let outcome = match opened.entry.id == place.id {
            true => self.write_open(file, opened.entry, pieces, handle).await,
            false => Ok(false),
        };
        self.close(handle).await;
        outcome
    }

    async fn write_open(
        &self,
        file: &UnsavedFile,
        entry: Entry,
        pieces: &[Piece],
        handle: HandleId,
    ) -> std::result::Result<bool, Stuck> {
        let now = entry.attributes.content().unwrap_or_default();
        let written = self.progress.lock().written(file.ino);
        let Some(from) = self.written_so_far(file, written, now, pieces, handle).await? else {
            return Ok(false);
        };
        if written.is_none() && from < pieces.len() {
            self.progress.lock().wrote(file.ino, Written { pieces: 0, content: now })?;
        }
        for (number, piece) in pieces.iter().enumerate().skip(from) {
            let content = self.write_piece(handle, piece, file.clear_set_id).await?;
            let pieces = number as u64 + 1;
            self.progress.lock().wrote(file.ino, Written { pieces, content: content.unwrap_or(now) })?;
        }
        self.source.sync(Target::Handle(handle), false).await?;
        Ok(true)
    }

    /// How many pieces are in a file that is what the writes were for; `None` if it is not.
    async fn written_so_far(
        &self,
        file: &UnsavedFile,
        written: Option<Written>,
        now: Content,
        pieces: &[Piece],
        handle: HandleId,
    ) -> Result<Option<usize>> {
        let so_far = written.map_or(0, |written| usize::try_from(written.pieces).unwrap_or(usize::MAX));
        let expected = written.map(|written| written.content).or(file.content);
        if expected == Some(now) {
            return Ok(Some(so_far.min(pieces.len())));
        }
        // The next piece may have been written when the last replay was cut.
        if let (Some(Written { content, .. }), Some(next)) = (written, pieces.get(so_far))
            && now.size == content.size.max(next.end())
            && self.is_there(handle, next).await?
        {
            return Ok(Some(so_far + 1));
        }
        for piece in pieces {
            if !self.is_there(handle, piece).await? {
                return Ok(None);
            }
        }
        Ok(Some(pieces.len()))
    }

    async fn is_there(&self, handle: HandleId, piece: &Piece) -> Result<bool> {
        let (mut offset, mut rest) = (piece.offset, &piece.bytes[..]);
        while !rest.is_empty() {
            let length = u32::try_from(rest.len()).unwrap_or(u32::MAX).min(TRANSFER_BYTES_MAX);
            let found = self.source.read(handle, offset, length).await?;
            if found.is_empty() || !rest.starts_with(&found) {
                return Ok(false);
            }
            (offset, rest) = (offset + found.len() as u64, &rest[found.len()..]);
        }
        Ok(true)
    }

    /// Gives what the file holds then.
    async fn write_piece(
        &self,
        handle: HandleId,
        piece: &Piece,
        clear_set_id: bool,
    ) -> Result<Option<Content>> {
        let (mut offset, mut rest) = (piece.offset, piece.bytes.clone());
        loop {
            let at = WriteAt::Offset(offset);
            let written = self.source.write(handle, at, rest.clone(), clear_set_id).await?;
            let taken = usize::try_from(written.bytes).unwrap_or(usize::MAX);
            if taken == 0 || taken > rest.len() {
                return Err(Errno::EIO);
            }
            (offset, rest) = (offset + written.bytes, rest.slice(taken..));
            if rest.is_empty() {
                return Ok(written.attributes.content());
            }
        }
    }

    /// Writes to a new file beside the one that the writes were for. `name` is the one that an earlier replay has chosen.
    /// Gives where the new file is.
    async fn put_aside(
        &self,
        file: &UnsavedFile,
        (path, found): (&[u8], Found),
        pieces: &[Piece],
        handle: HandleId,
        name: Option<Name>,
    ) -> std::result::Result<Box<[u8]>, Stuck> {
        let Found { directory, entry } = found;
        let mode = match entry {
            Some(Entry { attributes, .. }) if attributes.kind == Kind::File => {
                // A replay that is cut has to open it again.
                attributes.mode & 0o777 | 0o600
            }
            _ => 0o600,
        };
        let own = path.rsplit(|byte| *byte == b'/').next().filter(|name| is_name(name)).unwrap_or(NO_NAME);
        let name = self.make_aside((file.ino, own), &directory, mode, handle, name).await?;
        let written = self.write_aside(file, pieces, handle).await;
        self.close(handle).await;
        written?;
        Ok(join(&directory.path, &name))
    }

    async fn make_aside(
        &self,
        (ino, own): (Ino, &[u8]),
        directory: &Place,
        mode: u16,
        handle: HandleId,
        chosen: Option<Name>,
    ) -> std::result::Result<Name, Stuck> {
        let make = |name: Name, exclusive: bool| {
            let flags = OpenFlags { exclusive, ..READ_WRITE };
            let caller = Caller { umask: 0, ..self.manner.caller };
            self.source.create(directory.clone(), name, mode, flags, handle, caller)
        };
        if let Some(name) = chosen {
            // An earlier replay may have made it.
            make(name.clone(), false).await?;
            return Ok(name);
        }
        for number in 1..=ASIDE_NAMES_MAX {
            let name = self.name_aside(own, ino, number);
            match self.look(directory.clone(), &name).await? {
                Some(_) => continue,
                None => self.progress.lock().put_aside(ino, name.clone())?,
            }
            match make(name.clone(), true).await {
                Ok(_) => return Ok(name),
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::EEXIST.into())
    }

    async fn write_aside(&self, file: &UnsavedFile, pieces: &[Piece], handle: HandleId) -> Result<()> {
        for piece in pieces {
            self.write_piece(handle, piece, file.clear_set_id).await?;
        }
        self.source.sync(Target::Handle(handle), false).await
    }

    fn name_aside(&self, own: &[u8], ino: Ino, number: u32) -> Name {
        let mut tail = format!("{ASIDE}{}-{}", self.manner.label, ino.0);
        if number > 1 {
            tail += &format!("-{number}");
        }
        let own = &own[..own.len().min(NAME_BYTES_MAX.saturating_sub(tail.len()))];
        [own, tail.as_bytes()].concat().into()
    }

    async fn close(&self, handle: HandleId) {
        if let Err(errno) = self.source.close(handle).await {
            tracing::debug!(%errno, "a replayed file was not closed");
        }
    }
}

/// Whether it is the file that cannot be written to, and not the source that cannot be asked.
fn is_of_file(errno: Errno) -> bool {
    const ETXTBSY: Errno = Errno(26);
    let refusals = [Errno::ESTALE, Errno::ENOENT, Errno::ENOTDIR, Errno::EISDIR, Errno::ELOOP, Errno::ENXIO];
    refusals.contains(&errno) || [Errno::EACCES, Errno::EPERM, ETXTBSY].contains(&errno)
}

fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && name.len() <= NAME_BYTES_MAX && !name.contains(&0)
}

fn join(directory: &[u8], name: &[u8]) -> Box<[u8]> {
    match directory.is_empty() {
        true => name.into(),
        false => [directory, b"/", name].concat().into(),
    }
}

#[cfg(test)]
mod tests;
