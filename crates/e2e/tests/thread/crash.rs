//! What dies while a thread is made, is there, or goes.

use std::path::{Path, PathBuf};

use e2e::leftovers::mounts_below;
use e2e::{Program, eventually};

use crate::{Bench, SOON};

fn kill(pid: i32) {
    Program::new("kill").args(["-KILL", &pid.to_string()]).run();
}

/// Kills the daemon as soon as `is_reached` while `args` are carried out, or when they are done.
fn kill_daemon_while(bench: &Bench, args: &[&str], is_reached: impl Fn() -> bool) {
    let daemon = bench.stead.daemon_pid();
    let mut command = bench.stead.program().args(args).cwd(&bench.app).spawn();
    eventually(SOON, "a moment to kill the daemon at", || {
        is_reached() || command.try_wait().expect("waited for").is_some()
    });
    kill(daemon);
    command.wait().expect("waited for");
    eventually(SOON, "the end of a daemon that was killed", || e2e::leftovers::has_ended(daemon));
}

#[test]
fn a_thread_whose_daemon_was_killed_is_there_whole_or_not_at_all() {
    let bench = Bench::new();
    let before = bench.traces();
    let root = bench.stead.root().to_owned();
    let (files, git) = (bench.stead.home().join("threads/fix"), bench.app.join(".git"));
    let exists = |path: PathBuf| move || path.exists();
    let is_mounted = || mounts_below(&root).iter().any(|path| path.ends_with("app-fix"));
    let moments: [Box<dyn Fn() -> bool>; 7] = [
        Box::new(exists(files.clone())),
        Box::new(exists(git.join("refs/heads/fix"))),
        Box::new(exists(git.join("worktrees/fix/HEAD"))),
        Box::new(exists(files.join("tree/names"))),
        Box::new(exists(git.join("worktrees/fix/index"))),
        Box::new(exists(bench.stead.home().join("mounts"))),
        Box::new(is_mounted),
    ];
    for (number, moment) in moments.iter().enumerate() {
        kill_daemon_while(&bench, &["thread", "new", "fix"], moment);
        match bench.threads().as_slice() {
            [] => {}
            [_] => {
                let dir = bench.stead.root().join("app-fix");
                assert_eq!(bench.git_in(&dir, &["status", "--porcelain"]), "", "moment {number}");
                assert_eq!(bench.run_when_free(&["thread", "drop", "fix"]).code(), 0, "moment {number}");
            }
            more => panic!("{more:?}"),
        }
        bench.collect();
        assert_eq!(without_threads(&bench), before, "moment {number}");
    }
}

#[test]
fn a_thread_whose_daemon_was_killed_while_it_was_dropped_is_there_or_gone() {
    let bench = Bench::new();
    let before = bench.traces();
    let root = bench.stead.root().to_owned();
    let is_unmounted = || mounts_below(&root).is_empty();
    let gone = |path: &Path| {
        let path = path.to_owned();
        move || !path.exists()
    };
    let moments: [Box<dyn Fn() -> bool>; 4] = [
        Box::new(is_unmounted),
        Box::new(gone(&bench.app.join(".git/worktrees/fix"))),
        Box::new(gone(&bench.app.join(".git/refs/heads/fix"))),
        Box::new(gone(&bench.stead.home().join("threads/fix/tree"))),
    ];
    for (number, moment) in moments.iter().enumerate() {
        bench.thread("fix");
        kill_daemon_while(&bench, &["thread", "drop", "fix"], moment);
        if !bench.threads().is_empty() {
            assert_eq!(bench.run_when_free(&["thread", "drop", "fix"]).code(), 0, "moment {number}");
        }
        bench.collect();
        assert_eq!(without_threads(&bench), before, "moment {number}");
    }
}

#[test]
fn a_thread_whose_daemon_was_killed_while_it_was_had_back_is_there_or_can_be_had() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    bench.write(&dir.join("new"), "new\n");
    let git = bench.app.join(".git");
    let exists = |path: PathBuf| move || path.exists();
    let moments: [Box<dyn Fn() -> bool>; 4] = [
        Box::new(exists(bench.stead.home().join("threads/fix/tree"))),
        Box::new(exists(git.join("worktrees/fix/HEAD"))),
        Box::new(exists(git.join("refs/heads/fix"))),
        Box::new(|| true),
    ];
    for (number, moment) in moments.iter().enumerate() {
        bench.json(&["thread", "drop", "fix", "--force"]);
        kill_daemon_while(&bench, &["thread", "undo", "fix"], moment);
        if bench.threads().is_empty() {
            bench.json(&["thread", "undo", "fix"]);
        }
        if bench.stead.status()["threads"][0]["mount"].is_null() {
            bench.json(&["mount", "thread:fix"]);
        }
        assert_eq!(bench.changed("fix"), ["added new"], "moment {number}");
        assert_eq!(bench.git_in(&dir, &["status", "--porcelain", "--branch"]), "## fix\n?? new\n");
    }
}

#[test]
fn a_killed_daemon_costs_no_thread() {
    let bench = Bench::new();
    let dir = bench.thread("fix");
    bench.thread("other");
    let status = bench.stead.status();
    let mount = |name: &str| {
        let threads = status["threads"].as_array().expect("a list");
        threads.iter().find(|thread| thread["name"] == name).expect("there")["mount"].clone()
    };
    bench.stead.ok(&["unmount", mount("other").as_str().expect("mounted")]);
    bench.write(&dir.join("new"), "");
    let daemon = bench.stead.daemon_pid();
    kill(daemon);
    eventually(SOON, "the end of a daemon that was killed", || e2e::leftovers::has_ended(daemon));
    assert_eq!(std::fs::read(dir.join("new")).expect("read"), b"");
    assert_eq!(bench.threads(), ["fix", "other"]);
    assert_eq!(bench.changed("fix"), ["added new"]);
    assert_eq!(bench.stead.status()["threads"][0]["mount"], mount("fix"));
    bench.ok_when_free(&["thread", "drop", "other"]);
    assert_eq!(bench.run(&["thread", "drop", "fix", "--force"]).code(), 0);
}

fn without_threads(bench: &Bench) -> Vec<String> {
    let mut traces = bench.traces();
    traces.retain(|trace| !trace.ends_with("/h/threads"));
    traces
}
