//! One clear line, the right exit code, nothing left behind.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use e2e::stead::{NOBODY, is_root, open_to_all};
use e2e::{Finished, Sshd, Stead, eventually, leftovers};

const USAGE: i32 = 2;
const NOT_FOUND: i32 = 3;
const REFUSED: i32 = 4;
const CONFLICT: i32 = 5;
const UNREACHABLE: i32 = 6;

/// Checks what every error has: its code, one line that is not empty, at most one hint, nothing on stdout.
#[track_caller]
fn assert_error(finished: &Finished, codes: &[i32]) {
    assert!(codes.contains(&finished.code()), "the code should be one of {codes:?}: {finished}");
    let text = finished.errors();
    let (hints, lines): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.trim_start().starts_with("hint:"));
    // The usage of a command may follow the line that says what was wrong with it.
    if finished.code() != USAGE {
        assert_eq!(lines.len(), 1, "one line says it: {finished}");
    }
    assert!(lines.first().is_some_and(|line| line.len() > 10), "{finished}");
    assert!(hints.len() <= 1, "{finished}");
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{finished}");
    assert!(finished.stdout.is_empty(), "{finished}");
}

/// A mount that must fail: the error is as it should be, also as JSON, and nothing has been mounted.
#[track_caller]
fn assert_no_mount(stead: &Stead, args: &[&str], codes: &[i32]) {
    let mounts = leftovers::mounts_below(stead.root());
    let finished = stead.program().arg("mount").args(args).run();
    assert_error(&finished, codes);
    let json = stead.program().args(["mount", "--json"]).args(args).run();
    assert_eq!(json.code(), finished.code(), "{json}");
    let document: serde_json::Value =
        serde_json::from_slice(&json.stdout).unwrap_or_else(|_| panic!("{json}"));
    assert!(document["error"]["message"].as_str().is_some_and(|message| !message.contains('\n')), "{json}");
    assert!(!document["error"]["code"].is_null(), "{json}");
    assert_eq!(leftovers::mounts_below(stead.root()), mounts, "{finished}");
    let status = stead.status();
    assert_eq!(status["mounts"].as_array().map(Vec::len), Some(mounts.len()), "{status}");
    eventually(Duration::from_secs(10), "no worker is left", || {
        // The daemon, and what serves the mounts that are meant to be there.
        stead.processes().iter().filter(|process| process.command.contains("worker")).count() <= mounts.len()
    });
}

fn host(dir: &Path) -> String {
    format!("host:{}", dir.display())
}

#[test]
fn a_source_that_cannot_be_shown_is_refused() {
    let stead = Stead::new();
    let dir = stead.dir("mnt");
    let dir = dir.to_str().unwrap();
    let file = stead.root().join("file");
    std::fs::write(&file, "").unwrap();
    let absent = host(&stead.root().join("absent"));
    assert_no_mount(&stead, &[&absent, dir], &[NOT_FOUND]);
    assert_no_mount(&stead, &[&host(&file), dir], &[USAGE, NOT_FOUND, CONFLICT, 1]);
    assert_no_mount(&stead, &["gopher://box/x", dir], &[USAGE]);
    assert_no_mount(&stead, &["ssh://", dir], &[USAGE]);
    assert_no_mount(&stead, &["ssh://-oProxyCommand=touch%20x/y", dir], &[USAGE]);
    assert_no_mount(&stead, &["ssh://box:99999/x", dir], &[USAGE]);
    assert_no_mount(&stead, &["", dir], &[USAGE]);
}

#[test]
fn a_mount_point_that_cannot_be_used_is_refused() {
    let stead = Stead::new();
    let far = stead.dir("far");
    let (file, full) = (stead.root().join("file"), stead.dir("full"));
    std::fs::write(&file, "").unwrap();
    std::fs::write(full.join("f"), "precious").unwrap();
    let source = host(&far);
    assert_no_mount(&stead, &[&source, file.to_str().unwrap()], &[USAGE, CONFLICT]);
    assert_no_mount(&stead, &[&source, full.to_str().unwrap()], &[CONFLICT]);
    assert_eq!(std::fs::read(full.join("f")).unwrap(), b"precious");
    let deep = stead.root().join("absent/below");
    assert_no_mount(&stead, &[&source, deep.to_str().unwrap()], &[NOT_FOUND]);
    assert!(!stead.root().join("absent").exists());
}

#[test]
fn a_mount_point_in_use_is_refused_and_the_first_mount_serves_on() {
    let stead = Stead::new();
    let (far, other, dir) = (stead.dir("far"), stead.dir("other"), stead.dir("mnt"));
    stead.mount(host(&far), &dir, &[]);
    assert_no_mount(&stead, &[&host(&other), dir.to_str().unwrap()], &[CONFLICT]);
    std::fs::write(dir.join("f"), "served").unwrap();
    assert_eq!(std::fs::read(far.join("f")).unwrap(), b"served");
}

#[test]
fn a_mount_inside_its_own_source_is_refused() {
    let stead = Stead::new();
    let far = stead.dir("far");
    let inside = stead.dir("far/inside");
    assert_no_mount(&stead, &[&host(&far), inside.to_str().unwrap()], &[REFUSED, CONFLICT, USAGE]);
    assert_no_mount(&stead, &[&host(&far), far.to_str().unwrap()], &[REFUSED, CONFLICT, USAGE]);
    std::os::unix::fs::symlink(&inside, stead.root().join("link")).unwrap();
    let link = stead.root().join("link");
    assert_no_mount(&stead, &[&host(&far), link.to_str().unwrap()], &[REFUSED, CONFLICT, USAGE]);
}

#[test]
fn a_mount_of_a_mount_of_the_same_tree_is_refused() {
    let stead = Stead::new();
    let (far, dir, second) = (stead.dir("far"), stead.dir("mnt"), stead.dir("second"));
    std::fs::create_dir(far.join("sub")).unwrap();
    stead.mount(host(&far), &dir, &[]);
    let inside = dir.join("sub");
    assert_no_mount(&stead, &[&host(&far), inside.to_str().unwrap()], &[REFUSED, CONFLICT, USAGE]);
    // Showing what our own mount shows would have the daemon read its own mount.
    assert_no_mount(&stead, &[&host(&dir), second.to_str().unwrap()], &[REFUSED, CONFLICT, USAGE]);
}

#[test]
fn wrong_options_are_refused_before_anything_is_started() {
    let stead = Stead::new();
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    let (source, dir) = (host(&far), dir.to_str().unwrap());
    assert_no_mount(&stead, &["--backend", "smb", &source, dir], &[USAGE]);
    assert_no_mount(&stead, &["--sync", "sometimes", &source, dir], &[USAGE]);
    assert_no_mount(&stead, &["-o", "no-such-option=1", &source, dir], &[USAGE]);
    assert_no_mount(&stead, &["--no-such-flag", &source, dir], &[USAGE]);
    assert_no_mount(&stead, &["--backend", "file-provider", &source, dir], &[USAGE, REFUSED, NOT_FOUND, 1]);
}

#[test]
fn a_tree_that_may_not_be_read_is_refused() {
    if !is_root() {
        return;
    }
    let stead = Stead::of_user(NOBODY);
    open_to_all(stead.root());
    let (secret, dir) = (tempfile::tempdir().unwrap(), stead.dir("mnt"));
    std::fs::set_permissions(secret.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_no_mount(&stead, &[&host(secret.path()), dir.to_str().unwrap()], &[REFUSED]);
}

#[test]
fn a_mount_point_that_is_not_ours_is_refused() {
    if !is_root() {
        return;
    }
    let stead = Stead::of_user(NOBODY);
    open_to_all(stead.root());
    let far = stead.dir("far");
    let theirs = tempfile::tempdir().unwrap();
    open_to_all(theirs.path());
    assert_no_mount(&stead, &[&host(&far), theirs.path().to_str().unwrap()], &[REFUSED]);
}

#[test]
fn what_is_not_there_is_said_not_to_be() {
    let stead = Stead::new();
    let nothing = stead.dir("nothing");
    assert_error(&stead.run(&["unmount", "m999"]), &[NOT_FOUND]);
    assert_error(&stead.run(&["unmount", nothing.to_str().unwrap()]), &[NOT_FOUND]);
    assert_error(&stead.run(&["disconnect", "ssh://box"]), &[NOT_FOUND]);
    assert_error(&stead.run(&["ls", &host(&stead.root().join("absent"))]), &[NOT_FOUND]);
    assert_error(&stead.run(&["cat", &host(&stead.root().join("absent"))]), &[NOT_FOUND]);
    assert_error(&stead.run(&["stat", &host(&stead.root().join("absent"))]), &[NOT_FOUND]);
    assert_error(&stead.run(&["no-such-command"]), &[USAGE]);
    assert_error(&stead.run(&["unmount"]), &[USAGE]);
}

#[test]
fn a_machine_that_cannot_be_reached_is_said_to_be_unreachable() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let dir = stead.dir("mnt");
    let dir = dir.to_str().unwrap();
    sshd.add_host("down", e2e::sshd::free_port(), &[]);
    sshd.add_host("nowhere", sshd.port(), &[("HostName", "no-such-host.invalid")]);
    assert_no_mount(&stead, &["ssh://down/tmp", dir], &[UNREACHABLE]);
    assert_no_mount(&stead, &["ssh://nowhere/tmp", dir], &[UNREACHABLE, NOT_FOUND]);
}

#[test]
fn a_machine_that_does_not_let_us_in_is_refused() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let dir = stead.dir("mnt");
    let dir = dir.to_str().unwrap();
    let other = sshd.other_identity();
    sshd.add_host(
        "denied",
        sshd.port(),
        &[("IdentityFile", other.to_str().unwrap()), ("HostKeyAlias", "box")],
    );
    assert_no_mount(&stead, &["ssh://denied/tmp", dir], &[REFUSED]);
}

#[test]
fn a_host_key_that_is_unknown_or_has_changed_is_refused_with_the_reason() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let dir = stead.dir("mnt");
    let dir = dir.to_str().unwrap();
    sshd.add_host("unknown", sshd.port(), &[("HostKeyAlias", "never-seen")]);
    let wrong = sshd.dir().join("known_hosts.wrong");
    let key = std::fs::read_to_string(sshd.dir().join("other_host.pub")).unwrap();
    std::fs::write(&wrong, format!("changed {key}")).unwrap();
    let files = wrong.to_str().unwrap();
    sshd.add_host("changed", sshd.port(), &[("HostKeyAlias", "changed"), ("UserKnownHostsFile", files)]);
    for machine in ["ssh://unknown/tmp", "ssh://changed/tmp"] {
        assert_no_mount(&stead, &[machine, dir], &[REFUSED]);
        let said = stead.run(&["mount", machine, dir]).errors().to_lowercase();
        assert!(said.contains("host key"), "{said}");
    }
}

#[test]
fn a_path_absent_on_a_far_machine_is_not_found() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let dir = stead.dir("mnt");
    assert_no_mount(&stead, &["ssh://box/no/such/dir", dir.to_str().unwrap()], &[NOT_FOUND]);
}

#[test]
fn a_long_state_directory_works_all_the_same() {
    let mut stead = Stead::new();
    let home = stead.root().join("long".repeat(40));
    stead.set_env("STEAD_HOME", &home);
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    let mount = stead.mount(host(&far), &dir, &[]);
    std::fs::write(dir.join("f"), "x").unwrap();
    stead.unmount(&mount);
    stead.ok(&["daemon", "stop"]);
    eventually(Duration::from_secs(10), "nothing is left", || leftovers::processes_of(&home).is_empty());
}
