//! What a microVM and its users go through when something of it is killed.

use std::fs;
use std::time::Duration;

use e2e::guest::GUEST_DEADLINE;
use e2e::{Stead, eventually, leftovers};

use super::{kill, traces, vmms};

/// For what the daemon does by itself.
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_vm_outlives_the_daemon_and_the_end_of_its_vmm_is_seen_at_once() {
    let stead = Stead::new();
    stead.boot();
    let dir = stead.dir("mnt");
    let mount = stead.mount("vm://dev/root", &dir, &[]);
    fs::write(dir.join("kept"), "before").unwrap();
    stead.ok(&["exec", "vm://dev", "--", "sync"]);

    let [vmm] = &vmms(&stead)[..] else { panic!("one VMM runs") };
    let vmm = vmm.pid.as_raw_nonzero().get();
    let daemon = stead.daemon_pid();
    kill(daemon);
    eventually(DEADLINE, "the daemon has ended", || leftovers::has_ended(daemon));
    assert_eq!(fs::read_to_string(dir.join("kept")).unwrap(), "before");
    eventually(GUEST_DEADLINE, "the vm is taken over", || stead.dev()["state"] == "running");
    assert_eq!(stead.dev()["pid"], vmm);
    assert_eq!(stead.ok(&["exec", "vm://dev", "--", "cat", "/root/kept"]).text(), "before");

    kill(vmm);
    eventually(DEADLINE, "the end of the VMM is seen", || stead.dev()["pid"].is_null());
    assert_eq!(stead.dev()["state"], "stopped");
    stead.vm(&["start", "dev"]);
    eventually(GUEST_DEADLINE, "the mount goes on", || {
        stead.mount_status(&mount.id).is_some_and(|is| is["status"]["state"] == "active")
    });
    assert_eq!(fs::read_to_string(dir.join("kept")).unwrap(), "before");

    // This time the daemon is the VMM's parent, and knows how it ended.
    let again = i32::try_from(stead.dev()["pid"].as_i64().unwrap()).unwrap();
    kill(again);
    eventually(DEADLINE, "the end of the VMM is told", || stead.dev()["state"] == "failed");
    assert!(stead.dev()["reason"].as_str().unwrap().contains("signal 9"), "{}", stead.dev());
    stead.ok(&["unmount", "--force", &mount.id]);
    stead.ok(&["vm", "delete", "dev"]);
    eventually(DEADLINE, "nothing is left", || traces(&stead).is_empty());
}

#[test]
fn a_vm_whose_daemon_is_killed_while_it_starts_it_is_taken_over() {
    let stead = Stead::new();
    stead.boot();
    let vmm = stead.dev()["pid"].clone();
    let daemon = stead.daemon_pid();
    kill(daemon);
    eventually(DEADLINE, "the daemon has ended", || leftovers::has_ended(daemon));

    // So it is when the VMM has been started and its process has not been written down.
    let path = stead.home().join("vms/dev/vm.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(record["process"]["pid"], vmm);
    record["process"] = serde_json::Value::Null;
    fs::write(&path, record.to_string()).unwrap();
    // And this is nobody's vm.
    fs::write(stead.home().join("vms/file"), "").unwrap();

    eventually(GUEST_DEADLINE, "the vm is taken over", || stead.dev()["state"] == "running");
    assert_eq!(stead.dev()["pid"], vmm);
    let record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(record["process"]["pid"], vmm);

    // It is stopped as one that this daemon has started, also if it has just been taken over.
    let daemon = stead.daemon_pid();
    kill(daemon);
    eventually(DEADLINE, "the daemon has ended", || leftovers::has_ended(daemon));
    stead.vm(&["stop", "dev"]);
    eventually(DEADLINE, "it was powered off by its guest", || {
        stead.ok(&["vm", "logs", "dev"]).text().contains("Power down")
    });
    fs::remove_file(stead.home().join("vms/file")).unwrap();
    stead.ok(&["vm", "delete", "dev"]);
    eventually(DEADLINE, "nothing is left", || traces(&stead).is_empty());
}

#[test]
fn what_is_killed_in_a_guest_is_there_again() {
    let stead = Stead::new();
    stead.boot();
    let dir = stead.dir("mnt");
    let mount = stead.mount("vm://dev/root", &dir, &[]);
    fs::write(dir.join("kept"), "before").unwrap();
    // All agents, what serves the ports, and this very command.
    let script = "cd /proc; for pid in [0-9]*; do case \"$(cat $pid/comm 2>/dev/null)\" in stead-*) \
                  test $pid = 1 || echo $pid;; esac; done | while read pid; do echo $pid; done > /tmp/all; \
                  kill -9 $(cat /tmp/all)";
    stead.run(&["exec", "vm://dev", "--", "sh", "-c", script]);
    eventually(GUEST_DEADLINE, "a command runs again", || {
        stead.run(&["exec", "vm://dev", "--", "echo", "again"]).text() == "again\n"
    });
    eventually(GUEST_DEADLINE, "the mount goes on", || {
        fs::read_to_string(dir.join("kept")).is_ok_and(|text| text == "before")
    });
    stead.unmount(&mount);

    // The grace of a stop is no longer than was said, and a kill needs none.
    assert_eq!(stead.vm(&["kill", "dev"]).text(), "dev  stopped\n");
    stead.ok(&["vm", "delete", "dev"]);
    eventually(DEADLINE, "nothing is left", || traces(&stead).is_empty());
}
