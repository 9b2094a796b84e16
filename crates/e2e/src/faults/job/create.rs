//! Two processes race for names with `O_EXCL`: each name has one winner.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::faults::job::{Task, must};

pub fn run(task: &mut Task) {
    let mut won = String::new();
    for number in 0..task.rounds {
        match fs::File::create_new(task.path(format!("n{number}"))) {
            Ok(mut file) => {
                must(file.write_all(format!("{number}\n").as_bytes()), "writing a file that was won");
                won += &format!("{number}\n");
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => panic!("creating n{number}: {error}"),
        }
    }
    task.note(&format!("won{}", task.member), &won);
    task.note(&format!("rounds{}", task.member), task.rounds.to_string());
}

/// Nobody won a name that another had, and no name was made for nobody.
pub fn settle(_dir: &Path, notes: &Path) {
    let read = |name: &str| must(fs::read_to_string(notes.join(name)), "reading who won");
    let (one, other) = (read("won0"), read("won1"));
    let (one, other): (BTreeSet<&str>, BTreeSet<&str>) = (one.lines().collect(), other.lines().collect());
    let both: Vec<&&str> = one.intersection(&other).collect();
    assert!(both.is_empty(), "created by both: {both:?}");
    let rounds: usize = must(read("rounds0").parse(), "reading how many there were");
    let all: BTreeSet<String> = (0..rounds).map(|number| number.to_string()).collect();
    let nobodys: Vec<&String> =
        all.iter().filter(|name| !one.contains(name.as_str()) && !other.contains(name.as_str())).collect();
    assert!(nobodys.is_empty(), "created for nobody: {nobodys:?}");
}
