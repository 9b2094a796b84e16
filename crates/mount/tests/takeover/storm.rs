//! Many kills at any moment, under programs that must not notice.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wire::api::mount::Backend;

use super::{DEADLINE, Field, kill};

/// How many kills; the variable asks for more.
const KILLS: u64 = 40;
const KILLS_VARIABLE: &str = "STEAD_TEST_KILLS";

/// How many files are looked at again and again; the variable asks for more.
const FILES: u64 = 200;
const FILES_VARIABLE: &str = "STEAD_TEST_FILES";

/// The longest pause between two kills, which fall anywhere in it.
const PAUSE_MAX: Duration = Duration::from_millis(60);

/// How long a worker is given to be of use before it is killed: no longer than it takes.
const NAMES: u64 = 60;

/// A generator of numbers that look random (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    /// A number from 0 on, below this.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

fn asked_for(variable: &str, usually: u64) -> u64 {
    std::env::var(variable).ok().map_or(usually, |number| number.parse().unwrap())
}

/// Programs that use the mount until they are told to stop.
struct Users {
    over: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Users {
    fn new() -> Users {
        Users { over: Arc::default(), rounds: Arc::default(), threads: Vec::new() }
    }

    fn add(&mut self, mut round: impl FnMut(u64) + Send + 'static) {
        let (over, rounds) = (self.over.clone(), self.rounds.clone());
        self.threads.push(std::thread::spawn(move || {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                round(number);
                number += 1;
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }

    fn stop(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.rounds.load(Ordering::Relaxed)
    }
}

/// Appends lines, and looks at the end that each is there once, in order.
struct Lines {
    path: PathBuf,
    written: Arc<AtomicU64>,
}

impl Lines {
    fn begin(users: &mut Users, path: PathBuf, append: bool) -> Lines {
        let written = Arc::new(AtomicU64::new(0));
        let mut file = File::options().write(!append).append(append).create_new(true).open(&path).unwrap();
        let count = written.clone();
        users.add(move |number| {
            writeln!(file, "{number:09}").unwrap();
            count.store(number + 1, Ordering::Relaxed);
        });
        Lines { path, written }
    }

    fn check(&self, source: &Path) {
        let written = self.written.load(Ordering::Relaxed);
        let expected: String = (0..written).map(|number| format!("{number:09}\n")).collect();
        let found = fs::read_to_string(source.join(self.path.file_name().unwrap())).unwrap();
        let differs = found.bytes().zip(expected.bytes()).position(|(found, expected)| found != expected);
        assert!(found == expected, "{} bytes of {}, differ at {differs:?}", found.len(), expected.len());
    }
}

fn names(users: &mut Users, directory: PathBuf) {
    fs::create_dir(&directory).unwrap();
    users.add(move |number| {
        let at = |what: &str| directory.join(format!("{what}{}", number % NAMES));
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("dir").join("file"), number.to_string()).unwrap();
        fs::hard_link(at("dir").join("file"), at("link")).unwrap();
        std::os::unix::fs::symlink("somewhere", at("symlink")).unwrap();
        fs::rename(at("dir").join("file"), at("renamed")).unwrap();
        assert_eq!(fs::read_to_string(at("link")).unwrap(), number.to_string());
        let seen = fs::read_dir(&directory)
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| !entry.file_name().is_empty())
            .count();
        assert_eq!(seen, 4);
        fs::remove_file(at("link")).unwrap();
        fs::remove_file(at("renamed")).unwrap();
        fs::remove_file(at("symlink")).unwrap();
        fs::remove_dir(at("dir")).unwrap();
    });
}

/// Writes anywhere in a file, with a copy of it in memory, and reads it back.
fn pages(users: &mut Users, path: PathBuf) {
    const BYTES: u64 = 1 << 20;
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let mut copy = vec![0; BYTES as usize];
    file.set_len(BYTES).unwrap();
    let mut dice = Dice(11);
    users.add(move |number| {
        let (start, length) = (dice.roll(BYTES - 20000), 1 + dice.roll(20000));
        let bytes: Vec<u8> = (0..length).map(|_| dice.roll(256) as u8).collect();
        copy[start as usize..][..bytes.len()].copy_from_slice(&bytes);
        file.seek(SeekFrom::Start(start)).unwrap();
        file.write_all(&bytes).unwrap();
        if number % 8 == 0 {
            file.sync_data().unwrap();
        }
        let mut found = vec![0; 40000];
        let start = dice.roll(BYTES - 40000);
        file.seek(SeekFrom::Start(start)).unwrap();
        file.read_exact(&mut found).unwrap();
        assert!(found == copy[start as usize..][..40000], "round {number}");
    });
}

/// A shell, which ends with this.
struct Shell(std::process::Child);

impl Drop for Shell {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// A program whose working directory is in the mount.
fn within(users: &mut Users, directory: PathBuf) {
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("here"), "yes").unwrap();
    let mut shell = Shell(
        Command::new("sh")
            .args([
                "-c",
                "while read line; do pwd -P >/dev/null && cat here && ls . >/dev/null && echo; done",
            ])
            .current_dir(&directory)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let (mut input, output) = (shell.0.stdin.take().unwrap(), shell.0.stdout.take().unwrap());
    let mut output = std::io::BufReader::new(output);
    users.add(move |_| {
        use std::io::BufRead;
        input.write_all(b"\n").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "yes\n");
        let _ended_with_this = &shell;
    });
}

/// A read-only mapping, and many files that are looked at again and again.
fn looks(users: &mut Users, directory: PathBuf) {
    fs::create_dir(&directory).unwrap();
    let files = asked_for(FILES_VARIABLE, FILES);
    for number in 0..files {
        fs::write(directory.join(format!("{number}")), format!("{number}")).unwrap();
    }
    users.add(move |number| {
        let number = number * 7 % files;
        let path = directory.join(format!("{number}"));
        assert_eq!(fs::metadata(&path).unwrap().len(), number.to_string().len() as u64);
        assert_eq!(fs::read_to_string(&path).unwrap(), number.to_string());
        assert!(!directory.join(format!("none{number}")).exists());
    });
}

#[test]
fn a_worker_killed_at_any_moment_is_not_noticed() {
    let Some(field) = Field::mount(Backend::Fuse, &[]) else { return };
    let kills = asked_for(KILLS_VARIABLE, KILLS);
    let (root, source) = (field.mounted(), field.source());
    let mut users = Users::new();
    let lines = [
        Lines::begin(&mut users, root.join("appended"), true),
        Lines::begin(&mut users, root.join("written"), false),
    ];
    names(&mut users, root.join("names"));
    pages(&mut users, root.join("pages"));
    within(&mut users, root.join("within"));
    looks(&mut users, root.join("looks"));

    let mut dice = Dice(u64::from(std::process::id()));
    eprintln!("seed {}", dice.0);
    let mut gaps = Vec::new();
    for number in 0..kills {
        std::thread::park_timeout(Duration::from_micros(dice.roll(PAUSE_MAX.as_micros() as u64)));
        let worker = field.worker();
        let at = Instant::now();
        kill(worker);
        // Something that no cache of the kernel's answers.
        let asked = rustix::fs::getxattr(root.join("looks"), "user.none", &mut [0; 8][..]);
        assert!(matches!(asked, Err(rustix::io::Errno::NODATA)), "{asked:?}");
        gaps.push(at.elapsed());
        assert!(at.elapsed() < DEADLINE, "kill {number}");
        assert!(users.threads.iter().all(|thread| !thread.is_finished()), "kill {number}: a user has failed");
    }
    let rounds = users.stop();
    gaps.sort();
    let of = |part: f64| gaps[((gaps.len() - 1) as f64 * part) as usize];
    eprintln!(
        "{kills} kills, {rounds} rounds; median {:?}, p99 {:?}, longest {:?}",
        of(0.5),
        of(0.99),
        of(1.0)
    );
    field.status(|status| u64::from(status.restarts) == kills);
    lines.iter().for_each(|lines| lines.check(&source));
    field.stop();
}
