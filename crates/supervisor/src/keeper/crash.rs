//! What a worker leaves behind when it dies: its last words, and a report.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::LOG;
use crate::process::Exit;

/// When a log is put aside before the next worker writes to it. One older one is kept.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// How much of its log is in the report of a worker's death: a panic with its backtrace, and what led to it.
const REPORT_BYTES_MAX: u64 = 64 << 10;

/// Reports that are kept.
const REPORTS_MAX: u32 = 8;

/// How the last words of a worker are cut: a panic's message and its place.
const LAST_WORDS_BYTES_MAX: usize = 2 << 10;

/// Opens the log for the next worker. Returns also where its own part begins.
pub(super) fn open_log(directory: &Path) -> io::Result<(File, u64)> {
    let path = directory.join(LOG);
    if std::fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        std::fs::rename(&path, directory.join(format!("{LOG}.1")))?;
    }
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
    let begins = log.metadata()?.len();
    Ok((log, begins))
}

/// A worker's death.
#[derive(Debug)]
pub(super) struct Report {
    /// Counted from 1 for each mount.
    pub(super) number: u32,
    pub(super) pid: u32,
    pub(super) exit: Exit,
    pub(super) lived: Duration,
    /// The end of what it said, taken when it died: its successor writes to the same file.
    pub(super) log: String,
}

impl Report {
    /// How and why it died, in one line.
    pub(super) fn reason(&self) -> String {
        let exit = self.exit;
        match last_complaint(&self.log) {
            Some(words) => {
                let words: String = words.chars().take(LAST_WORDS_BYTES_MAX / 4).collect();
                format!("its worker ended with {exit}: {}", words.replace(char::is_control, " "))
            }
            None => format!("its worker ended with {exit}"),
        }
    }

    /// Writes `crash-N.txt`, and removes the oldest beyond the limit.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let path = |number: u32| -> PathBuf { directory.join(format!("crash-{number}.txt")) };
        if let Some(old) = self.number.checked_sub(REPORTS_MAX)
            && let Err(error) = std::fs::remove_file(path(old))
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (pid, exit, lived) = (self.pid, self.exit, self.lived.as_secs_f32());
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path(self.number))?;
        write!(file, "worker {pid} ended with {exit} after {lived:.3} s, at {now} s since 1970\n\n")?;
        file.write_all(self.log.as_bytes())
    }
}

/// The end of what a worker has logged that began to at `begins`. It may have put the log aside in between, and then the
/// whole file is its own.
pub(super) fn own_part(directory: &Path, begins: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut log = File::open(directory.join(LOG))?;
        let length = log.metadata()?.len();
        let begins = if begins > length { 0 } else { begins };
        log.seek(SeekFrom::Start(begins.max(length.saturating_sub(REPORT_BYTES_MAX))))?;
        let mut bytes = Vec::new();
        log.take(REPORT_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The last line of a log that is a complaint: a panic, else an error of the log, else what is not of the log at all.
/// The lines of a backtrace, which follow a panic, are indented.
pub fn last_complaint(log: &str) -> Option<&str> {
    let complaint = |line: &&str| {
        let mut words = line.split_ascii_whitespace();
        let is_dated = words.next().is_some_and(|word| word.ends_with('Z') && word.contains('T'));
        let is_note = line.is_empty() || line.starts_with(' ') || line.starts_with("note: ");
        !is_note && (!is_dated || words.next() == Some("ERROR"))
    };
    let mut lines = log.lines().map(str::trim_end);
    let panic = |line: &&str| line.contains(" panicked at ") && !line.starts_with(' ');
    lines.clone().rfind(panic).or_else(|| lines.rfind(complaint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_last_words_are_what_it_complained_of() {
        let info = "2026-11-21T10:20:20.421662Z  INFO mount: the kernel agreed";
        let error = "2026-11-21T10:20:20.421662Z ERROR mount: no runtime";
        let panic = "stead: thread `main` panicked at x.rs:1: oh";
        let cases = [
            (vec![], None),
            (vec![info], None),
            (vec![error, info], Some(error)),
            (vec![error, panic, info, "", "note: run with `RUST_BACKTRACE=1`"], Some(panic)),
            (vec![panic, "   0: core::panicking", "             at x.rs:1", error], Some(panic)),
        ];
        for (lines, expected) in cases {
            assert_eq!(last_complaint(&lines.join("\n")), expected, "{lines:?}");
        }
    }

    #[test]
    fn reports_hold_what_the_worker_itself_said_and_are_few() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join(LOG), "earlier\nlater\n").unwrap();
        let log = own_part(scratch.path(), 8);
        std::fs::write(scratch.path().join(LOG), "earlier\nlater\na successor\n").unwrap();
        let report = |number| {
            let log = log.clone();
            Report { number, pid: 7, exit: Exit::Signal(9), lived: Duration::ZERO, log }
        };
        assert_eq!(report(1).reason(), "its worker ended with signal 9: later");
        for number in 1..=REPORTS_MAX + 3 {
            report(number).write(scratch.path()).unwrap();
        }
        let text = std::fs::read_to_string(scratch.path().join("crash-11.txt")).unwrap();
        assert!(text.starts_with("worker 7 ended with signal 9") && text.ends_with("\n\nlater\n"), "{text}");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), REPORTS_MAX as usize + 1);
    }

    #[test]
    fn last_words_are_found_in_a_log_that_the_worker_has_put_aside() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join(LOG), "later\n").unwrap();
        assert_eq!(own_part(scratch.path(), 1 << 20), "later\n");
    }

    #[test]
    fn a_long_log_is_put_aside() {
        let scratch = tempfile::tempdir().unwrap();
        let (log, begins) = open_log(scratch.path()).unwrap();
        assert_eq!(begins, 0);
        log.set_len(LOG_BYTES_MAX + 1).unwrap();
        assert_eq!(open_log(scratch.path()).unwrap().1, 0);
        assert!(scratch.path().join(format!("{LOG}.1")).exists());
    }
}
