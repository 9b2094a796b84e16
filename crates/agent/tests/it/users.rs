//! Acting for others, which only root can.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tempfile::tempdir;
use wire::agent::file::*;

use crate::client::*;

const ANN: Caller = Caller { uid: 12_345, gid: 23_456, umask: 0o022 };

/// A directory that everybody may write to, and a client; nothing when this is not root's run.
fn privileged() -> Option<(tempfile::TempDir, Client)> {
    let directory = tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let client = Client::attach(directory.path());
    client.privileged.then_some((directory, client))
}

fn create(client: &mut Client, text: &str, mode: u16, caller: Caller) -> Entry {
    let handle = client.handle();
    let request = FileRequest::Create {
        directory: client.root.clone(),
        name: name(text),
        mode,
        flags: READ_WRITE,
        handle,
        caller,
    };
    client.entry(request, &[]).unwrap()
}

#[test]
fn every_kind_of_file_is_made_for_its_caller() {
    let Some((directory, mut client)) = privileged() else { return };
    let root = client.root.clone();
    let made = create(&mut client, "file", 0o666, ANN);
    assert_eq!((made.attributes.uid, made.attributes.gid, made.attributes.mode), (ANN.uid, ANN.gid, 0o644));
    let node = |kind, text: &str| FileRequest::MakeNode {
        directory: root.clone(),
        name: name(text),
        kind,
        mode: 0o600,
        device: rustix::fs::makedev(1, 3),
        caller: ANN,
    };
    let requests = [
        node(Kind::Fifo, "fifo"),
        node(Kind::CharDevice, "null"),
        FileRequest::MakeDirectory { directory: root.clone(), name: name("d"), mode: 0o777, caller: ANN },
        FileRequest::Symlink { directory: root.clone(), name: name("link"), caller: ANN },
    ];
    for request in requests {
        let entry = client.entry(request.clone(), b"target").unwrap();
        assert_eq!((entry.attributes.uid, entry.attributes.gid), (ANN.uid, ANN.gid), "{request:?}");
    }
    let mut request = put(&root, "put");
    if let FileRequest::Put { caller, .. } = &mut request {
        *caller = ANN;
    }
    client.entry(request, b"content").unwrap();
    assert_eq!(std::fs::metadata(directory.path().join("put")).unwrap().uid(), ANN.uid);
    // What comes next on the same thread is root's again.
    assert_eq!(create(&mut client, "roots", 0o600, Caller { uid: 0, gid: 0, umask: 0 }).attributes.uid, 0);
}

#[test]
fn the_clients_kernel_has_checked_permissions_and_the_agent_does_not_again() {
    let Some((directory, mut client)) = privileged() else { return };
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(create(&mut client, "file", 0o600, ANN).attributes.uid, ANN.uid);
}

#[test]
fn a_set_group_id_directory_gives_its_group_and_bit() {
    let Some((directory, mut client)) = privileged() else { return };
    std::os::unix::fs::chown(directory.path(), None, Some(777)).unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o2777)).unwrap();
    let file = create(&mut client, "file", 0o2775, ANN);
    assert_eq!((file.attributes.gid, file.attributes.mode & 0o2000), (777, 0), "not the caller's group");
    let request = FileRequest::MakeDirectory {
        directory: client.root.clone(),
        name: name("d"),
        mode: 0o755,
        caller: ANN,
    };
    let made = client.entry(request, &[]).unwrap();
    assert_eq!((made.attributes.gid, made.attributes.mode), (777, 0o2755));
}

#[test]
fn a_default_access_control_list_replaces_the_umask() {
    let Some((directory, mut client)) = privileged() else { return };
    // Version 2; user, group and others may do everything by default.
    let mut list = 2u32.to_le_bytes().to_vec();
    for tag in [0x01u16, 0x04, 0x20] {
        list.extend([tag.to_le_bytes(), 7u16.to_le_bytes()].concat());
        list.extend(u32::MAX.to_le_bytes());
    }
    let name_of_list = "system.posix_acl_default";
    rustix::fs::setxattr(directory.path(), name_of_list, &list, rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(create(&mut client, "file", 0o666, Caller { umask: 0o077, ..ANN }).attributes.mode, 0o666);
}

#[test]
fn set_id_bits_go_with_a_write_or_a_truncation_when_asked() {
    let Some((_directory, mut client)) = privileged() else { return };
    let root = client.root.clone();
    let place = client.put(&root, "file", b"0123456789");
    let handle = client.open(&place, READ_WRITE);
    let set = |changes| FileRequest::SetAttributes { target: Target::Place(place.clone()), changes };
    let set_id = set(AttributeChanges { mode: Some(0o6775), ..AttributeChanges::default() });
    for (clear, expected) in [(false, 0o6775), (true, 0o775), (false, 0o6775)] {
        assert_eq!(client.entry(set_id.clone(), &[]).unwrap().attributes.mode, 0o6775);
        let write = FileRequest::Write { handle, at: WriteAt::Offset(0), clear_set_id: clear };
        match client.call(write, b"x").unwrap().0 {
            FileReply::Written { attributes, .. } => assert_eq!(attributes.mode, expected),
            other => panic!("{other:?}"),
        }
        client.entry(set_id.clone(), &[]).unwrap();
        let changes = AttributeChanges { size: Some(3), clear_set_id: clear, ..AttributeChanges::default() };
        assert_eq!(client.entry(set(changes), &[]).unwrap().attributes.mode, expected);
    }
}

#[test]
fn owners_change_and_none_is_no_owner() {
    let Some((_directory, mut client)) = privileged() else { return };
    let root = client.root.clone();
    let place = client.put(&root, "file", b"");
    let set = |uid, gid| FileRequest::SetAttributes {
        target: Target::Place(place.clone()),
        changes: AttributeChanges { uid, gid, ..AttributeChanges::default() },
    };
    let entry = client.entry(set(Some(5), None), &[]).unwrap();
    assert_eq!((entry.attributes.uid, entry.attributes.gid), (5, me().gid));
    let entry = client.entry(set(None, Some(6)), &[]).unwrap();
    assert_eq!((entry.attributes.uid, entry.attributes.gid), (5, 6));
    assert_eq!(errno(client.entry(set(Some(u32::MAX), None), &[])), libc::EINVAL);
}
