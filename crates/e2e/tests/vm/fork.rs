//! What was on a vm's disk, and vms that are made of it.

use std::time::Duration;

use e2e::guest::GUEST_DEADLINE;
use e2e::{Stead, eventually, leftovers};

use rustix::process::Signal;

use super::operation::{Slow, shares_blocks, signal};
use super::traces;

/// For what the daemon does by itself.
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_vm_is_forked_from_what_was_on_its_disk_and_both_go_on_by_themselves() {
    let stead = Stead::new();
    stead.boot();
    let sh = |vm: &str, script: &str| stead.ok(&["exec", vm, "--", "sh", "-c", script]).text();
    sh("vm://dev", "echo before > /root/kept; sync");
    let running = stead.run(&["vm", "snapshot", "dev"]);
    assert!(running.code() == 5 && running.errors().contains("stead vm stop dev"), "{running}");
    stead.vm(&["stop", "dev"]);
    let taken = stead.json(&["vm", "snapshot", "dev", "before"]);
    assert_eq!((&taken["name"], &stead.dev()["snapshots"][0]), (&"before".into(), &taken));
    let again = stead.run(&["vm", "snapshot", "dev", "before"]);
    assert_eq!(again.code(), 5, "{again}");

    // What it writes from here on is not in the snapshot.
    stead.vm(&["start", "dev"]);
    sh("vm://dev", "echo after > /root/kept; sync");
    let unknown = stead.run(&["vm", "fork", "dev", "web", "--snapshot", "none"]);
    assert!(unknown.code() == 3 && unknown.errors().contains("stead vm show dev"), "{unknown}");
    let taken = stead.run(&["vm", "fork", "dev", "dev", "--snapshot", "before"]);
    assert_eq!(taken.code(), 5, "{taken}");
    stead.ok(&["vm", "fork", "dev", "web", "--snapshot", "before"]);
    let web = stead.json(&["vm", "show", "web"]);
    let from = serde_json::json!({"vm": "dev", "id": stead.dev()["id"], "snapshot": "before"});
    assert_eq!((&web["from"], &web["memory_mib"], &web["image"]), (&from, &192.into(), &"tiny".into()));
    assert_ne!(web["id"], stead.dev()["id"]);
    assert!(stead.ok(&["vm", "show", "web"]).text().contains("made of the snapshot before of dev"));
    stead.vm(&["start", "web"]);
    assert_eq!(sh("vm://web", "cat /root/kept; hostname"), "before\nweb\n");
    sh("vm://web", "echo of web > /root/kept; sync");
    assert_eq!(sh("vm://dev", "cat /root/kept; hostname"), "after\ndev\n");

    // A vm of which another was made stays, and is as it was for the next daemon.
    let kept = stead.run(&["vm", "delete", "--force", "dev"]);
    assert!(kept.code() == 5 && kept.errors().contains("used by web"), "{kept}");
    let daemon = stead.daemon_pid();
    super::kill(daemon);
    eventually(DEADLINE, "the daemon has ended", || leftovers::has_ended(daemon));
    eventually(GUEST_DEADLINE, "the vm is taken over", || stead.dev()["state"] == "running");
    eventually(DEADLINE, "its snapshots are found", || stead.dev()["snapshots"][0]["name"] == "before");
    let kept = stead.run(&["vm", "delete", "--force", "dev"]);
    assert!(kept.code() == 5 && kept.errors().contains("used by web"), "{kept}");
    for name in ["web", "dev"] {
        stead.ok(&["vm", "delete", "--force", name]);
    }
    eventually(DEADLINE, "nothing is left", || traces(&stead).is_empty());
    stead.ok(&["image", "delete", "tiny"]);
}

/// What there is of snapshots, with what is said of each.
fn snapshots(stead: &Stead, vm: &str) -> Vec<(String, bool)> {
    let shown = stead.json(&["vm", "show", vm]);
    let one = |is: &serde_json::Value| (is["name"].as_str().unwrap().to_owned(), is["deleting"] == true);
    shown["snapshots"].as_array().into_iter().flatten().map(one).collect()
}

/// The directories of snapshots that are on disk.
fn on_disk(stead: &Stead, vm: &str) -> usize {
    std::fs::read_dir(stead.home().join("vms").join(vm).join("snapshots")).into_iter().flatten().count()
}

#[test]
fn a_snapshot_is_deleted_and_one_that_a_fork_has_taken_goes_with_the_last_vm_that_is_made_of_it() {
    let stead = Stead::new();
    stead.boot();
    let sh = |script: &str| {
        let program = stead.program().args(["exec", "vm://dev", "--", "sh", "-c", script]);
        program.deadline(GUEST_DEADLINE).ok().text()
    };
    sh("echo one > /root/kept");
    stead.vm(&["stop", "dev"]);
    stead.vm(&["snapshot", "dev", "first"]);
    stead.vm(&["fork", "dev", "web"]);
    // Where blocks are shared a fork has all of it, and what was taken for it goes at once.
    let is_shared = shares_blocks(stead.root());
    if is_shared {
        eventually(DEADLINE, "one is left", || snapshots(&stead, "dev") == [("first".to_owned(), false)]);
    } else {
        assert_eq!(snapshots(&stead, "dev"), [("first".to_owned(), false), ("snap-1".to_owned(), false)]);
        let shown = stead.ok(&["vm", "show", "dev"]).text();
        assert!(shown.contains("kept") && shown.contains("for forks: made of it: web"), "{shown}");
    }
    let unknown = stead.run(&["vm", "snapshot", "dev", "none", "--delete"]);
    assert!(unknown.code() == 3 && unknown.errors().contains("stead vm show dev"), "{unknown}");
    assert_eq!(stead.run(&["vm", "snapshot", "dev", "--delete"]).code(), 2);

    // Of a vm that runs it is only marked, and no vm is made of it.
    stead.vm(&["start", "dev"]);
    sh("cat /root/kept; echo two > /root/kept; sync");
    let marked = stead.json(&["vm", "snapshot", "dev", "first", "--delete"]);
    assert_eq!(marked["users"] == serde_json::json!([]), is_shared, "{marked}");
    if !is_shared {
        let refused = stead.run(&["vm", "fork", "dev", "late", "--snapshot", "first"]);
        assert!(refused.code() == 5 && refused.errors().contains("being deleted"), "{refused}");
        assert_eq!(snapshots(&stead, "dev")[0], ("first".to_owned(), true));
        // It is stopped, and made of what came after it.
        let shown = stead.ok(&["vm", "show", "dev"]).text();
        assert!(shown.contains("deleting: made of what came after it: web"), "{shown}");
    }
    // A daemon that is killed has it go when the next one can.
    let daemon = stead.daemon_pid();
    super::kill(daemon);
    eventually(DEADLINE, "the daemon has ended", || leftovers::has_ended(daemon));
    stead.vm(&["delete", "web"]);
    eventually(GUEST_DEADLINE, "the vm is taken over", || stead.dev()["state"] == "running");
    stead.vm(&["stop", "dev"]);
    eventually(DEADLINE, "both are gone", || {
        snapshots(&stead, "dev").is_empty() && on_disk(&stead, "dev") == 0
    });
    stead.vm(&["start", "dev"]);
    assert_eq!(sh("cat /root/kept"), "two\n");
    stead.vm(&["delete", "--force", "dev"]);
    eventually(DEADLINE, "nothing is left", || traces(&stead).is_empty());
}

#[test]
fn snapshots_are_taken_and_deleted_without_end() {
    let stead = Stead::new();
    stead.make_image();
    stead.ok(&["vm", "create", "dev", "--image", "tiny"]);
    // More than one may have, and one of each three stays for a while.
    for number in 0..40 {
        stead.vm(&["snapshot", "dev", &format!("s{number}")]);
        if number % 3 != 0 {
            stead.vm(&["snapshot", "dev", &format!("s{number}"), "--delete"]);
        }
    }
    assert_eq!((snapshots(&stead, "dev").len(), on_disk(&stead, "dev")), (14, 14));
    for _ in 0..5 {
        stead.vm(&["fork", "dev", "web"]);
        stead.vm(&["delete", "web"]);
        eventually(DEADLINE, "what it was made of is gone", || on_disk(&stead, "dev") == 14);
    }
    // What is taken for one that then cannot be made does not stay: something is in its place.
    let place = stead.home().join("vms/web");
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("vm.json"), "{").unwrap();
    let refused = stead.run(&["vm", "fork", "dev", "web"]);
    assert!(refused.code() == 5 && refused.errors().contains("vms/web"), "{refused}");
    eventually(DEADLINE, "what was taken for it is gone", || {
        (snapshots(&stead, "dev").len(), on_disk(&stead, "dev")) == (14, 14)
    });
    std::fs::remove_dir_all(place).unwrap();
    for number in (0..40).step_by(3) {
        stead.vm(&["snapshot", "dev", &format!("s{number}"), "--delete"]);
    }
    assert_eq!((snapshots(&stead, "dev").len(), on_disk(&stead, "dev")), (0, 0));
    stead.vm(&["delete", "dev"]);
}

#[test]
fn a_snapshot_that_is_being_deleted_says_so_and_can_be_called_off() {
    let mut stead = Stead::new();
    if shares_blocks(stead.root()) {
        eprintln!("skipped: disks are not put together here");
        return;
    }
    let slow = Slow::install(&mut stead);
    stead.make_image();
    stead.ok(&["vm", "create", "dev", "--image", "tiny"]);
    stead.vm(&["snapshot", "dev", "first"]);
    let delete = || stead.program().args(["vm", "snapshot", "dev", "first", "--delete"]);
    let first = || stead.dev()["snapshots"][0].clone();
    slow.hold("begin");
    let mut deleting = delete().spawn();
    slow.awaited("begin");
    assert_eq!((&first()["deleting"], &first()["reason"]), (&true.into(), &serde_json::Value::Null));
    signal(&deleting, Signal::INT);
    assert!(!deleting.wait().unwrap().success());
    eventually(DEADLINE, "it is called off", || first()["reason"] == "it was called off");
    assert!(stead.ok(&["vm", "show", "dev"]).text().contains("deleting: it was called off"));

    // What else is wanted does not wait for it, and it goes on after that.
    let mut deleting = delete().spawn();
    slow.awaited("begin");
    stead.ok(&["vm", "set", "dev", "--memory", "256M"]);
    assert!(deleting.wait().unwrap().success());
    slow.awaited("begin");
    slow.release("begin");
    eventually(DEADLINE, "it is gone", || snapshots(&stead, "dev").is_empty() && on_disk(&stead, "dev") == 0);
    stead.ok(&["vm", "delete", "dev"]);
}
