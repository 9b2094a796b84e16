//! The channel to a far machine that is dialled ahead, and what becomes of it.

use std::fs;
use std::time::Duration;

use e2e::faults::field::Field;
use e2e::faults::role::Role;
use e2e::{Kind, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::kill_together;

const SOON: Duration = Duration::from_secs(30);

/// The ssh processes here that go on with a session, by their ids.
fn channels(field: &Field) -> Vec<i32> {
    let ours = field.stead().processes().into_iter();
    let resuming =
        ours.filter(|process| process.command.contains(" -S ") && process.command.contains("--resume"));
    let mut pids: Vec<i32> = resuming.map(|process| process.pid.as_raw_nonzero().get()).collect();
    pids.sort_unstable();
    pids
}

/// A mount over SSH, and the ssh that is held in reserve for it.
fn with_reserve() -> (Field, i32) {
    let field = Field::new(Kind::Ssh, &[]);
    fs::write(field.far.join("f"), "text").unwrap();
    let reserve = reserve(&field);
    (field, reserve)
}

/// The one ssh that goes on with the session: the first stream began it.
#[track_caller]
fn reserve(field: &Field) -> i32 {
    eventually(SOON, "a channel is held in reserve", || channels(field).len() == 1);
    channels(field)[0]
}

#[test]
fn a_successor_goes_on_over_the_channel_that_was_dialled_ahead() {
    let (field, mut reserve) = with_reserve();
    for _ in 0..3 {
        field.kill(Role::Worker);
        field.answers();
        eventually(SOON, "another channel is held in reserve", || channels(&field).len() == 2);
        let now = channels(&field);
        assert!(now.contains(&reserve), "{now:?} without {reserve}");
        reserve = now.into_iter().find(|pid| *pid != reserve).unwrap();
    }
    assert_eq!(fs::read_to_string(field.dir.join("f")).unwrap(), "text");
    field.leaves_nothing();
}

/// The mount goes on without this channel, and with another in reserve.
#[track_caller]
fn goes_on_without(field: Field, reserve: i32) {
    field.answers();
    eventually(SOON, "another channel is held in reserve", || channels(&field).len() == 2);
    assert!(!channels(&field).contains(&reserve));
    field.leaves_nothing();
}

#[test]
fn a_successor_dials_when_the_channel_in_reserve_is_gone() {
    let (field, reserve) = with_reserve();
    // Its worker is not to put another in its place meanwhile.
    let worker = field.holder(Role::Worker);
    worker.signal(Signal::STOP);
    kill_process(Pid::from_raw(reserve).unwrap(), Signal::KILL).unwrap();
    worker.signal(Signal::KILL);
    goes_on_without(field, reserve);
}

#[test]
fn a_successor_dials_when_the_login_is_gone_and_with_it_the_channel_in_reserve() {
    let (field, reserve) = with_reserve();
    let worker = field.holder(Role::Worker);
    worker.signal(Signal::STOP);
    field.kill(Role::Master);
    worker.signal(Signal::KILL);
    goes_on_without(field, reserve);
}

#[test]
fn a_channel_in_reserve_survives_no_mount() {
    let (field, _) = with_reserve();
    field.stead().unmount(field.mount());
    assert_eq!(channels(&field), [0; 0]);
    eventually(SOON, "the machine is left alone", || {
        field.sshd().unwrap().far_processes().iter().all(|process| !process.command.contains("--resume"))
    });
}

#[test]
fn a_channel_in_reserve_survives_no_keeper_and_worker_that_are_killed_together() {
    let (field, _) = with_reserve();
    kill_together(&field, &[Role::Keeper, Role::Worker]);
    eventually(SOON, "its ssh has ended", || channels(&field).is_empty());
}

#[test]
fn a_killed_keeper_costs_the_mount_no_channel_in_reserve_for_long() {
    let (field, reserve) = with_reserve();
    let former = field.kill(Role::Keeper);
    field.successor(Role::Keeper, &former);
    eventually(
        SOON,
        "another channel is held in reserve",
        || matches!(channels(&field)[..], [now] if now != reserve),
    );
    let next = channels(&field)[0];
    field.kill(Role::Worker);
    field.answers();
    assert!(channels(&field).contains(&next));
    field.leaves_nothing();
}
