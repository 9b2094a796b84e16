//! The figures side by side.

use std::collections::BTreeMap;
use std::fmt;

use super::Size;
use super::contender::{Counters, Kind};
use super::link::Link;
use super::rows::{Better, Row};

/// Ratios from here on count as equal: two runs of one program differ by as much on a shared machine.
const SAME_FROM: f64 = 0.95;

/// One measurement.
pub struct Cell {
    pub value: f64,
    pub counted: Option<Counters>,
    /// What a user would say was done: files, entries; 0 where that makes no sense.
    pub operations: usize,
}

/// All measurements over one link.
pub struct Table {
    link: Link,
    size: Size,
    columns: Vec<&'static str>,
    shows_operations: bool,
    rows: Vec<Line>,
}

struct Line {
    name: &'static str,
    unit: &'static str,
    better: Better,
    cells: BTreeMap<&'static str, Vec<f64>>,
    counted: Option<Counters>,
    operations: usize,
}

impl Table {
    pub fn new(link: Link, size: Size, columns: Vec<&'static str>, shows_operations: bool) -> Table {
        Table { link, size, columns, shows_operations, rows: Vec::new() }
    }

    pub fn add(&mut self, row: &Row, column: &'static str, cell: Cell) {
        let line = self.line(row);
        line.cells.entry(column).or_default().push(cell.value);
        line.counted = cell.counted.or(line.counted.take());
        line.operations = line.operations.max(cell.operations);
    }

    /// Takes the figure that was measured last for the row `other`; `false` if there is none.
    pub fn take_over(&mut self, row: &Row, other: &str, column: &'static str) -> bool {
        let measured = self.rows.iter().find(|line| line.name == other);
        let Some(value) = measured.and_then(|line| line.cells.get(column)?.last()).copied() else {
            return false;
        };
        self.line(row).cells.entry(column).or_default().push(value);
        true
    }

    fn line(&mut self, row: &Row) -> &mut Line {
        let at = self.rows.iter().position(|line| line.name == row.name).unwrap_or(self.rows.len());
        if at == self.rows.len() {
            self.rows.push(Line {
                name: row.name,
                unit: row.unit,
                better: row.better,
                cells: BTreeMap::new(),
                counted: None,
                operations: 0,
            });
        }
        &mut self.rows[at]
    }

    /// The rows in which this program is behind the best of its peers.
    pub fn slower_than_peers(&self) -> impl Iterator<Item = &'static str> {
        self.rows
            .iter()
            .filter(|line| line.ratio().is_some_and(|ratio| ratio < SAME_FROM))
            .map(|line| line.name)
    }
}

impl Line {
    fn median(&self, column: &str) -> Option<f64> {
        median(self.cells.get(column)?.clone())
    }

    /// How many times better than the best peer: the median of what each run says of the two.
    fn ratio(&self) -> Option<f64> {
        let peers = Kind::ALL.into_iter().filter(|kind| kind.is_peer());
        let ratios = peers.filter_map(|peer| median(self.ratios(peer)?));
        ratios.reduce(f64::min)
    }

    /// How many times better than `peer` in each run, in which both were measured shortly after each other.
    fn ratios(&self, peer: Kind) -> Option<Vec<f64>> {
        let (own, peer) = (self.cells.get(Kind::Stead.name())?, self.cells.get(peer.name())?);
        let times_better = |(own, peer): (&f64, &f64)| match self.better {
            Better::Higher => own / peer,
            Better::Lower => peer / own,
        };
        Some(own.iter().zip(peer).map(times_better).collect())
    }

    /// What this program counted: requests, requests for each thing that the user did, those that waited, requests to the
    /// machine, mebibytes of memory.
    fn counts(&self) -> [String; 5] {
        let Some(counted) = &self.counted else { return std::array::from_fn(|_| "-".to_owned()) };
        let each = match self.operations {
            0 => "-".to_owned(),
            operations => format!("{:.2}", counted.requests as f64 / operations as f64),
        };
        let (requests, waits) = (counted.requests.to_string(), counted.waits.to_string());
        let memory = (counted.memory_kib >> 10).to_string();
        [requests, each, waits, counted.round_trips.to_string(), memory]
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size { sequential_bytes, random_bytes, files, source_files, .. } = self.size;
        writeln!(
            f,
            "\n{} round trip; sequential {} MiB, random in {} MiB, {files} files of 4 KiB, {source_files} files of source",
            self.link,
            sequential_bytes >> 20,
            random_bytes >> 20
        )?;
        write!(f, "{:<17} {:<8}", "row", "unit")?;
        for column in &self.columns {
            write!(f, " {column:>11}")?;
        }
        writeln!(
            f,
            " {:>7} {:>9} {:>6} {:>7} {:>11} {:>5}",
            "ratio", "requests", "each", "waited", "round trips", "MiB"
        )?;
        for line in &self.rows {
            write!(f, "{:<17} {:<8}", line.name, line.unit)?;
            for column in &self.columns {
                write!(f, " {:>11}", line.median(column).map_or_else(|| "-".to_owned(), figure))?;
            }
            let ratio = line.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            let [requests, each, waits, round_trips, memory] = line.counts();
            writeln!(f, " {ratio:>7} {requests:>9} {each:>6} {waits:>7} {round_trips:>11} {memory:>5}")?;
        }
        if self.shows_operations {
            writeln!(f, "\nrequests of the kernel by operation")?;
            for line in &self.rows {
                let Some(counted) = &line.counted else { continue };
                let shown = counted.operations.iter().map(|(name, count)| format!("{name} {count}"));
                writeln!(f, "{:<17} {}", line.name, shown.collect::<Vec<_>>().join(", "))?;
            }
        }
        Ok(())
    }
}

pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Three digits that say something, no more.
pub fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}
