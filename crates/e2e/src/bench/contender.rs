//! One way to reach a tree, with a tree of its own.

use std::path::PathBuf;
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

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The disk itself, as the measure of the possible.
    Local,
    /// This program, over SSH through FUSE.
    Stead,
    /// sshfs as it comes.
    Sshfs,
    /// sshfs with [`TUNED`].
    SshfsTuned,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Local, Kind::Stead, Kind::Sshfs, Kind::SshfsTuned];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Local => "local",
            Kind::Stead => "stead",
            Kind::Sshfs => "sshfs",
            Kind::SshfsTuned => "sshfs-tuned",
        }
    }
}

/// What the program says of its own work.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    pub requests: u64,
    pub round_trips: u64,
}

/// A mounted tree.
pub struct Contender {
    /// Where it is seen.
    pub dir: PathBuf,
    /// Where it is.
    pub far: PathBuf,
    kind: Kind,
    config: PathBuf,
    stead: Option<Stead>,
    mount: Option<Mount>,
    sshfs: Option<Child>,
    scratch: tempfile::TempDir,
}

impl Contender {
    /// A contender with an empty tree, mounted.
    pub fn start(kind: Kind, sshd: &Sshd) -> Contender {
        let scratch =
            tempfile::Builder::new().prefix("bench").tempdir().expect("creating a scratch directory");
        let far = scratch.path().join("far");
        let dir = if kind == Kind::Local { far.clone() } else { scratch.path().join("mnt") };
        for path in [&far, &dir] {
            std::fs::create_dir_all(path).expect("creating a scratch directory");
        }
        let stead = (kind == Kind::Stead).then(|| Stead::with_ssh(sshd));
        let config = sshd.client_config();
        let mut contender = Contender { dir, far, kind, config, stead, mount: None, sshfs: None, scratch };
        contender.mount();
        contender
    }

    /// Forgets everything that this side knows of the tree.
    pub fn make_cold(&mut self) {
        self.unmount();
        drop_caches();
        self.mount();
    }

    /// This program's counters, if it is this program.
    pub fn counters(&self) -> Option<Counters> {
        let status = self.stead.as_ref()?.mount_status(&self.mount.as_ref()?.id)?;
        let counter = |name: &str| status["counters"][name].as_u64().unwrap_or_default();
        Some(Counters { requests: counter("requests"), round_trips: counter("round_trips") })
    }

    fn mount(&mut self) {
        match self.kind {
            Kind::Local => {}
            Kind::Stead => {
                let source = format!("ssh://box{}", self.far.display());
                self.mount = self.stead.as_ref().map(|stead| stead.mount(source, &self.dir, &[]));
            }
            Kind::Sshfs => self.mount_sshfs(&[]),
            Kind::SshfsTuned => self.mount_sshfs(TUNED),
        }
    }

    fn mount_sshfs(&mut self, options: &[&str]) {
        let source = format!("box:{}", self.far.display());
        let program = Program::new("sshfs").arg("-f").arg("-F").arg(&self.config).arg(source).arg(&self.dir);
        let options = options.iter().flat_map(|option| ["-o", option]);
        self.sshfs = Some(program.args(options).spawn());
        eventually(MOUNT_DEADLINE, "sshfs is mounted", || {
            leftovers::mounts_below(&self.dir).contains(&self.dir)
        });
        eventually(MOUNT_DEADLINE, "sshfs answers", || self.dir.read_dir().is_ok());
    }

    fn unmount(&mut self) {
        if let (Some(stead), Some(mount)) = (&self.stead, self.mount.take()) {
            stead.unmount(&mount);
        }
        if let Some(mut child) = self.sshfs.take() {
            Program::new("fusermount3").arg("-u").arg(&self.dir).ok();
            child.wait().expect("reaping sshfs");
        }
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(mut child) = self.sshfs.take() {
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
fn drop_caches() {
    rustix::fs::sync();
    let _only_root_may = std::fs::write("/proc/sys/vm/drop_caches", "3");
}
