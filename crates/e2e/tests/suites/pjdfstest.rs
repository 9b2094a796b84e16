use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use e2e::{Kind, Program, Stead, suites};

use crate::tool;

const EXPECTED: &str = include_str!("pjdfstest.expected");
const EXPECTED_IN_THREADS: &str = include_str!("pjdfstest-thread.expected");

/// The remount cases need a file system that can be remounted read-only under the suite's feet; the users are two that
/// every Debian has.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
utimensat = {}
utime_now = {}
rename_ctime = {}

[settings]
naptime = 0.02
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// Fewer cases than this are not the suite: it would have stopped early or been cut by its configuration.
const CASES_MIN: usize = 380;

suites! {
    fn pjdfstest_passes_as_on_the_disk(p) {
        if !e2e::stead::is_root() {
            return;
        }
        check(&run(&p.dir), if p.kind == Kind::Disk { "" } else { EXPECTED });
    }
}

#[test]
fn pjdfstest_passes_in_a_thread() {
    if !e2e::stead::is_root() {
        return;
    }
    let mut stead = Stead::new();
    stead.set_env("GIT_CONFIG_GLOBAL", "/dev/null");
    e2e::stead::open_to_all(stead.root());
    check(&run(&thread_of(&stead)), EXPECTED_IN_THREADS);
}

/// A thread of a repository that has one file, mounted so that everybody may use it.
fn thread_of(stead: &Stead) -> PathBuf {
    let repository = stead.dir("app");
    let git = |words: &[&str]| {
        let identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"];
        let program = Program::new("git").env("GIT_CONFIG_GLOBAL", "/dev/null").cwd(&repository);
        program.args(identity).args(words).ok();
    };
    git(&["init", "-q"]);
    std::fs::write(repository.join("file"), "content").unwrap();
    git(&["add", "-A"]);
    git(&["commit", "-qm", "first"]);
    stead.program().args(["thread", "new", "suite"]).cwd(&repository).ok();
    stead.ok(&["unmount", "--all"]);
    let dir = stead.dir("thread");
    stead.mount("thread:suite", &dir, &["-o", "allow-other"]);
    let within = dir.join("within");
    std::fs::create_dir(&within).unwrap();
    within
}

/// Panics unless exactly those fail that are listed.
fn check(outcomes: &BTreeMap<String, Outcome>, listed: &str) {
    assert!(outcomes.len() >= CASES_MIN, "only {} cases ran", outcomes.len());
    let expected = expected(listed);
    let wrong: Vec<String> = outcomes
        .iter()
        .filter_map(|(name, outcome)| match (outcome, expected.get(name.as_str())) {
            (Outcome::Failed(why), None) => Some(format!("{name} fails: {why}")),
            (Outcome::Passed, Some(reason)) => Some(format!("{name} passes, but is listed: {reason}")),
            _ => None,
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), outcomes.len(), wrong.join("\n"));
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped,
    Failed(String),
}

fn expected(listed: &str) -> BTreeMap<&str, &str> {
    let lines = listed.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let (name, reason) = line.split_once('#').unwrap_or_else(|| panic!("no reason is given: {line}"));
            (name.trim(), reason.trim())
        })
        .collect()
}

fn run(dir: &Path) -> BTreeMap<String, Outcome> {
    let scratch = tempfile::tempdir().unwrap();
    // A second file system, for the cases of EXDEV.
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    for dir in [dir, elsewhere.path()] {
        e2e::stead::open_to_all(dir);
    }
    let config = scratch.path().join("pjdfstest.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let finished = Program::new(tool("pjdfstest"))
        .arg("-c")
        .arg(&config)
        .arg("-p")
        .arg(dir)
        .arg("-s")
        .arg(elsewhere.path())
        .without_env("RUST_BACKTRACE")
        .deadline(e2e::place::SUITE_DEADLINE)
        .run();
    let text = finished.text();
    assert!(text.contains("Summary:"), "it did not come to its end: {finished}");
    parse(&text)
}

/// Reads lines of `name   ok|skipped|FAILED`; what is indented below one belongs to it.
fn parse(text: &str) -> BTreeMap<String, Outcome> {
    let mut outcomes = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name, outcome] if name.contains("::") && !line.starts_with(char::is_whitespace) => {
                last = (*name).to_owned();
                let outcome = match *outcome {
                    "ok" | "success" => Outcome::Passed,
                    "skipped" => Outcome::Skipped,
                    other => Outcome::Failed(other.to_owned()),
                };
                outcomes.insert(last.clone(), outcome);
            }
            _ => {
                if let Some(Outcome::Failed(why)) = outcomes.get_mut(&last) {
                    *why += " ";
                    *why += line.trim();
                }
            }
        }
    }
    outcomes
}

#[test]
fn the_output_of_the_suite_is_read() {
    let text = "chmod::a   ok\nchmod::b   skipped\n\tno remount\nopen::c::fifo   FAILED\n\tpanicked at x\n\nSummary: 1 failed\n";
    let outcomes = parse(text);
    assert_eq!(outcomes["chmod::a"], Outcome::Passed);
    assert_eq!(outcomes["chmod::b"], Outcome::Skipped);
    assert!(matches!(&outcomes["open::c::fifo"], Outcome::Failed(why) if why.contains("panicked at x")));
    assert_eq!(outcomes.len(), 3);
}
