//! Small files: what is opened and read without asking the source, and what stays right nevertheless.

use std::time::Duration;

use super::*;
use crate::errno::Errno;
use crate::file::{AttributeChanges, Kind, Lock, LockFamily, LockKind, SeekFor};
use crate::testing::Tree;
use crate::vfs::{Removal, Restored};

/// Opens, reads and closes.
async fn read(mount: &Mount, ino: Ino) -> Vec<u8> {
    let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
    let bytes = mount.vfs.read(handle, 0, 1 << 17).await.expect("read").to_vec();
    mount.vfs.flush(handle, 0, None).await.expect("closed");
    mount.vfs.release(handle);
    bytes
}

/// A mount of a file that was read once and is closed at the source. What is asked from now on is counted from 0.
async fn with_kept(content: &[u8]) -> (Mount, Ino) {
    let mount = Mount::with_files(&["f"], content);
    let ino = mount.view(Ino::ROOT, "f").await.ino;
    assert_eq!(read(&mount, ino).await, content);
    let memory = mount.memory.clone();
    eventually("what was only read is closed", || memory.open_handles() == 0).await;
    settle().await;
    (mount, ino)
}

fn edit(mount: &Mount, edit: impl FnOnce(&mut Tree)) {
    mount.memory.edit(edit);
    mount.tell_all();
}

fn overwrite(tree: &mut Tree, content: &[u8]) {
    let file = tree.at("f").expect("there");
    tree.write(file, Some(0), content).expect("written");
}

#[test]
fn a_file_that_was_read_is_read_again_without_a_request() {
    block_on(async {
        let (mount, ino) = with_kept(b"content").await;
        let before = mount.memory.all_calls();
        for _ in 0..100 {
            assert_eq!(read(&mount, ino).await, b"content");
        }
        assert_eq!(mount.memory.all_calls() - before, 0);
        assert_eq!((mount.memory.open_handles(), mount.vfs.open_files()), (0, 0));
        let census = mount.vfs.census();
        assert_eq!(census.contents, 1);
        assert!((7..1000).contains(&census.content_bytes), "{census:?}");
    });
}

#[test]
fn of_a_near_source_each_open_asks_once_whether_the_file_has_changed() {
    block_on(async {
        let (mount, ino) = with_kept(b"content").await;
        mount.vfs.set_round_trip(Duration::ZERO);
        let before = mount.memory.all_calls();
        for _ in 0..10 {
            assert_eq!(read(&mount, ino).await, b"content");
        }
        assert_eq!(mount.memory.all_calls() - before, 10);
        assert_eq!(mount.memory.calls("stat"), 10);
        // Nothing is told of this change.
        mount.memory.edit(|tree| overwrite(tree, b"changed"));
        assert_eq!(read(&mount, ino).await, b"changed");
    });
}

#[test]
fn a_content_that_the_source_tells_to_be_another_is_asked_for() {
    block_on(async {
        let (mount, ino) = with_kept(b"content").await;
        edit(&mount, |tree| overwrite(tree, b"changed"));
        assert_eq!(read(&mount, ino).await, b"changed");
        assert_eq!(mount.memory.calls("open"), 2);
    });
}

#[test]
fn a_content_is_doubted_also_when_clock_and_size_show_no_change() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"content");
        mount.memory.edit(|tree| tree.ticks_per_time = 1 << 40);
        let ino = mount.view(Ino::ROOT, "f").await.ino;
        read(&mount, ino).await;
        edit(&mount, |tree| overwrite(tree, b"CONTENT"));
        assert_eq!(mount.vfs.census().contents, 0);
    });
}

#[test]
fn without_a_lease_nothing_is_read_from_here() {
    block_on(async {
        let (mount, ino) = with_kept(b"content").await;
        mount.vfs.leases_lost();
        mount.memory.edit(|tree| overwrite(tree, b"changed"));
        assert_eq!(read(&mount, ino).await, b"changed");
    });
}

#[test]
fn a_change_of_rights_is_for_the_source_to_judge() {
    block_on(async {
        let (mount, ino) = with_kept(b"content").await;
        edit(&mount, |tree| {
            let file = tree.at("f").expect("there");
            let changes = AttributeChanges { mode: Some(0), ..AttributeChanges::default() };
            tree.set_attributes(file, changes).expect("changed");
        });
        mount.memory.fail_next("open", Errno::EACCES);
        assert_eq!(mount.vfs.open(ino, READ).await.map(|_| ()), Err(Errno::EACCES));
    });
}

#[test]
fn an_open_file_shows_a_change_that_is_told() {
    block_on(async {
        let (mount, ino) = with_kept(b"content").await;
        let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
        assert_eq!(mount.vfs.read(handle, 0, 3).await.expect("read"), "con");
        edit(&mount, |tree| overwrite(tree, b"changed"));
        assert_eq!(mount.vfs.read(handle, 0, 10).await.expect("read"), "changed");
        mount.vfs.release(handle);
        let (memory, vfs) = (&mount.memory, &mount.vfs);
        eventually("it is closed there", || (memory.open_handles(), vfs.open_files()) == (0, 0)).await;
    });
}

#[test]
fn an_open_file_shows_what_is_written_to_it_here() {
    block_on(async {
        let (mount, ino) = with_kept(b"content").await;
        let reader = mount.vfs.open(ino, READ).await.expect("opened").handle;
        let writer = mount.vfs.open(ino, WRITE).await.expect("opened").handle;
        mount.write(writer, 0, b"CON").await.expect("taken");
        assert_eq!(mount.vfs.read(reader, 0, 10).await.expect("read"), "CONtent");
        mount.vfs.flush(writer, 0, None).await.expect("closed");
        mount.vfs.release(writer);
        assert_eq!(read(&mount, ino).await, b"CONtent");
    });
}

#[test]
fn a_file_that_is_removed_or_replaced_there_stays_readable_while_it_is_open_here() {
    block_on(async {
        for is_replaced in [false, true] {
            let (mount, ino) = with_kept(b"content").await;
            let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
            edit(&mount, |tree| {
                let root = tree.root;
                tree.unlink(root, &bytes("f")).expect("there");
                if is_replaced {
                    let file = tree.make(root, &bytes("f"), Kind::File, 0o644).expect("a new name");
                    tree.write(file, Some(0), b"another").expect("written");
                }
            });
            assert_eq!(mount.vfs.read(handle, 0, 10).await.expect("read"), "content");
            let of = crate::vfs::AttributeTarget { ino, handle: Some(handle) };
            let attributes = mount.vfs.attributes(of).await.expect("it is open").0;
            assert_eq!((attributes.links, attributes.size), (0, 7));
            // What has to be asked of the machine, the machine does not know any more.
            assert!(mount.vfs.sync(handle, false).await.is_err());
            assert_eq!(mount.vfs.read(handle, 3, 10).await.expect("read"), "tent");
            mount.vfs.release(handle);
            settle().await;
            assert_eq!((mount.vfs.open_files(), mount.memory.open_handles()), (0, 0));
        }
    });
}

#[test]
fn a_file_that_was_changed_and_then_replaced_there_is_shown_alike_by_all_that_is_open() {
    block_on(async {
        for is_open_there in [false, true] {
            let (mount, ino) = with_kept(b"content").await;
            let first = mount.vfs.open(ino, READ).await.expect("opened").handle;
            if is_open_there {
                edit(&mount, |tree| overwrite(tree, b"second"));
                assert_eq!(mount.vfs.read(first, 0, 10).await.expect("read"), "secondt");
                settle().await;
            }
            // Kept again, and not opened there.
            assert_eq!(read(&mount, ino).await.len(), 7);
            let last = mount.vfs.open(ino, READ).await.expect("opened").handle;
            edit(&mount, |tree| {
                overwrite(tree, b"changed");
                let root = tree.root;
                tree.unlink(root, &bytes("f")).expect("there");
                let file = tree.make(root, &bytes("f"), Kind::File, 0o644).expect("a new name");
                tree.write(file, Some(0), b"of another file").expect("written");
            });
            let shown = if is_open_there { "changed" } else { "content" };
            for handle in [last, first, last] {
                assert_eq!(mount.vfs.read(handle, 0, 20).await.expect("read"), shown);
                let of = crate::vfs::AttributeTarget { ino, handle: Some(handle) };
                let attributes = mount.vfs.attributes(of).await.expect("it is open").0;
                assert_eq!((attributes.links, attributes.size), (0, 7));
            }
        }
    });
}

#[test]
fn a_file_that_is_removed_here_is_opened_at_the_source_first() {
    block_on(async {
        let (mount, ino) = with_kept(b"content").await;
        let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
        mount.vfs.remove(Ino::ROOT, b"f", Removal::Other).await.expect("removed");
        assert_eq!(mount.memory.open_handles(), 1);
        mount.vfs.sync(handle, false).await.expect("it is open");
        assert_eq!(mount.vfs.read(handle, 0, 10).await.expect("read"), "content");
        assert_eq!(mount.vfs.attributes(ino.into()).await.expect("asked").0.links, 0);
    });
}

#[test]
fn a_file_whose_rights_are_changed_here_is_opened_at_the_source_first() {
    block_on(async {
        let (mount, ino) = with_kept(b"content").await;
        let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
        let changes = AttributeChanges { mode: Some(0), ..AttributeChanges::default() };
        let opened = mount.stop(Stop::Replying("open"));
        let vfs = mount.vfs.clone();
        let changed = tokio::spawn(async move { vfs.set_attributes(ino.into(), changes).await });
        opened.reached().await;
        settle().await;
        assert_eq!(mount.memory.calls("set_attributes"), 0, "the handle comes first");
        opened.release();
        changed.await.expect("no panic").expect("changed");
        mount.vfs.sync(handle, false).await.expect("it is open");
    });
}

#[test]
fn what_needs_a_handle_of_the_source_gets_one() {
    block_on(async {
        let lock = Lock { family: LockFamily::Flock, kind: LockKind::Shared, start: 0, end: u64::MAX };
        for what in 0..3 {
            let (mount, ino) = with_kept(b"content").await;
            let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
            assert_eq!(mount.memory.open_handles(), 0);
            match what {
                0 => mount.vfs.lock(handle, 1, lock, false).await.expect("locked"),
                1 => mount.vfs.sync(handle, true).await.expect("synced"),
                _ => {
                    let changes = AttributeChanges { mode: Some(0o600), ..AttributeChanges::default() };
                    let of = crate::vfs::AttributeTarget { ino, handle: Some(handle) };
                    mount.vfs.set_attributes(of, changes).await.expect("changed");
                }
            }
            assert_eq!(mount.memory.open_handles(), 1);
            mount.vfs.release(handle);
            let memory = &mount.memory;
            eventually("it is closed there", || memory.open_handles() == 0).await;
        }
    });
}

#[test]
fn locks_of_one_handle_are_given_back_when_another_is_closed_that_was_opened_here() {
    block_on(async {
        let (mount, ino) = with_kept(b"content").await;
        let locked = mount.vfs.open(ino, BOTH).await.expect("opened").handle;
        let lock = Lock { family: LockFamily::Posix, kind: LockKind::Exclusive, start: 0, end: 9 };
        mount.vfs.lock(locked, 7, lock, false).await.expect("locked");
        let other = mount.vfs.open(ino, READ).await.expect("opened").handle;
        mount.vfs.flush(other, 7, None).await.expect("closed");
        assert_eq!(mount.memory.calls("release_locks"), 1);
    });
}

#[test]
fn a_file_that_stays_open_is_opened_at_the_source_without_being_asked_for() {
    block_on(async {
        let (mount, ino) = with_kept(b"content").await;
        let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
        assert_eq!(mount.memory.open_handles(), 0);
        let memory = &mount.memory;
        eventually("it is opened there", || memory.open_handles() == 1).await;
        settle().await;
        mount.memory.edit(|tree| {
            let root = tree.root;
            tree.unlink(root, &bytes("f")).expect("there")
        });
        mount.vfs.sync(handle, false).await.expect("nobody can take it away any more");
    });
}

#[test]
fn a_file_that_is_open_here_is_open_for_a_successor() {
    let (memory, scratch) = (Memory::new(), tempfile::tempdir().expect("a directory"));
    memory.edit(|tree| {
        let root = tree.root;
        let file = tree.make(root, &bytes("f"), Kind::File, 0o644).expect("a new name");
        tree.write(file, Some(0), b"content").expect("written");
    });
    let (closed, open) = block_on(async {
        let vfs = Mount::fresh(&memory, scratch.path()).vfs;
        let Ok(Looked::Present(view)) = vfs.lookup(Ino::ROOT, b"f").await else { panic!("not there") };
        let mut handles = Vec::new();
        for number in 0..3 {
            let handle = vfs.open(view.ino, READ).await.expect("opened").handle;
            assert_eq!(vfs.read(handle, 0, 10).await.expect("read"), "content");
            if number < 2 {
                vfs.release(handle);
                settle().await;
            }
            handles.push(handle);
        }
        assert_eq!(memory.calls("open"), 1, "all but the first are opened here");
        vfs.commit();
        (handles[1], handles[2])
    });
    block_on(async {
        let restored = Restored::read(scratch.path()).expect("readable").expect("recorded");
        assert!(restored.open_files().iter().all(|(handle, _, _)| *handle != open && *handle != closed));
        let vfs = Mount::successor(&memory, scratch.path()).vfs;
        assert_eq!(vfs.read(closed, 0, 10).await, Err(Errno::EBADF));
        assert_eq!(vfs.read(open, 0, 10).await.expect("read"), "content");
        vfs.release(open);
        eventually("everything is closed", || (memory.open_handles(), vfs.open_files()) == (0, 0)).await;
    });
}

#[test]
fn what_is_open_here_takes_no_more_memory_than_what_is_read_ahead() {
    block_on(async {
        let (mount, ino) = with_kept(&[7; 100 << 10]).await;
        let handles_max = crate::ahead::AHEAD_BYTES_MAX / (100 << 10);
        for _ in 0..handles_max + 10 {
            mount.vfs.open(ino, READ).await.expect("opened");
            assert!(mount.vfs.ahead_bytes() <= crate::ahead::AHEAD_BYTES_MAX);
        }
        settle().await;
        assert!(mount.memory.open_handles() >= 10, "the others are open at the source");
    });
}

#[test]
fn only_a_file_without_holes_tells_from_here_where_its_data_are() {
    block_on(async {
        for (blocks, asked) in [(0, 3), (1, 0)] {
            let mount = Mount::with_files(&["f"], b"content");
            mount.memory.edit(|tree| {
                let file = tree.at("f").expect("there");
                tree.get_mut(file).expect("there").attributes.blocks = blocks;
            });
            let ino = mount.view(Ino::ROOT, "f").await.ino;
            read(&mount, ino).await;
            let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
            assert_eq!(mount.vfs.seek(handle, 2, SeekFor::Data).await, Ok(2));
            assert_eq!(mount.vfs.seek(handle, 2, SeekFor::Hole).await, Ok(7));
            assert_eq!(mount.vfs.seek(handle, 7, SeekFor::Hole).await, Err(Errno::ENXIO));
            assert_eq!(mount.memory.calls("seek"), asked);
        }
    });
}
