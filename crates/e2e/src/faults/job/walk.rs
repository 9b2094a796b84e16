//! What stays in a directory is listed once by every listing, whatever comes and goes beside it.

use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;

use rustix::fs::{Mode, OFlags, RawDir};

use crate::faults::job::{Task, must};

const STAYING: usize = 200;
const BEGUN: &str = "walk-begun";
const ENDED: &str = "walk-ended";

/// So small that a listing takes many calls.
const BUFFER_BYTES: usize = 1024;

pub fn run(task: &mut Task) {
    if task.member == 0 { come_and_go(task) } else { list(task) }
}

fn come_and_go(task: &Task) {
    for number in 0..STAYING {
        must(fs::write(task.path(format!("stays{number}")), number.to_string()), "writing a file that stays");
    }
    task.note(BEGUN, "");
    for round in 0..task.rounds {
        for number in 0..5 {
            must(fs::write(task.path(format!("comes{round}-{number}")), ""), "writing a file that goes");
        }
        for number in 0..5 {
            must(fs::remove_file(task.path(format!("comes{round}-{number}"))), "removing a file that goes");
        }
    }
    task.note(ENDED, "");
}

fn list(task: &Task) {
    task.await_note(BEGUN);
    while !task.has_note(ENDED) {
        let seen = names(&task.dir);
        let twice: Vec<&String> =
            seen.iter().filter(|(_, count)| **count > 1).map(|(name, _)| name).collect();
        let stayed = |name: &&String| name.starts_with("stays");
        assert!(!twice.iter().any(stayed), "listed more than once: {twice:?}");
        let missed: Vec<String> = (0..STAYING)
            .map(|number| format!("stays{number}"))
            .filter(|name| !seen.contains_key(name))
            .collect();
        assert!(missed.is_empty(), "not listed: {missed:?}");
        let one = task.path(format!("stays{}", seen.len() % STAYING));
        must(fs::metadata(&one), "stat of a file that stays");
    }
}

fn names(dir: &Path) -> BTreeMap<String, usize> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = must(rustix::fs::open(dir, flags, Mode::empty()), "opening a directory");
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    let mut entries = RawDir::new(&directory, &mut buffer);
    let mut seen = BTreeMap::new();
    while let Some(entry) = entries.next() {
        let entry = must(entry, "listing a directory");
        *seen.entry(entry.file_name().to_string_lossy().into_owned()).or_default() += 1;
    }
    seen
}
