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
    assert_eq!(leftover(&bench.objects, bench.scratch.path()).expect("looked"), Some(registration.clone()));
    let at = Path::new("/elsewhere");
    place(&registration, at).expect("placed");
    assert_eq!(leftover(&bench.objects, bench.scratch.path()).expect("looked"), None);
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
    assert_eq!(leftover(&bench.objects, bench.scratch.path()).expect("looked"), None);
    assert_eq!(reference(&bench.objects, "refs/heads/fix").expect("looked"), Some(bench.commit));
    assert_eq!(reference(&bench.objects, "refs/heads/other").expect("looked"), None);
}

#[test]
fn a_branch_goes_when_it_is_where_it_should_be() {
    let bench = Bench::new();
    let registration = bench.register().expect("registered").directory;
    unregister(&registration, &[bench.scratch.path()]).expect("it has the branch no more");
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
fn commits_of_a_head_that_is_on_no_branch_are_known() {
    let bench = Bench::new();
    let registration = bench.register().expect("registered").directory;
    let inside = Repository::at(&bench.aside());
    let is_loose = || has_loose_commits(&bench.objects, &registration).expect("looked");
    assert!(!is_loose());
    inside.git(&["checkout", "-q", "--detach"]);
    assert!(!is_loose(), "it is the branch's yet");
    inside.git(&["commit", "-q", "--allow-empty", "-m", "loose"]);
    assert!(is_loose());
    inside.git(&["update-ref", "refs/stead/threads/fix", "HEAD"]);
    assert!(!is_loose(), "it is captured");
    inside.git(&["update-ref", "-d", "refs/stead/threads/fix"]);
    inside.git(&["checkout", "-q", "--orphan", "unborn"]);
    assert!(!is_loose(), "no commit at all");
    assert!(!has_loose_commits(&bench.objects, Path::new("/nowhere")).expect("looked"));
}

#[test]
fn repositories_of_submodules_are_known() {
    let bench = Bench::new();
    let registration = bench.register().expect("registered").directory;
    assert!(!has_submodules(&registration).expect("looked"));
    std::fs::create_dir_all(registration.join("modules")).expect("made");
    assert!(!has_submodules(&registration).expect("looked"), "it is empty");
    std::fs::create_dir_all(registration.join("modules/lib")).expect("made");
    assert!(has_submodules(&registration).expect("looked"));
}

#[test]
fn a_branch_that_is_checked_out_stays() {
    let bench = Bench::new();
    bench.repository.git(&["checkout", "-q", "-b", "fix"]);
    let copy = bench.repository.path().canonicalize().expect("there");
    assert_eq!(checked_out(&bench.objects, "fix").expect("looked"), Some(copy));
    assert_eq!(checked_out(&bench.objects, "main").expect("looked"), None);
    delete_branch(&bench.objects, "fix", &bench.commit).expect("left");
    assert_eq!(reference(&bench.objects, "refs/heads/fix").expect("looked"), Some(bench.commit));
}

#[test]
fn a_worktree_of_a_sparse_one_shows_all() {
    let bench = Bench::new();
    bench.repository.git(&["sparse-checkout", "set", "dir"]);
    assert!(!bench.repository.path().join("more").exists(), "it is sparse");
    let registration = bench.register().expect("registered").directory;
    assert!(!registration.join("info/sparse-checkout").exists());
    let inside = Repository::at(&bench.aside());
    inside.git(&["reset", "-q", "--hard"]);
    assert!(bench.aside().join("more/same").exists());
    assert_eq!(inside.git(&["ls-files", "-t"]).lines().filter(|line| line.starts_with('S')).count(), 0);
    assert!(!bench.repository.path().join("more").exists(), "it is sparse yet");
}

#[test]
fn a_pointer_leads_to_one_registration() {
    let bench = Bench::new();
    let Registration { directory, pointer } = bench.register().expect("registered");
    let at = bench.repository.path().join("dir");
    assert!(leads_to(&pointer, &at, &directory));
    assert!(leads_to(b"gitdir: ../.git/worktrees/fix\n", &at, &directory));
    for other in
        [&b"gitdir: ../.git\n"[..], b"gitdir: /nowhere\n", b"", b"gitdir: \n", &pointer[..pointer.len() - 1]]
    {
        assert!(!leads_to(other, &at, &directory), "{}", other.escape_ascii());
    }
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

#[test]
fn worktrees_that_are_made_at_once_are_all_made() {
    let bench = Bench::new();
    let make = &|number: usize| {
        let (name, objects) = (format!("t{number}"), &bench.objects);
        let aside = bench.scratch.path().join(&name);
        let held = File::open("/dev/null").expect("opened");
        let made = register(objects, &aside, &name, &bench.commit, held).expect("registered");
        checked_out(objects, &name).expect("looked").expect("it is");
        unregister(&made.directory, &[aside.as_path()]).expect("removed");
    };
    std::thread::scope(|scope| (0..12).for_each(|number| drop(scope.spawn(move || make(number)))));
    assert!(!bench.repository.path().join(".git/worktrees").exists());
}

#[test]
fn a_registration_that_was_left_half_way_between_file_systems_is_whole() {
    let bench = Bench::new();
    let registration = bench.register().expect("registered").directory;
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
    let (places, to) = ([bench.scratch.path()], other.path().join("registration"));
    let names = |dir: &Path| -> Vec<_> {
        std::fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect()
    };
    let copy = |from: &Path, to: &Path| {
        let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.expect("cp runs").success());
    };
    let repository = bench.repository.path().join(".git");
    let before = names(&repository).len();
    // Who died has copied it, and has half of another.
    copy(&registration, &to);
    std::fs::create_dir_all(other.path().join("registration.half/x")).expect("made");
    std::fs::create_dir_all(repository.join("stead-worktree-fix.half/x")).expect("made");
    std::fs::create_dir_all(repository.join("stead-worktree-fix.gone/x")).expect("made");
    aside::put_aside(&registration, &places, &to).expect("put aside");
    assert!(!registration.exists());
    assert_eq!(names(other.path()), ["registration"]);
    assert_eq!(names(&repository).len(), before - 1, "its worktrees have gone with the last");
    aside::bring_back(&to, &registration).expect("had back");
    assert!(registration.join("HEAD").exists() && registration.join(GITDIR).exists());
    assert_eq!(names(&repository.join("worktrees")), ["fix"]);
    assert_eq!(names(&repository).len(), before);
    assert!(names(other.path()).is_empty());
}
