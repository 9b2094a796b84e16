//! Times and memory that are promised. These measure, so they run alone, one after another.

#![allow(clippy::unwrap_used, reason = "in a test every unexpected error is a failure")]

mod round_trips;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use e2e::{Program, Sshd, Stead, leftovers};

const WORKER_KIB_MAX: u64 = 100 << 10;
const DAEMON_KIB_MAX: u64 = 20 << 10;
const HOST_READY_MAX: Duration = Duration::from_millis(100);
const SSH_READY_MAX: Duration = Duration::from_secs(1);
const FILES: usize = 100_000;
const FILES_PER_DIRECTORY: usize = 1000;

/// For the runner that puts all tests of a file into one process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn time_mounts(stead: &Stead, source: &str, before_each: impl Fn()) -> Duration {
    let dir = stead.dir("mnt");
    let times = (0..7).map(|_| {
        before_each();
        let finished = stead.program().args(["mount", "--json", source]).arg(&dir).ok();
        assert!(leftovers::mounts_below(&dir).contains(&dir), "not ready when it returned");
        stead.ok(&["unmount", dir.to_str().unwrap()]);
        finished.took
    });
    median(times.collect())
}

#[test]
fn a_mount_of_the_host_is_ready_in_a_tenth_of_a_second() {
    let _alone = alone();
    let stead = Stead::new();
    let far = stead.dir("far");
    stead.ok(&["daemon", "start"]);
    let took = time_mounts(&stead, &format!("host:{}", far.display()), || {});
    assert!(took < HOST_READY_MAX, "{took:?}");
    println!("ready in {took:?}");
}

#[test]
fn a_mount_over_ssh_is_ready_in_a_second() {
    let _alone = alone();
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let far = stead.dir("far");
    let source = format!("ssh://box{}", far.display());
    // The agent is in place after the first; the connection is a new one each time.
    time_mounts(&stead, &source, || {});
    let took = time_mounts(&stead, &source, || drop(stead.run(&["disconnect", "ssh://box"])));
    assert!(took < SSH_READY_MAX, "{took:?}");
    println!("ready in {took:?}");
}

#[test]
fn an_idle_daemon_is_small() {
    let _alone = alone();
    let stead = Stead::new();
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    let mount = stead.mount(format!("host:{}", far.display()), &dir, &[]);
    let daemon = stead.daemon_pid();
    let with_mount = leftovers::resident_kib(daemon).unwrap();
    stead.unmount(&mount);
    let idle = leftovers::resident_kib(daemon).unwrap();
    assert!(
        with_mount < DAEMON_KIB_MAX && idle < DAEMON_KIB_MAX,
        "{with_mount} KiB with a mount, {idle} KiB idle"
    );
    println!("{with_mount} KiB with a mount, {idle} KiB idle");
}

#[test]
fn a_worker_that_has_touched_a_hundred_thousand_files_is_small() {
    let _alone = alone();
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    make_files(&far);
    let mount = stead.mount(format!("ssh://box{}", far.display()), &dir, &[]);
    let worker =
        i32::try_from(stead.mount_status(&mount.id).unwrap()["worker"]["pid"].as_i64().unwrap()).unwrap();
    let minutes = Duration::from_secs(400);
    let listed = Program::new("find").arg(&dir).args(["-type", "f", "-printf", "x"]).deadline(minutes).ok();
    assert_eq!(listed.stdout.len(), FILES);
    let after_listing = leftovers::resident_kib(worker).unwrap();
    let read = Program::new("sh")
        .args(["-ec", "find \"$1\" -type f -print0 | xargs -0 -n 500 -P 4 cat | wc -c", "sh"])
        .arg(&dir);
    assert_eq!(read.deadline(minutes).ok().text().trim(), (FILES * 6).to_string());
    let after_reading = leftovers::resident_kib(worker).unwrap();
    println!("{after_listing} KiB after listing, {after_reading} KiB after reading");
    assert!(
        after_reading < WORKER_KIB_MAX,
        "{after_listing} KiB after listing, {after_reading} KiB after reading"
    );
}

#[test]
fn a_worker_that_has_read_and_written_a_gigabyte_is_small() {
    let _alone = alone();
    let stead = Stead::new();
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    let mount = stead.mount(format!("host:{}", far.display()), &dir, &[]);
    let worker =
        i32::try_from(stead.mount_status(&mount.id).unwrap()["worker"]["pid"].as_i64().unwrap()).unwrap();
    let file = dir.join("big");
    Program::new("dd")
        .args(["if=/dev/zero", "bs=1M", "count=1024", "conv=fsync"])
        .arg(format!("of={}", file.display()))
        .ok();
    Program::new("dd")
        .args(["of=/dev/null", "bs=1M", "iflag=direct"])
        .arg(format!("if={}", file.display()))
        .ok();
    let resident = leftovers::resident_kib(worker).unwrap();
    assert!(resident < WORKER_KIB_MAX, "{resident} KiB");
    println!("{resident} KiB");
}

fn make_files(far: &Path) {
    for number in 0..FILES {
        let dir = far.join(format!("d{:03}", number / FILES_PER_DIRECTORY));
        if number % FILES_PER_DIRECTORY == 0 {
            std::fs::create_dir(&dir).unwrap();
        }
        std::fs::write(dir.join(format!("f{number}")), format!("{number:06}")).unwrap();
    }
}
