//! What a mount could not save is saved by the next mount of the same source.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::faults::field::Field;
use e2e::faults::role::Role;
use e2e::{Kind, Mount, eventually};
use rustix::process::Signal;
use serde_json::Value;

use crate::subscriber::Events;

const SOON: Duration = Duration::from_secs(40);

/// A program that has a file of the mount open. This process must not have it: each program that it starts would close a
/// copy, which waits for the machine.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        // It may be waiting for its input or for the mount, which is gone.
        let _gone = self.0.kill();
        self.0.wait().unwrap();
    }
}

/// A mount with a file of which the machine has `before ` and not what follows.
fn unsaved() -> (Field, Writer) {
    let field = Field::new(Kind::Ssh, &[]);
    let script = "exec 1<>\"$0\"; printf 'before '; read -r go; printf unsaved; read -r end";
    let writer = Command::new("sh")
        .args(["-c", script])
        .arg(field.dir.join("f"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut writer = Writer(writer);
    eventually(SOON, "the machine has the first of it", || {
        fs::read(field.far.join("f")).is_ok_and(|content| content == b"before ")
    });
    eventually(SOON, "that is known", || {
        field.status().is_some_and(|status| status["journal"]["operations"] == 0)
    });
    field.proxy().cut();
    eventually(SOON, "the mount has noticed", || !field.is_active());
    writer.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    eventually(SOON, "it is told to be unsaved", || {
        field.status().is_some_and(|status| status["journal"]["operations"] == 1)
    });
    assert_eq!(fs::read(field.far.join("f")).unwrap(), b"before ");
    (field, writer)
}

/// Takes the mount away, and returns where it says that something is kept.
fn unmount(field: &Field, args: &[&str]) -> PathBuf {
    let removed = field.stead().json(&[&["unmount", &field.mount().id], args].concat());
    let kept = removed["mounts"][0]["kept_aside"][0].as_str();
    let kept = PathBuf::from(kept.unwrap_or_else(|| panic!("nothing is kept: {removed}")));
    assert_eq!(kept, field.state_dir());
    kept
}

/// Mounts the source again, under another directory.
fn mount_again(field: &Field) -> Mount {
    field.proxy().mend();
    field.stead().mount(format!("ssh://box{}", field.far.display()), &field.stead().dir("again"), &[])
}

/// Nothing is kept any more once the mount is taken away, and there is nothing more to replay.
fn is_over(field: &Field, mount: &Mount) {
    field.stead().unmount(mount);
    let mounts = field.stead().home().join("mounts");
    let left = || fs::read_dir(&mounts).map_or(0, Iterator::count);
    eventually(SOON, "nothing is kept any more", || left() == 0);
}

#[test]
fn what_was_not_saved_is_saved_when_the_source_is_mounted_again() {
    let (field, writer) = unsaved();
    let kept = unmount(&field, &["--force"]);
    drop(writer);
    assert!(kept.is_dir());
    let mount = mount_again(&field);
    assert_eq!(fs::read(field.far.join("f")).unwrap(), b"before unsaved");
    assert_eq!(fs::read(mount.dir.join("f")).unwrap(), b"before unsaved");
    assert!(mount.json["replayed"]["writes"].as_u64() >= Some(1), "{}", mount.json);
    assert_eq!(mount.json["replayed"]["aside"], Value::Array(Vec::new()));
    assert!(!kept.exists());
    is_over(&field, &mount);
}

#[test]
fn what_was_not_saved_is_put_beside_a_file_that_has_changed_meanwhile() {
    let (field, writer) = unsaved();
    fs::write(field.far.join("f"), "somebody else's").unwrap();
    unmount(&field, &["--force"]);
    drop(writer);
    let mut events = Events::of(&field);
    eventually(SOON, "the subscriber hears something", || {
        field.stead().ok(&["connect", "host:"]);
        field.stead().ok(&["disconnect", "host:"]);
        events.next(Duration::from_millis(200)).is_some()
    });
    let mount = mount_again(&field);
    let aside = &mount.json["replayed"]["aside"][0];
    let conflict = PathBuf::from(aside["path"].as_str().unwrap_or_else(|| panic!("{}", mount.json)));
    assert_eq!(aside["of"].as_str().map(Path::new), Some(mount.dir.join("f").as_path()));
    let name = conflict.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("f.stead-conflict-20"), "{name}");
    assert_eq!(fs::read(field.far.join("f")).unwrap(), b"somebody else's");
    let expected = b"\0\0\0\0\0\0\0unsaved";
    assert_eq!(fs::read(field.far.join(name)).unwrap(), expected);
    assert_eq!(fs::read(&conflict).unwrap(), expected);
    let told = loop {
        let event = events.next(SOON).expect("it is told");
        if event["state"] == "kept_aside" {
            break event;
        }
    };
    assert_eq!((&told["path"], &told["of"]), (&aside["path"], &aside["of"]), "{told}");
    let shown = field.stead().ok(&["status"]).text();
    assert!(shown.contains(name), "{shown}");
    is_over(&field, &mount);
}

#[test]
fn what_a_mount_leaves_whose_processes_are_all_killed_is_saved_by_the_next_one() {
    let (field, writer) = unsaved();
    // Stopped, it cannot start a successor before it is killed itself.
    field.holder(Role::Keeper).signal(Signal::STOP);
    field.kill(Role::Worker);
    field.kill(Role::Keeper);
    eventually(SOON, "the mount has failed", || {
        field.status().is_some_and(|status| status["status"]["state"] == "failed")
    });
    drop(writer);
    let kept = unmount(&field, &[]);
    let mount = mount_again(&field);
    assert_eq!(fs::read(field.far.join("f")).unwrap(), b"before unsaved");
    assert!(mount.json["replayed"]["writes"].as_u64() >= Some(1), "{}", mount.json);
    assert!(!kept.exists());
    is_over(&field, &mount);
}
