use std::path::PathBuf;

use super::*;
use crate::Hash;
use crate::testing::{Repository, repository};

/// A working copy of git's own, which git takes for any other.
struct Bench {
    repository: Repository,
    objects: Objects,
    scratch: tempfile::TempDir,
    base: Revision,
}

impl Bench {
    fn new() -> Bench {
        let repository = repository(Hash::Sha1);
        for (key, value) in [("user.name", "test"), ("user.email", "test@example.org")] {
            repository.git(&["config", key, value]);
        }
        repository.write(".gitignore", b"target\n*.o\n!keep.o\n");
        repository.commit("ignores");
        let objects = Objects::discover(repository.path()).expect("a repository");
        let base = objects.resolve("HEAD").expect("a commit");
        Bench { repository, objects, scratch: tempfile::tempdir().expect("a directory"), base }
    }

    fn mounted(&self) -> (PathBuf, PathBuf) {
        (self.repository.path().join(".git"), self.repository.path().to_owned())
    }

    fn with<T>(&self, look: impl FnOnce(&Mounted<'_>) -> Result<T>) -> Result<T> {
        let (registration, dir) = self.mounted();
        let (objects, scratch) = (&self.objects, self.scratch.path());
        look(&Mounted { objects, registration: &registration, dir: &dir, scratch })
    }

    fn snapshot(&self, changed: &[(&str, bool)]) -> Oid {
        self.with(|mounted| mounted.snapshot(&self.base, &these(changed))).expect("taken")
    }

    fn capture(&self, tree: &Oid, message: &Message) -> Option<Captured> {
        self.with(|mounted| mounted.capture("fix", tree, message)).expect("captured")
    }

    fn differences(&self, tree: &Oid) -> Vec<String> {
        let diff = ["diff", "--name-status", "--no-renames", &self.base.tree.to_string(), &tree.to_string()];
        self.repository.git(&diff).lines().map(|line| line.replace('\t', " ")).collect()
    }
}

fn these(changed: &[(&str, bool)]) -> Vec<Changed> {
    let these = changed.iter();
    these.map(|(path, is_there)| Changed { path: path.as_bytes().to_vec(), is_there: *is_there }).collect()
}

#[test]
fn what_is_as_it_was_begun_is_so_everywhere() {
    let bench = Bench::new();
    let is_as_begun = |changed: &[(&str, bool)]| {
        bench.with(|mounted| Ok(mounted.is_as_begun(&bench.base, &these(changed)))).expect("looked")
    };
    assert!(is_as_begun(&[]));
    assert!(!is_as_begun(&[("file", true)]), "a file may be another");
    let blob = bench.repository.hash_object("blob", b"staged");
    let entry = format!("100644,{blob},file");
    bench.repository.git(&["update-index", "--cacheinfo", &entry]);
    assert!(!is_as_begun(&[]), "it is staged");
    bench.repository.git(&["commit", "-q", "-m", "committed"]);
    assert!(!is_as_begun(&[]), "it is committed");
    bench.repository.git(&["reset", "-q", "--soft", "HEAD~"]);
    assert!(!is_as_begun(&[]), "it is staged again");
    bench.repository.git(&["read-tree", "HEAD"]);
    assert!(is_as_begun(&[]));
    bench.repository.git(&["checkout", "-q", "--detach"]);
    assert!(is_as_begun(&[]), "of a commit, too");
    bench.repository.git(&["checkout", "-q", "--orphan", "unborn"]);
    assert!(!is_as_begun(&[]), "nothing is committed");
}

#[test]
fn what_is_not_committed_and_not_ignored_is_a_change() {
    let bench = Bench::new();
    let is_changed = || bench.with(|mounted| mounted.is_changed()).expect("looked");
    bench.repository.write("target/file", b"");
    assert!(!is_changed());
    bench.repository.write("new", b"");
    assert!(is_changed());
    bench.repository.git(&["config", "status.showUntrackedFiles", "no"]);
    assert!(is_changed(), "whatever is shown else");
    std::fs::remove_dir_all(bench.repository.path().join(".git")).expect("removed");
    bench.with(|mounted| mounted.is_changed()).expect_err("no repository");
}

#[test]
fn git_is_asked_in_the_registration_whatever_the_worktree_says() {
    let bench = Bench::new();
    let aside = bench.scratch.path().join("fix");
    bench.repository.git(&["worktree", "add", "-q", aside.to_str().expect("text")]);
    let registration = bench.repository.path().join(".git/worktrees/fix");
    let mounted = Mounted {
        objects: &bench.objects,
        registration: &registration,
        dir: &aside,
        scratch: bench.scratch.path(),
    };
    assert!(mounted.is_known_there().expect("looked"));
    std::fs::remove_file(aside.join(".git")).expect("removed");
    assert!(!mounted.is_known_there().expect("looked"));
    let other = Repository::at(&aside);
    other.git(&["init", "-q"]);
    other.write("new", b"new");
    other.commit("all is committed there");
    assert!(!mounted.is_known_there().expect("looked"));
    assert!(mounted.is_changed().expect("looked"), "nothing of it is in the thread's repository");
}

#[test]
fn a_repository_within_is_known_and_nothing_below_it_is_looked_at() {
    let bench = Bench::new();
    let changed = [
        ("new", true),
        ("new/lib", true),
        ("new/lib/.git", true),
        ("new/lib/.git/HEAD", true),
        ("new/lib/file", true),
        ("new/lib/inner/.git", true),
        ("new/library", true),
        ("target/lib/.git", true),
        ("gone/.git", false),
    ];
    bench.repository.write("new/library", b"no repository");
    for dir in ["new/lib", "target/lib"] {
        bench.repository.write(&format!("{dir}/file"), b"its own\n");
        let within = Repository::at(&bench.repository.path().join(dir));
        within.git(&["init", "-q"]);
        within.commit("its own");
    }
    let found = bench.with(|mounted| mounted.repositories(&these(&changed))).expect("looked");
    assert_eq!(found, [b"new/lib"]);
    let tree = bench.snapshot(&changed);
    assert_eq!(bench.differences(&tree), ["A new/lib", "A new/library"], "as git add does");
    bench.repository.git(&["add", "new"]);
    assert_eq!(bench.snapshot(&changed), tree);
    let found = bench.with(|mounted| mounted.repositories(&these(&changed))).expect("looked");
    assert_eq!(found, [b"new/lib"], "also one that is added");
}

#[test]
fn a_repository_that_is_not_among_what_is_changed_is_unknown() {
    let bench = Bench::new();
    let unknown = |changed: &[(&str, bool)]| {
        bench
            .with(|mounted| mounted.unknown(&these(changed)))
            .expect("looked")
            .map(|path| String::from_utf8(path).expect("text"))
    };
    assert_eq!(unknown(&[]), None);
    bench.repository.write("new", b"new");
    assert_eq!(unknown(&[]).as_deref(), Some("new"));
    assert_eq!(unknown(&[("new", true)]), None);
    let repo = bench.repository.path().join("cache/repo");
    std::fs::create_dir_all(&repo).expect("made");
    let inner = Repository::at(&repo);
    inner.git(&["init", "-q"]);
    inner.write("file", b"file");
    inner.commit("of its own");
    let new = ("new", true);
    assert_eq!(unknown(&[new]).as_deref(), Some("cache/repo/"));
    assert_eq!(unknown(&[new, ("cache/repository", true), ("cache", true)]).as_deref(), Some("cache/repo/"));
    assert_eq!(unknown(&[new, ("cache/repo", true), ("cache/repo/.git", true)]), None);
}

#[test]
fn what_a_symlink_leads_to_is_not_there() {
    let bench = Bench::new();
    std::fs::remove_dir_all(bench.repository.path().join("dir")).expect("removed");
    std::os::unix::fs::symlink("more", bench.repository.path().join("dir")).expect("made");
    bench.repository.write("more/a", b"of more");
    let tree = bench.snapshot(&[("dir", true), ("dir/a", true), ("more/a", true)]);
    assert_eq!(bench.differences(&tree), ["A dir", "D dir/a", "D dir/b", "D dir/deep/er/c", "A more/a"]);
}

#[test]
fn a_snapshot_is_what_is_in_the_worktree_but_for_what_is_ignored() {
    let bench = Bench::new();
    bench.repository.write("file", b"other\n");
    bench.repository.write("new/deep/file", b"new\n");
    bench.repository.write("new/x.o", b"ignored\n");
    bench.repository.write("new/keep.o", b"kept\n");
    bench.repository.write("target/out", b"ignored\n");
    bench.repository.write("staged", b"staged\n");
    bench.repository.git(&["add", "staged"]);
    bench.repository.write("gone.c", b"staged and gone\n");
    bench.repository.git(&["add", "gone.c"]);
    std::fs::remove_file(bench.repository.path().join("gone.c")).expect("removed");
    std::fs::remove_dir_all(bench.repository.path().join("dir")).expect("removed");
    bench.repository.write("dir", b"a file now\n");
    bench.repository.write("[a]*", b"a name that looks like a pattern\n");
    let before = bench.repository.git(&["status", "--porcelain"]);
    let changed =
        [("[a]*", true), ("dir", true), ("file", true), ("new", true), ("staged", true), ("target", true)];
    let tree = bench.snapshot(&changed);
    let expected = [
        "A [a]*",
        "A dir",
        "D dir/a",
        "D dir/b",
        "D dir/deep/er/c",
        "M file",
        "A new/deep/file",
        "A new/keep.o",
        "A staged",
    ];
    assert_eq!(bench.differences(&tree), expected);
    assert_eq!(bench.repository.git(&["status", "--porcelain"]), before, "the user's index is as it was");
    assert_eq!(bench.snapshot(&[]).to_string(), {
        // Only what is staged is looked at then.
        bench.repository.git(&["rm", "-q", "--cached", "gone.c"]);
        bench.repository.git(&["write-tree"]).trim().to_owned()
    });
}

#[test]
fn a_path_that_is_gone_is_gone_from_the_snapshot() {
    let bench = Bench::new();
    std::fs::remove_file(bench.repository.path().join("file")).expect("removed");
    std::fs::remove_dir_all(bench.repository.path().join("dir/deep")).expect("removed");
    let tree = bench.snapshot(&[("dir/deep", false), ("file", false), ("never-there", false)]);
    assert_eq!(bench.differences(&tree), ["D dir/deep/er/c", "D file"]);
}

#[test]
fn captures_follow_each_other_and_none_is_empty() {
    let bench = Bench::new();
    let message = |text: &str| Message {
        text: text.to_owned(),
        trailers: vec![("Agent".to_owned(), "one".to_owned())],
    };
    let base = bench.snapshot(&[]);
    assert_eq!(base, bench.base.tree);
    assert_eq!(bench.capture(&base, &message("nothing")), None);
    bench.repository.write("file", b"first\n");
    let first = bench.capture(&bench.snapshot(&[("file", true)]), &message("first\n\nwhy")).expect("changed");
    assert_eq!(first.parent, bench.base.commit);
    assert_eq!(bench.capture(&bench.snapshot(&[("file", true)]), &message("again")), None);
    bench.repository.write("file", b"second\n");
    let second = bench.capture(&bench.snapshot(&[("file", true)]), &message("second")).expect("changed");
    assert_eq!(second.parent, first.commit);
    let at = bench.repository.git(&["rev-parse", "refs/stead/threads/fix"]);
    assert_eq!(at.trim(), second.commit.to_string());
    let said = bench.repository.git(&["log", "-1", "--format=%B", &first.commit.to_string()]);
    assert_eq!(said, "first\n\nwhy\n\nAgent: one\n\n");
    let said = bench.repository.git(&["log", "-1", "--format=%an %s", "refs/stead/threads/fix"]);
    assert_eq!(said, "test second\n");
    bench.repository.write("file", b"third\n");
    let bare = Message { trailers: Vec::new(), ..message("third") };
    let third = bench.capture(&bench.snapshot(&[("file", true)]), &bare).expect("changed");
    let object = bench.repository.git(&["cat-file", "commit", &third.commit.to_string()]);
    assert!(object.ends_with("\n\nthird\n"), "{object:?}");
}

#[test]
fn a_capture_is_behind_what_was_committed_since_the_last_one() {
    let bench = Bench::new();
    bench.repository.write("one", b"1");
    let tree = bench.snapshot(&[("one", true)]);
    let text = |text: &str| Message { text: text.to_owned(), ..Message::default() };
    let first = bench.capture(&tree, &text("first")).expect("made").commit;
    bench.repository.commit("the same");
    let head = bench.objects.resolve("HEAD").expect("a commit").commit;
    let second = bench.capture(&tree, &text("joined")).expect("made").commit;
    let parents = bench.repository.git(&["log", "-1", "--format=%P", &second.to_string()]);
    assert_eq!(parents.trim(), format!("{first} {head}"));
    assert_eq!(bench.capture(&tree, &text("nothing")), None);
    bench.repository.git(&["reset", "-q", "--soft", &second.to_string()]);
    bench.repository.write("two", b"2");
    bench.repository.commit("behind the capture");
    let head = bench.objects.resolve("HEAD").expect("a commit").commit;
    bench.repository.write("three", b"3");
    let tree = bench.snapshot(&[("one", true), ("two", true), ("three", true)]);
    assert_eq!(bench.capture(&tree, &text("third")).expect("made").parent, head);
}
