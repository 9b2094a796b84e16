//! What a process holds stays what it is for as long as it runs: descriptors, a working directory, a mapping, a
//! directory stream, a file without a name.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use rustix::fs::{Dir, FlockOperation, flock};

use crate::faults::job::{END, Task, must};
use crate::mapping::Mapping;
use crate::tree::bytes_differ;
use crate::wait::pause;

const FILE_BYTES: usize = 128 << 10;
const PIECE_BYTES: usize = 4000;
const NAMES: usize = 50;

/// Between two looks: the other jobs are to have the processor.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);

pub fn run(task: &mut Task) {
    let bytes = task.dice.bytes(FILE_BYTES);
    let here = task.path("here");
    must(fs::create_dir_all(here.join("names")), "mkdir");
    must(std::env::set_current_dir(&here), "entering a directory");
    must(fs::write("held", &bytes), "writing the file to hold");
    for number in 0..NAMES {
        must(fs::write(format!("names/{number}"), ""), "writing a name");
    }
    let held = must(fs::File::open("held"), "opening the file to hold");
    let mapping = Mapping::new(&held, FILE_BYTES, rustix::mm::MapFlags::SHARED, rustix::mm::ProtFlags::READ);
    let mut options = fs::OpenOptions::new();
    let nameless = options.read(true).write(true).create_new(true).open("nameless");
    let nameless = must(nameless, "creating the file that loses its name");
    must(fs::remove_file("nameless"), "taking its name away");
    let locked = must(fs::File::create("locked"), "creating the file to lock");
    must(flock(&locked, FlockOperation::NonBlockingLockExclusive), "locking");
    let inode = must(held.metadata(), "fstat").ino();
    let mut stream = must(Dir::read_from(must(fs::File::open("names"), "opening a directory")), "a stream");

    let mut seen = 0;
    while !task.has_note(END) {
        let at = task.dice.index(FILE_BYTES - PIECE_BYTES);
        let mut piece = vec![0; PIECE_BYTES];
        must(held.read_exact_at(&mut piece, at as u64), "reading what is held");
        same(&piece, &bytes[at..at + PIECE_BYTES], "a descriptor");
        same(&mapping.bytes()[at..at + PIECE_BYTES], &bytes[at..at + PIECE_BYTES], "a mapping");
        let offset = at as u64;
        if !task.agent_may_die {
            let wanted = &bytes[at..at + PIECE_BYTES];
            must(nameless.write_all_at(wanted, offset), "writing to a file without a name");
            must(nameless.read_exact_at(&mut piece, offset), "reading a file without a name");
            same(&piece, wanted, "a file without a name");
        }
        assert_eq!(must(held.metadata(), "fstat").ino(), inode, "the inode number of an open file");
        must(fs::metadata("held"), "stat relative to the working directory");
        let other = must(fs::File::open("locked"), "opening the locked file");
        let taken = flock(&other, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(taken.err(), Some(rustix::io::Errno::WOULDBLOCK), "a lock that another descriptor holds");
        match stream.read() {
            Some(entry) => {
                must(entry, "reading on in a directory");
                seen += 1;
            }
            None => {
                // `.` and `..` are among them.
                assert_eq!(seen, NAMES + 2, "entries of a directory that nobody changed");
                seen = 0;
                stream.rewind();
            }
        }
        pause(LOOK_AGAIN_AFTER);
    }
    let cwd = must(std::env::current_dir(), "asking for the working directory");
    assert_eq!(cwd, here, "the working directory");
}

#[track_caller]
fn same(found: &[u8], wanted: &[u8], what: &str) {
    if let Some(difference) = bytes_differ(found, wanted) {
        panic!("{what} shows something else: {difference}");
    }
}
