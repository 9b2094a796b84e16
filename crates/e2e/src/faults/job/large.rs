//! A file of many megabytes, written in pieces of any length, reads back as it was written.

use std::fs;
use std::io::Write;

use crate::faults::job::{Task, must};
use crate::tree::bytes_differ;

const FILE_BYTES: usize = 12 << 20;
const PIECE_BYTES_MAX: usize = 300 << 10;

pub fn run(task: &mut Task) {
    for round in 0..task.rounds {
        let path = task.path(format!("large{round}"));
        let bytes = task.dice.bytes(FILE_BYTES);
        let mut file = must(fs::File::create(&path), "creating a large file");
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(1 + task.dice.index(PIECE_BYTES_MAX)));
            must(file.write_all(piece), "writing a large file");
            rest = after;
        }
        drop(file);
        let back = must(fs::read(&path), "reading a large file");
        if let Some(difference) = bytes_differ(&back, &bytes) {
            panic!("reads back another: {difference}");
        }
        let there = must(fs::read(task.far.join(format!("large{round}"))), "reading on the machine");
        if let Some(difference) = bytes_differ(&there, &bytes) {
            panic!("close returned, and the machine has another: {difference}");
        }
    }
}
