//! Where the files are to whose handles clients may come back: for each, its directory and its name there.
//!
//! A handle says which file, not where. As long as the table of `vfs` knows the file that is enough; this is for after
//! the table has forgotten it, and for the next worker. It is one file, `nfs-places`, in the mount's own directory, to
//! which records are appended; the last one of a file counts. Numbers are little endian.
//!
//! | offset | size | header |
//! |---|---|---|
//! | 0 | 8 | `SteadNFS` |
//! | 8 | 4 | version of the format, 1 |
//! | 12 | 4 | CRC-32C of bytes 0–11 and 16–23 |
//! | 16 | 8 | the key of the mount, random: part of every handle |
//!
//! | offset | size | record |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of bytes 4 to the end of the name |
//! | 4 | 1 | length of the name, 0 for "not anywhere any more" |
//! | 5 | 1 | 1 for a directory, 0 for anything else |
//! | 6 | 2 | zero |
//! | 8 | 24 | the file: device, inode, birth |
//! | 32 | 24 | its directory, likewise |
//! | 56 | length | its name |
//! | 56 + length | 0–7 | zeros up to a multiple of 8 |
//!
//! Records go to the system before the reply with the handle goes to the client, so they survive the worker, which is
//! all a handle needs: the kernel that holds it does not survive a loss of power either. What does not check out at the
//! end of the file was being written when the worker died, and is cut off. When most records are outdated the file is
//! written anew beside the old one and takes its place.
//!
//! What is renamed on the machine while no worker looks is not at its place: its handle is stale until the file is found
//! again by name.
//!
//! Memory holds 24 bytes per file, not the names. Beyond [`PLACES_MAX`] the files whose records are oldest are dropped,
//! directories last; they are still found through the table, or by name.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use thiserror::Error;
use vfs::file::{FileId, NAME_BYTES_MAX};

const MAGIC: &[u8; 8] = b"SteadNFS";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
const RECORD_HEAD_BYTES: usize = 56;
const RECORD_BYTES_MAX: usize = RECORD_HEAD_BYTES + NAME_BYTES_MAX.next_multiple_of(RECORD_ALIGN);
const RECORD_ALIGN: usize = 8;

/// Files remembered: 50 MB of memory and about 160 MB of disk.
const PLACES_MAX: usize = 2_000_000;

/// Outdated bytes that are not worth writing the rest anew for.
const OUTDATED_BYTES_MIN: u64 = 1 << 20;

/// Why the file cannot be used.
#[derive(Debug, Error)]
pub enum PlacesError {
    /// The system refuses.
    #[error("could not use the table of file handles `{}`", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another worker of the mount is alive.
    #[error("the table of file handles `{}` is in use by another worker", .0.display())]
    InUse(PathBuf),
    /// Written by another release.
    #[error("the table of file handles `{}` has version {found}, this program writes {VERSION}", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
}

/// The directory of a file, and its name there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    pub directory: FileId,
    pub name: Box<[u8]>,
}

#[derive(Clone, Copy, Debug)]
struct Spot {
    /// In units of [`RECORD_ALIGN`].
    offset: u32,
    /// Of directory and name, to see without reading that a record says nothing new.
    digest: u32,
    /// In units of [`RECORD_ALIGN`].
    size: u8,
    is_directory: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Places {
    path: PathBuf,
    file: File,
    /// The end of the last whole record.
    end: u64,
    key: u64,
    /// By the hash of the file's identity. Two files with one hash share a spot, and the later has it: one in 10^19.
    spots: HashMap<u64, Spot>,
    /// Bytes of records that count.
    current: u64,
    hasher: RandomState,
    /// Records not yet written.
    pending: Vec<u8>,
}

struct Record<'a> {
    file: FileId,
    is_directory: bool,
    directory: FileId,
    name: &'a [u8],
}

impl Places {
    /// Opens the table in the mount's directory `state`, or begins one. No other process may have it open.
    pub fn open(state: &Path) -> Result<Places, PlacesError> {
        let path = state.join("nfs-places");
        let opened = Places::open_at(&path);
        opened.map_err(|error| match error {
            OpenError::Io(source) if source.kind() == io::ErrorKind::WouldBlock => PlacesError::InUse(path),
            OpenError::Io(source) => PlacesError::Io { path, source },
            OpenError::Version(found) => PlacesError::Version { path, found },
        })
    }

    fn open_at(path: &Path) -> Result<Places, OpenError> {
        let mut file = open_options().create(true).truncate(false).open(path)?;
        lock(&file)?;
        let mut header = [0; HEADER_BYTES];
        let length = file.metadata()?.len();
        if length < HEADER_BYTES as u64 {
            // The worker that began it died before anybody had a handle.
            header = new_header(random_key()?);
            file.set_len(0)?;
            file.write_all_at(&header, 0)?;
        } else {
            file.read_exact_at(&mut header, 0)?;
        }
        let key = checked_header(&header)?;
        let mut places = Places {
            path: path.to_path_buf(),
            end: HEADER_BYTES as u64,
            key,
            spots: HashMap::new(),
            current: 0,
            hasher: RandomState::new(),
            pending: Vec::new(),
            file: file.try_clone()?,
        };
        places.load(&mut file)?;
        Ok(places)
    }

    fn load(&mut self, file: &mut File) -> io::Result<()> {
        use std::io::Seek;
        let length = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(self.end))?;
        let mut input = io::BufReader::with_capacity(1 << 20, file);
        let mut buffer = [0; RECORD_BYTES_MAX];
        while let Some(record) = read_record(&mut input, &mut buffer)? {
            let (size, at) = (record.bytes(), self.end);
            self.index(&record, at);
            self.end += size as u64;
        }
        if self.end < length {
            tracing::warn!(path = %self.path.display(), bytes = length - self.end, "cut a torn end off");
            self.file.set_len(self.end)?;
        }
        Ok(())
    }

    /// The key of the mount.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// How many files are known.
    pub fn count(&self) -> usize {
        self.spots.len()
    }

    fn spot_of(&self, file: FileId) -> u64 {
        self.hasher.hash_one(file)
    }

    fn digest(&self, directory: FileId, name: &[u8]) -> u32 {
        let hash = self.hasher.hash_one((directory, name));
        u32::try_from(hash >> 32).unwrap_or(u32::MAX)
    }

    fn index(&mut self, record: &Record<'_>, offset: u64) {
        let key = self.spot_of(record.file);
        let size = record.bytes();
        if record.name.is_empty() {
            if let Some(old) = self.spots.remove(&key) {
                self.current -= old.bytes();
            }
            return;
        }
        let spot = Spot {
            offset: u32::try_from(offset / RECORD_ALIGN as u64).unwrap_or(u32::MAX),
            digest: self.digest(record.directory, record.name),
            size: u8::try_from(size / RECORD_ALIGN).unwrap_or(u8::MAX),
            is_directory: record.is_directory,
        };
        self.current += spot.bytes();
        if let Some(old) = self.spots.insert(key, spot) {
            self.current -= old.bytes();
        }
    }

    fn append(&mut self, record: &Record<'_>) {
        let offset = self.end + self.pending.len() as u64;
        record.encode(&mut self.pending);
        self.index(record, offset);
    }

    /// `file` is `name` in `directory`. Kept by the next [`Places::write`].
    pub fn remember(&mut self, file: FileId, is_directory: bool, directory: FileId, name: &[u8]) {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return;
        }
        let known = self.spots.get(&self.spot_of(file));
        if known.is_some_and(|spot| spot.digest == self.digest(directory, name)) {
            return;
        }
        self.append(&Record { file, is_directory, directory, name });
    }

    /// `file` is no longer `name` in `directory`. If that is what is remembered, it is forgotten, and `true`.
    pub fn forget(&mut self, file: FileId, directory: FileId, name: &[u8]) -> bool {
        let Some(spot) = self.spots.get(&self.spot_of(file)) else { return false };
        if spot.digest != self.digest(directory, name) {
            return false;
        }
        let is_directory = spot.is_directory;
        self.append(&Record { file, is_directory, directory, name: b"" });
        true
    }

    /// Where `file` is, as far as is known.
    pub fn find(&self, file: FileId) -> io::Result<Option<Whereabouts>> {
        let Some(spot) = self.spots.get(&self.spot_of(file)) else { return Ok(None) };
        let mut buffer = [0; RECORD_BYTES_MAX];
        let bytes = &mut buffer[..usize::from(spot.size) * RECORD_ALIGN];
        let offset = u64::from(spot.offset) * RECORD_ALIGN as u64;
        match usize::try_from(offset.saturating_sub(self.end)) {
            Ok(at) if offset >= self.end => bytes.copy_from_slice(&self.pending[at..at + bytes.len()]),
            _ => self.file.read_exact_at(bytes, offset)?,
        }
        let Some(record) = Record::decode(bytes) else { return Err(io::ErrorKind::InvalidData.into()) };
        let found = record.file == file && !record.name.is_empty();
        Ok(found.then(|| Whereabouts { directory: record.directory, name: record.name.into() }))
    }

    /// Hands what was remembered to the system. To be called before a client gets a handle.
    pub fn write(&mut self) -> Result<(), PlacesError> {
        let outcome = self.write_pending();
        if outcome.is_err() {
            // What is not in the file cannot be found there. The table still knows it.
            self.pending.clear();
            let end = self.end;
            self.spots.retain(|_, spot| u64::from(spot.offset) * (RECORD_ALIGN as u64) < end);
            self.current = self.spots.values().map(Spot::bytes).sum();
        }
        outcome.map_err(|source| PlacesError::Io { path: self.path.clone(), source })
    }

    fn write_pending(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&self.pending, self.end)?;
        self.end += self.pending.len() as u64;
        self.pending.clear();
        let outdated = self.end - HEADER_BYTES as u64 - self.current;
        let too_many = self.spots.len() > PLACES_MAX;
        if too_many || outdated > self.current.max(OUTDATED_BYTES_MIN) {
            self.compact(if too_many { PLACES_MAX / 2 } else { PLACES_MAX })?;
        }
        Ok(())
    }

    /// Writes the records that count anew: all of them, or, of more than `keep`, all directories and the latest others.
    fn compact(&mut self, keep: usize) -> io::Result<()> {
        let mut spots: Vec<(u64, Spot)> = self.spots.iter().map(|(key, spot)| (*key, *spot)).collect();
        spots.sort_unstable_by_key(|(_, spot)| spot.offset);
        let mut surplus = spots.len().saturating_sub(keep);
        spots.retain(|(_, spot)| {
            let drop = surplus > 0 && !spot.is_directory;
            surplus -= usize::from(drop);
            !drop
        });
        let path = self.path.with_extension("new");
        let file = open_options().create(true).truncate(true).open(&path)?;
        lock(&file)?;
        let mut output = io::BufWriter::with_capacity(1 << 20, &file);
        output.write_all(&new_header(self.key))?;
        let mut end = HEADER_BYTES as u64;
        let mut buffer = [0; RECORD_BYTES_MAX];
        for (_, spot) in &mut spots {
            let bytes = &mut buffer[..usize::from(spot.size) * RECORD_ALIGN];
            self.file.read_exact_at(bytes, u64::from(spot.offset) * RECORD_ALIGN as u64)?;
            output.write_all(bytes)?;
            spot.offset = u32::try_from(end / RECORD_ALIGN as u64).unwrap_or(u32::MAX);
            end += bytes.len() as u64;
        }
        output.flush()?;
        drop(output);
        file.sync_data()?;
        std::fs::rename(&path, &self.path)?;
        self.file = file;
        self.end = end;
        self.current = end - HEADER_BYTES as u64;
        self.spots = spots.into_iter().collect();
        Ok(())
    }
}

impl Spot {
    fn bytes(&self) -> u64 {
        u64::from(self.size) * RECORD_ALIGN as u64
    }
}

enum OpenError {
    Io(io::Error),
    Version(u32),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> OpenError {
        OpenError::Io(error)
    }
}

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn lock(file: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

fn random_key() -> io::Result<u64> {
    let mut key = [0; 8];
    random(&mut key)?;
    Ok(u64::from_le_bytes(key))
}

/// Fills `bytes` with what nobody can guess.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    File::open("/dev/urandom")?.read_exact(bytes)
}

fn new_header(key: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..].copy_from_slice(&key.to_le_bytes());
    let crc = crc32c(&[&header[..12], &header[16..]]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

fn checked_header(header: &[u8; HEADER_BYTES]) -> Result<u64, OpenError> {
    let version = u32_at(header, 8);
    if &header[..8] == MAGIC && version != VERSION {
        return Err(OpenError::Version(version));
    }
    let crc = crc32c(&[&header[..12], &header[16..]]);
    if &header[..8] != MAGIC || u32_at(header, 12) != crc {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a table of file handles").into());
    }
    Ok(u64_at(header, 16))
}

impl Record<'_> {
    fn bytes(&self) -> usize {
        RECORD_HEAD_BYTES + self.name.len().next_multiple_of(RECORD_ALIGN)
    }

    fn encode(&self, into: &mut Vec<u8>) {
        let start = into.len();
        let length = u8::try_from(self.name.len()).expect("no longer than NAME_BYTES_MAX");
        into.extend_from_slice(&[0, 0, 0, 0, length, u8::from(self.is_directory), 0, 0]);
        for id in [self.file, self.directory] {
            for number in [id.device, id.inode, id.birth] {
                into.extend_from_slice(&number.to_le_bytes());
            }
        }
        into.extend_from_slice(self.name);
        let crc = crc32c(&[&into[start + 4..]]);
        into[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        into.resize(start + self.bytes(), 0);
    }

    /// The record that fills `bytes`, if it checks out.
    fn decode(bytes: &[u8]) -> Option<Record<'_>> {
        let end = RECORD_HEAD_BYTES + usize::from(*bytes.get(4)?);
        let checked = bytes.get(4..end)?;
        if crc32c(&[checked]) != u32_at(bytes, 0) {
            return None;
        }
        let id = |at| FileId {
            device: u64_at(bytes, at),
            inode: u64_at(bytes, at + 8),
            birth: u64_at(bytes, at + 16),
        };
        let name = &bytes[RECORD_HEAD_BYTES..end];
        Some(Record { file: id(8), is_directory: bytes[5] == 1, directory: id(32), name })
    }
}

/// Reads a whole record that checks out; `None` when there is none.
fn read_record<'a>(
    input: &mut impl Read,
    buffer: &'a mut [u8; RECORD_BYTES_MAX],
) -> io::Result<Option<Record<'a>>> {
    if !fill(input, &mut buffer[..RECORD_HEAD_BYTES])? {
        return Ok(None);
    }
    let end = RECORD_HEAD_BYTES + usize::from(buffer[4]).next_multiple_of(RECORD_ALIGN);
    if !fill(input, &mut buffer[RECORD_HEAD_BYTES..end])? {
        return Ok(None);
    }
    Ok(Record::decode(&buffer[..end]))
}

/// Fills `buffer`; `false` at the end of the input.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match input.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

fn crc32c(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(u32::MAX, |crc, byte| CRC32C[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

#[cfg(test)]
mod tests;
