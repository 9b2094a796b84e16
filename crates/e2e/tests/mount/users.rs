//! A plain user, who has `fusermount3` and nothing else. As root these run as `nobody`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use e2e::stead::{NOBODY, User, is_root, open_to_all};
use e2e::{Program, Stead, leftovers};

/// An installation of a plain user, whoever runs the tests.
fn plain_user() -> Stead {
    let stead = if is_root() { Stead::of_user(NOBODY) } else { Stead::new() };
    open_to_all(stead.root());
    stead
}

/// A shell of the same user.
fn shell(script: &str, dir: &Path) -> Program {
    let User { uid, gid } = NOBODY;
    let program = if is_root() {
        Program::new("setpriv")
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={gid}"))
            .args(["--clear-groups", "sh"])
    } else {
        Program::new("sh")
    };
    program.args(["-ec", script]).cwd("/").arg("sh").arg(dir)
}

#[test]
fn a_plain_user_mounts_uses_and_unmounts() {
    let stead = plain_user();
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    let mount = stead.mount(format!("host:{}", far.display()), &dir, &[]);
    let script =
        "cd \"$1\"; echo hello > f; mkdir d; mv f d/f; ln -s d/f l; cat l; chmod 600 d/f; rm -r d l; ls";
    assert_eq!(shell(script, &dir).ok().text(), "hello\n");
    stead.unmount(&mount);
    assert_eq!(leftovers::mounts_below(stead.root()), [] as [&Path; 0]);
}

#[test]
fn everything_belongs_to_the_plain_user_who_mounts() {
    let stead = plain_user();
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    stead.mount(format!("host:{}", far.display()), &dir, &[]);
    shell("echo x > \"$1/f\"; test -O \"$1/f\"; test -O \"$1\"; test -w \"$1/f\"", &dir).ok();
    let refused = shell("chown 0 \"$1/f\"", &dir).run();
    assert_ne!(refused.code(), 0);
}

#[test]
fn root_and_others_are_kept_out_of_a_plain_users_mount() {
    if !is_root() {
        return;
    }
    let stead = plain_user();
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    stead.mount(format!("host:{}", far.display()), &dir, &[]);
    assert!(std::fs::read_dir(&dir).is_err(), "the kernel keeps even root out of a mount that is another's");
}

#[test]
fn the_state_of_a_plain_user_is_their_own() {
    let stead = plain_user();
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    stead.mount(format!("host:{}", far.display()), &dir, &[]);
    let mode = stead.home().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others could open files and sockets: {mode:o}");
}

#[test]
fn the_daemon_does_not_answer_another_user() {
    if !is_root() {
        return;
    }
    let stead = Stead::new();
    open_to_all(stead.root());
    stead.ok(&["status"]);
    Program::new("chmod").args(["-R", "a+rwX"]).arg(stead.home()).ok();
    let User { uid, gid } = NOBODY;
    let refused = Program::new("setpriv")
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={gid}"))
        .arg("--clear-groups")
        .arg(e2e::stead::stead_bin())
        .arg("status")
        .env("STEAD_HOME", stead.home())
        .run();
    assert_eq!(refused.code(), 4, "{refused}");
}
