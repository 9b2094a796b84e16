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
    assert_eq!(bench.run(&["thread", "drop", "fix"]).code(), 0);
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
    bench.stead.ok(&["unmount", "--all"]);
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
    let dropped = bench.json(&["thread", "drop", "fix"]);
    assert_eq!(dropped["kept_branch"], "fix");
    assert_eq!(bench.git(&["show", "fix:new"]), "new\n");
    assert_eq!(bench.run(&["thread", "new", "fix"]).code(), 5, "its branch is there");
    bench.git(&["merge", "-q", "fix"]);
    bench.git(&["branch", "-d", "-q", "fix"]);
    bench.thread("fix");
    assert!(bench.json(&["thread", "drop", "fix"])["kept_branch"].is_null());
}
