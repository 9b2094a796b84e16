//! A file of records that outlives its writer and, to the last [`Log::sync`], the power. All numbers are little endian.
//!
//! ```text
//! offset  size  header
//!      0     8  "steadlog"
//!      8     4  version: 1
//!     12     4  what the records are of: 1, names of a thread
//!
//! offset  size  each record
//!      0     4  length of what follows the checksum: 1 to RECORD_BYTES_MAX
//!      4     4  CRC-32 (IEEE) of what follows
//!      8   ...  content
//! ```
//!
//! A record that is cut short or does not match its checksum ends the log: it was being written when its writer died or the
//! power went. Whoever opens the log cuts it off, so that what is appended is found.
//!
//! Where it is synced:
//!
//! - [`Log::create`] syncs the new file before the rename that puts it in place, and the directory behind it: a log that replaces
//!   another is never less than that.
//! - [`Log::begin`] syncs nothing, where there is no other.
//! - [`Log::append`] syncs nothing: the record outlives the process, not the power.
//! - [`Synced::wait`], without the log's lock, makes everything durable that was appended before [`Log::sync`].
//!
//! The kernel writes pages of a file in any order. A power cut may leave a later record whole and an earlier one not: the log
//! then ends at the earlier one. What a record means is not known here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"steadlog";
const VERSION: u32 = 1;
const NAMES: u32 = 1;

/// Before the first record.
pub const HEADER_BYTES: usize = 16;
const FRAME_BYTES: usize = 8;

/// The longest record: above an operation with two names and all attributes of a file, and a bound on what a damaged length can
/// ask for.
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
    #[error("`{}` is not a log of names of version {VERSION}", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// What was appended is not known to be there, since an earlier error. It must be replaced.
    #[error("the log `{}` failed before, and is written to no more", path.display())]
    Broken {
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
    /// Adds one. `content` appends it and nothing else: at least a byte, and at most [`RECORD_BYTES_MAX`].
    pub fn push(&mut self, content: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; FRAME_BYTES]);
        content(&mut self.bytes);
        let body = &self.bytes[start + FRAME_BYTES..];
        debug_assert!((1..=RECORD_BYTES_MAX).contains(&body.len()), "a record of {} bytes", body.len());
        let checksum = crc32fast::hash(body).to_le_bytes();
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.bytes[start..start + 4].copy_from_slice(&length);
        self.bytes[start + 4..start + FRAME_BYTES].copy_from_slice(&checksum);
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// A whole log of these, as a file has it.
    pub fn to_file(&self) -> Vec<u8> {
        let mut file = Vec::with_capacity(HEADER_BYTES + self.bytes.len());
        file.extend_from_slice(&header());
        file.extend_from_slice(&self.bytes);
        file
    }
}

fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..].copy_from_slice(&NAMES.to_le_bytes());
    header
}

/// The contents of the whole records of a log, in order, and how many bytes of it they take. `None` if it is no log.
pub fn parse(log: &[u8]) -> Option<(Vec<&[u8]>, usize)> {
    if log.get(..HEADER_BYTES)? != header() {
        return None;
    }
    let (mut records, mut at) = (Vec::new(), HEADER_BYTES);
    while let Some(record) = record_at(log, at) {
        records.push(record);
        at += FRAME_BYTES + record.len();
    }
    Some((records, at))
}

fn record_at(log: &[u8], at: usize) -> Option<&[u8]> {
    let frame = log.get(at..at + FRAME_BYTES)?;
    let number = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let (length, checksum) = (number(0) as usize, number(4));
    if !(1..=RECORD_BYTES_MAX).contains(&length) {
        return None;
    }
    let body = log.get(at + FRAME_BYTES..at + FRAME_BYTES + length)?;
    (crc32fast::hash(body) == checksum).then_some(body)
}

/// A log that is being written. One process at a time may have it.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Arc<File>,
    length: u64,
    is_broken: bool,
}

impl Log {
    /// Begins a log with `records`, in place of the one that is there, and durable. Whoever reads the path meanwhile, or after a
    /// power cut, finds the old one or the new one. After an error the old one is there, and is good to go on with.
    pub fn create(path: &Path, records: &Records) -> Result<Log, LogError> {
        let fresh = path.with_extension("new");
        Log::create_beside(path, &fresh, records).inspect_err(|_| {
            // Where there is no room, it takes what is left.
            let _gone = std::fs::remove_file(&fresh);
        })
    }

    /// Begins a log with `records` where there is none. Nothing of it is durable: whoever makes it so syncs the file and its directory.
    pub fn begin(path: &Path, records: &Records) -> Result<Log, LogError> {
        let fails = |what| move |source| LogError::Access { path: path.to_owned(), what, source };
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let mut file = made.map_err(fails("begin"))?;
        let whole = records.to_file();
        file.write_all(&whole).map_err(fails("fill"))?;
        let (path, length) = (path.to_owned(), whole.len() as u64);
        Ok(Log { path, file: Arc::new(file), length, is_broken: false })
    }

    fn create_beside(path: &Path, fresh: &Path, records: &Records) -> Result<Log, LogError> {
        let fails = |what| move |source| LogError::Access { path: path.to_owned(), what, source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(fresh)
            .map_err(fails("begin"))?;
        file.write_all(&header()).map_err(fails("begin"))?;
        file.write_all(&records.bytes).map_err(fails("fill"))?;
        file.sync_all().map_err(fails("sync"))?;
        std::fs::rename(fresh, path).map_err(fails("replace"))?;
        let mut log = Log {
            path: path.to_owned(),
            file: Arc::new(file),
            length: (HEADER_BYTES + records.bytes.len()) as u64,
            is_broken: false,
        };
        if let Err(error) = sync_directory(path.parent().unwrap_or(path)) {
            // The old one cannot be gone on with any more, and whether the new one stays nobody knows.
            log.is_broken = true;
            tracing::warn!(path = %path.display(), %error, "a log's directory could not be synced");
        }
        Ok(log)
    }

    /// Reads a log, giving each whole record to `each`, and goes on behind the last. An error of `each` leaves the file as it
    /// is. `None` if there is no such file.
    pub fn open<E: From<LogError>>(
        path: &Path,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Option<Log>, E> {
        let fails = |what| move |source| LogError::Access { path: path.to_owned(), what, source };
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fails("open")(error).into()),
        };
        let mut found = Vec::new();
        file.read_to_end(&mut found).map_err(fails("read"))?;
        let (records, whole) = parse(&found).ok_or_else(|| LogError::Foreign { path: path.to_owned() })?;
        records.into_iter().try_for_each(&mut each)?;
        if whole < found.len() {
            tracing::info!(path = %path.display(), bytes = found.len() - whole, "a torn record is cut off");
            file.set_len(whole as u64).map_err(fails("cut"))?;
        }
        file.seek(SeekFrom::Start(whole as u64)).map_err(fails("read"))?;
        Ok(Some(Log { path: path.to_owned(), file: Arc::new(file), length: whole as u64, is_broken: false }))
    }

    /// Appends the records, whole: after an error none of them is in the log, or the log is broken and has to be replaced
    /// by [`Log::create`].
    pub fn append(&mut self, records: &Records) -> Result<(), LogError> {
        if self.is_broken {
            return Err(LogError::Broken { path: self.path.clone() });
        }
        if let Err(source) = (&*self.file).write_all(&records.bytes) {
            // Records behind a torn one would not be found.
            let start = SeekFrom::Start(self.length);
            let cut = self.file.set_len(self.length).and_then(|()| (&*self.file).seek(start));
            self.is_broken = cut.is_err();
            return Err(LogError::Access { path: self.path.clone(), what: "append to", source });
        }
        self.length += records.bytes.len() as u64;
        Ok(())
    }

    /// What makes durable all that has been appended; to be waited for without a lock.
    pub fn sync(&self) -> Synced {
        Synced { file: self.file.clone(), path: self.path.clone(), is_broken: self.is_broken }
    }

    /// Nothing more is appended: after a failed sync nobody knows what of it the disk has, and the next would say that all is
    /// well.
    pub fn break_off(&mut self) {
        self.is_broken = true;
    }

    /// Goes on as on a disk that takes what is written and syncs nothing.
    #[cfg(test)]
    pub(crate) fn lose_the_disk(&mut self) {
        let lost = OpenOptions::new().write(true).open("/dev/null").expect("it is everywhere");
        self.file = Arc::new(lost);
    }

    /// Whether it has to be replaced.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Bytes in the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// See [`Log::sync`].
#[derive(Debug)]
pub struct Synced {
    file: Arc<File>,
    path: PathBuf,
    is_broken: bool,
}

impl Synced {
    /// Waits for the disk.
    pub fn wait(self) -> Result<(), LogError> {
        if self.is_broken {
            return Err(LogError::Broken { path: self.path });
        }
        let synced = self.file.sync_data();
        synced.map_err(|source| LogError::Access { path: self.path, what: "sync", source })
    }
}

/// Makes names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
