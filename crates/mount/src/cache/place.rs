//! The directory of the data cache: finding, adding, evicting, counting. See `docs/formats.md`.

use std::collections::HashSet;
use std::fs::{DirBuilder, DirEntry, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::FlockOperation;
use vfs::cache::Block;

use super::CacheSize;
use super::entry::{Decoded, ENTRY_BYTES_MAX, HEAD_BYTES, MachineKey, decode, head_of, path_of};

/// What it takes at most where nobody has said how much.
pub const DEFAULT_BYTES_MAX: u64 = 4 << 30;

/// And of what the disk has room for, one part of so many.
const DEFAULT_SHARE: u64 = 10;

/// Blocks at most, whatever their sizes: what it takes to sort them by their last use is 16 MB.
const BLOCKS_MAX: u64 = 1 << 20;

/// What files are counted in: blocks of most file systems.
const UNIT_BYTES: u64 = 4 << 10;

/// After how long another use of a block is noted: a note costs a write.
const USED_AGAIN: Duration = Duration::from_secs(60);

/// Of what is full, one part of so many is made free at once: looking at every file costs as much for a little.
const EVICTED_SHARE: u64 = 8;

/// Locked by whoever writes.
const LOCK: &str = "lock";

/// What is counted.
const USAGE: &str = "usage";

/// A block that is being written.
const NEW: &str = "new";

/// The machine's URL, in its directory.
const MACHINE: &str = "machine";

/// The longest of them that is shown: longer than any URL of a machine.
const MACHINE_BYTES_MAX: u64 = 4 << 10;

/// Where the blocks of all machines are.
#[derive(Clone, Debug)]
pub struct Place {
    directory: PathBuf,
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// How many bytes there may be.
    pub limit_bytes: u64,
    /// Of each machine, in the order of their names.
    pub machines: Vec<MachineContents>,
}

/// What is there of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineContents {
    /// Its URL.
    pub machine: String,
    /// What its blocks take on disk.
    pub bytes: u64,
    /// Of how many files there is something.
    pub files: u64,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// What it took on disk.
    pub bytes: u64,
    /// Of how many files.
    pub files: u64,
}

impl Place {
    /// The cache in this directory, whether that is there or not.
    pub fn new(directory: &Path) -> Place {
        Place { directory: directory.to_owned() }
    }

    /// Makes the directory if it is not there, for this user alone, and that of a machine.
    pub(super) fn prepare(&self, machine: &str) -> io::Result<()> {
        make_directory(&self.directory)?;
        let found = std::fs::metadata(&self.directory)?;
        if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o077 != 0 {
            let message = format!("`{}` is not this user's alone", self.directory.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        self.name_machine(machine)
    }

    fn name_machine(&self, machine: &str) -> io::Result<()> {
        let directory = self.directory.join(MachineKey::of(machine).directory());
        make_directory(&directory)?;
        let path = directory.join(MACHINE);
        match std::fs::read(&path) {
            Ok(named) if named == machine.as_bytes() => Ok(()),
            _ => to_write().open(&path)?.write_all(machine.as_bytes()),
        }
    }

    /// The block, if it is there. `now` is noted as the last use of it.
    pub(super) fn find(&self, key: &MachineKey, block: &Block, now: SystemTime) -> Option<Bytes> {
        let path = self.path(key, block);
        let file = File::open(&path).ok()?;
        let mut read = Vec::with_capacity(HEAD_BYTES + block.length() as usize + 1);
        // One byte more than there may be shows that it is none of ours.
        (&file).take(ENTRY_BYTES_MAX + 1).read_to_end(&mut read).ok()?;
        match decode(key, block, &read.into()) {
            Decoded::Wanted(content) => {
                note_use(&file, now);
                Some(content)
            }
            Decoded::Other => None,
            Decoded::Damaged => {
                tracing::debug!(path = %path.display(), "a damaged block is removed");
                drop(std::fs::remove_file(&path));
                None
            }
        }
    }

    fn path(&self, key: &MachineKey, block: &Block) -> PathBuf {
        self.directory.join(key.directory()).join(path_of(block))
    }

    /// Waits until nobody else writes.
    pub(super) fn lock(&self) -> io::Result<Locked> {
        make_directory(&self.directory)?;
        let lock = to_write().truncate(false).open(self.directory.join(LOCK))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))?;
        let usage = to_write().truncate(false).read(true).open(self.directory.join(USAGE))?;
        let mut locked = Locked { place: self.clone(), _lock: lock, file: usage, usage: Usage::default() };
        let boot = boot();
        match Usage::read(&locked.file) {
            Some(usage) if usage.boot == boot => locked.usage = usage,
            // What was counted before the computer went down may have been written, or not.
            other => {
                locked.usage =
                    Usage { boot, limit: other.map_or(0, |usage| usage.limit), ..Usage::default() };
                locked.count(&mut |_, _| {})?;
            }
        }
        Ok(locked)
    }

    /// What is there. Blocks for as long as it takes to look at every file.
    pub fn contents(&self) -> io::Result<Contents> {
        let mut contents = Contents::default();
        let mut total = 0;
        for directory in directories_in(&self.directory)? {
            let Ok(machine) = machine_in(&directory) else { continue };
            let mut found = MachineContents { machine, ..MachineContents::default() };
            let mut files = HashSet::new();
            each_block(&directory, &mut |entry, metadata| {
                found.bytes += charge(metadata.len());
                if let Some((file, _block)) = entry.file_name().to_string_lossy().rsplit_once('.') {
                    files.insert(file.to_owned());
                }
            })?;
            found.files = files.len() as u64;
            total += found.bytes;
            if found.files > 0 {
                contents.machines.push(found);
            }
        }
        contents.machines.sort_by(|a, b| a.machine.cmp(&b.machine));
        let usage = File::open(self.directory.join(USAGE)).ok();
        let limit = usage.and_then(|usage| Usage::read(&usage)).map_or(0, |usage| usage.limit);
        contents.limit_bytes = self.limit(limit, total);
        Ok(contents)
    }

    /// Removes what is there of `machine`, or of all. What mounts use comes again. A count stays too high until it is next
    /// looked at every file: that takes the lock, which a process that stands still may have.
    pub fn clear(&self, machine: Option<&str>) -> io::Result<Cleared> {
        let wanted = machine.map(|machine| self.directory.join(MachineKey::of(machine).directory()));
        let mut cleared = Cleared::default();
        let contents = self.contents()?;
        for found in &contents.machines {
            if machine.is_none_or(|machine| machine == found.machine) {
                cleared.bytes += found.bytes;
                cleared.files += found.files;
            }
        }
        for directory in directories_in(&self.directory)? {
            if wanted.as_ref().is_none_or(|wanted| *wanted == directory) {
                remove_blocks(&directory)?;
            }
        }
        Ok(cleared)
    }

    /// How much there may be, where `named` was said, or 0, and `bytes` are there.
    fn limit(&self, named: u64, bytes: u64) -> u64 {
        if named > 0 {
            return named;
        }
        // Before there is a directory, that above it.
        let there = self.directory.ancestors().find_map(|at| rustix::fs::statvfs(at).ok());
        let available = there.map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize));
        DEFAULT_BYTES_MAX.min(available.saturating_add(bytes) / DEFAULT_SHARE)
    }
}

/// The directory, with the lock on it.
pub(super) struct Locked {
    place: Place,
    _lock: File,
    file: File,
    usage: Usage,
}

impl Locked {
    /// Sets how much there may be, if that is said, and makes room where there is more.
    pub(super) fn begin(&mut self, size: CacheSize) -> io::Result<()> {
        if let CacheSize::Bytes(limit) = size {
            self.usage.limit = limit;
        }
        self.usage.write(&self.file)?;
        let limit = self.limit();
        match self.usage.bytes > limit || self.usage.blocks > BLOCKS_MAX {
            true => self.evict(limit),
            false => Ok(()),
        }
    }

    fn limit(&self) -> u64 {
        self.place.limit(self.usage.limit, self.usage.bytes)
    }

    /// Adds a block, in the place of one of another version, after making room for it.
    pub(super) fn add(
        &mut self,
        key: &MachineKey,
        block: &Block,
        content: &[u8],
        now: SystemTime,
    ) -> io::Result<()> {
        let head = head_of(key, block, content);
        let takes = charge((head.len() + content.len()) as u64);
        let limit = self.limit();
        if takes > limit {
            return Ok(());
        }
        if self.usage.bytes + takes > limit || self.usage.blocks >= BLOCKS_MAX {
            self.evict((limit - limit / EVICTED_SHARE).saturating_sub(takes))?;
        }
        // Counted before it is there: whoever dies in between has counted too much.
        self.usage.bytes += takes;
        self.usage.blocks += 1;
        self.usage.write(&self.file)?;
        let path = self.place.path(key, block);
        let before = std::fs::symlink_metadata(&path).map(|metadata| charge(metadata.len())).ok();
        let new = self.place.directory.join(NEW);
        let mut written = write_new(&new, &[&head, content], now);
        if written.is_ok() {
            written = std::fs::rename(&new, &path).or_else(|_| {
                make_directory(path.parent().unwrap_or(&self.place.directory))?;
                std::fs::rename(&new, &path)
            });
        }
        let gone = if written.is_ok() { before } else { Some(takes) };
        if let Some(gone) = gone {
            self.usage.bytes = self.usage.bytes.saturating_sub(gone);
            self.usage.blocks = self.usage.blocks.saturating_sub(1);
            self.usage.write(&self.file)?;
        }
        if written.is_err() {
            drop(std::fs::remove_file(&new));
        }
        written
    }

    /// Removes the blocks that were not used for longest, so that those that are left take at most `bytes`.
    fn evict(&mut self, bytes: u64) -> io::Result<()> {
        let mut uses = Vec::new();
        self.count(&mut |_, metadata| uses.push((used(metadata), charge(metadata.len()))))?;
        uses.sort_unstable();
        let blocks_max = BLOCKS_MAX - BLOCKS_MAX / EVICTED_SHARE;
        let (mut left, mut blocks) = (self.usage.bytes, self.usage.blocks);
        let mut until = None;
        for (used, takes) in uses {
            if left <= bytes && blocks <= blocks_max {
                break;
            }
            until = Some(used);
            left -= takes;
            blocks -= 1;
        }
        let Some(until) = until else { return Ok(()) };
        let remove = &mut |entry: &DirEntry, metadata: &Metadata| {
            if used(metadata) <= until {
                drop(std::fs::remove_file(entry.path()));
            }
        };
        for directory in directories_in(&self.place.directory)? {
            each_block(&directory, remove)?;
        }
        self.count(&mut |_, _| {})
    }

    /// Counts what is there, and hands each block out.
    fn count(&mut self, each: &mut dyn FnMut(&DirEntry, &Metadata)) -> io::Result<()> {
        let (mut bytes, mut blocks) = (0, 0);
        for directory in directories_in(&self.place.directory)? {
            each_block(&directory, &mut |entry, metadata| {
                bytes += charge(metadata.len());
                blocks += 1;
                each(entry, metadata);
            })?;
        }
        (self.usage.bytes, self.usage.blocks) = (bytes, blocks);
        self.usage.write(&self.file)
    }
}

/// What is counted. See `docs/formats.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    /// Said by a mount; 0 if none has.
    limit: u64,
    bytes: u64,
    blocks: u64,
    boot: [u8; 16],
}

impl Usage {
    const MAGIC: [u8; 8] = *b"steaduse";
    const BYTES: usize = 64;
    const CHECKSUM_AT: usize = 48;

    fn encode(&self) -> [u8; Usage::BYTES] {
        let mut encoded = [0; Usage::BYTES];
        encoded[..8].copy_from_slice(&Usage::MAGIC);
        for (at, number) in [(8, self.limit), (16, self.bytes), (24, self.blocks)] {
            encoded[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        encoded[32..48].copy_from_slice(&self.boot);
        let checksum = blake3::hash(&encoded[..Usage::CHECKSUM_AT]);
        encoded[Usage::CHECKSUM_AT..].copy_from_slice(&checksum.as_bytes()[..16]);
        encoded
    }

    /// `None` if it was not written whole.
    fn read(file: &File) -> Option<Usage> {
        let mut encoded = [0; Usage::BYTES];
        file.read_exact_at(&mut encoded, 0).ok()?;
        let number = |at: usize| encoded[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let usage = Usage {
            limit: number(8)?,
            bytes: number(16)?,
            blocks: number(24)?,
            boot: encoded[32..48].try_into().ok()?,
        };
        (usage.encode() == encoded).then_some(usage)
    }

    fn write(&self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.encode(), 0)
    }
}

/// What a file of this length takes on disk, about.
fn charge(length: u64) -> u64 {
    length.div_ceil(UNIT_BYTES).saturating_mul(UNIT_BYTES)
}

/// When a block was used last.
fn used(metadata: &Metadata) -> u64 {
    let since = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or_default()
}

fn note_use(file: &File, now: SystemTime) {
    let noted = file.metadata().and_then(|metadata| metadata.modified());
    let is_due = noted.is_ok_and(|noted| now.duration_since(noted).is_ok_and(|ago| ago >= USED_AGAIN));
    if is_due {
        // One that is not noted goes a little early.
        drop(file.set_modified(now));
    }
}

fn write_new(path: &Path, parts: &[&[u8]], now: SystemTime) -> io::Result<()> {
    let mut file = to_write().open(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    // To the nanosecond, where the file system's own clock is a tick.
    file.set_modified(now)
}

fn to_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The directories in a directory: those of machines in the cache's own, and shelves in that of a machine. None, if it is
/// not there.
fn directories_in(root: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn machine_in(directory: &Path) -> io::Result<String> {
    let mut machine = String::new();
    File::open(directory.join(MACHINE))?.take(MACHINE_BYTES_MAX).read_to_string(&mut machine)?;
    Ok(machine)
}

/// Hands out each block of a machine. What goes away meanwhile is left out.
fn each_block(directory: &Path, each: &mut dyn FnMut(&DirEntry, &Metadata)) -> io::Result<()> {
    for shelf in directories_in(directory)? {
        let entries = match std::fs::read_dir(&shelf) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => each(&entry, &metadata),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Removes what is below the directory of a machine, which stays: a mount may be about to write there.
fn remove_blocks(directory: &Path) -> io::Result<()> {
    let mut failed = Ok(());
    each_block(directory, &mut |entry, _| match std::fs::remove_file(entry.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => failed = Err(error),
        _ => {}
    })?;
    failed
}

/// What the kernel took at its start, in short.
fn boot() -> [u8; 16] {
    let mut boot = [0; 16];
    boot.copy_from_slice(&blake3::hash(&crate::system::boot_id()).as_bytes()[..16]);
    boot
}
