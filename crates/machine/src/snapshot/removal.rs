//! How a snapshot goes.
//!
//! Disks may be over its disk: the one that its microVM goes on with, the next snapshot's, those of microVMs that are made of it.
//! So it is marked, and goes when nothing is over it; one that was taken for a fork goes as if it were marked when nothing of
//! another microVM is over it. Marked ones are shown as being deleted, and are not counted.
//!
//! ```text
//!            delete                   nothing is over it
//!   taken ───────────► marked ──────────────────────────────────────────► gone
//!                        │                                                 ▲
//!                        └── one disk of the same microVM is over it, ─────┘
//!                            which does not run: both become one
//! ```
//!
//! Two become one by writing what the upper disk has into the lower one, which is the marked one's, and by renaming that to the upper
//! one's place. It takes time by what was written since the snapshot was taken, and as much room until it is done; without that room
//! it is not begun. It can be called off, and begins anew then.
//!
//! | step | if it ends here |
//! |---|---|
//! | the record says that it is marked | it is, and goes when somebody looks again |
//! | the upper disk's content is written into the lower one | the upper one has all that it had, and hides what was written: again |
//! | the lower disk takes the upper one's place | the marked one has no disk any more: removed by [`super::sweep`] |
//! | the marked one's directory is removed | nothing is left |
//!
//! Whether a disk is over another one is found in the disks of all microVMs, not in their records: also in those of which no record
//! can be read. If what one of them is over cannot be found, nothing goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use wire::api::ErrorKind;

use super::{Record, Snapshot, directory, entry, list, open, record_in};
use crate::course::Course;
use crate::disk::{self, Format};
use crate::error::{Error, Result};

/// What is known of a microVM whose snapshots may go.
pub struct Circumstances<'a> {
    /// Whether it runs: then its disks are not touched.
    pub is_running: bool,
    /// The names of the snapshots of which a microVM is being made.
    pub held: &'a BTreeSet<String>,
    /// How many bytes are free where a file is.
    pub free: fn(&Path) -> Result<u64>,
}

/// Why a snapshot that is to go is still there.
#[derive(Debug)]
pub enum Stays {
    /// It goes once that is no longer so.
    Until(String),
    /// It was tried, and is tried again when there is an occasion.
    Failed(Error),
}

impl Stays {
    /// For whoever wants to know.
    pub fn text(&self) -> &str {
        match self {
            Stays::Until(why) => why,
            Stays::Failed(error) => &error.message,
        }
    }
}

/// What a file system keeps for others when disks are put together in it.
const KEPT_FREE_BYTES: u64 = 64 << 20;

/// How many bytes are free where this file is.
pub fn free_bytes(file: &Path) -> Result<u64> {
    let failed = |errno: rustix::io::Errno| Error::file("look at", file, &errno.into());
    let found = rustix::fs::statvfs(file).map_err(failed)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Which file it is, whatever it is called.
type Identity = (u64, u64);

/// A disk that is over another one.
struct Layer {
    path: PathBuf,
    own: Identity,
    under: Identity,
}

/// Marks a snapshot of the microVM in this directory. One that is marked already stays so. Refused, with nothing changed, if it could go
/// now but for room. Blocks.
pub fn doom(vm: &Path, name: &str, now: &Circumstances<'_>) -> Result<()> {
    let known = list(vm);
    let is_doomed = known.iter().any(|snapshot| snapshot.name == name && snapshot.record.is_doomed);
    if is_doomed {
        return Ok(());
    }
    let snapshot = open(vm, name)?;
    // What is not known now is looked at again when it goes.
    if let Ok(Way::Unite(upper)) = way(vm, &snapshot, now) {
        check_room(&upper, now)?;
    }
    mark(&snapshot, vm)
}

fn mark(snapshot: &Snapshot, vm: &Path) -> Result<()> {
    let place = directory(vm).join(&snapshot.name);
    let (path, new) = (record_in(&place), place.join("snapshot.json.new"));
    let text = serde_json::to_vec_pretty(&Record { is_doomed: true, ..snapshot.record.clone() })
        .expect("a record has only numbers");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
    let written = file.and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
    let renamed = written.and_then(|()| fs::rename(&new, &path));
    renamed.and_then(|()| sync(&place)).map_err(|error| Error::file("write", &path, &error))
}

/// Removes those snapshots of the microVM in this directory that are to go and can. Says why others that are to go are there for the next
/// time. Blocks for as long as it takes to write what was written since a snapshot was taken.
pub fn clear(vm: &Path, now: &Circumstances<'_>, course: &Course) -> BTreeMap<String, Stays> {
    let mut stuck = BTreeMap::new();
    // Each round removes one, or has one more stuck.
    while let Some(snapshot) = candidates(vm).into_iter().find(|is| !stuck.contains_key(&is.name)) {
        let stays = match remove(vm, &snapshot, now, course) {
            Ok(None) => {
                stuck.clear();
                continue;
            }
            Ok(Some(why)) => Stays::Until(why),
            Err(error) => {
                tracing::warn!(vm = %vm.display(), snapshot = snapshot.name, %error, "a snapshot cannot go yet");
                Stays::Failed(error)
            }
        };
        stuck.insert(snapshot.name, stays);
    }
    stuck
}

/// The names of the microVMs with disks over this snapshot. Blocks.
pub fn users(vm: &Path, name: &str) -> Result<BTreeSet<String>> {
    let Some(snapshot) = list(vm).into_iter().find(|snapshot| snapshot.name == name) else {
        return Ok(BTreeSet::new());
    };
    let own = identity(&snapshot.disk)?;
    let vms = place_of_all(vm);
    let layers = layers(vms)?;
    Ok(layers.iter().filter(|layer| layer.under == own).filter_map(|layer| owner(vms, layer)).collect())
}

/// The name of the microVM that a disk is of.
fn owner(vms: &Path, layer: &Layer) -> Option<String> {
    let name = layer.path.strip_prefix(vms).ok()?.components().next()?;
    Some(name.as_os_str().to_string_lossy().into_owned())
}

fn candidates(vm: &Path) -> Vec<Snapshot> {
    let goes = |is: &Snapshot| is.record.is_doomed || is.record.for_fork;
    list(vm).into_iter().filter(goes).collect()
}

/// How a snapshot goes.
enum Way {
    /// Nothing is over it.
    Remove,
    /// This disk is over it, and is put together with its own.
    Unite(PathBuf),
    /// Not before something else has ended.
    Wait(String),
}

fn way(vm: &Path, snapshot: &Snapshot, now: &Circumstances<'_>) -> Result<Way> {
    if now.held.contains(&snapshot.name) {
        return Ok(Way::Wait("a vm is being made of it".to_owned()));
    }
    let own = identity(&snapshot.disk)?;
    let vms = place_of_all(vm);
    let layers = layers(vms)?;
    let over: Vec<&Layer> = layers.iter().filter(|layer| layer.under == own).collect();
    let [first, ..] = over[..] else { return Ok(Way::Remove) };
    let is_others = |layer: &Layer| !layer.path.starts_with(vm);
    let others = |layers: &[&Layer]| -> BTreeSet<String> {
        layers.iter().filter(|layer| is_others(layer)).filter_map(|layer| owner(vms, layer)).collect()
    };
    let direct = others(&over);
    if !direct.is_empty() {
        return Ok(Way::Wait(format!("made of it: {}", names(direct))));
    }
    if over.len() > 1 || snapshot.format != Format::Qcow2 {
        return Ok(Way::Wait("its vm's disk is over it, and cannot be put together with it".to_owned()));
    }
    let above = others(&above(first, &layers));
    if !above.is_empty() {
        return Ok(Way::Wait(format!("made of what came after it: {}", names(above))));
    }
    if now.is_running {
        return Ok(Way::Wait("its vm runs".to_owned()));
    }
    if !now.held.is_empty() {
        return Ok(Way::Wait("a vm is being made of another snapshot".to_owned()));
    }
    Ok(Way::Unite(first.path.clone()))
}

fn names(of: BTreeSet<String>) -> String {
    of.into_iter().collect::<Vec<_>>().join(", ")
}

/// A disk, and all that are over it.
fn above<'a>(lowest: &'a Layer, layers: &'a [Layer]) -> Vec<&'a Layer> {
    let mut above = vec![lowest];
    let mut at = 0;
    // A disk is over one other, so each comes once.
    while let Some(layer) = above.get(at).copied() {
        above.extend(layers.iter().filter(|other| other.under == layer.own));
        at += 1;
    }
    above
}

/// Removes one if it can go now. Otherwise says what it waits for.
fn remove(
    vm: &Path,
    snapshot: &Snapshot,
    now: &Circumstances<'_>,
    course: &Course,
) -> Result<Option<String>> {
    match way(vm, snapshot, now)? {
        Way::Wait(why) => return Ok(Some(why)),
        Way::Remove => {}
        Way::Unite(upper) => {
            check_room(&upper, now)?;
            mark(snapshot, vm)?;
            unite(&snapshot.disk, &upper, course)?;
        }
    }
    // Nobody takes it for a snapshot with a disk from here on, however little of it is removed.
    mark(snapshot, vm)?;
    let place = directory(vm).join(&snapshot.name);
    fs::remove_dir_all(&place).map_err(|error| Error::file("remove", &place, &error))?;
    Ok(None)
}

/// Refuses to write what a disk has a second time where there is no room for it. Of that some may be in place of what is there already.
fn check_room(upper: &Path, now: &Circumstances<'_>) -> Result<()> {
    let found = fs::metadata(upper).map_err(|error| Error::file("look at", upper, &error))?;
    let (bytes, free) = (found.blocks() * 512, (now.free)(upper)?);
    if bytes.saturating_add(KEPT_FREE_BYTES) <= free {
        return Ok(());
    }
    let message = format!(
        "putting its disk together with the next one takes up to {} MiB, and {} MiB are free, of which {} are kept",
        bytes.div_ceil(1 << 20),
        free >> 20,
        KEPT_FREE_BYTES >> 20
    );
    Err(Error::new(ErrorKind::Failure, message).hint("make room below STEAD_HOME: stead image list"))
}

/// Has the lower disk have what the upper one has, and be in its place.
fn unite(lower: &Path, upper: &Path, course: &Course) -> Result<()> {
    disk::commit(upper, course)?;
    let synced = File::open(lower).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::file("sync", lower, &error))?;
    let renamed = {
        let _names = disk::still_names();
        fs::rename(lower, upper)
    };
    let [from, to] = [lower, upper].map(|path| path.parent().unwrap_or(Path::new("/")));
    renamed
        .and_then(|()| sync(to))
        .and_then(|()| sync(from))
        .map_err(|error| Error::file("make", upper, &error))
}

fn sync(directory: &Path) -> std::io::Result<()> {
    File::open(directory).and_then(|names| names.sync_all())
}

/// Where all microVMs are.
fn place_of_all(vm: &Path) -> &Path {
    vm.parent().unwrap_or(Path::new("/"))
}

/// All disks of microVMs that are over others.
fn layers(vms: &Path) -> Result<Vec<Layer>> {
    let _names = disk::still_names();
    let failed = |error| Error::file("list", vms, &error);
    let mut found = Vec::new();
    for there in fs::read_dir(vms).map_err(failed)? {
        let vm = there.map_err(failed)?.path();
        let names = ["root.qcow2", "next.qcow2"].map(|name| vm.join(name));
        let snapshots = directory(&vm);
        let entries = match fs::read_dir(&snapshots) {
            Ok(entries) => entries.map(|place| place.map(|place| place.path().join("disk.qcow2"))).collect(),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        };
        let entries: Vec<PathBuf> = entries.map_err(|error| Error::file("list", &snapshots, &error))?;
        for path in names.into_iter().chain(entries) {
            found.extend(layer(path)?);
        }
    }
    Ok(found)
}

/// What is there, if it is a disk over another one. One that goes meanwhile is none.
fn layer(path: PathBuf) -> Result<Option<Layer>> {
    let Some(own) = looked_for(&path)? else { return Ok(None) };
    let Some(under) = disk::under(&path)? else { return Ok(None) };
    let below = path.parent().map_or_else(|| under.clone(), |parent| parent.join(&under));
    let under = identity(&below).map_err(|error| {
        let message = format!("what `{}` is over cannot be found: {}", path.display(), error.message);
        Error::new(ErrorKind::Failure, message)
    })?;
    Ok(Some(Layer { path, own, under }))
}

fn looked_for(path: &Path) -> Result<Option<Identity>> {
    match entry(path) {
        Ok(found) => Ok(found.map(|found| (found.dev(), found.ino()))),
        Err(error) => match path.parent().is_some_and(Path::is_dir) {
            true => Err(error),
            // A file among the directories of microVMs.
            false => Ok(None),
        },
    }
}

fn identity(path: &Path) -> Result<Identity> {
    let found = fs::metadata(path).map_err(|error| Error::file("look at", path, &error))?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests;
