//! The agent of this host: a child process.

use std::ffi::OsString;
use std::path::PathBuf;

use tokio::net::UnixStream;
use tokio::process::Command;
use wire::hello::SessionId;

use super::program::{Program, ProgramError};

/// How the agent of this host is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// The program.
    pub program: PathBuf,
    /// What makes it an agent.
    pub arguments: Vec<OsString>,
}

impl Default for HostOptions {
    /// The running program itself, as `stead agent`, even if its file has been replaced meanwhile.
    fn default() -> HostOptions {
        HostOptions { program: supervisor::spawn::own_program(), arguments: vec!["agent".into()] }
    }
}

/// Starts an agent, for this session; zeros are for a new one. It ends when the stream is closed, unless the session is
/// kept.
pub fn open(options: &HostOptions, session: SessionId) -> Result<(Program, UnixStream), ProgramError> {
    open_with(options, session, &[])
}

/// As [`open`], with further variables: where sessions are kept depends on them.
pub(crate) fn open_with(
    options: &HostOptions,
    session: SessionId,
    variables: &[(OsString, OsString)],
) -> Result<(Program, UnixStream), ProgramError> {
    let mut command = Command::new(&options.program);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    // A group of its own: an interrupt from a terminal is for the program in front, not for the agent.
    command.args(&options.arguments).process_group(0);
    if session != SessionId::default() {
        command.arg("--resume").arg(session.to_string());
    }
    Program::start(command, "agent")
}
