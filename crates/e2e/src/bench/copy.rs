//! Copies and searches without a mount, beside the programs that people use for them.
//!
//! Everybody logs in anew for each row, and works on the same files in the same order; what is copied is in memory before.
//! The clock goes from the start of the command to its end. Each copy is compared with its original.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::rows::{write_big, write_tree};
use super::table;
use crate::tree::{Compare, assert_same};
use crate::{DelayProxy, Finished, Program, Sshd, Stead};

/// No copy takes this long: not even one that waits several times for each of many files.
const DEADLINE: Duration = Duration::from_secs(2 * 60 * 60);

/// What is searched for: it is in one file of the tree.
const NEEDLE: &str = "a needle in a stack of hay";

/// What is measured.
pub struct Options {
    rtts: Vec<Duration>,
    big_bytes: u64,
    files: usize,
    searched_files: usize,
    runs: usize,
    tools: Vec<Tool>,
    rows: Vec<Row>,
}

/// Who takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tool {
    Stead,
    Scp,
    Rsync,
    Sftp,
    /// ripgrep, run through ssh.
    Rg,
}

impl Tool {
    const ALL: [Tool; 5] = [Tool::Stead, Tool::Scp, Tool::Rsync, Tool::Sftp, Tool::Rg];

    fn name(self) -> &'static str {
        match self {
            Tool::Stead => "stead",
            Tool::Scp => "scp",
            Tool::Rsync => "rsync",
            Tool::Sftp => "sftp",
            Tool::Rg => "rg",
        }
    }
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Row {
    BigTo,
    SmallTo,
    BigFrom,
    SmallFrom,
    /// Again onto a copy of which one block differs, by those who look for what differs.
    BigAgain,
    Search,
}

impl Row {
    const ALL: [Row; 6] =
        [Row::BigTo, Row::SmallTo, Row::BigFrom, Row::SmallFrom, Row::BigAgain, Row::Search];

    fn name(self) -> &'static str {
        match self {
            Row::BigTo => "big-to",
            Row::SmallTo => "small-to",
            Row::BigFrom => "big-from",
            Row::SmallFrom => "small-from",
            Row::BigAgain => "big-again",
            Row::Search => "search",
        }
    }
}

impl Options {
    /// Reads the arguments after `copy`.
    pub fn parse(args: &[String]) -> Result<Options, String> {
        let mut options = Options {
            rtts: [0, 20].map(Duration::from_millis).to_vec(),
            big_bytes: 1 << 30,
            files: 20_000,
            searched_files: 100_000,
            runs: 3,
            tools: Tool::ALL.to_vec(),
            rows: Row::ALL.to_vec(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => {
                    (options.big_bytes, options.files, options.searched_files, options.runs) =
                        (128 << 20, 1000, 5000, 1);
                }
                "--rtt" => {
                    options.rtts =
                        super::list(value()?, |text| text.parse().ok().map(Duration::from_millis))?;
                }
                "--only" => {
                    options.tools = super::list(value()?, |text| named(&Tool::ALL, Tool::name, text))?
                }
                "--rows" => options.rows = super::list(value()?, |text| named(&Row::ALL, Row::name, text))?,
                "--runs" => {
                    let runs = value()?.parse().ok().filter(|runs| *runs > 0);
                    options.runs = runs.ok_or_else(|| "--runs needs a number".to_owned())?;
                }
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(options)
    }
}

/// Measures and prints. Fails only when something could not be measured.
pub fn run(options: &Options) -> ExitCode {
    for rtt in &options.rtts {
        let field = Field::new(*rtt, options);
        println!(
            "\n{} ms round trip; a file of {} MiB, {} files of 4 KiB, a search in {} files; seconds, medians of {}",
            rtt.as_millis(),
            options.big_bytes >> 20,
            options.files,
            options.searched_files,
            options.runs
        );
        let header: String = options.tools.iter().map(|tool| format!(" {:>9}", tool.name())).collect();
        println!("{:<12}{header}", "row");
        for row in &options.rows {
            let mut times = vec![Vec::new(); options.tools.len()];
            // By turns: the computer is not equally busy all the time. Each is the first once: on a virtual machine whoever first
            // uses memory that nobody has used for a while waits for the host.
            for run in 0..options.runs {
                for turn in 0..options.tools.len() {
                    let at = (run + turn) % options.tools.len();
                    let took = field.measure(*row, options.tools[at]);
                    times[at].extend(took.map(|took| took.as_secs_f64()));
                }
            }
            let figures = times.into_iter().map(|times| match table::median(times) {
                Some(seconds) => format!(" {seconds:>9.2}"),
                None => format!(" {:>9}", "-"),
            });
            println!("{:<12}{}", row.name(), figures.collect::<String>());
        }
    }
    ExitCode::SUCCESS
}

fn named<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str) -> Option<T> {
    all.iter().copied().find(|one| name(*one) == text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    To,
    From,
}

/// Two computers with what is copied between them.
struct Field {
    stead: Stead,
    sshd: Sshd,
    here: PathBuf,
    /// Where copies go.
    far: PathBuf,
    /// Where they come back to.
    back: PathBuf,
    /// Where originals are there.
    kept: PathBuf,
    /// What lies between them, as long as it lies there.
    _proxy: Option<DelayProxy>,
}

impl Field {
    fn new(rtt: Duration, options: &Options) -> Field {
        let sshd = Sshd::start();
        let proxy = (!rtt.is_zero()).then(|| DelayProxy::start(sshd.port(), rtt));
        if let Some(proxy) = &proxy {
            sshd.add_host("box", proxy.port(), &[("HostKeyAlias", "box")]);
        }
        let stead = Stead::with_ssh(&sshd);
        let (here, far, back) = (stead.dir("here"), stead.dir("far"), stead.dir("back"));
        let kept = stead.dir("kept");
        write_big(&here.join("big"), options.big_bytes);
        write_tree(&here.join("small"), options.files);
        for name in ["big", "small"] {
            Program::new("cp").arg("-r").arg(here.join(name)).arg(kept.join(name)).deadline(DEADLINE).ok();
        }
        if options.rows.contains(&Row::Search) {
            write_tree(&kept.join("searched"), options.searched_files);
            std::fs::write(kept.join("searched/needle"), NEEDLE).expect("writing what is searched for");
        }
        Field { stead, sshd, here, far, back, kept, _proxy: proxy }
    }

    fn config(&self) -> String {
        self.sshd.client_config().display().to_string()
    }

    /// The program with the connection closed, so that it logs in as the others do.
    fn stead(&self) -> Program {
        let _perhaps_not_connected = self.stead.run(&["disconnect", "ssh://box"]);
        self.stead.program()
    }

    /// How long it takes; `None` if this is nothing that it does.
    fn measure(&self, row: Row, tool: Tool) -> Option<Duration> {
        let to = |name: &str| self.copy(tool, &self.here.join(name), &self.far.join(name), Way::To);
        let from = |name: &str| self.copy(tool, &self.kept.join(name), &self.back.join(name), Way::From);
        match (row, tool) {
            (Row::Search, Tool::Stead) => Some(self.search_with_stead()),
            (Row::Search, Tool::Rg) => Some(self.search_with_rg()),
            (Row::Search, _) | (_, Tool::Rg) => None,
            (Row::BigTo, _) => Some(to("big")),
            (Row::SmallTo, _) => Some(to("small")),
            (Row::BigFrom, _) => Some(from("big")),
            (Row::SmallFrom, _) => Some(from("small")),
            (Row::BigAgain, Tool::Stead | Tool::Rsync) => Some(self.copy_again(tool)),
            (Row::BigAgain, _) => None,
        }
    }

    fn copy(&self, tool: Tool, from: &Path, to: &Path, way: Way) -> Duration {
        let took = self.carry(tool, from, to, way).took;
        if from.is_dir() {
            assert_same(from, to, Compare::CONTENTS);
            // Kept to the end: ext4 looks at every file that was removed a short while ago when it makes another.
            let aside = tempfile::Builder::new()
                .prefix("copied")
                .tempdir_in(self.stead.root())
                .map(tempfile::TempDir::keep);
            std::fs::rename(to, aside.expect("making a directory for copies").join("copy"))
                .expect("putting the copy aside");
        } else {
            assert_equal(from, to);
            std::fs::remove_file(to).expect("removing the copy");
        }
        took
    }

    fn carry(&self, tool: Tool, from: &Path, to: &Path, way: Way) -> Finished {
        let there = |path: &Path, scheme: &str| format!("{scheme}{}", path.display());
        let pair = |scheme: &str| match way {
            Way::To => (from.display().to_string(), there(to, scheme)),
            Way::From => (there(from, scheme), to.display().to_string()),
        };
        let program = match tool {
            Tool::Stead => {
                let (from, to) = pair("ssh://box");
                self.stead().args(["cp", &from, &to])
            }
            Tool::Scp => {
                let (from, to) = pair("box:");
                Program::new("scp").args(["-F", &self.config(), "-q", "-r", &from, &to])
            }
            Tool::Rsync => {
                let (from_there, to) = pair("box:");
                // A directory without the slash would be put into the copy.
                let slash = if from.is_dir() { "/" } else { "" };
                let shell = format!("ssh -F {}", self.config());
                Program::new("rsync").args(["-r", "-t", "-e", &shell, &format!("{from_there}{slash}"), &to])
            }
            Tool::Sftp => {
                let verb = if way == Way::To { "put" } else { "get" };
                // A directory goes into the one that is named.
                let to = if from.is_dir() { to.parent().unwrap_or(to) } else { to };
                let batch = format!("{verb} -r {} {}\n", from.display(), to.display());
                Program::new("sftp").args(["-F", &self.config(), "-q", "-b", "-", "box"]).input(batch)
            }
            Tool::Rg => unreachable!("it copies nothing"),
        };
        program.deadline(DEADLINE).ok()
    }

    /// Copies the big file onto a copy of which a block in the middle differs.
    fn copy_again(&self, tool: Tool) -> Duration {
        use std::os::unix::fs::FileExt;
        let (from, to) = (self.here.join("big"), self.far.join("again"));
        std::fs::copy(&from, &to).expect("making the older version");
        let length = to.metadata().expect("looking at the older version").len();
        let file = std::fs::File::options().write(true).open(&to).expect("opening the older version");
        file.write_all_at(b"another version", length / 2).expect("changing the older version");
        // Programs that go by times are to see that it is an older one.
        file.set_modified(std::time::UNIX_EPOCH).expect("setting the older version's time");
        let took = self.carry(tool, &from, &to, Way::To).took;
        assert_equal(&from, &to);
        std::fs::remove_file(&to).expect("removing the copy");
        took
    }

    fn search_with_stead(&self) -> Duration {
        let source = format!("ssh://box{}/searched", self.kept.display());
        found_once(self.stead().args(["search", "-F", &source, NEEDLE]).deadline(DEADLINE).ok())
    }

    fn search_with_rg(&self) -> Duration {
        let command = format!("rg -F '{NEEDLE}' {}/searched", self.kept.display());
        let ssh = Program::new("ssh").args(["-F", &self.config(), "box", &command]);
        found_once(ssh.deadline(DEADLINE).ok())
    }
}

fn found_once(found: Finished) -> Duration {
    assert_eq!(found.text().lines().count(), 1, "{found}");
    found.took
}

fn assert_equal(one: &Path, other: &Path) {
    Program::new("cmp").arg(one).arg(other).deadline(DEADLINE).ok();
}
