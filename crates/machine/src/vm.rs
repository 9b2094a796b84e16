//! What is written down of a microVM: `VMS/NAME/vm.json`, and the places of its files.
//!
//! The record is written before what it says is relied upon: a disk before the record that has it, a process as soon as it
//! runs. A directory under `VMS` without a record was being made or removed by whoever was killed; the next daemon removes it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use supervisor::Identity;
use wire::api::ErrorKind;
use wire::api::status::Origin;

use crate::error::{Error, Result};
use crate::image::check_name;
use crate::kernel::read_bounded;
use crate::network::Network;
use crate::snapshot;

/// The longest record.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// The version of what is on disk.
const VERSION: u32 = 1;

/// What a microVM is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of this form.
    pub version: u32,
    /// What no other microVM has, whatever it is called.
    pub id: String,
    /// What it boots from.
    pub image: String,
    /// What runs it.
    pub engine: String,
    /// Processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Its network, if it has one.
    #[serde(default)]
    pub network: Option<Network>,
    /// The snapshot that its disk is over, if not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// The VMM, if it was running when that was written.
    #[serde(default)]
    pub process: Option<Identity>,
    /// The gate of its network while the VMM runs.
    #[serde(default)]
    pub gate: Option<Identity>,
}

impl Record {
    /// A microVM that does not run.
    pub fn new(image: &str, engine: &str, cpus: u32, memory_mib: u32) -> Record {
        let (image, engine) = (image.to_owned(), engine.to_owned());
        let (process, gate, network, from) = (None, None, None, None);
        Record {
            version: VERSION,
            id: new_id(),
            image,
            engine,
            cpus,
            memory_mib,
            network,
            from,
            process,
            gate,
        }
    }
}

/// A number that nobody has had.
pub fn new_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    // Each state is keyed at random by the standard library, from the system's generator.
    format!("{:016x}", RandomState::new().hash_one(0))
}

/// Where the files of a microVM are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// What is kept of it.
    pub directory: PathBuf,
    /// Its sockets.
    pub runtime: PathBuf,
}

impl Places {
    /// The console's log.
    pub fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// What its kernel begins with.
    pub fn initrd(&self) -> PathBuf {
        self.directory.join("initrd")
    }

    /// The file that is there as long as the microVM is.
    pub fn record(&self) -> PathBuf {
        self.directory.join("vm.json")
    }

    /// Writes the record in place of the one before it.
    pub fn write(&self, record: &Record) -> Result<()> {
        let (path, new) = (self.record(), self.directory.join("vm.json.new"));
        let text = serde_json::to_vec_pretty(record).expect("a record has only texts and numbers");
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
        let written = file.and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
        written.and_then(|()| fs::rename(&new, &path)).map_err(|error| Error::file("write", &path, &error))
    }

    /// Removes the record: what is left is removed by the next daemon. One that is gone already is no failure. Blocks.
    pub fn forget(&self) -> Result<()> {
        let record = self.record();
        gone(fs::remove_file(&record)).map_err(|error| Error::file("remove", &record, &error))
    }

    /// Removes all that there is of it. What is gone already is no failure. Blocks.
    pub fn remove(&self) -> Result<()> {
        self.forget()?;
        for path in [&self.runtime, &self.directory] {
            gone(fs::remove_dir_all(path)).map_err(|error| Error::file("remove", path, &error))?;
        }
        Ok(())
    }

    /// What is written down; `None` if nothing is. Blocks for as long as reading a small file takes.
    pub fn read(&self) -> Result<Option<Record>> {
        let path = self.record();
        // What cannot be looked at may well be there.
        if !path.try_exists().map_err(|error| Error::file("look for", &path, &error))? {
            return Ok(None);
        }
        let text = read_bounded(&path, RECORD_BYTES_MAX)?;
        let record: Record = serde_json::from_slice(&text).map_err(|error| {
            Error::new(ErrorKind::Failure, format!("`{}` is damaged: {error}", path.display()))
        })?;
        match record.version {
            VERSION => Ok(Some(record)),
            other => {
                let message = format!("`{}` is of another release's form, {other}", path.display());
                Err(Error::new(ErrorKind::Refused, message))
            }
        }
    }
}

pub(crate) fn gone(outcome: std::io::Result<()>) -> std::io::Result<()> {
    match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What there is under `VMS`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// By name.
    pub vms: Vec<(String, Record)>,
    /// The names of those of which it is not known what they are, and so not what they need of others.
    pub unread: Vec<String>,
}

/// All that there are under `vms`. What was left half way is removed. What cannot be read, or be a vm, stays as it is and is
/// logged: it keeps nobody from the others. Blocks.
pub fn list(vms: &Path, places: impl Fn(&str) -> Places) -> Found {
    let entries = match fs::read_dir(vms) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Found::default(),
        Err(error) => {
            tracing::warn!(vms = %vms.display(), %error, "vms cannot be listed");
            return Found::default();
        }
    };
    let mut found = Found::default();
    for entry in entries {
        let look = || -> Result<Option<(String, Record)>> {
            let entry = entry.map_err(|error| Error::file("list", vms, &error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            check_name(&name, "vm")?;
            let places = places(&name);
            let read = places.read();
            if read.is_err() {
                found.unread.push(name.clone());
            }
            match read? {
                Some(record) => {
                    snapshot::sweep(&places.directory);
                    Ok(Some((name, record)))
                }
                None => places.remove().map(|()| None),
            }
        };
        match look() {
            Ok(vm) => found.vms.extend(vm),
            Err(error) => tracing::warn!(%error, "a vm is passed over"),
        }
    }
    found.vms.sort_by(|one, other| one.0.cmp(&other.0));
    found.unread.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_what_has_none_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let vms = scratch.path().join("vms");
        let places = |name: &str| Places { directory: vms.join(name), runtime: scratch.path().join(name) };
        assert_eq!(list(&vms, places), Found::default());
        fs::create_dir_all(vms.join("half/deep")).unwrap();
        fs::create_dir_all(vms.join("whole")).unwrap();
        let record = Record { process: Identity::own().ok(), ..Record::new("debian", "qemu", 2, 256) };
        places("whole").write(&record).unwrap();
        assert_eq!(list(&vms, places), Found { vms: vec![("whole".to_owned(), record)], unread: Vec::new() });
        assert!(!vms.join("half").exists());
        places("whole").remove().unwrap();
        places("whole").remove().unwrap();
        assert_eq!(fs::read_dir(&vms).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_read_or_be_a_vm_stays_and_hides_no_other() {
        let scratch = tempfile::tempdir().unwrap();
        let vms = scratch.path().join("vms");
        let places = |name: &str| Places { directory: vms.join(name), runtime: scratch.path().join(name) };
        for name in ["damaged", "endless", "whole", "No_Name"] {
            fs::create_dir_all(vms.join(name)).unwrap();
        }
        fs::write(vms.join("file"), "").unwrap();
        fs::write(places("damaged").record(), "{").unwrap();
        // It cannot be looked for, not even by root.
        std::os::unix::fs::symlink("vm.json", places("endless").record()).unwrap();
        let record = Record::new("debian", "qemu", 2, 256);
        places("whole").write(&record).unwrap();
        let found = list(&vms, places);
        assert_eq!(found.vms, [("whole".to_owned(), record)]);
        assert_eq!(found.unread, ["damaged", "endless", "file"]);
        assert_eq!(fs::read_dir(&vms).unwrap().count(), 5);
        assert_eq!(list(&vms.join("file"), places), Found::default());
    }
}
