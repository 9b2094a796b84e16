use rustix::fs::{FlockOperation as Op, fcntl_lock, flock};

use crate::call::*;

probes! {
    fn an_exclusive_flock_excludes(p) {
        let path = p.file("f", "");
        let (one, two) = (read_write(&path), read_write(&path));
        flock(&one, Op::LockExclusive).unwrap();
        assert_eq!(flock(&two, Op::NonBlockingLockExclusive).unwrap_err(), Errno::WOULDBLOCK);
        assert_eq!(flock(&two, Op::NonBlockingLockShared).unwrap_err(), Errno::WOULDBLOCK);
        flock(&one, Op::Unlock).unwrap();
        flock(&two, Op::NonBlockingLockExclusive).unwrap();
    }

    fn shared_flocks_go_together(p) {
        let path = p.file("f", "");
        let (one, two, three) = (read_write(&path), read_write(&path), read_write(&path));
        flock(&one, Op::LockShared).unwrap();
        flock(&two, Op::NonBlockingLockShared).unwrap();
        assert_eq!(flock(&three, Op::NonBlockingLockExclusive).unwrap_err(), Errno::WOULDBLOCK);
    }

    fn a_flock_goes_with_the_last_descriptor(p) {
        let path = p.file("f", "");
        let (one, two) = (read_write(&path), read_write(&path));
        let duplicate = one.try_clone().unwrap();
        flock(&one, Op::LockExclusive).unwrap();
        drop(one);
        assert_eq!(flock(&two, Op::NonBlockingLockExclusive).unwrap_err(), Errno::WOULDBLOCK);
        drop(duplicate);
        e2e::eventually(std::time::Duration::from_secs(5), "the lock is let go", || {
            flock(&two, Op::NonBlockingLockExclusive).is_ok()
        });
    }

    fn a_blocked_flock_gets_its_turn(p) {
        let path = p.file("f", "");
        let one = read_write(&path);
        flock(&one, Op::LockExclusive).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| flock(read_write(&path), Op::LockExclusive));
            drop(one);
            waiter.join().unwrap().unwrap();
        });
    }

    fn a_flock_is_seen_by_another_process(p) {
        let path = p.file("f", "");
        let file = read_write(&path);
        flock(&file, Op::LockExclusive).unwrap();
        let try_it = || e2e::Program::new("flock").args(["-n", "-E", "33"]).arg(&path).arg("true").run().code();
        assert_eq!(try_it(), 33);
        flock(&file, Op::Unlock).unwrap();
        assert_eq!(try_it(), 0);
    }

    fn a_flock_is_seen_on_the_machine(p) {
        let file = read_write(&p.path("f"));
        flock(&file, Op::LockExclusive).unwrap();
        let there = read_write(&p.far_path("f"));
        assert_eq!(flock(&there, Op::NonBlockingLockExclusive).unwrap_err(), Errno::WOULDBLOCK);
        flock(&file, Op::Unlock).unwrap();
        flock(&there, Op::NonBlockingLockExclusive).unwrap();
        assert_eq!(flock(&file, Op::NonBlockingLockExclusive).unwrap_err(), Errno::WOULDBLOCK);
    }

    fn two_mounts_of_a_tree_see_each_others_locks(p) {
        let second = p.second_view();
        let one = read_write(&p.path("f"));
        let two = read_write(&second.join("f"));
        flock(&one, Op::LockExclusive).unwrap();
        assert_eq!(flock(&two, Op::NonBlockingLockExclusive).unwrap_err(), Errno::WOULDBLOCK);
        flock(&one, Op::Unlock).unwrap();
        flock(&two, Op::NonBlockingLockExclusive).unwrap();
        flock(&two, Op::Unlock).unwrap();
        range(&one, Range { exclusive: true, start: 0, len: 10 }).unwrap();
        assert_eq!(range(&two, Range { exclusive: true, start: 5, len: 1 }).unwrap_err(), Errno::AGAIN);
        range(&two, Range { exclusive: true, start: 10, len: 5 }).unwrap();
    }

    fn record_locks_cover_exactly_their_range(p) {
        let path = p.file("f", pattern(100));
        let (one, two) = (read_write(&path), read_write(&path));
        range(&one, Range { exclusive: true, start: 10, len: 10 }).unwrap();
        range(&two, Range { exclusive: true, start: 0, len: 10 }).unwrap();
        range(&two, Range { exclusive: true, start: 20, len: 0 }).unwrap();
        assert_eq!(range(&two, Range { exclusive: true, start: 19, len: 1 }).unwrap_err(), Errno::AGAIN);
        assert_eq!(range(&two, Range { exclusive: false, start: 10, len: 1 }).unwrap_err(), Errno::AGAIN);
        unlock(&one, 15, 5);
        range(&two, Range { exclusive: true, start: 15, len: 5 }).unwrap();
    }

    fn shared_record_locks_overlap(p) {
        let path = p.file("f", "");
        let (one, two) = (read_write(&path), read_write(&path));
        range(&one, Range { exclusive: false, start: 0, len: 100 }).unwrap();
        range(&two, Range { exclusive: false, start: 50, len: 100 }).unwrap();
        assert_eq!(range(&two, Range { exclusive: true, start: 0, len: 1 }).unwrap_err(), Errno::AGAIN);
    }

    fn a_record_lock_can_be_asked_about(p) {
        let path = p.file("f", "");
        let (one, two) = (read_write(&path), read_write(&path));
        range(&one, Range { exclusive: true, start: 5, len: 7 }).unwrap();
        let found = ask(&two, Range { exclusive: true, start: 0, len: 0 });
        assert_eq!((i32::from(found.l_type), found.l_start, found.l_len), (libc::F_WRLCK, 5, 7));
        unlock(&one, 0, 0);
        let found = ask(&two, Range { exclusive: true, start: 0, len: 0 });
        assert_eq!(i32::from(found.l_type), libc::F_UNLCK);
    }

    fn locks_of_a_process_exclude_those_of_an_open_file(p) {
        let path = p.file("f", "");
        let (one, two) = (read_write(&path), read_write(&path));
        fcntl_lock(&one, Op::NonBlockingLockExclusive).unwrap();
        assert_eq!(range(&two, Range { exclusive: true, start: 0, len: 1 }).unwrap_err(), Errno::AGAIN);
        // By POSIX, closing any descriptor of the file ends the locks of the process.
        drop(read_write(&path));
        e2e::eventually(std::time::Duration::from_secs(5), "the lock is let go", || {
            range(&two, Range { exclusive: true, start: 0, len: 1 }).is_ok()
        });
    }

    fn a_process_does_not_conflict_with_itself(p) {
        let path = p.file("f", "");
        let (one, two) = (read_write(&path), read_write(&path));
        fcntl_lock(&one, Op::NonBlockingLockExclusive).unwrap();
        fcntl_lock(&two, Op::NonBlockingLockExclusive).unwrap();
    }

    fn a_record_lock_is_seen_on_the_machine(p) {
        let file = read_write(&p.path("f"));
        range(&file, Range { exclusive: true, start: 3, len: 3 }).unwrap();
        let there = read_write(&p.far_path("f"));
        assert_eq!(range(&there, Range { exclusive: true, start: 4, len: 1 }).unwrap_err(), Errno::AGAIN);
        drop(file);
        e2e::eventually(std::time::Duration::from_secs(5), "the lock is let go", || {
            range(&there, Range { exclusive: true, start: 4, len: 1 }).is_ok()
        });
    }

    fn a_lock_needs_a_descriptor_that_allows_it(p) {
        let path = p.file("f", "");
        let reading = open(&path, OFlags::RDONLY).unwrap();
        assert_eq!(range(&reading, Range { exclusive: true, start: 0, len: 1 }).unwrap_err(), Errno::BADF);
    }
}

/// Bytes to lock. A length of 0 is to the end.
#[derive(Clone, Copy)]
struct Range {
    exclusive: bool,
    start: i64,
    len: i64,
}

impl Range {
    fn as_flock(self) -> libc::flock {
        let kind = if self.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
        libc::flock { l_type: kind as i16, l_whence: 0, l_start: self.start, l_len: self.len, l_pid: 0 }
    }
}

/// Takes a lock that belongs to the open file, without waiting.
fn range(file: &File, range: Range) -> rustix::io::Result<()> {
    record_lock(file, libc::F_OFD_SETLK, &mut range.as_flock())
}

fn unlock(file: &File, start: i64, len: i64) {
    let mut lock =
        libc::flock { l_type: libc::F_UNLCK as i16, l_whence: 0, l_start: start, l_len: len, l_pid: 0 };
    record_lock(file, libc::F_OFD_SETLK, &mut lock).unwrap();
}

/// What stands in the way of a lock.
fn ask(file: &File, range: Range) -> libc::flock {
    let mut lock = range.as_flock();
    record_lock(file, libc::F_OFD_GETLK, &mut lock).unwrap();
    lock
}

fn record_lock(file: &File, command: i32, lock: &mut libc::flock) -> rustix::io::Result<()> {
    // SAFETY: the descriptor is open and `lock` is a valid structure for the length of the call.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    if outcome == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap())
}
