//! The process that serves a mount dies, or stops.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::faults::dice::Dice;
use e2e::faults::field::Field;
use e2e::faults::role::Role;
use e2e::mapping::Mapping;
use e2e::program::wait_readable;
use e2e::{Kind, assert_same_bytes, eventually};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal};

/// Ends the loops of a scope also when its body panics.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const SOON: Duration = Duration::from_secs(30);

/// Two probes that go unanswered, the pause between them, and the takeover, with room for a busy computer.
const HANG_FOUND_MAX: Duration = Duration::from_secs(60);

on_both! {
    fn a_killed_worker_costs_no_open_file(f) {
        let bytes = Dice::new(1).bytes(300_000);
        fs::write(f.far.join("read"), &bytes).unwrap();
        let mut reading = File::open(f.dir.join("read")).unwrap();
        let mut found = vec![0; 100_000];
        reading.read_exact(&mut found).unwrap();
        let mut writing = OpenOptions::new().read(true).write(true).create_new(true).open(f.dir.join("written")).unwrap();
        writing.write_all(&bytes[..150_000]).unwrap();
        let nameless = OpenOptions::new().read(true).write(true).create_new(true).open(f.dir.join("n")).unwrap();
        nameless.write_all_at(b"no name", 0).unwrap();
        fs::remove_file(f.dir.join("n")).unwrap();
        let inode = writing.metadata().unwrap().ino();

        f.kill(Role::Worker);
        reading.read_to_end(&mut found).unwrap();
        assert_same_bytes!(&found, &bytes);
        writing.write_all(&bytes[150_000..]).unwrap();
        writing.sync_all().unwrap();
        assert_eq!(writing.metadata().unwrap().ino(), inode);
        let mut back = [0; 7];
        nameless.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(&back, b"no name");
        assert_same_bytes!(fs::read(f.far.join("written")).unwrap(), &bytes);
    }

    fn a_killed_worker_costs_no_working_directory(f) {
        let inner = f.dir.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), "text\n").unwrap();
        let mut shell = Command::new("sh")
            .args(["-ec", "read go; cat file; echo new >made; cd ..; ls; pwd -P"])
            .current_dir(&inner)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        f.kill(Role::Worker);
        shell.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let finished = shell.wait_with_output().unwrap();
        let wanted = format!("text\nb\n{}\n", f.dir.join("a").display());
        assert_eq!(String::from_utf8_lossy(&finished.stdout), wanted);
        assert!(finished.status.success());
        assert_eq!(fs::read_to_string(f.far.join("a/b/made")).unwrap(), "new\n");

        // Nor for a moment, while others ask for the directory by its path.
        let here = File::open(&inner).unwrap();
        let path = fs::read_link(format!("/proc/self/fd/{}", here.as_raw_fd())).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stopped = StopOnDrop(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs::symlink_metadata(inner.join("made")).unwrap();
                }
            });
            let looked = scope.spawn(|| {
                let mut looks = 0;
                while !stop.load(Ordering::Relaxed) {
                    let seen = fs::read_link(format!("/proc/self/fd/{}", here.as_raw_fd())).unwrap();
                    if seen != path {
                        return Err(seen);
                    }
                    looks += 1;
                }
                Ok(looks)
            });
            for _ in 0..5 {
                f.kill(Role::Worker);
                f.answers();
            }
            stop.store(true, Ordering::Relaxed);
            assert!(looked.join().unwrap().expect("the directory is where it was") > 0);
        });
    }

    fn a_killed_worker_costs_no_mapping(f) {
        const BYTES: usize = 64 << 10;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(f.dir.join("m")).unwrap();
        file.set_len(BYTES as u64).unwrap();
        let mut mapping = Mapping::shared(&file, BYTES);
        drop(file);
        mapping.bytes_mut()[..10].fill(1);
        f.kill(Role::Worker);
        mapping.bytes_mut()[BYTES - 10..].fill(2);
        assert!(mapping.bytes()[20_000..30_000].iter().all(|byte| *byte == 0));
        mapping.sync();
        let there = fs::read(f.far.join("m")).unwrap();
        assert_same_bytes!(mapping.bytes(), &there);
        assert_eq!((there[0], there[BYTES - 1]), (1, 2));
    }

    fn a_killed_worker_costs_no_directory_stream(f) {
        const NAMES: usize = 3000;
        (0..NAMES).for_each(|number| drop(File::create(f.far.join(format!("a name of some length {number}"))).unwrap()));
        let mut stream = fs::read_dir(&f.dir).unwrap();
        let mut seen = BTreeMap::<_, usize>::new();
        let mut note = |entry: std::io::Result<fs::DirEntry>| {
            *seen.entry(entry.unwrap().file_name()).or_default() += 1;
        };
        stream.by_ref().take(NAMES / 10).for_each(&mut note);
        f.kill(Role::Worker);
        stream.for_each(&mut note);
        assert_eq!(seen.len(), NAMES);
        assert!(seen.values().all(|count| *count == 1), "listed more than once");
    }

    fn a_killed_worker_costs_no_lock(f) {
        let held = File::create(f.dir.join("locked")).unwrap();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        f.kill(Role::Worker);
        let other = File::open(f.dir.join("locked")).unwrap();
        let refused = flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap_err();
        assert_eq!(refused, rustix::io::Errno::WOULDBLOCK);
        let there = File::open(f.far.join("locked")).unwrap();
        let refused = flock(&there, FlockOperation::NonBlockingLockExclusive).unwrap_err();
        assert_eq!(refused, rustix::io::Errno::WOULDBLOCK, "on the machine");
        flock(&held, FlockOperation::Unlock).unwrap();
        eventually(SOON, "an unlocked file can be locked on the machine", || {
            flock(&there, FlockOperation::NonBlockingLockExclusive).is_ok()
        });
    }
}

#[test]
fn a_worker_that_stops_is_replaced() {
    let field = Field::new(Kind::Host, &[]);
    fs::write(field.far.join("f"), "text").unwrap();
    let held = File::open(field.dir.join("f")).unwrap();
    let stopped = field.holder(Role::Worker);
    stopped.signal(Signal::STOP);
    let dir = field.dir.clone();
    let began = Instant::now();
    let waiting = std::thread::spawn(move || fs::read_dir(dir).unwrap().count());
    assert!(stopped.ends_within(HANG_FOUND_MAX), "nobody found out that the worker hangs");
    assert_eq!(waiting.join().unwrap(), 1);
    assert!(began.elapsed() < HANG_FOUND_MAX);
    let mut back = [0; 4];
    held.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"text");
    eventually(SOON, "the mount is active", || field.is_active());
}

#[test]
fn a_worker_that_keeps_dying_fails_the_mount_with_the_reason() {
    let field = Field::new(Kind::Host, &[]);
    let held = File::create(field.dir.join("f")).unwrap();
    // Somebody waits all the time for what nobody answers, and has to be told.
    let there = File::open(field.far.join("f")).unwrap();
    flock(&there, FlockOperation::NonBlockingLockExclusive).unwrap();
    let mut waiting = Command::new("flock").arg(field.dir.join("f")).arg("true").spawn().unwrap();
    let pid = Pid::from_child(&waiting);
    eventually(SOON, "it waits for the lock", || {
        fs::read_to_string(format!("/proc/{pid}/stack")).is_ok_and(|stack| stack.contains("fuse_setlk"))
    });
    let has_failed = || field.state_dir().join("failed").exists();
    eventually(SOON, "the keeper gives up", || {
        let worker = e2e::faults::role::holders(&field, Role::Worker);
        worker.iter().for_each(|worker| worker.signal(Signal::KILL));
        has_failed()
    });
    let mut status = None;
    eventually(SOON, "the mount has failed", || {
        status = field.status();
        status.as_ref().is_some_and(|status| status["status"]["state"] == "failed")
    });
    let reason = status.unwrap()["status"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("signal 9") || reason.contains("SIGKILL"), "{reason}");
    assert!(
        wait_readable(pid, SOON),
        "nobody told who waits: {}",
        e2e::leftovers::stacks_of(pid.as_raw_pid())
    );
    assert!(!waiting.wait().unwrap().success());
    assert!(held.metadata().is_err(), "a file of a mount that failed");
    assert!(!e2e::leftovers::mounts_below(&field.dir).contains(&field.dir));
    field.stead().unmount(field.mount());
    let mount = field.stead().mount(format!("host:{}", field.far.display()), &field.dir, &[]);
    fs::write(field.dir.join("f"), "again").unwrap();
    field.stead().unmount(&mount);
}
