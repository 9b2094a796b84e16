//! A few figures of a mount, in about a second.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Instant;

use crate::error::{Error, Result};

/// How much is written and read from front to back.
pub const STREAM_BYTES: usize = 32 << 20;

/// How many files are created and looked at.
const FILES: usize = 300;

/// The content of each.
const FILE_BYTES: usize = 4096;

/// What was found, all of it a second.
pub struct Measured {
    /// Bytes written, until all of it is on the machine's disk.
    pub write_rate: f64,
    /// Bytes read back.
    pub read_rate: f64,
    /// Files created, written and closed.
    pub creates: f64,
    /// Files looked at for the second time.
    pub stats: f64,
}

/// Measures in the directory, and leaves it as it was.
pub fn measure(directory: &Path) -> Result<Measured> {
    try_measure(directory).map_err(|error| Error::io("could not measure", &error))
}

fn try_measure(directory: &Path) -> io::Result<Measured> {
    let stream = directory.join("stream");
    let chunk = vec![0x5a; 1 << 20];
    let start = Instant::now();
    let mut file = File::create(&stream)?;
    for _ in 0..STREAM_BYTES / chunk.len() {
        file.write_all(&chunk)?;
    }
    file.sync_all()?;
    let write_rate = STREAM_BYTES as f64 / start.elapsed().as_secs_f64();
    drop(file);

    let start = Instant::now();
    let mut read = 0;
    let mut file = File::open(&stream)?;
    let mut buffer = chunk;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => read += count,
        }
    }
    let read_rate = read as f64 / start.elapsed().as_secs_f64();
    fs::remove_file(&stream)?;

    let many = directory.join("many");
    fs::create_dir(&many)?;
    let content = [0x5a; FILE_BYTES];
    let names: Vec<_> = (0..FILES).map(|index| many.join(index.to_string())).collect();
    let start = Instant::now();
    names.iter().try_for_each(|name| fs::write(name, content))?;
    let creates = FILES as f64 / start.elapsed().as_secs_f64();
    names.iter().try_for_each(|name| fs::metadata(name).map(drop))?;
    let start = Instant::now();
    names.iter().try_for_each(|name| fs::metadata(name).map(drop))?;
    let stats = FILES as f64 / start.elapsed().as_secs_f64();
    fs::remove_dir_all(&many)?;
    Ok(Measured { write_rate, read_rate, creates, stats })
}
