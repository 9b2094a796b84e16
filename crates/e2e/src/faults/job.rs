//! What the processes of a workload do. Each is a process of its own, started as `soak job NAME …`, so that it ends with
//! a status, and a mapping that breaks costs a process and not the run.
//!
//! Any error that a job sees and a local disk would not have given ends it with a panic, whose message says what was
//! being done. What a job leaves in its directory depends on the seed and on nothing else, but for what [`settle`] makes
//! so.

mod append;
mod create;
mod git;
mod hold;
mod large;
mod lock;
mod map;
mod once;
mod replace;
mod sqlite;
mod sync;
mod walk;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dice::Dice;
use crate::wait::holds_within;

/// How long one member of a job waits for another.
const COMPANY_DEADLINE: Duration = Duration::from_secs(300);

/// A job, done by one or several processes at once.
pub struct Job {
    pub name: &'static str,
    /// How many processes do it.
    pub members: u32,
    /// How often, in the smallest run.
    pub rounds: u32,
    pub run: fn(&mut Task),
    /// Checks what it left and makes it comparable: removes what may differ.
    pub settle: fn(&Path, &Path),
}

/// What a process is to do.
pub struct Task {
    /// The job's own directory, on the mount.
    pub dir: PathBuf,
    /// The same directory on the machine.
    pub far: PathBuf,
    /// A directory outside of the mount, for what is to be compared afterwards.
    pub notes: PathBuf,
    pub dice: Dice,
    pub rounds: u32,
    pub member: u32,
    pub members: u32,
    /// Whether the agent may die. A file that has no name any more then goes with the agent's descriptor of it, and
    /// whoever has it open here is told with `ESTALE`.
    pub agent_may_die: bool,
}

pub const JOBS: &[Job] = &[
    job("once", 1, 60, once::run),
    Job { settle: append::settle, ..job("append", 2, 200, append::run) },
    Job { settle: create::settle, ..job("create", 2, 120, create::run) },
    job("replace", 2, 60, replace::run),
    job("walk", 2, 60, walk::run),
    job("sync", 1, 80, sync::run),
    job("map", 1, 60, map::run),
    Job { settle: lock::settle, ..job("lock", 3, 40, lock::run) },
    Job { settle: git::settle, ..job("git", 1, 4, git::run) },
    job("sqlite-wal", 1, 4, sqlite::wal),
    job("sqlite-rollback", 1, 4, sqlite::rollback),
    job("large", 1, 2, large::run),
    job("hold", 1, 1, hold::run),
];

const fn job(name: &'static str, members: u32, rounds: u32, run: fn(&mut Task)) -> Job {
    Job { name, members, rounds, run, settle: |_, _| {} }
}

/// The job that only ends when it is told that all others have.
pub const LASTING: &str = "hold";

/// The note that tells it.
pub const END: &str = "end";

impl Job {
    pub fn named(name: &str) -> Option<&'static Job> {
        JOBS.iter().find(|job| job.name == name)
    }
}

impl Task {
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Tells the other members something.
    pub fn note(&self, name: &str, text: impl AsRef<[u8]>) {
        // Written aside and renamed, so that whoever finds it finds it whole.
        let new = self.notes.join(format!("{name}.{}", self.member));
        must(std::fs::write(&new, text), "writing a note");
        must(std::fs::rename(&new, self.notes.join(name)), "placing a note");
    }

    pub fn has_note(&self, name: &str) -> bool {
        self.notes.join(name).exists()
    }

    /// Waits for another member.
    #[track_caller]
    pub fn await_note(&self, name: &str) {
        assert!(holds_within(COMPANY_DEADLINE, || self.has_note(name)), "nobody said `{name}`");
    }
}

/// What must work: the error is shown with what was being done.
#[track_caller]
pub fn must<T, E: Display>(result: Result<T, E>, what: impl Display) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}
