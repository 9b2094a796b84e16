//! Every change is made once: one that was applied twice fails at the second time, or leaves a trace.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};

use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with, setxattr};

use crate::faults::job::{Task, must};

pub fn run(task: &mut Task) {
    for round in 0..task.rounds {
        let bytes = task.dice.bytes(700);
        let dir = task.path(format!("d{round}"));
        let at = |name: &str| dir.join(name);
        must(fs::create_dir(&dir), format_args!("mkdir {round}"));

        let mut file = must(fs::File::create_new(at("new")), "creating a file that is not there");
        must(file.write_all(&bytes), "writing");
        must(file.write_all_at(b"here", 100), "writing at an offset");
        must(file.set_len(600), "truncating");
        drop(file);
        let mut file = must(fs::OpenOptions::new().append(true).open(at("new")), "opening to append");
        must(file.write_all(b"once\n"), "appending");
        must(file.write_all(b"twice\n"), "appending again");
        drop(file);
        must(setxattr(at("new"), "user.once", &bytes[..20], XattrFlags::CREATE), "creating an attribute");

        must(symlink("new", at("symlink")), "symlink");
        must(fs::hard_link(at("new"), at("link")), "link");
        must(fs::rename(at("link"), at("renamed")), "rename");
        must(
            renameat_with(CWD, at("renamed"), CWD, at("last"), RenameFlags::NOREPLACE),
            "rename to a free name",
        );
        let links = must(fs::metadata(at("last")), "stat").nlink();
        assert_eq!(links, 2, "links of a file that was linked once");
        must(fs::write(at("other"), "other"), "creating another file");
        must(renameat_with(CWD, at("other"), CWD, at("last"), RenameFlags::EXCHANGE), "exchange");
        must(fs::remove_file(at("other")), "unlink");
        must(fs::remove_file(at("symlink")), "unlink of a symlink");
        must(fs::create_dir(at("gone")), "mkdir of what goes again");
        must(fs::remove_dir(at("gone")), "rmdir");
        must(fs::rename(&dir, task.path(format!("r{round}"))), "rename of a directory");
    }
}
