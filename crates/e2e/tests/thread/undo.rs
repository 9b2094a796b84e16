//! What was done to a thread, undone; other revisions; commands on trial.

use crate::{Bench, text};

fn bench() -> Bench {
    let bench = Bench::new();
    bench.name_the_author();
    bench
}

fn at(bench: &Bench, revision: &str) -> String {
    bench.git(&["rev-parse", revision]).trim().to_owned()
}

/// What `thread undo fix` has undone.
#[track_caller]
fn undo(bench: &Bench, words: &[&str]) -> String {
    text(&bench.json_when_free(&[&["thread", "undo", "fix"], words].concat())["operation"])
}

#[test]
fn what_was_done_to_a_thread_is_undone_and_done_again() {
    let bench = bench();
    let dir = bench.thread("fix");
    let before = at(&bench, "main");
    assert_eq!(bench.run(&["thread", "undo", "fix", "--redo"]).code(), 5);
    bench.write(&dir.join("README"), "mended\n");
    let captured = text(&bench.json(&["thread", "capture", "fix", "-m", "mended"])["commit"]);
    bench.json(&["thread", "land", "fix"]);
    assert_eq!(undo(&bench, &[]), "land");
    assert_eq!(at(&bench, "main"), before);
    assert_eq!(bench.git(&["status", "--porcelain"]), "", "the working copy has gone along");
    assert_eq!(undo(&bench, &[]), "capture");
    assert_eq!(bench.git(&["for-each-ref", "refs/stead/threads"]), "");
    let refused = bench.run(&["thread", "undo", "fix"]);
    assert_eq!(refused.code(), 5, "it was made, and has a change: {refused}");
    assert_eq!(std::fs::read_to_string(dir.join("README")).expect("read"), "mended\n");
    bench.git(&["gc", "--quiet", "--prune=now"]);
    assert_eq!(undo(&bench, &["--redo"]), "capture");
    assert_eq!(at(&bench, "refs/stead/threads/fix"), captured);
    assert_eq!(undo(&bench, &["--redo"]), "land");
    assert_eq!(at(&bench, "main"), captured);
    assert_eq!(bench.run(&["thread", "undo", "fix", "--redo"]).code(), 5);
    // Nothing is undone over what somebody else has done.
    bench.git(&["commit", "-q", "--allow-empty", "-m", "since"]);
    let refused = bench.run(&["thread", "undo", "fix"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.errors().contains("was moved since"), "{refused}");
    assert_eq!(at(&bench, "main^"), captured);
    bench.json_when_free(&["thread", "drop", "fix"]);
    assert_eq!(bench.git(&["for-each-ref", "refs/stead/kept"]), "");
}

#[test]
fn the_making_of_a_thread_is_undone_where_nothing_is_lost_and_done_again() {
    let bench = bench();
    let before = bench.traces();
    let dir = bench.thread("fix");
    bench.write(&dir.join("README"), "mended\n");
    bench.json(&["thread", "capture", "fix", "-m", "mended"]);
    assert_eq!(undo(&bench, &[]), "capture");
    let refused = bench.run(&["thread", "undo", "fix"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.errors().contains("neither committed nor captured"), "{refused}");
    bench.git_in(&dir, &["checkout", "-q", "README"]);
    bench.git_in(&dir, &["commit", "-q", "--allow-empty", "-m", "own"]);
    let refused = bench.run(&["thread", "undo", "fix"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.errors().contains("was moved since"), "{refused}");
    bench.git_in(&dir, &["reset", "-q", "--hard", "HEAD^"]);
    assert_eq!(undo(&bench, &[]), "new");
    assert!(bench.threads().is_empty() && !dir.exists());
    assert_eq!(bench.git(&["for-each-ref", "refs/heads/fix", "refs/stead/threads", "refs/stead/kept"]), "");
    let refused = bench.run(&["thread", "undo", "fix"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.errors().contains("--redo"), "{refused}");
    bench.stead.ok(&["daemon", "restart"]);
    assert_eq!(undo(&bench, &["--redo"]), "new");
    assert_eq!(bench.git_in(&dir, &["status", "--porcelain", "--branch"]), "## fix\n");
    assert_eq!(undo(&bench, &["--redo"]), "capture");
    assert_eq!(bench.git(&["show", "refs/stead/threads/fix:README"]), "mended\n");
    // One that was dropped comes back by an undo only, with what was done to it.
    bench.json(&["thread", "drop", "fix", "--force"]);
    assert_eq!(bench.run(&["thread", "undo", "fix", "--redo"]).code(), 3);
    for operation in ["drop", "capture", "new"] {
        assert_eq!(undo(&bench, &[]), operation);
    }
    bench.collect();
    assert_eq!(bench.run(&["thread", "undo", "fix", "--redo"]).code(), 3);
    let mut after = bench.traces();
    after.retain(|trace| !trace.ends_with("/h/threads"));
    assert_eq!(after, before);
}

#[test]
fn a_thread_goes_to_another_revision_and_keeps_what_is_not_committed() {
    let bench = bench();
    let dir = bench.thread("fix");
    bench.write(&bench.app.join("README"), "of main\n");
    bench.git(&["commit", "-qam", "second"]);
    bench.write(&dir.join("src/main.c"), "not committed\n");
    let held = std::fs::File::open(dir.join("link")).expect("opened");
    let switched = bench.json(&["thread", "switch", "fix", "main"]);
    assert_eq!(text(&switched["commit"]), at(&bench, "main"));
    assert_eq!(at(&bench, "fix"), at(&bench, "main"));
    assert_eq!(std::fs::read_to_string(dir.join("README")).expect("read"), "of main\n");
    assert_eq!(bench.git_in(&dir, &["status", "--porcelain"]), " M src/main.c\n");
    drop(held);
    assert_eq!(bench.run(&["thread", "switch", "fix", "main"]).code(), 5, "it is there");
    assert_eq!(bench.run(&["thread", "switch", "fix", "no-such"]).code(), 3);
    // A change of a file that differs is not overwritten.
    bench.write(&dir.join("README"), "mine\n");
    let refused = bench.run(&["thread", "switch", "fix", "HEAD^"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert_eq!(at(&bench, "fix"), at(&bench, "main"));
    bench.git_in(&dir, &["checkout", "-q", "README"]);
    assert_eq!(undo(&bench, &[]), "switch");
    assert_eq!(std::fs::read_to_string(dir.join("README")).expect("read"), "read me\n");
    assert_eq!(std::fs::read_to_string(dir.join("src/main.c")).expect("read"), "not committed\n");
    assert_eq!(at(&bench, "fix"), at(&bench, "main^"));
}

#[test]
fn what_a_switch_has_left_is_had_back_with_its_thread() {
    let bench = bench();
    let dir = bench.thread("fix");
    bench.git_in(&dir, &["commit", "-q", "--allow-empty", "-m", "only here"]);
    let left = at(&bench, "fix");
    bench.json(&["thread", "switch", "fix", "main"]);
    bench.json_when_free(&["thread", "drop", "fix"]);
    assert_eq!(bench.git(&["for-each-ref", "refs/stead/kept"]), "");
    bench.git(&["reflog", "expire", "--expire=now", "--all"]);
    bench.git(&["gc", "--quiet", "--prune=now"]);
    assert_eq!(undo(&bench, &[]), "drop");
    assert_eq!(bench.git(&["for-each-ref", "refs/stead/dropped"]), "");
    assert_eq!(undo(&bench, &[]), "switch");
    assert_eq!(at(&bench, "fix"), left);
    // A switch that is refused takes nothing from what can be done again.
    bench.git_in(&dir, &["checkout", "-q", "fix"]);
    bench.write(&bench.app.join("README"), "of main\n");
    bench.git(&["commit", "-qam", "second"]);
    bench.write(&dir.join("README"), "mine\n");
    assert_eq!(bench.run(&["thread", "switch", "fix", "main"]).code(), 5);
    bench.git_in(&dir, &["checkout", "-q", "README"]);
    assert_eq!(undo(&bench, &["--redo"]), "switch");
}

#[test]
fn a_command_that_fails_leaves_no_thread_and_one_that_does_not_is_captured() {
    let bench = bench();
    let before = bench.traces();
    let failed = bench.run(&["thread", "run", "fix", "--", "sh", "-c", "echo out; echo x > new; exit 7"]);
    assert_eq!((failed.code(), failed.text().as_str()), (7, "out\n"), "{failed}");
    let without_threads = |bench: &Bench| {
        bench.collect();
        let mut traces = bench.traces();
        traces.retain(|trace| !trace.ends_with("/h/threads"));
        traces
    };
    assert_eq!(without_threads(&bench), before);
    let missing = bench.run(&["thread", "run", "fix", "--", "no-such-program"]);
    assert_eq!(missing.code(), 255, "{missing}");
    assert_eq!(without_threads(&bench), before);
    let killed = bench.run(&["thread", "run", "fix", "--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(killed.code(), 143, "{killed}");
    assert_eq!(without_threads(&bench), before);
    let ran = bench.run(&["thread", "run", "fix", "-m", "made", "--", "sh", "-c", "pwd; cat > new"]);
    assert_eq!(ran.code(), 0, "{ran}");
    assert_eq!(ran.text().trim(), bench.stead.root().join("app-fix").display().to_string());
    assert_eq!(bench.git(&["log", "-1", "--format=%s", "refs/stead/threads/fix"]), "made\n");
    assert_eq!(bench.changed("fix"), ["added new"]);
    let again = bench.run(&["thread", "run", "fix", "--", "true"]);
    assert_eq!(again.code(), 255, "there is one: {again}");
    assert_eq!(bench.run(&["thread", "run", "try", "--", "true"]).code(), 0);
    assert_eq!(bench.threads(), ["fix", "try"]);
}

#[test]
fn a_dropped_thread_is_had_back_until_it_is_collected() {
    let bench = bench();
    let dir = bench.thread("fix");
    bench.write(&dir.join("new"), "new\n");
    bench.json(&["thread", "capture", "fix", "-m", "captured"]);
    bench.write(&dir.join("src/main.c"), "not captured\n");
    bench.write(&dir.join("staged"), "staged\n");
    bench.git_in(&dir, &["add", "staged"]);
    let (captures, status) =
        (at(&bench, "refs/stead/threads/fix"), bench.git_in(&dir, &["status", "--porcelain"]));
    bench.json(&["thread", "drop", "fix", "--force"]);
    assert!(bench.threads().is_empty() && !dir.join("new").exists());
    assert_eq!(bench.git(&["for-each-ref", "refs/heads/fix", "refs/stead/threads"]), "");
    assert_eq!(bench.json(&["thread", "gc", "--dry-run", "--grace", "0s"])["threads"][0]["name"], "fix");
    assert_eq!(bench.json(&["thread", "gc"])["kept"], 1);
    bench.stead.ok(&["daemon", "restart"]);
    assert_eq!(undo(&bench, &[]), "drop");
    assert_eq!(bench.git_in(&dir, &["status", "--porcelain"]), status);
    assert_eq!(at(&bench, "refs/stead/threads/fix"), captures);
    assert_eq!(bench.changed("fix"), ["added new", "modified src/main.c", "added staged"]);
    assert_eq!(std::fs::read_to_string(dir.join("src/main.c")).expect("read"), "not captured\n");
    assert_eq!(bench.git(&["for-each-ref", "refs/stead/dropped"]), "");
    // What is in the way of one that comes back is told, and it stays aside.
    bench.json(&["thread", "drop", "fix", "--force"]);
    bench.git(&["branch", "fix"]);
    bench.git(&["commit", "-q", "--allow-empty", "-m", "other"]);
    bench.git(&["branch", "-f", "fix", "main"]);
    let refused = bench.run(&["thread", "undo", "fix"]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(bench.threads().is_empty());
    bench.git(&["branch", "-D", "-q", "fix"]);
    assert_eq!(undo(&bench, &[]), "drop");
    bench.json(&["thread", "drop", "fix", "--force"]);
    bench.collect();
    assert_eq!(bench.run(&["thread", "undo", "fix"]).code(), 3);
    assert_eq!(bench.git(&["for-each-ref", "refs/stead"]), "");
    assert_eq!(bench.git(&["fsck", "--no-dangling"]), "");
}
