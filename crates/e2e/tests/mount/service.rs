//! The daemon as a service manager's: systemd's own program makes the socket, and starts the daemon by it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use e2e::stead::stead_bin;
use e2e::{Program, Stead, eventually};

const DEADLINE: Duration = Duration::from_secs(20);

/// What systemd does for a socket's unit: it listens, and whoever connects first starts the program.
struct Manager {
    socket: PathBuf,
    told: UnixDatagram,
    child: Child,
}

impl Manager {
    fn start(stead: &Stead) -> Manager {
        let run = stead.home().join("run");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&run).unwrap();
        Manager::at(stead, run.join("daemon.sock"))
    }

    fn at(stead: &Stead, socket: PathBuf) -> Manager {
        let notify = stead.root().join("notify");
        let told = UnixDatagram::bind(&notify).unwrap();
        told.set_read_timeout(Some(DEADLINE)).unwrap();
        let set = |name: &str, value: &Path| format!("--setenv={name}={}", value.display());
        let child = Program::new("systemd-socket-activate")
            .arg(format!("--listen={}", socket.display()))
            .arg(set("STEAD_HOME", stead.home()))
            .arg(set("NOTIFY_SOCKET", &notify))
            .arg("--setenv=PATH")
            .arg("--")
            .arg(stead_bin())
            .args(["daemon", "run"])
            .spawn();
        eventually(DEADLINE, "the manager listens", || listens(&socket));
        Manager { socket, told, child }
    }

    fn hears(&self) -> String {
        let mut bytes = [0; 256];
        let length = self.told.recv(&mut bytes).expect("the daemon says something");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }
}

/// Whether connections to it are accepted, which is later than it is there. Connecting would start the daemon.
fn listens(socket: &Path) -> bool {
    const ACCEPTS: &str = "00010000";
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let is_it = |line: &str| line.ends_with(socket.to_str().unwrap()) && line.contains(ACCEPTS);
    sockets.lines().any(is_it)
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn a_service_managers_socket_starts_the_daemon_and_outlives_it() {
    let stead = Stead::new();
    let mut manager = Manager::start(&stead);
    let before = manager.socket.metadata().unwrap().ino();
    assert_eq!(stead.daemon_pid(), manager.pid(), "the first command is answered by the manager's daemon");
    assert_eq!(manager.hears(), "READY=1\n");
    let far = stead.dir("far");
    fs::write(far.join("f"), "text").unwrap();
    let mount = stead.mount(format!("host{}", far.display()), &stead.dir("near"), &[]);
    assert_eq!(fs::read_to_string(mount.dir.join("f")).unwrap(), "text");

    stead.ok(&["daemon", "stop"]);
    assert!(manager.child.wait().unwrap().success());
    let socket = manager.socket.metadata().unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.ino(), before, "it is the manager's, who starts the next daemon by it");
}

#[test]
fn a_managers_daemon_saves_and_unmounts_when_it_is_told_to_end() {
    let stead = Stead::new();
    let mut manager = Manager::start(&stead);
    let far = stead.dir("far");
    let mount = stead.mount(format!("host{}", far.display()), &stead.dir("near"), &["--sync", "async"]);
    assert_eq!(manager.hears(), "READY=1\n");
    fs::write(mount.dir.join("f"), "text").unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(manager.pid()).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert_eq!(manager.hears(), "STOPPING=1\n");
    assert!(manager.child.wait().unwrap().success());
    assert_eq!(fs::read_to_string(far.join("f")).unwrap(), "text");
    assert!(stead.left_behind().is_empty(), "{:?}", stead.left_behind());
}

#[test]
fn a_managers_socket_elsewhere_is_refused() {
    let stead = Stead::new();
    let mut manager = Manager::at(&stead, stead.root().join("elsewhere.sock"));
    drop(std::os::unix::net::UnixStream::connect(&manager.socket).unwrap());
    assert!(!manager.child.wait().unwrap().success());
    let log = fs::read_to_string(stead.home().join("daemon.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    assert!(!stead.home().join("run/daemon.sock").exists());
}

#[test]
fn the_units_are_what_systemd_understands() {
    let stead = Stead::new();
    let units = stead.dir("units");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../platform/systemd");
    for name in ["stead.service", "stead.socket"] {
        let text = fs::read_to_string(source.join(name)).unwrap();
        // The program is not where systemd looks for it, here.
        let text = text.replace("ExecStart=stead", &format!("ExecStart={}", stead_bin().display()));
        fs::write(units.join(name), text).unwrap();
    }
    let verified = Program::new("systemd-analyze")
        .args(["--user", "--man=no", "--recursive-errors=no", "verify"])
        .args(["stead.service", "stead.socket"].map(|name| units.join(name)))
        .env("XDG_RUNTIME_DIR", stead.root())
        .ok();
    assert_eq!(verified.errors(), "", "{verified}");
}
