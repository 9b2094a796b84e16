//! Mounts.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use e2e::tree::{Compare, assert_same};
use e2e::{eventually, leftovers};

use super::DEADLINE;
use super::field::{Field, HOST};
use crate::on_every_machine;

fn is_mounted(dir: &Path) -> bool {
    leftovers::mounts_below(dir).iter().any(|point| point == dir)
}

on_every_machine! {
    fn a_tree_is_browsed_and_read_with_its_subdirectories(field) {
        field.others("mkdir -p a/b/c; printf 'deep down' >a/b/c/deep; ln -s large link");
        field.others("head -c 3000000 /dev/urandom >large");
        let (_mount, dir) = field.mount("mnt", &[]);
        assert_same(&field.there(), &dir, Compare::CONTENTS);
        assert_eq!(fs::read_to_string(dir.join("a/b/c/deep")).unwrap(), "deep down");
        assert_eq!(fs::read_link(dir.join("link")).unwrap(), Path::new("large"));
        let sub = field.stead.dir("sub");
        field.stead.mount(field.source(&field.far.join("a/b")), &sub, &[]);
        assert_eq!(fs::read_to_string(sub.join("c/deep")).unwrap(), "deep down");
        // What changes there is seen here.
        field.others("echo x >a/b/made-there");
        eventually(DEADLINE, "what was made there is seen", || sub.join("made-there").exists());
    }

    fn files_are_created_and_deleted(field) {
        let (_mount, dir) = field.mount("mnt", &[]);
        fs::write(dir.join("new"), "one").unwrap();
        assert_eq!(fs::read_to_string(field.there().join("new")).unwrap(), "one");
        assert_eq!(fs::File::create_new(dir.join("new")).unwrap_err().kind(), ErrorKind::AlreadyExists);
        std::os::unix::fs::symlink("new", dir.join("link")).unwrap();
        fs::hard_link(dir.join("new"), dir.join("twin")).unwrap();
        assert_eq!(field.there().join("twin").metadata().unwrap().nlink(), 2);
        for name in ["new", "link", "twin"] {
            fs::remove_file(dir.join(name)).unwrap();
            assert!(field.there().join(name).symlink_metadata().is_err(), "{name}");
        }
        assert_eq!(fs::remove_file(dir.join("new")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    fn files_are_renamed_and_modified(field) {
        let (_mount, dir) = field.mount("mnt", &[]);
        fs::create_dir(dir.join("a")).unwrap();
        fs::write(dir.join("f"), "one").unwrap();
        fs::write(dir.join("f"), "two, and longer").unwrap();
        assert_eq!(fs::read_to_string(field.there().join("f")).unwrap(), "two, and longer");
        fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(field.there().join("f").metadata().unwrap().permissions().mode() & 0o7777, 0o640);
        fs::rename(dir.join("f"), dir.join("a/moved")).unwrap();
        let there = field.there();
        assert!(!there.join("f").exists() && there.join("a/moved").exists());
        fs::write(dir.join("in-the-way"), "old").unwrap();
        fs::rename(dir.join("a/moved"), dir.join("in-the-way")).unwrap();
        assert_eq!(fs::read_to_string(field.there().join("in-the-way")).unwrap(), "two, and longer");
    }

    fn directories_are_made_moved_and_removed(field) {
        let (_mount, dir) = field.mount("mnt", &[]);
        fs::create_dir_all(dir.join("d/e")).unwrap();
        assert_eq!(fs::remove_dir(dir.join("d")).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
        fs::write(dir.join("d/e/f"), "x").unwrap();
        fs::rename(dir.join("d/e"), dir.join("e")).unwrap();
        assert_eq!(fs::read_to_string(field.there().join("e/f")).unwrap(), "x");
        fs::remove_dir(dir.join("d")).unwrap();
        let there = field.there();
        assert!(there.join("e").is_dir() && !there.join("d").exists());
        // More than a listing has at a time. Each takes an emulated processor many milliseconds.
        let many = if field.is_emulated() { 30 } else { 300 };
        for number in 0..many {
            fs::create_dir(dir.join("e").join(number.to_string())).unwrap();
        }
        assert_eq!(fs::read_dir(dir.join("e")).unwrap().count(), many + 1);
        fs::remove_dir_all(dir.join("e")).unwrap();
        assert!(!field.there().join("e").exists());
    }

    fn a_read_only_mount_changes_nothing(field) {
        field.others("printf x >f");
        let (_mount, dir) = field.mount("mnt", &["--read-only"]);
        assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "x");
        for refused in [
            fs::write(dir.join("new"), "x"),
            fs::write(dir.join("f"), "y"),
            fs::remove_file(dir.join("f")),
            fs::create_dir(dir.join("d")),
            fs::rename(dir.join("f"), dir.join("g")),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        }
        let there = field.there();
        assert_eq!(fs::read_dir(&there).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(there.join("f")).unwrap(), "x");
    }

    fn the_root_of_a_machine_is_mounted(field) {
        let dir = field.stead.dir("whole");
        let root = field.source(Path::new("/"));
        if field.machine == HOST {
            let refused = field.stead.program().args(["mount", &root]).arg(&dir).run();
            assert_eq!(refused.code(), 5, "{refused}");
            assert!(!is_mounted(&dir));
            return;
        }
        field.stead.mount(&root, &dir, &[]);
        assert!(fs::read_to_string(dir.join("etc/passwd")).unwrap().contains("root:"));
        let below = field.far.strip_prefix("/").unwrap();
        fs::write(dir.join(below).join("f"), "through the root").unwrap();
        assert_eq!(fs::read_to_string(field.there().join("f")).unwrap(), "through the root");
    }

    fn a_machine_has_many_mounts_with_a_status_and_an_end(field) {
        let (stead, far) = (&field.stead, &field.far);
        let many: Vec<_> = (0..5).map(|number| field.mount(&format!("m{number}"), &[])).collect();
        fs::write(many[0].1.join("shared"), "seen by all").unwrap();
        for (_, dir) in &many {
            eventually(DEADLINE, "what one wrote is seen by all", || {
                fs::read_to_string(dir.join("shared")).is_ok_and(|text| text == "seen by all")
            });
        }
        let status = stead.status();
        assert_eq!(status["mounts"].as_array().unwrap().len(), 5, "{status}");
        let connections = status["connections"].as_array().unwrap();
        assert!(connections.iter().all(|is| is["machine"] == field.machine && is["state"] == "connected"));
        assert!(connections.len() <= 1, "{status}");
        for (mount, dir) in &many {
            let is = stead.mount_status(&mount.id).unwrap();
            assert_eq!(is["status"]["state"], "active", "{is}");
            assert_eq!(is["source"], field.source(far), "{is}");
            stead.unmount(mount);
            assert!(!is_mounted(dir));
            assert!(stead.mount_status(&mount.id).is_none());
        }
        assert_eq!(fs::read_to_string(field.there().join("shared")).unwrap(), "seen by all");
        // What is not there, and what is no directory.
        let dir = stead.dir("none");
        for (name, code) in [("no/such", 3), ("shared", 2)] {
            let source = field.source(&far.join(name));
            let failed = stead.program().args(["mount", &source]).arg(&dir).run();
            assert_eq!(failed.code(), code, "{failed}");
            assert!(!is_mounted(&dir));
        }
    }

    fn odd_names_rapid_cycles_and_stale_mounts_do_no_harm(field) {
        let (stead, far) = (&field.stead, &field.far);
        let dir = stead.dir("with space, ünïcödé 文件");
        let mount = stead.mount(field.source(far), &dir, &[]);
        fs::create_dir(dir.join("e")).unwrap();
        for name in
            ["with space", " lead and trail ", "ünïcödé 文件 🦀", "new\nline", "quote'\"`$(x)", "-dash", "*"]
        {
            fs::write(dir.join(name), name).unwrap();
            assert_eq!(fs::read_to_string(field.there().join(name)).unwrap(), name);
            fs::rename(dir.join(name), dir.join("e").join(name)).unwrap();
        }
        assert_same(&field.there(), &dir, Compare::CONTENTS);
        stead.unmount(&mount);

        for number in 0..5 {
            let mount = stead.mount(field.source(far), &dir, &[]);
            fs::write(dir.join("n"), number.to_string()).unwrap();
            stead.unmount(&mount);
            assert_eq!(fs::read_to_string(field.there().join("n")).unwrap(), number.to_string());
        }

        stead.mount(field.source(far), &dir, &[]);
        leftovers::kill(&field.processes());
        eventually(DEADLINE, "all processes are gone", || field.processes().is_empty());
        eventually(DEADLINE, "the mount is dead or gone", || fs::metadata(&dir).is_err() || !is_mounted(&dir));
        stead.ok(&["status"]);
        eventually(DEADLINE, "the dead mount is gone, or served again", || fs::metadata(&dir).is_ok());
        stead.ok(&["unmount", "--all"]);
        let mount = stead.mount(field.source(far), &dir, &[]);
        assert_eq!(fs::read_to_string(dir.join("n")).unwrap(), "4");
        stead.unmount(&mount);
    }
}
