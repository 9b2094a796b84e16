//! How far a copy is, and the line that shows it.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::client::news::News;
use crate::output::CLEAR_LINE;
use crate::output::text::bytes;

/// How often the line is drawn: smooth to look at, and no work worth mentioning.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// The width of the bar in characters.
const BAR_CHARS: u64 = 24;

/// Counted by all threads of a copy.
#[derive(Debug, Default)]
pub struct Progress {
    files_done: AtomicU64,
    directories_done: AtomicU64,
    links_done: AtomicU64,
    bytes_found: AtomicU64,
    bytes_done: AtomicU64,
    bytes_resumed: AtomicU64,
}

impl Progress {
    /// A file of this size will be copied.
    pub fn file_found(&self, size: u64) {
        self.bytes_found.fetch_add(size, Ordering::Relaxed);
    }

    /// A file is complete.
    pub fn file_done(&self) {
        self.files_done.fetch_add(1, Ordering::Relaxed);
    }

    /// A directory is there.
    pub fn directory_done(&self) {
        self.directories_done.fetch_add(1, Ordering::Relaxed);
    }

    /// A link is there.
    pub fn link_done(&self) {
        self.links_done.fetch_add(1, Ordering::Relaxed);
    }

    /// So much more content is there.
    pub fn bytes_copied(&self, count: u64) {
        self.bytes_done.fetch_add(count, Ordering::Relaxed);
    }

    /// So much content was there from an earlier copy.
    pub fn bytes_kept(&self, count: u64) {
        self.bytes_done.fetch_add(count, Ordering::Relaxed);
        self.bytes_resumed.fetch_add(count, Ordering::Relaxed);
    }

    /// How many files are complete.
    pub fn files_done(&self) -> u64 {
        self.files_done.load(Ordering::Relaxed)
    }

    /// How many directories are there.
    pub fn directories_done(&self) -> u64 {
        self.directories_done.load(Ordering::Relaxed)
    }

    /// How many links are there.
    pub fn links_done(&self) -> u64 {
        self.links_done.load(Ordering::Relaxed)
    }

    /// How much content is there.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    /// How much of it was there before.
    pub fn bytes_resumed(&self) -> u64 {
        self.bytes_resumed.load(Ordering::Relaxed)
    }

    fn line(&self, elapsed: Duration) -> String {
        let (done, found) =
            (self.bytes_done(), self.bytes_found.load(Ordering::Relaxed).max(self.bytes_done()));
        let share = |of: u64| match found {
            0 => 0,
            found => u64::try_from(u128::from(done) * u128::from(of) / u128::from(found)).unwrap_or(of),
        };
        let filled = share(BAR_CHARS);
        let bar: String = (0..BAR_CHARS).map(|at| if at < filled { '#' } else { '.' }).collect();
        let fresh = done.saturating_sub(self.bytes_resumed());
        let rate = (fresh as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
        let files = crate::output::text::counted(self.files_done(), "file");
        format!("[{bar}] {:3}%  {} of {}  {}/s  {files}", share(100), bytes(done), bytes(found), bytes(rate))
    }
}

/// Draws until what is returned is dropped, then leaves the line empty. What `news` there is stays above the line.
pub fn draw_in<'scope>(
    scope: &'scope Scope<'scope, '_>,
    progress: &'scope Progress,
    mut news: Option<News>,
) -> Sender<()> {
    let (stop, stopped) = channel();
    scope.spawn(move || {
        let start = Instant::now();
        let mut drawn = false;
        while stopped.recv_timeout(DRAW_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            for line in news.iter_mut().flat_map(News::take) {
                draw(&format!("{CLEAR_LINE}{line}\n"));
            }
            draw(&format!("{CLEAR_LINE}{}", progress.line(start.elapsed())));
            drawn = true;
        }
        if drawn {
            draw(CLEAR_LINE);
        }
    });
    stop
}

fn draw(text: &str) {
    // A line that is not seen is missed by nobody.
    let _unseen = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_it_is_and_how_fast() {
        let progress = Progress::default();
        progress.file_found(4 << 20);
        progress.bytes_kept(1 << 20);
        progress.bytes_copied(2 << 20);
        let line = progress.line(Duration::from_secs(2));
        assert_eq!(line, "[##################......]  75%  3.0 MiB of 4.0 MiB  1.0 MiB/s  0 files");
    }

    #[test]
    fn a_file_that_grew_is_not_more_than_all_of_it() {
        let progress = Progress::default();
        progress.file_found(1);
        progress.bytes_copied(10);
        assert!(progress.line(Duration::ZERO).contains("100%  10 B of 10 B"));
    }
}
