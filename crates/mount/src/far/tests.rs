//! A machine's side against a real agent, whose root is a directory of this computer.

mod disk;
mod model;
mod saved;
mod users;

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vfs::replica::item::{Identity, Kind, Token};
use vfs::replica::side::{At, Facts, Refusal, Side, There};
use wire::agent::file::Time;

use super::*;

/// A directory whose files need not be brought to a disk to be synced, where there is one.
fn directory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// A line to an agent of its own, which ends with it.
fn line() -> StreamLine {
    let (near, far) = UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let options = agent::Options { home: b"/".to_vec(), shell: b"/bin/sh".to_vec() };
        agent::serve(&far, &far, options)
    });
    StreamLine::open(near.try_clone().unwrap(), near).unwrap()
}

fn far(root: &Path) -> Far<StreamLine> {
    Far::attach(line(), root.as_os_str().as_encoded_bytes()).unwrap()
}

/// As the machine's side tells a version.
fn version(path: &Path) -> Token {
    let found = fs::symlink_metadata(path).unwrap();
    let birth = found.created().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    let birth = u64::try_from(birth.as_nanos()).unwrap();
    let id = file::FileId { device: found.dev(), inode: found.ino(), birth };
    let modified = Time { seconds: found.mtime(), nanoseconds: u32::try_from(found.mtime_nsec()).unwrap() };
    let attributes =
        file::Attributes { size: found.len(), modified, ..file::Attributes::new(file::Kind::File) };
    version_of(&file::Entry { id, attributes })
}

struct Fixture {
    root: TempDir,
    far: Far<StreamLine>,
}

impl Fixture {
    fn new() -> Fixture {
        let root = directory();
        let far = far(root.path());
        Fixture { root, far }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn put(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    fn content(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.root.path()).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Of a file in the root, as a replica has seen it.
    fn at(&mut self, name: &str) -> (At, Token) {
        let root = self.far.root().clone();
        let entries = self.far.list(&root).unwrap();
        let entry = entries.into_iter().find(|entry| *entry.name == *name.as_bytes()).unwrap();
        (At { identity: entry.identity, parent: root, name: entry.name }, entry.content)
    }

    fn root(&self) -> Identity {
        self.far.root().clone()
    }
}

fn facts(content: &str) -> Facts {
    Facts { is_symlink: false, mode: 0o640, size: content.len() as u64, content: Token::default() }
}

fn changed<T: std::fmt::Debug>(answer: Answer<T>) {
    assert!(matches!(answer, Err(Refusal::Changed)), "{answer:?}");
}

#[test]
fn a_tree_is_shown_with_what_can_be_replicated() {
    let mut it = Fixture::new();
    it.put("a", "content");
    fs::create_dir(it.path("d")).unwrap();
    it.put("d/b", "");
    std::os::unix::fs::symlink("a", it.path("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        it.path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let root = it.root();
    let mut entries = it.far.list(&root).unwrap();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let shown: Vec<_> = entries.iter().map(|entry| (&*entry.name, entry.kind, entry.size)).collect();
    assert_eq!(
        shown,
        [(&b"a"[..], Kind::File, 7), (&b"d"[..], Kind::Directory, 0), (&b"link"[..], Kind::Symlink, 1)]
    );
    assert_eq!(entries[0].content, version(&it.path("a")));
    let below = it.far.list(&entries[1].identity).unwrap();
    assert_eq!(below.len(), 1);
    let (link, content) = it.at("link");
    assert_eq!(it.far.read(&link, &content, 0, 100).unwrap(), b"a");
}

#[test]
fn a_file_is_read_by_ranges_as_the_version_that_was_asked_for() {
    let mut it = Fixture::new();
    let content = "0123456789".repeat(300_000);
    it.put("f", &content);
    let (at, version) = it.at("f");
    let read = it.far.read(&at, &version, 1_000_000, 1_500_000).unwrap();
    assert!(read == content.as_bytes()[1_000_000..2_500_000]);
    assert_eq!(it.far.read(&at, &version, 2_999_995, 100).unwrap(), b"56789");
    assert!(it.far.is_same(&at, &version, &mut Cursor::new(&content)).unwrap());
    assert!(!it.far.is_same(&at, &version, &mut Cursor::new(&content[1..])).unwrap());
    it.put("f", "other");
    changed(it.far.read(&at, &version, 0, 10));
    let (at, version) = it.at("f");
    assert_eq!(it.far.read(&at, &version, 0, 10).unwrap(), b"other");
}

#[test]
fn a_file_is_made_whole_and_never_over_another() {
    let mut it = Fixture::new();
    let root = it.root();
    let made = it.far.make_file(&root, b"f", &facts("new"), &mut Cursor::new("new")).unwrap();
    assert_eq!((it.content("f").as_str(), made.mode, made.size), ("new", 0o640, 3));
    assert_eq!(made.content, version(&it.path("f")));
    changed(it.far.make_file(&root, b"f", &facts("other"), &mut Cursor::new("other")));
    // A content that is not as long as it was is not the one that was to be sent.
    changed(it.far.make_file(&root, b"g", &facts("long"), &mut Cursor::new("lo")));
    assert_eq!((it.content("f").as_str(), it.names()), ("new", vec!["f".to_owned()]));
    let link = Facts { is_symlink: true, ..facts("f") };
    it.far.make_file(&root, b"l", &link, &mut Cursor::new("f")).unwrap();
    assert_eq!(fs::read_link(it.path("l")).unwrap(), Path::new("f"));
}

#[test]
fn a_file_is_replaced_only_as_the_version_that_it_was_seen_as() {
    let mut it = Fixture::new();
    it.put("f", "one");
    let (at, version) = it.at("f");
    let two = it.far.replace(&at, &version, &facts("two"), &mut Cursor::new("two")).unwrap();
    assert_eq!((it.content("f").as_str(), it.names()), ("two", vec!["f".to_owned()]));
    assert_eq!(fs::metadata(it.path("f")).unwrap().permissions().mode() & 0o7777, 0o640);
    changed(it.far.replace(&at, &version, &facts("three"), &mut Cursor::new("three")));
    it.put("f", "by somebody");
    let at = At { identity: two.identity, ..at };
    changed(it.far.replace(&at, &two.content, &facts("three"), &mut Cursor::new("three")));
    changed(it.far.remove(&at, &two.content, None));
    assert_eq!((it.content("f").as_str(), it.names()), ("by somebody", vec!["f".to_owned()]));
}

/// A line at whose other end somebody writes to a file as soon as a directory is to be synced.
struct WrittenTo {
    line: StreamLine,
    path: PathBuf,
}

impl Line for WrittenTo {
    fn ask(&mut self, request: FileRequest, payload: &[u8]) -> Result<(FileReply, Bytes), LineError> {
        if matches!(request, FileRequest::Sync { target: file::Target::Place(_), .. }) {
            fs::write(&self.path, "by somebody").unwrap();
        }
        self.line.ask(request, payload)
    }

    fn pages(
        &mut self,
        request: FileRequest,
        take: &mut dyn FnMut(FileReply, Bytes) -> std::ops::ControlFlow<()>,
    ) -> Result<(), LineError> {
        self.line.pages(request, take)
    }

    fn clock(&mut self) -> Result<Time, LineError> {
        self.line.clock()
    }

    fn new_handle(&mut self) -> wire::agent::HandleId {
        self.line.new_handle()
    }
}

#[test]
fn what_is_written_to_a_file_that_was_just_sent_is_another_version() {
    let root = directory();
    let path = root.path().join("f");
    let line = WrittenTo { line: line(), path: path.clone() };
    let mut far = Far::attach(line, root.path().as_os_str().as_encoded_bytes()).unwrap();
    let parent = far.root().clone();
    let made = far.make_file(&parent, b"f", &facts("new"), &mut Cursor::new("new")).unwrap();
    assert_ne!(made.content, version(&path));
    let at = At { identity: made.identity, parent, name: made.name };
    let replaced = far.replace(&at, &version(&path), &facts("newer"), &mut Cursor::new("newer")).unwrap();
    assert_ne!(replaced.content, version(&path));
    assert_eq!(fs::read_to_string(&path).unwrap(), "by somebody");
}

#[test]
fn names_are_moved_removed_and_given_permissions_as_expected() {
    let mut it = Fixture::new();
    it.put("a", "a");
    it.put("b", "b");
    let root = it.root();
    let directory = it.far.make_directory(&root, b"d", 0o750).unwrap();
    assert_eq!(directory.mode, 0o750);
    changed(it.far.make_directory(&root, b"d", 0o700));
    let (a, content) = it.at("a");
    changed(it.far.rename(&a, &root, b"b"));
    let moved = it.far.rename(&a, &directory.identity, b"c").unwrap();
    assert_eq!((moved.identity.clone(), moved.content), (a.identity.clone(), content.clone()));
    changed(it.far.rename(&a, &root, b"e"));
    let c = At { parent: directory.identity.clone(), name: moved.name, ..a };
    assert_eq!(it.far.set_mode(&c, 0o604).unwrap().mode, 0o604);
    let d = At { identity: directory.identity.clone(), parent: root.clone(), name: directory.name };
    changed(it.far.remove(&d, &Token::default(), None));
    it.far.remove(&c, &content, None).unwrap();
    it.far.remove(&d, &Token::default(), None).unwrap();
    assert_eq!(it.names(), ["b"]);
}

#[test]
fn what_was_moved_while_the_tree_was_looked_at_is_not_gone() {
    let mut it = Fixture::new();
    it.put("f", "f");
    fs::create_dir(it.path("d")).unwrap();
    let (at, _) = it.at("f");
    fs::rename(it.path("f"), it.path("d/g")).unwrap();
    assert!(!it.far.is_gone(&at.identity).unwrap());
    fs::remove_file(it.path("d/g")).unwrap();
    it.far.list(&at.parent).unwrap();
    assert!(it.far.is_gone(&at.identity).unwrap());
}

#[test]
fn a_line_that_is_lost_stays_lost_until_there_is_another() {
    let mut it = Fixture::new();
    it.put("f", "f");
    let (at, version) = it.at("f");
    let (near, far) = UnixStream::pair().unwrap();
    let ended = std::thread::spawn(move || {
        let options = agent::Options { home: b"/".to_vec(), shell: b"/bin/sh".to_vec() };
        agent::serve(&far, &far, options)
    });
    let line = StreamLine::open(near.try_clone().unwrap(), near.try_clone().unwrap()).unwrap();
    assert!(it.far.go_on_with(line).unwrap());
    near.shutdown(std::net::Shutdown::Both).unwrap();
    for _ in 0..2 {
        assert!(matches!(it.far.read(&at, &version, 0, 1), Err(Refusal::Cut)));
    }
    ended.join().unwrap();
    assert!(it.far.go_on_with(super::tests::line()).unwrap());
    assert_eq!(it.far.read(&at, &version, 0, 1).unwrap(), b"f");
    assert_eq!(it.far.path, it.root.path().as_os_str().as_encoded_bytes());
}

#[test]
fn a_line_that_waits_is_ended_by_another_thread() {
    let (near, far) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || {
        let options = agent::Options { home: b"/".to_vec(), shell: b"/bin/sh".to_vec() };
        agent::serve(&far, &far, options)
    });
    let ends = near.try_clone().unwrap();
    let line = StreamLine::open(near.try_clone().unwrap(), near).unwrap();
    assert!(line.ender().is_none());
    let mut line = line.ended_by(move || ends.shutdown(std::net::Shutdown::Both).unwrap());
    let ender = line.ender().unwrap();
    let root = directory();
    let path = root.path().as_os_str().as_encoded_bytes().to_vec();
    let waits = std::thread::spawn(move || {
        let attach = FileRequest::Attach { path, read_only: true };
        let (attached, _) = line.ask(attach, &[])?;
        let FileReply::Attached { root, .. } = attached else { return Ok(()) };
        let directory = Place { id: root.id, ..Place::default() };
        let watch = FileRequest::Watch { directory, recursive: true, window: 1 << 16 };
        line.pages(watch, &mut |_, _| std::ops::ControlFlow::Continue(()))
    });
    ender();
    // Also where it had not come to wait yet.
    let answer = waits.join().unwrap();
    assert!(matches!(answer, Err(LineError::Lost(_))), "{answer:?}");
    server.join().unwrap();
}

#[test]
fn what_answers_and_is_no_agent_is_refused() {
    let endless = std::io::repeat(b'x');
    let error = StreamLine::open(endless, std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("not an agent"), "{error}");
    let error = StreamLine::open(&b"Permission denied"[..], std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("no agent has answered"), "{error}");
}

#[test]
fn a_root_that_is_another_directory_is_told() {
    let mut it = Fixture::new();
    let path = it.root.path().to_owned();
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(!it.far.go_on_with(line()).unwrap());
    fs::remove_dir(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    assert!(it.far.go_on_with(line()).unwrap());
}
