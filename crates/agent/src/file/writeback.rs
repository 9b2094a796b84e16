//! Long files are brought to the disk while they are written.
//!
//! A system keeps what is written in memory for half a minute, or until somebody asks for it to be on the disk. Who copies a
//! long file asks at its end, and would wait there for all of it. So where a file is written from one place on, the
//! system is told to begin with what lies behind the writer. Nothing waits for that, and nothing is promised by it: what the disk has
//! not done yet is left to whoever asks, who also hears of every failure.

use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;

use crate::session::reopen;

/// How far writes of one file may have overtaken each other: what a client has under way. The system is told of what lies this far
/// behind the writer.
const UNORDERED_BYTES_MAX: u64 = 32 << 20;

/// So much lies there before the system is told anything. Much of what is shorter is gone again before the system would write it.
const LONG_BYTES: u64 = 32 << 20;

/// How much it is told to begin with at once: the disk is busy with it for a moment.
const PART_BYTES: u64 = 16 << 20;

/// Where an open file is written, one piece behind the other.
#[derive(Debug, Default)]
pub(crate) struct Run {
    start: u64,
    /// The end of the last piece.
    end: u64,
    /// The system has been told of what is before this.
    told: u64,
    /// The system is being told, which takes as long as the disk has no room for more.
    is_busy: Arc<AtomicBool>,
}

/// What the system is to begin with.
pub(crate) struct Part {
    file: OwnedFd,
    range: Range<u64>,
    is_busy: Arc<AtomicBool>,
}

impl Run {
    /// So many bytes were written there. Gives what the disk is to begin with, if it is worth that and not busy with the last.
    fn grow(&mut self, offset: u64, bytes: u64) -> Option<Range<u64>> {
        if offset < self.told || offset > self.end.saturating_add(UNORDERED_BYTES_MAX) {
            (self.start, self.end, self.told) = (offset, offset, offset);
        }
        self.end = self.end.max(offset.saturating_add(bytes));
        let behind = self.end.saturating_sub(UNORDERED_BYTES_MAX);
        let is_long = behind.saturating_sub(self.start) >= LONG_BYTES;
        let is_due = behind.saturating_sub(self.told) >= PART_BYTES;
        if !is_long || !is_due || self.is_busy.load(Ordering::Acquire) {
            return None;
        }
        let part = self.told..behind;
        self.told = behind;
        Some(part)
    }

    /// So many bytes were written to the file there. To be called in the order of the writes.
    pub fn wrote(&mut self, file: &OwnedFd, offset: u64, bytes: u64) -> Option<Part> {
        let range = self.grow(offset, bytes)?;
        // Whoever closes the file meanwhile hears of that, lets go of his locks and may execute it: this is another opening, and
        // not for writing, which ends a moment later. What may not be read is left to the system.
        let file = reopen(file, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        self.is_busy.store(true, Ordering::Release);
        Some(Part { file, range, is_busy: self.is_busy.clone() })
    }
}

impl Part {
    /// Tells the system. Waits while the disk has no room for more.
    pub fn begin(self) {
        let Range { start, end } = self.range;
        let (Ok(offset), Ok(bytes)) = (start.try_into(), (end - start).try_into()) else { return };
        // SAFETY: the call takes a descriptor, which is open, and numbers. A failure is left to whoever asks for the content to
        // be on the disk.
        let _ = unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE)
        };
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.is_busy.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: u64 = 1 << 20;

    /// Writes on from `offset`, and gives what the system is told of, from where to where.
    fn write(run: &mut Run, offset: u64, bytes: u64) -> Vec<(u64, u64)> {
        (offset..offset + bytes).step_by(WRITE as usize).filter_map(|at| one(run, at)).collect()
    }

    fn one(run: &mut Run, at: u64) -> Option<(u64, u64)> {
        run.grow(at, WRITE).map(|part| (part.start, part.end))
    }

    /// What has to be written before the system is told for the first time.
    const FIRST: u64 = LONG_BYTES + UNORDERED_BYTES_MAX;

    #[test]
    fn a_long_file_is_begun_with_part_by_part() {
        let mut run = Run::default();
        assert_eq!(write(&mut run, 0, FIRST - WRITE), []);
        assert_eq!(write(&mut run, FIRST - WRITE, WRITE), [(0, LONG_BYTES)]);
        let [second, third] = [LONG_BYTES + PART_BYTES, LONG_BYTES + 2 * PART_BYTES];
        assert_eq!(write(&mut run, FIRST, 2 * PART_BYTES), [(LONG_BYTES, second), (second, third)]);
    }

    #[test]
    fn writes_that_overtake_each_other_are_of_one_file() {
        let mut run = Run::default();
        let mut parts = Vec::new();
        for pair in (0..FIRST).step_by(2 * WRITE as usize) {
            parts.extend(one(&mut run, pair + WRITE));
            parts.extend(one(&mut run, pair));
        }
        assert_eq!(parts, [(0, LONG_BYTES)]);
    }

    #[test]
    fn what_is_written_here_and_there_is_left_to_the_system() {
        let mut run = Run::default();
        for round in 0..1000 {
            assert_eq!(run.grow(round * 2 * UNORDERED_BYTES_MAX, WRITE), None);
            assert_eq!(run.grow(round * WRITE % LONG_BYTES, WRITE), None);
        }
        // One that goes on from there is a run of its own.
        let start = 1 << 50;
        assert_eq!(write(&mut run, start, FIRST), [(start, start + LONG_BYTES)]);
    }

    #[test]
    fn a_disk_that_is_busy_is_told_later_and_of_all() {
        let file = tempfile::tempfile().unwrap().into();
        let mut run = Run::default();
        let first = run.wrote(&file, 0, FIRST).unwrap();
        assert_eq!(write(&mut run, FIRST, 3 * PART_BYTES), []);
        first.begin();
        let next = run.wrote(&file, FIRST + 3 * PART_BYTES, WRITE).unwrap();
        assert_eq!(next.range, LONG_BYTES..LONG_BYTES + 3 * PART_BYTES + WRITE);
    }
}
