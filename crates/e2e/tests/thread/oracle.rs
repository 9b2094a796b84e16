//! The same at random in a thread and on the local disk. `cargo xtask soak oracle` does it for longer.

use e2e::oracle::{Plan, run};

#[test]
fn a_thread_does_what_the_local_disk_does_while_its_worker_is_killed() {
    const OPERATIONS: u64 = 4_000;
    let report = run(&Plan { seed: 3, operations: OPERATIONS, kills: 10 });
    assert!(report.kills > 0 && report.refused < OPERATIONS, "{report:?}");
    println!("{report:?}");
}
