//! The program, and beside it the agent that travels to far machines.

use std::path::PathBuf;

use crate::run::{self, Outcome, cargo, program};

/// How the program is built. The agent is always built small.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build, checks arithmetic.
    Dev,
    /// What users run.
    Release,
}

/// Builds both and returns the path of the program.
pub fn build(profile: Profile) -> Outcome<PathBuf> {
    let (flags, dir): (&[&str], _) = match profile {
        Profile::Dev => (&[], "debug"),
        Profile::Release => (&["--release"], "release"),
    };
    cargo(["build", "--quiet", "-p", "stead"]).args(flags).run()?;
    let dir = run::target().join(dir);
    let agent = build_agent()?;
    place(&agent, &dir.join(agent_name(&host()?)))?;
    place(&agent.with_file_name("stead-guest"), &dir.join(guest_name(&host()?)))?;
    Ok(dir.join("stead"))
}

/// Builds the agent as one static file, and beside it the first process of microVMs.
pub fn build_agent() -> Outcome<PathBuf> {
    let host = host()?;
    cargo([
        "build",
        "--quiet",
        "--profile",
        "agent",
        "-p",
        "agent",
        "-p",
        "guest",
        "--bin",
        "stead-agent",
        "--bin",
        "stead-guest",
        "--target",
        &host,
    ])
    .env("RUSTFLAGS", "-C target-feature=+crt-static")
    .run()?;
    Ok(run::target().join(&host).join("agent/stead-agent"))
}

/// What the agent is called beside the program: it is looked for by the kernel's names of machine and system.
pub fn agent_name(host: &str) -> String {
    let machine = host.split('-').next().unwrap_or(host);
    format!("stead-agent-{machine}-linux")
}

/// What the first process of microVMs is called beside the program.
pub fn guest_name(host: &str) -> String {
    agent_name(host).replace("agent", "guest")
}

/// The triple of this computer.
pub fn host() -> Outcome<String> {
    let text = program("rustc").arg("-vV").output()?;
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).ok_or_else(|| "rustc does not say what it builds for".to_owned())
}

/// Puts a copy there at once: a program that runs from the old file keeps it.
fn place(from: &PathBuf, to: &PathBuf) -> Outcome {
    let cannot = |error| format!("could not put {} at {}: {error}", from.display(), to.display());
    let beside = to.with_extension("new");
    std::fs::copy(from, &beside).map_err(cannot)?;
    std::fs::rename(&beside, to).map_err(cannot)
}
