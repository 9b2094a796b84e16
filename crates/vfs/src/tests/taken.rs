//! What was taken from a writer and is not at the source yet: kept in the journal, and brought there by a successor.

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::SyncMode;
use crate::behind::UNWRITTEN_BYTES_MAX;
use crate::errno::Errno;
use crate::file::ThreadId;
use crate::request::{RequestId, answering};
use crate::vfs::{Recording, Restored};

/// A source that does not answer: long enough for whatever does not wait for it.
const AWAY: Duration = Duration::from_millis(50);

fn recorded(memory: &Arc<Memory>, options: Options, recording: Recording) -> Arc<Vfs<Memory>> {
    Mount::recorded(memory, options, recording).vfs
}

fn fresh(memory: &Arc<Memory>, directory: &Path) -> Arc<Vfs<Memory>> {
    Mount::fresh(memory, directory).vfs
}

fn successor(memory: &Arc<Memory>, directory: &Path) -> Arc<Vfs<Memory>> {
    Mount::successor(memory, directory).vfs
}

async fn create(vfs: &Arc<Vfs<Memory>>, name: &str) -> HandleId {
    let (_, opened) = vfs.create(Ino::ROOT, name.as_bytes(), 0o644, BOTH, CALLER).await.expect("created");
    vfs.commit();
    opened.handle
}

async fn write(vfs: &Arc<Vfs<Memory>>, handle: HandleId, offset: u64, bytes: &'static [u8]) -> Result<u32> {
    vfs.write(handle, offset, bytes::Bytes::from_static(bytes), WriteFrom::Caller(ThreadId::UNKNOWN), false)
        .await
}

fn content(memory: &Memory, path: &str) -> Vec<u8> {
    memory.look(|tree| tree.get(tree.at(path).expect("a path")).expect("a file").content.clone())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

#[test]
fn what_was_taken_and_not_sent_a_successor_sends_in_its_order() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let handle = runtime().block_on(async {
        let vfs = fresh(&memory, scratch.path());
        let handle = create(&vfs, "f").await;
        memory.stop(Stop::Asking("write"));
        assert_eq!(write(&vfs, handle, 0, b"first.").await, Ok(6));
        // It waits for the first, which is not sent: it is not taken.
        let second = tokio::time::timeout(AWAY, write(&vfs, handle, 0, b"second")).await;
        assert!(second.is_err());
        memory.stop(Stop::Asking("write"));
        assert_eq!(write(&vfs, handle, 6, b" third").await, Ok(6));
        handle
    });
    assert_eq!(content(&memory, "f"), b"");
    runtime().block_on(async {
        let vfs = successor(&memory, scratch.path());
        assert_eq!(vfs.unwritten_writes(), 2);
        // A reader waits for them.
        assert_eq!(vfs.read(handle, 0, 100).await.expect("read"), "first. third");
        vfs.drain().await;
        vfs.record_done();
        assert_eq!((memory.unsettled(), vfs.unwritten_bytes()), (0, 0));
    });
}

#[test]
fn a_write_that_is_over_is_not_repeated_over_what_others_have_written_since() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    runtime().block_on(async {
        let vfs = fresh(&memory, scratch.path());
        let handle = create(&vfs, "f").await;
        write(&vfs, handle, 0, b"ours").await.expect("taken");
        vfs.flush(handle, 0, None).await.expect("flushed");
    });
    memory.edit(|tree| {
        let file = tree.at("f").expect("there");
        tree.write(file, Some(0), b"theirs").expect("written")
    });
    runtime().block_on(async {
        let vfs = successor(&memory, scratch.path());
        vfs.drain().await;
        assert_eq!(content(&memory, "f"), b"theirs");
    });
}

#[test]
fn who_waits_for_what_was_taken_does_not_wait_for_what_is_written_meanwhile() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    runtime().block_on(async {
        let vfs = fresh(&memory, scratch.path());
        let handle = create(&vfs, "f").await;
        let [before, meanwhile] = [memory.stop(Stop::Asking("write")), memory.stop(Stop::Asking("write"))];
        write(&vfs, handle, 0, b"before").await.expect("taken");
        before.reached().await;
        let mut waiting = Box::pin(vfs.all_caught_up());
        assert!(tokio::time::timeout(AWAY, &mut waiting).await.is_err(), "it is not there yet");
        write(&vfs, handle, 6, b" meanwhile").await.expect("taken");
        meanwhile.reached().await;
        before.release();
        tokio::time::timeout(DEADLINE, waiting).await.expect("nobody waits for a steady writer");
        assert_eq!((content(&memory, "f"), vfs.unwritten_writes()), (b"before".to_vec(), 1));
        meanwhile.release();
        vfs.drain().await;
        assert_eq!(content(&memory, "f"), b"before meanwhile");
    });
}

#[test]
fn what_was_taken_is_sent_before_its_file_is_closed() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    runtime().block_on(async {
        let vfs = fresh(&memory, scratch.path());
        let handle = create(&vfs, "f").await;
        memory.stop(Stop::Asking("write"));
        write(&vfs, handle, 0, b"bytes").await.expect("taken");
        vfs.release(handle);
        vfs.commit();
    });
    runtime().block_on(async {
        let vfs = successor(&memory, scratch.path());
        vfs.drain().await;
        settle().await;
        assert_eq!(content(&memory, "f"), b"bytes");
        assert_eq!((memory.open_handles(), vfs.open_files()), (0, 0));
    });
}

#[test]
fn the_later_of_two_writes_wins_at_a_source_that_has_forgotten_the_first() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    runtime().block_on(async {
        let vfs = fresh(&memory, scratch.path());
        let handle = create(&vfs, "f").await;
        write(&vfs, handle, 0, b"earlier").await.expect("taken");
        vfs.flush(handle, 0, None).await.expect("flushed");
        write(&vfs, handle, 0, b"later").await.expect("taken");
    });
    memory.forget_replies();
    runtime().block_on(async {
        let gate = memory.stop(Stop::Asking("write"));
        let vfs = successor(&memory, scratch.path());
        gate.reached().await;
        settle().await;
        gate.release();
        vfs.drain().await;
        assert_eq!(content(&memory, "f"), b"laterer");
    });
}

#[test]
fn a_request_whose_write_was_taken_is_answered_by_a_successor_without_another() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let request = RequestId(84);
    let handle = runtime().block_on(async {
        let vfs = fresh(&memory, scratch.path());
        let handle = create(&vfs, "f").await;
        answering(request, None, write(&vfs, handle, 0, b"once")).await.expect("taken");
        vfs.drain().await;
        handle
    });
    runtime().block_on(async {
        let vfs = successor(&memory, scratch.path());
        vfs.drain().await;
        let before = memory.calls("write");
        assert_eq!(answering(request, None, write(&vfs, handle, 0, b"once")).await, Ok(4));
        vfs.drain().await;
        assert_eq!(memory.calls("write"), before);
    });
}

#[test]
fn while_the_source_is_away_writes_are_taken_up_to_a_bound_and_outlive_the_process() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let block = bytes::Bytes::from(vec![7; 1 << 20]);
    runtime().block_on(async {
        let vfs = fresh(&memory, scratch.path());
        let handle = create(&vfs, "f").await;
        for _ in 0..UNWRITTEN_BYTES_MAX >> 20 {
            memory.stop(Stop::Asking("write"));
        }
        let mut taken = 0;
        while let Ok(written) = tokio::time::timeout(
            AWAY,
            vfs.write(handle, taken << 20, block.clone(), WriteFrom::Caller(ThreadId::UNKNOWN), false),
        )
        .await
        {
            written.expect("taken");
            taken += 1;
        }
        assert_eq!(taken as usize, UNWRITTEN_BYTES_MAX >> 20);
    });
    runtime().block_on(async {
        let vfs = successor(&memory, scratch.path());
        vfs.drain().await;
        assert!(content(&memory, "f") == vec![7; UNWRITTEN_BYTES_MAX]);
    });
}

#[test]
fn a_write_that_fails_at_a_successors_is_told_by_the_next_sync() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let handle = runtime().block_on(async {
        let vfs = fresh(&memory, scratch.path());
        let handle = create(&vfs, "f").await;
        memory.stop(Stop::Asking("write"));
        write(&vfs, handle, 0, b"x").await.expect("taken");
        handle
    });
    memory.fail_next("write", Errno::ENOSPC);
    runtime().block_on(async {
        let vfs = successor(&memory, scratch.path());
        assert_eq!(vfs.sync(handle, false).await, Err(Errno::ENOSPC));
        assert_eq!(vfs.sync(handle, false).await, Ok(()));
    });
}

#[test]
fn a_write_that_failed_before_its_writer_heard_of_it_is_told_once_whoever_dies() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let (handle, later) = runtime().block_on(async {
        let vfs = fresh(&memory, scratch.path());
        let handle = create(&vfs, "f").await;
        let gate = memory.stop(Stop::Asking("write"));
        memory.fail_next("write", Errno::ENOSPC);
        answering(RequestId(84), None, write(&vfs, handle, 0, b"x")).await.expect("taken");
        gate.release();
        vfs.drain().await;
        vfs.record_done();
        assert_eq!(memory.unsettled(), 0);
        let ino = vfs.find(memory.look(|tree| tree.entry(tree.at("f").expect("there")).expect("a file").id));
        let later = vfs.open(ino.expect("known"), BOTH).await.expect("opened").handle;
        vfs.commit();
        (handle, later)
    });
    for _ in 0..2 {
        // An answer that was recorded may not have come to the kernel.
        runtime().block_on(async {
            let vfs = successor(&memory, scratch.path());
            assert_eq!(answering(RequestId(84), None, write(&vfs, later, 0, b"x")).await, Ok(1));
            assert_eq!(vfs.sync(handle, false).await, Err(Errno::ENOSPC));
            assert_eq!(vfs.sync(later, false).await, Ok(()));
            vfs.commit();
        });
    }
    runtime().block_on(async {
        let vfs = successor(&memory, scratch.path());
        assert_eq!(vfs.flush(handle, 0, None).await, Err(Errno::ENOSPC));
        assert_eq!(vfs.flush(handle, 0, None).await, Ok(()));
        vfs.commit();
    });
    runtime().block_on(async {
        let vfs = successor(&memory, scratch.path());
        assert_eq!(vfs.flush(handle, 0, None).await, Ok(()));
    });
}

/// Whether a writer waits until the source has answered.
async fn writer_waits(memory: &Arc<Memory>, vfs: &Arc<Vfs<Memory>>, handle: HandleId) -> bool {
    let gate = memory.stop(Stop::Asking("write"));
    let vfs = vfs.clone();
    let written = tokio::spawn(async move { write(&vfs, handle, 0, b"x").await });
    gate.reached().await;
    settle().await;
    let waits = !written.is_finished();
    gate.release();
    assert_eq!(written.await.expect("no panic"), Ok(1));
    waits
}

#[test]
fn writers_wait_for_the_source_where_nothing_can_be_kept_and_it_is_said() {
    for name in ["journal.0", "state.new"] {
        let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
        // A directory in the place of a file: it cannot be written, whoever tries.
        std::fs::create_dir(scratch.path().join(name)).expect("made");
        runtime().block_on(async {
            let vfs = fresh(&memory, scratch.path());
            let failure = vfs.record_failure().expect("said");
            assert!(failure.contains(scratch.path().to_str().expect("text")), "{failure}");
            let handle = create(&vfs, "f").await;
            assert!(writer_waits(&memory, &vfs, handle).await);
            if name != "state.new" {
                return;
            }
            assert!(Restored::read(scratch.path()).expect("readable").is_none(), "an old record misleads");
            std::fs::remove_dir(scratch.path().join(name)).expect("removed");
            let begun = Instant::now();
            while vfs.record_failure().is_some() && begun.elapsed() < DEADLINE {
                vfs.attributes(Ino::ROOT.into()).await.expect("known");
                vfs.keep(crate::table::Kept::Source, b"a record".to_vec());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(vfs.record_failure(), None);
            assert!(!writer_waits(&memory, &vfs, handle).await);
            assert!(Restored::read(scratch.path()).expect("readable").is_some());
        });
    }
}

#[test]
fn writes_wait_for_the_source_in_strict_mode_and_with_o_sync() {
    let strict = Options { sync: SyncMode::Strict, ..Options::default() };
    for (options, sync) in [(strict, false), (Options::default(), true), (Options::default(), false)] {
        let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
        runtime().block_on(async {
            let vfs = recorded(&memory, options, Recording::Fresh(scratch.path().to_owned()));
            let flags = OpenFlags { sync, ..BOTH };
            let (_, opened) = vfs.create(Ino::ROOT, b"f", 0o644, flags, CALLER).await.expect("created");
            let waits = options.sync == SyncMode::Strict || sync;
            assert_eq!(writer_waits(&memory, &vfs, opened.handle).await, waits, "{options:?} {sync}");
        });
    }
}

#[test]
fn a_write_costs_one_call_of_the_system() {
    const WRITES: u64 = 2000;
    let calls = || {
        let io = std::fs::read_to_string("/proc/thread-self/io").expect("there");
        let line = io.lines().find_map(|line| line.strip_prefix("syscw: ")).expect("a count");
        line.parse::<u64>().expect("a number")
    };
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    runtime().block_on(async {
        let vfs = fresh(&memory, scratch.path());
        let handle = create(&vfs, "f").await;
        let block = bytes::Bytes::from(vec![1; 4096]);
        let (before, begun) = (calls(), Instant::now());
        for number in 0..WRITES {
            let taken = vfs.write(
                handle,
                number % 64 * 4096,
                block.clone(),
                WriteFrom::Caller(ThreadId::UNKNOWN),
                false,
            );
            answering(RequestId(number * 2), None, taken).await.expect("taken");
            vfs.commit();
        }
        vfs.flush(handle, 0, None).await.expect("flushed");
        let elapsed = begun.elapsed();
        let made = calls() - before;
        println!("{made} calls for {WRITES} writes, {} ns each", elapsed.as_nanos() as u64 / WRITES);
        assert!((WRITES..WRITES + WRITES / 60 + 2).contains(&made), "{made} calls for {WRITES} writes");
    });
}

#[test]
fn syncs_of_one_file_that_wait_at_one_time_share_a_request() {
    block_on(async {
        let mount = Mount::with_files(&["f", "g"], b"");
        let mut handles = Vec::new();
        for name in ["f", "f", "g"] {
            let ino = mount.view(Ino::ROOT, name).await.ino;
            handles.push(mount.vfs.open(ino, WRITE).await.expect("opened").handle);
        }
        let gate = mount.stop(Stop::Asking("sync"));
        let sync = |handle, data_only| {
            let vfs = mount.vfs.clone();
            tokio::spawn(async move { vfs.sync(handle, data_only).await })
        };
        let first = sync(handles[0], true);
        gate.reached().await;
        // These may have written since the first was sent.
        let others: Vec<_> = (0..6).map(|number| sync(handles[number % 2], number != 3)).collect();
        sync(handles[2], false).await.expect("no panic").expect("synced");
        assert!(!first.is_finished() && others.iter().all(|other| !other.is_finished()));
        // Who gives up leaves the others theirs.
        others[5].abort();
        gate.release();
        first.await.expect("no panic").expect("synced");
        for other in others.into_iter().take(5) {
            other.await.expect("no panic").expect("synced");
        }
        assert_eq!(mount.memory.calls("sync"), 3);
    });
}

#[test]
fn a_sync_that_fails_is_told_to_all_who_share_it_and_the_next_is_another() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let ino = mount.view(Ino::ROOT, "f").await.ino;
        let handle = mount.vfs.open(ino, WRITE).await.expect("opened").handle;
        mount.memory.fail_next("sync", Errno::EIO);
        assert_eq!(mount.vfs.sync(handle, false).await, Err(Errno::EIO));
        assert_eq!(mount.vfs.sync(handle, false).await, Ok(()));
    });
}
