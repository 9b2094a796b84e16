//! The user's own OpenSSH.
//!
//! ```text
//! daemon ── ssh -M -N ──► machine           the master: logs in, asks the user, holds the connection
//! daemon ─┐
//! worker ─┼─ ssh -S path ──► master         channels: a command each, and never a login of their own
//! worker ─┘
//! worker ── full ──► daemon ── ssh -M -N ──► machine        one more master, when those that are there are full
//! ```
//!
//! The master reads the user's configuration; a channel reads none, since all that it decides has been decided. A
//! channel whose master is gone fails: it is given a proxy command that does, so that it never logs in by itself.

mod appearance;
mod config;
mod error;
mod further;
mod master;
mod masters;
mod route;
pub(crate) mod scarcity;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;
use tokio::process::Command;
use wire::api::machine::SshTarget;
use wire::bytestring::ByteString;
use wire::worker::SshDial;

use super::program::{Program, ProgramError};

pub use config::{ConfigError, UserConfig, write_config};
pub(crate) use error::explain_channel;
pub use error::{SshError, explain};
pub use further::{ControlSocket, MASTERS_MAX};
pub use master::{LoginOptions, Master, Prompts};
pub use masters::{Masters, MastersEnd, OpenMaster, OpeningMaster, Unattended};
pub(crate) use route::Route;

/// The longest path of a control socket: that of any unix socket, less what ssh appends while it makes one.
pub const CONTROL_PATH_BYTES_MAX: usize = 107 - 18;

/// The exit status that is ssh's own, not that of the command it ran.
pub(crate) const OWN_FAILURE: i32 = 255;

/// How a machine is reached through ssh.
#[derive(Clone, Debug)]
pub struct SshOptions {
    /// The ssh program: a path, or a name in `PATH`.
    pub program: PathBuf,
    /// Whom to log in as, and where.
    pub target: SshTarget,
    /// The configuration file, as [`write_config`] makes it.
    pub config: PathBuf,
    /// The master's socket: at most [`CONTROL_PATH_BYTES_MAX`] bytes, in a directory that is only the user's.
    pub control: PathBuf,
    /// Set for ssh in addition to this process's environment: the caller's `SSH_AUTH_SOCK`.
    pub environment: Vec<(OsString, OsString)>,
}

impl SshOptions {
    /// What a worker needs to open channels of its own to the agent at `agent`.
    pub fn dial(&self, agent: ByteString) -> SshDial {
        SshDial {
            program: ByteString::from(self.program.clone()),
            control_path: ByteString::from(self.control.clone()),
            user: self.target.user().map(str::to_owned),
            host: self.target.host().to_owned(),
            port: self.target.port(),
            config: Some(ByteString::from(self.config.clone())),
            agent,
        }
    }
}

/// A name for the control socket of a target: short however long the target is, the same for the same target.
pub fn control_path(directory: &Path, target: &SshTarget) -> PathBuf {
    let name = crate::place::hash(target.to_string().as_bytes()).get();
    directory.join(format!("s{name:016x}"))
}

/// Runs `command` by the login shell of the machine, with a socket as its standard input and output. Needs a master
/// that is there; waits for nothing.
pub fn channel(dial: &SshDial, command: &str) -> Result<(Program, UnixStream), ProgramError> {
    let mut ssh = Command::new(dial.program.as_path());
    ssh.args(["-F", "none", "-S"]).arg(escape_percent(dial.control_path.as_path()));
    ssh.args([
        "-o",
        "ControlMaster=no",
        "-o",
        "ProxyCommand=false",
        "-o",
        "BatchMode=yes",
        "-o",
        "LogLevel=ERROR",
    ]);
    // No terminal, no escape character, no forwarding of X11 or of an agent.
    ssh.args(["-T", "-x", "-a", "-e", "none", "--"]).arg(&dial.host).arg(command);
    ssh.process_group(0);
    Program::start(ssh, "ssh")
}

/// ssh expands `%` in the path of a control socket.
fn escape_percent(path: &Path) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    let bytes = path.as_os_str().as_bytes();
    let escaped = bytes.iter().flat_map(|byte| match byte {
        b'%' => &b"%%"[..],
        other => std::slice::from_ref(other),
    });
    OsString::from_vec(escaped.copied().collect())
}

/// Whether ssh takes the path as it is, percent signs aside.
fn check_control_path(path: &Path) -> Result<(), SshError> {
    let bytes = path.as_os_str().as_bytes();
    match bytes.len() > CONTROL_PATH_BYTES_MAX || bytes.first() != Some(&b'/') || bytes.contains(&b'$') {
        true => Err(SshError::ControlPath { path: path.to_owned() }),
        false => Ok(()),
    }
}
