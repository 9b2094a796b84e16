//! A machine: a real OpenSSH server on a loopback port, and the client's configuration to reach it.
//!
//! Nothing of the user's own `~/.ssh` is read or written. The client is pointed at [`Sshd::client_config`] through
//! `STEAD_SSH_CONFIG`, which Stead hands to `ssh -F`. `HOME` cannot serve: ssh takes the home directory from the
//! password file.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::holds_within;
use crate::{Program, leftovers};

/// How long sshd may take to answer with its banner.
const UP_DEADLINE: Duration = Duration::from_secs(10);

/// A free port may be taken by another between finding it and using it; that many times in a row it is not chance.
const PORT_ATTEMPTS_MAX: usize = 5;

/// How long processes on the machine may take to end after the server has.
const GONE_DEADLINE: Duration = Duration::from_secs(3);

/// The name of a machine for which the client has no key that is let in, once [`Sshd::add_host`] has made it known. An
/// option of its own would not do: ssh tries the keys of all entries that match.
pub const DENIED: &str = "denied";

/// A running server. Dropping it ends it and everything that ran on the machine, and panics when a session of an agent
/// was left there that nobody would have come for.
pub struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    server: Child,
    cache: PathBuf,
    config: String,
}

/// Where the far agent is kept on the machine.
pub enum FarCache {
    /// One for all tests: the agent is in place after the first.
    Shared,
    /// A machine nobody has been to.
    Fresh,
}

impl Sshd {
    /// A machine on which the agent has been before.
    pub fn start() -> Sshd {
        Sshd::start_with(FarCache::Shared, "")
    }

    /// A machine with further lines for `sshd_config`, which count for more than the fixture's own.
    pub fn start_with(cache: FarCache, config: &str) -> Sshd {
        let dir = tempfile::Builder::new().prefix("sshd").tempdir().expect("creating a scratch directory");
        for key in ["host", "other_host", "id", "other_id"] {
            Program::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.path().join(key))
                .ok();
        }
        std::fs::copy(dir.path().join("id.pub"), dir.path().join("authorized_keys")).expect("copying a key");
        let cache_dir = match cache {
            FarCache::Fresh => dir.path().join("cache"),
            FarCache::Shared => shared_cache(),
        };
        for _ in 0..PORT_ATTEMPTS_MAX {
            let port = free_port();
            if let Some(server) = serve(dir.path(), port, &cache_dir, config) {
                let sshd = Sshd { dir, port, server, cache: cache_dir, config: config.to_owned() };
                sshd.write_client_config();
                return sshd;
            }
        }
        panic!("sshd does not start; its log:\n{}", read_or_empty(&dir.path().join("sshd.log")));
    }

    /// The port it listens on, at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The configuration for `ssh -F`. The machine is `box` in it.
    pub fn client_config(&self) -> PathBuf {
        self.dir.path().join("ssh_config")
    }

    /// The directory that goes away with this machine.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        read_or_empty(&self.dir.path().join("sshd.log"))
    }

    /// Adds another name for a machine to the client's configuration, e.g. this one behind a proxy.
    pub fn add_host(&self, alias: &str, port: u16, options: &[(&str, &str)]) {
        let mut text = format!("Host {alias}\n  Port {port}\n");
        for (key, value) in options {
            text += &format!("  {key} {value}\n");
        }
        let rest = read_or_empty(&self.client_config());
        // The first value of an option wins, so the special case stands before the general one.
        std::fs::write(self.client_config(), text + &rest).expect("writing ssh_config");
    }

    /// Records the machine's key under `alias`, as a first visit by hand would have done.
    pub fn trust(&self, alias: &str, port: u16) {
        let key = read_or_empty(&self.dir.path().join("host.pub"));
        let mut file = open_append(&self.known_hosts());
        writeln!(file, "[127.0.0.1]:{port},{alias} {key}").expect("writing known_hosts");
    }

    /// The private key that the machine accepts.
    pub fn identity(&self) -> PathBuf {
        self.dir.path().join("id")
    }

    /// A private key that the machine does not know, for [`DENIED`].
    pub fn other_identity(&self) -> PathBuf {
        self.dir.path().join("other_id")
    }

    /// The path by which processes on the machine are known: it is in their environment.
    pub fn machine(&self) -> PathBuf {
        self.dir.path().join("machine")
    }

    /// The directory in which processes on the machine keep their sockets.
    pub fn runtime(&self) -> PathBuf {
        runtime_dir(self.dir.path())
    }

    /// The processes on the machine that came in through this server.
    pub fn far_processes(&self) -> Vec<leftovers::Process> {
        leftovers::processes_of(&self.machine())
    }

    /// The sessions of mounts that are left on the machine although no login is there any more which could have them: they
    /// have a tree open, other than those of commands, which are promised to be hung up some minutes later. None while the
    /// server is gone: nobody could have told them that they are over.
    fn sessions_left(&mut self) -> Vec<leftovers::Process> {
        if ended(&mut self.server) {
            return Vec::new();
        }
        let mut left = Vec::new();
        let is_clean = holds_within(GONE_DEADLINE, || {
            left = leftovers::sessions_of(&self.machine());
            left.retain(|session| leftovers::has_open_beside(session.pid.as_raw_pid(), &self.runtime()));
            left.is_empty()
        });
        // Who is still logged in may still use them.
        if is_clean || !self.connections().is_empty() { Vec::new() } else { left }
    }

    /// The server's processes for those who are logged in.
    fn connections(&self) -> Vec<Pid> {
        let is_server = |pid: &i32| {
            let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            text.starts_with(b"sshd") || text.starts_with(sshd_bin().as_os_str().as_encoded_bytes())
        };
        let started = leftovers::descendants_of(Pid::from_child(&self.server).as_raw_nonzero().get());
        started.into_iter().filter(is_server).filter_map(Pid::from_raw).collect()
    }

    /// Kills the connections and the server, as a machine that falls over. [`Sshd::revive`] brings it back.
    pub fn kill_all(&mut self) {
        let _gone = self.server.kill();
        self.server.wait().expect("reaping sshd");
        leftovers::kill(&self.far_processes());
    }

    /// Ends the server and its connections, and leaves what runs on the machine. [`Sshd::revive`] brings it back.
    pub fn kill_server(&mut self) {
        let connections = self.connections();
        let _gone = self.server.kill();
        self.server.wait().expect("reaping sshd");
        for connection in connections {
            // One that ended by itself is as good.
            let _gone = kill_process(connection, Signal::KILL);
        }
    }

    /// Starts the server again on the same port with the same keys.
    pub fn revive(&mut self) {
        let server = serve(self.dir.path(), self.port, &self.cache, &self.config);
        self.server = server.unwrap_or_else(|| panic!("sshd does not start again; its log:\n{}", self.log()));
    }

    /// Where the client has the keys of machines.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    fn write_client_config(&self) {
        let dir = self.dir.path().display();
        let user = Program::new("id").arg("-un").ok().text();
        let text = format!(
            "Host *\n  HostName 127.0.0.1\n  Port {port}\n  User {user}  \
             IdentitiesOnly yes\n  UserKnownHostsFile {dir}/known_hosts\n  GlobalKnownHostsFile /dev/null\n  \
             StrictHostKeyChecking yes\n  UpdateHostKeys no\n\
             Host * !{DENIED}\n  IdentityFile {dir}/id\n",
            port = self.port
        );
        std::fs::write(self.client_config(), text).expect("writing ssh_config");
        self.trust("box", self.port);
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let failed_already = std::thread::panicking();
        if failed_already {
            eprintln!("sshd's log:\n{}", self.log());
        }
        let left = if failed_already { Vec::new() } else { self.sessions_left() };
        let _gone = self.server.kill();
        let _reaped = self.server.wait();
        holds_within(GONE_DEADLINE, || self.far_processes().is_empty());
        leftovers::kill(&self.far_processes());
        assert!(left.is_empty(), "agents of mounts that are over are left on the machine: {left:?}");
    }
}

/// Starts a server and waits for its banner. `None` when it ended instead, for want of the port.
fn serve(dir: &Path, port: u16, cache: &Path, config: &str) -> Option<Child> {
    if rustix::process::geteuid().is_root() {
        // Privilege separation wants it, and without an init nobody has made it.
        std::fs::create_dir_all("/run/sshd").expect("creating /run/sshd");
    }
    let shown = dir.display();
    // As if bash had been started by a shell: it reads ~/.bashrc otherwise, and how long that takes is the machine's affair.
    let text = format!(
        "{config}\nPort {port}\nListenAddress 127.0.0.1\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/authorized_keys\n\
         PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin yes\nSubsystem sftp internal-sftp\nMaxStartups 100\nMaxSessions 100\nUseDNS no\n\
         PrintMotd no\nSetEnv SHLVL=1 XDG_CACHE_HOME={cache} XDG_RUNTIME_DIR={runtime} \
         STEAD_TEST_MACHINE={shown}/machine\n",
        cache = cache.display(),
        runtime = runtime_dir(dir).display()
    );
    let path = dir.join("sshd_config");
    std::fs::write(&path, text).expect("writing sshd_config");
    let log = open_append(&dir.join("sshd.log"));
    let mut server = Command::new(sshd_bin())
        .args(["-D", "-e", "-f"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("sshd is missing: cargo xtask setup");
    let up = holds_within(UP_DEADLINE, || banner(port) || ended(&mut server));
    if up && !ended(&mut server) {
        return Some(server);
    }
    let _gone = server.kill();
    let _reaped = server.wait();
    None
}

fn ended(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(Some(_)))
}

fn banner(port: u16) -> bool {
    let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
        return false;
    };
    let mut line = String::new();
    stream.set_read_timeout(Some(UP_DEADLINE)).expect("setting a timeout");
    BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("SSH-")
}

/// Where processes on the machine keep their sockets: of this machine alone, and removed with it.
fn runtime_dir(dir: &Path) -> PathBuf {
    let runtime = dir.join("run");
    std::fs::create_dir_all(&runtime).expect("creating a directory of the fixture");
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&runtime, private).expect("chmod of an own directory");
    runtime
}

/// A port nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binding a loopback port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// sshd insists on being called by its absolute path.
fn sshd_bin() -> PathBuf {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"];
    places.iter().map(PathBuf::from).find(|path| path.is_file()).expect("sshd is missing: cargo xtask setup")
}

fn shared_cache() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("stead-e2e-far-{}", rustix::process::geteuid().as_raw()));
    std::fs::create_dir_all(&dir).expect("creating the shared cache of the far side");
    dir
}

fn read_or_empty(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn open_append(path: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().create(true).append(true).open(path).expect("opening a file of the fixture")
}

#[cfg(test)]
mod tests;
