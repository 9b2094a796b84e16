//! Somebody who works through the mount, in the directories that others change.

use std::path::Path;

use super::Scene;
use super::hand::{LASTING_DIRECTORIES, directory};
use crate::faults::dice::Dice;
use crate::wait::pause;

/// Names in each directory.
const NAMES: u64 = 3;

/// Bytes of a file, at the most.
const BYTES_MAX: usize = 9000;

/// Between two changes, so that those of others come in between, in milliseconds.
const PAUSE_MS_MAX: u64 = 20;

/// Creates, writes, renames and removes until the run is over. What it has done it sees at once, and so does the machine.
pub fn work(scene: &Scene<'_>, mut dice: Dice) {
    let mut serial = 0_u64;
    while !scene.is_over() {
        let directory = directory(dice.index(LASTING_DIRECTORIES));
        let name = |dice: &mut Dice| format!("{directory}/o{}", dice.below(NAMES));
        let (one, other) = (name(&mut dice), name(&mut dice));
        serial += 1;
        let done = match dice.below(4) {
            0 => remove(scene, &one),
            1 if one != other => rename(scene, &one, &other),
            _ => {
                let mut bytes =
                    dice.index(BYTES_MAX).to_string().repeat(1 + dice.index(BYTES_MAX / 8)).into_bytes();
                bytes.extend(serial.to_le_bytes());
                write(scene, &one, &bytes)
            }
        };
        if let Err(why) = done {
            return scene.fail(format!("own change {serial}, of {one} and {other}: {why}"));
        }
        pause(std::time::Duration::from_millis(dice.below(PAUSE_MS_MAX)));
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn write(scene: &Scene<'_>, name: &str, bytes: &[u8]) -> Result<(), String> {
    let (here, there) = (scene.dir.join(name), scene.far.join(name));
    std::fs::write(&here, bytes).map_err(|error| format!("writing: {error}"))?;
    for (side, path) in [("here", &here), ("there", &there)] {
        let read =
            std::fs::read(path).map_err(|error| format!("reading what was written {side}: {error}"))?;
        if read != bytes {
            return Err(format!("{} bytes were written, others are {side}: {}", bytes.len(), read.len()));
        }
    }
    Ok(())
}

fn remove(scene: &Scene<'_>, name: &str) -> Result<(), String> {
    let (here, there) = (scene.dir.join(name), scene.far.join(name));
    let was_there = is_there(&there);
    let removed = std::fs::remove_file(&here);
    if removed.is_ok() != was_there {
        return Err(format!("removing: {removed:?}, it was there: {was_there}"));
    }
    match (is_there(&here), is_there(&there)) {
        (false, false) => Ok(()),
        left => Err(format!("removed, and still there: {left:?}")),
    }
}

fn rename(scene: &Scene<'_>, from: &str, to: &str) -> Result<(), String> {
    let (old, new) = (scene.dir.join(from), scene.dir.join(to));
    let content = std::fs::read(scene.far.join(from)).ok();
    let renamed = std::fs::rename(&old, &new);
    if renamed.is_ok() != content.is_some() {
        return Err(format!("renaming: {renamed:?}, it was there: {}", content.is_some()));
    }
    let Some(content) = content else { return Ok(()) };
    match (is_there(&old), std::fs::read(&new)) {
        (false, Ok(read)) if read == content => Ok(()),
        (left, read) => Err(format!(
            "renamed: the old name is there: {left}, the new one is {:?}",
            read.map(|is| is.len())
        )),
    }
}
