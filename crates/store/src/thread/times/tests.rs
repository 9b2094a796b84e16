use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::Hash;
use crate::blobs::BlobCache;
use crate::names::Origin;
use crate::objects::Objects;
use crate::testing::{Repository, repository};

const MADE: Time = Time { seconds: 1_700_000_000, nanoseconds: 0 };
const OTHERWISE: Time = Time { seconds: 1_700_000_002, nanoseconds: 5 };
const THERE: Time = Time { seconds: 1_580_608_922, nanoseconds: 123_456_789 };

struct Bench {
    repository: Repository,
    scratch: tempfile::TempDir,
}

impl Bench {
    /// With a repository of which all files are dated long ago, as git knows.
    fn new() -> Bench {
        let repository = repository(Hash::Sha1);
        repository.date_all("2020-02-02T02:02:02.123456789Z");
        repository.git(&["update-index", "--refresh"]);
        Bench { repository, scratch: tempfile::tempdir().expect("a directory") }
    }

    fn directory(&self) -> std::path::PathBuf {
        self.scratch.path().join("thread")
    }

    fn parts(&self) -> (Arc<Objects>, Arc<BlobCache>) {
        let objects = Objects::discover(self.repository.path()).expect("a repository");
        let blobs = BlobCache::open(&self.scratch.path().join("blobs"), 1 << 20).expect("opened");
        (Arc::new(objects), Arc::new(blobs))
    }

    /// A thread of `HEAD`, dated from the working copy.
    fn thread(&self, otherwise: Option<Time>) -> Thread {
        let (objects, blobs) = self.parts();
        let revision = objects.resolve("HEAD").expect("a commit");
        let origin = Origin { revision, uid: 1000, gid: 100, made: MADE };
        let thread = Thread::begin(&self.directory(), objects, blobs, origin).expect("begun");
        let copy = WorkingCopy::discover(self.repository.path()).expect("a working copy");
        thread.date_from(&copy, otherwise).expect("dated");
        thread
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.repository.path().join(path)
    }
}

fn modified(thread: &Thread, path: &str) -> Time {
    let root = thread.attributes(Ino::ROOT).expect("a root");
    let found = path.split('/').fold(root, |above, name| {
        thread.lookup(above.ino, name.as_bytes()).expect("looked up").expect("there")
    });
    found.modified
}

fn date(path: &Path, seconds: i64) {
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds.unsigned_abs());
    std::fs::File::options().append(true).open(path).expect("there").set_modified(time).expect("dated");
}

#[test]
fn what_is_the_same_in_the_working_copy_is_dated_as_there() {
    let bench = Bench::new();
    let thread = bench.thread(None);
    for path in ["file", "run", "link", "dir/a", "dir/deep/er/c", "more/same"] {
        assert_eq!(modified(&thread, path), THERE, "{path}");
    }
    assert_eq!(modified(&thread, "dir"), MADE, "git knows nothing of directories");
    drop(thread);
    let (objects, blobs) = bench.parts();
    let again = Thread::open(&bench.directory(), objects, blobs).expect("opened");
    assert_eq!(modified(&again, "dir/a"), THERE);
}

#[test]
fn what_is_otherwise_in_the_working_copy_is_dated_as_the_thread() {
    for otherwise in [None, Some(OTHERWISE)] {
        let bench = Bench::new();
        bench.repository.write("dir/a", b"changed!");
        bench.repository.write("more/same", b"staged!!");
        bench.repository.git(&["add", "more/same"]);
        std::fs::remove_file(bench.path("run")).expect("removed");
        std::fs::remove_file(bench.path("link")).expect("removed");
        std::os::unix::fs::symlink("elsewhere", bench.path("link")).expect("made");
        std::fs::rename(bench.path("dir/deep"), bench.path("aside")).expect("renamed");
        std::os::unix::fs::symlink("../aside", bench.path("dir/deep")).expect("made");
        let thread = bench.thread(otherwise);
        for path in ["dir/a", "more/same", "run", "link", "dir/deep/er/c"] {
            assert_eq!(modified(&thread, path), otherwise.unwrap_or(MADE), "{path}");
        }
        assert_eq!(modified(&thread, "dir/b"), THERE);
    }
}

#[test]
fn what_is_dated_later_than_the_thread_is_dated_as_it() {
    let bench = Bench::new();
    date(&bench.path("file"), MADE.seconds + 1);
    bench.repository.git(&["update-index", "--refresh"]);
    assert_eq!(modified(&bench.thread(Some(OTHERWISE)), "file"), MADE);
}

#[test]
fn a_copy_that_is_written_to_has_its_own_time_and_one_that_is_not_the_bases() {
    let bench = Bench::new();
    let thread = bench.thread(None);
    let file = thread.lookup(Ino::ROOT, b"file").expect("looked up").expect("there");
    drop(thread.open_content(file.ino, crate::thread::Access::Write).expect("copied up"));
    assert_eq!(modified(&thread, "file"), THERE);
    let mut file = thread.open_content(file.ino, crate::thread::Access::Write).expect("opened");
    file.write_all(b"more").expect("written");
    assert!(modified(&thread, "file") > MADE);
}

#[test]
fn the_index_of_a_thread_that_is_dated_needs_no_file_to_be_read() {
    let bench = Bench::new();
    let thread = bench.thread(None);
    let path = bench.scratch.path().join("index");
    std::fs::write(&path, thread.git_index().expect("made")).expect("written");
    let index = GitIndex::read(&path, Hash::Sha1).expect("an index");
    assert_eq!(index.find(b"dir/a").expect("an entry").modified, THERE);
}

#[test]
fn damaged_times_are_none() {
    let dated = vec![(Ino(7), THERE), (Ino(3), MADE), (Ino(5), OTHERWISE)];
    let times = Times::from(dated.clone());
    let bytes = times.bytes();
    assert_eq!(Times::parse(&bytes).as_ref(), Some(&times));
    for (ino, time) in dated {
        assert_eq!(times.of(ino), Some(time));
    }
    assert_eq!([0, 1, 2, 4, 6, 8].map(|ino| times.of(Ino(ino))), [None; 6]);
    for end in 0..bytes.len() {
        assert_eq!(Times::parse(&bytes[..end]), None);
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert_eq!(Times::parse(&damaged), None, "{at}");
    }
}
