//! A process that is killed while it works: what it had done is there, and nothing else but its last step.

use std::io::BufRead;
use std::process::{Child, Command, Stdio};

use super::*;

const REPOSITORY: &str = "STEAD_TEST_REPOSITORY";
const THREAD: &str = "STEAD_TEST_THREAD";
const FIRST: &str = "STEAD_TEST_FIRST";

/// A worker ends by itself, if nobody is there any more who would kill it.
const STEPS_MAX: u64 = 20_000;

/// Of three files one is removed again.
fn is_removed(number: u64) -> bool {
    number.is_multiple_of(3)
}

/// What the test below starts, and kills.
#[test]
#[ignore = "a process for another test"]
fn worker() {
    let (Some(repository), Some(directory)) = (std::env::var_os(REPOSITORY), std::env::var_os(THREAD)) else {
        return;
    };
    let first: u64 = std::env::var(FIRST).expect("a number").parse().expect("a number");
    let directory = Path::new(&directory);
    let objects = Arc::new(Objects::discover(Path::new(&repository)).expect("a repository"));
    let blobs = Arc::new(BlobCache::open(&directory.with_file_name("blobs"), 1 << 20).expect("opened"));
    let thread = Thread::open(directory, objects, blobs).expect("opened");
    let (dir, mut said) = (ino(&thread, "dir"), io::stderr());
    for number in first..first + STEPS_MAX {
        let (made, mut file) = thread.create(Ino::ROOT, b"new", NEW_FILE, at(1)).expect("made");
        file.write_all(format!("content {number}").as_bytes()).expect("written");
        write(&thread, ino(&thread, "file"), 0, &number.to_le_bytes());
        let name = format!("m-{number}");
        let to = (dir, name.as_bytes());
        thread
            .rename((Ino::ROOT, b"new"), to, RenameMode::NoReplace, Remains::Nothing, at(2))
            .expect("moved");
        if is_removed(number) {
            thread.unlink(dir, name.as_bytes(), Remains::Nothing, at(3)).expect("removed");
        }
        // Records of some steps are in a compacted log.
        if number.is_multiple_of(16) {
            thread.compact().expect("compacted");
        }
        said.write_all(format!("{number} {}\n", made.ino.0).as_bytes()).expect("said");
    }
}

struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended already is no matter.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a worker, kills it when it has done so many steps, and gives all that it had said: numbers of steps and files.
fn killed_after(steps: usize, bench: &Bench, first: u64) -> Vec<(u64, Ino)> {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .args(["thread::tests::killed::worker", "--exact", "--ignored", "--nocapture"])
        .env(REPOSITORY, bench.repository.path())
        .env(THREAD, bench.scratch.path().join("thread"))
        .env(FIRST, first.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = io::BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut worker = Worker(child);
    let parse = |line: String| {
        let (number, ino) = line.split_once(' ').unwrap_or_else(|| panic!("the worker says {line:?}"));
        (number.parse().expect("a number"), Ino(ino.parse().expect("a number")))
    };
    let mut done = Vec::new();
    while done.len() < steps {
        done.push(parse(lines.next().expect("it goes on").expect("read")));
    }
    worker.0.kill().expect("killed");
    worker.0.wait().expect("gone");
    done.extend(lines.map(|line| parse(line.expect("read"))));
    done
}

#[test]
fn what_a_killed_process_had_done_is_there() {
    let bench = Bench::new();
    drop(bench.begin("thread"));
    let mut done: Vec<(u64, Ino)> = Vec::new();
    for round in 0..4 {
        let first = done.last().map_or(0, |(last, _)| last + 1);
        // The worker before may have left a step half done.
        let thread = bench.open("thread");
        if lookup(&thread, "new").is_some() {
            thread.unlink(Ino::ROOT, b"new", Remains::Nothing, at(9)).expect("removed");
        }
        let directory = ino(&thread, "dir");
        let half = format!("m-{first}");
        if thread.lookup(directory, half.as_bytes()).expect("looked up").is_some() {
            thread.unlink(directory, half.as_bytes(), Remains::Nothing, at(9)).expect("removed");
        }
        drop(thread);
        done.extend(killed_after(10 + 13 * round, &bench, first));
        let thread = bench.open("thread");
        for (number, number_of_file) in &done {
            let found = lookup(&thread, &format!("dir/m-{number}"));
            if is_removed(*number) {
                assert_eq!(found, None, "{number}");
                continue;
            }
            assert_eq!(found.expect("there").ino, *number_of_file);
            assert_eq!(content(&thread, *number_of_file), format!("content {number}").into_bytes());
        }
        let (last, _) = done.last().expect("some");
        let names = names(&thread, directory);
        let next = format!("m-{}", last + 1);
        let kept = done.iter().filter(|(number, _)| !is_removed(*number)).count();
        let own = names.iter().filter(|name| name.starts_with("m-") && **name != next).count();
        assert_eq!(own, kept, "nothing is there that was not done");
        thread.sweep().expect("swept");
        let is_half = lookup(&thread, "new").is_some() || names.contains(&next);
        assert_eq!(plain_files(&thread), kept + 1 + usize::from(is_half), "and the file of the base");
    }
}
