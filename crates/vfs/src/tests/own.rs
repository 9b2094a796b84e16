//! A directory that was made from here: what is made in it is not waited for, also exclusively, while it is ours alone.

use super::*;
use crate::SyncMode;
use crate::errno::Errno;
use crate::file::{AttributeChanges, Kind, ThreadId};
use crate::source::HandleId;
use crate::table::{Believe, Limits};
use crate::vfs::Removal;

const MAKER: ThreadId = ThreadId(7);
const OTHER: ThreadId = ThreadId(8);
const EXCLUSIVE: OpenFlags = OpenFlags { exclusive: true, ..BOTH };

/// A directory of our own, and that it is watched.
async fn own(mount: &Mount, name: &str) -> Ino {
    let made = mount.vfs.make_directory(Ino::ROOT, name.as_bytes(), 0o755, CALLER).await.expect("made").ino;
    settle().await;
    made
}

async fn made(mount: &Mount, parent: Ino, name: &str, flags: OpenFlags) -> Option<(Ino, HandleId)> {
    let made = mount.vfs.create_ahead(parent, name.as_bytes(), (0o644, flags), CALLER, MAKER).await;
    mount.vfs.commit();
    made.expect("no error").map(|(view, opened)| (view.ino, opened.handle))
}

fn make_there(mount: &Mount, path: &str, name: &str, content: &[u8]) {
    mount.memory.edit(|tree| {
        let directory = tree.at(path).expect("a path");
        let file = tree.make(directory, &bytes(name), Kind::File, 0o600).expect("a new name");
        tree.write(file, Some(0), content).expect("a file");
    });
}

fn names_there(mount: &Mount, path: &str) -> Vec<String> {
    mount.memory.look(|tree| {
        let directory = tree.get(tree.at(path).expect("a path")).expect("a directory");
        let names = directory.listing(0).map(|(_, name, _)| String::from_utf8_lossy(name).into_owned());
        names.collect()
    })
}

#[test]
fn each_file_of_an_own_directory_is_one_trip_that_only_close_waits_for() {
    const FILES: usize = 20;
    block_on(async {
        for sync in [SyncMode::Close, SyncMode::Async] {
            let mount = Mount::new(Options { sync, ..Options::default() });
            let directory = own(&mount, "d").await;
            let before = mount.memory.all_calls();
            let mut open = Vec::new();
            for n in 0..FILES {
                let requests = ["create", "write", "set_attributes"];
                let answers = requests.map(|request| mount.stop(Stop::Replying(request)));
                let name = format!("f{n}");
                assert!(mount.is_absent(directory, &name).await);
                let (ino, handle) = made(&mount, directory, &name, EXCLUSIVE).await.expect("at once");
                mount.vfs.attributes_for(ino.into(), MAKER).await.expect("let in");
                mount.vfs.attributes_for(directory.into(), MAKER).await.expect("let in");
                mount.write(handle, 0, b"content").await.expect("taken");
                let changes = AttributeChanges { mode: Some(0o600), ..AttributeChanges::default() };
                mount
                    .vfs
                    .set_attributes_ahead(ino.into(), changes, MAKER)
                    .await
                    .expect("set")
                    .expect("at once");
                // All has been carried out, and nothing answered: it is one trip.
                for answer in &answers {
                    answer.reached().await;
                }
                if sync == SyncMode::Close {
                    let vfs = mount.vfs.clone();
                    let closing = tokio::spawn(async move { vfs.flush(handle, 0, None).await });
                    settle().await;
                    assert!(!closing.is_finished());
                    answers.iter().for_each(|answer| answer.release());
                    assert_eq!(closing.await.expect("no panic"), Ok(()));
                } else {
                    assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
                    open.extend(answers);
                }
                mount.vfs.release(handle);
            }
            settle().await;
            open.iter().for_each(|answer| answer.release());
            mount.vfs.drain().await;
            settle().await;
            // With the closing of each handle.
            assert_eq!(mount.memory.all_calls() - before, 4 * FILES, "{sync:?}");
            assert_eq!((mount.memory.open_handles(), mount.vfs.open_files()), (0, 0));
            for n in 0..FILES {
                assert_eq!(mount.content(&format!("d/f{n}")), b"content");
            }
        }
    });
}

#[test]
fn of_two_programs_of_this_mount_that_make_one_file_exclusively_one_is_refused() {
    block_on(async {
        let mount = Mount::new(Options::default());
        let directory = own(&mount, "d").await;
        let answer = mount.stop(Stop::Asking("create"));
        let (_, handle) = made(&mount, directory, "lock", EXCLUSIVE).await.expect("at once");
        assert_eq!(made(&mount, directory, "lock", EXCLUSIVE).await, None, "it is there");
        let vfs = mount.vfs.clone();
        let second =
            tokio::spawn(
                async move { vfs.create(directory, b"lock", 0o644, EXCLUSIVE, CALLER).await.map(drop) },
            );
        settle().await;
        assert!(!second.is_finished());
        answer.release();
        assert_eq!(second.await.expect("no panic"), Err(Errno::EEXIST));
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        mount.vfs.release(handle);
        mount.vfs.remove(directory, b"lock", Removal::Other).await.expect("removed");
        assert!(made(&mount, directory, "lock", EXCLUSIVE).await.is_some(), "it was removed");
    });
}

#[test]
fn what_others_change_in_a_directory_ends_that_it_is_ours() {
    type Doing = fn(&Mount);
    let doings: [(&str, Doing); 5] = [
        ("a name", |mount| make_there(mount, "d", "theirs", b"")),
        ("a name gone", |mount| {
            mount
                .memory
                .edit(|tree| tree.unlink(tree.at("d").expect("there"), &bytes("first")).map(drop))
                .expect("gone");
        }),
        ("a mode", |mount| {
            let changes = AttributeChanges { mode: Some(0), ..AttributeChanges::default() };
            mount
                .memory
                .edit(|tree| tree.set_attributes(tree.at("d").expect("there"), changes))
                .expect("set");
        }),
        ("what nobody sees", |mount| mount.vfs.leases_lost()),
        ("an access list", |mount| {
            let set = |tree: &mut crate::testing::Tree| {
                let directory = tree.at("d").expect("there");
                let (name, value) = (bytes::Bytes::from_static(b"system.posix_acl_access"), "x".into());
                tree.set_xattr(directory, name, value, crate::file::XattrMode::Set)
            };
            mount.memory.edit(set).expect("set");
        }),
    ];
    block_on(async {
        for (what, doing) in doings {
            let mount = Mount::new(Options::default());
            let directory = own(&mount, "d").await;
            let (_, handle) = made(&mount, directory, "first", EXCLUSIVE).await.expect("at once");
            assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
            mount.tell_all();
            assert!(made(&mount, directory, "second", EXCLUSIVE).await.is_some(), "{what}");
            mount.vfs.drain().await;
            doing(&mount);
            mount.tell_all();
            assert_eq!(made(&mount, directory, "third", EXCLUSIVE).await, None, "{what}");
        }
    });
}

#[test]
fn an_access_list_that_changes_from_here_may_be_about_who_makes_files() {
    block_on(async {
        for sets in [true, false] {
            let mount = Mount::new(Options::default());
            let directory = own(&mount, "d").await;
            let (name, value) = (b"system.posix_acl_access", bytes::Bytes::from_static(b"x"));
            assert!(made(&mount, directory, "before", EXCLUSIVE).await.is_some());
            let outcome = match sets {
                true => mount.vfs.set_xattr(directory, name, value, crate::file::XattrMode::Set).await,
                false => mount.vfs.remove_xattr(directory, name).await,
            };
            assert_eq!(outcome, if sets { Ok(()) } else { Err(Errno::ENODATA) });
            assert_eq!(made(&mount, directory, "after", EXCLUSIVE).await, None, "sets: {sets}");
        }
    });
}

#[test]
fn a_directory_that_nobody_watches_or_that_was_there_is_not_ours() {
    block_on(async {
        let mount = Mount::new(Options::default());
        mount.memory.unwatched(1000);
        let directory = own(&mount, "d").await;
        assert_eq!(made(&mount, directory, "f", EXCLUSIVE).await, None, "nobody would tell");

        let mount = Mount::new(Options::default());
        mount.memory.edit(|tree| tree.make(tree.root, &bytes("d"), Kind::Directory, 0o755)).expect("new");
        let directory = mount.view(Ino::ROOT, "d").await.ino;
        assert!(mount.is_absent(directory, "f").await);
        assert_eq!(made(&mount, directory, "f", EXCLUSIVE).await, None, "others know it");

        let mount = Mount::new(Options { sync: SyncMode::Strict, ..Options::default() });
        let directory = own(&mount, "d").await;
        assert_eq!(made(&mount, directory, "f", EXCLUSIVE).await, None, "strict");
        let mount = Mount::new(Options::default());
        let closed = mount.vfs.make_directory(Ino::ROOT, b"d", 0o555, CALLER).await.expect("made").ino;
        assert_eq!(made(&mount, closed, "f", EXCLUSIVE).await, None, "it may be refused");
    });
}

#[test]
fn what_was_written_to_a_file_that_somebody_else_made_meanwhile_is_put_aside_and_close_tells() {
    block_on(async {
        for sync in [SyncMode::Close, SyncMode::Async] {
            let mount = Mount::new(Options { sync, ..Options::default() });
            let directory = own(&mount, "d").await;
            let answer = mount.stop(Stop::Asking("create"));
            let (ino, handle) = made(&mount, directory, "f", EXCLUSIVE).await.expect("at once");
            mount.write(handle, 0, b"ours").await.expect("taken");
            mount.write(handle, 4, b", all").await.expect("taken");
            make_there(&mount, "d", "f", b"theirs");
            answer.release();
            assert_eq!(mount.vfs.sync(handle, false).await, Err(Errno::EEXIST), "{sync:?}");
            assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()), "it is told once");
            assert_eq!(mount.content("d/f"), b"theirs");
            let aside = format!("f.stead-conflict-{}", ino.0);
            assert_eq!(mount.content(&format!("d/{aside}")), b"ours, all");
            assert_eq!(mount.view(directory, &aside).await.ino, ino);
            assert_ne!(mount.view(directory, "f").await.ino, ino);
            mount.vfs.release(handle);
            mount.vfs.drain().await;
            settle().await;
            assert_eq!((mount.memory.open_handles(), mount.vfs.open_files()), (0, 0));
            assert_eq!(made(&mount, directory, "g", EXCLUSIVE).await, None, "it is ours no more");
        }
    });
}

#[test]
fn a_lock_that_nothing_is_written_to_is_refused_and_leaves_nothing() {
    block_on(async {
        let mount = Mount::new(Options::default());
        let directory = own(&mount, "d").await;
        let answer = mount.stop(Stop::Asking("create"));
        let (_, handle) = made(&mount, directory, "lock", EXCLUSIVE).await.expect("at once");
        make_there(&mount, "d", "lock", b"theirs");
        answer.release();
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Err(Errno::EEXIST));
        mount.vfs.release(handle);
        settle().await;
        assert_eq!(names_there(&mount, "d"), ["lock"]);
        assert_eq!(mount.content("d/lock"), b"theirs");
    });
}

#[test]
fn a_directory_that_somebody_removes_meanwhile_is_told_by_close() {
    block_on(async {
        let mount = Mount::new(Options::default());
        let directory = own(&mount, "d").await;
        let answer = mount.stop(Stop::Asking("create"));
        let (_, handle) = made(&mount, directory, "f", EXCLUSIVE).await.expect("at once");
        mount.write(handle, 0, b"content").await.expect("taken");
        mount.memory.edit(|tree| tree.remove_directory(tree.root, &bytes("d")).map(drop)).expect("gone");
        answer.release();
        let told = mount.vfs.flush(handle, 0, None).await;
        assert!(matches!(told, Err(Errno::ESTALE | Errno::ENOENT)), "{told:?}");
        mount.vfs.release(handle);
        settle().await;
        assert_eq!((mount.memory.open_handles(), mount.vfs.open_files()), (0, 0));
    });
}

#[test]
fn names_of_an_own_directory_that_are_let_go_are_asked_for() {
    block_on(async {
        let limits = Limits { idle_nodes: 2 };
        let mount = Mount::new(Options { limits, ..Options::default() });
        let directory = own(&mount, "d").await;
        for name in ["a", "b"] {
            let (ino, handle) = made(&mount, directory, name, BOTH).await.expect("at once");
            assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
            mount.vfs.release(handle);
            mount.vfs.drain().await;
            settle().await;
            let lookups = mount.vfs.table.lock().lookups(ino);
            mount.vfs.forget(ino, lookups);
        }
        make_there(&mount, "", "beside", b"");
        let beside = mount.view(Ino::ROOT, "beside").await.ino;
        mount.vfs.forget(beside, 1);
        for name in ["a", "b"] {
            assert!(!mount.is_absent(directory, name).await, "{name}");
        }
    });
}

#[test]
fn only_who_makes_a_file_is_let_in_before_it_is_made() {
    block_on(async {
        let mount = Mount::new(Options::default());
        let directory = own(&mount, "d").await;
        let answer = mount.stop(Stop::Asking("create"));
        let (ino, handle) = made(&mount, directory, "f", EXCLUSIVE).await.expect("at once");
        let ask = |of: Ino, by: ThreadId| {
            let vfs = mount.vfs.clone();
            tokio::spawn(async move { vfs.attributes_for(of.into(), by).await })
        };
        let waiting = [ask(ino, OTHER), ask(directory, OTHER)];
        let (attributes, believe) = ask(ino, MAKER).await.expect("no panic").expect("let in");
        assert_eq!((attributes.mode, attributes.kind, believe), (0o644, Kind::File, Believe::Once));
        let again = ask(ino, MAKER);
        for _ in 0..2 {
            let (attributes, believe) = ask(directory, MAKER).await.expect("no panic").expect("let in");
            assert_eq!((attributes.mode, believe), (0o755, Believe::Once));
        }
        settle().await;
        assert!(!again.is_finished() && waiting.iter().all(|waiting| !waiting.is_finished()));
        answer.release();
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        for waiting in waiting.into_iter().chain([again]) {
            assert!(waiting.await.expect("no panic").is_ok());
        }
    });
}

#[test]
fn a_successor_makes_what_was_promised_in_an_own_directory_and_promises_no_more_in_it() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    let handle = block_on(async {
        let mount = Mount::fresh(&memory, scratch.path());
        let directory = own(&mount, "d").await;
        mount.stop(Stop::Asking("create"));
        let (_, handle) = made(&mount, directory, "f", EXCLUSIVE).await.expect("at once");
        mount.write(handle, 0, b"content").await.expect("taken");
        handle
    });
    memory.mend();
    block_on(async {
        let mount = Mount::successor(&memory, scratch.path());
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        assert_eq!(mount.content("d/f"), b"content");
        let directory = mount.view(Ino::ROOT, "d").await.ino;
        assert_eq!(made(&mount, directory, "g", EXCLUSIVE).await, None);
    });
}

#[test]
fn who_makes_a_directory_goes_on_while_the_one_above_it_is_looked_at() {
    block_on(async {
        let mount = Mount::new(Options::default());
        assert!(mount.is_absent(Ino::ROOT, "d").await);
        own(&mount, "d").await;
        let answer = mount.stop(Stop::Asking("stat"));
        mount.vfs.goes_on(Ino::ROOT, CALLER, MAKER);
        let (_, believe) = mount.vfs.attributes_for(Ino::ROOT.into(), MAKER).await.expect("let in");
        assert_eq!(believe, Believe::Once);
        let vfs = mount.vfs.clone();
        answer.reached().await;
        let gate = mount.stop(Stop::Asking("stat"));
        let other = tokio::spawn(async move { vfs.attributes_for(Ino::ROOT.into(), OTHER).await });
        gate.reached().await;
        assert!(!other.is_finished());
        gate.release();
        answer.release();
        assert!(other.await.expect("no panic").is_ok());
        settle().await;
        // Nothing is left of it.
        let asked = mount.memory.calls("stat");
        let (_, believe) = mount.vfs.attributes_for(Ino::ROOT.into(), MAKER).await.expect("known");
        assert_eq!((believe, mount.memory.calls("stat")), (Believe::Leased, asked));
    });
}

#[test]
fn what_others_have_made_before_the_directory_was_watched_is_found() {
    block_on(async {
        let mount = Mount::new(Options::default());
        let listing = mount.stop(Stop::Asking("list"));
        let directory = mount.vfs.make_directory(Ino::ROOT, b"d", 0o755, CALLER).await.expect("made").ino;
        listing.reached().await;
        make_there(&mount, "d", "theirs", b"content");
        let (_, handle) = made(&mount, directory, "ours", EXCLUSIVE).await.expect("at once");
        listing.release();
        settle().await;
        assert!(!mount.is_absent(directory, "theirs").await);
        assert_eq!(made(&mount, directory, "theirs", EXCLUSIVE).await, None, "it is asked for");
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
        mount.vfs.release(handle);
    });
}
