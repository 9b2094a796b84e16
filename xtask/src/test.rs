//! Everything that must hold before a change is taken.

use std::time::Instant;

use crate::build::{Profile, build};
use crate::run::{Outcome, cargo, program, target};
use crate::{platforms, setup};

/// The tests of the whole run real daemons, servers and suites, which wait for disks, lines and each other a third of the
/// time: three at a time keep two cores busy and no more.
const E2E_THREADS: &str = "3";

/// The tests of the whole end by themselves far sooner; beyond this, one of them hangs, and a build machine must be
/// told which while it still can be.
const E2E_SECONDS_MAX: &str = "2400";

type Step = fn(Option<&str>, &mut Vec<String>) -> Outcome;

/// The tests of the whole are run on what users run, whose times and memory are promised; the unit tests are built with
/// the checks of a dev build. The last step may need the network, whose absence must not keep the tests from running.
const STEPS: &[(&str, Step)] = &[
    ("setup", |_, _| setup::setup()),
    ("build", |_, _| build(Profile::Release).map(drop)),
    ("format", |_, _| cargo(["fmt", "--all", "--check"]).run()),
    ("lints", |_, _| {
        cargo(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()
    }),
    ("unit", unit),
    ("e2e", e2e),
    ("platforms", |_, _| platforms::check(&[])),
];

/// Runs every step in order. The last lines say what the runners counted.
pub fn all(filter: Option<&str>) -> Outcome {
    run_steps(STEPS, filter)
}

/// Runs one step.
pub fn only(name: &str, filter: Option<&str>) -> Outcome {
    let steps: Vec<(&str, Step)> = STEPS.iter().filter(|(step, _)| *step == name).copied().collect();
    if steps.is_empty() {
        let known: Vec<&str> = STEPS.iter().map(|(step, _)| *step).collect();
        return Err(format!("no step `{name}`; there are {}", known.join(", ")));
    }
    run_steps(&steps, filter)
}

fn run_steps(steps: &[(&str, Step)], filter: Option<&str>) -> Outcome {
    let mut counted = Vec::new();
    let mut times = Vec::new();
    let mut outcome = Ok(());
    for (name, step) in steps {
        let start = Instant::now();
        outcome = step(filter, &mut counted);
        times.push(format!("{name} {} s", start.elapsed().as_secs()));
        if outcome.is_err() {
            break;
        }
    }
    eprintln!("took: {}", times.join(", "));
    for line in counted.iter().filter(|line| !line.contains(" 0 passed")) {
        println!("{line}");
    }
    outcome
}

fn unit(filter: Option<&str>, counted: &mut Vec<String>) -> Outcome {
    let runner = if has_nextest() {
        cargo(["nextest", "run", "--no-fail-fast"])
    } else {
        cargo(["test", "--no-fail-fast"])
    };
    let runner = runner.args(["--workspace", "--exclude", "e2e"]).args(filter);
    let runner = if has_nextest() && filter.is_some() { runner.args(["--no-tests", "pass"]) } else { runner };
    runner.run_collecting(is_count, counted)
}

fn e2e(filter: Option<&str>, counted: &mut Vec<String>) -> Outcome {
    // Compiled outside the limit, which is for running.
    cargo(["test", "--quiet", "-p", "e2e", "--no-run"]).run()?;
    let runner = program("timeout").args(["--kill-after=10", E2E_SECONDS_MAX, "cargo"]);
    let runner = if has_nextest() {
        runner
            .args([
                "nextest",
                "run",
                "--no-fail-fast",
                "--config-file",
                "crates/e2e/nextest.toml",
                "-p",
                "e2e",
            ])
            .args(["--test-threads", E2E_THREADS])
            .args(filter)
    } else {
        runner.args(["test", "-p", "e2e", "--no-fail-fast"]).args(filter).args([
            "--",
            "--test-threads",
            E2E_THREADS,
        ])
    };
    let runner = match std::env::var_os("STEAD_BIN") {
        Some(chosen) => runner.env("STEAD_BIN", chosen),
        None => runner.env("STEAD_BIN", target().join("release/stead")),
    };
    runner.env("STEAD_TOOLS", setup::tools()).run_collecting(is_count, counted)
}

fn has_nextest() -> bool {
    cargo(["nextest", "--version"]).succeeds()
}

/// The lines in which the runners say how many tests they ran.
fn is_count(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("test result:") || line.starts_with("Summary [")
}
