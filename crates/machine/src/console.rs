//! What a guest says on its console, and what its VMM says: a log with a limit.
//!
//! A guest may say whatever it likes for as long as it likes. What it says goes through a pipe to a process of its own, this
//! program in the part [`PART`], which keeps the last [`CONSOLE_BYTES_MAX`] of it, twice. It ends with the VMM, and needs
//! no daemon.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use supervisor::log::RotatingFile;

/// What makes this program write a console's log: it is followed by the log's path.
pub const PART: &str = "console";

/// The length at which a console's log is put aside. One that was put aside is kept.
pub const CONSOLE_BYTES_MAX: u64 = 1 << 20;

/// What is read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Writes standard input to the log that the one argument names, until its end.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(path) = arguments.next().map(PathBuf::from) else {
        eprintln!("error: a console's log is written for a vm");
        return ExitCode::from(2);
    };
    match write(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: `{}`: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn write(path: &Path) -> std::io::Result<()> {
    let log = RotatingFile::open(path, CONSOLE_BYTES_MAX)?;
    let (mut log, mut input) = (&log, std::io::stdin().lock());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match input.read(&mut chunk)? {
            0 => return Ok(()),
            // A disk that is full must not stop the guest.
            read => drop(log.write_all(&chunk[..read])),
        }
    }
}

/// The end of what a guest has said, at most that long.
pub fn tail(path: &Path, bytes: u64) -> std::io::Result<Vec<u8>> {
    use std::io::{Seek, SeekFrom};
    let mut said = Vec::new();
    let mut aside = OsString::from(path);
    aside.push(".1");
    for (path, needed) in [(PathBuf::from(aside), false), (path.to_owned(), true)] {
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !needed => continue,
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        file.take(bytes).read_to_end(&mut said)?;
    }
    let surplus = said.len().saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
    Ok(said.split_off(surplus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_was_said_spans_both_logs() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("console.log");
        std::fs::write(scratch.path().join("console.log.1"), "first ").unwrap();
        std::fs::write(&path, "second").unwrap();
        assert_eq!(tail(&path, 100).unwrap(), b"first second");
        assert_eq!(tail(&path, 8).unwrap(), b"t second");
        assert!(tail(&scratch.path().join("none"), 8).is_err());
    }
}
