use super::*;
use crate::Hash;
use crate::testing::{Repository, repository};
use crate::worktree::{Taken, current_branch, move_reference};

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

    fn moving(&self, branch: &str, to: Oid) -> (String, Oid, Oid) {
        (format!("refs/heads/{branch}"), self.at(branch), to)
    }

    fn advance(&self, dir: &Path, branch: &str, to: Oid) -> Result<()> {
        let (reference, from, to) = self.moving(branch, to);
        Move { objects: &self.objects, reference: &reference, from: Some(from), to }.advance(dir)
    }

    fn go_to(&self, dir: &Path, branch: &str, to: Oid) -> Result<()> {
        let (reference, from, to) = self.moving(branch, to);
        Move { objects: &self.objects, reference: &reference, from: Some(from), to }.go_to(dir)
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
    bench.advance(&dir, "main", ahead).expect_err("it would be overwritten");
    bench.go_to(&dir, "main", ahead).expect_err("it would be overwritten");
    assert_eq!(std::fs::read(dir.join("file")).expect("read"), b"mine\n");
    bench.repository.git(&["checkout", "-q", "file"]);
    bench.repository.write("dir/a", b"mine");
    bench.advance(&dir, "main", ahead).expect("it is another file");
    assert_eq!(bench.at("main"), ahead);
    bench.go_to(&dir, "main", before).expect("it is another file");
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

#[test]
fn a_worktree_that_is_not_there_is_not_taken_for_the_one_around_it() {
    let bench = Bench::new();
    let (main, ahead) = (bench.at("main"), bench.branch("ahead", "file", "ahead\n"));
    let top = bench.repository.path().canonicalize().expect("there");
    let dir = top.join("inside");
    bench.repository.git(&["worktree", "add", "-q", "-b", "fix", dir.to_str().expect("text"), "main"]);
    std::fs::remove_dir_all(&dir).expect("removed");
    std::fs::create_dir(&dir).expect("made");
    assert_eq!(bench.checkout("fix"), Checkout::Away(dir.clone()));
    bench.advance(&dir, "fix", ahead).expect_err("it is not there");
    bench.go_to(&dir, "fix", ahead).expect_err("it is not there");
    assert_eq!((bench.at("main"), bench.at("fix")), (main, main));
}

#[test]
fn a_worktree_that_has_another_branch_or_commit_by_now_stays() {
    let bench = Bench::new();
    let (before, ahead) = (bench.at("main"), bench.branch("ahead", "file", "ahead\n"));
    let dir = bench.repository.path().canonicalize().expect("there");
    bench.repository.git(&["checkout", "-q", "-b", "mine"]);
    bench.advance(&dir, "main", ahead).expect_err("another branch");
    bench.go_to(&dir, "main", ahead).expect_err("another branch");
    bench.repository.git(&["checkout", "-q", "--detach"]);
    bench.go_to(&dir, "main", ahead).expect_err("no branch");
    assert_eq!((bench.at("main"), bench.at("mine"), bench.at("HEAD")), (before, before, before));
    bench.repository.git(&["checkout", "-q", "main"]);
    bench.repository.write("more/same", b"mine");
    bench.repository.commit("mine");
    let (is, reference) = (bench.at("main"), "refs/heads/main");
    let late = Move { objects: &bench.objects, reference, from: Some(before), to: ahead };
    late.go_to(&dir).expect_err("another commit");
    late.advance(&dir).expect_err("another commit");
    assert_eq!(bench.at("main"), is);
}

#[test]
fn what_is_ignored_is_not_overwritten_by_what_is_tracked_elsewhere() {
    let bench = Bench::new();
    let before = bench.at("main");
    let mut ahead = bench.branch("ahead", "conf", "theirs\n");
    for (path, content) in [("out/deep/er", "theirs\n"), ("flat", "theirs\n"), (".gitignore", "")] {
        bench.repository.git(&["checkout", "-q", "ahead"]);
        bench.repository.write(path, content.as_bytes());
        bench.repository.commit(path);
        bench.repository.git(&["checkout", "-q", "main"]);
        ahead = bench.at("ahead");
    }
    let dir = bench.repository.path().canonicalize().expect("there");
    std::fs::write(dir.join(".git/info/exclude"), "conf\nout\nflat\n").expect("written");
    for path in ["conf", "out/deep/er", "out/deep", "out", "flat/below"] {
        bench.repository.write(path, b"mine\n");
        let error = bench.go_to(&dir, "main", ahead).expect_err("it would be overwritten");
        assert!(error.to_string().contains(path), "{error}");
        assert_eq!(bench.at("main"), before);
        assert_eq!(std::fs::read(dir.join(path)).expect("read"), b"mine\n");
        let first = dir.join(path.split('/').next().expect("a name"));
        let removed =
            if first.is_dir() { std::fs::remove_dir_all(&first) } else { std::fs::remove_file(&first) };
        removed.expect("removed");
    }
    bench.repository.write("out/other", b"mine\n");
    bench.go_to(&dir, "main", ahead).expect("it is in nobody's way");
    assert_eq!(std::fs::read(dir.join("conf")).expect("read"), b"theirs\n");
    bench.go_to(&dir, "main", before).expect("it was tracked");
    assert_eq!(std::fs::read(dir.join("out/other")).expect("read"), b"mine\n");
}

#[test]
fn a_tracked_file_gives_way_to_a_directory_and_back() {
    let bench = Bench::new();
    let before = bench.at("main");
    bench.repository.git(&["checkout", "-q", "-b", "ahead"]);
    bench.repository.git(&["rm", "-q", "file"]);
    bench.repository.write("file/below", b"below");
    bench.repository.commit("ahead");
    bench.repository.git(&["checkout", "-q", "main"]);
    let dir = bench.repository.path().canonicalize().expect("there");
    bench.go_to(&dir, "main", bench.at("ahead")).expect("nothing is lost");
    bench.go_to(&dir, "main", before).expect("nothing is lost");
    assert_eq!(std::fs::read(dir.join("file")).expect("read"), b"content\n");
}

#[test]
fn a_branch_is_what_has_its_name_and_nothing_like_it() {
    let bench = Bench::new();
    bench.branch("feature/x", "file", "ahead\n");
    for name in ["feature", "m*", "mai?", "[m]ain"] {
        assert_eq!(reference(&bench.objects, &format!("refs/heads/{name}")).expect("looked"), None);
        assert_eq!(bench.checkout(name), Checkout::None, "{name}");
    }
    assert_eq!(reference(&bench.objects, "refs/heads/main").expect("looked"), Some(bench.at("main")));
    let is_taken = |name: &str| Taken::of(&bench.objects, &[name]).expect("looked").is_in_the_way_of(name);
    assert!(is_taken("refs/heads/feature") && is_taken("refs/heads/main"), "it is in its way");
    assert!(!is_taken("refs/heads/other"));
}

#[test]
fn a_branch_that_is_rebased_or_bisected_is_not_concluded() {
    let bench = Bench::new();
    bench.branch("ahead", "file", "ahead\n");
    let scratch = tempfile::tempdir().expect("a directory");
    let copy = scratch.path().canonicalize().expect("there").join("copy");
    bench.repository.git(&["worktree", "add", "-q", "-b", "mine", copy.to_str().expect("text"), "ahead"]);
    let own = Repository::at(&copy);
    own.git(&["-c", "sequence.editor=echo break >", "rebase", "-q", "-i", "main"]);
    assert_eq!(bench.checkout("mine"), Checkout::Unfinished(copy));
    own.git(&["rebase", "--quit"]);
    assert_eq!(bench.checkout("mine"), Checkout::None);
    let dir = bench.repository.path().canonicalize().expect("there");
    bench.repository.git(&["bisect", "start"]);
    bench.repository.git(&["checkout", "-q", "--detach"]);
    assert_eq!(bench.checkout("main"), Checkout::Unfinished(dir));
    assert_eq!(bench.checkout("ahead"), Checkout::None);
}

#[test]
fn what_is_staged_alone_is_not_lost_to_a_merge() {
    let bench = Bench::new();
    let theirs = bench.branch("theirs", "file", "theirs\n");
    let scratch = tempfile::tempdir().expect("a directory");
    let (dir, objects) = (bench.repository.path(), &bench.objects);
    let registration = dir.join(".git");
    let mounted = Mounted { objects, registration: &registration, dir, scratch: scratch.path() };
    bench.repository.write("file", b"staged\n");
    bench.repository.git(&["add", "file"]);
    bench.repository.write("file", b"ours\n");
    let tree = bench.repository.git(&["stash", "create"]);
    let tree = bench.at(&format!("{}^{{commit}}", tree.trim()));
    let tree = objects.revision(tree).expect("a commit").tree;
    let tip = commit(objects, &tree, &[bench.at("main")], "captured").expect("made");
    assert_eq!(mounted.begin_merge(&tip, "theirs").expect("looked"), Begun::Staged);
    assert_eq!(bench.repository.git(&["show", ":file"]), "staged\n");
    bench.repository.git(&["add", "file"]);
    assert_eq!(mounted.begin_merge(&tip, "theirs").expect("begun"), Begun::Conflicts);
    assert_eq!((bench.at("HEAD"), bench.at("MERGE_HEAD")), (tip, theirs));
}
