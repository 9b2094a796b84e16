//! What is done about one file.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::extents::Piece;
use super::judge::holds_only_ours;
use super::progress::{Progress, Written};
use super::{Manner, NO_NAME, UnsavedFile};
use crate::errno::{Errno, Result};
use crate::file::{AttributeChanges, Caller, Content, Entry, Kind, NAME_BYTES_MAX, Name, OpenFlags, WriteAt};
use crate::journal::Creation;
use crate::log::LogError;
use crate::source::{HandleId, Place, Source, TRANSFER_BYTES_MAX, Target};
use crate::table::Ino;
use crate::vfs::checked_name;

/// Content that is on its way at once. A link of 100 KiB a second carries it within [`ANSWER_WAIT`](super::ANSWER_WAIT).
const BYTES_AT_ONCE: u32 = 2 << 20;

/// How long the closing of a file may take: that is not waited for for its own sake.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Names that are tried for a new file beside the one that the writes were for.
pub(crate) const ASIDE_NAMES_MAX: u32 = 100;

/// What the name of a new file has between the file's own name and the label.
const ASIDE: &str = ".stead-conflict-";

pub(super) const READ_WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
    sync: false,
    direct: false,
    exclusive: false,
};

/// What becomes of what was to be written to one file.
pub(super) enum Fate {
    Saved,
    Aside(Box<[u8]>),
    /// The file never had a name, and went with its last handle.
    Nameless,
}

/// Why it has not come to that.
pub(super) enum Stuck {
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

/// One replay, of many files at once.
pub(super) struct Replay<S> {
    source: Arc<S>,
    manner: Manner,
    progress: Mutex<Progress>,
    /// How much content more may be.
    on_its_way: Semaphore,
}

impl<S: Source> Replay<S> {
    pub(super) fn new(source: Arc<S>, manner: Manner, progress: Progress) -> Replay<S> {
        let on_its_way = Semaphore::new(BYTES_AT_ONCE as usize);
        Replay { source, manner, progress: Mutex::new(progress), on_its_way }
    }

    /// What the source answers, if it does in time.
    async fn answer<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.manner.answer_wait, asked).await.unwrap_or(Err(Errno::ETIMEDOUT))
    }

    /// The same, of a request that brings so much content or gets it.
    async fn transfer<T>(&self, bytes: usize, asked: impl Future<Output = Result<T>>) -> Result<T> {
        let bytes = u32::try_from(bytes).unwrap_or(BYTES_AT_ONCE).min(BYTES_AT_ONCE);
        let room = self.on_its_way.acquire_many(bytes).await;
        let answer = self.answer(asked).await;
        drop(room);
        answer
    }

    /// Brings what is unsaved of one file to the source, through this handle.
    pub(super) async fn save(
        &self,
        file: &UnsavedFile,
        handle: HandleId,
    ) -> std::result::Result<Fate, Stuck> {
        if file.place.as_ref().is_some_and(|place| place.path.is_empty()) {
            return Ok(Fate::Nameless);
        }
        let pieces = file.extents.pieces(TRANSFER_BYTES_MAX as usize);
        let (id, path) = match &file.place {
            Some(Place { id, path }) => (Some(*id), path.as_ref()),
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
        if let (Some(creation), None) = (&file.creation, &aside)
            && self.make(file, creation, (path, &found), &pieces, handle).await?
        {
            self.progress.lock().over(file.ino)?;
            return Ok(Fate::Saved);
        }
        if pieces.is_empty() {
            // Attributes alone are worth no new file, and a creation that was refused is worth none elsewhere.
            if let Some(entry) = found.entry.filter(is_same) {
                let place = Place { id: entry.id, path: path.into() };
                self.set_attributes(file, Target::Place(place)).await?;
            }
            self.progress.lock().over(file.ino)?;
            return Ok(Fate::Saved);
        }
        if let Some(entry) = found.entry.filter(is_same) {
            let place = Place { id: entry.id, path: path.into() };
            if self.write_to(file, file.content, place, &pieces, handle).await? {
                self.progress.lock().over(file.ino)?;
                return Ok(Fate::Saved);
            }
        }
        let to = self.put_aside(file, (path, found), &pieces, handle, aside).await?;
        self.progress.lock().over(file.ino)?;
        Ok(Fate::Aside(to))
    }

    /// Makes the file that was said to be made, if nothing has its name. A file that has may be it, made before the link was
    /// lost: its content tells. Gives whether all is in it.
    async fn make(
        &self,
        file: &UnsavedFile,
        creation: &Creation,
        (path, found): (&[u8], &Found),
        pieces: &[Piece],
        handle: HandleId,
    ) -> std::result::Result<bool, Stuck> {
        let empty = |entry: &Entry| {
            let now = entry.attributes.content().unwrap_or_default();
            Some(Content { size: 0, ..now })
        };
        if let Some(entry) = found.entry {
            let is_file = entry.attributes.kind == Kind::File;
            // What somebody else has written has attributes of theirs.
            if !is_file || pieces.is_empty() && entry.attributes.size > 0 {
                return Ok(false);
            }
            let place = Place { id: entry.id, path: path.into() };
            return self.write_to(file, empty(&entry), place, pieces, handle).await;
        }
        let Creation { name, mode, caller, .. } = creation;
        if *join(&found.directory.path, name) != *path {
            return Ok(false);
        }
        let flags = OpenFlags { exclusive: true, ..READ_WRITE };
        let directory = found.directory.clone();
        let asked = self.source.create(directory, name.clone(), *mode, flags, handle, *caller);
        let opened = match self.answer(asked).await {
            Ok(opened) => opened,
            Err(Errno::EEXIST) => return Ok(false),
            Err(errno) if is_of_file(errno) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        // Its mode may not let it be opened again.
        let outcome = self.write_open(file, (empty(&opened.entry), opened.entry), pieces, handle).await;
        self.close(handle).await;
        outcome
    }

    /// Descends to the file at `path`, through directories only.
    async fn find(&self, path: &[u8]) -> Result<Found> {
        let mut directory = Place { id: self.manner.root, path: Box::default() };
        let mut names = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = names.next() {
            let entry = match checked_name(name) {
                Ok(name) => self.look(directory.clone(), name).await?,
                Err(_) => None,
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

    async fn look(&self, directory: Place, name: Name) -> Result<Option<Entry>> {
        match self.answer(self.source.lookup(directory, name)).await {
            Ok((entry, _)) => Ok(entry),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ENAMETOOLONG) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Writes to the file that the writes were for. `false` if it has another content now, or cannot be written to.
    async fn write_to(
        &self,
        file: &UnsavedFile,
        content: Option<Content>,
        place: Place,
        pieces: &[Piece],
        handle: HandleId,
    ) -> std::result::Result<bool, Stuck> {
        let opened = match self.answer(self.source.open(place.clone(), READ_WRITE, handle, 0)).await {
            Ok(opened) => opened,
            Err(errno) if is_of_file(errno) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let outcome = match opened.entry.id == place.id {
            true => self.write_open(file, (content, opened.entry), pieces, handle).await,
            false => Ok(false),
        };
        self.close(handle).await;
        outcome
    }

    async fn write_open(
        &self,
        file: &UnsavedFile,
        (content, entry): (Option<Content>, Entry),
        pieces: &[Piece],
        handle: HandleId,
    ) -> std::result::Result<bool, Stuck> {
        let now = entry.attributes.content().unwrap_or_default();
        let written = self.progress.lock().written(file.ino);
        let Some(from) = self.written_so_far((file, content), written, now, pieces, handle).await? else {
            return Ok(false);
        };
        if written.is_none() && from < pieces.len() {
            self.progress.lock().wrote(file.ino, Written { pieces: 0, content: now })?;
        }
        for (number, piece) in pieces.iter().enumerate().skip(from) {
            let has = |pieces: u64, content: Option<Content>| {
                self.progress.lock().wrote(file.ino, Written { pieces, content: content.unwrap_or(now) })
            };
            let number = number as u64;
            let content =
                self.write_piece(handle, piece, file.clear_set_id, |content| has(number, content)).await?;
            has(number + 1, content)?;
        }
        self.set_attributes(file, Target::Handle(handle)).await?;
        self.answer(self.source.sync(Target::Handle(handle), false)).await?;
        Ok(true)
    }

    /// Sets what was to be set after the writes. A file that is not to be changed so any more keeps what it has.
    async fn set_attributes(&self, file: &UnsavedFile, target: Target) -> Result<()> {
        if file.attributes == AttributeChanges::default() {
            return Ok(());
        }
        match self.answer(self.source.set_attributes(target, file.attributes)).await {
            Err(errno) if is_of_file(errno) => {
                tracing::warn!(node = file.ino.0, %errno, "attributes of a file were not saved");
                Ok(())
            }
            outcome => outcome.map(|_| ()),
        }
    }

    /// How many pieces are in a file that is what the writes were for; `None` if it is not.
    async fn written_so_far(
        &self,
        (file, before): (&UnsavedFile, Option<Content>),
        written: Option<Written>,
        now: Content,
        pieces: &[Piece],
        handle: HandleId,
    ) -> Result<Option<usize>> {
        let so_far = written.map_or(0, |written| usize::try_from(written.pieces).unwrap_or(usize::MAX));
        let expected = written.map(|written| written.content).or(before);
        if expected == Some(now) {
            return Ok(Some(so_far.min(pieces.len())));
        }
        // The next piece may have been written, or a part of it, when the last replay was cut.
        if let (Some(Written { content, .. }), Some(next)) = (written, pieces.get(so_far)) {
            let next = std::slice::from_ref(next);
            let found = self.read(handle, next).await?;
            if holds_only_ours(next, &found, content.size, now.size) {
                return Ok(Some(so_far));
            }
        }
        let found = self.read(handle, pieces).await?;
        if found == pieces {
            return Ok(Some(pieces.len()));
        }
        // Some of the writes may have been made before.
        let is_ours = |before: Content| holds_only_ours(&file.writes, &found, before.size, now.size);
        Ok((written.is_none() && before.is_some_and(is_ours)).then_some(0))
    }

    /// What the file holds where the pieces are, each shorter only at its end.
    async fn read(&self, handle: HandleId, pieces: &[Piece]) -> Result<Vec<Piece>> {
        let mut read = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let mut bytes = BytesMut::new();
            while bytes.len() < piece.bytes.len() {
                let left = piece.bytes.len() - bytes.len();
                let length = u32::try_from(left).unwrap_or(u32::MAX).min(TRANSFER_BYTES_MAX);
                let offset = piece.offset + bytes.len() as u64;
                let found = self.transfer(left, self.source.read(handle, offset, length)).await?;
                if found.is_empty() {
                    break;
                }
                bytes.extend_from_slice(&found[..found.len().min(left)]);
            }
            read.push(Piece { offset: piece.offset, bytes: bytes.freeze() });
        }
        Ok(read)
    }

    /// Gives what the file holds then. When it takes only a `part` at once, that is told too.
    async fn write_piece(
        &self,
        handle: HandleId,
        piece: &Piece,
        clear_set_id: bool,
        part: impl Fn(Option<Content>) -> std::result::Result<(), LogError>,
    ) -> std::result::Result<Option<Content>, Stuck> {
        let (mut offset, mut rest) = (piece.offset, piece.bytes.clone());
        loop {
            let at = WriteAt::Offset(offset);
            let writing = self.source.write(handle, at, rest.clone(), clear_set_id);
            let written = self.transfer(rest.len(), writing).await?;
            let taken = usize::try_from(written.bytes).unwrap_or(usize::MAX);
            if taken == 0 || taken > rest.len() {
                return Err(Errno::EIO.into());
            }
            (offset, rest) = (offset + written.bytes, rest.slice(taken..));
            if rest.is_empty() {
                return Ok(written.attributes.content());
            }
            part(written.attributes.content())?;
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
        let own = path.rsplit(|byte| *byte == b'/').next();
        let own = own.filter(|name| checked_name(name).is_ok()).unwrap_or(NO_NAME);
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
            self.answer(self.source.create(directory.clone(), name, mode, flags, handle, caller))
        };
        if let Some(name) = chosen {
            // An earlier replay may have made it.
            make(name.clone(), false).await?;
            return Ok(name);
        }
        for number in 1..=ASIDE_NAMES_MAX {
            let name = name_aside(own, &format!("{}-{}", self.manner.label, ino.0), number);
            match self.look(directory.clone(), name.clone()).await? {
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

    async fn write_aside(
        &self,
        file: &UnsavedFile,
        pieces: &[Piece],
        handle: HandleId,
    ) -> std::result::Result<(), Stuck> {
        for piece in pieces {
            self.write_piece(handle, piece, file.clear_set_id, |_| Ok(())).await?;
        }
        Ok(self.answer(self.source.sync(Target::Handle(handle), false)).await?)
    }

    async fn close(&self, handle: HandleId) {
        match tokio::time::timeout(CLOSE_WAIT, self.source.close(handle)).await {
            Ok(Ok(())) => {}
            Ok(Err(errno)) => tracing::debug!(%errno, "a replayed file was not closed"),
            Err(_) => tracing::debug!("a replayed file is closed later"),
        }
    }
}

/// The `number`th name for a new file beside the one with the name `own`.
pub(crate) fn name_aside(own: &[u8], label: &str, number: u32) -> Name {
    let mut tail = format!("{ASIDE}{label}");
    if number > 1 {
        tail += &format!("-{number}");
    }
    let own = &own[..own.len().min(NAME_BYTES_MAX.saturating_sub(tail.len()))];
    [own, tail.as_bytes()].concat().into()
}

/// Whether it is the file that cannot be written to, and not the source that cannot be asked.
fn is_of_file(errno: Errno) -> bool {
    const ETXTBSY: Errno = Errno(26);
    let refusals = [Errno::ESTALE, Errno::ENOENT, Errno::ENOTDIR, Errno::EISDIR, Errno::ELOOP, Errno::ENXIO];
    refusals.contains(&errno) || [Errno::EACCES, Errno::EPERM, ETXTBSY].contains(&errno)
}

fn join(directory: &[u8], name: &[u8]) -> Box<[u8]> {
    match directory.is_empty() {
        true => name.into(),
        false => [directory, b"/", name].concat().into(),
    }
}
