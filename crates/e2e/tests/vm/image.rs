//! What images are made of, and what is not taken for one.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::guest::{GUEST_DEADLINE, kernel, make_root};
use e2e::{Program, Stead, eventually, leftovers};

use super::operation::Slow;

/// For what the daemon does by itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// Packs what is in a directory.
fn pack(stead: &Stead, name: &str, root: &Path, more: &[&str]) -> PathBuf {
    let archive = stead.root().join(name);
    Program::new("tar").args(more).arg("-cf").arg(&archive).arg("-C").arg(root).arg(".").ok();
    archive
}

fn build(stead: &Stead, name: &str, archive: &Path) -> Program {
    let program = stead.program().args(["image", "build", name, "--from"]).arg(archive);
    program.arg("--kernel").arg(kernel()).deadline(GUEST_DEADLINE)
}

fn promote(stead: &Stead) {
    stead.program().args(["image", "promote", "dev", "next"]).deadline(GUEST_DEADLINE).ok();
}

/// What is below a directory of the daemon's.
fn left(stead: &Stead, directory: &str) -> usize {
    fs::read_dir(stead.home().join(directory)).into_iter().flatten().count()
}

#[test]
fn a_vm_boots_from_an_archive_and_no_name_in_it_leads_out() {
    let stead = Stead::new();
    let root = stead.root().join("root");
    make_root(&root);
    // What is behind a link is where the guest would find it.
    symlink("/root", root.join("home")).unwrap();
    fs::write(root.join("root/kept"), "from the archive").unwrap();
    fs::set_permissions(root.join("root/kept"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(root.join("root/kept"), root.join("root/again")).unwrap();
    let archive = pack(&stead, "root.tar.gz", &root, &["-z", "--owner=:1234", "--group=:70000"]);

    let outside = stead.root().join("escaped");
    let hostile = stead.root().join("hostile");
    fs::create_dir_all(hostile.join("bin")).unwrap();
    fs::write(hostile.join("file"), "").unwrap();
    let out = format!("--transform=s,^./file$,../../../../..{},", outside.display());
    for more in [&["-P", &out][..], &["-P", "--transform=s,^./file$,a/../../file,"]] {
        let refused = build(&stead, "tiny", &pack(&stead, "hostile.tar", &hostile, more)).run();
        assert!(refused.code() == 2 && refused.errors().contains("leads out"), "{refused}");
    }
    assert!(!outside.exists());
    assert_eq!(left(&stead, "images"), 0);

    build(&stead, "tiny", &archive).ok();
    stead.ok(&["vm", "create", "dev", "--image", "tiny", "--memory", "192M"]);
    stead.vm(&["start", "dev"]);
    let script = "cat /home/again /etc/hostname; ls -ln /root/kept; ls -d /lost+found";
    let said = stead.ok(&["exec", "vm://dev", "--", "sh", "-c", script]).text();
    assert!(said.starts_with("from the archivedev\n-rwsr-x---    2 1234     70000"), "{said}");

    // What it writes is in an image that is made of it, once it is stopped.
    stead.ok(&["exec", "vm://dev", "--", "sh", "-c", "echo written > /root/new"]);
    let running = stead.run(&["image", "promote", "dev", "next"]);
    assert!(running.code() == 5 && running.errors().contains("stead vm stop dev"), "{running}");
    stead.vm(&["stop", "dev"]);
    promote(&stead);
    let ask = Program::new("/usr/sbin/debugfs").args(["-R", "cat /root/new"]);
    let said = ask.arg(stead.home().join("images/next/root.ext4")).ok();
    assert_eq!(said.text(), "written\n");
    stead.ok(&["vm", "delete", "dev"]);
}

#[test]
fn what_a_vm_has_written_becomes_an_image() {
    let stead = Stead::new();
    stead.make_image();
    stead.ok(&["vm", "create", "dev", "--image", "tiny"]);
    promote(&stead);
    stead.ok(&["vm", "delete", "dev"]);
    let image = |name: &str| stead.json(&["image", "show", name]);
    let tiny = image("tiny");
    stead.ok(&["image", "delete", "tiny"]);

    // What it is made of is whole by itself, and nothing but a whole file system is taken for one.
    let disk = stead.home().join("images/next/root.ext4");
    let register = |disk: &Path| {
        let program = stead.program().args(["image", "register", "other", "--disk"]).arg(disk);
        program.arg("--kernel").arg(kernel()).deadline(GUEST_DEADLINE)
    };
    let over = stead.root().join("over.qcow2");
    let made = Program::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
    made.arg(&disk).arg(&over).ok();
    let refused = register(&over).run();
    assert!(refused.code() == 4 && refused.errors().contains("over another"), "{refused}");
    let refused = register(&kernel()).run();
    assert!(refused.code() == 2 && refused.errors().contains("no ext4"), "{refused}");
    assert_eq!(left(&stead, "images"), 1);
    register(&disk).ok();
    for name in ["next", "other"] {
        let made = image(name);
        assert_eq!((&made["root"], &made["kernel"]), (&tiny["root"], &tiny["kernel"]), "{name}");
        let occupied = |image: &serde_json::Value| image["occupied"].as_u64().unwrap();
        assert!(occupied(&made) < 2 * occupied(&tiny), "{made}: {tiny}");
    }
}

#[test]
fn a_promotion_that_is_killed_leaves_nothing_and_is_repeated() {
    let mut stead = Stead::new();
    let slow = Slow::install(&mut stead);
    stead.make_image();
    stead.ok(&["vm", "create", "dev", "--image", "tiny"]);
    let promotion = || stead.program().args(["image", "promote", "dev", "next"]).deadline(GUEST_DEADLINE);
    for place in ["begin", "end"] {
        slow.hold(place);
        let mut promoting = promotion().spawn();
        slow.awaited(place);
        assert_eq!(left(&stead, "images"), 2);
        let daemon = stead.daemon_pid();
        super::kill(daemon);
        eventually(DEADLINE, "the daemon has ended", || leftovers::has_ended(daemon));
        assert!(!promoting.wait().unwrap().success());
        slow.release(place);
        let vms = stead.json(&["vm", "list"])["vms"].clone();
        assert_eq!((&vms[0]["name"], &vms[0]["state"]), (&"dev".into(), &"stopped".into()));
        eventually(DEADLINE, "nothing of it is left", || left(&stead, "images") == 1);
        assert_eq!(stead.json(&["image", "list"])["images"].as_array().unwrap().len(), 1);
    }
    promotion().ok();
    let image = |name: &str| stead.json(&["image", "show", name])["root"].clone();
    assert_eq!(image("next"), image("tiny"));
    stead.ok(&["vm", "delete", "dev"]);
}

/// The whole of Debian's default image: minutes, and the network.
#[test]
#[ignore = "downloads packages of Debian; `cargo nextest run -p e2e --run-ignored all of_debian`"]
fn a_vm_of_debian_is_made_of_its_packages_and_begins_with_its_init() {
    let stead = Stead::new();
    let building = stead.program().args(["image", "build", "debian"]);
    building.deadline(Duration::from_secs(1500)).ok();
    stead.ok(&["vm", "create", "dev", "--image", "debian"]);
    stead.vm(&["start", "dev"]);
    let system = || stead.run(&["exec", "vm://dev", "--", "systemctl", "is-system-running", "--wait"]).text();
    eventually(GUEST_DEADLINE, "the init is done", || system() == "running\n");
    let said =
        stead.ok(&["exec", "vm://dev", "--", "sh", "-c", "hostname; cat /etc/hostname; git --version"]);
    assert!(said.text().starts_with("dev\ndev\ngit version"), "{said}");
    stead.vm(&["stop", "dev"]);
    eventually(DEADLINE, "it was powered off by its own init", || {
        stead.ok(&["vm", "logs", "dev"]).text().contains("Power down")
    });
    stead.ok(&["vm", "delete", "dev"]);
}

/// Little, that unpacks to so much that reading it takes longer than any of this.
fn long_work(stead: &Stead) -> PathBuf {
    let part = "truncate -s 64M large && tar -cf - large | head -c 67109376 | gzip -1c";
    let part = Program::new("sh").args(["-c", part]).cwd(stead.root()).ok().stdout;
    let archive = stead.root().join("bomb.tar.gz");
    fs::write(&archive, part.repeat(1000)).unwrap();
    archive
}

#[test]
fn an_image_that_is_called_off_leaves_nothing() {
    let stead = Stead::new();
    stead.make_image();
    let mut building = build(&stead, "large", &long_work(&stead)).spawn();
    eventually(DEADLINE, "the image is being made", || left(&stead, "images") == 2);
    building.kill().unwrap();
    building.wait().unwrap();
    eventually(DEADLINE, "nothing of it is left", || left(&stead, "images") == 1);
    assert_eq!(stead.json(&["image", "list"])["images"].as_array().unwrap().len(), 1);
    // Its name is free a moment later.
    eventually(DEADLINE, "its name is free", || stead.run(&["image", "delete", "large"]).code() == 3);
}

/// How much of an answer comes at a time, and how long the next part is waited for: more than what is given up, and all of it takes
/// longer than any of this.
const DRIP_BYTES: usize = 32 << 10;
const DRIP_INTERVAL: Duration = Duration::from_secs(5);

/// A registry that has an endless answer to whatever it is asked. Returns its port.
fn endless_registry() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut asked = [0; 4096];
                let _asked = stream.read(&mut asked).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n").unwrap();
                stream.set_read_timeout(Some(DRIP_INTERVAL)).unwrap();
                // Whoever has heard enough goes, and says nothing before.
                while stream.write_all(&[b' '; DRIP_BYTES]).is_ok() {
                    if stream.read(&mut asked).is_ok() {
                        break;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn images_are_made_at_the_same_time_and_each_name_by_one() {
    let stead = Stead::new();
    stead.make_image();
    stead.ok(&["vm", "create", "dev", "--image", "tiny"]);
    let port = endless_registry();
    let program =
        stead.program().args(["image", "pull", "--name", "large"]).arg(format!("127.0.0.1:{port}/a"));
    let mut building = program.arg("--kernel").arg(kernel()).deadline(GUEST_DEADLINE).spawn();
    eventually(DEADLINE, "the image is being made", || left(&stead, "images") == 2);
    let root = stead.root().join("root");
    let archive = pack(&stead, "root.tar", &root, &[]);

    promote(&stead);
    stead.ok(&["vm", "create", "other", "--image", "next"]);
    assert_eq!(stead.json(&["image", "list"])["images"].as_array().unwrap().len(), 2);
    for refused in [build(&stead, "large", &archive).run(), stead.run(&["image", "delete", "large"])] {
        assert!(refused.code() == 5 && refused.errors().contains("is being made"), "{refused}");
    }
    assert!(building.try_wait().unwrap().is_none(), "all of this was done while an image was being made");

    // What a killed daemon has left of it is swept, and its name is free.
    let daemon = stead.daemon_pid();
    super::kill(daemon);
    building.wait().unwrap();
    eventually(DEADLINE, "nothing of it is left", || {
        stead.json(&["image", "list"])["images"].as_array().unwrap().len() == 2 && left(&stead, "images") == 2
    });
    build(&stead, "large", &archive).ok();
}
