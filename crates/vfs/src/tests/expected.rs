//! A file that is said to be made before it is: what can be done with it, and what becomes of it when it is not.

use super::*;
use crate::SyncMode;
use crate::errno::Errno;
use crate::file::{AttributeChanges, Kind, RenameMode, ThreadId};
use crate::request::{RequestId, answering};
use crate::table::Believe;
use crate::vfs::Removal;

const OWNER: ThreadId = ThreadId(7);
const EXCLUSIVE: OpenFlags = OpenFlags { exclusive: true, ..BOTH };
const TRUNCATE: OpenFlags = OpenFlags { truncate: true, ..BOTH };

fn sync(sync: SyncMode) -> Options {
    Options { sync, ..Options::default() }
}

/// A directory in which it is certain that files can be made.
async fn sure(mount: &Mount) {
    assert!(mount.is_absent(Ino::ROOT, "first").await);
    let first = mount.vfs.create(Ino::ROOT, b"first", 0o644, BOTH, CALLER).await.expect("made");
    mount.vfs.release(first.1.handle);
    mount.vfs.drain().await;
    settle().await;
}

async fn ahead(mount: &Mount, name: &str, flags: OpenFlags) -> Option<(Ino, HandleId)> {
    assert!(mount.is_absent(Ino::ROOT, name).await, "{name}");
    let made = mount.vfs.create_ahead(Ino::ROOT, name.as_bytes(), (0o644, flags), CALLER, OWNER).await;
    mount.vfs.commit();
    made.expect("no error").map(|(view, opened)| (view.ino, opened.handle))
}

async fn waits<T: Send + 'static>(
    mount: &Mount,
    asked: impl Future<Output = T> + Send + 'static,
) -> Waiting<T> {
    let task = tokio::spawn(asked);
    settle().await;
    assert!(!task.is_finished());
    assert!(mount.memory.calls("create") > 0);
    Waiting(task)
}

struct Waiting<T>(tokio::task::JoinHandle<T>);

impl<T> Waiting<T> {
    async fn end(self) -> T {
        self.0.await.expect("no panic")
    }
}

#[test]
fn making_writing_and_closing_a_file_is_one_trip() {
    block_on(async {
        let mount = Mount::new(Options::default());
        sure(&mount).await;
        let answers =
            ["create", "write", "set_attributes"].map(|request| mount.stop(Stop::Replying(request)));
        let (ino, handle) = ahead(&mount, "f", TRUNCATE).await.expect("at once");
        assert_eq!(mount.vfs.get_xattr(ino, b"security.capability").await, Err(Errno::ENODATA));
        mount.write(handle, 0, b"content").await.expect("taken");
        let changes = AttributeChanges { mode: Some(0o600), ..AttributeChanges::default() };
        let set = mount.vfs.set_attributes_ahead(ino.into(), changes, OWNER).await.expect("set");
        assert_eq!(set.map(|set| (set.size, set.mode)), Some((7, 0o600)));
        // All has been carried out, and nothing answered.
        for answer in &answers {
            answer.reached().await;
        }
        assert_eq!(mount.content("f"), b"content");
        let vfs = mount.vfs.clone();
        let closing = waits(&mount, async move { vfs.flush(handle, 0, None).await }).await;
        answers.iter().rev().for_each(|answer| answer.release());
        assert_eq!(closing.end().await, Ok(()));
        let view = mount.view(Ino::ROOT, "f").await;
        assert_eq!((view.ino, view.attributes.size, view.attributes.mode), (ino, 7, 0o600));
        assert_eq!(mount.vfs.id(ino), Ok(view.id));
        mount.vfs.release(handle);
        mount.vfs.drain().await;
        settle().await;
        assert_eq!((mount.memory.open_handles(), mount.vfs.open_files()), (0, 0));
    });
}

#[test]
fn what_is_not_certain_to_be_made_is_waited_for() {
    block_on(async {
        let mount = Mount::new(Options::default());
        assert_eq!(ahead(&mount, "f", BOTH).await, None, "nothing was made there before");
        sure(&mount).await;
        assert_eq!(ahead(&mount, "f", EXCLUSIVE).await, None, "it may be a lock");
        assert_eq!(ahead(&mount, "f", OpenFlags { append: true, ..BOTH }).await, None, "appended to");
        let other = Caller { uid: 9, ..CALLER };
        let made = mount.vfs.create_ahead(Ino::ROOT, b"f", (0o644, BOTH), other, OWNER).await;
        assert!(made.expect("no error").is_none(), "by another user");
        mount.vfs.set_round_trip(std::time::Duration::ZERO);
        assert_eq!(ahead(&mount, "f", BOTH).await, None, "the source is near");
        mount.vfs.set_round_trip(std::time::Duration::MAX);
        mount.memory.be_unsure();
        assert_eq!(ahead(&mount, "f", BOTH).await, None, "the source is not sure");

        let strict = Mount::new(sync(SyncMode::Strict));
        sure(&strict).await;
        assert_eq!(ahead(&strict, "f", BOTH).await, None, "strict");

        let unwatched = Mount::new(Options::default());
        unwatched.memory.unwatched(1000);
        sure(&unwatched).await;
        assert_eq!(ahead(&unwatched, "f", BOTH).await, None, "nobody would tell");
    });
}

#[test]
fn whoever_asks_for_an_expected_file_waits_until_it_is_made() {
    block_on(async {
        for asked in 0..7 {
            let mount = Mount::new(Options::default());
            sure(&mount).await;
            let answer = mount.stop(Stop::Asking("create"));
            let (ino, handle) = ahead(&mount, "f", BOTH).await.expect("at once");
            let vfs = mount.vfs.clone();
            let waiting = waits(&mount, async move {
                match asked {
                    0 => drop(vfs.lookup(Ino::ROOT, b"f").await.expect("there")),
                    1 => drop(vfs.attributes(ino.into()).await.expect("there")),
                    2 => drop(vfs.open(ino, READ).await.expect("there")),
                    3 => vfs.remove(Ino::ROOT, b"f", Removal::Other).await.expect("removed"),
                    4 => {
                        let to = (Ino::ROOT, b"g".as_slice());
                        vfs.rename((Ino::ROOT, b"f"), to, RenameMode::Replace).await.expect("renamed");
                    }
                    5 => drop(vfs.link(ino, Ino::ROOT, b"g").await.expect("linked")),
                    _ => {
                        let listing = vfs.open_directory(Ino::ROOT).await.expect("open").handle;
                        let mut names = Vec::new();
                        let take = |item: crate::vfs::DirectoryItem<'_>| {
                            names.push(item.name.to_vec());
                            true
                        };
                        vfs.read_directory(listing, 0, true, take).await.expect("read");
                        vfs.read_directory(listing, u64::MAX >> 1, true, |_| true).await.ok();
                    }
                }
            })
            .await;
            answer.release();
            waiting.end().await;
            mount.write(handle, 0, b"x").await.expect("taken");
            assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()), "{asked}");
        }
    });
}

#[test]
fn a_file_that_could_not_be_made_is_told_by_close_and_is_not_there() {
    block_on(async {
        let mount = Mount::new(Options::default());
        sure(&mount).await;
        mount.memory.fail_next("create", Errno::ENOSPC);
        let answer = mount.stop(Stop::Asking("create"));
        let (_, handle) = ahead(&mount, "f", BOTH).await.expect("at once");
        mount.write(handle, 0, b"content").await.expect("taken");
        mount.take_notices();
        answer.release();
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Err(Errno::ENOSPC));
        let name = Notice::Name { parent: Ino::ROOT, name: bytes("f") };
        assert!(mount.take_notices().contains(&name));
        assert_eq!(
            mount.write(handle, 0, b"more").await.and(mount.vfs.sync(handle, false).await),
            Err(Errno::ENOSPC)
        );
        assert!(mount.is_absent(Ino::ROOT, "f").await);
        mount.vfs.release(handle);
        settle().await;
        assert_eq!((mount.memory.open_handles(), mount.vfs.open_files()), (0, 0));
        assert_eq!(ahead(&mount, "g", BOTH).await, None, "it is certain no more");
    });
}

#[test]
fn a_file_that_another_has_made_meanwhile_is_opened_as_if_it_had_been_there() {
    block_on(async {
        for flags in [BOTH, TRUNCATE] {
            let mount = Mount::new(Options::default());
            sure(&mount).await;
            let answer = mount.stop(Stop::Asking("create"));
            let (ino, handle) = ahead(&mount, "f", flags).await.expect("at once");
            mount.write(handle, 0, b"ours").await.expect("taken");
            let theirs = mount.memory.edit(|tree| {
                let file = tree.make(tree.root, &bytes("f"), Kind::File, 0o600).expect("new");
                tree.write(file, Some(0), b"of theirs").expect("written");
                file
            });
            answer.release();
            assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
            let expected: &[u8] = if flags.truncate { b"ours" } else { b"oursheirs" };
            assert_eq!(mount.content("f"), expected);
            assert_eq!(mount.vfs.id(ino), Ok(theirs));
        }
    });
}

#[test]
fn of_two_who_make_one_file_exclusively_one_is_refused_however_little_is_waited_for() {
    block_on(async {
        let mount = Mount::new(sync(SyncMode::Async));
        sure(&mount).await;
        assert_eq!(ahead(&mount, "f", EXCLUSIVE).await, None, "it may be a lock");
        mount
            .memory
            .edit(|tree| tree.make(tree.root, &bytes("f"), Kind::File, 0o600).map(drop))
            .expect("new");
        let made = mount.vfs.create(Ino::ROOT, b"f", 0o644, EXCLUSIVE, CALLER).await;
        assert_eq!(made.map(drop), Err(Errno::EEXIST));
    });
}

#[test]
fn a_file_that_was_not_made_a_successor_makes_and_writes_to() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let (ino, handle) = block_on(async {
        let mount = Mount::fresh(&memory, scratch.path());
        sure(&mount).await;
        mount.stop(Stop::Asking("create"));
        let (ino, handle) = ahead(&mount, "f", BOTH).await.expect("at once");
        mount.write(handle, 0, b"content").await.expect("taken");
        (ino, handle)
    });
    assert!(memory.look(|tree| tree.at("f").is_none()));
    memory.mend();
    block_on(async {
        let mount = Mount::successor(&memory, scratch.path());
        assert_eq!(mount.view(Ino::ROOT, "f").await.ino, ino);
        assert_eq!(mount.vfs.read(handle, 0, 100).await.expect("read"), "content");
        mount.write(handle, 7, b", and more").await.expect("taken");
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        assert_eq!(mount.content("f"), b"content, and more");
        mount.vfs.release(handle);
        mount.vfs.drain().await;
        settle().await;
        mount.vfs.record_done();
        assert_eq!((memory.open_handles(), memory.unsettled()), (0, 0));
    });
}

#[test]
fn a_file_whose_making_was_not_answered_a_successor_does_not_make_twice() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let handle = block_on(async {
        let mount = Mount::fresh(&memory, scratch.path());
        sure(&mount).await;
        mount.stop(Stop::Replying("create"));
        mount.stop(Stop::Replying("write"));
        let (_, handle) = ahead(&mount, "f", BOTH).await.expect("at once");
        mount.write(handle, 0, b"content").await.expect("taken");
        settle().await;
        handle
    });
    assert!(memory.look(|tree| tree.at("f").is_some()));
    memory.mend();
    block_on(async {
        let mount = Mount::successor(&memory, scratch.path());
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        assert_eq!(mount.content("f"), b"content");
    });
}

#[test]
fn names_beside_a_file_that_a_successor_has_made_are_known_again() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let handle = block_on(async {
        let mount = Mount::fresh(&memory, scratch.path());
        sure(&mount).await;
        mount.stop(Stop::Asking("create"));
        ahead(&mount, "f", BOTH).await.expect("at once").1
    });
    memory.mend();
    block_on(async {
        let mount = Mount::successor(&memory, scratch.path());
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        assert!(mount.is_absent(Ino::ROOT, "g").await);
        settle().await;
        let asked = memory.all_calls();
        assert!(mount.is_absent(Ino::ROOT, "g").await);
        assert_eq!(memory.all_calls(), asked);
    });
}

#[test]
fn a_request_whose_file_was_said_to_be_made_is_answered_by_a_successor_with_that() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let request = RequestId(84);
    let create = |mount: &Mount| {
        let vfs = mount.vfs.clone();
        async move {
            let slot = vfs.choose(request).await;
            let made = vfs.create_ahead(Ino::ROOT, b"f", (0o644, BOTH), CALLER, OWNER);
            let (view, opened) = answering(request, slot, made).await.expect("no error").expect("made");
            (view, opened.handle)
        }
    };
    let (ino, handle) = block_on(async {
        let mount = Mount::fresh(&memory, scratch.path());
        sure(&mount).await;
        assert!(mount.is_absent(Ino::ROOT, "f").await);
        mount.stop(Stop::Asking("create"));
        let (view, handle) = create(&mount).await;
        (view.ino, handle)
    });
    memory.mend();
    block_on(async {
        let mount = Mount::successor(&memory, scratch.path());
        let (view, again) = create(&mount).await;
        assert_eq!((view.ino, again), (ino, handle));
        assert_eq!(memory.look(|tree| tree.at("f")), Some(view.id));
        assert_eq!(mount.vfs.table.lock().lookups(ino), 1);
    });
}

#[test]
fn a_file_that_a_successor_cannot_make_is_told_by_close() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let handle = block_on(async {
        let mount = Mount::fresh(&memory, scratch.path());
        sure(&mount).await;
        mount.stop(Stop::Asking("create"));
        let (_, handle) = ahead(&mount, "f", BOTH).await.expect("at once");
        mount.write(handle, 0, b"content").await.expect("taken");
        handle
    });
    memory.mend();
    memory.fail_next("create", Errno::EDQUOT);
    block_on(async {
        let mount = Mount::successor(&memory, scratch.path());
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Err(Errno::EDQUOT));
        assert!(mount.is_absent(Ino::ROOT, "f").await);
    });
}

#[test]
fn who_looks_at_the_directory_of_an_expected_file_or_syncs_it_waits() {
    block_on(async {
        for asked in 0..3 {
            let mount = Mount::with_files(&["other"], b"");
            sure(&mount).await;
            mount.vfs.attributes(Ino::ROOT.into()).await.expect("there");
            let before = mount.vfs.last_attributes(Ino::ROOT).expect("known");
            let answer = mount.stop(Stop::Asking("create"));
            let (_, handle) = ahead(&mount, "f", BOTH).await.expect("at once");
            let vfs = mount.vfs.clone();
            let waiting = waits(&mount, async move {
                match asked {
                    0 => Some(vfs.attributes(Ino::ROOT.into()).await.expect("there").0),
                    1 => {
                        vfs.sync_directory(Ino::ROOT, false).await.expect("synced");
                        None
                    }
                    _ => {
                        let (to, from) = ((Ino::ROOT, b"there".as_slice()), (Ino::ROOT, b"other".as_slice()));
                        vfs.rename(from, to, RenameMode::Replace).await.expect("renamed");
                        None
                    }
                }
            })
            .await;
            answer.release();
            if let Some(seen) = waiting.end().await {
                assert!(seen.modified > before.modified, "{seen:?} is from before");
            }
            assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()), "{asked}");
        }
    });
}

#[test]
fn other_names_are_answered_beside_an_expected_file_and_asked_for_again_after_it() {
    block_on(async {
        let mount = Mount::with_files(&["other"], b"x");
        sure(&mount).await;
        let answer = mount.stop(Stop::Asking("create"));
        let (ino, handle) = ahead(&mount, "f", BOTH).await.expect("at once");
        let beside = mount.view(Ino::ROOT, "other").await;
        assert_eq!(beside.name_for, Believe::Once);
        answer.release();
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        let asked = mount.memory.calls("lookup");
        let after = mount.view(Ino::ROOT, "other").await;
        assert_eq!(
            (after.ino, after.name_for, mount.memory.calls("lookup")),
            (beside.ino, Believe::Leased, asked + 1)
        );
        // The file itself is known.
        assert_eq!(mount.view(Ino::ROOT, "f").await.ino, ino);
        assert_eq!(mount.memory.calls("lookup"), asked + 1);
    });
}

async fn names_in_root(mount: &Mount) -> Vec<Vec<u8>> {
    let listing = mount.vfs.open_directory(Ino::ROOT).await.expect("open").handle;
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let (before, from) = (names.len(), cookie);
        let take = |item: crate::vfs::DirectoryItem<'_>| {
            names.push(item.name.to_vec());
            cookie = item.cookie;
            true
        };
        mount.vfs.read_directory(listing, from, true, take).await.expect("read");
        if names.len() == before {
            return names;
        }
    }
}

#[test]
fn files_that_are_expected_together_are_each_known_when_they_are_made_and_listed() {
    block_on(async {
        for reversed in [false, true] {
            let mount = Mount::new(Options::default());
            names_in_root(&mount).await;
            sure(&mount).await;
            let mut answers = [0, 1, 2].map(|_| mount.stop(Stop::Replying("create"))).to_vec();
            let mut made = Vec::new();
            for name in ["f", "g", "h"] {
                made.push((name, ahead(&mount, name, BOTH).await.expect("at once")));
            }
            if reversed {
                answers.reverse();
            }
            for answer in answers {
                answer.reached().await;
                answer.release();
                settle().await;
            }
            let asked = mount.memory.calls("lookup");
            for (name, (ino, handle)) in made {
                assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
                assert_eq!(mount.view(Ino::ROOT, name).await.ino, ino, "{name}");
            }
            assert_eq!(mount.memory.calls("lookup"), asked, "they are known");
            let names = names_in_root(&mount).await;
            assert_eq!(names.len(), 2 + 4, "{names:?}");
        }
    });
}

#[test]
fn nothing_is_said_to_be_made_while_its_directory_may_be_moved() {
    block_on(async {
        let mount = Mount::with_files(&["other"], b"");
        sure(&mount).await;
        let answer = mount.stop(Stop::Asking("rename"));
        let vfs = mount.vfs.clone();
        let renamed = tokio::spawn(async move {
            vfs.rename((Ino::ROOT, b"other"), (Ino::ROOT, b"there"), RenameMode::Replace).await
        });
        answer.reached().await;
        assert_eq!(ahead(&mount, "f", BOTH).await, None);
        answer.release();
        renamed.await.expect("no panic").expect("renamed");
        mount.vfs.create(Ino::ROOT, b"f", 0o644, BOTH, CALLER).await.expect("made");
        assert!(mount.is_absent(Ino::ROOT, "g").await);
        assert!(ahead(&mount, "g", BOTH).await.is_some());
    });
}

#[test]
fn what_follows_on_a_file_that_another_has_made_keeps_its_order() {
    block_on(async {
        let mount = Mount::new(Options::default());
        sure(&mount).await;
        let creations = [0, 1].map(|_| mount.stop(Stop::Asking("create")));
        let (ino, handle) = ahead(&mount, "f", BOTH).await.expect("at once");
        mount.write(handle, 0, b"ours").await.expect("taken");
        mount
            .memory
            .edit(|tree| tree.make(tree.root, &bytes("f"), Kind::File, 0o600).map(drop))
            .expect("new");
        creations[0].release();
        creations[1].reached().await;
        // The write has been refused by now, and this comes behind what opens the file.
        let time = crate::file::Time { seconds: 77, nanoseconds: 0 };
        let changes =
            AttributeChanges { modified: crate::file::SetTime::To(time), ..AttributeChanges::default() };
        mount.vfs.set_attributes_ahead(ino.into(), changes, OWNER).await.expect("set").expect("at once");
        creations[1].release();
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        assert_eq!(mount.content("f"), b"ours");
        let (after, _) = mount.vfs.attributes(ino.into()).await.expect("there");
        assert_eq!((after.modified, after.size), (time, 4));
    });
}

#[test]
fn a_file_that_was_refused_before_its_maker_heard_of_it_is_told_whoever_dies() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let (ino, handle) = block_on(async {
        let mount = Mount::fresh(&memory, scratch.path());
        sure(&mount).await;
        memory.fail_next("create", Errno::EACCES);
        let answer = mount.stop(Stop::Asking("create"));
        let (ino, handle) = ahead(&mount, "f", BOTH).await.expect("at once");
        mount.write(handle, 0, b"content").await.expect("taken");
        answer.release();
        settle().await;
        mount.vfs.record_done();
        mount.vfs.commit();
        (ino, handle)
    });
    memory.mend();
    block_on(async {
        let mount = Mount::successor(&memory, scratch.path());
        settle().await;
        assert!(mount.vfs.flush(handle, 0, None).await.is_err());
        assert!(mount.is_absent(Ino::ROOT, "f").await);
        assert!(mount.vfs.attributes(ino.into()).await.is_err());
        mount.vfs.release(handle);
        settle().await;
        assert_eq!((memory.open_handles(), mount.vfs.open_files()), (0, 0));
    });
}

#[test]
fn a_file_that_was_made_ahead_shows_what_is_written_to_it_whatever_was_fetched() {
    block_on(async {
        let mount = Mount::new(Options::default());
        sure(&mount).await;
        let (ino, handle) = ahead(&mount, "f", BOTH).await.expect("at once");
        mount.write(handle, 0, b"one").await.expect("taken");
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        // Read whole, it is kept.
        for _ in 0..2 {
            let reading = mount.vfs.open(ino, READ).await.expect("opened").handle;
            assert_eq!(mount.vfs.read(reading, 0, 100).await.expect("read"), "one");
            mount.vfs.release(reading);
            settle().await;
        }
        mount.write(handle, 0, b"two").await.expect("taken");
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        let reading = mount.vfs.open(ino, READ).await.expect("opened").handle;
        assert_eq!(mount.vfs.read(reading, 0, 100).await.expect("read"), "two");
    });
}
