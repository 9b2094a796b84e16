//! Logs of processes that run for months: files that are rotated by size, by the process that writes them.
//!
//! A full log `NAME` is renamed to `NAME.1`, and the one that had that name is dropped. Standard error of the process, if
//! it goes to the log, follows into the new file, and with it what a panic or a library says there. A log that was
//! removed, or put aside by another process that writes to it, is taken for what it is: the line goes to what has the
//! name now.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// A log that is put aside when the next line would take it beyond its limit. Together with the one before it, it
/// occupies twice that, and a line. Of several threads, each writes whole lines.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    bytes_max: u64,
    file: Mutex<File>,
}

impl RotatingFile {
    /// Opens or creates the file, private to this user, and goes on at its end.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<RotatingFile> {
        Ok(RotatingFile { path: path.to_owned(), bytes_max, file: Mutex::new(open_end(path)?) })
    }

    /// The file that standard error goes to; `None` when that is none, or one that has no name any more.
    pub fn of_stderr(bytes_max: u64) -> io::Result<Option<RotatingFile>> {
        let stderr = stderr()?;
        let stderr_metadata = stderr.metadata()?;
        if !stderr_metadata.is_file() {
            return Ok(None);
        }
        let path = crate::system::path_of_stderr()?;
        match is_at(&stderr_metadata, &path)? {
            true => Ok(Some(RotatingFile::open(&path, bytes_max)?)),
            false => Ok(None),
        }
    }

    /// Sees to it that there is room before each panic's message, so that a process that survives its panics has a limit
    /// for them too. Once for a process.
    pub fn bound_panics(self: &Arc<RotatingFile>) {
        let log = Arc::clone(self);
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Who panics may be writing: then there has just been room.
            let file = match log.file.try_lock() {
                Ok(file) => Some(file),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(Err(error)) = file.map(|mut file| log.make_room(&mut file, 0)) {
                // A panic about standard error would end the process here.
                let _untold = writeln!(io::stderr(), "no room in `{}`: {error}", log.path.display());
            }
            tell(panic);
        }));
    }

    fn append(&self, line: &[u8]) -> io::Result<()> {
        // Whoever panicked with the lock left the file open, and that is all there is to it.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        self.make_room(&mut file, line.len() as u64)?;
        file.write_all(line)
    }

    /// Turns to a new file if `bytes` more do not fit into this one. A file that cannot be put aside is emptied: a log
    /// that keeps to its limit is worth more than its past.
    fn make_room(&self, file: &mut File, bytes: u64) -> io::Result<()> {
        // Asked each time, since what goes to standard error is not counted by anybody.
        let written = file.metadata()?.len();
        if written == 0 || written.saturating_add(bytes) <= self.bytes_max {
            return Ok(());
        }
        match self.turn(file) {
            Ok(next) => *file = next,
            Err(error) => {
                file.set_len(0)?;
                let path = self.path.display();
                writeln!(file, "`{path}` could not be put aside, and was emptied: {error}")?;
            }
        }
        Ok(())
    }

    fn turn(&self, full: &File) -> io::Result<File> {
        let full = full.metadata()?;
        if is_at(&full, &self.path)? {
            std::fs::rename(&self.path, aside(&self.path))?;
        }
        let next = open_end(&self.path)?;
        if is_same(&stderr()?.metadata()?, &full) {
            rustix::stdio::dup2_stderr(&next)?;
        }
        Ok(next)
    }
}

/// One line at a time: whoever writes hands over whole lines.
impl Write for &RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.append(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Removes a log and the one before it. Neither has to be there.
pub fn remove(path: &Path) -> io::Result<()> {
    for path in [path, &aside(path)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn aside(path: &Path) -> PathBuf {
    let mut aside = OsString::from(path);
    aside.push(".1");
    PathBuf::from(aside)
}

fn open_end(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    // It may have been made by somebody whose umask decided.
    if file.metadata()?.mode() & 0o7777 != 0o600 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

fn stderr() -> io::Result<File> {
    Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?))
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn is_at(file: &Metadata, path: &Path) -> io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(is_same(file, &found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    fn write(log: &RotatingFile, line: &str) {
        let mut log = log;
        log.write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_one_before_it_is_dropped() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let log = RotatingFile::open(&path, 10).unwrap();
        ["one 56\n", "two 56\n", "three\n", "x\n"].iter().for_each(|line| write(&log, line));
        assert_eq!(text(&path), "three\nx\n");
        assert_eq!(text(&aside(&path)), "two 56\n");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 2);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_there_is_continued_counted_and_narrowed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        std::fs::write(&path, "12345678\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let log = RotatingFile::open(&path, 10).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        write(&log, "next\n");
        assert_eq!(text(&path), "next\n");
    }

    #[test]
    fn a_line_longer_than_the_limit_is_still_written() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let log = RotatingFile::open(&path, 4).unwrap();
        write(&log, "a long line\n");
        assert_eq!(text(&path), "a long line\n");
    }

    #[test]
    fn what_others_write_to_the_file_counts() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let log = RotatingFile::open(&path, 10).unwrap();
        open_end(&path).unwrap().write_all(b"a panic\n").unwrap();
        write(&log, "next\n");
        assert_eq!((text(&path), text(&aside(&path))), ("next\n".into(), "a panic\n".into()));
    }

    #[test]
    fn of_two_processes_that_write_to_one_log_one_puts_it_aside_and_both_go_on() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let (one, other) = (RotatingFile::open(&path, 10).unwrap(), RotatingFile::open(&path, 10).unwrap());
        ["one 56\n", "two\n"].iter().for_each(|line| write(&one, line));
        write(&other, "other\n");
        write(&one, "x\n");
        assert_eq!((text(&path), text(&aside(&path))), ("x\n".into(), "two\nother\n".into()));
    }

    #[test]
    fn a_log_that_was_removed_begins_again() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let log = RotatingFile::open(&path, 10).unwrap();
        write(&log, "one 56\n");
        remove(&path).unwrap();
        write(&log, "two 56\n");
        assert_eq!(text(&path), "two 56\n");
        assert!(!aside(&path).exists());
    }

    #[test]
    fn a_log_that_cannot_be_put_aside_is_emptied() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let log = RotatingFile::open(&path, 10).unwrap();
        std::fs::create_dir_all(aside(&path).join("in the way")).unwrap();
        write(&log, "one 56\n");
        write(&log, "two 56\n");
        let text = text(&path);
        assert!(text.contains("could not be put aside") && text.ends_with("two 56\n"), "{text}");
        assert!(!text.contains("one 56"), "{text}");
    }
}
