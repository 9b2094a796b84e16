//! What takes its time to be made: followed, cancelled, left alone, and killed half way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use e2e::guest::GUEST_DEADLINE;
use e2e::{Stead, eventually, leftovers};
use rustix::process::{Pid, Signal, kill_process};

use super::{kill, traces};

/// For what the daemon does by itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// In place of the program that makes disks: it waits where it is told to, before it does anything or when it is done.
pub(super) struct Slow {
    directory: PathBuf,
}

impl Slow {
    /// Has the daemon find it first. To be called before there is a daemon.
    pub(super) fn install(stead: &mut Stead) -> Slow {
        let directory = stead.dir("slow");
        let path = std::env::var_os("PATH").unwrap();
        let real = std::env::split_paths(&path).map(|dir| dir.join("qemu-img")).find(|path| path.is_file());
        let script = format!(
            "#!/bin/sh\ncd '{}' || exit 1\nwait_at() {{ if test -e \"at-$1\"; then touch \"is-at-$1\"; \
             while test -e \"at-$1\"; do sleep 0.05; done; fi; }}\nwait_at begin\n'{}' \"$@\" || exit\nwait_at end\n",
            directory.display(),
            real.unwrap().display()
        );
        let program = directory.join("qemu-img");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut first = directory.clone().into_os_string();
        first.push(":");
        first.push(path);
        stead.set_env("PATH", first);
        Slow { directory }
    }

    pub(super) fn hold(&self, place: &str) {
        fs::write(self.directory.join(format!("at-{place}")), "").unwrap();
    }

    #[track_caller]
    pub(super) fn awaited(&self, place: &str) {
        let is_there = self.directory.join(format!("is-at-{place}"));
        eventually(DEADLINE, "a disk is being made", || is_there.exists());
        fs::remove_file(is_there).unwrap();
    }

    pub(super) fn release(&self, place: &str) {
        fs::remove_file(self.directory.join(format!("at-{place}"))).unwrap();
    }
}

pub(super) fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Whether blocks are shared between files here: then no program makes disks.
pub(super) fn shares_blocks(root: &Path) -> bool {
    let (one, other) = (root.join("one"), root.join("other"));
    fs::write(&one, "content").unwrap();
    let other = fs::File::create(other).unwrap();
    rustix::fs::ioctl_ficlone(other, fs::File::open(one).unwrap()).is_ok()
}

fn create(stead: &Stead) -> e2e::Program {
    stead.program().args(["vm", "create", "dev", "--image", "tiny", "--memory", "192M"])
}

fn operations(stead: &Stead) -> Vec<serde_json::Value> {
    stead.status()["operations"].as_array().unwrap().clone()
}

#[test]
fn a_vm_that_is_being_made_can_be_watched_cancelled_and_left_alone() {
    let mut stead = Stead::new();
    if shares_blocks(stead.root()) {
        eprintln!("skipped: disks are made at once here");
        return;
    }
    let slow = Slow::install(&mut stead);
    stead.make_image();
    for place in ["begin", "end"] {
        slow.hold(place);
        let begun = stead.json(&["vm", "create", "dev", "--image", "tiny", "--detach"]);
        let id = begun["id"].as_str().unwrap();
        slow.awaited(place);
        let shown = stead.json(&["operation", "show", id]);
        assert_eq!(
            (&shown["kind"], &shown["name"], &shown["state"], &shown["stage"]),
            (&"vm create".into(), &"dev".into(), &"running".into(), &"disk".into())
        );
        assert_eq!(operations(&stead).last(), Some(&shown));
        assert!(stead.ok(&["operation", "list"]).text().contains("disk, 2 of 3"));
        assert_eq!(stead.dev()["state"], "creating");
        let kept = stead.run(&["image", "delete", "tiny"]);
        assert!(kept.code() == 5 && kept.errors().contains("used by dev"), "{kept}");
        assert_eq!(stead.json(&["operation", "cancel", id])["state"], "cancelled");
        assert!(traces(&stead).is_empty(), "{:?}", traces(&stead));
        assert_eq!(stead.status()["vms"], serde_json::json!([]));
        let waited = stead.run(&["operation", "wait", id]);
        assert!(waited.code() == 130 && waited.errors().contains("nothing of it is left"), "{waited}");
        slow.release(place);
    }
    let unknown = stead.run(&["operation", "show", "o999"]);
    assert!(unknown.code() == 3 && unknown.errors().contains("stead operation list"), "{unknown}");

    // An interrupt cancels it; the end of the command by anything else, as by that of its terminal, does not.
    slow.hold("begin");
    let mut interrupted = create(&stead).spawn();
    slow.awaited("begin");
    signal(&interrupted, Signal::INT);
    assert_eq!(interrupted.wait().unwrap().code(), Some(130));
    assert!(traces(&stead).is_empty(), "{:?}", traces(&stead));

    let mut left = create(&stead).spawn();
    slow.awaited("begin");
    signal(&left, Signal::TERM);
    left.wait().unwrap();
    let id = operations(&stead).last().unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(stead.dev()["state"], "creating");
    slow.release("begin");
    let ended = stead.json(&["operation", "wait", &id]);
    assert_eq!((&ended["state"], &stead.dev()["state"]), (&"succeeded".into(), &"stopped".into()));
    let over = stead.run(&["operation", "cancel", &id]);
    assert!(over.code() == 5 && over.errors().contains("succeeded already"), "{over}");
    stead.ok(&["vm", "delete", "dev"]);
    eventually(DEADLINE, "nothing is left", || traces(&stead).is_empty());
}

#[test]
fn a_vm_whose_daemon_is_killed_while_it_makes_it_is_not_there_and_can_be_made_again() {
    let mut stead = Stead::new();
    if shares_blocks(stead.root()) {
        eprintln!("skipped: disks are made at once here");
        return;
    }
    let slow = Slow::install(&mut stead);
    stead.make_image();
    let mut ids = Vec::new();
    for place in ["begin", "end"] {
        slow.hold(place);
        let mut creating = create(&stead).spawn();
        slow.awaited(place);
        ids.push(operations(&stead).last().unwrap()["id"].clone());
        let daemon = stead.daemon_pid();
        kill(daemon);
        eventually(DEADLINE, "the daemon has ended", || leftovers::has_ended(daemon));
        assert!(!creating.wait().unwrap().success(), "it is told that there is no vm");
        slow.release(place);
        // The next daemon.
        assert_eq!(stead.json(&["vm", "list"])["vms"], serde_json::json!([]));
        eventually(DEADLINE, "nothing of it is left", || traces(&stead).is_empty());
        assert!(operations(&stead).is_empty());
    }
    create(&stead).deadline(GUEST_DEADLINE).ok();
    ids.push(operations(&stead)[0]["id"].clone());
    ids.dedup();
    assert_eq!(ids.len(), 3, "no number is given twice: {ids:?}");

    // What is there when it has been answered stays.
    let daemon = stead.daemon_pid();
    kill(daemon);
    eventually(DEADLINE, "the daemon has ended", || leftovers::has_ended(daemon));
    assert_eq!(stead.dev()["state"], "stopped");
    stead.ok(&["vm", "delete", "dev"]);
    eventually(DEADLINE, "nothing is left", || traces(&stead).is_empty());
}
