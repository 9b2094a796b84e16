//! A file that is replaced by rename is there at every moment, and whole.

use std::fs;
use std::io::{Error, ErrorKind, Write};

use crate::faults::dice::Dice;
use crate::faults::job::{Task, must};

const CURRENT: &str = "current";
const BEGUN: &str = "replace-begun";
const ENDED: &str = "replace-ended";

/// The content of a version tells the version and is made from it.
const CONTENT_BYTES: usize = 9000;

fn content(version: u32) -> Vec<u8> {
    let mut bytes = version.to_le_bytes().to_vec();
    bytes.extend(Dice::new(version.into()).bytes(CONTENT_BYTES));
    bytes
}

pub fn run(task: &mut Task) {
    if task.member == 0 { write(task) } else { read(task) }
}

fn write(task: &Task) {
    for version in 0..task.rounds {
        let new = task.path("new");
        let mut file = must(fs::File::create(&new), "creating the next version");
        must(file.write_all(&content(version)), "writing the next version");
        if version % 3 == 0 {
            must(file.sync_all(), "fsync of the next version");
        }
        drop(file);
        must(fs::rename(&new, task.path(CURRENT)), "putting the next version in place");
        if version == 0 {
            task.note(BEGUN, "");
        }
    }
    task.note(ENDED, "");
}

fn read(task: &Task) {
    task.await_note(BEGUN);
    let mut last = 0;
    while !task.has_note(ENDED) {
        let read = fs::read(task.path(CURRENT));
        let is_lost = |error: &Error| error.kind() == ErrorKind::StaleNetworkFileHandle;
        if task.agent_may_die && read.as_ref().is_err_and(is_lost) {
            continue;
        }
        let bytes = must(read, "reading a file that is always there");
        let version = bytes.first_chunk().map_or(u32::MAX, |head: &[u8; 4]| u32::from_le_bytes(*head));
        assert!(bytes == content(version), "not whole: {} bytes that say version {version}", bytes.len());
        assert!(version >= last, "version {version} after version {last}");
        last = version;
    }
}
