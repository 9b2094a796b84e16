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
    change_while_stopped(&stead);
    stead.vm(&["start", "dev"]);
    eventually(GUEST_DEADLINE, "the vm is reached again", || {
        stead.run(&["exec", "vm://dev", "--", "cat", "/root/new"]).text() == "written here"
    });

    look_while_running(&stead);
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

fn change_while_stopped(stead: &Stead) {
    let refused = |args: &[&str], code: i32, said: &str| {
        let answer = stead.run(args);
        assert!(answer.code() == code && answer.errors().contains(said), "{args:?}: {answer}");
    };
    for asked in ["ping", "stats", "ports"] {
        assert_ne!(stead.run(&["vm", asked, "dev"]).code(), 0, "{asked}");
    }
    refused(&["vm", "set", "dev"], 2, "nothing is said");
    refused(&["vm", "set", "dev", "--disk", "1M"], 2, "cannot be made smaller");
    refused(&["vm", "set", "dev", "--cpus", "0"], 2, "processors");
    // A beginning of its name is enough to look at it, and not to change it.
    stead.ok(&["vm", "show", "de"]);
    for verb in ["set --cpus 2", "start", "stop", "restart", "kill", "delete --force"] {
        let args: Vec<&str> = ["vm"].into_iter().chain(verb.split(' ')).chain(["de"]).collect();
        refused(&args, 3, "the whole name is needed for this: dev");
    }
    let changed =
        stead.json(&["vm", "set", "dev", "--memory", "256M", "--disk", "1G", "--cpus", "2", "--port", "1:1"]);
    assert_eq!(
        (&changed["memory_mib"], &changed["cpus"], &changed["nat"]),
        (&256.into(), &2.into(), &true.into())
    );
    stead.ok(&["vm", "set", "dev", "--no-nat", "--cpus", "1"]);
    assert_eq!((&stead.dev()["nat"], &stead.dev()["memory_mib"]), (&false.into(), &256.into()));
}

fn look_while_running(stead: &Stead) {
    let refused = stead.run(&["vm", "set", "dev", "--cpus", "2"]);
    assert!(refused.code() == 5 && refused.errors().contains("stead vm stop dev"), "{refused}");
    let id = stead.dev()["id"].as_str().unwrap().to_owned();
    assert!(stead.json(&["vm", "ping", &id])["round_trip_us"].as_u64().unwrap() > 0);
    let stats = stead.json(&["vm", "stats", "dev"]);
    let bytes = |of: &serde_json::Value| of.as_u64().unwrap() >> 20;
    let inside = bytes(&stats["guest"]["memory_bytes"]);
    assert!((193..=256).contains(&inside) && bytes(&stats["memory_bytes"]) > 50, "{stats}");
    assert!(stats["cpu_ms"].as_u64().unwrap() > 0 && stats["disk_bytes"].as_u64().unwrap() > 0, "{stats}");
    let size = stead.ok(&["exec", "vm://dev", "--", "/bin/busybox", "df", "-m", "/"]).text();
    let size: u64 = size.lines().last().unwrap().split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(size > 900, "the file system has {size} MiB of 1024");
    stead.ok(&["exec", "vm://dev", "--detach", "--", "sh", "-c", "/bin/busybox nc -ll -p 7000 -e echo"]);
    eventually(DEADLINE, "what listens is found", || {
        let ports = stead.json(&["vm", "ports", "dev"]);
        ports["ports"].as_array().unwrap().iter().any(|found| found["port"] == 7000)
    });
    stead.ok(&["vm", "health", "dev"]);
}
