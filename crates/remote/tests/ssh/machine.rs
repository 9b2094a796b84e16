//! A machine: a real OpenSSH server on a loopback port, with its own keys, configuration and cache directory.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use remote::place::Agents;
use remote::transport::ssh::{SshOptions, UserConfig, control_path, write_config};
use wire::api::machine::SshTarget;

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Machine {
    pub dir: tempfile::TempDir,
    port: u16,
    server: Child,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

impl Machine {
    pub fn start() -> Machine {
        Machine::start_with("")
    }

    /// With further lines for the server's configuration.
    pub fn start_with(config: &str) -> Machine {
        // Short, because control sockets are made in it.
        let dir = tempfile::Builder::new().prefix("rm").tempdir_in("/tmp").unwrap();
        for key in ["host", "id", "other"] {
            let path = dir.path().join(key);
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", path.to_str().unwrap()]);
        }
        std::fs::create_dir_all("/run/sshd").unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        for _ in 0..5 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            if let Some(server) = serve(dir.path(), port, config) {
                let machine = Machine { dir, port, server };
                machine.trust("host");
                machine.write_client_config("id", "");
                return machine;
            }
        }
        panic!("sshd does not start");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Takes `key` for the machine's own from now on.
    pub fn trust(&self, key: &str) {
        let public = std::fs::read_to_string(self.path(&format!("{key}.pub"))).unwrap();
        std::fs::write(self.path("known"), format!("[127.0.0.1]:{} {public}", self.port)).unwrap();
    }

    pub fn trust_nothing(&self) {
        std::fs::write(self.path("known"), "").unwrap();
    }

    pub fn write_client_config(&self, identity: &str, more: &str) {
        let dir = self.dir.path().display();
        let (port, user) = (self.port, std::env::var("USER").unwrap_or("root".to_owned()));
        let text = format!(
            "Host box\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n  IdentityFile {dir}/{identity}\n  \
             IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {dir}/known\n  {more}\n"
        );
        std::fs::write(self.path("client"), text).unwrap();
    }

    /// How a daemon would reach it.
    pub fn options(&self) -> SshOptions {
        let target = SshTarget::new(None, "box", None).unwrap();
        let config = self.path("run/config");
        write_config(&config, &UserConfig::File(self.path("client"))).unwrap();
        let control = control_path(&self.path("run"), &target);
        SshOptions { program: "ssh".into(), target, config, control, environment: Vec::new() }
    }

    /// The agents that were placed on the machine: names of directories.
    pub fn placed(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("cache/stead/agent")) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The program that is placed as the agent.
pub fn agents() -> Agents {
    Agents::find(Path::new("/nonexistent/stead"), Some(&agent_program())).unwrap()
}

pub fn agent_program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("examples/test-agent");
    assert!(program.exists(), "cargo builds the examples with the tests");
    program
}

fn serve(dir: &Path, port: u16, more: &str) -> Option<Child> {
    // Bash reads its start-up file for a command of sshd only at the first level, and whatever stands in the one of
    // whoever runs the tests is not what they measure.
    let text = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/id.pub\nPidFile none\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin yes\nMaxStartups 100\nSetEnv XDG_CACHE_HOME={dir}/cache SHLVL=1\n{more}\n",
        dir = dir.display()
    );
    let config = dir.join("server");
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut server = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    if answers(&mut server, port) {
        return Some(server);
    }
    server.kill().unwrap();
    server.wait().unwrap();
    None
}

/// Waits until the server answers; false if it ends instead, as it does when the port has been taken meanwhile.
fn answers(server: &mut Child, port: u16) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return true;
        }
        if server.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::yield_now();
    }
    panic!("sshd does not answer");
}

/// Writes an executable script.
pub fn script(path: &Path, text: &str) {
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
}
