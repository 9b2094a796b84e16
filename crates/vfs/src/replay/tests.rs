use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use parking_lot::Mutex;

use super::*;
use crate::file::{Kind, Name, Time};
use crate::replay::save::READ_WRITE;
use crate::table::Notice;
use crate::testing::{Gate, Memory, Stop};
use crate::vfs::{Recording, WriteFrom};
use crate::{Kernel, Options, SyncMode, Vfs};

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

struct NoKernel;

impl Kernel for NoKernel {
    fn notify(&self, _: Vec<Notice>) {}
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// A source with a file `d/f`, and the directory of a mount that is gone and has left writes to it.
struct Left {
    scratch: tempfile::TempDir,
    memory: Arc<Memory>,
    gates: Mutex<Vec<Arc<Gate>>>,
    rounds: AtomicU32,
}

fn name(name: &str) -> Name {
    name.as_bytes().into()
}

async fn look(vfs: &Arc<Vfs<Memory>>, directory: Ino, name: &[u8]) -> Ino {
    match vfs.lookup(directory, name).await {
        Ok(crate::vfs::Looked::Present(view)) => view.ino,
        other => panic!("{other:?}"),
    }
}

/// How a mount ends that cannot bring its writes to the source.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// By force.
    GivenUp,
    /// Its processes were killed.
    Killed,
}

impl Left {
    /// `before` is brought to the source, `writes` are not.
    async fn by(end: End, before: &[u8], writes: &[(u64, &[u8])]) -> Left {
        let left = Left::with_nothing();
        let file = left.id();
        let vfs = left.mount();
        let handle = left.open(&vfs).await;
        let write = |offset, bytes: &[u8]| {
            let bytes = Bytes::copy_from_slice(bytes);
            let vfs = vfs.clone();
            async move {
                vfs.write(handle, offset, bytes, WriteFrom::Caller(crate::file::ThreadId::UNKNOWN), false)
                    .await
            }
        };
        write(0, before).await.expect("taken");
        vfs.drain().await;
        assert_eq!(left.content(file), before);
        vfs.record_done();
        left.cut();
        for (offset, bytes) in writes {
            write(*offset, bytes).await.expect("taken");
        }
        assert_eq!(vfs.kept_writes(), writes.len());
        if end == End::GivenUp {
            vfs.give_up();
            left.fail();
            vfs.drain().await;
            vfs.release(handle);
            assert_eq!(vfs.kept_writes(), writes.len(), "what failed after that stays");
        }
        left
    }

    /// Nothing has been written to the file by anybody yet.
    fn with_nothing() -> Left {
        let memory = Memory::new();
        memory.edit(|tree| {
            let directory = tree.make(tree.root, &name("d"), Kind::Directory, 0o755).expect("new");
            tree.make(directory, &name("f"), Kind::File, 0o640).expect("new");
        });
        Left {
            scratch: tempfile::tempdir().expect("a directory"),
            memory,
            gates: Mutex::default(),
            rounds: AtomicU32::new(0),
        }
    }

    fn mount(&self) -> Arc<Vfs<Memory>> {
        let options = Options { sync: SyncMode::Async, ..Options::default() };
        let recording = Recording::Fresh(self.scratch.path().to_owned());
        Vfs::recorded(self.memory.clone(), self.memory.root(), options, Arc::new(NoKernel), recording)
    }

    async fn open(&self, vfs: &Arc<Vfs<Memory>>) -> HandleId {
        let directory = look(vfs, Ino::ROOT, b"d").await;
        let file = look(vfs, directory, b"f").await;
        let opened = vfs.open(file, READ_WRITE).await.expect("there");
        vfs.commit();
        opened.handle
    }

    /// From here on what is written waits, and fails in the end.
    fn cut(&self) {
        const WRITES_MAX: usize = 8;
        for _ in 0..WRITES_MAX {
            self.memory.fail_next("write", Errno::EIO);
            self.gates.lock().push(self.memory.stop(Stop::Asking("write")));
        }
    }

    fn fail(&self) {
        self.gates.lock().iter().for_each(|gate| gate.release());
    }

    fn manner(&self) -> Manner {
        let label = "20260101-m1".to_owned();
        let round = self.rounds.fetch_add(1, Ordering::Relaxed);
        Manner { root: self.memory.root().id, round, label, caller: CALLER, answer_wait: ANSWER_WAIT }
    }

    async fn replay(&self) -> Replayed {
        let unsaved = Unsaved::read(self.scratch.path()).expect("readable");
        replay(unsaved, self.memory.clone(), self.manner(), |_| {}).await.expect("replayed")
    }

    fn content(&self, id: FileId) -> Vec<u8> {
        self.memory.look(|tree| tree.get(id).expect("there").content.clone())
    }

    fn at(&self, path: &str) -> Vec<u8> {
        let id = self.memory.look(|tree| tree.at(path)).unwrap_or_else(|| panic!("no {path}"));
        self.content(id)
    }

    fn id(&self) -> FileId {
        self.memory.look(|tree| tree.at("d/f")).expect("there")
    }

    /// The only new file.
    fn conflict(&self, replayed: &Replayed) -> Vec<u8> {
        let [Aside { of, to }] = &replayed.aside[..] else { panic!("{replayed:?}") };
        let to = std::str::from_utf8(to).expect("text");
        assert_eq!(&of[..], b"d/f");
        assert!(to.starts_with("d/f.stead-conflict-20260101-m1-"), "{to}");
        self.at(to)
    }

    fn names(&self) -> usize {
        self.memory.look(|tree| {
            let directory = tree.at("d").expect("there");
            tree.get(directory).expect("there").listing(0).count()
        })
    }
}

const WRITES: &[(u64, &[u8])] = &[(4, b"five"), (8, b"seven"), (20, b"far")];
const AFTER: &[u8] = b"befofiveseven\0\0\0\0\0\0\0far";

#[test]
fn what_was_not_saved_is_written_to_its_file() {
    for end in [End::GivenUp, End::Killed] {
        block_on(async {
            let left = Left::by(end, b"before", WRITES).await;
            left.memory.mend();
            let replayed = left.replay().await;
            assert_eq!((replayed.writes, replayed.bytes), (3, 12), "{end:?}: {replayed:?}");
            assert_eq!((replayed.aside, replayed.left), (vec![], vec![]));
            assert_eq!(left.at("d/f"), AFTER);
            assert!(left.memory.calls("sync") > 0);
            assert_eq!(left.names(), 1);
            // Once more comes to the same.
            left.memory.edit(|tree| tree.write(left.id_in(tree), Some(0), b"later")).expect("written");
            assert_eq!(left.replay().await.writes, 3);
            assert_eq!(&left.at("d/f")[..5], b"later");
            remove(left.scratch.path()).expect("removed");
            assert_eq!(std::fs::read_dir(left.scratch.path()).expect("there").count(), 0);
            assert!(Unsaved::read(left.scratch.path()).expect("readable").is_empty());
        });
    }
}

/// Somebody else writes to the file.
fn others(tree: &mut crate::testing::Tree) {
    let file = tree.at("d/f").expect("there");
    tree.write(file, Some(0), b"others").expect("written");
}

impl Left {
    fn id_in(&self, tree: &crate::testing::Tree) -> FileId {
        tree.at("d/f").expect("there")
    }
}

#[test]
fn nothing_is_written_over_a_file_that_is_another_now() {
    type Change = fn(&mut crate::testing::Tree);
    let changes: &[(&str, Change, Option<&[u8]>)] = &[
        ("its content has changed", |tree| others(tree), Some(b"others")),
        (
            "it was replaced",
            |tree| {
                let directory = tree.at("d").expect("there");
                tree.unlink(directory, &name("f")).expect("there");
                tree.make(directory, &name("f"), Kind::File, 0o600).expect("new");
            },
            Some(b""),
        ),
        (
            "it is gone",
            |tree| {
                tree.unlink(tree.at("d").expect("there"), &name("f")).expect("there");
            },
            None,
        ),
    ];
    for end in [End::GivenUp, End::Killed] {
        for (what, change, after) in changes {
            block_on(async {
                let left = Left::by(end, b"before", WRITES).await;
                left.memory.edit(change);
                left.memory.mend();
                let replayed = left.replay().await;
                assert_eq!((replayed.writes, replayed.bytes), (0, 12), "{what}: {replayed:?}");
                assert_eq!(left.conflict(&replayed), [&[0; 4], &AFTER[4..]].concat(), "{what}");
                if let Some(after) = after {
                    assert_eq!(left.at("d/f"), *after, "{what}");
                }
                assert_eq!(left.replay().await.aside, replayed.aside, "{what}: once more");
            });
        }
    }
}

#[test]
fn what_is_put_aside_is_beside_the_nearest_directory_that_is_there() {
    block_on(async {
        let left = Left::by(End::Killed, b"before", WRITES).await;
        left.memory.edit(|tree| {
            let (root, directory) = (tree.root, tree.at("d").expect("there"));
            tree.unlink(directory, &name("f")).expect("there");
            tree.remove_directory(root, &name("d")).expect("empty");
        });
        left.memory.mend();
        let replayed = left.replay().await;
        let [Aside { to, .. }] = &replayed.aside[..] else { panic!("{replayed:?}") };
        let to = std::str::from_utf8(to).expect("text");
        assert!(to.starts_with("f.stead-conflict-"), "{to}");
        assert_eq!(&left.at(to)[4..], &AFTER[4..]);
    });
}

#[test]
fn a_renamed_file_is_found_where_it_is_when_this_side_renamed_it() {
    block_on(async {
        let left = Left::with_nothing();
        let vfs = left.mount();
        let handle = left.open(&vfs).await;
        left.cut();
        vfs.write(
            handle,
            0,
            Bytes::from_static(b"text"),
            WriteFrom::Caller(crate::file::ThreadId::UNKNOWN),
            false,
        )
        .await
        .expect("taken");
        let from = look(&vfs, Ino::ROOT, b"d").await;
        let mode = crate::file::RenameMode::Replace;
        vfs.rename((from, b"f"), (Ino::ROOT, b"g"), mode).await.expect("renamed");
        vfs.commit();
        left.memory.mend();
        assert_eq!(left.replay().await.writes, 1);
        assert_eq!(left.at("g"), b"text");
    });
}

#[test]
fn a_replay_that_is_cut_anywhere_is_gone_on_with() {
    for end in [End::GivenUp, End::Killed] {
        for is_changed in [false, true] {
            for cut in 0.. {
                let is_over = block_on(async {
                    let left = Left::by(end, b"before", WRITES).await;
                    if is_changed {
                        left.memory.edit(others);
                    }
                    left.memory.mend();
                    left.memory.failing_after(cut, Errno::EIO);
                    let first = left.replay().await;
                    left.memory.mend();
                    let second = left.replay().await;
                    assert_eq!(second.left, vec![], "cut after {cut}");
                    match is_changed {
                        false => assert_eq!(left.at("d/f"), AFTER, "cut after {cut}"),
                        true => {
                            assert_eq!(left.at("d/f"), b"others");
                            assert_eq!(&left.conflict(&second)[4..], &AFTER[4..], "cut after {cut}");
                        }
                    }
                    assert_eq!(left.names(), 1 + usize::from(is_changed), "cut after {cut}");
                    first.left.is_empty()
                });
                if is_over {
                    assert!(cut > 4);
                    break;
                }
            }
        }
    }
}

#[test]
fn a_replay_that_is_killed_while_a_write_is_under_way_is_gone_on_with() {
    for stop in
        [Stop::Asking("write"), Stop::Replying("write"), Stop::Replying("create"), Stop::Replying("sync")]
    {
        for is_changed in [false, true] {
            for skipped in 0..2 {
                block_on(async {
                    let left = Left::by(End::Killed, b"before", WRITES).await;
                    if is_changed {
                        left.memory.edit(others);
                    }
                    left.memory.mend();
                    let gates: Vec<_> = (0..=skipped).map(|_| left.memory.stop(stop)).collect();
                    gates.iter().take(skipped).for_each(|gate| gate.release());
                    tokio::select! {
                        biased;
                        _ = left.replay() => {}
                        () = gates[skipped].reached() => {}
                    }
                    left.memory.mend();
                    let replayed = left.replay().await;
                    let expected = if is_changed { &b"others"[..] } else { AFTER };
                    assert_eq!(left.at("d/f"), expected, "{stop:?} {skipped} {replayed:?}");
                    assert_eq!(left.names(), 1 + usize::from(is_changed), "{stop:?} {skipped}");
                    if is_changed {
                        assert_eq!(&left.conflict(&replayed)[4..], &AFTER[4..], "{stop:?} {skipped}");
                    }
                });
            }
        }
    }
}

#[test]
fn a_file_that_has_it_all_already_is_left_as_it_is() {
    block_on(async {
        let left = Left::by(End::Killed, b"before", WRITES).await;
        left.memory.edit(|tree| {
            let file = left.id_in(tree);
            tree.write(file, Some(0), AFTER).expect("written");
            tree.write(file, None, b" and more").expect("written");
        });
        left.memory.mend();
        let calls = left.memory.calls("write");
        assert_eq!(left.replay().await.writes, 3);
        assert_eq!(left.memory.calls("write"), calls);
        assert_eq!(left.at("d/f"), [AFTER, b" and more"].concat());
    });
}

#[test]
fn a_file_that_cannot_be_written_to_is_put_aside_and_a_full_source_is_asked_again() {
    block_on(async {
        let left = Left::by(End::Killed, b"before", WRITES).await;
        left.memory.mend();
        left.memory.fail_next("open", Errno::EACCES);
        left.memory.fail_next("create", Errno::ENOSPC);
        let replayed = left.replay().await;
        assert_eq!(replayed.left, vec![(b"d/f"[..].into(), Errno::ENOSPC)]);
        let replayed = left.replay().await;
        assert_eq!(&left.conflict(&replayed)[4..], &AFTER[4..]);
        assert_eq!(left.at("d/f"), b"before");
    });
}

#[test]
fn a_hostile_journal_reaches_nothing_outside() {
    block_on(async {
        let left = Left::by(End::Killed, b"before", WRITES).await;
        left.memory.mend();
        let names = left.memory.look(|tree| tree.snapshot().len());
        let paths = ["..", "../../etc/passwd", "d/../d/f", "/d/f", "d//f", "d/f/", "d/f/x", "./d", "d/f\0"];
        for (number, path) in paths.into_iter().enumerate() {
            let mut unsaved = Unsaved::read(left.scratch.path()).expect("readable");
            for file in &mut unsaved.files {
                file.ino = Ino(1000 + number as u64);
                file.place = Some(Place { id: left.id(), path: path.as_bytes().into() });
            }
            let replaying = replay(unsaved, left.memory.clone(), left.manner(), |_| {});
            let replayed = replaying.await.expect("replayed");
            assert_eq!((replayed.aside.len(), replayed.writes), (1, 0), "{path}: {replayed:?}");
        }
        assert_eq!(left.at("d/f"), b"before");
        assert_eq!(left.memory.look(|tree| tree.snapshot().len()), names + paths.len());
    });
}

#[test]
fn a_journal_of_another_release_stays() {
    let scratch = tempfile::tempdir().expect("a directory");
    let journal = scratch.path().join(crate::journal::FILES[0]);
    let mut bytes = b"steadjnl".to_vec();
    bytes.extend_from_slice(&99_u32.to_le_bytes());
    bytes.resize(4096, 0);
    std::fs::write(&journal, bytes).expect("written");
    assert!(matches!(Unsaved::read(scratch.path()), Err(ReplayError::Journal(_))));
    std::fs::write(&journal, b"").expect("written");
    assert!(Unsaved::read(scratch.path()).expect("readable").is_empty());
}

#[test]
fn a_journal_that_lost_its_first_write_is_empty() {
    let scratch = tempfile::tempdir().expect("a directory");
    let journal = scratch.path().join(crate::journal::FILES[0]);
    for length in [24, 25, 4096, 200_000] {
        let mut bytes = vec![0; length];
        std::fs::write(&journal, &bytes).expect("written");
        assert!(Unsaved::read(scratch.path()).expect("readable").is_empty(), "{length}");
        bytes[length - 1] = 1;
        std::fs::write(&journal, bytes).expect("written");
        assert!(Unsaved::read(scratch.path()).is_err(), "{length}");
    }
}

#[test]
fn a_file_that_the_source_does_not_answer_for_is_left_and_the_others_are_saved() {
    for stop in [Stop::Asking("open"), Stop::Replying("write"), Stop::Asking("sync")] {
        block_on(async {
            let left = Left::by(End::Killed, b"before", WRITES).await;
            left.memory.mend();
            let mut unsaved = Unsaved::read(left.scratch.path()).expect("readable");
            // The same for another file, which is asked for later.
            let other = left.memory.edit(|tree| {
                let directory = tree.at("d").expect("there");
                tree.make(directory, &name("g"), Kind::File, 0o640).expect("new")
            });
            let entry = left.memory.look(|tree| tree.get(other).expect("there").attributes.content());
            let [file] = &unsaved.files[..] else { panic!("one file") };
            let second = UnsavedFile {
                ino: Ino(1000),
                place: Some(Place { id: other, path: b"d/g"[..].into() }),
                content: entry,
                writes: file.writes.clone(),
                extents: file.extents.clone(),
                clear_set_id: false,
                attributes: AttributeChanges::default(),
                changes: 0,
                creation: None,
            };
            unsaved.files.push(second);
            let gate = left.memory.stop(stop);
            let mut done = Vec::new();
            let manner = Manner { answer_wait: std::time::Duration::from_millis(50), ..left.manner() };
            let replayed = replay(unsaved, left.memory.clone(), manner, |id| done.push(id)).await;
            let replayed = replayed.expect("replayed");
            gate.reached().await;
            assert_eq!(replayed.left, [(b"d/f"[..].into(), Errno::ETIMEDOUT)], "{stop:?}");
            assert_eq!((replayed.writes, left.at("d/g")), (3, [&[0; 4], &AFTER[4..]].concat()), "{stop:?}");
            assert_eq!(done, [other, left.id()], "{stop:?}");
            left.memory.mend();
            // The next replay goes on where this one was.
            let replayed = left.replay().await;
            assert_eq!((replayed.writes, replayed.aside), (3, vec![]), "{stop:?}");
            assert_eq!(left.at("d/f"), AFTER, "{stop:?}");
        });
    }
}

#[test]
fn a_file_with_the_first_of_the_writes_in_it_is_the_one_that_they_were_for() {
    let arrived: &[&[u8]] = &[b"befofive", b"befofiveseven", b"befofivese", b"befofi\0"];
    for end in [End::GivenUp, End::Killed] {
        for content in arrived {
            block_on(async {
                let left = Left::by(end, b"before", WRITES).await;
                left.memory.edit(|tree| {
                    let file = left.id_in(tree);
                    tree.write(file, Some(0), content).expect("written");
                });
                left.memory.mend();
                let replayed = left.replay().await;
                let is_theirs = !content.ends_with(b"\0");
                assert_eq!(replayed.aside.is_empty(), is_theirs, "{content:?}: {replayed:?}");
                assert_eq!(left.at("d/f") == AFTER, is_theirs, "{content:?}");
            });
        }
    }
}

#[test]
fn a_disk_that_is_full_in_the_midst_of_a_write_makes_no_conflict() {
    for end in [End::GivenUp, End::Killed] {
        block_on(async {
            let left = Left::by(end, b"before", WRITES).await;
            left.memory.mend();
            left.memory.write_at_most(3);
            // It takes three bytes, and no more.
            let gate = left.memory.stop(Stop::Replying("write"));
            tokio::join!(
                async {
                    gate.reached().await;
                    left.memory.fail_next("write", Errno::ENOSPC);
                    gate.release();
                },
                async {
                    let replayed = left.replay().await;
                    assert_eq!(replayed.left, [(b"d/f"[..].into(), Errno::ENOSPC)]);
                }
            );
            assert_eq!(left.at("d/f"), b"befofiv");
            left.memory.mend();
            let replayed = left.replay().await;
            assert_eq!((replayed.writes, replayed.aside), (3, vec![]), "{end:?}");
            assert_eq!(left.at("d/f"), AFTER);
        });
    }
}

#[test]
fn attributes_that_were_not_saved_are_set_after_what_was_written_before_them() {
    const THEN: Time = Time { seconds: 1_000_000_000, nanoseconds: 5 };
    for (writes_before, writes_after) in [(false, false), (true, false), (true, true)] {
        block_on(async {
            let left = Left::with_nothing();
            left.memory.edit(|tree| tree.write(left.id_in(tree), Some(0), b"before")).expect("written");
            let vfs = left.mount();
            let handle = left.open(&vfs).await;
            left.cut();
            left.memory.stop(Stop::Asking("set_attributes"));
            let ino = vfs.find(left.id()).expect("known");
            let write = |offset| vfs.write(handle, offset, "ours".into(), WriteFrom::Pages, false);
            if writes_before {
                write(0).await.expect("taken");
            }
            let changes = AttributeChanges {
                mode: Some(0o751),
                modified: SetTime::To(THEN),
                ..AttributeChanges::default()
            };
            let by = crate::file::ThreadId::UNKNOWN;
            let set = vfs.set_attributes_ahead(ino.into(), changes, by).await.expect("set");
            assert!(set.is_some());
            if writes_after {
                write(4).await.expect("taken");
            }
            drop(vfs);
            left.memory.mend();
            let replayed = left.replay().await;
            assert_eq!((replayed.aside, replayed.left), (vec![], vec![]));
            let attributes = left.memory.look(|tree| tree.get(left.id_in(tree)).expect("there").attributes);
            assert_eq!((attributes.mode, attributes.modified == THEN), (0o751, !writes_after));
            let expected: &[u8] = match (writes_before, writes_after) {
                (false, _) => b"before",
                (true, false) => b"oursre",
                (true, true) => b"oursours",
            };
            assert_eq!(left.at("d/f"), expected);
        });
    }
}

/// A file `d/g` is said to be made, and written to.
async fn expected(left: &Left, stop: Stop) {
    let vfs = left.mount();
    left.open(&vfs).await;
    let directory = vfs.find(left.memory.look(|tree| tree.at("d")).expect("there")).expect("known");
    let flags = READ_WRITE;
    for name in [b"first", b"later"] {
        assert!(matches!(vfs.lookup(directory, name).await, Ok(crate::vfs::Looked::Absent(_))));
    }
    vfs.create(directory, b"first", 0o644, flags, CALLER).await.expect("made");
    left.cut();
    left.memory.stop(stop);
    let by = crate::file::ThreadId::UNKNOWN;
    let made = vfs.create_ahead(directory, b"later", (0o640, flags), CALLER, by).await.expect("no error");
    let (_, opened) = made.expect("at once");
    vfs.write(opened.handle, 0, "content".into(), WriteFrom::Pages, false).await.expect("taken");
}

#[test]
fn a_file_that_was_not_made_is_made_under_its_name() {
    for stop in [Stop::Asking("create"), Stop::Replying("create")] {
        block_on(async {
            let left = Left::with_nothing();
            expected(&left, stop).await;
            left.memory.mend();
            let replayed = left.replay().await;
            assert_eq!((replayed.aside, replayed.left), (vec![], vec![]), "{stop:?}");
            assert_eq!(left.at("d/later"), b"content");
            assert_eq!(left.names(), 3);
            left.replay().await;
            assert_eq!((left.at("d/later").as_slice(), left.names()), (b"content".as_slice(), 3));
        });
    }
}

#[test]
fn what_another_has_made_under_the_name_of_a_file_that_was_not_made_stays() {
    block_on(async {
        let left = Left::with_nothing();
        expected(&left, Stop::Asking("create")).await;
        left.memory.edit(|tree| {
            let file =
                tree.make(tree.at("d").expect("there"), &name("later"), Kind::File, 0o600).expect("new");
            tree.write(file, Some(0), b"theirs").expect("written")
        });
        left.memory.mend();
        let replayed = left.replay().await;
        assert_eq!(left.at("d/later"), b"theirs");
        let [Aside { of, to }] = &replayed.aside[..] else { panic!("{replayed:?}") };
        assert_eq!(&of[..], b"d/later");
        assert_eq!(left.at(std::str::from_utf8(to).expect("text")), b"content");
    });
}
