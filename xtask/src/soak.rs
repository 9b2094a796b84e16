//! A workload under faults, for as long as asked.

use crate::build::{Profile, build};
use crate::run::{self, Outcome, cargo, program};
use crate::setup;

/// Runs the harness on what users run. Ends at the first thing that came of a fault.
pub fn soak(args: &[&str]) -> Outcome {
    setup::setup()?;
    let stead = build(Profile::Release)?;
    cargo(["build", "--quiet", "--release", "-p", "e2e", "--bin", "soak"]).run()?;
    program(run::target().join("release/soak")).args(args).env("STEAD_BIN", stead).run()
}
