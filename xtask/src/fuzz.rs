//! Coverage-guided fuzzing of everything that decodes bytes from outside.

use std::path::Path;

use crate::run::{self, Outcome, program};
use crate::setup;

const CARGO_FUZZ: (&str, &str) = ("cargo-fuzz", "0.13.2");

/// How long one target runs when nothing is said: on one core the coverage of most has stopped growing by then.
const SECONDS_DEFAULT: u32 = 60;

/// One input is decoded in microseconds: what takes this long hangs.
const INPUT_SECONDS_MAX: u32 = 10;

/// Decoders hold what they were given and little more: what takes this much believes a length.
const MEMORY_MIB_MAX: u32 = 1024;

/// Runs one target, or all one after the other, and tells every one that failed.
pub fn fuzz(args: &[&str]) -> Outcome {
    let (target, seconds) = match args {
        [] => (None, None),
        ["--seconds", seconds] => (None, Some(*seconds)),
        [target] => (Some(*target), None),
        [target, "--seconds", seconds] | ["--seconds", seconds, target] => (Some(*target), Some(*seconds)),
        _ => return Err("usage: cargo xtask fuzz [TARGET] [--seconds N]".to_owned()),
    };
    let seconds = seconds.map_or(Ok(SECONDS_DEFAULT), str::parse);
    let seconds = seconds.map_err(|error| format!("--seconds: {error}"))?;
    let known = targets()?;
    let chosen = match target {
        Some(target) if !known.iter().any(|name| name == target) => {
            return Err(format!("no target `{target}`; there are {}", known.join(", ")));
        }
        Some(target) => vec![target.to_owned()],
        None => known,
    };
    let (name, version) = CARGO_FUZZ;
    let tool = setup::tool(name, version)?;
    let outcomes = chosen.iter().map(|target| run_target(&tool, target, seconds));
    let failures: Vec<String> = outcomes.filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\nxtask: ")) }
}

fn run_target(tool: &Path, target: &str, seconds: u32) -> Outcome {
    // What is learnt stays here, and the next run begins with it.
    let corpus = run::root().join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&corpus)
        .map_err(|error| format!("could not create {}: {error}", corpus.display()))?;
    program(tool)
        .arg("run")
        .arg("--target-dir")
        .arg(run::target().join("fuzz"))
        .arg(target)
        .arg(&corpus)
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .args(["-print_final_stats=1", "-verbosity=0"])
        // The sanitizers are an unstable option of the compiler that everything else is built with.
        .env("RUSTC_BOOTSTRAP", "1")
        .run()
}

/// A target is a file.
fn targets() -> Outcome<Vec<String>> {
    let dir = run::root().join("fuzz/fuzz_targets");
    let cannot = |error: std::io::Error| format!("could not read {}: {error}", dir.display());
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        targets.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    targets.sort();
    Ok(targets)
}
