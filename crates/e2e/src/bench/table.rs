//! The figures side by side.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Size;
use super::contender::{Counters, Kind};
use super::rows::{Better, Row};

/// Ratios from here on count as equal: two runs of one program differ by as much on a shared machine.
const SAME_FROM: f64 = 0.95;

/// One measurement.
pub struct Cell {
    pub value: f64,
    pub counters: Option<Counters>,
}

/// All measurements at one distance.
pub struct Table {
    rtt: Duration,
    size: Size,
    columns: Vec<&'static str>,
    rows: Vec<Line>,
}

struct Line {
    name: &'static str,
    unit: &'static str,
    better: Better,
    cells: BTreeMap<&'static str, Vec<f64>>,
    counters: Option<Counters>,
}

impl Table {
    pub fn new(rtt: Duration, size: Size, columns: Vec<&'static str>) -> Table {
        Table { rtt, size, columns, rows: Vec::new() }
    }

    pub fn add(&mut self, row: &Row, column: &'static str, cell: Cell) {
        if !self.rows.iter().any(|line| line.name == row.name) {
            let (name, unit, better) = (row.name, row.unit, row.better);
            self.rows.push(Line { name, unit, better, cells: BTreeMap::new(), counters: None });
        }
        if let Some(line) = self.rows.iter_mut().find(|line| line.name == row.name) {
            line.cells.entry(column).or_default().push(cell.value);
            line.counters = cell.counters.or(line.counters);
        }
    }

    /// The rows in which this program is behind the better of its peers.
    pub fn slower_than_peers(&self) -> impl Iterator<Item = &'static str> {
        self.rows
            .iter()
            .filter(|line| line.ratio().is_some_and(|ratio| ratio < SAME_FROM))
            .map(|line| line.name)
    }
}

impl Line {
    fn median(&self, column: &str) -> Option<f64> {
        let mut values = self.cells.get(column)?.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    /// How many times better than the better peer.
    fn ratio(&self) -> Option<f64> {
        let own = self.median(Kind::Stead.name())?;
        let peers = [Kind::Sshfs, Kind::SshfsTuned].into_iter().filter_map(|kind| self.median(kind.name()));
        match self.better {
            Better::Higher => peers.reduce(f64::max).map(|best| own / best),
            Better::Lower => peers.reduce(f64::min).map(|best| best / own),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size { sequential_bytes, random_bytes, files, .. } = self.size;
        writeln!(
            f,
            "\n{} ms round trip; sequential {} MiB, random in {} MiB, {files} files of 4 KiB",
            self.rtt.as_millis(),
            sequential_bytes >> 20,
            random_bytes >> 20
        )?;
        write!(f, "{:<16} {:<8}", "row", "unit")?;
        for column in &self.columns {
            write!(f, " {column:>12}")?;
        }
        writeln!(f, " {:>8} {:>10} {:>11}", "ratio", "requests", "round trips")?;
        for line in &self.rows {
            write!(f, "{:<16} {:<8}", line.name, line.unit)?;
            for column in &self.columns {
                write!(f, " {:>12}", line.median(column).map_or_else(|| "-".to_owned(), figure))?;
            }
            let ratio = line.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            let count = |read: fn(&Counters) -> u64| {
                line.counters.as_ref().map_or_else(|| "-".to_owned(), |c| read(c).to_string())
            };
            writeln!(f, " {ratio:>8} {:>10} {:>11}", count(|c| c.requests), count(|c| c.round_trips))?;
        }
        Ok(())
    }
}

/// Three digits that say something, no more.
fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}
