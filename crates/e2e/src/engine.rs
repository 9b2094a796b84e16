//! An engine of its own, with containers: a real `dockerd`, without a network, or a real Podman.
//!
//! Nothing of the computer's own engine is seen or used. Its data, its state and its socket are in a scratch directory, and
//! its one image has busybox and nothing else.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::program::wait_readable;
use crate::stead::open_to_all;
use crate::wait::holds_within;
use crate::{Program, Stead, leftovers};

/// How long an engine may take to answer, on a machine that has other things to do.
const UP_DEADLINE: Duration = Duration::from_secs(60);

/// How long an engine and its containers may take to end.
const GONE_DEADLINE: Duration = Duration::from_secs(20);

/// The image that every engine has: busybox, a shell and some of its other names, and root and a user called `ann`.
pub const IMAGE: &str = "box";

/// What ann is to the system.
pub const ANN: u32 = 1000;

/// The names under which busybox is there.
const APPLETS: &[&str] = &[
    "cat", "chmod", "chown", "echo", "env", "head", "id", "ls", "mkdir", "mv", "printf", "ps", "pwd", "rm",
    "sh", "sleep", "stat", "test", "touch", "tr", "uname", "wc",
];

/// What starts every container of Podman: no more than most computers' root may have, which Podman itself does not ask.
const PODMAN_LIMITS: &[&str] = &["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];

/// A running engine. Dropping it ends it and all its containers.
pub struct Engine {
    dir: tempfile::TempDir,
    server: Child,
    limits: &'static [&'static str],
}

impl Engine {
    /// Docker, with [`IMAGE`]. Needs root.
    pub fn start() -> Engine {
        Engine::start_with(docker, &[])
    }

    /// Podman, which speaks as Docker does, with [`IMAGE`]. Needs root.
    pub fn podman() -> Engine {
        Engine::start_with(podman, PODMAN_LIMITS)
    }

    fn start_with(program: fn(&Path) -> Command, limits: &'static [&'static str]) -> Engine {
        // Short: sockets live below it, and a socket's path has 108 bytes.
        let dir = tempfile::Builder::new().prefix("dk").tempdir().expect("creating a scratch directory");
        open_to_all(dir.path());
        let server = serve(dir.path(), program(dir.path()));
        let engine = Engine { dir, server, limits };
        assert!(engine.answers(UP_DEADLINE), "the engine does not answer; its log:\n{}", engine.log());
        engine.make_image();
        engine
    }

    fn answers(&self, deadline: Duration) -> bool {
        holds_within(deadline, || std::os::unix::net::UnixStream::connect(self.socket()).is_ok())
    }

    /// The directory that goes away with the engine.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("s")
    }

    /// What `DOCKER_HOST` is to be.
    pub fn host(&self) -> String {
        address(self.dir())
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.dir().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(16 << 10)..]).into_owned()
    }

    /// An installation that means this engine.
    pub fn stead(&self) -> Stead {
        let mut stead = Stead::new();
        stead.set_env("DOCKER_HOST", self.host());
        stead
    }

    /// `docker ARGS`, which has to succeed. What it prints.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> String {
        self.client().args(args).ok().text().trim().to_owned()
    }

    /// `docker`, arguments still to come.
    pub fn client(&self) -> Program {
        let program = Program::new("docker").env("DOCKER_HOST", self.host());
        program.env("DOCKER_CONFIG", self.dir().join("config")).without_env("DOCKER_CONTEXT")
    }

    /// Starts a container of [`IMAGE`] with these further arguments, and leaves it running.
    #[track_caller]
    pub fn run(&self, name: &str, args: &[&str]) {
        let fixed = ["run", "--detach", "--network", "none", "--name", name];
        self.docker(&[&fixed, self.limits, args, &[IMAGE, "/bin/sleep", "1000000"]].concat());
    }

    /// The programs that run in a container, besides its first.
    #[track_caller]
    pub fn programs_in(&self, name: &str) -> Vec<String> {
        let listing = self.docker(&["top", name, "-eo", "pid,args"]);
        listing.lines().skip(2).map(str::to_owned).collect()
    }

    fn make_image(&self) {
        let root = self.dir().join("image");
        for name in ["bin", "etc", "home/ann", "proc", "root", "run", "sys", "tmp"] {
            std::fs::create_dir_all(root.join(name)).expect("creating a scratch directory");
        }
        let busybox = Program::new("sh").args(["-c", "command -v busybox"]).ok().text();
        std::fs::copy(busybox.trim(), root.join("bin/busybox")).expect("copying busybox");
        for name in APPLETS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("making a link");
        }
        let users = format!("root:x:0:0::/root:/bin/sh\nann:x:{ANN}:{ANN}::/home/ann:/bin/sh\n");
        std::fs::write(root.join("etc/passwd"), users).expect("writing passwd");
        std::fs::write(root.join("etc/group"), format!("root:x:0:\nann:x:{ANN}:\n")).expect("writing group");
        let owner = rustix::fs::Uid::from_raw(ANN);
        rustix::fs::chown(root.join("home/ann"), Some(owner), None).expect("giving a directory away");
        Program::new("chmod").arg("1777").arg(root.join("tmp")).ok();
        let archive = self.dir().join("image.tar");
        Program::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").ok();
        self.client().arg("import").arg(archive).arg(IMAGE).ok();
    }

    /// Makes the image again under another name, and has it say that it is made for another architecture.
    pub fn claim_architecture(&self, name: &str, architecture: &str) {
        let (saved, changed) = (self.dir().join("saved"), self.dir().join("changed.tar"));
        std::fs::create_dir(&saved).expect("creating a scratch directory");
        self.client().args(["save", IMAGE, "--output"]).arg(self.dir().join("saved.tar")).ok();
        Program::new("tar").arg("-C").arg(&saved).arg("-xf").arg(self.dir().join("saved.tar")).ok();
        for entry in std::fs::read_dir(&saved).expect("reading a scratch directory").flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = std::fs::read_to_string(&path).expect("reading the image's description");
                let text = text.replace(
                    &format!("\"architecture\":\"{}\"", go_architecture()),
                    &format!("\"architecture\":\"{architecture}\""),
                );
                let text = text.replace(&format!("{IMAGE}:latest"), &format!("{name}:latest"));
                std::fs::write(&path, text).expect("changing the image's description");
            }
        }
        Program::new("tar").arg("-C").arg(&saved).arg("-cf").arg(&changed).arg(".").ok();
        self.client().args(["load", "--input"]).arg(&changed).ok();
    }

    /// Kills the server, as one that falls over. Its containers end with it.
    pub fn kill(&mut self) {
        let _gone = self.server.kill();
        self.server.wait().expect("reaping the engine");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the engine's log:\n{}", self.log());
        }
        let names = self.client().args(["ps", "--all", "--quiet"]).run().text();
        if !names.trim().is_empty() {
            let _reported = self.client().args(["rm", "--force"]).args(names.split_whitespace()).run();
        }
        let server = Pid::from_child(&self.server);
        // One that has ended by itself is as good.
        let _gone = kill_process(server, Signal::TERM);
        if !wait_readable(server, GONE_DEADLINE) {
            let _gone = self.server.kill();
        }
        let _reaped = self.server.wait();
        leftovers::kill(&leftovers::processes_of(self.dir()));
        holds_within(GONE_DEADLINE, || leftovers::processes_of(self.dir()).is_empty());
        leftovers::detach_mounts(self.dir());
    }
}

/// What images of this computer say that they are made for.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Starts the server. It and what it starts has its directory among the arguments.
fn serve(dir: &Path, mut command: Command) -> Child {
    let log = std::fs::File::create(dir.join("log")).expect("creating a log");
    // Servers live in directories that a plain user's PATH does not have.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("duplicating a descriptor")).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}: cargo xtask setup"))
}

fn address(dir: &Path) -> String {
    format!("unix://{}", dir.join("s").display())
}

fn docker(dir: &Path) -> Command {
    std::fs::write(dir.join("none.json"), "{}").expect("writing a configuration");
    let mut command = Command::new("dockerd");
    command.arg("--config-file").arg(dir.join("none.json"));
    command.arg("--data-root").arg(dir.join("data")).arg("--exec-root").arg(dir.join("exec"));
    command.arg("--pidfile").arg(dir.join("pid")).arg("--host").arg(address(dir));
    command.args([
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--ip-masq=false",
    ]);
    command
}

fn podman(dir: &Path) -> Command {
    let mut command = Command::new("podman");
    command.arg("--root").arg(dir.join("data")).arg("--runroot").arg(dir.join("exec"));
    command.arg("--tmpdir").arg(dir.join("tmp"));
    command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc"]);
    command.args(["system", "service", "--time", "0"]).arg(address(dir));
    command
}
