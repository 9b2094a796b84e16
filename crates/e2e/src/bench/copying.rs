//! What a big copy costs others: how long something small takes meanwhile.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Size;
use super::contender::Contender;
use super::rows::{make_once, noise, write_big};
use crate::eventually;

/// Names that are looked at. Each is in a directory of its own that nobody has listed, so each costs a round trip.
const PROBES: usize = 200;

/// The copy is under way for so much before the first is looked at.
const COPIED_BYTES_MIN: u64 = 16 << 20;

/// What is read: more than any link brings while all are looked at.
const BIG_BYTES: u64 = 2 << 30;

/// No copy takes this long to come under way.
const COPY_DEADLINE: Duration = Duration::from_secs(120);

/// Puts in place what is looked at.
pub fn make_probes(contender: &mut Contender, _: &Size) {
    make_once(&contender.far.join("probes"), |root| {
        for number in 0..PROBES {
            std::fs::create_dir_all(probe(root, number)).expect("creating a directory to look into");
        }
    });
}

/// The same, and what is read meanwhile.
pub fn make_probes_and_big(contender: &mut Contender, size: &Size) {
    make_probes(contender, size);
    make_once(&contender.far.join("huge"), |path| write_big(path, BIG_BYTES));
}

/// The 99th percentile of looking at a name while a file is being written, in milliseconds.
pub fn stat_during_write(contender: &Contender, _: &Size) -> f64 {
    let path = contender.dir.join("copied");
    let figure = beside(contender, |is_over, copied| {
        let piece = noise();
        let mut file = File::create(&path).expect("creating the copy");
        while !is_over.load(Ordering::Relaxed) {
            if copied.load(Ordering::Relaxed) % BIG_BYTES == 0 {
                file.rewind().expect("going back to the beginning of the copy");
            }
            file.write_all(&piece).expect("writing the copy");
            copied.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    });
    std::fs::remove_file(path).expect("removing the copy");
    figure
}

/// The same while one is being read.
pub fn stat_during_read(contender: &Contender, _: &Size) -> f64 {
    let path = contender.dir.join("huge");
    beside(contender, |is_over, copied| {
        let mut piece = noise();
        let mut file = File::open(&path).expect("opening the huge file");
        while !is_over.load(Ordering::Relaxed) {
            let count = file.read(&mut piece).expect("reading the huge file");
            assert!(count > 0, "the huge file ends before all has been looked at");
            copied.fetch_add(count as u64, Ordering::Relaxed);
        }
    })
}

fn probe(root: &Path, number: usize) -> std::path::PathBuf {
    root.join(format!("d{number:04}"))
}

/// Looks at names beside a copy, which is told when it is over and tells how far it has come.
fn beside(contender: &Contender, copy: impl FnOnce(&AtomicBool, &AtomicU64) + Send) -> f64 {
    let root = contender.dir.join("probes");
    // The directories themselves are known; nothing in them is.
    for number in 0..PROBES {
        probe(&root, number).symlink_metadata().expect("looking at a directory");
    }
    let (is_over, copied) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut times = std::thread::scope(|scope| {
        let (over, bytes) = (&is_over, &copied);
        let copying = scope.spawn(move || copy(over, bytes));
        eventually(COPY_DEADLINE, "the copy is under way", || {
            copied.load(Ordering::Relaxed) >= COPIED_BYTES_MIN
        });
        let before = copied.load(Ordering::Relaxed);
        let start = Instant::now();
        let times: Vec<_> = (0..PROBES).map(|number| look(&probe(&root, number))).collect();
        let rate = (copied.load(Ordering::Relaxed) - before) as f64 / 1e6 / start.elapsed().as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        copying.join().expect("the copy");
        eprintln!("  beside a copy of {rate:.1} MB/s");
        times
    });
    times.sort_unstable();
    eprintln!("  p50 {:?}, p90 {:?}", times[PROBES / 2], times[PROBES * 9 / 10]);
    times[PROBES * 99 / 100].as_secs_f64() * 1e3
}

fn look(directory: &Path) -> Duration {
    let start = Instant::now();
    let found = directory.join("absent").symlink_metadata();
    assert!(found.is_err(), "there is nothing in {}", directory.display());
    start.elapsed()
}
