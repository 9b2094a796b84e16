use tempfile::tempdir;
use wire::agent::file::*;
use wire::agent::name::RelativePath;

use crate::client::*;

/// The identity that a client could learn of a file outside the export.
fn id_of(path: &std::path::Path) -> FileId {
    let mut client = Client::attach(path.parent().unwrap());
    client.place(path.file_name().unwrap().to_str().unwrap()).id
}

#[test]
fn a_symlink_in_a_path_is_never_followed() {
    let outside = tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), b"secret").unwrap();
    let directory = tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), directory.path().join("out")).unwrap();
    std::os::unix::fs::symlink(".", directory.path().join("self")).unwrap();
    std::fs::write(directory.path().join("inside"), b"").unwrap();
    let mut client = Client::attach(directory.path());
    for (text, target) in [
        ("out/secret", outside.path().join("secret")),
        ("out", outside.path().to_owned()),
        ("self/inside", directory.path().join("inside")),
    ] {
        let place = Place { id: id_of(&target), path: path(text) };
        assert_eq!(errno(client.stat(&place)), libc::ESTALE, "{text}");
        let handle = client.handle();
        let request = FileRequest::Open { place: place.clone(), flags: READ, handle, inline_bytes: 0 };
        assert_eq!(errno(client.file(request)), libc::ESTALE, "{text}");
        assert!(client.entry(put(&place, "made"), b"").is_err(), "{text}");
    }
    assert!(!outside.path().join("made").exists());
    let link = client.place("out");
    assert_eq!(client.stat(&link).unwrap().attributes.kind, Kind::Symlink);
    assert_eq!(
        errno(client.file(FileRequest::Lookup { directory: link, name: name("secret") })),
        libc::ENOTDIR
    );
}

#[test]
fn a_path_cannot_name_what_is_above() {
    for text in ["..", "../x", "a/..", "/etc", "a//b", "./a", "a/", "a\0b"] {
        assert!(RelativePath::new(text.as_bytes()).is_err(), "{text:?}");
    }
}

#[test]
fn an_escape_that_is_made_while_requests_run_finds_nothing_outside() {
    let outside = tempdir().unwrap();
    std::fs::create_dir(outside.path().join("d")).unwrap();
    std::fs::write(outside.path().join("d/file"), b"outside").unwrap();
    let directory = tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("real/d")).unwrap();
    std::fs::write(directory.path().join("real/d/file"), b"inside").unwrap();
    let outside_id = id_of(&outside.path().join("d/file"));
    let mut client = Client::attach(directory.path());
    let inside = client.place("real/d/file");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (real, link) = (directory.path().join("real"), directory.path().join("link"));
            std::os::unix::fs::symlink(outside.path(), &link).unwrap();
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &real,
                    rustix::fs::CWD,
                    &link,
                    rustix::fs::RenameFlags::EXCHANGE,
                )
                .unwrap();
            }
        });
        for _ in 0..3000 {
            let place = Place { id: outside_id, path: path("real/d/file") };
            assert_eq!(errno(client.stat(&place)), libc::ESTALE);
            match client.stat(&inside) {
                Ok(entry) => assert_eq!(entry.id, inside.id),
                Err(failure) => assert_eq!(i32::from(failure.errno.0), libc::ESTALE),
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_replaced_file_is_stale_and_a_replaced_directory_is_not_acted_in() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), b"1").unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    let mut client = Client::attach(directory.path());
    let (file, sub) = (client.place("file"), client.place("sub"));
    std::fs::write(directory.path().join("new"), b"2").unwrap();
    std::fs::rename(directory.path().join("new"), directory.path().join("file")).unwrap();
    std::fs::remove_dir(directory.path().join("sub")).unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    assert_eq!(errno(client.stat(&file)), libc::ESTALE);
    assert_eq!(errno(client.entry(put(&sub, "lost"), b"")), libc::ESTALE);
    assert_eq!(std::fs::read_dir(directory.path().join("sub")).unwrap().count(), 0);
}

#[test]
fn a_known_directory_is_found_wherever_it_has_been_moved() {
    let directory = tempdir().unwrap();
    std::fs::create_dir(directory.path().join("before")).unwrap();
    let mut client = Client::attach(directory.path());
    let place = client.place("before");
    client.put(&place, "one", b"1");
    std::fs::rename(directory.path().join("before"), directory.path().join("after")).unwrap();
    client.put(&place, "two", b"2");
    assert!(directory.path().join("after/two").exists());
}

#[test]
fn a_deeper_path_than_the_systems_limit_is_resolved_in_pieces() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let mut place = client.root.clone();
    let part = "d".repeat(200);
    for _ in 0..60 {
        place = client.make_directory(&place, &part);
    }
    let file = client.put(&place, "file", b"deep");
    assert!(file.path.as_bytes().len() > 12_000);
    // Another session has none of the directories open.
    let mut other = Client::attach(directory.path());
    let handle = other.open(&file, READ);
    assert_eq!(other.read(handle, 0, 10), b"deep");
    assert_eq!(other.list(&place).len(), 1);
}

#[test]
fn attaching_takes_directories_only_and_only_once() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), b"").unwrap();
    std::fs::create_dir(directory.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", directory.path().join("link")).unwrap();
    let attach = |client: &mut Client, text: &str| {
        let path = directory.path().join(text).as_os_str().as_encoded_bytes().to_vec();
        client.file(FileRequest::Attach { path, read_only: false })
    };
    let mut client = Client::connect();
    let root = client.root.clone();
    assert_eq!(errno(client.file(FileRequest::Lookup { directory: root, name: name("a") })), libc::ENOTCONN);
    assert_eq!(errno(attach(&mut client, "file")), libc::ENOTDIR);
    assert_eq!(errno(attach(&mut client, "absent")), libc::ENOENT);
    match attach(&mut client, "link").unwrap() {
        FileReply::Attached { path, .. } => {
            let real = directory.path().canonicalize().unwrap().join("real");
            assert_eq!(path, real.as_os_str().as_encoded_bytes());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(errno(attach(&mut client, "real")), libc::EALREADY);
}

#[test]
fn a_relative_path_starts_at_home() {
    let home = tempfile::tempdir_in(std::str::from_utf8(&options().home).unwrap()).unwrap();
    let mut client = Client::connect();
    let path = home.path().file_name().unwrap().as_encoded_bytes().to_vec();
    match client.file(FileRequest::Attach { path, read_only: false }).unwrap() {
        FileReply::Attached { path, .. } => {
            assert_eq!(path, home.path().canonicalize().unwrap().as_os_str().as_encoded_bytes());
        }
        other => panic!("{other:?}"),
    }
}
