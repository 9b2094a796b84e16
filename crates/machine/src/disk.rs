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

use crate::error::{Error, Result};
use crate::program;

/// How long making an overlay may take: it is a file of some blocks.
const MAKE_TIMEOUT: Duration = Duration::from_secs(60);

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
    program::run("qemu-img", "qemu-utils", arguments.into_iter().chain(paths), MAKE_TIMEOUT, None)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&overlay, private).map_err(|error| Error::file("narrow", &overlay, &error))
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
