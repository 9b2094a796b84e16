//! What was acknowledged by `fsync` is on the machine at that moment, and stays.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::faults::job::{Task, must};
use crate::tree::bytes_differ;

const FILES: usize = 4;
const FILE_BYTES: usize = 64 << 10;

pub fn run(task: &mut Task) {
    let mut models = vec![vec![0; FILE_BYTES]; FILES];
    let options = || fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).to_owned();
    let open = |number| must(options().open(task.path(format!("f{number}"))), "creating a file to sync");
    let files: Vec<fs::File> = (0..FILES).map(open).collect();
    for file in &files {
        must(file.set_len(FILE_BYTES as u64), "giving a file its length");
    }
    for round in 0..task.rounds {
        let number = task.dice.index(FILES);
        for _ in 0..3 {
            let len = 1 + task.dice.index(6000);
            let offset = task.dice.index(FILE_BYTES - len);
            let bytes = task.dice.bytes(len);
            must(files[number].write_all_at(&bytes, offset as u64), "writing before fsync");
            models[number][offset..offset + len].copy_from_slice(&bytes);
        }
        let synced = if round % 2 == 0 { files[number].sync_all() } else { files[number].sync_data() };
        must(synced, "fsync");
        let there = must(fs::read(task.far.join(format!("f{number}"))), "reading on the machine");
        if let Some(difference) = bytes_differ(&there, &models[number]) {
            panic!("fsync returned in round {round}, and the machine has not all: {difference}");
        }
    }
}
