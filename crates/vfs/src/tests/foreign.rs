//! What others change on the machine while it is being looked at from here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::file::{Kind, RenameMode};
use crate::table::{Limits, Moment, Table};
use crate::testing::{Event, Tree};
use crate::vfs::AroundPages;

/// Longer than a machine may take and be near.
const FAR: Duration = Duration::from_millis(20);

fn overwrite(mount: &Mount, content: &[u8]) {
    mount.memory.edit(|tree| {
        let file = tree.at("f").expect("there");
        tree.write(file, Some(0), content).expect("written");
    });
}

/// The first half of a write: a machine's kernel changes the times of a file first, and then its bytes.
fn begin_write(tree: &mut Tree) {
    let file = tree.at("f").expect("there");
    let attributes = &mut tree.get_mut(file).expect("there").attributes;
    attributes.modified.seconds += 1;
    attributes.changed = attributes.modified;
}

/// The second half. Then the word of it goes out.
fn end_write(tree: &mut Tree, content: &[u8]) {
    let file = tree.at("f").expect("there");
    tree.get_mut(file).expect("there").content = content.to_vec();
    tree.events.push(Event::Name { directory: tree.root, name: bytes("f") });
}

/// What somebody who opens the file now is given, by the kernel if it keeps its pages.
async fn read_anew(mount: &Mount, ino: Ino) -> Option<Vec<u8>> {
    let opened = mount.vfs.open(ino, READ).await.expect("opened");
    let bytes = mount.vfs.read(opened.handle, 0, 1 << 17).await.expect("read").to_vec();
    mount.vfs.release(opened.handle);
    (!opened.keep_pages).then_some(bytes)
}

/// A mount of one file, which the kernel has seen.
async fn with_file(content: &[u8]) -> (Mount, Ino) {
    let mount = Mount::with_files(&["f"], content);
    let ino = mount.view(Ino::ROOT, "f").await.ino;
    (mount, ino)
}

#[test]
fn of_two_openings_whose_answers_cross_the_older_one_is_not_believed() {
    block_on(async {
        let (mount, ino) = with_file(b"1").await;
        mount.vfs.set_round_trip(Duration::ZERO);
        let openings = [b"22".as_slice(), b"333"].map(|content| {
            let (vfs, gate) = (mount.vfs.clone(), mount.stop(Stop::Replying("open")));
            (content, gate, async move { vfs.open(ino, READ).await.expect("opened") })
        });
        let mut answered = Vec::new();
        for (content, gate, opening) in openings {
            overwrite(&mount, content);
            let opening = tokio::spawn(opening);
            gate.reached().await;
            answered.push((gate, opening));
        }
        for (gate, opening) in answered {
            gate.release();
            opening.await.expect("no panic");
        }
        let size = mount.vfs.attributes(ino.into()).await.expect("asked").0.size;
        assert_eq!(
            size, 3,
            "the later opening reads three bytes, and the kernel cuts them where the file ends"
        );
        assert!(mount.take_notices().contains(&Notice::Content(ino)));
    });
}

#[test]
fn what_was_read_while_it_was_being_written_goes_when_the_word_comes() {
    block_on(async {
        for round_trip in [Duration::ZERO, FAR] {
            let (mount, ino) = with_file(b"old").await;
            mount.vfs.set_round_trip(round_trip);
            mount.memory.edit(begin_write);
            let held = mount.vfs.open(ino, READ).await.expect("opened").handle;
            assert_eq!(mount.vfs.read(held, 0, 9).await.expect("read"), "old");
            mount.take_notices();
            mount.memory.edit(|tree| end_write(tree, b"new"));
            mount.tell_all();
            assert!(
                mount.take_notices().contains(&Notice::Content(ino)),
                "the kernel has pages of the old content"
            );
            assert_eq!(mount.vfs.read(held, 0, 9).await.expect("read"), "new");
            assert_eq!(read_anew(&mount, ino).await.as_deref(), Some(b"new".as_slice()));
        }
    });
}

#[test]
fn of_a_near_source_nothing_is_kept_that_may_have_been_read_while_it_was_being_written() {
    block_on(async {
        let (mount, ino) = with_file(b"old").await;
        mount.vfs.set_round_trip(Duration::ZERO);
        read_anew(&mount, ino).await;
        mount.memory.edit(begin_write);
        read_anew(&mount, ino).await;
        mount.memory.edit(|tree| end_write(tree, b"new"));
        // It is written, and the word of it has not come.
        assert_eq!(read_anew(&mount, ino).await.as_deref(), Some(b"new".as_slice()));
        mount.tell_all();
        assert_eq!(read_anew(&mount, ino).await.as_deref(), Some(b"new".as_slice()));
        assert_eq!(read_anew(&mount, ino).await, None, "the word has come: what was read since is kept");
    });
}

/// What is done to the name or its directory before the machine has looked at the file again, which was changed there.
#[test]
fn what_was_changed_just_before_its_name_was_lost_is_read_by_who_has_it_open() {
    block_on(async {
        let root = |tree: &Tree| tree.root;
        let replaced = |tree: &mut Tree| {
            let other = tree.make(root(tree), &bytes("other"), Kind::File, 0o644).expect("a new name");
            tree.write(other, Some(0), b"another").expect("written");
            let (from, to) = ((root(tree), &bytes("other")), (root(tree), &bytes("f")));
            tree.rename(from, to, RenameMode::Replace).expect("renamed");
        };
        let removed = |tree: &mut Tree| {
            tree.unlink(root(tree), &bytes("f")).expect("there");
        };
        let moved = |tree: &mut Tree| {
            let directory = tree.make(root(tree), &bytes("d"), Kind::Directory, 0o755).expect("a new name");
            let (from, to) = ((root(tree), &bytes("f")), (directory, &bytes("f")));
            tree.rename(from, to, RenameMode::Replace).expect("renamed");
        };
        let unwatched = |tree: &mut Tree| tree.events.push(Event::Ended { directory: tree.root });
        let ways: [&dyn Fn(&mut Tree); 4] = [&replaced, &removed, &moved, &unwatched];
        for (number, way) in ways.into_iter().enumerate() {
            for is_looked_up in [false, true] {
                let (mount, ino) = with_file(b"old").await;
                mount.vfs.set_round_trip(Duration::ZERO);
                let held = mount.vfs.open(ino, READ).await.expect("opened").handle;
                assert_eq!(mount.vfs.read(held, 0, 9).await.expect("read"), "old");
                mount.take_notices();
                mount.memory.edit(|tree| {
                    let file = tree.at("f").expect("there");
                    tree.write(file, Some(0), b"new").expect("written");
                    way(tree);
                });
                if is_looked_up {
                    // An answer is here before the word. That then is no news.
                    mount.vfs.leases_lost();
                    let _gone = mount.vfs.lookup(Ino::ROOT, b"f").await.is_ok();
                }
                mount.tell_all();
                assert!(mount.take_notices().contains(&Notice::Content(ino)), "way {number}, {is_looked_up}");
                assert_eq!(mount.vfs.read(held, 0, 9).await.expect("read"), "new", "way {number}");
            }
        }
    });
}

#[test]
fn a_file_reached_by_a_name_that_is_known_to_be_anothers_is_asked_for_again() {
    block_on(async {
        let (mount, old) = with_file(b"old").await;
        mount.vfs.set_round_trip(Duration::ZERO);
        mount.memory.edit(|tree| {
            let root = tree.root;
            tree.make(root, &bytes("beside"), Kind::File, 0o644).expect("a new name");
            tree.unlink(root, &bytes("f")).expect("there");
            let file = tree.make(root, &bytes("f"), Kind::File, 0o644).expect("a new name");
            tree.write(file, Some(0), b"new").expect("written");
        });
        assert!(mount.vfs.open(old, READ).await.is_err(), "the name is asked for from now on");
        let (vfs, gate) = (mount.vfs.clone(), mount.stop(Stop::Replying("lookup")));
        let looking = tokio::spawn(async move { vfs.lookup(Ino::ROOT, b"f").await });
        gate.reached().await;
        // The answer crosses the word of another name.
        mount.vfs.changed(mount.memory.tell_one(0).expect("told"));
        gate.release();
        let Ok(Ok(Looked::Present(view))) = looking.await else { panic!("it is there") };
        assert_ne!(view.ino, old);
        let (_, believe) = mount.vfs.attributes(view.ino.into()).await.expect("asked");
        // Of the name the table knows the old meaning. When that goes, nothing is said of the new one.
        assert_ne!(believe, crate::table::Believe::Leased);
    });
}

#[test]
fn the_word_of_ones_own_change_takes_nothing_back() {
    block_on(async {
        let (mount, ino) = with_file(b"old").await;
        let writer = mount.vfs.open(ino, BOTH).await.expect("opened").handle;
        mount.write(writer, 0, b"own").await.expect("taken");
        mount.vfs.flush(writer, 0, None).await.expect("closed");
        mount.take_notices();
        // As a machine tells it whose clock is too coarse to tell one change from another.
        mount.memory.edit(|tree| tree.events.push(Event::Name { directory: tree.root, name: bytes("f") }));
        mount.tell_all();
        assert_eq!(mount.take_notices(), []);
    });
}

#[test]
fn pages_and_attributes_that_the_kernel_has_not_dropped_yet_are_not_kept() {
    block_on(async {
        for round_trip in [Duration::ZERO, FAR] {
            let (mount, ino) = with_file(b"old").await;
            mount.vfs.set_round_trip(round_trip);
            read_anew(&mount, ino).await;
            overwrite(&mount, b"longer");
            mount.tell_all();
            mount.notices.is_late.store(true, Ordering::Relaxed);
            for _ in 0..3 {
                let opened = mount.vfs.open(ino, READ).await.expect("opened");
                assert!(!opened.keep_pages && opened.attributes_changed, "{opened:?}");
            }
            mount.take_notices();
            let opened = mount.vfs.open(ino, READ).await.expect("opened");
            assert!(opened.keep_pages && !opened.attributes_changed, "{opened:?}");
        }
    });
}

#[test]
fn what_others_have_just_changed_is_read_around_pages_of_which_the_kernel_may_mistake_the_end() {
    block_on(async {
        let (mount, ino) = with_file(b"content").await;
        mount.vfs.set_round_trip(Duration::ZERO);
        let around = async |flags| mount.vfs.open(ino, flags).await.expect("opened").around_pages;
        assert_eq!(around(READ).await, AroundPages::No, "it is as the kernel was told");
        overwrite(&mount, b"CONTENT");
        assert_eq!(around(READ).await, AroundPages::IfMappable, "the word of it has not come");
        mount.tell_all();
        assert_eq!(around(READ).await, AroundPages::IfMappable, "nor has all of it, perhaps");
        assert_eq!(around(BOTH).await, AroundPages::No, "a writer's pages are those of its mappings");
    });
}

#[test]
fn what_was_changed_from_here_is_read_by_the_kernels_pages() {
    block_on(async {
        let (mount, ino) = with_file(b"content").await;
        mount.vfs.set_round_trip(Duration::ZERO);
        let writer = mount.vfs.open(ino, BOTH).await.expect("opened").handle;
        mount.write(writer, 0, b"longer than before").await.expect("taken");
        mount.vfs.flush(writer, 0, None).await.expect("closed");
        mount.tell_all();
        assert_eq!(mount.vfs.open(ino, READ).await.expect("opened").around_pages, AroundPages::No);
    });
}

#[test]
fn a_far_source_is_believed_to_have_told() {
    block_on(async {
        let (mount, ino) = with_file(b"content").await;
        mount.vfs.set_round_trip(FAR);
        overwrite(&mount, b"CONTENT");
        mount.tell_all();
        assert_eq!(mount.vfs.open(ino, READ).await.expect("opened").around_pages, AroundPages::No);
    });
}

#[test]
fn what_the_kernel_was_told_a_second_ago_is_not_told_again() {
    let mut table = Table::new(Memory::new().root(), Limits::default(), Moment(0));
    assert!(!table.was_retold_lately(Ino::ROOT, Moment(0)));
    table.begin_telling(&[Notice::Attributes(Ino::ROOT)], Moment(5));
    assert!(!table.was_retold_lately(Ino::ROOT, Moment(5)), "its content is what it was");
    table.begin_telling(&[Notice::Content(Ino::ROOT)], Moment(5));
    let lately = [5, 1004, 1005].map(|now| table.was_retold_lately(Ino::ROOT, Moment(now)));
    assert_eq!(lately, [true, true, false]);
}

#[test]
fn a_listing_that_the_kernel_has_not_dropped_yet_is_not_kept() {
    block_on(async {
        let (mount, _) = with_file(b"").await;
        let list = async || {
            let opened = mount.vfs.open_directory(Ino::ROOT).await.expect("opened");
            let mut cookie = 0;
            while cookie != u64::MAX {
                let from = std::mem::replace(&mut cookie, u64::MAX);
                let take = |item: crate::vfs::DirectoryItem<'_>| {
                    cookie = item.cookie;
                    true
                };
                mount.vfs.read_directory(opened.handle, from, true, take).await.expect("read");
            }
            mount.vfs.release_directory(opened.handle);
            opened.keep_listing
        };
        list().await;
        assert!(list().await, "all of it is known");
        mount.memory.edit(|tree| {
            let root = tree.root;
            tree.make(root, &bytes("g"), Kind::File, 0o644).expect("a new name");
        });
        mount.notices.is_late.store(true, Ordering::Relaxed);
        mount.tell_all();
        mount.vfs.set_round_trip(Duration::ZERO);
        assert!(!list().await);
        assert!(!list().await, "it is known again, and the kernel may have the old one");
        mount.take_notices();
        assert!(list().await);
    });
}

#[test]
fn a_listing_of_which_a_part_is_given_after_a_change_is_taken_back() {
    block_on(async {
        let names: Vec<_> = (0..6).map(|number| format!("n{number}")).collect();
        let mount = Mount::with_files(&names.iter().map(String::as_str).collect::<Vec<_>>(), b"");
        mount.memory.list_by(100);
        let opened = mount.vfs.open_directory(Ino::ROOT).await.expect("opened");
        let mut cookie = 0;
        for is_changed in [false, true] {
            let (from, mut room) = (cookie, 4);
            let take = |item: crate::vfs::DirectoryItem<'_>| {
                room -= 1;
                if room > 0 {
                    cookie = item.cookie;
                }
                room > 0
            };
            mount.take_notices();
            mount.vfs.read_directory(opened.handle, from, false, take).await.expect("read");
            assert_eq!(mount.take_notices().contains(&Notice::Listing(Ino::ROOT)), is_changed);
            mount.memory.edit(|tree| tree.unlink(tree.root, &bytes("n5")).expect("there"));
            mount.tell_all();
            mount.memory.edit(|tree| {
                let root = tree.root;
                tree.make(root, &bytes("n5"), Kind::File, 0o644).expect("a new name");
            });
            mount.tell_all();
        }
    });
}

/// Keeps those who have learnt something from telling it.
#[derive(Default)]
struct Held(Mutex<()>);

impl Kernel for Held {
    fn notify(&self, _notices: Vec<Notice>) {
        drop(self.0.lock());
    }
}

#[test]
fn who_opens_what_another_has_learnt_and_not_told_is_not_left_with_what_the_kernel_has() {
    let (memory, kernel) = (Memory::new(), Arc::new(Held::default()));
    memory.edit(|tree| {
        let file = tree.make(tree.root, &bytes("f"), Kind::File, 0o644).expect("a new name");
        tree.write(file, Some(0), b"old").expect("written");
    });
    let vfs = Vfs::new(memory.clone(), memory.root(), Options::default(), kernel.clone());
    vfs.set_round_trip(Duration::ZERO);
    let mount = Mount { memory, vfs, notices: Arc::default() };
    let ino = block_on(mount.view(Ino::ROOT, "f")).ino;
    overwrite(&mount, b"longer");
    let held = kernel.0.lock();
    std::thread::scope(|scope| {
        let vfs = &mount.vfs;
        let learning = scope.spawn(|| block_on(vfs.open(ino, READ)).expect("opened"));
        let until = Instant::now() + DEADLINE;
        while vfs.last_attributes(ino).expect("known").size < 6 {
            assert!(Instant::now() < until, "the change is learnt");
            std::thread::yield_now();
        }
        let opened = block_on(vfs.open(ino, READ)).expect("opened");
        drop(held);
        assert!(opened.attributes_changed, "the kernel would read up to the old end");
        assert!(learning.join().expect("no panic").attributes_changed);
    });
}
