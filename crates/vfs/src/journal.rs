//! Writes, and changes of attributes, that were answered and are not yet at the source, in two files that outlive the process.
//!
//! One file is written on; when it is full and nothing in the other is pending any more, they change places, and the other
//! is written from its start again, into pages that the system has already. When both are full, writers wait. Each
//! begins with a header, and then has records, see `format`. All numbers are little endian.
//!
//! ```text
//! offset  size  header
//!      0     8  "steadjnl"
//!      8     4  version: 4; 3 has no creations, 2 no changes of attributes either, and 1 no records of files either
//!     12     4  zero
//!     16     8  epoch: of two files, the higher is the younger
//! ```
//!
//! A file is described in each journal file before its first write or change there; then, where it has writes that are not done, each
//! time its content is known to be another. Of what is said of a file the last counts.
//!
//! The first record that does not match its checksum, or is of another epoch, ends a file. That a write is done is recorded
//! before the source is told that its number is settled, in the file that is younger than or the same as the write's.

mod format;

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufReader, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::behind::UNWRITTEN_BYTES_MAX;
use crate::file::Content;
use crate::owned::owners_only;
use crate::request::{RequestId, Sequence};
use crate::source::Place;
use crate::table::Ino;
pub(crate) use format::{Creation, Described, Header, What, attributes_of, bytes_of};
use format::{NO_WRITE, RECORD_BYTES, WRITE_BYTES_MAX, file_record, kind, next_record, number, record};

const MAGIC: [u8; 8] = *b"steadjnl";
const VERSION: u32 = 4;
/// Versions that are read.
const VERSIONS: [u32; 4] = [1, 2, 3, VERSION];
const HEADER_BYTES: usize = 24;
/// Their names, in a mount's directory.
pub const FILES: [&str; 2] = ["journal.0", "journal.1"];

/// One file. What may be unwritten at all fits into one, so that writers wait for the machine and not for the other file.
pub(crate) const SEGMENT_BYTES_MAX: u64 = UNWRITTEN_BYTES_MAX as u64;

/// What is read of one file at most: it is begun anew when it is full, but for lists of what is done.
const READ_BYTES_MAX: u64 = 2 * SEGMENT_BYTES_MAX + WRITE_BYTES_MAX as u64;

/// Writes that are done and not yet recorded to be: they cost a successor a question each.
const DONE_MAX: usize = 64;

/// Bits of the first epoch that are not known to whoever writes files: content must not pass for a record.
const EPOCH_SALT_SHIFT: u32 = 16;

/// A write that was taken and may not be at the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) header: Header,
    pub(crate) bytes: Bytes,
}

/// Why a write was not journalled.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} the journal `{}`", path.display())]
pub struct JournalError {
    path: PathBuf,
    what: &'static str,
    #[source]
    source: io::Error,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: File,
    epoch: u64,
    length: u64,
    pending: usize,
}

#[derive(Debug)]
struct State {
    segments: [Segment; 2],
    current: usize,
    /// Where each pending write is, and of which file it is.
    pending: HashMap<Sequence, (usize, Ino)>,
    /// How many are pending of each file.
    files: HashMap<Ino, usize>,
    /// Files whose place the current segment says.
    placed: HashSet<Ino>,
    /// What the current segment says of contents.
    contents: HashMap<Ino, Content>,
    /// Contents that are known and not recorded yet: those that writes which are done have left.
    unsaid: HashMap<Ino, Content>,
    done: Vec<Sequence>,
    /// Nothing will be brought to the source any more.
    has_given_up: bool,
    segment_bytes_max: u64,
    /// Why the last record could not be written, if it could not.
    failure: Option<String>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Journal {
    state: Mutex<State>,
    room: Notify,
}

/// That a write is over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// These are recorded to be over: their numbers may be settled.
    pub(crate) settled: Vec<Sequence>,
    /// This one is the first that waits to be recorded: [`Journal::record_done`] is to be called soon.
    pub(crate) is_first: bool,
}

/// What a predecessor's journal holds.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// In the order in which they were taken.
    pub(crate) pending: Vec<Pending>,
    /// Requests whose writes were taken, with how much, and 0 for changes of attributes: they need no other answer.
    pub(crate) taken: HashMap<RequestId, u32>,
    /// Requests whose files were said to be made, with the nodes.
    pub(crate) created: HashMap<RequestId, Ino>,
    /// What is said of files.
    pub(crate) files: HashMap<Ino, Described>,
}

impl Left {
    fn take(&mut self, kind: u8, flags: u8, header: Header, bytes: Vec<u8>, done: &mut HashSet<Sequence>) {
        match kind {
            kind::DONE => done.extend(bytes.chunks_exact(8).map(|chunk| Sequence(number(chunk, 0)))),
            kind::FILE => self.files.entry(header.ino).or_default().take(flags, &bytes),
            _ => {
                if header.request != RequestId(0) {
                    let length = match header.what {
                        What::Content => u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                        What::Attributes => 0,
                        What::Creation => {
                            self.created.insert(header.request, header.ino);
                            0
                        }
                    };
                    *self.taken.entry(header.request).or_default() += length;
                }
                self.pending.push(Pending { header, bytes: bytes.into() });
            }
        }
    }

    /// Takes what was left later: of what is said of a file the last counts.
    fn then(&mut self, later: Left) {
        self.pending.extend(later.pending);
        for (request, length) in later.taken {
            *self.taken.entry(request).or_default() += length;
        }
        for (ino, Described { place, content }) in later.files {
            let known = self.files.entry(ino).or_default();
            known.place = place.or(known.place.take());
            known.content = content.or(known.content);
        }
    }
}

enum Placed {
    Yes,
    Full,
}

impl Segment {
    fn fails(&self, what: &'static str) -> impl FnOnce(io::Error) -> JournalError {
        let path = self.path.clone();
        move |source| JournalError { path, what, source }
    }

    fn open(path: PathBuf) -> Result<Segment, JournalError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        match owners_only(&mut options).open(&path) {
            Ok(file) => Ok(Segment { path, file, epoch: 0, length: 0, pending: 0 }),
            Err(source) => Err(JournalError { path, what: "open", source }),
        }
    }

    fn begin(&mut self, epoch: u64) -> Result<(), JournalError> {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..].copy_from_slice(&epoch.to_le_bytes());
        let begun = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&header));
        begun.map_err(self.fails("begin"))?;
        (self.epoch, self.length) = (epoch, HEADER_BYTES as u64);
        Ok(())
    }

    fn append(&mut self, header: &[u8], bytes: &[u8]) -> Result<(), JournalError> {
        let written = write_both(&mut self.file, header, bytes);
        if let Err(source) = written {
            // The next record takes the place of the one that was not finished.
            let _back = self.file.seek(SeekFrom::Start(self.length));
            return Err(self.fails("append to")(source));
        }
        self.length += (header.len() + bytes.len()) as u64;
        Ok(())
    }

    /// Reads the records, and is ready to go on behind the last. Says whether the file is empty or a journal's.
    fn read(&mut self, mut each: impl FnMut((u8, u8), Header, Vec<u8>)) -> Result<bool, JournalError> {
        let found = self.file.metadata().map_err(self.fails("read"))?.len().min(READ_BYTES_MAX);
        let mut reader = BufReader::with_capacity(256 << 10, &self.file);
        let mut header = [0; HEADER_BYTES];
        if found < HEADER_BYTES as u64 {
            return Ok(true);
        }
        reader.read_exact(&mut header).map_err(self.fails("read"))?;
        if header == [0; HEADER_BYTES]
            && is_zero(&mut reader, found - HEADER_BYTES as u64).map_err(self.fails("read"))?
        {
            return Ok(true);
        }
        let is_known = VERSIONS.iter().any(|version| header[8..12] == version.to_le_bytes());
        if header[..8] != MAGIC || !is_known {
            return Ok(false);
        }
        let epoch = number(&header, 16);
        let mut length = HEADER_BYTES as u64;
        while let Some((record, bytes)) =
            next_record(&mut reader, epoch, found - length).map_err(self.fails("read"))?
        {
            length += (RECORD_BYTES + bytes.len()) as u64;
            each((record[16], record[17]), Header::of(&record), bytes);
        }
        drop(reader);
        (self.epoch, self.length) = (epoch, length);
        self.file.seek(SeekFrom::Start(length)).map_err(self.fails("read"))?;
        Ok(true)
    }
}

/// Whether the next bytes are zeros, of which a file consists that was made and lost its first write.
fn is_zero(reader: &mut impl Read, bytes: u64) -> io::Result<bool> {
    let mut rest = reader.take(bytes);
    let mut part = vec![0; 64 << 10];
    loop {
        match rest.read(&mut part)? {
            0 => return Ok(true),
            read if part[..read].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

fn write_both(file: &mut File, header: &[u8], bytes: &[u8]) -> io::Result<()> {
    let written = loop {
        match file.write_vectored(&[IoSlice::new(header), IoSlice::new(bytes)]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => break outcome?,
        }
    };
    let of_bytes = written.saturating_sub(header.len());
    file.write_all(&header[written.min(header.len())..])?;
    file.write_all(&bytes[of_bytes..])
}

impl State {
    /// Makes sure that there is a segment to write `bytes` more to.
    fn make_room(&mut self, bytes: usize) -> Result<Placed, JournalError> {
        let needed = (RECORD_BYTES + bytes) as u64;
        let segment = &self.segments[self.current];
        if segment.length + needed > self.segment_bytes_max.max(HEADER_BYTES as u64 + needed)
            || segment.length == 0
        {
            let next = if segment.length == 0 { self.current } else { 1 - self.current };
            if self.segments[next].pending > 0 {
                return Ok(Placed::Full);
            }
            let epoch = self.segments[self.current].epoch + 1;
            self.segments[next].begin(epoch)?;
            self.current = next;
            self.placed.clear();
            self.contents.clear();
        }
        Ok(Placed::Yes)
    }

    /// Appends a write, and before it what is to be known of its file. That may go over the limit: it is small, and once
    /// for each file.
    fn place(&mut self, header: &Header, bytes: &[u8], file: &impl Describe) -> Result<Placed, JournalError> {
        if let Placed::Full = self.make_room(bytes.len())? {
            return Ok(Placed::Full);
        }
        let (ino, content) = (header.ino, file.content());
        let is_placed = self.placed.contains(&ino);
        let is_news = content.is_some() && self.contents.get(&ino) != content.as_ref();
        let segment = &mut self.segments[self.current];
        let mut lead = Vec::new();
        if !is_placed || is_news {
            let place = if is_placed { None } else { file.place() };
            lead = file_record(segment.epoch, ino, content, place.as_ref());
        }
        let kind = match header.what {
            What::Content => kind::WRITE,
            What::Attributes => kind::ATTRIBUTES,
            What::Creation => kind::CREATION,
        };
        let flags = u8::from(header.clear_set_id);
        lead.extend_from_slice(&record(segment.epoch, (kind, flags), header, bytes));
        segment.append(&lead, bytes)?;
        self.placed.insert(ino);
        self.contents.extend(content.map(|content| (ino, content)));
        Ok(Placed::Yes)
    }

    /// Records what is done, and gives it: it may be settled then.
    fn write_done(&mut self) -> Result<Vec<Sequence>, JournalError> {
        if self.done.is_empty() {
            return Ok(Vec::new());
        }
        // A list of what is done may go over the limit: it is what makes room.
        let segment = &mut self.segments[self.current];
        let mut news = Vec::new();
        // Of a file with nothing pending nobody asks; it is said with the next write.
        self.unsaid.retain(|ino, _| self.files.contains_key(ino));
        for (ino, content) in &self.unsaid {
            if self.contents.get(ino) != Some(content) {
                news.extend_from_slice(&file_record(segment.epoch, *ino, Some(*content), None));
            }
        }
        let bytes: Vec<u8> = self.done.iter().flat_map(|sequence| sequence.0.to_le_bytes()).collect();
        news.extend_from_slice(&record(segment.epoch, (kind::DONE, 0), &NO_WRITE, &bytes));
        segment.append(&news, &bytes)?;
        self.contents.extend(self.unsaid.drain());
        Ok(std::mem::take(&mut self.done))
    }

    /// Records where the files with pending writes are now, and what they hold.
    fn describe_pending<D: Describe>(&mut self, file: impl Fn(Ino) -> D) -> Result<(), JournalError> {
        let segment = &mut self.segments[self.current];
        let mut news = Vec::new();
        for ino in self.files.keys() {
            let file = file(*ino);
            news.extend_from_slice(&file_record(segment.epoch, *ino, file.content(), file.place().as_ref()));
        }
        segment.append(&news, &[])
    }
}

/// What is to be known of a file that has writes in the journal. Asked while the journal is locked.
pub(crate) trait Describe {
    /// Its content as the source has said it last.
    fn content(&self) -> Option<Content>;
    /// Which it is, and where. The path is empty if it has no name; `None` if nothing is known of it.
    fn place(&self) -> Option<Place>;
}

/// The journal of a mount that is gone, as it is.
pub(crate) fn read_left(directory: &Path) -> Result<Left, JournalError> {
    let (mut found, mut done) = ([(0, Left::default()), (0, Left::default())], HashSet::new());
    for (name, (epoch, left)) in FILES.iter().zip(&mut found) {
        let path = directory.join(name);
        let fails = |what, source| JournalError { path: path.clone(), what, source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(fails("open", error)),
        };
        let mut segment = Segment { path: path.clone(), file, epoch: 0, length: 0, pending: 0 };
        let is_known = segment.read(|(kind, flags), header, bytes| {
            left.take(kind, flags, header, bytes, &mut done);
        })?;
        if !is_known {
            return Err(fails("understand", io::ErrorKind::InvalidData.into()));
        }
        *epoch = segment.epoch;
    }
    found.sort_by_key(|(epoch, _)| *epoch);
    let [(_, mut left), (_, younger)] = found;
    left.then(younger);
    left.pending.retain(|write| !done.contains(&write.header.sequence));
    Ok(left)
}

/// Removes the journal of a mount, where there is one. May be cut anywhere.
pub fn remove(directory: &Path) -> io::Result<()> {
    remove_files(directory, files_by_age(directory))
}

/// Removes those of these files that are there, one after the other.
pub(crate) fn remove_files(
    directory: &Path,
    names: impl IntoIterator<Item = &'static str>,
) -> io::Result<()> {
    for name in names {
        match std::fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Its files, the older first: the younger says what in the older is done, and is removed last.
fn files_by_age(directory: &Path) -> [&'static str; 2] {
    let epoch = |name: &&str| -> io::Result<u64> {
        let mut header = [0; HEADER_BYTES];
        File::open(directory.join(name))?.read_exact(&mut header)?;
        Ok(number(&header, 16))
    };
    let mut files = FILES;
    files.sort_by_key(|name| epoch(name).unwrap_or(0));
    files
}

impl Journal {
    /// Opens the journal of a mount in the directory of its state, and gives what is in it; with `fresh`, nothing. Each of
    /// its files has at most `segment_bytes_max`, or else one write.
    pub(crate) fn open(
        directory: &Path,
        fresh: bool,
        segment_bytes_max: u64,
    ) -> Result<(Journal, Left), JournalError> {
        let [mut first, mut second] =
            [Segment::open(directory.join(FILES[0]))?, Segment::open(directory.join(FILES[1]))?];
        let mut done = HashSet::new();
        let (mut left, mut found) = (Left::default(), [Left::default(), Left::default()]);
        if fresh {
            for segment in [&mut first, &mut second] {
                segment.file.set_len(0).map_err(segment.fails("begin"))?;
            }
        } else {
            for (segment, found) in [&mut first, &mut second].into_iter().zip(&mut found) {
                segment.read(|(kind, flags), header, bytes| {
                    found.take(kind, flags, header, bytes, &mut done);
                })?;
            }
        }
        if first.epoch.max(second.epoch) == 0 {
            first.epoch = RandomState::new().hash_one(()) >> EPOCH_SALT_SHIFT;
        }
        let mut segments = [first, second];
        let current = usize::from(segments[1].epoch > segments[0].epoch);
        let (mut pending, mut files) = (HashMap::new(), HashMap::<Ino, usize>::new());
        for at in [1 - current, current] {
            let mut found = std::mem::take(&mut found[at]);
            left.created.extend(std::mem::take(&mut found.created));
            found.pending.retain(|write| !done.contains(&write.header.sequence));
            segments[at].pending = found.pending.len();
            for Pending { header, .. } in &found.pending {
                pending.insert(header.sequence, (at, header.ino));
                *files.entry(header.ino).or_default() += 1;
            }
            left.then(found);
        }
        let state = State {
            segments,
            current,
            pending,
            files,
            // What is said is said again: it may be in the other segment.
            placed: HashSet::new(),
            contents: HashMap::new(),
            unsaid: HashMap::new(),
            done: Vec::new(),
            has_given_up: false,
            segment_bytes_max,
            failure: None,
        };
        Ok((Journal { state: Mutex::new(state), room: Notify::new() }, left))
    }

    /// Records a write, waiting for room. When it returns, a successor will carry it out. Writes that overlap are to be
    /// given in their order.
    pub(crate) async fn append(
        &self,
        header: &Header,
        bytes: &[u8],
        file: &impl Describe,
    ) -> Result<(), JournalError> {
        loop {
            let room = self.room.notified();
            {
                let mut state = self.state.lock();
                let placed = state.place(header, bytes, file);
                state.failure = placed.as_ref().err().map(ToString::to_string);
                if let Placed::Yes = placed? {
                    let current = state.current;
                    state.segments[current].pending += 1;
                    state.pending.insert(header.sequence, (current, header.ino));
                    *state.files.entry(header.ino).or_default() += 1;
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// The write is over, and has left its file with this content, as far as that is known.
    pub(crate) fn done(&self, sequence: Sequence, content: Option<Content>) -> Done {
        let state = &mut *self.state.lock();
        let Some((at, ino)) = state.pending.remove(&sequence) else { return Done::default() };
        if let Some(pending) = state.files.get_mut(&ino) {
            *pending -= 1;
            if *pending == 0 {
                state.files.remove(&ino);
            }
        }
        state.unsaid.extend(content.map(|content| (ino, content)));
        state.done.push(sequence);
        state.segments[at].pending -= 1;
        let is_room = state.segments[at].pending == 0 && at != state.current;
        let is_due = state.done.len() >= DONE_MAX || is_room;
        let is_first = state.done.len() == 1 && !is_due;
        let settled = if is_due { recorded_done(state) } else { Vec::new() };
        if is_room {
            self.room.notify_waiters();
        }
        Done { settled, is_first }
    }

    /// Records what is over. Gives the numbers that may be settled now.
    pub(crate) fn record_done(&self) -> Vec<Sequence> {
        recorded_done(&mut self.state.lock())
    }

    /// What is pending will not be brought to the source by this process: it stays pending, whatever becomes of it here, and
    /// where its files are is recorded.
    pub(crate) fn give_up<D: Describe>(&self, file: impl Fn(Ino) -> D) {
        let state = &mut *self.state.lock();
        state.has_given_up = true;
        // Their numbers are of a session that ends.
        drop(recorded_done(state));
        if !state.files.is_empty()
            && let Err(error) = state.describe_pending(file)
        {
            tracing::error!(%error, source = %error.source, "where unsaved files are is not recorded");
        }
    }

    /// Whether it has been given up to bring anything to the source.
    pub(crate) fn has_given_up(&self) -> bool {
        self.state.lock().has_given_up
    }

    /// Writes that are not over.
    pub(crate) fn pending(&self) -> usize {
        self.state.lock().pending.len()
    }

    /// Whether something is over and not recorded to be.
    pub(crate) fn is_behind(&self) -> bool {
        !self.state.lock().done.is_empty()
    }

    /// Why the last record could not be written, if it could not.
    pub(crate) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }
}

fn recorded_done(state: &mut State) -> Vec<Sequence> {
    state.write_done().unwrap_or_else(|error| {
        tracing::warn!(%error, source = %error.source, "what is over is recorded later");
        state.failure = Some(error.to_string());
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::format::PLACE_BYTES;
    use super::*;
    use crate::file::{AttributeChanges, FileId, SetTime, Time};
    use crate::source::HandleId;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    fn write(sequence: u64, bytes: &[u8]) -> Pending {
        let header = Header {
            what: What::Content,
            sequence: Sequence(sequence),
            request: RequestId(sequence * 2),
            handle: HandleId(3),
            ino: Ino(4),
            offset: sequence * 10,
            clear_set_id: sequence.is_multiple_of(2),
        };
        Pending { header, bytes: Bytes::copy_from_slice(bytes) }
    }

    fn append(journal: &Journal, write: &Pending) {
        block_on(journal.append(&write.header, &write.bytes, &SOME)).expect("appended");
    }

    /// A file that is always the same.
    const SOME: Told = Told { size: Some(7), path: "a/b" };

    struct Told {
        size: Option<u64>,
        path: &'static str,
    }

    impl Told {
        fn content(size: u64) -> Content {
            Content { size, modified: Time { seconds: -1, nanoseconds: 9 } }
        }
    }

    impl Describe for Told {
        fn content(&self) -> Option<Content> {
            self.size.map(Told::content)
        }

        fn place(&self) -> Option<Place> {
            Some(Place { id: FileId { device: 1, inode: 2, birth: 3 }, path: self.path.as_bytes().into() })
        }
    }

    fn times() -> impl Strategy<Value = SetTime> {
        prop_oneof![
            Just(SetTime::Keep),
            Just(SetTime::Now),
            (any::<i64>(), 0..1_000_000_000u32)
                .prop_map(|(seconds, nanoseconds)| SetTime::To(Time { seconds, nanoseconds })),
        ]
    }

    proptest! {
        #[test]
        fn a_change_of_attributes_is_read_as_it_was_written(
            (uid, gid, mode) in any::<(Option<u32>, Option<u32>, Option<u16>)>(),
            (accessed, modified) in (times(), times()),
            clear_set_id: bool,
        ) {
            let changes = AttributeChanges { size: None, uid, gid, mode, accessed, modified, clear_set_id };
            let header = Header { what: What::Attributes, clear_set_id, ..write(3, b"").header };
            let scratch = tempfile::tempdir().expect("a directory");
            let journal = Journal::open(scratch.path(), true, SEGMENT_BYTES_MAX).expect("opened").0;
            let bytes = bytes_of(&changes);
            append(&journal, &Pending { header, bytes });
            let left = left(scratch.path());
            prop_assert_eq!(left[0].header, header);
            prop_assert_eq!(attributes_of(&left[0].header, &left[0].bytes), changes);
        }
    }

    fn left(directory: &Path) -> Vec<Pending> {
        Journal::open(directory, false, SEGMENT_BYTES_MAX).expect("opened").1.pending
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_not_done_is_left_in_order_whatever_dies_when(
            acts in prop::collection::vec((0..7u8, 0..3000usize), 0..80),
            segment_bytes_max in prop::sample::select(vec![100, 5000, 20_000, SEGMENT_BYTES_MAX]),
        ) {
            let scratch = tempfile::tempdir().expect("a directory");
            let open = |fresh| Journal::open(scratch.path(), fresh, segment_bytes_max).expect("opened");
            let mut journal = open(true).0;
            let (mut pending, mut unrecorded, mut last) = (Vec::<Pending>::new(), Vec::<Pending>::new(), 0);
            for (act, size) in acts {
                match act {
                    0..3 => {
                        let bytes: Vec<_> = (0..size).map(|at| (at as u64 ^ last) as u8).collect();
                        let write = write(last + 1, &bytes);
                        if has_room(&journal, &write) {
                            last += 1;
                            pending.push(write);
                        } else {
                            prop_assert!(!pending.is_empty(), "no room and nothing pending");
                        }
                    }
                    3 | 4 if !pending.is_empty() => {
                        let done = pending.remove(size % pending.len());
                        unrecorded.push(done.clone());
                        let settled = journal.done(done.header.sequence, None).settled;
                        unrecorded.retain(|write| !settled.contains(&write.header.sequence));
                    }
                    5 => {
                        prop_assert_eq!(journal.record_done().len(), unrecorded.len());
                        unrecorded.clear();
                    }
                    _ => {
                        let (successor, found) = open(false);
                        for Pending { header, bytes } in &pending {
                            prop_assert_eq!(found.taken.get(&header.request), Some(&(bytes.len() as u32)));
                        }
                        // What is over may be gone with its file.
                        let mut expected = pending;
                        expected.extend(unrecorded.drain(..).filter(|write| found.pending.contains(write)));
                        expected.sort_by_key(|write| write.header.sequence);
                        prop_assert_eq!(&found.pending, &expected);
                        (journal, pending) = (successor, expected);
                    }
                }
            }
        }
    }

    /// Appends the write if there is room.
    fn has_room(journal: &Journal, write: &Pending) -> bool {
        block_on(async {
            let mut append = Box::pin(journal.append(&write.header, &write.bytes, &SOME));
            let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(append.as_mut().poll(cx))).await;
            polled.map(|outcome| outcome.expect("appended")).is_ready()
        })
    }

    #[test]
    fn a_journal_cut_at_any_byte_has_all_writes_before() {
        let scratch = tempfile::tempdir().expect("a directory");
        let journal = Journal::open(scratch.path(), true, SEGMENT_BYTES_MAX).expect("opened").0;
        let writes: Vec<_> =
            (1..5).map(|number| write(number, &vec![number as u8; number as usize * 7])).collect();
        writes.iter().for_each(|write| append(&journal, write));
        let path = scratch.path().join(FILES[0]);
        let whole = std::fs::read(&path).expect("read");
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("written");
            let found = left(scratch.path());
            assert_eq!(found[..], writes[..found.len()]);
            let next = writes.get(found.len()).map_or(usize::MAX, |write| RECORD_BYTES + write.bytes.len());
            let kept: usize = found.iter().map(|write| RECORD_BYTES + write.bytes.len()).sum();
            let said = HEADER_BYTES + RECORD_BYTES + PLACE_BYTES + SOME.path.len();
            assert!(cut < said || said + kept + next.min(whole.len()) > cut, "cut at {cut}");
        }
        for at in HEADER_BYTES..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).expect("written");
            let found = left(scratch.path());
            assert!(found.len() < writes.len() && found[..] == writes[..found.len()], "damaged at {at}");
        }
    }

    #[test]
    fn files_are_used_again_and_writers_wait_when_both_are_full() {
        let scratch = tempfile::tempdir().expect("a directory");
        let journal = Journal::open(scratch.path(), true, SEGMENT_BYTES_MAX).expect("opened").0;
        let large = vec![7; 8 << 20];
        // Three of them fit into a file with what goes around them.
        let mut sequence = 0;
        for _ in 0..6 {
            sequence += 1;
            append(&journal, &write(sequence, &large));
        }
        block_on(async {
            let more = write(7, &large);
            let mut waiting = Box::pin(journal.append(&more.header, &more.bytes, &SOME));
            let polled =
                std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_ready())).await;
            assert!(!polled, "there was room in a full journal");
            for number in 1..=3 {
                journal.done(Sequence(number), None);
            }
            waiting.await.expect("appended");
        });
        let found: Vec<_> = left(scratch.path()).iter().map(|write| write.header.sequence.0).collect();
        assert_eq!(found, [4, 5, 6, 7]);
        for file in FILES {
            let length = std::fs::metadata(scratch.path().join(file)).expect("there").len();
            assert!(length <= SEGMENT_BYTES_MAX + 4096, "{length}");
        }
    }

    /// What is said of the file of [`write`], by a journal that is read as it is and by one that is gone on with.
    fn described(directory: &Path) -> (Option<u64>, Option<String>) {
        let files = read_left(directory).expect("read").files;
        let again = Journal::open(directory, false, SEGMENT_BYTES_MAX).expect("opened").1.files;
        assert_eq!(files, again);
        let Described { place, content } = files.get(&Ino(4)).cloned().unwrap_or_default();
        let size = content.map(|content| {
            assert_eq!(content, Told::content(content.size));
            content.size
        });
        let path = place.map(|Place { id, path }| {
            assert_eq!(id, FileId { device: 1, inode: 2, birth: 3 });
            String::from_utf8(path.into()).expect("text")
        });
        (size, path)
    }

    #[test]
    fn a_file_is_described_in_each_journal_file_and_what_was_said_last_counts() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path();
        let journal = Journal::open(path, true, 700).expect("opened").0;
        let append = |number, size, path| {
            let write = write(number, &[1; 100]);
            let told = Told { size, path };
            block_on(journal.append(&write.header, &write.bytes, &told)).expect("appended");
        };
        let said = |size, path: &str| (size, Some(path.to_owned()));
        append(1, None, "a");
        assert_eq!(described(path), said(None, "a"));
        append(2, Some(1), "not asked for again");
        assert_eq!(described(path), said(Some(1), "a"));
        journal.done(Sequence(1), Some(Told::content(2)));
        assert_eq!(described(path), said(Some(1), "a"), "it is recorded with others");
        journal.record_done();
        assert_eq!(described(path), said(Some(2), "a"));
        // These are in the other file.
        append(3, Some(2), "b");
        append(4, Some(2), "b");
        append(5, Some(2), "b");
        assert_eq!(described(path), said(Some(2), "b"));
        assert_eq!(journal.pending(), 4);
        journal.done(Sequence(2), None);
        journal.give_up(|_| Told { size: None, path: "c" });
        assert_eq!(described(path), said(Some(2), "c"));
        assert_eq!(read_left(path).expect("read").pending.len(), 3);
    }

    #[test]
    fn a_journal_of_the_version_before_is_read() {
        let scratch = tempfile::tempdir().expect("a directory");
        let journal = Journal::open(scratch.path(), true, SEGMENT_BYTES_MAX).expect("opened").0;
        append(&journal, &write(1, b"kept"));
        let path = scratch.path().join(FILES[0]);
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[8] = 1;
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(left(scratch.path()), [write(1, b"kept")]);
        assert_eq!(read_left(scratch.path()).expect("read").pending, [write(1, b"kept")]);
    }

    #[test]
    fn a_journal_that_cannot_be_written_says_so_until_it_can() {
        let scratch = tempfile::tempdir().expect("a directory");
        let journal = Journal::open(scratch.path(), true, SEGMENT_BYTES_MAX).expect("opened").0;
        append(&journal, &write(1, b"kept"));
        let read_only = File::open(scratch.path().join(FILES[0])).expect("opened");
        let writable = std::mem::replace(&mut journal.state.lock().segments[0].file, read_only);
        let lost = write(2, b"not kept");
        assert!(block_on(journal.append(&lost.header, &lost.bytes, &SOME)).is_err());
        assert!(journal.failure().is_some_and(|why| why.contains("journal.0")));
        assert_eq!(left(scratch.path()), [write(1, b"kept")]);
        journal.state.lock().segments[0].file = writable;
        append(&journal, &write(3, b"kept too"));
        assert_eq!(journal.failure(), None);
        assert_eq!(left(scratch.path()), [write(1, b"kept"), write(3, b"kept too")]);
    }
}
