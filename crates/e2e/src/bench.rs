//! A mount, the local disk and `sshfs` side by side in one run.
//!
//! Every contender works on a copy of the same tree on the same disk, in the same order. Cold means: mounted again, and
//! the kernel's caches dropped (which needs root). A clock stops only when the data is on the other side. Figures are
//! medians. Ratios are against the better of the two `sshfs`; above 1 is better.

mod contender;
pub mod recovery;
mod rows;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use contender::{Contender, Kind};
use rows::{ROWS, Row};
use table::{Cell, Table};

use crate::{DelayProxy, Sshd, stead};

/// What is measured, and how much of it.
pub struct Options {
    rtts: Vec<Duration>,
    rows: Vec<&'static Row>,
    kinds: Vec<Kind>,
    runs: usize,
    quick: bool,
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
}

impl Options {
    /// Reads the arguments after `mount`.
    pub fn parse(args: &[String]) -> Result<Options, String> {
        let mut options = Options {
            rtts: vec![Duration::ZERO, Duration::from_millis(20)],
            rows: ROWS.iter().collect(),
            kinds: Kind::ALL.to_vec(),
            runs: 3,
            quick: false,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => (options.quick, options.runs) = (true, 1),
                "--rtt" => {
                    options.rtts = list(value()?, |text| text.parse().ok().map(Duration::from_millis))?
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
        Ok(options)
    }

    /// At a distance everything takes a hundred times as long for those who walk, so there is less of it.
    fn size(&self, rtt: Duration) -> Size {
        let near = rtt < Duration::from_millis(2);
        let (sequential, random, seconds, files) = match (self.quick, near) {
            (false, true) => (1024, 256, 5, 10_000),
            (false, false) => (128, 64, 5, 500),
            (true, true) => (128, 64, 2, 1000),
            (true, false) => (32, 16, 2, 100),
        };
        Size {
            sequential_bytes: sequential << 20,
            random_bytes: random << 20,
            random_time: Duration::from_secs(seconds),
            files,
        }
    }
}

fn list<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let one = |word: &str| read(word).ok_or_else(|| format!("`{word}` is none of the choices"));
    text.split(',').map(|word| one(word.trim())).collect()
}

/// Measures and prints. Fails only when something could not be measured.
pub fn run(options: &Options) -> ExitCode {
    if !stead::is_root() {
        eprintln!("not root: the kernel's caches cannot be dropped, so the cold rows are only remounted");
    }
    let mut slower = Vec::new();
    for rtt in &options.rtts {
        let table = measure(options, *rtt);
        print!("{table}");
        slower.extend(table.slower_than_peers().map(|row| format!("{row} at {} ms", rtt.as_millis())));
    }
    let compared = options.kinds.contains(&Kind::Stead) && options.kinds.len() > 1;
    match slower.as_slice() {
        _ if !compared => {}
        [] => println!("no row is slower than the better sshfs"),
        rows => println!("slower than the better sshfs: {}", rows.join(", ")),
    }
    ExitCode::SUCCESS
}

fn measure(options: &Options, rtt: Duration) -> Table {
    let sshd = Sshd::start();
    let proxy = (!rtt.is_zero()).then(|| DelayProxy::start(sshd.port(), rtt));
    if let Some(proxy) = &proxy {
        sshd.add_host("box", proxy.port(), &[("HostKeyAlias", "box")]);
    }
    let size = options.size(rtt);
    let mut table = Table::new(rtt, size, options.kinds.iter().map(|kind| kind.name()).collect());
    for run in 0..options.runs {
        for kind in &options.kinds {
            eprintln!("{} ms, run {} of {}: {}", rtt.as_millis(), run + 1, options.runs, kind.name());
            let mut contender = Contender::start(*kind, &sshd);
            for row in &options.rows {
                let (value, counters) = row.measure(&mut contender, &size);
                table.add(row, kind.name(), Cell { value, counters });
            }
        }
    }
    table
}
