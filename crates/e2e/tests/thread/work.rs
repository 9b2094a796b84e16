//! Work in a thread.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use e2e::eventually;
use e2e::mapping::Mapping;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::{Bench, SOON, text};

#[test]
fn git_works_in_a_thread() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    let git = |words: &[&str]| bench.git_in(&dir, words);
    bench.write(&dir.join("src/main.c"), "int main() {}\n");
    bench.write(&dir.join("src/new.c"), "new\n");
    fs::remove_file(dir.join("run")).expect("removed");
    assert_eq!(git(&["status", "--porcelain"]), " D run\n M src/main.c\n?? src/new.c\n");
    git(&["stash", "-q", "--include-untracked"]);
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(fs::read_to_string(dir.join("src/main.c")).expect("read"), "int main;\n");
    git(&["stash", "pop", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-qm", "second"]);
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(git(&["log", "--format=%s"]), "second\nfirst\n");
    assert_eq!(bench.git(&["show", "fix:src/new.c"]), "new\n");
    git(&["checkout", "-q", "--detach", "main"]);
    assert!(dir.join("run").exists() && !dir.join("src/new.c").exists());
    git(&["checkout", "-q", "fix"]);
    assert_eq!(git(&["fsck", "--no-dangling"]), "");
}

#[test]
fn what_is_changed_is_known_whether_a_thread_is_mounted_or_not() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    bench.write(&dir.join("README"), "other\n");
    bench.write(&dir.join("new/file"), "");
    fs::remove_file(dir.join("link")).expect("removed");
    fs::rename(dir.join("src/deep"), dir.join("moved")).expect("renamed");
    let changed = ["modified README", "deleted link", "added moved", "added new", "deleted src/deep"];
    let mut found = bench.changed("fix");
    found.retain(|change| !change.starts_with("added new/"));
    assert_eq!(found, changed);
    assert_eq!(bench.stead.status()["threads"][0]["changed"], bench.changed("fix").len());
    bench.ok_when_free(&["unmount", "--all"]);
    assert!(!dir.exists(), "it was made for the thread");
    let status = bench.stead.status();
    assert_eq!(
        (text(&status["threads"][0]["name"]), status["mounts"].as_array().map(Vec::len)),
        ("fix".to_owned(), Some(0))
    );
    let mut found = bench.changed("fix");
    found.retain(|change| !change.starts_with("added new/"));
    assert_eq!(found, changed);
    let mounted = bench.json(&["mount", "thread:fix"]);
    assert_eq!(text(&mounted["dir"]), dir.display().to_string());
    assert_eq!(fs::read_to_string(dir.join("README")).expect("read"), "other\n");
    assert!(bench.git_in(&dir, &["status", "--porcelain"]).contains(" M README\n"));
    assert_eq!(bench.run(&["mount", "thread:fix", "../again"]).code(), 5);
}

#[test]
fn a_thread_can_be_mounted_elsewhere() {
    let bench = Bench::new();
    bench.thread("fix");
    bench.ok_when_free(&["unmount", "--all"]);
    bench.git(&["worktree", "prune", "--expire=now"]);
    let elsewhere = bench.stead.root().join("elsewhere");
    bench.json(&["mount", "thread:fix", "../elsewhere"]);
    assert_eq!(bench.git_in(&elsewhere, &["status", "--porcelain", "--branch"]), "## fix\n");
    let listed = bench.git(&["worktree", "list", "--porcelain"]);
    assert!(listed.contains(&format!("worktree {}\n", elsewhere.display())), "{listed}");
    assert_eq!(text(&bench.stead.status()["threads"][0]["dir"]), elsewhere.display().to_string());
}

#[test]
fn a_capture_is_a_commit_that_leaves_branch_and_index_alone() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    bench.name_the_author();
    assert_eq!(bench.run(&["thread", "capture", "fix", "-m", "nothing"]).code(), 5);
    bench.write(&dir.join(".gitignore"), "*.o\n");
    bench.write(&dir.join("src/main.c"), "first\n");
    bench.write(&dir.join("src/main.o"), "ignored\n");
    fs::remove_file(dir.join("link")).expect("removed");
    let first = bench.json(&["thread", "capture", "fix", "-m", "first", "--agent", "reviewer"]);
    let (first, parent) = (text(&first["commit"]), text(&first["parent"]));
    assert_eq!(parent, bench.git(&["rev-parse", "main"]).trim());
    assert_eq!(bench.git(&["rev-parse", "fix"]).trim(), parent, "the branch is where it was");
    assert_eq!(bench.git_in(&dir, &["diff", "--cached", "--name-only"]), "", "the index is as it was");
    let names = bench.git(&["diff", "--name-status", "main", &first]);
    assert_eq!(names, "A\t.gitignore\nD\tlink\nM\tsrc/main.c\n");
    assert_eq!(bench.run(&["thread", "capture", "fix", "-m", "again"]).code(), 5);
    bench.write(&dir.join("src/main.c"), "second\n");
    let second = bench.json(&["thread", "capture", "fix", "-m", "second"]);
    assert_eq!(text(&second["parent"]), first);
    let log = bench.json(&["thread", "log", "fix"]);
    let subjects: Vec<String> =
        log["captures"].as_array().expect("a list").iter().map(|entry| text(&entry["subject"])).collect();
    assert_eq!(subjects, ["second", "first"]);
    assert!(bench.git(&["log", "-1", "--format=%B", &first]).ends_with("Agent: reviewer\n\n"));
    let diff = bench.run(&["thread", "diff", "fix", "--", "--stat"]);
    assert!(diff.text().contains("src/main.c") && !diff.text().contains("main.o"), "{diff}");
    // What is captured is not lost with the thread.
    let dropped = bench.json_when_free(&["thread", "drop", "fix"]);
    assert_eq!(text(&dropped["kept_captures"]), "refs/stead/threads/fix");
    assert_eq!(bench.git(&["show", "refs/stead/threads/fix:src/main.c"]), "second\n");
}

/// How a thread can be mounted: the kernel writes files by itself where it lets this user say so, or asks for it.
const CONTENTS: [&[&str]; 2] = [&[], &["-o", "no-passthrough"]];

/// A thread that was unmounted and is mounted in this way.
fn mounted_with(bench: &Bench, options: &[&str]) -> std::path::PathBuf {
    let dir = bench.thread("fix");
    bench.ok_when_free(&["unmount", "--all"]);
    bench.json(&[&["mount", "thread:fix"], options].concat());
    dir
}

fn read_write(path: &Path) -> File {
    File::options().read(true).write(true).open(path).expect("opened")
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().expect("there").modified().expect("dated")
}

#[test]
fn what_is_written_through_a_mapping_is_a_change() {
    for options in CONTENTS {
        let bench = Bench::new();
        bench.name_the_author();
        let dir = mounted_with(&bench, options);
        let path = dir.join("src/main.c");
        let dated = modified(&path);
        assert_eq!(bench.git_in(&dir, &["status", "--porcelain"]), "");
        let mut map = Mapping::shared(&read_write(&path), 10);
        map.bytes_mut()[..3].copy_from_slice(b"INT");
        map.sync();
        assert!(modified(&path) > dated, "{options:?}");
        assert_eq!(bench.git_in(&dir, &["status", "--porcelain"]), " M src/main.c\n", "{options:?}");
        let captured = text(&bench.json(&["thread", "capture", "fix", "-m", "mapped"])["commit"]);
        assert_eq!(bench.git(&["show", &format!("{captured}:src/main.c")]), "INT main;\n");
    }
}

#[test]
fn a_mapping_that_outlives_its_descriptor_dates_what_it_writes() {
    for options in CONTENTS {
        let bench = Bench::new();
        let dir = mounted_with(&bench, options);
        let path = dir.join("src/main.c");
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let mut map = Mapping::shared(&read_write(&path), 10);
        for letter in [b'A', b'B'] {
            map.bytes_mut()[0] = letter;
            map.sync();
            read_write(&path).set_modified(long_ago).expect("dated");
            assert_eq!((modified(&path), modified(&path)), (long_ago, long_ago), "{options:?}");
            map.bytes_mut()[1] = letter;
            map.sync();
            assert!(modified(&path) > long_ago, "{options:?}, {letter}");
        }
        drop(map);
        assert_eq!(fs::read_to_string(&path).expect("read"), "BBt main;\n");
    }
}

#[test]
fn who_asks_only_when_a_file_was_modified_is_told_of_what_a_mapping_writes() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    let path = dir.join("src/main.c");
    let modified = || statx(CWD, &path, AtFlags::empty(), StatxFlags::MTIME).expect("there").stx_mtime;
    let before = modified();
    let mut map = Mapping::shared(&read_write(&path), 10);
    map.bytes_mut()[0] = b'I';
    map.sync();
    // The kernel is told to doubt what it knew of the base by a thread of its own.
    eventually(SOON, "the time of the write", || modified().tv_sec > before.tv_sec);
}

#[test]
fn what_nobody_writes_any_more_is_looked_at_without_asking() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: it takes root for the kernel to write files by itself");
        return;
    }
    let bench = Bench::new();
    let dir = bench.thread("fix");
    let paths = ["README", "src/main.c", "new"].map(|name| dir.join(name));
    for path in &paths {
        fs::write(path, "written\n").expect("written");
    }
    let mount = text(&bench.json(&["thread", "status", "fix"])["thread"]["mount"]);
    let asked = || {
        let status = bench.stead.mount_status(&mount).expect("a mount");
        status["operations"]["Getattr"].as_u64().unwrap_or_default()
    };
    let look = || paths.each_ref().map(|path| modified(path));
    let is_believed = || {
        let before = asked();
        look();
        asked() == before
    };
    eventually(SOON, "they are believed", is_believed);
    let mut map = Mapping::shared(&read_write(&paths[0]), 8);
    look();
    let before = asked();
    look();
    assert!(asked() > before, "one of them can be written");
    map.bytes_mut()[0] = b'W';
    map.sync();
    drop(map);
    eventually(SOON, "and now it cannot", is_believed);
    assert_eq!(fs::read_to_string(&paths[0]).expect("read"), "Written\n");
}

#[test]
fn looking_at_a_thread_waits_for_its_turn() {
    let bench = Bench::new();
    bench.thread("fix");
    bench.ok_when_free(&["unmount", "--all"]);
    std::thread::scope(|scope| {
        let looking: Vec<_> =
            (0..6).map(|_| scope.spawn(|| bench.run(&["thread", "status", "fix"]))).collect();
        for looked in looking {
            let looked = looked.join().expect("run");
            assert_eq!(looked.code(), 0, "{looked}");
        }
    });
}
