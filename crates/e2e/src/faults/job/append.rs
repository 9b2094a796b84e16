//! Two processes append to one file, a line at a time.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::faults::job::{Job, Task, must};

const SHARED: &str = "shared";

pub fn run(task: &mut Task) {
    let member = task.member;
    let open = |name: String| {
        let options = fs::OpenOptions::new().create(true).append(true).open(task.path(&name));
        must(options, format_args!("opening {name} to append"))
    };
    let (mut shared, mut own) = (open(SHARED.to_owned()), open(format!("own{member}")));
    for number in 0..task.rounds {
        let filler = "x".repeat(task.dice.index(200));
        let line = format!("{member} {number} {filler}\n");
        must(shared.write_all(line.as_bytes()), "appending to a file of two");
        must(own.write_all(line.as_bytes()), "appending to a file of one");
    }
    must(shared.sync_all(), "fsync of an appended file");
}

/// Each line is there once, in the order of its writer. Which writer came first is left to chance, so the lines are
/// sorted.
pub fn settle(dir: &Path, _notes: &Path) {
    let text = must(fs::read_to_string(dir.join(SHARED)), "reading what was appended");
    let members = Job::named("append").map_or(0, |job| job.members);
    let mut lines: Vec<&str> = text.lines().collect();
    for member in 0..members {
        let own = must(fs::read_to_string(dir.join(format!("own{member}"))), "reading what one appended");
        let prefix = format!("{member} ");
        let found: Vec<&str> = lines.iter().copied().filter(|line| line.starts_with(&prefix)).collect();
        let wanted: Vec<&str> = own.lines().collect();
        let first = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
        assert!(
            found == wanted,
            "of {} lines of writer {member}, {} are there; the first that differs is {first:?}",
            wanted.len(),
            found.len()
        );
    }
    lines.sort_unstable();
    must(fs::write(dir.join(SHARED), lines.join("\n")), "writing the sorted lines");
}
