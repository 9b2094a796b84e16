//! A working copy of a repository, and the ways to have one more.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Size;
use crate::bench::rows::write_source_of;
use crate::{Finished, Program, Stead, leftovers};

/// No step takes this long.
const DEADLINE: Duration = Duration::from_secs(1200);

/// Lines of a file of the repository at most: a kilobyte on average.
const LINES_MAX: usize = 70;

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A clone on the local disk: what ratios are to.
    Disk,
    /// `git worktree`.
    Worktree,
    /// An overlay over another clone, which is there already.
    Overlay,
    /// A thread.
    Stead,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Disk, Kind::Worktree, Kind::Overlay, Kind::Stead];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Disk => "disk",
            Kind::Worktree => "worktree",
            Kind::Overlay => "overlay",
            Kind::Stead => "stead",
        }
    }
}

/// The repository, packed as one that was cloned.
pub struct Repository {
    scratch: tempfile::TempDir,
    files: usize,
}

impl Repository {
    pub fn new(files: usize) -> Repository {
        let scratch =
            tempfile::Builder::new().prefix("bench").tempdir().expect("creating a scratch directory");
        let repository = Repository { scratch, files };
        let dir = repository.dir();
        write_source_of(&dir, files, LINES_MAX);
        git(&dir, &["init", "-q", "-b", "main", "."]);
        // Captures are made by who the repository says.
        git(&dir, &["config", "user.name", "bench"]);
        git(&dir, &["config", "user.email", "bench@localhost"]);
        git(&dir, &["add", "-A"]);
        git(&dir, &["commit", "-qm", "all"]);
        git(&dir, &["gc", "-q"]);
        repository
    }

    pub fn dir(&self) -> PathBuf {
        self.scratch.path().join("app")
    }

    /// One of its files.
    pub fn file(&self) -> PathBuf {
        crate::bench::rows::source_path(self.files / 2)
    }
}

/// Where workspaces of one run are.
pub struct Ground<'a> {
    pub repository: &'a Repository,
    pub stead: Stead,
    pub size: Size,
    made: AtomicUsize,
}

impl Ground<'_> {
    /// With a daemon that runs.
    pub fn new(repository: &Repository, size: Size) -> Ground<'_> {
        let mut stead = Stead::new();
        stead.set_env("GIT_CONFIG_GLOBAL", "/dev/null");
        stead.ok(&["status"]);
        Ground { repository, stead, size, made: AtomicUsize::new(0) }
    }

    /// What an overlay lies over: one for all of them.
    fn lower(&self) -> PathBuf {
        let lower = self.stead.root().join("lower");
        if !lower.exists() {
            clone(&self.repository.dir(), &lower);
        }
        lower
    }

    pub fn stead(&self, args: &[&str]) -> Finished {
        self.stead.program().args(args).cwd(self.repository.dir()).deadline(DEADLINE).ok()
    }
}

/// A working copy.
pub struct Workspace {
    pub kind: Kind,
    pub name: String,
    pub dir: PathBuf,
}

impl Workspace {
    /// One more, of a name that nobody had.
    pub fn new(ground: &Ground<'_>, kind: Kind) -> Workspace {
        let space = Workspace::planned(ground, kind);
        space.make(ground);
        space
    }

    /// Its name and place. What has to be there before is.
    pub fn planned(ground: &Ground<'_>, kind: Kind) -> Workspace {
        let name = format!("{}{}", kind.name(), ground.made.fetch_add(1, Ordering::Relaxed));
        let dir = ground.stead.root().join(&name);
        if kind == Kind::Overlay {
            ground.lower();
        }
        Workspace { kind, name, dir }
    }

    pub fn make(&self, ground: &Ground<'_>) {
        let Workspace { kind, name, dir } = self;
        let from = ground.repository.dir();
        let shown = dir.display().to_string();
        match kind {
            Kind::Disk => clone(&from, dir),
            Kind::Worktree => git(&from, &["worktree", "add", "-q", "-b", name, &shown]),
            Kind::Overlay => self.mount_overlay(&ground.lower()),
            Kind::Stead => drop(ground.stead(&["thread", "new", name, "--at", &shown])),
        }
    }

    fn mount_overlay(&self, lower: &Path) {
        let parts = ["upper", "work"].map(|part| self.dir.with_extension(part));
        parts.iter().chain([&self.dir]).for_each(|dir| std::fs::create_dir(dir).expect("making a directory"));
        let [upper, work] = parts.map(|part| part.display().to_string());
        let options = format!("lowerdir={},upperdir={upper},workdir={work}", lower.display());
        Program::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&self.dir).ok();
    }

    /// Without a trace, whatever is in it.
    pub fn remove(&self, ground: &Ground<'_>) {
        let Workspace { kind, name, dir } = self;
        let from = ground.repository.dir();
        let remove = |dir: &Path| std::fs::remove_dir_all(dir).expect("removing a workspace");
        match kind {
            Kind::Disk => remove(dir),
            Kind::Worktree => {
                git(&from, &["worktree", "remove", "--force", &dir.display().to_string()]);
                git(&from, &["branch", "-qD", name]);
            }
            Kind::Overlay => {
                Program::new("umount").arg(dir).ok();
                remove(&dir.with_extension("upper"));
                remove(&dir.with_extension("work"));
                remove(dir);
            }
            Kind::Stead => drop(ground.stead(&["thread", "drop", name, "--force"])),
        }
    }

    /// What it takes on the disk beside the repository's own objects, in KiB.
    pub fn disk_kib(&self, ground: &Ground<'_>) -> u64 {
        let registration = ground.repository.dir().join(".git/worktrees").join(&self.name);
        let paths = match self.kind {
            Kind::Disk => vec![self.dir.clone()],
            Kind::Worktree => vec![self.dir.clone(), registration],
            Kind::Overlay => vec![self.dir.with_extension("upper")],
            Kind::Stead => vec![ground.stead.home().join("threads").join(&self.name), registration],
        };
        let used = Program::new("du").args(["-skc"]).args(&paths).deadline(DEADLINE).ok().text();
        let total = used.lines().last().and_then(|line| line.split_whitespace().next()?.parse().ok());
        total.expect("du says how much it is in all")
    }

    /// What the worker of a thread has in memory, in MiB.
    pub fn worker_mib(&self, ground: &Ground<'_>) -> f64 {
        let status = ground.stead.status();
        let mounts = status["mounts"].as_array().expect("mounts");
        let own = mounts.iter().find(|mount| mount["dir"].as_str() == self.dir.to_str());
        let pid =
            own.and_then(|mount| mount["worker"]["pid"].as_i64()).and_then(|pid| i32::try_from(pid).ok());
        let kib = pid.and_then(leftovers::resident_kib).expect("a worker that runs");
        kib as f64 / 1024.0
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Nobody else knows of it.
        if self.kind == Kind::Overlay {
            leftovers::detach_mounts(&self.dir);
        }
    }
}

/// What all processes of an installation have in memory for themselves, in MiB: what they share counts once.
pub fn memory_mib(ground: &Ground<'_>) -> f64 {
    let of = |process: &leftovers::Process| {
        let path = format!("/proc/{}/smaps_rollup", process.pid.as_raw_pid());
        let rollup = std::fs::read_to_string(path).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    ground.stead.processes().iter().map(of).sum::<f64>() / 1024.0
}

fn clone(from: &Path, to: &Path) {
    git(from, &["clone", "-q", ".", &to.display().to_string()]);
}

/// git without anybody's configuration.
pub fn git(dir: &Path, words: &[&str]) {
    git_program(dir).args(words).ok();
}

pub fn git_program(dir: &Path) -> Program {
    let who = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"];
    let program = Program::new("git").arg("-C").arg(dir).args(who);
    program.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").deadline(DEADLINE)
}
