use wire::agent::file::{AttributeChanges, Attributes, Kind};
use wire::agent::process::ProcessId;

use super::*;

fn attributes(size: u64) -> Attributes {
    Attributes { mode: 0o644, size, ..Attributes::new(Kind::File) }
}

fn id(inode: u64) -> FileId {
    FileId { device: 1, inode, birth: 0 }
}

fn place(inode: u64, path: &str) -> Place {
    Place { id: id(inode), path: RelativePath::new(path.as_bytes()).unwrap() }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// Learns from the answer to this request, which came when request 100, or 110, was the last.
fn learn_at(held: &mut Held, id: u64, request: FileRequest, reply: FileReply) {
    let moment = Moment { id: RequestId(id), as_of: RequestId(if id > 100 { 110 } else { 100 }) };
    held.learn(&Request::File(request), &Reply::File(reply), moment);
}

fn learn(held: &mut Held, request: FileRequest, reply: FileReply) {
    learn_at(held, 100, request, reply);
}

const APPENDING: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: true,
    truncate: true,
    sync: false,
    direct: false,
    exclusive: false,
};

fn open(held: &mut Held, handle: u64, inode: u64, path: &str) {
    let request = FileRequest::Open {
        place: place(inode, path),
        flags: APPENDING,
        handle: HandleId(handle),
        inline_bytes: 0,
    };
    let entry = Entry { id: id(inode), attributes: attributes(10) };
    learn(held, request, FileReply::Opened { entry, whole: false, created: false, directory: None });
}

fn rename(held: &mut Held, from: &str, to: &str, mode: RenameMode) {
    let root = place(1, "");
    let request =
        FileRequest::Rename { from: root.clone(), from_name: name(from), to: root, to_name: name(to), mode };
    learn(held, request, FileReply::Renamed { from: attributes(0), to: attributes(0) });
}

fn lock(held: &mut Held, handle: u64, owner: u64, lock: Lock) {
    learn(held, FileRequest::Lock { handle: HandleId(handle), owner, lock, wait: false }, FileReply::Done);
}

fn posix(kind: LockKind, start: u64, end: u64) -> Lock {
    Lock { family: LockFamily::Posix, kind, start, end }
}

fn paths(held: &Held) -> Vec<String> {
    held.files().iter().map(|file| String::from_utf8_lossy(file.place.path.as_bytes()).into_owned()).collect()
}

#[test]
fn a_file_is_opened_again_as_it_is_open_and_not_as_it_was_opened() {
    let mut held = Held::default();
    open(&mut held, 3, 7, "a/b");
    let [file] = &held.files()[..] else { panic!("{held:?}") };
    assert_eq!((file.handle, &file.place), (HandleId(3), &place(7, "a/b")));
    assert!(file.flags.append && !file.flags.truncate && !file.flags.exclusive);
    assert_eq!(held.last_handle(), 3);
    held.closed(HandleId(3));
    assert!(held.files().is_empty());
}

#[test]
fn paths_follow_renames_of_what_is_above_them() {
    let mut held = Held::default();
    for (handle, path) in [(1, "a"), (2, "a/b"), (3, "ab"), (4, "c")] {
        open(&mut held, handle, handle, path);
    }
    rename(&mut held, "a", "z", RenameMode::Replace);
    assert_eq!(paths(&held), ["z", "z/b", "ab", "c"]);
    rename(&mut held, "z", "c", RenameMode::Exchange);
    assert_eq!(paths(&held), ["c", "c/b", "ab", "z"]);
}

#[test]
fn a_file_without_a_name_is_found_by_the_one_it_is_given() {
    let mut held = Held::default();
    open(&mut held, 1, 7, "");
    let request = FileRequest::Link {
        target: Target::Handle(HandleId(1)),
        directory: place(1, ""),
        name: name("named"),
    };
    learn(&mut held, request, FileReply::Entry(Entry { id: id(7), attributes: attributes(0) }));
    assert_eq!(paths(&held), ["named"]);
}

#[test]
fn locks_are_kept_as_the_kernel_would() {
    let mut held = Held::default();
    open(&mut held, 1, 7, "a");
    lock(&mut held, 1, 5, posix(LockKind::Exclusive, 0, 99));
    lock(&mut held, 1, 5, posix(LockKind::Shared, 40, 49));
    lock(&mut held, 1, 6, posix(LockKind::Shared, 200, u64::MAX));
    lock(&mut held, 1, 5, posix(LockKind::Unlocked, 90, u64::MAX));
    let locks: Vec<_> = held.files()[0].locks.iter().map(|held| (held.owner, held.lock)).collect();
    let expected = [
        (5, posix(LockKind::Exclusive, 0, 39)),
        (5, posix(LockKind::Exclusive, 50, 89)),
        (5, posix(LockKind::Shared, 40, 49)),
        (6, posix(LockKind::Shared, 200, u64::MAX)),
    ];
    assert_eq!(locks.len(), expected.len(), "{locks:?}");
    assert!(expected.iter().all(|lock| locks.contains(lock)), "{locks:?}");
    learn(&mut held, FileRequest::ReleaseLocks { handle: HandleId(1), owner: 5 }, FileReply::Done);
    assert_eq!(held.files()[0].locks.len(), 1);
    held.lose_lock(HandleId(1), HeldLock { owner: 6, lock: posix(LockKind::Shared, 200, u64::MAX) });
    assert!(held.files()[0].locks.is_empty());
}

#[test]
fn the_end_of_a_file_is_known_from_the_last_answer_to_a_write_there() {
    let mut held = Held::default();
    open(&mut held, 1, 7, "a");
    let write = FileRequest::Write { handle: HandleId(1), at: WriteAt::End, clear_set_id: true };
    let known = |held: &mut Held, end, claimed: &[Range<u64>]| {
        let tail = Some(Tail { place: place(7, "a"), end, claimed: claimed.to_vec() });
        assert_eq!(held.known_for(RequestId(101), &write, false), Known { tail, ..Known::default() });
        assert_eq!(held.known_for(RequestId(101), &write, true), Known::default());
    };
    known(&mut held, 10, &[]);
    held.doubts_settled();
    learn(&mut held, write.clone(), FileReply::Written { bytes: 4, attributes: attributes(14) });
    known(&mut held, 14, &[]);
    // As long as anything is in doubt, it is the end before.
    learn(&mut held, write.clone(), FileReply::Written { bytes: 4, attributes: attributes(18) });
    held.claim(id(7), 14..18);
    known(&mut held, 14, std::slice::from_ref(&(14..18)));
    held.doubts_settled();
    known(&mut held, 18, &[]);
    held.doubts_settled();
    let cut = FileRequest::SetAttributes {
        target: Target::Handle(HandleId(1)),
        changes: AttributeChanges { size: Some(2), ..AttributeChanges::default() },
    };
    learn(&mut held, cut, FileReply::Entry(Entry { id: id(7), attributes: attributes(2) }));
    known(&mut held, 2, &[]);
    held.closed(HandleId(1));
    assert_eq!(held.known_for(RequestId(101), &write, false), Known::default());
}

#[test]
fn answers_that_overtook_a_write_in_doubt_do_not_hide_it() {
    let mut held = Held::default();
    open(&mut held, 1, 7, "a");
    let write = FileRequest::Write { handle: HandleId(1), at: WriteAt::End, clear_set_id: true };
    let mut answered = |id, at| {
        learn_at(&mut held, id, write.clone(), FileReply::Written { bytes: 4, attributes: attributes(at) })
    };
    answered(102, 18);
    answered(101, 14);
    answered(104, 26);
    answered(105, 30);
    let tail =
        |end, claimed: &[Range<u64>]| Some(Tail { place: place(7, "a"), end, claimed: claimed.to_vec() });
    for id in [103, 106] {
        assert_eq!(held.known_for(RequestId(id), &write, false).tail, tail(18, &[22..26, 26..30]));
    }
}

#[test]
fn an_end_that_may_be_behind_a_write_is_none() {
    let mut held = Held::default();
    open(&mut held, 1, 7, "a");
    open(&mut held, 2, 7, "a");
    let through =
        |handle| FileRequest::Write { handle: HandleId(handle), at: WriteAt::End, clear_set_id: true };
    learn_at(&mut held, 99, through(1), FileReply::Written { bytes: 4, attributes: attributes(14) });
    // What was asked through the other at the same time may have been there when this was answered.
    for (handle, id, is_known) in [(1, 98, false), (1, 101, true), (2, 98, false), (2, 101, true)] {
        let tail = held.known_for(RequestId(id), &through(handle), false).tail;
        assert_eq!(tail.is_some(), is_known, "{handle} {id}");
        held.doubts_settled();
    }
}

#[test]
fn a_file_that_is_lost_is_stale_until_its_handle_is_another_file() {
    let mut held = Held::default();
    open(&mut held, 1, 7, "a");
    held.lose_file(HandleId(1));
    assert!(held.is_stale(HandleId(1)) && held.files().is_empty());
    open(&mut held, 1, 8, "b");
    assert!(!held.is_stale(HandleId(1)));
}

#[test]
fn what_nobody_waited_for_is_given_back_and_what_was_had_before_is_not() {
    let mut held = Held::default();
    open(&mut held, 1, 7, "a");
    lock(&mut held, 1, 5, posix(LockKind::Shared, 0, 9));
    let wanted = posix(LockKind::Exclusive, 0, 99);
    let asked = FileRequest::Lock { handle: HandleId(1), owner: 5, lock: wanted, wait: true };
    held.request_lost(&Request::File(asked.clone()), false);
    assert_eq!(held.corrections().count, 0, "what was not sent was not given");
    held.request_lost(&Request::File(asked), true);
    let lock = |lock| Request::File(FileRequest::Lock { handle: HandleId(1), owner: 5, lock, wait: false });
    let expected = [lock(posix(LockKind::Unlocked, 0, 99)), lock(posix(LockKind::Shared, 0, 9))];
    assert_eq!(held.corrections(), Corrections { count: 1, requests: expected.into() });
    held.corrected(1);
    assert_eq!(held.corrections(), Corrections { count: 0, requests: Vec::new() });
}

#[test]
fn what_could_not_be_given_back_is_not_had_again_and_is_owed() {
    let mut held = Held::default();
    open(&mut held, 1, 7, "a");
    open(&mut held, 2, 7, "a");
    open(&mut held, 3, 8, "b");
    lock(&mut held, 1, 5, posix(LockKind::Exclusive, 0, 9));
    lock(&mut held, 3, 6, posix(LockKind::Shared, 0, 9));
    let owed = [
        FileRequest::Lock {
            handle: HandleId(3),
            owner: 6,
            lock: posix(LockKind::Unlocked, 5, 9),
            wait: false,
        },
        FileRequest::ReleaseLocks { handle: HandleId(2), owner: 5 },
        FileRequest::Close { handle: HandleId(2) },
    ];
    for request in &owed {
        held.request_lost(&Request::File(request.clone()), false);
    }
    // Of a lock that nobody has, nothing is owed.
    held.request_lost(&Request::File(FileRequest::ReleaseLocks { handle: HandleId(1), owner: 5 }), false);
    let again = posix(LockKind::Shared, 0, 4);
    let again = FileRequest::Lock { handle: HandleId(3), owner: 6, lock: again, wait: false };
    let [unlock, release, close] = owed;
    let requests = [unlock, again, release, close].map(Request::File).into();
    assert_eq!(held.corrections(), Corrections { count: 3, requests });
    let left: Vec<_> = held.files().iter().map(|file| (file.handle.0, file.locks.len())).collect();
    assert_eq!(left, [(1, 0), (3, 1)]);
}

#[test]
fn a_process_that_nobody_follows_any_more_is_released_unless_it_was_to_be_left() {
    let (first, second) = (ProcessId(1), ProcessId(2));
    let follow = |process| Request::Process(ProcessRequest::Follow { process, from: 0, window: 9, owed: 0 });
    let release = |process| Request::Process(ProcessRequest::Release { process });
    let detach = |process| Request::Process(ProcessRequest::Detach { process });
    let mut held = Held::default();
    held.request_lost(&follow(first), false);
    assert_eq!(held.corrections().count, 0, "the machine has not heard of it");
    held.request_lost(&follow(first), true);
    assert_eq!(held.corrections(), Corrections { count: 1, requests: vec![release(first)] });
    held.corrected(1);
    // It was on its way when the line was cut once more.
    held.request_lost(&release(first), true);
    // In either order.
    held.request_lost(&follow(second), true);
    held.request_lost(&detach(second), true);
    held.request_lost(&follow(second), true);
    assert_eq!(held.corrections(), Corrections { count: 2, requests: vec![release(first), detach(second)] });
}
