//! What a mount that is gone has left unsaved, brought to the source, or put aside there.
//!
//! ```text
//!              ┌─ the same file, with the content that the writes were for ─► written, synced ─┐
//!  of one file ┼─ the same file, and all of it is there already ────────────► synced ──────────┼─► over
//!              └─ another file, none, or another content ───────────────────► in a new file ───┘
//!                                                                             beside it, synced
//! ```
//!
//! Nothing is written over a content that the writes were not for: [`judge`] says which is. A file for which the source does
//! not answer is left, and the others go on; what was asked last for it may still be carried out. How far it has come is recorded before and after each
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
mod judge;
mod progress;
mod save;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::errno::Errno;
use crate::file::{AttributeChanges, Caller, Content, FileId, SetTime};
use crate::journal::{self, Creation, JournalError, What, attributes_of, read_left, remove_files};
use crate::log::{Log, LogError};
use crate::source::{HandleId, Place, Source};
use crate::table::Ino;
use crate::table::ledger::Replay as Ledger;
use crate::vfs::record::FILE as STATE;
use extents::{Extents, Piece};
use progress::Progress;
pub(crate) use save::{ASIDE_NAMES_MAX, name_aside};
use save::{Fate, Replay, Stuck};

/// Files that are replayed at once: enough that a far machine is not waited for one round trip after the other.
const FILES_AT_ONCE: usize = 16;

/// How long the source may take to answer a request for a file before that is left and another one gets its place. No file
/// system takes as long that is still of use.
pub const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// The name of a file of which no name is known.
const NO_NAME: &[u8] = b"unnamed";

/// The first of the handles that are used here. A file system's own count from 1, and the kernel's are even.
const HANDLES_FROM: u64 = 1 << 62;

/// A journal has no more files than this many bits count: each has a record of 64 bytes.
const HANDLES_SHIFT: u32 = 28;

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
    place: Option<Place>,
    /// The content that the first of the writes was for.
    content: Option<Content>,
    /// In the order in which they were taken.
    writes: Vec<Piece>,
    /// What counts of them in the end.
    extents: Extents,
    clear_set_id: bool,
    /// What is to be set when the writes are there, and how many changes this and its making are.
    attributes: AttributeChanges,
    changes: u64,
    /// It was said to be made, and is not known to be.
    creation: Option<Creation>,
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
    /// How long the source may take to answer: [`ANSWER_WAIT`], but for tests.
    pub answer_wait: Duration,
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
                    writes: Vec::new(),
                    extents: Extents::default(),
                    clear_set_id: false,
                    attributes: AttributeChanges::default(),
                    changes: 0,
                    creation: None,
                });
            }
            let file = &mut files[number];
            match write.header.what {
                What::Content => {}
                What::Attributes => {
                    file.changes += 1;
                    file.attributes = file.attributes.then(attributes_of(&write.header, &write.bytes));
                    continue;
                }
                What::Creation => {
                    file.changes += 1;
                    file.creation = Creation::read(&write.bytes);
                    continue;
                }
            }
            // It has changed the content since.
            file.attributes.modified = SetTime::Keep;
            file.extents
                .put(offset, write.bytes.clone())
                .ok_or_else(|| ReplayError::Offset { directory: directory.to_owned(), offset })?;
            file.clear_set_id |= write.header.clear_set_id;
            file.writes.push(Piece { offset, bytes: write.bytes });
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
            if let Ok(place) = ledger.table.last_place(file.ino) {
                file.place = Some(place);
            }
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Writes that are unsaved.
    pub fn writes(&self) -> u64 {
        self.files.iter().map(UnsavedFile::count).sum()
    }

    /// The files that the writes are for, as far as they are known, and where they were below the root.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &[u8])> {
        self.files.iter().filter_map(|file| file.place.as_ref()).map(|place| (place.id, place.path.as_ref()))
    }
}

impl UnsavedFile {
    fn count(&self) -> u64 {
        self.writes.len() as u64 + self.changes
    }
}

/// Removes what a mount has left in its directory besides its configuration, when nothing of it is unsaved. May be cut
/// anywhere.
pub fn remove(directory: &Path) -> io::Result<()> {
    // While the journal is there, it is to be known what of it is over: the rest goes after it.
    journal::remove(directory)?;
    remove_files(directory, [STATE, "state.new", progress::FILE, "replay.new"])
}

/// Brings what is unsaved to the source. After an error of the source, or when it does not answer for a file, the others go
/// on, and what is left can be replayed again; so it can when this is dropped half way. A file that nothing more is done
/// about is `done`, whatever came of it. Within a tokio runtime.
pub async fn replay<S: Source>(
    unsaved: Unsaved,
    source: Arc<S>,
    manner: Manner,
    mut done: impl FnMut(FileId),
) -> std::result::Result<Replayed, ReplayError> {
    let progress = Progress::open(&unsaved.directory)?;
    let first_handle = HANDLES_FROM + (u64::from(manner.round) << HANDLES_SHIFT);
    let replay = Arc::new(Replay::new(source, manner, progress));
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
        if let Some(place) = &file.place {
            done(place.id);
        }
        let count = file.count();
        let path = file.place.map_or_else(|| NO_NAME.into(), |place| place.path);
        match fate {
            Ok(Fate::Saved) => {
                replayed.writes += count;
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

#[cfg(test)]
mod tests;
