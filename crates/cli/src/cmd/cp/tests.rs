use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use wire::api::file::{Done, Each, FILES_MAX, Links, MadeMany};
use wire::api::machine::{Caller, Machine, Source};
use wire::api::{Call, ErrorKind, ErrorObject};

use super::files::Files;
use super::one;
use super::work::Pair;
use crate::fake::{Fake, Ran, json};

fn cp(arguments: &[&Path]) -> Ran {
    let mut words = vec!["cp"];
    words.extend(arguments.iter().map(|path| path.to_str().unwrap()));
    Fake::absent().run(&words)
}

fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("cp").tempdir().unwrap()
}

#[test]
fn a_tree_is_copied_with_modes_times_and_links() {
    let scratch = scratch();
    let from = scratch.path().join("from");
    fs::create_dir_all(from.join("deep/er")).unwrap();
    fs::write(from.join("deep/er/file"), "content").unwrap();
    fs::set_permissions(from.join("deep/er/file"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(from.join(std::ffi::OsStr::from_bytes(b"not\xffutf8")), "x").unwrap();
    fs::File::create(from.join("holes")).unwrap().set_len(3 << 20).unwrap();
    symlink("nowhere", from.join("link")).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    fs::File::open(from.join("deep/er")).unwrap().set_modified(old).unwrap();
    fs::File::open(from.join("deep/er/file")).unwrap().set_modified(old).unwrap();
    fs::set_permissions(from.join("deep"), fs::Permissions::from_mode(0o550)).unwrap();

    let to = scratch.path().join("to");
    let ran = cp(&[&from, &to]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    assert_eq!(ran.err, "copied 3 files, 3 directories, 1 link (3.0 MiB)\n");
    let file = fs::metadata(to.join("deep/er/file")).unwrap();
    assert_eq!(fs::read(to.join("deep/er/file")).unwrap(), b"content");
    assert_eq!((file.mode() & 0o7777, file.modified().unwrap()), (0o640, old));
    assert_eq!(fs::metadata(to.join("deep/er")).unwrap().modified().unwrap(), old);
    assert_eq!(fs::metadata(to.join("deep")).unwrap().mode() & 0o777, 0o550);
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("nowhere"));
    let holes = fs::metadata(to.join("holes")).unwrap();
    assert_eq!((holes.len(), holes.blocks()), (3 << 20, 0));
    assert!(to.join(std::ffi::OsStr::from_bytes(b"not\xffutf8")).exists());
    for dir in [&from, &to] {
        fs::set_permissions(dir.join("deep"), fs::Permissions::from_mode(0o750)).unwrap();
    }
}

#[test]
fn a_copy_that_was_cut_short_goes_on_where_it_ended() {
    let scratch = scratch();
    let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
    let content: Vec<u8> = (0..5 << 20).map(|at: u32| (at % 251) as u8).collect();
    fs::write(&from, &content).unwrap();
    let source = |path: &Path| Source::files(Machine::Host, path.to_owned()).unwrap();
    let caller = Caller::default();
    let entry = Files::new(&caller, None).stat(&source(&from), Links::Follow).unwrap().unwrap();
    let pair = Pair { from: source(&from), entry, to: source(&to) };
    let Source::Files { path: part, .. } = one::beside(&pair).unwrap() else {
        unreachable!("a file has a path");
    };
    // The first byte differs, so that it can be told whether it was copied again.
    let mut begun = content[..4 << 20].to_vec();
    begun[0] = 0xff;
    fs::write(part.as_path(), begun).unwrap();

    let ran = cp(&[&from, &to]);
    assert_eq!(ran.err, "copied 1 file (5.0 MiB, 2.0 MiB of it from before)\n");
    let copied = fs::read(&to).unwrap();
    assert_eq!(copied[0], 0xff);
    assert!(copied[1..] == content[1..]);
    assert!(!part.as_path().exists());
}

#[test]
fn a_link_that_is_there_is_written_through() {
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    fs::write(path("from"), "new").unwrap();
    fs::write(path("file"), "older").unwrap();
    symlink("file", path("link")).unwrap();
    assert_eq!(cp(&[&path("from"), &path("link")]).code, 0);
    assert_eq!(fs::read(path("file")).unwrap(), b"new");
    assert_eq!(fs::read_link(path("link")).unwrap(), Path::new("file"));
    // One that leads nowhere yet, as well; a directory cannot be made through one.
    symlink("absent", path("dangling")).unwrap();
    let ran = cp(&[&path("from"), &path("dangling")]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(fs::read_link(path("dangling")).unwrap(), Path::new("absent"));
    assert_eq!(fs::read(path("absent")).unwrap(), b"new");
    fs::remove_file(path("absent")).unwrap();
    fs::create_dir(path("directory")).unwrap();
    assert_ne!(cp(&[&path("directory"), &path("dangling")]).code, 0);
    assert_eq!(fs::read_link(path("dangling")).unwrap(), Path::new("absent"));
}

#[test]
fn what_is_no_file_is_said_to_be_what_it_is() {
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let ran = cp(&[&path("socket"), &path("copy")]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.ends_with("/socket` is a socket and was left out\n"), "{}", ran.err);
    drop(socket);
    fs::create_dir(path("dir")).unwrap();
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, path("dir/pipe"), kind, mode, 0).unwrap();
    let ran = cp(&[&path("dir"), &path("copies")]);
    assert_eq!(ran.code, 1);
    let hint =
        "/dir/pipe` is a pipe and was left out\nhint: what comes out of a pipe or a device is copied when";
    assert!(ran.err.contains(hint), "{}", ran.err);
}

#[test]
fn who_copies_into_a_directory_that_is_not_there_is_told_how_to_make_it() {
    let scratch = scratch();
    fs::write(scratch.path().join("file"), "").unwrap();
    let ran = cp(&[&scratch.path().join("file"), &scratch.path().join("not/there/copy")]);
    let hint = format!("hint: stead mkdir -p host{}/not/there\n", scratch.path().display());
    assert!(ran.err.ends_with(&hint), "{}", ran.err);
}

#[test]
fn a_copy_that_is_not_complete_is_known_by_its_name() {
    for (name, is_one) in [
        (".stead-0123456789abcdef.part", true),
        (".stead-0123456789abcde.part", false),
        (".stead-0123456789abcdeg.part", false),
        (".stead-.part", false),
        ("stead-0123456789abcdef.part", false),
    ] {
        assert_eq!(one::is_unfinished(name.as_bytes()), is_one, "{name}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    fs::create_dir(path("dir")).unwrap();
    fs::write(path("file"), "").unwrap();
    let cases: &[(&[&Path], u8, &str)] = &[
        (&[&path("absent"), &path("x")], 3, "does not exist"),
        (&[&path("file"), &path("file")], 5, "cannot be copied onto itself"),
        (&[&path("dir"), &path("dir/inner")], 5, "cannot be copied into itself"),
        (&[&path("dir"), &path("file")], 5, "is not a directory"),
        (&[&path("file"), &path("dir"), &path("x")], 3, "a directory is wanted"),
        (&[&path("file"), &path("absent/")], 3, "a directory is wanted"),
        (&[&path("file"), &path("absent/x")], 3, "absent/x`: No such file or directory"),
    ];
    for (arguments, code, err) in cases {
        let ran = cp(arguments);
        assert_eq!(ran.code, *code, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(err), "{arguments:?}: {}", ran.err);
    }
    assert_eq!(fs::read_dir(path("dir")).unwrap().count(), 0);
}

#[test]
fn a_failure_of_one_file_is_told_and_the_rest_is_copied() {
    let scratch = scratch();
    let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir_all(to.join("from/a")).unwrap();
    fs::write(from.join("a"), "").unwrap();
    fs::write(from.join("b"), "b").unwrap();
    let ran = cp(&[&from, &to]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(ran.err.contains("/a` is a directory"), "{}", ran.err);
    assert_eq!(fs::read(to.join("from/b")).unwrap(), b"b");
}

/// A tree of this many directories, each with this many files, costs so few requests that round trips do not count.
#[test]
fn a_tree_of_small_files_costs_a_request_for_sixty_four_and_two_for_a_directory() {
    const DIRECTORIES: usize = 5;
    const FILES: usize = 100;
    let scratch = scratch();
    let from = scratch.path().join("from");
    for directory in 0..DIRECTORIES {
        let directory = from.join(format!("d{directory}"));
        fs::create_dir_all(&directory).unwrap();
        (0..FILES).for_each(|file| fs::write(directory.join(format!("f{file}")), "content").unwrap());
    }
    let root = Source::files(Machine::Host, "/").unwrap();
    let fake = Fake::new(move |call, _| match call {
        Call::FileStat(_) => Err(ErrorObject::new(ErrorKind::NotFound, "there is no such file")),
        Call::FilePutMany(put) => {
            let files = put.files.iter().map(|_| Each::Done(Done {})).collect();
            Ok(json(&MadeMany { files }))
        }
        Call::FileMakeDirectory(_) | Call::FileSetAttributes(_) => {
            Ok(json(&Files::new(&Caller::default(), None).stat(&root, Links::Follow).unwrap().unwrap()))
        }
        other => panic!("{other:?}"),
    });
    let ran = fake.run(&["cp", from.to_str().unwrap(), "ssh://box/to"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let count = |is: fn(&Call) -> bool| fake.calls().iter().filter(|call| is(call)).count();
    let files = count(|call| matches!(call, Call::FilePutMany(_)));
    assert_eq!(files, DIRECTORIES * FILES.div_ceil(FILES_MAX));
    assert_eq!(count(|call| matches!(call, Call::FileMakeDirectory(_))), DIRECTORIES + 1);
    assert_eq!(count(|call| matches!(call, Call::FileSetAttributes(_))), DIRECTORIES + 1);
    assert_eq!(count(|call| matches!(call, Call::FileStat(_))), 1);
}
