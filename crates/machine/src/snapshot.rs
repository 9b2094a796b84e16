//! Snapshots: what was on the disk of a microVM when it did not run.
//!
//! ```text
//!  VMS/NAME/snapshots/SNAP/   snapshot.json   disk.raw | disk.qcow2
//! ```
//!
//! Where blocks are shared between files, the disk is a copy that takes no room. Otherwise it is the microVM's own disk, which is
//! not written to any more: the microVM goes on with another one over it, and so do those that are made of the snapshot.
//!
//! ```text
//!  image ◄── snapshot ◄── root.qcow2 of the microVM            what the guest has written since
//!                 ▲
//!                 └────── root.qcow2 of another one, made of it
//! ```
//!
//! It is taken in steps, of which the last makes it one:
//!
//! | step | if it ends here |
//! |---|---|
//! | the snapshot's directory is made; the disk is there too, by a second name, or as a copy | removed: it has no record |
//! | the disk to go on with is made beside the one that is there | removed as well |
//! | the record is written | of a copy: that was the last one. Else its disk is still the microVM's own: removed |
//! | the disk to go on with takes the place of the one that is there | it is one |
//!
//! One that is to go is marked first, and goes when nothing is over it: see [`removal`].
//!
//! Invariants:
//!
//! - The disk of a snapshot is never written to, until it is marked.
//! - Nothing is copied to take one, and nothing takes time by the size of a disk.

pub mod removal;

use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::api::ErrorKind;
use wire::api::vm::SNAPSHOTS_MAX;

use crate::course::Course;
use crate::disk::{self, Format};
use crate::error::{Error, Result};
use crate::image::check_name;
use crate::kernel::read_bounded;
use crate::vm::gone;

/// The longest record.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// The version of what is on disk.
const VERSION: u32 = 1;

/// What is written down of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of this form.
    pub version: u32,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    /// Nobody has asked for it: it was taken for a fork, and goes when no other microVM is over it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub for_fork: bool,
    /// It is marked: no microVM is made of it any more, and it goes when nothing is over it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_doomed: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde wants")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Why a snapshot is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody wants it, under this name; without one it is `snap-` and a number.
    Kept(Option<String>),
    /// A microVM is made of it.
    Fork,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is called.
    pub name: String,
    /// What is written down of it.
    pub record: Record,
    /// Its disk, which is not written to.
    pub disk: PathBuf,
    /// How that is written down.
    pub format: Format,
}

fn directory(vm: &Path) -> PathBuf {
    vm.join("snapshots")
}

fn record_in(directory: &Path) -> PathBuf {
    directory.join("snapshot.json")
}

/// Takes a snapshot of the microVM in this directory, which does not run. After an error there is none. Blocks.
pub fn take(vm: &Path, purpose: &Purpose, course: &Course) -> Result<Snapshot> {
    let name = match purpose {
        Purpose::Kept(name) => name.clone(),
        Purpose::Fork => None,
    };
    name.as_deref().map_or(Ok(()), |name| check_name(name, "snapshot"))?;
    sweep(vm);
    let known = list(vm);
    let name = name.unwrap_or_else(|| free_name(vm));
    if known.iter().any(|snapshot| snapshot.name == name) {
        let message = format!("there is a snapshot `{name}` already");
        return Err(Error::new(ErrorKind::Conflict, message).hint("choose another name for it"));
    }
    if known.iter().filter(|snapshot| !snapshot.record.is_doomed).count() >= SNAPSHOTS_MAX {
        let message = format!("a vm has at most {SNAPSHOTS_MAX} snapshots");
        return Err(Error::new(ErrorKind::Conflict, message).hint("stead vm snapshot NAME SNAP --delete"));
    }
    let place = directory(vm).join(&name);
    let mut making = fs::DirBuilder::new();
    let made = making.recursive(true).mode(0o700).create(&place);
    made.map_err(|error| Error::file("make", &place, &error))?;
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let created = since.map_or(0, |since| since.as_secs());
    let record = Record { version: VERSION, created, for_fork: *purpose == Purpose::Fork, is_doomed: false };
    let taken = fill(vm, &place, (&name, record), course);
    if taken.is_err() {
        sweep(vm);
    }
    taken
}

/// The first `snap-N` of which nothing is there.
fn free_name(vm: &Path) -> String {
    let mut names = (1_u64..).map(|number| format!("snap-{number}"));
    let free = names.find(|name| directory(vm).join(name).symlink_metadata().is_err());
    free.expect("numbers do not end")
}

fn fill(vm: &Path, place: &Path, (name, record): (&str, Record), course: &Course) -> Result<Snapshot> {
    let (root, format) = disk::find(vm)
        .ok_or_else(|| Error::new(ErrorKind::Failure, format!("there is no disk in `{}`", vm.display())))?;
    let disk = place.join(format!("disk.{}", format.name()));
    let is_copy = format == Format::Raw && disk::share(&root, &disk)?;
    if !is_copy {
        fs::hard_link(&root, &disk).map_err(|error| Error::file("keep", &root, &error))?;
        let next = next(vm);
        gone(fs::remove_file(&next)).map_err(|error| Error::file("remove", &next, &error))?;
        disk::overlay(&next, (&disk, format), course)?;
    }
    write(&record_in(place), &record)?;
    if !is_copy {
        disk::take_over(vm, &next(vm))?;
    }
    Ok(Snapshot { name: name.to_owned(), record, disk, format })
}

/// The disk that a microVM is to go on with.
fn next(vm: &Path) -> PathBuf {
    vm.join("next.qcow2")
}

fn write(path: &Path, record: &Record) -> Result<()> {
    let text = serde_json::to_vec_pretty(record).expect("a record has only numbers");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
    written.map_err(|error| Error::file("write", path, &error))
}

/// All snapshots of the microVM in this directory, by name. What cannot be read is logged. Blocks.
pub fn list(vm: &Path) -> Vec<Snapshot> {
    let mut found: Vec<Snapshot> = entries(vm).filter_map(|place| look(vm, &place).ok().flatten()).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// One of them, which is not marked. Blocks.
pub fn open(vm: &Path, name: &str) -> Result<Snapshot> {
    let found = list(vm).into_iter().find(|snapshot| snapshot.name == name);
    let found = found.ok_or_else(|| {
        let message = format!("there is no snapshot `{}`", name.escape_debug());
        Error::new(ErrorKind::NotFound, message).hint("stead vm show NAME")
    })?;
    match found.record.is_doomed {
        false => Ok(found),
        true => {
            let message = format!("the snapshot `{name}` is being deleted");
            Err(Error::new(ErrorKind::Conflict, message).hint("stead vm show NAME"))
        }
    }
}

/// Removes what was left half way. What cannot be looked at stays. Blocks.
pub fn sweep(vm: &Path) {
    for place in entries(vm) {
        if let Ok(None) = look(vm, &place)
            && let Err(error) = fs::remove_dir_all(&place)
        {
            tracing::warn!(snapshot = %place.display(), %error, "what is left of a snapshot stays");
        }
    }
    if let Err(error) = gone(fs::remove_file(next(vm))) {
        tracing::warn!(vm = %vm.display(), %error, "a disk that nobody has stays");
    }
}

fn entries(vm: &Path) -> impl Iterator<Item = PathBuf> {
    // One without snapshots has no such directory.
    fs::read_dir(directory(vm)).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The snapshot that is there; none if it was not taken to its end.
///
/// Only what is certainly not there is missing: what is none is removed.
fn look(vm: &Path, place: &Path) -> Result<Option<Snapshot>> {
    looked_at(vm, place).inspect_err(passed_over)
}

fn looked_at(vm: &Path, place: &Path) -> Result<Option<Snapshot>> {
    let path = record_in(place);
    if entry(&path)?.is_none() {
        return Ok(None);
    }
    let text = read_bounded(&path, RECORD_BYTES_MAX)?;
    let record: Record = serde_json::from_slice(&text).map_err(|error| {
        Error::new(ErrorKind::Failure, format!("`{}` is damaged: {error}", path.display()))
    })?;
    if record.version != VERSION {
        let message = format!("`{}` is of another release's form, {}", path.display(), record.version);
        return Err(Error::new(ErrorKind::Refused, message));
    }
    let Some((format, found)) = file(place, "disk")? else {
        if record.is_doomed {
            // Its disk has become that of what was over it.
            return Ok(None);
        }
        let message = format!("the snapshot in `{}` has lost its disk", place.display());
        return Err(Error::new(ErrorKind::Failure, message));
    };
    let number = |found: &Metadata| (found.dev(), found.ino());
    // As long as the microVM writes to it, it is none.
    if file(vm, "root")?.is_some_and(|(_, root)| number(&root) == number(&found)) {
        return Ok(None);
    }
    let disk = place.join(format!("disk.{}", format.name()));
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Some(Snapshot { name, record, disk, format }))
}

/// The disk that is called so in a directory, in whichever form it is there.
fn file(directory: &Path, called: &str) -> Result<Option<(Format, Metadata)>> {
    for format in [Format::Raw, Format::Qcow2] {
        if let Some(found) = entry(&directory.join(format!("{called}.{}", format.name())))? {
            return Ok(Some((format, found)));
        }
    }
    Ok(None)
}

/// What is there, if anything.
fn entry(path: &Path) -> Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Ok(found) if found.is_file() => Ok(Some(found)),
        Ok(_) => Err(Error::new(ErrorKind::Failure, format!("`{}` is no file", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("look for", path, &error)),
    }
}

fn passed_over(error: &Error) {
    tracing::warn!(%error, "a snapshot is passed over");
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn kept(name: &str) -> Purpose {
        Purpose::Kept(Some(name.to_owned()))
    }

    fn record(version: u32) -> Record {
        Record { version, created: 0, for_fork: false, is_doomed: false }
    }

    pub(super) struct Rig {
        pub scratch: tempfile::TempDir,
        pub course: Course,
        _client: crate::course::Client,
    }

    impl Rig {
        pub fn new() -> Rig {
            let scratch = tempfile::tempdir().unwrap();
            fs::write(scratch.path().join("image"), vec![0; 1 << 20]).unwrap();
            fs::create_dir_all(scratch.path().join("vms/dev")).unwrap();
            let (course, _client) = Course::new(|_| ()).unwrap();
            let rig = Rig { scratch, course, _client };
            disk::make(&rig.vm(), (&rig.scratch.path().join("image"), Format::Raw), &rig.course).unwrap();
            rig
        }

        pub fn vm(&self) -> PathBuf {
            self.scratch.path().join("vms/dev")
        }

        /// Writes a byte over the first KiB of a disk, as its guest would.
        pub fn write(&self, vm: &Path, byte: u8) {
            let (root, format) = disk::find(vm).unwrap();
            let script = format!("write -P {byte} 0 1k");
            let ran = std::process::Command::new("qemu-io")
                .args(["-f", format.name(), "-c", &script])
                .arg(&root)
                .output()
                .unwrap();
            assert!(ran.status.success(), "{ran:?}");
        }

        /// The first byte of a disk, as its guest sees it.
        pub fn first(&self, (disk, format): (&Path, Format)) -> u8 {
            let to = self.scratch.path().join("first");
            disk::begin(disk, format, &to, &self.course).unwrap();
            fs::read(to).unwrap()[0]
        }

        pub fn first_of(&self, vm: &Path) -> u8 {
            let (root, format) = disk::find(vm).unwrap();
            self.first((&root, format))
        }
    }

    #[test]
    fn a_snapshot_stays_as_it_is_whatever_is_written_after_it() {
        let rig = Rig::new();
        let vm = rig.vm();
        rig.write(&vm, 1);
        let one = take(&vm, &kept("one"), &rig.course).unwrap();
        rig.write(&vm, 2);
        let two = take(&vm, &kept("two"), &rig.course).unwrap();
        rig.write(&vm, 3);
        // Another one made of the first.
        let fork = rig.scratch.path().join("vms/fork");
        fs::create_dir(&fork).unwrap();
        disk::make(&fork, (&one.disk, one.format), &rig.course).unwrap();
        assert_eq!(rig.first_of(&fork), 1);
        rig.write(&fork, 4);
        let seen = [&one, &two].map(|snapshot| rig.first((&snapshot.disk, snapshot.format)));
        assert_eq!((seen, rig.first_of(&vm), rig.first_of(&fork)), ([1, 2], 3, 4));
        assert_eq!(list(&vm), [one.clone(), two]);
        assert_eq!(open(&vm, "one").unwrap(), one);
        assert_eq!(open(&vm, "none").unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(take(&vm, &kept("one"), &rig.course).unwrap_err().kind, ErrorKind::Conflict);
        assert_eq!(take(&vm, &kept("../one"), &rig.course).unwrap_err().kind, ErrorKind::Usage);
        assert_eq!(list(&vm).len(), 2);
    }

    #[test]
    fn what_was_not_taken_to_its_end_is_none_and_goes() {
        let rig = Rig::new();
        let vm = rig.vm();
        let (root, format) = disk::find(&vm).unwrap();
        rig.write(&vm, 1);
        // With a directory only; with a disk; with a record, and the microVM's own disk.
        for steps in 0..3 {
            let place = directory(&vm).join("half");
            fs::create_dir_all(&place).unwrap();
            if steps > 0 {
                fs::hard_link(&root, place.join(format!("disk.{}", format.name()))).unwrap();
                fs::write(next(&vm), "").unwrap();
            }
            if steps > 1 {
                write(&record_in(&place), &record(VERSION)).unwrap();
            }
            assert_eq!(list(&vm), [], "{steps}");
            sweep(&vm);
            assert!(!place.exists() && !next(&vm).exists(), "{steps}");
        }
        assert_eq!(rig.first_of(&vm), 1);
        // One that cannot be read or looked at stays, and so does one of which a part was lost.
        let record = |version| serde_json::to_string(&record(version)).unwrap();
        let damaged =
            [("damaged", "{".to_owned()), ("later", record(2)), ("lost", record(1)), ("endless", record(1))];
        for (name, text) in &damaged {
            let place = directory(&vm).join(name);
            fs::create_dir_all(&place).unwrap();
            fs::write(record_in(&place), text).unwrap();
        }
        std::os::unix::fs::symlink("disk.raw", directory(&vm).join("endless/disk.raw")).unwrap();
        sweep(&vm);
        assert!(damaged.iter().all(|(name, _)| directory(&vm).join(name).exists()));
        assert_eq!(list(&vm), []);
        take(&vm, &kept("half"), &rig.course).unwrap();
        let names = [1, 2].map(|_| take(&vm, &Purpose::Kept(None), &rig.course).unwrap().name);
        assert_eq!((names, list(&vm).len()), (["snap-1".to_owned(), "snap-2".to_owned()], 3));
    }

    #[test]
    fn one_that_is_called_off_is_none() {
        let rig = Rig::new();
        let vm = rig.vm();
        let (course, client) = Course::new(|_| ()).unwrap();
        drop(client);
        rig.write(&vm, 1);
        if take(&vm, &kept("one"), &course).is_err() {
            assert_eq!((list(&vm), entries(&vm).count()), (Vec::new(), 0));
        }
        assert_eq!(rig.first_of(&vm), 1);
    }
}
