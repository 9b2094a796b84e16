//! The commands around a mount.

use std::time::Duration;

use e2e::tree::{Compare, assert_same};
use e2e::{Program, Sshd, Stead};

#[test]
fn exec_runs_there_and_exits_as_the_command_did() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    for machine in ["host", "ssh://box"] {
        let done = stead
            .program()
            .args(["exec", machine, "--", "sh", "-c", "cat; echo out; echo err >&2; exit 7"])
            .input("in\n")
            .run();
        assert_eq!(
            (done.code(), done.text().as_str(), done.errors().as_str()),
            (7, "in\nout\n", "err\n"),
            "{machine}"
        );
        let killed = stead.run(&["exec", machine, "--", "sh", "-c", "kill -9 $$"]);
        assert_eq!(killed.code(), 137, "{killed}");
        let absent = stead.run(&["exec", machine, "--", "no-such-program"]);
        assert_eq!(absent.code(), 255, "{absent}");
        let there = stead.ok(&[
            "exec",
            machine,
            "--cwd",
            "/usr",
            "--env",
            "X=y z",
            "--",
            "sh",
            "-c",
            "pwd; echo \"$X\"",
        ]);
        assert_eq!(there.text(), "/usr\ny z\n");
    }
}

#[test]
fn exec_passes_arguments_of_any_bytes_and_much_output() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let odd = "a b\"c'd$e`f\n*?\\";
    assert_eq!(stead.ok(&["exec", "ssh://box", "--", "printf", "%s", odd]).text(), odd);
    let much = stead.ok(&["exec", "ssh://box", "--", "head", "-c", "5000000", "/dev/zero"]);
    assert_eq!(much.stdout.len(), 5_000_000);
    let input = vec![b'x'; 3_000_000];
    let counted = stead.program().args(["exec", "ssh://box", "--", "wc", "-c"]).input(input).ok();
    assert_eq!(counted.text().trim(), "3000000");
}

#[test]
fn a_tree_is_listed_shown_and_described_without_a_mount() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let far = stead.dir("far");
    std::fs::write(far.join("a file"), "contents\n").unwrap();
    std::fs::create_dir(far.join("dir")).unwrap();
    for machine in ["host:", "ssh://box"] {
        let path = format!("{machine}{}", far.display());
        let listing = stead.ok(&["ls", &path]).text();
        assert!(listing.contains("a file") && listing.contains("dir"), "{listing}");
        assert_eq!(stead.ok(&["cat", &format!("{path}/a file")]).text(), "contents\n");
        assert!(stead.ok(&["stat", &format!("{path}/a file")]).text().contains('9'));
    }
}

#[test]
fn cp_copies_trees_in_both_directions() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let local = stead.dir("local");
    for number in 0..50 {
        let dir = local.join(format!("d{}", number % 5));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("f{number}")), format!("{number}\n").repeat(number * 100)).unwrap();
    }
    std::os::unix::fs::symlink("d0/f0", local.join("link")).unwrap();
    let far = stead.dir("far");
    let there = format!("ssh://box{}/tree", far.display());
    stead.ok(&["cp", local.to_str().unwrap(), &there]);
    assert_same(&local, &far.join("tree"), Compare::CONTENTS);
    let back = stead.root().join("back");
    stead.ok(&["cp", &there, back.to_str().unwrap()]);
    assert_same(&local, &back, Compare::CONTENTS);
}

#[test]
fn doctor_says_what_works_here() {
    let stead = Stead::new();
    let text = stead.ok(&["doctor"]).text().to_lowercase();
    assert!(text.contains("fuse") && text.contains("ssh"), "{text}");
    stead.json(&["doctor"]);
}

#[test]
fn doctor_says_what_is_on_a_machine() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let text = stead.ok(&["doctor", "ssh://box"]).text().to_lowercase();
    assert!(text.contains("agent"), "{text}");
}

#[test]
fn version_help_completions_and_manual_need_no_daemon() {
    let stead = Stead::new();
    assert!(stead.ok(&["version"]).text().contains("0."));
    assert!(stead.json(&["version"])["version"].is_string());
    for shell in ["bash", "zsh", "fish"] {
        assert!(stead.ok(&["completions", shell]).text().contains("STEAD_COMPLETE"), "{shell}");
    }
    let man = stead.dir("man");
    stead.ok(&["man", man.to_str().unwrap()]);
    assert!(std::fs::read_dir(man).unwrap().count() > 5);
    assert!(stead.ok(&["mount", "--help"]).text().contains("--read-only"));
    assert!(stead.processes().is_empty());
}

#[test]
fn the_daemon_is_started_asked_and_stopped() {
    let stead = Stead::new();
    let stopped = stead.run(&["daemon", "status"]);
    assert_eq!(stopped.code(), 3, "{stopped}");
    stead.ok(&["daemon", "start"]);
    stead.ok(&["daemon", "start"]);
    let first = stead.daemon_pid();
    stead.ok(&["daemon", "status"]);
    stead.ok(&["daemon", "restart"]);
    assert_ne!(stead.daemon_pid(), first);
    stead.ok(&["daemon", "logs"]);
    stead.ok(&["daemon", "stop"]);
    stead.ok(&["daemon", "stop"]);
    assert!(stead.left_behind().is_empty(), "{:?}", stead.left_behind());
}

#[test]
fn the_demo_needs_nothing_and_leaves_nothing() {
    let mut stead = Stead::new();
    let scratch = stead.dir("tmp");
    stead.set_env("TMPDIR", &scratch);
    let shown = stead.program().arg("demo").deadline(Duration::from_secs(120)).ok();
    let lines = shown.text().lines().count();
    assert!((5..=60).contains(&lines), "{shown}");
    assert!(stead.left_behind().is_empty() || stead.processes().len() == 1, "{:?}", stead.left_behind());
    assert_eq!(Program::new("find").arg(&scratch).args(["-mindepth", "1"]).ok().text(), "");
}

#[test]
fn json_is_the_only_thing_on_stdout() {
    let stead = Stead::new();
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    let mount = stead.mount(format!("host:{}", far.display()), &dir, &[]);
    for args in [&["status"][..], &["version"], &["doctor"], &["daemon", "status"]] {
        stead.json(args);
    }
    stead.json(&["unmount", &mount.id]);
}

#[test]
fn no_colour_is_printed_where_nobody_sees_it() {
    let stead = Stead::new();
    for args in [&["status"][..], &["doctor"], &["--help"], &["unmount", "m99"]] {
        let done = stead.run(args);
        assert!(!done.stdout.contains(&0x1b) && !done.stderr.contains(&0x1b), "{done}");
    }
}
