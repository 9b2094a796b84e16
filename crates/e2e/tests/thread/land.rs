//! What is in a thread, brought onto a branch.

use std::path::Path;

use e2e::Finished;

use crate::{Bench, text};

/// A repository in which the daemon can commit.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.name_the_author();
    bench
}

#[track_caller]
fn refused(bench: &Bench, args: &[&str], why: &str) -> Finished {
    let refused = bench.run(&[&["thread", "land", "fix"], args].concat());
    assert_eq!(refused.code(), 5, "{refused}");
    assert!(refused.errors().contains(why), "{refused}");
    refused
}

fn at(bench: &Bench, revision: &str) -> String {
    bench.git(&["rev-parse", revision]).trim().to_owned()
}

/// Commits a file on the branch that is checked out in the working copy.
fn commit(bench: &Bench, path: &str, content: &str) {
    bench.write(&bench.app.join(path), content);
    bench.git(&["add", path]);
    bench.git(&["commit", "-qm", path]);
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("read")
}

#[test]
fn a_thread_lands_on_the_branch_that_it_was_made_from() {
    let bench = bench();
    let dir = bench.thread("fix");
    let before = at(&bench, "main");
    refused(&bench, &[], "has all that is in the thread");
    bench.write(&dir.join("src/main.c"), "landed\n");
    refused(&bench, &[], "neither committed nor captured");
    assert_eq!(at(&bench, "main"), before);
    let landed = bench.json(&["thread", "land", "fix", "-m", "Mend it"]);
    assert_eq!((text(&landed["how"]), text(&landed["branch"])), ("fast_forward".into(), "main".into()));
    assert_eq!(landed["captured"], landed["commit"]);
    assert_eq!(at(&bench, "main"), text(&landed["commit"]));
    assert_eq!(at(&bench, "main^"), before);
    assert_eq!(bench.git(&["log", "-1", "--format=%s"]), "Mend it\n");
    // The working copy has the branch, and has gone along.
    assert_eq!(text(&landed["dir"]), bench.app.display().to_string());
    assert_eq!(read(&bench.app.join("src/main.c")), "landed\n");
    assert_eq!(bench.git(&["status", "--porcelain"]), "");
    // What was committed there since is merged.
    commit(&bench, "of-main", "main\n");
    bench.write(&dir.join("src/main.c"), "again\n");
    let landed = bench.json(&["thread", "land", "fix", "-m", "Mend it again"]);
    assert_eq!(text(&landed["how"]), "merge");
    assert_eq!(at(&bench, "main^2"), text(&landed["captured"]));
    assert_eq!(read(&bench.app.join("src/main.c")), "again\n");
    assert_eq!(bench.git(&["fsck", "--no-dangling"]), "");
}

#[test]
fn a_branch_that_nobody_has_checked_out_is_landed_on_by_itself() {
    let bench = bench();
    bench.git(&["branch", "release"]);
    let dir = bench.thread("fix");
    for (path, content) in [("one", "1\n"), ("two", "2\n")] {
        bench.write(&dir.join(path), content);
        bench.git_in(&dir, &["add", path]);
        bench.git_in(&dir, &["commit", "-qm", path]);
    }
    let landed = bench.json(&["thread", "land", "fix", "--onto", "release", "--squash"]);
    assert_eq!(text(&landed["how"]), "squash");
    assert!(landed["dir"].is_null());
    assert_eq!(bench.git(&["rev-list", "--count", "main..release"]), "1\n");
    assert_eq!(bench.git(&["log", "-1", "--format=%B", "release"]), "Land thread 'fix'\n\n* one\n* two\n\n");
    let landed = bench.json(&["thread", "land", "fix", "--merge"]);
    assert_eq!((text(&landed["how"]), text(&landed["branch"])), ("merge".into(), "main".into()));
    assert_eq!(at(&bench, "main^2"), at(&bench, "fix"));
    assert_eq!(bench.git(&["log", "-1", "--format=%s", "main"]), "Merge thread 'fix' into main\n");
    let missing = bench.run(&["thread", "land", "fix", "--onto", "no-such"]);
    assert_eq!(missing.code(), 3, "{missing}");
    let own = bench.run(&["thread", "land", "fix", "--onto", "fix"]);
    assert_eq!(own.code(), 2, "{own}");
}

#[test]
fn a_checkout_with_changes_is_not_landed_on() {
    let bench = bench();
    let dir = bench.thread("fix");
    bench.write(&dir.join("src/main.c"), "landed\n");
    bench.write(&dir.join("new"), "landed\n");
    bench.json(&["thread", "capture", "fix", "-m", "mended"]);
    let before = at(&bench, "main");
    bench.write(&bench.app.join("README"), "not committed\n");
    refused(&bench, &[], "with changes that are not committed");
    bench.git(&["checkout", "-q", "README"]);
    // git itself refuses to overwrite what it does not know.
    bench.write(&bench.app.join("new"), "mine\n");
    refused(&bench, &[], "new");
    assert_eq!(at(&bench, "main"), before);
    assert_eq!(read(&bench.app.join("new")), "mine\n");
    assert_eq!(read(&bench.app.join("src/main.c")), "int main;\n");
    bench.program("rm").arg(bench.app.join("new")).ok();
    bench.json(&["thread", "land", "fix"]);
    assert_eq!(read(&bench.app.join("new")), "landed\n");
}

#[test]
fn what_does_not_merge_is_resolved_in_the_thread_and_landed_then() {
    let bench = bench();
    let dir = bench.thread("fix");
    commit(&bench, "src/main.c", "of main\n");
    let before = at(&bench, "main");
    bench.write(&dir.join("src/main.c"), "of fix\n");
    bench.write(&dir.join("other"), "of fix\n");
    let conflict = refused(&bench, &["-m", "mended"], "do not merge in `src/main.c`");
    assert!(conflict.errors().contains("git commit"), "{conflict}");
    assert_eq!(at(&bench, "main"), before);
    assert_eq!(bench.git(&["status", "--porcelain"]), "", "the working copy is left alone");
    assert_eq!(bench.git_in(&dir, &["diff", "--name-only", "--diff-filter=U"]), "src/main.c\n");
    assert!(read(&dir.join("src/main.c")).contains("<<<<<<<"));
    refused(&bench, &[], "not concluded");
    bench.write(&dir.join("src/main.c"), "of both\n");
    bench.git_in(&dir, &["commit", "-qam", "resolved"]);
    let landed = bench.json(&["thread", "land", "fix"]);
    assert_eq!(text(&landed["how"]), "fast_forward");
    assert_eq!(read(&bench.app.join("src/main.c")), "of both\n");
    assert_eq!(read(&bench.app.join("other")), "of fix\n");
    assert_eq!(bench.git(&["rev-parse", "main^2"]).trim(), before);
}
