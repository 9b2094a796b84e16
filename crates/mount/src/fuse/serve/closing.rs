//! How long a `close(2)` waits for what others have written.
//!
//! A started program closes what it inherits, and the kernel tells every close alike. On the way from `fork(2)` to the
//! program it does so inside `execve(2)`, where whoever reads the command lines of all processes waits with it: `ps` would
//! hang because a line is cut. Its own writes are what a process is promised when it closes, so the writes of others are
//! waited for with little patience.

use std::time::Duration;

use vfs::file::ThreadId;

/// How long a close waits for the writes of other processes: long enough for a link that is up, and hardly noticed when a
/// program is started while it is down.
const OTHERS_WAIT_MAX: Duration = Duration::from_millis(200);

/// How long `closer` waits for the writes of `writers`; without end where one of them may be of its own process.
pub(super) fn patience(closer: ThreadId, writers: &[ThreadId]) -> Option<Duration> {
    patience_of(closer, writers, process_of)
}

fn patience_of(
    closer: ThreadId,
    writers: &[ThreadId],
    process_of: impl Fn(ThreadId) -> Option<u32>,
) -> Option<Duration> {
    if writers.is_empty() || closer == ThreadId::UNKNOWN || writers.contains(&closer) {
        return None;
    }
    let closing = process_of(closer)?;
    let mut last = None;
    for &writer in writers {
        // Writes of one thread come in a row.
        if last == Some(writer) {
            continue;
        }
        // A thread that is gone may have been one of this process.
        if writer == ThreadId::UNKNOWN || process_of(writer)? == closing {
            return None;
        }
        last = Some(writer);
    }
    Some(OTHERS_WAIT_MAX)
}

/// The process of a thread, from `proc_pid_status(5)`. None of what is read there waits for the process.
#[cfg(target_os = "linux")]
fn process_of(thread: ThreadId) -> Option<u32> {
    use rustix::path::DecInt;
    use std::io::Read;
    /// The line looked for is the fourth.
    const STATUS_BYTES_MAX: usize = 512;
    let path = std::path::Path::new("/proc").join(DecInt::new(thread.0)).join("status");
    let mut status = Vec::with_capacity(STATUS_BYTES_MAX);
    std::fs::File::open(path).ok()?.take(STATUS_BYTES_MAX as u64).read_to_end(&mut status).ok()?;
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
    str::from_utf8(line).ok()?.trim().parse().ok()
}

/// Requests name processes there.
#[cfg(not(target_os = "linux"))]
fn process_of(process: ThreadId) -> Option<u32> {
    Some(process.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads 10 to 19 are of process 10, and so on; 90 and above are gone.
    fn decade(thread: ThreadId) -> Option<u32> {
        (thread.0 < 90).then_some(thread.0 / 10 * 10)
    }

    #[test]
    fn only_the_writes_of_others_are_waited_for_with_little_patience() {
        let patience = |closer, writers: &[u32]| {
            let writers: Vec<ThreadId> = writers.iter().copied().map(ThreadId).collect();
            patience_of(ThreadId(closer), &writers, decade)
        };
        assert_eq!(patience(20, &[]), None);
        assert_eq!(patience(20, &[10, 10, 31]), Some(OTHERS_WAIT_MAX));
        assert_eq!(patience(20, &[10, 20]), None, "its own");
        assert_eq!(patience(20, &[10, 21]), None, "its process's own");
        assert_eq!(patience(20, &[10, 95]), None, "of a thread that is gone");
        assert_eq!(patience(20, &[10, 0]), None, "of nobody knows whom");
        assert_eq!(patience(0, &[10]), None, "nobody knows whose");
        assert_eq!(patience(95, &[10]), None, "of a process that is gone");
    }

    #[test]
    fn a_thread_is_of_its_process() {
        let own = std::process::id();
        let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        assert_eq!(process_of(ThreadId(thread)), Some(own));
        assert_eq!(process_of(ThreadId(u32::MAX)), None);
    }
}
