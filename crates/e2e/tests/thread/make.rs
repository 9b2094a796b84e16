//! What a thread is when it is made, and when it cannot be.

use e2e::Program;
use e2e::stead::{NOBODY, is_root, open_to_all};

use crate::{Bench, text};

#[test]
fn a_thread_is_a_worktree_of_its_repository() {
    let bench = Bench::new();
    let thread = bench.json(&["thread", "new", "fix"]);
    let dir = bench.stead.root().join("app-fix");
    assert_eq!(text(&thread["dir"]), dir.display().to_string());
    assert_eq!((text(&thread["state"]), text(&thread["branch"])), ("open".to_owned(), "fix".to_owned()));
    assert_eq!(text(&thread["base"]), bench.git(&["rev-parse", "HEAD"]).trim());
    assert_eq!(bench.git_in(&dir, &["status", "--porcelain", "--branch"]), "## fix\n");
    assert_eq!(bench.git_in(&dir, &["diff-files"]), "");
    let listed = bench.git(&["worktree", "list", "--porcelain"]);
    assert!(listed.contains(&format!("worktree {}\n", dir.display())), "{listed}");
    Program::new("diff").args(["-r", "--exclude=.git", "--no-dereference"]).arg(&bench.app).arg(&dir).ok();
    assert_eq!(bench.changed("fix"), [] as [&str; 0]);
    let status = bench.stead.status();
    assert_eq!(status["threads"][0]["name"], "fix");
    assert_eq!(status["threads"][0]["mount"], status["mounts"][0]["id"]);
}

#[test]
fn few_gits_are_started_for_a_thread() {
    let mut bench = Bench::new();
    bench.name_the_author();
    let (programs, said) = (bench.stead.dir("programs"), bench.stead.root().join("gits"));
    let path = std::env::var("PATH").expect("a path");
    let git =
        std::env::split_paths(&path).map(|dir| dir.join("git")).find(|git| git.exists()).expect("a git");
    let script = format!("#!/bin/sh\necho \"$*\" >> {}\nexec {} \"$@\"\n", said.display(), git.display());
    bench.write(&programs.join("git"), &script);
    bench.program("chmod").arg("+x").arg(programs.join("git")).ok();
    bench.stead.set_env("PATH", format!("{}:{path}", programs.display()));
    let expect = |count: usize| {
        let gits = std::fs::read_to_string(&said).expect("some");
        assert_eq!(gits.lines().count(), count, "{gits}");
        std::fs::remove_file(&said).expect("removed");
    };
    // Another name is another number of branches, which is not to matter.
    for name in ["fix", "other"] {
        let dir = bench.thread(name);
        expect(2);
        bench.write(&dir.join("README"), "changed\n");
        bench.json(&["thread", "capture", name, "-m", "changed"]);
        expect(4);
        bench.write(&dir.join("README"), "changed again\n");
        bench.json(&["thread", "capture", name, "-m", "changed again"]);
        expect(4);
    }
    bench.json(&["thread", "drop", "fix", "--force"]);
    expect(1);
    bench.thread("third");
    expect(2);
    bench.json_when_free(&["thread", "drop", "third"]);
    expect(1);
}

#[test]
fn the_first_status_of_a_thread_reads_no_file() {
    if !std::path::Path::new("/usr/bin/strace").exists() {
        eprintln!("skipped: there is no strace");
        return;
    }
    let bench = Bench::new();
    let dir = bench.thread("fix");
    let trace = bench.stead.root().join("trace");
    let traced =
        Program::new("strace").args(["-f", "-qq", "-e", "trace=open,openat,openat2", "-o"]).arg(&trace);
    assert_eq!(
        traced.args(["git", "--no-optional-locks", "status", "--porcelain"]).cwd(&dir).ok().text(),
        ""
    );
    let opened = std::fs::read_to_string(&trace).expect("a trace");
    for name in ["README", "main.c", "x.c", "\"run\"", "\"link\""] {
        assert!(!opened.contains(name), "{name} in {opened}");
    }
}

#[test]
fn what_is_in_the_way_of_a_thread_is_told_and_nothing_is_left() {
    let bench = Bench::new();
    bench.thread("there");
    bench.git(&["branch", "taken"]);
    bench.write(&bench.stead.root().join("app-full/file"), "");
    bench.stead.dir("elsewhere");
    let worktree = bench.stead.root().join("app-tree");
    bench.git(&["worktree", "add", "-q", "--detach", worktree.to_str().expect("UTF-8")]);
    let before = bench.traces();
    let refused = |args: &[&str], code: i32, said: &str| {
        let finished = bench.run(&[&["thread", "new"], args].concat());
        assert_eq!(finished.code(), code, "{finished}");
        assert!(finished.errors().contains(said), "{finished}");
        assert_eq!(bench.traces(), before, "{args:?}");
    };
    refused(&["there"], 5, &format!("there is a thread `there` already, of `{}`", bench.app.display()));
    refused(&["taken"], 5, "has a branch `taken` already");
    refused(&["full"], 5, "app-full");
    refused(&["tree"], 5, "app-tree");
    refused(&["another", "--at", "../app-there"], 5, "app-there");
    assert_eq!(bench.git_in(&worktree, &["status", "--porcelain"]), "", "it is git's as before");
    assert_eq!(bench.git_in(&bench.stead.root().join("app-there"), &["status", "--porcelain"]), "");
    refused(&["new", "--from", "no-such-revision"], 3, "no-such-revision");
    refused(&["new", "--from", "thread:other"], 3, "there is no thread `other`");
    refused(&["new", "--repo", "../elsewhere"], 3, "repository");
    refused(&["a..b"], 2, "cannot be the name of a thread");
    refused(&["new", "--at", "/proc/new"], 3, "/proc/new");
    assert_eq!(bench.run(&["thread", "status", "other"]).code(), 3);
    assert_eq!(bench.run(&["thread", "drop", "other"]).code(), 3);
}

#[test]
fn a_plain_user_has_threads() {
    if !is_root() {
        eprintln!("skipped: it takes root to be another user");
        return;
    }
    let bench = Bench::of_user(NOBODY);
    open_to_all(bench.stead.root());
    let dir = bench.thread("fix");
    assert_eq!(bench.git_in(&dir, &["status", "--porcelain"]), "");
    bench.write(&dir.join("new"), "new\n");
    bench.git_in(&dir, &["add", "new"]);
    bench.git_in(&dir, &["commit", "-qm", "new"]);
    assert_eq!(bench.git(&["log", "--format=%s", "fix"]), "new\nfirst\n");
    bench.ok_when_free(&["thread", "drop", "fix"]);
    assert_eq!(bench.threads(), [] as [&str; 0]);
}

#[test]
fn a_thread_can_begin_from_another_one() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    bench.write(&dir.join("README"), "fixed\n");
    bench.git_in(&dir, &["commit", "-qam", "fixed"]);
    let other = bench.stead.root().join("try");
    bench.json(&["thread", "new", "try", "--from", "thread:fix", "--at", "../try"]);
    assert_eq!(std::fs::read_to_string(other.join("README")).expect("read"), "fixed\n");
    assert_eq!(bench.git_in(&other, &["status", "--porcelain", "--branch"]), "## try\n");
    assert_eq!(bench.git(&["merge-base", "fix", "try"]), bench.git(&["rev-parse", "fix"]));
}

#[test]
fn threads_of_one_repository_do_not_see_each_other() {
    let bench = Bench::new();
    let (one, other) = (bench.thread("one"), bench.thread("other"));
    bench.write(&one.join("src/main.c"), "one\n");
    bench.write(&other.join("src/new.c"), "other\n");
    assert_eq!(bench.changed("one"), ["modified src/main.c"]);
    assert_eq!(bench.changed("other"), ["added src/new.c"]);
    assert_eq!(std::fs::read_to_string(other.join("src/main.c")).expect("read"), "int main;\n");
    assert_eq!(bench.git(&["status", "--porcelain"]), "");
}
