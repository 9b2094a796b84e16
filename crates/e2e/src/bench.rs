//! A mount, the local disk and its peers side by side in one run.
//!
//! Every contender works on a copy of the same tree on the same disk. A row is measured of one after the other before the
//! next row's turn comes, each time in another order: a shared machine is not as fast in a minute as it is now. What a
//! kernel answers by itself differs so little that all of them have several turns, each a measurement of its own. Cold
//! means: mounted again, and the kernel's caches dropped (which needs root). A clock stops only when the data is on the
//! other side. Figures are medians over the runs. Ratios are the median of those of each run, against the best of the
//! peers; above 1 is better. What a peer cannot do is `-`.

pub mod coherence;
mod contender;
pub mod copy;
mod copying;
mod link;
pub mod recovery;
mod rows;
mod table;
pub mod thread;
pub mod vm;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::time::Duration;

use contender::{Contender, Kind};
use link::{Link, Reach};
use rows::{ROWS, Row};
use table::{Cell, Table};

use crate::{DelayProxy, Sshd, stead};

/// What is measured, and how much of it.
pub struct Options {
    links: Vec<Link>,
    rows: Vec<&'static Row>,
    kinds: Vec<Kind>,
    runs: usize,
    quick: bool,
    shows_operations: bool,
}

/// How much work a row is. The same for every contender.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Bytes of the sequential rows.
    pub sequential_bytes: u64,
    /// Bytes of the file that is read at random.
    pub random_bytes: u64,
    /// For how long.
    pub random_time: Duration,
    /// Files of 4 KiB in the rows of trees.
    pub files: usize,
    /// Files of the source tree.
    pub source_files: usize,
    /// Rows with more entries than this are left out.
    pub entries_max: usize,
}

impl Options {
    /// Reads the arguments after `mount`.
    pub fn parse(args: &[String]) -> Result<Options, String> {
        let mut options = Options {
            links: Vec::new(),
            rows: ROWS.iter().collect(),
            kinds: Kind::ALL.to_vec(),
            runs: 3,
            quick: false,
            shows_operations: false,
        };
        let (mut rtts, mut megabits) = (None, None);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => (options.quick, options.runs) = (true, 1),
                "--operations" => options.shows_operations = true,
                "--rtt" => {
                    rtts = Some(list(value()?, |text| text.parse().ok().map(Duration::from_millis))?);
                }
                "--rate" => {
                    megabits = Some(list(value()?, |text| text.parse().ok().filter(|rate| *rate > 0))?)
                }
                "--rows" => options.rows = list(value()?, |text| ROWS.iter().find(|row| row.name == text))?,
                "--only" => {
                    options.kinds =
                        list(value()?, |text| Kind::ALL.into_iter().find(|kind| kind.name() == text))?
                }
                "--runs" => {
                    options.runs = value()?.parse().map_err(|_| "--runs needs a number".to_owned())?
                }
                other => return Err(format!("unknown argument {other}")),
            }
        }
        if options.runs == 0 {
            return Err("--runs needs at least 1".to_owned());
        }
        options.links = link::choose(rtts, megabits);
        Ok(options)
    }

    /// At a distance everything takes a hundred times as long for those who walk, so there is less of it.
    fn size(&self, link: Link) -> Size {
        let (sequential, random, seconds, files, source_files, entries_max) = match (self.quick, link.reach())
        {
            (false, Reach::Near) => (1024, 256, 5, 10_000, 800, 100_000),
            (false, Reach::Far) => (128, 64, 5, 500, 400, 100_000),
            (false, Reach::VeryFar) => (64, 32, 5, 200, 150, 10_000),
            (true, Reach::Near) => (128, 64, 2, 1000, 200, 100_000),
            (true, Reach::Far) => (32, 16, 2, 100, 60, 10_000),
            (true, Reach::VeryFar) => (16, 8, 2, 40, 40, 1_000),
        };
        Size {
            sequential_bytes: sequential << 20,
            random_bytes: random << 20,
            random_time: Duration::from_secs(seconds),
            files,
            source_files,
            entries_max,
        }
    }
}

fn list<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let one = |word: &str| read(word).ok_or_else(|| format!("`{word}` is none of the choices"));
    text.split(',').map(|word| one(word.trim())).collect()
}

/// Measures and prints. Fails only when something of our own could not be measured.
pub fn run(options: &Options) -> ExitCode {
    if !stead::is_root() {
        eprintln!("not root: the kernel's caches cannot be dropped, so the cold rows are only remounted");
    }
    let mut slower = Vec::new();
    for link in &options.links {
        let table = measure(options, *link);
        print!("{table}");
        slower.extend(table.slower_than_peers().map(|row| format!("{row} at {link}")));
    }
    let compared = options.kinds.contains(&Kind::Stead) && options.kinds.iter().any(|kind| kind.is_peer());
    match slower.as_slice() {
        _ if !compared => {}
        [] => println!("no row is slower than the best peer"),
        rows => println!("slower than the best peer: {}", rows.join(", ")),
    }
    ExitCode::SUCCESS
}

fn measure(options: &Options, link: Link) -> Table {
    let sshd = Sshd::start();
    let proxy =
        link.is_distant().then(|| DelayProxy::start_rated(sshd.port(), link.rtt, link.bytes_per_second()));
    let port = proxy.as_ref().map_or(sshd.port(), DelayProxy::port);
    if proxy.is_some() {
        sshd.add_host("box", port, &[("HostKeyAlias", "box")]);
        // rclone knows a machine by its port alone.
        sshd.trust("127.0.0.1", port);
    }
    let size = options.size(link);
    let columns = options.kinds.iter().map(|kind| kind.name()).collect();
    let mut table = Table::new(link, size, columns, options.shows_operations);
    let start = |kind: Kind| Contender::start(kind, &sshd, port);
    let mut contenders: Vec<Contender> = options.kinds.iter().copied().map(start).collect();
    let contenders_count = contenders.len();
    for run in 0..options.runs {
        for (turn, row) in options.rows.iter().enumerate() {
            eprintln!("{link}, run {} of {}: {}", run + 1, options.runs, row.name);
            let mut is_out = vec![false; contenders_count];
            for round in 0..row.rounds() {
                for place in 0..contenders_count {
                    let at = (place + turn + run + round) % contenders_count;
                    let contender = &mut contenders[at];
                    if is_out[at] || !row.is_for(contender.kind, &size) {
                        continue;
                    }
                    if !measure_one(row, round, contender, &size, &mut table) {
                        is_out[at] = true;
                        *contender = start(contender.kind);
                    }
                }
            }
        }
    }
    table
}

/// One round of a row of one contender. `false` when a peer cannot do it: it needs a new start.
fn measure_one(row: &Row, round: usize, contender: &mut Contender, size: &Size, table: &mut Table) -> bool {
    let kind = contender.kind;
    if kind != Kind::Stead
        && let Some(other) = row.same_for_peers
        && table.take_over(row, other, kind.name())
    {
        return true;
    }
    let measure = |contender: &mut Contender| match round {
        0 => row.measure(contender, size),
        _ => (row.measure_again(contender, size), None),
    };
    match catch_unwind(AssertUnwindSafe(|| measure(contender))) {
        Ok((value, counted)) => {
            let operations = (row.operations)(size);
            table.add(row, kind.name(), Cell { value, counted, operations });
            true
        }
        Err(panic) if !kind.is_peer() => resume_unwind(panic),
        Err(_said) => {
            eprintln!("{} does not do {}", kind.name(), row.name);
            false
        }
    }
}
