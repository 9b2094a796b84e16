use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use e2e::stead::{NOBODY, User, is_root, open_to_all};
use e2e::{Program, Stead};
use rustix::io::Errno;

fn host(dir: &std::path::Path) -> String {
    format!("host:{}", dir.display())
}

#[track_caller]
fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
    Errno::from_io_error(&result.unwrap_err()).unwrap()
}

fn as_nobody(program: &str, args: &[&str]) -> Program {
    let User { uid, gid } = NOBODY;
    Program::new("setpriv")
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={gid}"))
        .arg("--clear-groups")
        .arg(program)
        .args(args)
}

#[test]
fn a_read_only_mount_refuses_every_change() {
    let stead = Stead::new();
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    std::fs::write(far.join("f"), "x").unwrap();
    stead.mount(host(&far), &dir, &["--read-only"]);
    assert_eq!(std::fs::read(dir.join("f")).unwrap(), b"x");
    assert_eq!(errno(std::fs::write(dir.join("f"), "y")), Errno::ROFS);
    assert_eq!(errno(std::fs::write(dir.join("g"), "y")), Errno::ROFS);
    assert_eq!(errno(std::fs::remove_file(dir.join("f"))), Errno::ROFS);
    assert_eq!(errno(std::fs::rename(dir.join("f"), dir.join("g"))), Errno::ROFS);
    assert_eq!(errno(std::fs::create_dir(dir.join("d"))), Errno::ROFS);
    let permissions = std::fs::Permissions::from_mode(0o600);
    assert_eq!(errno(std::fs::set_permissions(dir.join("f"), permissions)), Errno::ROFS);
    assert_eq!(std::fs::read(far.join("f")).unwrap(), b"x");
}

#[test]
fn every_sync_mode_has_the_data_there_after_fsync_and_after_unmount() {
    for mode in ["close", "async", "strict"] {
        let stead = Stead::new();
        let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
        let mount = stead.mount(host(&far), &dir, &["--sync", mode]);
        let mut file = std::fs::File::create(dir.join("synced")).unwrap();
        file.write_all(&[1; 300_000]).unwrap();
        file.sync_all().unwrap();
        assert_eq!(std::fs::read(far.join("synced")).unwrap(), vec![1; 300_000], "{mode}");
        drop(file);
        for number in 0..100 {
            std::fs::write(dir.join(format!("f{number}")), "x").unwrap();
        }
        stead.unmount(&mount);
        assert_eq!(std::fs::read_dir(&far).unwrap().count(), 101, "{mode}");
    }
}

#[test]
fn other_users_are_kept_out_by_default() {
    if !is_root() {
        return;
    }
    let stead = Stead::new();
    open_to_all(stead.root());
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    open_to_all(&far);
    std::fs::write(far.join("f"), "x").unwrap();
    stead.mount(host(&far), &dir, &[]);
    let path = dir.join("f");
    let refused = as_nobody("cat", &[path.to_str().unwrap()]).run();
    assert_ne!(refused.code(), 0);
    assert!(refused.stdout.is_empty());
}

#[test]
fn other_users_are_let_in_with_their_own_rights_when_asked() {
    if !is_root() {
        return;
    }
    let stead = Stead::new();
    open_to_all(stead.root());
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    open_to_all(&far);
    for (name, mode) in [("public", 0o644), ("secret", 0o600)] {
        std::fs::write(far.join(name), name).unwrap();
        std::fs::set_permissions(far.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    stead.mount(host(&far), &dir, &["-o", "allow-other"]);
    let cat = |name: &str| as_nobody("cat", &[dir.join(name).to_str().unwrap()]).run();
    assert_eq!(cat("public").text(), "public");
    assert_ne!(cat("secret").code(), 0);
}

#[test]
fn no_symlink_of_the_tree_leads_the_agent_out_of_it() {
    let stead = Stead::new();
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    let outside = stead.dir("outside");
    std::fs::write(outside.join("secret"), "x").unwrap();
    std::fs::create_dir(far.join("d")).unwrap();
    stead.mount(host(&far), &dir, &[]);
    std::fs::write(dir.join("d/secret"), "inside").unwrap();
    assert_eq!(std::fs::read(dir.join("d/secret")).unwrap(), b"inside");
    // Behind the mount's back a directory that it knows becomes a link that leads out.
    std::fs::rename(far.join("d"), far.join("was-d")).unwrap();
    std::os::unix::fs::symlink(&outside, far.join("d")).unwrap();
    // Whatever the path gives now, the file outside is not changed through what was opened as inside.
    let _either_way = std::fs::remove_file(dir.join("was-d/secret"));
    let seen = std::fs::symlink_metadata(dir.join("d")).map(|is| is.file_type().is_symlink());
    assert!(outside.join("secret").exists(), "{seen:?}");
}
