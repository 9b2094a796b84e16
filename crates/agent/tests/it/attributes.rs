use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tempfile::tempdir;
use wire::agent::file::*;

use crate::client::*;

fn set(target: Target, changes: AttributeChanges) -> FileRequest {
    FileRequest::SetAttributes { target, changes }
}

#[test]
fn size_mode_and_times_are_set_together() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), b"0123456789").unwrap();
    let mut client = Client::attach(directory.path());
    let place = client.place("file");
    let (accessed, modified) =
        (Time { seconds: -5, nanoseconds: 999_999_999 }, Time { seconds: 4_000_000_000, nanoseconds: 1 });
    let changes = AttributeChanges {
        size: Some(4),
        mode: Some(0o4751),
        accessed: SetTime::To(accessed),
        modified: SetTime::To(modified),
        ..AttributeChanges::default()
    };
    for target in [Target::Place(place.clone()), Target::Handle(client.open(&place, READ))] {
        let entry = client.entry(set(target, changes), &[]).unwrap();
        let now = entry.attributes;
        assert_eq!((now.size, now.mode, now.accessed, now.modified), (4, 0o4751, accessed, modified));
    }
    let meta = std::fs::metadata(directory.path().join("file")).unwrap();
    assert_eq!((meta.len(), meta.mtime(), meta.atime()), (4, 4_000_000_000, -5));
}

#[test]
fn now_is_the_machines() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let place = client.put(&root, "file", b"");
    let past = AttributeChanges {
        modified: SetTime::To(Time { seconds: 1, nanoseconds: 0 }),
        ..AttributeChanges::default()
    };
    client.entry(set(Target::Place(place.clone()), past), &[]).unwrap();
    let now = AttributeChanges { modified: SetTime::Now, ..AttributeChanges::default() };
    let entry = client.entry(set(Target::Place(place), now), &[]).unwrap();
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(entry.attributes.modified.seconds.abs_diff(clock as i64) < 60);
}

#[test]
fn a_symlinks_own_times_are_set_and_its_mode_is_refused() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("target"), b"").unwrap();
    std::os::unix::fs::symlink("target", directory.path().join("link")).unwrap();
    let mut client = Client::attach(directory.path());
    let place = client.place("link");
    let modified = Time { seconds: 77, nanoseconds: 7 };
    let changes = AttributeChanges { modified: SetTime::To(modified), ..AttributeChanges::default() };
    let entry = client.entry(set(Target::Place(place.clone()), changes), &[]).unwrap();
    assert_eq!((entry.attributes.kind, entry.attributes.modified), (Kind::Symlink, modified));
    assert_ne!(std::fs::metadata(directory.path().join("target")).unwrap().mtime(), 77);
    let changes = AttributeChanges { mode: Some(0o777), ..AttributeChanges::default() };
    assert_eq!(errno(client.entry(set(Target::Place(place), changes), &[])), libc::EOPNOTSUPP);
}

#[test]
fn sizes_of_what_has_none_are_refused() {
    let directory = tempdir().unwrap();
    std::os::unix::fs::symlink("x", directory.path().join("link")).unwrap();
    let mut client = Client::attach(directory.path());
    let changes = AttributeChanges { size: Some(0), ..AttributeChanges::default() };
    let (root, link) = (client.root.clone(), client.place("link"));
    assert_eq!(errno(client.entry(set(Target::Place(root), changes), &[])), libc::EISDIR);
    assert_eq!(errno(client.entry(set(Target::Place(link), changes), &[])), libc::EINVAL);
    let place = client.put(&client.root.clone(), "file", b"");
    let changes = AttributeChanges { size: Some(u64::MAX), ..AttributeChanges::default() };
    assert_eq!(errno(client.entry(set(Target::Place(place), changes), &[])), libc::EFBIG);
}

#[test]
fn a_read_only_file_is_truncated_through_the_handle_that_made_it() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let (handle, _) = client.create(&root, "file");
    client.write(handle, 0, b"0123456789");
    std::fs::set_permissions(directory.path().join("file"), std::fs::Permissions::from_mode(0o444)).unwrap();
    let changes = AttributeChanges { size: Some(3), ..AttributeChanges::default() };
    let entry = client.entry(set(Target::Handle(handle), changes), &[]).unwrap();
    assert_eq!(entry.attributes.size, 3);
}

#[test]
fn extended_attributes_are_set_read_listed_and_removed() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let file = client.put(&root, "file", b"");
    assert!(!client.stat(&file).unwrap().attributes.xattrs);
    for target in [Target::Place(file.clone()), Target::Handle(client.open(&file, READ)), Target::Place(root)]
    {
        let set = |name: &str, mode| FileRequest::SetXattr {
            target: target.clone(),
            name: name.as_bytes().to_vec(),
            mode,
        };
        let get =
            |name: &str| FileRequest::GetXattr { target: target.clone(), name: name.as_bytes().to_vec() };
        let remove =
            |name: &str| FileRequest::RemoveXattr { target: target.clone(), name: name.as_bytes().to_vec() };
        assert_eq!(errno(client.call(set("user.a", XattrMode::Replace), b"1")), libc::ENODATA);
        let entry = client.entry(set("user.a", XattrMode::Create), b"one\0two").unwrap();
        assert!(entry.attributes.xattrs);
        assert_eq!(errno(client.call(set("user.a", XattrMode::Create), b"1")), libc::EEXIST);
        assert_eq!(client.call(get("user.a"), &[]).unwrap().1, b"one\0two");
        client.call(set("user.b", XattrMode::Set), b"").unwrap();
        assert_eq!(client.call(get("user.b"), &[]).unwrap().1, b"");
        client.call(set("user.c", XattrMode::Set), &[3; 3000]).unwrap();
        assert!(client.call(get("user.c"), &[]).unwrap().1 == [3; 3000]);
        client.entry(remove("user.c"), &[]).unwrap();
        let list = FileRequest::ListXattrs { target: target.clone() };
        let names = client.call(list, &[]).unwrap().1;
        let mut names: Vec<&[u8]> = names.split(|b| *b == 0).filter(|name| !name.is_empty()).collect();
        names.sort();
        assert_eq!(names, [b"user.a".as_slice(), b"user.b"]);
        client.entry(remove("user.a"), &[]).unwrap();
        assert_eq!(errno(client.call(get("user.a"), &[])), libc::ENODATA);
        let entry = client.entry(remove("user.b"), &[]).unwrap();
        assert!(!entry.attributes.xattrs);
        assert_eq!(errno(client.call(get("nonsense\0"), &[])), libc::EINVAL);
    }
}

#[test]
fn attributes_of_a_symlink_are_not_its_targets() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("target"), b"").unwrap();
    std::os::unix::fs::symlink("target", directory.path().join("link")).unwrap();
    let mut client = Client::attach(directory.path());
    let (target, link) = (client.place("target"), client.place("link"));
    let set = |place: &Place| FileRequest::SetXattr {
        target: Target::Place(place.clone()),
        name: b"user.a".to_vec(),
        mode: XattrMode::Set,
    };
    client.call(set(&target), b"1").unwrap();
    assert_eq!(errno(client.call(set(&link), b"1")), libc::EPERM);
    let get = FileRequest::GetXattr { target: Target::Place(link), name: b"user.a".to_vec() };
    assert_ne!(client.call(get, &[]).map(|(_, value)| value).unwrap_or_default(), b"1");
}

#[test]
fn the_space_is_the_file_systems() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let place = client.root.clone();
    let FileReply::Space(space) = client.file(FileRequest::Space { place }).unwrap() else {
        panic!("no space");
    };
    let stat = rustix::fs::statvfs(directory.path()).unwrap();
    assert_eq!((space.blocks, space.files, space.name_bytes), (stat.f_blocks, stat.f_files, 255));
    assert_eq!(u64::from(space.block_size), stat.f_frsize);
}

#[test]
fn a_removed_file_of_a_place_is_stale_for_every_request() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let place = client.put(&root, "file", b"");
    std::fs::remove_file(directory.path().join("file")).unwrap();
    let target = Target::Place(place.clone());
    let handle = client.handle();
    let requests = [
        FileRequest::Stat { target: target.clone() },
        set(target.clone(), AttributeChanges { mode: Some(0), ..AttributeChanges::default() }),
        FileRequest::ReadLink { place: place.clone() },
        FileRequest::Open { place: place.clone(), flags: READ, handle, inline_bytes: 0 },
        FileRequest::GetXattr { target: target.clone(), name: b"user.a".to_vec() },
        FileRequest::Sync { target: target.clone(), data_only: false },
        FileRequest::Space { place },
        FileRequest::Link { target, directory: root, name: name("again") },
    ];
    for request in requests {
        assert_eq!(errno(client.file(request.clone())), libc::ESTALE, "{request:?}");
    }
}
