use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tempfile::tempdir;
use wire::agent::file::*;
use wire::agent::*;
use wire::frame::PAYLOAD_BYTES_MAX;

use crate::client::*;

#[test]
fn bytes_come_back_as_they_were_written() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let (handle, _) = client.create(&root, "file");
    let block: Vec<u8> = (0..PAYLOAD_BYTES_MAX).map(|n| (n % 251) as u8).collect();
    let attributes = client.write(handle, 5, &block);
    assert_eq!(attributes.size, u64::from(PAYLOAD_BYTES_MAX) + 5);
    assert!(client.read(handle, 5, PAYLOAD_BYTES_MAX) == block);
    assert_eq!(client.read(handle, 0, 6), [0, 0, 0, 0, 0, 0]);
    assert_eq!(client.read(handle, attributes.size - 1, 100).len(), 1);
    assert!(client.read(handle, attributes.size, 100).is_empty());
    client.write(handle, 7, b"patch");
    assert_eq!(client.read(handle, 4, 9), [0, block[0], block[1], b'p', b'a', b't', b'c', b'h', block[7]]);
}

#[test]
fn an_overwrite_changes_exactly_its_range() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), vec![b'a'; 64 << 10]).unwrap();
    let mut client = Client::attach(directory.path());
    let place = client.place("file");
    let handle = client.open(&place, READ_WRITE);
    client.write(handle, 0, &[b'b'; 4 << 10]);
    let content = std::fs::read(directory.path().join("file")).unwrap();
    assert_eq!(content.len(), 64 << 10);
    assert!(content[..4 << 10].iter().all(|b| *b == b'b') && content[4 << 10..].iter().all(|b| *b == b'a'));
}

#[test]
fn appends_of_two_clients_interleave_and_lose_nothing() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("log"), b"").unwrap();
    let append = |letter: u8, flags: OpenFlags, at: WriteAt| {
        let mut client = Client::attach(directory.path());
        move || {
            let place = client.place("log");
            let handle = client.open(&place, flags);
            for _ in 0..200 {
                let request = FileRequest::Write { handle, at, clear_set_id: true };
                client.call(request, &[letter; 10]).unwrap();
            }
        }
    };
    let one = append(b'a', OpenFlags { append: true, read: false, ..READ_WRITE }, WriteAt::Offset(0));
    let two = append(b'b', READ_WRITE, WriteAt::End);
    std::thread::scope(|scope| {
        scope.spawn(one);
        scope.spawn(two);
    });
    let content = std::fs::read(directory.path().join("log")).unwrap();
    assert_eq!(content.len(), 4000);
    assert!(content.chunks(10).all(|chunk| chunk.iter().all(|b| *b == chunk[0])));
}

#[test]
fn a_file_that_is_read_and_appended_to_is_written_where_a_mapping_says() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::write(&path, b"0123").unwrap();
    let mut client = Client::attach(directory.path());
    let place = client.place("log");
    let flags = OpenFlags { append: true, ..READ_WRITE };
    let handle = client.open(&place, flags);
    let write = |at| FileRequest::Write { handle, at, clear_set_id: true };
    client.call(write(WriteAt::End), b"4").unwrap();
    client.call(write(WriteAt::Offset(1)), b"x").unwrap();
    client.call(write(WriteAt::End), b"5").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"0x2345");
    client.call(FileRequest::Close { handle }, b"").unwrap();

    // What may only be appended to is.
    let only = |on: &str| std::process::Command::new("chattr").arg(on).arg(&path).status();
    if !only("+a").is_ok_and(|done| done.success()) {
        eprintln!("not tried: a file that may only be appended to needs root and a file system that has it");
        return;
    }
    let handle = client.open(&place, flags);
    let write = |at| FileRequest::Write { handle, at, clear_set_id: true };
    let refused = client.call(write(WriteAt::Offset(1)), b"y");
    let appended = client.call(write(WriteAt::End), b"6");
    assert!(only("-a").unwrap().success());
    assert_eq!(errno(refused), libc::EPERM);
    appended.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"0x23456");
}

#[test]
fn open_reads_a_small_file_at_once() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), b"small").unwrap();
    let mut client = Client::attach(directory.path());
    let place = client.place("file");
    for (inline_bytes, expected, is_whole) in
        [(100, b"small".as_slice(), true), (3, b"sma", false), (0, b"", false)]
    {
        let handle = client.handle();
        let request = FileRequest::Open { place: place.clone(), flags: READ, handle, inline_bytes };
        match client.call(request, &[]).unwrap() {
            (FileReply::Opened { whole, created: false, entry, directory: None }, bytes) => {
                assert_eq!((bytes.as_slice(), whole, entry.id), (expected, is_whole, place.id));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn creation_is_exclusive_or_opens_what_is_there() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let create = |client: &mut Client, exclusive, truncate| {
        let handle = client.handle();
        let request = FileRequest::Create {
            directory: client.root.clone(),
            name: name("file"),
            mode: 0o640,
            flags: OpenFlags { exclusive, truncate, ..READ_WRITE },
            handle,
            caller: me(),
        };
        client.file(request).map(|reply| match reply {
            FileReply::Opened { created, entry, .. } => (handle, created, entry),
            other => panic!("{other:?}"),
        })
    };
    let (handle, created, entry) = create(&mut client, true, false).unwrap();
    assert!(created);
    assert_eq!(entry.attributes.mode, 0o640);
    client.write(handle, 0, b"content");
    assert_eq!(errno(create(&mut client, true, false)), libc::EEXIST);
    let (_, created, again) = create(&mut client, false, false).unwrap();
    assert_eq!((created, again.id, again.attributes.size), (false, entry.id, 7));
    let (_, _, emptied) = create(&mut client, false, true).unwrap();
    assert_eq!((emptied.id, emptied.attributes.size), (entry.id, 0));
}

#[test]
fn an_open_file_survives_its_name() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let (handle, place) = client.create(&root, "file");
    client.write(handle, 0, b"still here");
    client.file(FileRequest::Unlink { directory: root, name: name("file") }).unwrap();
    assert_eq!(client.read(handle, 0, 100), b"still here");
    client.write(handle, 10, b"!");
    let entry = client.entry(FileRequest::Stat { target: Target::Handle(handle) }, &[]).unwrap();
    assert_eq!((entry.id, entry.attributes.links, entry.attributes.size), (place.id, 0, 11));
    client.file(FileRequest::Close { handle }).unwrap();
    assert_eq!(errno(client.file(FileRequest::Close { handle })), libc::EBADF);
}

#[test]
fn an_unnamed_file_can_be_given_a_name() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let (root, handle) = (client.root.clone(), client.handle());
    let request = FileRequest::CreateUnnamed {
        directory: root.clone(),
        mode: 0o600,
        flags: READ_WRITE,
        handle,
        caller: me(),
    };
    let entry = client.entry(request, &[]).unwrap();
    assert_eq!(entry.attributes.links, 0);
    client.write(handle, 0, b"now named");
    let request = FileRequest::Link { target: Target::Handle(handle), directory: root, name: name("named") };
    assert_eq!(client.entry(request, &[]).unwrap().attributes.links, 1);
    assert_eq!(std::fs::read(directory.path().join("named")).unwrap(), b"now named");
}

#[test]
fn a_put_creates_fills_and_sets_in_one() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let modified = Time { seconds: 1_000_000_000, nanoseconds: 123_456_789 };
    let request = FileRequest::Put {
        directory: client.root.clone(),
        name: name("file"),
        mode: 0o600,
        changes: AttributeChanges {
            mode: Some(0o444),
            modified: SetTime::To(modified),
            ..AttributeChanges::default()
        },
        exclusive: true,
        sync: true,
        caller: me(),
    };
    let entry = client.entry(request.clone(), b"content").unwrap();
    assert_eq!(
        (entry.attributes.mode, entry.attributes.modified, entry.attributes.size),
        (0o444, modified, 7)
    );
    assert_eq!(errno(client.call(request, b"other")), libc::EEXIST);
    let meta = std::fs::metadata(directory.path().join("file")).unwrap();
    assert_eq!((meta.mtime_nsec(), meta.permissions().mode() & 0o777), (123_456_789, 0o444));
    std::fs::set_permissions(directory.path().join("file"), std::fs::Permissions::from_mode(0o600)).unwrap();
    client.put(&client.root.clone(), "file", b"x");
    assert_eq!(std::fs::read(directory.path().join("file")).unwrap(), b"x");
}

#[test]
fn a_put_that_fails_leaves_nothing() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let mut request = put(&client.root, "file");
    if let FileRequest::Put { changes, .. } = &mut request {
        changes.modified = SetTime::To(Time { seconds: 0, nanoseconds: u32::MAX });
    }
    assert_eq!(errno(client.call(request, b"content")), libc::EINVAL);
    assert!(!directory.path().join("file").exists());
}

fn new_file(text: &str, bytes: u32) -> NewFile {
    let beside = name(format!(".{text}.part"));
    NewFile { name: name(text), beside, mode: 0o600, changes: AttributeChanges::default(), bytes }
}

fn put_many(directory: &Place, files: Vec<NewFile>) -> FileRequest {
    FileRequest::PutMany { directory: directory.clone(), files, caller: me() }
}

fn names_in(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn many_files_are_made_by_one_request_and_each_is_its_own_matter() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    std::fs::create_dir(directory.path().join("taken")).unwrap();
    std::fs::write(directory.path().join("old"), "a longer older version").unwrap();
    // What a request before this one has left when its agent was killed.
    std::fs::write(directory.path().join(".new.part"), "left").unwrap();
    std::os::unix::fs::symlink("old", directory.path().join(".link.part")).unwrap();
    let modified = Time { seconds: 1_000_000_000, nanoseconds: 1 };
    let changes = AttributeChanges {
        mode: Some(0o444),
        modified: SetTime::To(modified),
        ..AttributeChanges::default()
    };
    let wrong =
        AttributeChanges { modified: SetTime::To(Time { seconds: 0, nanoseconds: u32::MAX }), ..changes };
    let files = vec![
        NewFile { changes, ..new_file("new", 3) },
        new_file("taken", 4),
        NewFile { changes: wrong, ..new_file("wrong", 1) },
        new_file("link", 2),
        new_file("empty", 0),
        new_file("old", 5),
    ];
    let request = put_many(&client.root, files);
    let (reply, _) = client.call(request.clone(), b"onefourxlkfiver").unwrap();
    let failures = |errnos: [i32; 6]| {
        let failures = errnos.map(|errno| (errno != 0).then(|| Errno(u16::try_from(errno).unwrap())));
        FileReply::MadeMany { failures: failures.to_vec() }
    };
    let expected = failures([0, libc::EISDIR, libc::EINVAL, libc::ELOOP, 0, 0]);
    assert_eq!(reply, expected);
    let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
    assert_eq!((read("new"), read("empty"), read("old")), (b"one".to_vec(), Vec::new(), b"fiver".to_vec()));
    let meta = std::fs::metadata(directory.path().join("new")).unwrap();
    assert_eq!((meta.mtime(), meta.permissions().mode() & 0o777), (1_000_000_000, 0o444));
    assert_eq!(names_in(directory.path()), [".link.part", "empty", "new", "old", "taken"]);
    // Sent again to another session, it comes to the same.
    let mut other = Client::attach(directory.path());
    let request = match request {
        FileRequest::PutMany { files, .. } => put_many(&other.root, files),
        request => request,
    };
    assert_eq!(other.call(request, b"onefourxlkfiver").unwrap().0, expected);
    assert_eq!(names_in(directory.path()), [".link.part", "empty", "new", "old", "taken"]);
}

#[test]
fn many_files_whose_lengths_are_not_those_of_the_payload_are_refused() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let longest = vec![new_file("a", u32::MAX), new_file("b", 1)];
    for files in [vec![new_file("a", 4)], vec![new_file("a", 2)], vec![], longest] {
        assert_eq!(errno(client.call(put_many(&root, files), b"one")), libc::EINVAL);
    }
    let too_many = (0..=FILES_MAX).map(|number| new_file(&number.to_string(), 0)).collect();
    assert_eq!(errno(client.call(put_many(&root, too_many), b"")), libc::EINVAL);
    assert!(names_in(directory.path()).is_empty());
    let mut reader = Client::attach_with(directory.path(), true);
    let request = put_many(&reader.root, vec![new_file("a", 0)]);
    assert_eq!(errno(reader.call(request, b"")), libc::EROFS);
}

#[test]
fn many_files_are_read_by_one_request_as_far_as_they_fit() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    for (name, content) in [("a", "first"), ("b", ""), ("c", "too long"), ("d", "it")] {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    std::os::unix::fs::symlink("a", directory.path().join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        directory.path().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let names: Vec<_> = ["a", "b", "c", "link", "fifo", "absent", "d"].map(name).to_vec();
    let request = FileRequest::GetMany { directory: client.root.clone(), names, bytes_max: 7 };
    let (reply, payload) = client.call(request, b"").unwrap();
    let failed = |errno: i32| Err(Errno(u16::try_from(errno).unwrap()));
    let (other, absent) = (failed(libc::EMEDIUMTYPE), failed(libc::ENOENT));
    let files = vec![Ok(5), Ok(0), failed(libc::EFBIG), other, other, absent, Ok(2)];
    assert_eq!((reply, payload), (FileReply::GotMany { files }, b"firstit".to_vec()));
    let names = vec![name("a"); FILES_MAX + 1];
    let request = FileRequest::GetMany { directory: client.root.clone(), names, bytes_max: 7 };
    assert_eq!(errno(client.call(request, b"")), libc::EINVAL);
}

#[test]
fn holes_are_made_found_and_kept() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let (handle, _) = client.create(&root, "sparse");
    client.write(handle, 0, &[1; 1 << 20]);
    let allocate = |what, offset, length| FileRequest::Allocate { handle, what, offset, length };
    let entry = client.entry(allocate(Allocation::Punch, 64 << 10, 128 << 10), &[]).unwrap();
    assert_eq!(entry.attributes.size, 1 << 20);
    let seek =
        |client: &mut Client, offset, what| match client.file(FileRequest::Seek { handle, offset, what }) {
            Ok(FileReply::Position(position)) => Ok(position),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => Err(failure),
        };
    assert_eq!(seek(&mut client, 0, SeekFor::Hole).unwrap(), 64 << 10);
    assert_eq!(seek(&mut client, 64 << 10, SeekFor::Data).unwrap(), 192 << 10);
    assert_eq!(seek(&mut client, 192 << 10, SeekFor::Hole).unwrap(), 1 << 20);
    assert_eq!(errno(seek(&mut client, 1 << 20, SeekFor::Data)), libc::ENXIO);
    assert_eq!(errno(seek(&mut client, u64::MAX, SeekFor::Data)), libc::ENXIO);
    let entry =
        client.entry(allocate(Allocation::Reserve { keep_size: true }, 1 << 20, 1 << 20), &[]).unwrap();
    assert_eq!(entry.attributes.size, 1 << 20);
    let entry = client.entry(allocate(Allocation::Reserve { keep_size: false }, 1 << 20, 4096), &[]).unwrap();
    assert_eq!(entry.attributes.size, (1 << 20) + 4096);
    client.entry(allocate(Allocation::Zero { keep_size: true }, 0, 4096), &[]).unwrap();
    assert_eq!(client.read(handle, 4095, 2), [0, 1]);
    let entry = client.entry(allocate(Allocation::Collapse, 0, 4096), &[]).unwrap();
    assert_eq!(entry.attributes.size, 1 << 20);
    client.entry(allocate(Allocation::Insert, 0, 4096), &[]).unwrap();
    assert_eq!(errno(client.file(allocate(Allocation::Punch, 0, 0))), libc::EINVAL);
}

#[test]
fn a_copy_is_made_on_the_machine() {
    let (directory, memory) = (tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let content: Vec<u8> = (0..20 << 20).map(|n: u32| (n % 253) as u8).collect();
    std::fs::write(directory.path().join("from"), &content).unwrap();
    std::os::unix::fs::symlink(memory.path(), directory.path().join("unused")).unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let place = client.place("from");
    let from = client.open(&place, READ);
    let (to, _) = client.create(&root, "to");
    let copy =
        |from_offset, to_offset, length| FileRequest::CopyRange { from, from_offset, to, to_offset, length };
    match client.file(copy(0, 0, u64::MAX >> 2)).unwrap() {
        FileReply::Written { bytes, attributes } => {
            assert_eq!((bytes, attributes.size), (20 << 20, 20 << 20));
        }
        other => panic!("{other:?}"),
    }
    assert!(std::fs::read(directory.path().join("to")).unwrap() == content);
    client.file(copy(1, 0, 3)).unwrap();
    assert_eq!(client.read(to, 0, 4), [1, 2, 3, 3]);
}

#[test]
fn a_copy_between_file_systems_works_too() {
    // The root has both: a path beneath it leads to each.
    let (disk, memory) = (tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    std::fs::write(disk.path().join("from"), vec![7; 3 << 20]).unwrap();
    let mut client = Client::attach("/".as_ref());
    let from = client.place(disk.path().join("from").to_str().unwrap());
    let target = client.place(memory.path().to_str().unwrap());
    let from = client.open(&from, READ);
    let (to, _) = client.create(&target, "to");
    let request = FileRequest::CopyRange { from, from_offset: 0, to, to_offset: 0, length: u64::MAX };
    match client.file(request).unwrap() {
        FileReply::Written { bytes, .. } => assert_eq!(bytes, 3 << 20),
        other => panic!("{other:?}"),
    }
    assert!(std::fs::read(memory.path().join("to")).unwrap() == vec![7; 3 << 20]);
}

#[test]
fn requests_on_one_handle_keep_their_order() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    for round in 0..50u8 {
        let handle = client.handle();
        let request = FileRequest::Create {
            directory: client.root.clone(),
            name: name(format!("file{round}")),
            mode: 0o644,
            flags: READ_WRITE,
            handle,
            caller: me(),
        };
        client.send(Request::File(request), &[]);
        for n in 0..20u8 {
            let request = FileRequest::Write { handle, at: WriteAt::Offset(0), clear_set_id: true };
            client.send(Request::File(request), &vec![n; 100_000]);
        }
        let read = client.send(Request::File(FileRequest::Read { handle, offset: 0, length: 100_000 }), &[]);
        let close = client.send(Request::File(FileRequest::Close { handle }), &[]);
        let late = client.send(Request::File(FileRequest::Read { handle, offset: 0, length: 1 }), &[]);
        assert!(client.reply(read).2 == vec![19; 100_000]);
        assert!(client.reply(close).1.is_ok());
        assert_eq!(errno(client.reply(late).1), libc::EBADF);
    }
}

#[test]
fn an_open_that_truncates_does_so_only_to_the_file_that_was_meant() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), b"meant").unwrap();
    let mut client = Client::attach(directory.path());
    let place = client.place("file");
    std::fs::rename(directory.path().join("file"), directory.path().join("old")).unwrap();
    std::fs::write(directory.path().join("file"), b"another").unwrap();
    let handle = client.handle();
    let flags = OpenFlags { truncate: true, ..READ_WRITE };
    let request = FileRequest::Open { place, flags, handle, inline_bytes: 0 };
    assert_eq!(errno(client.file(request)), libc::ESTALE);
    assert_eq!(std::fs::read(directory.path().join("file")).unwrap(), b"another");
}

#[test]
fn only_what_has_content_can_be_opened() {
    let directory = tempdir().unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, directory.path().join("fifo"), 0o600.into()).unwrap();
    std::os::unix::fs::symlink("fifo", directory.path().join("link")).unwrap();
    std::fs::create_dir(directory.path().join("directory")).unwrap();
    let mut client = Client::attach(directory.path());
    let cases =
        [("fifo", READ, libc::ENXIO), ("link", READ, libc::ELOOP), ("directory", READ_WRITE, libc::EISDIR)];
    for (text, flags, expected) in cases {
        let (place, handle) = (client.place(text), client.handle());
        let request = FileRequest::Open { place, flags, handle, inline_bytes: 0 };
        assert_eq!(errno(client.file(request)), expected, "{text}");
    }
    let place = client.place("directory");
    let handle = client.open(&place, READ);
    let sync = FileRequest::Sync { target: Target::Handle(handle), data_only: false };
    assert_eq!(client.file(sync).unwrap(), FileReply::Done);
    assert_eq!(errno(client.file(FileRequest::Read { handle, offset: 0, length: 10 })), libc::EISDIR);
}
