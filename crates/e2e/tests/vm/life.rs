//! The whole life of a microVM, as its user sees it.

use std::fs;
use std::time::Duration;

use e2e::guest::GUEST_DEADLINE;
use e2e::{Stead, eventually};

use super::{traces, vmms};

/// For what the daemon does by itself.
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_vm_is_made_used_as_any_machine_and_removed_without_a_trace() {
    let stead = Stead::new();
    stead.boot();
    assert_eq!(stead.json(&["vm", "list"])["vms"], stead.status()["vms"]);
    let vm = &stead.status()["vms"][0];
    assert_eq!((&vm["name"], &vm["state"], &vm["image"]), (&"dev".into(), &"running".into(), &"tiny".into()));

    // A command, with its status; the guest's name is the vm's.
    assert_eq!(stead.ok(&["exec", "vm://dev", "--", "hostname"]).text(), "dev\n");
    let failed =
        stead.program().args(["exec", "vm://dev", "--", "sh", "-c", "cat; exit 7"]).input("told\n").run();
    assert_eq!((failed.code(), failed.text().as_str()), (7, "told\n"));

    // Files, both ways, by every byte there is: some of them mean something to the port.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (here, back) = (stead.root().join("here"), stead.root().join("back"));
    fs::write(&here, &bytes).unwrap();
    stead.ok(&["cp", here.to_str().unwrap(), "vm://dev/root/there"]);
    stead.ok(&["cp", "vm://dev/root/there", back.to_str().unwrap()]);
    assert!(fs::read(&back).unwrap() == bytes, "what came back is something else");
    let dir = stead.dir("mnt");
    let mount = stead.mount("vm://dev/root", &dir, &[]);
    assert!(fs::read(dir.join("there")).unwrap() == bytes, "the mount shows something else");
    fs::write(dir.join("new"), "written here").unwrap();
    assert_eq!(stead.ok(&["exec", "vm://dev", "--", "cat", "/root/new"]).text(), "written here");
    stead.unmount(&mount);

    // What it wrote is there after it was powered off, and the image is as it was.
    let stopped = stead.vm(&["stop", "dev"]);
    assert_eq!(stopped.text(), "dev  stopped\n");
    assert!(vmms(&stead).is_empty());
    let away = stead.run(&["exec", "vm://dev", "--", "true"]);
    assert!(away.errors().contains("stead vm start dev"), "{away}");
    stead.vm(&["start", "dev"]);
    eventually(GUEST_DEADLINE, "the vm is reached again", || {
        stead.run(&["exec", "vm://dev", "--", "cat", "/root/new"]).text() == "written here"
    });

    stead.vm(&["stop", "dev"]);
    // What it has said goes through a process of its own, which may be a moment behind.
    eventually(DEADLINE, "its last words are kept", || {
        stead.ok(&["vm", "logs", "dev"]).text().contains("Power down")
    });

    let kept = stead.run(&["image", "delete", "tiny"]);
    assert!(kept.code() == 5 && kept.errors().contains("used by dev"), "{kept}");
    stead.ok(&["vm", "delete", "dev"]);
    eventually(DEADLINE, "nothing is left", || traces(&stead).is_empty());
    stead.ok(&["image", "delete", "tiny"]);
    assert_eq!(fs::read_dir(stead.home().join("images")).unwrap().count(), 0);
}
