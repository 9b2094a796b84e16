//! The data cache: what has been read is read again from this computer's disk, and only while it is what the machine has.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::faults::dice::Dice;
use e2e::stead::is_root;
use e2e::{DelayProxy, Mount, Sshd, Stead, assert_same_bytes, eventually};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// A machine, with a tree of it that is mounted again and again.
struct Machine {
    far: PathBuf,
    dir: PathBuf,
    // In the order in which they have to go.
    stead: Stead,
    _sshd: Sshd,
}

impl Machine {
    /// With a tree of `large` files of 1 to 3 MiB, and `small` ones of up to 100 KiB.
    fn new(large: u64, small: u64) -> Machine {
        let sshd = Sshd::start();
        let stead = Stead::with_ssh(&sshd);
        let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
        let mut dice = Dice::new(7);
        for n in 0..large {
            std::fs::write(
                far.join(format!("large{n}")),
                dice.bytes((MIB + n * 77_777 % (2 * MIB)) as usize),
            )
            .unwrap();
        }
        for n in 0..small {
            let path = far.join(format!("d{}/small{n}", n % 10));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, dice.bytes((1 + n * 7919 % 100_000) as usize)).unwrap();
        }
        let made = Machine { far, dir, stead, _sshd: sshd };
        made.files().iter().for_each(|file| settled(&made.far.join(file)));
        made
    }

    fn mount(&self, options: &[&str]) -> Mount {
        self.stead.mount(format!("ssh://box{}", self.far.display()), &self.dir, options)
    }

    /// The files of the tree, by their paths in it.
    fn files(&self) -> Vec<PathBuf> {
        let mut waiting = vec![self.far.clone()];
        let mut files = Vec::new();
        while let Some(directory) = waiting.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => waiting.push(path),
                    false => files.push(path.strip_prefix(&self.far).unwrap().to_owned()),
                }
            }
        }
        files.sort();
        files
    }

    fn bytes(&self) -> u64 {
        self.files().iter().map(|file| self.far.join(file).metadata().unwrap().len()).sum()
    }

    fn assert_same(&self) {
        for file in self.files() {
            let (here, there) = (self.dir.join(&file), self.far.join(&file));
            assert_same_bytes!(std::fs::read(here).unwrap(), std::fs::read(there).unwrap());
        }
    }

    /// Mounts, reads everything, compares it, and unmounts. What the mount has counted.
    fn read_all(&self, options: &[&str]) -> Value {
        let mount = self.mount(options);
        self.assert_same();
        let counters = self.stead.mount_status(&mount.id).unwrap()["counters"].clone();
        self.stead.unmount(&mount);
        counters
    }

    fn shown(&self) -> Value {
        self.stead.json(&["cache", "show"])
    }

    fn place(&self) -> PathBuf {
        self.stead.home().join("cache")
    }
}

/// Waits until the file's last change is so long ago that it is told from every later one.
fn settled(path: &Path) {
    eventually(SOON, "the change is old", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        now >= path.metadata().unwrap().ctime() as u64 + 4
    });
}

fn count(counters: &Value, name: &str) -> u64 {
    counters[name].as_u64().unwrap_or_else(|| panic!("no {name} in {counters}"))
}

/// Files below a directory, with their lengths.
fn kept_in(place: &Path) -> Vec<(PathBuf, u64)> {
    let mut waiting = vec![place.to_owned()];
    let mut files = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => waiting.push(path),
                Ok(metadata) => files.push((path, metadata.len())),
                // It went away meanwhile.
                Err(_) => {}
            }
        }
    }
    files
}

#[test]
fn what_was_read_once_is_read_after_a_remount_without_the_machine_sending_it() {
    let b = Machine::new(24, 600);
    let bytes = b.bytes();
    assert!(bytes > 64 * MIB, "{bytes}");
    let first = b.read_all(&[]);
    assert!(count(&first, "bytes_read") > bytes, "{first}");
    let kept = b.shown();
    assert_eq!(kept["machines"][0]["files"], 624, "{kept}");
    // Also by a daemon that knows nothing of the mount before.
    b.stead.ok(&["daemon", "stop"]);
    let again = b.read_all(&[]);
    println!("first {first}\nagain {again}\nkept {kept}");
    assert!(count(&again, "bytes_cached") >= bytes, "{again}");
    assert!(count(&again, "bytes_read") < MIB, "names and attributes only: {again}");
}

#[test]
fn what_was_read_once_of_a_far_machine_is_opened_after_a_remount_without_a_round_trip() {
    let sshd = Sshd::start();
    let proxy = DelayProxy::start(sshd.port(), Duration::from_millis(20));
    sshd.add_host("box", proxy.port(), &[("HostKeyAlias", "box")]);
    let stead = Stead::with_ssh(&sshd);
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    (0..200).for_each(|n| std::fs::write(far.join(format!("f{n}")), format!("content {n}")).unwrap());
    settled(&far.join("f199"));
    let read = || {
        let mount = stead.mount(format!("ssh://box{}", far.display()), &dir, &[]);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 200);
        let trips = || count(&stead.mount_status(&mount.id).unwrap()["counters"], "round_trips");
        let before = trips();
        (0..200).for_each(|n| {
            assert_eq!(std::fs::read_to_string(dir.join(format!("f{n}"))).unwrap(), format!("content {n}"));
        });
        let trips = trips() - before;
        stead.unmount(&mount);
        trips
    };
    let (first, again) = (read(), read());
    println!("{first} round trips at first, {again} again, for 200 files");
    assert!(first > 0 && again < 20, "{first} {again}");
}

#[test]
fn a_file_that_changed_on_the_machine_while_it_was_not_mounted_is_read_anew() {
    let b = Machine::new(1, 10);
    b.read_all(&[]);
    for file in b.files() {
        let path = b.far.join(&file);
        let before = path.metadata().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        // In place, of the same size, and with the time of modification that it had.
        std::fs::write(&path, &bytes).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(before.modified().unwrap())
            .unwrap();
        let after = path.metadata().unwrap();
        assert_eq!(
            (after.len(), after.modified().unwrap(), after.ino()),
            (before.len(), before.modified().unwrap(), before.ino())
        );
    }
    let again = b.read_all(&[]);
    assert!(count(&again, "bytes_read") > b.bytes(), "{again}");
    // One that takes the place of another, with the times that it had.
    let old = b.far.join("large0");
    let times = std::fs::FileTimes::new().set_modified(old.metadata().unwrap().modified().unwrap());
    let bytes = Dice::new(8).bytes(old.metadata().unwrap().len() as usize);
    std::fs::write(b.far.join("new"), bytes).unwrap();
    std::fs::File::options().write(true).open(b.far.join("new")).unwrap().set_times(times).unwrap();
    std::fs::rename(b.far.join("new"), &old).unwrap();
    b.read_all(&[]);
}

#[test]
fn the_cache_keeps_to_its_limit_over_all_mounts() {
    let b = Machine::new(6, 100);
    let limit = 2 * MIB;
    let both = [
        b.mount(&["-o", "cache-size=2M"]),
        b.stead.mount(format!("ssh://box{}", b.far.display()), &b.stead.dir("other"), &[]),
    ];
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            for file in b.files() {
                assert_same_bytes!(
                    std::fs::read(b.stead.root().join("other").join(&file)).unwrap(),
                    std::fs::read(b.far.join(&file)).unwrap()
                );
            }
        });
        b.assert_same();
        other.join().unwrap();
    });
    both.iter().for_each(|mount| b.stead.unmount(mount));
    let shown = b.shown();
    assert_eq!(shown["limit"], limit, "{shown}");
    let bytes = count(&shown, "bytes");
    assert!(bytes > limit / 2 && bytes <= limit, "{shown}");
    b.read_all(&[]);
    assert!(count(&b.shown(), "bytes") <= limit);
}

#[test]
fn a_cleared_cache_is_empty_and_comes_again() {
    let b = Machine::new(2, 20);
    b.read_all(&[]);
    let shown = b.shown();
    assert_eq!(
        (&shown["machines"][0]["machine"], &shown["machines"][0]["files"]),
        (&Value::from("ssh://box"), &Value::from(22)),
        "{shown}"
    );
    assert!(count(&shown, "bytes") >= b.bytes());
    assert_eq!(shown["dir"], b.place().to_str().unwrap());
    let nothing = b.stead.json(&["cache", "clear", "ssh://other"]);
    assert_eq!(nothing["files"], 0, "{nothing}");
    let text = b.stead.ok(&["cache", "show"]).text();
    assert!(text.contains("ssh://box") && text.contains("22"), "{text}");
    // A mount goes on.
    let mount = b.mount(&[]);
    b.assert_same();
    let cleared = b.stead.json(&["cache", "clear", "box"]);
    assert_eq!(cleared["files"], 22, "{cleared}");
    b.stead.unmount(&mount);
    assert_eq!(b.shown()["bytes"], 0);
    let again = b.read_all(&[]);
    assert!(count(&again, "bytes_read") > b.bytes(), "{again}");
    b.stead.ok(&["cache", "clear"]);
    assert_eq!(b.shown()["machines"].as_array().unwrap().len(), 0);
}

#[test]
fn nothing_is_kept_of_this_computer_or_where_that_is_not_wanted() {
    let b = Machine::new(1, 5);
    let counters = b.read_all(&["-o", "cache-size=0"]);
    assert_eq!(count(&counters, "bytes_cached"), 0);
    let here = b.stead.mount(&b.far, &b.dir, &[]);
    b.assert_same();
    b.stead.unmount(&here);
    assert_eq!(kept_in(&b.place()), []);
    // Unless it is asked for.
    let here = b.stead.mount(&b.far, &b.dir, &["-o", "cache-size=64M"]);
    b.assert_same();
    b.stead.unmount(&here);
    assert_eq!(b.shown()["machines"][0]["machine"], "host");
}

#[test]
fn a_worker_that_is_killed_while_it_fills_the_cache_leaves_no_wrong_byte() {
    let b = Machine::new(8, 100);
    let mut dice = Dice::new(3);
    for round in 0..4u64 {
        let mount = b.mount(&["-o", "cache-size=12M"]);
        let worker = b.stead.mount_status(&mount.id).unwrap()["worker"]["pid"].as_i64().unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| b.assert_same());
            // At another point of each round.
            let filled = (1 + round * 2) * MIB;
            eventually(SOON, "the cache fills", || {
                reader.is_finished()
                    || kept_in(&b.place()).iter().map(|(_, length)| length).sum::<u64>() >= filled
            });
            kill_process(Pid::from_raw(worker as i32).unwrap(), Signal::KILL).unwrap();
        });
        b.assert_same();
        b.stead.unmount(&mount);
        // And the computer goes down: of what was written last there are lengths without blocks, or halves.
        let kept = kept_in(&b.place());
        for (path, length) in kept.iter().filter(|(path, _)| path.extension().is_some()).take(50) {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            let cut = u64::from(dice.bytes(1)[0]) * length / 256;
            file.set_len(cut).unwrap();
            if cut % 2 == 0 {
                file.set_len(*length).unwrap();
            }
        }
        b.read_all(&[]);
        let bytes = count(&b.shown(), "bytes");
        assert!(bytes > 0 && bytes <= 12 * MIB, "{bytes}");
    }
}

#[test]
fn a_full_cache_disk_harms_no_reader() {
    if !is_root() {
        return;
    }
    let b = Machine::new(4, 50);
    b.stead.ok(&["daemon", "start"]);
    std::fs::create_dir(b.place()).unwrap();
    rustix::mount::mount("e2e", b.place(), "tmpfs", MountFlags::empty(), c"size=1m,mode=700").unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..2 {
            let mount = b.mount(&["-o", "cache-size=1G"]);
            b.assert_same();
            std::fs::write(b.dir.join("written"), b"here").unwrap();
            assert_eq!(std::fs::read(b.dir.join("written")).unwrap(), b"here");
            let status = b.stead.mount_status(&mount.id).unwrap();
            assert_eq!(status["status"]["state"], "active", "{status}");
            b.stead.unmount(&mount);
        }
        let bytes = count(&b.shown(), "bytes");
        assert!(bytes > 0 && bytes <= MIB, "as far as there was room: {bytes}");
    }));
    rustix::mount::unmount(b.place(), UnmountFlags::DETACH).unwrap();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
