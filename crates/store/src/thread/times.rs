//! When files of the base were modified: as in the working copy that the thread was made from, where a file is the same there.
//!
//! git has noted in the working copy's index which object each file is, and what `stat` said of it. A file that the base has of the same
//! object and mode, and of which `stat` says that again, is dated as there. So make, cargo and whatever compares times finds in a thread
//! what it has found there. All others are dated when the thread was made: what was built of something else is older than they are.
//!
//! `THREAD/times`, written once, whole, before anybody sees the thread. All numbers are little endian:
//!
//! ```text
//! offset  size
//!      0     8  "steadtim"
//!      8     4  version: 1
//!     12     4  how many
//!     16     8  the number of the first file
//!     24    12  each: seconds since 1970, 8; nanoseconds, 4: 0xffffffff if the file is dated as the thread
//!    ...     4  CRC-32 (IEEE) of all before
//! ```
//!
//! Where there is none, or it is damaged, all are dated as the thread. Directories are: git knows no times of theirs.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::git_index::{PATH_BYTES_MAX, low, mode_of, size};
use super::{Locked, Thread};
use crate::error::fails;
use crate::node::{Ino, Kind, Time};
use crate::objects::IndexEntry;
use crate::working_copy::index::GitIndex;
use crate::working_copy::{WorkingCopy, look_in};
use crate::{Oid, Refusal, Result};

const MAGIC: [u8; 8] = *b"steadtim";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
const TIME_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;
const NONE: u32 = u32::MAX;

pub(super) const TIMES: &str = "times";

/// How many files may be dated: as many as git's index of a thread can have.
const COUNT_MAX: usize = 16 << 20;

/// When files of the base were modified, by their numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    first: u64,
    times: Vec<Time>,
}

impl Times {
    /// Those of a thread that is there.
    pub(super) fn open(thread: &Path) -> Result<Times> {
        let path = thread.join(TIMES);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Times::default()),
            bytes => bytes.map_err(fails("read", &path))?,
        };
        Ok(Times::parse(&bytes).unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "times are lost: files are dated as the thread");
            Times::default()
        }))
    }

    pub(super) fn of(&self, ino: Ino) -> Option<Time> {
        let number = usize::try_from(ino.0.checked_sub(self.first)?).ok()?;
        self.times.get(number).copied().filter(|time| time.nanoseconds != NONE)
    }

    /// Of some files, in any order.
    fn from(mut dated: Vec<(Ino, Time)>) -> Times {
        dated.sort_unstable_by_key(|(ino, _)| *ino);
        let (Some((Ino(first), _)), Some((Ino(last), _))) = (dated.first(), dated.last()) else {
            return Times::default();
        };
        let count = usize::try_from(last - first).unwrap_or(COUNT_MAX).min(COUNT_MAX) + 1;
        let mut times = vec![Time { seconds: 0, nanoseconds: NONE }; count];
        for (ino, time) in &dated {
            let place = usize::try_from(ino.0 - first).ok().and_then(|number| times.get_mut(number));
            place.into_iter().for_each(|place| *place = *time);
        }
        Times { first: *first, times }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.times.len() * TIME_BYTES + CHECKSUM_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(self.times.len()).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&self.first.to_le_bytes());
        for time in &self.times {
            bytes.extend_from_slice(&time.seconds.to_le_bytes());
            bytes.extend_from_slice(&time.nanoseconds.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Times> {
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let (magic, rest) = body.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let (first, rest) = rest.split_first_chunk()?;
        let is_whole = rest.len() == u32::from_le_bytes(*count) as usize * TIME_BYTES;
        if *magic != MAGIC || u32::from_le_bytes(*version) != VERSION || !is_whole {
            return None;
        }
        let time = |bytes: &[u8]| {
            let (seconds, rest) = bytes.split_first_chunk()?;
            let nanoseconds = u32::from_le_bytes(*rest.first_chunk()?);
            let is_time = nanoseconds < 1_000_000_000 || nanoseconds == NONE;
            is_time.then_some(Time { seconds: i64::from_le_bytes(*seconds), nanoseconds })
        };
        let times: Option<Vec<Time>> = rest.chunks_exact(TIME_BYTES).map(time).collect();
        Some(Times { first: u64::from_le_bytes(*first), times: times? })
    }
}

/// What files are compared with.
struct Dating<'a> {
    copy: &'a WorkingCopy,
    index: GitIndex,
    /// What is dated later would be read by git.
    latest: Time,
    /// Of what is not the same there.
    otherwise: Option<Time>,
    dated: Vec<(Ino, Time)>,
}

impl Thread {
    /// Dates the files of a thread that was just begun as a working copy has them, and those that it has otherwise, or not at all, at
    /// `otherwise` if they are not to be dated as the thread. To be done once, before anybody looks at the thread. Looks into every
    /// directory, and asks for the attributes of every file there. Durable when the thread is [settled](super::Unsettled).
    pub fn date_from(&self, copy: &WorkingCopy, otherwise: Option<Time>) -> Result<()> {
        let index = copy.git_index(self.objects.hash()).unwrap_or_default();
        let latest = self.origin.made;
        let mut dating = Dating { copy, index, latest, otherwise, dated: Vec::new() };
        self.locked().date_below(Ino::ROOT, &mut Vec::new(), &mut dating)?;
        let times = Times::from(dating.dated);
        if times == Times::default() {
            return Ok(());
        }
        self.write_times(&times)?;
        if self.times.set(times).is_err() {
            tracing::warn!(path = %self.directory.display(), "a thread is dated twice");
        }
        Ok(())
    }

    fn write_times(&self, times: &Times) -> Result<()> {
        let path = self.directory.join(TIMES);
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let mut file = made.map_err(fails("make", &path))?;
        file.write_all(&times.bytes()).map_err(fails("write", &path))
    }
}

impl Locked<'_> {
    fn date_below(&mut self, directory: Ino, path: &mut Vec<u8>, dating: &mut Dating<'_>) -> Result<()> {
        self.look_into(directory)?;
        let first = self.directory(directory)?.first;
        let index = self.index(directory)?.unwrap_or_default();
        let there = dating.copy.open_directory(path).ok();
        for number in 0..index.count() {
            let entry = index.get(number).ok_or(Refusal::Stale)?;
            let (ino, above) = (Ino(first + u64::from(number)), path.len());
            if above > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            match (entry.kind, entry.oid) {
                // A longer one is refused by whoever makes the index.
                _ if path.len() > PATH_BYTES_MAX => {}
                (Kind::Directory, Some(_)) => self.date_below(ino, path, dating)?,
                (_, Some(oid)) => dating.date(ino, entry, &oid, there.as_ref(), path),
                (_, None) => {}
            }
            path.truncate(above);
        }
        Ok(())
    }
}

impl Dating<'_> {
    fn date(&mut self, ino: Ino, entry: &IndexEntry, oid: &Oid, there: Option<&OwnedFd>, path: &[u8]) {
        let same = there.and_then(|there| self.is_same(entry, oid, there, path));
        let time = same.map_or(self.otherwise, |time| (time < self.latest).then_some(time));
        self.dated.extend(time.map(|time| (ino, time)));
    }

    /// When the file there was modified, if it is the same.
    fn is_same(&self, entry: &IndexEntry, oid: &Oid, there: &OwnedFd, path: &[u8]) -> Option<Time> {
        let known = self.index.find(path)?;
        if known.oid != *oid || known.mode != mode_of(entry) {
            return None;
        }
        let seen = look_in(there, &entry.name).ok()?;
        let Time { seconds, nanoseconds } = known.modified;
        let is_dated = low(seen.modified.seconds.cast_unsigned()) == low(seconds.cast_unsigned())
            && (nanoseconds == 0 || nanoseconds == seen.modified.nanoseconds);
        let is_same = is_dated && seen.kind == entry.kind && size(seen.size) == known.size;
        is_same.then_some(seen.modified)
    }
}

#[cfg(test)]
mod tests;
