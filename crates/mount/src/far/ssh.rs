//! A line through the user's own ssh, as a child with pipes: for systems on which no login is shared.
//!
//! Each line is a login of its own, and nobody is asked for anything: a key, an agent of keys or a certificate lets the user in, and
//! the machine's key is known already. The agent's program has to be on the machine: as one that Stead has placed in the login's cache
//! directory, of the same release, or as `stead agent`.

use std::ffi::OsString;
use std::io::{self, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use wire::api::machine::SshTarget;
use wire::bytestring::ByteString;

use super::{LineError, StreamLine};

/// How often ssh asks a machine that is silent, and how often in vain: half a minute together.
const ALIVE_SECONDS: u32 = 10;
const ALIVE_COUNT_MAX: u32 = 3;

/// How long a machine may take to accept a connection.
const CONNECT_SECONDS_MAX: u32 = 20;

/// How long the agent may take to greet, with the connection and the login before it. Windows waits for a minute.
const GREETING_MAX: Duration = Duration::from_secs(30);

/// How long what ssh has said last may take, once it has ended. A program that it has started may still hold the same stream.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// What is kept of what ssh says.
const SAID_BYTES_MAX: usize = 4 << 10;

/// How a machine is reached.
#[derive(Debug, Clone)]
pub struct Ssh {
    /// ssh's program.
    pub program: OsString,
    /// Where the machine is.
    pub target: SshTarget,
    /// How long the agent may take to greet.
    pub greeting_max: Duration,
}

impl Ssh {
    /// Through the `ssh` that is in the path.
    pub fn new(target: SshTarget) -> Ssh {
        Ssh { program: "ssh".into(), target, greeting_max: GREETING_MAX }
    }

    /// Opens a line. It ends by itself where the machine does not answer for half a minute, at first and later. An error has what ssh
    /// has said last.
    pub fn dial(&self) -> Result<StreamLine, LineError> {
        let cannot = |error: io::Error| {
            LineError::Lost(format!("`{}` could not be run: {error}", self.program.display()))
        };
        let mut child = self.command().spawn().map_err(cannot)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let child = Arc::new(Mutex::new(child));
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(LineError::Lost("a child has no pipes".to_owned()));
        };
        let said = Arc::new(Mutex::new(Vec::new()));
        let (listens, keeps) = (Arc::clone(&child), Arc::clone(&said));
        let (all_said, is_all_said) = sync_channel(1);
        let listening = thread(move || {
            listen(stderr, &keeps, &listens);
            // Whoever has waited for it may have gone.
            let _unheard = all_said.send(());
        });
        let (greeted, is_greeted) = sync_channel::<()>(0);
        let (watches, greeting_max) = (Arc::clone(&child), self.greeting_max);
        // Whether it was too late. It hears of the greeting by the end of the channel.
        let watching = listening.and_then(|_| {
            thread(move || {
                let is_late = is_greeted.recv_timeout(greeting_max) == Err(RecvTimeoutError::Timeout);
                if is_late {
                    end(&watches);
                }
                is_late
            })
        });
        let watching = watching.map_err(|error| {
            end(&child);
            cannot(error)
        })?;
        let opened = StreamLine::open(stdout, stdin);
        drop(greeted);
        let is_late = watching.join().unwrap_or(true);
        match opened {
            Ok(line) if !is_late => Ok(line.ended_by(move || end(&child))),
            opened => {
                end(&child);
                let late = || format!("no agent has answered within {greeting_max:?}");
                let error = opened.err().filter(|_| !is_late).unwrap_or_else(|| LineError::Lost(late()));
                // It has ended: what it has said is there at once, unless another holds the stream.
                let _in_time = is_all_said.recv_timeout(LAST_WORDS_MAX);
                let said = last_line(&said.lock());
                Err(said.map_or(error, |said| LineError::Lost(format!("ssh says: {said}"))))
            }
        }
    }

    fn command(&self) -> Command {
        let mut ssh = Command::new(&self.program);
        ssh.args(["-T", "-x", "-a", "-e", "none"]);
        for option in [
            "BatchMode=yes".to_owned(),
            "ControlMaster=no".to_owned(),
            "ControlPath=none".to_owned(),
            "ClearAllForwardings=yes".to_owned(),
            "RemoteCommand=none".to_owned(),
            "LogLevel=ERROR".to_owned(),
            format!("ConnectTimeout={CONNECT_SECONDS_MAX}"),
            format!("ServerAliveInterval={ALIVE_SECONDS}"),
            format!("ServerAliveCountMax={ALIVE_COUNT_MAX}"),
        ] {
            ssh.args(["-o", &option]);
        }
        if let Some(user) = self.target.user() {
            ssh.args(["-l", user]);
        }
        if let Some(port) = self.target.port() {
            ssh.args(["-p", &port.to_string()]);
        }
        ssh.args(["--", self.target.host(), &start_command()]);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ssh
    }
}

/// What the machine's shell is given: the agent of this release that Stead has placed there, or the one that is installed. Without `'`,
/// `\` and `!` inside, so that every login shell hands it to `sh` as it is.
fn start_command() -> String {
    let release = wire::RELEASE;
    format!(
        "exec sh -c 'for a in \"${{XDG_CACHE_HOME:-$HOME/.cache}}\"/stead/agent/{release}-*/stead-agent; do \
         [ -x \"$a\" ] && exec \"$a\"; done; exec stead agent'"
    )
}

/// Keeps the end of what it says, until it says no more: it has ended then, or is of no use.
fn listen(mut stderr: ChildStderr, said: &Mutex<Vec<u8>>, child: &Mutex<Child>) {
    let mut bytes = [0; 512];
    loop {
        match stderr.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                let mut said = said.lock();
                said.extend_from_slice(&bytes[..count]);
                let surplus = said.len().saturating_sub(SAID_BYTES_MAX);
                said.drain(..surplus);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    end(child);
}

/// Ends it, if it has not, and lets the system forget it.
fn end(child: &Mutex<Child>) {
    let mut child = child.lock();
    // One that has ended is what is wanted.
    let _ended = child.kill();
    let _gone = child.wait();
}

fn thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name("stead-ssh".to_owned()).spawn(run)
}

fn last_line(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(ByteString::from(line).to_string())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;
    use crate::far::Line;

    /// A program that stands for ssh, with `$command` for what the machine's shell would be given.
    fn ssh(directory: &TempDir, script: &str) -> Ssh {
        let program = directory.path().join("ssh");
        make(&program, &format!("for command; do :; done\n{script}"));
        let target = SshTarget::new(Some("u"), "box.example", Some(2222)).unwrap();
        Ssh { program: program.into(), target, greeting_max: GREETING_MAX }
    }

    /// Written and closed by another process: one that this process has open for writing while a thread forks cannot be run.
    fn make(path: &Path, script: &str) {
        let mut sh = Command::new("sh")
            .args(["-c", "cat > \"$1\" && chmod 700 \"$1\"", "sh"])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut sh.stdin.take().unwrap(), format!("#!/bin/sh\n{script}\n").as_bytes())
            .unwrap();
        assert!(sh.wait().unwrap().success());
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    /// What the others run as the agent's program.
    #[test]
    #[ignore = "an agent on its standard input and output"]
    fn an_agent() {
        let options = agent::Options { home: b"/".to_vec(), shell: b"/bin/sh".to_vec() };
        agent::serve(std::io::stdin(), std::io::stdout(), options);
    }

    fn agent_script() -> String {
        let this = std::env::current_exe().unwrap();
        format!("exec '{}' --exact far::ssh::tests::an_agent --ignored --nocapture", this.display())
    }

    #[test]
    fn the_agent_that_was_placed_answers_through_a_child_and_the_child_ends_with_the_line() {
        let scratch = TempDir::new().unwrap();
        let release = wire::RELEASE;
        let place = scratch.path().join(format!("stead/agent/{release}-0123456789abcdef"));
        fs::create_dir_all(&place).unwrap();
        make(&place.join("stead-agent"), &agent_script());
        let (cache, ended) = (scratch.path().display(), scratch.path().join("ended"));
        let run = format!("XDG_CACHE_HOME='{cache}' sh -c \"$command\"; echo ended > '{}'", ended.display());
        let mut line = ssh(&scratch, &run).dial().unwrap();
        assert!(line.clock().unwrap().seconds > 0);
        assert!(!ended.exists());
        drop(line);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !ended.exists() {
            assert!(std::time::Instant::now() < deadline, "ssh is still there");
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
    }

    #[test]
    fn a_line_that_is_ended_by_another_thread_is_lost() {
        let scratch = TempDir::new().unwrap();
        let mut line = ssh(&scratch, &agent_script()).dial().unwrap();
        line.clock().unwrap();
        line.ender().unwrap()();
        assert!(matches!(line.clock(), Err(LineError::Lost(_))));
    }

    #[test]
    fn the_machine_is_named_and_nobody_is_asked() {
        let scratch = TempDir::new().unwrap();
        let error = ssh(&scratch, "echo \"$*\" >&2; exit 255").dial().unwrap_err().to_string();
        assert!(error.contains("-o BatchMode=yes"), "{error}");
        assert!(error.contains("-o ControlMaster=no -o ControlPath=none"), "{error}");
        assert!(error.contains("-o ServerAliveInterval=10 -o ServerAliveCountMax=3"), "{error}");
        assert!(error.contains("-l u -p 2222 -- box.example exec sh -c "), "{error}");
    }

    #[test]
    fn what_ssh_says_is_the_reason() {
        let scratch = TempDir::new().unwrap();
        let denied = ssh(&scratch, "echo first >&2; printf 'Permission\\033 denied.\\r\\n' >&2; exit 255");
        let error = denied.dial().unwrap_err().to_string();
        assert_eq!(error, "the line to the machine is lost: ssh says: Permission\\x1b denied.");
        let absent = Ssh { program: scratch.path().join("absent").into(), ..denied };
        let error = absent.dial().unwrap_err().to_string();
        assert!(error.contains("absent` could not be run"), "{error}");
    }

    #[test]
    fn an_agent_that_does_not_greet_is_not_waited_for() {
        let scratch = TempDir::new().unwrap();
        let silent = ssh(&scratch, "exec sleep 600");
        let silent = Ssh { greeting_max: Duration::from_millis(50), ..silent };
        let error = silent.dial().unwrap_err().to_string();
        assert_eq!(error, "the line to the machine is lost: no agent has answered within 50ms");
    }

    #[test]
    fn who_holds_what_ssh_speaks_to_is_not_waited_for() {
        let scratch = TempDir::new().unwrap();
        let ended = scratch.path().join("ended");
        // It ends by itself once the test is over.
        let run = format!(
            "echo refused >&2; (while [ ! -e '{}' ] && [ -e '{}' ]; do sleep 0.1; done) </dev/null >/dev/null & exit 255",
            ended.display(),
            scratch.path().display()
        );
        let error = ssh(&scratch, &run).dial().unwrap_err().to_string();
        assert_eq!(error, "the line to the machine is lost: ssh says: refused");
        fs::write(ended, "").unwrap();
    }
}
