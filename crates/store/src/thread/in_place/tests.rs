use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;
use crate::Hash;
use crate::blobs::BlobCache;
use crate::names::Origin;
use crate::node::{Attributes, Time};
use crate::objects::Objects;
use crate::testing::{Repository, repository};
use crate::thread::{Access, AttributeChanges, Changed, New, Remains, RenameMode, XattrMode};

const MADE: Time = Time { seconds: 1_700_000_000, nanoseconds: 0 };
const NOW: Time = Time { seconds: 1_700_000_100, nanoseconds: 9 };
const NEW: New = New { mode: 0o644, uid: 1000, gid: 100 };

/// Number, mode, names, times of the last changes, content.
type Said = (u64, u32, u64, i64, i64, Vec<u8>);

struct Bench {
    repository: Repository,
    scratch: tempfile::TempDir,
    thread: Option<Thread>,
}

/// A thread of a working copy with `.env`, `dir/x.o` and `cache/` ignored.
fn bench() -> Bench {
    let repository = repository(Hash::Sha1);
    repository.write(".gitignore", b".env\ncache/\n*.o\n");
    repository.commit("with rules");
    repository.write(".env", b"secret");
    repository.write("dir/x.o", b"object");
    repository.write("cache/one", b"one");
    repository.write("cache/deep/er/two", b"two");
    repository.write("untracked", b"neither");
    repository.write("new/x.o", b"below what is not tracked");
    repository.write("new/untracked", b"neither");
    symlink("one", repository.path().join("cache/link")).expect("made");
    let scratch = tempfile::tempdir().expect("a directory");
    let mut bench = Bench { repository, scratch, thread: None };
    let (objects, blobs) = bench.parts();
    let revision = objects.resolve("HEAD").expect("a commit");
    let origin = Origin { revision, uid: 1000, gid: 100, made: MADE };
    let thread = Thread::begin(&bench.directory(), objects, blobs, origin).expect("begun");
    let copy = WorkingCopy::discover(bench.repository.path()).expect("a working copy");
    thread.see_ignored(&copy).expect("seen");
    bench.thread = Some(thread);
    bench
}

impl Bench {
    fn parts(&self) -> (Arc<Objects>, Arc<BlobCache>) {
        let objects = Objects::discover(self.repository.path()).expect("a repository");
        let blobs = BlobCache::open(&self.scratch.path().join("blobs"), 1 << 20).expect("opened");
        (Arc::new(objects), Arc::new(blobs))
    }

    fn directory(&self) -> PathBuf {
        self.scratch.path().join("thread")
    }

    fn thread(&self) -> &Thread {
        self.thread.as_ref().expect("open")
    }

    fn reopen(&mut self) {
        self.thread = None;
        let (objects, blobs) = self.parts();
        self.thread = Some(Thread::open(&self.directory(), objects, blobs).expect("opened"));
    }

    fn there(&self, path: &str) -> PathBuf {
        self.repository.path().join(path)
    }

    fn find(&self, path: &str) -> Option<Attributes> {
        let root = self.thread().attributes(Ino::ROOT).expect("a root");
        path.split('/').try_fold(root, |above, name| {
            self.thread().lookup(above.ino, name.as_bytes()).expect("looked up")
        })
    }

    fn ino(&self, path: &str) -> Ino {
        self.find(path).unwrap_or_else(|| panic!("{path} is not there")).ino
    }

    /// The directory of a path, and the name in it.
    fn place<'a>(&self, path: &'a str) -> (Ino, &'a [u8]) {
        match path.rsplit_once('/') {
            Some((above, name)) => (self.ino(above), name.as_bytes()),
            None => (Ino::ROOT, path.as_bytes()),
        }
    }

    fn content(&self, path: &str) -> String {
        let mut content = String::new();
        let opened = self.thread().open_content(self.ino(path), Access::Read);
        opened.expect("opened").read_to_string(&mut content).expect("read");
        content
    }

    fn write(&self, path: &str, content: &[u8]) {
        let opened = self.thread().open_content(self.ino(path), Access::Truncate);
        opened.expect("opened").write_all(content).expect("written");
    }

    fn make(&self, path: &str) {
        let (directory, name) = self.place(path);
        self.thread().create(directory, name, NEW, NOW).expect("made");
    }

    fn remove(&self, path: &str) {
        let (directory, name) = self.place(path);
        match self.find(path).expect("there").kind {
            Kind::Directory => self.thread().remove_directory(directory, name, Remains::Nothing, NOW),
            _ => self.thread().unlink(directory, name, Remains::Nothing, NOW),
        }
        .expect("removed");
    }

    fn rename(&self, from: &str, to: &str) {
        let (from, to) = (self.place(from), self.place(to));
        let renamed = self.thread().rename(from, to, RenameMode::Replace, Remains::Nothing, NOW);
        renamed.expect("renamed");
    }

    fn names(&self, path: &str) -> Vec<String> {
        let directory = if path.is_empty() { Ino::ROOT } else { self.ino(path) };
        let (mut names, mut from) = (Vec::new(), 0);
        loop {
            // Few at once, so that it is gone on with.
            let listed = self.thread().list(directory, from, 2).expect("listed");
            let Some(last) = listed.last() else { break };
            from = last.cookie;
            names.extend(listed.iter().map(|name| String::from_utf8_lossy(&name.name).into_owned()));
        }
        names.sort_unstable();
        names
    }

    fn changed(&self) -> Vec<String> {
        let text = |Changed { path, is_there }: &Changed| {
            format!("{}{}", if *is_there { '+' } else { '-' }, String::from_utf8_lossy(path))
        };
        self.thread().changed().expect("told").iter().map(text).collect()
    }

    /// All that can be said of the working copy, but for what git does in it.
    fn all_there(&self) -> BTreeMap<PathBuf, Said> {
        let (mut all, mut left) = (BTreeMap::new(), vec![self.repository.path().to_owned()]);
        while let Some(path) = left.pop() {
            let found = path.symlink_metadata().expect("there");
            let content = match () {
                () if found.is_file() => fs::read(&path).expect("read"),
                () if found.is_symlink() => {
                    fs::read_link(&path).expect("read").into_os_string().into_encoded_bytes()
                }
                () => Vec::new(),
            };
            if found.is_dir() {
                let entries =
                    fs::read_dir(&path).expect("listed").map(|entry| entry.expect("an entry").path());
                left.extend(entries.filter(|path| !path.ends_with(".git")));
            }
            let said = (found.ino(), found.mode(), found.nlink(), found.mtime(), found.ctime_nsec(), content);
            all.insert(path, said);
        }
        all
    }
}

#[test]
fn what_is_ignored_is_seen_and_what_is_only_untracked_is_not() {
    let bench = bench();
    assert_eq!(bench.content(".env"), "secret");
    assert_eq!(bench.content("dir/x.o"), "object");
    assert_eq!(bench.content("cache/deep/er/two"), "two");
    assert_eq!(bench.names("cache"), ["deep", "link", "one"]);
    assert_eq!(bench.names("dir"), ["a", "b", "deep", "x.o"]);
    assert_eq!(bench.thread().read_link(bench.ino("cache/link")).expect("read"), b"one");
    for path in ["untracked", "new", "cache/none", "cache/deep/none"] {
        assert!(bench.find(path).is_none(), "{path}");
    }
    let names = bench.names("");
    assert!(names.contains(&".env".to_owned()) && !names.contains(&"untracked".to_owned()), "{names:?}");
    fs::set_permissions(bench.there("cache/one"), fs::Permissions::from_mode(0o751)).expect("set");
    let (seen, found) =
        (bench.find("cache/one").expect("seen"), bench.there("cache/one").metadata().expect("there"));
    assert_eq!((seen.mode, seen.uid, seen.size), (0o751, found.uid(), 3));
    assert_eq!(seen.modified, Time { seconds: found.mtime(), nanoseconds: found.mtime_nsec() as u32 });
    assert!(seen.is_in_place && !seen.is_written);
}

#[test]
fn nothing_that_is_done_in_a_thread_is_done_there() {
    let bench = bench();
    for name in ["chmod", "dated", "linked", "tagged", "cut", "written", "renamed", "exchanged", "removed"] {
        bench.repository.write(&format!("cache/many/{name}"), name.as_bytes());
    }
    let before = bench.all_there();
    let thread = bench.thread();
    let set = |path: &str, changes: AttributeChanges| {
        thread.set_attributes(bench.ino(path), &changes, NOW).expect("set")
    };
    let none = AttributeChanges::default();
    set("cache/many/chmod", AttributeChanges { mode: Some(0o600), uid: Some(7), ..none });
    set("cache/many/dated", AttributeChanges { modified: Some(MADE), ..none });
    let cut = set("cache/many/cut", AttributeChanges { size: Some(2), ..none });
    set("cache/deep", AttributeChanges { mode: Some(0o700), ..none });
    set("cache/link", AttributeChanges { modified: Some(MADE), ..none });
    assert_eq!((cut.size, bench.content("cache/many/cut")), (2, "cu".to_owned()));
    assert_eq!(bench.find("cache/many/chmod").expect("there").mode, 0o600);
    assert_eq!(bench.find("cache/many/dated").expect("there").modified, MADE);
    assert_eq!(bench.find("cache/deep").expect("there").mode, 0o700);
    let linked = bench.ino("cache/many/linked");
    thread.link(linked, bench.ino("cache"), b"again", NOW).expect("linked");
    thread.set_xattr(bench.ino("cache/many/tagged"), b"user.a", b"b", XattrMode::Create, NOW).expect("set");
    bench.write("cache/many/written", b"otherwise");
    bench.write("cache/again", b"both");
    assert_eq!(bench.content("cache/many/linked"), "both");
    bench.rename("cache/many/renamed", "cache/many/anew");
    bench.rename("cache/many/removed", "dir/a");
    let (one, other) = (bench.place("cache/many/exchanged"), bench.place(".env"));
    thread.rename(one, other, RenameMode::Exchange, Remains::Nothing, NOW).expect("exchanged");
    assert_eq!(
        (bench.content(".env"), bench.content("cache/many/exchanged")),
        ("exchanged".into(), "secret".into())
    );
    assert_eq!(
        (bench.content("dir/a"), bench.content("cache/many/anew")),
        ("removed".into(), "renamed".into())
    );
    bench.remove("cache/one");
    bench.remove("cache/link");
    bench.remove("cache/deep/er/two");
    bench.remove("cache/deep/er");
    bench.make("cache/made");
    bench.rename("cache", "elsewhere");
    assert_eq!(bench.names("elsewhere"), ["again", "deep", "made", "many"]);
    assert_eq!(bench.all_there(), before);
}

#[test]
fn what_changes_there_is_seen() {
    let bench = bench();
    let (one, deep) = (bench.ino("cache/one"), bench.ino("cache/deep"));
    fs::write(bench.there("cache/one"), "longer than it was").expect("written");
    assert_eq!(bench.find("cache/one").expect("seen").size, 18);
    assert_eq!((bench.ino("cache/one"), bench.content("cache/one")), (one, "longer than it was".to_owned()));
    bench.repository.write("cache/fresh", b"fresh");
    assert_eq!(bench.content("cache/fresh"), "fresh");
    fs::rename(bench.there("cache/fresh"), bench.there("cache/one")).expect("renamed");
    assert_ne!(bench.ino("cache/one"), one, "another file");
    assert_eq!(bench.content("cache/one"), "fresh");
    assert!(thread_says_stale(&bench, one));
    assert_eq!(bench.names("cache"), ["deep", "link", "one"]);
    fs::remove_dir_all(bench.there("cache/deep")).expect("removed");
    assert!(bench.find("cache/deep").is_none());
    bench.repository.write("cache/deep", b"a file");
    assert_eq!(bench.content("cache/deep"), "a file");
    assert_ne!(bench.ino("cache/deep"), deep);
    fs::remove_dir_all(bench.there("cache")).expect("removed");
    assert!(bench.find("cache").is_none());
    bench.repository.write("cache/one", b"again");
    assert_eq!(bench.content("cache/one"), "again");
    fs::remove_file(bench.there(".env")).expect("removed");
    assert!(!bench.names("").contains(&".env".to_owned()));
    fs::write(bench.there(".env"), "back").expect("written");
    assert_eq!(bench.content(".env"), "back");
}

fn thread_says_stale(bench: &Bench, ino: Ino) -> bool {
    matches!(bench.thread().attributes(ino), Err(crate::Error::Refused(Refusal::Stale)))
}

#[test]
fn what_was_changed_in_the_thread_stays_whatever_goes_there() {
    let mut bench = bench();
    bench.repository.write("cache/deep/er/three", b"three");
    bench.repository.write("cache/deep/other/four", b"four");
    bench.names("cache/deep/other");
    bench.write("cache/deep/er/two", b"mine");
    fs::remove_dir_all(bench.there("cache")).expect("removed");
    for _ in 0..2 {
        assert_eq!(bench.content("cache/deep/er/two"), "mine");
        assert_eq!(
            (bench.names("cache"), bench.names("cache/deep")),
            (vec!["deep".to_owned()], vec!["er".to_owned()])
        );
        bench.thread().compact().expect("compacted");
        bench.reopen();
    }
    bench.repository.write("cache/deep/er/two", b"theirs");
    bench.repository.write("cache/deep/er/five", b"five");
    assert_eq!(bench.content("cache/deep/er/two"), "mine");
    assert_eq!(bench.content("cache/deep/er/five"), "five");
}

#[test]
fn what_was_removed_in_the_thread_does_not_come_back() {
    let mut bench = bench();
    bench.remove("cache/one");
    bench.remove(".env");
    bench.write("cache/deep/er/two", b"mine");
    bench.remove("cache/deep/er/two");
    bench.rename("cache/link", "cache/renamed");
    for _ in 0..2 {
        bench.repository.write("cache/one", b"anew");
        bench.repository.write(".env", b"anew");
        for path in ["cache/one", ".env", "cache/deep/er/two", "cache/link"] {
            assert!(bench.find(path).is_none(), "{path}");
        }
        assert_eq!(bench.names("cache"), ["deep", "renamed"]);
        bench.thread().compact().expect("compacted");
        bench.reopen();
    }
    bench.make("cache/one");
    bench.make(".env");
    assert_eq!((bench.content("cache/one"), bench.content(".env")), (String::new(), String::new()));
    assert_eq!(bench.names("cache"), ["deep", "one", "renamed"]);
    bench.remove("cache/one");
    assert!(bench.find("cache/one").is_none());
    // What never was there leaves nothing.
    bench.make("cache/temporary");
    bench.remove("cache/temporary");
    bench.repository.write("cache/temporary", b"there");
    assert_eq!(bench.content("cache/temporary"), "there");
}

#[test]
fn a_directory_is_removed_when_all_that_is_seen_in_it_is() {
    let bench = bench();
    let (directory, name) = bench.place("cache/deep/er");
    let refused = bench.thread().remove_directory(directory, name, Remains::Nothing, NOW);
    assert!(matches!(refused, Err(crate::Error::Refused(Refusal::NotEmpty))));
    bench.remove("cache/deep/er/two");
    bench.remove("cache/deep/er");
    bench.remove("cache/deep");
    assert!(bench.find("cache/deep").is_none() && bench.there("cache/deep/er/two").exists());
    // One of the base, too.
    bench.rename("dir/x.o", "moved.o");
    for path in ["dir/a", "dir/b", "dir/deep/er/c", "dir/deep/er", "dir/deep", "dir"] {
        bench.remove(path);
    }
    assert!(bench.find("dir").is_none());
}

#[test]
fn a_directory_is_renamed_without_copying() {
    let mut bench = bench();
    bench.rename("cache/deep", "dir/moved");
    bench.rename("dir", "away");
    for _ in 0..2 {
        assert_eq!(bench.content("away/moved/er/two"), "two");
        assert_eq!(bench.content("away/x.o"), "object");
        assert!(bench.find("cache/deep").is_none());
        let copied = fs::read_dir(bench.directory().join("files")).expect("listed").count();
        assert_eq!(copied, 0);
        bench.reopen();
    }
    bench.write("away/moved/er/two", b"mine");
    assert_eq!(fs::read(bench.there("cache/deep/er/two")).expect("read"), b"two");
}

#[test]
fn git_hears_of_nothing_that_is_ignored() {
    let bench = bench();
    bench.names("cache");
    bench.content("dir/x.o");
    assert_eq!(bench.changed(), [] as [&str; 0]);
    bench.write(".env", b"mine");
    bench.write("cache/deep/er/two", b"mine");
    bench.make("cache/made");
    let (directory, name) = bench.place("cache/build");
    bench.thread().make_directory(directory, name, NEW, NOW).expect("made");
    bench.make("cache/build/made");
    bench.remove("cache/one");
    bench.remove("dir/x.o");
    assert_eq!(bench.changed(), [] as [&str; 0]);
    bench.rename("cache/deep", "dir/moved");
    assert_eq!(bench.changed(), ["+dir/moved"]);
    bench.remove("dir/a");
    assert_eq!(bench.changed(), ["-dir/a", "+dir/moved"]);
}

#[test]
fn numbers_outlive_the_process() {
    let mut bench = bench();
    for number in 0..200 {
        bench.repository.write(&format!("cache/many/{number}"), b"");
    }
    assert_eq!(bench.names("cache/many").len(), 200);
    let paths = [".env", "cache", "cache/deep/er/two", "cache/link", "cache/many/7", "dir/x.o"];
    let before = paths.map(|path| bench.ino(path));
    bench.reopen();
    assert_eq!(paths.map(|path| bench.ino(path)), before);
    bench.thread().compact().expect("compacted");
    bench.reopen();
    assert_eq!(paths.map(|path| bench.ino(path)), before);
    let length = bench.directory().join("names").metadata().expect("there").len();
    assert_eq!(bench.names("cache/many").len(), 200);
    let again = bench.directory().join("names").metadata().expect("there").len();
    assert_eq!(again, length, "what is known is not written again");
}

#[test]
fn what_leads_out_of_a_working_copy_is_not_followed() {
    let bench = bench();
    let outside = tempfile::tempdir().expect("a directory");
    fs::create_dir(outside.path().join("er")).expect("made");
    fs::write(outside.path().join("er/two"), "outside").expect("written");
    assert_eq!(bench.content("cache/deep/er/two"), "two");
    fs::rename(bench.there("cache/deep"), bench.there("cache/aside")).expect("renamed");
    symlink(outside.path(), bench.there("cache/deep")).expect("made");
    let deep = bench.find("cache/deep").expect("a symlink");
    assert_eq!(deep.kind, Kind::Symlink);
    // Who has the directory still finds nothing in it.
    let copy = WorkingCopy::at(bench.repository.path());
    assert!(copy.look(b"cache/deep/er/two").expect("looked").is_none());
    assert!(copy.list(b"cache/deep").expect("listed").is_empty());
    for path in [&b"../thread"[..], b"/etc/passwd", b"cache/../../thread"] {
        assert!(copy.look(path).map_or(true, |seen| seen.is_none()), "{path:?}");
    }
}

#[test]
fn what_lies_too_deep_is_not_seen_and_all_above_it_can_be_changed() {
    let mut bench = bench();
    let name = "n".repeat(25);
    let mut deep = "cache".to_owned();
    while deep.split('/').count() < DEPTH_MAX - 1 {
        deep = format!("{deep}/{name}");
    }
    bench.repository.write(&format!("{deep}/file"), b"deep");
    bench.repository.write(&format!("{deep}/below/file"), b"too deep");
    assert_eq!(bench.names(&deep), ["below", "file"]);
    assert!(bench.find(&format!("{deep}/below/file")).is_none());
    assert!(bench.names(&format!("{deep}/below")).is_empty());
    bench.write(&format!("{deep}/file"), b"mine");
    bench.reopen();
    assert_eq!(bench.content(&format!("{deep}/file")), "mine");
    for name in [&b".."[..], b".", b""] {
        assert!(bench.thread().lookup(bench.ino("cache"), name).expect("looked up").is_none());
    }
}

#[test]
fn repositories_and_special_files_are_not_seen() {
    let bench = bench();
    bench.repository.git(&["init", "-q", "cache/own"]);
    bench.repository.write("cache/own/file", b"of another");
    bench.repository.git(&["worktree", "add", "-q", "--detach", "cache/tree"]);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        bench.there("cache/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("made");
    assert_eq!(bench.names("cache"), ["deep", "link", "one"]);
    for path in ["cache/own", "cache/tree", "cache/fifo", "cache/.git"] {
        assert!(bench.find(path).is_none(), "{path}");
    }
    bench.make("cache/own");
    assert_eq!(bench.content("cache/own"), "");
}

#[test]
fn what_the_base_has_is_the_bases() {
    let bench = bench();
    // By force, where the rules say otherwise.
    bench.repository.write("cache/tracked", b"tracked");
    bench.repository.git(&["add", "--force", "cache/tracked"]);
    bench.repository.git(&["commit", "-qm", "tracked"]);
    let (objects, blobs) = bench.parts();
    let revision = objects.resolve("HEAD").expect("a commit");
    let origin = Origin { revision, uid: 1000, gid: 100, made: MADE };
    let directory = bench.scratch.path().join("other");
    let thread = Thread::begin(&directory, objects, blobs, origin).expect("begun");
    thread.see_ignored(&WorkingCopy::discover(bench.repository.path()).expect("there")).expect("seen");
    let other = Bench { thread: Some(thread), ..bench };
    let tracked = other.find("cache/tracked").expect("there");
    assert!(!tracked.is_in_place);
    assert!(other.find("cache/one").expect("ignored").is_in_place);
    assert_eq!(other.names("cache"), ["deep", "link", "one", "tracked"]);
}

#[test]
fn a_working_copy_that_is_gone_leaves_what_is_the_threads() {
    let bench = bench();
    bench.write("cache/one", b"mine");
    fs::rename(bench.repository.path(), bench.scratch.path().join("gone")).expect("renamed");
    assert_eq!(
        (bench.names("cache"), bench.content("cache/one")),
        (vec!["one".to_owned()], "mine".to_owned())
    );
    assert!(bench.find(".env").is_none());
    fs::rename(bench.scratch.path().join("gone"), bench.repository.path()).expect("renamed");
    assert_eq!(bench.content(".env"), "secret");
}

#[test]
fn a_file_that_never_stands_still_is_refused_or_copied_whole() {
    let bench = bench();
    let path = bench.there("cache/one");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&path).expect("opened");
            for number in 0_u64.. {
                if is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                file.write_all(&number.to_le_bytes()).expect("written");
                // It is not to fill the disk.
                if number % 4096 == 4095 {
                    file.set_len(3).expect("cut");
                }
            }
        });
        let opened = bench.thread().open_content(bench.ino("cache/one"), Access::Write);
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        match opened {
            Err(error) => assert!(matches!(error, crate::Error::Refused(Refusal::Changing)), "{error}"),
            Ok(file) => {
                let size = file.metadata().expect("there").len();
                let mut numbers = vec![0; (size - 3) as usize];
                file.read_exact_at(&mut numbers, 3).expect("read");
                let numbers: Vec<&[u8]> = numbers.chunks(8).collect();
                assert!(numbers.windows(2).all(|pair| number(pair[0]) + 1 == number(pair[1])));
            }
        }
    });
    bench.write("cache/one", b"mine");
    assert_eq!(bench.content("cache/one"), "mine");
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("whole"))
}

#[test]
fn who_may_not_read_there_may_not_read_here() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may read everything");
        return;
    }
    let bench = bench();
    fs::set_permissions(bench.there("cache/one"), fs::Permissions::from_mode(0o000)).expect("set");
    let refused = bench.thread().open_content(bench.ino("cache/one"), Access::Read);
    assert!(matches!(refused, Err(crate::Error::Refused(Refusal::Denied))));
}

#[test]
fn no_more_files_are_seen_at_once_than_may_be() {
    let mut bench = bench();
    bench.thread.as_mut().expect("open").in_place_max = 3;
    let cache = bench.ino("cache");
    let is_refused = |outcome: crate::Result<()>| {
        assert!(matches!(outcome, Err(crate::Error::Refused(Refusal::TooManySeen))), "{outcome:?}");
    };
    let look = |name: &str| bench.thread().lookup(cache, name.as_bytes()).map(drop);
    bench.ino(".env");
    is_refused(bench.thread().list(cache, 0, 10).map(drop));
    look("one").expect("the third");
    is_refused(look("link"));
    look("one").expect("known already");
    // What is the thread's own, or gone there, leaves room.
    bench.write(".env", b"mine");
    look("link").expect("the third");
    fs::remove_file(bench.there("cache/one")).expect("removed");
    assert!(bench.find("cache/one").is_none());
    look("deep").expect("the third");
    bench.reopen();
    bench.thread.as_mut().expect("open").in_place_max = 3;
    is_refused(bench.thread().lookup(bench.ino("cache/deep"), b"er").map(drop));
}
