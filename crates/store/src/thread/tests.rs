use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};

use super::*;
use crate::node::{Attributes, Kind, LINKS_MAX, NAME_BYTES_MAX, Time, XATTR_BYTES_MAX};
use crate::testing::{Repository, repository};
use crate::{Hash, Refusal};

mod crash;
mod killed;
mod model;
mod small;

const NEW_FILE: New = New { mode: 0o640, uid: 7, gid: 8 };

/// A repository, and a thread of its first commit.
struct Bench {
    repository: Repository,
    scratch: tempfile::TempDir,
    objects: Arc<Objects>,
    blobs: Arc<BlobCache>,
}

impl Bench {
    fn new() -> Bench {
        let repository = repository(Hash::Sha1);
        let scratch = tempfile::tempdir().expect("a directory");
        let objects = Arc::new(Objects::discover(repository.path()).expect("a repository"));
        let blobs = BlobCache::open(&scratch.path().join("blobs"), 1 << 20).expect("opened");
        Bench { repository, scratch, objects, blobs: Arc::new(blobs) }
    }

    fn begin(&self, name: &str) -> Thread {
        let revision = self.objects.resolve("HEAD").expect("a commit");
        let origin = Origin { revision, uid: 1000, gid: 100, made: at(0) };
        let directory = self.scratch.path().join(name);
        Thread::begin(&directory, self.objects.clone(), self.blobs.clone(), origin).expect("begun")
    }

    fn open(&self, name: &str) -> Thread {
        let directory = self.scratch.path().join(name);
        Thread::open(&directory, self.objects.clone(), self.blobs.clone()).expect("opened")
    }

    /// As when its process dies and another goes on.
    fn again(&self, thread: Thread) -> Thread {
        let name = thread.directory().file_name().expect("a name").to_str().expect("UTF-8").to_owned();
        drop(thread);
        self.open(&name)
    }
}

fn at(seconds: i64) -> Time {
    Time { seconds: 1_700_000_000 + seconds, nanoseconds: 123_456_789 }
}

fn lookup(thread: &Thread, path: &str) -> Option<Attributes> {
    path.split('/').try_fold(thread.attributes(Ino::ROOT).expect("a root"), |above, name| {
        thread.lookup(above.ino, name.as_bytes()).expect("looked up")
    })
}

fn ino(thread: &Thread, path: &str) -> Ino {
    lookup(thread, path).unwrap_or_else(|| panic!("`{path}` is there")).ino
}

fn content(thread: &Thread, ino: Ino) -> Vec<u8> {
    let mut content = Vec::new();
    let mut file = thread.open_content(ino, Access::Read).expect("opened");
    file.read_to_end(&mut content).expect("read");
    content
}

fn write(thread: &Thread, ino: Ino, offset: u64, bytes: &[u8]) {
    let mut file = thread.open_content(ino, Access::Write).expect("opened");
    file.seek(SeekFrom::Start(offset)).expect("sought");
    file.write_all(bytes).expect("written");
}

fn names(thread: &Thread, directory: Ino) -> Vec<String> {
    let listed = thread.list(directory, 0, usize::MAX).expect("listed");
    listed.iter().map(|listed| String::from_utf8_lossy(&listed.name).into_owned()).collect()
}

fn plain_files(thread: &Thread) -> usize {
    std::fs::read_dir(thread.directory().join(FILES)).expect("listed").count()
}

fn refused<T: std::fmt::Debug>(result: Result<T>) -> Refusal {
    match result {
        Err(Error::Refused(refusal)) => refusal,
        other => panic!("it was not refused: {other:?}"),
    }
}

/// All there is to see of a file but when it was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    ino: Ino,
    kind: Kind,
    mode: u16,
    links: u32,
    device: u64,
    size: u64,
    modified: Time,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn seen(thread: &Thread) -> BTreeMap<Vec<u8>, Seen> {
    let mut all = BTreeMap::new();
    see(thread, thread.attributes(Ino::ROOT).expect("a root"), Vec::new(), &mut all);
    all
}

fn see(thread: &Thread, is: Attributes, path: Vec<u8>, all: &mut BTreeMap<Vec<u8>, Seen>) {
    let Attributes { ino, kind, mode, links, device, size, modified, .. } = is;
    let content = match kind {
        Kind::File => content(thread, ino),
        Kind::Symlink => thread.read_link(ino).expect("read"),
        _ => Vec::new(),
    };
    let value = |name: &Vec<u8>| thread.xattr(ino, name).expect("its value");
    let xattrs = thread.xattrs(ino).expect("its attributes");
    let xattrs = xattrs.into_iter().map(|name| (name.clone(), value(&name))).collect();
    let before =
        all.insert(path.clone(), Seen { ino, kind, mode, links, device, size, modified, content, xattrs });
    assert!(before.is_none(), "a name is listed once");
    if kind != Kind::Directory {
        return;
    }
    for listed in thread.list(ino, 0, usize::MAX).expect("listed") {
        let looked_up =
            thread.lookup(ino, &listed.name).expect("looked up").expect("what is listed is there");
        // It may have been read by another name since.
        assert_eq!(Attributes { accessed: listed.attributes.accessed, ..looked_up }, listed.attributes);
        let path = [&path[..], b"/", &listed.name].concat();
        see(thread, looked_up, path, all);
    }
}

#[test]
fn what_was_begun_is_settled_whatever_has_become_of_it_since() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let (made, mut file) = thread.create(Ino::ROOT, b"made", NEW_FILE, at(1)).expect("made");
    file.write_all(b"content").expect("written");
    let mut unsettled = thread.unsettled().expect("listed");
    for path in [thread.plain(made.ino), thread.directory().join(NAMES)] {
        assert!(unsettled.files.contains(&path), "{path:?} is not in {unsettled:?}");
    }
    let beside = bench.scratch.path().join("beside/file");
    std::fs::create_dir(beside.parent().expect("below")).expect("made");
    std::fs::write(&beside, "content").expect("written");
    unsettled.add(beside.clone());
    assert!(unsettled.directories.contains(&beside.parent().expect("below").to_owned()));
    unsettled.settle().expect("settled");
    thread.unlink(Ino::ROOT, b"made", Remains::Nothing, at(2)).expect("removed");
    thread.sync_names().expect("synced");
    assert!(!thread.plain(made.ino).exists());
    unsettled.settle().expect("what is gone needs nothing");
    std::fs::remove_dir_all(thread.directory()).expect("removed");
    unsettled.settle().expect_err("there is no thread");
}

#[test]
fn a_thread_that_was_begun_shows_the_revision() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let seen = seen(&thread);
    let paths = bench.repository.git(&["ls-tree", "-r", "-t", "--name-only", "-z", "HEAD"]);
    let paths: Vec<_> = paths.split('\0').filter(|path| !path.is_empty()).collect();
    assert_eq!(seen.len(), paths.len() + 1, "and the root");
    for path in paths {
        let seen = &seen[format!("/{path}").as_bytes()];
        assert_eq!((seen.links, seen.modified), (1, at(0)), "{path}");
        if seen.kind == Kind::File {
            let expected = bench.repository.git_bytes(&["show", &format!("HEAD:{path}")]);
            assert_eq!((seen.content.len() as u64, &seen.content), (seen.size, &expected), "{path}");
        }
    }
    assert_eq!(lookup(&thread, "run").expect("there").mode, 0o755);
    assert_eq!(lookup(&thread, "file").expect("there").mode, 0o644);
    assert_eq!(thread.read_link(ino(&thread, "link")).expect("read"), b"file");
    assert_ne!(
        ino(&thread, "file"),
        ino(&thread, "more/same"),
        "one number for each file, not for each content"
    );
    assert_eq!(thread.changed().expect("known"), []);
}

#[test]
fn numbers_and_times_outlive_the_process() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let directory = ino(&thread, "dir");
    let changed = thread.set_attributes(
        ino(&thread, "dir/a"),
        &AttributeChanges { modified: Some(at(5)), mode: Some(0o600), ..AttributeChanges::default() },
        at(6),
    );
    let changed = changed.expect("set");
    assert_eq!((changed.modified, changed.changed, changed.mode), (at(5), at(6), 0o600));
    let (made, _) = thread.create(directory, b"new", NEW_FILE, at(7)).expect("made");
    write(&thread, made.ino, 0, b"written");
    let dated = AttributeChanges {
        modified: Some(at(-1_800_000_000)),
        accessed: Some(at(2)),
        ..AttributeChanges::default()
    };
    let dated = thread.set_attributes(made.ino, &dated, at(8)).expect("dated");
    assert_eq!((dated.modified, dated.accessed), (at(-1_800_000_000), at(2)));
    assert_eq!((dated.uid, dated.gid, dated.mode), (7, 8, 0o640));
    let before = seen(&thread);
    let thread = bench.again(thread);
    assert_eq!(seen(&thread), before);
    thread.compact().expect("compacted");
    assert_eq!(seen(&thread), before);
    assert_eq!(seen(&bench.again(thread)), before);
}

#[test]
fn a_file_of_the_base_is_copied_up_when_it_is_written() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let file = ino(&thread, "file");
    let reader = thread.open_content(file, Access::Read).expect("opened");
    assert!(!thread.is_written(file).expect("known"));
    write(&thread, file, 3, b"XY");
    assert!(thread.is_written(file).expect("known"));
    assert_eq!(content(&thread, file), b"conXYnt\n");
    assert_eq!(ino(&thread, "file"), file);
    assert_eq!(content(&thread, ino(&thread, "more/same")), b"content\n", "the same content is another file");
    let mut old = String::new();
    (&reader).read_to_string(&mut old).expect("read");
    assert_eq!(old, "content\n");
    let size = |size| AttributeChanges { size: Some(size), ..AttributeChanges::default() };
    let cut = thread.set_attributes(ino(&thread, "run"), &size(4), at(1)).expect("cut");
    assert_eq!((cut.size, content(&thread, cut.ino)), (4, b"#!/b".to_vec()));
    let longer = thread.set_attributes(ino(&thread, "dir/a"), &size(10), at(1)).expect("lengthened");
    assert_eq!(content(&thread, longer.ino), b"a of dir\0\0");
    drop(thread.open_content(ino(&thread, "dir/b"), Access::Truncate).expect("opened"));
    assert_eq!(content(&thread, ino(&thread, "dir/b")), b"");
    let paths: Vec<_> = thread.changed().expect("known").into_iter().map(|changed| changed.path).collect();
    assert_eq!(paths, [&b"dir/a"[..], b"dir/b", b"file", b"run"]);
    assert_eq!(thread.sweep().expect("swept"), 0);
}

#[test]
fn two_writers_at_once_copy_up_once() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let file = ino(&thread, "dir/deep/er/c");
    std::thread::scope(|scope| {
        for offset in 0..4 {
            let thread = &thread;
            scope.spawn(move || write(thread, file, offset, b"#"));
        }
    });
    assert_eq!(content(&thread, file), b"####eep");
}

#[test]
fn a_directory_of_the_base_is_renamed_without_being_copied() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let (directory, deep) = (ino(&thread, "dir"), ino(&thread, "dir/deep/er/c"));
    let log = std::fs::metadata(thread.directory().join(NAMES)).expect("there").len();
    let more = ino(&thread, "more");
    thread
        .rename((Ino::ROOT, b"dir"), (more, b"moved"), RenameMode::Replace, Remains::Nothing, at(1))
        .expect("moved");
    let grown = std::fs::metadata(thread.directory().join(NAMES)).expect("there").len() - log;
    assert!(grown < 1024, "{grown} bytes for a rename");
    let thread = bench.again(thread);
    assert!(lookup(&thread, "dir").is_none());
    assert_eq!((ino(&thread, "more/moved"), ino(&thread, "more/moved/deep/er/c")), (directory, deep));
    assert_eq!(content(&thread, deep), b"c, deep");
    assert_eq!(thread.parent(directory).expect("above"), more);
    let changed = thread.changed().expect("known");
    let there: Vec<_> = changed.iter().map(|changed| (&changed.path[..], changed.is_there)).collect();
    assert_eq!(there, [(&b"dir"[..], false), (b"more/moved", true)]);
    // What takes its place begins empty.
    thread.make_directory(Ino::ROOT, b"dir", NEW_FILE, at(2)).expect("made");
    assert_eq!(names(&thread, ino(&thread, "dir")), [] as [&str; 0]);
}

#[test]
fn a_directory_cannot_be_within_itself() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let er = ino(&thread, "dir/deep/er");
    let into = |mode| thread.rename((Ino::ROOT, b"dir"), (er, b"x"), mode, Remains::Nothing, at(1));
    assert_eq!(refused(into(RenameMode::Replace)), Refusal::Invalid);
    let dir = ino(&thread, "dir");
    let up = thread.rename((er, b"c"), (dir, b"deep"), RenameMode::Exchange, Remains::Nothing, at(1));
    assert_eq!(refused(up), Refusal::Invalid);
    let over =
        thread.rename((dir, b"deep"), (Ino::ROOT, b"dir"), RenameMode::Replace, Remains::Nothing, at(1));
    assert_eq!(refused(over), Refusal::NotEmpty);
}

#[test]
fn what_is_removed_stays_removed_and_its_name_is_free() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let file = ino(&thread, "file");
    thread.unlink(Ino::ROOT, b"file", Remains::Nothing, at(1)).expect("removed");
    assert_eq!(refused(thread.attributes(file)), Refusal::Stale);
    let (made, _) = thread.create(Ino::ROOT, b"file", NEW_FILE, at(2)).expect("made");
    assert_ne!(made.ino, file);
    thread.unlink(Ino::ROOT, b"file", Remains::Nothing, at(3)).expect("removed");
    let thread = bench.again(thread);
    assert!(lookup(&thread, "file").is_none());
    assert_eq!(refused(thread.attributes(made.ino)), Refusal::Stale);
    thread.sweep().expect("swept");
    assert_eq!(plain_files(&thread), 0);
}

#[test]
fn a_file_that_is_open_outlives_its_last_name_and_its_process() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let (made, _) = thread.create(Ino::ROOT, b"made", NEW_FILE, at(1)).expect("made");
    write(&thread, made.ino, 0, b"kept");
    let base = ino(&thread, "file");
    for name in [&b"made"[..], b"file"] {
        let removed = thread.unlink(Ino::ROOT, name, Remains::WhileOpen, at(2)).expect("removed");
        assert_eq!(removed.links, 0);
    }
    let thread = bench.again(thread);
    let mut unnamed = thread.unnamed();
    unnamed.sort();
    let mut expected = [made.ino, base];
    expected.sort();
    assert_eq!(unnamed, expected);
    assert_eq!(content(&thread, made.ino), b"kept");
    assert_eq!(content(&thread, base), b"content\n");
    thread.sweep().expect("swept");
    thread.forget(&[made.ino]).expect("forgotten");
    thread.forget(&[base]).expect("forgotten");
    thread.forget(&[ino(&thread, "run")]).expect("nothing");
    assert_eq!(thread.unnamed(), []);
    assert_eq!(refused(thread.attributes(base)), Refusal::Stale);
    assert!(lookup(&thread, "run").is_some(), "what has a name stays");
    thread.sweep().expect("swept");
    assert_eq!(plain_files(&thread), 0);
}

#[test]
fn a_file_made_without_a_name_can_be_given_one() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let (made, mut file) = thread.create_unnamed(NEW_FILE, at(1)).expect("made");
    assert_eq!(made.links, 0);
    file.write_all(b"first").expect("written");
    let linked = thread.link(made.ino, Ino::ROOT, b"named", at(2)).expect("linked");
    assert_eq!((linked.ino, linked.links, linked.size), (made.ino, 1, 5));
    assert_eq!(content(&bench.again(thread), made.ino), b"first");
}

#[test]
fn a_file_of_the_base_can_have_many_names() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let file = ino(&thread, "file");
    let directory = ino(&thread, "dir");
    thread.link(file, directory, b"same", at(1)).expect("linked");
    thread.unlink(Ino::ROOT, b"file", Remains::Nothing, at(2)).expect("removed");
    write(&thread, file, 0, b"C");
    let thread = bench.again(thread);
    let same = lookup(&thread, "dir/same").expect("there");
    assert_eq!((same.ino, same.links), (file, 1));
    assert_eq!(content(&thread, file), b"Content\n");
    assert_eq!(refused(thread.link(directory, Ino::ROOT, b"no", at(3))), Refusal::NotPermitted);
}

#[test]
fn a_name_that_stays_is_listed_once_while_others_come_and_go() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    for number in 0..20 {
        thread.create(Ino::ROOT, format!("own-{number}").as_bytes(), NEW_FILE, at(1)).expect("made");
    }
    let stays = names(&thread, Ino::ROOT);
    let stays: Vec<_> =
        stays.into_iter().filter(|name| name.ends_with(|c: char| c.is_alphabetic())).collect();
    let (mut found, mut cookie) = (Vec::new(), 0);
    for step in 0.. {
        let page = thread.list(Ino::ROOT, cookie, 3).expect("listed");
        let Some(last) = page.last() else { break };
        cookie = last.cookie;
        found.extend(page.iter().map(|listed| String::from_utf8_lossy(&listed.name).into_owned()));
        if step >= 12 {
            continue;
        }
        // Behind and before the reader, and in place of what is listed.
        thread.create(Ino::ROOT, format!("more-{step}").as_bytes(), NEW_FILE, at(2)).expect("made");
        let gone = format!("own-{}", 19 - step);
        thread.unlink(Ino::ROOT, gone.as_bytes(), Remains::Nothing, at(3)).expect("removed");
        thread.create(Ino::ROOT, b"over", NEW_FILE, at(4)).expect("made");
        let (over, file) = ((Ino::ROOT, &b"over"[..]), (Ino::ROOT, &b"file"[..]));
        thread.rename(over, file, RenameMode::Replace, Remains::Nothing, at(5)).expect("replaced");
        thread.compact().expect("compacted");
    }
    for name in &stays {
        assert_eq!(found.iter().filter(|found| *found == name).count(), 1, "{name} of {found:?}");
    }
}

#[test]
fn limits_are_refusals() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let long = vec![b'n'; NAME_BYTES_MAX + 1];
    let file = ino(&thread, "file");
    assert_eq!(refused(thread.create(Ino::ROOT, &long, NEW_FILE, at(1))), Refusal::NameTooLong);
    thread.create(Ino::ROOT, &long[1..], NEW_FILE, at(1)).expect("made");
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        assert_eq!(refused(thread.make_directory(Ino::ROOT, name, NEW_FILE, at(1))), Refusal::Invalid);
    }
    let set = |name: &[u8], bytes: usize| {
        thread.set_xattr(file, name, &vec![b'v'; bytes], XattrMode::CreateOrReplace, at(1))
    };
    assert_eq!(refused(set(b"user.a", XATTR_BYTES_MAX + 1)), Refusal::TooLarge);
    set(b"user.a", XATTR_BYTES_MAX / 2).expect("set");
    assert_eq!(refused(set(b"user.b", XATTR_BYTES_MAX / 2)), Refusal::NoSpace);
    set(b"user.a", XATTR_BYTES_MAX - 6).expect("replaced");
    assert_eq!(
        refused(thread.symlink(Ino::ROOT, b"l", &[b'x'; 4096], NEW_FILE, at(1))),
        Refusal::NameTooLong
    );
    assert_eq!(refused(thread.open_content(ino(&thread, "link"), Access::Read)), Refusal::Invalid);
    assert_eq!(refused(thread.open_content(Ino::ROOT, Access::Read)), Refusal::IsDirectory);
    assert_eq!(refused(thread.lookup(file, b"x")), Refusal::NotDirectory);
    assert_eq!(refused(thread.attributes(Ino(1 << 60))), Refusal::Stale);
    let crowded = Node { links: LINKS_MAX, ..thread.locked().node(file).expect("a node") };
    thread.locked().commit(vec![Change::Node { ino: file, node: crowded }]).expect("said");
    assert_eq!(refused(thread.link(file, Ino::ROOT, b"one-more", at(1))), Refusal::TooManyLinks);
}

#[test]
fn a_removed_directory_takes_nothing_more() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let made = thread.make_directory(Ino::ROOT, b"made", NEW_FILE, at(1)).expect("made");
    thread.remove_directory(Ino::ROOT, b"made", Remains::WhileOpen, at(2)).expect("removed");
    assert_eq!(refused(thread.create(made.ino, b"x", NEW_FILE, at(3))), Refusal::NoSuchName);
    let into =
        thread.rename((Ino::ROOT, b"file"), (made.ino, b"x"), RenameMode::Replace, Remains::Nothing, at(3));
    assert_eq!(refused(into), Refusal::NoSuchName);
    assert_eq!(names(&thread, made.ino), [] as [&str; 0]);
    thread.forget(&[made.ino]).expect("forgotten");
    assert_eq!(refused(thread.attributes(made.ino)), Refusal::Stale);
}

#[test]
fn one_process_has_a_thread() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let open = || Thread::open(thread.directory(), bench.objects.clone(), bench.blobs.clone());
    assert!(matches!(open(), Err(Error::Busy { .. })));
    let begun =
        Thread::begin(thread.directory(), bench.objects.clone(), bench.blobs.clone(), *thread.origin());
    assert!(matches!(begun, Err(Error::Busy { .. })));
    let origin = *thread.origin();
    let directory = thread.directory().to_owned();
    drop(thread);
    let begun = Thread::begin(&directory, bench.objects.clone(), bench.blobs.clone(), origin);
    assert!(matches!(begun, Err(Error::Access { .. })), "there is one");
    bench.open("thread");
}

#[test]
fn a_log_that_failed_is_written_anew() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    thread.create(Ino::ROOT, b"before", NEW_FILE, at(1)).expect("made");
    thread.locked().state.log.lose_the_disk();
    assert!(thread.sync_names().is_err(), "what was appended may not be there");
    thread.create(Ino::ROOT, b"after", NEW_FILE, at(2)).expect("made");
    thread.sync_names().expect("synced");
    let thread = bench.again(thread);
    assert!(lookup(&thread, "before").is_some() && lookup(&thread, "after").is_some());
}

#[test]
fn a_sync_that_fails_is_told_once_and_the_next_makes_all_durable() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let (made, _) = thread.create(Ino::ROOT, b"made", NEW_FILE, at(1)).expect("made");
    let (gone, _) = thread.create(Ino::ROOT, b"gone", NEW_FILE, at(1)).expect("made");
    thread.unlink(Ino::ROOT, b"gone", Remains::Nothing, at(2)).expect("removed");
    thread.locked().state.log.lose_the_disk();
    thread.create(Ino::ROOT, b"lost", NEW_FILE, at(3)).expect("made");
    assert!(thread.sync(made.ino).is_err());
    assert!(thread.plain(gone.ino).exists(), "the power may bring its name back");
    // Nobody changes a name in between.
    thread.sync(made.ino).expect("synced");
    assert!(!thread.plain(gone.ino).exists());
    assert!(lookup(&bench.again(thread), "lost").is_some());
}

#[test]
fn contents_are_swept_while_others_remove_them() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let rounds = 40;
    std::thread::scope(|scope| {
        let removing = scope.spawn(|| {
            for round in 0..rounds {
                let names: Vec<_> = (0..20).map(|number| format!("{round}-{number}")).collect();
                for name in &names {
                    thread.create(Ino::ROOT, name.as_bytes(), NEW_FILE, at(1)).expect("made");
                }
                for name in &names {
                    let removed = thread.unlink(Ino::ROOT, name.as_bytes(), Remains::Nothing, at(2));
                    removed.expect("removed");
                }
                thread.sync_names().expect("synced");
            }
        });
        while !removing.is_finished() {
            thread.sweep().expect("swept");
        }
    });
    thread.sweep().expect("swept");
    assert_eq!(plain_files(&thread), 0);
}

#[test]
fn a_log_that_grows_is_compacted() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let file = ino(&thread, "file");
    thread.locked().state.compact_at = 20_000;
    let length = || thread.locked().state.log.length();
    let mut longest = 0;
    for second in 0..1000 {
        let dated = AttributeChanges { modified: Some(at(second)), ..AttributeChanges::default() };
        thread.set_attributes(file, &dated, at(second)).expect("dated");
        longest = longest.max(length());
        if longest > length() {
            break;
        }
    }
    assert!(longest < 20_500 && length() < 2000, "{longest}, {}", length());
    assert_eq!(lookup(&bench.again(thread), "file").expect("there").ino, file);
}

#[test]
fn a_content_goes_when_the_power_cannot_bring_its_name_back() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let make = |name: &[u8], what: &[u8]| {
        let (made, mut file) = thread.create(Ino::ROOT, name, NEW_FILE, at(1)).expect("made");
        file.write_all(what).expect("written");
        thread.sync(made.ino).expect("synced");
        made.ino
    };
    let old = make(b"saved", b"old");
    let new = make(b"saved.new", b"new");
    let (from, to) = ((Ino::ROOT, &b"saved.new"[..]), (Ino::ROOT, &b"saved"[..]));
    thread.rename(from, to, RenameMode::Replace, Remains::Nothing, at(2)).expect("renamed");
    assert_eq!(std::fs::read(thread.plain(old)).expect("still there"), b"old");
    thread.sweep().expect("swept");
    assert!(!thread.plain(old).exists(), "the log was synced");
    let thread = bench.again(thread);
    assert_eq!(content(&thread, ino(&thread, "saved")), b"new");
    thread.unlink(Ino::ROOT, b"saved", Remains::Nothing, at(3)).expect("removed");
    assert!(thread.plain(new).exists());
    thread.compact().expect("compacted");
    assert!(!thread.plain(new).exists(), "the new log is durable");
}

#[test]
fn plain_files_that_nothing_names_are_swept() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let (made, _) = thread.create(Ino::ROOT, b"made", NEW_FILE, at(1)).expect("made");
    std::fs::write(thread.plain(Ino(made.ino.0 + 1)), b"a process died").expect("written");
    std::fs::write(thread.directory().join(NEW).join("7"), b"over a copy").expect("written");
    let thread = bench.again(thread);
    assert_eq!(thread.sweep().expect("swept"), 1);
    assert_eq!(std::fs::read_dir(thread.directory().join(NEW)).expect("listed").count(), 0);
    // The number is used again, and nothing is left of what was there.
    let (next, _) = thread.create(Ino::ROOT, b"next", NEW_FILE, at(2)).expect("made");
    assert_eq!(content(&thread, next.ino), b"");
    assert!(lookup(&thread, "made").is_some());
}

#[test]
fn a_content_that_the_power_took_is_empty_and_no_error() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let (made, _) = thread.create(Ino::ROOT, b"made", NEW_FILE, at(1)).expect("made");
    let thread = bench.again(thread);
    std::fs::remove_file(thread.plain(made.ino)).expect("removed");
    assert_eq!(thread.attributes(made.ino).expect("there").size, 0);
    let dated = AttributeChanges { modified: Some(at(9)), ..AttributeChanges::default() };
    assert_eq!(thread.set_attributes(made.ino, &dated, at(9)).expect("dated").modified, at(9));
    assert_eq!(content(&thread, made.ino), b"");
    thread.sync(made.ino).expect("synced");
}

#[test]
fn what_the_base_lost_is_an_error() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let oid = bench.repository.git(&["rev-parse", "HEAD:dir/a"]);
    std::fs::remove_file(bench.repository.object(oid.trim())).expect("removed");
    let directory = ino(&thread, "dir");
    assert!(matches!(thread.list(directory, 0, 10), Err(Error::Missing { .. })));
    assert!(matches!(thread.lookup(directory, b"a"), Err(Error::Missing { .. })));
    assert!(lookup(&thread, "file").is_some());
}

#[test]
fn what_a_request_has_changed_and_that_it_is_carried_out_are_one_record() {
    let bench = Bench::new();
    let thread = bench.begin("thread");
    let new = New { mode: 0o644, uid: 0, gid: 0 };
    let mut hand = Hand::default();
    let made = thread.carry_out(&mut hand, 2, |thread| thread.make_directory(Ino::ROOT, b"new", new, at(1)));
    let made = made.expect("made").ino;
    // A refusal changes nothing, and what is as good twice is not remembered.
    let again = thread.carry_out(&mut hand, 4, |thread| thread.make_directory(Ino::ROOT, b"new", new, at(1)));
    assert_eq!(refused(again), Refusal::Taken);
    let mode = AttributeChanges { mode: Some(0o700), ..AttributeChanges::default() };
    thread.carry_out(&mut hand, 6, |thread| thread.set_attributes(made, &mode, at(2))).expect("set");
    // Not part of any.
    thread.make_directory(Ino::ROOT, b"other", new, at(3)).expect("made");

    let thread = bench.again(thread);
    assert_eq!([2, 4, 6].map(|request| thread.carried_out(request)), [Some(made), None, None]);
    thread.compact().expect("compacted");
    let thread = bench.again(thread);
    assert_eq!(thread.carried_out(2), Some(made));

    let directory = ino(&thread, "dir");
    let unlinked =
        thread.carry_out(&mut hand, 8, |thread| thread.unlink(directory, b"a", Remains::Nothing, at(4)));
    let unlinked = unlinked.expect("unlinked").ino;
    let thread = bench.again(thread);
    assert_eq!([2, 8].map(|request| thread.carried_out(request)), [None, Some(unlinked)]);
    thread.all_answered().expect("said");
    let thread = bench.again(thread);
    assert_eq!(thread.carried_out(8), None);
}
