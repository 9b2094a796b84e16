//! Threads, over FUSE.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, RenameFlags, XattrFlags};
use store::blobs::BlobCache;
use store::node::Time;
use store::objects::Objects;
use store::thread::Thread;
use wire::api::machine::Source;
use wire::worker::{FromWorker, Place, ThreadPlace, ToWorker};

use super::field::{DEADLINE, Field, ask};

/// What the cache of the revision's contents may take.
const BLOBS_BYTES: u64 = 64 << 20;

/// A repository, and a thread of its first commit.
pub struct Origin {
    scratch: tempfile::TempDir,
}

impl Origin {
    /// With some files, one of them large.
    pub fn new() -> Origin {
        let origin = Origin { scratch: tempfile::tempdir().unwrap() };
        let root = origin.repository();
        fs::create_dir_all(root.join("dir/deep")).unwrap();
        fs::write(root.join("file"), "content\n").unwrap();
        fs::write(root.join("empty"), "").unwrap();
        fs::write(root.join("dir/a"), "a of dir").unwrap();
        fs::write(root.join("dir/b"), "b of dir").unwrap();
        fs::write(root.join("dir/deep/c"), "c, deep").unwrap();
        fs::write(root.join("large"), large()).unwrap();
        fs::write(root.join("run"), "#!/bin/sh\necho it runs\n").unwrap();
        fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("dir/a", root.join("link")).unwrap();
        origin.git(&["init", "-q", "-b", "main", "--object-format=sha1"]);
        origin.git(&["add", "-A"]);
        origin.git(&["commit", "-qm", "first"]);
        let objects = Arc::new(Objects::discover(&root).unwrap());
        let blobs = Arc::new(BlobCache::open(&origin.path("blobs"), BLOBS_BYTES).unwrap());
        let made = Time { seconds: 1_700_000_000, nanoseconds: 5 };
        let revision = objects.resolve("HEAD").unwrap();
        let from = store::names::Origin { revision, uid: 0, gid: 0, made };
        drop(Thread::begin(&origin.path("thread"), objects, blobs, from).unwrap());
        origin
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    fn git(&self, words: &[&str]) {
        let mut git = Command::new("git");
        git.current_dir(self.repository()).args(words).stdin(Stdio::null());
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for part in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{part}_NAME"), "test").env(format!("GIT_{part}_EMAIL"), "test@example.org");
        }
        assert!(git.status().unwrap().success(), "git {words:?}");
    }

    /// Mounts the thread; `None` where that is not possible.
    pub fn mount(&self, contents: Contents) -> Option<Field> {
        self.mount_with(contents, "")
    }

    fn mount_with(&self, contents: Contents, fault: &str) -> Option<Field> {
        let options: &[(&str, &str)] = match contents {
            Contents::PassedThrough => &[("allow-other", "")],
            Contents::Served => &[("allow-other", ""), ("no-passthrough", "")],
        };
        Field::begin(options, |wanted| {
            wanted.source = Source::parse(b"thread:test", b"/").unwrap();
            wanted.fault = fault.to_owned();
            wanted.place = Place::Thread(ThreadPlace {
                directory: self.path("thread").as_path().into(),
                repository: self.repository().join(".git").as_path().into(),
                hash: "sha1".to_owned(),
                blobs: self.path("blobs").as_path().into(),
                blobs_bytes_max: BLOBS_BYTES,
                sees: None,
            });
        })
    }
}

/// Who reads and writes contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// The kernel.
    PassedThrough,
    /// The worker.
    Served,
}

const BOTH: [Contents; 2] = [Contents::PassedThrough, Contents::Served];

fn large() -> Vec<u8> {
    (0..3_000_000u32).map(|number| (number / 7 % 251) as u8).collect()
}

/// All there is to see of a tree but times of access.
pub fn seen(root: &Path) -> BTreeMap<PathBuf, (u32, u64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(root.join(&at)).unwrap() {
            let path = at.join(entry.unwrap().file_name());
            let found = fs::symlink_metadata(root.join(&path)).unwrap();
            let content = match found.file_type() {
                kind if kind.is_file() => fs::read(root.join(&path)).unwrap(),
                kind if kind.is_symlink() => {
                    fs::read_link(root.join(&path)).unwrap().into_os_string().into_encoded_bytes()
                }
                _ => Vec::new(),
            };
            if found.is_dir() {
                left.push(path.clone());
            }
            let links = if found.is_dir() { 0 } else { found.nlink() };
            all.insert(path, (found.mode(), links, content));
        }
    }
    all
}

fn identities(root: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let of = |path: PathBuf| {
        let found = fs::symlink_metadata(root.join(&path)).unwrap();
        (path, (found.ino(), found.mtime(), found.mtime_nsec()))
    };
    seen(root).into_keys().map(of).collect()
}

/// How many plain files the thread has.
fn plain_files(origin: &Origin) -> usize {
    fs::read_dir(origin.path("thread/files")).unwrap().count()
}

#[test]
fn a_thread_shows_its_revision_and_keeps_what_is_done_to_it() {
    for contents in BOTH {
        let origin = Origin::new();
        let Some(field) = origin.mount(contents) else { return };
        let root = field.mounted();
        let mut expected = seen(&origin.repository());
        expected.retain(|path, _| !path.starts_with(".git"));
        assert_eq!(seen(&root), expected);
        let output = Command::new(root.join("run")).output().unwrap();
        assert_eq!(output.stdout, b"it runs\n");

        fs::write(root.join("file"), "other").unwrap();
        File::options().append(true).open(root.join("dir/a")).unwrap().write_all(b", more").unwrap();
        fs::rename(root.join("dir"), root.join("moved")).unwrap();
        fs::remove_file(root.join("empty")).unwrap();
        fs::create_dir(root.join("new")).unwrap();
        fs::hard_link(root.join("large"), root.join("new/large")).unwrap();
        assert_eq!(fs::read_to_string(root.join("moved/a")).unwrap(), "a of dir, more");
        let (before, identified) = (seen(&root), identities(&root));
        assert_eq!(before.len(), 11);
        field.stop();

        let field = origin.mount(contents).unwrap();
        assert_eq!(seen(&field.mounted()), before, "{contents:?}");
        assert_eq!(identities(&field.mounted()), identified, "{contents:?}");
        field.kill_worker();
        assert_eq!(identities(&field.mounted()), identified, "{contents:?}");
        let list = origin.path("list");
        let asked = ToWorker::ListChanged { number: 3, to: list.as_path().into() };
        let answer = ask(&field.connect(), &asked);
        assert_eq!(answer, FromWorker::ListedChanged { number: 3, failed: None });
        let listed = fs::read_to_string(&list).unwrap();
        let listed: Vec<&str> = listed.split_terminator('\0').collect();
        assert_eq!(listed, ["-dir", "-empty", "+file", "+moved", "+moved/a", "+new", "+new/large"]);
        field.stop();
    }
}

#[test]
fn what_is_open_goes_on_after_the_worker_was_killed() {
    for contents in BOTH {
        let origin = Origin::new();
        let Some(field) = origin.mount(contents) else { return };
        let at = |name: &str| field.mounted().join(name);
        let options = || {
            let mut options = File::options();
            options.read(true).write(true);
            options
        };
        let mut appended = File::options().append(true).create_new(true).open(at("appended")).unwrap();
        let mut unnamed = options().create_new(true).open(at("unnamed")).unwrap();
        unnamed.write_all(b"still here").unwrap();
        fs::remove_file(at("unnamed")).unwrap();
        let of_base = File::open(at("dir/b")).unwrap();
        fs::remove_file(at("dir/b")).unwrap();
        let read_only = File::open(at("dir/a")).unwrap();
        let written = options().open(at("dir/a")).unwrap();
        let mut nameless = options().custom_flags(libc_tmpfile()).mode(0o600).open(at("dir")).unwrap();
        nameless.write_all(b"has no name").unwrap();
        let mut many: Vec<File> = Vec::new();
        for number in 0..300 {
            many.push(options().create_new(true).open(at(&format!("dir/f{number}"))).unwrap());
        }
        let mut listing = fs::read_dir(at("dir")).unwrap();
        let mut names: Vec<_> = listing.by_ref().take(10).map(|entry| entry.unwrap().file_name()).collect();
        let mut bytes = vec![0; 10];
        for round in 0..4 {
            field.kill_worker();
            appended.write_all(format!("{round} ").as_bytes()).unwrap();
            unnamed.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, b"still here");
            assert_eq!((unnamed.metadata().unwrap().nlink(), unnamed.metadata().unwrap().len()), (0, 10));
            of_base.read_exact_at(&mut bytes[..8], 0).unwrap();
            assert_eq!(&bytes[..8], b"b of dir");
            written.write_all_at(format!("A{round}").as_bytes(), 0).unwrap();
            read_only.read_exact_at(&mut bytes[..8], 0).unwrap();
            assert_eq!(bytes[..8], *format!("A{round}of dir").as_bytes(), "{contents:?}");
            // Whoever comes later sees it, and can write it.
            assert_eq!(fs::read_to_string(at("dir/a")).unwrap(), format!("A{round}of dir"));
            drop(options().open(at("dir/a")).unwrap());
            for (number, file) in many.iter().enumerate().filter(|(number, _)| number % 4 == round) {
                file.write_all_at(number.to_string().as_bytes(), 0).unwrap();
                assert_eq!(file.metadata().unwrap().len(), number.to_string().len() as u64);
            }
            names.extend(listing.by_ref().take(60).map(|entry| entry.unwrap().file_name()));
        }
        names.extend(listing.map(|entry| entry.unwrap().file_name()));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 302, "{contents:?}");
        rustix::fs::linkat(
            CWD,
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&nameless)),
            CWD,
            at("named"),
            AtFlags::SYMLINK_FOLLOW,
        )
        .unwrap();
        field.kill_worker();
        assert_eq!(fs::read_to_string(at("named")).unwrap(), "has no name");
        assert_eq!(fs::read_to_string(at("appended")).unwrap(), "0 1 2 3 ");
        for number in 0..300 {
            assert_eq!(fs::read_to_string(at(&format!("dir/f{number}"))).unwrap(), number.to_string());
        }
        drop((appended, unnamed, of_base, read_only, written, nameless, many));
        let Some(plain) = eventually(|| Some(plain_files(&origin)).filter(|plain| *plain == 303)) else {
            panic!("{} plain files stay: {}", plain_files(&origin), field.log())
        };
        assert_eq!(plain, 303, "what has no name and is closed is gone");
        field.stop();
    }
}

fn libc_tmpfile() -> i32 {
    rustix::fs::OFlags::TMPFILE.bits().cast_signed()
}

fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + DEADLINE;
    while Instant::now() < until {
        if let Some(found) = look() {
            return Some(found);
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    None
}

#[test]
fn readers_and_writers_of_one_file_see_the_same_whoever_came_first() {
    for contents in BOTH {
        let origin = Origin::new();
        let Some(field) = origin.mount(contents) else { return };
        let at = |name: &str| field.mounted().join(name);
        for name in ["large", "written"] {
            if name == "written" {
                fs::write(at(name), large()).unwrap();
            }
            let early = File::open(at(name)).unwrap();
            let mut bytes = vec![0; 5000];
            early.read_exact_at(&mut bytes, 1 << 20).unwrap();
            let writer = File::options().read(true).write(true).open(at(name)).unwrap();
            let late = File::open(at(name)).unwrap();
            writer.write_all_at(&[0xee; 4000], (1 << 20) + 500).unwrap();
            writer.set_len(2_000_000).unwrap();
            for file in [&early, &late, &writer] {
                file.read_exact_at(&mut bytes, 1 << 20).unwrap();
                let mut expected = large()[1 << 20..][..5000].to_vec();
                expected[500..4500].fill(0xee);
                assert!(bytes == expected, "{name}, {contents:?}");
                assert_eq!(file.metadata().unwrap().len(), 2_000_000, "{name}, {contents:?}");
            }
            drop((early, late, writer));
            // Nobody has it open: it is passed through from here on, and what the kernel has kept of it is not used.
            let writer = File::options().write(true).open(at(name)).unwrap();
            writer.write_all_at(b"through", 0).unwrap();
            let before = fs::metadata(at(name)).unwrap();
            writer.write_all_at(b"end", 2_000_000).unwrap();
            let after = fs::metadata(at(name)).unwrap();
            assert_eq!((before.len(), after.len()), (2_000_000, 2_000_003), "{name}, {contents:?}");
            assert!(before.modified().unwrap() <= after.modified().unwrap());
            drop(writer);
            let found = fs::read(at(name)).unwrap();
            assert_eq!((&found[..7], &found[2_000_000..]), (&b"through"[..], &b"end"[..]));
        }
        field.stop();
    }
}

#[test]
fn a_file_is_mapped_and_written_in_its_mapping() {
    for contents in BOTH {
        let origin = Origin::new();
        let Some(field) = origin.mount(contents) else { return };
        let at = |name: &str| field.mounted().join(name);
        fs::write(at("new"), vec![b'.'; 10_000]).unwrap();
        for name in ["new", "large"] {
            let script = "import mmap,os,sys\nf=os.open(sys.argv[1],os.O_RDWR)\nm=mmap.mmap(f,0)\nos.close(f)\n\
                          m[5000:5004]=b'here'\nm.flush()\nprint(m[5000:5004].decode())\nm[9000:9004]=b'late'\nm.close()";
            let output = Command::new("python3").args(["-c", script]).arg(at(name)).output().unwrap();
            assert_eq!(output.stdout, b"here\n", "{}", String::from_utf8_lossy(&output.stderr));
            let found = fs::read(at(name)).unwrap();
            assert_eq!(
                (&found[5000..5004], &found[9000..9004]),
                (&b"here"[..], &b"late"[..]),
                "{contents:?}"
            );
        }
        field.stop();
    }
}

#[test]
fn what_posix_says_of_names_and_attributes_holds() {
    let origin = Origin::new();
    let Some(field) = origin.mount(Contents::PassedThrough) else { return };
    let at = |name: &str| field.mounted().join(name);
    let errno = |error: std::io::Error| rustix::io::Errno::from_io_error(&error).unwrap();
    use rustix::io::Errno;

    assert_eq!(errno(fs::create_dir(at("dir")).unwrap_err()), Errno::EXIST);
    assert_eq!(errno(fs::remove_dir(at("dir")).unwrap_err()), Errno::NOTEMPTY);
    assert_eq!(errno(fs::metadata(at(&"n".repeat(256))).unwrap_err()), Errno::NAMETOOLONG);
    assert_eq!(errno(fs::rename(at("dir"), at("dir/deep/in")).unwrap_err()), Errno::INVAL);
    let renamed = |from: &str, to: &str, how| rustix::fs::renameat_with(CWD, at(from), CWD, at(to), how);
    assert_eq!(renamed("file", "run", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    renamed("file", "dir", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read_to_string(at("file/a")).unwrap(), "a of dir");
    assert_eq!(fs::read_to_string(at("dir")).unwrap(), "content\n");

    rustix::fs::setxattr(at("run"), "user.name", b"value", XattrFlags::CREATE).unwrap();
    let again = rustix::fs::setxattr(at("run"), "user.name", b"other", XattrFlags::CREATE);
    assert_eq!(again, Err(Errno::EXIST));
    let mut value = [0; 16];
    assert_eq!(rustix::fs::getxattr(at("run"), "user.name", &mut value), Ok(5));
    rustix::fs::removexattr(at("run"), "user.name").unwrap();
    assert_eq!(rustix::fs::getxattr(at("run"), "user.name", &mut value), Err(Errno::NODATA));

    let directory = fs::metadata(at("file")).unwrap();
    rustix::fs::chown(at("file"), None, Some(rustix::process::Gid::from_raw(12))).unwrap();
    fs::set_permissions(at("file"), fs::Permissions::from_mode(0o2755)).unwrap();
    fs::create_dir(at("file/within")).unwrap();
    let within = fs::metadata(at("file/within")).unwrap();
    assert_eq!((within.gid(), within.mode() & 0o7777), (12, 0o2755));
    assert!(fs::metadata(at("file")).unwrap().modified().unwrap() > directory.modified().unwrap());

    let made = fs::File::create(at("set")).unwrap();
    made.set_permissions(fs::Permissions::from_mode(0o6777)).unwrap();
    drop(made);
    rustix::fs::chown(at("set"), Some(rustix::process::Uid::from_raw(7)), None).unwrap();
    assert_eq!(fs::metadata(at("set")).unwrap().mode() & 0o7777, 0o777, "a change of owner takes them");
    fs::set_permissions(at("set"), fs::Permissions::from_mode(0o6777)).unwrap();
    let written = Command::new("setpriv")
        .args(["--reuid=9", "--regid=9", "--clear-groups", "sh", "-c", "echo more >> \"$0\""])
        .arg(at("set"))
        .status()
        .unwrap();
    assert!(written.success());
    assert_eq!(fs::metadata(at("set")).unwrap().mode() & 0o7777, 0o777, "so does a write of another's");

    let sparse = File::options().read(true).write(true).create_new(true).open(at("sparse")).unwrap();
    sparse.write_all_at(b"end", 1 << 30).unwrap();
    assert_eq!(rustix::fs::seek(&sparse, rustix::fs::SeekFrom::Data(0)).unwrap(), 1 << 30);
    assert_eq!(rustix::fs::seek(&sparse, rustix::fs::SeekFrom::Hole(0)).unwrap(), 0);
    assert!(sparse.metadata().unwrap().blocks() < 100);
    rustix::fs::fallocate(&sparse, rustix::fs::FallocateFlags::empty(), 1 << 30, 100).unwrap();
    assert_eq!(sparse.metadata().unwrap().len(), (1 << 30) + 100);

    let mut held = File::options().read(true).write(true).open(at("run")).unwrap();
    fs::remove_file(at("run")).unwrap();
    held.seek(SeekFrom::End(0)).unwrap();
    held.write_all(b"on").unwrap();
    let mut text = String::new();
    held.seek(SeekFrom::Start(0)).unwrap();
    held.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("it runs\non"));
    drop((held, sparse));
    field.stop();
}

#[test]
fn a_panic_costs_one_request_and_one_worker() {
    let origin = Origin::new();
    let Some(field) = origin.mount_with(Contents::PassedThrough, "Mkdir") else { return };
    for number in 1..=3 {
        let made = fs::create_dir(field.mounted().join("new")).unwrap_err();
        assert_eq!(made.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{made}");
        assert_eq!(fs::read_to_string(field.mounted().join("file")).unwrap(), "content\n");
        assert_eq!(field.status(|status| status.worker.is_some()).restarts, number);
    }
    assert!(!field.mounted().join("new").exists());
    field.stop();
}

#[test]
fn what_the_kernel_knows_it_asks_once() {
    for contents in BOTH {
        let origin = Origin::new();
        let Some(field) = origin.mount(contents) else { return };
        let look = || {
            let names = seen(&field.mounted()).len();
            assert!(!field.mounted().join("none").exists());
            assert_eq!(
                File::open(field.mounted().join(OsStr::new("link"))).unwrap().metadata().unwrap().len(),
                8
            );
            names
        };
        let asked = |field: &Field| match field.status_of_worker() {
            FromWorker::Status(status) => status.operations,
            other => panic!("{other:?}"),
        };
        // Whoever opens a file is asked for it where some are passed through, and nothing else.
        let usual: &[&str] = match contents {
            Contents::PassedThrough => &["Open", "Release"],
            Contents::Served => &[],
        };
        let mut last = Vec::new();
        // What was read has another time of access, which is asked for once; and a kernel that is short of memory forgets.
        let asks_nothing = eventually(|| {
            let before = asked(&field);
            look();
            let after = asked(&field).into_iter();
            last = after.filter(|(name, count)| before.get(name) != Some(count)).collect();
            last.iter().all(|(name, _)| usual.contains(&name.as_str())).then_some(())
        });
        assert!(asks_nothing.is_some(), "{contents:?}: {last:?}");
        field.stop();
    }
}
