//! A process that dies, or power that goes, within the last record.

use std::cell::Cell;

use proptest::prelude::prop_assert_eq;
use proptest::test_runner::TestRunner;

use super::model::{Model, config, steps};
use super::*;

/// The state of a thread on disk beside it, with the log to any byte. The plain files are those that are there: none of them goes
/// before the record is durable that says so.
struct Wreck {
    directory: std::path::PathBuf,
}

impl Wreck {
    fn beside(thread: &Thread) -> Wreck {
        let directory = thread.directory().with_extension("wreck");
        let files = directory.join(FILES);
        make_directory(&files).expect("made");
        make_directory(&directory.join(NEW)).expect("made");
        for entry in std::fs::read_dir(thread.directory().join(FILES)).expect("listed") {
            let entry = entry.expect("listed");
            std::fs::hard_link(entry.path(), files.join(entry.file_name())).expect("linked");
        }
        Wreck { directory }
    }

    fn open(&self, bench: &Bench, log: &[u8]) -> Thread {
        std::fs::write(self.directory.join(NAMES), log).expect("written");
        Thread::open(&self.directory, bench.objects.clone(), bench.blobs.clone()).expect("opened")
    }
}

fn log_of(thread: &Thread) -> Vec<u8> {
    std::fs::read(thread.directory().join(NAMES)).expect("read")
}

/// Where the record ends that begins here.
fn end_of_record(log: &[u8], start: usize) -> usize {
    let length = log[start..].first_chunk().expect("a frame");
    start + 8 + u32::from_le_bytes(*length) as usize
}

#[test]
fn a_log_that_is_cut_at_any_byte_of_its_last_operation_is_what_was_before_it() {
    let bench = Bench::new();
    let number = Cell::new(0);
    let mut runner = TestRunner::new(config(16));
    let run = runner.run(&(steps(24), steps(2)), |(before, last)| {
        number.set(number.get() + 1);
        let mut thread = bench.begin(&format!("thread-{}", number.get()));
        let mut model = Model::of(&thread);
        for step in &before {
            thread = model.step(&bench, thread, step);
        }
        // Whoever has seen all of it has looked into every directory: what is appended then is the operation.
        let (seen_before, log_before) = (seen(&thread), log_of(&thread));
        for step in &last {
            thread = model.step(&bench, thread, step);
        }
        let log = log_of(&thread);
        if log.len() == log_before.len() || !log.starts_with(&log_before) {
            return Ok(());
        }
        let wreck = Wreck::beside(&thread);
        let (seen_after, is_true) = (seen(&thread), end_of_record(&log, log_before.len()));
        for cut in log_before.len()..=log.len() {
            let expected = if cut < is_true { &seen_before } else { &seen_after };
            prop_assert_eq!(
                &seen(&wreck.open(&bench, &log[..cut])),
                expected,
                "cut at {} of {}",
                cut,
                log.len()
            );
        }
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}
