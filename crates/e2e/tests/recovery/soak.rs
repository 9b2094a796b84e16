//! The workload under faults, for a bounded time. `cargo xtask soak` runs it for as long as asked.

use std::time::Duration;

use e2e::Kind;
use e2e::faults::fault::Sort;
use e2e::faults::role::Role;
use e2e::faults::{COMPARED, Plan, run, run_locally};
use e2e::tree::assert_same;

/// Longer ones take longer and are found out in the same way: `cargo xtask soak` has them.
const OUTAGE_MAX: Duration = Duration::from_secs(1);

fn survives(kind: Kind, seed: u64, sorts: &[Sort], faults: u32) {
    let mut plan = Plan::new(kind, seed, sorts, faults);
    plan.outage_max = OUTAGE_MAX;
    let report = run(&plan);
    assert!(report.struck.len() >= faults as usize, "only {} faults came", report.struck.len());
    println!("{} faults, {} passes, {:?}", report.struck.len(), report.passes, report.took);
}

#[test]
fn the_workload_leaves_the_same_tree_each_time() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    for name in ["one", "two"] {
        std::fs::create_dir(at(name)).unwrap();
        run_locally(&Plan::new(Kind::Disk, 7, &[], 0), &at(name), &at(name).join("tree"));
    }
    assert_same(&at("one").join("tree"), &at("two").join("tree"), COMPARED);
}

#[test]
fn a_workload_survives_kills_of_the_worker_on_this_host() {
    survives(Kind::Host, 11, &[Sort::Kill(Role::Worker)], 40);
}

#[test]
fn a_workload_survives_kills_of_the_worker_over_ssh() {
    survives(Kind::Ssh, 12, &[Sort::Kill(Role::Worker)], 40);
}

#[test]
fn a_workload_survives_kills_of_the_keeper_and_the_daemon() {
    let sorts = [Sort::Kill(Role::Keeper), Sort::Kill(Role::Daemon), Sort::Restart];
    survives(Kind::Host, 13, &sorts, 12);
}

#[test]
fn a_workload_survives_the_loss_of_its_line() {
    let sorts = [Sort::Cut, Sort::CutInFrame, Sort::Stall, Sort::Kill(Role::Master), Sort::Sshd];
    survives(Kind::Ssh, 14, &sorts, 8);
}

#[test]
fn a_workload_survives_kills_of_the_agent() {
    survives(Kind::Ssh, 15, &[Sort::Kill(Role::Agent)], 4);
}

#[test]
fn a_workload_survives_everything_at_once() {
    survives(Kind::Ssh, 18, &Sort::all_for(Kind::Ssh), 15);
}
