//! A guest's root disk: what it has written, over the image's file system, which is shared and stays as it is.
//!
//! | file | when | |
//! |---|---|---|
//! | `root.raw` | the file system under `VMS` and `IMAGES` can share blocks between files | a copy that takes no room |
//! | `root.qcow2` | otherwise | what differs from the image, over its path |
//!
//! Neither takes time or room by the size of the image. A full copy is never made.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wire::api::ErrorKind;

use crate::error::{Error, Result};
use crate::program;

/// How long making an overlay may take: it is a file of some blocks.
const MAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Where QEMU's format has the size that a guest sees: eight bytes, the high one first.
const QCOW2_SIZE_AT: u64 = 24;

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

/// Makes the root disk of the vm in this directory, over the root file system of an image. Blocks.
pub fn make(directory: &Path, image: &Path) -> Result<()> {
    let raw = directory.join(Format::Raw.file());
    if share(image, &raw)? {
        return Ok(());
    }
    let overlay = directory.join(Format::Qcow2.file());
    let arguments = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"].map(Into::into);
    let paths = [image.as_os_str().to_owned(), overlay.clone().into_os_string()];
    program::run("qemu-img", "qemu-utils", arguments.into_iter().chain(paths), MAKE_TIMEOUT)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&overlay, private).map_err(|error| Error::file("narrow", &overlay, &error))
}

/// Makes the root disk of the vm in this directory larger. The guest's file system takes all of it when it boots next. One
/// cannot be made smaller. Blocks.
pub fn grow(directory: &Path, bytes: u64) -> Result<()> {
    let (path, format) = find(directory).ok_or_else(|| {
        Error::new(ErrorKind::Failure, format!("there is no disk in `{}`", directory.display()))
    })?;
    let is = size(&path, format)?;
    if bytes < is {
        let message = format!("the disk has {} MiB, and cannot be made smaller", is.div_ceil(1 << 20));
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let arguments = ["resize", "-q", "-f", format.name()].map(Into::into);
    let what = [path.into_os_string(), bytes.to_string().into()];
    program::run("qemu-img", "qemu-utils", arguments.into_iter().chain(what), MAKE_TIMEOUT)
}

/// How large a guest sees its disk.
fn size(path: &Path, format: Format) -> Result<u64> {
    use std::os::unix::fs::FileExt;
    let failed = |error| Error::file("read", path, &error);
    let file = File::open(path).map_err(failed)?;
    match format {
        Format::Raw => Ok(file.metadata().map_err(failed)?.len()),
        Format::Qcow2 => {
            let mut number = [0; 8];
            file.read_exact_at(&mut number, QCOW2_SIZE_AT).map_err(failed)?;
            Ok(u64::from_be_bytes(number))
        }
    }
}

/// Makes a copy that shares all blocks. Whether that can be done here.
fn share(from: &Path, to: &Path) -> Result<bool> {
    let source = File::open(from).map_err(|error| Error::file("open", from, &error))?;
    let failed = |error| Error::file("make", to, &error);
    let copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
    match rustix::fs::ioctl_ficlone(&copy, &source) {
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
    fn a_disk_grows_and_never_shrinks() {
        let scratch = tempfile::tempdir().unwrap();
        let (image, vm) = (scratch.path().join("image"), scratch.path().join("vm"));
        std::fs::write(&image, vec![0; 3 << 20]).unwrap();
        std::fs::create_dir(&vm).unwrap();
        make(&vm, &image).unwrap();
        let sees = || {
            let (path, format) = find(&vm).unwrap();
            size(&path, format).unwrap()
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
