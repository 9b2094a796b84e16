//! The daemon's log: a file that is rotated by size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// When a log file is put aside. One older file is kept, so that twice this is all a daemon's log occupies.
pub const LOG_BYTES_MAX: u64 = 4 << 20;

/// The environment variable with the filter, in the syntax of `tracing`'s `EnvFilter`.
pub const FILTER_VARIABLE: &str = "STEAD_LOG";

const FILTER_DEFAULT: &str = "info";

/// A file that is renamed to `NAME.1` when it has reached [`LOG_BYTES_MAX`].
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    limit: u64,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl RotatingFile {
    /// Opens or creates the file, private to this user, and goes on at its end.
    pub fn open(path: &Path) -> io::Result<RotatingFile> {
        RotatingFile::with_limit(path, LOG_BYTES_MAX)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<RotatingFile> {
        Ok(RotatingFile { path: path.to_owned(), limit, open: Mutex::new(open_end(path)?) })
    }

    fn append(&self, line: &[u8]) -> io::Result<usize> {
        // A panic while the lock was held left at worst a count that is off by a line.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.bytes > 0 && open.bytes + line.len() as u64 > self.limit {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            *open = open_end(&self.path)?;
        }
        open.file.write_all(line)?;
        open.bytes += line.len() as u64;
        Ok(line.len())
    }
}

fn open_end(path: &Path) -> io::Result<Open> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes })
}

/// One line at a time: `tracing` hands over whole lines.
#[derive(Debug)]
pub struct Lines<'a>(&'a RotatingFile);

impl Write for Lines<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.append(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for RotatingFile {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines(self)
    }
}

/// Where else the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// Nowhere.
    None,
    /// To standard error, for a daemon in the foreground.
    Stderr,
}

/// Sends this process's log to the file. A filter that cannot be read is told there and replaced by the default.
pub fn start(file: RotatingFile, echo: Echo) {
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let parsed = match wanted.as_str() {
        "" => Ok(EnvFilter::new(FILTER_DEFAULT)),
        text => EnvFilter::try_new(text),
    };
    let (filter, refused) = match parsed {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(FILTER_DEFAULT), Some(error)),
    };
    let to_file = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(file);
    let to_stderr = (echo == Echo::Stderr)
        .then(|| tracing_subscriber::fmt::layer().with_ansi(false).with_writer(io::stderr));
    // Fails when a test in the same process has set one already; its log is as good.
    let set = tracing_subscriber::registry().with(filter).with(to_file).with(to_stderr).try_init();
    if let Err(error) = set {
        tracing::debug!(%error, "the log was set up before");
    }
    if let Some(error) = refused {
        tracing::warn!(%error, "{FILTER_VARIABLE} cannot be read as a filter");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_the_one_before_it_is_dropped() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let file = RotatingFile::with_limit(&path, 10).unwrap();
        for line in ["one 56\n", "two 56\n", "three\n", "x\n"] {
            file.make_writer().write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\nx\n");
        assert_eq!(std::fs::read_to_string(scratch.path().join("log.1")).unwrap(), "two 56\n");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_is_there_is_continued_and_counted() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        std::fs::write(&path, "12345678\n").unwrap();
        let file = RotatingFile::with_limit(&path, 10).unwrap();
        file.make_writer().write_all(b"next\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "next\n");
    }

    #[test]
    fn a_line_longer_than_the_limit_is_still_written() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        let file = RotatingFile::with_limit(&path, 4).unwrap();
        file.make_writer().write_all(b"a long line\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a long line\n");
    }
}
