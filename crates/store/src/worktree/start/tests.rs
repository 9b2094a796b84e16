use super::*;
use crate::testing::repository;

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
    repository.git(&["config", "core.worktree", repository.path().to_str().expect("text")]);
    assert!(WorkingCopy::discover(repository.path()).is_some());
    assert!(look(repository.path(), "HEAD").is_some());
}
