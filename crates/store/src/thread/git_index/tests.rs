use std::path::PathBuf;
use std::process::Command;

use crate::Hash;
use crate::blobs::BlobCache;
use crate::names::Origin;
use crate::node::{Attributes, Ino, Time};
use crate::objects::Objects;
use crate::testing::{Repository, repository};
use crate::thread::Thread;

const MADE: Time = Time { seconds: 1_700_000_000, nanoseconds: 7 };

struct Bench {
    repository: Repository,
    scratch: tempfile::TempDir,
    thread: Thread,
    entries: u32,
}

/// An index of the repository's `HEAD`.
fn prepared(repository: Repository) -> Bench {
    let scratch = tempfile::tempdir().expect("a directory");
    let objects = std::sync::Arc::new(Objects::discover(repository.path()).expect("a repository"));
    let blobs = BlobCache::open(&scratch.path().join("blobs"), 1 << 20).expect("opened");
    let revision = objects.resolve("HEAD").expect("a commit");
    let origin = Origin { revision, uid: 1000, gid: 100, made: MADE };
    let directory = scratch.path().join("thread");
    let thread = Thread::begin(&directory, objects, blobs.into(), origin).expect("begun");
    let path = scratch.path().join("index");
    let index = thread.git_index().expect("made");
    let entries = u32::from_be_bytes(*index[8..].first_chunk().expect("a header"));
    std::fs::write(&path, &index).expect("written");
    Bench { repository, scratch, thread, entries }
}

impl Bench {
    fn index(&self) -> PathBuf {
        self.scratch.path().join("index")
    }

    /// git with this index.
    fn git(&self, words: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.repository.path())
            .env("GIT_INDEX_FILE", self.index())
            .args(words)
            .output()
            .expect("git runs");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn attributes(&self, path: &str) -> Attributes {
        path.split('/').fold(self.thread.attributes(Ino::ROOT).expect("a root"), |above, name| {
            self.thread.lookup(above.ino, name.as_bytes()).expect("looked up").expect("there")
        })
    }
}

#[test]
fn git_finds_in_it_what_the_revision_has() {
    for hash in [Hash::Sha1, Hash::Sha256] {
        let repository = repository(hash);
        for path in ["dir-x", "dir0", "dir/deep.txt", "dir/deep-er", "a/b/c/d/e/f"] {
            repository.write(path, path.as_bytes());
        }
        repository.write(&format!("long/{}", "n".repeat(250)), b"");
        repository
            .write(&format!("{0}/{0}/{0}/{0}/{0}/{0}/{0}/{0}/end", "l".repeat(250)), b"beyond 4095? no");
        repository.commit("names that sort otherwise than they look");
        let bench = prepared(repository);
        let listed = bench.git(&["ls-files", "--stage"]);
        let tree = bench.git(&["ls-tree", "-r", "HEAD"]);
        let of_tree: Vec<String> = tree
            .lines()
            .map(|line| {
                let (about, path) = line.split_once('\t').expect("a path");
                let words: Vec<&str> = about.split(' ').collect();
                format!("{} {} 0\t{path}", words[0], words[2])
            })
            .collect();
        assert_eq!(listed.lines().collect::<Vec<_>>(), of_tree);
        assert_eq!(bench.entries as usize, of_tree.len());
        assert_eq!(bench.git(&["diff-index", "--cached", "HEAD"]), "");
        assert_eq!(bench.git(&["write-tree"]), bench.git(&["rev-parse", "HEAD^{tree}"]));
    }
}

#[test]
fn what_is_said_of_files_is_what_the_thread_says() {
    let bench = prepared(repository(Hash::Sha1));
    let said = bench.git(&["ls-files", "--debug"]);
    for path in ["file", "run", "link", "dir/deep/er/c"] {
        let about = said.split(&format!("{path}\n")).nth(1).expect("listed");
        let Attributes { ino, size, uid, gid, modified, changed, .. } = bench.attributes(path);
        for word in [
            format!("ctime: {}:{}", changed.seconds, changed.nanoseconds),
            format!("mtime: {}:{}", modified.seconds, modified.nanoseconds),
            format!("dev: 0\tino: {}", ino.0),
            format!("uid: {uid}\tgid: {gid}"),
            format!("size: {size}\t"),
        ] {
            let about: String = about.lines().take(5).collect::<Vec<_>>().join("\n");
            assert!(about.contains(&word), "{path}: {word} in {about}");
        }
    }
}

#[test]
fn a_submodule_is_an_entry_of_its_commit() {
    let repository = repository(Hash::Sha1);
    let commit = "1234567890123456789012345678901234567890";
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},dir/sub")]);
    repository.git(&["commit", "-qm", "a submodule"]);
    let bench = prepared(repository);
    assert!(bench.git(&["ls-files", "--stage"]).contains(&format!("160000 {commit} 0\tdir/sub\n")));
    assert_eq!(bench.git(&["write-tree"]), bench.git(&["rev-parse", "HEAD^{tree}"]));
}

#[test]
fn a_revision_without_files_has_an_index_without_entries() {
    let repository = repository(Hash::Sha1);
    repository.git(&["rm", "-rq", "."]);
    repository.git(&["commit", "-qm", "nothing"]);
    let bench = prepared(repository);
    assert_eq!((bench.entries, bench.git(&["ls-files"])), (0, String::new()));
    assert_eq!(bench.git(&["diff-index", "--cached", "HEAD"]), "");
}

#[test]
fn a_path_that_no_kernel_takes_is_refused() {
    let repository = repository(Hash::Sha1);
    let mut tree = repository.hash_object("tree", b"");
    let name = "n".repeat(200);
    for _ in 0..25 {
        let entry = [format!("40000 {name}\0").as_bytes(), tree.as_slice()].concat();
        tree = repository.hash_object("tree", &entry);
    }
    let commit = repository.git(&["commit-tree", "-m", "deep", &tree.to_string()]);
    repository.git(&["update-ref", "HEAD", commit.trim()]);
    let scratch = tempfile::tempdir().expect("a directory");
    let objects = std::sync::Arc::new(Objects::discover(repository.path()).expect("a repository"));
    let blobs = BlobCache::open(&scratch.path().join("blobs"), 1 << 20).expect("opened");
    let revision = objects.resolve("HEAD").expect("a commit");
    let origin = Origin { revision, uid: 0, gid: 0, made: MADE };
    let thread = Thread::begin(&scratch.path().join("thread"), objects, blobs.into(), origin).expect("begun");
    let error = thread.git_index().expect_err("refused");
    assert!(error.to_string().contains("too long"), "{error}");
}
