//! One way to reach a tree, with a tree of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use crate::stead::Mount;
use crate::{Program, Sshd, Stead, eventually, leftovers};

/// How long a mount may take to come up or go away.
const MOUNT_DEADLINE: Duration = Duration::from_secs(30);

/// What makes sshfs as fast as it gets: several connections, caches that are not checked for an hour, the cheapest
/// cipher.
const TUNED: &[&str] = &[
    "max_conns=4",
    "kernel_cache",
    "auto_cache",
    "dcache_timeout=3600",
    "attr_timeout=3600",
    "entry_timeout=3600",
    "negative_timeout=60",
    "Compression=no",
    "Ciphers=aes128-gcm@openssh.com",
];

/// What makes rclone a file system that programs can use, as fast as it gets: files kept whole here, uploads begun at
/// once, listings believed for an hour, no checksums by further logins.
const RCLONE: &[&str] = &[
    "--vfs-cache-mode=full",
    "--vfs-write-back=0s",
    "--dir-cache-time=1h",
    "--attr-timeout=1h",
    "--sftp-disable-hashcheck",
    "--config=/dev/null",
];

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The disk itself, as the measure of the possible.
    Local,
    /// Bytes through ssh with no file system around them, as the measure of the possible over the link.
    RawSsh,
    /// This program, over SSH through FUSE.
    Stead,
    /// sshfs as it comes.
    Sshfs,
    /// sshfs with [`TUNED`].
    SshfsTuned,
    /// rclone with [`RCLONE`].
    Rclone,
}

impl Kind {
    pub const ALL: [Kind; 6] =
        [Kind::Local, Kind::RawSsh, Kind::Stead, Kind::Sshfs, Kind::SshfsTuned, Kind::Rclone];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Local => "local",
            Kind::RawSsh => "ssh",
            Kind::Stead => "stead",
            Kind::Sshfs => "sshfs",
            Kind::SshfsTuned => "sshfs-tuned",
            Kind::Rclone => "rclone",
        }
    }

    /// Whether ratios are against it.
    pub fn is_peer(self) -> bool {
        matches!(self, Kind::Sshfs | Kind::SshfsTuned | Kind::Rclone)
    }
}

/// What the program says of its own work.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Requests from the kernel.
    pub requests: u64,
    /// Those that waited for something.
    pub waits: u64,
    /// Requests to the machine.
    pub round_trips: u64,
    /// Of the worker, at the end.
    pub memory_kib: u64,
    /// Requests from the kernel by what they ask for.
    pub operations: BTreeMap<String, u64>,
}

impl Counters {
    /// What came between `before` and this.
    pub fn since(&self, before: &Counters) -> Counters {
        let more = |(name, count): (&String, &u64)| {
            let count = count.saturating_sub(before.operations.get(name).copied().unwrap_or_default());
            (count > 0).then(|| (name.clone(), count))
        };
        Counters {
            requests: self.requests.saturating_sub(before.requests),
            waits: self.waits.saturating_sub(before.waits),
            round_trips: self.round_trips.saturating_sub(before.round_trips),
            memory_kib: self.memory_kib,
            operations: self.operations.iter().filter_map(more).collect(),
        }
    }
}

/// A mounted tree.
pub struct Contender {
    /// Where it is seen.
    pub dir: PathBuf,
    /// Where it is.
    pub far: PathBuf,
    pub kind: Kind,
    config: PathBuf,
    identity: PathBuf,
    known_hosts: PathBuf,
    port: u16,
    stead: Option<Stead>,
    mount: Option<Mount>,
    /// With which `stead` mounts.
    arguments: &'static [&'static str],
    peer: Option<Child>,
    /// How often it has been mounted: no cache of an earlier mount is used.
    mounts: usize,
    scratch: tempfile::TempDir,
}

impl Contender {
    /// A contender with an empty tree, mounted. `port` is that of the line to `sshd`.
    pub fn start(kind: Kind, sshd: &Sshd, port: u16) -> Contender {
        let scratch =
            tempfile::Builder::new().prefix("bench").tempdir().expect("creating a scratch directory");
        let far = scratch.path().join("far");
        let is_mounted = !matches!(kind, Kind::Local | Kind::RawSsh);
        let dir = if is_mounted { scratch.path().join("mnt") } else { far.clone() };
        for path in [&far, &dir] {
            std::fs::create_dir_all(path).expect("creating a scratch directory");
        }
        let mut contender = Contender {
            dir,
            far,
            kind,
            config: sshd.client_config(),
            identity: sshd.identity(),
            known_hosts: sshd.known_hosts(),
            port,
            stead: (kind == Kind::Stead).then(|| Stead::with_ssh(sshd)),
            mount: None,
            arguments: &[],
            peer: None,
            mounts: 0,
            scratch,
        };
        contender.mount();
        contender
    }

    /// Forgets everything that this side knows of the tree.
    pub fn make_cold(&mut self) {
        self.unmount();
        drop_caches();
        self.mount();
    }

    /// Mounts again if it is this program and has other arguments now.
    pub fn use_arguments(&mut self, arguments: &'static [&'static str]) {
        if self.kind == Kind::Stead && self.arguments != arguments {
            self.unmount();
            self.arguments = arguments;
            self.mount();
        }
    }

    /// The tree was changed on the far side. Who is not told of that, and would not look for an hour, is mounted again.
    pub fn far_has_changed(&mut self) {
        if self.kind == Kind::Rclone {
            self.make_cold();
        }
    }

    /// A directory of this computer's own disk that goes away with the contender.
    pub fn local(&self) -> PathBuf {
        let local = self.scratch.path().join("local");
        std::fs::create_dir_all(&local).expect("creating a scratch directory");
        local
    }

    /// `script` in a shell, so that bytes pass between processes and not through here. `"$@"` in it is the command `far`
    /// on the machine, through the connection that is open.
    pub fn shell(&self, script: &str, far: &str) -> Program {
        self.ssh(Program::new("sh").args(["-c", script, "sh", "ssh"])).args(["box", far])
    }

    fn ssh(&self, program: Program) -> Program {
        program.arg("-F").arg(&self.config).arg("-S").arg(self.control_path())
    }

    /// This program's counters, if it is this program.
    pub fn counters(&self) -> Option<Counters> {
        let status = self.stead.as_ref()?.mount_status(&self.mount.as_ref()?.id)?;
        let counter = |name: &str| status["counters"][name].as_u64().unwrap_or_default();
        let operations = status["operations"].as_object().into_iter().flatten();
        let worker = status["worker"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        Some(Counters {
            requests: counter("requests"),
            waits: counter("requests").saturating_sub(counter("hits")),
            round_trips: counter("round_trips"),
            memory_kib: worker.and_then(leftovers::resident_kib).unwrap_or_default(),
            operations: operations
                .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
                .collect(),
        })
    }

    fn control_path(&self) -> PathBuf {
        self.scratch.path().join("s")
    }

    fn mount(&mut self) {
        self.mounts += 1;
        match self.kind {
            Kind::Local => {}
            Kind::RawSsh => self.open_connection(),
            Kind::Stead => {
                let source = format!("ssh://box{}", self.far.display());
                self.mount = self.stead.as_ref().map(|stead| stead.mount(source, &self.dir, self.arguments));
            }
            Kind::Sshfs => self.mount_peer(self.sshfs(&[])),
            Kind::SshfsTuned => self.mount_peer(self.sshfs(TUNED)),
            Kind::Rclone => self.mount_peer(self.rclone()),
        }
    }

    fn sshfs(&self, options: &[&str]) -> Program {
        let source = format!("box:{}", self.far.display());
        let program = Program::new("sshfs").arg("-f").arg("-F").arg(&self.config).arg(source).arg(&self.dir);
        program.args(options.iter().flat_map(|option| ["-o", option]))
    }

    fn rclone(&self) -> Program {
        let user = Program::new("id").arg("-un").ok().text();
        let cache = self.scratch.path().join(format!("cache{}", self.mounts));
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        Program::new("rclone")
            .arg("mount")
            .arg(format!(":sftp:{}", self.far.display()))
            .arg(&self.dir)
            .args(RCLONE)
            .args(["--sftp-host=127.0.0.1".to_owned(), format!("--sftp-port={}", self.port)])
            .arg(format!("--sftp-user={}", user.trim()))
            .arg(option("sftp-key-file", &self.identity))
            .arg(option("sftp-known-hosts-file", &self.known_hosts))
            .arg(option("cache-dir", &cache))
    }

    fn mount_peer(&mut self, program: Program) {
        self.peer = Some(program.spawn());
        eventually(MOUNT_DEADLINE, "the peer is mounted", || {
            leftovers::mounts_below(&self.dir).contains(&self.dir)
        });
        eventually(MOUNT_DEADLINE, "the peer answers", || self.dir.read_dir().is_ok());
    }

    fn open_connection(&mut self) {
        self.peer = Some(self.ssh(Program::new("ssh")).args(["-M", "-N", "box"]).spawn());
        eventually(MOUNT_DEADLINE, "the connection is open", || self.control_path().exists());
    }

    fn unmount(&mut self) {
        if let (Some(stead), Some(mount)) = (&self.stead, self.mount.take()) {
            stead.unmount(&mount);
        }
        if let Some(mut child) = self.peer.take() {
            if self.kind == Kind::RawSsh {
                self.ssh(Program::new("ssh")).args(["-O", "exit", "box"]).ok();
            } else {
                Program::new("fusermount3").arg("-u").arg(&self.dir).ok();
            }
            child.wait().expect("reaping a peer");
        }
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(mut child) = self.peer.take() {
            leftovers::detach_mounts(self.scratch.path());
            let _gone = child.kill();
            let _reaped = child.wait();
        }
        // The installation unmounts what is its own, and it must do so before the directory is removed.
        if let (Some(stead), Some(mount)) = (&self.stead, &self.mount) {
            stead.unmount(mount);
        }
        self.stead = None;
    }
}

/// Drops the page cache, names and inodes, after everything dirty has been written.
pub fn drop_caches() {
    rustix::fs::sync();
    let _only_root_may = std::fs::write("/proc/sys/vm/drop_caches", "3");
}
