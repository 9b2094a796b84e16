use super::*;
use crate::testing::{Repository, repository};

fn objects_of(repository: &Repository) -> Objects {
    Objects::discover(repository.path()).expect("a repository")
}

fn references(objects: &Objects) -> References<'_> {
    References::of(objects).expect("they are in files")
}

/// What git says is below a name.
fn said_by_git(repository: &Repository, below: &str) -> Vec<(String, Oid)> {
    let said = repository.git(&["for-each-ref", "--format=%(refname) %(objectname)", below]);
    let lines = said.lines().map(|line| line.split_once(' ').expect("two words"));
    lines.map(|(name, oid)| (name.to_owned(), Oid::from_hex(oid.as_bytes()).expect("a hash"))).collect()
}

#[test]
fn references_are_what_git_says_wherever_they_are() {
    for hash in [Hash::Sha1, Hash::Sha256] {
        let repository = repository(hash);
        let first = repository.git(&["rev-parse", "HEAD"]);
        for name in ["a", "a-b", "deep/er/b", "z"] {
            repository.git(&["branch", name]);
        }
        repository.git(&["tag", "-a", "-m", "a tag", "v1"]);
        repository.git(&["pack-refs", "--all"]);
        let objects = objects_of(&repository);
        let same = |below: &str| {
            let found = references(&objects).below(below).expect("known");
            assert_eq!(found, said_by_git(&repository, below), "{below}");
            for (name, oid) in &found {
                assert_eq!(references(&objects).find(name), Some(Some(*oid)), "{name}");
            }
            found.len()
        };
        assert_eq!((same("refs/heads/"), same("refs/heads/deep/"), same("refs/tags/")), (5, 1, 1));
        repository.write("file", b"changed\n");
        repository.commit("second");
        repository.git(&["branch", "-f", "a"]);
        repository.git(&["branch", "-D", "z"]);
        repository.git(&["branch", "deep/er/c", first.trim()]);
        assert_eq!((same("refs/heads/"), same("refs/heads/a/"), same("refs/none/")), (5, 0, 0));
        for absent in ["refs/heads/z", "refs/heads/deep", "refs/heads/a/b", "refs/heads/a-"] {
            assert_eq!(references(&objects).find(absent), Some(None), "{absent}");
        }
        // A lock of a git that is at work is none.
        repository.write(".git/refs/heads/x.lock", b"");
        assert_eq!(same("refs/heads/"), 5);
    }
}

#[test]
fn what_only_git_can_tell_is_left_to_it() {
    let repository = repository(Hash::Sha1);
    let objects = objects_of(&repository);
    let head = repository.git(&["rev-parse", "HEAD"]);
    repository.git(&["symbolic-ref", "refs/heads/other", "refs/heads/main"]);
    assert_eq!(references(&objects).find("refs/heads/other"), None);
    assert_eq!(references(&objects).below("refs/heads/"), None);
    repository.git(&["symbolic-ref", "-d", "refs/heads/other"]);
    assert!(references(&objects).below("refs/heads/").is_some());
    for wrong in ["", "short\n", "0000000000000000000000000000000000000000\n", &format!("{head}{head}")] {
        repository.write(".git/refs/heads/wrong", wrong.as_bytes());
        assert_eq!(references(&objects).find("refs/heads/wrong"), None, "{wrong}");
    }
    std::fs::remove_file(repository.path().join(".git/refs/heads/wrong")).expect("removed");
    std::os::unix::fs::symlink("main", repository.path().join(".git/refs/heads/link")).expect("made");
    assert_eq!(references(&objects).find("refs/heads/link"), None);
    for name in ["HEAD", "refs/heads/../main", "refs/heads//main", "refs/heads/.a", "refs/heads/a.lock"] {
        assert_eq!(references(&objects).find(name), None, "{name}");
    }
    for name in ["refs/heads/a*", "refs/heads/a b", "refs/heads/a~1", "refs/heads/", "refs/heads/a@{1}"] {
        assert_eq!(references(&objects).find(name), None, "{name}");
    }
    repository.write(".git/packed-refs", b"# pack-refs with: peeled fully-peeled sorted \nnonsense\n");
    assert_eq!(references(&objects).find("refs/heads/packed"), None);
    std::fs::remove_file(repository.path().join(".git/packed-refs")).expect("removed");
    repository.git(&["config", "core.repositoryFormatVersion", "1"]);
    repository.git(&["config", "extensions.refStorage", "files"]);
    assert!(References::of(&objects).is_none(), "it may be of another kind");
}

#[test]
fn references_that_are_kept_in_tables_are_left_to_git() {
    let scratch = tempfile::tempdir().expect("a directory");
    let repository = Repository::at(scratch.path());
    repository.git(&["init", "-q", "-b", "main", "--ref-format=reftable"]);
    repository.write("file", b"content\n");
    repository.commit("first");
    let objects = objects_of(&repository);
    assert!(References::of(&objects).is_none());
    let commit = objects.resolve("HEAD").expect("a commit").commit;
    let name = "refs/stead/kept/fix/1".to_owned();
    change(&objects, &[Change::Keep { name: name.clone(), commit }], "a test").expect("kept");
    assert_eq!(crate::worktree::reference(&objects, &name).expect("looked"), Some(commit));
    let below = crate::worktree::references(&objects, "refs/stead/").expect("looked");
    assert_eq!(below, [(name, commit)]);
}

#[test]
fn a_head_is_on_a_branch_or_at_a_commit() {
    let repository = repository(Hash::Sha1);
    let other = tempfile::tempdir().expect("a directory");
    let path = other.path().join("other");
    repository.git(&["worktree", "add", "-q", "-b", "other", path.to_str().expect("text")]);
    let objects = objects_of(&repository);
    let on = |name: &str| Head::On(format!("refs/heads/{name}"));
    let (main, registration) =
        (repository.path().join(".git"), repository.path().join(".git/worktrees/other"));
    assert_eq!(references(&objects).head(&main), Some(on("main")));
    let heads = references(&objects).heads().expect("known");
    assert_eq!(heads, [(main.clone(), on("main")), (registration.clone(), on("other"))]);
    assert_eq!(worktree_of(&registration), Some(path.canonicalize().expect("there")));
    Repository::at(&path).git(&["checkout", "-q", "--detach"]);
    let commit = objects.resolve("HEAD").expect("a commit").commit;
    assert_eq!(references(&objects).head(&registration), Some(Head::At(commit)));
    // One that is half made says nothing for sure.
    std::fs::create_dir(repository.path().join(".git/worktrees/half")).expect("made");
    assert_eq!(references(&objects).heads(), None);
}

#[test]
fn references_change_all_at_once_or_not_at_all() {
    let repository = repository(Hash::Sha1);
    let objects = objects_of(&repository);
    let first = objects.resolve("HEAD").expect("a commit").commit;
    repository.write("file", b"changed\n");
    repository.commit("second");
    let second = objects.resolve("HEAD").expect("a commit").commit;
    repository.git(&["branch", "gone"]);
    let keep = |name: &str, commit| Change::Keep { name: format!("refs/stead/{name}"), commit };
    let delete = |at| Change::Delete { name: "refs/heads/gone".to_owned(), at };
    change(&objects, &[keep("a", first), delete(first)], "a test").expect_err("it is elsewhere");
    assert_eq!(said_by_git(&repository, "refs/stead/"), []);
    change(&objects, &[], "a test").expect("nothing to do");
    change(&objects, &[keep("a", first), keep("a/b", first)], "a test").expect_err("one is in the way");
    change(&objects, &[keep("a", first), delete(second)], "a test").expect("changed");
    change(&objects, &[keep("a", second)], "a test").expect("whatever it had kept");
    assert_eq!(said_by_git(&repository, "refs/stead/"), [("refs/stead/a".to_owned(), second)]);
    assert_eq!(said_by_git(&repository, "refs/heads/gone"), []);
    let many: Vec<Change> = (0..200).map(|number| keep(&format!("many/{number}"), first)).collect();
    change(&objects, &many, "a test").expect("in several goes");
    assert_eq!(said_by_git(&repository, "refs/stead/many/").len(), 200);
}

#[test]
fn what_a_reference_leads_to_stays_when_it_goes() {
    let repository = repository(Hash::Sha1);
    let objects = objects_of(&repository);
    let at = objects.resolve("HEAD").expect("a commit").commit;
    repository.git(&["branch", "other"]);
    repository.git(&["symbolic-ref", "refs/heads/fix", "refs/heads/other"]);
    change(&objects, &[Change::Delete { name: "refs/heads/fix".to_owned(), at }], "a test").expect("changed");
    assert_eq!(said_by_git(&repository, "refs/heads/fix"), []);
    assert_eq!(said_by_git(&repository, "refs/heads/other"), [("refs/heads/other".to_owned(), at)]);
}

#[test]
fn a_branch_that_is_configured_is_found_in_any_spelling() {
    let repository = repository(Hash::Sha1);
    let objects = objects_of(&repository);
    let path = repository.path().join(".git/config");
    let plain = std::fs::read_to_string(&path).expect("read");
    assert!(!may_be_configured(&objects, "fix"));
    for (more, may_be) in [
        ("[branch \"fix\"]\n\tremote = origin\n", true),
        ("[core][BRANCH \"fix\"] remote = origin\n", true),
        ("[branch.fix]\n\tremote = origin\n", true),
        ("[branch \"f\\ix\"]\n\tremote = origin\n", true),
        ("[branch \"other\"]\n\tremote = fix\n", false),
        ("[user]\n\tname = fix\n", false),
    ] {
        std::fs::write(&path, format!("{plain}{more}")).expect("written");
        assert_eq!(may_be_configured(&objects, "fix"), may_be, "{more}");
    }
    std::fs::remove_file(&path).expect("removed");
    assert!(may_be_configured(&objects, "fix"), "git says what is wrong");
}
