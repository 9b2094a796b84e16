//! One big file from its start to its end.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use super::{Contender, Kind, ROW_DEADLINE, Size, make_once, megabytes_per_second};
use crate::eventually;
use crate::faults::dice::Dice;

/// One read or write.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes that neither compress nor repeat.
pub fn noise() -> Vec<u8> {
    Dice::new(1).bytes(PIECE_BYTES)
}

/// A file of `bytes` that is on the disk when this returns.
pub fn write_big(path: &Path, bytes: u64) {
    let piece = noise();
    let mut file = File::create(path).expect("creating the big file");
    for _ in 0..bytes / PIECE_BYTES as u64 {
        file.write_all(&piece).expect("writing the big file");
    }
    file.sync_all().expect("syncing the big file");
}

pub fn prepare(contender: &mut Contender, size: &Size) {
    make_once(&contender.far.join("big"), |path| write_big(path, size.sequential_bytes));
}

pub fn write(contender: &Contender, size: &Size) -> f64 {
    let (path, there) = (contender.dir.join("written"), contender.far.join("written"));
    let start = Instant::now();
    match contender.kind {
        Kind::RawSsh => write_through_ssh(contender, &there, size),
        _ => write_big(&path, size.sequential_bytes),
    }
    let is_there = || there.metadata().is_ok_and(|is| is.len() == size.sequential_bytes);
    assert!(is_there() || contender.kind == Kind::Rclone, "fsync returned too early");
    eventually(ROW_DEADLINE, "the file is on the other side", is_there);
    let figure = megabytes_per_second(size.sequential_bytes, start);
    std::fs::remove_file(path).expect("removing the written file");
    figure
}

fn write_through_ssh(contender: &Contender, there: &Path, size: &Size) {
    // What the bytes are is all the same to ssh, which does not compress them here.
    let near = format!("head -c {} /dev/zero | \"$@\"", size.sequential_bytes);
    let far = format!("cat > {0} && sync {0}", there.display());
    contender.shell(&near, &far).deadline(ROW_DEADLINE).ok();
}

pub fn read(contender: &Contender, size: &Size) -> f64 {
    let start = Instant::now();
    if contender.kind == Kind::RawSsh {
        let far = format!("cat {}", contender.far.join("big").display());
        contender.shell("\"$@\" > /dev/null", &far).deadline(ROW_DEADLINE).ok();
        return megabytes_per_second(size.sequential_bytes, start);
    }
    let mut file = File::open(contender.dir.join("big")).expect("opening the big file");
    let mut piece = vec![0; PIECE_BYTES];
    let mut total = 0;
    loop {
        match file.read(&mut piece).expect("reading the big file") {
            0 => break,
            count => total += count as u64,
        }
    }
    let figure = megabytes_per_second(total, start);
    assert_eq!(total, size.sequential_bytes);
    figure
}
