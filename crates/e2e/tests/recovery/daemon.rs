//! The daemon dies, or is restarted, with mounts in use.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::Kind;
use e2e::faults::field::Field;
use e2e::faults::role::Role;

/// What nobody is to wait longer than while the daemon restarts.
const WAIT_MAX: Duration = Duration::from_secs(1);

const RESTARTS: usize = 3;

fn pids(field: &Field, roles: &[Role]) -> Vec<i32> {
    roles.iter().map(|role| field.holder(*role).pid).collect()
}

#[test]
fn a_killed_daemon_costs_no_mount() {
    let field = Field::new(Kind::Ssh, &[]);
    fs::write(field.dir.join("f"), "text").unwrap();
    let held = File::open(field.dir.join("f")).unwrap();
    let roles = [Role::Keeper, Role::Worker, Role::Master, Role::Agent];
    let before = pids(&field, &roles);
    field.kill(Role::Daemon);
    fs::write(field.dir.join("g"), "without a daemon").unwrap();
    assert_eq!(fs::read_to_string(field.far.join("g")).unwrap(), "without a daemon");
    let status = field.status().expect("the next daemon knows the mount");
    assert_eq!(status["status"]["state"], "active", "{status}");
    assert_eq!(pids(&field, &roles), before, "all are the same as before");
    let mut back = [0; 4];
    held.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"text");
    drop(held);
    field.leaves_nothing();
}

#[test]
fn a_daemon_restarts_while_its_mounts_are_in_use() {
    let field = Field::new(Kind::Host, &[]);
    let held = File::create(field.dir.join("f")).unwrap();
    let worker = field.holder(Role::Worker).pid;
    let ended = AtomicBool::new(false);
    let longest = std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            let mut number = 0_u64;
            while !ended.load(Ordering::Relaxed) {
                let began = Instant::now();
                held.write_all_at(&number.to_le_bytes(), 0).unwrap();
                held.sync_all().unwrap();
                fs::write(field.dir.join("g"), number.to_string()).unwrap();
                assert!(!field.dir.join(number.to_string()).exists());
                longest = longest.max(began.elapsed());
                number += 1;
            }
            longest
        });
        for _ in 0..RESTARTS {
            let before = field.holder(Role::Daemon).pid;
            let finished = field.stead().run(&["daemon", "restart"]);
            let after = field.stead().daemon_pid();
            if !finished.status.success() || after == before {
                ended.store(true, Ordering::Relaxed);
                panic!("{before} became {after}: {finished}");
            }
        }
        ended.store(true, Ordering::Relaxed);
        user.join().unwrap()
    });
    assert!(longest < WAIT_MAX, "a request waited {longest:?}");
    assert_eq!(field.holder(Role::Worker).pid, worker, "the worker is the same as before");
    assert!(field.is_active());
}
