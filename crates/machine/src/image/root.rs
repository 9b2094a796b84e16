//! The root file system of a new image.
//!
//! A directory of this computer is written by `mke2fs`, which takes over all that a file has. An archive is written by [`ext4`],
//! without a file being made of it and without being root. Both leave room for what a guest writes.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wire::api::ErrorKind;

use super::ext4::{Ext4, Identity, Layout};
use super::layers::{self, Layer};
use super::tree::{Kind, Owner, Tree};
use super::{archive, sync};
use crate::course::Course;
use crate::disk::{self, Format};
use crate::error::{Error, Result};
use crate::program::{End, Program};

/// What a root file system has to spare at least, for what a guest writes.
const SPARE_BYTES: u64 = 512 << 20;

/// The most that is taken as a root file system.
const ROOT_BYTES_MAX: u64 = 256 << 30;

/// The most files of one.
const FILES_MAX: u64 = 5_000_000;

/// How much of a root file system there is for each file that a guest may add, on average: as `mke2fs` has it.
pub(super) const BYTES_PER_FILE: u64 = 16 << 10;

/// How long writing one may take.
const BUILD_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// What the file system that images are in keeps for others.
const KEPT_FREE_BYTES: u64 = 256 << 20;

/// A root file system that can be written.
#[derive(Debug)]
pub(super) enum Examined {
    /// A directory, and how large it has to be.
    Directory(PathBuf, Size),
    /// Archives, and what is in all of them together.
    Archives(Vec<PathBuf>, Tree),
    /// A disk.
    Disk(PathBuf, Format),
}

/// Looks whether this directory is something to boot from, within limits. Blocks.
pub(super) fn examine_directory(path: &Path) -> Result<Examined> {
    Ok(Examined::Directory(path.to_owned(), measure(path)?))
}

/// Looks whether this archive is, within limits. Blocks.
pub(super) fn examine_archive(path: &Path, course: &Course) -> Result<Examined> {
    examined(vec![path.to_owned()], archive::scan(path, course)?)
}

/// Looks whether these layers are, within limits. Blocks.
pub(super) fn examine_layers(layers: &[Layer], course: &Course) -> Result<Examined> {
    let tree = layers::merge(layers, course)?;
    examined(layers.iter().map(|layer| layer.path.clone()).collect(), tree)
}

fn examined(archives: Vec<PathBuf>, mut tree: Tree) -> Result<Examined> {
    if tree.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "there is no file in the root file system"));
    }
    // What is found again after a damage is put there.
    let owner = Owner { mode: 0o700, ..Owner::default() };
    tree.put(b"lost+found", Kind::Directory(Default::default()), owner)?;
    Ok(Examined::Archives(archives, tree))
}

impl Examined {
    /// Writes it to a new file. Blocks.
    pub(super) fn write(&self, to: &Path, course: &Course) -> Result<()> {
        match self {
            Examined::Directory(from, size) => copy(from, to, *size, course)?,
            Examined::Archives(from, tree) => unpack(from, to, tree, course)?,
            Examined::Disk(from, format) => flatten(from, to, *format, course)?,
        }
        sync(to)
    }
}

fn empty(path: &Path) -> Error {
    Error::new(ErrorKind::Usage, format!("`{}` is empty", path.display()))
}

fn too_large(path: &Path) -> Error {
    let message = format!(
        "`{}` is too large for a root file system: more than {} GiB or {FILES_MAX} files",
        path.display(),
        ROOT_BYTES_MAX >> 30
    );
    Error::new(ErrorKind::Usage, message)
}

pub(super) fn create(path: &Path) -> Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| Error::file("make", path, &error))
}

fn unpack(from: &[PathBuf], to: &Path, tree: &Tree, course: &Course) -> Result<()> {
    let layout = Layout::of(tree, SPARE_BYTES, ROOT_BYTES_MAX).ok_or_else(|| too_large(to))?;
    let file = create(to)?;
    check_space(to, &file, layout.written_bytes_max())?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let ext4 = Ext4::write(file, to, tree, &layout, Identity { uuid: new_uuid(), created })?;
    archive::fill(from, tree, &ext4, course)
}

/// Writes a disk as its guest sees it. What is no ext4 file system as a whole is refused.
fn flatten(from: &Path, to: &Path, format: Format, course: &Course) -> Result<()> {
    let bytes = disk::bytes_seen(from, format)?;
    if bytes > ROOT_BYTES_MAX {
        return Err(too_large(from));
    }
    let file = create(to)?;
    check_space(to, &file, bytes)?;
    // What is none is not read as a whole first.
    disk::begin(from, format, to, course)?;
    if !is_ext4(to).map_err(|error| Error::file("read", to, &error))? {
        let message = format!("`{}` is no ext4 file system as a whole", from.display());
        return Err(Error::new(ErrorKind::Usage, message)
            .hint("a disk with partitions is none: take the partition of its root alone"));
    }
    let emptied = file.set_len(0).and_then(|()| file.set_len(bytes));
    emptied.map_err(|error| Error::file("make", to, &error))?;
    disk::flatten(from, format, to, course)
}

/// Whether a file is one: its superblock is at 1024, and has a mark at 56.
fn is_ext4(path: &Path) -> std::io::Result<bool> {
    use std::io::Read;
    let mut head = Vec::new();
    fs::File::open(path)?.take(2048).read_to_end(&mut head)?;
    Ok(head.get(1080..1082) == Some(&[0x53, 0xef]))
}

/// Refuses what would fill the file system that it is written to.
pub(super) fn check_space(path: &Path, file: &fs::File, bytes: u64) -> Result<()> {
    let space = rustix::fs::fstatvfs(file).map_err(|errno| Error::file("look at", path, &errno.into()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if bytes.saturating_add(KEPT_FREE_BYTES) <= free {
        return Ok(());
    }
    let message =
        format!("the image takes up to {} MiB, and {} MiB are free for it", bytes >> 20, free >> 20);
    Err(Error::new(ErrorKind::Failure, message)
        .hint("make room below STEAD_HOME, or delete images: stead image list"))
}

fn new_uuid() -> [u8; 16] {
    use std::hash::{BuildHasher, RandomState};
    // Each state is keyed at random by the standard library, from the system's generator.
    let state = RandomState::new();
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&state.hash_one(0).to_le_bytes());
    uuid[8..].copy_from_slice(&state.hash_one(1).to_le_bytes());
    // Version 4, of the usual variant.
    (uuid[6], uuid[8]) = ((uuid[6] & 0x0f) | 0x40, (uuid[8] & 0x3f) | 0x80);
    uuid
}

/// How large a root file system has to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// The length of all files, with what each takes beside its content.
    bytes: u64,
    files: u64,
}

/// How large a root file system has to be for what is in this directory; refused if that is none to boot from.
fn measure(root: &Path) -> Result<Size> {
    /// A file's last block, its inode, and its name.
    const FILE_BYTES: u64 = 4096 + 512;
    let (mut bytes, mut files) = (0_u64, 0_u64);
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let failed = |error| Error::file("list", &directory, &error);
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let found = entry.map_err(failed)?;
            // Links are not followed: whatever they name is the guest's.
            let metadata = found.metadata().map_err(failed)?;
            files += 1;
            bytes = bytes.saturating_add(FILE_BYTES);
            if metadata.is_dir() {
                directories.push(found.path());
            } else if metadata.is_file() {
                bytes = bytes.saturating_add(metadata.len());
            }
            if files > FILES_MAX || bytes > ROOT_BYTES_MAX {
                return Err(too_large(root));
            }
        }
    }
    match files {
        0 => Err(empty(root)),
        _ => Ok(Size { bytes, files }),
    }
}

fn copy(from: &Path, to: &Path, Size { bytes, files }: Size, course: &Course) -> Result<()> {
    let file = create(to)?;
    check_space(to, &file, bytes)?;
    // What the file system itself takes is a part of its size.
    let size = (bytes + bytes / 4 + SPARE_BYTES).next_multiple_of(1 << 20);
    file.set_len(size).map_err(|error| Error::file("make", to, &error))?;
    // A file system of many small files has a place for each of them, and as many to spare as any other.
    let inodes = (files + size / BYTES_PER_FILE).to_string();
    let options = ["-q", "-F", "-t", "ext4", "-m", "0", "-L", "stead-root"];
    let more = ["lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0", "-d"];
    let arguments = options.into_iter().chain(["-N", &inodes, "-E"]).chain(more).map(Into::into);
    let paths = [from.as_os_str().to_owned(), to.as_os_str().to_owned()];
    Program { name: "mke2fs", package: "e2fsprogs", patience: BUILD_TIMEOUT, end: End::Killed }.run_telling(
        arguments.chain(paths),
        course,
        |_| None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_of_many_small_files_has_a_place_for_each_and_some_to_spare() {
        let scratch = tempfile::tempdir().unwrap();
        let (from, to) = (scratch.path().join("root"), scratch.path().join("root.ext4"));
        fs::create_dir_all(from.join("bin")).unwrap();
        let files = 200_000;
        let (course, _client) = Course::new(|_| ()).unwrap();
        copy(&from, &to, Size { bytes: files * 4608, files }, &course).unwrap();
        // The superblock is at 1024 and begins with the number of inodes; the fifth number is that of the free ones.
        let head = std::io::Read::take(fs::File::open(&to).unwrap(), 2048);
        let head: Vec<u8> = std::io::Read::bytes(head).collect::<std::io::Result<_>>().unwrap();
        let free = u64::from(u32::from_le_bytes(head[1040..1044].try_into().unwrap()));
        assert!(free > files + SPARE_BYTES / BYTES_PER_FILE, "{free}");
    }

    #[test]
    fn a_disk_is_what_its_guest_sees_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let (course, _client) = Course::new(|_| ()).unwrap();
        fs::create_dir(path("root")).unwrap();
        fs::write(path("root/file"), "content").unwrap();
        copy(&path("root"), &path("raw"), Size { bytes: 5000, files: 1 }, &course).unwrap();
        let make = |arguments: &[&str]| {
            Program { patience: BUILD_TIMEOUT, ..disk::QEMU_IMG }.run(arguments).unwrap();
        };
        let text = |name: &str| path(name).to_str().unwrap().to_owned();
        make(&["convert", "-c", "-f", "raw", "-O", "qcow2", &text("raw"), &text("qcow2")]);
        for (name, format) in [("raw", Format::Raw), ("qcow2", Format::Qcow2)] {
            assert_eq!(disk::examine(&path(name)).unwrap(), format);
            let to = path(&format!("{name}.ext4"));
            flatten(&path(name), &to, format, &course).unwrap();
            assert!(fs::read(&to).unwrap() == fs::read(path("raw")).unwrap(), "{name}");
        }
        // A disk over another one would show what its maker may not read.
        make(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &text("raw"), &text("over")]);
        make(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &format!("data_file={}", text("data")),
            &text("outside"),
            "1M",
        ]);
        for (name, said) in [("over", "over another"), ("outside", "in another file")] {
            let error = disk::examine(&path(name)).unwrap_err();
            assert!(error.kind == ErrorKind::Refused && error.message.contains(said), "{error}");
        }
        // What is none is refused before all of it is read.
        fs::write(path("zeros"), vec![0; 8 << 20]).unwrap();
        make(&["convert", "-f", "raw", "-O", "qcow2", &text("zeros"), &text("packed")]);
        for (name, format) in [("zeros", Format::Raw), ("packed", Format::Qcow2)] {
            let to = path(&format!("{name}.ext4"));
            let error = flatten(&path(name), &to, format, &course).unwrap_err();
            assert!(error.message.contains("no ext4"), "{error}");
            assert!(fs::metadata(&to).unwrap().len() < 8 << 20, "{name}");
        }
    }

    #[test]
    fn a_directory_that_would_fill_the_disk_is_refused_before_it_is_written() {
        let scratch = tempfile::tempdir().unwrap();
        let (course, _client) = Course::new(|_| ()).unwrap();
        let (from, to) = (scratch.path().join("root"), scratch.path().join("root.ext4"));
        fs::create_dir(&from).unwrap();
        let error = copy(&from, &to, Size { bytes: 1 << 50, files: 1 }, &course).unwrap_err();
        assert!(error.message.contains("are free for it"), "{error}");
        assert_eq!(fs::metadata(&to).unwrap().len(), 0);
    }

    #[test]
    fn an_empty_root_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let error = measure(scratch.path()).unwrap_err();
        assert!(error.message.contains("is empty"), "{error}");
    }
}
