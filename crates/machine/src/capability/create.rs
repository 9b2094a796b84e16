//! What a microVM has while it does not run. The record comes last: what has none was being made.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use wire::api::ErrorKind;

use super::Capability;
use crate::course::Course;
use crate::disk::{self, Format};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::preflight;
use crate::snapshot::Snapshot;
use crate::vm::{Places, Record};

/// The place of its files, and of its sockets.
#[derive(Debug, Clone, Copy)]
pub struct Directory;

impl Capability for Directory {
    fn name(&self) -> &'static str {
        "directory"
    }

    fn prepare(&self, places: &Places, _: &Course) -> Result<()> {
        let record = places.record();
        match record.try_exists() {
            // What is there without a record could not be removed when it was left half way.
            Ok(false) => Ok(()),
            Ok(true) => {
                let message =
                    format!("there is a vm in `{}` that could not be read", places.directory.display());
                Err(Error::new(ErrorKind::Conflict, message).hint("stead daemon logs"))
            }
            Err(error) => Err(Error::file("look for", &record, &error)),
        }
    }

    fn apply(&self, places: &Places, _: &Course) -> Result<()> {
        if let Some(parent) = places.directory.parent() {
            supervisor::socket::private_directory(parent)
                .map_err(|error| Error::new(ErrorKind::Failure, error.to_string()))?;
        }
        places.remove()?;
        let made = fs::DirBuilder::new().mode(0o700).create(&places.directory);
        made.map_err(|error| Error::file("make", &places.directory, &error))
    }

    fn verify(&self, places: &Places, _: &Course) -> Result<()> {
        match places.directory.is_dir() {
            true => Ok(()),
            false => Err(lost(&places.directory)),
        }
    }

    fn undo(&self, places: &Places) -> Result<()> {
        places.remove()
    }
}

/// What a root disk is over: the root file system of an image, or a snapshot. Nobody writes to it.
#[derive(Debug, Clone)]
pub struct Base {
    /// What it is called in an error: "the image `debian`".
    pub called: String,
    /// Its file.
    pub disk: PathBuf,
    /// How that is written down.
    pub format: Format,
    /// How large a guest sees it.
    pub bytes: u64,
    /// As long as somebody has this, it stays as it is. Whoever makes a disk has it until that is over this one.
    pub hold: Option<Arc<()>>,
}

impl Base {
    /// An image.
    pub fn image(image: &Image) -> Base {
        let called = format!("the image `{}`", image.name);
        Base { called, disk: image.root(), format: Format::Raw, bytes: image.manifest.root.bytes, hold: None }
    }

    /// A snapshot, which stays as long as `hold` does. Blocks for as long as reading the beginning of a file takes.
    pub fn snapshot(snapshot: &Snapshot, hold: Arc<()>) -> Result<Base> {
        let called = format!("the snapshot `{}`", snapshot.name);
        let bytes = disk::bytes_seen(&snapshot.disk, snapshot.format)?;
        Ok(Base { called, disk: snapshot.disk.clone(), format: snapshot.format, bytes, hold: Some(hold) })
    }
}

/// Its root disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// What it is over.
    pub base: Base,
    /// How large it is to be, if not as large as that, in MiB.
    pub disk_mib: Option<u32>,
}

impl Disk {
    fn wanted_bytes(&self) -> Option<u64> {
        self.disk_mib.map(|disk_mib| u64::from(disk_mib) << 20)
    }
}

impl Capability for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn prepare(&self, places: &Places, _: &Course) -> Result<()> {
        let is = self.base.bytes;
        match self.wanted_bytes() {
            Some(wanted) if wanted < is => {
                let message = format!(
                    "the disk of {} has {} MiB, and cannot be made smaller",
                    self.base.called,
                    is.div_ceil(1 << 20)
                );
                Err(Error::new(ErrorKind::Usage, message))
            }
            _ => Ok(()),
        }?;
        preflight::disk_space(&places.directory)?;
        preflight::disk_program().map(drop)
    }

    fn apply(&self, places: &Places, course: &Course) -> Result<()> {
        disk::make(&places.directory, (&self.base.disk, self.base.format), course)?;
        course.check()?;
        self.wanted_bytes().map_or(Ok(()), |bytes| disk::grow(&places.directory, bytes))
    }

    fn verify(&self, places: &Places, _: &Course) -> Result<()> {
        let (path, format) = disk::find(&places.directory).ok_or_else(|| lost(&places.directory))?;
        let is = disk::bytes_seen(&path, format)?;
        match is < self.wanted_bytes().unwrap_or(1) {
            true => {
                let message = format!("`{}` has {is} bytes, which are too few", path.display());
                Err(Error::new(ErrorKind::Failure, message))
            }
            false => Ok(()),
        }
    }

    fn undo(&self, places: &Places) -> Result<()> {
        disk::remove(&places.directory)
    }
}

/// What is written down of it: from here on it is there.
#[derive(Debug, Clone)]
pub struct Written(pub Record);

impl Capability for Written {
    fn name(&self) -> &'static str {
        "record"
    }

    fn prepare(&self, _: &Places, _: &Course) -> Result<()> {
        Ok(())
    }

    fn apply(&self, places: &Places, _: &Course) -> Result<()> {
        places.write(&self.0)
    }

    fn verify(&self, places: &Places, _: &Course) -> Result<()> {
        match places.read()? {
            Some(record) if record == self.0 => Ok(()),
            _ => Err(lost(&places.record())),
        }
    }

    fn undo(&self, places: &Places) -> Result<()> {
        places.forget()
    }
}

fn lost(path: &std::path::Path) -> Error {
    Error::new(ErrorKind::Failure, format!("what was made at `{}` is not there", path.display()))
}
