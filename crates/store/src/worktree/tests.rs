use std::path::PathBuf;

use super::*;
use crate::Hash;
use crate::testing::{Repository, repository};

struct Bench {
    repository: Repository,
    objects: Objects,
    scratch: tempfile::TempDir,
    commit: Oid,
}

impl Bench {
    fn new() -> Bench {
        let repository = repository(Hash::Sha1);
        let objects = Objects::discover(repository.path()).expect("a repository");
        let commit = objects.resolve("HEAD").expect("a commit").commit;
        Bench { repository, objects, scratch: tempfile::tempdir().expect("a directory"), commit }
    }

    fn aside(&self) -> PathBuf {
        self.scratch.path().join("aside/fix")
    }

    fn register(&self) -> Result<Registration> {
        std::fs::create_dir_all(self.scratch.path().join("aside")).expect("made");
        let held = File::open("/dev/null").expect("opened");
        register(&self.objects, &self.aside(), "fix", &self.commit, held)
    }
}

#[test]
fn git_knows_the_worktree_and_does_not_prune_it() {
    let bench = Bench::new();
    let registration = bench.register().expect("registered");
    assert_eq!(registration.directory, bench.repository.path().join(".git/worktrees/fix"));
    let at = bench.scratch.path().join("where it is shown");
    place(&registration.directory, &at).expect("placed");
    std::fs::remove_dir_all(bench.aside()).expect("removed");
    bench.repository.git(&["worktree", "prune", "--expire=now"]);
    let listed = bench.repository.git(&["worktree", "list", "--porcelain"]);
    for line in [format!("worktree {}", at.display()), "branch refs/heads/fix".to_owned()] {
        assert!(listed.lines().any(|other| other == line), "{line} in {listed}");
    }
    // The pointer is all that git needs.
    std::fs::create_dir(&at).expect("made");
    std::fs::write(at.join(".git"), &registration.pointer).expect("written");
    let inside = Repository::at(&at);
    assert_eq!(inside.git(&["rev-parse", "--abbrev-ref", "HEAD"]), "fix\n");
    assert_eq!(inside.git(&["rev-parse", "HEAD"]).trim(), bench.commit.to_string());
}

#[test]
fn a_registration_goes_only_while_it_is_of_the_thread() {
    let bench = Bench::new();
    let registration = bench.register().expect("registered").directory;
    assert_eq!(
        leftover(&bench.objects, &[bench.scratch.path()]).expect("looked"),
        Some(registration.clone())
    );
    let at = Path::new("/elsewhere");
    place(&registration, at).expect("placed");
    assert_eq!(leftover(&bench.objects, &[bench.scratch.path()]).expect("looked"), None);
    unregister(&registration, &[bench.scratch.path()]).expect("left");
    assert!(registration.exists());
    unregister(&registration, &[bench.scratch.path(), at]).expect("removed");
    assert!(!registration.exists());
    assert!(!bench.repository.path().join(".git/worktrees").exists());
    unregister(&registration, &[at]).expect("it is gone");
}

#[test]
fn a_branch_that_is_there_is_not_taken() {
    let bench = Bench::new();
    bench.repository.git(&["branch", "fix"]);
    let error = bench.register().expect_err("it is there");
    assert!(error.to_string().contains("already exists"), "{error}");
    assert_eq!(leftover(&bench.objects, &[bench.scratch.path()]).expect("looked"), None);
    assert_eq!(reference(&bench.objects, "refs/heads/fix").expect("looked"), Some(bench.commit));
    assert_eq!(reference(&bench.objects, "refs/heads/other").expect("looked"), None);
}

#[test]
fn a_branch_goes_when_it_is_where_it_should_be() {
    let bench = Bench::new();
    bench.register().expect("registered");
    bench.repository.git(&["config", "branch.fix.remote", "origin"]);
    let has_own = |at: &Oid| has_own_commits(&bench.objects, "fix", at, &bench.commit).expect("looked");
    assert!(!has_own(&bench.commit));
    let tree = bench.repository.git(&["rev-parse", "HEAD^{tree}"]);
    let own = bench.repository.git(&["commit-tree", "-p", "HEAD", "-m", "own", tree.trim()]);
    let own = Oid::from_hex(own.trim().as_bytes()).expect("a commit");
    bench.repository.git(&["update-ref", "refs/heads/fix", &own.to_string()]);
    assert!(has_own(&own));
    delete_branch(&bench.objects, "fix", &bench.commit).expect_err("it is elsewhere");
    bench.repository.git(&["branch", "merged", &own.to_string()]);
    assert!(!has_own(&own), "another branch has them");
    delete_branch(&bench.objects, "fix", &own).expect("deleted");
    assert_eq!(reference(&bench.objects, "refs/heads/fix").expect("looked"), None);
    assert!(!bench.repository.git(&["config", "--list"]).contains("branch.fix"));
}

#[test]
fn what_is_not_committed_and_not_ignored_is_a_change() {
    let bench = Bench::new();
    let path = bench.repository.path();
    bench.repository.write(".git/info/exclude", b"ignored\n");
    bench.repository.write("ignored/file", b"");
    assert!(!is_changed(path).expect("looked"));
    bench.repository.write("new", b"");
    assert!(is_changed(path).expect("looked"));
    is_changed(bench.scratch.path()).expect_err("no worktree");
}

#[test]
fn a_repository_is_known_by_its_working_copy() {
    let bench = Bench::new();
    let deep = bench.repository.path().join("dir/deep");
    let objects = Objects::discover(&deep).expect("a repository");
    assert_eq!(working_copy(&objects, &deep), bench.repository.path());
    let bare = bench.scratch.path().join("app.git");
    bench.repository.git(&["clone", "-q", "--bare", ".", bare.to_str().expect("text")]);
    let objects = Objects::discover(&bare).expect("a repository");
    assert_eq!(working_copy(&objects, &bare), bare);
}
