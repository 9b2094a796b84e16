//! The process that keeps a mount's descriptors dies.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use e2e::faults::field::Field;
use e2e::faults::role::Role;
use e2e::{Kind, eventually};

use crate::kill_together;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_killed_keeper_is_replaced_and_keeps_what_its_predecessor_kept() {
    let field = Field::new(Kind::Host, &[]);
    let mut options = OpenOptions::new();
    let held = options.read(true).write(true).create_new(true).open(field.dir.join("f")).unwrap();
    held.write_all_at(b"before", 0).unwrap();
    let worker = field.holder(Role::Worker).pid;
    let former = field.kill(Role::Keeper);
    field.successor(Role::Keeper, &former);
    assert_eq!(field.holder(Role::Worker).pid, worker, "a keeper's death costs no worker");
    held.write_all_at(b"between", 0).unwrap();
    let former = field.kill(Role::Worker);
    held.write_all_at(b"behind!", 0).unwrap();
    field.successor(Role::Worker, &former);
    held.sync_all().unwrap();
    assert_eq!(fs::read(field.far.join("f")).unwrap(), b"behind!");
    drop(held);
    field.leaves_nothing();
}

#[test]
fn a_keeper_and_a_worker_killed_together_leave_nothing() {
    let field = Field::new(Kind::Host, &[]);
    let _held = File::create(field.dir.join("f")).unwrap();
    kill_together(&field, &[Role::Keeper, Role::Worker]);
    eventually(SOON, "the mount is over, in words", || {
        field.status().is_none_or(|status| status["status"]["state"] == "failed")
    });
    eventually(SOON, "its directory is a directory again", || {
        fs::read_dir(&field.dir).is_ok_and(|entries| entries.count() == 0)
    });
}
