//! What was on a vm's disk, and vms that are made of it.

use std::time::Duration;

use e2e::guest::GUEST_DEADLINE;
use e2e::{Stead, eventually, leftovers};

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
