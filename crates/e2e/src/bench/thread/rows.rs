//! What is done in a workspace.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Size;
use super::workspace::{Ground, Kind, Workspace, git, git_program, memory_mib};
use crate::Program;
use crate::bench::contender::drop_caches;
use crate::bench::rows::{again, write_big, write_crate};
use crate::bench::table::median;

/// How often what takes milliseconds is done in a run.
const REPETITIONS: usize = 5;

/// Of a file that is edited.
const EDITED_BYTES: usize = 4096;

/// Where more than so many files would be copied, nobody makes many copies.
const COPIED_FILES_MAX: usize = 100_000;

/// What has been promised.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// So many times what the disk takes.
    Ratio(f64),
    /// In the row's unit.
    Figure(f64),
    None,
}

/// A workload.
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    pub goal: Goal,
    pub work: fn(&Ground<'_>, &Workspace) -> f64,
    who: Who,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    All,
    /// Threads alone.
    Own,
    /// Who copies a tree for each, if it is not too large.
    Many,
}

/// In this order: what comes first finds a workspace that nobody has looked at, and what removes most comes last, since ext4 looks at every
/// file that was removed a short while ago when it makes another.
pub const ROWS: &[Row] = &[
    row("status-warm", "ms", Goal::Ratio(1.0), status_warm),
    row("find-warm", "ms", Goal::Ratio(1.3), find_warm),
    row("read-first", "ms", Goal::Ratio(2.0), read_first),
    row("read-warm", "ms", Goal::Ratio(1.1), read_warm),
    row("memory", "MiB", Goal::Figure(100.0), |ground, space| space.worker_mib(ground)).for_threads(),
    row("write", "s", Goal::Ratio(1.1), write),
    row("make", "ms", Goal::Ratio(3.0), make_files),
    row("find-made", "ms", Goal::None, find_made),
    row("unlink", "ms", Goal::Ratio(3.0), unlink_files),
    row("cargo-build", "s", Goal::Ratio(1.1), cargo_build),
    row("capture", "ms", Goal::Figure(5.0), capture),
    row("create", "ms", Goal::Figure(20.0), create),
    row("drop", "ms", Goal::Figure(20.0), remove),
    row("status-first", "ms", Goal::Ratio(1.0), status_first),
    row("many-create", "s", Goal::None, many_create).for_copies(),
    row("many-disk", "KiB", Goal::None, many_disk).for_copies(),
    row("many-memory", "MiB", Goal::None, many_memory).for_threads(),
];

const fn row(
    name: &'static str,
    unit: &'static str,
    goal: Goal,
    work: fn(&Ground<'_>, &Workspace) -> f64,
) -> Row {
    Row { name, unit, goal, work, who: Who::All }
}

impl Row {
    const fn for_threads(mut self) -> Row {
        self.who = Who::Own;
        self
    }

    const fn for_copies(mut self) -> Row {
        self.who = Who::Many;
        self
    }

    pub fn is_for(&self, kind: Kind, size: &Size) -> bool {
        let copies = matches!(kind, Kind::Disk | Kind::Worktree);
        match self.who {
            Who::All => true,
            Who::Own => kind == Kind::Stead,
            Who::Many => !copies || size.files * size.many <= COPIED_FILES_MAX,
        }
    }
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// The median of a few times, in milliseconds.
fn repeated(mut once: impl FnMut() -> Duration) -> f64 {
    median((0..REPETITIONS).map(|_| milliseconds(once())).collect()).unwrap_or_default()
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn create(ground: &Ground<'_>, of: &Workspace) -> f64 {
    repeated(|| {
        let space = Workspace::planned(ground, of.kind);
        let took = timed(|| space.make(ground));
        space.remove(ground);
        took
    })
}

fn remove(ground: &Ground<'_>, of: &Workspace) -> f64 {
    repeated(|| {
        let space = Workspace::new(ground, of.kind);
        timed(|| space.remove(ground))
    })
}

fn status(dir: &Path) -> Duration {
    let done = git_program(dir).args(["status", "--porcelain"]).ok();
    assert!(done.stdout.is_empty(), "nothing has changed: {done}");
    done.took
}

fn status_first(ground: &Ground<'_>, of: &Workspace) -> f64 {
    repeated(|| {
        let space = Workspace::new(ground, of.kind);
        let took = status(&space.dir);
        space.remove(ground);
        took
    })
}

/// What is repeated until its figure stands, in milliseconds.
fn warm(mut once: impl FnMut() -> Duration) -> f64 {
    once();
    again(|| milliseconds(once()))
}

fn status_warm(_: &Ground<'_>, of: &Workspace) -> f64 {
    warm(|| status(&of.dir))
}

fn find(dir: &Path) -> Duration {
    let find = Program::new("find").arg(dir).args(["-name", ".git", "-prune", "-o", "-printf", "%s %T@\\n"]);
    find.ok().took
}

fn find_warm(_: &Ground<'_>, of: &Workspace) -> f64 {
    warm(|| find(&of.dir))
}

/// All files but git's own.
fn files_of(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut directories) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(at) = directories.pop() {
        for entry in at.read_dir().expect("listing a directory").flatten() {
            match entry.file_type().expect("the kind of an entry").is_dir() {
                true if entry.file_name() == ".git" => {}
                true => directories.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files
}

fn read_all(files: &[PathBuf]) -> Duration {
    let mut piece = Vec::new();
    timed(|| {
        for path in files {
            piece.clear();
            File::open(path).and_then(|mut file| file.read_to_end(&mut piece)).expect("reading a file");
        }
    })
}

fn read_first(_: &Ground<'_>, of: &Workspace) -> f64 {
    let files = files_of(&of.dir);
    drop_caches();
    milliseconds(read_all(&files))
}

fn read_warm(_: &Ground<'_>, of: &Workspace) -> f64 {
    let files = files_of(&of.dir);
    warm(|| read_all(&files))
}

fn write(ground: &Ground<'_>, of: &Workspace) -> f64 {
    let path = of.dir.join("big");
    let took = timed(|| write_big(&path, ground.size.big_bytes));
    std::fs::remove_file(path).expect("removing the big file");
    took.as_secs_f64()
}

/// In directories of a hundred.
fn made(ground: &Ground<'_>, of: &Workspace) -> Vec<PathBuf> {
    let name = |number| of.dir.join(format!("made/{}/file{number}", number / 100));
    (0..ground.size.made).map(name).collect()
}

fn make_files(ground: &Ground<'_>, of: &Workspace) -> f64 {
    let files = made(ground, of);
    for path in files.iter().step_by(100) {
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("making a directory");
    }
    let make = |path: &PathBuf| File::create_new(path).and_then(|mut file| file.write_all(b"made\n"));
    milliseconds(timed(|| files.iter().for_each(|path| make(path).expect("making a file"))))
}

fn find_made(_: &Ground<'_>, of: &Workspace) -> f64 {
    warm(|| find(&of.dir.join("made")))
}

fn unlink_files(ground: &Ground<'_>, of: &Workspace) -> f64 {
    let files = made(ground, of);
    let took = timed(|| files.iter().for_each(|path| std::fs::remove_file(path).expect("removing a file")));
    std::fs::remove_dir_all(of.dir.join("made")).expect("removing directories");
    milliseconds(took)
}

fn cargo_build(_: &Ground<'_>, of: &Workspace) -> f64 {
    let root = of.dir.join("crate");
    write_crate(&root);
    // The compiler is in memory for whoever comes first, too.
    Program::new("rustc").arg("--version").ok();
    let took = timed(|| drop(Program::cargo("build", &root).deadline(Duration::from_secs(600)).ok()));
    std::fs::remove_dir_all(root).expect("removing a crate");
    took.as_secs_f64()
}

/// Of others, a commit.
fn capture(ground: &Ground<'_>, of: &Workspace) -> f64 {
    let path = of.dir.join(ground.repository.file());
    let mut edits = 0_u8;
    repeated(|| {
        edits += 1;
        let file = File::options().write(true).open(&path).expect("opening a file");
        file.write_all_at(&[edits; EDITED_BYTES], 0).expect("editing a file");
        drop(file);
        timed(|| match of.kind {
            Kind::Stead => drop(ground.stead(&["thread", "capture", &of.name, "-m", "edited"])),
            _ => git(&of.dir, &["commit", "-qam", "edited"]),
        })
    })
}

/// Does something with many workspaces at once, beside the first one.
fn with_many(ground: &Ground<'_>, kind: Kind, work: impl FnOnce(&[Workspace], Duration) -> f64) -> f64 {
    let spaces: Vec<Workspace> = (0..ground.size.many).map(|_| Workspace::planned(ground, kind)).collect();
    let took = timed(|| spaces.iter().for_each(|space| space.make(ground)));
    let figure = work(&spaces, took);
    spaces.iter().for_each(|space| space.remove(ground));
    figure
}

fn many_create(ground: &Ground<'_>, of: &Workspace) -> f64 {
    with_many(ground, of.kind, |_, took| took.as_secs_f64())
}

/// Of each.
fn many_disk(ground: &Ground<'_>, of: &Workspace) -> f64 {
    with_many(ground, of.kind, |spaces, _| {
        let all: u64 = spaces.iter().map(|space| space.disk_kib(ground)).sum();
        all as f64 / spaces.len() as f64
    })
}

/// Of each, when git has looked at it.
fn many_memory(ground: &Ground<'_>, of: &Workspace) -> f64 {
    let before = memory_mib(ground);
    with_many(ground, of.kind, |spaces, _| {
        for space in spaces {
            status(&space.dir);
        }
        (memory_mib(ground) - before) / spaces.len() as f64
    })
}
