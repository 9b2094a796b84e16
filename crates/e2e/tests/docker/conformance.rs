//! What holds for a mount of any machine holds for one of a container.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use e2e::tree::{Compare, assert_same};
use e2e::{Engine, Mount, Program, Stead, eventually, leftovers};
use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, is_possible};

/// A container with a directory that is seen from outside as well, by the same name.
struct Field {
    // In the order in which they have to go.
    stead: Stead,
    engine: Engine,
    far: PathBuf,
}

impl Field {
    fn new() -> Field {
        let engine = Engine::start();
        let far = engine.dir().join("far");
        fs::create_dir(&far).unwrap();
        let volume = format!("{0}:{0}", far.display());
        engine.run("web", &["--volume", &volume]);
        Field { stead: engine.stead(), engine, far }
    }

    fn source(&self, path: &Path) -> String {
        format!("docker://web{}", path.display())
    }

    fn mount(&self, name: &str, args: &[&str]) -> (Mount, PathBuf) {
        let dir = self.stead.dir(name);
        (self.stead.mount(self.source(&self.far), &dir, args), dir)
    }
}

#[test]
fn a_containers_tree_is_browsed_read_and_changed() {
    if !is_possible() {
        return;
    }
    let field = Field::new();
    let far = &field.far;
    fs::create_dir_all(far.join("a/b/c")).unwrap();
    fs::write(far.join("a/b/c/deep"), "deep down").unwrap();
    fs::write(far.join("large"), vec![7; 3_000_000]).unwrap();
    std::os::unix::fs::symlink("large", far.join("link")).unwrap();
    let (mount, dir) = field.mount("mnt", &[]);

    // Browse and read.
    assert_same(far, &dir, Compare::CONTENTS);
    assert_eq!(fs::read_to_string(dir.join("a/b/c/deep")).unwrap(), "deep down");
    assert_eq!(fs::read_link(dir.join("link")).unwrap(), Path::new("large"));

    // Create, modify, rename, delete.
    fs::write(dir.join("new"), "one").unwrap();
    assert_eq!(fs::read_to_string(far.join("new")).unwrap(), "one");
    fs::write(dir.join("new"), "two, and longer").unwrap();
    assert_eq!(fs::read_to_string(far.join("new")).unwrap(), "two, and longer");
    fs::set_permissions(dir.join("new"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(far.join("new").metadata().unwrap().permissions().mode() & 0o7777, 0o640);
    fs::rename(dir.join("new"), dir.join("a/moved")).unwrap();
    assert!(!far.join("new").exists() && far.join("a/moved").exists());
    fs::remove_file(dir.join("a/moved")).unwrap();
    assert!(!far.join("a/moved").exists());

    // Operations on directories.
    fs::create_dir_all(dir.join("d/e")).unwrap();
    assert_eq!(fs::remove_dir(dir.join("d")).unwrap_err().kind(), std::io::ErrorKind::DirectoryNotEmpty);
    fs::rename(dir.join("d/e"), dir.join("e")).unwrap();
    fs::remove_dir(dir.join("d")).unwrap();
    assert!(far.join("e").is_dir() && !far.join("d").exists());

    // What changes there is seen here.
    field.engine.docker(&["exec", "web", "sh", "-c", &format!("echo x > {}/made-there", far.display())]);
    eventually(DEADLINE, "what was made there is seen", || dir.join("made-there").exists());

    // Names of all sorts.
    for name in
        ["with space", " lead and trail ", "ünïcödé 文件 🦀", "new\nline", "quote'\"`$(x)", "-dash", "*"]
    {
        fs::write(dir.join(name), name).unwrap();
        assert_eq!(fs::read_to_string(far.join(name)).unwrap(), name);
        fs::rename(dir.join(name), dir.join("e").join(name)).unwrap();
        fs::remove_file(dir.join("e").join(name)).unwrap();
    }
    assert_same(far, &dir, Compare::CONTENTS);

    // Status, and the end.
    let is = field.stead.mount_status(&mount.id).unwrap();
    assert_eq!(is["status"]["state"], "active", "{is}");
    assert_eq!(is["source"], field.source(far));
    let status = field.stead.status();
    assert_eq!(status["connections"][0]["machine"], "docker://web", "{status}");
    assert_eq!(status["connections"][0]["state"], "connected", "{status}");
    field.stead.unmount(&mount);
    assert_eq!(leftovers::mounts_below(&dir), [] as [&Path; 0]);
}

#[test]
fn a_container_has_many_mounts_of_all_sorts() {
    if !is_possible() {
        return;
    }
    let field = Field::new();
    let (stead, far) = (&field.stead, &field.far);
    fs::create_dir(far.join("sub")).unwrap();
    fs::write(far.join("sub/f"), "x").unwrap();

    // Read-only.
    let (_, read_only) = field.mount("read-only", &["--read-only"]);
    let refused = fs::write(read_only.join("new"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    // The container's own root, the home directory of its user, and what is below.
    let root = stead.dir("root");
    stead.mount("docker://web/", &root, &[]);
    assert!(fs::read_to_string(root.join("etc/passwd")).unwrap().contains("ann"));
    fs::write(root.join("tmp/from-outside"), "hello").unwrap();
    assert_eq!(field.engine.docker(&["exec", "web", "cat", "/tmp/from-outside"]), "hello");
    let sub = stead.dir("sub");
    stead.mount(field.source(&far.join("sub")), &sub, &[]);
    assert_eq!(fs::read_to_string(sub.join("f")).unwrap(), "x");

    // Many.
    let many: Vec<_> = (0..4).map(|n| field.mount(&format!("m{n}"), &[])).collect();
    fs::write(many[0].1.join("shared"), "seen by all").unwrap();
    for (_, dir) in &many {
        eventually(DEADLINE, "what one wrote is seen by all", || {
            fs::read_to_string(dir.join("shared")).is_ok_and(|text| text == "seen by all")
        });
    }
    assert_eq!(stead.status()["mounts"].as_array().unwrap().len(), 7);
    assert_eq!(stead.status()["connections"].as_array().unwrap().len(), 1);

    // Come and gone in a hurry.
    for n in 0..5 {
        let (mount, dir) = field.mount("quick", &[]);
        fs::write(dir.join("n"), n.to_string()).unwrap();
        stead.unmount(&mount);
        assert_eq!(fs::read_to_string(far.join("n")).unwrap(), n.to_string());
    }

    // What is not there, and what is no directory.
    let dir = stead.dir("none");
    let missing = stead.program().args(["mount", "docker://web/no/such"]).arg(&dir).run();
    assert_eq!(missing.code(), 3, "{missing}");
    let file = stead.program().args(["mount", "docker://web/etc/passwd"]).arg(&dir).run();
    assert_eq!(file.code(), 2, "{file}");
    assert_eq!(leftovers::mounts_below(&dir), [] as [&Path; 0]);
}

#[test]
fn a_containers_mount_outlives_its_processes() {
    if !is_possible() {
        return;
    }
    let field = Field::new();
    let (mount, dir) = field.mount("mnt", &[]);
    let mut open = fs::File::create(dir.join("open")).unwrap();
    std::io::Write::write_all(&mut open, b"before, ").unwrap();

    // The worker.
    let pid = field.stead.mount_status(&mount.id).unwrap()["worker"]["pid"].as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    std::io::Write::write_all(&mut open, b"between, ").unwrap();

    // What carries its stream: all that speaks with the engine.
    for process in field.stead.processes() {
        if process.command.contains(" container ") {
            let _ended_meanwhile = kill_process(process.pid, Signal::KILL);
        }
    }
    std::io::Write::write_all(&mut open, b"after").unwrap();
    open.sync_all().unwrap();
    drop(open);
    assert_eq!(fs::read_to_string(field.far.join("open")).unwrap(), "before, between, after");

    // The daemon.
    let daemon = Pid::from_raw(field.stead.daemon_pid()).unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
    fs::write(dir.join("without"), "x").unwrap();
    eventually(DEADLINE, "the next daemon has the mount", || {
        field.stead.mount_status(&mount.id).is_some_and(|is| is["status"]["state"] == "active")
    });
    assert!(field.far.join("without").exists());
    field.stead.unmount(&mount);
    Program::new("ls").arg(&dir).ok();
}
