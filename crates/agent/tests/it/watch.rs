use tempfile::tempdir;
use wire::agent::file::*;
use wire::agent::*;

use crate::client::*;

fn watch(client: &mut Client, recursive: bool, window: u32) -> RequestId {
    let request = FileRequest::Watch { directory: client.root.clone(), recursive, window };
    let id = client.send(Request::File(request), &[]);
    assert_eq!(watched(client, id), (vec![], false));
    id
}

fn watched(client: &mut Client, id: RequestId) -> (Vec<(String, WatchEvent)>, bool) {
    match client.reply(id) {
        (false, Ok(Reply::File(FileReply::Watched { changes, rescan })), _) => {
            let changes = changes.into_iter();
            (changes.map(|(path, event)| (path.to_string(), event)).collect(), rescan)
        }
        other => panic!("{other:?}"),
    }
}

/// Reads pages until this has been told.
fn expect(client: &mut Client, id: RequestId, path: &str, event: WatchEvent) {
    while !watched(client, id).0.contains(&(path.to_owned(), event)) {}
}

#[test]
fn changes_at_any_depth_are_told_by_path() {
    let directory = tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
    let mut client = Client::attach(directory.path());
    let id = watch(&mut client, true, NO_LIMIT);
    std::fs::write(directory.path().join("a/b/file"), b"1").unwrap();
    expect(&mut client, id, "a/b/file", WatchEvent::Created);
    std::fs::remove_file(directory.path().join("a/b/file")).unwrap();
    expect(&mut client, id, "a/b/file", WatchEvent::Removed);
}

#[test]
fn a_tree_that_appears_is_told_whole_and_watched_under_its_new_name() {
    let (directory, other) = (tempdir().unwrap(), tempdir().unwrap());
    std::fs::create_dir_all(other.path().join("tree/deep")).unwrap();
    std::fs::write(other.path().join("tree/deep/file"), b"1").unwrap();
    let mut client = Client::attach(directory.path());
    let id = watch(&mut client, true, NO_LIMIT);
    std::fs::rename(other.path().join("tree"), directory.path().join("one")).unwrap();
    expect(&mut client, id, "one/deep/file", WatchEvent::Created);
    std::fs::rename(directory.path().join("one"), directory.path().join("two")).unwrap();
    expect(&mut client, id, "two/deep/file", WatchEvent::Created);
    std::fs::write(directory.path().join("two/deep/file"), b"22").unwrap();
    expect(&mut client, id, "two/deep/file", WatchEvent::Modified);
}

#[test]
fn a_flat_watch_does_not_look_below() {
    let directory = tempdir().unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    let mut client = Client::attach(directory.path());
    let id = watch(&mut client, false, NO_LIMIT);
    std::fs::write(directory.path().join("sub/unseen"), b"1").unwrap();
    std::fs::write(directory.path().join("seen"), b"1").unwrap();
    loop {
        let (changes, _) = watched(&mut client, id);
        assert!(changes.iter().all(|(path, _)| !path.contains("unseen")));
        if changes.iter().any(|(path, _)| path == "seen") {
            break;
        }
    }
}

#[test]
fn a_watch_without_credit_gathers_and_ends_when_cancelled() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let id = watch(&mut client, true, 0);
    for n in 0..20_000 {
        std::fs::write(directory.path().join(n.to_string()), b"").unwrap();
    }
    assert!(!client.has_reply(id));
    client.send_frame(&ClientFrame::Credit { id, bytes: 1 << 20 }, &[]);
    while !watched(&mut client, id).1 {}
    client.send_frame(&ClientFrame::Cancel { id }, &[]);
    loop {
        if let (true, body, _) = client.reply(id) {
            assert_eq!(errno(body), libc::EINTR);
            return;
        }
    }
}

#[test]
fn a_watch_ends_with_its_directory() {
    let directory = tempdir().unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    let mut client = Client::attach(directory.path());
    let place = client.place("sub");
    let request = FileRequest::Watch { directory: place, recursive: true, window: NO_LIMIT };
    let id = client.send(Request::File(request), &[]);
    watched(&mut client, id);
    std::fs::remove_dir(directory.path().join("sub")).unwrap();
    loop {
        if let (true, body, _) = client.reply(id) {
            assert_eq!(errno(body), libc::ENOENT);
            return;
        }
    }
}
