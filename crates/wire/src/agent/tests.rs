use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file::*;
use super::find::*;
use super::name::{NAME_BYTES_MAX, Name, NameError, PATH_BYTES_MAX, RelativePath};
use super::process::*;
use super::search::*;
use super::*;
use crate::frame::{PREFIX_BYTES, decode_head, encode_head};

fn name() -> Name {
    Name::new(b"n\xff".as_slice()).unwrap()
}

fn place() -> Place {
    let id = FileId { device: u64::MAX, inode: 1, birth: 2 };
    Place { id, path: RelativePath::new(b"a/b\n/c".as_slice()).unwrap() }
}

fn entry() -> Entry {
    let time = Time { seconds: i64::MIN, nanoseconds: 999_999_999 };
    let attributes = Attributes {
        kind: Kind::Symlink,
        mode: 0o7777,
        links: u32::MAX,
        uid: 1,
        gid: 2,
        device: 3,
        size: u64::MAX,
        blocks: 4,
        block_size: 5,
        accessed: time,
        modified: time,
        changed: time,
        xattrs: true,
    };
    Entry { id: place().id, attributes }
}

fn listed() -> Listed {
    Listed { name: name(), entry: Some(entry()), cookie: u64::MAX }
}

/// At least one request of every kind.
fn requests() -> Vec<Request> {
    use FileRequest as F;
    let (directory, name, handle, owner) = (place(), name(), HandleId(9), 7);
    let (place, target, window) = (place(), Target::Handle(HandleId(3)), 5);
    let caller = Caller { uid: 1, gid: 2, umask: 0o22 };
    let flags = OpenFlags { append: true, ..OpenFlags::default() };
    let lock = Lock { family: LockFamily::Posix, kind: LockKind::Shared, start: 0, end: u64::MAX };
    let changes = AttributeChanges {
        size: Some(1),
        mode: Some(2),
        accessed: SetTime::Now,
        modified: SetTime::To(Time::default()),
        ..AttributeChanges::default()
    };
    let budget = WalkBudget { entries: 1, depth: 2, file_bytes: 3, content_bytes: 4 };
    let search = SearchQuery {
        pattern: Some("a|b".to_owned()),
        fixed: true,
        case: Case::Smart,
        words: true,
        globs: vec!["!*.o".to_owned()],
        ignored: true,
        hidden: true,
        tell: Tell::Lines,
        depth_max: Some(1),
        hits_max: u64::MAX,
    };
    let query = FindQuery {
        names: vec!["*.rs".to_owned()],
        ignore_case: true,
        kinds: vec![Kind::File],
        depth_max: Some(1),
        changed_since: Some(Time::default()),
        attributes: true,
    };
    let files = [
        F::Attach { path: b"/\xff".to_vec(), read_only: true },
        F::Lookup { directory: directory.clone(), name: name.clone() },
        F::Stat { target: Target::Place(place.clone()) },
        F::SetAttributes { target: target.clone(), changes },
        F::ReadLink { place: place.clone() },
        F::Symlink { directory: directory.clone(), name: name.clone(), caller },
        F::MakeNode {
            directory: directory.clone(),
            name: name.clone(),
            kind: Kind::Fifo,
            mode: 1,
            device: 2,
            caller,
        },
        F::MakeDirectory { directory: directory.clone(), name: name.clone(), mode: 1, caller },
        F::Unlink { directory: directory.clone(), name: name.clone() },
        F::RemoveDirectory { directory: directory.clone(), name: name.clone() },
        F::Rename {
            from: directory.clone(),
            from_name: name.clone(),
            to: place.clone(),
            to_name: name.clone(),
            mode: RenameMode::Exchange,
        },
        F::Link { target: target.clone(), directory: directory.clone(), name: name.clone() },
        F::Open { place: place.clone(), flags, handle, inline_bytes: 1 },
        F::Create { directory: directory.clone(), name: name.clone(), mode: 1, flags, handle, caller },
        F::CreateUnnamed { directory: directory.clone(), mode: 1, flags, handle, caller },
        F::Put { directory: directory.clone(), name, mode: 1, changes, exclusive: true, sync: true, caller },
        F::PutMany {
            directory: directory.clone(),
            files: vec![NewFile { name: self::name(), beside: self::name(), mode: 1, changes, bytes: 2 }],
            caller,
        },
        F::GetMany { directory: directory.clone(), names: vec![self::name()], bytes_max: 1 },
        F::Read { handle, offset: u64::MAX, length: u32::MAX },
        F::Write { handle, at: WriteAt::End, clear_set_id: true },
        F::Sync { target: target.clone(), data_only: true },
        F::Close { handle },
        F::Allocate { handle, what: Allocation::Zero { keep_size: true }, offset: 1, length: 2 },
        F::Seek { handle, offset: 1, what: SeekFor::Hole },
        F::CopyRange { from: handle, from_offset: 1, to: handle, to_offset: 2, length: 3 },
        F::Space { place },
        F::GetXattr { target: target.clone(), name: b"user.a".to_vec() },
        F::SetXattr { target: target.clone(), name: b"user.a".to_vec(), mode: XattrMode::Create },
        F::ListXattrs { target: target.clone() },
        F::RemoveXattr { target, name: b"user.a".to_vec() },
        F::Lock { handle, owner, lock, wait: true },
        F::TestLock { handle, owner, lock },
        F::ReleaseLocks { handle, owner },
        F::List { directory: directory.clone(), from: 1, window },
        F::Walk { directory: directory.clone(), from: WalkFrom::Below(self::name()), budget, window },
        F::Find { directory: directory.clone(), query, window },
        F::Search { place: self::place(), query: search, window },
        F::Digest { handle, offset: 1, length: 2, block: 3 },
        F::RemoveTree { directory: directory.clone(), name: self::name(), window },
        F::Watch { directory, recursive: true, window },
    ];
    let process = ProcessId(1);
    let size = TerminalSize { rows: 24, columns: 80 };
    let processes = [
        ProcessRequest::Spawn {
            process,
            words: vec![b"sh".to_vec().into()],
            environment: vec![(b"A".to_vec().into(), b"\xff".to_vec().into())],
            directory: Some(b"/".to_vec().into()),
            terminal: Some(size),
            detached: false,
            window,
        },
        ProcessRequest::Follow { process, from: 9, window, owed: 5 },
        ProcessRequest::Detach { process },
        ProcessRequest::Release { process },
        ProcessRequest::Forget { process },
        ProcessRequest::Wait { process },
        ProcessRequest::Input { process, from: 8, end: true },
        ProcessRequest::Signal { process, signal: 9 },
        ProcessRequest::Resize { process, size },
    ];
    let files = files.into_iter().map(Request::File);
    files.chain(processes.into_iter().map(Request::Process)).chain([Request::Describe]).collect()
}

fn client_frames() -> Vec<ClientFrame> {
    let id = RequestId(u64::MAX);
    let mut frames = vec![
        ClientFrame::Credit { id, bytes: 1 },
        ClientFrame::Cancel { id },
        ClientFrame::Acknowledge { sequence: Sequence(5) },
        ClientFrame::Ping { nonce: 6 },
        ClientFrame::Goodbye,
    ];
    let requests = requests().into_iter();
    frames.extend(requests.map(|body| ClientFrame::Request { id, sequence: Sequence(4), body }));
    frames
}

fn agent_frames() -> Vec<AgentFrame> {
    use FileReply as F;
    let lease = Some(Lease { epoch: 9, valid_ms: 0 });
    let attributes = entry().attributes;
    let files = vec![
        F::Done,
        F::Attached { root: entry(), uid: 1, gid: 2, privileged: true, path: b"/".to_vec() },
        F::Looked { entry: None, lease },
        F::Entry(entry()),
        F::Removed { entry: Some(entry()), directory: attributes },
        F::Renamed { from: attributes, to: attributes },
        F::Opened { entry: entry(), whole: true, created: false, directory: None },
        F::MadeMany { failures: vec![None, Some(Errno(28))] },
        F::GotMany { files: vec![Ok(1), Err(Errno(2))] },
        F::Data,
        F::Written { bytes: 1, attributes },
        F::Position(3),
        F::Space(Space {
            block_size: 1,
            blocks: 2,
            blocks_free: 3,
            blocks_available: 4,
            files: 5,
            files_free: 6,
            name_bytes: 7,
        }),
        F::Lock(Some((Lock { family: LockFamily::Flock, kind: LockKind::Exclusive, start: 0, end: 1 }, 2))),
        F::Listing { entries: vec![listed()], end: true, lease, directory: Some(attributes) },
        F::Walked {
            directory: place(),
            entries: vec![listed()],
            end: false,
            lease: None,
            attributes: Some(attributes),
            contents: vec![(0, 1)],
        },
        F::Found {
            found: vec![Found { path: place().path, kind: Kind::File, entry: Some(entry()) }],
            unread: vec![(place().path, Errno(13))],
        },
        F::Searched {
            hits: vec![Hit {
                path: place().path,
                line: Some(Line { number: 1, text: b"\xff".to_vec(), cut: true, spans: vec![(0, 1)] }),
            }],
            unread: vec![(place().path, Errno(13))],
            searched: Some(Searched { files: 1, bytes: 2, limited: true }),
        },
        F::Digested { blocks: vec![BlockDigest { digest: [7; 32], bytes: 1, zeros: true }] },
        F::TreeRemoved { removed: 1, kept: vec![(place().path, Errno(13))] },
        F::Watched { changes: vec![(place().path, WatchEvent::Modified)], rescan: true },
    ];
    let processes = vec![
        ProcessReply::Done,
        ProcessReply::Started { pid: 1, input: 2, output: 3 },
        ProcessReply::Dropped { bytes: 3, unread: 2 },
        ProcessReply::Output(Output::Stderr),
        ProcessReply::Ended(ExitStatus::Signalled(9)),
    ];
    let description = Description {
        system: "Linux".to_owned(),
        architecture: "x86_64".to_owned(),
        hostname: "h".to_owned(),
        uid: 1,
        gid: 2,
        home: b"/".to_vec(),
        program: b"/p".to_vec(),
        release: "1".to_owned(),
    };
    let files = files.into_iter().map(Reply::File);
    let replies =
        files.chain(processes.into_iter().map(Reply::Process)).chain([Reply::Description(description)]);
    let failure = Failure { errno: Errno(28), detail: "full".to_owned() };
    let bodies = replies.map(Ok).chain([Err(failure)]);
    let mut frames: Vec<AgentFrame> =
        bodies.map(|body| AgentFrame::Reply { id: RequestId(1), last: true, body }).collect();
    let whats = [
        Change::Itself,
        Change::Present { name: name(), entry: entry() },
        Change::Absent { name: name() },
        Change::LeaseLost,
    ];
    frames.extend(whats.map(|what| {
        let directory = place().id;
        AgentFrame::Changed(Changed { directory, epoch: 3, what, attributes: Some(attributes) })
    }));
    frames.push(AgentFrame::LeasesLost);
    frames.push(AgentFrame::Pong { nonce: 1, clock: Time { seconds: 1, nanoseconds: 2 } });
    frames.push(AgentFrame::Closing { reason: "end".to_owned() });
    frames
}

fn head<T: Serialize>(value: &T) -> Vec<u8> {
    encode_head(value, 0).unwrap().split_off(PREFIX_BYTES)
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(values: &[T]) {
    for value in values {
        let bytes = head(value);
        assert_eq!(&decode_head::<T>(&bytes).unwrap(), value);
        for cut in 0..bytes.len() {
            assert!(decode_head::<T>(&bytes[..cut]).is_err(), "{value:?} cut at {cut}");
        }
    }
}

#[test]
fn every_frame_survives_the_trip_and_none_survives_a_cut() {
    survives(&client_frames());
    survives(&agent_frames());
}

#[test]
fn a_name_that_is_none_does_not_arrive() {
    for bytes in [b"".as_slice(), b".", b"..", b"a/b", b"a\0b", &[b'n'; NAME_BYTES_MAX + 1]] {
        assert!(decode_head::<Name>(&head(&serde_bytes::Bytes::new(bytes))).is_err(), "{bytes:?}");
    }
    for bytes in [b"/".as_slice(), b"/a", b"a/", b"a//b", b"a/../b", b"./a", b"a\0"] {
        assert!(decode_head::<RelativePath>(&head(&serde_bytes::Bytes::new(bytes))).is_err(), "{bytes:?}");
    }
}

#[test]
fn the_longest_names_and_paths_are_exactly_allowed() {
    assert!(Name::new([b'n'; NAME_BYTES_MAX]).is_ok());
    assert_eq!(Name::new([b'n'; NAME_BYTES_MAX + 1]), Err(NameError::TooLong));
    let path = b"ab/".repeat(PATH_BYTES_MAX / 3);
    assert!(RelativePath::new(&path[..path.len() - 1]).is_ok());
    assert_eq!(RelativePath::new(vec![b'a'; PATH_BYTES_MAX + 1]), Err(NameError::TooLong));
}

#[test]
fn the_largest_request_fits_a_head() {
    let path = b"ab/".repeat(PATH_BYTES_MAX / 3);
    let path = RelativePath::new(&path[..path.len() - 1]).unwrap();
    let place = Place { path, ..place() };
    let name = Name::new([b'n'; NAME_BYTES_MAX]).unwrap();
    let body = Request::File(FileRequest::Rename {
        from: place.clone(),
        from_name: name.clone(),
        to: place,
        to_name: name,
        mode: RenameMode::Replace,
    });
    let frame = ClientFrame::Request { id: RequestId(u64::MAX), sequence: Sequence(u64::MAX), body };
    assert!(encode_head(&frame, 0).is_ok());
}

#[test]
fn a_length_that_lies_allocates_nothing() {
    // A listing of 2^60 entries in a dozen bytes.
    let mut bytes = vec![0, 1, 1, 0, 0, 11];
    bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(decode_head::<AgentFrame>(&bytes).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(frame) = decode_head::<ClientFrame>(&bytes) {
            prop_assert_eq!(decode_head::<ClientFrame>(&head(&frame)).unwrap(), frame);
        }
        if let Ok(frame) = decode_head::<AgentFrame>(&bytes) {
            prop_assert_eq!(decode_head::<AgentFrame>(&head(&frame)).unwrap(), frame);
        }
    }

    #[test]
    fn a_damaged_frame_is_decoded_or_refused(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let spoil = |mut bytes: Vec<u8>| {
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes
        };
        let (client, agent) = (client_frames(), agent_frames());
        let bytes = spoil(head(&client[which.index(client.len())]));
        if let Ok(frame) = decode_head::<ClientFrame>(&bytes) {
            prop_assert_eq!(decode_head::<ClientFrame>(&head(&frame)).unwrap(), frame);
        }
        let bytes = spoil(head(&agent[which.index(agent.len())]));
        if let Ok(frame) = decode_head::<AgentFrame>(&bytes) {
            prop_assert_eq!(decode_head::<AgentFrame>(&head(&frame)).unwrap(), frame);
        }
    }

    #[test]
    fn a_path_is_its_names_joined(names in prop::collection::vec("[^/\0]{1,20}", 0..8)) {
        let names: Vec<_> = names.into_iter().filter_map(|n| Name::new(n.into_bytes()).ok()).collect();
        let path = names.iter().fold(RelativePath::default(), |path, name| path.join(name));
        prop_assert_eq!(path.is_root(), names.is_empty());
        prop_assert!(path.names().eq(names.iter().map(Name::as_bytes)));
        prop_assert_eq!(RelativePath::new(path.as_bytes()).unwrap(), path);
    }

    #[test]
    fn any_bytes_are_a_path_only_if_every_part_is_a_name(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let is_path = RelativePath::new(bytes.as_slice()).is_ok();
        let parts = bytes.split(|b| *b == b'/').all(|part| Name::new(part).is_ok());
        prop_assert_eq!(is_path, bytes.is_empty() || parts);
    }
}
