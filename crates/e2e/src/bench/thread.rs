//! A thread beside a clone on the local disk, `git worktree` and overlayfs, in one run.
//!
//! All are of one repository, which is packed, and lie on the same disk. In each run everybody begins anew: so nothing that was read
//! before is in the cache of contents. A row is measured of one after the other before the next row's turn comes, each time in another
//! order. Figures are medians over the runs, less is better in all of them; ratios to the local disk are the medians of those of
//! each run.

mod rows;
mod workspace;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use super::list;
use super::table::{figure, median};
use rows::{Goal, ROWS, Row};
use workspace::{Ground, Kind, Workspace};

/// What is measured.
pub struct Options {
    size: Size,
    rows: Vec<&'static Row>,
    kinds: Vec<Kind>,
    runs: usize,
}

/// How much work a row is. The same for everybody.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Files of the repository.
    files: usize,
    /// Bytes that are written in one go.
    big_bytes: u64,
    /// Files that are made and removed.
    made: usize,
    /// Workspaces that are there at once.
    many: usize,
}

impl Options {
    /// Reads the arguments after `thread`.
    pub fn parse(args: &[String]) -> Result<Options, String> {
        let size = Size { files: 5_000, big_bytes: 1 << 30, made: 10_000, many: 100 };
        let rows = ROWS.iter().collect();
        let mut options = Options { size, rows, kinds: Kind::ALL.to_vec(), runs: 3 };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => {
                    options.size = Size { files: 500, big_bytes: 64 << 20, made: 1_000, many: 5 };
                    options.runs = 1;
                }
                "--full" => options.size.files = 100_000,
                "--files" => options.size.files = count(value()?)?,
                "--runs" => options.runs = count(value()?)?,
                "--rows" => options.rows = list(value()?, |text| ROWS.iter().find(|row| row.name == text))?,
                "--only" => {
                    options.kinds =
                        list(value()?, |text| Kind::ALL.into_iter().find(|kind| kind.name() == text))?;
                }
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(options)
    }
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("`{text}` is no number above 0"))
}

/// Measures and prints. Fails only when something of our own could not be measured.
pub fn run(options: &Options) -> ExitCode {
    let mut figures = Figures::default();
    let repository = workspace::Repository::new(options.size.files);
    for run in 0..options.runs {
        let ground = Ground::new(&repository, options.size);
        let spaces: Vec<Option<Workspace>> =
            options.kinds.iter().map(|kind| made(|| Workspace::new(&ground, *kind))).collect();
        for (turn, row) in options.rows.iter().enumerate() {
            eprintln!("run {} of {}: {}", run + 1, options.runs, row.name);
            for place in 0..spaces.len() {
                let at = (place + turn + run) % spaces.len();
                let kind = options.kinds[at];
                let Some(space) = spaces[at].as_ref().filter(|_| row.is_for(kind, &options.size)) else {
                    continue;
                };
                // What whoever came before has left for the disk is not written at this one's cost.
                rustix::fs::sync();
                let measured = match kind {
                    Kind::Stead => Some((row.work)(&ground, space)),
                    _ => made(|| (row.work)(&ground, space)),
                };
                if let Some(value) = measured {
                    figures.add(row, kind, run, value);
                }
            }
        }
        spaces.into_iter().flatten().for_each(|space| space.remove(&ground));
    }
    print!("{}", table(options, &figures));
    ExitCode::SUCCESS
}

/// `None` when a peer cannot do it here: overlayfs needs root.
fn made<T>(make: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(make)).ok()
}

/// By row, kind and run.
#[derive(Default)]
struct Figures(BTreeMap<(&'static str, &'static str, usize), f64>);

impl Figures {
    fn add(&mut self, row: &Row, kind: Kind, run: usize, value: f64) {
        self.0.insert((row.name, kind.name(), run), value);
    }

    fn of(&self, row: &Row, kind: Kind, runs: usize) -> Vec<f64> {
        (0..runs).filter_map(|run| self.0.get(&(row.name, kind.name(), run)).copied()).collect()
    }

    /// To the local disk.
    fn ratio(&self, row: &Row, runs: usize) -> Option<f64> {
        let of = |kind: Kind, run| self.0.get(&(row.name, kind.name(), run)).copied();
        let ratios = (0..runs).filter_map(|run| Some(of(Kind::Stead, run)? / of(Kind::Disk, run)?));
        median(ratios.collect())
    }
}

fn table(options: &Options, figures: &Figures) -> String {
    let Options { size: Size { files, big_bytes, made, many }, rows, kinds, runs } = options;
    let mut text = format!(
        "\na repository of {files} files; {} MiB written; {made} files made; {many} workspaces at once; medians of {runs}\n",
        big_bytes >> 20
    );
    let columns: String = kinds.iter().map(|kind| format!(" {:>9}", kind.name())).collect();
    text += &format!("{:<14} {:<4}{columns} {:>7} {:>8}\n", "row", "unit", "ratio", "goal");
    for row in rows {
        let shown = |kind: &Kind| {
            let value = median(figures.of(row, *kind, *runs));
            format!(" {:>9}", value.map_or_else(|| "-".to_owned(), figure))
        };
        let ratio = figures.ratio(row, *runs);
        let own = median(figures.of(row, Kind::Stead, *runs));
        let (goal, is_met) = match row.goal {
            Goal::Ratio(most) => (format!("<={most}x"), ratio.map(|ratio| ratio <= most)),
            Goal::Figure(most) => (format!("<={most}"), own.map(|own| own <= most)),
            Goal::None => (String::new(), None),
        };
        let verdict = match is_met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        };
        let figures: String = kinds.iter().map(shown).collect();
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let line = format!("{:<14} {:<4}{figures} {ratio:>7} {goal:>8} {verdict}", row.name, row.unit);
        text += line.trim_end();
        text += "\n";
    }
    text
}
