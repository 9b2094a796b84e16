//! Writes that were taken from writers and are not yet at the source, in two files that outlive the process.
//!
//! One file is written on; when it is full and nothing in the other is pending any more, they change places, and the other
//! is written from its start again, into pages that the system has already. When both are full, writers wait. All
//! numbers are little endian.
//!
//! ```text
//! offset  size  header
//!      0     8  "steadjnl"
//!      8     4  version: 1
//!     12     4  zero
//!     16     8  epoch: of two files, the higher is the younger
//!
//! offset  size  each record
//!      0     4  CRC-32 (IEEE) of what follows, the bytes included
//!      4     4  length of the bytes
//!      8     8  epoch of the file when it was written
//!     16     1  kind: 1 a write, 2 writes that are done
//!     17     1  for a write, bit 0: clears set-id bits
//!     18     6  zero
//!     24     8  sequence number under which it is sent
//!     32     8  the kernel's number of the request
//!     40     8  handle
//!     48     8  node
//!     56     8  offset in the file
//!     64   ...  bytes; of kind 2, sequence numbers of 8 bytes each
//! ```
//!
//! The first record that does not match its checksum, or is of another epoch, ends a file. That a write is done is recorded
//! before the source is told that its number is settled, in the file that is younger than or the same as the write's.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufReader, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::behind::UNWRITTEN_BYTES_MAX;
use crate::request::{RequestId, Sequence};
use crate::source::HandleId;
use crate::table::Ino;

const MAGIC: [u8; 8] = *b"steadjnl";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
const RECORD_BYTES: usize = 64;
/// Their names, in a mount's directory.
pub const FILES: [&str; 2] = ["journal.0", "journal.1"];

/// One file. What may be unwritten at all fits into one, so that writers wait for the machine and not for the other file.
pub(crate) const SEGMENT_BYTES_MAX: u64 = UNWRITTEN_BYTES_MAX as u64;

/// The longest write that is journalled in one record, and a bound on what a damaged length can ask for.
const WRITE_BYTES_MAX: usize = 16 << 20;

/// Writes that are done and not yet recorded to be: they cost a successor a question each.
const DONE_MAX: usize = 64;

/// Bits of the first epoch that are not known to whoever writes files: content must not pass for a record.
const EPOCH_SALT_SHIFT: u32 = 16;

/// What a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sequence: Sequence,
    pub(crate) request: RequestId,
    pub(crate) handle: HandleId,
    pub(crate) ino: Ino,
    pub(crate) offset: u64,
    pub(crate) clear_set_id: bool,
}

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
    /// Where each pending write is.
    pending: HashMap<Sequence, usize>,
    done: Vec<Sequence>,
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
    /// Requests whose writes were taken, with how much: they need no other answer.
    pub(crate) taken: HashMap<RequestId, u32>,
}

enum Placed {
    Yes,
    Full,
}

fn record(epoch: u64, kind: u8, header: &Header, bytes: &[u8]) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[4..8].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    record[8..16].copy_from_slice(&epoch.to_le_bytes());
    record[16] = kind;
    record[17] = u8::from(header.clear_set_id);
    let Header { sequence, request, handle, ino, offset, .. } = *header;
    for (at, number) in [sequence.0, request.0, handle.0, ino.0, offset].into_iter().enumerate() {
        record[24 + at * 8..32 + at * 8].copy_from_slice(&number.to_le_bytes());
    }
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&record[4..]);
    checksum.update(bytes);
    record[..4].copy_from_slice(&checksum.finalize().to_le_bytes());
    record
}

impl Segment {
    fn fails(&self, what: &'static str) -> impl FnOnce(io::Error) -> JournalError {
        let path = self.path.clone();
        move |source| JournalError { path, what, source }
    }

    fn open(path: PathBuf) -> Result<Segment, JournalError> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        match file {
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

    /// Reads the records, and is ready to go on behind the last.
    fn read(&mut self, mut each: impl FnMut(u8, Header, Vec<u8>)) -> Result<(), JournalError> {
        let found = self.file.metadata().map_err(self.fails("read"))?.len();
        let mut reader = BufReader::with_capacity(256 << 10, &self.file);
        let mut header = [0; HEADER_BYTES];
        if found < HEADER_BYTES as u64 {
            return Ok(());
        }
        reader.read_exact(&mut header).map_err(self.fails("read"))?;
        if header[..8] != MAGIC || header[8..12] != VERSION.to_le_bytes() {
            return Ok(());
        }
        let epoch = number(&header, 16);
        let mut length = HEADER_BYTES as u64;
        while let Some((record, bytes)) =
            next_record(&mut reader, epoch, found - length).map_err(self.fails("read"))?
        {
            length += (RECORD_BYTES + bytes.len()) as u64;
            let header = Header {
                sequence: Sequence(number(&record, 24)),
                request: RequestId(number(&record, 32)),
                handle: HandleId(number(&record, 40)),
                ino: Ino(number(&record, 48)),
                offset: number(&record, 56),
                clear_set_id: record[17] & 1 != 0,
            };
            each(record[16], header, bytes);
        }
        drop(reader);
        (self.epoch, self.length) = (epoch, length);
        self.file.seek(SeekFrom::Start(length)).map(drop).map_err(self.fails("read"))
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
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

type Record = ([u8; RECORD_BYTES], Vec<u8>);

/// The next record of this epoch among at most `left` bytes, if there is a whole one.
fn next_record(reader: &mut impl Read, epoch: u64, left: u64) -> io::Result<Option<Record>> {
    if left < RECORD_BYTES as u64 {
        return Ok(None);
    }
    let mut record = [0; RECORD_BYTES];
    reader.read_exact(&mut record)?;
    let length = u32::from_le_bytes([record[4], record[5], record[6], record[7]]) as usize;
    let is_whole = length <= WRITE_BYTES_MAX && length as u64 <= left - RECORD_BYTES as u64;
    if !is_whole || number(&record, 8) != epoch {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&record[4..]);
    checksum.update(&bytes);
    let is_right = record[..4] == checksum.finalize().to_le_bytes();
    Ok(is_right.then_some((record, bytes)))
}

impl State {
    fn place(&mut self, kind: u8, header: &Header, bytes: &[u8]) -> Result<Placed, JournalError> {
        let needed = (RECORD_BYTES + bytes.len()) as u64;
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
        }
        let segment = &mut self.segments[self.current];
        segment.append(&record(segment.epoch, kind, header, bytes), bytes)?;
        Ok(Placed::Yes)
    }

    /// Records what is done, and gives it: it may be settled then.
    fn write_done(&mut self) -> Result<Vec<Sequence>, JournalError> {
        if self.done.is_empty() {
            return Ok(Vec::new());
        }
        let none = Header {
            sequence: Sequence(0),
            request: RequestId(0),
            handle: HandleId(0),
            ino: Ino(0),
            offset: 0,
            clear_set_id: false,
        };
        let bytes: Vec<u8> = self.done.iter().flat_map(|sequence| sequence.0.to_le_bytes()).collect();
        // A list of what is done may go over the limit: it is what makes room.
        let segment = &mut self.segments[self.current];
        segment.append(&record(segment.epoch, 2, &none, &bytes), &bytes)?;
        Ok(std::mem::take(&mut self.done))
    }
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
        let (mut found, mut done) = ([Vec::new(), Vec::new()], HashSet::new());
        let mut left = Left::default();
        if fresh {
            for segment in [&mut first, &mut second] {
                segment.file.set_len(0).map_err(segment.fails("begin"))?;
            }
        } else {
            for (segment, writes) in [&mut first, &mut second].into_iter().zip(&mut found) {
                segment.read(|kind, header, bytes| match kind {
                    2 => done.extend(bytes.chunks_exact(8).map(|chunk| Sequence(number(chunk, 0)))),
                    _ => {
                        if header.request != RequestId(0) {
                            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                            *left.taken.entry(header.request).or_default() += length;
                        }
                        writes.push(Pending { header, bytes: bytes.into() });
                    }
                })?;
            }
        }
        if first.epoch.max(second.epoch) == 0 {
            first.epoch = RandomState::new().hash_one(()) >> EPOCH_SALT_SHIFT;
        }
        let mut segments = [first, second];
        let current = usize::from(segments[1].epoch > segments[0].epoch);
        let mut pending = HashMap::new();
        for at in [1 - current, current] {
            found[at].retain(|write| !done.contains(&write.header.sequence));
            segments[at].pending = found[at].len();
            pending.extend(found[at].iter().map(|write| (write.header.sequence, at)));
            left.pending.append(&mut found[at]);
        }
        let state = State { segments, current, pending, done: Vec::new(), segment_bytes_max, failure: None };
        Ok((Journal { state: Mutex::new(state), room: Notify::new() }, left))
    }

    /// Records a write, waiting for room. When it returns, a successor will carry it out. Writes that overlap are to be
    /// given in their order.
    pub(crate) async fn append(&self, header: &Header, bytes: &[u8]) -> Result<(), JournalError> {
        loop {
            let room = self.room.notified();
            {
                let mut state = self.state.lock();
                let placed = state.place(1, header, bytes);
                state.failure = placed.as_ref().err().map(ToString::to_string);
                if let Placed::Yes = placed? {
                    let current = state.current;
                    state.segments[current].pending += 1;
                    state.pending.insert(header.sequence, current);
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// The write is over.
    pub(crate) fn done(&self, sequence: Sequence) -> Done {
        let mut state = self.state.lock();
        let Some(at) = state.pending.remove(&sequence) else { return Done::default() };
        state.done.push(sequence);
        state.segments[at].pending -= 1;
        let is_room = state.segments[at].pending == 0 && at != state.current;
        let is_due = state.done.len() >= DONE_MAX || is_room;
        let is_first = state.done.len() == 1 && !is_due;
        let settled = if is_due { recorded_done(&mut state) } else { Vec::new() };
        drop(state);
        if is_room {
            self.room.notify_waiters();
        }
        Done { settled, is_first }
    }

    /// Records what is over. Gives the numbers that may be settled now.
    pub(crate) fn record_done(&self) -> Vec<Sequence> {
        recorded_done(&mut self.state.lock())
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

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    fn write(sequence: u64, bytes: &[u8]) -> Pending {
        let header = Header {
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
        block_on(journal.append(&write.header, &write.bytes)).expect("appended");
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
                        let settled = journal.done(done.header.sequence).settled;
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
            let mut append = Box::pin(journal.append(&write.header, &write.bytes));
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
            assert!(cut < HEADER_BYTES || HEADER_BYTES + kept + next.min(whole.len()) > cut, "cut at {cut}");
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
            let mut waiting = Box::pin(journal.append(&more.header, &more.bytes));
            let polled =
                std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx).is_ready())).await;
            assert!(!polled, "there was room in a full journal");
            for number in 1..=3 {
                journal.done(Sequence(number));
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

    #[test]
    fn a_journal_that_cannot_be_written_says_so_until_it_can() {
        let scratch = tempfile::tempdir().expect("a directory");
        let journal = Journal::open(scratch.path(), true, SEGMENT_BYTES_MAX).expect("opened").0;
        append(&journal, &write(1, b"kept"));
        let read_only = File::open(scratch.path().join(FILES[0])).expect("opened");
        let writable = std::mem::replace(&mut journal.state.lock().segments[0].file, read_only);
        let lost = write(2, b"not kept");
        assert!(block_on(journal.append(&lost.header, &lost.bytes)).is_err());
        assert!(journal.failure().is_some_and(|why| why.contains("journal.0")));
        assert_eq!(left(scratch.path()), [write(1, b"kept")]);
        journal.state.lock().segments[0].file = writable;
        append(&journal, &write(3, b"kept too"));
        assert_eq!(journal.failure(), None);
        assert_eq!(left(scratch.path()), [write(1, b"kept"), write(3, b"kept too")]);
    }
}
