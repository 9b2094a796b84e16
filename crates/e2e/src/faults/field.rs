//! A mount that is to suffer: an installation, a machine, and between them a line that can be cut.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::role::{Holder, Role, holders};
use crate::wait::holds_within;
use crate::{DelayProxy, Kind, Mount, Program, Sshd, Stead, leftovers};

/// How long a role may be vacant. Far beyond what is promised, which has tests of its own.
pub const VACANT_MAX: Duration = Duration::from_secs(30);

/// Descriptors that a process may have more of than it began with: a connection to the daemon, a dialled stream, an
/// open directory. A leak has one for each fault.
const DESCRIPTORS_SPARE: usize = 12;

/// How long after the last fault things may take to come to rest.
const REST_DEADLINE: Duration = Duration::from_secs(30);

/// The thread, its repository in the scratch directory, and the directory of that which has its files.
const THREAD: &str = "work";
const REPOSITORY: &str = "app";
pub const TREE: &str = "tree";

/// The repository's files.
const BASE: [(&str, &str); 6] = [
    ("a/a", "a of a\n"),
    ("a/b", "b of a\n"),
    ("a/c/d", "deep\n"),
    ("b/a/a", "deeper\n"),
    ("c", "c\n"),
    ("d", ""),
];

/// See the module's documentation. Dropping it takes everything away.
pub struct Field {
    pub kind: Kind,
    /// The mount.
    pub dir: PathBuf,
    /// The same directory on the machine; a thread's is the mount itself.
    pub far: PathBuf,
    // In the order in which they have to go.
    mount: Mount,
    stead: Stead,
    line: Option<(Sshd, DelayProxy)>,
    asked: AtomicU32,
}

impl Field {
    /// A fresh mount of this host or over SSH, or a new thread.
    pub fn new(kind: Kind, args: &[&str]) -> Field {
        Field::at_distance(kind, Duration::ZERO, args)
    }

    /// As [`Field::new`]; a mount over SSH has this round trip added from the start.
    pub fn at_distance(kind: Kind, rtt: Duration, args: &[&str]) -> Field {
        let line = (kind == Kind::Ssh).then(|| {
            let sshd = Sshd::start();
            let proxy = DelayProxy::start(sshd.port(), rtt);
            sshd.add_host("box", proxy.port(), &[("HostKeyAlias", "box")]);
            (sshd, proxy)
        });
        let mut stead = line.as_ref().map_or_else(Stead::new, |(sshd, _)| Stead::with_ssh(sshd));
        if kind == Kind::Thread {
            let mount = make_thread(&mut stead);
            let dir = mount.dir.clone();
            return Field { kind, far: dir.clone(), dir, mount, stead, line, asked: AtomicU32::new(0) };
        }
        let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
        let machine = if kind == Kind::Ssh { "ssh://box" } else { "host:" };
        let mount = stead.mount(format!("{machine}{}", far.display()), &dir, args);
        Field { kind, dir, far, mount, stead, line, asked: AtomicU32::new(0) }
    }

    /// A copy of what a thread began with, on the local disk.
    #[track_caller]
    pub fn checked_out(&self, name: &str) -> PathBuf {
        let copy = self.stead.root().join(name);
        git(self.stead.root(), &["clone", "-q", REPOSITORY, name]);
        copy
    }

    pub fn stead(&self) -> &Stead {
        &self.stead
    }

    /// Whether the mount's log says so.
    pub fn says(&self, what: &str) -> bool {
        let log = self.stead.home().join("mounts").join(&self.mount.id).join("worker.log");
        std::fs::read_to_string(log).is_ok_and(|log| log.contains(what))
    }

    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    pub fn sshd(&self) -> Option<&Sshd> {
        self.line.as_ref().map(|(sshd, _)| sshd)
    }

    /// The server, to be killed and brought back.
    #[track_caller]
    pub fn server(&mut self) -> &mut Sshd {
        &mut self.line.as_mut().expect("a mount of this host has no server").0
    }

    #[track_caller]
    pub fn proxy(&self) -> &DelayProxy {
        &self.line.as_ref().expect("a mount of this host has no line").1
    }

    /// What belongs to the mount on disk.
    pub fn state_dir(&self) -> PathBuf {
        self.stead.home().join("mounts").join(&self.mount.id)
    }

    /// One process that is `role`, as soon as there is one.
    #[track_caller]
    pub fn holder(&self, role: Role) -> Holder {
        let mut found = None;
        let is_there = holds_within(VACANT_MAX, || {
            found = holders(self, role).into_iter().next();
            found.is_some()
        });
        assert!(is_there, "nobody is the {role} of the mount within {VACANT_MAX:?}");
        found.expect("it is there")
    }

    /// The process that is `role` after `former` was.
    #[track_caller]
    pub fn successor(&self, role: Role, former: &Holder) -> Holder {
        let mut found = None;
        let is_there = holds_within(VACANT_MAX, || {
            found = holders(self, role).into_iter().find(|holder| holder.pid != former.pid);
            found.is_some()
        });
        assert!(is_there, "nobody follows process {} as the {role} within {VACANT_MAX:?}", former.pid);
        found.expect("it is there")
    }

    /// Kills all that are `role` and returns once their main threads are gone, with one of them.
    #[track_caller]
    pub fn kill(&self, role: Role) -> Holder {
        self.end(role, Signal::KILL)
    }

    /// As [`Field::kill`], by another signal that ends a process.
    #[track_caller]
    pub fn end(&self, role: Role, signal: Signal) -> Holder {
        let one = self.holder(role);
        let others = holders(self, role);
        let all = [&one].into_iter().chain(&others);
        all.clone().for_each(|holder| holder.signal(signal));
        for holder in all {
            let is_gone = holder.ends_within(VACANT_MAX);
            assert!(is_gone, "the {role} outlives {signal:?}:\n{}", leftovers::stacks_of(holder.pid));
        }
        one
    }

    /// Waits until a request that only a worker can answer has been answered.
    #[track_caller]
    pub fn answers(&self) {
        // A name that nobody has asked for. By another program, because one that hangs can be ended.
        let unknown = self.dir.join(format!("unknown{}", self.asked.fetch_add(1, Ordering::Relaxed)));
        let found = Program::new("test").arg("-e").arg(unknown).deadline(VACANT_MAX).run();
        assert_eq!(found.code(), 1, "{found}");
    }

    /// What the status says of the mount. Starts a daemon when there is none.
    #[track_caller]
    pub fn status(&self) -> Option<Value> {
        self.stead.mount_status(&self.mount.id)
    }

    /// Whether the mount serves and its machine is there.
    pub fn is_active(&self) -> bool {
        self.status().is_some_and(|status| status["status"]["state"] == "active")
    }

    /// Waits until the mount is as it was at first: active, and every process has the descriptors that it began with.
    #[track_caller]
    pub fn comes_to_rest(&self, began_with: &[(Role, usize)]) {
        let is_active = holds_within(REST_DEADLINE, || self.is_active());
        assert!(is_active, "not active {REST_DEADLINE:?} after the last fault: {:?}", self.status());
        let mut now = Vec::new();
        let is_at_rest = holds_within(REST_DEADLINE, || {
            now = self.descriptors();
            now.iter().zip(began_with).all(|(now, then)| now.1 <= then.1 + DESCRIPTORS_SPARE)
        });
        assert!(is_at_rest, "descriptors are left: {began_with:?} became {now:?}");
    }

    /// How many descriptors the processes here have.
    pub fn descriptors(&self) -> Vec<(Role, usize)> {
        let roles = [Role::Daemon, Role::Keeper, Role::Worker].into_iter();
        roles.map(|role| (role, leftovers::descriptors_of(self.holder(role).pid))).collect()
    }

    /// Unmounts, stops, and panics with what is left of it, here and on the machine.
    #[track_caller]
    pub fn leaves_nothing(self) {
        match self.kind {
            Kind::Thread => drop(self.stead.ok(&["thread", "drop", THREAD, "--force"])),
            _ => self.stead.unmount(&self.mount),
        }
        self.stead.ok(&["daemon", "stop"]);
        let mut left = Vec::new();
        let is_clean = holds_within(REST_DEADLINE, || {
            left = self.left();
            left.is_empty()
        });
        assert!(is_clean, "left behind:\n{}", left.join("\n"));
    }

    fn left(&self) -> Vec<String> {
        let mut left = self.stead.left_behind();
        // Whatever has the tree open, too.
        let processes = leftovers::processes_of(self.stead.root());
        left.extend(processes.iter().map(|process| format!("{}: {}", process.pid, process.command)));
        left.extend(sockets_below(self.stead.home()));
        left.extend(["mounts", "threads"].iter().flat_map(|name| entries_of(&self.stead.home().join(name))));
        if let Some(sshd) = self.sshd() {
            left.extend(sockets_below(&sshd.runtime()));
            let processes = sshd.far_processes().into_iter();
            left.extend(
                processes.map(|process| format!("on the machine, {}: {}", process.pid, process.command)),
            );
        }
        left
    }

    /// Ends everything that uses the mount, so that nothing waits for it any more.
    pub fn give_up(&self) {
        leftovers::abort_fuse_connection(&self.dir);
        leftovers::kill(&leftovers::processes_of(self.stead.root()));
    }
}

/// A thread of a repository with some files, directories and a link.
fn make_thread(stead: &mut Stead) -> Mount {
    stead.set_env("GIT_CONFIG_GLOBAL", "/dev/null");
    let repository = stead.dir(REPOSITORY);
    git(&repository, &["init", "-q", "-b", "main"]);
    let tree = repository.join(TREE);
    for (path, content) in BASE {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("making a directory");
        std::fs::write(path, content).expect("writing a file");
    }
    std::os::unix::fs::symlink("a/b", tree.join("f")).expect("making a symlink");
    git(&repository, &["add", "-A"]);
    git(&repository, &["commit", "-qm", "first"]);
    let (repo, dir) = (repository.display().to_string(), stead.root().join("mnt"));
    let json = stead.json(&["thread", "new", THREAD, "--repo", &repo, "--at", &dir.display().to_string()]);
    let id = json["mount"].as_str().unwrap_or_else(|| panic!("a thread without a mount: {json}")).to_owned();
    Mount { id, dir, json }
}

fn git(dir: &Path, words: &[&str]) {
    let who = ["-c", "user.name=test", "-c", "user.email=test@example.org"];
    let git = Program::new("git").env("GIT_CONFIG_GLOBAL", "/dev/null").arg("-C").arg(dir);
    git.args(who).args(words).ok();
}

fn sockets_below(dir: &Path) -> Vec<String> {
    Program::new("find").arg(dir).args(["-type", "s"]).run().text().lines().map(str::to_owned).collect()
}

fn entries_of(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}
