use std::path::Path;

use tempfile::tempdir;
use wire::agent::file::*;
use wire::agent::*;

use crate::client::*;

fn posix(kind: LockKind, start: u64, end: u64) -> Lock {
    Lock { family: LockFamily::Posix, kind, start, end }
}

fn flock(kind: LockKind) -> Lock {
    Lock { family: LockFamily::Flock, kind, start: 0, end: u64::MAX }
}

/// A client with the file open.
struct Holder {
    client: Client,
    handle: HandleId,
}

impl Holder {
    fn open(directory: &Path) -> Holder {
        let mut client = Client::attach(directory);
        let place = client.place("file");
        let handle = client.open(&place, READ_WRITE);
        Holder { client, handle }
    }

    fn lock(&mut self, owner: u64, lock: Lock) -> Result<FileReply, Failure> {
        self.client.file(FileRequest::Lock { handle: self.handle, owner, lock, wait: false })
    }

    fn wait(&mut self, owner: u64, lock: Lock) -> RequestId {
        let request = FileRequest::Lock { handle: self.handle, owner, lock, wait: true };
        self.client.send(Request::File(request), &[])
    }

    fn test(&mut self, owner: u64, lock: Lock) -> Option<Lock> {
        match self.client.file(FileRequest::TestLock { handle: self.handle, owner, lock }).unwrap() {
            FileReply::Lock(found) => found.map(|(lock, _)| lock),
            other => panic!("{other:?}"),
        }
    }
}

fn file() -> tempfile::TempDir {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), b"").unwrap();
    directory
}

const ALL: (u64, u64) = (0, u64::MAX);

#[test]
fn ranges_of_two_owners_conflict_where_they_overlap() {
    let directory = file();
    let mut holder = Holder::open(directory.path());
    holder.lock(1, posix(LockKind::Exclusive, 10, 19)).unwrap();
    holder.lock(2, posix(LockKind::Exclusive, 20, 29)).unwrap();
    assert_eq!(errno(holder.lock(2, posix(LockKind::Shared, 19, 19))), libc::EAGAIN);
    assert_eq!(holder.test(2, posix(LockKind::Shared, 0, 15)), Some(posix(LockKind::Exclusive, 10, 19)));
    assert_eq!(holder.test(1, posix(LockKind::Exclusive, 10, 19)), None, "one's own is not in the way");
    assert_eq!(holder.test(3, posix(LockKind::Exclusive, 30, u64::MAX)), None);
    holder.lock(1, posix(LockKind::Unlocked, 15, 16)).unwrap();
    holder.lock(2, posix(LockKind::Exclusive, 15, 16)).unwrap();
    holder.lock(1, posix(LockKind::Shared, 0, 14)).unwrap();
    holder.lock(2, posix(LockKind::Shared, 0, 14)).unwrap();
}

#[test]
fn two_sessions_and_a_program_of_the_machine_see_each_others_locks() {
    let directory = file();
    let (mut one, mut two) = (Holder::open(directory.path()), Holder::open(directory.path()));
    one.lock(7, posix(LockKind::Exclusive, 5, u64::MAX)).unwrap();
    assert_eq!(errno(two.lock(7, posix(LockKind::Exclusive, 9, 9))), libc::EAGAIN);
    assert_eq!(two.test(7, posix(LockKind::Shared, 0, 9)), Some(posix(LockKind::Exclusive, 5, u64::MAX)));
    one.lock(7, flock(LockKind::Exclusive)).unwrap();
    assert_eq!(errno(two.lock(7, flock(LockKind::Shared))), libc::EAGAIN);
    let local = std::fs::File::open(directory.path().join("file")).unwrap();
    assert!(local.try_lock().is_err());
    one.lock(7, flock(LockKind::Unlocked)).unwrap();
    two.lock(7, flock(LockKind::Shared)).unwrap();
    local.try_lock_shared().unwrap();
}

#[test]
fn a_wait_ends_when_the_lock_is_free() {
    for lock in [posix(LockKind::Exclusive, ALL.0, ALL.1), flock(LockKind::Exclusive)] {
        let directory = file();
        let (mut one, mut two) = (Holder::open(directory.path()), Holder::open(directory.path()));
        one.lock(1, lock).unwrap();
        let id = two.wait(1, lock);
        assert!(!two.client.has_reply(id));
        one.lock(1, Lock { kind: LockKind::Unlocked, ..lock }).unwrap();
        assert!(two.client.reply(id).1.is_ok());
        assert_eq!(errno(one.lock(1, lock)), libc::EAGAIN);
    }
}

#[test]
fn a_waiting_owner_holds_nobody_up_on_the_same_handle() {
    let directory = file();
    let mut holder = Holder::open(directory.path());
    let lock = posix(LockKind::Exclusive, 0, 9);
    holder.lock(1, lock).unwrap();
    let id = holder.wait(2, lock);
    let handle = holder.handle;
    holder.client.write(handle, 0, b"goes on");
    holder.lock(1, Lock { kind: LockKind::Unlocked, ..lock }).unwrap();
    assert!(holder.client.reply(id).1.is_ok());
}

#[test]
fn a_cancelled_wait_ends_and_takes_nothing() {
    for lock in [posix(LockKind::Exclusive, 0, 9), flock(LockKind::Exclusive)] {
        let directory = file();
        let (mut one, mut two) = (Holder::open(directory.path()), Holder::open(directory.path()));
        one.lock(1, lock).unwrap();
        for _ in 0..50 {
            let id = two.wait(1, lock);
            two.client.send_frame(&ClientFrame::Cancel { id }, &[]);
            assert_eq!(errno(two.client.reply(id).1), libc::EINTR);
        }
        one.lock(1, Lock { kind: LockKind::Unlocked, ..lock }).unwrap();
        one.lock(1, lock).unwrap();
    }
}

#[test]
fn a_release_gives_back_one_owners_locks_and_no_others() {
    let directory = file();
    let (mut one, mut two) = (Holder::open(directory.path()), Holder::open(directory.path()));
    one.lock(1, posix(LockKind::Exclusive, 0, 9)).unwrap();
    one.lock(1, posix(LockKind::Shared, 50, 59)).unwrap();
    one.lock(2, posix(LockKind::Exclusive, 20, 29)).unwrap();
    let handle = one.handle;
    one.client.file(FileRequest::ReleaseLocks { handle, owner: 1 }).unwrap();
    assert_eq!(two.test(1, posix(LockKind::Exclusive, 0, 100)), Some(posix(LockKind::Exclusive, 20, 29)));
}

#[test]
fn locks_go_with_the_last_handle_and_with_the_session() {
    let directory = file();
    let (mut one, mut two) = (Holder::open(directory.path()), Holder::open(directory.path()));
    let lock = posix(LockKind::Exclusive, 0, 9);
    one.lock(1, lock).unwrap();
    one.lock(1, flock(LockKind::Exclusive)).unwrap();
    let handle = one.handle;
    one.client.file(FileRequest::Close { handle }).unwrap();
    two.lock(1, lock).unwrap();
    two.lock(1, flock(LockKind::Exclusive)).unwrap();
    let mut three = Holder::open(directory.path());
    let id = three.wait(1, lock);
    two.client.close();
    assert!(three.client.reply(id).1.is_ok());
}

#[test]
fn a_session_ends_although_a_wait_goes_on() {
    let directory = file();
    let (mut one, mut two) = (Holder::open(directory.path()), Holder::open(directory.path()));
    let lock = posix(LockKind::Exclusive, 0, 9);
    one.lock(1, lock).unwrap();
    let id = two.wait(1, lock);
    assert!(!two.client.has_reply(id));
    two.client.close();
    one.lock(1, Lock { kind: LockKind::Unlocked, ..lock }).unwrap();
    one.lock(2, lock).unwrap();
}

#[test]
fn nonsense_is_refused() {
    let directory = file();
    let mut holder = Holder::open(directory.path());
    assert_eq!(errno(holder.lock(1, posix(LockKind::Exclusive, 9, 5))), libc::EINVAL);
    assert_eq!(errno(holder.lock(1, posix(LockKind::Exclusive, u64::MAX, u64::MAX))), libc::EINVAL);
    let place = holder.client.place("file");
    let read_only = holder.client.open(&place, READ);
    let lock = posix(LockKind::Exclusive, 0, 5);
    let request = FileRequest::Lock { handle: read_only, owner: 1, lock, wait: false };
    assert_eq!(errno(holder.client.file(request)), libc::EBADF);
    holder.lock(1, posix(LockKind::Unlocked, 0, 5)).unwrap();
}
