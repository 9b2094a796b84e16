//! The workloads.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Size;
use super::contender::{Contender, Counters};
use crate::{Program, eventually};

/// The size of the files of a tree.
const FILE_BYTES: usize = 4096;

const FILES_PER_DIRECTORY: usize = 100;

/// One read or write of the sequential rows.
const PIECE_BYTES: usize = 1 << 20;

/// A row may take this long at a distance for a peer that walks.
const ROW_DEADLINE: Duration = Duration::from_secs(1200);

/// What the kernel answers by itself takes microseconds; it is repeated for this long, or this many times.
const WARM_TIME: Duration = Duration::from_millis(300);
const WARM_REPETITIONS_MAX: usize = 51;

/// A workload.
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
    state: State,
    /// Puts in place on the far side what the work needs; not measured.
    prepare: fn(&mut Contender, &Size),
    /// Does the work and returns the figure.
    work: fn(&Contender, &Size) -> f64,
}

/// Which way is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// What this side knows when the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing.
    Cold,
    /// What doing the same work once before has taught it.
    Warm,
    /// Whatever preparing has left.
    AsIs,
}

pub const ROWS: &[Row] = &[
    rate("write", "MB/s", State::AsIs, |_, _| {}, write),
    rate("read-cold", "MB/s", State::Cold, make_big, read),
    rate("read-warm", "MB/s", State::Warm, make_big, read),
    rate("random-1", "IOPS", State::Cold, make_random, |contender, size| random(contender, size, 1)),
    rate("random-16", "IOPS", State::Cold, make_random, |contender, size| random(contender, size, 16)),
    rate("create", "files/s", State::AsIs, |_, _| {}, create),
    rate("stat-cold", "files/s", State::Cold, make_tree, stat_all),
    rate("stat-warm", "files/s", State::Warm, make_tree, stat_all),
    rate("open-cold", "files/s", State::Cold, make_tree, read_all),
    rate("open-warm", "files/s", State::Warm, make_tree, read_all),
    rate("unlink", "files/s", State::AsIs, make_doomed, unlink),
    time("find-cold", State::Cold, make_tree, find),
    time("find-warm", State::Warm, make_tree, find),
    time("find-stat-cold", State::Cold, make_tree, find_with_attributes),
    time("find-stat-warm", State::Warm, make_tree, find_with_attributes),
    time("git-status-cold", State::Cold, make_repository, git_status),
    time("git-status-warm", State::Warm, make_repository, git_status),
];

type Prepare = fn(&mut Contender, &Size);
type Work = fn(&Contender, &Size) -> f64;

const fn rate(name: &'static str, unit: &'static str, state: State, prepare: Prepare, work: Work) -> Row {
    Row { name, unit, better: Better::Higher, state, prepare, work }
}

const fn time(name: &'static str, state: State, prepare: Prepare, work: Work) -> Row {
    Row { name, unit: "s", better: Better::Lower, state, prepare, work }
}

impl Row {
    /// Measures it once, with what the program counted meanwhile.
    pub fn measure(&self, contender: &mut Contender, size: &Size) -> (f64, Option<Counters>) {
        (self.prepare)(contender, size);
        match self.state {
            State::Cold => contender.make_cold(),
            State::Warm => drop((self.work)(contender, size)),
            State::AsIs => {}
        }
        let before = contender.counters();
        let first = (self.work)(contender, size);
        let after = contender.counters();
        let value = if self.state == State::Warm { self.again(first, contender, size) } else { first };
        let counted = before.zip(after).map(|(before, after)| Counters {
            requests: after.requests.saturating_sub(before.requests),
            round_trips: after.round_trips.saturating_sub(before.round_trips),
        });
        (value, counted)
    }
}

impl Row {
    /// The median of `first` and as many repetitions as make up for the shortness of one.
    fn again(&self, first: f64, contender: &Contender, size: &Size) -> f64 {
        let mut values = vec![first];
        let start = Instant::now();
        while start.elapsed() < WARM_TIME && values.len() < WARM_REPETITIONS_MAX {
            values.push((self.work)(contender, size));
        }
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }
}

fn megabytes_per_second(bytes: u64, start: Instant) -> f64 {
    bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
}

fn per_second(count: usize, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}

/// Bytes that neither compress nor repeat within a piece.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..PIECE_BYTES / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

fn write_big(path: &Path, bytes: u64) {
    let piece = noise();
    let mut file = File::create(path).expect("creating the big file");
    for _ in 0..bytes / PIECE_BYTES as u64 {
        file.write_all(&piece).expect("writing the big file");
    }
    file.sync_all().expect("syncing the big file");
}

fn write(contender: &Contender, size: &Size) -> f64 {
    let path = contender.dir.join("written");
    let start = Instant::now();
    write_big(&path, size.sequential_bytes);
    let figure = megabytes_per_second(size.sequential_bytes, start);
    let there = contender.far.join("written");
    assert_eq!(
        there.metadata().map(|is| is.size()).unwrap_or(0),
        size.sequential_bytes,
        "fsync returned too early"
    );
    std::fs::remove_file(path).expect("removing the written file");
    figure
}

fn make_once(path: &Path, make: impl FnOnce(&Path)) {
    if !path.exists() {
        make(path);
    }
}

fn make_big(contender: &mut Contender, size: &Size) {
    make_once(&contender.far.join("big"), |path| write_big(path, size.sequential_bytes));
}

fn read(contender: &Contender, size: &Size) -> f64 {
    let mut file = File::open(contender.dir.join("big")).expect("opening the big file");
    let mut piece = vec![0; PIECE_BYTES];
    let mut total = 0;
    let start = Instant::now();
    loop {
        match file.read(&mut piece).expect("reading the big file") {
            0 => break,
            count => total += count as u64,
        }
    }
    let figure = megabytes_per_second(total, start);
    assert_eq!(total, size.sequential_bytes);
    figure
}

fn make_random(contender: &mut Contender, size: &Size) {
    make_once(&contender.far.join("random"), |path| write_big(path, size.random_bytes));
}

fn random(contender: &Contender, size: &Size, jobs: u32) -> f64 {
    let done = Program::new("fio")
        .args(["--name=random", "--rw=randread", "--bs=4k", "--direct=1", "--ioengine=psync", "--readonly"])
        .args(["--time_based", "--group_reporting", "--output-format=json", "--randrepeat=0"])
        .arg(format!("--runtime={}", size.random_time.as_secs()))
        .arg(format!("--numjobs={jobs}"))
        .arg(format!("--filename={}", contender.dir.join("random").display()))
        .deadline(ROW_DEADLINE)
        .ok();
    let text = done.text();
    let document = text.find('{').map_or("", |start| &text[start..]);
    let report: serde_json::Value =
        serde_json::from_str(document).unwrap_or_else(|error| panic!("{error}: {done}"));
    report["jobs"][0]["read"]["iops"].as_f64().unwrap_or_else(|| panic!("no figure in {report}"))
}

/// The names of a tree, directory by directory.
fn tree_files(root: &Path, files: usize) -> impl Iterator<Item = PathBuf> {
    let root = root.to_owned();
    (0..files).map(move |number| root.join(format!("d{:03}/f{number:05}", number / FILES_PER_DIRECTORY)))
}

/// Files of 4 KiB, a hundred in a directory.
pub fn write_tree(root: &Path, files: usize) {
    let contents = noise();
    for (number, path) in tree_files(root, files).enumerate() {
        if number % FILES_PER_DIRECTORY == 0 {
            std::fs::create_dir_all(path.parent().unwrap_or(root)).expect("creating a directory of the tree");
        }
        let at = number % (PIECE_BYTES - FILE_BYTES);
        std::fs::write(path, &contents[at..at + FILE_BYTES]).expect("writing a file of the tree");
    }
}

fn make_tree(contender: &mut Contender, size: &Size) {
    make_once(&contender.far.join("tree"), |path| write_tree(path, size.files));
}

fn make_doomed(contender: &mut Contender, size: &Size) {
    make_once(&contender.far.join("doomed"), |path| write_tree(path, size.files));
}

fn create(contender: &Contender, size: &Size) -> f64 {
    let root = contender.dir.join("created");
    let there = contender.far.join("created");
    let start = Instant::now();
    write_tree(&root, size.files);
    eventually(ROW_DEADLINE, "all files are on the other side", || {
        let whole = |path: PathBuf| path.metadata().is_ok_and(|is| is.size() == FILE_BYTES as u64);
        tree_files(&there, size.files).all(whole)
    });
    let figure = per_second(size.files, start);
    std::fs::remove_dir_all(there).expect("removing the created tree");
    figure
}

fn stat_all(contender: &Contender, size: &Size) -> f64 {
    let start = Instant::now();
    for path in tree_files(&contender.dir.join("tree"), size.files) {
        let is = path.symlink_metadata().expect("looking at a file");
        assert_eq!(is.size(), FILE_BYTES as u64);
    }
    per_second(size.files, start)
}

fn read_all(contender: &Contender, size: &Size) -> f64 {
    let start = Instant::now();
    for path in tree_files(&contender.dir.join("tree"), size.files) {
        assert_eq!(std::fs::read(path).expect("reading a file").len(), FILE_BYTES);
    }
    per_second(size.files, start)
}

fn unlink(contender: &Contender, size: &Size) -> f64 {
    let there = contender.far.join("doomed");
    let start = Instant::now();
    for path in tree_files(&contender.dir.join("doomed"), size.files) {
        std::fs::remove_file(path).expect("removing a file");
    }
    eventually(ROW_DEADLINE, "all files are gone on the other side", || {
        tree_files(&there, size.files).all(|path| path.symlink_metadata().is_err())
    });
    let figure = per_second(size.files, start);
    std::fs::remove_dir_all(there).expect("removing the doomed tree");
    figure
}

fn find(contender: &Contender, size: &Size) -> f64 {
    find_files(contender, size, &["-type", "f"])
}

fn find_with_attributes(contender: &Contender, size: &Size) -> f64 {
    find_files(contender, size, &["-type", "f", "-printf", "%s %T@ %p\n"])
}

fn find_files(contender: &Contender, size: &Size, what: &[&str]) -> f64 {
    let listing = Program::new("find").arg(contender.dir.join("tree")).args(what);
    let done = listing.deadline(ROW_DEADLINE).ok();
    assert_eq!(done.text().lines().count(), size.files);
    done.took.as_secs_f64()
}

fn git(dir: &Path) -> Program {
    let program = Program::new("git").arg("-C").arg(dir).args([
        "-c",
        "user.name=bench",
        "-c",
        "user.email=bench@localhost",
    ]);
    program.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").deadline(ROW_DEADLINE)
}

fn make_repository(contender: &mut Contender, size: &Size) {
    let far = contender.far.join("repository");
    if far.exists() {
        return;
    }
    write_tree(&far, size.files);
    git(&far).args(["init", "-q", "."]).ok();
    git(&far).args(["add", "-A"]).ok();
    git(&far).args(["commit", "-qm", "all"]).ok();
    // git notes inode numbers and times as this mount shows them; from here on nothing has changed for it.
    contender.make_cold();
    git(&contender.dir.join("repository")).args(["status", "--porcelain"]).ok();
}

fn git_status(contender: &Contender, _: &Size) -> f64 {
    let done = git(&contender.dir.join("repository")).args(["status", "--porcelain"]).ok();
    assert!(done.stdout.is_empty(), "nothing has changed: {done}");
    done.took.as_secs_f64()
}
