//! A guest's root disk: what it has written, over the image's file system, which is shared and stays as it is.
//!
//! | file | when | |
//! |---|---|---|
//! | `root.raw` | the file system under `VMS` and `IMAGES` can share blocks between files | a copy that takes no room |
//! | `root.qcow2` | otherwise | what differs from the image, over its path |
//!
//! Neither takes time or room by the size of the image. A full copy is never made.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wire::api::ErrorKind;

use crate::course::Course;
use crate::engine::qemu::value;
use crate::error::{Error, Result};
use crate::program::{End, Program};
use crate::system;
use crate::vm::gone;

/// How long making an overlay may take: it is a file of some blocks.
const MAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes, converts and resizes disks.
pub(crate) const QEMU_IMG: Program =
    Program { name: "qemu-img", package: "qemu-utils", patience: MAKE_TIMEOUT, end: End::Killed };

/// How long writing a disk anew may take.
const CONVERT_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Held by whoever gives disks of microVMs other names, and by whoever looks at all of them: one that moves meanwhile would be seen
/// in neither place, and what it is over would be taken for nobody's. Not held while a disk is written.
static NAMES: Mutex<()> = Mutex::new(());

/// Has the names of all disks stay as they are until it is dropped.
pub(crate) fn still_names() -> MutexGuard<'static, ()> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

const QCOW2: &[u8] = b"QFI\xfb";

/// Of how many disks over another one a guest's is at most: each is opened at each start, and looked through at a read.
const OVERLAYS_MAX: usize = 64;

/// The longest name of the disk that a qcow2 disk is over.
const NAME_BYTES_MAX: u64 = 1023;

/// What is looked at of a disk.
const HEAD_BYTES: u64 = 104;

/// How a disk is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As the guest sees it.
    Raw,
    /// QEMU's own, over another disk.
    Qcow2,
}

impl Format {
    /// The word that engines know.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Format::Raw => "root.raw",
            Format::Qcow2 => "root.qcow2",
        }
    }
}

/// The root disk of the vm in this directory, if there is one.
pub fn find(directory: &Path) -> Option<(PathBuf, Format)> {
    let formats = [Format::Raw, Format::Qcow2].into_iter();
    formats.map(|format| (directory.join(format.file()), format)).find(|(path, _)| path.is_file())
}

/// Makes the root disk of the vm in this directory, over another disk, which is not written to from here on. Blocks.
pub fn make(directory: &Path, (base, format): (&Path, Format), course: &Course) -> Result<()> {
    let raw = directory.join(Format::Raw.file());
    if format == Format::Raw && share(base, &raw)? {
        return Ok(());
    }
    overlay(&directory.join(Format::Qcow2.file()), (base, format), course)
}

/// Makes a disk with nothing in it but what it is over. Refused if that is over too many.
pub(crate) fn overlay(overlay: &Path, (base, format): (&Path, Format), course: &Course) -> Result<()> {
    if overlays(base, format)? >= OVERLAYS_MAX {
        let message = format!("`{}` is over {OVERLAYS_MAX} disks already", base.display());
        return Err(Error::new(ErrorKind::Conflict, message)
            .hint("stead image promote makes an image of a vm, and a vm of that begins anew"));
    }
    let arguments = ["create", "-q", "-f", "qcow2", "-F", format.name(), "-b"].map(Into::into);
    let paths = [base.as_os_str().to_owned(), overlay.to_owned().into_os_string()];
    QEMU_IMG.run_telling(arguments.into_iter().chain(paths), course, |_| None)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(overlay, private).map_err(|error| Error::file("narrow", overlay, &error))
}

/// Removes the root disk of the vm in this directory. One that is gone already is no failure. Blocks.
pub fn remove(directory: &Path) -> Result<()> {
    for format in [Format::Raw, Format::Qcow2] {
        let path = directory.join(format.file());
        gone(std::fs::remove_file(&path)).map_err(|error| Error::file("remove", &path, &error))?;
    }
    Ok(())
}

/// Has the vm in this directory go on with the qcow2 disk `next`, which is over the one that it has had. Blocks.
pub(crate) fn take_over(directory: &Path, next: &Path) -> Result<()> {
    let (raw, overlay) = (directory.join(Format::Raw.file()), directory.join(Format::Qcow2.file()));
    let _names = still_names();
    std::fs::rename(next, &overlay).map_err(|error| Error::file("make", &overlay, &error))?;
    // As long as it is there it is the disk.
    gone(std::fs::remove_file(&raw)).map_err(|error| Error::file("remove", &raw, &error))?;
    let synced = File::open(directory).and_then(|names| names.sync_all());
    synced.map_err(|error| Error::file("sync", directory, &error))
}

/// How a disk of whatever origin is written down, by what it begins with. One that has its content elsewhere is refused: it would
/// show whatever file of this computer it names. Of qcow2 (QEMU's `docs/interop/qcow2.rst`), highest byte first:
///
/// | offset | size | content |
/// |---|---|---|
/// | 0 | 4 | `QFI` and 0xfb |
/// | 4 | 4 | the version, 2 or 3 |
/// | 8 | 8 | where the name of the disk is that it is over; 0 if it is over none |
/// | 24 | 8 | the length of the disk |
/// | 72 | 8 | of version 3, what has to be understood: bit 2, that its content is in another file |
pub fn examine(path: &Path) -> Result<Format> {
    let head = head(path)?;
    if !head.starts_with(QCOW2) {
        return Ok(Format::Raw);
    }
    let refused = |why: &str| {
        let message = format!("`{}` {why}", path.display());
        Err(Error::new(ErrorKind::Refused, message)
            .hint("qemu-img convert -O qcow2 makes one that stands alone"))
    };
    let version = number(&head, 4) >> 32;
    match version {
        2 | 3 if number(&head, 8) != 0 => refused("is a disk over another one"),
        3 if number(&head, 72) & 4 != 0 => refused("is a disk with its content in another file"),
        2 | 3 => Ok(Format::Qcow2),
        _ => refused("is a qcow2 disk of an unknown version"),
    }
}

/// Makes the root disk of the vm in this directory larger. The guest's file system takes all of it when it boots next. One
/// cannot be made smaller. Blocks.
pub fn grow(directory: &Path, bytes: u64) -> Result<()> {
    let (path, format) = find(directory).ok_or_else(|| {
        Error::new(ErrorKind::Failure, format!("there is no disk in `{}`", directory.display()))
    })?;
    let is = bytes_seen(&path, format)?;
    if bytes < is {
        let message = format!("the disk has {} MiB, and cannot be made smaller", is.div_ceil(1 << 20));
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let arguments = ["resize", "-q", "-f", format.name()].map(Into::into);
    let what = [path.into_os_string(), bytes.to_string().into()];
    QEMU_IMG.run(arguments.into_iter().chain(what))
}

/// How large a guest sees a disk: the most room that it takes when it is written so.
pub fn bytes_seen(path: &Path, format: Format) -> Result<u64> {
    match format {
        // What it has packed may come to as much.
        Format::Qcow2 => Ok(number(&head(path)?, 24)),
        Format::Raw => {
            let found = std::fs::metadata(path).map_err(|error| Error::file("look at", path, &error))?;
            Ok(found.len())
        }
    }
}

/// Writes the first MiB of a disk, as its guest sees it, to a file, in place of what is there. Blocks.
pub fn begin(from: &Path, format: Format, to: &Path, course: &Course) -> Result<()> {
    let (mut input, mut output) = (OsString::from("if="), OsString::from("of="));
    input.push(options(from, format));
    output.push(to);
    let arguments = ["dd", "--image-opts", "-O", "raw", "bs=1M", "count=1"].map(OsString::from);
    QEMU_IMG.run_telling(arguments.into_iter().chain([input, output]), course, |_| None)
}

/// What names a disk to `qemu-img`, which takes no other for it.
fn options(path: &Path, format: Format) -> OsString {
    let mut options = OsString::from(format!("driver={},file.driver=file,file.filename=", format.name()));
    // As a value of a list: a comma is doubled.
    options.push(value(path));
    options
}

/// Writes a disk as its guest sees it to a file that is as long, and empty. Zeros are left out. What it is over is trusted. Blocks.
pub fn flatten(from: &Path, format: Format, to: &Path, course: &Course) -> Result<()> {
    let mut arguments: Vec<OsString> =
        ["convert", "-q", "-n", "--target-is-zero", "-O", "raw", "--image-opts"].map(Into::into).into();
    arguments.extend([options(from, format), to.as_os_str().to_owned()]);
    let converting = Program { patience: CONVERT_TIMEOUT, ..QEMU_IMG };
    converting.run_telling(arguments, course, |_| None)
}

/// Writes what a qcow2 disk has into the one that it is over, which may be smaller. It has it all itself as well, whenever this
/// ends. Refused by QEMU's own locks while anybody has one of the two open. Blocks.
pub(crate) fn commit(disk: &Path, course: &Course) -> Result<()> {
    let arguments = ["commit", "-q", "-d", "-f", Format::Qcow2.name()].map(OsString::from);
    let converting = Program { patience: CONVERT_TIMEOUT, ..QEMU_IMG };
    converting.run_telling(arguments.into_iter().chain([disk.as_os_str().to_owned()]), course, |_| None)
}

/// How many disks are over each other there, up to one more than may be. Only what this program has made is asked for: what a guest
/// writes on a raw disk is not looked at.
fn overlays(disk: &Path, format: Format) -> Result<usize> {
    let (mut disk, mut format, mut count) = (disk.to_owned(), format, 0);
    while format == Format::Qcow2 && count <= OVERLAYS_MAX {
        count += 1;
        let Some(under) = under(&disk)? else { break };
        format = match under.extension() {
            Some(extension) if extension == Format::Qcow2.name() => Format::Qcow2,
            _ => Format::Raw,
        };
        // A name without a directory is of one beside it.
        disk = disk.parent().map_or_else(|| under.clone(), |parent| parent.join(&under));
    }
    Ok(count)
}

/// What a qcow2 disk is over.
pub(crate) fn under(disk: &Path) -> Result<Option<PathBuf>> {
    use std::os::unix::ffi::OsStringExt;
    let head = head(disk)?;
    let (at, bytes) = (number(&head, 8), number(&head, 16) >> 32);
    if at == 0 {
        return Ok(None);
    }
    let failed = |error| Error::file("read", disk, &error);
    let mut name = vec![0; bytes.min(NAME_BYTES_MAX) as usize];
    let file = File::open(disk).map_err(failed)?;
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut name, at).map_err(failed)?;
    Ok(Some(PathBuf::from(OsString::from_vec(name))))
}

fn head(path: &Path) -> Result<Vec<u8>> {
    let failed = |error| Error::file("read", path, &error);
    // A pipe that nobody writes to would be waited for to open.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::new(ErrorKind::Usage, format!("`{}` is no regular file", path.display())));
    }
    let mut head = Vec::new();
    file.take(HEAD_BYTES).read_to_end(&mut head).map_err(failed)?;
    Ok(head)
}

/// The eight bytes there, as a number. What is not there is zero.
fn number(head: &[u8], at: usize) -> u64 {
    let bytes = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_be_bytes)
}

/// Makes a copy that shares all blocks. Whether that can be done here.
pub(crate) fn share(from: &Path, to: &Path) -> Result<bool> {
    let source = File::open(from).map_err(|error| Error::file("open", from, &error))?;
    let failed = |error| Error::file("make", to, &error);
    let copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
    match system::share_blocks(&copy, &source) {
        Ok(()) => Ok(true),
        Err(errno) => {
            tracing::debug!(%errno, "blocks are not shared between files here");
            std::fs::remove_file(to).map_err(failed)?;
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_over_each_other_up_to_a_limit() {
        let scratch = tempfile::tempdir().unwrap();
        let place = |at: usize| scratch.path().join(format!("{at}.qcow2"));
        let (course, _client) = Course::new(|_| ()).unwrap();
        let base = scratch.path().join("base.raw");
        std::fs::write(&base, vec![0; 1 << 20]).unwrap();
        overlay(&place(1), (&base, Format::Raw), &course).unwrap();
        overlay(&place(2), (&place(1), Format::Qcow2), &course).unwrap();
        let counts = [(&base, Format::Raw), (&place(1), Format::Qcow2), (&place(2), Format::Qcow2)]
            .map(|(disk, format)| overlays(disk, format).unwrap());
        assert_eq!(counts, [0, 1, 2]);
        for at in 3..=OVERLAYS_MAX {
            overlay(&place(at), (&place(at - 1), Format::Qcow2), &course).unwrap();
        }
        let last = (&*place(OVERLAYS_MAX), Format::Qcow2);
        let error = overlay(&place(OVERLAYS_MAX + 1), last, &course).unwrap_err();
        assert!(error.kind == ErrorKind::Conflict && error.hint.is_some(), "{error}");
        assert!(!place(OVERLAYS_MAX + 1).exists());
    }

    #[test]
    fn a_disk_grows_and_never_shrinks() {
        let scratch = tempfile::tempdir().unwrap();
        let (image, vm) = (scratch.path().join("image"), scratch.path().join("vm"));
        std::fs::write(&image, vec![0; 3 << 20]).unwrap();
        std::fs::create_dir(&vm).unwrap();
        let (course, _client) = Course::new(|_| ()).unwrap();
        make(&vm, (&image, Format::Raw), &course).unwrap();
        let sees = || {
            let (path, format) = find(&vm).unwrap();
            bytes_seen(&path, format).unwrap()
        };
        assert_eq!(sees(), 3 << 20);
        for bytes in [5 << 20, 5 << 20, 8 << 20] {
            grow(&vm, bytes).unwrap();
            assert_eq!(sees(), bytes);
        }
        let error = grow(&vm, 7 << 20).unwrap_err();
        assert!(error.kind == ErrorKind::Usage && error.message.contains("8 MiB"), "{error}");
        assert_eq!(std::fs::metadata(&image).unwrap().len(), 3 << 20);
    }
}
