//! What is asked of an open file is sent without waiting for what was asked before, and comes to the same.

use super::*;
use crate::SyncMode;
use crate::errno::Errno;
use crate::file::{AttributeChanges, Attributes, SetTime, ThreadId, Time};
use crate::request::{RequestId, answering};

const OWNER: ThreadId = ThreadId(7);
const THEN: Time = Time { seconds: 1_000_000_000, nanoseconds: 5 };

fn mode(mode: u16) -> AttributeChanges {
    AttributeChanges { mode: Some(mode), ..AttributeChanges::default() }
}

fn modified(to: Time) -> AttributeChanges {
    AttributeChanges { modified: SetTime::To(to), ..AttributeChanges::default() }
}

async fn create(mount: &Mount, name: &str) -> (Ino, HandleId) {
    let (view, opened) =
        mount.vfs.create(Ino::ROOT, name.as_bytes(), 0o644, BOTH, CALLER).await.expect("created");
    mount.vfs.commit();
    (view.ino, opened.handle)
}

async fn set(mount: &Mount, ino: Ino, changes: AttributeChanges) -> Option<Attributes> {
    mount.vfs.set_attributes_ahead(ino.into(), changes, OWNER).await.expect("set")
}

fn there(memory: &Memory, path: &str) -> Attributes {
    memory.look(|tree| tree.get(tree.at(path).expect("a path")).expect("a file").attributes)
}

#[test]
fn only_close_waits_of_writing_a_file_and_setting_its_attributes() {
    block_on(async {
        let mount = Mount::new(Options::default());
        let (ino, handle) = create(&mount, "f").await;
        let answers = [
            mount.stop(Stop::Replying("write")),
            mount.stop(Stop::Replying("set_attributes")),
            mount.stop(Stop::Replying("set_attributes")),
        ];
        mount.write(handle, 0, b"content").await.expect("taken");
        let expected = set(&mount, ino, modified(THEN)).await.expect("at once");
        assert_eq!((expected.size, expected.modified), (7, THEN));
        let expected = set(&mount, ino, mode(0o600)).await.expect("at once");
        assert_eq!((expected.size, expected.mode), (7, 0o600));
        // All has been carried out, and none of it answered: it was one trip.
        for answer in &answers {
            answer.reached().await;
        }
        assert_eq!((there(&mount.memory, "f").modified, there(&mount.memory, "f").mode), (THEN, 0o600));
        let closing = tokio::spawn({
            let vfs = mount.vfs.clone();
            async move { vfs.flush(handle, 0, None).await }
        });
        settle().await;
        assert!(!closing.is_finished());
        answers.iter().for_each(|answer| answer.release());
        assert_eq!(closing.await.expect("no panic"), Ok(()));
        let (seen, _) = mount.vfs.attributes(ino.into()).await.expect("seen");
        assert_eq!((seen.size, seen.modified, seen.mode), (7, THEN, 0o600));
    });
}

#[test]
fn the_later_of_a_write_and_a_setting_of_times_decides_the_time() {
    block_on(async {
        for seed in 0..50 {
            let mount = Mount::new(Options::default());
            mount.memory.jitter(5, seed);
            let (ino, handle) = create(&mount, "f").await;
            mount.write(handle, 0, b"first").await.expect("taken");
            set(&mount, ino, modified(THEN)).await.expect("at once");
            if seed % 2 == 0 {
                mount.vfs.flush(handle, 0, None).await.expect("flushed");
                assert_eq!(there(&mount.memory, "f").modified, THEN, "seed {seed}");
            }
            mount.write(handle, 9, b"second").await.expect("taken");
            mount.vfs.flush(handle, 0, None).await.expect("flushed");
            assert_ne!(there(&mount.memory, "f").modified, THEN, "seed {seed}");
            assert_eq!(mount.content("f"), b"first\0\0\0\0second");
        }
    });
}

#[test]
fn through_another_handle_a_write_waits_for_attributes_that_were_set_before() {
    block_on(async {
        let mount = Mount::new(Options::default());
        let (ino, _) = create(&mount, "f").await;
        let answer = mount.stop(Stop::Asking("set_attributes"));
        set(&mount, ino, modified(THEN)).await.expect("at once");
        let other = mount.vfs.open(ino, BOTH).await.expect("opened").handle;
        let write = tokio::spawn({
            let vfs = mount.vfs.clone();
            async move { vfs.write(other, 0, "x".into(), WriteFrom::Caller(OWNER), false).await }
        });
        settle().await;
        assert_eq!(mount.memory.calls("write"), 0);
        answer.release();
        assert_eq!(write.await.expect("no panic"), Ok(1));
        mount.vfs.drain().await;
        assert_ne!(there(&mount.memory, "f").modified, THEN);
    });
}

#[test]
fn attributes_that_could_not_be_set_are_told_once_by_close() {
    block_on(async {
        let mount = Mount::new(Options::default());
        let (ino, handle) = create(&mount, "f").await;
        mount.memory.fail_next("set_attributes", Errno::EPERM);
        let answer = mount.stop(Stop::Asking("set_attributes"));
        set(&mount, ino, mode(0o600)).await.expect("at once");
        answer.release();
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Err(Errno::EPERM));
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        let (seen, _) = mount.vfs.attributes(ino.into()).await.expect("seen");
        assert_eq!(seen.mode, 0o644);
    });
}

#[test]
fn what_is_not_certain_waits() {
    block_on(async {
        let mount = Mount::with_files(&["there"], b"content");
        let ino = mount.view(Ino::ROOT, "there").await.ino;
        assert_eq!(set(&mount, ino, mode(0o600)).await, None, "not open");
        let reader = mount.vfs.open(ino, READ).await.expect("opened").handle;
        assert_eq!(set(&mount, ino, mode(0o600)).await, None, "open for reading only");
        let writer = mount.vfs.open(ino, BOTH).await.expect("opened").handle;
        let size = AttributeChanges { size: Some(1), ..AttributeChanges::default() };
        assert_eq!(set(&mount, ino, size).await, None, "a change of size");
        mount.vfs.set_round_trip(std::time::Duration::ZERO);
        assert_eq!(set(&mount, ino, mode(0o600)).await, None, "the source is near");
        mount.vfs.set_round_trip(std::time::Duration::MAX);
        mount.memory.be_unsure();
        assert_eq!(set(&mount, ino, mode(0o600)).await, None, "the source is not sure");
        assert_eq!(mount.memory.calls("set_attributes"), 0);
        for handle in [reader, writer] {
            mount.vfs.release(handle);
        }

        let strict = Mount::new(Options { sync: SyncMode::Strict, ..Options::default() });
        let (ino, _) = create(&strict, "f").await;
        assert_eq!(set(&strict, ino, mode(0o600)).await, None, "strict");
    });
}

#[test]
fn attributes_that_were_not_sent_a_successor_sets_in_their_order() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let (ino, handle) = block_on(async {
        let mount = Mount::fresh(&memory, scratch.path());
        let (ino, handle) = create(&mount, "f").await;
        mount.stop(Stop::Asking("write"));
        mount.write(handle, 0, b"bytes").await.expect("taken");
        set(&mount, ino, AttributeChanges { uid: Some(3), ..modified(THEN) }).await.expect("at once");
        set(&mount, ino, mode(0o1751)).await.expect("at once");
        assert_eq!(mount.vfs.kept_writes(), 3);
        (ino, handle)
    });
    assert_eq!((there(&memory, "f").mode, there(&memory, "f").size), (0o644, 0));
    memory.mend();
    block_on(async {
        let mount = Mount::successor(&memory, scratch.path());
        mount.vfs.flush(handle, 0, None).await.expect("flushed");
        let Attributes { size, mode, uid, modified, .. } = there(&memory, "f");
        assert_eq!((size, mode, uid, modified), (5, 0o1751, 3, THEN));
        let (seen, _) = mount.vfs.attributes(ino.into()).await.expect("seen");
        assert_eq!((seen.size, seen.mode, seen.modified), (5, 0o1751, THEN));
        mount.vfs.record_done();
        assert_eq!(memory.unsettled(), 0);
    });
}

#[test]
fn a_request_whose_attributes_were_taken_is_answered_by_a_successor_without_another() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let request = RequestId(84);
    let ino = block_on(async {
        let mount = Mount::fresh(&memory, scratch.path());
        let (ino, _) = create(&mount, "f").await;
        let slot = mount.vfs.choose(request).await;
        answering(request, slot, set(&mount, ino, mode(0o600))).await.expect("at once");
        ino
    });
    memory.edit(|tree| {
        let file = tree.at("f").expect("there");
        tree.set_attributes(file, mode(0o444)).expect("set");
    });
    block_on(async {
        let mount = Mount::successor(&memory, scratch.path());
        let slot = mount.vfs.choose(request).await;
        let seen = answering(request, slot, set(&mount, ino, mode(0o600))).await.expect("known");
        assert_eq!(seen.mode, 0o444, "what others have set since stays");
    });
}

#[test]
fn the_time_that_a_death_finds_set_stays_unless_something_was_written_after_it() {
    for writes_after in [false, true] {
        let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
        let handle = block_on(async {
            let mount = Mount::fresh(&memory, scratch.path());
            let (ino, handle) = create(&mount, "f").await;
            mount.write(handle, 0, b"bytes").await.expect("taken");
            set(&mount, ino, modified(THEN)).await.expect("at once");
            if writes_after {
                mount.write(handle, 7, b"more").await.expect("taken");
            }
            mount.vfs.flush(handle, 0, None).await.expect("flushed");
            handle
        });
        // The source has been started anew: whatever comes again is carried out again.
        memory.forget_replies();
        block_on(async {
            let mount = Mount::successor(&memory, scratch.path());
            mount.vfs.flush(handle, 0, None).await.expect("flushed");
            assert_eq!(there(&memory, "f").modified == THEN, !writes_after);
        });
    }
}
