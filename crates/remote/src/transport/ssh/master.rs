//! The ssh process that logs in and holds the connection.
//!
//! ```text
//! start ──► logging in ──socket appears──► ready ──► ended (by itself, or because the last handle was dropped)
//!               │                           ▲
//!               │            adopt, checked ┘
//!               └── ssh ends, or the time is over ──► error
//! ```

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::net::UnixStream;
use tokio::process::Command;

use super::appearance::Appearance;
use super::error::{SshError, explain};
use super::masters::remove_socket;
use super::{SshOptions, check_control_path, escape_percent};
use crate::askpass::Environment;
use crate::transport::program::{Dismissal, Exit, Program};

/// How long a login may take that nobody is asked about: name service, connection, keys.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a login may take that a person has a part in. A server gives up after two minutes of its own accord.
const PROMPTED_LOGIN_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a master that is told to end may take before it is killed. One whose connection hangs takes no longer than
/// another: it does not wait for the machine.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a master may take to say that it is there.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Who answers what ssh asks.
#[derive(Clone, Debug)]
pub enum Prompts {
    /// Nobody: what would have to be asked fails at once.
    Refuse,
    /// Whoever listens at the other end of this.
    Ask(Environment),
}

/// How to log in.
#[derive(Clone, Debug)]
pub struct LoginOptions {
    /// Who answers what ssh asks.
    pub prompts: Prompts,
    /// How long it may take.
    pub timeout: Duration,
}

impl LoginOptions {
    /// With nobody to ask.
    pub fn unattended() -> LoginOptions {
        LoginOptions { prompts: Prompts::Refuse, timeout: LOGIN_TIMEOUT }
    }

    /// With somebody to ask, who is given time.
    pub fn attended(environment: Environment) -> LoginOptions {
        LoginOptions { prompts: Prompts::Ask(environment), timeout: PROMPTED_LOGIN_TIMEOUT }
    }
}

/// An ssh that is logged in. Clones are the same one, which is ended with the last of them.
#[derive(Clone)]
pub struct Master {
    program: Program,
    options: SshOptions,
}

impl Master {
    /// Logs in. Returns when channels can be opened.
    ///
    /// A socket that a dead master has left at the control path is removed; one that a living master listens at must
    /// not be there: the caller knows its masters.
    pub async fn start(options: SshOptions, login: &LoginOptions) -> Result<Master, SshError> {
        check_control_path(&options.control)?;
        let directory = options.control.parent().unwrap_or(Path::new("/"));
        let watch_failed = |source: io::Error| SshError::Watch { directory: directory.to_owned(), source };
        remove_socket(&options.control).map_err(watch_failed)?;
        let appearance = Appearance::watch(directory).map_err(watch_failed)?;
        let program = Program::attend_to(command(&options, login), "ssh", Dismissal::BySignal)?;
        tokio::select! {
            ready = appearance.of(&options.control) => ready.map_err(watch_failed)?,
            exit = program.ended() => return Err(explain(&options.target, exit)),
            () = tokio::time::sleep(login.timeout) => {
                return Err(SshError::timed_out(&options.target, login.timeout));
            }
        }
        Ok(Master { program, options })
    }

    /// Takes over the master that listens at the control path: one that a daemon before this one has started with these
    /// options. None when there is none. One that does not answer is ended.
    pub async fn adopt(options: SshOptions) -> Option<Master> {
        let process = listener_of(&options.control).await?;
        let pid = process.pid();
        let master = Master { program: Program::adopt(process, Dismissal::BySignal), options };
        match master.check().await {
            Ok(()) => {
                tracing::info!(machine = %master.options.target, pid, "an ssh from before is logged in");
                Some(master)
            }
            Err(error) => {
                tracing::warn!(machine = %master.options.target, pid, %error, "an ssh from before is ended");
                master.end().await;
                None
            }
        }
    }

    /// How it was started.
    pub fn options(&self) -> &SshOptions {
        &self.options
    }

    /// The ssh process.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.program.has_ended()
    }

    /// Waits for its end.
    pub async fn ended(&self) -> SshError {
        let exit = self.program.ended().await;
        explain(&self.options.target, exit)
    }

    /// Ends it, whoever else has a handle, and waits until it has ended. Unless it had to be killed, its socket is gone
    /// then: it takes away whatever is at its control path, so that nobody else may be there before.
    pub async fn end(&self) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(END_TIMEOUT, self.program.ended()).await.is_err() {
            self.signal(Signal::KILL);
            self.program.ended().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if self.has_ended() {
            return;
        }
        let Some(pid) = Pid::from_raw(self.pid().cast_signed()) else {
            return;
        };
        if let Err(error) = rustix::process::kill_process(pid, signal) {
            tracing::debug!(%error, "a master that was to be ended has ended");
        }
    }

    /// Asks the master whether it is there (`ssh -O check`).
    pub async fn check(&self) -> Result<(), SshError> {
        let mut ssh = Command::new(&self.options.program);
        ssh.args(["-F", "none", "-o", "LogLevel=ERROR", "-S"]).arg(escape_percent(&self.options.control));
        ssh.args(["-O", "check", "--"]).arg(self.options.target.host());
        ssh.stdin(Stdio::null()).stdout(Stdio::null());
        let asking = Program::attend_to(ssh, "ssh -O check", Dismissal::BySignal)?;
        match tokio::time::timeout(CHECK_TIMEOUT, asking.ended()).await {
            Ok(Exit { status: Some(status), .. }) if status.success() => Ok(()),
            Ok(_) => Err(SshError::MasterGone { target: super::error::name_of(&self.options.target) }),
            Err(_) => Err(SshError::timed_out(&self.options.target, CHECK_TIMEOUT)),
        }
    }
}

/// The process of this user that listens at a socket, if there is one.
async fn listener_of(path: &Path) -> Option<supervisor::Process> {
    // Open until the process is watched: so long its number is not another's.
    let stream = UnixStream::connect(path).await.ok()?;
    let peer = supervisor::socket::peer(&stream).ok()?;
    if peer.uid != rustix::process::geteuid().as_raw() || peer.pid == std::process::id() {
        return None;
    }
    supervisor::Process::adopt(supervisor::Identity::of(peer.pid).ok()?).ok()
}

fn command(options: &SshOptions, login: &LoginOptions) -> Command {
    let mut ssh = Command::new(&options.program);
    ssh.arg("-F").arg(&options.config);
    ssh.args(["-M", "-N", "-T", "-x", "-a", "-e", "none", "-S"]).arg(escape_percent(&options.control));
    for option in [
        "ControlPersist=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "LogLevel=ERROR",
    ] {
        ssh.args(["-o", option]);
    }
    match &login.prompts {
        Prompts::Refuse => {
            ssh.args(["-o", "BatchMode=yes"]);
        }
        Prompts::Ask(environment) => {
            ssh.envs(environment.variables());
        }
    }
    if let Some(user) = options.target.user() {
        ssh.args(["-l", user]);
    }
    if let Some(port) = options.target.port() {
        ssh.arg("-p").arg(port.to_string());
    }
    ssh.arg("--").arg(options.target.host());
    ssh.envs(options.environment.iter().map(|(name, value)| (name, value)));
    ssh.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    ssh
}
