use super::*;
use crate::Hash;
use crate::testing::{Repository, repository};
use crate::worktree::{current_branch, move_reference};

struct Bench {
    repository: Repository,
    objects: Objects,
}

impl Bench {
    fn new() -> Bench {
        let repository = repository(Hash::Sha1);
        for (key, value) in [("user.name", "test"), ("user.email", "test@example.org")] {
            repository.git(&["config", key, value]);
        }
        let objects = Objects::discover(repository.path()).expect("a repository");
        Bench { repository, objects }
    }

    fn at(&self, revision: &str) -> Oid {
        self.objects.resolve(revision).expect("a commit").commit
    }

    /// A branch from the first commit, with this content of `file`.
    fn branch(&self, name: &str, path: &str, content: &str) -> Oid {
        self.repository.git(&["checkout", "-q", "-b", name, "main"]);
        self.repository.write(path, content.as_bytes());
        self.repository.commit(name);
        self.repository.git(&["checkout", "-q", "main"]);
        self.at(name)
    }

    fn checkout(&self, branch: &str) -> Checkout {
        checkout(&self.objects, branch).expect("looked")
    }
}

#[test]
fn what_both_sides_have_changed_is_a_conflict_and_all_else_a_tree() {
    let bench = Bench::new();
    let (ours, theirs) = (bench.branch("ours", "file", "ours\n"), bench.branch("theirs", "file", "theirs\n"));
    let other = bench.branch("other", "dir/a", "other");
    let merged = merge(&bench.objects, &ours, &theirs).expect("tried");
    assert_eq!(merged, Merged::Conflicts(vec![b"file".to_vec()]));
    let Merged::Tree(tree) = merge(&bench.objects, &ours, &other).expect("tried") else {
        panic!("nothing in common")
    };
    let made = commit(&bench.objects, &tree, &[ours, other], "both\n\nof them").expect("made");
    let said = bench.repository.git(&["log", "-1", "--format=%P%n%B", &made.to_string()]);
    assert_eq!(said.trim(), format!("{ours} {other}\nboth\n\nof them"));
    assert_eq!(bench.repository.git(&["show", &format!("{made}:file")]), "ours\n");
    assert_eq!(bench.repository.git(&["show", &format!("{made}:dir/a")]), "other");
    assert_eq!(messages(&bench.objects, &made, &bench.at("main"), 9).expect("told").len(), 2);
    merge(&bench.objects, &ours, &Oid::null(Hash::Sha1)).expect_err("no commit");
}

#[test]
fn a_reference_is_moved_from_where_it_was_or_not_at_all() {
    let bench = Bench::new();
    let (first, second) = (bench.at("main"), bench.branch("second", "file", "second"));
    let name = "refs/stead/kept/fix/1";
    let put = |was, to| move_reference(&bench.objects, name, was, to, "test");
    put(None, Some(&first)).expect("made");
    put(None, Some(&second)).expect_err("it is there");
    put(Some(&second), None).expect_err("it is elsewhere");
    put(Some(&first), Some(&second)).expect("moved");
    assert_eq!(reference(&bench.objects, name).expect("looked"), Some(second));
    put(Some(&second), None).expect("removed");
    assert_eq!(reference(&bench.objects, name).expect("looked"), None);
    assert!(is_ancestor(&bench.objects, &first, &second).expect("looked"));
    assert!(!is_ancestor(&bench.objects, &second, &first).expect("looked"));
}

#[test]
fn a_checkout_goes_along_only_where_nothing_is_lost() {
    let bench = Bench::new();
    let before = bench.at("main");
    let ahead = bench.branch("ahead", "file", "ahead\n");
    assert_eq!(bench.checkout("ahead"), Checkout::None);
    let dir = bench.repository.path().canonicalize().expect("there");
    assert_eq!(current_branch(&dir).expect("looked").as_deref(), Some("main"));
    bench.repository.write("untracked", b"mine");
    assert_eq!(bench.checkout("main"), Checkout::Clean(dir.clone()));
    bench.repository.write("file", b"mine\n");
    assert_eq!(bench.checkout("main"), Checkout::Dirty(dir.clone()));
    advance(&dir, &ahead).expect_err("it would be overwritten");
    go_to(&dir, &ahead).expect_err("it would be overwritten");
    assert_eq!(std::fs::read(dir.join("file")).expect("read"), b"mine\n");
    bench.repository.git(&["checkout", "-q", "file"]);
    bench.repository.write("dir/a", b"mine");
    advance(&dir, &ahead).expect("it is another file");
    assert_eq!(bench.at("main"), ahead);
    go_to(&dir, &before).expect("it is another file");
    assert_eq!(bench.at("main"), before);
    assert_eq!(std::fs::read(dir.join("file")).expect("read"), b"content\n");
    assert_eq!(std::fs::read(dir.join("dir/a")).expect("read"), b"mine");
    std::fs::write(dir.join(".git/MERGE_HEAD"), format!("{ahead}\n")).expect("written");
    assert_eq!(bench.checkout("main"), Checkout::Unfinished(dir));
}

#[test]
fn a_checkout_that_is_another_repository_by_now_is_away() {
    let bench = Bench::new();
    bench.branch("ahead", "file", "ahead\n");
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path().canonicalize().expect("there").join("copy");
    bench.repository.git(&["worktree", "add", "-q", dir.to_str().expect("text"), "ahead"]);
    assert_eq!(bench.checkout("ahead"), Checkout::Clean(dir.clone()));
    std::fs::remove_file(dir.join(".git")).expect("removed");
    assert_eq!(bench.checkout("ahead"), Checkout::Away(dir.clone()));
    Repository::at(&dir).git(&["init", "-q"]);
    assert_eq!(bench.checkout("ahead"), Checkout::Away(dir.clone()));
    std::fs::remove_dir_all(&dir).expect("removed");
    assert_eq!(bench.checkout("ahead"), Checkout::Away(dir));
}
