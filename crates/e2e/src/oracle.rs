//! A thread beside a directory of the local disk: the same operations on both, and they must come to the same.
//!
//! ```text
//!            ┌── a checked-out copy on the local disk ──► the same outcome of each operation, the same tree now and then
//!  seed ─────┤
//!            └── a thread of the same repository ◄── kills of its worker, at any moment
//! ```
//!
//! Operations are of few names, so that most of them meet what others have left; more than half are refused, and then with the same
//! error. Files stay open while they are renamed, removed and replaced. What is compared of times are those that were set, to the
//! nanosecond; the others are of the moment.

use std::collections::VecDeque;
use std::fs::{File, FileTimes, Metadata, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, XattrFlags};

use crate::Kind;
use crate::faults::dice::Dice;
use crate::faults::field::{Field, TREE};
use crate::faults::role::Role;
use crate::tree::{Compare, differences};
use crate::wait::pause;

/// How many operations come between two comparisons of the whole trees.
const COMPARED_EVERY: u64 = 500;

/// Names of one directory, and how many a path has: with more long ones, nearly all would lead through what is no directory.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const DEPTHS: [usize; 6] = [1, 1, 1, 2, 2, 3];

/// Files that are open all the time.
const HELD: usize = 4;

/// Most contents take a few pages.
const OFFSET_MAX: u64 = 20_000;
const PIECE_BYTES_MAX: u64 = 6_000;

/// A time that was set is before this one, and any other behind it; in seconds since 1970.
const SET_BEFORE: u64 = 1_000_000_000;

/// Operations that are told of when something came of one.
const TOLD: usize = 20;

/// The longest pause between two kills.
const PAUSE_MAX: Duration = Duration::from_millis(40);

/// A run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub operations: u64,
    /// Of the thread's worker. They end with the operations.
    pub kills: u64,
}

/// What a run did.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub operations: u64,
    /// Operations that both refused.
    pub refused: u64,
    pub kills: u64,
    pub took: Duration,
}

/// What is done to a tree.
#[derive(Clone, Debug)]
enum Operation {
    Write { path: PathBuf, creates: bool, cuts: bool, offset: u64, bytes: Vec<u8> },
    Append { path: PathBuf, bytes: Vec<u8> },
    Cut { path: PathBuf, size: u64 },
    MakeDirectory(PathBuf),
    RemoveDirectory(PathBuf),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, RenameFlags),
    Link(PathBuf, PathBuf),
    Symlink { target: PathBuf, path: PathBuf },
    SetMode(PathBuf, u32),
    SetTime(PathBuf, Duration),
    SetXattr { path: PathBuf, name: &'static str, value: Vec<u8>, flags: XattrFlags },
    RemoveXattr(PathBuf, &'static str),
    Read(PathBuf),
    ReadLink(PathBuf),
    List(PathBuf),
    Look(PathBuf),
    Hold(usize, PathBuf),
    WriteHeld { slot: usize, offset: u64, bytes: Vec<u8> },
    ReadHeld(usize),
    CutHeld(usize, u64),
}

/// One of the two, with what is open in it.
struct Side {
    root: PathBuf,
    held: [Option<File>; HELD],
}

/// What an operation says, or its error's number.
type Outcome = Result<Vec<u8>, i32>;

/// Carries out a run. Panics with the seed, the last operations and what came of them, unless both sides are the same throughout.
#[track_caller]
pub fn run(plan: &Plan) -> Report {
    let began = Instant::now();
    let field = Field::new(Kind::Thread, &[]);
    let disk = field.checked_out("disk").join(TREE);
    let is_over = AtomicBool::new(false);
    let (refused, kills) = std::thread::scope(|scope| {
        let killing = scope.spawn(|| kill(&field, plan, &is_over));
        let ends = EndsKilling(&is_over);
        let refused = compare_all(plan, disk, field.dir.join(TREE));
        drop(ends);
        (refused, killing.join().expect("whoever kills has failed"))
    });
    field.leaves_nothing();
    Report { operations: plan.operations, refused, kills, took: began.elapsed() }
}

/// Also when a difference was found.
struct EndsKilling<'a>(&'a AtomicBool);

impl Drop for EndsKilling<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills the worker as soon as it has answered something, until all is done.
fn kill(field: &Field, plan: &Plan, is_over: &AtomicBool) -> u64 {
    let mut dice = Dice::named(plan.seed, "kills");
    for killed in 0..plan.kills {
        pause(dice.between(Duration::ZERO, PAUSE_MAX));
        if is_over.load(Ordering::Relaxed) {
            return killed;
        }
        field.answers();
        field.kill(Role::Worker);
    }
    plan.kills
}

/// Says how many operations were refused.
fn compare_all(plan: &Plan, disk: PathBuf, thread: PathBuf) -> u64 {
    let mut dice = Dice::named(plan.seed, "operations");
    let mut sides = [disk, thread].map(|root| Side { root, held: Default::default() });
    let (mut refused, mut last) = (0, VecDeque::new());
    for number in 1..=plan.operations {
        let operation = draw(&mut dice);
        if last.len() == TOLD {
            last.pop_front();
        }
        last.push_back(format!("{number}: {}", told(&operation)));
        let [disk, thread] = sides.each_mut().map(|side| side.carry_out(&operation));
        let is_same = disk == thread;
        assert!(
            is_same,
            "seed {}: the disk says {}, the thread {}, of the last of\n{}",
            plan.seed,
            said(&disk),
            said(&thread),
            Vec::from(last).join("\n")
        );
        refused += u64::from(disk.is_err());
        if number % COMPARED_EVERY == 0 || number == plan.operations {
            let [disk, thread] = &sides;
            let found = different(&disk.root, &thread.root);
            assert!(
                found.is_empty(),
                "seed {}: the trees differ:\n{}\nafter\n{}",
                plan.seed,
                found.join("\n"),
                Vec::from(last).join("\n")
            );
        }
    }
    refused
}

fn different(disk: &Path, thread: &Path) -> Vec<String> {
    const COMPARED: Compare = Compare { owners: true, times: false, xattrs: true };
    let mut found = differences(disk, thread, COMPARED);
    let mut paths = vec![PathBuf::new()];
    while let Some(path) = paths.pop() {
        let looked = [disk, thread].map(|root| root.join(&path).symlink_metadata().map(|is| shown(&is)));
        if let [Ok(left), Ok(right)] = &looked
            && left != right
        {
            found.push(format!("{}: {left} / {right}", path.display()));
        }
        let entries = disk.join(&path).read_dir().into_iter().flatten().flatten();
        if !disk.join(&path).is_symlink() {
            paths.extend(entries.map(|entry| path.join(entry.file_name())));
        }
    }
    found
}

fn told(operation: &Operation) -> String {
    let text = format!("{operation:?}");
    text.char_indices().nth(200).map_or(text.clone(), |(end, _)| format!("{}…", &text[..end]))
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Ok(said) => format!("`{}`", said[..said.len().min(200)].escape_ascii()),
        Err(number) => io::Error::from_raw_os_error(*number).to_string(),
    }
}

fn draw(dice: &mut Dice) -> Operation {
    let (one, other) = (path(dice), path(dice));
    let slot = dice.index(HELD);
    let (offset, size) = (dice.below(OFFSET_MAX), dice.below(OFFSET_MAX));
    let length = dice.below(PIECE_BYTES_MAX);
    let bytes = dice.bytes(usize::try_from(length).unwrap_or(0));
    let xattr = *dice.pick(&["user.one", "user.two"]);
    match dice.below(32) {
        0..4 => Operation::Write {
            path: one,
            creates: dice.below(3) > 0,
            cuts: dice.below(3) == 0,
            offset: if dice.below(2) == 0 { 0 } else { offset },
            bytes,
        },
        4 => Operation::Append { path: one, bytes },
        5 => Operation::Cut { path: one, size },
        6..8 => Operation::MakeDirectory(one),
        8 => Operation::RemoveDirectory(one),
        9..11 => Operation::Unlink(one),
        11..14 => {
            let flags = [RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE];
            Operation::Rename(one, other, *dice.pick(&flags))
        }
        14 => Operation::Link(one, other),
        15 => Operation::Symlink { target: Path::new("..").join(other), path: one },
        16 => Operation::SetMode(one, *dice.pick(&[0o644, 0o755, 0o600, 0o444])),
        17..19 => Operation::SetTime(one, Duration::new(dice.below(SET_BEFORE), 123_456_789)),
        19 => {
            let flags = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE];
            Operation::SetXattr {
                path: one,
                name: xattr,
                value: bytes[..bytes.len().min(40)].to_vec(),
                flags: *dice.pick(&flags),
            }
        }
        20 => Operation::RemoveXattr(one, xattr),
        21..23 => Operation::Read(one),
        23 => Operation::ReadLink(one),
        24..26 => Operation::List(one),
        26..28 => Operation::Look(one),
        28 => Operation::Hold(slot, one),
        29 => Operation::WriteHeld { slot, offset, bytes },
        30 => Operation::ReadHeld(slot),
        _ => Operation::CutHeld(slot, size),
    }
}

fn path(dice: &mut Dice) -> PathBuf {
    (0..*dice.pick(&DEPTHS)).map(|_| *dice.pick(&NAMES)).collect()
}

/// What there is to say of a file that is the same on every file system.
fn shown(is: &Metadata) -> String {
    let kind = is.file_type();
    let modified = is.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let modified = if modified.as_secs() < SET_BEFORE { format!("{modified:?}") } else { "now".to_owned() };
    // Each file system has its own idea of what a directory is long and how many names it has.
    let (size, links) = if kind.is_dir() { (0, 0) } else { (is.len(), is.nlink()) };
    let kind = match kind {
        kind if kind.is_dir() => "directory",
        kind if kind.is_symlink() => "symlink",
        kind if kind.is_file() => "file",
        kind if kind.is_fifo() => "fifo",
        _ => "other",
    };
    format!("{kind} {:o} {size} {links} {modified}", is.permissions().mode())
}

impl Side {
    fn carry_out(&mut self, operation: &Operation) -> Outcome {
        let done = self.attempt(operation);
        done.map_err(|error| error.raw_os_error().unwrap_or_else(|| panic!("{operation:?}: {error}")))
    }

    fn attempt(&mut self, operation: &Operation) -> io::Result<Vec<u8>> {
        let at = |path: &PathBuf| self.root.join(path);
        match operation {
            Operation::Write { path, creates, cuts, offset, bytes } => {
                let mut options = OpenOptions::new();
                options
                    .write(true)
                    .create(*creates)
                    .truncate(*cuts)
                    .open(at(path))?
                    .write_all_at(bytes, *offset)?;
            }
            Operation::Append { path, bytes } => {
                OpenOptions::new().append(true).open(at(path))?.write_all(bytes)?;
            }
            Operation::Cut { path, size } => OpenOptions::new().write(true).open(at(path))?.set_len(*size)?,
            Operation::MakeDirectory(path) => std::fs::create_dir(at(path))?,
            Operation::RemoveDirectory(path) => std::fs::remove_dir(at(path))?,
            Operation::Unlink(path) => std::fs::remove_file(at(path))?,
            Operation::Rename(from, to, flags) => {
                rustix::fs::renameat_with(CWD, at(from), CWD, at(to), *flags)?;
            }
            Operation::Link(from, to) => std::fs::hard_link(at(from), at(to))?,
            Operation::Symlink { target, path } => std::os::unix::fs::symlink(target, at(path))?,
            Operation::SetMode(path, mode) => {
                std::fs::set_permissions(at(path), PermissionsExt::from_mode(*mode))?;
            }
            Operation::SetTime(path, time) => {
                let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + *time);
                File::open(at(path))?.set_times(times)?;
            }
            Operation::SetXattr { path, name, value, flags } => {
                rustix::fs::setxattr(at(path), *name, value, *flags)?;
            }
            Operation::RemoveXattr(path, name) => rustix::fs::removexattr(at(path), *name)?,
            Operation::Read(path) => return std::fs::read(at(path)),
            Operation::ReadLink(path) => {
                return Ok(std::fs::read_link(at(path))?.into_os_string().into_encoded_bytes());
            }
            Operation::List(path) => {
                let mut names = Vec::new();
                for entry in at(path).read_dir()? {
                    names.push(entry?.file_name().into_encoded_bytes());
                }
                names.sort_unstable();
                return Ok(names.join(&b'\n'));
            }
            Operation::Look(path) => return Ok(shown(&at(path).symlink_metadata()?).into_bytes()),
            Operation::Hold(slot, path) => {
                let opened = OpenOptions::new().read(true).write(true).open(at(path));
                self.held[*slot] = None;
                self.held[*slot] = Some(opened?);
            }
            Operation::WriteHeld { slot, offset, bytes } => {
                if let Some(file) = &self.held[*slot] {
                    file.write_all_at(bytes, *offset)?;
                }
            }
            Operation::ReadHeld(slot) => {
                let Some(file) = &mut self.held[*slot] else { return Ok(Vec::new()) };
                let mut content = shown(&file.metadata()?).into_bytes();
                file.rewind()?;
                file.read_to_end(&mut content)?;
                return Ok(content);
            }
            Operation::CutHeld(slot, size) => {
                if let Some(file) = &self.held[*slot] {
                    file.set_len(*size)?;
                }
            }
        }
        Ok(Vec::new())
    }
}
