use std::collections::BTreeMap;

use e2e::{Kind, Place, Program, suites};

use crate::tool;

const EXPECTED: &str = include_str!("pjdfstest.expected");

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
        let outcomes = run(p);
        assert!(outcomes.len() >= CASES_MIN, "only {} cases ran", outcomes.len());
        let expected = if p.kind == Kind::Disk { BTreeMap::new() } else { expected() };
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
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped,
    Failed(String),
}

fn expected() -> BTreeMap<&'static str, &'static str> {
    let lines = EXPECTED.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let (name, reason) = line.split_once('#').unwrap_or_else(|| panic!("no reason is given: {line}"));
            (name.trim(), reason.trim())
        })
        .collect()
}

fn run(p: &Place) -> BTreeMap<String, Outcome> {
    let scratch = tempfile::tempdir().unwrap();
    // A second file system, for the cases of EXDEV.
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    for dir in [&p.dir, elsewhere.path()] {
        e2e::stead::open_to_all(dir);
    }
    let config = scratch.path().join("pjdfstest.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let finished = Program::new(tool("pjdfstest"))
        .arg("-c")
        .arg(&config)
        .arg("-p")
        .arg(&p.dir)
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
