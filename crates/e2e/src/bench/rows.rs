//! The workloads: a file for each group, and the table of all.

mod cargo;
mod git;
mod random;
mod sequential;
mod source;
mod trees;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Size;
use super::contender::{Contender, Counters, Kind};
use super::copying;
use super::table::median;
use crate::eventually;

pub use cargo::write_crate;
pub use sequential::{noise, write_big};
pub use source::{source_path, write_source_of};
pub use trees::write_tree;

/// A row may take this long at a distance for a peer that walks.
const ROW_DEADLINE: Duration = Duration::from_secs(1200);

/// What the kernel answers by itself takes microseconds; it is repeated for this long, or this many times.
const WARM_TIME: Duration = Duration::from_secs(1);
const WARM_REPETITIONS_MAX: usize = 51;

/// How many turns each contender has for that in a run.
const WARM_ROUNDS: usize = 3;

/// With which this program mounts where nothing else is said, and where closing waits for nothing.
const USUAL: &[&str] = &[];
const ASYNC: &[&str] = &["--sync", "async"];

/// A workload.
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
    /// What a user would say was done: files, entries; 0 where that makes no sense.
    pub operations: fn(&Size) -> usize,
    /// A row that is the same work for all but this program, which has a choice that they have not.
    pub same_for_peers: Option<&'static str>,
    state: State,
    who: Who,
    /// With which this program mounts.
    arguments: &'static [&'static str],
    /// How many entries it is about at least.
    entries: usize,
    /// Puts in place on the far side what the work needs; not measured.
    prepare: Prepare,
    /// Does the work and returns the figure.
    work: Work,
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

/// Whom a row is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// Whoever shows a tree.
    Mounts,
    /// Bytes through ssh, too.
    Bytes,
    /// This program and the disk: it is about how cost grows, not about who is faster.
    Own,
}

pub const ROWS: &[Row] = &[
    rate("write", "MB/s", State::AsIs, nothing, sequential::write).with_ssh(),
    rate("read-cold", "MB/s", State::Cold, sequential::prepare, sequential::read).with_ssh(),
    rate("read-warm", "MB/s", State::Warm, sequential::prepare, sequential::read),
    rate("random-1", "IOPS", State::Cold, random::prepare, |at, size| random::read(at, size, 1)),
    rate("random-16", "IOPS", State::Cold, random::prepare, |at, size| random::read(at, size, 16)),
    rate("create", "files/s", State::AsIs, nothing, trees::create).for_each_file(),
    rate("create-async", "files/s", State::AsIs, nothing, trees::create)
        .for_each_file()
        .without_waiting("create"),
    rate("stat-cold", "files/s", State::Cold, trees::prepare, trees::stat).for_each_file(),
    rate("stat-warm", "files/s", State::Warm, trees::prepare, trees::stat).for_each_file(),
    rate("open-cold", "files/s", State::Cold, trees::prepare, trees::read).for_each_file(),
    rate("open-warm", "files/s", State::Warm, trees::prepare, trees::read).for_each_file(),
    rate("unlink", "files/s", State::AsIs, trees::prepare_doomed, trees::unlink).for_each_file(),
    time("find-cold", State::Cold, trees::prepare, trees::find).for_each_file(),
    time("find-warm", State::Warm, trees::prepare, trees::find).for_each_file(),
    time("find-stat-cold", State::Cold, trees::prepare, trees::find_stat).for_each_file(),
    time("find-stat-warm", State::Warm, trees::prepare, trees::find_stat).for_each_file(),
    time("git-status-cold", State::Cold, git::prepare_repository, git::status).for_each_file(),
    time("git-status-warm", State::Warm, git::prepare_repository, git::status).for_each_file(),
    time("grep-cold", State::Cold, source::prepare, source::grep).for_each_source(),
    time("grep-warm", State::Warm, source::prepare, source::grep).for_each_source(),
    time("tar", State::AsIs, source::prepare_archive, source::unpack).for_each_source(),
    time("tar-async", State::AsIs, source::prepare_archive, source::unpack)
        .for_each_source()
        .without_waiting("tar"),
    time("git-clone", State::AsIs, git::prepare_origin, git::clone).for_each_source(),
    time("cargo-check-cold", State::Cold, cargo::prepare, cargo::check),
    time("cargo-check-noop", State::Warm, cargo::prepare, cargo::check),
    growth::<1_000>("grow-1000"),
    growth::<10_000>("grow-10000"),
    growth::<100_000>("grow-100000"),
    delay("stat-during-write", copying::make_probes, copying::stat_during_write),
    delay("stat-during-read", copying::make_probes_and_big, copying::stat_during_read),
];

type Prepare = fn(&mut Contender, &Size);
type Work = fn(&Contender, &Size) -> f64;

fn nothing(_: &mut Contender, _: &Size) {}

const fn rate(name: &'static str, unit: &'static str, state: State, prepare: Prepare, work: Work) -> Row {
    Row {
        name,
        unit,
        better: Better::Higher,
        operations: |_| 0,
        same_for_peers: None,
        state,
        who: Who::Mounts,
        arguments: USUAL,
        entries: 0,
        prepare,
        work,
    }
}

const fn time(name: &'static str, state: State, prepare: Prepare, work: Work) -> Row {
    let mut row = rate(name, "s", state, prepare, work);
    row.better = Better::Lower;
    row
}

/// A cold walk with attributes of so many entries.
const fn growth<const ENTRIES: usize>(name: &'static str) -> Row {
    let (prepare, work) = (trees::prepare_entries::<ENTRIES>, trees::per_entry::<ENTRIES>);
    let mut row = rate(name, "us/entry", State::Cold, prepare, work);
    row.better = Better::Lower;
    row.who = Who::Own;
    row.entries = ENTRIES;
    row
}

const fn delay(name: &'static str, prepare: Prepare, work: Work) -> Row {
    let mut row = rate(name, "ms", State::Cold, prepare, work);
    row.better = Better::Lower;
    row
}

impl Row {
    const fn with_ssh(mut self) -> Row {
        self.who = Who::Bytes;
        self
    }

    const fn for_each_file(mut self) -> Row {
        self.operations = |size| size.files;
        self
    }

    const fn for_each_source(mut self) -> Row {
        self.operations = |size| size.source_files;
        self
    }

    /// This program's closing waits for nothing; the others do as in the row `other`.
    const fn without_waiting(mut self, other: &'static str) -> Row {
        self.arguments = ASYNC;
        self.same_for_peers = Some(other);
        self
    }

    /// Whether `kind` takes part in it.
    pub fn is_for(&self, kind: Kind, size: &Size) -> bool {
        let takes_part = match self.who {
            Who::Mounts => kind != Kind::RawSsh,
            Who::Bytes => true,
            Who::Own => matches!(kind, Kind::Local | Kind::Stead),
        };
        takes_part && self.entries <= size.entries_max
    }

    /// How many turns each contender has in a run.
    pub fn rounds(&self) -> usize {
        if self.state == State::Warm { WARM_ROUNDS } else { 1 }
    }

    /// Measures once more what needs no preparing any more.
    pub fn measure_again(&self, contender: &Contender, size: &Size) -> f64 {
        again(|| (self.work)(contender, size))
    }

    /// Measures it once, with what the program counted meanwhile.
    pub fn measure(&self, contender: &mut Contender, size: &Size) -> (f64, Option<Counters>) {
        contender.use_arguments(self.arguments);
        (self.prepare)(contender, size);
        // What the contender before has left for the disk is not written at this one's cost.
        rustix::fs::sync();
        match self.state {
            State::Cold => contender.make_cold(),
            State::Warm => drop((self.work)(contender, size)),
            State::AsIs => contender.far_has_changed(),
        }
        let before = contender.counters();
        let first = (self.work)(contender, size);
        let after = contender.counters();
        let value = if self.state == State::Warm { self.again(first, contender, size) } else { first };
        (value, before.zip(after).map(|(before, after)| after.since(&before)))
    }

    /// The median of `first` and as many repetitions as make up for the shortness of one.
    fn again(&self, first: f64, contender: &Contender, size: &Size) -> f64 {
        median([vec![first], repeated(|| (self.work)(contender, size))].concat()).unwrap_or(first)
    }
}

/// As many figures as make up for the shortness of one.
fn repeated(mut once: impl FnMut() -> f64) -> Vec<f64> {
    let start = Instant::now();
    let mut values = Vec::new();
    while start.elapsed() < WARM_TIME && values.len() < WARM_REPETITIONS_MAX {
        values.push(once());
    }
    values
}

/// The median of as many figures as make up for the shortness of one.
pub fn again(once: impl FnMut() -> f64) -> f64 {
    median(repeated(once)).unwrap_or_default()
}

fn megabytes_per_second(bytes: u64, start: Instant) -> f64 {
    bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
}

fn per_second(count: usize, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}

pub fn make_once(path: &Path, make: impl FnOnce(&Path)) {
    if !path.exists() {
        make(path);
    }
}

/// The files below a directory, by their paths in it, and how long they are.
struct Manifest(Vec<(PathBuf, u64)>);

impl Manifest {
    /// Those of what is there now.
    fn of(root: &Path) -> Manifest {
        let mut files = Vec::new();
        let mut directories = vec![PathBuf::new()];
        while let Some(at) = directories.pop() {
            for entry in root.join(&at).read_dir().expect("listing a directory").flatten() {
                let (path, is) = (at.join(entry.file_name()), entry.metadata().expect("looking at an entry"));
                match is.is_dir() {
                    true => directories.push(path),
                    false => files.push((path, is.len())),
                }
            }
        }
        Manifest(files)
    }

    fn without(mut self, left_out: impl Fn(&Path) -> bool) -> Manifest {
        self.0.retain(|(path, _)| !left_out(path));
        self
    }

    /// Waits until all of them are below `far` in their whole length.
    fn arrives(&self, far: &Path) {
        let mut files = self.0.iter().peekable();
        eventually(ROW_DEADLINE, "all files are on the other side", || {
            let is_there =
                |(path, len): &(PathBuf, u64)| far.join(path).metadata().is_ok_and(|is| is.len() == *len);
            while files.next_if(|file| is_there(file)).is_some() {}
            files.peek().is_none()
        });
    }
}

/// A name in the tree that no row has used yet. What a row has made stays: a file system that has just lost thousands of files
/// looks at each of them before it makes another, at the cost of whoever comes next, and who believes for an hour what he knows of a
/// name would not make it anew.
fn fresh(contender: &Contender, what: &str) -> String {
    let mut names = (0..).map(|number| format!("{what}{number}"));
    names.find(|name| !contender.far.join(name).exists()).expect("numbers do not end")
}

/// Removes what a row has made on the far side; whether anybody is told of it is no part of the row.
fn remove(far: &Path) {
    std::fs::remove_dir_all(far).expect("removing what a row has made");
}
