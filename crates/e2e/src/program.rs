//! Running a program to its end, with a deadline.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How long a program that a test runs may take when the test does not say: a hang must end as a failure with a name.
const DEADLINE: Duration = Duration::from_secs(120);

/// A program about to be run. Its output goes to files, so that a child it leaves behind cannot hold the test up.
pub struct Program {
    command: Command,
    input: Vec<u8>,
    deadline: Duration,
}

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    pub shown: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub took: Duration,
}

impl Program {
    pub fn new(name: impl AsRef<OsStr>) -> Program {
        Program { command: Command::new(name), input: Vec::new(), deadline: DEADLINE }
    }

    /// A task of the user's cargo in `dir`, with nothing of the build that runs this, and nothing of the net.
    pub fn cargo(task: &str, dir: &Path) -> Program {
        let foreign = [
            "CARGO_TARGET_DIR",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "RUSTC_WRAPPER",
        ];
        let program = Program::new("cargo").args([task, "--offline"]).cwd(dir);
        foreign.iter().fold(program, |program, key| program.without_env(key))
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Program {
        self.command.arg(arg);
        self
    }

    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        self.command.args(args);
        self
    }

    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Program {
        self.command.env(key, value);
        self
    }

    #[must_use]
    pub fn envs(mut self, vars: &[(OsString, OsString)]) -> Program {
        self.command.envs(vars.iter().map(|(key, value)| (key, value)));
        self
    }

    #[must_use]
    pub fn without_env(mut self, key: &str) -> Program {
        self.command.env_remove(key);
        self
    }

    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Program {
        self.command.current_dir(dir);
        self
    }

    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Program {
        self.input = bytes.into();
        self
    }

    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Program {
        self.deadline = deadline;
        self
    }

    /// Runs to the end. Panics when it cannot start or is still running at the deadline (it is killed then).
    #[track_caller]
    pub fn run(mut self) -> Finished {
        let shown = format!("{:?}", self.command);
        let out = scratch_file(&[]);
        let err = scratch_file(&[]);
        self.command
            .stdin(scratch_file(&self.input))
            .stdout(out.try_clone().expect("duplicating a descriptor"))
            .stderr(err.try_clone().expect("duplicating a descriptor"))
            .process_group(0);
        let start = Instant::now();
        let child = self.command.spawn().unwrap_or_else(|error| panic!("could not start {shown}: {error}"));
        let ended = wait_until(child, self.deadline);
        let (stdout, stderr) = (contents(out), contents(err));
        let Some(status) = ended else {
            panic!("still running after {:?}: {shown}\n{}", self.deadline, printable(&stdout, &stderr));
        };
        Finished { shown, status, stdout, stderr, took: start.elapsed() }
    }

    /// Runs to the end and panics, with all that was printed, unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> Finished {
        let finished = self.run();
        assert!(finished.status.success(), "{finished}");
        finished
    }

    /// Starts it and leaves it running, output discarded. The caller ends it.
    #[track_caller]
    pub fn spawn(mut self) -> Child {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.command.spawn().expect("could not start a program")
    }

    /// The same, with all that it says in a file, errors too.
    #[track_caller]
    pub fn spawn_heard(mut self, said: &Path) -> Child {
        let out = File::create(said).expect("creating a file for output");
        let errors = out.try_clone().expect("another descriptor of it");
        self.command.stdin(Stdio::null()).stdout(out).stderr(errors);
        self.command.spawn().expect("could not start a program")
    }

    /// The same, with what it prints in a file.
    #[track_caller]
    pub fn spawn_into(mut self, out: &Path) -> Child {
        let out = File::create(out).expect("creating a file for output");
        self.command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null());
        self.command.spawn().expect("could not start a program")
    }
}

impl Finished {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The exit code; a death by signal is 128 plus its number, as shells say it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})\n{}", self.shown, self.status, printable(&self.stdout, &self.stderr))
    }
}

fn scratch_file(contents: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("creating a scratch file");
    file.write_all(contents).expect("writing a scratch file");
    file.rewind().expect("rewinding a scratch file");
    file
}

fn contents(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().expect("rewinding a scratch file");
    file.read_to_end(&mut bytes).expect("reading a scratch file");
    bytes
}

/// At most this much of each stream is shown in a failure, from its end.
const SHOWN_BYTES_MAX: usize = 16 << 10;

fn printable(stdout: &[u8], stderr: &[u8]) -> String {
    let tail = |bytes: &[u8]| {
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(SHOWN_BYTES_MAX)..]).into_owned()
    };
    format!("stdout:\n{}\nstderr:\n{}", tail(stdout), tail(stderr))
}

/// Lets this process, and what it starts from now on, have as many descriptors as the system allows.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("raising a limit as far as it may be");
}

/// Waits for `child`; at the deadline kills its process group and returns `None`.
fn wait_until(mut child: Child, deadline: Duration) -> Option<ExitStatus> {
    let pid = Pid::from_child(&child);
    if wait_readable(pid, deadline) {
        return Some(child.wait().expect("reaping a child"));
    }
    // An error means the group ended in this instant, which is what is wanted.
    let _ended = kill_process_group(pid, Signal::KILL);
    child.wait().expect("reaping a child");
    None
}

/// Whether the process ended within `deadline`.
pub fn wait_readable(pid: Pid, deadline: Duration) -> bool {
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    is_readable_within(&fd, deadline)
}

/// Whether there is something to be read within `deadline`: of a pidfd, that its process has ended.
pub fn is_readable_within(fd: &OwnedFd, deadline: Duration) -> bool {
    let timeout = rustix::time::Timespec {
        tv_sec: deadline.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: deadline.subsec_nanos().into(),
    };
    matches!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)), Ok(1))
}
