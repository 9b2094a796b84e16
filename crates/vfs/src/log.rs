//! A file of records that outlives the process that writes it, at whatever instruction that is killed.
//!
//! What `write(2)` has put into a file stays there when the process dies, so nothing is synced. All numbers are little
//! endian.
//!
//! ```text
//! offset  size  header
//!      0     8  "steadlog"
//!      8     4  version: 1
//!     12     4  zero
//!
//! offset  size  each record
//!      0     4  length of what follows the checksum: 1 to RECORD_BYTES_MAX
//!      4     4  CRC-32 (IEEE) of what follows
//!      8     1  kind
//!      9   ...  content, by kind
//! ```
//!
//! A record that is cut short or does not match its checksum ends the log: it was being written when its writer died.
//! What a record means is not known here.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::owned::owners_only;

const MAGIC: [u8; 8] = *b"steadlog";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 16;
const FRAME_BYTES: usize = 8;

/// The longest record, with its kind: far above any that is written, and a bound on what a damaged length can ask for.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// A log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Neither read nor written.
    #[error("could not {what} the log `{}`", path.display())]
    Access {
        /// Which.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another program's file, or another release's.
    #[error("`{}` is not a log of version {VERSION}", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
}

/// Records on their way to a log, framed.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
}

impl Records {
    /// Adds one. `content` appends it and nothing else; it must stay below [`RECORD_BYTES_MAX`].
    pub fn push(&mut self, kind: u8, content: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; FRAME_BYTES]);
        self.bytes.push(kind);
        content(&mut self.bytes);
        let body = &self.bytes[start + FRAME_BYTES..];
        let length = body.len();
        debug_assert!(length <= RECORD_BYTES_MAX, "a record of {length} bytes");
        let checksum = crc32fast::hash(body).to_le_bytes();
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        self.bytes[start..start + 4].copy_from_slice(&length);
        self.bytes[start + 4..start + FRAME_BYTES].copy_from_slice(&checksum);
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Drops them, and keeps at most `capacity` bytes of memory for the next.
    pub fn clear(&mut self, capacity: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(capacity);
    }
}

/// What was found behind the last whole record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Torn {
    /// So many bytes, which have been cut off.
    pub bytes: u64,
}

/// A log that is being written. One process at a time may have it.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    /// Begins a log with `records`, in place of the one that is there. Whoever reads the path meanwhile finds the old
    /// one whole or the new one whole.
    pub fn create(path: &Path, records: &Records) -> Result<Log, LogError> {
        let fresh = path.with_extension("new");
        Log::create_beside(path, &fresh, records).inspect_err(|_| {
            // Where there is no room, it takes what is left.
            let _gone = std::fs::remove_file(&fresh);
        })
    }

    fn create_beside(path: &Path, fresh: &Path, records: &Records) -> Result<Log, LogError> {
        let fails = |what| move |source| LogError::Access { path: path.to_owned(), what, source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let mut file = owners_only(&mut options).open(fresh).map_err(fails("begin"))?;
        let mut header = Vec::with_capacity(HEADER_BYTES as usize);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        file.write_all(&header).map_err(fails("begin"))?;
        file.write_all(&records.bytes).map_err(fails("fill"))?;
        std::fs::rename(fresh, path).map_err(fails("replace"))?;
        Ok(Log { path: path.to_owned(), file, length: HEADER_BYTES + records.bytes.len() as u64 })
    }

    /// Reads a log, giving each whole record's kind and content to `each`, and goes on behind the last. `None` if there
    /// is no such file, or one whose writer died before it had a header.
    pub fn open(path: &Path, mut each: impl FnMut(u8, &[u8])) -> Result<Option<(Log, Torn)>, LogError> {
        let fails = |what| move |source| LogError::Access { path: path.to_owned(), what, source };
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fails("open")(error)),
        };
        let found = file.metadata().map_err(fails("open"))?.len();
        if found < HEADER_BYTES {
            return Ok(None);
        }
        let mut reader = BufReader::with_capacity(256 << 10, &file);
        let mut header = [0; HEADER_BYTES as usize];
        reader.read_exact(&mut header).map_err(fails("read"))?;
        if header[..8] != MAGIC || header[8..12] != VERSION.to_le_bytes() {
            return Err(LogError::Foreign { path: path.to_owned() });
        }
        let (mut length, mut body) = (HEADER_BYTES, Vec::new());
        while let Some(read) = next_record(&mut reader, found - length, &mut body).map_err(fails("read"))? {
            each(body[0], &body[1..]);
            length += read;
        }
        drop(reader);
        if length < found {
            file.set_len(length).map_err(fails("cut"))?;
        }
        file.seek(SeekFrom::Start(length)).map_err(fails("read"))?;
        Ok(Some((Log { path: path.to_owned(), file, length }, Torn { bytes: found - length })))
    }

    /// Appends the records, whole: after an error none of them is in the log, or the log cannot be used any more and
    /// must be replaced by [`Log::create`] or removed.
    pub fn append(&mut self, records: &Records) -> Result<(), LogError> {
        let appended = self.file.write_all(&records.bytes);
        if let Err(source) = appended {
            // Records behind a torn one would not be found.
            let _cut =
                self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            return Err(LogError::Access { path: self.path.clone(), what: "append to", source });
        }
        self.length += records.bytes.len() as u64;
        Ok(())
    }

    /// Bytes in the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the file away: nobody is to go on from it.
    pub fn remove(path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Reads one record of at most `left` bytes; `None` if there is no whole one. Gives its length with the frame.
fn next_record(reader: &mut impl Read, left: u64, body: &mut Vec<u8>) -> io::Result<Option<u64>> {
    if left < FRAME_BYTES as u64 {
        return Ok(None);
    }
    let mut frame = [0; FRAME_BYTES];
    reader.read_exact(&mut frame)?;
    let number = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let (length, checksum) = (number(0) as usize, number(4));
    if length == 0 || length > RECORD_BYTES_MAX || length as u64 > left - FRAME_BYTES as u64 {
        return Ok(None);
    }
    body.resize(length, 0);
    reader.read_exact(body)?;
    Ok((crc32fast::hash(body) == checksum).then_some((FRAME_BYTES + length) as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Content = Vec<(u8, Vec<u8>)>;

    fn records(content: &[(u8, Vec<u8>)]) -> Records {
        let mut records = Records::default();
        content.iter().for_each(|(kind, bytes)| records.push(*kind, |to| to.extend_from_slice(bytes)));
        records
    }

    fn read(path: &Path) -> Option<(Content, Log, Torn)> {
        let mut content = Content::new();
        let opened = Log::open(path, |kind, bytes| content.push((kind, bytes.to_vec()))).expect("readable");
        opened.map(|(log, torn)| (content, log, torn))
    }

    fn some() -> impl Strategy<Value = Content> {
        prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_was_appended_is_read_in_order(first in some(), then in prop::collection::vec(some(), 0..5)) {
            let scratch = tempfile::tempdir().expect("a directory");
            let path = scratch.path().join("log");
            let mut log = Log::create(&path, &records(&first)).expect("begun");
            let mut expected = first;
            for more in then {
                log.append(&records(&more)).expect("appended");
                expected.extend(more);
                let (found, _, torn) = read(&path).expect("there");
                prop_assert_eq!(&found, &expected);
                prop_assert_eq!(torn.bytes, 0);
            }
        }

        #[test]
        fn a_log_cut_at_any_byte_has_all_records_before_and_goes_on_behind_them(content in some(), more in some()) {
            let scratch = tempfile::tempdir().expect("a directory");
            let path = scratch.path().join("log");
            let log = Log::create(&path, &records(&content)).expect("begun");
            let whole = std::fs::read(&path).expect("read");
            prop_assert_eq!(whole.len() as u64, log.length());
            for cut in 0..=whole.len() {
                std::fs::write(&path, &whole[..cut]).expect("written");
                let Some((found, mut log, torn)) = read(&path) else {
                    prop_assert!((cut as u64) < HEADER_BYTES);
                    continue;
                };
                prop_assert_eq!(&found[..], &content[..found.len()]);
                let kept = HEADER_BYTES as usize + records(&found).bytes();
                prop_assert_eq!(kept as u64 + torn.bytes, cut as u64);
                let lost = content.get(found.len()).map(|next| records(std::slice::from_ref(next)).bytes());
                prop_assert!(lost.is_none_or(|next| kept + next > cut), "a whole record was lost");
                log.append(&records(&more)).expect("appended");
                let expected: Vec<_> = found.into_iter().chain(more.iter().cloned()).collect();
                prop_assert_eq!(read(&path).expect("there").0, expected);
            }
        }

        #[test]
        fn a_damaged_byte_is_never_read_as_a_record(content in some(), at in any::<prop::sample::Index>(), to in 1..=255u8) {
            let scratch = tempfile::tempdir().expect("a directory");
            let path = scratch.path().join("log");
            Log::create(&path, &records(&content)).expect("begun");
            let mut bytes = std::fs::read(&path).expect("read");
            prop_assume!(bytes.len() as u64 > HEADER_BYTES);
            let at = HEADER_BYTES as usize + at.index(bytes.len() - HEADER_BYTES as usize);
            bytes[at] ^= to;
            std::fs::write(&path, &bytes).expect("written");
            let (found, ..) = read(&path).expect("there");
            prop_assert_eq!(&found[..], &content[..found.len()]);
            prop_assert!(found.len() < content.len());
        }
    }

    #[test]
    fn another_programs_file_is_refused_and_left_alone() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("log");
        std::fs::write(&path, b"these are sixteen bytes and more").expect("written");
        assert!(matches!(Log::open(&path, |_, _| ()), Err(LogError::Foreign { .. })));
        assert_eq!(std::fs::read(&path).expect("read"), b"these are sixteen bytes and more");
        assert!(Log::open(&scratch.path().join("none"), |_, _| ()).expect("no error").is_none());
    }

    #[test]
    fn a_log_that_cannot_be_begun_leaves_nothing_beside() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("log");
        std::fs::create_dir(&path).expect("made");
        assert!(Log::create(&path, &records(&[(1, b"one".to_vec())])).is_err());
        assert!(!path.with_extension("new").exists());
    }

    #[test]
    fn a_log_that_cannot_be_written_says_so_and_stays_as_it_was() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("log");
        let content = vec![(1, b"one".to_vec())];
        Log::create(&path, &records(&content)).expect("begun");
        let file = File::open(&path).expect("opened for reading only");
        let length = file.metadata().expect("there").len();
        let mut log = Log { path: path.clone(), file, length };
        assert!(log.append(&records(&content)).is_err());
        assert_eq!(read(&path).expect("there").0, content);
    }
}
