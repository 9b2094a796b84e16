//! A registry of containers of its own: Debian's `docker-registry` on a port of this computer, to which `skopeo` pushes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Pid;

use crate::Program;
use crate::program::wait_readable;
use crate::wait::holds_within;

/// How long one may take to listen, on a machine that has other things to do.
const UP_DEADLINE: Duration = Duration::from_secs(60);

/// How long it may take to end once it is killed.
const GONE_DEADLINE: Duration = Duration::from_secs(20);

/// The login of a registry that wants one: `user` with the password `word`, and that as `docker login` keeps it.
pub const LOGIN: (&str, &str) = ("user:word", "dXNlcjp3b3Jk");

/// The same by bcrypt, as servers keep it.
const LOGIN_KEPT: &str = "user:$2b$04$xzpoHD9hT3w7QeLrMbJy6eozZ4HReg8c.NJLm1cXn9P3Cu/tB51a6\n";

/// Who is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Everybody.
    Nobody,
    /// Who has [`LOGIN`].
    Password,
}

/// A running registry. Dropping it ends it.
pub struct Registry {
    dir: tempfile::TempDir,
    server: Child,
    port: u16,
    guard: Guard,
}

impl Registry {
    /// An empty one.
    pub fn start(guard: Guard) -> Registry {
        let dir =
            tempfile::Builder::new().prefix("registry").tempdir().expect("creating a scratch directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("logins"), LOGIN_KEPT).expect("writing the logins");
        let auth = match guard {
            Guard::Nobody => String::new(),
            Guard::Password => format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", path("logins")),
        };
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n{auth}",
            path("content")
        );
        std::fs::write(path("config.yml"), config).expect("writing the configuration");
        let log = std::fs::File::create(path("log")).expect("making a log");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path("config.yml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let server = command.spawn().expect("docker-registry is installed by the setup");
        let mut registry = Registry { dir, server, port: 0, guard };
        let is_up = holds_within(UP_DEADLINE, || {
            registry.port = registry.listening().unwrap_or(0);
            registry.port > 0
        });
        assert!(is_up, "docker-registry does not listen; its log:\n{}", registry.log());
        registry
    }

    /// Where it says that it listens.
    fn listening(&self) -> Option<u16> {
        let log = self.log();
        let port = log.split("listening on 127.0.0.1:").nth(1)?;
        port.split(|digit: char| !digit.is_ascii_digit()).next()?.parse().ok()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory that goes away with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Docker's directory of somebody who has logged in to this registry, as it is seen through a port.
    pub fn docker(&self, port: u16) -> PathBuf {
        let docker = self.dir().join(format!("docker-{port}"));
        std::fs::create_dir_all(&docker).expect("making docker's directory");
        let config = format!(r#"{{"auths": {{"127.0.0.1:{port}": {{"auth": "{}"}}}}}}"#, LOGIN.1);
        std::fs::write(docker.join("config.json"), config).expect("writing docker's configuration");
        docker
    }

    /// Pushes an image of these layers, which are tars, under this name.
    #[track_caller]
    pub fn push(&self, layers: &[PathBuf], name: &str, more: &[&str]) {
        let paths: Vec<String> = layers.iter().map(|path| path.display().to_string()).collect();
        let copy = Program::new("skopeo").args(["--insecure-policy", "copy", "--dest-tls-verify=false"]);
        let login: &[&str] = match self.guard {
            Guard::Nobody => &[],
            Guard::Password => &["--dest-creds", LOGIN.0],
        };
        let to = format!("docker://127.0.0.1:{}/{name}", self.port);
        copy.args(login).args(more).arg(format!("tarball:{}", paths.join(":"))).arg(to).ok();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.server.kill();
        wait_readable(Pid::from_child(&self.server), GONE_DEADLINE);
        let _status = self.server.wait();
    }
}
