//! What Stead is made of: licences, sources, duplicates.

use crate::run::{Outcome, program};
use crate::setup;

const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");

/// Advisories are not among them: their database is not on crates.io, and what is checked must be checkable anywhere.
const CHECKS: [&str; 3] = ["bans", "licenses", "sources"];

/// Checks the dependencies against `deny.toml`.
pub fn deny() -> Outcome {
    let (name, version) = CARGO_DENY;
    let tool = setup::tool(name, version)?;
    program(tool).arg("check").args(CHECKS).run()
}
