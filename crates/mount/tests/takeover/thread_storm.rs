//! Programs that do anything to a thread and to a plain directory alike, while the worker is killed at any moment: they must not
//! notice, and both must be the same at the end.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, XattrFlags};

use super::storm::Dice;
use super::thread::{Contents, Origin, seen};
use super::{DEADLINE, kill};

/// How many kills; the variable asks for more.
const KILLS: u64 = 30;
const KILLS_VARIABLE: &str = "STEAD_TEST_KILLS";

/// The longest pause between two kills.
const PAUSE_MAX: Duration = Duration::from_millis(60);

/// Programs at once, each in a directory of its own.
const PROGRAMS: u64 = 4;

/// Names that a program uses: few, so that they meet.
const NAMES: [&str; 8] = ["a", "b", "c", "d/a", "d/b", "d", "e", "e/a"];

/// Files that a program keeps open.
const OPEN_MAX: usize = 6;

/// What an operation came to, as far as it is the same in both.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    To(Vec<u8>),
    Refused(Option<i32>),
}

fn came<T>(outcome: io::Result<T>, to: impl FnOnce(T) -> Vec<u8>) -> Came {
    match outcome {
        Ok(outcome) => Came::To(to(outcome)),
        Err(error) => Came::Refused(error.raw_os_error()),
    }
}

/// One of the two directories, with what is open in it.
struct Side {
    root: PathBuf,
    open: Vec<File>,
}

/// An operation, chosen by `dice`. The same dice choose the same.
fn act(side: &mut Side, dice: &mut Dice) -> (u64, Came) {
    let mut path = || side.root.join(NAMES[dice.roll(NAMES.len() as u64) as usize]);
    let (one, other) = (path(), path());
    let (operation, offset, length) = (dice.roll(18), dice.roll(20_000), 1 + dice.roll(9_000) as usize);
    let (byte, pick) = (dice.roll(256) as u8, dice.roll(OPEN_MAX as u64) as usize);
    let nothing = |()| Vec::new();
    let errno = |outcome: rustix::io::Result<()>| outcome.map_err(io::Error::from);
    let outcome = match operation {
        0 => came(fs::create_dir(one), nothing),
        1 => came(fs::remove_dir(one), nothing),
        2 => came(fs::remove_file(one), nothing),
        3 => came(fs::rename(one, other), nothing),
        4 => came(errno(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)), nothing),
        5 => came(errno(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::NOREPLACE)), nothing),
        6 => came(fs::hard_link(one, other), nothing),
        7 => came(symlink("somewhere", one), nothing),
        8 => came(File::create_new(one), |_| Vec::new()),
        9 => came(fs::write(one, vec![byte; length]), nothing),
        10 => came(fs::read(one), |bytes| bytes),
        11 => {
            let mode = 0o400 | u32::from(byte) & 0o377;
            // What a symlink leads to is not there, but may be called so in one and not the other.
            match fs::symlink_metadata(&one).map(|found| found.is_symlink()) {
                Ok(true) => Came::To(Vec::new()),
                _ => came(fs::set_permissions(one, fs::Permissions::from_mode(mode)), nothing),
            }
        }
        12 => {
            let opened =
                File::options().read(true).write(true).create(byte % 2 == 0).truncate(false).open(one);
            came(opened, |file| {
                side.open.push(file);
                if side.open.len() > OPEN_MAX {
                    side.open.remove(pick.min(OPEN_MAX - 1));
                }
                Vec::new()
            })
        }
        13 => match side.open.get(pick) {
            Some(file) => came(file.write_all_at(&vec![byte; length], offset), nothing),
            None => Came::To(Vec::new()),
        },
        14 => match side.open.get(pick) {
            Some(file) => {
                let mut bytes = vec![0; length];
                came(file.read_at(&mut bytes, offset), |read| bytes[..read].to_vec())
            }
            None => Came::To(Vec::new()),
        },
        15 => match side.open.get(pick) {
            Some(file) => came(file.set_len(offset), nothing),
            None => Came::To(Vec::new()),
        },
        16 => match side.open.get(pick) {
            Some(file) => came(file.metadata(), |found| {
                format!("{:o} {} {}", found.mode(), found.nlink(), found.len()).into_bytes()
            }),
            None => Came::To(Vec::new()),
        },
        _ => {
            let how = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE][byte as usize % 3];
            match byte % 4 {
                0 => came(errno(rustix::fs::lremovexattr(one, "user.x")), nothing),
                _ => came(errno(rustix::fs::lsetxattr(one, "user.x", &[byte], how)), nothing),
            }
        }
    };
    (operation, outcome)
}

/// Does the same to both, and looks that it comes to the same.
fn program(thread: &Path, plain: &Path, seed: u64, over: &AtomicBool, rounds: &AtomicU64) {
    let mut sides = [thread, plain].map(|root| {
        fs::create_dir(root).unwrap();
        Side { root: root.to_owned(), open: Vec::new() }
    });
    let mut dice = Dice(seed);
    while !over.load(Ordering::Relaxed) {
        let start = dice.0;
        let [(_, served), (operation, expected)] = sides.each_mut().map(|side| {
            dice.0 = start;
            act(side, &mut dice)
        });
        assert!(
            served == expected,
            "operation {operation} of {start:#x}: {served:?} instead of {expected:?}"
        );
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}

fn storm(contents: Contents) {
    let origin = Origin::new();
    let Some(field) = origin.mount(contents) else { return };
    let kills = std::env::var(KILLS_VARIABLE).ok().map_or(KILLS, |number| number.parse().unwrap());
    let plain = tempfile::tempdir().unwrap();
    let seed = u64::from(std::process::id()) << 20;
    eprintln!("seed {seed:#x}");
    let (over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let programs: Vec<_> = (0..PROGRAMS)
        .map(|number| {
            let name = format!("program-{number}");
            let (thread, plain) = (field.mounted().join(&name), plain.path().join(&name));
            let (over, rounds) = (over.clone(), rounds.clone());
            std::thread::spawn(move || program(&thread, &plain, seed + number, &over, &rounds))
        })
        .collect();
    let mut dice = Dice(seed);
    for number in 0..kills {
        std::thread::park_timeout(Duration::from_micros(dice.roll(PAUSE_MAX.as_micros() as u64)));
        let worker = field.worker();
        let at = Instant::now();
        kill(worker);
        // Something that no cache of the kernel's answers.
        let asked = rustix::fs::getxattr(field.mounted().join("dir"), "user.none", &mut [0; 8][..]);
        assert!(matches!(asked, Err(rustix::io::Errno::NODATA)), "{asked:?}");
        assert!(at.elapsed() < DEADLINE, "kill {number}");
        assert!(programs.iter().all(|program| !program.is_finished()), "kill {number}: a program has failed");
    }
    over.store(true, Ordering::Relaxed);
    programs.into_iter().for_each(|program| program.join().unwrap());
    eprintln!("{kills} kills, {} rounds", rounds.load(Ordering::Relaxed));
    for number in 0..PROGRAMS {
        let name = format!("program-{number}");
        assert_eq!(seen(&field.mounted().join(&name)), seen(&plain.path().join(&name)), "{name}");
    }
    let before = seen(&field.mounted());
    field.stop();
    let field = origin.mount(contents).unwrap();
    assert_eq!(seen(&field.mounted()), before);
    field.stop();
}

#[test]
fn a_worker_killed_at_any_moment_is_not_noticed_where_files_are_passed_through() {
    storm(Contents::PassedThrough);
}

#[test]
fn a_worker_killed_at_any_moment_is_not_noticed_where_it_serves_contents() {
    storm(Contents::Served);
}
