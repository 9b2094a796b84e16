//! What images are made of, and what is not taken for one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::guest::{GUEST_DEADLINE, kernel, make_root};
use e2e::{Program, Stead, eventually};

/// For what the daemon does by itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// Packs what is in a directory.
fn pack(stead: &Stead, name: &str, root: &Path, more: &[&str]) -> PathBuf {
    let archive = stead.root().join(name);
    Program::new("tar").args(more).arg("-cf").arg(&archive).arg("-C").arg(root).arg(".").ok();
    archive
}

fn build(stead: &Stead, archive: &Path) -> Program {
    let program = stead.program().args(["image", "build", "tiny", "--from"]).arg(archive);
    program.arg("--kernel").arg(kernel()).deadline(GUEST_DEADLINE)
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
        let refused = build(&stead, &pack(&stead, "hostile.tar", &hostile, more)).run();
        assert!(refused.code() == 2 && refused.errors().contains("leads out"), "{refused}");
    }
    assert!(!outside.exists());
    assert_eq!(left(&stead, "images"), 0);

    build(&stead, &archive).ok();
    stead.ok(&["vm", "create", "dev", "--image", "tiny", "--memory", "192M"]);
    stead.vm(&["start", "dev"]);
    let script = "cat /home/again /etc/hostname; ls -ln /root/kept; ls -d /lost+found";
    let said = stead.ok(&["exec", "vm://dev", "--", "sh", "-c", script]).text();
    assert!(said.starts_with("from the archivedev\n-rwsr-x---    2 1234     70000"), "{said}");
    stead.vm(&["kill", "dev"]);
    stead.ok(&["vm", "delete", "dev"]);
}

#[test]
fn an_image_that_is_called_off_leaves_nothing() {
    let stead = Stead::new();
    // Little, that unpacks to so much that reading it takes longer than calling it off.
    let part = "truncate -s 64M large && tar -cf - large | head -c 67109376 | gzip -1c";
    let part = Program::new("sh").args(["-c", part]).cwd(stead.root()).ok().stdout;
    let archive = stead.root().join("bomb.tar.gz");
    fs::write(&archive, part.repeat(1000)).unwrap();

    let mut building = build(&stead, &archive).spawn();
    eventually(DEADLINE, "the image is being made", || left(&stead, "images") == 1);
    building.kill().unwrap();
    building.wait().unwrap();
    eventually(DEADLINE, "nothing of it is left", || left(&stead, "images") == 0);
    assert_eq!(stead.json(&["image", "list"])["images"], serde_json::json!([]));
    let refused = stead.run(&["image", "delete", "tiny"]);
    assert_eq!(refused.code(), 3, "{refused}");
}
