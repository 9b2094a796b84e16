//! A clone, branches and commits.

use std::fs;
use std::path::Path;

use crate::Program;
use crate::faults::job::{COMPANY_DEADLINE, Task, must};

const FILES: usize = 40;

pub fn run(task: &mut Task) {
    // The origin lies beside the clone, so that both are made and read through the mount.
    let (origin, clone) = (task.path("origin"), task.path("clone"));
    must(fs::create_dir(&origin), "mkdir");
    git(&origin).args(["init", "-q", "-b", "master", "."]).ok();
    commit(task, &origin, "first");
    commit(task, &origin, "second");
    git(&task.dir).args(["clone", "-q", "--no-local", "origin", "clone"]).ok();
    for round in 0..task.rounds {
        git(&clone).args(["checkout", "-qb", &format!("side{round}")]).ok();
        commit(task, &clone, &format!("side {round}"));
        git(&clone).args(["checkout", "-q", "master"]).ok();
        git(&clone).args(["merge", "-q", "--no-ff", "-m", "merge", &format!("side{round}")]).ok();
    }
    for repository in [&origin, &clone] {
        let status = git(repository).args(["status", "--porcelain"]).ok().text();
        assert_eq!(status, "", "what git sees after the last commit");
        git(repository).args(["fsck", "--strict", "--full"]).ok();
    }
}

fn commit(task: &mut Task, repository: &Path, message: &str) {
    for _ in 0..FILES {
        let number = task.dice.below(200);
        let dir = repository.join(format!("dir{}", number % 7));
        must(fs::create_dir_all(&dir), "mkdir in a repository");
        let text = format!("{message} {number} {}\n", task.dice.draw()).repeat(3);
        must(fs::write(dir.join(format!("file{number}")), text), "writing in a repository");
    }
    git(repository).args(["add", "-A"]).ok();
    git(repository).args(["commit", "-qm", message]).ok();
}

/// An index tells inode numbers and times, and a clone tells where it came from: what is in them is checked by git.
pub fn settle(dir: &Path, _notes: &Path) {
    for name in ["origin", "clone"] {
        let repository = dir.join(name);
        git(&repository).args(["fsck", "--strict", "--full"]).ok();
        assert_eq!(git(&repository).args(["status", "--porcelain"]).ok().text(), "", "on the machine");
        must(fs::remove_file(repository.join(".git/index")), "removing an index");
    }
    let clone = dir.join("clone");
    git(&clone).args(["remote", "set-url", "origin", "../origin"]).ok();
    must(fs::remove_dir_all(clone.join(".git/logs")), "removing the logs of a clone");
}

/// git without anybody's configuration, whose commits are the same at every time.
fn git(dir: &Path) -> Program {
    let settings = [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ("GIT_AUTHOR_NAME", "e2e"),
        ("GIT_AUTHOR_EMAIL", "e2e@localhost"),
        ("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z"),
        ("GIT_COMMITTER_NAME", "e2e"),
        ("GIT_COMMITTER_EMAIL", "e2e@localhost"),
        ("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z"),
    ];
    // One thread packs in one order.
    let program = Program::new("git").args(["-c", "gc.auto=0", "-c", "pack.threads=1", "-C"]).arg(dir);
    let program = settings.iter().fold(program, |program, (key, value)| program.env(key, value));
    let program = program.deadline(COMPANY_DEADLINE);
    ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"]
        .iter()
        .fold(program, |program, key| program.without_env(key))
}
