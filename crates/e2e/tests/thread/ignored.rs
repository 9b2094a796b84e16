//! What is ignored in the working copy that a thread was made from, seen in it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use e2e::eventually;
use e2e::stead::{NOBODY, is_root, open_to_all};

use crate::{Bench, SOON, text};

/// A repository in which `.env` and what is below `cache` is ignored, and `notes` is neither tracked nor ignored.
fn bench() -> Bench {
    prepared(Bench::new())
}

fn prepared(bench: Bench) -> Bench {
    bench.write(&bench.app.join(".gitignore"), ".env\ncache/\nbuilt\n");
    bench.git(&["add", ".gitignore"]);
    bench.git(&["commit", "-qm", "with rules"]);
    for (path, content) in
        [(".env", "secret\n"), ("cache/deep/er/two", "two\n"), ("cache/one", "one\n"), ("notes", "neither\n")]
    {
        bench.write(&bench.app.join(path), content);
    }
    bench.program("ln").args(["-s", "one", "cache/link"]).cwd(&bench.app).ok();
    bench
}

fn seen(bench: &Bench, name: &str) -> PathBuf {
    PathBuf::from(text(&bench.json(&["thread", "new", name, "--with-ignored"])["dir"]))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of the working copy, with what is said of it.
fn listing(bench: &Bench) -> String {
    let listed = bench.program("find").args([".", "-path", "./.git", "-prune", "-o"]);
    listed.args(["-printf", "%p %i %m %n %s %T@ %C@\\n"]).cwd(&bench.app).ok().text()
}

#[test]
fn what_is_ignored_is_seen_in_a_thread_and_never_changed_where_it_is() {
    for options in [&[][..], &["-o", "no-passthrough"]] {
        let bench = bench();
        let before = listing(&bench);
        let dir = seen(&bench, "fix");
        bench.ok_when_free(&["unmount", "--all"]);
        bench.json(&[&["mount", "thread:fix"], options].concat());
        assert_eq!(
            (read(&dir.join(".env")), read(&dir.join("cache/link"))),
            ("secret\n".into(), "one\n".into())
        );
        assert!(!dir.join("notes").exists(), "it is not ignored");
        assert_eq!(bench.program("ls").args(["-A", "cache"]).cwd(&dir).ok().text(), "deep\nlink\none\n");
        bench.write(&dir.join(".env"), "mine\n");
        bench
            .program("sh")
            .args(["-c", "echo more >> cache/deep/er/two; chmod 600 cache/one"])
            .cwd(&dir)
            .ok();
        bench.program("touch").args(["-d", "2020-01-01", "cache/one"]).cwd(&dir).ok();
        assert_eq!(
            (read(&dir.join(".env")), read(&dir.join("cache/deep/er/two"))),
            ("mine\n".into(), "two\nmore\n".into())
        );
        bench.program("mv").args(["cache/deep", "cache/moved"]).cwd(&dir).ok();
        bench.program("ln").args(["cache/one", "cache/again"]).cwd(&dir).ok();
        bench.write(&dir.join("cache/again"), "both\n");
        assert_eq!(read(&dir.join("cache/one")), "both\n");
        bench.program("rm").args(["-r", "cache/moved", "cache/link"]).cwd(&dir).ok();
        bench.program("rm").args(["-r", "cache"]).cwd(&dir).ok();
        assert!(!dir.join("cache").exists());
        assert_eq!(listing(&bench), before, "{options:?}");
    }
}

#[test]
fn a_build_goes_on_in_a_thread_from_what_is_built_where_it_was_made() {
    if !Path::new("/usr/bin/make").exists() {
        eprintln!("skipped: there is no make");
        return;
    }
    let bench = bench();
    bench.write(&bench.app.join("Makefile"), "built: source\n\tcp source built\n");
    bench.write(&bench.app.join("source"), "one\n");
    let long_ago = SystemTime::now() - Duration::from_secs(1000);
    let source = fs::File::options().append(true).open(bench.app.join("source")).expect("opened");
    source.set_modified(long_ago).expect("dated");
    bench.git(&["add", "-A"]);
    bench.git(&["commit", "-qm", "source"]);
    let make = |dir: &Path| bench.program("make").args(["-s"]).cwd(dir).ok();
    let is_built = |dir: &Path| bench.program("make").args(["-q"]).cwd(dir).run().code() == 0;
    make(&bench.app);
    let dir = seen(&bench, "fix");
    assert!(is_built(&dir), "{}", listing(&bench));
    bench.write(&dir.join("source"), "two\n");
    assert!(!is_built(&dir));
    make(&dir);
    assert_eq!((read(&dir.join("built")), read(&bench.app.join("built"))), ("two\n".into(), "one\n".into()));
    // What is built of something that is not committed is not what a thread is built of.
    bench.write(&bench.app.join("source"), "not committed\n");
    make(&bench.app);
    let other = seen(&bench, "other");
    assert_eq!(read(&other.join("built")), "not committed\n");
    assert!(!is_built(&other));
    make(&other);
    assert_eq!(read(&other.join("built")), "one\n");
}

#[test]
fn what_changes_where_it_is_seen_is_seen_until_the_thread_changes_it() {
    for options in [&[][..], &["-o", "no-passthrough"]] {
        let bench = bench();
        let dir = seen(&bench, "fix");
        bench.ok_when_free(&["unmount", "--all"]);
        bench.json(&[&["mount", "thread:fix"], options].concat());
        assert_eq!(
            (read(&dir.join(".env")), read(&dir.join("cache/one"))),
            ("secret\n".into(), "one\n".into())
        );
        bench.write(&bench.app.join(".env"), "another secret\n");
        eventually(SOON, "what was changed", || read(&dir.join(".env")) == "another secret\n");
        bench.write(&bench.app.join(".env"), "ANOTHER SECRET\n");
        eventually(SOON, "what is as long", || read(&dir.join(".env")) == "ANOTHER SECRET\n");
        bench.write(&bench.app.join("cache/fresh"), "fresh\n");
        eventually(SOON, "what was made", || dir.join("cache/fresh").exists());
        bench.program("mv").args(["cache/fresh", "cache/one"]).cwd(&bench.app).ok();
        eventually(SOON, "what took its place", || read(&dir.join("cache/one")) == "fresh\n");
        bench.program("rm").args(["cache/one"]).cwd(&bench.app).ok();
        eventually(SOON, "what was removed", || !dir.join("cache/one").exists());
        bench.write(&dir.join("cache/deep/er/two"), "mine\n");
        bench.program("rm").args(["-r", "cache/deep"]).cwd(&bench.app).ok();
        bench.write(&bench.app.join("cache/deep/er/two"), "theirs\n");
        bench.write(&bench.app.join("cache/deep/er/three"), "three\n");
        eventually(SOON, "what came there", || dir.join("cache/deep/er/three").exists());
        assert_eq!(read(&dir.join("cache/deep/er/two")), "mine\n");
    }
}

#[test]
fn neither_git_nor_stead_takes_what_is_ignored_for_a_change() {
    let bench = bench();
    bench.name_the_author();
    let dir = seen(&bench, "fix");
    bench.write(&dir.join("cache/deep/er/two"), "mine\n");
    bench.write(&dir.join("cache/new"), "new\n");
    bench.program("rm").arg(".env").cwd(&dir).ok();
    assert_eq!(bench.changed("fix"), [] as [&str; 0]);
    assert_eq!(bench.git_in(&dir, &["status", "--porcelain"]), "");
    assert_eq!(bench.run(&["thread", "capture", "fix", "-m", "nothing"]).code(), 5);
    bench.write(&dir.join("src/main.c"), "changed\n");
    let captured = text(&bench.json(&["thread", "capture", "fix", "-m", "one"])["commit"]);
    assert_eq!(bench.git(&["diff", "--name-only", "main", &captured]), "src/main.c\n");
    assert!(!bench.run(&["thread", "diff", "fix"]).text().contains("cache"));
    bench.git_in(&dir, &["checkout", "-q", "src/main.c"]);
    let before = listing(&bench);
    bench.ok_when_free(&["thread", "drop", "fix"]);
    bench.collect();
    assert_eq!(listing(&bench), before);
}

#[test]
fn what_the_thread_does_not_ignore_and_no_capture_has_goes_only_by_force() {
    let bench = bench();
    bench.name_the_author();
    let dir = seen(&bench, "fix");
    bench.write(&dir.join(".gitignore"), ".env\nbuilt\n");
    bench.write(&dir.join("cache/new"), "new\n");
    bench.json(&["thread", "capture", "fix", "-m", "other rules"]);
    let refused = bench.run(&["thread", "drop", "fix"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.errors().contains("no capture has it"), "{refused}");
    bench.git_in(&dir, &["add", "-A"]);
    bench.git_in(&dir, &["commit", "-qm", "with the cache"]);
    bench.ok_when_free(&["thread", "drop", "fix"]);
    assert_eq!(bench.git(&["show", "fix:cache/new"]), "new\n");
}

#[test]
fn what_is_ignored_is_seen_on_when_a_thread_is_mounted_again() {
    let bench = bench();
    let dir = seen(&bench, "fix");
    bench.write(&dir.join("cache/one"), "mine\n");
    let number = || dir.join("cache/deep/er/two").metadata().expect("there").ino();
    let before = number();
    let worker = || {
        let found = bench.stead.processes().into_iter();
        let mut workers = found.filter(|process| process.command.split(' ').nth(1) == Some("worker"));
        workers.next().map(|process| process.pid)
    };
    let first = worker().expect("a worker");
    rustix::process::kill_process(first, rustix::process::Signal::KILL).expect("killed");
    let is_whole = || {
        assert_eq!((number(), read(&dir.join("cache/one"))), (before, "mine\n".to_owned()));
        assert_eq!(read(&dir.join("cache/deep/er/two")), "two\n");
    };
    is_whole();
    eventually(SOON, "another worker", || worker().is_some_and(|other| other != first));
    is_whole();
    bench.ok_when_free(&["unmount", "--all"]);
    bench.json(&["mount", "thread:fix"]);
    is_whole();
}

#[test]
fn what_is_ignored_in_a_thread_is_seen_in_one_that_is_made_of_it() {
    let bench = bench();
    let dir = seen(&bench, "fix");
    bench.write(&dir.join(".env"), "mine\n");
    let made = bench.json(&["thread", "new", "try", "--from", "thread:fix", "--with-ignored"]);
    let other = PathBuf::from(text(&made["dir"]));
    assert_eq!(
        (read(&other.join(".env")), read(&other.join("cache/one"))),
        ("mine\n".into(), "one\n".into())
    );
    bench.write(&other.join("cache/one"), "another's\n");
    assert_eq!(
        (read(&dir.join("cache/one")), read(&bench.app.join("cache/one"))),
        ("one\n".into(), "one\n".into())
    );
    // The kernel closes what was read there a moment after its reader has.
    bench.ok_when_free(&["thread", "drop", "fix"]);
    eventually(SOON, "what was seen there is gone", || !other.join(".env").exists());
    assert_eq!(read(&other.join("cache/one")), "another's\n");
    let refused = bench.run(&["thread", "new", "again", "--from", "thread:fix", "--with-ignored"]);
    assert_eq!(refused.code(), 3, "{refused}");
}

#[test]
fn threads_that_would_see_each_other_are_refused() {
    let bench = bench();
    let dir = seen(&bench, "fix");
    let of_fix = bench.json(&["thread", "new", "try", "--from", "thread:fix", "--with-ignored"]);
    let other = PathBuf::from(text(&of_fix["dir"]));
    assert_eq!(read(&other.join("cache/one")), "one\n");
    let app = bench.app.to_str().expect("text");
    let refuse = |args: &[&str]| {
        let refused = bench.run(args);
        assert_eq!(refused.code(), 5, "{refused}");
        assert!(refused.errors().contains("wait for each other"), "{refused}");
    };
    // One that would see itself, and one that another one would see.
    bench.ok_when_free(&["unmount", dir.to_str().expect("text")]);
    refuse(&["mount", "thread:fix", app, "-o", "nonempty"]);
    bench.json(&["mount", "thread:fix"]);
    bench.ok_when_free(&["unmount", other.to_str().expect("text")]);
    refuse(&["mount", "thread:try", app, "-o", "nonempty"]);
    bench.json(&["mount", "thread:try"]);
    assert_eq!(read(&other.join("cache/one")), "one\n");
    // One that is made where the other one still looks.
    bench.ok_when_free(&["thread", "drop", "fix"]);
    bench.collect();
    let before = bench.traces();
    let again = ["thread", "new", "fix", "--from", "thread:try", "--with-ignored"];
    refuse(&again);
    assert_eq!(bench.traces(), before);
    bench.write(&other.join("cache/one"), "of the other\n");
    bench.json(&[&again[..], &["--at", "../elsewhere"]].concat());
    let elsewhere = dir.with_file_name("elsewhere");
    assert_eq!(read(&elsewhere.join("cache/one")), "of the other\n");
    bench.write(&elsewhere.join("cache/two"), "mine\n");
    assert_eq!(read(&elsewhere.join("cache/two")), "mine\n");
}

#[test]
fn threads_and_repositories_below_a_working_copy_are_not_seen() {
    let bench = bench();
    bench.git(&["init", "-q", "cache/own"]);
    let inner = bench.app.join("cache/inner");
    bench.json(&["thread", "new", "inner", "--with-ignored", "--at", "cache/inner"]);
    assert_eq!(read(&inner.join("cache/one")), "one\n");
    let listed = |dir: &Path| bench.program("ls").arg(dir.join("cache")).ok().text();
    assert_eq!(listed(&inner), "deep\nlink\none\n");
    let dir = seen(&bench, "fix");
    assert_eq!(listed(&dir), "deep\nlink\none\n");
    let bare = bench.stead.dir("bare");
    bench.git(&["clone", "-q", "--bare", ".", bare.to_str().expect("text")]);
    let refused = bench.run(&["thread", "new", "bare", "--with-ignored", "--repo", "../bare"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.errors().contains("no working copy"), "{refused}");
}

#[test]
fn a_plain_user_sees_what_is_ignored() {
    if !is_root() {
        eprintln!("skipped: it takes root to be another user");
        return;
    }
    let bench = prepared(Bench::of_user(NOBODY));
    open_to_all(bench.stead.root());
    let dir = seen(&bench, "fix");
    // Root itself cannot enter what a plain user has mounted.
    let cat = |path: &str| bench.program("cat").arg(dir.join(path)).ok().text();
    assert_eq!(cat("cache/one"), "one\n");
    bench.write(&dir.join("cache/one"), "mine\n");
    assert_eq!((cat("cache/one"), read(&bench.app.join("cache/one"))), ("mine\n".into(), "one\n".into()));
    bench.program("chmod").args(["0", "cache/deep/er/two"]).cwd(&bench.app).ok();
    let denied = || bench.program("cat").arg(dir.join("cache/deep/er/two")).run().code() != 0;
    eventually(SOON, "what may not be read", denied);
}
