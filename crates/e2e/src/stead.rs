//! One installation of the program under test: its own state, its own daemon.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;
use serde_json::Value;

use crate::program::{Finished, Program};
use crate::wait::holds_within;
use crate::{Sshd, leftovers};

/// How long a mount may take to come up before the test calls it a failure: far beyond what is promised, because the
/// promise has its own test.
const MOUNT_DEADLINE: Duration = Duration::from_secs(30);

/// How long processes and mounts may take to go away after the daemon has said that it stopped.
const GONE_DEADLINE: Duration = Duration::from_secs(10);

/// One installation, removed when dropped. Dropping it stops everything and panics when something stays behind.
pub struct Stead {
    root: Option<tempfile::TempDir>,
    home: PathBuf,
    env: Vec<(OsString, OsString)>,
    user: Option<User>,
}

/// Who runs the program, when it is not the one who runs the tests.
#[derive(Debug, Clone, Copy)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// `nobody`, the plain user that every system has.
pub const NOBODY: User = User { uid: 65534, gid: 65534 };

/// A mount as `stead mount --json` described it.
#[derive(Debug, Clone)]
pub struct Mount {
    pub id: String,
    pub dir: PathBuf,
    pub json: Value,
}

impl Default for Stead {
    fn default() -> Stead {
        Stead::new()
    }
}

impl Stead {
    /// An installation of the user who runs the tests.
    pub fn new() -> Stead {
        // Short: sockets live below it, and a socket's path has 108 bytes.
        let root = tempfile::Builder::new().prefix("st").tempdir().expect("creating a scratch directory");
        let home = root.path().join("h");
        let mut env = vec![("STEAD_HOME".into(), home.clone().into())];
        for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            env.push((name.into(), root.path().join(name).into()));
        }
        Stead { root: Some(root), home, env, user: None }
    }

    /// An installation that belongs to `user`, who can open `/dev/fuse`. Needs root, and gives the calling thread mounts
    /// of its own.
    pub fn of_user(user: User) -> Stead {
        fuse_for_all();
        let mut stead = Stead::new();
        let root = stead.root().to_owned();
        rustix::fs::chown(&root, Some(uid(user)), Some(gid(user))).expect("giving a directory away");
        stead.env.push(("HOME".into(), root.into()));
        stead.user = Some(user);
        stead
    }

    /// An installation whose ssh is configured to reach `sshd` as `box`.
    pub fn with_ssh(sshd: &Sshd) -> Stead {
        let mut stead = Stead::new();
        stead.set_env("STEAD_SSH_CONFIG", sshd.client_config());
        stead
    }

    /// Adds a variable to the environment of every command from here on.
    pub fn set_env(&mut self, key: &str, value: impl AsRef<OsStr>) {
        self.env.push((key.into(), value.as_ref().into()));
    }

    /// The scratch directory that goes away with this installation.
    pub fn root(&self) -> &Path {
        self.root.as_ref().map(tempfile::TempDir::path).expect("only taken when dropped")
    }

    /// What `STEAD_HOME` is set to.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A new directory in the scratch directory, owned by the user of this installation.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.root().join(name);
        std::fs::create_dir_all(&dir).expect("creating a scratch directory");
        if let Some(user) = self.user {
            rustix::fs::chown(&dir, Some(uid(user)), Some(gid(user))).expect("giving a directory away");
        }
        dir
    }

    /// The program with the environment of this installation, arguments still to come.
    pub fn program(&self) -> Program {
        let program = match self.user {
            None => Program::new(stead_bin()),
            Some(User { uid, gid }) => Program::new("setpriv")
                .arg(format!("--reuid={uid}"))
                .arg(format!("--regid={gid}"))
                .args(["--clear-groups", "--"])
                .arg(stead_bin()),
        };
        program.without_env("XDG_RUNTIME_DIR").without_env("XDG_STATE_HOME").envs(&self.env).cwd(self.root())
    }

    /// Runs `stead ARGS`, whatever comes of it.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Finished {
        self.program().args(args).run()
    }

    /// Runs `stead ARGS` and panics unless it succeeded.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Finished {
        self.program().args(args).ok()
    }

    /// Runs `stead ARGS --json` and reads what it printed.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let finished = self.program().args(args).arg("--json").ok();
        serde_json::from_slice(&finished.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {finished}"))
    }

    /// Mounts `source` on `dir`, with further arguments, and panics unless that succeeds.
    #[track_caller]
    pub fn mount(&self, source: impl AsRef<OsStr>, dir: &Path, args: &[&str]) -> Mount {
        let program = self.program().args(["mount", "--json"]).args(args).arg(source).arg(dir);
        let finished = program.deadline(MOUNT_DEADLINE).ok();
        let json: Value = serde_json::from_slice(&finished.stdout)
            .unwrap_or_else(|error| panic!("not one JSON document ({error}): {finished}"));
        let id = json["id"].as_str().unwrap_or_else(|| panic!("a mount without an id: {json}")).to_owned();
        Mount { id, dir: dir.to_owned(), json }
    }

    #[track_caller]
    pub fn unmount(&self, mount: &Mount) {
        self.ok(&["unmount", &mount.id]);
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// What `stead status` says of one mount; `None` when it does not know it.
    #[track_caller]
    pub fn mount_status(&self, id: &str) -> Option<Value> {
        self.status()["mounts"].as_array()?.iter().find(|mount| mount["id"] == id).cloned()
    }

    #[track_caller]
    pub fn daemon_pid(&self) -> i32 {
        let status = self.status();
        let pid = status["daemon"]["pid"].as_i64().unwrap_or_else(|| panic!("no daemon pid in {status}"));
        i32::try_from(pid).expect("a pid")
    }

    /// The processes of this installation that run now.
    pub fn processes(&self) -> Vec<leftovers::Process> {
        leftovers::processes_of(&self.home)
    }

    /// What is left on this computer, in words; empty when all is gone.
    pub fn left_behind(&self) -> Vec<String> {
        let processes = self.processes().into_iter().map(|p| format!("process {}: {}", p.pid, p.command));
        let mounts =
            leftovers::mounts_below(self.root()).into_iter().map(|m| format!("mount {}", m.display()));
        processes.chain(mounts).collect()
    }

    /// Unmounts all, stops the daemon, and returns what was still there at the deadline.
    fn stop(&self) -> Vec<String> {
        if self.home.exists() {
            let stop = |args: &[&str]| self.program().args(args).deadline(MOUNT_DEADLINE).run();
            let answers = [stop(&["unmount", "--all"]), stop(&["daemon", "stop"])];
            if std::thread::panicking() {
                answers.iter().for_each(|answer| eprintln!("at the end: {answer}"));
            }
        }
        holds_within(GONE_DEADLINE, || self.left_behind().is_empty());
        self.left_behind()
    }

    /// Prints the daemon's and the workers' logs, for the reader of a failure.
    fn print_logs(&self) {
        let listing =
            Program::new("find").arg(&self.home).args(["-name", "*.log", "-type", "f"]).run().text();
        for path in listing.lines() {
            let text = std::fs::read(path).unwrap_or_default();
            let tail = &text[text.len().saturating_sub(8 << 10)..];
            eprintln!("{path}:\n{}", String::from_utf8_lossy(tail));
        }
    }
}

impl Drop for Stead {
    fn drop(&mut self) {
        let failed_already = std::thread::panicking();
        if failed_already {
            self.print_logs();
        }
        // A stop that panics (a hang of the command) must still be followed by the sweep.
        let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.stop()))
            .unwrap_or_else(|_| vec!["the command that stops it did not end".to_owned()]);
        leftovers::detach_mounts(self.root());
        leftovers::kill(&self.processes());
        holds_within(GONE_DEADLINE, || self.left_behind().is_empty());
        if let Some(root) = self.root.take()
            && !leftovers::mounts_below(root.path()).is_empty()
        {
            // Removing it would remove what the mount shows.
            eprintln!("kept, because it could not be unmounted: {}", root.keep().display());
        }
        assert!(failed_already || left.is_empty(), "left behind:\n{}", left.join("\n"));
        left.iter().for_each(|line| eprintln!("left behind: {line}"));
    }
}

/// The program under test: `STEAD_BIN`, else the one beside the running test.
pub fn stead_bin() -> PathBuf {
    if let Some(path) = std::env::var_os("STEAD_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a test knows where it is");
    let found = own.ancestors().skip(1).take(3).map(|dir| dir.join("stead")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no `stead` beside {}: run `cargo build` or set STEAD_BIN", own.display()))
}

/// Where there is no udev, only root can open `/dev/fuse`. This gives the calling thread, and what it starts, a mount
/// namespace in which everybody can; the computer's own device stays as it is.
fn fuse_for_all() {
    let device = Path::new("/dev/fuse");
    let is = device.metadata().expect("/dev/fuse is not there");
    if is.mode() & 0o006 == 0o006 {
        return;
    }
    let own = tempfile::tempdir().expect("creating a scratch directory");
    let node = own.path().join("fuse");
    // SAFETY: a namespace of mounts changes nothing that other threads have: descriptors and memory stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.expect("a mount namespace of one's own");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).expect("making mounts private");
    mknodat(CWD, &node, FileType::CharacterDevice, Mode::empty(), is.rdev()).expect("making a device");
    std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o666)).expect("chmod of an own device");
    rustix::mount::mount_bind(&node, device).expect("putting a device in its place");
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Lets everybody enter `dir`, which a scratch directory by default refuses.
pub fn open_to_all(dir: &Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("chmod of an own directory");
}

fn uid(user: User) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(user.uid)
}

fn gid(user: User) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(user.gid)
}
