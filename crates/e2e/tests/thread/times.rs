//! When files were modified, and what depends on that.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::Bench;

/// Dates a file so many seconds after 2001.
fn date(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds);
    fs::File::options().append(true).open(path).expect("opened").set_modified(time).expect("dated");
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().expect("there").modified().expect("dated")
}

/// Whether make finds everything built.
fn is_built(bench: &Bench, dir: &Path) -> bool {
    let asked = bench.program("make").arg("-q").cwd(dir).run();
    assert!(matches!(asked.code(), 0 | 1), "{asked}");
    asked.code() == 0
}

/// A repository in which `built` is made of `source`, and both are committed: so long ago each.
fn bench_with(source: u64, built: u64) -> Bench {
    let bench = Bench::new();
    for (name, content) in
        [("Makefile", "built: source\n\tcp source built\n"), ("source", "one\n"), ("built", "one\n")]
    {
        bench.write(&bench.app.join(name), content);
    }
    date(&bench.app.join("source"), source);
    date(&bench.app.join("built"), built);
    bench.git(&["add", "-A"]);
    bench.git(&["commit", "-qm", "built"]);
    bench
}

#[test]
fn what_is_built_in_the_working_copy_is_built_in_a_thread() {
    if !Path::new("/usr/bin/make").exists() {
        eprintln!("skipped: there is no make");
        return;
    }
    let bench = bench_with(1, 2);
    let dir = bench.thread("fix");
    assert!(is_built(&bench, &dir));
    bench.ok_when_free(&["unmount", "--all"]);
    bench.json(&["mount", "thread:fix"]);
    assert!(is_built(&bench, &dir), "times outlive the mount");
    bench.write(&dir.join("source"), "two\n");
    assert!(!is_built(&bench, &dir), "what is changed is built again");
    bench.program("make").arg("-s").cwd(&dir).ok();
    assert!(is_built(&bench, &dir));
    assert_eq!(fs::read_to_string(bench.app.join("built")).expect("read"), "one\n");
    let bench = bench_with(2, 1);
    let dir = bench.thread("fix");
    assert!(!is_built(&bench, &dir), "what is not built there is not built here");
}

#[test]
fn a_file_is_dated_as_in_the_working_copy_if_it_is_the_same_there() {
    let bench = bench_with(1, 2);
    let there = bench.app.join("source");
    date(&bench.app.join("README"), 3);
    bench.git(&["update-index", "--refresh"]);
    bench.write(&bench.app.join("README"), "changed\n");
    let begun = SystemTime::now();
    let dir = bench.thread("fix");
    assert_eq!(modified(&dir.join("source")), modified(&there));
    assert!(modified(&dir.join("README")) > begun - Duration::from_secs(10));
    assert_eq!(bench.git_in(&dir, &["status", "--porcelain"]), "");
    assert_eq!(bench.git_in(&dir, &["diff-files"]), "");
    // Of a thread it is made from, the same.
    let other = bench.stead.root().join("try");
    bench.json(&["thread", "new", "try", "--from", "thread:fix", "--at", "../try"]);
    assert_eq!(modified(&other.join("source")), modified(&there));
}
