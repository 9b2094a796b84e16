use std::path::Path;

use e2e::{Program, suites};

/// Enough for packs, trees of several levels and a `gc` that has work.
const COMMITS: usize = 20;
const FILES: usize = 300;

suites! {
    fn git_clones_checks_and_collects(p) {
        let origin = tempfile::tempdir().unwrap();
        make_repository(origin.path());
        let clone = p.path("clone");
        git(&p.dir).args(["clone", "-q", "--no-local"]).arg(origin.path()).arg(&clone).ok();
        check(&clone);
        assert_eq!(git(&clone).args(["rev-list", "--count", "HEAD"]).ok().text().trim(), COMMITS.to_string());

        std::fs::write(clone.join("dir0/file0"), "changed on the mount\n").unwrap();
        std::fs::write(clone.join("new file"), "new\n").unwrap();
        assert_eq!(git(&clone).args(["status", "--porcelain"]).ok().text(), " M dir0/file0\n?? \"new file\"\n");
        git(&clone).args(["add", "-A"]).ok();
        git(&clone).args(["commit", "-qm", "on the mount"]).ok();

        git(&clone).args(["checkout", "-qb", "side", "HEAD~5"]).ok();
        std::fs::write(clone.join("side"), "side\n").unwrap();
        git(&clone).args(["add", "side"]).ok();
        git(&clone).args(["commit", "-qm", "side"]).ok();
        git(&clone).args(["rebase", "-q", "master"]).ok();
        git(&clone).args(["worktree", "add", "-q", "../worktree", "HEAD~3"]).ok();
        check(&p.path("worktree"));

        git(&clone).args(["gc", "-q", "--aggressive", "--prune=now"]).ok();
        check(&clone);
        git(&clone).args(["push", "-q", "origin", "HEAD:refs/heads/from-the-mount"]).ok();
        git(origin.path()).args(["fsck", "--strict"]).ok();
        let there = p.far_path("clone");
        assert_eq!(
            git(&there).args(["rev-parse", "side"]).ok().text(),
            git(origin.path()).args(["rev-parse", "from-the-mount"]).ok().text()
        );
    }

    fn a_repository_lives_on_the_place(p) {
        make_repository(&p.dir);
        check(&p.dir);
        git(&p.dir).args(["repack", "-adq"]).ok();
        check(&p.dir);
        git(&p.far).args(["fsck", "--strict"]).ok();
    }
}

fn check(repository: &Path) {
    git(repository).args(["fsck", "--strict", "--full"]).ok();
    assert_eq!(git(repository).args(["status", "--porcelain"]).ok().text(), "");
}

fn make_repository(dir: &Path) {
    git(dir).args(["init", "-q", "-b", "master", "."]).ok();
    for number in 0..FILES {
        let sub = dir.join(format!("dir{}", number % 10));
        std::fs::create_dir_all(&sub).unwrap();
        std::fs::write(sub.join(format!("file{number}")), format!("file {number}\n").repeat(number + 1))
            .unwrap();
    }
    for commit in 0..COMMITS {
        std::fs::write(dir.join("log"), format!("commit {commit}\n").repeat(commit + 1)).unwrap();
        git(dir).args(["add", "-A"]).ok();
        git(dir).args(["commit", "-qm", &format!("commit {commit}")]).ok();
    }
}

/// git without anybody's configuration.
fn git(dir: &Path) -> Program {
    let mut program = Program::new("git").arg("-C").arg(dir);
    for (key, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ("GIT_AUTHOR_NAME", "e2e"),
        ("GIT_AUTHOR_EMAIL", "e2e@localhost"),
        ("GIT_COMMITTER_NAME", "e2e"),
        ("GIT_COMMITTER_EMAIL", "e2e@localhost"),
    ] {
        program = program.env(key, value);
    }
    ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"]
        .iter()
        .fold(program, |program, key| program.without_env(key))
}
