//! Contents of the base, decoded once for all threads of all repositories of a user.
//!
//! ```text
//! CACHE/BOOT/lock         locked (flock) by whoever adds or evicts
//!            usage        bytes that are counted, 8; CRC-32 (IEEE) of that, 4. Little endian
//!            new/R-N      a content that is being written: R is random and tells writers apart, also those of one process or of other
//!                         namespaces of processes; N counts
//!            XX/OID       a content: OID is the object's number, XX the first two digits of it. Its time of modification is when
//!                         it was used last, to a minute
//! ```
//!
//! BOOT is the kernel's boot number, `/proc/sys/kernel/random/boot_id`.
//!
//! - **A content is what its name says.** Whoever writes it has compared it with the object's hash. It is written in `new`, by a name that is
//!   never used again, and renamed, so that a process that dies leaves nothing under its name, and is never changed then.
//! - **Nothing is synced, and nothing outlives a boot.** After a power cut a file may have its length and not its content. So
//!   contents are kept by boot, and those of another are removed by whoever opens the cache. The directory is to be on a disk of
//!   this computer.
//! - **It is bounded.** A content is counted before it is in place, so what is counted is at least what is there. When that is
//!   above the limit, every file is looked at, and those not used for longest are removed, down to seven eighths. A content above
//!   a quarter of the limit is not kept.
//! - **Readers take no lock.** A content that is open stays readable when it is evicted.
//! - **A full disk stops no reader.** What cannot be written is served from memory, up to [`MEMORY_BYTES_MAX`].

use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Seek};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use crate::error::fails;
use crate::{Error, Oid, Result};

/// What a content may take in memory where the disk does not take it.
pub const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// What files are counted in: blocks of most file systems.
const UNIT_BYTES: u64 = 4 << 10;

/// After how long another use is noted: a note costs a write.
const USED_AGAIN: Duration = Duration::from_secs(60);

/// Of what is full, one part of so many is made free at once: looking at every file costs as much for a little.
const EVICTED_SHARE: u64 = 8;

/// A content may take one part of so many of the limit: one that takes all would cost all others.
const LARGE_SHARE: u64 = 4;

/// After so long without a write nobody writes to a new content any more.
const ABANDONED_AFTER: Duration = Duration::from_secs(60 * 60);

const LOCK: &str = "lock";
const USAGE: &str = "usage";
const NEW: &str = "new";
const USAGE_BYTES: usize = 12;

/// Where contents are kept. Any number of processes and threads may have the same.
#[derive(Debug)]
pub struct BlobCache {
    directory: PathBuf,
    bytes_max: u64,
    /// Tell files apart that are being written.
    writer: u64,
    written: AtomicU64,
}

impl BlobCache {
    /// The cache in this directory, which is made if it is not there, and is to be this user's alone. Of processes that say
    /// different limits each goes by its own when it adds.
    pub fn open(directory: &Path, bytes_max: u64) -> Result<BlobCache> {
        make_directory(directory)?;
        let found = std::fs::metadata(directory).map_err(fails("look at", directory))?;
        if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o077 != 0 {
            let source = io::Error::new(io::ErrorKind::PermissionDenied, "it is not this user's alone");
            return Err(fails("use", directory)(source));
        }
        let boot = boot();
        let cache = BlobCache {
            directory: directory.join(&boot),
            bytes_max,
            writer: random(),
            written: AtomicU64::new(0),
        };
        make_directory(&cache.directory)?;
        make_directory(&cache.directory.join(NEW))?;
        remove_others(directory, &boot)?;
        Ok(cache)
    }

    /// The content, if it is kept, to be read. `now` is noted as its last use.
    pub fn find(&self, oid: &Oid, now: SystemTime) -> Option<File> {
        let file = File::open(self.path(oid)).ok()?;
        note_use(&file, now);
        Some(file)
    }

    /// The content, to be read from its start. Where it is not kept, `fill` writes it, of `size` bytes, to the file that it is
    /// given, whose path is for its errors; what it writes must be what `oid` names.
    pub fn get(
        &self,
        oid: &Oid,
        size: u64,
        now: SystemTime,
        fill: impl Fn(&mut File, &Path) -> Result<()>,
    ) -> Result<File> {
        if let Some(file) = self.find(oid, now) {
            return Ok(file);
        }
        match self.add(oid, size, now, &fill) {
            Err(Error::Access { .. }) if size <= MEMORY_BYTES_MAX => in_memory(&fill),
            added => added,
        }
    }

    fn add(
        &self,
        oid: &Oid,
        size: u64,
        now: SystemTime,
        fill: &impl Fn(&mut File, &Path) -> Result<()>,
    ) -> Result<File> {
        let (mut file, fresh) = self.fresh()?;
        let added = fill(&mut file, &fresh).and_then(|()| {
            let reader = File::open(&fresh).map_err(fails("open", &fresh))?;
            let is_kept =
                charge(size) <= self.bytes_max / LARGE_SHARE && self.put_in_place(oid, size, now, &fresh)?;
            Ok((reader, is_kept))
        });
        let is_kept = added.as_ref().is_ok_and(|(_, is_kept)| *is_kept);
        if !is_kept && let Err(error) = std::fs::remove_file(&fresh) {
            tracing::info!(path = %fresh.display(), %error, "a content stays beside the cache");
        }
        added.map(|(reader, _)| reader)
    }

    fn fresh(&self) -> Result<(File, PathBuf)> {
        // Somebody may have removed all of it.
        make_directory(&self.directory.join(NEW))?;
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(NEW).join(format!("{:016x}-{number}", self.writer));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        Ok((made.map_err(fails("begin", &path))?, path))
    }

    /// Whether the content has its name now, and not another one that was faster.
    fn put_in_place(&self, oid: &Oid, size: u64, now: SystemTime, fresh: &Path) -> Result<bool> {
        let path = self.path(oid);
        let shelf = path.parent().unwrap_or(&self.directory);
        let locked = self.lock()?;
        make_directory(shelf)?;
        // Who was faster has counted it.
        if path.exists() {
            return Ok(false);
        }
        let mut counted = locked.counted()?.unwrap_or(u64::MAX).saturating_add(charge(size));
        if counted > self.bytes_max {
            self.remove_abandoned(now)?;
            let room = self.bytes_max - self.bytes_max / EVICTED_SHARE;
            counted = self.evict(room.saturating_sub(charge(size)))?.saturating_add(charge(size));
        }
        locked.count(counted)?;
        std::fs::rename(fresh, &path).map_err(fails("keep", &path))?;
        Ok(true)
    }

    /// What dead processes have left half written.
    fn remove_abandoned(&self, now: SystemTime) -> Result<()> {
        for path in entries_of(&self.directory.join(NEW))? {
            let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
            let is_old =
                modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > ABANDONED_AFTER));
            if is_old && let Err(error) = std::fs::remove_file(&path) {
                tracing::debug!(path = %path.display(), %error, "somebody else has removed it");
            }
        }
        Ok(())
    }

    /// Removes contents that were not used for longest, until no more than `room` is taken. Gives what is taken. Under the
    /// lock.
    fn evict(&self, room: u64) -> Result<u64> {
        let mut contents = Vec::new();
        let mut taken = 0;
        for shelf in entries_of(&self.directory)? {
            if !shelf.is_dir() || shelf.file_name().is_none_or(|name| name == NEW) {
                continue;
            }
            for path in entries_of(&shelf)? {
                // Nobody else removes any.
                let found = std::fs::metadata(&path).map_err(fails("look at", &path))?;
                taken += charge(found.len());
                contents.push((found.mtime(), charge(found.len()), path));
            }
        }
        contents.sort_unstable();
        for (_, bytes, path) in contents {
            if taken <= room {
                break;
            }
            std::fs::remove_file(&path).map_err(fails("remove", &path))?;
            taken -= bytes;
        }
        Ok(taken)
    }

    fn lock(&self) -> Result<Locked> {
        let open = |path: &Path| {
            let opened =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
            opened.map_err(fails("open", path))
        };
        let path = self.directory.join(LOCK);
        let lock = open(&path)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))
            .map_err(|error| fails("lock", &path)(error.into()))?;
        let path = self.directory.join(USAGE);
        Ok(Locked { _lock: lock, usage: open(&path)?, path })
    }

    fn path(&self, oid: &Oid) -> PathBuf {
        let name = oid.to_string();
        self.directory.join(&name[..2]).join(name)
    }
}

/// Who adds or evicts.
struct Locked {
    _lock: File,
    usage: File,
    path: PathBuf,
}

impl Locked {
    /// `None`: nobody has counted, or somebody died over it.
    fn counted(&self) -> Result<Option<u64>> {
        let mut read = [0; USAGE_BYTES];
        match self.usage.read_exact_at(&mut read, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read.map_err(fails("read", &self.path))?,
        }
        let (bytes, checksum) = read.split_at(8);
        let is_right = crc32fast::hash(bytes).to_le_bytes() == checksum;
        Ok(is_right.then(|| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))))
    }

    fn count(&self, bytes: u64) -> Result<()> {
        let mut written = [0; USAGE_BYTES];
        written[..8].copy_from_slice(&bytes.to_le_bytes());
        let checksum = crc32fast::hash(&written[..8]);
        written[8..].copy_from_slice(&checksum.to_le_bytes());
        self.usage.write_all_at(&written, 0).map_err(fails("write", &self.path))
    }
}

/// What nobody else has.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What a file of this size takes.
fn charge(size: u64) -> u64 {
    size.max(1).div_ceil(UNIT_BYTES).saturating_mul(UNIT_BYTES)
}

fn in_memory(fill: &impl Fn(&mut File, &Path) -> Result<()>) -> Result<File> {
    let path = Path::new("a file in memory");
    let mut file = crate::system::file_in_memory().map_err(fails("make", path))?;
    fill(&mut file, path)?;
    file.rewind().map_err(fails("read", path))?;
    Ok(file)
}

fn note_use(file: &File, now: SystemTime) {
    let is_noted = file.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|noted| {
        // A clock that was set back notes, too.
        now.duration_since(noted).is_ok_and(|since| since < USED_AGAIN)
    });
    if !is_noted && let Err(error) = file.set_modified(now) {
        tracing::debug!(%error, "a use of the blob cache is not noted");
    }
}

/// Contents of other boots. Who removes them at the same time is no matter.
fn remove_others(directory: &Path, boot: &str) -> Result<()> {
    for path in entries_of(directory)? {
        if path.file_name().is_some_and(|name| name == boot) {
            continue;
        }
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fails("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn entries_of(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).map_err(fails("list", directory))?;
    entries.map(|entry| Ok(entry.map_err(fails("list", directory))?.path())).collect()
}

fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
    made.map_err(fails("make", path))
}

/// What the kernel took at its start. Where it cannot be read, contents count as of one boot that never ends.
fn boot() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let text: String = text.trim().chars().filter(|letter| letter.is_ascii_alphanumeric()).collect();
    if text.is_empty() { "boot".to_owned() } else { text }
}

#[cfg(test)]
mod tests;
