use super::*;
use crate::testing::{Repository, repository};

#[test]
fn what_is_said_at_once_is_what_is_said_one_by_one() {
    for hash in [Hash::Sha1, Hash::Sha256] {
        let repository = repository(hash);
        repository.write("dir/file", b"content");
        repository.commit("first");
        repository.git(&["branch", "other"]);
        let within = repository.path().join("dir");
        for (revision, branch) in [("HEAD", "main"), ("other", "main"), ("HEAD^{tree}^", "")] {
            let start = look(&within, revision);
            if branch.is_empty() {
                assert!(start.is_none(), "{revision}");
                continue;
            }
            let start = start.expect(revision);
            let objects = Objects::discover(&within).expect("a repository");
            assert_eq!((start.objects.repository(), start.objects.hash()), (objects.repository(), hash));
            assert_eq!(start.revision, super::super::resolve(&objects, &within, revision).expect("resolved"));
            assert_eq!(start.branch.as_deref(), Some(branch));
            assert_eq!(Some(start.copy), WorkingCopy::discover(&within));
        }
        repository.git(&["checkout", "-q", "--detach"]);
        assert_eq!(look(&within, "HEAD").expect("looked").branch, None);
    }
}

#[test]
fn what_is_not_so_is_left_to_whoever_asks_one_by_one() {
    let repository = repository(Hash::Sha1);
    for content in ["one", "two"] {
        repository.write("file", content.as_bytes());
        repository.commit(content);
    }
    for revision in ["no-such", "HEAD^..HEAD", "--all", "-q", "", "HEAD HEAD"] {
        assert!(look(repository.path(), revision).is_none(), "{revision}");
    }
    assert!(look(&repository.path().join(".git"), "HEAD").is_none(), "it is in no working copy");
    assert!(look(Path::new("/"), "HEAD").is_none());
}

#[test]
fn a_working_copy_is_one_only_for_what_is_within() {
    let repository = repository(Hash::Sha1);
    repository.write("file", b"one");
    repository.commit("one");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let elsewhere = elsewhere.path().canonicalize().expect("there");
    repository.git(&["config", "core.worktree", elsewhere.to_str().expect("text")]);
    assert_eq!(WorkingCopy::discover(repository.path()), None);
    assert!(look(repository.path(), "HEAD").is_none());
    // The directory above has all of it, and no repository.
    let above = repository.path().canonicalize().expect("there").parent().expect("above").to_owned();
    let within = above.join("within");
    std::fs::create_dir(&within).expect("made");
    let place = above.to_str().expect("text");
    let words = ["clone", "-q", "--bare", ".", &format!("{place}/within/.git")];
    repository.git(&["config", "--unset", "core.worktree"]);
    repository.git(&words);
    let own = Repository::at(&within);
    own.git(&["config", "core.bare", "false"]);
    own.git(&["config", "core.worktree", place]);
    own.write("ignored.o", b"object");
    std::fs::write(within.join(".git/info/exclude"), "*.o\n").expect("written");
    let copy = look(&within, "HEAD").expect("it is within").copy;
    assert_eq!((copy.root(), Some(&copy)), (above.as_path(), WorkingCopy::discover(&within).as_ref()));
    assert!(copy.ignored().expect("asked").contains(&b"within/ignored.o".to_vec()));
}
