//! Counters that are raised under a lock lose no step.

use std::fs;
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, fcntl_lock, flock};

use crate::faults::job::{Job, Task, must};

const BY_FLOCK: &str = "by-flock";
const BY_FCNTL: &str = "by-fcntl";

pub fn run(task: &mut Task) {
    for _ in 0..task.rounds {
        for name in [BY_FLOCK, BY_FCNTL] {
            let mut options = fs::OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let mut file = must(options.open(task.path(name)), "opening a counter");
            let lock = |operation| match name {
                BY_FLOCK => flock(&file, operation),
                _ => fcntl_lock(&file, operation),
            };
            must(lock(FlockOperation::LockExclusive), format_args!("locking {name}"));
            let mut text = String::new();
            must(file.read_to_string(&mut text), "reading a counter");
            let count: u32 =
                if text.is_empty() { 0 } else { must(text.parse(), format_args!("reading {text:?}")) };
            must(file.rewind(), "rewinding");
            must(file.write_all((count + 1).to_string().as_bytes()), "writing a counter");
            let lock = |operation| match name {
                BY_FLOCK => flock(&file, operation),
                _ => fcntl_lock(&file, operation),
            };
            must(lock(FlockOperation::Unlock), format_args!("unlocking {name}"));
        }
    }
    task.note(&format!("steps{}", task.member), task.rounds.to_string());
}

pub fn settle(dir: &Path, notes: &Path) {
    let members = Job::named("lock").map_or(0, |job| job.members);
    let read = |member| must(fs::read_to_string(notes.join(format!("steps{member}"))), "reading the steps");
    let steps: u32 = (0..members).map(|member| must(read(member).parse::<u32>(), "reading the steps")).sum();
    for name in [BY_FLOCK, BY_FCNTL] {
        let count = must(fs::read_to_string(dir.join(name)), "reading a counter");
        assert_eq!(count, steps.to_string(), "steps counted {name}");
    }
}
