//! Changes through a shared mapping arrive.

use std::fs;

use crate::faults::job::{Task, must};
use crate::mapping::Mapping;
use crate::tree::bytes_differ;

const FILE_BYTES: usize = 256 << 10;

pub fn run(task: &mut Task) {
    let path = task.path("mapped");
    let file = must(fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path), "creating");
    must(file.set_len(FILE_BYTES as u64), "giving a file its length");
    let mut mapping = Mapping::shared(&file, FILE_BYTES);
    drop(file);
    let mut model = vec![0; FILE_BYTES];
    for round in 0..task.rounds {
        for _ in 0..20 {
            let len = 1 + task.dice.index(300);
            let offset = task.dice.index(FILE_BYTES - len);
            let bytes = task.dice.bytes(len);
            mapping.bytes_mut()[offset..offset + len].copy_from_slice(&bytes);
            model[offset..offset + len].copy_from_slice(&bytes);
        }
        if let Some(difference) = bytes_differ(mapping.bytes(), &model) {
            panic!("the mapping lost something in round {round}: {difference}");
        }
        if round % 4 == 0 {
            mapping.sync();
            let there = must(fs::read(task.far.join("mapped")), "reading on the machine");
            if let Some(difference) = bytes_differ(&there, &model) {
                panic!("msync returned in round {round}, and the machine has not all: {difference}");
            }
        }
    }
    mapping.sync();
}
