//! The end of a thread.

use crate::Bench;

#[test]
fn a_dropped_thread_leaves_nothing() {
    let bench = Bench::new();
    let before = bench.traces();
    let dir = bench.thread("fix");
    bench.write(&dir.join(".gitignore"), "target\n");
    bench.git_in(&dir, &["add", ".gitignore"]);
    let refused = bench.run(&["thread", "drop", "fix"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.errors().contains("neither committed nor captured"), "{refused}");
    bench.git_in(&dir, &["rm", "-qf", ".gitignore"]);
    bench.ok_when_free(&["thread", "drop", "fix"]);
    bench.collect();
    let mut after = bench.traces();
    after.retain(|trace| !trace.ends_with("/h/threads"));
    assert_eq!(after, before);
    assert_eq!(bench.threads(), [] as [&str; 0]);
}

#[test]
fn what_is_not_committed_goes_only_by_force() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    bench.write(&dir.join("new"), "");
    let refused = bench.run(&["thread", "drop", "fix"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(dir.join("new").exists());
    bench.ok_when_free(&["unmount", "--all"]);
    let refused = bench.run(&["thread", "drop", "fix"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert_eq!(bench.run(&["thread", "drop", "fix", "--force"]).code(), 0);
    assert_eq!(bench.git(&["branch", "--format=%(refname:short)"]), "main\n");
    assert_eq!(bench.git(&["worktree", "list"]).lines().count(), 1);
}

#[test]
fn a_branch_with_commits_of_its_own_outlives_its_thread() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    bench.write(&dir.join("new"), "new\n");
    bench.git_in(&dir, &["add", "new"]);
    bench.git_in(&dir, &["commit", "-qm", "new"]);
    let dropped = bench.json_when_free(&["thread", "drop", "fix"]);
    assert_eq!(dropped["kept_branch"], "fix");
    assert_eq!(bench.git(&["show", "fix:new"]), "new\n");
    assert_eq!(bench.run(&["thread", "new", "fix"]).code(), 5, "its branch is there");
    bench.git(&["merge", "-q", "fix"]);
    bench.git(&["branch", "-d", "-q", "fix"]);
    bench.thread("fix");
    assert!(bench.json_when_free(&["thread", "drop", "fix"])["kept_branch"].is_null());
}

/// A drop that is refused, and leaves the thread where it is.
#[track_caller]
fn refused(bench: &Bench, why: &str) {
    let refused = bench.run(&["thread", "drop", "fix"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.errors().contains(why), "{refused}");
    assert_eq!(bench.threads(), ["fix"]);
}

#[test]
fn repositories_within_a_thread_go_only_by_force() {
    let bench = Bench::new();
    let lib = bench.stead.dir("lib");
    bench.git_in(&lib, &["init", "-q", "-b", "main"]);
    bench.git_in(&lib, &["commit", "-q", "--allow-empty", "-m", "of lib"]);
    bench.name_the_author();
    let dir = bench.thread("fix");
    bench.git_in(&dir, &["clone", "-q", lib.to_str().expect("text"), "own"]);
    refused(&bench, "a repository of its own in `own`");
    bench.json(&["thread", "capture", "fix", "-m", "all"]);
    refused(&bench, "a repository of its own in `own`");
    bench.git_in(&dir, &["add", "own"]);
    bench.git_in(&dir, &["commit", "-qm", "own"]);
    refused(&bench, "a repository of its own in `own`");
    bench.git_in(&dir, &["reset", "-q", "--hard", "HEAD^"]);
    bench.program("rm").arg("-rf").arg(dir.join("own")).ok();
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add"];
    bench.git_in(&dir, &[&add[..], &[lib.to_str().expect("text"), "sub"]].concat());
    bench.git_in(&dir, &["commit", "-qm", "sub"]);
    refused(&bench, "repositories of submodules");
    bench.ok_when_free(&["unmount", "--all"]);
    refused(&bench, "repositories of submodules");
    assert_eq!(bench.run(&["thread", "drop", "fix", "--force"]).code(), 0);
}

#[test]
fn commits_on_no_branch_go_only_by_force() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    bench.git_in(&dir, &["checkout", "-q", "--detach"]);
    bench.git_in(&dir, &["commit", "-q", "--allow-empty", "-m", "loose"]);
    refused(&bench, "commits that are on no branch");
    bench.ok_when_free(&["unmount", "--all"]);
    refused(&bench, "commits that are on no branch");
    bench.json(&["mount", "thread:fix"]);
    bench.git_in(&dir, &["branch", "kept"]);
    bench.ok_when_free(&["thread", "drop", "fix"]);
    assert_eq!(bench.git(&["log", "-1", "--format=%s", "kept"]), "loose\n");
}

#[test]
fn a_thread_whose_git_leads_elsewhere_goes_only_by_force() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    bench.write(&dir.join("new"), "new\n");
    bench.program("rm").arg(dir.join(".git")).ok();
    refused(&bench, "is not what was put there");
    bench.git_in(&dir, &["init", "-q"]);
    bench.git_in(&dir, &["add", "-A"]);
    bench.git_in(&dir, &["commit", "-qm", "in another repository"]);
    refused(&bench, "is not what was put there");
    bench.program("rm").arg("-r").args([dir.join(".git"), dir.join("new")]).ok();
    bench.ok_when_free(&["unmount", "--all"]);
    refused(&bench, "is not mounted");
    assert_eq!(bench.run(&["thread", "drop", "fix", "--force"]).code(), 0);
}

#[test]
fn a_branch_that_is_checked_out_elsewhere_stays() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    bench.git_in(&dir, &["checkout", "-q", "--detach"]);
    bench.git(&["checkout", "-q", "fix"]);
    assert_eq!(bench.json_when_free(&["thread", "drop", "fix"])["kept_branch"], "fix");
    assert_eq!(bench.git(&["rev-parse", "fix"]), bench.git(&["rev-parse", "main"]));
}
