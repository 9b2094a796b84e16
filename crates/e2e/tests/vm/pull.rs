//! Images of a real registry that we have not written: pulled, refused, broken off, called off, killed half way.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::guest::{GUEST_DEADLINE, kernel, make_root};
use e2e::proxy::DelayProxy;
use e2e::registry::{Guard, LOGIN, Registry};
use e2e::{Program, Stead, eventually};

/// For what the daemon does by itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// How much a layer has that is to take its time, and how much of it gets through in a second then.
const LARGE_BYTES: usize = 12 << 20;
const SLOW_BYTES_PER_SECOND: u64 = 1 << 20;

fn pull(stead: &Stead, port: u16, name: &str, more: &[&str]) -> Program {
    let program = stead.program().args(["image", "pull"]).arg(format!("127.0.0.1:{port}/team/{name}"));
    program.args(more).arg("--kernel").arg(kernel()).deadline(GUEST_DEADLINE)
}

/// What is in the daemon's directory of images.
fn left(stead: &Stead) -> usize {
    fs::read_dir(stead.home().join("images")).into_iter().flatten().count()
}

fn pack(stead: &Stead, name: &str, root: &Path) -> PathBuf {
    let archive = stead.root().join(name);
    let tar = Program::new("tar").args(["--owner=:1234", "--group=:70000", "-cf"]).arg(&archive);
    tar.arg("-C").arg(root).arg(".").ok();
    archive
}

/// A root to boot from, and two layers over it that add, replace and take away.
fn layers(stead: &Stead) -> Vec<PathBuf> {
    let dir = |name: &str| stead.root().join(name);
    make_root(&dir("lowest"));
    fs::create_dir_all(dir("lowest/srv/old")).unwrap();
    for (path, text) in
        [("srv/old/file", "old"), ("srv/gone", "gone"), ("srv/kept", "kept"), ("srv/again", "old")]
    {
        fs::write(dir("lowest").join(path), text).unwrap();
    }
    fs::create_dir_all(dir("middle/srv/old")).unwrap();
    for (path, text) in
        [("srv/.wh.gone", ""), ("srv/old/.wh..wh..opq", ""), ("srv/old/new", "new"), ("srv/again", "again")]
    {
        fs::write(dir("middle").join(path), text).unwrap();
    }
    fs::create_dir_all(dir("highest/srv")).unwrap();
    fs::write(dir("highest/srv/tool"), "tool").unwrap();
    fs::set_permissions(dir("highest/srv/tool"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(dir("highest/srv/tool"), dir("highest/srv/same")).unwrap();
    symlink("/srv/../../../srv/tool", dir("highest/srv/link")).unwrap();
    ["lowest", "middle", "highest"].map(|name| pack(stead, &format!("{name}.tar"), &dir(name))).into()
}

/// A layer that takes its time.
fn large_layer(stead: &Stead) -> PathBuf {
    let root = stead.root().join("large");
    fs::create_dir_all(&root).unwrap();
    let noise = Program::new("head").args(["-c", &LARGE_BYTES.to_string(), "/dev/urandom"]).ok().stdout;
    fs::write(root.join("noise"), noise).unwrap();
    pack(stead, "large.tar", &root)
}

#[test]
fn a_vm_boots_from_an_image_of_a_registry_with_all_its_layers() {
    let stead = Stead::new();
    let registry = Registry::start(Guard::Nobody);
    let layers = layers(&stead);
    registry.push(&layers, "team/docker:1", &["--format", "v2s2"]);
    registry.push(&layers, "team/oci:1", &["--format", "oci", "--dest-compress-format", "zstd"]);
    for name in ["docker", "oci"] {
        pull(&stead, registry.port(), &format!("{name}:1"), &[]).ok();
        let root = stead.home().join(format!("images/{name}/root.ext4"));
        Program::new("/usr/sbin/e2fsck").args(["-f", "-n"]).arg(&root).ok();
        let ask =
            |request: &str| Program::new("/usr/sbin/debugfs").args(["-R", request]).arg(&root).ok().text();
        assert_eq!(
            (ask("cat /srv/again"), ask("cat /srv/old/new")),
            ("again".into(), "new".into()),
            "{name}"
        );
    }
    let (docker, oci) = (stead.json(&["image", "show", "docker"]), stead.json(&["image", "show", "oci"]));
    assert_eq!(docker["bytes"], oci["bytes"]);
    let origin = &docker["origin"];
    assert_eq!(origin["reference"], format!("127.0.0.1:{}/team/docker:1", registry.port()));
    assert!(origin["platform"].as_str().unwrap().starts_with("linux/"), "{origin}");
    let digest = origin["digest"].as_str().unwrap();
    pull(&stead, registry.port(), &format!("docker@{digest}"), &["--name", "same"]).ok();

    stead.ok(&["vm", "create", "dev", "--image", "same", "--memory", "192M"]);
    stead.vm(&["start", "dev"]);
    let script = "cd /srv; ls; ls old; cat kept link; ls -ln same";
    let said = stead.ok(&["exec", "vm://dev", "--", "sh", "-c", script]).text();
    let expected = "again\nkept\nlink\nold\nsame\ntool\nnew\nkepttool-rwsr-x---    2 1234     70000";
    assert!(said.starts_with(expected), "{said}");
    stead.ok(&["vm", "delete", "dev", "--force"]);
}

#[test]
fn an_image_that_cannot_be_pulled_says_why_and_leaves_nothing() {
    let mut stead = Stead::new();
    let registry = Registry::start(Guard::Password);
    registry.push(&layers(&stead), "team/tiny:1", &[]);
    let refused = |program: Program, code: i32, said: &str| {
        let answer = program.run();
        assert!(answer.code() == code && answer.errors().contains(said), "{answer}");
        assert_eq!(left(&stead), 0);
    };
    let port = registry.port();
    refused(pull(&stead, port, "tiny:1", &[]), 4, "docker login 127.0.0.1");
    refused(pull(&stead, port, "Tiny:1", &["--name", "a"]), 2, "no image of a registry");
    refused(pull(&stead, port, "tiny:1", &["--platform", "linux"]), 2, "linux/amd64 is one");
    stead.set_env("DOCKER_CONFIG", registry.docker(port));
    let refused = |program: Program, code: i32, said: &str| {
        let answer = program.run();
        assert!(answer.code() == code && answer.errors().contains(said), "{answer}");
        assert_eq!(left(&stead), 0);
    };
    refused(pull(&stead, port, "none:1", &[]), 3, "is not there");
    refused(pull(&stead, port, "tiny:1", &["--platform", "plan9/amd64"]), 3, "not for plan9/amd64");
    pull(&stead, port, "tiny:1", &[]).ok();
    assert_eq!(left(&stead), 1);
    let log = fs::read_to_string(stead.home().join("daemon.log")).unwrap();
    assert!(!log.contains(LOGIN.1), "{log}");
}

#[test]
fn a_pull_that_is_killed_or_broken_off_leaves_nothing_and_is_repeated() {
    let stead = Stead::new();
    let registry = Registry::start(Guard::Nobody);
    registry.push(&[layers(&stead), vec![large_layer(&stead)]].concat(), "team/tiny:1", &[]);
    let slow = DelayProxy::start_rated(registry.port(), Duration::ZERO, Some(SLOW_BYTES_PER_SECOND));
    let half_way = || slow.carried_bytes() > LARGE_BYTES as u64 / 4;

    // The daemon.
    let mut pulling = pull(&stead, slow.port(), "tiny:1", &[]).spawn();
    eventually(DEADLINE, "it is half way", half_way);
    assert_eq!(left(&stead), 1);
    super::kill(stead.daemon_pid());
    pulling.wait().unwrap();
    assert_eq!(stead.json(&["image", "list"])["images"].as_array().unwrap().len(), 0);
    assert_eq!(left(&stead), 0);

    // Whoever asked.
    let before = slow.carried_bytes();
    let mut pulling = pull(&stead, slow.port(), "tiny:1", &[]).spawn();
    eventually(DEADLINE, "it is half way again", || slow.carried_bytes() > before + LARGE_BYTES as u64 / 4);
    pulling.kill().unwrap();
    pulling.wait().unwrap();
    eventually(DEADLINE, "nothing of it is left", || left(&stead) == 0);

    // The network: it goes on where it was.
    let quick = DelayProxy::start_rated(registry.port(), Duration::ZERO, Some(4 * SLOW_BYTES_PER_SECOND));
    quick.cut_after(LARGE_BYTES / 2);
    let mut pulling = pull(&stead, quick.port(), "tiny:1", &[]).spawn();
    eventually(DEADLINE, "it is cut off", || quick.is_cut());
    quick.mend();
    let status = pulling.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(registry.log().contains("http.response.status=206"), "{}", registry.log());
    assert_eq!(stead.json(&["image", "list"])["images"][0]["name"], "tiny");
    assert_eq!(left(&stead), 1);
}
