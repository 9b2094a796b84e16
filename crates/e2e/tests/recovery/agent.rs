//! The agent of a mount that nobody goes on with.

use std::fs::File;
use std::time::Duration;

use e2e::faults::field::Field;
use e2e::faults::role::{Role, holders};
use e2e::{Kind, eventually};

use crate::kill_together;

const SOON: Duration = Duration::from_secs(30);

#[track_caller]
fn agent_ends(field: &Field) {
    eventually(SOON, "the agent has ended", || holders(field, Role::Agent).is_empty());
}

on_both! {
    fn an_agent_ends_with_a_mount_that_fails(field) {
        let _held = File::create(field.dir.join("f")).unwrap();
        field.holder(Role::Agent);
        kill_together(field, &[Role::Keeper, Role::Worker]);
        agent_ends(field);
        assert_eq!(field.status().unwrap()["status"]["state"], "failed");
        let owed = field.state_dir().join("session");
        eventually(SOON, "nothing more is owed to it", || !owed.exists());
        field.stead().unmount(field.mount());
    }

    fn an_agent_ends_with_a_mount_that_the_next_daemon_takes_away(field) {
        let _held = File::create(field.dir.join("f")).unwrap();
        field.holder(Role::Agent);
        kill_together(field, &[Role::Daemon, Role::Keeper, Role::Worker]);
        // The first command to come starts the next daemon. No connection is made for a goodbye.
        field.stead().status();
        if field.kind == Kind::Ssh {
            assert!(!holders(field, Role::Agent).is_empty());
            field.stead().ok(&["exec", "box", "--", "true"]);
        }
        agent_ends(field);
    }
}
