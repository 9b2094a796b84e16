use std::os::unix::fs::{FileTypeExt, MetadataExt};

use tempfile::tempdir;
use wire::agent::file::*;

use crate::client::*;

#[test]
fn a_name_is_found_and_a_missing_one_is_an_answer() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("here"), b"content").unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let (entry, lease) = client.lookup(&root, "here");
    let (entry, meta) = (entry.unwrap(), std::fs::metadata(directory.path().join("here")).unwrap());
    assert_eq!((entry.id.inode, entry.id.device), (meta.ino(), meta.dev()));
    assert_eq!(entry.attributes.size, 7);
    assert_eq!(entry.attributes.modified.seconds, meta.mtime());
    assert!(!entry.attributes.xattrs);
    assert!(lease.is_some());
    assert_eq!(client.lookup(&root, "absent").0, None);
}

#[test]
fn every_kind_of_file_is_made_and_removed() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    for (kind, text) in [(Kind::File, "file"), (Kind::Fifo, "fifo"), (Kind::Socket, "socket")] {
        let request = FileRequest::MakeNode {
            directory: root.clone(),
            name: name(text),
            kind,
            mode: 0o640,
            device: 0,
            caller: Caller { umask: 0o027, ..me() },
        };
        let entry = client.entry(request, &[]).unwrap();
        assert_eq!((entry.attributes.kind, entry.attributes.mode), (kind, 0o640));
    }
    client.make_directory(&root, "directory");
    let request = FileRequest::Symlink { directory: root.clone(), name: name("link"), caller: me() };
    let link = client.entry(request, b"to/nowhere").unwrap();
    assert_eq!((link.attributes.kind, link.attributes.size), (Kind::Symlink, 10));
    let place = Place { id: link.id, path: path("link") };
    assert_eq!(client.call(FileRequest::ReadLink { place }, &[]).unwrap().1, b"to/nowhere");
    let fifo = std::fs::symlink_metadata(directory.path().join("fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());

    for text in ["file", "fifo", "socket", "link"] {
        let request = FileRequest::Unlink { directory: root.clone(), name: name(text) };
        assert!(matches!(client.file(request).unwrap(), FileReply::Removed { entry: None, .. }), "{text}");
    }
    let unlink = FileRequest::Unlink { directory: root.clone(), name: name("directory") };
    assert_eq!(errno(client.file(unlink)), libc::EISDIR);
    let remove = FileRequest::RemoveDirectory { directory: root.clone(), name: name("directory") };
    assert!(client.file(remove.clone()).is_ok());
    assert_eq!(errno(client.file(remove)), libc::ENOENT);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn the_umask_of_the_caller_is_applied() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    for (text, umask, mode) in [("a", 0o077, 0o600), ("b", 0, 0o666), ("c", 0o022, 0o644)] {
        let request = FileRequest::MakeNode {
            directory: client.root.clone(),
            name: name(text),
            kind: Kind::File,
            mode: 0o666,
            device: 0,
            caller: Caller { umask, ..me() },
        };
        assert_eq!(client.entry(request, &[]).unwrap().attributes.mode, mode);
    }
}

#[test]
fn a_rename_replaces_refuses_or_exchanges_as_it_is_told() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    client.put(&root, "a", b"a");
    client.put(&root, "b", b"b");
    let rename = |mode| FileRequest::Rename {
        from: root.clone(),
        from_name: name("a"),
        to: root.clone(),
        to_name: name("b"),
        mode,
    };
    assert_eq!(errno(client.file(rename(RenameMode::NoReplace))), libc::EEXIST);
    client.file(rename(RenameMode::Exchange)).unwrap();
    assert_eq!(std::fs::read(directory.path().join("a")).unwrap(), b"b");
    client.file(rename(RenameMode::Replace)).unwrap();
    assert_eq!(std::fs::read(directory.path().join("b")).unwrap(), b"b");
    assert!(!directory.path().join("a").exists());
    assert_eq!(errno(client.file(rename(RenameMode::Replace))), libc::ENOENT);
}

#[test]
fn a_rename_tells_of_both_directories() {
    let directory = tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("one/moved")).unwrap();
    std::fs::create_dir(directory.path().join("two")).unwrap();
    let mut client = Client::attach(directory.path());
    let (one, two) = (client.place("one"), client.place("two"));
    let rename = FileRequest::Rename {
        from: one.clone(),
        from_name: name("moved"),
        to: two.clone(),
        to_name: name("here"),
        mode: RenameMode::Replace,
    };
    match client.file(rename).unwrap() {
        FileReply::Renamed { from, to } => {
            let now = [one, two].map(|place| client.stat(&place).unwrap().attributes);
            assert_eq!([from, to], now);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_link_counts_and_a_removal_tells_of_what_is_left() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let file = client.put(&root, "one", b"x");
    let request =
        FileRequest::Link { target: Target::Place(file.clone()), directory: root.clone(), name: name("two") };
    let entry = client.entry(request, &[]).unwrap();
    assert_eq!((entry.id, entry.attributes.links), (file.id, 2));
    let request = FileRequest::Unlink { directory: root.clone(), name: name("one") };
    match client.file(request).unwrap() {
        FileReply::Removed { entry: Some(entry), directory: after } => {
            assert_eq!((entry.id, entry.attributes.links), (file.id, 1));
            assert_eq!(after.kind, Kind::Directory);
        }
        other => panic!("{other:?}"),
    }
    let two = client.place("two");
    client.open(&two, READ);
    let request = FileRequest::Unlink { directory: root, name: name("two") };
    match client.file(request).unwrap() {
        FileReply::Removed { entry: Some(entry), .. } => assert_eq!(entry.attributes.links, 0),
        other => panic!("an open file is told of: {other:?}"),
    }
}

#[test]
fn a_symlink_itself_gets_one_more_name() {
    let directory = tempdir().unwrap();
    std::os::unix::fs::symlink("target", directory.path().join("link")).unwrap();
    let mut client = Client::attach(directory.path());
    let (root, link) = (client.root.clone(), client.place("link"));
    let request = FileRequest::Link { target: Target::Place(link), directory: root, name: name("again") };
    assert_eq!(client.entry(request, &[]).unwrap().attributes.kind, Kind::Symlink);
    assert_eq!(std::fs::read_link(directory.path().join("again")).unwrap().to_str(), Some("target"));
}

#[test]
fn names_are_bytes() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let longest = [b'n'; 255];
    for bytes in [b"\xff\xfe".as_slice(), b"new\nline", b" ", b"-", &longest] {
        let mut request = put(&root, "x");
        if let FileRequest::Put { name: of, .. } = &mut request {
            *of = name(bytes);
        }
        client.entry(request, b"1").unwrap();
    }
    let mut names: Vec<_> = client.list(&root).into_iter().map(|l| l.name.as_bytes().to_vec()).collect();
    names.sort();
    assert_eq!(names.len(), 5);
    assert!(names.contains(&b"\xff\xfe".to_vec()) && names.contains(&longest.to_vec()));
}

#[test]
fn a_read_only_export_refuses_every_change() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), b"x").unwrap();
    let mut client = Client::attach_with(directory.path(), true);
    let (root, file) = (client.root.clone(), client.place("file"));
    let handle = client.handle();
    let target = Target::Place(file.clone());
    let changes = AttributeChanges { mode: Some(0), ..AttributeChanges::default() };
    let refused = [
        put(&root, "new"),
        FileRequest::MakeDirectory { directory: root.clone(), name: name("d"), mode: 0, caller: me() },
        FileRequest::Unlink { directory: root.clone(), name: name("file") },
        FileRequest::SetAttributes { target: target.clone(), changes },
        FileRequest::SetXattr { target: target.clone(), name: b"user.a".to_vec(), mode: XattrMode::Set },
        FileRequest::RemoveXattr { target: target.clone(), name: b"user.a".to_vec() },
        FileRequest::Link { target, directory: root.clone(), name: name("l") },
        FileRequest::Symlink { directory: root, name: name("s"), caller: me() },
        FileRequest::Open { place: file.clone(), flags: READ_WRITE, handle, inline_bytes: 0 },
    ];
    for request in refused {
        assert_eq!(errno(client.file(request.clone())), libc::EROFS, "{request:?}");
    }
    client.open(&file, READ);
}
